//! All connections of a unit: their numbers, their limits, who leads where, accepting and opening.
//!
//! A connection's number names its owner too, the worker that accepted or opened it (the remainder by the number of workers): its poll
//! watches the socket, and it alone reads and looks after deadlines. Everybody may send.
//!
//! Three tables lead to connections, each with short locks of its own: by number, by listener and remote address ([`entry::Lead`]), and
//! how many a source address has. While a lead's lock is held the table of numbers may be locked (opening does), never the other way round,
//! and nothing is locked while a connection is, so that no two can wait for each other. What a lock is needed for is done when the
//! connection's own is released: messages are handed to the shards after that too, so that a sender never waits for a shard.
//!
//! A connection that begins to end leaves the leads at once and the table of numbers when it is over. Whoever found it before that is
//! told that it is gone, and opens another where that is allowed. What a connection of ours still held when its peer ended it is sent
//! once more, over another one.
//!
//! Those that are silent but for keep-alives doze: see [`dozing`].

mod alias;
mod counts;
mod dozing;
mod entry;
mod opening;
mod terms;

pub(crate) use dozing::Round;

use super::connection::{Attempt, Connection, End, NotSent, Reader, Reason, Sending};
use super::tls::TlsStore;
use super::wire::Wire;
use crate::counters::StreamFault;
use crate::datagram::{Poll, Ready};
use arc_swap::ArcSwap;
use counts::Counts;
use engine::{ConnectionId, Flow, Input, ListenerId, Packet, Settings, Transport};
use entry::{Entry, Lead, Origin};
use sip::Instant;
use std::collections::HashMap;
use std::collections::hash_map::{Entry as Place, RandomState};
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use terms::Terms;

/// Shared by all workers.
pub(crate) struct Connections {
    /// One per worker.
    polls: Vec<Arc<Poll>>,
    shares: Vec<Share>,
    /// By number: [`STRIPES`] per worker.
    stripes: Vec<Mutex<HashMap<u32, Arc<Entry>>>>,
    leads: Vec<Mutex<HashMap<Lead, Arc<Entry>>>>,
    hasher: RandomState,
    /// How many accepted connections each source has.
    sources: Mutex<HashMap<IpAddr, usize>>,
    /// Connections that were accepted, or are about to be.
    accepted: AtomicUsize,
    opened: AtomicUsize,
    terms: ArcSwap<Terms>,
    tls: ArcSwap<TlsStore>,
    counts: Counts,
}

/// A listener for streams, without its sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StreamListener {
    pub(crate) id: ListenerId,
    pub(crate) transport: Transport,
    pub(crate) bind: SocketAddr,
}

/// What belongs to one worker. Alone in its cache lines.
#[repr(align(128))]
struct Share {
    /// Counts the numbers given.
    sequence: AtomicU32,
    /// Connections that it owns.
    owned: AtomicUsize,
    /// Those of them that doze.
    dozing: AtomicUsize,
    /// Counts the sweeps.
    sweeps: AtomicUsize,
}

impl Connections {
    /// `polls`: the workers', in their order.
    pub(crate) fn new(polls: Vec<Arc<Poll>>, settings: &Settings, tls: Arc<TlsStore>, now: Instant) -> Self {
        let workers = polls.len();
        Self {
            shares: (0..workers).map(|_| Share::beginning(now)).collect(),
            stripes: (0..workers * STRIPES).map(|_| Mutex::default()).collect(),
            leads: (0..LEAD_STRIPES).map(|_| Mutex::default()).collect(),
            polls,
            hasher: RandomState::new(),
            sources: Mutex::default(),
            accepted: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            terms: ArcSwap::from_pointee(Terms::of(settings)),
            tls: ArcSwap::new(tls),
            counts: Counts::new(),
        }
    }

