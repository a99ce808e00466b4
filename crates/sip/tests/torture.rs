//! The published torture messages, one verdict each, and no panic whatever is read.
//!
//! `docs/torture-verdicts.tsv` holds the verdicts of the parser for datagrams; where the engine says more (416, 420, 483, a broadcast
//! Via), the parser's verdict is `forward`. The messages themselves are not part of this repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use sip::frame::{Frame, FrameFault, Framer};
use sip::{Edits, Limits, Message, Name, Value, build, check, parse, stun, uri, value};

/// What the engine answers or drops though the message is well-formed.
const LEFT_TO_THE_ENGINE: [(&str, &str); 5] =
    [("unkscm", "416"), ("novelsc", "416"), ("bext01", "420"), ("zeromf", "483"), ("bcast", "drop")];

const ADVISORIES_FOUND_BY_NAME: [&str; 4] = [
    "ES2020-01-header-smuggling-case",
    "ES2020-01-header-smuggling-fold",
    "ES2020-01-header-smuggling-space",
    "ES2020-01-header-smuggling-tab",
];

#[test]
fn rfc4475_verdicts() {
    verdicts_of("rfc4475", "rfc4475", 50);
}

#[test]
fn rfc5118_verdicts() {
    verdicts_of("rfc5118", "rfc5118/wire", 12);
}

#[test]
fn advisory_verdicts() {
    verdicts_of("advisories", "advisories", 19);
}

#[test]
fn the_committed_verdicts_are_among_the_allowed_outcomes() {
    let Some(data) = testdata() else { return };
    for (suite, index) in [("rfc4475", "rfc4475/index.tsv"), ("rfc5118", "rfc5118/index.tsv")] {
        let verdicts = committed(suite);
        let rows = table(&data.join(index));
        assert_eq!(rows.len(), verdicts.len(), "{suite}: one verdict for each message");
        for row in rows {
            let name = &row["name"];
            let allowed: Vec<&str> = row["allowed_outcomes"].split(',').map(str::trim).collect();
            let verdict = verdicts.get(name).unwrap_or_else(|| panic!("{suite} {name} has no verdict")).as_str();
            let final_outcome = match LEFT_TO_THE_ENGINE.iter().find(|(left, _)| left == name) {
                Some((_, outcome)) => {
                    assert_eq!(verdict, "forward", "{name} is left to the engine");
                    *outcome
                }
                None if verdict == "forward" => "fwd",
                None => verdict,
            };
            assert!(allowed.contains(&final_outcome) || allowed == ["any"], "{suite} {name}: {verdict} of {allowed:?}");
        }
    }
}

#[test]
fn a_stripped_header_is_found_in_every_spelling() {
    let Some(data) = testdata() else { return };
    for name in ADVISORIES_FOUND_BY_NAME {
        let bytes = read(&data.join("advisories").join(format!("{name}.dat")));
        let message = parse(&bytes, &Limits::default()).expect("it begins with a request line");
        assert_eq!(message.named(b"X-Bypass-Me").count(), 1, "{name}");
    }
}

#[test]
fn nothing_is_smuggled_through_a_stream() {
    let Some(data) = testdata() else { return };
    let mut seen = 0;
    for (name, bytes) in files(&data.join("advisories"), "dat") {
        if !name.starts_with("tcp-cl-") {
            continue;
        }
        seen += 1;
        let frames = frames(&bytes, 7);
        assert_eq!(frames.len(), 1, "{name}: nothing is read after the fault");
        assert!(frames.iter().all(Result::is_err), "{name}");
    }
    assert_eq!(seen, 5);
}

#[test]
fn torture_messages_on_a_stream() {
    let Some(data) = testdata() else { return };
    let stream = |name: &str| frames(&read(&data.join("rfc4475").join(format!("{name}.dat"))), 11);
    assert_eq!(stream("dblreq").iter().filter(|frame| frame.is_ok()).count(), 2);
    assert!(stream("clerr").is_empty(), "the rest of the body is awaited");
    assert_eq!(stream("ncl"), only(FrameFault::LengthUnreadable));
    assert_eq!(stream("mcl01"), only(FrameFault::LengthRepeated));
    assert_eq!(stream("inv2543"), only(FrameFault::LengthMissing));
}

