//! The client's side of a WebSocket that carries SIP (RFC 6455, RFC 7118), on memory. The protocol is tungstenite's.

use super::wire::Fault;
use std::io::{self, Read, Write};
use tungstenite::error::Error;
use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

/// One WebSocket, from the request for it on.
pub(super) enum WebSocket {
    /// The answer to the request is not there as a whole. What is to be sent waits for it.
    Upgrading {
        key: String,
        held: Vec<u8>,
        waiting: Vec<Vec<u8>>,
    },
    Open(Box<WebSocketContext>),
}

impl WebSocket {
    /// A new one, and the request that is to be sent.
    pub(super) fn new(host: &str) -> (Self, String) {
        let key = generate_key();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
        );
        (Self::Upgrading { key, held: Vec::new(), waiting: Vec::new() }, request)
    }

    /// Takes octets as they come: adds the messages to `messages`, and what is to be sent in return to `out`.
    pub(super) fn receive(
        &mut self,
        octets: &[u8],
        messages: &mut Vec<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Self::Upgrading { key, held, waiting } = self else {
            return self.read(octets, messages, out);
        };
        held.extend_from_slice(octets);
        let Some(length) = upgraded(key, held)? else {
            let is_endless = held.len() > HEAD_OCTETS;
            return if is_endless { Err(refused("the answer to the upgrade has no end")) } else { Ok(()) };
        };
        let rest = held.split_off(length);
        let waiting = std::mem::take(waiting);
        *self = Self::Open(Box::new(new_context()));
        for message in waiting {
            self.send(&message, out);
        }
        self.read(&rest, messages, out)
    }

    /// Sends one SIP message as one message of the WebSocket: as text if it is UTF-8, else as binary (RFC 7118 §5.2).
    pub(super) fn send(&mut self, message: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Upgrading { waiting, .. } => {
                if waiting.len() < MOST_WAITING {
                    waiting.push(message.to_vec());
                }
            }
            Self::Open(context) => {
                let message = match std::str::from_utf8(message) {
                    Ok(text) => Message::text(text),
                    Err(_) => Message::binary(message.to_vec()),
                };
                // Fails only after a close, when nothing can be sent any more.
                let _closed_before = context.write(&mut Memory { unread: &[], out }, message);
            }
        }
    }

    fn read(&mut self, octets: &[u8], messages: &mut Vec<Vec<u8>>, out: &mut Vec<u8>) -> Result<(), Fault> {
        let Self::Open(context) = self else { return Ok(()) };
        let mut memory = Memory { unread: octets, out };
        loop {
            match context.read(&mut memory) {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                    let message = message.into_data().to_vec();
                    if message == b"\r\n\r\n" {
                        // A keep-alive (RFC 7118 §6). Fails only after a close.
                        let _closed_before = context.write(&mut memory, Message::text("\r\n"));
                    } else if message.iter().any(|octet| !matches!(octet, b'\r' | b'\n')) {
                        messages.push(message);
                    }
                }
                // A pong is written when the context is called again.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) | Err(Error::ConnectionClosed) => return Err(Fault::Closed),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Fault::WebSocket(error.to_string())),
            }
        }
    }
}

/// How long the answer to the request is, once it is there and says yes.
fn upgraded(key: &str, held: &[u8]) -> Result<Option<usize>, Fault> {
    let parsed = Response::try_parse(held).map_err(|error| refused(&error.to_string()))?;
    let Some((length, response)) = parsed else { return Ok(None) };
    if response.status().as_u16() != 101 {
        return Err(refused(&format!("the upgrade was answered {}", response.status())));
    }
    let accepted = derive_accept_key(key.as_bytes());
    let shown = response.headers().get("sec-websocket-accept");
    if shown.is_none_or(|shown| shown.as_bytes() != accepted.as_bytes()) {
        return Err(refused("the answer to the upgrade is to another request"));
    }
    let protocol = response.headers().get("sec-websocket-protocol");
    if protocol.is_none_or(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"sip")) {
        return Err(refused("the server does not speak sip over its WebSocket"));
    }
    Ok(Some(length))
}

fn refused(text: &str) -> Fault {
    Fault::WebSocket(text.to_owned())
}

fn new_context() -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_OCTETS)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_OCTETS))
        .max_frame_size(Some(MESSAGE_OCTETS));
    WebSocketContext::new(Role::Client, Some(config))
}

/// What the protocol takes for a socket: octets to read, and a buffer to write to.
struct Memory<'a> {
    unread: &'a [u8],
    out: &'a mut Vec<u8>,
}

impl Read for Memory<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.unread.read(buffer) }
    }
}

impl Write for Memory<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.out.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The longest answer to the request.
const HEAD_OCTETS: usize = 8_192;
/// The longest message.
const MESSAGE_OCTETS: usize = 65_535;
/// How much the protocol reads at once.
const READ_OCTETS: usize = 4_096;
/// Messages that wait for the upgrade: more than one request and its cancellation come to none.
const MOST_WAITING: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer to `request`, with the sub-protocol `protocol`.
    fn answer(request: &str, protocol: &str) -> String {
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let accepted = derive_accept_key(key.as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accepted}\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
        )
    }

    #[test]
    fn what_was_sent_too_early_leaves_after_the_upgrade_in_pieces_of_any_size() {
        for size in [1, 2, 7, 10_000] {
            let (mut client, request) = WebSocket::new("127.0.0.1:8080");
            assert!(request.starts_with("GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"), "{request}");
            let (mut messages, mut out) = (Vec::new(), Vec::new());
            client.send(b"early", &mut out);
            assert!(out.is_empty());
            // An unmasked text of three octets, a ping, and a keep-alive as text.
            let stream =
                [answer(&request, "sip").as_bytes(), b"\x81\x03abc", b"\x89\x01x", b"\x81\x04\r\n\r\n"].concat();
            for piece in stream.chunks(size) {
                client.receive(piece, &mut messages, &mut out).expect("all of it is well formed");
            }
            assert_eq!(messages, [b"abc"]);
            // Masked, so that only lengths are known: a text of five octets, a pong of one, and a text of two.
            assert_eq!(out.len(), 2 + 4 + 5 + 2 + 4 + 1 + 2 + 4 + 2, "{out:?}");
            assert_eq!((out.first(), out.get(11), out.get(18)), (Some(&0x81), Some(&0x8a), Some(&0x81)));
            assert_eq!(client.receive(b"\x88\x02\x03\xe8", &mut messages, &mut out), Err(Fault::Closed));
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let (_, request) = WebSocket::new("h");
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        let good = answer(&request, "sip");
        for text in [
            answer(&request, "msrp"),
            good.replace("101 Switching Protocols", "403 Forbidden"),
            good.replace("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x"),
            good.replace("Sec-WebSocket-Protocol: sip\r\n", ""),
            "SIP/2.0 200 OK\r\n\r\n".to_owned(),
            "HTTP/1.1 101 X\r\nA: b\r\n".repeat(1_000),
        ] {
            let mut client = WebSocket::Upgrading { key: key.to_owned(), held: Vec::new(), waiting: Vec::new() };
            let outcome = client.receive(text.as_bytes(), &mut Vec::new(), &mut Vec::new());
            assert!(matches!(outcome, Err(Fault::WebSocket(_))), "{text}");
        }
    }
}
