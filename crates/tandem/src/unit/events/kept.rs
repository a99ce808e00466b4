//! The last events, for whoever asks what happened.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};

/// Events that are kept.
pub(crate) const KEPT: usize = 1_000;

/// One event, as JSON carries it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub(crate) struct KeptEvent {
    /// RFC 3339, UTC.
    pub(crate) time: String,
    /// What kind of thing, as the log calls it.
    pub(crate) event: String,
    /// "" where it is of no farm, and so on.
    pub(crate) farm: String,
    pub(crate) backend: String,
    pub(crate) guardian: String,
    /// Why, where there is more to say than what the kind says.
    pub(crate) cause: String,
    /// All of it, for people.
    pub(crate) message: String,
}

/// The last [`KEPT`] events, and how many there were of each kind.
#[derive(Default)]
pub(super) struct Kept {
    events: VecDeque<KeptEvent>,
    counts: BTreeMap<&'static str, u64>,
}

impl Kept {
    /// `kind`: what it is counted as.
    pub(super) fn add(&mut self, kind: &'static str, event: KeptEvent) {
        if WITHOUT_END.contains(&kind) {
            let is_same = |kept: &KeptEvent| kept.event == event.event && kept.message == event.message;
            if let Some(at) = self.events.iter().rposition(is_same) {
                self.events.remove(at);
            }
        }
        if self.events.len() >= KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
        *self.counts.entry(kind).or_default() += 1;
    }

    /// The `count` last ones, the oldest first.
    pub(super) fn last(&self, count: usize) -> Vec<KeptEvent> {
        self.events.iter().skip(self.events.len().saturating_sub(count)).cloned().collect()
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        self.counts.iter().map(|(kind, count)| (*kind, *count)).collect()
    }
}

/// What comes again each second for as long as its cause stays: of those that say the same the newest is kept, or minutes of them
/// would leave nothing of what became of the backends.
const WITHOUT_END: [&str; 2] = ["affinity_refused", "limit_reached"];

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: usize) -> KeptEvent {
        KeptEvent {
            time: String::new(),
            event: "BackendDown".to_owned(),
            farm: String::new(),
            backend: String::new(),
            guardian: String::new(),
            cause: String::new(),
            message: number.to_string(),
        }
    }

    #[test]
    fn the_last_thousand_are_kept_and_all_are_counted() {
        for (added, first, length) in
            [(0, None, 0), (999, Some("0"), 999), (1_000, Some("0"), 1_000), (1_001, Some("1"), 1_000)]
        {
            let mut kept = Kept::default();
            (0..added).for_each(|number| kept.add("backend_down", event(number)));
            let all = kept.last(usize::MAX);
            assert_eq!((all.len(), all.first().map(|event| event.message.as_str())), (length, first));
            let counted: u64 = kept.counts().iter().map(|(_, count)| count).sum();
            assert_eq!(counted, added as u64);
        }
    }

    #[test]
    fn what_comes_without_end_leaves_the_others_their_place() {
        for (kind, name) in [("limit_reached", "LimitReached"), ("affinity_refused", "AffinityRefused")] {
            let mut kept = Kept::default();
            // Of a backend all are kept, also those that say the same.
            kept.add("backend_down", event(0));
            kept.add("backend_down", event(0));
            for number in 0..2_000 {
                let repeated = KeptEvent { time: number.to_string(), event: name.to_owned(), ..event(number % 2) };
                kept.add(kind, repeated);
            }
            let all = kept.last(usize::MAX);
            let times: Vec<&str> = all.iter().map(|event| event.time.as_str()).collect();
            assert_eq!(times, ["", "", "1998", "1999"], "{kind}");
            let counted: u64 = kept.counts().iter().map(|(_, count)| count).sum();
            assert_eq!(counted, 2_002, "{kind}");
        }
    }

    #[test]
    fn the_last_ones_come_in_their_order() {
        let mut kept = Kept::default();
        (0..5).for_each(|number| kept.add("backend_down", event(number)));
        let messages =
            |count: usize| -> Vec<String> { kept.last(count).into_iter().map(|event| event.message).collect() };
        assert_eq!((messages(0), messages(2)), (Vec::new(), vec!["3".to_owned(), "4".to_owned()]));
        assert_eq!(messages(9).len(), 5);
    }
}
