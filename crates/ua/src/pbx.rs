//! The PBX: a registrar and a back-to-back user agent (RFC 3261 §10.3 and §6), small.

mod bridge;
mod fault;
mod registrar;

pub use fault::Fault;

use crate::agenda::earliest;
use crate::endpoint::{Endpoint, EndpointSettings, Notice};
use crate::event::{Output, PbxEvent};
use crate::login::{Challenger, Verdict};
use crate::random::Random;
use crate::transact::ServerId;
use bridge::Bridges;
use fault::Delayed;
use registrar::Registrar;
use sip::digest::Algorithm;
use sip::message::{Limits, Message, Method, parse};
use sip::time::Instant;
use sip::uri::{self, Host, same_host};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// Where the farm in front of us says who sent a request; believed from nobody else.
const ORIGIN: &[u8] = b"X-Tandem-Origin";

/// What a PBX is told about itself.
#[derive(Clone, Debug)]
pub struct PbxSettings {
    /// Shown in Server and as the user of its Contact.
    pub name: String,
    /// Of its digest challenges.
    pub realm: String,
    /// Where it receives, and what its Via and Contact show.
    pub address: SocketAddr,
    /// User and password, of this PBX or of all PBXs with equal users.
    pub users: Vec<(String, String)>,
    /// The balancer in front of it. Calls to users of ours that are not registered here are passed on to it, but never one
    /// that another PBX passed on to us.
    pub farm: Option<SocketAddr>,
    pub algorithm: Algorithm,
    /// Hosts that a Request-URI may name, besides its own address and the farm's. The first one is written where a call is
    /// passed on.
    pub domains: Vec<String>,
    /// Seconds; a REGISTER that asks for less is answered 423.
    pub min_expires: u32,
    /// Seconds; a REGISTER that asks for more gets this.
    pub max_expires: u32,
}

/// A registrar and back-to-back user agent: what an Asterisk is to a phone, small. Everything is in memory: a new `Pbx` knows
/// nothing of what an old one knew, as after a crash.
///
/// Driven like a [`UserAgent`](crate::UserAgent).
pub struct Pbx {
    settings: PbxSettings,
    passwords: BTreeMap<String, String>,
    challenger: Challenger,
    endpoint: Endpoint,
    registrar: Registrar,
    bridges: Bridges,
    fault: Fault,
    delayed: Delayed,
    outputs: VecDeque<Output<PbxEvent>>,
}

/// Who sent a request, as far as it counts.
enum Sender {
    /// Another PBX, through the farm.
    Backend,
    /// Somebody who proved to be this user.
    User(String),
    /// Nobody yet; the line challenges him.
    Unknown { challenge: String },
}

