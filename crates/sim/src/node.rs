//! The parties around the balancer: phones, boxes and scripted peers.

use crate::network::Datagram;
use crate::settings::{DOMAIN, VIP, box_address, outside_address, phone_address};
use sip::Instant;
use sip::digest::Algorithm;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use ua::{Account, Answering, CallId, Event, Output, Pbx, PbxEvent, PbxSettings, UserAgent};

/// How a phone is set up.
#[derive(Clone, Debug)]
pub struct PhonePlan {
    pub user: String,
    pub password: String,
    /// Its own address.
    pub address: SocketAddr,
    /// The address that its NAT shows; `None`: it has no NAT.
    pub outside: Option<SocketAddr>,
    /// Where it sends its requests.
    pub proxy: SocketAddr,
    /// Seconds.
    pub expires: u32,
    /// Its calls begin with an answer to its registrar's last challenge.
    pub proves_calls_ahead: bool,
    pub answering: Answering,
}

/// A phone, possibly behind a NAT that maps its address.
pub struct Phone {
    agent: UserAgent,
    user: String,
    address: SocketAddr,
    nat: Option<Nat>,
    events: Vec<(Instant, Event)>,
    rebound: Vec<Instant>,
}

/// One mapping of a NAT. It lets in only those that the phone has sent to since the mapping was made.
#[derive(Debug)]
struct Nat {
    outside: SocketAddr,
    admitted: BTreeSet<SocketAddr>,
}

/// How a box is set up.
#[derive(Clone, Debug)]
pub struct BoxPlan {
    pub name: String,
    pub address: SocketAddr,
    /// User and password.
    pub users: Vec<(String, String)>,
    /// Where calls to users of the domain are passed on to when they are not registered here.
    pub farm: Option<SocketAddr>,
    /// Seconds.
    pub min_expires: u32,
    /// Seconds.
    pub max_expires: u32,
}

/// A PBX that can crash and come back without its memory.
pub struct PbxBox {
    plan: BoxPlan,
    seed: u64,
    pbx: Option<Pbx>,
    crash: Crash,
    events: Vec<(Instant, PbxEvent)>,
    crashes: Vec<Instant>,
}

/// What is left of a crashed box.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// The host is gone: silence.
    Host,
    /// The process is gone: the host says that the port is unreachable.
    Process,
}

/// What a peer does with a datagram: when, from whom, the octets; to whom it sends what.
pub type Reaction = Box<dyn FnMut(Instant, SocketAddr, &[u8]) -> Vec<(SocketAddr, Vec<u8>)>>;

/// A party that records what it gets and answers by a closure, if it has one.
pub struct Peer {
    address: SocketAddr,
    reaction: Option<Reaction>,
    received: Vec<Datagram>,
    outgoing: Vec<(SocketAddr, Vec<u8>)>,
}

impl PhonePlan {
    /// The phone of `user` with that index: no NAT, registers for ten minutes, answers a call at once.
    pub fn new(index: usize, user: &str) -> Self {
        let address = phone_address(index);
        Self {
            user: user.to_owned(),
            password: password_of(user),
            address,
            outside: None,
            proxy: VIP,
            expires: 600,
            proves_calls_ahead: false,
            answering: Answering {
                ring_after: Duration::ZERO,
                answer_after: Some(Duration::from_millis(200)),
                code: 200,
                hang_up_after: None,
                media: SocketAddr::new(address.ip(), 40_000),
            },
        }
    }

    /// The same phone behind a NAT.
    pub fn behind_nat(index: usize, user: &str) -> Self {
        Self { outside: Some(outside_address(index, 0)), ..Self::new(index, user) }
    }
}

impl Phone {
    pub(crate) fn new(plan: PhonePlan, seed: u64) -> Self {
        let account = Account {
            user: plan.user.clone(),
            domain: DOMAIN.to_owned(),
            display: String::new(),
            password: plan.password,
            proxy: plan.proxy,
            contact: plan.address,
            expires: plan.expires,
        };
        let mut agent = UserAgent::new(account, seed);
        agent.set_answering(plan.answering);
        if plan.proves_calls_ahead {
            agent.prove_calls_ahead();
        }
        Self {
            agent,
            user: plan.user,
            address: plan.address,
            nat: plan.outside.map(Nat::new),
            events: Vec::new(),
            rebound: Vec::new(),
        }
    }

