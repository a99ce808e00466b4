//! The configuration as the data plane uses it: settings, pools and look-up tables, built once per reload and swapped whole.

use crate::id::{BackendId, FarmId, ListenerId};
use crate::io::Flow;
use crate::pool::{BackendState, Pool};
use crate::settings::{Backend, Farm, Listener, Maintenance, Service, Settings};
use hashbrown::HashMap as RawMap;
use sip::decimal::{AddressText, Decimal, socket_text};
use sip::{Host, Instant, Uri};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// The keys are the operator's own addresses and names: nobody else chooses them.
type HashMap<K, V> = RawMap<K, V, foldhash::fast::FixedState>;

/// RFC 3261 has no bound for a dialog; a day after a backend left the file its last calls are over.
const RETIREMENT: Duration = Duration::from_secs(24 * 3600);

/// One configuration at work.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) settings: Arc<Settings>,
    pub(crate) farms: Vec<RunningFarm>,
    listeners: HashMap<ListenerId, (usize, usize)>,
    /// Every backend that was configured in the last 24 h, this configuration's included.
    backends: HashMap<BackendId, KnownBackend>,
    /// Counts reloads; tells that indices of an older configuration are stale.
    pub(crate) generation: u32,
}

/// One farm's pools, parallel to its settings.
#[derive(Debug)]
pub(crate) struct RunningFarm {
    /// Parallel to `Farm::backends`.
    pub(crate) states: Vec<Arc<BackendState>>,
    /// Parallel to `Farm::services`.
    pub(crate) pools: Vec<Pool>,
    by_address: HashMap<SocketAddr, usize>,
    /// Backends that name networks their requests may come from.
    with_sources: Vec<usize>,
    written: Vec<Written>,
}

/// Where a backend is reached, whether or not it is still configured.
#[derive(Clone, Debug)]
pub(crate) struct KnownBackend {
    pub(crate) address: SocketAddr,
    pub(crate) name: String,
    pub(crate) state: Arc<BackendState>,
    /// Set when it left the configuration.
    pub(crate) retired: Option<Instant>,
}

/// A farm's settings and its pools together.
#[derive(Clone, Copy)]
pub(crate) struct FarmView<'a> {
    pub(crate) settings: &'a Farm,
    pub(crate) running: &'a RunningFarm,
}

impl Running {
    /// Builds the tables of `settings`; backends known to `before` keep their run-time state.
    pub(crate) fn new(settings: Settings, before: Option<&Running>, now: Instant, seed: u64) -> Self {
        let mut backends = HashMap::default();
        if let Some(before) = before {
            for (id, known) in &before.backends {
                let retired = known.retired.unwrap_or(now);
                if now.saturating_since(retired) < RETIREMENT || known.state.calls() > 0 {
                    let retired = Some(retired);
                    backends.insert(*id, KnownBackend { retired, ..known.clone() });
                }
            }
        }
        let mut listeners = HashMap::default();
        let mut farms = Vec::with_capacity(settings.farms.len());
        for (index, farm) in settings.farms.iter().enumerate() {
            for (at, listener) in farm.listeners.iter().enumerate() {
                listeners.insert(listener.id, (index, at));
            }
            farms.push(RunningFarm::new(farm, &mut backends, now, seed));
        }
        Self {
            settings: Arc::new(settings),
            farms,
            listeners,
            backends,
            generation: before.map_or(0, |before| before.generation + 1),
        }
    }

