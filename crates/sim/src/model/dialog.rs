//! Answered calls: the balancer loses none, and what is sent inside them reaches the other side and nobody else.

use super::circumstances::Circumstances;
use super::seen::Seen;
use super::story::Story;
use super::{LONGEST_TRANSACTION, Problems};
use crate::network::Party;
use sip::{Instant, Method};
use std::time::Duration;

/// An answered INVITE outside a dialog, as one pair of parties saw it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialog<'a> {
    pub(super) caller: Party,
    pub(super) callee: Party,
    pub(super) from_tag: &'a [u8],
    to_tag: &'a [u8],
    /// When the INVITE went to the callee.
    pub(super) asked: Instant,
    /// When the callee sent its answer, and when that came to the balancer.
    pub(super) answered: Instant,
    pub(super) began: Instant,
    /// When the caller got to know.
    told: Option<Instant>,
    /// The balancer sent its 2xx up.
    pub(super) is_passed_on: bool,
}

/// The dialogs among requests of one Call-ID.
pub(super) fn dialogs<'a>(call: &[Story<'a>]) -> Vec<Dialog<'a>> {
    call.iter().flat_map(answered).collect()
}

/// The dialogs that an INVITE made.
fn answered<'a>(story: &Story<'a>) -> Vec<Dialog<'a>> {
    let mut dialogs: Vec<Dialog<'a>> = Vec::new();
    let caller = story
        .seen
        .iter()
        .find(|one| one.is_request_in() && one.method == Method::Invite && one.to_tag.is_empty())
        .map(|one| one.sender);
    let Some(caller) = caller else {
        return dialogs;
    };
    for (one, arrived) in story.responses_in().filter(|(one, _)| one.method == Method::Invite && one.is_success()) {
        if dialogs.iter().any(|dialog| dialog.to_tag == one.to_tag) {
            continue;
        }
        let ups: Vec<&Seen<'_>> = story
            .responses_sent()
            .filter(|up| up.is_success() && up.method == Method::Invite && up.to_tag == one.to_tag)
            .collect();
        let told = ups.iter().filter(|up| up.receiver == Some(caller)).filter_map(|up| up.arrived).min();
        let branch = story.branches.iter().find(|branch| branch.name == one.branch);
        dialogs.push(Dialog {
            caller,
            callee: one.sender,
            from_tag: story.request.from_tag,
            to_tag: one.to_tag,
            asked: branch.map_or(one.at, |branch| branch.sent),
            answered: one.at,
            began: arrived,
            told,
            is_passed_on: !ups.is_empty(),
        });
    }
    dialogs
}

/// Every request inside the dialog that arrived at the balancer must have been sent on to the other side, where that can be
/// known.
pub(super) fn requests_reach_the_other_side(
    dialog: &Dialog<'_>,
    call: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    let left = Left::of(dialog, call);
    for story in call {
        for Inside { one, arrived, other } in inside(dialog, story) {
            if moved_during(circumstances, other, dialog.answered, arrived)
                || (circumstances.has_moved(other) && !left.is_known_to(other, dialog, arrived))
                || (circumstances.has_moved(other) && circumstances.may_forget(dialog.began))
                || (circumstances.has_moved(other) && dialog.was_cut(circumstances, arrived))
            {
                continue;
            }
            let sent_on = story.requests_sent().any(|on| on.receiver == Some(other) && on.method == one.method);
            if !sent_on {
                let what = format!("{} from {} did not reach {other}", name(one.method), one.sender);
                problems.report(&story.request, arrived, &what);
                break;
            }
        }
    }
}

