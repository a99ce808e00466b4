//! Which rate to try next.

/// What is known so far: pure, so that it can be tested against targets with a known peak.
pub(super) struct Search {
    first: f64,
    precision: f64,
    /// The highest rate that went well, however shortly it was tried.
    low: f64,
    /// The highest one that went well over the full time.
    sure: f64,
    /// The lowest one that failed.
    high: Option<f64>,
}

/// A rate to try.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Try {
    pub(super) per_second: f64,
    /// Over the full time.
    pub(super) is_full: bool,
}

impl Search {
    pub(super) fn new(first: f64, precision: f64) -> Self {
        Self { first: first.max(LEAST), precision: precision.max(LEAST_PRECISION), low: 0.0, sure: 0.0, high: None }
    }

    /// `None`: the peak is known.
    pub(super) fn next(&self) -> Option<Try> {
        let full = |per_second: f64| Some(Try { per_second, is_full: true });
        let Some(high) = self.high else {
            let doubled = if self.low > 0.0 { self.low * 2.0 } else { self.first };
            if doubled <= MOST {
                return Some(Try { per_second: doubled, is_full: false });
            }
            return if self.sure < self.low { full(self.low) } else { None };
        };
        if self.low <= 0.0 {
            let half = (high / 2.0).floor();
            return if half >= LEAST { full(half) } else { None };
        }
        let middle = f64::midpoint(self.low, high).round();
        if high - self.low > self.low * self.precision && middle > self.low && middle < high {
            return full(middle);
        }
        if self.sure < self.low { full(self.low) } else { None }
    }

    pub(super) fn record(&mut self, tried: Try, passed: bool) {
        if passed {
            self.low = self.low.max(tried.per_second);
            if tried.is_full {
                self.sure = self.sure.max(tried.per_second);
            }
        } else {
            self.high = Some(self.high.map_or(tried.per_second, |high| high.min(tried.per_second)));
            if tried.per_second <= self.low {
                // What went well for a short while does not go well for long.
                self.low = self.sure;
            }
        }
    }

    /// The highest rate that went well over the full time.
    pub(super) fn peak(&self) -> Option<f64> {
        (self.sure > 0.0).then_some(self.sure)
    }
}

/// One a second.
const LEAST: f64 = 1.0;
const MOST: f64 = 500_000.0;
const LEAST_PRECISION: f64 = 0.001;

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches a target that takes `full` a second, and `short` for a short while. The peak, and how many tries it took.
    fn searched(first: f64, full: f64, short: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(first, 0.05);
        let mut tries = 0;
        while let Some(next) = search.next() {
            tries += 1;
            assert!(tries < 100, "the search does not end: {next:?}");
            search.record(next, next.per_second <= if next.is_full { full } else { short });
        }
        (search.peak(), tries)
    }

    #[test]
    fn the_peak_is_found_to_its_precision() {
        for full in [1.0, 7.0, 99.0, 3_200.0, 3_333.0, 123_456.0] {
            for first in [1.0, 200.0, 5_000.0] {
                for short in [full, full * 1.4, full * 10.0] {
                    let (peak, tries) = searched(first, full, short);
                    let peak = peak.expect("one a second is possible");
                    assert!(peak <= full && peak >= (full / 1.06).floor(), "{peak} of {full} from {first}, {short}");
                    assert!(tries <= 35, "{tries} tries for {full} from {first}, {short}");
                }
            }
        }
    }

    #[test]
    fn where_nothing_goes_well_there_is_no_peak() {
        assert_eq!(searched(200.0, 0.0, 0.0).0, None);
        assert_eq!(searched(200.0, 0.0, 300.0).0, None, "a short success is none");
    }

    #[test]
    fn a_target_without_end_ends_the_search() {
        let (peak, tries) = searched(200.0, f64::INFINITY, f64::INFINITY);
        assert!(peak.is_some_and(|peak| peak > 250_000.0), "{peak:?}");
        assert!(tries < 20, "{tries}");
    }

    #[test]
    fn the_way_up_is_short_and_the_rest_is_not() {
        let mut search = Search::new(100.0, 0.05);
        let mut seen = Vec::new();
        for passed in [true, true, false, false] {
            let next = search.next().expect("it goes on");
            seen.push((next.per_second, next.is_full));
            search.record(next, passed);
        }
        assert_eq!(seen, [(100.0, false), (200.0, false), (400.0, false), (300.0, true)]);
        assert_eq!(search.next(), Some(Try { per_second: 250.0, is_full: true }));
    }
}
