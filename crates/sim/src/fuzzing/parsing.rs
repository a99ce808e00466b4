//! One datagram: parsed, judged, read through and through, edited and answered.

use sip::frame::{Frame, Framer};
use sip::message::{Limits, Message, Span, Value, parse, parse_quoted};
use sip::transaction::{KeyClass, key};
use sip::uri::{same_host, unescape_eq};
use sip::{Checked, Contact, Edits, Fault, Name, NameAddr, Uri, build, check, sdp, stun};
use std::hash::DefaultHasher;
use std::net::SocketAddr;

/// Reads `bytes` as one datagram, and as a piece of a stream.
///
/// # Panics
/// If a part lies outside the message, an edit changes more than it names, or a message built from this one is not fit.
pub fn message(bytes: &[u8]) {
    let limits = Limits::default();
    if let Some(quoted) = parse_quoted(bytes, &limits) {
        read_lines(&quoted);
    }
    let frames = cut_stream(bytes, piece_of(bytes));
    let framed: usize = frames.iter().map(octets_of).sum();
    assert!(framed <= bytes.len(), "frames of {framed} octets out of {}", bytes.len());
    read_stun(bytes);
    let Ok(message) = parse(bytes, &limits) else {
        return;
    };
    assert!(message.bytes().len() <= bytes.len());
    read_lines(&message);
    read_start(&message);
    read_values(&message);
    let verdict = check(&message, &limits).map(|checked| agree(&checked));
    answer(&message, verdict);
    if verdict.is_ok() {
        pop_vias(&message);
        forward(&message);
        follow_up(&message);
        frame(&message);
    } else {
        remove_vias(&message);
    }
}

fn read_lines(message: &Message<'_>) {
    let length = message.bytes().len();
    assert!(message.headers_end() <= message.body_start());
    assert_eq!(message.body().len() + message.body_start() as usize, length);
    let mut end = 0;
    for header in message.headers() {
        assert!(header.line.start >= end && !header.line.is_empty(), "lines overlap or are empty");
        end = header.line.end;
        assert_inside(message.span_of(header.spelled), header.line);
        assert_inside(message.span_of(header.value), header.line);
        for (position, value) in header.values().enumerate() {
            assert_inside(message.span_of(value.bytes), header.line);
            assert_eq!(value.line, header.line);
            assert_eq!(value.first, position == 0);
        }
        let first = message.first(header.name).map(|first| first.line.start);
        assert!(first.is_some_and(|start| start <= header.line.start), "{} has no first line", header.name);
        for named in message.named(header.spelled) {
            assert_inside(message.span_of(named.value), named.line);
        }
    }
    assert!(end <= message.headers_end());
}

fn read_start(message: &Message<'_>) {
    assert_ne!(message.request_line().is_some(), message.status_line().is_some());
    assert_eq!(message.is_request(), message.request_line().is_some());
    if let Some(line) = message.request_line() {
        assert_part(message, line.uri);
        assert_part(message, line.version);
        if let Ok(uri) = sip::uri::parse(line.uri) {
            read_uri(message, &uri);
        }
    }
    if let Some(line) = message.status_line() {
        assert!((100..1_000).contains(&line.code));
        assert_part(message, line.version);
        assert_part(message, line.reason);
    }
}

/// What was read while it was judged is what is read of the message when it is asked.
fn agree(checked: &Checked<'_>) {
    let message: &Message<'_> = checked;
    for class in [KeyClass::Own, KeyClass::Cancelled] {
        key(checked, &mut DefaultHasher::new(), class);
    }
    assert_eq!(checked.method(), message.method());
    assert_eq!(Some(checked.call_id()), message.call_id());
    assert_eq!(Some(checked.cseq()), message.cseq());
    assert_eq!(Some(checked.via().raw), message.top_via().map(|via| via.raw));
    assert_eq!(checked.branch(), message.top_via().and_then(|via| via.branch()));
    assert_eq!(Some(checked.from().tag), message.from().map(|from| from.tag()));
    assert_eq!(Some(checked.to().tag), message.to().map(|to| to.tag()));
    assert_eq!(checked.uri().map(|uri| uri.raw), message.request_line().map(|line| line.uri));
}

