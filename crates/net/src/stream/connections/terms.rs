//! What the settings say of connections, looked up when one begins or is chosen.

use super::entry::Lead;
use crate::stream::connection::StreamLimits;
use crate::stream::tls::{Proof, TlsPeer};
use engine::{Egress, Farm, FarmId, ListenerId, Place, Reach, Settings, Transport, Verify};
use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub(super) struct Terms {
    pub(super) limits: StreamLimits,
    /// The web pages that a listener takes, where they are named.
    origins: HashMap<ListenerId, Arc<[String]>>,
    /// Where the settings say that a server is reached: connections to it are kept alive.
    servers: HashSet<Lead>,
    /// Those of them that are reached over TLS, and what they must prove.
    peers: HashMap<Lead, Arc<TlsPeer>>,
    /// What earlier settings said of places that are named no more: calls and retired backends are still there.
    former: HashMap<Lead, Former>,
    /// The domains that backends may call, at whichever port a Request-URI writes.
    domains: HashMap<(ListenerId, IpAddr), Arc<TlsPeer>>,
    /// From here backends may call somebody: the farm that lets them.
    outward: HashMap<ListenerId, FarmId>,
}

struct Former {
    peer: Arc<TlsPeer>,
    /// For how many settings it has not been named.
    age: u32,
}

impl Terms {
    pub(super) fn of(settings: &Settings) -> Self {
        let mut terms = Self {
            limits: StreamLimits::of(&settings.limits),
            origins: HashMap::new(),
            servers: HashSet::new(),
            peers: HashMap::new(),
            former: HashMap::new(),
            domains: HashMap::new(),
            outward: HashMap::new(),
        };
        for farm in &settings.farms {
            for listener in &farm.listeners {
                if listener.transport.is_web_socket() && !farm.origins.is_empty() {
                    terms.origins.insert(listener.id, Arc::from(farm.origins.as_slice()));
                }
                terms.add_named(farm, listener.id, listener.transport);
            }
        }
        // What is said of a name goes before what holds for all.
        for farm in &settings.farms {
            for listener in &farm.listeners {
                terms.add_domains(farm, listener.id, listener.transport);
            }
        }
        terms
    }

    /// Takes over from those before what they knew of places that are named no more.
    pub(super) fn after(mut self, before: &Self) -> Self {
        let named = before.peers.iter().map(|(lead, peer)| (*lead, Former { peer: Arc::clone(peer), age: 0 }));
        let older = before.former.iter().map(|(lead, former)| {
            (*lead, Former { peer: Arc::clone(&former.peer), age: former.age.saturating_add(1) })
        });
        let mut former: Vec<(Lead, Former)> =
            named.chain(older).filter(|(lead, _)| !self.peers.contains_key(lead)).collect();
        former.sort_by_key(|(_, former)| former.age);
        former.truncate(FORMER_PEERS);
        self.former = former.into_iter().collect();
        self
    }

    /// Empty: all.
    pub(super) fn origins(&self, listener: ListenerId) -> Arc<[String]> {
        self.origins.get(&listener).cloned().unwrap_or_else(|| Arc::from([]))
    }

    /// Whether the settings name a server there.
    pub(super) fn names_server(&self, lead: &Lead) -> bool {
        self.servers.contains(lead)
    }

    /// Whether the settings say what a server there must prove.
    pub(super) fn names_peer(&self, lead: &Lead) -> bool {
        self.peers.contains_key(lead)
    }

    /// Who is to be there over TLS: as the settings say, as earlier ones said, or the domain that is served there; to others whoever may
    /// call anybody must name an address that their certificate is for. `None`: nobody may call there.
    pub(super) fn peer(&self, lead: &Lead) -> Option<Arc<TlsPeer>> {
        let (listener, address) = (lead.0, lead.1.ip());
        if let Some(peer) = self.peers.get(lead) {
            return Some(Arc::clone(peer));
        }
        if let Some(former) = self.former.get(lead) {
            return Some(Arc::clone(&former.peer));
        }
        if let Some(peer) = self.domains.get(&(listener, address)) {
            return Some(Arc::clone(peer));
        }
        let farm = self.outward.get(&listener)?;
        Some(Arc::new(TlsPeer::new(*farm, Proof::new(&Verify::System, None, address))))
    }

    /// Those that are named no more.
    pub(super) fn former_peers(&self) -> impl Iterator<Item = &TlsPeer> {
        self.former.values().map(|former| former.peer.as_ref())
    }

    /// Backends and trunks.
    fn add_named(&mut self, farm: &Farm, listener: ListenerId, transport: Transport) {
        if !matches!(transport, Transport::Tcp | Transport::Tls) {
            return;
        }
        for (address, proof) in named(farm, transport) {
            let lead = (listener, address);
            self.servers.insert(lead);
            if transport == Transport::Tls {
                demand(&mut self.peers, lead, farm.id, proof, TlsPeer::demand);
            }
        }
    }

