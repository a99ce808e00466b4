//! RFC 3261 §18.1.1: a request that may not fit into one datagram of the path goes over a stream, where its backend has one beside its
//! datagrams; should nobody take it there, it goes as a datagram after all.
//!
//! REGISTER never does: our Contact in it names the transport, and the backend would see a second binding of the phone.

use super::{Core, TIMING};
use crate::context::{Context, Hop};
use crate::counters::Counter;
use crate::decide::{Arrival, Plan};
use crate::io::{Flow, Packet};
use crate::machine::Client;
use crate::register::Registration;
use crate::running::Running;
use crate::token::Branch;
use sip::transaction::Link;
use sip::{Instant, Method};

/// A request as it leaves.
pub(super) struct Written {
    pub(super) packet: Packet,
    pub(super) registration: Option<Registration>,
    /// The same as a datagram, should its stream be refused.
    pub(super) datagram: Option<Box<(Flow, Packet)>>,
}

impl Core {
    /// The request as it leaves; one that is too large for a datagram gets a stream for its flow, if there is one.
    pub(super) fn write_sized(
        &mut self,
        running: &Running,
        now: Instant,
        arrival: &Arrival<'_>,
        plan: &mut Plan,
        branch: &Branch,
    ) -> Written {
        let (packet, registration) = self.write_request(running, now, arrival, plan, branch);
        let is_large = packet.len() > running.settings.limits.large_request;
        if !is_large || matches!(running.link(&plan.flow), Link::Stream) {
            return Written { packet, registration, datagram: None };
        }
        let Some(stream) = stream_beside(running, arrival, plan) else {
            self.count(Counter::LargeOverUdp);
            return Written { packet, registration, datagram: None };
        };
        self.count(Counter::LargeOverStream);
        let flow = std::mem::replace(&mut plan.flow, stream);
        let datagram = Some(Box::new((flow, packet)));
        let (packet, registration) = self.write_request(running, now, arrival, plan, branch);
        Written { packet, registration, datagram }
    }

    /// The stream of a large request was refused: its datagram leaves, under the same branch, which nobody has seen. `false`: it has none.
    pub(super) fn takes_datagram_instead(&mut self, now: Instant, context: &mut Context, at: usize) -> bool {
        let Some((flow, packet)) = context.branches[at].datagram.take().map(|kept| *kept) else {
            return false;
        };
        self.count(Counter::LargeOverUdp);
        let branch = &mut context.branches[at];
        branch.flow = flow;
        branch.sent = packet.clone();
        branch.client = Client::start(context.kind.invite, now, Link::Datagram, &TIMING);
        self.send(flow, packet);
        true
    }
}

/// The flow of the backend's stream, for a request whose plan has a datagram's.
fn stream_beside(running: &Running, arrival: &Arrival<'_>, plan: &Plan) -> Option<Flow> {
    let Hop::Backend(state) = &plan.hop else { return None };
    if arrival.message.method() == Method::Register {
        return None;
    }
    let stream = running.backend(state.id())?.reach.stream()?;
    arrival.farm.flow_towards(true, stream)
}
