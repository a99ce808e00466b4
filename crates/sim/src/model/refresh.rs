//! What phones are told of their registrations: by their boxes, or by the balancer where `max_expires` lets it answer by itself.

use super::Problems;
use super::circumstances::Circumstances;
use super::seen::Seen;
use super::story::{Asked, Branch, Story};
use crate::network::Party;
use sip::{Contact, Instant, Limits, Method};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A box's 2xx to a REGISTER, which the balancer passed on.
#[derive(Clone, Copy)]
struct Grant<'s> {
    number: u32,
    at: Instant,
    /// `None`: the box has let the phone go.
    seconds: Option<u32>,
    /// The REGISTER as it came.
    asked: Seen<'s>,
    branch: Branch<'s>,
}

/// A REGISTER that the balancer has answered 200 by itself.
struct Refreshed<'s> {
    story: &'s Story<'s>,
    asked: Asked<'s>,
    /// Its first answer.
    answer: Seen<'s>,
}

/// No phone is told more than `max_expires`, nor more than its box has granted.
pub(super) fn phones_are_told_no_more_than_holds(
    stories: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for story in stories {
        let answers = story.responses_sent().filter(|one| one.method == Method::Register && one.is_success());
        for one in answers {
            let Some(told) = seconds(one.bytes) else {
                continue;
            };
            if circumstances.max_expires.is_some_and(|longest| told > longest) {
                problems.report(&story.request, one.at, "a phone was told more than max_expires");
            }
            let granted = granting(story, one).and_then(|came| seconds(came.bytes));
            if granted.is_some_and(|granted| told > granted) {
                problems.report(&story.request, one.at, "a phone was told more than its box has granted");
            }
        }
    }
}

/// The balancer answers a REGISTER by itself only if it says nothing new: from where the phone was heard last, with a higher
/// number and the same contact, and no later than half of what its box has granted. The box was not cut since.
pub(super) fn refreshes_need_a_box_where_they_say_anything_new(
    stories: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for call in registrations(stories) {
        let grants = grants(call);
        for refreshed in refreshed(call) {
            let answer = refreshed.answer;
            let newest = grants.iter().filter(|grant| grant.at <= answer.at).max_by_key(|grant| grant.at);
            let fault = match newest.and_then(|grant| Some((grant, grant.seconds?))) {
                None => Some("no box has granted it"),
                Some(_) if circumstances.max_expires.is_none() => Some("max_expires is not set"),
                Some((grant, granted)) => promise_fault(answer, grant, granted)
                    .or_else(|| novelty(&refreshed, grant, stories))
                    .or_else(|| loss(grant, answer.at, circumstances)),
            };
            if let Some(fault) = fault {
                let what = format!("a refresh was answered without its box: {fault}");
                problems.report(&refreshed.story.request, answer.at, &what);
            }
        }
    }
}

/// A box that calls a phone by the contact that it was given reaches it for as long as some box has granted that.
pub(super) fn registered_phones_are_reached(
    stories: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    let mut known: BTreeMap<&[u8], Vec<Grant<'_>>> = BTreeMap::new();
    for call in registrations(stories) {
        let mut written = call.iter().flat_map(|story| story.requests_sent());
        if let Some(contact) = written.find_map(|one| one.contact) {
            known.insert(contact, grants(call));
        }
    }
    for story in stories {
        let of_boxes = story.asked_by(Method::Invite).filter(|asked| matches!(asked.client, Party::Pbx(_)));
        for asked in of_boxes.filter(|asked| !asked.is_in_dialog() && story.branches_of(asked).next().is_none()) {
            let invite = story.seen.iter().find(|one| asked.is_of(one));
            let Some(grants) = invite.and_then(|invite| known.get(request_uri(invite.bytes)?)) else {
                continue;
            };
            let is_refused = story.finals(asked).iter().any(|(_, one)| matches!(one.code, Some(404 | 430 | 480)));
            let newest = grants.iter().filter(|grant| grant.at <= asked.first).max_by_key(|grant| grant.at);
            let is_alive = newest.is_some_and(|grant| {
                grant.seconds.is_some_and(|seconds| asked.first < grant.at + whole(seconds))
                    && !circumstances.may_forget(grant.at)
                    && !circumstances.outage_between(grant.branch.sent, grant.at)
            });
            if is_refused && is_alive {
                problems.report(&story.request, asked.first, "a phone that is registered was not reached");
            }
        }
    }
}

