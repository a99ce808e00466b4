//! CPU time per message that comes over a stream and goes on by datagram, and back; over TLS the handshakes as well. Tandem and Kamailio in
//! turn, each freshly started, Kamailio at its best number of children.
//!
//! Handshakes are told for a second of CPU time: generator and balancer have a core each, and a client's handshake costs about as much as a
//! server's, so that the rate as the clock tells it would say more about the generator.

use super::client::{self, Phones};
use super::{Carrier, certificate};
use crate::bench::grid::Grid;
use crate::bench::loads::{self, Report};
use crate::bench::outcome::Outcome;
use crate::bench::requirement::Requirement;
use crate::bench::subject::{self, KAMAILIO_STREAMS, STREAMS, Subject};
use crate::bench::{Bench, Part, count, median};
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// One measurement of one subject.
#[derive(Clone, Debug)]
struct Round {
    report: Report,
    /// Over TLS only.
    handshakes: Option<Handshakes>,
}

/// What opening connections took.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Handshakes {
    opened: u64,
    lost: u64,
    /// Of the balancer.
    cpu_seconds: f64,
    /// As the clock tells it.
    per_second: f64,
    p99_us: u64,
}

/// All rounds of one subject.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    rounds: Vec<Round>,
}

/// The part `tcp` or `tls`.
pub(in crate::bench) fn run(bench: &Bench<'_>, part: Part) -> Result<Outcome> {
    let carrier = if part == Part::Tls { Carrier::Tls } else { Carrier::Tcp };
    client::widen_ports();
    let subjects = subjects(bench, part);
    let mut rows: Vec<Row> =
        subjects.iter().map(|subject| Row { name: subject.name.clone(), rounds: Vec::new() }).collect();
    for round in 1..=ROUNDS {
        for (subject, row) in subjects.iter().zip(&mut rows) {
            let measured = measure(bench, subject, carrier);
            row.rounds.push(measured.with_context(|| format!("round {round}, {}", subject.name))?);
        }
    }
    Ok(outcome(part, carrier, &rows))
}

/// Tandem, and Kamailio with each number of children.
fn subjects(bench: &Bench<'_>, part: Part) -> Vec<Subject> {
    let folder = bench.folder.join(part.name());
    let mut subjects = vec![subject::streaming(&bench.own, &folder)];
    subjects.extend(bench.options.children.iter().filter_map(|count| subject::streaming_peer(&folder, *count)));
    if subjects.len() == 1 {
        println!("kamailio is not installed and not measured");
    }
    subjects
}

fn measure(bench: &Bench<'_>, subject: &Subject, carrier: Carrier) -> Result<Round> {
    println!("    {}: {CONNECTIONS} connections over {}", subject.name, carrier.name());
    certificate::write(subject.folder())?;
    let running = bench.start(subject)?;
    let phones =
        Phones::pinging(carrier, CONNECTIONS).with("--warm-up", "2s").with("--duration", format!("{SECONDS}s"));
    let phones = if bench.options.sleep { phones } else { phones.flag("--busy-poll") };
    let report = Report::read(&phones.run(bench, &running)?)?;
    println!("    {}", report.line());
    drop(running);
    let handshakes = match carrier {
        Carrier::Tcp => None,
        Carrier::Tls => {
            let running = bench.start(subject)?;
            let told = Phones::idle(carrier, HANDSHAKES).with("--hold", "0s").run(bench, &running)?;
            let handshakes = Handshakes::read(&told)?;
            println!("    {:.0} handshakes a second of CPU time", handshakes.per_cpu_second());
            Some(handshakes)
        }
    };
    Ok(Round { report, handshakes })
}

impl Handshakes {
    fn read(told: &Value) -> Result<Self> {
        Ok(Self {
            opened: count(told, "/connections/opened")?,
            lost: count(told, "/connections/losses")?,
            cpu_seconds: loads::number(told, "/target/cpu_opening_seconds")?,
            per_second: loads::number(told, "/connections/opened_per_second")?,
            p99_us: count(told, "/connections/handshake_us/p99")?,
        })
    }

    fn per_cpu_second(&self) -> f64 {
        if self.cpu_seconds > 0.0 { self.opened as f64 / self.cpu_seconds } else { 0.0 }
    }

    fn json(&self) -> Value {
        json!({
            "opened": self.opened,
            "lost": self.lost,
            "cpu_seconds": self.cpu_seconds,
            "per_cpu_second": self.per_cpu_second(),
            "per_second": self.per_second,
            "p99_us": self.p99_us,
        })
    }
}

