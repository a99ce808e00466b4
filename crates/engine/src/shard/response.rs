//! RFC 3261 §16.7: what a response does. Its steps in their order: find the context, Timer C, remove our Via, add it to the
//! context, forward it at once or choose the best, cancel what is pending.

use super::{Core, FAREWELL, TIMING};
use crate::context::{Cancel, Context, Hop};
use crate::counters::Counter;
use crate::directory::Dialogs;
use crate::identity::{tag_key, text_key};
use crate::io::{Flow, Packet};
use crate::running::Running;
use crate::table::{Entry, Id, Tombstone};
use crate::token::{self, Branch};
use sip::transaction::ClientAction;
use sip::{Checked, Instant, Limits, Message, Method};
use std::time::Duration;

/// RFC 3261 §17: how long transactions of a process before this one may still be answered.
const TRANSACTION_LIFE: Duration = Duration::from_secs(32);

impl Core {
    pub(super) fn response(
        &mut self,
        running: &Running,
        now: Instant,
        flow: Flow,
        message: &Message<'_>,
        limits: &Limits,
    ) {
        let checked = match sip::check(message, limits) {
            Ok(checked) => checked,
            Err(fault) => {
                // A response is never answered (RFC 3261 §8.1.3.4).
                self.counters.add_fault(fault);
                return;
            }
        };
        let message = &checked;
        let Some(branch) = self.own_branch(message) else {
            // RFC 3261 §18.1.2.
            self.count(Counter::StrayResponses);
            return;
        };
        if branch.own {
            if branch.attempt == FAREWELL {
                self.farewell_answered(now, &branch, message);
            } else {
                self.pong(running, now, flow, &branch, message);
            }
            return;
        }
        if branch.stateless {
            self.forward_by_token(now, message, &branch);
            return;
        }
        if branch.epoch != self.shared.secrets.epoch {
            self.foreign_epoch(running, now, flow, message, &branch);
            return;
        }
        let id = Id { index: branch.index, sequence: branch.sequence };
        if let Some(Entry::Over(tombstone)) = self.table.entry(id) {
            let tombstone = tombstone.clone();
            self.after_end(now, flow, message, &branch, &tombstone);
            return;
        }
        // 1. Find the response context.
        let Some(mut context) = self.table.take(id) else {
            // RFC 6026 §7.2: it would be a response to nothing.
            self.count(Counter::StrayResponses);
            return;
        };
        let at = usize::from(branch.attempt);
        if at < context.branches.len() {
            if message.method() == Method::Cancel {
                self.cancel_answered(now, &mut context, at, message);
            } else {
                self.on_branch(running, now, id, &mut context, at, flow, message);
            }
        }
        self.settle(now, id, context);
    }

    /// Our topmost Via, verified.
    fn own_branch(&self, message: &Checked<'_>) -> Option<Branch> {
        let text = message.branch().filter(|text| token::looks_like_ours(text))?;
        self.shared.secrets.read_branch(text, message.call_id())
    }

    /// A transaction of a process before this one, or of another unit. Calls must not be lost; other requests are repeated by
    /// their senders once their time is over.
    fn foreign_epoch(&mut self, running: &Running, now: Instant, flow: Flow, message: &Checked<'_>, branch: &Branch) {
        let young = now.saturating_since(self.shared.started) <= TRANSACTION_LIFE;
        let invite = message.method() == Method::Invite;
        if invite && message.status_line().is_some_and(|line| (200..300).contains(&line.code)) {
            self.adopt_dialog(running, now, flow, message);
        }
        if invite || young {
            self.forward_by_token(now, message, branch);
        } else {
            self.count(Counter::StrayResponses);
        }
    }

