//! The server's side of a WebSocket that carries SIP (RFC 6455, RFC 7118), on memory: the HTTP request that opens it, then frames.
//!
//! The protocol is tungstenite's. It is given whole frames only, so that what is unfinished is held here: nothing is allocated by what
//! the header of a frame promises, and an idle WebSocket needs no buffer at all.

use super::wire::{Came, WireFault};
use sip::{Instant, Limits};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Cursor};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use client::Memory;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::Request;
use tungstenite::http::HeaderMap;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, OpCode};
use tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig, WebSocketContext};

/// Why a WebSocket ends other than in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WebSocketFault {
    /// The request for the upgrade was refused.
    Refused(Refusal),
    /// A frame that RFC 6455 does not allow.
    Protocol,
    /// A frame of a client that is not masked (RFC 6455 §5.1).
    Unmasked,
    /// A text message that is not UTF-8.
    NotUtf8,
    /// A message longer than the limit, in one frame or in several.
    TooLarge,
    /// More pings a second than are answered.
    PingFlood,
}

/// What is wrong with a request for the upgrade.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// No HTTP request, or one that cannot be read.
    Malformed,
    /// The request line and the headers are too long or too many.
    HeadTooLarge,
    /// Another method than GET.
    Method,
    /// HTTP/1.0.
    HttpVersion,
    /// No Host, or several.
    Host,
    /// An ordinary request that wants no WebSocket.
    NoUpgrade,
    /// Another version of the WebSocket protocol than 13.
    Version,
    /// No key, several, or one that is not 16 octets in base64.
    Key,
    /// The sub-protocol `sip` is not offered.
    SubProtocol,
    /// A browser's page from elsewhere.
    Origin,
}

/// One WebSocket, from its first octet on.
pub(crate) struct WebSocket {
    limits: Limits,
    /// Where pages may come from; empty: from anywhere.
    origins: Arc<[String]>,
    stage: Stage,
    /// The beginning of a request or frame that has not come as a whole.
    held: Vec<u8>,
    /// Octets of a request in which its end does not begin, so that slow senders cost no second look.
    searched: usize,
    /// A message was begun in fragments and is not at its end.
    is_fragmented: bool,
    pings: Pings,
}

enum Stage {
    /// The request is not there as a whole.
    Request,
    /// Frames come and go. The protocol's state is made when the first one does, and again after a rest.
    Open(Option<Box<WebSocketContext>>),
    /// Refused, broken or closed.
    Over,
}

impl WebSocket {
    pub(crate) fn new(limits: Limits, origins: Arc<[String]>) -> Self {
        Self {
            limits,
            origins,
            stage: Stage::Request,
            held: Vec::new(),
            searched: 0,
            is_fragmented: false,
            pings: Pings::default(),
        }
    }

    /// Takes octets as they come: adds what they turn out to be to `came`, and what is to be sent in return to `out`.
    ///
    /// # Errors
    /// The WebSocket is over; the refusal or the close frame is in `out`.
    pub(crate) fn receive(
        &mut self,
        octets: &[u8],
        now: Instant,
        came: &mut VecDeque<Came>,
        out: &mut Vec<u8>,
    ) -> Result<(), WireFault> {
        if self.held.is_empty() {
            let used = self.take(octets, now, came, out)?;
            self.held.extend_from_slice(octets.get(used..).unwrap_or_default());
        } else {
            let mut held = mem::take(&mut self.held);
            held.extend_from_slice(octets);
            let used = self.take(&held, now, came, out)?;
            held.drain(..used);
            self.held = held;
        }
        Ok(())
    }

    /// Sends one SIP message as one message of the WebSocket: as text if it is UTF-8, else as binary (RFC 7118 §5.2).
    pub(crate) fn send(&mut self, message: &[u8], out: &mut Vec<u8>) {
        let message = match std::str::from_utf8(message) {
            Ok(text) => Message::text(text),
            Err(_) => Message::binary(message.to_vec()),
        };
        self.write(message, out);
    }

    /// The peer must answer it (RFC 6455 §5.5.2).
    pub(crate) fn ping(&mut self, out: &mut Vec<u8>) {
        self.write(Message::Ping(tungstenite::Bytes::new()), out);
    }

    /// Closes in order. What the peer sent before it knew is still taken.
    pub(crate) fn close(&mut self, out: &mut Vec<u8>) {
        self.write_close(CloseCode::Normal, String::new(), out);
    }

