//! Client transaction of every request but INVITE and ACK (RFC 3261 §17.1.2 and figure 6).
//!
//! ```text
//! state       event                  action                         next state
//! ----------  ---------------------  -----------------------------  ----------------------------
//! (start)     request was sent       arm E = T1 (datagram), F       Trying
//! Trying      timer E                Retransmit, E = min(2*E, T2)   Trying
//! Trying      timer F = 64*T1        Timeout                        Terminated
//! Trying      1xx                    PassUp, E and F run on         Proceeding
//! Trying      200-699                PassUp, arm K                  Completed
//! Proceeding  timer E                Retransmit, E = T2             Proceeding
//! Proceeding  timer F                Timeout                        Terminated
//! Proceeding  1xx                    PassUp                         Proceeding
//! Proceeding  200-699                PassUp, arm K                  Completed
//! Completed   any response           Absorb                         Completed
//! Completed   timer K                Terminated                     Terminated
//! ```
//!
//! K is T4 over datagrams and zero on a stream. A timer E that is running when the 1xx comes runs to its end; from then
//! on its interval is T2.

use super::{ClientAction, Link, StatusClass, Timing, backoff, earlier, first_retransmission, linger};
use crate::time::Instant;

/// A request other than INVITE and ACK that was sent. See the [module](super) on how to drive it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OtherClient {
    /// No response yet.
    Trying {
        /// What the request was sent over.
        link: Link,
        /// Timer E; a stream has none.
        retransmit_at: Option<Instant>,
        /// Retransmissions sent so far.
        retransmissions: u8,
        /// Timer F.
        timeout_at: Instant,
    },
    /// A provisional response came.
    Proceeding {
        /// What the request was sent over.
        link: Link,
        /// Timer E; a stream has none.
        retransmit_at: Option<Instant>,
        /// Timer F.
        timeout_at: Instant,
    },
    /// The final response came.
    Completed {
        /// Timer K.
        until: Instant,
    },
    /// Over.
    Terminated,
}

impl OtherClient {
    /// The owner has just sent the request for the first time.
    pub fn start(now: Instant, link: Link, timing: &Timing) -> Self {
        Self::Trying {
            link,
            retransmit_at: first_retransmission(now, link, timing),
            retransmissions: 0,
            timeout_at: now + timing.transaction_timeout(),
        }
    }

    /// A response with this status code matched the transaction (RFC 3261 §17.1.3).
    pub fn on_response(self, now: Instant, code: u16, timing: &Timing) -> (Self, ClientAction) {
        match (self, StatusClass::of(code)) {
            (Self::Trying { link, retransmit_at, timeout_at, .. }, StatusClass::Provisional) => {
                (Self::Proceeding { link, retransmit_at, timeout_at }, ClientAction::PassUp)
            }
            (Self::Proceeding { .. }, StatusClass::Provisional) => (self, ClientAction::PassUp),
            (
                Self::Trying { link, .. } | Self::Proceeding { link, .. },
                StatusClass::Success | StatusClass::Failure,
            ) => (Self::Completed { until: now + linger(link, timing.t4) }, ClientAction::PassUp),
            (_, _) => (self, ClientAction::Absorb),
        }
    }

    /// Fires what is due; to be called when `now` has reached [`deadline`](Self::deadline).
    pub fn on_timer(self, now: Instant, timing: &Timing) -> (Self, ClientAction) {
        match self {
            Self::Trying { timeout_at, .. } | Self::Proceeding { timeout_at, .. } if now >= timeout_at => {
                (Self::Terminated, ClientAction::Timeout)
            }
            Self::Trying { link, retransmit_at: Some(due), retransmissions, timeout_at } if now >= due => {
                let retransmissions = retransmissions.saturating_add(1);
                // Counted from now and not from `due`: a process that was stopped for a while must not catch up in a burst.
                let retransmit_at = Some(now + backoff(timing, retransmissions).min(timing.t2));
                (Self::Trying { link, retransmit_at, retransmissions, timeout_at }, ClientAction::Retransmit)
            }
            Self::Proceeding { link, retransmit_at: Some(due), timeout_at } if now >= due => {
                let retransmit_at = Some(now + timing.t2);
                (Self::Proceeding { link, retransmit_at, timeout_at }, ClientAction::Retransmit)
            }
            Self::Completed { until } if now >= until => (Self::Terminated, ClientAction::Terminated),
            _ => (self, ClientAction::None),
        }
    }

    /// When [`on_timer`](Self::on_timer) has something to do; `None` once terminated.
    pub fn deadline(&self) -> Option<Instant> {
        match *self {
            Self::Trying { retransmit_at, timeout_at, .. } | Self::Proceeding { retransmit_at, timeout_at, .. } => {
                Some(earlier(retransmit_at, timeout_at))
            }
            Self::Completed { until } => Some(until),
            Self::Terminated => None,
        }
    }

    /// A provisional response came and no final one yet.
    pub fn answered_provisionally(&self) -> bool {
        matches!(self, Self::Proceeding { .. })
    }

