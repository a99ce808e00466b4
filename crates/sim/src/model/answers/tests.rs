//! INVITEs and what they are answered.

use crate::model::tests::{BOX, FARM, OTHER_BOX, PHONE, Wire, own, passed_down, passed_up, ringing, up};
use crate::script::{Answer, Script};
use std::time::Duration;

fn down(branch: &str) -> Vec<u8> {
    passed_down(&up("INVITE"), branch)
}

fn answer(code: u16, branch: &str) -> Vec<u8> {
    Answer::new(code).to(&down(branch))
}

fn ack() -> Vec<u8> {
    Script::new("ACK").branch("up").to("<sip:clyde@example.com>;tag=tt").build()
}

fn refused() -> Wire {
    let mut wire = ringing();
    wire.put(BOX, FARM, answer(486, "d1"));
    wire.react(PHONE, passed_up(&answer(486, "d1")));
    wire
}

#[test]
fn an_invite_needs_an_end_and_no_more_than_one() {
    ringing().assert_told("INVITE got no final answer");
    let mut wire = refused();
    wire.put(FARM, PHONE, passed_up(&answer(486, "d1")));
    wire.assert_good();
    wire.put(FARM, PHONE, own(480, "INVITE"));
    wire.assert_told("INVITE got more than one final answer");
}

#[test]
fn an_outage_excuses_what_was_not_asked_again() {
    let mut wire = ringing();
    let down = wire.now() + Duration::from_secs(1);
    wire.circumstances.outages = vec![(down, down + Duration::from_secs(1))];
    wire.assert_good();
    wire.wait(Duration::from_secs(5));
    wire.put(PHONE, FARM, up("INVITE"));
    wire.react(BOX, passed_down(&up("INVITE"), "d2"));
    wire.assert_told("INVITE got no final answer");
}

#[test]
fn an_open_branch_keeps_a_refusal_back() {
    let mut wire = Wire::new();
    wire.put(PHONE, FARM, up("INVITE"));
    wire.react(BOX, down("d1"));
    wire.wait(Duration::from_secs(2));
    wire.put(FARM, OTHER_BOX, down("d2"));
    wire.put(BOX, FARM, answer(486, "d1"));
    let mut early = wire.clone();
    early.react(PHONE, passed_up(&answer(486, "d1")));
    early.assert_told("INVITE was refused while its youngest branch was open");
    wire.put(OTHER_BOX, FARM, Answer::new(404).tag("other").to(&down("d2")));
    wire.react(PHONE, passed_up(&answer(486, "d1")));
    wire.assert_good();
}

#[test]
fn a_time_out_takes_its_time() {
    let mut wire = Wire::new();
    wire.put(PHONE, FARM, up("INVITE"));
    wire.react(BOX, down("d1"));
    let mut early = wire.clone();
    early.wait(Duration::from_secs(20));
    early.put(FARM, PHONE, own(408, "INVITE"));
    early.assert_told("a 408 went up though no branch had run out of time");
    wire.wait(Duration::from_secs(32));
    wire.put(FARM, PHONE, own(408, "INVITE"));
    wire.assert_good();
}

#[test]
fn codes_stay_as_they_were_but_503() {
    let mut wire = ringing();
    wire.put(BOX, FARM, answer(503, "d1"));
    let mut shown = wire.clone();
    shown.react(PHONE, passed_up(&answer(503, "d1")));
    shown.assert_told("the 503 of a box went up");
    let mut altered = wire.clone();
    altered.react(PHONE, passed_up(&answer(404, "d1")));
    altered.assert_told("a refusal has another code than on its branch");
    wire.react(PHONE, passed_up(&answer(500, "d1")));
    wire.assert_good();
}

#[test]
fn nothing_is_repeated_after_the_ack() {
    let mut wire = refused();
    wire.put(PHONE, FARM, ack());
    wire.assert_good();
    wire.put(FARM, PHONE, passed_up(&answer(486, "d1")));
    wire.assert_told("a refusal was sent after its ACK");
}

#[test]
fn each_copy_of_a_2xx_goes_up_to_the_caller() {
    let mut wire = ringing();
    for _ in 0..2 {
        wire.put(BOX, FARM, answer(200, "d1"));
        wire.react(PHONE, passed_up(&answer(200, "d1")));
    }
    wire.assert_good();
    wire.put(BOX, FARM, answer(200, "d1"));
    wire.assert_told("a 2xx did not reach the caller");
    wire.react(OTHER_BOX, passed_up(&answer(200, "d1")));
    wire.assert_told("an answer went to somebody who had not asked");
}
