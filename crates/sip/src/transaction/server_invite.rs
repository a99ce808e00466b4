//! INVITE server transaction (RFC 3261 §17.2.1 and figure 7, RFC 6026 §7.1).
//!
//! ```text
//! state       event                  action                         next state
//! ----------  ---------------------  -----------------------------  ----------------------------
//! (start)     INVITE came            -                              Proceeding
//! Proceeding  INVITE again           Retransmit the last 1xx;       Proceeding
//!                                    Absorb if none was sent yet
//! Proceeding  1xx is sent            None                           Proceeding
//! Proceeding  2xx is sent            None, arm L = 64*T1            Accepted
//! Proceeding  300-699 is sent        None, arm G = T1 (datagram),   Completed
//!                                    arm H = 64*T1
//! Completed   INVITE again           Retransmit                     Completed
//! Completed   timer G                Retransmit, G = min(2*G, T2)   Completed
//! Completed   timer H                Timeout                        Terminated
//! Completed   ACK                    Absorb, arm I                  Confirmed
//! Completed   any response is sent   Absorb                         Completed
//! Confirmed   INVITE, ACK            Absorb                         Confirmed
//! Confirmed   timer I                Terminated                     Terminated
//! Accepted    INVITE again           Absorb                         Accepted
//! Accepted    ACK                    PassUp                         Accepted
//! Accepted    2xx is sent            None                           Accepted
//! Accepted    other is sent          Absorb                         Accepted
//! Accepted    timer L                Terminated                     Terminated
//! ```
//!
//! I is T4 over datagrams and zero on a stream; H and L are 64*T1 on both. Who sends a 2xx retransmits it himself: the
//! machine never does, a proxy just relays each one that comes.

use super::{Link, ServerAction, StatusClass, Timing, backoff, earlier, first_retransmission, linger};
use crate::time::Instant;

/// An INVITE that was received. See the [module](super) on how to drive it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InviteServer {
    /// No final response was sent yet.
    Proceeding {
        /// What the INVITE came over.
        link: Link,
        /// A 1xx was sent, so that there is something to send again.
        provisional_sent: bool,
    },
    /// A final failure was sent and waits for its ACK.
    Completed {
        /// What the INVITE came over.
        link: Link,
        /// Timer G; a stream has none.
        retransmit_at: Option<Instant>,
        /// Retransmissions by timer G so far.
        retransmissions: u8,
        /// Timer H.
        timeout_at: Instant,
    },
    /// The ACK of a final failure came.
    Confirmed {
        /// Timer I.
        until: Instant,
    },
    /// A 2xx was sent (RFC 6026).
    Accepted {
        /// Timer L.
        until: Instant,
    },
    /// Over.
    Terminated,
}

impl InviteServer {
    /// The INVITE came for the first time. The owner sends a 100 unless another response follows within 200 ms.
    pub fn start(link: Link) -> Self {
        Self::Proceeding { link, provisional_sent: false }
    }

    /// The same INVITE came again.
    pub fn on_request(self) -> (Self, ServerAction) {
        match self {
            Self::Proceeding { provisional_sent: true, .. } | Self::Completed { .. } => {
                (self, ServerAction::Retransmit)
            }
            _ => (self, ServerAction::Absorb),
        }
    }

    /// An ACK with the key of the INVITE came.
    pub fn on_ack(self, now: Instant, timing: &Timing) -> (Self, ServerAction) {
        match self {
            Self::Completed { link, .. } => {
                (Self::Confirmed { until: now + linger(link, timing.t4) }, ServerAction::Absorb)
            }
            Self::Accepted { .. } => (self, ServerAction::PassUp),
            _ => (self, ServerAction::Absorb),
        }
    }

    /// The owner is about to send this response: [`ServerAction::None`] lets it, and it keeps the octets of a 1xx or a
    /// failure for [`ServerAction::Retransmit`]; [`ServerAction::Absorb`] forbids it.
    pub fn on_send_response(self, now: Instant, code: u16, timing: &Timing) -> (Self, ServerAction) {
        match (self, StatusClass::of(code)) {
            (Self::Proceeding { link, .. }, StatusClass::Provisional) => {
                (Self::Proceeding { link, provisional_sent: true }, ServerAction::None)
            }
            (Self::Proceeding { .. }, StatusClass::Success) => {
                (Self::Accepted { until: now + timing.transaction_timeout() }, ServerAction::None)
            }
            (Self::Proceeding { link, .. }, StatusClass::Failure) => {
                let completed = Self::Completed {
                    link,
                    retransmit_at: first_retransmission(now, link, timing),
                    retransmissions: 0,
                    timeout_at: now + timing.transaction_timeout(),
                };
                (completed, ServerAction::None)
            }
            (Self::Accepted { .. }, StatusClass::Success) => (self, ServerAction::None),
            (_, _) => (self, ServerAction::Absorb),
        }
    }