    /// Follows new settings, with the certificates in use if there are no others. Connections go on with the certificates and the limit of
    /// one message that they have.
    pub(crate) fn follow(&self, settings: &Settings, tls: Option<TlsStore>) {
        let terms = Arc::new(Terms::of(settings).after(&self.terms.load()));
        if let Some(tls) = tls {
            self.tls.store(Arc::new(tls.with_former(&self.tls.load(), terms.former_peers())));
        }
        self.terms.store(Arc::clone(&terms));
        self.each(|entry| {
            let mut connection = entry.lock();
            connection.keep(entry.is_kept(&terms));
            entry.due.store(connection.due(&terms.limits).as_micros(), Ordering::Relaxed);
        });
    }

    pub(crate) fn tls(&self) -> Arc<TlsStore> {
        self.tls.load_full()
    }

    /// The files of the settings in use were read again.
    pub(crate) fn set_tls(&self, tls: TlsStore) {
        self.tls.store(Arc::new(tls.with_former(&self.tls.load(), self.terms.load().former_peers())));
    }

    /// Whether `worker` owns any: only then has [`Connections::sweep`] something to do.
    pub(crate) fn owns_any(&self, worker: usize) -> bool {
        self.shares[worker].owned.load(Ordering::Relaxed) > 0
    }

    /// Takes a socket that `worker` accepted at a listener; over a limit it is closed again.
    pub(crate) fn accept(
        &self,
        worker: usize,
        at: &StreamListener,
        socket: TcpStream,
        remote: SocketAddr,
        now: Instant,
    ) {
        let terms = self.terms.load_full();
        let remote = without_label(remote);
        let source = source_of(remote.ip());
        let outcome = self.reserve(source, &terms).and_then(|()| {
            self.admit(worker, at, socket, remote, now, &terms).inspect_err(|_| self.release(&Origin::Accepted(source)))
        });
        match outcome {
            Ok(entry) => {
                self.counts.accepted.fetch_add(1, Ordering::Relaxed);
                let lead = entry.lead();
                lock(self.lead_stripe(&lead)).insert(lead, entry);
            }
            Err(reason) => self.counts.reasons.add(reason),
        }
    }

    /// Sends on `flow.connection`; without one, on a connection from this listener to `flow.remote`, which `worker` opens if there is
    /// none. After an error the caller tells the shard.
    pub(crate) fn send(
        &self,
        worker: usize,
        at: &StreamListener,
        flow: &Flow,
        packet: &Packet,
        now: Instant,
    ) -> Result<(), NotSent> {
        let sending = Sending { flow, packet, attempt: Attempt::First };
        if flow.connection.is_some() {
            let entry = self.entry(flow.connection.0).filter(|entry| entry.is_of(flow));
            return self.send_on(&entry.ok_or(NotSent::Gone)?, sending, now);
        }
        self.send_towards(worker, at, flow, sending, now)
    }

