//! The caller: begins exchanges at its pace and sees each through to its end.

use super::callee::MOST_CALLS;
use super::outbox::Outbox;
use super::retry::{Retries, Stage};
use super::scan::{self, Answer, Key};
use super::texts::CallerTexts;
use super::{Details, Kind, Pace, Settings};
use crate::histogram::Histogram;
use crate::report::Failure;
use sip::Instant;
use sip::digest::{self, Algorithm};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// One end of all exchanges. Pure: given datagrams and the time, it fills an outbox.
pub(super) struct Caller {
    run: u32,
    pace: Pace,
    balancer: SocketAddr,
    users: u32,
    hold: Duration,
    password: Option<String>,
    texts: CallerTexts,
    exchanges: Vec<Exchange>,
    /// Slots of exchanges that are over.
    free: Vec<u32>,
    retries: Retries,
    holds: VecDeque<Hold>,
    start: Instant,
    /// Exchanges that the rate has asked for.
    scheduled: u64,
    closing: bool,
    pub(super) counts: Counts,
}

/// What came of the exchanges so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) started: u64,
    pub(super) completed: u64,
    pub(super) failed: BTreeMap<Failure, u64>,
    pub(super) not_started: u64,
    pub(super) retransmissions: u64,
    pub(super) unexpected: u64,
    pub(super) received: u64,
    pub(super) latency: Histogram,
    pub(super) lateness: Histogram,
    /// When the last exchange ended.
    pub(super) last_end: Instant,
}

struct Exchange {
    serial: u32,
    stage: Stage,
    /// When the request that waits for its final answer was sent first.
    sent_at: Instant,
    /// The INVITE has an answer, so that it is not sent again.
    provisional: bool,
    /// The BYE, or the REGISTER with credentials.
    stored: Vec<u8>,
    ack: Vec<u8>,
}

/// A call that goes on until then.
struct Hold {
    at: Instant,
    slot: u32,
    serial: u32,
}

impl Caller {
    pub(super) fn new(run: u32, settings: &Settings, details: &Details, start: Instant) -> Self {
        let domain = details.domain.clone().unwrap_or_else(|| settings.balancer.to_string());
        Self {
            run,
            pace: settings.pace,
            balancer: settings.balancer,
            users: details.users.max(1),
            hold: details.hold,
            password: details.password.clone(),
            texts: CallerTexts::new(settings.kind, settings.caller, &domain),
            exchanges: Vec::new(),
            free: Vec::new(),
            retries: Retries::default(),
            holds: VecDeque::new(),
            start,
            scheduled: 0,
            closing: false,
            counts: Counts { last_end: start, ..Counts::default() },
        }
    }

