//! The sockets and the clock of tandem: everything between the kernel and the pure engine.
//!
//! [`Udp`] runs the data plane: one thread per worker, each with its own socket per listener, feeding the engine's shards and
//! sending what they ask for. [`datagram`] holds the batches of datagrams it is built from, for whoever else sends and receives
//! many of them (the relay and the load generator do). It is the only module with unsafe code.
#![deny(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "this crate owns the sockets and the clock that the pure crates must not touch"
)]

mod clock;
mod counters;
pub mod datagram;
mod handler;
mod shards;
pub mod socket;
mod table;
mod udp;
mod worker;

pub use clock::Clock;
pub use counters::{NetCounters, WorkerCounters};
pub use socket::{NetError, Warning};
pub use udp::{Tap, Udp};
