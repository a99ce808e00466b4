//! Every state and its ends, on a socket made of memory.

use super::*;
use crate::stream::testing::{UPGRADE, UPGRADED, masked};
use engine::{ConnectionId, ListenerId};
use std::cell::{RefCell, RefMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

/// What the socket of a connection would say, decided by the test.
#[derive(Default)]
struct Pretended {
    /// What can be read, piece by piece; then it would wait.
    incoming: VecDeque<io::Result<Vec<u8>>>,
    /// What was written.
    taken: Vec<u8>,
    /// Octets that it takes before it would wait.
    room: usize,
    broken: bool,
    connect_error: Option<ErrorKind>,
    end_told: bool,
    forgets: bool,
    /// From how many octets on something would be reported; 0 as long as nobody has said.
    low_water: u16,
    knows_no_marks: bool,
}

/// One is the connection's, one the test's: both are the same socket.
struct Handle(Rc<RefCell<Pretended>>);

impl Handle {
    fn lock(&self) -> RefMut<'_, Pretended> {
        self.0.borrow_mut()
    }
}

impl Read for Handle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.lock().incoming.pop_front().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))?;
        buffer[..piece.len()].copy_from_slice(&piece);
        Ok(piece.len())
    }
}

impl Write for Handle {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let mut socket = self.lock();
        if socket.broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let count = octets.len().min(socket.room);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        socket.room -= count;
        socket.taken.extend_from_slice(&octets[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for Handle {
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.lock().connect_error.take().map(io::Error::from))
    }

    fn end_writing(&self) -> io::Result<()> {
        self.lock().end_told = true;
        Ok(())
    }

    fn forget_unsent(&self) {
        self.lock().forgets = true;
    }

    fn set_low_water(&self, octets: u16) -> io::Result<()> {
        let mut socket = self.lock();
        if socket.knows_no_marks {
            return Err(ErrorKind::Unsupported.into());
        }
        socket.low_water = octets;
        Ok(())
    }
}

/// A connection and the test's side of its socket.
struct World {
    now: Instant,
    connection: Connection<Handle>,
    socket: Handle,
    reader: Reader,
}

fn limits() -> StreamLimits {
    StreamLimits {
        connections: 10,
        per_source: 10,
        idle: Duration::from_secs(900),
        partial: Duration::from_secs(10),
        handshake: Duration::from_secs(5),
        stuck: Duration::from_secs(30),
        queue_octets: 1_000,
        message: sip::Limits::default(),
    }
}

fn flow() -> Flow {
    Flow {
        listener: ListenerId(1),
        local: IpAddr::V4(Ipv4Addr::LOCALHOST),
        remote: SocketAddr::from(([127, 0, 0, 1], 5070)),
        connection: ConnectionId(7),
    }
}

fn message(number: usize) -> Vec<u8> {
    format!("SIP/2.0 200 OK\r\nCall-ID: {number:04}\r\nContent-Length: 0\r\n\r\n").into_bytes()
}

impl World {
    fn new(make: impl FnOnce(Handle, Wire, Instant) -> Connection<Handle>, wire: Wire) -> Self {
        let state = Pretended { room: usize::MAX, ..Pretended::default() };
        let shared = Rc::new(RefCell::new(state));
        let now = Instant::from_micros(1_000_000);
        let connection = make(Handle(Rc::clone(&shared)), wire, now);
        Self { now, connection, socket: Handle(shared), reader: Reader::new() }
    }

    fn accepted() -> Self {
        Self::new(Connection::accepted, Wire::plain(sip::Limits::default()))
    }

    fn opened() -> Self {
        Self::new(Connection::opened, Wire::plain(sip::Limits::default()))
    }

    /// Accepted, and the upgrade of its WebSocket is awaited.
    fn handshaking() -> Self {
        let wire = Wire::plain(sip::Limits::default()).with_web_socket(Arc::from([]));
        Self::new(Connection::accepted, wire)
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), NotSent> {
        let (flow, packet) = (flow(), Packet::copy_from(octets));
        let sending = Sending { flow: &flow, packet: &packet, attempt: Attempt::First };
        self.connection.send(sending, self.now, limits().queue_octets)
    }

