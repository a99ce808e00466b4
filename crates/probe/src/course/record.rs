//! The messages of a run, bounded, with one line for all the audio of each direction.

use crate::report::{Step, one_line};
use sip::time::Instant;
use sip::{Limits, Message, parse};
use std::net::SocketAddr;
use std::time::Duration;

/// Messages that are kept.
const STEPS: usize = 200;
/// Octets of messages that are kept.
const OCTETS: usize = 64 * 1_024;

pub(super) struct Record {
    started: Instant,
    steps: Vec<Step>,
    octets: usize,
    left_out: u64,
    sent: Audio,
    heard: Audio,
}

/// The audio of one direction.
#[derive(Clone, Copy, Default)]
struct Audio {
    packets: u64,
    /// The first packet: how many messages went before it, when it went, and to or from whom.
    first: Option<(usize, Duration, SocketAddr)>,
}

impl Record {
    pub(super) fn new(started: Instant) -> Self {
        let (sent, heard) = (Audio::default(), Audio::default());
        Self { started, steps: Vec::new(), octets: 0, left_out: 0, sent, heard }
    }

    /// A message goes out or came in.
    pub(super) fn message(&mut self, now: Instant, outgoing: bool, peer: SocketAddr, bytes: &[u8]) {
        if self.steps.len() >= STEPS || self.octets + bytes.len() > OCTETS {
            self.left_out += 1;
            return;
        }
        self.octets += bytes.len();
        let at = now.saturating_since(self.started);
        let line = match parse(bytes, &Limits::default()) {
            Ok(message) => describe(&message),
            Err(_) => format!("{} octets that are no SIP message", bytes.len()),
        };
        self.steps.push(Step { at, outgoing, peer, line, octets: bytes.to_vec() });
    }

    pub(super) fn audio_sent(&mut self, now: Instant, to: SocketAddr) {
        let at = now.saturating_since(self.started);
        self.sent.count(self.steps.len(), at, to);
    }

    /// A packet came, from where we send ours as far as we know.
    pub(super) fn audio_heard(&mut self, now: Instant, from: SocketAddr) {
        let at = now.saturating_since(self.started);
        self.heard.count(self.steps.len(), at, from);
    }

    /// All steps in order of time.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.steps.len() + 2);
        let audio = [(true, self.sent), (false, self.heard)];
        for place in 0..=self.steps.len() {
            for (outgoing, audio) in audio {
                if let Some((before, at, peer)) = audio.first
                    && before == place
                {
                    let line = format!("RTP: {} packets", audio.packets);
                    steps.push(Step { at, outgoing, peer, line, octets: Vec::new() });
                }
            }
            steps.extend(self.steps.get(place).cloned());
        }
        steps
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }
}

impl Audio {
    fn count(&mut self, before: usize, at: Duration, peer: SocketAddr) {
        self.packets += 1;
        self.first.get_or_insert((before, at, peer));
    }
}

/// `INVITE sip:clyde@10.0.0.11`, or `180 Ringing (INVITE)`.
fn describe(message: &Message<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let method = text(message.method().as_bytes());
    one_line(&match (message.request_line(), message.status_line()) {
        (Some(line), _) => format!("{method} {}", text(line.uri)),
        (None, Some(line)) if line.reason.is_empty() => format!("{} ({method})", line.code),
        (None, Some(line)) => format!("{} {} ({method})", line.code, text(line.reason)),
        (None, None) => method,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 11], 5060))
    }

    fn at(millis: u64) -> Instant {
        Instant::from_micros(1_000_000 + millis * 1_000)
    }

    fn ringing() -> Vec<u8> {
        b"SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP 10.1.0.1;branch=z9hG4bKx\r\nFrom: <sip:b@e>;tag=1\r\n\
          To: <sip:c@e>;tag=2\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
            .to_vec()
    }

    #[test]
    fn audio_stands_where_it_began_and_is_one_line_for_each_direction() {
        let mut record = Record::new(at(0));
        record.message(at(5), false, peer(), &ringing());
        for packet in 0..3 {
            record.audio_sent(at(20 * packet), peer());
        }
        record.audio_heard(at(25), peer());
        record.message(at(90), true, peer(), b"nonsense");
        let steps = record.steps();
        let lines: Vec<(&str, bool)> = steps.iter().map(|step| (step.line.as_str(), step.outgoing)).collect();
        let expected = [
            ("180 Ringing (INVITE)", false),
            ("RTP: 3 packets", true),
            ("RTP: 1 packets", false),
            ("8 octets that are no SIP message", true),
        ];
        assert_eq!(lines, expected);
        assert_eq!(steps[0].octets, ringing());
        assert_eq!(steps[0].at, Duration::from_millis(5));
    }

    #[test]
    fn a_flood_is_counted_and_not_kept() {
        let mut record = Record::new(at(0));
        for _ in 0..250 {
            record.message(at(1), false, peer(), b"x");
        }
        assert_eq!((record.steps().len(), record.left_out()), (200, 50));
        let mut record = Record::new(at(0));
        for _ in 0..3 {
            record.message(at(1), false, peer(), &[b'x'; 30_000]);
        }
        assert_eq!((record.steps().len(), record.left_out()), (2, 1));
    }
}
