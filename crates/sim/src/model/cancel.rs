//! CANCEL (RFC 3261 §9 and §16.10): answered by whom it meets, and passed on to what still rings.

use super::circumstances::Circumstances;
use super::story::{Asked, Branch, Story};
use super::{DEAD_BOX_PATIENCE, LONGEST_TRANSACTION, Problems, TIMER_C};
use sip::{Instant, Method};

/// Each copy of a CANCEL is answered where and when it arrives, 200 or 481: it is hop by hop (§9.2).
pub(super) fn cancels_are_answered_at_once(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    for asked in story.asked_by(Method::Cancel) {
        let answers = story.finals(asked);
        let copies = story.seen.iter().filter(|one| asked.is_of(one)).filter_map(|one| one.arrived);
        for arrived in copies {
            let is_answered = answers.iter().any(|(_, one)| one.at == arrived && matches!(one.code, Some(200 | 481)));
            if !is_answered {
                problems.report(&story.request, arrived, "CANCEL was not answered at once");
                break;
            }
        }
    }
}

pub(super) fn no_branch_starts_after_a_cancel(
    story: &Story<'_>,
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for (invite, cancelled) in taken_back(story) {
        for branch in story.branches_of(&invite).filter(|branch| branch.sent > cancelled) {
            if !circumstances.outage_between(invite.first, branch.sent) {
                problems.report(&story.request, cancelled, "a branch was started after the client's CANCEL");
            }
        }
    }
}

/// A client's CANCEL reaches every branch that rings, and those that begin to ring after it, at once.
pub(super) fn cancels_reach_pending_branches(
    story: &Story<'_>,
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for (invite, cancelled) in taken_back(story) {
        for branch in story.branches_of(&invite) {
            let Some(due) = due_at(branch, &invite, cancelled, circumstances) else {
                continue;
            };
            match branch.cancelled {
                None => problems.report(&story.request, cancelled, "CANCEL did not reach a pending branch"),
                Some(cancel) if cancel.at > due => {
                    problems.report(&story.request, cancel.at, "CANCEL reached a pending branch late");
                }
                Some(_) => {}
            }
        }
    }
}

/// §9.1: before any answer a CANCEL could overtake its INVITE.
pub(super) fn our_cancels_follow_a_provisional_answer(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    for (branch, at) in sent(story) {
        if branch.provisional.is_none_or(|heard| heard > at) {
            problems.report(&story.request, at, "CANCEL went to a branch without a provisional answer");
        }
    }
}

pub(super) fn our_cancels_come_before_the_end(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    for (branch, at) in sent(story) {
        if branch.answered.is_some_and(|answered| answered < at) {
            problems.report(&story.request, at, "CANCEL went to a branch that had its final answer");
        }
    }
}

/// The client gave up, another branch has won or was refused everywhere, a younger branch took over, the box that calls is taken for
/// down or was cut, the box that is called was cut, or Timer C ran out.
pub(super) fn our_cancels_have_a_cause(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for (branch, at) in sent(story) {
        let by_client =
            story.asked_by(Method::Cancel).any(|cancel| cancel.branch == branch.made_for && cancel.first <= at);
        let by_another = story.branches.iter().filter(|other| other.method == Method::Invite).any(|other| {
            let won = [other.succeeded, other.refused_everywhere].into_iter().flatten().any(|ended| ended <= at);
            let is_younger = other.place > branch.place && other.sent <= at;
            other.name != branch.name && other.made_for == branch.made_for && (won || is_younger)
        });
        let mut callers = story.asked_by(Method::Invite).filter(|asked| asked.branch == branch.made_for);
        let is_orphan = callers.any(|asked| {
            circumstances.was_taken_for_down(asked.client, branch.sent, at)
                || circumstances.was_cut(asked.client, branch.sent, at)
        });
        let is_cut = branch.receiver.is_some_and(|callee| circumstances.was_cut(callee, branch.sent, at));
        if !by_client && !by_another && !is_orphan && !is_cut && branch.sent + TIMER_C > at {
            problems.report(&story.request, at, "CANCEL was sent without a cause");
        }
    }
}

/// §9.1: to where the INVITE went, or to where the callee has moved meanwhile.
pub(super) fn our_cancels_go_where_the_branch_went(
    story: &Story<'_>,
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for branch in &story.branches {
        let Some(cancel) = branch.cancelled else {
            continue;
        };
        let follows = branch.receiver.is_some_and(|receiver| circumstances.reaches(&cancel, receiver));
        if cancel.to != branch.to && !follows {
            problems.report(&story.request, cancel.at, "CANCEL went elsewhere than its INVITE");
        }
    }
}

