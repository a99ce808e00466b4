//! The listeners and their sockets. A table is never changed: a new configuration makes a new one, which takes over the sockets that
//! stay, and the workers pick it up between two batches.

use crate::datagram::{Poll, kernel_drops};
use crate::socket::{self, NetError, Warning};
use crate::stream::StreamListener;
use engine::{ListenerId, Settings, Transport};
use sip::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

/// The listeners in use, ordered by id.
#[derive(Clone, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    bound: Arc<Bound>,
    /// The listener is gone from the configuration: answers may still come and go until then.
    closes_at: Option<Instant>,
}

/// A listener with its sockets, one per worker.
pub(crate) struct Bound {
    pub(crate) id: ListenerId,
    pub(crate) bind: SocketAddr,
    pub(crate) sockets: Sockets,
}

pub(crate) enum Sockets {
    Datagrams(Vec<UdpSocket>),
    /// No sockets: the listener is gone from the configuration, and only its connections go on.
    Streams(StreamListener, Vec<TcpListener>),
}

/// What is left of listeners that were closed.
#[derive(Default)]
pub(crate) struct Closed {
    /// What the kernel dropped at their sockets.
    pub(crate) kernel_drops: u64,
    /// Those that may have connections.
    pub(crate) streams: Vec<ListenerId>,
}

impl Table {
    /// The table for `settings`: sockets of listeners that stay are kept, new ones are opened and added to their worker's poll (with the
    /// listener's id as token). Listeners that are gone close after a grace; those of streams accept nobody meanwhile, and close their
    /// sockets as soon as no worker uses the old table any more. When anything fails, what was opened is closed again and the old
    /// table goes on.
    pub(crate) fn succeed(
        &self,
        settings: &Settings,
        polls: &[&Poll],
        now: Instant,
    ) -> Result<(Self, Vec<Warning>), NetError> {
        let wanted = wanted(settings);
        let mut warnings = Vec::new();
        let mut entries: Vec<Entry> =
            self.entries.iter().map(|entry| entry.succeed(wanted.contains_key(&entry.bound.id), now)).collect();
        for (&id, &(transport, bind)) in &wanted {
            if self.position(id).is_some_and(|position| !self.bound(position).has_left()) {
                continue;
            }
            check_free(&entries, id, transport, bind)?;
            let (bound, warning) = open(id, transport, bind, polls)?;
            warnings.extend(warning);
            entries.retain(|entry| entry.bound.id != id);
            entries.push(Entry { bound: Arc::new(bound), closes_at: None });
        }
        entries.sort_by_key(|entry| entry.bound.id);
        Ok((Self { entries }, warnings))
    }

    /// The table without the listeners whose grace is over, and what is left of these; `None` if there are none.
    pub(crate) fn without_closed(&self, now: Instant) -> Option<(Self, Closed)> {
        if self.next_close() > now.as_micros() {
            return None;
        }
        let (over, open): (Vec<Entry>, Vec<Entry>) =
            self.entries.iter().cloned().partition(|entry| entry.closes_at.is_some_and(|at| at <= now));
        let mut closed = Closed::default();
        for entry in over {
            closed.kernel_drops += entry.bound.kernel_drops();
            closed.streams.extend(entry.bound.is_stream().then_some(entry.bound.id));
        }
        Some((Self { entries: open }, closed))
    }

    /// When the next listener closes, in microseconds.
    pub(crate) fn next_close(&self) -> u64 {
        self.entries.iter().filter_map(|entry| entry.closes_at).map(Instant::as_micros).min().unwrap_or(u64::MAX)
    }

    pub(crate) fn position(&self, id: ListenerId) -> Option<usize> {
        self.entries.binary_search_by_key(&id, |entry| entry.bound.id).ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The listener at a position that [`Table::position`] gave.
    pub(crate) fn bound(&self, position: usize) -> &Bound {
        &self.entries[position].bound
    }

    pub(crate) fn kernel_drops(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bound.kernel_drops()).sum()
    }
}

impl Entry {
    /// The entry in the next table.
    fn succeed(&self, wanted: bool, now: Instant) -> Self {
        let bound = Arc::clone(&self.bound);
        if wanted {
            return Self { bound, closes_at: None };
        }
        let closes_at = Some(self.closes_at.unwrap_or(now + CLOSING_GRACE));
        match &self.bound.sockets {
            Sockets::Datagrams(_) => Self { bound, closes_at },
            Sockets::Streams(at, _) => {
                let sockets = Sockets::Streams(*at, Vec::new());
                Self { bound: Arc::new(Bound { id: bound.id, bind: bound.bind, sockets }), closes_at }
            }
        }
    }
}