impl Row {
    fn median(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn us_per_message(&self) -> f64 {
        self.median(|round| round.report.target.cpu_us_per_message)
    }

    /// For a second of CPU time; zero where none were measured. Rounds that lost connections do not count: a program that died
    /// under them took its CPU time with it.
    fn handshakes(&self) -> f64 {
        let whole = self.rounds.iter().filter_map(|round| round.handshakes).filter(|handshakes| handshakes.lost == 0);
        median(whole.map(|handshakes| handshakes.per_cpu_second()))
    }

    fn lost(&self) -> u64 {
        let handshakes = self.rounds.iter().filter_map(|round| round.handshakes);
        self.rounds.iter().map(|round| round.report.lost()).sum::<u64>() + handshakes.map(|one| one.lost).sum::<u64>()
    }

    fn json(&self) -> Value {
        let rounds: Vec<Value> = self
            .rounds
            .iter()
            .map(|round| {
                json!({
                    "report": round.report.json(),
                    "handshakes": round.handshakes.map(|handshakes| handshakes.json()),
                })
            })
            .collect();
        json!({ "name": self.name, "cpu_us_per_message": self.us_per_message(), "rounds": rounds })
    }
}

fn outcome(part: Part, carrier: Carrier, rows: &[Row]) -> Outcome {
    let lost: u64 = rows.iter().filter(|row| row.name == STREAMS).map(Row::lost).sum();
    Outcome {
        part,
        grids: vec![grid(carrier, rows)],
        requirements: requirements(carrier, rows),
        void: None,
        faults: if lost > 0 { vec![format!("tandem lost {lost} exchanges or connections")] } else { Vec::new() },
        figures: json!({ "rows": rows.iter().map(Row::json).collect::<Vec<Value>>() }),
    }
}

fn grid(carrier: Carrier, rows: &[Row]) -> Grid {
    let title = format!("{CONNECTIONS} connections over {}, one OPTIONS under way on each", carrier.name());
    let mut columns = vec!["", "us/message", "per s", "p50 us", "p99 us", "failed"];
    if carrier == Carrier::Tls {
        columns.extend(["handshakes a CPU s", "handshakes a s", "handshake p99 us"]);
    }
    let mut grid = Grid::new(&title, &columns);
    for row in rows {
        let mut cells = vec![
            row.name.clone(),
            format!("{:.2}", row.us_per_message()),
            format!("{:.0}", row.median(|round| round.report.per_second)),
            format!("{:.0}", row.median(|round| round.report.p50_us as f64)),
            format!("{:.0}", row.median(|round| round.report.p99_us as f64)),
            row.lost().to_string(),
        ];
        if carrier == Carrier::Tls {
            let of = |figure: fn(&Handshakes) -> f64| {
                format!("{:.0}", row.median(|round| round.handshakes.as_ref().map_or(0.0, figure)))
            };
            cells.push(format!("{:.0}", row.handshakes()));
            cells.push(of(|handshakes| handshakes.per_second));
            cells.push(of(|handshakes| handshakes.p99_us as f64));
        }
        grid.row(cells);
    }
    grid
}

/// Kamailio's variants count by the best of them, for each figure.
fn requirements(carrier: Carrier, rows: &[Row]) -> Vec<Requirement> {
    let of = |name: &'static str| rows.iter().filter(move |row| subject::family(&row.name) == name);
    let cheapest =
        |name: &'static str| of(name).map(Row::us_per_message).filter(|cost| *cost > 0.0).min_by(f64::total_cmp);
    let fastest = |name: &'static str| of(name).map(Row::handshakes).max_by(f64::total_cmp);
    let ratio = |left: Option<f64>, right: Option<f64>| {
        Some((left?, right?)).filter(|(left, right)| *left > 0.0 && *right > 0.0).map(|(left, right)| left / right)
    };
    let (figure, factor) = match carrier {
        Carrier::Tcp => ("CPU per message over TCP, 1,000 connections, Kamailio ÷ tandem", TCP_FACTOR),
        Carrier::Tls => ("CPU per message over TLS, 1,000 connections, Kamailio ÷ tandem", TLS_FACTOR),
    };
    let messages = ratio(cheapest(KAMAILIO_STREAMS), cheapest(STREAMS));
    let mut requirements = vec![Requirement::at_least(figure, factor, "", messages)];
    if carrier == Carrier::Tls {
        let figure = "TLS handshakes in a second of CPU time, tandem ÷ Kamailio";
        let handshakes = ratio(fastest(STREAMS), fastest(KAMAILIO_STREAMS));
        requirements.push(Requirement::at_least(figure, HANDSHAKE_FACTOR, "", handshakes));
    }
    requirements
}

const ROUNDS: usize = 3;
const SECONDS: u64 = 10;
const CONNECTIONS: u32 = 1_000;
/// Connections that are opened to see what a handshake costs.
const HANDSHAKES: u32 = 4_000;
/// A third of Kamailio's cost, and half of it.
const TCP_FACTOR: f64 = 3.0;
const TLS_FACTOR: f64 = 2.0;
const HANDSHAKE_FACTOR: f64 = 1.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::loads::Target;
    use crate::bench::requirement::Verdict;

