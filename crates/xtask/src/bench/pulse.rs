//! The pulse of the machine: the relay's CPU time per message, taken again and again through a part.

use super::figures::void_reason;
use super::{Bench, Exchange, Part, messages, subject};
use anyhow::{Context, Result};

/// What was taken so far, in microseconds.
#[derive(Clone, PartialEq, Default, Debug)]
pub(super) struct Pulse {
    beats: Vec<f64>,
}

impl Pulse {
    /// Measures the relay once more.
    pub(super) fn take(&mut self, bench: &Bench<'_>, part: Part) -> Result<()> {
        let relay = subject::relay(&bench.own, &bench.folder.join(part.name()).join("pulse"));
        let figures =
            messages::measure(bench, &relay, Exchange::Call, SECONDS).context("the relay between two steps")?;
        println!("    pulse: {}", figures.line());
        self.beats.push(figures.cpu_per_message_us());
        Ok(())
    }

    /// Why the part counts for nothing.
    pub(super) fn void_reason(&self) -> Option<String> {
        void_reason(&self.beats)
    }

    pub(super) fn beats(&self) -> &[f64] {
        &self.beats
    }
}

const SECONDS: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_straying_pulse_makes_a_part_void() {
        let pulse = |beats: &[f64]| Pulse { beats: beats.to_vec() };
        assert_eq!(pulse(&[4.0, 4.0, 5.0]).void_reason(), None);
        let reason = pulse(&[4.0, 4.0, 5.01]).void_reason().expect("more than a quarter");
        assert!(reason.contains("4.00, 4.00, 5.01"), "{reason}");
        assert_eq!(pulse(&[]).beats().len(), 0);
    }
}
