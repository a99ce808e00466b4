//! A cluster of boxes that each do one request after the other, behind the engine.
//!
//! # The model
//!
//! Calls arrive at random times (Poisson), stay up for an exponentially distributed time and are ended by their
//! callers. Every box serves its INVITEs and BYEs in the order they came, one at a time; an INVITE costs 1.75 times a
//! BYE on average, as the paper measured, and calls cost unequally: each has a factor of its own, log-normal with mean
//! 1, that no algorithm knows. An ACK costs nothing. The network takes no time and loses nothing.
//!
//! # What is measured
//!
//! The response time: from the INVITE entering the balancer to its 200 leaving it towards the caller.
//!
//! # What must not disturb it
//!
//! A box says 100 at once and for nothing, which stops Timer A of the engine, and no fail-over is allowed, so that a
//! box that is merely slow loses no call. A BYE that waits longer than T1 is repeated by the engine's Timer E: boxes
//! recognise repeats and drop them at no cost, callers repeat nothing. Boxes are not pinged. Queues stay far below the
//! 32 s of Timer F at all loads below the capacity of the cluster; a run beyond that shows as [`Measured::failures`].
//!
//! The run begins with as many calls up as the load has on average (the rest of an exponential time is distributed like
//! the whole), placed by the same algorithm at no cost, so that BYEs come at their lasting rate from the start. Then
//! come calls that let the queues settle, then those that are measured. Call number n has the same gap, holding time
//! and cost under every algorithm.

use crate::balancer::Balancer;
use crate::network::Datagram;
use crate::random::Random;
use crate::script::{Answer, Script, Text, uri_in};
use crate::settings::{VIP, algorithm, box_address, one_farm, phone_address};
use engine::{Persistence, Settings};
use sip::Instant;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

/// The algorithms compared, by their names in the configuration: a hash of the Call-ID, turns, CJSQ and TLWL in the
/// words of the paper.
pub const ALGORITHMS: [&str; 4] = ["hash-call-id", "round-robin", "least-calls", "least-work"];

/// What is served, and how much of it.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub boxes: usize,
    /// Mean time that an INVITE takes a box.
    pub invite: Duration,
    /// Mean time that a BYE takes a box.
    pub bye: Duration,
    /// Standard deviation of the logarithm of a call's cost factor; 0: all calls cost the same.
    pub inequality: f64,
    /// Mean time that a call stays up.
    pub holding: Duration,
    /// Calls between the start and the first that is measured.
    pub settling: usize,
    /// Calls measured.
    pub measured: usize,
    pub seed: u64,
}

/// Response times of one algorithm at one load.
#[derive(Clone, Debug)]
pub struct Measured {
    pub algorithm: &'static str,
    /// Part of the cluster's capacity, 0 to 1.
    pub load: f64,
    /// Calls per second.
    pub offered: f64,
    pub mean: Duration,
    pub p50: Duration,
    pub p95: Duration,
    pub p99: Duration,
    /// Calls that got another final answer than 200, or none, and BYEs that were refused.
    pub failures: usize,
    /// Requests that the engine repeated and the boxes dropped.
    pub repeats: usize,
}

/// The highest load that an algorithm carries with its response times below a bound.
#[derive(Clone, Copy, Debug)]
pub struct Throughput {
    /// Part of the cluster's capacity, 0 to 1.
    pub load: f64,
    /// Calls per second.
    pub offered: f64,
    /// Even the highest load that was measured stays below the bound.
    pub is_more: bool,
}

impl Default for Cluster {
    /// Eight boxes that serve 36 calls a second each, and calls of a minute.
    fn default() -> Self {
        Self {
            boxes: 8,
            invite: Duration::from_micros(17_500),
            bye: Duration::from_micros(10_000),
            inequality: 0.8,
            holding: Duration::from_secs(60),
            settling: 5_000,
            measured: 20_000,
            seed: 1,
        }
    }
}

