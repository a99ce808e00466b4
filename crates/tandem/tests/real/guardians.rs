//! Farm Guardian at work: checks of every kind against real servers, what they do to a backend, and what they leave behind.

mod cut;
mod echo_box;
mod many;
mod soon_back;
mod transports;

use crate::common::certificates::Authority;
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::unit::{backend, counter};
use crate::common::wire::{Station, Taken, offer, request};
use crate::common::{Process, Unit, holds_within, namespace, peer, sipp};
use echo_box::{Echo, EchoBox};
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const FARM: &str = "127.0.0.20";
const UNIT: &str = "127.0.0.20:5060";
const FIRST: &str = "127.0.0.31";
const SECOND: &str = "127.0.0.32";
const CALLER: &str = "127.0.0.40:5060";
const SOON: Duration = Duration::from_secs(20);
/// Of the guardians here, but where it is said otherwise: 1.1 × 3 failures × 3 s + 3 s.
const FOUND_OUT: Duration = Duration::from_millis(12_900);
const RHYTHM: &str = "interval = \"3s\"\ntimeout = \"3s\"\n";

/// Files of the test: audio of a second, and what servers need.
struct World {
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        std::fs::write(folder.path().join("beep.ulaw"), vec![0x55_u8; 8_000]).expect("the folder is ours");
        Self { folder }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("the folder is ours");
        path.to_str().expect("the system's folder has a plain name").to_owned()
    }

    fn sound(&self) -> String {
        self.path().join("beep.ulaw").to_str().expect("the system's folder has a plain name").to_owned()
    }

    /// A guardian that calls, with further lines.
    fn call(&self, name: &str, lines: &str) -> String {
        let rhythm = if lines.contains("interval") { "" } else { RHYTHM };
        format!(
            "[[guardian]]\nname = \"{name}\"\ncheck = \"call\"\nfrom = \"sip:bonnie@example.com\"\nto = \"sip:clyde@HOST:PORT\"\n\
             send = [\"{}\"]\n{rhythm}{lines}\n",
            self.sound()
        )
    }

    /// sipp as a server at port 5060 of a host, with its echo at port 6000.
    fn sipp(&self, scenario: &str, name: &str, host: &str, arguments: &[&str]) -> Process {
        let file = sipp::scenario(&format!("guardians/{scenario}"));
        let audio = ["-mi", host, "-mp", "6000", "-rtp_echo", "-recv_timeout", "90000"];
        sipp::serve(self.path(), &file, name, &format!("{host}:5060"), &[&audio[..], arguments].concat())
    }
}

/// A farm whose one service has these guardians, with a backend at each host, and the guardians' tables.
fn farm(guardians: &str, hosts: &[&str], tables: &str) -> String {
    let mut text = format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n[[farm.service]]\nname = \"default\"\nguardians = [{guardians}]\n"
    );
    for (at, host) in hosts.iter().enumerate() {
        text.push_str(&format!("[[farm.backend]]\nname = \"pbx{}\"\naddress = \"{host}:5060\"\n", at + 1));
    }
    text + tables
}

fn text_of(value: Option<&Value>, key: &str) -> String {
    value.and_then(|value| value.get(key)).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn state(status: &Value, name: &str) -> String {
    text_of(backend(status, name), "state")
}

fn cause(status: &Value, name: &str) -> String {
    text_of(backend(status, name), "cause")
}

/// What the status says of one guardian of a backend.
fn guardian<'a>(status: &'a Value, name: &str, guardian: &str) -> Option<&'a Value> {
    let guardians = backend(status, name)?.get("guardians")?.as_array()?;
    guardians.iter().find(|one| one.get("name").and_then(Value::as_str) == Some(guardian))
}

fn guardian_state(status: &Value, name: &str, of: &str) -> String {
    text_of(guardian(status, name, of), "state")
}

/// Waits until a guardian is in this state.
fn expect_guardian(unit: &Unit, name: &str, of: &str, wanted: &str) -> Value {
    let reached = holds_within(SOON, || guardian_state(&unit.status(), name, of) == wanted);
    let status = unit.status();
    assert!(reached, "guardian {of} of {name} is not {wanted}: {status:#}\n{}", unit.said());
    status
}

/// Waits until a backend is in this state.
fn expect_state(unit: &Unit, name: &str, wanted: &str, limit: Duration) -> Value {
    let reached = holds_within(limit, || state(&unit.status(), name) == wanted);
    let status = unit.status();
    assert!(reached, "{name} is not {wanted} within {limit:?}: {status:#}\n{}", unit.said());
    status
}

