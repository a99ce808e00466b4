use proptest::prelude::*;

use super::*;
use crate::value::Contact;

const INVITE: &[u8] = b"INVITE sip:bob@example.com SIP/2.0\r\n\
    v: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1, SIP/2.0/TCP [2001:db8::1];branch=z9hG4bK2\r\n\
    Via  :  SIP/2.0/TLS h3\r\n\
    MaX-fOrWaRdS: 0068\r\n\
    f: \"A, \\\"B\\\"\"<sip:alice@example.com>;tag=1\r\n\
    TO :\r\n sip:bob@example.com ;   tag    = 2\r\n\
    i: x@y\r\n\
    cseq: 0009\r\n  INVITE\r\n\
    Route: <sip:p1;lr>,<sip:p2;lr>\r\nRoute: <sip:p3;lr>\r\n\
    m: <sip:a@192.0.2.1>;expires=60, *\r\n\
    k: path,  100rel\r\n\
    X-Foo : 1\r\nx-foo:2\r\nX-Fo: 3\r\nJ: 4\r\n\
    Expires: 99999999999\r\n\
    Session-Expires: 1800;refresher=uac\r\n\
    l: 5\r\n\r\n\0\xff\r\n\0trailing";

fn read(text: &[u8]) -> Message<'_> {
    parse(text, &Limits::default()).expect("it has a shape")
}

#[test]
fn a_request_in_its_parts() {
    let message = read(INVITE);
    assert!(message.is_request());
    assert!(message.status_line().is_none());
    let line = message.request_line().expect("it is a request");
    assert_eq!((line.uri, line.version), (b"sip:bob@example.com".as_slice(), b"SIP/2.0".as_slice()));
    assert_eq!(message.method(), Method::Invite);
    assert_eq!(message.body(), b"\0\xff\r\n\0");
    assert_eq!(message.bytes().len(), INVITE.len() - "trailing".len());
    assert_eq!(message.body_start() as usize, message.bytes().len() - 5);
    assert_eq!(message.headers_end(), message.body_start() - 2);
    assert_eq!(message.headers().count(), 18);
}

#[test]
fn typed_access() {
    let message = read(INVITE);
    let branches: Vec<Option<&[u8]>> = message.vias().map(|via| via.branch()).collect();
    assert_eq!(branches, [Some(b"z9hG4bK1".as_slice()), Some(b"z9hG4bK2".as_slice()), None]);
    let top = message.top_via().expect("the first Via is readable");
    assert_eq!((top.port, top.first, top.last), (Some(5060), true, false));
    assert_eq!(message.max_forwards(), Some(68));
    assert_eq!(message.from().and_then(|from| from.tag()), Some(b"1".as_slice()));
    assert_eq!(message.from().map(|from| from.display), Some(b"A, \\\"B\\\"".as_slice()));
    assert_eq!(message.to().and_then(|to| to.tag()), Some(b"2".as_slice()));
    assert_eq!(message.call_id(), Some(b"x@y".as_slice()));
    assert_eq!(message.cseq().map(|cseq| (cseq.number, cseq.method)), Some((9, Method::Invite)));
    let routes: Vec<&[u8]> = message.routes().map(|route| route.uri_bytes).collect();
    assert_eq!(routes, [b"sip:p1;lr".as_slice(), b"sip:p2;lr", b"sip:p3;lr"]);
    let contacts: Vec<Contact<'_>> = message.contacts().collect();
    assert!(matches!(contacts.as_slice(), [Contact::Address(first), Contact::Star] if first.expires() == Some(60)));
    assert!(message.has_option(Name::Supported, b"PATH"));
    assert!(message.has_option(Name::Supported, b"100rel"));
    assert!(!message.has_option(Name::Supported, b"100"));
    assert_eq!(message.expires(), Some(u32::MAX));
    assert_eq!(message.session_expires(), Some(1800));
    assert!(message.record_routes().next().is_none());
    assert!(message.dialog_reference().is_none());
}

