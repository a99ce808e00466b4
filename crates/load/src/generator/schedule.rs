//! When exchanges are due.

use sip::Instant;
use std::time::Duration;

/// Moments at a fixed rate. They depend on nothing but the start and the rate: whoever is late finds all of them waiting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    start: Instant,
    per_second: f64,
    taken: u64,
}

impl Schedule {
    pub(super) fn new(start: Instant, per_second: f64) -> Self {
        // Asked this way round, what is no number at all is the least rate too.
        let per_second = if per_second >= LEAST_RATE { per_second.min(MOST_RATE) } else { LEAST_RATE };
        Self { start, per_second, taken: 0 }
    }

    /// The next moment that was not taken yet.
    pub(super) fn next(&self) -> Instant {
        let seconds = self.taken as f64 / self.per_second;
        self.start + Duration::from_micros((seconds * 1e6).round() as u64)
    }

    /// Takes the next moment if it has come.
    pub(super) fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next();
        if due > now {
            return None;
        }
        self.taken += 1;
        Some(due)
    }
}

/// One exchange in a quarter of an hour.
const LEAST_RATE: f64 = 0.001;
/// The clock counts microseconds.
const MOST_RATE: f64 = 1e6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_do_not_drift() {
        let start = Instant::from_micros(5_000_000);
        let mut schedule = Schedule::new(start, 3.0);
        let taken: Vec<u64> = std::iter::from_fn(|| schedule.take(start + Duration::from_secs(1)))
            .map(|due| due.as_micros() - start.as_micros())
            .collect();
        assert_eq!(taken, [0, 333_333, 666_667, 1_000_000]);
        for _ in 0..1_000_000 {
            schedule.take(Instant::from_micros(u64::MAX));
        }
        assert_eq!(schedule.next(), start + Duration::from_micros(333_334_666_667));
    }

    #[test]
    fn nothing_is_taken_before_its_time() {
        let start = Instant::from_micros(1_000);
        let mut schedule = Schedule::new(start, 1_000.0);
        assert_eq!(schedule.take(Instant::from_micros(999)), None);
        assert_eq!(schedule.take(start), Some(start));
        assert_eq!(schedule.take(Instant::from_micros(1_999)), None);
        assert_eq!(schedule.next(), Instant::from_micros(2_000));
    }

    #[test]
    fn rates_that_are_none_are_very_low() {
        for per_second in [0.0, -5.0, f64::NAN] {
            let mut schedule = Schedule::new(Instant::from_micros(0), per_second);
            assert!(schedule.take(Instant::from_micros(0)).is_some());
            assert_eq!(schedule.take(Instant::from_micros(999_999_999)), None, "{per_second}");
        }
    }
}
