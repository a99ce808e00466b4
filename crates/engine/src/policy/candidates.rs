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
        self.view.weights[member] > 0
            && !ask.exclude.contains(&known.index)
            && (ask.stateless || !known.state.is_full(self.now, ask.call))
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
