//! `tandem load` through a unit: each kind of exchange at each pace, a real registrar, and targets that are dead.

use crate::common::namespace;
use crate::common::unit::{Unit, counter};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const UNIT: &str = "127.0.0.20:5060";
const SERVER: &str = "127.0.0.31:5060";
const DOMAIN: &str = "load.example";

/// A farm with one server, which is not pinged: nobody is there between two loads, and no ping shall find that out.
fn farm() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\ndomains = [\"{DOMAIN}\"]\n\
         [[farm.service]]\nname = \"default\"\nguardians = []\n\
         [[farm.backend]]\nname = \"pbx1\"\naddress = \"{SERVER}\"\n"
    )
}

fn program(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(words).stdin(Stdio::null());
    command
}

fn load(words: &[&str]) -> Output {
    program(&["load"]).args(words).output().expect("the program is built before its tests")
}

/// The report of a load through the unit, answered by the generator itself.
fn answered(exchange: &str, words: &[&str]) -> Value {
    answered_at(UNIT, exchange, words)
}

/// As [`answered`], by way of another listener.
fn answered_at(listener: &str, exchange: &str, words: &[&str]) -> Value {
    let output = load(&[&[exchange, "--to", listener, "--answer", SERVER, "--json"][..], words].concat());
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{exchange} {words:?}: {report:#}\n{}", errors(&output));
    assert_eq!(report["success"], true, "{report:#}");
    for key in ["failures", "not_started", "unexpected", "strays", "refused", "kernel_drops"] {
        assert_eq!(report[key], 0, "{key} of {exchange} {words:?}: {report:#}");
    }
    assert_eq!(report["started"], report["completed"], "{report:#}");
    report
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("no JSON: {error}\n{}\n{}", String::from_utf8_lossy(&output.stdout), errors(output))
    })
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("{key} is no count in {report:#}"))
}

/// `tandem demo-pbx`: a registrar that asks for digest credentials. Killed when dropped.
struct Registrar {
    child: Child,
}

