//! One farm from its section.

use super::backend::{self, Entry};
use super::guardian::Guardians;
use super::known::Known;
use super::outside::{self, Outside};
use super::placed::{self, Ground};
use super::{family, listener, service, stateless, streams, trunk, warnings};
use crate::nearest;
use crate::read;
use crate::registry;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::{ClientCertificates, Farm, FarmId, Registrations, Symmetric, Target};

/// A farm and where its parts stand; each list of places is parallel to the farm's list of the same name.
#[derive(Debug)]
pub(super) struct Draft<'s> {
    pub(super) farm: Farm,
    pub(super) header: Span,
    pub(super) listeners: Vec<Span>,
    pub(super) services: Vec<Span>,
    pub(super) backends: Vec<Span>,
    /// The backends as they are written: of those by name the farm has what is known.
    pub(super) entries: Vec<Entry<'s>>,
    /// Indices into `entries`, parallel to the services.
    pub(super) pools: Vec<Vec<usize>>,
    /// Every name that the farm needs; some may stand here twice.
    pub(super) targets: Vec<Target>,
}

/// The names of a farm that others in it may mention, in file order: a position here is an index of the checked farm.
#[derive(Debug)]
pub(super) struct Names<'s> {
    pub(super) trunks: Vec<&'s str>,
    pub(super) services: Vec<&'s str>,
}

impl Names<'_> {
    /// The index of the trunk called `name`; that there is none is reported.
    pub(super) fn trunk(&self, name: &str, span: &Span, report: &mut Report<'_>) -> Option<usize> {
        index_of("trunk", &self.trunks, name, span, report)
    }

    /// The index of the service called `name`; that there is none is reported.
    pub(super) fn service(&self, name: &str, span: &Span, report: &mut Report<'_>) -> Option<usize> {
        index_of("service", &self.services, name, span, report)
    }
}

/// `None`: the farm is of a profile that this version does not have.
pub(super) fn farm<'s>(
    section: &'s Section,
    known: &Known<'_>,
    guardians: &Guardians<'_>,
    report: &mut Report<'_>,
) -> Option<Draft<'s>> {
    if section.is_incomplete() {
        return None;
    }
    let written = section.sections("service");
    let implied = [read::implied(&registry::SERVICE, section.span(), report)];
    let service_sections = if written.is_empty() { implied.as_slice() } else { written };
    let trunk_sections = section.sections("trunk");
    let names = Names {
        trunks: trunk_sections.iter().map(|trunk| trunk.optional_text("name").unwrap_or_default()).collect(),
        services: service_sections.iter().map(service::name).collect(),
    };
    let is_stateless = section.text("transactions") == "stateless";
    if is_stateless {
        stateless::check(section, service_sections, section.sections("backend"), report);
    }
    let name = section.optional_text("name").unwrap_or_default();
    let (listeners, listener_spans): (Vec<_>, Vec<_>) = listener::listeners(section).into_iter().unzip();
    let way_out = Outside { listeners: &listeners, known };
    let mut services = service::services(service_sections, &names, guardians, is_stateless, report);
    way_out.find_domains(&mut services);
    let trunks = trunk::trunks(trunk_sections, &names, &way_out, report);
    let entries = backend::entries(name, section, &names, is_stateless, report);
    let ground = Ground { farm_name: name, listeners: &listeners, known };
    let (backends, backend_spans) = placed::backends(&entries, &ground, &mut services, report);
    let of_backends = entries.iter().filter_map(|entry| entry.target.clone());
    let draft = Draft {
        targets: of_backends.chain(outside::targets(trunk_sections, &services)).collect(),
        pools: backend::pools(&entries, services.len()),
        entries,
        header: section.span().clone(),
        listeners: listener_spans,
        services: service_sections.iter().map(|service| service.span().clone()).collect(),
        backends: backend_spans,
        farm: Farm { listeners, trunks, services, backends, ..settings(name, section, is_stateless, report) },
    };
    family::check(&draft, section, report);
    streams::check(&draft, section, report);
    outside::check(&draft, trunk_sections, report);
    guardians.warn_of_closed_places(&draft, service_sections, report);
    warnings::warn(&draft, report);
    Some(draft)
}

