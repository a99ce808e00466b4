//! `hash-call-id`: weighted rendezvous hashing by Call-ID.

use super::{Ask, Candidates, Measure, Policy};

#[derive(Debug)]
pub(super) struct HashCallId;

impl Policy for HashCallId {
    fn name(&self) -> &'static str {
        "hash-call-id"
    }

    fn doc(&self) -> &'static str {
        "The same Call-ID goes to the same backend; a backend that is lost moves only its own calls."
    }

    fn needs_state(&self) -> bool {
        false
    }

    fn measure(&self) -> Measure {
        Measure::Placed
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.rendezvous(ask, ask.call_id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::slots::mix;
    use super::*;
    use crate::pool::world::{World, at};

    #[test]
    fn only_the_call_id_counts() {
        let world = World::equal("hash-call-id", 6);
        for number in 0..100 {
            let ask = Ask { call_id: mix(number), ..Ask::default() };
            let other = Ask { user: mix(number + 1), source: mix(number + 2), random: mix(number + 3), ..ask };
            assert_eq!(world.choose(at(0), &ask), world.choose(at(0), &other));
        }
    }
}
