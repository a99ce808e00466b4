//! A script of datagrams and time for a farm of two boxes: see `sim::fuzzing::engine`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| sim::fuzzing::engine(bytes));
