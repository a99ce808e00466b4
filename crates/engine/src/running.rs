//! The configuration as the data plane uses it: settings, pools and look-up tables, built once per reload and swapped whole.

use crate::id::{BackendId, FarmId, ListenerId};
use crate::io::{ConnectionId, Event, Flow};
use crate::pool::{BackendState, Pool};
use crate::reach::{Reach, transport_of};
use crate::settings::{Backend, Farm, Guardian, Listener, Maintenance, Service, Settings, Transport};
use hashbrown::HashMap as RawMap;
use sip::decimal::{AddressText, Decimal, socket_text};
use sip::transaction::Link;
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
    /// Parallel to `Farm::services`: by its name a request finds its service again after a reload.
    pub(crate) service_names: Vec<Arc<str>>,
    by_address: HashMap<SocketAddr, usize>,
    /// Backends by host alone; `None`: several have it.
    by_host: HashMap<IpAddr, Option<usize>>,
    /// Backends that name networks their requests may come from.
    with_sources: Vec<usize>,
    written: Vec<Written>,
}

/// Where a backend is reached, whether or not it is still configured.
#[derive(Clone, Debug)]
pub(crate) struct KnownBackend {
    pub(crate) reach: Reach,
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
    /// The first configuration of a unit.
    pub(crate) fn new(settings: Settings, now: Instant, seed: u64) -> Self {
        Self::build(settings, None, now, seed).0
    }

    /// The configuration after this one: backends known to this one keep their run-time state. Also gives what became of those
    /// whose guardians are others now.
    pub(crate) fn reloaded(&self, settings: Settings, now: Instant, seed: u64) -> (Self, Vec<Event>) {
        Self::build(settings, Some(self), now, seed)
    }

