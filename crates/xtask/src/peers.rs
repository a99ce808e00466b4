//! The programs of others that tests meet (sipp, Kamailio, baresip …): which are here, and how the others are
//! installed. What a test does without its peer stands in `crates/tandem/tests/common`.

use crate::netns;
use anyhow::{Result, bail};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A Debian package and the program by which its presence is known; the whole path of a file where there is no program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    pub package: &'static str,
    pub program: &'static str,
}

/// Kamailio's TLS, a module of its own.
pub const KAMAILIO_TLS: &str = "/usr/lib/x86_64-linux-gnu/kamailio/modules/tls.so";

/// Everything the tests and the benchmark start besides our own programs.
pub const PEERS: &[Peer] = &[
    Peer { package: "baresip-core", program: "baresip" },
    Peer { package: "chromium", program: "chromium" },
    Peer { package: "dnsmasq-base", program: "dnsmasq" },
    Peer { package: "iproute2", program: "ip" },
    Peer { package: "kamailio", program: "kamailio" },
    Peer { package: "kamailio-tls-modules", program: KAMAILIO_TLS },
    Peer { package: "kamailio-websocket-modules", program: "/usr/lib/x86_64-linux-gnu/kamailio/modules/websocket.so" },
    Peer { package: "libnet-sip-perl", program: "/usr/share/perl5/Net/SIP.pm" },
    Peer { package: "monitoring-plugins-basic", program: "/usr/lib/nagios/plugins/check_tcp" },
    Peer { package: "openssl", program: "openssl" },
    Peer { package: "sip-tester", program: "sipp" },
    Peer { package: "tshark", program: "tshark" },
    Peer { package: "util-linux", program: "unshare" },
];

/// Whether this run is judged: then a missing peer is a failure, never a skip.
pub fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Where `program` is: on the path, or where Debian puts what root runs. What begins with `/` is a file, and is there or is not.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|file| file.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|candidate| is_executable(candidate))
}

/// The peers that are not here.
pub fn missing() -> Vec<Peer> {
    PEERS.iter().copied().filter(|peer| find(peer.program).is_none()).collect()
}

/// The one line that installs `peers`.
pub fn advice(peers: &[Peer]) -> String {
    let packages: Vec<&str> = peers.iter().map(|peer| peer.package).collect();
    format!("sudo apt-get install --no-install-recommends {}", packages.join(" "))
}

/// Installs the packages of `peers` without questions and without starting any service of theirs.
pub fn install(peers: &[Peer]) -> Result<()> {
    let _no_service_starts = ServicePolicy::deny()?;
    let packages: Vec<&str> = peers.iter().map(|peer| peer.package).collect();
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(&packages);
    if apt_get(&install)? {
        return Ok(());
    }
    // Without package lists, or with old ones, the first try fails: this is when they are needed.
    if !apt_get(&["update"])? {
        bail!("apt-get update failed");
    }
    if !apt_get(&install)? {
        bail!("apt-get could not install {}", packages.join(" "));
    }
    Ok(())
}

/// Runs apt-get as root; true if it succeeded.
fn apt_get(arguments: &[&str]) -> Result<bool> {
    let mut command = if netns::is_root() {
        Command::new("env")
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["--non-interactive", "env"]);
        sudo
    };
    let status = command
        .args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "--quiet"])
        .args(arguments)
        .status()?;
    Ok(status.success())
}

/// While it lives, Debian's `invoke-rc.d` starts no service. Only what was put there by us is taken away again.
struct ServicePolicy {
    written: bool,
}

impl ServicePolicy {
    const PATH: &str = "/usr/sbin/policy-rc.d";

    fn deny() -> Result<Self> {
        if !netns::is_root() || Path::new(Self::PATH).exists() {
            return Ok(Self { written: false });
        }
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(Self::PATH)?;
        // 101: the action is forbidden by policy.
        file.write_all(b"#!/bin/sh\nexit 101\n")?;
        Ok(Self { written: true })
    }
}

impl Drop for ServicePolicy {
    fn drop(&mut self) {
        if self.written
            && let Err(error) = std::fs::remove_file(Self::PATH)
        {
            eprintln!("cannot remove {}: {error}", Self::PATH);
        }
    }
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_found_and_nonsense_is_not() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-of-ours"), None);
        assert_eq!(find("/proc/version"), Some(PathBuf::from("/proc/version")), "a file need not be a program");
        assert_eq!((find("/proc"), find("/no-such-file-of-ours")), (None, None));
    }

    #[test]
    fn the_advice_is_one_line_with_every_package() {
        let advice = advice(PEERS);
        assert_eq!(advice.lines().count(), 1);
        for peer in PEERS {
            assert!(advice.contains(peer.package), "{} is missing", peer.package);
        }
    }

    #[test]
    fn peers_are_sorted_and_named_once() {
        assert!(PEERS.windows(2).all(|pair| pair[0].package < pair[1].package));
    }
}
