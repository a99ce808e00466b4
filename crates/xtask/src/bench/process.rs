//! A measured program and all its children.

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to open its socket, or to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);

/// A program that runs until it is dropped.
pub(super) struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Takes over `child` once it has a UDP socket on `port`. `log` is where its output goes, shown if it fails.
    pub(super) fn wait_for_port(child: Child, log: &Path, port: u16) -> Result<Self> {
        let mut running = Self { child, log: log.to_path_buf() };
        let start = Instant::now();
        while !is_bound(port) {
            let ended = running.child.try_wait()?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                bail!("it did not open port {port}; it said:\n{}", running.said());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // What follows the socket (worker processes, first timers) shall not be part of the measurement.
        std::thread::sleep(Duration::from_millis(300));
        Ok(running)
    }

    /// User and system time of the program and its children so far.
    pub(super) fn cpu(&self) -> Duration {
        self.family().into_iter().map(super::programs::cpu).sum()
    }

    /// Resident octets of the program and its children. Shared pages are counted once for each.
    pub(super) fn rss(&self) -> u64 {
        self.family().into_iter().map(super::programs::rss).sum()
    }

    /// The program's own process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// What the program said so far.
    pub(super) fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The program's own process and everything below it.
    pub(super) fn family(&self) -> Vec<u32> {
        let parents = parents();
        let mut family = vec![self.child.id()];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        family
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let family = self.family();
        signal("TERM", &[self.child.id()]);
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        signal("KILL", &family);
        // The result of a killed program says nothing.
        let _ = self.child.wait();
    }
}

/// Sends one signal again and again. A shell that waits for lines does it: to start a program each time would disturb what is measured.
pub(super) struct Signaller {
    shell: Child,
}

impl Signaller {
    /// `signal` by its name without SIG.
    pub(super) fn new(signal: &str, process: u32) -> Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", "while read -r line; do kill -s \"$0\" \"$1\"; done", signal])
            .arg(process.to_string())
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start a shell")?;
        Ok(Self { shell })
    }

    pub(super) fn send(&mut self) -> Result<()> {
        let stdin = self.shell.stdin.as_mut().context("the shell has no input")?;
        stdin.write_all(b"\n").context("the shell that signals is gone")
    }
}

impl Drop for Signaller {
    fn drop(&mut self) {
        // It ends with its input.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Processor and kernel, for the line below the tables.
pub(super) fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("an unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{model}, {cores} cores, Linux {}", kernel.trim())
}

/// `taskset`, to which a list of cores and a program are to be added, with room for so many open files.
pub(super) fn taskset(descriptors: Option<u32>) -> Command {
    let Some(descriptors) = descriptors else { return Command::new("taskset") };
    // The shell becomes the program, whose process it then is. Where the system allows fewer, all that it allows will have to do.
    let mut command = Command::new("sh");
    command.args(["-c", RAISED]).arg(descriptors.to_string());
    command
}

fn signal(name: &str, processes: &[u32]) {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -\"$0\" \"$@\" 2>/dev/null", name]);
    for process in processes {
        command.arg(process.to_string());
    }
    // A process that is gone already is as good as one that was signalled.
    let _ = command.status();
}

/// Each process and its parent.
fn parents() -> BTreeMap<u32, u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|process: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            Some((process, parent_in(&stat)?))
        })
        .collect()
}

/// The parent named in a line of `/proc/PID/stat`. The program's name is in parentheses and may contain anything.
fn parent_in(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

/// Whether some socket of this network has the UDP port.
fn is_bound(port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    ["/proc/net/udp", "/proc/net/udp6"].iter().filter_map(|table| std::fs::read_to_string(table).ok()).any(|table| {
        table.lines().filter_map(|line| line.split_whitespace().nth(1)).any(|local| local.ends_with(&suffix))
    })
}

/// `$0`: open files that are wanted. The rest is for taskset.
const RAISED: &str = "ulimit -n \"$0\" 2>/dev/null || ulimit -n \"$(ulimit -H -n)\"; exec taskset \"$@\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_sent_one_a_line() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().expect("every system has sleep");
        let mut signaller = Signaller::new("TERM", sleeper.id()).expect("every system has a shell");
        assert!(matches!(sleeper.try_wait(), Ok(None)), "nothing was sent yet");
        signaller.send().expect("the shell waits for lines");
        drop(signaller);
        let ended = sleeper.wait().expect("it is our child");
        assert!(!ended.success());
    }

    #[test]
    fn programs_have_room_for_open_files() {
        let output = taskset(Some(100)).args(["-c", "0", "sh", "-c", "ulimit -n"]).output().expect("a shell is there");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "100", "{output:?}");
        assert_eq!(taskset(None).get_program(), "taskset");
    }

    #[test]
    fn the_parent_is_read_whatever_the_name_is() {
        assert_eq!(parent_in("12 (a) b (c) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("nonsense"), None);
        assert!(parents().contains_key(&std::process::id()));
    }
}
