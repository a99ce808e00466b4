//! The data plane: workers, shards, sockets and connections together.

use crate::clock::Clock;
use crate::counters::{NetCounters, Tallies};
use crate::datagram::{Poll, Wake};
use crate::shards::Shards;
use crate::socket::{NetError, Warning};
use crate::stream::{CertificateStatus, Connections, TlsStore, TlsWarning};
use crate::table::Table;
use crate::worker::Worker;
use engine::{Event, Settings, Shard, Shared};
use sip::Instant;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The running data plane. Stops when dropped.
pub struct DataPlane {
    unit: Arc<Unit>,
    threads: Vec<JoinHandle<()>>,
}

/// Sees every datagram and every message of a stream that comes and goes, in the worker's thread: it must be quick.
pub trait Tap: Send + Sync {
    /// `local`, `remote`: our end and the peer's. `outgoing`: sent by us, or about to be. `bytes`: of a stream one whole message, as it
    /// is without TLS and WebSocket.
    fn packet(&self, local: SocketAddr, remote: SocketAddr, outgoing: bool, bytes: &[u8]);
}

impl DataPlane {
    /// Opens the listeners of the settings in `shared` and starts `workers` threads (at least one) that feed `shards` shards (at least
    /// one; some multiple of the workers lets them rarely meet). `events` is called in the workers' threads between two batches.
    ///
    /// A panic in a worker is a bug and ends the process: a worker that is gone would leave its share of the peers unanswered.
    pub fn start(
        shared: Arc<Shared>,
        workers: usize,
        shards: usize,
        events: impl Fn(Event) + Send + Sync + 'static,
        tap: Option<Arc<dyn Tap>>,
    ) -> Result<(Self, Vec<Warning>), NetError> {
        let settings = shared.settings();
        let (tls, mut warnings) = load_tls(&settings)?;
        let seats = (0..workers.max(1)).map(|_| Seat::new()).collect::<Result<Vec<Seat>, NetError>>()?;
        let (table, of_sockets) = Table::default().succeed(&settings, &polls(&seats), Clock::now())?;
        warnings.extend(of_sockets);
        let machines = (0..shards.max(1))
            .map(|index| {
                let shard = Shard::new(index, Arc::clone(&shared));
                let deadline = shard.poll_timeout();
                (Turn { shard, batch: u64::MAX }, deadline)
            })
            .collect();
        let owned = seats.iter().map(|seat| Arc::clone(&seat.poll)).collect();
        let unit = Arc::new(Unit {
            shards: Shards::new(machines, settings.limits.shard_inbox),
            connections: Connections::new(owned, &settings, Arc::new(tls), Clock::now()),
            seats,
            table: Mutex::new(Arc::new(table)),
            generation: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            drops_of_closed: AtomicU64::new(0),
            events: Box::new(events),
            tap,
            started: Clock::now(),
        });
        let mut running = Self { unit, threads: Vec::new() };
        for index in 0..running.unit.seats.len() {
            let unit = Arc::clone(&running.unit);
            // An error drops `running`, which stops the workers that started.
            let thread = std::thread::Builder::new()
                .name(format!("worker-{index}"))
                .spawn(move || {
                    let _guard = EndOnPanic;
                    Worker::new(unit, index).run();
                })
                .map_err(|error| NetError::Thread { error })?;
            running.threads.push(thread);
        }
        Ok((running, warnings))
    }

    /// Follows the listeners, limits and certificates of new `settings`: reads the files and opens new listeners first, all or none, and
    /// lets those that are gone go on for 32 s, so that answers under way still pass; of streams nobody new is let in meanwhile. To be
    /// called before the engine gets the same settings.
    pub fn apply_settings(&self, settings: &Settings) -> Result<Vec<Warning>, NetError> {
        let (tls, warnings) = load_tls(settings)?;
        self.apply(settings, Some(tls), warnings)
    }

