//! The active checks of one backend: each guardian's outcomes are counted for themselves, up and down.

use crate::io::{CheckOutcome, DownCause};
use crate::settings::{Effect, Guardian};
use sip::Instant;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// One check of a backend, for status and graphs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckView {
    pub guardian: Arc<str>,
    /// `fall` failures in a row, and not yet `rise` good outcomes since. Of a guardian that only warns it is the warning.
    pub is_down: bool,
    /// Why the last failure was one; `None` while it is not down.
    pub reason: Option<Arc<str>>,
    /// The last outcomes, the oldest first: when each was known, and how long the answer took. `None`: it failed.
    pub history: Vec<(Instant, Option<Duration>)>,
}

/// The checks of a backend, in the order of its services.
#[derive(Debug, Default)]
pub(super) struct Checks {
    counted: SmallVec<[Counted; 2]>,
}

#[derive(Debug)]
struct Counted {
    guardian: Arc<Guardian>,
    /// The reason of the last failure. `None`: up, as everything is that was not yet checked.
    down: Option<Arc<str>>,
    /// Good outcomes in a row while down.
    rises: u32,
    /// Failures in a row while up.
    falls: u32,
    history: VecDeque<(Instant, Option<Duration>)>,
}

/// What an outcome changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    /// It was the last of `fall` failures in a row.
    Fell(Arc<str>),
    /// It was the last of `rise` good ones.
    Rose,
    /// It was good, as the ones before.
    Stands,
    /// It failed, or was good, but not often enough.
    Undecided,
}

impl Checks {
    /// Guardians that stay keep their counts; what others found is forgotten. Gives the guardian that takes the backend out, or
    /// cuts it, only now for what it found before, and what that was: one that cuts, if there is one.
    pub(super) fn configure(&mut self, guardians: &[Arc<Guardian>]) -> Option<(Arc<Guardian>, Arc<str>)> {
        let mut before = std::mem::take(&mut self.counted);
        let mut newly: Option<(Arc<Guardian>, Arc<str>)> = None;
        for guardian in guardians {
            let known = before.iter().position(|counted| counted.guardian.name == guardian.name);
            let mut counted = match known {
                Some(at) => before.swap_remove(at),
                None => Counted::new(Arc::clone(guardian)),
            };
            let goes_first = newly.as_ref().is_none_or(|(other, _)| guardian.cut && !other.cut);
            if counted.follow(guardian)
                && goes_first
                && let Some(reason) = &counted.down
            {
                newly = Some((Arc::clone(guardian), Arc::clone(reason)));
            }
            self.counted.push(counted);
        }
        newly
    }

    /// Does any guardian hold the backend down? Asked for every request: of a backend that is up nothing but this is read.
    pub(super) fn is_down(&self) -> bool {
        self.counted.iter().any(Counted::holds_down)
    }

    /// What those say that hold it down.
    pub(super) fn causes(&self) -> impl Iterator<Item = DownCause> + '_ {
        self.counted.iter().filter(|counted| counted.holds_down()).filter_map(|counted| {
            let reason = Arc::clone(counted.down.as_ref()?);
            Some(DownCause::Check { guardian: Arc::clone(&counted.guardian.name), reason })
        })
    }

    /// Counts an outcome of the guardian of this name. `None`: the backend has no such guardian.
    pub(super) fn count(&mut self, now: Instant, name: &str, outcome: &CheckOutcome) -> Option<(Arc<Guardian>, Turn)> {
        let counted = self.counted.iter_mut().find(|counted| &*counted.guardian.name == name)?;
        let turn = counted.count(now, outcome);
        Some((Arc::clone(&counted.guardian), turn))
    }

    /// Has the guardian seen something that it is not yet sure of?
    pub(super) fn is_undecided(&self, name: &str) -> bool {
        let is_counting = |counted: &Counted| counted.rises > 0 || counted.falls > 0;
        self.counted.iter().any(|counted| &*counted.guardian.name == name && is_counting(counted))
    }

    /// Does the guardian of this name end what goes on at a backend that it finds down?
    pub(super) fn is_cutting(&self, name: &str) -> bool {
        self.counted.iter().any(|counted| counted.guardian.cut && &*counted.guardian.name == name)
    }

    pub(super) fn views(&self) -> Vec<CheckView> {
        let view = |counted: &Counted| CheckView {
            guardian: Arc::clone(&counted.guardian.name),
            is_down: counted.down.is_some(),
            reason: counted.down.clone(),
            history: counted.history.iter().copied().collect(),
        };
        self.counted.iter().map(view).collect()
    }
}

