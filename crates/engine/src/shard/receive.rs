//! A datagram comes in: keep-alives, then parsing, then requests and responses part.

use super::large::DATAGRAM_OCTETS;
use super::{Core, FAREWELL};
use crate::context::{Cancel, Hop, Spare};
use crate::counters::Counter;
use crate::io::{Flow, Packet};
use crate::outage::Outage;
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

    /// The kernel returned a datagram of ours. Anybody can forge an ICMP error, so it counts only if what it quotes is what we
    /// sent to that address and still wait for. `by_peer`: else a limit of ours kept it back, and nobody is thought worse of.
    pub(super) fn undelivered(&mut self, running: &Running, now: Instant, flow: Flow, returned: &[u8], by_peer: bool) {
        let Some(branch) = self.quoted_branch(running, returned) else {
            return;
        };
        if branch.own {
            if by_peer {
                self.count(Counter::Unreachable);
            }
            match branch.attempt {
                FAREWELL => self.farewell_undelivered(&branch),
                _ if by_peer => self.ping_unreachable(now, &branch),
                _ => self.ping_unsent(now, &branch),
            }
            return;
        }
        let id = Id { index: branch.index, sequence: branch.sequence };
        let Some(mut context) = self.table.take(id) else {
            return;
        };
        let at = usize::from(branch.attempt);
        let concerned = context.branches.get(at).is_some_and(|attempt| {
            let waiting = !attempt.finished && !attempt.answered;
            waiting && attempt.flow.leads_like(&flow) && attempt.sent.starts_with(returned)
        });
        if concerned && self.takes_datagram_instead(now, &mut context, at) {
            self.settle(now, id, context);
            return;
        }
        if concerned {
            let attempt = &context.branches[at];
            if by_peer {
                self.count(Counter::Unreachable);
                // What only a stream can hold may have gone to a box that has none.
                if let Hop::Backend(state) = &attempt.hop
                    && attempt.sent.len() <= DATAGRAM_OCTETS
                {
                    let event = state.on_unreachable(now);
                    self.tell_if(now, event);
                }
                if !attempt.abandoned {
                    self.avoid_place(now, &context);
                }
            }
            let is_phone = matches!(attempt.hop, Hop::Peer) && attempt.flow.connection.is_some();
            let code = match context.spare.as_deref() {
                Some(Spare::Named) => 430,
                // A phone whose connection is gone is not there; what else fails to arrive is a server's failure (RFC 3261 §16.9).
                _ if is_phone => 480,
                // A limit of ours: the call goes on, as after any 500. Who says BYE is done with it all the same.
                _ if !by_peer && !context.kind.bye => 500,
                _ => 503,
            };
            self.branch_failed(running, now, id, &mut context, at, code);
        }
        self.settle(now, id, context);
    }

    /// The branch of a quoted request, which may be cut off anywhere: of a long one the kernel quotes half a kilobyte. A request of our
    /// own is short and must be proven by its Call-ID; a context keeps what it sent, which no stranger can quote.
    fn quoted_branch(&self, running: &Running, returned: &[u8]) -> Option<Branch> {
        let message = sip::message::parse_quoted(returned, &message_limits(running))?;
        let text = message.top_via()?.branch()?;
        let secrets = &self.shared.secrets;
        let unproven = secrets.read_branch_unproven(text)?;
        let branch = if unproven.own { secrets.read_branch(text, message.call_id()?)? } else { unproven };
        (!branch.stateless && branch.epoch == secrets.epoch).then_some(branch)
    }

    /// Backends that went down since the last time: their calls without a final answer move on.
    pub(super) fn follow_outages(&mut self, running: &Running, now: Instant) {
        if self.shared.outages.count() == self.outages_seen {
            return;
        }
        for outage in self.shared.outages.follow(&mut self.outages_seen) {
            self.leave_backend(running, now, outage);
            if outage.cut {
                self.end_calls(running, now, &outage);
            }
        }
    }

    fn leave_backend(&mut self, running: &Running, now: Instant, outage: Outage) {
        let Outage { backend, at: since, .. } = outage;
        let reach = running.backend(backend).map(|known| known.reach);
        for id in self.table.live_ids() {
            let Some(mut context) = self.table.take(id) else {
                continue;
            };
            let waiting = context.branches.iter().position(|branch| {
                let there = matches!(&branch.hop, Hop::Backend(state) if state.id() == backend);
                let cancelled = !matches!(branch.cancel, Cancel::NotWanted);
                there && branch.sent_at <= since && !branch.finished && !branch.abandoned && !cancelled
            });
            match waiting {
                Some(at) if context.kind.invite && !context.kind.in_dialog => {
                    self.give_up(running, now, id, &mut context, at);
                    if outage.cut && !context.branches[at].abandoned {
                        // There is nobody else, and a call that is answered now would outlive the cut: it ends as by Timer C
                        // (RFC 3261 §16.8), and the 487 goes up.
                        self.want_cancel(running, now, &mut context, at);
                    }
                }
                // Its sender waits 32 s, and would be told by us when it no longer listens.
                Some(_) if context.kind.in_dialog && context.failover_at.is_none() => {
                    context.failover_at = Some(now + super::start::DEAD_BOX_PATIENCE);
                }
                _ => {}
            }
            let began = context.branches.first().is_some_and(|first| first.sent_at <= since);
            if began && reach.is_some_and(|reach| reach.is_of(&context.upstream)) {
                self.cancel_orphan(running, now, &mut context);
            }
            self.settle(now, id, context);
        }
    }
}

pub(super) fn message_limits(running: &Running) -> Limits {
    Limits { message_bytes: running.settings.limits.message_bytes, headers: running.settings.limits.headers }
}