    /// The same for settings in which only names lead elsewhere: the way to a server does not wait for a file of certificates that cannot
    /// be read now. Those in use stay, and [`DataPlane::follow_certificates`] tells of it.
    pub fn apply_places(&self, settings: &Settings) -> Result<Vec<Warning>, NetError> {
        let (tls, warnings) = load_tls(settings).map_or((None, Vec::new()), |(tls, told)| (Some(tls), told));
        self.apply(settings, tls, warnings)
    }

    fn apply(
        &self,
        settings: &Settings,
        tls: Option<TlsStore>,
        mut warnings: Vec<Warning>,
    ) -> Result<Vec<Warning>, NetError> {
        let unit = &self.unit;
        let mut table = unit.lock_table();
        let (next, of_sockets) = table.succeed(settings, &polls(&unit.seats), Clock::now())?;
        warnings.extend(of_sockets);
        // Before anybody is accepted at a new listener.
        unit.connections.follow(settings, tls);
        unit.publish(&mut table, next);
        drop(table);
        unit.shards.set_inbox_limit(settings.limits.shard_inbox);
        Ok(warnings)
    }

    /// Reads the files with certificates and keys again if one of them has changed; `None` if none has. `settings`: those in use. New
    /// connections meet the new certificates. On an error the old ones stay in use.
    pub fn follow_certificates(&self, settings: &Settings) -> Result<Option<Vec<Warning>>, NetError> {
        let connections = &self.unit.connections;
        if !connections.tls().changed_files() {
            return Ok(None);
        }
        let (next, warnings) = load_tls(settings)?;
        connections.set_tls(next);
        Ok(Some(warnings))
    }

    /// Ends the connections that lead to servers at these addresses: those that were opened to them, and those of theirs by which
    /// they are reached as well (RFC 5923). To be called when [`Event::BackendCut`] has told of one.
    pub fn close_peers(&self, remotes: &[SocketAddr]) {
        self.unit.connections.close_peers(remotes);
    }

    /// Has every shard follow at once what changed in what they share: new settings, and a backend that others took out.
    pub fn rouse(&self) {
        self.unit.rouse();
    }

    /// The certificates that are shown to clients.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        self.unit.connections.tls().certificates()
    }

    /// A warning for each of them that ends within 30 days, or has ended.
    pub fn ending_certificates(&self) -> Vec<Warning> {
        self.unit.connections.tls().ending_now().iter().map(told).collect()
    }

    /// What was counted up to now.
    pub fn counters(&self) -> NetCounters {
        let unit = &self.unit;
        let mut counters = NetCounters {
            kernel_drops: unit.lock_table().kernel_drops() + unit.drops_of_closed.load(Ordering::Relaxed),
            elapsed: Clock::now().saturating_since(unit.started),
            streams: unit.connections.counters(),
            ..NetCounters::default()
        };
        for seat in &unit.seats {
            let worker = seat.tallies.snapshot();
            counters.received += worker.received;
            counters.sent += worker.sent;
            counters.inbox_overflow += seat.tallies.inbox_overflow.value();
            counters.send_errors += seat.tallies.send_errors.value();
            counters.streams.received += seat.tallies.stream_received.value();
            counters.streams.sent += seat.tallies.stream_sent.value();
            counters.streams.not_sent += seat.tallies.stream_not_sent.value();
            counters.workers.push(worker);
        }
        counters
    }

    /// Ends the workers after the batch each is at, waits for them, and closes the sockets and connections.
    pub fn stop(self) {
        // Dropping does it.
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.unit.stop.store(true, Ordering::SeqCst);
        self.unit.wake_all();
        for thread in self.threads.drain(..) {
            // A worker that panicked has ended the process already.
            let _ended = thread.join();
        }
    }
}

/// What the workers share.
pub(crate) struct Unit {
    pub(crate) shards: Shards<Turn>,
    pub(crate) connections: Connections,
    /// One per worker.
    pub(crate) seats: Vec<Seat>,
    pub(crate) events: Box<dyn Fn(Event) + Send + Sync>,
    pub(crate) tap: Option<Arc<dyn Tap>>,
    table: Mutex<Arc<Table>>,
    /// Counts the tables, so that workers see without a lock that there is a new one.
    generation: AtomicU64,
    stop: AtomicBool,
    /// The kernel's drops at sockets that are closed.
    drops_of_closed: AtomicU64,
    started: Instant,
}

