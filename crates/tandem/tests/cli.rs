//! The command line: what is printed, and the exit status. No sockets.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const INVITE: &str = "INVITE sip:clyde@127.0.0.1 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport\nMax-Forwards: 70\n\
                      From: <sip:bonnie@127.0.0.1>;tag=1\nTo: <sip:clyde@127.0.0.1>\nCall-ID: 1@192.0.2.1\nCSeq: 1 INVITE\n\
                      Contact: <sip:bonnie@192.0.2.1>\nContent-Length: 0\n\n";

fn tandem(arguments: &[&str]) -> Output {
    program(arguments).output().expect("the program is built before its tests")
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(arguments).current_dir(root());
    command
}

/// The folder of the whole project.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder is part of the checkout")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

/// Runs `explain` with this message on standard input.
fn explain(arguments: &[&str], message: &str) -> Output {
    let mut child = program(&["explain"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program is built before its tests");
    let mut input = child.stdin.take().expect("it was asked for");
    // A program that refuses its arguments does not read.
    let _refused = input.write_all(message.as_bytes());
    drop(input);
    child.wait_with_output().expect("the child is ours")
}

#[test]
fn examples_are_good() {
    let files = toml_files(&root().join("examples"));
    assert!(files.len() >= 4, "only {} examples", files.len());
    for path in files {
        let output = tandem(&["check", "--no-dns", "--config", &path.to_string_lossy()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
        assert_eq!(text(&output.stdout).lines().count(), 1, "a good file takes one line: {}", text(&output.stdout));
    }
    let output = tandem(&["check", "--config", "examples/quickstart.toml"]);
    assert_eq!(text(&output.stdout), "examples/quickstart.toml is good: 1 farm, 1 listener, 2 backends\n");
}

#[test]
fn names_are_not_asked_for_where_nobody_wants_it() {
    let output = tandem(&["check", "--no-dns", "--config", "examples/names.toml"]);
    let expected = "examples/names.toml is good: 1 farm, 4 listeners, 0 backends; 4 names not asked for\n";
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(0), expected));
    let explained = explain(&["--config", "examples/names.toml"], INVITE);
    assert_eq!(explained.status.code(), Some(0), "{}", text(&explained.stderr));
    assert!(text(&explained.stdout).contains("503"), "{}", text(&explained.stdout));
}

#[test]
fn wrong_files_show_every_error_and_warning_and_their_numbers() {
    let folder = root().join("crates/config/tests/wrong");
    for path in toml_files(&folder) {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let output =
            program(&["check", "--config", &name]).current_dir(&folder).output().expect("the program is built");
        let expected = std::fs::read_to_string(path.with_extension("expected")).expect("it stands beside the file");
        assert_eq!(text(&output.stdout), format!("{expected}\n{name}: {}\n", tally(&expected)));
        assert_eq!(output.status.code(), Some(1), "{name}");
    }
}

/// "2 errors, 1 warning", counted in what is shown.
fn tally(shown: &str) -> String {
    let count = |kind: &str| shown.lines().filter(|line| line.starts_with(&format!("{kind}: "))).count();
    let told = |number: usize, kind: &str| format!("{number} {kind}{}", if number == 1 { "" } else { "s" });
    let (errors, warnings) = (count("error"), count("warning"));
    if warnings == 0 {
        told(errors, "error")
    } else {
        format!("{}, {}", told(errors, "error"), told(warnings, "warning"))
    }
}

/// The configuration of later versions, where its file is present beside the checkout.
#[test]
fn settings_of_later_versions_are_named_with_their_lines() {
    let path = root().join("../shared/tandem.toml");
    let Ok(written) = std::fs::read_to_string(&path) else { return };
    let output = tandem(&["check", "--config", &path.to_string_lossy()]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output.stdout);
    let messages: Vec<&str> = shown.lines().filter(|line| line.starts_with("error: ")).collect();
    assert!(messages.len() > 10, "{shown}");
    for message in &messages {
        assert!(message.contains("is not available in this version"), "{message}");
    }
    let places: Vec<usize> = shown
        .split("warning: ")
        .next()
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--> "))
        .filter_map(|place| place.rsplit(':').nth(1)?.parse().ok())
        .collect();
    assert_eq!(places.len(), messages.len());
    assert!(places.is_sorted() && places.iter().all(|line| (1..=written.lines().count()).contains(line)), "{places:?}");
    assert!(shown.ends_with(&format!(": {}\n", tally(&shown))), "{shown}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = tandem(&["check", "--config", "no-such.toml"]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.starts_with("error: ") && errors.contains("no-such.toml"), "{errors}");
}

#[test]
fn a_wrong_configuration_starts_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("wrong.toml");
    std::fs::write(&config, "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\nwieght = 3\n")
        .expect("the folder is ours");
    let state = folder.path().join("state");
    let output = program(&["run", "--config"])
        .arg(&config)
        .arg("--state-dir")
        .arg(&state)
        .output()
        .expect("the program is built before its tests");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("wrong.toml:4:1") && errors.contains("nothing was started"), "{errors}");
    assert!(output.stdout.is_empty());
    assert!(!state.exists());
}

#[test]
fn explain_numbers_its_steps_and_names_the_backend() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("invite.sip");
    std::fs::write(&file, INVITE).expect("the folder is ours");
    let from_file = tandem(&["explain", "--config", "examples/quickstart.toml", &file.to_string_lossy()]);
    let shown = text(&from_file.stdout);
    assert_eq!(from_file.status.code(), Some(0), "{}", text(&from_file.stderr));
    assert!(shown.starts_with("  1. INVITE sip:clyde@127.0.0.1 from 192.0.2.1:5060\n"), "{shown}");
    let verdict = shown.lines().last().expect("there is a verdict");
    assert!(verdict.starts_with("  => forwarded to 127.0.0.1"), "{shown}");
    let from_input = explain(&["--config", "examples/quickstart.toml"], INVITE);
    assert_eq!(text(&from_input.stdout), shown, "bare line feeds and standard input make no difference");
    let as_sent = explain(&["--config", "examples/quickstart.toml", "-"], &INVITE.replace('\n', "\r\n"));
    assert_eq!(text(&as_sent.stdout), shown);
}

