//! RFC 3261 §18.1.1: a request that may not fit into one datagram of the path goes over a stream, where its backend has one beside its
//! datagrams; should nobody take it there, it goes as a datagram after all. Without a stream one that no datagram can hold is
//! refused: that the kernel does not send it says nothing of the backend.
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

/// What a datagram holds over IPv4: 65,535 octets without the headers of IP and of UDP. Over IPv6 it would be 20 more.
pub(super) const DATAGRAM_OCTETS: usize = 65_507;

/// A request as it leaves.
pub(super) struct Written {
    pub(super) packet: Packet,
    pub(super) registration: Option<Registration>,
    /// The same as a datagram, should its stream be refused.
    pub(super) datagram: Option<Box<(Flow, Packet)>>,
}

impl Core {
    /// The request as it leaves; one that may be too large for a datagram gets a stream for its flow, if there is one. `None`: it
    /// needs one, and there is none.
    pub(super) fn write_sized(
        &mut self,
        running: &Running,
        now: Instant,
        arrival: &Arrival<'_>,
        plan: &mut Plan,
        branch: &Branch,
    ) -> Option<Written> {
        let (packet, registration) = self.write_request(running, now, arrival, plan, branch);
        let fits = packet.len() <= DATAGRAM_OCTETS;
        let is_large = !fits || packet.len() > running.settings.limits.large_request;
        if !is_large || matches!(running.link(&plan.flow), Link::Stream) {
            return Some(Written { packet, registration, datagram: None });
        }
        let Some(stream) = stream_beside(running, arrival, plan) else {
            self.count(if fits { Counter::LargeOverUdp } else { Counter::LargeRefused });
            return fits.then_some(Written { packet, registration, datagram: None });
        };
        self.count(Counter::LargeOverStream);
        let flow = std::mem::replace(&mut plan.flow, stream);
        let datagram = fits.then(|| Box::new((flow, packet)));
        let (packet, registration) = self.write_request(running, now, arrival, plan, branch);
        Some(Written { packet, registration, datagram })
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

/// Can this leave by that flow at all?
pub(super) fn fits(running: &Running, flow: &Flow, packet: &Packet) -> bool {
    packet.len() <= DATAGRAM_OCTETS || matches!(running.link(flow), Link::Stream)
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
