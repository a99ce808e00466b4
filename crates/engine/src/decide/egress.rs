//! Where a backend's request leaves the farm for good: to a trunk, a domain or a network that `egress` lists.

use super::{Arrival, Decider, Trace};
use crate::io::Flow;
use crate::reach::transport_of;
use crate::settings::{Egress, Place, Transport, Trunk};
use sip::{Host, Scheme, Uri};
use smallvec::SmallVec;
use std::net::SocketAddr;

/// A transport and where it leads.
pub(super) type Way = (Transport, SocketAddr);

/// Best first.
pub(super) type Ways = SmallVec<[Way; 2]>;

impl<T: Trace> Decider<'_, T> {
    /// The first entry of the egress lists of the sender's services that takes this request: the service that has it, and where
    /// it leads, which is somewhere.
    pub(super) fn egress(&self, arrival: &Arrival<'_>) -> Option<(usize, Ways)> {
        let farm = arrival.farm.settings;
        let sender = arrival.origin.backend_id(arrival.farm);
        let asked = Asked::of(arrival);
        let services = farm.services.iter().enumerate();
        services
            .filter(|(_, service)| service.backends.iter().any(|&index| farm.backends[index].id == sender))
            .flat_map(|(at, service)| service.egress.iter().map(move |egress| (at, egress)))
            .map(|(at, egress)| (at, asked.ways(egress, &farm.trunks)))
            .find(|(_, ways)| !ways.is_empty())
    }

    /// Those of the ways that a listener of ours speaks; what failed lately comes last. This holds for stateless farms too: their
    /// requests are repeated along the same way until that is known to fail, and then the repetition may as well arrive.
    pub(super) fn outlets(&self, arrival: &Arrival<'_>, ways: &[Way]) -> SmallVec<[Flow; 2]> {
        let mut flows: SmallVec<[Flow; 2]> =
            ways.iter().filter_map(|&way| arrival.farm.flow_towards(false, way)).collect();
        if arrival.uri.scheme == Scheme::Sips && flows.iter().any(|flow| self.is_secure(flow)) {
            flows.retain(|flow| self.is_secure(flow));
        }
        if flows.len() > 1 {
            self.shared.avoided.put_last(self.now, &mut flows);
        }
        flows
    }
}

/// What a Request-URI says of the way.
struct Asked<'m> {
    uri: Uri<'m>,
    /// It names the farm: a number that is somewhere outside.
    ours: bool,
    transport: Transport,
}

impl<'m> Asked<'m> {
    fn of(arrival: &Arrival<'m>) -> Self {
        let uri = arrival.uri;
        let ours = arrival.farm.is_own_host(uri.host, arrival.flow.local);
        Self { uri, ours, transport: transport_of(&uri) }
    }

    fn ways(&self, egress: &Egress, trunks: &[Trunk]) -> Ways {
        match egress {
            Egress::Network(network) => {
                self.address().filter(|(_, address)| network.contains(&address.ip())).into_iter().collect()
            }
            Egress::Domain { host, places } => self.in_domain(host, places),
            Egress::Trunk(index) => self.at_trunk(&trunks[*index]),
        }
    }

    /// RFC 3263 §4.2, of a numeric host.
    fn address(&self) -> Option<Way> {
        match self.uri.host {
            Host::Ip(ip) if !self.ours => {
                let port = self.uri.port.unwrap_or(self.transport.default_port());
                Some((self.transport, SocketAddr::new(ip, port)))
            }
            _ => None,
        }
    }

    /// A port or a transport that the URI writes is not asked of the DNS: the places give the addresses alone then.
    fn in_domain(&self, domain: &str, places: &[Place]) -> Ways {
        let mut ways = Ways::new();
        if !sip::uri::same_host(sip::uri::host(domain.as_bytes()), self.uri.host) {
            return ways;
        }
        if let Some(way) = self.address() {
            ways.push(way);
            return ways;
        }
        let writes_transport = self.uri.transport().is_some() || self.uri.scheme == Scheme::Sips;
        let fits = |place: &Place| !writes_transport || place.transport == self.transport;
        let some_fit = places.iter().any(fits);
        for place in places.iter().filter(|place| !some_fit || fits(place)) {
            let transport = if writes_transport { self.transport } else { place.transport };
            let port = match self.uri.port {
                Some(port) => port,
                None if transport == place.transport => place.address.port(),
                None => transport.default_port(),
            };
            let way = (transport, SocketAddr::new(place.address.ip(), port));
            // Services of one host at several ports are one place where the URI writes the port.
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        ways
    }

    fn at_trunk(&self, trunk: &Trunk) -> Ways {
        let numbered = matches!(self.uri.scheme, Scheme::Tel | Scheme::Urn);
        if self.ours || numbered || matches!(self.uri.host, Host::Name(_)) {
            return trunk.out.iter().map(|place| (place.transport, place.address)).collect();
        }
        let known = |(_, address): &Way| {
            trunk.out.iter().any(|place| place.address == *address)
                || trunk.addresses.iter().any(|network| network.contains(&address.ip()))
        };
        self.address().filter(known).into_iter().collect()
    }
}
