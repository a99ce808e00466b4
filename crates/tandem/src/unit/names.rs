//! Names in the configuration that runs: who asks for them, and what is taken up when they lead elsewhere.
//!
//! Answers come in the thread that asks, news of backends in those of the data plane. Neither may wait: both leave a note here,
//! and a thread of the unit takes it up, as a reload is taken up, from the text that runs.

mod passed_over;

use super::{Unit, lock, refusal};
use crate::configuration::{Configuration, brief, count};
use anyhow::Context;
use config::Checked;
use engine::{Answers, BackendId, DownCause, Effect, Event, Guardian, Settings, Target};
use net::{Clock, DataPlane, NameStatus, Names};
use passed_over::PassedOver;
use sip::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Who asks, and what was heard of the backends by name.
pub(super) struct Naming {
    /// `None` as long as there are no names.
    asking: Mutex<Option<Asking>>,
    /// The same, for the workers, who must not wait for the lock.
    is_asking: AtomicBool,
    /// The last news of each backend that nobody has taken up yet; `None`: it is up.
    heard: Mutex<BTreeMap<BackendId, Option<DownCause>>>,
    passed_over: Mutex<PassedOver>,
    nudge: SyncSender<()>,
}

#[derive(Clone)]
struct Asking {
    names: Arc<Names>,
    servers: Vec<SocketAddr>,
}

/// Comes when there is something to take up.
pub(super) type Nudges = Receiver<()>;

impl Naming {
    pub(super) fn new() -> (Self, Nudges) {
        // One that waits says it all.
        let (nudge, nudges) = mpsc::sync_channel(1);
        let naming = Self {
            asking: Mutex::default(),
            is_asking: AtomicBool::new(false),
            heard: Mutex::default(),
            passed_over: Mutex::default(),
            nudge,
        };
        (naming, nudges)
    }

    /// Asks for the names of `next` beside those in `kept`, and waits until each is answered, for five seconds at most.
    ///
    /// # Errors
    /// The system refused a thread.
    pub(super) fn ask(&self, kept: &[Target], next: &Checked) -> anyhow::Result<Answers> {
        if next.names.is_empty() {
            return Ok(Answers::default());
        }
        let asking = self.follow(kept.iter().chain(&next.names).cloned().collect(), &next.dns.servers)?;
        let _all_are_known = asking.names.settle(ASK_AT_MOST);
        Ok(asking.names.answers())
    }

    /// Asks for the names of the configuration that runs now, and for no others.
    ///
    /// # Errors
    /// The system refused a thread.
    pub(super) fn keep_to(&self, running: &Checked) -> anyhow::Result<()> {
        if running.names.is_empty() {
            self.stop();
            return Ok(());
        }
        self.follow(running.names.clone(), &running.dns.servers).map(drop)
    }

    pub(super) fn stop(&self) {
        self.is_asking.store(false, Ordering::Relaxed);
        let asking = lock(&self.asking).take();
        // Its thread is waited for, without the lock.
        drop(asking);
        lock(&self.heard).clear();
        // Nobody advances it any more: what is due in it would keep the thread awake.
        *lock(&self.passed_over) = PassedOver::default();
        self.nudge();
    }

    /// Called in the threads of the data plane.
    pub(super) fn hear(&self, event: &Event) {
        let (backend, cause) = match event {
            Event::BackendUp { backend, .. } => (backend, None),
            Event::BackendDown { backend, cause } => (backend, Some(cause)),
            // A backend that was cut is down already, and one that a guardian warns of stays in use.
            Event::BackendCut { .. } => return,
            Event::BackendWarned { .. } | Event::WarningOver { .. } => return,
            Event::AffinityRefused { .. } | Event::LimitReached { .. } => return,
        };
        if self.is_asking.load(Ordering::Relaxed) {
            lock(&self.heard).insert(*backend, cause.cloned());
            self.nudge();
        }
    }

    pub(super) fn status(&self) -> Vec<NameStatus> {
        self.names().map(|names| names.status()).unwrap_or_default()
    }

    /// A line for each name that nothing is known of.
    pub(super) fn unknown(&self) -> Vec<String> {
        let status = self.status();
        let unknown = status.iter().filter(|name| name.places.is_empty());
        unknown
            .map(|name| {
                let reason = name.failure.as_deref().unwrap_or("it leads nowhere, or nobody has answered yet");
                format!("{} is not known: {reason}; what it stands for is left out until it is", name.name)
            })
            .collect()
    }

    /// The addresses to pass over, with what was heard up to now of the backends in these settings.
    pub(super) fn down(&self, now: Instant, settings: &Settings) -> BTreeSet<SocketAddr> {
        let heard = std::mem::take(&mut *lock(&self.heard));
        let mut passed_over = lock(&self.passed_over);
        for (id, cause) in heard {
            let Some((address, is_checked)) = by_name(settings, id) else { continue };
            match cause {
                None => passed_over.up(address),
                // Who passes its checks and serves badly all the same is not heard to be up by its checks.
                Some(cause) => passed_over.down(now, address, is_checked && !is_passive(&cause)),
            }
        }
        passed_over.advance(now, |address| {
            let mut backends = settings.farms.iter().flat_map(|farm| &farm.backends);
            backends.any(|backend| backend.host.is_some() && backend.address == address)
        });
        passed_over.addresses()
    }

