//! Why a connection ended, or never began.

use std::fmt;
use std::io;

/// The reason, one for each count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Loss {
    /// Nobody listens there.
    Refused,
    /// No way leads there.
    Unreachable,
    /// This system has no socket or port for it.
    NoSocket,
    /// It was not up in time.
    TimedOut,
    /// The certificate is none that is believed.
    Certificate,
    /// TLS was not agreed upon, or broken.
    Tls,
    /// The upgrade to a WebSocket was refused.
    Upgrade,
    /// A frame that RFC 6455 does not allow.
    WebSocket,
    /// Nobody knows where the next message begins.
    Framing,
    /// The other side does not read.
    Clogged,
    /// The other side ended it without a word.
    Reset,
    /// The other side ended it in order.
    Closed,
}

/// A loss, with the words for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    pub(super) loss: Loss,
    pub(super) text: String,
}

impl Loss {
    /// As a key in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::NoSocket => "no_socket",
            Self::TimedOut => "timed_out",
            Self::Certificate => "certificate",
            Self::Tls => "tls",
            Self::Upgrade => "upgrade",
            Self::WebSocket => "websocket",
            Self::Framing => "framing",
            Self::Clogged => "clogged",
            Self::Reset => "reset",
            Self::Closed => "closed",
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Refused => "refused",
            Self::Unreachable => "out of reach",
            Self::NoSocket => "no socket left here (`ulimit -n`, net.ipv4.ip_local_port_range)",
            Self::TimedOut => "not up in time",
            Self::Certificate => "certificate not believed",
            Self::Tls => "TLS failed",
            Self::Upgrade => "WebSocket refused",
            Self::WebSocket => "WebSocket broken",
            Self::Framing => "message without a readable end",
            Self::Clogged => "the other side does not read",
            Self::Reset => "reset by the other side",
            Self::Closed => "closed by the other side",
        })
    }
}

impl Fault {
    pub(super) fn new(loss: Loss, text: impl Into<String>) -> Self {
        Self { loss, text: text.into() }
    }

    /// The other side ended the connection in order.
    pub(super) fn closed() -> Self {
        Self::new(Loss::Closed, "closed by the other side")
    }

    /// What the system says of a socket that is in use.
    pub(super) fn of_socket(error: &io::Error) -> Self {
        let loss = match error.kind() {
            io::ErrorKind::ConnectionRefused => Loss::Refused,
            io::ErrorKind::TimedOut => Loss::TimedOut,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Loss::Reset
            }
            _ => Loss::Unreachable,
        };
        Self::new(loss, error.to_string())
    }

    pub(super) fn of_tls(error: &rustls::Error) -> Self {
        let loss = match error {
            rustls::Error::InvalidCertificate(_) => Loss::Certificate,
            _ => Loss::Tls,
        };
        Self::new(loss, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_has_a_reason() {
        let loss = |kind: io::ErrorKind| Fault::of_socket(&io::Error::from(kind)).loss;
        assert_eq!(loss(io::ErrorKind::ConnectionRefused), Loss::Refused);
        assert_eq!(loss(io::ErrorKind::BrokenPipe), Loss::Reset);
        assert_eq!(loss(io::ErrorKind::HostUnreachable), Loss::Unreachable);
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert_eq!(Fault::of_tls(&unknown).loss, Loss::Certificate);
        assert_eq!(Fault::of_tls(&rustls::Error::DecryptError).loss, Loss::Tls);
    }
}
