//! The proxy checklist, part three: transport rules of RFC 3261 §18 and the RFCs that came later. Each test is named after
//! its item.

use engine::{Registrations, Settings};
use sim::bench::invite;
use sim::script::{parameter, uri_in};
use sim::settings::{VIP, listener, trunk};
use sim::{Answer, Bench, Script, Text, box_address, one_farm, phone_address};
use std::net::SocketAddr;
use std::time::Duration;

fn bench(boxes: usize) -> Bench {
    Bench::new(one_farm(boxes, |_| ()))
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("tests write addresses that can be read")
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The client's Via as a box got it, and where the answer to the request went.
fn via_and_return_path(via: &str, source: SocketAddr) -> (String, SocketAddr) {
    let mut bench = bench(1);
    bench.send(source, Script::new("MESSAGE").via(via).build());
    let (_, request) = bench.one_to_a_box();
    let seen = Text::read(&request.bytes).values("Via").into_iter().nth(1).unwrap_or_default();
    bench.answer(&request, &Answer::new(200));
    let sent = bench.rest();
    assert_eq!(sent.len(), 1);
    let target = sent.first().map(|datagram| datagram.to).expect("one was sent");
    (seen, target)
}

#[test]
fn item_24_responses_that_are_not_ours_are_dropped() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), invite("a").build());
    let (_, request) = bench.one_to_a_box();
    for via in [
        "SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bKother",
        "SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKguessed",
        "SIP/2.0/UDP 10.0.0.1:5060",
    ] {
        let foreign = Script::new("INVITE").via(via).line("Via: SIP/2.0/UDP 10.1.0.1:5060;branch=z9hG4bKa").build();
        bench.send(request.to, Answer::new(200).to(&foreign));
        bench.assert_quiet();
    }
}

#[test]
fn item_25_received_is_added_and_answers_find_back() {
    let source = address("10.1.0.1:5060");
    // Another port, no rport: RFC 3261 §18.2.2 answers to the port of the sent-by.
    let (via, target) = via_and_return_path("SIP/2.0/UDP 10.1.0.1:5070;branch=z9hG4bKa", source);
    assert_eq!((parameter(&via, "rport"), target), (None, address("10.1.0.1:5070")));
    // A name.
    let (via, target) = via_and_return_path("SIP/2.0/UDP phone.example.com:5070;branch=z9hG4bKa", source);
    assert_eq!((parameter(&via, "received"), target), (Some("10.1.0.1".to_owned()), address("10.1.0.1:5070")));
    let (_, target) = via_and_return_path("SIP/2.0/UDP phone.example.com;branch=z9hG4bKa", address("10.1.0.1:9999"));
    assert_eq!(target, address("10.1.0.1:5060"), "5060 is the port of a sent-by without one");
    // A private address that is not the source: a NAT, whatever the phone forgot to ask for.
    let (via, target) = via_and_return_path("SIP/2.0/UDP 192.168.1.5:5070;branch=z9hG4bKa", address("10.1.0.1:6161"));
    assert_eq!((parameter(&via, "received"), target), (Some("10.1.0.1".to_owned()), address("10.1.0.1:6161")));
}

/// The sent-by that is a name or not the source, `rport`, and a `received` that the sender made up himself.
#[test]
fn item_25_received_names_the_source_where_the_sent_by_does_not() {
    let source = address("10.1.0.1:5060");
    for (via, received) in [
        ("10.1.0.1:5060", None),
        ("10.1.0.1", None),
        ("10.1.0.1:5060;rport", Some("10.1.0.1")),
        ("phone.example.com", Some("10.1.0.1")),
        ("phone.example.com:5060;rport", Some("10.1.0.1")),
        ("203.0.113.66:5060", Some("10.1.0.1")),
        ("203.0.113.66;rport", Some("10.1.0.1")),
        ("203.0.113.66;received=203.0.113.66", Some("10.1.0.1")),
        ("10.1.0.1:5060;received=203.0.113.66", Some("10.1.0.1")),
        ("10.1.0.1:5060;received=203.0.113.66;rport=9", Some("10.1.0.1")),
    ] {
        let (seen, target) = via_and_return_path(&format!("SIP/2.0/UDP {via};branch=z9hG4bKa"), source);
        assert_eq!(parameter(&seen, "received").as_deref(), received, "{via} became {seen}");
        assert_eq!(seen.matches("received").count(), usize::from(received.is_some()), "{via} became {seen}");
        assert_eq!(
            parameter(&seen, "rport").as_deref(),
            via.contains("rport").then_some("5060"),
            "{via} became {seen}"
        );
        assert_eq!(target, source, "{via}");
    }
}

