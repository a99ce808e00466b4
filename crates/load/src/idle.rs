//! Connections over which nothing but keep-alives goes: how fast they are opened, what they cost, and how many stay.

use crate::process::{self, Usage};
use crate::stream::{Connections, Lines, Streams};
use net::datagram::{Poll, Ready};
use net::{Clock, NetError};
use serde_json::{Value, json};
use sip::Instant;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdleSettings {
    pub balancer: SocketAddr,
    /// Our own address; an unspecified one is the system's choice.
    pub own: SocketAddr,
    pub streams: Streams,
    /// How long they are kept once all are up.
    pub hold: Duration,
    /// From one keep-alive of a connection to its next; `None`: there are none.
    pub ping: Option<Duration>,
    /// Processes whose CPU time and memory are measured.
    pub processes: Vec<u32>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug)]
pub struct IdleReport {
    pub connections: Connections,
    /// Those that were up at the end.
    pub stayed: u32,
    pub held: Duration,
    pub pings: u64,
    /// Pings that had no answer when the next one was due, or at the end.
    pub unanswered: u64,
    /// What the measured processes used, if any were named.
    pub target: Option<IdleTarget>,
}

/// What the measured processes used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdleTarget {
    /// Resident octets before the first connection.
    pub rss_before: u64,
    /// When all were up.
    pub rss_open: u64,
    pub rss_end: u64,
    /// User and system time while they were opened.
    pub cpu_opening: Duration,
    /// While they were kept.
    pub cpu_held: Duration,
}

/// How it is going.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdleProgress {
    pub elapsed: Duration,
    pub open: u32,
    pub wanted: u32,
    pub losses: u64,
    pub pings: u64,
}

/// Opens the connections and keeps them, until the time is over or `stop` is true. `progress` is told once a second. Fails when TLS has no
/// authorities to go by, or the system lets nobody wait for sockets.
pub fn run(
    settings: &IdleSettings,
    stop: &AtomicBool,
    mut progress: impl FnMut(IdleProgress),
) -> Result<IdleReport, NetError> {
    let mut vigil = Vigil::begin(settings)?;
    let (usage, rss_before) = (process::usage(&settings.processes), vigil.rss());
    vigil.open(stop, &mut progress)?;
    let (opened, rss_open) = (process::usage(&settings.processes), vigil.rss());
    let held = vigil.hold(stop, &mut progress)?;
    let after = process::usage(&settings.processes);
    let target = (!settings.processes.is_empty()).then(|| IdleTarget {
        rss_before,
        rss_open,
        rss_end: vigil.rss(),
        cpu_opening: spent(&usage, &opened),
        cpu_held: spent(&opened, &after),
    });
    vigil.hear_the_last(stop)?;
    Ok(IdleReport {
        connections: vigil.lines.counts.clone(),
        stayed: vigil.lines.open(),
        held,
        pings: vigil.pings,
        unanswered: vigil.unanswered + vigil.lines.silent(),
        target,
    })
}

/// The connections, and whoever watches them.
struct Vigil<'a> {
    settings: &'a IdleSettings,
    lines: Lines,
    poll: Poll,
    ready: Vec<Ready>,
    start: Instant,
    next_progress: Instant,
    pings: u64,
    unanswered: u64,
}

impl<'a> Vigil<'a> {
    fn begin(settings: &'a IdleSettings) -> Result<Self, NetError> {
        let start = Clock::now();
        Ok(Self {
            settings,
            lines: Lines::new(&settings.streams, settings.own, settings.balancer, 0)?,
            poll: Poll::new().map_err(|error| NetError::Poll { error })?,
            ready: Vec::new(),
            start,
            next_progress: start + PROGRESS_INTERVAL,
            pings: 0,
            unanswered: 0,
        })
    }

    fn open(&mut self, stop: &AtomicBool, progress: &mut dyn FnMut(IdleProgress)) -> Result<(), NetError> {
        self.lines.open_all();
        while !self.lines.is_settled() && !stop.load(Ordering::Relaxed) {
            let now = Clock::now();
            self.tell(now, progress);
            self.turn(now, now + STOP_INTERVAL)?;
        }
        Ok(())
    }

    /// Keeps the connections, each with its keep-alives; those of all of them are spread evenly. Returns how long that was.
    fn hold(&mut self, stop: &AtomicBool, progress: &mut dyn FnMut(IdleProgress)) -> Result<Duration, NetError> {
        let begun = Clock::now();
        let end = begun + self.settings.hold;
        let between = self.settings.ping.map(|ping| (ping / self.lines.count().max(1)).max(LEAST_BETWEEN));
        let mut next_ping = between.map(|between| begun + between);
        let mut number = 0;
        loop {
            let now = Clock::now();
            if now >= end || stop.load(Ordering::Relaxed) {
                return Ok(now.saturating_since(begun));
            }
            while let (Some(due), Some(between)) = (next_ping, between)
                && due <= now
            {
                self.ping(now, number);
                number = (number + 1) % self.lines.count().max(1);
                next_ping = Some(due + between);
            }
            self.tell(now, progress);
            self.turn(now, next_ping.unwrap_or(end).min(end).min(now + STOP_INTERVAL))?;
        }
    }

    /// Answers to the last keep-alives may still be on their way.
    fn hear_the_last(&mut self, stop: &AtomicBool) -> Result<(), NetError> {
        let end = Clock::now() + AFTERMATH;
        loop {
            let now = Clock::now();
            if now >= end || self.lines.silent() == 0 || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.turn(now, end.min(now + SHORT))?;
        }
    }

    fn ping(&mut self, now: Instant, number: u32) {
        if let Some(was_answered) = self.lines.ping(now, &self.poll, number) {
            self.pings += 1;
            self.unanswered += u64::from(!was_answered);
        }
    }

