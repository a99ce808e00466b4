//! The run-time state of one backend.

use super::checks::CheckView;
use super::gauges::Gauges;
use super::health::{Change, Health};
use super::latency::Latency;
use super::lock;
use super::passive::{Evidence, Finals, Part, Reading, Times, is_failure};
use super::rate::Rate;
use super::ticket::{CallTicket, Cost, Costs, RegistrationTicket, WorkTicket};
use super::view::Standing;
use crate::id::BackendId;
use crate::io::{CheckOutcome, DownCause, Event};
use crate::policy::Measure;
use crate::settings::{Backend, Guardian, Maintenance};
use arc_swap::ArcSwap;
use sip::Instant;
use std::fmt;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is known of one backend at run time; outlives reloads. Shared by all shards.
///
/// The load is counted by tickets. Each change is written to the [`Gauges`] of the pools that compare it.
pub struct BackendState {
    id: BackendId,
    costs: Costs,
    /// 0: no limit.
    max_calls: AtomicU64,
    rate: Rate,
    calls: AtomicU64,
    registrations: AtomicU64,
    /// Cost of the transactions under way, in hundredths.
    work: AtomicU64,
    /// Transactions that wait for their first answer.
    awaiting: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    speed: Mutex<Speed>,
    finals: Finals,
    health: Mutex<Health>,
    /// An answer would change the health: spares most answers its lock.
    is_suspect: AtomicBool,
    /// How often it was not set aside for the sake of its pools, since that was last asked for.
    spared: AtomicU64,
    watchers: ArcSwap<Vec<Watcher>>,
}

/// How fast it answers: now, as its policy compares it, and for the last ten seconds, as passive detection does.
#[derive(Debug)]
struct Speed {
    latency: Latency,
    times: Times,
}

/// A pool this backend is in.
#[derive(Clone, Debug)]
struct Watcher {
    gauges: Arc<Gauges>,
    member: usize,
}

impl BackendState {
    /// A backend that is up, without slow start; [`BackendState::configure`] comes before use.
    pub fn new(id: BackendId, now: Instant) -> Self {
        Self {
            id,
            costs: Costs::DEFAULT,
            max_calls: AtomicU64::new(0),
            rate: Rate::unlimited(),
            calls: AtomicU64::new(0),
            registrations: AtomicU64::new(0),
            work: AtomicU64::new(0),
            awaiting: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            speed: Mutex::new(Speed { latency: Latency::new(now), times: Times::default() }),
            finals: Finals::default(),
            health: Mutex::new(Health::new()),
            is_suspect: AtomicBool::new(false),
            spared: AtomicU64::new(0),
            watchers: ArcSwap::from_pointee(Vec::new()),
        }
    }

    /// Takes in the settings, at the start and on every reload. Load and health stay, but for what guardians found that left, or
    /// that take it out only now.
    pub fn configure(&self, now: Instant, backend: &Backend, guardians: &[Arc<Guardian>]) -> Option<Event> {
        self.max_calls.store(u64::from(backend.max_calls), SeqCst);
        self.rate.configure(backend.max_rate);
        let change = self.change_health(|health| health.configure(now, backend, guardians));
        self.event(change)
    }

    pub fn id(&self) -> BackendId {
        self.id
    }

    /// May new users and calls go here: up, not set aside, no maintenance? A half-open backend is not available: [`Pool::choose`]
    /// sends it its one trial.
    ///
    /// [`Pool::choose`]: super::Pool::choose
    pub fn is_available(&self, now: Instant) -> bool {
        self.standing(now).is_available
    }

    /// Does it answer, as far as we know, and may calls under way go on there? Also true in maintenance `drain`, and of one that is
    /// set aside because its answers are bad or late.
    pub fn is_alive(&self, _now: Instant) -> bool {
        let health = lock(&self.health);
        health.is_answering() && health.maintenance() != Maintenance::Cut
    }

    /// Is `max_rate` reached, or `max_calls` where the request is a call?
    pub fn is_full(&self, now: Instant, call: bool) -> bool {
        (call && self.is_full_of_calls()) || !self.rate.is_open(now)
    }

