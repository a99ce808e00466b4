//! A small farm for the tests of balancing.

use super::{Ask, BackendState, Pool};
use crate::id::{BackendId, FarmId};
use crate::io::CheckOutcome;
use crate::policy::by_name;
use crate::settings::{
    Backend, Failover, Fallback, Farm, Guardian, Maintenance, Persistence, Ports, Registrations, Rule, Service,
    Symmetric, Transport, Verify,
};
use sip::Instant;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// One service with all backends of one farm.
pub(crate) struct World {
    pub(crate) farm: Farm,
    pub(crate) states: Vec<Arc<BackendState>>,
    pub(crate) pool: Pool,
}

impl World {
    /// A farm of these backends, balanced by the algorithm of this name.
    pub(crate) fn new(algorithm: &str, backends: Vec<Backend>) -> Self {
        let farm = farm(algorithm, backends);
        let states: Vec<Arc<BackendState>> = farm
            .backends
            .iter()
            .map(|backend| {
                let state = Arc::new(BackendState::new(backend.id, at(0)));
                state.configure(at(0), backend, &[Arc::new(Guardian::options())]);
                state
            })
            .collect();
        let pool = Pool::new(&farm, &farm.services[0], &states, 0, at(0));
        Self { farm, states, pool }
    }

    /// A farm of equal backends.
    pub(crate) fn equal(algorithm: &str, count: usize) -> Self {
        let backends = (0..count).map(|number| backend(&format!("box{number}"))).collect();
        Self::new(algorithm, backends)
    }

    /// The pool's choice, which the test knows to exist.
    pub(crate) fn choose(&self, now: Instant, ask: &Ask<'_>) -> usize {
        self.pool.choose(now, ask).expect("a backend is free")
    }

    /// A reload of the same farm.
    pub(crate) fn rebuild(&mut self, now: Instant) {
        self.pool = Pool::new(&self.farm, &self.farm.services[0], &self.states, 0, now);
    }
}

/// The moment `ms` milliseconds after the start.
pub(crate) fn at(ms: u64) -> Instant {
    Instant::from_micros(ms * 1_000)
}

/// Lets its check take the backend down.
pub(crate) fn down(state: &BackendState, now: Instant) {
    for _ in 0..Guardian::options().fall {
        state.on_check(now, "options", &failed("no answer"));
    }
    assert!(!state.is_available(now));
}

/// Lets its check bring the backend up.
pub(crate) fn up(state: &BackendState, now: Instant) {
    for _ in 0..Guardian::options().rise {
        state.on_check(now, "options", &good());
    }
    assert!(state.is_available(now));
}

/// A guardian that asks by OPTIONS.
pub(crate) fn guardian(name: &str, rise: u32, fall: u32) -> Arc<Guardian> {
    Arc::new(Guardian { name: name.into(), rise, fall, ..Guardian::options() })
}

/// A check that was answered after a millisecond.
pub(crate) fn good() -> CheckOutcome {
    CheckOutcome::Good { took: Duration::from_millis(1) }
}

pub(crate) fn failed(reason: &str) -> CheckOutcome {
    CheckOutcome::Failed { reason: reason.into() }
}

/// A backend of weight 1 and priority 1 without limits, with 30 s of slow start.
pub(crate) fn backend(name: &str) -> Backend {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5060);
    Backend {
        id: BackendId::of("pbx", name, address),
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
        slow_start: Duration::from_secs(30),
        maintenance: Maintenance::Off,
    }
}

fn farm(algorithm: &str, backends: Vec<Backend>) -> Farm {
    let service = Service {
        name: "default".to_owned(),
        rule: Rule::default(),
        algorithm: by_name(algorithm).expect("the test names a policy of the registry"),
        persistence: Persistence::None,
        persistence_ttl: Duration::from_secs(3_600),
        callee_affinity: true,
        request_uri_backend: false,
        failover: Failover::default(),
        guardians: vec![Arc::new(Guardian::options())],
        passive: true,
        fallback: Fallback::Status(503),
        egress: Vec::new(),
        backends: (0..backends.len()).collect(),
    };
    Farm {
        id: FarmId::of("pbx"),
        name: "pbx".to_owned(),
        listeners: Vec::new(),
        domains: Vec::new(),
        registrations: Registrations::Contact,
        max_expires: None,
        stateless: false,
        symmetric: Symmetric::Auto,
        keepalive: None,
        origin_header: None,
        source_header: None,
        certificates: Vec::new(),
        client_ca: None,
        client_certificates: crate::settings::ClientCertificates::Verify,
        origins: Vec::new(),
        max_call_time: Duration::from_secs(12 * 3_600),
        trunks: Vec::new(),
        services: vec![service],
        backends,
    }
}