    /// Fires what is due; to be called when `now` has reached [`deadline`](Self::deadline).
    pub fn on_timer(self, now: Instant, timing: &Timing) -> (Self, ServerAction) {
        match self {
            Self::Completed { timeout_at, .. } if now >= timeout_at => (Self::Terminated, ServerAction::Timeout),
            Self::Completed { link, retransmit_at: Some(due), retransmissions, timeout_at } if now >= due => {
                let retransmissions = retransmissions.saturating_add(1);
                // Counted from now and not from `due`: a process that was stopped for a while must not catch up in a burst.
                let retransmit_at = Some(now + backoff(timing, retransmissions).min(timing.t2));
                (Self::Completed { link, retransmit_at, retransmissions, timeout_at }, ServerAction::Retransmit)
            }
            Self::Confirmed { until } | Self::Accepted { until } if now >= until => {
                (Self::Terminated, ServerAction::Terminated)
            }
            _ => (self, ServerAction::None),
        }
    }

    /// When [`on_timer`](Self::on_timer) has something to do; `None` while the owner has not answered finally.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            Self::Completed { retransmit_at, timeout_at, .. } => Some(earlier(retransmit_at, timeout_at)),
            Self::Confirmed { until } | Self::Accepted { until } => Some(until),
            Self::Proceeding { .. } | Self::Terminated => None,
        }
    }

    /// No final response was sent yet.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Proceeding { .. })
    }

    /// A final failure was sent and its ACK has not come.
    pub fn is_completed(&self) -> bool {
        matches!(self, Self::Completed { .. })
    }

    /// A 2xx was sent.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }

    /// The transaction is over and can be forgotten.
    pub fn is_terminated(&self) -> bool {
        matches!(self, Self::Terminated)
    }
}

#[cfg(test)]
mod tests {
    use super::super::at;
    use super::*;

    const TIMING: Timing = Timing::DEFAULT;

    fn sent(machine: InviteServer, milliseconds: u64, code: u16) -> (InviteServer, ServerAction) {
        machine.on_send_response(at(milliseconds), code, &TIMING)
    }

    fn acknowledged(machine: InviteServer, milliseconds: u64) -> (InviteServer, ServerAction) {
        machine.on_ack(at(milliseconds), &TIMING)
    }

    /// Lets every timer fire at its exact moment and lists the moments in milliseconds.
    fn fire_all(mut machine: InviteServer) -> Vec<(u64, ServerAction)> {
        let mut fired = Vec::new();
        while let Some(deadline) = machine.deadline() {
            let (next, action) = machine.on_timer(deadline, &TIMING);
            fired.push((deadline.as_micros() / 1_000, action));
            assert!(fired.len() < 64, "the machine never comes to rest");
            machine = next;
        }
        assert!(machine.is_terminated());
        fired
    }

    #[test]
    fn proceeding_repeats_the_last_1xx_once_there_is_one() {
        let machine = InviteServer::start(Link::Datagram);
        assert!(machine.is_pending());
        assert_eq!(machine.deadline(), None);
        assert_eq!(machine.on_request(), (machine, ServerAction::Absorb));
        let (machine, action) = sent(machine, 200, 100);
        assert_eq!(action, ServerAction::None);
        assert_eq!(machine.on_request(), (machine, ServerAction::Retransmit));
        assert_eq!(sent(machine, 300, 180), (machine, ServerAction::None));
        assert_eq!(machine.deadline(), None, "an INVITE may ring for ever as far as the transaction goes");
    }

    #[test]
    fn an_ack_in_proceeding_is_dropped() {
        let machine = InviteServer::start(Link::Datagram);
        assert_eq!(acknowledged(machine, 1), (machine, ServerAction::Absorb));
    }

