//! What the shards of a unit share: the configuration, the pools, the directory and the counters.

use crate::counters::Counters;
use crate::directory::{Directory, Loaded, WallClock};
use crate::outage::Outages;
use crate::running::Running;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::token::Secrets;
use arc_swap::ArcSwap;
use sip::Instant;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// One for all shards of a unit.
#[derive(Debug)]
pub struct Shared {
    running: ArcSwap<Running>,
    pub(crate) secrets: Secrets,
    pub(crate) directory: Directory,
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) seed: u64,
    pub(crate) started: Instant,
    unix_ms_at_start: u64,
    draining: AtomicBool,
    pub(crate) throttle: Mutex<Throttle>,
    pub(crate) outages: Outages,
    /// Live transactions of all shards.
    pub(crate) transactions: AtomicU32,
}

impl Shared {
    /// `now` and `unix_ms` are the same moment on the caller's clock and in Unix time. `seed` decides all that is random.
    pub fn new(
        settings: Settings,
        secrets: Secrets,
        shards: usize,
        now: Instant,
        unix_ms: u64,
        seed: u64,
    ) -> Arc<Self> {
        let sticky_ttl = longest_persistence(&settings);
        Arc::new(Self {
            directory: Directory::new(now, &settings.limits, sticky_ttl),
            running: ArcSwap::from_pointee(Running::new(settings, None, now, seed)),
            secrets,
            counters: (0..shards).map(|_| Arc::default()).collect(),
            seed,
            started: now,
            unix_ms_at_start: unix_ms,
            draining: AtomicBool::new(false),
            throttle: Mutex::new(Throttle::new(now, seed)),
            outages: Outages::default(),
            transactions: AtomicU32::new(0),
        })
    }

    /// Swaps in a new configuration. Calls, transactions, counters and bindings go on; backends that are gone stay reachable
    /// for their dialogs.
    pub fn replace_settings(&self, now: Instant, settings: Settings) {
        let before = self.running.load();
        let next = Running::new(settings, Some(&before), now, self.seed);
        for backend in next.newly_cut(&before) {
            self.directory.unstick_backend(backend);
        }
        self.running.store(Arc::new(next));
    }

    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.running.load().settings)
    }

    pub fn shards(&self) -> usize {
        self.counters.len()
    }

    /// New calls and registrations are refused from now on; what is under way goes on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Appends the facts learnt since the last call: a record of each binding and dialog that changed.
    pub fn drain_facts(&self, now: Instant, out: &mut Vec<u8>) {
        self.directory.write_changes(&self.wall_clock(now), out);
    }

    /// Appends every live fact, to begin a new log with.
    pub fn dump_facts(&self, now: Instant, out: &mut Vec<u8>) {
        self.directory.write_all(&self.wall_clock(now), out);
    }

    /// Reads a log of facts; to be called before the first datagram.
    pub fn load_facts(&self, now: Instant, log: &[u8]) -> Loaded {
        let running = self.running();
        let clock = self.wall_clock(now);
        self.directory
            .load(&clock, &running.settings.limits, log, |backend| Some(Arc::clone(&running.backend(backend)?.state)))
    }

    pub(crate) fn running(&self) -> Arc<Running> {
        self.running.load_full()
    }

    /// May one more error answer go to this source?
    pub(crate) fn admits_error(&self, now: Instant, source: IpAddr, limits: &crate::settings::Limits) -> bool {
        let mut throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        throttle.admits(now, source, limits.errors_per_source, limits.error_sources)
    }

    pub(crate) fn generation(&self) -> u32 {
        self.running.load().generation
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn wall_clock(&self, now: Instant) -> WallClock {
        let since = now.saturating_since(self.started).as_millis() as u64;
        WallClock { now, unix_ms: self.unix_ms_at_start + since }
    }
}

/// One table serves all services, so it keeps its entries for the longest time that any of them asks for.
fn longest_persistence(settings: &Settings) -> Duration {
    settings
        .farms
        .iter()
        .flat_map(|farm| &farm.services)
        .map(|service| service.persistence_ttl)
        .max()
        .unwrap_or(Duration::from_secs(3600))
}
