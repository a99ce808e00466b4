//! One probe at work, with its sockets.

use super::connection::Connection;
use super::datagrams::{self, Datagrams, Sent};
use super::fault::Fault;
use super::trust::Trusts;
use super::{Job, Linger, StartError};
use crate::course::reserve;
use crate::{Ends, Output, Probe, Report, Transport, Unreachable};
use client::Terms;
use nix::poll::{PollFd, PollFlags};
use rustls::pki_types::ServerName;
use sip::Instant;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

pub(super) struct Run {
    probe: Probe,
    signalling: Signalling,
    media: Datagrams,
    transport: Transport,
    linger: Linger,
    /// The hard end.
    limit: Instant,
    /// How long an interrupted one may clean up.
    reserve: Duration,
    is_told: bool,
    /// It was interrupted.
    is_hurried: bool,
}

/// One socket of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Media,
    Datagrams,
    Connection(usize),
}

enum Signalling {
    Datagrams(Datagrams),
    /// To the proxy, and to the registrar where it is another one.
    Connections(Vec<Connection>),
}

/// Room that all runs share.
pub(super) struct Room {
    octets: Vec<u8>,
    messages: Vec<Vec<u8>>,
}

/// The connections that were begun, and those that failed at once, the one that is needed first before the other.
struct Begun {
    connections: Vec<Connection>,
    failed: Vec<(SocketAddr, Fault)>,
}

impl Run {
    /// Opens the sockets and sends the first message.
    pub(super) fn start(job: Job, now: Instant, seed: u64, trusts: &mut Trusts) -> Result<Self, StartError> {
        let from = own_address(&job)?;
        let (signalling, failed) = if job.plan.transport.is_stream() {
            let begun = begin(&job, from, trusts)?;
            (Signalling::Connections(begun.connections), begun.failed)
        } else {
            (Signalling::Datagrams(Datagrams::open(from)?), Vec::new())
        };
        let local = match &signalling {
            Signalling::Datagrams(datagrams) => datagrams.local(),
            Signalling::Connections(connections) => connections.first().map_or(from, Connection::local),
        };
        let media = Datagrams::open_even(from)?;
        let ends = Ends { signalling: local, media: media.local() };
        let (limit, transport, record) = (job.plan.limit, job.plan.transport, job.record);
        let mut probe = Probe::new(now, job.plan, ends, seed);
        if record {
            probe.record();
        }
        let reserve = reserve(limit);
        let linger = job.linger;
        let (is_told, is_hurried) = (false, false);
        let limit = now + limit;
        let mut run = Self { probe, signalling, media, transport, linger, limit, reserve, is_told, is_hurried };
        for (peer, fault) in failed {
            run.lose(now, peer, &fault);
        }
        run.advance(now);
        Ok(run)
    }