    /// Domains, and that anything may be called at all.
    fn add_domains(&mut self, farm: &Farm, listener: ListenerId, transport: Transport) {
        if !matches!(transport, Transport::Tcp | Transport::Tls) {
            return;
        }
        for way in farm.services.iter().flat_map(|service| &service.egress) {
            if transport == Transport::Tls {
                self.outward.entry(listener).or_insert(farm.id);
            }
            let Egress::Domain { host, places } = way else { continue };
            for place in places {
                self.add_domain_place(farm.id, listener, transport, host, place);
            }
        }
    }

    fn add_domain_place(
        &mut self,
        farm: FarmId,
        listener: ListenerId,
        transport: Transport,
        domain: &str,
        place: &Place,
    ) {
        let lead = (listener, place.address);
        let address = place.address.ip();
        let proof = Proof::new(&Verify::System, Some(place.host.as_deref().unwrap_or(domain)), address);
        if place.transport == transport {
            self.servers.insert(lead);
        }
        if transport == Transport::Tls {
            if place.transport == transport {
                demand(&mut self.peers, lead, farm, proof.clone(), TlsPeer::demand_by_default);
            }
            demand(&mut self.domains, (listener, address), farm, proof, TlsPeer::demand_by_default);
        }
    }
}

/// Where the settings say that a backend or a trunk is reached over `transport`, and what it must prove over TLS.
fn named(farm: &Farm, transport: Transport) -> impl Iterator<Item = (SocketAddr, Proof)> {
    let backends = farm.backends.iter().filter_map(move |backend| {
        let (by, address) = Reach::of(backend).over(transport);
        (by == transport).then(|| (address, Proof::new(&backend.verify, backend.host.as_deref(), address.ip())))
    });
    let trunks = farm.trunks.iter().flat_map(move |trunk| {
        let places = trunk.out.iter().filter(move |place| place.transport == transport);
        places.map(move |place| (place.address, Proof::of_place(&trunk.verify, place)))
    });
    backends.chain(trunks)
}

fn demand<K: Eq + std::hash::Hash>(
    peers: &mut HashMap<K, Arc<TlsPeer>>,
    at: K,
    farm: FarmId,
    proof: Proof,
    add: fn(&mut TlsPeer, Proof),
) {
    match peers.entry(at) {
        Slot::Occupied(mut known) => add(Arc::make_mut(known.get_mut()), proof),
        Slot::Vacant(place) => {
            place.insert(Arc::new(TlsPeer::new(farm, proof)));
        }
    }
}

