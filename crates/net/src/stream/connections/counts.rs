//! What is counted of all connections together.

use super::{Connections, lock};
use crate::counters::{StreamCounters, StreamFault};
use crate::stream::connection::ReasonCounts;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Counts {
    pub(super) accepted: AtomicU64,
    pub(super) opened: AtomicU64,
    pub(super) resent: AtomicU64,
    pub(super) queue_full: AtomicU64,
    pub(super) accept_failures: AtomicU64,
    pub(super) reasons: ReasonCounts,
    pub(super) last_fault: Mutex<Option<StreamFault>>,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            accepted: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            queue_full: AtomicU64::new(0),
            accept_failures: AtomicU64::new(0),
            reasons: ReasonCounts::new(),
            last_fault: Mutex::new(None),
        }
    }
}

impl Connections {
    /// What was counted up to now, but for the messages, which the workers count.
    pub(crate) fn counters(&self) -> StreamCounters {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        StreamCounters {
            connections: self.shares.iter().map(|share| share.owned.load(Ordering::Relaxed) as u64).sum(),
            dozing: self.shares.iter().map(|share| share.dozing.load(Ordering::Relaxed) as u64).sum(),
            accepted: read(&self.counts.accepted),
            opened: read(&self.counts.opened),
            resent: read(&self.counts.resent),
            queue_full: read(&self.counts.queue_full),
            accept_failures: read(&self.counts.accept_failures),
            ended: self.counts.reasons.read(),
            last_fault: lock(&self.counts.last_fault).clone(),
            ..StreamCounters::default()
        }
    }

    /// The kernel has no more descriptors or memory for connections.
    pub(crate) fn count_accept_failure(&self) {
        self.counts.accept_failures.fetch_add(1, Ordering::Relaxed);
    }
}
