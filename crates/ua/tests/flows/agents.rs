//! Two user agents wired directly to each other.

use crate::world::{Sent, World, address, answering, media, text};
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Answering, CallId, Event};

const SECOND: Duration = Duration::from_secs(1);

/// Bonnie and Clyde, each the other's proxy.
fn pair() -> (World, SocketAddr, SocketAddr) {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(2));
    let clyde = world.phone("clyde", address(2), address(1));
    (world, bonnie, clyde)
}

fn call(world: &mut World, from: SocketAddr) -> CallId {
    world.at(from, |agent, now| agent.call(now, "sip:clyde@example.com", media(from)))
}

/// The callee's number of his only call so far.
fn incoming(world: &World, callee: SocketAddr) -> CallId {
    let calls = world.events_of(callee);
    let found = calls.iter().find_map(|event| match event {
        Event::Incoming { call, .. } => Some(*call),
        _ => None,
    });
    found.expect("a call came in")
}

#[test]
fn a_call_is_answered_and_ended() {
    let (mut world, bonnie, clyde) = pair();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    world.at(bonnie, |agent, now| agent.hang_up(now, placed));
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["INVITE", "180 INVITE", "200 INVITE", "ACK", "BYE", "200 BYE"]);
    assert_eq!(
        world.events_of(bonnie),
        [
            Event::Ringing { call: placed, code: 180 },
            Event::Answered { call: placed, remote_media: Some(media(clyde)) },
            Event::Ended { call: placed, by_us: true, code: 200 },
        ]
    );
    let taken = incoming(&world, clyde);
    assert_eq!(
        world.events_of(clyde),
        [
            Event::Incoming { call: taken, from: "sip:bonnie@example.com".to_owned() },
            Event::Confirmed { call: taken, remote_media: Some(media(bonnie)) },
            Event::Ended { call: taken, by_us: false, code: 200 },
        ]
    );
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (0, 0));
}

#[test]
fn a_slow_callee_says_that_the_invite_arrived() {
    let (mut world, bonnie, clyde) = pair();
    let ring_after = Duration::from_millis(700);
    let patient = Answering { ring_after, answer_after: None, ..answering(clyde) };
    world.at(clyde, |agent, _| agent.set_answering(patient));
    call(&mut world, bonnie);
    world.run_for(SECOND * 60);
    assert_eq!(world.labels(), ["INVITE", "100 INVITE", "180 INVITE"]);
}

#[test]
fn the_callee_hangs_up_after_his_time() {
    let (mut world, bonnie, clyde) = pair();
    let brief = Answering { hang_up_after: Some(SECOND * 3), ..answering(clyde) };
    world.at(clyde, |agent, _| agent.set_answering(brief));
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND * 10);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Ended { call: placed, by_us: false, code: 200 }));
    let (ack, bye) = (world.sent("ACK")[0], world.sent("BYE")[0]);
    assert_eq!(bye.at.saturating_since(ack.at), SECOND * 3 + crate::world::LATENCY);
}

#[test]
fn a_refusal_is_acknowledged_and_told_to_both() {
    let (mut world, bonnie, clyde) = pair();
    let busy = Answering { code: 486, answer_after: Some(Duration::ZERO), ring_after: SECOND, ..answering(clyde) };
    world.at(clyde, |agent, _| agent.set_answering(busy));
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND * 40);
    assert_eq!(world.labels(), ["INVITE", "486 INVITE", "ACK"]);
    assert_eq!(world.events_of(bonnie), [Event::Failed { call: placed, code: 486 }]);
    let taken = incoming(&world, clyde);
    assert_eq!(world.events_of(clyde).last(), Some(&Event::Failed { call: taken, code: 486 }));
}

#[test]
fn a_ringing_call_is_cancelled() {
    let (mut world, bonnie, clyde) = pair();
    world.at(clyde, |agent, _| agent.set_answering(Answering { answer_after: None, ..answering(clyde) }));
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    world.at(bonnie, |agent, now| agent.cancel(now, placed));
    world.run_for(SECOND * 40);
    assert_eq!(world.labels(), ["INVITE", "180 INVITE", "CANCEL", "200 CANCEL", "487 INVITE", "ACK"]);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Cancelled { call: placed }));
    assert_eq!(world.events_of(clyde).last(), Some(&Event::Cancelled { call: incoming(&world, clyde) }));
    let (invite, cancel) = (world.sent("INVITE")[0], world.sent("CANCEL")[0]);
    assert_eq!(invite.header("Via"), cancel.header("Via"), "the CANCEL has the INVITE's Via (RFC 3261 §9.1)");
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (0, 0));
}

