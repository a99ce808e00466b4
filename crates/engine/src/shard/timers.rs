//! What happens by itself: RFC 3261 §16.8 and the timers of §17, the sweep of the directory, the pings.

use super::{Core, TIMING, Timer};
use crate::context::{Cancel, ClientBranch, Context, Hop};
use crate::counters::Counter;
use crate::directory::Broom;
use crate::io::{ConnectionId, Packet};
use crate::running::Running;
use crate::table::{Entry, Id};
use sip::Instant;
use sip::transaction::{ClientAction, ServerAction};

impl Core {
    pub(super) fn start_sweeping(&mut self, now: Instant) {
        self.wheel.arm(now + self.broom.pause(), Timer::Sweep);
    }

    pub(super) fn turn(&mut self, running: &Running, now: Instant) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.turn(now, &mut due);
        for timer in due.drain(..) {
            match timer {
                Timer::Transaction(id) => self.transaction_due(running, now, id),
                Timer::Sweep => self.sweep(running, now),
                Timer::Ping => self.ping_due(now),
                Timer::Farewell(id) => self.farewell_due(now, id),
                Timer::Farewells => self.farewells_due(running, now),
            }
        }
        self.due = due;
    }

    fn transaction_due(&mut self, running: &Running, now: Instant, id: Id) {
        match self.table.entry(id) {
            Some(Entry::Over(tombstone)) => {
                let until = tombstone.until;
                if until <= now {
                    self.remove(id);
                } else {
                    self.wheel.arm(until, Timer::Transaction(id));
                }
                return;
            }
            Some(Entry::Live(_)) => {}
            Some(Entry::Busy) | None => return,
        }
        let Some(mut context) = self.table.take(id) else {
            return;
        };
        context.armed = None;
        self.context_due(running, now, id, &mut context);
        self.settle(now, id, context);
    }

    fn context_due(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context) {
        if context.trying_at.is_some_and(|at| at <= now) {
            self.send_trying(running, now, context);
        }
        for at in 0..context.branches.len() {
            self.branch_due(running, now, id, context, at);
        }
        if context.failover_at.is_some_and(|at| at <= now) {
            self.answer_overdue(running, now, id, context);
        }
        self.server_due(now, context);
    }

    fn server_due(&mut self, now: Instant, context: &mut Context) {
        if context.server.deadline().is_none_or(|at| at > now) {
            return;
        }
        let action = context.server.on_timer(now, &TIMING);
        if action == ServerAction::Retransmit
            && let Some(packet) = context.last_response.clone()
        {
            self.count(Counter::Retransmissions);
            self.send(context.upstream, packet);
        }
    }

    fn branch_due(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context, at: usize) {
        self.cancel_due(running, now, id, context, at);
        let branch = &mut context.branches[at];
        if branch.client.deadline().is_some_and(|due| due <= now) {
            let action = branch.client.on_timer(now, &TIMING);
            match action {
                ClientAction::Retransmit => {
                    self.follow_peer(now, branch);
                    let (flow, packet) = (branch.flow, branch.sent.clone());
                    self.count(Counter::Retransmissions);
                    self.send(flow, packet);
                }
                ClientAction::Timeout => self.branch_timed_out(running, now, id, context, at),
                _ => {}
            }
        }
        let branch = &mut context.branches[at];
        if branch.timer_c.is_some_and(|due| due <= now) {
            // §16.8: it rang for three minutes.
            branch.timer_c = None;
            self.want_cancel(running, now, context, at);
        }
    }

    /// A peer whose NAT moved it after a request within its dialog was sent may have been heard from its new address meanwhile: there
    /// the next copy finds it. To the peer it is the same request, branch and all.
    fn follow_peer(&self, now: Instant, branch: &mut ClientBranch) {
        if let (Some(note), Hop::Peer) = (branch.dialog.filter(|note| note.to_tag.is_some()), &branch.hop)
            && let Some(flow) = note.peer_now(&self.shared.directory, now)
            && branch.peer_has_moved(&flow)
        {
            branch.flow = flow;
        }
    }

    /// §16.8 and §16.9: no final answer came; for an INVITE that is as a 408.
    fn branch_timed_out(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context, at: usize) {
        self.count(Counter::TimedOut);
        let branch = &context.branches[at];
        if branch.finished {
            return;
        }
        if !branch.answered {
            if let Hop::Backend(state) = &branch.hop {
                let event = state.on_timeout(now);
                self.tell_if(now, event);
            }
            if !branch.abandoned {
                self.avoid_place(now, context);
            }
        }
        self.branch_failed(running, now, id, context, at, 408);
    }

    /// The other party of a dialog does not answer: 481, so that the phone hangs up or subscribes anew (RFC 3261 §12.2.1.2 lets
    /// it treat 408 alike, but a proxy must not send 408 to a non-INVITE).
    pub(super) fn dialog_timed_out(&mut self, running: &Running, now: Instant, context: &mut Context, at: usize) {
        let branch = &mut context.branches[at];
        branch.finish();
        let at_backend = matches!(branch.hop, Hop::Backend(_));
        // RFC 3261 §15.1.1: whoever sent a BYE that nobody answers is done with the dialog.
        if let Some(note) = branch.dialog
            && let Some(to_tag) = note.to_tag
            && (context.kind.bye || at_backend)
            && self.shared.directory.end_dialog(&note.key, to_tag)
        {
            self.count(Counter::CallsEnded);
        }
        let code = match (at_backend, context.kind.invite) {
            (true, _) => 481,
            (false, true) => 408,
            (false, false) => {
                self.conclude(running, now, context);
                return;
            }
        };
        let answer = super::answer::Answer::code(code);
        let packet = self.answer_context(running, context, answer);
        self.keep_best(running, context, None, code, packet);
        self.conclude(running, now, context);
    }

    fn cancel_due(&mut self, running: &Running, now: Instant, id: Id, context: &mut Context, at: usize) {
        let branch = &mut context.branches[at];
        let flow = branch.flow;
        let finished = branch.finished;
        let Cancel::Sent { client, packet, gives_up } = &mut branch.cancel else {
            return;
        };
        let over = *gives_up <= now && !finished;
        if client.deadline().is_some_and(|due| due <= now) {
            let (machine, action) = client.on_timer(now, &TIMING);
            *client = machine;
            if action == ClientAction::Retransmit {
                let packet: Packet = packet.clone();
                self.count(Counter::Retransmissions);
                self.send(flow, packet);
            }
        }
        if over {
            let code = if context.cancelled { 487 } else { 408 };
            self.branch_failed(running, now, id, context, at, code);
        }
    }

    /// Ends what has expired in this shard's part of the directory, and keeps the NAT bindings of phones open.
    fn sweep(&mut self, running: &Running, now: Instant) {
        let every = running.settings.farms.iter().filter_map(|farm| farm.keepalive).min();
        // The visit after this one would be too late.
        let age = every.map(|every| every.saturating_sub(Broom::ROUND));
        let sweep = self.shared.directory.sweep(now, &mut self.broom, age);
        self.start_sweeping(now);
        for _ in 0..sweep.dialogs_ended {
            self.count(Counter::CallsEnded);
        }
        let packet = Packet::copy_from(b"\r\n\r\n");
        for flow in sweep.keep_alive {
            let wanted = running.listener(flow.listener).is_some_and(|(farm, _)| farm.settings.keepalive.is_some());
            // A phone keeps its connection open by itself (RFC 5626 §4.4.1), and the kernel finds out if it is gone.
            if wanted && flow.connection == ConnectionId::NONE {
                self.send(flow, packet.clone());
            }
        }
    }
}