    fn answers(&self) -> Option<Answers> {
        self.names().map(|names| names.answers())
    }

    /// How long to wait at most for a nudge.
    fn patience(&self, now: Instant) -> Duration {
        let due = lock(&self.passed_over).due().map(|due| due.saturating_since(now));
        due.unwrap_or(REST).min(REST)
    }

    fn names(&self) -> Option<Arc<Names>> {
        lock(&self.asking).as_ref().map(|asking| Arc::clone(&asking.names))
    }

    fn follow(&self, targets: Vec<Target>, servers: &[SocketAddr]) -> anyhow::Result<Asking> {
        let mut guard = lock(&self.asking);
        let asking = match guard.take() {
            Some(mut asking) => {
                if asking.servers != servers {
                    asking.names.set_servers(servers);
                    asking.servers = servers.to_vec();
                }
                asking
            }
            None => {
                let nudge = self.nudge.clone();
                let changed = move || {
                    // One that waits already says it all.
                    let _waits = nudge.try_send(());
                };
                let names = Names::start(servers, changed).context("cannot start to ask for names")?;
                Asking { names: Arc::new(names), servers: servers.to_vec() }
            }
        };
        asking.names.follow(targets);
        *guard = Some(asking.clone());
        self.is_asking.store(true, Ordering::Relaxed);
        Ok(asking)
    }

    fn nudge(&self) {
        // One that waits already says it all.
        let _waits = self.nudge.try_send(());
    }
}

impl Unit {
    /// Takes up what names lead to, until the unit ends.
    pub(super) fn follow_names(&self, nudges: &Nudges) {
        while !self.stopped.load(Ordering::Relaxed) {
            // Without a nudge too: what could not be taken up is tried again.
            let _nudged = nudges.recv_timeout(self.naming.patience(Clock::now()));
            self.take_up_names();
            // What comes together is taken up together, and whatever comes does not keep us busy.
            std::thread::sleep(GATHERING);
        }
    }

    fn take_up_names(&self) {
        let _one_at_a_time = lock(&self.taking);
        let running = self.running();
        let (true, Some(answers)) = (!running.checked.names.is_empty(), self.naming.answers()) else {
            return;
        };
        let down = self.naming.down(Clock::now(), &running.checked.settings);
        // The same text with the same answers comes to the same.
        if answers == running.answers && down == running.down {
            return;
        }
        let checked = match running.source.check_with(&answers, &down) {
            Ok(checked) => checked,
            Err(diagnostics) => return self.tell_refused(&refusal(&diagnostics)),
        };
        let mut changes = config::moves(&checked.names, &running.answers, &answers);
        let is_elsewhere = !config::leads_alike(&running.checked.settings, &checked.settings);
        if changes.is_empty() && !is_elsewhere {
            return;
        }
        if changes.is_empty() {
            changes = config::difference(&running.checked, &checked);
        }
        let next = Configuration { source: Arc::clone(&running.source), answers, down, checked };
        if is_elsewhere {
            match self.apply(&running.checked, next, DataPlane::apply_places) {
                // They are those of the start, of a reload, or of the thread that watches certificates.
                Ok(_told_before) => {}
                Err(reason) => return self.tell_refused(&reason),
            }
        } else {
            *lock(&self.configuration) = Arc::new(next);
        }
        for change in &changes {
            self.log.info("Names", change);
        }
        for warning in self.running().checked.warnings.iter().filter(|one| !running.checked.warnings.contains(one)) {
            self.log.warn("Configuration", &brief(warning));
        }
    }

    fn tell_refused(&self, reason: &str) {
        self.log.error("NamesRefused", &format!("names lead elsewhere, and the old places stay in use: {reason}"));
    }
}

/// To be told before [`Naming::ask`].
pub(super) fn asking_for(names: &[Target]) -> String {
    format!("asking for {}, for {} seconds at most", count(names.len(), "name"), ASK_AT_MOST.as_secs())
}

/// What requests told, and checks did not.
fn is_passive(cause: &DownCause) -> bool {
    match cause {
        DownCause::TimedOut | DownCause::Failing { .. } | DownCause::Slow { .. } => true,
        DownCause::Check { .. } | DownCause::Unreachable => false,
    }
}

/// Where a backend is that was found by name, and whether checks decide about it.
fn by_name(settings: &Settings, id: BackendId) -> Option<(SocketAddr, bool)> {
    let mut all = settings.farms.iter().flat_map(|farm| farm.backends.iter().map(move |backend| (farm, backend)));
    let (farm, backend) = all.find(|(_, backend)| backend.id == id && backend.host.is_some())?;
    let decides = |guardian: &Arc<Guardian>| guardian.effect == Effect::Down;
    Some((backend.address, engine::guardians_of(farm, backend).iter().any(decides)))
}

