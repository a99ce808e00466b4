//! What the caller answers when it is asked: a real server sends requests to its users by itself, and one that gets no answer sends them
//! again and again, or takes the user for gone.

use super::Caller;
use crate::generator::outbox::{Outbox, Way};
use crate::generator::retry::Stage;
use crate::generator::scan::{self, Field, Key, lines};
use crate::report::Failure;
use sip::Instant;

impl Caller {
    pub(super) fn asked(&mut self, now: Instant, bytes: &[u8], from: Way, out: &mut Outbox) {
        let replies = &self.replies;
        let reply = match scan::method(bytes) {
            b"BYE" | b"OPTIONS" | b"NOTIFY" | b"INFO" | b"UPDATE" | b"MESSAGE" | b"PRACK" | b"CANCEL" => &replies.done,
            b"INVITE" => &replies.not_acceptable,
            // Of our refusal.
            b"ACK" => return,
            method => {
                self.messages.unexpected += 1;
                let is_request = !method.is_empty() && method.iter().all(u8::is_ascii_uppercase);
                if !is_request {
                    return;
                }
                &replies.not_allowed
            }
        };
        let key = call_id(bytes).and_then(Key::read);
        let tag = key.unwrap_or(NOBODY).digits();
        out.put(from, |buffer| reply.write(bytes, &tag, false, buffer));
        if let Some(key) = key.filter(|key| key.run == self.run) {
            self.messages.received += 1;
            if scan::method(bytes) == b"BYE" && self.stage(key) == Stage::Holding {
                self.end(now, key.slot, Err(Failure::HungUp), out);
            }
        }
    }
}

fn call_id(bytes: &[u8]) -> Option<&[u8]> {
    lines(bytes).find(|line| line.field == Field::CallId).map(|line| line.value)
}

/// For the tags of answers that belong to no exchange.
const NOBODY: Key = Key { run: 0, slot: 0, serial: 0 };
