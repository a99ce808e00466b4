//! The longest latencies at half of tandem's peak, with a changed configuration taken up every second, beside the relay's.

use super::figures::void_reason;
use super::grid::Grid;
use super::loads::{Load, Report};
use super::outcome::Outcome;
use super::process::{Running, Signaller};
use super::requirement::Requirement;
use super::subject::{self, RELAY, Subject};
use super::{BALANCER_CORE, Bench, Exchange, Part, median, peak};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// All loads on one subject.
struct Row {
    name: &'static str,
    reports: Vec<Report>,
    reloads: Reloads,
}

/// As tandem's log tells them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Reloads {
    asked: u64,
    done: u64,
    refused: u64,
}

/// The relay, tandem left alone, and tandem with reloads, in turn.
pub(super) fn run(bench: &mut Bench<'_>) -> Result<Outcome> {
    let rate = match bench.options.rate {
        Some(rate) => rate,
        None => peak::of_tandem(bench)?.context("tandem has no peak, and no --rate was given")? * SHARE,
    };
    let rate = rate.round();
    let folder = bench.folder.join(Part::Reload.name());
    let relay = subject::relay(&bench.own, &folder);
    let tandem = subject::stateful(&bench.own, &folder, 1, BALANCER_CORE);
    let mut rows = [RELAY, ALONE, RELOADED].map(|name| Row { name, reports: Vec::new(), reloads: Reloads::default() });
    for _ in 0..ROUNDS {
        for row in &mut rows {
            let subject = if row.name == RELAY { &relay } else { &tandem };
            // The same files and signals for all, so that what they cost the machine is in all figures; only one takes them as a reload.
            let signal = if row.name == RELOADED { "HUP" } else { "CONT" };
            println!("    {}: {rate} calls/s for {SECONDS} s", row.name);
            let (report, reloads) = measure(bench, subject, &tandem.config_text(), rate, signal)?;
            row.reports.push(report);
            row.reloads.asked += reloads.asked;
            row.reloads.done += reloads.done;
            row.reloads.refused += reloads.refused;
        }
    }
    Ok(outcome(&rows, rate))
}

fn measure(bench: &Bench<'_>, subject: &Subject, config: &str, rate: f64, signal: &str) -> Result<(Report, Reloads)> {
    let running = bench.start(subject)?;
    let mut changes = Changes::new(subject.config_path(), config, signal, &running)?;
    let load = Load::new(Exchange::Call).at_rate(rate, SECONDS);
    let report = load.run_while(bench, &running, &mut |time| changes.tick(time))?;
    let asked = if signal == "HUP" { changes.asked } else { 0 };
    let reloads = Reloads { asked, ..reloads_in(&running.said()) };
    Ok((report, reloads))
}

/// A configuration that changes every second, and the signal that says so.
struct Changes {
    path: PathBuf,
    /// The configuration in turns with one weight and another.
    texts: [String; 2],
    signaller: Signaller,
    asked: u64,
}

impl Changes {
    fn new(path: PathBuf, config: &str, signal: &str, running: &Running) -> Result<Self> {
        // The backend's table is the last one of the file. With one backend its weight changes nothing that is sent.
        let texts = [2, 1].map(|weight| format!("{config}weight = {weight}\n"));
        Ok(Self { path, texts, signaller: Signaller::new(signal, running.process())?, asked: 0 })
    }

    fn tick(&mut self, time: Duration) -> Result<()> {
        if time.as_secs() <= self.asked || self.asked >= RELOADS {
            return Ok(());
        }
        let [first, second] = &self.texts;
        replace(&self.path, if self.asked.is_multiple_of(2) { first } else { second })?;
        self.asked += 1;
        self.signaller.send()
    }
}

/// In one step, so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).context("cannot change the configuration")
}

/// What tandem's log says of reloads: a line for each change, which is one a reload here.
fn reloads_in(log: &str) -> Reloads {
    let refused = log.lines().filter(|line| line.contains("ReloadRefused")).count() as u64;
    let done = log.lines().filter(|line| line.contains("Reloaded")).count() as u64;
    Reloads { asked: 0, done, refused }
}

impl Row {
    fn p99_99_us(&self) -> f64 {
        median(self.reports.iter().map(|report| report.p99_99_us as f64))
    }

    fn lost(&self) -> u64 {
        self.reports.iter().map(Report::lost).sum()
    }

    fn cpu_us_per_message(&self) -> Vec<f64> {
        self.reports.iter().map(|report| report.target.cpu_us_per_message).collect()
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name,
            "p99_99_us": self.p99_99_us(),
            "reloads": { "asked": self.reloads.asked, "done": self.reloads.done, "refused": self.reloads.refused },
            "reports": self.reports.iter().map(Report::json).collect::<Vec<Value>>(),
        })
    }
}

fn outcome(rows: &[Row], rate: f64) -> Outcome {
    let find = |name: &str| rows.iter().find(|row| row.name == name);
    let ours = rows.iter().filter(|row| row.name != RELAY);
    let mut faults: Vec<String> =
        ours.filter(|row| row.lost() > 0).map(|row| format!("{} lost {} calls", row.name, row.lost())).collect();
    if let Some(Reloads { asked, done, refused }) = find(RELOADED).map(|row| row.reloads)
        && (refused > 0 || done < asked)
    {
        faults.push(format!("{asked} reloads were asked for, {done} done and {refused} refused"));
    }
    let added = find(RELOADED).zip(find(RELAY)).map(|(ours, relay)| ours.p99_99_us() - relay.p99_99_us());
    Outcome {
        part: Part::Reload,
        grids: vec![grid(rows, rate)],
        requirements: requirements(added),
        void: find(RELAY).and_then(|relay| void_reason(&relay.cpu_us_per_message())),
        faults,
        figures: json!({
            "calls_per_second": rate,
            "added_p99_99_us": added,
            "subjects": rows.iter().map(Row::json).collect::<Vec<Value>>(),
        }),
    }
}

