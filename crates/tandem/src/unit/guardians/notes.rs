//! What the operator may read of checks: the last words of each, and how many there were.

use super::schedule::Pair;
use super::work::{Detail, Outcome, Verdict};
use crate::unit::guardians::exec::Exit;
use crate::unit::lock;
use engine::BackendId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the checks that the unit makes itself: the engine knows of those by OPTIONS.
#[derive(Default)]
pub(crate) struct Notes {
    last: Mutex<BTreeMap<Pair, Note>>,
    made: AtomicU64,
    failed: AtomicU64,
    not_made: AtomicU64,
    waited: AtomicU64,
}

/// The last check of a pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Note {
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
    /// Of a program that ended by itself.
    pub(crate) exit_code: Option<i32>,
    /// The beginning of what a program wrote, errors behind the rest.
    pub(crate) output: Option<String>,
}

impl Notes {
    /// Takes a check down. True: the operator has not been told the like of it by the check before.
    pub(crate) fn take(&self, pair: &Pair, outcome: &Outcome) -> bool {
        let counter = match outcome.verdict {
            Verdict::NotMade => &self.not_made,
            Verdict::Good | Verdict::Warning | Verdict::Failed => &self.made,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if outcome.verdict == Verdict::Failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        let ended = match &outcome.detail {
            Detail::Ended(ended) => Some(ended),
            Detail::Nothing | Detail::Report(_) => None,
        };
        let exit_code = ended.and_then(|ended| match ended.exit {
            Exit::Code(code) => Some(code),
            Exit::Signal(_) | Exit::Overran | Exit::Stopped => None,
        });
        let output = ended.map(|ended| {
            let is_whole = ended.output.is_empty() || ended.output.ends_with('\n') || ended.errors.is_empty();
            [ended.output.as_str(), if is_whole { "" } else { "\n" }, &ended.errors].concat()
        });
        let note = Note { verdict: outcome.verdict, text: outcome.text.clone(), exit_code, output };
        let before = lock(&self.last).insert(pair.clone(), note);
        before.is_none_or(|before| before.verdict != outcome.verdict)
    }

    pub(crate) fn last(&self, backend: BackendId, guardian: &str) -> Option<Note> {
        lock(&self.last).get(&Pair { backend, guardian: guardian.into() }).cloned()
    }

    /// Forgets all other pairs.
    pub(crate) fn keep(&self, known: &BTreeSet<Pair>) {
        lock(&self.last).retain(|pair, _| known.contains(pair));
    }

    pub(crate) fn set_waited(&self, waited: u64) {
        self.waited.store(waited, Ordering::Relaxed);
    }

    /// Name and value.
    pub(crate) fn counters(&self) -> [(&'static str, u64); 4] {
        [
            ("checks", &self.made),
            ("checks_failed", &self.failed),
            ("checks_not_made", &self.not_made),
            ("checks_waited", &self.waited),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::guardians::exec::Ended;
    use std::time::Duration;

    fn pair(guardian: &str) -> Pair {
        Pair { backend: BackendId(1), guardian: guardian.into() }
    }

    fn outcome(verdict: Verdict, exit: Option<Exit>) -> Outcome {
        let took = Duration::from_millis(20);
        let ended = |exit| Detail::Ended(Ended { exit, took, output: "fine".to_owned(), errors: "but\n".to_owned() });
        Outcome { verdict, text: format!("{verdict:?}"), took, detail: exit.map_or(Detail::Nothing, ended) }
    }

    #[test]
    fn the_last_check_is_kept_and_all_are_counted() {
        let notes = Notes::default();
        assert_eq!(notes.last(BackendId(1), "a"), None);
        let told: Vec<bool> = [
            outcome(Verdict::Good, Some(Exit::Code(0))),
            outcome(Verdict::Warning, Some(Exit::Code(1))),
            outcome(Verdict::Warning, Some(Exit::Code(1))),
            outcome(Verdict::NotMade, None),
            outcome(Verdict::Failed, Some(Exit::Overran)),
            outcome(Verdict::Failed, Some(Exit::Code(3))),
        ]
        .iter()
        .map(|outcome| notes.take(&pair("a"), outcome))
        .collect();
        assert_eq!(told, [true, true, false, true, true, false]);
        let note = Note {
            verdict: Verdict::Failed,
            text: "Failed".to_owned(),
            exit_code: Some(3),
            output: Some("fine\nbut\n".to_owned()),
        };
        assert_eq!(notes.last(BackendId(1), "a"), Some(note));
        notes.set_waited(7);
        let counters = [("checks", 5), ("checks_failed", 2), ("checks_not_made", 1), ("checks_waited", 7)];
        assert_eq!(notes.counters(), counters);
    }

    #[test]
    fn what_is_no_longer_checked_is_forgotten() {
        let notes = Notes::default();
        for guardian in ["a", "b"] {
            notes.take(&pair(guardian), &outcome(Verdict::Good, None));
        }
        notes.keep(&BTreeSet::from([pair("b")]));
        assert!(notes.last(BackendId(1), "a").is_none() && notes.last(BackendId(1), "b").is_some());
    }
}
