//! Peers that mean no good, over TCP, TLS and WebSocket: each ends for a reason that is counted, costs a bounded time, and is not
//! noticed by the good peer beside it, whose requests a box answers all the while.
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

mod hostile;
mod namespace;

use hostile::{
    Authority, Bench, PATIENCE, STRICT, TCP, TLS, UPGRADE, WS, all_of, call_id, close_code, connect, ended, frame,
    masked, message, next, web_socket,
};
use rustls::version::{TLS12, TLS13};
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

/// One octet after the other, each in good time and the message never whole: the time counts from the first one.
#[test]
fn who_sends_octet_by_octet_is_left_when_the_message_is_due() {
    if !namespace::alone("who_sends_octet_by_octet_is_left_when_the_message_is_due") {
        return;
    }
    let mut bench = Bench::start();
    let opening = masked(0x82, &message(1));
    for (what, port, octets, reason) in [
        ("headers", TCP, &message(1), "message_timed_out"),
        ("a hello", TLS, &hello(), "handshake_timed_out"),
        ("an upgrade", WS, &UPGRADE.as_bytes().to_vec(), "handshake_timed_out"),
        ("a frame", "", &opening, "message_timed_out"),
    ] {
        let mut socket = if port.is_empty() { web_socket() } else { connect(port) };
        let before = bench.ended(reason);
        for octet in octets.iter().take(16) {
            // The unit may be gone by then.
            let _taken = socket.write_all(&[*octet]);
            bench.assert_serves(what);
            std::thread::sleep(PATIENCE / 10);
        }
        let _told = all_of(&mut socket);
        bench.until(what, |streams| ended(streams, reason) == before + 1);
    }
    bench.assert_alone();
}

#[test]
fn what_is_never_whole_is_not_waited_for() {
    if !namespace::alone("what_is_never_whole_is_not_waited_for") {
        return;
    }
    let mut bench = Bench::start();
    let whole = message(1);
    let longer =
        String::from_utf8(whole.clone()).expect("it is text").replace("Content-Length: 5", "Content-Length: 6000");
    assert_ne!(longer.as_bytes(), whole);
    bench.ends("a body shorter than promised", TCP, longer.as_bytes(), "message_timed_out");
    bench.ends("a start line without end", TCP, &[b'a'; 3_000], "message_timed_out");
    bench.ends("half a hello", TLS, hello().get(..30).expect("it is longer"), "handshake_timed_out");
    bench.ends("nothing at all over TLS", TLS, b"", "handshake_timed_out");
    bench.ends("half a request", WS, b"GET /ws HTTP/1.1\r\nHost: sip", "handshake_timed_out");
    let frame = masked(0x82, &whole);
    let half = frame.get(..frame.len() / 2).expect("half of it");
    bench.ends_on("half a frame", &mut web_socket(), half, "message_timed_out");
    bench.ends_on("a fragment without the last", &mut web_socket(), &masked(0x01, &whole), "message_timed_out");
    let mut client = bench.authority.client(TLS, &TLS13, None);
    let before = bench.ended("message_timed_out");
    client.write_all(longer.as_bytes()).expect("the connection is up");
    bench.until("over TLS", |streams| ended(streams, "message_timed_out") == before + 1);
    drop(client);
    bench.assert_alone();
}

