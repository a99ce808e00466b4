//! Counts of times, exact to about three percent at any size.

/// A histogram of microseconds with log-linear buckets: every power of two is split into [`PARTS`] equal ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u64,
    max: u64,
}

/// Times of about the same size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar {
    /// The largest of them, in microseconds, to about three percent: 1, 2 or 5 times a power of ten.
    pub up_to: u64,
    pub count: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, max: 0 }
    }

    /// Counts one time. Those beyond half an hour count as that.
    pub fn record(&mut self, micros: u64) {
        let micros = micros.min(LARGEST);
        if let Some(count) = self.counts.get_mut(bucket(micros)) {
            *count += 1;
        }
        self.total += 1;
        self.sum += micros;
        self.max = self.max.max(micros);
    }

    /// The time that the share `quantile` (0 to 1) of all counted times does not exceed, in microseconds: the upper end of its bucket,
    /// or the largest time counted if that is smaller. Zero when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(bucket).min(self.max);
            }
        }
        self.max
    }

    /// All counted times in bars, shortest first, from the first that is not empty to the last.
    pub fn bars(&self) -> Vec<Bar> {
        let edges = (0..10).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        let mut bars: Vec<Bar> = edges.map(|up_to| Bar { up_to, count: 0 }).collect();
        for (bucket, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let end = upper_end(bucket);
            if let Some(bar) = bars.iter_mut().find(|bar| end <= bar.up_to) {
                bar.count += count;
            }
        }
        let end = bars.iter().rposition(|bar| bar.count > 0).map_or(0, |last| last + 1);
        bars.truncate(end);
        let start = bars.iter().position(|bar| bar.count > 0).unwrap_or(0);
        bars.split_off(start)
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The largest time counted, in microseconds.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean in microseconds; zero when nothing was counted.
    pub fn mean(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum as f64 / self.total as f64 }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// Times below 2 × PARTS have a bucket each; above, the leading bits after the first choose the part of the power of two.
fn bucket(micros: u64) -> usize {
    if micros < 2 * PARTS {
        return micros as usize;
    }
    let shift = u64::from(micros.ilog2() - PART_BITS);
    (shift * PARTS + (micros >> shift)) as usize
}

/// The largest time that counts into `bucket`.
fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    ((bucket % PARTS + PARTS + 1) << shift) - 1
}

const PART_BITS: u32 = 5;
const PARTS: u64 = 1 << PART_BITS;
/// Half an hour, about: 2³¹ − 1 µs.
const LARGEST: u64 = (1 << 31) - 1;
/// One more than the bucket of [`LARGEST`]: 25 shifts above the linear part.
const BUCKETS: usize = (25 * PARTS + 2 * PARTS) as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_dense_ordered_and_narrow() {
        assert!(bucket(LARGEST) < BUCKETS, "{}", bucket(LARGEST));
        let mut previous = 0;
        for micros in (0..5_000).chain((5_000..LARGEST).step_by(99_991)) {
            let at = bucket(micros);
            assert!(at >= previous, "{micros}");
            assert!(micros <= upper_end(at), "{micros}");
            assert!(at == 0 || micros > upper_end(at - 1), "{micros}");
            assert!(upper_end(at) - micros <= micros / 32, "{micros} ends at {}", upper_end(at));
            previous = at;
        }
    }

    #[test]
    fn quantiles_are_those_of_the_counted_times() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile(0.5), histogram.count()), (0, 0));
        for micros in 1..=1_000 {
            histogram.record(micros);
        }
        for (quantile, exact) in [(0.5, 500_u64), (0.99, 990), (0.999, 999), (1.0, 1_000)] {
            let found = histogram.quantile(quantile);
            assert!(found >= exact && found <= exact + exact / 32, "{quantile}: {found}");
        }
        assert_eq!(histogram.quantile(0.0), 1);
        assert_eq!((histogram.count(), histogram.max()), (1_000, 1_000));
        assert!((histogram.mean() - 500.5).abs() < 1e-9);
    }

    #[test]
    fn bars_hold_every_time_once() {
        assert_eq!(Histogram::new().bars(), []);
        let mut histogram = Histogram::new();
        for micros in [0, 90, 150, 160, 900, 3_000_000_000] {
            histogram.record(micros);
        }
        let bars = histogram.bars();
        assert_eq!(bars.iter().map(|bar| bar.count).sum::<u64>(), histogram.count());
        assert_eq!(bars.first(), Some(&Bar { up_to: 1, count: 1 }));
        assert_eq!(bars.last(), Some(&Bar { up_to: 5_000_000_000, count: 1 }), "half an hour and more");
        let of = |up_to: u64| bars.iter().find(|bar| bar.up_to == up_to).map(|bar| bar.count);
        assert_eq!((of(100), of(200), of(500), of(1_000)), (Some(1), Some(2), Some(0), Some(1)));
    }
}
