//! What must be one of its kind: names, the ids made of them, and addresses.

use super::backend::{self, Entry};
use super::farm::Draft;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::Listener;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::SocketAddr;

/// Names of trunks or services within a farm.
pub(super) fn unique_names(kind: &str, sections: &[Section], report: &mut Report<'_>) {
    let names =
        sections.iter().filter_map(|section| section.optional_text("name").map(|name| (name, section.span_of("name"))));
    unique(names, |name| format!("two {kind}s are called \"{name}\""), report);
}

/// Names of farms, and their ids.
pub(super) fn farms(drafts: &[Draft<'_>], report: &mut Report<'_>) {
    let named = || drafts.iter().filter(|draft| !draft.farm.name.is_empty());
    unique(
        named().map(|draft| (draft.farm.name.as_str(), &draft.header)),
        |name| format!("two farms are called \"{name}\""),
        report,
    );
    let ids = named().map(|draft| (draft.farm.id.0, draft.farm.name.clone(), &draft.header));
    collisions("farm", ids, report);
}

/// Names and addresses of backends within each farm, and their ids in all of them. What a name leads to is chosen so that it is
/// right.
pub(super) fn backends(drafts: &[Draft<'_>], report: &mut Report<'_>) {
    for draft in drafts {
        unique(
            draft.entries.iter().map(|entry| (entry.template.name.as_str(), entry.section.span())),
            |name| format!("two backends are called \"{name}\""),
            report,
        );
        addresses(draft, report);
        own_listener(draft, report);
    }
    let ids = drafts.iter().flat_map(|draft| {
        let farm = &draft.farm;
        let placed = farm.backends.iter().zip(&draft.backends);
        placed.map(move |(backend, span)| (backend.id.0, format!("{} of farm {}", backend.name, farm.name), span))
    });
    collisions("backend", ids, report);
}

/// Who sent a request is known by its address: every address of a backend is its own.
fn addresses(draft: &Draft<'_>, report: &mut Report<'_>) {
    let mut by_address: HashMap<SocketAddr, &Entry<'_>> = HashMap::new();
    for entry in with_address(draft) {
        let (backend, span) = (&entry.template, entry.section.span());
        for address in backend::addresses(&draft.farm.listeners, backend) {
            let other = *by_address.entry(address).or_insert(entry);
            // Its own address over another transport; or same address and same name, which is one slip, reported once.
            if other.template.name == backend.name {
                continue;
            }
            let line = report.line_of(other.section.span());
            let hint = if address == backend.address && address == other.template.address {
                format!("it is that of line {line}; one backend may be in several services")
            } else {
                format!("it is one of line {line}; give each backend `ports` of its own")
            };
            report.error_with_hint(span, format!("two backends have the address {address}"), Some(hint));
            break;
        }
    }
}

fn with_address<'d, 's>(draft: &'d Draft<'s>) -> impl Iterator<Item = &'d Entry<'s>> {
    draft.entries.iter().filter(|entry| entry.target.is_none())
}

/// Listeners of all farms: each belongs to one farm and one side, and what is connected to speaks one transport.
pub(super) fn listeners(drafts: &[Draft<'_>], report: &mut Report<'_>) {
    let placed = || drafts.iter().flat_map(|draft| draft.farm.listeners.iter().zip(&draft.listeners));
    let texts: Vec<(String, &Span)> = placed().map(|(listener, span)| (written(listener), span)).collect();
    unique(
        texts.iter().map(|(text, span)| (text.as_str(), *span)),
        |text| format!("the listener {text} is used twice"),
        report,
    );
    let mut streams: HashMap<SocketAddr, (&Listener, &Span)> = HashMap::new();
    for (listener, span) in placed().filter(|(listener, _)| listener.transport.is_stream()) {
        let (other, first) = *streams.entry(listener.bind).or_insert((listener, span));
        if other.transport != listener.transport {
            let message = format!(
                "{} (line {}) and {} (line {}) cannot both be listened at",
                written(other),
                report.line_of(first),
                written(listener),
                report.line_of(span)
            );
            let hint = "udp may share an address and port with one of the others: give this one a port of its own";
            report.error_with_hint(span, message, Some(hint.to_owned()));
        }
    }
    let ids = placed().map(|(listener, span)| (listener.id.0, written(listener), span));
    collisions("listener", ids, report);
}

/// As it stands in the file, but for wildcards.
fn written(listener: &Listener) -> String {
    format!("{}:{}", listener.transport.name(), listener.bind)
}

/// A farm that is its own backend would turn every request in a circle.
fn own_listener(draft: &Draft<'_>, report: &mut Report<'_>) {
    for entry in with_address(draft) {
        if let Some(address) = backend::own_address(&draft.farm.listeners, &entry.template) {
            report.error(entry.section.span(), format!("{address} is a listener of this farm itself"));
        }
    }
}

/// Reports every key after its first use.
fn unique<'k, K: Hash + Eq + Copy>(
    keys: impl Iterator<Item = (K, &'k Span)>,
    message: impl Fn(K) -> String,
    report: &mut Report<'_>,
) {
    let mut first: HashMap<K, &Span> = HashMap::new();
    for (key, span) in keys {
        match first.get(&key) {
            Some(other) => {
                let hint = format!("the first one is on line {}", report.line_of(other));
                report.error_with_hint(span, message(key), Some(hint));
            }
            None => {
                first.insert(key, span);
            }
        }
    }
}

/// Ids are 32-bit hashes of names: with a few names a collision is next to impossible, and yet it would send calls astray.
fn collisions<'k>(kind: &str, ids: impl Iterator<Item = (u32, String, &'k Span)>, report: &mut Report<'_>) {
    let mut first: HashMap<u32, String> = HashMap::new();
    for (id, name, span) in ids {
        match first.get(&id) {
            Some(other) if *other != name => {
                let message = format!("the {kind}s {other} and {name} would have the same id: rename one of them");
                report.error(span, message);
            }
            Some(_) => {}
            None => {
                first.insert(id, name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_ids_of_different_names_are_reported() {
        let places = [0..1, 1..2, 2..3];
        let ids = [(7, "a"), (7, "a"), (7, "b")];
        let mut report = Report::new("f", "abc");
        let listed = ids.iter().zip(&places).map(|((id, name), span)| (*id, (*name).to_owned(), span));
        collisions("farm", listed, &mut report);
        let (errors, _) = report.finish();
        assert_eq!(errors.len(), 1);
        assert_eq!(
            errors.first().map(|error| error.message.as_str()),
            Some("the farms a and b would have the same id: rename one of them")
        );
    }

    fn errors(text: &str) -> Vec<(usize, String)> {
        match crate::load("f", text) {
            Ok(_) => Vec::new(),
            Err(found) => found.into_iter().map(|error| (error.line, error.message)).collect(),
        }
    }

    #[test]
    fn a_stream_shares_its_port_with_udp_alone() {
        let farm = |one: &str, other: &str| {
            format!(
                "[[farm]]\nname = \"a\"\ncertificates = [\"a.pem\"]\nlisten = [\"udp:127.0.0.1:5060\", \"{one}\",\n\"{other}\"]\n\
                 [[farm.backend]]\naddress = \"127.0.0.11\"\n"
            )
        };
        assert!(errors(&farm("tcp:127.0.0.1:5060", "tls:127.0.0.1:5061")).is_empty());
        assert!(errors(&farm("tcp:127.0.0.1:5070", "tls:[::1]:5070")).is_empty());
        let clash = "tcp:127.0.0.1:5060 (line 4) and tls:127.0.0.1:5060 (line 5) cannot both be listened at";
        assert_eq!(errors(&farm("tcp:127.0.0.1:5060", "tls:127.0.0.1:5060")), [(5, clash.to_owned())]);
        let twice = "the listener tcp:127.0.0.1:5070 is used twice";
        let found = errors(&farm("tcp:127.0.0.1:5070", "tcp:127.0.0.1:5070"));
        assert_eq!(found.first(), Some(&(5, twice.to_owned())));
        assert!(found.iter().all(|(_, message)| !message.contains("cannot both")), "{found:?}");
    }

    #[test]
    fn a_backend_is_no_listener_of_its_own_farm_over_its_own_transport() {
        let farm = |transport: &str| {
            format!(
                "[[farm]]\nname = \"a\"\nlisten = [\"tcp:127.0.0.1:5060\", \"udp:127.0.0.1:5070\"]\n[[farm.backend]]\n\
                 address = \"127.0.0.1:5060\"\ntransport = \"{transport}\"\n"
            )
        };
        assert!(errors(&farm("udp")).is_empty());
        let own = "127.0.0.1:5060 is a listener of this farm itself";
        assert_eq!(errors(&farm("tcp")), [(4, own.to_owned())]);
        assert_eq!(errors(&farm("same")), [(4, own.to_owned())]);
    }

    #[test]
    fn backends_share_no_port_for_streams_either() {
        let farm = |ports: &str| {
            format!(
                "[[farm]]\nname = \"a\"\ncertificates = [\"a.pem\"]\nlisten = [\"udp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\"]\n\
                 [[farm.backend]]\naddress = \"127.0.0.11:5060\"\ntransport = \"same\"\n\
                 [[farm.backend]]\naddress = \"127.0.0.11:5070\"\ntransport = \"same\"\n{ports}\n"
            )
        };
        let shared = "two backends have the address 127.0.0.11:5061";
        assert_eq!(errors(&farm("")), [(8, shared.to_owned())]);
        assert!(errors(&farm("ports = { tls = 5071 }")).is_empty());
    }

    #[test]
    fn every_repetition_is_reported() {
        let places = [0..1, 1..2, 2..3];
        let mut report = Report::new("f", "aaa");
        unique(places.iter().map(|span| ("a", span)), |name| format!("again {name}"), &mut report);
        let (errors, _) = report.finish();
        assert_eq!(errors.iter().map(|error| error.column).collect::<Vec<_>>(), [2, 3]);
    }
}
