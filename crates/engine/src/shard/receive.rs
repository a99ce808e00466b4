//! A datagram comes in: keep-alives, then parsing, then requests and responses part.

use super::Core;
use crate::context::{Cancel, Hop};
use crate::counters::Counter;
use crate::id::BackendId;
use crate::io::{Flow, Packet};
use crate::running::Running;
use crate::table::Id;
use crate::token::Branch;
use sip::{Instant, Limits};

impl Core {
    pub(super) fn receive(&mut self, running: &Running, now: Instant, flow: Flow, bytes: &[u8]) {
        if self.keep_alive(flow, bytes) {
            return;
        }
        let limits = message_limits(running);
        let message = match sip::parse(bytes, &limits) {
            Ok(message) => message,
            Err(fault) => {
                self.counters.add_fault(fault);
                return;
            }
        };
        if message.is_request() {
            self.count(Counter::Requests);
            self.request(running, now, flow, &message, &limits);
        } else {
            self.count(Counter::Responses);
            self.response(running, now, flow, &message, &limits);
        }
    }

    /// CRLF and NUL keep a NAT binding open, STUN (RFC 5626 §4.4.2) also asks whether we are there.
    fn keep_alive(&mut self, flow: Flow, bytes: &[u8]) -> bool {
        if sip::stun::is_stun(bytes) {
            self.count(Counter::KeepAlives);
            self.scratch.clear();
            if sip::stun::binding_response(bytes, flow.remote, &mut self.scratch) {
                let packet = Packet::copy_from(&self.scratch);
                self.send(flow, packet);
            }
            return true;
        }
        let silent = bytes.iter().all(|octet| matches!(octet, b'\r' | b'\n' | 0 | b' '));
        if silent {
            self.count(Counter::KeepAlives);
        }
        silent
    }

    /// The kernel returned a datagram of ours. Anybody can forge an ICMP error, so it counts only if what it quotes holds a branch
    /// that verifies and that is still waiting.
    pub(super) fn undelivered(&mut self, running: &Running, now: Instant, flow: Flow, returned: &[u8]) {
        let Some((branch, id)) = self.quoted_branch(running, returned) else {
            return;
        };
        self.count(Counter::Unreachable);
        if branch.own {
            self.ping_unreachable(now, &branch);
            return;
        }
        let Some(mut context) = self.table.take(id) else {
            return;
        };
        let at = usize::from(branch.attempt);
        let concerned = context
            .branches
            .get(at)
            .is_some_and(|attempt| !attempt.finished && !attempt.answered && attempt.flow.remote == flow.remote);
        if concerned {
            let attempt = &context.branches[at];
            if let Hop::Backend(state) = &attempt.hop {
                let event = state.on_unreachable(now);
                self.tell_if(event);
            }
            self.branch_failed(running, now, id, &mut context, at, 503);
        }
        self.settle(now, id, context);
    }

    /// The branch of a quoted request, which may be cut off anywhere.
    fn quoted_branch(&self, running: &Running, returned: &[u8]) -> Option<(Branch, Id)> {
        let limits = message_limits(running);
        let message = sip::message::parse_quoted(returned, &limits)?;
        let via = message.top_via()?;
        let branch = self.shared.secrets.read_branch(via.branch()?, message.call_id()?)?;
        let ours = !branch.stateless && branch.epoch == self.shared.secrets.epoch;
        ours.then_some((branch, Id { index: branch.index, sequence: branch.sequence }))
    }

    /// Backends that went down since the last time: their calls without a final answer move on.
    pub(super) fn follow_outages(&mut self, running: &Running, now: Instant) {
        let count = self.shared.outages.count();
        if count == self.outages_seen {
            return;
        }
        let fresh = self.shared.outages.since(self.outages_seen);
        self.outages_seen = count;
        for backend in fresh {
            self.leave_backend(running, now, backend);
        }
    }

    fn leave_backend(&mut self, running: &Running, now: Instant, backend: BackendId) {
        for id in self.table.live_ids() {
            let Some(mut context) = self.table.take(id) else {
                continue;
            };
            let waiting = context.branches.iter().position(|branch| {
                let there = matches!(&branch.hop, Hop::Backend(state) if state.id() == backend);
                let cancelled = !matches!(branch.cancel, Cancel::NotWanted);
                there && !branch.finished && !branch.abandoned && !cancelled
            });
            if let Some(at) = waiting
                && context.kind.invite
                && !context.kind.in_dialog
            {
                self.give_up(running, now, id, &mut context, at);
            }
            self.settle(now, id, context);
        }
    }
}

pub(super) fn message_limits(running: &Running) -> Limits {
    Limits { message_bytes: running.settings.limits.message_bytes, headers: running.settings.limits.headers }
}