impl Counted {
    fn new(guardian: Arc<Guardian>) -> Self {
        Self { guardian, down: None, rises: 0, falls: 0, history: VecDeque::new() }
    }

    /// Its guardian is configured like this now. Does it take the backend out, or cut it, only now for what it found before?
    fn follow(&mut self, guardian: &Arc<Guardian>) -> bool {
        let (held_down, cut) = (self.holds_down(), self.guardian.cut);
        self.guardian = Arc::clone(guardian);
        self.holds_down() && (!held_down || (guardian.cut && !cut))
    }

    fn holds_down(&self) -> bool {
        self.down.is_some() && self.guardian.effect == Effect::Down
    }

    fn count(&mut self, now: Instant, outcome: &CheckOutcome) -> Turn {
        let took = match outcome {
            CheckOutcome::Good { took } => Some(*took),
            CheckOutcome::Failed { .. } => None,
        };
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back((now, took));
        match outcome {
            CheckOutcome::Good { .. } => self.count_good(),
            CheckOutcome::Failed { reason } => self.count_failed(reason),
        }
    }

    fn count_good(&mut self) -> Turn {
        self.falls = 0;
        if self.down.is_none() {
            return Turn::Stands;
        }
        self.rises += 1;
        if self.rises < self.guardian.rise {
            return Turn::Undecided;
        }
        self.rises = 0;
        self.down = None;
        Turn::Rose
    }

    fn count_failed(&mut self, reason: &Arc<str>) -> Turn {
        self.rises = 0;
        if self.down.is_some() {
            self.down = Some(Arc::clone(reason));
            return Turn::Undecided;
        }
        self.falls += 1;
        if self.falls < self.guardian.fall {
            return Turn::Undecided;
        }
        self.falls = 0;
        self.down = Some(Arc::clone(reason));
        Turn::Fell(Arc::clone(reason))
    }
}

