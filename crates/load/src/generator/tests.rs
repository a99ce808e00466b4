//! Both ends against each other, without sockets: through nothing, through a proxy that records its route, and through losses.

use super::callee::Callee;
use super::caller::Caller;
use super::counts::Messages;
use super::outbox::Outbox;
use super::scan::{Field, lines};
use super::{Details, Kind, Pace, Settings, UserName};
use crate::report::Failure;
use crate::stream::{Streams, Transport, Trust};
use sip::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// The two ends and what is between them.
struct World {
    now: Instant,
    caller: Caller,
    callee: Callee,
    to_callee: Outbox,
    to_caller: Outbox,
    /// Whether the way leads through a proxy.
    proxied: bool,
    /// Which messages are lost, counted from 0.
    lost: Vec<usize>,
    passed: usize,
    /// Everything that was sent, lost or not.
    sent: Vec<String>,
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl World {
    fn new(kind: Kind, pace: Pace, details: &Details) -> Self {
        let settings = Settings {
            kind,
            pace,
            duration: Duration::from_secs(1),
            balancer: address(5060),
            caller: address(5070),
            callee: address(5080),
        };
        let now = Instant::from_micros(1_000_000);
        Self {
            now,
            caller: Caller::new(7, &settings, details, now),
            callee: Callee::new(7, address(5080)),
            to_callee: Outbox::default(),
            to_caller: Outbox::default(),
            proxied: false,
            lost: Vec::new(),
            passed: 0,
            sent: Vec::new(),
        }
    }

    /// Begins what is due and passes messages until nothing is left to pass.
    fn settle(&mut self) {
        self.caller.handle_timeout(self.now, &mut self.to_callee);
        self.callee.handle_timeout(self.now, &mut self.to_caller);
        for _ in 0..20 {
            for (from, bytes) in self.take(true) {
                assert_eq!(from, address(5060), "the caller sends to the balancer only");
                let bytes = if self.proxied { forwarded(&bytes) } else { bytes };
                self.callee.datagram(self.now, &bytes, address(5061), &mut self.to_caller);
            }
            for (to, bytes) in self.take(false) {
                assert_eq!(to, address(5061), "the callee answers where it was asked");
                let bytes = if self.proxied { returned(&bytes) } else { bytes };
                self.caller.message(self.now, &bytes, address(5060), &mut self.to_callee);
            }
        }
    }

    /// Something that the callee did not say.
    fn tell_caller(&mut self, message: &str) {
        self.caller.message(self.now, message.as_bytes(), address(5060), &mut self.to_callee);
    }

    /// What the caller sent since it was asked last.
    fn hear_caller(&mut self) -> Vec<String> {
        self.caller.handle_timeout(self.now, &mut self.to_callee);
        self.take(true).into_iter().map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    /// What one end sent and what is not lost of it.
    fn take(&mut self, to_callee: bool) -> Vec<(SocketAddr, Vec<u8>)> {
        let outbox = if to_callee { &mut self.to_callee } else { &mut self.to_caller };
        let mut taken = Vec::new();
        for (remote, bytes) in outbox.datagrams() {
            self.sent.push(String::from_utf8_lossy(bytes).into_owned());
            if !self.lost.contains(&self.passed) {
                taken.push((remote, bytes.to_vec()));
            }
            self.passed += 1;
        }
        outbox.clear();
        taken
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = [self.caller.next_deadline(), self.callee.next_deadline()].into_iter().flatten().min();
            match next {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => break,
            }
            self.settle();
        }
        self.now = end;
    }

    fn first_lines(&self) -> Vec<&str> {
        self.sent.iter().map(|text| text.lines().next().unwrap_or_default()).collect()
    }
}

/// What a proxy with two addresses makes of a request: its Via on top, its routes recorded or taken off.
fn forwarded(request: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(request);
    let (first, rest) = text.split_once("\r\n").expect("a start line");
    let kept: String = rest.split_inclusive("\r\n").filter(|line| !line.starts_with("Route: ")).collect();
    let mut out = format!("{first}\r\nVia: SIP/2.0/UDP 127.0.0.1:5061;branch=z9hG4bKproxy\r\n");
    if first.starts_with("INVITE") {
        out.push_str("Record-Route: <sip:127.0.0.1:5061;lr>,<sip:127.0.0.1:5060;lr;t=a,b>\r\n");
    }
    (out + &kept).into_bytes()
}

fn returned(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer);
    let mut lines = text.split_inclusive("\r\n");
    let first = lines.next().expect("a status line").to_owned();
    assert_eq!(lines.next(), Some("Via: SIP/2.0/UDP 127.0.0.1:5061;branch=z9hG4bKproxy\r\n"));
    (first + &lines.collect::<String>()).into_bytes()
}

