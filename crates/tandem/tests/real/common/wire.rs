//! Sockets of the test that speak SIP by hand, and messages taken apart without the parser under test.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// A socket of the test at one address.
pub struct Station {
    socket: UdpSocket,
    pub address: SocketAddr,
}

impl Station {
    /// # Panics
    /// If the address is taken: within a namespace of its own only the test itself can have done so.
    pub fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        let address = socket.local_addr().expect("the socket is bound");
        Self { socket, address }
    }

    pub fn send(&self, bytes: impl AsRef<[u8]>, to: &str) {
        self.socket.send_to(bytes.as_ref(), to).unwrap_or_else(|error| panic!("to {to}: {error}"));
    }

    /// The next datagram and its sender, if one comes within `limit`.
    pub fn next(&self, limit: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        // Nought would mean to wait for ever.
        let limit = limit.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(limit)).expect("the time is not nought");
        let mut buffer = vec![0; 65_536];
        let (length, from) = self.socket.recv_from(&mut buffer).ok()?;
        buffer.truncate(length);
        Some((buffer, from))
    }

    /// The next message that `wanted` accepts; others are thrown away, OPTIONS of the unit's own are answered.
    ///
    /// # Panics
    /// If none comes within five seconds; names what came instead.
    pub fn expect(&self, what: &str, wanted: impl Fn(&Taken) -> bool) -> (Taken, SocketAddr) {
        let end = Instant::now() + Duration::from_secs(5);
        let mut others = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some((bytes, from)) = self.next(left) else {
                panic!("{}: no {what} came, but {others:#?}", self.address);
            };
            let taken = Taken::of(&bytes);
            if wanted(&taken) {
                return (taken, from);
            }
            if taken.is_ping() {
                self.answer(&taken, "200 OK", from);
            } else {
                others.push(taken.first_line());
            }
            assert!(Instant::now() < end, "{}: no {what} came, but {others:#?}", self.address);
        }
    }

    /// The next request with this method.
    pub fn request(&self, method: &str) -> (Taken, SocketAddr) {
        let start = format!("{method} ");
        self.expect(method, |taken| taken.start.starts_with(start.as_bytes()))
    }

    /// The next final answer (200 and above).
    pub fn final_answer(&self) -> Taken {
        self.expect("final answer", |taken| taken.code().is_some_and(|code| code >= 200)).0
    }

    /// Answers a request with a status and no more than must be.
    pub fn answer(&self, request: &Taken, status: &str, to: SocketAddr) {
        self.send(request.response(status, "", b""), &to.to_string());
    }

    /// Throws away what has come up to now, and says how many datagrams that was besides the unit's own OPTIONS.
    pub fn drain(&self) -> usize {
        let mut count = 0;
        while let Some((bytes, from)) = self.next(Duration::from_millis(1)) {
            let taken = Taken::of(&bytes);
            if taken.is_ping() {
                self.answer(&taken, "200 OK", from);
            } else {
                count += 1;
            }
        }
        count
    }
}

/// A message taken apart at its line ends: whole header lines as they came, folded ones in one piece.
#[derive(Clone, Debug)]
pub struct Taken {
    pub start: Vec<u8>,
    /// Name in lower case and in its long form, and the whole line without its end.
    pub lines: Vec<(String, Vec<u8>)>,
    /// Cut to the Content-Length where there is one.
    pub body: Vec<u8>,
    pub bytes: Vec<u8>,
}

impl Taken {
    pub fn of(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
        let (head, rest) = match end {
            Some(end) => (&bytes[..end], &bytes[end + 4..]),
            None => (bytes, &b""[..]),
        };
        let mut parts = split_lines(head).into_iter();
        let start = parts.next().unwrap_or_default();
        let mut lines: Vec<(String, Vec<u8>)> = Vec::new();
        for part in parts {
            let folded = part.first().is_some_and(|first| matches!(first, b' ' | b'\t'));
            match lines.last_mut() {
                Some((_, line)) if folded => {
                    line.extend_from_slice(b"\r\n");
                    line.extend_from_slice(&part);
                }
                _ => lines.push((long_name(&part), part)),
            }
        }
        let mut taken = Self { start, lines, body: rest.to_vec(), bytes: bytes.to_vec() };
        if let Some(length) = taken.text("content-length").and_then(|text| text.parse::<usize>().ok()) {
            taken.body.truncate(length);
        }
        taken
    }

