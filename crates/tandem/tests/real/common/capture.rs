//! What was on the wire, seen by tshark and not by us.

use super::wire::Taken;
use super::{Process, holds_within};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A running capture of the loopback interface.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// One SIP message on the wire, over IPv4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Addresses without ports.
    pub source: String,
    pub target: String,
    /// The method of a request, or the code of a response and its method: `INVITE`, `180 INVITE`.
    pub what: String,
    pub call_id: String,
}

/// One SIP message on the wire with all its octets, over IPv4 or IPv6.
#[derive(Clone, Debug)]
pub struct Whole {
    pub source: SocketAddr,
    pub target: SocketAddr,
    pub taken: Taken,
}

impl Capture {
    /// Starts and waits until packets are seen.
    pub fn start(folder: &Path) -> Self {
        let file = folder.join("wire.pcapng");
        let mut process = Process::start(
            Command::new("tshark").args(["-q", "-i", "lo", "-f", "udp", "-w"]).arg(&file),
            "tshark",
            folder,
        );
        let begun = holds_within(Duration::from_secs(20), || {
            !process.is_running() || process.errors().contains("Capture started")
        });
        assert!(begun && process.is_running(), "{}", process.said());
        Self { process, file }
    }

    /// Ends the capture and gives all SIP messages in the order in which they were seen.
    pub fn finish(self) -> Vec<Seen> {
        let text =
            self.fields(&["ip.src", "ip.dst", "sip.Method", "sip.Status-Code", "sip.CSeq.method", "sip.Call-ID"]);
        text.lines().filter_map(seen).collect()
    }

    /// As [`Capture::finish`], but with everything that is in them.
    pub fn finish_whole(self) -> Vec<Whole> {
        let addresses = ["ip.src", "ipv6.src", "ip.dst", "ipv6.dst"];
        let text = self.fields(&[&addresses[..], &["udp.srcport", "udp.dstport", "udp.payload"]].concat());
        text.lines().filter_map(whole).collect()
    }

    /// Ends the capture and gives these fields of each SIP message, a line each, with `|` between them.
    fn fields(mut self, wanted: &[&str]) -> String {
        // What was sent a moment ago is still on its way into the file.
        std::thread::sleep(Duration::from_millis(1_000));
        self.process.signal("INT");
        self.process.wait(Duration::from_secs(20));
        let mut command = Command::new("tshark");
        command.arg("-r").arg(&self.file).args(["-Y", "sip", "-T", "fields", "-E", "separator=|"]);
        for field in wanted {
            command.arg("-e").arg(field);
        }
        let output = command.output().expect("it captured a moment ago");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Whole {
    /// The same request or response one hop further or before, as far as a proxy leaves it alone.
    pub fn is_of(&self, other: &Whole) -> bool {
        let what = |taken: &Taken| (taken.code(), taken.text("cseq"), taken.text("call-id"));
        what(&self.taken) == what(&other.taken)
    }

    /// A request with this method on its way between these hosts?
    pub fn is_request(&self, method: &str, source: IpAddr, target: IpAddr) -> bool {
        let start = format!("{method} ");
        self.taken.start.starts_with(start.as_bytes()) && self.source.ip() == source && self.target.ip() == target
    }
}

fn seen(line: &str) -> Option<Seen> {
    let mut fields = line.split('|').map(str::to_owned);
    let (source, target) = (fields.next()?, fields.next()?);
    let (method, code, cseq, call_id) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let what = if code.is_empty() { method } else { format!("{code} {cseq}") };
    Some(Seen { source, target, what, call_id })
}

fn whole(line: &str) -> Option<Whole> {
    let fields: Vec<&str> = line.split('|').collect();
    let [source_v4, source_v6, target_v4, target_v6, source_port, target_port, payload] = fields[..] else {
        return None;
    };
    Some(Whole {
        source: address(source_v4, source_v6, source_port)?,
        target: address(target_v4, target_v6, target_port)?,
        taken: Taken::of(&octets(payload)?),
    })
}

/// One of both families has the address.
fn address(v4: &str, v6: &str, port: &str) -> Option<SocketAddr> {
    let host = if v4.is_empty() { v6 } else { v4 };
    Some(SocketAddr::new(host.parse().ok()?, port.parse().ok()?))
}

/// Hexadecimal digits, in some versions of tshark with colons between the octets.
fn octets(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|octet| *octet != b':').collect();
    let pairs = digits.chunks_exact(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair?, 16).ok()).collect()
}