    fn row(name: &str, us_per_message: f64, handshakes: Option<f64>) -> Row {
        let example = Report::example();
        let target = Target { cpu_us_per_message: us_per_message, ..example.target };
        let handshakes = handshakes.map(|per_cpu_second| Handshakes {
            opened: 4_000,
            lost: 0,
            cpu_seconds: 4_000.0 / per_cpu_second,
            per_second: 900.0,
            p99_us: 2_000,
        });
        Row { name: name.to_string(), rounds: vec![Round { report: Report { target, ..example }, handshakes }] }
    }

    fn verdicts(carrier: Carrier, rows: &[Row]) -> Vec<Verdict> {
        requirements(carrier, rows).iter().map(|requirement| requirement.verdict(false)).collect()
    }

    #[test]
    fn kamailio_counts_at_its_best() {
        use Verdict::{Met, Missed, NotMeasured};
        let (one, two) = ("kamailio, 1 child", "kamailio, 2 children");
        let rows = |ours: f64| [row(STREAMS, ours, None), row(one, 40.0, None), row(two, 30.0, None)];
        assert_eq!(verdicts(Carrier::Tcp, &rows(10.0)), [Met]);
        assert_eq!(verdicts(Carrier::Tcp, &rows(10.1)), [Missed]);
        let tls = [row(STREAMS, 15.0, Some(2_000.0)), row(one, 30.0, Some(1_999.0)), row(two, 31.0, Some(1_000.0))];
        assert_eq!(verdicts(Carrier::Tls, &tls), [Met, Met]);
        let tls = [row(STREAMS, 15.1, Some(2_000.0)), row(one, 30.0, Some(1_999.0)), row(two, 31.0, Some(2_001.0))];
        assert_eq!(verdicts(Carrier::Tls, &tls), [Missed, Missed]);
        assert_eq!(verdicts(Carrier::Tls, &tls[..1]), [NotMeasured, NotMeasured]);
    }

    #[test]
    fn handshakes_are_read_and_shown() {
        let told = json!({
            "connections": { "opened": 100, "losses": 1, "opened_per_second": 50.0, "handshake_us": { "p99": 900 } },
            "target": { "cpu_opening_seconds": 0.5 },
        });
        let handshakes = Handshakes::read(&told).expect("it is complete");
        assert_eq!((handshakes.per_cpu_second(), handshakes.lost, handshakes.p99_us), (200.0, 1, 900));
        assert!(Handshakes::read(&json!({})).is_err());
        let text = grid(Carrier::Tls, &[row(STREAMS, 15.0, Some(2_000.0))]).text();
        assert!(text.contains("handshakes a CPU s") && text.contains("2000"), "{text}");
    }

    #[test]
    fn what_tandem_loses_is_a_fault_and_what_others_lose_is_not() {
        let mut rows = [row(STREAMS, 15.0, Some(2_000.0)), row("kamailio, 1 child", 30.0, Some(1_000.0))];
        let lose = |row: &mut Row| {
            for handshakes in row.rounds.iter_mut().filter_map(|round| round.handshakes.as_mut()) {
                handshakes.lost = 3;
            }
        };
        lose(&mut rows[1]);
        assert_eq!(rows[1].handshakes(), 0.0, "what lost connections has no rate");
        assert!(outcome(Part::Tls, Carrier::Tls, &rows).faults.is_empty());
        lose(&mut rows[0]);
        assert_eq!(outcome(Part::Tls, Carrier::Tls, &rows).faults, ["tandem lost 3 exchanges or connections"]);
    }
}
