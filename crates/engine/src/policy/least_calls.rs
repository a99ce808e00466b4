//! `least-calls`: fewest calls up for the weight.

use super::{Ask, Candidates, Measure, Policy};

#[derive(Debug)]
pub(super) struct LeastCalls;

impl Policy for LeastCalls {
    fn name(&self) -> &'static str {
        "least-calls"
    }

    fn doc(&self) -> &'static str {
        "The backend with the fewest calls up for its weight."
    }

    fn needs_state(&self) -> bool {
        true
    }

    fn measure(&self) -> Measure {
        Measure::Calls
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.least_loaded(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::slots::mix;
    use crate::pool::world::{World, at, backend};

    #[test]
    fn always_the_one_with_fewest_calls_for_its_weight() {
        for count in [3_u32, 200] {
            let boxes: Vec<_> = (0..count)
                .map(|number| {
                    let mut backend = backend(&format!("box{number}"));
                    backend.weight = 1 + number % 3;
                    backend
                })
                .collect();
            let weights: Vec<f64> = boxes.iter().map(|backend| f64::from(backend.weight)).collect();
            let world = World::new("least-calls", boxes);
            let ask = Ask { call: true, ..Ask::default() };
            let mut tickets = Vec::new();
            for number in 0..2_000_u64 {
                let chosen = world.choose(at(0), &ask);
                let cost = |member: usize| (world.states[member].calls() as f64 + 1.0) / weights[member];
                assert!((0..world.states.len()).all(|member| cost(chosen) <= cost(member)));
                tickets.push(world.states[chosen].take_call(at(0)).expect("no limit is set"));
                if mix(number).is_multiple_of(3) {
                    let ended = mix(number ^ 1) as usize % tickets.len();
                    tickets.swap_remove(ended);
                }
            }
        }
    }

    #[test]
    fn equals_take_turns() {
        let world = World::equal("least-calls", 4);
        let picks: Vec<usize> = (0..8).map(|_| world.choose(at(0), &Ask::default())).collect();
        assert_eq!(picks, [0, 1, 2, 3, 0, 1, 2, 3]);
    }
}
