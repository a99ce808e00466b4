//! Backends that went down, told to every shard: whichever notices it, all of them have calls there that must move on.

use crate::id::BackendId;
use sip::Instant;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A shard that was asleep for more outages than this follows the newest; its older calls move when their answers are overdue.
/// More than one reload cuts: the calls of a cut that is forgotten hear no BYE.
const KEPT: usize = 16_384;

/// A backend went down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outage {
    pub(crate) backend: BackendId,
    /// What began later has nothing to do with it, however late a shard hears of it. Of a cut: when it has settled.
    pub(crate) at: Instant,
    /// Its calls end as well.
    pub(crate) cut: bool,
}

/// A cut that some shards have not followed yet.
#[derive(Debug)]
struct Cut {
    outage: Outage,
    shards_left: usize,
    /// Found by the others.
    calls: u64,
}

/// The newest outages, numbered.
#[derive(Debug, Default)]
pub(crate) struct Outages {
    count: AtomicU64,
    newest: Mutex<VecDeque<Outage>>,
    cuts: Mutex<VecDeque<Cut>>,
}

impl Outages {
    /// A backend is cut; so many shards will say what they [`found`](Self::found).
    pub(crate) fn record_cut(&self, backend: BackendId, at: Instant, shards: usize) {
        let outage = Outage { backend, at, cut: true };
        {
            let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
            cuts.push_back(Cut { outage, shards_left: shards, calls: 0 });
            if cuts.len() > KEPT {
                cuts.pop_front();
            }
        }
        self.record(outage);
    }

    /// One shard has followed this cut and has ended so many calls; gives the sum of all shards to the last one.
    pub(crate) fn found(&self, outage: &Outage, calls: u64) -> Option<u64> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cuts.iter().position(|cut| cut.outage == *outage)?;
        let cut = cuts.get_mut(at)?;
        cut.calls += calls;
        cut.shards_left = cut.shards_left.saturating_sub(1);
        if cut.shards_left > 0 {
            return None;
        }
        cuts.remove(at).map(|cut| cut.calls)
    }

    /// Whether this backend was cut at `after` or since.
    pub(crate) fn was_cut(&self, backend: BackendId, after: Instant) -> bool {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.iter().rev().any(|outage| outage.cut && outage.backend == backend && outage.at >= after)
    }

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
    pub(crate) fn since(&self, mut seen: u64) -> Vec<Outage> {
        self.follow(&mut seen)
    }

    /// The same, and counts them as seen: each comes once, whoever records another one meanwhile.
    pub(crate) fn follow(&self, seen: &mut u64) -> Vec<Outage> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let count = self.count();
        let fresh = usize::try_from(count - *seen).unwrap_or(KEPT);
        *seen = count;
        let skipped = newest.len().saturating_sub(fresh);
        newest.iter().skip(skipped).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: u32) -> Outage {
        Outage { backend: BackendId(id), at: Instant::from_micros(u64::from(id)), cut: false }
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
        let mut seen = seen;
        assert_eq!([outages.follow(&mut seen).len(), outages.follow(&mut seen).len()], [2, 0]);
        assert_eq!(seen, 3);
    }

    #[test]
    fn the_last_shard_gets_the_sum_of_a_cut() {
        let outages = Outages::default();
        for id in [1, 2, 1] {
            outages.record_cut(BackendId(id), Instant::from_micros(5), 3);
        }
        assert_eq!(outages.count(), 3);
        let cut = |id: u32| Outage { backend: BackendId(id), at: Instant::from_micros(5), cut: true };
        let found = [(1, 4), (2, 1), (1, 0), (1, 3), (2, 1), (2, 1), (2, 9), (1, 5), (1, 5), (1, 5), (1, 5)];
        let told = found.map(|(id, calls)| outages.found(&cut(id), calls));
        assert_eq!(told, [None, None, None, Some(7), None, Some(3), None, None, None, Some(15), None]);
        assert_eq!(outages.found(&of(5), 1), None, "that was no cut");
    }

    #[test]
    fn who_was_cut_is_known_by_its_newest_cut() {
        let outages = Outages::default();
        let at = Instant::from_micros;
        outages.record_cut(BackendId(1), at(5), 1);
        outages.record(of(7));
        let asked = [(1, 4), (1, 5), (1, 6), (2, 4), (7, 4)];
        let was_cut = asked.map(|(id, after)| outages.was_cut(BackendId(id), at(after)));
        assert_eq!(was_cut, [true, true, false, false, false]);
        outages.record_cut(BackendId(1), at(9), 1);
        assert!(outages.was_cut(BackendId(1), at(6)));
    }

    #[test]
    fn a_sleeper_gets_the_newest() {
        let outages = Outages::default();
        for id in 0..20_000 {
            outages.record(of(id));
        }
        let since = outages.since(0);
        assert_eq!((since.len(), since.last()), (KEPT, Some(&of(19_999))));
    }
}
