//! A running unit: the data plane, the log of facts, the control socket, and how they start, change and end together.

pub(crate) mod arrival;
pub(crate) mod control;
pub(crate) mod drain;
pub(crate) mod events;
mod facts;
pub(crate) mod guardians;
mod log;
mod names;
pub(crate) mod privileges;
mod retired;
pub(crate) mod state_dir;
pub(crate) mod status;

use crate::configuration::{Configuration, Source, brief, count, errors};
use anyhow::Context;
use config::{Checked, Diagnostic};
use drain::{Drain, Load};
use engine::{Backend, BackendId, Event, Explanation, Farm, Settings, Shared};
use events::{Events, Hearers, KeptEvent};
use facts::FactsLog;
use guardians::Notes;
use log::Log;
use names::{Naming, Nudges, asking_for};
use net::{Clock, DataPlane};
use privileges::Told;
use retired::Retired;
use sip::Instant;
use state_dir::StateDir;
use status::{CertificateStatus, Heard, NameStatus, Rates, Sample, Status, UnitStatus};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One unit. Its threads share it.
pub(crate) struct Unit {
    config_path: PathBuf,
    state: StateDir,
    started: Instant,
    shared: Arc<Shared>,
    log: Arc<Log>,
    events: Arc<Events>,
    /// The events of checks go where those of the data plane go.
    hearers: Hearers,
    /// Of the checks that the unit makes itself.
    notes: Notes,
    /// The thread that makes them.
    guarding: Mutex<Option<JoinHandle<()>>>,
    /// What runs.
    configuration: Mutex<Arc<Configuration>>,
    /// Held while another configuration is taken, so that one comes after the other.
    taking: Mutex<()>,
    naming: Arc<Naming>,
    /// `None` once stopped.
    data_plane: Mutex<Option<DataPlane>>,
    facts: Mutex<FactsLog>,
    /// The last write of facts failed: told once, not twice a second.
    facts_failing: AtomicBool,
    rates: Mutex<Rates>,
    retired: Mutex<Retired>,
    draining: AtomicBool,
    stopped: AtomicBool,
}