/// A named deviation from RFC 3261 §18.2.2: anybody could aim our answers at a third party. They go to the source, and there to
/// the port of `rport` or sent-by; the parameter itself stays where it is.
#[test]
fn item_25_maddr_in_the_topmost_via_is_not_followed() {
    for (via, source, target) in [
        ("10.1.0.1:5070;maddr=203.0.113.66", "10.1.0.1:5060", "10.1.0.1:5070"),
        ("10.1.0.1:5070;maddr=203.0.113.66;rport", "10.1.0.1:6161", "10.1.0.1:6161"),
        ("phone.example.com;maddr=203.0.113.66", "10.1.0.1:9999", "10.1.0.1:5060"),
        ("203.0.113.9:5080;maddr=224.2.0.1;ttl=16", "10.1.0.1:9999", "10.1.0.1:5080"),
        ("203.0.113.66:5080;maddr=203.0.113.66;received=203.0.113.66", "10.1.0.1:9999", "10.1.0.1:5080"),
    ] {
        let (seen, reached) = via_and_return_path(&format!("SIP/2.0/UDP {via};branch=z9hG4bKa"), address(source));
        assert_eq!(reached, address(target), "{via}");
        let maddr = if via.contains("224.2.0.1") { "224.2.0.1" } else { "203.0.113.66" };
        assert_eq!(parameter(&seen, "maddr").as_deref(), Some(maddr), "{via} became {seen}");
    }
}

#[test]
fn item_25_our_own_answers_do_not_follow_maddr_either() {
    let mut bench = bench(1);
    let (source, back) = (address("10.1.0.1:5060"), address("10.1.0.1:5070"));
    let via = |branch: &str| format!("SIP/2.0/UDP 10.1.0.1:5070;maddr=203.0.113.66;branch=z9hG4bK{branch}");
    // Without a transaction.
    bench.send(source, Script::new("MESSAGE").via(&via("hops")).call_id("hops").max_forwards(Some(0)).build());
    assert_eq!(Text::read(&bench.one_to(back).bytes).code(), Some(483));
    bench.send(source, Script::new("CANCEL").via(&via("nothing")).call_id("nothing").build());
    assert_eq!(Text::read(&bench.one_to(back).bytes).code(), Some(481));
    // Within one.
    bench.send(source, invite("call").via(&via("call")).build());
    bench.one_to_a_box();
    bench.advance(Duration::from_millis(300));
    assert_eq!(Text::read(&bench.one_to(back).bytes).code(), Some(100));
    bench.send(source, Script::new("CANCEL").via(&via("call")).build());
    assert_eq!(Text::read(&bench.one_to(back).bytes).code(), Some(200));
    bench.assert_quiet();
}

#[test]
fn item_26_octets_after_the_body_are_ignored_and_missing_ones_are_refused() {
    let mut bench = bench(1);
    let mut datagram = Script::new("MESSAGE").body("text/plain", b"first").build();
    datagram.extend_from_slice(&Script::new("MESSAGE").branch("second").call_id("second").build());
    bench.send(Bench::client_address(), &datagram);
    let (_, received) = bench.one_to_a_box();
    assert!(received.bytes.ends_with(b"\r\n\r\nfirst"), "{}", String::from_utf8_lossy(&received.bytes));
    let mut cut = Script::new("MESSAGE").branch("cut").call_id("cut").body("text/plain", b"123456789").build();
    cut.truncate(cut.len() - 3);
    bench.send(Bench::client_address(), &cut);
    assert_eq!(bench.one_to_client().code(), Some(400));
    bench.assert_quiet();
}

