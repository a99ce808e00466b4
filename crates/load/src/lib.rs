//! A load generator for SIP over any transport, and what a balancer is measured against.
//!
//! ```text
//! generator   both ends of calls, registrations and pings, in one thread: the caller sends to the balancer, the callee
//!             answers as the server behind it, or somebody else does
//! stream      the client's side of TCP, TLS and WebSocket; idle: connections over which nothing but keep-alives goes
//! report      what came of a load, as JSON and as text; histogram: its times
//! peak        the highest rate without a failure, found by many loads
//! authority   which addresses may be loaded without a word
//! process     what another program uses
//! relay       the limit of UDP sockets: it forwards datagrams unread
//! ```
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a program that sends at a rate and measures time needs the clock")]

pub mod authority;
pub mod generator;
mod histogram;
pub mod idle;
pub mod peak;
pub mod process;
pub mod relay;
mod report;
pub mod stream;

pub use histogram::{Bar, Histogram};
pub use report::{Failure, Phase, Progress, Report, Target};
