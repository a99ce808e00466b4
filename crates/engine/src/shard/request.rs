//! A request: RFC 3261 §17.2.3 (does it belong to a transaction we know?), then §16.3 (may it be forwarded?).

use super::Core;
use super::answer::Answer;
use crate::counters::Counter;
use crate::decide::{Arrival, Deaf, Decider, Decision, Refusal};
use crate::io::Flow;
use crate::origin::Origin;
use crate::register::Refreshing;
use crate::running::Running;
use crate::table::{Entry, Id, Tombstone};
use crate::token;
use sip::transaction::{KeyClass, ServerAction};
use sip::{Checked, Instant, Limits, Message, Method, Name, Scheme};
use std::hash::Hasher;

impl Core {
    pub(super) fn request(
        &mut self,
        running: &Running,
        now: Instant,
        flow: Flow,
        message: &Message<'_>,
        limits: &Limits,
    ) {
        // A listener that a reload took away may still have datagrams in its queue.
        let Some((farm, listener)) = running.listener(flow.listener) else {
            return;
        };
        let checked = match sip::check(message, limits) {
            Ok(checked) => checked,
            Err(fault) => {
                self.refuse_faulty(running, now, farm, flow, message, fault);
                return;
            }
        };
        let Some(&uri) = checked.uri() else { return };
        let origin = Origin::of(farm, listener, &flow);
        let arrival = Arrival { message: &checked, flow, farm, listener, origin, uri };
        if farm.settings.stateless {
            self.process(running, now, &arrival, 0);
            return;
        }
        if message.method() == Method::Cancel {
            self.cancel_arrived(running, now, &arrival);
            return;
        }
        let key = self.key(&arrival, KeyClass::Own);
        match self.table.find(key) {
            Some(id) => self.repeated(running, now, &arrival, key, id),
            None => self.process(running, now, &arrival, key),
        }
    }

    /// RFC 3261 §17.2.3 as a keyed hash, so that nobody can choose requests that collide.
    pub(super) fn key(&self, arrival: &Arrival<'_>, class: KeyClass) -> u64 {
        let mut hasher = self.shared.secrets.table_hasher();
        hasher.write_u32(arrival.farm.settings.id.0);
        // Phones that choose the same branch twice, or as others do, are told apart by what every message of one transaction repeats.
        hasher.write(arrival.message.call_id());
        hasher.write_u32(arrival.message.cseq().number);
        sip::transaction::key(arrival.message, &mut hasher, class);
        hasher.finish()
    }

    /// A retransmission, or the ACK of a failure.
    fn repeated(&mut self, running: &Running, now: Instant, arrival: &Arrival<'_>, key: u64, id: Id) {
        self.count(Counter::RetransmissionsReceived);
        self.sender_moved(now, arrival, id);
        if let Some(Entry::Over(tombstone)) = self.table.entry(id) {
            let tombstone = tombstone.clone();
            self.repeated_after_end(running, now, arrival, key, id, &tombstone);
            return;
        }
        let Some(mut context) = self.table.take(id) else {
            return;
        };
        let is_ack = arrival.message.method() == Method::Ack;
        let action = if is_ack { context.server.on_ack(now, &super::TIMING) } else { context.server.on_request() };
        match action {
            ServerAction::Retransmit => {
                if let Some(packet) = context.last_response.clone() {
                    self.send(context.upstream, packet);
                }
            }
            ServerAction::PassUp => self.process(running, now, arrival, key),
            _ => {}
        }
        self.settle(now, id, context);
    }

    /// A NAT may have moved the sender since its request came first: it is answered where it is now, and so is its dialog's peer.
    pub(super) fn sender_moved(&mut self, now: Instant, arrival: &Arrival<'_>, id: Id) {
        let upstream =
            crate::forward::upstream(arrival.farm, arrival.flow, arrival.message.via(), arrival.message.asks_rport());
        let from_peer = !arrival.origin.is_backend();
        let mut binding = 0;
        let known = match self.table.entry(id) {
            Some(Entry::Live(context)) => {
                let known = std::mem::replace(&mut context.upstream, upstream);
                // A dialog that some branch may still make begins with where the caller is now.
                let notes = context.branches.iter_mut().filter_map(|branch| branch.dialog.as_mut());
                for note in notes.filter(|note| from_peer && note.key.from_peer && known != upstream) {
                    note.peer = arrival.flow;
                    binding = note.binding;
                }
                known
            }
            Some(Entry::Over(tombstone)) => {
                let known = tombstone.moved_to.as_deref().copied().unwrap_or(tombstone.first_upstream);
                tombstone.moved_to = (upstream != tombstone.first_upstream).then(|| Box::new(upstream));
                known
            }
            Some(Entry::Busy) | None => return,
        };
        if known != upstream && from_peer {
            self.peer_moved(now, binding, arrival.flow);
            self.calling_peer_moved(now, arrival.flow, arrival.message);
        }
    }

    /// The answer has gone up already. The INVITE's 2xx is repeated by the callee itself (RFC 6026 §7.1); anything else goes to
    /// the backend once more by its old branch, and the backend repeats its answer.
    fn repeated_after_end(
        &mut self,
        running: &Running,
        now: Instant,
        arrival: &Arrival<'_>,
        key: u64,
        id: Id,
        tombstone: &Tombstone,
    ) {
        match arrival.message.method() {
            Method::Ack => self.process(running, now, arrival, key),
            Method::Invite => {}
            _ => self.forward_again(running, now, arrival, id, tombstone),
        }
    }

