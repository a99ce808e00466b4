//! Why a connection is over, in words.

use nix::errno::Errno;
use sip::frame::FrameFault;
use std::fmt;
use std::io;

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// In an orderly way, by the other side.
    Closed,
    Refused,
    Reset,
    Unreachable,
    TimedOut,
    /// Another error of the socket.
    Socket(String),
    Tls(String),
    WebSocket(String),
    Framing(FrameFault),
    /// The other side does not read what we send.
    Clogged,
}

impl Fault {
    pub(super) fn of_socket(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                Self::Reset
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Socket(error.to_string()),
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidMessage(_) => Self::Tls("the other side does not speak it".to_owned()),
            other => Self::Tls(other.to_string()),
        }
    }
}

/// This machine has no descriptors or memory left: that says nothing of the other side.
pub fn is_ours(error: &io::Error) -> bool {
    let lacking = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS];
    error.raw_os_error().is_some_and(|code| lacking.contains(&Errno::from_raw(code)))
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => formatter.write_str("closed by the other side"),
            Self::Refused => formatter.write_str("refused"),
            Self::Reset => formatter.write_str("reset by the other side"),
            Self::Unreachable => formatter.write_str("no way leads there"),
            Self::TimedOut => formatter.write_str("nobody answers"),
            Self::Socket(text) => formatter.write_str(text),
            Self::Tls(text) => write!(formatter, "TLS failed: {text}"),
            Self::WebSocket(text) => write!(formatter, "WebSocket failed: {text}"),
            Self::Framing(fault) => write!(formatter, "{fault}"),
            Self::Clogged => formatter.write_str("the other side does not read"),
        }
    }
}

impl From<client::Fault> for Fault {
    fn from(fault: client::Fault) -> Self {
        match fault {
            client::Fault::Closed => Self::Closed,
            client::Fault::Tls(error) => Self::of_tls(&error),
            client::Fault::Record(text) => Self::Tls(text),
            client::Fault::Upgrade(text) | client::Fault::WebSocket(text) => Self::WebSocket(text),
            client::Fault::Framing(fault) => Self::Framing(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Trust;
    use crate::shell::trust::Trusts;
    use client::{Terms, Wire};
    use rustls::pki_types::ServerName;
    use std::net::IpAddr;

    #[test]
    fn what_this_machine_lacks_is_not_held_against_the_other() {
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS] {
            assert!(is_ours(&io::Error::from(errno)), "{errno}");
        }
        for errno in [Errno::ECONNREFUSED, Errno::ETIMEDOUT, Errno::EHOSTUNREACH, Errno::ECONNRESET] {
            assert!(!is_ours(&io::Error::from(errno)), "{errno}");
        }
    }

    #[test]
    fn what_is_no_tls_is_told() {
        let config = Trusts::default().config(&Trust::Off).expect("nothing is read");
        let terms = Terms { tls: Some((config, ServerName::from(IpAddr::from([127, 0, 0, 1])))), host: None };
        let mut wire = Wire::new(&terms).expect("the address is a name");
        let fault = wire.receive(b"SIP/2.0 400 Bad Request\r\n\r\n", &mut Vec::new()).expect_err("it is no TLS");
        assert_eq!(Fault::from(fault).to_string(), "TLS failed: the other side does not speak it");
    }
}