#[test]
fn item_28_rport_is_filled_in_and_the_answer_leaves_from_where_the_request_came() {
    let (via, target) =
        via_and_return_path("SIP/2.0/UDP 10.1.0.1:5060;rport;branch=z9hG4bKa", address("10.1.0.1:5060"));
    assert_eq!(parameter(&via, "rport"), Some("5060".to_owned()));
    assert_eq!(parameter(&via, "received"), Some("10.1.0.1".to_owned()), "even if it is equal");
    assert_eq!(target, address("10.1.0.1:5060"));
    let (via, target) =
        via_and_return_path("SIP/2.0/UDP 192.168.0.9;rport;branch=z9hG4bKa", address("198.18.0.1:33333"));
    assert_eq!(parameter(&via, "rport"), Some("33333".to_owned()));
    assert_eq!(target, address("198.18.0.1:33333"));
}

#[test]
fn item_28_each_virtual_address_answers_for_itself() {
    let second = address("10.0.0.2:5060");
    let mut bench = Bench::new(one_farm(1, |farm| farm.listeners.push(listener(second, true, true))));
    for (number, arrival) in [VIP, second].into_iter().enumerate() {
        let request = Script::new("MESSAGE").branch(&format!("b{number}")).call_id(&format!("c{number}"));
        bench.send_to(Bench::client_address(), arrival, request.build());
        let (_, received) = bench.one_to_a_box();
        bench.answer(&received, &Answer::new(200));
        let answer = bench.one_to(Bench::client_address());
        assert_eq!(answer.from, arrival);
    }
}

#[test]
fn item_30_non_invite_requests_get_no_provisional_answers_but_a_late_100() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), Script::new("MESSAGE").build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(183));
    bench.advance(Duration::from_millis(3_400));
    assert!(bench.sent_to(Bench::client_address()).is_empty(), "no 1xx before timer E is at T2");
    bench.advance(seconds(28));
    let early = bench.sent_to(Bench::client_address());
    assert!(early.iter().all(|answer| Text::read(&answer.bytes).code() == Some(100)), "nothing but 100");
}

#[test]
fn item_30_a_non_invite_request_never_gets_408_nor_a_late_answer() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), Script::new("MESSAGE").build());
    let (_, request) = bench.one_to_a_box();
    bench.advance(seconds(40));
    let codes: Vec<Option<u16>> =
        bench.sent_to(Bench::client_address()).iter().map(|answer| Text::read(&answer.bytes).code()).collect();
    assert!(codes.iter().all(|code| *code == Some(100)), "{codes:?}");
    bench.sent_to(box_address(0));
    bench.answer(&request, &Answer::new(200));
    bench.assert_quiet();

    bench.send(Bench::client_address(), Script::new("MESSAGE").branch("b").call_id("b").build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(408));
    bench.assert_quiet();
}

#[test]
fn item_31_an_accepted_transaction_lives_for_64_t1_and_no_longer() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), invite("a").build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(200));
    assert_eq!(bench.one_to_client().code(), Some(200));
    bench.advance(seconds(10));
    bench.send(Bench::client_address(), invite("a").build());
    assert!(bench.sent_to(box_address(0)).is_empty(), "a repeated INVITE is absorbed");
    bench.rest();
    bench.advance(seconds(20));
    bench.answer(&request, &Answer::new(200));
    assert_eq!(bench.one_to_client().code(), Some(200), "repeated 2xx go up");
    bench.advance(seconds(40));
    bench.answer(&request, &Answer::new(200));
    bench.assert_quiet();
}

#[test]
fn item_31_a_transport_error_does_not_destroy_the_transaction() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), invite("a").build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(200));
    let answer = bench.one_to(Bench::client_address());
    bench.return_undelivered(&answer);
    bench.answer(&request, &Answer::new(200));
    assert_eq!(bench.one_to_client().code(), Some(200));
}

