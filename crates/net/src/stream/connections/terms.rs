//! What the settings say of connections, looked up when one begins.

use super::Lead;
use crate::stream::connection::StreamLimits;
use engine::{Backend, ListenerId, Reach, Settings, Transport};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

pub(super) struct Terms {
    pub(super) limits: StreamLimits,
    /// The web pages that a listener takes, where they are named.
    origins: HashMap<ListenerId, Arc<[String]>>,
    /// Who is at the other end of a connection that is opened over TLS, and so how the certificate is verified.
    backends: HashMap<Lead, Backend>,
}

impl Terms {
    pub(super) fn of(settings: &Settings) -> Self {
        let mut terms =
            Self { limits: StreamLimits::of(&settings.limits), origins: HashMap::new(), backends: HashMap::new() };
        for farm in &settings.farms {
            for listener in &farm.listeners {
                if listener.transport.is_web_socket() && !farm.origins.is_empty() {
                    terms.origins.insert(listener.id, Arc::from(farm.origins.as_slice()));
                }
                if listener.transport == Transport::Tls {
                    let targets = farm.backends.iter().filter_map(|backend| Some((over_tls(backend)?, backend)));
                    terms.backends.extend(targets.map(|(remote, backend)| ((listener.id, remote), backend.clone())));
                }
            }
        }
        terms
    }

    /// Empty: all.
    pub(super) fn origins(&self, listener: ListenerId) -> Arc<[String]> {
        self.origins.get(&listener).cloned().unwrap_or_else(|| Arc::from([]))
    }

    pub(super) fn backend(&self, lead: &Lead) -> Option<&Backend> {
        self.backends.get(lead)
    }
}

/// Where a backend is reached over TLS, if it is at all.
fn over_tls(backend: &Backend) -> Option<SocketAddr> {
    let (transport, address) = Reach::of(backend).over(Transport::Tls);
    (transport == Transport::Tls).then_some(address)
}
