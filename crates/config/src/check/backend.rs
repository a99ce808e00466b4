//! The backends of a farm, how they are reached, and which services they belong to.

use super::farm::Names;
use crate::report::Report;
use crate::section::Section;
use engine::{Backend, BackendId, Listener, Maintenance, Ports, Reach, Target, Transport};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// One `[[farm.backend]]` with an address: one backend, or, by name, as many as the name says.
#[derive(Debug)]
pub(super) struct Entry<'s> {
    pub(super) section: &'s Section,
    /// What they all have in common. Of a name the address is not known: it is unspecified, with the port that is written or usual.
    pub(super) template: Backend,
    /// The name that is to be asked for, if it is one.
    pub(super) target: Option<Target>,
    /// Each address of the name is a backend of its own.
    pub(super) expand: bool,
    /// Indices of its services, each once.
    pub(super) services: Vec<usize>,
}

/// The entries in file order. One without an address is left out: it was reported when it was read.
pub(super) fn entries<'s>(
    farm_name: &str,
    farm: &'s Section,
    names: &Names<'_>,
    stateless: bool,
    report: &mut Report<'_>,
) -> Vec<Entry<'s>> {
    let sections = farm.sections("backend");
    if sections.is_empty() && !farm.is_written("backend") {
        let hint = "add [[farm.backend]] with address = \"10.0.0.11:5060\"".to_owned();
        report.error_with_hint(farm.span(), "this farm has no [[farm.backend]]", Some(hint));
    }
    let mut entries = Vec::with_capacity(sections.len());
    for section in sections {
        let services = services_of(section, names, report);
        entries.extend(entry(farm_name, section, stateless, services));
    }
    for entry in entries.iter().filter(|entry| entry.expand && entry.target.is_none()) {
        let message = format!("`expand` is for a backend by name: {} is one address", entry.written());
        let hint = "leave it out, or write a name into `address`".to_owned();
        report.error_with_hint(entry.section.span_of("expand"), message, Some(hint));
    }
    entries
}

/// The backends of each service, as indices of entries in file order.
pub(super) fn pools(entries: &[Entry<'_>], services: usize) -> Vec<Vec<usize>> {
    let of_service = |service: usize| -> Vec<usize> {
        let belonging = entries.iter().enumerate().filter(|(_, entry)| entry.services.contains(&service));
        belonging.map(|(index, _)| index).collect()
    };
    (0..services).map(of_service).collect()
}

/// Each transport that a farm with these listeners may reach this backend over, with the address there: one, or, where the backend
/// takes the transport of the client, one for each transport of the farm's clients.
pub(super) fn reached(listeners: &[Listener], backend: &Backend) -> Vec<(Transport, SocketAddr)> {
    if let Some(transport) = backend.transport {
        return vec![(transport, backend.address)];
    }
    let mut reached: Vec<(Transport, SocketAddr)> = Vec::new();
    for listener in listeners.iter().filter(|listener| listener.outside) {
        let way = Reach::of(backend).over(listener.transport);
        if !reached.contains(&way) {
            reached.push(way);
        }
    }
    reached
}

/// Every address that is the backend's own; some may stand here twice.
pub(super) fn addresses(listeners: &[Listener], backend: &Backend) -> Vec<SocketAddr> {
    let streams = reached(listeners, backend).into_iter().map(|(_, address)| address);
    std::iter::once(backend.address).chain(streams).collect()
}

/// The address of the backend that is a listener of its own farm, if there is one.
pub(super) fn own_address(listeners: &[Listener], backend: &Backend) -> Option<SocketAddr> {
    let is_own = |(transport, address): &(Transport, SocketAddr)| {
        listeners.iter().any(|own| own.bind == *address && own.transport.is_stream() == transport.is_stream())
    };
    reached(listeners, backend).into_iter().find(is_own).map(|(_, address)| address)
}

impl Entry<'_> {
    /// The address as it stands in the file, with the port where it has one there or is no name.
    pub(super) fn written(&self) -> String {
        match (&self.target, self.section.peer("address")) {
            (Some(_), Some(peer)) => peer.to_string(),
            _ => self.template.address.to_string(),
        }
    }

    /// The backend of this entry that is at `address`, found by the name `host`, and called `name`.
    pub(super) fn at(&self, farm_name: &str, name: String, address: SocketAddr, host: Option<String>) -> Backend {
        Backend {
            id: BackendId::of(farm_name, &name, address),
            name,
            address,
            host,
            ports: ports(self.section.section("ports"), address),
            ..self.template.clone()
        }
    }
}

