//! Numbers that look random and follow from a seed (splitmix64, Steele, Lea and Flood, OOPSLA 2014).

/// A source of tags, branches, Call-IDs and nonces. Not for secrets of a real deployment.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The name keeps two agents apart that were given the same seed.
    pub(crate) fn new(seed: u64, name: &[u8]) -> Self {
        let mut state = seed ^ 0xcbf2_9ce4_8422_2325;
        for octet in name {
            state = (state ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self(state)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Sixteen hexadecimal digits.
    pub(crate) fn token(&mut self) -> Vec<u8> {
        format!("{:016x}", self.number()).into_bytes()
    }
}

/// The output function of splitmix64: a bijection in which every input bit changes about half of the output bits.
pub(crate) fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn same_seed_and_name_give_the_same_tokens_and_others_do_not() {
        let mut one = Random::new(7, b"bonnie");
        let mut same = Random::new(7, b"bonnie");
        let mut other = Random::new(7, b"clyde");
        let token = one.token();
        assert_eq!(token, same.token());
        assert_ne!(token, other.token());
        assert_eq!(token.len(), 16);
    }

    #[test]
    fn ten_thousand_tokens_are_all_different() {
        let mut random = Random::new(0, b"");
        let tokens: BTreeSet<Vec<u8>> = (0..10_000).map(|_| random.token()).collect();
        assert_eq!(tokens.len(), 10_000);
    }
}
