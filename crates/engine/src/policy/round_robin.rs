//! `round-robin`: each backend in turn.

use super::{Ask, Candidates, Policy};

#[derive(Debug)]
pub(super) struct RoundRobin;

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "round-robin"
    }

    fn doc(&self) -> &'static str {
        "Each backend in turn, whatever its weight."
    }

    fn needs_state(&self) -> bool {
        true
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.next_in_turn(ask)
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::Ask;
    use crate::pool::world::{World, at, backend};

    #[test]
    fn weight_does_not_count_and_exclusion_does() {
        let mut boxes = vec![backend("a"), backend("b"), backend("c")];
        boxes[2].weight = 9;
        let world = World::new("round-robin", boxes);
        let picks: Vec<usize> = (0..6).map(|_| world.choose(at(0), &Ask::default())).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
        let ask = Ask { exclude: &[1], ..Ask::default() };
        let picks: Vec<usize> = (0..4).map(|_| world.choose(at(0), &ask)).collect();
        assert_eq!(picks, [0, 2, 0, 2]);
    }
}
