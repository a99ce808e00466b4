//! Debian's dnsmasq as the name server of a test, and programs that ask a server of the test's.

use super::{Process, holds_within, is_ci};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where it answers.
pub const AT: &str = "127.0.0.1:5353";

/// A running dnsmasq that knows the domain `example.test` and nothing else.
pub struct NameServer {
    process: Process,
    /// The addresses of hosts; read again when it is told to.
    hosts: PathBuf,
}

impl NameServer {
    /// Starts it and waits until it answers. `records` are lines of its configuration, `hosts` lines of addresses and names; all of
    /// them may be kept for five seconds.
    ///
    /// # Panics
    /// If it does not, with what it said.
    pub fn start(folder: &Path, records: &str, hosts: &str) -> Self {
        let (config, file) = (folder.join("dnsmasq.conf"), folder.join("hosts"));
        std::fs::write(&file, hosts).expect("the folder is ours");
        let text = CONFIG.replace("HOSTS", &file.to_string_lossy()) + records;
        std::fs::write(&config, text).expect("the folder is ours");
        let program = super::peer("dnsmasq").expect("the test asked for it");
        let mut command = Command::new(program);
        // It stays who it is: in a namespace there may be nobody else to become.
        command.arg("--no-daemon").arg("-C").arg(&config);
        let mut process = Process::start(&mut command, "dnsmasq", folder);
        let answers = holds_within(Duration::from_secs(10), || !process.is_running() || is_answering());
        assert!(answers && process.is_running(), "{}", process.said());
        Self { process, hosts: file }
    }

    /// From now on these are the addresses.
    pub fn change(&self, hosts: &str) {
        std::fs::write(&self.hosts, hosts).expect("the folder is ours");
        self.process.signal("HUP");
    }
}

/// A command to which a program and its arguments are to be added: for that program this host, at port 53, is the only name server
/// of the system. `None`: this machine lets nobody have a view of his own of its files, which was said; the test must return.
///
/// # Panics
/// With `CI=true` if it does not.
pub fn command_asking(host: &str, folder: &Path) -> Option<Command> {
    const SCRIPT: &str = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";
    let file = folder.join("resolv.conf");
    std::fs::write(&file, format!("nameserver {host}\n")).expect("the folder is ours");
    let command = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(&file);
        command
    };
    if !command().arg("true").status().is_ok_and(|status| status.success()) {
        assert!(!is_ci(), "CI=true, but nothing can be mounted over /etc/resolv.conf");
        eprintln!("skipped: nothing can be mounted over /etc/resolv.conf");
        return None;
    }
    Some(command())
}

fn is_answering() -> bool {
    // A question for the address of `a.example.test` (RFC 1035 §4.1).
    let question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x04test\x00\x00\x01\x00\x01";
    let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return false };
    let patience = socket.set_read_timeout(Some(Duration::from_millis(200)));
    let sent = socket.send_to(question, AT);
    patience.is_ok() && sent.is_ok() && socket.recv_from(&mut [0; 512]).is_ok()
}

const CONFIG: &str = "port=5353
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
addn-hosts=HOSTS
local=/example.test/
local-ttl=5
";
