//! The services of a farm; their backends are entered later.

use super::farm::Names;
use super::guardian::Guardians;
use super::identity;
use crate::report::Report;
use crate::section::{EgressTo, FallbackTo, Section, Value};
use engine::{Egress, Failover, Fallback, Persistence, Rule, Service};

/// What a service is called; the one that exists without being written has the name that backends use by default.
pub(super) fn name(section: &Section) -> &str {
    section.optional_text("name").unwrap_or("default")
}

/// One service for each section, also for a broken one: indices depend on it.
pub(super) fn services(
    sections: &[Section],
    names: &Names<'_>,
    guardians: &Guardians<'_>,
    stateless: bool,
    report: &mut Report<'_>,
) -> Vec<Service> {
    identity::unique_names("service", sections, report);
    let services: Vec<Service> =
        sections.iter().map(|section| service(section, names, guardians, stateless, report)).collect();
    for (index, section) in sections.iter().enumerate() {
        if leads_back(&services, index) {
            let message = format!("the fallback of service \"{}\" leads back to itself", name(section));
            report.error(section.span_of("fallback"), message);
        }
    }
    services
}

fn service(
    section: &Section,
    names: &Names<'_>,
    guardians: &Guardians<'_>,
    stateless: bool,
    report: &mut Report<'_>,
) -> Service {
    let persistence = section.persistence("persistence").clone();
    Service {
        name: name(section).to_owned(),
        rule: rule(section.section("match"), names, report),
        algorithm: section.algorithm("algorithm"),
        // Nothing is kept where nothing may be kept; that something else was written is reported.
        persistence: if stateless { Persistence::None } else { persistence },
        persistence_ttl: section.duration("persistence_ttl"),
        callee_affinity: section.boolean("callee_affinity"),
        request_uri_backend: section.text("request_uri") == "backend",
        failover: failover(section.section("failover"), stateless),
        guardians: guardians.of_service(section, report),
        // Who keeps no transaction knows no answers either.
        passive: section.boolean("passive") && !stateless,
        fallback: fallback(section, names, report),
        egress: egress(section, names, report),
        backends: Vec::new(),
    }
}

fn rule(section: &Section, names: &Names<'_>, report: &mut Report<'_>) -> Rule {
    for (trunk, span) in section.texts("trunk") {
        names.trunk(trunk, span, report);
    }
    let texts = |key: &str| -> Vec<String> { section.texts(key).map(|(text, _)| text.to_owned()).collect() };
    Rule {
        domain: texts("domain"),
        trunk: texts("trunk"),
        from_user: section.pattern("from_user").cloned(),
        method: texts("method"),
        user: section.pattern("user").cloned(),
        source: section.networks("source"),
        header: section.patterns("header").to_vec(),
    }
}

fn failover(section: &Section, stateless: bool) -> Failover {
    let codes = section.list("codes").iter().filter_map(|item| match item.value {
        Value::Integer(code) => u16::try_from(code).ok(),
        _ => None,
    });
    Failover {
        answer_timeout: section.duration("answer_timeout"),
        final_timeout: section.duration("final_timeout"),
        codes: codes.collect(),
        attempts: if stateless { 1 } else { section.integer_u32("attempts") },
    }
}

fn fallback(section: &Section, names: &Names<'_>, report: &mut Report<'_>) -> Fallback {
    match section.fallback("fallback") {
        FallbackTo::Status(status) => Fallback::Status(*status),
        FallbackTo::Service(to) => {
            let index = names.service(to, section.span_of("fallback"), report);
            index.map_or(Fallback::Status(503), Fallback::Service)
        }
    }
}

