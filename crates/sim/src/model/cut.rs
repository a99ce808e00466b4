//! Boxes that are cut: nobody new goes there, who waits there goes elsewhere, and calls end on both sides.

use super::circumstances::{Circumstances, CutBox};
use super::dialog::{Dialog, Inside, inside};
use super::story::{Asked, Branch, Story};
use super::{CUT_SETTLES, FOLLOWED_WITHIN, Problems};
use crate::network::Party;
use sip::{Instant, Method};

/// Inside of dialogs there is nobody else to ask.
pub(super) fn nobody_goes_to_a_box_that_is_cut(
    story: &Story<'_>,
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for asked in story.asked.iter().filter(|asked| !asked.is_in_dialog()) {
        let astray = story
            .branches_of(asked)
            .find(|branch| branch.receiver.is_some_and(|party| circumstances.is_cut(party, branch.sent)));
        if let Some(branch) = astray {
            problems.report(&story.request, branch.sent, "a request went to a box that is cut");
        }
    }
}

/// A phone's call that waits for the answer of a box that is cut moves on, if there is a box that never failed and was not tried.
pub(super) fn callers_leave_a_box_that_is_cut(
    story: &Story<'_>,
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    if circumstances.cuts.is_empty() {
        return;
    }
    let of_phones = |asked: &&Asked<'_>| matches!(asked.client, Party::Phone(_)) && !asked.is_in_dialog();
    for asked in story.asked_by(Method::Invite).filter(of_phones) {
        let branches: Vec<&Branch<'_>> = story.branches_of(asked).collect();
        let Some(youngest) = branches.last() else {
            continue;
        };
        for cut in circumstances.cuts.iter().filter(|cut| youngest.receiver == Some(cut.party)) {
            let until = cut.at + FOLLOWED_WITHIN;
            let has_waited = youngest.sent <= cut.at && !has_ended(story, asked, until, circumstances);
            let is_alone = !(0..circumstances.boxes).any(|index| {
                let party = Party::Pbx(index);
                let is_tried = branches.iter().any(|branch| branch.receiver == Some(party));
                !is_tried && is_sound(party, until, circumstances)
            });
            if has_waited && !is_alone && !circumstances.outage_between(asked.first, until) {
                problems.report(&story.request, cut.at, "a call waits for a box that is cut");
            }
        }
    }
}

/// A call that was up when one of its boxes was cut ends by a BYE to each side, at the next turn of whoever holds it.
pub(super) fn both_sides_hear_of_a_cut(
    dialog: &Dialog<'_>,
    call: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    let Some(cut) = first_cut(dialog, circumstances).filter(|_| dialog.is_passed_on) else {
        return;
    };
    let until = cut.at + FOLLOWED_WITHIN;
    let of_caller = call.iter().filter(|story| story.request.from_tag == dialog.from_tag);
    let asked = of_caller.flat_map(|story| story.asked_by(Method::Invite)).map(|asked| asked.first).min();
    // What a BYE says is not in the log of facts.
    let is_forgotten = circumstances.outage_between(asked.unwrap_or(dialog.began), until);
    if is_forgotten || ends_by_itself(dialog, call, until) {
        return;
    }
    for party in [dialog.caller, dialog.callee] {
        let is_told = call.iter().filter(|story| story.is_farewell()).any(|story| {
            story.requests_sent().any(|one| one.at <= until && dialog.receiver_of(story, one) == Some(party))
        });
        if let Some(first) = call.first().filter(|_| !is_told) {
            let what = format!("{party} was not told that its call at {} was cut", cut.party);
            problems.report(&first.request, cut.at, &what);
        }
    }
}