#[test]
fn a_cancel_waits_for_the_first_provisional_response() {
    let (mut world, bonnie, clyde) = pair();
    world.at(clyde, |agent, _| agent.set_answering(Answering { answer_after: None, ..answering(clyde) }));
    let placed = call(&mut world, bonnie);
    world.at(bonnie, |agent, now| agent.cancel(now, placed));
    assert_eq!(world.labels(), ["INVITE"]);
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["INVITE", "180 INVITE", "CANCEL", "200 CANCEL", "487 INVITE", "ACK"]);
    assert_eq!(world.events_of(bonnie), [Event::Cancelled { call: placed }]);
}

#[test]
fn a_cancel_that_crosses_the_answer_ends_in_a_bye() {
    let (mut world, bonnie, clyde) = pair();
    let placed = call(&mut world, bonnie);
    // 5 ms out, answered after 100 ms: at 107 ms the 200 is on its way.
    world.run_for(Duration::from_millis(107));
    world.at(bonnie, |agent, now| agent.cancel(now, placed));
    world.run_for(SECOND * 2);
    assert_eq!(world.labels(), ["INVITE", "180 INVITE", "200 INVITE", "CANCEL", "ACK", "BYE", "200 CANCEL", "200 BYE"]);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Ended { call: placed, by_us: true, code: 200 }));
    assert_eq!(world.agents[&clyde].calls(), 0);
}

#[test]
fn hanging_up_a_ringing_incoming_call_declines_it() {
    let (mut world, bonnie, clyde) = pair();
    world.at(clyde, |agent, _| agent.set_answering(Answering { answer_after: None, ..answering(clyde) }));
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    world.at(clyde, |agent, now| agent.hang_up(now, taken));
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Failed { call: placed, code: 603 }));
    assert_eq!(world.events_of(clyde).last(), Some(&Event::Failed { call: taken, code: 603 }));
}

#[test]
fn both_sides_can_reinvite() {
    let (mut world, bonnie, clyde) = pair();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    world.forget();
    let moved = SocketAddr::from(([10, 0, 9, 9], 7_000));
    world.at(bonnie, |agent, now| agent.reinvite(now, placed, moved));
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["INVITE", "200 INVITE", "ACK"]);
    assert_eq!(world.events_of(bonnie), [Event::Reinvited { call: placed, code: 200 }]);
    assert_eq!(world.events_of(clyde), [Event::Reinvited { call: taken, code: 200 }]);
    assert_eq!(world.agents[&clyde].remote_media(taken), Some(moved));
    world.at(clyde, |agent, now| agent.reinvite(now, taken, moved));
    world.run_for(SECOND);
    assert_eq!(world.agents[&bonnie].remote_media(placed), Some(moved));
    world.at(clyde, |agent, now| agent.hang_up(now, taken));
    world.run_for(SECOND);
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (0, 0));
}

#[test]
fn reinvites_that_cross_are_both_refused_with_491() {
    let (mut world, bonnie, clyde) = pair();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    world.forget();
    world.at(bonnie, |agent, now| agent.reinvite(now, placed, media(bonnie)));
    world.at(clyde, |agent, now| agent.reinvite(now, taken, media(clyde)));
    world.run_for(SECOND);
    assert_eq!(world.sent("491 INVITE").len(), 2);
    assert_eq!(world.events_of(bonnie), [Event::Reinvited { call: placed, code: 491 }]);
    assert_eq!(world.events_of(clyde), [Event::Reinvited { call: taken, code: 491 }]);
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (1, 1), "the session stays as it was");
}

#[test]
fn a_phone_that_moved_is_found_after_its_next_request() {
    let (mut world, bonnie, clyde) = pair();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    let new = address(77);
    let mut agent = world.agents.remove(&bonnie).expect("the test made this phone");
    agent.move_to(new);
    assert_eq!(agent.account().contact, new);
    world.agents.insert(new, agent);
    world.forget();
    world.at(new, |agent, now| agent.reinvite(now, placed, media(new)));
    world.run_for(SECOND);
    let invite = world.sent("INVITE")[0];
    assert_eq!(invite.header("Contact"), Some("<sip:bonnie@10.0.0.77:5060>".to_owned()));
    world.at(clyde, |agent, now| agent.hang_up(now, taken));
    world.run_for(SECOND);
    assert_eq!(world.sent("BYE")[0].to, new);
    assert_eq!(world.agents[&new].calls(), 0);
}

