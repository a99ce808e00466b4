//! The guardians that the unit serves itself, in a thread of its own: it registers, calls, connects and runs programs, and tells the
//! engine what came of it. Checks by OPTIONS are the engine's.
//!
//! ```text
//!   schedule   when                          plan   what, with the backend's address and the files read      words, for programs
//!   work       what is under way: probes of the crate `probe`, connect, exec with mark                       notes, for the operator
//! ```

mod connect;
mod exec;
mod mark;
mod notes;
mod plan;
mod schedule;
mod words;
mod work;

pub(crate) use notes::{Note, Notes};
pub(crate) use plan::{password_in, read_file, task};
pub(crate) use schedule::AT_ONCE;
pub(crate) use work::{Detail, Outcome, Verdict, Work};

use super::events::places;
use super::{Unit, backend_of, lock};
use crate::configuration::Configuration;
use config::{Check, Checked, Guardian};
use engine::{Backend, CheckOutcome, Farm, Maintenance, guardians_of};
use net::Clock;
use probe::shell::Linger;
use schedule::{Pair, Rhythm, Schedule};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Unit {
    /// Makes checks until the unit ends, and clears up then. All that is random follows from `seed`.
    pub(super) fn guard(&self, seed: u64) {
        let mut schedule = Schedule::new(seed);
        let mut work: Work<Pair> = Work::new();
        let mut followed: Option<Arc<Configuration>> = None;
        while !self.stopped.load(Ordering::Relaxed) {
            let running = self.running();
            if followed.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &running)) {
                self.follow_guardians(&mut schedule, &running.checked);
                followed = Some(Arc::clone(&running));
            }
            for pair in schedule.begin(Clock::now()) {
                let task = task_of(&running.checked, &pair);
                work.start(pair, task);
            }
            self.notes.set_waited(schedule.waited());
            self.close_cut();
            let due = schedule.next_due().map_or(TICK, |due| due.saturating_since(Clock::now()));
            for (pair, outcome) in work.turn(due.min(TICK)) {
                // Of those that a reload removed meanwhile nothing is kept, and nobody is told.
                if schedule.finished(Clock::now(), &pair, outcome.is_good()) {
                    self.take_outcome(&pair, &outcome);
                }
            }
        }
        work.end(CLEAN_UP);
    }

    fn follow_guardians(&self, schedule: &mut Schedule, checked: &Checked) {
        let wanted = wanted(checked);
        schedule.follow(Clock::now(), &wanted);
        self.notes.keep(&wanted.into_iter().map(|(pair, _)| pair).collect());
    }

    fn take_outcome(&self, pair: &Pair, outcome: &Outcome) {
        let is_news = self.notes.take(pair, outcome);
        let told = match outcome.verdict {
            Verdict::Good | Verdict::Warning => CheckOutcome::Good { took: outcome.took },
            Verdict::Failed => CheckOutcome::Failed { reason: Arc::from(outcome.text.as_str()) },
            Verdict::NotMade => {
                if is_news {
                    let message = format!("{}; it says nothing of the backend", self.about(pair, outcome));
                    self.log.error("CheckNotMade", &message);
                }
                return;
            }
        };
        if is_news && outcome.verdict == Verdict::Warning {
            self.log.warn("CheckWarns", &self.about(pair, outcome));
        }
        if let Some(event) = self.shared.on_check(Clock::now(), pair.backend, &pair.guardian, &told) {
            self.hearers.hear(&event);
            if let Some(plane) = lock(&self.data_plane).as_ref() {
                plane.rouse();
            }
        }
    }

    /// Connections to backends that were cut lead nowhere any more.
    fn close_cut(&self) {
        let cut = self.hearers.take_cut();
        if cut.is_empty() {
            return;
        }
        let settings = self.shared.settings();
        let places: Vec<SocketAddr> = cut.into_iter().flat_map(|backend| places(&settings, backend)).collect();
        if let Some(plane) = lock(&self.data_plane).as_ref() {
            plane.close_peers(&places);
        }
    }

    fn about(&self, pair: &Pair, outcome: &Outcome) -> String {
        let settings = self.shared.settings();
        let name = backend_of(&settings, pair.backend).map_or("that is gone", |(_, backend)| backend.name.as_str());
        format!("guardian {} of backend {name}: {}", pair.guardian, outcome.text)
    }
}

/// The backends of a farm that a guardian of this name looks after, in file order.
pub(crate) fn attached<'a>(farm: &'a Farm, guardian: &str) -> Vec<&'a Backend> {
    let is_its = |backend: &&Backend| guardians_of(farm, backend).iter().any(|known| &*known.name == guardian);
    farm.backends.iter().filter(is_its).collect()
}