/// Of so many places that are named no more it is remembered who is there; those that have not been named for longest are forgotten.
const FORMER_PEERS: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Backend, Limits, Listener, Service, Trunk};
    use sim::settings::{backend, bare_farm, listener_over, service, trunk};

    const TLS: ListenerId = ListenerId(1);
    const TCP: ListenerId = ListenerId(2);

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("a valid address")
    }

    fn place(transport: Transport, at: &str, host: &str) -> Place {
        Place { transport, address: address(at), host: Some(host.to_owned()) }
    }

    /// With a TLS and a TCP listener.
    fn farm() -> Farm {
        let listeners = [(TLS, Transport::Tls, "10.0.0.1:5061"), (TCP, Transport::Tcp, "10.0.0.1:5060")];
        let listener = |(id, transport, bind): (ListenerId, Transport, &str)| Listener {
            id,
            ..listener_over(transport, address(bind))
        };
        bare_farm(listeners.map(listener).into())
    }

    fn terms(farm: Farm) -> Terms {
        Terms::of(&Settings { farms: vec![farm], limits: Limits::default() })
    }

    fn peer(proofs: &[(Verify, &str)]) -> Option<Arc<TlsPeer>> {
        let proof = |(verify, host): &(Verify, &str)| Proof::new(verify, Some(host), IpAddr::from([0, 0, 0, 0]));
        let mut proofs = proofs.iter().map(proof);
        let mut peer = TlsPeer::new(FarmId::of("pbx"), proofs.next()?);
        proofs.for_each(|proof| peer.demand(proof));
        Some(Arc::new(peer))
    }

    fn with_egress(egress: Vec<Egress>) -> Farm {
        Farm { services: vec![Service { egress, ..service("default", Vec::new()) }], ..farm() }
    }

    #[test]
    fn backends_and_trunks_are_known_where_they_are_reached() {
        let by_name = |name: &str, transport, host: Option<&str>, verify| Backend {
            transport,
            host: host.map(str::to_owned),
            verify,
            ..backend(name, address("10.0.1.1:5070"))
        };
        let out = vec![
            place(Transport::Udp, "192.0.2.1:5060", "carrier.example"),
            place(Transport::Tls, "192.0.2.2:5061", "carrier.example"),
        ];
        let carrier = Trunk { out, verify: Verify::Pinned([1; 32]), ..trunk("carrier", "192.0.2.0/24", VOID) };
        let terms = terms(Farm {
            backends: vec![
                by_name("one", None, None, Verify::System),
                by_name("two", Some(Transport::Tls), Some("two.example"), Verify::Off),
            ],
            trunks: vec![carrier],
            ..farm()
        });
        // A backend that takes any transport has a port for each.
        let at = |text: &str| (TLS, address(text));
        assert_eq!(terms.peer(&at("10.0.1.1:5061")), peer(&[(Verify::System, "10.0.1.1")]));
        assert_eq!(terms.peer(&at("10.0.1.1:5070")), peer(&[(Verify::Off, "two.example")]));
        assert_eq!(terms.peer(&at("192.0.2.2:5061")), peer(&[(Verify::Pinned([1; 32]), "carrier.example")]));
        for nobody in [at("192.0.2.1:5060"), at("10.0.1.1:5060"), (TCP, address("10.0.1.1:5061"))] {
            assert_eq!(terms.peer(&nobody), None, "{nobody:?}");
            assert!(!terms.names_peer(&nobody));
        }
        let servers = [at("10.0.1.1:5061"), at("10.0.1.1:5070"), at("192.0.2.2:5061"), (TCP, address("10.0.1.1:5060"))];
        assert!(servers.iter().all(|lead| terms.names_server(lead)));
        assert_eq!(terms.servers.len(), servers.len());
    }

    #[test]
    fn domains_are_known_at_any_port_and_others_by_their_address() {
        let places = vec![
            place(Transport::Udp, "192.0.2.1:5060", "one.example"),
            place(Transport::Tls, "192.0.2.2:5071", "one.example"),
        ];
        let domain = Egress::Domain { host: "one.example".to_owned(), places };
        let known = terms(with_egress(vec![domain.clone()]));
        for at in ["192.0.2.1:5061", "192.0.2.2:5071", "192.0.2.2:9999"] {
            let lead = (TLS, address(at));
            assert_eq!(known.peer(&lead), peer(&[(Verify::System, "one.example")]), "{at}");
            assert_eq!(known.names_peer(&lead), at == "192.0.2.2:5071");
        }
        let elsewhere = (TLS, address("198.51.100.1:5061"));
        assert_eq!(known.peer(&elsewhere), peer(&[(Verify::System, "198.51.100.1")]));
        assert_eq!(known.peer(&(TCP, elsewhere.1)), None);
        assert_eq!(terms(farm()).peer(&elsewhere), None, "nobody may call anybody");
        // A trunk at the same place is verified as it says; under another name both must be proven.
        for (host, wanted) in [
            ("one.example", peer(&[(Verify::Off, "one.example")])),
            ("two.example", peer(&[(Verify::Off, "two.example"), (Verify::System, "one.example")])),
        ] {
            let out = vec![place(Transport::Tls, "192.0.2.2:5071", host)];
            let carrier = Trunk { out, verify: Verify::Off, ..trunk("carrier", "192.0.2.0/24", VOID) };
            let terms = terms(Farm { trunks: vec![carrier], ..with_egress(vec![domain.clone()]) });
            assert_eq!(terms.peer(&(TLS, address("192.0.2.2:5071"))), wanted);
        }
    }

    #[test]
    fn places_that_are_named_no_more_are_remembered_up_to_a_limit() {
        let with = |range: std::ops::Range<u16>| {
            let boxes = range.map(|port| Backend {
                transport: Some(Transport::Tls),
                verify: Verify::Off,
                ..backend("box", SocketAddr::new(IpAddr::from([10, 0, 1, 1]), port))
            });
            terms(Farm { backends: boxes.collect(), ..farm() })
        };
        let at = |port: u16| (TLS, SocketAddr::new(IpAddr::from([10, 0, 1, 1]), port));
        let first = with(1_000..1_001);
        let second = with(2_000..3_023).after(&first);
        assert_eq!(second.peer(&at(1_000)), first.peer(&at(1_000)));
        assert!(second.peer(&at(1_000)).is_some() && !second.names_peer(&at(1_000)));
        let third = with(5_000..5_001).after(&second);
        assert_eq!(third.former_peers().count(), FORMER_PEERS);
        assert!(third.peer(&at(1_000)).is_some() && third.peer(&at(3_022)).is_some());
        let fourth = with(6_000..6_001).after(&third);
        assert_eq!(fourth.former_peers().count(), FORMER_PEERS);
        assert!(fourth.peer(&at(5_000)).is_some() && fourth.peer(&at(1_000)).is_none(), "the oldest is forgotten");
        // Whoever is named again is as the settings say.
        let again = with(2_000..2_001).after(&fourth);
        assert!(again.names_peer(&at(2_000)) && !again.former.contains_key(&at(2_000)));
    }

    const VOID: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
}