#[test]
fn item_32_loops_are_found_and_spirals_are_not() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), Script::new("MESSAGE").build());
    let (_, request) = bench.one_to_a_box();
    let seen = Text::read(&request.bytes);
    let again = |branch: &str, uri: &str| {
        let script = Script::new("MESSAGE").via("SIP/2.0/UDP 10.1.0.9:5060;rport").branch(branch).uri(uri);
        seen.values("Via").iter().fold(script, |script, via| script.line(&format!("Via: {via}"))).build()
    };
    bench.send(phone_address(8), again("loop", "sip:clyde@example.com"));
    let answer = Text::read(&bench.one_to(phone_address(8)).bytes);
    assert_eq!(answer.code(), Some(482));
    bench.assert_quiet();
    bench.send(phone_address(8), again("spiral", "sip:somebody-else@example.com"));
    bench.one_to_a_box();
}

#[test]
fn item_32_breadth_is_limited() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), invite("a").build());
    let (_, request) = bench.one_to_a_box();
    assert_eq!(Text::read(&request.bytes).header("Max-Breadth"), Some("60"));
    bench.send(Bench::client_address(), invite("b").call_id("b").line("Max-Breadth: 5").build());
    let (_, request) = bench.one_to_a_box();
    assert_eq!(Text::read(&request.bytes).header("Max-Breadth"), Some("5"), "never raised");
    bench.send(Bench::client_address(), invite("c").call_id("c").line("Max-Breadth: 0").build());
    assert_eq!(bench.one_to_client().code(), Some(440));
    bench.assert_quiet();
}

#[test]
fn item_32_a_request_never_goes_back_to_its_box() {
    let mut bench = bench(1);
    register(&mut bench, &[]);
    bench.send(Bench::client_address(), invite("a").uri("sip:bonnie@example.com").build());
    let (_, request) = bench.one_to_a_box();
    let seen = Text::read(&request.bytes);
    let back = invite("a").via("SIP/2.0/UDP 10.0.1.1:5060;branch=z9hG4bKback").uri("sip:bonnie@example.com");
    let back = seen.values("Via").iter().fold(back, |script, via| script.line(&format!("Via: {via}")));
    bench.send(box_address(0), back.build());
    let to_box: Vec<String> =
        bench.sent_to(box_address(0)).iter().map(|datagram| Text::read(&datagram.bytes).start).collect();
    assert!(to_box.iter().all(|start| !start.starts_with("INVITE")), "{to_box:?}");
}

