//! Weighted rendezvous hashing by a table of slots, so that a decision is one look-up.
//!
//! Each slot is won by the member with the least score −ln(u)/w, where u is a uniform hash of slot and member and w the
//! member's weight (Schindelhauer and Schomaker, SPAA 2005; weighted rendezvous). A member that leaves loses only its own
//! slots; one that comes takes slots only for itself. The winner's score is kept: a rise costs one comparison for each slot, a
//! fall recomputes only the slots of the one who fell. The table depends on ids and weights alone, so that every unit has the
//! same.

/// The winners of all slots.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    /// Of the view whose weights were last taken in.
    generation: u64,
    bits: u32,
    /// One for each member, from its id.
    seeds: Vec<u64>,
    weights: Vec<u64>,
    /// Empty until the table is first used.
    winners: Vec<u32>,
    scores: Vec<f64>,
}

impl Slots {
    /// A table of nobody's slots for the members with these ids.
    pub(super) fn new(ids: impl Iterator<Item = u32>) -> Self {
        let seeds: Vec<u64> = ids.map(|id| mix(u64::from(id) ^ MEMBER_SALT)).collect();
        let bits = if seeds.len() <= FEW_MEMBERS { FEW_BITS } else { MANY_BITS };
        Self { generation: 0, bits, weights: vec![0; seeds.len()], seeds, winners: Vec::new(), scores: Vec::new() }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes in new weights; 0: wins nothing.
    pub(super) fn settle(&mut self, generation: u64, weights: &[u64]) {
        if self.winners.is_empty() {
            self.winners = vec![NOBODY; 1 << self.bits];
            self.scores = vec![f64::INFINITY; 1 << self.bits];
        }
        for (member, &weight) in weights.iter().enumerate() {
            let before = std::mem::replace(&mut self.weights[member], weight);
            if weight > before {
                self.rise(member);
            } else if weight < before {
                self.fall(member);
            }
        }
        self.generation = generation;
    }

    /// The slot of a key.
    pub(super) fn slot_of(&self, key: u64) -> usize {
        (mix(key) >> (u64::BITS - self.bits)) as usize
    }

    /// `None`: no member has a weight.
    pub(super) fn winner(&self, slot: usize) -> Option<usize> {
        let winner = *self.winners.get(slot)?;
        (winner != NOBODY).then_some(winner as usize)
    }

    /// The first in the slot's rank among those accepted. Looks at every member, but asks only for those better than the best
    /// so far.
    pub(super) fn best(&self, slot: usize, is_accepted: impl Fn(usize) -> bool) -> Option<usize> {
        self.first(slot, is_accepted).map(|(member, _)| member)
    }

    fn first(&self, slot: usize, is_accepted: impl Fn(usize) -> bool) -> Option<(usize, f64)> {
        let slot_seed = mix(slot as u64);
        let mut best = None;
        let mut least = f64::INFINITY;
        for (member, (&seed, &weight)) in self.seeds.iter().zip(&self.weights).enumerate() {
            if weight > 0
                && let Some(score) = score_below(slot_seed ^ seed, weight as f64, least)
                && is_accepted(member)
            {
                least = score;
                best = Some((member, score));
            }
        }
        best
    }

    /// The member's weight grew: it may win slots, its own included, whose scores must become those of the new weight.
    fn rise(&mut self, member: usize) {
        let (seed, weight) = (self.seeds[member], self.weights[member] as f64);
        let slots = self.winners.iter_mut().zip(self.scores.iter_mut());
        for (slot, (winner, score)) in slots.enumerate() {
            if let Some(better) = score_below(mix(slot as u64) ^ seed, weight, *score) {
                *winner = member as u32;
                *score = better;
            }
        }
    }

    /// The member's weight shrank: only its own slots can change hands.
    fn fall(&mut self, member: usize) {
        for slot in 0..self.winners.len() {
            if self.winners[slot] == member as u32 {
                let first = self.first(slot, |_| true);
                self.winners[slot] = first.map_or(NOBODY, |(winner, _)| winner as u32);
                self.scores[slot] = first.map_or(f64::INFINITY, |(_, score)| score);
            }
        }
    }
}

/// The score −ln(1 − v)/weight with v from the hash, if it is below `bound`. Since −ln(1 − v) ≥ v, most need no logarithm.
fn score_below(hash_input: u64, weight: f64, bound: f64) -> Option<f64> {
    let uniform = (mix(hash_input) >> 11) as f64 * UNIT_53;
    if uniform >= bound * weight {
        return None;
    }
    let score = -(-uniform).ln_1p() / weight;
    (score < bound).then_some(score)
}

/// The step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection that spreads every bit over all bits.
pub(super) fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

const NOBODY: u32 = u32::MAX;

/// Keeps the numbers of members apart from those of slots.
const MEMBER_SALT: u64 = 0x7461_6e64_656d_0000;

/// 2⁻⁵³: the step between two neighbouring uniform numbers.
const UNIT_53: f64 = 1.0 / (1_u64 << 53) as f64;

const FEW_MEMBERS: usize = 128;
/// 16,384 slots: at least 128 for each member, so that shares are within a few per cent of the weights.
const FEW_BITS: u32 = 14;
/// 65,536 slots.
const MANY_BITS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(weights: &[u64]) -> Slots {
        let mut slots = Slots::new((0..weights.len() as u32).map(|number| number * 7 + 1));
        slots.settle(1, weights);
        slots
    }

