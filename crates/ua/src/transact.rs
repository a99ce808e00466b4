//! The transaction layer of an endpoint (RFC 3261 §17): the machines of `sip`, each with the datagrams that it speaks of.
//!
//! A client transaction carries a task of its user's making, so that a response, a time-out and the end of the transaction
//! all find and free it in one place. The user also leaves the ACKs of 2xx responses here: they belong to the transaction
//! user by the RFC, but have to be repeated as long as the transaction lives, which may be longer than the call.

mod client;
mod server;

pub(crate) use client::ClientId;
pub(crate) use server::{Arrival, ServerId};

use crate::agenda::earliest;
use client::Clients;
use server::Servers;
use sip::Checked;
use sip::message::Message;
use sip::time::Instant;
use sip::transaction::{Link, Timing};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Datagrams that wait to be sent, oldest first.
pub(crate) type Sends = VecDeque<(SocketAddr, Vec<u8>)>;

/// All transactions of one endpoint.
pub(crate) struct Transactions<T> {
    clients: Clients<T>,
    servers: Servers,
    sends: Sends,
}

impl<T> Transactions<T> {
    pub(crate) fn new(timing: Timing) -> Self {
        Self { clients: Clients::new(timing), servers: Servers::new(timing), sends: Sends::new() }
    }

    /// What carries the transactions that begin from now on; without it they retransmit.
    pub(crate) fn set_link(&mut self, link: Link) {
        self.clients.set_link(link);
        self.servers.set_link(link);
    }

    /// Sends a datagram that belongs to no transaction: the ACK or the retransmission of a 2xx.
    pub(crate) fn send_plain(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        self.sends.push_back((to, bytes));
    }

    /// Sends a request and starts its transaction.
    pub(crate) fn send(&mut self, now: Instant, request: NewRequest<T>) -> ClientId {
        self.sends.push_back((request.to, request.bytes.clone()));
        self.clients.start(now, request)
    }

    /// Sends the CANCEL of an INVITE under way; its own transaction carries `task` (RFC 3261 §9.1).
    pub(crate) fn cancel(&mut self, now: Instant, invite: ClientId, task: T) {
        if let Some(request) = self.clients.cancellation(invite, task) {
            self.send(now, request);
        }
    }

    /// Sends the ACK of a 2xx, and again whenever that 2xx comes again.
    pub(crate) fn acknowledge(&mut self, invite: ClientId, tag: &[u8], to: SocketAddr, bytes: Vec<u8>) {
        self.sends.push_back((to, bytes.clone()));
        self.clients.keep_acknowledgement(invite, tag, to, bytes);
    }

    pub(crate) fn task(&self, id: ClientId) -> Option<&T> {
        self.clients.task(id)
    }

    /// The request is repeated no more; its answers still find it.
    pub(crate) fn hush(&mut self, id: ClientId) {
        self.clients.hush(id);
    }

    /// Sends once more what was not answered finally, but no INVITE; nothing over a stream.
    pub(crate) fn repeat_unanswered(&mut self) {
        self.clients.repeat_unanswered(&mut self.sends);
    }

    /// Drops a client transaction without a word.
    pub(crate) fn forget(&mut self, id: ClientId) {
        self.clients.forget(id);
    }

    /// Drops all client transactions with such a task, without a word.
    pub(crate) fn forget_all(&mut self, is_meant: impl Fn(&T) -> bool) {
        self.clients.forget_all(is_meant);
    }

    /// The transaction whose user has to see this response, if any.
    pub(crate) fn on_response(&mut self, now: Instant, response: &Message<'_>) -> Option<ClientId> {
        self.clients.on_response(now, response, &mut self.sends)
    }

    /// What a request that came from `source` is to the transaction layer.
    pub(crate) fn on_request(&mut self, now: Instant, source: SocketAddr, request: &Checked<'_>) -> Arrival {
        self.servers.on_request(now, source, request, &mut self.sends)
    }

    /// Is this the retransmission of a request that has a transaction?
    pub(crate) fn is_known(&self, request: &Checked<'_>) -> bool {
        self.servers.is_known(request)
    }

    /// The INVITE that a CANCEL aims at.
    pub(crate) fn cancelled(&self, cancel: &Checked<'_>) -> Option<ServerId> {
        self.servers.cancelled(cancel)
    }

    /// Sends a response in a server transaction; a second final response is swallowed.
    pub(crate) fn respond(&mut self, now: Instant, id: ServerId, code: u16, bytes: Vec<u8>) {
        self.servers.respond(now, id, code, bytes, &mut self.sends);
    }

    /// Where the responses of a server transaction go.
    pub(crate) fn response_address(&self, id: ServerId) -> Option<SocketAddr> {
        self.servers.response_address(id)
    }

    /// Fires what is due. The task of a client transaction that timed out comes back; to be called until `None`.
    pub(crate) fn on_timeout(&mut self, now: Instant) -> Option<T> {
        self.servers.on_timeout(now, &mut self.sends);
        self.clients.on_timeout(now, &mut self.sends)
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        earliest(self.clients.deadline(), self.servers.deadline())
    }

    pub(crate) fn poll_send(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.sends.pop_front()
    }
}

/// A request about to be sent for the first time.
pub(crate) struct NewRequest<T> {
    pub(crate) to: SocketAddr,
    pub(crate) branch: Vec<u8>,
    pub(crate) method: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) task: T,
}
