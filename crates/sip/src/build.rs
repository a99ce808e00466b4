//! Messages made here: responses to what was received, CANCEL and ACK for what was sent, and new requests.

use crate::decimal::Decimal;
use crate::header::Name;
use crate::message::{Header, Message};
use crate::value::name_addr;

/// Appends a response to `request` (RFC 3261 §8.2.6): all Via, From, To, Call-ID and CSeq as they came, the Timestamp for a 100,
/// `extra` (complete header lines with their line ends), no body.
///
/// `reason` is the phrase, by default the one of the RFCs. `to_tag` is added if the To has none. It works for partial requests, too: what
/// is missing is left out, of what stands there twice the first one is taken, and line ends that break the rules are mended.
pub fn response(
    request: &Message<'_>,
    code: u16,
    reason: Option<&str>,
    to_tag: Option<&[u8]>,
    extra: &[u8],
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(b"SIP/2.0 ");
    decimal(u64::from(code), out);
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or_else(|| reason_phrase(code)).as_bytes());
    out.extend_from_slice(b"\r\n");
    for header in request.all(Name::Via) {
        copy(request, &header, out);
    }
    copy_first(request, Name::From, out);
    copy_to(request, to_tag, out);
    copy_first(request, Name::CallId, out);
    copy_first(request, Name::CSeq, out);
    if code == 100 {
        copy_first(request, Name::Timestamp, out);
    }
    out.extend_from_slice(extra);
    end_without_body(out);
}

/// Appends the CANCEL for an INVITE as it was sent (RFC 3261 §9.1): its Request-URI, topmost Via, Route, From, To, Call-ID and CSeq number.
/// `reason_lines` are complete header lines (RFC 3326) or nothing.
pub fn cancel(sent_invite: &Message<'_>, reason_lines: &[u8], out: &mut Vec<u8>) {
    follow_up(sent_invite, sent_invite, b"CANCEL", out);
    out.extend_from_slice(reason_lines);
    end_without_body(out);
}

/// Appends the ACK for a final response other than 2xx to an INVITE as it was sent (RFC 3261 §17.1.1.3): everything is the INVITE's
/// except the To, which is the response's.
pub fn ack(sent_invite: &Message<'_>, response: &Message<'_>, out: &mut Vec<u8>) {
    follow_up(sent_invite, response, b"ACK", out);
    end_without_body(out);
}

/// A request to be built. Values are those of the headers, without name and line end.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a [u8],
    /// The Request-URI.
    pub uri: &'a [u8],
    /// The Via value, with its branch.
    pub via: &'a [u8],
    /// The From value, with its tag.
    pub from: &'a [u8],
    /// The To value.
    pub to: &'a [u8],
    /// The Call-ID.
    pub call_id: &'a [u8],
    /// The sequence number; the method is added.
    pub cseq: u32,
    /// The Contact value.
    pub contact: Option<&'a [u8]>,
    /// Further header lines, each with its line end.
    pub extra: &'a [u8],
    /// The content type and the body.
    pub body: Option<(&'a [u8], &'a [u8])>,
}

/// Appends a request with Max-Forwards 70.
pub fn request(request: &Request<'_>, out: &mut Vec<u8>) {
    request_line(request.method, request.uri, out);
    line(b"Via", request.via, out);
    line(b"Max-Forwards", b"70", out);
    line(b"From", request.from, out);
    line(b"To", request.to, out);
    line(b"Call-ID", request.call_id, out);
    sequence(request.cseq, request.method, out);
    if let Some(contact) = request.contact {
        line(b"Contact", contact, out);
    }
    out.extend_from_slice(request.extra);
    let Some((content_type, body)) = request.body else {
        return end_without_body(out);
    };
    line(b"Content-Type", content_type, out);
    out.extend_from_slice(b"Content-Length: ");
    decimal(body.len() as u64, out);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

/// The reason phrase of a status code; for codes without one that of their class.
pub fn reason_phrase(code: u16) -> &'static str {
    match code {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400..=499 => request_failure(code),
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        555 => "Push Notification Service Not Supported",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        101..=199 => "Session Progress",
        201..=299 => "OK",
        303..=399 => "Redirection",
        506..=599 => "Server Failure",
        601..=699 => "Global Failure",
        _ => "Unknown",
    }
}

