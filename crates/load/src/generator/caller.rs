//! The caller: begins exchanges at its pace and sees each through to its end.

mod answers;
mod asked;

use super::callee::MOST_CALLS;
use super::counts::{Counts, Messages};
use super::credentials::Accounts;
use super::outbox::{Outbox, Way};
use super::replies::Replies;
use super::requests::Requests;
use super::retry::{Retries, Stage};
use super::scan::{self, Key};
use super::schedule::Schedule;
use super::settings::{Details, Kind, Pace, Settings};
use crate::report::Failure;
use sip::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// One end of all exchanges. Pure: given messages and the time, it fills an outbox.
pub(super) struct Caller {
    run: u32,
    kind: Kind,
    pacing: Pacing,
    /// Exchanges to be begun after the warm-up.
    count: Option<u64>,
    /// The end of the warm-up.
    measured_from: Instant,
    balancer: SocketAddr,
    /// How many lead to the balancer; `None`: it gets datagrams.
    connections: Option<u32>,
    first_user: u32,
    users: u32,
    hold: Duration,
    accounts: Option<Accounts>,
    requests: Requests,
    replies: Replies,
    exchanges: Vec<Exchange>,
    /// Slots of exchanges that are over.
    free: Vec<u32>,
    next_serial: u32,
    retries: Retries,
    holds: VecDeque<Hold>,
    closing: bool,
    /// The balancer's answer to the last ping.
    pinged: Option<u16>,
    pub(super) counts: Counts,
    pub(super) messages: Messages,
}

enum Pacing {
    Closed { concurrency: usize },
    Rate(Schedule),
}

struct Exchange {
    serial: u32,
    stage: Stage,
    /// Begun after the warm-up.
    counted: bool,
    /// When the request that waits for its final answer was due.
    asked_at: Instant,
    /// The INVITE has an answer, so that it is not sent again.
    provisional: bool,
    /// The request with credentials, later the BYE.
    stored: Vec<u8>,
    /// Of the 2xx; empty before.
    ack: Vec<u8>,
}

/// A call that goes on until then.
struct Hold {
    at: Instant,
    slot: u32,
    serial: u32,
}

impl Caller {
    /// `start`: when exchanges begin to be due.
    pub(super) fn new(run: u32, settings: &Settings, details: &Details, start: Instant) -> Self {
        let domain = details.domain.clone().unwrap_or_else(|| settings.balancer.to_string());
        let pacing = match settings.pace {
            Pace::Closed { concurrency } => Pacing::Closed { concurrency: concurrency.clamp(1, MOST_CALLS as usize) },
            Pace::Rate { per_second } => Pacing::Rate(Schedule::new(start, per_second)),
        };
        Self {
            run,
            kind: settings.kind,
            pacing,
            count: details.count,
            measured_from: start + details.warm_up,
            balancer: settings.balancer,
            connections: details.streams.as_ref().map(|streams| streams.connections.max(1)),
            first_user: details.first_user,
            users: details.users.max(1),
            hold: details.hold,
            accounts: Accounts::new(settings.kind, &domain, details),
            requests: Requests::new(settings.kind, settings.caller, settings.balancer, &domain, details),
            replies: Replies::new(settings.caller),
            exchanges: Vec::new(),
            free: Vec::new(),
            next_serial: 0,
            retries: Retries::default(),
            holds: VecDeque::new(),
            closing: false,
            pinged: None,
            counts: Counts::default(),
            messages: Messages::default(),
        }
    }

    /// Begins no exchange from now on.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    /// As [`Caller::close`], after beginning what was due before `end`, however late: an open schedule leaves nothing out.
    pub(super) fn close_at(&mut self, now: Instant, end: Instant, out: &mut Outbox) {
        while !self.closing
            && let Pacing::Rate(schedule) = &mut self.pacing
            && schedule.next() < end
        {
            let Some(due) = schedule.take(now) else { break };
            self.begin_late(now, due, out);
        }
        self.closing = true;
    }

