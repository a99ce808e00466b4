//! What the data plane tells: lines for the log, and why backends are down.

use super::lock;
use super::log::{Line, Log};
use config::LogLevel;
use engine::{BackendId, DownCause, Event, FarmId, Settings, Shared, UpCause};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Hears every event of the engine.
pub(crate) struct Events {
    log: Arc<Log>,
    shared: Arc<Shared>,
    /// Of backends that are down.
    causes: Mutex<BTreeMap<BackendId, String>>,
}

/// A backend as the operator knows it.
struct Named {
    farm: String,
    backend: String,
    text: String,
}

impl Events {
    pub(crate) fn new(log: Arc<Log>, shared: Arc<Shared>) -> Self {
        Self { log, shared, causes: Mutex::default() }
    }

    /// Called in the threads of the data plane.
    pub(crate) fn handle(&self, event: &Event) {
        let settings = self.shared.settings();
        match *event {
            Event::BackendUp { backend, cause } => {
                lock(&self.causes).remove(&backend);
                let name = named(&settings, backend);
                let how = match cause {
                    UpCause::Pinged => "it answers pings",
                    UpCause::Answered => "it answered again",
                };
                let message = format!("{} is up: {how}", name.text);
                self.tell(LogLevel::Info, "BackendUp", &message, &name);
            }
            Event::BackendDown { backend, cause } => {
                let name = named(&settings, backend);
                let why = words(cause);
                let message = format!("{} is down: {why}", name.text);
                lock(&self.causes).insert(backend, why);
                self.tell(LogLevel::Warn, "BackendDown", &message, &name);
            }
            Event::AffinityRefused { farm, backend } => {
                let mut name = named(&settings, backend);
                name.farm = farm_name(&settings, farm);
                let message = format!(
                    "{} refused a call that went there because the callee is registered there: if its users differ from those of \
                     the other backends, set `callee_affinity = false` in the service",
                    name.text
                );
                self.tell(LogLevel::Warn, "AffinityRefused", &message, &name);
            }
            Event::LimitReached { limit } => {
                let message = format!("the limit `{limit}` is reached; it stands in [limits]");
                let fields = [("limit", limit)];
                let line = Line { level: LogLevel::Warn, event: "LimitReached", message: &message, fields: &fields };
                self.log.write(&line);
            }
        }
    }

    /// Why a backend is down, if it is.
    pub(crate) fn cause(&self, backend: BackendId) -> Option<String> {
        lock(&self.causes).get(&backend).cloned()
    }

    /// Forgets backends that are no longer configured.
    pub(crate) fn follow(&self, settings: &Settings) {
        lock(&self.causes)
            .retain(|id, _| settings.farms.iter().flat_map(|farm| &farm.backends).any(|backend| backend.id == *id));
    }

    fn tell(&self, level: LogLevel, event: &'static str, message: &str, name: &Named) {
        let fields = [("farm", name.farm.as_str()), ("backend", name.backend.as_str())];
        self.log.write(&Line { level, event, message, fields: &fields });
    }
}

fn named(settings: &Settings, id: BackendId) -> Named {
    for farm in &settings.farms {
        if let Some(backend) = farm.backends.iter().find(|backend| backend.id == id) {
            return Named {
                farm: farm.name.clone(),
                backend: backend.name.clone(),
                text: format!("backend {} ({}) of farm {}", backend.name, backend.address, farm.name),
            };
        }
    }
    Named { farm: String::new(), backend: String::new(), text: "a backend that is no longer configured".to_owned() }
}

fn farm_name(settings: &Settings, id: FarmId) -> String {
    settings.farms.iter().find(|farm| farm.id == id).map(|farm| farm.name.clone()).unwrap_or_default()
}

fn words(cause: DownCause) -> String {
    match cause {
        DownCause::Unanswered => "pings stay unanswered".to_owned(),
        DownCause::Refused(status) => format!("it answers pings with {status}"),
        DownCause::Unreachable => "the network says that it is unreachable, or nothing listens there".to_owned(),
        DownCause::TimedOut => "requests in a row stayed unanswered".to_owned(),
    }
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

    fn events() -> Events {
        let settings = config::Log { level: LogLevel::Error, format: config::LogFormat::Text };
        let log = Log::start(settings).expect("a thread can be had");
        let secrets = Secrets { key_id: 1, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1 };
        let shared = Shared::new(self::settings(), secrets, 1, Instant::from_micros(0), 0, 1);
        Events::new(Arc::new(log), shared)
    }

    #[test]
    fn causes_are_known_while_a_backend_is_down() {
        let events = events();
        let settings = settings();
        let id = settings.farms.first().and_then(|farm| farm.backends.first()).expect("one is written").id;
        assert_eq!(events.cause(id), None);
        events.handle(&Event::BackendDown { backend: id, cause: DownCause::Refused(503) });
        assert_eq!(events.cause(id).as_deref(), Some("it answers pings with 503"));
        events.follow(&settings);
        assert!(events.cause(id).is_some());
        events.handle(&Event::BackendUp { backend: id, cause: UpCause::Pinged });
        assert_eq!(events.cause(id), None);
        events.handle(&Event::BackendDown { backend: id, cause: DownCause::TimedOut });
        events.follow(&Settings::default());
        assert_eq!(events.cause(id), None);
    }

    #[test]
    fn backends_are_called_by_name_and_address() {
        let settings = settings();
        let id = settings.farms.first().and_then(|farm| farm.backends.first()).expect("one is written").id;
        assert_eq!(named(&settings, id).text, "backend pbx1 (127.0.0.11:5060) of farm pbx");
        assert_eq!(named(&Settings::default(), id).farm, "");
    }
}
