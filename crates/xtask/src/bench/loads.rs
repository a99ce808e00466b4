//! Loads by `tandem load`, run as a program of its own, and what it reports.

use super::process::{self, Running};
use super::{BALANCER, Bench, CALLEE, CALLER, Exchange, GENERATOR_CORE, count};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What `tandem load` is asked to do.
#[derive(Clone, Debug)]
pub(super) struct Load {
    arguments: Vec<String>,
    cores: &'static str,
}

/// What it reports of one load.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Report {
    pub(super) completed: u64,
    pub(super) failures: u64,
    /// Exchanges that the rate asked for but for which there was no room.
    pub(super) not_started: u64,
    /// Messages that were relayed.
    pub(super) received: u64,
    pub(super) retransmissions: u64,
    /// Datagrams that the kernel dropped at the generator's sockets.
    pub(super) kernel_drops: u64,
    /// Exchanges completed in a second.
    pub(super) per_second: f64,
    pub(super) p50_us: u64,
    pub(super) p99_us: u64,
    pub(super) p99_99_us: u64,
    /// Of the generator: the share of the time that it was not waiting.
    pub(super) busy: f64,
    pub(super) target: Target,
}

/// What the measured processes used.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Target {
    pub(super) cpu_seconds: f64,
    pub(super) cores: f64,
    /// The share of one core that its busiest thread used.
    pub(super) busiest_thread: f64,
    pub(super) cpu_us_per_message: f64,
    pub(super) rss_bytes: u64,
}

/// What it reports of a search for the highest rate.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Peak {
    /// `None`: no rate went well.
    pub(super) per_second: Option<f64>,
    /// Who could do no more: generator, target, both or neither; `None`: no rate failed.
    pub(super) limit: Option<String>,
    pub(super) steps: usize,
}

impl Load {
    pub(super) fn new(exchange: Exchange) -> Self {
        let kind = match exchange {
            Exchange::Call => "calls",
            Exchange::Register => "registrations",
        };
        let load = Self { arguments: vec![kind.to_string()], cores: GENERATOR_CORE };
        load.with("--to", BALANCER).with("--from", CALLER).with("--answer", CALLEE).flag("--json")
    }

    /// So many a second, for so long.
    pub(super) fn at_rate(self, per_second: f64, seconds: u64) -> Self {
        self.with("--rate", per_second).with("--duration", format!("{seconds}s"))
    }

    /// So many at a time, for so long.
    pub(super) fn closed(self, concurrency: usize, seconds: u64) -> Self {
        self.with("--concurrency", concurrency).with("--duration", format!("{seconds}s"))
    }

    pub(super) fn with(mut self, option: &str, value: impl ToString) -> Self {
        self.arguments.extend([option.to_string(), value.to_string()]);
        self
    }

    pub(super) fn flag(mut self, option: &str) -> Self {
        self.arguments.push(option.to_string());
        self
    }

    /// Where the generator may run instead of on its own core.
    pub(super) fn on(self, cores: &'static str) -> Self {
        Self { cores, ..self }
    }

    /// Loads `running` and waits for the report.
    pub(super) fn run(self, bench: &Bench<'_>, running: &Running) -> Result<Report> {
        self.run_while(bench, running, &mut |_| Ok(()))
    }

    /// As [`Load::run`]; `tick` is told every now and then for how long the load has been running.
    pub(super) fn run_while(
        self,
        bench: &Bench<'_>,
        running: &Running,
        tick: &mut dyn FnMut(Duration) -> Result<()>,
    ) -> Result<Report> {
        let report = Report::read(&self.told(bench, running, tick)?)?;
        println!("    {}", report.line());
        Ok(report)
    }

    /// Looks for the highest rate without a failure over `seconds`, from `first` on.
    pub(super) fn peak(self, bench: &Bench<'_>, running: &Running, first: f64, seconds: u64) -> Result<Peak> {
        let load = self.at_rate(first, seconds).flag("--peak").flag("--progress");
        Peak::read(&load.told(bench, running, &mut |_| Ok(()))?)
    }

