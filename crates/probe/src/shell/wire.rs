//! One connection's octets on their way in and out, on memory: TLS, WebSocket and the framing of SIP, stacked.

use super::websocket::WebSocket;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use sip::Limits;
use sip::frame::{Frame, FrameFault, Framer};
use std::fmt;
use std::io::{self, BufRead, Write};
use std::sync::Arc;

/// What a connection is to carry.
pub(super) struct Terms {
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Of the request for a WebSocket; `None`: there is none.
    pub(super) host: Option<String>,
}

/// The client's side of one connection.
pub(super) struct Wire {
    tls: Option<Box<ClientConnection>>,
    above: Above,
    outgoing: Vec<u8>,
    /// Octets of `outgoing` that were written already.
    written: usize,
}

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

enum Above {
    Framed(Framer),
    WebSocket(Box<WebSocket>),
}

impl Wire {
    pub(super) fn new(terms: &Terms) -> Result<Self, Fault> {
        let tls = match &terms.tls {
            Some((config, name)) => {
                let mut connection =
                    ClientConnection::new(Arc::clone(config), name.clone()).map_err(|error| Fault::of_tls(&error))?;
                // Whole messages or none: a part of one would end the stream.
                connection.set_buffer_limit(None);
                Some(Box::new(connection))
            }
            None => None,
        };
        let mut wire =
            Self { tls, above: Above::Framed(Framer::new(Limits::default())), outgoing: Vec::new(), written: 0 };
        if let Some(host) = &terms.host {
            let (web_socket, request) = WebSocket::new(host);
            wire.above = Above::WebSocket(Box::new(web_socket));
            // TLS keeps it until the handshake is over.
            wire.put(request.as_bytes());
        }
        wire.pull();
        Ok(wire)
    }

    /// Takes octets from the socket and adds the messages in them to `messages`. A fault comes after what was before it.
    pub(super) fn receive(&mut self, octets: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        let mut answers = Vec::new();
        let outcome = match &mut self.tls {
            Some(tls) => decrypt(tls, octets, &mut |plain: &[u8]| self.above.receive(plain, messages, &mut answers)),
            None => self.above.receive(octets, messages, &mut answers),
        };
        if !answers.is_empty() {
            self.put(&answers);
        }
        // TLS has something to say of its own: the next flight, or why it ends.
        self.pull();
        outcome
    }

    /// What cannot leave before the handshake or the upgrade is over waits for it.
    pub(super) fn send(&mut self, message: &[u8]) {
        match &mut self.above {
            Above::Framed(_) => self.put(message),
            Above::WebSocket(web_socket) => {
                let mut frame = Vec::new();
                web_socket.send(message, &mut frame);
                self.put(&frame);
            }
        }
    }

    /// Nothing more is sent: TLS says so (RFC 8446 §6.1).
    pub(super) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.pull();
        }
    }

    /// Octets that are to be written to the socket.
    pub(super) fn outgoing(&self) -> &[u8] {
        self.outgoing.get(self.written..).unwrap_or_default()
    }

    /// The socket took the first `count` octets of [`Wire::outgoing`].
    pub(super) fn took(&mut self, count: usize) {
        self.written += count;
        if self.written >= self.outgoing.len() {
            self.written = 0;
            self.outgoing.clear();
        }
    }

    fn put(&mut self, plain: &[u8]) {
        match &mut self.tls {
            Some(tls) => {
                // Fails only after a fault, when nothing can be sent any more.
                let _refused = tls.writer().write_all(plain);
                self.pull();
            }
            None => self.outgoing.extend_from_slice(plain),
        }
    }

    /// Takes over what TLS wants to send.
    fn pull(&mut self) {
        let Some(tls) = &mut self.tls else { return };
        while tls.wants_write() {
            // Memory takes everything.
            if tls.write_tls(&mut self.outgoing).is_err() {
                return;
            }
        }
    }
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

impl Above {
    fn receive(&mut self, octets: &[u8], messages: &mut Vec<Vec<u8>>, answers: &mut Vec<u8>) -> Result<(), Fault> {
        let framer = match self {
            Self::Framed(framer) => framer,
            Self::WebSocket(web_socket) => return web_socket.receive(octets, messages, answers),
        };
        framer.push(octets);
        while let Some(frame) = framer.next() {
            match frame.map_err(Fault::Framing)? {
                Frame::Message(message) => messages.push(message),
                // RFC 5626 §3.5.1: a ping of two line ends asks for one.
                Frame::Ping => answers.extend_from_slice(b"\r\n"),
            }
        }
        Ok(())
    }
}

/// Gives `each` what the octets decrypt to.
fn decrypt(
    tls: &mut ClientConnection,
    octets: &[u8],
    each: &mut dyn FnMut(&[u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut unread = octets;
    while !unread.is_empty() {
        let count = tls.read_tls(&mut unread).map_err(|error| Fault::Tls(error.to_string()))?;
        let processed = tls.process_new_packets();
        let mut reader = tls.reader();
        loop {
            let (length, outcome) = match reader.fill_buf() {
                Ok(plain) if !plain.is_empty() => (plain.len(), each(plain)),
                // Nothing more so far, or at all.
                _ => break,
            };
            reader.consume(length);
            outcome?;
        }
        match processed {
            Err(error) => return Err(Fault::of_tls(&error)),
            Ok(state) if state.peer_has_closed() => return Err(Fault::Closed),
            Ok(_) if count == 0 => return Err(Fault::Tls("a record is longer than allowed".to_owned())),
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::Trust;
    use crate::shell::trust::Trusts;
    use std::net::IpAddr;

    fn wire(is_secure: bool, is_web_socket: bool) -> Wire {
        let config = Trusts::default().config(&Trust::Off).expect("nothing is read");
        let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let terms = Terms { tls: is_secure.then_some((config, name)), host: is_web_socket.then(|| "h".to_owned()) };
        Wire::new(&terms).expect("the address is a name")
    }

    #[test]
    fn messages_are_framed_and_pings_are_answered() {
        let mut wire = wire(false, false);
        assert!(wire.outgoing().is_empty());
        let one = b"SIP/2.0 200 OK\r\nContent-Length: 1\r\n\r\nx";
        let mut messages = Vec::new();
        for octet in [b"\r\n\r\n".as_slice(), one, b"\r\n", one].concat() {
            wire.receive(&[octet], &mut messages).expect("all of it is well formed");
        }
        assert_eq!(messages, [one.as_slice(), one.as_slice()]);
        assert_eq!(wire.outgoing(), b"\r\n");
        wire.took(1);
        assert_eq!(wire.outgoing(), b"\n");
        let fault = wire.receive(b"SIP/2.0 200 OK\r\n\r\n", &mut messages).expect_err("it has no length");
        assert_eq!(fault, Fault::Framing(FrameFault::LengthMissing));
    }

    #[test]
    fn each_transport_begins_as_it_should() {
        let start = |is_secure, is_web_socket| wire(is_secure, is_web_socket).outgoing().first().copied();
        // Nothing, a TLS record, a GET, a TLS record again.
        assert_eq!(start(false, false), None);
        assert_eq!(start(true, false), Some(22));
        assert_eq!(start(false, true), Some(b'G'));
        assert_eq!(start(true, true), Some(22));
    }

    #[test]
    fn what_is_no_tls_is_told() {
        let fault = wire(true, false).receive(b"SIP/2.0 400 Bad Request\r\n\r\n", &mut Vec::new());
        let text = fault.expect_err("it is no TLS").to_string();
        assert_eq!(text, "TLS failed: the other side does not speak it");
    }
}