    /// Serves the connection with this token, whose owner calls: reads what `reader` has room for, writes what waits. Tells `each`
    /// the messages that came, and those of ours that were not delivered if it ends.
    pub(crate) fn ready(&self, ready: &Ready, now: Instant, reader: &mut Reader, each: &mut dyn FnMut(Input<'_>)) {
        // An event may have been found before another one ended the connection.
        let Some(entry) = number_of(ready.token).and_then(|number| self.entry(number)) else { return };
        let mut connection = entry.lock();
        connection.ready(ready, now, reader);
        self.finish(&entry, connection, now, reader, each);
    }

    /// Ends those of `worker` that wait too long, a part of them at a time: [`SWEEP_PARTS`] calls meet all of them. Begins to look for
    /// keep-alives of those that doze, with which [`Connections::look_on`] goes on until `round` is through. Tells `each` the messages
    /// that came, and those of ours that were not delivered.
    pub(crate) fn sweep(
        &self,
        worker: usize,
        now: Instant,
        round: &mut Round,
        reader: &mut Reader,
        each: &mut dyn FnMut(Input<'_>),
    ) {
        let part = self.shares[worker].sweeps.fetch_add(1, Ordering::Relaxed) % SWEEP_PARTS;
        let mut due: Vec<Arc<Entry>> = Vec::new();
        for stripe in self.stripes[worker * STRIPES..][..STRIPES].iter().skip(part).step_by(SWEEP_PARTS) {
            due.extend(lock(stripe).values().filter(|entry| entry.is_due(now)).cloned());
        }
        if due.len() > SWEPT_AT_ONCE {
            // Those that wait longest: in the order of the table the same ones would be left out each time.
            due.sort_by_cached_key(|entry| entry.due.load(Ordering::Relaxed));
            due.truncate(SWEPT_AT_ONCE);
        }
        let terms = self.terms.load_full();
        for entry in due {
            let mut connection = entry.lock();
            connection.sweep(now, &terms.limits, reader);
            self.finish(&entry, connection, now, reader, each);
        }
        self.begin_part(worker, round);
    }

    /// The listener's grace is over: its connections are ended by the next sweeps.
    pub(crate) fn close_listener(&self, id: ListenerId) {
        self.each(|entry| {
            if entry.flow.listener == id {
                doom(entry);
            }
        });
    }

    /// Whoever is at one of these addresses is out of use: the connections that lead there are ended by the next sweeps, and what is
    /// sent there from now on takes a new one.
    pub(crate) fn close_peers(&self, remotes: &[SocketAddr]) {
        self.each(|entry| {
            let is_opened = !entry.is_accepted() && remotes.contains(&entry.flow.remote);
            if is_opened || entry.alias().is_some_and(|alias| remotes.contains(&alias.lead.1)) {
                doom(entry);
                self.unlead(entry);
            }
        });
    }

    /// A place for one more accepted connection.
    fn reserve(&self, source: IpAddr, terms: &Terms) -> Result<(), Reason> {
        let held = self.accepted.fetch_add(1, Ordering::Relaxed) + self.opened.load(Ordering::Relaxed);
        let mut sources = lock(&self.sources);
        let of_source = sources.get(&source).copied().unwrap_or(0);
        let refused = if held >= terms.limits.connections {
            Some(Reason::TooMany)
        } else if of_source >= terms.limits.per_source {
            Some(Reason::TooManyOfSource)
        } else {
            None
        };
        if let Some(reason) = refused {
            self.accepted.fetch_sub(1, Ordering::Relaxed);
            return Err(reason);
        }
        sources.insert(source, of_source + 1);
        Ok(())
    }

    /// Gives the place of a connection back.
    fn release(&self, origin: &Origin) {
        let Origin::Accepted(source) = origin else {
            self.opened.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        if let Place::Occupied(mut count) = lock(&self.sources).entry(*source) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn admit(
        &self,
        worker: usize,
        at: &StreamListener,
        socket: TcpStream,
        remote: SocketAddr,
        now: Instant,
        terms: &Terms,
    ) -> Result<Arc<Entry>, Reason> {
        socket.set_nonblocking(true).map_err(|_| Reason::Reset)?;
        let wire = self.server_wire(at, terms).ok_or(Reason::Tls)?;
        let local = socket.local_addr().map_err(|_| Reason::Reset)?.ip();
        let flow = Flow { listener: at.id, local, remote, connection: ConnectionId::NONE };
        let connection = Connection::accepted(socket, wire, now);
        self.enter(worker, at, flow, Origin::Accepted(source_of(remote.ip())), connection, terms)
    }

    fn server_wire(&self, at: &StreamListener, terms: &Terms) -> Option<Wire> {
        let message = terms.limits.message;
        let wire = if at.transport.is_secure() {
            let config = self.tls.load().server(at.id)?;
            Wire::tls_server(config, message).ok()?
        } else {
            Wire::plain(message)
        };
        Some(if at.transport.is_web_socket() { wire.with_web_socket(terms.origins(at.id)) } else { wire })
    }

    /// Gives the connection a number and has the worker's poll watch it.
    fn enter(
        &self,
        worker: usize,
        at: &StreamListener,
        flow: Flow,
        origin: Origin,
        connection: Connection<TcpStream>,
        terms: &Terms,
    ) -> Result<Arc<Entry>, Reason> {
        let due = AtomicU64::new(connection.due(&terms.limits).as_micros());
        let number = self.free_number(worker).ok_or(Reason::TooMany)?;
        let watched = connection.watched();
        let socket = connection.socket().ok_or(Reason::Reset)?;
        // Before anybody knows of it. Its owner, who is at work here, looks at its poll afterwards.
        self.polls[worker].watch(socket.as_fd(), token_of(number), watched).map_err(|_| Reason::TooMany)?;
        let flow = Flow { connection: ConnectionId(number), ..flow };
        let (alias, dozes, connection) = (OnceLock::new(), AtomicBool::new(false), Mutex::new(connection));
        let entry = Arc::new(Entry { number, at: *at, flow, origin, alias, due, dozes, connection });
        lock(self.stripe(number)).insert(number, Arc::clone(&entry));
        self.shares[worker].owned.fetch_add(1, Ordering::Relaxed);
        Ok(entry)
    }

    /// A number of the worker's that no connection has. Nobody else takes it meanwhile.
    fn free_number(&self, worker: usize) -> Option<u32> {
        (0..NUMBERS_TRIED)
            .map(|_| self.shares[worker].next_number(worker, self.polls.len()))
            .find(|number| *number != 0 && !lock(self.stripe(*number)).contains_key(number))
    }

    fn entry(&self, number: u32) -> Option<Arc<Entry>> {
        lock(self.stripe(number)).get(&number).cloned()
    }

    fn send_on(&self, entry: &Arc<Entry>, sending: Sending<'_>, now: Instant) -> Result<(), NotSent> {
        let queue_octets = self.terms.load().limits.queue_octets;
        let mut connection = entry.lock();
        let outcome = connection.send(sending, now, queue_octets);
        let (end, is_over) = self.settle(entry, &mut connection);
        drop(connection);
        if outcome == Err(NotSent::QueueFull) {
            self.counts.queue_full.fetch_add(1, Ordering::Relaxed);
        }
        // Where sending finds out that the socket failed nothing else was held: it would not have been tried.
        self.conclude(entry, end, is_over, now, &mut |_| ());
        outcome
    }

    /// After its owner served a connection: tells `each` the messages that came, and those of ours that were not delivered if it ends.
    fn finish(
        &self,
        entry: &Arc<Entry>,
        mut connection: MutexGuard<'_, Connection<TcpStream>>,
        now: Instant,
        reader: &mut Reader,
        each: &mut dyn FnMut(Input<'_>),
    ) {
        let (end, is_over) = self.settle(entry, &mut connection);
        let has_first = !reader.came.is_empty() && entry.awaits_alias();
        let certificate = if has_first { connection.verified_client().cloned() } else { None };
        drop(connection);
        if has_first {
            self.judge_alias(entry, certificate.as_ref(), &reader.came);
        }
        for message in reader.came.drain(..) {
            each(Input::Datagram { flow: entry.flow, bytes: &message });
        }
        self.conclude(entry, end, is_over, now, each);
    }

    /// After anything was done with a connection, before it is unlocked: has its poll watch for what it waits for now.
    fn settle(&self, entry: &Entry, connection: &mut Connection<TcpStream>) -> (Option<End>, bool) {
        if let Some(interest) = connection.change_of_interest()
            && let Some(socket) = connection.socket()
        {
            // Fails only for want of memory in the kernel; then what waits does not move, and the sweep ends it.
            let _unwatched =
                self.polls[self.owner(entry.number)].modify(socket.as_fd(), token_of(entry.number), interest);
        }
        let due = connection.due(&self.terms.load().limits);
        entry.due.store(due.as_micros(), Ordering::Relaxed);
        self.note_dozing(entry, connection.is_dozing());
        (connection.take_end(), connection.is_over())
    }

    /// The same, after it was unlocked.
    fn conclude(
        &self,
        entry: &Arc<Entry>,
        end: Option<End>,
        is_over: bool,
        now: Instant,
        each: &mut dyn FnMut(Input<'_>),
    ) {
        if is_over && lock(self.stripe(entry.number)).remove(&entry.number).is_some() {
            self.shares[self.owner(entry.number)].owned.fetch_sub(1, Ordering::Relaxed);
            self.release(&entry.origin);
        }
        let Some(End { reason, was_open, fault, lost }) = end else { return };
        self.unlead(entry);
        self.counts.reasons.add(reason);
        if let Some(text) = fault {
            *lock(&self.counts.last_fault) = Some(StreamFault { remote: entry.flow.remote, text });
        }
        let may_follow = was_open && !entry.is_accepted() && matches!(reason, Reason::PeerClosed | Reason::Reset);
        for held in lost {
            let outcome = if may_follow { self.send_again(entry, &held, now) } else { Err(NotSent::Gone) };
            let (flow, returned) = (held.flow, &held.packet[..]);
            match outcome {
                Ok(()) => {}
                Err(error) if error.is_ours() => each(Input::Unsent { flow, returned }),
                Err(_) => each(Input::Undelivered { flow, returned }),
            }
        }
    }

    fn each(&self, mut work: impl FnMut(&Arc<Entry>)) {
        for stripe in &self.stripes {
            let entries: Vec<Arc<Entry>> = lock(stripe).values().cloned().collect();
            entries.iter().for_each(&mut work);
        }
    }

    fn owner(&self, number: u32) -> usize {
        number as usize % self.polls.len()
    }

    fn stripe(&self, number: u32) -> &Mutex<HashMap<u32, Arc<Entry>>> {
        let stripe = number as usize / self.polls.len() % STRIPES;
        &self.stripes[self.owner(number) * STRIPES + stripe]
    }

    fn lead_stripe(&self, lead: &Lead) -> &Mutex<HashMap<Lead, Arc<Entry>>> {
        let hash = self.hasher.hash_one(lead);
        &self.leads[hash as usize % LEAD_STRIPES]
    }
}

impl Share {
    /// Numbers begin elsewhere at each start, so that those of the process before are not met again at once.
    fn beginning(now: Instant) -> Self {
        Self {
            sequence: AtomicU32::new(now.as_micros() as u32),
            owned: AtomicUsize::new(0),
            dozing: AtomicUsize::new(0),
            sweeps: AtomicUsize::new(0),
        }
    }

    /// The worker's next number, perhaps in use, perhaps 0.
    fn next_number(&self, worker: usize, workers: usize) -> u32 {
        // As many for each worker as fit below the number that is nobody's.
        let numbers = ConnectionId::GONE.0 / workers as u32;
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) % numbers;
        sequence * workers as u32 + worker as u32
    }
}

/// The next sweep of its owner ends it.
fn doom(entry: &Entry) {
    let mut connection = entry.lock();
    connection.doom();
    if !connection.is_over() {
        entry.due.store(0, Ordering::Relaxed);
    }
}

/// A worker that panics ends the process, so that nobody works on what it left behind; tests see the panic itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The connection's number in a poll: above those of listeners, below that of the wake-up.
fn token_of(number: u32) -> u64 {
    FIRST_TOKEN | u64::from(number)
}

/// `None`: it is no connection's token.
fn number_of(token: u64) -> Option<u32> {
    u32::try_from(token.checked_sub(FIRST_TOKEN)?).ok()
}

/// Without the flow label, so that one peer is one address, as for datagrams.
fn without_label(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => remote,
        SocketAddr::V6(address) => {
            SocketAddr::V6(SocketAddrV6::new(*address.ip(), address.port(), 0, address.scope_id()))
        }
    }
}

/// Whose connections are counted together: those of an IPv4 address, or of an IPv6 network of 64 bits.
fn source_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

/// The first token of a connection.
pub(crate) const FIRST_TOKEN: u64 = 1 << 32;
/// Calls of [`Connections::sweep`] that meet every connection once.
pub(crate) const SWEEP_PARTS: usize = 4;
/// Locks for one worker's connections. A multiple of the sweep's parts.
const STRIPES: usize = 16;
const LEAD_STRIPES: usize = 64;
/// Connections that one sweep ends or looks at closely: some milliseconds of work.
const SWEPT_AT_ONCE: usize = 512;
/// With far more numbers than connections the first one is free nearly always.
const NUMBERS_TRIED: usize = 1_024;

#[cfg(test)]
mod tests;
