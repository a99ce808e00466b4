//! What a running tandem says of itself.

use super::subject::Subject;
use super::{Bench, count};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// The figures of `tandem status --json` that the benchmark looks at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Status {
    pub(super) registrations: u64,
    /// Those included that only wait for retransmissions.
    pub(super) transactions: u64,
    /// Dropped by the kernel at tandem's sockets.
    kernel_drops: u64,
    /// Dropped because the shard was busy and its inbox full.
    inbox_overflow: u64,
    send_errors: u64,
    pub(super) workers: Vec<Worker>,
}

/// Datagrams of one worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Worker {
    /// Those taken from siblings included.
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Taken from a sibling's sockets.
    pub(super) helped: u64,
}

/// Asks the tandem that was started as `subject`.
pub(super) fn ask(bench: &Bench<'_>, subject: &Subject) -> Result<Status> {
    read(&printed(bench, subject.folder())?)
}

/// What `tandem status --json` prints of the one whose state is in `folder`.
pub(super) fn printed(bench: &Bench<'_>, folder: &Path) -> Result<Vec<u8>> {
    let output = Command::new(bench.tandem())
        .args(["status", "--json", "--state-dir"])
        .arg(folder)
        .output()
        .context("cannot start tandem status")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tandem status failed ({}): {}", output.status, said.trim());
    Ok(output.stdout)
}

impl Status {
    /// Datagrams that were lost inside this machine.
    pub(super) fn drops(&self) -> u64 {
        self.kernel_drops + self.inbox_overflow + self.send_errors
    }
}

fn read(output: &[u8]) -> Result<Status> {
    let status: Value = serde_json::from_slice(output).context("tandem status printed no JSON")?;
    let workers = status.pointer("/network/workers").and_then(Value::as_array).context("the status has no workers")?;
    Ok(Status {
        registrations: count(&status, "/registrations")?,
        transactions: count(&status, "/transactions")?,
        kernel_drops: count(&status, "/network/kernel_drops")?,
        inbox_overflow: count(&status, "/network/inbox_overflow")?,
        send_errors: count(&status, "/network/send_errors")?,
        workers: workers.iter().map(worker).collect::<Result<Vec<Worker>>>()?,
    })
}

fn worker(status: &Value) -> Result<Worker> {
    Ok(Worker {
        received: count(status, "/received")?,
        sent: count(status, "/sent")?,
        helped: count(status, "/helped")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read() {
        let text = br#"{"calls": 1, "registrations": 7, "transactions": 2, "network": {"received": 10, "sent": 11,
            "kernel_drops": 1, "inbox_overflow": 2, "send_errors": 4, "workers": [
            {"received": 6, "sent": 7, "helped": 0, "busy_percent": 1.5},
            {"received": 4, "sent": 4, "helped": 3, "busy_percent": 0.5}]}}"#;
        let status = read(text).expect("it is complete");
        assert_eq!((status.registrations, status.transactions, status.drops()), (7, 2, 7));
        let second = status.workers.get(1).copied();
        assert_eq!(second, Some(Worker { received: 4, sent: 4, helped: 3 }));
        assert!(read(b"{}").is_err());
    }
}
