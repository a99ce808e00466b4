//! INVITE client transaction (RFC 3261 §17.1.1 and figure 5, RFC 6026 §7.2).
//!
//! ```text
//! state       event                  action                         next state
//! ----------  ---------------------  -----------------------------  ----------------------------
//! (start)     INVITE was sent        arm A = T1 (datagram), B       Calling
//! Calling     timer A                Retransmit, A doubles          Calling
//! Calling     timer B = 64*T1        Timeout                        Terminated
//! Calling     1xx                    PassUp, A and B stop           Proceeding
//! Calling     2xx                    PassUp, arm M = 64*T1          Accepted
//! Calling     300-699                PassUpAndAck, arm D            Completed
//! Proceeding  1xx                    PassUp                         Proceeding
//! Proceeding  2xx                    PassUp, arm M = 64*T1          Accepted
//! Proceeding  300-699                PassUpAndAck, arm D            Completed
//! Completed   300-699                Ack                            Completed
//! Completed   1xx, 2xx               Absorb                         Completed
//! Completed   timer D                Terminated                     Terminated
//! Accepted    2xx                    PassUp                         Accepted
//! Accepted    1xx, 300-699           Absorb                         Accepted
//! Accepted    timer M                Terminated                     Terminated
//! ```
//!
//! D is 32 s over datagrams and zero on a stream; M is 64*T1 on both, since further 2xx may come from other branches of a
//! fork downstream. In Proceeding no timer runs: how long an INVITE may ring is the owner's timer C.

use super::{ClientAction, Link, StatusClass, Timing, backoff, earlier, first_retransmission, linger};
use crate::time::Instant;

/// An INVITE that was sent. See the [module](super) on how to drive it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InviteClient {
    /// No response yet.
    Calling {
        /// What the INVITE was sent over.
        link: Link,
        /// Timer A; a stream has none.
        retransmit_at: Option<Instant>,
        /// Retransmissions sent so far.
        retransmissions: u8,
        /// Timer B.
        timeout_at: Instant,
    },
    /// A provisional response came.
    Proceeding {
        /// What the INVITE was sent over.
        link: Link,
    },
    /// A final failure came and was acknowledged.
    Completed {
        /// Timer D.
        until: Instant,
    },
    /// A 2xx came (RFC 6026).
    Accepted {
        /// Timer M.
        until: Instant,
    },
    /// Over.
    Terminated,
}

impl InviteClient {
    /// The owner has just sent the INVITE for the first time.
    pub fn start(now: Instant, link: Link, timing: &Timing) -> Self {
        Self::Calling {
            link,
            retransmit_at: first_retransmission(now, link, timing),
            retransmissions: 0,
            timeout_at: now + timing.transaction_timeout(),
        }
    }

    /// A response with this status code matched the transaction (RFC 3261 §17.1.3).
    pub fn on_response(self, now: Instant, code: u16, timing: &Timing) -> (Self, ClientAction) {
        match (self, StatusClass::of(code)) {
            (Self::Calling { link, .. } | Self::Proceeding { link }, StatusClass::Provisional) => {
                (Self::Proceeding { link }, ClientAction::PassUp)
            }
            (Self::Calling { .. } | Self::Proceeding { .. }, StatusClass::Success) => {
                (Self::Accepted { until: now + timing.transaction_timeout() }, ClientAction::PassUp)
            }
            (Self::Calling { link, .. } | Self::Proceeding { link }, StatusClass::Failure) => {
                (Self::Completed { until: now + linger(link, timing.timer_d) }, ClientAction::PassUpAndAck)
            }
            (Self::Completed { .. }, StatusClass::Failure) => (self, ClientAction::Ack),
            (Self::Accepted { .. }, StatusClass::Success) => (self, ClientAction::PassUp),
            (_, _) => (self, ClientAction::Absorb),
        }
    }

    /// Fires what is due; to be called when `now` has reached [`deadline`](Self::deadline).
    pub fn on_timer(self, now: Instant, timing: &Timing) -> (Self, ClientAction) {
        match self {
            Self::Calling { timeout_at, .. } if now >= timeout_at => (Self::Terminated, ClientAction::Timeout),
            Self::Calling { link, retransmit_at: Some(due), retransmissions, timeout_at } if now >= due => {
                let retransmissions = retransmissions.saturating_add(1);
                // Counted from now and not from `due`: a process that was stopped for a while must not catch up in a burst.
                let retransmit_at = Some(now + backoff(timing, retransmissions));
                (Self::Calling { link, retransmit_at, retransmissions, timeout_at }, ClientAction::Retransmit)
            }
            Self::Completed { until } | Self::Accepted { until } if now >= until => {
                (Self::Terminated, ClientAction::Terminated)
            }
            _ => (self, ClientAction::None),
        }
    }

