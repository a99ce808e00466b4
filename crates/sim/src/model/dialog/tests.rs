//! Calls that are up, and requests inside them.

use crate::model::tests::{
    BOX, FARM, OTHER_BOX, OTHER_PHONE, PHONE, Wire, own_answer, passed_down, passed_up, ringing, up,
};
use crate::network::Party;
use crate::script::{Answer, Script};
use std::time::Duration;

const TO: &str = "<sip:clyde@example.com>;tag=tt";

/// A request of the caller inside the call.
fn inside(method: &str, branch: &str, cseq: u32) -> Vec<u8> {
    Script::new(method).branch(branch).cseq(cseq).to(TO).build()
}

/// A request of the box inside the call.
fn of_box(method: &str, branch: &str, cseq: u32) -> Vec<u8> {
    Script::new(method)
        .via("SIP/2.0/UDP 10.0.1.1:5060;branch=z9hG4bKx")
        .branch(branch)
        .cseq(cseq)
        .from(TO)
        .to("\"Bonnie\" <sip:bonnie@example.com>;tag=ft")
        .build()
}

/// The call is up and acknowledged.
fn answered() -> Wire {
    let mut wire = ringing();
    let answer = Answer::new(200).to(&passed_down(&up("INVITE"), "d1"));
    wire.put(BOX, FARM, answer.clone());
    wire.react(PHONE, passed_up(&answer));
    let ack = inside("ACK", "ack", 1);
    wire.put(PHONE, FARM, ack.clone());
    wire.react(BOX, passed_down(&ack, "ackdown"));
    wire
}

/// The request goes through, and its answer.
fn answer_inside(wire: &mut Wire, request: &[u8], branch: &str) {
    let down = passed_down(request, branch);
    wire.react(BOX, down.clone());
    let answer = Answer::new(200).to(&down);
    wire.put(BOX, FARM, answer.clone());
    wire.react(PHONE, passed_up(&answer));
}

#[test]
fn a_good_call_is_good() {
    let mut wire = answered();
    wire.assert_good();
    let bye = inside("BYE", "bye", 2);
    wire.put(PHONE, FARM, bye.clone());
    answer_inside(&mut wire, &bye, "byedown");
    wire.assert_good();
}

#[test]
fn a_bye_that_goes_nowhere_is_told() {
    let mut wire = answered();
    let bye = inside("BYE", "bye", 2);
    wire.put(PHONE, FARM, bye.clone());
    wire.react(PHONE, own_answer(481, &bye));
    wire.assert_told("BYE from phone1 did not reach pbx1");
    wire.assert_told("BYE from phone1 did not go on to pbx1 at once");
}

#[test]
fn each_ack_goes_to_the_callee() {
    let mut wire = answered();
    let ack = inside("ACK", "ack", 1);
    wire.put(PHONE, FARM, ack.clone());
    wire.assert_told("ACK from phone1 did not go on to pbx1 at once");
    let mut astray = wire.clone();
    astray.react(OTHER_BOX, passed_down(&ack, "ackdown"));
    astray.assert_told("ACK inside a dialog went astray");
    wire.react(BOX, passed_down(&ack, "ackdown"));
    wire.assert_good();
}

#[test]
fn a_request_of_the_box_goes_to_its_caller_only() {
    let bye = of_box("BYE", "boxbye", 1);
    let mut wire = answered();
    wire.put(BOX, FARM, bye.clone());
    let mut astray = wire.clone();
    astray.react(OTHER_PHONE, passed_down(&bye, "byedown"));
    astray.assert_told("BYE inside a dialog went astray");
    wire.react(PHONE, passed_down(&bye, "byedown"));
    wire.assert_good();
}

#[test]
fn who_moves_is_found_once_he_has_been_heard() {
    let mut wire = answered();
    let moved = wire.now() + Duration::from_secs(1);
    wire.circumstances.rebound = vec![(PHONE, moved)];
    wire.wait(Duration::from_secs(2));
    let reinvite = inside("INVITE", "again", 2);
    wire.put(PHONE, FARM, reinvite.clone());
    answer_inside(&mut wire, &reinvite, "againdown");
    let bye = of_box("BYE", "boxbye", 1);
    wire.put(BOX, FARM, bye.clone());
    let mut lost = wire.clone();
    lost.react_to_nobody(passed_down(&bye, "byedown"));
    lost.assert_told("BYE from pbx1 went to an old address of phone1");
    lost.circumstances.outages = vec![(moved, moved + Duration::from_millis(1))];
    lost.assert_good();
    wire.react(PHONE, passed_down(&bye, "byedown"));
    wire.assert_good();
}

#[test]
fn who_moves_may_be_missed_until_he_is_heard() {
    let mut wire = answered();
    wire.circumstances.rebound = vec![(Party::Phone(0), wire.now())];
    wire.wait(Duration::from_secs(1));
    let bye = of_box("BYE", "boxbye", 1);
    wire.put(BOX, FARM, bye.clone());
    wire.react_to_nobody(passed_down(&bye, "byedown"));
    wire.assert_good();
}