#[test]
fn record_routes_paths_and_authentication_in_their_order() {
    let message = read(
        b"SIP/2.0 407 x\r\nRecord-Route: <sip:r1>, <sip:r2>\r\nPath: <sip:p1>\r\nPath: sip:p2\r\n\
        Proxy-Authenticate: Digest realm=\"p\"\r\nWWW-Authenticate: Digest realm=\"u\"\r\n\
        Authorization: Digest realm=\"u\"\r\nProxy-Authorization: Digest realm=\"p\"\r\n\r\n",
    );
    let record_routes: Vec<&[u8]> = message.record_routes().map(|route| route.uri_bytes).collect();
    assert_eq!(record_routes, [b"sip:r1".as_slice(), b"sip:r2"]);
    let paths: Vec<&[u8]> = message.paths().map(|path| path.uri_bytes).collect();
    assert_eq!(paths, [b"sip:p1".as_slice(), b"sip:p2"]);
    let (user, proxy) = ((false, Some(b"u".as_slice())), (true, Some(b"p".as_slice())));
    let challenges: Vec<(bool, Option<&[u8]>)> = message.challenges().map(|read| (read.proxy, read.realm())).collect();
    assert_eq!(challenges, [proxy, user]);
    let credentials: Vec<(bool, Option<&[u8]>)> =
        message.credentials().map(|read| (read.proxy, read.realm())).collect();
    assert_eq!(credentials, [user, proxy]);
}

#[test]
fn headers_by_any_spelling() {
    let message = read(INVITE);
    assert_eq!(message.all(Name::Via).count(), 2);
    assert_eq!(message.named(b"VIA").count(), 2);
    assert_eq!(message.named(b"v").count(), 2);
    let values = |name: &[u8]| message.named(name).map(|header| header.value.to_vec()).collect::<Vec<Vec<u8>>>();
    assert_eq!(values(b"x-FOO"), [b"1", b"2"]);
    assert_eq!(values(b"Reject-Contact"), [b"4"]);
    assert!(values(b"X-F").is_empty());
    assert_eq!(message.first(Name::To).map(|header| header.spelled), Some(b"TO".as_slice()));
}

#[test]
fn lines_and_values_know_their_place() {
    let message = read(INVITE);
    let to = message.first(Name::To).expect("there is a To");
    assert_eq!(message.slice(to.line), b"TO :\r\n sip:bob@example.com ;   tag    = 2\r\n");
    assert_eq!(message.slice(message.span_of(to.value)), to.value);
    let places: Vec<(bool, bool)> = message.values(Name::Route).map(|value| (value.first, value.last)).collect();
    assert_eq!(places, [(true, false), (false, true), (true, true)]);
    let joined: Vec<u8> = message.headers().flat_map(|header| message.slice(header.line).to_vec()).collect();
    let headers = Span { start: 36, end: message.headers_end() };
    assert_eq!(joined, message.slice(headers), "the lines follow each other without a gap");
}

#[test]
fn a_span_that_ends_where_it_starts_or_before_is_empty() {
    for (end, length) in [(2, 0), (3, 0), (4, 1), (7, 4)] {
        let span = Span { start: 3, end };
        assert_eq!((span.len(), span.is_empty()), (length, length == 0), "{span:?}");
    }
}

#[test]
fn the_first_fault_counts_but_half_a_line_end_outranks_all_others() {
    for (lines, fault) in [
        ("no colon\r\n: x\r\n", Fault::HeaderLine),
        (": x\r\nno colon\r\n", Fault::HeaderName),
        ("no colon\r\nX: a\nY: b\r\n", Fault::BareLineFeed),
        ("X: a\nno colon\r\n", Fault::BareLineFeed),
        ("X: a\nY: b\rc\r\n", Fault::BareLineFeed),
        ("X: a\rb\r\nY: c\nZ: d\r\n", Fault::BareCarriageReturn),
        // Also where the line is folded after it.
        ("X: a\n b\r\n", Fault::BareLineFeed),
        ("X: a\rb\r\n c\r\n", Fault::BareCarriageReturn),
        ("X: a\r\n b\rc\r\n", Fault::BareCarriageReturn),
    ] {
        let text = format!("BYE sip:a SIP/2.0\r\n{lines}\r\n");
        assert_eq!(read(text.as_bytes()).line_fault(), Some(fault), "{lines:?}");
    }
}

