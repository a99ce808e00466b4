//! Client transactions (RFC 3261 §17.1): requests of ours that wait for responses.

use super::{NewRequest, Sends};
use crate::agenda::Agenda;
use sip::build;
use sip::message::{Limits, Message, parse};
use sip::time::Instant;
use sip::transaction::{ClientAction, InviteClient, Link, OtherClient, Timing};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// One request of ours; never used twice by an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ClientId(u64);

pub(crate) struct Clients<T> {
    timing: Timing,
    link: Link,
    last: u64,
    entries: BTreeMap<ClientId, Client<T>>,
    by_branch: BTreeMap<BranchKey, ClientId>,
    agenda: Agenda<ClientId>,
}

/// How a response finds its request (RFC 3261 §17.1.3): CANCEL has the branch of its INVITE, hence the method.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct BranchKey {
    branch: Vec<u8>,
    method: Vec<u8>,
}

struct Client<T> {
    machine: Machine,
    key: BranchKey,
    to: SocketAddr,
    request: Vec<u8>,
    /// It is repeated no more.
    hushed: bool,
    /// A final response came.
    answered: bool,
    /// The ACK of a final failure, which belongs to the transaction.
    failure_ack: Option<Vec<u8>>,
    /// The ACKs of 2xx responses, one for each branch of a fork that answered.
    acknowledgements: Vec<Acknowledgement>,
    task: T,
}

struct Acknowledgement {
    tag: Vec<u8>,
    to: SocketAddr,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Machine {
    Invite(InviteClient),
    Other(OtherClient),
}

impl<T> Clients<T> {
    pub(crate) fn new(timing: Timing) -> Self {
        Self {
            timing,
            link: Link::Datagram,
            last: 0,
            entries: BTreeMap::new(),
            by_branch: BTreeMap::new(),
            agenda: Agenda::new(),
        }
    }

    pub(crate) fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    /// The owner has just sent the request.
    pub(crate) fn start(&mut self, now: Instant, request: NewRequest<T>) -> ClientId {
        self.last += 1;
        let id = ClientId(self.last);
        let machine = if request.method == "INVITE" {
            Machine::Invite(InviteClient::start(now, self.link, &self.timing))
        } else {
            Machine::Other(OtherClient::start(now, self.link, &self.timing))
        };
        let key = BranchKey { branch: request.branch, method: request.method.as_bytes().to_vec() };
        self.by_branch.insert(key.clone(), id);
        self.agenda.set(id, machine.deadline());
        let client = Client {
            machine,
            key,
            to: request.to,
            request: request.bytes,
            hushed: false,
            answered: false,
            failure_ack: None,
            acknowledgements: Vec::new(),
            task: request.task,
        };
        self.entries.insert(id, client);
        id
    }

    /// The CANCEL of an INVITE of ours.
    pub(crate) fn cancellation(&self, invite: ClientId, task: T) -> Option<NewRequest<T>> {
        let client = self.entries.get(&invite)?;
        let message = parse(&client.request, &Limits::default()).ok()?;
        let mut bytes = Vec::new();
        build::cancel(&message, b"", &mut bytes);
        Some(NewRequest { to: client.to, branch: client.key.branch.clone(), method: "CANCEL", bytes, task })
    }

    pub(crate) fn keep_acknowledgement(&mut self, invite: ClientId, tag: &[u8], to: SocketAddr, bytes: Vec<u8>) {
        if let Some(client) = self.entries.get_mut(&invite) {
            client.acknowledgements.push(Acknowledgement { tag: tag.to_vec(), to, bytes });
        }
    }

    pub(crate) fn task(&self, id: ClientId) -> Option<&T> {
        self.entries.get(&id).map(|client| &client.task)
    }

    pub(crate) fn hush(&mut self, id: ClientId) {
        if let Some(client) = self.entries.get_mut(&id) {
            client.hushed = true;
        }
    }

    pub(crate) fn repeat_unanswered(&self, sends: &mut Sends) {
        if self.link == Link::Stream {
            return;
        }
        let waiting = self.entries.values().filter(|client| !client.answered && client.key.method != b"INVITE");
        sends.extend(waiting.map(|client| (client.to, client.request.clone())));
    }

