//! The highest fixed rate of calls without a failure, the latency below it, and a minute at four fifths of it.

use super::grid::Grid;
use super::loads::{Load, Peak, Report};
use super::outcome::Outcome;
use super::pulse::Pulse;
use super::requirement::Requirement;
use super::subject::{self, KAMAILIO_STATEFUL, RELAY, STATEFUL, Subject, family};
use super::{BALANCER_CORE, Bench, Exchange, Part, messages, status};
use anyhow::Result;
use serde_json::{Value, json};

/// What was found out about one subject.
struct Row {
    name: String,
    peak: Peak,
    /// A load at each of [`SHARES`] of the peak.
    below: Vec<Report>,
}

/// The minute at [`ENDURED_SHARE`] of tandem's peak.
struct Endurance {
    report: Report,
    /// Datagrams dropped at tandem's sockets or between its workers, and not sent.
    drops: u64,
}

/// The relay, tandem and the best of the peers, one after the other.
pub(super) fn run(bench: &mut Bench<'_>) -> Result<Outcome> {
    let mut pulse = Pulse::default();
    let mut rows = Vec::new();
    for subject in &subjects(bench)? {
        pulse.take(bench, Part::Peak)?;
        rows.push(examine(bench, subject)?);
    }
    bench.tandem_peak = rows.iter().find(|row| row.name == STATEFUL).and_then(|row| row.peak.per_second);
    let endurance = match bench.tandem_peak {
        Some(peak) => Some(endure(bench, peak * ENDURED_SHARE)?),
        None => None,
    };
    pulse.take(bench, Part::Peak)?;
    Ok(outcome(&rows, endurance.as_ref(), &pulse))
}

/// Tandem's peak alone, for a part that needs it when this one was not chosen.
pub(super) fn of_tandem(bench: &mut Bench<'_>) -> Result<Option<f64>> {
    if bench.tandem_peak.is_none() {
        bench.tandem_peak = find(bench, &tandem(bench))?.per_second;
    }
    Ok(bench.tandem_peak)
}

/// Those whose peak is looked for: of Kamailio's numbers of children the one that calls fastest through it.
fn subjects(bench: &Bench<'_>) -> Result<Vec<Subject>> {
    let mut chosen = Vec::new();
    let mut best: Option<(f64, Subject)> = None;
    for subject in bench.subjects(Part::Peak) {
        if family(&subject.name) == KAMAILIO_STATEFUL {
            let rate = messages::measure(bench, &subject, Exchange::Call, bench.options.seconds)?.rate();
            println!("    {}: {rate:.0} calls/s at {} at a time", subject.name, bench.options.concurrency);
            if best.as_ref().is_none_or(|(known, _)| rate > *known) {
                best = Some((rate, subject));
            }
        } else if [RELAY, STATEFUL].contains(&subject.name.as_str()) {
            chosen.push(subject);
        }
    }
    chosen.extend(best.map(|(_, subject)| subject));
    Ok(chosen)
}

fn examine(bench: &Bench<'_>, subject: &Subject) -> Result<Row> {
    let peak = find(bench, subject)?;
    let mut below = Vec::new();
    for share in SHARES {
        let Some(rate) = peak.per_second.map(|peak| (peak * share).round()) else { break };
        println!("    {}: {rate} calls/s", subject.name);
        let running = bench.start(subject)?;
        below.push(Load::new(Exchange::Call).at_rate(rate, BELOW_SECONDS).run(bench, &running)?);
    }
    Ok(Row { name: subject.name.clone(), peak, below })
}

fn find(bench: &Bench<'_>, subject: &Subject) -> Result<Peak> {
    println!("    {}: looking for its peak", subject.name);
    let running = bench.start(subject)?;
    let peak = Load::new(Exchange::Call).peak(bench, &running, FIRST_RATE, PEAK_SECONDS)?;
    match peak.per_second {
        Some(rate) => println!("    {}: {rate} calls/s; the limit: {}", subject.name, peak.limit()),
        None => println!("    {}: no rate went well; the limit: {}", subject.name, peak.limit()),
    }
    Ok(peak)
}

fn endure(bench: &Bench<'_>, rate: f64) -> Result<Endurance> {
    let rate = rate.round();
    println!("    {STATEFUL}: {rate} calls/s for {ENDURED_SECONDS} s");
    let tandem = tandem(bench);
    let running = bench.start(&tandem)?;
    let report = Load::new(Exchange::Call).at_rate(rate, ENDURED_SECONDS).run(bench, &running)?;
    let drops = status::ask(bench, &tandem)?.drops();
    Ok(Endurance { report, drops })
}

fn tandem(bench: &Bench<'_>) -> Subject {
    subject::stateful(&bench.own, &bench.folder.join(Part::Peak.name()), 1, BALANCER_CORE)
}

fn outcome(rows: &[Row], endurance: Option<&Endurance>, pulse: &Pulse) -> Outcome {
    let mut grids = vec![grid(rows)];
    grids.extend(endurance.map(Endurance::grid));
    Outcome {
        part: Part::Peak,
        grids,
        requirements: requirements(endurance),
        void: pulse.void_reason(),
        faults: Vec::new(),
        figures: json!({
            "subjects": rows.iter().map(Row::json).collect::<Vec<Value>>(),
            "endurance": endurance.map(|endurance| json!({
                "report": endurance.report.json(),
                "tandem_drops": endurance.drops,
            })),
            "pulse_us_per_message": pulse.beats(),
        }),
    }
}

