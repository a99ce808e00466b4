//! CPU time per relayed message: of the relay, of tandem and of its peers, in rounds.

use super::figures::{Figures, Table};
use super::outcome::Outcome;
use super::requirement::Requirement;
use super::subject::{KAMAILIO_STATEFUL, RELAY, STATEFUL, STATELESS, Subject};
use super::{Bench, Exchange, GENERATOR_CORE, Part};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::File;
use std::process::{Command, Stdio};

/// Every subject in every round, so that what the machine does meanwhile meets all of them.
pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let subjects = bench.subjects(Part::Messages);
    let mut tables: Vec<Table> = Exchange::ALL.into_iter().map(Table::new).collect();
    for round in 1..=bench.options.rounds {
        for subject in &subjects {
            for table in &mut tables {
                let figures = measure(bench, subject, table.exchange, bench.options.seconds)
                    .with_context(|| format!("round {round}, {}", subject.name))?;
                println!("    round {round}  {:<28} {}", subject.name, figures.line());
                table.add(&subject.name, figures);
            }
        }
    }
    Ok(outcome(&tables))
}

/// Starts the subject, lets the generator use it for a while, and reads what that cost.
pub(super) fn measure(bench: &Bench<'_>, subject: &Subject, exchange: Exchange, seconds: u64) -> Result<Figures> {
    let running = bench.start(subject)?;
    let idle_rss = running.rss();
    let path = bench.folder.join("generated.json");
    let mut command = Command::new("taskset");
    command
        .args(["-c", GENERATOR_CORE])
        .arg(&bench.own)
        .args(["generate", exchange.name()])
        .args(["--seconds", &seconds.to_string()])
        .args(["--concurrency", &bench.options.concurrency.to_string()])
        .stdin(Stdio::null())
        .stdout(File::create(&path)?);
    if !bench.options.sleep {
        command.arg("--busy-poll");
    }
    let before = running.cpu();
    let mut child = command.spawn().context("cannot start the generator")?;
    let status = bench.interrupt.wait(&mut child, &mut |_| Ok(()))?;
    let cpu = running.cpu().saturating_sub(before);
    let rss = running.rss();
    ensure!(status.success(), "the generator failed ({status})");
    let mut figures = Figures::from_generator(&std::fs::read(&path)?, exchange)?;
    figures.cpu = cpu;
    figures.rss_bytes = rss;
    figures.idle_rss_bytes = idle_rss;
    Ok(figures)
}

fn outcome(tables: &[Table]) -> Outcome {
    let figures: Vec<Value> = tables.iter().map(Table::json).collect();
    let lost: u64 = tables.iter().map(Table::failures).sum();
    let faults = if lost > 0 { vec![format!("tandem lost {lost} exchanges")] } else { Vec::new() };
    Outcome {
        part: Part::Messages,
        grids: tables.iter().map(Table::grid).collect(),
        requirements: tables.iter().flat_map(requirements).collect(),
        void: tables.iter().find_map(Table::void_reason),
        faults,
        figures: Value::from(figures),
    }
}

fn requirements(table: &Table) -> Vec<Requirement> {
    let what = match table.exchange {
        Exchange::Call => "call",
        Exchange::Register => "registration",
    };
    let beside_relay = |kind: &str, subject: &str, limit: f64| {
        let figure = format!("CPU per message, {kind}, {what} ÷ raw relay");
        Requirement::at_most(figure, limit, "", table.ratio(subject, RELAY))
    };
    let beside_kamailio = (table.exchange == Exchange::Call).then(|| {
        let figure = "CPU per message, call, Kamailio stateful ÷ tandem stateful";
        Requirement::at_least(figure, KAMAILIO_FACTOR, "", table.ratio(KAMAILIO_STATEFUL, STATEFUL))
    });
    let mut requirements = vec![beside_relay("stateful", STATEFUL, STATEFUL_LIMIT)];
    requirements.extend(beside_kamailio);
    requirements.push(beside_relay("stateless", STATELESS, STATELESS_LIMIT));
    requirements
}

const STATEFUL_LIMIT: f64 = 1.45;
const STATELESS_LIMIT: f64 = 1.25;
const KAMAILIO_FACTOR: f64 = 6.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::requirement::Verdict;
    use std::time::Duration;

    /// A table with CPU microseconds per message.
    fn table(exchange: Exchange, rows: &[(&str, u64)]) -> Table {
        let mut table = Table::new(exchange);
        for (name, us_per_message) in rows {
            let cpu = Duration::from_micros(us_per_message * 100);
            table.add(name, Figures { messages: 100, cpu, ..Figures::default() });
        }
        table
    }

    fn verdicts(table: &Table) -> Vec<Verdict> {
        requirements(table).iter().map(|requirement| requirement.verdict(false)).collect()
    }

    #[test]
    fn each_ratio_is_judged_on_both_sides_of_its_limit() {
        use Verdict::{Met, Missed, NotMeasured};
        let kamailio = "kamailio stateful, 2 children";
        let good = table(Exchange::Call, &[(RELAY, 100), (STATEFUL, 145), (STATELESS, 125), (kamailio, 870)]);
        assert_eq!(verdicts(&good), [Met, Met, Met]);
        let bad = table(Exchange::Call, &[(RELAY, 100), (STATEFUL, 146), (STATELESS, 126), (kamailio, 870)]);
        assert_eq!(verdicts(&bad), [Missed, Missed, Missed]);
        let alone = table(Exchange::Register, &[(RELAY, 100), (STATEFUL, 145)]);
        assert_eq!(verdicts(&alone), [Met, NotMeasured]);
    }

    #[test]
    fn lost_exchanges_of_tandem_are_a_fault() {
        let mut lossy = table(Exchange::Call, &[(RELAY, 100)]);
        assert!(outcome(std::slice::from_ref(&lossy)).faults.is_empty());
        lossy.add(STATEFUL, Figures { failures: 2, ..Figures::default() });
        let outcome = outcome(&[lossy]);
        assert_eq!(outcome.faults, ["tandem lost 2 exchanges"]);
        assert_eq!(outcome.void, None);
    }
}
