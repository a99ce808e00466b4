//! A worker: one thread that waits for its sockets, its connections and its deadlines.
//!
//! Every worker has its own socket at each listener; the kernel spreads the peers over them by a hash of both addresses, so that one
//! peer's datagrams all come to one socket. A trunk and a PBX would keep one core busy and leave the others idle. So a worker that
//! finds a queue (a call for datagrams brought [`HELP_AT`] or more) wakes one sleeping sibling, which then receives from the same
//! sockets until the queue is short again. The sockets of others are in no worker's poll: below that load nobody is woken in vain,
//! the order of a peer's datagrams is kept, and all this costs one comparison a batch. The wake-up, some microseconds, is
//! paid once for several datagrams and only when there is more work than one core does at once. Who helps still looks after its own
//! sockets and timers between two batches.
//!
//! Of streams every worker has its own listening sockets, over which the kernel spreads those who connect. It reads from the connections
//! that it accepted or opened, and nobody else does: the messages of one connection stay in order. Any worker writes to any connection.

use crate::clock::Clock;
use crate::data_plane::{Seat, Unit, WAKE_TOKEN};
use crate::datagram::{ErrorQueue, RECEIVE_BATCH, Ready, Receiver};
use crate::handler::Handler;
use crate::shards::NEVER;
use crate::socket::is_exhausted;
use crate::stream::{FIRST_TOKEN, Reader, Round, SWEEP_PARTS};
use crate::table::{Sockets, Table, token};
use engine::ListenerId;
use sip::Instant;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

pub(crate) struct Worker {
    unit: Arc<Unit>,
    index: usize,
    table: Arc<Table>,
    generation: u64,
    handler: Handler,
    receiver: Receiver,
    errors: ErrorQueue,
    reader: Reader,
    /// Which of its dozing connections are still to be looked at.
    round: Round,
    /// When its connections are to be swept, in microseconds.
    next_sweep: u64,
    /// Nobody is accepted until the next sweep: the kernel had nothing left for connections.
    accepts_nobody: bool,
    /// The sibling whose sockets are read too.
    helping: Option<usize>,
    /// When the last wait ended.
    awake_since: Instant,
}

impl Worker {
    pub(crate) fn new(unit: Arc<Unit>, index: usize) -> Self {
        let (table, generation) = unit.current_table();
        Self {
            handler: Handler::new(Arc::clone(&unit), index, Arc::clone(&table)),
            unit,
            index,
            table,
            generation,
            receiver: Receiver::new(),
            errors: ErrorQueue::new(),
            reader: Reader::new(),
            round: Round::default(),
            next_sweep: 0,
            accepts_nobody: false,
            helping: None,
            awake_since: Clock::now(),
        }
    }

    /// Works until the unit stops.
    pub(crate) fn run(mut self) {
        let mut ready: Vec<Ready> = Vec::new();
        while !self.unit.stopping() {
            self.follow_table();
            self.handler.begin();
            self.handler.turn_wheels();
            self.handler.finish();
            self.wait(&mut ready);
            for source in &ready {
                if source.token == WAKE_TOKEN {
                    self.seat().wake.clear();
                } else if source.token >= FIRST_TOKEN {
                    self.serve_connection(source);
                } else if let Some(position) = self.position(source.token) {
                    if self.table.bound(position).is_stream() {
                        self.accept(position);
                    } else {
                        self.serve(position, self.index, source.error);
                    }
                }
            }
            self.help();
        }
    }

    fn seat(&self) -> &Seat {
        &self.unit.seats[self.index]
    }

    fn position(&self, token: u64) -> Option<usize> {
        let id = u32::try_from(token).ok()?;
        self.table.position(ListenerId(id))
    }

    fn follow_table(&mut self) {
        if self.table.next_close() <= Clock::now().as_micros() {
            self.unit.close_expired();
        }
        if self.unit.generation() != self.generation {
            (self.table, self.generation) = self.unit.current_table();
            self.handler.follow(Arc::clone(&self.table));
        }
        if self.needs_sweeps() && self.next_sweep <= Clock::now().as_micros() {
            self.sweep();
        } else if !self.round.is_through() {
            self.look_on();
        }
    }

