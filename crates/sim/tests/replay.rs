//! What fuzzers start from and what they found, through the same functions that the fuzz targets call: a finding stays fixed
//! without a fuzzer at hand.

use sim::fuzzing;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

/// A target's name and what it calls.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] = [
    ("message", fuzzing::message),
    ("framing", fuzzing::framing),
    ("transaction", fuzzing::transaction),
    ("engine", fuzzing::engine),
];

/// Test data that may lie beside the checkout is read as far as this; the rest of a long file is more of the same.
const LONGEST: usize = 65_535;

#[test]
fn seeds_of_each_target_hold_its_promises() {
    for (name, call) in TARGETS {
        let files = files_below(&root().join("fuzz/seeds").join(name));
        assert!(files.len() >= 4, "{name} has {} seeds", files.len());
        replay(name, call, &files);
    }
}

#[test]
fn seeds_of_one_target_do_no_harm_to_another() {
    let files = files_below(&root().join("fuzz/seeds"));
    for (name, call) in TARGETS {
        replay(name, call, &files);
    }
}

#[test]
fn test_data_beside_the_checkout_holds_the_promises() {
    let Some(data) = root().parent().map(|parent| parent.join("shared/testdata")).filter(|data| data.is_dir()) else {
        return;
    };
    let files = files_below(&data);
    assert!(!files.is_empty(), "the folder of test data is empty");
    for (name, call) in TARGETS {
        replay(name, call, &files);
    }
}

/// Calls the target with each file, and fails with the names of those that break a promise.
fn replay(name: &str, call: fn(&[u8]), files: &[PathBuf]) {
    let mut broken = Vec::new();
    for file in files {
        let bytes = fs::read(file).expect("a listed file can be read");
        let bytes = bytes.get(..LONGEST).unwrap_or(&bytes);
        if catch_unwind(|| call(bytes)).is_err() {
            broken.push(file.display().to_string());
        }
    }
    assert!(broken.is_empty(), "{name} breaks a promise for {broken:#?}");
}

/// All files below a folder, sorted.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder of seeds can be listed") {
            let path = entry.expect("the folder of seeds can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies in crates/sim of the workspace").to_path_buf()
}