    /// Drops a transaction and gives back its task.
    pub(crate) fn forget(&mut self, id: ClientId) -> Option<T> {
        let client = self.entries.remove(&id)?;
        self.by_branch.remove(&client.key);
        self.agenda.set(id, None);
        Some(client.task)
    }

    /// Drops all transactions with such a task.
    pub(crate) fn forget_all(&mut self, is_meant: impl Fn(&T) -> bool) {
        let meant: Vec<ClientId> =
            self.entries.iter().filter(|(_, client)| is_meant(&client.task)).map(|(id, _)| *id).collect();
        for id in meant {
            self.forget(id);
        }
    }

    pub(crate) fn on_response(&mut self, now: Instant, response: &Message<'_>, sends: &mut Sends) -> Option<ClientId> {
        let code = response.status_line()?.code;
        let branch = response.top_via()?.branch()?.to_vec();
        let key = BranchKey { branch, method: response.method().as_bytes().to_vec() };
        let id = *self.by_branch.get(&key)?;
        let client = self.entries.get_mut(&id)?;
        let (machine, action) = client.machine.on_response(now, code, &self.timing);
        client.machine = machine;
        client.answered |= code >= 200;
        self.agenda.set(id, machine.deadline());
        let pass_up = match action {
            ClientAction::PassUp => !client.repeats_acknowledgement(code, response, sends),
            ClientAction::PassUpAndAck => {
                client.acknowledge_failure(response, sends);
                true
            }
            ClientAction::Ack => {
                if let Some(ack) = &client.failure_ack {
                    sends.push_back((client.to, ack.clone()));
                }
                false
            }
            _ => false,
        };
        pass_up.then_some(id)
    }

    /// Fires what is due; the task of a transaction that timed out comes back.
    pub(crate) fn on_timeout(&mut self, now: Instant, sends: &mut Sends) -> Option<T> {
        while let Some(id) = self.agenda.take_due(now) {
            let Some(client) = self.entries.get_mut(&id) else {
                continue;
            };
            let (machine, action) = client.machine.on_timer(now, &self.timing);
            client.machine = machine;
            match action {
                ClientAction::Retransmit if client.hushed => {}
                ClientAction::Retransmit => sends.push_back((client.to, client.request.clone())),
                ClientAction::Timeout => return self.forget(id),
                ClientAction::Terminated => {
                    self.forget(id);
                    continue;
                }
                _ => {}
            }
            self.agenda.set(id, machine.deadline());
        }
        None
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.agenda.first()
    }
}

impl<T> Client<T> {
    /// A 2xx whose ACK was sent before gets that ACK again, and nobody else has to see it.
    fn repeats_acknowledgement(&self, code: u16, response: &Message<'_>, sends: &mut Sends) -> bool {
        if !(200..300).contains(&code) || self.acknowledgements.is_empty() {
            return false;
        }
        let tag = response.to().and_then(|to| to.tag()).unwrap_or_default();
        let Some(known) = self.acknowledgements.iter().find(|known| known.tag == tag) else {
            return false;
        };
        sends.push_back((known.to, known.bytes.clone()));
        true
    }

    fn acknowledge_failure(&mut self, response: &Message<'_>, sends: &mut Sends) {
        let mut ack = Vec::new();
        if let Ok(invite) = parse(&self.request, &Limits::default()) {
            build::ack(&invite, response, &mut ack);
        }
        sends.push_back((self.to, ack.clone()));
        self.failure_ack = Some(ack);
    }
}

impl Machine {
    fn on_response(self, now: Instant, code: u16, timing: &Timing) -> (Self, ClientAction) {
        match self {
            Self::Invite(machine) => {
                let (machine, action) = machine.on_response(now, code, timing);
                (Self::Invite(machine), action)
            }
            Self::Other(machine) => {
                let (machine, action) = machine.on_response(now, code, timing);
                (Self::Other(machine), action)
            }
        }
    }

    fn on_timer(self, now: Instant, timing: &Timing) -> (Self, ClientAction) {
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
