//! `fastest`: peak-EWMA of the first answer's time, as Finagle has it.

use super::{Ask, Candidates, Measure, Policy};

#[derive(Debug)]
pub(super) struct Fastest;

impl Policy for Fastest {
    fn name(&self) -> &'static str {
        "fastest"
    }

    fn doc(&self) -> &'static str {
        "The backend whose first answers come soonest, counting the requests that still wait for theirs."
    }

    fn needs_state(&self) -> bool {
        true
    }

    fn measure(&self) -> Measure {
        Measure::Answer
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.least_loaded(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::world::{World, at};
    use crate::pool::{Cost, WorkTicket};
    use sip::Instant;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// Requests that wait for their answer: by the time of the answer, with the milliseconds it takes.
    type Waiting = BTreeMap<(Instant, u64), (usize, u64, WorkTicket)>;

    /// A request every 10 ms; the answer comes after `answer_ms` of the backend. Returns the requests each backend got.
    fn run(world: &World, from_ms: u64, requests: u64, answer_ms: [u64; 3], waiting: &mut Waiting) -> [u32; 3] {
        let mut counts = [0; 3];
        for number in 0..requests {
            let now = at(from_ms + number * 10);
            while let Some(entry) = waiting.first_entry() {
                let answered = entry.key().0;
                if answered > now {
                    break;
                }
                let (member, answer, work) = entry.remove();
                drop(work);
                assert_eq!(world.states[member].on_answer(answered, Duration::from_millis(answer)), None);
            }
            let member = world.choose(now, &Ask::default());
            counts[member] += 1;
            let answer = answer_ms[member];
            let work = world.states[member].begin_work(Cost::Other);
            waiting.insert((now + Duration::from_millis(answer), number), (member, answer, work));
        }
        counts
    }

    #[test]
    fn leaves_a_box_whose_answers_slow_down_tenfold() {
        let world = World::equal("fastest", 3);
        let mut waiting = Waiting::new();
        let before = run(&world, 0, 1_000, [10, 10, 10], &mut waiting);
        assert!(before.iter().all(|&count| count >= 300), "{before:?}: equals share");
        let after = run(&world, 10_000, 1_000, [10, 100, 10], &mut waiting);
        assert!(after[1] <= 5, "{after:?}: the slow one is left");
        assert_eq!(world.states[1].latency(), Duration::from_millis(100));
        // It is tried again, and taken back once it is fast.
        let later = run(&world, 20_000, 9_000, [10, 10, 10], &mut waiting);
        assert!(later[1] >= 500, "{later:?}: the slow one gets a new chance");
    }

    #[test]
    fn requests_that_wait_count() {
        let world = World::equal("fastest", 2);
        let mut work: Vec<WorkTicket> = Vec::new();
        for _ in 0..10 {
            let member = world.choose(at(0), &Ask::default());
            work.push(world.states[member].begin_work(Cost::Invite));
        }
        assert_eq!(world.states[0].work(), world.states[1].work());
        for ticket in &mut work[..5] {
            ticket.answered();
        }
        // Three of those were the first backend's: it now waits for two answers, the second for three.
        assert_eq!(world.choose(at(0), &Ask::default()), 0);
        assert_eq!(world.states[0].work(), 875);
    }
}