impl Bound {
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.sockets, Sockets::Streams(..))
    }

    /// A listener of streams that was gone from the configuration: should it come back, its sockets are opened anew.
    fn has_left(&self) -> bool {
        matches!(&self.sockets, Sockets::Streams(_, sockets) if sockets.is_empty())
    }

    /// The source to name when answering from `local`: none where the socket is bound to one address anyway.
    pub(crate) fn source(&self, local: IpAddr) -> IpAddr {
        if self.bind.ip().is_unspecified() { local } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
    }

    /// The address at our end of a flow, for the record.
    pub(crate) fn local(&self, local: IpAddr) -> SocketAddr {
        let address = if local.is_unspecified() { self.bind.ip() } else { local };
        SocketAddr::new(address, self.bind.port())
    }

    fn kernel_drops(&self) -> u64 {
        match &self.sockets {
            Sockets::Datagrams(sockets) => sockets.iter().map(|socket| u64::from(kernel_drops(socket))).sum(),
            // What is dropped of a stream is sent again.
            Sockets::Streams(..) => 0,
        }
    }
}

/// The number in a poll for the listener `id`. Below 2³², so that larger ones are free for other sources.
pub(crate) fn token(id: ListenerId) -> u64 {
    u64::from(id.0)
}

/// The listeners of all farms by id; several farms may name the same.
fn wanted(settings: &Settings) -> BTreeMap<ListenerId, (Transport, SocketAddr)> {
    let listeners = settings.farms.iter().flat_map(|farm| &farm.listeners);
    listeners.map(|listener| (listener.id, (listener.transport, listener.bind))).collect()
}

/// Whether sockets of a listener at `bind` would meet no others than those that may share its address.
fn check_free(entries: &[Entry], id: ListenerId, transport: Transport, bind: SocketAddr) -> Result<(), NetError> {
    let is_stream = transport.is_stream();
    let mut is_ours = false;
    for Entry { bound, closes_at } in entries.iter().filter(|entry| entry.bound.is_stream() == is_stream) {
        if is_stream && bound.bind == bind && bound.id != id && closes_at.is_none() {
            // Two listeners of streams would take each other's connections.
            return Err(NetError::AddressInUse { transport: "tcp", address: bind });
        }
        is_ours |= overlap(bound.bind, bind);
    }
    match (is_ours, is_stream) {
        (true, _) => Ok(()),
        (false, true) => socket::probe_stream(bind),
        (false, false) => socket::probe(bind),
    }
}

/// Whether a socket of ours at one of the addresses stands in the way of one at the other that does not share.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn open(
    id: ListenerId,
    transport: Transport,
    bind: SocketAddr,
    polls: &[&Poll],
) -> Result<(Bound, Option<Warning>), NetError> {
    if transport.is_stream() {
        let mut sockets = Vec::with_capacity(polls.len());
        for poll in polls {
            let socket = socket::listen(bind)?;
            poll.add(socket.as_fd(), token(id)).map_err(|error| NetError::Poll { error })?;
            sockets.push(socket);
        }
        let sockets = Sockets::Streams(StreamListener { id, transport, bind }, sockets);
        return Ok((Bound { id, bind, sockets }, None));
    }
    let mut sockets = Vec::with_capacity(polls.len());
    let mut warning = None;
    for poll in polls {
        let (socket, next) = socket::open(bind)?;
        // Closing a socket removes it from its poll, also when a later one fails.
        poll.add(socket.as_fd(), token(id)).map_err(|error| NetError::Poll { error })?;
        warning = warning.or(next);
        sockets.push(socket);
    }
    Ok((Bound { id, bind, sockets: Sockets::Datagrams(sockets) }, warning))
}

/// 64 × T1: no transaction that began at a listener lasts longer without its peer sending anew.
const CLOSING_GRACE: Duration = Duration::from_secs(32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_in_each_others_way_overlap() {
        let address = |text: &str| -> SocketAddr { text.parse().expect("a valid address") };
        let one = address("192.0.2.1:5060");
        assert!(overlap(one, one));
        assert!(overlap(one, address("0.0.0.0:5060")));
        assert!(overlap(address("0.0.0.0:5060"), one));
        assert!(!overlap(one, address("192.0.2.2:5060")));
        assert!(!overlap(one, address("192.0.2.1:5061")));
        assert!(!overlap(address("0.0.0.0:5060"), address("[::]:5060")));
    }

    #[test]
    fn the_source_is_named_only_at_a_wildcard() {
        let arrival: IpAddr = "192.0.2.9".parse().expect("a valid address");
        let bind = SocketAddr::from(([0, 0, 0, 0], 5060));
        let mut bound = Bound { id: ListenerId(1), bind, sockets: Sockets::Datagrams(Vec::new()) };
        assert_eq!(bound.source(arrival), arrival);
        assert_eq!(bound.local(arrival), SocketAddr::from(([192, 0, 2, 9], 5060)));
        bound.bind = SocketAddr::from(([192, 0, 2, 9], 5060));
        assert!(bound.source(arrival).is_unspecified());
        assert_eq!(bound.local(bound.source(arrival)), bound.bind);
    }
}