/// A shard, and the batch in which it last took the configuration.
pub(crate) struct Turn {
    pub(crate) shard: Shard,
    pub(crate) batch: u64,
}

/// What others see and touch of a worker. Alone in its cache lines.
#[repr(align(128))]
pub(crate) struct Seat {
    pub(crate) poll: Arc<Poll>,
    pub(crate) wake: Wake,
    /// While the worker sleeps: until when, in microseconds; else 0.
    pub(crate) sleeps_until: AtomicU64,
    /// One more than the number of the worker that calls for help; 0: none.
    called_by: AtomicUsize,
    pub(crate) tallies: Tallies,
}

impl Unit {
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The table in use and its generation.
    pub(crate) fn current_table(&self) -> (Arc<Table>, u64) {
        let guard = self.lock_table();
        let table: &Arc<Table> = &guard;
        (Arc::clone(table), self.generation())
    }

    /// Closes the listeners whose grace is over.
    pub(crate) fn close_expired(&self) {
        let mut table = self.lock_table();
        // Another worker may have been first.
        let Some((next, closed)) = table.without_closed(Clock::now()) else { return };
        self.drops_of_closed.fetch_add(closed.kernel_drops, Ordering::Relaxed);
        self.publish(&mut table, next);
        drop(table);
        for id in closed.streams {
            self.connections.close_listener(id);
        }
    }

    /// Wakes one sleeping sibling of the worker `index` to help it, if there is one.
    pub(crate) fn call_for_help(&self, index: usize) {
        let others = (index + 1..self.seats.len()).chain(0..index);
        for seat in others.map(|other| &self.seats[other]) {
            if seat.sleeps_until.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let called = seat.called_by.compare_exchange(0, index + 1, Ordering::Release, Ordering::Relaxed);
            if called.is_ok() {
                seat.wake.wake();
                return;
            }
        }
    }

    fn publish(&self, table: &mut MutexGuard<'_, Arc<Table>>, next: Table) {
        **table = Arc::new(next);
        self.generation.fetch_add(1, Ordering::Release);
        self.wake_all();
    }

    fn lock_table(&self) -> MutexGuard<'_, Arc<Table>> {
        // The table is replaced in one step, so that whoever panicked left a whole one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rouse(&self) {
        self.shards.rouse();
        self.wake_all();
    }

    fn wake_all(&self) {
        for seat in &self.seats {
            seat.wake.wake();
        }
    }
}

impl Seat {
    fn new() -> Result<Self, NetError> {
        let open = || -> io::Result<(Poll, Wake)> {
            let (poll, wake) = (Poll::new()?, Wake::new()?);
            poll.add(wake.as_fd(), WAKE_TOKEN)?;
            Ok((poll, wake))
        };
        let (poll, wake) = open().map_err(|error| NetError::Poll { error })?;
        Ok(Self {
            poll: Arc::new(poll),
            wake,
            sleeps_until: AtomicU64::new(0),
            called_by: AtomicUsize::new(0),
            tallies: Tallies::default(),
        })
    }

    /// Takes the call for help, if there is one: the number of the worker that called.
    pub(crate) fn called_by(&self) -> Option<usize> {
        if self.called_by.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.called_by.swap(0, Ordering::Acquire).checked_sub(1)
    }
}

fn polls(seats: &[Seat]) -> Vec<&Poll> {
    seats.iter().map(|seat| seat.poll.as_ref()).collect()
}

fn load_tls(settings: &Settings) -> Result<(TlsStore, Vec<Warning>), NetError> {
    let (store, warnings) =
        TlsStore::load(settings).map_err(|error| NetError::Certificates { error: Box::new(error) })?;
    Ok((store, warnings.iter().map(told).collect()))
}

fn told(warning: &TlsWarning) -> Warning {
    Warning::Certificates { text: warning.to_string() }
}

/// Ends the process when the worker that holds it panics.
struct EndOnPanic;

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// The wake-up's number in a poll; listeners and connections have smaller ones.
pub(crate) const WAKE_TOKEN: u64 = u64::MAX;