impl Cluster {
    /// Calls per second that would keep every box busy all the time.
    pub fn capacity(&self) -> f64 {
        self.boxes as f64 / (self.invite + self.bye).as_secs_f64()
    }

    /// Offers `load` × capacity to the cluster, balanced by the algorithm of that name.
    pub fn run(&self, algorithm: &'static str, load: f64) -> Measured {
        Run::new(self, algorithm, load).finish(algorithm, load)
    }
}

/// The load at which the 95th percentile reaches `bound`, between the last point below it and the first above it, on a
/// logarithmic scale of time. `points` are of one algorithm with rising load. `None`: the first point is above already.
pub fn throughput(points: &[Measured], bound: Duration) -> Option<Throughput> {
    let above = points.iter().position(|point| point.p95 > bound);
    let Some(above) = above else {
        let last = points.last()?;
        return Some(Throughput { load: last.load, offered: last.offered, is_more: true });
    };
    let (high, low) = (points.get(above)?, points.get(above.checked_sub(1)?)?);
    let logarithm = |time: Duration| time.as_secs_f64().max(1e-9).ln();
    let part = (logarithm(bound) - logarithm(low.p95)) / (logarithm(high.p95) - logarithm(low.p95));
    let between = |from: f64, to: f64| from + (to - from) * part;
    Some(Throughput { load: between(low.load, high.load), offered: between(low.offered, high.offered), is_more: false })
}

/// One run under way.
struct Run<'a> {
    cluster: &'a Cluster,
    balancer: Balancer,
    now: Instant,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    /// Calls per second.
    rate: f64,
    /// Calls that are up from the start.
    prelude: usize,
    calls: Vec<Call>,
    /// When each box has done what it was asked so far.
    busy_until: Vec<Instant>,
    /// On the way to the balancer: from whom, and what.
    inbox: VecDeque<(SocketAddr, Vec<u8>)>,
    /// Response times in microseconds.
    times: Vec<u64>,
    /// Calls whose INVITE has its final answer.
    settled: usize,
    failures: usize,
    repeats: usize,
}

/// Ordered by time, then by the order in which things were scheduled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Scheduled {
    at: Instant,
    sequence: u64,
    what: Happening,
}

/// Each with the index of its call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Arrival(usize),
    Served(usize),
    HangUp(usize),
}

struct Call {
    phase: Phase,
    sent_at: Instant,
    factor: f64,
    hold: Duration,
    /// The request that its box works on, as the box got it.
    asked: Option<Datagram>,
    /// Ready to be sent once the call is up.
    bye: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The INVITE has not reached a box.
    Calling,
    /// The INVITE waits in the queue of its box.
    Waiting,
    Up,
    /// The BYE has not reached the box.
    Leaving,
    /// The BYE waits in the queue of its box.
    Clearing,
    Over,
}

/// What chance decides about one call.
struct Chance {
    /// Since the call before, in mean gaps.
    gap: f64,
    hold: Duration,
    factor: f64,
}

impl<'a> Run<'a> {
    fn new(cluster: &'a Cluster, algorithm: &str, load: f64) -> Self {
        let now = Instant::from_micros(START_MICROS);
        let rate = load * cluster.capacity();
        let mut run = Self {
            cluster,
            balancer: Balancer::new(farm(cluster.boxes, algorithm), SHARDS, cluster.seed, now),
            now,
            queue: BinaryHeap::new(),
            sequence: 0,
            rate,
            prelude: (rate * cluster.holding.as_secs_f64()).round() as usize,
            calls: Vec::new(),
            busy_until: vec![now; cluster.boxes],
            inbox: VecDeque::new(),
            times: Vec::with_capacity(cluster.measured),
            settled: 0,
            failures: 0,
            repeats: 0,
        };
        run.schedule(now, Happening::Arrival(0));
        run
    }

