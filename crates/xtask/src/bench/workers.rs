//! One caller and one backend, which other balancers pin to one worker, on two workers of tandem.
//!
//! There are two cores, and the generator needs its part of them: calls a second would say more about who gets which core than about
//! tandem. So the throughput is told from CPU time. In a given time a worker can be busy for that time and no longer, and the busiest one
//! is the first that has no time left. What tandem relays in a second in which its busiest worker works all the time is
//!
//! ```text
//! throughput = messages relayed ÷ CPU seconds of the busiest thread
//! ```
//!
//! and the gain is that of two workers ÷ that of one. If they share the work evenly and a message costs what it costs one worker alone,
//! the gain is 2; a trunk pinned to one worker, or workers that pay for their sharing what it brings, have a gain of 1.

use super::grid::Grid;
use super::loads::{Load, Report};
use super::outcome::Outcome;
use super::requirement::Requirement;
use super::status::{self, Worker};
use super::subject::{self, Subject};
use super::{BALANCER_CORE, BOTH_CORES, Bench, Exchange, Part, median};
use anyhow::Result;
use serde_json::{Value, json};

/// One load through one number of workers.
struct Round {
    report: Report,
    workers: Vec<Worker>,
}

/// All rounds with one number of workers.
struct Row {
    name: String,
    rounds: Vec<Round>,
}

/// One worker and two, in turn.
pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let folder = bench.folder.join(Part::Workers.name());
    let subjects = [
        subject::stateful(&bench.own, &folder, 1, BALANCER_CORE),
        subject::stateful(&bench.own, &folder, 2, BOTH_CORES),
    ];
    let mut rows = subjects.each_ref().map(|subject| Row { name: subject.name.clone(), rounds: Vec::new() });
    for _ in 0..ROUNDS {
        for (subject, row) in subjects.iter().zip(&mut rows) {
            row.rounds.push(measure(bench, subject)?);
        }
    }
    let [one, two] = &rows;
    let lost: u64 = rows.iter().map(Row::lost).sum();
    Ok(Outcome {
        part: Part::Workers,
        grids: vec![grid(one, two)],
        requirements: requirements(gain(one, two)),
        void: None,
        faults: if lost > 0 { vec![format!("tandem lost {lost} calls")] } else { Vec::new() },
        figures: json!({ "one": one.json(), "two": two.json(), "gain": gain(one, two) }),
    })
}

fn measure(bench: &Bench<'_>, subject: &Subject) -> Result<Round> {
    println!("    {}: {CONCURRENCY} calls at a time", subject.name);
    let running = bench.start(subject)?;
    let load = Load::new(Exchange::Call).closed(CONCURRENCY, SECONDS).on(BOTH_CORES);
    let report = load.run(bench, &running)?;
    let workers = status::ask(bench, subject)?.workers;
    Ok(Round { report, workers })
}

impl Round {
    /// Messages relayed in a second in which the busiest thread works all the time.
    fn throughput(&self) -> f64 {
        let seconds = self.report.target.busiest_seconds();
        if seconds > 0.0 { self.report.received as f64 / seconds } else { 0.0 }
    }

    /// The busiest thread's part of tandem's CPU time.
    fn busiest_share(&self) -> f64 {
        let all = self.report.target.cpu_seconds;
        if all > 0.0 { self.report.target.busiest_seconds() / all } else { 0.0 }
    }
}

impl Row {
    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn lost(&self) -> u64 {
        self.rounds.iter().map(|round| round.report.lost()).sum()
    }

    /// Datagrams of each worker in all rounds: received, and how many of them were taken from a sibling's sockets.
    fn shares(&self) -> Vec<(u64, u64)> {
        let mut shares: Vec<(u64, u64)> = Vec::new();
        for round in &self.rounds {
            shares.resize(shares.len().max(round.workers.len()), (0, 0));
            for (share, worker) in shares.iter_mut().zip(&round.workers) {
                share.0 += worker.received;
                share.1 += worker.helped;
            }
        }
        shares
    }

    fn json(&self) -> Value {
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| {
                let workers: Vec<Value> = round
                    .workers
                    .iter()
                    .map(|one| json!({ "received": one.received, "sent": one.sent, "helped": one.helped }))
                    .collect();
                json!({
                    "report": round.report.json(),
                    "messages_per_busy_second": round.throughput(),
                    "busiest_thread_share": round.busiest_share(),
                    "workers": workers,
                })
            })
            .collect();
        json!({ "name": self.name, "rounds": rounds })
    }
}