    /// Begins no exchange from now on.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    pub(super) fn under_way(&self) -> u64 {
        (self.exchanges.len() - self.free.len()) as u64
    }

    /// Counts what is still under way as failed.
    pub(super) fn give_up(&mut self) {
        let unfinished = self.under_way();
        if unfinished > 0 {
            *self.counts.failed.entry(Failure::Unfinished).or_default() += unfinished;
        }
    }

    pub(super) fn datagram(&mut self, now: Instant, bytes: &[u8], out: &mut Outbox) {
        if bytes.iter().all(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            // A keep-alive.
            return;
        }
        let answer = scan::answer(bytes);
        let Some((answer, key)) = answer.and_then(|answer| Some((answer, answer.key?))) else {
            self.counts.unexpected += 1;
            return;
        };
        if key.run != self.run {
            self.counts.unexpected += 1;
            return;
        }
        if answer.code != 100 {
            self.counts.received += 1;
        }
        let mut cseq = answer.cseq.splitn(2, |octet| *octet == b' ');
        let number = cseq.next().unwrap_or_default();
        let method = cseq.next().unwrap_or_default().trim_ascii();
        match method {
            b"INVITE" => self.invite_answered(now, key, &answer, bytes, out),
            b"BYE" => self.answered(now, key, Stage::Ending, answer.code, out),
            b"OPTIONS" => self.answered(now, key, Stage::First, answer.code, out),
            b"REGISTER" if number == b"1" => self.register_answered(now, key, &answer, bytes, out),
            b"REGISTER" => self.answered(now, key, Stage::Second, answer.code, out),
            _ => self.counts.unexpected += 1,
        }
    }

    /// Begins what is due, sends again what was not answered, and ends calls that were held long enough.
    pub(super) fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.begin_due(now, out);
        while let Some(retry) = self.retries.due(now) {
            let Some(exchange) = self.exchanges.get(retry.slot as usize) else { continue };
            if exchange.serial != retry.serial || exchange.stage != retry.stage {
                continue;
            }
            if retry.is_hopeless(now) {
                self.end(now, retry.slot, Err(Failure::Timeout), out);
                continue;
            }
            if !exchange.provisional {
                self.counts.retransmissions += 1;
                let key = Key { run: self.run, slot: retry.slot, serial: retry.serial };
                let (texts, user) = (&self.texts, key.serial % self.users);
                out.put(self.balancer, |buffer| match retry.stage {
                    Stage::First => texts.write_first(key, user, buffer),
                    _ => buffer.extend_from_slice(&exchange.stored),
                });
            }
            self.retries.again(now, retry);
        }
        while self.holds.front().is_some_and(|hold| hold.at <= now) {
            let Some(hold) = self.holds.pop_front() else { break };
            let key = Key { run: self.run, slot: hold.slot, serial: hold.serial };
            if self.stage(key) == Stage::Holding {
                self.hang_up(now, key, out);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let hold = self.holds.front().map(|hold| hold.at);
        [self.retries.next(), hold, self.next_begin()].into_iter().flatten().min()
    }

    fn next_begin(&self) -> Option<Instant> {
        match self.pace {
            Pace::Rate { per_second } if !self.closing => Some(self.scheduled_at(self.scheduled, per_second)),
            _ => None,
        }
    }

    /// When the exchange with this number is to begin.
    fn scheduled_at(&self, number: u64, per_second: f64) -> Instant {
        let seconds = number as f64 / per_second.max(LEAST_RATE);
        self.start + Duration::from_micros((seconds * 1e6).round() as u64)
    }

    fn begin_due(&mut self, now: Instant, out: &mut Outbox) {
        if self.closing {
            return;
        }
        match self.pace {
            Pace::Closed { concurrency } => {
                while self.exchanges.len() < concurrency.clamp(1, MOST_CALLS as usize) {
                    let slot = self.new_slot(now);
                    self.begin(now, slot, out);
                }
            }
            Pace::Rate { per_second } => loop {
                let due = self.scheduled_at(self.scheduled, per_second);
                if due > now {
                    break;
                }
                self.scheduled += 1;
                self.counts.lateness.record(micros(due, now));
                if let Some(slot) = self.free.pop() {
                    self.begin(now, slot, out);
                } else if self.exchanges.len() < MOST_CALLS as usize {
                    let slot = self.new_slot(now);
                    self.begin(now, slot, out);
                } else {
                    self.counts.not_started += 1;
                }
            },
        }
    }

    fn new_slot(&mut self, now: Instant) -> u32 {
        let slot = self.exchanges.len() as u32;
        self.exchanges.push(Exchange {
            serial: 0,
            stage: Stage::Free,
            sent_at: now,
            provisional: false,
            stored: Vec::new(),
            ack: Vec::new(),
        });
        slot
    }

    fn begin(&mut self, now: Instant, slot: u32, out: &mut Outbox) {
        let serial = self.counts.started as u32;
        self.counts.started += 1;
        let Some(exchange) = self.exchanges.get_mut(slot as usize) else { return };
        exchange.serial = serial;
        exchange.stage = Stage::First;
        exchange.sent_at = now;
        exchange.provisional = false;
        let key = Key { run: self.run, slot, serial };
        let (texts, user) = (&self.texts, serial % self.users);
        out.put(self.balancer, |buffer| texts.write_first(key, user, buffer));
        self.retries.begin(now, slot, serial, Stage::First);
    }

    /// The stage of the exchange that `key` names; `Free` if it is over.
    fn stage(&self, key: Key) -> Stage {
        self.exchanges
            .get(key.slot as usize)
            .filter(|exchange| exchange.serial == key.serial)
            .map_or(Stage::Free, |exchange| exchange.stage)
    }

    fn invite_answered(&mut self, now: Instant, key: Key, answer: &Answer<'_>, message: &[u8], out: &mut Outbox) {
        let stage = self.stage(key);
        let Some(exchange) = self.exchanges.get_mut(key.slot as usize) else { return };
        let user = key.serial % self.users;
        let texts = &self.texts;
        match (answer.code, stage) {
            (..200, Stage::First) => exchange.provisional = true,
            (..200, _) => {}
            (200..300, Stage::First) => {
                self.counts.latency.record(micros(exchange.sent_at, now));
                exchange.ack.clear();
                texts.write_ack(key, user, answer, message, &mut exchange.ack);
                exchange.stored.clear();
                texts.write_bye(key, user, answer, message, &mut exchange.stored);
                out.put(self.balancer, |buffer| buffer.extend_from_slice(&exchange.ack));
                if self.hold.is_zero() {
                    self.hang_up(now, key, out);
                } else {
                    exchange.stage = Stage::Holding;
                    self.holds.push_back(Hold { at: now + self.hold, slot: key.slot, serial: key.serial });
                }
            }
            (200..300, Stage::Holding | Stage::Ending) => {
                // Our ACK was lost (RFC 3261 §13.2.2.4).
                out.put(self.balancer, |buffer| buffer.extend_from_slice(&exchange.ack));
            }
            // The call was given up, or has ended meanwhile.
            (200..300, _) => {}
            _ => {
                out.put(self.balancer, |buffer| texts.write_refusal_ack(key, user, answer.to, buffer));
                if stage == Stage::First {
                    self.counts.latency.record(micros(exchange.sent_at, now));
                    self.end(now, key.slot, Err(Failure::Status(answer.code)), out);
                }
            }
        }
    }

    /// Sends the stored BYE.
    fn hang_up(&mut self, now: Instant, key: Key, out: &mut Outbox) {
        let Some(exchange) = self.exchanges.get_mut(key.slot as usize) else { return };
        exchange.stage = Stage::Ending;
        exchange.provisional = false;
        out.put(self.balancer, |buffer| buffer.extend_from_slice(&exchange.stored));
        self.retries.begin(now, key.slot, key.serial, Stage::Ending);
    }

    /// The answer to the first REGISTER: the challenge, or the registration at once.
    fn register_answered(&mut self, now: Instant, key: Key, answer: &Answer<'_>, message: &[u8], out: &mut Outbox) {
        if !matches!(answer.code, 401 | 407) {
            self.answered(now, key, Stage::First, answer.code, out);
            return;
        }
        if self.stage(key) != Stage::First {
            return;
        }
        let user = key.serial % self.users;
        let authorization = match &self.password {
            None => None,
            Some(password) => match credentials(message, user, password, self.texts.register_uri()) {
                Some(line) => Some(line),
                None => {
                    self.end(now, key.slot, Err(Failure::Status(answer.code)), out);
                    return;
                }
            },
        };
        let Some(exchange) = self.exchanges.get_mut(key.slot as usize) else { return };
        self.counts.latency.record(micros(exchange.sent_at, now));
        exchange.stage = Stage::Second;
        exchange.sent_at = now;
        exchange.stored.clear();
        self.texts.write_register_again(key, user, authorization.as_deref(), &mut exchange.stored);
        out.put(self.balancer, |buffer| buffer.extend_from_slice(&exchange.stored));
        self.retries.begin(now, key.slot, key.serial, Stage::Second);
    }

    /// The answer to a request that an exchange at `stage` waits for, and that ends the exchange.
    fn answered(&mut self, now: Instant, key: Key, stage: Stage, code: u16, out: &mut Outbox) {
        if code < 200 || self.stage(key) != stage {
            return;
        }
        if stage != Stage::Ending
            && let Some(exchange) = self.exchanges.get(key.slot as usize)
        {
            self.counts.latency.record(micros(exchange.sent_at, now));
        }
        let outcome = if code < 300 { Ok(()) } else { Err(Failure::Status(code)) };
        self.end(now, key.slot, outcome, out);
    }

    fn end(&mut self, now: Instant, slot: u32, outcome: Result<(), Failure>, out: &mut Outbox) {
        match outcome {
            Ok(()) => self.counts.completed += 1,
            Err(failure) => *self.counts.failed.entry(failure).or_default() += 1,
        }
        self.counts.last_end = now;
        if let Some(exchange) = self.exchanges.get_mut(slot as usize) {
            exchange.stage = Stage::Free;
        }
        match self.pace {
            Pace::Closed { .. } if !self.closing => self.begin(now, slot, out),
            _ => self.free.push(slot),
        }
    }
}