    /// The upgrade is through, and the WebSocket not at its end.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Nothing of an unfinished request, frame or message is held.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && !self.is_fragmented
    }

    /// Gives back memory that is not needed until the next frame.
    pub(crate) fn rest(&mut self) {
        if !self.is_idle() {
            return;
        }
        self.held = Vec::new();
        if let Stage::Open(context) = &mut self.stage {
            // Once the close was sent, that has to be remembered.
            context.take_if(|context| context.can_write());
        }
    }

    /// Takes what is there as a whole, and says how many octets that was.
    fn take(
        &mut self,
        octets: &[u8],
        now: Instant,
        came: &mut VecDeque<Came>,
        out: &mut Vec<u8>,
    ) -> Result<usize, WireFault> {
        let mut used = 0;
        loop {
            let rest = octets.get(used..).unwrap_or_default();
            let taken = match self.stage {
                Stage::Request => self.take_request(rest, out)?,
                Stage::Open(_) => self.take_frame(rest, now, came, out)?,
                Stage::Over => return Ok(octets.len()),
            };
            match taken {
                Some(length) => used += length,
                None => return Ok(used),
            }
        }
    }

    /// Answers the request; its length, or `None` until it is there as a whole.
    fn take_request(&mut self, octets: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, WireFault> {
        let unseen = octets.get(self.searched..).unwrap_or_default();
        let length = unseen.windows(4).position(|window| window == b"\r\n\r\n").map(|found| self.searched + found + 4);
        if length.unwrap_or(octets.len()) > HEAD_OCTETS {
            return Err(self.refuse(Refusal::HeadTooLarge, out));
        }
        let Some(head) = length.and_then(|length| octets.get(..length)) else {
            // The end may have come in part.
            self.searched = octets.len().saturating_sub(3);
            return Ok(None);
        };
        match accept(head, &self.origins) {
            Ok(answer) => {
                out.extend_from_slice(answer.as_bytes());
                self.stage = Stage::Open(None);
                Ok(length)
            }
            Err(refusal) => Err(self.refuse(refusal, out)),
        }
    }

    /// Handles the frame that `octets` begin with; its length, or `None` until it is there as a whole.
    fn take_frame(
        &mut self,
        octets: &[u8],
        now: Instant,
        came: &mut VecDeque<Came>,
        out: &mut Vec<u8>,
    ) -> Result<Option<usize>, WireFault> {
        let (header, length) = match measure(octets, self.limits) {
            Ok(Some(measured)) => measured,
            Ok(None) => return Ok(None),
            Err(fault) => return Err(self.fail(fault, out)),
        };
        let Some(frame) = octets.get(..length) else { return Ok(None) };
        if header.opcode == OpCode::Control(Control::Ping) && !self.pings.admit(now) {
            return Err(self.fail(WebSocketFault::PingFlood, out));
        }
        self.read(frame, now, came, out)?;
        if let OpCode::Data(_) = header.opcode {
            self.is_fragmented = !header.is_final;
        }
        Ok(Some(length))
    }

    /// Lets the protocol have one frame.
    fn read(
        &mut self,
        frame: &[u8],
        now: Instant,
        came: &mut VecDeque<Came>,
        out: &mut Vec<u8>,
    ) -> Result<(), WireFault> {
        let mut memory = Memory { unread: frame, out };
        loop {
            let Some(context) = self.context() else { return Ok(()) };
            match context.read(&mut memory) {
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                    self.take_message(&message.into_data(), now, came, memory.out)?;
                }
                // A pong, and the answer to a close, is written when the context is called again.
                Ok(Message::Ping(_)) => Came::Ping.tell(came),
                Ok(Message::Pong(_)) => Came::Pong.tell(came),
                Ok(Message::Close(_) | Message::Frame(_)) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(Error::ConnectionClosed) => {
                    self.stage = Stage::Over;
                    return Err(WireFault::Closed);
                }
                Err(error) => return Err(self.fail(fault(&error), memory.out)),
            }
        }
    }

    /// A message of the WebSocket is one of SIP, or a keep-alive if it is nothing but line ends (RFC 7118 §6).
    fn take_message(
        &mut self,
        message: &[u8],
        now: Instant,
        came: &mut VecDeque<Came>,
        out: &mut Vec<u8>,
    ) -> Result<(), WireFault> {
        if message.iter().any(|octet| !matches!(octet, b'\r' | b'\n')) {
            came.push_back(Came::Message(message.to_vec()));
            return Ok(());
        }
        match message.len() {
            0 => {}
            1 | 2 => Came::Pong.tell(came),
            _ if self.pings.admit(now) => {
                self.send(b"\r\n", out);
                Came::Ping.tell(came);
            }
            _ => return Err(self.fail(WebSocketFault::PingFlood, out)),
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal, out: &mut Vec<u8>) -> WireFault {
        out.extend_from_slice(refusal.response().as_bytes());
        self.stage = Stage::Over;
        WireFault::WebSocket(WebSocketFault::Refused(refusal))
    }

    fn fail(&mut self, fault: WebSocketFault, out: &mut Vec<u8>) -> WireFault {
        self.write_close(fault.close_code(), fault.to_string(), out);
        self.stage = Stage::Over;
        WireFault::WebSocket(fault)
    }

    fn write_close(&mut self, code: CloseCode, reason: String, out: &mut Vec<u8>) {
        if let Some(context) = self.context() {
            let frame = CloseFrame { code, reason: reason.into() };
            // Fails only if the WebSocket was closed before, and is then closed all the same.
            let _closed_before = context.close(&mut Memory { unread: &[], out }, Some(frame));
        }
    }

    fn write(&mut self, message: Message, out: &mut Vec<u8>) {
        if let Some(context) = self.context() {
            // Fails only after the close: nothing is sent then.
            let _closed_before = context.write(&mut Memory { unread: &[], out }, message);
        }
    }

    /// The protocol's state; `None` before the upgrade and after the end.
    fn context(&mut self) -> Option<&mut WebSocketContext> {
        let limits = self.limits;
        let Stage::Open(context) = &mut self.stage else { return None };
        let context: &mut WebSocketContext = context.get_or_insert_with(|| Box::new(new_context(limits)));
        Some(context)
    }
}

