//! The running unit: how it starts, takes a new configuration, drains, ends, and is asked.

use crate::common::wire::{Call, Station, offer, request};
use crate::common::{Unit, holds_within, namespace};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::time::Duration;

const UNIT: &str = "127.0.0.20:5060";
const OTHER: &str = "127.0.0.21:5060";
const SERVER: &str = "127.0.0.31:5060";
const PHONE: &str = "127.0.0.40:5060";
const SOON: Duration = Duration::from_secs(10);

fn config(head: &str, listen: &[&str]) -> String {
    let listen: Vec<String> = listen.iter().map(|address| format!("\"udp:{address}\"")).collect();
    format!(
        "{head}\n[[farm]]\nname = \"pbx\"\nlisten = [{}]\n[[farm.backend]]\nname = \"pbx1\"\naddress = \"{SERVER}\"\n",
        listen.join(", ")
    )
}

/// Sends an OPTIONS for the farm itself and returns the status of its answer.
fn ask(phone: &Station, listener: &str, call_id: &str) -> Option<u16> {
    phone.send(request("OPTIONS", &format!("sip:{listener}"), phone.address, call_id, 1, "", ""), listener);
    phone.final_answer().code()
}

/// Asks the control socket and returns its answer.
fn control(unit: &Unit, line: &str) -> Value {
    let mut stream = UnixStream::connect(unit.state_dir().join("control.sock")).expect("the unit runs");
    stream.set_read_timeout(Some(SOON)).expect("the time is not nought");
    writeln!(stream, "{line}").expect("the unit reads");
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).expect("the unit answers");
    serde_json::from_str(&answer).expect("the answer is JSON")
}

/// `tandem run` beside `unit`, on the same file and folder.
fn run_again(unit: &Unit) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(["run", "--config"])
        .arg(unit.config())
        .arg("--state-dir")
        .arg(unit.state_dir())
        .output()
        .expect("the program is built before its tests")
}

#[test]
fn a_unit_says_where_it_listens_and_ends_when_told() {
    if !namespace() {
        return;
    }
    let mut unit = Unit::start(&config("[unit]\nname = \"lb-a\"", &[UNIT, OTHER]));
    let said = unit.process().output();
    assert!(said.contains("unit lb-a"), "{said}");
    assert!(said.contains("listening at udp:127.0.0.20:5060 (farm pbx)\n"), "{said}");
    assert!(said.contains("listening at udp:127.0.0.21:5060 (farm pbx)\nready\n"), "{said}");
    unit.process().signal("TERM");
    let status = unit.process().wait(SOON);
    assert_eq!(status.code(), Some(0), "{}", unit.said());
    assert!(!unit.state_dir().join("control.sock").exists());
    assert!(unit.process().errors().contains("the unit has ended: every request is answered"), "{}", unit.said());
    let status = unit.run(&["status"]);
    assert_eq!(status.status.code(), Some(1));
}

#[test]
fn a_wrong_file_never_replaces_the_running_one() {
    if !namespace() {
        return;
    }
    // First, so that no ping is sent where nobody listens.
    let _server = Station::at(SERVER);
    let mut unit = Unit::start(&config("", &[UNIT]));
    let phone = Station::at(PHONE);
    let wrong = config("[log]\nlevel = \"loud\"", &[OTHER]).replace("address =", "adress =");
    std::fs::write(unit.config(), wrong).expect("the folder is ours");
    unit.process().signal("HUP");
    let refused = holds_within(SOON, || unit.process().errors().contains("ReloadRefused"));
    assert!(refused, "{}", unit.said());
    let errors = unit.process().errors();
    assert!(errors.contains("tandem.toml:2:") && errors.contains("`adress`"), "all errors are told: {errors}");
    assert_eq!(ask(&phone, UNIT, "after"), Some(200), "the old configuration goes on");
    let answer = control(&unit, "{\"do\":\"reload\"}");
    assert!(answer.get("error").and_then(Value::as_str).is_some_and(|error| error.contains("adress")), "{answer}");
    std::fs::remove_file(unit.config()).expect("the folder is ours");
    assert!(control(&unit, "{\"do\":\"reload\"}").get("error").is_some());
    assert_eq!(ask(&phone, UNIT, "last"), Some(200));
}