#[test]
fn a_bare_line_feed_ends_a_line_and_an_empty_one_the_headers() {
    let message = read(b"BYE sip:a SIP/2.0\r\nX: a\nTo: b\r\n\nbody");
    let lines: Vec<&[u8]> = message.headers().map(|header| message.slice(header.line)).collect();
    assert_eq!(lines, [b"X: a\n".as_slice(), b"To: b\r\n"]);
    assert_eq!((message.headers_end(), message.body_start(), message.body()), (31, 32, b"body".as_slice()));
}

#[test]
fn a_line_without_colon_is_all_name_and_its_value_is_empty_at_its_end() {
    let message = read(b"BYE sip:a SIP/2.0\r\nno colon \r\nTo: x\r\n\r\n");
    let header = message.headers().next().expect("there are two lines");
    assert_eq!((header.name, header.spelled), (Name::Other, b"no colon".as_slice()));
    assert_eq!(message.span_of(header.value), Span { start: 28, end: 28 });
}

#[test]
fn a_response_in_its_parts() {
    let message = read(b"SIP/2.0 200 = 2**3 * 5**2 \xd0\xbd\xd0\xbe\r\nCSeq: 35 NOTIFY\r\n\r\n");
    let line = message.status_line().expect("it is a response");
    assert_eq!((line.code, line.reason), (200, b"= 2**3 * 5**2 \xd0\xbd\xd0\xbe".as_slice()));
    assert!(message.request_line().is_none() && !message.is_request());
    assert_eq!(message.method(), Method::Notify);
    assert_eq!(read(b"SIP/2.0 100 \r\n\r\n").status_line().map(|line| line.reason), Some(b"".as_slice()));
    assert_eq!(read(b"SIP/2.0 100\r\n\r\n").status_line().map(|line| line.code), Some(100));
    assert_eq!(read(b"SIP/2.0 100\r\n\r\n").method(), Method::Other(b""));
    for text in [
        b"SIP/2.0 4294967301 x\r\n\r\n".as_slice(),
        b"SIP/2.0 099 x\r\n\r\n",
        b"SIP/2.0 20\r\n\r\n",
        b"SIP/2.0\r\n\r\n",
    ] {
        assert_eq!(parse(text, &Limits::default()).err(), Some(Fault::StatusCode));
    }
}

#[test]
fn body_by_content_length() {
    let body = |lines: &str, rest: &str| {
        let text = format!("BYE sip:a SIP/2.0\r\n{lines}\r\n{rest}");
        let message = parse(text.as_bytes(), &Limits::default()).expect("it has a shape");
        (message.body().to_vec(), message.bytes().len() == text.len())
    };
    assert_eq!(body("", "rest"), (b"rest".to_vec(), true));
    assert_eq!(body("l: 2\r\n", "rest"), (b"re".to_vec(), false));
    assert_eq!(body("l: 0\r\n", "rest"), (Vec::new(), false));
    assert_eq!(body("l: 9\r\n", "rest"), (b"rest".to_vec(), true));
    assert_eq!(body("l: -1\r\n", "rest"), (b"rest".to_vec(), true));
    assert_eq!(body("l: 0\r\nContent-Length: 2\r\n", "rest"), (b"rest".to_vec(), true));
}

#[test]
fn line_ends_before_the_start_line_are_no_part_of_the_message() {
    let message = read(b"\r\n\r\nBYE sip:a SIP/2.0\r\nTo: x\r\n\r\n");
    assert_eq!(message.bytes().len(), 28);
    assert_eq!(message.first(Name::To).map(|header| header.line), Some(Span { start: 19, end: 26 }));
}

