//! Connections over the loopback interface of a private namespace. The test does the turns of the workers, and has the time as it likes.

use super::*;
use crate::namespace;
use crate::socket;
use crate::stream::testing;
use engine::{Backend, ClientCertificates, Farm, FarmId, Limits, Listener, Verify};
use sim::settings::{backend, bare_farm, listener_over};
use socket2::SockRef;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// Two workers without threads.
struct World {
    polls: Vec<Arc<Poll>>,
    connections: Connections,
    rounds: [Round; 2],
    reader: Reader,
    now: Instant,
}

/// What the shards would be told.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Told {
    Came(Flow, Vec<u8>),
    Lost(Flow, Vec<u8>),
    KeptBack(Flow, Vec<u8>),
}

impl World {
    fn new(limits: Limits) -> Self {
        Self::with(Settings { farms: Vec::new(), limits })
    }

    fn with(settings: Settings) -> Self {
        let polls: Vec<Arc<Poll>> = (0..2).map(|_| Arc::new(Poll::new().expect("a descriptor is free"))).collect();
        let now = Instant::from_micros(1_000_000);
        let connections = Connections::new(polls.clone(), &settings, Arc::new(store(&settings)), now);
        Self { polls, connections, rounds: Default::default(), reader: Reader::new(), now }
    }

    fn follow(&self, settings: &Settings) {
        self.connections.follow(settings, Some(store(settings)));
    }

    /// Does the turns of both workers until `done`, for some seconds at most.
    fn until(&mut self, mut done: impl FnMut(&Connections, &[Told]) -> bool) -> Vec<Told> {
        let mut told = Vec::new();
        for _ in 0..500 {
            if done(&self.connections, &told) {
                return told;
            }
            let Self { polls, connections, reader, now, .. } = self;
            for poll in polls.iter() {
                turn(poll, connections, reader, *now, Duration::from_millis(5), &mut told);
            }
        }
        panic!("it never came to it: {told:?}, {:?}", self.connections.counters());
    }

    /// Does turns until the shards were told so often.
    fn told(&mut self, count: usize) -> Vec<Told> {
        self.until(|_, told| told.len() >= count)
    }

    fn send(&self, worker: usize, at: &StreamListener, flow: &Flow, message: &[u8]) -> Result<(), NotSent> {
        self.connections.send(worker, at, flow, &Packet::copy_from(message), self.now)
    }

    /// Accepts who waits at `listener`.
    fn accept(&self, worker: usize, at: &StreamListener, listener: &TcpListener) {
        let (socket, remote) = wait_for(|| listener.accept());
        self.connections.accept(worker, at, socket, remote, self.now);
    }

