//! Both ends against each other, without sockets: through nothing, through a proxy that records its route, and through losses.

use super::callee::Callee;
use super::caller::Caller;
use super::outbox::Outbox;
use super::scan::{Field, lines};
use super::{Details, Kind, Pace, Settings};
use crate::report::Failure;
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
                self.caller.datagram(self.now, &bytes, &mut self.to_callee);
            }
        }
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
        assert_eq!(sip::check(&message, &sip::Limits::default()), Ok(()), "{text}");
    }
    assert_eq!(world.sent.first().map(String::len), Some(850));
    let counts = &world.caller.counts;
    assert_eq!((counts.completed, counts.received, world.callee.received), (1, 3, 3));
    assert_eq!((counts.retransmissions, counts.unexpected, world.callee.unexpected), (0, 0, 0));
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
    assert_eq!((counts.completed, counts.latency.count(), counts.received), (1, 2, 2));
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
    assert_eq!((world.callee.received, world.callee.unexpected), (1, 0));
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
        assert_eq!((counts.unexpected, world.callee.unexpected), (0, 0), "lost {lost:?}");
        // A lost 180 is not missed; neither is an ACK that is followed by a BYE.
        let expected = u64::from(lost != [1] && lost != [3]);
        let sent_again = counts.retransmissions + world.callee.retransmissions;
        assert!(sent_again >= expected, "lost {lost:?}: {sent_again}");
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
    assert_eq!((counts.completed, counts.retransmissions, world.caller.under_way()), (0, 10, 0));
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
        world.caller.datagram(world.now, refusal.as_bytes(), &mut world.to_callee);
        let (_, ack) = world.take(true).pop().expect("an ACK");
        let ack = String::from_utf8_lossy(&ack).into_owned();
        assert!(ack.starts_with("ACK sip:c00000000@127.0.0.1:5060 SIP/2.0\r\n"), "{ack}");
        let invite = String::from_utf8_lossy(&invite).into_owned();
        assert_eq!(values(&ack, Field::Via), values(&invite, Field::Via), "the same branch");
        assert_eq!(values(&ack, Field::To), ["<sip:c00000000@127.0.0.1:5060>;tag=9"]);
    }
    let counts = &world.caller.counts;
    assert_eq!(counts.failed.get(&Failure::Status(503)), Some(&1));
    assert_eq!(world.caller.under_way(), 0);
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
    world.now += Duration::from_millis(100);
    world.settle();
    assert_eq!(world.caller.counts.completed, 601);
    let longest = world.caller.counts.lateness.max();
    assert!((98_000..=99_000).contains(&longest), "{longest}");
}

#[test]
fn strangers_are_counted_and_keep_alives_are_not() {
    let mut world = World::new(Kind::Call, rate(0.01), &Details::default());
    for bytes in [&b"\r\n\r\n"[..], b"\0", b""] {
        world.caller.datagram(world.now, bytes, &mut world.to_callee);
        world.callee.datagram(world.now, bytes, address(5061), &mut world.to_caller);
    }
    assert_eq!((world.caller.counts.unexpected, world.callee.unexpected), (0, 0));
    let other = b"SIP/2.0 200 OK\r\nCall-ID: 000000080000000000000000@load\r\nCSeq: 1 INVITE\r\n\r\n";
    for bytes in [&b"nonsense"[..], b"NOTIFY sip:x SIP/2.0\r\n\r\n", other] {
        world.caller.datagram(world.now, bytes, &mut world.to_callee);
        world.callee.datagram(world.now, bytes, address(5061), &mut world.to_caller);
    }
    assert_eq!((world.caller.counts.unexpected, world.callee.unexpected), (3, 3));
}