    fn build(settings: Settings, before: Option<&Running>, now: Instant, seed: u64) -> (Self, Vec<Event>) {
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
        let mut events = Vec::new();
        for (index, farm) in settings.farms.iter().enumerate() {
            for (at, listener) in farm.listeners.iter().enumerate() {
                listeners.insert(listener.id, (index, at));
            }
            let (states, changes) = configured(farm, &mut backends, now);
            farms.push(RunningFarm::new(farm, states, now, seed));
            events.extend(changes);
        }
        let generation = before.map_or(0, |before| before.generation + 1);
        (Self { settings: Arc::new(settings), farms, listeners, backends, generation }, events)
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

    /// What carries messages by this flow: over a stream nothing is repeated.
    pub(crate) fn link(&self, flow: &Flow) -> Link {
        let is_stream = self.listener(flow.listener).is_some_and(|(_, listener)| listener.transport.is_stream());
        if is_stream || flow.connection.is_some() { Link::Stream } else { Link::Datagram }
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
    /// `states` are parallel to the backends of `farm`.
    fn new(farm: &Farm, states: Vec<Arc<BackendState>>, now: Instant, seed: u64) -> Self {
        let pools = farm.services.iter().map(|service| Pool::new(farm, service, &states, seed, now)).collect();
        let service_names = farm.services.iter().map(|service| Arc::<str>::from(service.name.as_str())).collect();
        let mut by_address = HashMap::default();
        let mut by_host: HashMap<IpAddr, Option<usize>> = HashMap::default();
        for (index, backend) in farm.backends.iter().enumerate() {
            by_address.extend(Reach::of(backend).addresses().map(|address| (address, index)));
            by_host.entry(backend.address.ip()).and_modify(|known| *known = None).or_insert(Some(index));
        }
        let with_sources = farm
            .backends
            .iter()
            .enumerate()
            .filter(|(_, backend)| !backend.sources.is_empty())
            .map(|(index, _)| index)
            .collect();
        let written = farm.listeners.iter().map(Written::new).collect();
        Self { states, pools, service_names, by_address, by_host, with_sources, written }
    }

    /// The backend whose messages come by this flow: from exactly its own address, or from within one of its `sources`, the most
    /// precise network first, if that names one backend only. The port of a connection that it opened says nothing: there its host
    /// alone will do, where it has that for itself.
    pub(crate) fn backend_at(&self, farm: &Farm, flow: &Flow) -> Option<usize> {
        let source = SocketAddr::new(flow.remote.ip().to_canonical(), flow.remote.port());
        if let Some(&index) = self.by_address.get(&source) {
            return Some(index);
        }
        if flow.connection.is_some()
            && let Some(index) = self.by_host.get(&source.ip()).copied().flatten()
        {
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

/// The states of a farm's backends with its settings taken in, and what became of backends by that.
fn configured(
    farm: &Farm,
    known: &mut HashMap<BackendId, KnownBackend>,
    now: Instant,
) -> (Vec<Arc<BackendState>>, Vec<Event>) {
    let mut events = Vec::new();
    let states = farm.backends.iter().map(|backend| {
        let entry = known.entry(backend.id).or_insert_with(|| KnownBackend {
            reach: Reach::of(backend),
            name: backend.name.clone(),
            state: Arc::new(BackendState::new(backend.id, now)),
            retired: None,
        });
        entry.retired = None;
        entry.reach = Reach::of(backend);
        events.extend(entry.state.configure(now, backend, &guardians_of(farm, backend)));
        Arc::clone(&entry.state)
    });
    (states.collect(), events)
}

/// The guardians of a backend: those of all services that use it, each once. Whom a name leads to as well is in no service while
/// another address of that name is in use; it has the name's guardians, or nobody would see it come back.
pub fn guardians_of(farm: &Farm, backend: &Backend) -> Vec<Arc<Guardian>> {
    let uses = |service: &&Service| service.backends.iter().any(|&index| farm.backends[index].name == backend.name);
    let mut guardians: Vec<Arc<Guardian>> = Vec::new();
    for guardian in farm.services.iter().filter(uses).flat_map(|service| &service.guardians) {
        if guardians.iter().all(|known| known.name != guardian.name) {
            guardians.push(Arc::clone(guardian));
        }
    }
    guardians
}

/// An address of ours as it is written in Via, Record-Route, Path and Contact.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WrittenAddress {
    transport: Transport,
    /// Always with a port.
    host: AddressText,
}

impl WrittenAddress {
    pub(crate) fn new(transport: Transport, host: AddressText) -> Self {
        Self { transport, host }
    }

    pub(crate) fn transport(&self) -> Transport {
        self.transport
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &[u8] {
        &self.host
    }

    /// What a Via begins with, up to its parameters.
    pub(crate) fn write_via(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(b"SIP/2.0/");
        text.extend_from_slice(self.transport.via().as_bytes());
        text.push(b' ');
        text.extend_from_slice(&self.host);
    }

    /// Host and port of a SIP URI and its transport, which UDP takes for granted. A URI says `tls` where RFC 3261 §26.2.2 would rather
    /// have `sips`: every phone understands it. WebSocket has one name there, whether or not TLS is below it (RFC 7118 §5.2.4).
    /// `is_sips`: the scheme says TLS already.
    pub(crate) fn write_uri(&self, is_sips: bool, text: &mut Vec<u8>) {
        text.extend_from_slice(&self.host);
        text.extend_from_slice(match self.transport {
            Transport::Udp => b"",
            Transport::Tcp => b";transport=tcp",
            Transport::Tls if is_sips => b"",
            Transport::Tls => b";transport=tls",
            Transport::Ws | Transport::Wss => b";transport=ws",
        });
    }
}

/// What is written for one listener, as far as that does not depend on where a message came in: every message needs it.
#[derive(Debug)]
struct Written {
    listener: ListenerId,
    advertised: Option<AddressText>,
    /// `None` for a wildcard.
    bound: Option<AddressText>,
    outside: bool,
}

impl Written {
    fn new(listener: &Listener) -> Self {
        let advertised = listener.advertise.as_ref().map(|advertise| {
            let mut text = AddressText::from_slice(advertise.host.as_bytes());
            text.push(b':');
            text.extend_from_slice(&Decimal::new(u64::from(advertise.port)));
            text
        });
        let bound = (!listener.bind.ip().is_unspecified()).then(|| socket_text(listener.bind));
        Self { listener: listener.id, advertised, bound, outside: listener.outside }
    }

    fn on_side(&self, inside: bool) -> Option<&AddressText> {
        let advertised = self.advertised.as_ref().filter(|_| !inside || !self.outside);
        advertised.or(self.bound.as_ref())
    }
}

impl FarmView<'_> {
    /// What is written for `listener` in a message that goes out from, or came in at, `local`. Always with a port. What it advertises
    /// is for clients and trunks: backends (`inside`) are on our side of the NAT.
    pub(crate) fn written(&self, listener: &Listener, local: IpAddr, inside: bool) -> WrittenAddress {
        let written = self.running.written.iter().find(|written| written.listener == listener.id);
        let host = match written.and_then(|written| written.on_side(inside)) {
            Some(text) => text.clone(),
            None => socket_text(SocketAddr::new(local, listener.bind.port())),
        };
        WrittenAddress::new(listener.transport, host)
    }

    /// The listener that requests to `remote` leave by, on the side asked for.
    fn listener_towards(&self, inside: bool, transport: Transport, remote: SocketAddr) -> Option<&Listener> {
        self.settings.listeners.iter().find(|listener| {
            let side = if inside { listener.inside } else { listener.outside };
            let any = listener.bind.ip().is_unspecified();
            side && listener.transport == transport
                && (listener.bind.is_ipv4() == remote.is_ipv4() || (any && listener.bind.is_ipv6()))
        })
    }

    /// The flow by which `remote` is reached from the side asked for.
    pub(crate) fn flow_towards(&self, inside: bool, (transport, remote): (Transport, SocketAddr)) -> Option<Flow> {
        let listener = self.listener_towards(inside, transport, remote)?;
        Some(Flow { listener: listener.id, local: listener.bind.ip(), remote, connection: ConnectionId::NONE })
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
        let port = uri.port.unwrap_or_else(|| transport_of(uri).default_port());
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

#[cfg(test)]
mod tests {
    use super::Maintenance::{Cut, Drain, Off};
    use super::*;
    use crate::io::UpCause;
    use crate::pool::world::{World, backend, guardian};
    use crate::settings::{Advertise, Limits, Transport};

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address and a port")
    }

    fn listener(id: u32, bind: &str, advertise: Option<(&str, u16)>, [outside, inside]: [bool; 2]) -> Listener {
        let advertise = advertise.map(|(host, port)| Advertise { host: host.to_owned(), port });
        Listener { id: ListenerId(id), transport: Transport::Udp, bind: address(bind), advertise, outside, inside }
    }

    fn farm(listeners: Vec<Listener>, backends: Vec<Backend>) -> Farm {
        let mut farm = World::new("weight", backends).farm;
        farm.listeners = listeners;
        farm
    }

    fn settings(farms: Vec<Farm>) -> Settings {
        Settings { farms, limits: Limits::default() }
    }

    fn running(farms: Vec<Farm>) -> Running {
        Running::new(settings(farms), at(0), 1)
    }

    fn reload(before: &Running, now: Instant, farms: Vec<Farm>) -> Running {
        before.reloaded(settings(farms), now, 1).0
    }

    #[test]
    fn farms_and_listeners_are_found_by_id() {
        let both = [true, true];
        let mut first = farm(vec![listener(1, "192.0.2.1:5060", None, both)], Vec::new());
        let more = [listener(2, "192.0.2.2:5060", None, both), listener(3, "192.0.2.3:5060", None, both)];
        let mut second = farm(more.into(), Vec::new());
        (first.id, second.id) = (FarmId(7), FarmId(9));
        let running = running(vec![first, second]);
        let listeners = |id: u32| running.farm_by_id(FarmId(id)).map(|farm| farm.settings.listeners.len());
        assert_eq!([7, 8, 9].map(listeners), [Some(1), None, Some(2)]);
        let found = |id: u32| running.listener(ListenerId(id)).map(|(farm, found)| (farm.settings.id.0, found.id.0));
        assert_eq!([1, 2, 3, 4].map(found), [Some((7, 1)), Some((9, 2)), Some((9, 3)), None]);
    }

    #[test]
    fn only_what_was_not_cut_before_is_newly_cut() {
        let with = |states: [Maintenance; 4]| {
            let named = ["a", "b", "c", "d"].map(backend);
            let backends = named.into_iter().zip(states).map(|(known, maintenance)| Backend { maintenance, ..known });
            running(vec![farm(Vec::new(), backends.collect())])
        };
        let before = with([Off, Cut, Off, Cut]);
        assert_eq!(with([Cut, Cut, Drain, Off]).newly_cut(&before), [backend("a").id]);
    }

    #[test]
    fn a_backend_that_left_is_known_for_a_day_and_while_it_has_calls() {
        let names = ["busy", "idle", "kept"];
        let [busy, idle, kept] = names.map(|name| backend(name).id);
        let first = running(vec![farm(Vec::new(), names.map(backend).into())]);
        let call_of = |id: BackendId| first.backend(id).expect("configured").state.restore_call();
        let (call, _other) = (call_of(busy), call_of(kept));
        let next = |before: &Running, now: Instant| reload(before, now, vec![farm(Vec::new(), vec![backend("kept")])]);
        let known = |running: &Running| [busy, idle, kept].map(|id| running.backend(id).is_some());
        let gone = next(&first, at(10));
        let retired: Vec<BackendId> = gone.retired().map(|(id, _)| id).collect();
        assert_eq!(retired, [busy], "idle has no calls, kept did not leave");
        let nearly = next(&gone, Instant::from_micros(86_409_999_999));
        assert_eq!(known(&nearly), [true, true, true]);
        let over = next(&nearly, at(86_410));
        assert_eq!(known(&over), [true, false, true]);
        drop(call);
        let last = next(&over, at(86_410));
        assert_eq!((known(&last), last.generation), ([false, false, true], 4));
    }

    #[test]
    fn a_request_is_of_the_backend_whose_network_is_the_most_precise() {
        let sourced = |(name, own, sources): (&str, &str, &[&str])| Backend {
            address: address(own),
            sources: sources.iter().map(|network| network.parse().expect("a network")).collect(),
            ..backend(name)
        };
        let table: [(&str, &str, &[&str]); 5] = [
            ("a", "192.0.2.10:5060", &[]),
            ("b", "192.0.2.11:5060", &["10.0.0.0/8"]),
            ("c", "192.0.2.12:5060", &["10.1.0.0/16", "10.2.0.0/16"]),
            ("d", "192.0.2.13:5060", &["10.0.0.0/12", "10.2.0.0/16"]),
            ("e", "192.0.2.14:5060", &["10.2.5.0/24"]),
        ];
        let farm = farm(Vec::new(), table.map(sourced).into());
        let running = running(vec![farm.clone()]);
        for (source, expected) in [
            ("192.0.2.10:5060", Some(0)),
            ("192.0.2.10:5061", None),
            ("[::ffff:192.0.2.12]:5060", Some(2)),
            ("10.20.0.1:7000", Some(1)),
            ("10.1.0.1:7000", Some(2)),
            ("10.9.0.1:7000", Some(3)),
            // Two backends name the same network: only a more precise one decides.
            ("10.2.0.1:7000", None),
            ("10.2.5.1:7000", Some(4)),
            ("172.16.0.1:5060", None),
        ] {
            let flow = Flow {
                listener: ListenerId(1),
                local: IpAddr::from([0; 4]),
                remote: address(source),
                connection: ConnectionId::NONE,
            };
            assert_eq!(running.farms[0].backend_at(&farm, &flow), expected, "{source}");
        }
    }

    #[test]
    fn a_backend_is_checked_by_the_guardians_of_all_services_that_use_it() {
        let mut farm = farm(Vec::new(), ["a", "b", "c"].map(backend).into());
        let mut second = farm.services[0].clone();
        (second.guardians, second.backends) = (vec![guardian("call", 1, 1), guardian("options", 1, 9)], vec![1, 0]);
        (farm.services[0].guardians, farm.services[0].backends) = (vec![guardian("options", 1, 7)], vec![0]);
        farm.services.push(second);
        let of = |known: &Backend| -> Vec<(String, u32)> {
            let guardians = guardians_of(&farm, known);
            guardians.iter().map(|guardian| (guardian.name.to_string(), guardian.fall)).collect()
        };
        let named = |name: &str, fall: u32| (name.to_owned(), fall);
        assert_eq!(of(&farm.backends[0]), [named("options", 7), named("call", 1)]);
        assert_eq!(of(&farm.backends[1]), [named("call", 1), named("options", 9)]);
        assert!(of(&farm.backends[2]).is_empty(), "a backend of no service is checked by nobody");
    }

    #[test]
    fn a_reload_keeps_what_the_checks_found() {
        let with = |guardians: Vec<Arc<Guardian>>| {
            let mut farm = farm(Vec::new(), vec![backend("a")]);
            farm.services[0].guardians = guardians;
            vec![farm]
        };
        let first = running(with(vec![guardian("call", 1, 2), guardian("tcp", 1, 1)]));
        let failed = crate::pool::world::failed("no");
        let state = Arc::clone(&first.farms[0].states[0]);
        assert_eq!(state.on_check(at(0), "call", &failed), None);
        let with_both = settings(with(vec![guardian("call", 1, 2), guardian("tcp", 1, 1)]));
        let (next, events) = first.reloaded(with_both, at(1), 1);
        assert!(events.is_empty(), "{events:?}");
        assert!(state.on_check(at(1), "call", &failed).is_some(), "the second in a row");
        let (other, events) = next.reloaded(settings(with(vec![guardian("tcp", 1, 1)])), at(2), 1);
        assert_eq!(other.farms[0].states[0].state_name(at(2)), "up", "only a guardian that left held it down");
        assert_eq!(events, [Event::BackendUp { backend: state.id(), cause: UpCause::Reconfigured }]);
    }

    #[test]
    fn a_listener_is_written_as_the_side_it_is_written_for_knows_it() {
        let listeners = [
            listener(1, "192.0.2.1:5060", Some(("pbx.example.com", 5070)), [true, false]),
            listener(2, "10.0.0.2:5080", Some(("lb.internal", 5090)), [false, true]),
            listener(3, "192.0.2.3:5060", None, [true, true]),
            listener(4, "0.0.0.0:5095", None, [true, true]),
            listener(5, "[::]:5096", Some(("198.51.100.7", 5097)), [true, true]),
        ];
        let running = running(vec![farm(listeners.into(), Vec::new())]);
        let view = running.farm(0);
        let expected = [
            ["pbx.example.com:5070", "192.0.2.1:5060"],
            ["lb.internal:5090", "lb.internal:5090"],
            ["192.0.2.3:5060", "192.0.2.3:5060"],
            ["203.0.113.9:5095", "203.0.113.9:5095"],
            ["198.51.100.7:5097", "203.0.113.9:5096"],
        ];
        for (listener, expected) in view.settings.listeners.iter().zip(expected) {
            let written = [false, true].map(|inside| {
                let text = view.written(listener, IpAddr::from([203, 0, 113, 9]), inside);
                String::from_utf8_lossy(text.host()).into_owned()
            });
            assert_eq!(written, expected);
        }
    }

    #[test]
    fn a_peer_is_reached_by_a_listener_of_its_side_and_family() {
        let [v4, v6] = ["198.51.100.1:5060", "[2001:db8::9]:5060"].map(address);
        for (bind, reached) in [
            ("192.0.2.1:5060", [true, false]),
            ("0.0.0.0:5060", [true, false]),
            ("[2001:db8::1]:5060", [false, true]),
            ("[::]:5060", [true, true]),
        ] {
            let running = running(vec![farm(vec![listener(1, bind, None, [true, true])], Vec::new())]);
            let reaches = |remote: SocketAddr| running.farm(0).flow_towards(false, (Transport::Udp, remote)).is_some();
            assert_eq!([v4, v6].map(reaches), reached, "{bind}");
        }
        let sides =
            [listener(1, "192.0.2.1:5060", None, [true, false]), listener(2, "10.0.0.2:5060", None, [false, true])];
        let running = running(vec![farm(sides.into(), Vec::new())]);
        let [outside, inside] = [(1, [192, 0, 2, 1]), (2, [10, 0, 0, 2])].map(|(id, local): (u32, [u8; 4])| Flow {
            listener: ListenerId(id),
            local: IpAddr::from(local),
            remote: v4,
            connection: ConnectionId::NONE,
        });
        let flows = [(false, v4), (true, v4), (false, v6)]
            .map(|(side, remote)| running.farm(0).flow_towards(side, (Transport::Udp, remote)));
        assert_eq!(flows, [Some(outside), Some(inside), None]);
    }

    /// Of the domain example.com, with an address of its own and a wildcard, both advertised.
    fn named() -> Running {
        let listeners = [
            listener(1, "192.0.2.1:5060", Some(("sip.example.net", 5070)), [true, true]),
            listener(2, "0.0.0.0:5080", Some(("198.51.100.7", 5090)), [true, true]),
        ];
        let mut farm = farm(listeners.into(), Vec::new());
        farm.domains = vec!["example.com".to_owned()];
        running(vec![farm])
    }

    #[test]
    fn a_uri_names_us_by_domain_or_by_address_and_port() {
        let running = named();
        for (uri, ours) in [
            ("sip:a@example.com", true),
            ("sip:a@EXAMPLE.com:9999", true),
            ("sip:a@sip.example.net", true),
            ("sip:a@pbx.example.com", false),
            // The first listener's own address; 5060 where no port is written.
            ("sip:a@192.0.2.1", true),
            ("sip:a@192.0.2.1:5061", false),
            ("sip:a@192.0.2.99", false),
            // The wildcard answers where the request came in.
            ("sip:a@203.0.113.9:5080", true),
            ("sip:a@203.0.113.9:5060", false),
            ("sip:a@192.0.2.99:5080", false),
            // What the second listener advertises.
            ("sip:a@198.51.100.7:5090", true),
            ("sip:a@198.51.100.7:5080", false),
            ("sip:a@192.0.2.99:5090", false),
        ] {
            let parsed = sip::uri::parse(uri.as_bytes()).expect("a URI");
            assert_eq!(running.farm(0).is_ours(&parsed, IpAddr::from([203, 0, 113, 9])), ours, "{uri}");
        }
    }

    #[test]
    fn a_host_of_ours_is_a_domain_or_an_address_on_any_port() {
        let running = named();
        for (host, ours) in [
            (Host::Name(b"example.com."), true),
            (Host::Name(b"Sip.Example.Net"), true),
            (Host::Name(b"example.net"), false),
            (Host::Ip(IpAddr::from([203, 0, 113, 9])), true),
            (Host::Ip(IpAddr::from([192, 0, 2, 1])), true),
            (Host::Ip(IpAddr::from([198, 51, 100, 7])), true),
            (Host::Ip(IpAddr::from([192, 0, 2, 99])), false),
        ] {
            assert_eq!(running.farm(0).is_own_host(host, IpAddr::from([203, 0, 113, 9])), ours, "{host:?}");
        }
    }
}