fn read_values(message: &Message<'_>) {
    for via in message.vias() {
        let branch = via.branch().unwrap_or_default();
        for part in [via.raw, via.version, via.transport, via.host_bytes, via.params, branch] {
            assert_part(message, part);
        }
        assert_inside(message.span_of(via.value().bytes), via.line);
        assert!(same_host(via.host, via.host));
        let numbers = (via.received(), via.rport(), via.maddr(), via.ttl());
        assert_eq!(numbers, (via.received(), via.rport(), via.maddr(), via.ttl()));
    }
    let ends = message.from().into_iter().chain(message.to());
    let ways = message.routes().chain(message.record_routes()).chain(message.paths());
    for address in ends.chain(ways) {
        read_address(message, &address);
    }
    for contact in message.contacts() {
        if let Contact::Address(address) = contact {
            read_address(message, &address);
        }
    }
    assert_part(message, message.call_id().unwrap_or_default());
    for challenge in message.challenges() {
        let parts = [challenge.realm(), challenge.nonce(), challenge.opaque(), challenge.qop(), challenge.algorithm()];
        parts.into_iter().flatten().for_each(|part| assert_part(message, part));
        let stale = challenge.param(b"STALE").is_some_and(|value| value.eq_ignore_ascii_case(b"true"));
        assert_eq!(challenge.stale(), stale);
    }
    for credentials in message.credentials() {
        let who = [credentials.username(), credentials.realm(), credentials.nonce(), credentials.uri()];
        let proof = [credentials.response(), credentials.cnonce(), credentials.nc(), credentials.qop()];
        who.into_iter().chain(proof).flatten().for_each(|part| assert_part(message, part));
    }
    if let Some(dialog) = message.dialog_reference() {
        for part in [dialog.call_id, dialog.to_tag, dialog.from_tag] {
            assert_part(message, part);
        }
    }
    let numbers = |message: &Message<'_>| (message.max_forwards(), message.expires(), message.session_expires());
    let once = numbers(message);
    assert_eq!(once, numbers(message));
    assert_eq!(message.has_option(Name::Supported, b"path"), message.has_option(Name::Supported, b"PATH"));
    let session = sdp::read(message.body());
    assert_eq!(session, sdp::read(message.body()));
}

fn read_address(message: &Message<'_>, address: &NameAddr<'_>) {
    let tag = address.tag().unwrap_or_default();
    let instance = address.instance().unwrap_or_default();
    for part in [address.raw, address.display, address.uri_bytes, address.params, tag, instance] {
        assert_part(message, part);
    }
    assert!(address.q().is_none_or(|q| q <= 1_000));
    let numbers = (address.expires(), address.reg_id());
    assert_eq!(numbers, (address.expires(), address.reg_id()));
    if let Some(uri) = address.uri() {
        read_uri(message, &uri);
    }
}

fn read_uri(message: &Message<'_>, uri: &Uri<'_>) {
    let user = uri.user.unwrap_or_default();
    let others = [uri.password, uri.transport(), uri.param(b"maddr").flatten()].map(Option::unwrap_or_default);
    for part in [uri.raw, user, uri.params, uri.headers].into_iter().chain(others) {
        assert_part(message, part);
    }
    assert!(unescape_eq(user, user));
    assert!(same_host(uri.host, uri.host));
}

fn read_stun(bytes: &[u8]) {
    let mut answer = Vec::new();
    let source = SocketAddr::from(([192, 0, 2, 1], 5060));
    let answered = stun::binding_response(bytes, source, &mut answer);
    assert_eq!(answered, !answer.is_empty());
    assert!(!answered || (stun::is_stun(bytes) && stun::is_stun(&answer)));
}