    pub(crate) fn farm(&self, index: usize) -> FarmView<'_> {
        FarmView { settings: &self.settings.farms[index], running: &self.farms[index] }
    }

    pub(crate) fn farms(&self) -> impl Iterator<Item = FarmView<'_>> {
        (0..self.farms.len()).map(|index| self.farm(index))
    }

    pub(crate) fn farm_by_id(&self, id: FarmId) -> Option<FarmView<'_>> {
        self.farms().find(|farm| farm.settings.id == id)
    }

    /// The listener and its farm.
    pub(crate) fn listener(&self, id: ListenerId) -> Option<(FarmView<'_>, &Listener)> {
        let (farm, listener) = *self.listeners.get(&id)?;
        let farm = self.farm(farm);
        Some((farm, &farm.settings.listeners[listener]))
    }

    /// Backends that are cut now and were not before.
    pub(crate) fn newly_cut(&self, before: &Running) -> Vec<BackendId> {
        let cut = |running: &Running| -> Vec<BackendId> {
            let backends = running.settings.farms.iter().flat_map(|farm| &farm.backends);
            backends.filter(|backend| backend.maintenance == Maintenance::Cut).map(|backend| backend.id).collect()
        };
        let already = cut(before);
        cut(self).into_iter().filter(|id| !already.contains(id)).collect()
    }

    /// Backends that left the configuration and still have calls.
    pub(crate) fn retired(&self) -> impl Iterator<Item = (BackendId, &KnownBackend)> {
        let retired = self.backends.iter().filter(|(_, known)| known.retired.is_some() && known.state.calls() > 0);
        retired.map(|(id, known)| (*id, known))
    }

    /// A backend of this or a recent configuration.
    pub(crate) fn backend(&self, id: BackendId) -> Option<&KnownBackend> {
        self.backends.get(&id)
    }
}

impl RunningFarm {
    fn new(farm: &Farm, known: &mut HashMap<BackendId, KnownBackend>, now: Instant, seed: u64) -> Self {
        let states: Vec<Arc<BackendState>> = farm
            .backends
            .iter()
            .map(|backend| {
                let entry = known.entry(backend.id).or_insert_with(|| KnownBackend {
                    address: backend.address,
                    name: backend.name.clone(),
                    state: Arc::new(BackendState::new(backend.id, now)),
                    retired: None,
                });
                entry.retired = None;
                let ping = ping_of(farm, backend);
                entry.state.configure(backend, &ping);
                Arc::clone(&entry.state)
            })
            .collect();
        let pools = farm.services.iter().map(|service| Pool::new(farm, service, &states, seed, now)).collect();
        let by_address = farm.backends.iter().enumerate().map(|(index, backend)| (backend.address, index)).collect();
        let with_sources = farm
            .backends
            .iter()
            .enumerate()
            .filter(|(_, backend)| !backend.sources.is_empty())
            .map(|(index, _)| index)
            .collect();
        let written = farm.listeners.iter().map(Written::new).collect();
        Self { states, pools, by_address, with_sources, written }
    }

    /// The backend whose requests come from this address: exactly its own, or within one of its `sources`, the most precise
    /// network first, if that names one backend only.
    pub(crate) fn backend_at(&self, farm: &Farm, source: SocketAddr) -> Option<usize> {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port());
        if let Some(&index) = self.by_address.get(&source) {
            return Some(index);
        }
        let mut best: Option<(u8, usize)> = None;
        let mut ambiguous = false;
        for &index in &self.with_sources {
            let longest = farm.backends[index]
                .sources
                .iter()
                .filter(|network| network.contains(&source.ip()))
                .map(ipnet::IpNet::prefix_len)
                .max();
            let Some(length) = longest else { continue };
            match best {
                Some((known, _)) if known > length => {}
                Some((known, _)) if known == length => ambiguous = true,
                _ => {
                    best = Some((length, index));
                    ambiguous = false;
                }
            }
        }
        best.filter(|_| !ambiguous).map(|(_, index)| index)
    }
}

/// The check of a backend: that of the first service that uses it.
pub(crate) fn ping_of(farm: &Farm, backend: &Backend) -> crate::settings::Ping {
    let uses = |service: &&Service| service.backends.iter().any(|&index| farm.backends[index].id == backend.id);
    farm.services.iter().find(uses).map(|service| service.ping.clone()).unwrap_or_default()
}

/// An address of ours as it is written in Via, Record-Route, Path and Contact.
pub(crate) type WrittenAddress = AddressText;

/// What is written for one listener, as far as that does not depend on where a message came in: every message needs it.
#[derive(Debug)]
struct Written {
    listener: ListenerId,
    advertised: Option<WrittenAddress>,
    /// `None` for a wildcard.
    bound: Option<WrittenAddress>,
    outside: bool,
}

