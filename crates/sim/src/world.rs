//! The world: parties, links and a virtual clock, moved by one queue of things to happen.

use crate::balancer::Balancer;
use crate::ladder::ladder;
use crate::network::{Datagram, Fate, Link, Network, Party, Sent};
use crate::node::{BoxPlan, Crash, PbxBox, Peer, Phone, PhonePlan, Reaction};
use crate::random::Random;
use engine::Settings;
use sip::Instant;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use ua::{CallId, Pbx, UserAgent};

/// What a world begins with.
#[derive(Clone, Debug)]
pub struct WorldSettings {
    pub settings: Settings,
    /// Shards of the balancer.
    pub shards: usize,
    /// Every link that is not changed later.
    pub link: Link,
    pub boxes: Vec<BoxPlan>,
    pub phones: Vec<PhonePlan>,
}

/// One balancer, its boxes, phones and peers.
pub struct World {
    seed: u64,
    now: Instant,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    armed: BTreeMap<Party, Instant>,
    /// Wake-ups in a row that did not let the clock move: a party that asks to be woken in the past would stop the world.
    wakes: u32,
    network: Network,
    wire: Vec<Sent>,
    addresses: BTreeMap<SocketAddr, Party>,
    balancer: Balancer,
    phones: Vec<Phone>,
    boxes: Vec<PbxBox>,
    peers: Vec<Peer>,
}

/// Ordered by time, then by the order in which things were scheduled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Scheduled {
    at: Instant,
    sequence: u64,
    what: Happening,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Happening {
    /// Index into the wire.
    Arrival(usize),
    /// Index into the wire: its sender learns that nobody received it.
    Undelivered(usize),
    Wake(Party),
    SaveFacts,
}

impl World {
    pub fn new(seed: u64, settings: WorldSettings) -> Self {
        let now = Instant::from_micros(START_MICROS);
        let mut world = Self {
            seed,
            now,
            queue: BinaryHeap::new(),
            sequence: 0,
            armed: BTreeMap::new(),
            wakes: 0,
            network: Network::new(seed, settings.link),
            wire: Vec::new(),
            addresses: BTreeMap::new(),
            balancer: Balancer::new(settings.settings, settings.shards, seed, now),
            phones: Vec::new(),
            boxes: Vec::new(),
            peers: Vec::new(),
        };
        for plan in settings.boxes {
            world.add_pbx(plan);
        }
        for plan in settings.phones {
            world.add_phone(plan);
        }
        world.settle(Party::Balancer);
        world.schedule(now + SAVE_INTERVAL, Happening::SaveFacts);
        world
    }

    /// Returns its index.
    pub fn add_pbx(&mut self, plan: BoxPlan) -> usize {
        let index = self.boxes.len();
        let seed = self.seed_of(1, index);
        self.addresses.insert(plan.address, Party::Pbx(index));
        self.boxes.push(PbxBox::new(plan, seed));
        self.settle(Party::Pbx(index));
        index
    }

    /// Returns its index.
    pub fn add_phone(&mut self, plan: PhonePlan) -> usize {
        let index = self.phones.len();
        let phone = Phone::new(plan, self.seed_of(2, index));
        self.addresses.insert(phone.public_address(), Party::Phone(index));
        self.phones.push(phone);
        index
    }