#[test]
fn hanging_up_at_the_same_time_ends_the_call_on_both_sides() {
    let (mut world, bonnie, clyde) = pair();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    world.at(bonnie, |agent, now| agent.hang_up(now, placed));
    world.at(clyde, |agent, now| agent.hang_up(now, taken));
    world.run_for(SECOND);
    assert_eq!(world.sent("200 BYE").len(), 2);
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (0, 0));
}

#[test]
fn a_call_into_the_void_fails_after_32_seconds() {
    let (mut world, bonnie, clyde) = pair();
    world.agents.remove(&clyde);
    let start = world.now;
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND * 31);
    assert!(world.events.is_empty());
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie), [Event::Failed { call: placed, code: 408 }]);
    let times: Vec<u128> = world.wire.iter().map(|sent| sent.at.saturating_since(start).as_millis()).collect();
    assert_eq!(times, [0, 500, 1_500, 3_500, 7_500, 15_500, 31_500], "timer A of RFC 3261 §17.1.1.2");
}

#[test]
fn a_second_branch_that_answers_gets_an_ack_and_a_bye() {
    let (mut world, bonnie, clyde) = pair();
    call(&mut world, bonnie);
    world.run_for(SECOND);
    let answer = world.sent("200 INVITE")[0];
    let tag = answer.with(|message| message.to().and_then(|to| to.tag()).map(text)).expect("a 200 has a To tag");
    let other = text(&answer.bytes).replace(&tag, "another-branch");
    world.forget();
    for _ in 0..2 {
        world.inject(clyde, bonnie, other.as_bytes());
        world.run_for(SECOND);
    }
    assert_eq!(world.labels(), ["200 INVITE", "ACK", "BYE", "481 BYE", "200 INVITE", "ACK"]);
    assert!(world.sent("BYE")[0].header("To").is_some_and(|to| to.ends_with(";tag=another-branch")));
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (1, 1));
    assert!(world.events.is_empty(), "the call that is up is not disturbed");
}

#[test]
fn extra_headers_travel_in_the_invite() {
    let (mut world, bonnie, _) = pair();
    world.at(bonnie, |agent, now| {
        agent.call_with(now, "sip:clyde@example.com", media(bonnie), "X-Tandem-Origin: backend a\nX-Two: 2")
    });
    let invite = world.sent("INVITE")[0];
    assert_eq!(invite.header("X-Tandem-Origin"), Some("backend a".to_owned()));
    assert_eq!(invite.header("X-Two"), Some("2".to_owned()));
}