    pub fn agent(&self) -> &UserAgent {
        &self.agent
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    /// Where the world sees the phone: its NAT's outside address, or its own.
    pub fn public_address(&self) -> SocketAddr {
        self.nat.as_ref().map_or(self.address, |nat| nat.outside)
    }

    pub fn events(&self) -> &[(Instant, Event)] {
        &self.events
    }

    /// When its public address changed.
    pub fn rebound(&self) -> &[Instant] {
        &self.rebound
    }

    pub fn is_registered(&self) -> bool {
        self.agent.registered()
    }

    /// Whether our call was answered.
    pub fn is_answered(&self, wanted: CallId) -> bool {
        self.any(|event| matches!(event, Event::Answered { call, .. } if *call == wanted))
    }

    pub fn is_ringing(&self, wanted: CallId) -> bool {
        self.any(|event| matches!(event, Event::Ringing { call, .. } if *call == wanted))
    }

    /// Whether the caller acknowledged our answer.
    pub fn is_confirmed(&self, wanted: CallId) -> bool {
        self.any(|event| matches!(event, Event::Confirmed { call, .. } if *call == wanted))
    }

    /// Who ended the answered call (us?) and the code, if it is over.
    pub fn ended(&self, wanted: CallId) -> Option<(bool, u16)> {
        self.events.iter().find_map(|(_, event)| match event {
            Event::Ended { call, by_us, code } if *call == wanted => Some((*by_us, *code)),
            _ => None,
        })
    }

    /// The code that an unanswered call failed with.
    pub fn failed(&self, wanted: CallId) -> Option<u16> {
        self.events.iter().find_map(|(_, event)| match event {
            Event::Failed { call, code } if *call == wanted => Some(*code),
            _ => None,
        })
    }

    pub fn is_cancelled(&self, wanted: CallId) -> bool {
        self.any(|event| matches!(event, Event::Cancelled { call } if *call == wanted))
    }

    /// Codes of the re-INVITEs of a call, in order.
    pub fn reinvited(&self, wanted: CallId) -> Vec<u16> {
        self.events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Reinvited { call, code } if *call == wanted => Some(*code),
                _ => None,
            })
            .collect()
    }

    /// Calls from others, in order.
    pub fn incoming(&self) -> Vec<CallId> {
        self.events
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Incoming { call, .. } => Some(*call),
                _ => None,
            })
            .collect()
    }

    /// Whether nothing of the call is left on this phone, however it ended.
    pub fn is_over(&self, call: CallId) -> bool {
        self.ended(call).is_some() || self.failed(call).is_some() || self.is_cancelled(call)
    }

    fn any(&self, wanted: impl Fn(&Event) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }

    pub(crate) fn agent_mut(&mut self) -> &mut UserAgent {
        &mut self.agent
    }

    /// False: the NAT lets nobody in from there.
    pub(crate) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> bool {
        if self.nat.as_ref().is_some_and(|nat| !nat.admitted.contains(&from)) {
            return false;
        }
        self.agent.handle_datagram(now, from, bytes);
        true
    }

    /// The NAT forgets its mapping and makes a new one; the phone does not know.
    pub(crate) fn rebind(&mut self, now: Instant, outside: SocketAddr) {
        self.nat = Some(Nat::new(outside));
        self.rebound.push(now);
    }

    /// The phone itself gets a new address, and knows.
    pub(crate) fn move_to(&mut self, now: Instant, address: SocketAddr) {
        self.address = address;
        self.agent.move_to(address);
        self.rebound.push(now);
    }

    pub(crate) fn drain(&mut self, now: Instant) -> Vec<Datagram> {
        let mut sent = Vec::new();
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Send { to, bytes } => {
                    if let Some(nat) = self.nat.as_mut() {
                        nat.admitted.insert(to);
                    }
                    sent.push(datagram(now, self.public_address(), to, bytes));
                }
                Output::Event(event) => self.events.push((now, event)),
            }
        }
        sent
    }
}

impl Nat {
    fn new(outside: SocketAddr) -> Self {
        Self { outside, admitted: BTreeSet::new() }
    }
}

impl BoxPlan {
    /// The box with that index, which knows `users` and passes calls to absent ones on to the farm.
    pub fn new(index: usize, users: &[&str]) -> Self {
        Self {
            name: format!("pbx{}", index + 1),
            address: box_address(index),
            users: users.iter().map(|user| ((*user).to_owned(), password_of(user))).collect(),
            farm: Some(VIP),
            min_expires: 10,
            max_expires: 3_600,
        }
    }

