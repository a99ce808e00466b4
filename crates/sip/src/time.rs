//! Moments on a clock that the caller owns.

use std::ops::{Add, AddAssign};
use std::time::Duration;

/// A moment on the caller's monotonic clock: microseconds since an arbitrary start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Instant(u64);

impl Instant {
    /// The moment `micros` microseconds after the clock's start.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the clock's start.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; zero where `earlier` is the later one.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// The moment `duration` later, or the end of time where the clock cannot count that far.
    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addition_and_difference_saturate() {
        let start = Instant::from_micros(1_000_000);
        let mut later = start + Duration::from_millis(500);
        assert_eq!(later.as_micros(), 1_500_000);
        assert_eq!(later.saturating_since(start), Duration::from_millis(500));
        assert_eq!(start.saturating_since(later), Duration::ZERO);
        later += Duration::MAX;
        assert_eq!(later.as_micros(), u64::MAX);
        assert!(later > start);
    }
}
