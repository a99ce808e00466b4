//! What strangers send, forgeries above all, leads nowhere.

use super::circumstances::Circumstances;
use super::seen::{Request, Seen};
use super::story::Story;
use super::{LONGEST_TRANSACTION, Problems};
use crate::network::Party;
use sip::Method;

/// Whether it was meant to deceive: its Call-ID or its From tag says so.
pub(super) fn is_forged(request: &Request<'_>) -> bool {
    request.call_id.starts_with(FORGED.as_bytes()) || request.from_tag.starts_with(FORGED.as_bytes())
}

/// A client that names a contact of the balancer's making is a client like any other: a box may see its request.
pub(super) fn names_a_contact(request: &Request<'_>) -> bool {
    request.from_tag.starts_with(FORGED_CONTACT.as_bytes())
}

/// What does not arrive proves nothing.
pub(super) fn forgeries_arrive(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for one in forgeries(story).filter(|one| one.arrived.is_none()) {
        if !circumstances.outage_between(one.at, one.at + LONGEST_TRANSACTION) {
            problems.report(&story.request, one.at, "a forgery did not arrive");
        }
    }
}

/// No request leaves for the sake of a forgery, no answer to a forged response, and no welcome.
pub(super) fn forgeries_lead_nowhere(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    if !is_forged(&story.request) {
        return;
    }
    let is_response = forgeries(story).any(|one| one.code.is_some());
    for one in story.seen.iter().filter(|one| one.sender == Party::Balancer) {
        let may_see_it = names_a_contact(&story.request) && matches!(one.receiver, Some(Party::Pbx(_)));
        match one.code {
            None if may_see_it => {}
            None => problems.report(&story.request, one.at, "a forged token was followed"),
            Some(_) if is_response => problems.report(&story.request, one.at, "a forged response was passed on"),
            Some(_) => {}
        }
    }
}

/// A forged request gets one answer, at once; an ACK none (RFC 3261 §17).
pub(super) fn forgeries_are_refused_once(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    if !is_forged(&story.request) || names_a_contact(&story.request) {
        return;
    }
    for one in forgeries(story).filter(|one| one.code.is_none()) {
        let Some(arrived) = one.arrived else {
            continue;
        };
        let wanted = usize::from(one.method != Method::Ack);
        let answers = story.responses_sent().filter(|answer| answer.at == arrived && answer.method == one.method);
        if answers.count() != wanted {
            problems.report(&story.request, arrived, "a forged request was not refused once");
        }
    }
    let asked = forgeries(story).filter(|one| one.arrived.is_some()).count();
    if let Some(surplus) = story.responses_sent().nth(asked) {
        problems.report(&story.request, surplus.at, "a forged request was refused more than once");
    }
}

/// Nothing but refusals ever goes to a stranger.
pub(super) fn strangers_get_refusals_only(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    let welcome = story
        .seen
        .iter()
        .filter(|one| one.sender == Party::Balancer && matches!(one.receiver, Some(Party::Peer(_))))
        .find(|one| one.code.is_none_or(|code| code < 400));
    if let Some(one) = welcome {
        problems.report(&story.request, one.at, "a stranger got more than a refusal");
    }
}

/// Calls reach a phone through a box, whoever makes them: nobody else may send to phones by way of the farm.
pub(super) fn requests_to_phones_come_from_boxes(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    let direct = story
        .requests_sent()
        .filter(|one| matches!(one.receiver, None | Some(Party::Phone(_))) && !story.is_farewell())
        .find(|one| !story.seen.iter().any(|came| is_of_a_box(came) && came.arrived.is_some_and(|at| at <= one.at)));
    if let Some(one) = direct {
        problems.report(&story.request, one.at, "a request went to a phone that came from no box");
    }
}

fn is_of_a_box(one: &Seen<'_>) -> bool {
    one.is_request_in() && matches!(one.sender, Party::Pbx(_))
}

/// What strangers sent.
fn forgeries<'s, 'a>(story: &'s Story<'a>) -> impl Iterator<Item = &'s Seen<'a>> {
    story.seen.iter().filter(move |one| is_forged(&story.request) && matches!(one.sender, Party::Peer(_)))
}

/// Call-IDs or From tags of requests that are meant to deceive begin with this.
pub const FORGED: &str = "forged-";
/// From tags of requests that name a contact of the balancer's own making.
pub const FORGED_CONTACT: &str = "forged-contact-";

#[cfg(test)]
mod tests {
    use super::super::tests::{BOX, FARM, OTHER_PHONE, PEER, PHONE, Wire, own_answer, passed_down, passed_up, up};
    use crate::script::{Answer, Script};

    fn forged(method: &str) -> Vec<u8> {
        Script::new(method).branch("forged").call_id("forged-1").build()
    }

    /// A forged BYE and its refusal.
    fn refused() -> Wire {
        let mut wire = Wire::new();
        wire.put(PEER, FARM, forged("BYE"));
        wire.react(PEER, own_answer(403, &forged("BYE")));
        wire
    }

    #[test]
    fn a_forgery_is_refused_and_no_more() {
        refused().assert_good();
        let mut wire = refused();
        wire.react(BOX, passed_down(&forged("BYE"), "down"));
        wire.assert_told("a forged token was followed");
        let mut wire = refused();
        wire.put(FARM, PEER, own_answer(403, &forged("BYE")));
        wire.assert_told("a forged request was refused more than once");
        let mut wire = Wire::new();
        wire.put(PEER, FARM, forged("BYE"));
        wire.assert_told("a forged request was not refused once");
        wire.react(PEER, own_answer(200, &forged("BYE")));
        wire.assert_told("a stranger got more than a refusal");
    }

    #[test]
    fn a_forged_ack_meets_silence() {
        let mut wire = Wire::new();
        wire.put(PEER, FARM, forged("ACK"));
        wire.assert_good();
        wire.react(PEER, own_answer(403, &forged("ACK")));
        wire.assert_told("a forged request was not refused once");
    }

    #[test]
    fn a_forgery_that_is_lost_proves_nothing() {
        let mut wire = Wire::new();
        wire.put(PEER, FARM, forged("ACK"));
        wire.lose_the_last();
        wire.assert_told("a forgery did not arrive");
        wire.circumstances.outages = vec![(wire.now(), wire.now())];
        wire.assert_good();
    }

    #[test]
    fn a_forged_response_is_dropped() {
        let answer = Answer::new(200).to(&passed_down(&forged("INVITE"), "down"));
        let mut wire = Wire::new();
        wire.put(PEER, FARM, answer.clone());
        wire.assert_good();
        wire.react(PHONE, passed_up(&answer));
        wire.assert_told("a forged response was passed on");
    }

    #[test]
    fn a_contact_of_ours_leads_a_client_to_a_box_at_most() {
        let from = "<sip:mallory@example.com>;tag=forged-contact-1";
        let via = "SIP/2.0/UDP 203.0.113.1:5060;rport;branch=z9hG4bKx";
        let request = Script::new("MESSAGE").from(from).via(via).build();
        let mut wire = Wire::new();
        wire.put(PEER, FARM, request.clone());
        let mut followed = wire.clone();
        followed.react(PHONE, passed_down(&request, "down"));
        followed.assert_told("a forged token was followed");
        wire.react(BOX, passed_down(&request, "down"));
        wire.assert_good();
    }

    #[test]
    fn phones_hear_from_boxes_only() {
        let mut wire = Wire::new();
        wire.put(PHONE, FARM, up("INVITE"));
        wire.react(OTHER_PHONE, passed_down(&up("INVITE"), "d1"));
        wire.assert_told("a request went to a phone that came from no box");
    }
}