    fn ready(&mut self, readable: bool, writable: bool) {
        let ready = Ready { readable, writable, ..Ready::default() };
        self.connection.ready(&ready, self.now, &mut self.reader);
    }

    /// The peer sends this.
    fn arrive(&mut self, octets: &[u8]) {
        self.socket.lock().incoming.push_back(Ok(octets.to_vec()));
        self.ready(true, false);
    }

    /// The peer sends this, and the kernel does not tell.
    fn arrive_unnoticed(&mut self, octets: &[u8]) {
        self.socket.lock().incoming.push_back(Ok(octets.to_vec()));
    }

    /// Its owner looks for keep-alives, and answers them.
    fn look(&mut self) -> Found {
        let found = self.connection.look(self.now, &mut self.reader);
        if found == Found::KeepAlives {
            self.connection.answer(self.now);
        }
        found
    }

    fn arrive_end(&mut self) {
        self.arrive(b"");
    }

    /// The socket takes so much more.
    fn make_room(&mut self, octets: usize) {
        self.socket.lock().room = octets;
        self.ready(false, true);
    }

    /// Lets the time pass, and sweeps only if the connection asked for it.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.connection.due(&limits()) <= self.now {
            self.sweep();
        }
    }

    fn sweep(&mut self) {
        self.connection.sweep(self.now, &limits(), &mut self.reader);
    }

    /// Whether it dozes, and from how many octets on the kernel reports something.
    fn doze(&self) -> (bool, u16) {
        (self.connection.is_dozing(), self.socket.lock().low_water)
    }

    /// Why it ended, and how many messages were lost by it.
    fn end(&mut self) -> Option<(Reason, usize)> {
        self.connection.take_end().map(|end| (end.reason, end.lost.len()))
    }

    fn taken(&self) -> Vec<u8> {
        self.socket.lock().taken.clone()
    }

    fn came(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.reader.came)
    }

    fn waits_for(&mut self) -> (bool, bool) {
        self.connection.change_of_interest();
        let Interest { readable, writable } = self.connection.watched();
        (readable, writable)
    }
}

#[test]
fn messages_pass_both_ways_at_once() {
    let mut world = World::accepted();
    assert_eq!(world.waits_for(), (true, false));
    world.arrive(&[message(1), message(2)].concat());
    assert_eq!(world.came(), [message(1), message(2)]);
    assert_eq!(world.send(&message(3)), Ok(()));
    assert_eq!(world.taken(), message(3));
    assert_eq!(world.waits_for(), (true, false), "nothing waits");
    world.arrive(b"\r\n\r\n");
    assert_eq!(world.taken(), [message(3), b"\r\n".to_vec()].concat(), "a keep-alive is answered in the same turn");
    assert_eq!(world.end(), None);
}

#[test]
fn what_the_socket_does_not_take_waits_for_it_in_order() {
    let mut world = World::accepted();
    world.socket.lock().room = 10;
    assert_eq!((world.send(&message(1)), world.send(&message(2))), (Ok(()), Ok(())));
    assert_eq!(world.taken().len(), 10);
    assert_eq!(world.waits_for(), (true, true));
    world.make_room(message(1).len());
    assert_eq!(world.connection.held.len(), 1, "the first is through, the second is not");
    world.make_room(usize::MAX);
    assert_eq!(world.taken(), [message(1), message(2)].concat());
    assert_eq!((world.connection.held.len(), world.waits_for()), (0, (true, false)));
}

