//! A report for programs.

use super::{Report, Target};
use crate::generator::Pace;
use crate::histogram::Histogram;
use crate::stream::Connections;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

impl Report {
    /// All of it as one object: counts as numbers, times in microseconds, names with their unit last.
    pub fn to_json(&self) -> Value {
        let failed: BTreeMap<String, u64> =
            self.failed.iter().map(|(failure, count)| (failure.label(), *count)).collect();
        let warnings: Vec<String> = self.warnings.iter().map(ToString::to_string).collect();
        json!({
            "kind": self.kind.to_string(),
            "success": self.is_success(),
            "pace": pace(self.pace),
            "transport": self.connections.as_ref().map_or("udp", |connections| connections.transport.name()),
            "connections": self.connections.as_ref().map(Connections::to_json),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "started": self.started,
            "completed": self.completed,
            "rate_per_second": self.rate(),
            "failures": self.failures(),
            "failed": failed,
            "not_started": self.not_started,
            "warm_up_failures": self.warm_up_failures,
            "sent": self.sent,
            "received": self.received,
            "retransmissions": { "sent": self.sent_again, "received": self.received_again },
            "unexpected": self.unexpected,
            "strays": self.strays,
            "refused": self.refused,
            "kernel_drops": self.kernel_drops,
            "latency_us": times(&self.latency),
            "lateness_us": times(&self.lateness),
            "generator": { "busy": self.busy, "cores": self.cores(), "cpu_seconds": self.cpu.as_secs_f64() },
            "target": self.target.map(|used| target(used, self.measured, self.received)),
            "warnings": warnings,
        })
    }
}

fn pace(pace: Pace) -> Value {
    match pace {
        Pace::Closed { concurrency } => json!({ "concurrency": concurrency }),
        Pace::Rate { per_second } => json!({ "rate_per_second": per_second }),
    }
}

pub(crate) fn times(histogram: &Histogram) -> Value {
    let bars: Vec<Value> =
        histogram.bars().iter().map(|bar| json!({ "up_to": bar.up_to, "count": bar.count })).collect();
    json!({
        "count": histogram.count(),
        "mean": histogram.mean(),
        "p50": histogram.quantile(0.5),
        "p90": histogram.quantile(0.9),
        "p99": histogram.quantile(0.99),
        "p99_9": histogram.quantile(0.999),
        "p99_99": histogram.quantile(0.9999),
        "max": histogram.max(),
        "histogram": bars,
    })
}

fn target(used: Target, measured: Duration, messages: u64) -> Value {
    json!({
        "cpu_seconds": used.cpu.as_secs_f64(),
        "cores": used.cores(measured),
        "busiest_thread": used.busiest_share(measured),
        "cpu_per_message_us": used.cpu_per_message_us(messages),
        "rss_bytes": used.rss_bytes,
    })
}
