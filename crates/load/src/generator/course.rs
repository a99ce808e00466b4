//! One load from its start to its report, and what stays open between one load and the next.

use super::callee::Callee;
use super::caller::Caller;
use super::ends::{Batches, End};
use super::front::Front;
use super::metronome::{MOST_TICKS, Metronome};
use super::schedule::Schedule;
use super::settings::{Details, Pace, Settings};
use crate::process::{self, Usage};
use crate::report::{Phase, Progress, Report, Target};
use net::datagram::{Poll, Ready, Wake};
use net::{Clock, NetError, Warning};
use sip::Instant;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Both ends on open sockets. Loads run on it one after the other.
pub(crate) struct Generator {
    /// With the addresses that were opened.
    settings: Settings,
    details: Details,
    /// Differs between loads, so that no answer to an earlier one is taken for ours.
    run: u32,
    caller: Caller,
    /// The caller's way to the balancer.
    front: Front,
    callee: Option<(Callee, End)>,
    poll: Poll,
    wake: Arc<Wake>,
    batches: Batches,
    ready: Vec<Ready>,
    warnings: Vec<Warning>,
}

/// Where a load is.
struct Course {
    start: Instant,
    measured_from: Instant,
    end: Instant,
    phase: Phase,
    /// When the phase of running began.
    measured_since: Instant,
    stopped: bool,
    /// When what is under way is given up; known once no exchange is begun any more.
    give_up_at: Option<Instant>,
    next_progress: Instant,
    completed_before: u64,
    /// Time spent waiting.
    waited: Duration,
    own_usage: Usage,
    usage: Usage,
}

impl Generator {
    /// Opens the sockets.
    pub(crate) fn open(mut settings: Settings, details: &Details) -> Result<Self, NetError> {
        let poll = Poll::new().map_err(|error| NetError::Poll { error })?;
        let wake = Wake::new().map_err(|error| NetError::Poll { error })?;
        poll.add(wake.as_fd(), METRONOME).map_err(|error| NetError::Poll { error })?;
        let (front, warning) = Front::open(&mut settings, details, &poll)?;
        let mut warnings: Vec<Warning> = warning.into_iter().collect();
        let now = Clock::now();
        let run = now.as_micros() as u32 ^ std::process::id().rotate_left(16);
        let callee = if details.answer {
            let (end, warning) = End::open(settings.callee, &poll, CALLEE)?;
            settings.callee = end.address;
            warnings.extend(warning);
            Some((Callee::new(run, settings.callee), end))
        } else {
            None
        };
        let mut caller = Caller::new(run, &settings, details, now);
        caller.close();
        Ok(Self {
            settings,
            details: details.clone(),
            run,
            caller,
            front,
            callee,
            poll,
            wake: Arc::new(wake),
            batches: Batches::new(),
            ready: Vec::new(),
            warnings,
        })
    }

    /// Opens the connections if there are any, then asks the balancer until it says that it is up, `stop` is true, or the patience for it
    /// is over. Where all connections are to be opened at the same moment, that moment is the beginning of the load.
    pub(crate) fn await_ready(
        &mut self,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), NetError> {
        if self.details.streams.as_ref().is_some_and(|streams| streams.at_once) {
            return Ok(());
        }
        self.open_connections(stop, progress)?;
        let start = Clock::now();
        let until = start + self.details.ready_within;
        let (mut next_ping, mut next_progress) = (start, start + PROGRESS_INTERVAL);
        let mut attempt = 0;
        loop {
            let now = Clock::now();
            if now >= until || stop.load(Ordering::Relaxed) || self.caller.is_balancer_up() {
                return Ok(());
            }
            if now >= next_ping {
                self.caller.ping(attempt, self.front.outbox());
                attempt += 1;
                next_ping = now + PING_INTERVAL;
            }
            if now >= next_progress {
                progress(self.told(Phase::Waiting, now.saturating_since(start), 0));
                next_progress += PROGRESS_INTERVAL;
            }
            self.handle_timeouts(now);
            self.turn(until.min(next_ping).min(next_progress))?;
        }
    }

    /// Returns when each connection is up or has failed, or `stop` is true.
    fn open_connections(&mut self, stop: &AtomicBool, progress: &mut dyn FnMut(Progress)) -> Result<(), NetError> {
        let start = Clock::now();
        let mut next_progress = start + PROGRESS_INTERVAL;
        self.front.open_all();
        while !self.front.is_settled() && !stop.load(Ordering::Relaxed) {
            let now = Clock::now();
            if now >= next_progress {
                progress(self.told(Phase::Connecting, now.saturating_since(start), 0));
                next_progress += PROGRESS_INTERVAL;
            }
            self.handle_timeouts(now);
            self.turn(next_progress.min(now + STOP_INTERVAL))?;
        }
        Ok(())
    }

