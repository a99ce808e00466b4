//! A limit on events a second that holds to the unit (generic cell rate algorithm, ITU-T I.371).

use sip::Instant;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// After a pause a whole second's events may come at once, then one for each that the second has room for.
#[derive(Debug)]
pub(super) struct Rate {
    /// Events a second; 0: no limit.
    limit: AtomicU32,
    /// When all events so far would have happened at an even pace: nanoseconds on the caller's clock.
    paced: AtomicU64,
}

impl Rate {
    pub(super) fn unlimited() -> Self {
        Self { limit: AtomicU32::new(0), paced: AtomicU64::new(0) }
    }

    /// A new limit starts fresh; the same one goes on counting.
    pub(super) fn configure(&self, limit: u32) {
        if self.limit.swap(limit, SeqCst) != limit {
            self.paced.store(0, SeqCst);
        }
    }

    /// Would [`Rate::take`] succeed?
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.after(self.paced.load(SeqCst), now).is_some()
    }

    /// Counts an event, or says that there is no room for it.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut paced = self.paced.load(SeqCst);
        loop {
            let Some(next) = self.after(paced, now) else {
                return false;
            };
            match self.paced.compare_exchange_weak(paced, next, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(current) => paced = current,
            }
        }
    }

    /// What one more event at `now` makes of `paced`.
    fn after(&self, paced: u64, now: Instant) -> Option<u64> {
        let limit = u64::from(self.limit.load(SeqCst));
        if limit == 0 {
            return Some(paced);
        }
        let now = now.as_micros().saturating_mul(1_000);
        let pace = SECOND / limit;
        let start = paced.max(now);
        (start - now <= pace * (limit - 1)).then_some(start.saturating_add(pace))
    }
}

/// In nanoseconds.
const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(rate: &Rate, micros: u64, tries: usize) -> usize {
        (0..tries).filter(|_| rate.take(Instant::from_micros(micros))).count()
    }

    #[test]
    fn a_second_holds_the_limit_and_no_more() {
        for limit in [1, 2, 3, 7, 1_000] {
            let rate = Rate::unlimited();
            rate.configure(limit);
            let limit = limit as usize;
            assert_eq!(taken(&rate, 5_000_000, limit - 1), limit - 1);
            assert!(rate.is_open(Instant::from_micros(5_000_000)));
            assert_eq!(taken(&rate, 5_000_000, 2), 1);
            assert!(!rate.is_open(Instant::from_micros(5_000_000)));
            assert_eq!(taken(&rate, 6_000_000, limit + 1), limit, "a second later all of it again");
        }
    }

    #[test]
    fn no_limit_and_a_changed_one() {
        let rate = Rate::unlimited();
        assert_eq!(taken(&rate, 0, 100), 100);
        rate.configure(2);
        assert_eq!(taken(&rate, 0, 100), 2);
        rate.configure(2);
        assert_eq!(taken(&rate, 0, 100), 0);
        rate.configure(5);
        assert_eq!(taken(&rate, 0, 100), 5);
    }

    #[test]
    fn threads_share_one_limit() {
        let rate = Rate::unlimited();
        rate.configure(100);
        let total: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| taken(&rate, 1, 100))).collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread only counts")).sum()
        });
        assert_eq!(total, 100);
    }
}