/// Where a call through the unit ends up: the Contact of its answer.
fn answered_by(phone: &Station, call_id: &str) -> String {
    answer_to_call(phone, call_id).uri("contact")
}

/// Calls through the unit; the answer is a 200.
fn answer_to_call(phone: &Station, call_id: &str) -> Taken {
    let uri = format!("sip:clyde@{UNIT}");
    phone.send(request("INVITE", &uri, phone.address, call_id, 1, "", &offer(phone.address)), UNIT);
    let (answer, _) = phone.expect("final answer", |taken| {
        taken.text("call-id").as_deref() == Some(call_id) && taken.code().is_some_and(|code| code >= 200)
    });
    assert_eq!(answer.code(), Some(200), "{}", answer.first_line());
    answer
}

/// `tandem` with these arguments.
fn tandem(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tandem")).args(arguments).output().expect("the program is built before its tests")
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_box_that_answers_options_and_refuses_calls_goes_down() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let world = World::new();
    let _first = world.sipp("echo", "first", FIRST, &[]);
    let mut second = world.sipp("echo", "second", SECOND, &[]);
    let ping = format!("[[guardian]]\nname = \"ping\"\ncheck = \"options\"\n{RHYTHM}");
    let tables = ping + &world.call("real-call", "expect_audio = true");
    let mut unit = Unit::start(&farm("\"ping\", \"real-call\"", &[FIRST, SECOND], &tables));
    for name in ["pbx1", "pbx2"] {
        expect_guardian(&unit, name, "real-call", "up");
        expect_guardian(&unit, name, "ping", "up");
    }

    second.kill();
    let mut refusing = world.sipp("refuses", "refusing", SECOND, &[]);
    let status = expect_state(&unit, "pbx2", "down", FOUND_OUT);
    let cause = cause(&status, "pbx2");
    assert!(cause.contains("INVITE refused: 503") && cause.contains("(guardian real-call)"), "{cause}");
    assert_eq!(
        (state(&status, "pbx1").as_str(), guardian_state(&status, "pbx2", "real-call").as_str()),
        ("up", "down")
    );
    expect_guardian(&unit, "pbx2", "ping", "up");
    let errors = unit.process().errors();
    let line = errors.lines().find(|line| line.contains("BackendDown")).unwrap_or_default();
    assert!(line.contains("pbx2") && line.contains("INVITE refused: 503"), "{errors}");
    let phone = Station::at(CALLER);
    for number in 0..6 {
        let contact = answered_by(&phone, &format!("user{number}"));
        assert!(contact.contains(FIRST), "{contact}");
    }

    refusing.kill();
    let _again = world.sipp("echo", "again", SECOND, &[]);
    expect_state(&unit, "pbx2", "up", SOON);
    let told = holds_within(SOON, || unit.process().errors().contains("its checks are good (guardian real-call)"));
    assert!(told, "{}", unit.said());
}

#[test]
fn a_plugin_decides_by_its_exit_code() {
    const PLUGIN: &str = "/usr/lib/nagios/plugins/check_tcp";
    if peer(PLUGIN).is_none() || !namespace() {
        return;
    }
    let listener = TcpListener::bind((FIRST, 5060)).expect("the namespace is ours");
    let table =
        format!("[[guardian]]\nname = \"port\"\ncheck = \"exec\"\ncommand = \"{PLUGIN} -H HOST -p PORT\"\n{RHYTHM}");
    let unit = Unit::start(&farm("\"port\"", &[FIRST], &table));
    let status = expect_guardian(&unit, "pbx1", "port", "up");
    let port = guardian(&status, "pbx1", "port");
    assert!(text_of(port, "said").starts_with("TCP OK"), "{port:?}");
    assert_eq!(port.and_then(|port| port.get("exit_code")).and_then(Value::as_i64), Some(0), "{port:?}");
    drop(listener);
    let status = expect_state(&unit, "pbx1", "down", FOUND_OUT);
    let cause = cause(&status, "pbx1");
    assert!(cause.starts_with("exit code 2: ") && cause.ends_with("(guardian port)"), "{cause}");
    let _listener = TcpListener::bind((FIRST, 5060)).expect("the namespace is ours");
    expect_state(&unit, "pbx1", "up", SOON);
}

