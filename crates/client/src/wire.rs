//! One connection's octets on their way in and out, on memory: TLS, WebSocket and the framing of SIP, stacked.

use crate::websocket::WebSocket;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use sip::Limits;
use sip::frame::{Frame, FrameFault, Framer};
use std::io::{BufRead, Write};
use std::sync::Arc;

/// What connections to one server have in common.
pub struct Terms {
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Of the request for a WebSocket; `None`: there is none.
    pub host: Option<String>,
}

/// Why the octets of a connection lead no further. Texts are the libraries' own.
#[derive(Clone, PartialEq, Debug)]
pub enum Fault {
    /// The other side ended it in order.
    Closed,
    Tls(rustls::Error),
    /// What TLS cannot take in.
    Record(String),
    /// The server did not take the upgrade.
    Upgrade(String),
    /// A frame that RFC 6455 does not allow.
    WebSocket(String),
    Framing(FrameFault),
}

/// One side of one connection: the client's.
pub struct Wire {
    tls: Option<Box<ClientConnection>>,
    above: Above,
    /// Messages that wait for the upgrade of the WebSocket.
    waiting: Vec<Vec<u8>>,
    outgoing: Vec<u8>,
    /// Octets of `outgoing` that were written already.
    written: usize,
}

enum Above {
    Framed(Framer),
    WebSocket(Box<WebSocket>),
}

impl Wire {
    /// The first flight is ready to be written.
    ///
    /// # Errors
    /// TLS does not begin.
    pub fn new(terms: &Terms) -> Result<Self, Fault> {
        let tls = match &terms.tls {
            Some((config, name)) => {
                let connection = ClientConnection::new(Arc::clone(config), name.clone());
                let mut connection = connection.map_err(Fault::Tls)?;
                // What waits is bounded where it is counted, in octets for the socket.
                connection.set_buffer_limit(None);
                Some(Box::new(connection))
            }
            None => None,
        };
        let above = Above::Framed(Framer::new(Limits::default()));
        let mut wire = Self { tls, above, waiting: Vec::new(), outgoing: Vec::new(), written: 0 };
        if let Some(host) = &terms.host {
            let (web_socket, request) = WebSocket::new(host);
            wire.above = Above::WebSocket(Box::new(web_socket));
            // TLS keeps it until the handshake is over.
            wire.put(request.as_bytes());
        }
        wire.pull();
        Ok(wire)
    }

    /// TLS and the upgrade are through.
    pub fn is_established(&self) -> bool {
        let is_open = match &self.above {
            Above::Framed(_) => true,
            Above::WebSocket(web_socket) => web_socket.is_open(),
        };
        is_open && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
    }

    /// Takes octets from the socket and adds the messages in them to `messages`.
    ///
    /// # Errors
    /// A fault comes after what was before it.
    pub fn receive(&mut self, octets: &[u8], messages: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        let mut answers = Vec::new();
        let waiting = &mut self.waiting;
        let outcome = match &mut self.tls {
            Some(tls) => {
                decrypt(tls, octets, &mut |plain: &[u8]| self.above.receive(plain, waiting, messages, &mut answers))
            }
            None => self.above.receive(octets, waiting, messages, &mut answers),
        };
        if !answers.is_empty() {
            self.put(&answers);
        }
        // TLS has something to say of its own: the next flight, or why it ends.
        self.pull();
        outcome
    }

    /// What cannot leave before the handshake or the upgrade is over waits for it.
    pub fn send(&mut self, message: &[u8]) {
        match &mut self.above {
            Above::Framed(_) => self.put(message),
            Above::WebSocket(web_socket) if web_socket.is_open() => {
                let mut frame = Vec::new();
                web_socket.send(message, &mut frame);
                self.put(&frame);
            }
            Above::WebSocket(_) if self.waiting.len() < MOST_WAITING => self.waiting.push(message.to_vec()),
            Above::WebSocket(_) => {}
        }
    }

    /// CRLFCRLF (RFC 5626 §3.5.1), or the ping of a WebSocket.
    pub fn ping(&mut self) {
        match &mut self.above {
            Above::Framed(_) => self.put(b"\r\n\r\n"),
            Above::WebSocket(web_socket) => {
                let mut frame = Vec::new();
                web_socket.ping(&mut frame);
                self.put(&frame);
            }
        }
    }