/// The requests of each phone that registers.
fn registrations<'s>(stories: &'s [Story<'s>]) -> impl Iterator<Item = &'s [Story<'s>]> {
    let calls = stories.chunk_by(|one, next| one.request.call_id == next.request.call_id);
    calls.filter(|call| call.iter().any(|story| story.asked_by(Method::Register).next().is_some()))
}

/// In the order of their numbers.
fn grants<'s>(call: &'s [Story<'s>]) -> Vec<Grant<'s>> {
    let mut grants: Vec<Grant<'s>> = Vec::new();
    for story in call {
        for branch in story.branches.iter().filter(|branch| branch.method == Method::Register) {
            let Some(at) = branch.succeeded else {
                continue;
            };
            let came = story
                .responses_in()
                .find(|(came, arrived)| *arrived == at && came.branch == branch.name && came.is_success())
                .map(|(came, _)| came);
            let asked = story.seen.iter().find(|one| {
                let is_before = one.arrived.is_some_and(|arrived| arrived <= branch.sent);
                one.is_request_in() && one.branch == branch.made_for && is_before
            });
            let (Some(came), Some(asked)) = (came, asked) else {
                continue;
            };
            let is_passed_on =
                story.responses_sent().any(|up| up.at == at && up.is_success() && up.to_tag == came.to_tag);
            if is_passed_on {
                let (number, seconds) = (story.request.number, seconds(came.bytes));
                grants.push(Grant { number, at, seconds, asked: *asked, branch: *branch });
            }
        }
    }
    grants
}

fn refreshed<'s>(call: &'s [Story<'s>]) -> Vec<Refreshed<'s>> {
    let mut refreshed = Vec::new();
    for story in call {
        for asked in story.asked_by(Method::Register) {
            let mut answers = story.finals(asked).into_iter().map(|(_, one)| one).filter(Seen::is_success);
            if let Some(answer) = answers.find(|one| story.origin(one).is_none()) {
                refreshed.push(Refreshed { story, asked: *asked, answer });
            }
        }
    }
    refreshed
}

/// What was promised lasts longer than what was granted, or the box had better be asked again.
fn promise_fault(answer: Seen<'_>, grant: &Grant<'_>, granted: u32) -> Option<&'static str> {
    let left = (grant.at + whole(granted)).saturating_since(answer.at);
    if seconds(answer.bytes).is_none_or(|told| whole(told) > left) {
        Some("it is told more than is left")
    } else if left * 2 < whole(granted) {
        Some("less than half of its time is left")
    } else {
        None
    }
}

/// What the box has not heard yet.
fn novelty(refreshed: &Refreshed<'_>, grant: &Grant<'_>, stories: &[Story<'_>]) -> Option<&'static str> {
    let Refreshed { story, asked, answer } = refreshed;
    if story.request.number <= grant.number {
        return Some("it is older than what was granted");
    }
    let mut copies = story.seen.iter().filter(|one| asked.is_of(one) && one.at <= answer.at);
    let Some(came) = copies.next() else {
        return Some("it never came");
    };
    if came.contact != grant.asked.contact {
        return Some("it has another contact");
    }
    let is_from = |from: SocketAddr| from == grant.asked.from || is_heard_from(asked.client, from, answer.at, stories);
    let is_same_way = is_from(came.from) || copies.any(|one| is_from(one.from));
    (!is_same_way).then_some("it came by another way")
}

/// Whether the phone was heard from there in a call: then its registration leads there, too.
fn is_heard_from(phone: Party, from: SocketAddr, until: Instant, stories: &[Story<'_>]) -> bool {
    stories.iter().flat_map(|story| &story.seen).any(|one| {
        let is_before = one.arrived.is_some_and(|arrived| arrived <= until);
        one.sender == phone && one.from == from && one.method != Method::Register && is_before
    })
}

/// The box, or the balancer, may have forgotten what was granted.
fn loss(grant: &Grant<'_>, at: Instant, circumstances: &Circumstances) -> Option<&'static str> {
    let of_box = circumstances.cuts.iter().filter(|cut| grant.branch.receiver == Some(cut.party));
    let is_cut = of_box.map(|cut| cut.at).any(|cut| grant.at < cut && cut < at);
    if is_cut {
        Some("its box was cut")
    } else if circumstances.outage_between(grant.at, at) {
        Some("the balancer was down since")
    } else {
        None
    }
}

/// The response that went up as `up`.
fn granting<'s, 'a>(story: &'s Story<'a>, up: &Seen<'a>) -> Option<&'s Seen<'a>> {
    let mut came = story.responses_in().filter(|(came, arrived)| *arrived <= up.at && came.is_success());
    came.find(|(came, _)| came.to_tag == up.to_tag).map(|(came, _)| came)
}

/// How long the contact of a 2xx lasts; `None`: it names none.
fn seconds(response: &[u8]) -> Option<u32> {
    let message = sip::parse(response, &Limits::default()).ok()?;
    message.contacts().find_map(|contact| match contact {
        Contact::Address(address) => address.expires().or(message.expires()),
        Contact::Star => None,
    })
}

fn request_uri(request: &[u8]) -> Option<&[u8]> {
    request.split(|octet| *octet == b' ').nth(1)
}

fn whole(seconds: u32) -> Duration {
    Duration::from_secs(u64::from(seconds))
}

#[cfg(test)]
mod tests {
    use crate::model::CutBox;
    use crate::model::tests::{BOX, FARM, PHONE, Wire, own_answer, passed_down, passed_up};
    use crate::script::{Answer, Script};
    use std::time::Duration;

    const WRITTEN: &str = "<sip:bonnie@10.0.0.1:5060;tdm=1>";

    fn register(cseq: u32, contact: &str) -> Vec<u8> {
        Script::new("REGISTER").branch(&format!("r{cseq}")).cseq(cseq).line(&format!("Contact: {contact}")).build()
    }

    /// Bonnie's contact.
    fn mine(seconds: u32) -> String {
        format!("<sip:bonnie@10.1.0.1:5060>;expires={seconds}")
    }

    /// The farm tells phones half a minute at most; the box grants two minutes, of which `told` are passed on.
    fn granted(told: u32) -> Wire {
        let mut wire = Wire::new();
        wire.circumstances.max_expires = Some(30);
        let request = register(1, &mine(120));
        wire.put(PHONE, FARM, request.clone());
        let down = String::from_utf8(passed_down(&request, "d1")).expect("scripts are text");
        let down = down.replace(&mine(120), &format!("{WRITTEN};expires=120")).into_bytes();
        wire.react(BOX, down.clone());
        let answer = Answer::new(200).line(&format!("Contact: {WRITTEN};expires=120")).to(&down);
        wire.put(BOX, FARM, answer.clone());
        let up = String::from_utf8(passed_up(&answer)).expect("scripts are text");
        wire.react(PHONE, up.replace(&format!("{WRITTEN};expires=120"), &mine(told)).into_bytes());
        wire
    }

    /// So many seconds later the farm answers this REGISTER by itself.
    fn refreshed(mut wire: Wire, after: u64, cseq: u32, told: u32) -> Wire {
        wire.wait(Duration::from_secs(after));
        let request = register(cseq, &mine(120));
        wire.put(PHONE, FARM, request.clone());
        let own = String::from_utf8(own_answer(200, &request)).expect("scripts are text");
        let own = own.replacen("CSeq: ", &format!("Contact: {}\r\nCSeq: ", mine(told)), 1);
        wire.react(PHONE, own.into_bytes());
        wire
    }

    #[test]
    fn phones_are_told_as_long_as_the_farm_wants() {
        granted(30).assert_good();
        granted(31).assert_told("a phone was told more than max_expires");
        let mut wire = granted(121);
        wire.circumstances.max_expires = None;
        wire.assert_told("a phone was told more than its box has granted");
    }

    #[test]
    fn a_refresh_is_answered_for_half_of_what_was_granted() {
        for (after, cseq, told, fault) in [
            (24, 2, 30, ""),
            (59, 2, 30, ""),
            (61, 2, 30, "less than half of its time is left"),
            (24, 2, 97, "it is told more than is left"),
            (24, 1, 30, "it is older than what was granted"),
        ] {
            let mut wire = granted(30);
            if told > 30 {
                wire.circumstances.max_expires = Some(3_600);
            }
            // The same number is another request if its branch is.
            let wire = if cseq == 1 { answered_again(wire) } else { refreshed(wire, after, cseq, told) };
            match fault {
                "" => wire.assert_good(),
                fault => wire.assert_told(&format!("a refresh was answered without its box: {fault}")),
            }
        }
    }

    /// The farm answers the first REGISTER once more, by another branch.
    fn answered_again(mut wire: Wire) -> Wire {
        wire.wait(Duration::from_secs(24));
        let contact = format!("Contact: {}", mine(120));
        let request = Script::new("REGISTER").branch("again").line(&contact).build();
        wire.put(PHONE, FARM, request.clone());
        wire.react(PHONE, Answer::new(200).tag("own").line(&format!("Contact: {}", mine(30))).to(&request));
        wire
    }

    #[test]
    fn without_a_grant_no_refresh_is_answered() {
        let mut wire = Wire::new();
        wire.circumstances.max_expires = Some(30);
        refreshed(wire, 1, 2, 30).assert_told("a refresh was answered without its box: no box has granted it");
        let mut off = refreshed(granted(30), 24, 2, 30);
        off.circumstances.max_expires = None;
        off.assert_told("a refresh was answered without its box: max_expires is not set");
    }

    #[test]
    fn what_a_box_or_the_balancer_may_have_forgotten_is_no_grant() {
        let wire = granted(30);
        let at = wire.now() + Duration::from_secs(1);
        let mut cut = refreshed(wire.clone(), 24, 2, 30);
        cut.circumstances.cuts = vec![CutBox { party: BOX, at, until: at }];
        cut.assert_told("a refresh was answered without its box: its box was cut");
        let mut restarted = refreshed(wire, 24, 2, 30);
        restarted.circumstances.outages = vec![(at, at)];
        restarted.assert_told("a refresh was answered without its box: the balancer was down since");
    }

    #[test]
    fn a_new_way_is_for_the_box_to_know() {
        let mut wire = refreshed(granted(30), 24, 2, 30);
        wire.move_the_sender();
        wire.assert_told("a refresh was answered without its box: it came by another way");
    }

    /// The box calls Bonnie so many seconds after it has granted her two minutes.
    fn called(after: u64) -> Wire {
        let mut wire = granted(30);
        wire.wait(Duration::from_secs(after));
        let uri = WRITTEN.trim_matches(['<', '>']);
        let via = "SIP/2.0/UDP 10.0.1.1:5060;rport;branch=z9hG4bKx";
        let invite = Script::new("INVITE").uri(uri).via(via).branch("call").call_id("call-2").build();
        wire.put(BOX, FARM, invite.clone());
        wire.react(BOX, own_answer(480, &invite));
        wire
    }

    #[test]
    fn a_phone_is_reached_while_it_is_registered() {
        called(119).assert_told("a phone that is registered was not reached");
        called(121).assert_good();
    }
}