/// The appliance's command line works where no program of that name is installed.
#[test]
fn check_sip_is_found_in_our_own_program() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let server = EchoBox::at(FIRST);
    let command = format!("check_sip -T 3 -S {} sip:bonnie@example.com sip:clyde@HOST:PORT", world.sound());
    let table = format!(
        "[[guardian]]\nname = \"own\"\ncheck = \"exec\"\ncommand = \"{command}\"\ninterval = \"3s\"\ntimeout = \"4s\"\n"
    );
    let unit = Unit::start(&farm("\"own\"", &[FIRST], &table));
    let status = expect_guardian(&unit, "pbx1", "own", "up");
    let said = text_of(guardian(&status, "pbx1", "own"), "said");
    assert!(said.starts_with("SIP OK - ") && !said.contains('|'), "{said}");
    let output = text_of(guardian(&status, "pbx1", "own"), "output");
    assert!(output.starts_with(&said) && output.contains(" | "), "{output}");
    let known = server.known();
    assert!(known.calls >= 1 && known.registrations == 0 && known.packets >= 50, "{known:?}");
    drop(server);
    let status = expect_state(&unit, "pbx1", "down", SOON);
    let cause = cause(&status, "pbx1");
    assert!(cause.starts_with("exit code 2: SIP CRITICAL - "), "{cause}");
}

#[test]
fn a_command_that_overruns_is_killed_with_what_it_started() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let pids = world.path().join("pids");
    // Neither listens to SIGTERM: what is ignored stays ignored in children.
    let script = format!("trap '' TERM\nsleep 300 &\necho $$ $! >> {}\necho it hangs\nwait\n", pids.display());
    let script = world.file("hangs.sh", &script);
    let table = format!(
        "[[guardian]]\nname = \"own\"\ncheck = \"exec\"\ncommand = \"/bin/sh {script}\"\ninterval = \"6s\"\n\
         timeout = \"1s\"\nfall = 1\n"
    );
    let unit = Unit::start(&farm("\"own\"", &[FIRST], &table));
    let status = expect_state(&unit, "pbx1", "down", SOON);
    let cause = cause(&status, "pbx1");
    assert!(cause.contains("it did not end in time and was stopped after") && cause.contains("it hangs"), "{cause}");
    let written = std::fs::read_to_string(&pids).expect("the script wrote it");
    let processes: Vec<u32> = written.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    // The next check is seconds ahead.
    assert_eq!(processes.len(), 2, "{written}");
    for process in processes {
        assert!(holds_within(Duration::from_secs(2), || is_gone(process)), "{process} of {written} still runs");
    }
    assert!(counter(&status, "checks_failed", "") >= 1, "{status:#}");
}

