//! One request from its first copy to its last answer, on both sides of the balancer.

use super::seen::{Request, Seen};
use crate::network::Party;
use sip::{Instant, Method};
use std::net::SocketAddr;

/// Everything on the wire with one Call-ID, From tag and CSeq number.
#[derive(Clone, Debug)]
pub(super) struct Story<'a> {
    pub(super) request: Request<'a>,
    /// In the order of the wire.
    pub(super) seen: Vec<Seen<'a>>,
    /// The transactions that others opened at the balancer; each ACK of a 2xx is one.
    pub(super) asked: Vec<Asked<'a>>,
    /// The transactions that the balancer opened, CANCEL apart, oldest first.
    pub(super) branches: Vec<Branch<'a>>,
}

/// A transaction that a client opened at the balancer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) client: Party,
    pub(super) method: Method<'a>,
    pub(super) branch: &'a [u8],
    /// Empty: outside of dialogs.
    pub(super) to_tag: &'a [u8],
    /// When the first copy arrived.
    pub(super) first: Instant,
}

/// A branch that the balancer sent, and what came back on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branch<'a> {
    pub(super) name: &'a [u8],
    pub(super) method: Method<'a>,
    /// The branch of the client's transaction that it was sent for.
    pub(super) made_for: &'a [u8],
    pub(super) to: SocketAddr,
    pub(super) receiver: Option<Party>,
    pub(super) sent: Instant,
    /// Of its first copy, in [`Story::seen`].
    pub(super) place: usize,
    /// A copy of it met nobody.
    pub(super) unreachable: bool,
    /// The first 1xx, the first final answer, the first 2xx, the first 6xx.
    pub(super) provisional: Option<Instant>,
    pub(super) answered: Option<Instant>,
    pub(super) succeeded: Option<Instant>,
    pub(super) refused_everywhere: Option<Instant>,
    /// The first CANCEL of ours.
    pub(super) cancelled: Option<Seen<'a>>,
}

impl<'a> Story<'a> {
    pub(super) fn new(request: Request<'a>, seen: Vec<Seen<'a>>) -> Self {
        let asked = asked(&seen);
        let branches = branches(&seen);
        Self { request, seen, asked, branches }
    }

    pub(super) fn asked_by(&self, method: Method<'static>) -> impl Iterator<Item = &Asked<'a>> {
        self.asked.iter().filter(move |asked| asked.method == method)
    }

    /// Transactions that are neither INVITE's nor hop by hop nor without an answer.
    pub(super) fn others(&self) -> impl Iterator<Item = &Asked<'a>> {
        self.asked.iter().filter(|asked| !matches!(asked.method, Method::Invite | Method::Ack | Method::Cancel))
    }

    /// The branches that were sent for one transaction, oldest first.
    pub(super) fn branches_of(&self, asked: &Asked<'a>) -> impl Iterator<Item = &Branch<'a>> {
        let (method, name) = (asked.method, asked.branch);
        self.branches.iter().filter(move |branch| branch.method == method && branch.made_for == name)
    }

    pub(super) fn requests_sent(&self) -> impl Iterator<Item = &Seen<'a>> {
        self.seen.iter().filter(|one| one.is_request_out())
    }

    pub(super) fn responses_sent(&self) -> impl Iterator<Item = &Seen<'a>> {
        self.seen.iter().filter(|one| one.code.is_some() && one.sender == Party::Balancer)
    }

    /// Responses that arrived at the balancer, and when.
    pub(super) fn responses_in(&self) -> impl Iterator<Item = (&Seen<'a>, Instant)> {
        self.seen
            .iter()
            .filter(|one| one.code.is_some() && one.receiver == Some(Party::Balancer))
            .filter_map(|one| Some((one, one.arrived?)))
    }

    /// The final answers that went up on a transaction, with their places in the story.
    pub(super) fn finals(&self, asked: &Asked<'a>) -> Vec<(usize, Seen<'a>)> {
        self.seen
            .iter()
            .copied()
            .enumerate()
            .filter(|(_, one)| one.is_answer_to(asked.client, asked.method, asked.branch) && one.is_final())
            .collect()
    }

    /// Those of them that were sent after a branch was: before, no state is kept and each copy is answered by itself (RFC 3261
    /// §8.2.7).
    pub(super) fn stateful_finals(&self, asked: &Asked<'a>) -> Vec<(usize, Seen<'a>)> {
        let Some(first) = self.branches_of(asked).map(|branch| branch.place).min() else {
            return Vec::new();
        };
        let mut finals = self.finals(asked);
        finals.retain(|(place, _)| *place > first);
        finals
    }

    /// The branch by which the response came that went up as `up`; `None`: it is the balancer's own.
    pub(super) fn origin(&self, up: &Seen<'a>) -> Option<&'a [u8]> {
        self.responses_in()
            .find(|(came, arrived)| {
                *arrived <= up.at && came.method == up.method && came.to_tag == up.to_tag && came.has_code_of(up)
            })
            .map(|(came, _)| came.branch)
    }

    /// A BYE of the balancer's own making: nobody asked for it.
    pub(super) fn is_farewell(&self) -> bool {
        self.asked.is_empty() && self.branches.iter().any(|branch| branch.method == Method::Bye)
    }

    /// A request that opened its transaction: not a retransmission.
    pub(super) fn is_first_copy(&self, one: &Seen<'a>) -> bool {
        self.asked.iter().any(|asked| asked.is_of(one) && one.arrived == Some(asked.first))
    }

    /// A CANCEL, or the ACK of a refusal, of the balancer's own making: it has the branch of an INVITE that the balancer sent.
    pub(super) fn is_hop_by_hop(&self, one: &Seen<'a>) -> bool {
        matches!(one.method, Method::Ack | Method::Cancel)
            && self.branches.iter().any(|branch| branch.method == Method::Invite && branch.name == one.branch)
    }
}

