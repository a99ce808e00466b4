//! What the settings mean together: names that must exist, addresses that must not meet, and the checked types.

mod backend;
mod family;
mod farm;
mod guardian;
mod identity;
pub(crate) mod known;
mod listener;
mod outside;
mod placed;
mod service;
mod stateless;
mod streams;
mod trunk;
mod warnings;

use crate::report::Report;
use crate::section::Section;
use crate::{Checked, Dns, Log, LogFormat, LogLevel, UnitSettings};
use engine::{Limits, Settings, Target};
use known::Known;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Checks everything. The result may run only if no error was reported.
pub(crate) fn everything(root: &Section, known: &Known<'_>, report: &mut Report<'_>) -> Checked {
    let sections = root.sections("farm");
    if sections.is_empty() && !root.is_written("farm") {
        let hint = "a file needs one [[farm]] with `name` and `listen`, and one [[farm.backend]] with `address`";
        report.error_with_hint(&(0..0), "there is no [[farm]]", Some(hint.to_owned()));
    }
    let guardians = guardian::guardians(root.sections("guardian"), report);
    let drafts: Vec<farm::Draft<'_>> =
        sections.iter().filter_map(|section| farm::farm(section, known, &guardians, report)).collect();
    identity::farms(&drafts, report);
    identity::backends(&drafts, report);
    identity::listeners(&drafts, report);
    let guardians = guardians.finish(&drafts, root.section("unit"), report);
    let names: BTreeSet<Target> = drafts.iter().flat_map(|draft| draft.targets.iter().cloned()).collect();
    Checked {
        settings: Settings {
            farms: drafts.into_iter().map(|draft| draft.farm).collect(),
            limits: limits(root.section("limits")),
        },
        guardians,
        unit: unit(root.section("unit")),
        dns: Dns { servers: root.section("dns").addresses("servers") },
        log: log(root.section("log")),
        names: names.into_iter().collect(),
        warnings: Vec::new(),
    }
}

fn unit(section: &Section) -> UnitSettings {
    let user = section.text("user");
    UnitSettings {
        name: section.optional_text("name").unwrap_or_default().to_owned(),
        state_dir: section.optional_text("state_dir").map(PathBuf::from),
        workers: section.integer_usize("workers"),
        user: if user.is_empty() { None } else { Some(user.to_owned()) },
        drain: section.duration("drain"),
    }
}

fn limits(section: &Section) -> Limits {
    Limits {
        message_bytes: section.integer_usize("message_bytes"),
        headers: section.integer_usize("headers"),
        transactions: section.integer_usize("transactions"),
        bindings: section.integer_usize("bindings"),
        dialogs: section.integer_usize("dialogs"),
        sticky: section.integer_usize("sticky"),
        shard_inbox: section.integer_usize("shard_inbox"),
        errors_per_source: section.integer_u32("errors_per_source"),
        error_sources: section.integer_usize("error_sources"),
        connections: section.integer_usize("connections"),
        connections_per_source: section.integer_usize("connections_per_source"),
        connection_idle: section.duration("connection_idle"),
        partial_message: section.duration("partial_message"),
        handshake: section.duration("handshake"),
        connection_queue: section.integer_usize("connection_queue"),
        large_request: section.integer_usize("large_request"),
    }
}

fn log(section: &Section) -> Log {
    let level = match section.text("level") {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => LogLevel::Info,
    };
    let format = match section.text("format") {
        "json" => LogFormat::Json,
        _ => LogFormat::Text,
    };
    Log { level, format }
}

#[cfg(test)]
mod tests {
    #[test]
    fn unit_limits_and_log_arrive() {
        let text = "[unit]\nname = \"lb-a\"\nstate_dir = \"/var/lib/x\"\nworkers = 3\nuser = \"\"\ndrain = \"5s\"\n\
            [limits]\nheaders = 64\nerrors_per_source = 7\nconnections = 50\nconnections_per_source = 5\nconnection_idle = \"2m\"\n\
            partial_message = \"3s\"\nhandshake = \"4s\"\nconnection_queue = 200000\nlarge_request = 1500\n\
            [dns]\nservers = [\"192.0.2.53\", \"[2001:db8::53]:5353\"]\n[log]\nlevel = \"debug\"\nformat = \"json\"\n\
            [[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.backend]]\naddress = \"127.0.0.11\"\n";
        let checked = crate::load("f", text).expect("the file is right");
        assert_eq!(checked.unit.name, "lb-a");
        assert_eq!(checked.unit.state_dir.as_deref(), Some(std::path::Path::new("/var/lib/x")));
        assert_eq!((checked.unit.workers, checked.unit.user), (3, None));
        assert_eq!(checked.unit.drain.as_secs(), 5);
        let limits = &checked.settings.limits;
        assert_eq!((limits.headers, limits.errors_per_source), (64, 7));
        assert_eq!((limits.connections, limits.connections_per_source, limits.connection_queue), (50, 5, 200_000));
        let waits = [limits.connection_idle, limits.partial_message, limits.handshake];
        assert_eq!(waits.map(|wait| wait.as_secs()), [120, 3, 4]);
        let servers: Vec<String> = checked.dns.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:5353"]);
        assert_eq!((checked.log.level.name(), checked.log.format.name()), ("debug", "json"));
    }
}
