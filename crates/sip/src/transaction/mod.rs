//! The four transaction state machines of RFC 3261 §17 as amended by RFC 6026.
//!
//! A machine holds no octets, no clock and no socket. Its owner keeps the datagrams, tells it what happened and when, and
//! is told what to do. Each machine is one small `Copy` enum with one variant per state of the RFC, and every transition
//! consumes the old state: `let (next, action) = machine.on_timer(now, &timing)`. The state table that the code follows
//! stands at the head of each file:
//!
//! | machine | role | figure |
//! |---|---|---|
//! | [`InviteClient`] | we sent an INVITE | RFC 3261 figure 5, RFC 6026 §7.2 |
//! | [`OtherClient`] | we sent any other request but ACK | RFC 3261 figure 6 |
//! | [`InviteServer`] | we received an INVITE | RFC 3261 figure 7, RFC 6026 §7.1 |
//! | [`OtherServer`] | we received any other request but ACK | RFC 3261 figure 8 |
//!
//! How an owner drives one:
//!
//! - After each step it arms one timer for `deadline()`. A call of `on_timer` before that moment changes nothing.
//! - A machine without a deadline waits for its owner or its peer. A terminated one is forgotten.
//! - A zero timer (D, I, J and K of a stream) is a deadline equal to the moment of the step, so that both kinds of link
//!   pass through the same states.
//!
//! What is not here, on purpose:
//!
//! - Transport errors. A client's owner drops the machine and acts as if a 503 had come (RFC 3261 §16.9); a server's owner
//!   keeps it, since RFC 6026 §7.1 forbids that an error destroys a server transaction.
//! - Timer C. It belongs to the proxy (RFC 3261 §16.6 step 11), which finds its length in [`Timing::timer_c`].
//! - RFC 4320. When a 1xx may answer a request other than INVITE, and that 408 never does, is the owner's decision.

mod client_invite;
mod client_other;
mod key;
mod server_invite;
mod server_other;

pub use client_invite::InviteClient;
pub use client_other::OtherClient;
pub use key::{KeyClass, key};
pub use server_invite::InviteServer;
pub use server_other::OtherServer;

use std::time::Duration;

use crate::time::Instant;

/// The lengths from which all timers follow (RFC 3261 table 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Estimate of the round trip; the first interval of timers A, E and G.
    pub t1: Duration,
    /// Longest interval between retransmissions, timer A excepted.
    pub t2: Duration,
    /// Longest time a message stays in the network; timers I and K.
    pub t4: Duration,
    /// Longest time a proxied INVITE may ring without news. More than three minutes; applied by the proxy.
    pub timer_c: Duration,
    /// How long a client answers retransmitted failures of an INVITE over datagrams. At least 32 s.
    pub timer_d: Duration,
}

impl Timing {
    /// The values of RFC 3261: T1 500 ms, T2 4 s, T4 5 s, C 181 s, D 32 s.
    pub const DEFAULT: Self = Self {
        t1: Duration::from_millis(500),
        t2: Duration::from_secs(4),
        t4: Duration::from_secs(5),
        timer_c: Duration::from_secs(181),
        timer_d: Duration::from_secs(32),
    };

    /// 64 × T1: the length of timers B, F, H, J, L and M.
    pub const fn transaction_timeout(&self) -> Duration {
        self.t1.saturating_mul(64)
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What carries a transaction: decides whether it retransmits and how long it lingers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Link {
    /// Unreliable: UDP. The machine retransmits.
    Datagram,
    /// Reliable: TCP, TLS, WebSocket. The machine never retransmits.
    Stream,
}

/// What the owner of a client transaction does after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAction {
    /// Nothing: the timer was not due.
    None,
    /// Send the request again.
    Retransmit,
    /// Hand the response to the transaction user.
    PassUp,
    /// Hand the final failure to the transaction user, send an ACK, and keep the ACK for [`ClientAction::Ack`].
    PassUpAndAck,
    /// The final failure came again: send the same ACK again and do not pass the response up.
    Ack,
    /// Timer B or F fired: the transaction ended as if a 408 had come.
    Timeout,
    /// Drop the response.
    Absorb,
    /// Timer D, K or M fired: forget the transaction.
    Terminated,
}

/// What the owner of a server transaction does after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerAction {
    /// Nothing beyond what was asked: the timer was not due, or the response in hand may be sent.
    None,
    /// Send the last response again.
    Retransmit,
    /// Drop the message: a request that came, or a response that this state no longer allows.
    Absorb,
    /// Hand the ACK to the transaction user: it acknowledges a 2xx.
    PassUp,
    /// Timer H fired: no ACK came for a final failure.
    Timeout,
    /// Timer I, J or L fired: forget the transaction.
    Terminated,
}

