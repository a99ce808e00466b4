//! Requests that carry a token of ours: on to the dialog's other party, or to the phone that a Path leads to.

use super::{Arrival, Decider, Parties, Plan, Popped, Refusal, Routes, Trace};
use crate::context::{DialogNote, Hop};
use crate::directory::DialogKey;
use crate::identity::{tag_key, text_key};
use crate::io::{ConnectionId, Flow};
use crate::settings::Transport;
use crate::token::{Route, RouteKind, tag_bits};
use sip::{Checked, Method, Uri};
use smallvec::SmallVec;
use std::sync::Arc;

impl<T: Trace> Decider<'_, T> {
    pub(super) fn by_token(
        &mut self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        route: &Route,
    ) -> Result<Plan, Refusal> {
        match route.kind {
            RouteKind::Path => self.by_path(arrival, routes, route),
            RouteKind::Dialog if sender_is_peer(arrival, route) => self.towards_dialog_backend(arrival, routes, route),
            RouteKind::Dialog => self.towards_dialog_peer(arrival, routes, route),
        }
    }

    fn towards_dialog_backend(
        &mut self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        route: &Route,
    ) -> Result<Plan, Refusal> {
        let known = self.running.backend(route.backend).ok_or(Refusal::Status(481))?;
        let flow = arrival
            .farm
            .flow_towards(true, known.reach.over(arrival.listener.transport))
            .ok_or(Refusal::Status(500))?;
        let note = self.note_of(arrival.message, route, true);
        self.trace.note(|| format!("from the dialog's peer to its backend {}", known.name));
        if !T::DRY && !arrival.origin.is_backend() {
            self.peer_heard(arrival.flow, route, &note);
        }
        let hop = Hop::Backend(Arc::clone(&known.state));
        let peer = arrival.flow;
        Ok(self.dialog_plan(arrival, routes, route, flow, hop, true, note, peer))
    }

    fn towards_dialog_peer(
        &mut self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        route: &Route,
    ) -> Result<Plan, Refusal> {
        let note = self.note_of(arrival.message, route, false);
        let flow = note.peer_now(&self.shared.directory, self.now).unwrap_or(route.peer);
        let flow = self.usable(arrival, flow).ok_or(Refusal::Status(480))?;
        self.trace.note(|| format!("from the dialog's backend to its peer, last heard at {}", flow.remote));
        // A call passed on from one box to another has a backend on both sides.
        let box_at = arrival.farm.running.backend_at(arrival.farm.settings, &flow);
        let (leaving, hop) = match box_at {
            // A connection that it opened may be closed by now; where it listens it is always reached.
            Some(index) if flow.connection.is_some() => self.to_backend(arrival, index)?,
            Some(index) => (flow, Hop::Backend(Arc::clone(&arrival.farm.running.states[index]))),
            None => (flow, Hop::Peer),
        };
        Ok(self.dialog_plan(arrival, routes, route, leaving, hop, box_at.is_some(), note, flow))
    }

    /// RFC 3327 §5.3: the Path value of a registration, come back as a Route.
    fn by_path(&mut self, arrival: &Arrival<'_>, routes: &Routes<'_>, route: &Route) -> Result<Plan, Refusal> {
        let found = self.shared.directory.with_binding(self.now, route.binding, |found| Flow::from(&found.flow));
        let is_named = names_flow(arrival, routes.popped);
        let Some(found) = found else {
            self.trace.note(|| "the binding of this Path is gone".into());
            return Err(if is_named { FLOW_FAILED } else { gone(arrival.message) });
        };
        let lost = if is_named { FLOW_FAILED } else { Refusal::Status(480) };
        let flow = self.usable(arrival, found).ok_or(lost)?;
        let parties = Parties {
            backend: arrival.origin.backend_id(arrival.farm),
            peer: flow,
            from_peer: false,
            binding: route.binding,
        };
        Ok(Plan {
            flow,
            hop: Hop::Peer,
            to_backend: false,
            request_uri: None,
            popped: routes.popped,
            parties,
            dialog: self.new_dialog(arrival.message, &parties),
            placed: None,
            outlet: None,
            ticket: None,
            followed: text_key(&self.shared.secrets, routes.token_text),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one plan, named at the two callers")]
    fn dialog_plan(
        &self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        route: &Route,
        flow: Flow,
        hop: Hop,
        to_backend: bool,
        note: DialogNote,
        peer: Flow,
    ) -> Plan {
        Plan {
            flow,
            hop,
            to_backend,
            request_uri: routes.request_uri.map(SmallVec::from_slice),
            popped: routes.popped,
            parties: Parties {
                backend: route.backend,
                peer,
                // As this request sees it: it would be the one that made the dialog.
                from_peer: sender_is_peer(arrival, route),
                binding: route.binding,
            },
            dialog: Some(note),
            placed: None,
            outlet: None,
            ticket: None,
            followed: text_key(&self.shared.secrets, routes.token_text),
        }
    }

    /// The dialog that a request of its peer, or of its backend, belongs to, as the request that made it saw it.
    fn note_of(&self, message: &Checked<'_>, route: &Route, by_peer: bool) -> DialogNote {
        let secrets = &self.shared.secrets;
        let (from, to) = (message.from().tag, message.to().tag);
        let by_creator = by_peer == route.from_peer;
        let (creator, other) = if by_creator { (from, to) } else { (to, from) };
        DialogNote {
            key: DialogKey {
                call: text_key(secrets, message.call_id()),
                backend: route.backend,
                from_peer: route.from_peer,
                from_tag: tag_key(secrets, creator),
            },
            to_tag: Some(tag_key(secrets, other)),
            peer: route.peer,
            binding: route.binding,
        }
    }

    /// The dialog that a request without a To tag may make.
    pub(super) fn new_dialog(&self, message: &Checked<'_>, parties: &Parties) -> Option<DialogNote> {
        if message.method() != Method::Invite {
            return None;
        }
        let secrets = &self.shared.secrets;
        Some(DialogNote {
            key: DialogKey {
                call: text_key(secrets, message.call_id()),
                backend: parties.backend,
                from_peer: parties.from_peer,
                from_tag: tag_key(secrets, message.from().tag),
            },
            to_tag: None,
            peer: parties.peer,
            binding: parties.binding,
        })
    }

    /// A request that proves itself by its token came from a new address: its NAT moved it there.
    fn peer_heard(&self, flow: Flow, route: &Route, note: &DialogNote) {
        let directory = &self.shared.directory;
        if route.binding != 0 {
            directory.move_binding(self.now, route.binding, flow);
        }
        directory.with_dialogs(note.key.call, |dialogs| {
            dialogs.move_peer(&note.key, note.to_tag.unwrap_or_default(), flow);
        });
    }

    /// The flow, of datagrams from another listener if its own is gone. `None`: it was a connection, and nothing leads there any more.
    pub(super) fn usable(&self, arrival: &Arrival<'_>, flow: Flow) -> Option<Flow> {
        if flow.connection == ConnectionId::GONE {
            return None;
        }
        if flow.connection.is_some() || self.running.listener(flow.listener).is_some() {
            return Some(flow);
        }
        arrival.farm.flow_towards(false, (Transport::Udp, flow.remote))
    }
}

/// RFC 5626 §5.3.1: the registrar may have another flow of this phone.
const FLOW_FAILED: Refusal = Refusal::Status(430);

/// The sender asks for one flow: the Route of ours that led here came from a Path with `ob` (RFC 5626 §5.1).
pub(crate) fn names_flow(arrival: &Arrival<'_>, popped: Popped) -> bool {
    let asks = |uri: &Uri<'_>| uri.param(b"ob").is_some();
    let mut routes = arrival.message.routes().take(popped.first);
    (popped.last && asks(&arrival.uri)) || routes.any(|value| value.uri().is_some_and(|uri| asks(&uri)))
}

/// Direction by tags, never by address. Sixteen bits of both tags are alike once in 65,536 dialogs: then alone the sender counts. A
/// backend may be the peer of another one; unlike a phone it stays where it was when the dialog was made.
fn sender_is_peer(arrival: &Arrival<'_>, route: &Route) -> bool {
    let from = tag_bits(arrival.message.from().tag);
    let to = tag_bits(arrival.message.to().tag);
    if from == to {
        return !arrival.origin.is_backend() || arrival.flow.leads_like(&route.peer);
    }
    (from == route.from_tag) == route.from_peer
}

/// What a backend gets when it asks for a phone that is no longer there. A 404 to OPTIONS would count as alive.
pub(super) fn gone(message: &Checked<'_>) -> Refusal {
    match message.method() {
        Method::Options => Refusal::Silence,
        _ => Refusal::Status(480),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The calls of the simulator's tests of alike tags have these two.
    #[test]
    fn the_tags_that_tests_call_alike_are_alike() {
        assert_eq!(tag_bits(Some(b"ft168350")), tag_bits(Some(b"tt")));
        assert_ne!(tag_bits(Some(b"ft")), tag_bits(Some(b"tt")));
    }
}