fn request_failure(code: u16) -> &'static str {
    match code {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Conditional Request Failed",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        417 => "Unknown Resource-Priority",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        424 => "Bad Location Information",
        425 => "Bad Alert Message",
        428 => "Use Identity Header",
        429 => "Provide Referrer Identity",
        430 => "Flow Failed",
        433 => "Anonymity Disallowed",
        436 => "Bad Identity Info",
        437 => "Unsupported Credential",
        438 => "Invalid Identity Header",
        439 => "First Hop Lacks Outbound Support",
        440 => "Max-Breadth Exceeded",
        469 => "Bad Info Package",
        470 => "Consent Needed",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        _ => "Request Failure",
    }
}

/// What CANCEL and ACK have in common; the To is taken from `to_of`.
fn follow_up(invite: &Message<'_>, to_of: &Message<'_>, method: &[u8], out: &mut Vec<u8>) {
    let uri = invite.request_line().map_or(b"".as_slice(), |line| line.uri);
    request_line(method, uri, out);
    if let Some(top) = invite.values(Name::Via).next() {
        line(b"Via", top.bytes, out);
    }
    for header in invite.all(Name::Route) {
        copy(invite, &header, out);
    }
    line(b"Max-Forwards", b"70", out);
    copy_first(invite, Name::From, out);
    copy_first(to_of, Name::To, out);
    copy_first(invite, Name::CallId, out);
    if let Some(cseq) = invite.cseq() {
        sequence(cseq.number, method, out);
    }
}

fn copy_first(message: &Message<'_>, name: Name, out: &mut Vec<u8>) {
    if let Some(header) = message.first(name) {
        copy(message, &header, out);
    }
}

/// The To with a tag behind it, if it can be read and has none.
fn copy_to(request: &Message<'_>, to_tag: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(header) = request.first(Name::To) else {
        return;
    };
    let lacks_tag = name_addr(header.value).is_ok_and(|address| address.param(b"tag").is_none());
    let Some(tag) = to_tag.filter(|_| lacks_tag) else {
        return copy(request, &header, out);
    };
    out.extend_from_slice(b"To: ");
    append_value(request, &header, out);
    out.extend_from_slice(b";tag=");
    out.extend_from_slice(tag);
    out.extend_from_slice(b"\r\n");
}

/// A header line octet for octet; of a message whose line ends break the rules in one line and under its full name.
fn copy(message: &Message<'_>, header: &Header<'_>, out: &mut Vec<u8>) {
    if message.line_fault().is_none() {
        out.extend_from_slice(message.slice(header.line));
        return;
    }
    out.extend_from_slice(header.name.as_str().as_bytes());
    out.extend_from_slice(b": ");
    append_value(message, header, out);
    out.extend_from_slice(b"\r\n");
}

fn append_value(message: &Message<'_>, header: &Header<'_>, out: &mut Vec<u8>) {
    if message.line_fault().is_none() {
        out.extend_from_slice(header.value);
        return;
    }
    let mended = header.value.iter().map(|octet| if matches!(octet, b'\r' | b'\n') { b' ' } else { *octet });
    out.extend(mended);
}

fn request_line(method: &[u8], uri: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(uri);
    out.extend_from_slice(b" SIP/2.0\r\n");
}

fn line(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn sequence(number: u32, method: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"CSeq: ");
    decimal(u64::from(number), out);
    out.push(b' ');
    out.extend_from_slice(method);
    out.extend_from_slice(b"\r\n");
}

fn end_without_body(out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
}

