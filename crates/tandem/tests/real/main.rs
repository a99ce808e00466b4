//! Tests that meet the real world: the binary itself, real peers, real sockets. One test binary, so that it is linked once and
//! what the tests have in common is compiled once; each test runs in a network namespace of its own.
#![allow(clippy::disallowed_methods, reason = "these tests are about real time and real sockets")]

mod baresip;
mod check_sip;
mod common;
mod conformance;
mod demo;
mod guardians;
mod hostile_tls;
mod ipv6;
mod kamailio;
mod kamailio_streams;
mod load;
mod mtu;
mod names;
mod path;
mod privileges;
mod robustness;
mod sipp;
mod tls_phone;
mod unit;
mod webrtc;
