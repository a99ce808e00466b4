//! What must be one of its kind: names, the ids made of them, and addresses.

use super::farm::Draft;
use crate::report::{Report, Span};
use crate::section::Section;
use engine::Backend;
use std::collections::HashMap;
use std::hash::Hash;

/// Names of trunks or services within a farm.
pub(super) fn unique_names(kind: &str, sections: &[Section], report: &mut Report<'_>) {
    let names =
        sections.iter().filter_map(|section| section.optional_text("name").map(|name| (name, section.span_of("name"))));
    unique(names, |name| format!("two {kind}s are called \"{name}\""), report);
}

/// Names of farms, and their ids.
pub(super) fn farms(drafts: &[Draft], report: &mut Report<'_>) {
    let named = || drafts.iter().filter(|draft| !draft.farm.name.is_empty());
    unique(
        named().map(|draft| (draft.farm.name.as_str(), &draft.header)),
        |name| format!("two farms are called \"{name}\""),
        report,
    );
    let ids = named().map(|draft| (draft.farm.id.0, draft.farm.name.clone(), &draft.header));
    collisions("farm", ids, report);
}

/// Names and addresses of backends within each farm, and their ids in all of them.
pub(super) fn backends(drafts: &[Draft], report: &mut Report<'_>) {
    for draft in drafts {
        let placed = || draft.farm.backends.iter().zip(&draft.backends);
        unique(
            placed().map(|(backend, span)| (backend.name.as_str(), span)),
            |name| format!("two backends are called \"{name}\""),
            report,
        );
        // Who sent a request is known by its address. Same address and same name is one slip, reported once.
        let mut by_address: HashMap<std::net::SocketAddr, (&Backend, &Span)> = HashMap::new();
        for (backend, span) in placed() {
            let Some((other, first)) = by_address.get(&backend.address) else {
                by_address.insert(backend.address, (backend, span));
                continue;
            };
            if other.name != backend.name {
                let hint =
                    format!("it is that of line {}; one backend may be in several services", report.line_of(first));
                report.error_with_hint(span, format!("two backends have the address {}", backend.address), Some(hint));
            }
        }
        own_listener(draft, report);
    }
    let ids = drafts.iter().flat_map(|draft| {
        let farm = &draft.farm;
        let placed = farm.backends.iter().zip(&draft.backends);
        placed.map(move |(backend, span)| (backend.id.0, format!("{} of farm {}", backend.name, farm.name), span))
    });
    collisions("backend", ids, report);
}

/// Listeners of all farms: each belongs to one farm and one side.
pub(super) fn listeners(drafts: &[Draft], report: &mut Report<'_>) {
    let placed = || drafts.iter().flat_map(|draft| draft.farm.listeners.iter().zip(&draft.listeners));
    let written: Vec<(String, &Span)> =
        placed().map(|(listener, span)| (format!("{}:{}", listener.transport.name(), listener.bind), span)).collect();
    unique(
        written.iter().map(|(text, span)| (text.as_str(), *span)),
        |text| format!("the listener {text} is used twice"),
        report,
    );
    let ids = placed().map(|(listener, span)| (listener.id.0, listener.bind.to_string(), span));
    collisions("listener", ids, report);
}

/// A farm that is its own backend would turn every request in a circle.
fn own_listener(draft: &Draft, report: &mut Report<'_>) {
    for (backend, span) in draft.farm.backends.iter().zip(&draft.backends) {
        if draft.farm.listeners.iter().any(|listener| listener.bind == backend.address) {
            report.error(span, format!("{} is a listener of this farm itself", backend.address));
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

    #[test]
    fn every_repetition_is_reported() {
        let places = [0..1, 1..2, 2..3];
        let mut report = Report::new("f", "aaa");
        unique(places.iter().map(|span| ("a", span)), |name| format!("again {name}"), &mut report);
        let (errors, _) = report.finish();
        assert_eq!(errors.iter().map(|error| error.column).collect::<Vec<_>>(), [2, 3]);
    }
}