/// Registers Bonnie from the client's address; returns the REGISTER as the box got it and the answer as the client got it.
fn register(bench: &mut Bench, lines: &[&str]) -> (Text, Text) {
    let script = Script::new("REGISTER")
        .branch("reg")
        .call_id("registration")
        .uri("sip:example.com")
        .to("<sip:bonnie@example.com>")
        .line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=600");
    let script = lines.iter().fold(script, |script, line| script.line(line));
    bench.send(Bench::client_address(), script.build());
    let (_, request) = bench.one_to_a_box();
    let seen = Text::read(&request.bytes);
    let contact = seen.header("Contact").map(uri_in).unwrap_or_default();
    bench.answer(&request, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")));
    (seen, bench.one_to_client())
}

fn with_path() -> Settings {
    one_farm(1, |farm| farm.registrations = Registrations::Path)
}

#[test]
fn item_33_path_is_written_on_top_and_followed() {
    let mut bench = Bench::new(with_path());
    let (seen, answer) = register(&mut bench, &["Path: <sip:edge.example.net;lr>", "Supported: path"]);
    assert_eq!(answer.code(), Some(200));
    let paths = seen.values("Path");
    assert_eq!(paths.len(), 2, "{paths:?}");
    assert!(paths.first().is_some_and(|path| path.contains("10.0.0.1:5060") && path.contains(";lr")), "{paths:?}");
    assert_eq!(paths.last().map(String::as_str), Some("<sip:edge.example.net;lr>"));
    assert_eq!(seen.header("Contact").map(uri_in), Some("sip:bonnie@10.1.0.1:5060".to_owned()), "left as it was");
    // The box reaches the phone by the Path as preloaded Route.
    let ours = paths.first().cloned().unwrap_or_default();
    let call = invite("box")
        .via("SIP/2.0/UDP 10.0.1.1:5060;branch=z9hG4bKbox")
        .call_id("from-the-box")
        .uri("sip:bonnie@10.1.0.1:5060")
        .line(&format!("Route: {ours}"));
    bench.send(box_address(0), call.build());
    let received = bench.one_to_client();
    assert_eq!((received.method(), received.uri()), ("INVITE", "sip:bonnie@10.1.0.1:5060"));
    assert_eq!(received.header("Route"), None);
}

#[test]
fn item_33_path_by_policy_adds_the_option_tag() {
    let mut bench = Bench::new(with_path());
    let (seen, _) = register(&mut bench, &[]);
    assert_eq!(seen.values("Path").len(), 1);
    assert!(seen.values("Supported").iter().any(|tag| tag == "path"), "{:?}", seen.values("Supported"));
}

/// Registers Bonnie for a minute by a flow that her phone names; gives the Path that the box saw.
fn path_of_a_flow(bench: &mut Bench, supported: &str) -> String {
    let contact = "Contact: <sip:bonnie@10.1.0.1:5060>;+sip.instance=\"<urn:uuid:1>\";reg-id=1;expires=60";
    let request = Script::new("REGISTER")
        .branch("reg")
        .call_id("registration")
        .uri("sip:example.com")
        .to("<sip:bonnie@example.com>")
        .line(&format!("Supported: {supported}"))
        .line(contact);
    bench.send(Bench::client_address(), request.build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(200).line(contact));
    assert_eq!(bench.one_to_client().code(), Some(200));
    Text::read(&request.bytes).header("Path").unwrap_or_default().to_owned()
}

/// A call of the box along that Path.
fn call_along(path: &str, name: &str) -> Vec<u8> {
    invite(name)
        .via(&format!("SIP/2.0/UDP {};branch=z9hG4bK{name}", box_address(0)))
        .call_id(name)
        .uri("sip:bonnie@10.1.0.1:5060")
        .line(&format!("Route: {path}"))
        .build()
}

#[test]
fn item_34_a_path_has_a_flow_token_and_ob_where_the_phone_speaks_outbound() {
    for (supported, end) in [("path, outbound", ";lr;ob>"), ("path", ":5060;lr>")] {
        let mut bench = Bench::new(with_path());
        let path = path_of_a_flow(&mut bench, supported);
        assert!(path.starts_with("<sip:tdm") && path.ends_with(end), "{supported}: {path}");
        bench.send(box_address(0), call_along(&path, "call"));
        assert_eq!(bench.one_to_client().method(), "INVITE");
    }
}

#[test]
fn item_34_who_names_a_flow_that_is_gone_gets_430() {
    for (supported, code) in [("path, outbound", 430), ("path", 480)] {
        let mut bench = Bench::new(with_path());
        let path = path_of_a_flow(&mut bench, supported);
        bench.advance(seconds(61));
        bench.send(box_address(0), call_along(&path, "call"));
        let answer = Text::read(&bench.one_to(box_address(0)).bytes);
        assert_eq!(answer.code(), Some(code), "{supported}");
        assert_eq!(code == 430, answer.start.ends_with("430 Flow Failed"), "{}", answer.start);
    }
}

#[test]
fn item_34_keep_alives_are_answered_where_they_ask() {
    let mut bench = bench(1);
    let stun: Vec<u8> = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
    bench.send(Bench::client_address(), stun);
    let answer = bench.one_to(Bench::client_address());
    assert_eq!((answer.bytes.get(..2), answer.bytes.get(8..20)), (Some(&[1, 1][..]), Some(&[7; 12][..])));
    bench.send(Bench::client_address(), b"\r\n\r\n");
    bench.assert_quiet();
}

#[test]
fn item_37_reasons_are_kept_and_losers_are_told() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), invite("a").build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(180));
    bench.one_to_client();
    let reason = "SIP ;cause=600 ;text=\"Busy Everywhere\"";
    bench.send(Bench::client_address(), Script::new("CANCEL").branch("a").line(&format!("Reason: {reason}")).build());
    let cancel = Text::read(&bench.one_to(box_address(0)).bytes);
    assert_eq!((cancel.method(), cancel.header("Reason")), ("CANCEL", Some(reason)));
}