    /// The next octets that the peer gets at its end.
    fn received(&mut self, peer: &mut TcpStream, octets: usize) -> Vec<u8> {
        peer.set_nonblocking(true).expect("the socket is open");
        let mut received = Vec::new();
        self.until(|_, _| {
            let mut buffer = vec![0; octets - received.len()];
            match peer.read(&mut buffer) {
                Ok(count) => received.extend_from_slice(&buffer[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            received.len() == octets
        });
        received
    }

    /// Lets the time pass, and looks for what has waited too long.
    fn pass(&mut self, time: Duration) -> Vec<Told> {
        self.now += time;
        (0..SWEEP_PARTS).flat_map(|_| self.sweep()).collect()
    }

    /// One sweep of both workers, with all that it begins.
    fn sweep(&mut self) -> Vec<Told> {
        let Self { connections, rounds, reader, now, .. } = self;
        let mut told = Vec::new();
        let mut each = |input: Input<'_>| told.push(Told::of(input));
        for (worker, round) in rounds.iter_mut().enumerate() {
            connections.sweep(worker, *now, round, reader, &mut each);
            while !round.is_through() {
                connections.look_on(round, *now, reader, &mut each);
            }
        }
        told
    }

    fn dozing(&self) -> u64 {
        self.connections.counters().dozing
    }

    fn ended(&self, reason: Reason) -> u64 {
        let ended = self.connections.counters().ended;
        ended.iter().find(|(label, _)| *label == reason.label()).map_or(0, |(_, count)| *count)
    }
}

impl Told {
    fn of(input: Input<'_>) -> Self {
        match input {
            Input::Datagram { flow, bytes } => Self::Came(flow, bytes.to_vec()),
            Input::Undelivered { flow, returned } => Self::Lost(flow, returned.to_vec()),
            Input::Unsent { flow, returned } => Self::KeptBack(flow, returned.to_vec()),
        }
    }
}

fn store(settings: &Settings) -> TlsStore {
    let (tls, _warnings) = TlsStore::load(settings).expect("the files are right");
    tls
}

fn turn(
    poll: &Poll,
    connections: &Connections,
    reader: &mut Reader,
    now: Instant,
    patience: Duration,
    told: &mut Vec<Told>,
) {
    let mut ready = Vec::new();
    poll.wait(Some(patience), &mut ready).expect("the poll is open");
    for source in &ready {
        connections.ready(source, now, reader, &mut |input| told.push(Told::of(input)));
    }
}

/// What a socket that does not wait gives in the end.
fn wait_for<T>(mut attempt: impl FnMut() -> std::io::Result<T>) -> T {
    for _ in 0..500 {
        match attempt() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
            outcome => return outcome.expect("the socket is good"),
        }
    }
    panic!("nothing came");
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a valid address")
}

fn listener(id: u32, transport: Transport, bind: &str) -> StreamListener {
    StreamListener { id: ListenerId(id), transport, bind: address(bind) }
}

fn tcp() -> StreamListener {
    listener(1, Transport::Tcp, "127.0.0.1:5060")
}

fn open(bind: &str) -> TcpListener {
    socket::listen(address(bind)).expect("the namespace is ours")
}

fn message(number: usize) -> Vec<u8> {
    format!("SIP/2.0 200 OK\r\nCall-ID: {number:06}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

/// To whoever listens at `remote`, on any connection.
fn towards(at: &StreamListener, remote: &str) -> Flow {
    Flow { listener: at.id, local: at.bind.ip(), remote: address(remote), connection: ConnectionId::NONE }
}

fn connect(remote: &str) -> TcpStream {
    let socket = TcpStream::connect(remote).expect("somebody listens");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
    socket
}

#[test]
fn a_connection_is_known_by_its_number_and_by_its_peer() {
    if !namespace::alone("stream::connections::tests::a_connection_is_known_by_its_number_and_by_its_peer") {
        return;
    }
    let (mut world, sockets) = (World::new(Limits::default()), open("0.0.0.0:5060"));
    let at = listener(1, Transport::Tcp, "0.0.0.0:5060");
    let mut phone = connect("127.0.0.3:5060");
    world.accept(1, &at, &sockets);
    phone.write_all(&[message(1), message(2)].concat()).expect("the connection is up");
    let told = world.told(2);
    let Some(Told::Came(flow, _)) = told.first() else { panic!("{told:?}") };
    assert_eq!(told, [Told::Came(*flow, message(1)), Told::Came(*flow, message(2))]);
    assert_eq!((flow.listener, flow.remote), (at.id, phone.local_addr().expect("it is connected")));
    assert_eq!(flow.local, IpAddr::from([127, 0, 0, 3]), "where it arrived, not the wildcard");
    assert!(flow.connection.is_some() && flow.connection < ConnectionId::GONE);
    // By its number from either worker; and without, since it comes from just there.
    let by_peer = Flow { connection: ConnectionId::NONE, ..*flow };
    // A token names the host and the connection, not the port.
    let by_token = Flow { remote: SocketAddr::new(flow.remote.ip(), 0), ..*flow };
    for (number, flow) in [*flow, by_peer, by_token].iter().enumerate() {
        assert_eq!(world.send(0, &at, flow, &message(number)), Ok(()));
        assert_eq!(world.send(1, &at, flow, &message(number)), Ok(()));
    }
    let wanted = [message(0), message(0), message(1), message(1), message(2), message(2)].concat();
    assert_eq!(world.received(&mut phone, wanted.len()), wanted);
    // A token of a former connection with the same number.
    let strangers = Flow { remote: address("127.0.0.9:5060"), ..*flow };
    assert_eq!(world.send(0, &at, &strangers, &message(1)), Err(NotSent::Gone));
    let by_token = Flow { remote: address("127.0.0.9:0"), ..*flow };
    assert_eq!(world.send(0, &at, &by_token, &message(1)), Err(NotSent::Gone));
    let gone = Flow { connection: ConnectionId::GONE, ..*flow };
    assert_eq!(world.send(0, &at, &gone, &message(1)), Err(NotSent::Gone));
    let counters = world.connections.counters();
    assert_eq!((counters.connections, counters.accepted, counters.opened), (1, 1, 0));
    drop(phone);
    world.until(|connections, _| connections.counters().connections == 0);
    assert_eq!(world.ended(Reason::PeerClosed), 1);
    assert_eq!(world.send(0, &at, flow, &message(1)), Err(NotSent::Gone));
}

#[test]
fn limits_hold_and_places_come_back() {
    if !namespace::alone("stream::connections::tests::limits_hold_and_places_come_back") {
        return;
    }
    let limits = Limits { connections: 3, connections_per_source: 2, ..Limits::default() };
    let (mut world, sockets) = (World::new(limits), open("127.0.0.1:5060"));
    let from = |source: [u8; 4]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from((source, 0)).into()).expect("the address is ours");
        socket.connect(&address("127.0.0.1:5060").into()).expect("somebody listens");
        TcpStream::from(socket)
    };
    let mut peers = Vec::new();
    for (source, accepted) in [(1, 1), (1, 2), (1, 2), (2, 3), (3, 3)] {
        peers.push(from([127, 0, 0, source]));
        world.accept(0, &tcp(), &sockets);
        assert_eq!(world.connections.counters().accepted, accepted);
    }
    assert_eq!((world.ended(Reason::TooManyOfSource), world.ended(Reason::TooMany)), (1, 1));
    // Whoever was refused finds its connection closed.
    let refused = peers.get_mut(2).expect("five were opened");
    assert_eq!(wait_for(|| refused.read(&mut [0])), 0);
    // We still open some ourselves: backends are reached whatever clients do.
    let backend = open("127.0.0.1:5070");
    assert_eq!(world.send(0, &tcp(), &towards(&tcp(), "127.0.0.1:5070"), &message(1)), Ok(()));
    let (of_backend, _) = wait_for(|| backend.accept());
    drop(peers.swap_remove(0));
    world.until(|connections, _| connections.counters().connections == 3);
    drop(of_backend);
    world.until(|connections, _| connections.counters().connections == 2);
    peers.push(from([127, 0, 0, 1]));
    world.accept(0, &tcp(), &sockets);
    assert_eq!(world.connections.counters().accepted, 4);
    assert!(world.connections.owns_any(0) && !world.connections.owns_any(1));
}

#[test]
fn a_server_that_would_be_one_too_many_is_not_said_to_refuse() {
    if !namespace::alone("stream::connections::tests::a_server_that_would_be_one_too_many_is_not_said_to_refuse") {
        return;
    }
    let world = World::new(Limits { connections: 1, ..Limits::default() });
    let _servers = ["127.0.0.1:5070", "127.0.0.1:5071"].map(open);
    let outcomes = ["127.0.0.1:5070", "127.0.0.1:5071", "127.0.0.1:5070"]
        .map(|remote| world.send(0, &tcp(), &towards(&tcp(), remote), &message(1)));
    assert_eq!(outcomes, [Ok(()), Err(NotSent::TooMany), Ok(())]);
    assert_eq!((world.ended(Reason::TooMany), world.connections.counters().opened), (1, 1));
}

#[test]
fn a_peer_that_does_not_read_is_bounded_and_left() {
    if !namespace::alone("stream::connections::tests::a_peer_that_does_not_read_is_bounded_and_left") {
        return;
    }
    let limits = Limits { connection_queue: 100_000, ..Limits::default() };
    let (mut world, sockets) = (World::new(limits), open("127.0.0.1:5060"));
    let mut phone = connect("127.0.0.1:5060");
    world.accept(0, &tcp(), &sockets);
    phone.write_all(&message(0)).expect("the connection is up");
    let told = world.told(1);
    let Some(Told::Came(flow, _)) = told.first() else { panic!("{told:?}") };
    let long = [message(1), vec![b'\n'; 50_000]].concat();
    let mut sent = 0;
    let outcome = loop {
        assert!(sent < 10_000, "the kernel holds it all");
        match world.send(1, &tcp(), flow, &long) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((outcome, world.connections.counters().queue_full), (NotSent::QueueFull, 1));
    assert_eq!(world.pass(Duration::from_secs(29)), []);
    let lost = world.pass(Duration::from_secs(1));
    // What the kernel took counts as delivered; one may have been taken in part.
    assert!((1..=2).contains(&lost.len()), "{}", lost.len());
    assert!(lost.iter().all(|told| *told == Told::Lost(*flow, long.clone())));
    assert_eq!((world.ended(Reason::QueueStuck), world.connections.counters().connections), (1, 0));
    // The kernel does not go on sending on our behalf.
    let mut rest = Vec::new();
    let end = phone.read_to_end(&mut rest).expect_err("it was reset");
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn who_cannot_be_reached_gives_the_messages_back() {
    if !namespace::alone("stream::connections::tests::who_cannot_be_reached_gives_the_messages_back") {
        return;
    }
    let mut world = World::new(Limits::default());
    let flow = towards(&tcp(), "127.0.0.1:5099");
    for number in 0..3 {
        assert_eq!(world.send(number % 2, &tcp(), &flow, &message(number)), Ok(()), "they wait for the connection");
    }
    assert_eq!(world.told(3), [0, 1, 2].map(|number| Told::Lost(flow, message(number))));
    assert_eq!((world.ended(Reason::ConnectRefused), world.connections.counters().connections), (1, 0));
    // There is no way at all: told at once.
    let nowhere = towards(&tcp(), "192.0.2.1:5060");
    assert_eq!(world.send(0, &tcp(), &nowhere, &message(1)), Err(NotSent::Refused));
    let browser = listener(2, Transport::Ws, "127.0.0.1:8080");
    let to_browser = towards(&browser, "127.0.0.1:5070");
    assert_eq!(world.send(0, &browser, &to_browser, &message(1)), Err(NotSent::Refused), "nobody listens in a browser");
    assert_eq!(world.connections.counters().opened, 1);
    assert_eq!(world.connections.opened.load(Ordering::Relaxed), 0, "places come back");
}

#[test]
fn a_connect_that_nobody_answers_is_given_up() {
    if !namespace::alone("stream::connections::tests::a_connect_that_nobody_answers_is_given_up") {
        return;
    }
    let mut world = World::new(Limits::default());
    // A listener whose backlog is full lets the kernel ignore whoever comes.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    full.bind(&address("127.0.0.1:5099").into()).expect("the namespace is ours");
    full.listen(0).expect("it is bound");
    let _first = connect("127.0.0.1:5099");
    let flow = towards(&tcp(), "127.0.0.1:5099");
    assert_eq!(world.send(0, &tcp(), &flow, &message(1)), Ok(()));
    assert_eq!(world.pass(Duration::from_millis(9_999)), []);
    assert_eq!(world.pass(Duration::from_millis(1)), [Told::Lost(flow, message(1))]);
    assert_eq!(world.ended(Reason::ConnectTimedOut), 1);
}

#[test]
fn connections_come_from_where_we_listen_if_they_can() {
    if !namespace::alone("stream::connections::tests::connections_come_from_where_we_listen_if_they_can") {
        return;
    }
    let (world, backend) = (World::new(Limits::default()), open("127.0.0.1:5070"));
    let ours = open("127.0.0.1:5060");
    assert_eq!(world.send(0, &tcp(), &towards(&tcp(), "127.0.0.1:5070"), &message(1)), Ok(()));
    let (_first, remote) = wait_for(|| backend.accept());
    assert_eq!(remote, address("127.0.0.1:5060"));
    assert!(matches!(ours.accept(), Err(error) if error.kind() == ErrorKind::WouldBlock), "it listens on undisturbed");
    // Port 5061 is somebody's who does not share it.
    let _other = TcpListener::bind("127.0.0.1:5061").expect("the namespace is ours");
    let at = listener(2, Transport::Tcp, "127.0.0.1:5061");
    assert_eq!(world.send(0, &at, &towards(&at, "127.0.0.1:5070"), &message(1)), Ok(()));
    let (_second, remote) = wait_for(|| backend.accept());
    assert_eq!(remote.ip(), at.bind.ip());
    assert!(![5060, 5061].contains(&remote.port()), "{remote}");
}

#[test]
fn one_connection_serves_many_messages_and_another_follows_its_end() {
    if !namespace::alone("stream::connections::tests::one_connection_serves_many_messages_and_another_follows_its_end")
    {
        return;
    }
    let (mut world, backend) = (World::new(Limits::default()), open("127.0.0.1:5070"));
    let flow = towards(&tcp(), "127.0.0.1:5070");
    let send = |world: &World, number: usize| {
        assert_eq!(world.send(number % 2, &tcp(), &flow, &message(number)), Ok(()));
    };
    (0..10).for_each(|number| send(&world, number));
    let (mut first, _) = wait_for(|| backend.accept());
    let wanted: Vec<u8> = (0..10).flat_map(message).collect();
    assert_eq!(world.received(&mut first, wanted.len()), wanted);
    // What it answers comes with the number of the connection.
    first.write_all(&message(77)).expect("the connection is up");
    let told = world.told(1);
    let Some(Told::Came(heard, _)) = told.first() else { panic!("{told:?}") };
    assert_eq!(Flow { connection: ConnectionId::NONE, ..*heard }, flow);
    assert_eq!(world.send(0, &tcp(), heard, &message(10)), Ok(()));
    assert_eq!(world.received(&mut first, message(10).len()), message(10));
    // It ends in order, and we have seen it.
    drop(first);
    world.until(|connections, _| connections.counters().connections == 0);
    assert_eq!(world.send(0, &tcp(), heard, &message(11)), Err(NotSent::Gone));
    send(&world, 11);
    let (mut second, _) = wait_for(|| backend.accept());
    assert_eq!(world.received(&mut second, message(11).len()), message(11));
    // It is reset, and only sending finds out.
    SockRef::from(&second).set_linger(Some(Duration::ZERO)).expect("the socket is open");
    drop(second);
    send(&world, 12);
    let (mut third, _) = wait_for(|| backend.accept());
    assert_eq!(world.received(&mut third, message(12).len()), message(12));
    let counters = world.connections.counters();
    assert_eq!((counters.opened, counters.connections, world.ended(Reason::Reset)), (3, 1, 1));
}

#[test]
fn two_workers_send_on_one_connection_at_once() {
    const EACH: usize = 4_000;
    if !namespace::alone("stream::connections::tests::two_workers_send_on_one_connection_at_once") {
        return;
    }
    let limits = Limits { connection_queue: 200_000, ..Limits::default() };
    let (world, backend) = (World::new(limits), open("127.0.0.1:5070"));
    let flow = towards(&tcp(), "127.0.0.1:5070");
    let numbered = |worker: usize, number: usize| {
        let head = format!("SIP/2.0 200 OK\r\nCall-ID: {worker}-{number:06}\r\nContent-Length: 1000\r\n\r\n");
        [head.into_bytes(), vec![b'a' + worker as u8; 1_000]].concat()
    };
    let all_read = std::sync::atomic::AtomicBool::new(false);
    let World { polls, connections, now, .. } = &world;
    std::thread::scope(|scope| {
        for (worker, poll) in polls.iter().enumerate() {
            let (numbered, all_read, flow) = (&numbered, &all_read, &flow);
            scope.spawn(move || {
                let (mut reader, mut number) = (Reader::new(), 0);
                while !all_read.load(Ordering::Relaxed) {
                    // Its owner has to do its turns, or nothing that waited would leave.
                    turn(poll, connections, &mut reader, *now, Duration::ZERO, &mut Vec::new());
                    if number == EACH {
                        std::thread::sleep(Duration::from_millis(1));
                        continue;
                    }
                    let packet = Packet::copy_from(&numbered(worker, number));
                    match connections.send(worker, &tcp(), flow, &packet, *now) {
                        Ok(()) => number += 1,
                        Err(error) => assert_eq!(error, NotSent::QueueFull),
                    }
                }
            });
        }
        let (mut peer, _) = wait_for(|| backend.accept());
        peer.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
        // Long enough for the kernel's buffers to fill.
        std::thread::sleep(Duration::from_millis(300));
        let mut next = [0, 0];
        let mut octets = vec![0; numbered(0, 0).len()];
        let mut is_right = true;
        while is_right && next != [EACH, EACH] {
            is_right = peer.read_exact(&mut octets).is_ok();
            let worker = usize::from(octets.last() == Some(&b'b'));
            is_right &= octets == numbered(worker, next[worker]);
            next[worker] += 1;
        }
        all_read.store(true, Ordering::Relaxed);
        assert!(is_right, "not whole or not in the order of its sender, at {next:?}: {}", octets.escape_ascii());
    });
    let counters = connections.counters();
    assert_eq!((counters.opened, counters.connections), (1, 1));
    assert!(counters.queue_full > 0, "the socket never was full");
}

#[test]
fn connections_of_a_closed_listener_end_with_the_next_sweeps() {
    if !namespace::alone("stream::connections::tests::connections_of_a_closed_listener_end_with_the_next_sweeps") {
        return;
    }
    let (mut world, sockets, others) = (World::new(Limits::default()), open("127.0.0.1:5060"), open("127.0.0.1:5062"));
    let other = listener(2, Transport::Tcp, "127.0.0.1:5062");
    let mut phones: Vec<TcpStream> = (0..20).map(|_| connect("127.0.0.1:5060")).collect();
    (0..20).for_each(|number| world.accept(number % 2, &tcp(), &sockets));
    let stays = connect("127.0.0.1:5062");
    world.accept(0, &other, &others);
    world.connections.close_listener(ListenerId(1));
    assert_eq!(world.pass(Duration::ZERO), []);
    assert_eq!(world.ended(Reason::ListenerClosed), 20);
    for phone in &mut phones {
        assert_eq!(wait_for(|| phone.read(&mut [0])), 0);
    }
    drop(phones);
    world.until(|connections, _| connections.counters().connections == 1);
    drop(stays);
}

#[test]
fn connections_to_a_server_that_was_cut_end_and_others_stay() {
    if !namespace::alone("stream::connections::tests::connections_to_a_server_that_was_cut_end_and_others_stay") {
        return;
    }
    let (mut world, ours, at) = (World::new(Limits::default()), open("127.0.0.1:5060"), tcp());
    let [cut, other] = ["127.0.0.2:5060", "127.0.0.3:5060"];
    let servers = [cut, other].map(open);
    let mut peers = Vec::new();
    for (remote, server) in [cut, other].into_iter().zip(&servers) {
        assert_eq!(world.send(0, &at, &towards(&at, remote), &message(1)), Ok(()));
        let (mut peer, _) = wait_for(|| server.accept());
        assert_eq!(world.received(&mut peer, message(1).len()), message(1));
        peers.push(peer);
    }
    // It comes from that address and is no connection to it.
    let phone = connect("127.0.0.1:5060");
    world.accept(1, &at, &ours);
    world.connections.close_peers(&[address(cut), phone.local_addr().expect("it is connected")]);
    // What is sent before the sweep goes by a new one.
    assert_eq!(world.send(1, &at, &towards(&at, cut), &message(2)), Ok(()));
    assert_eq!(world.pass(Duration::ZERO), []);
    assert_eq!(world.ended(Reason::ListenerClosed), 1);
    let (mut again, _) = wait_for(|| servers[0].accept());
    assert_eq!(world.received(&mut again, message(2).len()), message(2));
    assert_eq!(world.send(1, &at, &towards(&at, other), &message(3)), Ok(()));
    assert_eq!(world.received(&mut peers[1], message(3).len()), message(3));
    assert_eq!(wait_for(|| peers[0].read(&mut [0])), 0);
    assert_eq!(world.connections.counters().opened, 3);
}

#[test]
fn new_limits_hold_for_old_connections() {
    if !namespace::alone("stream::connections::tests::new_limits_hold_for_old_connections") {
        return;
    }
    let (mut world, sockets) = (World::new(Limits::default()), open("127.0.0.1:5060"));
    let _phone = connect("127.0.0.1:5060");
    world.accept(0, &tcp(), &sockets);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.ended(Reason::Idle), 0);
    let limits = Limits { connection_idle: Duration::from_secs(30), ..Limits::default() };
    world.follow(&Settings { farms: Vec::new(), limits });
    world.pass(Duration::ZERO);
    assert_eq!(world.ended(Reason::Idle), 1);
}

#[test]
fn what_a_server_left_behind_is_sent_once_more() {
    if !namespace::alone("stream::connections::tests::what_a_server_left_behind_is_sent_once_more") {
        return;
    }
    let long = [message(1), vec![b'x'; 50_000]].concat();
    // What one connection held fits into the next.
    let limits = Limits { connection_queue: 2 * long.len(), ..Limits::default() };
    let (mut world, backend) = (World::new(limits), open("127.0.0.1:5070"));
    let flow = towards(&tcp(), "127.0.0.1:5070");
    let fill = |world: &World| {
        let sent = (0..10_000).take_while(|_| world.send(1, &tcp(), &flow, &long).is_ok()).count();
        assert!(sent < 10_000, "the kernel holds it all");
    };
    assert_eq!(world.send(0, &tcp(), &flow, &message(0)), Ok(()));
    let (mut first, _) = wait_for(|| backend.accept());
    assert_eq!(world.received(&mut first, message(0).len()), message(0));
    fill(&world);
    // It ends with much unread: a reset.
    drop(first);
    let told = world.until(|connections, _| connections.counters().resent > 0);
    let resent = world.connections.counters().resent;
    assert!(told.is_empty() && (1..=2).contains(&resent), "{resent}: {told:?}");
    assert_eq!((world.ended(Reason::Reset), world.connections.counters().opened), (1, 2));
    let (mut second, _) = wait_for(|| backend.accept());
    let wanted = long.repeat(resent as usize);
    assert_eq!(world.received(&mut second, wanted.len()), wanted);
    // Not even the second one delivers them: then the shard is told, and nobody tries again.
    fill(&world);
    drop(backend);
    drop(second);
    let told = world.until(|_, told| !told.is_empty());
    assert_eq!(told.len() as u64, world.connections.counters().resent - resent);
    assert!(told.iter().all(|told| *told == Told::Lost(flow, long.clone())));
    assert_eq!((world.ended(Reason::Reset), world.ended(Reason::ConnectRefused)), (2, 1));
    assert_eq!(world.connections.counters().opened, 3);
}

/// The server is as good as before: it is our limit that has become another.
#[test]
fn what_a_server_left_behind_may_be_kept_back_by_a_limit() {
    if !namespace::alone("stream::connections::tests::what_a_server_left_behind_may_be_kept_back_by_a_limit") {
        return;
    }
    let long = [message(1), vec![b'x'; 50_000]].concat();
    let limits = Limits { connection_queue: 2 * long.len(), ..Limits::default() };
    let (mut world, backend) = (World::new(limits.clone()), open("127.0.0.1:5070"));
    let flow = towards(&tcp(), "127.0.0.1:5070");
    assert_eq!(world.send(0, &tcp(), &flow, &message(0)), Ok(()));
    let (mut first, _) = wait_for(|| backend.accept());
    assert_eq!(world.received(&mut first, message(0).len()), message(0));
    let sent = (0..10_000).take_while(|_| world.send(1, &tcp(), &flow, &long).is_ok()).count();
    assert!(sent < 10_000, "the kernel holds it all");
    world.follow(&Settings { farms: Vec::new(), limits: Limits { connections: 0, ..limits } });
    // It ends with much unread: a reset.
    drop(first);
    let told = world.until(|_, told| !told.is_empty());
    assert!(told.iter().all(|told| *told == Told::KeptBack(flow, long.clone())));
    let counters = world.connections.counters();
    assert_eq!((world.ended(Reason::Reset), counters.resent, counters.opened), (1, 0, 1));
}

#[test]
fn servers_of_the_settings_are_asked_for_signs_of_life() {
    if !namespace::alone("stream::connections::tests::servers_of_the_settings_are_asked_for_signs_of_life") {
        return;
    }
    let settings = |backends: Vec<Backend>| Settings {
        farms: vec![Farm { backends, ..farm(&[tcp()], Vec::new(), Verify::Off) }],
        limits: Limits::default(),
    };
    let named = Backend { transport: Some(Transport::Tcp), ..backend("box", address("127.0.0.1:5070")) };
    let mut world = World::with(settings(vec![named]));
    let reached = |world: &mut World, remote: &str| {
        let sockets = open(remote);
        assert_eq!(world.send(0, &tcp(), &towards(&tcp(), remote), &message(1)), Ok(()));
        let (mut peer, _) = wait_for(|| sockets.accept());
        assert_eq!(world.received(&mut peer, message(1).len()), message(1));
        peer
    };
    let (mut server, mut other) = (reached(&mut world, "127.0.0.1:5070"), reached(&mut world, "127.0.0.1:5071"));
    let hears_nothing =
        |peer: &mut TcpStream| matches!(peer.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock);
    world.pass(Duration::from_secs(120));
    assert_eq!(world.received(&mut server, 4), b"\r\n\r\n");
    assert!(hears_nothing(&mut other));
    server.write_all(b"\r\n").expect("the connection is up");
    let mut turns = 0;
    world.until(|_, _| {
        turns += 1;
        turns > 5
    });
    // It is named no more.
    world.follow(&settings(Vec::new()));
    world.pass(Duration::from_secs(120));
    world.pass(Duration::from_secs(10));
    assert!(hears_nothing(&mut server));
    assert_eq!((world.ended(Reason::PongTimedOut), world.connections.counters().connections), (0, 2));
}

#[test]
fn keep_alives_of_dozing_connections_are_found_within_sixteen_sweeps() {
    if !namespace::alone(
        "stream::connections::tests::keep_alives_of_dozing_connections_are_found_within_sixteen_sweeps",
    ) {
        return;
    }
    let (mut world, sockets) = (World::new(Limits::default()), open("127.0.0.1:5060"));
    let mut phones: Vec<TcpStream> = (0..40).map(|_| connect("127.0.0.1:5060")).collect();
    (0..40).for_each(|number| world.accept(number % 2, &tcp(), &sockets));
    world.pass(Duration::from_millis(999));
    assert_eq!(world.dozing(), 0);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.dozing(), 40);
    for phone in &mut phones {
        phone.write_all(b"\r\n\r\n").expect("the connection is up");
        phone.set_nonblocking(true).expect("the socket is open");
    }
    for poll in &world.polls {
        let mut ready = Vec::new();
        poll.wait(Some(Duration::from_millis(100)), &mut ready).expect("the poll is open");
        assert_eq!(ready, [], "the kernel wakes nobody");
    }
    // Each worker looks at one stripe of sixteen at a time: one or two of its twenty connections.
    let mut unanswered: Vec<&mut TcpStream> = phones.iter_mut().collect();
    for sweep in 1..=STRIPES {
        assert_eq!(world.sweep(), []);
        unanswered.retain_mut(|phone| !phone.read(&mut [0; 2]).is_ok_and(|count| count == 2));
        let answered = 40 - unanswered.len();
        assert!(answered <= 4 * sweep, "{answered} answered by sweep {sweep}");
    }
    for phone in unanswered {
        assert_eq!(wait_for(|| phone.read(&mut [0; 2])), 2);
    }
    assert_eq!(world.dozing(), 40);
}

#[test]
fn whatever_is_longer_than_a_keep_alive_is_heard_at_once() {
    if !namespace::alone("stream::connections::tests::whatever_is_longer_than_a_keep_alive_is_heard_at_once") {
        return;
    }
    let (mut world, sockets) = (World::new(Limits::default()), open("127.0.0.1:5060"));
    let [mut first, mut second, mut third, fourth, fifth] = [(); 5].map(|()| {
        let phone = connect("127.0.0.1:5060");
        world.accept(0, &tcp(), &sockets);
        phone
    });
    world.pass(Duration::from_secs(1));
    assert_eq!(world.dozing(), 5);
    let came = |told: Vec<Told>| match told.as_slice() {
        [Told::Came(_, octets)] => octets.clone(),
        _ => panic!("{told:?}"),
    };
    first.write_all(&message(1)).expect("the connection is up");
    assert_eq!((came(world.told(1)), world.dozing()), (message(1), 4));
    second.write_all(&[b"\r\n\r\n".to_vec(), message(2)].concat()).expect("the connection is up");
    assert_eq!((came(world.told(1)), world.dozing()), (message(2), 3));
    assert_eq!(world.received(&mut second, 2), b"\r\n");
    // A message that begins by less than that is found, and from then on it is heard at once.
    let (beginning, rest) = (message(3)[..3].to_vec(), message(3)[3..].to_vec());
    third.write_all(&beginning).expect("the connection is up");
    wait_for(|| {
        assert_eq!(world.sweep(), []);
        if world.dozing() == 2 { Ok(()) } else { Err(ErrorKind::WouldBlock.into()) }
    });
    third.write_all(&rest[..2]).expect("the connection is up");
    third.write_all(&rest[2..]).expect("the connection is up");
    assert_eq!(came(world.told(1)), message(3));
    // Ends are.
    drop(fourth);
    SockRef::from(&fifth).set_linger(Some(Duration::ZERO)).expect("the socket is open");
    drop(fifth);
    world.until(|connections, _| connections.counters().connections == 3);
    assert_eq!((world.ended(Reason::PeerClosed), world.ended(Reason::Reset), world.dozing()), (1, 1, 0));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.dozing(), 3);
}

/// One unit's TLS listener is another's backend.
#[test]
fn messages_pass_over_tls_both_ways() {
    if !namespace::alone("stream::connections::tests::messages_pass_over_tls_both_ways") {
        return;
    }
    let papers = Papers::of("127.0.0.1");
    let (certificate, serving, asking) = (papers.certificate.clone(), serving(), asking());
    for (verify, is_good) in [(Verify::File(papers.authority.clone()), true), (Verify::Pinned([7; 32]), false)] {
        let farm = farm(&[serving, asking], vec![certificate.clone()], verify);
        let mut world = World::with(Settings { farms: vec![farm], limits: Limits::default() });
        let (sockets, flow) = (open("127.0.0.1:5061"), towards(&asking, "127.0.0.1:5061"));
        assert_eq!(world.send(0, &asking, &flow, &message(1)), Ok(()));
        world.accept(1, &serving, &sockets);
        let told = world.told(1);
        if !is_good {
            assert_eq!(told, [Told::Lost(flow, message(1))]);
            let fault = world.connections.counters().last_fault.expect("the certificate is another one");
            assert!(fault.text.contains("tls"), "{fault:?}");
            continue;
        }
        let [Told::Came(heard, octets)] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((octets, heard.listener, heard.remote.ip()), (&message(1), serving.id, asking.bind.ip()));
        assert_eq!(world.send(0, &serving, heard, &message(2)), Ok(()));
        assert!(matches!(world.told(1).as_slice(), [Told::Came(back, octets)]
            if back.listener == asking.id && back.remote == flow.remote && *octets == message(2)));
    }
    // Who is no backend cannot be verified.
    let world = World::with(Settings {
        farms: vec![farm(&[asking], vec![certificate], Verify::Off)],
        limits: Limits::default(),
    });
    let flow = towards(&asking, "127.0.0.9:5061");
    assert_eq!(world.send(0, &asking, &flow, &message(1)), Err(NotSent::Refused));
    assert_eq!(world.ended(Reason::Tls), 1);
}

fn farm(listeners: &[StreamListener], certificates: Vec<String>, verify: Verify) -> Farm {
    let listeners = listeners.iter().map(|at| Listener { id: at.id, ..listener_over(at.transport, at.bind) });
    let over_tls = Backend { transport: Some(Transport::Tls), verify, ..backend("box", address("127.0.0.1:5061")) };
    Farm { certificates, backends: vec![over_tls], ..bare_farm(listeners.collect()) }
}

/// An authority's files for a farm that shows `name` and believes the authority.
struct Papers {
    _folder: tempfile::TempDir,
    certificate: String,
    authority: String,
}

impl Papers {
    fn of(name: &str) -> Self {
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let write = |file: &str, text: String| {
            let path = folder.path().join(file);
            std::fs::write(&path, text).expect("the folder is ours");
            path.display().to_string()
        };
        let authority = testing::authority();
        let leaf = authority.leaf(name);
        let certificate = write("certificate.pem", format!("{}{}", leaf.certificate_pem, leaf.key_pem));
        let authority = write("ca.pem", authority.certificate_pem);
        Self { _folder: folder, certificate, authority }
    }

