//! Where calls go when one of several boxes is lost.
//!
//! Two ways are compared. [`hash_user`] sends every call through the engine with the algorithm of that name: INVITE to
//! a box, which is busy, so that each call is over before the next one comes. Then one box dies: the network returns
//! the next INVITE for it, the engine fails over and sets the box aside, and every call is made again.
//! [`modulo_and_walk`] takes a hash of the user modulo the number of boxes, and from a dead box walks on to the next
//! living one: everything that the dead box had falls on its neighbour.

use crate::bench::Bench;
use crate::network::Datagram;
use crate::random::Random;
use crate::script::{Answer, Script};
use crate::settings::{algorithm, one_farm};

/// How many call, and what they meet.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub boxes: usize,
    /// Index of the box that is lost.
    pub lost: usize,
    pub users: usize,
    /// Calls before the loss, and again after it; the users call in turn.
    pub calls: usize,
}

/// Calls for each box before and after the loss.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub before: Vec<usize>,
    pub after: Vec<usize>,
    /// Calls that changed their box although it was not lost.
    pub strayed: usize,
    lost: usize,
}

impl Default for Plan {
    /// One of six boxes, a call for each of 6,000 users.
    fn default() -> Self {
        Self { boxes: 6, lost: 2, users: 6_000, calls: 6_000 }
    }
}

impl Plan {
    /// Calls whose numbers differ by this are of the same user, and are different calls.
    fn round(&self) -> usize {
        self.calls.next_multiple_of(self.users.max(1))
    }
}

impl Outcome {
    /// Calls of the fullest surviving box, as a multiple of the survivors' mean.
    pub fn worst_share(&self) -> f64 {
        let sum: usize = self.survivors().map(|(_, after)| after).sum();
        let worst = self.survivors().map(|(_, after)| after).max().unwrap_or(0);
        let mean = sum as f64 / self.survivors().count().max(1) as f64;
        worst as f64 / mean.max(1.0)
    }

    /// By how much the calls of the surviving box that suffers most have multiplied.
    pub fn worst_growth(&self) -> f64 {
        self.survivors().map(|(before, after)| after as f64 / before.max(1) as f64).fold(0.0, f64::max)
    }

    /// Calls of the fullest surviving box.
    pub fn fullest(&self) -> usize {
        self.survivors().map(|(_, after)| after).max().unwrap_or(0)
    }

    fn of(plan: &Plan, before: &[usize], after: &[usize]) -> Self {
        let strayed = before.iter().zip(after).filter(|(old, new)| **old != plan.lost && old != new).count();
        Self { before: count(plan, before), after: count(plan, after), strayed, lost: plan.lost }
    }

    /// Calls before and after of each box that was not lost.
    fn survivors(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let lost = self.lost;
        let both = self.before.iter().copied().zip(self.after.iter().copied());
        both.enumerate().filter(move |(member, _)| *member != lost).map(|(_, calls)| calls)
    }
}

/// Through the engine, with `hash-user`. Fails the test that calls it if the engine loses a call.
pub fn hash_user(plan: &Plan) -> Outcome {
    let mut bench = Bench::new(one_farm(plan.boxes, |farm| {
        for service in &mut farm.services {
            service.algorithm = algorithm("hash-user");
        }
    }));
    let before: Vec<usize> = (0..plan.calls).map(|number| call(&mut bench, plan, number)).collect();
    if let Some(witness) = before.iter().position(|member| *member == plan.lost) {
        strike(&mut bench, plan, witness);
    }
    // The clock of the bench stands still, so that the lost box is not tried again meanwhile.
    let first = plan.round();
    let after: Vec<usize> = (first..first + plan.calls).map(|number| call(&mut bench, plan, number)).collect();
    Outcome::of(plan, &before, &after)
}

/// Without the engine: what another balancer is known to do.
pub fn modulo_and_walk(plan: &Plan) -> Outcome {
    let place = |number: usize, lost: Option<usize>| {
        let user = (number % plan.users.max(1)) as u64;
        let mut member = Random::stream(WALK, user).index(plan.boxes);
        if lost == Some(member) {
            member = (member + 1) % plan.boxes.max(1);
        }
        member
    };
    let before: Vec<usize> = (0..plan.calls).map(|number| place(number, None)).collect();
    let after: Vec<usize> = (0..plan.calls).map(|number| place(number, Some(plan.lost))).collect();
    Outcome::of(plan, &before, &after)
}

/// Makes a call that finds its callee busy, and says which box it reached.
fn call(bench: &mut Bench, plan: &Plan, number: usize) -> usize {
    let (member, request) = invite(bench, plan, number);
    refuse(bench, &request);
    member
}

/// The box dies while a call is on its way to it; that call goes elsewhere.
fn strike(bench: &mut Bench, plan: &Plan, witness: usize) {
    let (member, request) = invite(bench, plan, 2 * plan.round() + witness);
    assert_eq!(member, plan.lost, "the user's calls go to one box");
    bench.return_undelivered(&request);
    let (next, request) = bench.one_to_a_box();
    assert_ne!(next, plan.lost, "the call goes elsewhere");
    refuse(bench, &request);
}

fn invite(bench: &mut Bench, plan: &Plan, number: usize) -> (usize, Datagram) {
    let user = number % plan.users.max(1);
    let invite = Script::new("INVITE")
        .branch(&format!("spread{number}"))
        .from(&format!("<sip:user{user}@example.com>;tag=f{number}"))
        .call_id(&format!("spread-{number}"))
        .line(&format!("Contact: <sip:user{user}@10.1.0.1:5060>"));
    bench.send(Bench::client_address(), invite.build());
    bench.one_to_a_box()
}

/// 486 ends the call; what is sent in its course is not looked at.
fn refuse(bench: &mut Bench, request: &Datagram) {
    bench.answer(request, &Answer::new(486));
    bench.rest();
}

fn count(plan: &Plan, homes: &[usize]) -> Vec<usize> {
    (0..plan.boxes).map(|member| homes.iter().filter(|home| **home == member).count()).collect()
}

const WALK: u64 = 0x3a1c;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_leave_the_lost_box_out() {
        let plan = Plan { boxes: 3, lost: 1, users: 6, calls: 6 };
        let outcome = Outcome::of(&plan, &[0, 0, 1, 1, 2, 2], &[0, 0, 0, 2, 2, 0]);
        assert_eq!((outcome.before.clone(), outcome.after.clone()), (vec![2, 2, 2], vec![4, 0, 2]));
        assert_eq!((outcome.strayed, outcome.fullest()), (1, 4));
        assert!((outcome.worst_share() - 4.0 / 3.0).abs() < 1e-9);
        assert!((outcome.worst_growth() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_walk_moves_only_what_was_lost_and_to_one_box() {
        let outcome = modulo_and_walk(&Plan::default());
        assert_eq!(outcome.strayed, 0);
        assert_eq!(outcome.after.get(2), Some(&0));
        assert_eq!(outcome.after.get(3).copied(), Some(outcome.before[2] + outcome.before[3]));
        assert_eq!(outcome.after.iter().sum::<usize>(), 6_000);
    }
}