#[test]
fn explain_takes_sender_and_listener() {
    let quickstart = ["--config", "examples/quickstart.toml"];
    let from_backend = explain(&[&quickstart[..], &["--from", "127.0.0.11:5060"]].concat(), INVITE);
    assert!(text(&from_backend.stdout).contains("sender: "), "{}", text(&from_backend.stdout));
    assert!(text(&from_backend.stdout).contains("backend 127.0.0.11:5060"), "{}", text(&from_backend.stdout));
    let unknown = explain(&[&quickstart[..], &["--listener", "udp:127.0.0.9:5060"]].concat(), INVITE);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown.stderr).contains("udp:127.0.0.1:5060"), "{}", text(&unknown.stderr));
    let nothing = explain(&quickstart, "");
    assert!(text(&nothing.stderr).starts_with("error: there is no message"), "{}", text(&nothing.stderr));
}

#[test]
fn explain_says_what_is_wrong_with_a_message() {
    let output = explain(&["--config", "examples/quickstart.toml"], &INVITE.replace("CSeq: 1 INVITE\n", ""));
    let shown = text(&output.stdout);
    assert!(shown.contains("=> answered 400") || shown.contains("=> dropped"), "{shown}");
}

#[test]
fn without_a_unit_status_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for arguments in [["status"].as_slice(), ["explain", "--live"].as_slice()] {
        let output = program(arguments)
            .arg("--state-dir")
            .arg(folder.path())
            .stdin(Stdio::piped())
            .output()
            .expect("the program is built before its tests");
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).starts_with("error: "), "{}", text(&output.stderr));
    }
    let output = program(&["status", "--state-dir"]).arg(folder.path()).output().expect("the program is built");
    assert!(text(&output.stderr).contains("`tandem run`"), "{}", text(&output.stderr));
}

#[test]
fn help_names_every_command_but_the_hidden_one() {
    let help = tandem(&["--help"]);
    let shown = text(&help.stdout);
    assert_eq!(help.status.code(), Some(0));
    for command in ["run", "check", "explain", "status", "demo"] {
        assert!(shown.lines().any(|line| line.trim_start().starts_with(command)), "{command} is not in\n{shown}");
        let own = tandem(&[command, "--help"]);
        assert_eq!(own.status.code(), Some(0), "{command}");
        assert!(text(&own.stdout).contains("Usage: tandem "), "{command}");
    }
    assert!(!shown.contains("demo-pbx"), "{shown}");
    let explain_help = text(&tandem(&["explain", "--help"]).stdout);
    assert!(explain_help.contains("CRLF") && explain_help.contains("--live"), "{explain_help}");
}

#[test]
fn wrong_usage_ends_with_two() {
    for arguments in [["run"].as_slice(), &["fly"], &["explain"], &["status", "--frm"]] {
        assert_eq!(tandem(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
