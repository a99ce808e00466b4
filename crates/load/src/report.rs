//! What came of a load.

use crate::generator::Kind;
use crate::histogram::Histogram;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// The outcome of a load.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub kind: Kind,
    /// From the start to the last completion.
    pub elapsed: Duration,
    /// Exchanges begun.
    pub started: u64,
    /// Exchanges that went as they should, to the end.
    pub completed: u64,
    /// Exchanges that did not.
    pub failed: BTreeMap<Failure, u64>,
    /// Exchanges that the rate asked for but for which there was no room.
    pub not_started: u64,
    /// Requests and final answers to INVITE that were sent again.
    pub retransmissions: u64,
    /// Messages that belong to nothing known, or that nobody should have sent.
    pub unexpected: u64,
    /// Messages that reached either end through the balancer, without its own 100s and pings.
    pub received: u64,
    /// Datagrams that the kernel dropped at our sockets.
    pub kernel_drops: u64,
    /// From a request to its first final answer, in microseconds, each INVITE, REGISTER or OPTIONS counted.
    pub latency: Histogram,
    /// How much later than the rate asks for an exchange was begun, in microseconds: large values mean that this program was the limit.
    pub lateness: Histogram,
    /// The share of the time that this program was not waiting, 0 to 1: near one it was the limit.
    pub busy: f64,
}

/// Why an exchange failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Failure {
    /// A final answer other than the one due.
    Status(u16),
    /// No final answer within 32 s.
    Timeout,
    /// Still under way when the load had ended and the time to finish was over.
    Unfinished,
}

/// How a load is going.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub elapsed: Duration,
    pub under_way: u64,
    pub started: u64,
    pub completed: u64,
    pub failed: u64,
    pub retransmissions: u64,
}

impl Report {
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Exchanges completed in a second.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.completed as f64 / seconds } else { 0.0 }
    }

    /// All of it as one object: counts as numbers, times in microseconds, names with their unit last.
    pub fn to_json(&self) -> Value {
        let failed: BTreeMap<String, u64> =
            self.failed.iter().map(|(failure, count)| (failure.to_string(), *count)).collect();
        json!({
            "kind": self.kind.to_string(),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "started": self.started,
            "completed": self.completed,
            "rate_per_second": self.rate(),
            "failures": self.failures(),
            "failed": failed,
            "not_started": self.not_started,
            "retransmissions": self.retransmissions,
            "unexpected": self.unexpected,
            "received": self.received,
            "kernel_drops": self.kernel_drops,
            "latency_us": times(&self.latency),
            "lateness_us": times(&self.lateness),
            "busy": self.busy,
        })
    }
}

fn times(histogram: &Histogram) -> Value {
    json!({
        "count": histogram.count(),
        "mean": histogram.mean(),
        "p50": histogram.quantile(0.5),
        "p90": histogram.quantile(0.9),
        "p99": histogram.quantile(0.99),
        "p99_9": histogram.quantile(0.999),
        "p99_99": histogram.quantile(0.9999),
        "max": histogram.max(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{}s: {} completed in {:.1} s, {:.0} a second; {} failed, {} not started",
            self.kind,
            self.completed,
            self.elapsed.as_secs_f64(),
            self.rate(),
            self.failures(),
            self.not_started
        )?;
        for (failure, count) in &self.failed {
            writeln!(formatter, "  failed with {failure}: {count}")?;
        }
        writeln!(
            formatter,
            "messages: {} received, {} sent again, {} unexpected, {} dropped by the kernel",
            self.received, self.retransmissions, self.unexpected, self.kernel_drops
        )?;
        writeln!(
            formatter,
            "latency in µs: mean {:.0}, p50 {}, p90 {}, p99 {}, p99.9 {}, p99.99 {}, largest {}",
            self.latency.mean(),
            self.latency.quantile(0.5),
            self.latency.quantile(0.9),
            self.latency.quantile(0.99),
            self.latency.quantile(0.999),
            self.latency.quantile(0.9999),
            self.latency.max()
        )?;
        write!(
            formatter,
            "this program: {:.0} % busy, begun late by {} µs at p99",
            self.busy * 100.0,
            self.lateness.quantile(0.99)
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(formatter, "{code}"),
            Self::Timeout => formatter.write_str("timeout"),
            Self::Unfinished => formatter.write_str("unfinished"),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:>5.0} s: {} started, {} under way, {} completed, {} failed, {} sent again",
            self.elapsed.as_secs_f64(),
            self.started,
            self.under_way,
            self.completed,
            self.failed,
            self.retransmissions
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_its_counts_in_both_forms() {
        let mut latency = Histogram::new();
        latency.record(250);
        let report = Report {
            kind: Kind::Call,
            elapsed: Duration::from_secs(2),
            started: 103,
            completed: 100,
            failed: BTreeMap::from([(Failure::Status(503), 2), (Failure::Timeout, 1)]),
            not_started: 4,
            retransmissions: 5,
            unexpected: 6,
            received: 600,
            kernel_drops: 7,
            latency,
            lateness: Histogram::new(),
            busy: 0.25,
        };
        assert_eq!(report.failures(), 3);
        let json = report.to_json();
        assert_eq!(json["kind"], "call");
        assert_eq!(json["rate_per_second"], 50.0);
        assert_eq!(json["failed"], json!({"503": 2, "timeout": 1}));
        assert_eq!(json["latency_us"]["p99"], 250);
        let text = report.to_string();
        for part in
            ["calls: 100 completed in 2.0 s, 50 a second; 3 failed, 4 not started", "failed with 503: 2", "25 % busy"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
