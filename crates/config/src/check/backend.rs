//! The backends of a farm, how they are reached, and which services they belong to.

use super::farm::Names;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::{Backend, BackendId, Farm, Maintenance, Ports, Reach, Service, Transport};
use std::net::SocketAddr;
use std::time::Duration;

/// The backends and where they stand; each is entered into its services. A backend without an address is left out: it was
/// reported when it was read.
pub(super) fn backends(
    farm_name: &str,
    farm: &Section,
    names: &Names<'_>,
    stateless: bool,
    services: &mut [Service],
    report: &mut Report<'_>,
) -> (Vec<Backend>, Vec<Span>) {
    let sections = farm.sections("backend");
    if sections.is_empty() && !farm.is_written("backend") {
        let hint = "add [[farm.backend]] with address = \"10.0.0.11:5060\"".to_owned();
        report.error_with_hint(farm.span(), "this farm has no [[farm.backend]]", Some(hint));
    }
    let mut backends = Vec::with_capacity(sections.len());
    let mut spans = Vec::with_capacity(sections.len());
    for section in sections {
        let chosen = services_of(section, names, report);
        let Some(backend) = backend(farm_name, section, stateless) else {
            continue;
        };
        for index in chosen {
            if let Some(service) = services.get_mut(index) {
                service.backends.push(backends.len());
            }
        }
        backends.push(backend);
        spans.push(section.span().clone());
    }
    (backends, spans)
}

/// Each transport that the farm may reach this backend over, with the address there: one, or, where the backend takes the transport of
/// the client, one for each transport of the farm's clients.
pub(super) fn reached(farm: &Farm, backend: &Backend) -> Vec<(Transport, SocketAddr)> {
    if let Some(transport) = backend.transport {
        return vec![(transport, backend.address)];
    }
    let mut reached: Vec<(Transport, SocketAddr)> = Vec::new();
    for listener in farm.listeners.iter().filter(|listener| listener.outside) {
        let way = Reach::of(backend).over(listener.transport);
        if !reached.contains(&way) {
            reached.push(way);
        }
    }
    reached
}

fn backend(farm_name: &str, section: &Section, stateless: bool) -> Option<Backend> {
    let transport = transport(section.text("transport"));
    let address = section.peer("address")?.or_port(transport.unwrap_or(Transport::Udp).default_port());
    let name = section.optional_text("name").map_or_else(|| address.to_string(), str::to_owned);
    Some(Backend {
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
    })
}

/// `None`: the client's.
fn transport(name: &str) -> Option<Transport> {
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
    use engine::Verify;

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
        reached(&farm, backend).into_iter().map(|(transport, address)| (transport, address.to_string())).collect()
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
}
