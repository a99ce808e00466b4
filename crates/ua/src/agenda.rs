//! Who has to be woken, and when.

use sip::time::Instant;
use std::collections::{BTreeMap, BTreeSet};

/// At most one deadline for each key, in order of time. Equal deadlines come in order of their keys, so that a run can be
/// repeated exactly.
#[derive(Clone, Debug)]
pub(crate) struct Agenda<K> {
    order: BTreeSet<(Instant, K)>,
    due: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Agenda<K> {
    pub(crate) fn new() -> Self {
        Self { order: BTreeSet::new(), due: BTreeMap::new() }
    }

    /// Replaces the deadline of the key; `None` takes it off.
    pub(crate) fn set(&mut self, key: K, due: Option<Instant>) {
        if let Some(old) = self.due.remove(&key) {
            self.order.remove(&(old, key));
        }
        if let Some(due) = due {
            self.due.insert(key, due);
            self.order.insert((due, key));
        }
    }

    /// The earliest deadline.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(due, _)| *due)
    }

    /// Takes off one key whose deadline has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<K> {
        let (due, key) = self.order.first().copied()?;
        if due > now {
            return None;
        }
        self.set(key, None);
        Some(key)
    }
}

/// The earlier of two deadlines, either of which may be absent.
pub(crate) fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_when_due_in_order_of_time_then_key() {
        let at = Instant::from_micros;
        let mut agenda = Agenda::new();
        agenda.set(3, Some(at(10)));
        agenda.set(1, Some(at(20)));
        agenda.set(2, Some(at(10)));
        agenda.set(1, Some(at(5)));
        agenda.set(3, None);
        agenda.set(4, Some(at(10)));
        assert_eq!(agenda.first(), Some(at(5)));
        assert_eq!(agenda.take_due(at(4)), None);
        assert_eq!(agenda.take_due(at(10)), Some(1));
        assert_eq!(agenda.take_due(at(10)), Some(2));
        assert_eq!(agenda.take_due(at(10)), Some(4));
        assert_eq!(agenda.take_due(at(10)), None);
        assert_eq!(agenda.first(), None);
    }

    #[test]
    fn earliest_of_two() {
        let at = Instant::from_micros;
        assert_eq!(earliest(None, None), None);
        assert_eq!(earliest(Some(at(2)), None), Some(at(2)));
        assert_eq!(earliest(Some(at(2)), Some(at(1))), Some(at(1)));
    }
}