#[test]
fn item_37_a_losing_branch_hears_that_the_call_was_completed_elsewhere() {
    let mut bench = bench(2);
    bench.send(Bench::client_address(), invite("a").build());
    let (first, one) = bench.one_to_a_box();
    bench.advance(Duration::from_millis(2_100));
    bench.sent_to(box_address(first));
    let (_, two) = bench.one_to_a_box();
    bench.answer(&two, &Answer::new(180).tag("second"));
    bench.answer(&one, &Answer::new(200).tag("first"));
    let cancel = Text::read(&bench.one_to(two.to).bytes);
    let reason = "SIP;cause=200;text=\"Call completed elsewhere\"";
    assert_eq!((cancel.method(), cancel.header("Reason")), ("CANCEL", Some(reason)));
}

#[test]
fn item_38_subscriptions_record_their_route_and_notify_may_come_first() {
    let mut bench = bench(2);
    let subscribe = Script::new("SUBSCRIBE").line("Event: presence").line("Contact: <sip:bonnie@10.1.0.1:5060>");
    bench.send(Bench::client_address(), subscribe.build());
    let (index, request) = bench.one_to_a_box();
    let seen = Text::read(&request.bytes);
    let route = seen.header("Record-Route").map(str::to_owned).expect("a SUBSCRIBE makes a dialog");
    let box_at = box_address(index);
    let notify = Script::new("NOTIFY")
        .via(&format!("SIP/2.0/UDP {box_at};branch=z9hG4bKnotify"))
        .uri("sip:bonnie@10.1.0.1:5060")
        .from("<sip:clyde@example.com>;tag=notifier")
        .to("<sip:bonnie@example.com>;tag=ft")
        .line("Event: presence")
        .line("Subscription-State: active")
        .line(&format!("Contact: <sip:clyde@{box_at}>"))
        .line(&format!("Route: {route}"));
    bench.send(box_at, notify.build());
    let received = bench.one_to_client();
    assert_eq!((received.method(), received.header("Route")), ("NOTIFY", None));
    assert!(received.header("Record-Route").is_some(), "a NOTIFY may make the dialog");
    bench.answer(&request, &Answer::new(200).tag("notifier"));
    assert_eq!(bench.one_to_client().code(), Some(200));
}

#[test]
fn item_42_the_answer_to_a_challenge_reaches_the_box_that_asked() {
    let mut bench = bench(3);
    for method in ["INVITE", "REGISTER"] {
        for number in 0..30 {
            let call_id = format!("{method}{number}");
            let script = Script::new(method)
                .branch(&format!("{call_id}a"))
                .call_id(&call_id)
                .from(&format!("<sip:user{number}@example.com>;tag={call_id}"))
                .to(&format!("<sip:user{number}@example.com>"))
                .line("Contact: <sip:user@10.1.0.1:5060>");
            bench.send(Bench::client_address(), script.build());
            let (first, request) = bench.one_to_a_box();
            let strong = "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=SHA-256, qop=\"auth\"";
            let weak = "WWW-Authenticate: Digest realm=\"r\", nonce=\"n\", algorithm=MD5, qop=\"auth\"";
            bench.answer(&request, &Answer::new(401).line(strong).line(weak));
            let answers = bench.sent_to(Bench::client_address());
            let answer = answers.first().map(|datagram| Text::read(&datagram.bytes)).expect("the challenge goes up");
            let challenges = answer.all("WWW-Authenticate").join("|");
            assert!(challenges.find("SHA-256") < challenges.find("MD5"), "in the box's order: {challenges}");
            assert_eq!(answer.all("WWW-Authenticate").len(), 2);
            bench.rest();
            let retry = script
                .branch(&format!("{call_id}b"))
                .cseq(2)
                .line("Authorization: Digest username=\"u\", realm=\"r\", nonce=\"n\", uri=\"sip:x\", response=\"0\"");
            bench.send(Bench::client_address(), retry.build());
            let (second, _) = bench.one_to_a_box();
            assert_eq!(first, second, "{call_id}");
        }
    }
}

