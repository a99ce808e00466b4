//! `hash-source`: weighted rendezvous hashing by source address.

use super::{Ask, Candidates, Measure, Policy};

#[derive(Debug)]
pub(super) struct HashSource;

impl Policy for HashSource {
    fn name(&self) -> &'static str {
        "hash-source"
    }

    fn doc(&self) -> &'static str {
        "The same source address goes to the same backend; a backend that is lost moves only its own sources."
    }

    fn needs_state(&self) -> bool {
        false
    }

    fn measure(&self) -> Measure {
        Measure::Placed
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.rendezvous(ask, ask.source)
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::mix;
    use super::*;
    use crate::pool::world::{World, at, backend};

    #[test]
    fn weights_are_kept() {
        let mut boxes = vec![backend("a"), backend("b")];
        boxes[0].weight = 3;
        let world = World::new("hash-source", boxes);
        let first = (0..10_000)
            .filter(|&number| world.choose(at(0), &Ask { source: mix(number), ..Ask::default() }) == 0)
            .count();
        assert!((7_300..=7_700).contains(&first), "{first} of 10,000 instead of about 7,500");
    }
}