    /// Whether no exchange will be begun any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closing
    }

    pub(super) fn under_way(&self) -> u64 {
        (self.exchanges.len() - self.free.len()) as u64
    }

    /// Ends all calls that are held, as if their time were over, and holds none any more.
    pub(super) fn hang_up_all(&mut self, now: Instant, out: &mut Outbox) {
        self.hold = Duration::ZERO;
        for hold in std::mem::take(&mut self.holds) {
            self.end_hold(now, &hold, out);
        }
    }

    /// Counts what is still under way as failed, and takes calls back as far as that is possible.
    pub(super) fn give_up(&mut self, now: Instant, out: &mut Outbox) {
        self.closing = true;
        self.hang_up_all(now, out);
        for slot in 0..self.exchanges.len() as u32 {
            self.abandon(now, slot, Failure::Unfinished, out);
        }
    }

    /// Asks the balancer whether it is up.
    pub(super) fn ping(&mut self, attempt: u32, out: &mut Outbox) {
        let key = Key { run: self.run, slot: PING_SLOT, serial: attempt };
        let way = match self.connections {
            Some(connections) => Way::Stream(attempt % connections),
            None => Way::Datagram(self.balancer),
        };
        out.put(way, |buffer| self.requests.write_ping(key, buffer));
    }

    /// Whether the balancer's answer to a ping says that calls make sense.
    pub(super) fn is_balancer_up(&self) -> bool {
        self.pinged.is_some_and(|code| !matches!(code, 408 | 480 | 500..=599))
    }

    /// A message that came, from where an answer to it goes.
    pub(super) fn message(&mut self, now: Instant, bytes: &[u8], from: impl Into<Way>, out: &mut Outbox) {
        if scan::is_keep_alive(bytes) {
            return;
        }
        if bytes.starts_with(b"SIP/2.0 ") {
            self.answered(now, bytes, out);
        } else {
            self.asked(now, bytes, from.into(), out);
        }
    }

    /// A connection is over: what was under way on it is lost.
    pub(super) fn lost(&mut self, now: Instant, connection: u32, out: &mut Outbox) {
        for slot in 0..self.exchanges.len() as u32 {
            let Some(exchange) = self.exchanges.get(slot as usize) else { return };
            let key = self.key(slot, exchange.serial);
            if exchange.stage != Stage::Free && self.way(key) == Way::Stream(connection) {
                self.end(now, slot, Err(Failure::ConnectionLost), out);
            }
        }
    }

    /// Begins what is due, sends again what was not answered, and ends calls that were held long enough.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.begin_due(now, out);
        self.send_again(now, out);
        while self.holds.front().is_some_and(|hold| hold.at <= now) {
            let Some(hold) = self.holds.pop_front() else { break };
            self.end_hold(now, &hold, out);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let hold = self.holds.front().map(|hold| hold.at);
        let begin = match &self.pacing {
            Pacing::Rate(schedule) if !self.closing => Some(schedule.next()),
            _ => None,
        };
        [self.retries.next(), hold, begin].into_iter().flatten().min()
    }

    fn begin_due(&mut self, now: Instant, out: &mut Outbox) {
        while !self.closing {
            match &mut self.pacing {
                Pacing::Closed { concurrency } => {
                    if self.exchanges.len() >= *concurrency {
                        return;
                    }
                    let slot = self.new_slot(now);
                    self.begin(now, now, slot, out);
                }
                Pacing::Rate(schedule) => {
                    let Some(due) = schedule.take(now) else { return };
                    self.begin_late(now, due, out);
                }
            }
        }
    }

    /// Begins an exchange that was due at `due`, wherever there is room.
    fn begin_late(&mut self, now: Instant, due: Instant, out: &mut Outbox) {
        let counted = due >= self.measured_from;
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None if self.exchanges.len() < MOST_CALLS as usize => self.new_slot(now),
            None => {
                self.counts.not_started += u64::from(counted);
                return;
            }
        };
        if counted {
            self.counts.lateness.record(micros(due, now));
        }
        self.begin(now, due, slot, out);
    }

    fn new_slot(&mut self, now: Instant) -> u32 {
        let slot = self.exchanges.len() as u32;
        self.exchanges.push(Exchange {
            serial: 0,
            stage: Stage::Free,
            counted: false,
            asked_at: now,
            provisional: false,
            stored: Vec::new(),
            ack: Vec::new(),
        });
        slot
    }

    fn begin(&mut self, now: Instant, due: Instant, slot: u32, out: &mut Outbox) {
        let Some(exchange) = self.exchanges.get_mut(slot as usize) else { return };
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let counted = due >= self.measured_from;
        if counted {
            self.counts.started += 1;
            self.closing |= self.count.is_some_and(|count| self.counts.started >= count);
        }
        exchange.serial = serial;
        exchange.stage = Stage::First;
        exchange.counted = counted;
        exchange.asked_at = due;
        exchange.provisional = false;
        exchange.ack.clear();
        let key = self.key(slot, serial);
        let number = self.number(key);
        out.put(self.way(key), |buffer| self.requests.write_first(key, number, buffer));
        self.retries.begin(now, slot, serial, Stage::First);
    }

    fn send_again(&mut self, now: Instant, out: &mut Outbox) {
        while let Some(retry) = self.retries.due(now) {
            let Some(exchange) = self.exchanges.get(retry.slot as usize) else { continue };
            if exchange.serial != retry.serial || exchange.stage != retry.stage {
                continue;
            }
            if retry.is_hopeless(now) {
                self.abandon(now, retry.slot, Failure::Timeout, out);
                continue;
            }
            // A stream repeats by itself what was lost (RFC 3261 §17.1.1.2, §17.1.2.2).
            if !exchange.provisional && self.connections.is_none() {
                let key = self.key(retry.slot, retry.serial);
                let number = self.number(key);
                out.put(self.balancer, |buffer| match retry.stage {
                    Stage::First => self.requests.write_first(key, number, buffer),
                    _ => buffer.extend_from_slice(&exchange.stored),
                });
                self.messages.sent_again += 1;
            }
            self.retries.again(now, retry);
        }
    }

    fn end_hold(&mut self, now: Instant, hold: &Hold, out: &mut Outbox) {
        let key = self.key(hold.slot, hold.serial);
        if self.stage(key) == Stage::Holding {
            self.hang_up(now, key, out);
        }
    }

    /// Sends the stored BYE.
    fn hang_up(&mut self, now: Instant, key: Key, out: &mut Outbox) {
        let way = self.way(key);
        let Some(exchange) = self.exchanges.get_mut(key.slot as usize) else { return };
        exchange.stage = Stage::Ending;
        exchange.provisional = false;
        out.put(way, |buffer| buffer.extend_from_slice(&exchange.stored));
        self.retries.begin(now, key.slot, key.serial, Stage::Ending);
    }

    /// Ends an exchange that did not end by itself. A call that rings somewhere is taken back.
    fn abandon(&mut self, now: Instant, slot: u32, failure: Failure, out: &mut Outbox) {
        let Some(exchange) = self.exchanges.get(slot as usize) else { return };
        let (stage, serial) = (exchange.stage, exchange.serial);
        if stage == Stage::Free {
            return;
        }
        let is_opening = matches!(stage, Stage::First | Stage::Second);
        if self.kind == Kind::Call && is_opening && exchange.provisional {
            let key = self.key(slot, serial);
            let number = self.number(key);
            out.put(self.way(key), |buffer| {
                self.requests.write_cancel(key, number, stage == Stage::Second, buffer);
            });
        }
        self.end(now, slot, Err(failure), out);
    }

    fn end(&mut self, now: Instant, slot: u32, outcome: Result<(), Failure>, out: &mut Outbox) {
        let Some(exchange) = self.exchanges.get_mut(slot as usize) else { return };
        exchange.stage = Stage::Free;
        match outcome {
            Ok(()) if exchange.counted => self.counts.completed += 1,
            Err(failure) if exchange.counted => *self.counts.failed.entry(failure).or_default() += 1,
            Ok(()) => {}
            Err(_) => self.counts.warm_up_failures += 1,
        }
        if exchange.counted {
            self.counts.last_end = Some(now);
        }
        match self.pacing {
            Pacing::Closed { .. } if !self.closing => self.begin(now, now, slot, out),
            _ => self.free.push(slot),
        }
    }

    fn key(&self, slot: u32, serial: u32) -> Key {
        Key { run: self.run, slot, serial }
    }

    /// Of the user whose turn it is.
    fn number(&self, key: Key) -> u32 {
        let (_, user) = self.turn(key);
        self.first_user.wrapping_add(user)
    }

    /// Where the requests of an exchange go.
    fn way(&self, key: Key) -> Way {
        match self.connections {
            Some(_) => Way::Stream(self.turn(key).0),
            None => Way::Datagram(self.balancer),
        }
    }

    /// The connection of an exchange and its user, both counted from 0. A user keeps to one connection, as a phone does, and with so many
    /// exchanges at a time as there are connections each has one.
    fn turn(&self, key: Key) -> (u32, u32) {
        let Some(connections) = self.connections else { return (0, key.serial % self.users) };
        let turn = match self.pacing {
            Pacing::Closed { .. } => key.slot,
            Pacing::Rate(_) => key.serial,
        };
        let connection = turn % connections;
        if connection >= self.users {
            return (connection, connection % self.users);
        }
        let users = (self.users - 1 - connection) / connections + 1;
        (connection, connection + connections * (key.serial / connections % users))
    }

    /// The stage of the exchange that `key` names; `Free` if it is over.
    fn stage(&self, key: Key) -> Stage {
        self.exchanges
            .get(key.slot as usize)
            .filter(|exchange| exchange.serial == key.serial)
            .map_or(Stage::Free, |exchange| exchange.stage)
    }

    /// The request that the exchange waits for is answered.
    fn record_latency(&mut self, now: Instant, slot: u32) {
        if let Some(exchange) = self.exchanges.get(slot as usize)
            && exchange.counted
        {
            self.counts.latency.record(micros(exchange.asked_at, now));
        }
    }
}

fn micros(from: Instant, to: Instant) -> u64 {
    to.as_micros().saturating_sub(from.as_micros())
}

/// Of pings of the balancer itself: beyond all exchanges.
const PING_SLOT: u32 = u32::MAX;
