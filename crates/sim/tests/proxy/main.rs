//! The proxy of RFC 3261 §16 step by step: one balancer, and every other party is the test. A file per subject.

mod after_end;
mod cancel;
mod corpora;
mod dialogs;
mod egress;
mod explained;
mod failover;
mod large;
mod limits;
mod moves;
mod outbound;
mod persistence;
mod pings;
mod placement;
mod requests;
mod responses;
mod restart;
mod rules;
mod sips;
mod steps;
mod streams;
mod timers;
mod tokens;
mod unit;
mod unreachable;
