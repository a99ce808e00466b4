//! RFC 3261 §16.11: what is forwarded without a transaction. ACK of a 2xx, stateless farms, responses that find no transaction but
//! carry a token of ours, and requests repeated after their end.

use super::answer::Answer;
use super::{Core, large, upstream};
use crate::counters::Counter;
use crate::decide::{Arrival, Deaf, Decider, Decision, Plan};
use crate::forward;
use crate::io::Packet;
use crate::register;
use crate::running::Running;
use crate::table::{Id, Tombstone};
use crate::token::Branch;
use sip::{Checked, Instant, Method};
use std::hash::Hasher;

impl Core {
    /// The branch is a function of the one received, so that a retransmission leaves as the first one did.
    pub(super) fn forward_stateless(
        &mut self,
        running: &Running,
        now: Instant,
        arrival: &Arrival<'_>,
        plan: &Plan,
        loop_hash: u32,
    ) {
        let via = arrival.message.via();
        let upstream = forward::upstream(arrival.farm, arrival.flow, via, arrival.message.asks_rport());
        let mut hasher = self.shared.secrets.table_hasher();
        hasher.write(via.raw);
        hasher.write(arrival.message.request_line().map_or(b"", |line| line.uri));
        hasher.write(arrival.message.call_id());
        hasher.write_u32(arrival.message.cseq().number);
        let hash = hasher.finish();
        let branch = Branch {
            stateless: true,
            own: false,
            shard: self.index,
            index: (hash >> 32) as u32,
            attempt: 0,
            sequence: hash as u32,
            // The same from each unit and after each start; but a connection is of this process alone.
            epoch: if upstream.connection.is_some() { self.shared.secrets.epoch } else { 0 },
            loop_hash,
            upstream,
        };
        let (packet, _) = self.write_request(running, now, arrival, plan, &branch);
        if !large::fits(running, &plan.flow, &packet) {
            self.count(Counter::LargeRefused);
            self.reply(running, now, arrival, Answer::code(513));
            return;
        }
        self.count(Counter::RequestsForwarded);
        self.send(plan.flow, packet);
    }

    /// A request whose transaction is over goes to the same backend under its old branch.
    pub(super) fn forward_again(
        &mut self,
        running: &Running,
        now: Instant,
        arrival: &Arrival<'_>,
        id: Id,
        tombstone: &Tombstone,
    ) {
        let mut decider = Decider { shared: &self.shared, running, now, random: 0, trace: Deaf };
        let Decision::Forward(mut plan) = decider.decide(arrival) else {
            return;
        };
        if let Some(known) = running.backend(tombstone.backend)
            && plan.to_backend
            && let Some(flow) = arrival.farm.flow_towards(true, known.reach.over(arrival.listener.transport))
        {
            plan.flow = flow;
            plan.parties.backend = tombstone.backend;
        }
        // All that the branch is made of is as it was, so the backend takes it for what it is, a retransmission.
        let branch = self.branch_of(id, tombstone.attempt, tombstone.loop_hash, tombstone.first_upstream);
        let (packet, _) = self.write_request(running, now, arrival, &plan, &branch);
        self.send(plan.flow, packet);
    }

    /// A response whose way back stands in our Via.
    pub(super) fn forward_by_token(&mut self, now: Instant, message: &Checked<'_>, branch: &Branch) {
        if !super::answer::is_safe(&branch.upstream) {
            self.count(Counter::UnsafeDestination);
            return;
        }
        let Some((ours, _)) = upstream::pop_via(message) else {
            return;
        };
        self.edits.clear();
        self.edits.remove_values(message, &[ours]);
        upstream::add_length(message, &branch.upstream, &mut self.edits);
        if message.method() == Method::Register {
            let longest = self.longest_told(&branch.upstream);
            register::restore_known(now, message, &self.shared.directory, longest, &mut self.edits);
        }
        if message.status_line().is_some_and(|line| line.code == 503) {
            upstream::hide_overload(message, &mut self.edits);
        }
        self.scratch.clear();
        self.edits.apply(message.bytes(), &mut self.scratch);
        let packet = Packet::copy_from(&self.scratch);
        self.count(Counter::ForwardedByToken);
        self.send(branch.upstream, packet);
    }
}