impl Written {
    fn new(listener: &Listener) -> Self {
        let advertised = listener.advertise.as_ref().map(|advertise| {
            let mut text = WrittenAddress::from_slice(advertise.host.as_bytes());
            text.push(b':');
            text.extend_from_slice(&Decimal::new(u64::from(advertise.port)));
            text
        });
        let bound = (!listener.bind.ip().is_unspecified()).then(|| socket_text(listener.bind));
        Self { listener: listener.id, advertised, bound, outside: listener.outside }
    }

    fn on_side(&self, inside: bool) -> Option<&WrittenAddress> {
        let advertised = self.advertised.as_ref().filter(|_| !inside || !self.outside);
        advertised.or(self.bound.as_ref())
    }
}

impl FarmView<'_> {
    /// What is written for `listener` in a message that goes out from, or came in at, `local`. Always with a port. What it advertises
    /// is for clients and trunks: backends (`inside`) are on our side of the NAT.
    pub(crate) fn written(&self, listener: &Listener, local: IpAddr, inside: bool) -> WrittenAddress {
        let written = self.running.written.iter().find(|written| written.listener == listener.id);
        match written.and_then(|written| written.on_side(inside)) {
            Some(text) => text.clone(),
            None => socket_text(SocketAddr::new(local, listener.bind.port())),
        }
    }

    /// The listener that requests to `remote` leave by, on the side asked for.
    pub(crate) fn listener_towards(&self, inside: bool, remote: SocketAddr) -> Option<&Listener> {
        self.settings.listeners.iter().find(|listener| {
            let side = if inside { listener.inside } else { listener.outside };
            let any = listener.bind.ip().is_unspecified();
            side && (listener.bind.is_ipv4() == remote.is_ipv4() || (any && listener.bind.is_ipv6()))
        })
    }

    /// The flow by which `remote` is reached from the side asked for.
    pub(crate) fn flow_towards(&self, inside: bool, remote: SocketAddr) -> Option<Flow> {
        let listener = self.listener_towards(inside, remote)?;
        Some(Flow { listener: listener.id, local: listener.bind.ip(), remote })
    }

    /// Does this URI name us: a listener's address, what it advertises, or one of the farm's domains?
    pub(crate) fn is_ours(&self, uri: &Uri<'_>, arrived_at: IpAddr) -> bool {
        self.is_own_domain(uri.host) || self.is_own_address(uri, arrived_at)
    }

    /// Is this host one of the farm's domains or advertised names, whatever the port?
    pub(crate) fn is_own_domain(&self, host: Host<'_>) -> bool {
        let Host::Name(name) = host else {
            return false;
        };
        let name = name.strip_suffix(b".").unwrap_or(name);
        let domains = self.settings.domains.iter().map(String::as_bytes);
        let advertised = self
            .settings
            .listeners
            .iter()
            .filter_map(|listener| listener.advertise.as_ref())
            .map(|advertise| advertise.host.as_bytes());
        domains.chain(advertised).any(|known| known.eq_ignore_ascii_case(name))
    }

    fn is_own_address(&self, uri: &Uri<'_>, arrived_at: IpAddr) -> bool {
        let Host::Ip(host) = uri.host else {
            return false;
        };
        let port = uri.port.unwrap_or(5060);
        self.settings.listeners.iter().any(|listener| {
            let advertised = listener.advertise.as_ref().is_some_and(|advertise| {
                advertise.port == port && sip::uri::host(advertise.host.as_bytes()) == Host::Ip(host)
            });
            let bound = listener.bind.port() == port
                && (listener.bind.ip() == host || (listener.bind.ip().is_unspecified() && arrived_at == host));
            advertised || bound
        })
    }

    /// Is this host one of ours for users: a domain, or an address of a listener on any port?
    pub(crate) fn is_own_host(&self, host: Host<'_>, arrived_at: IpAddr) -> bool {
        match host {
            Host::Name(_) => self.is_own_domain(host),
            Host::Ip(address) => {
                address == arrived_at
                    || self.settings.listeners.iter().any(|listener| {
                        listener.bind.ip() == address
                            || listener
                                .advertise
                                .as_ref()
                                .is_some_and(|advertise| sip::uri::host(advertise.host.as_bytes()) == host)
                    })
            }
        }
    }
}
