//! Responses of our own (RFC 3261 §8.2.6): to requests that go no further, and for contexts that nobody else answers.

use super::Core;
use crate::context::Context;
use crate::counters::Counter;
use crate::decide::{Arrival, Refusal};
use crate::forward;
use crate::io::{Flow, Packet};
use crate::origin::Origin;
use crate::running::{FarmView, Running};
use sip::{Fault, Instant, Message, Method, Name, Value};
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

/// Answers to strangers are at most this much longer than what they sent.
const AMPLIFICATION: usize = 100;

/// A response to be written: code, and complete header lines.
#[derive(Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) code: u16,
    pub(super) lines: &'a [u8],
}

impl Answer<'static> {
    pub(super) fn code(code: u16) -> Self {
        Self { code, lines: b"" }
    }
}

impl Core {
    /// A message that is no proper request.
    pub(super) fn refuse_faulty(
        &mut self,
        running: &Running,
        now: Instant,
        farm: FarmView<'_>,
        flow: Flow,
        message: &Message<'_>,
        fault: Fault,
    ) {
        self.counters.add_fault(fault);
        let Some(code) = fault.status() else { return };
        if message.method() == Method::Ack {
            return;
        }
        let backend = farm.running.backend_at(farm.settings, &flow).is_some();
        self.answer(running, now, farm, flow, message, Answer::code(code), backend);
    }

    /// Why a proper request goes no further.
    pub(super) fn refuse(&mut self, running: &Running, now: Instant, arrival: &Arrival<'_>, refusal: Refusal) {
        let mut line = Vec::new();
        let code = match refusal {
            Refusal::Silence => return,
            Refusal::Forged => {
                self.count(Counter::ForgedTokens);
                403
            }
            Refusal::SipsNotAllowed => self.refuse_sips(arrival, b"380", b"SIPS Not Allowed", &mut line),
            Refusal::SipsRequired => self.refuse_sips(arrival, b"381", b"SIPS Required", &mut line),
            Refusal::Status(code) => {
                if code == 404 {
                    self.count(Counter::NoService);
                }
                code
            }
            Refusal::Overloaded => {
                self.count(Counter::NoBackend);
                self.retry_after(arrival.message.method(), &mut line);
                503
            }
        };
        let answer = Answer { code, lines: &line };
        self.reply(running, now, arrival, answer);
    }

    /// RFC 5630 §5.3: a status that everybody knows, and the reason as a Warning (RFC 3261 §20.43) by our name.
    fn refuse_sips(&self, arrival: &Arrival<'_>, code: &[u8], text: &[u8], line: &mut Vec<u8>) -> u16 {
        self.count(Counter::SipsRefused);
        let ours = arrival.farm.written(arrival.listener, arrival.flow.local, arrival.origin.is_backend());
        for part in [&b"Warning: "[..], code, b" ", ours.host(), b" \"", text, b"\"\r\n"] {
            line.extend_from_slice(part);
        }
        480
    }

    /// Answers without keeping state (RFC 3261 §8.2.7). An ACK is never answered.
    pub(super) fn reply(&mut self, running: &Running, now: Instant, arrival: &Arrival<'_>, answer: Answer<'_>) {
        if arrival.message.method() == Method::Ack {
            return;
        }
        let known = arrival.origin != Origin::Client;
        let (farm, flow) = (arrival.farm, arrival.flow);
        self.answer(running, now, farm, flow, arrival.message, answer, known);
    }

    #[expect(clippy::too_many_arguments, reason = "one place where every answer of ours is judged and sent")]
    pub(super) fn answer(
        &mut self,
        running: &Running,
        now: Instant,
        farm: FarmView<'_>,
        flow: Flow,
        message: &Message<'_>,
        answer: Answer<'_>,
        known_sender: bool,
    ) {
        let throttled = answer.code >= 300 && !known_sender;
        if throttled && !self.shared.admits_error(now, flow.remote.ip(), &running.settings.limits) {
            self.count(Counter::AnswersWithheld);
            return;
        }
        let Some(via) = message.top_via() else { return };
        let upstream = forward::upstream(farm, flow, &via, via.rport().is_some());
        if !is_safe(&upstream) {
            self.count(Counter::UnsafeDestination);
            return;
        }
        let tag = self.own_tag(message.call_id().unwrap_or_default(), via.branch());
        let mut written = std::mem::take(&mut self.scratch);
        written.clear();
        sip::build::response(message, answer.code, None, Some(&tag), answer.lines, &mut written);
        let packet = self.with_received(running, &written, flow);
        self.scratch = written;
        if !known_sender && packet.len() > message.bytes().len() + AMPLIFICATION {
            self.count(Counter::AnswersWithheld);
            return;
        }
        self.send(upstream, packet);
    }

