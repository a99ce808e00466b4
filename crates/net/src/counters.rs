//! What the workers count.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Totals since the start.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NetCounters {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that the kernel dropped before we read them, most often because a receive buffer was full.
    pub kernel_drops: u64,
    /// Datagrams and messages of streams dropped because their shard was busy and its inbox full.
    pub inbox_overflow: u64,
    /// Datagrams that could not be sent.
    pub send_errors: u64,
    /// Time since the start: the share of a worker is its `busy` by this.
    pub elapsed: Duration,
    pub workers: Vec<WorkerCounters>,
    pub streams: StreamCounters,
}

/// Streams: totals since the start, but for the connections that there are.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct StreamCounters {
    /// Connections that there are now, accepted and opened ones, up and not yet up.
    pub connections: u64,
    /// How many of them are silent but for keep-alives, which are looked for every four seconds.
    pub dozing: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that we began to open.
    pub opened: u64,
    /// Messages received.
    pub received: u64,
    /// Messages that a connection took to send them.
    pub sent: u64,
    /// Messages that did not leave: the connection was gone or could not be opened, or it took them and ended first.
    pub not_sent: u64,
    /// Messages that were sent once more, since the server at the other end of their connection had ended it with them in it.
    pub resent: u64,
    /// How many were not sent because too much waited already for a peer that does not read.
    pub queue_full: u64,
    /// How often the kernel had no descriptor or memory for one more connection.
    pub accept_failures: u64,
    /// Why connections ended or never came to be, each reason by its label.
    pub ended: Vec<(&'static str, u64)>,
    /// The last one that ended for what its peer sent.
    pub last_fault: Option<StreamFault>,
}

/// What was wrong with what a peer sent, for whoever looks for the cause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamFault {
    pub remote: SocketAddr,
    pub text: String,
}

/// One worker's part.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct WorkerCounters {
    pub received: u64,
    pub sent: u64,
    /// How many of the received ones were taken from a sibling's sockets.
    pub helped: u64,
    /// Time not spent waiting.
    pub busy: Duration,
}

/// A counter with a single writer: cheaper than an atomic addition, and read by anybody.
#[derive(Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    pub(crate) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The tallies of one worker.
#[derive(Default)]
pub(crate) struct Tallies {
    pub(crate) received: Tally,
    pub(crate) sent: Tally,
    pub(crate) helped: Tally,
    pub(crate) inbox_overflow: Tally,
    pub(crate) send_errors: Tally,
    pub(crate) busy_micros: Tally,
    /// Messages of streams.
    pub(crate) stream_received: Tally,
    pub(crate) stream_sent: Tally,
    pub(crate) stream_not_sent: Tally,
}

impl Tallies {
    pub(crate) fn snapshot(&self) -> WorkerCounters {
        WorkerCounters {
            received: self.received.value(),
            sent: self.sent.value(),
            helped: self.helped.value(),
            busy: Duration::from_micros(self.busy_micros.value()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_holds_what_was_counted() {
        let tallies = Tallies::default();
        tallies.received.add(3);
        tallies.received.add(4);
        tallies.helped.add(2);
        tallies.busy_micros.add(1_500);
        let snapshot = tallies.snapshot();
        assert_eq!((snapshot.received, snapshot.sent, snapshot.helped), (7, 0, 2));
        assert_eq!(snapshot.busy, Duration::from_micros(1_500));
    }
}
