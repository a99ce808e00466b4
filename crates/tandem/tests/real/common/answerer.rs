//! A box of ours in a thread of its own: it answers every request with 200.

use super::wire::{Station, Taken};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A running box. Stops when dropped, and its address is free again.
pub struct Answerer {
    calls: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    pub fn at(address: &str) -> Self {
        let station = Station::at(address);
        let calls = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (counted, stopped) = (Arc::clone(&calls), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let Some((octets, from)) = station.next(Duration::from_millis(20)) else { continue };
                let taken = Taken::of(&octets);
                if !taken.is_request() || taken.start.is_empty() || taken.start.starts_with(b"ACK ") {
                    continue;
                }
                let is_call = taken.start.starts_with(b"INVITE ");
                counted.fetch_add(usize::from(is_call), Ordering::Relaxed);
                let contact = format!("Contact: <sip:{}>\r\n", station.address);
                station.send(taken.response("200 OK", if is_call { &contact } else { "" }, b""), &from.to_string());
            }
        });
        Self { calls, stop, thread: Some(thread) }
    }

    /// INVITEs that it has answered.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            // A second panic while the test fails already would hide the first.
            assert!(ended.is_ok() || std::thread::panicking(), "the box's thread panicked");
        }
    }
}
