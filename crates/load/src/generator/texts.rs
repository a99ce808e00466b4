//! What the two ends say.

use super::Kind;
use super::scan::{Answer, Field, Key, lines, values_reversed};
use super::template::{KEY, Template, USER, filling, session};
use std::net::SocketAddr;

/// The caller's messages.
pub(super) struct CallerTexts {
    first: Template,
    /// What follows the Request-URI of ACK and BYE, up to the Route lines.
    ack_head: Template,
    bye_head: Template,
    /// What follows the To line of ACK and BYE.
    ack_tail: Template,
    bye_tail: Template,
    /// The ACK of a refusal up to its To line; it goes the way of the INVITE, as part of its transaction.
    refusal_head: Template,
    /// The second REGISTER up to the credentials.
    register_head: Template,
    /// Credentials for a registrar that believes everything, as the generator's own callee does.
    believed: Template,
    register_uri: String,
}

impl CallerTexts {
    /// `domain`: of all users; also the registrar's Request-URI.
    pub(super) fn new(kind: Kind, caller: SocketAddr, domain: &str) -> Self {
        let common = Common::new(caller, domain);
        let Common { from, call_id, uri, .. } = &common;
        let in_dialog = |branch: &str, cseq: &str| {
            let head = format!(" SIP/2.0\r\n{}", common.via(branch));
            let tail = format!("{from}{call_id}CSeq: {cseq}\r\nUser-Agent: tandem load\r\n");
            let have = head.len() + tail.len() + NO_BODY.len() + IN_DIALOG_VARYING_BYTES;
            let tail = format!("{tail}{}{NO_BODY}", filling(have, SMALL_BYTES));
            (Template::new(&head), Template::new(&tail))
        };
        let (ack_head, ack_tail) = in_dialog("a", "1 ACK");
        let (bye_head, bye_tail) = in_dialog("b", "2 BYE");
        Self {
            first: common.first(kind),
            ack_head,
            bye_head,
            ack_tail,
            bye_tail,
            refusal_head: Template::new(&format!("ACK sip:c{USER}@{domain} SIP/2.0\r\n{}", common.via("i"))),
            register_head: Template::new(&common.register("s", 2)),
            believed: Template::new(&format!(
                "Authorization: Digest username=\"u{USER}\", realm=\"load\", nonce=\"load\", uri=\"{uri}\", \
                 response=\"00000000000000000000000000000000\", algorithm=MD5\r\n"
            )),
            register_uri: uri.clone(),
        }
    }

    /// The request that an exchange begins with.
    pub(super) fn write_first(&self, key: Key, user: u32, out: &mut Vec<u8>) {
        self.first.write(key, user, out);
    }

    /// The ACK of the 2xx `answer`, read from `message`.
    pub(super) fn write_ack(&self, key: Key, user: u32, answer: &Answer<'_>, message: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"ACK ");
        out.extend_from_slice(answer.contact);
        self.ack_head.write(key, user, out);
        write_routes(message, out);
        write_to(answer.to, out);
        self.ack_tail.write(key, user, out);
    }

    /// The BYE of the call that the 2xx `answer`, read from `message`, began.
    pub(super) fn write_bye(&self, key: Key, user: u32, answer: &Answer<'_>, message: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"BYE ");
        out.extend_from_slice(answer.contact);
        self.bye_head.write(key, user, out);
        write_routes(message, out);
        write_to(answer.to, out);
        self.bye_tail.write(key, user, out);
    }

    /// The ACK of a refusal with the To value `to` (RFC 3261 §17.1.1.3).
    pub(super) fn write_refusal_ack(&self, key: Key, user: u32, to: &[u8], out: &mut Vec<u8>) {
        self.refusal_head.write(key, user, out);
        write_to(to, out);
        self.ack_tail.write(key, user, out);
    }

    /// The second REGISTER with the header line `authorization`, or with made-up credentials.
    pub(super) fn write_register_again(&self, key: Key, user: u32, authorization: Option<&str>, out: &mut Vec<u8>) {
        self.register_head.write(key, user, out);
        match authorization {
            Some(line) => out.extend_from_slice(line.as_bytes()),
            None => self.believed.write(key, user, out),
        }
        out.extend_from_slice(NO_BODY.as_bytes());
    }

    pub(super) fn register_uri(&self) -> &str {
        &self.register_uri
    }
}

/// The callee's answers: each a status line and what follows the copied header lines.
pub(super) struct CalleeTexts {
    pub(super) ringing: Reply,
    pub(super) answered: Reply,
    pub(super) done: Reply,
    pub(super) challenge: Reply,
    pub(super) registered: Reply,
}

pub(super) struct Reply {
    status_line: &'static str,
    rest: String,
}

