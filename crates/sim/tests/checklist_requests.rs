//! The proxy checklist, part one: what becomes of requests (RFC 3261 §16.3 to §16.6). Each test is named after its item.

use engine::{Persistence, Registrations, Rule, Transport};
use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::{algorithm, listener, service};
use sim::{Answer, Bench, Script, Text, box_address, one_farm, phone_address};
use std::net::SocketAddr;
use std::time::Duration;

/// Headers that a proxy writes or rewrites; all others must leave as they came.
const TOUCHED: &[&str] = &["Via", "Max-Forwards", "Max-Breadth", "Record-Route", "X-Tandem-Origin"];

fn bench(boxes: usize) -> Bench {
    Bench::new(one_farm(boxes, |_| ()))
}

/// Sends a request and takes out what the one box got of it.
fn forwarded(bench: &mut Bench, request: &Script) -> Text {
    bench.send(Bench::client_address(), request.build());
    let (_, datagram) = bench.one_to_a_box();
    Text::read(&datagram.bytes)
}

fn answered(bench: &mut Bench, request: &Script) -> Text {
    bench.send(Bench::client_address(), request.build());
    let answer = bench.one_to_client();
    bench.assert_quiet();
    answer
}

#[test]
fn item_01_unknown_methods_and_headers_pass() {
    let mut bench = bench(1);
    let request = Script::new("FOO")
        .line("NewFangledHeader:   newfangled value")
        .line("X-Odd: \"a;b\",  <x>  ; y")
        .body("application/odd", b"octets\x00\xff\r\n\r\nmore");
    let sent = Text::read(&request.build());
    let received = forwarded(&mut bench, &request);
    assert_eq!(received.start, sent.start);
    assert_eq!(received.without(TOUCHED), sent.without(TOUCHED));
    assert_eq!(received.body, sent.body);
}

#[test]
fn item_01_unknown_header_lines_keep_their_octets() {
    let mut bench = bench(1);
    let line = "nEwFangled  :   a  b ;;,\r\n\tfolded \"quoted\"";
    bench.send(Bench::client_address(), Script::new("MESSAGE").line(line).build());
    let (_, datagram) = bench.one_to_a_box();
    let wanted = format!("\r\n{line}\r\n");
    let found = datagram.bytes.windows(wanted.len()).any(|part| part == wanted.as_bytes());
    assert!(found, "{}", String::from_utf8_lossy(&datagram.bytes));
}

#[test]
fn item_02_hops_are_counted() {
    let mut bench = bench(1);
    let request = invite("a").call_id("a").max_forwards(Some(70));
    assert_eq!(forwarded(&mut bench, &request).header("Max-Forwards"), Some("69"));
    let request = invite("b").call_id("b").max_forwards(Some(1));
    assert_eq!(forwarded(&mut bench, &request).header("Max-Forwards"), Some("0"));
    let request = invite("c").call_id("c").max_forwards(None);
    assert_eq!(forwarded(&mut bench, &request).header("Max-Forwards"), Some("70"));
    let request = invite("d").call_id("d").max_forwards(Some(0));
    assert_eq!(answered(&mut bench, &request).code(), Some(483));
    let request = Script::new("OPTIONS").branch("e").call_id("e").max_forwards(Some(0));
    let code = answered(&mut bench, &request).code();
    assert!(matches!(code, Some(200 | 483)), "{code:?}");
}

#[test]
fn item_03_proxy_require_is_judged_and_require_is_not() {
    let mut bench = bench(1);
    let request = invite("a").line("Proxy-Require: nothingSupportsThis, norThis").line("Require: foo");
    let answer = answered(&mut bench, &request);
    assert_eq!(answer.code(), Some(420));
    assert_eq!(answer.values("Unsupported"), ["nothingSupportsThis", "norThis"]);
    let request = invite("b").call_id("b").line("Require: nothingSupportsThis");
    let received = forwarded(&mut bench, &request);
    assert_eq!(received.header("Require"), Some("nothingSupportsThis"));
}