    #[test]
    fn timer_g_doubles_up_to_t2_until_timer_h_at_32_seconds() {
        let (completed, action) = sent(InviteServer::start(Link::Datagram), 0, 486);
        assert_eq!(action, ServerAction::None);
        assert!(completed.is_completed());
        let fired = fire_all(completed);
        let moments: Vec<u64> = fired.iter().map(|(moment, _)| *moment).collect();
        assert_eq!(moments, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500, 32_000]);
        assert_eq!(fired.last(), Some(&(32_000, ServerAction::Timeout)));
        assert_eq!(fired.iter().filter(|(_, action)| *action == ServerAction::Retransmit).count(), 10);
    }

    #[test]
    fn a_stream_has_no_timer_g_but_timer_h() {
        let (completed, _) = sent(InviteServer::start(Link::Stream), 0, 486);
        assert_eq!(fire_all(completed), [(32_000, ServerAction::Timeout)]);
    }

    #[test]
    fn completed_answers_a_retransmission_and_allows_no_second_answer() {
        let (completed, _) = sent(InviteServer::start(Link::Datagram), 0, 486);
        assert_eq!(completed.on_request(), (completed, ServerAction::Retransmit));
        for code in [180, 200, 500] {
            assert_eq!(sent(completed, 100, code), (completed, ServerAction::Absorb), "{code}");
        }
    }

    #[test]
    fn an_ack_confirms_for_timer_i_of_5_seconds() {
        let (completed, _) = sent(InviteServer::start(Link::Datagram), 0, 486);
        let (confirmed, action) = acknowledged(completed, 250);
        assert_eq!(action, ServerAction::Absorb);
        assert_eq!(confirmed, InviteServer::Confirmed { until: at(5_250) });
        assert_eq!(confirmed.on_request(), (confirmed, ServerAction::Absorb));
        assert_eq!(acknowledged(confirmed, 300), (confirmed, ServerAction::Absorb));
        assert_eq!(sent(confirmed, 300, 200), (confirmed, ServerAction::Absorb));
        assert_eq!(fire_all(confirmed), [(5_250, ServerAction::Terminated)]);
    }

    #[test]
    fn timer_i_is_zero_on_a_stream() {
        let (completed, _) = sent(InviteServer::start(Link::Stream), 0, 486);
        let (confirmed, _) = acknowledged(completed, 250);
        assert_eq!(fire_all(confirmed), [(250, ServerAction::Terminated)]);
    }

    #[test]
    fn a_2xx_leads_to_accepted_for_timer_l_of_32_seconds_on_every_link() {
        for link in [Link::Datagram, Link::Stream] {
            let (accepted, action) = sent(InviteServer::start(link), 1_000, 200);
            assert_eq!(action, ServerAction::None);
            assert!(accepted.is_accepted());
            assert_eq!(fire_all(accepted), [(33_000, ServerAction::Terminated)]);
        }
    }

    #[test]
    fn accepted_absorbs_the_invite_passes_the_ack_and_lets_each_2xx_out() {
        let (accepted, _) = sent(InviteServer::start(Link::Datagram), 0, 200);
        assert_eq!(accepted.on_request(), (accepted, ServerAction::Absorb));
        assert_eq!(acknowledged(accepted, 10), (accepted, ServerAction::PassUp));
        assert_eq!(acknowledged(accepted, 20), (accepted, ServerAction::PassUp));
        assert_eq!(sent(accepted, 500, 200), (accepted, ServerAction::None));
        for code in [100, 180, 486] {
            assert_eq!(sent(accepted, 500, code), (accepted, ServerAction::Absorb), "{code}");
        }
    }

    #[test]
    fn a_code_outside_sip_is_never_sent() {
        let machine = InviteServer::start(Link::Datagram);
        for code in [0, 99, 700] {
            assert_eq!(sent(machine, 0, code), (machine, ServerAction::Absorb), "{code}");
        }
    }

    #[test]
    fn terminated_drops_everything() {
        let terminated = InviteServer::Terminated;
        assert_eq!(terminated.on_request(), (terminated, ServerAction::Absorb));
        assert_eq!(acknowledged(terminated, 0), (terminated, ServerAction::Absorb));
        assert_eq!(sent(terminated, 0, 200), (terminated, ServerAction::Absorb));
        assert_eq!(terminated.deadline(), None);
    }

    #[test]
    fn an_early_timer_changes_nothing_and_a_late_one_sends_once() {
        let (completed, _) = sent(InviteServer::start(Link::Datagram), 0, 486);
        let (confirmed, _) = acknowledged(completed, 250);
        let (accepted, _) = sent(InviteServer::start(Link::Datagram), 0, 200);
        for (machine, milliseconds) in [(completed, 499), (confirmed, 5_249), (accepted, 31_999)] {
            assert_eq!(machine.on_timer(at(milliseconds), &TIMING), (machine, ServerAction::None), "{machine:?}");
        }
        let (machine, action) = completed.on_timer(at(20_000), &TIMING);
        assert_eq!(action, ServerAction::Retransmit);
        assert_eq!(machine.deadline(), Some(at(21_000)));
    }

    #[test]
    fn each_state_says_what_it_is_and_nothing_else() {
        let until = at(1);
        // Pending, completed, accepted, terminated; Confirmed is none of these.
        for (machine, wanted) in [
            (InviteServer::start(Link::Datagram), [true, false, false, false]),
            (sent(InviteServer::start(Link::Datagram), 0, 486).0, [false, true, false, false]),
            (InviteServer::Confirmed { until }, [false, false, false, false]),
            (InviteServer::Accepted { until }, [false, false, true, false]),
            (InviteServer::Terminated, [false, false, false, true]),
        ] {
            let said = [machine.is_pending(), machine.is_completed(), machine.is_accepted(), machine.is_terminated()];
            assert_eq!(said, wanted, "{machine:?}");
        }
    }
}
