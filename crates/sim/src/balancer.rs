//! A unit in the simulation: the engine's shards, the log of facts on its disk, and what a `kill -9` leaves of it.

mod cuts;
mod sabotage;

pub use cuts::{Cut, Cutter};
pub use sabotage::Sabotage;

use crate::network::Datagram;
use crate::random::Random;
use cuts::Cuts;
use engine::{Event, Flow, Input, ListenerId, Output, Secrets, Settings, Shard, Shared, Snapshot};
use sabotage::Saboteur;
use sip::time::Instant;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;

/// One unit. What it sends is taken out with [`Balancer::take_outgoing`].
pub struct Balancer {
    settings: Settings,
    shards: usize,
    seed: u64,
    running: Option<Running>,
    /// What a disk would hold: it survives [`Balancer::kill`].
    log: Vec<u8>,
    damaged: usize,
    epoch: u32,
    outgoing: Vec<Datagram>,
    events: Vec<(Instant, Event)>,
    outages: Vec<(Instant, Option<Instant>)>,
    cuts: Cuts,
    /// Stands between the unit and the network, where it is to fail on purpose.
    saboteur: RefCell<Option<Saboteur>>,
}

struct Running {
    shared: Arc<Shared>,
    shards: Vec<Shard>,
}

impl Balancer {
    /// A running unit with an empty disk.
    pub fn new(settings: Settings, shards: usize, seed: u64, now: Instant) -> Self {
        let mut balancer = Self {
            settings,
            shards,
            seed,
            running: None,
            log: Vec::new(),
            damaged: 0,
            epoch: 0,
            outgoing: Vec::new(),
            events: Vec::new(),
            outages: Vec::new(),
            cuts: Cuts::default(),
            saboteur: RefCell::new(None),
        };
        balancer.start(now);
        balancer
    }

    /// Starts the unit with the secrets it always had, a new boot epoch, and the facts of the log.
    pub fn start(&mut self, now: Instant) {
        let unix_ms = UNIX_START_MS + now.as_micros() / 1_000;
        self.epoch = ((unix_ms / 1_000) as u32).max(self.epoch.saturating_add(1));
        let seed = self.seed ^ u64::from(self.epoch);
        let shared = Shared::new(self.settings.clone(), self.secrets(), self.shards, now, unix_ms, seed);
        let loaded = shared.load_facts(now, &self.log);
        self.damaged += loaded.damaged;
        let shards = (0..self.shards).map(|index| Shard::new(index, Arc::clone(&shared))).collect();
        self.running = Some(Running { shared, shards });
        if let Some(outage) = self.outages.last_mut() {
            outage.1.get_or_insert(now);
        }
        self.collect(now);
    }

    /// `kill -9`: transactions, timers and every fact that is not in the log are gone.
    pub fn kill(&mut self, now: Instant) {
        if self.running.take().is_some() {
            self.outages.push((now, None));
            self.cuts.killed(now);
        }
        self.outgoing.clear();
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The listener that a datagram to `address` arrives at.
    pub fn listener_at(&self, address: SocketAddr) -> Option<ListenerId> {
        self.settings
            .farms
            .iter()
            .flat_map(|farm| &farm.listeners)
            .find(|listener| {
                listener.bind == address
                    || (listener.bind.ip().is_unspecified() && listener.bind.port() == address.port())
            })
            .map(|listener| listener.id)
    }

    /// A datagram arrived. False: nobody listens there, or the unit is down.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> bool {
        let Some(listener) = self.listener_at(to) else {
            return false;
        };
        let Some(running) = self.running.as_mut() else {
            return false;
        };
        let flow = Flow::of_datagram(listener, to.ip(), from);
        let index = engine::route(bytes, running.shards.len());
        let shard = running.shards.get_mut(index).expect("route names a shard below the count it is given");
        shard.begin_batch(now);
        shard.handle_input(now, Input::Datagram { flow, bytes });
        self.collect(now);
        if let Some(saboteur) = self.saboteur.get_mut() {
            self.outgoing.extend(saboteur.incoming(now, from, to, bytes));
        }
        true
    }

    /// The datagram that went from `from` to `to` was reported unreachable by the network. Every shard is told: only the one
    /// that owns the branch believes it.
    pub fn handle_undelivered(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, returned: &[u8]) {
        let Some(listener) = self.listener_at(from) else {
            return;
        };
        let flow = Flow::of_datagram(listener, from.ip(), to);
        if let Some(running) = self.running.as_mut() {
            for shard in &mut running.shards {
                shard.begin_batch(now);
                shard.handle_input(now, Input::Undelivered { flow, returned });
            }
        }
        self.collect(now);
    }