impl Pbx {
    pub fn new(settings: PbxSettings, seed: u64) -> Self {
        let mut random = Random::new(seed, format!("{}@{}", settings.name, settings.address).as_bytes());
        let challenger = Challenger::new(&settings.realm, settings.algorithm, random.number());
        let endpoint = EndpointSettings {
            address: settings.address,
            user: contact_user(&settings.name),
            product: format!("tandem-pbx {}", settings.name),
            fallback: settings.farm.unwrap_or(settings.address),
            login: None,
            options: &[b"path"],
        };
        Self {
            passwords: settings.users.iter().cloned().collect(),
            registrar: Registrar::new(settings.min_expires, settings.max_expires),
            settings,
            challenger,
            endpoint: Endpoint::new(endpoint, random),
            bridges: Bridges::new(),
            fault: Fault::None,
            delayed: Delayed::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes a datagram that came from `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        match self.fault {
            Fault::Silent => return,
            Fault::Slow(wait) if fault::waits(bytes) => {
                return self.delayed.push(now + wait, from, bytes);
            }
            Fault::Refuse(code) => {
                if self.refuses(from, bytes, code) {
                    return self.drain(now);
                }
            }
            Fault::None | Fault::Slow(_) => {}
        }
        self.endpoint.handle_datagram(now, from, bytes);
        self.drain(now);
    }

    /// Does what is due; to be called when [`poll_timeout`](Self::poll_timeout) has come. Earlier calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((from, bytes)) = self.delayed.take_due(now) {
            self.endpoint.handle_datagram(now, from, &bytes);
        }
        self.endpoint.handle_timeout(now);
        for user in self.registrar.lapse(now) {
            self.tell(PbxEvent::Unregistered { user });
        }
        self.drain(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = earliest(self.delayed.deadline(), self.registrar.deadline());
        earliest(own, self.endpoint.poll_timeout())
    }

    /// The next datagram or event, oldest first.
    pub fn poll_output(&mut self) -> Option<Output<PbxEvent>> {
        self.outputs.pop_front()
    }

    /// User and contact URI of each binding, in order of the users' names.
    pub fn bindings(&self) -> Vec<(String, String)> {
        self.registrar.bindings()
    }

    /// How many bindings the user with the most of them has.
    pub fn most_bindings(&self) -> usize {
        self.registrar.most_bindings()
    }

    /// Calls that are not over, ringing ones included.
    pub fn calls(&self) -> usize {
        self.bridges.count()
    }

    /// How it misbehaves from now on.
    pub fn set_fault(&mut self, fault: Fault) {
        self.fault = fault;
    }

    /// Refuses a request outright. What is no request takes its usual way.
    fn refuses(&mut self, from: SocketAddr, bytes: &[u8], code: u16) -> bool {
        match parse(bytes, &Limits::default()) {
            // Whatever ails it, its transactions repeat what they have answered.
            Ok(message)
                if message.is_request() && message.method() != Method::Ack && !self.endpoint.knows(&message) =>
            {
                self.endpoint.refuse_without_transaction(&message, from, code);
                true
            }
            _ => false,
        }
    }

    fn tell(&mut self, event: PbxEvent) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Hands on what the endpoint has to say, until it has nothing more.
    fn drain(&mut self, now: Instant) {
        loop {
            while let Some((to, bytes)) = self.endpoint.poll_send() {
                if self.fault != Fault::Silent {
                    self.outputs.push_back(Output::Send { to, bytes });
                }
            }
            let Some(notice) = self.endpoint.poll_notice() else {
                return;
            };
            self.on_notice(now, notice);
        }
    }

    fn on_notice(&mut self, now: Instant, notice: Notice) {
        match notice {
            Notice::Incoming { leg, source, request } => self.on_incoming(now, leg, source, &request),
            Notice::Request { server, request } => self.on_request(now, server, &request),
            // A PBX places no requests of its own outside of calls.
            Notice::Response { .. } => {}
            other => self.on_call_notice(now, other),
        }
    }

    fn on_request(&mut self, now: Instant, server: ServerId, request: &[u8]) {
        let Ok(message) = parse(request, &Limits::default()) else {
            return;
        };
        match message.method() {
            Method::Register => self.on_register(now, server, &message),
            Method::Info | Method::Message => self.endpoint.answer(now, server, &message, 405, b""),
            _ => self.endpoint.answer_by_method(now, server, &message),
        }
    }

    fn on_register(&mut self, now: Instant, server: ServerId, request: &Message<'_>) {
        let user = match self.prove(now, request) {
            Sender::User(user) => user,
            Sender::Backend => return self.endpoint.answer(now, server, request, 403, b""),
            Sender::Unknown { challenge } => {
                return self.endpoint.answer(now, server, request, 401, challenge.as_bytes());
            }
        };
        let of_record = request.to().and_then(|to| to.uri());
        let Some(of_record) = of_record.filter(|uri| self.is_ours(uri.host)) else {
            return self.endpoint.answer(now, server, request, 404, b"");
        };
        if of_record.user != Some(user.as_bytes()) {
            return self.endpoint.answer(now, server, request, 403, b"");
        }
        let mut events = Vec::new();
        let (code, lines) = self.registrar.register(now, &user, request, &mut events);
        self.endpoint.answer(now, server, request, code, &lines);
        self.outputs.extend(events.into_iter().map(Output::Event));
    }

    /// Who sent a request: what the farm says about other PBXs is believed, all others have to prove it.
    fn sender(&mut self, now: Instant, source: SocketAddr, request: &Message<'_>) -> Sender {
        let origin = request.named(ORIGIN).next().map(|header| header.value);
        let from_backend = origin.is_some_and(|origin| origin.starts_with(b"backend "));
        if from_backend && self.settings.farm == Some(source) { Sender::Backend } else { self.prove(now, request) }
    }

    fn prove(&mut self, now: Instant, request: &Message<'_>) -> Sender {
        let stale = match self.challenger.judge(now, request, &self.passwords) {
            Verdict::Proven(user) => return Sender::User(user),
            Verdict::Unproven => false,
            Verdict::Stale => true,
            Verdict::Wrong(user) => {
                self.tell(PbxEvent::AuthFailed { user });
                false
            }
        };
        Sender::Unknown { challenge: self.challenger.challenge(now, stale) }
    }

    /// The host is one of our domains, our own address or the farm's.
    fn is_ours(&self, host: Host<'_>) -> bool {
        match host {
            Host::Ip(ip) if ip == self.settings.address.ip() => true,
            Host::Ip(ip) if self.settings.farm.is_some_and(|farm| farm.ip() == ip) => true,
            _ => self.settings.domains.iter().any(|domain| {
                let uri = format!("sip:{domain}");
                uri::parse(uri.as_bytes()).is_ok_and(|uri| same_host(uri.host, host))
            }),
        }
    }
}

/// The name as a user part: what would need escapes is left out.
fn contact_user(name: &str) -> String {
    let user: String =
        name.chars().filter(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(*letter)).collect();
    if user.is_empty() { "pbx".to_owned() } else { user }
}
