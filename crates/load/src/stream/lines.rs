//! All connections, by number.
//!
//! One that is lost is opened again when something is to be sent on it, but not sooner than after a second: a balancer that is down is
//! not to be hammered, and whoever counts shall not count the same outage a thousand times.

use super::Streams;
use super::connection::Connection;
use super::counts::Connections;
use super::loss::{Fault, Loss};
use super::wire;
use client::Terms;
use net::NetError;
use net::datagram::{Poll, Ready};
use sip::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections to one place, and what is to be done about them.
pub(crate) struct Lines {
    terms: Terms,
    /// Our own address; `None`: the system's choice.
    from: Option<SocketAddr>,
    to: SocketAddr,
    first_token: u64,
    lines: Vec<Line>,
    /// Those to be opened, in this order.
    queue: VecDeque<u32>,
    opening: usize,
    most_opening: usize,
    /// When openings are given up, the earliest first.
    patience: VecDeque<Patience>,
    events: Vec<Event>,
    /// Room to read into.
    buffer: Vec<u8>,
    messages: Vec<Vec<u8>>,
    open: u32,
    /// When the first packet of all was sent.
    begun: Option<Instant>,
    /// Messages that were given to a connection.
    pub(crate) sent: u64,
    pub(crate) counts: Connections,
}

/// What happened on a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    Message {
        connection: u32,
        bytes: Vec<u8>,
    },
    /// It is over, or could not be opened.
    Lost {
        connection: u32,
    },
}

/// A place for a connection.
#[derive(Default)]
struct Line {
    connection: Option<Box<Connection>>,
    /// Until then it is not opened again.
    rests_until: Instant,
    is_queued: bool,
    /// For when it is up.
    waiting: Vec<Vec<u8>>,
}

/// The end of one opening.
#[derive(Clone, Copy)]
struct Patience {
    until: Instant,
    number: u32,
    /// Which opening of that connection.
    begun: Instant,
}

impl Lines {
    /// Connections from `own` to `balancer`; an unspecified address is the system's choice, and so is the port, except for a single
    /// connection. Tokens of the poll from `first_token` on are theirs. Opens nothing yet.
    pub(crate) fn new(
        streams: &Streams,
        own: SocketAddr,
        balancer: SocketAddr,
        first_token: u64,
    ) -> Result<Self, NetError> {
        let port = if streams.connections == 1 { own.port() } else { 0 };
        let is_chosen = !own.ip().is_unspecified() || port != 0;
        Ok(Self {
            terms: wire::terms(streams, balancer)?,
            from: is_chosen.then_some(SocketAddr::new(own.ip(), port)),
            to: balancer,
            first_token,
            lines: (0..streams.connections).map(|_| Line::default()).collect(),
            queue: VecDeque::new(),
            opening: 0,
            most_opening: if streams.at_once { usize::MAX } else { OPENING },
            patience: VecDeque::new(),
            events: Vec::new(),
            buffer: vec![0; READ_OCTETS],
            messages: Vec::new(),
            open: 0,
            begun: None,
            sent: 0,
            counts: Connections::new(streams.transport, streams.connections),
        })
    }

    /// Asks for all that are not open.
    pub(crate) fn open_all(&mut self) {
        for number in 0..self.lines.len() as u32 {
            self.want(number);
        }
    }

    /// How many there are to be.
    pub(crate) fn count(&self) -> u32 {
        self.counts.wanted
    }

    /// How many are up.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    /// Nothing is being opened, or about to be.
    pub(crate) fn is_settled(&self) -> bool {
        self.opening == 0 && self.queue.is_empty()
    }

    /// What happened since this was asked last.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Opens what is to be opened, and gives up what took too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant, poll: &Poll) {
        while let Some(patience) = self.patience.front().copied().filter(|patience| patience.until <= now) {
            self.patience.pop_front();
            let is_opening = |connection: &Connection| !connection.is_up && connection.begun == patience.begun;
            let line = self.lines.get(patience.number as usize);
            if line.and_then(|line| line.connection.as_deref()).is_some_and(is_opening) {
                let fault = Fault::new(Loss::TimedOut, format!("not up after {} s", PATIENCE.as_secs()));
                self.lose(now, patience.number, fault);
            }
        }
        while self.opening < self.most_opening {
            let Some(number) = self.queue.front().copied() else { return };
            if self.rests_until(number) > now {
                return;
            }
            self.queue.pop_front();
            self.begin(now, poll, number);
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let patience = self.patience.front().map(|patience| patience.until);
        let next = self.queue.front().filter(|_| self.opening < self.most_opening);
        [patience, next.map(|number| self.rests_until(*number))].into_iter().flatten().min()
    }

    /// Something happened at one of the sockets.
    pub(crate) fn serve(&mut self, now: Instant, poll: &Poll, source: Ready) {
        let number = source.token.checked_sub(self.first_token).and_then(|number| u32::try_from(number).ok());
        let Some(number) = number else { return };
        let line = self.lines.get_mut(number as usize);
        let Some(connection) = line.and_then(|line| line.connection.as_deref_mut()) else { return };
        let outcome = connection.serve(source, &mut self.buffer, &mut self.messages);
        let came = self.messages.drain(..).map(|bytes| Event::Message { connection: number, bytes });
        self.events.extend(came);
        match outcome {
            Ok(()) => self.settle(now, poll, number),
            Err(fault) => {
                // TLS says why it ends; whether the other side still hears it is all the same here.
                let _unheard = connection_flush(&mut self.lines, poll, self.first_token, number);
                self.lose(now, number, fault);
            }
        }
    }