    fn settings(&self) -> PbxSettings {
        PbxSettings {
            name: self.name.clone(),
            realm: DOMAIN.to_owned(),
            address: self.address,
            users: self.users.clone(),
            farm: self.farm,
            algorithm: Algorithm::Md5,
            domains: vec![DOMAIN.to_owned()],
            min_expires: self.min_expires,
            max_expires: self.max_expires,
        }
    }
}

impl PbxBox {
    pub(crate) fn new(plan: BoxPlan, seed: u64) -> Self {
        let pbx = Pbx::new(plan.settings(), seed);
        Self { plan, seed, pbx: Some(pbx), crash: Crash::Host, events: Vec::new(), crashes: Vec::new() }
    }

    pub fn address(&self) -> SocketAddr {
        self.plan.address
    }

    pub fn is_running(&self) -> bool {
        self.pbx.is_some()
    }

    /// User and contact URI of each binding; none while the box is down.
    pub fn bindings(&self) -> Vec<(String, String)> {
        self.pbx.as_ref().map(Pbx::bindings).unwrap_or_default()
    }

    /// How many bindings the user with the most of them has.
    pub fn most_bindings(&self) -> usize {
        self.pbx.as_ref().map_or(0, Pbx::most_bindings)
    }

    /// Calls that are up; none while the box is down.
    pub fn calls(&self) -> usize {
        self.pbx.as_ref().map_or(0, Pbx::calls)
    }

    pub fn events(&self) -> &[(Instant, PbxEvent)] {
        &self.events
    }

    /// When it crashed.
    pub fn crashes(&self) -> &[Instant] {
        &self.crashes
    }

    /// Whether senders learn from the network that a datagram was not received.
    pub(crate) fn reports_unreachable(&self) -> bool {
        self.pbx.is_none() && self.crash == Crash::Process
    }

    pub(crate) fn pbx_mut(&mut self) -> Option<&mut Pbx> {
        self.pbx.as_mut()
    }

    pub(crate) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) -> bool {
        match self.pbx.as_mut() {
            Some(pbx) => {
                pbx.handle_datagram(now, from, bytes);
                true
            }
            None => false,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(pbx) = self.pbx.as_mut() {
            pbx.handle_timeout(now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.pbx.as_ref()?.poll_timeout()
    }

    pub(crate) fn crash(&mut self, now: Instant, crash: Crash) {
        self.crash = crash;
        if self.pbx.take().is_some() {
            self.crashes.push(now);
        }
    }

    /// Starts it with an empty memory; a box that runs goes on.
    pub(crate) fn restart(&mut self) {
        if self.pbx.is_none() {
            self.seed = self.seed.wrapping_add(1);
            self.pbx = Some(Pbx::new(self.plan.settings(), self.seed));
        }
    }

    pub(crate) fn drain(&mut self, now: Instant) -> Vec<Datagram> {
        let mut sent = Vec::new();
        let Some(pbx) = self.pbx.as_mut() else {
            return sent;
        };
        while let Some(output) = pbx.poll_output() {
            match output {
                Output::Send { to, bytes } => sent.push(datagram(now, self.plan.address, to, bytes)),
                Output::Event(event) => self.events.push((now, event)),
            }
        }
        sent
    }
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, reaction: Option<Reaction>) -> Self {
        Self { address, reaction, received: Vec::new(), outgoing: Vec::new() }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn received(&self) -> &[Datagram] {
        &self.received
    }

    pub(crate) fn send(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.outgoing.push((to, bytes));
    }

    pub(crate) fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.received.push(datagram(now, from, self.address, bytes.to_vec()));
        if let Some(reaction) = self.reaction.as_mut() {
            self.outgoing.extend(reaction(now, from, bytes));
        }
    }

    pub(crate) fn drain(&mut self, now: Instant) -> Vec<Datagram> {
        let address = self.address;
        self.outgoing.drain(..).map(|(to, bytes)| datagram(now, address, to, bytes)).collect()
    }
}

/// The password of every user in the simulation.
pub fn password_of(user: &str) -> String {
    format!("secret of {user}")
}

fn datagram(at: Instant, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) -> Datagram {
    Datagram { at, from, to, bytes: Arc::from(bytes) }
}
