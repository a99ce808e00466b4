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
        let backend = farm.running.backend_at(farm.settings, flow.remote);
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