#[test]
fn a_reload_opens_all_its_listeners_or_none() {
    if !namespace() {
        return;
    }
    // First, so that no ping is sent where nobody listens.
    let _server = Station::at(SERVER);
    let mut unit = Unit::start(&config("", &[UNIT]));
    let phone = Station::at(PHONE);
    let both = config("[log]\nlevel = \"debug\"", &[UNIT, OTHER]);
    let held = UdpSocket::bind(OTHER).expect("the namespace is ours");
    std::fs::write(unit.config(), &both).expect("the folder is ours");
    unit.process().signal("HUP");
    let refused = holds_within(SOON, || unit.process().errors().contains("address in use"));
    assert!(refused, "{}", unit.said());
    assert_eq!(ask(&phone, UNIT, "first"), Some(200));
    drop(held);
    let answer = control(&unit, "{\"do\":\"reload\"}");
    let changes = answer.get("changes").and_then(Value::as_array).expect("it is taken up now");
    let told: Vec<&str> = changes.iter().filter_map(Value::as_str).collect();
    assert_eq!(told, ["log: level info -> debug", "farm pbx: listener udp:127.0.0.21:5060 added"]);
    assert_eq!(ask(&phone, OTHER, "second"), Some(200));
    assert_eq!(ask(&phone, UNIT, "third"), Some(200));
}

#[test]
fn draining_refuses_new_calls_and_lets_others_be_set_up() {
    if !namespace() {
        return;
    }
    let server = Station::at(SERVER);
    let mut unit = Unit::start(&config("", &[UNIT]));
    let phone = Station::at(PHONE);
    let uri = format!("sip:clyde@{UNIT}");
    phone.send(request("INVITE", &uri, phone.address, "early", 1, "", &offer(phone.address)), UNIT);
    let (invite, from) = server.request("INVITE");
    server.answer(&invite, "180 Ringing", from);
    unit.process().signal("TERM");
    let draining =
        holds_within(SOON, || unit.status().pointer("/unit/draining").and_then(Value::as_bool) == Some(true));
    assert!(draining, "{}", unit.said());
    phone.send(request("INVITE", &uri, phone.address, "late", 1, "", &offer(phone.address)), UNIT);
    let (refusal, _) = phone.expect("refusal", |taken| {
        taken.text("call-id").as_deref() == Some("late") && taken.code().is_some_and(|code| code >= 200)
    });
    assert_eq!(refusal.code(), Some(503), "{}", refusal.first_line());
    server.send(invite.response("200 OK", &format!("Contact: <sip:{SERVER}>\r\n"), b""), &from.to_string());
    let (answer, _) = phone.expect("answer", |taken| {
        taken.text("call-id").as_deref() == Some("early") && taken.code().is_some_and(|code| code >= 200)
    });
    assert_eq!(answer.code(), Some(200));
    let status = unit.process().wait(Duration::from_secs(3));
    assert_eq!(status.code(), Some(0), "it ends with the last answer, not after 30 s: {}", unit.said());
    let errors = unit.process().errors();
    assert!(errors.contains("draining: 1 request unanswered, 0 calls stay up, 30 s left"), "{errors}");
    assert!(errors.contains("the unit has ended: every request is answered; 1 call stays up"), "{errors}");
}