/// A response can be made of every request, and has mended lines.
fn answer(message: &Message<'_>, verdict: Result<(), Fault>) {
    if !message.is_request() {
        return;
    }
    for code in [100, 400] {
        let written = response_to(message, code);
        let answer = read(&written);
        assert_eq!(answer.status_line().map(|line| line.code), Some(code));
        let found = check(&answer, &ROOMY).map(|_| ());
        if verdict.is_ok() {
            assert_eq!(found, Ok(()), "the answer to a fit request is fit");
        }
        let is_broken = matches!(
            found,
            Err(Fault::BareLineFeed | Fault::BareCarriageReturn | Fault::HeadersUnterminated | Fault::HeaderLine)
        );
        assert!(!is_broken, "{found:?} in an answer of ours");
    }
}

/// The topmost Via value goes, then all of them; the rest stays as it was.
fn pop_vias(message: &Message<'_>) {
    let vias: Vec<Value<'_>> = message.values(Name::Via).collect();
    let top = vias.first().copied().expect("a fit message has a Via");
    let mut edits = Edits::new();
    assert_eq!(applied(&edits, message), message.bytes());
    edits.remove_values(message, &[top]);
    let popped = applied(&edits, message);
    let popped = read(&popped);
    let left: Vec<&[u8]> = popped.values(Name::Via).map(|value| value.bytes).collect();
    let wanted: Vec<&[u8]> = vias.iter().skip(1).map(|value| value.bytes).collect();
    assert_eq!(left, wanted);
    assert_rest_is_kept(message, &popped);
    edits.clear();
    edits.remove_each(message, &vias);
    let bare = applied(&edits, message);
    let bare = read(&bare);
    assert_eq!(bare.values(Name::Via).count(), 0);
    assert_rest_is_kept(message, &bare);
}

/// Edits of a message that is not fit do no harm.
fn remove_vias(message: &Message<'_>) {
    let vias: Vec<Value<'_>> = message.values(Name::Via).collect();
    let mut edits = Edits::new();
    edits.remove_each(message, &vias);
    let written = applied(&edits, message);
    assert!(written.len() <= message.bytes().len());
    assert!(parse(&written, &ROOMY).is_ok(), "the start line went with a Via");
}

