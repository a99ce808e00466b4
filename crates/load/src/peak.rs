//! The highest rate without a failure, and what kept it from being higher.
//!
//! Short loads at doubled rates find a rate that is too high; full ones then halve the distance to it until it is small. Only a rate that
//! went well over the full time counts.

mod search;

use crate::generator::{Details, Generator, Kind, Pace, Settings};
use crate::report::{BUSY, Progress, Report};
use net::NetError;
use search::Search;
use serde_json::{Value, json};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How to look for it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PeakPlan {
    /// The rate to begin with, a second.
    pub first: f64,
    /// How long a rate must go well.
    pub full: Duration,
    /// How long rates are tried on the way up.
    pub short: Duration,
    /// How close to the peak is close enough, as a share of it.
    pub precision: f64,
}

/// What was found.
#[derive(Clone, PartialEq, Debug)]
pub struct Peak {
    pub kind: Kind,
    pub plan: PeakPlan,
    /// The highest rate without a failure, a second; `None` where no rate went well.
    pub per_second: Option<f64>,
    /// What the lowest rate that failed was too much for; `None` where the search was ended before any did.
    pub limit: Option<Limit>,
    /// In the order they were tried.
    pub steps: Vec<Step>,
}

/// One rate that was tried.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    pub per_second: f64,
    pub is_full: bool,
    /// Nothing failed, and the rate was kept.
    pub passed: bool,
    pub report: Report,
}

/// What was too slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// This program: the peak of the target is not known.
    Generator,
    /// The balancer, or what stands behind it.
    Target,
    Both,
    /// Neither was busy: the network, or a limit that somebody set.
    Neither,
}

/// Looks for the peak until it is found or `stop` is true. The pace and duration in `settings` and the count in `details` are of no
/// meaning. `told` hears of each step when it is over, `progress` of each second. Fails when an address cannot be listened at.
pub fn find(
    settings: Settings,
    details: &Details,
    plan: PeakPlan,
    stop: &AtomicBool,
    mut told: impl FnMut(&Step),
    mut progress: impl FnMut(Progress),
) -> Result<Peak, NetError> {
    let details = Details { count: None, ..details.clone() };
    let mut generator = Generator::open(settings, &details)?;
    let mut search = Search::new(plan.first, plan.precision);
    let mut steps: Vec<Step> = Vec::new();
    while let Some(next) = search.next() {
        generator.rest(REST)?;
        generator.await_ready(stop, &mut progress)?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let pace = Pace::Rate { per_second: next.per_second };
        let duration = if next.is_full { plan.full } else { plan.short };
        let report = generator.run(pace, duration, stop, &mut progress)?;
        if stop.load(Ordering::Relaxed) {
            // It was cut short, and says nothing.
            break;
        }
        let passed = has_passed(&report);
        search.record(next, passed);
        let step = Step { per_second: next.per_second, is_full: next.is_full, passed, report };
        told(&step);
        steps.push(step);
    }
    let lowest_failed =
        steps.iter().filter(|step| !step.passed).min_by(|left, right| left.per_second.total_cmp(&right.per_second));
    let limit = lowest_failed.map(|step| limit(&step.report));
    Ok(Peak { kind: settings.kind, plan, per_second: search.peak(), limit, steps })
}

fn has_passed(report: &Report) -> bool {
    let is_kept = report.lateness.quantile(0.99) < LATE_US;
    report.completed > 0 && report.failures() == 0 && report.not_started == 0 && is_kept
}

fn limit(report: &Report) -> Limit {
    let target = report.target.map(|used| used.busiest_share(report.measured) >= BUSY_TARGET);
    match (report.is_generator_limited(), target) {
        (true, Some(true)) => Limit::Both,
        (true, _) => Limit::Generator,
        (false, Some(false)) => Limit::Neither,
        (false, _) => Limit::Target,
    }
}

impl Peak {
    /// All of it as one object, with the report of each step.
    pub fn to_json(&self) -> Value {
        let steps: Vec<Value> = self
            .steps
            .iter()
            .map(|step| {
                json!({
                    "rate_per_second": step.per_second,
                    "full": step.is_full,
                    "passed": step.passed,
                    "limit": (!step.passed).then(|| limit(&step.report).label()),
                    "report": step.report.to_json(),
                })
            })
            .collect();
        json!({
            "kind": self.kind.to_string(),
            "success": self.per_second.is_some(),
            "peak_per_second": self.per_second,
            "limit": self.limit.map(Limit::label),
            "full_seconds": self.plan.full.as_secs_f64(),
            "precision": self.plan.precision,
            "steps": steps,
        })
    }

    /// The step that the peak was seen in.
    fn best(&self) -> Option<&Step> {
        self.steps.iter().rfind(|step| step.is_full && step.passed && Some(step.per_second) == self.per_second)
    }
}

