//! The time of one decision: a pool of the engine is asked for a backend while calls come and go on all of them.

use super::scale::clock_cost;
use anyhow::{Context, Result};
use engine::pool::{Ask, BackendState, CallTicket, Cost, Pool, WorkTicket};
use sim::Random;
use sip::Instant;
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{self, Duration};

/// What each call under way counts for.
type Tickets = (CallTicket, WorkTicket);

/// One service and its load.
pub(super) struct Choices {
    pool: Pool,
    states: Vec<Arc<BackendState>>,
    now: Instant,
    random: Random,
    under_way: VecDeque<Tickets>,
}

impl Choices {
    /// `algorithm`: as in the configuration.
    pub(super) fn new(algorithm: &str, backends: usize) -> Result<Self> {
        let policy = engine::policy::by_name(algorithm).context("there is no such algorithm")?;
        let mut settings = sim::one_farm(backends, |_| ());
        let farm = settings.farms.first_mut().context("one farm was built")?;
        let service = farm.services.first_mut().context("a farm has a service")?;
        service.algorithm = policy;
        let service = service.clone();
        let now = Instant::from_micros(1_000_000);
        let states: Vec<Arc<BackendState>> = farm
            .backends
            .iter()
            .map(|backend| {
                let state = Arc::new(BackendState::new(backend.id, now));
                state.configure(now, backend, &service.guardians);
                state
            })
            .collect();
        let pool = Pool::new(farm, &service, &states, SEED, now);
        Ok(Self { pool, states, now, random: Random::new(SEED), under_way: VecDeque::new() })
    }

    /// Nanoseconds of a decision, the mean of `count`. What follows from it, tickets and answer times, is not part of it but is taken in
    /// by the next one.
    pub(super) fn decide(&mut self, count: u32, clock_ns: f64) -> Result<f64> {
        let mut spent = Duration::ZERO;
        for _ in 0..count {
            self.now += PER_CALL;
            let ask = Ask {
                user: self.random.draw(),
                call_id: self.random.draw(),
                source: self.random.draw(),
                random: self.random.draw(),
                call: true,
                bounded: true,
                ..Ask::default()
            };
            let start = time::Instant::now();
            let chosen = black_box(self.pool.choose(self.now, black_box(&ask)));
            spent += start.elapsed();
            let state = self.states.get(chosen?).context("a backend that does not exist was chosen")?;
            let call = state.take_call(self.now).context("a backend without a limit is full")?;
            let mut work = state.begin_work(Cost::Invite);
            work.answered();
            let answered_in = Duration::from_micros(1_000 + self.random.below(1_000));
            // None of these backends was set aside, so that none comes back.
            let _ = state.on_answer(self.now, answered_in);
            self.under_way.push_back((call, work));
            if self.under_way.len() > UNDER_WAY {
                self.under_way.pop_front();
            }
        }
        let mean = spent.as_nanos() as f64 / f64::from(count.max(1));
        Ok((mean - clock_ns).max(0.0))
    }
}

/// Batches of decisions; nanoseconds of each.
pub(super) fn batches(algorithm: &str, backends: usize) -> Result<Vec<f64>> {
    let mut choices = Choices::new(algorithm, backends)?;
    let clock_ns = clock_cost();
    choices.decide(WARM_UP, clock_ns)?;
    (0..BATCHES).map(|_| choices.decide(DECISIONS, clock_ns)).collect()
}

/// 2,000 calls a second.
const PER_CALL: Duration = Duration::from_micros(500);
/// Calls at a time: a few for each of a thousand backends.
const UNDER_WAY: usize = 5_000;
const WARM_UP: u32 = 20_000;
const BATCHES: usize = 15;
const DECISIONS: u32 = 10_000;
const SEED: u64 = 7;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_decides_under_load() {
        for policy in engine::policy::ALL {
            let mut choices = Choices::new(policy.name(), 50).expect("the algorithm is registered");
            choices.decide(UNDER_WAY as u32 + 100, 0.0).expect("no backend has a limit");
            assert_eq!(choices.under_way.len(), UNDER_WAY, "{}", policy.name());
            let calls: u64 = choices.states.iter().map(|state| state.calls()).sum();
            assert_eq!(calls, UNDER_WAY as u64, "{}", policy.name());
        }
    }
}
