//! One connection's octets on their way in and out, on memory: TLS, WebSocket and the framing of SIP, stacked.

use super::loss::{Fault, Loss};
use super::websocket::WebSocket;
use super::{Streams, trust};
use net::NetError;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use sip::Limits;
use sip::frame::{Frame, Framer};
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// What all connections have in common.
pub(super) struct Terms {
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Of the request for a WebSocket; `None`: there is none.
    host: Option<String>,
}

/// One side of one connection: the client's.
pub(super) struct Wire {
    tls: Option<Box<ClientConnection>>,
    above: Above,
    outgoing: Vec<u8>,
    /// Octets of `outgoing` that were written already.
    written: usize,
}

enum Above {
    Framed(Framer),
    WebSocket(Box<WebSocket>),
}

impl Terms {
    /// Fails when the file of authorities cannot be read, or the server's name is none.
    pub(super) fn new(streams: &Streams, balancer: SocketAddr) -> Result<Self, NetError> {
        let tls = if streams.transport.is_secure() {
            let name = match &streams.server_name {
                Some(name) => ServerName::try_from(name.clone())
                    .map_err(|_| NetError::Certificates { error: format!("{name} is no name of a server").into() })?,
                None => ServerName::from(balancer.ip()),
            };
            Some((trust::client_config(&streams.trust)?, name))
        } else {
            None
        };
        let host = streams.server_name.clone().unwrap_or_else(|| balancer.to_string());
        Ok(Self { tls, host: streams.transport.is_web_socket().then_some(host) })
    }
}

impl Wire {
    pub(super) fn new(terms: &Terms) -> Result<Self, Fault> {
        let tls = match &terms.tls {
            Some((config, name)) => {
                let connection = ClientConnection::new(Arc::clone(config), name.clone());
                let mut connection = connection.map_err(|error| Fault::of_tls(&error))?;
                // What waits is bounded where it is counted, in octets for the socket.
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

    /// TLS and the upgrade are through.
    pub(super) fn is_established(&self) -> bool {
        let is_open = match &self.above {
            Above::Framed(_) => true,
            Above::WebSocket(web_socket) => web_socket.is_open(),
        };
        is_open && self.tls.as_ref().is_none_or(|tls| !tls.is_handshaking())
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

    /// CRLFCRLF (RFC 5626 §3.5.1), or the ping of a WebSocket.
    pub(super) fn ping(&mut self) {
        match &mut self.above {
            Above::Framed(_) => self.put(b"\r\n\r\n"),
            Above::WebSocket(web_socket) => {
                let mut frame = Vec::new();
                web_socket.ping(&mut frame);
                self.put(&frame);
            }
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

impl Above {
    fn receive(&mut self, octets: &[u8], messages: &mut Vec<Vec<u8>>, answers: &mut Vec<u8>) -> Result<(), Fault> {
        let framer = match self {
            Self::Framed(framer) => framer,
            Self::WebSocket(web_socket) => return web_socket.receive(octets, messages, answers),
        };
        framer.push(octets);
        while let Some(frame) = framer.next() {
            match frame.map_err(|fault| Fault::new(Loss::Framing, fault.to_string()))? {
                Frame::Message(message) => messages.push(message),
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
        let count = tls.read_tls(&mut unread).map_err(|error| Fault::new(Loss::Tls, error.to_string()))?;
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
            Ok(state) if state.peer_has_closed() => return Err(Fault::closed()),
            Ok(_) if count == 0 => return Err(Fault::new(Loss::Tls, "a record is longer than allowed")),
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Transport, Trust};

    fn wire(transport: Transport) -> Wire {
        let streams = Streams { transport, connections: 1, trust: Trust::Anybody, server_name: None, at_once: false };
        let terms = Terms::new(&streams, SocketAddr::from(([127, 0, 0, 1], 5061))).expect("nothing is read");
        Wire::new(&terms).expect("the address is a name")
    }

    #[test]
    fn messages_are_framed_and_pings_are_answered() {
        let mut wire = wire(Transport::Tcp);
        assert!(wire.is_established() && wire.outgoing().is_empty());
        let one = b"SIP/2.0 200 OK\r\nContent-Length: 1\r\n\r\nx";
        let mut messages = Vec::new();
        for octet in [b"\r\n\r\n".as_slice(), one, b"\r\n", one].concat() {
            wire.receive(&[octet], &mut messages).expect("all of it is well formed");
        }
        assert_eq!(messages, [one.as_slice(), one.as_slice()]);
        assert_eq!(wire.outgoing(), b"\r\n");
        wire.took(1);
        wire.ping();
        assert_eq!(wire.outgoing(), b"\n\r\n\r\n");
        let fault = wire.receive(b"SIP/2.0 200 OK\r\n\r\n", &mut messages).expect_err("it has no length");
        assert_eq!(fault.loss, Loss::Framing);
    }

    #[test]
    fn each_transport_begins_as_it_should() {
        let starts = Transport::ALL.map(|transport| wire(transport).outgoing().first().copied());
        // Nothing, a TLS record, a GET, a TLS record again.
        assert_eq!(starts, [None, Some(22), Some(b'G'), Some(22)]);
        let mut tls = wire(Transport::Tls);
        assert!(!tls.is_established());
        let fault = tls.receive(b"SIP/2.0 400 Bad Request\r\n\r\n", &mut Vec::new()).expect_err("it is no TLS");
        assert_eq!(fault.loss, Loss::Tls);
    }

    #[test]
    fn a_name_that_is_none_is_told() {
        let streams = Streams {
            transport: Transport::Tls,
            connections: 1,
            trust: Trust::Anybody,
            server_name: Some("no name".to_owned()),
            at_once: false,
        };
        let refused = Terms::new(&streams, SocketAddr::from(([127, 0, 0, 1], 5061))).err();
        assert!(refused.is_some_and(|error| error.to_string().contains("no name")));
    }
}