impl Registrar {
    fn start(users: &[&str]) -> Self {
        let mut command =
            program(&["demo-pbx", "--name", "pbx1", "--listen", SERVER, "--farm", UNIT, "--domain", DOMAIN]);
        for user in users {
            command.args(["--user", &format!("{user}:secret")]);
        }
        // It ends when its standard input does.
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the program is built before its tests");
        let mut output = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its output is text");
        assert!(line.contains("ready"), "{line}");
        // What it tells from now on is read, so that it never has to wait.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        Self { child }
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn calls_registrations_and_pings_pass_at_either_pace() {
    if !namespace() {
        return;
    }
    let mut unit = Unit::start(&farm());
    let process = unit.process().id().to_string();
    let calls = answered("calls", &["--count", "200", "--hold", "20ms", "--pid", &process]);
    assert_eq!((number(&calls, "completed"), &calls["kind"]), (200, &Value::from("call")));
    assert_eq!(calls["latency_us"]["count"], 200, "{calls:#}");
    // A 180 that its 200 overtakes, when two workers read from one busy socket, stays behind (RFC 3261 §16.7 step 5).
    assert!(number(&calls, "received") >= 1_000 && number(&calls, "sent") >= 1_200, "{calls:#}");
    assert!(calls["target"]["cpu_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{calls:#}");
    let rated = answered("calls", &["--rate", "100", "--duration", "2s", "--warm-up", "200ms"]);
    assert!((199..=201).contains(&number(&rated, "completed")), "{rated:#}");
    let rate = rated["rate_per_second"].as_f64().expect("a rate is a number");
    assert!((90.0..=110.0).contains(&rate), "{rated:#}");
    let registrations = answered("registrations", &["--count", "200", "--from-users", "50", "--concurrency", "4"]);
    assert_eq!((number(&registrations, "completed"), &registrations["latency_us"]["count"]), (200, &Value::from(400)));
    let pings = answered("options", &["--count", "200", "--rate", "400"]);
    assert_eq!(number(&pings, "completed"), 200);
    let status = unit.status();
    assert!(counter(&status, "calls_started", "") >= 400, "{status:#}");
    assert_eq!(number(&status, "registrations"), 50, "{status:#}");
}

/// The same farm on every transport, with a certificate for its address in `ca.pem` of the folder.
fn farm_on_streams(folder: &TempDir) -> String {
    let params = CertificateParams::new(vec!["127.0.0.20".to_owned()]).expect("an address is a name");
    let key = KeyPair::generate().expect("a key is made");
    let certificate = params.self_signed(&key).expect("it signs itself");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("the folder is ours");
    };
    write("ca.pem", &certificate.pem());
    write("unit.pem", &format!("{}{}", certificate.pem(), key.serialize_pem()));
    let listeners = LISTENERS.map(|(transport, address)| format!("\"{transport}:{address}\"")).join(", ");
    let pem = folder.path().join("unit.pem");
    farm().replace(
        &format!("listen = [\"udp:{UNIT}\"]"),
        &format!("listen = [\"udp:{UNIT}\", {listeners}]\ncertificates = [\"{}\"]", pem.display()),
    )
}

const LISTENERS: [(&str, &str); 4] =
    [("tcp", UNIT), ("tls", "127.0.0.20:5061"), ("ws", "127.0.0.20:8080"), ("wss", "127.0.0.20:8443")];

#[test]
fn streams_are_loaded_as_datagrams_are() {
    if !namespace() {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let unit = Unit::start(&farm_on_streams(&folder));
    let ca = folder.path().join("ca.pem").to_string_lossy().into_owned();
    for (transport, listener) in LISTENERS {
        for exchange in ["calls", "registrations", "options"] {
            let mut words = vec!["--transport", transport, "--connections", "8", "--count", "80", "--domain", DOMAIN];
            if matches!(transport, "tls" | "wss") {
                words.extend(["--ca", ca.as_str()]);
            }
            let report = answered_at(listener, exchange, &words);
            assert_eq!(
                (&report["transport"], number(&report, "completed")),
                (&Value::from(transport), 80),
                "{report:#}"
            );
            let connections = &report["connections"];
            assert_eq!(
                (&connections["opened"], &connections["losses"]),
                (&Value::from(8), &Value::from(0)),
                "{report:#}"
            );
            assert_eq!(connections["handshake_us"]["count"], 8, "{report:#}");
            assert_eq!(report["retransmissions"]["sent"], 0, "{report:#}");
        }
    }
    assert!(number(&unit.status(), "registrations") > 0);
}

#[test]
fn a_storm_of_phones_is_registered_and_idle_ones_stay() {
    if !namespace() {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let mut unit = Unit::start(&farm_on_streams(&folder));
    let process = unit.process().id().to_string();
    let (_, tls) = LISTENERS[1];
    let words = ["--transport", "tls", "--insecure", "--connections", "150", "--storm", "--domain", DOMAIN];
    for _ in 0..2 {
        let report = answered_at(tls, "registrations", &words);
        assert_eq!(
            (number(&report, "completed"), &report["connections"]["opened"]),
            (150, &Value::from(150)),
            "{report:#}"
        );
    }
    assert_eq!(number(&unit.status(), "registrations"), 150);
    let output = load(&[
        "idle",
        "--to",
        tls,
        "--transport",
        "tls",
        "--insecure",
        "--connections",
        "50",
        "--hold",
        "1500ms",
        "--ping",
        "500ms",
        "--pid",
        &process,
        "--json",
    ]);
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{}", errors(&output));
    assert_eq!((number(&report, "stayed"), number(&report, "unanswered")), (50, 0), "{report:#}");
    assert!(number(&report, "pings") >= 100, "{report:#}");
    assert!(report["target"]["rss_open_bytes"].as_u64().is_some_and(|bytes| bytes > 1_000_000), "{report:#}");
}

#[test]
fn whoever_is_not_believed_is_not_loaded() {
    if !namespace() {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let _unit = Unit::start(&farm_on_streams(&folder));
    let (_, tls) = LISTENERS[1];
    let words = ["options", "--to", tls, "--no-answer", "--transport", "tls", "--connections", "2", "--count", "2"];
    let unasked = load(&words);
    assert_eq!(unasked.status.code(), Some(1));
    assert!(errors(&unasked).contains("--ca FILE"), "{}", errors(&unasked));
    let ca = folder.path().join("ca.pem").to_string_lossy().into_owned();
    let other = ["--ca", ca.as_str(), "--server-name", "pbx.example", "--wait", "0s", "--json"];
    let output = load(&[&words[..], &other[..]].concat());
    let report = report(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["failed"], serde_json::json!({ "connection_lost": 2 }), "{report:#}");
    assert_eq!(report["connections"]["opened"], 0, "{report:#}");
    assert!(report["connections"]["failed"]["certificate"].as_u64().is_some_and(|count| count >= 2), "{report:#}");
}

#[test]
fn the_text_has_a_histogram_and_progress_is_told_where_it_is_wanted() {
    if !namespace() {
        return;
    }
    let _unit = Unit::start(&farm());
    let output =
        load(&["calls", "--to", UNIT, "--answer", SERVER, "--rate", "50", "--duration", "2500ms", "--progress"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}\n{}", errors(&output));
    assert!(text.starts_with("calls, 50 a second: 125 completed in "), "{text}");
    assert!(text.contains("p99.99") && text.lines().any(|line| line.ends_with("##########")), "{text}");
    let told = errors(&output);
    assert!(told.lines().count() >= 2 && told.contains("completed, "), "{told}");
}

#[test]
fn a_registrar_that_asks_for_passwords_is_loaded() {
    if !namespace() {
        return;
    }
    let _registrar = Registrar::start(&["1000", "1001", "1002"]);
    let unit = Unit::start(&farm());
    let words = |password: &'static str| {
        [
            "registrations",
            "--to",
            UNIT,
            "--no-answer",
            "--from-users",
            "3",
            "--from-user",
            "1###",
            "--domain",
            DOMAIN,
            "--count",
            "30",
            "--concurrency",
            "3",
            "--json",
            "--password",
            password,
        ]
    };
    let output = load(&words("secret"));
    let good = report(&output);
    assert_eq!(output.status.code(), Some(0), "{good:#}\n{}", errors(&output));
    assert_eq!((number(&good, "completed"), number(&good, "failures")), (30, 0), "{good:#}");
    assert_eq!(number(&unit.status(), "registrations"), 3);
    let output = load(&words("wrong"));
    let bad = report(&output);
    assert_eq!(output.status.code(), Some(1), "{bad:#}");
    assert_eq!((number(&bad, "completed"), number(&bad, "failures")), (0, 30), "{bad:#}");
    let reasons = bad["failed"].as_object().expect("reasons and their counts");
    assert!(reasons.keys().all(|reason| reason.starts_with('4')), "{bad:#}");
}

#[test]
fn dead_targets_fail_with_their_reasons() {
    if !namespace() {
        return;
    }
    let _unit = Unit::start(&farm());
    // A farm whose server is dead answers for it.
    let words = ["calls", "--to", UNIT, "--no-answer", "--count", "5", "--concurrency", "5", "--wait", "0s", "--json"];
    let output = load(&words);
    let refused = report(&output);
    assert_eq!((output.status.code(), number(&refused, "failures")), (Some(1), 5), "{refused:#}");
    let reasons = refused["failed"].as_object().expect("reasons and their counts");
    assert!(reasons.keys().all(|reason| reason.starts_with('5') || reason == "408"), "{refused:#}");
    assert_eq!(reasons.values().filter_map(Value::as_u64).sum::<u64>(), 5, "{refused:#}");
    // Where nobody is, nobody answers.
    let nobody = "127.0.0.99:5060";
    let words =
        ["options", "--to", nobody, "--no-answer", "--count", "3", "--wait", "300ms", "--grace", "700ms", "--json"];
    let output = load(&words);
    let silent = report(&output);
    assert_eq!(output.status.code(), Some(1), "{silent:#}");
    assert_eq!(silent["failed"], serde_json::json!({ "unfinished": 3 }), "{silent:#}");
    assert!(number(&silent, "refused") >= 3 && silent["success"] == false, "{silent:#}");
    assert_eq!(silent["latency_us"]["count"], 0, "{silent:#}");
}

#[test]
fn an_interrupted_load_reports_what_it_did() {
    if !namespace() {
        return;
    }
    let _unit = Unit::start(&farm());
    let mut child = program(&["load", "calls", "--to", UNIT, "--answer", SERVER, "--rate", "50", "--hold", "1h"])
        .args(["--duration", "1h", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built before its tests");
    std::thread::sleep(Duration::from_millis(1_500));
    crate::common::process::signal(child.id(), "INT");
    let ended = crate::common::holds_within(Duration::from_secs(8), || matches!(child.try_wait(), Ok(Some(_))));
    if !ended {
        let _ = child.kill();
    }
    let output = child.wait_with_output().expect("the child is ours");
    assert!(ended, "it goes on\n{}", errors(&output));
    let report = report(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}\n{}", errors(&output));
    assert!(number(&report, "completed") >= 20, "calls that are held end by their BYE: {report:#}");
}

#[test]
fn a_target_of_somebody_elses_is_not_loaded() {
    let output = load(&["calls", "--to", "192.0.2.1", "--no-answer", "--count", "1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("--i-own-the-target"), "{}", errors(&output));
    assert!(output.stdout.is_empty());
}
