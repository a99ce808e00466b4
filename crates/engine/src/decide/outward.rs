//! A request without our token from a backend: to a phone by its contact id, to the box of a user, or out by egress.

use super::{Arrival, Decider, Outlet, Parties, Plan, Refusal, Routes, Trace};
use crate::context::Hop;
use crate::id::BackendId;
use crate::io::Flow;
use crate::register::written_id;
use sip::Method;
use smallvec::SmallVec;

impl<T: Trace> Decider<'_, T> {
    pub(super) fn outward(&mut self, arrival: &Arrival<'_>, routes: &Routes<'_>) -> Result<Plan, Refusal> {
        if let Some(id) = written_id(&arrival.uri) {
            return self.towards_phone(arrival, routes, id);
        }
        if arrival.message.method() != Method::Register
            && let Some(plan) = self.towards_bound_user(arrival, routes, &[])?
        {
            return Ok(plan);
        }
        let Some((service, ways)) = self.egress(arrival) else {
            if let Some(plan) = self.towards_lost_binding(arrival, routes)? {
                return Ok(plan);
            }
            self.trace.note(|| "no binding and no egress".into());
            return Err(match arrival.message.method() {
                Method::Options => Refusal::Silence,
                _ => Refusal::Status(404),
            });
        };
        let flows = self.outlets(arrival, &ways);
        let flow = *flows.first().ok_or(Refusal::Status(500))?;
        self.trace.note(|| {
            let over = self.running.listener(flow.listener).map_or("", |(_, listener)| listener.transport.name());
            format!("egress to {} over {over}", flow.remote)
        });
        let outlet = (flows.len() > 1).then(|| Box::new(Outlet::Places { service, flows: flows.into_vec() }));
        Ok(Plan { outlet, ..self.towards_peer(arrival, routes, flow, None, 0) })
    }

    /// Tries the next place for a request that its last one did not take; the request is as it was received.
    pub(crate) fn out_again(&mut self, arrival: &Arrival<'_>, flow: Flow) -> Result<Plan, Refusal> {
        let routes = Routes::read(&self.shared.secrets, arrival)?;
        let plan = self.towards_peer(arrival, &routes, flow, None, 0);
        self.kept_secure(arrival, plan)
    }

    /// Tries the next box of the called user for a request that those `tried` did not take, or else his phone: he may be registered
    /// at the box that asks by now. The request is as it was received.
    pub(crate) fn towards_user_again(&mut self, arrival: &Arrival<'_>, tried: &[BackendId]) -> Result<Plan, Refusal> {
        let routes = Routes::read(&self.shared.secrets, arrival)?;
        let plan = match self.towards_bound_user(arrival, &routes, tried)? {
            Some(plan) => plan,
            None => self.towards_lost_binding(arrival, &routes)?.ok_or(Refusal::Status(480))?,
        };
        self.kept_secure(arrival, plan)
    }

    /// A user bound at another box: that box, or the phone itself while that box is out or has been tried.
    fn towards_bound_user(
        &mut self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        tried: &[BackendId],
    ) -> Result<Option<Plan>, Refusal> {
        let sender = arrival.origin.backend_id(arrival.farm);
        let bound = self.bindings_of_called(arrival, |binding| binding.backend != sender);
        for binding in bound.iter().filter(|binding| !tried.contains(&binding.backend)) {
            if let Some(plan) = self.towards_box(arrival, routes, binding.backend)? {
                return Ok(Some(plan));
            }
        }
        let Some(newest) = bound.first() else {
            return Ok(None);
        };
        self.trace.note(|| "the user's box is out: straight to the phone".into());
        self.towards_binding(arrival, routes, newest).map(Some)
    }

    /// The box that asks for this user is the one that registered him: it has lost its bindings in a restart, and until he registers
    /// again the directory is all there is.
    fn towards_lost_binding(&mut self, arrival: &Arrival<'_>, routes: &Routes<'_>) -> Result<Option<Plan>, Refusal> {
        if matches!(arrival.message.method(), Method::Register | Method::Options) {
            return Ok(None);
        }
        let bound = self.bindings_of_called(arrival, |_| true);
        let Some(newest) = bound.first() else {
            return Ok(None);
        };
        self.trace.note(|| "the user's own box has lost him: straight to the phone".into());
        self.towards_binding(arrival, routes, newest).map(Some)
    }

    /// Passes a call on from one box to another.
    fn towards_box(
        &mut self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        id: BackendId,
    ) -> Result<Option<Plan>, Refusal> {
        let farm = arrival.farm;
        let index = farm.settings.backends.iter().position(|known| known.id == id);
        let Some(index) = index.filter(|&at| farm.running.states[at].is_available(self.now)) else {
            return Ok(None);
        };
        let mut ticket = None;
        if arrival.message.method() == Method::Invite && !T::DRY {
            ticket = farm.running.states[index].take_call(self.now);
            if ticket.is_none() {
                return Ok(None);
            }
        }
        let name = &farm.settings.backends[index].name;
        self.trace.note(|| format!("the user is registered at {name}"));
        let service = farm.settings.services.iter().position(|service| service.backends.contains(&index));
        let (flow, hop) = self.to_backend(arrival, index)?;
        let parties = Parties {
            backend: id,
            // To the second box the first one is a peer.
            peer: arrival.flow,
            from_peer: true,
            binding: 0,
        };
        Ok(Some(Plan {
            flow,
            hop,
            to_backend: true,
            request_uri: None,
            popped: routes.popped,
            parties,
            dialog: self.new_dialog(arrival.message, &parties),
            placed: None,
            outlet: service.map(|service| Box::new(Outlet::Holders { service })),
            ticket,
            followed: 0,
        }))
    }

    pub(super) fn towards_peer(
        &self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        flow: Flow,
        request_uri: Option<&[u8]>,
        binding: u64,
    ) -> Plan {
        let parties =
            Parties { backend: arrival.origin.backend_id(arrival.farm), peer: flow, from_peer: false, binding };
        Plan {
            flow,
            hop: Hop::Peer,
            to_backend: false,
            request_uri: request_uri.or(routes.request_uri).map(SmallVec::from_slice),
            popped: routes.popped,
            parties,
            dialog: self.new_dialog(arrival.message, &parties),
            placed: None,
            outlet: None,
            ticket: None,
            followed: binding,
        }
    }
}
