//! What must hold in every run, judged by what was seen on the wire. The model knows SIP and who is who; it knows nothing of
//! how the engine works.
//!
//! Requests are told apart by Call-ID, From tag and CSeq number; both sides of the balancer show the same three. On the
//! client's side a transaction is a branch that arrived at the balancer; on the other side a branch that it sent.

mod dialog;
mod seen;

use crate::network::Party;
use crate::world::World;
use seen::{Request, Seen};
use sip::{Instant, Method};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A finished run.
pub struct Model<'a> {
    requests: BTreeMap<Request<'a>, Vec<Seen<'a>>>,
    outages: Vec<(Instant, Instant)>,
    /// Phones whose public address changed, and when.
    rebound: Vec<(Party, Instant)>,
    problems: Vec<String>,
}

impl<'a> Model<'a> {
    /// Reads the wire of a world.
    pub fn of(world: &'a World) -> Self {
        let outages = world.balancer().outages().iter().map(|(from, until)| (*from, until.unwrap_or(world.now())));
        let rebound = world
            .phones()
            .iter()
            .enumerate()
            .flat_map(|(index, phone)| phone.rebound().iter().map(move |at| (Party::Phone(index), *at)));
        Self::new(world.wire().iter(), outages.collect(), rebound.collect())
    }

    /// Reads a wire by itself, with the times when the balancer was down and those when phones changed their address.
    pub fn new(
        wire: impl Iterator<Item = &'a crate::network::Sent>,
        outages: Vec<(Instant, Instant)>,
        rebound: Vec<(Party, Instant)>,
    ) -> Self {
        let mut requests: BTreeMap<Request<'a>, Vec<Seen<'a>>> = BTreeMap::new();
        for sent in wire {
            if let Some((request, seen)) = Seen::read(sent) {
                requests.entry(request).or_default().push(seen);
            }
        }
        Self { requests, outages, rebound, problems: Vec::new() }
    }

    /// Everything that does not hold, in a fixed order; empty: all is well.
    pub fn judge(mut self) -> Vec<String> {
        let requests = std::mem::take(&mut self.requests);
        for (request, seen) in &requests {
            for branch in branches_received(seen) {
                self.judge_answers(request, seen, branch);
            }
            self.judge_cancels_sent(request, seen);
            self.judge_forged(request, seen);
        }
        self.judge_bindings(&requests);
        self.judge_dialogs(&requests);
        self.problems
    }

    /// One transaction as a client sees it: how often, and with what, it is answered.
    fn judge_answers(&mut self, request: &Request<'a>, seen: &[Seen<'a>], branch: (Party, Method<'a>, &'a [u8])) {
        let (client, method, name) = branch;
        let Some(first) =
            seen.iter().filter(|one| one.is_request_of(client, method, name)).filter_map(|one| one.arrived).min()
        else {
            return;
        };
        if method == Method::Ack {
            return;
        }
        // Of a request that is repeated because its answer was lost, a box that restarted meanwhile gives another one: what counts is
        // what the sender got to see. An INVITE's answers count when they are sent.
        let finals: BTreeSet<(u16, &[u8])> = seen
            .iter()
            .filter(|one| one.is_answer_to(client, method, name))
            .filter(|one| method == Method::Invite || one.arrived.is_some())
            .filter_map(|one| one.code.filter(|code| *code >= 200).map(|code| (code, one.to_tag)))
            .collect();
        let refusals = finals.iter().filter(|(code, _)| *code >= 300).count();
        let accepted = finals.len() - refusals;
        let disturbed = self.is_disturbed(first);
        if method == Method::Invite {
            if finals.is_empty() && !disturbed {
                self.report(request, first, "INVITE got no final answer");
            }
            // A 2xx that comes after the refusal has gone up must pass all the same (RFC 3261 §16.7 step 5): a box that was given
            // up for frozen has thawed and answers.
            let refused_first = seen
                .iter()
                .filter(|one| one.is_answer_to(client, method, name))
                .find_map(|one| one.code.filter(|code| *code >= 200))
                .is_some_and(|code| code >= 300);
            if !disturbed && (refusals > 1 || (refusals > 0 && accepted > 0 && !refused_first)) {
                self.report(request, first, "INVITE got more than one final answer");
            }
            self.judge_cancel(request, seen, client, name, first);
        } else {
            // What a box answers our own requests twice is the box's doing.
            if finals.len() > 1 && !disturbed && client != Party::Balancer {
                self.report(request, first, "a non-INVITE request got more than one final answer");
            }
            let sent = seen.iter().any(|one| one.is_answer_to(client, method, name) && one.is_final());
            if !sent && !disturbed && was_answered_in_time(seen, method, first) {
                self.report(request, first, "the final answer to a non-INVITE request was kept back");
            }
        }
    }

    /// A client's CANCEL reaches every branch that is pending after a provisional answer, and starts no new one.
    fn judge_cancel(
        &mut self,
        request: &Request<'a>,
        seen: &[Seen<'a>],
        client: Party,
        branch: &'a [u8],
        first: Instant,
    ) {
        let cancelled = seen
            .iter()
            .filter(|one| one.is_request_of(client, Method::Cancel, branch))
            .filter_map(|one| one.arrived)
            .min();
        let Some(cancelled) = cancelled else {
            return;
        };
        let answered = seen
            .iter()
            .filter(|one| one.is_answer_to(client, Method::Invite, branch) && one.is_final())
            .map(|one| one.at)
            .min();
        if self.is_disturbed(first) || answered.is_some_and(|at| at <= cancelled) {
            return;
        }
        for down in Branch::all(seen) {
            if down.sent > cancelled {
                self.report(request, cancelled, "a branch was started after the client's CANCEL");
            }
            let pending = down.provisional.is_some_and(|at| {
                let asked = at.max(cancelled);
                down.answered.is_none_or(|end| end > asked) && asked < down.sent + LONGEST_TRANSACTION
            });
            if pending && down.cancelled.is_none() {
                self.report(request, cancelled, "CANCEL did not reach a pending branch");
            }
        }
    }

    /// No CANCEL goes to a branch that gave no provisional answer or has its final one.
    fn judge_cancels_sent(&mut self, request: &Request<'a>, seen: &[Seen<'a>]) {
        for down in Branch::all(seen) {
            let Some(cancelled) = down.cancelled else {
                continue;
            };
            if down.provisional.is_none_or(|at| at > cancelled) {
                self.report(request, cancelled, "CANCEL went to a branch without a provisional answer");
            }
            if down.answered.is_some_and(|at| at < cancelled) {
                self.report(request, cancelled, "CANCEL went to a branch that had its final answer");
            }
        }
    }

    /// No box ever sees a second binding of a user: every user of the simulation has one phone.
    fn judge_bindings(&mut self, requests: &BTreeMap<Request<'a>, Vec<Seen<'a>>>) {
        let mut contacts: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        for (request, seen) in requests {
            for one in seen {
                let (Some(user), Some(contact)) = (one.bound_user, one.contact) else {
                    continue;
                };
                if one.sender != Party::Balancer || !matches!(one.receiver, Some(Party::Pbx(_))) {
                    continue;
                }
                let known = *contacts.entry(user).or_insert(contact);
                if known != contact {
                    let what = format!(
                        "a second binding: {} besides {}",
                        String::from_utf8_lossy(contact),
                        String::from_utf8_lossy(known)
                    );
                    self.report(request, one.at, &what);
                }
            }
        }
    }

    /// A token that was copied into another call leads nowhere.
    fn judge_forged(&mut self, request: &Request<'a>, seen: &[Seen<'a>]) {
        if !request.call_id.starts_with(FORGED.as_bytes()) {
            return;
        }
        if let Some(one) = seen.iter().find(|one| one.sender == Party::Balancer && one.code.is_none()) {
            self.report(request, one.at, "a forged token was followed");
        }
    }

    /// Whether the balancer was down, or had forgotten its timers, while a transaction that began at `first` ran.
    fn is_disturbed(&self, first: Instant) -> bool {
        let end = first + LONGEST_CALL_SETUP;
        self.outages.iter().any(|(from, until)| *from <= end && *until + LONGEST_TRANSACTION >= first)
    }

    fn report(&mut self, request: &Request<'a>, at: Instant, what: &str) {
        let call_id = String::from_utf8_lossy(request.call_id);
        let seconds = at.as_micros() as f64 / 1e6;
        self.problems.push(format!("{what}: Call-ID {call_id}, CSeq {}, at {seconds:.6}", request.number));
    }
}

