//! What was measured, and the table made of it.

use super::grid::Grid;
use super::{Exchange, median, megabytes, ratio, subject};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::time::Duration;

/// The relay's own figure may stray this much from its median; beyond it the machine was busy with other things.
const VOID_SHARE: f64 = 0.25;

/// One measurement of one subject.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// Complete exchanges.
    pub(super) exchanges: u64,
    pub(super) failures: u64,
    pub(super) retransmissions: u64,
    /// Datagrams that the kernel dropped at the generator's sockets.
    pub(super) drops: u64,
    /// The share of the time that the generator was not waiting: near one it was the limit of the rate, not the balancer.
    pub(super) busy: f64,
    pub(super) seconds: f64,
    /// From a request to its first final answer.
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Messages relayed.
    pub(super) messages: u64,
    /// User and system time of all processes of the subject.
    pub(super) cpu: Duration,
    pub(super) rss_bytes: u64,
    pub(super) idle_rss_bytes: u64,
}

impl Figures {
    /// From what `xtask generate` prints.
    pub(super) fn from_generator(output: &[u8], exchange: Exchange) -> Result<Self> {
        let report: Value = serde_json::from_slice(output).context("the generator printed no JSON")?;
        let count = |key: &str| {
            report.get(key).and_then(Value::as_u64).with_context(|| format!("the generator's report has no {key}"))
        };
        let number = |key: &str| {
            report.get(key).and_then(Value::as_f64).with_context(|| format!("the generator's report has no {key}"))
        };
        let exchanges = count("exchanges")?;
        Ok(Self {
            exchanges,
            failures: count("failures")?,
            retransmissions: count("retransmissions")?,
            drops: count("drops")?,
            busy: number("busy")?,
            seconds: number("seconds")?,
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
            messages: exchanges * exchange.messages(),
            ..Self::default()
        })
    }

    pub(super) fn cpu_per_message_us(&self) -> f64 {
        if self.messages == 0 {
            return 0.0;
        }
        self.cpu.as_nanos() as f64 / 1000.0 / self.messages as f64
    }

    pub(super) fn rate(&self) -> f64 {
        if self.seconds > 0.0 { self.exchanges as f64 / self.seconds } else { 0.0 }
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:6.2} us/message {:8.0}/s  failed {}  retransmitted {}  dropped {}",
            self.cpu_per_message_us(),
            self.rate(),
            self.failures,
            self.retransmissions,
            self.drops
        )
    }
}

/// All rounds of one subject.
#[derive(Clone, Debug)]
pub(super) struct Row {
    name: String,
    rounds: Vec<Figures>,
}

impl Row {
    pub(super) fn cpu_per_message_us(&self) -> f64 {
        self.median(Figures::cpu_per_message_us)
    }

    fn median(&self, figure: impl Fn(&Figures) -> f64) -> f64 {
        median(self.rounds.iter().map(figure))
    }

    fn failures(&self) -> u64 {
        self.rounds.iter().map(|round| round.failures).sum()
    }

    /// Why the row makes a run void, if it is the relay's.
    fn void_reason(&self) -> Option<String> {
        let rounds: Vec<f64> = self.rounds.iter().map(Figures::cpu_per_message_us).collect();
        void_reason(&rounds)
    }
}

/// Why a run with these figures of the relay, CPU microseconds per message, counts for nothing.
pub(super) fn void_reason(relay: &[f64]) -> Option<String> {
    let middle = median(relay.iter().copied());
    let strays = relay.iter().any(|value| (value - middle).abs() > VOID_SHARE * middle);
    if !strays {
        return None;
    }
    let shown: Vec<String> = relay.iter().map(|value| format!("{value:.2}")).collect();
    Some(format!("the relay strays by more than 25 % from its median: {} us/message", shown.join(", ")))
}