fn rate(per_second: f64) -> Pace {
    Pace::Rate { per_second }
}

/// The values of one header in a message.
fn values(message: &str, field: Field) -> Vec<String> {
    lines(message.as_bytes())
        .filter(|line| line.field == field)
        .map(|line| String::from_utf8_lossy(line.value).into_owned())
        .collect()
}

#[test]
fn a_call_is_six_messages_of_ordinary_size() {
    let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
    world.settle();
    let starts = world.first_lines();
    assert_eq!(
        starts,
        [
            "INVITE sip:c00000000@127.0.0.1:5060 SIP/2.0",
            "SIP/2.0 180 Ringing",
            "SIP/2.0 200 OK",
            "ACK sip:callee@127.0.0.1:5080 SIP/2.0",
            "BYE sip:callee@127.0.0.1:5080 SIP/2.0",
            "SIP/2.0 200 OK",
        ]
    );
    for text in &world.sent {
        assert!((450..=900).contains(&text.len()), "{} octets:\n{text}", text.len());
        let (head, body) = text.split_once("\r\n\r\n").expect("an empty line");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{text}");
        let message = sip::parse(text.as_bytes(), &sip::Limits::default()).expect("a message");
        assert_eq!(sip::check(&message, &sip::Limits::default()).err(), None, "{text}");
    }
    assert_eq!(world.sent.first().map(String::len), Some(850));
    let counts = &world.caller.counts;
    assert_eq!((counts.completed, counts.latency.count()), (1, 1));
    for messages in [world.caller.messages, world.callee.messages] {
        assert_eq!(messages, Messages { received: 3, ..Messages::default() });
    }
}

#[test]
fn calls_follow_the_recorded_route() {
    let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
    world.proxied = true;
    world.settle();
    assert_eq!(world.caller.counts.completed, 1);
    for method in ["ACK ", "BYE "] {
        let request = world.sent.iter().find(|text| text.starts_with(method)).expect("it was sent");
        let routes: Vec<&str> = request.lines().filter_map(|line| line.strip_prefix("Route: ")).collect();
        assert_eq!(routes, ["<sip:127.0.0.1:5060;lr;t=a,b>", "<sip:127.0.0.1:5061;lr>"], "{request}");
        assert!(values(request, Field::To).iter().all(|to| to.contains(";tag=")), "{request}");
    }
}

#[test]
fn a_registration_answers_its_challenge() {
    let mut world = World::new(Kind::Register, rate(0.01), &Details::default());
    world.settle();
    assert_eq!(
        world.first_lines(),
        [
            "REGISTER sip:127.0.0.1:5060 SIP/2.0",
            "SIP/2.0 401 Unauthorized",
            "REGISTER sip:127.0.0.1:5060 SIP/2.0",
            "SIP/2.0 200 OK",
        ]
    );
    let counts = &world.caller.counts;
    assert_eq!((counts.completed, counts.latency.count(), world.caller.messages.received), (1, 2, 2));
    let last = world.sent.last().expect("it was answered");
    assert_eq!(values(last, Field::Contact), ["<sip:u00000000@127.0.0.1:5070>"]);
    for text in &world.sent {
        assert!((450..=900).contains(&text.len()), "{} octets:\n{text}", text.len());
    }
}

#[test]
fn a_password_makes_true_credentials() {
    let details = Details { password: Some("secret".to_owned()), ..Details::default() };
    let mut world = World::new(Kind::Register, rate(0.01), &details);
    world.settle();
    assert_eq!(world.caller.counts.completed, 1);
    let second = world.sent.get(2).expect("the second REGISTER");
    let message = sip::parse(second.as_bytes(), &sip::Limits::default()).expect("a message");
    let credentials = message.credentials().next().expect("credentials");
    assert!(sip::digest::verify(&credentials, b"REGISTER", b"load", b"load", "secret"));
    assert!(!sip::digest::verify(&credentials, b"REGISTER", b"load", b"load", "other"));
}

