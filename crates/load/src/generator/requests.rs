//! What the caller asks for.

use super::scan::{Answer, Field, Key, lines, values_reversed};
use super::settings::{Details, Kind};
use super::template::{KEY, Template, filling, session};
use crate::stream::Streams;
use std::net::{IpAddr, SocketAddr};

/// The caller's messages. What they are written with: the exchange's key, and the number of its user.
pub(super) struct Requests {
    /// Without credentials, and with them.
    attempts: [Attempt; 2],
    /// Credentials for a registrar that believes everything, as the generator's own callee does.
    believed: Template,
    ping: Template,
}

/// The messages around one opening request: INVITE, REGISTER or OPTIONS.
struct Attempt {
    /// The request up to the credentials, and what follows these.
    head: Template,
    tail: Template,
    cancel: Template,
    /// The ACK of a refusal up to its To line; it goes the way of the INVITE, as part of its transaction.
    refusal_head: Template,
    /// What follows the Request-URI of ACK and BYE, up to the Route lines.
    ack_head: Template,
    bye_head: Template,
    /// What follows the To line of ACK and BYE.
    ack_tail: Template,
    bye_tail: Template,
}

impl Requests {
    /// `domain`: of all users; also the registrar's Request-URI.
    pub(super) fn new(kind: Kind, caller: SocketAddr, balancer: SocketAddr, domain: &str, details: &Details) -> Self {
        let common = Common::new(caller, domain, details);
        Self {
            attempts: [Attempt::new(kind, &common, 0), Attempt::new(kind, &common, 1)],
            believed: Template::new(&format!(
                "Authorization: Digest username=\"{}\", realm=\"load\", nonce=\"load\", uri=\"sip:{domain}\", \
                 response=\"00000000000000000000000000000000\", algorithm=MD5\r\n",
                common.user
            )),
            ping: Template::new(&common.ping(balancer)),
        }
    }

    /// The request that an exchange begins with.
    pub(super) fn write_first(&self, key: Key, number: u32, out: &mut Vec<u8>) {
        let [first, _] = &self.attempts;
        first.head.write(key, number, out);
        first.tail.write(key, number, out);
    }

    /// The same once more with the header line `authorization`, or with made-up credentials.
    pub(super) fn write_again(&self, key: Key, number: u32, authorization: Option<&str>, out: &mut Vec<u8>) {
        let [_, again] = &self.attempts;
        again.head.write(key, number, out);
        match authorization {
            Some(line) => out.extend_from_slice(line.as_bytes()),
            None => self.believed.write(key, number, out),
        }
        again.tail.write(key, number, out);
    }

    /// The ACK of the 2xx `answer`, read from `message`.
    pub(super) fn write_ack(&self, key: Key, number: u32, answer: &Answer<'_>, message: &[u8], out: &mut Vec<u8>) {
        let attempt = self.attempt(answer);
        out.extend_from_slice(b"ACK ");
        out.extend_from_slice(answer.contact);
        attempt.ack_head.write(key, number, out);
        write_routes(message, out);
        write_to(answer.to, out);
        attempt.ack_tail.write(key, number, out);
    }

    /// The BYE of the call that the 2xx `answer`, read from `message`, began.
    pub(super) fn write_bye(&self, key: Key, number: u32, answer: &Answer<'_>, message: &[u8], out: &mut Vec<u8>) {
        let attempt = self.attempt(answer);
        out.extend_from_slice(b"BYE ");
        out.extend_from_slice(answer.contact);
        attempt.bye_head.write(key, number, out);
        write_routes(message, out);
        write_to(answer.to, out);
        attempt.bye_tail.write(key, number, out);
    }

    /// The ACK of the refusal `answer` (RFC 3261 §17.1.1.3).
    pub(super) fn write_refusal_ack(&self, key: Key, number: u32, answer: &Answer<'_>, out: &mut Vec<u8>) {
        let attempt = self.attempt(answer);
        attempt.refusal_head.write(key, number, out);
        write_to(answer.to, out);
        attempt.ack_tail.write(key, number, out);
    }

    /// Takes an INVITE back; `again`: the one with credentials (RFC 3261 §9.1).
    pub(super) fn write_cancel(&self, key: Key, number: u32, again: bool, out: &mut Vec<u8>) {
        let [first, second] = &self.attempts;
        let attempt = if again { second } else { first };
        attempt.cancel.write(key, number, out);
    }

    /// An OPTIONS for the balancer itself.
    pub(super) fn write_ping(&self, key: Key, out: &mut Vec<u8>) {
        self.ping.write(key, 0, out);
    }

    /// The one that `answer` is about.
    fn attempt(&self, answer: &Answer<'_>) -> &Attempt {
        let [first, again] = &self.attempts;
        if answer.cseq.starts_with(b"2 ") { again } else { first }
    }
}

impl Attempt {
    /// `index`: 0 without credentials, 1 with them.
    fn new(kind: Kind, common: &Common, index: u32) -> Self {
        let branch = if index == 0 { "i" } else { "j" };
        let cseq = index + 1;
        let Common { domain, from, to, call_id, callee, .. } = common;
        let (ack_head, ack_tail) = common.in_dialog("a", &format!("{cseq} ACK"));
        let (bye_head, bye_tail) = common.in_dialog("b", &format!("{} BYE", cseq + 1));
        let (head, tail) = common.opening(kind, branch, cseq);
        let via = common.via(branch);
        Self {
            head,
            tail,
            cancel: Template::new(&format!(
                "CANCEL sip:{callee}@{domain} SIP/2.0\r\n{via}{from}{to}{call_id}CSeq: {cseq} CANCEL\r\n{NO_BODY}"
            )),
            refusal_head: Template::new(&format!("ACK sip:{callee}@{domain} SIP/2.0\r\n{via}")),
            ack_head,
            bye_head,
            ack_tail,
            bye_tail,
        }
    }
}

