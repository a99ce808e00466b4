//! What makes a message unfit to be forwarded.
//!
//! Only that is judged which a proxy reads or rewrites, and what could make two receivers read two different messages (RFC 3261 §16.3
//! step 1). Header fields that a proxy does not read pass as they are.

use std::fmt;

use crate::checked::{Checked, Peer};
use crate::grammar::{Octets, is_token, number, octets};
use crate::header::Name;
use crate::message::{DeclaredLength, Limits, Message};
use crate::uri::Uri;
use crate::value::{CSeq, NameAddr, Via, ViaParameters, cseq, name_addr, via};

/// A violated rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fault {
    /// Nothing but line ends, white space and NUL octets: a keep-alive.
    Empty,
    /// The first line is neither a request line nor a status line.
    NotSip,
    /// More octets than the limit.
    TooLarge,
    /// More header lines than the limit.
    TooManyHeaders,
    /// A response whose code is no number of three digits.
    StatusCode,
    /// Not exactly method, space, URI, space, version.
    RequestLine,
    /// Not SIP/2.0.
    Version,
    /// The Request-URI is malformed, or has headers.
    RequestUri,
    /// A header line without a colon.
    HeaderLine,
    /// A header name that is no token, or a line end before the colon.
    HeaderName,
    /// A line feed without a carriage return.
    BareLineFeed,
    /// A carriage return without a line feed.
    BareCarriageReturn,
    /// No empty line ends the headers.
    HeadersUnterminated,
    /// A mandatory header is absent.
    Missing(Name),
    /// A header that has one value stands there more than once.
    Repeated(Name),
    /// The Content-Length is no number.
    ContentLength,
    /// Fewer octets follow than the Content-Length says.
    BodyTruncated,
    /// The sequence number does not fit 32 bits or is no number.
    CSeqNumber,
    /// The CSeq names another method than the request line, or none.
    CSeqMethod,
    /// The topmost Via is malformed.
    Via,
    /// The From is malformed.
    From,
    /// The To is malformed.
    To,
    /// The Call-ID is empty or holds white space.
    CallId,
    /// The Max-Forwards is no number.
    MaxForwards,
    /// A Contact is malformed.
    Contact,
    /// A Route is malformed.
    Route,
    /// A value of another header is no address.
    Address,
    /// A list has an empty value.
    EmptyValue(Name),
    /// A quoted string does not end.
    Quote(Name),
}