    /// Adds the sockets to those that are watched.
    pub(super) fn watch<'a>(&'a self, job: u64, watched: &mut Vec<PollFd<'a>>, owners: &mut Vec<(u64, End)>) {
        watched.push(PollFd::new(self.media.as_fd(), PollFlags::POLLIN));
        owners.push((job, End::Media));
        match &self.signalling {
            Signalling::Datagrams(datagrams) => {
                watched.push(PollFd::new(datagrams.as_fd(), PollFlags::POLLIN));
                owners.push((job, End::Datagrams));
            }
            Signalling::Connections(connections) => {
                // One that is over would be reported for ever.
                for (index, connection) in connections.iter().enumerate().filter(|(_, one)| !one.is_over()) {
                    watched.push(PollFd::new(connection.as_fd(), connection.interest()));
                    owners.push((job, End::Connection(index)));
                }
            }
        }
    }

    /// Takes what has come at one socket.
    pub(super) fn serve(&mut self, now: Instant, end: End, room: &mut Room) {
        match end {
            End::Media => self.hear(now, room),
            End::Datagrams => self.receive(now, room),
            End::Connection(index) => self.read(now, index, room),
        }
    }

    /// Does what is due, and sends what there is to send.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.probe.poll_timeout().is_some_and(|due| due <= now) {
            self.probe.handle_timeout(now);
        }
        self.send(now);
        // Whoever stays and has only now come to its verdict clears up beyond the limit.
        if now >= self.limit && !self.probe.is_over() && !self.has_news() {
            self.abandon(now);
        }
    }

    /// Says its last words.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.probe.abandon(now);
        self.send(now);
    }

    /// Its report was taken.
    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// Ends it early, within its reserve.
    pub(super) fn interrupt(&mut self, now: Instant) {
        self.probe.interrupt(now);
        self.limit = self.limit.min(now + self.reserve);
        self.is_hurried = true;
        self.send(now);
    }

    /// The report, once. Whoever stays to clean up has some time for it from now on.
    pub(super) fn take_report(&mut self, now: Instant) -> Option<Report> {
        if !self.has_news() {
            return None;
        }
        self.is_told = true;
        if self.linger == Linger::Stay && !self.is_hurried {
            self.limit = now + CLEAN_UP;
        }
        Some(self.probe.report(now))
    }

    /// Nothing is left to be done, and everything was told.
    pub(super) fn is_finished(&self) -> bool {
        self.is_told && self.probe.is_over()
    }

    /// When something is due, if nothing comes before.
    pub(super) fn due(&self) -> Instant {
        if self.has_news() {
            return Instant::default();
        }
        self.probe.poll_timeout().map_or(self.limit, |due| due.min(self.limit))
    }

    /// Says farewell where the transport knows one.
    pub(super) fn close(&mut self) {
        if let Signalling::Connections(connections) = &mut self.signalling {
            connections.iter_mut().filter(|one| !one.is_over()).for_each(Connection::close);
        }
    }

    fn has_news(&self) -> bool {
        let is_ready = match self.linger {
            Linger::Stay => self.probe.is_decided() || self.probe.is_over(),
            Linger::Stop => self.probe.is_over(),
        };
        is_ready && !self.is_told
    }

    fn hear(&mut self, now: Instant, room: &mut Room) {
        for _ in 0..PACKETS_AT_ONCE {
            let Some((_, length)) = self.media.receive(&mut room.octets) else { break };
            self.probe.handle_audio(now, room.octets.get(..length).unwrap_or_default());
        }
        while self.media.take_returned(&mut room.octets).is_some() {
            self.probe.handle_unreachable(now, Unreachable::Media);
        }
    }

    fn receive(&mut self, now: Instant, room: &mut Room) {
        let Signalling::Datagrams(datagrams) = &self.signalling else { return };
        for _ in 0..MESSAGES_AT_ONCE {
            let Some((from, length)) = datagrams.receive(&mut room.octets) else { break };
            self.probe.handle_message(now, from, room.octets.get(..length).unwrap_or_default());
        }
        while let Some(peer) = datagrams.take_returned(&mut room.octets) {
            self.probe.handle_unreachable(now, Unreachable::Signalling(peer));
        }
    }

    fn read(&mut self, now: Instant, index: usize, room: &mut Room) {
        let Signalling::Connections(connections) = &mut self.signalling else { return };
        let Some(connection) = connections.get_mut(index) else { return };
        let peer = connection.peer();
        let outcome = connection.serve(&mut room.octets, &mut room.messages);
        // What came before the end counts.
        for message in room.messages.drain(..) {
            self.probe.handle_message(now, peer, &message);
        }
        if let Err(fault) = outcome {
            self.lose(now, peer, &fault);
        }
    }

    fn send(&mut self, now: Instant) {
        while let Some(output) = self.probe.poll_output() {
            match output {
                Output::Message { to, bytes } => self.send_message(now, to, &bytes),
                Output::Audio { to, bytes } => match self.media.send(to, &bytes) {
                    Sent::Away => {}
                    Sent::NoWay => self.probe.handle_unreachable(now, Unreachable::Media),
                    Sent::HeldBack => self.probe.handle_unreachable(now, Unreachable::AudioHeldBack),
                },
            }
        }
    }

    fn send_message(&mut self, now: Instant, to: SocketAddr, message: &[u8]) {
        match &mut self.signalling {
            Signalling::Datagrams(datagrams) => match datagrams.send(to, message) {
                Sent::Away => {}
                Sent::NoWay => self.probe.handle_unreachable(now, Unreachable::Signalling(to)),
                Sent::HeldBack => {
                    self.probe.handle_unreachable(now, Unreachable::HeldBack { message: message.to_vec() });
                }
            },
            Signalling::Connections(connections) => {
                // What is meant for one that could not be begun must not go to the other.
                let Some(connection) = connections.iter_mut().find(|one| one.peer() == to) else { return };
                if let Err(fault) = connection.send(message) {
                    self.lose(now, to, &fault);
                }
            }
        }
    }

    fn lose(&mut self, now: Instant, peer: SocketAddr, fault: &Fault) {
        // That a peer closes when everything is done is no fault.
        if self.probe.is_over() {
            return;
        }
        let transport = self.transport;
        let text = match fault {
            Fault::Refused => format!("nothing listens at {transport}:{peer}"),
            other => format!("the connection to {transport}:{peer} failed: {other}"),
        };
        self.probe.handle_unreachable(now, Unreachable::Connection { peer, text });
    }
}

