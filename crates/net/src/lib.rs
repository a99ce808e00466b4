//! The sockets and the clock of tandem: everything between the kernel and the pure engine.
//!
//! [`DataPlane`] runs it: one thread per worker, each with its own socket per listener and its own connections, feeding the engine's
//! shards and sending what they ask for. [`datagram`] holds the batches of datagrams it is built from, for whoever else sends and
//! receives many of them (the relay and the load generator do). It is the only module with unsafe code. [`Names`] finds out what
//! names mean, in a thread of its own.
#![deny(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "this crate owns the sockets and the clock that the pure crates must not touch"
)]

mod clock;
mod counters;
mod data_plane;
pub mod datagram;
mod handler;
mod names;
#[cfg(test)]
#[path = "../tests/namespace/mod.rs"]
mod namespace;
mod shards;
pub mod socket;
mod stream;
mod table;
mod worker;

pub use clock::Clock;
pub use counters::{NetCounters, StreamCounters, StreamFault, WorkerCounters};
pub use data_plane::{DataPlane, Tap};
pub use names::{NameStatus, Names};
pub use socket::{NetError, Warning};
pub use stream::{CertificateStatus, NOTICE_DAYS};
