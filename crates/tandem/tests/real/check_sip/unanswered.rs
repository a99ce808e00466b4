//! `tandem check-sip` with a name that nobody answers for.

use super::{PROGRAM, is_one_line};
use crate::common::name_server::command_asking;
use crate::common::wire::Station;
use crate::common::{Process, namespace};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

/// A name server that takes every question and says nothing.
#[test]
fn a_silent_name_server_outlasts_neither_a_signal_nor_the_limit() {
    if !namespace() {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let server = Station::at(SERVER);
    // Whoever asks again over a connection is let in, and hears nothing either.
    let _connections = TcpListener::bind(SERVER).expect("the namespace is ours");

    let Some(mut patient) = asking(folder.path(), "60") else { return };
    assert_asked(&server, &patient);
    patient.signal("INT");
    let status = patient.wait(SOON);
    let line = patient.output();
    assert_eq!(status.code(), Some(3), "{}", patient.said());
    assert!(is_one_line(&line), "{line}");
    assert!(line.starts_with("SIP UNKNOWN - interrupted while names were asked for"), "{line}");

    server.drain();
    let Some(mut limited) = asking(folder.path(), "2") else { return };
    assert_asked(&server, &limited);
    let status = limited.wait(SOON);
    let line = limited.output();
    assert_eq!(status.code(), Some(2), "{}", limited.said());
    assert!(is_one_line(&line), "{line}");
    // Left to itself the search ends some seconds later, and then the line names the question that was given up.
    let by_the_limit =
        ["is not known: it leads nowhere, or nobody has answered in time", "the name servers take too long"];
    assert!(line.starts_with("SIP CRITICAL - "), "{line}");
    assert!(by_the_limit.iter().any(|words| line.contains(words)), "{line}");
}

/// A check with this limit, in seconds. `None`: the test must return.
fn asking(folder: &Path, limit: &str) -> Option<Process> {
    let (host, _) = SERVER.split_once(':').expect("an address and a port");
    let mut command = command_asking(host, folder)?;
    command.args([PROGRAM, "check-sip", "-T", limit, "sip:bonnie@example.com", "sip:clyde@pbx.example.test"]);
    Some(Process::start(&mut command, &format!("limit-{limit}"), folder))
}

/// The name as it stands in a question (RFC 1035 §4.1.2).
fn assert_asked(server: &Station, check: &Process) {
    const NAME: &[u8] = b"\x03pbx\x07example\x04test\x00";
    let (question, _) = server.next(SOON).unwrap_or_else(|| panic!("nothing is asked\n{}", check.said()));
    let is_for_it = question.windows(NAME.len()).any(|part| part.eq_ignore_ascii_case(NAME));
    assert!(is_for_it, "{}", String::from_utf8_lossy(&question));
}

const SERVER: &str = "127.0.0.1:53";
const SOON: Duration = Duration::from_secs(20);