    /// The lines with this name (lower case, long form), as they came.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.lines.iter().filter(move |(known, _)| known == name).map(|(_, line)| line.as_slice())
    }

    /// The first value with this name, as text without white space around it.
    pub fn text(&self, name: &str) -> Option<String> {
        let line = self.all(name).next()?;
        let colon = line.iter().position(|octet| *octet == b':')?;
        Some(String::from_utf8_lossy(&line[colon + 1..]).trim().to_owned())
    }

    /// All values with this name, topmost first, as text without white space around them, where each stands in a line of its own.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let values = self.all(name).filter_map(|line| {
            let text = String::from_utf8_lossy(line).into_owned();
            text.split_once(':').map(|(_, value)| value.trim().to_owned())
        });
        values.collect()
    }

    /// The status code of a response.
    pub fn code(&self) -> Option<u16> {
        let digits = self.start.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    pub fn is_request(&self) -> bool {
        !self.start.starts_with(b"SIP/2.0 ")
    }

    /// The unit asks its backends by OPTIONS of its own: nobody else's Via is in them.
    pub fn is_ping(&self) -> bool {
        self.start.starts_with(b"OPTIONS ") && self.all("via").count() == 1
    }

    pub fn first_line(&self) -> String {
        String::from_utf8_lossy(&self.start).into_owned()
    }

    /// The Request-URI.
    pub fn target(&self) -> String {
        self.first_line().split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// The URI within the brackets of the first value with this name.
    pub fn uri(&self, name: &str) -> String {
        let text = self.text(name).unwrap_or_default();
        let inside = text.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
        inside.map_or(text.clone(), |(uri, _)| uri.to_owned())
    }

    /// A response to this request (RFC 3261 §8.2.6): status line, the headers that must be repeated as they came, further whole
    /// `lines`, a To tag if there is none, and a body.
    pub fn response(&self, status: &str, lines: &str, body: &[u8]) -> Vec<u8> {
        let mut out = format!("SIP/2.0 {status}\r\n").into_bytes();
        for name in ["via", "record-route", "from", "to", "call-id", "cseq"] {
            for line in self.all(name) {
                out.extend_from_slice(line);
                let dense: Vec<u8> = line.iter().copied().filter(|octet| !octet.is_ascii_whitespace()).collect();
                let tagged = String::from_utf8_lossy(&dense).contains(";tag=");
                if name == "to" && !tagged && !status.starts_with("100") {
                    out.extend_from_slice(b";tag=callee");
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(lines.as_bytes());
        out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        out.extend_from_slice(body);
        out
    }

    /// The same message with `lines` in place of its own lines called `name`.
    pub fn with_lines(&self, name: &str, lines: &[Vec<u8>]) -> Vec<u8> {
        let mut out = self.start.clone();
        out.extend_from_slice(b"\r\n");
        for line in lines {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
        for (known, line) in &self.lines {
            if known != name {
                out.extend_from_slice(line);
                out.extend_from_slice(b"\r\n");
            }
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// A request of a client, plain and whole. `lines` are further header lines, each with its end.
pub fn request(
    method: &str,
    uri: &str,
    from: SocketAddr,
    call_id: &str,
    cseq: u32,
    lines: &str,
    body: &str,
) -> Vec<u8> {
    request_of("bonnie", "clyde", method, uri, from, call_id, cseq, lines, body)
}

/// As [`request`], between named users of `example.com`.
#[expect(clippy::too_many_arguments, reason = "the parts of one message, each a word at the caller")]
pub fn request_of(
    caller: &str,
    callee: &str,
    method: &str,
    uri: &str,
    from: SocketAddr,
    call_id: &str,
    cseq: u32,
    lines: &str,
    body: &str,
) -> Vec<u8> {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let length = body.len();
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{call_id}-{cseq}-{method};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:{caller}@example.com>;tag={call_id}\r\nTo: <sip:{callee}@example.com>\r\n\
         Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContact: <sip:{caller}@{from}>\r\n{lines}{kind}\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The body of an offer: PCMU at an address.
pub fn offer(at: SocketAddr) -> String {
    let (host, port) = (at.ip(), at.port());
    format!(
        "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\n"
    )
}

/// Pieces between line ends; a line end within a folded value is put together by the caller.
fn split_lines(head: &[u8]) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    let mut rest = head;
    while let Some(end) = rest.windows(2).position(|part| part == b"\r\n") {
        lines.push(rest[..end].to_vec());
        rest = &rest[end + 2..];
    }
    lines.push(rest.to_vec());
    lines
}

fn long_name(line: &[u8]) -> String {
    let colon = line.iter().position(|octet| *octet == b':').unwrap_or(line.len());
    let name = String::from_utf8_lossy(&line[..colon]).trim().to_ascii_lowercase();
    let long = match name.as_str() {
        "v" => "via",
        "f" => "from",
        "t" => "to",
        "i" => "call-id",
        "m" => "contact",
        "l" => "content-length",
        "c" => "content-type",
        "k" => "supported",
        "s" => "subject",
        "e" => "content-encoding",
        _ => return name,
    };
    long.to_owned()
}

/// A call that was answered, as both its ends know it: made by hand, so that every octet of it is the test's.
#[derive(Clone, Debug)]
pub struct Call {
    pub call_id: String,
    /// From and To of the caller's requests, with their tags.
    caller: String,
    callee: String,
    caller_contact: String,
    callee_contact: String,
    /// Record-Route values as the callee saw them.
    routes: Vec<String>,
}

impl Call {
    /// As its caller knows it by the answer to the INVITE: for requests of the caller's.
    pub fn answered(answer: &Taken) -> Self {
        Self {
            call_id: answer.text("call-id").expect("it was sent"),
            caller: answer.text("from").expect("it was sent"),
            callee: answer.text("to").expect("it was sent"),
            caller_contact: String::new(),
            callee_contact: answer.uri("contact"),
            routes: answer.texts("record-route"),
        }
    }

    /// As its callee knows it that answered by [`Taken::response`]: for requests of the callee's.
    pub fn taken(invite: &Taken) -> Self {
        Self {
            call_id: invite.text("call-id").expect("it was sent"),
            caller: invite.text("from").expect("it was sent"),
            callee: format!("{};tag=callee", invite.text("to").expect("it was sent")),
            caller_contact: invite.uri("contact"),
            callee_contact: String::new(),
            routes: invite.texts("record-route"),
        }
    }

    /// `phone` calls `sip:clyde@example.com` through the unit; `server`, which must be where it arrives, answers.
    pub fn establish(phone: &Station, unit: &str, server: &Station, caller: &str, call_id: &str) -> Self {
        let body = offer(phone.address);
        let uri = format!("sip:clyde@{unit}");
        let invite = request_of(caller, "clyde", "INVITE", &uri, phone.address, call_id, 1, "", &body);
        phone.send(&invite, unit);
        let (received, from) = server.expect("INVITE", |taken| {
            taken.start.starts_with(b"INVITE ") && taken.text("call-id").as_deref() == Some(call_id)
        });
        let contact = format!("Contact: <sip:{}>\r\nContent-Type: application/sdp\r\n", server.address);
        server.send(received.response("200 OK", &contact, offer(server.address).as_bytes()), &from.to_string());
        let answer = phone.final_answer();
        assert_eq!(answer.code(), Some(200), "{}", answer.first_line());
        let call = Self {
            call_id: call_id.to_owned(),
            caller: answer.text("from").expect("it was sent"),
            callee: answer.text("to").expect("it was sent"),
            caller_contact: received.uri("contact"),
            callee_contact: answer.uri("contact"),
            // Ours and Kamailio's stand one in a line.
            routes: received.texts("record-route"),
        };
        phone.send(call.by_caller("ACK", 1, phone.address, ""), unit);
        server.request("ACK");
        call
    }

    /// A request of the caller's within the call.
    pub fn by_caller(&self, method: &str, cseq: u32, at: SocketAddr, body: &str) -> Vec<u8> {
        let routes: Vec<&String> = self.routes.iter().rev().collect();
        self.request(method, cseq, at, (&self.caller, &self.callee), &self.callee_contact, &routes, body)
    }

    /// A request of the callee's within the call.
    pub fn by_callee(&self, method: &str, cseq: u32, at: SocketAddr, body: &str) -> Vec<u8> {
        let routes: Vec<&String> = self.routes.iter().collect();
        self.request(method, cseq, at, (&self.callee, &self.caller), &self.caller_contact, &routes, body)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one message")]
    fn request(
        &self,
        method: &str,
        cseq: u32,
        at: SocketAddr,
        parties: (&str, &str),
        target: &str,
        routes: &[&String],
        body: &str,
    ) -> Vec<u8> {
        let (from, to) = parties;
        let call_id = &self.call_id;
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let length = body.len();
        format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK{call_id}-{cseq}-{method};rport\r\n{routes}\
             Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:user@{at}>\r\n{kind}Content-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

/// Registers `user` at `server` through the unit: both ends are played by hand. Gives the Contact URI that the server saw.
pub fn register(phone: &Station, unit: &str, server: &Station, user: &str, call_id: &str) -> String {
    let uri = format!("sip:{unit}");
    let lines = "Expires: 3600\r\n";
    phone.send(request_of(user, user, "REGISTER", &uri, phone.address, call_id, 1, lines, ""), unit);
    let (received, from) = server.request("REGISTER");
    let contact = received.uri("contact");
    let bound = format!("Contact: <{contact}>;expires=3600\r\n");
    server.send(received.response("200 OK", &bound, b""), &from.to_string());
    let answer = phone.final_answer();
    assert_eq!(answer.code(), Some(200), "{}", answer.first_line());
    contact
}
