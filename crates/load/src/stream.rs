//! The client's side of SIP over streams: TCP, TLS and WebSocket, as many connections as phones have, in one thread.
//!
//! ```text
//! lines        all connections, by number: opening and re-opening them, sending, pings, losses
//! connection   one socket with its wire
//! wire         what the connections have in common; octets into messages and back is the crate `client`
//! trust        whose certificates are believed
//! loss         why a connection ended; counts: what came of all of them
//! ```

mod connection;
mod counts;
mod lines;
mod loss;
mod trust;
mod wire;

pub(crate) use lines::{Event, Lines};

pub use counts::Connections;
pub use loss::Loss;
pub use trust::Trust;

use std::fmt;

/// Connections to the balancer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Streams {
    pub transport: Transport,
    pub connections: u32,
    /// Whose certificates are believed. Of no meaning without TLS.
    pub trust: Trust,
    /// Whom the certificate must be for, and what the Host of a WebSocket is; `None`: the balancer's address.
    pub server_name: Option<String>,
    /// Whether all are opened at the same moment, and used as soon as each is up.
    pub at_once: bool,
}

/// What carries the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    Tcp,
    Tls,
    Ws,
    Wss,
}

impl Transport {
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::Ws, Self::Wss];

    /// As on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Whether there is TLS below the messages.
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) fn is_web_socket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// As in a Via (RFC 3261 §20.42, RFC 7118 §5.2).
    pub(crate) fn in_via(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// As the parameter `transport` of a URI: that of a WebSocket is the same with TLS and without (RFC 7118 §5.2).
    pub(crate) fn in_uri(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws | Self::Wss => "ws",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
