//! One connection in the tables: what is known of it without its lock.

use super::terms::Terms;
use super::{Connections, StreamListener, lock};
use crate::stream::connection::Connection;
use crate::stream::tls::TlsPeer;
use engine::{Flow, ListenerId, Transport};
use sip::Instant;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

/// Whoever wants to reach this remote address from this listener shares one connection.
pub(super) type Lead = (ListenerId, SocketAddr);

pub(super) struct Entry {
    pub(super) number: u32,
    /// The listener that it was accepted at or opened from.
    pub(super) at: StreamListener,
    /// As its messages are told.
    pub(super) flow: Flow,
    pub(super) origin: Origin,
    /// Where its client is reached too; judged by its first request.
    pub(super) alias: OnceLock<Option<Box<Alias>>>,
    /// When it is to be swept, in microseconds. Written under the lock.
    pub(super) due: AtomicU64,
    /// It is to be looked at for keep-alives. Written under the lock.
    pub(super) dozes: AtomicBool,
    pub(super) connection: Mutex<Connection<TcpStream>>,
}

pub(super) enum Origin {
    /// Whose share of the connections it takes.
    Accepted(IpAddr),
    /// Whom its server proves to be; of TLS only.
    Opened(Option<Arc<TlsPeer>>),
}

/// A connection of a client that is reached by it as if we had opened it (RFC 5923).
pub(super) struct Alias {
    pub(super) lead: Lead,
    /// Whom its certificate was found to prove.
    pub(super) peer: Option<Arc<TlsPeer>>,
}

impl Entry {
    pub(super) fn lock(&self) -> MutexGuard<'_, Connection<TcpStream>> {
        lock(&self.connection)
    }

    pub(super) fn lead(&self) -> Lead {
        (self.flow.listener, self.flow.remote)
    }

    pub(super) fn alias(&self) -> Option<&Alias> {
        self.alias.get()?.as_deref()
    }

    pub(super) fn is_accepted(&self) -> bool {
        matches!(self.origin, Origin::Accepted(_))
    }

    /// A client over TLS that has not been judged.
    pub(super) fn awaits_alias(&self) -> bool {
        self.at.transport == Transport::Tls && self.is_accepted() && self.alias.get().is_none()
    }

    /// Whether what is meant for whoever is at `lead` today may go here. Over TLS the certificate that was shown here must prove what
    /// is asked for there now: another name may lead to the same address, and who came from that address may be anybody.
    pub(super) fn serves(&self, lead: &Lead, terms: &Terms) -> bool {
        if self.at.transport != Transport::Tls {
            return true;
        }
        match (&self.origin, self.alias()) {
            (Origin::Opened(peer), _) => *peer == terms.peer(lead),
            (Origin::Accepted(_), Some(alias)) if alias.lead == *lead => alias.peer == terms.peer(lead),
            (Origin::Accepted(_), _) => !terms.names_peer(lead),
        }
    }

    /// We opened it to a server that the settings name, and that is who is there.
    pub(super) fn is_kept(&self, terms: &Terms) -> bool {
        let lead = self.lead();
        !self.is_accepted() && terms.names_server(&lead) && self.serves(&lead, terms)
    }

    /// A number may come again after sixteen million others: the peer must be the same one. A token that names a connection tells its
    /// host only; port 0 stands for any.
    pub(super) fn is_of(&self, flow: &Flow) -> bool {
        let (known, wanted) = (self.flow.remote, flow.remote);
        let is_same = wanted == known || (wanted.port() == 0 && wanted.ip() == known.ip());
        flow.listener == self.flow.listener && is_same
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.load(Ordering::Relaxed) <= now.as_micros()
    }

    pub(super) fn is_dozing(&self) -> bool {
        self.dozes.load(Ordering::Relaxed)
    }
}

impl Connections {
    /// Nobody is led to this connection any more.
    pub(super) fn unlead(&self, entry: &Arc<Entry>) {
        for lead in std::iter::once(entry.lead()).chain(entry.alias().map(|alias| alias.lead)) {
            let mut leads = lock(self.lead_stripe(&lead));
            if leads.get(&lead).is_some_and(|known| Arc::ptr_eq(known, entry)) {
                leads.remove(&lead);
            }
        }
    }
}
