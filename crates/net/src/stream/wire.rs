//! One peer's octets turned into messages, and messages into octets: TLS, WebSocket and the framing of SIP, stacked.
//!
//! There is no socket here. Octets go in by [`Wire::receive`] and wait in [`Wire::outgoing`] for whoever owns the socket. Whatever ends
//! a wire is told in its place in the stream: after the messages that came before it.

mod framed;
mod secured;

use super::websocket::{WebSocket, WebSocketFault};
use framed::Framed;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use secured::Tls;
use sip::frame::FrameFault;
use sip::{Instant, Limits};
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::sync::Arc;

/// What a peer's octets turned out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// One SIP message. That of a WebSocket is framed by the WebSocket, whatever its Content-Length says.
    Message(Vec<u8>),
    /// A keep-alive: CRLFCRLF, already answered by CRLF in `outgoing` (RFC 5626 §3.5.1), or a WebSocket's ping, answered by a pong.
    /// Several in a row are told once.
    Ping,
    /// The answer to a ping of ours. Several in a row are told once.
    Pong,
}

/// Why a wire cannot be followed any further: the connection is to be closed. Every reason has a counter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum WireFault {
    /// Nobody knows where the next message begins.
    Framing(FrameFault),
    /// A bad record, an alert, no common version, a certificate that was not accepted …: the text is for the log.
    Tls(String),
    /// The WebSocket was refused or broken.
    WebSocket(WebSocketFault),
    /// The peer closed in order.
    Closed,
}

/// One peer's octets on their way in and out.
///
/// It needs no memory but its own while nothing is under way: see [`Wire::rest`].
pub(crate) struct Wire {
    tls: Option<Box<Tls>>,
    above: Above,
    limits: Limits,
    /// Octets for the socket. The first `sent` of them were written already.
    outgoing: Vec<u8>,
    sent: usize,
    /// Messages that wait for the handshake, and how many octets they are.
    waiting: Vec<Vec<u8>>,
    waiting_octets: usize,
    came: VecDeque<Came>,
    fault: Option<WireFault>,
    /// `next` has handed out the fault.
    told: bool,
    /// `close` was called.
    closing: bool,
}

impl Wire {
    /// SIP over TCP.
    pub(crate) fn plain(limits: Limits) -> Self {
        Self::over(None, limits)
    }

    /// The server's side of SIP over TLS.
    pub(crate) fn tls_server(config: Arc<ServerConfig>, limits: Limits) -> Result<Self, rustls::Error> {
        let connection = ServerConnection::new(config)?;
        Ok(Self::over(Some(Tls::new(Connection::Server(connection))), limits))
    }

