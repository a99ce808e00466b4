//! What goes into a shard and what comes out of it: the only words between the engine and the shell around it.

use crate::id::{BackendId, FarmId, ListenerId};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// One path to a peer (RFC 5626): the listener it uses, our address on it, the peer's address and, of a stream, the connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    pub listener: ListenerId,
    /// The address a message arrived at, and is answered from. Unspecified: the kernel chooses.
    pub local: IpAddr,
    pub remote: SocketAddr,
    pub connection: ConnectionId,
}

/// A connection of this process: 24 bits, so that it fits into a token, given to no second one for as long as possible.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnectionId(pub u32);

impl ConnectionId {
    /// A datagram's flow. To be sent on at a listener of a stream: whichever connection leads to the peer, a new one if none does.
    pub const NONE: Self = Self(0);
    /// The largest number stands for all connections of processes before this one: nothing can be sent on it.
    pub const GONE: Self = Self(0xff_ffff);

    /// Names a connection, open or not.
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }
}

impl Flow {
    /// The flow of a datagram.
    pub fn of_datagram(listener: ListenerId, local: IpAddr, remote: SocketAddr) -> Self {
        Self { listener, local, remote, connection: ConnectionId::NONE }
    }

    /// Both lead to the same peer: by the same connection where both name one, else to the same address.
    pub fn leads_like(&self, other: &Self) -> bool {
        if self.connection.is_some() && other.connection.is_some() {
            return self.connection == other.connection;
        }
        self.remote == other.remote
    }
}

/// A finished message. Kept by its transaction for retransmission and shared with the socket, never copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet(Arc<[u8]>);

impl Packet {
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self(Arc::from(bytes))
    }
}

impl std::ops::Deref for Packet {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// What the shell feeds to a shard.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// A datagram arrived, or a whole message of a stream. Answered by any number of [`Output`]s, possibly none.
    Datagram { flow: Flow, bytes: &'a [u8] },
    /// The kernel says that a message of ours did not reach `flow.remote`. `returned` is what it returned of the datagram (an
    /// ICMP error's quotation, or the whole datagram where sending itself failed): believed only when it holds a branch of ours.
    Undelivered { flow: Flow, returned: &'a [u8] },
    /// The same of a message that a limit of ours kept back (a queue, connections, descriptors): it says nothing of the peer.
    Unsent { flow: Flow, returned: &'a [u8] },
}

/// What a shard asks of the shell.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send this message. Nothing answers it; a failure comes back as [`Input::Undelivered`] or [`Input::Unsent`].
    Send { flow: Flow, packet: Packet },
    /// Tell the operator. Nothing answers it.
    Event(Event),
}

/// Something an operator wants to know of. Shown by `status`, logged by the shell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    BackendUp {
        backend: BackendId,
        cause: UpCause,
    },
    BackendDown {
        backend: BackendId,
        cause: DownCause,
    },
    /// A backend was cut: by a guardian that says so, told of with [`Event::BackendDown`], or by the administrator. So many of its
    /// calls were forgotten, and are being ended by BYE where they began in this process. Connections to it are to be closed.
    BackendCut {
        backend: BackendId,
        calls: u64,
    },
    /// A guardian that only warns found it down: it stays in use.
    BackendWarned {
        backend: BackendId,
        guardian: Arc<str>,
        reason: Arc<str>,
    },
    /// The same guardian is content again.
    WarningOver {
        backend: BackendId,
        guardian: Arc<str>,
    },
    /// A backend refused a call that `callee_affinity` sent to it for the sake of its registration: perhaps its users differ from
    /// the other backends', and the setting should be false.
    AffinityRefused {
        farm: FarmId,
        backend: BackendId,
    },
    /// A limit was reached; told once a second at most for each limit.
    LimitReached {
        limit: &'static str,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UpCause {
    /// The check of this guardian, the last that held it down, was good `rise` times in a row.
    Check(Arc<str>),
    /// A backend set aside by passive detection answered again.
    Answered,
    /// In a new configuration no guardian holds it down any more: the last one that did left, or only warns now.
    Reconfigured,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DownCause {
    /// The check of this guardian failed `fall` times in a row, the last time for this reason.
    Check { guardian: Arc<str>, reason: Arc<str> },
    /// The kernel reported the address unreachable.
    Unreachable,
    /// Requests in a row timed out.
    TimedOut,
    /// So many of a hundred final answers were 5xx.
    Failing { per_cent: u8 },
    /// So long is the typical time to its first answer, and so long the median of its pool.
    Slow { ms: u64, median_ms: u64 },
}

/// What a check of a backend came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckOutcome {
    Good {
        /// How long the answer took.
        took: Duration,
    },
    Failed {
        /// In words, for the operator.
        reason: Arc<str>,
    },
}

#[cfg(test)]
pub(crate) mod unit;
