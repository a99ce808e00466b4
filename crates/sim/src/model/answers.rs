//! Answers to INVITE (RFC 3261 §16.7, §17.2.1), and where every answer goes.

use super::circumstances::Circumstances;
use super::seen::Seen;
use super::story::{Asked, Branch, Story};
use super::{DEAD_BOX_PATIENCE, LONGEST_CALL_SETUP, LONGEST_TRANSACTION, Problems};
use sip::{Instant, Method};

/// Every INVITE gets a final answer. A balancer that was restarted has forgotten what it was asked, unless it is asked again.
pub(super) fn invites_are_answered(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for asked in story.asked_by(Method::Invite) {
        let latest = asked.first + LONGEST_CALL_SETUP;
        let asked_again = |after: Instant| {
            story.seen.iter().any(|one| asked.is_of(one) && one.arrived.is_some_and(|arrived| arrived >= after))
        };
        let is_forgotten = circumstances
            .outages
            .iter()
            .any(|(from, until)| asked.first < *until && *from <= latest && !asked_again(*until));
        if story.finals(asked).is_empty() && !is_forgotten {
            problems.report(&story.request, asked.first, "INVITE got no final answer");
        }
    }
}

/// One refusal at most, and none after a 2xx but the copies of one that went before.
pub(super) fn invites_have_one_end(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for asked in story.asked_by(Method::Invite) {
        let mut refused: Option<(Option<u16>, &[u8])> = None;
        let mut accepted = false;
        for (_, one) in story.stateful_finals(asked) {
            if one.is_success() {
                accepted = true;
                continue;
            }
            let this = (one.code, one.to_tag);
            let is_second = refused.map_or(accepted, |known| known != this);
            refused.get_or_insert(this);
            if is_second && !circumstances.outage_between(asked.first, one.at) {
                problems.report(&story.request, one.at, "INVITE got more than one final answer");
                break;
            }
        }
    }
}

/// A refusal goes up when nothing can come any more from the branch started last; older ones were given up. A 6xx ends the
/// search.
pub(super) fn refusals_wait_for_the_youngest_branch(
    story: &Story<'_>,
    circumstances: &Circumstances,
    problems: &mut Problems,
) {
    for asked in story.asked_by(Method::Invite) {
        let first = story.stateful_finals(asked).into_iter().next();
        let Some((place, refusal)) = first.filter(|(_, one)| one.is_refusal()) else {
            continue;
        };
        let branches: Vec<&Branch<'_>> = story.branches_of(asked).filter(|branch| branch.place < place).collect();
        let everywhere =
            branches.iter().any(|branch| branch.refused_everywhere.is_some_and(|arrived| arrived <= refusal.at));
        let is_open = branches.last().is_some_and(|youngest| !is_over(youngest, asked, refusal.at, circumstances));
        if is_open && !everywhere && !circumstances.outage_between(asked.first, refusal.at) {
            problems.report(&story.request, refusal.at, "INVITE was refused while its youngest branch was open");
        }
    }
}

/// A refusal with a branch's To tag has that branch's code; any other tag is the balancer's own. Within dialogs all To tags are
/// alike.
pub(super) fn refusals_come_from_a_branch(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    let outside = story.asked.iter().filter(|asked| !asked.is_in_dialog() && asked.method != Method::Cancel);
    for asked in outside {
        let altered = story.finals(asked).into_iter().map(|(_, one)| one).find(|one| {
            let is_known = story
                .responses_in()
                .any(|(came, at)| at <= one.at && came.method == one.method && came.to_tag == one.to_tag);
            one.is_refusal() && is_known && story.origin(one).is_none()
        });
        if let Some(one) = altered {
            problems.report(&story.request, one.at, "a refusal has another code than on its branch");
        }
    }
}

/// What one box says of its load must not keep callers from the farm (RFC 3261 §16.7 step 6).
pub(super) fn overload_is_hidden(story: &Story<'_>, _: &Circumstances, problems: &mut Problems) {
    let shown = story.responses_sent().filter(|one| one.code == Some(503)).find(|one| {
        story.responses_in().any(|(came, at)| {
            at <= one.at && came.code == one.code && came.method == one.method && came.to_tag == one.to_tag
        })
    });
    if let Some(one) = shown {
        problems.report(&story.request, one.at, "the 503 of a box went up");
    }
}

/// A 408 of the balancer's own needs a branch whose time has run out.
pub(super) fn time_outs_have_run_out(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for asked in story.asked_by(Method::Invite).filter(|asked| !asked.is_in_dialog()) {
        for (_, one) in story.stateful_finals(asked) {
            let is_own = one.code == Some(408) && story.origin(&one).is_none();
            let has_cause = story.branches_of(asked).any(|branch| has_run_out(branch, one.at));
            if is_own && !has_cause && !circumstances.outage_between(asked.first, one.at) {
                problems.report(&story.request, one.at, "a 408 went up though no branch had run out of time");
                break;
            }
        }
    }
}