    /// Sends a message as soon as the connection is up, which is opened if it is not. What is too much to wait is dropped.
    pub(crate) fn send(&mut self, now: Instant, poll: &Poll, number: u32, message: &[u8]) {
        let Some(line) = self.lines.get_mut(number as usize) else { return };
        match line.connection.as_deref_mut().filter(|connection| connection.is_up) {
            Some(connection) => {
                connection.wire.send(message);
                self.sent += 1;
                self.settle(now, poll, number);
            }
            None => {
                if line.waiting.len() < MOST_WAITING {
                    line.waiting.push(message.to_vec());
                }
                self.want(number);
            }
        }
    }

    /// Asks whether the other side is still there. Whether it answered the last such question; `None`: the connection is not up, and
    /// nothing is asked.
    pub(crate) fn ping(&mut self, now: Instant, poll: &Poll, number: u32) -> Option<bool> {
        let line = self.lines.get_mut(number as usize)?;
        let connection = line.connection.as_deref_mut().filter(|connection| connection.is_up)?;
        let was_answered = !connection.awaits_pong;
        connection.wire.ping();
        connection.awaits_pong = true;
        self.settle(now, poll, number);
        Some(was_answered)
    }

    /// Connections that are up and have not answered their last ping.
    pub(crate) fn silent(&self) -> u64 {
        let connections = self.lines.iter().filter_map(|line| line.connection.as_deref());
        connections.filter(|connection| connection.is_up && connection.awaits_pong).count() as u64
    }

    fn rests_until(&self, number: u32) -> Instant {
        self.lines.get(number as usize).map(|line| line.rests_until).unwrap_or_default()
    }

    /// Queues it for opening, unless it is open or queued already.
    fn want(&mut self, number: u32) {
        if let Some(line) = self.lines.get_mut(number as usize)
            && line.connection.is_none()
            && !line.is_queued
        {
            line.is_queued = true;
            self.queue.push_back(number);
        }
    }

    fn begin(&mut self, now: Instant, poll: &Poll, number: u32) {
        let token = self.first_token + u64::from(number);
        let begun = Connection::begin(&self.terms, self.from, self.to, now)
            .and_then(|connection| connection.watch(poll, token).map(|()| connection));
        let Some(line) = self.lines.get_mut(number as usize) else { return };
        line.is_queued = false;
        self.begun.get_or_insert(now);
        match begun {
            Ok(connection) => {
                line.connection = Some(Box::new(connection));
                self.opening += 1;
                self.patience.push_back(Patience { until: now + PATIENCE, number, begun: now });
            }
            Err(fault) => self.lose(now, number, fault),
        }
    }

    /// Takes note of a connection that is up now, and writes what waits.
    fn settle(&mut self, now: Instant, poll: &Poll, number: u32) {
        let Some(line) = self.lines.get_mut(number as usize) else { return };
        if let Some(connection) = line.connection.as_deref_mut()
            && connection.rises()
        {
            self.opening = self.opening.saturating_sub(1);
            self.open += 1;
            self.counts.opened += 1;
            self.counts.handshake.record(now.saturating_since(connection.begun).as_micros() as u64);
            self.counts.opened_within = now.saturating_since(self.begun.unwrap_or(now));
            for message in line.waiting.drain(..) {
                connection.wire.send(&message);
                self.sent += 1;
            }
        }
        if let Err(fault) = connection_flush(&mut self.lines, poll, self.first_token, number) {
            self.lose(now, number, fault);
        }
    }

    /// Counts a connection that is over, and forgets it.
    fn lose(&mut self, now: Instant, number: u32, fault: Fault) {
        let Some(line) = self.lines.get_mut(number as usize) else { return };
        let lost = line.connection.take();
        line.waiting.clear();
        line.rests_until = now + REST;
        let was_up = lost.as_ref().is_some_and(|connection| connection.is_up);
        if was_up {
            self.open = self.open.saturating_sub(1);
        } else if lost.is_some() {
            self.opening = self.opening.saturating_sub(1);
        }
        let losses = if was_up { &mut self.counts.closed } else { &mut self.counts.failed };
        *losses.entry(fault.loss).or_default() += 1;
        self.counts.example.get_or_insert(fault.text);
        self.events.push(Event::Lost { connection: number });
    }
}

fn connection_flush(lines: &mut [Line], poll: &Poll, first_token: u64, number: u32) -> Result<(), Fault> {
    let connection = lines.get_mut(number as usize).and_then(|line| line.connection.as_deref_mut());
    connection.map_or(Ok(()), |connection| connection.flush(poll, first_token + u64::from(number)))
}

/// Handshakes under way at a time, unless all shall be.
const OPENING: usize = 256;
/// How long a connection may take until it is up. A balancer that a thousand phones ask at once needs its time.
const PATIENCE: Duration = Duration::from_secs(30);
/// From a loss to the next attempt.
const REST: Duration = Duration::from_secs(1);
/// Messages that wait for a connection.
const MOST_WAITING: usize = 1_024;
const READ_OCTETS: usize = 64 * 1_024;