/// Content-Lengths that lie, and octets that are no SIP, at the beginning of a stream and after a good message.
#[test]
fn a_stream_that_cannot_be_followed_ends() {
    if !namespace::alone("a_stream_that_cannot_be_followed_ends") {
        return;
    }
    let mut bench = Bench::start();
    let with_length = |lines: &str| {
        let text = String::from_utf8(message(9)).expect("it is text");
        let changed = text.replace("Content-Length: 5\r\n", lines);
        assert_ne!(changed, text);
        changed.into_bytes()
    };
    let repeated = "Content-Length: 5\r\nl: 5\r\n";
    for (what, octets, reason) in [
        ("none", with_length(""), "length_missing"),
        ("two", with_length(repeated), "length_repeated"),
        ("negative", with_length("Content-Length: -5\r\n"), "length_unreadable"),
        ("a sum", with_length("Content-Length: 2+3\r\n"), "length_unreadable"),
        ("beyond the limit", with_length("Content-Length: 65536\r\n"), "too_large"),
        ("2^32", with_length("Content-Length: 4294967296\r\n"), "too_large"),
        ("2^64 and 5", with_length("Content-Length: 18446744073709551621\r\n"), "too_large"),
        ("half a line end", with_length("X: y\nContent-Length: 5\r\n"), "line_end"),
        ("a hello of TLS", [&hello()[..], b"\r\n\r\n"].concat(), "length_missing"),
        ("a request of HTTP", b"GET / HTTP/1.1\r\nHost: pbx\r\n\r\n".to_vec(), "length_missing"),
        ("line ends that are none", b"\r\r\n\n\n\r\r\r\n\r\n".to_vec(), "line_end"),
        ("octets without end", vec![0xfe; 66_000], "too_large"),
    ] {
        let received = bench.streams().received;
        bench.ends(what, TCP, &octets, reason);
        bench.ends(&format!("{what}, after a message"), TCP, &[message(8), octets].concat(), reason);
        // The good message before it is one, and the good peer has asked four times.
        bench.until(what, |streams| streams.received == received + 5);
    }
    let fault = bench.streams().last_fault.expect("many were at fault");
    assert_eq!(fault.text, "a message in the stream is too large");
    bench.assert_alone();
}

#[test]
fn who_leaves_in_the_middle_is_let_go() {
    if !namespace::alone("who_leaves_in_the_middle_is_let_go") {
        return;
    }
    let mut bench = Bench::start();
    let whole = message(1);
    let half = whole.get(..60).expect("it is longer");
    for (what, octets) in [("after nothing", &b""[..]), ("within a message", half), ("after a message", &whole[..])] {
        // Half open: it says that nothing more comes, and would go on reading.
        let before = bench.ended("peer_closed");
        let mut socket = connect(TCP);
        socket.write_all(octets).expect("the connection is up");
        socket.shutdown(Shutdown::Write).expect("the connection is up");
        let _told = all_of(&mut socket);
        bench.until(what, |streams| ended(streams, "peer_closed") == before + 1);
        bench.assert_serves(what);
        let (before, accepted) = (bench.ended("reset"), bench.streams().accepted);
        let mut socket = connect(TCP);
        socket.write_all(octets).expect("the connection is up");
        bench.until(what, |streams| streams.accepted == accepted + 1);
        SockRef::from(&socket).set_linger(Some(Duration::ZERO)).expect("the socket is open");
        drop(socket);
        bench.until(what, |streams| ended(streams, "reset") == before + 1);
        bench.assert_serves(what);
    }
    bench.assert_alone();
}

#[test]
fn what_is_no_tls_ends_at_the_tls_port() {
    if !namespace::alone("what_is_no_tls_ends_at_the_tls_port") {
        return;
    }
    let mut bench = Bench::start();
    let damaged = [&hello()[..20], &[0xff; 200]].concat();
    for (what, octets) in [
        ("plain SIP", message(1)),
        ("plain HTTP", UPGRADE.as_bytes().to_vec()),
        ("noise", vec![0xfe; 500]),
        ("an alert", vec![21, 3, 3, 0, 2, 2, 40]),
        ("data before the hello", [&[23, 3, 3, 0, 40][..], &[7; 40]].concat()),
        ("a record that is too long", [&[22, 3, 1, 0xff, 0xff][..], &[1; 3_000]].concat()),
        ("a hello with noise", damaged),
    ] {
        bench.ends(what, TLS, &octets, "tls");
    }
    let told = bench.ends("a hello of TLS 1.0", TLS, &hello(), "tls");
    assert_eq!(told.first(), Some(&21), "it is told by an alert");
    // A client that does not know our authority leaves by an alert of its own.
    let before = bench.ended("tls");
    let mut stranger = Authority::new().client(TLS, &TLS13, None);
    assert!(stranger.write_all(&message(2)).is_err());
    bench.until("a stranger", |streams| ended(streams, "tls") == before + 1);
    // Noise after a good handshake, below TLS and above it.
    let before = bench.ended("tls");
    let mut client = bench.authority.client(TLS, &TLS12, None);
    client.write_all(&message(3)).expect("the connection is up");
    assert!(next(&mut client).contains(&call_id(3)));
    client.sock.write_all(&[0xfe; 100]).expect("the connection is up");
    bench.until("noise below", |streams| ended(streams, "tls") == before + 1);
    drop(client);
    let mut client = bench.authority.client(TLS, &TLS13, None);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("the connection is up");
    bench.until("noise above", |streams| ended(streams, "length_missing") == 1);
    drop((stranger, client));
    bench.assert_alone();
}

