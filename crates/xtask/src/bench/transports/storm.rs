//! Everybody at once: a farm's phones lose their connections, open new ones over TLS in the same moment and register. Twice, so that what
//! the first time left behind can be seen.

use super::client::{self, Phones};
use super::{Carrier, certificate};
use crate::bench::grid::Grid;
use crate::bench::loads::number;
use crate::bench::outcome::Outcome;
use crate::bench::process::Running;
use crate::bench::requirement::Requirement;
use crate::bench::subject::{self, Subject};
use crate::bench::{Bench, Part, count, megabytes, status};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// One of them.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Storm {
    /// Phones that were answered 200 in the end.
    registered: u64,
    /// Connections that were refused, or did not last.
    lost: u64,
    /// From the first packet until the last phone was registered.
    seconds: f64,
    handshake_p99_us: u64,
    /// Users that tandem knows afterwards.
    known: u64,
    /// Resident octets when no transaction was left.
    rss: u64,
}

/// Both through the same tandem.
pub(in crate::bench) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    client::widen_ports();
    let tandem = subject::streaming(&bench.own, &bench.folder.join(Part::Storm.name()));
    certificate::write(tandem.folder())?;
    let running = bench.start(&tandem)?;
    let before = running.rss();
    let first = measure(bench, &tandem, &running)?;
    let second = measure(bench, &tandem, &running)?;
    Ok(outcome(before, first, second))
}

fn measure(bench: &Bench<'_>, tandem: &Subject, running: &Running) -> Result<Storm> {
    println!("    {PHONES} phones register over TLS at once");
    let told = Phones::storm(Carrier::Tls, PHONES).run(bench, running)?;
    println!("    waiting for transactions to end");
    let start = Instant::now();
    let known = loop {
        let status = status::ask(bench, tandem)?;
        if status.transactions == 0 {
            break status.registrations;
        }
        let waited = start.elapsed();
        ensure!(waited < PATIENCE, "{} transactions are left after {} s", status.transactions, waited.as_secs());
        bench.interrupt.sleep(Duration::from_secs(1))?;
    };
    let storm = Storm::read(&told, known, running.rss())?;
    println!("    {} registered in {:.1} s, {} connections lost", storm.registered, storm.seconds, storm.lost);
    Ok(storm)
}

impl Storm {
    fn read(told: &Value, known: u64, rss: u64) -> Result<Self> {
        Ok(Self {
            registered: count(told, "/completed")?,
            lost: count(told, "/connections/losses")?,
            seconds: number(told, "/elapsed_seconds")?,
            handshake_p99_us: count(told, "/connections/handshake_us/p99")?,
            known,
            rss,
        })
    }

    /// Phones and connections that it did not go well for.
    fn victims(&self) -> u64 {
        let phones = u64::from(PHONES);
        phones.saturating_sub(self.registered) + phones.saturating_sub(self.known) + self.lost
    }

    fn json(&self) -> Value {
        json!({
            "registered": self.registered,
            "connections_lost": self.lost,
            "seconds": self.seconds,
            "handshake_p99_us": self.handshake_p99_us,
            "known": self.known,
            "rss_bytes": self.rss,
        })
    }
}

fn outcome(before: u64, first: Storm, second: Storm) -> Outcome {
    Outcome {
        part: Part::Storm,
        grids: vec![grid(before, first, second)],
        requirements: requirements(first, second),
        void: None,
        faults: Vec::new(),
        figures: json!({ "rss_before_bytes": before, "first": first.json(), "second": second.json() }),
    }
}

fn grid(before: u64, first: Storm, second: Storm) -> Grid {
    let title = format!("{PHONES} phones register at once, each over a new TLS connection");
    let columns = ["", "registered", "connections lost", "seconds", "handshake p99 ms", "RSS MB afterwards"];
    let mut grid = Grid::new(&title, &columns);
    let none = || "-".to_string();
    grid.row(["before".to_string(), none(), none(), none(), none(), format!("{:.1}", megabytes(before))]);
    for (name, storm) in [("first", first), ("second", second)] {
        grid.row([
            name.to_string(),
            storm.registered.to_string(),
            storm.lost.to_string(),
            format!("{:.1}", storm.seconds),
            format!("{:.0}", storm.handshake_p99_us as f64 / 1e3),
            format!("{:.1}", megabytes(storm.rss)),
        ]);
    }
    grid
}

fn requirements(first: Storm, second: Storm) -> Vec<Requirement> {
    let victims = (first.victims() + second.victims()) as f64;
    let growth = (first.rss > 0).then(|| second.rss as f64 / first.rss as f64);
    vec![
        Requirement::at_most(
            "phones not registered and connections lost in two storms of 10,000",
            0.0,
            "",
            Some(victims),
        ),
        Requirement::at_most("RSS after the second storm ÷ after the first", GROWTH, "", growth),
    ]
}

const PHONES: u32 = 10_000;
const GROWTH: f64 = 1.1;
/// Twice what the longest timer of a transaction takes.
const PATIENCE: Duration = Duration::from_secs(64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::requirement::Verdict;

    fn storm(rss: u64) -> Storm {
        Storm { registered: 10_000, lost: 0, seconds: 5.0, handshake_p99_us: 900_000, known: 10_000, rss }
    }

    fn verdicts(first: Storm, second: Storm) -> Vec<Verdict> {
        requirements(first, second).iter().map(|requirement| requirement.verdict(false)).collect()
    }

    #[test]
    fn nobody_may_be_left_out_and_memory_is_flat() {
        use Verdict::{Met, Missed};
        assert_eq!(verdicts(storm(100), storm(110)), [Met, Met]);
        assert_eq!(verdicts(storm(100), storm(111)), [Met, Missed]);
        for worse in [
            Storm { registered: 9_999, ..storm(100) },
            Storm { lost: 1, ..storm(100) },
            Storm { known: 9_999, ..storm(100) },
        ] {
            assert_eq!(verdicts(worse, storm(100)), [Missed, Met], "{worse:?}");
            assert_eq!(verdicts(storm(100), worse), [Missed, Met], "{worse:?}");
        }
    }

    #[test]
    fn a_storm_is_read_and_shown() {
        let told = json!({
            "completed": 10_000, "elapsed_seconds": 5.5,
            "connections": { "losses": 0, "handshake_us": { "p99": 2_500_000 } },
        });
        let read = Storm::read(&told, 10_000, 1 << 20).expect("it is complete");
        assert_eq!((read.victims(), read.known), (0, 10_000));
        let text = grid(1 << 20, read, read).text();
        assert!(text.contains("5.5") && text.contains("2500"), "{text}");
        assert!(Storm::read(&json!({}), 0, 0).is_err());
    }
}
