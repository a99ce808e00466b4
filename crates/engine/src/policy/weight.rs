//! `weight`: smooth weighted round robin.

use super::{Ask, Candidates, Policy};

#[derive(Debug)]
pub(super) struct Weight;

impl Policy for Weight {
    fn name(&self) -> &'static str {
        "weight"
    }

    fn doc(&self) -> &'static str {
        "Each backend in turn as often as its weight says, the turns of one backend spread evenly."
    }

    fn needs_state(&self) -> bool {
        true
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.next_by_weight(ask)
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::Ask;
    use crate::pool::world::{World, at, backend};

    #[test]
    fn three_to_one_is_exact_and_smooth() {
        let mut boxes = vec![backend("a"), backend("b")];
        boxes[0].weight = 3;
        let world = World::new("weight", boxes);
        let ask = Ask::default();
        let picks: Vec<usize> = (0..10_000).map(|_| world.choose(at(0), &ask)).collect();
        assert_eq!(&picks[..8], &[0, 0, 1, 0, 0, 0, 1, 0]);
        let first = picks.iter().filter(|&&pick| pick == 0).count();
        assert!((7_490..=7_510).contains(&first), "{first} of 10,000 instead of 7,500 within 0.1 %");
        for window in picks.windows(4) {
            assert!(window.contains(&1), "the light backend waits at most three turns");
        }
    }

    #[test]
    fn a_thousand_backends_get_their_shares() {
        let boxes: Vec<_> = (0..1_000_u32)
            .map(|number| {
                let mut backend = backend(&format!("box{number}"));
                backend.weight = if number < 500 { 3 } else { 1 };
                backend
            })
            .collect();
        let world = World::new("weight", boxes);
        let mut counts = vec![0_u32; 1_000];
        for _ in 0..20_000 {
            counts[world.choose(at(0), &Ask::default())] += 1;
        }
        for (number, &count) in counts.iter().enumerate() {
            let fair = if number < 500 { 30 } else { 10 };
            assert!(count.abs_diff(fair) <= 1, "backend {number} got {count}, fair is {fair}");
        }
    }
}
