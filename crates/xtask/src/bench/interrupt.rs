//! Ctrl-C, and waiting in a way that notices it: whoever returns on an interruption drops what it started, and so ends it.

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Whether somebody wants the run to end.
#[derive(Clone, Debug, Default)]
pub(super) struct Interrupt {
    asked: Arc<AtomicBool>,
}

impl Interrupt {
    /// Set by SIGINT and SIGTERM from now on.
    pub(super) fn watch() -> Result<Self> {
        let interrupt = Self::default();
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, Arc::clone(&interrupt.asked)).context("cannot listen to signals")?;
        }
        Ok(interrupt)
    }

    /// Fails once the run shall end.
    pub(super) fn check(&self) -> Result<()> {
        if self.asked.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Sleeps, unless the run shall end.
    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            self.check()?;
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(INTERVAL));
        }
    }

    /// Waits until `child` ends. `tick` is told every now and then for how long that has been. The child is killed when the run shall end
    /// or `tick` fails.
    pub(super) fn wait(&self, child: &mut Child, tick: &mut dyn FnMut(Duration) -> Result<()>) -> Result<ExitStatus> {
        let outcome = self.watch_over(child, tick);
        if outcome.is_err() {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
        }
        outcome
    }

    fn watch_over(&self, child: &mut Child, tick: &mut dyn FnMut(Duration) -> Result<()>) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            // Before the child's end is looked at: the same signal may have ended both.
            self.check()?;
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            tick(start.elapsed())?;
            std::thread::sleep(INTERVAL);
        }
    }
}

/// How late an interruption is noticed at most.
const INTERVAL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().expect("every system has sleep")
    }

    #[test]
    fn an_interrupted_wait_ends_the_child() {
        let interrupt = Interrupt::default();
        let mut child = sleeper();
        let asked = Arc::clone(&interrupt.asked);
        let mut ticks = 0;
        let waited = interrupt.wait(&mut child, &mut |_| {
            ticks += 1;
            asked.store(true, Ordering::Relaxed);
            Ok(())
        });
        assert_eq!(waited.map_err(|error| error.to_string()).err().as_deref(), Some("interrupted"));
        assert_eq!(ticks, 1);
        assert!(matches!(child.try_wait(), Ok(Some(_))), "it was killed");
        assert!(interrupt.sleep(Duration::from_secs(60)).is_err());
    }

    #[test]
    fn a_child_that_ends_is_waited_for() {
        let interrupt = Interrupt::default();
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().expect("every system has a shell");
        let status = interrupt.wait(&mut child, &mut |_| Ok(())).expect("nobody interrupts");
        assert_eq!(status.code(), Some(3));
        let mut child = sleeper();
        assert!(interrupt.wait(&mut child, &mut |_| bail!("no")).is_err());
        assert!(matches!(child.try_wait(), Ok(Some(_))), "it was killed");
    }
}