#[test]
fn a_ping_is_answered_and_so_is_the_balancers_own() {
    let mut world = World::new(Kind::Options, rate(0.01), &Details::default());
    world.settle();
    assert_eq!(world.caller.counts.completed, 1);
    let own = b"OPTIONS sip:x SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5061;branch=z9hG4bK1\r\nFrom: <sip:x>;tag=1\r\nTo: <sip:x>\r\n\
        Call-ID: 1@tandem\r\nCSeq: 1 OPTIONS\r\n\r\n";
    world.callee.datagram(world.now, own, address(5061), &mut world.to_caller);
    assert_eq!(world.take(false).len(), 1);
    assert_eq!(world.callee.messages, Messages { received: 1, ..Messages::default() });
}

#[test]
fn whatever_is_lost_is_sent_again() {
    // Each of the six messages of a call, and two together.
    for lost in [vec![0], vec![1], vec![2], vec![3], vec![4], vec![5], vec![4, 6], vec![1, 2]] {
        let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
        world.lost.clone_from(&lost);
        world.settle();
        world.pass(Duration::from_secs(10));
        let counts = &world.caller.counts;
        assert_eq!(counts.completed, 1, "lost {lost:?}: {:?}", world.first_lines());
        let messages = world.caller.messages.and(world.callee.messages);
        assert_eq!(messages.unexpected, 0, "lost {lost:?}");
        // A lost 180 is not missed; neither is an ACK that is followed by a BYE.
        let expected = u64::from(lost != [1] && lost != [3]);
        assert!(messages.sent_again >= expected, "lost {lost:?}: {messages:?}");
    }
}

#[test]
fn an_unanswered_request_fails_after_thirty_two_seconds() {
    let mut world = World::new(Kind::Register, Pace::Closed { concurrency: 1 }, &Details::default());
    world.lost = (0..1_000).collect();
    world.settle();
    assert_eq!(world.caller.under_way(), 1);
    world.caller.close();
    world.pass(Duration::from_secs(40));
    let counts = &world.caller.counts;
    assert_eq!(counts.failed.get(&Failure::Timeout), Some(&1));
    assert_eq!((counts.completed, world.caller.messages.sent_again, world.caller.under_way()), (0, 10, 0));
}

#[test]
fn a_refusal_is_acknowledged_and_counted_by_its_code() {
    let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
    world.caller.handle_timeout(world.now, &mut world.to_callee);
    let invite = world.take(true).pop().expect("an INVITE").1;
    let mut refusal =
        String::from_utf8_lossy(&invite).replacen("INVITE sip:c00000000@127.0.0.1:5060 SIP/2.0", "SIP/2.0 503 No", 1);
    refusal = refusal.replace("To: <sip:c00000000@127.0.0.1:5060>", "To: <sip:c00000000@127.0.0.1:5060>;tag=9");
    for _ in 0..2 {
        world.tell_caller(&refusal);
        let ack = world.hear_caller().pop().expect("an ACK");
        assert!(ack.starts_with("ACK sip:c00000000@127.0.0.1:5060 SIP/2.0\r\n"), "{ack}");
        let invite = String::from_utf8_lossy(&invite).into_owned();
        assert_eq!(values(&ack, Field::Via), values(&invite, Field::Via), "the same branch");
        assert_eq!(values(&ack, Field::To), ["<sip:c00000000@127.0.0.1:5060>;tag=9"]);
    }
    let counts = &world.caller.counts;
    assert_eq!(counts.failed.get(&Failure::Status(503)), Some(&1));
    assert_eq!((world.caller.under_way(), world.caller.messages.received_again), (0, 1));
}

#[test]
fn the_closed_loop_keeps_its_number_under_way_and_ends() {
    let details = Details { hold: Duration::from_millis(20), ..Details::default() };
    let mut world = World::new(Kind::Call, Pace::Closed { concurrency: 5 }, &details);
    world.settle();
    assert_eq!((world.caller.under_way(), world.caller.counts.started), (5, 5));
    world.pass(Duration::from_millis(100));
    assert_eq!(world.caller.under_way(), 5);
    assert_eq!(world.caller.counts.completed, 25);
    world.caller.close();
    world.pass(Duration::from_millis(20));
    assert_eq!((world.caller.under_way(), world.caller.counts.completed), (0, 30));
}

