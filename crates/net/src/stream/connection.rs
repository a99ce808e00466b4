//! One connection: a socket with its wire, what waits to be sent, its deadlines, and why it ends.
//!
//! | state | what happens | what follows |
//! |---|---|---|
//! | Connecting (ours only) | the socket is connected | Handshaking; Open at once where the wire needs no handshake |
//! | | the peer refuses, or there is no way to it | Over: connect refused |
//! | | `handshake` is over, or the kernel gives up | Over: connect timed out |
//! | Handshaking | TLS and the upgrade are through | Open: what is held goes to the wire |
//! | | `handshake` is over | Over: handshake timed out |
//! | Open | a message came | Open |
//! | | nothing came for `idle` | Closing: idle |
//! | | a message is not whole within `partial` | Closing: message timed out |
//! | | what waits did not move for `stuck` | Over by a reset: queue stuck |
//! | | a ping of ours that must be answered is not | Closing: pong timed out |
//! | Handshaking, Open | the wire cannot be followed any further | Closing: as it says; what the peer is to be told waits in the wire |
//! | | the peer's end was read | Closing: peer closed |
//! | Connecting, Handshaking | its listener is gone | Over: listener closed |
//! | Open | its listener is gone | Closing: listener closed |
//! | Closing | the socket took all that waits | Closing; the peer is told that nothing more comes |
//! | | this, and the peer's end was read | Over |
//! | | `CLOSING` is over | Over |
//! | all but Over | the socket fails | Over: reset |
//!
//! Messages may be sent while it is Connecting, Handshaking or Open. Before it is Open they are held here, afterwards they go into the
//! wire and are held only until the socket took their last octet. What is held when Closing or Over begins was not delivered, and is
//! given back. Whatever arrives in Closing is read and dropped: the kernel would answer it with a reset, which may overtake what the
//! peer is still to be told.
//!
//! While it is Open it may doze: the kernel tells nothing of keep-alives then, for which its owner looks now and then, see [`doze`].
//!
//! The socket is a type parameter, so that all of this is tested without one.

mod doze;
mod keep_alive;
mod limits;
mod reason;

pub(crate) use doze::Found;
pub(crate) use limits::StreamLimits;
pub(crate) use reason::{NotSent, Reason, ReasonCounts};

use super::wire::{Came, Wire, WireFault};
use crate::datagram::{Interest, Ready, set_option};
use doze::Doze;
use engine::{Flow, Packet};
use keep_alive::{KeepAlive, Step};
use rustls::pki_types::CertificateDer;
use sip::Instant;
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// A connection and all that is known of it.
pub(crate) struct Connection<S> {
    /// `None` when it is over.
    socket: Option<S>,
    wire: Wire,
    state: State,
    /// Messages whose last octet the socket has not taken, in order.
    held: VecDeque<Held>,
    /// Octets of those that the wire has not been given yet.
    held_octets: usize,
    /// Octets that the socket took.
    written: u64,
    /// The socket took no more, until the poll says that it does again.
    blocked: bool,
    /// Since when what waits has not moved.
    stuck_since: Option<Instant>,
    keep_alive: KeepAlive,
    doze: Doze,
    /// The wire has given back what it does not need.
    rested: bool,
    /// Its listener is gone.
    doomed: bool,
    /// What the poll watches the socket for.
    watched: Interest,
    /// How it ended, until that is taken.
    end: Option<End>,
}

/// A message that is to be sent. `flow`: as the shard knows it, which is told of its fate.
#[derive(Clone, Copy)]
pub(crate) struct Sending<'a> {
    pub(crate) flow: &'a Flow,
    pub(crate) packet: &'a Packet,
    pub(crate) attempt: Attempt,
}

/// How often a message is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attempt {
    First,
    /// The connection of the first one broke with the message in it.
    Second,
}

/// How a connection ended.
pub(crate) struct End {
    pub(crate) reason: Reason,
    /// It was up before.
    pub(crate) was_open: bool,
    /// What was wrong with what the peer sent, for the operator.
    pub(crate) fault: Option<String>,
    /// Messages that were not delivered.
    pub(crate) lost: VecDeque<Held>,
}