#[test]
fn real_world_streams_are_cut_into_their_messages() {
    let Some(data) = testdata() else { return };
    for (file, count) in [("rtckit-stream-generic.txt", 227), ("rtckit-stream-lioneagle.txt", 26)] {
        let stream = with_lengths(&read(&data.join("streams").join(file)));
        for size in [1, 2, 3, 1000, stream.len()] {
            let frames = frames(&stream, size);
            assert!(frames.iter().all(|frame| matches!(frame, Ok(Frame::Message(_)))), "{file} in pieces of {size}");
            assert_eq!(frames.len(), count, "{file} in pieces of {size}");
            // Every octet of the stream is in a message or one of the empty lines between them (RFC 3261 §7.5).
            let mut rest = &stream[..];
            for frame in frames.iter().flatten() {
                let Frame::Message(text) = frame else { continue };
                let start = rest.iter().position(|octet| !b"\r\n".contains(octet)).expect("a message is left");
                rest = rest[start..].strip_prefix(&text[..]).expect("messages come as they were sent");
            }
            assert!(rest.iter().all(|octet| b"\r\n".contains(octet)), "{file} in pieces of {size}");
        }
        for frame in frames(&stream, 4096) {
            if let Ok(Frame::Message(text)) = frame {
                assert!(parse(&text, &Limits::default()).is_ok_and(|message| message.bytes() == text));
                exercise(&text);
            }
        }
    }
    // As published, the first messages of the generic stream have no Content-Length, which a stream may not do without.
    let generic = read(&data.join("streams/rtckit-stream-generic.txt"));
    assert_eq!(frames(&generic, 4096), only(FrameFault::LengthMissing));
}

#[test]
fn no_panic_on_anything_published() {
    let Some(data) = testdata() else { return };
    let mut count = 0;
    for folder in
        ["rfc4475", "rfc5118/wire", "rfc5118/raw", "advisories", "fuzz-seeds/sipgo", "fuzz-seeds/zeek-sip", "streams"]
    {
        for (_, bytes) in files(&data.join(folder), "") {
            count += 1;
            exercise(&bytes);
        }
    }
    assert!(count >= 50 + 12 + 12 + 19 + 8 + 2 + 3);
    let jain = read(&data.join("streams/jain-sip-torture.xml"));
    let text = String::from_utf8_lossy(&jain);
    let mut cases = 0;
    for part in text.split("<message>").skip(1) {
        let message = part.split("<![CDATA[").nth(1).and_then(|rest| rest.split("]]>").next()).unwrap_or("");
        assert!(!message.is_empty());
        cases += 1;
        exercise(message.as_bytes());
        exercise(message.replace('\n', "\r\n").as_bytes());
    }
    assert_eq!(cases, 374);
}

proptest! {
    #[test]
    fn no_panic_on_arbitrary_octets(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes);
    }

    #[test]
    fn no_panic_on_lines_of_sip_letters(text in "(INVITE sip:a SIP/2\\.0\r\n)?[A-Za-z:;,<>\"\\\\@=\\[\\]/. \t\r\n0-9*?]{0,300}") {
        exercise(text.as_bytes());
    }

    #[test]
    fn no_panic_on_mutated_messages(
        seed in 0_usize..SEEDS.len(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>(), 0_u8..4), 1..12),
    ) {
        let mut bytes = SEEDS[seed].to_vec();
        for (place, octet, kind) in changes {
            let place = place % (bytes.len() + 1);
            match kind {
                0 => bytes.insert(place, octet),
                1 if place < bytes.len() => bytes[place] = octet,
                2 if place < bytes.len() => {
                    bytes.remove(place);
                }
                _ => bytes.insert(place, b"\r\n \t,;:<>\"\\@"[usize::from(octet) % 12]),
            }
        }
        exercise(&bytes);
    }
}

