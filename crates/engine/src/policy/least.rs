//! The member with the least key, found without looking at all of them.

/// Keys of all members in blocks whose minimum is known: setting one key costs a block, finding the least costs the blocks.
#[derive(Clone, Debug)]
pub(crate) struct Least {
    /// Infinity: no candidate.
    keys: Vec<f64>,
    /// The least key of each block.
    blocks: Vec<f64>,
}

impl Least {
    /// No member is a candidate yet.
    pub(crate) fn new(count: usize) -> Self {
        Self { keys: vec![f64::INFINITY; count], blocks: vec![f64::INFINITY; count.div_ceil(BLOCK)] }
    }

    pub(crate) fn set(&mut self, member: usize, key: f64) {
        self.keys[member] = key;
        let block = member / BLOCK;
        let start = block * BLOCK;
        let end = (start + BLOCK).min(self.keys.len());
        self.blocks[block] = minimum(&self.keys[start..end]);
    }

    pub(super) fn key(&self, member: usize) -> f64 {
        self.keys[member]
    }

    /// The free member with the least key; among equals the first at or after `start`, going round.
    pub(super) fn least(&self, start: usize, is_free: impl Fn(usize) -> bool) -> Option<usize> {
        let start = if start < self.keys.len() { start } else { 0 };
        let least = minimum(&self.blocks);
        if least == f64::INFINITY {
            return None;
        }
        let first =
            self.first_at_most(least, start, self.keys.len()).or_else(|| self.first_at_most(least, 0, start))?;
        if is_free(first) {
            return Some(first);
        }
        self.least_of_free(start, is_free)
    }

    /// The first member in `from..to` with a key of at most `key`.
    fn first_at_most(&self, key: f64, from: usize, to: usize) -> Option<usize> {
        let mut at = from;
        while at < to {
            let block = at / BLOCK;
            let end = ((block + 1) * BLOCK).min(to);
            if self.blocks[block] <= key
                && let Some(found) = self.keys[at..end].iter().position(|&known| known <= key)
            {
                return Some(at + found);
            }
            at = end;
        }
        None
    }

    /// Rare, since the least is seldom excluded or full: looks at every key, asking only for those better than the best so far.
    fn least_of_free(&self, start: usize, is_free: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut least = f64::INFINITY;
        for member in (start..self.keys.len()).chain(0..start) {
            if self.keys[member] < least && is_free(member) {
                least = self.keys[member];
                best = Some(member);
            }
        }
        best
    }
}

fn minimum(keys: &[f64]) -> f64 {
    keys.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The square root of a thousand members, as a power of two.
const BLOCK: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::slots::mix;

    #[test]
    fn nobody_is_least_among_none() {
        assert_eq!(Least::new(0).least(0, |_| true), None);
        assert_eq!(Least::new(100).least(5, |_| true), None);
    }

    #[test]
    fn agrees_with_a_plain_scan() {
        for count in [1_usize, 31, 32, 33, 100, 1_000] {
            let mut index = Least::new(count);
            let mut plain = vec![f64::INFINITY; count];
            for step in 0..2_000_u64 {
                let member = mix(step) as usize % count;
                let key = (mix(step ^ 0x55) % 7) as f64;
                let key = if key == 6.0 { f64::INFINITY } else { key };
                index.set(member, key);
                plain[member] = key;
                let start = mix(step ^ 0xaa) as usize % count;
                let is_free = |member: usize| !(member + step as usize).is_multiple_of(3);
                let mut expected: Option<usize> = None;
                for candidate in (start..count).chain(0..start) {
                    let better = expected.is_none_or(|best| plain[candidate] < plain[best]);
                    if plain[candidate] < f64::INFINITY && is_free(candidate) && better {
                        expected = Some(candidate);
                    }
                }
                assert_eq!(index.least(start, is_free), expected, "{count} members, step {step}");
            }
        }
    }
}
