//! Tests that open sockets run in a network namespace of their own: no port is taken, nothing leaves the machine.
#![allow(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

use std::ffi::c_int;
use std::io;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::process::Command;

/// Moves the test called `test` into a fresh network namespace with a loopback interface. To be called first, before any other thread
/// is started. False: the caller must return, since the test ran in another process, or cannot run here.
pub(crate) fn alone(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        raise_loopback().expect("the namespace is ours");
        return true;
    }
    // SAFETY: the call takes no pointer. It moves this thread, and those it starts from now on.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
        raise_loopback().expect("the namespace is ours");
        return true;
    }
    // Without privileges a namespace of users is needed too, which only a process of one thread may enter: start anew in one.
    let this = std::env::current_exe().expect("the test runs from a file");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net"])
        .arg(this)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    match status {
        Ok(status) if status.success() => false,
        Ok(status) if namespaces_work() => panic!("{test} failed in its namespace: {status}"),
        _ => {
            assert!(std::env::var_os("CI").is_none(), "no network namespace for {test}");
            eprintln!("skipped: no network namespace for {test}");
            false
        }
    }
}

fn namespaces_work() -> bool {
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "true"])
        .status()
        .is_ok_and(|status| status.success())
}

/// `ip link set lo up`
fn raise_loopback() -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // `struct ifreq`: a name of 16 octets, then a union of 24 of which the first two are the flags.
    let mut request = [0_u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16..18].copy_from_slice(&(libc::IFF_UP as i16).to_ne_bytes());
    // SAFETY: the descriptor is open; `request` has the layout and the size of an ifreq and lives until the call returns.
    let result: c_int = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, request.as_mut_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

const INSIDE: &str = "TANDEM_TEST_INSIDE_NAMESPACE";
