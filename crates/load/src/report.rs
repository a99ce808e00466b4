//! What came of a load.

mod json;
pub(crate) mod text;

pub(crate) use json::times;

use crate::generator::{Kind, Pace};
use crate::histogram::Histogram;
use crate::stream::Connections;
use net::Warning;
use std::collections::BTreeMap;
use std::time::Duration;

/// The outcome of a load. All counts are those after the warm-up.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub kind: Kind,
    pub pace: Pace,
    /// From the end of the warm-up to the last completion.
    pub elapsed: Duration,
    /// Exchanges begun.
    pub started: u64,
    /// Exchanges that went as they should, to the end.
    pub completed: u64,
    /// Exchanges that did not.
    pub failed: BTreeMap<Failure, u64>,
    /// Exchanges that the rate asked for but for which there was no room.
    pub not_started: u64,
    /// Exchanges that failed in the warm-up, and count nowhere else.
    pub warm_up_failures: u64,
    /// Messages sent by both ends.
    pub sent: u64,
    /// Messages that reached either end through the balancer, without its own 100s and pings.
    pub received: u64,
    /// Requests and final answers to INVITE that were sent again.
    pub sent_again: u64,
    /// Requests and final answers that were received again.
    pub received_again: u64,
    /// Messages that belong to nothing known, or that nobody should have sent.
    pub unexpected: u64,
    /// Messages of another load: an earlier one, or one beside this.
    pub strays: u64,
    /// Datagrams that the network returned, most often because nobody listens where they were sent.
    pub refused: u64,
    /// Datagrams that the kernel dropped at our sockets.
    pub kernel_drops: u64,
    /// From the moment when a request was due to its first final answer, in microseconds: each INVITE, REGISTER or OPTIONS. At a rate
    /// it is due when the schedule says so, whatever became of those before it, so that nothing is left out of the picture because the
    /// balancer was slow.
    pub latency: Histogram,
    /// How much later than the rate asks for an exchange was begun, in microseconds: large values mean that this program was the limit.
    pub lateness: Histogram,
    /// The time after the warm-up up to this report, over which the following were measured.
    pub measured: Duration,
    /// The share of the time that this program was not waiting, 0 to 1: near one it was the limit.
    pub busy: f64,
    /// User and system time of this program.
    pub cpu: Duration,
    /// What came of the connections to the balancer, if it was reached by streams.
    pub connections: Option<Connections>,
    /// What the measured processes used, if any were named.
    pub target: Option<Target>,
    /// What may have made the numbers worse than they need be.
    pub warnings: Vec<Warning>,
}

/// What the measured processes used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target {
    /// User and system time.
    pub cpu: Duration,
    /// That of the thread that used most.
    pub busiest_thread: Duration,
    /// Resident octets at the end.
    pub rss_bytes: u64,
}

/// Why an exchange failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Failure {
    /// A final answer other than the one due.
    Status(u16),
    /// No final answer within 32 s.
    Timeout,
    /// Still under way when the load had ended and the time to finish was over.
    Unfinished,
    /// The callee ended a call that was to be held.
    HungUp,
    /// An answer that nothing can be done with: a 200 to INVITE without a Contact.
    UnexpectedAnswer,
    /// The connection was lost before the end, or could not be opened.
    ConnectionLost,
}

/// How a load is going.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    pub phase: Phase,
    pub elapsed: Duration,
    pub under_way: u64,
    pub started: u64,
    pub completed: u64,
    /// Completed since the last progress was told, a second ago.
    pub completed_lately: u64,
    pub failed: u64,
    pub sent_again: u64,
    /// Of the latency, so far, in microseconds.
    pub p99: u64,
    /// Connections that are up, and how many there are to be; none where datagrams are sent.
    pub connections: u32,
    pub connections_wanted: u32,
}

/// Where a load is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Connections are being opened.
    Connecting,
    /// The balancer has not said yet that it is up.
    Waiting,
    /// What happens counts for nothing.
    WarmUp,
    Running,
    /// No exchange is begun any more.
    Finishing,
}

impl Report {
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Whether everything that was to be done was done, and nothing else happened.
    pub fn is_success(&self) -> bool {
        let is_connected = self.connections.as_ref().is_none_or(|connections| connections.losses() == 0);
        self.completed > 0 && self.failures() == 0 && self.not_started == 0 && self.unexpected == 0 && is_connected
    }

    /// Exchanges completed in a second.
    pub fn rate(&self) -> f64 {
        per_second(self.completed as f64, self.elapsed)
    }

    /// Cores that this program used.
    pub fn cores(&self) -> f64 {
        per_second(self.cpu.as_secs_f64(), self.measured)
    }

    /// Whether this program did not keep up with its own schedule, so that the figures say more about it than about the target.
    pub fn is_generator_limited(&self) -> bool {
        self.busy >= BUSY || self.kernel_drops > 0 || self.lateness.quantile(0.99) >= LATE_US
    }
}

impl Target {
    /// Cores used over `measured`.
    pub fn cores(&self, measured: Duration) -> f64 {
        per_second(self.cpu.as_secs_f64(), measured)
    }

    /// The share of one core that the busiest thread used.
    pub fn busiest_share(&self, measured: Duration) -> f64 {
        per_second(self.busiest_thread.as_secs_f64(), measured)
    }

    /// Microseconds of user and system time for each of `messages`.
    pub fn cpu_per_message_us(&self, messages: u64) -> f64 {
        if messages == 0 { 0.0 } else { self.cpu.as_secs_f64() * 1e6 / messages as f64 }
    }
}

impl Failure {
    /// As a key in JSON.
    pub fn label(self) -> String {
        match self {
            Self::Status(code) => code.to_string(),
            Self::Timeout => "timeout".to_owned(),
            Self::Unfinished => "unfinished".to_owned(),
            Self::HungUp => "hung_up".to_owned(),
            Self::UnexpectedAnswer => "unexpected_answer".to_owned(),
            Self::ConnectionLost => "connection_lost".to_owned(),
        }
    }
}

fn per_second(amount: f64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// A program that waits less than this share of its time has nothing left to give.
pub(crate) const BUSY: f64 = 0.95;
/// A schedule that is missed by so much at the 99th percentile is not kept.
const LATE_US: u64 = 20_000;

#[cfg(test)]
pub(crate) mod tests;