#[test]
fn a_quoted_message_is_read_as_far_as_its_lines_are_whole() {
    let limits = Limits::default();
    let cut = INVITE.get(..150).expect("the message is longer");
    let message = parse_quoted(cut, &limits).expect("the start line is whole");
    assert_eq!(message.top_via().and_then(|via| via.branch()), Some(b"z9hG4bK1".as_slice()));
    assert_eq!(message.headers().count(), 2);
    assert!(parse_quoted(b"INVITE sip:bob@example.com SIP/2.0", &limits).is_none());
    assert_eq!(parse_quoted(INVITE, &limits).map(|message| message.body().len()), Some(5));
    let cut = parse_quoted(b"BYE sip:a SIP/2.0\r\nTo: x\r\nFrom: y", &limits).expect("the start line is whole");
    assert_eq!(cut.bytes(), b"BYE sip:a SIP/2.0\r\nTo: x\r\n");
    for end in 0..INVITE.len() {
        let prefix = INVITE.get(..end).expect("the end is within");
        assert_eq!(parse_quoted(prefix, &limits).is_some(), end >= 36, "cut at {end}");
    }
}

#[test]
fn a_thousand_headers_are_counted_and_the_first_ones_kept() {
    let many = format!("BYE sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n{}\r\nbody", "X: y\r\n".repeat(1000));
    let message = read(many.as_bytes());
    assert_eq!(message.headers().count(), 256);
    assert_eq!(message.line_fault(), Some(Fault::TooManyHeaders));
    assert!(message.top_via().is_some());
    assert_eq!(message.body(), b"body");
    assert_eq!(message.headers_end(), message.body_start() - 2);
    assert_eq!(message.slice(message.headers().last().expect("256 lines").line), b"X: y\r\n");
}

#[test]
fn an_entry_is_sixteen_octets() {
    assert_eq!(std::mem::size_of::<Entry>(), 16);
    assert!(std::mem::size_of::<Message<'_>>() <= 1100);
}

#[test]
fn methods_are_told_apart_by_case() {
    for name in [
        b"INVITE".as_slice(),
        b"ACK",
        b"BYE",
        b"CANCEL",
        b"REGISTER",
        b"OPTIONS",
        b"PRACK",
        b"UPDATE",
        b"INFO",
        b"MESSAGE",
        b"SUBSCRIBE",
        b"NOTIFY",
        b"REFER",
        b"PUBLISH",
    ] {
        assert!(!matches!(Method::from_bytes(name), Method::Other(_)));
        assert_eq!(Method::from_bytes(name).as_bytes(), name);
    }
    assert_eq!(Method::from_bytes(b"invite"), Method::Other(b"invite"));
    assert_eq!(Method::from_bytes(b"RE%47IST%45R").as_bytes(), b"RE%47IST%45R");
}

#[test]
#[should_panic(expected = "the slice is no part of the message")]
fn a_foreign_slice_has_no_place() {
    let message = read(INVITE);
    let foreign = INVITE.to_vec();
    message.span_of(&foreign);
}

proptest! {
    /// Header lines in any case, with any white space and folding, give back their values.
    #[test]
    fn values_survive_spelling_and_folding(
        spelling in prop::sample::select(vec!["Route", "route", "ROUTE", "rOuTe"]),
        before in prop::sample::select(vec!["", " ", "\t", "  "]),
        after in prop::sample::select(vec!["", " ", "\r\n ", " \r\n\t"]),
        values in prop::collection::vec("[a-z]{1,8}", 1..5),
        separator in prop::sample::select(vec![",", " , ", ",\r\n "]),
    ) {
        let list = values.join(separator);
        let text = format!("BYE sip:a SIP/2.0\r\n{spelling}{before}:{after}{list} \r\nTo: x\r\n\r\n");
        let message = read(text.as_bytes());
        let found: Vec<&[u8]> = message.values(Name::Route).map(|value| value.bytes).collect();
        let wanted: Vec<&[u8]> = values.iter().map(|value| value.as_bytes()).collect();
        prop_assert_eq!(found, wanted);
        prop_assert_eq!(message.line_fault(), None);
    }
}
