//! What came of all connections.

use super::{Loss, Transport};
use crate::histogram::Histogram;
use crate::report::{text, times};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Connections that were opened, those that could not be, and those that did not last.
#[derive(Clone, PartialEq, Debug)]
pub struct Connections {
    pub transport: Transport,
    /// As many as there were to be.
    pub wanted: u32,
    /// How often one was opened. More than wanted: some had to be opened again.
    pub opened: u64,
    /// Connections that were never up.
    pub failed: BTreeMap<Loss, u64>,
    /// Connections that were up and did not stay so.
    pub closed: BTreeMap<Loss, u64>,
    /// From the first packet until TCP, TLS and the upgrade were through, in microseconds.
    pub handshake: Histogram,
    /// From the first packet of the first connection until the last was up.
    pub opened_within: Duration,
    /// What the first loss said.
    pub example: Option<String>,
}

impl Connections {
    pub(super) fn new(transport: Transport, wanted: u32) -> Self {
        Self {
            transport,
            wanted,
            opened: 0,
            failed: BTreeMap::new(),
            closed: BTreeMap::new(),
            handshake: Histogram::new(),
            opened_within: Duration::ZERO,
            example: None,
        }
    }

    /// Connections that were not up, or did not stay so.
    pub fn losses(&self) -> u64 {
        self.failed.values().chain(self.closed.values()).sum()
    }

    /// Connections opened in a second, while they were.
    pub fn per_second(&self) -> f64 {
        let seconds = self.opened_within.as_secs_f64();
        if seconds > 0.0 { self.opened as f64 / seconds } else { 0.0 }
    }

    /// Losses count anew from here.
    pub(crate) fn forget_losses(&mut self) {
        self.failed.clear();
        self.closed.clear();
        self.example = None;
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "transport": self.transport.name(),
            "wanted": self.wanted,
            "opened": self.opened,
            "opened_seconds": self.opened_within.as_secs_f64(),
            "opened_per_second": self.per_second(),
            "failed": labelled(&self.failed),
            "closed": labelled(&self.closed),
            "losses": self.losses(),
            "example": self.example,
            "handshake_us": times(&self.handshake),
        })
    }
}

fn labelled(losses: &BTreeMap<Loss, u64>) -> BTreeMap<&'static str, u64> {
    losses.iter().map(|(loss, count)| (loss.label(), *count)).collect()
}

/// Several lines, each with its end.
impl fmt::Display for Connections {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |losses: &BTreeMap<Loss, u64>| losses.values().sum::<u64>();
        write!(
            formatter,
            "connections over {}: {} wanted, {} opened, {} failed, {} closed",
            self.transport,
            self.wanted,
            self.opened,
            of(&self.failed),
            of(&self.closed)
        )?;
        if self.handshake.count() > 0 {
            write!(
                formatter,
                "; up after p50 {}, p99 {}, max {}; {:.0} a second",
                text::time(self.handshake.quantile(0.5)),
                text::time(self.handshake.quantile(0.99)),
                text::time(self.handshake.max()),
                self.per_second()
            )?;
        }
        writeln!(formatter)?;
        for (loss, count) in &self.failed {
            writeln!(formatter, "  not opened, {loss}: {count}")?;
        }
        for (loss, count) in &self.closed {
            writeln!(formatter, "  lost, {loss}: {count}")?;
        }
        if let Some(example) = &self.example {
            writeln!(formatter, "  the first said: {example}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_with_their_reasons() {
        let mut connections = Connections::new(Transport::Tls, 10);
        assert_eq!((connections.losses(), connections.per_second()), (0, 0.0));
        connections.opened = 9;
        connections.opened_within = Duration::from_millis(500);
        connections.handshake.record(1_500);
        connections.failed = BTreeMap::from([(Loss::Certificate, 2)]);
        connections.closed = BTreeMap::from([(Loss::Reset, 1)]);
        connections.example = Some("unknown issuer".to_owned());
        let text = connections.to_string();
        for part in [
            "connections over tls: 10 wanted, 9 opened, 2 failed, 1 closed; up after p50 1.5 ms, p99 1.5 ms, max 1.5 ms; 18 a second\n",
            "  not opened, certificate not believed: 2\n",
            "  lost, reset by the other side: 1\n",
            "  the first said: unknown issuer\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let json = connections.to_json();
        assert_eq!((&json["failed"], &json["closed"]), (&json!({ "certificate": 2 }), &json!({ "reset": 1 })));
        assert_eq!((&json["losses"], &json["opened_per_second"]), (&json!(3), &json!(18.0)));
        connections.forget_losses();
        assert_eq!((connections.losses(), connections.opened), (0, 9));
    }
}
