//! A box that is a forking proxy and has users who point at each other: every INVITE that it gets goes on to all of them, back
//! through the farm. This is the registrar of the attack in RFC 5393 §3.

use sim::{Answer, Script, Text, box_address};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// What a forker does with Max-Breadth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Breadth {
    /// Copies it to each branch, as a proxy does that knows nothing of RFC 5393.
    Copied,
    /// Splits it among the branches; if there is not enough for all of them, the request is answered 440 (RFC 5393 §5.3.3).
    Split,
}

/// The box. It takes datagrams and says what it answers; no time passes in it, so that it never repeats anything.
#[derive(Debug)]
pub(crate) struct Forker {
    number: usize,
    users: Vec<String>,
    breadth: Breadth,
    forks: Vec<Fork>,
}

/// One INVITE that was forked.
#[derive(Debug)]
struct Fork {
    /// As it came.
    request: Vec<u8>,
    /// Positions of the users whose branch has no final answer yet.
    pending: BTreeSet<usize>,
    /// The first refusal that came.
    refusal: Option<u16>,
}

impl Forker {
    /// The box with that index.
    pub(crate) fn new(number: usize, users: &[String], breadth: Breadth) -> Self {
        Self { number, users: users.to_vec(), breadth, forks: Vec::new() }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        box_address(self.number)
    }

    /// Takes what the farm sent to the box; gives what the box sends to the farm.
    pub(crate) fn handle(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let message = Text::read(bytes);
        match (message.code(), message.method()) {
            (None, "INVITE") => self.fork(bytes, &message),
            (Some(code), "INVITE") if code >= 300 => self.refused(&message, code),
            // Nobody is reached in these scenes: what is left are ACKs.
            _ => Vec::new(),
        }
    }

    fn fork(&mut self, bytes: &[u8], message: &Text) -> Vec<Vec<u8>> {
        let number = self.forks.len();
        let hops = number_of(message, "Max-Forwards", 70);
        let breadth = number_of(message, "Max-Breadth", 60);
        let count = self.users.len();
        if hops == 0 {
            return vec![answer(483, number, bytes)];
        }
        if self.breadth == Breadth::Split && breadth < count {
            return vec![answer(440, number, bytes)];
        }
        let copies = (0..count).map(|at| {
            let share = match self.breadth {
                Breadth::Copied => breadth,
                Breadth::Split => breadth / count + usize::from(at < breadth % count),
            };
            self.copy(message, number, at, hops - 1, share)
        });
        let copies: Vec<Vec<u8>> = copies.collect();
        self.forks.push(Fork { request: bytes.to_vec(), pending: (0..count).collect(), refusal: None });
        copies
    }

    /// The INVITE for the user at that position (RFC 3261 §16.6).
    fn copy(&self, message: &Text, number: usize, at: usize, hops: usize, breadth: usize) -> Vec<u8> {
        let mut text = format!(
            "INVITE {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: {hops}\r\nMax-Breadth: {breadth}\r\n",
            self.uri(at),
            self.via(number, at)
        );
        for (name, value) in message.without(&["Max-Forwards", "Max-Breadth"]) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&message.body);
        bytes
    }

    /// A branch was refused: it is acknowledged, and after the last one the fork itself is refused.
    fn refused(&mut self, message: &Text, code: u16) -> Vec<Vec<u8>> {
        let Some((number, at)) = branch_of(message) else {
            return Vec::new();
        };
        let ack = Script::new("ACK")
            .uri(&self.uri(at))
            .via(&self.via(number, at))
            .from(message.header("From").unwrap_or_default())
            .to(message.header("To").unwrap_or_default())
            .call_id(message.header("Call-ID").unwrap_or_default());
        let mut sent = vec![ack.build()];
        if let Some(fork) = self.forks.get_mut(number) {
            let refusal = *fork.refusal.get_or_insert(code);
            if fork.pending.remove(&at) && fork.pending.is_empty() {
                sent.push(answer(refusal, number, &fork.request));
            }
        }
        sent
    }

    fn uri(&self, at: usize) -> String {
        format!("sip:{}@example.com", self.users.get(at).map(String::as_str).unwrap_or_default())
    }

    fn via(&self, number: usize, at: usize) -> String {
        format!("SIP/2.0/UDP {};branch={BRANCH}{number}n{at}", self.address())
    }
}

/// Which fork, and which of its branches, an answer belongs to.
fn branch_of(message: &Text) -> Option<(usize, usize)> {
    let branch = message.branch();
    let (number, at) = branch.strip_prefix(BRANCH)?.split_once('n')?;
    Some((number.parse().ok()?, at.parse().ok()?))
}

fn answer(code: u16, number: usize, request: &[u8]) -> Vec<u8> {
    Answer::new(code).tag(&format!("fork{number}")).to(request)
}

fn number_of(message: &Text, name: &str, absent: usize) -> usize {
    message.header(name).and_then(|value| value.parse().ok()).unwrap_or(absent)
}

const BRANCH: &str = "z9hG4bKfork";