impl Unit {
    /// Starts a unit on what was read from `config_path`, the text and what it says, with its state in `folder`. `told`: as whom it
    /// runs, for the log.
    ///
    /// # Errors
    /// What could not be had. Nothing runs then.
    pub(crate) fn start(
        config_path: &Path,
        folder: PathBuf,
        (source, checked): (Source, Checked),
        told: &Told,
    ) -> anyhow::Result<Arc<Self>> {
        let log = Arc::new(Log::start(checked.log).context("cannot start the log's thread")?);
        let state = StateDir::open(folder)?;
        let (naming, nudges) = Naming::new();
        let configuration = first_answers(&naming, &log, source, checked)?;
        let (naming, checked) = (Arc::new(naming), &configuration.checked);
        let (now, unix_ms) = (Clock::now(), unix_ms());
        let secrets = state.secrets(unix_ms)?;
        let workers = worker_count(checked);
        let shards = shard_count(workers);
        let seed = u64::from_ne_bytes(state_dir::random()?);
        let shared = Shared::new(checked.settings.clone(), secrets, shards, now, unix_ms, seed);
        // Before the first datagram: a PBX that calls a phone right after the start must find it.
        let (facts, loaded) = FactsLog::open(&state, &shared, now)?;
        let events = Arc::new(Events::new(Arc::clone(&log), Arc::clone(&shared)));
        let hearers = Hearers::new(Arc::clone(&events), Arc::clone(&naming));
        let hearing = hearers.clone();
        let handle = move |event: Event| hearing.hear(&event);
        let (data_plane, warnings) = DataPlane::start(Arc::clone(&shared), workers, shards, handle, None)?;
        let unit = Arc::new(Self {
            config_path: config_path.to_path_buf(),
            state,
            started: now,
            shared,
            log,
            events,
            hearers,
            notes: Notes::default(),
            guarding: Mutex::default(),
            configuration: Mutex::new(Arc::new(configuration)),
            taking: Mutex::default(),
            naming,
            data_plane: Mutex::new(Some(data_plane)),
            facts: Mutex::new(facts),
            facts_failing: AtomicBool::new(false),
            rates: Mutex::default(),
            retired: Mutex::default(),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        unit.start_threads(nudges)?;
        unit.tell_start(loaded, &warnings, told);
        Ok(unit)
    }

    /// What it is and where it listens, a line each.
    pub(crate) fn introduction(&self) -> Vec<String> {
        let name = self.name();
        let mut lines = vec![format!(
            "tandem {}, unit {name}: {}, state in {}",
            env!("CARGO_PKG_VERSION"),
            self.config_path.display(),
            self.state.path().display()
        )];
        for farm in &self.shared.settings().farms {
            let listeners = farm.listeners.iter().map(arrival::name_of);
            lines.extend(listeners.map(|listener| format!("listening at {listener} (farm {})", farm.name)));
        }
        lines
    }

    /// Reads the configuration file again and takes it whole, or refuses it whole and goes on as before. The outcome is logged:
    /// the lines returned say what changed, the error why it is refused.
    ///
    /// # Errors
    /// The file cannot be read, is wrong, or names listeners that cannot be had.
    pub(crate) fn reload(&self) -> Result<Vec<String>, String> {
        let one_at_a_time = lock(&self.taking);
        let outcome = self.take_up();
        drop(one_at_a_time);
        match &outcome {
            Ok(changes) if changes.is_empty() => {
                self.log.info("Reloaded", "the configuration means the same as before")
            }
            Ok(changes) => {
                for change in changes {
                    self.log.info("Reloaded", change);
                }
            }
            Err(reason) => {
                let message = format!("the new configuration is refused, the old one goes on: {reason}");
                self.log.error("ReloadRefused", &message);
            }
        }
        outcome
    }

    /// Takes a sample for the rates if one is due.
    pub(crate) fn sample(&self, now: Instant) {
        if lock(&self.rates).is_due(now) {
            let sample = self.sample_now(now);
            lock(&self.rates).add(sample);
        }
    }

    pub(crate) fn status(&self, now: Instant) -> Status {
        let unit = UnitStatus {
            name: self.name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            uptime_s: now.saturating_since(self.started).as_secs(),
            config: self.config_path.display().to_string(),
            draining: self.draining.load(Ordering::Relaxed),
        };
        let sample = self.sample_now(now);
        let (rates, retired) = (lock(&self.rates), lock(&self.retired));
        let certificates = lock(&self.data_plane).as_ref().map(DataPlane::certificates).unwrap_or_default();
        let heard = Heard { events: &self.events, notes: &self.notes };
        let mut status = Status::new(unit, &sample, &rates, &self.shared.settings(), &heard, &retired);
        status.certificates = certificates.into_iter().map(|known| CertificateStatus::at(known, unix_ms())).collect();
        status.names = self.naming.status().into_iter().map(NameStatus::from).collect();
        status
    }

    /// The `count` last events, the oldest first.
    pub(crate) fn last_events(&self, count: usize) -> Vec<KeptEvent> {
        self.events.last(count)
    }

    /// What the unit would do with a message.
    ///
    /// # Errors
    /// The listener or the source does not fit the configuration.
    pub(crate) fn explain(
        &self,
        bytes: &[u8],
        listener: Option<&str>,
        source: Option<SocketAddr>,
    ) -> Result<Explanation, String> {
        let flow = arrival::flow(&self.shared.settings(), listener, source)?;
        Ok(engine::explain(&self.shared, Clock::now(), flow, bytes))
    }

    /// Refuses new calls and registrations from now on.
    pub(crate) fn begin_drain(&self, now: Instant) -> Drain {
        let drain = self.running().checked.unit.drain;
        self.draining.store(true, Ordering::Relaxed);
        self.shared.begin_drain();
        let message = format!("no new calls and registrations; the end comes in {drain:?} at the latest");
        self.log.info("Draining", &message);
        Drain::new(now, drain)
    }

    /// What there is still to do.
    pub(crate) fn load(&self, now: Instant) -> Load {
        let snapshot = self.shared.snapshot(now);
        Load { unanswered: snapshot.unanswered, calls: snapshot.calls }
    }

    /// How far the drain has come.
    pub(crate) fn tell_drain(&self, line: &str) {
        self.log.info("Draining", line);
    }

    /// Closes the listeners and writes the last facts. `reason` goes into the log's last line.
    pub(crate) fn stop(&self, reason: &str) {
        self.stopped.store(true, Ordering::Relaxed);
        self.naming.stop();
        if let Some(data_plane) = lock(&self.data_plane).take() {
            data_plane.stop();
        }
        // It has begun to clear up meanwhile, and is bounded in time.
        if let Some(guarding) = lock(&self.guarding).take() {
            let _panicked = guarding.join();
        }
        if let Err(error) = lock(&self.facts).close(&self.shared) {
            self.log.error("FactsFailed", &format!("the last facts are not written: {error}"));
        }
        // The next start would remove it too.
        let _gone = std::fs::remove_file(control::path_in(self.state.path()));
        self.log.info("Stopped", &format!("the unit has ended: {reason}"));
        self.log.flush();
    }

    fn start_threads(self: &Arc<Self>, nudges: Nudges) -> anyhow::Result<()> {
        let listener = control::open(self.state.path())?;
        let unit = Arc::clone(self);
        std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || control::serve(&listener, &unit))
            .context("cannot start the control socket's thread")?;
        let unit = Arc::clone(self);
        std::thread::Builder::new()
            .name("facts".to_owned())
            .spawn(move || unit.keep_facts())
            .context("cannot start the thread that writes facts")?;
        let unit = Arc::clone(self);
        std::thread::Builder::new()
            .name("certificates".to_owned())
            .spawn(move || unit.watch_certificates())
            .context("cannot start the thread that watches certificates")?;
        let unit = Arc::clone(self);
        std::thread::Builder::new()
            .name("following".to_owned())
            .spawn(move || unit.follow_names(&nudges))
            .context("cannot start the thread that follows names")?;
        self.start_guarding()
    }

    fn start_guarding(self: &Arc<Self>) -> anyhow::Result<()> {
        let seed = u64::from_ne_bytes(state_dir::random()?);
        let unit = Arc::clone(self);
        let guarding = std::thread::Builder::new()
            .name("guardians".to_owned())
            .spawn(move || unit.guard(seed))
            .context("cannot start the thread of the guardians")?;
        *lock(&self.guarding) = Some(guarding);
        Ok(())
    }

    /// New certificates are taken up when their files change; those that end soon are told once a day.
    fn watch_certificates(&self) {
        let (mut told_at, mut is_refused) = (Clock::now(), false);
        while !self.stopped.load(Ordering::Relaxed) {
            std::thread::sleep(CERTIFICATES_EVERY);
            let settings = self.shared.settings();
            let planes = lock(&self.data_plane);
            let Some(plane) = planes.as_ref() else { return };
            let outcome = plane.follow_certificates(&settings);
            let now = Clock::now();
            let is_due = now.saturating_since(told_at) >= ENDING_TOLD_EVERY;
            let ending = if is_due { plane.ending_certificates() } else { Vec::new() };
            drop(planes);
            if is_due {
                told_at = now;
            }
            let refused_before = std::mem::replace(&mut is_refused, outcome.is_err());
            match outcome {
                Ok(None) => {}
                Ok(Some(warnings)) => {
                    self.log.info("Certificates", "certificates are read again: a file has changed");
                    self.warn_of_certificates(&warnings);
                }
                // The file may be half written: it is read again until it can be used.
                Err(_) if refused_before => {}
                Err(error) => {
                    let message = format!("the old certificates stay in use: {error}");
                    self.log.error("CertificatesRefused", &message);
                }
            }
            self.warn_of_certificates(&ending);
        }
    }

    fn warn_of_certificates(&self, warnings: &[net::Warning]) {
        for warning in warnings {
            self.log.warn("Certificates", &warning.to_string());
        }
    }

    fn keep_facts(&self) {
        while !self.stopped.load(Ordering::Relaxed) {
            std::thread::sleep(FACTS_EVERY);
            let mut facts = lock(&self.facts);
            // The clock is read under the lock, so that it never seems to go back between two writes.
            let outcome = facts.write(&self.shared, Clock::now());
            drop(facts);
            let failing = outcome.is_err();
            let failed_before = self.facts_failing.swap(failing, Ordering::Relaxed);
            match outcome {
                Err(error) if !failed_before => {
                    let folder = self.state.path().display();
                    let message = format!(
                        "cannot write facts to {folder}: {error}; balancing goes on, but a restart would forget who registered since"
                    );
                    self.log.error("FactsFailed", &message);
                }
                Ok(()) if failed_before => self.log.info("FactsWritten", "facts can be written again"),
                Ok(()) | Err(_) => {}
            }
        }
    }

    /// What runs now.
    fn running(&self) -> Arc<Configuration> {
        Arc::clone(&lock(&self.configuration))
    }

    /// The caller holds `taking`.
    fn take_up(&self) -> Result<Vec<String>, String> {
        let running = self.running();
        let outcome = self.read_again(&running).and_then(|next| {
            let changes = told_changes(&running.checked, &next.checked);
            let warnings = self.apply(&running.checked, next, DataPlane::apply_settings)?;
            self.warn(&self.running().checked, &warnings);
            Ok(changes)
        });
        // Of a file that is refused the names are forgotten again.
        if let Err(error) = self.naming.keep_to(&self.running().checked) {
            self.log.error("Names", &format!("{error:#}"));
        }
        if outcome.is_ok() {
            self.warn_of_names();
        }
        outcome
    }

    fn read_again(&self, running: &Configuration) -> Result<Configuration, String> {
        let source = Source::read(&self.config_path).map_err(|error| format!("{error:#}"))?;
        let first = source.check().map_err(|diagnostics| refusal(&diagnostics))?;
        if first.names.is_empty() {
            return Ok(Configuration::without_names(source, first));
        }
        let kept = &running.checked.names;
        let new: Vec<_> = first.names.iter().filter(|name| !kept.contains(name)).cloned().collect();
        if !new.is_empty() {
            self.log.info("Names", &asking_for(&new));
        }
        let answers = self.naming.ask(kept, &first).map_err(|error| format!("{error:#}"))?;
        let down = self.naming.down(Clock::now(), &running.checked.settings);
        let checked = source.check_with(&answers, &down).map_err(|diagnostics| refusal(&diagnostics))?;
        Ok(Configuration { source: Arc::new(source), answers, down, checked })
    }

    /// Lets `next` run instead of `before`, or leaves everything as it is. The caller holds `taking`.
    fn apply(&self, before: &Checked, next: Configuration, by: Taking) -> Result<Vec<net::Warning>, String> {
        let settings = &next.checked.settings;
        // The sockets first, since only they can be refused.
        let warnings = match lock(&self.data_plane).as_ref() {
            Some(data_plane) => by(data_plane, settings).map_err(|error| error.to_string())?,
            None => return Err("the unit has stopped".to_owned()),
        };
        let now = Clock::now();
        let with_calls: Vec<BackendId> = self.shared.snapshot(now).retired.iter().map(|(id, _)| *id).collect();
        lock(&self.retired).follow(&before.settings, settings, &with_calls);
        for event in self.shared.replace_settings(now, settings.clone()) {
            self.hearers.hear(&event);
        }
        if let Some(data_plane) = lock(&self.data_plane).as_ref() {
            data_plane.rouse();
        }
        self.log.set(next.checked.log);
        *lock(&self.configuration) = Arc::new(next);
        Ok(warnings)
    }

    fn sample_now(&self, now: Instant) -> Sample {
        let network = lock(&self.data_plane).as_ref().map(DataPlane::counters).unwrap_or_default();
        Sample { at: now, snapshot: self.shared.snapshot(now), network }
    }

    fn tell_start(&self, loaded: engine::Loaded, warnings: &[net::Warning], told: &Told) {
        if let Some(done) = &told.done {
            self.log.info("Privileges", done);
        }
        for warning in told.warnings.iter().cloned().chain(self.state.warning()) {
            self.log.warn("Privileges", &warning);
        }
        self.warn(&self.running().checked, warnings);
        self.warn_of_names();
        if loaded.damaged > 0 {
            let message = format!(
                "{} of facts.log could not be read (a crash may cut the last one short); the rest is loaded",
                count(loaded.damaged, "record")
            );
            self.log.warn("FactsDamaged", &message);
        }
        let message = format!("unit {} runs; {} loaded", self.name(), count(loaded.records, "fact"));
        self.log.info("Started", &message);
    }

    fn warn(&self, checked: &Checked, warnings: &[net::Warning]) {
        for diagnostic in &checked.warnings {
            self.log.warn("Configuration", &brief(diagnostic));
        }
        for warning in warnings {
            self.log.warn("Sockets", &warning.to_string());
        }
    }

    fn warn_of_names(&self) {
        for line in self.naming.unknown() {
            self.log.warn("Names", &line);
        }
    }

    /// As configured, else the host's name.
    fn name(&self) -> String {
        let configured = self.running().checked.unit.name.clone();
        if !configured.is_empty() {
            return configured;
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        host.trim().to_owned()
    }
}

/// What the file says once its names were asked for.
fn first_answers(naming: &Naming, log: &Log, source: Source, checked: Checked) -> anyhow::Result<Configuration> {
    if checked.names.is_empty() {
        return Ok(Configuration::without_names(source, checked));
    }
    log.info("Names", &asking_for(&checked.names));
    let answers = naming.ask(&[], &checked)?;
    let down = BTreeSet::new();
    match source.check_with(&answers, &down) {
        Ok(checked) => Ok(Configuration { source: Arc::new(source), answers, down, checked }),
        Err(diagnostics) => Err(anyhow::anyhow!("what the names lead to cannot run: {}", refusal(&diagnostics))),
    }
}

fn refusal(diagnostics: &[Diagnostic]) -> String {
    let lines: Vec<String> = errors(diagnostics).map(brief).collect();
    lines.join("; ")
}

/// How the sockets take settings up.
type Taking = fn(&DataPlane, &engine::Settings) -> Result<Vec<net::Warning>, net::NetError>;

/// Milliseconds of Unix time.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The locks of a unit guard values that are replaced in one step, so that whoever panicked left a whole one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a reload changes, with a remark where a limit sizes a table that is made once.
fn told_changes(running: &Checked, next: &Checked) -> Vec<String> {
    let mut changes = config::difference(running, next);
    for change in &mut changes {
        if MADE_ONCE.iter().any(|limit| change.starts_with(limit)) {
            change.push_str(" (from the next start on)");
        }
    }
    changes
}

/// A configured backend, and the farm that it is in.
fn backend_of(settings: &Settings, id: BackendId) -> Option<(&Farm, &Backend)> {
    settings.farms.iter().find_map(|farm| Some((farm, farm.backends.iter().find(|known| known.id == id)?)))
}

fn worker_count(checked: &Checked) -> usize {
    match checked.unit.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    }
}

/// One worker needs one shard; several meet rarely when there are some shards for each.
fn shard_count(workers: usize) -> usize {
    if workers == 1 { 1 } else { workers * SHARDS_PER_WORKER }
}

/// Beginnings of the lines of changes that take effect at the next start without saying so themselves.
const MADE_ONCE: [&str; 1] = ["limits: sticky "];
const SHARDS_PER_WORKER: usize = 4;
const CERTIFICATES_EVERY: Duration = Duration::from_secs(5);
const ENDING_TOLD_EVERY: Duration = Duration::from_secs(24 * 3_600);
/// Facts are on their way to the disk within a second: this, and the time to write.
const FACTS_EVERY: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const FARM: &str = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
                        [[farm.backend]]\naddress = \"127.0.0.11:5060\"\n";

    fn checked(head: &str) -> Checked {
        let text = format!("{head}{FARM}");
        match config::load("a.toml", &text) {
            Ok(checked) => checked,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    #[test]
    fn changes_that_wait_for_a_start_say_so() {
        let next = checked("[unit]\nworkers = 3\n[limits]\nsticky = 7\nheaders = 99\n");
        let changes = told_changes(&checked(""), &next);
        assert_eq!(
            changes,
            [
                "unit: workers (from the next start on) 0 -> 3",
                "limits: headers 256 -> 99",
                "limits: sticky 1000000 -> 7 (from the next start on)"
            ]
        );
    }

    #[test]
    fn shards_are_a_multiple_of_the_workers() {
        assert_eq!(shard_count(1), 1);
        assert_eq!(shard_count(6), 24);
        assert_eq!(worker_count(&checked("[unit]\nworkers = 5\n")), 5);
        assert!(worker_count(&checked("")) >= 1);
    }
}