#[test]
fn a_rate_is_kept_exactly_and_lateness_is_counted() {
    let mut world = World::new(Kind::Options, rate(1_000.0), &Details::default());
    world.settle();
    world.pass(Duration::from_millis(500));
    assert_eq!(world.caller.counts.started, 501);
    assert_eq!(world.caller.counts.lateness.max(), 0);
    // Asleep for 100 ms: all that is due is begun at once.
    assert_eq!(world.caller.counts.latency.max(), 0);
    world.now += Duration::from_millis(100);
    world.settle();
    assert_eq!(world.caller.counts.completed, 601);
    let longest = world.caller.counts.lateness.max();
    assert!((98_000..=99_000).contains(&longest), "{longest}");
    // They are answered at once, but each was due before: that is the latency that a user would see.
    assert_eq!(world.caller.counts.latency.max(), longest);
    assert_eq!(world.caller.counts.latency.count(), 601);
}

#[test]
fn strangers_are_counted_and_keep_alives_are_not() {
    let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
    for bytes in ["\r\n\r\n", "\0", ""] {
        world.tell_caller(bytes);
        world.callee.datagram(world.now, bytes.as_bytes(), address(5061), &mut world.to_caller);
    }
    assert_eq!(world.caller.messages.and(world.callee.messages), Messages::default());
    let other = "SIP/2.0 200 OK\r\nCall-ID: 000000080000000000000000@load\r\nCSeq: 1 INVITE\r\n\r\n";
    for bytes in ["nonsense", "PUBLISH sip:x SIP/2.0\r\n\r\n", "SIP/2.0 200 OK\r\n\r\n"] {
        world.tell_caller(bytes);
        world.callee.datagram(world.now, bytes.as_bytes(), address(5061), &mut world.to_caller);
    }
    assert_eq!((world.caller.messages.unexpected, world.callee.messages.unexpected), (3, 3));
    world.tell_caller(other);
    assert_eq!((world.caller.messages.unexpected, world.caller.messages.strays), (3, 1));
}

#[test]
fn the_callee_tells_a_repetition_from_a_latecomer() {
    let mut world = World::new(Kind::Call, Pace::Closed { concurrency: 1 }, &Details::default());
    let first = world.hear_caller().pop().expect("an INVITE");
    let second = first.replace("000000070000000000000000", "000000070000000000000001");
    assert_ne!(first, second);
    let mut answers = Vec::new();
    for invite in [&first, &first, &second, &first] {
        world.callee.datagram(world.now, invite.as_bytes(), address(5061), &mut world.to_caller);
        answers.push(world.take(false).len());
    }
    assert_eq!(
        answers,
        [2, 1, 2, 0],
        "180 and 200, the 200 again, those of the next call, nothing for one that is over"
    );
    assert_eq!(world.callee.messages, Messages { received: 4, received_again: 2, ..Messages::default() });
    let stranger = first.replace("0000000700000000", "0000000800000000");
    world.callee.datagram(world.now, stranger.as_bytes(), address(5061), &mut world.to_caller);
    let refusal = world.take(false).pop().expect("silence would say that we are dead").1;
    assert!(refusal.starts_with(b"SIP/2.0 486 "), "{}", String::from_utf8_lossy(&refusal));
    assert_eq!((world.callee.messages.strays, world.callee.messages.unexpected), (1, 0));
}

#[test]
fn what_is_begun_in_the_warm_up_does_not_count() {
    let details = Details { warm_up: Duration::from_millis(100), ..Details::default() };
    let mut world = World::new(Kind::Options, rate(100.0), &details);
    world.lost = vec![0];
    world.settle();
    world.pass(Duration::from_millis(195));
    let counts = &world.caller.counts;
    assert_eq!((counts.started, counts.completed, counts.latency.count(), counts.lateness.count()), (10, 10, 10, 10));
    world.caller.give_up(world.now, &mut world.to_callee);
    let counts = &world.caller.counts;
    assert!(counts.failed.is_empty(), "{:?}", counts.failed);
    assert_eq!(counts.warm_up_failures, 1);
}

#[test]
fn a_count_ends_the_load_at_either_pace() {
    for pace in [rate(1_000.0), Pace::Closed { concurrency: 4 }] {
        let details = Details { count: Some(10), hold: Duration::from_millis(1), ..Details::default() };
        let mut world = World::new(Kind::Call, pace, &details);
        world.settle();
        world.pass(Duration::from_millis(100));
        assert!(world.caller.is_closed());
        let counts = &world.caller.counts;
        assert_eq!((counts.started, counts.completed, world.caller.under_way()), (10, 10, 0));
    }
}