impl WebSocketFault {
    /// How the peer is told (RFC 6455 §7.4.1). A refused request gets an HTTP response instead.
    const fn close_code(self) -> CloseCode {
        match self {
            Self::Refused(_) | Self::Protocol | Self::Unmasked => CloseCode::Protocol,
            Self::NotUtf8 => CloseCode::Invalid,
            Self::TooLarge => CloseCode::Size,
            Self::PingFlood => CloseCode::Policy,
        }
    }
}

impl fmt::Display for WebSocketFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Refused(refusal) => return write!(formatter, "websocket refused: {refusal}"),
            Self::Protocol => "websocket protocol violated",
            Self::Unmasked => "a websocket frame is not masked",
            Self::NotUtf8 => "a websocket text is not utf-8",
            Self::TooLarge => "a websocket message is too large",
            Self::PingFlood => "too many pings",
        })
    }
}

impl Refusal {
    const fn status(self) -> &'static str {
        match self {
            Self::Malformed | Self::Host | Self::NoUpgrade | Self::Key | Self::SubProtocol => "400 Bad Request",
            Self::Origin => "403 Forbidden",
            Self::Method => "405 Method Not Allowed",
            Self::Version => "426 Upgrade Required",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::HttpVersion => "505 HTTP Version Not Supported",
        }
    }

    /// The response, after which the connection closes.
    fn response(self) -> String {
        let headers = match self {
            // RFC 6455 §4.4; RFC 9110 §7.8 and §15.5.22 want both others beside it.
            Self::Version => "Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n",
            Self::Method => "Allow: GET\r\nConnection: close\r\n",
            _ => "Connection: close\r\n",
        };
        let body = format!("{self}\n");
        let (status, length) = (self.status(), body.len());
        format!("HTTP/1.1 {status}\r\n{headers}Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => "the request is not well-formed",
            Self::HeadTooLarge => "the headers are too large",
            Self::Method => "the method is not GET",
            Self::HttpVersion => "the version is not HTTP/1.1",
            Self::Host => "there is not exactly one host header",
            Self::NoUpgrade => "no upgrade to websocket is asked for",
            Self::Version => "the version of the websocket protocol is not 13",
            Self::Key => "there is not exactly one good sec-websocket-key header",
            Self::SubProtocol => "the sub-protocol sip is not offered",
            Self::Origin => "pages of this origin are not allowed",
        })
    }
}

