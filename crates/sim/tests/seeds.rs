//! Random worlds, each judged by the model. A failure names its seed.

use sim::run_seed;

/// How many seeds each of the tests below takes.
const SHARE: u64 = 32;

/// Tests that share the seeds of every run among the cores.
macro_rules! shares {
    ($($name:ident: $first:literal),* $(,)?) => {$(
        #[test]
        fn $name() {
            keep_all_promises($first);
        }
    )*};
}

shares! {
    seeds_from_0: 0,
    seeds_from_32: 32,
    seeds_from_64: 64,
    seeds_from_96: 96,
    seeds_from_128: 128,
    seeds_from_160: 160,
    seeds_from_192: 192,
    seeds_from_224: 224,
}

fn keep_all_promises(first: u64) {
    let failures: Vec<String> =
        (first..first + SHARE).filter_map(|seed| run_seed(seed).err()).map(|failure| failure.to_string()).collect();
    assert!(failures.is_empty(), "{} of {SHARE} seeds failed\n{}", failures.len(), failures.join("\n"));
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
