//! What listeners over TLS and WebSocket need of their farm, and what backends need of its listeners.

use super::backend::{self, Entry};
use super::family;
use super::farm::Draft;
use super::outside::written_host;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::{ClientCertificates, Listener, Ports, Transport, Verify};
use std::net::SocketAddr;

pub(super) fn check(draft: &Draft<'_>, section: &Section, report: &mut Report<'_>) {
    // Without any listener there is something else to mend first.
    if draft.farm.listeners.is_empty() {
        return;
    }
    certificates(draft, section, report);
    client_certificates(draft, section, report);
    origins(draft, section, report);
    let has_inside = !section.list("inside").is_empty();
    for entry in &draft.entries {
        spoken(&draft.farm.listeners, has_inside, entry, report);
        ports(entry, report);
        verify(&draft.farm.listeners, entry, report);
    }
}

fn certificates(draft: &Draft<'_>, section: &Section, report: &mut Report<'_>) {
    let add = "add one such as \"tls:*:5061\" to `listen`";
    let has_some = !draft.farm.certificates.is_empty();
    match first(draft, Transport::is_secure) {
        Some((listener, span)) if !has_some => {
            let message =
                format!("a {} listener needs a certificate: the farm has no `certificates`", listener.transport.name());
            let hint = "add certificates = [\"/etc/tandem/sip.example.com.pem\"], a file with the chain and the key";
            report.error_with_hint(span, message, Some(hint.to_owned()));
        }
        Some(_) => {}
        None => {
            if has_some {
                let message = "nothing uses `certificates`: no listener of this farm is tls or wss";
                report.warning(section.span_of("certificates"), message, add);
            }
            if draft.farm.client_ca.is_some() {
                let message = "`client_ca` asks clients for certificates, and no listener of this farm is tls or wss";
                report.error_with_hint(section.span_of("client_ca"), message, Some(add.to_owned()));
            }
        }
    }
}

/// Without an authority no certificate is a right one, so that nobody would be let in.
fn client_certificates(draft: &Draft<'_>, section: &Section, report: &mut Report<'_>) {
    if draft.farm.client_certificates == ClientCertificates::Require && !section.is_written("client_ca") {
        let message = "`client_certificates = \"require\"` refuses everybody: the farm has no `client_ca`";
        let hint = "add client_ca = \"/etc/tandem/clients.pem\", a file with the authorities of the clients";
        report.error_with_hint(section.span_of("client_certificates"), message, Some(hint.to_owned()));
    }
}

/// A browser lets every page that it shows open a WebSocket, so it is for the farm to say which ones may.
fn origins(draft: &Draft<'_>, section: &Section, report: &mut Report<'_>) {
    let has_some = !draft.farm.origins.is_empty();
    match first(draft, Transport::is_web_socket) {
        Some((listener, span)) if !has_some => {
            let message =
                format!("any web page may open this {} listener: the farm has no `origins`", listener.transport.name());
            report.warning(span, message, "name the pages that may: origins = [\"https://phone.example.com\"]");
        }
        None if has_some => {
            let message = "nothing uses `origins`: no listener of this farm is ws or wss";
            report.warning(section.span_of("origins"), message, "add one such as \"wss:*:443\" to `listen`");
        }
        _ => {}
    }
}

/// The first listener of such a transport.
fn first<'d>(draft: &'d Draft<'_>, is_such: fn(Transport) -> bool) -> Option<(&'d Listener, &'d Span)> {
    draft.farm.listeners.iter().zip(&draft.listeners).find(|(listener, _)| is_such(listener.transport))
}

/// Requests leave to a backend by a listener on its side that speaks its transport, in its family if that is known.
fn spoken(listeners: &[Listener], has_inside: bool, entry: &Entry<'_>, report: &mut Report<'_>) {
    let (backend, written) = (&entry.template, entry.section);
    let is_named = entry.target.is_some();
    for (transport, address) in backend::reached(listeners, backend) {
        let of_family: Vec<&Listener> =
            listeners.iter().filter(|listener| is_named || listener.bind.is_ipv4() == address.is_ipv4()).collect();
        // That there is none of its family at all is reported as such.
        if of_family.is_empty() || of_family.iter().any(|one| one.inside && one.transport == transport) {
            continue;
        }
        let spoken = transport.name();
        let family = if is_named { String::new() } else { format!(" for {}", family::name(address)) };
        let same = if backend.transport.is_none() { " (transport = \"same\")" } else { "" };
        let message = format!(
            "backend \"{}\"{same} is reached over {spoken}, and the inside of this farm has no {spoken} listener{family}",
            backend.name
        );
        let mut hint = missing(transport, address, &of_family, has_inside);
        let instead =
            of_family.iter().find(|one| one.inside && matches!(one.transport, Transport::Tcp | Transport::Tls));
        if let Some(instead) = instead
            && !written.is_written("transport")
        {
            hint.push_str(&format!("; or reach it otherwise: transport = \"{}\"", instead.transport.name()));
        }
        report.error_with_hint(written.span_of("transport"), message, Some(hint));
    }
}