#[test]
fn what_lingers_for_its_timers_keeps_no_unit_from_ending() {
    if !namespace() {
        return;
    }
    let server = Station::at(SERVER);
    let mut unit = Unit::start(&config("", &[UNIT]));
    let phone = Station::at(PHONE);
    Call::establish(&phone, UNIT, &server, "bonnie", "up");
    // A call that is refused, and whose ACK never comes, lives on for 32 s.
    phone.send(request("INVITE", &format!("sip:clyde@{UNIT}"), phone.address, "busy", 1, "", ""), UNIT);
    let (invite, from) = server.expect("INVITE", |taken| {
        taken.start.starts_with(b"INVITE ") && taken.text("call-id").as_deref() == Some("busy")
    });
    server.answer(&invite, "486 Busy Here", from);
    assert_eq!(phone.final_answer().code(), Some(486));
    assert!(unit.status().get("transactions").and_then(Value::as_u64) > Some(0), "{}", unit.status());
    unit.process().signal("TERM");
    let status = unit.process().wait(Duration::from_secs(3));
    assert_eq!(status.code(), Some(0), "{}", unit.said());
    assert!(unit.process().errors().contains("every request is answered; 1 call stays up"), "{}", unit.said());
}

#[test]
fn a_second_signal_ends_it_at_once() {
    if !namespace() {
        return;
    }
    let server = Station::at(SERVER);
    let mut unit = Unit::start(&config("", &[UNIT]));
    let phone = Station::at(PHONE);
    phone.send(request("INVITE", &format!("sip:clyde@{UNIT}"), phone.address, "rings", 1, "", ""), UNIT);
    let (invite, from) = server.request("INVITE");
    server.answer(&invite, "180 Ringing", from);
    unit.process().signal("TERM");
    let told = holds_within(SOON, || unit.process().errors().contains("draining: 1 request unanswered"));
    assert!(told, "{}", unit.said());
    unit.process().signal("INT");
    let status = unit.process().wait(Duration::from_secs(3));
    assert_eq!(status.code(), Some(0), "{}", unit.said());
    assert!(unit.process().errors().contains("told to end at once, with 1 request unanswered"), "{}", unit.said());
}