/// Each request inside the dialog, and each copy of an ACK, goes on when it arrives: its token says all that there is to know.
pub(super) fn requests_go_on_at_once(
    dialog: &Dialog<'_>,
    call: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for story in call {
        for Inside { one, arrived, other } in inside(dialog, story) {
            if !opens_something(story, &one) {
                continue;
            }
            let went_on = story
                .requests_sent()
                .any(|on| on.at == arrived && on.method == one.method && circumstances.reaches(on, other));
            if !went_on {
                let what = format!("{} from {} did not go on to {other} at once", name(one.method), one.sender);
                problems.report(&story.request, arrived, &what);
                break;
            }
        }
    }
}

/// What the balancer sends with the tags of a dialog goes to the party that the tags say.
pub(super) fn requests_go_to_the_other_side_only(
    dialog: &Dialog<'_>,
    call: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for story in call {
        for one in story.requests_sent() {
            let Some(other) = dialog.receiver_of(story, one) else {
                continue;
            };
            if !circumstances.reaches(one, other) {
                let what = format!("{} inside a dialog went astray, it was for {other}", name(one.method));
                problems.report(&story.request, one.at, &what);
                break;
            }
        }
    }
}

/// A party that moved in the middle of the call, and has sent a request of the call from its new address since, is found there.
pub(super) fn a_party_that_moved_is_followed(
    dialog: &Dialog<'_>,
    call: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for story in call {
        for Inside { one, arrived, other } in inside(dialog, story) {
            let moved = circumstances.last_move(other, arrived).filter(|moved| *moved > dialog.began);
            let Some(moved) = moved.filter(|_| opens_something(story, &one)) else {
                continue;
            };
            let is_known = heard_since(dialog, call, other, moved, arrived)
                .is_some_and(|heard| !circumstances.may_unlearn(other, heard, arrived))
                && !circumstances.outage_between(dialog.began, arrived)
                && is_open(dialog, call, story, arrived)
                && !dialog.was_cut(circumstances, arrived);
            let is_followed = story
                .requests_sent()
                .any(|on| on.at == arrived && on.method == one.method && on.receiver == Some(other));
            if is_known && !is_followed {
                let what = format!("{} from {} went to an old address of {other}", name(one.method), one.sender);
                problems.report(&story.request, arrived, &what);
                break;
            }
        }
    }
}

impl Dialog<'_> {
    /// One of its boxes was cut since its INVITE was sent, until `last`: the balancer has forgotten the dialog, or will in a
    /// moment.
    fn was_cut(&self, circumstances: &Circumstances, last: Instant) -> bool {
        [self.caller, self.callee].into_iter().any(|party| circumstances.was_cut(party, self.asked, last))
    }

    /// The party that a request with the tags of this dialog is for.
    pub(super) fn receiver_of(&self, story: &Story<'_>, one: &Seen<'_>) -> Option<Party> {
        let tags = (story.request.from_tag, one.to_tag);
        if tags == (self.from_tag, self.to_tag) {
            Some(self.callee)
        } else if tags == (self.to_tag, self.from_tag) {
            Some(self.caller)
        } else {
            None
        }
    }

    fn other(&self, party: Party) -> Option<Party> {
        if party == self.caller { Some(self.callee) } else { (party == self.callee).then_some(self.caller) }
    }
}

/// A copy of a request inside a dialog that arrived at the balancer, and for whom it is.
pub(super) struct Inside<'a> {
    pub(super) one: Seen<'a>,
    pub(super) arrived: Instant,
    pub(super) other: Party,
}

/// Hop by hop requests are left out: CANCEL, and the ACK of a refusal.
pub(super) fn inside<'a>(dialog: &Dialog<'_>, story: &Story<'a>) -> Vec<Inside<'a>> {
    let mut inside: Vec<Inside<'a>> = Vec::new();
    for one in story.seen.iter().filter(|one| one.is_request_in() && one.method != Method::Cancel) {
        let Some(other) = dialog.receiver_of(story, one).filter(|other| dialog.other(one.sender) == Some(*other))
        else {
            continue;
        };
        let Some(arrived) = one.arrived.filter(|_| !acknowledges_refusal(story, one)) else {
            continue;
        };
        inside.push(Inside { one: *one, arrived, other });
    }
    inside
}