/// The balancer ends a call only where one of its boxes was cut while it was up or set up, says why (RFC 3326), and says it once
/// to each side.
pub(super) fn farewells_have_a_cause(
    dialogs: &[Dialog<'_>],
    call: &[Story<'_>],
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for story in call.iter().filter(|story| story.is_farewell()) {
        let Some(bye) = story.requests_sent().next() else {
            continue;
        };
        let has_cause = dialogs
            .iter()
            .filter(|dialog| dialog.receiver_of(story, bye).is_some())
            .any(|dialog| circumstances.cuts.iter().any(|cut| is_side(dialog, cut) && ends(cut, dialog, bye.at)));
        if !has_cause {
            problems.report(&story.request, bye.at, "the balancer ended a call without a cause");
        }
        if memchr::memmem::find(bye.bytes, b"\r\nReason: SIP;").is_none() {
            problems.report(&story.request, bye.at, "the balancer ended a call and did not say why");
        }
        if story.branches.len() > 1 {
            problems.report(&story.request, bye.at, "the balancer ended a call twice");
        }
    }
}

/// The first cut of one of the boxes since the call is up. `None`, too, if that came while its answer was under way: then it may
/// have been up already or not.
fn first_cut<'c>(dialog: &Dialog<'_>, circumstances: &'c Circumstances) -> Option<&'c CutBox> {
    let cuts = circumstances.cuts.iter().filter(|cut| is_side(dialog, cut) && dialog.answered <= cut.at);
    cuts.min_by_key(|cut| cut.at).filter(|cut| dialog.began <= cut.at)
}

/// Whether the cut is a cause to end the call then: it was up already, or it was answered although its box was cut meanwhile.
fn ends(cut: &CutBox, dialog: &Dialog<'_>, at: Instant) -> bool {
    let is_soon_after = |cause: Instant| cause <= at && at <= cause + FOLLOWED_WITHIN;
    let is_up = dialog.answered <= cut.at + CUT_SETTLES;
    let is_late = dialog.asked <= cut.at + CUT_SETTLES && cut.at <= dialog.began;
    (is_up && is_soon_after(cut.at)) || (is_late && is_soon_after(dialog.began))
}

fn is_side(dialog: &Dialog<'_>, cut: &CutBox) -> bool {
    cut.party == dialog.caller || cut.party == dialog.callee
}

/// Whether a party has hung up until then, or somebody has said that there is no such call.
fn ends_by_itself(dialog: &Dialog<'_>, call: &[Story<'_>], until: Instant) -> bool {
    call.iter().filter(|story| !story.is_farewell()).any(|story| {
        let by_bye = |inside: &Inside<'_>| inside.one.method == Method::Bye && inside.arrived <= until;
        inside(dialog, story).iter().any(by_bye)
            || story.seen.iter().any(|one| one.code == Some(481) && one.at <= until)
    })
}

/// Whether the call was answered, taken back, or refused for all boxes until then.
fn has_ended(story: &Story<'_>, asked: &Asked<'_>, until: Instant, circumstances: &Circumstances) -> bool {
    let is_answered = story.finals(asked).iter().any(|(_, one)| one.at <= until);
    let is_taken_back = story
        .asked_by(Method::Cancel)
        .any(|cancel| cancel.client == asked.client && cancel.branch == asked.branch && cancel.first <= until);
    let is_over = story.branches_of(asked).any(|branch| {
        let ends = [branch.succeeded, branch.refused_everywhere];
        ends.into_iter().flatten().any(|at| at <= until)
    });
    let is_youngest_over = story.branches_of(asked).last().is_some_and(|branch| {
        branch.answered.is_some_and(|at| at <= until) || circumstances.may_be_unreachable(branch, until)
    });
    is_answered || is_taken_back || is_over || is_youngest_over
}

/// Whether the balancer had nothing against the box until then.
fn is_sound(party: Party, until: Instant, circumstances: &Circumstances) -> bool {
    let failed = circumstances.taken_for_down.iter().any(|(down, at)| *down == party && *at <= until);
    let cut = circumstances.cuts.iter().any(|cut| cut.party == party && cut.at <= until);
    !failed && !cut
}

#[cfg(test)]
mod tests {
    use crate::model::CutBox;
    use crate::model::tests::{
        BOX, FARM, OTHER_BOX, PHONE, Wire, own, own_answer, passed_down, passed_up, ringing, up,
    };
    use crate::network::Party;
    use crate::script::{Answer, Script};
    use std::time::Duration;

    const BONNIE: &str = "\"Bonnie\" <sip:bonnie@example.com>;tag=ft";
    const CLYDE: &str = "<sip:clyde@example.com>;tag=tt";

    /// The box is cut now, for a minute.
    fn cut(wire: &mut Wire, party: Party) {
        let at = wire.now();
        wire.circumstances.cuts.push(CutBox { party, at, until: at + Duration::from_secs(60) });
        wire.circumstances.boxes = 2;
    }

    /// A call that is up and acknowledged.
    fn call() -> Wire {
        answered(ringing())
    }

    /// The call that rings is answered and acknowledged.
    fn answered(mut wire: Wire) -> Wire {
        let answer = Answer::new(200).to(&passed_down(&up("INVITE"), "d1"));
        wire.put(BOX, FARM, answer.clone());
        wire.react(PHONE, passed_up(&answer));
        let ack = Script::new("ACK").branch("ack").to(CLYDE).build();
        wire.put(PHONE, FARM, ack.clone());
        wire.react(BOX, passed_down(&ack, "ackdown"));
        wire.wait(Duration::from_secs(1));
        wire
    }

    fn bye(from: &str, to: &str, branch: &str) -> Script {
        let via = "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx";
        Script::new("BYE").via(via).branch(branch).from(from).to(to).cseq(2_147_483_392)
    }

    /// The farm says BYE to that party, who answers.
    fn part(wire: &mut Wire, party: Party, branch: &str) {
        let (from, to) = if party == PHONE { (CLYDE, BONNIE) } else { (BONNIE, CLYDE) };
        let bye = bye(from, to, branch).line("Reason: SIP;cause=503").build();
        wire.put(FARM, party, bye.clone());
        wire.put(party, FARM, Answer::new(200).to(&bye));
    }

    #[test]
    fn a_call_that_is_cut_ends_on_both_sides() {
        let mut wire = call();
        cut(&mut wire, BOX);
        wire.assert_told("phone1 was not told that its call at pbx1 was cut");
        part(&mut wire, PHONE, "f1");
        wire.assert_told("pbx1 was not told that its call at pbx1 was cut");
        part(&mut wire, BOX, "f2");
        wire.assert_good();
        part(&mut wire, BOX, "f3");
        wire.assert_told("the balancer ended a call twice");
    }

    /// The answer crosses the CANCEL.
    #[test]
    fn a_call_that_is_answered_by_a_box_that_is_cut_may_end_then() {
        let mut wire = ringing();
        cut(&mut wire, BOX);
        wire.wait(Duration::from_secs(2));
        let mut wire = answered(wire);
        let mut late = wire.clone();
        part(&mut wire, PHONE, "f1");
        part(&mut wire, BOX, "f2");
        wire.assert_good();
        late.wait(Duration::from_secs(5));
        part(&mut late, PHONE, "f1");
        late.assert_told("the balancer ended a call without a cause");
    }

    #[test]
    fn a_call_that_ends_by_itself_needs_no_more() {
        let mut wire = call();
        cut(&mut wire, BOX);
        let bye = Script::new("BYE").branch("bye").cseq(2).to(CLYDE).build();
        wire.put(PHONE, FARM, bye.clone());
        let down = passed_down(&bye, "byedown");
        wire.react(BOX, down.clone());
        wire.put(BOX, FARM, Answer::new(200).to(&down));
        wire.react(PHONE, passed_up(&Answer::new(200).to(&down)));
        wire.assert_good();
    }

    #[test]
    fn an_end_needs_a_cut_of_that_box_and_says_why() {
        for party in [None, Some(OTHER_BOX)] {
            let mut wire = call();
            if let Some(party) = party {
                cut(&mut wire, party);
            }
            part(&mut wire, PHONE, "f1");
            wire.assert_told("the balancer ended a call without a cause");
        }
        let mut late = call();
        cut(&mut late, BOX);
        late.wait(Duration::from_secs(6));
        part(&mut late, PHONE, "f1");
        late.assert_told("the balancer ended a call without a cause");
        let mut silent = call();
        cut(&mut silent, BOX);
        silent.put(FARM, PHONE, bye(CLYDE, BONNIE, "f1").build());
        silent.assert_told("the balancer ended a call and did not say why");
    }

    #[test]
    fn a_restart_excuses_silence() {
        let mut wire = call();
        let now = wire.now();
        wire.circumstances.outages = vec![(now, now)];
        wire.wait(Duration::from_secs(1));
        cut(&mut wire, BOX);
        wire.assert_good();
    }

    #[test]
    fn nobody_new_goes_to_a_box_that_is_cut() {
        let mut wire = Wire::new();
        cut(&mut wire, BOX);
        let request = up("MESSAGE");
        wire.put(PHONE, FARM, request.clone());
        let mut elsewhere = wire.clone();
        elsewhere.react(OTHER_BOX, passed_down(&request, "d1"));
        elsewhere.assert_good();
        wire.react(BOX, passed_down(&request, "d1"));
        wire.assert_told("a request went to a box that is cut");
    }

    #[test]
    fn a_call_leaves_the_box_that_it_waits_for() {
        let refused = |mut wire: Wire| {
            wire.wait(Duration::from_secs(40));
            wire.put(FARM, PHONE, own(408, "INVITE"));
            wire
        };
        let mut wire = ringing();
        cut(&mut wire, BOX);
        refused(wire.clone()).assert_told("a call waits for a box that is cut");
        // There is no other.
        let mut alone = wire.clone();
        let now = alone.now();
        alone.circumstances.taken_for_down = vec![(OTHER_BOX, now)];
        let problems = refused(alone).model().judge();
        assert!(!problems.iter().any(|problem| problem.contains("that is cut")), "{problems:?}");
        wire.put(FARM, OTHER_BOX, passed_down(&up("INVITE"), "d2"));
        let answer = Answer::new(486).tag("other").to(&passed_down(&up("INVITE"), "d2"));
        wire.put(OTHER_BOX, FARM, answer.clone());
        wire.react(PHONE, passed_up(&answer));
        wire.assert_good();
    }

    #[test]
    fn a_party_that_does_not_know_the_call_may_say_so() {
        let mut wire = call();
        cut(&mut wire, BOX);
        for (party, from, to, branch) in [(PHONE, CLYDE, BONNIE, "f1"), (BOX, BONNIE, CLYDE, "f2")] {
            let bye = bye(from, to, branch).line("Reason: SIP;cause=503").build();
            wire.put(FARM, party, bye.clone());
            wire.put(party, FARM, own_answer(481, &bye));
        }
        wire.assert_good();
    }
}