impl Limit {
    /// As in JSON.
    pub fn label(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Target => "target",
            Self::Both => "both",
            Self::Neither => "neither",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Generator => "the generator: the target may well take more",
            Self::Target => "the target, or what stands behind it",
            Self::Both => "the generator and the target, each at its end",
            Self::Neither => "neither the generator nor the target: the network, or a limit that somebody set",
        })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = &self.report;
        write!(
            formatter,
            "{} a second: {}, {} completed, {} failed, {} not begun, p99 {} us, generator {:.0} % busy",
            self.per_second,
            if self.passed { "passed" } else { "failed" },
            report.completed,
            report.failures(),
            report.not_started,
            report.latency.quantile(0.99),
            report.busy * 100.0
        )
    }
}

impl fmt::Display for Peak {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            writeln!(formatter, "  {step}")?;
        }
        if let Some(best) = self.best() {
            writeln!(formatter, "\n{}\n", best.report)?;
        }
        match self.per_second {
            Some(rate) => {
                let seconds = self.plan.full.as_secs_f64();
                write!(formatter, "peak: {rate} {}s a second without a failure over {seconds} s", self.kind)?;
            }
            None => write!(formatter, "peak: none, no rate went well")?,
        }
        match self.limit {
            Some(limit) => write!(formatter, "; the limit was {limit}"),
            None => write!(formatter, "; no rate that fails was found"),
        }
    }
}

/// Between two steps.
const REST: Duration = Duration::from_secs(1);
/// A schedule that is missed by this at the 99th percentile is another schedule.
const LATE_US: u64 = 100_000;
/// A thread that uses so much of a core has nothing left to give. Less than for this program, whose waiting is known and not measured.
const BUSY_TARGET: f64 = BUSY - 0.05;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Failure, Target, tests};
    use std::collections::BTreeMap;

    /// A report over four seconds, with this share of a core used by the target's busiest thread.
    fn report(busy: f64, share: Option<f64>) -> Report {
        let target = share.map(|share| Target {
            cpu: Duration::from_secs(4),
            busiest_thread: Duration::from_secs_f64(4.0 * share),
            rss_bytes: 1,
        });
        Report { busy, target, kernel_drops: 0, not_started: 0, failed: BTreeMap::new(), ..tests::report() }
    }

    #[test]
    fn the_limit_is_whoever_was_busy() {
        assert_eq!(limit(&report(0.3, None)), Limit::Target);
        assert_eq!(limit(&report(0.3, Some(0.97))), Limit::Target);
        assert_eq!(limit(&report(0.3, Some(0.4))), Limit::Neither);
        assert_eq!(limit(&report(0.99, None)), Limit::Generator);
        assert_eq!(limit(&report(0.99, Some(0.4))), Limit::Generator);
        assert_eq!(limit(&report(0.99, Some(0.97))), Limit::Both);
    }

    #[test]
    fn a_rate_passes_if_it_was_kept_and_nothing_failed() {
        let good = report(0.3, None);
        assert!(has_passed(&good));
        assert!(!has_passed(&Report { failed: BTreeMap::from([(Failure::Timeout, 1)]), ..good.clone() }));
        assert!(!has_passed(&Report { not_started: 1, ..good.clone() }));
        assert!(!has_passed(&Report { completed: 0, ..good.clone() }));
        let mut late = good;
        late.lateness.record(150_000);
        assert!(!has_passed(&late));
    }

    #[test]
    fn a_peak_says_what_kept_it_from_being_higher() {
        let step = |per_second: f64, passed: bool, report: Report| Step { per_second, is_full: true, passed, report };
        let peak = Peak {
            kind: Kind::Call,
            plan: PeakPlan {
                first: 200.0,
                full: Duration::from_secs(20),
                short: Duration::from_secs(5),
                precision: 0.05,
            },
            per_second: Some(300.0),
            limit: Some(Limit::Target),
            steps: vec![step(300.0, true, report(0.3, None)), step(400.0, false, report(0.4, Some(1.0)))],
        };
        let text = peak.to_string();
        let end =
            "peak: 300 calls a second without a failure over 20 s; the limit was the target, or what stands behind it";
        assert!(text.ends_with(end), "{text}");
        assert!(text.starts_with("  300 a second: passed, 100 completed, 0 failed"), "{text}");
        let json = peak.to_json();
        assert_eq!((&json["peak_per_second"], &json["limit"]), (&json!(300.0), &json!("target")));
        assert_eq!(json["steps"][0]["limit"], Value::Null);
        assert_eq!(json["steps"][1]["limit"], "target");
        assert_eq!(json["steps"][1]["report"]["failures"], 0);
        let none = Peak { per_second: None, limit: None, ..peak };
        assert!(none.to_string().ends_with("peak: none, no rate went well; no rate that fails was found"));
        assert_eq!(none.to_json()["success"], false);
    }
}
