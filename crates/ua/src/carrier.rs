//! What carries the messages of an endpoint.

use sip::transaction::Link;

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
    /// Whether transactions repeat themselves (RFC 3261 §17.1).
    pub(crate) fn link(self) -> Link {
        match self {
            Self::Udp => Link::Datagram,
            Self::Tcp | Self::Tls | Self::Ws | Self::Wss => Link::Stream,
        }
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
