//! sipp as callers and as servers, with the scenarios of `tests/data`.

use super::{Process, await_bound};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// `calls` calls of one sipp, `rate` a second, each lasting `hold`, to `sip:clyde@…` through `proxy`. Ends by itself.
pub fn callers(folder: &Path, at: &str, proxy: &str, calls: u32, rate: u32, hold: Duration) -> Process {
    callers_over("u1", folder, at, proxy, calls, rate, hold)
}

/// The same over one of sipp's transports: `u1` one UDP socket, `t1` one TCP connection, `tn` a connection for each call.
pub fn callers_over(
    transport: &str,
    folder: &Path,
    at: &str,
    proxy: &str,
    calls: u32,
    rate: u32,
    hold: Duration,
) -> Process {
    let (calls, rate, hold) = (calls.to_string(), rate.to_string(), hold.as_millis().to_string());
    // Fewer sockets than the files that a process may open, or sipp refuses to start.
    let way = ["-t", transport, "-max_socket", "500", proxy, "-s", "clyde"];
    let pace = ["-m", &calls, "-r", &rate, "-d", &hold, "-timeout", "100s", "-timeout_error"];
    start(folder, &scenario("caller"), &name("caller", at), at, &[&way[..], &pace, &PATIENT].concat())
}

/// A server that lets each call ring for `ringing`. Runs until it is dropped.
pub fn callees(folder: &Path, at: &str, ringing: Duration) -> Process {
    callees_over("u1", folder, at, ringing)
}

/// The same over one of sipp's transports.
pub fn callees_over(transport: &str, folder: &Path, at: &str, ringing: Duration) -> Process {
    let ringing = ringing.as_millis().to_string();
    let arguments = ["-t", transport, "-d", &ringing];
    serve(folder, &scenario("callee"), &name("callee", at), at, &[&arguments[..], &PATIENT].concat())
}

/// sipp as a server: with this scenario at an address and port. Returns when it listens there.
///
/// # Panics
/// If it does not, with what it said.
pub fn serve(folder: &Path, scenario: &Path, name: &str, at: &str, arguments: &[&str]) -> Process {
    let process = start(folder, scenario, name, at, arguments);
    await_bound(&process, at);
    process
}

/// The file of a scenario in `tests/real/data`.
pub fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/real/data/{name}.xml"))
}

/// # Panics
/// If a call of these callers failed, with what sipp says.
pub fn assert_all_succeed(callers: &mut Process, limit: Duration) {
    let status = callers.wait(limit);
    assert!(status.success(), "sipp ends with {status}\n{}", callers.said());
}

fn start(folder: &Path, scenario: &Path, name: &str, at: &str, arguments: &[&str]) -> Process {
    let (host, port) = at.split_once(':').expect("an address and a port");
    let mut command = Command::new("sipp");
    command
        .current_dir(folder)
        .env("TERM", "xterm")
        .arg("-sf")
        .arg(scenario)
        .args(["-i", host, "-p", port, "-nostdin"])
        .args(arguments);
    Process::start(&mut command, name, folder)
}

fn name(scenario: &str, at: &str) -> String {
    let host = at.split(':').next().unwrap_or_default();
    format!("{scenario}-{host}")
}

/// It gives up a call in which nothing comes any more, and says what it did not expect.
const PATIENT: [&str; 3] = ["-trace_err", "-recv_timeout", "90000"];
