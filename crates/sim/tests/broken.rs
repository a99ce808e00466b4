//! Balancers that are broken on purpose: each must be caught, and for what is wrong with it.

use sim::balancer::Sabotage;
use sim::seed::run_sabotaged;

/// A broken balancer must be noticed within so many worlds.
const SEEDS: u64 = 20;

/// Runs worlds until the judge names `rule`, and fails if he does not.
#[track_caller]
fn assert_caught(sabotage: Sabotage, rule: &str) {
    let mut others: Vec<String> = Vec::new();
    for seed in 0..SEEDS {
        let Err(failure) = run_sabotaged(seed, sabotage) else {
            continue;
        };
        if failure.problems.iter().any(|problem| problem.contains(rule)) {
            return;
        }
        others.extend(failure.problems);
    }
    others.truncate(5);
    panic!("{sabotage:?} was not told as {rule:?} within {SEEDS} worlds; told was {others:#?}");
}

#[test]
fn repeated_2xx_are_dropped() {
    assert_caught(Sabotage::DropsRepeatedSuccess, "a 2xx did not reach the caller");
}

#[test]
fn cancel_is_answered_and_kept() {
    assert_caught(Sabotage::KeepsCancel, "CANCEL did not reach a pending branch");
}

#[test]
fn cancel_is_ignored() {
    assert_caught(Sabotage::IgnoresCancel, "CANCEL was not answered at once");
}

#[test]
fn cancel_is_sent_before_any_answer() {
    assert_caught(Sabotage::CancelsAtOnce, "CANCEL went to a branch without a provisional answer");
}

#[test]
fn the_503_of_a_box_is_shown() {
    assert_caught(Sabotage::ShowsOverload, "the 503 of a box went up");
}

#[test]
fn a_refresh_makes_a_second_binding() {
    assert_caught(Sabotage::BindsTwice, "second binding");
}

#[test]
fn a_phone_that_moves_is_lost() {
    assert_caught(Sabotage::ForgetsMoves, "went to an old address");
}

#[test]
fn a_forged_bye_is_followed() {
    assert_caught(Sabotage::FollowsForgery, "a forged token was followed");
}

#[test]
fn an_ack_goes_to_the_wrong_box() {
    assert_caught(Sabotage::MisleadsAck, "ACK inside a dialog went astray");
}

#[test]
fn the_answer_to_bye_is_kept() {
    assert_caught(Sabotage::KeepsAnswer, "the final answer to a non-INVITE request was kept back");
}

#[test]
fn an_invite_is_refused_twice() {
    assert_caught(Sabotage::RefusesTwice, "INVITE got more than one final answer");
}

#[test]
fn a_refusal_is_repeated_after_its_ack() {
    assert_caught(Sabotage::RepeatsAfterAck, "a refusal was sent after its ACK");
}

#[test]
fn a_body_is_altered() {
    assert_caught(Sabotage::AltersBody, "the body");
}

#[test]
fn a_cut_is_told_to_nobody() {
    assert_caught(Sabotage::CutsInSilence, "was not told that its call at");
}

#[test]
fn a_refresh_is_promised_for_too_long() {
    assert_caught(Sabotage::PromisesTooLong, "it is told more than is left");
}
