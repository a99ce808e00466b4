//! The active checks of a backend, as `status` shows them.

use crate::unit::guardians::{Note, Verdict};
use engine::{CheckView, Effect, Guardian};
use serde::{Deserialize, Serialize};
use sip::Instant;
use std::time::Duration;

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct GuardianStatus {
    pub(crate) name: String,
    /// unchecked, up, failing (not yet often enough), down or warning.
    pub(crate) state: String,
    /// Failures in a row, of those that are kept.
    pub(crate) falls: u32,
    /// After how many it is down.
    pub(crate) fall: u32,
    /// Of the last check; none: it failed, or there was none.
    pub(crate) took_ms: Option<f64>,
    /// Since the last check.
    pub(crate) ago_s: Option<f64>,
    /// Why the last check failed, or could not be made, or what it warns of.
    pub(crate) reason: Option<String>,
    /// What the last check said, of those that the unit makes itself.
    pub(crate) said: Option<String>,
    /// Of the last check, if it was a program that ended by itself.
    pub(crate) exit_code: Option<i32>,
    /// The beginning of what it wrote then, its errors behind the rest.
    pub(crate) output: Option<String>,
    /// The last checks, the oldest first; null: it failed.
    pub(crate) history_ms: Vec<Option<f64>>,
    /// How long ago they were.
    pub(crate) history_ago_s: Vec<f64>,
}

impl GuardianStatus {
    /// `checks`: those of the backend. `note`: of the last check, where the unit made it itself.
    pub(super) fn new(guardian: &Guardian, checks: &[CheckView], note: Option<Note>, now: Instant) -> Self {
        let view = checks.iter().find(|view| view.guardian == guardian.name);
        let history = view.map(|view| view.history.as_slice()).unwrap_or_default();
        let falls = history.iter().rev().take_while(|(_, took)| took.is_none()).count();
        let is_down = view.is_some_and(|view| view.is_down);
        let last = history.last();
        let state = match (is_down, guardian.effect) {
            (true, Effect::Down) => "down",
            (true, Effect::Warn) => "warning",
            (false, _) if history.is_empty() => "unchecked",
            (false, _) if falls > 0 => "failing",
            (false, _) => "up",
        };
        let reason = view.and_then(|view| view.reason.as_deref()).map(str::to_owned);
        let noted = note.as_ref().filter(|note| note.verdict != Verdict::Good).map(|note| note.text.clone());
        Self {
            name: guardian.name.to_string(),
            state: state.to_owned(),
            falls: u32::try_from(falls).unwrap_or(u32::MAX),
            fall: guardian.fall,
            took_ms: last.and_then(|(_, took)| took.map(milliseconds)),
            ago_s: last.map(|(at, _)| seconds(now.saturating_since(*at))),
            // What the last check found is newer than why it went down.
            reason: noted.or(reason),
            exit_code: note.as_ref().and_then(|note| note.exit_code),
            output: note.as_ref().and_then(|note| note.output.clone()),
            said: note.map(|note| note.text),
            history_ms: history.iter().map(|(_, took)| took.map(milliseconds)).collect(),
            history_ago_s: history.iter().map(|(at, _)| seconds(now.saturating_since(*at))).collect(),
        }
    }
}

/// With three decimals.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1_000.0
}

/// With one decimal.
fn seconds(time: Duration) -> f64 {
    super::one_decimal(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn guardian(effect: Effect) -> Guardian {
        Guardian { effect, ..Guardian::options() }
    }

    /// A check a second, the first at 1 s; none: it failed.
    fn view(is_down: bool, reason: Option<&str>, took_us: &[Option<u64>]) -> CheckView {
        let at = |index: usize| Instant::from_micros((index as u64 + 1) * 1_000_000);
        let history = took_us.iter().enumerate().map(|(index, took)| (at(index), took.map(Duration::from_micros)));
        CheckView { guardian: "options".into(), is_down, reason: reason.map(Arc::from), history: history.collect() }
    }

    fn status(effect: Effect, view: CheckView, note: Option<Note>) -> GuardianStatus {
        GuardianStatus::new(&guardian(effect), &[view], note, Instant::from_micros(4_040_000))
    }

    #[test]
    fn the_state_says_what_the_checks_say() {
        let good = Some(12_345);
        for (effect, is_down, history, state, falls) in [
            (Effect::Down, false, &[][..], "unchecked", 0),
            (Effect::Down, false, &[None, good][..], "up", 0),
            (Effect::Down, false, &[good, None, None][..], "failing", 2),
            (Effect::Down, true, &[None, None, None][..], "down", 3),
            (Effect::Down, true, &[None, good][..], "down", 0),
            (Effect::Warn, true, &[None, None][..], "warning", 2),
            (Effect::Warn, false, &[None][..], "failing", 1),
        ] {
            let shown = status(effect, view(is_down, None, history), None);
            assert_eq!((shown.state.as_str(), shown.falls, shown.fall), (state, falls, 3), "{history:?}");
        }
    }

    #[test]
    fn times_stand_for_graphs() {
        let shown = status(Effect::Down, view(false, None, &[Some(12_345), None, Some(800)]), None);
        assert_eq!((shown.took_ms, shown.ago_s), (Some(0.8), Some(1.0)));
        assert_eq!(shown.history_ms, [Some(12.345), None, Some(0.8)]);
        assert_eq!(shown.history_ago_s, [3.0, 2.0, 1.0]);
        assert_eq!((shown.reason, shown.said, shown.exit_code), (None, None, None));
    }

    #[test]
    fn the_last_words_of_a_check_are_shown() {
        let note = |verdict, text: &str| {
            Some(Note { verdict, text: text.to_owned(), exit_code: Some(2), output: Some("all".to_owned()) })
        };
        let down = || view(true, Some("at first"), &[None]);
        let shown = status(Effect::Down, down(), note(Verdict::Failed, "at last"));
        assert_eq!((shown.reason.as_deref(), shown.said.as_deref()), (Some("at last"), Some("at last")));
        assert_eq!((shown.exit_code, shown.output.as_deref()), (Some(2), Some("all")));
        let shown = status(Effect::Down, down(), note(Verdict::Good, "fine"));
        assert_eq!((shown.reason.as_deref(), shown.said.as_deref()), (Some("at first"), Some("fine")));
        let shown = status(Effect::Down, view(false, None, &[]), note(Verdict::NotMade, "no password"));
        assert_eq!((shown.state.as_str(), shown.reason.as_deref()), ("unchecked", Some("no password")));
        let shown = status(Effect::Down, down(), None);
        assert_eq!(shown.reason.as_deref(), Some("at first"));
    }
}