fn entry<'s>(farm_name: &str, section: &'s Section, stateless: bool, services: Vec<usize>) -> Option<Entry<'s>> {
    let peer = section.peer("address")?;
    let transport = transport(section.text("transport"));
    let usual_port = transport.unwrap_or(Transport::Udp).default_port();
    // Where the transport is the client's, `ports` and the usual ports say the rest: only addresses are asked for.
    let asked = match transport {
        Some(transport) => peer.target(peer.port, Some(transport)),
        None => peer.target(Some(peer.port.unwrap_or(usual_port)), Some(Transport::Udp)),
    };
    let unknown = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), peer.port.unwrap_or(usual_port));
    let address = peer.address_or_port(usual_port).unwrap_or(unknown);
    let by_default = if asked.is_some() { peer.to_string() } else { address.to_string() };
    let name = section.optional_text("name").map_or(by_default, str::to_owned);
    let template = Backend {
        id: BackendId::of(farm_name, &name, address),
        name,
        address,
        host: None,
        transport,
        ports: ports(section.section("ports"), address),
        verify: section.verify("verify").clone(),
        sources: section.networks("sources"),
        weight: section.integer_u32("weight"),
        priority: section.integer_u32("priority"),
        max_calls: section.integer_u32("max_calls"),
        max_rate: section.integer_u32("max_rate"),
        // A share that grows with time would differ between units that keep no state.
        slow_start: if stateless { Duration::ZERO } else { section.duration("slow_start") },
        maintenance: match section.text("maintenance") {
            "drain" => Maintenance::Drain,
            "cut" => Maintenance::Cut,
            _ => Maintenance::Off,
        },
    };
    Some(Entry { section, template, target: asked, expand: section.boolean("expand"), services })
}

/// `None`: the client's.
pub(super) fn transport(name: &str) -> Option<Transport> {
    match name {
        "same" => None,
        "tcp" => Some(Transport::Tcp),
        "tls" => Some(Transport::Tls),
        _ => Some(Transport::Udp),
    }
}

fn ports(section: &Section, address: SocketAddr) -> Ports {
    Ports {
        tcp: section.optional_port("tcp").unwrap_or(address.port()),
        tls: section.optional_port("tls").unwrap_or(Transport::Tls.default_port()),
    }
}

