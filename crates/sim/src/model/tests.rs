//! Small wires, written by hand: the tests of each rule break it and keep it.

use super::{Circumstances, Model};
use crate::network::{Fate, Party, Sent};
use crate::script::{Answer, Script};
use crate::settings::{VIP, box_address, peer_address, phone_address};
use sip::Instant;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A wire in the making; every datagram arrives one millisecond after it was sent.
#[derive(Clone)]
pub(super) struct Wire {
    now: Instant,
    sent: Vec<Sent>,
    pub(super) circumstances: Circumstances,
}

impl Wire {
    pub(super) fn new() -> Self {
        Self { now: Instant::from_micros(1_000_000), sent: Vec::new(), circumstances: Circumstances::default() }
    }

    /// When the last datagram was sent.
    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// A datagram, ten milliseconds after the last one.
    pub(super) fn put(&mut self, sender: Party, receiver: Party, bytes: Vec<u8>) {
        self.now += Duration::from_millis(10);
        self.push(self.now, sender, Some(receiver), bytes);
    }

    /// The farm sends a datagram at the moment when the one put last arrives.
    pub(super) fn react(&mut self, receiver: Party, bytes: Vec<u8>) {
        self.push(self.now + FLIGHT, FARM, Some(receiver), bytes);
    }

    /// The same, to an address that is nobody's.
    pub(super) fn react_to_nobody(&mut self, bytes: Vec<u8>) {
        self.push(self.now + FLIGHT, FARM, None, bytes);
    }

    /// The last datagram does not arrive.
    pub(super) fn lose_the_last(&mut self) {
        if let Some(last) = self.sent.last_mut() {
            last.fate = Fate::Lost;
            last.arrived = None;
        }
    }

    /// What a phone sent last came from an address where it was never heard.
    pub(super) fn move_the_sender(&mut self) {
        if let Some(last) = self.sent.iter_mut().rev().find(|sent| matches!(sent.sender, Party::Phone(_))) {
            last.from = phone_address(998);
        }
    }

    pub(super) fn model(&self) -> Model<'_> {
        Model::new(self.sent.iter(), self.circumstances.clone())
    }

    #[track_caller]
    pub(super) fn assert_good(&self) {
        assert_eq!(self.model().judge(), Vec::<String>::new());
    }

    #[track_caller]
    pub(super) fn assert_told(&self, what: &str) {
        let problems = self.model().judge();
        assert!(problems.iter().any(|problem| problem.starts_with(what)), "{what} is not among {problems:?}");
    }

    fn push(&mut self, at: Instant, sender: Party, receiver: Option<Party>, bytes: Vec<u8>) {
        self.sent.push(Sent {
            at,
            from: address(Some(sender)),
            to: address(receiver),
            bytes: Arc::from(bytes),
            sender,
            receiver,
            fate: if receiver.is_some() { Fate::Delivered } else { Fate::Unreachable },
            arrived: receiver.map(|_| at + FLIGHT),
        });
    }
}

pub(super) const PHONE: Party = Party::Phone(0);
pub(super) const OTHER_PHONE: Party = Party::Phone(1);
pub(super) const BOX: Party = Party::Pbx(0);
pub(super) const OTHER_BOX: Party = Party::Pbx(1);
pub(super) const PEER: Party = Party::Peer(0);
pub(super) const FARM: Party = Party::Balancer;
const FLIGHT: Duration = Duration::from_millis(1);

fn address(party: Option<Party>) -> SocketAddr {
    match party {
        Some(Party::Balancer) => VIP,
        Some(Party::Phone(index)) => phone_address(index),
        Some(Party::Pbx(index)) => box_address(index),
        Some(Party::Peer(index)) => peer_address(index),
        None => phone_address(999),
    }
}

/// Bonnie's request to the farm.
pub(super) fn up(method: &str) -> Vec<u8> {
    Script::new(method).branch("up").build()
}

/// A request as the farm sends it on.
pub(super) fn passed_down(request: &[u8], branch: &str) -> Vec<u8> {
    let text = String::from_utf8(request.to_vec()).expect("scripts are text");
    let sent_by =
        text.split_once("SIP/2.0/UDP ").and_then(|(_, rest)| rest.split_once(';')).map(|(sent_by, _)| sent_by);
    let (host, port) = sent_by.and_then(|sent_by| sent_by.split_once(':')).expect("scripts name host and port");
    let stamp = format!(";received={host};rport={port};");
    let ours = format!("Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK{branch}\r\nVia: ");
    text.replacen(";rport;", &stamp, 1)
        .replacen("Via: ", &ours, 1)
        .replace("Max-Forwards: 70", "Max-Forwards: 69")
        .into_bytes()
}

/// A response as the farm passes it on.
pub(super) fn passed_up(response: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(response.to_vec()).expect("scripts are text");
    let (head, rest) = text.split_once("Via: ").expect("responses have a Via");
    let (_, rest) = rest.split_once("\r\n").expect("lines end");
    format!("{head}{rest}").into_bytes()
}

/// The farm's own answer to a request.
pub(super) fn own_answer(code: u16, request: &[u8]) -> Vec<u8> {
    Answer::new(code).tag("own").to(request)
}

/// The farm's own answer to Bonnie's request.
pub(super) fn own(code: u16, method: &str) -> Vec<u8> {
    own_answer(code, &up(method))
}

/// INVITE up and down, 180 both ways.
pub(super) fn ringing() -> Wire {
    let mut wire = Wire::new();
    let down = passed_down(&up("INVITE"), "d1");
    wire.put(PHONE, FARM, up("INVITE"));
    wire.react(BOX, down.clone());
    wire.put(BOX, FARM, Answer::new(180).to(&down));
    wire.react(PHONE, passed_up(&Answer::new(180).to(&down)));
    wire
}

#[test]
fn an_empty_wire_is_good() {
    Wire::new().assert_good();
}

#[test]
fn problems_name_call_number_and_time() {
    let problems = ringing().model().judge();
    assert_eq!(problems, ["INVITE got no final answer: Call-ID call-1, CSeq 1, at 1.011000"]);
}
