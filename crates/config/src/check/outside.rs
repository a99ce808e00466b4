//! The way out of a farm, to trunks and to domains that backends may call: over which of its listeners, and where names lead.

use super::family;
use super::farm::Draft;
use super::known::Known;
use crate::report::{Report, Span};
use crate::section::{Section, WayTo};
use engine::{Egress, Listener, Place, Service, Target, Transport, Verify};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What there is to leave a farm by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outside<'f> {
    pub(super) listeners: &'f [Listener],
    pub(super) known: &'f Known<'f>,
}

impl Outside<'_> {
    /// Where the entries of `out` lead, in their order. What a name leads to and no listener speaks is left out.
    pub(super) fn places(&self, trunk: &Section) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for (way, _) in trunk.ways("out") {
            match (way.target(), way.place()) {
                (Some(target), _) => places.extend(self.of_name(&target)),
                (None, Some((transport, address))) => places.push(Place { transport, address, host: None }),
                (None, None) => {}
            }
        }
        places
    }

    /// Enters the places of domains into the egress of the services.
    pub(super) fn find_domains(&self, services: &mut [Service]) {
        for egress in services.iter_mut().flat_map(|service| &mut service.egress) {
            if let Egress::Domain { host, places } = egress
                && let Some(target) = domain(host)
            {
                *places = self.of_name(&target);
            }
        }
    }

    fn of_name(&self, target: &Target) -> Vec<Place> {
        let places = self.known.of(target).iter().map(|found| &found.place);
        places.filter(|place| self.speaks(place.transport, Some(place.address))).cloned().collect()
    }

    /// Is there a listener for this transport, and for the family of the address if that is known?
    fn speaks(&self, transport: Transport, address: Option<SocketAddr>) -> bool {
        self.listeners.iter().any(|listener| {
            let of_family = address.is_none_or(|address| listener.bind.is_ipv4() == address.is_ipv4());
            listener.outside && listener.transport == transport && of_family
        })
    }
}

/// The names of trunks and of domains in egress lists.
pub(super) fn targets(trunks: &[Section], services: &[Service]) -> Vec<Target> {
    let of_trunks = trunks.iter().flat_map(|trunk| trunk.ways("out")).filter_map(|(way, _)| way.target());
    let domains = services.iter().flat_map(|service| &service.egress).filter_map(|egress| match egress {
        Egress::Domain { host, .. } => domain(host),
        Egress::Trunk(_) | Egress::Network(_) => None,
    });
    of_trunks.chain(domains).collect()
}

/// Each entry of `out` needs a listener of its transport on the side of the trunks, and `verify` a certificate to check.
pub(super) fn check(draft: &Draft<'_>, trunks: &[Section], report: &mut Report<'_>) {
    let listeners = &draft.farm.listeners;
    // Without any listener there is something else to mend first.
    if listeners.is_empty() {
        return;
    }
    let known = Known::nothing();
    let outside = Outside { listeners, known: &known };
    for trunk in trunks {
        let name = trunk.optional_text("name").unwrap_or_default();
        for (way, span) in trunk.ways("out") {
            spoken(&outside, name, way, span, report);
        }
        verify(name, trunk, report);
    }
}

fn spoken(outside: &Outside<'_>, name: &str, way: &WayTo, span: &Span, report: &mut Report<'_>) {
    let address = way.place().map(|(_, address)| address);
    let of_family = |listener: &&Listener| address.is_none_or(|at| listener.bind.is_ipv4() == at.is_ipv4());
    // That there is none of its family at all is reported as such.
    let Some(any) = outside.listeners.iter().find(of_family) else {
        return;
    };
    let transports = match way.known_transport() {
        Some(transport) => vec![transport],
        None => vec![Transport::Udp, Transport::Tcp, Transport::Tls],
    };
    if transports.iter().any(|transport| outside.speaks(*transport, address)) {
        return;
    }
    let transport = transports.first().copied().unwrap_or(Transport::Udp);
    let words: Vec<&str> = transports.iter().map(|transport| transport.name()).collect();
    let words = words.join(" or ");
    let family = address.map(|address| format!(" for {}", family::name(address))).unwrap_or_default();
    let message = format!("trunk \"{name}\" is reached over {words}, and `listen` has no {words} listener{family}");
    let near = outside.listeners.iter().filter(of_family).find(|listener| listener.outside).unwrap_or(any);
    let host = written_host(near.bind.ip());
    let hint = format!("add \"{}:{host}:{}\" to `listen`", transport.name(), transport.default_port());
    report.error_with_hint(span, message, Some(hint));
}