impl Fault {
    /// The labels of all faults, each once.
    pub const LABELS: &'static [&'static str] = &[
        "empty",
        "not_sip",
        "too_large",
        "too_many_headers",
        "status_code",
        "request_line",
        "version",
        "request_uri",
        "header_line",
        "header_name",
        "bare_line_feed",
        "bare_carriage_return",
        "headers_unterminated",
        "missing_header",
        "repeated_header",
        "content_length",
        "body_truncated",
        "cseq_number",
        "cseq_method",
        "via",
        "from",
        "to",
        "call_id",
        "max_forwards",
        "contact",
        "route",
        "address",
        "empty_value",
        "quote",
    ];

    /// What a request with this fault is answered; `None`: nothing. A response with a fault is never answered, but dropped.
    pub const fn status(self) -> Option<u16> {
        match self {
            Fault::Empty | Fault::NotSip | Fault::StatusCode => None,
            Fault::TooLarge | Fault::TooManyHeaders => Some(513),
            Fault::Version => Some(505),
            _ => Some(400),
        }
    }

    /// The fault as a metric label; header names are left out.
    pub const fn label(self) -> &'static str {
        match self {
            Fault::Empty => "empty",
            Fault::NotSip => "not_sip",
            Fault::TooLarge => "too_large",
            Fault::TooManyHeaders => "too_many_headers",
            Fault::StatusCode => "status_code",
            Fault::RequestLine => "request_line",
            Fault::Version => "version",
            Fault::RequestUri => "request_uri",
            Fault::HeaderLine => "header_line",
            Fault::HeaderName => "header_name",
            Fault::BareLineFeed => "bare_line_feed",
            Fault::BareCarriageReturn => "bare_carriage_return",
            Fault::HeadersUnterminated => "headers_unterminated",
            Fault::Missing(_) => "missing_header",
            Fault::Repeated(_) => "repeated_header",
            Fault::ContentLength => "content_length",
            Fault::BodyTruncated => "body_truncated",
            Fault::CSeqNumber => "cseq_number",
            Fault::CSeqMethod => "cseq_method",
            Fault::Via => "via",
            Fault::From => "from",
            Fault::To => "to",
            Fault::CallId => "call_id",
            Fault::MaxForwards => "max_forwards",
            Fault::Contact => "contact",
            Fault::Route => "route",
            Fault::Address => "address",
            Fault::EmptyValue(_) => "empty_value",
            Fault::Quote(_) => "quote",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentence = match self {
            Fault::Empty => "the message is empty",
            Fault::NotSip => "the first line is none of sip",
            Fault::TooLarge => "the message is too large",
            Fault::TooManyHeaders => "the message has too many header lines",
            Fault::StatusCode => "the status code is malformed",
            Fault::RequestLine => "the request line is malformed",
            Fault::Version => "the version is not SIP/2.0",
            Fault::RequestUri => "the request uri is malformed",
            Fault::HeaderLine => "a header line has no colon",
            Fault::HeaderName => "a header name is malformed",
            Fault::BareLineFeed => "a line feed stands without a carriage return",
            Fault::BareCarriageReturn => "a carriage return stands without a line feed",
            Fault::HeadersUnterminated => "no empty line ends the headers",
            Fault::Missing(name) => return write!(formatter, "the {name} header is missing"),
            Fault::Repeated(name) => {
                return write!(formatter, "the {name} header stands more than once");
            }
            Fault::ContentLength => "the content length is no number",
            Fault::BodyTruncated => "the body is shorter than its content length",
            Fault::CSeqNumber => "the sequence number is malformed",
            Fault::CSeqMethod => "the cseq does not name the method of the request",
            Fault::Via => "the topmost via header is malformed",
            Fault::From => "the from header is malformed",
            Fault::To => "the to header is malformed",
            Fault::CallId => "the call id is malformed",
            Fault::MaxForwards => "the max-forwards header is no number",
            Fault::Contact => "a contact header is malformed",
            Fault::Route => "a route header is malformed",
            Fault::Address => "an address is malformed",
            Fault::EmptyValue(name) => {
                return write!(formatter, "the {name} header has an empty value");
            }
            Fault::Quote(name) => {
                return write!(formatter, "a quoted string in the {name} header does not end");
            }
        };
        formatter.write_str(sentence)
    }
}

impl std::error::Error for Fault {}

/// Every rule of RFC 3261 whose violation makes a request or response unfit to be forwarded. A missing Max-Forwards, branch or
/// From tag is none (RFC 2543 knew none of them), and neither is a missing Content-Length: in a datagram the body is the rest.
///
/// # Errors
/// The first fault in a fixed order: lines, start line, header names, presence, length, and then header by header.
pub fn check<'m>(message: &'m Message<'m>, limits: &Limits) -> Result<Checked<'m>, Fault> {
    lines(message, limits)?;
    let uri = start_line(message)?;
    header_names(message)?;
    presence(message)?;
    content_length(message)?;
    let cseq = sequence(message)?;
    let (via, via_parameters) = top_via(message)?;
    let checked = Checked {
        message,
        uri,
        via,
        via_parameters,
        from: peer(message, Name::From, Fault::From)?,
        to: peer(message, Name::To, Fault::To)?,
        call_id: call_id(message)?,
        cseq,
    };
    max_forwards(message)?;
    addresses(message, Name::Contact, Fault::Contact)?;
    addresses(message, Name::Route, Fault::Route)?;
    Ok(checked)
}

fn lines(message: &Message<'_>, limits: &Limits) -> Result<(), Fault> {
    if let Some(fault) = message.line_fault() {
        return Err(fault);
    }
    if message.bytes().len() > limits.message_bytes {
        return Err(Fault::TooLarge);
    }
    if message.header_count() > limits.headers {
        return Err(Fault::TooManyHeaders);
    }
    Ok(())
}

