//! Who sent a message: a backend, a trunk, or a client.

use crate::id::BackendId;
use crate::io::Flow;
use crate::running::FarmView;
use crate::settings::Listener;
use std::io::Write;

/// The sender of a request, known by where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Origin {
    /// Index into the farm's backends; `None`: arrived on an inside listener from an address of no backend.
    Backend(Option<usize>),
    /// Index into the farm's trunks.
    Trunk(usize),
    Client,
}

impl Origin {
    /// Judges by the listener and the source address alone: nothing in a message can change who sent it.
    pub(crate) fn of(farm: FarmView<'_>, listener: &Listener, flow: &Flow) -> Self {
        let backend = farm.running.backend_at(farm.settings, flow);
        if backend.is_some() && listener.inside {
            return Self::Backend(backend);
        }
        if listener.inside && !listener.outside {
            return Self::Backend(None);
        }
        // A dual-stack listener sees IPv4 senders as mapped addresses.
        let address = flow.remote.ip().to_canonical();
        let trunk = farm
            .settings
            .trunks
            .iter()
            .position(|trunk| trunk.addresses.iter().any(|network| network.contains(&address)));
        match (backend, trunk) {
            (Some(_), _) => Self::Backend(backend),
            (None, Some(trunk)) => Self::Trunk(trunk),
            (None, None) => Self::Client,
        }
    }

    pub(crate) fn is_backend(self) -> bool {
        matches!(self, Self::Backend(_))
    }

    /// The id of the backend that sent it; 0 if it has none.
    pub(crate) fn backend_id(self, farm: FarmView<'_>) -> BackendId {
        match self {
            Self::Backend(Some(index)) => farm.settings.backends[index].id,
            _ => BackendId(0),
        }
    }

    /// Writes what the backend is told in the origin header.
    pub(crate) fn write(self, farm: FarmView<'_>, out: &mut Vec<u8>) {
        // Writing into memory cannot fail.
        let _ = match self {
            Self::Client => write!(out, "client"),
            Self::Trunk(index) => write!(out, "trunk {}", farm.settings.trunks[index].name),
            Self::Backend(Some(index)) => {
                write!(out, "backend {}", farm.settings.backends[index].name)
            }
            Self::Backend(None) => write!(out, "backend unknown"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::FarmId;
    use crate::io::unit::{arrive, flow, listener, request, running};
    use crate::settings::Trunk;

    const OUTSIDE: &str = "10.0.0.1:5060";
    const INSIDE: &str = "10.0.0.2:5060";
    const BOTH: &str = "10.0.0.3:5060";

    #[test]
    fn the_listener_and_the_source_address_tell_who_sends() {
        let trunk = |name: &str, network: &str| Trunk {
            name: name.to_owned(),
            addresses: vec![network.parse().expect("a network")],
            service: None,
            trusted: false,
            out: Vec::new(),
            verify: crate::settings::Verify::System,
        };
        let running = running(|farm| {
            farm.listeners =
                vec![listener(OUTSIDE, true, false), listener(INSIDE, false, true), listener(BOTH, true, true)];
            farm.trunks = vec![trunk("carrier", "198.51.100.0/28"), trunk("museum", "203.0.113.0/24")];
        });
        let ids: Vec<BackendId> = running
            .farm_by_id(FarmId::of("pbx"))
            .expect("a farm")
            .settings
            .backends
            .iter()
            .map(|backend| backend.id)
            .collect();
        let request = request("OPTIONS", "sip:clyde@example.com", "");
        for (local, remote, origin, told) in [
            (BOTH, "10.0.1.1:5060", Origin::Backend(Some(0)), "backend pbx1"),
            (INSIDE, "10.0.1.2:5060", Origin::Backend(Some(1)), "backend pbx2"),
            (OUTSIDE, "10.0.1.2:5060", Origin::Backend(Some(1)), "backend pbx2"),
            // A port of its own makes another sender of it.
            (BOTH, "10.0.1.1:5061", Origin::Client, "client"),
            (INSIDE, "10.0.1.1:5061", Origin::Backend(None), "backend unknown"),
            (INSIDE, "198.51.100.1:5060", Origin::Backend(None), "backend unknown"),
            (BOTH, "10.1.0.1:5060", Origin::Client, "client"),
            (OUTSIDE, "10.1.0.1:5060", Origin::Client, "client"),
            (BOTH, "198.51.100.15:9", Origin::Trunk(0), "trunk carrier"),
            (OUTSIDE, "198.51.100.16:9", Origin::Client, "client"),
            (OUTSIDE, "203.0.113.1:9", Origin::Trunk(1), "trunk museum"),
            (OUTSIDE, "[::ffff:203.0.113.1]:9", Origin::Trunk(1), "trunk museum"),
        ] {
            arrive(&running, flow(local, remote), &request, |arrival| {
                let found = arrival.origin;
                let mut text = Vec::new();
                found.write(arrival.farm, &mut text);
                assert_eq!((found, text.as_slice()), (origin, told.as_bytes()), "{remote} at {local}");
                assert_eq!(found.is_backend(), told.starts_with("backend"), "{remote} at {local}");
                let id = match origin {
                    Origin::Backend(Some(index)) => ids[index],
                    _ => BackendId(0),
                };
                assert_eq!(found.backend_id(arrival.farm), id, "{remote} at {local}");
            });
        }
    }
}
