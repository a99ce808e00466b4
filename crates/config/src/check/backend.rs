//! The backends of a farm, and which services they belong to.

use super::farm::Names;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::{Backend, BackendId, Maintenance, Service, Transport};
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

fn backend(farm_name: &str, section: &Section, stateless: bool) -> Option<Backend> {
    let address = section.address("address")?;
    let name = section.optional_text("name").map_or_else(|| address.to_string(), str::to_owned);
    Some(Backend {
        id: BackendId::of(farm_name, &name, address),
        name,
        address,
        transport: Transport::Udp,
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
    use engine::Maintenance;

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
    }
}