/// How much more two workers bear than one; `None` where one bore nothing.
fn gain(one: &Row, two: &Row) -> Option<f64> {
    let base = one.median(Round::throughput);
    (base > 0.0).then(|| two.median(Round::throughput) / base)
}

fn grid(one: &Row, two: &Row) -> Grid {
    let columns =
        ["", "us/message", "messages per busy second", "busiest thread", "received by each", "of these helping"];
    let mut grid = Grid::new("one caller address and one backend address on two cores", &columns);
    for row in [one, two] {
        let shares = row.shares();
        let joined = |figure: fn(&(u64, u64)) -> u64| {
            let figures: Vec<String> = shares.iter().map(|share| figure(share).to_string()).collect();
            figures.join(" + ")
        };
        grid.row([
            row.name.clone(),
            format!("{:.2}", row.median(|round| round.report.target.cpu_us_per_message)),
            format!("{:.0}", row.median(Round::throughput)),
            format!("{:.0} % of the CPU time", 100.0 * row.median(Round::busiest_share)),
            joined(|share| share.0),
            joined(|share| share.1),
        ]);
    }
    grid
}

fn requirements(gain: Option<f64>) -> Vec<Requirement> {
    vec![Requirement::at_least(
        "one trunk, two workers: messages per second of the busiest worker, ÷ those of one worker",
        GAIN,
        "",
        gain,
    )]
}

const ROUNDS: usize = 3;
const SECONDS: u64 = 10;
/// Enough that a queue forms when a worker is busy: below that siblings sleep on purpose.
const CONCURRENCY: usize = 128;
const GAIN: f64 = 1.6;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::loads::Target;
    use crate::bench::requirement::Verdict;

    /// `seconds`: CPU time of each worker.
    fn row(received: u64, seconds: &[f64]) -> Row {
        let cpu_seconds: f64 = seconds.iter().sum();
        let busiest = seconds.iter().copied().fold(0.0, f64::max);
        let example = Report::example();
        let target = Target {
            cpu_seconds,
            // Over ten seconds.
            cores: cpu_seconds / 10.0,
            busiest_thread: busiest / 10.0,
            cpu_us_per_message: cpu_seconds * 1e6 / received as f64,
            ..example.target
        };
        let report = Report { received, target, ..example };
        let workers = seconds.iter().map(|_| Worker { received: 10, sent: 10, helped: 4 }).collect();
        Row { name: "tandem".to_string(), rounds: vec![Round { report, workers }] }
    }

    #[test]
    fn an_even_share_at_the_same_cost_doubles_the_throughput() {
        let gain = |one: Row, two: Row| gain(&one, &two).expect("one worker bore something");
        assert!((gain(row(1_000, &[1.0]), row(2_000, &[1.0, 1.0])) - 2.0).abs() < 1e-9);
        assert!((gain(row(1_000, &[1.0]), row(1_000, &[1.0, 0.0])) - 1.0).abs() < 1e-9, "pinned to one worker");
        assert!((gain(row(1_000, &[1.0]), row(1_000, &[1.0, 1.0])) - 1.0).abs() < 1e-9, "twice the cost");
        assert_eq!(super::gain(&row(1_000, &[0.0]), &row(1_000, &[1.0])), None);
    }

    #[test]
    fn the_gain_is_judged_on_both_sides_of_its_limit() {
        let verdict = |gain: Option<f64>| requirements(gain).first().map(|one| one.verdict(false));
        assert_eq!(verdict(Some(1.6)), Some(Verdict::Met));
        assert_eq!(verdict(Some(1.59)), Some(Verdict::Missed));
        assert_eq!(verdict(None), Some(Verdict::NotMeasured));
    }

    #[test]
    fn the_work_of_each_worker_is_shown() {
        let mut two = row(2_000, &[1.0, 1.0]);
        two.rounds.extend(row(2_000, &[1.0, 1.0]).rounds);
        assert_eq!(two.shares(), [(20, 8), (20, 8)]);
        let text = grid(&row(1_000, &[1.0]), &two).text();
        assert!(text.contains("50 % of the CPU time") && text.contains("20 + 20") && text.contains("8 + 8"), "{text}");
    }
}