    /// Waits until something comes, at most until `until`, and handles it.
    fn turn(&mut self, now: Instant, until: Instant) -> Result<(), NetError> {
        self.lines.handle_timeout(now, &self.poll);
        let until = self.lines.next_deadline().map_or(until, |deadline| deadline.min(until));
        let timeout = until.saturating_since(Clock::now());
        self.poll.wait(Some(timeout), &mut self.ready).map_err(|error| NetError::Poll { error })?;
        let now = Clock::now();
        for source in &self.ready {
            self.lines.serve(now, &self.poll, *source);
        }
        // What comes without having been asked for is of no interest here; a lost connection was counted, and stays lost.
        drop(self.lines.take_events());
        Ok(())
    }

    fn tell(&mut self, now: Instant, progress: &mut dyn FnMut(IdleProgress)) {
        if now < self.next_progress {
            return;
        }
        self.next_progress += PROGRESS_INTERVAL;
        progress(IdleProgress {
            elapsed: now.saturating_since(self.start),
            open: self.lines.open(),
            wanted: self.lines.count(),
            losses: self.lines.counts.losses(),
            pings: self.pings,
        });
    }

    fn rss(&self) -> u64 {
        self.settings.processes.iter().map(|process| process::rss(*process)).sum()
    }
}

impl IdleReport {
    /// Whether all were opened, all stayed, and all answered.
    pub fn is_success(&self) -> bool {
        self.stayed == self.connections.wanted && self.connections.losses() == 0 && self.unanswered == 0
    }

    /// All of it as one object: counts as numbers, times in microseconds or seconds, names with their unit last.
    pub fn to_json(&self) -> Value {
        let seconds = self.held.as_secs_f64();
        json!({
            "kind": "idle",
            "success": self.is_success(),
            "connections": self.connections.to_json(),
            "stayed": self.stayed,
            "held_seconds": seconds,
            "pings": self.pings,
            "unanswered": self.unanswered,
            "target": self.target.map(|used| json!({
                "rss_before_bytes": used.rss_before,
                "rss_open_bytes": used.rss_open,
                "rss_end_bytes": used.rss_end,
                "cpu_opening_seconds": used.cpu_opening.as_secs_f64(),
                "cpu_held_seconds": used.cpu_held.as_secs_f64(),
                "cores_held": if seconds > 0.0 { used.cpu_held.as_secs_f64() / seconds } else { 0.0 },
            })),
        })
    }
}

impl fmt::Display for IdleReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.connections)?;
        write!(
            formatter,
            "kept for {:.1} s: {} of {} stayed; {} pings, {} without an answer",
            self.held.as_secs_f64(),
            self.stayed,
            self.connections.wanted,
            self.pings,
            self.unanswered
        )?;
        if let Some(used) = self.target {
            let grown = used.rss_end.saturating_sub(used.rss_before) as f64;
            write!(
                formatter,
                "\ntarget: {:.2} s of CPU time to open them and {:.3} s to keep them; {:.1} MB resident, {:.1} KB a connection",
                used.cpu_opening.as_secs_f64(),
                used.cpu_held.as_secs_f64(),
                used.rss_end as f64 / 1e6,
                grown / 1_024.0 / f64::from(self.stayed.max(1))
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for IdleProgress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:>4} s  {} of {} connections are up, {} lost, {} pings",
            self.elapsed.as_secs(),
            self.open,
            self.wanted,
            self.losses,
            self.pings
        )
    }
}

fn spent(before: &Usage, after: &Usage) -> Duration {
    after.since(before).total
}

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a stop may take.
const STOP_INTERVAL: Duration = Duration::from_millis(200);
/// How long the answers to the last pings are waited for.
const AFTERMATH: Duration = Duration::from_secs(6);
const SHORT: Duration = Duration::from_millis(20);
/// The clock counts microseconds.
const LEAST_BETWEEN: Duration = Duration::from_micros(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Transport, Trust};

    fn settings(connections: u32) -> IdleSettings {
        IdleSettings {
            balancer: SocketAddr::from(([127, 0, 0, 1], 9)),
            own: SocketAddr::from(([0, 0, 0, 0], 0)),
            streams: Streams {
                transport: Transport::Tcp,
                connections,
                trust: Trust::Anybody,
                server_name: None,
                at_once: false,
            },
            hold: Duration::ZERO,
            ping: None,
            processes: Vec::new(),
        }
    }

    #[test]
    fn success_is_everybody_up_and_answering() {
        let lines =
            Lines::new(&settings(2).streams, settings(2).own, settings(2).balancer, 0).expect("no file is read");
        let good = IdleReport {
            connections: lines.counts.clone(),
            stayed: 2,
            held: Duration::from_secs(10),
            pings: 5,
            unanswered: 0,
            target: Some(IdleTarget {
                rss_before: 1_000_000,
                rss_open: 1_500_000,
                rss_end: 1_000_000 + 2 * 30 * 1_024,
                cpu_opening: Duration::from_secs(1),
                cpu_held: Duration::from_millis(50),
            }),
        };
        assert!(good.is_success());
        assert!(!IdleReport { stayed: 1, ..good.clone() }.is_success());
        assert!(!IdleReport { unanswered: 1, ..good.clone() }.is_success());
        let text = good.to_string();
        assert!(text.contains("kept for 10.0 s: 2 of 2 stayed; 5 pings, 0 without an answer\n"), "{text}");
        assert!(text.ends_with("1.1 MB resident, 30.0 KB a connection"), "{text}");
        let json = good.to_json();
        assert_eq!((&json["success"], &json["target"]["cores_held"]), (&json!(true), &json!(0.005)));
        assert_eq!(IdleReport { target: None, ..good }.to_json()["target"], Value::Null);
    }
}
