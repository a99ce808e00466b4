//! A load generator for SIP over UDP, and what a balancer is measured against.
//!
//! [`generator`] is both ends of calls, registrations and pings, in one thread: the caller sends to the balancer, the callee answers as
//! the server behind it. [`relay`] is the limit of UDP sockets: it forwards datagrams unread. [`process`] measures another program.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a program that sends at a rate and measures time needs the clock")]

pub mod generator;
mod histogram;
pub mod process;
pub mod relay;
mod report;

pub use histogram::Histogram;
pub use report::{Failure, Progress, Report};
