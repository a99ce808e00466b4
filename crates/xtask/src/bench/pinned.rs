//! This process on one core, as long as it measures itself.

use anyhow::{Context, Result, ensure};
use std::process::{Command, Stdio};

/// The thread that made it runs on one core until this is dropped.
pub(super) struct Pinned {
    before: String,
}

impl Pinned {
    /// To be called by the first thread of the process, which is the one that `taskset` knows by the number of the process.
    pub(super) fn to(core: &str) -> Result<Self> {
        let process = std::process::id().to_string();
        let output = Command::new("taskset")
            .env("LC_ALL", "C")
            .args(["-c", "-p", &process])
            .output()
            .context("cannot start taskset (package util-linux)")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let before = cores_in(&said).context("taskset did not say where this process may run")?.to_string();
        pin(core)?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // What is measured next chooses its core by itself.
        let _ = pin(&self.before);
    }
}

fn pin(cores: &str) -> Result<()> {
    let process = std::process::id().to_string();
    let status = Command::new("taskset")
        .args(["-c", "-p", cores, &process])
        .stdout(Stdio::null())
        .status()
        .context("cannot start taskset (package util-linux)")?;
    ensure!(status.success(), "taskset failed ({status})");
    Ok(())
}

/// The list in `pid 12's current affinity list: 0,1`.
fn cores_in(said: &str) -> Option<&str> {
    let (_, list) = said.trim().rsplit_once(": ")?;
    list.starts_with(|first: char| first.is_ascii_digit()).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_cores_is_read() {
        assert_eq!(cores_in("pid 12's current affinity list: 0-3,6\n"), Some("0-3,6"));
        assert_eq!(cores_in("taskset: failed to get pid 12's affinity: No such process\n"), None);
        assert_eq!(cores_in(""), None);
    }
}