#[test]
fn a_peer_that_does_not_read_gets_no_more_than_its_queue_and_is_left() {
    let mut world = World::accepted();
    world.socket.lock().room = 0;
    let mut sent = 0;
    while world.send(&message(sent)).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 1_000 / message(0).len());
    assert_eq!(world.send(&message(0)), Err(NotSent::QueueFull));
    // Anything that moves begins the time anew; what comes from the peer does not.
    world.pass(Duration::from_secs(29));
    world.make_room(1);
    world.pass(Duration::from_secs(29));
    world.arrive(b"\r\n\r\n");
    assert_eq!(world.end(), None);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.end(), Some((Reason::QueueStuck, sent)));
    assert!(world.connection.is_over() && world.socket.lock().forgets);
    assert_eq!(world.send(&message(0)), Err(NotSent::Gone));
}

#[test]
fn what_was_sent_before_it_is_connected_follows_or_comes_back() {
    let mut world = World::opened();
    assert_eq!((world.send(&message(1)), world.send(&message(2))), (Ok(()), Ok(())));
    assert_eq!((world.taken().len(), world.waits_for()), (0, (false, true)));
    world.ready(false, true);
    assert_eq!(world.taken(), [message(1), message(2)].concat());
    assert_eq!((world.connection.held.len(), world.connection.held_octets, world.waits_for()), (0, 0, (true, false)));

    let mut world = World::opened();
    let mut sent = 0;
    while world.send(&message(sent)).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 1_000 / message(0).len(), "the queue is bounded before it is connected too");
    world.socket.lock().connect_error = Some(ErrorKind::ConnectionRefused);
    let ready = Ready { token: 0, readable: true, writable: true, hung_up: true, error: true };
    world.connection.ready(&ready, world.now, &mut world.reader);
    let end = world.connection.take_end().expect("it was refused");
    let lost: Vec<Vec<u8>> = end.lost.iter().map(|held| held.packet.to_vec()).collect();
    assert_eq!((end.reason, lost), (Reason::ConnectRefused, (0..sent).map(message).collect::<Vec<Vec<u8>>>()));
    assert!(end.lost.iter().all(|held| held.flow == flow()));
    assert!(world.connection.is_over());
}

