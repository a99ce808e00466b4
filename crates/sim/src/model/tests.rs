//! Small wires, written by hand, that break one rule each.

use super::Model;
use crate::network::{Fate, Party, Sent};
use crate::script::{Answer, Script};
use crate::settings::{VIP, box_address, phone_address};
use sip::Instant;
use std::sync::Arc;
use std::time::Duration;

/// A wire in the making; every datagram arrives one millisecond after it was sent.
struct Wire {
    now: Instant,
    sent: Vec<Sent>,
}

impl Wire {
    fn new() -> Self {
        Self { now: Instant::from_micros(1_000_000), sent: Vec::new() }
    }

    fn put(&mut self, sender: Party, receiver: Party, bytes: Vec<u8>) {
        self.now += Duration::from_millis(10);
        self.sent.push(Sent {
            at: self.now,
            from: address(sender),
            to: address(receiver),
            bytes: Arc::from(bytes),
            sender,
            receiver: Some(receiver),
            fate: Fate::Delivered,
            arrived: Some(self.now + Duration::from_millis(1)),
        });
    }

    fn judge(&self) -> Vec<String> {
        Model::new(self.sent.iter(), Vec::new(), Vec::new()).judge()
    }
}

const PHONE: Party = Party::Phone(0);
const BOX: Party = Party::Pbx(0);
const FARM: Party = Party::Balancer;

fn address(party: Party) -> std::net::SocketAddr {
    match party {
        Party::Balancer => VIP,
        Party::Phone(index) => phone_address(index),
        Party::Pbx(index) | Party::Peer(index) => box_address(index),
    }
}

fn up(method: &str) -> Vec<u8> {
    Script::new(method).branch("up").build()
}

fn down(method: &str, branch: &str) -> Vec<u8> {
    Script::new(method).via("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx").branch(branch).build()
}

#[track_caller]
fn assert_told(wire: &Wire, what: &str) {
    let problems = wire.judge();
    assert!(problems.len() == 1 && problems.iter().all(|problem| problem.starts_with(what)), "{problems:?}");
}

/// INVITE up and down, 180 both ways.
fn ringing() -> Wire {
    let mut wire = Wire::new();
    wire.put(PHONE, FARM, up("INVITE"));
    wire.put(FARM, BOX, down("INVITE", "d1"));
    wire.put(BOX, FARM, Answer::new(180).to(&down("INVITE", "d1")));
    wire.put(FARM, PHONE, Answer::new(180).to(&up("INVITE")));
    wire
}

#[test]
fn a_good_call_is_good() {
    let mut wire = ringing();
    wire.put(BOX, FARM, Answer::new(200).to(&down("INVITE", "d1")));
    wire.put(FARM, PHONE, Answer::new(200).to(&up("INVITE")));
    let ack = Script::new("ACK").branch("ack").to("<sip:clyde@example.com>;tag=tt");
    wire.put(PHONE, FARM, ack.build());
    wire.put(FARM, BOX, ack.branch("ackdown").build());
    assert_eq!(wire.judge(), Vec::<String>::new());
}

#[test]
fn an_invite_without_an_end_is_told() {
    assert_told(&ringing(), "INVITE got no final answer");
}

#[test]
fn two_ends_are_told() {
    let mut wire = ringing();
    wire.put(FARM, PHONE, Answer::new(486).to(&up("INVITE")));
    wire.put(FARM, PHONE, Answer::new(486).to(&up("INVITE")));
    assert_eq!(wire.judge(), Vec::<String>::new(), "a retransmission is no second answer");
    wire.put(FARM, PHONE, Answer::new(480).to(&up("INVITE")));
    assert_told(&wire, "INVITE got more than one final answer");
}

#[test]
fn a_lost_answer_is_told() {
    let mut wire = ringing();
    wire.put(BOX, FARM, Answer::new(200).to(&down("INVITE", "d1")));
    wire.put(FARM, PHONE, Answer::new(408).to(&up("INVITE")));
    assert_told(&wire, "a 2xx did not reach the caller");
}

