//! The virtual network: what happens to a datagram between two parties.

use crate::random::Random;
use sip::time::Instant;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Somebody who sends and receives datagrams; the number is the index in the world's list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Party {
    Balancer,
    Phone(usize),
    Pbx(usize),
    Peer(usize),
}

/// A datagram as it leaves a party.
#[derive(Clone, Debug)]
pub struct Datagram {
    pub at: Instant,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Arc<[u8]>,
}

/// A datagram on the wire and what became of it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Instant,
    /// As seen on the network: for a phone behind a NAT the NAT's outside address.
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Arc<[u8]>,
    pub sender: Party,
    /// Who held the address `to` when the datagram was sent.
    pub receiver: Option<Party>,
    pub fate: Fate,
    /// When the first copy was received.
    pub arrived: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Flying,
    Delivered,
    /// Dropped by the link.
    Lost,
    /// Nobody was there: no such address, a crashed box, a NAT that lets nobody in.
    Unreachable,
}

/// The faults of one direction between two parties.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    pub loss_permille: u32,
    pub duplicate_permille: u32,
    /// How many datagrams are held back by five times the delay and jitter, so that later ones overtake them.
    pub reorder_permille: u32,
    pub delay: Duration,
    /// Added to the delay, evenly distributed from zero to this.
    pub jitter: Duration,
}

/// All links. Each direction of each pair has its own stream of randomness.
#[derive(Debug)]
pub struct Network {
    seed: u64,
    default: Link,
    links: BTreeMap<(Party, Party), Link>,
    streams: BTreeMap<(Party, Party), Random>,
}

/// How long the copies of one datagram take; both `None`: lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Travel {
    pub first: Option<Duration>,
    pub second: Option<Duration>,
}

impl Link {
    /// No faults at all, only the delay.
    pub const fn perfect(delay: Duration) -> Self {
        Self { loss_permille: 0, duplicate_permille: 0, reorder_permille: 0, delay, jitter: Duration::ZERO }
    }

    /// A cut cable.
    pub const fn cut() -> Self {
        Self {
            loss_permille: 1_000,
            duplicate_permille: 0,
            reorder_permille: 0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
        }
    }
}

impl Default for Link {
    fn default() -> Self {
        Self::perfect(Duration::from_millis(1))
    }
}

impl Network {
    pub fn new(seed: u64, default: Link) -> Self {
        Self { seed, default, links: BTreeMap::new(), streams: BTreeMap::new() }
    }

    /// The faults of every link that has none of its own.
    pub fn set_default(&mut self, link: Link) {
        self.default = link;
    }

    /// The faults of one direction.
    pub fn set_link(&mut self, from: Party, to: Party, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Every link is perfect from now on, with a delay of one millisecond.
    pub fn heal(&mut self) {
        self.links.clear();
        self.default = Link::default();
    }

    /// Decides over one datagram. Always draws the same count of numbers, so that a changed loss rate changes nothing else.
    pub fn travel(&mut self, from: Party, to: Party) -> Travel {
        let link = self.links.get(&(from, to)).copied().unwrap_or(self.default);
        let seed = self.seed;
        let stream =
            self.streams.entry((from, to)).or_insert_with(|| Random::stream(seed, (from.label() << 32) | to.label()));
        let lost = stream.chance(link.loss_permille);
        let doubled = stream.chance(link.duplicate_permille);
        let held_back = stream.chance(link.reorder_permille);
        let one = link.delay + stream.between(Duration::ZERO, link.jitter);
        let two = link.delay + stream.between(Duration::ZERO, link.jitter);
        let one = if held_back { one + (link.delay + link.jitter) * 5 } else { one };
        Travel { first: (!lost).then_some(one), second: (!lost && doubled).then_some(two) }
    }
}

impl Party {
    fn label(self) -> u64 {
        let (kind, number) = match self {
            Self::Balancer => (1, 0),
            Self::Phone(number) => (2, number),
            Self::Pbx(number) => (3, number),
            Self::Peer(number) => (4, number),
        };
        (kind << 24) | number as u64
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balancer => f.pad("farm"),
            Self::Phone(number) => f.pad(&format!("phone{}", number + 1)),
            Self::Pbx(number) => f.pad(&format!("pbx{}", number + 1)),
            Self::Peer(number) => f.pad(&format!("peer{}", number + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty() -> Link {
        Link {
            loss_permille: 100,
            duplicate_permille: 50,
            reorder_permille: 20,
            delay: Duration::from_millis(10),
            jitter: Duration::from_millis(5),
        }
    }

    #[test]
    fn faults_come_at_their_rates_and_repeat_with_the_seed() {
        let run = |seed: u64| -> Vec<Travel> {
            let mut network = Network::new(seed, faulty());
            (0..20_000).map(|_| network.travel(Party::Phone(0), Party::Balancer)).collect()
        };
        let travels = run(5);
        assert_eq!(travels, run(5));
        assert_ne!(travels, run(6));
        let lost = travels.iter().filter(|travel| travel.first.is_none()).count();
        let doubled = travels.iter().filter(|travel| travel.second.is_some()).count();
        let late =
            travels.iter().filter(|travel| travel.first.is_some_and(|time| time > Duration::from_millis(16))).count();
        assert!((1_800..2_200).contains(&lost), "{lost} lost");
        assert!((780..1_020).contains(&doubled), "{doubled} doubled");
        assert!((290..430).contains(&late), "{late} held back");
    }

    #[test]
    fn a_link_does_not_disturb_another() {
        let mut alone = Network::new(9, faulty());
        let mut shared = Network::new(9, faulty());
        for _ in 0..500 {
            shared.travel(Party::Phone(1), Party::Balancer);
            assert_eq!(alone.travel(Party::Phone(0), Party::Balancer), shared.travel(Party::Phone(0), Party::Balancer));
        }
    }

    #[test]
    fn a_cut_link_loses_all_until_healed() {
        let mut network = Network::new(1, Link::default());
        network.set_link(Party::Pbx(0), Party::Balancer, Link::cut());
        assert!((0..100).all(|_| { network.travel(Party::Pbx(0), Party::Balancer).first.is_none() }));
        assert!(network.travel(Party::Balancer, Party::Pbx(0)).first.is_some());
        network.heal();
        assert_eq!(network.travel(Party::Pbx(0), Party::Balancer).first, Some(Duration::from_millis(1)));
    }
}
