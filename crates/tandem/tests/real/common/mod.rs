//! What the tests that meet the real world share: a network of their own, the running unit, sockets that speak SIP, and the
//! programs of others.
//!
//! ```text
//! namespace  a test alone in its own network       unit      `tandem run` with a configuration
//! process    a child that never outlives its test  wire      sockets, and messages taken apart by hand
//! sipp       sipp with a scenario                  kamailio  a registrar of Debian's
//! baresip    a phone of Debian's                   phone     a phone of ours in a thread
//! link       a connection that carries SIP         carrier   what a phone's signalling goes over
//! answerer   a box of ours in a thread             neighbour a second network, with a cable to it
//! capture    what was on the wire, by tshark       name_server  dnsmasq of Debian's, and certificates
//! ```
#![allow(unreachable_pub, reason = "a test binary exports nothing")]
#![allow(clippy::disallowed_methods, reason = "these tests are about real sockets and real time")]

pub mod answerer;
pub mod baresip;
pub mod capture;
pub mod carrier;
pub mod certificates;
pub mod kamailio;
pub mod link;
pub mod name_server;
pub mod neighbour;
pub mod phone;
pub mod process;
pub mod sipp;
pub mod unit;
pub mod wire;

pub use process::Process;
pub use unit::Unit;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Moves the calling test into a network of its own, in which every address of 127.0.0.0/8 and every port is free and no packet
/// leaves the machine. To be called first. False: return, since the test ran in another process, or cannot run here.
///
/// # Panics
/// If the test failed in its namespace; with `CI=true` also if there can be none.
pub fn namespace() -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let thread = std::thread::current();
    // The test runner names the thread after the test.
    let test = thread.name().expect("a test runs in a thread that is named after it");
    let this = std::env::current_exe().expect("the test runs from a file");
    let Some(flags) = namespace_flags() else {
        assert!(!is_ci(), "CI=true, but no network namespace can be made for {test}");
        eprintln!("skipped: no network namespace for {test}");
        return false;
    };
    let status = Command::new("unshare")
        .args(flags)
        .args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(this)
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare was started a moment ago");
    assert!(status.success(), "{test} failed in its namespace: {status}");
    false
}

/// The program's path. `None`: it is not installed, which was said; the test must return.
///
/// # Panics
/// With `CI=true` a missing peer fails the test that needs it.
pub fn peer(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts what root runs where the path of others does not lead.
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        assert!(!is_ci(), "CI=true, but {program} is not installed");
        eprintln!("skipped: {program} is not installed (`cargo xtask test` prints how to install it)");
    }
    found
}

/// Asks `condition` again and again until it holds or the time is over; says whether it holds.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Does anybody in this network listen there? Read from the kernel's table, since trying to bind would be in that one's way.
pub fn is_bound(at: &str) -> bool {
    ["udp", "tcp"].iter().any(|transport| !sockets(transport, at).is_empty())
}

/// Waits until somebody listens there.
///
/// # Panics
/// If nobody does, with what this process said who was to.
pub fn await_bound(process: &Process, at: &str) {
    let listens = holds_within(Duration::from_secs(20), || is_bound(at));
    assert!(listens, "nobody listens at {at}\n{}", process.said());
}

/// The other ends of the TCP connections of this network that are up at this address and port, as the kernel writes them.
pub fn connections(at: &str) -> BTreeSet<String> {
    const ESTABLISHED: &str = "01";
    let up = sockets("tcp", at).into_iter().filter(|(_, state)| state == ESTABLISHED);
    up.map(|(remote, _)| remote).collect()
}

/// Remote address and state of each socket with this local address and port.
fn sockets(transport: &str, at: &str) -> Vec<(String, String)> {
    let address: std::net::SocketAddrV4 = at.parse().expect("an IPv4 address and a port");
    let wanted = format!("{:08X}:{:04X}", u32::from(*address.ip()).swap_bytes(), address.port());
    let table = std::fs::read_to_string(format!("/proc/thread-self/net/{transport}"));
    let table = table.expect("Linux shows its sockets");
    let rows = table.lines().map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<&str>>());
    rows.filter_map(|row| match row[..] {
        [local, remote, state] if local == wanted => Some((remote.to_owned(), state.to_owned())),
        _ => None,
    })
    .collect()
}

/// Gives the test's network further IPv6 addresses: of 127.0.0.0/8 it has all, of IPv6 only `::1`. To be called after [`namespace`].
/// False: return, since this machine has no IPv6, which was said.
///
/// # Panics
/// With `CI=true` if there is no IPv6.
pub fn has_addresses(addresses: &[&str]) -> bool {
    let added = addresses.iter().all(|address| {
        let whole = format!("{address}/128");
        let status = Command::new("ip").args(["-6", "address", "add", whole.as_str(), "dev", "lo"]).status();
        status.is_ok_and(|status| status.success())
    });
    if !added {
        assert!(!is_ci(), "CI=true, but there is no IPv6");
        eprintln!("skipped: no IPv6 here");
    }
    added
}

fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// The kind of namespace that this machine allows: root needs no users of its own.
fn namespace_flags() -> Option<&'static [&'static str]> {
    const KINDS: [&[&str]; 2] = [&["--net"], &["--user", "--map-root-user", "--net"]];
    KINDS.into_iter().find(|flags| {
        Command::new("unshare")
            .args(*flags)
            .args(["ip", "link", "set", "lo", "up"])
            .output()
            .is_ok_and(|output| output.status.success())
    })
}

const INSIDE: &str = "TANDEM_TEST_INSIDE_NAMESPACE";
