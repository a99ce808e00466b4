//! Backends at run time: their health, their load, and the choice among those of one service.
//!
//! A [`BackendState`] belongs to a backend for as long as its name is known, across reloads. A [`Pool`] belongs to one service of
//! one configuration. Both are shared by all shards. A state tells the pools it is in when its load or its standing changes, so
//! that a decision never has to ask every backend.

mod checks;
mod gauges;
mod health;
mod latency;
mod passive;
mod rate;
mod state;
mod ticket;
mod view;
#[cfg(test)]
pub(crate) mod world;

pub use crate::policy::Ask;
pub use checks::CheckView;
pub use state::BackendState;
pub use ticket::{CallTicket, Cost, Costs, RegistrationTicket, WorkTicket};

pub(crate) use gauges::Gauges;
pub(crate) use view::{Member, View};

use crate::io::Event;
use crate::policy::{Candidates, Memory, Policy};
use crate::settings::{Farm, Service};
use sip::Instant;
use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The backends of one service and what its algorithm remembers.
#[derive(Debug)]
pub struct Pool {
    policy: &'static dyn Policy,
    members: Vec<Member>,
    /// Written by the states of the members, see [`BackendState`].
    gauges: Arc<Gauges>,
    /// Are the answers of the members compared?
    is_compared: bool,
    /// Held for one decision, less than a microsecond.
    inner: Mutex<Inner>,
}

#[derive(Clone, Debug)]
struct Inner {
    view: View,
    memory: RefCell<Memory>,
}

/// Why nobody was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No backend is up but those excluded.
    NoneUp,
    /// Backends are up, but `max_calls` or `max_rate` of each is reached.
    AllFull,
}

impl Pool {
    /// The pool of `service`. `states` are parallel to the backends of `farm`; `seed` decides where turns among equals begin.
    pub fn new(farm: &Farm, service: &Service, states: &[Arc<BackendState>], seed: u64, now: Instant) -> Self {
        let members = view::members(farm, service, states);
        let gauges = Arc::new(Gauges::new(service.algorithm.measure(), members.len()));
        for (index, member) in members.iter().enumerate() {
            member.state.attach(&gauges, index);
        }
        let memory = Memory::new(&members, seed);
        let pool = Self {
            policy: service.algorithm,
            members,
            gauges,
            is_compared: service.passive,
            inner: Mutex::new(Inner { view: View::default(), memory: RefCell::new(memory) }),
        };
        pool.prepare(now);
        pool
    }

