//! Ways in which a PBX can misbehave.

use crate::limits;
use sip::time::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// How a PBX misbehaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Not at all.
    None,
    /// It receives, and sends nothing.
    Silent,
    /// It answers every request but ACK with this status.
    Refuse(u16),
    /// It takes so long to look at a request.
    Slow(Duration),
}

/// Requests that a slow PBX has not looked at yet, in order of their time.
pub(super) struct Delayed {
    waiting: BTreeMap<(Instant, u64), (SocketAddr, Vec<u8>)>,
    last: u64,
}

impl Delayed {
    pub(super) fn new() -> Self {
        Self { waiting: BTreeMap::new(), last: 0 }
    }

    pub(super) fn push(&mut self, due: Instant, from: SocketAddr, bytes: &[u8]) {
        if self.waiting.len() < limits::DELAYED_REQUESTS {
            self.last += 1;
            self.waiting.insert((due, self.last), (from, bytes.to_vec()));
        }
    }

    pub(super) fn take_due(&mut self, now: Instant) -> Option<(SocketAddr, Vec<u8>)> {
        let first = self.waiting.first_entry()?;
        if first.key().0 > now { None } else { Some(first.remove()) }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }
}

/// What a slow PBX lets wait: requests, but not what only confirms its own doing.
pub(super) fn waits(datagram: &[u8]) -> bool {
    !datagram.starts_with(b"SIP/2.0 ") && !datagram.starts_with(b"ACK ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delayed_requests_come_in_order_when_due() {
        let from = SocketAddr::from(([10, 0, 0, 1], 5060));
        let at = Instant::from_micros;
        let mut delayed = Delayed::new();
        delayed.push(at(20), from, b"two");
        delayed.push(at(10), from, b"one");
        delayed.push(at(20), from, b"three");
        assert_eq!(delayed.deadline(), Some(at(10)));
        assert_eq!(delayed.take_due(at(9)), None);
        assert_eq!(delayed.take_due(at(20)), Some((from, b"one".to_vec())));
        assert_eq!(delayed.take_due(at(20)), Some((from, b"two".to_vec())));
        assert_eq!(delayed.take_due(at(20)), Some((from, b"three".to_vec())));
        assert_eq!(delayed.deadline(), None);
    }

    #[test]
    fn responses_and_acks_never_wait() {
        assert!(waits(b"INVITE sip:a@b SIP/2.0\r\n"));
        assert!(!waits(b"SIP/2.0 200 OK\r\n"));
        assert!(!waits(b"ACK sip:a@b SIP/2.0\r\n"));
    }
}
