//! What changed between two configurations, in words for the log.

use crate::forms::write_duration;
use crate::guardian::{Account, Check, Guardian};
use crate::{Call, Checked};
use engine::{
    AnswerClass, Backend, Egress, Failover, Fallback, Farm, Listener, Persistence, Place, Rule, Service, Trunk, Verify,
};
use std::net::SocketAddr;
use std::path::Path;

/// A thing with a name, and its settings as they are shown.
type Item = (String, Facts);
type Facts = Vec<(&'static str, String)>;

/// One line for each guardian, farm, listener, trunk, service or backend that was added or removed and for each setting that changed.
/// Empty: both mean the same.
pub fn difference(old: &Checked, new: &Checked) -> Vec<String> {
    let mut lines = Vec::new();
    changed("unit", &unit(old), &unit(new), &mut lines);
    changed("limits", &limits(old), &limits(new), &mut lines);
    changed("dns", &dns(old), &dns(new), &mut lines);
    changed("log", &log(old), &log(new), &mut lines);
    items("", "guardian", &guardians(old), &guardians(new), &mut lines);
    for farm in &old.settings.farms {
        if named(&new.settings.farms, &farm.name).is_none() {
            lines.push(format!("farm {} removed", farm.name));
        }
    }
    for farm in &new.settings.farms {
        match named(&old.settings.farms, &farm.name) {
            None => lines.push(format!("farm {} added", farm.name)),
            Some(before) => farms(before, farm, &mut lines),
        }
    }
    lines
}

fn named<'f>(farms: &'f [Farm], name: &str) -> Option<&'f Farm> {
    farms.iter().find(|farm| farm.name == name)
}

fn farms(old: &Farm, new: &Farm, lines: &mut Vec<String>) {
    let prefix = format!("farm {}", new.name);
    changed(&prefix, &farm_facts(old), &farm_facts(new), lines);
    let within = format!("{prefix}: ");
    items(&within, "listener", &listeners(old), &listeners(new), lines);
    items(&within, "trunk", &trunks(old), &trunks(new), lines);
    items(&within, "service", &services(old), &services(new), lines);
    items(&within, "backend", &backends(old), &backends(new), lines);
}

/// `within`: what each line begins with.
fn items(within: &str, kind: &str, old: &[Item], new: &[Item], lines: &mut Vec<String>) {
    for (name, _) in old {
        if !new.iter().any(|(other, _)| other == name) {
            lines.push(format!("{within}{kind} {name} removed"));
        }
    }
    for (name, facts) in new {
        match old.iter().find(|(other, _)| other == name) {
            None => lines.push(format!("{within}{kind} {name} added")),
            Some((_, before)) => changed(&format!("{within}{kind} {name}"), before, facts, lines),
        }
    }
}

/// Both lists hold the same settings in the same order.
fn changed(prefix: &str, old: &[(&'static str, String)], new: &[(&'static str, String)], lines: &mut Vec<String>) {
    for ((setting, before), (_, after)) in old.iter().zip(new) {
        if before != after {
            let show = |value: &str| {
                if value.is_empty() { "none".to_owned() } else { value.to_owned() }
            };
            lines.push(format!("{prefix}: {setting} {} -> {}", show(before), show(after)));
        }
    }
}

fn unit(checked: &Checked) -> Facts {
    let unit = &checked.unit;
    vec![
        ("name", unit.name.clone()),
        (
            "state_dir (from the next start on)",
            unit.state_dir.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        ),
        ("workers (from the next start on)", unit.workers.to_string()),
        ("user (from the next start on)", unit.user.clone().unwrap_or_default()),
        ("drain", write_duration(unit.drain)),
    ]
}

