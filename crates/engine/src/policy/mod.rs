//! Balancing policies: which of the candidates a new user or call goes to.
//!
//! A policy is one file of this folder and one line of [`ALL`]; names in the configuration, the manual and the command line are
//! derived from that list. Policies hold no state of their own: what they must remember or look up fast (turns, rankings, hash
//! slots) belongs to the pool and is reached through [`Candidates`]. Outcomes reach them through the state of the backends
//! (calls, work in flight, answer times), which the pool keeps ranked by the policy's [`Measure`].

mod candidates;
mod fastest;
mod hash_call_id;
mod hash_source;
mod hash_user;
mod least;
mod least_calls;
mod least_work;
mod random_two;
mod round_robin;
mod slots;
mod turns;
mod weight;

pub use candidates::Candidates;
pub(crate) use candidates::Memory;

use crate::pool::Costs;
use std::fmt::Debug;

/// One way to balance. Called by several threads at a time, each with candidates of its own.
pub trait Policy: Debug + Sync {
    /// As written in the configuration.
    fn name(&self) -> &'static str;

    /// One sentence for manual and help.
    fn doc(&self) -> &'static str;

    /// False: the answer follows from the request and the available backends alone, so that the policy is allowed in a stateless
    /// farm and needs nothing stored where it gives the same answer again.
    fn needs_state(&self) -> bool;

    /// The load that the pool keeps at hand for this policy.
    fn measure(&self) -> Measure {
        Measure::Nothing
    }

    /// The member chosen, as an index into `candidates`; `None`: none is free for this request.
    fn pick(&self, candidates: &Candidates<'_>, ask: &Ask<'_>) -> Option<usize>;
}

/// What a policy may know of the request that is to be placed. Hashes are taken by the caller; equal inputs give equal choices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Hash of the user.
    pub user: u64,
    /// Hash of the Call-ID.
    pub call_id: u64,
    /// Hash of the source address.
    pub source: u64,
    /// The only randomness a policy gets.
    pub random: u64,
    /// An INVITE or another request that makes a dialog: `max_calls` counts.
    pub call: bool,
    /// A REGISTER: `max_rate` counts, as it does for a call.
    pub registration: bool,
    /// Backends not to be chosen, as indices into the backends of the farm: those tried before.
    pub exclude: &'a [usize],
    /// The first placement of a user or call: hashes keep the bound of 1.25 × the mean.
    pub bounded: bool,
    /// A stateless farm: no bound and no limits.
    pub stateless: bool,
}

/// The load a policy compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    Nothing,
    /// Registrations and calls together.
    Placed,
    Calls,
    /// Cost of the transactions under way, in hundredths.
    Work,
    /// Time to the first answer, times the requests that wait for theirs.
    Answer,
}

impl Measure {
    /// The pool keeps its members in the order of [`Measure::key`].
    pub(crate) fn is_ranked(self) -> bool {
        matches!(self, Self::Calls | Self::Work | Self::Answer)
    }

    /// What one more request would make of `reading` for each unit of `weight`; the least is best, infinity is no candidate.
    pub(crate) fn key(self, reading: u64, weight: u64) -> f64 {
        if weight == 0 {
            return f64::INFINITY;
        }
        match self {
            Self::Nothing => 0.0,
            Self::Placed | Self::Calls => (reading as f64 + 1.0) / weight as f64,
            Self::Work => (reading as f64 + f64::from(Costs::DEFAULT.other)) / weight as f64,
            // Answer times are kept as logarithms, see `pool::latency`.
            Self::Answer => f64::from_bits(reading) - (weight as f64).log2(),
        }
    }
}

/// Every policy, in the order of the manual; the first is the default.
pub static ALL: &[&dyn Policy] = &[
    &weight::Weight,
    &round_robin::RoundRobin,
    &random_two::RandomTwo,
    &hash_user::HashUser,
    &hash_call_id::HashCallId,
    &hash_source::HashSource,
    &least_calls::LeastCalls,
    &least_work::LeastWork,
    &fastest::Fastest,
];

/// The policy called `name` in the configuration.
pub fn by_name(name: &str) -> Option<&'static dyn Policy> {
    ALL.iter().copied().find(|policy| policy.name() == name)
}

/// What a service without `algorithm` uses.
pub fn default_policy() -> &'static dyn Policy {
    &weight::Weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_the_list_of_the_configuration() {
        let contract = "weight | round-robin | random-two | hash-user | hash-call-id | hash-source \
            | least-calls | least-work | fastest";
        let names: Vec<&str> = ALL.iter().map(|policy| policy.name()).collect();
        assert_eq!(names.join(" | "), contract);
        for policy in ALL {
            assert_eq!(by_name(policy.name()).map(|found| found.name()), Some(policy.name()));
            assert!(policy.doc().ends_with('.'), "{} has a sentence", policy.name());
        }
        assert!(by_name("Weight").is_none());
        assert_eq!(default_policy().name(), "weight");
    }

    #[test]
    fn only_hashes_do_without_state() {
        for policy in ALL {
            assert_eq!(policy.needs_state(), !policy.name().starts_with("hash-"), "{}", policy.name());
        }
    }

    #[test]
    fn keys_weigh_the_load() {
        assert!(Measure::Calls.key(2, 300) < Measure::Calls.key(1, 100));
        assert_eq!(Measure::Calls.key(2, 300).to_bits(), Measure::Calls.key(0, 100).to_bits());
        assert!(Measure::Work.key(175, 100) > Measure::Work.key(100, 100));
        assert!(Measure::Answer.key(5.0_f64.to_bits(), 100) > Measure::Answer.key(5.0_f64.to_bits(), 200));
        assert_eq!(Measure::Calls.key(0, 0), f64::INFINITY);
    }

    #[test]
    fn keys_are_the_load_with_one_more_for_each_unit_of_weight() {
        for (measure, reading, weight, key) in [
            (Measure::Nothing, 9, 300, 0.0),
            (Measure::Placed, 2, 200, 0.015),
            (Measure::Calls, 5, 300, 0.02),
            (Measure::Work, 175, 100, 2.75),
            (Measure::Work, 300, 200, 2.0),
            // Logarithms: 5 less the 7 of 128.
            (Measure::Answer, 5.0_f64.to_bits(), 128, -2.0),
        ] {
            assert_eq!(measure.key(reading, weight), key, "{measure:?}");
            assert_eq!(measure.key(reading, 0), f64::INFINITY, "{measure:?}");
        }
    }

    #[test]
    fn only_measures_whose_least_is_looked_for_are_ranked() {
        let measures = [Measure::Nothing, Measure::Placed, Measure::Calls, Measure::Work, Measure::Answer];
        assert_eq!(measures.map(Measure::is_ranked), [false, false, true, true, true]);
    }
}
