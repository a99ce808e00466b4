//! Streams: SIP over TCP, TLS and WebSocket.
//!
//! socket → worker → connection (TLS, WebSocket, framing) → shard → … → send list → the same worker's connections.
//!
//! The workers that serve datagrams serve streams too, without an async runtime. A connection belongs to the worker that accepted or
//! opened it: that worker's poll reports it readable, and writable while something waits. Any worker may send on it: it stands behind a
//! lock of its own, the sender queues the message and writes as much as the socket takes at once.
//!
//! [`wire`] turns octets into messages and back, on memory, with [`websocket`] for what a browser speaks; [`tls`] makes the
//! configurations for it from settings and files. [`connection`] is a socket with its wire, [`connections`] all of them: numbers,
//! limits, who leads where, opening.

mod connection;
mod connections;
#[cfg(test)]
mod testing;
mod tls;
mod websocket;
mod wire;

pub(crate) use connection::Reader;
pub(crate) use connections::{Connections, FIRST_TOKEN, Round, SWEEP_PARTS, StreamListener};
pub use tls::{CertificateStatus, NOTICE_DAYS};
pub(crate) use tls::{TlsStore, TlsWarning};