fn decimal(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&Decimal::new(number));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Limits, parse};

    const INVITE: &[u8] = b"INVITE sip:bob@example.com SIP/2.0\r\n\
        v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1,\r\n SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK2\r\n\
        Via: SIP/2.0/TCP 192.0.2.3;branch=z9hG4bK3\r\n\
        Route: <sip:p1;lr>\r\nroute: <sip:p2;lr>\r\n\
        f: <sip:alice@example.com>;tag=1\r\nt: <sip:bob@example.com>\r\n\
        Call-ID: x@y\r\nCSeq: 0009\r\n  INVITE\r\nTimestamp: 54\r\nContent-Length: 4\r\n\r\nbody";

    fn read(text: &[u8]) -> Message<'_> {
        parse(text, &Limits::default()).expect("it has a shape")
    }

    #[test]
    fn a_response_copies_what_it_must() {
        let mut out = Vec::new();
        response(&read(INVITE), 404, None, Some(b"t1"), b"Server: s\r\n", &mut out);
        let wanted = b"SIP/2.0 404 Not Found\r\n\
            v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1,\r\n SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK2\r\n\
            Via: SIP/2.0/TCP 192.0.2.3;branch=z9hG4bK3\r\n\
            f: <sip:alice@example.com>;tag=1\r\nTo: <sip:bob@example.com>;tag=t1\r\n\
            Call-ID: x@y\r\nCSeq: 0009\r\n  INVITE\r\nServer: s\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(wanted));
    }

    #[test]
    fn a_100_has_the_timestamp_and_no_tag() {
        let mut out = Vec::new();
        response(&read(INVITE), 100, Some("Please Wait"), None, b"", &mut out);
        let trying = read(&out);
        assert_eq!(trying.status_line().map(|line| line.reason), Some(b"Please Wait".as_slice()));
        assert_eq!(trying.first(Name::Timestamp).map(|header| header.value), Some(b"54".as_slice()));
        assert_eq!(trying.to().and_then(|to| to.tag()), None);
        assert_eq!(trying.vias().count(), 3);
    }

    #[test]
    fn an_existing_tag_stays_and_partial_requests_are_answered() {
        let text = b"BYE sip:b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\nTo: sip:b;tag=old\r\n\r\n";
        let mut out = Vec::new();
        response(&read(text), 400, None, Some(b"new"), b"", &mut out);
        assert_eq!(read(&out).to().and_then(|to| to.tag()), Some(b"old".as_slice()));
        assert!(read(&out).first(Name::CallId).is_none());
        let bare = b"BYE sip:b SIP/2.0\nVia: SIP/2.0/UDP h;\n branch=1\nTo: \"x\nCall-ID: a\rb\n\n";
        out.clear();
        response(&read(bare), 400, None, Some(b"new"), b"", &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "SIP/2.0 400 Bad Request\r\nVia: SIP/2.0/UDP h;  branch=1\r\nTo: \"x\r\nCall-ID: a b\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn cancel_and_ack_follow_the_invite() {
        let mut out = Vec::new();
        cancel(&read(INVITE), b"Reason: SIP;cause=200\r\n", &mut out);
        let wanted = "CANCEL sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
            Route: <sip:p1;lr>\r\nroute: <sip:p2;lr>\r\nMax-Forwards: 70\r\n\
            f: <sip:alice@example.com>;tag=1\r\nt: <sip:bob@example.com>\r\nCall-ID: x@y\r\nCSeq: 9 CANCEL\r\n\
            Reason: SIP;cause=200\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&out), wanted);
        let mut busy = Vec::new();
        response(&read(INVITE), 486, None, Some(b"callee"), b"", &mut busy);
        out.clear();
        ack(&read(INVITE), &read(&busy), &mut out);
        let ack = read(&out);
        assert_eq!(ack.to().and_then(|to| to.tag()), Some(b"callee".as_slice()));
        assert_eq!(ack.vias().count(), 1);
        assert_eq!(ack.routes().count(), 2);
        assert_eq!(crate::check::check(&ack, &Limits::default()).err(), None);
    }

    #[test]
    fn a_new_request_passes_the_check() {
        let mut out = Vec::new();
        let wanted = Request {
            method: b"MESSAGE",
            uri: b"sip:bob@192.0.2.1",
            via: b"SIP/2.0/UDP 192.0.2.9:5060;branch=z9hG4bKx;rport",
            from: b"<sip:a@b>;tag=1",
            to: b"<sip:b@c>",
            call_id: b"id",
            cseq: 4_294_967_295,
            contact: Some(b"<sip:a@192.0.2.9>"),
            extra: b"Supported: path\r\n",
            body: Some((b"text/plain", b"hi\0there")),
        };
        request(&wanted, &mut out);
        let message = read(&out);
        assert_eq!(crate::check::check(&message, &Limits::default()).err(), None);
        assert_eq!(message.body(), b"hi\0there");
        assert_eq!(message.cseq().map(|cseq| cseq.number), Some(u32::MAX));
        assert!(message.has_option(Name::Supported, b"PATH"));
    }

    /// The phrases that IANA has registered.
    const REGISTERED: &str = "100 Trying, 180 Ringing, 181 Call Is Being Forwarded, 182 Queued, 183 Session Progress, \
        199 Early Dialog Terminated, 200 OK, 202 Accepted, 204 No Notification, 300 Multiple Choices, \
        301 Moved Permanently, 302 Moved Temporarily, 305 Use Proxy, 380 Alternative Service, 400 Bad Request, \
        401 Unauthorized, 402 Payment Required, 403 Forbidden, 404 Not Found, 405 Method Not Allowed, \
        406 Not Acceptable, 407 Proxy Authentication Required, 408 Request Timeout, 410 Gone, \
        412 Conditional Request Failed, 413 Request Entity Too Large, 414 Request-URI Too Long, \
        415 Unsupported Media Type, 416 Unsupported URI Scheme, 417 Unknown Resource-Priority, 420 Bad Extension, \
        421 Extension Required, 422 Session Interval Too Small, 423 Interval Too Brief, 424 Bad Location Information, \
        425 Bad Alert Message, \
        428 Use Identity Header, 429 Provide Referrer Identity, 430 Flow Failed, 433 Anonymity Disallowed, \
        436 Bad Identity Info, 437 Unsupported Credential, 438 Invalid Identity Header, \
        439 First Hop Lacks Outbound Support, 440 Max-Breadth Exceeded, 469 Bad Info Package, 470 Consent Needed, \
        480 Temporarily Unavailable, 481 Call/Transaction Does Not Exist, 482 Loop Detected, 483 Too Many Hops, \
        484 Address Incomplete, 485 Ambiguous, 486 Busy Here, 487 Request Terminated, 488 Not Acceptable Here, \
        489 Bad Event, 491 Request Pending, 493 Undecipherable, 494 Security Agreement Required, \
        500 Server Internal Error, 501 Not Implemented, 502 Bad Gateway, 503 Service Unavailable, \
        504 Server Time-out, 505 Version Not Supported, 513 Message Too Large, \
        555 Push Notification Service Not Supported, 580 Precondition Failure, 600 Busy Everywhere, 603 Decline, \
        604 Does Not Exist Anywhere, 606 Not Acceptable, 607 Unwanted, 608 Rejected";

    /// Codes at both ends of each class that nobody has registered.
    const OTHERS: &str = "0 Unknown, 99 Unknown, 101 Session Progress, 198 Session Progress, 201 OK, 299 OK, \
        303 Redirection, 399 Redirection, 499 Request Failure, 506 Server Failure, 599 Server Failure, \
        601 Global Failure, 699 Global Failure, 700 Unknown";

    #[test]
    fn a_code_has_its_registered_phrase_or_that_of_its_class() {
        for entry in REGISTERED.split(", ").chain(OTHERS.split(", ")) {
            let (code, phrase) = entry.split_once(' ').expect("an entry is a code and a phrase");
            assert_eq!(reason_phrase(code.parse().expect("a literal code")), phrase, "{code}");
        }
    }
}
