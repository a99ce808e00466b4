//! `tandem status`: a running unit at a glance.

use crate::configuration;
use crate::table::{Align, Cell, Colour, is_coloured, lines, paint};
use crate::unit::control::{self, Happened, Request};
use crate::unit::events::KeptEvent;
use crate::unit::state_dir;
use crate::unit::status::{
    BackendStatus, CertificateStatus, FarmStatus, GuardianStatus, NameStatus, NetworkStatus, ServiceStatus, Status,
};
use anyhow::Context;
use net::NOTICE_DAYS;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
#[command(
    after_help = "Rates are those of the last second. Without --config and --state-dir the usual state folder of this user is asked."
)]
pub(crate) struct Arguments {
    /// The configuration file of the unit, read for its `state_dir`
    #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
    config: Option<PathBuf>,
    /// The state folder of the unit
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    /// JSON for programs
    #[arg(long)]
    json: bool,
    /// Show it again every second, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Show the last events instead, the newest last: those N, or 20; a unit keeps 1,000
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    events: Option<usize>,
}

/// Asks and shows, once or every second.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let checked = arguments.config.as_deref().map(configuration::load_or_print).transpose()?;
    let written = checked.as_ref().and_then(|checked| checked.unit.state_dir.as_deref());
    let folder = state_dir::choose(arguments.state_dir.as_deref(), written)?;
    loop {
        let text = match arguments.events {
            Some(last) => happened(&folder, last, arguments.json)?,
            None => shown(&folder, arguments.json)?,
        };
        let mut out = io::stdout().lock();
        if arguments.watch && !arguments.json && out.is_terminal() {
            // From the upper left corner of an empty screen.
            out.write_all(b"\x1b[2J\x1b[H")?;
        }
        out.write_all(text.as_bytes())?;
        out.flush()?;
        drop(out);
        if !arguments.watch {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

fn shown(folder: &Path, json: bool) -> anyhow::Result<String> {
    let answer = control::ask(folder, &Request::Status)?;
    if json {
        // As the unit gave it, so that programs see also what this version does not know.
        return Ok(format!("{answer}\n"));
    }
    let status: Status =
        serde_json::from_value(answer).context("the unit's answer cannot be read: is it of another version?")?;
    Ok(page(&status, is_coloured()))
}

fn happened(folder: &Path, last: usize, json: bool) -> anyhow::Result<String> {
    let answer = control::ask(folder, &Request::Events { last: Some(last) })?;
    if json {
        return Ok(format!("{answer}\n"));
    }
    let happened: Happened =
        serde_json::from_value(answer).context("the unit's answer cannot be read: is it of another version?")?;
    Ok(events_page(&happened.events, is_coloured()))
}

fn events_page(events: &[KeptEvent], coloured: bool) -> String {
    if events.is_empty() {
        return "nothing has happened since the start\n".to_owned();
    }
    let rows: Vec<Vec<Cell>> = events
        .iter()
        .map(|event| {
            let colour = match event.event.as_str() {
                "BackendDown" => Colour::Red,
                "BackendUp" | "WarningOver" => Colour::Green,
                _ => Colour::Yellow,
            };
            vec![Cell::plain(&event.time), Cell::painted(&event.event, colour), Cell::plain(&event.message)]
        })
        .collect();
    let mut page = String::new();
    for line in lines(&[Align::Left, Align::Left, Align::Left], &rows, coloured) {
        add(&mut page, &line);
    }
    page
}

fn page(status: &Status, coloured: bool) -> String {
    let unit = &status.unit;
    let mut page = String::new();
    let drains = if unit.draining { paint(", draining", Colour::Yellow, coloured) } else { String::new() };
    let uptime = duration(unit.uptime_s);
    add(&mut page, &format!("unit {}, tandem {}, up {uptime}{drains}, {}", unit.name, unit.version, unit.config));
    let rates = &status.rates;
    add(
        &mut page,
        &format!(
            "{} calls, {} registrations, {} transactions; {:.1} requests/s, {:.1} responses/s, {:.1} new calls/s",
            status.calls,
            status.registrations,
            status.transactions,
            rates.requests_per_s,
            rates.responses_per_s,
            rates.calls_per_s
        ),
    );
    for farm in &status.farms {
        add_farm(&mut page, farm, coloured);
    }
    add_names(&mut page, &status.names, coloured);
    add_certificates(&mut page, &status.certificates, coloured);
    add_counters(&mut page, status, coloured);
    add_network(&mut page, &status.network, coloured);
    page
}

fn add_farm(page: &mut String, farm: &FarmStatus, coloured: bool) {
    add(page, "");
    let listeners = if farm.listeners.is_empty() { NO_LISTENERS.to_owned() } else { farm.listeners.join("  ") };
    add(page, &format!("farm {}  {listeners}", farm.name));
    for service in &farm.services {
        add(page, &format!("  service {} ({})", service.name, service.algorithm));
        for line in backend_lines(service, coloured) {
            add(page, &format!("    {line}"));
        }
    }
    for line in guardian_lines(farm, coloured) {
        add(page, &format!("  {line}"));
    }
}

/// The active checks of a farm's backends; one that is in several services is shown once.
fn guardian_lines(farm: &FarmStatus, coloured: bool) -> Vec<String> {
    let mut shown: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for backend in farm.services.iter().flat_map(|service| &service.backends) {
        if shown.insert((&backend.name, &backend.address)) {
            rows.extend(backend.guardians.iter().map(|guardian| guardian_row(&backend.name, guardian)));
        }
    }
    if rows.is_empty() {
        return Vec::new();
    }
    let titles = GUARDIAN_COLUMNS.iter().map(|(title, _)| Cell::painted(*title, Colour::Grey)).collect();
    rows.insert(0, titles);
    let aligns: Vec<Align> = GUARDIAN_COLUMNS.iter().map(|(_, align)| *align).collect();
    lines(&aligns, &rows, coloured)
}

/// In the order of [`GUARDIAN_COLUMNS`].
fn guardian_row(backend: &str, guardian: &GuardianStatus) -> Vec<Cell> {
    let (state, colour) = match guardian.state.as_str() {
        "up" => ("up".to_owned(), Colour::Green),
        "down" => ("down".to_owned(), Colour::Red),
        "failing" => (format!("failing {} of {}", guardian.falls, guardian.fall), Colour::Yellow),
        other => (other.to_owned(), Colour::Yellow),
    };
    let took = match (guardian.took_ms, guardian.ago_s) {
        (Some(took), _) => format!("{took:.1} ms"),
        (None, Some(_)) => "failed".to_owned(),
        (None, None) => "-".to_owned(),
    };
    vec![
        Cell::plain(&guardian.name),
        Cell::plain(backend),
        Cell::painted(state, colour),
        Cell::plain(took),
        Cell::plain(guardian.ago_s.map_or_else(|| "-".to_owned(), |ago| format!("{ago:.0} s ago"))),
        Cell::plain(guardian.reason.clone().unwrap_or_default()),
    ]
}

fn backend_lines(service: &ServiceStatus, coloured: bool) -> Vec<String> {
    if service.backends.is_empty() {
        return vec![paint("no backends", Colour::Red, coloured)];
    }
    let titles = COLUMNS.iter().map(|(title, _)| Cell::painted(*title, Colour::Grey)).collect();
    let aligns: Vec<Align> = COLUMNS.iter().map(|(_, align)| *align).collect();
    let mut rows: Vec<Vec<Cell>> = vec![titles];
    rows.extend(service.backends.iter().map(backend_row));
    lines(&aligns, &rows, coloured)
}

/// In the order of [`COLUMNS`].
fn backend_row(backend: &BackendStatus) -> Vec<Cell> {
    vec![
        Cell::plain(&backend.name),
        Cell::plain(&backend.address),
        Cell::painted(&backend.state, colour_of(&backend.state)),
        Cell::plain(backend.calls.to_string()),
        Cell::plain(format!("{:.1}", backend.requests_per_s)),
        Cell::plain(backend.requests.to_string()),
        Cell::plain(backend.failures.to_string()),
        Cell::plain(latency(backend.latency_us)),
        Cell::plain(backend.weight.to_string()),
        Cell::plain(backend.priority.to_string()),
        Cell::plain(backend.cause.clone().unwrap_or_default()),
    ]
}

fn add_names(page: &mut String, names: &[NameStatus], coloured: bool) {
    if names.is_empty() {
        return;
    }
    add(page, "");
    for name in names {
        add(page, &format!("name {}  {}", name.name, name_state(name, coloured)));
    }
}

fn name_state(name: &NameStatus, coloured: bool) -> String {
    let mut text = match (name.age_s, name.places.is_empty()) {
        (Some(age), false) => format!("{}  confirmed {} ago", name.places.join(", "), duration(age)),
        (None, false) => name.places.join(", "),
        (Some(_), true) => paint("leads nowhere", Colour::Red, coloured),
        (None, true) => paint("not known", Colour::Red, coloured),
    };
    if let Some(failure) = &name.failure {
        text.push_str("  ");
        text.push_str(&paint(failure, Colour::Yellow, coloured));
    }
    text
}

fn add_certificates(page: &mut String, certificates: &[CertificateStatus], coloured: bool) {
    if certificates.is_empty() {
        return;
    }
    add(page, "");
    for certificate in certificates {
        let left = match certificate.days_left {
            ..0 => paint("has ended", Colour::Red, coloured),
            days @ 0..=NOTICE_DAYS => paint(&format!("ends in {days} days"), Colour::Yellow, coloured),
            days => format!("ends in {days} days"),
        };
        add(page, &format!("certificate {}  {}  {left}", certificate.file, certificate.names.join(", ")));
    }
}

/// Reasons of refusals, and the other counters that tell of something unusual, where they were met.
fn add_counters(page: &mut String, status: &Status, coloured: bool) {
    let shown = status.counters.iter().filter(|counter| {
        let unusual = !counter.label.is_empty() || UNUSUAL.contains(&counter.name.as_str());
        unusual && counter.value > 0
    });
    let rows: Vec<Vec<Cell>> = shown
        .map(|counter| {
            let text = format!("{} {}", counter.name, counter.label);
            vec![Cell::plain(text.trim_end().replace('_', " ")), Cell::plain(counter.value.to_string())]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    add(page, "");
    add(page, "since the start");
    for line in lines(&[Align::Left, Align::Right], &rows, coloured) {
        add(page, &format!("  {line}"));
    }
}

fn add_network(page: &mut String, network: &NetworkStatus, coloured: bool) {
    let troubled = |text: String, count: u64| {
        if count > 0 { paint(&text, Colour::Red, coloured) } else { text }
    };
    let drops = troubled(format!("{} dropped by the kernel", network.kernel_drops), network.kernel_drops);
    let overflow = troubled(format!("{} dropped by full inboxes", network.inbox_overflow), network.inbox_overflow);
    let errors = troubled(format!("{} not sent", network.send_errors), network.send_errors);
    let busy: Vec<String> = network.workers.iter().map(|worker| format!("{:.0} %", worker.busy_percent)).collect();
    add(page, "");
    add(
        page,
        &format!(
            "datagrams  {} received ({:.1}/s), {} sent ({:.1}/s), {drops}, {overflow}, {errors}",
            network.received, network.received_per_s, network.sent, network.sent_per_s
        ),
    );
    if let Some(fault) = &network.last_fault {
        add(page, &format!("last fault of a connection  {fault}"));
    }
    add(page, &format!("workers    {} busy", busy.join(", ")));
}

fn add(page: &mut String, line: &str) {
    page.push_str(line);
    page.push('\n');
}

fn colour_of(state: &str) -> Colour {
    match state {
        "up" => Colour::Green,
        "down" => Colour::Red,
        _ => Colour::Yellow,
    }
}

fn latency(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        1..1_000 => format!("{us} us"),
        _ => format!("{:.1} ms", us as f64 / 1_000.0),
    }
}

/// "3d 04:05:06", "04:05:06".
fn duration(seconds: u64) -> String {
    let mut text = String::new();
    if seconds >= 86_400 {
        write!(text, "{}d ", seconds / 86_400).expect("writing into a String cannot fail");
    }
    let (hours, minutes) = (seconds / 3_600 % 24, seconds / 60 % 60);
    write!(text, "{hours:02}:{minutes:02}:{:02}", seconds % 60).expect("writing into a String cannot fail");
    text
}

/// A farm that left the configuration is shown as long as a backend of it has calls.
const NO_LISTENERS: &str = "no longer configured";

const COLUMNS: [(&str, Align); 11] = [
    ("BACKEND", Align::Left),
    ("ADDRESS", Align::Left),
    ("STATE", Align::Left),
    ("CALLS", Align::Right),
    ("REQUESTS/S", Align::Right),
    ("REQUESTS", Align::Right),
    ("FAILED", Align::Right),
    ("ANSWERS IN", Align::Right),
    ("WEIGHT", Align::Right),
    ("PRIORITY", Align::Right),
    ("", Align::Left),
];

const GUARDIAN_COLUMNS: [(&str, Align); 6] = [
    ("GUARDIAN", Align::Left),
    ("BACKEND", Align::Left),
    ("STATE", Align::Left),
    ("LAST CHECK", Align::Right),
    ("", Align::Right),
    ("", Align::Left),
];

/// Counters that are shown when they are not 0, besides the reasons of refusals.
const UNUSUAL: [&str; 18] = [
    "stray_responses",
    "forged_tokens",
    "loops",
    "hops_exceeded",
    "no_service",
    "no_backend",
    "failovers",
    "timed_out",
    "unreachable",
    "transaction_limit",
    "binding_limit",
    "dialog_limit",
    "answers_withheld",
    "large_refused",
    "unsafe_destination",
    "passive_spared",
    "checks_not_made",
    "checks_waited",
];

const WATCH_EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status() -> Status {
        let backend = |name: &str, state: &str, cause: Option<&str>| {
            json!({
                "name": name, "address": "127.0.0.11:5060", "state": state, "cause": cause, "weight": 1, "priority": 1,
                "calls": 7, "requests": 1200, "requests_per_s": 40.25, "failures": 3, "latency_us": 1500
            })
        };
        let guardian = |name: &str, state: &str, took_ms: Option<f64>, ago_s: Option<f64>, reason: Option<&str>| {
            json!({
                "name": name, "state": state, "falls": 2, "fall": 3, "took_ms": took_ms, "ago_s": ago_s, "reason": reason,
                "said": null, "exit_code": null, "output": null, "history_ms": [took_ms], "history_ago_s": [3.4]
            })
        };
        let name = |name: &str, places: &[&str], age_s: Option<u64>, failure: Option<&str>| {
            json!({
                "name": name, "places": places, "age_s": age_s, "again_s": 30, "failure": failure, "answers": 1, "failures": 0
            })
        };
        let mut backends = [backend("pbx1", "up", None), backend("pbx-long", "down", Some("no answer to OPTIONS"))];
        backends[0]["guardians"] = json!([
            guardian("ping", "up", Some(1.5), Some(3.4), None),
            guardian("real-call", "failing", None, Some(20.0), Some("busy: 486 Busy Here")),
            guardian("own-script", "unchecked", None, None, None)
        ]);
        let removed = [backend("pbx0", "retired", None)];
        let value = json!({
            "unit": {
                "name": "lb-a", "version": "0.1.0", "process": 1, "uptime_s": 90_061, "config": "a.toml", "draining": true
            },
            "farms": [{
                "name": "pbx", "listeners": ["udp:127.0.0.1:5060"],
                "services": [{ "name": "default", "algorithm": "weight", "backends": backends }]
            }, {
                "name": "old", "listeners": [],
                "services": [{ "name": "default", "algorithm": "hash-user", "backends": removed }]
            }],
            "calls": 12, "registrations": 1000, "transactions": 4,
            "rates": { "requests_per_s": 80.5, "responses_per_s": 81.0, "calls_per_s": 2.0 },
            "counters": [
                { "name": "requests", "label": "", "value": 5 },
                { "name": "no_service", "label": "", "value": 2 },
                { "name": "loops", "label": "", "value": 0 },
                { "name": "refused", "label": "missing_via", "value": 31 }
            ],
            "network": {
                "received": 10, "sent": 11, "kernel_drops": 6, "inbox_overflow": 0, "send_errors": 0,
                "last_fault": "192.0.2.9:40001: no TLS",
                "received_per_s": 1.0, "sent_per_s": 1.1,
                "workers": [{ "received": 10, "sent": 11, "helped": 0, "busy_percent": 12.4 }]
            },
            "certificates": [
                { "file": "a.pem", "names": ["sip.example.com", "*.example.net"], "not_after": 1_900_000_000, "days_left": 31 },
                { "file": "b.pem", "names": ["192.0.2.1"], "not_after": 1_800_000_000, "days_left": 30 },
                { "file": "c.pem", "names": [], "not_after": 1_700_000_000, "days_left": -1 }
            ],
            "names": [
                name("tls:a.example", &["tls:10.0.0.11:5061", "tls:10.0.0.12:5061"], Some(75), None),
                name("b.example", &["udp:10.0.0.21:5060"], Some(3_600), Some("the servers are silent")),
                name("c.example", &[], Some(1), None),
                name("d.example", &[], None, Some("no such name"))
            ]
        });
        serde_json::from_value(value).expect("the value has the shape of a status")
    }

    #[test]
    fn the_page_shows_what_an_operator_asks_for() {
        let page = page(&status(), false);
        assert!(page.starts_with("unit lb-a, tandem 0.1.0, up 1d 01:01:01, draining, a.toml\n"), "{page}");
        for part in [
            "12 calls, 1000 registrations, 4 transactions; 80.5 requests/s",
            "farm pbx  udp:127.0.0.1:5060\n  service default (weight)\n",
            "no answer to OPTIONS",
            "  no service            2\n",
            "  refused missing via  31\n",
            "6 dropped by the kernel",
            "last fault of a connection  192.0.2.9:40001: no TLS\n",
            "workers    12 % busy",
            "certificate a.pem  sip.example.com, *.example.net  ends in 31 days\n",
            "certificate c.pem    has ended\n",
            "name tls:a.example  tls:10.0.0.11:5061, tls:10.0.0.12:5061  confirmed 00:01:15 ago\n",
            "name b.example  udp:10.0.0.21:5060  confirmed 01:00:00 ago  the servers are silent\n",
            "name c.example  leads nowhere\n",
            "name d.example  not known  no such name\n",
        ] {
            assert!(page.contains(part), "{part:?} is not in\n{page}");
        }
        assert!(!page.contains("loops") && !page.contains('\x1b'), "{page}");
    }

    #[test]
    fn a_certificate_is_coloured_from_thirty_days_before_its_end() {
        let page = page(&status(), true);
        let is_coloured =
            |file: &str| page.lines().find(|line| line.contains(file)).is_some_and(|line| line.contains('\x1b'));
        assert_eq!(["a.pem", "b.pem", "c.pem"].map(is_coloured), [false, true, true], "{page}");
    }

    #[test]
    fn guardians_are_shown_below_their_backends() {
        let page = page(&status(), false);
        let expected = [
            "  GUARDIAN    BACKEND  STATE           LAST CHECK",
            "  ping        pbx1     up                  1.5 ms   3 s ago",
            "  real-call   pbx1     failing 2 of 3      failed  20 s ago  busy: 486 Busy Here",
            "  own-script  pbx1     unchecked                -         -",
        ];
        assert!(page.contains(&expected.join("\n")), "{page}");
        let coloured = super::page(&status(), true);
        assert!(coloured.contains("\x1b[33mfailing 2 of 3\x1b[0m"), "{coloured}");
    }

    #[test]
    fn a_backend_in_two_services_has_its_guardians_shown_once() {
        let mut status = status();
        let farm = status.farms.first_mut().expect("there are two");
        let again = farm.services.first().expect("it has one").clone();
        farm.services.push(again);
        assert_eq!(page(&status, false).matches("own-script").count(), 1);
    }

    #[test]
    fn events_are_a_line_each() {
        let event = |kind: &str, message: &str| KeptEvent {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            event: kind.to_owned(),
            farm: "pbx".to_owned(),
            backend: "pbx1".to_owned(),
            guardian: String::new(),
            cause: String::new(),
            message: message.to_owned(),
        };
        let events = [event("BackendDown", "backend pbx1 is down"), event("BackendUp", "backend pbx1 is up")];
        let page = events_page(&events, false);
        let expected = "2026-01-01T00:00:00.000Z  BackendDown  backend pbx1 is down\n\
                        2026-01-01T00:00:00.000Z  BackendUp    backend pbx1 is up\n";
        assert_eq!(page, expected);
        assert!(events_page(&events, true).contains("\x1b[31mBackendDown\x1b[0m"));
        assert_eq!(events_page(&[], false), "nothing has happened since the start\n");
    }

    #[test]
    fn retired_backends_are_shown_with_their_farm() {
        let page = page(&status(), false);
        assert!(page.contains("farm old  no longer configured\n  service default (hash-user)\n"), "{page}");
        let row = page.lines().find(|line| line.contains("pbx0")).expect("it has calls");
        assert!(row.contains(" retired ") && row.contains(" 7 "), "{row}");
    }

    #[test]
    fn rows_stand_below_their_titles() {
        let page = page(&status(), false);
        let find = |word: &str| page.lines().find(|line| line.contains(word)).expect("the line is shown").to_owned();
        let (titles, row) = (find("BACKEND"), find("pbx1"));
        assert_eq!(titles.find("STATE"), row.find("up"));
        assert_eq!(titles.find("CALLS").map(|at| at + 5), row.find(" 7 ").map(|at| at + 2));
    }

    #[test]
    fn colours_come_only_where_they_are_wanted() {
        let page = page(&status(), true);
        assert!(page.contains("\x1b[32mup\x1b[0m") && page.contains("\x1b[31mdown\x1b[0m"), "{page}");
        assert!(page.contains("\x1b[31m6 dropped by the kernel\x1b[0m"), "{page}");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(duration(59), "00:00:59");
        assert_eq!(duration(86_400 * 3 + 4 * 3_600 + 5 * 60 + 6), "3d 04:05:06");
        assert_eq!((latency(0), latency(999), latency(1_000)), ("-".into(), "999 us".into(), "1.0 ms".into()));
    }
}
