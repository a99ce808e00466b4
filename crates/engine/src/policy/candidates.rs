//! What a policy sees of a pool, and the answers it can have without looking at every member.

use super::least::Least;
use super::slots::Slots;
use super::turns::Turns;
use super::{Ask, Measure};
use crate::pool::{Gauges, Member, View};
use sip::Instant;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The members of a pool at one moment. A member keeps its index as long as the pool lives; one that may not be chosen now has
/// weight 0.
pub struct Candidates<'a> {
    pub(crate) now: Instant,
    pub(crate) view: &'a View,
    pub(crate) members: &'a [Member],
    pub(crate) gauges: &'a Gauges,
    pub(crate) memory: &'a RefCell<Memory>,
}

/// What a pool remembers between decisions, for whichever policy it has.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    turns: Turns,
    /// Kept by the pool for policies with a ranked measure.
    pub(crate) ranking: Least,
    /// Where the search among equals begins.
    cursor: usize,
    /// Shared with copies, which only look.
    slots: Arc<Slots>,
}

impl Memory {
    pub(crate) fn new(members: &[Member], seed: u64) -> Self {
        let count = members.len();
        Self {
            turns: Turns::new(count),
            ranking: Least::new(count),
            cursor: (seed % count.max(1) as u64) as usize,
            slots: Arc::new(Slots::new(members.iter().map(|member| member.state.id().0))),
        }
    }
}

impl Candidates<'_> {
    /// Members, those with weight 0 included.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Indices of the members with a weight, ascending.
    pub fn active(&self) -> &[usize] {
        &self.view.active
    }

    /// Effective weight in hundredths: the configured one, less during slow start, 0 if the member may not be chosen.
    pub fn weight(&self, member: usize) -> u64 {
        self.view.weights[member]
    }

    /// Calls up.
    pub fn calls(&self, member: usize) -> u64 {
        self.members[member].state.calls()
    }

    /// Cost of the transactions under way, in hundredths.
    pub fn work(&self, member: usize) -> u64 {
        self.members[member].state.work()
    }

    /// Time to the first answer.
    pub fn latency(&self, member: usize) -> Duration {
        self.members[member].state.latency()
    }

    /// The policy's measure for one more request here, for each unit of weight; the least is best, infinity is no candidate.
    pub fn key(&self, member: usize) -> f64 {
        let reading = self.gauges.reading(member);
        self.gauges.measure().key(reading, self.view.weights[member])
    }

    /// May this request go there: a candidate, not excluded, not full?
    pub fn is_free(&self, member: usize, ask: &Ask<'_>) -> bool {
        let known = &self.members[member];
        let limited = (ask.call || ask.registration) && !ask.stateless;
        self.view.weights[member] > 0
            && !ask.exclude.contains(&known.index)
            && !(limited && known.state.is_full(self.now, ask.call))
            && (!self.view.half_open[member] || known.state.is_trial_open(self.now))
    }

    /// The next by smooth weighted round robin.
    pub fn next_by_weight(&self, ask: &Ask<'_>) -> Option<usize> {
        self.next_by_share(&self.view.weights, ask)
    }

    /// The next in turn, whatever the weights; one in slow start still gets fewer turns.
    pub fn next_in_turn(&self, ask: &Ask<'_>) -> Option<usize> {
        self.next_by_share(&self.view.ramps, ask)
    }

    /// The free member with the least [`Candidates::key`]; equals take turns.
    pub fn least_loaded(&self, ask: &Ask<'_>) -> Option<usize> {
        let mut memory = self.memory.borrow_mut();
        let start = memory.cursor;
        let picked = memory.ranking.least(start, |member| self.is_free(member, ask))?;
        memory.cursor = picked + 1;
        Some(picked)
    }

    /// The member that wins `key` by weighted rendezvous hashing. If it is not free, or holds its share of 1.25 × the mean while
    /// the request asks for the bound, the next in the rank of that key.
    pub fn rendezvous(&self, ask: &Ask<'_>, key: u64) -> Option<usize> {
        self.settle_slots();
        let memory = self.memory.borrow();
        let slots = &memory.slots;
        let slot = slots.slot_of(key);
        let winner = slots.winner(slot)?;
        let bounded = ask.bounded && !ask.stateless && self.gauges.measure() == Measure::Placed;
        let placed = if bounded { self.placed() } else { 0 };
        let fits = |member: usize| !bounded || self.is_within_bound(member, placed);
        if self.is_free(winner, ask) && fits(winner) {
            return Some(winner);
        }
        slots
            .best(slot, |member| self.is_free(member, ask) && fits(member))
            .or_else(|| slots.best(slot, |member| self.is_free(member, ask)))
    }

    /// Brings the hash slots up to date with the members' weights.
    pub(crate) fn settle_slots(&self) {
        let mut memory = self.memory.borrow_mut();
        if memory.slots.generation() != self.view.generation {
            Arc::make_mut(&mut memory.slots).settle(self.view.generation, &self.view.steps);
        }
    }

    fn next_by_share(&self, shares: &[u64], ask: &Ask<'_>) -> Option<usize> {
        let mut memory = self.memory.borrow_mut();
        memory.turns.settle(self.view.generation, shares);
        memory.turns.next(shares, &self.view.active, |member| self.is_free(member, ask))
    }

    /// Registrations and calls on all members that may be chosen.
    fn placed(&self) -> u64 {
        let elsewhere: u64 = self.view.idle.iter().map(|&member| self.gauges.reading(member)).sum();
        self.gauges.total().saturating_sub(elsewhere)
    }

    /// With one more, does the member hold at most 1.25 × its fair part of `placed` and the one, rounded up?
    fn is_within_bound(&self, member: usize, placed: u64) -> bool {
        let fair = u128::from(placed + 1) * u128::from(self.view.weights[member]) * BOUND_QUARTERS;
        let bound = fair.div_ceil(u128::from(self.view.weight_total.max(1)) * 4);
        u128::from(self.gauges.reading(member)) < bound
    }
}