fn limits(checked: &Checked) -> Facts {
    let limits = &checked.settings.limits;
    vec![
        ("message_bytes", limits.message_bytes.to_string()),
        ("headers", limits.headers.to_string()),
        ("transactions", limits.transactions.to_string()),
        ("bindings", limits.bindings.to_string()),
        ("dialogs", limits.dialogs.to_string()),
        ("sticky", limits.sticky.to_string()),
        ("shard_inbox", limits.shard_inbox.to_string()),
        ("errors_per_source", limits.errors_per_source.to_string()),
        ("error_sources", limits.error_sources.to_string()),
        ("connections", limits.connections.to_string()),
        ("connections_per_source", limits.connections_per_source.to_string()),
        ("connection_idle", write_duration(limits.connection_idle)),
        ("partial_message", write_duration(limits.partial_message)),
        ("handshake", write_duration(limits.handshake)),
        ("connection_queue", limits.connection_queue.to_string()),
        ("large_request", limits.large_request.to_string()),
    ]
}

fn dns(checked: &Checked) -> Facts {
    vec![("servers", list(&checked.dns.servers))]
}

fn log(checked: &Checked) -> Facts {
    vec![("level", checked.log.level.name().to_owned()), ("format", checked.log.format.name().to_owned())]
}

/// The one that nobody wrote is not told: services say that they have it.
fn guardians(checked: &Checked) -> Vec<Item> {
    let usual = engine::Guardian::options();
    let written = checked.guardians.iter().filter(|guardian| *guardian.decides != usual);
    written.map(|guardian| (guardian.decides.name.to_string(), guardian_facts(guardian))).collect()
}

fn guardian_facts(guardian: &Guardian) -> Facts {
    let decides = &guardian.decides;
    let accepted: Vec<String> =
        decides.options.iter().flat_map(|accept| &accept.0).copied().map(answer_class).collect();
    let call = match &guardian.check {
        Check::Call(call) => Some(call),
        _ => None,
    };
    let account = match &guardian.check {
        Check::Register(account) => Some(account),
        _ => call.map(|call| &call.account),
    };
    let command = match &guardian.check {
        Check::Exec { command } => command.clone(),
        _ => String::new(),
    };
    let mut facts = vec![
        ("check", guardian.check.name().to_owned()),
        ("interval", write_duration(decides.interval)),
        ("timeout", write_duration(decides.timeout)),
        ("rise", decides.rise.to_string()),
        ("fall", decides.fall.to_string()),
        ("accept", accepted.join(", ")),
        ("effect", lower(&decides.effect)),
        ("cut", decides.cut.to_string()),
        ("command", command),
    ];
    facts.extend(account_facts(account));
    facts.extend(call_facts(call));
    facts
}

fn account_facts(account: Option<&Account>) -> Facts {
    let of = |text: &dyn Fn(&Account) -> String| account.map(text).unwrap_or_default();
    vec![
        ("from", of(&|account| account.user.clone())),
        ("username", of(&|account| account.username.clone())),
        ("password_file", of(&|account| account.password.as_deref().map(path).unwrap_or_default())),
        ("transport", of(&|account| account.transport.map_or("", |transport| transport.name()).to_owned())),
    ]
}

fn call_facts(call: Option<&Call>) -> Facts {
    let of = |text: &dyn Fn(&Call) -> String| call.map(text).unwrap_or_default();
    vec![
        ("to", of(&|call| call.to.clone())),
        ("register", of(&|call| call.register.to_string())),
        ("send", of(&|call| call.send.iter().map(|file| path(file)).collect::<Vec<_>>().join(", "))),
        ("expect_audio", of(&|call| call.expect_audio.to_string())),
        ("min_mos", of(&|call| call.min_mos.to_string())),
    ]
}

fn answer_class(class: AnswerClass) -> String {
    match class {
        AnswerClass::Status(status) => status.to_string(),
        AnswerClass::Class(class) => format!("{class}xx"),
    }
}

fn path(file: &Path) -> String {
    file.display().to_string()
}