    /// The algorithm of the service.
    pub fn policy(&self) -> &'static dyn Policy {
        self.policy
    }

    /// The backend for a request, as an index into the backends of the farm. Nothing is counted by this: the caller takes a
    /// ticket of the backend, and where it gets none asks again with the backend excluded.
    pub fn choose(&self, now: Instant, ask: &Ask<'_>) -> Result<usize, Refusal> {
        let mut inner = lock(&self.inner);
        self.refresh(&mut inner, now);
        // Another pool may take the one trial of a half-open backend between pick and claim; the next pick leaves it out.
        for _ in 0..=self.members.len() {
            let Some(picked) = self.pick(&inner, now, ask) else {
                break;
            };
            let member = &self.members[picked];
            if !inner.view.half_open[picked] || member.state.claim_trial(now) {
                return Ok(member.index);
            }
        }
        Err(self.refusal(&inner.view, ask))
    }

    /// What [`Pool::choose`] would say now, without effect on later choices.
    pub fn peek(&self, now: Instant, ask: &Ask<'_>) -> Result<usize, Refusal> {
        let copy = {
            let mut inner = lock(&self.inner);
            self.refresh(&mut inner, now);
            inner.clone()
        };
        match self.pick(&copy, now, ask) {
            Some(picked) => Ok(self.members[picked].index),
            None => Err(self.refusal(&copy.view, ask)),
        }
    }

    /// Where the request's hash alone leads, without bound, limits and exclusions: a user found there needs no entry in a table.
    /// `None` for an algorithm whose choice depends on more, and where nobody is up.
    pub fn home(&self, now: Instant, ask: &Ask<'_>) -> Option<usize> {
        if self.policy.needs_state() {
            return None;
        }
        let plain = Ask { exclude: &[], bounded: false, stateless: true, ..*ask };
        let mut inner = lock(&self.inner);
        self.refresh(&mut inner, now);
        let picked = self.pick(&inner, now, &plain)?;
        Some(self.members[picked].index)
    }

    /// Takes back whom the pool cannot do without any more, and sets those aside whose answers of the last ten seconds are out of
    /// line, as far as there is room. To be called once a second.
    pub(crate) fn compare(&self, now: Instant) -> Vec<Event> {
        let mut events = Vec::new();
        for member in &self.members {
            if !self.gauges.quorum().is_overdrawn() {
                break;
            }
            events.extend(member.state.on_need(now));
        }
        if !self.is_compared {
            return events;
        }
        let readings: Vec<_> = self.members.iter().map(|member| member.state.recent_answers(now)).collect();
        let outliers = passive::outliers(&readings).into_iter();
        events.extend(outliers.filter_map(|(member, evidence)| self.members[member].state.on_outlier(now, evidence)));
        events
    }

    /// Is any backend available, of whatever level?
    pub fn is_up(&self, now: Instant) -> bool {
        self.members.iter().any(|member| member.state.is_available(now))
    }

    /// Does what would make the first decision slow.
    fn prepare(&self, now: Instant) {
        let mut inner = lock(&self.inner);
        self.refresh(&mut inner, now);
        if !self.policy.needs_state() {
            self.candidates(&inner, now).settle_slots();
        }
    }

    /// Takes in what changed since the last decision.
    fn refresh(&self, inner: &mut Inner, now: Instant) {
        // Read before the states are, so that a change in between is taken in by the next decision.
        let version = self.gauges.version();
        let is_new = inner.view.is_outdated(version, now);
        if is_new {
            let generation = inner.view.generation + 1;
            inner.view = View::new(&self.members, now, version, generation);
        }
        let measure = self.gauges.measure();
        if !measure.is_ranked() {
            return;
        }
        let Inner { view, memory } = inner;
        let ranking = &mut memory.get_mut().ranking;
        let mut take_in = |member: usize| {
            let reading = self.gauges.reading(member);
            ranking.set(member, measure.key(reading, view.weights[member]));
        };
        if is_new {
            self.gauges.take_changes(|_| {});
            (0..self.members.len()).for_each(take_in);
        } else {
            self.gauges.take_changes(&mut take_in);
        }
    }

    fn pick(&self, inner: &Inner, now: Instant, ask: &Ask<'_>) -> Option<usize> {
        let picked = self.policy.pick(&self.candidates(inner, now), ask)?;
        (picked < self.members.len()).then_some(picked)
    }

    fn candidates<'a>(&'a self, inner: &'a Inner, now: Instant) -> Candidates<'a> {
        Candidates { now, view: &inner.view, members: &self.members, gauges: &self.gauges, memory: &inner.memory }
    }

    fn refusal(&self, view: &View, ask: &Ask<'_>) -> Refusal {
        let is_up = |&member: &usize| !view.half_open[member] && !ask.exclude.contains(&self.members[member].index);
        if view.active.iter().any(is_up) { Refusal::AllFull } else { Refusal::NoneUp }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for member in &self.members {
            member.state.detach(&self.gauges);
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NoneUp => "no backend is up",
            Self::AllFull => "every backend is full",
        })
    }
}

impl std::error::Error for Refusal {}