    /// RFC 3261 §16.3, then the decision.
    fn process(&mut self, running: &Running, now: Instant, arrival: &Arrival<'_>, key: u64) {
        if self.acknowledges_us(arrival.message) {
            return;
        }
        if let Some(answer) = self.validate(arrival) {
            let lines = answer.1;
            let answer = Answer { code: answer.0, lines: &lines };
            self.reply(running, now, arrival, answer);
            return;
        }
        let random = self.next_random();
        let mut decider = Decider { shared: &self.shared, running, now, random, trace: Deaf };
        if let Some(refreshing) = decider.refresh(arrival) {
            self.answer_refresh(running, now, arrival, &refreshing);
            return;
        }
        match decider.decide(arrival) {
            Decision::Alive => self.reply(running, now, arrival, Answer::code(200)),
            Decision::Refuse(refusal) => self.refuse(running, now, arrival, refusal),
            Decision::Forward(plan) => {
                let loop_hash = self.loop_hash(arrival, plan.followed);
                if self.has_looped(arrival.message, loop_hash) {
                    self.count(Counter::Loops);
                    self.reply(running, now, arrival, Answer::code(482));
                } else if arrival.farm.settings.stateless || arrival.message.method() == Method::Ack {
                    self.forward_stateless(running, now, arrival, &plan, loop_hash);
                } else {
                    self.start(running, now, arrival, plan, loop_hash, key);
                }
            }
        }
    }

    /// A phone that was told less than its backend granted has come back, and hears of it once more. As its flow is known, it is
    /// no stranger, and may get more octets than it sent.
    fn answer_refresh(&mut self, running: &Running, now: Instant, arrival: &Arrival<'_>, refreshing: &Refreshing<'_>) {
        self.count(Counter::RefreshesAnswered);
        let mut lines = Vec::new();
        let user = refreshing.candidate.asked.aor;
        self.shared.directory.with_person(user, |person| refreshing.write(now, person, &mut lines));
        let answer = Answer { code: 200, lines: &lines };
        self.answer(running, now, arrival.farm, arrival.flow, arrival.message, answer, true);
    }

    /// RFC 3261 §8.2.7: a refusal that kept no state is acknowledged to us, which its To tag tells, and to nobody behind us.
    fn acknowledges_us(&self, message: &Checked<'_>) -> bool {
        let own = || self.own_tag(message.call_id(), message.branch());
        message.method() == Method::Ack && message.to().tag.is_some_and(|tag| tag == &own()[..])
    }

    /// What makes a proper request unfit to be forwarded: the status and further header lines. The steps are those of §16.3.
    fn validate(&self, arrival: &Arrival<'_>) -> Option<(u16, Vec<u8>)> {
        let message = arrival.message;
        // 2. URI scheme.
        if matches!(arrival.uri.scheme, Scheme::Other(_)) {
            return Some((416, Vec::new()));
        }
        // 3. Max-Forwards.
        if message.max_forwards() == Some(0) {
            self.count(Counter::HopsExceeded);
            return Some((483, Vec::new()));
        }
        let breadth = message.first(Name::MaxBreadth);
        if breadth.is_some_and(|header| header.value == b"0") {
            return Some((440, Vec::new()));
        }
        // 4. The loop check needs the decision: see `has_looped`.
        // 5. Proxy-Require: there is no extension that this proxy must understand.
        let mut unsupported = Vec::new();
        for value in message.values(Name::ProxyRequire) {
            let separator: &[u8] = if unsupported.is_empty() { b"Unsupported: " } else { b", " };
            unsupported.extend_from_slice(separator);
            unsupported.extend_from_slice(value.bytes);
        }
        if unsupported.is_empty() {
            return None;
        }
        unsupported.extend_from_slice(b"\r\n");
        Some((420, unsupported))
    }

    /// RFC 5393 §4.2.1: all that the decision depended on. The sender is part of it, since a call that one box passes on to another
    /// comes through here again with the same Request-URI.
    pub(super) fn loop_hash(&self, arrival: &Arrival<'_>, followed: u64) -> u32 {
        let message = arrival.message;
        let mut hasher = self.shared.secrets.table_hasher();
        hasher.write(message.request_line().map_or(b"", |line| line.uri));
        hasher.write(message.call_id());
        hasher.write_u32(message.cseq().number);
        hasher.write_u64(followed);
        match arrival.origin {
            Origin::Client => hasher.write_u64(0),
            Origin::Trunk(index) => hasher.write_u64(1 + index as u64),
            Origin::Backend(_) => {
                hasher.write_u64(u64::from(arrival.origin.backend_id(arrival.farm).0) << 32);
            }
        }
        hasher.finish() as u32
    }

    /// RFC 5393 §4.2: did this request pass here before with the same outcome? Only Vias with our MAC are asked.
    fn has_looped(&self, message: &Checked<'_>, loop_hash: u32) -> bool {
        let ours_may_be_there = !message.is_from_its_author() || message.branch().is_some_and(token::looks_like_ours);
        ours_may_be_there
            && message.vias().any(|via| {
                via.branch()
                    .filter(|branch| token::looks_like_ours(branch))
                    .and_then(|branch| self.shared.secrets.read_branch(branch, message.call_id()))
                    .is_some_and(|branch| branch.loop_hash == loop_hash)
            })
    }

    /// The transaction table is full: a 503 that keeps no state.
    pub(super) fn at_transaction_limit(&mut self, running: &Running, now: Instant, arrival: &Arrival<'_>) {
        self.count(Counter::TransactionLimit);
        self.tell_limit(now, "transactions");
        self.refuse(running, now, arrival, Refusal::Overloaded);
    }
}
