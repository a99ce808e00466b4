//! Bounds of every connection.

use std::time::Duration;

/// From the settings, together with what follows from them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    /// Accepted and opened ones together. Those we open are bounded by the same number on their own, so that a flood of clients leaves
    /// the way to the backends open.
    pub(crate) connections: usize,
    /// Accepted ones of one source address; of IPv6 of one /64, which is what one customer has.
    pub(crate) per_source: usize,
    pub(crate) idle: Duration,
    pub(crate) partial: Duration,
    pub(crate) handshake: Duration,
    pub(crate) stuck: Duration,
    pub(crate) queue_octets: usize,
    pub(crate) message: sip::Limits,
}

impl StreamLimits {
    pub(crate) fn of(limits: &engine::Limits) -> Self {
        Self {
            connections: limits.connections,
            per_source: limits.connections_per_source,
            idle: limits.connection_idle,
            partial: limits.partial_message,
            handshake: limits.handshake,
            // A peer that wants to read needs far less than one that is still writing its message.
            stuck: limits.partial_message * STUCK_PARTS,
            queue_octets: limits.connection_queue,
            message: sip::Limits { message_bytes: limits.message_bytes, headers: limits.headers },
        }
    }
}

/// 30 s where a message may take 10 s to arrive.
const STUCK_PARTS: u32 = 3;
