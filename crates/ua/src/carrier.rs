//! What carries the messages of an endpoint.

use sip::transaction::Link;
use std::fmt;

/// What carries the messages of a user agent (RFC 3261 §18, RFC 7118).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Carrier {
    #[default]
    Udp,
    Tcp,
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Carrier {
    /// As it is written in a configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Over connections; otherwise in datagrams.
    pub const fn is_stream(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// Whether transactions repeat themselves (RFC 3261 §17.1).
    pub(crate) fn link(self) -> Link {
        if self.is_stream() { Link::Stream } else { Link::Datagram }
    }

    /// The transport as a Via names it.
    pub(crate) fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// The URI parameter of a Contact. There is one for both kinds of WebSocket (RFC 7118 §5.3).
    pub(crate) fn uri_parameter(self) -> &'static str {
        match self {
            Self::Udp => "",
            Self::Tcp => ";transport=tcp",
            Self::Tls => ";transport=tls",
            Self::Ws | Self::Wss => ";transport=ws",
        }
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
