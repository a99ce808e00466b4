//! A stream cut into messages, in pieces of any size: see `sim::fuzzing::framing`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sim::fuzzing::framing(bytes));