fn grid(rows: &[Row]) -> Grid {
    let title = format!("highest rate of calls without a failure over {PEAK_SECONDS} s, and latencies below it");
    let columns =
        ["", "calls/s", "limit", "p50/p99 us at 25 %", "p50/p99 us at 50 %", "p50/p99 us at 80 %", "failed below"];
    let mut grid = Grid::new(&title, &columns);
    for row in rows {
        let peak = row.peak.per_second.map_or("none".to_string(), |peak| format!("{peak:.0}"));
        let times = (0..SHARES.len()).map(|at| match row.below.get(at) {
            Some(report) => format!("{}/{}", report.p50_us, report.p99_us),
            None => "-".to_string(),
        });
        let lost: u64 = row.below.iter().map(Report::lost).sum();
        let cells = [row.name.clone(), peak, row.peak.limit().to_string()];
        grid.row(cells.into_iter().chain(times).chain([lost.to_string()]));
    }
    grid
}

fn requirements(endurance: Option<&Endurance>) -> Vec<Requirement> {
    vec![
        Requirement::at_most(
            "failed calls at 80 % of the peak for 60 s",
            0.0,
            "",
            endurance.map(|endurance| endurance.report.lost() as f64),
        ),
        Requirement::at_most(
            "datagrams dropped by tandem's and the generator's sockets meanwhile",
            0.0,
            "",
            endurance.map(|endurance| endurance.all_drops() as f64),
        ),
    ]
}

impl Row {
    fn json(&self) -> Value {
        let below: Vec<Value> = SHARES
            .iter()
            .zip(&self.below)
            .map(|(share, report)| json!({ "share": share, "report": report.json() }))
            .collect();
        json!({ "name": self.name, "peak": self.peak.json(), "below": below })
    }
}

impl Endurance {
    fn all_drops(&self) -> u64 {
        self.drops + self.report.kernel_drops
    }

    fn grid(&self) -> Grid {
        let title = format!("tandem stateful at 80 % of its peak for {ENDURED_SECONDS} s");
        let columns =
            ["", "calls/s", "completed", "failed", "dropped", "retransmitted", "p50 us", "p99 us", "p99.99 us"];
        let mut grid = Grid::new(&title, &columns);
        let report = &self.report;
        grid.row([
            STATEFUL.to_string(),
            format!("{:.0}", report.per_second),
            report.completed.to_string(),
            report.lost().to_string(),
            self.all_drops().to_string(),
            report.retransmissions.to_string(),
            report.p50_us.to_string(),
            report.p99_us.to_string(),
            report.p99_99_us.to_string(),
        ]);
        grid
    }
}

/// What everybody can take.
const FIRST_RATE: f64 = 1_000.0;
const PEAK_SECONDS: u64 = 20;
/// Shares of the peak at which latencies are measured.
const SHARES: [f64; 3] = [0.25, 0.5, 0.8];
const BELOW_SECONDS: u64 = 10;
const ENDURED_SHARE: f64 = 0.8;
const ENDURED_SECONDS: u64 = 60;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::requirement::Verdict;

    fn report(failures: u64, not_started: u64, kernel_drops: u64) -> Report {
        Report { failures, not_started, kernel_drops, ..Report::example() }
    }

    fn verdicts(failures: u64, not_started: u64, generator_drops: u64, tandem_drops: u64) -> Vec<Verdict> {
        let endurance = Endurance { report: report(failures, not_started, generator_drops), drops: tandem_drops };
        requirements(Some(&endurance)).iter().map(|requirement| requirement.verdict(false)).collect()
    }

    #[test]
    fn one_lost_call_or_datagram_is_too_many() {
        use Verdict::{Met, Missed, NotMeasured};
        assert_eq!(verdicts(0, 0, 0, 0), [Met, Met]);
        assert_eq!(verdicts(1, 0, 0, 0), [Missed, Met]);
        assert_eq!(verdicts(0, 1, 0, 0), [Missed, Met]);
        assert_eq!(verdicts(0, 0, 1, 0), [Met, Missed]);
        assert_eq!(verdicts(0, 0, 0, 1), [Met, Missed]);
        let unknown: Vec<Verdict> = requirements(None).iter().map(|one| one.verdict(false)).collect();
        assert_eq!(unknown, [NotMeasured, NotMeasured]);
    }

    #[test]
    fn a_subject_without_a_peak_has_a_row_too() {
        let none = Peak { per_second: None, limit: Some("target".to_string()), steps: 4 };
        let found = Peak { per_second: Some(12_000.0), limit: Some("generator".to_string()), steps: 9 };
        let rows = [
            Row {
                name: RELAY.to_string(),
                peak: found,
                below: vec![report(0, 0, 0), report(0, 0, 0), report(0, 2, 0)],
            },
            Row { name: STATEFUL.to_string(), peak: none, below: Vec::new() },
        ];
        let text = grid(&rows).text();
        let line = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect("each subject has a line");
            line.split_whitespace().map(str::to_string).collect::<Vec<String>>().join(" ")
        };
        assert_eq!(line(RELAY), "raw relay 12000 generator 110/990 110/990 110/990 2");
        assert_eq!(line(STATEFUL), "tandem stateful none target - - - 0");
        let outcome = outcome(&rows, None, &Pulse::default());
        assert_eq!(outcome.figures["subjects"][0]["below"][2]["share"], 0.8);
        assert_eq!(outcome.figures["endurance"], Value::Null);
    }
}