    /// `cut`, `drain`, `down`, `full` or `up`, the first that holds. Whether a backend left the configuration is not known here.
    pub fn state_name(&self, _now: Instant) -> &'static str {
        let health = lock(&self.health);
        match health.maintenance() {
            Maintenance::Cut => "cut",
            Maintenance::Drain => "drain",
            Maintenance::Off if !health.is_alive() => "down",
            Maintenance::Off if self.is_full_of_calls() => "full",
            Maintenance::Off => "up",
        }
    }

    /// Everything that keeps it down or set aside; empty while it is in use.
    pub fn down_causes(&self) -> Vec<DownCause> {
        lock(&self.health).down_causes()
    }

    /// What its guardians found lately.
    pub fn checks(&self) -> Vec<CheckView> {
        lock(&self.health).checks()
    }

    /// Has the guardian of this name seen something that it is not yet sure of? Then it had better look again soon.
    pub fn is_undecided(&self, guardian: &str) -> bool {
        lock(&self.health).is_undecided(guardian)
    }

    /// Does the guardian of this name cut what goes on at a backend that it finds down?
    pub(crate) fn is_cut_by(&self, guardian: &str) -> bool {
        lock(&self.health).is_cut_by(guardian)
    }

    /// When a final answer last counted as a failure, and its status.
    pub fn last_failure(&self) -> Option<(Instant, u16)> {
        lock(&self.health).last_failure()
    }

    /// A new call. `None`: `max_calls` or `max_rate` is reached, exactly, however many ask at a time.
    pub fn take_call(self: &Arc<Self>, now: Instant) -> Option<CallTicket> {
        if !self.rate.is_open(now) || !self.count_call() {
            return None;
        }
        if !self.rate.take(now) {
            self.calls.fetch_sub(1, SeqCst);
            return None;
        }
        self.publish(&[Measure::Calls, Measure::Placed]);
        Some(CallTicket::new(Arc::clone(self)))
    }

    /// A call that is up already, as the log of facts tells after a restart: limits do not apply.
    pub fn restore_call(self: &Arc<Self>) -> CallTicket {
        self.calls.fetch_add(1, SeqCst);
        self.publish(&[Measure::Calls, Measure::Placed]);
        CallTicket::new(Arc::clone(self))
    }

    /// Counts a new registration against `max_rate`, which calls and registrations share. False: it is reached.
    pub fn take_registration(self: &Arc<Self>, now: Instant) -> bool {
        self.rate.take(now)
    }

    /// A registration this backend holds, new or restored; the bounded load of the hashes counts it.
    pub fn hold_registration(self: &Arc<Self>) -> RegistrationTicket {
        self.registrations.fetch_add(1, SeqCst);
        self.publish(&[Measure::Placed]);
        RegistrationTicket::new(Arc::clone(self))
    }

    /// A transaction with this backend begins.
    pub fn begin_work(self: &Arc<Self>, kind: Cost) -> WorkTicket {
        let cost = self.costs.of(kind);
        self.requests.fetch_add(1, SeqCst);
        self.work.fetch_add(cost, SeqCst);
        self.awaiting.fetch_add(1, SeqCst);
        self.publish(&[Measure::Work, Measure::Answer]);
        WorkTicket::new(Arc::clone(self), cost)
    }

    /// Calls up.
    pub fn calls(&self) -> u64 {
        self.calls.load(SeqCst)
    }

    /// Registrations held.
    pub fn registrations(&self) -> u64 {
        self.registrations.load(SeqCst)
    }

    /// Cost of the transactions under way, in hundredths.
    pub fn work(&self) -> u64 {
        self.work.load(SeqCst)
    }

    /// Transactions begun since the start.
    pub fn requests(&self) -> u64 {
        self.requests.load(SeqCst)
    }

    /// Failure answers, time-outs and unreachable reports since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(SeqCst)
    }

    /// Time to the first answer: peak-EWMA as of the last one, zero before the first.
    pub fn latency(&self) -> Duration {
        lock(&self.speed).latency.value()
    }

    /// The first answer to a request came after `elapsed`, whatever it says.
    pub fn on_answer(&self, now: Instant, elapsed: Duration) -> Option<Event> {
        {
            let mut speed = lock(&self.speed);
            speed.latency.record(now, elapsed);
            speed.times.add(now, elapsed);
        }
        self.publish(&[Measure::Answer]);
        self.if_suspect(|health| health.on_answer(now, elapsed))
    }

    /// An answer to a ping of ours came after `elapsed`. It is no measure of how the backend serves.
    pub fn on_pong(&self, now: Instant, elapsed: Duration) -> Option<Event> {
        lock(&self.speed).latency.record(now, elapsed);
        self.publish(&[Measure::Answer]);
        self.if_suspect(|health| health.on_pong(now))
    }

    /// The final answer to a request. Also reported to [`BackendState::on_answer`] if it was the first.
    pub fn on_final_answer(&self, now: Instant, code: u16) -> Option<Event> {
        self.finals.count(now, is_failure(code));
        if !is_failure(code) {
            return self.if_suspect(|health| health.on_final_answer(now, code));
        }
        self.failures.fetch_add(1, SeqCst);
        let change = self.change_health(|health| health.on_final_answer(now, code));
        self.event(change)
    }

    /// A request got no answer in time.
    pub fn on_timeout(&self, now: Instant) -> Option<Event> {
        self.failures.fetch_add(1, SeqCst);
        let change = self.change_health(|health| health.on_timeout(now, || self.has_room()));
        self.event(change)
    }

    /// The kernel reported that a request did not reach the address.
    pub fn on_unreachable(&self, now: Instant) -> Option<Event> {
        self.failures.fetch_add(1, SeqCst);
        let change = self.change_health(|health| health.on_unreachable(now));
        self.event(change)
    }

    /// The outcome of a check by the guardian of this name; of one that is none of this backend's nothing comes.
    pub fn on_check(&self, now: Instant, guardian: &str, outcome: &CheckOutcome) -> Option<Event> {
        let change = self.change_health(|health| health.on_check(now, guardian, outcome));
        self.event(change)
    }

    /// One of its pools has too few left.
    pub(super) fn on_need(&self, now: Instant) -> Option<Event> {
        let change = self.change_health(|health| health.on_need(now));
        self.event(change)
    }

    /// What passive detection found out by comparing.
    pub(super) fn on_outlier(&self, now: Instant, evidence: Evidence) -> Option<Event> {
        let change = self.change_health(|health| health.on_outlier(now, evidence, || self.has_room()));
        self.event(change)
    }

    /// Its answers of the last ten seconds; `None` while it is not in use.
    pub(super) fn recent_answers(&self, now: Instant) -> Option<Reading> {
        let since = {
            let health = lock(&self.health);
            if health.part() != Part::Serving {
                return None;
            }
            health.judged_at()
        };
        let (finals, failures) = self.finals.sum(now, since);
        let (answers, typical) = lock(&self.speed).times.typical(now, since);
        Some(Reading { finals, failures, answers, typical })
    }

    /// How often it was spared since this was last called.
    pub(crate) fn take_spared(&self) -> u64 {
        self.spared.swap(0, SeqCst)
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        lock(&self.health).standing(now)
    }

    pub(crate) fn is_trial_open(&self, now: Instant) -> bool {
        lock(&self.health).is_trial_open(now)
    }

    pub(super) fn claim_trial(&self, now: Instant) -> bool {
        lock(&self.health).claim_trial(now)
    }

    /// From now on every change is written to `gauges`.
    pub(super) fn attach(&self, gauges: &Arc<Gauges>, member: usize) {
        let watcher = Watcher { gauges: Arc::clone(gauges), member };
        self.watchers.rcu(|watchers| {
            let mut more: Vec<Watcher> = watchers.to_vec();
            more.push(watcher.clone());
            more
        });
        // After the watcher is there: a change from now on is told to it, one before is read here.
        let health = lock(&self.health);
        gauges.quorum().set(member, health.part());
        drop(health);
        self.publish(&[gauges.measure()]);
    }

    pub(super) fn detach(&self, gauges: &Arc<Gauges>) {
        self.watchers.rcu(|watchers| {
            watchers.iter().filter(|watcher| !Arc::ptr_eq(&watcher.gauges, gauges)).cloned().collect::<Vec<Watcher>>()
        });
    }

    pub(super) fn end_call(&self) {
        self.calls.fetch_sub(1, SeqCst);
        self.publish(&[Measure::Calls, Measure::Placed]);
    }

    pub(super) fn end_registration(&self) {
        self.registrations.fetch_sub(1, SeqCst);
        self.publish(&[Measure::Placed]);
    }

    pub(super) fn end_work(&self, cost: u64) {
        self.work.fetch_sub(cost, SeqCst);
        self.publish(&[Measure::Work]);
    }

    pub(super) fn end_awaiting(&self) {
        self.awaiting.fetch_sub(1, SeqCst);
        self.publish(&[Measure::Answer]);
    }

    fn is_full_of_calls(&self) -> bool {
        let limit = self.max_calls.load(SeqCst);
        limit != 0 && self.calls() >= limit
    }

    /// One call more, if there is room.
    fn count_call(&self) -> bool {
        let limit = self.max_calls.load(SeqCst);
        let mut calls = self.calls();
        loop {
            if limit != 0 && calls >= limit {
                return false;
            }
            match self.calls.compare_exchange_weak(calls, calls + 1, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(current) => calls = current,
            }
        }
    }

    /// An answer came, which matters to few.
    fn if_suspect(&self, change: impl FnOnce(&mut Health) -> Option<Change>) -> Option<Event> {
        if !self.is_suspect.load(SeqCst) {
            return None;
        }
        let change = self.change_health(change);
        self.event(change)
    }

    /// Takes the place of one set aside in each of its pools, if all of them have one left. The health is locked meanwhile, so that
    /// what it is to the pools does not change.
    fn has_room(&self) -> bool {
        let watchers = self.watchers.load();
        let refuses = |watcher: &Watcher| !watcher.gauges.quorum().claim(watcher.member);
        let Some(refusing) = watchers.iter().position(refuses) else {
            return true;
        };
        for watcher in watchers.iter().take(refusing) {
            watcher.gauges.quorum().set(watcher.member, Part::Serving);
        }
        self.spared.fetch_add(1, SeqCst);
        false
    }

    /// Changes the health and tells the pools if that changes the standing.
    fn change_health<R>(&self, change: impl FnOnce(&mut Health) -> R) -> R {
        let mut health = lock(&self.health);
        let before = health.shape();
        let result = change(&mut health);
        let is_changed = health.shape() != before;
        self.is_suspect.store(health.is_suspect(), SeqCst);
        if !is_changed {
            return result;
        }
        let watchers = self.watchers.load();
        // Under the lock, so that the last change is what stays written.
        let part = health.part();
        for watcher in watchers.iter() {
            watcher.gauges.quorum().set(watcher.member, part);
        }
        drop(health);
        for watcher in watchers.iter() {
            watcher.gauges.outdate();
        }
        result
    }

    fn event(&self, change: Option<Change>) -> Option<Event> {
        change.map(|change| change.event(self.id))
    }

    /// Writes the readings that changed to the pools that compare them. Two threads may do so at a time: who wrote last looks
    /// again afterwards, so that what stays written is never older than the last change.
    fn publish(&self, changed: &[Measure]) {
        for watcher in self.watchers.load().iter() {
            let measure = watcher.gauges.measure();
            if !changed.contains(&measure) {
                continue;
            }
            loop {
                let reading = self.reading(measure);
                watcher.gauges.store(watcher.member, reading);
                if self.reading(measure) == reading {
                    break;
                }
            }
        }
    }

    fn reading(&self, measure: Measure) -> u64 {
        match measure {
            Measure::Nothing => 0,
            Measure::Placed => self.calls() + self.registrations(),
            Measure::Calls => self.calls(),
            Measure::Work => self.work(),
            Measure::Answer => {
                // In logarithms: the latency times the requests that wait, and the one to come.
                let queue = self.awaiting.load(SeqCst) as f64 + 1.0;
                (lock(&self.speed).latency.score() + queue.log2()).to_bits()
            }
        }
    }
}