#[test]
fn what_was_due_before_the_end_is_begun_however_late() {
    let mut world = World::new(Kind::Options, rate(10.0), &Details::default());
    world.settle();
    let end = world.now + Duration::from_secs(1);
    world.now = end + Duration::from_millis(500);
    world.caller.close_at(world.now, end, &mut world.to_callee);
    world.settle();
    assert_eq!((world.caller.counts.started, world.caller.counts.completed), (10, 10));
    assert_eq!(world.caller.counts.latency.max(), 1_400_000);
}

#[test]
fn in_a_hurry_no_call_is_held() {
    let details = Details { hold: Duration::from_secs(3_600), ..Details::default() };
    let mut world = World::new(Kind::Call, Pace::Closed { concurrency: 2 }, &details);
    world.settle();
    assert_eq!(world.caller.under_way(), 2);
    let ringing = World::new(Kind::Call, Pace::Closed { concurrency: 1 }, &details);
    for mut world in [world, ringing] {
        // The second one has not even sent its INVITE.
        world.caller.handle_timeout(world.now, &mut world.to_callee);
        world.caller.close();
        world.caller.hang_up_all(world.now, &mut world.to_callee);
        world.settle();
        assert_eq!(world.caller.under_way(), 0);
        assert!(world.caller.counts.completed > 0 && world.caller.counts.failed.is_empty());
    }
}