/// The INVITEs that were taken back before they had a final answer, and when.
fn taken_back<'a>(story: &Story<'a>) -> Vec<(Asked<'a>, Instant)> {
    let mut taken_back = Vec::new();
    for invite in story.asked_by(Method::Invite) {
        let cancel = story
            .asked_by(Method::Cancel)
            .find(|cancel| cancel.client == invite.client && cancel.branch == invite.branch);
        let Some(cancel) = cancel.filter(|cancel| cancel.first >= invite.first) else {
            continue;
        };
        let is_answered = story.finals(invite).iter().any(|(_, one)| one.at <= cancel.first);
        if !is_answered {
            taken_back.push((*invite, cancel.first));
        }
    }
    taken_back
}

/// When the branch of an INVITE that was taken back must be cancelled; `None`: never, or it cannot be told.
fn due_at(
    branch: &Branch<'_>,
    invite: &Asked<'_>,
    cancelled: Instant,
    circumstances: &Circumstances,
) -> Option<Instant> {
    let patience = if invite.is_in_dialog() { DEAD_BOX_PATIENCE } else { LONGEST_TRANSACTION };
    let heard = branch.provisional.filter(|heard| *heard < branch.sent + patience)?;
    let due = heard.max(cancelled);
    let is_answered = branch.answered.is_some_and(|answered| answered <= due);
    let is_excused =
        is_answered || circumstances.may_be_unreachable(branch, due) || circumstances.outage_between(invite.first, due);
    (!is_excused).then_some(due)
}

/// The branches that the balancer has cancelled, and when it did so first.
fn sent<'a>(story: &Story<'a>) -> Vec<(Branch<'a>, Instant)> {
    story.branches.iter().filter_map(|branch| Some((*branch, branch.cancelled?.at))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BOX, FARM, OTHER_BOX, PHONE, Wire, own, passed_down, passed_up, ringing, up};
    use crate::script::{Answer, Script};
    use std::time::Duration;

    fn down(branch: &str) -> Vec<u8> {
        passed_down(&up("INVITE"), branch)
    }

    fn our_cancel(branch: &str) -> Vec<u8> {
        Script::new("CANCEL").via("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx").branch(branch).build()
    }

    /// The client takes the call back, and is told that it is over.
    fn taken_back() -> Wire {
        let mut wire = ringing();
        wire.put(PHONE, FARM, up("CANCEL"));
        wire.react(PHONE, own(200, "CANCEL"));
        wire
    }

    fn terminated(mut wire: Wire) -> Wire {
        let answer = Answer::new(487).to(&down("d1"));
        wire.put(BOX, FARM, answer.clone());
        wire.react(PHONE, passed_up(&answer));
        wire
    }

    #[test]
    fn a_cancel_is_answered_and_passed_on() {
        let mut wire = taken_back();
        wire.react(BOX, our_cancel("d1"));
        terminated(wire.clone()).assert_good();
        wire.put(PHONE, FARM, up("CANCEL"));
        terminated(wire).assert_told("CANCEL was not answered at once");
        terminated(taken_back()).assert_told("CANCEL did not reach a pending branch");
        let mut late = taken_back();
        late.put(FARM, BOX, our_cancel("d1"));
        terminated(late).assert_told("CANCEL reached a pending branch late");
        let mut wrong = taken_back();
        wrong.react(OTHER_BOX, our_cancel("d1"));
        terminated(wrong).assert_told("CANCEL went elsewhere than its INVITE");
    }

    #[test]
    fn a_cancel_starts_nothing() {
        let mut wire = taken_back();
        wire.react(BOX, our_cancel("d1"));
        wire.put(FARM, OTHER_BOX, down("d2"));
        terminated(wire).assert_told("a branch was started after the client's CANCEL");
    }

    #[test]
    fn a_cancel_needs_a_provisional_answer_and_no_final_one() {
        let mut early = Wire::new();
        early.put(PHONE, FARM, up("INVITE"));
        early.react(BOX, down("d1"));
        early.put(FARM, BOX, our_cancel("d1"));
        early.assert_told("CANCEL went to a branch without a provisional answer");
        let mut late = terminated(ringing());
        late.put(FARM, BOX, our_cancel("d1"));
        late.assert_told("CANCEL went to a branch that had its final answer");
    }

    #[test]
    fn a_cancel_needs_a_cause() {
        let mut wire = ringing();
        let mut without = wire.clone();
        without.put(FARM, BOX, our_cancel("d1"));
        terminated(without).assert_told("CANCEL was sent without a cause");
        wire.wait(Duration::from_secs(2));
        wire.put(FARM, OTHER_BOX, down("d2"));
        wire.put(FARM, BOX, our_cancel("d1"));
        let answer = Answer::new(404).tag("other").to(&down("d2"));
        wire.put(OTHER_BOX, FARM, answer.clone());
        wire.react(PHONE, passed_up(&answer));
        wire.assert_good();
    }
}
