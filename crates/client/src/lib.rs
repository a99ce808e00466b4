//! The client's side of SIP over a stream, for whoever connects: the balancer to its backends, probes and the load generator.
//!
//! ```text
//! wire        the octets of one connection into messages and back, on memory
//! websocket   what a browser puts between
//! trust       whose certificates are believed
//! ```
//! Sockets, clocks and the words for what went wrong are those of whoever connects.
#![forbid(unsafe_code)]

mod trust;
mod websocket;
mod wire;

pub use trust::{Trust, VERSIONS, authorities, config_builder, fingerprint, system_authorities, verifier};
pub use websocket::{Memory, WebSocket};
pub use wire::{Fault, Terms, Wire};