fn start_line<'m>(message: &Message<'m>) -> Result<Option<Uri<'m>>, Fault> {
    let version = match (message.request_line(), message.status_line()) {
        (Some(line), _) => line.version,
        (None, Some(line)) => line.version,
        (None, None) => return Err(Fault::NotSip),
    };
    // The version comes first: of another one nobody knows what its request line looks like.
    if !version.eq_ignore_ascii_case(b"SIP/2.0") {
        return Err(Fault::Version);
    }
    let Some(line) = message.request_line() else {
        return Ok(None);
    };
    if !is_token(line.method.as_bytes()) {
        return Err(Fault::RequestLine);
    }
    let uri = crate::uri::parse(line.uri).map_err(|_| Fault::RequestUri)?;
    if uri.headers.is_empty() { Ok(Some(uri)) } else { Err(Fault::RequestUri) }
}

/// The names that we know are tokens by being known.
fn header_names(message: &Message<'_>) -> Result<(), Fault> {
    let malformed = message.all(Name::Other).any(|header| !is_token(header.spelled));
    if malformed { Err(Fault::HeaderName) } else { Ok(()) }
}

fn presence(message: &Message<'_>) -> Result<(), Fault> {
    for name in [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq] {
        if message.first(name).is_none() {
            return Err(Fault::Missing(name));
        }
    }
    for name in [Name::From, Name::To, Name::CallId, Name::CSeq, Name::MaxForwards, Name::ContentLength] {
        if message.is_repeated(name) {
            return Err(Fault::Repeated(name));
        }
    }
    Ok(())
}

fn content_length(message: &Message<'_>) -> Result<(), Fault> {
    match message.declared_length() {
        DeclaredLength::Absent => Ok(()),
        DeclaredLength::Repeated => Err(Fault::Repeated(Name::ContentLength)),
        DeclaredLength::Unreadable => Err(Fault::ContentLength),
        // `parse` has cut the body to this length where there was enough of it.
        DeclaredLength::Octets(length) => {
            if usize::try_from(length).is_ok_and(|length| length == message.body().len()) {
                Ok(())
            } else {
                Err(Fault::BodyTruncated)
            }
        }
    }
}

fn sequence<'m>(message: &Message<'m>) -> Result<CSeq<'m>, Fault> {
    let header = message.first(Name::CSeq).ok_or(Fault::Missing(Name::CSeq))?;
    let cseq = cseq(header.value)?;
    match message.request_line() {
        Some(line) if line.method != cseq.method => Err(Fault::CSeqMethod),
        _ => Ok(cseq),
    }
}

/// Only the topmost Via is read by a proxy; those below it pass as they are.
fn top_via<'m>(message: &Message<'m>) -> Result<(Via<'m>, ViaParameters<'m>), Fault> {
    let line = message.first(Name::Via).ok_or(Fault::Missing(Name::Via))?;
    let mut values = line.line_values();
    let top = values.next().ok_or(Fault::EmptyValue(Name::Via))?;
    if values.has_hole() {
        return Err(Fault::EmptyValue(Name::Via));
    }
    let via = via(&top)?;
    let parameters = via.parameters();
    // A proxy appends parameters here.
    if via.version != b"2.0" || parameters.hole { Err(Fault::Via) } else { Ok((via, parameters)) }
}

fn peer<'m>(message: &Message<'m>, name: Name, fault: Fault) -> Result<Peer<'m>, Fault> {
    let header = message.first(name).ok_or(Fault::Missing(name))?;
    let (address, uri) = readable_address(header.value, name, fault)?;
    Ok(Peer { address, uri, tag: address.tag() })
}

fn addresses(message: &Message<'_>, name: Name, fault: Fault) -> Result<(), Fault> {
    for line in message.all(name) {
        let mut values = line.line_values();
        let mut verdict = Ok(());
        for value in values.by_ref() {
            if verdict.is_ok() && (name != Name::Contact || value.bytes != b"*") {
                verdict = readable_address(value.bytes, name, fault).map(|_| ());
            }
        }
        // That a value is missing is told first: it may be what makes its neighbour unreadable.
        if values.has_hole() {
            return Err(Fault::EmptyValue(name));
        }
        verdict?;
    }
    Ok(())
}

fn readable_address(bytes: &[u8], name: Name, fault: Fault) -> Result<(NameAddr<'_>, Uri<'_>), Fault> {
    let address = name_addr(bytes).map_err(|found| match found {
        Fault::Quote(_) => Fault::Quote(name),
        _ => fault,
    })?;
    Ok((address, address.uri().ok_or(fault)?))
}

