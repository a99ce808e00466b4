//! `cargo xtask test`: what must be green before anything lands.

use crate::{peers, step, workspace};
use anyhow::{Result, ensure};
use std::num::NonZero;
use std::process::Command;
use std::thread;

/// Installs missing peers if `install` or if this run is judged, checks format and lints, then runs every test once. Returns the
/// test runner's result; its closing line is the last one printed.
pub fn run(install: bool) -> Result<u8> {
    prepare_peers(install)?;
    step::run("fmt", workspace::cargo().args(["fmt", "--all", "--", "--check"]))?;
    step::run(
        "clippy",
        workspace::cargo()
            .args(["clippy", "--workspace", "--all-targets", "--locked"])
            .args(["--", "--deny", "warnings"]),
    )?;
    let status = step::last("tests", &mut tests())?;
    Ok(step::exit_code(status))
}

/// Installs what is missing, or says how to; each test looks for itself and says what it skips.
fn prepare_peers(install: bool) -> Result<()> {
    let missing = peers::missing();
    if missing.is_empty() {
        return Ok(());
    }
    if install || peers::is_ci() {
        println!("==> packages");
        peers::install(&missing)?;
        let still = peers::missing();
        ensure!(still.is_empty(), "installed, but not found: {still:?}");
        return Ok(());
    }
    println!(
        "Some programs that tests meet are not installed; the tests that need them are skipped and say so. To install them:"
    );
    println!("    {}", peers::advice(&missing));
    Ok(())
}

/// One process per test where nextest is installed, else cargo's own runner.
fn tests() -> Command {
    let mut command = workspace::cargo();
    if workspace::has_nextest() {
        command.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
        // Those that meet real peers are half of the time, and wait for them most of it.
        let threads = 2 * thread::available_parallelism().map_or(1, NonZero::get);
        command.args(["--test-threads", &threads.to_string()]);
    } else {
        command.args(["test", "--workspace", "--all-targets", "--locked", "--no-fail-fast"]);
    }
    command
}