const SEEDS: [&[u8]; 3] = [
    b"INVITE sip:bob@example.com;transport=udp SIP/2.0\r\n\
      Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport, SIP/2.0/TCP [2001:db8::1]:5062;received=[2001:db8::2]\r\n\
      v: SIP / 2.0 / TLS h ;\r\n branch = z9hG4bK2\r\nMax-Forwards: 70\r\n\
      Route: <sip:p1;lr>, \"P, 2\" <sip:[2001:db8::3]:5060;lr>\r\nRecord-Route: <sip:p3;lr>\r\n\
      f: \"A \\\"B\\\", C\" <sip:alice:pw@example.com>;tag=1\r\nTo: sip:bob@example.com;tag=2\r\n\
      Call-ID: x@y\r\nCSeq: 1 INVITE\r\nContact: <sip:a@h?Subject=x>;expires=60;q=0.5;+sip.instance=\"<urn:uuid:1>\", *\r\n\
      Replaces: a@b;to-tag=1;from-tag=2\r\nAuthorization: Digest username=\"a\", nonce=\"b,c\", nc=1\r\n\
      Session-Expires: 1800;refresher=uas\r\nSupported: path, timer\r\nContent-Length: 4\r\n\r\nbody",
    b"SIP/2.0 401 Unauthorized\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\
      Call-ID: 1\r\nCSeq: 1 REGISTER\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"n\", stale=TRUE\r\nl: 0\r\n\r\n",
    b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl",
];

/// Everything that this crate does with received octets.
fn exercise(bytes: &[u8]) {
    let limits = Limits::default();
    for size in [1, 64, bytes.len().max(1)] {
        let found = frames(bytes, size);
        assert!(found.len() <= bytes.len());
    }
    let mut out = Vec::new();
    stun::binding_response(bytes, "192.0.2.1:1".parse().expect("a literal address"), &mut out);
    let _ = (uri::parse(bytes), value::name_addr(bytes), value::contact(bytes), value::cseq(bytes));
    assert!(value::params(bytes).count() <= bytes.len());
    assert!(uri::unescape_eq(bytes, bytes));
    let Ok(message) = parse(bytes, &limits) else {
        return;
    };
    let verdict = check(&message, &limits);
    read_all(&message);
    out.clear();
    Edits::new().apply(message.bytes(), &mut out);
    assert_eq!(out, message.bytes());
    for header in message.headers() {
        edit_line(&message, &header.values().collect::<Vec<Value<'_>>>());
    }
    out.clear();
    build::response(&message, 400, None, Some(b"tag"), b"", &mut out);
    let response = parse(&out, &limits).expect("what is built can be read");
    assert!(response.status_line().is_some_and(|line| line.code == 400));
    if verdict.is_ok() && message.is_request() {
        assert_eq!(check(&response, &limits).err(), None);
        assert!(response.to().is_some_and(|to| to.param(b"tag").is_some()));
        assert!(out.len() <= message.bytes().len() + 100);
    }
    out.clear();
    build::cancel(&message, b"", &mut out);
    out.clear();
    build::ack(&message, &message, &mut out);
}

fn read_all(message: &Message<'_>) {
    let all = message.span_of(message.bytes());
    let inside = |part: &[u8]| {
        let span = message.span_of(part);
        assert!(span.start >= all.start && span.end <= all.end);
    };
    inside(message.body());
    for header in message.headers() {
        inside(header.spelled);
        inside(header.value);
        // A line without a colon has no name, whatever stands in it.
        if Name::from_bytes(header.spelled) == header.name {
            assert!(message.named(header.spelled).any(|found| found.line == header.line));
        }
        assert!(message.all(header.name).any(|found| found.line == header.line));
        header.values().for_each(|value| inside(value.bytes));
    }
    for via in message.vias() {
        [via.raw, via.transport, via.host_bytes, via.params].into_iter().for_each(inside);
        let _ = (via.branch(), via.received(), via.rport(), via.maddr(), via.ttl());
    }
    let addresses = message.routes().chain(message.record_routes()).chain(message.paths());
    let contacts = message.contacts().filter_map(|contact| match contact {
        value::Contact::Star => None,
        value::Contact::Address(address) => Some(address),
    });
    for address in addresses.chain(contacts).chain(message.from()).chain(message.to()) {
        [address.raw, address.display, address.uri_bytes, address.params].into_iter().for_each(inside);
        let _ = (address.tag(), address.expires(), address.instance(), address.reg_id(), address.q());
        if let Some(uri) = address.uri() {
            inside(uri.params);
            inside(uri.headers);
            let _ = (uri.transport(), uri::same_host(uri.host, uri.host));
        }
    }
    for challenge in message.challenges() {
        let _ = (challenge.realm(), challenge.nonce(), challenge.stale(), challenge.qop());
    }
    for credentials in message.credentials() {
        let _ = (credentials.username(), credentials.response(), credentials.nc());
    }
    let _ = (message.method(), message.top_via(), message.call_id(), message.cseq(), message.max_forwards());
    let _ = (message.expires(), message.session_expires(), message.dialog_reference());
    let _ = message.has_option(Name::Supported, b"path");
}

/// Removes the first, the last, every other and all of these values, which stand in one line.
fn edit_line(message: &Message<'_>, values: &[Value<'_>]) {
    let every_other: Vec<Value<'_>> = values.iter().copied().step_by(2).collect();
    let last = values.len().saturating_sub(1);
    let choices = [values.get(..1), values.get(last..), Some(every_other.as_slice()), Some(values)];
    for removed in choices.into_iter().flatten() {
        let mut edits = Edits::new();
        edits.remove_values(message, removed);
        let mut out = Vec::new();
        edits.apply(message.bytes(), &mut out);
        assert!(out.len() <= message.bytes().len());
        assert_eq!(out.len() == message.bytes().len(), removed.is_empty());
    }
}