const ASK_AT_MOST: Duration = Duration::from_secs(5);
const REST: Duration = Duration::from_secs(60);
const GATHERING: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Farm, Found, Place, Transport, UpCause, guardians_of};

    fn settings(guardians: &str, down: &BTreeSet<SocketAddr>) -> Settings {
        let text = format!(
            "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.service]]\nname = \"default\"\n{guardians}\n\
             [[farm.backend]]\nname = \"p\"\naddress = \"pbx.example.com\"\n[[farm.backend]]\nname = \"q\"\naddress = \"127.0.0.11\"\n"
        );
        let found = |host: u8| {
            let place =
                Place { transport: Transport::Udp, address: address(host), host: Some("pbx.example.com".to_owned()) };
            Found { place, priority: 0, weight: 0 }
        };
        let target = Target { host: "pbx.example.com".to_owned(), port: None, transport: Some(Transport::Udp) };
        let answers = Answers(BTreeMap::from([(target, vec![found(21), found(22)])]));
        match config::load_with("f", &text, &answers, down) {
            Ok(checked) => checked.settings,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, host], 5060))
    }

    fn id(name: &str, host: u8) -> BackendId {
        BackendId::of("a", name, address(host))
    }

    /// As if somebody asked.
    fn naming() -> (Naming, Nudges) {
        let (naming, nudges) = Naming::new();
        naming.is_asking.store(true, Ordering::Relaxed);
        (naming, nudges)
    }

    fn unanswered() -> DownCause {
        DownCause::Check { guardian: "options".into(), reason: "no answer to OPTIONS within 2 s".into() }
    }

    fn fell(backend: BackendId, cause: DownCause) -> Event {
        Event::BackendDown { backend, cause }
    }

    #[test]
    fn an_address_of_a_name_is_passed_over_until_it_is_up_again() {
        let (naming, nudges) = naming();
        let now = Instant::from_micros(1);
        let before = settings("", &BTreeSet::new());
        assert!(naming.down(now, &before).is_empty());
        naming.hear(&fell(id("p", 21), unanswered()));
        naming.hear(&fell(id("q", 11), unanswered()));
        assert!(nudges.try_recv().is_ok());
        let down = naming.down(now, &before);
        assert_eq!(down, BTreeSet::from([address(21)]), "what has an address in the file is not by name");
        let after = settings("", &down);
        let places: Vec<SocketAddr> =
            after.farms.iter().flat_map(|farm| &farm.backends).map(|one| one.address).collect();
        assert_eq!(places, [address(22), address(11), address(21)]);
        let is_checked = |farm: &Farm| farm.backends.iter().all(|one| !guardians_of(farm, one).is_empty());
        assert!(after.farms.iter().all(is_checked), "who is passed over has the guardians of its name");
        assert_eq!(naming.down(now + REST * 100, &after), down, "it is checked, so that it will be heard");
        naming.hear(&Event::BackendUp { backend: id("p", 21), cause: UpCause::Check("options".into()) });
        assert!(naming.down(now, &after).is_empty());
    }

    #[test]
    fn what_checks_will_not_tell_is_tried_again() {
        let now = Instant::from_micros(1);
        let slow = DownCause::Slow { ms: 900, median_ms: 40 };
        for (guardians, cause) in [
            ("", DownCause::TimedOut),
            ("", DownCause::Failing { per_cent: 60 }),
            ("", slow),
            ("guardians = []", DownCause::Unreachable),
        ] {
            let (naming, _nudges) = naming();
            let settings = settings(guardians, &BTreeSet::new());
            naming.hear(&fell(id("p", 21), cause));
            assert_eq!(naming.down(now, &settings), BTreeSet::from([address(21)]));
            assert!(naming.down(now + Duration::from_secs(60), &settings).is_empty(), "{guardians}");
        }
    }

    #[test]
    fn nobody_is_kept_awake_when_the_names_are_gone() {
        let (naming, _nudges) = naming();
        let now = Instant::from_micros(1);
        let settings = settings("", &BTreeSet::new());
        naming.hear(&fell(id("p", 21), DownCause::TimedOut));
        assert!(!naming.down(now, &settings).is_empty());
        naming.stop();
        assert_eq!(naming.patience(now + REST * 2), REST);
    }

    #[test]
    fn nothing_is_kept_while_there_are_no_names() {
        let (naming, nudges) = Naming::new();
        naming.hear(&fell(id("p", 21), unanswered()));
        assert!(lock(&naming.heard).is_empty() && nudges.try_recv().is_err());
        assert!(naming.status().is_empty() && naming.unknown().is_empty() && naming.answers().is_none());
        assert_eq!(naming.patience(Instant::from_micros(1)), REST);
    }
}
