//! The listeners and their sockets. A table is never changed: a new configuration makes a new one, which takes over the sockets that
//! stay, and the workers pick it up between two batches.

use crate::datagram::{Poll, kernel_drops};
use crate::socket::{self, NetError, Warning};
use engine::{ListenerId, Settings, Transport};
use sip::Instant;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
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
    pub(crate) sockets: Vec<UdpSocket>,
}

impl Table {
    /// The table for `settings`: sockets of listeners that stay are kept, new ones are opened and added to their worker's poll (with the
    /// listener's id as token), those of listeners that are gone close after a grace. When anything fails, what was opened is closed
    /// again and the old table goes on.
    pub(crate) fn succeed(
        &self,
        settings: &Settings,
        polls: &[&Poll],
        now: Instant,
    ) -> Result<(Self, Vec<Warning>), NetError> {
        let wanted = wanted(settings);
        let mut warnings = Vec::new();
        let mut entries: Vec<Entry> = self
            .entries
            .iter()
            .map(|entry| Entry {
                bound: Arc::clone(&entry.bound),
                closes_at: if wanted.contains_key(&entry.bound.id) {
                    None
                } else {
                    Some(entry.closes_at.unwrap_or(now + CLOSING_GRACE))
                },
            })
            .collect();
        for (&id, &bind) in &wanted {
            if self.position(id).is_none() {
                if !entries.iter().any(|entry| overlap(entry.bound.bind, bind)) {
                    socket::probe(bind)?;
                }
                let (bound, warning) = open(id, bind, polls)?;
                warnings.extend(warning);
                entries.push(Entry { bound: Arc::new(bound), closes_at: None });
            }
        }
        entries.sort_by_key(|entry| entry.bound.id);
        Ok((Self { entries }, warnings))
    }

    /// The table without the listeners whose grace is over, and what the kernel dropped at these; `None` if there are none.
    pub(crate) fn without_closed(&self, now: Instant) -> Option<(Self, u64)> {
        if self.next_close() > now.as_micros() {
            return None;
        }
        let (closed, open): (Vec<Entry>, Vec<Entry>) =
            self.entries.iter().cloned().partition(|entry| entry.closes_at.is_some_and(|at| at <= now));
        let drops = closed.iter().map(|entry| entry.bound.kernel_drops()).sum();
        Some((Self { entries: open }, drops))
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

impl Bound {
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
        self.sockets.iter().map(|socket| u64::from(kernel_drops(socket))).sum()
    }
}

/// The number in a poll for the listener `id`. Below 2³², so that larger ones are free for other sources.
pub(crate) fn token(id: ListenerId) -> u64 {
    u64::from(id.0)
}

/// The listeners of all farms by id; several farms may name the same.
fn wanted(settings: &Settings) -> BTreeMap<ListenerId, SocketAddr> {
    settings
        .farms
        .iter()
        .flat_map(|farm| &farm.listeners)
        .filter(|listener| listener.transport == Transport::Udp)
        .map(|listener| (listener.id, listener.bind))
        .collect()
}

/// Whether a socket of ours at one of the addresses stands in the way of one at the other that does not share.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified())
}

fn open(id: ListenerId, bind: SocketAddr, polls: &[&Poll]) -> Result<(Bound, Option<Warning>), NetError> {
    let mut sockets = Vec::with_capacity(polls.len());
    let mut warning = None;
    for poll in polls {
        let (socket, next) = socket::open(bind)?;
        // Closing a socket removes it from its poll, also when a later one fails.
        poll.add(socket.as_fd(), token(id)).map_err(|error| NetError::Poll { error })?;
        warning = warning.or(next);
        sockets.push(socket);
    }
    Ok((Bound { id, bind, sockets }, warning))
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
        let mut bound = Bound { id: ListenerId(1), bind: SocketAddr::from(([0, 0, 0, 0], 5060)), sockets: Vec::new() };
        assert_eq!(bound.source(arrival), arrival);
        assert_eq!(bound.local(arrival), SocketAddr::from(([192, 0, 2, 9], 5060)));
        bound.bind = SocketAddr::from(([192, 0, 2, 9], 5060));
        assert!(bound.source(arrival).is_unspecified());
        assert_eq!(bound.local(bound.source(arrival)), bound.bind);
    }
}
