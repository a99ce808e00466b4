//! The network of these tests: delivers datagrams after a fixed time, loses those it is told to, and writes all down.

use sip::build;
use sip::digest::Algorithm;
use sip::message::{Limits, Message, Method, parse};
use sip::time::Instant;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Account, Answering, Event, Fault, Output, Pbx, PbxEvent, PbxSettings, UserAgent};

pub(crate) const LATENCY: Duration = Duration::from_millis(5);

/// One datagram on the wire.
pub(crate) struct Sent {
    pub(crate) at: Instant,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) lost: bool,
}

impl Sent {
    /// `INVITE` for a request, `200 INVITE` for a response.
    pub(crate) fn label(&self) -> String {
        label(&self.bytes)
    }

    pub(crate) fn with<R>(&self, look: impl FnOnce(&Message<'_>) -> R) -> R {
        look(&parse(&self.bytes, &Limits::default()).expect("what our own side sends is well-formed"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.with(|message| message.named(name.as_bytes()).next().map(|header| text(header.value)))
    }
}

/// Loses the next datagrams that carry a label.
struct Loss {
    label: String,
    from: Option<SocketAddr>,
    count: u32,
}

/// Stands where the balancer would: carries what one PBX passes on to the other one.
pub(crate) struct Farm {
    pub(crate) address: SocketAddr,
    pub(crate) pbxs: [SocketAddr; 2],
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) agents: BTreeMap<SocketAddr, UserAgent>,
    pub(crate) pbxs: BTreeMap<SocketAddr, Pbx>,
    pub(crate) farm: Option<Farm>,
    pub(crate) wire: Vec<Sent>,
    pub(crate) events: Vec<(SocketAddr, Event)>,
    pub(crate) pbx_events: Vec<PbxEvent>,
    /// Of 1,000 datagrams so many are lost at random.
    pub(crate) loss_per_mille: u64,
    noise: u64,
    losses: Vec<Loss>,
    flying: BTreeMap<(Instant, u64), (SocketAddr, SocketAddr, Vec<u8>)>,
    count: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        Self {
            // Not zero, so that a deadline of zero would be found out.
            now: Instant::from_micros(1_000_000_000),
            agents: BTreeMap::new(),
            pbxs: BTreeMap::new(),
            farm: None,
            wire: Vec::new(),
            events: Vec::new(),
            pbx_events: Vec::new(),
            loss_per_mille: 0,
            noise: 0x1234_5678_9abc_def1,
            losses: Vec::new(),
            flying: BTreeMap::new(),
            count: 0,
        }
    }

    /// A phone; its requests go to `proxy`.
    pub(crate) fn phone(&mut self, user: &str, address: SocketAddr, proxy: SocketAddr) -> SocketAddr {
        let account = Account {
            user: user.to_owned(),
            domain: "example.com".to_owned(),
            display: user.to_uppercase(),
            password: format!("{user}-secret"),
            proxy,
            contact: address,
            expires: 60,
        };
        let mut agent = UserAgent::new(account, 1);
        agent.set_answering(answering(address));
        self.agents.insert(address, agent);
        address
    }

    /// A PBX that knows bonnie and clyde.
    pub(crate) fn pbx(&mut self, name: &str, address: SocketAddr, farm: Option<SocketAddr>) -> SocketAddr {
        let users = ["bonnie", "clyde"].map(|user| (user.to_owned(), format!("{user}-secret")));
        let settings = PbxSettings {
            name: name.to_owned(),
            realm: "example.com".to_owned(),
            address,
            users: users.to_vec(),
            farm,
            algorithm: Algorithm::Sha256,
            domains: vec!["example.com".to_owned()],
            min_expires: 10,
            max_expires: 600,
        };
        self.pbxs.insert(address, Pbx::new(settings, 1));
        address
    }

    /// Lets a user agent do something, now.
    pub(crate) fn at<R>(&mut self, address: SocketAddr, act: impl FnOnce(&mut UserAgent, Instant) -> R) -> R {
        let agent = self.agents.get_mut(&address).expect("the test made this phone");
        let result = act(agent, self.now);
        self.drain();
        result
    }

    pub(crate) fn set_fault(&mut self, address: SocketAddr, fault: Fault) {
        self.pbxs.get_mut(&address).expect("the test made this PBX").set_fault(fault);
    }

    /// Loses the next `count` datagrams with this label, from anybody or from one sender.
    pub(crate) fn lose(&mut self, label: &str, from: Option<SocketAddr>, count: u32) {
        self.losses.push(Loss { label: label.to_owned(), from, count });
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    /// Puts a datagram of the test's own on the wire.
    pub(crate) fn inject(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.send(from, to, bytes.to_vec());
    }

    /// Answers the last request on the wire, for whoever it was sent to, and lets the answer arrive.
    pub(crate) fn answer_last(&mut self, code: u16, lines: &str) {
        let is_asking = |sent: &&Sent| sent.with(|message| message.is_request() && message.method() != Method::Ack);
        let request = self.wire.iter().rev().find(is_asking).expect("somebody asked something");
        let (asked, asking) = (request.to, request.from);
        let mut bytes = Vec::new();
        request.with(|message| build::response(message, code, None, Some(b"far"), lines.as_bytes(), &mut bytes));
        self.inject(asked, asking, &bytes);
        self.run_for(LATENCY);
    }

    /// Labels of what went between two addresses, in both directions.
    pub(crate) fn between(&self, one: SocketAddr, other: SocketAddr) -> Vec<String> {
        let ours = self
            .wire
            .iter()
            .filter(|sent| (sent.from, sent.to) == (one, other) || (sent.from, sent.to) == (other, one));
        ours.map(Sent::label).collect()
    }

    pub(crate) fn labels(&self) -> Vec<String> {
        self.wire.iter().map(Sent::label).collect()
    }

    /// The datagrams with one label.
    pub(crate) fn sent(&self, label: &str) -> Vec<&Sent> {
        self.wire.iter().filter(|sent| sent.label() == label).collect()
    }

    pub(crate) fn events_of(&self, address: SocketAddr) -> Vec<Event> {
        self.events.iter().filter(|(owner, _)| *owner == address).map(|(_, event)| event.clone()).collect()
    }

    /// Forgets what happened so far.
    pub(crate) fn forget(&mut self) {
        self.wire.clear();
        self.events.clear();
        self.pbx_events.clear();
    }

    fn next(&self) -> Option<Instant> {
        let flying = self.flying.keys().next().map(|(due, _)| *due);
        let agents = self.agents.values().filter_map(UserAgent::poll_timeout);
        let pbxs = self.pbxs.values().filter_map(Pbx::poll_timeout);
        flying.into_iter().chain(agents).chain(pbxs).min()
    }

    fn step(&mut self) {
        if let Some(flight) = self.flying.first_entry()
            && flight.key().0 <= self.now
        {
            let (from, to, bytes) = flight.remove();
            self.deliver(from, to, &bytes);
        }
        for agent in self.agents.values_mut() {
            if agent.poll_timeout().is_some_and(|due| due <= self.now) {
                agent.handle_timeout(self.now);
                assert!(agent.poll_timeout().is_none_or(|due| due > self.now), "a deadline that came must not stay");
            }
        }
        for pbx in self.pbxs.values_mut() {
            if pbx.poll_timeout().is_some_and(|due| due <= self.now) {
                pbx.handle_timeout(self.now);
                assert!(pbx.poll_timeout().is_none_or(|due| due > self.now), "a deadline that came must not stay");
            }
        }
        self.drain();
    }

    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        if self.farm.as_ref().is_some_and(|farm| farm.address == to) {
            return self.carry(from, bytes);
        }
        if let Some(agent) = self.agents.get_mut(&to) {
            agent.handle_datagram(now, from, bytes);
        } else if let Some(pbx) = self.pbxs.get_mut(&to) {
            pbx.handle_datagram(now, from, bytes);
        }
    }

    fn drain(&mut self) {
        let mut sends = Vec::new();
        for (address, agent) in &mut self.agents {
            while let Some(output) = agent.poll_output() {
                match output {
                    Output::Send { to, bytes } => sends.push((*address, to, bytes)),
                    Output::Event(event) => self.events.push((*address, event)),
                }
            }
        }
        for (address, pbx) in &mut self.pbxs {
            while let Some(output) = pbx.poll_output() {
                match output {
                    Output::Send { to, bytes } => sends.push((*address, to, bytes)),
                    Output::Event(event) => self.pbx_events.push(event),
                }
            }
        }
        for (from, to, bytes) in sends {
            self.send(from, to, bytes);
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let label = label(&bytes);
        let told = self
            .losses
            .iter_mut()
            .find(|loss| loss.count > 0 && loss.label == label && loss.from.is_none_or(|sender| sender == from));
        let mut lost = false;
        if let Some(loss) = told {
            loss.count -= 1;
            lost = true;
        }
        // xorshift64: repeatable, and independent of what the agents draw.
        self.noise ^= self.noise << 13;
        self.noise ^= self.noise >> 7;
        self.noise ^= self.noise << 17;
        lost |= self.noise % 1_000 < self.loss_per_mille;
        self.wire.push(Sent { at: self.now, from, to, bytes: bytes.clone(), lost });
        if !lost {
            self.count += 1;
            self.flying.insert((self.now + LATENCY, self.count), (from, to, bytes));
        }
    }

    /// What the farm does here: a request gets a Via and the word that a backend sent it, a response loses that Via.
    fn carry(&mut self, from: SocketAddr, bytes: &[u8]) {
        let Some(farm) = &self.farm else { return };
        let (own, [one, other]) = (farm.address, farm.pbxs);
        let message = parse(bytes, &Limits::default()).expect("what our own side sends is well-formed");
        let lines = String::from_utf8(bytes.to_vec()).expect("our own side writes ASCII");
        let (first, rest) = lines.split_once("\r\n").expect("a message has lines");
        if message.is_request() {
            let branch =
                message.top_via().and_then(|via| via.branch()).map(text).expect("our own side writes branches");
            let to = if from == one { other } else { one };
            let added = format!("Via: SIP/2.0/UDP {own};branch={branch}-farm\r\nX-Tandem-Origin: backend one");
            return self.send(own, to, format!("{first}\r\n{added}\r\n{rest}").into_bytes());
        }
        let (_, rest) = rest.split_once("\r\n").expect("the top Via is a line of its own");
        let below = format!("{first}\r\n{rest}").into_bytes();
        let to = if from == one { other } else { one };
        self.send(own, to, below);
    }
}

/// Rings at once and answers after 100 ms.
pub(crate) fn answering(address: SocketAddr) -> Answering {
    Answering { media: media(address), ..Answering::default() }
}

/// Where a phone hears.
pub(crate) fn media(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), 4_000)
}

pub(crate) fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 5060))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn label(bytes: &[u8]) -> String {
    let message = parse(bytes, &Limits::default()).expect("what our own side sends is well-formed");
    let method = text(message.method().as_bytes());
    match message.status_line() {
        Some(line) => format!("{} {method}", line.code),
        None => method,
    }
}
