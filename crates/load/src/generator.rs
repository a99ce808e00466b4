//! The load generator: both ends of many exchanges in one thread.
//!
//! The caller sends to the balancer and nowhere else, as a phone with an outbound proxy does; the callee answers to where a request came
//! from. Both follow what a proxy on the way adds (Via, Record-Route), so that the same load runs through a raw relay, tandem or any
//! other proxy. A call is INVITE, 180, 200, ACK, BYE, 200; a registration REGISTER, 401, REGISTER, 200; a ping OPTIONS, 200. What is not
//! answered is sent again as RFC 3261 §17 says.

mod callee;
mod caller;
mod outbox;
mod retry;
mod scan;
mod template;
mod texts;

use crate::report::{Progress, Report};
use callee::Callee;
use caller::Caller;
use net::datagram::{Datagram, ErrorQueue, Outgoing, Poll, RECEIVE_BATCH, Ready, Receiver, Sender, kernel_drops};
use net::{Clock, NetError, socket};
use outbox::Outbox;
use sip::Instant;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    pub kind: Kind,
    pub pace: Pace,
    /// How long exchanges are begun. Those under way then may end within 5 s more.
    pub duration: Duration,
    /// Where all requests go.
    pub balancer: SocketAddr,
    /// The caller's own address.
    pub caller: SocketAddr,
    /// The callee's own address: the server that the balancer sends to.
    pub callee: SocketAddr,
}

/// What the exchanges are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Call,
    Register,
    Options,
}

/// When an exchange is begun.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// When another one ends: so many are always under way.
    Closed { concurrency: usize },
    /// So many a second, however many are under way.
    Rate { per_second: f64 },
}

/// What most loads leave as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Details {
    /// The caller's users, one after the other: `u00000000` and so on; they call `c00000000` and so on.
    pub users: u32,
    /// How long a call goes on before its BYE.
    pub hold: Duration,
    /// The users' domain; `None`: the balancer's address.
    pub domain: Option<String>,
    /// All users' password; `None`: credentials are made up, which satisfies the generator's own callee and nobody else.
    pub password: Option<String>,
    /// Whether to be the callee too; false where a real server stands behind the balancer.
    pub answer: bool,
}

/// Runs a load in this thread until its time is over or `stop` is true. `progress` is told once a second. Fails when an address cannot be
/// listened at.
pub fn run(settings: Settings, stop: &AtomicBool, progress: impl FnMut(Progress)) -> Result<Report, NetError> {
    run_with(settings, &Details::default(), stop, progress)
}

/// As [`run`], with `details`.
pub fn run_with(
    settings: Settings,
    details: &Details,
    stop: &AtomicBool,
    mut progress: impl FnMut(Progress),
) -> Result<Report, NetError> {
    let mut load = Load::open(settings, details)?;
    let mut ready = Vec::new();
    let mut next_progress = load.start + PROGRESS_INTERVAL;
    loop {
        let now = Clock::now();
        if stop.load(Ordering::Relaxed) || now >= load.end {
            load.caller.close();
            load.closed_at.get_or_insert(now);
        }
        load.handle_timeouts(now);
        if now >= next_progress {
            progress(load.progress(now));
            next_progress += PROGRESS_INTERVAL;
        }
        if load.is_over(now) {
            return Ok(load.report(Clock::now()));
        }
        load.wait(next_progress, &mut ready)?;
        for source in &ready {
            load.serve(*source);
        }
    }
}