#[test]
fn item_04_unknown_schemes_are_refused() {
    let mut bench = bench(1);
    let request = Script::new("OPTIONS").uri("nobodyKnowsThisScheme:totallyopaquecontent");
    assert_eq!(answered(&mut bench, &request).code(), Some(416));
    let request = Script::new("OPTIONS").branch("b").call_id("b").uri("soap.beep://192.0.2.103:3002");
    assert_eq!(answered(&mut bench, &request).code(), Some(416));
}

#[test]
fn item_05_merged_requests_pass_both() {
    let mut bench = bench(3);
    bench.send(phone_address(0), invite("one").build());
    let (first, one) = bench.one_to_a_box();
    bench.send(phone_address(1), invite("two").build());
    let (second, two) = bench.one_to_a_box();
    assert_eq!(first, second, "one call stays on one box");
    assert_ne!(Text::read(&one.bytes).branch(), Text::read(&two.bytes).branch());
    bench.assert_quiet();
}

#[test]
fn item_06_strict_and_loose_senders_reach_the_box() {
    let mut bench = bench(2);
    let dialog = bench.establish(&invite("a"), "call-6");
    // A loose router leaves the target in the Request-URI and our entry in Route.
    bench.send(Bench::client_address(), dialog.client_request("INFO", 2).build());
    let (index, datagram) = bench.one_to_a_box();
    let received = Text::read(&datagram.bytes);
    let target = format!("sip:clyde@{}", box_address(dialog.backend));
    assert_eq!((index, received.uri()), (dialog.backend, target.as_str()));
    assert_eq!(received.header("Route"), None);
    // A strict router puts our entry into the Request-URI and the target at the end of Route.
    let ours = dialog.client_route().first().map(|value| uri_in(value)).expect("the proxy recorded its route");
    let strict = Script::new("INFO")
        .branch("strict")
        .uri(&ours)
        .call_id("call-6")
        .cseq(3)
        .from(dialog.answer.header("From").unwrap_or_default())
        .to(dialog.answer.header("To").unwrap_or_default())
        .line(&format!("Route: <{target}>"));
    bench.send(Bench::client_address(), strict.build());
    let (index, datagram) = bench.one_to_a_box();
    let received = Text::read(&datagram.bytes);
    assert_eq!((index, received.uri()), (dialog.backend, target.as_str()));
    assert_eq!(received.header("Route"), None);
}

#[test]
fn item_06_both_entries_of_a_double_record_route_are_removed() {
    let inside: SocketAddr = "10.0.0.2:5060".parse().expect("an address");
    let mut bench = Bench::new(one_farm(1, |farm| {
        for outside in &mut farm.listeners {
            outside.inside = false;
        }
        farm.listeners.push(listener(inside, false, true));
    }));
    let dialog = bench.establish(&invite("a"), "call-6");
    let recorded = dialog.invite.values("Record-Route");
    assert_eq!(recorded.len(), 2, "{recorded:?}");
    assert!(recorded.first().is_some_and(|value| value.contains("10.0.0.2:5060")), "{recorded:?}");
    assert!(recorded.last().is_some_and(|value| value.contains("10.0.0.1:5060")), "{recorded:?}");
    bench.send(Bench::client_address(), dialog.client_request("BYE", 2).build());
    let (_, datagram) = bench.one_to_a_box();
    assert_eq!(datagram.from, inside, "boxes are spoken to from the inside");
    let received = Text::read(&datagram.bytes);
    assert_eq!(received.header("Route"), None);
    assert!(received.header("Via").is_some_and(|via| via.contains("10.0.0.2:5060")));
    bench.send_to(box_address(0), inside, dialog.backend_request("INFO", 1).build());
    let received = bench.one_to_client();
    assert_eq!((received.method(), received.header("Route")), ("INFO", None));
    assert!(received.header("Via").is_some_and(|via| via.contains("10.0.0.1:5060")));
}