    /// Nothing more is sent: TLS says so (RFC 8446 §6.1).
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            self.pull();
        }
    }

    /// Octets that are to be written to the socket.
    pub fn outgoing(&self) -> &[u8] {
        self.outgoing.get(self.written..).unwrap_or_default()
    }

    /// The socket took the first `count` octets of [`Wire::outgoing`].
    pub fn took(&mut self, count: usize) {
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

impl Above {
    /// What `waiting` holds leaves as soon as it can.
    fn receive(
        &mut self,
        octets: &[u8],
        waiting: &mut Vec<Vec<u8>>,
        messages: &mut Vec<Vec<u8>>,
        answers: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let framer = match self {
            Self::Framed(framer) => framer,
            Self::WebSocket(web_socket) => return web_socket.receive(octets, waiting, messages, answers),
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
        let count = tls.read_tls(&mut unread).map_err(|error| Fault::Record(error.to_string()))?;
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
            Err(error) => return Err(Fault::Tls(error)),
            Ok(state) if state.peer_has_closed() => return Err(Fault::Closed),
            Ok(_) if count == 0 => return Err(Fault::Record("a record is longer than allowed".to_owned())),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Messages that wait for the upgrade: more than one request and its cancellation come to none.
const MOST_WAITING: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{Trust, config_builder, verifier};
    use rustls::crypto::aws_lc_rs;
    use std::net::IpAddr;
    use tungstenite::handshake::derive_accept_key;

    fn wire(is_secure: bool, is_web_socket: bool) -> Wire {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = verifier(&provider, Trust::Anybody).expect("nothing is read");
        let builder = config_builder(&provider, verifier).expect("the provider knows the versions");
        let config = Arc::new(builder.with_no_client_auth());
        let name = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let terms = Terms { tls: is_secure.then_some((config, name)), host: is_web_socket.then(|| "h".to_owned()) };
        Wire::new(&terms).expect("the address is a name")
    }

    #[test]
    fn messages_are_framed_and_pings_are_answered() {
        let mut wire = wire(false, false);
        assert!(wire.is_established() && wire.outgoing().is_empty());
        let one = b"SIP/2.0 200 OK\r\nContent-Length: 1\r\n\r\nx";
        let mut messages = Vec::new();
        for octet in [b"\r\n\r\n".as_slice(), one, b"\r\n", one].concat() {
            wire.receive(&[octet], &mut messages).expect("all of it is well formed");
        }
        assert_eq!(messages, [one.as_slice(), one.as_slice()]);
        assert_eq!(wire.outgoing(), b"\r\n");
        wire.took(1);
        assert_eq!(wire.outgoing(), b"\n");
        wire.ping();
        assert_eq!(wire.outgoing(), b"\n\r\n\r\n");
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
        let mut tls = wire(true, false);
        assert!(!tls.is_established());
        let fault = tls.receive(b"SIP/2.0 400 Bad Request\r\n\r\n", &mut Vec::new()).expect_err("it is no TLS");
        assert!(matches!(fault, Fault::Tls(rustls::Error::InvalidMessage(_))), "{fault:?}");
    }

    #[test]
    fn what_was_sent_too_early_leaves_after_the_upgrade_in_pieces_of_any_size() {
        for size in [1, 2, 7, 10_000] {
            let mut wire = wire(false, true);
            let request = String::from_utf8(wire.outgoing().to_vec()).expect("it is text");
            wire.took(request.len());
            wire.send(b"early");
            assert!(wire.outgoing().is_empty());
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\
                 Sec-WebSocket-Protocol: sip\r\n\r\n",
                derive_accept_key(key.as_bytes())
            );
            // An unmasked text of three octets, a ping, and a keep-alive as text.
            let stream = [answer.as_bytes(), b"\x81\x03abc", b"\x89\x01x", b"\x81\x04\r\n\r\n"].concat();
            let mut messages = Vec::new();
            for piece in stream.chunks(size) {
                wire.receive(piece, &mut messages).expect("all of it is well formed");
            }
            assert_eq!(messages, [b"abc"]);
            // Masked, so that only lengths are known: a text of five octets, a pong of one, and a text of two.
            let out = wire.outgoing();
            assert_eq!(out.len(), 2 + 4 + 5 + 2 + 4 + 1 + 2 + 4 + 2, "{out:?}");
            assert_eq!((out.first(), out.get(11), out.get(18)), (Some(&0x81), Some(&0x8a), Some(&0x81)));
            assert_eq!(wire.receive(b"\x88\x02\x03\xe8", &mut messages), Err(Fault::Closed));
        }
    }

    #[test]
    fn so_much_waits_for_the_upgrade_and_no_more() {
        let mut wire = wire(false, true);
        for _ in 0..=MOST_WAITING {
            wire.send(b"early");
        }
        assert_eq!(wire.waiting.len(), MOST_WAITING);
    }
}