/// Outcomes that are kept of each check.
const HISTORY: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::world::{at, failed, good, guardian};

    fn checks(guardians: &[Arc<Guardian>]) -> Checks {
        let mut checks = Checks::default();
        checks.configure(guardians);
        checks
    }

    fn turn(checks: &mut Checks, name: &str, outcome: &CheckOutcome) -> Option<Turn> {
        checks.count(at(0), name, outcome).map(|(_, turn)| turn)
    }

    #[test]
    fn each_guardian_counts_by_its_own_rise_and_fall() {
        for (rise, fall) in [(1, 1), (1, 2), (2, 3), (5, 1)] {
            let mut checks = checks(&[guardian("a", rise, fall), guardian("b", 9, 9)]);
            for failure in 1..=fall {
                assert!(!checks.is_down());
                let expected = if failure < fall { Turn::Undecided } else { Turn::Fell("broken".into()) };
                assert_eq!(turn(&mut checks, "a", &failed("broken")), Some(expected));
                assert_eq!(checks.is_undecided("a"), failure < fall);
                // The other one's outcomes are no matter of this one.
                assert_eq!(turn(&mut checks, "b", &good()), Some(Turn::Stands));
            }
            for success in 1..=rise {
                assert!(checks.is_down());
                let expected = if success < rise { Turn::Undecided } else { Turn::Rose };
                assert_eq!(turn(&mut checks, "a", &good()), Some(expected));
                assert_eq!(checks.is_undecided("a"), success < rise);
            }
            assert!(!checks.is_down());
        }
        assert_eq!(turn(&mut checks(&[guardian("a", 1, 1)]), "c", &good()), None);
    }

    #[test]
    fn only_outcomes_in_a_row_count() {
        let mut checks = checks(&[guardian("a", 2, 2)]);
        for (outcome, is_down) in [
            (failed("1"), false),
            (good(), false),
            (failed("2"), false),
            (failed("3"), true),
            (good(), true),
            (failed("4"), true),
            (good(), true),
            (good(), false),
        ] {
            turn(&mut checks, "a", &outcome);
            assert_eq!(checks.is_down(), is_down, "{outcome:?}");
        }
    }

    #[test]
    fn a_reload_keeps_the_counts_of_those_that_stay() {
        let (first, second) = (guardian("a", 2, 2), guardian("b", 2, 2));
        let mut checks = checks(&[Arc::clone(&first), Arc::clone(&second)]);
        turn(&mut checks, "a", &failed("1"));
        turn(&mut checks, "b", &failed("1"));
        turn(&mut checks, "b", &failed("2"));
        checks.configure(&[Arc::clone(&second), Arc::clone(&first), guardian("c", 2, 2)]);
        let names: Vec<(Arc<str>, bool)> =
            checks.views().into_iter().map(|view| (view.guardian, view.is_down)).collect();
        assert_eq!(names, [("b".into(), true), ("a".into(), false), ("c".into(), false)]);
        assert_eq!(turn(&mut checks, "a", &failed("2")), Some(Turn::Fell("2".into())), "it was the second in a row");
        // What nobody looks at any more holds nothing down.
        checks.configure(&[first]);
        assert!(checks.is_down());
        turn(&mut checks, "a", &good());
        checks.configure(&[]);
        assert!(!checks.is_down());
        checks.configure(&[second]);
        assert!(!checks.is_down(), "who comes back begins anew");
    }

    #[test]
    fn what_was_found_before_takes_out_once_it_counts() {
        let warns = |name: &str| Guardian { effect: Effect::Warn, ..Guardian::clone(&guardian(name, 1, 1)) };
        let holds = |name: &str, cut: bool| Arc::new(Guardian { cut, ..Guardian::clone(&guardian(name, 1, 1)) });
        let mut checks = checks(&["a", "b", "c"].map(|name| Arc::new(warns(name))));
        for name in ["a", "b"] {
            turn(&mut checks, name, &failed(name));
        }
        let mut newly = |guardians: &[Arc<Guardian>]| {
            checks.configure(guardians).map(|(guardian, reason)| (guardian.name.to_string(), reason.to_string()))
        };
        let of = |name: &str| Some((name.to_owned(), name.to_owned()));
        assert_eq!(newly(&[holds("c", true), Arc::new(warns("a")), Arc::new(warns("b"))]), None, "c found nothing");
        assert_eq!(newly(&[holds("a", false), holds("b", true)]), of("b"), "who cuts goes first");
        assert_eq!(newly(&[holds("a", false), holds("b", true)]), None, "once");
        assert_eq!(newly(&[holds("a", true), holds("b", true)]), of("a"), "it cuts only now");
        assert_eq!(newly(&[holds("a", false), holds("d", true)]), None);
    }

    #[test]
    fn the_last_sixty_outcomes_are_kept() {
        let mut checks = checks(&[guardian("a", 1, 1)]);
        for number in 0..61 {
            let took = Duration::from_millis(number);
            let outcome = if number == 60 { failed("late") } else { CheckOutcome::Good { took } };
            checks.count(at(number), "a", &outcome);
        }
        let view = checks.views().remove(0);
        assert_eq!((view.history.len(), view.is_down, view.reason.as_deref()), (60, true, Some("late")));
        assert_eq!(view.history.first(), Some(&(at(1), Some(Duration::from_millis(1)))));
        assert_eq!(view.history.last(), Some(&(at(60), None)));
    }

    #[test]
    fn who_only_warns_holds_nothing_down() {
        let warns = Arc::new(Guardian { effect: Effect::Warn, cut: true, ..Guardian::clone(&guardian("a", 1, 1)) });
        let mut checks = checks(&[warns, guardian("b", 1, 1)]);
        assert_eq!(turn(&mut checks, "a", &failed("odd")), Some(Turn::Fell("odd".into())));
        assert!(!checks.is_down());
        assert_eq!(checks.causes().count(), 0);
        assert!(checks.views().first().is_some_and(|view| view.is_down));
        assert_eq!(["a", "b", "c"].map(|name| checks.is_cutting(name)), [true, false, false]);
        turn(&mut checks, "b", &failed("gone"));
        let cause = DownCause::Check { guardian: "b".into(), reason: "gone".into() };
        assert_eq!(checks.causes().collect::<Vec<DownCause>>(), [cause]);
    }
}