    /// A retransmission for a transaction that is over: a 2xx of an INVITE must reach the caller each time, whichever branch it came
    /// by, and a repeated request's answer its sender. What another branch of a non-INVITE says would be a second final answer.
    fn after_end(&mut self, now: Instant, flow: Flow, message: &Checked<'_>, branch: &Branch, tombstone: &Tombstone) {
        let code = message.status_line().map_or(0, |line| line.code);
        let success = (200..300).contains(&code);
        if tombstone.invite && !success {
            self.count(Counter::StrayResponses);
        } else if code >= 200 && (tombstone.invite || branch.attempt == tombstone.attempt) {
            if tombstone.invite && tombstone.backend.0 == 0 {
                self.heard_again(now, flow, message);
            }
            let upstream = tombstone.moved_to.as_deref().copied().unwrap_or(branch.upstream);
            self.forward_by_token(now, message, &Branch { upstream, ..*branch });
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one response and everything it belongs to")]
    fn on_branch(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        at: usize,
        flow: Flow,
        message: &Checked<'_>,
    ) {
        let code = message.status_line().map_or(0, |line| line.code);
        self.heard_from(now, context, at, flow, code);
        self.learn(now, context, at, code);
        let branch = &mut context.branches[at];
        let action = branch.client.on_response(now, code, &TIMING);
        match action {
            ClientAction::PassUp => {}
            ClientAction::PassUpAndAck => {
                let sent = branch.sent.clone();
                let ack = self.ack_of(running, &sent, message);
                let branch = &mut context.branches[at];
                branch.ack.clone_from(&ack);
                let to = branch.flow;
                if let Some(ack) = ack {
                    self.send(to, ack);
                }
            }
            ClientAction::Ack => {
                if let Some(ack) = branch.ack.clone() {
                    let to = branch.flow;
                    self.send(to, ack);
                }
                return;
            }
            _ => return,
        }
        if code < 200 {
            self.provisional(running, now, context, at, message, code);
        } else if (200..300).contains(&code) {
            self.success(running, now, context, at, message);
        } else {
            self.failure(running, now, id, context, at, message, code);
        }
    }

    /// A phone whose NAT moved it while it rang answers from a new address; that it knows our branch proves it is the phone.
    fn heard_from(&mut self, now: Instant, context: &mut Context, at: usize, flow: Flow, code: u16) {
        let branch = &mut context.branches[at];
        if !branch.peer_has_moved(&flow) || code <= 100 {
            return;
        }
        branch.flow = flow;
        if let Some(note) = &mut branch.dialog {
            note.peer = flow;
            let note = *note;
            self.peer_moved(now, note.binding, flow);
            if let Some(to_tag) = note.to_tag {
                let directory = &self.shared.directory;
                directory.with_dialogs(note.key.call, |dialogs| dialogs.move_peer(&note.key, to_tag, flow));
            }
        }
    }

    /// A peer whose NAT moved it repeats its request, or cancels it, from a new address.
    pub(super) fn calling_peer_moved(&self, now: Instant, flow: Flow, message: &Checked<'_>) {
        self.follow_move(now, flow, message, Dialogs::move_sender);
    }

    /// The same for a 2xx that is repeated because its ACK went to the old address.
    pub(super) fn heard_again(&self, now: Instant, flow: Flow, message: &Checked<'_>) {
        self.follow_move(now, flow, message, Dialogs::move_called_peer);
    }

    /// The dialog that has this message's Call-ID and tags learns where its peer is now, and so does the peer's binding.
    fn follow_move(
        &self,
        now: Instant,
        flow: Flow,
        message: &Checked<'_>,
        learn: fn(&mut Dialogs, u64, u64, u64, Flow) -> Option<u64>,
    ) {
        let secrets = &self.shared.secrets;
        let call = text_key(secrets, message.call_id());
        let (from_tag, to_tag) = (tag_key(secrets, message.from().tag), tag_key(secrets, message.to().tag));
        let directory = &self.shared.directory;
        if let Some(binding) = directory.with_dialogs(call, |dialogs| learn(dialogs, call, from_tag, to_tag, flow)) {
            self.peer_moved(now, binding, flow);
        }
    }

    pub(super) fn peer_moved(&self, now: Instant, binding: u64, flow: Flow) {
        if binding != 0 {
            self.shared.directory.move_binding(now, binding, flow);
        }
    }

    /// What the answer says about its backend.
    fn learn(&mut self, now: Instant, context: &mut Context, at: usize, code: u16) {
        let branch = &mut context.branches[at];
        if let Hop::Backend(state) = &branch.hop {
            if !branch.answered {
                let elapsed = now.saturating_since(branch.sent_at);
                let event = state.on_answer(now, elapsed);
                self.outputs.extend(event.map(crate::io::Output::Event));
            }
            if code >= 200 && !branch.finished {
                let event = state.on_final_answer(now, code);
                self.outputs.extend(event.map(crate::io::Output::Event));
            }
        }
        branch.answered = true;
        if let Some(work) = &mut branch.work {
            work.answered();
        }
    }

    fn ack_of(&mut self, running: &Running, sent: &Packet, response: &Checked<'_>) -> Option<Packet> {
        let limits = super::receive::message_limits(running);
        let sent = sip::parse(sent, &limits).ok()?;
        self.scratch.clear();
        sip::build::ack(&sent, response, &mut self.scratch);
        Some(Packet::copy_from(&self.scratch))
    }

    fn provisional(
        &mut self,
        running: &Running,
        now: Instant,
        context: &mut Context,
        at: usize,
        message: &Checked<'_>,
        code: u16,
    ) {
        let branch = &mut context.branches[at];
        branch.provisional = true;
        // 2. Timer C.
        if branch.timer_c.is_some() && code > 100 {
            branch.timer_c = Some(now + TIMING.timer_c);
        }
        if matches!(branch.cancel, Cancel::Wanted) {
            self.send_cancel(running, now, context, at);
            return;
        }
        if context.branches[at].abandoned {
            self.want_cancel(running, now, context, at);
            return;
        }
        if !context.kind.invite {
            // RFC 4320 §4.1: no provisional answer to a non-INVITE but 100, and that is never forwarded.
            return;
        }
        context.failover_at = None;
        if code > 100 && !context.server_is_done() {
            // 5. Forwarded at once, until a final answer has gone up.
            let packet = self.edit_response(running, now, context, at, message);
            self.send_up(now, context, code, packet);
        }
    }

    /// A 2xx. Of an INVITE every one is forwarded at once, whatever came before (§16.7 step 5).
    fn success(&mut self, running: &Running, now: Instant, context: &mut Context, at: usize, message: &Checked<'_>) {
        let code = message.status_line().map_or(200, |line| line.code);
        let branch = &mut context.branches[at];
        let first = !branch.finished;
        branch.finish();
        context.failover_at = None;
        if !context.kind.invite {
            if !context.server_is_done() {
                context.answered_by = Some(at);
                let packet = self.edit_response(running, now, context, at, message);
                self.send_up(now, context, code, packet);
            }
            self.after_final(running, now, context, at, message, code);
            self.cancel_others(running, now, context, at, b"");
            return;
        }
        context.answered_by = Some(at);
        if first {
            self.begin_dialog(running, now, context, at, message);
        }
        let packet = self.edit_response(running, now, context, at, message);
        self.send_up(now, context, code, packet);
        if first {
            self.end_if_cut(running, now, &context.branches[at], message);
        }
        context.placement = None;
        // 10. RFC 3326: the others learn that they were late.
        let reason = b"Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n";
        self.cancel_others(running, now, context, at, reason);
    }

    #[expect(clippy::too_many_arguments, reason = "one response and everything it belongs to")]
    fn failure(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        at: usize,
        message: &Checked<'_>,
        code: u16,
    ) {
        let branch = &mut context.branches[at];
        if branch.finished {
            return;
        }
        branch.finish();
        let abandoned = branch.abandoned;
        // RFC 5626 §7.
        if code == 430 && self.next_flow(running, now, id, context, at) {
            return;
        }
        if !context.server_is_done() {
            // 4. Add the response to the context; an abandoned branch has nothing to say any more unless nobody else has.
            let packet = self.edit_response(running, now, context, at, message);
            if !abandoned || context.best.is_none() {
                self.keep_best(running, context, Some(at), code, packet);
            }
        }
        if code >= 600 {
            context.placement = None;
            self.cancel_others(running, now, context, at, b"");
        }
        self.after_final(running, now, context, at, message, code);
        if !abandoned && self.try_next(running, now, id, context, at, Some(code)) {
            return;
        }
        self.conclude(running, now, context);
    }

    /// A branch that ended without a response: its transport failed, or it timed out.
    pub(super) fn branch_failed(
        &mut self,
        running: &Running,
        now: Instant,
        id: Id,
        context: &mut Context,
        at: usize,
        code: u16,
    ) {
        let branch = &mut context.branches[at];
        branch.finish();
        // RFC 3261 §17.1.4: a response that still comes finds no transaction.
        branch.client.end();
        let abandoned = branch.abandoned;
        // RFC 5626 §7. Who waits for anything but an INVITE has given up when it times out.
        let unheard = !branch.answered && (code != 408 || context.kind.invite);
        if unheard && self.next_flow(running, now, id, context, at) {
            return;
        }
        if context.kind.in_dialog && matches!(code, 408 | 503) {
            self.dialog_timed_out(running, now, context, at);
            return;
        }
        if !abandoned && self.try_next(running, now, id, context, at, None) {
            return;
        }
        let silent = code == 408 && !context.kind.invite;
        if context.best.is_none() && !silent && !context.server_is_done() {
            // 9. A transport failure is a 503, and a lone 503 goes up as 500 (§16.7 step 6).
            let own = if code == 503 { 500 } else { code };
            let answer = super::answer::Answer::code(own);
            let packet = self.answer_context(running, context, answer);
            self.keep_best(running, context, None, own, packet);
        }
        self.conclude(running, now, context);
    }

    /// Every branch is done: the best answer goes up (§16.7 steps 6 and 9).
    pub(super) fn conclude(&mut self, running: &Running, now: Instant, context: &mut Context) {
        if !context.is_answered_by_all() || context.server_is_done() {
            return;
        }
        context.failover_at = None;
        context.placement = None;
        match context.best.take() {
            // RFC 4320 §4.2: never a 408 to a non-INVITE; its sender has timed out by itself.
            Some(best) if best.code == 408 && !context.kind.invite => context.server.end(),
            Some(best) => {
                context.answered_by = best.branch;
                self.send_up(now, context, best.code, Some(best.packet));
            }
            None if context.kind.invite => {
                let code = if context.cancelled { 487 } else { 408 };
                let answer = super::answer::Answer::code(code);
                let packet = self.answer_context(running, context, answer);
                self.send_up(now, context, code, packet);
            }
            None => context.server.end(),
        }
        for branch in &mut context.branches {
            branch.ticket = None;
        }
    }
}