fn call_id<'m>(message: &Message<'m>) -> Result<&'m [u8], Fault> {
    message.call_id().filter(|value| PLAIN.has_all(value)).ok_or(Fault::CallId)
}

/// Neither white space nor a control octet.
const fn is_plain(octet: u8) -> bool {
    octet > b' ' && octet != 0x7f
}

const PLAIN: Octets = octets!(is_plain);

fn max_forwards(message: &Message<'_>) -> Result<(), Fault> {
    let readable = message.first(Name::MaxForwards).is_none_or(|header| number(header.value).is_some());
    if readable { Ok(()) } else { Err(Fault::MaxForwards) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::parse;

    const LINES: [&str; 9] = [
        "INVITE sip:bob@example.com SIP/2.0",
        "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1",
        "Max-Forwards: 70",
        "From: <sip:alice@example.com>;tag=1",
        "To: <sip:bob@example.com>",
        "Call-ID: 1@192.0.2.1",
        "CSeq: 1 INVITE",
        "Contact: <sip:alice@192.0.2.1>",
        "Content-Length: 0",
    ];

    fn verdict(text: &[u8]) -> Result<(), Fault> {
        let limits = Limits::default();
        check(&parse(text, &limits)?, &limits).map(|_| ())
    }

    /// The request above with the line that begins with the same word replaced, or the line added.
    fn with(line: &str) -> Vec<u8> {
        let word = |text: &str| text.split([':', ' ']).next().map(str::to_owned);
        let mut lines: Vec<&str> = LINES.into_iter().filter(|old| word(old) != word(line)).collect();
        let place = if line.starts_with("IN") { 0 } else { lines.len() };
        if place == 0 {
            lines.retain(|old| !old.starts_with("INVITE"));
        }
        lines.insert(place, line);
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    fn without(word: &str) -> Vec<u8> {
        let lines: Vec<&str> = LINES.into_iter().filter(|line| !line.starts_with(word)).collect();
        (lines.join("\r\n") + "\r\n\r\n").into_bytes()
    }

    #[test]
    fn a_fit_request_and_what_may_be_absent() {
        assert_eq!(verdict(&without("nothing")), Ok(()));
        for word in ["Max-Forwards", "Contact", "Content-Length"] {
            assert_eq!(verdict(&without(word)), Ok(()), "{word}");
        }
        for line in ["Date: never", "Accept: ;;,", "Record-Route: ,", "Authorization: \"", "Contact: *", "s :"] {
            assert_eq!(verdict(&with(line)), Ok(()), "{line}");
        }
        assert_eq!(verdict(&with("INVITE sip:bob@example.com sip/2.0")), Ok(()));
    }

    #[test]
    fn one_fault_per_rule() {
        let cases = [
            ("INVITE  sip:a@b SIP/2.0", Fault::RequestLine),
            ("INVITE sip:a@b SIP/2.0 ", Fault::RequestLine),
            ("IN\u{1}VITE sip:a@b SIP/2.0", Fault::RequestLine),
            ("INVITE SIP/2.0", Fault::RequestLine),
            ("INVITE sip:a@b SIP/7.0", Fault::Version),
            ("INVITE <sip:a@b> SIP/2.0", Fault::RequestUri),
            ("INVITE sip:a@b?Route=x SIP/2.0", Fault::RequestUri),
            ("INVITE sip:2001:db8::10 SIP/2.0", Fault::RequestUri),
            ("no colon", Fault::HeaderLine),
            ("To\u{1}: x", Fault::HeaderName),
            (": x", Fault::HeaderName),
            ("X-Fold\r\n : x", Fault::HeaderName),
            ("X: a\nb", Fault::BareLineFeed),
            ("X: a\rb", Fault::BareCarriageReturn),
            ("l: 1", Fault::Repeated(Name::ContentLength)),
            ("Content-Length: -1", Fault::ContentLength),
            ("Content-Length: 1", Fault::BodyTruncated),
            ("Content-Length: 18446744073709551616", Fault::BodyTruncated),
            ("CSeq: 4294967296 INVITE", Fault::CSeqNumber),
            ("CSeq: 1 ACK", Fault::CSeqMethod),
            ("Via: SIP/2.0/UDP h;;branch=1", Fault::Via),
            ("Via: SIP/2.0/UDP h,,SIP/2.0/UDP i", Fault::EmptyValue(Name::Via)),
            ("Via: SIP/1.0/UDP h", Fault::Via),
            ("From: \"a <sip:a@b>", Fault::Quote(Name::From)),
            ("From: <sip:a@b:x>", Fault::From),
            ("To: Bell, A <sip:a@b>", Fault::To),
            ("Call-ID:", Fault::CallId),
            ("Call-ID: a b", Fault::CallId),
            ("Max-Forwards: x", Fault::MaxForwards),
            ("Contact: sip:a@b?Route=x", Fault::Contact),
            ("Contact: <sip:a@b>, ", Fault::EmptyValue(Name::Contact)),
            ("Route: <sip:a@b", Fault::Route),
            ("t: <sip:c@d>", Fault::Repeated(Name::To)),
        ];
        for (line, fault) in cases {
            assert_eq!(verdict(&with(line)), Err(fault), "{line:?}");
            assert!(fault.status().is_some(), "{fault:?} of a request is answered");
        }
        for (word, name) in [
            ("Via", Name::Via),
            ("From", Name::From),
            ("To", Name::To),
            ("Call-ID", Name::CallId),
            ("CSeq", Name::CSeq),
        ] {
            assert_eq!(verdict(&without(word)), Err(Fault::Missing(name)));
        }
    }

    #[test]
    fn what_is_no_message_gets_silence() {
        let cases: [(&[u8], Fault); 6] = [
            (b"", Fault::Empty),
            (b"\r\n\r\n", Fault::Empty),
            (b"\0\0\0\0", Fault::Empty),
            (b"GET / HTTP/1.1\r\n\r\n", Fault::NotSip),
            (b"0 0 SIP\r\nV:/\r\n", Fault::NotSip),
            (b"SIP/2.0 4294967301 x\r\n\r\n", Fault::StatusCode),
        ];
        for (text, fault) in cases {
            assert_eq!(verdict(text), Err(fault));
            assert_eq!(fault.status(), None);
        }
    }

    #[test]
    fn limits_are_answered_with_513() {
        let text = without("nothing");
        let small = Limits { message_bytes: text.len() - 1, headers: 256 };
        let few = Limits { message_bytes: 65_535, headers: 7 };
        for (limits, fault) in [(small, Fault::TooLarge), (few, Fault::TooManyHeaders)] {
            let message = parse(&text, &limits).expect("it has a shape");
            assert_eq!(check(&message, &limits).err(), Some(fault));
            assert_eq!(fault.status(), Some(513));
        }
        let exact = Limits { message_bytes: text.len(), headers: 8 };
        let message = parse(&text, &exact).expect("it has a shape");
        assert_eq!(check(&message, &exact).err(), None);
    }

    #[test]
    fn a_message_read_under_wider_limits_is_judged_by_those_given() {
        let text = without("nothing");
        let message = parse(&text, &Limits::default()).expect("it has a shape");
        let octets = text.len();
        for (message_bytes, headers, fault) in [
            (octets, 8, None),
            (octets - 1, 8, Some(Fault::TooLarge)),
            (octets, 7, Some(Fault::TooManyHeaders)),
            (octets, 0, Some(Fault::TooManyHeaders)),
        ] {
            assert_eq!(check(&message, &Limits { message_bytes, headers }).err(), fault);
        }
    }

    #[test]
    fn another_version_is_answered_with_505_and_other_faults_with_400() {
        assert_eq!(Fault::Version.status(), Some(505));
        for fault in [Fault::RequestLine, Fault::BareLineFeed, Fault::Missing(Name::To), Fault::Via, Fault::Route] {
            assert_eq!(fault.status(), Some(400), "{fault}");
        }
    }

    #[test]
    fn unterminated_headers_are_a_fault() {
        let text = without("nothing");
        let cut = text.strip_suffix(b"\r\n").expect("it ends with an empty line");
        assert_eq!(verdict(cut), Err(Fault::HeadersUnterminated));
    }

    #[test]
    fn labels_are_listed_once() {
        let mut labels = Fault::LABELS.to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Fault::LABELS.len());
        for fault in [Fault::Empty, Fault::Missing(Name::To), Fault::Quote(Name::Via), Fault::Address] {
            assert!(Fault::LABELS.contains(&fault.label()));
        }
        assert_eq!(Fault::Missing(Name::CallId).to_string(), "the Call-ID header is missing");
    }
}
