//! The end of a unit: what it waits for, and what it says meanwhile. The time and the counts are arguments.

use sip::Instant;
use std::time::Duration;

/// What a unit still has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Load {
    /// Requests without a final answer.
    pub(crate) unanswered: u64,
    /// Calls that are up. They are not waited for: tokens and the log of facts carry them over to the next unit.
    pub(crate) calls: u64,
}

/// A drain under way.
pub(crate) struct Drain {
    deadline: Instant,
    /// The look before found nothing unanswered.
    quiet: bool,
    /// What was told last, and when.
    told: Option<(Instant, Load)>,
}

/// What follows from a look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Look again soon.
    Wait,
    /// The same, and this is to be told.
    Tell(String),
    /// The unit ends. This is the reason.
    End(String),
}

impl Drain {
    pub(crate) fn new(now: Instant, limit: Duration) -> Self {
        Self { deadline: now + limit, quiet: false, told: None }
    }

    /// To be called every few milliseconds. `hurried`: somebody does not want to wait.
    ///
    /// Quiet is what two looks in a row find quiet: what came before the drain may wait in a socket or an inbox at the first.
    pub(crate) fn look(&mut self, now: Instant, load: Load, hurried: bool) -> Step {
        let was_quiet = std::mem::replace(&mut self.quiet, load.unanswered == 0);
        if hurried {
            return Step::End(ending("told to end at once", load));
        }
        if (self.quiet && was_quiet) || now >= self.deadline {
            return Step::End(ending("the time is over", load));
        }
        if self.quiet || !self.is_worth_telling(now, load) {
            return Step::Wait;
        }
        self.told = Some((now, load));
        let left = self.deadline.saturating_since(now).as_millis().div_ceil(1_000);
        Step::Tell(format!(
            "draining: {} unanswered, {}, {left} s left",
            requests(load.unanswered),
            calls_up(load.calls)
        ))
    }

    /// Each second, and sooner when something changed.
    fn is_worth_telling(&self, now: Instant, load: Load) -> bool {
        let Some((at, before)) = self.told else { return true };
        let since = now.saturating_since(at);
        since >= TELL_EVERY || (before != load && since >= TELL_AT_MOST_EVERY)
    }
}

/// `reason` is only of interest where something is left.
fn ending(reason: &str, load: Load) -> String {
    let calls = calls_up(load.calls);
    match load.unanswered {
        0 => format!("every request is answered; {calls}"),
        left => format!("{reason}, with {} unanswered; {calls}", requests(left)),
    }
}

fn requests(number: u64) -> String {
    if number == 1 { "1 request".to_owned() } else { format!("{number} requests") }
}

fn calls_up(number: u64) -> String {
    if number == 1 { "1 call stays up".to_owned() } else { format!("{number} calls stay up") }
}

const TELL_EVERY: Duration = Duration::from_secs(1);
const TELL_AT_MOST_EVERY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1_000)
    }

    fn load(unanswered: u64, calls: u64) -> Load {
        Load { unanswered, calls }
    }

    fn drain() -> Drain {
        Drain::new(at(0), Duration::from_secs(30))
    }

    #[test]
    fn it_ends_as_soon_as_two_looks_find_everything_answered() {
        let mut drain = drain();
        assert!(matches!(drain.look(at(0), load(1, 12), false), Step::Tell(_)));
        assert_eq!(drain.look(at(50), load(0, 12), false), Step::Wait);
        // A request that had waited in an inbox.
        assert_eq!(drain.look(at(100), load(1, 12), false), Step::Wait);
        assert_eq!(drain.look(at(150), load(0, 12), false), Step::Wait);
        let end = Step::End("every request is answered; 12 calls stay up".to_owned());
        assert_eq!(drain.look(at(200), load(0, 12), false), end);
    }

    #[test]
    fn an_idle_unit_ends_at_the_second_look_without_a_word() {
        let mut drain = drain();
        assert_eq!(drain.look(at(0), load(0, 1), false), Step::Wait);
        let end = Step::End("every request is answered; 1 call stays up".to_owned());
        assert_eq!(drain.look(at(50), load(0, 1), false), end);
    }

    #[test]
    fn progress_is_told_each_second_and_when_it_changes() {
        let mut drain = drain();
        let first = "draining: 3 requests unanswered, 12 calls stay up, 30 s left".to_owned();
        assert_eq!(drain.look(at(0), load(3, 12), false), Step::Tell(first));
        assert_eq!(drain.look(at(950), load(3, 12), false), Step::Wait);
        let second = "draining: 3 requests unanswered, 12 calls stay up, 29 s left".to_owned();
        assert_eq!(drain.look(at(1_000), load(3, 12), false), Step::Tell(second));
        assert_eq!(drain.look(at(1_200), load(1, 12), false), Step::Wait, "not too often");
        let changed = "draining: 1 request unanswered, 13 calls stay up, 29 s left".to_owned();
        assert_eq!(drain.look(at(1_250), load(1, 13), false), Step::Tell(changed));
    }

    #[test]
    fn it_ends_when_its_time_is_over_or_nobody_wants_to_wait() {
        let mut drain = drain();
        let over = Step::End("the time is over, with 2 requests unanswered; 0 calls stay up".to_owned());
        assert_eq!(drain.look(at(30_000), load(2, 0), false), over);
        let hurried = Step::End("told to end at once, with 1 request unanswered; 3 calls stay up".to_owned());
        assert_eq!(self::drain().look(at(10), load(1, 3), true), hurried);
        let mut none = Drain::new(at(0), Duration::ZERO);
        assert_eq!(
            none.look(at(0), load(0, 0), false),
            Step::End("every request is answered; 0 calls stay up".to_owned())
        );
    }
}
