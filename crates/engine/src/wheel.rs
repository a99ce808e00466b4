//! A hashed timing wheel (Varghese and Lauck 1987): arming and firing cost O(1), whatever the number of timers.
//!
//! A timer is a number and nothing else. Its owner knows the exact deadline: a timer that fires early, because its slot is
//! visited a turn too soon or because the deadline moved on meanwhile, is armed again by its owner. So a deadline that moves
//! later, as every retransmission timer's does when the answer comes, costs nothing.

use sip::Instant;
use std::time::Duration;

const TICK_MICROS: u64 = 8_192;
const SLOTS: usize = 4_096;

/// One wheel: 4,096 slots of 8.192 ms, 33.5 s a turn, which is a little more than 64 × T1.
#[derive(Debug)]
pub(crate) struct Wheel<T> {
    slots: Vec<Vec<T>>,
    /// One bit a slot: is there anything in it?
    occupied: [u64; SLOTS / 64],
    /// The next tick to visit.
    tick: u64,
}

impl<T: Copy> Wheel<T> {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            slots: std::iter::repeat_with(Vec::new).take(SLOTS).collect(),
            occupied: [0; SLOTS / 64],
            tick: tick_of(now),
        }
    }

    /// Arms `timer` for `deadline`, rounded up to a tick. A deadline more than a turn away fires at the end of this turn.
    pub(crate) fn arm(&mut self, deadline: Instant, timer: T) {
        let furthest = self.tick + SLOTS as u64 - 1;
        let tick = deadline.as_micros().div_ceil(TICK_MICROS).clamp(self.tick, furthest);
        let slot = (tick % SLOTS as u64) as usize;
        self.slots[slot].push(timer);
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    /// Moves every timer whose tick has come into `due`.
    pub(crate) fn turn(&mut self, now: Instant, due: &mut Vec<T>) {
        let last = tick_of(now);
        while let Some(ahead) = self.next_occupied()
            && self.tick + ahead <= last
        {
            self.tick += ahead;
            let slot = (self.tick % SLOTS as u64) as usize;
            // With its memory: or each burst would leave its own in other slots.
            due.append(&mut std::mem::take(&mut self.slots[slot]));
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
        self.tick = self.tick.max(last + 1);
    }

    /// When the next occupied slot is to be visited.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let ahead = self.next_occupied()?;
        Some(Instant::from_micros((self.tick + ahead) * TICK_MICROS))
    }

    /// Ticks from the current one to the next occupied slot.
    fn next_occupied(&self) -> Option<u64> {
        let start = (self.tick % SLOTS as u64) as usize;
        let words = self.occupied.len();
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == words {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                return Some(((slot + SLOTS - start) % SLOTS) as u64);
            }
        }
        None
    }
}

/// The tick that has begun at `now`.
fn tick_of(now: Instant) -> u64 {
    now.as_micros() / TICK_MICROS
}

/// The rounding of every deadline.
pub const RESOLUTION: Duration = Duration::from_micros(TICK_MICROS);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1_000)
    }

    fn tick(number: u64) -> Instant {
        Instant::from_micros(number * 8_192)
    }

    #[test]
    fn fires_at_the_deadline_and_not_before() {
        let mut wheel = Wheel::new(at(0));
        wheel.arm(at(500), 1_u32);
        wheel.arm(at(200), 2);
        let mut due = Vec::new();
        wheel.turn(at(199), &mut due);
        assert!(due.is_empty());
        let next = wheel.next_deadline().expect("armed");
        assert!(next >= at(200) && next.saturating_since(at(200)) <= RESOLUTION);
        wheel.turn(next, &mut due);
        assert_eq!(due, [2]);
        wheel.turn(at(600), &mut due);
        assert_eq!(due, [2, 1]);
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_deadline_beyond_one_turn_fires_early_at_the_end_of_the_turn() {
        let mut wheel = Wheel::new(at(10_000));
        wheel.arm(at(200_000), 1_u8);
        let mut due = Vec::new();
        wheel.turn(at(43_000), &mut due);
        assert!(due.is_empty());
        wheel.turn(at(44_000), &mut due);
        assert_eq!(due, [1]);
    }

    #[test]
    fn a_deadline_in_the_past_fires_at_once() {
        let mut wheel = Wheel::new(at(5_000));
        wheel.turn(at(6_000), &mut Vec::new());
        wheel.arm(at(1), 9_u8);
        let next = wheel.next_deadline().expect("armed");
        let mut due = Vec::new();
        wheel.turn(next, &mut due);
        assert_eq!(due, [9]);
        assert!(next.saturating_since(at(6_000)) <= RESOLUTION);
    }

    #[test]
    fn every_timer_fires_once_over_many_turns() {
        let mut wheel = Wheel::new(at(0));
        let mut seen = 0;
        let mut due = Vec::new();
        for step in 0..10_000_u64 {
            wheel.arm(at(step * 37 + step % 30_000), step);
            wheel.turn(at(step * 37), &mut due);
            seen += due.len();
            due.clear();
        }
        wheel.turn(at(1_000_000), &mut due);
        assert_eq!(seen + due.len(), 10_000);
    }

    #[test]
    fn the_nearest_slot_is_next_wherever_the_turn_stands() {
        // 4,096 is slot 0 again; 4,160 and 4,195 share their word of bits with the start.
        let start = 100;
        let ticks = [100, 101, 127, 128, 200, 4_095, 4_096, 4_160, 4_195_u64];
        let mut wheel = Wheel::new(tick(start));
        for &armed in ticks.iter().rev() {
            let mut alone = Wheel::new(tick(start));
            alone.arm(tick(armed), armed);
            assert_eq!(alone.next_deadline(), Some(tick(armed)));
            wheel.arm(tick(armed), armed);
        }
        for armed in ticks {
            assert_eq!(wheel.next_deadline(), Some(tick(armed)));
            let mut due = Vec::new();
            wheel.turn(Instant::from_micros(armed * 8_192 - 1), &mut due);
            assert!(due.is_empty());
            wheel.turn(tick(armed), &mut due);
            assert_eq!(due, [armed]);
        }
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn deadlines_are_rounded_up_and_kept_within_this_turn() {
        // Behind the start, on a tick, a microsecond after it, on the last tick of the turn, and beyond.
        for (micros, fires_at) in [(0, 100), (827_392, 101), (827_393, 102), (34_365_440, 4_195), (34_365_441, 4_195)] {
            let mut wheel = Wheel::new(tick(100));
            wheel.arm(Instant::from_micros(micros), 1_u8);
            assert_eq!(wheel.next_deadline(), Some(tick(fires_at)), "{micros} µs");
        }
    }

    #[test]
    fn a_deadline_that_is_over_fires_at_the_next_tick() {
        for later in [None, Some(at(30_000))] {
            let mut wheel = Wheel::new(at(5_000));
            if let Some(later) = later {
                wheel.arm(later, 7_u8);
            }
            // Tick 732 has begun and was visited.
            let mut due = Vec::new();
            wheel.turn(at(6_000), &mut due);
            assert!(due.is_empty());
            wheel.arm(at(1), 9);
            assert_eq!(wheel.next_deadline(), Some(tick(733)));
        }
    }
}
