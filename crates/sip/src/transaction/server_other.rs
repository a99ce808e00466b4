//! Server transaction of every request but INVITE and ACK (RFC 3261 §17.2.2 and figure 8).
//!
//! ```text
//! state       event                  action                         next state
//! ----------  ---------------------  -----------------------------  ----------------------------
//! (start)     request came           -                              Trying
//! Trying      request again          Absorb                         Trying
//! Trying      1xx is sent            None                           Proceeding
//! Trying      200-699 is sent        None, arm J                    Completed
//! Proceeding  request again          Retransmit the last 1xx        Proceeding
//! Proceeding  1xx is sent            None                           Proceeding
//! Proceeding  200-699 is sent        None, arm J                    Completed
//! Completed   request again          Retransmit the final response  Completed
//! Completed   any response is sent   Absorb                         Completed
//! Completed   timer J                Terminated                     Terminated
//! ```
//!
//! J is 64*T1 over datagrams and zero on a stream.

use super::{Link, ServerAction, StatusClass, Timing, linger};
use crate::time::Instant;

/// A request other than INVITE and ACK that was received. See the [module](super) on how to drive it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OtherServer {
    /// No response was sent yet.
    Trying {
        /// What the request came over.
        link: Link,
    },
    /// A provisional response was sent.
    Proceeding {
        /// What the request came over.
        link: Link,
    },
    /// The final response was sent.
    Completed {
        /// Timer J.
        until: Instant,
    },
    /// Over.
    Terminated,
}

impl OtherServer {
    /// The request came for the first time.
    pub fn start(link: Link) -> Self {
        Self::Trying { link }
    }

    /// The same request came again.
    pub fn on_request(self) -> (Self, ServerAction) {
        match self {
            Self::Proceeding { .. } | Self::Completed { .. } => (self, ServerAction::Retransmit),
            Self::Trying { .. } | Self::Terminated => (self, ServerAction::Absorb),
        }
    }

    /// The owner is about to send this response: [`ServerAction::None`] lets it, and it keeps the octets for
    /// [`ServerAction::Retransmit`]; [`ServerAction::Absorb`] forbids it.
    pub fn on_send_response(self, now: Instant, code: u16, timing: &Timing) -> (Self, ServerAction) {
        match (self, StatusClass::of(code)) {
            (Self::Trying { link } | Self::Proceeding { link }, StatusClass::Provisional) => {
                (Self::Proceeding { link }, ServerAction::None)
            }
            (Self::Trying { link } | Self::Proceeding { link }, StatusClass::Success | StatusClass::Failure) => {
                (Self::Completed { until: now + linger(link, timing.transaction_timeout()) }, ServerAction::None)
            }
            (_, _) => (self, ServerAction::Absorb),
        }
    }

    /// Fires what is due; to be called when `now` has reached [`deadline`](Self::deadline).
    pub fn on_timer(self, now: Instant, _timing: &Timing) -> (Self, ServerAction) {
        match self {
            Self::Completed { until } if now >= until => (Self::Terminated, ServerAction::Terminated),
            _ => (self, ServerAction::None),
        }
    }

    /// When [`on_timer`](Self::on_timer) has something to do; `None` while the owner has not answered finally.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            Self::Completed { until } => Some(until),
            Self::Trying { .. } | Self::Proceeding { .. } | Self::Terminated => None,
        }
    }

    /// No final response was sent yet.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Trying { .. } | Self::Proceeding { .. })
    }

    /// The final response was sent.
    pub fn is_completed(&self) -> bool {
        matches!(self, Self::Completed { .. })
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

    fn sent(machine: OtherServer, milliseconds: u64, code: u16) -> (OtherServer, ServerAction) {
        machine.on_send_response(at(milliseconds), code, &TIMING)
    }

    #[test]
    fn trying_drops_retransmissions_for_there_is_nothing_to_repeat() {
        let trying = OtherServer::start(Link::Datagram);
        assert!(trying.is_pending());
        assert_eq!(trying.on_request(), (trying, ServerAction::Absorb));
        assert_eq!(trying.deadline(), None);
    }

    #[test]
    fn proceeding_repeats_the_last_1xx() {
        let (proceeding, action) = sent(OtherServer::start(Link::Datagram), 0, 100);
        assert_eq!((proceeding, action), (OtherServer::Proceeding { link: Link::Datagram }, ServerAction::None));
        assert_eq!(sent(proceeding, 10, 183), (proceeding, ServerAction::None));
        assert_eq!(proceeding.on_request(), (proceeding, ServerAction::Retransmit));
        assert_eq!(proceeding.deadline(), None);
        assert!(proceeding.is_pending());
    }

    #[test]
    fn any_final_response_completes_for_timer_j_of_32_seconds() {
        let trying = OtherServer::start(Link::Datagram);
        let (proceeding, _) = sent(trying, 0, 100);
        for machine in [trying, proceeding] {
            for code in [200, 302, 401, 404, 503, 603] {
                let (completed, action) = sent(machine, 1_000, code);
                assert_eq!(action, ServerAction::None, "{code}");
                assert!(completed.is_completed() && !completed.is_pending());
                assert_eq!(completed.deadline(), Some(at(33_000)), "{code}");
                assert_eq!(completed.on_timer(at(32_999), &TIMING), (completed, ServerAction::None));
                assert_eq!(
                    completed.on_timer(at(33_000), &TIMING),
                    (OtherServer::Terminated, ServerAction::Terminated)
                );
            }
        }
    }

    #[test]
    fn timer_j_is_zero_on_a_stream() {
        let (completed, _) = sent(OtherServer::start(Link::Stream), 1_000, 200);
        assert_eq!(completed.deadline(), Some(at(1_000)));
        assert_eq!(completed.on_timer(at(1_000), &TIMING), (OtherServer::Terminated, ServerAction::Terminated));
    }

    #[test]
    fn completed_repeats_its_answer_and_allows_no_second_one() {
        let (completed, _) = sent(OtherServer::start(Link::Datagram), 0, 200);
        assert_eq!(completed.on_request(), (completed, ServerAction::Retransmit));
        for code in [100, 200, 404] {
            assert_eq!(sent(completed, 10, code), (completed, ServerAction::Absorb), "{code}");
        }
    }

    #[test]
    fn terminated_drops_everything() {
        let terminated = OtherServer::Terminated;
        assert!(terminated.is_terminated());
        assert_eq!(terminated.on_request(), (terminated, ServerAction::Absorb));
        assert_eq!(sent(terminated, 0, 200), (terminated, ServerAction::Absorb));
        assert_eq!(terminated.on_timer(at(99_000), &TIMING), (terminated, ServerAction::None));
        assert_eq!(terminated.deadline(), None);
    }

    #[test]
    fn a_code_outside_sip_is_never_sent() {
        let trying = OtherServer::start(Link::Datagram);
        for code in [0, 99, 700] {
            assert_eq!(sent(trying, 0, code), (trying, ServerAction::Absorb), "{code}");
        }
    }

    #[test]
    fn each_state_says_what_it_is_and_nothing_else() {
        // Pending, completed, terminated.
        for (machine, wanted) in [
            (OtherServer::start(Link::Datagram), [true, false, false]),
            (OtherServer::Proceeding { link: Link::Datagram }, [true, false, false]),
            (OtherServer::Completed { until: at(1) }, [false, true, false]),
            (OtherServer::Terminated, [false, false, true]),
        ] {
            let said = [machine.is_pending(), machine.is_completed(), machine.is_terminated()];
            assert_eq!(said, wanted, "{machine:?}");
        }
    }
}