    fn finish(mut self, algorithm: &'static str, load: f64) -> Measured {
        let total = self.total();
        while self.settled < total && self.step() {}
        self.times.sort_unstable();
        let count = self.times.len();
        let at = |percent: usize| {
            let place = count.saturating_sub(1) * percent / 100;
            Duration::from_micros(self.times.get(place).copied().unwrap_or(0))
        };
        let sum: u64 = self.times.iter().sum();
        Measured {
            algorithm,
            load,
            offered: self.rate,
            mean: Duration::from_micros(sum / (count as u64).max(1)),
            p50: at(50),
            p95: at(95),
            p99: at(99),
            failures: self.failures + (total - self.settled),
            repeats: self.repeats,
        }
    }

    /// All calls of the run.
    fn total(&self) -> usize {
        self.first_measured() + self.cluster.measured
    }

    fn first_measured(&self) -> usize {
        self.prelude + self.cluster.settling
    }

    /// Does what is due next, be it the engine's or ours. False: nothing of ours is left.
    fn step(&mut self) -> bool {
        let Some(at) = self.queue.peek().map(|Reverse(next)| next.at) else {
            return false;
        };
        if let Some(due) = self.balancer.poll_timeout().filter(|due| *due <= at) {
            self.now = due.max(self.now);
            self.balancer.handle_timeout(self.now);
        } else if let Some(Reverse(next)) = self.queue.pop() {
            self.now = next.at.max(self.now);
            match next.what {
                Happening::Arrival(index) => self.arrive(index),
                Happening::Served(index) => self.served(index),
                Happening::HangUp(index) => self.hang_up(index),
            }
        }
        self.settle();
        true
    }

    /// A caller calls, and the next one is scheduled.
    fn arrive(&mut self, index: usize) {
        let chance = self.chance(index);
        self.calls.push(Call {
            phase: Phase::Calling,
            sent_at: self.now,
            factor: chance.factor,
            hold: chance.hold,
            asked: None,
            bye: Vec::new(),
        });
        let next = index + 1;
        if next < self.total() {
            let gap = if next < self.prelude { 0.0 } else { self.chance(next).gap / self.rate };
            self.schedule(self.now + Duration::from_secs_f64(gap), Happening::Arrival(next));
        }
        let invite = request("INVITE", index, 1).line("Contact: <sip:bonnie@10.1.0.1:5060>");
        self.inbox.push_back((caller(), invite.build()));
    }

    /// The box is done with what a call asked of it.
    fn served(&mut self, index: usize) {
        let call = &mut self.calls[index];
        let Some(asked) = call.asked.take() else {
            return;
        };
        let member = asked.to;
        if call.phase == Phase::Waiting {
            self.inbox.push_back((member, Answer::new(180).to(&asked.bytes)));
        }
        let contact = format!("Contact: <sip:clyde@{member}>");
        self.inbox.push_back((member, Answer::new(200).line(&contact).to(&asked.bytes)));
    }

    fn hang_up(&mut self, index: usize) {
        let call = &mut self.calls[index];
        if call.phase == Phase::Up {
            call.phase = Phase::Leaving;
            self.inbox.push_back((caller(), std::mem::take(&mut call.bye)));
        }
    }

    /// Passes on what is on its way until nothing is.
    fn settle(&mut self) {
        loop {
            for datagram in self.balancer.take_outgoing() {
                match (0..self.cluster.boxes).find(|member| box_address(*member) == datagram.to) {
                    Some(member) => self.at_box(member, datagram),
                    None => self.at_caller(&datagram),
                }
            }
            let Some((from, bytes)) = self.inbox.pop_front() else {
                return;
            };
            let heard = self.balancer.handle_datagram(self.now, from, VIP, &bytes);
            assert!(heard, "the farm listens at {VIP}");
        }
    }

