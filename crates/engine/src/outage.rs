//! Backends that went down, told to every shard: whichever notices it, all of them have calls there that must move on.

use crate::id::BackendId;
use sip::Instant;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A shard that was asleep for more outages than this follows the newest; its older calls move when their answers are overdue.
const KEPT: usize = 256;

/// A backend went down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outage {
    pub(crate) backend: BackendId,
    /// What began later has nothing to do with it, however late a shard hears of it.
    pub(crate) at: Instant,
}

/// The newest outages, numbered.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    count: AtomicU64,
    newest: Mutex<VecDeque<Outage>>,
}

impl Outages {
    pub(crate) fn record(&self, outage: Outage) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.push_back(outage);
        if newest.len() > KEPT {
            newest.pop_front();
        }
        self.count.fetch_add(1, Ordering::Release);
    }

    /// How many there were; cheap enough to ask after every datagram.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// Those after the first `seen`, as far as they are kept.
    pub(crate) fn since(&self, seen: u64) -> Vec<Outage> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = usize::try_from(self.count() - seen).unwrap_or(KEPT);
        let skipped = newest.len().saturating_sub(fresh);
        newest.iter().skip(skipped).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: u32) -> Outage {
        Outage { backend: BackendId(id), at: Instant::from_micros(u64::from(id)) }
    }

    #[test]
    fn each_reader_follows_at_its_own_pace() {
        let outages = Outages::default();
        outages.record(of(1));
        let seen = outages.count();
        outages.record(of(2));
        outages.record(of(3));
        assert_eq!(outages.since(seen), [of(2), of(3)]);
        assert!(outages.since(outages.count()).is_empty());
    }

    #[test]
    fn a_sleeper_gets_the_newest() {
        let outages = Outages::default();
        for id in 0..1_000 {
            outages.record(of(id));
        }
        let since = outages.since(0);
        assert_eq!((since.len(), since.last()), (KEPT, Some(&of(999))));
    }
}
