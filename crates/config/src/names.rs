//! What an answer of the DNS changes in what runs.

use engine::{Answers, Backend, Farm, Found, Settings, Target};

/// Whether the names of a file lead to the same places in both. Everything else is taken to be equal: both are of the same text.
pub fn leads_alike(one: &Settings, other: &Settings) -> bool {
    one.farms.len() == other.farms.len()
        && one.farms.iter().zip(&other.farms).all(|(one, other)| farms_alike(one, other))
}

/// A line for each name that leads elsewhere now: where to, and where it led before.
pub fn moves(names: &[Target], before: &Answers, after: &Answers) -> Vec<String> {
    let mut lines = Vec::new();
    for target in names {
        let (was, is) = (shown(before, target), shown(after, target));
        if was != is {
            lines.push(format!("{target} is now {is} (was {was})"));
        }
    }
    lines
}

fn farms_alike(one: &Farm, other: &Farm) -> bool {
    let led = |backend: &Backend| (backend.id, backend.address, backend.weight, backend.priority);
    one.backends.iter().map(led).eq(other.backends.iter().map(led))
        && one.trunks.iter().map(|trunk| &trunk.out).eq(other.trunks.iter().map(|trunk| &trunk.out))
        && one
            .services
            .iter()
            .map(|service| (&service.egress, &service.backends))
            .eq(other.services.iter().map(|service| (&service.egress, &service.backends)))
}

/// The places of a name, best first; the transport is not said where the name says it itself.
fn shown(answers: &Answers, target: &Target) -> String {
    let Some(found) = answers.0.get(target) else {
        return "unknown".to_owned();
    };
    let one = |found: &Found| match target.transport {
        Some(_) => found.place.address.to_string(),
        None => format!("{}:{}", found.place.transport.name(), found.place.address),
    };
    let places: Vec<String> = found.iter().map(one).collect();
    if places.is_empty() { "nowhere".to_owned() } else { places.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::known::world;
    use std::collections::BTreeSet;

    const TEXT: &str = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.trunk]]\nname = \"t\"\naddresses = [\"127.0.0.30\"]\n\
        out = [\"carrier.example\"]\n[[farm.service]]\nname = \"default\"\negress = [\"domain:example.net\"]\n\
        [[farm.backend]]\nname = \"p\"\naddress = \"pbx.example.com\"\n";
    const KNOWN: [(&str, &[&str]); 3] = [
        ("udp:pbx.example.com", &["udp:127.0.0.21:5060 0 0", "udp:127.0.0.22:5060 0 0"]),
        ("carrier.example", &["udp:127.0.0.31:5060 0 0"]),
        ("example.net", &["udp:127.0.0.41:5060 0 0"]),
    ];

    fn settings(answers: &Answers, down: &[&str]) -> Settings {
        let down: BTreeSet<_> = down.iter().map(|address| address.parse().expect("an address")).collect();
        crate::load_with("f", TEXT, answers, &down).expect("the file is right").settings
    }

    #[test]
    fn only_what_changes_the_way_counts() {
        let known = world::answers(&KNOWN);
        let running = settings(&known, &[]);
        assert!(leads_alike(&running, &settings(&known, &[])));
        assert!(!leads_alike(&running, &settings(&known, &["127.0.0.21:5060"])));
        for asked in ["udp:pbx.example.com", "carrier.example", "example.net"] {
            let mut fewer = known.clone();
            fewer.0.remove(&world::target(asked)).expect("it is known");
            assert!(!leads_alike(&running, &settings(&fewer, &[])), "{asked}");
        }
        // The second address of one backend is of no use yet, over tcp it would be of none at all.
        let mut other = known;
        let more = world::answers(&[("udp:pbx.example.com", &["udp:127.0.0.21:5060 0 0", "udp:127.0.0.29:5060 0 0"])]);
        other.0.extend(more.0);
        assert!(leads_alike(&running, &settings(&other, &[])));
        assert!(!leads_alike(&running, &Settings::default()));
    }

    #[test]
    fn a_name_that_moves_is_told_with_both_places() {
        let before = world::answers(&KNOWN);
        let after = world::answers(&[
            ("udp:pbx.example.com", &["udp:127.0.0.22:5060 0 0"]),
            ("carrier.example", &[]),
            ("example.net", &["udp:127.0.0.41:5060 0 0"]),
        ]);
        let names = ["carrier.example", "example.net", "udp:pbx.example.com"].map(world::target);
        assert_eq!(
            moves(&names, &before, &after),
            [
                "carrier.example is now nowhere (was udp:127.0.0.31:5060)",
                "udp:pbx.example.com is now 127.0.0.22:5060 (was 127.0.0.21:5060, 127.0.0.22:5060)",
            ]
        );
        let first = moves(&names, &Answers::default(), &after);
        assert_eq!(first.first().map(String::as_str), Some("carrier.example is now nowhere (was unknown)"));
        assert!(moves(&names, &after, &after).is_empty());
    }
}
