//! A bounded table whose entries are forgotten in batches: two generations, the older one dropped whole. No entry needs a
//! timer of its own.

use hashbrown::HashMap;
use sip::Instant;
use std::time::Duration;

/// Entries live for at least `period` after their last use and at most twice as long.
#[derive(Debug)]
pub(crate) struct Generations<V> {
    young: HashMap<u64, V, foldhash::fast::FixedState>,
    old: HashMap<u64, V, foldhash::fast::FixedState>,
    turned: Instant,
    period: Duration,
    /// Of both generations together.
    capacity: usize,
}

impl<V: Copy> Generations<V> {
    pub(crate) fn new(now: Instant, period: Duration, capacity: usize) -> Self {
        Self { young: HashMap::default(), old: HashMap::default(), turned: now, period, capacity }
    }

    /// The value of `key`; reading it is a use.
    pub(crate) fn find(&mut self, now: Instant, key: u64) -> Option<V> {
        self.turn(now);
        if let Some(value) = self.young.get(&key) {
            return Some(*value);
        }
        let value = self.old.remove(&key)?;
        self.young.insert(key, value);
        Some(value)
    }

    /// The value of `key`, without using it.
    pub(crate) fn peek(&self, now: Instant, key: u64) -> Option<V> {
        let age = now.saturating_since(self.turned);
        if age >= 2 * self.period {
            return None;
        }
        let old = || {
            if age < self.period { self.old.get(&key) } else { None }
        };
        self.young.get(&key).or_else(old).copied()
    }

    /// Remembers `value`; when the table is full the older generation goes at once.
    pub(crate) fn insert(&mut self, now: Instant, key: u64, value: V) {
        self.turn(now);
        if self.young.len() >= self.capacity / 2 {
            self.shift(now);
        }
        self.young.insert(key, value);
    }

    /// Forgets all entries whose value does not satisfy `keep`.
    pub(crate) fn retain(&mut self, keep: impl Fn(&V) -> bool) {
        self.young.retain(|_, value| keep(value));
        self.old.retain(|_, value| keep(value));
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_since(self.turned);
        if age >= 2 * self.period {
            self.young = HashMap::default();
            self.old = HashMap::default();
            self.turned = now;
        } else if age >= self.period {
            self.shift(now);
        }
    }

    fn shift(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn an_entry_lives_for_one_period_and_not_for_two() {
        let mut table = Generations::new(at(0), Duration::from_secs(32), 100);
        table.insert(at(31), 1, 'a');
        assert_eq!(table.peek(at(63), 1), Some('a'));
        assert_eq!(table.find(at(63), 1), Some('a'));
        assert_eq!(table.find(at(200), 1), None);
    }

    #[test]
    fn use_keeps_an_entry() {
        let mut table = Generations::new(at(0), Duration::from_secs(10), 100);
        table.insert(at(0), 1, 'a');
        for second in 0..100 {
            assert_eq!(table.find(at(second), 1), Some('a'));
        }
    }

    #[test]
    fn capacity_holds_at_every_moment() {
        let mut table = Generations::new(at(0), Duration::from_secs(10), 100);
        for key in 0..1_000 {
            table.insert(at(1), key, ());
            assert!(table.len() <= 100);
        }
        assert_eq!(table.find(at(1), 999), Some(()));
    }

    #[test]
    fn the_older_generation_ends_a_period_after_the_turn() {
        let mut table = Generations::new(at(0), Duration::from_secs(10), 100);
        table.insert(at(0), 1, 'a');
        table.insert(at(10), 2, 'b');
        let (a, b) = (Some('a'), Some('b'));
        for (second, left) in [(10, (a, b)), (19, (a, b)), (20, (None, b)), (29, (None, b)), (30, (None, None))] {
            assert_eq!((table.peek(at(second), 1), table.peek(at(second), 2)), left, "{second}");
        }
        // To ask is no use of an entry.
        assert_eq!((table.find(at(29), 1), table.find(at(29), 2)), (None, b));
        assert_eq!(table.find(at(49), 2), None);
    }

    #[test]
    fn each_generation_has_half_of_the_room() {
        let mut table = Generations::new(at(0), Duration::from_secs(10), 4);
        let mut left = |last: u64| {
            table.insert(at(1), last, ());
            (1..=last).filter(|&key| table.peek(at(1), key).is_some()).collect::<Vec<u64>>()
        };
        assert_eq!([1, 2, 3, 4].map(|last| left(last).len()), [1, 2, 3, 4]);
        assert_eq!(left(5), [3, 4, 5]);
    }

    #[test]
    fn what_is_not_kept_leaves_both_generations() {
        let mut table = Generations::new(at(0), Duration::from_secs(10), 100);
        for (second, key, value) in [(0, 1, 'a'), (0, 2, 'b'), (10, 3, 'a'), (10, 4, 'b')] {
            table.insert(at(second), key, value);
        }
        table.retain(|value| *value == 'b');
        assert_eq!([1, 2, 3, 4].map(|key| table.peek(at(11), key)), [None, Some('b'), None, Some('b')]);
    }
}