    /// The JSON that `tandem load` printed.
    fn told(
        mut self,
        bench: &Bench<'_>,
        running: &Running,
        tick: &mut dyn FnMut(Duration) -> Result<()>,
    ) -> Result<Value> {
        if !bench.options.sleep && self.cores == GENERATOR_CORE {
            self = self.flag("--busy-poll");
        }
        told_by(bench, running, process::taskset(None).args(["-c", self.cores]), self.arguments, tick)
    }
}

/// What `tandem load` printed with these arguments, which `taskset` starts. That something failed is in it, and no error here.
pub(super) fn told_by(
    bench: &Bench<'_>,
    running: &Running,
    taskset: &mut Command,
    mut arguments: Vec<String>,
    tick: &mut dyn FnMut(Duration) -> Result<()>,
) -> Result<Value> {
    for process in running.family() {
        arguments.extend(["--pid".to_string(), process.to_string()]);
    }
    // A file and no pipe: reports may be longer than a pipe holds.
    let path = bench.folder.join("report.json");
    let mut child = taskset
        .arg(bench.tandem())
        .arg("load")
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(File::create(&path)?)
        .spawn()
        .context("cannot start taskset (package util-linux)")?;
    let status = bench.interrupt.wait(&mut child, tick)?;
    let text = std::fs::read_to_string(&path)?;
    if text.trim().is_empty() {
        bail!("tandem load {} reported nothing ({status})", arguments.join(" "));
    }
    serde_json::from_str(&text).context("tandem load printed no JSON")
}

impl Report {
    pub(super) fn read(report: &Value) -> Result<Self> {
        Ok(Self {
            completed: count(report, "/completed")?,
            failures: count(report, "/failures")?,
            not_started: count(report, "/not_started")?,
            received: count(report, "/received")?,
            retransmissions: count(report, "/retransmissions/sent")?,
            kernel_drops: count(report, "/kernel_drops")?,
            per_second: number(report, "/rate_per_second")?,
            p50_us: count(report, "/latency_us/p50")?,
            p99_us: count(report, "/latency_us/p99")?,
            p99_99_us: count(report, "/latency_us/p99_99")?,
            busy: number(report, "/generator/busy")?,
            target: Target {
                cpu_seconds: number(report, "/target/cpu_seconds")?,
                cores: number(report, "/target/cores")?,
                busiest_thread: number(report, "/target/busiest_thread")?,
                cpu_us_per_message: number(report, "/target/cpu_per_message_us")?,
                rss_bytes: count(report, "/target/rss_bytes")?,
            },
        })
    }

    /// Exchanges that did not go as they should, those that could not even begin among them.
    pub(super) fn lost(&self) -> u64 {
        self.failures + self.not_started
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "completed": self.completed,
            "failures": self.failures,
            "not_started": self.not_started,
            "received": self.received,
            "retransmissions": self.retransmissions,
            "kernel_drops": self.kernel_drops,
            "per_second": self.per_second,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "p99_99_us": self.p99_99_us,
            "generator_busy": self.busy,
            "cpu_us_per_message": self.target.cpu_us_per_message,
            "cpu_seconds": self.target.cpu_seconds,
            "busiest_thread_seconds": self.target.busiest_seconds(),
            "rss_bytes": self.target.rss_bytes,
        })
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:.0}/s, {} completed, {} failed, {} not begun, {} retransmitted, {} dropped, p50 {} us, p99 {} us, {:.2} us/message",
            self.per_second,
            self.completed,
            self.failures,
            self.not_started,
            self.retransmissions,
            self.kernel_drops,
            self.p50_us,
            self.p99_us,
            self.target.cpu_us_per_message
        )
    }
}

impl Target {
    /// CPU seconds of the busiest thread. The report tells shares of a core; the time they are shares of is in both of its figures for
    /// all threads together.
    pub(super) fn busiest_seconds(&self) -> f64 {
        if self.cores > 0.0 { self.busiest_thread / self.cores * self.cpu_seconds } else { 0.0 }
    }
}

