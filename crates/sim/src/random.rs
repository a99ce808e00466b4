//! Seeded randomness (splitmix64; Steele, Lea, Flood, OOPSLA 2014): small, fast, and the same on every machine.

use std::time::Duration;

/// One stream of numbers.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    pub fn new(seed: u64) -> Self {
        Self { state: mix(seed) }
    }

    /// A stream of its own for `label`, so that what one part of the world draws does not change what another part gets.
    pub fn stream(seed: u64, label: u64) -> Self {
        Self { state: mix(mix(seed) ^ label.wrapping_mul(STEP).rotate_left(17)) }
    }

    pub fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(STEP);
        mix(self.state)
    }

    /// A number below `limit`; 0 when there is none.
    pub fn below(&mut self, limit: u64) -> u64 {
        let number = self.draw();
        if limit == 0 { 0 } else { number % limit }
    }

    /// An index into a list of `len` entries; 0 for an empty one.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True `permille` times out of a thousand.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.below(1_000) < u64::from(permille)
    }

    /// A time from `low` to `high`, both included, in microseconds.
    pub fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_micros() as u64;
        low + Duration::from_micros(self.below(span.saturating_add(1)))
    }
}

fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_and_streams_differ() {
        let draw = |mut random: Random| -> Vec<u64> { (0..8).map(|_| random.draw()).collect() };
        assert_eq!(draw(Random::new(7)), draw(Random::new(7)));
        assert_ne!(draw(Random::new(7)), draw(Random::new(8)));
        assert_ne!(draw(Random::stream(7, 1)), draw(Random::stream(7, 2)));
    }

    #[test]
    fn chances_come_true_as_often_as_said() {
        let mut random = Random::new(1);
        let hits = (0..100_000).filter(|_| random.chance(50)).count();
        assert!((4_700..5_300).contains(&hits), "{hits} of 100,000 at 50 in 1,000");
        assert!(!(0..1_000).any(|_| random.chance(0)));
        assert!((0..1_000).all(|_| random.chance(1_000)));
    }

    #[test]
    fn times_stay_inside_their_bounds() {
        let mut random = Random::new(2);
        let (low, high) = (Duration::from_millis(3), Duration::from_millis(5));
        for _ in 0..1_000 {
            let time = random.between(low, high);
            assert!(low <= time && time <= high);
        }
        assert_eq!(random.between(high, high), high);
    }
}