/// A zombie is gone too: it is for its new parent to reap.
fn is_gone(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn connections_certificates_and_accounts_are_checked_against_kamailio() {
    if peer("kamailio").is_none() || !kamailio::has_tls() || !namespace() {
        return;
    }
    let world = World::new();
    let authority = Authority::new("authority of the test");
    let ca = authority.own_file(world.path(), "authority.pem");
    let own = authority.issue_file(world.path(), "farm.pem", &[FARM]);
    let right = authority.issue_file(world.path(), "right.pem", &[FIRST]);
    let wrong = authority.issue_file(world.path(), "wrong.pem", &["elsewhere.example.com"]);
    let server =
        |name: &'static str, host: &'static str| Server { name, realm: "shared", host, farm: FARM, users: "bonnie" };
    let mut first = kamailio::start_with_streams(world.path(), &server("a", FIRST), &right);
    let _second = kamailio::start_with_streams(world.path(), &server("b", SECOND), &wrong);
    let (good, bad) = (world.file("good", &format!("{PASSWORD}\n")), world.file("bad", "guessed\n"));
    let account = |name: &str, file: &str, lines: &str| {
        format!(
            "[[guardian]]\nname = \"{name}\"\ncheck = \"register\"\nfrom = \"sip:bonnie@HOST\"\nusername = \"bonnie\"\n\
             password_file = \"{file}\"\n{RHYTHM}{lines}"
        )
    };
    let secured = |name: &str, host: &str| {
        format!(
            "[[farm.backend]]\nname = \"{name}\"\naddress = \"{host}:5061\"\ntransport = \"tls\"\nverify = \"{ca}\"\n"
        )
    };
    let unit = Unit::start(&format!(
        "[[farm]]\nname = \"streams\"\nlisten = [\"udp:{UNIT}\", \"tcp:{UNIT}\", \"tls:{FARM}:5061\"]\n\
         certificates = [\"{own}\"]\n\
         [[farm.service]]\nname = \"default\"\nguardians = [\"secured\"]\n{}{}\
         [[farm]]\nname = \"plain\"\nlisten = [\"udp:127.0.0.21:5060\"]\n\
         [[farm.service]]\nname = \"default\"\nguardians = [\"port\", \"account\", \"guess\"]\n\
         [[farm.backend]]\nname = \"plain\"\naddress = \"{FIRST}:5060\"\n\
         [[guardian]]\nname = \"secured\"\ncheck = \"tls\"\n{RHYTHM}\
         [[guardian]]\nname = \"port\"\ncheck = \"tcp\"\n{RHYTHM}{}{}",
        secured("right", FIRST),
        secured("wrong", SECOND),
        account("account", &good, ""),
        account("guess", &bad, "effect = \"warn\"\n"),
    ));
    for (name, of) in [("right", "secured"), ("plain", "port"), ("plain", "account")] {
        expect_guardian(&unit, name, of, "up");
    }
    let status = expect_state(&unit, "wrong", "down", SOON);
    let refused = cause(&status, "wrong");
    assert!(refused.contains("the TLS handshake failed: ") && refused.contains("certificate"), "{refused}");
    let status = expect_guardian(&unit, "plain", "guess", "warning");
    let reason = text_of(guardian(&status, "plain", "guess"), "reason");
    assert!(reason.contains("the password of bonnie is wrong"), "{reason}");
    assert_eq!((state(&status, "right").as_str(), state(&status, "plain").as_str()), ("up", "up"), "{status:#}");

    first.kill();
    let status = expect_state(&unit, "right", "down", SOON);
    assert!(cause(&status, "right").contains("nothing listens at 127.0.0.31:5061"), "{}", cause(&status, "right"));
    expect_guardian(&unit, "plain", "account", "down");
    let status = expect_guardian(&unit, "plain", "port", "down");
    let both = cause(&status, "plain");
    assert!(
        both.contains("(guardian port)") && both.contains("(guardian account)"),
        "everything that keeps it down: {both}"
    );
}

#[test]
fn a_warning_is_told_and_takes_nothing_out() {
    if !namespace() {
        return;
    }
    let _server = EchoBox::at(FIRST);
    let table = format!("[[guardian]]\nname = \"port\"\ncheck = \"tcp\"\neffect = \"warn\"\n{RHYTHM}");
    let mut unit = Unit::start(&farm("\"port\"", &[FIRST], &table));
    let status = expect_guardian(&unit, "pbx1", "port", "warning");
    assert_eq!(state(&status, "pbx1"), "up", "{status:#}");
    let reason = text_of(guardian(&status, "pbx1", "port"), "reason");
    assert_eq!(reason, "nothing listens at 127.0.0.31:5060");
    let errors = unit.process().errors();
    assert!(errors.contains("BackendWarned") && errors.contains("stays in use, but: nothing listens"), "{errors}");
    let contact = answered_by(&Station::at(CALLER), "warned");
    assert!(contact.contains(FIRST), "{contact}");
    let _listener = TcpListener::bind((FIRST, 5060)).expect("the namespace is ours");
    expect_guardian(&unit, "pbx1", "port", "up");
    let told = holds_within(SOON, || unit.process().errors().contains("WarningOver"));
    assert!(told && !unit.process().errors().contains("BackendDown"), "{}", unit.said());
    assert!(counter(&unit.status(), "events", "backend_warned") >= 1, "{:#}", unit.status());
}

#[test]
fn a_closed_terminal_leaves_no_call_behind() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let server = EchoBox::at(FIRST);
    let text = farm("\"real-call\"", &[FIRST], &long_call(&world, "username = \"bonnie\""));
    let file = world.file("farm.toml", &text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["guardian", "run", "real-call", "--config", file.as_str()]);
    let mut run = Process::start(&mut command, "run", world.path());
    assert!(holds_within(SOON, || server.known().packets >= 20), "{}", run.said());
    run.signal("HUP");
    assert!(run.wait(SOON).code().is_some(), "{}", run.said());
    let known = server.known();
    assert!(known.up.is_empty() && known.bound.is_empty(), "{known:?}");
}