    /// The client's side of SIP over TLS, towards a server that is to prove to be `name`. The first flight of the handshake waits in
    /// `outgoing` at once.
    pub(crate) fn tls_client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        limits: Limits,
    ) -> Result<Self, rustls::Error> {
        let connection = ClientConnection::new(config, name)?;
        let mut wire = Self::over(Some(Tls::new(Connection::Client(connection))), limits);
        wire.settle();
        Ok(wire)
    }

    /// The server's side of a WebSocket, over plain TCP or TLS. With `origins`, a browser's page must come from one of them.
    pub(crate) fn with_web_socket(self, origins: Arc<[String]>) -> Self {
        let above = Above::WebSocket(Box::new(WebSocket::new(self.limits, origins)));
        Self { above, ..self }
    }

    fn over(tls: Option<Tls>, limits: Limits) -> Self {
        Self {
            tls: tls.map(Box::new),
            above: Above::Framed(Framed::new(limits)),
            limits,
            outgoing: Vec::new(),
            sent: 0,
            waiting: Vec::new(),
            waiting_octets: 0,
            came: VecDeque::new(),
            fault: None,
            told: false,
            closing: false,
        }
    }

    /// Takes octets from the socket. Afterwards call `next` until `None`, then send `outgoing`. A fault in these octets is told by
    /// `next`, after what came before it.
    ///
    /// # Errors
    /// The wire was over before, for the reason given.
    pub(crate) fn receive(&mut self, octets: &[u8], now: Instant) -> Result<(), WireFault> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        if self.closing {
            return Ok(());
        }
        let mut answers = Vec::new();
        let (above, came) = (&mut self.above, &mut self.came);
        let mut read = |plain: &[u8]| above.receive(plain, now, came, &mut answers);
        let verdict = match &mut self.tls {
            Some(tls) => tls.receive(octets, &mut read),
            None => read(octets),
        };
        if !self.is_deaf() {
            self.put(&answers);
        }
        self.fault = verdict.err();
        if let (Some(tls), Some(fault)) = (&mut self.tls, &self.fault)
            && !matches!(fault, WireFault::Tls(_))
        {
            // A fault above TLS is none of TLS, and a good-bye is answered.
            tls.connection.send_close_notify();
        }
        self.settle();
        Ok(())
    }

    /// What came, in order; `None` until more octets have come. A fault is the last thing told.
    pub(crate) fn next(&mut self) -> Option<Result<Came, WireFault>> {
        if let Some(came) = self.came.pop_front() {
            return Some(Ok(came));
        }
        if mem::replace(&mut self.told, self.fault.is_some()) {
            return None;
        }
        self.fault.clone().map(Err)
    }

    /// The socket's end was read. Why the connection is over: for the reason known before, if there is one. An end without the good-bye
    /// of TLS or WebSocket counts as one in order, since many peers leave like that and Content-Length shows what is incomplete; but a
    /// TLS handshake that was begun has failed.
    pub(crate) fn end(&mut self) -> WireFault {
        let fault = match (self.fault.take(), &self.tls) {
            (Some(fault), _) => fault,
            (None, Some(tls)) if tls.heard && tls.connection.is_handshaking() => {
                WireFault::Tls("the peer ended the connection during the handshake".to_owned())
            }
            (None, _) => WireFault::Closed,
        };
        self.fault = Some(fault.clone());
        self.told = true;
        fault
    }

    /// Queues one message. Kept until the handshake is over. After a fault and after `close` nothing is sent any more.
    pub(crate) fn send(&mut self, message: &[u8]) {
        if self.is_over() {
            return;
        }
        if self.is_established() {
            self.encode(message);
        } else {
            self.waiting_octets += message.len();
            self.waiting.push(message.to_vec());
        }
    }

    /// CRLFCRLF as clients send it (RFC 5626 §3.5.1), or a WebSocket ping. Nothing before the handshake is over.
    pub(crate) fn ping(&mut self) {
        if self.is_over() || !self.is_established() {
            return;
        }
        match &mut self.above {
            Above::Framed(framed) => {
                framed.pongs_awaited = framed.pongs_awaited.saturating_add(1);
                self.put(b"\r\n\r\n");
            }
            Above::WebSocket(web_socket) => {
                let mut frame = Vec::new();
                web_socket.ping(&mut frame);
                self.put(&frame);
            }
        }
    }

    /// Awaits no answers to pings any more: a line end is half a ping of the peer's from now on.
    pub(crate) fn forget_pings(&mut self) {
        if let Above::Framed(framed) = &mut self.above {
            framed.pongs_awaited = 0;
        }
    }

    pub(crate) fn is_web_socket(&self) -> bool {
        matches!(self.above, Above::WebSocket(_))
    }

    /// TLS close_notify, WebSocket close 1000. What comes afterwards is not looked at.
    pub(crate) fn close(&mut self) {
        if mem::replace(&mut self.closing, true) {
            return;
        }
        if let Above::WebSocket(web_socket) = &mut self.above {
            let mut frame = Vec::new();
            web_socket.close(&mut frame);
            self.put(&frame);
        }
        if let Some(tls) = &mut self.tls {
            tls.connection.send_close_notify();
            tls.pull(&mut self.outgoing);
        }
    }

    /// Octets that are to be written to the socket.
    pub(crate) fn outgoing(&self) -> &[u8] {
        self.outgoing.get(self.sent..).unwrap_or_default()
    }

    /// The socket took the first `count` octets of `outgoing`.
    pub(crate) fn written(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.outgoing.len() {
            self.outgoing.clear();
            self.sent = 0;
        } else if self.sent >= MOVE_OCTETS {
            self.outgoing.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Octets that wait: of messages not yet encrypted too. What a send queue's limit counts.
    pub(crate) fn queued(&self) -> usize {
        self.outgoing().len() + self.waiting_octets
    }

    /// TLS and the upgrade are through.
    pub(crate) fn is_established(&self) -> bool {
        self.tls.as_ref().is_none_or(|tls| !tls.connection.is_handshaking()) && self.above.is_open()
    }

    /// Nothing of an unfinished message, frame or TLS record is held.
    pub(crate) fn is_idle(&self) -> bool {
        self.came.is_empty() && self.above.is_idle() && self.tls.as_ref().is_none_or(|tls| tls.records.is_between())
    }

    /// So many octets are more than a keep-alive has on the wire, and less than any message. `None` where the next octets may belong to
    /// something longer: before the handshake is over, after a fault, and while something is half received.
    pub(crate) fn beyond_keep_alive(&self) -> Option<u16> {
        if self.is_over() || !self.is_established() || !self.is_idle() {
            return None;
        }
        let frame = if self.is_web_socket() { FRAME_OCTETS } else { 0 };
        let record = if self.tls.is_some() { RECORD_OCTETS } else { 0 };
        Some(PING_OCTETS + frame + record + 1)
    }

    /// The certificate that the peer showed and that was verified (mutual TLS). Only a client's counts: whether a server that we
    /// connected to was verified is what the configuration says of it.
    pub(crate) fn verified_client(&self) -> Option<&CertificateDer<'static>> {
        self.tls.as_ref().and_then(|tls| tls.verified_client())
    }

    /// Gives back memory that an idle connection does not need: buffers shrink to nothing. Between two messages nothing is lost by it.
    pub(crate) fn rest(&mut self) {
        if self.outgoing().is_empty() {
            self.outgoing = Vec::new();
            self.sent = 0;
        }
        if self.waiting.is_empty() {
            self.waiting = Vec::new();
        }
        if self.came.is_empty() {
            self.came = VecDeque::new();
        }
        self.above.rest();
    }

    fn is_over(&self) -> bool {
        self.fault.is_some() || self.closing
    }

    /// A peer that sends CRLFCRLF and reads no answers gets no more of them: they would pile up here. What a WebSocket answers is
    /// bounded by itself.
    fn is_deaf(&self) -> bool {
        matches!(self.above, Above::Framed(_)) && self.outgoing().len() > UNREAD_OCTETS
    }

    /// Sends what waited for the handshake, and takes what TLS has to say of its own.
    fn settle(&mut self) {
        if !self.waiting.is_empty() && !self.is_over() && self.is_established() {
            self.waiting_octets = 0;
            for message in mem::take(&mut self.waiting) {
                self.encode(&message);
            }
        }
        if let Some(tls) = &mut self.tls {
            tls.pull(&mut self.outgoing);
        }
    }

    fn encode(&mut self, message: &[u8]) {
        match &mut self.above {
            Above::Framed(_) => self.put(message),
            Above::WebSocket(web_socket) => {
                let mut frame = Vec::new();
                web_socket.send(message, &mut frame);
                self.put(&frame);
            }
        }
    }

    fn put(&mut self, plain: &[u8]) {
        match &mut self.tls {
            Some(tls) => tls.send(plain, &mut self.outgoing),
            None => self.outgoing.extend_from_slice(plain),
        }
    }
}

