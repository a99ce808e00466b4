//! One datagram through the parser, the edits and the builders: see `sim::fuzzing::message`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sim::fuzzing::message(bytes));
