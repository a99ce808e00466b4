//! The active check that the engine makes itself: OPTIONS to every backend that a guardian of this kind watches.
//!
//! Once in its interval, with a tenth of jitter; and sooner, while the last outcomes did not decide anything: a box that is gone is
//! found out in little more than `fall` timeouts, however long the interval.

use super::{Core, PING, Timer};
use crate::counters::Counter;
use crate::io::{CheckOutcome, Flow, Packet};
use crate::pool::BackendState;
use crate::reach::Reach;
use crate::running::{FarmView, Running, WrittenAddress, guardians_of};
use crate::settings::{Backend, Guardian, Listener, Transport};
use crate::table::Id;
use crate::token::Branch;
use sip::{Checked, Instant};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// RFC 3261 §17.1.2.2, Timer E.
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(500);

/// From an outcome that leaves its guardian in doubt to the next ping: a tenth of the interval, and at least this.
const LEAST_RECHECK: Duration = Duration::from_millis(500);

/// The backends that this shard pings, once for each of their guardians that ask by OPTIONS.
#[derive(Debug, Default)]
pub(super) struct Pinger {
    targets: Vec<Target>,
    /// When the wheel wakes us. Other timers of ours are leftovers of earlier configurations.
    armed: Option<Instant>,
}

#[derive(Debug)]
struct Target {
    state: Arc<BackendState>,
    flow: Flow,
    /// Our own address. At a wildcard listener that is known once an answer has come to it.
    local: IpAddr,
    /// The same as the backend sees it.
    written: WrittenAddress,
    guardian: Arc<Guardian>,
    next_at: Instant,
    waiting: Option<Waiting>,
}

/// A ping that has not been answered yet.
#[derive(Debug)]
struct Waiting {
    sequence: u32,
    packet: Packet,
    sent_at: Instant,
    gives_up: Instant,
    again_at: Instant,
    again_after: Duration,
}

impl Core {
    /// Takes up the backends of a new configuration; those that stay keep their rhythm.
    pub(super) fn configure_pings(&mut self, running: &Running, now: Instant) {
        let mut before = std::mem::take(&mut self.pinger.targets);
        let shards = self.shared.shards().max(1);
        for farm in running.farms() {
            for (at, backend) in farm.settings.backends.iter().enumerate() {
                if backend.id.0 as usize % shards != usize::from(self.index) {
                    continue;
                }
                let Some((flow, listener)) = ping_flow(running, farm, backend) else {
                    continue;
                };
                let asking = guardians_of(farm.settings, backend).into_iter().filter(|known| known.options.is_some());
                for guardian in asking {
                    let known = before.iter().position(|target| target.is_of(backend, &guardian, &flow));
                    let (next_at, waiting, local) = match known.map(|at| before.swap_remove(at)) {
                        // The interval may have been longer.
                        Some(target) => (target.next_at.min(now + guardian.interval), target.waiting, target.local),
                        // The first round comes at once, spread over a second.
                        None => (now + Duration::from_millis(self.next_random() % 1_000), None, flow.local),
                    };
                    self.pinger.targets.push(Target {
                        state: Arc::clone(&farm.running.states[at]),
                        flow,
                        local,
                        written: farm.written(listener, local, true),
                        guardian,
                        next_at,
                        waiting,
                    });
                }
            }
        }
        self.arm_pings(now);
    }

    pub(super) fn ping_due(&mut self, now: Instant) {
        if self.pinger.armed.is_none_or(|armed| armed > now) {
            return;
        }
        self.pinger.armed = None;
        for at in 0..self.pinger.targets.len() {
            self.ping_target(now, at);
        }
        self.arm_pings(now);
    }

    fn ping_target(&mut self, now: Instant, at: usize) {
        let target = &mut self.pinger.targets[at];
        if let Some(waiting) = &mut target.waiting {
            if waiting.gives_up <= now {
                target.waiting = None;
                let reason = format!("no answer to OPTIONS within {}", in_words(target.guardian.timeout));
                self.count(Counter::PingFailures);
                self.ping_ended(now, at, &CheckOutcome::Failed { reason: reason.into() });
            } else if waiting.again_at <= now {
                waiting.again_after *= 2;
                waiting.again_at = now + waiting.again_after;
                let (flow, packet) = (target.flow, waiting.packet.clone());
                self.send(flow, packet);
            }
        }
        let target = &self.pinger.targets[at];
        if target.next_at <= now && target.waiting.is_none() {
            self.send_ping(now, at);
        }
    }