#[test]
fn connecting_and_the_handshake_take_no_longer_than_they_may() {
    let mut world = World::opened();
    assert_eq!(world.send(&message(1)), Ok(()));
    world.pass(Duration::from_millis(4_999));
    assert_eq!(world.end(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!((world.end(), world.connection.is_over()), (Some((Reason::ConnectTimedOut, 1)), true));

    let mut world = World::opened();
    world.socket.lock().connect_error = Some(ErrorKind::TimedOut);
    world.ready(false, true);
    assert_eq!(world.end(), Some((Reason::ConnectTimedOut, 0)));

    let mut world = World::handshaking();
    assert_eq!(world.send(&message(1)), Ok(()));
    world.pass(Duration::from_millis(3_000));
    world.arrive(b"GET / HTTP/1.1\r\n");
    world.pass(Duration::from_millis(1_999));
    assert_eq!(world.end(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!((world.end(), world.connection.is_over()), (Some((Reason::HandshakeTimedOut, 1)), true));
}

#[test]
fn a_message_may_take_its_time_but_no_longer() {
    let mut world = World::accepted();
    let text = message(1);
    // The end of one message and the beginning of the next come together: the next begins then.
    world.arrive(&text[..20]);
    world.pass(Duration::from_secs(9));
    world.arrive(&[&text[20..], &text[..5]].concat());
    assert_eq!(world.came(), [message(1)]);
    world.pass(Duration::from_secs(9));
    // Further octets of the same message win no time.
    world.arrive(&text[5..10]);
    world.pass(Duration::from_millis(999));
    assert_eq!(world.end(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.end(), Some((Reason::MessageTimedOut, 0)));
    assert!(world.socket.lock().end_told && !world.connection.is_over());
}

#[test]
fn silence_ends_it_and_any_octets_break_it() {
    let mut world = World::accepted();
    for _ in 0..3 {
        world.pass(Duration::from_secs(899));
        assert_eq!(world.end(), None);
        world.arrive(b"\r\n\r\n");
    }
    // What we send proves nothing of the peer.
    world.pass(Duration::from_secs(899));
    assert_eq!(world.send(&message(1)), Ok(()));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.end(), Some((Reason::Idle, 0)));
    assert_eq!(world.send(&message(1)), Err(NotSent::Gone));
    assert_eq!(world.waits_for(), (true, false), "the peer's end is awaited");
    world.arrive(&message(2));
    assert!(world.came().is_empty(), "what comes after the end is dropped");
    world.arrive_end();
    assert!(world.connection.is_over());
    assert_eq!(world.end(), None, "an end is told once");
}

#[test]
fn a_peer_that_does_not_answer_our_end_is_not_waited_for() {
    let mut world = World::accepted();
    world.arrive(b"no SIP at all\r\n\r\n");
    let end = world.connection.take_end().expect("nobody can frame this");
    assert!(matches!(end.reason, Reason::Framing(_)) && end.fault.is_some());
    assert!(world.socket.lock().end_told);
    world.pass(CLOSING - Duration::from_micros(1));
    assert!(!world.connection.is_over());
    world.pass(Duration::from_micros(1));
    assert!(world.connection.is_over());
}

#[test]
fn messages_before_a_fault_count() {
    let mut world = World::accepted();
    world.arrive(&[message(1), b"no SIP at all\r\n\r\n".to_vec()].concat());
    assert_eq!(world.came(), [message(1)]);
    assert!(matches!(world.end(), Some((Reason::Framing(_), 0))));
}

#[test]
fn the_peers_end_is_answered_by_ours() {
    let mut world = World::accepted();
    world.arrive_end();
    assert_eq!((world.end(), world.connection.is_over()), (Some((Reason::PeerClosed, 0)), true));

    // A peer that ends only its own side is still told what was on its way; but nobody relies on that.
    let mut world = World::accepted();
    world.socket.lock().room = 10;
    assert_eq!(world.send(&message(1)), Ok(()));
    world.arrive_end();
    assert_eq!(world.end(), Some((Reason::PeerClosed, 1)));
    assert_eq!(world.waits_for(), (false, true), "an end that was read is not reported again");
    world.make_room(usize::MAX);
    assert_eq!((world.taken(), world.connection.is_over()), (message(1), true));
}

#[test]
fn a_socket_that_fails_gives_back_what_it_did_not_take() {
    let mut world = World::accepted();
    world.socket.lock().room = 10;
    assert_eq!((world.send(&message(1)), world.send(&message(2))), (Ok(()), Ok(())));
    world.socket.lock().incoming.push_back(Err(ErrorKind::ConnectionReset.into()));
    world.ready(true, false);
    assert_eq!((world.end(), world.connection.is_over()), (Some((Reason::Reset, 2)), true));

    // Found out by the sender: its message is its own to give back.
    let mut world = World::accepted();
    world.socket.lock().broken = true;
    assert_eq!(world.send(&message(1)), Err(NotSent::Gone));
    assert_eq!((world.end(), world.connection.is_over()), (Some((Reason::Reset, 0)), true));
}

#[test]
fn connections_of_a_listener_that_is_gone_are_ended() {
    for (mut world, is_over) in [(World::accepted(), false), (World::opened(), true), (World::handshaking(), true)] {
        world.connection.doom();
        assert_eq!(world.connection.due(&limits()), Instant::default());
        world.pass(Duration::ZERO);
        assert_eq!((world.end(), world.connection.is_over()), (Some((Reason::ListenerClosed, 0)), is_over));
        assert!(world.connection.due(&limits()) > world.now, "it is not swept again and again");
    }
}

#[test]
fn an_idle_connection_rests_once() {
    let mut world = World::accepted();
    world.arrive(&message(1));
    world.pass(doze::QUIET);
    assert_eq!(world.connection.due(&limits()), world.now + (REST_AFTER - doze::QUIET));
    world.pass(REST_AFTER - doze::QUIET);
    assert!(world.connection.rested);
    assert_eq!(world.connection.due(&limits()), world.now + (limits().idle - REST_AFTER));
    world.arrive(&message(2));
    assert_eq!(world.came(), [message(1), message(2)]);
    assert!(!world.connection.rested);
}

/// One that the settings name, connected.
fn server() -> World {
    let mut world = World::opened();
    world.connection.keep(true);
    world.ready(false, true);
    world
}

#[test]
fn a_server_is_asked_for_signs_of_life_and_left_when_they_end() {
    let mut world = server();
    world.pass(Duration::from_millis(119_999));
    assert!(world.taken().is_empty() && world.connection.rested);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.taken(), b"\r\n\r\n");
    assert_eq!(world.connection.due(&limits()), world.now + Duration::from_secs(10));
    world.pass(Duration::from_millis(9_999));
    world.arrive(b"\r\n");
    assert!(world.came().is_empty() && world.connection.rested, "a pong wakes nobody");
    world.pass(Duration::from_secs(120));
    assert_eq!(world.taken(), b"\r\n\r\n\r\n\r\n");
    world.pass(Duration::from_millis(9_999));
    assert_eq!(world.end(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.end(), Some((Reason::PongTimedOut, 0)));
    assert_eq!(world.send(&message(1)), Err(NotSent::Gone));
}

#[test]
fn a_server_that_knows_no_pings_is_not_punished() {
    let mut world = server();
    world.pass(Duration::from_secs(120));
    world.pass(Duration::from_secs(10));
    assert_eq!((world.end(), world.taken()), (None, b"\r\n\r\n".to_vec()));
    for _ in 0..3 {
        world.pass(Duration::from_secs(200));
    }
    assert_eq!(world.taken(), b"\r\n\r\n", "it is not asked again");
    // Its own pings are no answers.
    world.arrive(b"\r\n\r\n");
    assert_eq!(world.taken(), b"\r\n\r\n\r\n");
    world.pass(Duration::from_secs(900));
    assert_eq!(world.end(), Some((Reason::Idle, 0)));
}

#[test]
fn who_is_no_server_of_ours_is_asked_nothing() {
    let mut others = World::opened();
    others.ready(false, true);
    let mut left = server();
    left.connection.keep(false);
    for mut world in [World::accepted(), others, left] {
        for _ in 0..4 {
            world.pass(Duration::from_secs(220));
        }
        assert_eq!((world.end(), world.taken().len()), (None, 0));
        world.pass(Duration::from_secs(20));
        assert_eq!(world.end(), Some((Reason::Idle, 0)));
    }
}

#[test]
fn nobody_is_asked_behind_what_waits_already() {
    let mut world = server();
    world.socket.lock().room = 10;
    world.pass(Duration::from_secs(119));
    assert_eq!(world.send(&message(1)), Ok(()));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.taken().len(), 10);
    world.make_room(usize::MAX);
    world.pass(Duration::ZERO);
    assert_eq!(world.taken(), [message(1), b"\r\n\r\n".to_vec()].concat());
}

#[test]
fn a_browser_must_answer() {
    let mut world = World::handshaking();
    world.arrive(UPGRADE.as_bytes());
    world.pass(Duration::from_millis(20_999));
    assert_eq!(world.taken(), UPGRADED.as_bytes());
    world.pass(Duration::from_millis(1));
    assert_eq!(world.taken(), [UPGRADED.as_bytes(), &[0x89, 0]].concat());
    world.pass(Duration::from_millis(9_999));
    world.arrive(&masked(0x8a, b""));
    assert!(world.connection.rested && world.end().is_none());
    world.pass(Duration::from_secs(21));
    world.pass(Duration::from_millis(9_999));
    assert_eq!(world.end(), None);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.end(), Some((Reason::PongTimedOut, 0)));
    assert!(world.taken().ends_with(&[0x88, 2, 0x03, 0xe8]), "the WebSocket is closed in order");
}

const PING: &[u8] = b"\r\n\r\n";

/// One that has fallen asleep.
fn asleep() -> World {
    let mut world = World::accepted();
    world.pass(doze::QUIET);
    assert_eq!(world.doze(), (true, 5));
    world
}

#[test]
fn it_dozes_after_a_second_without_messages_and_not_before() {
    const MOMENT: Duration = Duration::from_millis(1);
    let mut world = World::accepted();
    world.pass(doze::QUIET - MOMENT);
    world.arrive(&message(1));
    world.pass(doze::QUIET - MOMENT);
    assert_eq!(world.doze(), (false, 0));
    // Keep-alives do not begin the second anew.
    world.arrive(PING);
    world.pass(MOMENT);
    assert_eq!(world.doze(), (true, 5));
    assert_eq!(world.connection.due(&limits()), world.now + (REST_AFTER - MOMENT), "it is not swept again for that");
    // From the upgrade on.
    let mut browser = World::handshaking();
    browser.pass(2 * doze::QUIET);
    browser.arrive(UPGRADE.as_bytes());
    browser.pass(doze::QUIET - MOMENT);
    assert_eq!(browser.doze(), (false, 0));
    browser.pass(MOMENT);
    assert_eq!(browser.doze(), (true, 11));
}

#[test]
fn nobody_dozes_while_anything_is_under_way() {
    let mut partial = World::accepted();
    partial.arrive(&message(1)[..20]);
    let mut unread = World::accepted();
    unread.socket.lock().room = 10;
    assert_eq!(unread.send(&message(1)), Ok(()));
    let mut unable = World::accepted();
    unable.socket.lock().knows_no_marks = true;
    for world in [&mut partial, &mut unread, &mut unable, &mut World::opened(), &mut World::handshaking()] {
        world.pass(2 * doze::QUIET);
        world.sweep();
        assert_eq!(world.doze(), (false, 0));
        assert!(world.connection.due(&limits()) > world.now, "it is not swept again and again");
    }
    partial.arrive(&message(1)[20..]);
    unread.make_room(usize::MAX);
    for world in [&mut partial, &mut unread] {
        world.pass(doze::QUIET);
        assert_eq!(world.doze(), (true, 5));
    }
}

#[test]
fn keep_alives_of_who_dozes_are_answered_when_its_owner_looks() {
    let mut world = asleep();
    assert_eq!(world.look(), Found::Nothing);
    for round in 1..4 {
        world.arrive_unnoticed(PING);
        assert_eq!(world.connection.look(world.now, &mut world.reader), Found::KeepAlives);
        assert_eq!(world.taken().len(), 2 * (round - 1), "the answers leave together");
        world.connection.answer(world.now);
        assert_eq!(world.taken(), b"\r\n".repeat(round));
    }
    // More of them at once are reported, and change nothing.
    world.arrive(&PING.repeat(2));
    assert_eq!((world.taken(), world.doze()), (b"\r\n".repeat(5), (true, 5)));
    // So does what we send.
    assert_eq!((world.send(&message(1)), world.doze()), (Ok(()), (true, 5)));
    assert_eq!((world.look(), world.waits_for(), world.end()), (Found::Nothing, (true, false), None));
}

#[test]
fn messages_wake_it_whole_or_not() {
    let mut world = asleep();
    world.arrive(&message(1));
    assert_eq!((world.came(), world.doze()), (vec![message(1)], (false, 1)));
    assert_eq!(world.look(), Found::Nothing, "who is awake is not looked after");
    // The rest may be shorter than the mark.
    let mut world = asleep();
    world.arrive(&message(1)[..50]);
    assert_eq!(world.doze(), (false, 1));
    world.arrive(&message(1)[50..]);
    assert_eq!(world.came(), [message(1)]);
    world.pass(doze::QUIET);
    assert_eq!(world.doze(), (true, 5));
    // A ping and a message together, reported or found.
    world.arrive(&[PING, &message(2)].concat());
    assert_eq!((world.came(), world.taken(), world.doze()), (vec![message(2)], b"\r\n".to_vec(), (false, 1)));
    world.pass(doze::QUIET);
    world.arrive_unnoticed(&[PING, &message(3)].concat());
    assert_eq!(world.look(), Found::More);
    assert_eq!((world.came(), world.taken(), world.doze()), (vec![message(3)], b"\r\n".repeat(2), (false, 1)));
}

#[test]
fn octets_that_are_found_are_bounded_like_any_others() {
    let mut slow = asleep();
    slow.arrive_unnoticed(b"SIP/");
    assert_eq!((slow.look(), slow.doze()), (Found::More, (false, 1)));
    slow.pass(Duration::from_millis(9_999));
    assert_eq!(slow.end(), None);
    slow.pass(Duration::from_millis(1));
    assert_eq!(slow.end(), Some((Reason::MessageTimedOut, 0)));

    let mut confused = asleep();
    confused.arrive_unnoticed(b"\n");
    assert_eq!(confused.look(), Found::More);
    assert!(matches!(confused.end(), Some((Reason::Framing(_), 0))));
    assert!(confused.socket.lock().end_told);

    let mut gone = asleep();
    gone.arrive_unnoticed(b"");
    assert_eq!((gone.look(), gone.end()), (Found::More, Some((Reason::PeerClosed, 0))));

    let mut deaf = asleep();
    deaf.socket.lock().room = 0;
    for _ in 0..5_000 {
        deaf.arrive(PING);
    }
    let waiting = deaf.connection.wire.outgoing().len();
    assert!((4_096..4_100).contains(&waiting), "{waiting}");

    let mut browser = World::handshaking();
    browser.arrive(UPGRADE.as_bytes());
    browser.pass(doze::QUIET);
    assert!(browser.connection.is_dozing());
    browser.arrive(&masked(0x89, b"").repeat(11));
    assert_eq!(browser.end(), Some((Reason::WebSocket, 0)));
}

#[test]
fn who_dozes_is_read_before_it_is_judged() {
    let mut silent = asleep();
    silent.pass(limits().idle - doze::QUIET);
    assert_eq!((silent.end(), silent.doze()), (Some((Reason::Idle, 0)), (false, 1)), "its end is awaited");
    let mut alive = asleep();
    alive.arrive_unnoticed(PING);
    alive.pass(limits().idle - doze::QUIET);
    assert_eq!((alive.end(), alive.taken(), alive.doze()), (None, b"\r\n".to_vec(), (true, 5)));
    let mut server = server();
    server.pass(Duration::from_secs(120));
    assert_eq!((server.taken(), server.doze()), (PING.to_vec(), (true, 5)));
    server.arrive_unnoticed(b"\r\n");
    server.pass(Duration::from_secs(10));
    assert_eq!(server.end(), None);
    server.pass(Duration::from_secs(120));
    server.pass(Duration::from_secs(10));
    assert_eq!(server.end(), Some((Reason::PongTimedOut, 0)), "it has answered once");
    // What came with it is told.
    let mut doomed = asleep();
    doomed.arrive_unnoticed(&message(1));
    doomed.connection.doom();
    doomed.pass(Duration::ZERO);
    assert_eq!((doomed.came(), doomed.end()), (vec![message(1)], Some((Reason::ListenerClosed, 0))));
}

#[test]
fn an_end_tells_whether_it_was_up_before() {
    let mut world = World::opened();
    assert_eq!(world.send(&message(1)), Ok(()));
    world.socket.lock().connect_error = Some(ErrorKind::ConnectionRefused);
    world.ready(false, true);
    assert!(!world.connection.take_end().expect("it was refused").was_open);
    let mut world = server();
    world.socket.lock().room = 10;
    assert_eq!(world.send(&message(1)), Ok(()));
    world.arrive_end();
    let end = world.connection.take_end().expect("the peer ended it");
    assert_eq!((end.was_open, end.reason, end.lost.len()), (true, Reason::PeerClosed, 1));
    assert!(end.lost.iter().all(|held| held.attempt == Attempt::First));
}

#[test]
fn limits_are_those_of_the_settings() {
    let settings = engine::Limits::default();
    let limits = StreamLimits::of(&settings);
    assert_eq!((limits.stuck, limits.partial), (Duration::from_secs(30), Duration::from_secs(10)));
    assert_eq!((limits.queue_octets, limits.message.message_bytes), (1_048_576, 65_535));
}