fn verify(name: &str, trunk: &Section, report: &mut Report<'_>) {
    let is_secure = |way: &WayTo| way.known_transport().is_none_or(Transport::is_secure);
    let over_tls = trunk.ways("out").any(|(way, _)| is_secure(way));
    let span = trunk.span_of("verify");
    match trunk.verify("verify") {
        // What holds by default may be written everywhere.
        Verify::System => {}
        _ if !over_tls => {
            let message =
                format!("trunk \"{name}\" shows no certificate to verify: nothing in its `out` is reached over tls");
            let hint = "write the transport: out = [\"tls:sip.example.net\"], or leave `verify` out";
            report.error_with_hint(span, message, Some(hint.to_owned()));
        }
        Verify::Off => {
            let message = format!("the certificate of trunk \"{name}\" is not checked: anybody in between can listen");
            let hint = "name a file with its authority, or its fingerprint: verify = \"sha256:…\"";
            report.warning(span, message, hint);
        }
        Verify::File(_) | Verify::Pinned(_) => {}
    }
}

/// As the address of a listener is written.
pub(super) fn written_host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(any) if any.is_unspecified() => "*".to_owned(),
        IpAddr::V4(own) => own.to_string(),
        IpAddr::V6(own) => format!("[{own}]"),
    }
}

/// What is to be asked for a domain; `None`: it is an address.
fn domain(host: &str) -> Option<Target> {
    let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    (!is_address).then(|| Target { host: host.to_owned(), port: None, transport: None })
}

#[cfg(test)]
mod tests {
    use crate::check::known::world;
    use crate::{Checked, Diagnostic, Severity};
    use engine::{Egress, Place, Transport, Verify};
    use std::collections::BTreeSet;

    fn text(listen: &str, trunk: &str) -> String {
        format!(
            "[[farm]]\nname = \"a\"\ncertificates = [\"a.pem\"]\nlisten = [{listen}]\ninside = [\"udp:127.0.0.2:5090\", \"udp:[::2]:5090\"]\n\
             [[farm.trunk]]\nname = \"t\"\naddresses = [\"198.51.100.1\"]\n{trunk}\n[[farm.service]]\nname = \"default\"\n\
             egress = [\"trunk:t\", \"domain:Example.net\", \"domain:192.0.2.9\", \"domain:[2001:db8::9]\"]\n\
             [[farm.backend]]\naddress = \"127.0.0.11\"\n"
        )
    }

    fn told(listen: &str, trunk: &str) -> Vec<(Severity, usize, String)> {
        let found: Vec<Diagnostic> = match crate::load("f", &text(listen, trunk)) {
            Ok(checked) => checked.warnings,
            Err(found) => found,
        };
        // That the certificates of a farm without tls are of no use is not asked here.
        let found = found.into_iter().filter(|one| one.line != 3);
        found.map(|one| (one.severity, one.line, one.hint.unwrap_or_default())).collect()
    }

    fn checked(answers: &[(&str, &[&str])]) -> Checked {
        let listen = "\"udp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\"";
        let out =
            "out = [\"tls:sip.carrier.example\", \"198.51.100.1:5080\", \"carrier.example\"]\nverify = \"ca.pem\"";
        let answers = world::answers(answers);
        crate::load_with("f", &text(listen, out), &answers, &BTreeSet::new()).expect("the file is right")
    }

    fn shown(places: &[Place]) -> Vec<String> {
        let shown = |place: &Place| {
            let host = place.host.as_deref().unwrap_or("-");
            format!("{}:{} {host}", place.transport.name(), place.address)
        };
        places.iter().map(shown).collect()
    }

