//! Builders of engine settings for tests. The addresses exist only inside the simulation.

use engine::policy::{self, Policy};
use engine::{
    Backend, BackendId, Failover, Fallback, Farm, FarmId, Limits, Listener, ListenerId, Maintenance, Persistence,
    Place, Ports, Registrations, Rule, Service, Settings, Symmetric, Transport, Trunk, Verify,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

/// Where the farm listens.
pub const VIP: SocketAddr = address(10, 0, 0, 1, 5060);

/// The domain of every user.
pub const DOMAIN: &str = "example.com";

/// One farm called `pbx` at [`VIP`] with `boxes` backends `pbx1`, `pbx2` … in one service, quiet on its own: no pings and no
/// keep-alives. `adjust` changes what a test wants otherwise.
pub fn one_farm(boxes: usize, adjust: impl FnOnce(&mut Farm)) -> Settings {
    let mut farm = Farm {
        domains: vec![DOMAIN.to_owned()],
        origin_header: Some("X-Tandem-Origin".to_owned()),
        services: vec![service("default", (0..boxes).collect())],
        backends: (0..boxes).map(|index| backend(&format!("pbx{}", index + 1), box_address(index))).collect(),
        ..bare_farm(vec![listener(VIP, true, true)])
    };
    adjust(&mut farm);
    Settings { farms: vec![farm], limits: Limits::default() }
}

/// The farm `pbx` with nothing but listeners.
pub fn bare_farm(listeners: Vec<Listener>) -> Farm {
    Farm {
        id: FarmId::of(FARM),
        name: FARM.to_owned(),
        listeners,
        domains: Vec::new(),
        certificates: Vec::new(),
        client_ca: None,
        client_certificates: engine::ClientCertificates::Verify,
        origins: Vec::new(),
        registrations: Registrations::Contact,
        max_expires: None,
        stateless: false,
        symmetric: Symmetric::Auto,
        keepalive: None,
        origin_header: None,
        source_header: None,
        max_call_time: Duration::from_secs(12 * 3600),
        trunks: Vec::new(),
        services: Vec::new(),
        backends: Vec::new(),
    }
}

/// A UDP listener.
pub fn listener(bind: SocketAddr, outside: bool, inside: bool) -> Listener {
    Listener { outside, inside, ..listener_over(Transport::Udp, bind) }
}

/// A listener of any transport, for both sides.
pub fn listener_over(transport: Transport, bind: SocketAddr) -> Listener {
    let id = ListenerId::of(transport.name(), bind);
    Listener { id, transport, bind, advertise: None, outside: true, inside: true }
}

/// A service that matches everything, balances by weight and checks nobody.
pub fn service(name: &str, backends: Vec<usize>) -> Service {
    Service {
        name: name.to_owned(),
        rule: Rule::default(),
        algorithm: algorithm("weight"),
        persistence: Persistence::User,
        persistence_ttl: Duration::from_secs(3600),
        callee_affinity: true,
        request_uri_backend: false,
        failover: Failover::default(),
        guardians: Vec::new(),
        passive: true,
        fallback: Fallback::Status(503),
        egress: Vec::new(),
        backends,
    }
}

/// A backend of the farm that [`one_farm`] builds.
pub fn backend(name: &str, address: SocketAddr) -> Backend {
    Backend {
        id: BackendId::of(FARM, name, address),
        name: name.to_owned(),
        address,
        transport: Some(Transport::Udp),
        host: None,
        ports: Ports { tcp: 5060, tls: 5061 },
        verify: Verify::System,
        sources: Vec::new(),
        weight: 1,
        priority: 1,
        max_calls: 0,
        max_rate: 0,
        slow_start: Duration::ZERO,
        maintenance: Maintenance::Off,
    }
}

/// A trunk known by `network` (CIDR notation) that is reached at `out`.
pub fn trunk(name: &str, network: &str, out: SocketAddr) -> Trunk {
    Trunk {
        name: name.to_owned(),
        addresses: vec![network.parse().expect("tests write networks in CIDR notation")],
        service: None,
        trusted: false,
        out: vec![Place { transport: Transport::Udp, address: out, host: None }],
        verify: Verify::System,
    }
}

/// The algorithm of that name.
pub fn algorithm(name: &str) -> &'static dyn Policy {
    policy::by_name(name).expect("tests name registered algorithms")
}

/// The address of the box with that index: 10.0.1.1:5060, 10.0.1.2:5060 …
pub fn box_address(index: usize) -> SocketAddr {
    numbered(Ipv4Addr::new(10, 0, 1, 1), index, 5060)
}

/// The own address of the phone with that index: 10.1.0.1:5060 …
pub fn phone_address(index: usize) -> SocketAddr {
    numbered(Ipv4Addr::new(10, 1, 0, 1), index, 5060)
}

/// The address that a NAT shows for the phone with that index, after `generation` rebindings.
pub fn outside_address(index: usize, generation: u16) -> SocketAddr {
    numbered(Ipv4Addr::new(198, 18, 0, 1), index, 20_000 + generation)
}

/// The address of the scripted peer with that index: 203.0.113.1:5060 …
pub fn peer_address(index: usize) -> SocketAddr {
    numbered(Ipv4Addr::new(203, 0, 113, 1), index, 5060)
}

const fn address(a: u8, b: u8, c: u8, d: u8, port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port))
}

fn numbered(first: Ipv4Addr, index: usize, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(u32::from(first) + index as u32)), port)
}

const FARM: &str = "pbx";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_farm_is_built_as_asked() {
        let settings = one_farm(3, |farm| farm.stateless = true);
        let farm = settings.farms.first().expect("one farm was built");
        assert!(farm.stateless);
        assert_eq!(farm.backends.len(), 3);
        assert_eq!(farm.services.first().map(|service| service.backends.clone()), Some(vec![0, 1, 2]));
        assert_eq!(farm.backends.last().map(|backend| backend.address.to_string()), Some("10.0.1.3:5060".to_owned()));
        assert_eq!(phone_address(300).to_string(), "10.1.1.45:5060");
    }
}