/// An answer to `request` with the lines `more`, and a tag in To.
fn answer(request: &str, status: &str, more: &str) -> String {
    let copied: String = request
        .split_inclusive("\r\n")
        .filter(|line| ["Via:", "From:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name)))
        .collect();
    let to = values(request, Field::To).pop().expect("requests have a To");
    format!("SIP/2.0 {status}\r\n{copied}To: {to};tag=9\r\n{more}Content-Length: 0\r\n\r\n")
}

#[test]
fn a_call_is_placed_again_with_credentials() {
    let details = Details {
        password: Some("secret".to_owned()),
        caller_name: "1###".parse::<UserName>().expect("a pattern"),
        callee_name: "600".parse::<UserName>().expect("a pattern"),
        first_user: 42,
        domain: Some("example.com".to_owned()),
        ..Details::default()
    };
    let mut world = World::new(Kind::Call, rate(0.01), &details);
    let first = world.hear_caller().pop().expect("an INVITE");
    assert!(first.starts_with("INVITE sip:600@example.com SIP/2.0\r\n"), "{first}");
    let challenge = "WWW-Authenticate: Digest realm=\"pbx\", nonce=\"n1\", algorithm=SHA-256, qop=\"auth\"\r\n";
    world.tell_caller(&answer(&first, "401 Unauthorized", challenge));
    let [ack, again] = <[String; 2]>::try_from(world.hear_caller()).expect("an ACK and an INVITE");
    assert!(ack.starts_with("ACK sip:600@example.com ") && ack.contains("CSeq: 1 ACK\r\n"), "{ack}");
    assert_eq!(values(&ack, Field::Via), values(&first, Field::Via));
    assert_ne!(values(&again, Field::Via), values(&first, Field::Via), "a transaction of its own");
    let message = sip::parse(again.as_bytes(), &sip::Limits::default()).expect("a message");
    assert_eq!(sip::check(&message, &sip::Limits::default()).err(), None, "{again}");
    let credentials = message.credentials().next().expect("credentials");
    assert_eq!(credentials.username(), Some(&b"1042"[..]));
    assert!(sip::digest::verify(&credentials, b"INVITE", b"pbx", b"n1", "secret"));
    world.tell_caller(&answer(&again, "200 OK", "Contact: <sip:600@192.0.2.1>\r\n"));
    let [ack, bye] = <[String; 2]>::try_from(world.hear_caller()).expect("an ACK and a BYE");
    assert!(ack.contains("CSeq: 2 ACK\r\n") && bye.contains("CSeq: 3 BYE\r\n"), "{ack}{bye}");
    world.tell_caller(&answer(&bye, "200 OK", ""));
    assert_eq!((world.caller.counts.completed, world.caller.counts.latency.count()), (1, 2));
}

#[test]
fn wrong_credentials_fail_with_their_status() {
    let details = Details { password: Some("wrong".to_owned()), ..Details::default() };
    let mut world = World::new(Kind::Register, rate(0.01), &details);
    for _ in 0..2 {
        let request = world.hear_caller().pop().expect("a REGISTER");
        let challenge = "WWW-Authenticate: Digest realm=\"pbx\", nonce=\"n1\"\r\n";
        world.tell_caller(&answer(&request, "401 Unauthorized", challenge));
    }
    assert_eq!(world.caller.counts.failed.get(&Failure::Status(401)), Some(&1));
    assert_eq!(world.caller.under_way(), 0);
}

#[test]
fn a_call_that_rings_on_is_taken_back() {
    let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
    let invite = world.hear_caller().pop().expect("an INVITE");
    world.tell_caller(&answer(&invite, "180 Ringing", ""));
    world.caller.give_up(world.now, &mut world.to_callee);
    let cancel = world.hear_caller().pop().expect("a CANCEL");
    assert!(cancel.starts_with("CANCEL sip:c00000000@127.0.0.1:5060 SIP/2.0\r\n"), "{cancel}");
    assert_eq!(values(&cancel, Field::Via), values(&invite, Field::Via));
    let message = sip::parse(cancel.as_bytes(), &sip::Limits::default()).expect("a message");
    assert_eq!(sip::check(&message, &sip::Limits::default()).err(), None, "{cancel}");
    world.tell_caller(&answer(&cancel, "200 OK", ""));
    world.tell_caller(&answer(&invite, "487 Request Terminated", ""));
    assert!(world.hear_caller().pop().is_some_and(|ack| ack.starts_with("ACK ")));
    // Or it was answered just then: it must not stay up.
    world.tell_caller(&answer(&invite, "200 OK", "Contact: <sip:600@192.0.2.1>\r\n"));
    let [ack, bye] = <[String; 2]>::try_from(world.hear_caller()).expect("an ACK and a BYE");
    assert!(ack.starts_with("ACK sip:600@192.0.2.1 ") && bye.starts_with("BYE sip:600@192.0.2.1 "), "{ack}{bye}");
    assert_eq!(world.caller.counts.failed.get(&Failure::Unfinished), Some(&1));
    assert_eq!(world.caller.messages.unexpected, 0);
}

#[test]
fn a_server_may_ask_and_hang_up() {
    let details = Details { hold: Duration::from_secs(10), ..Details::default() };
    let mut world = World::new(Kind::Call, rate(0.01), &details);
    let invite = world.hear_caller().pop().expect("an INVITE");
    world.tell_caller(&answer(&invite, "200 OK", "Contact: <sip:600@192.0.2.1>\r\n"));
    world.hear_caller();
    let call_id = values(&invite, Field::CallId).pop().expect("a Call-ID");
    let mut asked = |method: &str| {
        world.tell_caller(&format!(
            "{method} sip:u@127.0.0.1:5070 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n\
             From: <sip:600@x>;tag=9\r\nTo: <sip:u@x>;tag=1\r\nCall-ID: {call_id}\r\nCSeq: 1 {method}\r\n\r\n"
        ));
        let answer = world.hear_caller().pop().unwrap_or_default();
        (answer.get(8..11).unwrap_or_default().to_owned(), world.caller.under_way())
    };
    assert_eq!(asked("OPTIONS"), ("200".to_owned(), 1));
    assert_eq!(asked("NOTIFY"), ("200".to_owned(), 1));
    assert_eq!(asked("INVITE"), ("488".to_owned(), 1));
    assert_eq!(asked("ACK"), (String::new(), 1));
    assert_eq!(asked("BYE"), ("200".to_owned(), 0));
    assert_eq!(world.caller.counts.failed.get(&Failure::HungUp), Some(&1));
}

#[test]
fn the_balancer_is_asked_whether_it_is_up() {
    let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
    world.caller.close();
    for (status, is_up) in [("503 Service Unavailable", false), ("404 Not Found", true), ("200 OK", true)] {
        world.caller.ping(0, &mut world.to_callee);
        let ping = world.hear_caller().pop().expect("a ping");
        assert!(ping.starts_with("OPTIONS sip:127.0.0.1:5060 SIP/2.0\r\n"), "{ping}");
        let message = sip::parse(ping.as_bytes(), &sip::Limits::default()).expect("a message");
        assert_eq!(sip::check(&message, &sip::Limits::default()).err(), None, "{ping}");
        world.tell_caller(&answer(&ping, status, ""));
        assert_eq!(world.caller.is_balancer_up(), is_up, "{status}");
    }
    assert_eq!((world.caller.messages, world.caller.counts.completed), (Messages::default(), 0));
}

/// Over connections instead of by datagrams.
fn over(transport: Transport, connections: u32) -> Details {
    let streams = Streams { transport, connections, trust: Trust::Anybody, server_name: None, at_once: false };
    Details { streams: Some(streams), ..Details::default() }
}

/// What the caller sent on connections since it was asked last.
fn streamed(world: &mut World) -> Vec<(u32, String)> {
    world.caller.handle_timeout(world.now, &mut world.to_callee);
    let sent =
        world.to_callee.streamed().map(|(on, bytes)| (on, String::from_utf8_lossy(bytes).into_owned())).collect();
    world.to_callee.clear();
    sent
}

#[test]
fn on_a_stream_messages_say_so_and_nothing_is_sent_again() {
    for (transport, via, contact) in [
        (Transport::Tcp, "SIP/2.0/TCP 127.0.0.1;branch=", "<sip:u00000000@127.0.0.1;transport=tcp>"),
        (Transport::Tls, "SIP/2.0/TLS 127.0.0.1;branch=", "<sip:u00000000@127.0.0.1;transport=tls>"),
        (Transport::Ws, "SIP/2.0/WS load.invalid;branch=", "<sip:u00000000@load.invalid;transport=ws>"),
        (Transport::Wss, "SIP/2.0/WSS load.invalid;branch=", "<sip:u00000000@load.invalid;transport=ws>"),
    ] {
        let mut world = World::new(Kind::Register, rate(0.01), &over(transport, 1));
        let [(0, register)] = <[(u32, String); 1]>::try_from(streamed(&mut world)).expect("a REGISTER") else {
            panic!("there is no other connection");
        };
        assert!(values(&register, Field::Via).iter().all(|value| value.starts_with(via)), "{register}");
        assert_eq!(values(&register, Field::Contact), [contact]);
        let message = sip::parse(register.as_bytes(), &sip::Limits::default()).expect("a message");
        assert_eq!(sip::check(&message, &sip::Limits::default()).err(), None, "{register}");
        world.caller.close();
        world.pass(Duration::from_secs(40));
        assert_eq!((world.caller.messages.sent_again, streamed(&mut world)), (0, Vec::new()));
        assert_eq!(world.caller.counts.failed.get(&Failure::Timeout), Some(&1));
    }
}

#[test]
fn a_user_keeps_to_a_connection_and_each_connection_has_an_exchange() {
    let details = Details { users: 10, ..over(Transport::Tcp, 4) };
    let mut world = World::new(Kind::Options, Pace::Closed { concurrency: 4 }, &details);
    let user = |text: &str| text.split_once("<sip:u").and_then(|(_, rest)| rest.get(..8)?.parse::<u32>().ok());
    let first = streamed(&mut world);
    let seen: Vec<(u32, Option<u32>)> = first.iter().map(|(on, text)| (*on, user(text))).collect();
    assert_eq!(seen, [(0, Some(0)), (1, Some(1)), (2, Some(2)), (3, Some(3))]);
    for _ in 0..20 {
        for connection in 0..4 {
            world.caller.lost(world.now, connection, &mut world.to_callee);
        }
        for (on, text) in streamed(&mut world) {
            assert!(user(&text).is_some_and(|user| user < 10 && user % 4 == on), "{on}: {text}");
        }
    }
    assert_eq!(world.caller.counts.failed.get(&Failure::ConnectionLost), Some(&80));
    assert_eq!((world.caller.under_way(), world.caller.counts.completed), (4, 0));
}

#[test]
fn what_goes_on_over_other_connections_is_not_lost_with_one() {
    let details = Details { users: 2, ..over(Transport::Tls, 3) };
    let mut world = World::new(Kind::Register, rate(1_000.0), &details);
    world.now += Duration::from_millis(5);
    let begun: Vec<u32> = streamed(&mut world).iter().map(|(on, _)| *on).collect();
    assert_eq!(begun, [0, 1, 2, 0, 1, 2], "in turns");
    world.caller.close();
    world.caller.lost(world.now, 1, &mut world.to_callee);
    assert_eq!((world.caller.under_way(), world.caller.counts.failed.get(&Failure::ConnectionLost)), (4, Some(&2)));
}