/// All subjects of one exchange.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) exchange: Exchange,
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(exchange: Exchange) -> Self {
        Self { exchange, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, figures: Figures) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.rounds.push(figures),
            None => self.rows.push(Row { name: name.to_string(), rounds: vec![figures] }),
        }
    }

    /// The relay kept its pace and tandem lost nothing.
    pub(super) fn is_valid(&self) -> bool {
        self.void_reason().is_none() && self.failures() == 0
    }

    /// Why the table counts for nothing.
    pub(super) fn void_reason(&self) -> Option<String> {
        match self.relay() {
            Some(relay) => relay.void_reason(),
            None => Some("the relay was not measured".to_string()),
        }
    }

    /// Exchanges that tandem lost.
    pub(super) fn failures(&self) -> u64 {
        self.rows.iter().filter(|row| row.name.starts_with("tandem")).map(Row::failures).sum()
    }

    /// CPU time per message of one subject as a multiple of another's, each at the best of its variants.
    pub(super) fn ratio(&self, name: &str, base: &str) -> Option<f64> {
        let shown = self.shown();
        let find = |wanted: &str| shown.iter().copied().find(|row| subject::family(&row.name) == wanted);
        Some(ratio(find(name)?, find(base)?)).filter(|ratio| *ratio > 0.0)
    }

    /// As it is shown; of the variants of one peer only the best.
    pub(super) fn grid(&self) -> Grid {
        let columns =
            ["", "us/message", "x relay", "per s", "p50 us", "p99 us", "RSS MB", "idle MB", "failed", "generator"];
        let mut grid = Grid::new(self.exchange.title(), &columns);
        for row in &self.shown() {
            let to_relay = self.relay().map_or(0.0, |relay| ratio(row, relay));
            grid.row([
                row.name.clone(),
                format!("{:.2}", row.cpu_per_message_us()),
                format!("{to_relay:.2}"),
                format!("{:.0}", row.median(Figures::rate)),
                format!("{:.0}", row.median(|round| round.p50_us)),
                format!("{:.0}", row.median(|round| round.p99_us)),
                format!("{:.1}", row.median(|round| megabytes(round.rss_bytes))),
                format!("{:.1}", row.median(|round| megabytes(round.idle_rss_bytes))),
                row.failures().to_string(),
                format!("{:.0} %", 100.0 * row.median(|round| round.busy)),
            ]);
        }
        grid
    }

    pub(super) fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(row_json).collect();
        json!({
            "exchange": self.exchange.name(),
            "valid": self.is_valid(),
            "rows": rows,
        })
    }

    fn relay(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == subject::RELAY)
    }

    /// Of the variants of one peer only the best.
    fn shown(&self) -> Vec<&Row> {
        let mut shown: Vec<&Row> = Vec::new();
        for row in &self.rows {
            let same = shown.iter_mut().find(|other| subject::family(&other.name) == subject::family(&row.name));
            match same {
                None => shown.push(row),
                Some(best) if row.cpu_per_message_us() < best.cpu_per_message_us() => *best = row,
                Some(_) => {}
            }
        }
        shown
    }
}

fn row_json(row: &Row) -> Value {
    let rounds: Vec<Value> = row
        .rounds
        .iter()
        .map(|round| {
            json!({
                "cpu_us_per_message": round.cpu_per_message_us(),
                "per_second": round.rate(),
                "p50_us": round.p50_us,
                "p99_us": round.p99_us,
                "rss_bytes": round.rss_bytes,
                "idle_rss_bytes": round.idle_rss_bytes,
                "failures": round.failures,
                "retransmissions": round.retransmissions,
                "drops": round.drops,
                "generator_busy": round.busy,
            })
        })
        .collect();
    json!({
        "name": row.name,
        "cpu_us_per_message": row.cpu_per_message_us(),
        "rounds": rounds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One round of a hundred messages, each of which took `us_per_message`.
    fn round(us_per_message: u64) -> Figures {
        Figures { messages: 100, cpu: Duration::from_micros(us_per_message * 100), ..Figures::default() }
    }

    fn table(rows: &[(&str, &[u64])]) -> Table {
        let mut table = Table::new(Exchange::Call);
        for (name, rounds) in rows {
            for us_per_message in *rounds {
                table.add(name, round(*us_per_message));
            }
        }
        table
    }

    #[test]
    fn the_ratio_is_that_of_medians() {
        let table = table(&[(subject::RELAY, &[4, 4, 5]), ("tandem stateful", &[6, 5, 30])]);
        assert!(table.is_valid());
        let text = table.grid().text();
        assert!(text.contains("1.50"), "{text}");
        assert_eq!(table.ratio(subject::STATEFUL, subject::RELAY), Some(1.5));
        assert_eq!(table.ratio(subject::STATELESS, subject::RELAY), None);
    }

    #[test]
    fn a_straying_relay_makes_the_run_void() {
        assert!(table(&[(subject::RELAY, &[100, 100, 125])]).is_valid());
        let void = table(&[(subject::RELAY, &[100, 100, 126])]);
        assert!(!void.is_valid());
        let reason = void.void_reason().expect("26 % are too much");
        assert!(reason.contains("100.00, 100.00, 126.00"), "{reason}");
        assert!(!table(&[("tandem stateful", &[4])]).is_valid());
    }

    #[test]
    fn what_tandem_loses_makes_a_table_invalid() {
        let mut table = table(&[(subject::RELAY, &[4])]);
        table.add("kamailio stateful", Figures { failures: 3, ..round(9) });
        assert!(table.is_valid(), "others may lose what they like");
        table.add("tandem stateful", Figures { failures: 2, ..round(9) });
        assert_eq!((table.is_valid(), table.failures(), table.void_reason()), (false, 2, None));
    }

    #[test]
    fn of_variants_the_best_is_shown() {
        let table = table(&[("kamailio stateful, 1 child", &[40]), ("kamailio stateful, 2 children", &[35])]);
        let names: Vec<&str> = table.shown().iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names, ["kamailio stateful, 2 children"]);
    }

    #[test]
    fn the_generators_report_is_read() {
        let report = br#"{"exchanges": 10, "failures": 1, "retransmissions": 2, "drops": 3, "busy": 0.5,
            "seconds": 2.0, "p50_us": 100.0, "p99_us": 200}"#;
        let figures = Figures::from_generator(report, Exchange::Register).expect("the report is complete");
        assert_eq!((figures.messages, figures.failures, figures.drops), (40, 1, 3));
        assert!((figures.rate() - 5.0).abs() < 1e-9);
        assert!(Figures::from_generator(b"{}", Exchange::Call).is_err());
    }
}