/// The response to a request for the upgrade (RFC 6455 §4.2).
fn accept(head: &[u8], origins: &[String]) -> Result<String, Refusal> {
    let request = match Request::try_parse(head) {
        Ok(Some((length, request))) if length == head.len() => request,
        Ok(_) => return Err(Refusal::Malformed),
        Err(Error::Protocol(ProtocolError::WrongHttpMethod)) => return Err(Refusal::Method),
        Err(Error::Protocol(ProtocolError::WrongHttpVersion)) => return Err(Refusal::HttpVersion),
        Err(Error::Capacity(_)) => return Err(Refusal::HeadTooLarge),
        Err(_) => return Err(Refusal::Malformed),
    };
    let headers = request.headers();
    if single(headers, "host").is_none() {
        return Err(Refusal::Host);
    }
    if !lists(headers, "upgrade", |item| item.eq_ignore_ascii_case(b"websocket"))
        || !lists(headers, "connection", |item| item.eq_ignore_ascii_case(b"upgrade"))
    {
        return Err(Refusal::NoUpgrade);
    }
    if single(headers, "sec-websocket-version").is_none_or(|version| version != b"13") {
        return Err(Refusal::Version);
    }
    let key = single(headers, "sec-websocket-key").filter(|key| is_key(key)).ok_or(Refusal::Key)?;
    if !lists(headers, "sec-websocket-protocol", |item| item == b"sip") {
        return Err(Refusal::SubProtocol);
    }
    let is_allowed = |page: &[u8]| origins.iter().any(|origin| origin.as_bytes().eq_ignore_ascii_case(page));
    if !origins.is_empty() && headers.get_all("origin").iter().any(|page| !is_allowed(page.as_bytes().trim_ascii())) {
        return Err(Refusal::Origin);
    }
    let accepted = derive_accept_key(key);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accepted}\r\nSec-WebSocket-Protocol: sip\r\n\r\n"
    ))
}

/// The value of a header that is there exactly once.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes().trim_ascii())
}

/// Whether a header that is a list, in one line or several, has an item that is wanted.
fn lists(headers: &HeaderMap, name: &str, is_wanted: impl Fn(&[u8]) -> bool) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(|value| value.as_bytes().split(|octet| *octet == b','))
        .any(|item| is_wanted(item.trim_ascii()))
}

/// Sixteen octets in base64.
fn is_key(key: &[u8]) -> bool {
    key.strip_suffix(b"==").is_some_and(|digits| {
        digits.len() == 22 && digits.iter().all(|digit| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/'))
    })
}

/// The header of the frame that `octets` begin with and the length of the whole frame; `None` until the header is there. What would be
/// refused anyway is not waited for.
fn measure(octets: &[u8], limits: Limits) -> Result<Option<(FrameHeader, usize)>, WebSocketFault> {
    let mut cursor = Cursor::new(octets);
    let parsed = FrameHeader::parse(&mut cursor).map_err(|_| WebSocketFault::Protocol)?;
    let Some((header, payload)) = parsed else { return Ok(None) };
    if header.mask.is_none() {
        return Err(WebSocketFault::Unmasked);
    }
    let (most, fault) = match header.opcode {
        OpCode::Data(_) => (limits.message_bytes, WebSocketFault::TooLarge),
        OpCode::Control(_) => (CONTROL_OCTETS, WebSocketFault::Protocol),
    };
    let payload = usize::try_from(payload).ok().filter(|length| *length <= most).ok_or(fault)?;
    // The cursor stands behind the header: at most 14 octets.
    Ok(Some((header, payload.saturating_add(cursor.position() as usize))))
}

fn fault(error: &Error) -> WebSocketFault {
    match error {
        Error::Capacity(_) => WebSocketFault::TooLarge,
        Error::Utf8(_) => WebSocketFault::NotUtf8,
        _ => WebSocketFault::Protocol,
    }
}

fn new_context(limits: Limits) -> WebSocketContext {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_OCTETS)
        .write_buffer_size(0)
        .max_message_size(Some(limits.message_bytes))
        .max_frame_size(Some(limits.message_bytes.max(CONTROL_OCTETS)))
        .accept_unmasked_frames(false);
    WebSocketContext::new(Role::Server, Some(config))
}

/// The pings of this second: each costs us an answer.
#[derive(Default)]
struct Pings {
    since: Instant,
    count: u32,
}

impl Pings {
    fn admit(&mut self, now: Instant) -> bool {
        if now.saturating_since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= PINGS_A_SECOND
    }
}