impl Asked<'_> {
    /// A copy of the request that opened this transaction.
    pub(super) fn is_of(&self, one: &Seen<'_>) -> bool {
        one.is_request_in()
            && one.sender == self.client
            && one.method.as_bytes() == self.method.as_bytes()
            && one.branch == self.branch
    }

    pub(super) fn is_in_dialog(&self) -> bool {
        !self.to_tag.is_empty()
    }
}

fn asked<'a>(seen: &[Seen<'a>]) -> Vec<Asked<'a>> {
    let mut asked: Vec<Asked<'a>> = Vec::new();
    for one in seen.iter().filter(|one| one.is_request_in()) {
        let Some(arrived) = one.arrived else {
            continue;
        };
        match asked.iter_mut().find(|known| known.is_of(one)) {
            Some(known) => known.first = known.first.min(arrived),
            None => asked.push(Asked {
                client: one.sender,
                method: one.method,
                branch: one.branch,
                to_tag: one.to_tag,
                first: arrived,
            }),
        }
    }
    asked
}

fn branches<'a>(seen: &[Seen<'a>]) -> Vec<Branch<'a>> {
    let mut branches: Vec<Branch<'a>> = Vec::new();
    for (place, one) in seen.iter().enumerate() {
        if one.is_request_out() {
            note_request(&mut branches, place, one);
        }
    }
    for one in seen.iter().filter(|one| one.receiver == Some(Party::Balancer)) {
        let (Some(code), Some(arrived)) = (one.code, one.arrived) else {
            continue;
        };
        let branch = branches.iter_mut().find(|branch| branch.name == one.branch && branch.method == one.method);
        if let Some(branch) = branch {
            note_response(branch, code, arrived);
        }
    }
    branches
}

fn note_request<'a>(branches: &mut Vec<Branch<'a>>, place: usize, one: &Seen<'a>) {
    let is_cancel = one.method == Method::Cancel;
    if one.method == Method::Ack {
        return;
    }
    // A CANCEL has the branch of its INVITE.
    let method = if is_cancel { Method::Invite } else { one.method };
    match branches.iter_mut().find(|branch| branch.name == one.branch && branch.method == method) {
        Some(branch) if is_cancel => {
            branch.cancelled.get_or_insert(*one);
        }
        Some(branch) => branch.unreachable |= one.unreachable,
        None if is_cancel => {}
        None => branches.push(Branch {
            name: one.branch,
            method: one.method,
            made_for: one.branch_below,
            to: one.to,
            receiver: one.receiver,
            sent: one.at,
            place,
            unreachable: one.unreachable,
            provisional: None,
            answered: None,
            succeeded: None,
            refused_everywhere: None,
            cancelled: None,
        }),
    }
}

fn note_response(branch: &mut Branch<'_>, code: u16, arrived: Instant) {
    let earlier = |noted: &mut Option<Instant>| *noted = Some(noted.map_or(arrived, |known| known.min(arrived)));
    match code {
        0..=199 => earlier(&mut branch.provisional),
        _ => earlier(&mut branch.answered),
    }
    match code {
        200..=299 => earlier(&mut branch.succeeded),
        600.. => earlier(&mut branch.refused_everywhere),
        _ => {}
    }
}