    /// Lets every shard whose deadline has come act on it.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(running) = self.running.as_mut() {
            for shard in &mut running.shards {
                if shard.poll_timeout().is_some_and(|deadline| deadline <= now) {
                    shard.begin_batch(now);
                    shard.handle_timeout(now);
                }
            }
        }
        self.collect(now);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.running.as_ref()?.shards.iter().filter_map(Shard::poll_timeout).min()
    }

    /// What the shell does every 500 ms: what was learnt since goes to the log.
    pub fn save_facts(&mut self, now: Instant) {
        if let Some(running) = &self.running {
            running.shared.drain_facts(now, &mut self.log);
        }
    }

    /// What the shell does when the log has grown: only what still holds is written, into a new one.
    pub fn compact_facts(&mut self, now: Instant) {
        if let Some(running) = &self.running {
            self.log = Vec::new();
            running.shared.drain_facts(now, &mut Vec::new());
            running.shared.dump_facts(now, &mut self.log);
        }
    }

    /// A reload; a unit that is down reads the new file when it starts.
    pub fn replace_settings(&mut self, now: Instant, settings: Settings) {
        self.cuts.reloaded(now, &self.settings, &settings);
        self.settings = settings.clone();
        if let Some(running) = self.running.as_mut() {
            for event in running.shared.replace_settings(now, settings) {
                self.cuts.told(now, &self.settings, &event);
                self.events.push((now, event));
            }
            for shard in &mut running.shards {
                shard.begin_batch(now);
            }
        }
        self.collect(now);
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// SIGTERM.
    pub fn begin_drain(&mut self) {
        if let Some(running) = &self.running {
            running.shared.begin_drain();
        }
    }

    /// What `status` would show; `None` while the unit is down.
    pub fn snapshot(&self, now: Instant) -> Option<Snapshot> {
        self.running.as_ref().map(|running| running.shared.snapshot(now))
    }

    /// Transactions of all shards, tombstones included.
    pub fn transactions(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.shards.iter().map(Shard::transactions).sum())
    }

    /// Records of the log that could not be read at some start.
    pub fn damaged_facts(&self) -> usize {
        self.damaged
    }

    pub fn events(&self) -> &[(Instant, Event)] {
        &self.events
    }

    /// From now on the unit is broken in this way.
    pub fn sabotage(&self, sabotage: Sabotage) {
        *self.saboteur.borrow_mut() = Some(Saboteur::new(sabotage));
    }

    /// When the unit was down: from, and until when (`None`: still).
    pub fn outages(&self) -> &[(Instant, Option<Instant>)] {
        &self.outages
    }

    /// When backends were cut, oldest first.
    pub fn cuts(&self) -> &[Cut] {
        self.cuts.all()
    }

    pub fn take_outgoing(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.outgoing)
    }

    fn collect(&mut self, now: Instant) {
        let Some(running) = self.running.as_mut() else {
            return;
        };
        for shard in &mut running.shards {
            while let Some(output) = shard.poll_output() {
                match output {
                    Output::Send { flow, packet } => {
                        let from = source_of(&self.settings, flow);
                        let datagram = Datagram { at: now, from, to: flow.remote, bytes: Arc::from(&packet[..]) };
                        match self.saboteur.get_mut() {
                            Some(saboteur) => self.outgoing.extend(saboteur.outgoing(datagram)),
                            None => self.outgoing.push(datagram),
                        }
                    }
                    Output::Event(event) => {
                        self.cuts.told(now, &self.settings, &event);
                        self.events.push((now, event));
                    }
                }
            }
        }
    }

    fn secrets(&self) -> Secrets {
        let mut random = Random::stream(self.seed, SECRETS);
        Secrets {
            key_id: 1,
            key: sixteen(&mut random),
            previous: None,
            contact_key: sixteen(&mut random),
            epoch: self.epoch,
        }
    }
}

/// The address that a socket of the flow's listener sends from.
fn source_of(settings: &Settings, flow: Flow) -> SocketAddr {
    let bind = settings
        .farms
        .iter()
        .flat_map(|farm| &farm.listeners)
        .find(|listener| listener.id == flow.listener)
        .map(|listener| listener.bind)
        .expect("the engine sends only from listeners of its settings");
    if flow.local.is_unspecified() { bind } else { SocketAddr::new(flow.local, bind.port()) }
}

fn sixteen(random: &mut Random) -> [u8; 16] {
    let mut octets = [0; 16];
    for (octet, drawn) in octets.iter_mut().zip(std::iter::repeat_with(|| random.draw())) {
        *octet = drawn as u8;
    }
    octets
}

/// The wall clock when the virtual clock stands at zero: 2026-01-01T00:00:00Z.
const UNIX_START_MS: u64 = 1_767_225_600_000;
const SECRETS: u64 = 0x5ec2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{VIP, one_farm, phone_address};
    use std::time::Duration;

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_killed_unit_hears_nothing_and_gets_a_new_epoch() {
        let mut balancer = Balancer::new(one_farm(1, |_| ()), 2, 1, at(1));
        let first = balancer.epoch;
        balancer.kill(at(2));
        assert!(!balancer.handle_datagram(at(2), phone_address(0), VIP, b"\r\n\r\n"));
        assert_eq!(balancer.poll_timeout(), None);
        balancer.start(at(2) + Duration::from_millis(1));
        assert!(balancer.epoch > first);
        assert_eq!(balancer.outages(), &[(at(2), Some(at(2) + Duration::from_millis(1)))]);
        assert!(balancer.is_running());
    }

    #[test]
    fn listeners_are_found_by_address() {
        let balancer = Balancer::new(one_farm(1, |_| ()), 1, 1, at(1));
        assert!(balancer.listener_at(VIP).is_some());
        assert_eq!(balancer.listener_at(phone_address(0)), None);
    }
}
