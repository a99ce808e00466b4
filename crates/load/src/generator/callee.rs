//! The callee: the server behind the balancer. It accepts every call, ends it when asked to, and registers whoever shows credentials.

use super::counts::Messages;
use super::outbox::Outbox;
use super::replies::Replies;
use super::retry::{Retries, Stage};
use super::scan::{self, Field, Key, lines};
use sip::Instant;
use std::net::SocketAddr;

/// One end of all exchanges. Pure: given datagrams and the time, it fills an outbox.
pub(super) struct Callee {
    run: u32,
    replies: Replies,
    /// By the slot of the exchange's key.
    exchanges: Vec<Exchange>,
    retries: Retries,
    pub(super) messages: Messages,
}

/// The exchange that a slot was used for last.
struct Exchange {
    serial: u32,
    /// The requests of it that came, as bits of [`Request`]; none where the slot was not used yet.
    seen: u8,
    /// The ACK of its call has not come yet.
    waiting: bool,
    remote: SocketAddr,
    /// The 200 to INVITE, sent until the ACK comes (RFC 3261 §13.3.1.4).
    answer: Vec<u8>,
}

/// What an exchange may ask for, a bit each.
#[derive(Clone, Copy)]
enum Request {
    Invite = 1,
    Ack = 2,
    Bye = 4,
    Register = 8,
    RegisterAgain = 16,
    Options = 32,
}

/// What the callee needs to know of a request.
struct Read {
    /// Of this load only.
    key: Option<Key>,
    stray: bool,
    authorized: bool,
}

/// A request of this load, against what is known of its exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arrival {
    First,
    Again,
    /// Its slot is used for another exchange already.
    Late,
}

impl Callee {
    /// `own`: the callee's address.
    pub(super) fn new(run: u32, own: SocketAddr) -> Self {
        Self {
            run,
            replies: Replies::new(own),
            exchanges: Vec::new(),
            retries: Retries::default(),
            messages: Messages::default(),
        }
    }

    /// Forgets the load before this one; what still comes of it is a stray.
    pub(super) fn restart(&mut self, run: u32) {
        self.run = run;
        self.exchanges.clear();
        self.retries = Retries::default();
        self.messages = Messages::default();
    }

    pub(super) fn datagram(&mut self, now: Instant, bytes: &[u8], remote: SocketAddr, out: &mut Outbox) {
        if scan::is_keep_alive(bytes) {
            return;
        }
        let request = self.read(bytes);
        if request.stray {
            self.messages.strays += 1;
        }
        let tag = request.key.map_or(*NOBODYS_TAG, Key::digits);
        let replies = &self.replies;
        match scan::method(bytes) {
            b"INVITE" => self.invite(now, &request, bytes, remote, &tag, out),
            b"ACK" => self.acknowledged(&request, Request::Ack, remote),
            b"BYE" => {
                out.put(remote, |buffer| replies.done.write(bytes, &tag, false, buffer));
                self.acknowledged(&request, Request::Bye, remote);
            }
            b"REGISTER" if request.authorized => {
                out.put(remote, |buffer| replies.registered.write(bytes, &tag, true, buffer));
                self.count(request.key, Request::RegisterAgain, remote);
            }
            b"REGISTER" => {
                out.put(remote, |buffer| replies.challenge.write(bytes, &tag, false, buffer));
                self.count(request.key, Request::Register, remote);
            }
            // Without our key: the balancer asks whether we are alive.
            b"OPTIONS" => {
                out.put(remote, |buffer| replies.done.write(bytes, &tag, false, buffer));
                self.count(request.key, Request::Options, remote);
            }
            // Whoever takes an INVITE back finds it answered.
            b"CANCEL" => out.put(remote, |buffer| replies.done.write(bytes, &tag, false, buffer)),
            b"" => self.messages.unexpected += 1,
            method => {
                self.messages.unexpected += 1;
                // An answer, or a request that nobody sends to us.
                if !method.starts_with(b"SIP/") {
                    out.put(remote, |buffer| replies.not_allowed.write(bytes, &tag, false, buffer));
                }
            }
        }
    }