    /// The answer of a context that nobody else answers, made from the request as we sent it on.
    pub(super) fn answer_context(
        &mut self,
        running: &Running,
        context: &Context,
        answer: Answer<'_>,
    ) -> Option<Packet> {
        let sent = context.branches.first()?.sent.clone();
        let message = sip::parse(&sent, &super::receive::message_limits(running)).ok()?;
        let tag = self.own_tag(message.call_id()?, message.top_via()?.branch());
        let mut written = std::mem::take(&mut self.scratch);
        written.clear();
        let tag = (answer.code != 100).then_some(&tag[..]);
        sip::build::response(&message, answer.code, None, tag, answer.lines, &mut written);
        let packet = self.without_top_via(running, &written);
        self.scratch = written;
        packet
    }

    /// RFC 3261 §8.2.6.2, one tag for every retransmission: derived, not drawn.
    pub(super) fn own_tag(&self, call_id: &[u8], branch: Option<&[u8]>) -> [u8; 16] {
        let mut hasher = self.shared.secrets.table_hasher();
        hasher.write(call_id);
        hasher.write(branch.unwrap_or_default());
        let hash = hasher.finish();
        std::array::from_fn(|at| b"0123456789abcdef"[(hash >> (60 - 4 * at)) as usize & 15])
    }

    /// RFC 3581 §4: our own answers name the source as well.
    fn with_received(&mut self, running: &Running, response: &[u8], flow: Flow) -> Packet {
        let limits = super::receive::message_limits(running);
        let Ok(message) = sip::parse(response, &limits) else {
            return Packet::copy_from(response);
        };
        self.edits.clear();
        if let Some(via) = message.top_via() {
            forward::mark_received(&message, &via, &via.parameters(), flow, &mut self.edits);
        }
        let mut out = Vec::with_capacity(response.len() + 48);
        self.edits.apply(message.bytes(), &mut out);
        Packet::copy_from(&out)
    }

    fn without_top_via(&mut self, running: &Running, response: &[u8]) -> Option<Packet> {
        let limits = super::receive::message_limits(running);
        let message = sip::parse(response, &limits).ok()?;
        let first: Value<'_> = message.values(Name::Via).next()?;
        self.edits.clear();
        self.edits.remove_values(&message, &[first]);
        let mut out = Vec::with_capacity(response.len());
        self.edits.apply(message.bytes(), &mut out);
        Some(Packet::copy_from(&out))
    }

    /// RFC 3261 §20.33, jittered so that phones do not come back together. For REGISTER and SUBSCRIBE only.
    pub(super) fn retry_after(&mut self, method: Method<'_>, line: &mut Vec<u8>) {
        if matches!(method, Method::Register | Method::Subscribe) {
            let seconds = 5 + self.next_random() % 10;
            line.extend_from_slice(format!("Retry-After: {seconds}\r\n").as_bytes());
        }
    }
}

/// May a response go there?
pub(super) fn is_safe(upstream: &Flow) -> bool {
    upstream.connection.is_some() || is_one_host(upstream.remote)
}

/// Never to many at once, never nowhere.
pub(super) fn is_one_host(remote: SocketAddr) -> bool {
    let address = remote.ip();
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !broadcast && !address.is_multicast() && !address.is_unspecified() && remote.port() != 0
}

#[cfg(test)]
mod tests {
    use super::is_one_host;
    use crate::settings::Settings;
    use crate::shard::Shard;
    use crate::shared::Shared;
    use crate::token::Secrets;
    use sip::Instant;

    /// SipHash-1-3 of Call-ID and branch under the key 00 01 … 0f, in sixteen hexadecimal digits.
    #[test]
    fn a_tag_is_the_hash_of_call_id_and_branch() {
        let contact_key = std::array::from_fn(|at| at as u8);
        let secrets = Secrets { key_id: 1, key: [1; 16], previous: None, contact_key, epoch: 1 };
        let shared = Shared::new(Settings::default(), secrets, 1, Instant::from_micros(0), 0, 1);
        let core = Shard::new(0, shared).core;
        let tag = |call_id: &[u8], branch: Option<&[u8]>| -> String {
            core.own_tag(call_id, branch).iter().map(|octet| char::from(*octet)).collect()
        };
        assert_eq!(tag(b"call-1", Some(b"z9hG4bKa")), "0ce82a475d0208e4");
        assert_eq!(tag(b"call-2", Some(b"z9hG4bKa")), "d7ccf9a4f7bc64ac");
        assert_eq!(tag(b"call-1", None), "4e65d1858eac5aa4");
    }

    #[test]
    fn answers_go_to_one_host_that_has_an_address() {
        for (remote, safe) in [
            ("192.0.2.1:5060", true),
            ("[2001:db8::1]:5060", true),
            ("255.255.255.254:1", true),
            ("223.255.255.255:65535", true),
            ("255.255.255.255:5060", false),
            ("224.0.0.1:5060", false),
            ("239.255.255.255:5060", false),
            ("[ff02::1]:5060", false),
            ("0.0.0.0:5060", false),
            ("[::]:5060", false),
            ("192.0.2.1:0", false),
        ] {
            assert_eq!(is_one_host(remote.parse().expect("a literal address")), safe, "{remote}");
        }
    }
}