#[test]
fn clients_must_show_the_certificate_that_they_are_asked_for() {
    if !namespace::alone("clients_must_show_the_certificate_that_they_are_asked_for") {
        return;
    }
    let mut bench = Bench::start();
    let foreign = Authority::new();
    for version in [&TLS12, &TLS13] {
        for (what, own) in [
            ("none", None),
            ("of a foreign authority", Some(foreign.leaf(false))),
            ("expired", Some(bench.authority.leaf(true))),
        ] {
            let before = bench.ended("tls");
            let mut client = bench.authority.client(STRICT, version, own);
            // Of TLS 1.3 the handshake is over for the client before its certificate is looked at.
            let let_in =
                client.write_all(&message(1)).is_ok() && client.read(&mut [0; 100]).is_ok_and(|count| count > 0);
            assert!(!let_in, "{what}, {version:?}");
            bench.until(what, |streams| ended(streams, "tls") == before + 1);
            bench.assert_serves(what);
        }
        let mut client = bench.authority.client(STRICT, version, Some(bench.authority.leaf(false)));
        client.write_all(&message(1)).expect("it is let in");
        assert!(next(&mut client).starts_with("SIP/2.0 404 "));
    }
    bench.assert_alone();
}

#[test]
fn item_36_frames_against_the_rules_are_told_so_and_nobody_else_notices() {
    if !namespace::alone("item_36_frames_against_the_rules_are_told_so_and_nobody_else_notices") {
        return;
    }
    let mut bench = Bench::start();
    let (mut other, long) = (web_socket(), vec![b'x'; 40_000]);
    for (number, (what, frames, code)) in (1..).zip([
        ("beyond the limit", masked(0x82, &[b'x'; 65_536]), 1009),
        ("a length without end", b"\x82\xff\x00\x00\x01\x00\x00\x00\x00\x00mask".to_vec(), 1009),
        ("fragments beyond the limit", [masked(0x02, &long), masked(0x80, &long)].concat(), 1009),
        ("no mask", b"\x81\x01x".to_vec(), 1002),
        ("a reserved bit", masked(0xc1, b"x"), 1002),
        ("a reserved opcode", masked(0x83, b"x"), 1002),
        ("nothing to go on with", masked(0x80, b"x"), 1002),
        ("a message within another", [masked(0x01, b"x"), masked(0x81, b"x")].concat(), 1002),
        ("a long ping", masked(0x89, &[0; 126]), 1002),
        ("a text that is none", masked(0x81, &[b'a', 0xff]), 1007),
        ("a flood of pings", masked(0x89, b"").repeat(1_000), 1008),
        ("a flood of keep-alives", masked(0x81, b"\r\n\r\n").repeat(1_000), 1008),
    ]) {
        let told = bench.ends_on(what, &mut web_socket(), &frames, "web_socket");
        assert_eq!(close_code(&told), code, "{what}");
        other.write_all(&masked(0x82, &message(number))).expect("the connection is up");
        assert_is_answer(frame(&mut other), number);
    }
    // Noise above the WebSocket is a message that is none of SIP: it is dropped, and the next one is taken.
    other.write_all(&[masked(0x82, &[0xfe; 300]), masked(0x82, &message(100))].concat()).expect("the connection is up");
    assert_is_answer(frame(&mut other), 100);
    drop(other);
    bench.assert_alone();
}