/// Everything that the unit checks itself: not what the engine asks by OPTIONS, and no backend that is out of service.
fn wanted(checked: &Checked) -> Vec<(Pair, Rhythm)> {
    let mut wanted = Vec::new();
    for guardian in checked.guardians.iter().filter(|guardian| guardian.check != Check::Options) {
        let decides = &guardian.decides;
        let rhythm = Rhythm { interval: decides.interval, rise: decides.rise, fall: decides.fall };
        for farm in &checked.settings.farms {
            let backends = attached(farm, &decides.name);
            for backend in backends.into_iter().filter(|backend| backend.maintenance != Maintenance::Cut) {
                wanted.push((Pair { backend: backend.id, guardian: Arc::clone(&decides.name) }, rhythm));
            }
        }
    }
    wanted
}

fn task_of(checked: &Checked, pair: &Pair) -> Result<plan::Task, String> {
    let guardian: Option<&Guardian> = checked.guardians.iter().find(|known| known.decides.name == pair.guardian);
    match (guardian, backend_of(&checked.settings, pair.backend)) {
        (Some(guardian), Some((_, backend))) => task(guardian, backend, Linger::Stay, &read_file),
        _ => Err("it is no longer configured".to_owned()),
    }
}

/// How late the end of the unit and a new configuration are noticed at most.
const TICK: Duration = Duration::from_millis(100);
/// For probes and programs to take back what they began when the unit ends: longer than a program has before it is killed.
const CLEAN_UP: Duration = Duration::from_millis(2_500);

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
                        [[farm.service]]\nname = \"one\"\nmatch = { domain = [\"x.example\"] }\nguardians = [\"port\", \"own\"]\n\
                        [[farm.service]]\nname = \"default\"\nguardians = [\"port\", \"ping\"]\n\
                        [[farm.backend]]\nname = \"p\"\naddress = \"127.0.0.11\"\nservice = [\"one\", \"default\"]\n\
                        [[farm.backend]]\nname = \"q\"\naddress = \"127.0.0.12\"\nservice = [\"default\"]\n\
                        maintenance = \"drain\"\n\
                        [[farm.backend]]\nname = \"r\"\naddress = \"127.0.0.13\"\nservice = [\"one\"]\nmaintenance = \"cut\"\n\
                        [[guardian]]\nname = \"port\"\ncheck = \"tcp\"\ninterval = \"5s\"\nrise = 4\nfall = 7\n\
                        [[guardian]]\nname = \"own\"\ncheck = \"exec\"\ncommand = \"check_x HOST\"\n\
                        [[guardian]]\nname = \"ping\"\ncheck = \"options\"\n\
                        [[guardian]]\nname = \"spare\"\ncheck = \"tcp\"\n";

    fn checked() -> Checked {
        match config::load("a.toml", FILE) {
            Ok(checked) => checked,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    #[test]
    fn the_unit_checks_what_the_engine_does_not() {
        let checked = checked();
        let farm = checked.settings.farms.first().expect("one is written");
        let name = |pair: &Pair| {
            let backend = farm.backends.iter().find(|backend| backend.id == pair.backend).expect("it is configured");
            format!("{} {}", backend.name, pair.guardian)
        };
        let wanted = wanted(&checked);
        let names: Vec<String> = wanted.iter().map(|(pair, _)| name(pair)).collect();
        assert_eq!(names, ["p port", "q port", "p own"]);
        let rhythm = Rhythm { interval: Duration::from_secs(5), rise: 4, fall: 7 };
        assert_eq!(wanted.first().map(|(_, rhythm)| *rhythm), Some(rhythm));
        for (pair, _) in &wanted {
            assert!(task_of(&checked, pair).is_ok(), "{}", name(pair));
        }
        let gone = Pair { backend: engine::BackendId(1), guardian: "port".into() };
        assert!(task_of(&checked, &gone).is_err());
    }

    #[test]
    fn each_backend_of_a_guardian_is_named_once() {
        let checked = checked();
        let farm = checked.settings.farms.first().expect("one is written");
        let names = |guardian: &str| -> Vec<String> {
            attached(farm, guardian).into_iter().map(|backend| backend.name.clone()).collect()
        };
        assert_eq!(names("port"), ["p", "q", "r"]);
        assert_eq!(names("ping"), ["p", "q"]);
        assert!(names("spare").is_empty() && names("none").is_empty());
    }
}