    fn at_box(&mut self, member: usize, datagram: Datagram) {
        let Some(index) = call_of(&datagram.bytes).filter(|index| *index < self.calls.len()) else {
            return;
        };
        let call = &mut self.calls[index];
        let (phase, mean) = match call.phase {
            Phase::Calling if datagram.bytes.starts_with(b"INVITE ") => (Phase::Waiting, self.cluster.invite),
            Phase::Leaving if datagram.bytes.starts_with(b"BYE ") => (Phase::Clearing, self.cluster.bye),
            _ => {
                self.repeats += usize::from(!datagram.bytes.starts_with(b"ACK "));
                return;
            }
        };
        call.phase = phase;
        if phase == Phase::Waiting {
            self.inbox.push_back((datagram.to, Answer::new(100).to(&datagram.bytes)));
        }
        let is_free = phase == Phase::Waiting && index < self.prelude;
        let done = if is_free {
            self.now
        } else {
            let cost = Duration::from_micros((mean.as_micros() as f64 * call.factor) as u64);
            let done = self.busy_until[member].max(self.now) + cost;
            self.busy_until[member] = done;
            done
        };
        call.asked = Some(datagram);
        self.schedule(done, Happening::Served(index));
    }

    fn at_caller(&mut self, datagram: &Datagram) {
        let bytes = &datagram.bytes;
        let Some(index) = call_of(bytes).filter(|index| *index < self.calls.len()) else {
            return;
        };
        if bytes.starts_with(b"SIP/2.0 1") || !bytes.starts_with(b"SIP/2.0 ") {
            return;
        }
        let is_success = bytes.starts_with(b"SIP/2.0 200 ");
        let phase = self.calls[index].phase;
        match phase {
            Phase::Waiting if is_success => self.answered(index, bytes),
            Phase::Clearing if is_success => self.calls[index].phase = Phase::Over,
            Phase::Up | Phase::Over => {}
            Phase::Calling | Phase::Waiting | Phase::Leaving | Phase::Clearing => {
                self.settled += usize::from(matches!(phase, Phase::Calling | Phase::Waiting));
                self.failures += 1;
                self.calls[index].phase = Phase::Over;
            }
        }
    }

    /// The call is up: the caller acknowledges, and prepares to hang up.
    fn answered(&mut self, index: usize, bytes: &[u8]) {
        let answer = Text::read(bytes);
        let target = answer.header("Contact").map(uri_in).unwrap_or_default();
        let mut route = answer.values("Record-Route");
        route.reverse();
        let within = |method: &str, cseq: u32| {
            let script = request(method, index, cseq).uri(&target).to(answer.header("To").unwrap_or_default());
            route.iter().fold(script, |script, value| script.line(&format!("Route: {value}"))).build()
        };
        self.inbox.push_back((caller(), within("ACK", 1)));
        let call = &mut self.calls[index];
        call.bye = within("BYE", 2);
        call.phase = Phase::Up;
        let (sent_at, hold) = (call.sent_at, call.hold);
        self.settled += 1;
        if index >= self.first_measured() {
            self.times.push(self.now.saturating_since(sent_at).as_micros() as u64);
        }
        self.schedule(self.now + hold, Happening::HangUp(index));
    }

    fn chance(&self, index: usize) -> Chance {
        let mut random = Random::stream(self.cluster.seed, index as u64);
        let gap = exponential(&mut random);
        let hold = self.cluster.holding.mul_f64(exponential(&mut random));
        let inequality = self.cluster.inequality;
        // The mean of a log-normal variable is that of its logarithm plus half the variance.
        let factor = (inequality * normal(&mut random) - inequality * inequality / 2.0).exp();
        Chance { gap, hold, factor }
    }

    fn schedule(&mut self, at: Instant, what: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at, sequence: self.sequence, what }));
    }
}

/// One service that knows no persistence and no affinity, so that every call is the algorithm's choice, and no
/// fail-over.
fn farm(boxes: usize, name: &str) -> Settings {
    one_farm(boxes, |farm| {
        for service in &mut farm.services {
            service.algorithm = algorithm(name);
            service.persistence = Persistence::None;
            service.callee_affinity = false;
            service.failover.attempts = 1;
        }
    })
}

/// A request of the caller of call number `index`.
fn request(method: &str, index: usize, cseq: u32) -> Script {
    Script::new(method)
        .branch(&format!("{index}{method}"))
        .from(&format!("<sip:bonnie@example.com>;tag=f{index}"))
        .call_id(&format!("call-{index}"))
        .cseq(cseq)
}

