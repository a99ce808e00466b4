//! `least-work`: transaction least work left (TLWL of Jiang et al., IEEE/ACM Transactions on Networking 20(4), 2012).

use super::{Ask, Candidates, Measure, Policy};

#[derive(Debug)]
pub(super) struct LeastWork;

impl Policy for LeastWork {
    fn name(&self) -> &'static str {
        "least-work"
    }

    fn doc(&self) -> &'static str {
        "The backend with the least work under way for its weight, each transaction counted by its cost."
    }

    fn needs_state(&self) -> bool {
        true
    }

    fn measure(&self) -> Measure {
        Measure::Work
    }

    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        candidates.least_loaded(ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::slots::mix;
    use crate::pool::world::World;
    use crate::pool::{CallTicket, Cost, WorkTicket};
    use sip::Instant;
    use std::collections::BTreeMap;
    use std::time::Duration;

    /// What happens next, by the time in microseconds and the order of entry.
    type Agenda = BTreeMap<(u64, u64), Happening>;

    enum Happening {
        Arrival,
        Bye { member: usize, call: CallTicket },
        Done { member: usize, since: u64, call: Option<CallTicket>, work: WorkTicket },
    }

    /// Four boxes, each doing one transaction after the other: INVITE 1.75 ms, BYE and REGISTER 1 ms. Requests arrive at random,
    /// half of them REGISTER, so that the boxes are busy 85 % of the time; calls last 2 s on average.
    struct Queues {
        world: World,
        agenda: Agenda,
        busy_until: [u64; 4],
        draws: u64,
        events: u64,
        waited: u64,
        answered: u64,
    }

    impl Queues {
        /// The mean time from arrival to answer in microseconds.
        fn mean_wait(algorithm: &str, seed: u64) -> f64 {
            let mut queues = Self {
                world: World::equal(algorithm, 4),
                agenda: Agenda::new(),
                busy_until: [0; 4],
                draws: seed,
                events: 0,
                waited: 0,
                answered: 0,
            };
            let mut arrivals = 20_000;
            queues.push(0, Happening::Arrival);
            while let Some(((now, _), happening)) = queues.agenda.pop_first() {
                match happening {
                    Happening::Arrival => {
                        arrivals -= 1;
                        queues.arrive(now);
                        if arrivals > 0 {
                            let gap = queues.exponential(1_875.0 / (4.0 * 0.85));
                            queues.push(now + gap, Happening::Arrival);
                        }
                    }
                    Happening::Bye { member, call } => queues.start(now, member, Cost::Bye, Some(call)),
                    Happening::Done { member, since, call, work } => {
                        drop(work);
                        queues.waited += now - since;
                        queues.answered += 1;
                        if let Some(call) = call {
                            let hold = queues.exponential(2_000_000.0);
                            queues.push(now + hold, Happening::Bye { member, call });
                        }
                    }
                }
            }
            queues.waited as f64 / queues.answered as f64
        }

        fn arrive(&mut self, now: u64) {
            let is_call = self.draw() < 0.5;
            let instant = Instant::from_micros(now);
            let ask = Ask { call: is_call, ..Ask::default() };
            let member = self.world.choose(instant, &ask);
            let call = is_call.then(|| self.world.states[member].take_call(instant).expect("no limit is set"));
            let kind = if is_call { Cost::Invite } else { Cost::Register };
            self.start(now, member, kind, call);
        }

        fn start(&mut self, now: u64, member: usize, kind: Cost, call: Option<CallTicket>) {
            let cost = if kind == Cost::Invite { 1_750 } else { 1_000 };
            let work = self.world.states[member].begin_work(kind);
            let done = now.max(self.busy_until[member]) + cost;
            self.busy_until[member] = done;
            // A call ends when its BYE begins to be worked on; only an INVITE carries it on.
            let call = call.filter(|_| kind == Cost::Invite);
            self.push(done, Happening::Done { member, since: now, call, work });
        }

        fn push(&mut self, when: u64, happening: Happening) {
            self.events += 1;
            self.agenda.insert((when, self.events), happening);
        }

        fn draw(&mut self) -> f64 {
            self.draws += 1;
            (mix(self.draws) >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn exponential(&mut self, mean: f64) -> u64 {
            (-(-self.draw()).ln_1p() * mean) as u64 + 1
        }
    }

    #[test]
    fn beats_least_calls_under_unequal_costs() {
        for seed in [1, 2, 3] {
            let by_calls = Queues::mean_wait("least-calls", seed);
            let by_work = Queues::mean_wait("least-work", seed);
            assert!(by_work < 0.6 * by_calls, "seed {seed}: {by_work} µs by work, {by_calls} µs by calls");
        }
    }

    #[test]
    fn an_invite_weighs_more_than_a_register() {
        let world = World::equal("least-work", 2);
        let _invite = world.states[0].begin_work(Cost::Invite);
        let register = world.states[1].begin_work(Cost::Register);
        assert_eq!((world.states[0].work(), world.states[1].work()), (175, 100));
        assert_eq!(world.choose(Instant::from_micros(0), &Ask::default()), 1);
        drop(register);
        assert_eq!(world.states[1].work(), 0);
        assert_eq!(world.states[0].latency(), Duration::ZERO);
    }
}