/// The longest request line with headers.
const HEAD_OCTETS: usize = 8192;
/// The longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_OCTETS: usize = 125;
/// The pings of one peer that are answered in a second.
const PINGS_A_SECOND: u32 = 10;
/// How much the protocol copies of a frame at once: more than most SIP messages have, and given back by `rest`.
const READ_OCTETS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::testing::{UPGRADE, UPGRADED, masked};

    const ONE: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\n\r\n";
    const LIMITS: Limits = Limits { message_bytes: 1000, headers: 256 };
    const CLOSE_NORMAL: [u8; 4] = [0x88, 2, 0x03, 0xe8];

    /// What became of octets.
    #[derive(PartialEq, Debug)]
    struct Outcome {
        came: Vec<Came>,
        out: Vec<u8>,
        verdict: Result<(), WireFault>,
    }

    fn start() -> Instant {
        Instant::from_micros(5_000_000)
    }

    /// Gives a WebSocket octets in pieces of `size`, until it is over.
    fn fed(web_socket: &mut WebSocket, octets: &[u8], size: usize, now: Instant) -> Outcome {
        let (mut came, mut out, mut verdict) = (VecDeque::new(), Vec::new(), Ok(()));
        for piece in octets.chunks(size) {
            verdict = web_socket.receive(piece, now, &mut came, &mut out);
            if verdict.is_err() {
                break;
            }
        }
        Outcome { came: came.into(), out, verdict }
    }

    fn closed_web_socket(origins: &[&str]) -> WebSocket {
        let origins: Vec<String> = origins.iter().map(|origin| (*origin).to_owned()).collect();
        WebSocket::new(LIMITS, Arc::from(origins))
    }

    fn open_web_socket() -> WebSocket {
        let mut web_socket = closed_web_socket(&[]);
        let outcome = fed(&mut web_socket, UPGRADE.as_bytes(), 10_000, start());
        assert_eq!(outcome, Outcome { came: vec![], out: UPGRADED.as_bytes().to_vec(), verdict: Ok(()) });
        web_socket
    }

    fn message(octets: &[u8]) -> Came {
        Came::Message(octets.to_vec())
    }

    /// The close frame that we send for a fault.
    fn closing(code: u16, fault: WebSocketFault) -> Vec<u8> {
        let reason = fault.to_string();
        let length = u8::try_from(reason.len() + 2).expect("short");
        [[0x88, length].as_slice(), &code.to_be_bytes(), reason.as_bytes()].concat()
    }

    /// The request for the upgrade with one part replaced.
    fn changed(part: &str, by: &str) -> String {
        assert!(UPGRADE.contains(part), "{part}");
        UPGRADE.replacen(part, by, 1)
    }

    /// The answer to a request, which is the same in one piece and octet by octet.
    fn answer(origins: &[&str], request: &str) -> String {
        let whole = fed(&mut closed_web_socket(origins), request.as_bytes(), 100_000, start());
        let single = fed(&mut closed_web_socket(origins), request.as_bytes(), 1, start());
        assert_eq!(whole, single);
        assert_eq!(whole.verdict.is_ok(), whole.out == UPGRADED.as_bytes());
        String::from_utf8(whole.out).expect("http is text")
    }

    fn status(origins: &[&str], request: &str) -> String {
        answer(origins, request).chars().skip("HTTP/1.1 ".len()).take(3).collect()
    }

    #[test]
    fn item_36_requests_and_their_status() {
        let cases = [
            ("GET", "GET", "101"),
            ("GET", "POST", "405"),
            ("GET", "get", "405"),
            ("HTTP/1.1", "HTTP/1.0", "505"),
            ("HTTP/1.1", "HTTP/2.0", "400"),
            ("GET /ws HTTP/1.1", "REGISTER sip:a SIP/2.0", "400"),
            ("GET /ws HTTP/1.1", "GET /ws", "400"),
            ("GET /ws HTTP/1.1", "\u{16}\u{3}\u{1}", "400"),
            ("Host: sip.example.com\r\n", "", "400"),
            ("Host: sip.example.com\r\n", "Host: a\r\nHost: b\r\n", "400"),
            ("Host: ", "Host : ", "400"),
            ("sip.example.com\r\n", "sip.example.com\n\r\n", "400"),
            ("Upgrade: websocket\r\n", "", "400"),
            ("Upgrade: websocket", "Upgrade: h2c", "400"),
            ("Upgrade: websocket", "upgrade: h2c, WebSocket", "101"),
            ("Connection: Upgrade", "Connection: close", "400"),
            ("Connection: Upgrade", "Connection: keep-alive,upgrade", "101"),
            ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: Upgrade", "101"),
            ("Version: 13", "Version: 8", "426"),
            ("Version: 13", "Version: 8\r\nSec-WebSocket-Version: 13", "426"),
            ("Sec-WebSocket-Version: 13\r\n", "", "426"),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", "400"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZ!==", "400"),
            ("Key: ", "Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Key: ", "400"),
            ("Sec-WebSocket-Protocol: sip\r\n", "", "400"),
            ("Protocol: sip", "Protocol: chat", "400"),
            ("Protocol: sip", "Protocol: sips", "400"),
            ("Protocol: sip", "Protocol: msrp, sip", "101"),
            ("Protocol: sip", "Protocol: msrp\r\nSec-WebSocket-Protocol: sip", "101"),
        ];
        for (part, by, wanted) in cases {
            assert_eq!(status(&[], &changed(part, by)), wanted, "{part:?} replaced by {by:?}");
        }
    }

    #[test]
    fn a_refusal_is_a_whole_response() {
        let refused = answer(&[], &changed("Version: 13", "Version: 8"));
        assert!(refused.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{refused}");
        assert!(refused.contains("\r\nConnection: Upgrade, close\r\n"), "{refused}");
        assert!(answer(&[], &changed("GET", "PUT")).contains("\r\nAllow: GET\r\n"));
        for part in ["GET", "HTTP/1.1", "Version: 13", "Protocol: sip"] {
            let response = answer(&[], &changed(part, "X"));
            let (head, body) = response.split_once("\r\n\r\n").expect("an end of headers");
            assert!(head.ends_with(&format!("\r\nContent-Length: {}", body.len())), "{head}");
            assert!(head.contains("close\r\n") && !body.is_empty());
        }
    }

    #[test]
    fn item_36_pages_come_from_where_they_may() {
        let ours = ["https://phone.example.com", "https://other.example.com:8443"];
        let from = |origin: &str| changed("Host:", &format!("Origin: {origin}\r\nHost:"));
        assert_eq!(status(&ours, UPGRADE), "101", "what sends no origin is no browser");
        assert_eq!(status(&ours, &from("HTTPS://Phone.Example.com")), "101");
        assert_eq!(status(&ours, &from("https://other.example.com:8443")), "101");
        for origin in ["https://phone.example.com.evil.example", "http://phone.example.com", "null", ""] {
            assert_eq!(status(&ours, &from(origin)), "403", "{origin}");
            assert_eq!(status(&[], &from(origin)), "101", "{origin}");
        }
        assert_eq!(status(&ours, &from("https://phone.example.com\r\nOrigin: https://evil.example")), "403");
    }

    #[test]
    fn a_request_has_8192_octets_at_most() {
        let padded = |length: usize| {
            let pad = length - UPGRADE.len() - "X: \r\n".len();
            changed("Host:", &format!("X: {}\r\nHost:", "a".repeat(pad)))
        };
        assert_eq!(padded(8192).len(), 8192);
        assert_eq!(status(&[], &padded(8192)), "101");
        assert_eq!(status(&[], &padded(8193)), "431");
        assert_eq!(status(&[], &format!("GET /{}", "a".repeat(8188))), "431", "nobody waits for the end");
        assert_eq!(status(&[], &changed("Host:", &format!("{}Host:", "X: y\r\n".repeat(200)))), "431");
        let mut unfinished = closed_web_socket(&[]);
        let outcome = fed(&mut unfinished, &[b'a'; 8192], 100, start());
        assert_eq!(outcome, Outcome { came: vec![], out: vec![], verdict: Ok(()) });
        assert!(!unfinished.is_idle() && !unfinished.is_open());
    }

    #[test]
    fn item_36_frames_may_come_in_pieces_of_any_size_right_after_the_request() {
        let stream = [
            UPGRADE.as_bytes(),
            &masked(0x81, ONE),
            &masked(0x01, &ONE[..5]),
            &masked(0x89, b"hi"),
            &masked(0x00, &ONE[5..5]),
            &masked(0x80, &ONE[5..]),
            &masked(0x82, &[0xff; 1000]),
            &masked(0x8a, b""),
        ]
        .concat();
        let wanted = Outcome {
            came: vec![message(ONE), Came::Ping, message(ONE), message(&[0xff; 1000]), Came::Pong],
            out: [UPGRADED.as_bytes(), &[0x8a, 2], b"hi"].concat(),
            verdict: Ok(()),
        };
        for size in (1..20).chain([stream.len()]) {
            let mut web_socket = closed_web_socket(&[]);
            assert_eq!(fed(&mut web_socket, &stream, size, start()), wanted, "in pieces of {size}");
            assert!(web_socket.is_open() && web_socket.is_idle());
        }
    }

    #[test]
    fn what_is_unfinished_is_not_idle() {
        let mut web_socket = open_web_socket();
        assert!(web_socket.is_idle());
        for octet in masked(0x01, b"a") {
            fed(&mut web_socket, &[octet], 1, start());
            assert!(!web_socket.is_idle());
        }
        fed(&mut web_socket, &masked(0x89, b""), 100, start());
        assert!(!web_socket.is_idle(), "a control frame ends no message");
        web_socket.rest();
        let outcome = fed(&mut web_socket, &masked(0x80, b"b"), 100, start());
        assert_eq!(outcome.came, [message(b"ab")]);
        assert!(web_socket.is_idle());
    }

    #[test]
    fn item_36_faults_and_the_codes_that_tell_them() {
        use WebSocketFault::{NotUtf8, Protocol, TooLarge, Unmasked};
        let cases: [(&str, Vec<u8>, WebSocketFault, u16); 13] = [
            ("no mask", b"\x81\x01x".to_vec(), Unmasked, 1002),
            ("a reserved bit", masked(0xc1, b"x"), Protocol, 1002),
            ("a reserved data opcode", masked(0x83, b"x"), Protocol, 1002),
            ("a reserved control opcode", masked(0x8b, b"x"), Protocol, 1002),
            ("nothing to go on with", masked(0x80, b"x"), Protocol, 1002),
            ("a message within another", [masked(0x01, b"x"), masked(0x81, b"x")].concat(), Protocol, 1002),
            ("a ping in fragments", masked(0x09, b""), Protocol, 1002),
            ("a ping too long", masked(0x89, &[b'x'; 126]), Protocol, 1002),
            ("half a close code", masked(0x88, b"x"), Protocol, 1002),
            ("a text that is none", masked(0x81, &[b'a', 0xff]), NotUtf8, 1007),
            ("a message too long", masked(0x82, &[b'x'; 1001]), TooLarge, 1009),
            ("fragments too long", [masked(0x02, &[b'x'; 600]), masked(0x80, &[b'x'; 401])].concat(), TooLarge, 1009),
            ("a length without end", b"\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00mask".to_vec(), TooLarge, 1009),
        ];
        for (what, frames, fault, code) in cases {
            for size in [1, 2, 5, 10_000] {
                let mut web_socket = open_web_socket();
                let stream = [masked(0x81, ONE), frames.clone()].concat();
                let wanted = Outcome {
                    came: vec![message(ONE)],
                    out: closing(code, fault),
                    verdict: Err(WireFault::WebSocket(fault)),
                };
                assert_eq!(fed(&mut web_socket, &stream, size, start()), wanted, "{what}, in pieces of {size}");
                let mut out = Vec::new();
                web_socket.send(ONE, &mut out);
                web_socket.ping(&mut out);
                web_socket.close(&mut out);
                assert_eq!(out, b"", "{what}");
            }
        }
    }

    #[test]
    fn messages_are_as_long_as_the_limit_in_one_frame_or_several() {
        let long = [b'x'; 1000];
        let stream = [masked(0x81, &long), masked(0x01, &long[..999]), masked(0x80, &long[999..])].concat();
        let outcome = fed(&mut open_web_socket(), &stream, 10_000, start());
        assert_eq!(outcome, Outcome { came: vec![message(&long), message(&long)], out: vec![], verdict: Ok(()) });
    }

    #[test]
    fn a_promised_length_allocates_nothing() {
        let limits = Limits { message_bytes: 1 << 30, headers: 256 };
        let mut web_socket = WebSocket { limits, ..open_web_socket() };
        let outcome = fed(&mut web_socket, b"\x82\xff\x00\x00\x00\x00\x3b\x9a\xca\x00maskx", 100, start());
        assert_eq!(outcome, Outcome { came: vec![], out: vec![], verdict: Ok(()) });
        assert!(web_socket.held.capacity() < 100 && !web_socket.is_idle());
        assert!(matches!(web_socket.stage, Stage::Open(None)));
    }

    #[test]
    fn item_36_messages_go_out_as_text_if_they_are_text() {
        let mut web_socket = open_web_socket();
        let mut out = Vec::new();
        web_socket.send(ONE, &mut out);
        web_socket.send(b"\xff\xfe", &mut out);
        web_socket.send(&[b'x'; 300], &mut out);
        let length = u8::try_from(ONE.len()).expect("short");
        let wanted = [[0x81, length].as_slice(), ONE, b"\x82\x02\xff\xfe", &[0x81, 126, 1, 44], &[b'x'; 300]].concat();
        assert_eq!(out, wanted);
    }

    #[test]
    fn a_message_of_line_ends_is_a_keep_alive() {
        let cases: [(Vec<u8>, Vec<Came>, &[u8]); 4] = [
            (masked(0x81, b"\r\n\r\n"), vec![Came::Ping], b"\x81\x02\r\n"),
            (masked(0x82, b"\r\n\r\n"), vec![Came::Ping], b"\x81\x02\r\n"),
            (masked(0x81, b"\r\n"), vec![Came::Pong], b""),
            (masked(0x81, b""), vec![], b""),
        ];
        for (frames, came, out) in cases {
            let outcome = fed(&mut open_web_socket(), &frames, 100, start());
            assert_eq!(outcome, Outcome { came, out: out.to_vec(), verdict: Ok(()) });
        }
    }

    #[test]
    fn ten_pings_a_second_are_answered() {
        let cases: [(Vec<u8>, &[u8]); 2] =
            [(masked(0x89, b""), b"\x8a\x00"), (masked(0x81, b"\r\n\r\n"), b"\x81\x02\r\n")];
        for (ping, pong) in cases {
            let mut web_socket = open_web_socket();
            let mut now = start();
            for _ in 0..3 {
                let outcome = fed(&mut web_socket, &ping.repeat(10), 7, now);
                assert_eq!(outcome, Outcome { came: vec![Came::Ping], out: pong.repeat(10), verdict: Ok(()) });
                now += Duration::from_secs(1);
            }
            let outcome = fed(&mut web_socket, &ping.repeat(11), 7, now);
            let flood = WebSocketFault::PingFlood;
            assert_eq!(outcome.out, [pong.repeat(10), closing(1008, flood)].concat());
            assert_eq!(outcome.verdict, Err(WireFault::WebSocket(flood)));
        }
    }

    #[test]
    fn the_peer_closes_in_order() {
        for frame in [masked(0x88, &[0x03, 0xe8]), masked(0x88, b"")] {
            let mut web_socket = open_web_socket();
            let stream = [masked(0x81, ONE), frame.clone(), masked(0x81, ONE)].concat();
            let outcome = fed(&mut web_socket, &stream, 1, start());
            assert_eq!((outcome.came, outcome.verdict), (vec![message(ONE)], Err(WireFault::Closed)));
            assert!(outcome.out.starts_with(&[0x88]) && outcome.out.len() == frame.len() - 4, "the close is echoed");
            assert!(!web_socket.is_open());
            let mut out = Vec::new();
            web_socket.send(ONE, &mut out);
            assert_eq!(out, b"");
        }
    }

    #[test]
    fn we_close_in_order() {
        let mut web_socket = open_web_socket();
        let mut out = Vec::new();
        web_socket.close(&mut out);
        assert_eq!(out, CLOSE_NORMAL);
        web_socket.rest();
        web_socket.close(&mut out);
        web_socket.send(ONE, &mut out);
        web_socket.ping(&mut out);
        assert_eq!(out, CLOSE_NORMAL, "nothing follows the close");
        let stream = [masked(0x81, ONE), masked(0x88, &[0x03, 0xe8])].concat();
        let outcome = fed(&mut web_socket, &stream, 1, start());
        assert_eq!(
            outcome,
            Outcome { came: vec![message(ONE)], out: vec![], verdict: Err(WireFault::Closed) },
            "what was under way is still taken"
        );
    }

    #[test]
    fn an_idle_web_socket_holds_no_buffer() {
        let mut web_socket = open_web_socket();
        let outcome = fed(&mut web_socket, &masked(0x81, &[b'x'; 1000]), 10, start());
        assert_eq!(outcome.came.len(), 1);
        let mut out = Vec::new();
        web_socket.send(ONE, &mut out);
        assert!(web_socket.held.capacity() > 0 && matches!(web_socket.stage, Stage::Open(Some(_))));
        web_socket.rest();
        assert!(web_socket.held.capacity() == 0 && matches!(web_socket.stage, Stage::Open(None)));
        assert!(size_of::<WebSocket>() < 200, "{} octets", size_of::<WebSocket>());
    }
}
