//! `cargo xtask sim`: simulated worlds by the thousand, or one of them again.

use crate::step;
use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failing worlds after which no further one is started.
const ENOUGH: usize = 10;

/// Runs the seeds `first .. first + count` with an optimised build, made first if this one is not; the result is the exit code.
pub fn run(first: u64, count: u64) -> Result<u8> {
    if cfg!(debug_assertions) {
        // A hundred thousand worlds are minutes with optimisation and hours without.
        return step::optimised("worlds", &["sim", "--first", &first.to_string(), "--seeds", &count.to_string()]);
    }
    let worlds = Worlds {
        next: AtomicU64::new(first),
        end: first.saturating_add(count),
        finished: AtomicU64::new(0),
        failed: Mutex::new(Vec::new()),
    };
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| worlds.work());
        }
        worlds.report_progress(count, start);
    });
    let mut failed = worlds.failed.into_inner().expect("no thread panics while it holds the list");
    failed.sort_unstable();
    let seeds: String = failed.iter().map(|seed| format!(" {seed}")).collect();
    println!(
        "{} worlds in {:.1} s: {} failed{}{seeds}",
        worlds.finished.into_inner(),
        start.elapsed().as_secs_f64(),
        failed.len(),
        if failed.is_empty() { "" } else { ", of the seeds" }
    );
    Ok(u8::from(!failed.is_empty()))
}

/// Runs one world and prints its report or its failure.
pub fn replay(seed: u64) -> u8 {
    match sim::run_seed(seed) {
        Ok(report) => {
            println!("seed {seed}: {report:#?}");
            0
        }
        Err(failure) => {
            println!("seed {seed}: {failure}");
            1
        }
    }
}

/// The seeds still to run and what came of the others.
struct Worlds {
    next: AtomicU64,
    end: u64,
    finished: AtomicU64,
    /// Seeds of the worlds that failed.
    failed: Mutex<Vec<u64>>,
}

impl Worlds {
    fn work(&self) {
        while self.failed() < ENOUGH {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                return;
            }
            // A panic of the engine is a finding like any other, and must name its seed too.
            let outcome = catch_unwind(AssertUnwindSafe(|| sim::run_seed(seed)));
            let failure = match outcome {
                Ok(Ok(_)) => None,
                Ok(Err(failure)) => Some(failure.to_string()),
                Err(_) => Some("panicked; the message stands above".to_string()),
            };
            if let Some(failure) = failure {
                // At once: a run of hours that is interrupted shall have told what it found.
                let mut failed = self.lock();
                println!("seed {seed}: {failure}\nagain: cargo xtask sim --seed {seed}\n");
                failed.push(seed);
            }
            self.finished.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn report_progress(&self, count: u64, start: Instant) {
        let mut shown = start;
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let finished = self.finished.load(Ordering::Relaxed);
            if finished >= count || self.failed() >= ENOUGH {
                return;
            }
            if shown.elapsed() >= Duration::from_secs(10) {
                shown = Instant::now();
                let seconds = start.elapsed().as_secs();
                println!("    {finished} of {count} worlds after {seconds} s, {} failed", self.failed());
            }
        }
    }

    fn failed(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u64>> {
        self.failed.lock().expect("no thread panics while it holds the list")
    }
}
