//! The load of a pool's members, side by side, so that a decision reads one array instead of every state.

use super::passive::Quorum;
use crate::policy::Measure;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

/// One reading for each member, of the measure the pool's policy compares. Written by the states of the members.
#[derive(Debug)]
pub(crate) struct Gauges {
    measure: Measure,
    readings: Vec<AtomicU64>,
    /// The sum of the readings; kept for [`Measure::Placed`] only.
    total: AtomicU64,
    /// A bit for each member whose reading changed since the pool last looked.
    changed: Vec<AtomicU64>,
    /// Counts changes of a member's standing.
    version: AtomicU64,
    quorum: Quorum,
}

impl Gauges {
    pub(crate) fn new(measure: Measure, members: usize) -> Self {
        Self {
            measure,
            readings: (0..members).map(|_| AtomicU64::new(0)).collect(),
            total: AtomicU64::new(0),
            changed: (0..members.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            version: AtomicU64::new(0),
            quorum: Quorum::new(members),
        }
    }

    pub(crate) fn measure(&self) -> Measure {
        self.measure
    }

    pub(crate) fn reading(&self, member: usize) -> u64 {
        self.readings[member].load(SeqCst)
    }

    /// Each swap is matched by its difference, so that the total is exact whatever the order of the writers.
    pub(super) fn store(&self, member: usize, reading: u64) {
        let before = self.readings[member].swap(reading, SeqCst);
        if before == reading {
            return;
        }
        if self.measure == Measure::Placed {
            // Modulo 2^64, as atomics add: the difference may be negative.
            self.total.fetch_add(reading.wrapping_sub(before), SeqCst);
        }
        // After the reading: who takes the bit sees the reading.
        self.changed[member / 64].fetch_or(1 << (member % 64), SeqCst);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(SeqCst)
    }

    /// Calls `take_in` for each member whose reading changed since the last call.
    pub(super) fn take_changes(&self, mut take_in: impl FnMut(usize)) {
        for (word, changed) in self.changed.iter().enumerate() {
            if changed.load(SeqCst) == 0 {
                continue;
            }
            let mut bits = changed.swap(0, SeqCst);
            while bits != 0 {
                take_in(word * 64 + bits.trailing_zeros() as usize);
                bits &= bits - 1;
            }
        }
    }

    /// Who of the members is in use: kept by their states too.
    pub(super) fn quorum(&self) -> &Quorum {
        &self.quorum
    }

    pub(super) fn version(&self) -> u64 {
        self.version.load(SeqCst)
    }

    pub(super) fn outdate(&self) {
        self.version.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_once() {
        let gauges = Gauges::new(Measure::Placed, 130);
        for (member, reading) in [(0, 5), (3, 7), (64, 1), (129, 9), (64, 2), (1, 0)] {
            gauges.store(member, reading);
        }
        let mut told = Vec::new();
        gauges.take_changes(|member| {
            assert!(told.len() < 4, "member {member} is told of again");
            told.push((member, gauges.reading(member)));
        });
        assert_eq!(told, [(0, 5), (3, 7), (64, 2), (129, 9)]);
        gauges.take_changes(|member| panic!("member {member} did not change"));
        assert_eq!(gauges.total(), 23);
        gauges.store(0, 1);
        assert_eq!(gauges.total(), 19);
    }
}
