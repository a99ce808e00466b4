//! Connections of clients that serve for both directions (RFC 5923).
//!
//! A proxy that connects to us may offer, by `alias` in its Via, that our requests to it take its connection instead of one that we
//! open. That is believed over mutual TLS only, of a client whose verified certificate is for the host that its Via names; where somebody
//! is known to be at that address it must be his as well. Anybody else could draw the requests for another one of his host's to himself.

use super::entry::{Alias, Entry};
use super::terms::Terms;
use super::{Connections, lock};
use crate::stream::tls::Shown;
use engine::Transport;
use rustls::pki_types::CertificateDer;
use sip::Message;
use std::collections::hash_map::Entry as Place;
use std::sync::Arc;

impl Connections {
    /// Looks at the first request of a client. `certificate`: its own, verified. Its messages are not handed on yet, and nobody else
    /// reads from the connection.
    pub(super) fn judge_alias(
        &self,
        entry: &Arc<Entry>,
        certificate: Option<&CertificateDer<'_>>,
        messages: &[Vec<u8>],
    ) {
        let alias = match certificate {
            Some(certificate) => {
                let terms = self.terms.load();
                let limits = terms.limits.message;
                let parsed = messages.iter().filter_map(|octets| sip::parse(octets, &limits).ok());
                let mut requests = parsed.filter(Message::is_request);
                // Responses say nothing of it.
                let Some(first) = requests.next() else { return };
                alias_of(entry, certificate, &first, &terms)
            }
            None => None,
        };
        let lead = alias.as_ref().map(|alias| alias.lead);
        if entry.alias.set(alias.map(Box::new)).is_err() {
            return;
        }
        let Some(lead) = lead else { return };
        let mut leads = lock(self.lead_stripe(&lead));
        match leads.entry(lead) {
            // A client that connects again has lost the other one. What we opened goes on, and so does who comes from just there.
            Place::Occupied(mut known) if known.get().alias().is_some_and(|alias| alias.lead == lead) => {
                known.insert(Arc::clone(entry));
            }
            Place::Occupied(_) => {}
            Place::Vacant(place) => {
                place.insert(Arc::clone(entry));
            }
        }
    }
}

fn alias_of(entry: &Entry, certificate: &CertificateDer<'_>, request: &Message<'_>, terms: &Terms) -> Option<Alias> {
    let via = request.top_via()?;
    via.param(b"alias")?;
    let shown = Shown::of(certificate);
    let mut remote = entry.flow.remote;
    remote.set_port(via.port.unwrap_or(Transport::Tls.default_port()));
    let lead = (entry.flow.listener, remote);
    let peer = terms.peer(&lead);
    let is_proven = shown.is_for(via.host) && peer.as_ref().is_none_or(|peer| peer.is_shown_by(&shown));
    is_proven.then_some(Alias { lead, peer })
}
