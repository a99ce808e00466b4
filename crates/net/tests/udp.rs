//! The data plane with the engine behind it, over the loopback interface of a private namespace.
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

mod namespace;

use engine::{Limits, Secrets, Settings, Shared, Transport};
use net::{Clock, DataPlane, NetError, Tap};
use sim::settings::{bare_farm, listener_over};
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn settings(binds: &[&str]) -> Settings {
    let listener = |bind: &&str| listener_over(Transport::Udp, bind.parse().expect("a valid address"));
    Settings { farms: vec![bare_farm(binds.iter().map(listener).collect())], limits: Limits::default() }
}

fn start(settings: Settings, workers: usize, tap: Option<Arc<dyn Tap>>) -> Result<DataPlane, NetError> {
    let secrets = Secrets { key_id: 1, key: [7; 16], previous: None, contact_key: [8; 16], epoch: 1 };
    let shared = Shared::new(settings, secrets, 8, Clock::now(), 1_700_000_000_000, 1);
    DataPlane::start(shared, workers, 8, |_| (), tap).map(|(udp, _)| udp)
}

fn client(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("the namespace is ours");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
    socket
}

/// Sends an OPTIONS for the farm itself and returns the answer.
fn ask(socket: &UdpSocket, server: &str, number: u32) -> Vec<u8> {
    let local = socket.local_addr().expect("the socket is bound");
    let text = format!(
        "OPTIONS sip:{server} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK{number};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:bonnie@{server}>;tag=1\r\nTo: <sip:{server}>\r\nCall-ID: {number}@bonnie\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    );
    socket.send_to(text.as_bytes(), server).expect("the loopback interface is up");
    let mut buffer = [0; 2_000];
    let (length, from) = socket.recv_from(&mut buffer).expect("an answer within five seconds");
    assert_eq!(from.to_string(), server, "answered from where it was asked");
    buffer.get(..length).expect("the length is within the buffer").to_vec()
}

#[derive(Default)]
struct Seen(Mutex<Vec<(SocketAddr, SocketAddr, bool, usize)>>);

impl Tap for Seen {
    fn packet(&self, local: SocketAddr, remote: SocketAddr, outgoing: bool, bytes: &[u8]) {
        self.0.lock().expect("no thread panicked").push((local, remote, outgoing, bytes.len()));
    }
}

#[test]
fn requests_are_answered_counted_and_seen() {
    if !namespace::alone("requests_are_answered_counted_and_seen") {
        return;
    }
    let seen = Arc::new(Seen::default());
    let tap: Arc<dyn Tap> = Arc::clone(&seen) as Arc<dyn Tap>;
    let udp = start(settings(&["0.0.0.0:5060", "127.0.0.1:5062"]), 2, Some(tap)).expect("the ports are free");
    let socket = client("127.0.0.1:5070");
    for (number, server) in ["127.0.0.1:5062", "127.0.0.3:5060"].into_iter().enumerate() {
        let answer = ask(&socket, server, number as u32);
        assert!(answer.starts_with(b"SIP/2.0 "), "{}", String::from_utf8_lossy(&answer));
    }
    // The counter of what was sent is written just after sending.
    let mut counters = udp.counters();
    for _ in 0..100 {
        if counters.sent == 2 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        counters = udp.counters();
    }
    assert_eq!((counters.received, counters.sent), (2, 2));
    assert_eq!((counters.kernel_drops, counters.inbox_overflow, counters.send_errors), (0, 0, 0));
    assert_eq!(counters.workers.len(), 2);
    udp.stop();
    let seen = seen.0.lock().expect("no thread panicked");
    let mut ends: Vec<(String, bool)> =
        seen.iter().map(|(local, _, outgoing, _)| (local.to_string(), *outgoing)).collect();
    // An answer is seen after it was sent, and two workers are at it.
    ends.sort();
    assert_eq!(
        ends,
        [
            ("127.0.0.1:5062".to_owned(), false),
            ("127.0.0.1:5062".to_owned(), true),
            ("127.0.0.3:5060".to_owned(), false),
            ("127.0.0.3:5060".to_owned(), true),
        ]
    );
    // The sockets are closed: the port is free again.
    start(settings(&["127.0.0.1:5062"]), 1, None).expect("the port is free").stop();
}

#[test]
fn listeners_follow_the_settings_all_or_none() {
    if !namespace::alone("listeners_follow_the_settings_all_or_none") {
        return;
    }
    let udp = start(settings(&["127.0.0.1:5060"]), 2, None).expect("the port is free");
    let holder = client("127.0.0.1:5064");
    let failure = udp
        .apply_settings(&settings(&["127.0.0.1:5060", "127.0.0.1:5062", "127.0.0.1:5064"]))
        .expect_err("a port is taken");
    assert_eq!(failure.to_string(), "address in use: another program holds udp 127.0.0.1:5064; `ss -ulpn` names it");
    drop(client("127.0.0.1:5062"));
    drop(holder);
    let next = settings(&["127.0.0.1:5062", "127.0.0.1:5064"]);
    udp.apply_settings(&next).expect("the ports are free");
    // The engine still has the old settings here, so only keep-alives can be sent to the new listeners; that they are received
    // is what counts.
    let socket = client("127.0.0.1:5070");
    socket.send_to(b"\r\n\r\n", "127.0.0.1:5062").expect("the loopback interface is up");
    wait_for(&udp, 1);
    // The listener that is gone goes on for a while.
    assert!(ask(&socket, "127.0.0.1:5060", 3).starts_with(b"SIP/2.0 "));
    udp.stop();
}

#[test]
fn a_second_start_finds_the_address_in_use() {
    if !namespace::alone("a_second_start_finds_the_address_in_use") {
        return;
    }
    let first = start(settings(&["127.0.0.1:5060"]), 2, None).expect("the port is free");
    for bind in ["127.0.0.1:5060", "0.0.0.0:5060"] {
        let failure = start(settings(&[bind]), 2, None).err().expect("the address is taken");
        assert!(matches!(failure, NetError::AddressInUse { .. }), "{failure}");
    }
    let failure = start(settings(&["192.0.2.1:5060"]), 1, None).err().expect("the address is nobody's");
    assert!(matches!(failure, NetError::AddressUnavailable { .. }), "{failure}");
    first.stop();
}

/// Makes every datagram a millisecond's work, so that a queue forms.
struct Slow;

impl Tap for Slow {
    fn packet(&self, _: SocketAddr, _: SocketAddr, _: bool, _: &[u8]) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_peer_keeps_two_workers_busy() {
    if !namespace::alone("one_peer_keeps_two_workers_busy") {
        return;
    }
    let udp = start(settings(&["127.0.0.1:5060"]), 2, Some(Arc::new(Slow))).expect("the port is free");
    let socket = client("127.0.0.1:5070");
    // One at a time wakes nobody but the worker whose socket it is.
    for expected in 1..=20 {
        socket.send_to(b"\r\n\r\n", "127.0.0.1:5060").expect("the loopback interface is up");
        wait_for(&udp, expected);
    }
    let quiet = udp.counters();
    assert!(quiet.workers.iter().any(|worker| worker.received == 20), "{quiet:?}");
    for _ in 0..200 {
        socket.send_to(b"\r\n\r\n", "127.0.0.1:5060").expect("the loopback interface is up");
    }
    wait_for(&udp, 220);
    let counters = udp.counters();
    let helped: u64 = counters.workers.iter().map(|worker| worker.helped).sum();
    assert!(helped >= 40, "one worker did nearly all of it: {counters:?}");
    assert!(helped <= 180, "the owner did nearly nothing: {counters:?}");
    udp.stop();
}

/// Waits until `count` datagrams were received and handled.
fn wait_for(udp: &DataPlane, count: u64) {
    for _ in 0..1_000 {
        if udp.counters().received >= count {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{count} datagrams were expected: {:?}", udp.counters());
}
