//! Why a connection ended, or never came to be, and why a message cannot be sent.

use crate::stream::wire::WireFault;
use sip::frame::FrameFault;
use std::sync::atomic::{AtomicU64, Ordering};

/// One counter each, shown with its label.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reason {
    /// The peer ended it in order.
    PeerClosed,
    /// The socket failed: reset by the peer, or the way to it is gone.
    Reset,
    /// Nothing came for too long.
    Idle,
    /// TLS or the upgrade took too long.
    HandshakeTimedOut,
    /// A message did not become whole in time.
    MessageTimedOut,
    /// Nobody knows where the next message begins.
    Framing(FrameFault),
    /// TLS failed, or there is no certificate to speak it with.
    Tls,
    /// The WebSocket was refused or broken.
    WebSocket,
    /// The peer reads nothing although something waits for it.
    QueueStuck,
    /// The peer answered no ping of ours, and had to.
    PongTimedOut,
    /// The unit has as many connections as it may, or as the system lets it have.
    TooMany,
    /// So has their source address.
    TooManyOfSource,
    /// The listener left the configuration, and its grace is over.
    ListenerClosed,
    /// The peer cannot be connected to: it refuses, or there is no way.
    ConnectRefused,
    /// The peer did not answer.
    ConnectTimedOut,
}

/// Why a message cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotSent {
    /// There is no such connection, or none any more.
    Gone,
    /// Too much waits already for a peer that does not read.
    QueueFull,
    /// No connection can be opened.
    Refused,
    /// There are as many as there may be.
    TooMany,
}

/// How often each reason was met.
pub(crate) struct ReasonCounts([AtomicU64; Reason::ALL.len()]);

impl Reason {
    pub(crate) const ALL: [Self; 19] = [
        Self::PeerClosed,
        Self::Reset,
        Self::Idle,
        Self::HandshakeTimedOut,
        Self::MessageTimedOut,
        Self::Framing(FrameFault::LengthMissing),
        Self::Framing(FrameFault::LengthRepeated),
        Self::Framing(FrameFault::LengthUnreadable),
        Self::Framing(FrameFault::TooLarge),
        Self::Framing(FrameFault::LineEnd),
        Self::Tls,
        Self::WebSocket,
        Self::QueueStuck,
        Self::PongTimedOut,
        Self::TooMany,
        Self::TooManyOfSource,
        Self::ListenerClosed,
        Self::ConnectRefused,
        Self::ConnectTimedOut,
    ];

    pub(crate) fn of(fault: &WireFault) -> Self {
        match fault {
            WireFault::Framing(fault) => Self::Framing(*fault),
            WireFault::Tls(_) => Self::Tls,
            WireFault::WebSocket(_) => Self::WebSocket,
            WireFault::Closed => Self::PeerClosed,
        }
    }

    /// The reason as a metric label.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::HandshakeTimedOut => "handshake_timed_out",
            Self::MessageTimedOut => "message_timed_out",
            Self::Framing(fault) => fault.label(),
            Self::Tls => "tls",
            Self::WebSocket => "web_socket",
            Self::QueueStuck => "queue_stuck",
            Self::PongTimedOut => "pong_timed_out",
            Self::TooMany => "too_many",
            Self::TooManyOfSource => "too_many_of_source",
            Self::ListenerClosed => "listener_closed",
            Self::ConnectRefused => "connect_refused",
            Self::ConnectTimedOut => "connect_timed_out",
        }
    }
}

impl NotSent {
    /// A limit of ours kept the message back: that says nothing of its peer.
    pub(crate) fn is_ours(self) -> bool {
        match self {
            Self::QueueFull | Self::TooMany => true,
            Self::Gone | Self::Refused => false,
        }
    }
}

impl ReasonCounts {
    pub(crate) fn new() -> Self {
        Self([const { AtomicU64::new(0) }; Reason::ALL.len()])
    }

    pub(crate) fn add(&self, reason: Reason) {
        // Rare beside messages, so that a search costs nothing.
        for (known, count) in Reason::ALL.iter().zip(&self.0) {
            if *known == reason {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Every reason's label with its count.
    pub(crate) fn read(&self) -> Vec<(&'static str, u64)> {
        Reason::ALL.iter().zip(&self.0).map(|(reason, count)| (reason.label(), count.load(Ordering::Relaxed))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_reason_has_a_counter_and_a_label_of_its_own() {
        let labels: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        let counts = ReasonCounts::new();
        for (times, reason) in (1..).zip(Reason::ALL) {
            (0..times).for_each(|_| counts.add(reason));
        }
        let wanted: Vec<(&str, u64)> = Reason::ALL.iter().map(|reason| reason.label()).zip(1..).collect();
        assert_eq!(counts.read(), wanted);
    }

    #[test]
    fn a_peer_is_not_to_blame_for_our_limits() {
        let all = [NotSent::Gone, NotSent::Refused, NotSent::QueueFull, NotSent::TooMany];
        assert_eq!(all.map(NotSent::is_ours), [false, false, true, true]);
    }

    #[test]
    fn a_fault_of_the_wire_is_a_reason() {
        let framing = WireFault::Framing(FrameFault::TooLarge);
        assert_eq!(Reason::of(&framing), Reason::Framing(FrameFault::TooLarge));
        assert_eq!(Reason::of(&WireFault::Tls("bad record".to_owned())), Reason::Tls);
        assert_eq!(Reason::of(&WireFault::Closed), Reason::PeerClosed);
    }
}
