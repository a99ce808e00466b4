//! What is counted while a load runs.

use crate::histogram::Histogram;
use crate::report::Failure;
use sip::Instant;
use std::collections::BTreeMap;

/// What came of the exchanges begun after the warm-up.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) started: u64,
    pub(super) completed: u64,
    pub(super) failed: BTreeMap<Failure, u64>,
    pub(super) not_started: u64,
    /// Of those begun in the warm-up.
    pub(super) warm_up_failures: u64,
    pub(super) latency: Histogram,
    pub(super) lateness: Histogram,
    /// When the last exchange ended.
    pub(super) last_end: Option<Instant>,
}

/// Messages that one end saw.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Messages {
    pub(super) received: u64,
    pub(super) sent_again: u64,
    pub(super) received_again: u64,
    pub(super) unexpected: u64,
    pub(super) strays: u64,
}

impl Messages {
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            sent_again: self.sent_again + other.sent_again,
            received_again: self.received_again + other.received_again,
            unexpected: self.unexpected + other.unexpected,
            strays: self.strays + other.strays,
        }
    }
}
