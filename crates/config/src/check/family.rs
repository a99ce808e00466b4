//! IPv4 and IPv6: a farm reaches only peers of a family that it has a listener for.

use super::farm::Draft;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::{Farm, Transport};
use std::net::SocketAddr;

/// Backends and the `out` addresses of trunks need a listener of their family. That it stands on their side and speaks their
/// transport is asked where there is one. What is named is not known well enough.
pub(super) fn check(draft: &Draft<'_>, section: &Section, report: &mut Report<'_>) {
    // Without any listener there is something else to mend first.
    if draft.farm.listeners.is_empty() {
        return;
    }
    for entry in draft.entries.iter().filter(|entry| entry.target.is_none()) {
        let transport = entry.template.transport.unwrap_or(Transport::Udp);
        reach(&draft.farm, transport, entry.template.address, entry.section.span(), report);
    }
    for (way, span) in section.sections("trunk").iter().flat_map(|trunk| trunk.ways("out")) {
        if let Some((transport, address)) = way.place() {
            reach(&draft.farm, transport, address, span, report);
        }
    }
}

/// The family of an address, as messages name it.
pub(super) fn name(address: SocketAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn reach(farm: &Farm, transport: Transport, address: SocketAddr, span: &Span, report: &mut Report<'_>) {
    let reachable = farm.listeners.iter().any(|listener| listener.bind.is_ipv4() == address.is_ipv4());
    if !reachable {
        let family = name(address);
        let any = if address.is_ipv4() { "*" } else { "[::]" };
        let (spoken, port) = (transport.name(), transport.default_port());
        let hint = format!("add one to `inside` or `listen`, such as \"{spoken}:{any}:{port}\"");
        report.error_with_hint(
            span,
            format!("{address} cannot be reached: this farm has no {family} listener"),
            Some(hint),
        );
    }
}

#[cfg(test)]
mod tests {
    fn lines(listen: &str) -> Vec<usize> {
        let text = format!(
            "[[farm]]\nname = \"a\"\n{listen}\n[[farm.trunk]]\nname = \"t\"\naddresses = [\"::1\"]\nout = [\"[::9]:5060\"]\n\
             [[farm.backend]]\naddress = \"127.0.0.11\"\n[[farm.backend]]\naddress = \"[::11]:5060\"\n"
        );
        match crate::load("f", &text) {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(|error| error.line).collect(),
        }
    }

    #[test]
    fn each_family_needs_a_listener() {
        assert_eq!(lines("listen = [\"udp:127.0.0.1:5060\"]"), [7, 10]);
        assert_eq!(lines("listen = [\"udp:[::1]:5060\"]"), [8]);
        assert!(lines("listen = [\"udp:[::1]:5060\", \"udp:127.0.0.1:5060\"]").is_empty());
    }

    #[test]
    fn a_listener_towards_clients_reaches_no_backend() {
        assert_eq!(lines("listen = [\"udp:[::1]:5060\"]\ninside = [\"udp:127.0.0.1:5060\"]"), [11]);
        assert!(
            lines("listen = [\"udp:[::1]:5060\"]\ninside = [\"udp:127.0.0.1:5060\", \"udp:[::1]:5070\"]").is_empty()
        );
    }
}