fn grid(rows: &[Row], rate: f64) -> Grid {
    let title = format!("latencies at {rate:.0} calls/s, medians of {ROUNDS} times {SECONDS} s");
    let mut grid = Grid::new(&title, &["", "p50 us", "p99 us", "p99.99 us", "failed", "reloads"]);
    for row in rows {
        let middle = |figure: fn(&Report) -> u64| {
            let value = median(row.reports.iter().map(|report| figure(report) as f64));
            format!("{value:.0}")
        };
        grid.row([
            row.name.to_string(),
            middle(|report| report.p50_us),
            middle(|report| report.p99_us),
            format!("{:.0}", row.p99_99_us()),
            row.lost().to_string(),
            row.reloads.done.to_string(),
        ]);
    }
    grid
}

/// `added`: microseconds that tandem's p99.99 is above the relay's.
fn requirements(added: Option<f64>) -> Vec<Requirement> {
    vec![Requirement::at_most(
        "p99.99 at half the peak with a reload each second, above the raw relay's",
        ADDED_US,
        " us",
        added,
    )]
}

const ALONE: &str = subject::STATEFUL;
const RELOADED: &str = "tandem stateful, reloaded each second";
/// Of tandem's peak.
const SHARE: f64 = 0.5;
const ROUNDS: usize = 3;
const SECONDS: u64 = 30;
/// One less, so that the last one is over when the load is.
const RELOADS: u64 = SECONDS - 1;
const ADDED_US: f64 = 1_000.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::loads::Target;
    use crate::bench::requirement::Verdict;

    fn row(name: &'static str, p99_99_us: u64, failures: u64, us_per_message: &[f64]) -> Row {
        let example = Report::example();
        let report = |us_per_message: &f64| Report {
            failures,
            p99_99_us,
            target: Target { cpu_us_per_message: *us_per_message, ..example.target },
            ..example.clone()
        };
        Row { name, reports: us_per_message.iter().map(report).collect(), reloads: Reloads::default() }
    }

    fn judged(tandem_us: u64, failures: u64, relay: &[f64], reloads: Reloads) -> (Vec<Verdict>, Outcome) {
        let mut reloaded = row(RELOADED, tandem_us, failures, &[5.0]);
        reloaded.reloads = reloads;
        let outcome = outcome(&[row(RELAY, 500, 9, relay), row(ALONE, 600, 0, &[5.0]), reloaded], 1_000.0);
        let verdicts = outcome.requirements.iter().map(|one| one.verdict(outcome.void.is_some())).collect();
        (verdicts, outcome)
    }

    const GOOD: Reloads = Reloads { asked: 30, done: 30, refused: 0 };

    #[test]
    fn a_millisecond_above_the_relay_is_allowed() {
        let (verdicts, outcome) = judged(1_500, 0, &[4.0, 4.0, 5.0], GOOD);
        assert_eq!((verdicts, outcome.faults.len()), (vec![Verdict::Met], 0));
        assert_eq!(judged(1_501, 0, &[4.0, 4.0, 5.0], GOOD).0, [Verdict::Missed]);
        assert_eq!(judged(1_500, 0, &[4.0, 4.0, 5.1], GOOD).0, [Verdict::Void]);
    }

    #[test]
    fn lost_calls_and_reloads_that_did_not_happen_are_faults() {
        let faults = |failures: u64, reloads: Reloads| judged(1_500, failures, &[4.0], reloads).1.faults.len();
        assert_eq!(faults(0, GOOD), 0, "what the relay loses is no fault of ours");
        assert_eq!(faults(1, GOOD), 1);
        assert_eq!(faults(0, Reloads { done: 29, ..GOOD }), 1);
        assert_eq!(faults(0, Reloads { refused: 1, ..GOOD }), 1);
    }

    #[test]
    fn reloads_are_counted_in_the_log() {
        let log = "info Reloaded weight: 1 -> 2\ninfo Reloaded weight: 2 -> 1\nerror ReloadRefused no\nready\n";
        assert_eq!(reloads_in(log), Reloads { asked: 0, done: 2, refused: 1 });
    }

    #[test]
    fn a_configuration_is_replaced_whole() {
        let folder = tempfile::tempdir().expect("the system has room for a folder");
        let path = folder.path().join("tandem.toml");
        replace(&path, "old").and_then(|()| replace(&path, "new")).expect("the folder can be written to");
        assert_eq!(std::fs::read_to_string(&path).ok().as_deref(), Some("new"));
        assert_eq!(std::fs::read_dir(folder.path()).map(Iterator::count).ok(), Some(1));
    }

    #[test]
    fn both_configurations_are_accepted_and_differ() {
        let tandem = subject::stateful(Path::new("/bin/xtask"), Path::new("/nowhere"), 1, BALANCER_CORE);
        let weights = [2, 1].map(|weight| {
            let text = format!("{}weight = {weight}\n", tandem.config_text());
            match config::load("tandem.toml", &text) {
                Ok(checked) => checked.settings.farms[0].backends[0].weight,
                Err(errors) => panic!("{} errors", errors.len()),
            }
        });
        assert_eq!(weights, [2, 1]);
    }
}
