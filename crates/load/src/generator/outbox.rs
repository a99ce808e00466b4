//! Datagrams to be sent, in one piece of memory that is used again and again.

use std::net::SocketAddr;
use std::ops::Range;

/// What is to be sent from one socket with the next system call.
#[derive(Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    queued: Vec<(SocketAddr, Range<usize>)>,
}

impl Outbox {
    /// Queues what `write` appends to the buffer it is given.
    pub(super) fn put(&mut self, remote: SocketAddr, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        self.queued.push((remote, start..self.bytes.len()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    pub(super) fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> + '_ {
        self.queued.iter().filter_map(|(remote, range)| Some((*remote, self.bytes.get(range.clone())?)))
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.queued.clear();
    }
}