/// What the caller's requests have in common.
struct Common {
    caller: SocketAddr,
    /// As in a Via: the transport, and who sends.
    sent: String,
    /// As in a Contact: the host, and how it is reached.
    reached: String,
    domain: String,
    /// The names of both users, with places for the number.
    user: String,
    callee: String,
    from: String,
    to: String,
    call_id: String,
}

impl Common {
    fn new(caller: SocketAddr, domain: &str, details: &Details) -> Self {
        let (user, callee) = (details.caller_name.pattern(), details.callee_name.pattern());
        let (sent, reached) = names(caller, details.streams.as_ref());
        Self {
            caller,
            sent,
            reached,
            domain: domain.to_owned(),
            from: format!("From: \"Load {user}\" <sip:{user}@{domain}>;tag={KEY}\r\n"),
            to: format!("To: <sip:{callee}@{domain}>\r\n"),
            call_id: format!("Call-ID: {KEY}@load\r\n"),
            user,
            callee,
        }
    }

    fn via(&self, branch: &str) -> String {
        format!("Via: SIP/2.0/{};branch=z9hG4bK{KEY}{branch};rport\r\nMax-Forwards: 70\r\n", self.sent)
    }

    /// The request that begins an exchange, in two parts with credentials between them. Without any it has the size that a phone's has.
    fn opening(&self, kind: Kind, branch: &str, cseq: u32) -> (Template, Template) {
        let Self { caller, reached, domain, user, callee, from, to, call_id, .. } = self;
        let via = self.via(branch);
        let method = kind.method();
        let (target, to, more) = match kind {
            Kind::Call => (format!("{callee}@{domain}"), to.clone(), "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\n"),
            Kind::Options => (format!("{callee}@{domain}"), to.clone(), ""),
            Kind::Register => (domain.clone(), format!("To: <sip:{user}@{domain}>\r\n"), "Expires: 3600\r\n"),
        };
        let head = format!(
            "{method} sip:{target} SIP/2.0\r\n{via}{from}{to}{call_id}CSeq: {cseq} {method}\r\n\
             Contact: <sip:{user}@{reached}>\r\n{more}User-Agent: tandem load\r\n"
        );
        let (tail, size) = match kind {
            Kind::Call => (with_body(&session(*caller)), INVITE_BYTES),
            Kind::Register | Kind::Options => (NO_BODY.to_owned(), SMALL_BYTES),
        };
        let filled = if cseq == 1 { filling(head.len() + tail.len(), size) } else { String::new() };
        (Template::new(&format!("{head}{filled}")), Template::new(&tail))
    }

    /// What follows the Request-URI, and what follows the To line.
    fn in_dialog(&self, branch: &str, cseq: &str) -> (Template, Template) {
        let head = format!(" SIP/2.0\r\n{}", self.via(branch));
        let tail = format!("{}{}CSeq: {cseq}\r\nUser-Agent: tandem load\r\n", self.from, self.call_id);
        let have = head.len() + tail.len() + NO_BODY.len() + IN_DIALOG_VARYING_BYTES;
        (Template::new(&head), Template::new(&format!("{tail}{}{NO_BODY}", filling(have, SMALL_BYTES))))
    }

    /// RFC 3261 §11: a Request-URI without a user asks the balancer itself.
    fn ping(&self, balancer: SocketAddr) -> String {
        let via = self.via("p");
        format!(
            "OPTIONS sip:{balancer} SIP/2.0\r\n{via}From: <sip:load@{balancer}>;tag={KEY}\r\nTo: <sip:{balancer}>\r\n{}\
             CSeq: 1 OPTIONS\r\nContact: <sip:load@{}>\r\nUser-Agent: tandem load\r\n{NO_BODY}",
            self.call_id, self.reached
        )
    }
}

/// Via and Contact of the caller. Who sends on a stream is found by the stream; a browser does not even know its address (RFC 7118 §5.1).
fn names(caller: SocketAddr, streams: Option<&Streams>) -> (String, String) {
    let Some(transport) = streams.map(|streams| streams.transport) else {
        return (format!("UDP {caller}"), caller.to_string());
    };
    let host = match caller.ip() {
        _ if transport.is_web_socket() => "load.invalid".to_owned(),
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    (format!("{} {host}", transport.in_via()), format!("{host};transport={}", transport.in_uri()))
}

/// The end of a message with a session description.
fn with_body(session: &str) -> String {
    format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{session}", session.len())
}

/// The route set of the caller: the Record-Routes of the answer in reverse (RFC 3261 §12.1.2).
fn write_routes(answer: &[u8], out: &mut Vec<u8>) {
    let mut recorded: [&[u8]; ROUTES] = [&[]; ROUTES];
    let found = lines(answer).filter(|line| line.field == Field::RecordRoute).map(|line| line.value);
    for (place, value) in recorded.iter_mut().zip(found) {
        *place = value;
    }
    for list in recorded.iter().rev().filter(|list| !list.is_empty()) {
        values_reversed(list, |route| {
            out.extend_from_slice(b"Route: ");
            out.extend_from_slice(route);
            out.extend_from_slice(b"\r\n");
        });
    }
}

fn write_to(value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"To: ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

const NO_BODY: &str = "Content-Length: 0\r\n\r\n";
/// Record-Route lines that are followed; more stand in no message that a balancer wrote.
const ROUTES: usize = 8;
/// The size of an INVITE as a phone sends it, and of the smallest other messages.
const INVITE_BYTES: usize = 850;
const SMALL_BYTES: usize = 480;
/// Method, Request-URI and To of an ACK or BYE, about.
const IN_DIALOG_VARYING_BYTES: usize = 110;