impl Peak {
    fn read(found: &Value) -> Result<Self> {
        let steps = found.get("steps").and_then(Value::as_array).context("the search tells no steps")?;
        let known = found.get("peak_per_second").context("the search tells no peak")?;
        let limit = found.get("limit").and_then(Value::as_str);
        Ok(Self { per_second: known.as_f64(), limit: limit.map(str::to_string), steps: steps.len() })
    }

    pub(super) fn limit(&self) -> &str {
        self.limit.as_deref().unwrap_or("not met")
    }

    pub(super) fn json(&self) -> Value {
        json!({ "per_second": self.per_second, "limit": self.limit, "steps": self.steps })
    }
}

pub(super) fn number(report: &Value, path: &str) -> Result<f64> {
    report.pointer(path).and_then(Value::as_f64).with_context(|| format!("the report has no number {path}"))
}

#[cfg(test)]
impl Report {
    /// Of a thousand calls that went well.
    pub(super) fn example() -> Self {
        Self {
            completed: 1_000,
            failures: 0,
            not_started: 0,
            received: 6_000,
            retransmissions: 0,
            kernel_drops: 0,
            per_second: 100.0,
            p50_us: 110,
            p99_us: 990,
            p99_99_us: 1_990,
            busy: 0.5,
            target: Target {
                cpu_seconds: 1.0,
                cores: 0.5,
                busiest_thread: 0.5,
                cpu_us_per_message: 4.0,
                rss_bytes: 1 << 20,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told() -> Value {
        json!({
            "completed": 100, "failures": 2, "not_started": 3, "received": 600,
            "retransmissions": { "sent": 4, "received": 9 }, "kernel_drops": 5, "rate_per_second": 50,
            "latency_us": { "p50": 100, "p99": 900, "p99_99": 1500 },
            "generator": { "busy": 0.5 },
            "target": {
                "cpu_seconds": 3.0, "cores": 1.5, "busiest_thread": 0.75, "cpu_per_message_us": 5.0, "rss_bytes": 1024
            }
        })
    }

    #[test]
    fn a_report_is_read() {
        let report = Report::read(&told()).expect("it is complete");
        assert_eq!((report.completed, report.lost(), report.retransmissions, report.kernel_drops), (100, 5, 4, 5));
        assert_eq!((report.p50_us, report.p99_us, report.p99_99_us), (100, 900, 1500));
        // 3 s on 1.5 cores are 2 s, of which the busiest thread worked three quarters.
        assert!((report.target.busiest_seconds() - 1.5).abs() < 1e-9);
        assert_eq!(report.json()["busiest_thread_seconds"], 1.5);
    }

    #[test]
    fn a_report_without_a_target_is_none() {
        let mut told = told();
        told["target"] = Value::Null;
        let error = Report::read(&told).expect_err("there is no target in it");
        assert!(error.to_string().contains("/target/cpu_seconds"), "{error}");
    }

    #[test]
    fn a_search_is_read() {
        let found = json!({ "peak_per_second": 300.5, "limit": "generator", "steps": [{}, {}] });
        let peak = Peak::read(&found).expect("it is complete");
        assert_eq!((peak.per_second, peak.limit(), peak.steps), (Some(300.5), "generator", 2));
        let none = Peak::read(&json!({ "peak_per_second": null, "limit": null, "steps": [] }));
        let none = none.expect("it is complete");
        assert_eq!((none.per_second, none.limit()), (None, "not met"));
        assert!(Peak::read(&json!({})).is_err());
    }

    #[test]
    fn a_load_is_written_as_options() {
        let load = Load::new(Exchange::Call).at_rate(2_000.0, 60).on("0,1");
        let words =
            "calls --to 127.0.0.1:5060 --from 127.0.0.1:5070 --answer 127.0.0.2:5080 --json --rate 2000 --duration 60s";
        assert_eq!(load.arguments.join(" "), words);
        assert_eq!(load.cores, "0,1");
        assert!(Load::new(Exchange::Register).closed(8, 1).arguments.join(" ").starts_with("registrations "));
    }
}