/// A message on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) flow: Flow,
    pub(crate) packet: Packet,
    pub(crate) attempt: Attempt,
    /// Delivered when this many octets were written; `None` before the wire has got it.
    ends_at: Option<u64>,
}

/// Room for what one turn reads. Belongs to one worker.
pub(crate) struct Reader {
    buffer: Vec<u8>,
    /// Whole messages, in order.
    pub(crate) came: Vec<Vec<u8>>,
}

/// What a connection needs of its socket, which never waits.
pub(crate) trait Socket: Read + Write {
    /// Why connecting failed, if it did.
    fn take_error(&self) -> io::Result<Option<io::Error>>;
    /// Tells the peer that nothing more comes.
    fn end_writing(&self) -> io::Result<()>;
    /// Has the kernel drop what it still holds for the peer when the socket is closed.
    fn forget_unsent(&self);
    /// Has the kernel report that something came only from so many octets on; an end or an error always.
    fn set_low_water(&self, octets: u16) -> io::Result<()>;
}

enum State {
    Connecting {
        since: Instant,
    },
    Handshaking {
        since: Instant,
    },
    /// `heard`: when octets came last. `partial_since`: when the first octet of an unfinished message came.
    Open {
        heard: Instant,
        partial_since: Option<Instant>,
    },
    /// `end_read`, `end_told`: the peer has said that nothing more comes, so have we.
    Closing {
        since: Instant,
        end_read: bool,
        end_told: bool,
    },
    Over,
}

impl<S: Socket> Connection<S> {
    /// On a socket that was accepted.
    pub(crate) fn accepted(socket: S, wire: Wire, now: Instant) -> Self {
        let state = if wire.is_established() {
            State::Open { heard: now, partial_since: None }
        } else {
            State::Handshaking { since: now }
        };
        let keep_alive = KeepAlive::accepted(wire.is_web_socket());
        Self::new(socket, wire, state, keep_alive, now)
    }

    /// On a socket that is being connected.
    pub(crate) fn opened(socket: S, wire: Wire, now: Instant) -> Self {
        Self::new(socket, wire, State::Connecting { since: now }, KeepAlive::opened(), now)
    }

    fn new(socket: S, wire: Wire, state: State, keep_alive: KeepAlive, now: Instant) -> Self {
        let mut connection = Self {
            socket: Some(socket),
            wire,
            state,
            held: VecDeque::new(),
            held_octets: 0,
            written: 0,
            blocked: false,
            stuck_since: None,
            keep_alive,
            doze: Doze::Awake { since: now },
            rested: false,
            doomed: false,
            watched: Interest { readable: false, writable: false },
            end: None,
        };
        connection.watched = connection.interest();
        connection
    }

    pub(crate) fn socket(&self) -> Option<&S> {
        self.socket.as_ref()
    }

    /// What the poll is to watch the socket for from the beginning.
    pub(crate) fn watched(&self) -> Interest {
        self.watched
    }

    /// What the poll is to watch the socket for from now on, where that has changed.
    pub(crate) fn change_of_interest(&mut self) -> Option<Interest> {
        let wanted = self.interest();
        let before = mem::replace(&mut self.watched, wanted);
        (wanted != before && self.socket.is_some()).then_some(wanted)
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Whether the settings name the server that we opened it to: then it is asked for signs of life.
    pub(crate) fn keep(&mut self, kept: bool) {
        self.keep_alive.keep(kept);
    }

    /// The certificate that a client showed and that was verified.
    pub(crate) fn verified_client(&self) -> Option<&CertificateDer<'static>> {
        self.wire.verified_client()
    }

    /// How it ended: told once, as soon as Closing or Over begins.
    pub(crate) fn take_end(&mut self) -> Option<End> {
        self.end.take()
    }

