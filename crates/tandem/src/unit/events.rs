//! What the engine tells: lines for the log, the last events kept, and how many there were of each kind.

mod hearers;
mod kept;

pub(super) use hearers::{Hearers, places};
pub(crate) use kept::{KEPT, KeptEvent};

use super::log::{Line, Log, rfc3339};
use super::{backend_of, lock};
use config::LogLevel;
use engine::{BackendId, DownCause, Event, FarmId, Settings, Shared, UpCause};
use kept::Kept;
use std::sync::{Arc, Mutex};

/// Hears every event of the engine.
pub(crate) struct Events {
    log: Arc<Log>,
    shared: Arc<Shared>,
    kept: Mutex<Kept>,
}

/// A backend as the operator knows it.
struct Named {
    farm: String,
    backend: String,
    text: String,
}

/// An event in words.
struct Told {
    level: LogLevel,
    /// As the log names it, and as it is counted.
    kind: (&'static str, &'static str),
    farm: String,
    backend: String,
    guardian: String,
    limit: &'static str,
    cause: String,
    message: String,
}

impl Events {
    pub(crate) fn new(log: Arc<Log>, shared: Arc<Shared>) -> Self {
        Self { log, shared, kept: Mutex::default() }
    }

    /// Called in the threads of the data plane, and in that of the guardians.
    pub(crate) fn handle(&self, event: &Event) {
        let told = told(&self.shared.settings(), event);
        let mut fields: Vec<(&'static str, &str)> = Vec::new();
        for (name, value) in [("farm", &told.farm), ("backend", &told.backend), ("guardian", &told.guardian)] {
            if !value.is_empty() {
                fields.push((name, value.as_str()));
            }
        }
        if !told.limit.is_empty() {
            fields.push(("limit", told.limit));
        }
        self.log.write(&Line { level: told.level, event: told.kind.0, message: &told.message, fields: &fields });
        let kept = KeptEvent {
            time: rfc3339(super::unix_ms()),
            event: told.kind.0.to_owned(),
            farm: told.farm,
            backend: told.backend,
            guardian: told.guardian,
            cause: told.cause,
            message: told.message,
        };
        lock(&self.kept).add(told.kind.1, kept);
    }

    /// The `count` last ones, the oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<KeptEvent> {
        lock(&self.kept).last(count)
    }

    /// How many there were of each kind since the start.
    pub(crate) fn counts(&self) -> Vec<(&'static str, u64)> {
        lock(&self.kept).counts()
    }
}

/// Why a backend is down, for people.
pub(crate) fn words(cause: &DownCause) -> String {
    match cause {
        DownCause::Check { guardian, reason } => format!("{reason} (guardian {guardian})"),
        DownCause::Unreachable => "the network says that it is unreachable, or nothing listens there".to_owned(),
        DownCause::TimedOut => "requests in a row stayed unanswered".to_owned(),
        DownCause::Failing { per_cent } => format!("{per_cent} % of its answers say that it failed"),
        DownCause::Slow { ms, median_ms } => {
            format!("it answers after {ms} ms, where others of its pool need {median_ms} ms")
        }
    }
}

