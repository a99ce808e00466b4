//! RFC 3261 §16.6: a context begins, and each of its branches.

use super::large::Written;
use super::{Core, TIMING};
use crate::context::{Cancel, ClientBranch, Context, Hop, Kind};
use crate::counters::Counter;
use crate::decide::{Arrival, Plan};
use crate::forward::{self, Forwarding};
use crate::io::{Flow, Packet};
use crate::machine::{Client, Server};
use crate::register::Registration;
use crate::running::{Running, WrittenAddress};
use crate::table::Id;
use crate::token::Branch;
use sip::transaction::{InviteServer, Link, OtherServer};
use sip::{Instant, Method};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a request within a dialog waits for a box that is down before its sender hears so: phones wait 32 s.
pub(super) const DEAD_BOX_PATIENCE: Duration = Duration::from_secs(4);
/// RFC 3261 §17.2.1: an INVITE that nobody answers for so long gets a 100 from us.
const TRYING_AFTER: Duration = Duration::from_millis(200);

impl Core {
    /// Opens a context and sends its first branch.
    pub(super) fn start(
        &mut self,
        running: &Running,
        now: Instant,
        arrival: &Arrival<'_>,
        mut plan: Plan,
        loop_hash: u32,
        key: u64,
    ) {
        let limit = running.settings.limits.transactions as u32;
        if self.shared.transactions.load(Ordering::Relaxed) >= limit {
            self.at_transaction_limit(running, now, arrival);
            return;
        }
        let upstream =
            forward::upstream(arrival.farm, arrival.flow, arrival.message.via(), arrival.message.asks_rport());
        if !super::answer::is_safe(&upstream) {
            self.count(Counter::UnsafeDestination);
            return;
        }
        let id = self.table.next_id();
        let branch = self.branch_of(id, 0, loop_hash, upstream);
        let Some(written) = self.write_sized(running, now, arrival, &mut plan, &branch) else {
            self.reply(running, now, arrival, super::answer::Answer::code(513));
            return;
        };
        let mut context = Box::new(new_context(now, arrival, upstream, loop_hash));
        context.placement = super::failover::placement(running, arrival, &plan);
        context.keeps_answer = plan.outlet.is_some();
        context.spare = self.spare(now, arrival, &plan);
        let id = self.table.insert(key, context);
        self.shared.transactions.fetch_add(1, Ordering::Relaxed);
        if let Some(mut context) = self.table.take(id) {
            self.begin_branch(running, now, &mut context, plan, written);
            self.settle(now, id, context);
        }
    }

    /// Sends one branch of a context and sets its timers.
    pub(super) fn begin_branch(
        &mut self,
        running: &Running,
        now: Instant,
        context: &mut Context,
        plan: Plan,
        written: Written,
    ) {
        let Written { packet, registration, datagram } = written;
        self.count(Counter::RequestsForwarded);
        let invite = context.kind.invite;
        let link = running.link(&plan.flow);
        // RFC 3261 §17.2.2: over a stream nobody waits for a repetition, and would take it for a new request.
        context.keeps_answer |= matches!(link, Link::Stream);
        let client = Client::start(invite, now, link, &TIMING);
        let work = match &plan.hop {
            Hop::Backend(state) => Some(state.begin_work(context.kind.cost())),
            Hop::Peer => None,
        };
        let dead = matches!(&plan.hop, Hop::Backend(state) if !state.is_alive(now));
        context.failover_at = if context.kind.in_dialog {
            dead.then(|| now + DEAD_BOX_PATIENCE)
        } else {
            self.failover_deadline(running, now, context)
        };
        context.branches.push(ClientBranch {
            client,
            flow: plan.flow,
            hop: plan.hop,
            sent: packet.clone(),
            sent_at: now,
            answered: false,
            provisional: false,
            finished: false,
            abandoned: false,
            cancel: Cancel::NotWanted,
            ack: None,
            timer_c: invite.then(|| now + TIMING.timer_c),
            work,
            registration: registration.map(Box::new),
            dialog: plan.dialog,
            ticket: plan.ticket,
            datagram,
        });
        self.send(plan.flow, packet);
    }

    /// The branch parameter's facts for the attempt with this number.
    pub(super) fn branch_of(&self, id: Id, attempt: u8, loop_hash: u32, upstream: Flow) -> Branch {
        Branch {
            stateless: false,
            own: false,
            shard: self.index,
            index: id.index,
            attempt,
            sequence: id.sequence,
            epoch: self.shared.secrets.epoch,
            loop_hash,
            upstream,
        }
    }

    /// Our Via in a request of our own; `kind` is what it is.
    pub(super) fn own_via(&self, id: Id, kind: u8, flow: Flow, written: &WrittenAddress, call_id: &[u8]) -> Vec<u8> {
        let branch = Branch { own: true, ..self.branch_of(id, kind, 0, flow) };
        let mut via = Vec::new();
        written.write_via(&mut via);
        via.extend_from_slice(b";branch=");
        via.extend_from_slice(&self.shared.secrets.seal_branch(&branch, call_id));
        via
    }

    /// A request of our own as it leaves.
    pub(super) fn own_request(&mut self, request: &sip::build::Request<'_>) -> Packet {
        self.scratch.clear();
        sip::build::request(request, &mut self.scratch);
        Packet::copy_from(&self.scratch)
    }

    /// The request as it leaves.
    pub(super) fn write_request(
        &mut self,
        running: &Running,
        now: Instant,
        arrival: &Arrival<'_>,
        plan: &Plan,
        branch: &Branch,
    ) -> (Packet, Option<Registration>) {
        let secrets = &self.shared.secrets;
        let call_id = arrival.message.call_id();
        let text = secrets.seal_branch(branch, call_id);
        let directory = &self.shared.directory;
        let forwarding = Forwarding { secrets, running, branch: &text, directory, now };
        let registration = forwarding.write(arrival, plan, &mut self.edits, &mut self.scratch);
        (Packet::copy_from(&self.scratch), registration)
    }
}

fn new_context(now: Instant, arrival: &Arrival<'_>, upstream: Flow, loop_hash: u32) -> Context {
    let kind = Kind::of(arrival);
    let link = if upstream.connection.is_some() { Link::Stream } else { Link::Datagram };
    let server =
        if kind.invite { Server::Invite(InviteServer::start(link)) } else { Server::Other(OtherServer::start(link)) };
    let trying_at = kind.invite.then(|| now + TRYING_AFTER);
    Context { trying_at, ..Context::new(kind, arrival.farm.settings.id, upstream, loop_hash, server) }
}

impl Kind {
    fn of(arrival: &Arrival<'_>) -> Self {
        let method = arrival.message.method();
        Self {
            invite: method == Method::Invite,
            bye: method == Method::Bye,
            register: method == Method::Register,
            in_dialog: arrival.message.to().tag.is_some(),
            refreshes: matches!(method, Method::Invite | Method::Update),
            may_retry_later: matches!(method, Method::Register | Method::Subscribe),
            waits_for_final: matches!(method, Method::Register | Method::Options | Method::Subscribe | Method::Publish),
            with_credentials: arrival.message.credentials().next().is_some(),
        }
    }

    /// What the transaction costs its backend, for `least-work`.
    fn cost(self) -> crate::pool::Cost {
        if self.invite {
            crate::pool::Cost::Invite
        } else if self.register {
            crate::pool::Cost::Register
        } else {
            crate::pool::Cost::Other
        }
    }
}
