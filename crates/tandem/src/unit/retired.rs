//! Where backends stood that a reload removed, so that `status` can show those that still have calls.

use engine::{BackendId, Settings};
use std::collections::BTreeMap;

/// By id, so that a backend that got a new address is both: one that is configured, and one that was.
#[derive(Default)]
pub(crate) struct Retired(BTreeMap<BackendId, Place>);

/// A farm, and the services in it with their algorithms, by name: they may be gone as well.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) farm: String,
    pub(crate) services: Vec<(String, &'static str)>,
}

impl Retired {
    /// Takes in a reload. Of those removed before only the ones `with_calls` are remembered: a backend that is gone gets no new ones.
    pub(crate) fn follow(&mut self, before: &Settings, after: &Settings, with_calls: &[BackendId]) {
        self.0.retain(|id, _| with_calls.contains(id));
        self.0.extend(places(before));
        self.0.retain(|id, _| !after.farms.iter().flat_map(|farm| &farm.backends).any(|backend| backend.id == *id));
    }

    /// Where a backend stood before it was removed.
    pub(crate) fn place(&self, id: BackendId) -> Option<&Place> {
        self.0.get(&id)
    }
}

fn places(settings: &Settings) -> Vec<(BackendId, Place)> {
    let mut places = Vec::new();
    for farm in &settings.farms {
        for (index, backend) in farm.backends.iter().enumerate() {
            let services = farm.services.iter().filter(|service| service.backends.contains(&index));
            let services = services.map(|service| (service.name.clone(), service.algorithm.name())).collect();
            places.push((backend.id, Place { farm: farm.name.clone(), services }));
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn settings(backends: &[(&str, u8)]) -> Settings {
        let mut text = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\n".to_owned();
        for (name, host) in backends {
            text.push_str(&format!("[[farm.backend]]\nname = \"{name}\"\naddress = \"127.0.0.{host}:5060\"\n"));
        }
        match config::load("a.toml", &text) {
            Ok(checked) => checked.settings,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    fn id(name: &str, host: u8) -> BackendId {
        BackendId::of("pbx", name, SocketAddr::from(([127, 0, 0, host], 5060)))
    }

    #[test]
    fn places_of_removed_backends_are_known_until_they_come_back() {
        let (both, one) = (settings(&[("a", 11), ("b", 12)]), settings(&[("a", 11)]));
        let mut retired = Retired::default();
        retired.follow(&both, &one, &[]);
        let place = Place { farm: "pbx".to_owned(), services: vec![("default".to_owned(), "weight")] };
        assert_eq!(retired.place(id("b", 12)), Some(&place));
        assert_eq!(retired.place(id("a", 11)), None);
        retired.follow(&one, &both, &[id("b", 12)]);
        assert_eq!(retired.place(id("b", 12)), None);
    }

    #[test]
    fn a_new_address_is_another_backend() {
        let mut retired = Retired::default();
        retired.follow(&settings(&[("a", 11)]), &settings(&[("a", 13)]), &[]);
        assert!(retired.place(id("a", 11)).is_some());
        assert!(retired.place(id("a", 13)).is_none());
    }

    #[test]
    fn those_without_calls_are_forgotten_at_the_next_reload() {
        let mut retired = Retired::default();
        let (all, one) = (settings(&[("a", 11), ("b", 12), ("c", 13)]), settings(&[("a", 11)]));
        retired.follow(&all, &one, &[]);
        retired.follow(&one, &one, &[id("c", 13)]);
        assert_eq!(retired.place(id("b", 12)), None);
        assert!(retired.place(id("c", 13)).is_some());
    }
}
