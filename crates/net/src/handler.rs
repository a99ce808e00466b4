//! What a worker does with datagrams, messages and deadlines between two system calls: to the shard, and out of it into the send lists.

use crate::clock::Clock;
use crate::data_plane::{Turn, Unit};
use crate::datagram::{Datagram, ErrorQueue, Outgoing, Sender};
use crate::shards::{NEVER, Work};
use crate::table::{Bound, Sockets, Table};
use engine::{Event, Flow, Input, Output, Packet};
use sip::Instant;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One worker's side of the engine.
pub(crate) struct Handler {
    unit: Arc<Unit>,
    /// The worker's number.
    index: usize,
    /// The moment of the current batch.
    now: Instant,
    /// Differs between any two batches of all workers.
    batch: u64,
    outbox: Outbox,
    sender: Sender,
    /// What could not be sent, and whose shards are to be told.
    failed: Vec<Failed>,
}

/// What the shards asked for in the current batch.
struct Outbox {
    table: Arc<Table>,
    /// One list per listener, in the table's order.
    queues: Vec<Vec<Queued>>,
    events: Vec<Event>,
    /// Messages for a listener that is closed.
    homeless: u64,
}

/// A message to be sent, and the shard to be told if that fails.
#[derive(Clone)]
struct Queued {
    shard: usize,
    flow: Flow,
    packet: Packet,
}

/// A message that did not leave.
struct Failed {
    queued: Queued,
    /// A limit of ours kept it back: that says nothing of its peer.
    by_us: bool,
}

impl Handler {
    pub(crate) fn new(unit: Arc<Unit>, index: usize, table: Arc<Table>) -> Self {
        let batch = index as u64;
        Self {
            unit,
            index,
            now: Clock::now(),
            batch,
            outbox: Outbox::new(table),
            sender: Sender::new(),
            failed: Vec::new(),
        }
    }

    /// Uses `table` from now on. To be called between [`Handler::finish`] and [`Handler::begin`].
    pub(crate) fn follow(&mut self, table: Arc<Table>) {
        self.outbox = Outbox::new(table);
    }

    /// Begins a batch: all in it happens at this moment and under one configuration.
    pub(crate) fn begin(&mut self) {
        self.now = Clock::now();
        self.batch = self.batch.wrapping_add(self.unit.seats.len() as u64);
    }

    /// The moment of the current batch.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// A datagram that arrived at the listener at `position` of the table.
    pub(crate) fn datagram(&mut self, position: usize, datagram: &Datagram<'_>) {
        let bound = self.outbox.table.bound(position);
        let local = datagram.local.unwrap_or(bound.bind.ip());
        let flow = Flow::of_datagram(bound.id, local, datagram.remote);
        if let Some(tap) = &self.unit.tap {
            tap.packet(bound.local(local), datagram.remote, false, datagram.bytes);
        }
        let shard = engine::route(datagram.bytes, self.unit.shards.len());
        self.deliver(shard, Input::Datagram { flow, bytes: datagram.bytes });
    }

    /// What a connection brought: a whole message, or one of ours that it did not deliver.
    pub(crate) fn heard(&mut self, input: Input<'_>) {
        match input {
            Input::Datagram { flow, bytes } => self.message(flow, bytes),
            Input::Undelivered { returned, .. } | Input::Unsent { returned, .. } => self.undelivered(returned, input),
        }
    }

    /// A whole message that came over a connection.
    fn message(&mut self, flow: Flow, bytes: &[u8]) {
        if let Some(tap) = &self.unit.tap
            && let Some(position) = self.outbox.table.position(flow.listener)
        {
            tap.packet(self.outbox.table.bound(position).local(flow.local), flow.remote, false, bytes);
        }
        self.unit.seats[self.index].tallies.stream_received.add(1);
        let shard = engine::route(bytes, self.unit.shards.len());
        self.deliver(shard, Input::Datagram { flow, bytes });
    }

    /// A message of ours that waited for a connection which ended first.
    fn undelivered(&mut self, returned: &[u8], input: Input<'_>) {
        self.unit.seats[self.index].tallies.stream_not_sent.add(1);
        let shard = engine::route_returned(returned, self.unit.shards.len());
        self.deliver(shard, input);
    }