fn farm_facts(farm: &Farm) -> Facts {
    let order = farm.services.iter().map(|service| service.name.as_str()).collect::<Vec<_>>();
    vec![
        ("domains", farm.domains.join(", ")),
        ("certificates", farm.certificates.join(", ")),
        ("client_ca", farm.client_ca.clone().unwrap_or_default()),
        ("client_certificates", lower(&farm.client_certificates)),
        ("origins", farm.origins.join(", ")),
        ("registrations", lower(&farm.registrations)),
        ("transactions", if farm.stateless { "stateless".to_owned() } else { "stateful".to_owned() }),
        ("symmetric", lower(&farm.symmetric)),
        ("keepalive", farm.keepalive.map_or_else(|| "off".to_owned(), write_duration)),
        ("max_expires", farm.max_expires.map_or_else(|| "off".to_owned(), write_duration)),
        ("origin_header", farm.origin_header.clone().unwrap_or_default()),
        ("source_header", farm.source_header.clone().unwrap_or_default()),
        ("max_call_time", write_duration(farm.max_call_time)),
        ("order of services", order.join(", ")),
    ]
}

fn listeners(farm: &Farm) -> Vec<Item> {
    farm.listeners.iter().map(listener).collect()
}

fn listener(listener: &Listener) -> Item {
    let advertise = listener.advertise.as_ref().map(|written| format!("{}:{}", written.host, written.port));
    let side = match (listener.outside, listener.inside) {
        (true, true) => "both",
        (true, false) => "outside",
        (false, _) => "inside",
    };
    let name = format!("{}:{}", listener.transport.name(), listener.bind);
    (name, vec![("advertise", advertise.unwrap_or_default()), ("side", side.to_owned())])
}

fn trunks(farm: &Farm) -> Vec<Item> {
    farm.trunks.iter().map(|trunk| (trunk.name.clone(), trunk_facts(farm, trunk))).collect()
}

fn trunk_facts(farm: &Farm, trunk: &Trunk) -> Facts {
    vec![
        ("addresses", list(&trunk.addresses)),
        ("service", trunk.service.map(|index| service_name(farm, index)).unwrap_or_default()),
        ("trusted", trunk.trusted.to_string()),
        ("out", list(&trunk.out.iter().map(place).collect::<Vec<_>>())),
        ("verify", verify(&trunk.verify)),
    ]
}

fn services(farm: &Farm) -> Vec<Item> {
    farm.services.iter().map(|service| (service.name.clone(), service_facts(farm, service))).collect()
}

fn service_facts(farm: &Farm, service: &Service) -> Facts {
    let backends =
        service.backends.iter().filter_map(|index| farm.backends.get(*index)).map(|backend| backend.name.as_str());
    let egress = service.egress.iter().map(|to| egress(farm, to)).collect::<Vec<_>>();
    let guardians = service.guardians.iter().map(|guardian| &*guardian.name).collect::<Vec<_>>();
    vec![
        ("match", rule(&service.rule)),
        ("algorithm", service.algorithm.name().to_owned()),
        ("persistence", persistence(&service.persistence)),
        ("persistence_ttl", write_duration(service.persistence_ttl)),
        ("callee_affinity", service.callee_affinity.to_string()),
        ("request_uri", if service.request_uri_backend { "backend".to_owned() } else { "keep".to_owned() }),
        ("failover", failover(&service.failover)),
        ("guardians", guardians.join(", ")),
        ("passive", service.passive.to_string()),
        ("fallback", fallback(farm, &service.fallback)),
        ("egress", egress.join(", ")),
        ("backends", backends.collect::<Vec<_>>().join(", ")),
    ]
}

fn rule(rule: &Rule) -> String {
    let mut conditions = Vec::new();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            conditions.push(format!("{name} {value}"));
        }
    };
    add("domain", rule.domain.join(","));
    add("trunk", rule.trunk.join(","));
    add("from_user", rule.from_user.as_ref().map(ToString::to_string).unwrap_or_default());
    add("method", rule.method.join(","));
    add("user", rule.user.as_ref().map(ToString::to_string).unwrap_or_default());
    add("source", list(&rule.source));
    for (name, pattern) in &rule.header {
        add("header", format!("{name} = {pattern}"));
    }
    conditions.join(" and ")
}

fn persistence(persistence: &Persistence) -> String {
    match persistence {
        Persistence::User => "user".to_owned(),
        Persistence::CallId => "call-id".to_owned(),
        Persistence::Source => "source".to_owned(),
        Persistence::Header(name) => format!("header:{name}"),
        Persistence::None => "none".to_owned(),
    }
}

