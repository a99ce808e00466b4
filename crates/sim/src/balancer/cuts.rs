//! When backends were cut, and by whom: the wire shows only what follows from it.

use engine::{BackendId, DownCause, Event, Maintenance, Settings};
use sip::Instant;

/// A time in which a backend was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    pub backend: BackendId,
    pub at: Instant,
    /// When it was taken back; `None`: not yet.
    pub until: Option<Instant>,
    pub by: Cutter,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cutter {
    /// The administrator's `maintenance`.
    Settings,
    Guardian,
}

/// All cuts of one unit, oldest first.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    all: Vec<Cut>,
}

impl Cuts {
    pub(super) fn all(&self) -> &[Cut] {
        &self.all
    }

    /// Settings are replaced.
    pub(super) fn reloaded(&mut self, now: Instant, before: &Settings, after: &Settings) {
        let (before, cut) = (maintained(before), maintained(after));
        for backend in before.iter().filter(|backend| !cut.contains(backend)) {
            self.end(now, |open| open.by == Cutter::Settings && open.backend == *backend);
        }
        for backend in cut.iter().filter(|backend| !before.contains(backend)) {
            self.begin(now, *backend, Cutter::Settings);
        }
        // What a guardian found goes with the guardian.
        if !guardians_that_cut(after, |_| true) {
            self.end(now, |open| open.by == Cutter::Guardian);
        }
    }

    /// The unit tells of something.
    pub(super) fn told(&mut self, now: Instant, settings: &Settings, event: &Event) {
        match event {
            Event::BackendDown { backend, cause: DownCause::Check { guardian, .. } }
                if guardians_that_cut(settings, |name| *name == **guardian) =>
            {
                self.begin(now, *backend, Cutter::Guardian);
            }
            Event::BackendUp { backend, .. } => {
                self.end(now, |open| open.by == Cutter::Guardian && open.backend == *backend);
            }
            _ => {}
        }
    }

    /// The unit is gone, and with it what its guardians had found.
    pub(super) fn killed(&mut self, now: Instant) {
        self.end(now, |open| open.by == Cutter::Guardian);
    }

    fn begin(&mut self, now: Instant, backend: BackendId, by: Cutter) {
        self.all.push(Cut { backend, at: now, until: None, by });
    }

    fn end(&mut self, now: Instant, ends: impl Fn(&Cut) -> bool) {
        for open in self.all.iter_mut().filter(|cut| cut.until.is_none()) {
            if ends(open) {
                open.until = Some(now);
            }
        }
    }
}

fn maintained(settings: &Settings) -> Vec<BackendId> {
    let backends = settings.farms.iter().flat_map(|farm| &farm.backends);
    backends.filter(|backend| backend.maintenance == Maintenance::Cut).map(|backend| backend.id).collect()
}

fn guardians_that_cut(settings: &Settings, is_meant: impl Fn(&str) -> bool) -> bool {
    let services = settings.farms.iter().flat_map(|farm| &farm.services);
    services.flat_map(|service| &service.guardians).any(|guardian| guardian.cut && is_meant(&guardian.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::one_farm;
    use engine::Guardian;
    use std::sync::Arc;

    fn at(second: u64) -> Instant {
        Instant::from_micros(second * 1_000_000)
    }

    fn settings(first: Maintenance, cut: bool) -> Settings {
        one_farm(2, |farm| {
            for backend in farm.backends.iter_mut().take(1) {
                backend.maintenance = first;
            }
            for service in &mut farm.services {
                service.guardians = vec![Arc::new(Guardian { cut, ..Guardian::options() })];
            }
        })
    }

    fn times(cuts: &Cuts) -> Vec<(Instant, Option<Instant>, Cutter)> {
        cuts.all().iter().map(|cut| (cut.at, cut.until, cut.by)).collect()
    }

    #[test]
    fn maintenance_lasts_from_reload_to_reload() {
        let mut cuts = Cuts::default();
        let mut now = Maintenance::Off;
        let steps = [Maintenance::Drain, Maintenance::Cut, Maintenance::Cut, Maintenance::Off];
        for (second, next) in (1..).zip(steps) {
            cuts.reloaded(at(second), &settings(now, false), &settings(next, false));
            cuts.killed(at(second));
            now = next;
        }
        assert_eq!(times(&cuts), [(at(2), Some(at(4)), Cutter::Settings)]);
    }

    #[test]
    fn a_guardian_cuts_if_it_is_told_to() {
        let backend = BackendId::of("pbx", "pbx1", crate::settings::box_address(0));
        let guardian = Guardian::options().name;
        let cause = DownCause::Check { guardian: Arc::clone(&guardian), reason: "silence".into() };
        let down = Event::BackendDown { backend, cause };
        let up = Event::BackendUp { backend, cause: engine::UpCause::Check(guardian) };
        for cut in [false, true] {
            let settings = settings(Maintenance::Off, cut);
            let mut cuts = Cuts::default();
            for (second, event) in [(1, &down), (2, &up), (3, &down)] {
                cuts.told(at(second), &settings, event);
            }
            cuts.killed(at(4));
            let both = [(at(1), Some(at(2)), Cutter::Guardian), (at(3), Some(at(4)), Cutter::Guardian)];
            assert_eq!(times(&cuts), if cut { both.to_vec() } else { Vec::new() });
        }
    }
}
