//! Where a backend's request leaves the farm for good: to a trunk, a domain or a network that `egress` lists.

use super::{Arrival, Decider, Trace};
use crate::reach::transport_of;
use crate::settings::{Egress, Place, Transport, Trunk};
use sip::{Host, Scheme, Uri};
use std::net::SocketAddr;

impl<T: Trace> Decider<'_, T> {
    /// The first entry of the egress lists of the sender's services that takes this request.
    pub(super) fn egress(&self, arrival: &Arrival<'_>) -> Option<(Transport, SocketAddr)> {
        let farm = arrival.farm;
        let sender = arrival.origin.backend_id(farm);
        let target = Asked::of(arrival);
        let lists = farm
            .settings
            .services
            .iter()
            .filter(|service| service.backends.iter().any(|&index| farm.settings.backends[index].id == sender))
            .flat_map(|service| &service.egress);
        for egress in lists {
            let way = match egress {
                Egress::Network(network) => target.address().filter(|(_, address)| network.contains(&address.ip())),
                Egress::Domain { host, places } => target.in_domain(host, places),
                Egress::Trunk(index) => target.at_trunk(&farm.settings.trunks[*index]),
            };
            if way.is_some() {
                return way;
            }
        }
        None
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

    /// RFC 3263 §4.2, of a numeric host.
    fn address(&self) -> Option<(Transport, SocketAddr)> {
        match self.uri.host {
            Host::Ip(ip) if !self.ours => {
                let port = self.uri.port.unwrap_or(self.transport.default_port());
                Some((self.transport, SocketAddr::new(ip, port)))
            }
            _ => None,
        }
    }

    /// A port or a transport that the URI writes is not asked of the DNS: the place gives the address alone then.
    fn in_domain(&self, domain: &str, places: &[Place]) -> Option<(Transport, SocketAddr)> {
        if !sip::uri::same_host(sip::uri::host(domain.as_bytes()), self.uri.host) {
            return None;
        }
        if let Some(way) = self.address() {
            return Some(way);
        }
        let writes_transport = self.uri.transport().is_some() || self.uri.scheme == Scheme::Sips;
        let fits = |place: &&Place| !writes_transport || place.transport == self.transport;
        let place = places.iter().find(fits).or(places.first())?;
        let transport = if writes_transport { self.transport } else { place.transport };
        let port = match self.uri.port {
            Some(port) => port,
            None if transport == place.transport => place.address.port(),
            None => transport.default_port(),
        };
        Some((transport, SocketAddr::new(place.address.ip(), port)))
    }

    fn at_trunk(&self, trunk: &Trunk) -> Option<(Transport, SocketAddr)> {
        let numbered = matches!(self.uri.scheme, Scheme::Tel | Scheme::Urn);
        if self.ours || numbered || matches!(self.uri.host, Host::Name(_)) {
            return trunk.out.first().map(|place| (place.transport, place.address));
        }
        self.address().filter(|(_, address)| {
            trunk.out.iter().any(|place| place.address == *address)
                || trunk.addresses.iter().any(|network| network.contains(&address.ip()))
        })
    }
}
