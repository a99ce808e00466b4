//! A script of events over the four transaction machines: see `sim::fuzzing::transaction`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sim::fuzzing::transaction(bytes));