    #[test]
    fn the_names_of_trunks_and_domains_are_asked_for() {
        let asked: Vec<String> = checked(&[]).names.iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["carrier.example", "example.net", "tls:sip.carrier.example"]);
    }

    #[test]
    fn ways_are_found_where_they_are_known_and_a_listener_speaks_them() {
        let out = |answers: &[(&str, &[&str])]| {
            let checked = checked(answers);
            let trunk =
                checked.settings.farms.first().and_then(|farm| farm.trunks.first()).expect("a trunk is written");
            assert_eq!(trunk.verify, Verify::File("ca.pem".to_owned()));
            shown(&trunk.out)
        };
        assert_eq!(out(&[]), ["udp:198.51.100.1:5080 -"]);
        let known: [(&str, &[&str]); 2] = [
            ("tls:sip.carrier.example", &["tls:198.51.100.2:5061 1 0", "tls:[2001:db8::2]:5061 1 0"]),
            ("carrier.example", &["tcp:198.51.100.3:5060 1 0", "udp:198.51.100.3:5060 2 0"]),
        ];
        let found = out(&known);
        assert_eq!(
            found,
            [
                "tls:198.51.100.2:5061 sip.carrier.example",
                "udp:198.51.100.1:5080 -",
                "udp:198.51.100.3:5060 carrier.example"
            ]
        );
    }

    #[test]
    fn domains_of_egress_get_their_places() {
        let checked = checked(&[("example.net", &["udp:192.0.2.5:5060 1 0", "ws:192.0.2.5:80 2 0"])]);
        let farm = checked.settings.farms.first().expect("one farm is written");
        let egress = &farm.services.first().expect("one service is written").egress;
        let domains: Vec<(&str, Vec<String>)> = egress
            .iter()
            .filter_map(|egress| match egress {
                Egress::Domain { host, places } => Some((host.as_str(), shown(places))),
                _ => None,
            })
            .collect();
        let place = vec!["udp:192.0.2.5:5060 example.net".to_owned()];
        assert_eq!(domains, [("example.net", place), ("192.0.2.9", Vec::new()), ("[2001:db8::9]", Vec::new())]);
    }

    #[test]
    fn a_way_out_needs_its_listener_outside() {
        let udp = "\"udp:127.0.0.1:5060\"";
        assert!(told(udp, "out = [\"198.51.100.1\", \"carrier.example\", \"carrier.example:5070\"]").is_empty());
        let hint = "add \"tls:127.0.0.1:5061\" to `listen`".to_owned();
        assert_eq!(told(udp, "out = [\"tls:198.51.100.1\"]"), [(Severity::Error, 9, hint.clone())]);
        assert_eq!(told(udp, "out = [\"tls:carrier.example\"]"), [(Severity::Error, 9, hint)]);
        // IPv6 is spoken inside alone.
        let hint = "add \"udp:[::2]:5060\" to `listen`".to_owned();
        assert_eq!(told(udp, "out = [\"[2001:db8::1]:5060\"]"), [(Severity::Error, 9, hint)]);
        let tls = "\"tls:127.0.0.1:5061\"";
        assert!(told(tls, "out = [\"carrier.example\", \"tls:198.51.100.1\"]").is_empty());
        let hint = "add \"udp:127.0.0.1:5060\" to `listen`".to_owned();
        assert_eq!(told(tls, "out = [\"carrier.example:5060\"]"), [(Severity::Error, 9, hint)]);
    }

    #[test]
    fn only_certificates_of_trunks_are_verified() {
        let listen = "\"udp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\"";
        let levels = |trunk: &str| -> Vec<(Severity, usize)> {
            told(listen, trunk).into_iter().map(|(severity, line, _)| (severity, line)).collect()
        };
        assert!(levels("verify = \"system\"").is_empty());
        assert_eq!(levels("verify = \"ca.pem\""), [(Severity::Error, 9)]);
        assert_eq!(levels("out = [\"198.51.100.1\"]\nverify = \"ca.pem\""), [(Severity::Error, 10)]);
        assert!(levels("out = [\"tls:198.51.100.1\"]\nverify = \"ca.pem\"").is_empty());
        // Where the DNS says how, it may say tls.
        assert!(levels("out = [\"carrier.example\"]\nverify = \"ca.pem\"").is_empty());
        assert_eq!(levels("out = [\"tls:198.51.100.1\"]\nverify = \"off\""), [(Severity::Warning, 10)]);
    }

    #[test]
    fn a_written_transport_is_the_trunks() {
        let written = text("\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\"", "out = [\"tcp:198.51.100.1\"]");
        let checked = crate::load("f", &written).expect("the file is right");
        let trunk = checked.settings.farms.first().and_then(|farm| farm.trunks.first()).expect("a trunk is written");
        assert_eq!(trunk.out.first().map(|place| place.transport), Some(Transport::Tcp));
    }
}
