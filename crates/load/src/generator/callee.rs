//! The callee: the server behind the balancer. It accepts every call, ends it when asked to, and registers whoever shows credentials.

use super::outbox::Outbox;
use super::retry::{Retries, Stage};
use super::scan::{Field, Key, lines};
use super::texts::CalleeTexts;
use sip::Instant;
use std::net::SocketAddr;

/// One end of all exchanges. Pure: given datagrams and the time, it fills an outbox.
pub(super) struct Callee {
    run: u32,
    texts: CalleeTexts,
    /// By the slot of the call's key.
    calls: Vec<Call>,
    retries: Retries,
    /// Requests of ours that arrived.
    pub(super) received: u64,
    pub(super) retransmissions: u64,
    pub(super) unexpected: u64,
}

/// A call whose ACK has not come yet, or none.
struct Call {
    serial: u32,
    waiting: bool,
    remote: SocketAddr,
    /// The 200, sent until the ACK comes (RFC 3261 §13.3.1.4).
    answer: Vec<u8>,
}

/// What the callee needs to know of a request.
struct Request {
    key: Option<Key>,
    authorized: bool,
}

impl Callee {
    pub(super) fn new(run: u32, callee: SocketAddr) -> Self {
        Self {
            run,
            texts: CalleeTexts::new(callee),
            calls: Vec::new(),
            retries: Retries::default(),
            received: 0,
            retransmissions: 0,
            unexpected: 0,
        }
    }

    pub(super) fn datagram(&mut self, now: Instant, bytes: &[u8], remote: SocketAddr, out: &mut Outbox) {
        if bytes.iter().all(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            // A keep-alive.
            return;
        }
        let Some(end) = memchr::memchr(b' ', bytes) else {
            self.unexpected += 1;
            return;
        };
        let method = bytes.get(..end).unwrap_or_default();
        let request = self.read(bytes);
        if request.key.is_some() {
            self.received += 1;
        }
        let tag = request.key.map_or(*b"000000000000000000000000", Key::digits);
        match method {
            b"INVITE" => self.invite(now, request.key, bytes, remote, &tag, out),
            b"ACK" => self.acknowledged(request.key),
            b"BYE" => {
                self.acknowledged(request.key);
                out.put(remote, |buffer| self.texts.done.write(bytes, &tag, false, buffer));
            }
            b"REGISTER" if request.authorized => {
                out.put(remote, |buffer| self.texts.registered.write(bytes, &tag, true, buffer));
            }
            b"REGISTER" => out.put(remote, |buffer| self.texts.challenge.write(bytes, &tag, false, buffer)),
            // Without our key: the balancer asks whether we are alive.
            b"OPTIONS" => out.put(remote, |buffer| self.texts.done.write(bytes, &tag, false, buffer)),
            _ => self.unexpected += 1,
        }
    }

    /// Sends again what was not acknowledged.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        while let Some(retry) = self.retries.due(now) {
            let Some(call) = self.calls.get_mut(retry.slot as usize) else { continue };
            if call.serial != retry.serial || !call.waiting {
                continue;
            }
            if retry.is_hopeless(now) {
                call.waiting = false;
                continue;
            }
            self.retransmissions += 1;
            out.put(call.remote, |buffer| buffer.extend_from_slice(&call.answer));
            self.retries.again(now, retry);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.retries.next()
    }

    fn read(&self, bytes: &[u8]) -> Request {
        let mut request = Request { key: None, authorized: false };
        for line in lines(bytes) {
            match line.field {
                Field::CallId => {
                    request.key = Key::read(line.value).filter(|key| key.run == self.run && key.slot < MOST_CALLS);
                }
                Field::Authorization => request.authorized = true,
                _ => {}
            }
        }
        request
    }

    fn invite(
        &mut self,
        now: Instant,
        key: Option<Key>,
        bytes: &[u8],
        remote: SocketAddr,
        tag: &[u8],
        out: &mut Outbox,
    ) {
        let Some(key) = key else {
            self.unexpected += 1;
            return;
        };
        let slot = key.slot as usize;
        while self.calls.len() <= slot {
            self.calls.push(Call { serial: 0, waiting: false, remote, answer: Vec::new() });
        }
        let Some(call) = self.calls.get_mut(slot) else { return };
        if call.waiting && call.serial == key.serial {
            // A retransmission: what it asks for is on its way.
            out.put(remote, |buffer| buffer.extend_from_slice(&call.answer));
            return;
        }
        call.serial = key.serial;
        call.waiting = true;
        call.remote = remote;
        call.answer.clear();
        self.texts.answered.write(bytes, tag, false, &mut call.answer);
        let texts = &self.texts;
        out.put(remote, |buffer| texts.ringing.write(bytes, tag, false, buffer));
        out.put(remote, |buffer| buffer.extend_from_slice(&call.answer));
        self.retries.begin(now, key.slot, key.serial, Stage::First);
    }

    fn acknowledged(&mut self, key: Option<Key>) {
        let Some(key) = key else {
            self.unexpected += 1;
            return;
        };
        if let Some(call) = self.calls.get_mut(key.slot as usize)
            && call.serial == key.serial
        {
            call.waiting = false;
        }
    }
}

/// Calls under way at most; the caller begins no more either.
pub(super) const MOST_CALLS: u32 = 1 << 18;