/// All that a proxy does to a message at once.
fn forward(message: &Message<'_>) {
    let mut edits = Edits::new();
    let first = message.first(Name::Via).expect("a fit message has a Via");
    edits.insert(first.line.start, b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKours\r\n");
    if let Some(line) = message.request_line() {
        edits.replace(message.span_of(line.uri), TARGET);
    }
    if let Some(hops) = message.first(Name::MaxForwards) {
        edits.replace(message.span_of(hops.value), b"69");
    }
    edits.insert(message.headers_end(), b"Record-Route: <sip:192.0.2.1;lr>\r\n");
    let written = applied(&edits, message);
    let sent = read(&written);
    assert_eq!(check(&sent, &ROOMY).map(|_| ()), Ok(()), "what a proxy did made the message unfit");
    assert_eq!(sent.values(Name::Via).count(), message.values(Name::Via).count() + 1);
    let branch = sent.top_via().and_then(|via| via.branch());
    assert_eq!(branch, Some(b"z9hG4bKours".as_slice()));
    assert!(sent.request_line().is_none_or(|line| line.uri == TARGET));
    assert_rest_is_kept(message, &sent);
}

/// CANCEL and ACK of a fit request are fit.
fn follow_up(message: &Message<'_>) {
    if !message.is_request() {
        return;
    }
    let mut written = Vec::new();
    build::cancel(message, b"Reason: SIP;cause=200\r\n", &mut written);
    let cancel = read(&written);
    assert_eq!(check(&cancel, &ROOMY).map(|_| ()), Ok(()), "a CANCEL of ours is not fit");
    assert_eq!(cancel.values(Name::Via).count(), 1);
    let refusal = response_to(message, 486);
    let mut written = Vec::new();
    build::ack(message, &read(&refusal), &mut written);
    let ack = read(&written);
    assert_eq!(check(&ack, &ROOMY).map(|_| ()), Ok(()), "an ACK of ours is not fit");
    assert_eq!(ack.call_id(), message.call_id());
}

/// A fit message that says its length comes out of a stream as it went in.
fn frame(message: &Message<'_>) {
    if message.first(Name::ContentLength).is_some() {
        let frames = cut_stream(message.bytes(), piece_of(message.bytes()));
        assert_eq!(frames, [Frame::Message(message.bytes().to_vec())]);
    }
}

/// The frames of a stream that arrives in pieces of `size` octets.
fn cut_stream(stream: &[u8], size: usize) -> Vec<Frame> {
    let mut framer = Framer::new(Limits::default());
    let mut frames = Vec::new();
    for piece in stream.chunks(size) {
        framer.push(piece);
        while let Some(found) = framer.next() {
            match found {
                Ok(frame) => frames.push(frame),
                Err(fault) => {
                    assert_eq!(framer.next(), Some(Err(fault)), "a dead stream came to life");
                    return frames;
                }
            }
        }
    }
    frames
}

fn piece_of(bytes: &[u8]) -> usize {
    1 + bytes.len() % 61
}

fn octets_of(frame: &Frame) -> usize {
    match frame {
        Frame::Message(bytes) => bytes.len(),
        Frame::Ping => 4,
    }
}

fn response_to(request: &Message<'_>, code: u16) -> Vec<u8> {
    let tag: &[u8] = b"ours";
    let mut written = Vec::new();
    build::response(request, code, None, Some(tag), b"", &mut written);
    written
}

fn applied(edits: &Edits, message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    edits.apply(message.bytes(), &mut out);
    out
}

/// Reads a message that was made here.
fn read(written: &[u8]) -> Message<'_> {
    parse(written, &ROOMY).expect("a message of ours has a shape")
}

fn assert_rest_is_kept(before: &Message<'_>, after: &Message<'_>) {
    assert_eq!(after.body(), before.body());
    for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
        let value = |message: &Message<'_>| message.first(name).map(|header| header.value.to_vec());
        assert_eq!(value(after), value(before), "{name}");
    }
}

fn assert_inside(part: Span, whole: Span) {
    assert!(whole.start <= part.start && part.start <= part.end && part.end <= whole.end, "{part:?} of {whole:?}");
}

/// `span_of` itself panics for what is no part of the message. An empty part may be a constant.
fn assert_part(message: &Message<'_>, part: &[u8]) {
    if !part.is_empty() {
        assert_eq!(message.span_of(part).len(), part.len());
    }
}

/// For messages that grew by what was written into them here.
const ROOMY: Limits = Limits { message_bytes: 1 << 20, headers: 1_000 };
const TARGET: &[u8] = b"sip:clyde@192.0.2.9;lr";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Script;

    #[test]
    fn a_plain_request_and_its_fragments_hold_the_promises() {
        let whole = Script::new("INVITE").line("Via: SIP/2.0/UDP b, SIP/2.0/UDP c").body("text/plain", b"x").build();
        for end in 0..=whole.len() {
            message(whole.get(..end).unwrap_or_default());
        }
    }

    #[test]
    fn streams_are_cut_where_messages_end() {
        let one = Script::new("OPTIONS").build();
        let stream = [&one[..], b"\r\n\r\n", &one[..]].concat();
        assert_eq!(cut_stream(&stream, 7), [Frame::Message(one.clone()), Frame::Ping, Frame::Message(one)]);
    }

    #[test]
    #[should_panic(expected = "no part of the message")]
    fn a_part_from_elsewhere_is_noticed() {
        let whole = Script::new("OPTIONS").build();
        assert_part(&read(&whole), b"OPTIONS");
    }
}
