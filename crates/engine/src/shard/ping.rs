//! The first active check: OPTIONS to every backend, its answers counted by rise and fall.

use super::{Core, Timer};
use crate::counters::Counter;
use crate::io::{Flow, Packet};
use crate::pool::{BackendState, PingFailure};
use crate::reach::Reach;
use crate::running::{Running, WrittenAddress, ping_of};
use crate::settings::{Ping, Transport};
use crate::token::Branch;
use sip::{Checked, Instant};
use std::sync::Arc;
use std::time::Duration;

/// RFC 3261 §17.1.2.2, Timer E.
const FIRST_RETRANSMISSION: Duration = Duration::from_millis(500);

/// The backends that this shard pings.
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
    /// Our address, as the backend sees it.
    written: WrittenAddress,
    settings: Ping,
    interval: Duration,
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
                let settings = ping_of(farm.settings, backend);
                let mine = backend.id.0 as usize % shards == usize::from(self.index);
                let (true, Some(interval)) = (mine, settings.interval) else {
                    continue;
                };
                let Some(flow) = farm.flow_towards(true, Reach::of(backend).by_itself(farm.settings)) else {
                    continue;
                };
                let Some((_, listener)) = running.listener(flow.listener) else {
                    continue;
                };
                let known = before.iter().position(|target| target.state.id() == backend.id && target.flow == flow);
                let (next_at, waiting) = match known.map(|at| before.swap_remove(at)) {
                    Some(target) => (target.next_at, target.waiting),
                    // The first round comes at once, spread over a second.
                    None => (now + Duration::from_millis(self.next_random() % 1_000), None),
                };
                self.pinger.targets.push(Target {
                    state: Arc::clone(&farm.running.states[at]),
                    flow,
                    written: farm.written(listener, flow.local, true),
                    settings,
                    interval,
                    next_at,
                    waiting,
                });
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
                let state = Arc::clone(&target.state);
                self.count(Counter::PingFailures);
                self.ping_ended(now, &state, Err(PingFailure::Timeout));
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
        let branch = Branch {
            stateless: false,
            own: true,
            shard: self.index,
            index: at as u32,
            attempt: 0,
            sequence,
            epoch: self.shared.secrets.epoch,
            loop_hash: 0,
            upstream: target.flow,
        };
        let call_id = format!("{random:016x}@tandem");
        let branch = self.shared.secrets.seal_branch(&branch, call_id.as_bytes());
        let mut via = Vec::new();
        target.written.write_via(&mut via);
        via.extend_from_slice(b";branch=");
        via.extend_from_slice(&branch);
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
        self.scratch.clear();
        sip::build::request(&request, &mut self.scratch);
        let packet = Packet::copy_from(&self.scratch);
        let target = &mut self.pinger.targets[at];
        let repeats = target.written.transport() == Transport::Udp;
        // A tenth of jitter keeps backends and units from beating together.
        let spread = target.interval / 10;
        let jitter = Duration::from_micros(jitter % (spread.as_micros() as u64).max(1));
        target.next_at = now + (target.interval - spread / 2) + jitter;
        target.waiting = Some(Waiting {
            sequence,
            packet: packet.clone(),
            sent_at: now,
            gives_up: now + target.settings.timeout,
            again_at: if repeats { now + FIRST_RETRANSMISSION } else { now + target.settings.timeout },
            again_after: FIRST_RETRANSMISSION,
        });
        let flow = target.flow;
        self.count(Counter::Pings);
        self.send(flow, packet);
    }

    /// An answer to a ping.
    pub(super) fn pong(&mut self, now: Instant, branch: &Branch, message: &Checked<'_>) {
        let code = message.status_line().map_or(0, |line| line.code);
        if code < 200 {
            return;
        }
        let Some((state, sent_at)) = self.take_waiting(branch) else {
            self.count(Counter::StrayResponses);
            return;
        };
        let event = state.on_answer(now, now.saturating_since(sent_at));
        self.tell_if(now, event);
        self.ping_ended(now, &state, Ok(code));
    }

    /// The kernel could not deliver a ping.
    pub(super) fn ping_unreachable(&mut self, now: Instant, branch: &Branch) {
        if let Some((state, _)) = self.take_waiting(branch) {
            self.count(Counter::PingFailures);
            let event = state.on_ping(now, Err(PingFailure::Unreachable));
            self.tell_if(now, event);
        }
    }

    fn take_waiting(&mut self, branch: &Branch) -> Option<(Arc<BackendState>, Instant)> {
        let target = self.pinger.targets.get_mut(branch.index as usize)?;
        if target.waiting.as_ref()?.sequence != branch.sequence {
            return None;
        }
        let waiting = target.waiting.take()?;
        Some((Arc::clone(&target.state), waiting.sent_at))
    }

    fn ping_ended(&mut self, now: Instant, state: &Arc<BackendState>, result: Result<u16, PingFailure>) {
        let event = state.on_ping(now, result);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::{secrets, settings};
    use crate::shard::Shard;
    use crate::shared::Shared;
    use crate::wheel::RESOLUTION;

    fn moment(millis: u64) -> Instant {
        Instant::from_micros(millis * 1_000)
    }

    #[test]
    fn reloads_leave_one_timer_however_many_they_are() {
        let pinged =
            |seconds: u64| settings(|farm| farm.services[0].ping.interval = Some(Duration::from_secs(seconds)));
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
}