fn failover(failover: &Failover) -> String {
    format!(
        "answer_timeout {}, final_timeout {}, codes {}, attempts {}",
        write_duration(failover.answer_timeout),
        write_duration(failover.final_timeout),
        list(&failover.codes),
        failover.attempts
    )
}

fn fallback(farm: &Farm, fallback: &Fallback) -> String {
    match fallback {
        Fallback::Status(status) => status.to_string(),
        Fallback::Service(index) => service_name(farm, *index),
    }
}

fn egress(farm: &Farm, to: &Egress) -> String {
    match to {
        Egress::Trunk(index) => {
            format!("trunk:{}", farm.trunks.get(*index).map(|trunk| trunk.name.as_str()).unwrap_or_default())
        }
        Egress::Domain { host, places } if places.is_empty() => format!("domain:{host}"),
        Egress::Domain { host, places } => {
            let ways = places.iter().map(|place| format!("{}:{}", place.transport.name(), place.address));
            format!("domain:{host} ({})", ways.collect::<Vec<_>>().join(", "))
        }
        Egress::Network(network) => format!("network:{network}"),
    }
}

/// Those in no service are addresses that a backend by name passes over.
fn backends(farm: &Farm) -> Vec<Item> {
    let is_used = |index: &usize| farm.services.iter().any(|service| service.backends.contains(index));
    let used = farm.backends.iter().enumerate().filter(|(index, _)| is_used(index));
    used.map(|(_, backend)| (backend.name.clone(), backend_facts(backend))).collect()
}

fn backend_facts(backend: &Backend) -> Facts {
    vec![
        ("address", found_at(backend.host.as_deref(), backend.address)),
        ("transport", backend.transport.map_or("same", |transport| transport.name()).to_owned()),
        ("ports", ports(backend)),
        ("verify", verify(&backend.verify)),
        ("sources", list(&backend.sources)),
        ("weight", backend.weight.to_string()),
        ("priority", backend.priority.to_string()),
        ("max_calls", backend.max_calls.to_string()),
        ("max_rate", backend.max_rate.to_string()),
        ("slow_start", write_duration(backend.slow_start)),
        ("maintenance", lower(&backend.maintenance)),
    ]
}

/// Only where they say anything.
fn ports(backend: &Backend) -> String {
    match backend.transport {
        Some(_) => String::new(),
        None => format!("tcp {}, tls {}", backend.ports.tcp, backend.ports.tls),
    }
}

fn place(place: &Place) -> String {
    format!("{}:{}", place.transport.name(), found_at(place.host.as_deref(), place.address))
}

/// "pbx.example.com (10.0.0.11:5060)" where it was found by name.
fn found_at(host: Option<&str>, address: SocketAddr) -> String {
    match host {
        Some(host) => format!("{host} ({address})"),
        None => address.to_string(),
    }
}

fn verify(verify: &Verify) -> String {
    match verify {
        Verify::System => "system".to_owned(),
        Verify::File(path) => path.clone(),
        Verify::Pinned(octets) => {
            let digits: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
            format!("sha256:{}", digits.concat())
        }
        Verify::Off => "off".to_owned(),
    }
}

