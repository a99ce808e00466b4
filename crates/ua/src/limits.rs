//! Every bound of this crate, in one place.

/// Calls that one endpoint holds at a time; a further INVITE is answered 503.
pub(crate) const LEGS: usize = 20_000;

/// Server transactions that one endpoint holds at a time; a further request is answered 503 without one.
pub(crate) const SERVER_TRANSACTIONS: usize = 200_000;

/// Contacts of one user of a PBX; a REGISTER that would exceed it is answered 403.
pub(crate) const CONTACTS_PER_USER: usize = 10;

/// Realms of one challenge that are answered; those of further ones are passed over.
pub(crate) const REALMS: usize = 8;

/// Streams of an offer; one with more is answered 488.
pub(crate) const STREAMS: usize = 32;

/// Requests that a slow PBX holds back at a time; further ones are lost.
pub(crate) const DELAYED_REQUESTS: usize = 50_000;