/// The header line that answers the challenge in `message` (RFC 8760); `None` if there is none that can be answered.
fn credentials(message: &[u8], user: u32, password: &str, uri: &str) -> Option<String> {
    let message = sip::parse(message, &sip::Limits::default()).ok()?;
    let challenge = digest::strongest(message.challenges())?;
    let username = format!("u{user:08}");
    let answer = digest::Answer {
        algorithm: challenge.algorithm().map_or(Some(Algorithm::Md5), Algorithm::from_token)?,
        username: &username,
        realm: challenge.realm()?,
        password,
        nonce: challenge.nonce()?,
        method: b"REGISTER",
        uri: uri.as_bytes(),
        qop_auth: challenge.qop().filter(|qop| digest::offers_auth(qop)).map(|_| (1, CLIENT_NONCE)),
    };
    Some(digest::authorization(&answer, challenge.proxy, challenge.opaque()))
}

fn micros(from: Instant, to: Instant) -> u64 {
    to.as_micros().saturating_sub(from.as_micros())
}

/// A client nonce that everybody may know: a load proves nothing to anybody.
const CLIENT_NONCE: &[u8] = b"tandem-load";
/// One exchange in a quarter of an hour.
const LEAST_RATE: f64 = 0.001;

impl Kind {
    /// As in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Register => "registration",
            Self::Options => "ping",
        }
    }
}
