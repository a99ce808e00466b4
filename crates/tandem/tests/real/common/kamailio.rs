//! Debian's Kamailio as a PBX of its own: a registrar with digest and a location table in memory, which passes calls to users that
//! it does not know on to the farm.

use super::{Process, holds_within};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The password of every user of every server.
pub const PASSWORD: &str = "secret";

/// What a server is told.
pub struct Server<'a> {
    pub name: &'a str,
    /// Of its challenges.
    pub realm: &'a str,
    /// Address, IPv6 in brackets; the port is 5060.
    pub host: &'a str,
    /// Host of the farm in front of it, IPv6 in brackets; the port is 5060.
    pub farm: &'a str,
    /// Users that may register, as the alternatives of a pattern: `bonnie|clyde`.
    pub users: &'a str,
}

/// Starts a server and waits until it answers.
///
/// # Panics
/// If it does not, with what it said.
pub fn start(folder: &Path, server: &Server<'_>) -> Process {
    launch(folder, server, DATAGRAMS_ONLY, "")
}

/// The same, but it keeps the Path of each registration (RFC 3327 §5.3) and calls the user along it.
pub fn start_with_path(folder: &Path, server: &Server<'_>) -> Process {
    launch(folder, server, DATAGRAMS_ONLY, "loadmodule \"path.so\"\nmodparam(\"registrar\", \"use_path\", 1)")
}

/// The same, but it is reached over TCP too, and over TLS at port 5061, where it shows the certificate in this file.
pub fn start_with_streams(folder: &Path, server: &Server<'_>, certificate: &str) -> Process {
    let tls = TLS.replace("CERTIFICATE", certificate);
    launch(folder, server, "tcp_children=2\nenable_tls=yes\nlisten=tcp:HOST:5060\nlisten=tls:HOST:5061", &tls)
}

/// Is its TLS here? Debian has it in a package of its own, `kamailio-tls-modules`. If not, that was said; the test must return.
///
/// # Panics
/// With `CI=true` if it is not.
pub fn has_tls() -> bool {
    let mut folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = folders.any(|folder| folder.path().join("kamailio/modules/tls.so").is_file());
    if !found {
        assert!(!super::is_ci(), "CI=true, but kamailio-tls-modules is not installed");
        eprintln!("skipped: kamailio-tls-modules is not installed (`cargo xtask test` prints how to install it)");
    }
    found
}

/// `streams` are further lines of its script where it listens, `modules` those where its modules are loaded.
fn launch(folder: &Path, server: &Server<'_>, streams: &str, modules: &str) -> Process {
    let script = folder.join(format!("{}.cfg", server.name));
    let text = SCRIPT
        .replace("STREAMS", streams)
        .replace("MODULES", modules)
        .replace("HOST", server.host)
        .replace("FARM", server.farm)
        .replace("USERS", server.users)
        .replace("REALM", server.realm)
        .replace("PASSWORD", PASSWORD);
    std::fs::write(&script, text).expect("the folder is ours");
    let program = super::peer("kamailio").expect("the test asked for it");
    let run = folder.join(format!("{}.run", server.name));
    std::fs::create_dir_all(&run).expect("the folder is ours");
    let mut process = Process::start(
        Command::new(program)
            .args(["-DD", "-E", "-m", "64", "-M", "8", "-f"])
            .arg(&script)
            .arg("-Y")
            .arg(&run)
            .arg("-P")
            .arg(run.join("pid")),
        server.name,
        folder,
    );
    let answers = holds_within(Duration::from_secs(10), || !process.is_running() || is_answering(server.host));
    assert!(answers && process.is_running(), "{}", process.said());
    process
}

fn is_answering(host: &str) -> bool {
    let server: SocketAddr = format!("{host}:5060").parse().expect("an address");
    let own = if server.is_ipv4() { "127.0.0.250:5060" } else { "[::1]:5060" };
    let Ok(socket) = UdpSocket::bind(own) else { return false };
    let asked = format!(
        "OPTIONS sip:{host} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKprobe\r\nFrom: <sip:probe@{host}>;tag=1\r\n\
         To: <sip:{host}>\r\nCall-ID: probe\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    let patience = socket.set_read_timeout(Some(Duration::from_millis(200)));
    let sent = socket.send_to(asked.as_bytes(), server);
    patience.is_ok() && sent.is_ok() && socket.recv_from(&mut [0; 2_000]).is_ok()
}

const SCRIPT: &str = include_str!("../data/kamailio.cfg");
const DATAGRAMS_ONLY: &str = "disable_tcp=yes";
const TLS: &str = "loadmodule \"tls.so\"
modparam(\"tls\", \"tls_method\", \"TLSv1.2+\")
modparam(\"tls\", \"certificate\", \"CERTIFICATE\")
modparam(\"tls\", \"private_key\", \"CERTIFICATE\")
modparam(\"tls\", \"verify_certificate\", 0)
modparam(\"tls\", \"require_certificate\", 0)";