/// The number in the Call-ID that [`request`] wrote.
fn call_of(bytes: &[u8]) -> Option<usize> {
    let at = memchr::memmem::find(bytes, CALL_ID)?;
    let digits = bytes.get(at + CALL_ID.len()..)?;
    let end = digits.iter().position(|octet| !octet.is_ascii_digit())?;
    std::str::from_utf8(digits.get(..end)?).ok()?.parse().ok()
}

/// All callers are behind one address.
fn caller() -> SocketAddr {
    phone_address(0)
}

/// Exponentially distributed with mean 1.
fn exponential(random: &mut Random) -> f64 {
    -uniform(random).ln()
}

/// Normally distributed with mean 0 and variance 1 (Box and Muller 1958).
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * uniform(random).ln()).sqrt();
    radius * (std::f64::consts::TAU * uniform(random)).cos()
}

/// Above 0, at most 1.
fn uniform(random: &mut Random) -> f64 {
    ((random.draw() >> 11) + 1) as f64 / (1_u64 << 53) as f64
}

const CALL_ID: &[u8] = b"\r\nCall-ID: call-";
const START_MICROS: u64 = 1_000_000;
/// Shards share what the algorithms look at; one keeps the run simple.
const SHARDS: usize = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn point(load: f64, p95_ms: u64) -> Measured {
        Measured {
            algorithm: "least-work",
            load,
            offered: load * 100.0,
            mean: Duration::ZERO,
            p50: Duration::ZERO,
            p95: Duration::from_millis(p95_ms),
            p99: Duration::ZERO,
            failures: 0,
            repeats: 0,
        }
    }

    #[test]
    fn throughput_lies_between_the_points_around_the_bound() {
        let points = [point(0.5, 10), point(0.7, 100), point(0.9, 1_000)];
        let at = |bound: u64| throughput(&points, Duration::from_millis(bound));
        assert!(at(9).is_none());
        let between = at(316).expect("the first point is below");
        assert!((between.load - 0.8).abs() < 0.001 && !between.is_more, "{between:?}");
        assert!((between.offered - 80.0).abs() < 0.1);
        let beyond = at(2_000).expect("every point is below");
        assert!(beyond.is_more && beyond.load == 0.9);
        assert!(throughput(&[], Duration::from_millis(1)).is_none());
    }

    #[test]
    fn distributions_have_their_means() {
        let mut random = Random::new(3);
        let count = 100_000;
        let mean = (0..count).map(|_| exponential(&mut random)).sum::<f64>() / f64::from(count);
        assert!((0.98..1.02).contains(&mean), "{mean}");
        let drawn: Vec<f64> = (0..count).map(|_| normal(&mut random)).collect();
        let variance = drawn.iter().map(|value| value * value).sum::<f64>() / f64::from(count);
        assert!((0.97..1.03).contains(&variance), "{variance}");
        let run = Run::new(&Cluster::default(), "round-robin", 0.5).chance(7);
        let again = Run::new(&Cluster::default(), "least-work", 0.9).chance(7);
        assert_eq!((run.gap.to_bits(), run.hold), (again.gap.to_bits(), again.hold));
        assert_eq!(run.factor.to_bits(), again.factor.to_bits());
    }

    #[test]
    fn an_idle_cluster_answers_in_the_time_of_the_service() {
        let cluster = Cluster {
            inequality: 0.0,
            holding: Duration::from_secs(2),
            settling: 50,
            measured: 200,
            ..Cluster::default()
        };
        for algorithm in ALGORITHMS {
            let measured = cluster.run(algorithm, 0.02);
            assert_eq!(measured.p50, cluster.invite, "{algorithm}");
            assert_eq!((measured.failures, measured.repeats), (0, 0), "{algorithm}");
        }
        assert!((cluster.capacity() - 290.9).abs() < 0.1);
    }
}