#[test]
fn item_07_a_client_never_chooses_the_next_hop() {
    let targets = [
        "sip:clyde@203.0.113.66",
        "sip:clyde@203.0.113.66:6000;transport=tcp",
        "sip:clyde@example.com;maddr=203.0.113.66",
        "sip:clyde@10.0.0.1:5060;maddr=10.0.0.1;transport=udp",
        "sip:10.0.0.1:5060",
    ];
    for (number, target) in targets.into_iter().enumerate() {
        let mut bench = bench(2);
        let request = Script::new("MESSAGE")
            .call_id(&format!("c{number}"))
            .uri(target)
            .line("Route: <sip:203.0.113.67;lr>, <sip:203.0.113.68:5070;lr>");
        let received = forwarded(&mut bench, &request);
        assert_eq!(received.uri(), target);
        assert_eq!(received.values("Route").len(), 2, "foreign routes are carried unread");
        bench.assert_quiet();
    }
}

#[test]
fn item_08_nothing_there_is_said_and_nobody_is_asked_twice() {
    let mut bench = Bench::new(one_farm(2, |farm| {
        for service in &mut farm.services {
            service.rule = Rule { domain: vec!["elsewhere.example".to_owned()], ..Rule::default() };
        }
    }));
    assert_eq!(answered(&mut bench, &invite("a")).code(), Some(404));

    let mut bench = self::bench(2);
    bench.send(Bench::client_address(), invite("a").build());
    let (first, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(503));
    bench.sent_to(request.to);
    let (second, request) = bench.one_to_a_box();
    assert_ne!(first, second);
    bench.answer(&request, &Answer::new(503));
    bench.sent_to(request.to);
    assert!(bench.one_to_client().code().is_some_and(|code| code >= 500));
    bench.assert_quiet();
}

#[test]
fn item_08_an_unknown_user_from_a_box_is_not_found() {
    let mut bench = bench(2);
    let request = invite("a").via("SIP/2.0/UDP 10.0.1.1:5060;branch=z9hG4bKbox").uri("sip:nobody@example.com");
    bench.send(box_address(0), request.build());
    let answer = Text::read(&bench.one_to(box_address(0)).bytes);
    assert!(matches!(answer.code(), Some(404 | 480)), "{:?}", answer.start);
    bench.assert_quiet();
}

#[test]
fn item_09_everything_else_is_kept_in_order() {
    let mut bench = bench(1);
    let body = b"--b\r\nContent-Type: application/octet\r\n\r\n\x00\x01\xfe\xff\r\n--b--";
    let request = invite("a")
        .line("Route: <sip:203.0.113.9;lr>")
        .line("Subject: one")
        .line("X-List: 1, 2")
        .line("s: two")
        .line("X-List: 3")
        .line("P-Anything: é")
        .body("multipart/mixed;boundary=b", body);
    let sent = Text::read(&request.build());
    let received = forwarded(&mut bench, &request);
    assert_eq!(received.without(TOUCHED), sent.without(TOUCHED));
    assert_eq!(received.body, body);
    let vias = received.values("Via");
    assert_eq!(vias.len(), 2, "ours above the client's");
    assert!(vias.last().is_some_and(|via| via.contains("branch=z9hG4bKa")));
}

#[test]
fn item_10_record_route_names_the_virtual_address_above_all_others() {
    let mut bench = bench(1);
    let request =
        invite("a").line("Record-Route: <sip:first.example.net;lr>").line("Record-Route: <sip:second.example.net;lr>");
    let received = forwarded(&mut bench, &request);
    let recorded = received.values("Record-Route");
    assert_eq!(recorded.len(), 3, "{recorded:?}");
    let ours = recorded.first().map(|value| uri_in(value)).unwrap_or_default();
    assert!(ours.starts_with("sip:") && ours.contains("10.0.0.1:5060"), "{ours}");
    assert!(ours.split(';').any(|part| part == "lr" || part.starts_with("lr=")), "{ours}");
    assert_eq!(
        recorded.get(1..),
        Some(&["<sip:first.example.net;lr>".to_owned(), "<sip:second.example.net;lr>".to_owned()][..])
    );
}