impl Came {
    /// Adds this to what came, unless it is a keep-alive that was told just before.
    pub(super) fn tell(self, came: &mut VecDeque<Came>) {
        let is_repeated = !matches!(self, Came::Message(_)) && came.back() == Some(&self);
        if !is_repeated {
            came.push_back(self);
        }
    }
}

impl fmt::Display for WireFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Framing(fault) => write!(formatter, "{fault}"),
            Self::Tls(text) => write!(formatter, "tls: {text}"),
            Self::WebSocket(fault) => write!(formatter, "{fault}"),
            Self::Closed => formatter.write_str("closed by the peer"),
        }
    }
}

impl std::error::Error for WireFault {}

/// What stands above TCP or TLS.
enum Above {
    Framed(Framed),
    WebSocket(Box<WebSocket>),
}

impl Above {
    fn receive(
        &mut self,
        octets: &[u8],
        now: Instant,
        came: &mut VecDeque<Came>,
        answers: &mut Vec<u8>,
    ) -> Result<(), WireFault> {
        match self {
            Self::Framed(framed) => framed.receive(octets, came, answers).map_err(WireFault::Framing),
            Self::WebSocket(web_socket) => web_socket.receive(octets, now, came, answers),
        }
    }

    fn is_open(&self) -> bool {
        match self {
            Self::Framed(_) => true,
            Self::WebSocket(web_socket) => web_socket.is_open(),
        }
    }

    fn is_idle(&self) -> bool {
        match self {
            Self::Framed(framed) => framed.is_idle(),
            Self::WebSocket(web_socket) => web_socket.is_idle(),
        }
    }

    fn rest(&mut self) {
        match self {
            Self::Framed(framed) => framed.rest(),
            Self::WebSocket(web_socket) => web_socket.rest(),
        }
    }
}