impl fmt::Debug for Candidates<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Candidates")
            .field("now", &self.now)
            .field("weights", &self.view.weights)
            .finish_non_exhaustive()
    }
}

/// 1.25 in quarters: the bound of Mirrokni, Thorup and Zadimoghaddam (SODA 2018) with ε = 1/4.
const BOUND_QUARTERS: u128 = 5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;
    use crate::policy::slots::mix;
    use crate::pool::world::{World, at, backend, down};
    use crate::pool::{Cost, Refusal, RegistrationTicket};
    use crate::settings::Backend;

    /// A policy that looks at what a test wants to see.
    #[derive(Debug)]
    struct Probe {
        pick: fn(&Candidates<'_>, &Ask<'_>) -> Option<usize>,
    }

    impl Policy for Probe {
        fn name(&self) -> &'static str {
            "probe"
        }

        fn doc(&self) -> &'static str {
            "Looks."
        }

        fn needs_state(&self) -> bool {
            true
        }

        fn measure(&self) -> Measure {
            Measure::Calls
        }

        fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
            (self.pick)(candidates, ask)
        }
    }

    static WISHER: Probe = Probe { pick: wish };
    static READER: Probe = Probe { pick: read };

    /// The member whose number is the random one, if it is free.
    fn wish(candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize> {
        let member = ask.random as usize;
        candidates.is_free(member, ask).then_some(member)
    }

    /// The second of the three members of the test below, whose load it checks.
    fn read(candidates: &Candidates<'_>, _ask: &Ask<'_>) -> Option<usize> {
        if candidates.is_empty() {
            return None;
        }
        let row = |member: usize| {
            let latency = candidates.latency(member).as_millis();
            (candidates.weight(member), candidates.calls(member), candidates.work(member), latency)
        };
        assert_eq!((candidates.len(), candidates.active()), (3, &[0, 1][..]));
        assert_eq!([row(0), row(1), row(2)], [(300, 2, 175, 20), (200, 3, 275, 30), (0, 0, 0, 0)]);
        assert_eq!([0, 1, 2].map(|member: usize| candidates.key(member)), [0.01, 0.02, f64::INFINITY]);
        assert!(format!("{candidates:?}").contains("weights: [300, 200, 0]"));
        Some(1)
    }

    fn probed(probe: &'static Probe, boxes: Vec<Backend>) -> World {
        let mut world = World::new("least-calls", boxes);
        world.farm.services[0].algorithm = probe;
        world.rebuild(at(0));
        world
    }

    #[test]
    fn a_policy_reads_weight_and_load_of_every_member() {
        let mut boxes: Vec<Backend> = ["a", "b", "c"].map(backend).into();
        (boxes[0].weight, boxes[1].weight) = (3, 2);
        let world = probed(&READER, boxes);
        let _calls = [0, 0, 1, 1, 1].map(|member: usize| world.states[member].restore_call());
        let _work = [(0, Cost::Invite), (1, Cost::Invite), (1, Cost::Bye)]
            .map(|(member, kind): (usize, Cost)| world.states[member].begin_work(kind));
        world.states[0].on_answer(at(0), Duration::from_millis(20));
        world.states[1].on_answer(at(0), Duration::from_millis(30));
        down(&world.states[2], at(0));
        assert_eq!(world.pool.choose(at(0), &Ask::default()), Ok(1));
        let empty = probed(&READER, Vec::new());
        assert_eq!(empty.pool.choose(at(0), &Ask::default()), Err(Refusal::NoneUp));
    }

    #[test]
    fn free_is_who_is_up_not_excluded_not_full_and_not_on_trial() {
        let names = ["plain", "full", "down", "half-open", "on trial", "at its rate"];
        let mut boxes: Vec<Backend> = names.map(backend).into();
        boxes[1].max_calls = 1;
        boxes[5].max_rate = 1;
        let world = probed(&WISHER, boxes);
        let _call = world.states[1].restore_call();
        down(&world.states[2], at(0));
        for member in [3, 4, 3, 4, 3, 4] {
            world.states[member].on_timeout(at(0));
        }
        let now = at(5_000);
        assert!(world.states[5].take_registration(now));
        let plain = Ask::default();
        assert_eq!(world.choose(now, &Ask { random: 4, ..plain }), 4, "its trial is under way from now on");
        let call = Ask { call: true, ..plain };
        let registration = Ask { registration: true, ..plain };
        for (member, ask, is_free) in [
            (0, plain, true),
            (0, call, true),
            (0, Ask { exclude: &[0], ..plain }, false),
            (0, Ask { exclude: &[1], ..plain }, true),
            (1, plain, true),
            (1, call, false),
            (1, registration, true),
            (1, Ask { stateless: true, ..call }, true),
            (2, plain, false),
            (3, plain, true),
            (4, plain, false),
            (5, plain, true),
            (5, call, false),
            (5, registration, false),
            (5, Ask { stateless: true, ..registration }, true),
        ] {
            let wished = world.pool.peek(now, &Ask { random: member, ..ask });
            assert_eq!(wished.is_ok(), is_free, "member {member}, {ask:?}");
        }
    }

    #[test]
    fn the_bound_is_five_quarters_of_the_fair_part_rounded_up() {
        let mut boxes: Vec<Backend> = ["a", "b"].map(backend).into();
        boxes[0].weight = 3;
        let world = World::new("hash-user", boxes);
        let ask = (0..1_000)
            .map(|number| Ask { user: mix(number), ..Ask::default() })
            .find(|ask| world.choose(at(0), ask) == 0)
            .expect("three of four users are those of the first");
        // With a weight of 3 of 4 the bound is 15/16 of the users, the one to come included: 15 of 15, 15 of 16, 16 of 17.
        for (of_first, of_second, fits) in [(14, 0, true), (15, 0, false), (15, 1, true), (16, 0, false)] {
            let hold = |member: usize, count: usize| -> Vec<RegistrationTicket> {
                (0..count).map(|_| world.states[member].hold_registration()).collect()
            };
            let _held = (hold(0, of_first), hold(1, of_second));
            let bounded = Ask { bounded: true, ..ask };
            assert_eq!(world.choose(at(0), &bounded), usize::from(!fits), "{of_first} and {of_second}");
            assert_eq!(world.choose(at(0), &ask), 0, "only first placements are bounded");
            assert_eq!(world.choose(at(0), &Ask { stateless: true, ..bounded }), 0, "a stateless farm knows no bound");
        }
    }
}
