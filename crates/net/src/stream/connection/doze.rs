//! Dozing: of a connection over which nothing but keep-alives comes the kernel tells nothing until more than a keep-alive is there.
//!
//! Ten thousand phones that ping every half minute would wake us some hundred times a second, each time for one of them. So the kernel
//! is given a low-water mark (SO_RCVLOWAT, socket(7)): one octet more than a keep-alive has on the wire, see `beyond_keep_alive` there.
//! Whatever is longer, and a message is, wakes us at once, and so do the peer's end and errors, which the mark does not concern. What
//! is shorter waits until its owner looks, four seconds at most, which the peer grants: a pong may take ten (RFC 5626 §4.4.1). Before a
//! dozing connection is judged for its silence it is read, so that no ping or pong is overlooked.
//!
//! | state | what happens | what follows |
//! |---|---|---|
//! | awake | nothing but keep-alives came for [`QUIET`], nothing is under way in either direction | asleep |
//! | asleep | keep-alives come, or we send | asleep |
//! | asleep | a message comes, or the beginning of one | awake: the rest of it may be shorter than the mark |
//! | asleep | its end begins | awake |
//!
//! A WebSocket's or TLS's good-bye that no end of the connection follows is as short as a keep-alive, and found when its owner looks.

use super::{Connection, Reader, Socket, State, StreamLimits};
use sip::Instant;
use std::time::Duration;

/// What the kernel tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Doze {
    /// Every octet. `since`: from then on nothing but keep-alives came.
    Awake { since: Instant },
    /// More than a keep-alive.
    Asleep,
    /// Every octet: it knows no mark.
    Unable,
}

/// What was found at a dozing connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    Nothing,
    /// Keep-alives alone. [`Connection::answer`] is to follow.
    KeepAlives,
    /// More, which is told as after [`Connection::ready`].
    More,
}

impl<S: Socket> Connection<S> {
    /// Whether its owner has to look for keep-alives.
    pub(crate) fn is_dozing(&self) -> bool {
        matches!(self.state, State::Open { .. }) && self.doze == Doze::Asleep
    }

    /// Reads what a dozing connection was sent, once, and leaves the answers to keep-alives for [`Connection::answer`].
    pub(crate) fn look(&mut self, now: Instant, reader: &mut Reader) -> Found {
        if !self.is_dozing() || !self.read(now, reader) {
            return Found::Nothing;
        }
        if self.is_dozing() && reader.came.is_empty() {
            return Found::KeepAlives;
        }
        self.advance(now);
        Found::More
    }

    /// Has the answers leave that [`Connection::look`] left.
    pub(crate) fn answer(&mut self, now: Instant) {
        self.advance(now);
    }

    /// Ends what has taken too long, asks for signs of life, and lets it fall asleep. What came is to be told as after
    /// [`Connection::ready`].
    pub(crate) fn sweep(&mut self, now: Instant, limits: &StreamLimits, reader: &mut Reader) {
        // What it was sent counts, although nobody has looked yet.
        if self.is_dozing() && self.read(now, reader) {
            self.advance(now);
        }
        self.expire(now, limits);
        self.fall_asleep(now);
    }

    /// When it may fall asleep, as far as is known now.
    pub(super) fn drowsy_at(&self) -> Option<Instant> {
        match (&self.state, self.doze) {
            (State::Open { .. }, Doze::Awake { since }) if self.wire.outgoing().is_empty() => {
                self.wire.beyond_keep_alive().map(|_| since + QUIET)
            }
            _ => None,
        }
    }

    /// More than a keep-alive came, or is awaited: of every octet we want to know.
    pub(super) fn wake(&mut self, now: Instant) {
        let socket = self.socket.as_ref();
        self.doze = match self.doze {
            // Its owner goes on looking then, so that it is late but not deaf.
            Doze::Asleep if socket.is_some_and(|socket| socket.set_low_water(1).is_err()) => Doze::Asleep,
            Doze::Asleep | Doze::Awake { .. } => Doze::Awake { since: now },
            Doze::Unable => Doze::Unable,
        };
    }

    fn fall_asleep(&mut self, now: Instant) {
        if self.drowsy_at().is_none_or(|at| at > now) {
            return;
        }
        let (Some(mark), Some(socket)) = (self.wire.beyond_keep_alive(), &self.socket) else { return };
        self.doze = if socket.set_low_water(mark).is_ok() { Doze::Asleep } else { Doze::Unable };
    }
}

/// Between the messages of one transaction there is less.
pub(super) const QUIET: Duration = Duration::from_secs(1);
