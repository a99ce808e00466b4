//! When to send again (RFC 3261 §17.1.1.2, §17.1.2.2): after 500 ms, then twice as long each time, up to 4 s.

use sip::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// Where an exchange is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Free,
    /// The first request is sent; at the callee: the INVITE is answered.
    First,
    /// The request with credentials is sent.
    Second,
    /// The call is answered and goes on.
    Holding,
    /// The BYE is sent.
    Ending,
}

/// The end of a wait: whether it still matters, its exchange tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    at: Instant,
    pub(super) slot: u32,
    pub(super) serial: u32,
    pub(super) stage: Stage,
    /// When it was sent first.
    pub(super) since: Instant,
    interval: usize,
}

/// All waits. Those of one length end in the order they began, so that a queue for each length is all the order needed; waits that no
/// longer matter are left in and passed over.
#[derive(Default)]
pub(super) struct Retries {
    queues: [VecDeque<Retry>; INTERVALS.len()],
}

impl Retries {
    /// Something was sent first at `now`.
    pub(super) fn begin(&mut self, now: Instant, slot: u32, serial: u32, stage: Stage) {
        self.wait(now, Retry { at: now, slot, serial, stage, since: now, interval: 0 });
    }

    /// It goes on to the next, longer wait.
    pub(super) fn again(&mut self, now: Instant, retry: Retry) {
        let interval = (retry.interval + 1).min(INTERVALS.len() - 1);
        self.wait(now, Retry { interval, ..retry });
    }

    /// A wait that is over.
    pub(super) fn due(&mut self, now: Instant) -> Option<Retry> {
        self.queues
            .iter_mut()
            .find(|queue| queue.front().is_some_and(|retry| retry.at <= now))
            .and_then(VecDeque::pop_front)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.front()).map(|retry| retry.at).min()
    }

    fn wait(&mut self, now: Instant, retry: Retry) {
        let at = now + INTERVALS[retry.interval];
        self.queues[retry.interval].push_back(Retry { at, ..retry });
    }
}

impl Retry {
    /// Timers B and F: 64 × T1.
    pub(super) fn is_hopeless(&self, now: Instant) -> bool {
        now.saturating_since(self.since) >= HOPELESS
    }
}

const INTERVALS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
const HOPELESS: Duration = Duration::from_secs(32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_four_seconds_and_end_after_thirty_two() {
        let mut retries = Retries::default();
        let start = Instant::from_micros(0);
        retries.begin(start, 1, 2, Stage::First);
        let mut seen = Vec::new();
        while let Some(now) = retries.next() {
            assert!(retries.due(Instant::from_micros(now.as_micros() - 1)).is_none());
            let retry = retries.due(now).expect("the wait is over");
            assert_eq!((retry.slot, retry.serial, retry.stage), (1, 2, Stage::First));
            seen.push(now.as_micros() / 1_000);
            if retry.is_hopeless(now) {
                break;
            }
            retries.again(now, retry);
        }
        assert_eq!(seen, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500, 35_500]);
    }
}