    fn shares(slots: &Slots) -> Vec<usize> {
        let mut counts = vec![0; slots.seeds.len()];
        for &winner in &slots.winners {
            counts[winner as usize] += 1;
        }
        counts
    }

    #[test]
    fn shares_follow_the_weights() {
        let counts = shares(&settled(&[100, 100, 200]));
        for (count, fair) in counts.into_iter().zip([4_096_usize, 4_096, 8_192]) {
            assert!(count.abs_diff(fair) < fair / 20, "{count} slots, fair are {fair}");
        }
    }

    #[test]
    fn changes_one_by_one_equal_a_new_table() {
        let mut slots = settled(&[100, 100, 100, 100, 100, 100]);
        let steps: [[u64; 6]; 5] = [
            [100, 0, 100, 100, 100, 100],
            [100, 10, 100, 100, 100, 100],
            [100, 70, 0, 100, 300, 100],
            [50, 100, 100, 0, 300, 0],
            [100, 100, 100, 100, 100, 100],
        ];
        for (number, step) in steps.iter().enumerate() {
            slots.settle(2 + number as u64, step);
            assert_eq!(slots.winners, settled(step).winners, "after step {number}");
        }
    }

    #[test]
    fn rising_only_takes_and_falling_only_gives() {
        let before = settled(&[100, 100, 100, 100]);
        let after = settled(&[100, 100, 150, 100]);
        for (old, new) in before.winners.iter().zip(&after.winners) {
            assert!(old == new || *new == 2);
        }
        assert!(shares(&after)[2] > shares(&before)[2]);
    }

    #[test]
    fn nobody_wins_without_weight() {
        let slots = settled(&[0, 0]);
        assert_eq!(slots.winner(slots.slot_of(1)), None);
        assert_eq!(slots.best(0, |_| true), None);
        let slots = settled(&[]);
        assert_eq!(slots.winner(0), None);
    }

    #[test]
    fn a_thousand_members_fill_the_larger_table() {
        let counts = shares(&settled(&vec![100; 1_000]));
        assert_eq!(counts.iter().sum::<usize>(), 65_536);
        assert!(counts.iter().all(|&count| (30..=110).contains(&count)));
    }

    #[test]
    fn the_hash_is_splitmix64() {
        // The first value after the seed 1,234,567, and the first two after the seed 0.
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn every_unit_has_the_same_table() {
        let slots = settled(&[100, 100, 200]);
        assert_eq!(&slots.winners[..12], &[2, 0, 1, 2, 1, 2, 1, 0, 1, 2, 2, 2]);
        // The rank of slot 0 is 2, 0, 1, that of slot 2 is 1, 2, 0.
        assert_eq!(slots.best(0, |member| member != 2), Some(0));
        assert_eq!(slots.best(2, |member| member != 1), Some(2));
        assert_eq!([0, 1, 7].map(|key: u64| slots.slot_of(key)), [14_472, 9_282, 6_386]);
        assert_eq!(Slots::new(0..128).slot_of(1), 9_282);
        assert_eq!(Slots::new(0..129).slot_of(1), 37_130);
    }

    #[test]
    fn of_two_with_the_same_id_the_first_wins() {
        let mut slots = Slots::new([5, 5].into_iter());
        slots.settle(7, &[100, 100]);
        assert!(slots.winners.iter().all(|&winner| winner == 0));
        assert_eq!(slots.generation(), 7, "of the weights taken in last");
    }
}
