//! Connections that we open: when somebody is to be reached and none leads there.

use super::entry::{Entry, Origin};
use super::{Connections, StreamListener, lock};
use crate::socket;
use crate::stream::connection::{Attempt, Connection, Held, NotSent, Reason, Sending};
use crate::stream::tls::TlsPeer;
use crate::stream::wire::Wire;
use engine::{ConnectionId, Flow, Transport};
use sip::Instant;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Connections {
    /// Sends on a connection from this listener to `towards.remote`, which `worker` opens if there is none.
    pub(super) fn send_towards(
        &self,
        worker: usize,
        at: &StreamListener,
        towards: &Flow,
        sending: Sending<'_>,
        now: Instant,
    ) -> Result<(), NotSent> {
        // The one that is found may have ended just now, or turn out so: then another one is opened, once.
        for _ in 0..2 {
            let entry = self.leading(worker, at, towards, now)?;
            match self.send_on(&entry, sending, now) {
                Err(NotSent::Gone) => self.unlead(&entry),
                outcome => return outcome,
            }
        }
        Err(NotSent::Gone)
    }

    /// Tries a message again that a connection of ours held when its peer ended it: servers close what was idle for long, or start
    /// anew. Once only: after that it is gone.
    pub(super) fn send_again(&self, entry: &Entry, held: &Held, now: Instant) -> Result<(), NotSent> {
        if held.attempt != Attempt::First {
            return Err(NotSent::Gone);
        }
        let towards = Flow { connection: ConnectionId::NONE, ..entry.flow };
        let sending = Sending { flow: &held.flow, packet: &held.packet, attempt: Attempt::Second };
        self.send_towards(self.owner(entry.number), &entry.at, &towards, sending, now)?;
        self.counts.resent.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// The connection from the listener to the flow's remote address; opened if there is none.
    fn leading(&self, worker: usize, at: &StreamListener, flow: &Flow, now: Instant) -> Result<Arc<Entry>, NotSent> {
        let lead = (at.id, flow.remote);
        let mut leads = lock(self.lead_stripe(&lead));
        if let Some(entry) = leads.get(&lead)
            && entry.serves(&lead, &self.terms.load())
        {
            return Ok(Arc::clone(entry));
        }
        // Opened under the lock, so that nobody opens another one meanwhile. It does not wait for the peer.
        let held = self.opened.fetch_add(1, Ordering::Relaxed);
        match self.open(worker, at, flow, now, held) {
            Ok(entry) => {
                self.counts.opened.fetch_add(1, Ordering::Relaxed);
                leads.insert(lead, Arc::clone(&entry));
                Ok(entry)
            }
            Err(reason) => {
                self.release(&Origin::Opened(None));
                self.counts.reasons.add(reason);
                Err(if reason == Reason::TooMany { NotSent::TooMany } else { NotSent::Refused })
            }
        }
    }

    fn open(
        &self,
        worker: usize,
        at: &StreamListener,
        flow: &Flow,
        now: Instant,
        held: usize,
    ) -> Result<Arc<Entry>, Reason> {
        let terms = self.terms.load_full();
        if held >= terms.limits.connections {
            return Err(Reason::TooMany);
        }
        let lead = (at.id, flow.remote);
        let (wire, peer) = match at.transport {
            Transport::Tcp => (Wire::plain(terms.limits.message), None),
            Transport::Tls => {
                let peer = terms.peer(&lead).ok_or(Reason::Tls)?;
                (self.client_wire(&peer, terms.limits.message).ok_or(Reason::Tls)?, Some(peer))
            }
            // Browsers connect to us; where one came from nobody listens.
            Transport::Ws | Transport::Wss | Transport::Udp => return Err(Reason::ConnectRefused),
        };
        let from = if flow.local.is_unspecified() { at.bind.ip() } else { flow.local };
        // Some servers take a connection's source for our Contact: so it is what we listen at, if the kernel lets us.
        let socket = socket::connect(SocketAddr::new(from, at.bind.port()), flow.remote)
            .map_err(|error| if socket::has_no_means(&error) { Reason::TooMany } else { Reason::ConnectRefused })?;
        let local = socket.local_addr().map_or(from, |address| address.ip());
        let flow = Flow { listener: at.id, local, remote: flow.remote, connection: ConnectionId::NONE };
        let mut connection = Connection::opened(socket, wire, now);
        connection.keep(terms.names_server(&lead));
        self.enter(worker, at, flow, Origin::Opened(peer), connection, &terms)
    }

    fn client_wire(&self, peer: &TlsPeer, limits: sip::Limits) -> Option<Wire> {
        let (config, name) = self.tls.load().client(peer)?;
        Wire::tls_client(config, name, limits).ok()
    }
}