    /// Sends again what was not acknowledged.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        while let Some(retry) = self.retries.due(now) {
            let Some(exchange) = self.exchanges.get_mut(retry.slot as usize) else { continue };
            if exchange.serial != retry.serial || !exchange.waiting {
                continue;
            }
            if retry.is_hopeless(now) {
                exchange.waiting = false;
                continue;
            }
            self.messages.sent_again += 1;
            out.put(exchange.remote, |buffer| buffer.extend_from_slice(&exchange.answer));
            self.retries.again(now, retry);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.retries.next()
    }

    fn read(&self, bytes: &[u8]) -> Read {
        let mut request = Read { key: None, stray: false, authorized: false };
        for line in lines(bytes) {
            match line.field {
                Field::CallId => {
                    let key = Key::read(line.value).filter(|key| key.slot < MOST_CALLS);
                    request.key = key.filter(|key| key.run == self.run);
                    request.stray = key.is_some_and(|key| key.run != self.run);
                }
                Field::Authorization => request.authorized = true,
                _ => {}
            }
        }
        request
    }

    fn invite(&mut self, now: Instant, request: &Read, bytes: &[u8], remote: SocketAddr, tag: &[u8], out: &mut Outbox) {
        let arrival = self.count(request.key, Request::Invite, remote);
        let (Some(key), Some(arrival)) = (request.key, arrival) else {
            if !request.stray {
                self.messages.unexpected += 1;
            }
            // Silence would make the balancer think that we are dead.
            out.put(remote, |buffer| self.replies.busy.write(bytes, tag, false, buffer));
            return;
        };
        let Some(exchange) = self.exchanges.get_mut(key.slot as usize) else { return };
        match arrival {
            // Its call is over.
            Arrival::Late => {}
            // What it asks for is on its way.
            Arrival::Again => out.put(remote, |buffer| buffer.extend_from_slice(&exchange.answer)),
            Arrival::First => {
                let replies = &self.replies;
                exchange.waiting = true;
                exchange.remote = remote;
                exchange.answer.clear();
                replies.answered.write(bytes, tag, false, &mut exchange.answer);
                out.put(remote, |buffer| replies.ringing.write(bytes, tag, false, buffer));
                out.put(remote, |buffer| buffer.extend_from_slice(&exchange.answer));
                self.retries.begin(now, key.slot, key.serial, Stage::First);
            }
        }
    }

    /// ACK and BYE: the 200 arrived.
    fn acknowledged(&mut self, request: &Read, what: Request, remote: SocketAddr) {
        match (self.count(request.key, what, remote), request.key) {
            (Some(Arrival::First | Arrival::Again), Some(key)) => {
                if let Some(exchange) = self.exchanges.get_mut(key.slot as usize) {
                    exchange.waiting = false;
                }
            }
            (Some(Arrival::Late), _) => {}
            _ if request.stray => {}
            _ => self.messages.unexpected += 1,
        }
    }

    /// Counts a request of this load, and notes that it came; `None` for one of nobody's.
    fn count(&mut self, key: Option<Key>, what: Request, remote: SocketAddr) -> Option<Arrival> {
        let key = key?;
        self.messages.received += 1;
        let slot = key.slot as usize;
        let bit = what as u8;
        while self.exchanges.len() <= slot {
            self.exchanges.push(Exchange { serial: key.serial, seen: 0, waiting: false, remote, answer: Vec::new() });
        }
        let exchange = self.exchanges.get_mut(slot)?;
        if exchange.seen != 0 && key.is_older_than(exchange.serial) {
            self.messages.received_again += 1;
            return Some(Arrival::Late);
        }
        if exchange.serial != key.serial {
            exchange.serial = key.serial;
            exchange.seen = 0;
            exchange.waiting = false;
        }
        if exchange.seen & bit != 0 {
            self.messages.received_again += 1;
            return Some(Arrival::Again);
        }
        exchange.seen |= bit;
        Some(Arrival::First)
    }
}

/// Of answers to requests that are none of this load's.
const NOBODYS_TAG: &[u8; scan::KEY_DIGITS] = b"000000000000000000000000";
/// Calls under way at most; the caller begins no more either.
pub(super) const MOST_CALLS: u32 = 1 << 18;
