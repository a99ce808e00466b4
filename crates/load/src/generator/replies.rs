//! What both ends answer to requests.

use super::scan::{Field, lines};
use super::template::{filling, session};
use std::net::SocketAddr;

/// The answers of one end.
pub(super) struct Replies {
    pub(super) ringing: Reply,
    pub(super) answered: Reply,
    pub(super) done: Reply,
    pub(super) challenge: Reply,
    pub(super) registered: Reply,
    /// To calls of nobody we know.
    pub(super) busy: Reply,
    /// To changes of a call's session, and to calls where no calls are taken.
    pub(super) not_acceptable: Reply,
    pub(super) not_allowed: Reply,
}

/// A status line and what follows the header lines copied from the request.
pub(super) struct Reply {
    status_line: &'static str,
    rest: String,
}

impl Replies {
    /// `own`: the address of the end that answers.
    pub(super) fn new(own: SocketAddr) -> Self {
        let contact = format!("Contact: <sip:callee@{own}>\r\nServer: tandem load\r\n");
        let server = "Server: tandem load\r\n";
        let allow = "Allow: INVITE, ACK, BYE, CANCEL, OPTIONS\r\n";
        let session = session(own);
        Self {
            ringing: Reply::small("SIP/2.0 180 Ringing\r\n", &contact),
            answered: Reply {
                status_line: OK,
                rest: format!(
                    "{contact}{allow}Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{session}",
                    session.len()
                ),
            },
            done: Reply::small(OK, server),
            challenge: Reply::small(
                "SIP/2.0 401 Unauthorized\r\n",
                "WWW-Authenticate: Digest realm=\"load\", nonce=\"load\", algorithm=MD5\r\nServer: tandem load\r\n",
            ),
            registered: Reply::small(OK, "Expires: 3600\r\nServer: tandem load\r\n"),
            busy: Reply::small("SIP/2.0 486 Busy Here\r\n", server),
            not_acceptable: Reply::small("SIP/2.0 488 Not Acceptable Here\r\n", server),
            not_allowed: Reply::small("SIP/2.0 405 Method Not Allowed\r\n", &format!("{allow}{server}")),
        }
    }
}

impl Reply {
    fn small(status_line: &'static str, lines: &str) -> Self {
        let have = status_line.len() + COPIED_BYTES + lines.len() + NO_BODY.len();
        Self { status_line, rest: format!("{lines}{}{NO_BODY}", filling(have, SMALL_BYTES)) }
    }

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

const OK: &str = "SIP/2.0 200 OK\r\n";
const NO_BODY: &str = "Content-Length: 0\r\n\r\n";
/// The size of the smallest messages.
const SMALL_BYTES: usize = 480;
/// The header lines that an answer copies, about.
const COPIED_BYTES: usize = 290;
