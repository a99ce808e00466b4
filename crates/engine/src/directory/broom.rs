//! In what steps one shard sweeps its part of the directory.

use super::STRIPES;
use std::time::Duration;

/// Goes round the stripes whose number leaves `part` when divided by `parts`. The more there is to look at, the more visits a round is
/// divided into: a million users at once would hold up every call for some dozen milliseconds.
#[derive(Debug)]
pub(crate) struct Broom {
    part: usize,
    parts: usize,
    next: usize,
    /// Visits that the round is divided into.
    visits: usize,
}

impl Broom {
    /// How long a round takes.
    pub(crate) const ROUND: Duration = Duration::from_secs(4);
    /// Entries that one visit looks at, more or less: a tenth of a millisecond.
    const A_VISIT: u64 = 2_048;

    pub(crate) fn new(part: usize, parts: usize) -> Self {
        Self { part, parts: parts.max(1), next: part, visits: 1 }
    }

    /// From this visit to the next one.
    pub(crate) fn pause(&self) -> Duration {
        Self::ROUND / self.visits as u32
    }

    /// Stripes of this visit; none where there are more parts than stripes.
    pub(super) fn stripes_now(&self) -> usize {
        self.stripes().div_ceil(self.visits)
    }

    pub(super) fn next_stripe(&mut self) -> usize {
        let stripe = self.next;
        self.next += self.parts;
        if self.next >= STRIPES {
            self.next = self.part;
        }
        stripe
    }

    /// `entries` are in the whole directory: divides the rounds from now on.
    pub(super) fn look_at(&mut self, entries: u64) {
        let visits = 1 + entries / self.parts as u64 / Self::A_VISIT;
        self.visits = usize::try_from(visits).unwrap_or(usize::MAX).clamp(1, self.stripes().max(1));
    }

    fn stripes(&self) -> usize {
        STRIPES.saturating_sub(self.part).div_ceil(self.parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All stripes that a round of all parts comes to.
    fn round(parts: usize, entries: u64) -> Vec<usize> {
        let mut stripes: Vec<usize> = Vec::new();
        for part in 0..parts {
            let mut broom = Broom::new(part, parts);
            broom.look_at(entries);
            for _ in 0..broom.visits {
                for _ in 0..broom.stripes_now() {
                    stripes.push(broom.next_stripe());
                }
            }
        }
        stripes.sort_unstable();
        stripes.dedup();
        stripes
    }

    #[test]
    fn a_round_comes_to_every_stripe() {
        let all: Vec<usize> = (0..STRIPES).collect();
        for parts in [1, 2, 3, 7, STRIPES, STRIPES + 3] {
            for entries in [0, 2_047, 2_048, 10_000, 1_000_000, u64::MAX] {
                assert_eq!(round(parts, entries), all, "{parts} {entries}");
            }
        }
    }

    #[test]
    fn visits_grow_with_the_entries_and_end_at_one_stripe() {
        let mut broom = Broom::new(0, 2);
        for (entries, visits) in [(0, 1), (4_095, 1), (4_096, 2), (1_000_000, 32)] {
            broom.look_at(entries);
            assert_eq!((broom.visits, broom.pause()), (visits, Broom::ROUND / visits as u32), "{entries}");
        }
        assert_eq!(broom.stripes_now(), 1);
    }
}