    /// Sends a message, at once where the socket takes it. After an error it is not held here.
    pub(crate) fn send(&mut self, sending: Sending<'_>, now: Instant, queue_octets: usize) -> Result<(), NotSent> {
        let is_open = match self.state {
            State::Connecting { .. } | State::Handshaking { .. } => false,
            State::Open { .. } => true,
            State::Closing { .. } | State::Over => return Err(NotSent::Gone),
        };
        let length = sending.packet.len();
        if self.wire.queued() + self.held_octets + length > queue_octets {
            return Err(NotSent::QueueFull);
        }
        if !is_open {
            self.held_octets += length;
            self.held.push_back(Held::new(sending, None));
            return Ok(());
        }
        self.rested = false;
        self.wire.send(sending.packet);
        let ends_at = self.written + self.wire.outgoing().len() as u64;
        self.write(now);
        if self.is_over() {
            return Err(NotSent::Gone);
        }
        if self.written < ends_at {
            self.held.push_back(Held::new(sending, Some(ends_at)));
        }
        Ok(())
    }

    /// Does what the poll found possible: reads once, as much as `reader` has room for, and writes what waits.
    pub(crate) fn ready(&mut self, ready: &Ready, now: Instant, reader: &mut Reader) {
        if ready.writable {
            self.blocked = false;
        }
        if let State::Connecting { since } = self.state {
            self.connected(ready, since);
        }
        if ready.readable || ready.hung_up || ready.error {
            self.read(now, reader);
        }
        self.advance(now);
    }

    /// Its listener is gone: the next [`Connection::sweep`] ends it.
    pub(crate) fn doom(&mut self) {
        self.doomed = true;
    }

    /// When [`Connection::sweep`] has something to do, as far as is known now.
    pub(crate) fn due(&self, limits: &StreamLimits) -> Instant {
        match self.state {
            State::Closing { since, .. } => since + CLOSING,
            State::Over => Instant::from_micros(u64::MAX),
            _ if self.doomed => Instant::default(),
            State::Connecting { since } | State::Handshaking { since } => since + limits.handshake,
            State::Open { heard, partial_since } => {
                let idle = heard + limits.idle;
                let rest = (!self.rested).then(|| heard + REST_AFTER);
                let partial = partial_since.map(|since| since + limits.partial);
                let stuck = self.stuck_since.map(|since| since + limits.stuck);
                let keep_alive = self.keep_alive.due(heard, limits.idle, self.blocked);
                [rest, partial, stuck, keep_alive, self.drowsy_at()].into_iter().flatten().fold(idle, Instant::min)
            }
        }
    }

    /// Ends what has taken too long, and asks the peer for a sign of life where none came for long.
    fn expire(&mut self, now: Instant, limits: &StreamLimits) {
        let is_over = |since: Instant, limit: Duration| since + limit <= now;
        match self.state {
            State::Connecting { .. } | State::Handshaking { .. } if self.doomed => self.lose(Reason::ListenerClosed),
            State::Connecting { since } if is_over(since, limits.handshake) => self.lose(Reason::ConnectTimedOut),
            State::Handshaking { since } if is_over(since, limits.handshake) => self.lose(Reason::HandshakeTimedOut),
            State::Open { .. } if self.stuck_since.is_some_and(|since| is_over(since, limits.stuck)) => {
                if let Some(socket) = &self.socket {
                    socket.forget_unsent();
                }
                self.lose(Reason::QueueStuck);
            }
            State::Open { .. } if self.doomed => self.leave(Reason::ListenerClosed, now),
            State::Open { partial_since: Some(since), .. } if is_over(since, limits.partial) => {
                self.leave(Reason::MessageTimedOut, now);
            }
            State::Open { heard, .. } if is_over(heard, limits.idle) => self.leave(Reason::Idle, now),
            State::Open { heard, .. }
                if self.keep_alive.due(heard, limits.idle, self.blocked).is_some_and(|due| due <= now) =>
            {
                self.ask(now);
            }
            State::Open { heard, .. } if is_over(heard, REST_AFTER) => self.rest(),
            State::Closing { since, .. } if is_over(since, CLOSING) => self.drop_socket(),
            _ => {}
        }
    }