/// The ACK of a refusal ends its repetition (RFC 3261 §17.2.1).
pub(super) fn refusals_stop_at_their_ack(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    for asked in story.asked_by(Method::Invite) {
        let finals = story.stateful_finals(asked);
        let acks = story.seen.iter().filter(|one| {
            one.is_request_in() && one.method == Method::Ack && one.sender == asked.client && one.branch == asked.branch
        });
        for (ack, acknowledged) in acks.filter_map(|ack| Some((ack, ack.arrived?))) {
            let late = finals
                .iter()
                .map(|(_, one)| one)
                .find(|one| one.is_refusal() && one.to_tag == ack.to_tag && one.at > acknowledged);
            if let Some(one) = late
                && !circumstances.outage_between(asked.first, one.at)
            {
                problems.report(&story.request, one.at, "a refusal was sent after its ACK");
            }
        }
    }
}

/// Every copy of a 2xx goes up when it arrives: the callee repeats it until the caller's ACK comes (RFC 6026 §7.1). Where the
/// balancer was restarted, the response itself says where it goes.
pub(super) fn successes_go_up_at_once(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    let Some(first) = successes(story).map(|(_, arrived)| arrived).min() else {
        return;
    };
    for (came, arrived) in successes(story) {
        let branch = story.branches.iter().find(|branch| branch.method == Method::Invite && branch.name == came.branch);
        let Some(branch) = branch.filter(|branch| !is_dead(branch, arrived, circumstances)) else {
            continue;
        };
        let Some(asked) = story.asked_by(Method::Invite).find(|asked| asked.branch == branch.made_for) else {
            continue;
        };
        let is_passed_on = story.responses_sent().any(|up| {
            up.at == arrived
                && up.is_answer_to(asked.client, Method::Invite, asked.branch)
                && up.code == came.code
                && up.to_tag == came.to_tag
                && circumstances.reaches(up, asked.client)
        });
        if !is_passed_on && arrived < first + LONGEST_TRANSACTION {
            problems.report(&story.request, arrived, "a 2xx did not reach the caller");
        }
    }
}

/// An answer goes to whoever asked, or to an address that he has left, and to nobody else.
pub(super) fn responses_go_back(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    let astray = story.responses_sent().find(|one| {
        !story.asked.iter().any(|asked| {
            asked.method == one.method && asked.branch == one.branch && circumstances.reaches(one, asked.client)
        })
    });
    if let Some(one) = astray {
        problems.report(&story.request, one.at, "an answer went to somebody who had not asked");
    }
}

/// The 2xx to INVITE that arrived, and when.
fn successes<'s, 'a>(story: &'s Story<'a>) -> impl Iterator<Item = (&'s Seen<'a>, Instant)> {
    story.responses_in().filter(|(came, _)| came.method == Method::Invite && came.is_success())
}

/// Whether the balancer need not wait any longer for the final answer of a branch.
fn is_over(branch: &Branch<'_>, asked: &Asked<'_>, at: Instant, circumstances: &Circumstances) -> bool {
    let is_silent = branch.provisional.is_none_or(|heard| heard > at);
    branch.answered.is_some_and(|arrived| arrived <= at)
        || circumstances.may_be_unreachable(branch, at)
        || has_run_out(branch, at)
        || (asked.is_in_dialog() && is_silent && branch.sent + DEAD_BOX_PATIENCE <= at)
}

/// Timer B without any answer (RFC 3261 §17.1.1.2), or 64 × T1 after a CANCEL without a final one (§9.1).
fn has_run_out(branch: &Branch<'_>, at: Instant) -> bool {
    let limit = branch.sent + LONGEST_TRANSACTION;
    let is_silent = branch.provisional.is_none_or(|heard| heard >= limit);
    let unanswered = |until: Instant| branch.answered.is_none_or(|arrived| arrived >= until);
    let is_given_up = branch.cancelled.is_some_and(|cancel| {
        let limit = cancel.at + LONGEST_TRANSACTION;
        limit <= at && unanswered(limit)
    });
    (is_silent && limit <= at && unanswered(limit)) || is_given_up
}

/// Whether the balancer may have forgotten the branch when a 2xx arrives on it.
fn is_dead(branch: &Branch<'_>, at: Instant, circumstances: &Circumstances) -> bool {
    let is_refused = match (branch.answered, branch.succeeded) {
        (Some(answered), Some(succeeded)) => answered < succeeded,
        _ => false,
    };
    is_refused || has_run_out(branch, at) || circumstances.may_be_unreachable(branch, at)
}

#[cfg(test)]
mod tests;