fn service_name(farm: &Farm, index: usize) -> String {
    farm.services.get(index).map(|service| service.name.clone()).unwrap_or_default()
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The variants of these choices are called as in the file but for the capital letter.
fn lower(choice: &impl std::fmt::Debug) -> String {
    format!("{choice:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::known::world;
    use std::collections::BTreeSet;

    const OLD: &str = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
        [[farm.backend]]\nname = \"a\"\naddress = \"127.0.0.11\"\n[[farm.backend]]\nname = \"b\"\naddress = \"127.0.0.12\"\n";

    fn checked(text: &str) -> Checked {
        crate::load("f", text).expect("the file is right")
    }

    #[test]
    fn equal_files_differ_in_nothing() {
        assert!(difference(&checked(OLD), &checked(OLD)).is_empty());
    }

    #[test]
    fn changes_are_named() {
        let new = OLD
            .replace("name = \"b\"\naddress = \"127.0.0.12\"", "name = \"c\"\naddress = \"127.0.0.13\"")
            .replace("address = \"127.0.0.11\"", "address = \"127.0.0.11\"\nweight = 3\nmaintenance = \"drain\"")
            .replace("listen = [\"udp:127.0.0.1:5060\"]", "listen = [\"udp:127.0.0.1:5062\"]\ndomains = [\"a.org\"]");
        let found = difference(&checked(OLD), &checked(&format!("[log]\nlevel = \"debug\"\n{new}")));
        assert_eq!(
            found,
            [
                "log: level info -> debug",
                "farm pbx: domains none -> a.org",
                "farm pbx: listener udp:127.0.0.1:5060 removed",
                "farm pbx: listener udp:127.0.0.1:5062 added",
                "farm pbx: service default: backends a, b -> a, c",
                "farm pbx: backend b removed",
                "farm pbx: backend a: weight 1 -> 3",
                "farm pbx: backend a: maintenance off -> drain",
                "farm pbx: backend c added",
            ]
        );
    }

    #[test]
    fn what_streams_bring_is_named() {
        let new = OLD
            .replace(
                "listen = [\"udp:127.0.0.1:5060\"]",
                "listen = [\"udp:127.0.0.1:5060\", \"tls:127.0.0.1:5061\", \"wss:127.0.0.1:443\"]\ncertificates = [\"a.pem\", \"b.pem\"]\n\
                 client_ca = \"ca.pem\"\nclient_certificates = \"require\"\norigins = [\"https://a.org\"]",
            )
            .replace("address = \"127.0.0.11\"", "address = \"127.0.0.11:5060\"\ntransport = \"same\"\nports = { tls = 5071 }\nverify = \"x.pem\"")
            .replace(
                "address = \"127.0.0.12\"",
                &format!("address = \"127.0.0.12:5060\"\ntransport = \"tls\"\nverify = \"sha256:{}\"", "0A".repeat(32)),
            );
        let head = "[limits]\nconnections = 7\nconnection_idle = \"2m\"\n[dns]\nservers = [\"192.0.2.53\"]\n";
        let found = difference(&checked(OLD), &checked(&format!("{head}{new}")));
        let pinned = format!("farm pbx: backend b: verify system -> sha256:{}", "0a".repeat(32));
        assert_eq!(
            found,
            [
                "limits: connections 100000 -> 7",
                "limits: connection_idle 15m -> 2m",
                "dns: servers none -> 192.0.2.53:53",
                "farm pbx: certificates none -> a.pem, b.pem",
                "farm pbx: client_ca none -> ca.pem",
                "farm pbx: client_certificates verify -> require",
                "farm pbx: origins none -> https://a.org",
                "farm pbx: listener tls:127.0.0.1:5061 added",
                "farm pbx: listener wss:127.0.0.1:443 added",
                "farm pbx: backend a: transport udp -> same",
                "farm pbx: backend a: ports none -> tcp 5060, tls 5071",
                "farm pbx: backend a: verify system -> x.pem",
                "farm pbx: backend b: transport udp -> tls",
                pinned.as_str(),
            ]
        );
    }

    fn by_name(known: &[(&str, &[&str])], down: &[&str]) -> Checked {
        let text = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.trunk]]\nname = \"t\"\naddresses = [\"127.0.0.30\"]\n\
            out = [\"carrier.example\"]\n[[farm.service]]\nname = \"default\"\negress = [\"domain:example.net\"]\n\
            [[farm.backend]]\nname = \"a\"\naddress = \"a.example\"\n[[farm.backend]]\nname = \"b\"\naddress = \"b.example\"\nexpand = true\n";
        let down: BTreeSet<_> = down.iter().map(|address| address.parse().expect("an address")).collect();
        crate::load_with("f", text, &world::answers(known), &down).expect("the file is right")
    }

    #[test]
    fn what_names_lead_to_is_told_with_them() {
        let before = by_name(
            &[
                ("udp:a.example", &["udp:127.0.0.21:5060 0 0", "udp:127.0.0.22:5060 0 0"]),
                ("udp:b.example", &["udp:127.0.0.31:5060 0 0"]),
            ],
            &[],
        );
        let after = by_name(
            &[
                ("udp:a.example", &["udp:127.0.0.21:5060 0 0", "udp:127.0.0.22:5060 0 0"]),
                ("udp:b.example", &["udp:127.0.0.32:5060 0 0"]),
                ("carrier.example", &["udp:127.0.0.41:5060 0 0"]),
                ("example.net", &["udp:127.0.0.51:5060 0 0"]),
            ],
            &["127.0.0.21:5060"],
        );
        assert_eq!(
            difference(&before, &after),
            [
                "farm pbx: trunk t: out none -> udp:carrier.example (127.0.0.41:5060)",
                "farm pbx: service default: egress domain:example.net -> domain:example.net (udp:127.0.0.51:5060)",
                "farm pbx: service default: backends a, b@127.0.0.31:5060 -> a, b@127.0.0.32:5060",
                "farm pbx: backend b@127.0.0.31:5060 removed",
                "farm pbx: backend a: address a.example (127.0.0.21:5060) -> a.example (127.0.0.22:5060)",
                "farm pbx: backend b@127.0.0.32:5060 added",
            ]
        );
    }

    #[test]
    fn guardians_are_named_with_what_changed_of_them() {
        let with = |listed: &str, guardians: &str| {
            checked(&format!(
                "{OLD}[[farm.service]]\nname = \"default\"\nguardians = [{listed}]\npassive = false\n{guardians}"
            ))
        };
        let ping = "[[guardian]]\nname = \"ping\"\ncheck = \"options\"\naccept = [\"2xx\", \"404\"]\n";
        let before = with("\"ping\"", ping);
        assert_eq!(
            difference(&checked(OLD), &before),
            [
                "guardian ping added",
                "farm pbx: service default: guardians options -> ping",
                "farm pbx: service default: passive true -> false",
            ]
        );
        let real = "[[guardian]]\nname = \"ping\"\ncheck = \"call\"\ntimeout = \"9s\"\nfrom = \"sip:a@HOST\"\nto = \"sip:b@HOST\"\n\
            send = [\"x.wav\"]\npassword_file = \"/etc/p\"\ntransport = \"tcp\"\nmin_mos = 3.5\n\
            [[guardian]]\nname = \"own\"\ncheck = \"exec\"\ncommand = \"check_tcp -H HOST\"\n";
        let after = with("\"ping\", \"own\"", real);
        assert_eq!(
            difference(&before, &after),
            [
                "guardian ping: check options -> call",
                "guardian ping: timeout 2s -> 9s",
                "guardian ping: accept 2xx, 404 -> none",
                "guardian ping: from none -> sip:a@HOST",
                "guardian ping: password_file none -> /etc/p",
                "guardian ping: transport none -> tcp",
                "guardian ping: to none -> sip:b@HOST",
                "guardian ping: register none -> true",
                "guardian ping: send none -> x.wav",
                "guardian ping: expect_audio none -> false",
                "guardian ping: min_mos none -> 3.5",
                "guardian own added",
                "farm pbx: service default: guardians ping -> ping, own",
            ]
        );
        let command = with("\"ping\", \"own\"", &real.replace("check_tcp", "check_ping"));
        assert_eq!(difference(&after, &command), ["guardian own: command check_tcp -H HOST -> check_ping -H HOST"]);
        let none = with("", "");
        assert_eq!(
            difference(&after, &none),
            ["guardian ping removed", "guardian own removed", "farm pbx: service default: guardians ping, own -> none"]
        );
    }

    #[test]
    fn farms_come_and_go() {
        let new = OLD.replace("name = \"pbx\"", "name = \"other\"");
        assert_eq!(difference(&checked(OLD), &checked(&new)), ["farm pbx removed", "farm other added"]);
    }
}