/// What a status code means to a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StatusClass {
    /// 100 to 199.
    Provisional,
    /// 200 to 299.
    Success,
    /// 300 to 699.
    Failure,
    /// No code of SIP/2.0: moves no machine.
    Unknown,
}

impl StatusClass {
    fn of(code: u16) -> Self {
        match code {
            100..=199 => Self::Provisional,
            200..=299 => Self::Success,
            300..=699 => Self::Failure,
            _ => Self::Unknown,
        }
    }
}

/// When the first retransmission is due; a stream has none.
fn first_retransmission(now: Instant, link: Link, timing: &Timing) -> Option<Instant> {
    match link {
        Link::Datagram => Some(now + timing.t1),
        Link::Stream => None,
    }
}

/// The interval that follows the given number of retransmissions: T1, doubled by each.
fn backoff(timing: &Timing, retransmissions: u8) -> Duration {
    let factor = 1_u32.checked_shl(u32::from(retransmissions)).unwrap_or(u32::MAX);
    timing.t1.saturating_mul(factor)
}

/// How long a finished transaction waits for stragglers: the given time over datagrams, no time on a stream.
fn linger(link: Link, wait: Duration) -> Duration {
    match link {
        Link::Datagram => wait,
        Link::Stream => Duration::ZERO,
    }
}

/// The earlier of an optional retransmission and the end of the state.
fn earlier(retransmit_at: Option<Instant>, end: Instant) -> Instant {
    retransmit_at.map_or(end, |due| due.min(end))
}

/// The tests' clock: milliseconds since the transaction began.
#[cfg(test)]
fn at(milliseconds: u64) -> Instant {
    Instant::from_micros(milliseconds * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_lengths_are_those_of_rfc_3261_table_4() {
        let timing = Timing::default();
        assert_eq!(timing.t1, Duration::from_millis(500));
        assert_eq!(timing.t2, Duration::from_millis(4_000));
        assert_eq!(timing.t4, Duration::from_millis(5_000));
        assert_eq!(timing.timer_d, Duration::from_secs(32));
        assert!(timing.timer_c > Duration::from_secs(180), "timer C must exceed three minutes");
        assert_eq!(timing.transaction_timeout(), Duration::from_secs(32));
    }

    #[test]
    fn status_codes_fall_into_the_classes_of_rfc_3261() {
        for (code, class) in [
            (0, StatusClass::Unknown),
            (99, StatusClass::Unknown),
            (100, StatusClass::Provisional),
            (199, StatusClass::Provisional),
            (200, StatusClass::Success),
            (299, StatusClass::Success),
            (300, StatusClass::Failure),
            (699, StatusClass::Failure),
            (700, StatusClass::Unknown),
            (u16::MAX, StatusClass::Unknown),
        ] {
            assert_eq!(StatusClass::of(code), class, "{code}");
        }
    }

    #[test]
    fn back_off_doubles_and_never_overflows() {
        let timing = Timing::DEFAULT;
        assert_eq!(backoff(&timing, 0), Duration::from_millis(500));
        assert_eq!(backoff(&timing, 1), Duration::from_millis(1_000));
        assert_eq!(backoff(&timing, 6), Duration::from_secs(32));
        assert!(backoff(&timing, u8::MAX) > Duration::from_secs(1_000_000));
    }

    #[test]
    fn machines_are_small() {
        for (machine, octets) in [
            ("invite client", size_of::<InviteClient>()),
            ("other client", size_of::<OtherClient>()),
            ("invite server", size_of::<InviteServer>()),
            ("other server", size_of::<OtherServer>()),
        ] {
            assert!(octets <= 40, "{machine} takes {octets} octets");
        }
    }
}