    fn send_ping(&mut self, now: Instant, at: usize) {
        let random = self.next_random();
        let jitter = self.next_random();
        let target = &self.pinger.targets[at];
        let sequence = random as u32;
        let call_id = format!("{random:016x}@tandem");
        let id = Id { index: at as u32, sequence };
        let via = self.own_via(id, PING, target.flow, &target.written, call_id.as_bytes());
        let uri = format!("sip:{}", target.flow.remote);
        let ours = String::from_utf8_lossy(target.written.host()).into_owned();
        let from = format!("<sip:ping@{ours}>;tag={:x}", random >> 32);
        let to = format!("<{uri}>");
        let request = sip::build::Request {
            method: b"OPTIONS",
            uri: uri.as_bytes(),
            via: &via,
            from: from.as_bytes(),
            to: to.as_bytes(),
            call_id: call_id.as_bytes(),
            cseq: 1,
            contact: None,
            extra: b"Accept: application/sdp\r\nUser-Agent: tandem\r\n",
            body: None,
        };
        let packet = self.own_request(&request);
        let target = &mut self.pinger.targets[at];
        let repeats = target.written.transport() == Transport::Udp;
        // A tenth of jitter keeps backends and units from beating together.
        let Guardian { interval, timeout, .. } = *target.guardian;
        let spread = interval / 10;
        let jitter = Duration::from_micros(jitter % (spread.as_micros() as u64).max(1));
        target.next_at = now + (interval - spread / 2) + jitter;
        target.waiting = Some(Waiting {
            sequence,
            packet: packet.clone(),
            sent_at: now,
            gives_up: now + timeout,
            again_at: if repeats { now + FIRST_RETRANSMISSION } else { now + timeout },
            again_after: FIRST_RETRANSMISSION,
        });
        let flow = target.flow;
        self.count(Counter::Pings);
        self.send(flow, packet);
    }

    /// An answer to a ping came by `flow`.
    pub(super) fn pong(&mut self, running: &Running, now: Instant, flow: Flow, branch: &Branch, message: &Checked<'_>) {
        let code = message.status_line().map_or(0, |line| line.code);
        if code < 200 {
            return;
        }
        let Some((at, sent_at)) = self.take_waiting(branch) else {
            self.count(Counter::StrayResponses);
            return;
        };
        let target = &mut self.pinger.targets[at];
        target.heard_at(running, flow.local);
        let took = now.saturating_since(sent_at);
        let takes = target.guardian.options.as_ref().is_some_and(|accept| accept.takes(code));
        let outcome = if takes {
            CheckOutcome::Good { took }
        } else {
            CheckOutcome::Failed { reason: format!("OPTIONS answered {code}").into() }
        };
        let event = target.state.on_pong(now, took);
        self.tell_if(now, event);
        self.ping_ended(now, at, &outcome);
        self.arm_pings(now);
    }

    /// The kernel could not deliver a ping.
    pub(super) fn ping_unreachable(&mut self, now: Instant, branch: &Branch) {
        if let Some((at, _)) = self.take_waiting(branch) {
            self.count(Counter::PingFailures);
            self.ping_ended(now, at, &CheckOutcome::Failed { reason: Arc::from(UNREACHABLE) });
            self.arm_pings(now);
        }
    }

    /// A limit of ours kept a ping back. Nobody was asked, so nothing came of it: the next one comes in its time.
    pub(super) fn ping_unsent(&mut self, now: Instant, branch: &Branch) {
        if self.take_waiting(branch).is_some() {
            self.arm_pings(now);
        }
    }

    /// The target whose ping this branch is of, if it still waits, and when that was sent.
    fn take_waiting(&mut self, branch: &Branch) -> Option<(usize, Instant)> {
        let targets = &mut self.pinger.targets;
        let is_it = |target: &Target| target.waiting.as_ref().is_some_and(|ping| ping.sequence == branch.sequence);
        let before = branch.index as usize;
        // A reload may have moved it.
        let at = if targets.get(before).is_some_and(is_it) { before } else { targets.iter().position(is_it)? };
        let waiting = targets[at].waiting.take()?;
        Some((at, waiting.sent_at))
    }

    fn ping_ended(&mut self, now: Instant, at: usize, outcome: &CheckOutcome) {
        let target = &mut self.pinger.targets[at];
        let name = &target.guardian.name;
        let event = target.state.on_check(now, name, outcome);
        if target.state.is_undecided(name) {
            let soon = now + (target.guardian.interval / 10).max(LEAST_RECHECK);
            target.next_at = target.next_at.min(soon);
        }
        self.tell_if(now, event);
    }

    fn arm_pings(&mut self, now: Instant) {
        let next = self
            .pinger
            .targets
            .iter()
            .map(|target| match &target.waiting {
                Some(waiting) => waiting.gives_up.min(waiting.again_at),
                None => target.next_at,
            })
            .min();
        if let Some(next) = next.map(|next| next.max(now))
            && self.pinger.armed.is_none_or(|armed| next < armed)
        {
            self.pinger.armed = Some(next);
            self.wheel.arm(next, Timer::Ping);
        }
    }
}

impl Target {
    fn is_of(&self, backend: &Backend, guardian: &Guardian, flow: &Flow) -> bool {
        self.state.id() == backend.id && self.guardian.name == guardian.name && self.flow == *flow
    }

    /// The backend answers to this address of ours.
    fn heard_at(&mut self, running: &Running, local: IpAddr) {
        if self.flow.local.is_unspecified()
            && self.local != local
            && let Some((farm, listener)) = running.listener(self.flow.listener)
        {
            self.local = local;
            self.written = farm.written(listener, local, true);
        }
    }
}