    /// Tells the shards what the network returned to `socket` of the listener at `position`.
    pub(crate) fn returned(&mut self, position: usize, socket: &UdpSocket, queue: &mut ErrorQueue) {
        let bound = self.outbox.table.bound(position);
        let (listener, local) = (bound.id, bound.bind.ip());
        for _ in 0..RETURNED_AT_ONCE {
            let Some(returned) = queue.take(socket) else { return };
            if returned.bytes.is_empty() {
                // Nothing in it shows whose it was.
                continue;
            }
            let flow = Flow::of_datagram(listener, local, returned.remote);
            let shard = engine::route_returned(returned.bytes, self.unit.shards.len());
            self.deliver(shard, Input::Undelivered { flow, returned: returned.bytes });
        }
    }

    /// Turns the timer wheels that are this worker's.
    pub(crate) fn turn_wheels(&mut self) {
        let Self { unit, index, now, batch, outbox, .. } = self;
        for shard in (*index..unit.shards.len()).step_by(unit.seats.len()) {
            unit.shards.turn(shard, *now, |turn, work| step(turn, work, *now, *batch, shard, outbox));
        }
    }

    /// The earliest deadline of the wheels that are this worker's, in microseconds.
    pub(crate) fn next_deadline(&self) -> u64 {
        (self.index..self.unit.shards.len())
            .step_by(self.unit.seats.len())
            .map(|shard| self.unit.shards.deadline(shard))
            .min()
            .unwrap_or(NEVER)
    }

    /// Ends a batch: sends what was asked for, tells the shards what could not be sent, and sends what they ask for then.
    pub(crate) fn finish(&mut self) {
        self.flush();
        for _ in 0..FAILURE_ROUNDS {
            if self.failed.is_empty() {
                break;
            }
            let failed = std::mem::take(&mut self.failed);
            for Failed { queued: Queued { shard, flow, packet }, by_us } in &failed {
                let (flow, returned) = (*flow, &packet[..]);
                let input =
                    if *by_us { Input::Unsent { flow, returned } } else { Input::Undelivered { flow, returned } };
                self.deliver(*shard, input);
            }
            self.flush();
        }
        // Each round stands for one more peer tried; what still fails is for the shards' own timers.
        self.failed.clear();
        // The calls of a backend that went down are in all shards, and those of an idle one wait for it as well.
        if self.outbox.events.iter().any(|event| matches!(event, Event::BackendDown { .. })) {
            self.unit.rouse();
        }
        for event in self.outbox.events.drain(..) {
            (self.unit.events)(event);
        }
    }

    fn deliver(&mut self, shard: usize, input: Input<'_>) {
        let Self { unit, index, now, batch, outbox, .. } = self;
        let handled = unit.shards.deliver(shard, input, |turn, work| step(turn, work, *now, *batch, shard, outbox));
        let seat = &unit.seats[*index];
        if !handled {
            seat.tallies.inbox_overflow.add(1);
            return;
        }
        // The shard's wheel may be turned by a worker that sleeps beyond the deadline which was just set. Delivering wrote the
        // deadline and passed a fence; the owner writes how long it sleeps, passes a fence and looks at its deadlines once more.
        let owner = shard % unit.seats.len();
        if owner != *index {
            let owner = &unit.seats[owner];
            if unit.shards.deadline(shard) < owner.sleeps_until.load(Ordering::Relaxed) {
                owner.wake.wake();
            }
        }
    }

