//! The unit under test: the program itself, started with a configuration.

use super::{Process, holds_within};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use tempfile::TempDir;

/// A running `tandem run`. Killed when dropped, and its folder removed.
pub struct Unit {
    process: Process,
    folder: TempDir,
    /// The process whose network it is in, if that is not the test's.
    network: Option<u32>,
}

impl Unit {
    /// Starts it with this configuration text and waits until it is ready.
    ///
    /// # Panics
    /// If it is not ready within fifteen seconds, with what it said.
    pub fn start(config: &str) -> Self {
        Self::start_in(None, config)
    }

    /// The same in the network of another process.
    pub fn start_beside(network: u32, config: &str) -> Self {
        Self::start_in(Some(network), config)
    }

    fn start_in(network: Option<u32>, config: &str) -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        std::fs::write(folder.path().join("tandem.toml"), config).expect("the folder is ours");
        let process = launch_in(network, folder.path());
        let mut unit = Self { process, folder, network };
        unit.wait_until_ready();
        unit
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after its end, with the same state and configuration file.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch_in(self.network, self.folder.path());
        self.wait_until_ready();
    }

    /// Writes a new configuration, sends SIGHUP and waits until `status` agrees with `is_taken_up`.
    pub fn reload(&self, config: &str, is_taken_up: impl Fn(&Value) -> bool) {
        std::fs::write(self.config(), config).expect("the folder is ours");
        self.process.signal("HUP");
        let taken_up = holds_within(Duration::from_secs(10), || is_taken_up(&self.status()));
        assert!(taken_up, "the new configuration is not taken up\n{}", self.process.said());
    }

    /// How many bindings it knows.
    pub fn registrations(&self) -> Option<u64> {
        self.status().get("registrations").and_then(Value::as_u64)
    }

    /// `tandem status --json`.
    pub fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text).unwrap_or_else(|error| {
            let errors = String::from_utf8_lossy(&output.stderr);
            panic!("status is no JSON: {error}\n{text}\n{errors}\n{}", self.process.said())
        })
    }

    /// Runs a subcommand with this unit's state directory.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM)
            .args(arguments)
            .arg("--state-dir")
            .arg(self.state_dir())
            .output()
            .expect("the program is there: it runs")
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tandem.toml")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The unit's folder, for files of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it said, for a test that failed.
    pub fn said(&self) -> String {
        self.process.said()
    }

    fn wait_until_ready(&mut self) {
        let process = &mut self.process;
        let mut running = true;
        let ready = holds_within(Duration::from_secs(15), || {
            running = process.is_running();
            let output = process.output();
            !running || output.lines().any(|line| line.starts_with("ready"))
        });
        assert!(ready && running, "the unit is not ready\n{}", process.said());
    }
}

/// The value of a counter in a status: its name, and its label ("" for none). 0 if it is not there.
pub fn counter(status: &Value, name: &str, label: &str) -> u64 {
    find_counter(status, name, label).unwrap_or(0)
}

/// All counters with this name that are not 0, as label and value.
pub fn labels(status: &Value, name: &str) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    collect_labels(status, name, &mut found);
    found.retain(|(_, value)| *value > 0);
    found
}

/// A backend's object in a status, by its name.
pub fn backend<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status.get("farms")?.as_array()?.iter().find_map(|farm| {
        farm.get("services")?.as_array()?.iter().find_map(|service| {
            let backends = service.get("backends")?.as_array()?;
            backends.iter().find(|backend| backend.get("name").and_then(Value::as_str) == Some(name))
        })
    })
}

/// Starts the program on the `tandem.toml` in the folder, with its state beside it.
pub fn launch(folder: &Path) -> Process {
    launch_in(None, folder)
}

fn launch_in(network: Option<u32>, folder: &Path) -> Process {
    let mut command = Command::new(if network.is_some() { "nsenter" } else { PROGRAM });
    if let Some(process) = network {
        command.args(["--net", "--target", &process.to_string(), PROGRAM]);
    }
    Process::start(
        command.args(["run", "--config"]).arg(folder.join("tandem.toml")).arg("--state-dir").arg(folder.join("state")),
        "tandem",
        folder,
    )
}

/// Counters stand as `{ "name": …, "label": …, "value": … }` or as `[name, label, value]`.
fn entry(value: &Value) -> Option<(&str, &str, u64)> {
    let part = |key: &str, at: usize| value.get(key).or_else(|| value.get(at));
    let name = part("name", 0)?.as_str()?;
    let label = part("label", 1)?.as_str()?;
    Some((name, label, part("value", 2)?.as_u64()?))
}

fn find_counter(status: &Value, name: &str, label: &str) -> Option<u64> {
    let counters = status.get("counters")?.as_array()?;
    counters
        .iter()
        .filter_map(entry)
        .find(|(known, labelled, _)| *known == name && *labelled == label)
        .map(|(_, _, value)| value)
}

fn collect_labels(status: &Value, name: &str, found: &mut Vec<(String, u64)>) {
    let counters = status.get("counters").and_then(Value::as_array);
    for (known, label, value) in counters.into_iter().flatten().filter_map(entry) {
        if known == name {
            found.push((label.to_owned(), value));
        }
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_tandem");