impl Room {
    pub(super) fn new() -> Self {
        Self { octets: vec![0; LONGEST], messages: Vec::new() }
    }
}

fn own_address(job: &Job) -> Result<SocketAddr, StartError> {
    let proxy = job.plan.proxy;
    let mut peers = std::iter::once(proxy).chain(job.plan.registrar);
    if let Some((local, port)) = job.local {
        return match peers.find(|peer| peer.is_ipv4() != local.is_ipv4()) {
            Some(theirs) => Err(StartError::Families { ours: local, theirs: theirs.ip() }),
            None => Ok(SocketAddr::new(local, port.unwrap_or(0))),
        };
    }
    match peers.find(|peer| peer.is_ipv4() != proxy.is_ipv4()) {
        Some(theirs) => Err(StartError::Families { ours: proxy.ip(), theirs: theirs.ip() }),
        None => datagrams::towards(proxy),
    }
}

fn begin(job: &Job, from: SocketAddr, trusts: &mut Trusts) -> Result<Begun, StartError> {
    let proxy = job.plan.proxy;
    let (mut connections, mut failed) = (Vec::new(), Vec::new());
    let registrar = job.plan.registrar.filter(|registrar| *registrar != proxy);
    for peer in std::iter::once(proxy).chain(registrar) {
        let terms = terms(job, peer, trusts)?;
        match Connection::begin(&terms, from, peer)? {
            Ok(connection) => connections.push(connection),
            Err(fault) => failed.push((peer, fault)),
        }
    }
    // The registrar is needed first.
    failed.reverse();
    Ok(Begun { connections, failed })
}

fn terms(job: &Job, peer: SocketAddr, trusts: &mut Trusts) -> Result<Terms, StartError> {
    let transport = job.plan.transport;
    let known = if peer == job.plan.proxy { &job.server_name } else { &job.registrar_name };
    let tls = if matches!(transport, Transport::Tls | Transport::Wss) {
        let name = match known {
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| StartError::Certificates { text: format!("{name} is no name of a server") })?,
            None => ServerName::from(peer.ip()),
        };
        Some((trusts.config(&job.trust)?, name))
    } else {
        None
    };
    let host =
        matches!(transport, Transport::Ws | Transport::Wss).then(|| known.clone().unwrap_or_else(|| peer.to_string()));
    Ok(Terms { tls, host })
}

/// How long one that was told may still clean up: as long as a transaction lasts (RFC 3261 §17.1.1.1, 64·T1).
const CLEAN_UP: Duration = Duration::from_secs(32);
/// The longest datagram.
const LONGEST: usize = 65_535;
/// Taken at one turn, so that a flood at one probe does not keep the others waiting.
const PACKETS_AT_ONCE: usize = 128;
const MESSAGES_AT_ONCE: usize = 32;
