//! `cargo xtask fuzz`: a fuzz target for a given time, with the corpora as seeds where they are present.

use crate::{step, workspace};
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// Runs `target` of `fuzz/` for `minutes`.
pub fn run(target: &str, minutes: u64) -> Result<u8> {
    ensure!(workspace::root().join("fuzz/Cargo.toml").is_file(), "there is no fuzz/Cargo.toml");
    let installed = workspace::cargo().args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success());
    ensure!(installed, "cargo-fuzz is not installed: `cargo install cargo-fuzz --locked`, and a nightly toolchain");
    // The first folder is the one the fuzzer writes to; it must be ours.
    let own = workspace::root().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&own)?;
    // A toolchain is chosen by rustup's proxy, which the cargo that runs us has already passed.
    let mut command = std::process::Command::new("cargo");
    command
        .current_dir(workspace::root())
        .env_remove("CARGO")
        .env_remove("RUSTUP_TOOLCHAIN")
        .args(["+nightly", "fuzz", "run", target])
        .arg(own)
        .args(seeds(target))
        .arg("--")
        .arg(format!("-max_total_time={}", minutes.saturating_mul(60)))
        .args(["-timeout=5", "-rss_limit_mb=2048", "-max_len=65535"]);
    Ok(step::exit_code(step::last(target, &mut command)?))
}

/// Folders of messages to start from.
/// Our own seeds for this target, then the corpora beside the checkout.
fn seeds(target: &str) -> Vec<PathBuf> {
    const FOLDERS: [&str; 7] =
        ["rfc4475", "rfc5118/raw", "rfc5118/wire", "advisories", "fuzz-seeds/sipgo", "fuzz-seeds/zeek-sip", "streams"];
    let data = crate::conformance::shared_corpus();
    let own = workspace::root().join("fuzz/seeds").join(target);
    let corpora = FOLDERS.iter().filter_map(|folder| data.as_ref().map(|data| data.join(folder)));
    std::iter::once(own).chain(corpora).filter(|folder| folder.is_dir()).collect()
}
