//! Which backends the written ones come to, with what is known of names.
//!
//! An answer of the DNS can make nothing wrong of a right file: an address that cannot be a backend of the farm is passed over.

use super::backend::{self, Entry};
use super::family;
use super::known::Known;
use crate::report::{Report, Span};
use engine::{Backend, Effect, Found, Listener, Service, Transport};
use std::collections::HashMap;
use std::net::SocketAddr;

/// What the backends of a farm stand on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground<'f> {
    pub(super) farm_name: &'f str,
    pub(super) listeners: &'f [Listener],
    pub(super) known: &'f Known<'f>,
}

/// The backends in file order, each entered into its services, and where they stand. After them, in no service, those that one
/// backend by name passes over while they are down: they are looked after, so that it is seen when they are back.
pub(super) fn backends(
    entries: &[Entry<'_>],
    ground: &Ground<'_>,
    services: &mut [Service],
    report: &mut Report<'_>,
) -> (Vec<Backend>, Vec<Span>) {
    let mut taken = Taken::by_address(entries, ground.listeners);
    let mut placed: Vec<(Backend, Span)> = Vec::with_capacity(entries.len());
    let mut waiting: Vec<(Backend, Span)> = Vec::new();
    for entry in entries {
        let span = entry.section.span();
        let chosen = match &entry.target {
            None => vec![entry.template.clone()],
            Some(_) => {
                let mut usable = usable(entry, ground, &taken, report);
                if entry.expand {
                    expanded(entry, usable)
                } else {
                    let at = usable.iter().position(|(backend, _)| !ground.known.is_down(backend.address)).unwrap_or(0);
                    let best = if usable.is_empty() { None } else { Some(usable.swap_remove(at).0) };
                    if best.is_some() && is_checked(entry, services) {
                        let down = usable.into_iter().filter(|(backend, _)| ground.known.is_down(backend.address));
                        waiting.extend(down.map(|(backend, _)| (backend, span.clone())));
                    }
                    best.into_iter().collect()
                }
            }
        };
        for backend in chosen {
            taken.add(&backend, ground.listeners);
            for service in &entry.services {
                if let Some(service) = services.get_mut(*service) {
                    service.backends.push(placed.len());
                }
            }
            placed.push((backend, span.clone()));
        }
    }
    // What is in use by another is looked after there.
    for (backend, span) in waiting {
        if taken.owner_of(&backend, ground.listeners).is_none() {
            taken.add(&backend, ground.listeners);
            placed.push((backend, span));
        }
    }
    placed.into_iter().unzip()
}

/// The addresses that are some backend's own, and its name: who sent a request is known by its address.
struct Taken(HashMap<SocketAddr, String>);

impl Taken {
    /// What is written as an address comes first.
    fn by_address(entries: &[Entry<'_>], listeners: &[Listener]) -> Self {
        let mut taken = Self(HashMap::new());
        for entry in entries.iter().filter(|entry| entry.target.is_none()) {
            taken.add(&entry.template, listeners);
        }
        taken
    }

    fn add(&mut self, backend: &Backend, listeners: &[Listener]) {
        for address in backend::addresses(listeners, backend) {
            self.0.entry(address).or_insert_with(|| backend.name.clone());
        }
    }

    fn owner_of(&self, backend: &Backend, listeners: &[Listener]) -> Option<&str> {
        backend::addresses(listeners, backend).iter().find_map(|address| self.0.get(address)).map(String::as_str)
    }
}

/// What the name of an entry leads to and can be a backend, best first, each address once.
fn usable<'k>(
    entry: &Entry<'_>,
    ground: &Ground<'k>,
    taken: &Taken,
    report: &mut Report<'_>,
) -> Vec<(Backend, &'k Found)> {
    let found = entry.target.as_ref().map_or(&[][..], |target| ground.known.of(target));
    let mut usable: Vec<(Backend, &'k Found)> = Vec::with_capacity(found.len());
    let mut reasons = Vec::new();
    for one in found {
        let host = one.place.host.clone().or_else(|| entry.target.as_ref().map(|target| target.host.clone()));
        let own = &entry.template.name;
        let name = if entry.expand { format!("{own}@{}", one.place.address) } else { own.clone() };
        let backend = entry.at(ground.farm_name, name, one.place.address, host);
        let is_known = usable.iter().any(|(other, _)| other.address == backend.address);
        match why_not(&backend, one.place.transport, ground.listeners, taken) {
            Some(reason) => reasons.push(reason),
            None if is_known => {}
            None => usable.push((backend, one)),
        }
    }
    if let Some(first) = reasons.first()
        && usable.is_empty()
    {
        let message = format!("\"{}\" leads nowhere that can be a backend of this farm: {first}", entry.written());
        report.warning(
            entry.section.span_of("address"),
            message,
            "the backend is left out until the DNS says otherwise",
        );
    }
    usable
}

/// Why an address that a name leads to cannot be a backend of the farm.
fn why_not(backend: &Backend, found_over: Transport, listeners: &[Listener], taken: &Taken) -> Option<String> {
    let address = backend.address;
    let over = backend.transport.unwrap_or(Transport::Udp);
    if found_over != over {
        return Some(format!("{address} is reached over {}, not over {}", found_over.name(), over.name()));
    }
    let unspoken = backend::reached(listeners, backend).into_iter().find(|(transport, _)| {
        let speaks =
            |one: &Listener| one.inside && one.transport == *transport && one.bind.is_ipv4() == address.is_ipv4();
        !listeners.iter().any(speaks)
    });
    if let Some((transport, _)) = unspoken {
        let (transport, family) = (transport.name(), family::name(address));
        return Some(format!("for {address} the inside of this farm has no {transport} listener for {family}"));
    }
    if let Some(own) = backend::own_address(listeners, backend) {
        return Some(format!("{own} is a listener of this farm itself"));
    }
    taken.owner_of(backend, listeners).map(|owner| format!("{address} is that of backend \"{owner}\""))
}

/// RFC 2782: a lower priority is a level of its own, and weights are shares within one level.
fn expanded(entry: &Entry<'_>, usable: Vec<(Backend, &Found)>) -> Vec<Backend> {
    let mut levels: Vec<u16> = usable.iter().map(|(_, found)| found.priority).collect();
    levels.sort_unstable();
    levels.dedup();
    let own = u64::from(entry.template.weight);
    let share = |found: &Found| own * u64::from(found.weight.max(1));
    let largest = usable.iter().map(|(_, found)| share(found)).max().unwrap_or(1);
    let mut backends = Vec::with_capacity(usable.len());
    for (mut backend, found) in usable {
        let rank = levels.iter().position(|level| *level == found.priority).unwrap_or(0);
        backend.priority = backend.priority.saturating_add(u32::try_from(rank).unwrap_or(u32::MAX));
        let weight = if largest > WEIGHT_MOST { share(found) * WEIGHT_MOST / largest } else { share(found) };
        backend.weight = u32::try_from(weight.max(1)).unwrap_or(u32::MAX);
        backends.push(backend);
    }
    backends
}

/// Is there a guardian that can bring the backend back? Of any of its services, as for the engine.
fn is_checked(entry: &Entry<'_>, services: &[Service]) -> bool {
    let mut of_entry = entry.services.iter().filter_map(|index| services.get(*index));
    of_entry.any(|service| service.guardians.iter().any(|guardian| matches!(guardian.effect, Effect::Down)))
}

/// As a weight that is written.
const WEIGHT_MOST: u64 = 10_000;

#[cfg(test)]
mod tests {
    use crate::Checked;
    use crate::check::known::world;
    use engine::{BackendId, Farm};
    use std::collections::BTreeSet;

    const LISTEN: &str = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n";
    const BY_NAME: &str = "[[farm.backend]]\nname = \"p\"\naddress = \"pbx.example.com\"\n";
    const ASKED: &str = "udp:pbx.example.com";

    fn checked(text: &str, answers: &[(&str, &[&str])], down: &[&str]) -> Checked {
        let down: BTreeSet<_> = down.iter().map(|address| address.parse().expect("an address")).collect();
        crate::load_with("f", text, &world::answers(answers), &down).expect("the file is right")
    }

    fn farm(text: &str, answers: &[(&str, &[&str])], down: &[&str]) -> Farm {
        checked(text, answers, down).settings.farms.into_iter().next().expect("one farm is written")
    }

    /// Name and address of each backend, and the first service's indices.
    fn shown(farm: &Farm) -> (Vec<String>, Vec<usize>) {
        let backends = farm.backends.iter().map(|backend| format!("{} {}", backend.name, backend.address)).collect();
        (backends, farm.services.first().expect("there is a service").backends.clone())
    }

    fn is(farm: &Farm, backends: &[&str], pool: &[usize]) {
        let (found, found_pool) = shown(farm);
        assert_eq!(found, backends);
        assert_eq!(found_pool, pool);
    }

    #[test]
    fn a_name_without_an_answer_is_left_out_and_the_others_keep_their_places() {
        let text = format!(
            "{LISTEN}[[farm.backend]]\naddress = \"127.0.0.11\"\n{BY_NAME}[[farm.backend]]\naddress = \"127.0.0.12\"\n"
        );
        is(&farm(&text, &[], &[]), &["127.0.0.11:5060 127.0.0.11:5060", "127.0.0.12:5060 127.0.0.12:5060"], &[0, 1]);
        is(
            &farm(&text, &[(ASKED, &[])], &[]),
            &["127.0.0.11:5060 127.0.0.11:5060", "127.0.0.12:5060 127.0.0.12:5060"],
            &[0, 1],
        );
        let known = farm(&text, &[(ASKED, &["udp:127.0.0.21:5070 0 0"])], &[]);
        let all = ["127.0.0.11:5060 127.0.0.11:5060", "p 127.0.0.21:5070", "127.0.0.12:5060 127.0.0.12:5060"];
        is(&known, &all, &[0, 1, 2]);
        let alone = checked(&format!("{LISTEN}{BY_NAME}"), &[], &[]);
        assert!(alone.warnings.is_empty(), "{:?}", alone.warnings);
        assert!(alone.settings.farms.iter().all(|farm| farm.backends.is_empty()));
    }

    #[test]
    fn one_backend_is_at_the_best_address_that_is_not_down() {
        let text = format!("{LISTEN}{BY_NAME}");
        let places = ["udp:127.0.0.21:5060 1 0", "udp:127.0.0.22:5060 2 0", "udp:127.0.0.23:5060 2 0"];
        let at = |down: &[&str]| farm(&text, &[(ASKED, &places)], down);
        let best = at(&[]);
        is(&best, &["p 127.0.0.21:5060"], &[0]);
        let backend = best.backends.first().expect("it is known");
        assert_eq!(backend.host.as_deref(), Some("pbx.example.com"));
        assert_eq!(backend.id, BackendId::of("a", "p", backend.address));
        assert_eq!((backend.weight, backend.priority), (1, 1));
        // What is down stays looked after, in no service.
        is(&at(&["127.0.0.21:5060"]), &["p 127.0.0.22:5060", "p 127.0.0.21:5060"], &[0]);
        is(&at(&["127.0.0.22:5060"]), &["p 127.0.0.21:5060", "p 127.0.0.22:5060"], &[0]);
        let all = ["127.0.0.21:5060", "127.0.0.22:5060", "127.0.0.23:5060"];
        assert_eq!(shown(&at(&all)).0.first().map(String::as_str), Some("p 127.0.0.21:5060"));
        let unchecked = format!("{LISTEN}[[farm.service]]\nname = \"default\"\nguardians = []\n{BY_NAME}");
        is(&farm(&unchecked, &[(ASKED, &places)], &["127.0.0.21:5060"]), &["p 127.0.0.22:5060"], &[0]);
        let guardian = |effect: &str| {
            format!(
                "{LISTEN}[[farm.service]]\nname = \"default\"\nguardians = [\"g\"]\n{BY_NAME}\
                 [[guardian]]\nname = \"g\"\ncheck = \"tcp\"\neffect = \"{effect}\"\n"
            )
        };
        let down = ["127.0.0.21:5060"];
        is(&farm(&guardian("warn"), &[(ASKED, &places)], &down), &["p 127.0.0.22:5060"], &[0]);
        is(&farm(&guardian("down"), &[(ASKED, &places)], &down), &["p 127.0.0.22:5060", "p 127.0.0.21:5060"], &[0]);
    }

    #[test]
    fn each_address_of_a_name_can_be_a_backend_of_its_own() {
        let text = format!(
            "{LISTEN}{BY_NAME}expand = true\npriority = 2\nweight = 3\n[[farm.backend]]\naddress = \"127.0.0.11\"\n"
        );
        let places = [
            "udp:127.0.0.21:5060 10 60",
            "udp:127.0.0.22:5060 10 0",
            "udp:127.0.0.23:5070 20 5",
            "udp:127.0.0.21:5060 20 5",
        ];
        let farm = farm(&text, &[(ASKED, &places)], &["127.0.0.21:5060"]);
        let all = [
            "p@127.0.0.21:5060 127.0.0.21:5060",
            "p@127.0.0.22:5060 127.0.0.22:5060",
            "p@127.0.0.23:5070 127.0.0.23:5070",
            "127.0.0.11:5060 127.0.0.11:5060",
        ];
        is(&farm, &all, &[0, 1, 2, 3]);
        let ranks: Vec<(u32, u32)> = farm.backends.iter().map(|backend| (backend.priority, backend.weight)).collect();
        assert_eq!(ranks, [(2, 180), (2, 3), (3, 15), (1, 1)]);
    }

    #[test]
    fn shares_keep_their_proportion_within_the_bounds_of_a_weight() {
        let text = format!("{LISTEN}{BY_NAME}expand = true\nweight = 10000\n");
        let places = ["udp:127.0.0.21:5060 0 100", "udp:127.0.0.22:5060 0 50", "udp:127.0.0.23:5060 0 0"];
        let found: Vec<u32> =
            farm(&text, &[(ASKED, &places)], &[]).backends.iter().map(|backend| backend.weight).collect();
        assert_eq!(found, [10_000, 5_000, 100]);
        let most = ["udp:127.0.0.21:5060 0 65535", "udp:127.0.0.22:5060 0 1"];
        let found: Vec<u32> =
            farm(&text, &[(ASKED, &most)], &[]).backends.iter().map(|backend| backend.weight).collect();
        assert_eq!(found, [10_000, 1]);
    }

    #[test]
    fn what_cannot_be_a_backend_is_passed_over() {
        let fixed = format!("{LISTEN}{BY_NAME}[[farm.backend]]\naddress = \"127.0.0.11\"\n");
        let places = [
            "tcp:127.0.0.20:5060 0 0",
            "udp:[2001:db8::1]:5060 0 0",
            "udp:127.0.0.1:5060 0 0",
            "udp:127.0.0.11:5060 0 0",
            "udp:127.0.0.22:5060 0 0",
        ];
        let found = farm(&fixed, &[(ASKED, &places)], &[]);
        is(&found, &["p 127.0.0.22:5060", "127.0.0.11:5060 127.0.0.11:5060"], &[0, 1]);
        for (place, reason) in [
            (places[0], "127.0.0.20:5060 is reached over tcp, not over udp"),
            (places[1], "for [2001:db8::1]:5060 the inside of this farm has no udp listener for IPv6"),
            (places[2], "127.0.0.1:5060 is a listener of this farm itself"),
            (places[3], "127.0.0.11:5060 is that of backend \"127.0.0.11:5060\""),
        ] {
            let found = checked(&fixed, &[(ASKED, &[place])], &[]);
            let told: Vec<&str> = found.warnings.iter().map(|warning| warning.message.as_str()).collect();
            let message = format!("\"pbx.example.com\" leads nowhere that can be a backend of this farm: {reason}");
            assert_eq!(told, [message.as_str()], "{place}");
        }
    }

    #[test]
    fn two_names_of_one_server_are_one_backend() {
        let text = format!("{LISTEN}{BY_NAME}[[farm.backend]]\naddress = \"other.example.com\"\n");
        let answers: [(&str, &[&str]); 2] =
            [(ASKED, &["udp:127.0.0.21:5060 0 0"]), ("udp:other.example.com", &["udp:127.0.0.21:5060 0 0"])];
        let found = checked(&text, &answers, &[]);
        assert_eq!(found.warnings.len(), 1, "{:?}", found.warnings);
        let farm = found.settings.farms.first().expect("one farm is written");
        is(farm, &["p 127.0.0.21:5060"], &[0]);
    }

    #[test]
    fn of_a_backend_that_takes_any_transport_each_must_be_spoken() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\", \"udp:[::1]:5060\"]\n\
            [[farm.backend]]\nname = \"p\"\naddress = \"pbx.example.com\"\ntransport = \"same\"\nports = { tcp = 5080 }\n";
        let asked = "udp:pbx.example.com:5060";
        let found = farm(text, &[(asked, &["udp:[::2]:5060 0 0", "udp:127.0.0.21:5060 0 0"])], &[]);
        is(&found, &["p 127.0.0.21:5060"], &[0]);
        assert_eq!(found.backends.first().map(|backend| backend.ports.tcp), Some(5080));
    }
}
