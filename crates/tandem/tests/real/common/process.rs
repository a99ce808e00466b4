//! Children that never outlive their test, with everything they said.

use super::holds_within;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// A running program. Killed when dropped.
pub struct Process {
    child: Child,
    name: String,
    output: PathBuf,
    errors: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `NAME.out` and `NAME.err` in `folder`.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn start(command: &mut Command, name: &str, folder: &Path) -> Self {
        let output = folder.join(format!("{name}.out"));
        let errors = folder.join(format!("{name}.err"));
        let child = command
            // A group of its own, so that its children end with it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(File::create(&output).expect("the folder is ours"))
            .stderr(File::create(&errors).expect("the folder is ours"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Self { child, name: name.to_owned(), output, errors }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to its standard output up to now.
    pub fn output(&self) -> String {
        read(&self.output)
    }

    /// What it wrote to its standard error up to now.
    pub fn errors(&self) -> String {
        read(&self.errors)
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `kill -9` to it and its children, and waits until it is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself, and its children too.
        let group = format!("kill -9 -{} 2>/dev/null", self.child.id());
        let _ = Command::new("sh").args(["-c", &group]).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by name, such as `HUP` or `TERM`.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it still runs after `limit`, with what it said.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut ended = None;
        holds_within(limit, || {
            ended = self.child.try_wait().expect("the child is ours");
            ended.is_some()
        });
        ended.unwrap_or_else(|| panic!("{} still runs after {limit:?}:\n{}", self.name, self.said()))
    }

    /// Everything it wrote, for a test that failed.
    pub fn said(&self) -> String {
        format!("--- {} says:\n{}{}", self.name, tail(&self.output()), tail(&self.errors()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process by its number.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("sh")
        .args(["-c", &format!("kill -{name} {process}")])
        .status()
        .is_ok_and(|status| status.success());
    assert!(sent, "no process {process} for SIG{name}");
}

fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last part of a long text, which is where the reason stands.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let start = lines.len().saturating_sub(60);
    let mut tail = lines.get(start..).unwrap_or_default().join("\n");
    tail.push('\n');
    tail
}
