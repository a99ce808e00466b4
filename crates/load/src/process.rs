//! What another program uses, as the kernel tells it in `/proc`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

/// User and system time so far of each thread of some processes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    threads: BTreeMap<(u32, OsString), Duration>,
}

/// User and system time between two moments.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Spent {
    /// Of all threads.
    pub total: Duration,
    /// Of the thread that used most.
    pub busiest: Duration,
}

/// User and system time of the process so far, from the scheduler's own account of each of its threads: exact to the nanosecond, where
/// `stat` counts ticks. Threads that ended are not in it. Zero for a process that is gone.
pub fn cpu(process: u32) -> Duration {
    usage(&[process]).threads.values().sum()
}

/// The same of several processes, thread by thread.
pub fn usage(processes: &[u32]) -> Usage {
    let mut threads = BTreeMap::new();
    for process in processes {
        let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for entry in entries.flatten() {
            let text = fs::read_to_string(entry.path().join("schedstat")).unwrap_or_default();
            if let Some(time) = on_cpu(&text) {
                threads.insert((*process, entry.file_name()), time);
            }
        }
    }
    Usage { threads }
}

/// Resident octets of the process. Zero for one that is gone.
pub fn rss(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    resident(&status).unwrap_or(0)
}

/// Whether there is such a process.
pub fn exists(process: u32) -> bool {
    fs::exists(format!("/proc/{process}/task")).unwrap_or(false)
}

impl Usage {
    /// What was used since `earlier`. A thread that `earlier` does not know is young: all of its time counts.
    pub fn since(&self, earlier: &Self) -> Spent {
        let mut spent = Spent::default();
        for (thread, time) in &self.threads {
            let before = earlier.threads.get(thread).copied().unwrap_or_default();
            let used = time.saturating_sub(before);
            spent.total += used;
            spent.busiest = spent.busiest.max(used);
        }
        spent
    }
}

/// The first field of `schedstat`: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    let nanoseconds = schedstat.split_ascii_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

/// The line `VmRSS:     1234 kB` of `status`, in octets.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(on_cpu("1500000 2000 17\n"), Some(Duration::from_micros(1_500)));
        assert_eq!(on_cpu(""), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_uses_memory_and_one_that_is_gone_uses_nothing() {
        assert!(exists(std::process::id()) && rss(std::process::id()) > 100_000);
        // No process has the largest number there is.
        assert_eq!((cpu(u32::MAX), rss(u32::MAX), exists(u32::MAX)), (Duration::ZERO, 0, false));
    }

    #[test]
    fn what_was_used_is_the_difference_thread_by_thread() {
        let usage = |times: &[(&str, u64)]| Usage {
            threads: times.iter().map(|(name, ms)| ((1, OsString::from(name)), Duration::from_millis(*ms))).collect(),
        };
        let spent = usage(&[("a", 50), ("b", 20), ("c", 10)]).since(&usage(&[("a", 45), ("b", 5), ("gone", 99)]));
        assert_eq!(spent, Spent { total: Duration::from_millis(30), busiest: Duration::from_millis(15) });
    }
}
