//! A report for people.

use super::{Failure, Phase, Progress, Report};
use crate::generator::Pace;
use crate::histogram::Histogram;
use std::fmt;

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            formatter,
            "{}s, {}: {} completed in {:.1} s, {:.0} a second; {} failed, {} not begun",
            self.kind,
            self.pace,
            self.completed,
            self.elapsed.as_secs_f64(),
            self.rate(),
            self.failures(),
            self.not_started
        )?;
        for (failure, count) in &self.failed {
            writeln!(formatter, "  failed, {failure}: {count}")?;
        }
        if self.warm_up_failures > 0 {
            writeln!(formatter, "  failed in the warm-up, not counted: {}", self.warm_up_failures)?;
        }
        writeln!(
            formatter,
            "messages: {} sent, {} received; retransmissions: {} sent, {} received; {} unexpected, {} of other loads",
            self.sent, self.received, self.sent_again, self.received_again, self.unexpected, self.strays
        )?;
        writeln!(
            formatter,
            "lost: {} dropped by the kernel at our sockets, {} returned by the network",
            self.kernel_drops, self.refused
        )?;
        if let Some(connections) = &self.connections {
            write!(formatter, "{connections}")?;
        }
        latency(formatter, &self.latency)?;
        usage(formatter, self)?;
        for warning in &self.warnings {
            write!(formatter, "\nwarning: {warning}")?;
        }
        Ok(())
    }
}

fn latency(formatter: &mut fmt::Formatter<'_>, latency: &Histogram) -> fmt::Result {
    if latency.count() == 0 {
        return writeln!(formatter, "latency: nothing was answered");
    }
    writeln!(
        formatter,
        "latency: mean {}, p50 {}, p90 {}, p99 {}, p99.9 {}, p99.99 {}, max {}",
        time(latency.mean() as u64),
        time(latency.quantile(0.5)),
        time(latency.quantile(0.9)),
        time(latency.quantile(0.99)),
        time(latency.quantile(0.999)),
        time(latency.quantile(0.9999)),
        time(latency.max())
    )?;
    let bars = latency.bars();
    let largest = bars.iter().map(|bar| bar.count).max().unwrap_or(1).max(1);
    for bar in &bars {
        let length = (bar.count * BAR_WIDTH).div_ceil(largest);
        let drawn = "#".repeat(usize::try_from(length).unwrap_or(0));
        let line = format!("  to {:>7} {:>9}  {drawn}", time(bar.up_to), bar.count);
        writeln!(formatter, "{}", line.trim_end())?;
    }
    Ok(())
}

fn usage(formatter: &mut fmt::Formatter<'_>, report: &Report) -> fmt::Result {
    write!(formatter, "generator: {:.0} % busy, {:.2} cores", report.busy * 100.0, report.cores())?;
    if let Pace::Rate { .. } = report.pace {
        let lateness = &report.lateness;
        let (p99, max) = (time(lateness.quantile(0.99)), time(lateness.max()));
        write!(formatter, "; behind its schedule by {p99} at p99, {max} at most")?;
    }
    if let Some(target) = report.target {
        write!(
            formatter,
            "\ntarget: {:.2} cores, its busiest thread {:.2}, {:.2} us a message, {:.1} MB resident",
            target.cores(report.measured),
            target.busiest_share(report.measured),
            target.cpu_per_message_us(report.received),
            target.rss_bytes as f64 / 1e6
        )?;
    }
    Ok(())
}

/// "850 us", "1.5 ms", "20 ms", "3.2 s".
pub(crate) fn time(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..10_000 => format!("{:.1} ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(code) => write!(formatter, "answered {code}"),
            Self::Timeout => formatter.write_str("no answer within 32 s"),
            Self::Unfinished => formatter.write_str("unfinished at the end"),
            Self::HungUp => formatter.write_str("hung up by the other side"),
            Self::UnexpectedAnswer => formatter.write_str("unexpected answer"),
            Self::ConnectionLost => formatter.write_str("connection lost"),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            Phase::Connecting => {
                return write!(
                    formatter,
                    "{:>4} s  opening connections, {} of {} are up",
                    self.elapsed.as_secs(),
                    self.connections,
                    self.connections_wanted
                );
            }
            Phase::Waiting => return write!(formatter, "{:>4} s  waiting for the balancer", self.elapsed.as_secs()),
            Phase::WarmUp => "warming up, ",
            Phase::Running => "",
            Phase::Finishing => "finishing, ",
        };
        write!(
            formatter,
            "{:>4} s  {phase}{}/s, {} completed, {} under way, {} failed, {} sent again, p99 {}",
            self.elapsed.as_secs(),
            self.completed_lately,
            self.completed,
            self.under_way,
            self.failed,
            self.sent_again,
            time(self.p99)
        )
    }
}

const BAR_WIDTH: u64 = 50;
