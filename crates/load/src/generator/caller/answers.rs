//! What the caller makes of answers.

use super::{Caller, Hold, PING_SLOT};
use crate::generator::outbox::Outbox;
use crate::generator::retry::Stage;
use crate::generator::scan::{self, Answer, Key};
use crate::generator::settings::Kind;
use crate::report::Failure;
use sip::Instant;

impl Caller {
    pub(super) fn answered(&mut self, now: Instant, bytes: &[u8], out: &mut Outbox) {
        let answer = scan::answer(bytes);
        let Some((answer, key)) = answer.and_then(|answer| Some((answer, answer.key?))) else {
            self.messages.unexpected += 1;
            return;
        };
        if key.run != self.run {
            self.messages.strays += 1;
            return;
        }
        if key.slot == PING_SLOT {
            self.pinged = Some(answer.code).filter(|code| *code >= 200).or(self.pinged);
            return;
        }
        if answer.code != 100 {
            self.messages.received += 1;
        }
        let mut cseq = answer.cseq.splitn(2, |octet| *octet == b' ');
        let asked = if cseq.next() == Some(b"2".as_slice()) { Stage::Second } else { Stage::First };
        match cseq.next().unwrap_or_default().trim_ascii() {
            b"INVITE" => self.invite_answered(now, key, asked, &answer, bytes, out),
            b"REGISTER" | b"OPTIONS" => self.request_answered(now, key, asked, answer.code, bytes, out),
            b"BYE" => self.bye_answered(now, key, answer.code, out),
            // The answer to the INVITE that it took back says what is to be known.
            b"CANCEL" => {}
            _ => self.messages.unexpected += 1,
        }
    }

    fn invite_answered(
        &mut self,
        now: Instant,
        key: Key,
        asked: Stage,
        answer: &Answer<'_>,
        message: &[u8],
        out: &mut Outbox,
    ) {
        match answer.code {
            ..200 => self.progressed(key, asked),
            200..300 => self.call_answered(now, key, asked, answer, message, out),
            _ => {
                let number = self.number(key);
                out.put(self.way(key), |buffer| self.requests.write_refusal_ack(key, number, answer, buffer));
                self.refused(now, key, asked, answer.code, message, out);
            }
        }
    }

    fn progressed(&mut self, key: Key, asked: Stage) {
        if self.stage(key) == asked
            && let Some(exchange) = self.exchanges.get_mut(key.slot as usize)
        {
            exchange.provisional = true;
        }
    }

    fn call_answered(
        &mut self,
        now: Instant,
        key: Key,
        asked: Stage,
        answer: &Answer<'_>,
        message: &[u8],
        out: &mut Outbox,
    ) {
        let stage = self.stage(key);
        if stage != asked {
            self.call_answered_again(key, answer, message, out);
            return;
        }
        if answer.contact.is_empty() {
            self.end(now, key.slot, Err(Failure::UnexpectedAnswer), out);
            return;
        }
        self.record_latency(now, key.slot);
        let (number, way) = (self.number(key), self.way(key));
        let Some(exchange) = self.exchanges.get_mut(key.slot as usize) else { return };
        self.requests.write_ack(key, number, answer, message, &mut exchange.ack);
        exchange.stored.clear();
        self.requests.write_bye(key, number, answer, message, &mut exchange.stored);
        out.put(way, |buffer| buffer.extend_from_slice(&exchange.ack));
        if self.hold.is_zero() {
            self.hang_up(now, key, out);
        } else {
            exchange.stage = Stage::Holding;
            self.holds.push_back(Hold { at: now + self.hold, slot: key.slot, serial: key.serial });
        }
    }

    /// Our ACK was lost (RFC 3261 §13.2.2.4), or the call was given up before.
    fn call_answered_again(&mut self, key: Key, answer: &Answer<'_>, message: &[u8], out: &mut Outbox) {
        self.messages.received_again += 1;
        let Some(exchange) = self.exchanges.get(key.slot as usize) else { return };
        if exchange.serial != key.serial {
            return;
        }
        let way = self.way(key);
        if !exchange.ack.is_empty() {
            out.put(way, |buffer| buffer.extend_from_slice(&exchange.ack));
        } else if exchange.stage == Stage::Free && !answer.contact.is_empty() {
            // Nobody waits for this call any more: it shall not stay up at the other side.
            let number = self.number(key);
            out.put(way, |buffer| self.requests.write_ack(key, number, answer, message, buffer));
            out.put(way, |buffer| self.requests.write_bye(key, number, answer, message, buffer));
        }
    }

    fn request_answered(&mut self, now: Instant, key: Key, asked: Stage, code: u16, message: &[u8], out: &mut Outbox) {
        match code {
            ..200 => {}
            200..300 if self.stage(key) == asked => {
                self.record_latency(now, key.slot);
                self.end(now, key.slot, Ok(()), out);
            }
            200..300 => self.messages.received_again += 1,
            _ => self.refused(now, key, asked, code, message, out),
        }
    }

    fn bye_answered(&mut self, now: Instant, key: Key, code: u16, out: &mut Outbox) {
        match code {
            ..200 => {}
            _ if self.stage(key) != Stage::Ending => self.messages.received_again += 1,
            200..300 => self.end(now, key.slot, Ok(()), out),
            _ => self.end(now, key.slot, Err(Failure::Status(code)), out),
        }
    }

    /// The request that began the exchange got a final answer other than 2xx: the exchange goes on with credentials, or ends.
    fn refused(&mut self, now: Instant, key: Key, asked: Stage, code: u16, message: &[u8], out: &mut Outbox) {
        if self.stage(key) != asked {
            self.messages.received_again += 1;
            return;
        }
        self.record_latency(now, key.slot);
        let is_challenge = matches!(code, 401 | 407) && asked == Stage::First;
        if !(is_challenge && self.ask_again(now, key, message, out)) {
            self.end(now, key.slot, Err(Failure::Status(code)), out);
        }
    }

    /// Sends the request once more with what the challenge in `message` asks for; false if that is not to be had.
    fn ask_again(&mut self, now: Instant, key: Key, message: &[u8], out: &mut Outbox) -> bool {
        let (number, way) = (self.number(key), self.way(key));
        let authorization = match &self.accounts {
            Some(accounts) => match accounts.answer(message, number) {
                Some(line) => Some(line),
                None => return false,
            },
            None if self.kind == Kind::Register => None,
            None => return false,
        };
        let Some(exchange) = self.exchanges.get_mut(key.slot as usize) else { return false };
        exchange.stage = Stage::Second;
        exchange.asked_at = now;
        exchange.provisional = false;
        exchange.stored.clear();
        self.requests.write_again(key, number, authorization.as_deref(), &mut exchange.stored);
        out.put(way, |buffer| buffer.extend_from_slice(&exchange.stored));
        self.retries.begin(now, key.slot, key.serial, Stage::Second);
        true
    }
}