fn told(settings: &Settings, event: &Event) -> Told {
    match event {
        Event::BackendUp { backend, cause } => {
            let (how, guardian) = match cause {
                UpCause::Check(guardian) => (format!("its checks are good (guardian {guardian})"), &**guardian),
                UpCause::Answered => ("it answered again".to_owned(), ""),
                UpCause::Reconfigured => ("no guardian of the new configuration holds it down".to_owned(), ""),
            };
            Told::of_backend(settings, *backend, ("BackendUp", "backend_up"), "is up", how).by(guardian)
        }
        Event::BackendDown { backend, cause } => {
            let guardian = match cause {
                DownCause::Check { guardian, .. } => &**guardian,
                _ => "",
            };
            let told = Told::of_backend(settings, *backend, ("BackendDown", "backend_down"), "is down", words(cause));
            told.by(guardian).warns()
        }
        Event::BackendCut { backend, calls } => {
            let how = match calls {
                0 => "no call was up there".to_owned(),
                1 => "its call is ended, to both sides".to_owned(),
                calls => format!("its {calls} calls are ended, to both sides"),
            };
            Told::of_backend(settings, *backend, ("BackendCut", "backend_cut"), "is cut off", how).warns()
        }
        Event::BackendWarned { backend, guardian, reason } => {
            let how = format!("{reason} (guardian {guardian})");
            let told =
                Told::of_backend(settings, *backend, ("BackendWarned", "backend_warned"), "stays in use, but", how);
            told.by(guardian).warns()
        }
        Event::WarningOver { backend, guardian } => {
            let how = format!("guardian {guardian} has nothing to warn of any more");
            Told::of_backend(settings, *backend, ("WarningOver", "warning_over"), "is well again", how).by(guardian)
        }
        Event::AffinityRefused { farm, backend } => affinity_refused(settings, *farm, *backend),
        Event::LimitReached { limit } => Told {
            level: LogLevel::Warn,
            kind: ("LimitReached", "limit_reached"),
            farm: String::new(),
            backend: String::new(),
            guardian: String::new(),
            limit,
            cause: (*limit).to_owned(),
            message: format!("the limit `{limit}` is reached; it stands in [limits]"),
        },
    }
}

fn affinity_refused(settings: &Settings, farm: FarmId, backend: BackendId) -> Told {
    let name = named(settings, backend);
    let message = format!(
        "{} refused a call that went there because the callee is registered there: if its users differ from those of the other \
         backends, set `callee_affinity = false` in the service",
        name.text
    );
    Told {
        level: LogLevel::Warn,
        kind: ("AffinityRefused", "affinity_refused"),
        farm: farm_name(settings, farm),
        backend: name.backend,
        guardian: String::new(),
        limit: "",
        cause: String::new(),
        message,
    }
}

impl Told {
    fn of_backend(
        settings: &Settings,
        backend: BackendId,
        kind: (&'static str, &'static str),
        what: &str,
        cause: String,
    ) -> Self {
        let name = named(settings, backend);
        let message = format!("{} {what}: {cause}", name.text);
        Self {
            level: LogLevel::Info,
            kind,
            farm: name.farm,
            backend: name.backend,
            guardian: String::new(),
            limit: "",
            cause,
            message,
        }
    }

    fn by(self, guardian: &str) -> Self {
        Self { guardian: guardian.to_owned(), ..self }
    }

    fn warns(self) -> Self {
        Self { level: LogLevel::Warn, ..self }
    }
}

fn named(settings: &Settings, id: BackendId) -> Named {
    let Some((farm, backend)) = backend_of(settings, id) else {
        let text = "a backend that is no longer configured".to_owned();
        return Named { farm: String::new(), backend: String::new(), text };
    };
    Named {
        farm: farm.name.clone(),
        backend: backend.name.clone(),
        text: format!("backend {} ({}) of farm {}", backend.name, backend.address, farm.name),
    }
}

