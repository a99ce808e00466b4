//! Requests of ours and what came for them: the final answers, whether anything came at all, and the round trip.

use crate::report::one_line;
use sip::Message;
use sip::build::reason_phrase;
use sip::time::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Requests that are remembered; a run has about ten.
const REMEMBERED: usize = 32;

/// Longest remark of a peer that is told on, in characters.
const REMARK_CHARACTERS: usize = 100;

/// What stands for codes that have no phrase of their own.
const CLASSES: [&str; 5] = ["Unknown", "Redirection", "Request Failure", "Server Failure", "Global Failure"];

/// A final answer, as far as it is told on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) code: u16,
    /// The standard phrase of the code, or the peer's where there is none.
    phrase: String,
    /// What Warning or Reason say.
    remark: Option<String>,
    /// It has a body.
    pub(super) has_body: bool,
}

impl fmt::Display for Answer {
    /// `403 Forbidden`, and the peer's remark in brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if !self.phrase.is_empty() {
            write!(f, " {}", self.phrase)?;
        }
        match &self.remark {
            Some(remark) => write!(f, " ({remark})"),
            None => Ok(()),
        }
    }
}

impl Answer {
    /// An answer of which only the code is known.
    pub(super) fn of_code(code: u16) -> Self {
        Self { code, phrase: phrase(code, b""), remark: None, has_body: false }
    }

    fn read(code: u16, reason: &[u8], response: &Message<'_>) -> Self {
        let remark = [b"Warning".as_slice(), b"Reason"]
            .into_iter()
            .find_map(|name| response.named(name).next())
            .map(|header| readable(header.value));
        Self { code, phrase: phrase(code, reason), remark, has_body: !response.body().is_empty() }
    }
}

/// What is known about the requests of one run.
#[derive(Default)]
pub(super) struct Exchanges {
    /// The oldest first.
    open: VecDeque<Open>,
    /// The final answer to the last request of each method.
    finals: BTreeMap<Vec<u8>, Answer>,
    /// Methods whose last request carried credentials, those for a proxy (true) apart.
    proven: BTreeSet<(Vec<u8>, bool)>,
    round_trip: Option<Duration>,
}

/// A request that was sent.
struct Open {
    branch: Vec<u8>,
    method: Vec<u8>,
    to: SocketAddr,
    at: Instant,
    heard: bool,
    /// How often it was sent, and how often this machine did not let it out.
    copies: usize,
    held_back: usize,
}

impl Exchanges {
    /// A request of ours goes out, for the first time or again.
    pub(super) fn on_request(&mut self, now: Instant, to: SocketAddr, request: &Message<'_>) {
        let Some(branch) = request.top_via().and_then(|via| via.branch()) else { return };
        let method = request.method().as_bytes();
        if method == b"ACK" {
            return;
        }
        if let Some(known) = self.open.iter_mut().find(|open| open.branch == branch && open.method == method) {
            known.copies += 1;
            return;
        }
        if self.open.len() >= REMEMBERED {
            self.open.pop_front();
        }
        self.finals.remove(method);
        for for_proxy in [false, true] {
            let key = (method.to_vec(), for_proxy);
            if request.credentials().any(|credentials| credentials.proxy == for_proxy) {
                self.proven.insert(key);
            } else {
                self.proven.remove(&key);
            }
        }
        let (branch, method) = (branch.to_vec(), method.to_vec());
        self.open.push_back(Open { branch, method, to, at: now, heard: false, copies: 1, held_back: 0 });
    }

    /// A request of ours was not let out by this machine.
    pub(super) fn on_held_back(&mut self, request: &Message<'_>) {
        let Some(branch) = request.top_via().and_then(|via| via.branch()) else { return };
        let method = request.method().as_bytes();
        if let Some(open) = self.open.iter_mut().find(|open| open.branch == branch && open.method == method) {
            open.held_back += 1;
        }
    }

    /// A response came. What answers no request of ours is passed over.
    pub(super) fn on_response(&mut self, now: Instant, response: &Message<'_>) {
        let Some(status) = response.status_line() else { return };
        let Some(branch) = response.top_via().and_then(|via| via.branch()) else { return };
        let method = response.method().as_bytes();
        let Some(found) = self.open.iter().position(|open| open.branch == branch && open.method == method) else {
            return;
        };
        let is_last = self.open.iter().skip(found + 1).all(|open| open.method != method);
        let Some(open) = self.open.get_mut(found) else { return };
        if !open.heard {
            open.heard = true;
            let time = now.saturating_since(open.at);
            self.round_trip = Some(self.round_trip.map_or(time, |best| best.min(time)));
        }
        if is_last && status.code >= 200 {
            let answer = || Answer::read(status.code, status.reason, response);
            self.finals.entry(method.to_vec()).or_insert_with(answer);
        }
    }

    /// The final answer to the last request of this method.
    pub(super) fn answer_to(&self, method: &str) -> Option<&Answer> {
        self.finals.get(method.as_bytes())
    }

    /// Anything came for the last request of this method.
    pub(super) fn is_heard(&self, method: &str) -> bool {
        self.open.iter().rev().find(|open| open.method == method.as_bytes()).is_some_and(|open| open.heard)
    }

