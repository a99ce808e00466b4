//! How fast a backend answers: peak-EWMA, as in Finagle.

use sip::Instant;
use std::time::Duration;

/// An average of the times to the first answer that jumps to a peak at once and decays exponentially.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latency {
    micros: f64,
    /// When `micros` was true.
    at: Instant,
    is_known: bool,
}

impl Latency {
    pub(super) fn new(now: Instant) -> Self {
        Self { micros: UNKNOWN_MICROS, at: now, is_known: false }
    }

    pub(super) fn record(&mut self, now: Instant, elapsed: Duration) {
        let sample = (elapsed.as_micros() as f64).max(1.0);
        if !self.is_known || sample >= self.micros {
            self.micros = sample;
        } else {
            let age = now.saturating_since(self.at).as_micros() as f64;
            let kept = (-age / DECAY_MICROS).exp();
            self.micros = self.micros * kept + sample * (1.0 - kept);
        }
        self.at = self.at.max(now);
        self.is_known = true;
    }

    /// As of the last answer; zero before the first.
    pub(super) fn value(&self) -> Duration {
        if self.is_known { Duration::from_micros(self.micros as u64) } else { Duration::ZERO }
    }

    /// A number that orders backends by their decayed latency at any one moment. All decay by the same factor, so that the
    /// logarithm of the latency, moved by when it was true, needs no clock: a slow backend is tried again once it was left alone
    /// for long enough.
    pub(super) fn score(&self) -> f64 {
        self.micros.log2() + self.at.as_micros() as f64 / DECAY_MICROS * std::f64::consts::LOG2_E
    }
}

/// What a backend that never answered is taken to need: neither a magnet nor left out.
const UNKNOWN_MICROS: f64 = 1_000.0;

/// The time constant: 10 s.
const DECAY_MICROS: f64 = 10_000_000.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1_000)
    }

    #[test]
    fn jumps_up_and_decays_in_ten_seconds() {
        let mut latency = Latency::new(at(0));
        assert_eq!(latency.value(), Duration::ZERO);
        latency.record(at(0), Duration::from_millis(10));
        latency.record(at(1), Duration::from_millis(110));
        assert_eq!(latency.value(), Duration::from_millis(110));
        latency.record(at(10_001), Duration::from_millis(10));
        let expected = 10.0 + 100.0 / std::f64::consts::E;
        let error = latency.value().as_secs_f64() * 1_000.0 - expected;
        assert!(error.abs() < 0.01, "{latency:?}");
    }

    #[test]
    fn scores_compare_decayed_latencies() {
        let mut slow = Latency::new(at(0));
        slow.record(at(0), Duration::from_millis(100));
        let mut fast = Latency::new(at(0));
        // A tenth is reached after ln 10 × 10 s = 23.03 s.
        fast.record(at(22_900), Duration::from_millis(10));
        assert!(fast.score() < slow.score());
        fast.record(at(23_100), Duration::from_millis(10));
        assert!(fast.score() > slow.score());
    }
}