/// A request of the test's own, to Clyde.
fn request(method: &str, branch: &str, lines: &str, cseq: u32) -> Vec<u8> {
    format!(
        "{method} sip:clyde@10.0.0.2 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.9:5060;branch=z9hG4bK{branch}\r\n\
         From: <sip:test@example.com>;tag=t\r\nCall-ID: hand-made\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n\
         Contact: <sip:test@10.0.0.9>\r\n{lines}Content-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

#[test]
fn requests_outside_of_calls_get_what_rfc_3261_asks_for() {
    let (mut world, _, clyde) = pair();
    let to = "To: <sip:clyde@example.com>\r\n";
    let in_dialog = "To: <sip:clyde@example.com>;tag=none\r\n";
    let required = "To: <sip:clyde@example.com>\r\nRequire: 100rel, x-nothing\r\n";
    for (number, (method, lines, expected)) in [
        ("OPTIONS", to, "200 OPTIONS"),
        ("MESSAGE", to, "200 MESSAGE"),
        ("REGISTER", to, "405 REGISTER"),
        ("DANCE", to, "501 DANCE"),
        ("BYE", to, "481 BYE"),
        ("BYE", in_dialog, "481 BYE"),
        ("INVITE", in_dialog, "481 INVITE"),
        ("CANCEL", to, "481 CANCEL"),
        ("OPTIONS", required, "420 OPTIONS"),
    ]
    .into_iter()
    .enumerate()
    {
        world.forget();
        let cseq = u32::try_from(number).expect("few cases") + 1;
        world.inject(address(9), clyde, &request(method, &format!("case{number}"), lines, cseq));
        world.run_for(Duration::from_millis(20));
        let answers = world.between(clyde, address(9));
        assert_eq!(answers.last().map(String::as_str), Some(expected), "case {number}");
    }
}

#[test]
fn an_invite_that_a_fork_brought_twice_is_refused_once() {
    let (mut world, _, clyde) = pair();
    let to = "To: <sip:clyde@example.com>\r\n";
    world.inject(address(9), clyde, &request("INVITE", "one", to, 1));
    world.inject(address(9), clyde, &request("INVITE", "two", to, 1));
    world.inject(address(9), clyde, &request("INVITE", "one", to, 1));
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.sent("482 INVITE").len(), 1);
    assert_eq!(world.sent("180 INVITE").len(), 2, "a retransmission gets the last response again");
    assert_eq!(world.agents[&clyde].calls(), 1);
}

#[test]
fn an_invite_without_an_offer_is_answered_with_one() {
    let (mut world, _, clyde) = pair();
    world.inject(address(9), clyde, &request("INVITE", "one", "To: <sip:clyde@example.com>\r\n", 1));
    world.run_for(Duration::from_millis(200));
    let body = world.sent("200 INVITE")[0].with(|message| message.body().to_vec());
    let session = sip::sdp::read(&body).expect("the 200 holds an offer");
    assert_eq!((session.address, session.audio_port), (media(clyde).ip(), media(clyde).port()));
}

#[test]
fn a_request_out_of_order_within_a_call_is_refused() {
    let (mut world, bonnie, clyde) = pair();
    call(&mut world, bonnie);
    world.run_for(SECOND);
    let ack = String::from_utf8(world.sent("ACK")[0].bytes.clone()).expect("our own side writes ASCII");
    let old =
        ack.replace("ACK sip", "INFO sip").replace("CSeq: 1 ACK", "CSeq: 0 INFO").replace("z9hG4bK", "z9hG4bKold");
    world.forget();
    world.inject(bonnie, clyde, old.as_bytes());
    let new = old.replace("CSeq: 0 INFO", "CSeq: 9 INFO").replace("z9hG4bKold", "z9hG4bKnew");
    world.inject(bonnie, clyde, new.as_bytes());
    world.run_for(Duration::from_millis(50));
    assert_eq!(world.labels(), ["INFO", "INFO", "500 INFO", "200 INFO"]);
}

#[test]
fn an_answer_with_a_contact_that_cannot_be_read_is_acknowledged_and_can_be_hung_up() {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(9));
    let placed = call(&mut world, bonnie);
    world.answer_last(200, "Contact: <sip:clyde@10.0.0.2:x>\r\n");
    world.at(bonnie, |agent, now| agent.hang_up(now, placed));
    world.answer_last(200, "");
    assert_eq!(world.labels(), ["INVITE", "200 INVITE", "ACK", "BYE", "200 BYE"]);
    for label in ["ACK", "BYE"] {
        let sent = world.sent(label)[0];
        let uri = sent.with(|message| message.request_line().map(|line| text(line.uri)));
        assert_eq!(uri.as_deref(), Some("sip:clyde@example.com"), "where the INVITE went");
        assert_eq!(sent.to, address(9));
    }
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Ended { call: placed, by_us: true, code: 200 }));
}

/// A session description of the test's own, with these streams.
fn description(streams: &str) -> String {
    format!("v=0\r\no=- 1 1 IN IP4 10.0.0.9\r\ns=-\r\nc=IN IP4 10.0.0.9\r\nt=0 0\r\n{streams}\r\n")
}

fn with_body(message: &str, body: &str) -> String {
    let length = body.len();
    let end = format!("Content-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{body}");
    message.replace("Content-Length: 0\r\n\r\n", &end)
}

/// A request within the call that is up, made of the ACK on the wire.
fn within_the_call(world: &World, method: &str, cseq: u32) -> String {
    let ack = text(&world.sent("ACK")[0].bytes);
    let request = ack.replace("ACK sip", &format!("{method} sip"));
    let request = request.replace("CSeq: 1 ACK", &format!("CSeq: {cseq} {method}"));
    request.replace("z9hG4bK", &format!("z9hG4bK{method}{cseq}"))
}

fn streams_of(sent: &Sent) -> Vec<String> {
    let body = sent.with(|message| text(message.body()));
    body.lines().filter(|line| line.starts_with("m=")).map(str::to_owned).collect()
}