    /// Sleeps until something is ready or due.
    fn wait(&mut self, ready: &mut Vec<Ready>) {
        let before = Clock::now();
        let seat = self.seat();
        seat.tallies.busy_micros.add(micros_between(self.awake_since, before));
        let timeout = if self.helping.is_some() {
            Some(Duration::ZERO)
        } else {
            let until = self.next_deadline();
            seat.sleeps_until.store(until, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            // A sibling that set an earlier deadline before it could see how long we sleep has written it by now.
            let until = until.min(self.next_deadline());
            (until != u64::MAX).then(|| Duration::from_micros(until.saturating_sub(before.as_micros())))
        };
        if seat.poll.wait(timeout, ready).is_err() {
            // Not possible while the poll is open and our memory is ours; should it happen, other threads have their turn.
            ready.clear();
            std::thread::yield_now();
        }
        seat.sleeps_until.store(0, Ordering::Relaxed);
        self.awake_since = Clock::now();
    }

    fn next_deadline(&self) -> u64 {
        if !self.round.is_through() {
            return 0;
        }
        let sweep = if self.needs_sweeps() { self.next_sweep } else { NEVER };
        self.handler.next_deadline().min(self.table.next_close()).min(sweep)
    }

    /// Handles what waits at `owner`'s socket of one listener, within limits that let the others have their turn. Returns the number
    /// of datagrams.
    fn serve(&mut self, position: usize, owner: usize, error: bool) -> usize {
        let Sockets::Datagrams(sockets) = &self.table.bound(position).sockets else { return 0 };
        let Some(socket) = sockets.get(owner) else { return 0 };
        if error {
            self.handler.begin();
            self.handler.returned(position, socket, &mut self.errors);
            self.handler.finish();
        }
        let mut total = 0;
        for _ in 0..BATCHES_AT_ONCE {
            let count = match self.receiver.receive(socket) {
                Ok(count) => count,
                Err(_) => {
                    // The kernel tells once here that something came into the error queue.
                    self.handler.begin();
                    self.handler.returned(position, socket, &mut self.errors);
                    self.handler.finish();
                    continue;
                }
            };
            if count >= HELP_AT && owner == self.index {
                self.unit.call_for_help(self.index);
            }
            if count > 0 {
                self.handler.begin();
                for datagram in self.receiver.datagrams() {
                    self.handler.datagram(position, &datagram);
                }
                self.handler.finish();
            }
            total += count;
            if count < RECEIVE_BATCH {
                break;
            }
        }
        self.unit.seats[self.index].tallies.received.add(total as u64);
        total
    }

    /// Receives from the sockets of a sibling that called for it, until it has no queue any more.
    fn help(&mut self) {
        if let Some(owner) = self.seat().called_by() {
            self.helping = Some(owner);
        }
        let Some(owner) = self.helping else { return };
        let mut total = 0;
        for position in 0..self.table.len() {
            total += self.serve(position, owner, false);
        }
        self.seat().tallies.helped.add(total as u64);
        if total < HELP_AT {
            self.helping = None;
        }
    }
}

/// Streams.
impl Worker {
    /// Lets in who waits at the worker's socket of a listener, within a limit that lets the others have their turn.
    fn accept(&mut self, position: usize) {
        let Sockets::Streams(at, sockets) = &self.table.bound(position).sockets else { return };
        let Some(socket) = sockets.get(self.index) else { return };
        let now = Clock::now();
        for _ in 0..ACCEPTED_AT_ONCE {
            match socket.accept() {
                Ok((stream, remote)) => self.unit.connections.accept(self.index, at, stream, remote, now),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Everything else concerns one peer.
                Err(error) if is_exhausted(&error) => {
                    self.unit.connections.count_accept_failure();
                    // It would be reported as ready again at once, and for ever.
                    self.accepts_nobody |= self.seat().poll.remove(socket.as_fd()).is_ok();
                    return;
                }
                // The peer has left again, or the network had something to say of it (accept(2)).
                Err(_) => {}
            }
        }
    }

    fn serve_connection(&mut self, source: &Ready) {
        let Self { unit, handler, reader, .. } = self;
        handler.begin();
        let now = handler.now();
        unit.connections.ready(source, now, reader, &mut |input| handler.heard(input));
        handler.finish();
    }

    fn needs_sweeps(&self) -> bool {
        self.accepts_nobody || self.unit.connections.owns_any(self.index)
    }

    /// Goes on looking for keep-alives where the last sweep began to.
    fn look_on(&mut self) {
        let Self { unit, handler, round, reader, .. } = self;
        handler.begin();
        let now = handler.now();
        unit.connections.look_on(round, now, reader, &mut |input| handler.heard(input));
        handler.finish();
    }

    /// Ends connections that wait too long, and accepts again where that was given up.
    fn sweep(&mut self) {
        let Self { unit, handler, index, round, reader, .. } = self;
        handler.begin();
        let now = handler.now();
        unit.connections.sweep(*index, now, round, reader, &mut |input| handler.heard(input));
        handler.finish();
        self.next_sweep = (now + SWEEP_EVERY).as_micros();
        if std::mem::take(&mut self.accepts_nobody) {
            for position in 0..self.table.len() {
                if let Sockets::Streams(at, sockets) = &self.table.bound(position).sockets
                    && let Some(socket) = sockets.get(self.index)
                {
                    // Fails for those that were never removed.
                    let _watched_already = self.seat().poll.add(socket.as_fd(), token(at.id));
                }
            }
        }
    }
}

fn micros_between(from: Instant, to: Instant) -> u64 {
    to.as_micros().saturating_sub(from.as_micros())
}

/// Datagrams in one batch that make a queue: about 50 µs of work, several times what waking a sibling costs.
const HELP_AT: usize = 12;
/// Peers let in from one socket before the others have their turn.
const ACCEPTED_AT_ONCE: usize = 64;
/// So that every connection is looked at once a second.
const SWEEP_EVERY: Duration = Duration::from_millis(1_000 / SWEEP_PARTS as u64);
/// Batches from one socket before the next socket, the timers and a new configuration have their turn.
const BATCHES_AT_ONCE: usize = 4;
