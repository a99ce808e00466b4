//! The client's side of a WebSocket that carries SIP (RFC 6455, RFC 7118), on memory. The protocol is tungstenite's.

use crate::wire::Fault;
use std::io::{self, Read, Write};
use tungstenite::error::Error;
use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::protocol::{Message, Role, WebSocketConfig, WebSocketContext};

/// One WebSocket, from the request for it on.
pub struct WebSocket {
    stage: Stage,
}

enum Stage {
    /// The answer to the request is not there as a whole.
    Upgrading {
        key: String,
        held: Vec<u8>,
    },
    Open(Box<WebSocketContext>),
}

impl WebSocket {
    /// A new one, and the request that is to be sent.
    pub fn new(host: &str) -> (Self, String) {
        let key = generate_key();
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
        );
        (Self { stage: Stage::Upgrading { key, held: Vec::new() } }, request)
    }

    /// The server took the upgrade.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Takes octets as they come: adds the messages to `messages`, and what is to be sent in return to `out`,
    /// beginning with what waits, once it is open.
    ///
    /// # Errors
    /// The other side broke the rules, or ended it. What came before is there.
    pub fn receive(
        &mut self,
        octets: &[u8],
        waiting: &mut Vec<Vec<u8>>,
        messages: &mut Vec<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), Fault> {
        let Stage::Upgrading { key, held } = &mut self.stage else {
            return self.read(octets, messages, out);
        };
        held.extend_from_slice(octets);
        match upgraded(key, held)? {
            Some(length) => {
                let rest = held.split_off(length);
                self.stage = Stage::Open(Box::new(new_context()));
                for message in waiting.drain(..) {
                    self.send(&message, out);
                }
                self.read(&rest, messages, out)
            }
            None if held.len() > HEAD_OCTETS => Err(Fault::Upgrade("the answer to the upgrade has no end".to_owned())),
            None => Ok(()),
        }
    }

    /// Sends one SIP message as one message of the WebSocket: as text if it is UTF-8, else as binary (RFC 7118 §5.2). Before it is
    /// open nothing is sent.
    pub fn send(&mut self, message: &[u8], out: &mut Vec<u8>) {
        let message = match std::str::from_utf8(message) {
            Ok(text) => Message::text(text),
            Err(_) => Message::binary(message.to_vec()),
        };
        self.write(message, out);
    }

    /// Sends a ping, if it is open.
    pub fn ping(&mut self, out: &mut Vec<u8>) {
        self.write(Message::Ping(tungstenite::Bytes::new()), out);
    }

    fn write(&mut self, message: Message, out: &mut Vec<u8>) {
        if let Stage::Open(context) = &mut self.stage {
            // Fails only after a close, when nothing can be sent any more.
            let _closed_before = context.write(&mut Memory { unread: &[], out }, message);
        }
    }

    fn read(&mut self, octets: &[u8], messages: &mut Vec<Vec<u8>>, out: &mut Vec<u8>) -> Result<(), Fault> {
        let Stage::Open(context) = &mut self.stage else { return Ok(()) };
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
    let refused = Fault::Upgrade;
    let parsed = Response::try_parse(held).map_err(|error| refused(error.to_string()))?;
    let Some((length, response)) = parsed else { return Ok(None) };
    if response.status().as_u16() != 101 {
        return Err(refused(format!("the upgrade was answered {}", response.status())));
    }
    let accepted = derive_accept_key(key.as_bytes());
    let shown = response.headers().get("sec-websocket-accept");
    if shown.is_none_or(|shown| shown.as_bytes() != accepted.as_bytes()) {
        return Err(refused("the answer to the upgrade is to another request".to_owned()));
    }
    let protocol = response.headers().get("sec-websocket-protocol");
    if protocol.is_none_or(|protocol| !protocol.as_bytes().eq_ignore_ascii_case(b"sip")) {
        return Err(refused("the server does not speak sip over its WebSocket".to_owned()));
    }
    Ok(Some(length))
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
pub struct Memory<'a> {
    pub unread: &'a [u8],
    pub out: &'a mut Vec<u8>,
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
    fn messages_come_right_after_the_upgrade_in_pieces_of_any_size() {
        for size in [1, 2, 7, 10_000] {
            let (mut client, request) = WebSocket::new("127.0.0.1:8080");
            assert!(request.starts_with("GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"), "{request}");
            // An unmasked text of three octets, a ping, and a keep-alive as text.
            let stream =
                [answer(&request, "sip").as_bytes(), b"\x81\x03abc", b"\x89\x01x", b"\x81\x04\r\n\r\n"].concat();
            let (mut messages, mut out) = (Vec::new(), Vec::new());
            for piece in stream.chunks(size) {
                client.receive(piece, &mut Vec::new(), &mut messages, &mut out).expect("all of it is well formed");
            }
            assert!(client.is_open());
            assert_eq!(messages, [b"abc"]);
            // Masked, so that only lengths are known: a pong of one octet and a text of two.
            assert_eq!(out.len(), 2 + 4 + 1 + 2 + 4 + 2, "{out:?}");
            assert_eq!((out.first(), out.get(7)), (Some(&0x8a), Some(&0x81)));
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let (_, request) = WebSocket::new("h");
        let good = answer(&request, "sip");
        for text in [
            answer(&request, "msrp"),
            good.replace("101 Switching Protocols", "403 Forbidden"),
            good.replace("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x"),
            good.replace("Sec-WebSocket-Protocol: sip\r\n", ""),
            "SIP/2.0 200 OK\r\n\r\n".to_owned(),
            "HTTP/1.1 101 X\r\nA: b\r\n".repeat(1_000),
        ] {
            let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
            let mut client = WebSocket { stage: Stage::Upgrading { key: key.to_owned(), held: Vec::new() } };
            let outcome = client.receive(text.as_bytes(), &mut Vec::new(), &mut Vec::new(), &mut Vec::new());
            assert!(matches!(outcome, Err(Fault::Upgrade(_))), "{text}");
        }
    }

    #[test]
    fn what_is_sent_is_masked_and_a_close_ends_it() {
        let (mut client, request) = WebSocket::new("h");
        let (mut messages, mut out) = (Vec::new(), Vec::new());
        client.send(b"too early", &mut out);
        assert!(out.is_empty());
        client
            .receive(answer(&request, "sip").as_bytes(), &mut Vec::new(), &mut messages, &mut out)
            .expect("a good answer");
        client.send(b"abc", &mut out);
        client.ping(&mut out);
        assert_eq!((out.len(), out.get(..2)), (2 + 4 + 3 + 2 + 4, Some(b"\x81\x83".as_slice())));
        let closed = client.receive(b"\x88\x02\x03\xe8", &mut Vec::new(), &mut messages, &mut out);
        assert_eq!(closed, Err(Fault::Closed));
    }
}
