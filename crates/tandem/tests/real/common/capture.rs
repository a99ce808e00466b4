//! What was on the wire, seen by tshark and not by us.

use super::{Process, holds_within};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A running capture of the loopback interface.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// One SIP message on the wire.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Addresses without ports.
    pub source: String,
    pub target: String,
    /// The method of a request, or the code of a response and its method: `INVITE`, `180 INVITE`.
    pub what: String,
    pub call_id: String,
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
    pub fn finish(mut self) -> Vec<Seen> {
        // What was sent a moment ago is still on its way into the file.
        std::thread::sleep(Duration::from_millis(1_000));
        self.process.signal("INT");
        self.process.wait(Duration::from_secs(20));
        let output = Command::new("tshark")
            .arg("-r")
            .arg(&self.file)
            .args(["-Y", "sip", "-T", "fields", "-E", "separator=|"])
            .args(["-e", "ip.src", "-e", "ip.dst", "-e", "sip.Method", "-e", "sip.Status-Code"])
            .args(["-e", "sip.CSeq.method", "-e", "sip.Call-ID"])
            .output()
            .expect("it captured a moment ago");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter_map(seen).collect()
    }
}

fn seen(line: &str) -> Option<Seen> {
    let mut fields = line.split('|').map(str::to_owned);
    let (source, target) = (fields.next()?, fields.next()?);
    let (method, code, cseq, call_id) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let what = if code.is_empty() { method } else { format!("{code} {cseq}") };
    Some(Seen { source, target, what, call_id })
}