#[test]
fn item_11_a_strict_next_hop_gets_the_request_rewritten() {
    let mut bench = bench(1);
    let dialog = bench.establish(&invite("a"), "call-11");
    let request = dialog.client_request("BYE", 2).uri("sip:clyde@203.0.113.5").line("Route: <sip:10.0.1.1:5060>");
    bench.send(Bench::client_address(), request.build());
    let (_, datagram) = bench.one_to_a_box();
    let received = Text::read(&datagram.bytes);
    assert_eq!(received.uri(), "sip:10.0.1.1:5060");
    assert_eq!(received.values("Route"), ["<sip:clyde@203.0.113.5>"]);
}

#[test]
fn item_12_branches_are_unique_and_shared_only_within_a_transaction() {
    let mut bench = bench(2);
    bench.send(Bench::client_address(), invite("a").build());
    let (_, first) = bench.one_to_a_box();
    let sent = Text::read(&first.bytes);
    let top = sent.values("Via").into_iter().next().unwrap_or_default();
    assert!(top.starts_with("SIP/2.0/UDP 10.0.0.1:5060"), "{top}");
    assert!(sent.branch().starts_with("z9hG4bK"));
    // A refusal that is a reason to try the next: its ACK carries the INVITE's branch, the next attempt has its own.
    bench.answer(&first, &Answer::new(503));
    let ack = Text::read(&bench.one_to(first.to).bytes);
    assert_eq!((ack.method(), ack.branch()), ("ACK", sent.branch()));
    let (_, second) = bench.one_to_a_box();
    let retried = Text::read(&second.bytes);
    assert_eq!(retried.method(), "INVITE");
    assert_ne!(retried.branch(), sent.branch());
    // CANCEL carries the branch of the INVITE that it takes back.
    bench.answer(&second, &Answer::new(180));
    assert_eq!(bench.one_to_client().code(), Some(180));
    bench.send(Bench::client_address(), Script::new("CANCEL").branch("a").build());
    assert_eq!(bench.one_to_client().code(), Some(200));
    let cancel = Text::read(&bench.one_to(second.to).bytes);
    assert_eq!((cancel.method(), cancel.branch()), ("CANCEL", retried.branch()));
    assert_eq!(cancel.values("Via").len(), 1);
}

#[test]
fn item_12_no_two_requests_share_a_branch() {
    let mut bench = bench(3);
    let mut branches = Vec::new();
    for number in 0..500 {
        let request = Script::new("MESSAGE").branch(&format!("b{number}")).call_id(&format!("c{number}"));
        branches.push(forwarded(&mut bench, &request).branch());
    }
    branches.sort();
    branches.dedup();
    assert_eq!(branches.len(), 500);
}

/// Whether the receiver at the other end of this transport cannot see by itself where a body ends (RFC 3261 §18.3). A WebSocket
/// message ends where its SIP message does (RFC 7118 §5). The match names every transport on purpose: whoever adds a stream has to
/// say so here, and then the tests of item 13 ask for the header.
fn needs_content_length(transport: Transport) -> bool {
    match transport {
        Transport::Udp | Transport::Ws | Transport::Wss => false,
        Transport::Tcp | Transport::Tls => true,
    }
}

/// Fails the test unless a message that came without Content-Length may leave like this.
fn assert_length(bench: &mut Bench, left: &Text, length: usize) {
    let needed = bench
        .balancer()
        .settings()
        .farms
        .iter()
        .flat_map(|farm| &farm.listeners)
        .any(|listener| needs_content_length(listener.transport));
    match left.header("Content-Length") {
        Some(written) => assert_eq!(written, length.to_string()),
        None => assert!(!needed, "a stream needs the header"),
    }
}

/// Looks as if it held further messages and the end of its own headers.
const BODY: &[u8] = b"no length given\r\n\r\nMESSAGE sip:x SIP/2.0\r\n\0\r\n";