fn egress(section: &Section, names: &Names<'_>, report: &mut Report<'_>) -> Vec<Egress> {
    let mut found = Vec::new();
    for item in section.list("egress") {
        let Value::Egress(to) = &item.value else {
            continue;
        };
        match to {
            EgressTo::Trunk(name) => found.extend(names.trunk(name, &item.span, report).map(Egress::Trunk)),
            EgressTo::Domain(domain) => found.push(Egress::Domain { host: domain.clone(), places: Vec::new() }),
            EgressTo::Network(network) => found.push(Egress::Network(*network)),
        }
    }
    found
}

/// Whether `start` lies on a circle of fallbacks and is its first service, so that each circle is reported once.
fn leads_back(services: &[Service], start: usize) -> bool {
    let mut at = start;
    for _ in services {
        let Some(Fallback::Service(next)) = services.get(at).map(|service| &service.fallback) else {
            return false;
        };
        at = *next;
        if at <= start {
            return at == start;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use crate::Severity;
    use engine::{Egress, Fallback, Persistence};

    const HEAD: &str = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.backend]]\naddress = \"127.0.0.11\"\n\
        [[farm.trunk]]\nname = \"t\"\naddresses = [\"127.0.0.9\"]\n";

    #[test]
    fn a_service_arrives() {
        let text = format!(
            "{HEAD}[[farm.service]]\nname = \"default\"\nalgorithm = \"hash-user\"\npersistence = \"header:X-Tenant\"\n\
             passive = false\npersistence_ttl = \"2h\"\ncallee_affinity = false\nrequest_uri = \"backend\"\nfallback = \"last\"\n\
             failover = {{ answer_timeout = \"1s\", codes = [500, 503] }}\n\
             egress = [\"trunk:t\", \"domain:Example.net\", \"network:10.0.0.0/8\"]\n\
             match = {{ domain = [\"EXAMPLE.com\"], trunk = [\"t\"], method = [\"INVITE\"], header = {{ User-Agent = \"(?i)x\" }} }}\n\
             [[farm.service]]\nname = \"last\"\n"
        );
        let checked = crate::load("f", &text).expect("the file is right");
        let farm = checked.settings.farms.first().expect("one farm is written");
        let service = farm.services.first().expect("two services are written");
        assert_eq!(service.algorithm.name(), "hash-user");
        assert_eq!(service.persistence, Persistence::Header("X-Tenant".to_owned()));
        assert_eq!(service.persistence_ttl.as_secs(), 7_200);
        assert!(!service.callee_affinity && service.request_uri_backend && !service.passive);
        assert_eq!(farm.services.get(1).map(|service| service.passive), Some(true));
        assert_eq!(service.fallback, Fallback::Service(1));
        assert_eq!((service.failover.answer_timeout.as_secs(), service.failover.final_timeout.as_secs()), (1, 4));
        assert_eq!(service.failover.codes, [500, 503]);
        assert_eq!(service.egress.len(), 3);
        assert_eq!(
            service.egress.get(..2),
            Some(&[Egress::Trunk(0), Egress::Domain { host: "example.net".to_owned(), places: Vec::new() }][..])
        );
        assert_eq!(service.rule.domain, ["example.com"]);
        assert!(service.rule.header.iter().all(|(name, pattern)| name == "User-Agent" && pattern.is_match(b"aXb")));
    }

    #[test]
    fn fallbacks_must_end() {
        let service = |name: &str, to: &str| format!("[[farm.service]]\nname = \"{name}\"\nfallback = \"{to}\"\n");
        let lines = |services: &[String]| -> Vec<usize> {
            let text = format!("{HEAD}{}", services.concat());
            match crate::load("f", &text) {
                Ok(_) => Vec::new(),
                Err(found) => found.iter().filter(|one| one.severity == Severity::Error).map(|one| one.line).collect(),
            }
        };
        assert_eq!(lines(&[service("default", "b"), service("b", "c"), service("c", "503")]), Vec::<usize>::new());
        assert_eq!(lines(&[service("default", "default")]), [11]);
        assert_eq!(lines(&[service("default", "b"), service("b", "c"), service("c", "b")]), [14]);
    }
}
