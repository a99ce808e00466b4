//! Messages to be sent, in one piece of memory that is used again and again.

use std::net::SocketAddr;
use std::ops::Range;

/// What is to be sent from one socket with the next system call, or on connections.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    queued: Vec<(Way, Range<usize>)>,
}

/// Where a message goes, or came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// To this address.
    Datagram(SocketAddr),
    /// On the connection with this number.
    Stream(u32),
}

impl Outbox {
    /// Queues what `write` appends to the buffer it is given.
    pub(super) fn put(&mut self, way: impl Into<Way>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.queued.push((way.into(), start..self.bytes.len()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// What goes to addresses.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> + '_ {
        self.queued.iter().filter_map(|(way, range)| match way {
            Way::Datagram(remote) => Some((*remote, self.bytes.get(range.clone())?)),
            Way::Stream(_) => None,
        })
    }

    /// What goes on connections, with their numbers.
    pub(super) fn streamed(&self) -> impl Iterator<Item = (u32, &[u8])> + '_ {
        self.queued.iter().filter_map(|(way, range)| match way {
            Way::Stream(connection) => Some((*connection, self.bytes.get(range.clone())?)),
            Way::Datagram(_) => None,
        })
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.queued.clear();
    }
}

impl From<SocketAddr> for Way {
    fn from(remote: SocketAddr) -> Self {
        Self::Datagram(remote)
    }
}
