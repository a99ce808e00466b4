//! Connections over which nothing but keep-alives goes: their memory, and the CPU time that answering them takes.

use super::client::{self, Phones};
use super::{Carrier, certificate};
use crate::bench::grid::Grid;
use crate::bench::loads::number;
use crate::bench::outcome::Outcome;
use crate::bench::requirement::Requirement;
use crate::bench::{Bench, Part, count, megabytes, subject};
use anyhow::Result;
use serde_json::{Value, json};

/// What was told of one transport.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Idle {
    carrier: Carrier,
    stayed: u64,
    unanswered: u64,
    rss_before: u64,
    rss_open: u64,
    rss_end: u64,
    /// The share of one core that tandem used while they were kept.
    cores: f64,
}

/// Each transport with a tandem of its own.
pub(in crate::bench) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    client::widen_ports();
    let mut measured = Vec::new();
    for carrier in Carrier::ALL {
        measured.push(measure(bench, carrier)?);
    }
    Ok(outcome(&measured))
}

fn measure(bench: &Bench<'_>, carrier: Carrier) -> Result<Idle> {
    println!("    {CONNECTIONS} connections over {}, kept for {SECONDS} s", carrier.name());
    let folder = bench.folder.join(Part::Idle.name()).join(carrier.name());
    let tandem = subject::streaming(&bench.own, &folder);
    certificate::write(tandem.folder())?;
    let running = bench.start(&tandem)?;
    let phones = Phones::idle(carrier, CONNECTIONS)
        .with("--hold", format!("{SECONDS}s"))
        .with("--ping", format!("{PING_SECONDS}s"));
    let idle = Idle::read(carrier, &phones.run(bench, &running)?)?;
    println!("    {:.1} KB a connection, {:.2} % of a core", idle.kilobytes(), 100.0 * idle.cores);
    Ok(idle)
}

impl Idle {
    fn read(carrier: Carrier, told: &Value) -> Result<Self> {
        Ok(Self {
            carrier,
            stayed: count(told, "/stayed")?,
            unanswered: count(told, "/unanswered")?,
            rss_before: count(told, "/target/rss_before_bytes")?,
            rss_open: count(told, "/target/rss_open_bytes")?,
            rss_end: count(told, "/target/rss_end_bytes")?,
            cores: number(told, "/target/cores_held")?,
        })
    }

    /// Of 1,024 octets, for each connection.
    fn kilobytes(&self) -> f64 {
        self.rss_end.saturating_sub(self.rss_before) as f64 / 1_024.0 / self.stayed.max(1) as f64
    }

    fn fault(&self) -> Option<String> {
        let name = self.carrier.name();
        let missing = u64::from(CONNECTIONS).saturating_sub(self.stayed);
        match (missing, self.unanswered) {
            (0, 0) => None,
            (0, unanswered) => Some(format!("{unanswered} keep-alives over {name} were not answered")),
            (missing, _) => Some(format!("{missing} of {CONNECTIONS} connections over {name} did not stay")),
        }
    }

    fn json(&self) -> Value {
        json!({
            "transport": self.carrier.name(),
            "stayed": self.stayed,
            "unanswered": self.unanswered,
            "rss_before_bytes": self.rss_before,
            "rss_open_bytes": self.rss_open,
            "rss_end_bytes": self.rss_end,
            "cores": self.cores,
        })
    }
}

fn outcome(measured: &[Idle]) -> Outcome {
    Outcome {
        part: Part::Idle,
        grids: vec![grid(measured)],
        requirements: measured.iter().flat_map(requirements).collect(),
        void: None,
        faults: measured.iter().filter_map(Idle::fault).collect(),
        figures: json!({ "transports": measured.iter().map(Idle::json).collect::<Vec<Value>>() }),
    }
}

fn grid(measured: &[Idle]) -> Grid {
    let title = format!("{CONNECTIONS} idle connections, a keep-alive on each every {PING_SECONDS} s");
    let columns = ["", "RSS MB before", "when open", "at the end", "KB a connection", "% of a core"];
    let mut grid = Grid::new(&title, &columns);
    for idle in measured {
        grid.row([
            idle.carrier.name().to_string(),
            format!("{:.1}", megabytes(idle.rss_before)),
            format!("{:.1}", megabytes(idle.rss_open)),
            format!("{:.1}", megabytes(idle.rss_end)),
            format!("{:.2}", idle.kilobytes()),
            format!("{:.2}", 100.0 * idle.cores),
        ]);
    }
    grid
}

fn requirements(idle: &Idle) -> [Requirement; 2] {
    let most = match idle.carrier {
        Carrier::Tcp => TCP_KILOBYTES,
        Carrier::Tls => TLS_KILOBYTES,
    };
    let name = idle.carrier.name();
    [
        Requirement::at_most(format!("memory of an idle connection over {name}"), most, " KB", Some(idle.kilobytes())),
        Requirement::at_most(
            format!("CPU time for the keep-alives of 15,000 connections over {name}"),
            PERCENT,
            " % of a core",
            Some(100.0 * idle.cores),
        ),
    ]
}

const CONNECTIONS: u32 = 15_000;
const PING_SECONDS: u64 = 30;
/// Three keep-alives of each.
const SECONDS: u64 = 90;
const TCP_KILOBYTES: f64 = 6.0;
const TLS_KILOBYTES: f64 = 30.0;
const PERCENT: f64 = 0.5;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::requirement::Verdict;

    fn idle(carrier: Carrier, kilobytes: u64, cores: f64) -> Idle {
        let rss_end = 1_000 + 15_000 * kilobytes * 1_024;
        Idle { carrier, stayed: 15_000, unanswered: 0, rss_before: 1_000, rss_open: rss_end, rss_end, cores }
    }

    fn verdicts(idle: &Idle) -> [Verdict; 2] {
        requirements(idle).map(|requirement| requirement.verdict(false))
    }

    #[test]
    fn each_limit_is_judged_on_both_sides() {
        use Verdict::{Met, Missed};
        assert_eq!(verdicts(&idle(Carrier::Tcp, 6, 0.005)), [Met, Met]);
        assert_eq!(verdicts(&idle(Carrier::Tcp, 7, 0.0051)), [Missed, Missed]);
        assert_eq!(verdicts(&idle(Carrier::Tls, 30, 0.0)), [Met, Met]);
        assert_eq!(verdicts(&idle(Carrier::Tls, 31, 0.1)), [Missed, Missed]);
    }

    #[test]
    fn who_does_not_stay_is_a_fault() {
        let good = idle(Carrier::Tls, 20, 0.001);
        assert_eq!(outcome(&[good]).faults, Vec::<String>::new());
        let silent = Idle { unanswered: 2, ..good };
        let gone = Idle { stayed: 14_999, ..silent };
        let faults = outcome(&[silent, gone]).faults;
        assert_eq!(
            faults,
            ["2 keep-alives over tls were not answered", "1 of 15000 connections over tls did not stay"]
        );
    }

    #[test]
    fn a_report_is_read() {
        let told = json!({
            "stayed": 15_000, "unanswered": 0,
            "target": { "rss_before_bytes": 1, "rss_open_bytes": 2, "rss_end_bytes": 3, "cores_held": 0.25 },
        });
        let read = Idle::read(Carrier::Tcp, &told).expect("it is complete");
        assert_eq!((read.rss_before, read.rss_open, read.rss_end), (1, 2, 3));
        assert!(grid(&[read]).text().contains("25.00"));
        assert!(Idle::read(Carrier::Tcp, &json!({ "stayed": 1 })).is_err());
    }
}
