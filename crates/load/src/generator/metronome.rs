//! Waking up in time. Waiting for sockets ends on whole milliseconds only, which at a thousand exchanges a second would make every one of
//! them late; a thread that does nothing but sleep wakes within some fifty microseconds.

use super::schedule::Schedule;
use net::datagram::Wake;
use net::{Clock, NetError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A thread that wakes whoever waits each time something is due. It ends when this is dropped.
pub(super) struct Metronome {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Metronome {
    pub(super) fn start(schedule: Schedule, wake: Arc<Wake>) -> Result<Self, NetError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("metronome".to_owned())
            .spawn(move || tick(schedule, &wake, &stopped))
            .map_err(|error| NetError::Thread { error })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Metronome {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does nothing that could panic.
            let _ended = thread.join();
        }
    }
}

fn tick(mut schedule: Schedule, wake: &Wake, stopped: &AtomicBool) {
    while !stopped.load(Ordering::Relaxed) {
        let now = Clock::now();
        let mut is_due = false;
        // Those that were slept through are served by one call.
        while schedule.take(now).is_some() {
            is_due = true;
        }
        if is_due {
            wake.wake();
        }
        std::thread::sleep(schedule.next().saturating_since(Clock::now()).min(LONGEST_SLEEP));
    }
}

/// More wake-ups a second than this would cost more than they are worth.
pub(super) const MOST_TICKS: f64 = 4_000.0;
/// How long its end may take.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