    /// Runs one load until its time is over or `stop` is true. Calls that are held end at once then.
    pub(crate) fn run(
        &mut self,
        pace: Pace,
        duration: Duration,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, NetError> {
        let mut course = self.begin(pace, duration);
        // It wakes us as long as it lives.
        let _metronome = match pace {
            Pace::Rate { per_second } => {
                let schedule = Schedule::new(course.start, per_second.min(MOST_TICKS));
                Some(Metronome::start(schedule, Arc::clone(&self.wake))?)
            }
            Pace::Closed { .. } => None,
        };
        loop {
            let now = Clock::now();
            self.advance(&mut course, now, stop.load(Ordering::Relaxed));
            self.handle_timeouts(now);
            if now >= course.next_progress {
                progress(self.told(course.phase, now.saturating_since(course.start), course.completed_before));
                course.completed_before = self.caller.counts.completed;
                course.next_progress += PROGRESS_INTERVAL;
            }
            if course.give_up_at.is_some_and(|at| now >= at || self.caller.under_way() == 0) {
                return self.finish(&course);
            }
            course.waited += self.turn(course.next_stop(now))?;
        }
    }

    /// Answers what still comes of the last load, and begins nothing.
    pub(crate) fn rest(&mut self, time: Duration) -> Result<(), NetError> {
        self.caller.close();
        let until = Clock::now() + time;
        loop {
            let now = Clock::now();
            if now >= until {
                return Ok(());
            }
            self.handle_timeouts(now);
            self.turn(until)?;
        }
    }

    fn begin(&mut self, pace: Pace, duration: Duration) -> Course {
        self.run = self.run.wrapping_add(1);
        self.settings.pace = pace;
        let start = Clock::now();
        self.caller = Caller::new(self.run, &self.settings, &self.details, start);
        if let Some((callee, _)) = &mut self.callee {
            callee.restart(self.run);
        }
        let measured_from = start + self.details.warm_up;
        Course {
            start,
            measured_from,
            end: measured_from + duration,
            phase: Phase::WarmUp,
            measured_since: start,
            stopped: false,
            give_up_at: None,
            next_progress: start + PROGRESS_INTERVAL,
            completed_before: 0,
            waited: Duration::ZERO,
            own_usage: process::usage(&[std::process::id()]),
            usage: process::usage(&self.details.processes),
        }
    }

    /// Moves on to the next phase when its time has come. `stop`: somebody wants the load to end.
    fn advance(&mut self, course: &mut Course, now: Instant, stop: bool) {
        if course.phase == Phase::WarmUp && now >= course.measured_from {
            self.measure(course, now);
        }
        if course.phase != Phase::Finishing && (stop || now >= course.end || self.caller.is_closed()) {
            if !stop {
                self.caller.close_at(now, course.end, self.front.outbox());
            }
            self.caller.close();
            course.phase = Phase::Finishing;
            course.give_up_at = Some(now + self.details.hold + self.details.grace);
        }
        if stop && !course.stopped {
            course.stopped = true;
            self.caller.hang_up_all(now, self.front.outbox());
            course.give_up_at = Some(now + self.details.grace);
        }
    }

    /// What happened up to now was the warm-up: messages are counted anew. Exchanges know by themselves whether they count.
    fn measure(&mut self, course: &mut Course, now: Instant) {
        course.phase = Phase::Running;
        course.measured_since = now;
        course.waited = Duration::ZERO;
        course.own_usage = process::usage(&[std::process::id()]);
        course.usage = process::usage(&self.details.processes);
        self.caller.messages = Default::default();
        self.front.count_anew();
        if let Some((callee, end)) = &mut self.callee {
            callee.messages = Default::default();
            end.count_anew();
        }
    }

    fn handle_timeouts(&mut self, now: Instant) {
        self.caller.handle_timeout(now, self.front.outbox());
        self.front.handle_timeout(now, &self.poll, &mut self.caller, &mut self.batches);
        if let Some((callee, end)) = &mut self.callee {
            callee.handle_timeout(now, &mut end.outbox);
            end.flush(&mut self.batches);
        }
    }

    /// Waits until something comes or is due, at most until `until`, and handles what came. Returns the time spent waiting.
    fn turn(&mut self, until: Instant) -> Result<Duration, NetError> {
        let callee = self.callee.as_ref().and_then(|(callee, _)| callee.next_deadline());
        let deadlines = [self.caller.next_deadline(), self.front.next_deadline(), callee];
        let until = deadlines.into_iter().flatten().fold(until, Instant::min);
        let mut ready = std::mem::take(&mut self.ready);
        let before = Clock::now();
        let timeout = if self.details.busy_poll { Duration::ZERO } else { until.saturating_since(before) };
        self.poll.wait(Some(timeout), &mut ready).map_err(|error| NetError::Poll { error })?;
        let waited = Clock::now().saturating_since(before);
        for source in &ready {
            self.serve(*source);
        }
        self.ready = ready;
        Ok(waited)
    }

    fn serve(&mut self, source: Ready) {
        match source.token {
            METRONOME => self.wake.clear(),
            CALLEE => {
                if let Some((callee, end)) = &mut self.callee {
                    end.serve(&mut self.batches, source.error, |now, datagram, out| {
                        callee.datagram(now, datagram.bytes, datagram.remote, out);
                    });
                }
            }
            _ => self.front.serve(source, &self.poll, &mut self.caller, &mut self.batches),
        }
    }

    fn told(&self, phase: Phase, elapsed: Duration, completed_before: u64) -> Progress {
        let counts = &self.caller.counts;
        let answered_again = self.callee.as_ref().map_or(0, |(callee, _)| callee.messages.sent_again);
        Progress {
            phase,
            elapsed,
            under_way: self.caller.under_way(),
            started: counts.started,
            completed: counts.completed,
            completed_lately: counts.completed.saturating_sub(completed_before),
            failed: counts.failed.values().sum(),
            sent_again: self.caller.messages.sent_again + answered_again,
            p99: counts.latency.quantile(0.99),
            connections: self.front.open_connections(),
            connections_wanted: self.details.streams.as_ref().map_or(0, |streams| streams.connections),
        }
    }

    /// Gives up what is under way and reports.
    fn finish(&mut self, course: &Course) -> Result<Report, NetError> {
        let now = Clock::now();
        let abandoned = self.caller.under_way() > 0;
        self.caller.give_up(now, self.front.outbox());
        self.front.handle_timeout(now, &self.poll, &mut self.caller, &mut self.batches);
        let report = self.report(course, now);
        self.front.forget_losses();
        if abandoned {
            // For the answers to what was taken back.
            self.rest(AFTERMATH)?;
        }
        Ok(report)
    }

    fn report(&self, course: &Course, now: Instant) -> Report {
        let counts = &self.caller.counts;
        let measured = now.saturating_since(course.measured_since);
        let total = measured.as_secs_f64();
        let callee = self.callee.as_ref();
        let messages = self.caller.messages.and(callee.map(|(callee, _)| callee.messages).unwrap_or_default());
        let of_callee = |count: fn(&End) -> u64| callee.map_or(0, |(_, end)| count(end));
        Report {
            kind: self.settings.kind,
            pace: self.settings.pace,
            elapsed: counts.last_end.unwrap_or(now).saturating_since(course.measured_from),
            started: counts.started,
            completed: counts.completed,
            failed: counts.failed.clone(),
            not_started: counts.not_started,
            warm_up_failures: counts.warm_up_failures,
            sent: self.front.sent() + of_callee(|end| end.sent),
            received: messages.received,
            sent_again: messages.sent_again,
            received_again: messages.received_again,
            unexpected: messages.unexpected,
            strays: messages.strays,
            refused: self.front.refused() + of_callee(|end| end.refused),
            kernel_drops: self.front.kernel_drops() + of_callee(End::kernel_drops),
            latency: counts.latency.clone(),
            lateness: counts.lateness.clone(),
            measured,
            busy: if total > 0.0 { (1.0 - course.waited.as_secs_f64() / total).clamp(0.0, 1.0) } else { 0.0 },
            cpu: process::usage(&[std::process::id()]).since(&course.own_usage).total,
            connections: self.front.connections().cloned(),
            target: self.target(&course.usage),
            warnings: self.warnings.clone(),
        }
    }

    fn target(&self, before: &Usage) -> Option<Target> {
        let processes = &self.details.processes;
        if processes.is_empty() {
            return None;
        }
        let spent = process::usage(processes).since(before);
        Some(Target {
            cpu: spent.total,
            busiest_thread: spent.busiest,
            rss_bytes: processes.iter().map(|process| process::rss(*process)).sum(),
        })
    }
}

impl Course {
    /// When to look at the clock again, whatever else happens.
    fn next_stop(&self, now: Instant) -> Instant {
        let next = match self.phase {
            Phase::Connecting | Phase::Waiting | Phase::WarmUp => self.measured_from.min(self.end),
            Phase::Running => self.end,
            Phase::Finishing => self.give_up_at.unwrap_or(now),
        };
        next.min(self.next_progress).min(now + STOP_INTERVAL)
    }
}

/// All other tokens are the caller's.
const CALLEE: u64 = 1;
const METRONOME: u64 = 2;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a stop may take.
const STOP_INTERVAL: Duration = Duration::from_millis(200);
/// Between two questions whether the balancer is up.
const PING_INTERVAL: Duration = Duration::from_millis(250);
/// How long the answers to what was given up are waited for.
const AFTERMATH: Duration = Duration::from_millis(300);