#[test]
fn a_reinvite_without_audio_leaves_the_session_as_it_was_and_further_streams_are_refused() {
    let (mut world, bonnie, clyde) = pair();
    call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    for (streams, cseq) in [("m=audio 4002 RTP/AVP 101", 8), ("m=audio 0 RTP/AVP 0", 9)] {
        let reinvite = with_body(&within_the_call(&world, "INVITE", cseq), &description(streams));
        world.inject(bonnie, clyde, reinvite.as_bytes());
        world.run_for(Duration::from_millis(50));
        assert_eq!(world.labels().last().map(String::as_str), Some("488 INVITE"), "{streams}");
        assert_eq!(world.agents[&clyde].remote_media(taken), Some(media(bonnie)));
        assert_eq!(world.agents[&clyde].calls(), 1);
    }
    let streams = "m=video 5000 RTP/AVP 96\r\nm=audio 4002 RTP/AVP 0\r\nm=text 0 RTP/AVP 98";
    let reinvite = with_body(&within_the_call(&world, "INVITE", 10), &description(streams));
    world.inject(bonnie, clyde, reinvite.as_bytes());
    world.run_for(Duration::from_millis(50));
    let answers = world.sent("200 INVITE");
    let expected = ["m=video 0 RTP/AVP 96", "m=audio 4000 RTP/AVP 0", "m=text 0 RTP/AVP 98"];
    assert_eq!(streams_of(answers[1]), expected);
    let body = answers[1].with(|message| text(message.body()));
    assert!(body.contains(" 2 IN IP4 "), "what was refused is no version of the session: {body}");
    assert_eq!(world.agents[&clyde].remote_media(taken), Some(SocketAddr::from(([10, 0, 0, 9], 4_002))));
}

#[test]
fn the_offer_of_a_call_is_answered_stream_by_stream_or_not_at_all() {
    for (streams, expected) in [
        ("m=audio 4002 RTP/AVP 8\r\nm=video 5000 RTP/AVP 96", "200 INVITE"),
        ("m=audio 4002 RTP/AVP 9 101", "488 INVITE"),
        ("m=audio 0 RTP/AVP 8", "488 INVITE"),
    ] {
        let (mut world, _, clyde) = pair();
        let invite = text(&request("INVITE", "one", "To: <sip:clyde@example.com>\r\n", 1));
        world.inject(address(9), clyde, with_body(&invite, &description(streams)).as_bytes());
        world.run_for(Duration::from_millis(200));
        let answers = world.sent(expected);
        assert_eq!(answers.len(), 1, "{streams}");
        let written = streams_of(answers[0]);
        let is_accepted = expected.starts_with("200");
        assert_eq!(is_accepted, written == ["m=audio 4000 RTP/AVP 8", "m=video 0 RTP/AVP 96"], "{written:?}");
    }
}

#[test]
fn an_update_refreshes_the_dialog_and_its_offer_is_refused() {
    let (mut world, bonnie, clyde) = pair();
    call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    let offer = with_body(&within_the_call(&world, "UPDATE", 8), &description("m=audio 4002 RTP/AVP 0"));
    let refresh = within_the_call(&world, "UPDATE", 9);
    world.forget();
    for update in [offer, refresh] {
        world.inject(bonnie, clyde, update.as_bytes());
        world.run_for(Duration::from_millis(50));
    }
    assert_eq!(world.labels(), ["UPDATE", "488 UPDATE", "UPDATE", "200 UPDATE"]);
    assert_eq!(world.agents[&clyde].remote_media(taken), Some(media(bonnie)));
}

#[test]
fn garbage_and_keep_alives_are_met_with_silence_and_broken_requests_with_400() {
    let (mut world, _, clyde) = pair();
    let agent = world.agents.get_mut(&clyde).expect("the test made this phone");
    for datagram in [&b""[..], b"\r\n\r\n", b"\0\0", b"\x00\x01\x00\x00\x21\x12\xa4\x42", b"SIP/2.0 200 OK\r\n\r\n"] {
        agent.handle_datagram(world.now, address(9), datagram);
        assert_eq!(agent.poll_output(), None, "{datagram:?}");
    }
    world.inject(
        address(9),
        clyde,
        &request("OPTIONS", "one", "To: <sip:clyde@example.com>\r\nMax-Forwards: x\r\n", 1),
    );
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.labels().last().map(String::as_str), Some("400 OPTIONS"));
}