    /// A party that records, and answers by `reaction` if there is one. Returns its index.
    pub fn add_peer(&mut self, address: SocketAddr, reaction: Option<Reaction>) -> usize {
        let index = self.peers.len();
        self.addresses.insert(address, Party::Peer(index));
        self.peers.push(Peer::new(address, reaction));
        index
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    pub fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    pub fn phone(&self, index: usize) -> &Phone {
        &self.phones[index]
    }

    pub fn phones(&self) -> &[Phone] {
        &self.phones
    }

    pub fn pbx(&self, index: usize) -> &PbxBox {
        &self.boxes[index]
    }

    pub fn pbxs(&self) -> &[PbxBox] {
        &self.boxes
    }

    pub fn peer(&self, index: usize) -> &Peer {
        &self.peers[index]
    }

    /// Every datagram since the start.
    pub fn wire(&self) -> &[Sent] {
        &self.wire
    }

    /// The datagrams from one party to another, in order.
    pub fn between(&self, from: Party, to: Party) -> Vec<&Sent> {
        self.wire.iter().filter(|sent| sent.sender == from && sent.receiver == Some(to)).collect()
    }

    pub fn register(&mut self, phone: usize) {
        self.with_phone(phone, |agent, now| agent.register(now));
    }

    pub fn unregister(&mut self, phone: usize) {
        self.with_phone(phone, |agent, now| agent.unregister(now));
    }

    /// Phone number `phone` calls `user` of the domain.
    pub fn call(&mut self, phone: usize, user: &str) -> CallId {
        self.call_with(phone, user, "")
    }

    /// The same with further header lines, each ended by CRLF.
    pub fn call_with(&mut self, phone: usize, user: &str, lines: &str) -> CallId {
        let target = format!("sip:{user}@{}", crate::settings::DOMAIN);
        let media = media_of(phone);
        self.with_phone(phone, |agent, now| agent.call_with(now, &target, media, lines))
    }

    pub fn cancel(&mut self, phone: usize, call: CallId) {
        self.with_phone(phone, |agent, now| agent.cancel(now, call));
    }

    pub fn hang_up(&mut self, phone: usize, call: CallId) {
        self.with_phone(phone, |agent, now| agent.hang_up(now, call));
    }

    pub fn reinvite(&mut self, phone: usize, call: CallId) {
        let media = media_of(phone);
        self.with_phone(phone, |agent, now| agent.reinvite(now, call, media));
    }

    /// Does something to a phone, then sends what it wants sent.
    pub fn with_phone<R>(&mut self, index: usize, act: impl FnOnce(&mut UserAgent, Instant) -> R) -> R {
        let now = self.now;
        let result = act(self.phones[index].agent_mut(), now);
        self.settle(Party::Phone(index));
        result
    }

    /// Does something to a box; `None`: it is down.
    pub fn with_pbx<R>(&mut self, index: usize, act: impl FnOnce(&mut Pbx, Instant) -> R) -> Option<R> {
        let now = self.now;
        let result = self.boxes[index].pbx_mut().map(|pbx| act(pbx, now));
        self.settle(Party::Pbx(index));
        result
    }

    /// A peer sends a datagram.
    pub fn send(&mut self, peer: usize, to: SocketAddr, bytes: Vec<u8>) {
        self.peers[peer].send(to, bytes);
        self.settle(Party::Peer(peer));
    }

    /// The phone's NAT makes a new mapping, of which the phone knows nothing. What is under way to the old one is lost.
    pub fn rebind(&mut self, index: usize, outside: SocketAddr) {
        let now = self.now;
        self.addresses.remove(&self.phones[index].public_address());
        self.phones[index].rebind(now, outside);
        self.addresses.insert(outside, Party::Phone(index));
    }

    /// The phone gets a new address of its own and knows it.
    pub fn move_phone(&mut self, index: usize, address: SocketAddr) {
        let now = self.now;
        self.addresses.remove(&self.phones[index].public_address());
        self.phones[index].move_to(now, address);
        self.addresses.insert(self.phones[index].public_address(), Party::Phone(index));
        self.settle(Party::Phone(index));
    }

    pub fn crash_pbx(&mut self, index: usize, crash: Crash) {
        self.boxes[index].crash(self.now, crash);
        self.settle(Party::Pbx(index));
    }

    /// The box comes back with an empty memory.
    pub fn restart_pbx(&mut self, index: usize) {
        self.boxes[index].restart();
        self.settle(Party::Pbx(index));
    }

    /// `kill -9` of the balancer.
    pub fn kill_balancer(&mut self) {
        self.balancer.kill(self.now);
        self.settle(Party::Balancer);
    }

    pub fn start_balancer(&mut self) {
        self.balancer.start(self.now);
        self.settle(Party::Balancer);
    }

    /// `kill -9` and, after `pause`, a new start.
    pub fn restart_balancer(&mut self, pause: Duration) {
        self.kill_balancer();
        self.run_for(pause);
        self.start_balancer();
    }

    /// SIGHUP.
    pub fn replace_settings(&mut self, settings: Settings) {
        self.balancer.replace_settings(self.now, settings);
        self.settle(Party::Balancer);
    }

    /// SIGTERM.
    pub fn begin_drain(&mut self) {
        self.balancer.begin_drain();
        self.settle(Party::Balancer);
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until the condition holds, at most for `limit`. Returns whether it holds.
    pub fn run_until(&mut self, mut condition: impl FnMut(&World) -> bool, limit: Duration) -> bool {
        let end = self.now + limit;
        loop {
            if condition(self) {
                return true;
            }
            if self.next_at().is_none_or(|at| at > end) {
                self.now = end;
                return condition(self);
            }
            self.step();
        }
    }

    /// Like [`World::run_until`], but fails the test, naming `what`, when the limit is over.
    pub fn expect(&mut self, what: &str, limit: Duration, condition: impl FnMut(&World) -> bool) {
        if !self.run_until(condition, limit) {
            self.fail(&format!("not within {limit:?}: {what}"));
        }
    }

    /// Fails the test unless `holds`.
    pub fn check(&self, holds: bool, what: &str) {
        if !holds {
            self.fail(what);
        }
    }

    /// Ends a test with the seed and the last datagrams.
    pub fn fail(&self, what: &str) -> ! {
        panic!("{what}\nseed {}\n{}", self.seed, self.ladder(60));
    }

    /// The last `count` datagrams as text.
    pub fn ladder(&self, count: usize) -> String {
        ladder(&self.wire, count)
    }

    fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|next| next.0.at)
    }

