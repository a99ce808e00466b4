//! `random-two`: the power of two choices (Mitzenmacher, IEEE TPDS 12(10) 2001).

use super::{Ask, Candidates, Measure, Policy};

#[derive(Debug)]
pub(super) struct RandomTwo;

impl Policy for RandomTwo {
    fn name(&self) -> &'static str {
        "random-two"
    }

    fn doc(&self) -> &'static str {
        "Of two backends drawn at random the one with fewer calls for its weight."
    }

    fn needs_state(&self) -> bool {
        true
    }

    fn measure(&self) -> Measure {
        Measure::Calls
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        let active = candidates.active();
        let (first, second) = draw_two(active.len(), ask.random)?;
        let one = active[first];
        let other = active[second];
        let (better, worse) = if candidates.key(other) < candidates.key(one) { (other, one) } else { (one, other) };
        if candidates.is_free(better, ask) {
            return Some(better);
        }
        if candidates.is_free(worse, ask) {
            return Some(worse);
        }
        let (before, after) = active.split_at(first);
        after.iter().chain(before).copied().find(|&member| candidates.is_free(member, ask))
    }
}

/// Two different numbers below `count` (the same twice if there is only one), from the halves of `random`.
fn draw_two(count: usize, random: u64) -> Option<(usize, usize)> {
    if count == 0 {
        return None;
    }
    let first = scale(random >> 32, count);
    if count == 1 {
        return Some((first, first));
    }
    let second = scale(random & 0xffff_ffff, count - 1);
    Some((first, if second >= first { second + 1 } else { second }))
}

/// Maps 32 random bits evenly to the numbers below `count`.
fn scale(bits: u64, count: usize) -> usize {
    ((u128::from(bits) * count as u128) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::slots::mix;
    use crate::pool::world::{World, at};

    #[test]
    fn draws_are_different_and_in_range() {
        assert_eq!(draw_two(0, 7), None);
        assert_eq!(draw_two(1, u64::MAX), Some((0, 0)));
        assert_eq!(draw_two(2, u64::MAX), Some((1, 0)));
        for number in 0..10_000 {
            let (first, second) = draw_two(7, mix(number)).expect("seven can be drawn from");
            assert!(first < 7 && second < 7 && first != second);
        }
    }

    #[test]
    fn calls_stay_close_together() {
        let world = World::equal("random-two", 10);
        let mut tickets = Vec::new();
        for number in 0..10_000 {
            let ask = Ask { random: mix(number), call: true, ..Ask::default() };
            let chosen = world.choose(at(0), &ask);
            tickets.push(world.states[chosen].take_call(at(0)).expect("no limit is set"));
        }
        for state in &world.states {
            assert!(state.calls().abs_diff(1_000) <= 20, "{} calls of a mean of 1,000", state.calls());
        }
    }

    #[test]
    fn finds_the_only_free_one() {
        let world = World::equal("random-two", 5);
        for number in 0..100 {
            let ask = Ask { random: mix(number), exclude: &[0, 1, 2, 4], ..Ask::default() };
            assert_eq!(world.choose(at(0), &ask), 3);
        }
    }

    #[test]
    fn the_less_loaded_wins_and_of_equals_the_one_drawn_first() {
        let world = World::equal("random-two", 2);
        let choose = |random: u64| world.choose(at(0), &Ask { random, ..Ask::default() });
        assert_eq!([choose(0), choose(1 << 63)], [0, 1]);
        let _call = world.states[0].restore_call();
        assert_eq!([choose(0), choose(1 << 63)], [1, 1]);
        let _calls = [world.states[1].restore_call(), world.states[1].restore_call()];
        assert_eq!([choose(0), choose(1 << 63)], [0, 0]);
    }
}
