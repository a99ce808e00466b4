//! Everybody who hears of the engine's events.

use super::Events;
use crate::unit::names::Naming;
use crate::unit::{backend_of, lock};
use engine::{BackendId, Event, Settings};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// Called in the threads of the data plane, and in that of the guardians.
#[derive(Clone)]
pub(in crate::unit) struct Hearers {
    events: Arc<Events>,
    naming: Arc<Naming>,
    /// Backends that were cut, whose connections wait to be closed. The threads of the data plane must not wait for whoever stops
    /// them, so another thread does it.
    cut: Arc<Mutex<Vec<BackendId>>>,
}

impl Hearers {
    pub(in crate::unit) fn new(events: Arc<Events>, naming: Arc<Naming>) -> Self {
        Self { events, naming, cut: Arc::default() }
    }

    pub(in crate::unit) fn hear(&self, event: &Event) {
        self.events.handle(event);
        self.naming.hear(event);
        if let Event::BackendCut { backend, .. } = event {
            lock(&self.cut).push(*backend);
        }
    }

    /// Backends that were cut since the last call.
    pub(in crate::unit) fn take_cut(&self) -> Vec<BackendId> {
        std::mem::take(&mut *lock(&self.cut))
    }
}

/// Where a backend listens, over whatever transport.
pub(in crate::unit) fn places(settings: &Settings, backend: BackendId) -> Vec<SocketAddr> {
    backend_of(settings, backend).map_or_else(Vec::new, |(_, known)| {
        let port = |port: u16| SocketAddr::new(known.address.ip(), port);
        vec![known.address, port(known.ports.tcp), port(known.ports.tls)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_cut_off_wherever_it_listens() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
                    [[farm.backend]]\nname = \"p\"\naddress = \"127.0.0.11:5070\"\ntransport = \"same\"\nports = { tcp = 5071, tls = 5072 }\n";
        let settings = match config::load("a.toml", text) {
            Ok(checked) => checked.settings,
            Err(errors) => panic!("{errors:?}"),
        };
        let id = settings.farms.first().and_then(|farm| farm.backends.first()).expect("one is written").id;
        let wanted =
            ["127.0.0.11:5070", "127.0.0.11:5071", "127.0.0.11:5072"].map(|text| text.parse().expect("an address"));
        assert_eq!(places(&settings, id), wanted);
        assert!(places(&settings, BackendId(1)).is_empty());
    }
}