    fn step(&mut self) {
        let Some(Reverse(next)) = self.queue.pop() else {
            return;
        };
        if next.at > self.now {
            self.wakes = 0;
        }
        self.now = next.at;
        match next.what {
            Happening::Arrival(index) => self.arrive(index),
            Happening::Undelivered(index) => {
                let sent = &self.wire[index];
                self.balancer.handle_undelivered(self.now, sent.from, sent.to, &sent.bytes);
                self.settle(Party::Balancer);
            }
            Happening::Wake(party) => self.wake(party, next.at),
            Happening::SaveFacts => {
                self.balancer.save_facts(self.now);
                self.schedule(self.now + SAVE_INTERVAL, Happening::SaveFacts);
            }
        }
    }

    fn arrive(&mut self, index: usize) {
        let sent = &self.wire[index];
        let (from, to, sender, bytes) = (sent.from, sent.to, sent.sender, Arc::clone(&sent.bytes));
        let now = self.now;
        let party = self.party_at(to);
        let received = match party {
            Some(Party::Balancer) => self.balancer.handle_datagram(now, from, to, &bytes),
            Some(Party::Phone(phone)) => self.phones[phone].handle_datagram(now, from, &bytes),
            Some(Party::Pbx(number)) => self.boxes[number].handle_datagram(now, from, &bytes),
            Some(Party::Peer(peer)) => {
                self.peers[peer].handle_datagram(now, from, &bytes);
                true
            }
            None => false,
        };
        let sent = &mut self.wire[index];
        if received {
            sent.fate = Fate::Delivered;
            sent.arrived.get_or_insert(now);
        } else if sent.fate != Fate::Delivered {
            sent.fate = Fate::Unreachable;
        }
        if !received
            && sender == Party::Balancer
            && let Some(Party::Pbx(number)) = party
            && self.boxes[number].reports_unreachable()
        {
            self.schedule(now + REPORT_DELAY, Happening::Undelivered(index));
        }
        if let Some(party) = party {
            self.settle(party);
        }
    }

    fn wake(&mut self, party: Party, at: Instant) {
        if self.armed.get(&party) != Some(&at) {
            return;
        }
        self.armed.remove(&party);
        self.wakes += 1;
        if self.wakes > MOST_WAKES {
            self.fail(&format!("{party} asks to be woken at {} again and again", at.as_micros()));
        }
        match party {
            Party::Balancer => self.balancer.handle_timeout(at),
            Party::Phone(index) => self.phones[index].agent_mut().handle_timeout(at),
            Party::Pbx(index) => self.boxes[index].handle_timeout(at),
            Party::Peer(_) => {}
        }
        self.settle(party);
    }

    /// Sends what the party wants sent and arms its next deadline.
    fn settle(&mut self, party: Party) {
        let now = self.now;
        let (sent, deadline) = match party {
            Party::Balancer => (self.balancer.take_outgoing(), self.balancer.poll_timeout()),
            Party::Phone(index) => {
                let phone = &mut self.phones[index];
                (phone.drain(now), phone.agent().poll_timeout())
            }
            Party::Pbx(index) => {
                let pbx = &mut self.boxes[index];
                (pbx.drain(now), pbx.poll_timeout())
            }
            Party::Peer(index) => (self.peers[index].drain(now), None),
        };
        for datagram in sent {
            self.transmit(party, datagram);
        }
        match deadline.map(|at| at.max(now)) {
            None => {
                self.armed.remove(&party);
            }
            Some(at) if self.armed.get(&party) == Some(&at) => {}
            Some(at) => {
                self.armed.insert(party, at);
                self.schedule(at, Happening::Wake(party));
            }
        }
    }