impl fmt::Debug for BackendState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BackendState")
            .field("id", &self.id)
            .field("calls", &self.calls())
            .field("registrations", &self.registrations())
            .field("work", &self.work())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::UpCause;
    use crate::pool::world::{World, at, backend, failed, good, guardian};

    fn state(change: impl FnOnce(&mut Backend)) -> Arc<BackendState> {
        let mut backend = backend("a");
        change(&mut backend);
        let state = Arc::new(BackendState::new(backend.id, at(0)));
        state.configure(at(0), &backend, &[Arc::new(Guardian::options())]);
        state
    }

    #[test]
    fn tickets_count_while_they_live() {
        let state = state(|_| {});
        let call = state.take_call(at(0));
        let restored = state.restore_call();
        let registration = state.hold_registration();
        let mut work = state.begin_work(Cost::Invite);
        assert_eq!((state.calls(), state.registrations(), state.work()), (2, 1, 175));
        assert_eq!(state.requests(), 1);
        work.answered();
        work.answered();
        drop((call, restored, registration, work));
        assert_eq!((state.calls(), state.registrations(), state.work()), (0, 0, 0));
        assert_eq!(state.awaiting.load(SeqCst), 0);
    }

    #[test]
    fn threads_never_pass_the_limit() {
        let state = state(|backend| backend.max_calls = 100);
        let tickets: Vec<CallTicket> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        let tries = (0..50).filter_map(|_| state.take_call(at(0)));
                        tries.collect::<Vec<CallTicket>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("the thread only takes calls")).collect()
        });
        assert_eq!((tickets.len(), state.calls()), (100, 100));
    }

    #[test]
    fn gauges_are_right_after_a_race() {
        let state = state(|_| {});
        let gauges = Arc::new(Gauges::new(Measure::Placed, 2));
        state.attach(&gauges, 1);
        let kept: Vec<CallTicket> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..2_000 {
                            let _short = state.take_call(at(0));
                            let _registration = state.hold_registration();
                        }
                        state.restore_call()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread only counts")).collect()
        });
        assert_eq!((kept.len(), gauges.reading(1), gauges.total()), (4, 4, 4));
        state.detach(&gauges);
        drop(kept);
        assert_eq!(gauges.reading(1), 4, "a pool that is gone hears nothing");
    }

    #[test]
    fn a_lower_limit_lets_calls_end_by_themselves() {
        let state = state(|backend| backend.max_calls = 3);
        let mut tickets: Vec<Option<CallTicket>> = (0..3).map(|_| state.take_call(at(0))).collect();
        let mut lower = backend("a");
        lower.max_calls = 1;
        state.configure(at(0), &lower, &[]);
        assert_eq!(state.calls(), 3);
        tickets.truncate(1);
        assert!(state.is_full(at(0), true));
        assert!(!state.is_full(at(0), false));
        tickets.clear();
        assert!(state.take_call(at(0)).is_some());
    }

    #[test]
    fn events_name_the_backend() {
        let world = World::equal("weight", 1);
        let state = &world.states[0];
        let id = state.id();
        let down = Event::BackendDown { backend: id, cause: DownCause::Unreachable };
        assert_eq!(state.on_unreachable(at(0)), Some(down));
        assert_eq!(state.state_name(at(0)), "down");
        assert_eq!(state.down_causes(), [DownCause::Unreachable]);
        let up = Event::BackendUp { backend: id, cause: UpCause::Answered };
        assert_eq!(state.on_answer(at(1), Duration::from_millis(1)), Some(up));
        assert_eq!(state.state_name(at(1)), "up");
        assert!(state.down_causes().is_empty());
        assert_eq!(state.on_final_answer(at(2), 503), None);
        assert_eq!((state.failures(), state.last_failure()), (2, Some((at(2), 503))));
    }

    #[test]
    fn life_and_maintenance_decide_together() {
        for (maintenance, is_reached, is_alive, is_available, name) in [
            (Maintenance::Off, true, true, true, "up"),
            (Maintenance::Drain, true, true, false, "drain"),
            (Maintenance::Cut, true, false, false, "cut"),
            (Maintenance::Off, false, false, false, "down"),
            (Maintenance::Drain, false, false, false, "drain"),
            (Maintenance::Cut, false, false, false, "cut"),
        ] {
            let state = state(|backend| backend.maintenance = maintenance);
            if !is_reached {
                state.on_unreachable(at(0));
            }
            let seen = (state.is_alive(at(0)), state.is_available(at(0)), state.state_name(at(0)));
            assert_eq!(seen, (is_alive, is_available, name), "{maintenance:?}, reached: {is_reached}");
        }
    }

    #[test]
    fn requests_and_failures_are_counted_for_good() {
        let state = state(|_| {});
        assert_eq!((state.requests(), state.failures()), (0, 0));
        for kind in [Cost::Invite, Cost::Bye, Cost::Other] {
            drop(state.begin_work(kind));
        }
        state.on_timeout(at(0));
        state.on_unreachable(at(0));
        for code in [503, 500, 499, 200] {
            state.on_final_answer(at(0), code);
        }
        assert_eq!((state.requests(), state.failures()), (3, 4));
    }

    #[test]
    fn one_trial_is_open_after_the_time_aside() {
        let state = state(|_| {});
        state.on_unreachable(at(0));
        assert_eq!([4_999, 5_000].map(|ms| state.is_trial_open(at(ms))), [false, true]);
        assert!(state.claim_trial(at(5_000)));
        assert!(!state.claim_trial(at(5_000)), "the one trial is under way");
        assert_eq!([5_000, 12_999, 13_000].map(|ms| state.is_trial_open(at(ms))), [false, false, true]);
    }

    #[test]
    fn a_pool_reads_what_it_compares() {
        let state = state(|_| {});
        let gauges = [Measure::Placed, Measure::Calls, Measure::Work].map(|measure| Arc::new(Gauges::new(measure, 1)));
        for each in &gauges {
            state.attach(each, 0);
        }
        let _calls = [state.restore_call(), state.restore_call(), state.restore_call()];
        let _registrations = [state.hold_registration(), state.hold_registration()];
        let _work = [state.begin_work(Cost::Invite), state.begin_work(Cost::Bye)];
        assert_eq!(gauges.map(|each| each.reading(0)), [5, 3, 275]);
        let shown = format!("{state:?}");
        assert!(shown.contains("calls: 3, registrations: 2, work: 275"), "{shown}");
    }

    #[test]
    fn a_request_that_waits_counts_as_much_as_the_one_to_come() {
        let state = state(|_| {});
        let gauges = Arc::new(Gauges::new(Measure::Answer, 1));
        state.attach(&gauges, 0);
        assert_eq!(state.on_answer(at(0), Duration::from_micros(1_024)), None);
        // 1,024 µs are 2^10; each doubling of the queue adds one.
        let reads = |logarithm: f64| (f64::from_bits(gauges.reading(0)) - logarithm).abs() < 1e-9;
        assert!(reads(10.0), "nobody waits");
        let mut first = state.begin_work(Cost::Invite);
        assert!(reads(11.0), "one waits");
        let others = [state.begin_work(Cost::Bye), state.begin_work(Cost::Other)];
        assert!(reads(12.0), "three wait");
        first.answered();
        drop(others);
        assert!(reads(10.0), "nobody waits any more");
    }

    /// Boxes of one service, of which these were reported unreachable.
    fn pool_of(members: usize, unreachable: &[usize]) -> World {
        let world = World::equal("round-robin", members);
        for &member in unreachable {
            assert!(world.states[member].on_unreachable(at(0)).is_some());
        }
        world
    }

    fn times_out(state: &BackendState, now: Instant) -> Option<Event> {
        let events: Vec<Event> = (0..3).filter_map(|_| state.on_timeout(now)).collect();
        events.into_iter().next()
    }

    #[test]
    fn never_more_than_half_of_a_pool_is_set_aside_by_passive_evidence() {
        for (members, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
            let world = pool_of(members, &[]);
            let gone = world.states.iter().filter(|state| times_out(state, at(0)).is_some()).count();
            assert_eq!(gone, most, "of {members}");
            let spared: u64 = world.states.iter().map(|state| state.take_spared()).sum();
            assert_eq!(spared, (members - most) as u64, "of {members}");
            assert_eq!(world.states.iter().map(|state| state.take_spared()).sum::<u64>(), 0, "told once");
            assert_eq!(world.states.iter().filter(|state| state.is_available(at(0))).count(), members - most);
        }
    }

    #[test]
    fn what_the_network_reports_needs_no_room_but_takes_it() {
        let all = pool_of(3, &[0, 1, 2]);
        assert!(all.states.iter().all(|state| !state.is_available(at(0))));
        let one = pool_of(3, &[0]);
        assert_eq!(times_out(&one.states[1], at(0)), None);
        assert!(one.states[0].on_answer(at(1), Duration::from_millis(1)).is_some());
        assert!(times_out(&one.states[1], at(2)).is_some(), "there is room again");
    }

    #[test]
    fn who_is_down_or_in_maintenance_makes_the_pool_smaller() {
        let mut world = World::equal("round-robin", 4);
        let options = [Arc::new(Guardian::options())];
        assert!(times_out(&world.states[0], at(0)).is_some());
        crate::pool::world::down(&world.states[1], at(0));
        assert_eq!(times_out(&world.states[2], at(0)), None, "one of three is gone");
        crate::pool::world::up(&world.states[1], at(1));
        world.farm.backends[1].maintenance = Maintenance::Drain;
        world.states[1].configure(at(2), &world.farm.backends[1], &options);
        assert_eq!(times_out(&world.states[2], at(2)), None);
        world.farm.backends[1].maintenance = Maintenance::Off;
        world.states[1].configure(at(3), &world.farm.backends[1], &options);
        assert!(times_out(&world.states[2], at(3)).is_some(), "two of four");
        // A new pool of the same states counts the same.
        world.rebuild(at(4));
        assert_eq!(times_out(&world.states[3], at(4)), None);
    }

    #[test]
    fn all_pools_of_a_backend_must_allow_it() {
        let world = World::equal("round-robin", 4);
        let mut second = world.farm.services[0].clone();
        second.backends = vec![0, 1];
        let pair = super::super::Pool::new(&world.farm, &second, &world.states, 0, at(0));
        assert!(times_out(&world.states[0], at(0)).is_some());
        assert_eq!(times_out(&world.states[1], at(0)), None, "two of four may go, but not both of the pair");
        assert!(times_out(&world.states[2], at(0)).is_some(), "what the other pool allowed was given back");
        drop(pair);
        assert!(world.states[2].on_answer(at(5_000), Duration::from_millis(1)).is_some());
        assert!(times_out(&world.states[1], at(5_000)).is_some(), "a pool that is gone has no say");
    }

    #[test]
    fn checks_are_told_by_their_names() {
        let state = state(|_| {});
        state.configure(at(0), &backend("a"), &[guardian("a", 1, 2), guardian("b", 1, 1)]);
        let id = state.id();
        assert_eq!(state.on_check(at(1), "a", &failed("odd")), None);
        assert!(state.is_undecided("a") && !state.is_undecided("b"));
        let cause = DownCause::Check { guardian: "a".into(), reason: "odd".into() };
        assert_eq!(state.on_check(at(2), "a", &failed("odd")), Some(Event::BackendDown { backend: id, cause }));
        assert_eq!(state.on_check(at(3), "b", &failed("gone")), None);
        assert_eq!((state.down_causes().len(), state.state_name(at(3))), (2, "down"));
        let checks = state.checks();
        let seen: Vec<(&str, usize)> = checks.iter().map(|check| (&*check.guardian, check.history.len())).collect();
        assert_eq!(seen, [("a", 2), ("b", 1)]);
        assert_eq!(state.on_check(at(4), "b", &good()), None);
        let up = Event::BackendUp { backend: id, cause: UpCause::Check("a".into()) };
        assert_eq!(state.on_check(at(5), "a", &good()), Some(up));
        assert!(state.on_check(at(6), "b", &failed("gone")).is_some());
        let up = Event::BackendUp { backend: id, cause: UpCause::Reconfigured };
        assert_eq!(state.configure(at(7), &backend("a"), &[guardian("a", 1, 2)]), Some(up));
        assert!(!state.is_cut_by("a"));
    }

    #[test]
    fn a_ping_says_nothing_of_how_requests_are_served() {
        let state = state(|_| {});
        for _ in 0..20 {
            state.on_pong(at(1_000), Duration::from_millis(1));
            state.on_answer(at(1_000), Duration::from_millis(64));
        }
        let reading = state.recent_answers(at(1_000)).expect("it is in use");
        assert_eq!((reading.answers, reading.typical), (20, Duration::from_millis(64)));
        state.on_unreachable(at(1_000));
        assert_eq!(state.recent_answers(at(1_000)), None);
    }
}
