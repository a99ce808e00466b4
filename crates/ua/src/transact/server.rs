//! Server transactions (RFC 3261 §17.2): requests of others that we answer.

use super::Sends;
use crate::address;
use crate::agenda::Agenda;
use crate::limits;
use sip::Checked;
use sip::message::{Message, Method};
use sip::time::Instant;
use sip::transaction::{InviteServer, KeyClass, Link, OtherServer, ServerAction, Timing, key};
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;
use std::net::SocketAddr;

/// One request of somebody else: the hash of its transaction key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ServerId(u64);

/// What a request is to the transaction layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// The first of its transaction: wants an answer.
    New(ServerId),
    /// An ACK for the transaction user: of a 2xx, or of nothing that is known.
    Acknowledgement,
    /// The same request came before by another path (RFC 3261 §8.2.2.2): 482, without a transaction.
    Merged,
    /// There is no room for it: 503, without a transaction.
    Overload,
    /// Dealt with: a retransmission, or the ACK of a failure.
    Absorbed,
}

pub(crate) struct Servers {
    timing: Timing,
    link: Link,
    entries: BTreeMap<ServerId, Server>,
    /// Call-ID, From tag, CSeq of the requests outside dialogs that are under way.
    origins: BTreeMap<Vec<u8>, ServerId>,
    agenda: Agenda<ServerId>,
}

struct Server {
    machine: Machine,
    origin: Option<Vec<u8>>,
    to: SocketAddr,
    /// The last response, for retransmissions of the request. Empty until there is one.
    response: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Machine {
    Invite(InviteServer),
    Other(OtherServer),
}

impl Servers {
    pub(crate) fn new(timing: Timing) -> Self {
        Self { timing, link: Link::Datagram, entries: BTreeMap::new(), origins: BTreeMap::new(), agenda: Agenda::new() }
    }

    pub(crate) fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        source: SocketAddr,
        request: &Checked<'_>,
        sends: &mut Sends,
    ) -> Arrival {
        let id = identity(request, KeyClass::Own);
        let is_ack = request.method() == Method::Ack;
        if let Some(server) = self.entries.get_mut(&id) {
            let (machine, action) = server.machine.on_request(now, is_ack, &self.timing);
            server.machine = machine;
            self.agenda.set(id, machine.deadline());
            match action {
                ServerAction::Retransmit => sends.push_back((server.to, server.response.clone())),
                ServerAction::PassUp => return Arrival::Acknowledgement,
                _ => {}
            }
            return Arrival::Absorbed;
        }
        if is_ack {
            return Arrival::Acknowledgement;
        }
        if self.entries.len() >= limits::SERVER_TRANSACTIONS {
            return Arrival::Overload;
        }
        let origin = origin(request);
        if let Some(origin) = &origin {
            if self.origins.contains_key(origin) {
                return Arrival::Merged;
            }
            self.origins.insert(origin.clone(), id);
        }
        let machine = Machine::start(request.method(), self.link);
        let to = address::of_response(request, source);
        self.entries.insert(id, Server { machine, origin, to, response: Vec::new() });
        Arrival::New(id)
    }

    /// Is this the retransmission of a request that has a transaction?
    pub(crate) fn is_known(&self, request: &Checked<'_>) -> bool {
        self.entries.contains_key(&identity(request, KeyClass::Own))
    }

    pub(crate) fn cancelled(&self, cancel: &Checked<'_>) -> Option<ServerId> {
        let id = identity(cancel, KeyClass::Cancelled);
        self.entries.contains_key(&id).then_some(id)
    }

    pub(crate) fn respond(&mut self, now: Instant, id: ServerId, code: u16, bytes: Vec<u8>, sends: &mut Sends) {
        let Some(server) = self.entries.get_mut(&id) else {
            return;
        };
        let (machine, action) = server.machine.on_send_response(now, code, &self.timing);
        server.machine = machine;
        self.agenda.set(id, machine.deadline());
        if action == ServerAction::None {
            sends.push_back((server.to, bytes.clone()));
            server.response = bytes;
        }
    }

    pub(crate) fn response_address(&self, id: ServerId) -> Option<SocketAddr> {
        self.entries.get(&id).map(|server| server.to)
    }

    /// Fires what is due. A failure that nobody acknowledged is forgotten like any other: there is nobody to tell.
    pub(crate) fn on_timeout(&mut self, now: Instant, sends: &mut Sends) {
        while let Some(id) = self.agenda.take_due(now) {
            let Some(server) = self.entries.get_mut(&id) else {
                continue;
            };
            let (machine, action) = server.machine.on_timer(now, &self.timing);
            server.machine = machine;
            match action {
                ServerAction::Retransmit => sends.push_back((server.to, server.response.clone())),
                ServerAction::Timeout | ServerAction::Terminated => {
                    self.forget(id);
                    continue;
                }
                _ => {}
            }
            self.agenda.set(id, machine.deadline());
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.agenda.first()
    }

    fn forget(&mut self, id: ServerId) {
        if let Some(server) = self.entries.remove(&id)
            && let Some(origin) = server.origin
        {
            self.origins.remove(&origin);
        }
    }
}

impl Machine {
    fn start(method: Method<'_>, link: Link) -> Self {
        match method {
            Method::Invite => Self::Invite(InviteServer::start(link)),
            _ => Self::Other(OtherServer::start(link)),
        }
    }

    fn on_request(self, now: Instant, is_ack: bool, timing: &Timing) -> (Self, ServerAction) {
        match self {
            Self::Invite(machine) => {
                let (machine, action) = if is_ack { machine.on_ack(now, timing) } else { machine.on_request() };
                (Self::Invite(machine), action)
            }
            Self::Other(machine) => {
                let (machine, action) = machine.on_request();
                (Self::Other(machine), action)
            }
        }
    }

    fn on_send_response(self, now: Instant, code: u16, timing: &Timing) -> (Self, ServerAction) {
        match self {
            Self::Invite(machine) => {
                let (machine, action) = machine.on_send_response(now, code, timing);
                (Self::Invite(machine), action)
            }
            Self::Other(machine) => {
                let (machine, action) = machine.on_send_response(now, code, timing);
                (Self::Other(machine), action)
            }
        }
    }

    fn on_timer(self, now: Instant, timing: &Timing) -> (Self, ServerAction) {
        match self {
            Self::Invite(machine) => {
                let (machine, action) = machine.on_timer(now, timing);
                (Self::Invite(machine), action)
            }
            Self::Other(machine) => {
                let (machine, action) = machine.on_timer(now, timing);
                (Self::Other(machine), action)
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.deadline(),
            Self::Other(machine) => machine.deadline(),
        }
    }
}

/// The keys of `DefaultHasher::new` are fixed, so that the same run gives the same identities.
fn identity(request: &Checked<'_>, class: KeyClass) -> ServerId {
    let mut hasher = DefaultHasher::new();
    key(request, &mut hasher, class);
    ServerId(hasher.finish())
}

/// What stays the same when a fork brings a request twice; `None` where that is no fault: within dialogs, and for CANCEL.
fn origin(request: &Message<'_>) -> Option<Vec<u8>> {
    if request.method() == Method::Cancel || request.to()?.tag().is_some() {
        return None;
    }
    let cseq = request.cseq()?;
    let parts: [&[u8]; 4] = [
        request.call_id()?,
        request.from()?.tag().unwrap_or_default(),
        &cseq.number.to_be_bytes(),
        cseq.method.as_bytes(),
    ];
    Some(parts.join(&b'\n'))
}
