//! Answers to what is no INVITE (RFC 3261 §17.2.2 with RFC 4320).

use super::circumstances::Circumstances;
use super::story::{Branch, Story};
use super::{IN_TIME, LONGEST_TRANSACTION, Problems};
use sip::{Instant, Method};

/// One final answer, sent or not received alike: what a second branch says is too late, and so is anything of our own once a
/// branch was passed on. What a box answers to repetitions by one branch is the box's doing.
pub(super) fn others_have_one_end(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for asked in story.others() {
        let mut known: Vec<(Option<u16>, &[u8])> = Vec::new();
        let mut spoken: Option<&[u8]> = None;
        for (_, one) in story.stateful_finals(asked) {
            let this = (one.code, one.to_tag);
            if known.contains(&this) {
                continue;
            }
            let origin = story.origin(&one);
            let is_second = match origin {
                Some(branch) => spoken.is_some_and(|before| before != branch),
                None => !known.is_empty(),
            };
            known.push(this);
            spoken = spoken.or(origin);
            if is_second && !circumstances.outage_between(asked.first, one.at) {
                problems.report(&story.request, one.at, "a non-INVITE request got more than one final answer");
                break;
            }
        }
    }
}

/// No 408 (RFC 4320 §4.2) and no provisional answer but 100 (§4.1).
pub(super) fn others_get_no_time_out(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    let unwanted = story
        .responses_sent()
        .find(|one| one.method != Method::Invite && one.code.is_some_and(|code| matches!(code, 101..=199 | 408)));
    if let Some(one) = unwanted {
        let what = format!("a non-INVITE request got a {}", one.code.unwrap_or_default());
        problems.report(&story.request, one.at, &what);
    }
}

/// Each copy of a request that is not sent on is answered when it arrives. OPTIONS of a box may be met with silence: a phone
/// that is gone must not look alive.
pub(super) fn others_are_sent_on_or_answered(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    for asked in story.others().filter(|asked| asked.method != Method::Options) {
        let finals = story.finals(asked);
        let copies = story.seen.iter().filter(|one| asked.is_of(one)).filter_map(|one| one.arrived);
        for arrived in copies {
            let is_sent_on = story.branches_of(asked).any(|branch| branch.sent <= arrived);
            if !is_sent_on && !finals.iter().any(|(_, one)| one.at == arrived) {
                problems.report(&story.request, arrived, "a non-INVITE request was neither sent on nor answered");
                break;
            }
        }
    }
}

/// What a box answered while the client could still be waiting goes up, sooner or later.
pub(super) fn others_hear_of_their_answer(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for asked in story.others().filter(|asked| story.finals(asked).is_empty()) {
        let latest = asked.first + IN_TIME;
        let is_answered = story
            .branches_of(asked)
            .any(|branch| final_answers(story, branch).any(|(code, arrived)| code != Some(408) && arrived < latest));
        let end = asked.first + LONGEST_TRANSACTION * 2;
        if is_answered && !circumstances.outage_between(asked.first, end) {
            problems.report(&story.request, asked.first, "the final answer to a non-INVITE request was kept back");
        }
    }
}

/// Where there is no other branch to wait for or to turn to, the answer goes up when it arrives.
pub(super) fn others_hear_of_it_at_once(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for asked in story.others() {
        let branches: Vec<&Branch<'_>> = story.branches_of(asked).collect();
        let [branch] = branches.as_slice() else {
            continue;
        };
        let Some(arrived) = branch.answered else {
            continue;
        };
        let finals = story.finals(asked);
        let turns_elsewhere =
            final_answers(story, branch).any(|(code, at)| at == arrived && matches!(code, Some(408 | 503)));
        let is_late = branch.sent + IN_TIME <= arrived || finals.iter().any(|(_, one)| one.at < arrived);
        let is_excused = turns_elsewhere
            || is_late
            || circumstances.may_be_unreachable(branch, arrived)
            || circumstances.outage_between(asked.first, arrived);
        if !is_excused && !finals.iter().any(|(_, one)| one.at == arrived) {
            problems.report(&story.request, arrived, "the final answer to a non-INVITE request was kept back");
        }
    }
}

/// Codes and times of the final answers that arrived on a branch.
fn final_answers(story: &Story<'_>, branch: &Branch<'_>) -> impl Iterator<Item = (Option<u16>, Instant)> {
    let (name, method) = (branch.name, branch.method);
    story
        .responses_in()
        .filter(move |(came, _)| came.is_final() && came.branch == name && came.method == method)
        .map(|(came, arrived)| (came.code, arrived))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOX, FARM, OTHER_BOX, PHONE, Wire, own, passed_down, passed_up, up};
    use crate::script::Answer;
    use std::time::Duration;

    fn down(branch: &str) -> Vec<u8> {
        passed_down(&up("REGISTER"), branch)
    }

    fn answer(code: u16, branch: &str) -> Vec<u8> {
        Answer::new(code).tag(branch).to(&down(branch))
    }

    /// A REGISTER that was sent to a box.
    fn asked() -> Wire {
        let mut wire = Wire::new();
        wire.put(PHONE, FARM, up("REGISTER"));
        wire.react(BOX, down("d1"));
        wire
    }

    /// The same, answered by 401.
    fn answered() -> Wire {
        let mut wire = asked();
        wire.put(BOX, FARM, answer(401, "d1"));
        wire.react(PHONE, passed_up(&answer(401, "d1")));
        wire
    }

    #[test]
    fn silence_is_right_only_where_nobody_answered() {
        asked().assert_good();
        answered().assert_good();
        let mut wire = asked();
        wire.put(BOX, FARM, answer(401, "d1"));
        wire.assert_told("the final answer to a non-INVITE request was kept back");
        wire.put(FARM, PHONE, passed_up(&answer(401, "d1")));
        wire.assert_told("the final answer to a non-INVITE request was kept back");
    }

    #[test]
    fn what_is_not_sent_on_is_answered() {
        let mut wire = Wire::new();
        wire.put(PHONE, FARM, up("REGISTER"));
        wire.assert_told("a non-INVITE request was neither sent on nor answered");
        wire.react(PHONE, own(503, "REGISTER"));
        wire.assert_good();
    }

    #[test]
    fn one_answer_is_enough() {
        let mut wire = answered();
        wire.put(FARM, PHONE, passed_up(&answer(401, "d1")));
        wire.assert_good();
        let mut own_besides = wire.clone();
        own_besides.put(FARM, PHONE, own(500, "REGISTER"));
        own_besides.assert_told("a non-INVITE request got more than one final answer");
        wire.put(FARM, OTHER_BOX, down("d2"));
        wire.put(OTHER_BOX, FARM, answer(403, "d2"));
        wire.assert_good();
        wire.react(PHONE, passed_up(&answer(403, "d2")));
        wire.assert_told("a non-INVITE request got more than one final answer");
    }

    #[test]
    fn a_second_branch_may_be_waited_for() {
        let mut wire = asked();
        wire.wait(Duration::from_secs(4));
        wire.put(FARM, OTHER_BOX, down("d2"));
        wire.put(BOX, FARM, answer(500, "d1"));
        wire.wait(Duration::from_secs(1));
        wire.put(OTHER_BOX, FARM, answer(401, "d2"));
        wire.react(PHONE, passed_up(&answer(401, "d2")));
        wire.assert_good();
    }

    #[test]
    fn time_outs_and_ringing_are_not_for_them() {
        for code in [180, 408] {
            let mut wire = asked();
            wire.put(FARM, PHONE, own(code, "REGISTER"));
            wire.assert_told(&format!("a non-INVITE request got a {code}"));
        }
    }
}
