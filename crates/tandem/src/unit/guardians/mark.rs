//! The processes of one program, wherever they went: each has the program's mark in its environment.
//!
//! A process group loses those that take another one, as `timeout` and `setsid` do; an environment is inherited. Who clears his own
//! escapes, who writes over it too (as servers do that show a title in `ps`), and whoever runs with the rights of another user. To adopt
//! orphans (`PR_SET_CHILD_SUBREAPER`) would hold on to them, but also to those of everything else in this process.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpgid};
use sip::Instant;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

/// A word that no other program was given.
pub(super) struct Mark(String);

impl Mark {
    pub(super) fn new(now: Instant) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        // The number of a process is given again, and units in containers may have the same one: the clock tells them apart.
        Self(format!("{}-{}-{number}", std::process::id(), now.as_micros()))
    }

    /// The variable that carries it, and its value.
    pub(super) fn variable(&self) -> (&'static str, &str) {
        (VARIABLE, &self.0)
    }

    /// Whether a process has it; one that has ended has it no more, though it may still be waited for.
    pub(super) fn is_held(&self) -> bool {
        !self.holders().is_empty()
    }

    /// Signals those that are not in `group`, each once: a second signal may mean something else than the first.
    ///
    /// Those that were started meanwhile are killed as well, but not told to end: they may have been called to clear up.
    /// A number could be another's by the time of the signal. The kernel gives numbers in turn: all others would have to be used up in
    /// the microseconds between.
    pub(super) fn signal_outside(&self, group: Pid, signal: Signal) {
        let mut told: BTreeSet<Pid> = BTreeSet::new();
        let rounds = if signal == Signal::SIGKILL { ROUNDS } else { 1 };
        for _ in 0..rounds {
            let holders = self.holders().into_iter().filter(|holder| getpgid(Some(*holder)) != Ok(group));
            let new: Vec<Pid> = holders.filter(|holder| told.insert(*holder)).collect();
            if new.is_empty() {
                return;
            }
            for holder in new {
                // It has ended meanwhile, or has become another user's.
                let _unsent = kill(holder, signal);
            }
        }
    }

    fn holders(&self) -> Vec<Pid> {
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        let wanted = format!("{VARIABLE}={}", self.0);
        let numbers = entries.take(MOST_ENTRIES).filter_map(|entry| number(&entry.ok()?.file_name()));
        numbers.filter(|process| has(*process, wanted.as_bytes())).map(Pid::from_raw).collect()
    }
}

fn number(name: &OsStr) -> Option<i32> {
    name.to_str()?.parse().ok()
}

/// Of those that we may not ask nothing is known.
fn has(process: i32, wanted: &[u8]) -> bool {
    let Ok(file) = File::open(format!("/proc/{process}/environ")) else { return false };
    let mut environment = Vec::new();
    // What was read before it ended counts.
    let _whole = file.take(MOST_OCTETS).read_to_end(&mut environment);
    environment.split(|octet| *octet == 0).any(|variable| variable == wanted)
}

const VARIABLE: &str = "TANDEM_CHECK";
/// Who starts others faster than they are found is left.
const ROUNDS: usize = 4;
/// Processes, and what else stands beside them.
const MOST_ENTRIES: usize = 65_536;
/// Of an environment.
const MOST_OCTETS: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use net::Clock;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn a_process_is_known_by_its_mark_until_it_ends() {
        let (mark, other) = (Mark::new(Clock::now()), Mark::new(Clock::now()));
        assert_ne!(mark.0, other.0);
        let (name, value) = mark.variable();
        let mut child = Command::new("sleep").arg("60").env(name, value).spawn().expect("there is a sleep");
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("the kernel's numbers have 22 bits"));
        // The kernel lays out the environment a moment after the program was started.
        let is_found = (0..400).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            mark.is_held()
        });
        let held = (mark.holders(), other.is_held());
        let own = getpgid(None).expect("everybody has a group");
        mark.signal_outside(own, Signal::SIGKILL);
        let is_spared = child.try_wait().is_ok_and(|ended| ended.is_none());
        mark.signal_outside(pid, Signal::SIGKILL);
        let status = child.wait().expect("it is our child");
        assert!(is_found && is_spared, "the second signal alone is for it: {is_found}, {is_spared}");
        assert_eq!(held, (vec![pid], false));
        assert!(!status.success() && !mark.is_held());
    }

    #[test]
    fn only_numbers_are_processes() {
        assert_eq!(number(OsStr::new("4711")), Some(4_711));
        for name in ["self", "4711x", "", "99999999999"] {
            assert_eq!(number(OsStr::new(name)), None, "{name}");
        }
    }
}