    fn transmit(&mut self, sender: Party, datagram: Datagram) {
        let receiver = self.party_at(datagram.to);
        let travel = receiver.map(|receiver| self.network.travel(sender, receiver));
        let index = self.wire.len();
        let fate = match travel {
            None => Fate::Unreachable,
            Some(travel) if travel.first.is_none() && travel.second.is_none() => Fate::Lost,
            Some(_) => Fate::Flying,
        };
        self.wire.push(Sent {
            at: self.now,
            from: datagram.from,
            to: datagram.to,
            bytes: datagram.bytes,
            sender,
            receiver,
            fate,
            arrived: None,
        });
        if let Some(travel) = travel {
            for time in [travel.first, travel.second].into_iter().flatten() {
                self.schedule(self.now + time, Happening::Arrival(index));
            }
        }
    }

    fn party_at(&self, address: SocketAddr) -> Option<Party> {
        match self.addresses.get(&address) {
            Some(party) => Some(*party),
            None => self.balancer.listener_at(address).map(|_| Party::Balancer),
        }
    }

    fn schedule(&mut self, at: Instant, what: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled { at, sequence: self.sequence, what }));
    }

    fn seed_of(&self, kind: u64, index: usize) -> u64 {
        Random::stream(self.seed, (kind << 48) | index as u64).draw()
    }
}

fn media_of(phone: usize) -> SocketAddr {
    let mut media = crate::settings::phone_address(phone);
    media.set_port(40_000);
    media
}

/// The virtual clock does not start at zero, so that times before the start can be spoken of.
const START_MICROS: u64 = 1_000_000;
/// How often the balancer's shell writes facts to the log.
const SAVE_INTERVAL: Duration = Duration::from_millis(500);
/// How long an ICMP error takes.
const REPORT_DELAY: Duration = Duration::from_millis(1);
const MOST_WAKES: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{one_farm, peer_address};

    fn empty(seed: u64, link: Link) -> World {
        World::new(
            seed,
            WorldSettings { settings: one_farm(1, |_| ()), shards: 1, link, boxes: Vec::new(), phones: Vec::new() },
        )
    }

    #[test]
    fn datagrams_travel_for_as_long_as_the_link_says() {
        let mut world = empty(1, Link::perfect(Duration::from_millis(7)));
        let echo: Reaction = Box::new(|_, from, bytes| vec![(from, bytes.to_vec())]);
        let one = world.add_peer(peer_address(0), None);
        world.add_peer(peer_address(1), Some(echo));
        world.send(one, peer_address(1), b"hello".to_vec());
        world.run_for(Duration::from_millis(13));
        assert!(world.peer(one).received().is_empty());
        world.run_for(Duration::from_millis(1));
        let received = world.peer(one).received();
        assert_eq!(received.len(), 1);
        assert_eq!(received.first().map(|datagram| &datagram.bytes[..]), Some(&b"hello"[..]));
        assert!(world.wire().iter().all(|sent| sent.fate == Fate::Delivered));
    }

    #[test]
    fn nobody_there_is_told_apart_from_loss() {
        let mut world = empty(1, Link::default());
        let one = world.add_peer(peer_address(0), None);
        world.add_peer(peer_address(1), None);
        world.network().set_link(Party::Peer(0), Party::Peer(1), Link::cut());
        world.send(one, peer_address(1), b"a".to_vec());
        world.send(one, peer_address(2), b"b".to_vec());
        world.run_for(Duration::from_secs(1));
        let fates: Vec<Fate> = world.wire().iter().map(|sent| sent.fate).collect();
        assert_eq!(fates, [Fate::Lost, Fate::Unreachable]);
    }

    #[test]
    fn run_until_stops_at_once_or_at_the_limit() {
        let mut world = empty(1, Link::default());
        let start = world.now();
        assert!(world.run_until(|_| true, Duration::from_secs(9)));
        assert_eq!(world.now(), start);
        assert!(!world.run_until(|_| false, Duration::from_secs(9)));
        assert_eq!(world.now(), start + Duration::from_secs(9));
    }
}