#[test]
fn a_removed_backend_with_a_call_is_shown_as_retired() {
    if !namespace() {
        return;
    }
    let server = Station::at(SERVER);
    let unit = Unit::start(&config("", &[UNIT]));
    let phone = Station::at(PHONE);
    let call = Call::establish(&phone, UNIT, &server, "bonnie", "up");
    let state = |status: &Value, name: &str| -> Option<String> {
        let backend = crate::common::unit::backend(status, name)?;
        backend.get("state").and_then(Value::as_str).map(str::to_owned)
    };
    let _other = Station::at("127.0.0.32:5060");
    let moved = config("", &[UNIT]).replace("\"pbx1\"", "\"pbx2\"").replace(SERVER, "127.0.0.32:5060");
    unit.reload(&moved, |status| state(status, "pbx2").is_some());
    assert_eq!(state(&unit.status(), "pbx1").as_deref(), Some("retired"), "{}", unit.status());
    let page = unit.run(&["status"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    let row = page.lines().find(|line| line.contains("pbx1")).unwrap_or_default();
    assert!(row.contains(SERVER) && row.contains("retired"), "{page}");
    phone.send(call.by_caller("BYE", 2, phone.address, ""), UNIT);
    let (bye, from) = server.request("BYE");
    server.answer(&bye, "200 OK", from);
    assert_eq!(phone.final_answer().code(), Some(200));
    let gone = holds_within(SOON, || state(&unit.status(), "pbx1").is_none());
    assert!(gone, "its last call has ended: {}", unit.status());
}

#[test]
fn a_state_folder_has_one_unit_and_survives_its_death() {
    if !namespace() {
        return;
    }
    let mut unit = Unit::start(&config("", &[UNIT]));
    let output = run_again(&unit);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("error: nothing was started: another unit runs with the state folder"), "{errors}");
    let secret = std::fs::read(unit.state_dir().join("secret")).expect("the first start made it");
    let epoch = |unit: &Unit| -> u32 {
        let text = std::fs::read_to_string(unit.state_dir().join("epoch")).expect("each start writes it");
        text.trim().parse().expect("it is a number")
    };
    let first = epoch(&unit);
    unit.kill();
    unit.restart();
    assert!(epoch(&unit) > first, "an answer to the dead process must not be taken for ours");
    assert_eq!(std::fs::read(unit.state_dir().join("secret")).expect("it is kept"), secret);
    assert_eq!(unit.status().pointer("/unit/draining").and_then(Value::as_bool), Some(false));
}

#[test]
fn the_control_socket_bears_nonsense() {
    if !namespace() {
        return;
    }
    let unit = Unit::start(&config("", &[UNIT]));
    let path = unit.state_dir().join("control.sock");
    for line in ["", "{}", "{\"do\":\"fly\"}", "\u{fffd}", "{\"do\":\"explain\",\"message\":\"0\"}"] {
        assert!(control(&unit, line).get("error").is_some(), "{line:?}");
    }
    // A line without an end is not kept for ever, nor beyond its bound.
    let mut endless = UnixStream::connect(&path).expect("the unit runs");
    let chunk = vec![b'x'; 64 << 10];
    let written = (0..64).take_while(|_| endless.write_all(&chunk).is_ok()).count();
    assert!(written < 64, "four megabytes were taken");
    // Those beyond the sixteenth are told so, and all are served again when the others have left.
    let held: Vec<UnixStream> = (0..16).map(|_| UnixStream::connect(&path).expect("the unit runs")).collect();
    let refused = holds_within(SOON, || {
        let mut stream = UnixStream::connect(&path).expect("the unit runs");
        stream.set_read_timeout(Some(Duration::from_millis(200))).expect("the time is not nought");
        let mut text = String::new();
        // Without an answer in time we are no further than the sixteenth.
        let _served = stream.read_to_string(&mut text);
        text.contains("more than 16 connections")
    });
    assert!(refused, "{}", unit.said());
    drop(held);
    let served = holds_within(SOON, || unit.run(&["status", "--json"]).status.success());
    assert!(served, "{}", unit.said());
}

#[test]
fn the_running_unit_explains_and_shows_itself() {
    if !namespace() {
        return;
    }
    let server = Station::at(SERVER);
    let unit = Unit::start(&config("", &[UNIT]));
    let file = unit.folder().join("invite.sip");
    std::fs::write(&file, request("INVITE", "sip:clyde@127.0.0.20", server.address, "why", 1, "", ""))
        .expect("the folder is ours");
    let output = unit.run(&["explain", "--live", "--from", PHONE, &file.to_string_lossy()]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains(&format!("from {PHONE}")), "{shown}");
    assert!(shown.contains("=> forwarded to pbx1 at 127.0.0.31:5060"), "{shown}");
    assert_eq!(server.drain(), 0, "nothing is sent");
    let page = unit.run(&["status"]);
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    assert!(page.contains("farm pbx  udp:127.0.0.20:5060") && page.contains("pbx1"), "{page}");
    assert!(!page.contains('\x1b'), "colours are for terminals: {page}");
}

#[test]
fn the_log_can_be_json_and_tells_of_dead_backends() {
    if !namespace() {
        return;
    }
    // Nothing listens at the server's address: the first ping comes back undelivered.
    let mut unit = Unit::start(&config("[log]\nformat = \"json\"", &[UNIT]));
    let told = holds_within(Duration::from_secs(40), || unit.process().errors().contains("BackendDown"));
    assert!(told, "{}", unit.said());
    let errors = unit.process().errors();
    let lines: Vec<Value> = errors.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let down = lines
        .iter()
        .find(|line| line.get("event").and_then(Value::as_str) == Some("BackendDown"))
        .expect("it was found a moment ago");
    assert_eq!(down.get("backend").and_then(Value::as_str), Some("pbx1"));
    assert_eq!(down.get("level").and_then(Value::as_str), Some("warn"));
    let status = unit.status();
    let backend = crate::common::unit::backend(&status, "pbx1").expect("it is configured");
    assert_eq!(backend.get("state").and_then(Value::as_str), Some("down"));
    assert!(backend.get("cause").and_then(Value::as_str).is_some(), "{backend}");
}
