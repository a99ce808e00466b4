//! The caller's way to the balancer: one socket for datagrams, or connections.

use super::caller::Caller;
use super::ends::{self, Batches, End};
use super::outbox::{Outbox, Way};
use super::settings::{Details, Settings};
use crate::stream::{Connections, Event, Lines};
use net::datagram::{Poll, Ready};
use net::{Clock, NetError, Warning};
use sip::Instant;

/// One of both, for the whole load.
pub(super) enum Front {
    Datagrams(End),
    Streams(Box<Streamed>),
}

/// Connections, and what is to be sent on them.
pub(super) struct Streamed {
    lines: Lines,
    outbox: Outbox,
}

impl Front {
    /// Opens the socket for datagrams; connections are opened later. Our own address in `settings` is the real one afterwards.
    pub(super) fn open(
        settings: &mut Settings,
        details: &Details,
        poll: &Poll,
    ) -> Result<(Self, Option<Warning>), NetError> {
        let wanted = settings.caller;
        settings.caller = ends::towards(settings.balancer, wanted);
        match &details.streams {
            Some(streams) => {
                let lines = Lines::new(streams, wanted, settings.balancer, FIRST_CONNECTION)?;
                Ok((Self::Streams(Box::new(Streamed { lines, outbox: Outbox::default() })), None))
            }
            None => {
                let (end, warning) = End::open(settings.caller, poll, DATAGRAMS)?;
                settings.caller = end.address;
                Ok((Self::Datagrams(end), warning))
            }
        }
    }

    /// For what the caller wants to send.
    pub(super) fn outbox(&mut self) -> &mut Outbox {
        match self {
            Self::Datagrams(end) => &mut end.outbox,
            Self::Streams(streamed) => &mut streamed.outbox,
        }
    }

    /// Sends what is in the outbox, and does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant, poll: &Poll, caller: &mut Caller, batches: &mut Batches) {
        match self {
            Self::Datagrams(end) => end.flush(batches),
            Self::Streams(streamed) => {
                // First what is to be sent: a loss ends what was sent before it, and nothing later.
                streamed.settle(now, poll, caller);
                streamed.lines.handle_timeout(now, poll);
                streamed.settle(now, poll, caller);
            }
        }
    }

    /// Handles what waits at a source.
    pub(super) fn serve(&mut self, source: Ready, poll: &Poll, caller: &mut Caller, batches: &mut Batches) {
        match self {
            Self::Datagrams(end) => end.serve(batches, source.error, |now, datagram, out| {
                caller.message(now, datagram.bytes, datagram.remote, out);
            }),
            Self::Streams(streamed) => {
                let now = Clock::now();
                streamed.lines.serve(now, poll, source);
                streamed.settle(now, poll, caller);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match self {
            Self::Datagrams(_) => None,
            Self::Streams(streamed) => streamed.lines.next_deadline(),
        }
    }

    /// Asks for all connections that are not open.
    pub(super) fn open_all(&mut self) {
        if let Self::Streams(streamed) = self {
            streamed.lines.open_all();
        }
    }

    /// No connection is being opened.
    pub(super) fn is_settled(&self) -> bool {
        match self {
            Self::Datagrams(_) => true,
            Self::Streams(streamed) => streamed.lines.is_settled(),
        }
    }

    /// Connections that are up.
    pub(super) fn open_connections(&self) -> u32 {
        match self {
            Self::Datagrams(_) => 0,
            Self::Streams(streamed) => streamed.lines.open(),
        }
    }

    pub(super) fn connections(&self) -> Option<&Connections> {
        match self {
            Self::Datagrams(_) => None,
            Self::Streams(streamed) => Some(&streamed.lines.counts),
        }
    }

    /// Losses of connections were told, and count anew from here.
    pub(super) fn forget_losses(&mut self) {
        if let Self::Streams(streamed) = self {
            streamed.lines.counts.forget_losses();
        }
    }

    pub(super) fn count_anew(&mut self) {
        match self {
            Self::Datagrams(end) => end.count_anew(),
            Self::Streams(streamed) => streamed.lines.sent = 0,
        }
    }

    /// Messages sent.
    pub(super) fn sent(&self) -> u64 {
        match self {
            Self::Datagrams(end) => end.sent,
            Self::Streams(streamed) => streamed.lines.sent,
        }
    }

    /// Datagrams that the network returned.
    pub(super) fn refused(&self) -> u64 {
        match self {
            Self::Datagrams(end) => end.refused,
            Self::Streams(_) => 0,
        }
    }

    pub(super) fn kernel_drops(&self) -> u64 {
        match self {
            Self::Datagrams(end) => end.kernel_drops(),
            Self::Streams(_) => 0,
        }
    }
}

impl Streamed {
    /// Tells the caller what happened and sends what it says to that, until nothing is left of both. It ends: what is sent on a connection
    /// that is over waits until that is open again.
    fn settle(&mut self, now: Instant, poll: &Poll, caller: &mut Caller) {
        loop {
            for (connection, bytes) in self.outbox.streamed() {
                self.lines.send(now, poll, connection, bytes);
            }
            self.outbox.clear();
            let events = self.lines.take_events();
            if events.is_empty() {
                return;
            }
            for event in events {
                match event {
                    Event::Message { connection, bytes } => {
                        caller.message(now, &bytes, Way::Stream(connection), &mut self.outbox);
                    }
                    Event::Lost { connection } => caller.lost(now, connection, &mut self.outbox),
                }
            }
        }
    }
}

const DATAGRAMS: u64 = 0;
/// Below it are other sources.
const FIRST_CONNECTION: u64 = 16;