/// The end of a datagram is the end of the body (RFC 3261 §18.3), so that the header that §16.6 step 9 adds for streams is not
/// needed: what is shown is that nothing of the body is lost, and that a length that is added is the right one.
#[test]
fn item_13_a_request_without_content_length_keeps_its_body() {
    let mut bench = bench(1);
    for (number, body) in [&b""[..], b"no length given", BODY].into_iter().enumerate() {
        let name = format!("b{number}");
        let request = Script::new("MESSAGE").branch(&name).call_id(&name).body("text/plain", body).without_length();
        let received = forwarded(&mut bench, &request);
        assert_eq!(received.body, body);
        assert_length(&mut bench, &received, body.len());
    }
}

#[test]
fn item_13_an_answer_without_content_length_keeps_its_body() {
    let mut bench = bench(1);
    for (number, body) in [&b""[..], b"no length given", BODY].into_iter().enumerate() {
        let name = format!("b{number}");
        bench.send(Bench::client_address(), Script::new("MESSAGE").branch(&name).call_id(&name).build());
        let (_, request) = bench.one_to_a_box();
        let answer = Answer::new(200).body("text/plain", body).to(&request.bytes);
        let answer = String::from_utf8(answer).expect("the body is text");
        let answer = answer.replacen(&format!("Content-Length: {}\r\n", body.len()), "", 1);
        bench.send(request.to, answer);
        let received = bench.one_to_client();
        assert_eq!((received.code(), &received.body[..]), (Some(200), body));
        assert_length(&mut bench, &received, body.len());
    }
}

/// A request that says its length keeps saying it, once and as it was spelled.
#[test]
fn item_13_a_content_length_that_is_there_stays() {
    let mut bench = bench(1);
    let request = Script::new("MESSAGE").line("l : 0015").body("text/plain", b"no length given").without_length();
    bench.send(Bench::client_address(), request.build());
    let (_, datagram) = bench.one_to_a_box();
    assert_eq!(Text::read(&datagram.bytes).all("Content-Length"), ["0015"]);
    let kept = datagram.bytes.windows(10).any(|part| part == b"\r\nl : 0015");
    assert!(kept, "{}", String::from_utf8_lossy(&datagram.bytes));
}

#[test]
fn a_forged_origin_is_replaced_by_the_true_one() {
    let mut bench = bench(1);
    let request = invite("a").line("X-Tandem-Origin: backend pbx1").line("x-tandem-origin : trunk carrier");
    let received = forwarded(&mut bench, &request);
    assert_eq!(received.all("X-Tandem-Origin"), ["client"]);
}

#[test]
fn a_token_of_another_call_leads_nowhere() {
    let mut bench = bench(2);
    let dialog = bench.establish(&invite("a"), "call-1");
    let stolen = dialog.client_request("BYE", 2).call_id("call-2");
    bench.send(phone_address(7), stolen.build());
    let answer = Text::read(&bench.one_to(phone_address(7)).bytes);
    assert_eq!(answer.code(), Some(403));
    let stolen = dialog.client_request("ACK", 2).call_id("call-2").branch("other");
    bench.send(phone_address(7), stolen.build());
    bench.assert_quiet();
}

#[test]
fn a_call_without_a_user_bound_follows_the_algorithm() {
    let mut bench = Bench::new(one_farm(3, |farm| {
        farm.registrations = Registrations::Off;
        let mut only = service("default", vec![0, 1, 2]);
        only.algorithm = algorithm("round-robin");
        only.persistence = Persistence::None;
        farm.services = vec![only];
    }));
    let mut counts = [0; 3];
    for number in 0..30 {
        let request = invite(&format!("b{number}"))
            .call_id(&format!("c{number}"))
            .from(&format!("<sip:caller{number}@example.com>;tag=t{number}"));
        bench.send(Bench::client_address(), request.build());
        let (index, datagram) = bench.one_to_a_box();
        bench.answer(&datagram, &Answer::new(486));
        bench.rest();
        if let Some(count) = counts.get_mut(index) {
            *count += 1;
        }
        bench.advance(Duration::from_millis(10));
    }
    assert_eq!(counts, [10, 10, 10]);
}