impl CalleeTexts {
    pub(super) fn new(callee: SocketAddr) -> Self {
        let contact = format!("Contact: <sip:callee@{callee}>\r\nServer: tandem load\r\n");
        let session = session(callee);
        let small = |status_line: &'static str, lines: &str| {
            let have = status_line.len() + COPIED_BYTES + lines.len() + NO_BODY.len();
            Reply { status_line, rest: format!("{lines}{}{NO_BODY}", filling(have, SMALL_BYTES)) }
        };
        Self {
            ringing: small("SIP/2.0 180 Ringing\r\n", &contact),
            answered: Reply {
                status_line: OK,
                rest: format!("{contact}Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\n{}", with_body(&session)),
            },
            done: small(OK, "Server: tandem load\r\n"),
            challenge: small(
                "SIP/2.0 401 Unauthorized\r\n",
                "WWW-Authenticate: Digest realm=\"load\", nonce=\"load\", algorithm=MD5\r\nServer: tandem load\r\n",
            ),
            registered: small(OK, "Expires: 3600\r\nServer: tandem load\r\n"),
        }
    }
}

impl Reply {
    /// The answer to `request` (RFC 3261 §8.2.6.2), with the tag `tag` added to a To without one. Record-Route is copied too (§12.1.1),
    /// and Contact where the answer has none of its own and is to a REGISTER (§10.3).
    pub(super) fn write(&self, request: &[u8], tag: &[u8], contacts: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.status_line.as_bytes());
        for line in lines(request) {
            match line.field {
                Field::Via | Field::RecordRoute | Field::From | Field::CallId | Field::CSeq => {
                    out.extend_from_slice(line.whole);
                }
                Field::Contact if contacts => out.extend_from_slice(line.whole),
                Field::To if memchr::memmem::find(line.value, b";tag=").is_some() => {
                    out.extend_from_slice(line.whole);
                }
                Field::To => {
                    out.extend_from_slice(b"To: ");
                    out.extend_from_slice(line.value);
                    out.extend_from_slice(b";tag=");
                    out.extend_from_slice(tag);
                    out.extend_from_slice(b"\r\n");
                }
                _ => {}
            }
        }
        out.extend_from_slice(self.rest.as_bytes());
    }
}

/// The lines that the caller's requests have in common.
struct Common {
    caller: SocketAddr,
    domain: String,
    from: String,
    call_id: String,
    /// The registrar's.
    uri: String,
}

impl Common {
    fn new(caller: SocketAddr, domain: &str) -> Self {
        Self {
            caller,
            domain: domain.to_owned(),
            from: format!("From: \"Load {USER}\" <sip:u{USER}@{domain}>;tag={KEY}\r\n"),
            call_id: format!("Call-ID: {KEY}@load\r\n"),
            uri: format!("sip:{domain}"),
        }
    }

    fn via(&self, branch: &str) -> String {
        format!("Via: SIP/2.0/UDP {};branch=z9hG4bK{KEY}{branch};rport\r\nMax-Forwards: 70\r\n", self.caller)
    }

    fn first(&self, kind: Kind) -> Template {
        let (head, tail, size) = match kind {
            Kind::Call => (
                format!("{}Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\n", self.to_callee("INVITE", "i")),
                with_body(&session(self.caller)),
                INVITE_BYTES,
            ),
            Kind::Register => (self.register("r", 1), NO_BODY.to_owned(), SMALL_BYTES),
            Kind::Options => (self.to_callee("OPTIONS", "o"), NO_BODY.to_owned(), SMALL_BYTES),
        };
        Template::new(&format!("{head}{}{tail}", filling(head.len() + tail.len(), size)))
    }

    fn to_callee(&self, method: &str, branch: &str) -> String {
        let Self { caller, domain, from, call_id, .. } = self;
        format!(
            "{method} sip:c{USER}@{domain} SIP/2.0\r\n{}{from}To: <sip:c{USER}@{domain}>\r\n{call_id}CSeq: 1 {method}\r\n\
             Contact: <sip:u{USER}@{caller}>\r\nUser-Agent: tandem load\r\n",
            self.via(branch)
        )
    }

    fn register(&self, branch: &str, cseq: u32) -> String {
        let Self { caller, domain, from, call_id, uri } = self;
        format!(
            "REGISTER {uri} SIP/2.0\r\n{}{from}To: <sip:u{USER}@{domain}>\r\n{call_id}CSeq: {cseq} REGISTER\r\n\
             Contact: <sip:u{USER}@{caller}>\r\nExpires: 3600\r\nUser-Agent: tandem load\r\n",
            self.via(branch)
        )
    }
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

const OK: &str = "SIP/2.0 200 OK\r\n";
const NO_BODY: &str = "Content-Length: 0\r\n\r\n";
/// Record-Route lines that are followed; more stand in no message that a balancer wrote.
const ROUTES: usize = 8;
/// The size of an INVITE as a phone sends it, and of the smallest other messages.
const INVITE_BYTES: usize = 850;
const SMALL_BYTES: usize = 480;
/// Method, Request-URI and To of an ACK or BYE, about.
const IN_DIALOG_VARYING_BYTES: usize = 110;
/// The header lines that an answer copies, about.
const COPIED_BYTES: usize = 290;