/// The ACK of a refusal belongs to its INVITE's transaction and goes no further than the balancer.
fn acknowledges_refusal(story: &Story<'_>, ack: &Seen<'_>) -> bool {
    ack.method == Method::Ack
        && story.seen.iter().any(|one| one.code.is_none() && one.method == Method::Invite && one.branch == ack.branch)
}

/// Not a retransmission: those of an ACK are requests of their own.
fn opens_something<'a>(story: &Story<'a>, one: &Seen<'a>) -> bool {
    one.method == Method::Ack || story.is_first_copy(one)
}

/// When the party last sent a request of the dialog from its newest address, after everything that was under way from the old one
/// had arrived, and before `until`.
fn heard_since(
    dialog: &Dialog<'_>,
    call: &[Story<'_>],
    party: Party,
    moved: Instant,
    until: Instant,
) -> Option<Instant> {
    let mut heard: Option<Instant> = None;
    for story in call {
        for Inside { one, arrived, .. } in inside(dialog, story) {
            let counts = one.sender == party && one.at >= moved && opens_something(story, &one);
            if counts && arrived >= moved + LONGEST_FLIGHT && arrived < until {
                heard = heard.max(Some(arrived));
            }
        }
    }
    heard
}

/// Whether nobody has ended the dialog before: with it the balancer forgets where its parties are.
fn is_open(dialog: &Dialog<'_>, call: &[Story<'_>], but: &Story<'_>, at: Instant) -> bool {
    let is_ended = call.iter().any(|story| {
        let by_bye = story.request != but.request
            && inside(dialog, story).iter().any(|inside| inside.one.method == Method::Bye && inside.arrived <= at);
        by_bye || story.seen.iter().any(|one| one.code == Some(481) && one.at <= at)
    });
    dialog.is_passed_on && !is_ended
}

/// Whether the other side's address changed in a way that the balancer may not know yet: it knows what the answer tells, which was sent
/// before it came.
fn moved_during(circumstances: &Circumstances, party: Party, since: Instant, arrived: Instant) -> bool {
    let until = arrived + LONGEST_TRANSACTION;
    circumstances.rebound.iter().any(|(moved, at)| *moved == party && *at >= since && *at <= until)
}

fn name(method: Method<'_>) -> String {
    String::from_utf8_lossy(method.as_bytes()).into_owned()
}

/// Who has hung up, and when the answer that this was well went to him: from then on the balancer need not know of the dialog.
struct Left {
    caller: Option<Instant>,
    callee: Option<Instant>,
}

impl Left {
    fn of(dialog: &Dialog<'_>, call: &[Story<'_>]) -> Self {
        let answered = |party: Party, from: &[u8], to: &[u8]| {
            call.iter()
                .filter(|story| story.request.from_tag == from)
                .flat_map(|story| &story.seen)
                .filter(|one| one.method == Method::Bye && one.is_final())
                .filter(|one| one.to_tag == to && one.receiver == Some(party))
                .map(|one| one.at)
                .min()
        };
        Self {
            caller: answered(dialog.caller, dialog.from_tag, dialog.to_tag),
            callee: answered(dialog.callee, dialog.to_tag, dialog.from_tag),
        }
    }

    /// A caller that was never told of the answer, and a party whose BYE had its final answer (RFC 3261 §15.1.1), have no dialog: the
    /// balancer cannot learn there where it has moved to.
    fn is_known_to(&self, party: Party, dialog: &Dialog<'_>, at: Instant) -> bool {
        let (told, left) =
            if party == dialog.caller { (dialog.told, self.caller) } else { (Some(dialog.began), self.callee) };
        told.is_some_and(|told| told <= at) && left.is_none_or(|left| left > at)
    }
}

/// No link of a random world takes longer, not even for what it holds back.
const LONGEST_FLIGHT: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