/// An INVITE branch that the balancer sent, and what came back on it.
struct Branch {
    sent: Instant,
    provisional: Option<Instant>,
    answered: Option<Instant>,
    cancelled: Option<Instant>,
}

impl Branch {
    fn all(seen: &[Seen<'_>]) -> Vec<Self> {
        let mut branches: BTreeMap<&[u8], Self> = BTreeMap::new();
        for one in seen.iter().filter(|one| one.sender == Party::Balancer && one.code.is_none()) {
            if one.method == Method::Invite {
                branches.entry(one.branch).or_insert(Self {
                    sent: one.at,
                    provisional: None,
                    answered: None,
                    cancelled: None,
                });
            } else if one.method == Method::Cancel
                && let Some(branch) = branches.get_mut(one.branch)
            {
                branch.cancelled.get_or_insert(one.at);
            }
        }
        for one in seen.iter().filter(|one| one.receiver == Some(Party::Balancer) && one.method == Method::Invite) {
            let (Some(code), Some(arrived)) = (one.code, one.arrived) else {
                continue;
            };
            if let Some(branch) = branches.get_mut(one.branch) {
                let noted = if code < 200 { &mut branch.provisional } else { &mut branch.answered };
                *noted = Some(noted.map_or(arrived, |earlier| earlier.min(arrived)));
            }
        }
        branches.into_values().collect()
    }
}

/// The transactions that clients opened at the balancer: by whom, method, branch.
fn branches_received<'a>(seen: &[Seen<'a>]) -> Vec<(Party, Method<'a>, &'a [u8])> {
    let mut branches: Vec<(Party, Method<'a>, &'a [u8])> = Vec::new();
    for one in seen.iter().filter(|one| one.receiver == Some(Party::Balancer) && one.code.is_none()) {
        let branch = (one.sender, one.method, one.branch);
        if !branches.contains(&branch) {
            branches.push(branch);
        }
    }
    branches
}

/// Whether a box's final answer was there while the client could still be waiting. A 408 is never passed on (RFC 4320 §4.2).
fn was_answered_in_time(seen: &[Seen<'_>], method: Method<'_>, first: Instant) -> bool {
    seen.iter().any(|one| {
        one.receiver == Some(Party::Balancer)
            && one.method == method
            && method != Method::Cancel
            && one.is_final()
            && one.code != Some(408)
            && one.arrived.is_some_and(|at| at < first + IN_TIME)
    })
}

/// Call-IDs of requests that carry a token of another call begin with this.
pub const FORGED: &str = "forged-";

/// Timer B and F: 64 × T1.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(32);
/// Timer C, the CANCEL that follows it, and a fail-over before.
const LONGEST_CALL_SETUP: Duration = Duration::from_secs(181 + 64);
/// Safely before the client's Timer F.
const IN_TIME: Duration = Duration::from_secs(28);

#[cfg(test)]
mod tests;