/// What is behind these locks is changed by steps that cannot panic half-way, so that a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::world::{World, at, backend, down, up};
    use super::*;
    use crate::io::DownCause;
    use crate::settings::{Guardian, Maintenance};
    use std::time::Duration;

    fn picks(world: &World, now: Instant, count: usize) -> Vec<usize> {
        (0..count).map(|_| world.choose(now, &Ask::default())).collect()
    }

    #[test]
    fn a_worse_level_joins_for_each_backend_missing() {
        let mut boxes: Vec<_> = ["a", "b", "c", "d", "e"].map(backend).into();
        for (backend, priority) in boxes.iter_mut().zip([1, 1, 2, 5, 9]) {
            backend.priority = priority;
        }
        let world = World::new("round-robin", boxes);
        assert_eq!(picks(&world, at(0), 4), [0, 1, 0, 1]);
        down(&world.states[0], at(0));
        assert_eq!(picks(&world, at(0), 4), [1, 2, 1, 2]);
        down(&world.states[2], at(0));
        assert_eq!(picks(&world, at(0), 4), [1, 3, 1, 3]);
        down(&world.states[1], at(0));
        assert_eq!(picks(&world, at(0), 4), [3, 4, 3, 4]);
        down(&world.states[3], at(0));
        down(&world.states[4], at(0));
        assert_eq!(world.pool.choose(at(0), &Ask::default()), Err(Refusal::NoneUp));
        assert!(!world.pool.is_up(at(0)));
        up(&world.states[0], at(0));
        assert!(world.pool.is_up(at(0)), "one is enough");
        up(&world.states[1], at(0));
        let whole = at(60_000);
        assert_eq!(picks(&world, whole, 4), [0, 1, 0, 1]);
    }

    #[test]
    fn max_calls_holds_to_the_unit() {
        let mut boxes = vec![backend("a"), backend("b")];
        boxes[0].max_calls = 3;
        boxes[1].max_calls = 2;
        let world = World::new("weight", boxes);
        let ask = Ask { call: true, ..Ask::default() };
        let mut tickets = Vec::new();
        for _ in 0..5 {
            let chosen = world.choose(at(0), &ask);
            tickets.push(world.states[chosen].take_call(at(0)).expect("a chosen backend is not full"));
        }
        assert_eq!((world.states[0].calls(), world.states[1].calls()), (3, 2));
        assert_eq!(world.pool.choose(at(0), &ask), Err(Refusal::AllFull));
        assert!(world.states[0].take_call(at(0)).is_none());
        assert_eq!(world.states[0].state_name(at(0)), "full");
        // A registration is no call.
        assert!(world.pool.choose(at(0), &Ask::default()).is_ok());
        let exclude = [0, 1];
        assert_eq!(world.pool.choose(at(0), &Ask { exclude: &exclude, ..ask }), Err(Refusal::NoneUp));
        drop(tickets);
        assert_eq!(world.states[0].calls(), 0);
        assert!(world.pool.choose(at(0), &ask).is_ok());
    }

    #[test]
    fn max_rate_holds_to_the_unit() {
        let mut boxes = vec![backend("a")];
        boxes[0].max_rate = 10;
        let world = World::new("weight", boxes);
        let registration = Ask { registration: true, ..Ask::default() };
        let mut tickets = Vec::new();
        for number in 0..10 {
            assert_eq!(world.choose(at(0), &registration), 0);
            if number % 2 == 0 {
                assert!(world.states[0].take_registration(at(0)));
            } else {
                tickets.push(world.states[0].take_call(at(0)).expect("the rate is not reached"));
            }
        }
        assert_eq!(world.pool.choose(at(0), &registration), Err(Refusal::AllFull));
        assert_eq!(world.choose(at(0), &Ask::default()), 0, "what is neither call nor registration has no rate");
        assert!(!world.states[0].take_registration(at(99)));
        assert!(world.states[0].take_call(at(99)).is_none());
        assert_eq!(world.states[0].calls(), 5, "a call refused for its rate is not counted");
        assert!(world.states[0].take_registration(at(100)));
        assert!(!world.states[0].take_registration(at(100)));
    }

    #[test]
    fn slow_start_holds_to_the_unit() {
        let world = World::equal("weight", 2);
        down(&world.states[1], at(0));
        up(&world.states[1], at(1_000));
        let second_of = |now: Instant, count: usize| {
            let picked = picks(&world, now, count);
            picked.iter().filter(|&&pick| pick == 1).count()
        };
        // 10 % of the weight at once, 55 % half-way, 99 % until the last microsecond.
        assert_eq!(second_of(at(1_000), 1_100), 100);
        assert_eq!(second_of(at(16_000), 1_550), 550);
        let last = Instant::from_micros(30_999_999);
        assert_eq!(second_of(last, 1_990), 990);
        assert_eq!(second_of(at(31_000), 2_000), 1_000);
        assert_eq!(second_of(at(31_001), 2_000), 1_000);
    }

    #[test]
    fn nothing_is_in_slow_start_when_the_unit_starts() {
        let world = World::equal("weight", 2);
        assert_eq!(picks(&world, at(0), 4), [0, 1, 0, 1]);
    }

    #[test]
    fn one_request_tries_a_backend_set_aside() {
        let world = World::equal("round-robin", 2);
        for _ in 0..3 {
            world.states[0].on_timeout(at(0));
        }
        assert_eq!(picks(&world, at(4_999), 3), [1, 1, 1]);
        let later = picks(&world, at(5_000), 6);
        assert_eq!(later.iter().filter(|&&pick| pick == 0).count(), 1, "{later:?}");
        assert!(!world.states[0].is_available(at(5_000)), "only the trial goes there");
        assert!(world.states[0].on_answer(at(5_100), Duration::from_millis(1)).is_some());
        assert!(picks(&world, at(36_000), 4).contains(&0));
    }

    #[test]
    fn maintenance_takes_out() {
        let mut world = World::equal("hash-user", 3);
        let ask = Ask::default();
        let home = world.choose(at(0), &ask);
        world.farm.backends[home].maintenance = Maintenance::Drain;
        world.states[home].configure(at(0), &world.farm.backends[home], &[Arc::new(Guardian::options())]);
        assert_ne!(world.choose(at(0), &ask), home);
        assert_eq!(world.states[home].state_name(at(0)), "drain");
        assert!(world.states[home].is_alive(at(0)));
        world.farm.backends[home].maintenance = Maintenance::Off;
        world.states[home].configure(at(0), &world.farm.backends[home], &[Arc::new(Guardian::options())]);
        assert_eq!(world.choose(at(0), &ask), home);
    }

    #[test]
    fn a_peek_has_no_effect() {
        for policy in crate::policy::ALL {
            let world = World::equal(policy.name(), 5);
            let ask = Ask { user: 7, call_id: 8, source: 9, random: 10, ..Ask::default() };
            for _ in 0..20 {
                let seen = world.pool.peek(at(0), &ask);
                assert_eq!(world.pool.peek(at(0), &ask), seen, "{}", policy.name());
                assert_eq!(world.pool.choose(at(0), &ask), seen, "{}", policy.name());
            }
        }
    }

    #[test]
    fn a_new_pool_finds_the_load_of_the_old_one() {
        let mut world = World::equal("least-calls", 3);
        let tickets: Vec<CallTicket> =
            [0, 0, 1].map(|index: usize| world.states[index].take_call(at(0)).expect("no limit is set")).into();
        world.rebuild(at(1));
        assert_eq!(world.choose(at(1), &Ask::default()), 2);
        drop(tickets);
        let chosen = picks(&world, at(1), 3);
        assert!(chosen.contains(&0) && chosen.contains(&1) && chosen.contains(&2));
    }

    #[test]
    fn an_empty_service_has_nobody_up() {
        for policy in crate::policy::ALL {
            let world = World::new(policy.name(), Vec::new());
            assert_eq!(world.pool.choose(at(0), &Ask::default()), Err(Refusal::NoneUp));
            assert_eq!(world.pool.home(at(0), &Ask::default()), None);
        }
    }

    #[test]
    fn a_full_backend_stays_the_home_of_its_users() {
        let mut boxes = Vec::from(["a", "b", "c"].map(backend));
        for backend in &mut boxes {
            backend.max_calls = 1;
        }
        let world = World::new("hash-user", boxes);
        for user in 0..50 {
            let ask = Ask { user, call: true, ..Ask::default() };
            let home = world.pool.home(at(0), &ask).expect("all are up");
            let _call = world.states[home].take_call(at(0)).expect("no other call is up");
            assert_ne!(world.choose(at(0), &ask), home);
            assert_eq!(world.pool.home(at(0), &ask), Some(home));
        }
        let by_load = World::equal("least-calls", 3);
        assert_eq!(by_load.pool.home(at(0), &Ask::default()), None);
    }

    #[test]
    fn hash_slots_are_dealt_before_the_first_decision() {
        for policy in crate::policy::ALL {
            let shown = format!("{:?}", World::equal(policy.name(), 2).pool);
            let is_dealt = !shown.contains("winners: []");
            assert_eq!(is_dealt, policy.name().starts_with("hash-"), "{}", policy.name());
        }
    }

    /// Names a member one past the last.
    #[derive(Debug)]
    struct Astray;

    impl Policy for Astray {
        fn name(&self) -> &'static str {
            "astray"
        }

        fn doc(&self) -> &'static str {
            "Nobody of the pool."
        }

        fn needs_state(&self) -> bool {
            true
        }

        fn pick(&self, candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
            Some(candidates.len())
        }
    }

    #[test]
    fn a_member_that_is_not_there_is_not_chosen() {
        let mut world = World::equal("weight", 2);
        world.farm.services[0].algorithm = &Astray;
        world.rebuild(at(0));
        assert_eq!(world.pool.policy().name(), "astray");
        assert_eq!(world.pool.choose(at(0), &Ask::default()), Err(Refusal::AllFull));
        assert_eq!(world.pool.peek(at(0), &Ask::default()), Err(Refusal::AllFull));
    }

    #[test]
    fn a_pool_that_is_gone_hears_nothing() {
        let mut world = World::equal("least-calls", 1);
        let gone = Arc::clone(&world.pool.gauges);
        let _first = world.states[0].restore_call();
        world.rebuild(at(0));
        let _second = world.states[0].restore_call();
        assert_eq!((gone.reading(0), world.pool.gauges.reading(0)), (1, 2));
    }

    /// So many answers of each member in this second, after so many milliseconds, so many of them failures.
    fn answers(world: &World, second: u64, of: &[(u64, u16, u64)]) {
        for (state, &(count, code, ms)) in world.states.iter().zip(of) {
            for _ in 0..count {
                state.on_answer(at(second * 1_000), Duration::from_millis(ms));
                state.on_final_answer(at(second * 1_000), code);
            }
        }
    }

    fn down_causes(world: &World) -> Vec<Option<DownCause>> {
        world.states.iter().map(|state| state.down_causes().pop()).collect()
    }

    #[test]
    fn who_is_out_of_line_is_set_aside_as_far_as_there_is_room() {
        let failing = |per_cent: u8| Some(DownCause::Failing { per_cent });
        let slow = Some(DownCause::Slow { ms: 900, median_ms: 10 });
        for (of, expected) in [
            (vec![(20, 200, 10); 3], vec![None, None, None]),
            (vec![(20, 503, 10), (20, 200, 10)], vec![failing(100), None]),
            (vec![(19, 503, 10), (20, 200, 10)], vec![None, None]),
            (vec![(20, 603, 10), (20, 486, 10)], vec![None, None]),
            (vec![(20, 503, 10)], vec![None]),
            (vec![(20, 503, 10); 3], vec![failing(100), None, None]),
            (vec![(20, 503, 10); 4], vec![failing(100), failing(100), None, None]),
            (vec![(20, 200, 10), (20, 200, 900), (20, 200, 10)], vec![None, slow, None]),
            (vec![(20, 200, 10), (20, 200, 900)], vec![None, None]),
        ] {
            let world = World::equal("round-robin", of.len());
            answers(&world, 1, &of);
            let told = world.pool.compare(at(2_000));
            let causes = down_causes(&world);
            // A geometric mean is exact to the millisecond at least.
            assert_eq!(causes, expected, "{of:?}");
            assert_eq!(told.len(), causes.iter().flatten().count(), "each is told of: {of:?}");
            assert!(world.pool.compare(at(2_000)).is_empty(), "once");
        }
    }

    #[test]
    fn a_service_may_do_without_passive_detection() {
        let mut world = World::equal("round-robin", 3);
        world.farm.services[0].passive = false;
        world.rebuild(at(0));
        answers(&world, 1, &[(20, 503, 10), (20, 200, 900), (20, 200, 10)]);
        assert!(world.pool.compare(at(2_000)).is_empty());
        for _ in 0..3 {
            world.states[0].on_timeout(at(2_000));
        }
        assert!(!world.states[0].is_available(at(2_000)), "time-outs always count");
    }

    #[test]
    fn who_comes_back_is_not_judged_by_its_old_answers() {
        let world = World::equal("weight", 2);
        answers(&world, 1, &[(50, 503, 10)]);
        assert_eq!(world.pool.compare(at(1_500)).len(), 1);
        assert!(world.states[0].claim_trial(at(6_500)));
        assert!(world.states[0].on_final_answer(at(6_900), 200).is_some());
        assert!(world.pool.compare(at(7_000)).is_empty(), "within ten seconds of its failures");
        assert_eq!(picks(&world, at(7_000), 22).iter().filter(|&&pick| pick == 0).count(), 2, "slow start");
        answers(&world, 8, &[(20, 500, 10)]);
        assert_eq!(world.pool.compare(at(8_500)).len(), 1);
        assert!(!world.states[0].is_trial_open(at(18_499)), "twice as long");
        assert!(world.states[0].is_trial_open(at(18_500)));
    }

    #[test]
    fn a_refusal_says_why() {
        let said = [Refusal::NoneUp, Refusal::AllFull].map(|refusal| refusal.to_string());
        assert_eq!(said, ["no backend is up", "every backend is full"]);
    }
}