#[test]
fn a_guardian_is_run_by_hand() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let server = EchoBox::at(FIRST);
    let table = world.call("real-call", "username = \"bonnie\"");
    let file = world.file("tandem.toml", &farm("\"real-call\"", &[FIRST, SECOND], &table));
    let run = |arguments: &[&str]| {
        let mut words = vec!["guardian"];
        words.extend(arguments);
        words.extend(["--config", file.as_str()]);
        let output = tandem(&words);
        (output.status.code(), printed(&output), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let (code, said, errors) = run(&["run", "real-call", "--backend", "pbx1"]);
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(said.starts_with("pbx1 (127.0.0.31:5060) of farm pbx\n"), "{said}");
    // The ladder, in its order.
    let mut rest = said.as_str();
    let steps =
        ["REGISTER sip:", "200 OK", "INVITE sip:clyde@127.0.0.31:5060", "200 OK", "ACK ", "BYE ", "REGISTER sip:"];
    for word in steps.into_iter().chain(["SIP OK - "]) {
        let at = rest.find(word).unwrap_or_else(|| panic!("no {word} where it belongs in:\n{said}"));
        rest = rest.split_at(at + word.len()).1;
    }
    assert!(rest.contains("good after ") && said.ends_with("1 backend: 1 good\n"), "{said}");
    let known = server.known();
    assert_eq!((known.calls, known.registrations), (1, 2), "{known:?}");
    assert!(known.bound.is_empty() && known.up.is_empty(), "{known:?}");

    let (code, said, _) = run(&["run", "real-call"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("nothing listens at udp:127.0.0.32:5060"), "{said}");
    assert!(said.ends_with("2 backends: 1 good, 1 failed\n"), "{said}");

    let (code, said, _) = run(&["list"]);
    let row = said.lines().find(|line| line.starts_with("real-call ")).unwrap_or_default();
    assert!(code == Some(0) && row.contains("call") && row.contains("3s") && row.ends_with("pbx1, pbx2"), "{said}");

    for (arguments, word) in [
        (&["run", "real-cal"][..], "real-call"),
        (&["run", "real-call", "--backend", "pbx9"][..], "pbx9"),
        (&["run", "real-call", "--farm", "pxb"][..], "pxb"),
    ] {
        let (code, said, errors) = run(arguments);
        assert_eq!(code, Some(3), "{arguments:?}: {said}{errors}");
        assert!(errors.contains(word) && said.is_empty(), "{arguments:?}: {said}{errors}");
    }
}

#[test]
fn events_and_the_times_of_checks_are_kept() {
    if !namespace() {
        return;
    }
    let listener = TcpListener::bind((FIRST, 5060)).expect("the namespace is ours");
    let table = format!("[[guardian]]\nname = \"port\"\ncheck = \"tcp\"\n{RHYTHM}");
    let unit = Unit::start(&farm("\"port\"", &[FIRST], &table));
    assert_eq!(printed(&unit.run(&["status", "--events"])), "nothing has happened since the start\n");
    expect_guardian(&unit, "pbx1", "port", "up");
    drop(listener);
    expect_state(&unit, "pbx1", "down", FOUND_OUT);
    let _listener = TcpListener::bind((FIRST, 5060)).expect("the namespace is ours");
    let status = expect_state(&unit, "pbx1", "up", SOON);

    let page = printed(&unit.run(&["status", "--events"]));
    let lines: Vec<&str> = page.lines().collect();
    let [down, up] = lines.as_slice() else { panic!("two events, and not\n{page}") };
    assert!(
        down.contains("BackendDown") && down.contains("nothing listens at 127.0.0.31:5060 (guardian port)"),
        "{page}"
    );
    assert!(up.contains("BackendUp") && up.contains("its checks are good (guardian port)"), "{page}");
    let last: Value =
        serde_json::from_str(&printed(&unit.run(&["status", "--events", "1", "--json"]))).expect("it is JSON");
    let events = last.get("events").and_then(Value::as_array).cloned().unwrap_or_default();
    let [event] = events.as_slice() else { panic!("one was asked for, and not {last:#}") };
    let told = ["event", "farm", "backend", "guardian"].map(|key| text_of(Some(event), key));
    assert_eq!(told, ["BackendUp", "pbx", "pbx1", "port"]);
    assert!(text_of(Some(event), "time").ends_with('Z'), "{event:#}");

    let port = guardian(&status, "pbx1", "port").expect("it is listed");
    let history = port.get("history_ms").and_then(Value::as_array).expect("a list");
    let failed = history.iter().filter(|took| took.is_null()).count();
    let good = history.iter().filter(|took| took.as_f64().is_some_and(|took| took >= 0.0)).count();
    assert!(failed >= 3 && good >= 3 && failed + good == history.len(), "{port:#}");
    let ages = port.get("history_ago_s").and_then(Value::as_array).map(Vec::len);
    assert_eq!(ages, Some(history.len()), "{port:#}");
    assert!(counter(&status, "checks", "") >= 6 && counter(&status, "checks_failed", "") >= 3, "{status:#}");
}

#[test]
fn bad_audio_takes_a_box_out() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let server = EchoBox::at(FIRST);
    let unit = Unit::start(&farm("\"sound\"", &[FIRST], &world.call("sound", "min_mos = 3.5")));
    expect_guardian(&unit, "pbx1", "sound", "up");
    for (echo, words) in [(Echo::Half, "the audio that came back has MOS "), (Echo::Nothing, "no audio came back")] {
        server.echo(echo);
        let status = expect_state(&unit, "pbx1", "down", FOUND_OUT);
        let cause = cause(&status, "pbx1");
        assert!(cause.starts_with(words) && cause.ends_with("(guardian sound)"), "{echo:?}: {cause}");
        server.echo(Echo::Whole);
        expect_state(&unit, "pbx1", "up", SOON);
    }
}

#[test]
fn audio_that_dies_in_the_middle_of_each_call_takes_a_box_out() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let server = EchoBox::at(FIRST);
    let unit = Unit::start(&farm("\"sound\"", &[FIRST], &world.call("sound", "min_mos = 3.5")));
    expect_guardian(&unit, "pbx1", "sound", "up");
    // Of fifty.
    server.echo(Echo::First(20));
    let status = expect_state(&unit, "pbx1", "down", FOUND_OUT);
    assert!(cause(&status, "pbx1").ends_with("(guardian sound)"), "{}", cause(&status, "pbx1"));
}