/// Indices of services, each once.
fn services_of(section: &Section, names: &Names<'_>, report: &mut Report<'_>) -> Vec<usize> {
    if !section.is_written("service") && !names.services.contains(&"default") {
        let hint = format!(
            "add service = [\"{}\"]; there is {}",
            names.services.first().unwrap_or(&""),
            names.services.join(", ")
        );
        let message = "this backend names no service, and none is called \"default\"";
        report.error_with_hint(section.span(), message, Some(hint));
        return Vec::new();
    }
    if section.is_written("service") && section.list("service").is_empty() {
        report.error(section.span_of("service"), "a backend belongs to at least one service");
    }
    let mut chosen: Vec<usize> = Vec::new();
    for (name, span) in section.texts("service") {
        match names.service(name, span, report) {
            Some(index) if chosen.contains(&index) => report.error(span, format!("service \"{name}\" is named twice")),
            Some(index) => chosen.push(index),
            None => {}
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Farm, Verify};

    #[test]
    fn a_backend_arrives_in_each_of_its_services() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.service]]\nname = \"s\"\nmatch = { domain = [\"x.org\"] }\n\
            [[farm.service]]\nname = \"default\"\n[[farm.backend]]\naddress = \"127.0.0.10\"\n\
            [[farm.backend]]\nname = \"b\"\nservice = [\"default\", \"s\"]\naddress = \"127.0.0.11\"\nsources = [\"127.0.0.0/30\"]\nweight = 3\n\
            priority = 2\nmax_calls = 5\nmax_rate = 6\nslow_start = \"0s\"\nmaintenance = \"drain\"\n";
        let checked = crate::load("f", text).expect("the file is right");
        let farm = checked.settings.farms.first().expect("one farm is written");
        let pools: Vec<Vec<usize>> = farm.services.iter().map(|service| service.backends.clone()).collect();
        assert_eq!(pools, vec![vec![1], vec![0, 1]]);
        let backend = farm.backends.get(1).expect("two backends are written");
        assert_eq!((backend.weight, backend.priority, backend.max_calls, backend.max_rate), (3, 2, 5, 6));
        assert_eq!(backend.maintenance, Maintenance::Drain);
        assert!(backend.slow_start.is_zero());
        assert_eq!(backend.sources.len(), 1);
        assert_eq!(backend.id, engine::BackendId::of("a", "b", backend.address));
        assert_eq!((backend.transport, &backend.verify), (Some(Transport::Udp), &Verify::System));
    }

    /// A farm that speaks everything on both sides, and one backend with these lines.
    fn farm_with(lines: &str) -> Farm {
        let text = format!(
            "[[farm]]\nname = \"a\"\ncertificates = [\"a.pem\"]\norigins = [\"https://a.org\"]\n\
             listen = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\", \"ws:127.0.0.1:80\", \"wss:127.0.0.1:443\"]\n\
             [[farm.backend]]\n{lines}\n"
        );
        let checked = crate::load("f", &text).expect("the file is right");
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        checked.settings.farms.into_iter().next().expect("one farm is written")
    }

    fn reached_at(lines: &str) -> Vec<(Transport, String)> {
        let farm = farm_with(lines);
        let backend = farm.backends.first().expect("one backend is written");
        reached(&farm.listeners, backend)
            .into_iter()
            .map(|(transport, address)| (transport, address.to_string()))
            .collect()
    }

    #[test]
    fn a_port_that_is_not_written_is_that_of_the_transport() {
        let at = |transport, port: u16| vec![(transport, format!("127.0.0.11:{port}"))];
        assert_eq!(reached_at("address = \"127.0.0.11\""), at(Transport::Udp, 5060));
        assert_eq!(reached_at("address = \"127.0.0.11\"\ntransport = \"tcp\""), at(Transport::Tcp, 5060));
        assert_eq!(reached_at("address = \"127.0.0.11\"\ntransport = \"tls\""), at(Transport::Tls, 5061));
        assert_eq!(reached_at("address = \"127.0.0.11:5070\"\ntransport = \"tls\""), at(Transport::Tls, 5070));
        let farm = farm_with("address = \"127.0.0.11\"\ntransport = \"tls\"");
        assert_eq!(farm.backends.first().map(|backend| backend.name.as_str()), Some("127.0.0.11:5061"));
    }

    #[test]
    fn a_backend_that_takes_any_transport_has_a_port_for_each() {
        let at = |ports: [u16; 3]| {
            let transports = [Transport::Udp, Transport::Tcp, Transport::Tls];
            transports.into_iter().zip(ports.map(|port| format!("127.0.0.11:{port}"))).collect::<Vec<_>>()
        };
        let same = "address = \"127.0.0.11:5070\"\ntransport = \"same\"";
        assert_eq!(reached_at(same), at([5070, 5070, 5061]));
        assert_eq!(reached_at(&format!("{same}\nports = {{ tls = 5081 }}")), at([5070, 5070, 5081]));
        assert_eq!(reached_at(&format!("{same}\nports = {{ tcp = 5080, tls = 5081 }}")), at([5070, 5080, 5081]));
        let farm = farm_with(&format!("{same}\nverify = \"ca.pem\""));
        let backend = farm.backends.first().expect("one backend is written");
        assert_eq!((backend.transport, backend.ports), (None, Ports { tcp: 5070, tls: 5061 }));
        assert_eq!(backend.verify, Verify::File("ca.pem".to_owned()));
    }

    fn asked(lines: &str) -> Vec<String> {
        let text = format!(
            "[[farm]]\nname = \"a\"\ncertificates = [\"a.pem\"]\n\
             listen = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\"]\n[[farm.backend]]\n{lines}\n"
        );
        let checked = crate::load("f", &text).expect("the file is right");
        assert!(checked.settings.farms.iter().all(|farm| farm.backends.is_empty()));
        checked.names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_is_asked_for_as_the_backend_is_reached() {
        assert_eq!(asked("address = \"PBX.example.com\""), ["udp:pbx.example.com"]);
        assert_eq!(asked("address = \"pbx.example.com:5070\""), ["udp:pbx.example.com:5070"]);
        assert_eq!(asked("address = \"pbx.example.com\"\ntransport = \"tls\""), ["tls:pbx.example.com"]);
        assert_eq!(asked("address = \"pbx.example.com\"\ntransport = \"same\""), ["udp:pbx.example.com:5060"]);
        assert_eq!(asked("address = \"pbx.example.com:5070\"\ntransport = \"same\""), ["udp:pbx.example.com:5070"]);
    }

    #[test]
    fn only_names_expand() {
        let errors = |address: &str| -> Vec<usize> {
            let text = format!(
                "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.backend]]\naddress = \"{address}\"\nexpand = true\n"
            );
            crate::load("f", &text).err().unwrap_or_default().iter().map(|error| error.line).collect()
        };
        assert_eq!(errors("127.0.0.11"), [6]);
        assert!(errors("pbx.example.com").is_empty());
    }

    #[test]
    fn two_entries_of_one_name_are_told_apart_by_what_they_are_called() {
        let errors = |name: &str| -> Vec<usize> {
            let text = format!(
                "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.backend]]\naddress = \"pbx.example.com\"\n\
                 [[farm.backend]]\naddress = \"pbx.example.com\"\n{name}\n"
            );
            crate::load("f", &text).err().unwrap_or_default().iter().map(|error| error.line).collect()
        };
        assert_eq!(errors(""), [6]);
        assert!(errors("name = \"other\"").is_empty());
    }
}
