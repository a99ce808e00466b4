//! A request without our token from a backend: to a phone by its contact id, to the box of a user, or out by egress.

use super::in_dialog::gone;
use super::{Arrival, Decider, Parties, Plan, Refusal, Routes, Trace};
use crate::context::Hop;
use crate::directory::Binding;
use crate::id::BackendId;
use crate::identity::Aor;
use crate::io::Flow;
use crate::reach::transport_of;
use crate::register::written_id;
use crate::settings::{Egress, Transport};
use sip::{Host, Method, Scheme};
use smallvec::SmallVec;
use std::net::SocketAddr;

impl<T: Trace> Decider<'_, T> {
    pub(super) fn outward(&mut self, arrival: &Arrival<'_>, routes: &Routes<'_>) -> Result<Plan, Refusal> {
        if let Some(id) = written_id(&arrival.uri) {
            return self.towards_phone(arrival, routes, id);
        }
        if arrival.message.method() != Method::Register
            && let Some(plan) = self.towards_bound_user(arrival, routes)?
        {
            return Ok(plan);
        }
        let Some((transport, remote)) = self.egress(arrival) else {
            if let Some(plan) = self.towards_lost_binding(arrival, routes)? {
                return Ok(plan);
            }
            self.trace.note(|| "no binding and no egress".into());
            return Err(match arrival.message.method() {
                Method::Options => Refusal::Silence,
                _ => Refusal::Status(404),
            });
        };
        self.trace.note(|| format!("egress to {remote}"));
        let flow = arrival.farm.flow_towards(false, (transport, remote)).ok_or(Refusal::Status(500))?;
        Ok(self.towards_peer(arrival, routes, flow, None, 0))
    }

    /// The Request-URI is a Contact that we wrote: it names one binding.
    fn towards_phone(&mut self, arrival: &Arrival<'_>, routes: &Routes<'_>, id: u64) -> Result<Plan, Refusal> {
        let Some(found) = self.shared.directory.binding(self.now, id) else {
            self.trace.note(|| "this contact is not registered any more".into());
            return Err(gone(arrival.message));
        };
        self.trace.note(|| {
            let contact = String::from_utf8_lossy(&found.contact).into_owned();
            format!("contact id of {contact}")
        });
        self.towards_binding(arrival, routes, &found)
    }

    fn towards_binding(&self, arrival: &Arrival<'_>, routes: &Routes<'_>, binding: &Binding) -> Result<Plan, Refusal> {
        let flow = self.usable(arrival, Flow::from(&binding.flow)).ok_or(Refusal::Status(480))?;
        Ok(self.towards_peer(arrival, routes, flow, Some(&binding.contact), binding.id))
    }

    /// A user bound at another box: that box, or the phone itself while that box is out.
    fn towards_bound_user(&mut self, arrival: &Arrival<'_>, routes: &Routes<'_>) -> Result<Option<Plan>, Refusal> {
        let sender = arrival.origin.backend_id(arrival.farm);
        let bound = self.bindings_of_called(arrival, |binding| binding.backend != sender);
        for binding in &bound {
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

    /// The called user's bindings that count, the newest first.
    fn bindings_of_called(&self, arrival: &Arrival<'_>, counts: impl Fn(&Binding) -> bool) -> SmallVec<[Binding; 2]> {
        let Some(aor) = Aor::of(&arrival.uri, arrival.farm, arrival.flow.local) else {
            return SmallVec::new();
        };
        let key = aor.key(&self.shared.secrets, arrival.farm.settings.id);
        self.shared
            .directory
            .with_person(key, |person| person.all_live(self.now).filter(|binding| counts(binding)).cloned().collect())
            .unwrap_or_default()
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
            ticket,
            followed: 0,
        }))
    }

    fn towards_peer(
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
            ticket: None,
            followed: binding,
        }
    }

    /// The first entry of the egress lists of the sender's services that takes this request.
    fn egress(&self, arrival: &Arrival<'_>) -> Option<(Transport, SocketAddr)> {
        let farm = arrival.farm;
        let sender = arrival.origin.backend_id(farm);
        let target = arrival.uri;
        let ours = farm.is_own_host(target.host, arrival.flow.local);
        let transport = transport_of(&target);
        let address = match target.host {
            Host::Ip(ip) if !ours => Some(SocketAddr::new(ip, target.port.unwrap_or(transport.default_port()))),
            _ => None,
        };
        let remote = farm
            .settings
            .services
            .iter()
            .filter(|service| service.backends.iter().any(|&index| farm.settings.backends[index].id == sender))
            .flat_map(|service| &service.egress)
            .find_map(|egress| match egress {
                Egress::Network(network) => address.filter(|address| network.contains(&address.ip())),
                // Names are not resolved: such a domain is reached where it is an address.
                Egress::Domain(domain) => {
                    address.filter(|address| sip::uri::host(domain.as_bytes()) == Host::Ip(address.ip()))
                }
                Egress::Trunk(index) => {
                    let trunk = &farm.settings.trunks[*index];
                    let named = |address: &SocketAddr| {
                        trunk.out.contains(address)
                            || trunk.addresses.iter().any(|network| network.contains(&address.ip()))
                    };
                    let numbered = matches!(target.scheme, Scheme::Tel | Scheme::Urn);
                    if ours || numbered || matches!(target.host, Host::Name(_)) {
                        trunk.out.first().copied()
                    } else {
                        address.filter(named)
                    }
                }
            });
        remote.map(|remote| (transport, remote))
    }
}
