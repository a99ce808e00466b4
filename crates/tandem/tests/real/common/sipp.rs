//! sipp as callers and as servers, with the scenarios of `tests/data`.

use super::Process;
use std::path::Path;
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
    let arguments = [
        "-t".to_owned(),
        transport.to_owned(),
        // Fewer than the files that a process may open, or sipp refuses to start.
        "-max_socket".to_owned(),
        "500".to_owned(),
        proxy.to_owned(),
        "-s".to_owned(),
        "clyde".to_owned(),
        "-m".to_owned(),
        calls.to_string(),
        "-r".to_owned(),
        rate.to_string(),
        "-d".to_owned(),
        hold.as_millis().to_string(),
        "-timeout".to_owned(),
        "100s".to_owned(),
        "-timeout_error".to_owned(),
    ];
    launch(folder, "caller", at, &arguments)
}

/// A server that lets each call ring for `ringing`. Runs until it is dropped.
pub fn callees(folder: &Path, at: &str, ringing: Duration) -> Process {
    callees_over("u1", folder, at, ringing)
}

/// The same over one of sipp's transports.
pub fn callees_over(transport: &str, folder: &Path, at: &str, ringing: Duration) -> Process {
    let arguments = ["-t", transport, "-d", &ringing.as_millis().to_string()].map(str::to_owned);
    let callees = launch(folder, "callee", at, &arguments);
    assert!(super::holds_within(Duration::from_secs(10), || super::is_bound(at)), "sipp does not listen at {at}");
    callees
}

/// # Panics
/// If a call of these callers failed, with what sipp says.
pub fn assert_all_succeed(callers: &mut Process, limit: Duration) {
    let status = callers.wait(limit);
    assert!(status.success(), "sipp ends with {status}\n{}", callers.said());
}

fn launch(folder: &Path, scenario: &str, at: &str, arguments: &[String]) -> Process {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/data");
    let (host, port) = at.split_once(':').expect("an address and a port");
    let mut command = Command::new("sipp");
    command
        .current_dir(folder)
        .env("TERM", "xterm")
        .arg("-sf")
        .arg(data.join(format!("{scenario}.xml")))
        .args(["-i", host, "-p", port, "-nostdin", "-trace_err", "-recv_timeout", "90000"])
        .args(arguments);
    Process::start(&mut command, &format!("{scenario}-{host}"), folder)
}
