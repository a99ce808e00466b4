//! Random worlds, each judged by the model. A failure names its seed.

use sim::run_seed;

/// How many seeds every test run takes.
const SEEDS: u64 = 16;

#[test]
fn every_seed_keeps_all_promises() {
    let failures: Vec<String> =
        (1..=SEEDS).filter_map(|seed| run_seed(seed).err()).map(|failure| failure.to_string()).collect();
    assert!(failures.is_empty(), "{} of {SEEDS} seeds failed\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_seed_repeats_to_the_octet() {
    let runs = [run_seed(1), run_seed(1)];
    match runs {
        [Ok(first), Ok(second)] => assert_eq!(first, second),
        [Err(first), Err(second)] => assert_eq!(first.to_string(), second.to_string()),
        [Ok(_), Err(failure)] | [Err(failure), Ok(_)] => {
            panic!("one of two equal runs failed\n{failure}")
        }
    }
}

#[test]
fn a_seed_is_a_world_of_its_size() {
    let report = run_seed(2).unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.phones >= 50 && report.calls == 200, "{report:?}");
    assert!(report.answered * 3 >= report.calls, "{report:?}");
    assert!(report.datagrams > 5_000, "{report:?}");
}
