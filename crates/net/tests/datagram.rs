//! Batches of datagrams over the loopback interface of a private namespace.
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

mod namespace;

use net::datagram::{ErrorQueue, Outgoing, Poll, RECEIVE_BATCH, Receiver, SEND_BATCH, Sender, kernel_drops};
use net::socket;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

fn open(address: &str) -> UdpSocket {
    socket::open(address.parse().expect("a valid address")).expect("the namespace is ours").0
}

fn address(socket: &UdpSocket) -> SocketAddr {
    socket.local_addr().expect("the socket is bound")
}

fn outgoing(remote: SocketAddr, bytes: &[u8]) -> Outgoing<'_> {
    Outgoing { local: IpAddr::V4(Ipv4Addr::UNSPECIFIED), remote, bytes }
}

/// The next datagrams at `socket`: octets, source, arrival address.
fn next(receiver: &mut Receiver, socket: &UdpSocket) -> Vec<(Vec<u8>, SocketAddr, Option<IpAddr>)> {
    let poll = Poll::new().expect("a descriptor is free");
    poll.add(socket.as_fd(), 1).expect("the socket is open");
    poll.wait(Some(Duration::from_secs(5)), &mut Vec::new()).expect("the poll is open");
    receiver.receive(socket).expect("nothing was returned");
    receiver.datagrams().map(|datagram| (datagram.bytes.to_vec(), datagram.remote, datagram.local)).collect()
}

#[test]
fn batches_arrive_whole_and_in_order() {
    if !namespace::alone("batches_arrive_whole_and_in_order") {
        return;
    }
    for listen in ["127.0.0.1:5060", "[::1]:5060"] {
        let (server, client) = (open(listen), open(&listen.replace("5060", "5070")));
        // More than a batch of both kinds, and less than the smallest receive buffer holds.
        let sizes = [0, 1, 450, 900, 2_000];
        let mut texts: Vec<Vec<u8>> = (0..SEND_BATCH + 10)
            .map(|number| vec![number as u8; sizes.get(number % 5).copied().unwrap_or(0)])
            .collect();
        texts.push(vec![b'z'; 60_000]);
        let mut failures = 0;
        let sent = Sender::new()
            .send(&client, texts.iter().map(|text| outgoing(address(&server), text)), |_, _| failures += 1);
        assert_eq!((sent, failures), (texts.len(), 0), "{listen}");
        let mut receiver = Receiver::new();
        let mut seen = Vec::new();
        while seen.len() < texts.len() {
            let batch = next(&mut receiver, &server);
            assert!(!batch.is_empty() && batch.len() <= RECEIVE_BATCH, "{} after {}", batch.len(), seen.len());
            seen.extend(batch);
        }
        for (text, (bytes, remote, local)) in texts.iter().zip(&seen) {
            assert_eq!(text, bytes);
            assert_eq!(*remote, address(&client));
            assert_eq!(*local, None, "a socket bound to one address need not tell it");
        }
        assert_eq!(receiver.receive(&client).expect("nothing was returned"), 0, "nothing came back");
        assert_eq!(kernel_drops(&server), 0);
    }
}

#[test]
fn a_wildcard_answers_from_where_it_was_asked() {
    if !namespace::alone("a_wildcard_answers_from_where_it_was_asked") {
        return;
    }
    let server = open("0.0.0.0:5060");
    let client = open("127.0.0.1:5070");
    let mut receiver = Receiver::new();
    let mut sender = Sender::new();
    for asked in ["127.0.0.2:5060", "127.9.8.7:5060"] {
        let asked: SocketAddr = asked.parse().expect("a valid address");
        sender.send(&client, [outgoing(asked, b"ask")].into_iter(), |_, error| panic!("{error}"));
        let arrived = next(&mut receiver, &server);
        assert_eq!(arrived, [(b"ask".to_vec(), address(&client), Some(asked.ip()))]);
        let answer = Outgoing { local: asked.ip(), remote: address(&client), bytes: b"answer" };
        sender.send(&server, [answer].into_iter(), |_, error| panic!("{error}"));
        assert_eq!(next(&mut receiver, &client), [(b"answer".to_vec(), asked, None)]);
    }
}

#[test]
fn sending_goes_on_after_a_failed_entry() {
    if !namespace::alone("sending_goes_on_after_a_failed_entry") {
        return;
    }
    let server = open("127.0.0.1:5060");
    let client = open("127.0.0.1:5070");
    // There is no route to anywhere but the loopback network.
    let nowhere = SocketAddr::from(([192, 0, 2, 1], 5060));
    let remotes: Vec<SocketAddr> =
        (0..200_usize).map(|number| if number.is_multiple_of(3) { nowhere } else { address(&server) }).collect();
    let mut failures = Vec::new();
    let sent = Sender::new().send(&client, remotes.iter().map(|remote| outgoing(*remote, b"x")), |position, error| {
        failures.push((position, error.raw_os_error()))
    });
    let expected: Vec<(usize, Option<i32>)> = (0..200_usize)
        .filter(|number| number.is_multiple_of(3))
        .map(|number| (number, Some(libc::ENETUNREACH)))
        .collect();
    assert_eq!(failures, expected);
    assert_eq!(sent, 200 - expected.len());
}

#[test]
fn returned_datagrams_are_told_with_what_they_held() {
    if !namespace::alone("returned_datagrams_are_told_with_what_they_held") {
        return;
    }
    let client = open("127.0.0.1:5070");
    let server = open("127.0.0.1:5060");
    let nobody = SocketAddr::from(([127, 0, 0, 1], 5099));
    let mut sender = Sender::new();
    // The refusal of the first must not keep the second, which is for somebody else, from being sent.
    for (remote, text) in [(nobody, &b"lost"[..]), (address(&server), &b"found"[..])] {
        let sent = sender.send(&client, [outgoing(remote, text)].into_iter(), |_, error| panic!("{error}"));
        assert_eq!(sent, 1);
    }
    let mut receiver = Receiver::new();
    assert_eq!(next(&mut receiver, &server), [(b"found".to_vec(), address(&client), None)]);
    let mut errors = ErrorQueue::new();
    {
        let returned = errors.take(&client).expect("the port is closed");
        assert_eq!(returned.remote, nobody);
        assert_eq!(returned.errno, libc::ECONNREFUSED);
        assert_eq!(returned.bytes, b"lost");
    }
    assert!(errors.take(&client).is_none());
}

#[test]
fn the_kernels_drops_are_counted() {
    if !namespace::alone("the_kernels_drops_are_counted") {
        return;
    }
    let server = UdpSocket::bind("127.0.0.1:5060").expect("the namespace is ours");
    let client = open("127.0.0.1:5070");
    let mut sender = Sender::new();
    // The default buffer holds far less than this.
    let texts = vec![vec![b'x'; 60_000]; 100];
    let sent =
        sender.send(&client, texts.iter().map(|text| outgoing(address(&server), text)), |_, error| panic!("{error}"));
    assert_eq!(sent, 100);
    let mut receiver = Receiver::new();
    let mut arrived = 0;
    loop {
        let count = receiver.receive(&server).expect("nothing was returned");
        if count == 0 {
            break;
        }
        arrived += count as u32;
    }
    assert!(arrived < 100, "all of them fitted");
    assert_eq!(arrived + kernel_drops(&server), 100);
}