/// Where a backend is asked, and the listener that asks.
fn ping_flow<'r>(running: &'r Running, farm: FarmView<'_>, backend: &Backend) -> Option<(Flow, &'r Listener)> {
    let flow = farm.flow_towards(true, Reach::of(backend).by_itself(farm.settings))?;
    let (_, listener) = running.listener(flow.listener)?;
    Some((flow, listener))
}

/// Seconds, where they are whole.
fn in_words(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

const UNREACHABLE: &str = "the network says that it is unreachable, or nothing listens there";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::{address, listener, secrets, settings};
    use crate::io::{Input, Output};
    use crate::shard::Shard;
    use crate::shared::Shared;
    use crate::wheel::RESOLUTION;

    fn moment(millis: u64) -> Instant {
        Instant::from_micros(millis * 1_000)
    }

    #[test]
    fn reloads_leave_one_timer_however_many_they_are() {
        let pinged = |seconds: u64| {
            let interval = Duration::from_secs(seconds);
            let guardian = Arc::new(Guardian { interval, ..Guardian::options() });
            settings(|farm| farm.services[0].guardians = vec![guardian])
        };
        let shared = Shared::new(pinged(10), secrets(), 1, moment(0), 0, 1);
        let mut shard = Shard::new(0, Arc::clone(&shared));
        for reload in 1..50 {
            let now = moment(reload * 700);
            shared.replace_settings(now, pinged(10));
            shard.begin_batch(now);
            shard.handle_timeout(now + RESOLUTION);
        }
        let timers = format!("{:?}", shard.core.wheel).matches("Ping").count();
        // One counts; one more may be left from when the next ping was further ahead.
        assert!((1..=2).contains(&timers), "{timers} timers");
    }

    #[test]
    fn each_guardian_that_asks_by_options_asks_for_itself() {
        let named = |name: &str| Guardian { name: name.into(), ..Guardian::options() };
        let guardians = [named("a"), named("b"), Guardian { options: None, ..named("call") }].map(Arc::new);
        let guarded = settings(|farm| farm.services[0].guardians = guardians.into());
        let shared = Shared::new(guarded, secrets(), 1, moment(0), 0, 1);
        let mut shard = Shard::new(0, Arc::clone(&shared));
        let mut sent = 0;
        for millis in (0..=1_000).step_by(10) {
            let now = moment(millis);
            shard.begin_batch(now);
            shard.handle_timeout(now + RESOLUTION);
            while shard.poll_output().is_some() {
                sent += 1;
            }
        }
        // Two boxes, two guardians each; a ping sent early is repeated within the second.
        assert_eq!(shard.core.pinger.targets.len(), 4);
        assert!((4..=8).contains(&sent), "{sent}");
        assert_eq!(shard.core.counters.value(Counter::Pings), 4);
    }

    /// The next ping to `remote`, and when it leaves.
    fn next_ping(shard: &mut Shard, remote: &str) -> (Instant, Flow, Packet) {
        loop {
            let due = shard.poll_timeout().filter(|due| *due < moment(60_000)).expect("a ping comes within a minute");
            shard.handle_timeout(due);
            while let Some(output) = shard.poll_output() {
                if let Output::Send { flow, packet } = output
                    && flow.remote == address(remote)
                {
                    return (due, flow, packet);
                }
            }
        }
    }

    #[test]
    fn at_a_wildcard_our_address_is_where_answers_come_in() {
        let guarded = || {
            settings(|farm| {
                farm.listeners = vec![listener("0.0.0.0:5060", true, true)];
                farm.services[0].guardians = vec![Arc::new(Guardian::options())];
            })
        };
        let shared = Shared::new(guarded(), secrets(), 1, moment(0), 0, 1);
        let mut shard = Shard::new(0, Arc::clone(&shared));
        // Nobody has told us yet; from the first answer on it is known, after a reload, too.
        for ours in ["0.0.0.0:5060", "10.0.0.1:5060", "10.0.0.1:5060"] {
            let (now, flow, packet) = next_ping(&mut shard, "10.0.1.1:5060");
            let text = String::from_utf8_lossy(&packet);
            assert!(text.contains(&format!("\r\nVia: SIP/2.0/UDP {ours};branch=")), "{text}");
            assert!(text.contains(&format!("\r\nFrom: <sip:ping@{ours}>;tag=")), "{text}");
            let limits = sip::Limits::default();
            let request = sip::parse(&packet, &limits).expect("our own request can be read");
            let mut answer = Vec::new();
            sip::build::response(&request, 200, None, Some(b"tt"), b"", &mut answer);
            let flow = Flow { local: address("10.0.0.1:5060").ip(), ..flow };
            shard.handle_input(now, Input::Datagram { flow, bytes: &answer });
            shared.replace_settings(now, guarded());
            shard.begin_batch(now);
        }
    }

    #[test]
    fn times_are_told_in_seconds_where_they_are_whole() {
        let told = [500, 1_000, 1_500, 2_000].map(|ms| in_words(Duration::from_millis(ms)));
        assert_eq!(told, ["500 ms", "1 s", "1500 ms", "2 s"]);
    }
}
