//! Steps that announce themselves and say how long they took.

use crate::workspace;
use anyhow::{Context, Result, bail};
use std::process::{Command, ExitStatus};
use std::time::Instant;

/// Runs `command` as the step `name`; fails if the command does.
pub fn run(name: &str, command: &mut Command) -> Result<()> {
    let start = Instant::now();
    let status = last(name, command)?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    println!("    {name}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs `command` as the step `name` and prints nothing after it, so that the command's own closing line stays the last one.
pub fn last(name: &str, command: &mut Command) -> Result<ExitStatus> {
    println!("==> {name}");
    command.status().with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Runs this program again as an optimised build, which is made first, as the step `name`; the result is its exit code.
pub fn optimised(name: &str, arguments: &[&str]) -> Result<u8> {
    run(
        "build",
        workspace::cargo().args(["build", "--profile", "release-fast", "--locked"]).args(["--package", "xtask"]),
    )?;
    let program = workspace::target()?.join("release-fast/xtask");
    Ok(exit_code(last(name, Command::new(program).args(arguments))?))
}

/// The number that a shell would see as this process's result.
pub fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