    fn interest(&self) -> Interest {
        let waits = !self.wire.outgoing().is_empty();
        match self.state {
            State::Connecting { .. } => Interest { readable: false, writable: true },
            State::Handshaking { .. } | State::Open { .. } => Interest { readable: true, writable: waits },
            // An end that was read would be reported again and again.
            State::Closing { end_read, .. } => Interest { readable: !end_read, writable: waits },
            State::Over => Interest { readable: false, writable: false },
        }
    }

    fn connected(&mut self, ready: &Ready, since: Instant) {
        let Some(socket) = &self.socket else { return };
        match socket.take_error() {
            Ok(None) if ready.writable => self.state = State::Handshaking { since },
            Ok(Some(error)) if error.kind() == ErrorKind::TimedOut => self.lose(Reason::ConnectTimedOut),
            Ok(_) | Err(_) => self.lose(Reason::ConnectRefused),
        }
    }

    /// Reads once. False: there was nothing.
    fn read(&mut self, now: Instant, reader: &mut Reader) -> bool {
        let Some(socket) = &mut self.socket else { return false };
        match socket.read(&mut reader.buffer) {
            Ok(count) => self.receive(count, now, reader),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return false,
            Err(_) => self.lose(Reason::Reset),
        }
        true
    }

    /// The first `count` octets of the buffer came; none are the peer's end.
    fn receive(&mut self, count: usize, now: Instant, reader: &mut Reader) {
        if let State::Closing { end_read, .. } = &mut self.state {
            *end_read |= count == 0;
            return;
        }
        if count == 0 {
            let fault = self.wire.end();
            return self.close(Reason::of(&fault), Some(&fault), now, true);
        }
        let octets = reader.buffer.get(..count).unwrap_or_default();
        let mut fault = self.wire.receive(octets, now).err();
        let before = reader.came.len();
        let mut pong = false;
        loop {
            match self.wire.next() {
                Some(Ok(Came::Message(message))) => reader.came.push(message),
                Some(Ok(Came::Ping)) => {}
                Some(Ok(Came::Pong)) => pong = true,
                Some(Err(next)) => {
                    fault.get_or_insert(next);
                    break;
                }
                None => break,
            }
        }
        match fault {
            Some(fault) => self.close(Reason::of(&fault), Some(&fault), now, false),
            None => {
                self.keep_alive.heard(pong);
                self.heard(now, reader.came.len() > before);
            }
        }
    }

    /// Octets came. `whole`: they ended a message, so that what is unfinished now began with them.
    fn heard(&mut self, now: Instant, whole: bool) {
        let is_idle = self.wire.is_idle();
        // Keep-alives alone do not wake it: ten thousand idle peers would all be put to rest again.
        self.rested &= is_idle && !whole;
        if whole || !is_idle {
            self.wake(now);
        }
        if let State::Open { heard, partial_since } = &mut self.state {
            *heard = now;
            *partial_since = match *partial_since {
                _ if is_idle => None,
                Some(since) if !whole => Some(since),
                _ => Some(now),
            };
        }
    }

    /// Goes on as far as the wire and the socket let it.
    fn advance(&mut self, now: Instant) {
        if matches!(self.state, State::Handshaking { .. }) && self.wire.is_established() {
            let partial_since = (!self.wire.is_idle()).then_some(now);
            self.state = State::Open { heard: now, partial_since };
            self.doze = Doze::Awake { since: now };
            self.held_octets = 0;
            for held in &mut self.held {
                self.wire.send(&held.packet);
                held.ends_at = Some(self.written + self.wire.outgoing().len() as u64);
            }
        }
        self.write(now);
        self.wind_up();
        self.rest_on();
    }

    /// Has a ping leave, or judges that the last one stayed unanswered.
    fn ask(&mut self, now: Instant) {
        match self.keep_alive.step(now) {
            Step::Ping => {
                self.wire.ping();
                self.write(now);
                self.rest_on();
            }
            Step::Forget => self.wire.forget_pings(),
            Step::End => self.leave(Reason::PongTimedOut, now),
        }
    }

