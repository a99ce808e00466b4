//! Streams through the data plane with the engine behind it, over the loopback interface of a private namespace.
//!
//! What needs the hand on a single connection (queues, opening, two workers at once) is tested beside it, in
//! `src/stream/connections/tests.rs`.
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

mod namespace;

use engine::{Backend, DownCause, Event, Guardian, Limits, Secrets, Service, Settings, Shared, Transport};
use net::{Clock, DataPlane, NetError, StreamCounters, Tap};
use sim::settings::{backend, bare_farm, listener_over, service};
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a valid address")
}

/// A farm without backends; each listener serves both sides.
fn settings(listeners: &[(Transport, &str)], limits: Limits) -> Settings {
    let listeners = listeners.iter().map(|(transport, bind)| listener_over(*transport, address(bind)));
    Settings { farms: vec![bare_farm(listeners.collect())], limits }
}

/// The farm at tcp 127.0.0.1:5060 with one box at tcp 127.0.0.1:5070, which is pinged five times a second.
fn with_box() -> Settings {
    let mut settings = settings(&[(Transport::Tcp, "127.0.0.1:5060")], Limits::default());
    let farm = settings.farms.first_mut().expect("one farm is made");
    farm.backends.push(Backend { transport: Some(Transport::Tcp), ..backend("box", address("127.0.0.1:5070")) });
    let guardian =
        Guardian { interval: PING_EVERY, timeout: Duration::from_millis(150), rise: 1, fall: 2, ..Guardian::options() };
    farm.services.push(Service { guardians: vec![Arc::new(guardian)], ..service("default", vec![0]) });
    settings
}

const PING_EVERY: Duration = Duration::from_millis(200);

/// A running unit with two workers, and what it tells the operator.
struct Unit {
    data_plane: DataPlane,
    events: Receiver<Event>,
}

impl Unit {
    fn start(settings: Settings, tap: Option<Arc<dyn Tap>>) -> Result<Self, NetError> {
        let secrets = Secrets { key_id: 1, key: [7; 16], previous: None, contact_key: [8; 16], epoch: 1 };
        let shared = Shared::new(settings, secrets, 8, Clock::now(), 1_700_000_000_000, 1);
        let (teller, events) = mpsc::channel();
        let told = move |event| {
            // Nobody listens once the test is over.
            let _listening = teller.send(event);
        };
        let (data_plane, _warnings) = DataPlane::start(shared, 2, 8, told, tap)?;
        Ok(Self { data_plane, events })
    }

    fn with(limits: Limits) -> Self {
        let listeners = [(Transport::Tcp, "127.0.0.1:5060"), (Transport::Ws, "127.0.0.1:8080")];
        Self::start(settings(&listeners, limits), None).expect("the ports are free")
    }

    fn streams(&self) -> StreamCounters {
        self.data_plane.counters().streams
    }