/// What is found in a stream that is refused at once.
fn only(fault: FrameFault) -> Vec<Result<Frame, FrameFault>> {
    vec![Err(fault)]
}

/// All frames of a stream that arrives in pieces, up to the first fault.
fn frames(stream: &[u8], size: usize) -> Vec<Result<Frame, FrameFault>> {
    let mut framer = Framer::new(Limits::default());
    let mut found = Vec::new();
    for piece in stream.chunks(size) {
        framer.push(piece);
        while let Some(frame) = framer.next() {
            let is_fault = frame.is_err();
            found.push(frame);
            if is_fault {
                return found;
            }
        }
    }
    found
}

/// The stream with `Content-Length: 0` added to those messages that have none; none of these has a body.
fn with_lengths(stream: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = stream;
    while let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
        let (headers, _) = rest.split_at(end + 4);
        let message = parse(headers, &Limits::default()).expect("the stream holds messages only");
        let length = message.first(Name::ContentLength).map(|header| {
            String::from_utf8_lossy(header.value).parse::<usize>().expect("the stream's lengths are numbers")
        });
        let (text, after) = rest.split_at(end + 4 + length.unwrap_or(0));
        let (before, empty_line) = text.split_at(end + 2);
        out.extend_from_slice(before);
        if length.is_none() {
            out.extend_from_slice(b"Content-Length: 0\r\n");
        }
        out.extend_from_slice(empty_line);
        rest = after;
    }
    assert!(rest.is_empty());
    out
}

fn verdicts_of(suite: &str, folder: &str, count: usize) {
    let verdicts = committed(suite);
    assert_eq!(verdicts.len(), count, "{suite}: the committed verdicts");
    let Some(data) = testdata() else { return };
    let found: BTreeMap<String, String> =
        files(&data.join(folder), "dat").into_iter().map(|(name, bytes)| (name, verdict(&bytes))).collect();
    assert_eq!(found, verdicts);
}

fn verdict(bytes: &[u8]) -> String {
    let limits = Limits::default();
    // What is no message has no Via to send an answer to.
    let Ok(message) = parse(bytes, &limits) else {
        return "drop".to_owned();
    };
    match check(&message, &limits) {
        Ok(_) => "forward".to_owned(),
        Err(fault) if message.is_request() => fault.status().map_or("drop".to_owned(), |status| status.to_string()),
        Err(_) => "drop".to_owned(),
    }
}

/// Name and verdict of each message of that suite.
fn committed(suite: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/torture-verdicts.tsv");
    let rows = table(&path).into_iter().filter(|row| row["suite"] == suite);
    rows.map(|row| (row["name"].clone(), row["verdict"].clone())).collect()
}

/// The rows of a table by column name.
fn table(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = String::from_utf8(read(path)).expect("tables are UTF-8");
    let mut lines = text.lines().map(|line| line.split('\t').map(str::to_owned));
    let columns: Vec<String> = lines.next().expect("a table has a head").collect();
    lines.map(|cells| columns.iter().cloned().zip(cells).collect()).collect()
}

/// Name without extension and content of the files of a folder; an empty extension means all.
fn files(folder: &Path, extension: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        let fits = extension.is_empty() || path.extension().is_some_and(|found| found == extension);
        if path.is_file() && fits {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            found.push((name, read(&path)));
        }
    }
    found
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folder of published messages beside the checkout, if this machine has it.
fn testdata() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata");
    if !path.is_dir() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(path)
}