impl Default for Details {
    fn default() -> Self {
        Self { users: 1_000, hold: Duration::ZERO, domain: None, password: None, answer: true }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A running load.
struct Load {
    settings: Settings,
    start: Instant,
    end: Instant,
    closed_at: Option<Instant>,
    caller: Caller,
    caller_end: End,
    callee: Option<(Callee, End)>,
    poll: Poll,
    batches: Batches,
    /// Time spent waiting.
    waited: Duration,
}

/// One socket and what is to be sent from it.
struct End {
    socket: UdpSocket,
    outbox: Outbox,
}

/// Room for batches, shared by both ends.
struct Batches {
    receiver: Receiver,
    sender: Sender,
    errors: ErrorQueue,
}

impl Load {
    fn open(settings: Settings, details: &Details) -> Result<Self, NetError> {
        let poll = Poll::new().map_err(|error| NetError::Poll { error })?;
        let caller_end = End::open(settings.caller, &poll, CALLER)?;
        let start = Clock::now();
        // Differs between runs, so that no answer to an earlier one is taken for ours.
        let run = start.as_micros() as u32 ^ std::process::id().rotate_left(16);
        let callee = if details.answer {
            let end = End::open(settings.callee, &poll, CALLEE)?;
            Some((Callee::new(run, settings.callee), end))
        } else {
            None
        };
        Ok(Self {
            settings,
            start,
            end: start + settings.duration,
            closed_at: None,
            caller: Caller::new(run, &settings, details, start),
            caller_end,
            callee,
            poll,
            batches: Batches { receiver: Receiver::new(), sender: Sender::new(), errors: ErrorQueue::new() },
            waited: Duration::ZERO,
        })
    }

    fn handle_timeouts(&mut self, now: Instant) {
        self.caller.handle_timeout(now, &mut self.caller_end.outbox);
        self.caller_end.flush(&mut self.batches.sender);
        if let Some((callee, end)) = &mut self.callee {
            callee.handle_timeout(now, &mut end.outbox);
            end.flush(&mut self.batches.sender);
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.closed_at.is_some_and(|closed| self.caller.under_way() == 0 || now >= closed + FINISH_TIME)
    }

    /// Sleeps until something is ready or due.
    fn wait(&mut self, next_progress: Instant, ready: &mut Vec<Ready>) -> Result<(), NetError> {
        let callee = self.callee.as_ref().and_then(|(callee, _)| callee.next_deadline());
        let before = Clock::now();
        let limit = before + STOP_INTERVAL;
        let until = [self.caller.next_deadline(), callee, Some(next_progress), Some(limit)]
            .into_iter()
            .flatten()
            .fold(if self.closed_at.is_none() { self.end } else { limit }, Instant::min);
        self.poll.wait(Some(until.saturating_since(before)), ready).map_err(|error| NetError::Poll { error })?;
        self.waited += Clock::now().saturating_since(before);
        Ok(())
    }

    fn serve(&mut self, source: Ready) {
        if source.token == CALLER {
            let caller = &mut self.caller;
            self.caller_end.serve(&mut self.batches, source.error, |now, datagram, out| {
                caller.datagram(now, datagram.bytes, out);
            });
        } else if let Some((callee, end)) = &mut self.callee {
            end.serve(&mut self.batches, source.error, |now, datagram, out| {
                callee.datagram(now, datagram.bytes, datagram.remote, out);
            });
        }
    }

    fn progress(&self, now: Instant) -> Progress {
        let counts = &self.caller.counts;
        let answered_again = self.callee.as_ref().map_or(0, |(callee, _)| callee.retransmissions);
        Progress {
            elapsed: now.saturating_since(self.start),
            under_way: self.caller.under_way(),
            started: counts.started,
            completed: counts.completed,
            failed: counts.failed.values().sum(),
            retransmissions: counts.retransmissions + answered_again,
        }
    }

    fn report(mut self, now: Instant) -> Report {
        self.caller.give_up();
        let total = now.saturating_since(self.start).as_secs_f64();
        let counts = self.caller.counts;
        let mut report = Report {
            kind: self.settings.kind,
            elapsed: counts.last_end.saturating_since(self.start),
            started: counts.started,
            completed: counts.completed,
            failed: counts.failed,
            not_started: counts.not_started,
            retransmissions: counts.retransmissions,
            unexpected: counts.unexpected,
            received: counts.received,
            kernel_drops: u64::from(kernel_drops(&self.caller_end.socket)),
            latency: counts.latency,
            lateness: counts.lateness,
            busy: if total > 0.0 { (1.0 - self.waited.as_secs_f64() / total).clamp(0.0, 1.0) } else { 0.0 },
        };
        if let Some((callee, end)) = &self.callee {
            report.retransmissions += callee.retransmissions;
            report.unexpected += callee.unexpected;
            report.received += callee.received;
            report.kernel_drops += u64::from(kernel_drops(&end.socket));
        }
        report
    }
}

impl End {
    fn open(address: SocketAddr, poll: &Poll, token: u64) -> Result<Self, NetError> {
        let (socket, _) = socket::open(address)?;
        poll.add(socket.as_fd(), token).map_err(|error| NetError::Poll { error })?;
        Ok(Self { socket, outbox: Outbox::default() })
    }

    /// Handles what waits at the socket, within a limit that lets the other end have its turn.
    fn serve(
        &mut self,
        batches: &mut Batches,
        error: bool,
        mut handle: impl FnMut(Instant, &Datagram<'_>, &mut Outbox),
    ) {
        if error {
            batches.forget_errors(&self.socket);
        }
        for _ in 0..BATCHES_AT_ONCE {
            let Ok(count) = batches.receiver.receive(&self.socket) else {
                batches.forget_errors(&self.socket);
                continue;
            };
            let now = Clock::now();
            for datagram in batches.receiver.datagrams() {
                handle(now, &datagram, &mut self.outbox);
            }
            self.flush(&mut batches.sender);
            if count < RECEIVE_BATCH {
                break;
            }
        }
    }

    fn flush(&mut self, sender: &mut Sender) {
        if self.outbox.is_empty() {
            return;
        }
        let outgoing = self.outbox.datagrams().map(|(remote, bytes)| Outgoing {
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote,
            bytes,
        });
        // What cannot be sent is lost, as on a wire: it will be sent again.
        sender.send(&self.socket, outgoing, |_, _| ());
        self.outbox.clear();
    }
}

impl Batches {
    /// Takes errors from the queue, or the socket would stay ready. What was lost is sent again in its time.
    fn forget_errors(&mut self, socket: &UdpSocket) {
        while self.errors.take(socket).is_some() {}
    }
}

const CALLER: u64 = 0;
const CALLEE: u64 = 1;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a stop may take.
const STOP_INTERVAL: Duration = Duration::from_millis(200);
/// What is under way when the time is over may end within this.
const FINISH_TIME: Duration = Duration::from_secs(5);
const BATCHES_AT_ONCE: usize = 4;

#[cfg(test)]
mod tests;