#[test]
fn a_bye_that_goes_nowhere_is_told() {
    let mut wire = ringing();
    wire.put(BOX, FARM, Answer::new(200).to(&down("INVITE", "d1")));
    wire.put(FARM, PHONE, Answer::new(200).to(&up("INVITE")));
    let bye = Script::new("BYE").branch("bye").cseq(2).to("<sip:clyde@example.com>;tag=tt").build();
    wire.put(PHONE, FARM, bye.clone());
    wire.put(FARM, PHONE, Answer::new(481).to(&bye));
    assert_told(&wire, "BYE from phone1 did not reach pbx1");
}

#[test]
fn cancels_are_followed() {
    let mut wire = ringing();
    wire.put(PHONE, FARM, up("CANCEL"));
    wire.put(FARM, PHONE, Answer::new(200).to(&up("CANCEL")));
    wire.put(FARM, PHONE, Answer::new(487).to(&up("INVITE")));
    assert_told(&wire, "CANCEL did not reach a pending branch");
    wire.put(FARM, BOX, down("CANCEL", "d1"));
    assert_eq!(wire.judge(), Vec::<String>::new());
    wire.put(FARM, BOX, down("INVITE", "d2"));
    assert_told(&wire, "a branch was started after the client's CANCEL");
}

#[test]
fn a_cancel_before_any_answer_is_told() {
    let mut wire = Wire::new();
    wire.put(PHONE, FARM, up("INVITE"));
    wire.put(FARM, BOX, down("INVITE", "d1"));
    wire.put(FARM, BOX, down("CANCEL", "d1"));
    wire.put(FARM, PHONE, Answer::new(487).to(&up("INVITE")));
    assert_told(&wire, "CANCEL went to a branch without a provisional answer");
}

#[test]
fn an_answer_kept_back_is_told() {
    let mut wire = Wire::new();
    wire.put(PHONE, FARM, up("OPTIONS"));
    wire.put(FARM, BOX, down("OPTIONS", "d1"));
    wire.put(BOX, FARM, Answer::new(200).to(&down("OPTIONS", "d1")));
    assert_told(&wire, "the final answer to a non-INVITE request was kept back");
    wire.put(FARM, PHONE, Answer::new(200).to(&up("OPTIONS")));
    assert_eq!(wire.judge(), Vec::<String>::new());
    wire.put(FARM, PHONE, Answer::new(404).to(&up("OPTIONS")));
    assert_told(&wire, "a non-INVITE request got more than one final answer");
}

#[test]
fn a_second_binding_is_told() {
    let mut wire = Wire::new();
    let register = |contact: &str, cseq: u32| Script::new("REGISTER").cseq(cseq).line(contact).build();
    wire.put(FARM, BOX, register("Contact: <sip:bonnie@10.0.0.1:5060;tdm=1>", 1));
    wire.put(FARM, BOX, register("Contact: <sip:bonnie@10.0.0.1:5060;tdm=1>;expires=0", 2));
    assert_eq!(wire.judge(), Vec::<String>::new());
    wire.put(FARM, BOX, register("Contact: <sip:bonnie@10.0.0.1:5060;tdm=2>", 3));
    assert_told(&wire, "a second binding");
}

#[test]
fn an_outage_excuses_what_ran_meanwhile() {
    let wire = ringing();
    let down = Instant::from_micros(2_000_000);
    let model = Model::new(wire.sent.iter(), vec![(down, down + Duration::from_secs(1))], Vec::new());
    assert_eq!(model.judge(), Vec::<String>::new());
}

#[test]
fn a_followed_forgery_is_told() {
    let mut wire = Wire::new();
    let forged = Script::new("BYE").call_id("forged-1");
    wire.put(Party::Peer(0), FARM, forged.clone().branch("up").build());
    wire.put(FARM, Party::Peer(0), Answer::new(403).to(&forged.clone().branch("up").build()));
    assert_eq!(wire.judge(), Vec::<String>::new());
    wire.put(FARM, BOX, forged.branch("down").build());
    assert_told(&wire, "a forged token was followed");
}