    /// Waits until the counters are so.
    fn until(&self, done: impl Fn(&StreamCounters) -> bool) {
        for _ in 0..1_000 {
            if done(&self.streams()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it never came to it: {:?}", self.streams());
    }

    fn until_ended(&self, label: &str, count: u64) {
        self.until(|streams| ended(streams, label) == count);
    }
}

fn ended(streams: &StreamCounters, label: &str) -> u64 {
    streams.ended.iter().find(|(known, _)| *known == label).map_or(0, |(_, count)| *count)
}

fn connect(remote: &str) -> TcpStream {
    let socket = TcpStream::connect(remote).expect("somebody listens");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
    socket
}

/// An OPTIONS for the farm itself.
fn options(socket: &TcpStream, number: u32) -> Vec<u8> {
    let (local, server) = (socket.local_addr().expect("it is connected"), socket.peer_addr().expect("it is connected"));
    format!(
        "OPTIONS sip:{server};transport=tcp SIP/2.0\r\nVia: SIP/2.0/TCP {local};branch=z9hG4bK{number}\r\n\
         Max-Forwards: 70\r\nFrom: <sip:bonnie@{server}>;tag=1\r\nTo: <sip:{server}>\r\nCall-ID: {number}@bonnie\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
    .into_bytes()
}

/// The next message without a body.
fn next(socket: &mut TcpStream) -> String {
    let mut octets = Vec::new();
    while !octets.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        socket.read_exact(&mut octet).expect("a message within five seconds");
        octets.extend_from_slice(&octet);
    }
    String::from_utf8(octets).expect("our messages are text")
}

/// The other end has closed, without a further word.
fn is_closed(socket: &mut TcpStream) -> bool {
    matches!(socket.read(&mut [0]), Ok(0))
}

#[derive(Default)]
struct Seen(Mutex<Vec<Tapped>>);

/// Our end, the peer's, whether it left, and what.
type Tapped = (SocketAddr, SocketAddr, bool, Vec<u8>);

impl Tap for Seen {
    fn packet(&self, local: SocketAddr, remote: SocketAddr, outgoing: bool, bytes: &[u8]) {
        self.0.lock().expect("no thread panicked").push((local, remote, outgoing, bytes.to_vec()));
    }
}

#[test]
fn requests_are_answered_on_their_connection_counted_and_seen() {
    if !namespace::alone("requests_are_answered_on_their_connection_counted_and_seen") {
        return;
    }
    let seen = Arc::new(Seen::default());
    let tap: Arc<dyn Tap> = Arc::clone(&seen) as Arc<dyn Tap>;
    // Datagrams at the same port are somebody else's concern.
    let listeners = [(Transport::Udp, "127.0.0.1:5060"), (Transport::Tcp, "127.0.0.1:5060")];
    let unit = Unit::start(settings(&listeners, Limits::default()), Some(tap)).expect("the ports are free");
    let mut socket = connect("127.0.0.1:5060");
    let requests = [1, 2, 3].map(|number| options(&socket, number));
    // Two and a half at once, and a keep-alive behind.
    let (beginning, rest) = requests[2].split_at(40);
    socket.write_all(&[&requests[0], &requests[1], beginning].concat()).expect("the connection is up");
    for number in ["1@bonnie", "2@bonnie"] {
        let answer = next(&mut socket);
        assert!(answer.starts_with("SIP/2.0 ") && answer.contains(number), "{answer}");
    }
    socket.write_all(rest).expect("the connection is up");
    assert!(next(&mut socket).contains("3@bonnie"));
    socket.write_all(b"\r\n\r\n").expect("the connection is up");
    let mut pong = [0; 2];
    socket.read_exact(&mut pong).expect("an answer within five seconds");
    assert_eq!(&pong, b"\r\n");
    unit.until(|streams| streams.sent == 3);
    let (streams, all) = (unit.streams(), unit.data_plane.counters());
    assert_eq!((streams.accepted, streams.opened, streams.connections), (1, 0, 1));
    assert_eq!((streams.received, streams.not_sent, all.received, all.sent), (3, 0, 0, 0));
    let remote = socket.local_addr().expect("it is connected");
    drop(socket);
    unit.until(|streams| streams.connections == 0 && ended(streams, "peer_closed") == 1);
    unit.data_plane.stop();
    let seen = seen.0.lock().expect("no thread panicked");
    assert!(seen.iter().all(|(local, peer, _, _)| *local == address("127.0.0.1:5060") && *peer == remote));
    let incoming: Vec<&Vec<u8>> =
        seen.iter().filter(|(_, _, outgoing, _)| !outgoing).map(|(_, _, _, bytes)| bytes).collect();
    assert_eq!(incoming, requests.iter().collect::<Vec<&Vec<u8>>>());
    assert_eq!(seen.len(), 6);
}

#[test]
fn many_connections_are_served_by_all_workers() {
    if !namespace::alone("many_connections_are_served_by_all_workers") {
        return;
    }
    // Without a box each answer is a refusal, and those are bounded.
    let limits = Limits { errors_per_source: 1_000, ..Limits::default() };
    let unit = Unit::with(limits);
    let mut sockets: Vec<TcpStream> = (0..40).map(|_| connect("127.0.0.1:5060")).collect();
    for round in 0..3 {
        for (number, socket) in (0..).zip(&mut sockets) {
            let request = options(socket, round * 100 + number);
            socket.write_all(&request).expect("the connection is up");
        }
        for (number, socket) in (0..).zip(&mut sockets) {
            let call_id = format!("Call-ID: {}@bonnie\r\n", round * 100 + number);
            assert!(next(socket).contains(&call_id));
        }
    }
    let streams = unit.streams();
    assert_eq!((streams.accepted, streams.connections, streams.received), (40, 40, 120));
}

#[test]
fn no_more_get_in_than_the_limits_say() {
    if !namespace::alone("no_more_get_in_than_the_limits_say") {
        return;
    }
    let unit = Unit::with(Limits { connections: 3, connections_per_source: 2, ..Limits::default() });
    let from = |source: [u8; 4]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("the address is ours");
        socket.connect(&address("127.0.0.1:5060").into()).expect("somebody listens");
        TcpStream::from(socket)
    };
    let (first, _second) = (from([127, 0, 0, 1]), from([127, 0, 0, 1]));
    unit.until(|streams| streams.accepted == 2);
    assert!(is_closed(&mut from([127, 0, 0, 1])));
    unit.until_ended("too_many_of_source", 1);
    let _third = from([127, 0, 0, 2]);
    unit.until(|streams| streams.accepted == 3);
    assert!(is_closed(&mut from([127, 0, 0, 3])));
    unit.until_ended("too_many", 1);
    drop(first);
    unit.until(|streams| streams.connections == 2);
    let mut next_one = from([127, 0, 0, 1]);
    let request = options(&next_one, 1);
    next_one.write_all(&request).expect("the connection is up");
    assert!(next(&mut next_one).starts_with("SIP/2.0 "));
}

#[test]
fn who_is_slow_or_silent_is_left() {
    if !namespace::alone("who_is_slow_or_silent_is_left") {
        return;
    }
    let limits = Limits {
        connection_idle: Duration::from_secs(2),
        partial_message: Duration::from_millis(300),
        handshake: Duration::from_millis(300),
        ..Limits::default()
    };
    let unit = Unit::with(limits);
    // One says nothing, one stops within a message, one does not ask for the upgrade, one keeps itself alive.
    let (mut silent, mut slow, mut browser) =
        (connect("127.0.0.1:5060"), connect("127.0.0.1:5060"), connect("127.0.0.1:8080"));
    let mut alive = connect("127.0.0.1:5060");
    let request = options(&slow, 1);
    slow.write_all(request.get(..60).expect("it is longer")).expect("the connection is up");
    assert!(is_closed(&mut slow) && is_closed(&mut browser));
    unit.until_ended("message_timed_out", 1);
    unit.until_ended("handshake_timed_out", 1);
    for _ in 0..8 {
        alive.write_all(b"\r\n\r\n").expect("the connection is up");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(is_closed(&mut silent));
    drop((silent, slow, browser));
    unit.until(|streams| ended(streams, "idle") == 1 && streams.connections == 1);
}

#[test]
fn a_fault_or_a_reset_of_one_peer_costs_nobody_else() {
    if !namespace::alone("a_fault_or_a_reset_of_one_peer_costs_nobody_else") {
        return;
    }
    let unit = Unit::with(Limits::default());
    let mut other = connect("127.0.0.1:5060");
    let mut confused = connect("127.0.0.1:5060");
    confused.write_all(b"GET / HTTP/1.1\r\nHost: pbx\r\n\r\n").expect("the connection is up");
    assert!(is_closed(&mut confused));
    unit.until(|streams| streams.last_fault.is_some());
    let fault = unit.streams().last_fault.expect("one was at fault");
    assert_eq!(ended(&unit.streams(), "length_missing"), 1);
    assert_eq!(fault.remote, confused.local_addr().expect("it was connected"));
    assert_eq!(fault.text, "a message in the stream has no content length");
    let mut leaving = connect("127.0.0.1:5060");
    leaving.write_all(b"OPTIONS sip:127.0.0.1 SIP/2.0\r\nVia: ").expect("the connection is up");
    unit.until(|streams| streams.accepted == 3);
    SockRef::from(&leaving).set_linger(Some(Duration::ZERO)).expect("the socket is open");
    drop(leaving);
    unit.until_ended("reset", 1);
    let request = options(&other, 1);
    other.write_all(&request).expect("the connection is up");
    assert!(next(&mut other).starts_with("SIP/2.0 "));
}

#[test]
fn a_box_is_pinged_over_one_connection_from_where_the_farm_listens() {
    if !namespace::alone("a_box_is_pinged_over_one_connection_from_where_the_farm_listens") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:5070").expect("the namespace is ours");
    let unit = Unit::start(with_box(), None).expect("the port is free");
    for round in 1..=2 {
        let (mut socket, remote) = listener.accept().expect("the listener is open");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
        if round == 1 {
            assert_eq!(remote, address("127.0.0.1:5060"));
        }
        for _ in 0..3 {
            let ping = next(&mut socket);
            assert!(ping.starts_with("OPTIONS sip:127.0.0.1:5070") && ping.contains("Via: SIP/2.0/TCP "), "{ping}");
            let lines = ping.lines().filter(|line| {
                ["Via", "From", "To", "Call-ID", "CSeq"].iter().any(|name| line.starts_with(&format!("{name}:")))
            });
            let answer = lines.fold("SIP/2.0 200 OK\r\n".to_owned(), |text, line| text + line + "\r\n");
            let answer = answer + "Content-Length: 0\r\n\r\n";
            socket.write_all(answer.as_bytes()).expect("the connection is up");
        }
        // The answer to the last ping is read before the end is.
        unit.until(|streams| streams.received == round * 3);
        assert_eq!(unit.streams().opened, round);
        // The box ends the connection; the next ping opens another.
    }
    assert!(unit.events.try_iter().all(|event| !matches!(event, Event::BackendDown { .. })));
}

/// Its NAT would forget it, and it cannot ping by itself.
#[test]
fn a_browser_is_pinged_and_stays() {
    if !namespace::alone("a_browser_is_pinged_and_stays") {
        return;
    }
    let unit = Unit::with(Limits { connection_idle: Duration::from_secs(4), ..Limits::default() });
    let mut browser = connect("127.0.0.1:8080");
    let upgrade = "GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: sip\r\n\r\n";
    browser.write_all(upgrade.as_bytes()).expect("the connection is up");
    assert!(next(&mut browser).starts_with("HTTP/1.1 101 "));
    // For longer than it may be idle.
    for _ in 0..2 {
        let mut ping = [0; 2];
        browser.read_exact(&mut ping).expect("a ping within five seconds");
        assert_eq!(ping, [0x89, 0]);
        browser.write_all(&[0x8a, 0x80, 1, 2, 3, 4]).expect("the connection is up");
    }
    assert_eq!((ended(&unit.streams(), "idle"), unit.streams().connections), (0, 1));
    // Now it says nothing any more: one ping more, and the close.
    let mut rest = Vec::new();
    browser.read_to_end(&mut rest).expect("the end within five seconds");
    assert_eq!(rest, [0x89, 0, 0x88, 2, 0x03, 0xe8]);
    unit.until_ended("idle", 1);
}

/// Their keep-alives are looked for every four seconds, which a pong may take; a request is heard at once.
#[test]
fn connections_that_doze_are_answered_in_time_and_their_requests_at_once() {
    if !namespace::alone("connections_that_doze_are_answered_in_time_and_their_requests_at_once") {
        return;
    }
    // Without a box each answer is a refusal, and those are bounded.
    let unit = Unit::with(Limits { errors_per_source: 1_000, ..Limits::default() });
    let mut sockets: Vec<TcpStream> = (0..8).map(|_| connect("127.0.0.1:5060")).collect();
    unit.until(|streams| streams.dozing == 8);
    let asked = Clock::now();
    for socket in &mut sockets {
        socket.write_all(b"\r\n\r\n").expect("the connection is up");
    }
    for socket in &mut sockets {
        let mut pong = [0; 2];
        socket.read_exact(&mut pong).expect("an answer within five seconds");
        assert_eq!(&pong, b"\r\n");
    }
    let took = Clock::now().saturating_since(asked);
    // One worker has four of them at least, and looks at one of those in a quarter of a second.
    assert!(took > Duration::from_millis(500) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(unit.streams().dozing, 8, "keep-alives wake nobody");
    for (number, socket) in (0..).zip(&mut sockets) {
        let request = options(socket, number);
        let asked = Clock::now();
        socket.write_all(&request).expect("the connection is up");
        assert!(next(socket).starts_with("SIP/2.0 "));
        let took = Clock::now().saturating_since(asked);
        assert!(took < Duration::from_millis(500), "{took:?}");
    }
}

#[test]
fn a_box_that_refuses_the_connection_is_down() {
    if !namespace::alone("a_box_that_refuses_the_connection_is_down") {
        return;
    }
    let unit = Unit::start(with_box(), None).expect("the port is free");
    let event = unit.events.recv_timeout(Duration::from_secs(5)).expect("the box is not there");
    assert!(matches!(event, Event::BackendDown { cause: DownCause::Check { .. }, .. }), "{event:?}");
    unit.until(|streams| ended(streams, "connect_refused") >= 1 && streams.not_sent >= 1);
}

#[test]
fn a_listener_that_is_gone_lets_nobody_in_and_its_connections_go_on() {
    if !namespace::alone("a_listener_that_is_gone_lets_nobody_in_and_its_connections_go_on") {
        return;
    }
    let limits = Limits::default;
    let unit = Unit::with(limits());
    let mut stays = connect("127.0.0.1:5060");
    unit.until(|streams| streams.accepted == 1);
    let without = settings(&[(Transport::Ws, "127.0.0.1:8080")], limits());
    unit.data_plane.apply_settings(&without).expect("nothing is opened");
    // As soon as both workers have seen it.
    for attempt in 0.. {
        assert!(attempt < 500, "somebody is still let in");
        if TcpStream::connect("127.0.0.1:5060").is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // The engine still has the old settings here.
    let request = options(&stays, 1);
    stays.write_all(&request).expect("the connection is up");
    assert!(next(&mut stays).starts_with("SIP/2.0 "));
    // It may come back, also as another transport's: the port is not in use any more.
    for transport in [Transport::Tcp, Transport::Ws] {
        let again = settings(&[(transport, "127.0.0.1:5060"), (Transport::Ws, "127.0.0.1:8080")], limits());
        unit.data_plane.apply_settings(&again).expect("the port is ours");
        connect("127.0.0.1:5060");
    }
}

#[test]
fn an_address_is_ours_alone() {
    if !namespace::alone("an_address_is_ours_alone") {
        return;
    }
    let tcp = |bind| settings(&[(Transport::Tcp, bind)], Limits::default());
    let first = Unit::start(tcp("127.0.0.1:5060"), None).expect("the port is free");
    for bind in ["127.0.0.1:5060", "0.0.0.0:5060"] {
        let failure = Unit::start(tcp(bind), None).err().expect("the address is taken");
        assert_eq!(
            failure.to_string(),
            format!("address in use: another program holds tcp {bind}; `ss -tlpn` names it")
        );
    }
    let failure = Unit::start(tcp("192.0.2.1:5060"), None).err().expect("the address is nobody's");
    assert!(matches!(failure, NetError::AddressUnavailable { .. }), "{failure}");
    // Two kinds of streams at one port would take each other's connections.
    let both = settings(&[(Transport::Tcp, "127.0.0.1:5062"), (Transport::Ws, "127.0.0.1:5062")], Limits::default());
    let failure = Unit::start(both, None).err().expect("both cannot be had");
    assert!(matches!(failure, NetError::AddressInUse { .. }), "{failure}");
    // Connections that rest after their end are in nobody's way.
    let mut socket = connect("127.0.0.1:5060");
    let request = options(&socket, 1);
    socket.write_all(&request).expect("the connection is up");
    next(&mut socket);
    first.data_plane.stop();
    assert!(is_closed(&mut socket));
    Unit::start(tcp("127.0.0.1:5060"), None).expect("the port is free again").data_plane.stop();
}

/// A file that is being written must not keep requests at an address that a name has left.
#[test]
fn places_change_while_a_certificate_cannot_be_read() {
    if !namespace::alone("places_change_while_a_certificate_cannot_be_read") {
        return;
    }
    let folder = tempfile::tempdir().expect("a place for temporary files");
    let file = folder.path().join("farm.pem");
    let key = rcgen::KeyPair::generate().expect("a key is made");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
    let certificate = params.self_signed(&key).expect("it signs itself");
    std::fs::write(&file, certificate.pem() + &key.serialize_pem()).expect("the folder is ours");
    let mut settings = settings(&[(Transport::Tls, "127.0.0.1:5061")], Limits::default());
    let farm = settings.farms.first_mut().expect("one farm is made");
    farm.certificates = vec![file.display().to_string()];
    let unit = Unit::start(settings.clone(), None).expect("the port is free");
    let shown = unit.data_plane.certificates();
    std::fs::write(&file, "half of it").expect("the folder is ours");
    assert!(unit.data_plane.apply_settings(&settings).is_err());
    assert!(unit.data_plane.apply_places(&settings).is_ok());
    assert_eq!((unit.data_plane.certificates(), shown.len()), (shown.clone(), 1));
    assert!(unit.data_plane.follow_certificates(&settings).is_err(), "the file is looked at again");
}
