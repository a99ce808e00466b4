//! The engine with a thousand backends and a million users, against three and a thousand: without sockets, in this process.
//!
//! Both farms stand side by side and are used in turns, so that what the machine does meanwhile meets both. All users are registered; to
//! make both alike in everything but their size, the thousand register as often as the million. Persistence is that of the default, so
//! that calls find their user's backend in the table; what the algorithm alone costs is the time of a decision, measured apart.

use super::grid::Grid;
use super::outcome::Outcome;
use super::pinned::Pinned;
use super::requirement::Requirement;
use super::shard::Town;
use super::{BALANCER_CORE, Bench, Part, decision, median};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// One algorithm, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Row {
    algorithm: &'static str,
    /// Of a message, with few backends and users.
    small_ns: f64,
    /// Of a message, with many.
    large_ns: f64,
    /// Of a decision among many backends.
    decision_ns: f64,
}

/// Each algorithm in turn.
pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let _pinned = Pinned::to(BALANCER_CORE)?;
    let mut rows = Vec::new();
    for policy in engine::policy::ALL {
        bench.interrupt.check()?;
        let row = measure(bench, policy.name()).with_context(|| format!("algorithm {}", policy.name()))?;
        println!(
            "    {:<14} {:.0} ns a message, {:.0} ns with many; {:.0} ns a decision",
            row.algorithm, row.small_ns, row.large_ns, row.decision_ns
        );
        rows.push(row);
    }
    Ok(Outcome {
        part: Part::Scale,
        grids: vec![grid(&rows)],
        requirements: requirements(&rows),
        void: None,
        faults: Vec::new(),
        figures: json!({ "algorithms": rows.iter().map(|row| row.json()).collect::<Vec<Value>>() }),
    })
}

fn measure(bench: &Bench<'_>, algorithm: &'static str) -> Result<Row> {
    let mut small = Town::new(algorithm, FEW_BACKENDS, FEW_USERS)?;
    let mut large = Town::new(algorithm, MANY_BACKENDS, MANY_USERS)?;
    for town in [&mut small, &mut large] {
        town.register(MANY_USERS)?;
        bench.interrupt.check()?;
        town.call(WARM_UP)?;
    }
    let clock_ns = clock_cost();
    let (mut small_ns, mut large_ns) = (Vec::new(), Vec::new());
    for _ in 0..BATCHES {
        bench.interrupt.check()?;
        small_ns.push((small.call(CALLS)? - clock_ns).max(0.0));
        large_ns.push((large.call(CALLS)? - clock_ns).max(0.0));
    }
    let decisions = decision::batches(algorithm, MANY_BACKENDS)?;
    Ok(Row {
        algorithm,
        small_ns: median(small_ns.into_iter()),
        large_ns: median(large_ns.into_iter()),
        decision_ns: median(decisions.into_iter()),
    })
}

/// What two looks at the clock add to a time that is taken, in nanoseconds.
pub(super) fn clock_cost() -> f64 {
    let mut spent = Duration::ZERO;
    for _ in 0..LOOKS {
        let start = black_box(Instant::now());
        spent += start.elapsed();
    }
    spent.as_nanos() as f64 / f64::from(LOOKS)
}

impl Row {
    fn ratio(&self) -> f64 {
        if self.small_ns > 0.0 { self.large_ns / self.small_ns } else { 0.0 }
    }

    fn json(&self) -> Value {
        json!({
            "algorithm": self.algorithm,
            "small_ns_per_message": self.small_ns,
            "large_ns_per_message": self.large_ns,
            "ratio": self.ratio(),
            "decision_ns": self.decision_ns,
        })
    }
}

fn grid(rows: &[Row]) -> Grid {
    let title = "the engine alone: CPU per message of calls, and per decision";
    let columns =
        ["", "us, 3 backends, 1,000 users", "us, 1,000 backends, 1,000,000 users", "ratio", "us a decision of 1,000"];
    let mut grid = Grid::new(title, &columns);
    for row in rows {
        grid.row([
            row.algorithm.to_string(),
            format!("{:.3}", row.small_ns / 1e3),
            format!("{:.3}", row.large_ns / 1e3),
            format!("{:.2}", row.ratio()),
            format!("{:.3}", row.decision_ns / 1e3),
        ]);
    }
    grid
}

fn requirements(rows: &[Row]) -> Vec<Requirement> {
    let ratios = rows.iter().map(|row| {
        let figure = format!("CPU per message with 1,000 backends and 1,000,000 users, {}", row.algorithm);
        Requirement::at_most(figure, RATIO, "", Some(row.ratio()))
    });
    let decisions = rows.iter().map(|row| {
        let figure = format!("a decision among 1,000 backends, {}", row.algorithm);
        Requirement::at_most(figure, DECISION_US, " us", Some(row.decision_ns / 1e3))
    });
    ratios.chain(decisions).collect()
}

const FEW_BACKENDS: usize = 3;
const FEW_USERS: u32 = 1_000;
const MANY_BACKENDS: usize = 1_000;
const MANY_USERS: u32 = 1_000_000;
/// Calls before the first batch: tables get their size, and the code its place in the caches.
const WARM_UP: u32 = 10_000;
const BATCHES: usize = 15;
const CALLS: u32 = 2_000;
const LOOKS: u32 = 100_000;
const RATIO: f64 = 1.5;
const DECISION_US: f64 = 1.5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::requirement::Verdict;

    fn verdicts(small_ns: f64, large_ns: f64, decision_ns: f64) -> Vec<Verdict> {
        let row = Row { algorithm: "weight", small_ns, large_ns, decision_ns };
        requirements(&[row]).iter().map(|requirement| requirement.verdict(false)).collect()
    }

    #[test]
    fn both_limits_are_judged_on_both_sides() {
        use Verdict::{Met, Missed};
        assert_eq!(verdicts(1_000.0, 1_500.0, 1_500.0), [Met, Met]);
        assert_eq!(verdicts(1_000.0, 1_501.0, 1_499.0), [Missed, Met]);
        assert_eq!(verdicts(1_000.0, 1_499.0, 1_501.0), [Met, Missed]);
    }

    #[test]
    fn every_algorithm_has_its_row_and_two_requirements() {
        let rows: Vec<Row> = engine::policy::ALL
            .iter()
            .map(|policy| Row { algorithm: policy.name(), small_ns: 900.0, large_ns: 1_080.0, decision_ns: 250.0 })
            .collect();
        assert_eq!(requirements(&rows).len(), 18);
        let text = grid(&rows).text();
        let line = text.lines().find(|line| line.starts_with("least-work")).expect("it has a row");
        let cells: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(cells, ["least-work", "0.900", "1.080", "1.20", "0.250"]);
    }

    #[test]
    fn looking_at_the_clock_takes_time() {
        let cost = clock_cost();
        assert!(cost > 0.0 && cost < 100_000.0, "{cost} ns");
    }
}