    /// Writes what waits, as far as the socket takes it.
    fn write(&mut self, now: Instant) {
        if self.blocked || matches!(self.state, State::Connecting { .. }) {
            return;
        }
        let Some(socket) = &mut self.socket else { return };
        let before = self.written;
        loop {
            let octets = self.wire.outgoing();
            if octets.is_empty() {
                break;
            }
            match socket.write(octets) {
                Ok(count) if count > 0 => {
                    self.wire.written(count);
                    self.written += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    break;
                }
                Ok(_) | Err(_) => return self.lose(Reason::Reset),
            }
        }
        let is_delivered = |held: &Held| held.ends_at.is_some_and(|at| at <= self.written);
        while self.held.front().is_some_and(is_delivered) {
            self.held.pop_front();
        }
        self.stuck_since = match self.stuck_since {
            _ if !self.blocked => None,
            Some(since) if self.written == before => Some(since),
            _ => Some(now),
        };
    }

    /// Says good-bye, and closes.
    fn leave(&mut self, reason: Reason, now: Instant) {
        self.wire.close();
        self.close(reason, None, now, false);
        self.write(now);
        self.wind_up();
    }

    fn close(&mut self, reason: Reason, fault: Option<&WireFault>, now: Instant, end_read: bool) {
        let fault = fault.filter(|fault| !matches!(fault, WireFault::Closed));
        self.note_end(reason, fault.map(ToString::to_string));
        self.state = State::Closing { since: now, end_read, end_told: false };
        // However little comes now, it is to be read.
        self.wake(now);
    }

    /// Closing ends where both sides have said that nothing more comes.
    fn wind_up(&mut self) {
        let State::Closing { end_read, end_told, .. } = &mut self.state else { return };
        if !self.wire.outgoing().is_empty() {
            return;
        }
        let told_before = mem::replace(end_told, true);
        let is_over =
            *end_read || (!told_before && self.socket.as_ref().is_none_or(|socket| socket.end_writing().is_err()));
        if is_over {
            self.drop_socket();
        }
    }

    /// The socket is of no more use.
    fn lose(&mut self, reason: Reason) {
        self.note_end(reason, None);
        self.drop_socket();
    }

    fn note_end(&mut self, reason: Reason, fault: Option<String>) {
        // Closing has been told with its own reason.
        if !matches!(self.state, State::Closing { .. } | State::Over) {
            let was_open = matches!(self.state, State::Open { .. });
            self.end = Some(End { reason, was_open, fault, lost: mem::take(&mut self.held) });
            self.held_octets = 0;
        }
    }

    fn drop_socket(&mut self) {
        self.state = State::Over;
        self.socket = None;
    }

    /// Gives back memory until more comes.
    fn rest(&mut self) {
        if !self.rested && self.wire.is_idle() && self.wire.outgoing().is_empty() {
            self.rested = true;
            self.wire.rest();
            self.held.shrink_to_fit();
        }
    }

    /// Gives back what a keep-alive took while it rests.
    fn rest_on(&mut self) {
        if self.rested && self.wire.outgoing().is_empty() {
            self.wire.rest();
        }
    }
}

impl Held {
    fn new(sending: Sending<'_>, ends_at: Option<u64>) -> Self {
        Self { flow: *sending.flow, packet: sending.packet.clone(), attempt: sending.attempt, ends_at }
    }
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; READ_OCTETS], came: Vec::new() }
    }
}

impl Socket for TcpStream {
    fn take_error(&self) -> io::Result<Option<io::Error>> {
        TcpStream::take_error(self)
    }

    fn end_writing(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }

    fn forget_unsent(&self) {
        // Otherwise the kernel keeps it for some minutes, which harms nobody but its memory.
        let _kept = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn set_low_water(&self, octets: u16) -> io::Result<()> {
        set_option(self.as_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, octets.into())
    }
}

/// What is read in one turn: other connections have theirs in between.
const READ_OCTETS: usize = 64 * 1024;
/// How long a peer may take for its end after ours.
const CLOSING: Duration = Duration::from_secs(3);
/// Between the messages of a call there are less.
const REST_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