#[test]
fn item_43_ipv6_addresses_are_written_without_brackets_in_received() {
    let vip = address("[2001:db8::1]:5060");
    let backend = address("[2001:db8:1::1]:5060");
    let client = address("[2001:db8:2::7]:5062");
    let mut bench = Bench::new(one_farm(1, |farm| {
        farm.listeners = vec![listener(vip, true, true)];
        for box_ in &mut farm.backends {
            box_.address = backend;
        }
    }));
    let via = "SIP/2.0/UDP [2001:db8:2::9]:5062;rport;branch=z9hG4bKa";
    let request = invite("a").via(via).line("Route: <sip:[2001:db8::ff];lr>");
    bench.send_to(client, vip, request.build());
    let received = bench.one_to(backend);
    let text = Text::read(&received.bytes);
    let vias = text.values("Via");
    assert!(vias.first().is_some_and(|via| via.starts_with("SIP/2.0/UDP [2001:db8::1]:5060")), "{vias:?}");
    let theirs = vias.last().cloned().unwrap_or_default();
    assert_eq!(parameter(&theirs, "received"), Some("2001:db8:2::7".to_owned()));
    assert_eq!(parameter(&theirs, "rport"), Some("5062".to_owned()));
    assert!(text.header("Record-Route").is_some_and(|value| value.contains("[2001:db8::1]:5060")));
    bench.answer(&received, &Answer::new(200));
    assert_eq!(Text::read(&bench.one_to(client).bytes).code(), Some(200));
}

#[test]
fn item_43_received_with_brackets_is_accepted() {
    let vip = address("[2001:db8::1]:5060");
    let backend = address("[2001:db8:1::1]:5060");
    let mut bench = Bench::new(one_farm(1, |farm| {
        farm.listeners = vec![listener(vip, true, true)];
        for box_ in &mut farm.backends {
            box_.address = backend;
        }
    }));
    let client = address("[2001:db8:2::7]:5060");
    let via = "SIP/2.0/UDP [2001:db8:2::7]:5060;received=[2001:db8:2::7];rport;branch=z9hG4bKa";
    bench.send_to(client, vip, Script::new("MESSAGE").via(via).build());
    let received = bench.one_to(backend);
    bench.answer(&received, &Answer::new(200));
    assert_eq!(Text::read(&bench.one_to(client).bytes).code(), Some(200));
}

#[test]
fn item_43_mapped_addresses_match_ipv4_lists() {
    let any = address("[::]:5060");
    let vip = address("[2001:db8::1]:5060");
    let backend = address("[2001:db8:1::1]:5060");
    let mut bench = Bench::new(one_farm(1, |farm| {
        farm.listeners = vec![listener(any, true, true)];
        farm.trunks = vec![trunk("carrier", "198.51.100.0/28", address("198.51.100.1:5060"))];
        for box_ in &mut farm.backends {
            box_.address = backend;
        }
    }));
    let via = "SIP/2.0/UDP 198.51.100.3:5060;rport;branch=z9hG4bKa";
    bench.send_to(address("[::ffff:198.51.100.3]:5060"), vip, invite("a").via(via).build());
    let received = Text::read(&bench.one_to(backend).bytes);
    assert_eq!(received.header("X-Tandem-Origin"), Some("trunk carrier"));
}
