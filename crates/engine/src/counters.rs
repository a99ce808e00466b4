//! What happened, counted. Each shard writes a block of its own, a reader sums them.

use sip::Fault;
use std::sync::atomic::{AtomicU64, Ordering};

/// Everything counted besides faults of messages, which are counted by [`Fault::label`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Counter {
    Requests,
    Responses,
    RequestsForwarded,
    ResponsesForwarded,
    Retransmissions,
    RetransmissionsReceived,
    KeepAlives,
    /// Responses whose top Via is not ours, forged or of a call that is over.
    StrayResponses,
    /// Responses of an earlier epoch or another unit, forwarded by their token.
    ForwardedByToken,
    /// Route tokens that did not verify or came without a To tag.
    ForgedTokens,
    Loops,
    HopsExceeded,
    NoService,
    NoBackend,
    Failovers,
    /// Requests that went on by another flow of their phone (RFC 5626 §7).
    NextFlows,
    /// REGISTERs that their backend never saw (`max_expires`).
    RefreshesAnswered,
    TimedOut,
    Unreachable,
    TransactionLimit,
    BindingLimit,
    DialogLimit,
    /// Calls refused by the backend that holds their callee's registration: told once a second at most.
    AffinityRefused,
    /// Error answers not sent because their receiver had enough of them.
    AnswersWithheld,
    /// Requests by `sips` that would leave TLS, and requests by `sip` for whom only TLS would do (RFC 5630).
    SipsRefused,
    /// Requests too long for a datagram of most paths that went over a stream (RFC 3261 §18.1.1) …
    LargeOverStream,
    /// … and those that had none.
    LargeOverUdp,
    /// Requests that no datagram can hold, to a next hop without a stream.
    LargeRefused,
    /// Responses not sent because they would go to a broadcast, multicast or unspecified address.
    UnsafeDestination,
    CallsStarted,
    CallsEnded,
    Pings,
    PingFailures,
    /// Backends not set aside because half of their pool was already.
    PassiveSpared,
    /// BYEs of our own for the calls of a backend that was cut.
    Farewells,
    /// Those of them that are not repeated, or were not sent, because too many were under way or waited.
    FarewellLimit,
    /// Calls that a cut could only forget: their headers are too long to be kept.
    SidesTooLong,
}

impl Counter {
    /// All counters with their metric names, in display order.
    pub const ALL: [(Self, &'static str); 37] = [
        (Self::Requests, "requests"),
        (Self::Responses, "responses"),
        (Self::RequestsForwarded, "requests_forwarded"),
        (Self::ResponsesForwarded, "responses_forwarded"),
        (Self::Retransmissions, "retransmissions"),
        (Self::RetransmissionsReceived, "retransmissions_received"),
        (Self::KeepAlives, "keep_alives"),
        (Self::StrayResponses, "stray_responses"),
        (Self::ForwardedByToken, "forwarded_by_token"),
        (Self::ForgedTokens, "forged_tokens"),
        (Self::Loops, "loops"),
        (Self::HopsExceeded, "hops_exceeded"),
        (Self::NoService, "no_service"),
        (Self::NoBackend, "no_backend"),
        (Self::Failovers, "failovers"),
        (Self::NextFlows, "next_flows"),
        (Self::RefreshesAnswered, "refreshes_answered"),
        (Self::TimedOut, "timed_out"),
        (Self::Unreachable, "unreachable"),
        (Self::TransactionLimit, "transaction_limit"),
        (Self::BindingLimit, "binding_limit"),
        (Self::DialogLimit, "dialog_limit"),
        (Self::AffinityRefused, "affinity_refused"),
        (Self::AnswersWithheld, "answers_withheld"),
        (Self::SipsRefused, "sips_refused"),
        (Self::LargeOverStream, "large_over_stream"),
        (Self::LargeOverUdp, "large_over_udp"),
        (Self::LargeRefused, "large_refused"),
        (Self::UnsafeDestination, "unsafe_destination"),
        (Self::CallsStarted, "calls_started"),
        (Self::CallsEnded, "calls_ended"),
        (Self::Pings, "pings"),
        (Self::PingFailures, "ping_failures"),
        (Self::PassiveSpared, "passive_spared"),
        (Self::Farewells, "farewells"),
        (Self::FarewellLimit, "farewell_limit"),
        (Self::SidesTooLong, "sides_too_long"),
    ];
}

/// The block of one shard.
#[derive(Debug)]
pub(crate) struct Counters {
    values: [AtomicU64; Counter::ALL.len()],
    faults: [AtomicU64; FAULTS],
    /// Transactions that have no final answer yet: a level, not a total.
    unanswered: AtomicU64,
}

/// Room for every label of [`Fault`]; `Fault::ordinal` is below it.
const FAULTS: usize = Fault::LABELS.len();

impl Default for Counters {
    fn default() -> Self {
        Self {
            values: std::array::from_fn(|_| AtomicU64::new(0)),
            faults: std::array::from_fn(|_| AtomicU64::new(0)),
            unanswered: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Counts one. The shard's lock makes its holder the only writer, so that no atomic addition is needed.
    pub(crate) fn add(&self, counter: Counter) {
        bump(&self.values[counter as usize]);
    }

    /// Counts a message refused for `fault`.
    pub(crate) fn add_fault(&self, fault: Fault) {
        let label = fault.label();
        if let Some(at) = Fault::LABELS.iter().position(|known| *known == label) {
            bump(&self.faults[at]);
        }
    }

    /// One transaction more waits for its final answer, or one less. As with [`Counters::add`] there is one writer.
    pub(crate) fn await_answer(&self, waits: bool) {
        let before = self.unanswered.load(Ordering::Relaxed);
        let now = if waits { before + 1 } else { before.saturating_sub(1) };
        self.unanswered.store(now, Ordering::Relaxed);
    }

    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered.load(Ordering::Relaxed)
    }

    pub(crate) fn value(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }

    /// Label and count of every fault that was met.
    pub(crate) fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Fault::LABELS.iter().zip(&self.faults).map(|(label, value)| (*label, value.load(Ordering::Relaxed)))
    }
}

fn bump(value: &AtomicU64) {
    value.store(value.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_each_counter_at_its_own_place() {
        for (at, (counter, _)) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, at);
        }
    }

    #[test]
    fn counts_are_read_back() {
        let counters = Counters::default();
        counters.add(Counter::Loops);
        counters.add(Counter::Loops);
        assert_eq!(counters.value(Counter::Loops), 2);
        assert_eq!(counters.value(Counter::Pings), 0);
    }

    #[test]
    fn waiting_goes_up_and_down() {
        let counters = Counters::default();
        let levels = [true, true, true, false, false, false, false].map(|waits| {
            counters.await_answer(waits);
            counters.unanswered()
        });
        assert_eq!(levels, [1, 2, 3, 2, 1, 0, 0]);
    }

    #[test]
    fn faults_are_counted_by_their_label() {
        let counters = Counters::default();
        for fault in [Fault::Via, Fault::To, Fault::Via, Fault::Missing(sip::Name::To), Fault::Missing(sip::Name::Via)]
        {
            counters.add_fault(fault);
        }
        let met: Vec<(&str, u64)> = counters.faults().filter(|(_, count)| *count > 0).collect();
        assert_eq!(met, [("missing_header", 2), ("via", 2), ("to", 1)]);
        assert_eq!(counters.faults().count(), Fault::LABELS.len());
    }
}