    fn backend(&self, host: &str, remote: &str) -> Backend {
        Backend {
            transport: Some(Transport::Tls),
            host: Some(host.to_owned()),
            verify: Verify::File(self.authority.clone()),
            ..backend(host, address(remote))
        }
    }

    /// The farm with both listeners.
    fn farm(&self, backends: Vec<Backend>) -> Farm {
        Farm { backends, ..farm(&[serving(), asking()], vec![self.certificate.clone()], Verify::Off) }
    }
}

fn settings_of(farms: Vec<Farm>) -> Settings {
    Settings { farms, limits: Limits::default() }
}

fn serving() -> StreamListener {
    listener(1, Transport::Tls, "127.0.0.1:5061")
}

fn asking() -> StreamListener {
    listener(2, Transport::Tls, "127.0.0.2:5061")
}

#[test]
fn item_35_a_connection_serves_the_names_that_it_was_verified_for() {
    if !namespace::alone("stream::connections::tests::item_35_a_connection_serves_the_names_that_it_was_verified_for") {
        return;
    }
    let papers = Papers::of("one.example");
    let named = |names: &[&str]| {
        let boxes = names.iter().map(|name| papers.backend(name, "127.0.0.1:5061"));
        settings_of(vec![papers.farm(boxes.collect())])
    };
    let mut world = World::with(named(&["one.example"]));
    let (sockets, flow) = (open("127.0.0.1:5061"), towards(&asking(), "127.0.0.1:5061"));
    let mut opened = 0;
    let cases = [
        (&["one.example"][..], true),
        // The name leads elsewhere now, and another one to this address.
        (&["two.example"][..], false),
        (&["one.example"][..], true),
        (&["one.example", "two.example"][..], false),
        (&["two.example", "one.example"][..], false),
    ];
    for (names, is_good) in cases {
        world.follow(&named(names));
        assert_eq!(world.send(0, &asking(), &flow, &message(1)), Ok(()));
        opened += 1;
        assert_eq!(world.connections.counters().opened, opened, "{names:?}");
        world.accept(1, &serving(), &sockets);
        let told = world.told(1);
        if is_good {
            assert!(matches!(told.as_slice(), [Told::Came(_, octets)] if *octets == message(1)), "{names:?}: {told:?}");
        } else {
            assert_eq!(told, [Told::Lost(flow, message(1))], "{names:?}");
        }
    }
    assert!(world.ended(Reason::Tls) >= 3);
}

#[test]
fn a_place_that_is_named_no_more_is_verified_as_before() {
    if !namespace::alone("stream::connections::tests::a_place_that_is_named_no_more_is_verified_as_before") {
        return;
    }
    let papers = Papers::of("one.example");
    let mut world = World::with(settings_of(vec![papers.farm(vec![papers.backend("one.example", "127.0.0.1:5061")])]));
    let (sockets, flow) = (open("127.0.0.1:5061"), towards(&asking(), "127.0.0.1:5061"));
    std::fs::remove_file(&papers.authority).expect("the folder is ours");
    world.follow(&settings_of(vec![papers.farm(Vec::new())]));
    world.connections.set_tls(store(&settings_of(vec![papers.farm(Vec::new())])));
    assert_eq!(world.send(0, &asking(), &flow, &message(1)), Ok(()));
    world.accept(1, &serving(), &sockets);
    assert!(matches!(world.told(1).as_slice(), [Told::Came(_, octets)] if *octets == message(1)));
}

/// The client is the other listener of the same unit, which shows the farm's certificate where it is asked for one.
#[test]
fn item_35_a_verified_client_may_be_reached_by_its_connection() {
    if !namespace::alone("stream::connections::tests::item_35_a_verified_client_may_be_reached_by_its_connection") {
        return;
    }
    let papers = Papers::of("one.example");
    let request = |via: &str| {
        let via = format!("Via: SIP/2.0/TLS {via};branch=z9hG4bK1\r\n");
        ["OPTIONS sip:a@b SIP/2.0\r\n", &via, "Content-Length: 0\r\n\r\n"].concat().into_bytes()
    };
    let by_alias = towards(&serving(), "127.0.0.2:5081");
    // Whether clients are asked for certificates, what the Via says, and who is known to be there.
    let cases = [
        (true, "one.example:5081;alias", None, true),
        (true, "ONE.example:5081;rport;alias", Some("one.example"), true),
        (true, "one.example:5081", None, false),
        (true, "one.example:5082;alias", None, false),
        (true, "two.example:5081;alias", None, false),
        (true, "127.0.0.2:5081;alias", None, false),
        (true, "one.example:5081;alias", Some("two.example"), false),
        (false, "one.example:5081;alias", None, false),
    ];
    for (asks, via, known, expected) in cases {
        let mut backends = vec![papers.backend("one.example", "127.0.0.1:5061")];
        backends.extend(known.map(|name| papers.backend(name, "127.0.0.2:5081")));
        let client_ca = asks.then(|| papers.authority.clone());
        let mut world = World::with(settings_of(vec![Farm { client_ca, ..papers.farm(backends) }]));
        let sockets = open("127.0.0.1:5061");
        assert_eq!(world.send(0, &asking(), &towards(&asking(), "127.0.0.1:5061"), &request(via)), Ok(()));
        world.accept(1, &serving(), &sockets);
        assert!(matches!(world.told(1).as_slice(), [Told::Came(..)]), "{via}");
        let outcome = world.send(0, &serving(), &by_alias, &message(2));
        if !expected {
            let is_lost = outcome.is_err() || world.told(1) == [Told::Lost(by_alias, message(2))];
            assert!(is_lost, "{asks} {via} {known:?}");
            continue;
        }
        assert_eq!((outcome, world.connections.counters().opened), (Ok(()), 1), "{via}");
        let told = world.told(1);
        assert!(
            matches!(told.as_slice(), [Told::Came(flow, octets)]
            if flow.listener == asking().id && *octets == message(2)),
            "{via}: {told:?}"
        );
        // It ends with the connection.
        world.connections.close_listener(asking().id);
        world.pass(Duration::ZERO);
        world.until(|connections, _| connections.counters().connections == 0);
        let outcome = world.send(0, &serving(), &by_alias, &message(3));
        let is_lost = outcome.is_err() || world.told(1) == [Told::Lost(by_alias, message(3))];
        assert!(is_lost, "{via}");
    }
}

#[test]
fn a_client_that_shows_no_certificate_is_refused_and_counted() {
    if !namespace::alone("stream::connections::tests::a_client_that_shows_no_certificate_is_refused_and_counted") {
        return;
    }
    let papers = Papers::of("one.example");
    let strict = Farm {
        client_ca: Some(papers.authority.clone()),
        client_certificates: ClientCertificates::Require,
        ..farm(&[serving()], vec![papers.certificate.clone()], Verify::Off)
    };
    let other = |certificates| Farm {
        id: FarmId::of("other"),
        backends: vec![papers.backend("one.example", "127.0.0.1:5061")],
        ..farm(&[asking()], certificates, Verify::Off)
    };
    let flow = towards(&asking(), "127.0.0.1:5061");
    let mut world = World::with(settings_of(vec![strict.clone(), other(Vec::new())]));
    let sockets = open("127.0.0.1:5061");
    assert_eq!(world.send(0, &asking(), &flow, &message(1)), Ok(()));
    world.accept(1, &serving(), &sockets);
    let is_told = |connections: &Connections| {
        let fault = connections.counters().last_fault;
        fault.is_some_and(|fault| fault.text == "tls: the client showed no certificate")
    };
    let told = world.until(|connections, _| is_told(connections));
    assert!(told.is_empty() && world.ended(Reason::Tls) >= 1, "{told:?}");
    drop((world, sockets));
    let mut world = World::with(settings_of(vec![strict, other(vec![papers.certificate.clone()])]));
    let sockets = open("127.0.0.1:5061");
    assert_eq!(world.send(0, &asking(), &flow, &message(1)), Ok(()));
    world.accept(1, &serving(), &sockets);
    assert!(matches!(world.told(1).as_slice(), [Told::Came(..)]), "its farm has one to show");
}

/// Somebody may connect to us from just there.
#[test]
fn whoever_comes_from_a_servers_address_is_not_taken_for_it() {
    if !namespace::alone("stream::connections::tests::whoever_comes_from_a_servers_address_is_not_taken_for_it") {
        return;
    }
    let papers = Papers::of("one.example");
    let backends = |is_named: bool| {
        let mut backends = vec![papers.backend("one.example", "127.0.0.1:5061")];
        backends.extend(is_named.then(|| papers.backend("two.example", "127.0.0.2:5061")));
        settings_of(vec![papers.farm(backends)])
    };
    let mut world = World::with(backends(false));
    let sockets = open("127.0.0.1:5061");
    assert_eq!(world.send(0, &asking(), &towards(&asking(), "127.0.0.1:5061"), &message(1)), Ok(()));
    world.accept(1, &serving(), &sockets);
    let told = world.told(1);
    assert!(matches!(told.as_slice(), [Told::Came(flow, _)] if flow.remote == asking().bind), "{told:?}");
    let back = towards(&serving(), "127.0.0.2:5061");
    assert_eq!(world.send(0, &serving(), &back, &message(2)), Ok(()), "a client is reached by its connection");
    assert!(matches!(world.told(1).as_slice(), [Told::Came(_, octets)] if *octets == message(2)));
    world.follow(&backends(true));
    assert_eq!(world.send(0, &serving(), &back, &message(3)), Ok(()));
    assert_eq!(world.told(1), [Told::Lost(back, message(3))], "nobody listens there who could prove it");
    assert_eq!(world.connections.counters().opened, 2);
}

#[test]
fn numbers_are_of_their_worker_and_never_those_with_a_meaning() {
    for workers in [1_usize, 2, 3, 7] {
        for worker in 0..workers {
            let numbers = ConnectionId::GONE.0 / workers as u32;
            let share = Share::beginning(Instant::from_micros(u64::from(numbers - 2)));
            let given: Vec<u32> = (0..4).map(|_| share.next_number(worker, workers)).collect();
            assert!(given.iter().all(|number| *number as usize % workers == worker && *number < ConnectionId::GONE.0));
            let distinct: std::collections::BTreeSet<&u32> = given.iter().collect();
            assert_eq!(distinct.len(), 4);
        }
    }
}

#[test]
fn tokens_are_apart_from_those_of_listeners_and_of_the_wake_up() {
    assert_eq!(number_of(token_of(0xff_fffe)), Some(0xff_fffe));
    assert_eq!(number_of(u64::from(u32::MAX)), None);
    assert_eq!(number_of(crate::data_plane::WAKE_TOKEN), None);
}

#[test]
fn sources_are_addresses_and_the_networks_of_a_customer() {
    let source = |text: &str| source_of(text.parse().expect("a valid address"));
    assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff::9"));
    assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
}
