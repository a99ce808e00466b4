//! RFC 3261 §16.10 and §9: a CANCEL that comes in, and those that go out.

use super::answer::Answer;
use super::{Core, TIMING};
use crate::context::{Cancel, Context};
use crate::decide::Arrival;
use crate::io::Packet;
use crate::running::Running;
use sip::transaction::{KeyClass, OtherClient};
use sip::{Checked, Instant, Name};
use std::time::Duration;

/// RFC 3261 §9.1: 64 × T1 without a final answer after a CANCEL counts as 487.
const CANCEL_PATIENCE: Duration = Duration::from_secs(32);

impl Core {
    /// CANCEL is hop by hop: answered here, and passed on to each branch that may still ring.
    pub(super) fn cancel_arrived(&mut self, running: &Running, now: Instant, arrival: &Arrival<'_>) {
        let key = self.key(arrival, KeyClass::Cancelled);
        let Some(id) = self.table.find(key) else {
            self.reply(running, now, arrival, Answer::code(481));
            return;
        };
        self.sender_moved(now, arrival, id);
        self.reply(running, now, arrival, Answer::code(200));
        let Some(mut context) = self.table.take(id) else {
            // The call was answered already: the CANCEL came too late to mean anything (§9.2).
            return;
        };
        // RFC 3326 §2: the reason is for the callee.
        let mut reasons = Vec::new();
        for header in arrival.message.all(Name::Reason) {
            if let Some(line) = arrival.message.bytes().get(header.line.range()) {
                reasons.extend_from_slice(line);
            }
        }
        self.cancel_all(running, now, &mut context, &reasons);
        self.settle(now, id, context);
    }

    /// The box that sent this INVITE is down: nobody is left to take its answer, and what rings for it rings in vain, perhaps beside a
    /// second call of the same caller that another box sends.
    pub(super) fn cancel_orphan(&mut self, running: &Running, now: Instant, context: &mut Context) {
        let reason = b"Reason: SIP;cause=503;text=\"The calling server is down\"\r\n";
        self.cancel_all(running, now, context, reason);
    }

    fn cancel_all(&mut self, running: &Running, now: Instant, context: &mut Context, reasons: &[u8]) {
        if !context.kind.invite || context.server_is_done() {
            return;
        }
        context.cancelled = true;
        context.failover_at = None;
        context.placement = None;
        for at in 0..context.branches.len() {
            self.cancel_branch(running, now, context, at, reasons);
        }
    }

    /// Cancels every branch but one.
    pub(super) fn cancel_others(
        &mut self,
        running: &Running,
        now: Instant,
        context: &mut Context,
        winner: usize,
        reason: &[u8],
    ) {
        if !context.kind.invite {
            return;
        }
        for at in 0..context.branches.len() {
            if at != winner {
                self.cancel_branch(running, now, context, at, reason);
            }
        }
    }

    /// The CANCEL of a branch that was given up for another backend.
    pub(super) fn want_cancel(&mut self, running: &Running, now: Instant, context: &mut Context, at: usize) {
        self.cancel_branch(running, now, context, at, b"");
    }

    /// §9.1: only after a provisional response; until one comes the CANCEL waits.
    fn cancel_branch(&mut self, running: &Running, now: Instant, context: &mut Context, at: usize, reason: &[u8]) {
        let branch = &mut context.branches[at];
        if branch.finished || matches!(branch.cancel, Cancel::Sent { .. }) {
            return;
        }
        context.cancel_reason = reason.into();
        let branch = &mut context.branches[at];
        branch.cancel = Cancel::Wanted;
        if branch.provisional {
            self.send_cancel(running, now, context, at);
        }
    }

    pub(super) fn send_cancel(&mut self, running: &Running, now: Instant, context: &mut Context, at: usize) {
        let branch = &mut context.branches[at];
        let limits = super::receive::message_limits(running);
        let Ok(sent) = sip::parse(&branch.sent, &limits) else {
            return;
        };
        self.scratch.clear();
        sip::build::cancel(&sent, &context.cancel_reason, &mut self.scratch);
        let packet = Packet::copy_from(&self.scratch);
        let to = branch.flow;
        branch.cancel = Cancel::Sent {
            client: OtherClient::start(now, running.link(&to), &TIMING),
            packet: packet.clone(),
            gives_up: now + CANCEL_PATIENCE,
        };
        self.send(to, packet);
    }

    /// The answer to a CANCEL of ours ends its retransmission; what counts is the INVITE's own answer.
    pub(super) fn cancel_answered(&mut self, now: Instant, context: &mut Context, at: usize, message: &Checked<'_>) {
        let code = message.status_line().map_or(200, |line| line.code);
        if let Cancel::Sent { client, .. } = &mut context.branches[at].cancel {
            *client = client.on_response(now, code, &TIMING).0;
        }
    }
}