    fn flush(&mut self) {
        let Self { unit, index, now, outbox, sender, failed, .. } = self;
        let tallies = &unit.seats[*index].tallies;
        tallies.send_errors.add(std::mem::take(&mut outbox.homeless));
        for (position, queue) in outbox.queues.iter_mut().enumerate() {
            if queue.is_empty() {
                continue;
            }
            let bound = outbox.table.bound(position);
            // Before they leave: another worker may receive the answer before this one goes on.
            if let Some(tap) = &unit.tap {
                for queued in queue.iter() {
                    tap.packet(bound.local(queued.flow.local), queued.flow.remote, true, &queued.packet);
                }
            }
            match &bound.sockets {
                Sockets::Datagrams(sockets) => {
                    let (sent, errors) = send_datagrams(sender, &sockets[*index], bound, queue, failed);
                    tallies.sent.add(sent);
                    tallies.send_errors.add(errors);
                }
                Sockets::Streams(at, _) => {
                    let before = failed.len();
                    let total = queue.len();
                    for queued in queue.drain(..) {
                        let outcome = unit.connections.send(*index, at, &queued.flow, &queued.packet, *now);
                        failed.extend(outcome.err().map(|error| Failed { queued, by_us: error.is_ours() }));
                    }
                    let errors = failed.len() - before;
                    tallies.stream_sent.add((total - errors) as u64);
                    tallies.stream_not_sent.add(errors as u64);
                }
            }
            queue.clear();
        }
    }
}

impl Outbox {
    fn new(table: Arc<Table>) -> Self {
        let queues = (0..table.len()).map(|_| Vec::new()).collect();
        Self { table, queues, events: Vec::new(), homeless: 0 }
    }

    fn put(&mut self, shard: usize, output: Output) {
        match output {
            Output::Send { flow, packet } => match self.table.position(flow.listener) {
                Some(position) => self.queues[position].push(Queued { shard, flow, packet }),
                None => self.homeless += 1,
            },
            Output::Event(event) => self.events.push(event),
        }
    }
}

/// Sends what is queued for a listener of datagrams; returns how many left and how many did not.
fn send_datagrams(
    sender: &mut Sender,
    socket: &UdpSocket,
    bound: &Bound,
    queue: &[Queued],
    failed: &mut Vec<Failed>,
) -> (u64, u64) {
    let outgoing = queue.iter().map(|queued| Outgoing {
        local: bound.source(queued.flow.local),
        remote: queued.flow.remote,
        bytes: &queued.packet,
    });
    let mut errors = 0;
    let sent = sender.send(socket, outgoing, |at, error| {
        errors += 1;
        if let Some(queued) = queue.get(at)
            && concerns_the_peer(error)
        {
            failed.push(Failed { queued: queued.clone(), by_us: false });
        }
    });
    (sent as u64, errors)
}

/// One step of a held shard, drained at once.
fn step(
    turn: &mut Turn,
    work: Work<'_>,
    now: Instant,
    batch: u64,
    index: usize,
    outbox: &mut Outbox,
) -> Option<Instant> {
    if turn.batch != batch {
        turn.batch = batch;
        turn.shard.begin_batch(now);
    }
    match work {
        Work::Input(input) => turn.shard.handle_input(now, input),
        Work::Timeout => turn.shard.handle_timeout(now),
    }
    while let Some(output) = turn.shard.poll_output() {
        outbox.put(index, output);
    }
    turn.shard.poll_timeout()
}

/// Whether a failure to send says something of the peer. Full buffers of ours do not: the datagram is lost as if on the wire.
/// Nor does `EMSGSIZE`, and not of the path either (RFC 3261 §18.1.1): our sockets never forbid fragments, so the kernel says so
/// only of what no datagram can hold, whoever it is for. Such requests are refused by the shards; such responses are lost.
fn concerns_the_peer(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::WouldBlock
        && !matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::EMSGSIZE))
}

/// More than the peers that one request is tried at (`attempts`).
const FAILURE_ROUNDS: usize = 8;
/// Bounds the time that a flood of forged errors takes before datagrams get their turn.
const RETURNED_AT_ONCE: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_that_concern_the_peer_are_told() {
        for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPERM] {
            assert!(concerns_the_peer(&io::Error::from_raw_os_error(errno)), "errno {errno}");
        }
        for errno in [libc::EAGAIN, libc::ENOBUFS, libc::ENOMEM, libc::EINTR, libc::EMSGSIZE] {
            assert!(!concerns_the_peer(&io::Error::from_raw_os_error(errno)), "errno {errno}");
        }
    }
}