/// What to write, at an address that the farm has already.
fn missing(transport: Transport, address: SocketAddr, of_family: &[&Listener], has_inside: bool) -> String {
    let near = of_family.iter().find(|listener| listener.inside).or(of_family.first());
    let host = written_host(near.map_or(address.ip(), |listener| listener.bind.ip()));
    let listener = format!("\"{}:{host}:{}\"", transport.name(), transport.default_port());
    if has_inside {
        format!("add {listener} to `inside`")
    } else {
        format!("write an `inside` that has {listener}, or add it to `listen`")
    }
}

/// What is written as it would be anyhow does no harm.
fn ports(entry: &Entry<'_>, report: &mut Report<'_>) {
    let backend = &entry.template;
    let Some(transport) = backend.transport else {
        return;
    };
    let usual = Ports { tcp: backend.address.port(), tls: Transport::Tls.default_port() };
    if backend.ports != usual {
        let message = format!(
            "`ports` is for transport = \"same\": this backend is reached over {} at {}",
            transport.name(),
            entry.written()
        );
        let hint = "write the port into `address`, or set transport = \"same\"";
        report.error_with_hint(entry.section.span_of("ports"), message, Some(hint.to_owned()));
    }
}

fn verify(listeners: &[Listener], entry: &Entry<'_>, report: &mut Report<'_>) {
    let backend = &entry.template;
    let span = entry.section.span_of("verify");
    let plain = backend.transport.filter(|transport| !transport.is_secure());
    // What holds by default may be written everywhere.
    if let Some(transport) = plain
        && backend.verify != Verify::System
    {
        let message = format!("this backend is reached over {} and shows no certificate to verify", transport.name());
        let hint = "set transport = \"tls\" or \"same\", or leave `verify` out";
        report.error_with_hint(span, message, Some(hint.to_owned()));
    }
    let over_tls = backend::reached(listeners, backend).iter().any(|(transport, _)| transport.is_secure());
    if over_tls && backend.verify == Verify::Off {
        let message =
            format!("the certificate of backend \"{}\" is not checked: anybody in between can listen", backend.name);
        let hint = "name a file with its authority, or its fingerprint: verify = \"sha256:…\"";
        report.warning(span, message, hint);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Diagnostic, Severity};

    const PLAIN: &str = "[[farm.backend]]\naddress = \"127.0.0.11\"\n";

    /// What is found in a farm of these lines and a backend, which is on UDP unless it says otherwise.
    fn found(lines: &str, backend: &str) -> Vec<Diagnostic> {
        let text = format!("[[farm]]\nname = \"a\"\n{lines}\n{backend}");
        match crate::load("f", &text) {
            Ok(checked) => checked.warnings,
            Err(diagnostics) => diagnostics,
        }
    }

    fn told(found: &[Diagnostic]) -> Vec<(Severity, usize)> {
        found.iter().map(|diagnostic| (diagnostic.severity, diagnostic.line)).collect()
    }

    fn hints(found: &[Diagnostic]) -> Vec<&str> {
        found.iter().filter_map(|diagnostic| diagnostic.hint.as_deref()).collect()
    }

    #[test]
    fn certificates_and_secure_listeners_belong_together() {
        let inside = "inside = [\"udp:127.0.0.2:5060\"]";
        for secure in ["tls:127.0.0.1:5061", "wss:127.0.0.1:443"] {
            let listen = format!("listen = [\"{secure}\"]\norigins = [\"https://a.org\"]\n{inside}");
            let without = found(&listen, PLAIN);
            let errors: Vec<_> = without.iter().filter(|one| one.severity == Severity::Error).collect();
            assert_eq!(errors.len(), 1, "{without:?}");
            assert!(errors.iter().all(|error| error.line == 3 && error.message.contains("needs a certificate")));
            let with = found(&format!("{listen}\ncertificates = [\"a.pem\"]\nclient_ca = \"ca.pem\""), PLAIN);
            assert!(with.iter().all(|one| one.message.contains("`origins`")), "{with:?}");
        }
        let unused = found("listen = [\"udp:127.0.0.1:5060\"]\ncertificates = [\"a.pem\"]", PLAIN);
        assert_eq!(told(&unused), [(Severity::Warning, 4)]);
        let unasked = found("listen = [\"tcp:127.0.0.1:5060\", \"udp:127.0.0.1:5060\"]\nclient_ca = \"ca.pem\"", PLAIN);
        assert_eq!(told(&unasked), [(Severity::Error, 4)]);
    }

    #[test]
    fn a_listener_on_the_inside_needs_a_certificate_too() {
        let listen = "listen = [\"udp:127.0.0.1:5060\"]\ninside = [\"udp:127.0.0.2:5060\", \"tls:127.0.0.2:5061\"]";
        assert_eq!(told(&found(listen, PLAIN)), [(Severity::Error, 4)]);
        assert!(found(&format!("{listen}\ncertificates = [\"a.pem\"]"), PLAIN).is_empty());
    }

    #[test]
    fn nobody_is_refused_for_want_of_an_authority() {
        let listen = "listen = [\"udp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\"]\ncertificates = [\"a.pem\"]";
        let with = |lines: &str| told(&found(&format!("{listen}\n{lines}"), PLAIN));
        assert_eq!(with("client_certificates = \"require\""), [(Severity::Error, 5)]);
        assert!(with("client_certificates = \"require\"\nclient_ca = \"ca.pem\"").is_empty());
        assert!(with("client_certificates = \"verify\"").is_empty());
    }

    #[test]
    fn a_backend_by_name_needs_its_listener_too() {
        let by_name = |lines: &str| format!("[[farm.backend]]\naddress = \"pbx.example.com\"\n{lines}\n");
        let udp = "listen = [\"udp:127.0.0.1:5060\"]";
        assert!(found(udp, &by_name("")).is_empty());
        let over_tls = found(udp, &by_name("transport = \"tls\""));
        assert_eq!(told(&over_tls), [(Severity::Error, 6)]);
        let message =
            "backend \"pbx.example.com\" is reached over tls, and the inside of this farm has no tls listener";
        assert!(over_tls.iter().all(|one| one.message == message), "{over_tls:?}");
        assert_eq!(hints(&over_tls), ["write an `inside` that has \"tls:127.0.0.1:5061\", or add it to `listen`"]);
        assert_eq!(told(&found(udp, &by_name("ports = { tcp = 5070 }"))), [(Severity::Error, 6)]);
        assert_eq!(told(&found(udp, &by_name("verify = \"ca.pem\""))), [(Severity::Error, 6)]);
        // Of either family: nobody knows yet which it is.
        assert!(found("listen = [\"udp:[::1]:5060\"]", &by_name("")).is_empty());
    }

    #[test]
    fn every_web_page_is_warned_of() {
        let ws = "listen = [\"udp:127.0.0.1:5060\", \"ws:127.0.0.1:80\"]";
        assert_eq!(told(&found(ws, PLAIN)), [(Severity::Warning, 3)]);
        assert_eq!(told(&found(&format!("{ws}\norigins = []"), PLAIN)), [(Severity::Warning, 3)]);
        let named = "origins = [\"https://a.org\"]";
        assert!(found(&format!("{ws}\n{named}"), PLAIN).is_empty());
        let unused = found(&format!("listen = [\"udp:127.0.0.1:5060\"]\n{named}"), PLAIN);
        assert_eq!(told(&unused), [(Severity::Warning, 4)]);
    }

    #[test]
    fn a_farm_of_streams_alone_runs() {
        let over_tcp = format!("{PLAIN}transport = \"tcp\"\n");
        assert!(found("listen = [\"tcp:127.0.0.1:5060\"]", &over_tcp).is_empty());
        let stateless = "listen = [\"tcp:127.0.0.1:5060\"]\ntransactions = \"stateless\"\n[[farm.service]]\nname = \"default\"\n\
            algorithm = \"hash-user\"";
        assert!(found(stateless, &over_tcp).is_empty());
    }

    #[test]
    fn a_transport_needs_its_listener_on_the_inside() {
        let backend = |transport: &str| format!("{PLAIN}transport = \"{transport}\"\n");
        let udp = "listen = [\"udp:127.0.0.1:5060\"]";
        let tcp = found(udp, &backend("tcp"));
        assert_eq!(told(&tcp), [(Severity::Error, 6)]);
        assert_eq!(hints(&tcp), ["write an `inside` that has \"tcp:127.0.0.1:5060\", or add it to `listen`"]);
        let both = "listen = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\"]\ninside = [\"udp:*:5070\"]";
        let outside = found(both, &backend("tcp"));
        assert_eq!(hints(&outside), ["add \"tcp:*:5060\" to `inside`"]);
        assert_eq!(hints(&found(both, &backend("tls"))), ["add \"tls:*:5061\" to `inside`"]);
        let by_default = found("listen = [\"tcp:127.0.0.1:5060\"]", PLAIN);
        assert_eq!(told(&by_default), [(Severity::Error, 4)]);
        let hint = "write an `inside` that has \"udp:127.0.0.1:5060\", or add it to `listen`; or reach it otherwise: transport = \"tcp\"";
        assert_eq!(hints(&by_default), [hint]);
    }

    #[test]
    fn same_needs_a_counterpart_of_each_transport_of_clients() {
        let same = format!("{PLAIN}transport = \"same\"\n");
        let farm = |inside: &str| {
            format!(
                "listen = [\"udp:127.0.0.1:5060\", \"ws:127.0.0.1:80\", \"wss:127.0.0.1:443\"]\norigins = [\"https://a.org\"]\n\
                 certificates = [\"a.pem\"]\ninside = [{inside}]"
            )
        };
        let (udp, tcp, tls) = ("\"udp:127.0.0.2:5060\"", "\"tcp:127.0.0.2:5060\"", "\"tls:127.0.0.2:5061\"");
        assert!(found(&farm(&format!("{udp}, {tcp}, {tls}")), &same).is_empty());
        let missing = |inside: &str, hint: &str| {
            let found = found(&farm(inside), &same);
            assert_eq!(hints(&found), [format!("add {hint} to `inside`")], "{found:?}");
            assert!(
                found.iter().all(|one| one.message.starts_with("backend \"127.0.0.11:5060\" (transport = \"same\")"))
            );
        };
        missing(&format!("{udp}, {tls}"), tcp);
        missing(&format!("{udp}, {tcp}"), tls);
        missing(&format!("{tcp}, {tls}"), udp);
    }

    #[test]
    fn ports_are_for_backends_that_take_any_transport() {
        let listen = "listen = [\"udp:127.0.0.1:5060\"]";
        let with = |ports: &str| found(listen, &format!("{PLAIN}ports = {{ {ports} }}\n"));
        assert_eq!(told(&with("tcp = 5070")), [(Severity::Error, 6)]);
        assert_eq!(told(&with("tls = 5071")), [(Severity::Error, 6)]);
        assert!(with("tcp = 5060, tls = 5061").is_empty());
        assert!(
            found(listen, &format!("{PLAIN}transport = \"same\"\nports = {{ tcp = 5070, tls = 5071 }}\n")).is_empty()
        );
    }

    #[test]
    fn only_certificates_are_verified() {
        let listen = "certificates = [\"a.pem\"]\nlisten = [\"udp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\"]";
        let with = |lines: &str| found(listen, &format!("{PLAIN}{lines}\n"));
        assert_eq!(told(&with("verify = \"off\"")), [(Severity::Error, 7)]);
        assert_eq!(told(&with("verify = \"/etc/ca.pem\"")), [(Severity::Error, 7)]);
        assert!(with("verify = \"system\"").is_empty());
        assert!(with("transport = \"tls\"\nverify = \"/etc/ca.pem\"").is_empty());
        let unchecked = with("transport = \"tls\"\nverify = \"off\"");
        assert_eq!(told(&unchecked), [(Severity::Warning, 8)]);
        assert!(unchecked.iter().all(|one| one.message.contains("anybody in between can listen")));
        assert_eq!(told(&with("transport = \"same\"\nverify = \"off\"")), [(Severity::Warning, 8)]);
        let without_tls = format!("{PLAIN}transport = \"same\"\nverify = \"off\"\n");
        assert!(found("listen = [\"udp:127.0.0.1:5060\"]", &without_tls).is_empty());
    }
}
