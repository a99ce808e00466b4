//! What the shards of a unit share: the configuration, the pools, the directory and the counters.

use crate::avoided::Avoided;
use crate::counters::Counters;
use crate::directory::{Directory, Loaded, WallClock};
use crate::id::BackendId;
use crate::io::{CheckOutcome, DownCause, Event};
use crate::outage::{Outage, Outages};
use crate::running::Running;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::token::Secrets;
use arc_swap::ArcSwap;
use sip::Instant;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
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
    pub(crate) avoided: Avoided,
    /// When the answers of the backends are compared next, in microseconds.
    compares_at: AtomicU64,
    /// Transactions of all shards.
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
            running: ArcSwap::from_pointee(Running::new(settings, now, seed)),
            secrets,
            counters: (0..shards).map(|_| Arc::default()).collect(),
            seed,
            started: now,
            unix_ms_at_start: unix_ms,
            draining: AtomicBool::new(false),
            throttle: Mutex::new(Throttle::new(now, seed)),
            outages: Outages::default(),
            avoided: Avoided::default(),
            compares_at: AtomicU64::new(0),
            transactions: AtomicU32::new(0),
        })
    }

    /// Swaps in a new configuration. Calls, transactions, counters and bindings go on; backends that are gone stay reachable
    /// for their dialogs. Gives what became of backends whose guardians are others now, to be told to the operator like the
    /// events of a shard.
    pub fn replace_settings(&self, now: Instant, settings: Settings) -> Vec<Event> {
        let before = self.running.load();
        let (next, events) = before.reloaded(settings, now, self.seed);
        let cut = next.newly_cut(&before);
        self.running.store(Arc::new(next));
        for event in &events {
            self.follow(now, event);
        }
        for backend in cut {
            self.cut_backend(now, backend);
        }
        events
    }

    /// Ends what goes on at a backend: nobody stays with it for having been there, requests that wait for it move on, and each
    /// shard says BYE for the calls of its part, to both sides, at its next turn. [`Event::BackendCut`] tells when all have begun.
    pub fn cut_backend(&self, now: Instant, backend: BackendId) {
        self.directory.unstick_backend(backend);
        self.outages.record_cut(backend, now + CUT_SETTLES, self.shards());
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

    /// What a check came to that the shell made: `guardian` is its name. To be told to the operator like the events of a shard. Of a
    /// backend that left the configuration, or is not guarded by it, nothing comes.
    pub fn on_check(&self, now: Instant, backend: BackendId, guardian: &str, outcome: &CheckOutcome) -> Option<Event> {
        let running = self.running();
        let known = running.backend(backend).filter(|known| known.retired.is_none())?;
        let event = known.state.on_check(now, guardian, outcome)?;
        self.follow(now, &event);
        Some(event)
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

    /// What follows for all shards from an event of a backend.
    pub(crate) fn follow(&self, now: Instant, event: &Event) {
        let Event::BackendDown { backend, cause } = event else {
            return;
        };
        let is_cut = match cause {
            // It answers, if badly: what it has begun it may end.
            DownCause::Failing { .. } | DownCause::Slow { .. } => return,
            DownCause::Check { guardian, .. } => {
                self.running().backend(*backend).is_some_and(|known| known.state.is_cut_by(guardian))
            }
            DownCause::Unreachable | DownCause::TimedOut => false,
        };
        if is_cut {
            self.cut_backend(now, *backend);
        } else {
            self.outages.record(Outage { backend: *backend, at: now, cut: false });
        }
    }

    /// Is it time to compare the backends' answers? Says so to one shard a second.
    pub(crate) fn is_time_to_compare(&self, now: Instant) -> bool {
        let due = self.compares_at.load(Ordering::Relaxed);
        let next = (now + COMPARED_EVERY).as_micros();
        now.as_micros() >= due
            && self.compares_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
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

/// The moment of a cut is taken before its configuration is made and followed: meanwhile calls still go there and are answered
/// there. Afterwards it gets none for longer than this.
const CUT_SETTLES: Duration = Duration::from_secs(1);
/// How often the answers of the backends are compared.
const COMPARED_EVERY: Duration = Duration::from_secs(1);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::{Dialog, DialogKey};
    use crate::id::ListenerId;
    use crate::io::{Flow, UpCause};
    use crate::pool::world::{World, failed, good, guardian};
    use crate::settings::{Effect, Guardian, Limits, Maintenance};
    use std::net::SocketAddr;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn settings() -> Settings {
        let limits = Limits { errors_per_source: 2, ..Limits::default() };
        Settings { farms: vec![World::equal("weight", 1).farm], limits }
    }

    /// Three shards, started at 10 s.
    fn shared() -> Arc<Shared> {
        let secrets = Secrets { key_id: 7, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1_700_000_000 };
        Shared::new(settings(), secrets, 3, at(10), 1_700_000_000_000, 1)
    }

    #[test]
    fn facts_pass_from_one_process_to_the_next() {
        let [before, after] = [shared(), shared()];
        let backend = before.settings().farms[0].backends[0].id;
        let calls = |shared: &Shared| shared.running().backend(backend).expect("configured").state.calls();
        let ticket = before.running().backend(backend).expect("configured").state.restore_call();
        let dialog = Dialog {
            key: DialogKey { call: 5, backend, from_peer: true, from_tag: 8 },
            to_tag: 9,
            peer: Flow {
                listener: ListenerId(1),
                local: IpAddr::from([192, 0, 2, 1]),
                remote: SocketAddr::from(([192, 0, 2, 9], 5060)),
                connection: crate::io::ConnectionId::NONE,
            },
            binding: 0,
            since: at(10),
            ends: at(100),
            ticket: Some(ticket),
            sides: None,
            logged: false,
        };
        before.directory.begin_dialog(dialog, 9).expect("room");
        let [mut told, mut again, mut dumped] = [Vec::new(), Vec::new(), Vec::new()];
        before.drain_facts(at(12), &mut told);
        before.drain_facts(at(12), &mut again);
        before.dump_facts(at(12), &mut dumped);
        assert!(!told.is_empty() && again.is_empty() && dumped == told);
        assert_eq!(after.load_facts(at(12), &told), Loaded { records: 1, damaged: 0 });
        assert_eq!((after.directory.dialogs(), calls(&after)), (1, 1));
    }

    #[test]
    fn a_reload_swaps_the_settings_and_forgets_the_choices_of_what_it_cuts() {
        let shared = shared();
        let mut next = settings();
        next.limits.headers = 9;
        next.farms[0].backends[0].maintenance = Maintenance::Cut;
        let backend = next.farms[0].backends[0].id;
        shared.directory.stick(at(10), 5, backend);
        let seen = || {
            let stuck = shared.directory.peek_sticky(at(11), 5);
            (shared.generation(), shared.settings().limits.headers, stuck)
        };
        assert_eq!(seen(), (0, 256, Some(backend)));
        shared.replace_settings(at(11), next.clone());
        assert_eq!(seen(), (1, 9, None));
        shared.replace_settings(at(12), next);
        assert_eq!(seen(), (2, 9, None));
        assert_eq!(shared.outages.since(0), [Outage { backend, at: at(12), cut: true }], "it is cut once");
    }

    #[test]
    fn a_check_from_outside_decides_and_a_cut_forgets_the_choices() {
        for cut in [false, true] {
            let mut guarded = settings();
            let guardian = Guardian { cut, ..Guardian::clone(&guardian("call", 1, 2)) };
            guarded.farms[0].services[0].guardians = vec![Arc::new(guardian)];
            let backend = guarded.farms[0].backends[0].id;
            let shared = shared();
            shared.replace_settings(at(10), guarded);
            shared.directory.stick(at(10), 5, backend);
            assert_eq!(shared.on_check(at(11), backend, "tcp", &failed("no")), None);
            assert_eq!(shared.on_check(at(11), BackendId(1), "call", &failed("no")), None);
            assert_eq!(shared.on_check(at(11), backend, "call", &failed("no")), None);
            assert_eq!(shared.outages.count(), 0);
            let down = shared.on_check(at(12), backend, "call", &failed("no"));
            assert!(matches!(down, Some(Event::BackendDown { .. })), "{down:?}");
            // A cut counts a second longer.
            assert_eq!(shared.outages.since(0), [Outage { backend, at: at(if cut { 13 } else { 12 }), cut }]);
            let stuck = shared.directory.peek_sticky(at(12), 5);
            assert_eq!(stuck.is_none(), cut);
            let up = shared.on_check(at(13), backend, "call", &good());
            assert!(matches!(up, Some(Event::BackendUp { .. })), "{up:?}");
            shared.replace_settings(at(14), Settings::default());
            for _ in 0..2 {
                assert_eq!(shared.on_check(at(15), backend, "call", &failed("no")), None, "it left");
            }
        }
    }

    #[test]
    fn a_reload_tells_who_is_up_or_down_by_it() {
        let guarded = |effect: Effect| {
            let mut settings = settings();
            let guardian = Guardian { effect, cut: true, ..Guardian::clone(&guardian("call", 1, 1)) };
            settings.farms[0].services[0].guardians = vec![Arc::new(guardian)];
            settings
        };
        let shared = shared();
        let backend = settings().farms[0].backends[0].id;
        assert!(shared.replace_settings(at(10), guarded(Effect::Warn)).is_empty());
        let warned = shared.on_check(at(11), backend, "call", &failed("no"));
        assert!(matches!(warned, Some(Event::BackendWarned { .. })), "{warned:?}");
        let cause = DownCause::Check { guardian: "call".into(), reason: "no".into() };
        let down = Event::BackendDown { backend, cause };
        assert_eq!(shared.replace_settings(at(12), guarded(Effect::Down)), [down]);
        assert_eq!(shared.outages.since(0), [Outage { backend, at: at(13), cut: true }], "and what it means follows");
        assert!(shared.replace_settings(at(13), guarded(Effect::Down)).is_empty(), "once");
        let up = Event::BackendUp { backend, cause: UpCause::Reconfigured };
        assert_eq!(shared.replace_settings(at(14), settings()), [up]);
        assert_eq!(shared.outages.count(), 1);
    }

    #[test]
    fn calls_stay_at_a_backend_that_answers() {
        let shared = shared();
        for (cause, moves) in [
            (DownCause::Failing { per_cent: 60 }, false),
            (DownCause::Slow { ms: 900, median_ms: 20 }, false),
            (DownCause::TimedOut, true),
            (DownCause::Unreachable, true),
            (DownCause::Check { guardian: "call".into(), reason: "no".into() }, true),
        ] {
            let before = shared.outages.count();
            shared.follow(at(11), &Event::BackendDown { backend: BackendId(1), cause });
            assert_eq!(shared.outages.count() > before, moves);
        }
    }

    #[test]
    fn answers_are_compared_once_a_second() {
        let shared = shared();
        let due = [10_000, 10_000, 10_999, 11_000, 11_001, 15_000, 15_999, 16_000]
            .map(|ms: u64| shared.is_time_to_compare(Instant::from_micros(ms * 1_000)));
        assert_eq!(due, [true, false, false, true, false, true, false, true]);
    }

    #[test]
    fn a_unit_drains_only_when_told() {
        let shared = shared();
        assert_eq!((shared.shards(), shared.is_draining()), (3, false));
        shared.begin_drain();
        assert!(shared.is_draining());
    }

    #[test]
    fn unix_time_goes_on_from_the_start() {
        let clock = shared().wall_clock(at(13));
        assert_eq!((clock.now, clock.unix_ms), (at(13), 1_700_000_003_000));
    }

    #[test]
    fn a_source_gets_the_errors_its_limit_says() {
        let (shared, limits) = (shared(), settings().limits);
        let admits = |last: u8| shared.admits_error(at(10), IpAddr::from([192, 0, 2, last]), &limits);
        assert_eq!([1, 1, 1, 2].map(admits), [true, true, false, true]);
    }

    #[test]
    fn choices_are_kept_for_the_longest_time_that_a_service_asks_for() {
        let mut several = settings();
        let mut second = several.farms[0].clone();
        several.farms[0].services[0].persistence_ttl = Duration::from_secs(7_200);
        second.services[0].persistence_ttl = Duration::from_secs(60);
        several.farms.push(second);
        assert_eq!(longest_persistence(&several), Duration::from_secs(7_200));
        assert_eq!(longest_persistence(&Settings::default()), Duration::from_secs(3_600));
    }
}