    /// When [`on_timer`](Self::on_timer) has something to do; `None` while only a response can move the machine.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            Self::Calling { retransmit_at, timeout_at, .. } => Some(earlier(retransmit_at, timeout_at)),
            Self::Completed { until } | Self::Accepted { until } => Some(until),
            Self::Proceeding { .. } | Self::Terminated => None,
        }
    }

    /// A provisional response came and no final one yet: only now may a CANCEL be sent (RFC 3261 §9.1).
    pub fn answered_provisionally(&self) -> bool {
        matches!(self, Self::Proceeding { .. })
    }

    /// No final response came and the transaction still waits for one.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Calling { .. } | Self::Proceeding { .. })
    }

    /// A final failure came.
    pub fn is_completed(&self) -> bool {
        matches!(self, Self::Completed { .. })
    }

    /// A 2xx came.
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

    fn started(link: Link) -> InviteClient {
        InviteClient::start(at(0), link, &TIMING)
    }

    fn after(machine: InviteClient, milliseconds: u64, code: u16) -> (InviteClient, ClientAction) {
        machine.on_response(at(milliseconds), code, &TIMING)
    }

    /// Lets every timer fire at its exact moment and lists the moments in milliseconds.
    fn fire_all(mut machine: InviteClient) -> Vec<(u64, ClientAction)> {
        let mut fired = Vec::new();
        while let Some(deadline) = machine.deadline() {
            let (next, action) = machine.on_timer(deadline, &TIMING);
            fired.push((deadline.as_micros() / 1_000, action));
            assert!(fired.len() < 64, "the machine never comes to rest");
            machine = next;
        }
        assert!(!machine.is_pending() || machine.answered_provisionally());
        fired
    }

    #[test]
    fn timer_a_doubles_without_a_cap_until_timer_b_at_32_seconds() {
        let fired = fire_all(started(Link::Datagram));
        assert_eq!(
            fired,
            [
                (500, ClientAction::Retransmit),
                (1_500, ClientAction::Retransmit),
                (3_500, ClientAction::Retransmit),
                (7_500, ClientAction::Retransmit),
                (15_500, ClientAction::Retransmit),
                (31_500, ClientAction::Retransmit),
                (32_000, ClientAction::Timeout),
            ]
        );
    }

    #[test]
    fn a_stream_has_no_timer_a_but_timer_b() {
        assert_eq!(fire_all(started(Link::Stream)), [(32_000, ClientAction::Timeout)]);
    }

    #[test]
    fn calling_goes_to_proceeding_on_1xx_and_stops_both_timers() {
        let (machine, action) = after(started(Link::Datagram), 100, 100);
        assert_eq!(action, ClientAction::PassUp);
        assert_eq!(machine, InviteClient::Proceeding { link: Link::Datagram });
        assert_eq!(machine.deadline(), None);
        assert!(machine.answered_provisionally() && machine.is_pending());
        let (machine, action) = machine.on_timer(at(60_000), &TIMING);
        assert_eq!(action, ClientAction::None);
        assert!(machine.answered_provisionally());
    }

    #[test]
    fn proceeding_passes_every_1xx_up() {
        let (mut machine, _) = after(started(Link::Datagram), 100, 100);
        for code in [180, 183, 199] {
            let (next, action) = after(machine, 200, code);
            assert_eq!((next, action), (machine, ClientAction::PassUp), "{code}");
            machine = next;
        }
    }

    #[test]
    fn a_2xx_leads_to_accepted_for_timer_m_of_32_seconds_on_every_link() {
        for link in [Link::Datagram, Link::Stream] {
            let calling = started(link);
            let (proceeding, _) = after(calling, 100, 180);
            for machine in [calling, proceeding] {
                let (accepted, action) = after(machine, 2_000, 200);
                assert_eq!(action, ClientAction::PassUp);
                assert_eq!(accepted, InviteClient::Accepted { until: at(34_000) });
                assert!(accepted.is_accepted() && !accepted.is_pending());
                assert_eq!(fire_all(accepted), [(34_000, ClientAction::Terminated)]);
            }
        }
    }

    #[test]
    fn accepted_passes_every_2xx_up_and_drops_the_rest() {
        let (accepted, _) = after(started(Link::Datagram), 0, 200);
        for (code, expected) in [
            (200, ClientAction::PassUp),
            (202, ClientAction::PassUp),
            (180, ClientAction::Absorb),
            (486, ClientAction::Absorb),
        ] {
            assert_eq!(after(accepted, 31_999, code), (accepted, expected), "{code}");
        }
    }

    #[test]
    fn a_failure_is_acknowledged_and_kept_for_timer_d_of_32_seconds() {
        let calling = started(Link::Datagram);
        let (proceeding, _) = after(calling, 100, 180);
        for machine in [calling, proceeding] {
            for code in [302, 401, 486, 503, 603] {
                let (completed, action) = after(machine, 1_000, code);
                assert_eq!(action, ClientAction::PassUpAndAck, "{code}");
                assert!(completed.is_completed() && !completed.is_pending());
                assert_eq!(fire_all(completed), [(33_000, ClientAction::Terminated)], "{code}");
            }
        }
    }

    #[test]
    fn timer_d_is_zero_on_a_stream() {
        let (completed, action) = after(started(Link::Stream), 1_000, 486);
        assert_eq!(action, ClientAction::PassUpAndAck);
        assert_eq!(fire_all(completed), [(1_000, ClientAction::Terminated)]);
    }

    #[test]
    fn completed_acknowledges_each_retransmitted_failure_and_drops_the_rest() {
        let (completed, _) = after(started(Link::Datagram), 0, 486);
        for (code, expected) in [
            (486, ClientAction::Ack),
            (487, ClientAction::Ack),
            (180, ClientAction::Absorb),
            (200, ClientAction::Absorb),
        ] {
            assert_eq!(after(completed, 500, code), (completed, expected), "{code}");
        }
    }

    #[test]
    fn a_code_outside_sip_moves_nothing() {
        for machine in [started(Link::Datagram), after(started(Link::Datagram), 0, 180).0] {
            for code in [0, 99, 700, 999] {
                assert_eq!(after(machine, 1, code), (machine, ClientAction::Absorb), "{code}");
            }
        }
    }

    #[test]
    fn terminated_drops_everything() {
        let (terminated, _) = started(Link::Datagram).on_timer(at(32_000), &TIMING);
        assert!(terminated.is_terminated());
        assert_eq!(terminated.deadline(), None);
        for code in [180, 200, 486] {
            assert_eq!(after(terminated, 32_001, code), (terminated, ClientAction::Absorb), "{code}");
        }
    }

    #[test]
    fn an_early_timer_changes_nothing() {
        let calling = started(Link::Datagram);
        assert_eq!(calling.on_timer(at(499), &TIMING), (calling, ClientAction::None));
        let (accepted, _) = after(calling, 0, 200);
        assert_eq!(accepted.on_timer(at(31_999), &TIMING), (accepted, ClientAction::None));
    }

    #[test]
    fn a_late_timer_sends_once_and_not_in_a_burst() {
        let (machine, action) = started(Link::Datagram).on_timer(at(10_000), &TIMING);
        assert_eq!(action, ClientAction::Retransmit);
        assert_eq!(machine.deadline(), Some(at(11_000)));
    }

    #[test]
    fn each_state_says_what_it_is_and_nothing_else() {
        let until = at(1);
        // Pending, answered provisionally, completed, accepted, terminated.
        for (machine, wanted) in [
            (started(Link::Datagram), [true, false, false, false, false]),
            (InviteClient::Proceeding { link: Link::Datagram }, [true, true, false, false, false]),
            (InviteClient::Completed { until }, [false, false, true, false, false]),
            (InviteClient::Accepted { until }, [false, false, false, true, false]),
            (InviteClient::Terminated, [false, false, false, false, true]),
        ] {
            let said = [
                machine.is_pending(),
                machine.answered_provisionally(),
                machine.is_completed(),
                machine.is_accepted(),
                machine.is_terminated(),
            ];
            assert_eq!(said, wanted, "{machine:?}");
        }
    }
}