/// Written octets at the front of the queue that are worth moving the rest for.
const MOVE_OCTETS: usize = 64 * 1024;
/// Octets that wait for a peer before its keep-alives are no longer answered.
const UNREAD_OCTETS: usize = 4096;
/// CRLFCRLF (RFC 5626 §3.5.1). Its answer has two octets, and a WebSocket's ping or pong mostly none.
const PING_OCTETS: u16 = 4;
/// What a client's short frame has around its payload: a header of two octets and a mask of four (RFC 6455 §5.2).
const FRAME_OCTETS: u16 = 6;
/// The most that a record has around what it carries. TLS 1.2 by AES-GCM: a header of 5 octets, a nonce of 8 and a tag of 16 (RFC 5288
/// §3); TLS 1.3: a header of 5, a type of 1 and a tag of 16 (RFC 8446 §5.2).
const RECORD_OCTETS: u16 = 29;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::testing::{Authority, Leaf, UPGRADE, UPGRADED, authority, masked};
    use crate::stream::websocket::Refusal;
    use rustls::SupportedProtocolVersion;
    use rustls::version::{TLS12, TLS13};

    const ONE: &[u8] = b"OPTIONS sip:a@b SIP/2.0\r\nl: 4\r\n\r\n\r\n\r\n";
    /// All happens at once.
    const NOW: Instant = Instant::from_micros(1);
    const TWO: &[u8] = b"SIP/2.0 200 OK\r\nContent-Length : 0\r\n\r\n";

    static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

    type Told = Result<Came, WireFault>;

    fn plain() -> Wire {
        Wire::plain(Limits::default())
    }

    fn message(octets: &[u8]) -> Told {
        Ok(Came::Message(octets.to_vec()))
    }

    /// A request with a body of so many octets.
    fn request(body: usize) -> Vec<u8> {
        let mut request = format!("MESSAGE sip:a@b SIP/2.0\r\nContent-Length: {body}\r\n\r\n").into_bytes();
        request.resize(request.len() + body, b'x');
        request
    }

    fn told(wire: &mut Wire) -> Vec<Told> {
        std::iter::from_fn(|| wire.next()).collect()
    }

    /// All that a wire tells of a stream that arrives in pieces of `size` octets.
    fn fed(wire: &mut Wire, stream: &[u8], size: usize) -> Vec<Told> {
        let mut all = Vec::new();
        for piece in stream.chunks(size) {
            if wire.receive(piece, NOW).is_err() {
                break;
            }
            all.extend(told(wire));
        }
        all
    }

    fn write_all(wire: &mut Wire) -> Vec<u8> {
        let octets = wire.outgoing().to_vec();
        wire.written(octets.len());
        octets
    }

    #[test]
    fn messages_and_keep_alives_in_pieces_of_any_size() {
        let stream = [b"\r\n".as_slice(), ONE, b"\r\n", TWO, b"\r\n\r\n", ONE, TWO, b"\r\n\r\n"].concat();
        let wanted = [message(ONE), message(TWO), Ok(Came::Ping), message(ONE), message(TWO), Ok(Came::Ping)];
        for size in 1..=stream.len() {
            let mut wire = plain();
            assert_eq!(fed(&mut wire, &stream, size), wanted, "in pieces of {size}");
            assert_eq!(wire.outgoing(), b"\r\n\r\n", "each ping is answered by one line end");
            assert!(wire.is_idle() && wire.is_established());
        }
    }

    #[test]
    fn answers_to_our_pings_are_told_from_pings() {
        let stream = [ONE, b"\r\n", TWO, b"\r\n", ONE].concat();
        let wanted = [message(ONE), Ok(Came::Pong), message(TWO), Ok(Came::Pong), message(ONE)];
        for size in 1..=stream.len() {
            let mut wire = plain();
            wire.ping();
            wire.ping();
            assert_eq!(write_all(&mut wire), b"\r\n\r\n\r\n\r\n");
            assert_eq!(fed(&mut wire, &stream, size), wanted, "in pieces of {size}");
            assert_eq!(wire.outgoing(), b"");
        }
        assert_eq!(fed(&mut plain(), &stream, 1), [message(ONE), message(TWO), message(ONE)], "nobody asked");
    }

    #[test]
    fn answers_that_nobody_awaits_any_more_are_halves_of_pings() {
        let mut wire = plain();
        wire.ping();
        write_all(&mut wire);
        wire.forget_pings();
        assert_eq!(fed(&mut wire, b"\r\n\r\n", 1), [Ok(Came::Ping)]);
        assert_eq!(wire.outgoing(), b"\r\n");
    }

    #[test]
    fn a_ping_and_an_answer_may_cross() {
        for size in 1..=6 {
            let mut wire = plain();
            wire.ping();
            write_all(&mut wire);
            assert_eq!(fed(&mut wire, b"\r\n\r\n\r\n", size), [Ok(Came::Pong), Ok(Came::Ping)], "in pieces of {size}");
            assert_eq!(wire.outgoing(), b"\r\n");
        }
        let mut wire = plain();
        assert!(fed(&mut wire, b"\r\n", 2).is_empty());
        wire.ping();
        assert_eq!(fed(&mut wire, b"\r\n", 1), [Ok(Came::Pong)], "the line end of before is no part of it");
        assert_eq!(fed(&mut wire, ONE, 1), [message(ONE)]);
    }

    #[test]
    fn what_cannot_be_followed_ends_the_stream_in_its_place() {
        let cases: [(&[u8], FrameFault); 11] = [
            (b"garbage\r\n\r\n", FrameFault::LengthMissing),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", FrameFault::LengthMissing),
            (b"OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\nContent-Length: 0\r\n\r\n", FrameFault::LengthRepeated),
            (b"OPTIONS sip:a@b SIP/2.0\r\nl: -1\r\n\r\n", FrameFault::LengthUnreadable),
            (b"OPTIONS sip:a@b SIP/2.0\r\nl: 4294967296\r\n\r\n", FrameFault::TooLarge),
            (b"OPTIONS sip:a@b SIP/2.0\r\nX: y\nl: 9\r\nl: 0\r\n\r\n", FrameFault::LineEnd),
            (b"\n", FrameFault::LineEnd),
            (b"\r\r\n", FrameFault::LineEnd),
            (b"\r\n\n", FrameFault::LineEnd),
            (b"\rX", FrameFault::LineEnd),
            (b"\r\n\rX", FrameFault::LineEnd),
        ];
        for (garbage, fault) in cases {
            let fault: Told = Err(WireFault::Framing(fault));
            let shown = String::from_utf8_lossy(garbage);
            for size in [1, 2, 7, 1000] {
                // Some faults show only with the end of the headers.
                let garbage = [garbage, TWO].concat();
                let mut wire = plain();
                assert_eq!(
                    fed(&mut wire, &garbage, size),
                    std::slice::from_ref(&fault),
                    "{shown:?} first, in pieces of {size}"
                );
                assert_eq!(wire.receive(ONE, NOW).map(|()| Came::Pong), fault, "{shown:?}");
                assert_eq!(wire.next(), None, "a fault is told once");
                let stream = [ONE, &garbage].concat();
                assert_eq!(fed(&mut plain(), &stream, size), [message(ONE), fault.clone()], "{shown:?} after one");
            }
        }
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
        let request = request(1000);
        for (message_bytes, wanted) in
            [(request.len(), message(&request)), (request.len() - 1, Err(WireFault::Framing(FrameFault::TooLarge)))]
        {
            let mut wire = Wire::plain(Limits { message_bytes, headers: 256 });
            assert_eq!(fed(&mut wire, &request, 100), [wanted]);
        }
    }

    #[test]
    fn a_peer_that_reads_no_answers_gets_no_more_of_them() {
        let mut wire = plain();
        for _ in 0..10_000 {
            assert_eq!(fed(&mut wire, b"\r\n\r\n", 4), [Ok(Came::Ping)]);
        }
        assert!(wire.outgoing().len() <= UNREAD_OCTETS + 2, "{} octets", wire.outgoing().len());
        write_all(&mut wire);
        assert_eq!(fed(&mut wire, b"\r\n\r\n", 4), [Ok(Came::Ping)]);
        assert_eq!(wire.outgoing(), b"\r\n");
    }

    #[test]
    fn what_the_socket_did_not_take_waits() {
        let mut wire = plain();
        let long = request(3 * MOVE_OCTETS);
        wire.send(ONE);
        wire.send(&long);
        let all = [ONE, &long].concat();
        let mut sent = Vec::new();
        while wire.queued() > 0 {
            let count = wire.outgoing().len().min(10_000);
            sent.extend_from_slice(&wire.outgoing()[..count]);
            wire.written(count);
            assert_eq!(wire.queued(), all.len() - sent.len());
            assert!(wire.outgoing.len() <= all.len());
        }
        assert!(sent == all, "octets were lost or moved");
    }

    #[test]
    fn nothing_is_sent_after_the_end() {
        let mut closed = plain();
        closed.close();
        let mut broken = plain();
        assert_eq!(fed(&mut broken, b"\n", 1).len(), 1);
        for mut wire in [closed, broken] {
            wire.send(ONE);
            wire.ping();
            assert_eq!(wire.queued(), 0);
        }
        let mut closed = plain();
        closed.close();
        assert_eq!(closed.receive(b"\n", NOW), Ok(()));
        assert_eq!(closed.next(), None, "what comes after the close is not looked at");
    }

    /// Octets on the heap.
    fn heap(wire: &Wire) -> usize {
        assert!(wire.tls.is_none(), "the library does not tell what it holds");
        assert!(matches!(&wire.above, Above::Framed(Framed { framer: None, .. })), "a framer may hold a message");
        wire.outgoing.capacity()
            + wire.waiting.capacity() * size_of::<Vec<u8>>()
            + wire.came.capacity() * size_of::<Came>()
    }

    #[test]
    fn an_idle_wire_is_small() {
        let mut wire = plain();
        let long = request(60_000);
        assert_eq!(fed(&mut wire, &long, 4096), [message(&long)]);
        wire.send(&long);
        write_all(&mut wire);
        assert!(wire.outgoing.capacity() > 60_000);
        wire.rest();
        assert!(wire.is_idle());
        assert_eq!(heap(&wire), 0);
        assert!(size_of::<Wire>() + heap(&wire) < 300, "{} octets", size_of::<Wire>());
        assert_eq!(fed(&mut wire, ONE, 1), [message(ONE)], "it works after a rest");
    }

    #[test]
    fn a_rest_loses_nothing() {
        let stream = [ONE, b"\r\n\r\n", TWO].concat();
        let mut wire = plain();
        let mut all = Vec::new();
        for octet in &stream {
            assert_eq!(wire.receive(&[*octet], NOW), Ok(()));
            wire.rest();
            all.extend(told(&mut wire));
        }
        assert_eq!(all, [message(ONE), Ok(Came::Ping), message(TWO)]);
        assert_eq!(wire.outgoing(), b"\r\n");
    }

    /// A client and a server before their first octet.
    fn pair(authority: &Authority, version: &'static SupportedProtocolVersion, own: Option<Leaf>) -> (Wire, Wire) {
        let server = authority.server("pbx.example", version);
        (client(authority, version, own), Wire::tls_server(server, Limits::default()).expect("a server"))
    }

    fn client(authority: &Authority, version: &'static SupportedProtocolVersion, own: Option<Leaf>) -> Wire {
        let name = ServerName::try_from("pbx.example").expect("a name");
        Wire::tls_client(authority.client(version, own), name, Limits::default()).expect("a client")
    }

    /// Carries octets in pieces of `size` until both are silent.
    fn settle(one: &mut Wire, other: &mut Wire, size: usize) {
        for _ in 0..20 {
            if carry(one, other, size) + carry(other, one, size) == 0 {
                return;
            }
        }
        panic!("two wires do not fall silent");
    }

    fn carry(from: &mut Wire, to: &mut Wire, size: usize) -> usize {
        let octets = write_all(from);
        for piece in octets.chunks(size) {
            // One that is over takes nothing any more.
            let _over = to.receive(piece, NOW);
        }
        octets.len()
    }

    #[test]
    fn both_versions_of_tls_carry_messages_in_pieces_of_any_size() {
        let authority = authority();
        let long = request(20_000);
        for version in VERSIONS {
            for size in [1, 100, 1_000_000] {
                let (mut client, mut server) = pair(&authority, version, None);
                client.send(ONE);
                assert_eq!(client.queued(), client.outgoing().len() + ONE.len(), "a message waits for the handshake");
                assert!(!client.is_established() && !server.is_established());
                settle(&mut client, &mut server, size);
                assert!(client.is_established() && server.is_established());
                assert_eq!(told(&mut server), [message(ONE)], "{version:?} in pieces of {size}");
                server.send(TWO);
                server.send(&long);
                server.ping();
                settle(&mut client, &mut server, size);
                assert_eq!(told(&mut client), [message(TWO), message(&long), Ok(Came::Ping)]);
                assert_eq!(told(&mut server), [Ok(Came::Pong)]);
                assert_eq!((client.queued(), server.queued()), (0, 0));
                assert!(client.is_idle() && server.is_idle());
                assert!(server.verified_client().is_none() && client.verified_client().is_none());
                client.close();
                settle(&mut client, &mut server, size);
                assert_eq!(told(&mut server), [Err(WireFault::Closed)]);
                assert_eq!(server.end(), WireFault::Closed);
            }
        }
    }

    #[test]
    fn a_client_with_a_certificate_is_verified() {
        let authority = authority();
        for version in VERSIONS {
            let own = authority.leaf("phone.example");
            let (mut client, mut server) = pair(&authority, version, Some(own));
            settle(&mut client, &mut server, 1000);
            assert!(server.is_established() && server.verified_client().is_some());
            assert!(client.verified_client().is_none());
        }
    }

    fn is_tls(told: &[Told]) -> bool {
        matches!(told, [Err(WireFault::Tls(_))])
    }

    #[test]
    fn a_handshake_fails_on_both_sides() {
        let ours = authority();
        // The client knows another authority; or another version.
        for (theirs, version) in [(authority(), &TLS12), (authority(), &TLS13)] {
            let (_, mut server) = pair(&ours, version, None);
            let mut client = client(&theirs, version, None);
            settle(&mut client, &mut server, 1000);
            assert!(is_tls(&told(&mut client)) && is_tls(&told(&mut server)));
            client.send(ONE);
            assert_eq!(client.queued(), 0);
        }
        for (client_version, server_version) in [(&TLS12, &TLS13), (&TLS13, &TLS12)] {
            let (_, mut server) = pair(&ours, server_version, None);
            let mut client = client(&ours, client_version, None);
            settle(&mut client, &mut server, 1000);
            assert!(is_tls(&told(&mut client)) && is_tls(&told(&mut server)));
        }
    }

    #[test]
    fn garbage_in_place_of_tls_is_answered_with_an_alert() {
        let authority = authority();
        for size in [1, 100] {
            let (_, mut server) = pair(&authority, &TLS13, None);
            let told = fed(&mut server, b"OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\n\r\n", size);
            assert!(is_tls(&told), "{told:?}");
            // The content type of an alert (RFC 8446 §5.1).
            assert_eq!(server.outgoing().first(), Some(&21));
        }
    }

    #[test]
    fn what_was_decrypted_before_a_bad_record_is_good() {
        let authority = authority();
        for version in VERSIONS {
            let (mut client, mut server) = pair(&authority, version, None);
            settle(&mut client, &mut server, 1000);
            client.send(ONE);
            let good = write_all(&mut client);
            client.send(TWO);
            let mut bad = write_all(&mut client);
            *bad.last_mut().expect("a record") ^= 1;
            let told = fed(&mut server, &[good, bad].concat(), 10_000);
            assert!(matches!(told.as_slice(), [Ok(Came::Message(_)), Err(WireFault::Tls(_))]), "{told:?}");
        }
    }

    #[test]
    fn the_last_message_may_come_with_the_good_bye() {
        let authority = authority();
        let (mut client, mut server) = pair(&authority, &TLS13, None);
        settle(&mut client, &mut server, 1000);
        client.send(ONE);
        client.close();
        client.send(TWO);
        let octets = write_all(&mut client);
        assert_eq!(fed(&mut server, &octets, octets.len()), [message(ONE), Err(WireFault::Closed)]);
    }

    #[test]
    fn a_fault_above_tls_ends_with_a_good_bye() {
        let authority = authority();
        for version in VERSIONS {
            let (mut client, mut server) = pair(&authority, version, None);
            settle(&mut client, &mut server, 1000);
            client.send(b"garbage\r\n\r\n");
            settle(&mut client, &mut server, 1000);
            assert_eq!(told(&mut server), [Err(WireFault::Framing(FrameFault::LengthMissing))]);
            assert_eq!(told(&mut client), [Err(WireFault::Closed)]);
        }
    }

    #[test]
    fn half_a_record_is_not_idle() {
        let authority = authority();
        let (mut client, mut server) = pair(&authority, &TLS13, None);
        settle(&mut client, &mut server, 1000);
        client.send(ONE);
        let octets = write_all(&mut client);
        for octet in &octets[..octets.len() - 1] {
            assert!(fed(&mut server, &[*octet], 1).is_empty());
            assert!(!server.is_idle());
        }
        assert_eq!(fed(&mut server, &octets[octets.len() - 1..], 1), [message(ONE)]);
        assert!(server.is_idle());
    }

    #[test]
    fn between_two_messages_it_is_known_what_a_keep_alive_is_at_most() {
        let cases: [(&[u8], Option<u16>); 5] =
            [(b"", Some(5)), (b"\r\n\r\n", Some(5)), (ONE, Some(5)), (b"OPT", None), (b"\n", None)];
        for (octets, wanted) in cases {
            let mut wire = plain();
            fed(&mut wire, octets, 1_000);
            assert_eq!(wire.beyond_keep_alive(), wanted, "{}", octets.escape_ascii());
            wire.close();
            assert_eq!(wire.beyond_keep_alive(), None);
        }
    }

    #[test]
    fn keep_alives_are_shorter_than_that_and_messages_are_not() {
        let authority = authority();
        for version in VERSIONS {
            let (mut client, mut server) = pair(&authority, version, None);
            assert_eq!((client.beyond_keep_alive(), server.beyond_keep_alive()), (None, None), "nothing is up");
            settle(&mut client, &mut server, 1_000_000);
            assert_eq!((client.beyond_keep_alive(), server.beyond_keep_alive()), (Some(34), Some(34)));
            client.ping();
            assert!(client.outgoing().len() < 34, "{version:?}: {}", client.outgoing().len());
            settle(&mut client, &mut server, 1_000_000);
            assert_eq!((told(&mut server), told(&mut client)), (vec![Ok(Came::Ping)], vec![Ok(Came::Pong)]));
            client.send(TWO);
            assert!(client.outgoing().len() > 34);
        }
        for (mut browser, mut server) in web_sockets() {
            assert_eq!(server.beyond_keep_alive(), None, "the upgrade is awaited");
            browser.send(UPGRADE.as_bytes());
            assert_eq!(browser.exchange(&mut server), UPGRADED.as_bytes());
            let wanted: u16 = if server.tls.is_some() { 40 } else { 11 };
            assert_eq!(server.beyond_keep_alive(), Some(wanted));
            for keep_alive in [masked(0x81, b"\r\n\r\n"), masked(0x89, b""), masked(0x8a, b"")] {
                browser.send(&keep_alive);
                assert!(browser.outgoing.len() < usize::from(wanted), "{}", browser.outgoing.len());
                browser.exchange(&mut server);
            }
            assert_eq!(told(&mut server), [Ok(Came::Ping), Ok(Came::Pong)]);
            assert_eq!(server.beyond_keep_alive(), Some(wanted));
            browser.send(&masked(0x81, TWO));
            assert!(browser.outgoing.len() > usize::from(wanted));
        }
    }

    #[test]
    fn the_end_of_the_socket_is_in_order_except_in_a_handshake() {
        let authority = authority();
        assert_eq!(plain().end(), WireFault::Closed);
        let (mut client, mut server) = pair(&authority, &TLS13, None);
        assert_eq!(server.end(), WireFault::Closed, "somebody looks whether the port is open");
        assert_eq!(server.receive(b"x", NOW), Err(WireFault::Closed));
        let (_, mut server) = pair(&authority, &TLS13, None);
        let hello = write_all(&mut client);
        assert!(fed(&mut server, &hello[..20], 20).is_empty());
        assert!(matches!(server.end(), WireFault::Tls(_)));
        let mut broken = plain();
        assert_eq!(fed(&mut broken, b"\n", 1).len(), 1);
        assert_eq!(broken.end(), WireFault::Framing(FrameFault::LineEnd), "the first reason stays");
    }

    /// A browser: TLS or none, with nothing above it.
    struct Browser {
        tls: Option<Tls>,
        outgoing: Vec<u8>,
        heard: Vec<u8>,
    }

    impl Browser {
        fn plain() -> Self {
            Self { tls: None, outgoing: Vec::new(), heard: Vec::new() }
        }

        fn tls(authority: &Authority, version: &'static SupportedProtocolVersion) -> Self {
            let name = ServerName::try_from("pbx.example").expect("a name");
            let connection = ClientConnection::new(authority.client(version, None), name).expect("a client");
            Self { tls: Some(Tls::new(Connection::Client(connection))), ..Self::plain() }
        }

        fn send(&mut self, octets: &[u8]) {
            match &mut self.tls {
                Some(tls) => tls.send(octets, &mut self.outgoing),
                None => self.outgoing.extend_from_slice(octets),
            }
        }

        /// Carries octets until both are silent; what the browser heard.
        fn exchange(&mut self, server: &mut Wire) -> Vec<u8> {
            for _ in 0..20 {
                let there = mem::take(&mut self.outgoing);
                let _over = server.receive(&there, NOW);
                let back = write_all(server);
                let heard = &mut self.heard;
                let mut hear = |octets: &[u8]| -> Result<(), WireFault> {
                    heard.extend_from_slice(octets);
                    Ok(())
                };
                let _closed = match &mut self.tls {
                    Some(tls) => tls.receive(&back, &mut hear),
                    None => hear(&back),
                };
                if let Some(tls) = &mut self.tls {
                    tls.pull(&mut self.outgoing);
                }
            }
            assert!(self.outgoing.is_empty() && server.outgoing().is_empty());
            mem::take(&mut self.heard)
        }
    }

    /// Servers that await a WebSocket, each with a browser.
    fn web_sockets() -> Vec<(Browser, Wire)> {
        let authority = authority();
        let mut all = vec![(Browser::plain(), plain())];
        for version in VERSIONS {
            let (_, server) = pair(&authority, version, None);
            all.push((Browser::tls(&authority, version), server));
        }
        let nowhere: Arc<[String]> = Arc::from(Vec::<String>::new());
        all.into_iter().map(|(browser, wire)| (browser, wire.with_web_socket(Arc::clone(&nowhere)))).collect()
    }

    #[test]
    fn a_web_socket_opens_and_closes_over_tcp_and_tls() {
        let text = |message: &[u8]| [[0x81, u8::try_from(message.len()).expect("short")].as_slice(), message].concat();
        for (mut browser, mut server) in web_sockets() {
            server.send(ONE);
            assert_eq!(server.queued(), ONE.len(), "a message waits for the upgrade");
            server.ping();
            assert!(!server.is_established());
            browser.send(UPGRADE.as_bytes());
            assert_eq!(browser.exchange(&mut server), [UPGRADED.as_bytes(), &text(ONE)].concat());
            assert!(server.is_established() && server.is_idle());
            browser.send(&masked(0x81, TWO));
            browser.send(&masked(0x82, ONE));
            server.send(TWO);
            assert_eq!(browser.exchange(&mut server), text(TWO));
            assert_eq!(told(&mut server), [message(TWO), message(ONE)]);
            server.ping();
            assert_eq!(browser.exchange(&mut server), [0x89, 0]);
            browser.send(&masked(0x8a, b""));
            browser.send(&masked(0x89, b"x"));
            assert_eq!(browser.exchange(&mut server), [0x8a, 1, b'x']);
            assert_eq!(told(&mut server), [Ok(Came::Pong), Ok(Came::Ping)]);
            server.rest();
            browser.send(&masked(0x81, ONE));
            browser.exchange(&mut server);
            assert_eq!(told(&mut server), [message(ONE)]);
            server.close();
            server.send(ONE);
            assert_eq!(browser.exchange(&mut server), [0x88, 2, 0x03, 0xe8]);
        }
    }

    #[test]
    fn a_web_socket_that_is_refused_or_broken_is_over() {
        for (mut browser, mut server) in web_sockets() {
            server.send(ONE);
            browser.send(b"GET / HTTP/1.1\r\n\r\n");
            let answer = browser.exchange(&mut server);
            assert!(answer.starts_with(b"HTTP/1.1 400 Bad Request\r\n") && answer.ends_with(b"\n"));
            assert_eq!(told(&mut server), [Err(WireFault::WebSocket(WebSocketFault::Refused(Refusal::Host)))]);
            assert!(!server.is_established());
        }
        for (mut browser, mut server) in web_sockets() {
            browser.send(UPGRADE.as_bytes());
            browser.send(&masked(0x81, ONE));
            browser.send(b"\x81\x01x");
            let answer = browser.exchange(&mut server);
            let unmasked = WebSocketFault::Unmasked;
            assert!(answer.ends_with(unmasked.to_string().as_bytes()), "the close says why");
            assert_eq!(told(&mut server), [message(ONE), Err(WireFault::WebSocket(unmasked))]);
        }
        for (mut browser, mut server) in web_sockets() {
            browser.send(UPGRADE.as_bytes());
            for _ in 0..11 {
                browser.send(&masked(0x89, b""));
            }
            let answer = browser.exchange(&mut server);
            let pongs = answer.windows(2).filter(|window| *window == [0x8a, 0]).count();
            assert_eq!(pongs, 10);
            assert_eq!(told(&mut server), [Ok(Came::Ping), Err(WireFault::WebSocket(WebSocketFault::PingFlood))]);
        }
    }
}