    /// The last request to this peer never left. So many copies of it were not tried yet.
    pub(super) fn is_held_back(&self, peer: SocketAddr, untried: usize) -> bool {
        let last = self.open.iter().rev().find(|open| open.to == peer);
        last.is_some_and(|open| open.held_back > 0 && open.held_back + untried >= open.copies)
    }

    /// The last request of this method carried credentials for whoever asks for them by this code, 401 or 407.
    pub(super) fn is_proven(&self, method: &str, code: u16) -> bool {
        self.proven.contains(&(method.as_bytes().to_vec(), code == 407))
    }

    /// The smallest time between a request and the first response to it.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }
}

/// The standard phrase; the peer's where there is only one for the whole class.
fn phrase(code: u16, reason: &[u8]) -> String {
    let standard = reason_phrase(code);
    if CLASSES.contains(&standard) && !reason.is_empty() { readable(reason) } else { standard.to_owned() }
}

fn readable(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().take(REMARK_CHARACTERS).collect();
    one_line(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip::{Limits, parse};

    fn message(first: &str, branch: &str, cseq: &str, extra: &str) -> Vec<u8> {
        format!(
            "{first}\r\nVia: SIP/2.0/UDP 10.1.0.1:5060;branch={branch}\r\nFrom: <sip:b@e>;tag=1\r\nTo: <sip:c@e>;tag=2\r\n\
             Call-ID: 1\r\nCSeq: {cseq}\r\n{extra}Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn peer() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 11], 5060))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_micros(millis * 1_000)
    }

    fn sent(exchanges: &mut Exchanges, millis: u64, branch: &str, extra: &str) {
        let bytes = message("INVITE sip:c@e SIP/2.0", branch, "1 INVITE", extra);
        let request = parse(&bytes, &Limits::default()).expect("the request is well-formed");
        exchanges.on_request(at(millis), peer(), &request);
    }

    fn came(exchanges: &mut Exchanges, millis: u64, branch: &str, status: &str, extra: &str) {
        let bytes = message(&format!("SIP/2.0 {status}"), branch, "1 INVITE", extra);
        exchanges.on_response(at(millis), &parse(&bytes, &Limits::default()).expect("the response is well-formed"));
    }

    #[test]
    fn the_smallest_round_trip_counts_and_each_request_once() {
        let mut exchanges = Exchanges::default();
        sent(&mut exchanges, 0, "z9hG4bKa", "");
        came(&mut exchanges, 30, "z9hG4bKa", "100 Trying", "");
        came(&mut exchanges, 31, "z9hG4bKother", "180 Ringing", "");
        assert_eq!(exchanges.round_trip(), Some(Duration::from_millis(30)));
        sent(&mut exchanges, 40, "z9hG4bKb", "");
        came(&mut exchanges, 50, "z9hG4bKb", "180 Ringing", "");
        sent(&mut exchanges, 55, "z9hG4bKb", "");
        came(&mut exchanges, 56, "z9hG4bKb", "200 OK", "");
        assert_eq!(exchanges.round_trip(), Some(Duration::from_millis(10)));
    }

    #[test]
    fn a_request_is_held_back_as_long_as_no_copy_of_it_left() {
        let mut exchanges = Exchanges::default();
        let bytes = message("INVITE sip:c@e SIP/2.0", "z9hG4bKa", "1 INVITE", "");
        let request = parse(&bytes, &Limits::default()).expect("the request is well-formed");
        assert!(!exchanges.is_held_back(peer(), 0), "nothing was sent");
        for _ in 0..2 {
            exchanges.on_request(at(0), peer(), &request);
            assert!(!exchanges.is_held_back(peer(), 0));
            exchanges.on_held_back(&request);
            assert!(exchanges.is_held_back(peer(), 0));
        }
        assert!(!exchanges.is_held_back(SocketAddr::from(([10, 0, 0, 12], 5060)), 0));
        exchanges.on_request(at(1_000), peer(), &request);
        assert!(exchanges.is_held_back(peer(), 1), "the third one was not tried yet");
        assert!(!exchanges.is_held_back(peer(), 0), "the third one left");
    }

    #[test]
    fn only_the_last_request_has_an_answer() {
        let mut exchanges = Exchanges::default();
        sent(&mut exchanges, 0, "z9hG4bKa", "");
        assert!(!exchanges.is_heard("INVITE"));
        came(&mut exchanges, 1, "z9hG4bKa", "401 Unauthorized", "");
        assert_eq!(exchanges.answer_to("INVITE").map(|answer| answer.code), Some(401));
        assert!(!exchanges.is_proven("INVITE", 401));
        let line = "Authorization: Digest username=\"b\", realm=\"e\", nonce=\"n\", uri=\"sip:e\", response=\"0\"\r\n";
        sent(&mut exchanges, 2, "z9hG4bKb", line);
        assert_eq!(exchanges.answer_to("INVITE"), None);
        assert!(exchanges.is_proven("INVITE", 401) && !exchanges.is_proven("INVITE", 407));
        came(&mut exchanges, 3, "z9hG4bKa", "503 Service Unavailable", "");
        assert_eq!(exchanges.answer_to("INVITE"), None, "an answer to the request before");
        came(&mut exchanges, 4, "z9hG4bKb", "486 Nobody Has Time", "Warning: 399 pbx \"on|the\tphone\"\r\n");
        let answer = exchanges.answer_to("INVITE").expect("it was answered");
        assert_eq!(answer.to_string(), "486 Busy Here (399 pbx \"on/the phone\")");
    }
}