#[test]
fn item_36_requests_for_another_upgrade_are_refused() {
    if !namespace::alone("item_36_requests_for_another_upgrade_are_refused") {
        return;
    }
    let mut bench = Bench::start();
    let changed = |from: &str, to: &str| {
        let request = UPGRADE.replace(from, to);
        assert_ne!(request, UPGRADE);
        request.into_bytes()
    };
    for (what, request, status) in [
        ("another sub-protocol", changed("Protocol: sip", "Protocol: xmpp"), "400"),
        ("no sub-protocol", changed("Sec-WebSocket-Protocol: sip\r\n", ""), "400"),
        ("a page from elsewhere", changed("https://phone.example.com", "https://evil.example.com"), "403"),
        ("the page of another port", changed("phone.example.com\r\n", "phone.example.com:8443\r\n"), "403"),
        ("another version", changed("Version: 13", "Version: 8"), "426"),
        ("another method", changed("GET ", "POST "), "405"),
        ("no key", changed("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), "400"),
        ("HTTP/1.0", changed("HTTP/1.1", "HTTP/1.0"), "505"),
        ("long headers", changed("/ws", &"/".repeat(9_000)), "431"),
        ("SIP", message(1), "400"),
        ("noise", [&[0xfe; 300][..], b"\r\n\r\n"].concat(), "400"),
    ] {
        let told = bench.ends(what, WS, &request, "web_socket");
        assert!(told.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{what}: {}", told.escape_ascii());
    }
    bench.assert_alone();
}

#[test]
fn item_36_binary_and_fragmented_messages_are_messages() {
    if !namespace::alone("item_36_binary_and_fragmented_messages_are_messages") {
        return;
    }
    let mut bench = Bench::start();
    let mut socket = web_socket();
    for (number, opcode) in [(1, 1), (2, 2)] {
        socket.write_all(&masked(0x80 | opcode, &message(number))).expect("the connection is up");
        assert_is_answer(frame(&mut socket), number);
    }
    // In fragments of forty octets, with a ping between two of them.
    let whole = message(3);
    let last = whole.len().div_ceil(40) - 1;
    for (at, piece) in whole.chunks(40).enumerate() {
        let opcode = if at == 0 { 2 } else { 0 };
        let end = if at == last { 0x80 } else { 0 };
        socket.write_all(&masked(end | opcode, piece)).expect("the connection is up");
        if at == 1 {
            socket.write_all(&masked(0x89, b"there?")).expect("the connection is up");
            assert_eq!(frame(&mut socket), (0x8a, b"there?".to_vec()));
        }
        bench.assert_serves("between two fragments");
    }
    assert_is_answer(frame(&mut socket), 3);
    drop(socket);
    bench.assert_alone();
}

/// What is read of the answers at once.
const OCTETS: usize = 4_096;

/// Their answers would pile up for a peer that does not read them.
#[test]
fn a_flood_of_keep_alives_is_answered_as_far_as_it_is_read() {
    if !namespace::alone("a_flood_of_keep_alives_is_answered_as_far_as_it_is_read") {
        return;
    }
    let mut bench = Bench::start();
    let mut flood = connect(TCP);
    for _ in 0..50 {
        flood.write_all(&b"\r\n\r\n".repeat(10_000)).expect("the connection is up");
        bench.assert_serves("beside the flood");
    }
    // It is still a peer like any other.
    flood.write_all(&message(1)).expect("the connection is up");
    let mut told: Vec<u8> = Vec::new();
    let answer = call_id(1);
    while !told.windows(answer.len()).rev().take(2 * OCTETS).any(|window| window == answer.as_bytes()) {
        let mut octets = [0; OCTETS];
        let count = flood.read(&mut octets).expect("an answer within five seconds");
        assert_ne!(count, 0, "the connection goes on");
        told.extend_from_slice(octets.get(..count).unwrap_or_default());
    }
    drop(flood);
    bench.assert_alone();
}

#[track_caller]
fn assert_is_answer((first, payload): (u8, Vec<u8>), number: u32) {
    let text = String::from_utf8_lossy(&payload);
    assert_eq!(first, 0x81, "{text}");
    assert!(text.starts_with("SIP/2.0 200 ") && text.contains(&call_id(number)), "{text}");
}

/// A hello that offers TLS 1.0 at most (RFC 2246 §7.4.1.2).
fn hello() -> Vec<u8> {
    let body = [&[3, 1][..], &[7; 32], &[0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]].concat();
    let length = u8::try_from(body.len()).expect("it is short");
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &body].concat()
}