    /// No final response came and the transaction still waits for one.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Trying { .. } | Self::Proceeding { .. })
    }

    /// The final response came.
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

    fn started(link: Link) -> OtherClient {
        OtherClient::start(at(0), link, &TIMING)
    }

    fn after(machine: OtherClient, milliseconds: u64, code: u16) -> (OtherClient, ClientAction) {
        machine.on_response(at(milliseconds), code, &TIMING)
    }

    /// Lets every timer fire at its exact moment and lists the moments in milliseconds.
    fn fire_all(mut machine: OtherClient) -> Vec<(u64, ClientAction)> {
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
    fn timer_e_doubles_up_to_t2_until_timer_f_at_32_seconds() {
        let fired = fire_all(started(Link::Datagram));
        let moments: Vec<u64> = fired.iter().map(|(moment, _)| *moment).collect();
        // Intervals of 500, 1000, 2000 and then 4000 ms; the last entry is timer F.
        assert_eq!(moments, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500, 32_000]);
        assert_eq!(fired.last(), Some(&(32_000, ClientAction::Timeout)));
        assert_eq!(fired.iter().filter(|(_, action)| *action == ClientAction::Retransmit).count(), 10);
    }

    #[test]
    fn a_stream_has_no_timer_e_but_timer_f() {
        assert_eq!(fire_all(started(Link::Stream)), [(32_000, ClientAction::Timeout)]);
        let (proceeding, _) = after(started(Link::Stream), 100, 100);
        assert_eq!(fire_all(proceeding), [(32_000, ClientAction::Timeout)]);
    }

    #[test]
    fn in_proceeding_timer_e_runs_out_once_and_then_repeats_at_t2() {
        let (machine, action) = after(started(Link::Datagram), 100, 100);
        assert_eq!(action, ClientAction::PassUp);
        assert!(machine.answered_provisionally() && machine.is_pending());
        let moments: Vec<u64> = fire_all(machine).iter().map(|(moment, _)| *moment).collect();
        assert_eq!(moments, [500, 4_500, 8_500, 12_500, 16_500, 20_500, 24_500, 28_500, 32_000]);
    }

    #[test]
    fn proceeding_times_out_by_timer_f() {
        let (machine, _) = after(started(Link::Datagram), 100, 100);
        assert_eq!(machine.on_timer(at(32_000), &TIMING), (OtherClient::Terminated, ClientAction::Timeout));
    }

    #[test]
    fn proceeding_passes_every_1xx_up_and_keeps_its_timers() {
        let (machine, _) = after(started(Link::Datagram), 100, 100);
        assert_eq!(after(machine, 200, 183), (machine, ClientAction::PassUp));
    }

    #[test]
    fn any_final_response_completes_for_timer_k_of_5_seconds() {
        let trying = started(Link::Datagram);
        let (proceeding, _) = after(trying, 100, 100);
        for machine in [trying, proceeding] {
            for code in [200, 302, 401, 404, 503, 603] {
                let (completed, action) = after(machine, 1_000, code);
                assert_eq!(action, ClientAction::PassUp, "{code}");
                assert!(completed.is_completed() && !completed.is_pending());
                assert_eq!(fire_all(completed), [(6_000, ClientAction::Terminated)], "{code}");
            }
        }
    }

    #[test]
    fn timer_k_is_zero_on_a_stream() {
        let (completed, _) = after(started(Link::Stream), 1_000, 200);
        assert_eq!(fire_all(completed), [(1_000, ClientAction::Terminated)]);
    }

    #[test]
    fn completed_and_terminated_drop_every_response() {
        let (completed, _) = after(started(Link::Datagram), 0, 200);
        let (terminated, _) = completed.on_timer(at(5_000), &TIMING);
        assert!(terminated.is_terminated());
        for machine in [completed, terminated] {
            for code in [100, 200, 404] {
                assert_eq!(after(machine, 1, code), (machine, ClientAction::Absorb), "{code}");
            }
        }
    }

    #[test]
    fn a_code_outside_sip_moves_nothing() {
        let trying = started(Link::Datagram);
        for code in [0, 99, 700, 999] {
            assert_eq!(after(trying, 1, code), (trying, ClientAction::Absorb), "{code}");
        }
    }

    #[test]
    fn an_early_timer_changes_nothing_and_a_late_one_sends_once() {
        let trying = started(Link::Datagram);
        let (proceeding, _) = after(trying, 100, 100);
        let (completed, _) = after(trying, 0, 200);
        for (machine, milliseconds) in [(trying, 499), (proceeding, 499), (completed, 4_999)] {
            assert_eq!(machine.on_timer(at(milliseconds), &TIMING), (machine, ClientAction::None), "{machine:?}");
        }
        let (machine, action) = trying.on_timer(at(20_000), &TIMING);
        assert_eq!(action, ClientAction::Retransmit);
        assert_eq!(machine.deadline(), Some(at(21_000)));
    }

    #[test]
    fn each_state_says_what_it_is_and_nothing_else() {
        let trying = started(Link::Datagram);
        // Pending, answered provisionally, completed, terminated.
        for (machine, wanted) in [
            (trying, [true, false, false, false]),
            (after(trying, 1, 100).0, [true, true, false, false]),
            (OtherClient::Completed { until: at(1) }, [false, false, true, false]),
            (OtherClient::Terminated, [false, false, false, true]),
        ] {
            let said = [
                machine.is_pending(),
                machine.answered_provisionally(),
                machine.is_completed(),
                machine.is_terminated(),
            ];
            assert_eq!(said, wanted, "{machine:?}");
        }
    }
}
