//! What another program uses, as the kernel tells it in `/proc`.

use std::fs;
use std::time::Duration;

/// User and system time of the process so far, from the scheduler's own account of each of its threads: exact to the nanosecond, where
/// `stat` counts ticks. Threads that ended are not in it. Zero for a process that is gone.
pub fn cpu(process: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return Duration::ZERO };
    threads
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| on_cpu(&text))
        .sum()
}

/// Resident octets of the process. Zero for one that is gone.
pub fn rss(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    resident(&status).unwrap_or(0)
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
        assert!(rss(std::process::id()) > 100_000);
        // No process has the largest number there is.
        assert_eq!((cpu(u32::MAX), rss(u32::MAX)), (Duration::ZERO, 0));
    }
}