/// A call that takes its time, so that the unit can be stopped in the middle of it.
fn long_call(world: &World, lines: &str) -> String {
    std::fs::write(world.path().join("beep.ulaw"), vec![0x55_u8; 40_000]).expect("the folder is ours");
    world.call("real-call", &format!("interval = \"10s\"\ntimeout = \"9s\"\n{lines}"))
}

/// Ends the unit as an operator does.
fn stop(unit: &mut Unit) {
    let began = Instant::now();
    unit.process().signal("TERM");
    let status = unit.process().wait(SOON);
    assert_eq!(status.code(), Some(0), "{}", unit.said());
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?} to end", began.elapsed());
}

#[test]
fn a_unit_that_ends_in_the_middle_of_a_check_leaves_nothing_behind() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let server = EchoBox::at(FIRST);
    let mut unit = Unit::start(&farm("\"real-call\"", &[FIRST], &long_call(&world, "username = \"bonnie\"")));
    let talking = holds_within(SOON, || server.known().packets >= 20);
    let known = server.known();
    assert!(talking && known.up.len() == 1 && known.bound.len() == 1, "{known:?}\n{}", unit.said());
    stop(&mut unit);
    let is_clear = holds_within(Duration::from_secs(2), || {
        let known = server.known();
        known.up.is_empty() && known.bound.is_empty()
    });
    assert!(is_clear, "{:?}", server.known());
    assert_eq!(server.known().calls, 1);
}

#[test]
fn sipp_counts_the_call_of_a_unit_that_ended_as_a_good_one() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let world = World::new();
    let messages = world.path().join("messages");
    let traced =
        ["-m", "1", "-trace_msg", "-message_file", messages.to_str().expect("the system's folder has a plain name")];
    let mut server = world.sipp("echo", "server", FIRST, &traced);
    let mut unit = Unit::start(&farm("\"real-call\"", &[FIRST], &long_call(&world, "")));
    let talking = holds_within(SOON, || std::fs::read_to_string(&messages).is_ok_and(|text| text.contains("ACK sip:")));
    assert!(talking, "{}\n{}", server.said(), unit.said());
    stop(&mut unit);
    // It ends with its one call, with 0 if that went through all of its scenario, up to BYE.
    let status = server.wait(SOON);
    assert!(status.success(), "sipp ends with {status}\n{}", server.said());
}