/// The farm without its listeners, trunks, services and backends.
fn settings(name: &str, section: &Section, is_stateless: bool, report: &mut Report<'_>) -> Farm {
    let (origin_header, source_header) = headers(section, report);
    Farm {
        id: FarmId::of(name),
        name: name.to_owned(),
        listeners: Vec::new(),
        domains: texts(section, "domains"),
        // What is not written is off where nothing can be remembered.
        registrations: if is_stateless { Registrations::Off } else { registrations(section.text("registrations")) },
        stateless: is_stateless,
        symmetric: symmetric(section.text("symmetric")),
        keepalive: section.optional_duration("keepalive"),
        max_expires: section.optional_duration("max_expires"),
        origin_header,
        source_header,
        certificates: texts(section, "certificates"),
        client_ca: section.optional_text("client_ca").map(str::to_owned),
        client_certificates: match section.text("client_certificates") {
            "require" => ClientCertificates::Require,
            _ => ClientCertificates::Verify,
        },
        origins: texts(section, "origins"),
        max_call_time: section.duration("max_call_time"),
        trunks: Vec::new(),
        services: Vec::new(),
        backends: Vec::new(),
    }
}

fn texts(section: &Section, key: &str) -> Vec<String> {
    section.texts(key).map(|(text, _)| text.to_owned()).collect()
}

fn registrations(name: &str) -> Registrations {
    match name {
        "path" => Registrations::Path,
        "off" => Registrations::Off,
        _ => Registrations::Contact,
    }
}

fn symmetric(name: &str) -> Symmetric {
    match name {
        "always" => Symmetric::Always,
        "never" => Symmetric::Never,
        _ => Symmetric::Auto,
    }
}

/// The headers that tell a backend who sent a request, and from where.
fn headers(section: &Section, report: &mut Report<'_>) -> (Option<String>, Option<String>) {
    let origin = section.text("origin_header");
    let source = section.text("source_header");
    if !origin.is_empty() && origin.eq_ignore_ascii_case(source) {
        let message = format!("`source_header` and `origin_header` are both \"{source}\"");
        report.error(section.span_of("source_header"), message);
    }
    let some = |name: &str| {
        if name.is_empty() { None } else { Some(name.to_owned()) }
    };
    (some(origin), some(source))
}

fn index_of(kind: &str, names: &[&str], name: &str, span: &Span, report: &mut Report<'_>) -> Option<usize> {
    let found = names.iter().position(|known| *known == name);
    if found.is_none() {
        let hint = nearest::offer(name, names.iter().copied()).unwrap_or_else(|| match names {
            [] => format!("there is no [[farm.{kind}]]"),
            _ => format!("there is {}", names.join(", ")),
        });
        let message = format!("unknown {kind} \"{}\"", name.escape_debug());
        report.error_with_hint(span, message, Some(hint));
    }
    found
}

#[cfg(test)]
mod tests {
    use engine::{ClientCertificates, Registrations, Symmetric};

    #[test]
    fn settings_of_a_farm_arrive() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\", \"wss:127.0.0.1:443\"]\ndomains = [\"Example.COM\", \"2001:db8::1\"]\n\
            registrations = \"path\"\nsymmetric = \"never\"\nkeepalive = \"off\"\norigin_header = \"X-From\"\nsource_header = \"X-IP\"\n\
            max_call_time = \"2h\"\ncertificates = [\"/etc/a.pem\", \"b.pem\"]\nclient_ca = \"../ca.pem\"\nclient_certificates = \"require\"\n\
            origins = [\"https://Phone.example.com\"]\n[[farm.backend]]\naddress = \"127.0.0.11\"\n";
        let checked = crate::load("f", text).expect("the file is right");
        let farm = checked.settings.farms.first().expect("one farm is written");
        assert_eq!(farm.domains, ["example.com", "[2001:db8::1]"]);
        assert_eq!((farm.registrations, farm.symmetric), (Registrations::Path, Symmetric::Never));
        assert_eq!(farm.keepalive, None);
        assert_eq!((farm.origin_header.as_deref(), farm.source_header.as_deref()), (Some("X-From"), Some("X-IP")));
        assert_eq!(farm.max_call_time.as_secs(), 7_200);
        // Paths stay as they are written: nothing here knows the folder.
        assert_eq!(farm.certificates, ["/etc/a.pem", "b.pem"]);
        assert_eq!(farm.client_ca.as_deref(), Some("../ca.pem"));
        assert_eq!(farm.client_certificates, ClientCertificates::Require);
        assert_eq!(farm.origins, ["https://phone.example.com"]);
        assert_eq!(farm.id, engine::FarmId::of("a"));
    }
}