fn farm_name(settings: &Settings, id: FarmId) -> String {
    settings.farms.iter().find(|farm| farm.id == id).map(|farm| farm.name.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Secrets;
    use sip::Instant;

    fn settings() -> Settings {
        let text = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.backend]]\nname = \"pbx1\"\n\
                    address = \"127.0.0.11:5060\"\n";
        match config::load("a.toml", text) {
            Ok(checked) => checked.settings,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    fn id(settings: &Settings) -> BackendId {
        settings.farms.first().and_then(|farm| farm.backends.first()).expect("one is written").id
    }

    fn events() -> Events {
        let settings = config::Log { level: LogLevel::Error, format: config::LogFormat::Text };
        let log = Log::start(settings).expect("a thread can be had");
        let secrets = Secrets { key_id: 1, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1 };
        let shared = Shared::new(self::settings(), secrets, 1, Instant::from_micros(0), 0, 1);
        Events::new(Arc::new(log), shared)
    }

    #[test]
    fn each_event_is_told_with_its_cause() {
        let settings = settings();
        let (backend, guardian): (BackendId, Arc<str>) = (id(&settings), "call".into());
        let reason: Arc<str> = "busy: 486 Busy Here".into();
        let down = |cause| Event::BackendDown { backend, cause };
        for (event, kind, guarded, told_as, cause) in [
            (
                down(DownCause::Check { guardian: Arc::clone(&guardian), reason: Arc::clone(&reason) }),
                "BackendDown",
                "call",
                "is down: ",
                "busy: 486 Busy Here (guardian call)",
            ),
            (
                down(DownCause::Failing { per_cent: 62 }),
                "BackendDown",
                "",
                "is down: ",
                "62 % of its answers say that it failed",
            ),
            (
                down(DownCause::Slow { ms: 900, median_ms: 40 }),
                "BackendDown",
                "",
                "is down: ",
                "it answers after 900 ms, where others of its pool need 40 ms",
            ),
            (
                Event::BackendUp { backend, cause: UpCause::Check(Arc::clone(&guardian)) },
                "BackendUp",
                "call",
                "is up: ",
                "its checks are good (guardian call)",
            ),
            (Event::BackendUp { backend, cause: UpCause::Answered }, "BackendUp", "", "is up: ", "it answered again"),
            (
                Event::BackendUp { backend, cause: UpCause::Reconfigured },
                "BackendUp",
                "",
                "is up: ",
                "no guardian of the new configuration holds it down",
            ),
            (
                Event::BackendWarned { backend, guardian: Arc::clone(&guardian), reason },
                "BackendWarned",
                "call",
                "stays in use, but: ",
                "busy: 486 Busy Here (guardian call)",
            ),
            (
                Event::WarningOver { backend, guardian },
                "WarningOver",
                "call",
                "is well again: ",
                "guardian call has nothing to warn of any more",
            ),
        ] {
            let told = told(&settings, &event);
            assert_eq!((told.kind.0, told.guardian.as_str(), told.cause.as_str()), (kind, guarded, cause));
            assert_eq!(told.message, format!("backend pbx1 (127.0.0.11:5060) of farm pbx {told_as}{cause}"));
            assert_eq!((told.farm.as_str(), told.backend.as_str()), ("pbx", "pbx1"));
            let is_bad = matches!(event, Event::BackendDown { .. } | Event::BackendWarned { .. });
            assert_eq!(told.level == LogLevel::Warn, is_bad, "{kind}");
        }
    }

    #[test]
    fn events_are_kept_and_counted() {
        let events = events();
        let backend = id(&settings());
        events.handle(&Event::BackendDown { backend, cause: DownCause::TimedOut });
        events.handle(&Event::BackendUp { backend, cause: UpCause::Answered });
        events.handle(&Event::BackendDown { backend, cause: DownCause::Unreachable });
        events.handle(&Event::LimitReached { limit: "headers" });
        assert_eq!(events.counts(), [("backend_down", 2), ("backend_up", 1), ("limit_reached", 1)]);
        let last = events.last(2);
        let kinds: Vec<(&str, &str)> =
            last.iter().map(|event| (event.event.as_str(), event.backend.as_str())).collect();
        assert_eq!(kinds, [("BackendDown", "pbx1"), ("LimitReached", "")]);
        let first = last.first().expect("two were asked for");
        assert!(first.cause.starts_with("the network says") && first.time.ends_with('Z'), "{first:?}");
    }

    #[test]
    fn backends_are_called_by_name_and_address() {
        let settings = settings();
        assert_eq!(named(&settings, id(&settings)).text, "backend pbx1 (127.0.0.11:5060) of farm pbx");
        assert_eq!(named(&Settings::default(), id(&settings)).farm, "");
    }
}
