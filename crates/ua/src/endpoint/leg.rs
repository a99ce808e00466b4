//! One side of a call.

use crate::dialog::Dialog;
use crate::transact::{ClientId, ServerId};
use sip::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// One leg; never used twice by an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct LegId(pub(crate) u64);

pub(crate) struct Leg {
    pub(crate) dialog: Dialog,
    pub(crate) stage: Stage,
    pub(crate) exchange: Exchange,
    /// A BYE follows as soon as the other side has acknowledged our 2xx: before, none may be sent (RFC 3261 §15).
    pub(crate) bye_wanted: bool,
}

/// How far the dialog is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// No 2xx was sent or received yet.
    Early,
    /// A 2xx was sent or received.
    Confirmed,
    /// Our BYE is under way.
    Ending,
}

/// The INVITE under way: there is at most one in a dialog (RFC 3261 §14).
pub(crate) enum Exchange {
    Idle,
    /// Ours waits for an answer.
    Calling {
        client: ClientId,
        provisional: bool,
        cancel: Cancel,
        give_up_at: Option<Instant>,
    },
    /// Ours was answered with a 2xx that the owner has not acknowledged yet.
    Owing {
        client: ClientId,
        cseq: u32,
    },
    /// The other side's waits for our answer.
    Asked {
        server: ServerId,
        request: Vec<u8>,
        cseq: u32,
    },
    /// We sent a 2xx that has not been acknowledged yet.
    Awaiting(Unacknowledged),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cancel {
    Unwanted,
    /// To be sent with the first provisional response, not before (RFC 3261 §9.1).
    Wanted,
    /// Sent; without a final answer by then the call is over.
    Sent {
        until: Instant,
    },
}

/// A 2xx of ours, repeated until its ACK comes (RFC 3261 §13.3.1.4).
pub(crate) struct Unacknowledged {
    pub(crate) cseq: u32,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) next: Instant,
    pub(crate) interval: Duration,
    pub(crate) until: Instant,
}

impl Leg {
    /// When something happens by itself.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.exchange {
            Exchange::Calling { cancel: Cancel::Sent { until }, .. } => Some(*until),
            Exchange::Calling { give_up_at, .. } => *give_up_at,
            Exchange::Awaiting(answer) => Some(answer.next.min(answer.until)),
            Exchange::Idle | Exchange::Owing { .. } | Exchange::Asked { .. } => None,
        }
    }

    /// Our next CSeq number.
    pub(crate) fn next_cseq(&mut self) -> u32 {
        self.dialog.local_cseq = self.dialog.local_cseq.wrapping_add(1);
        self.dialog.local_cseq
    }

    /// Our INVITE is under way and somebody wanted it cancelled.
    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self.exchange, Exchange::Calling { cancel: Cancel::Wanted | Cancel::Sent { .. }, .. })
    }

    /// The INVITE of this transaction waits for our answer.
    pub(crate) fn is_asked_by(&self, invite: ServerId) -> bool {
        matches!(&self.exchange, Exchange::Asked { server, .. } if *server == invite)
    }

    /// The INVITE of this transaction waits for the other side's answer.
    pub(crate) fn is_calling_by(&self, invite: ClientId) -> bool {
        matches!(&self.exchange, Exchange::Calling { client, .. } if *client == invite)
    }

    pub(crate) fn is_early(&self) -> bool {
        self.stage == Stage::Early
    }
}
