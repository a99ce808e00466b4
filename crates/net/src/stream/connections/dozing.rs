//! Dozing connections, of whose keep-alives the kernel says nothing: their owner looks for them, a part of them at each sweep.
//!
//! A part is one stripe, so that [`STRIPES`] sweeps meet all of them: four seconds. It is looked through some connections at a time, and
//! then answered in the same way; between two portions the worker serves whoever is ready, so that no message waits for keep-alives of
//! others. Answers that leave together find the peer's machine awake. A part that is not through when the next one's sweep comes puts
//! that one off.

use super::entry::Entry;
use super::{Connections, STRIPES, lock};
use crate::stream::connection::{Found, Reader};
use engine::Input;
use sip::Instant;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A worker's way through those of its connections that doze.
#[derive(Default)]
pub(crate) struct Round {
    /// The next stripe.
    part: usize,
    /// Not looked at yet.
    unseen: Vec<Arc<Entry>>,
    /// Keep-alives were found there, and their answers are still to leave.
    unanswered: Vec<Arc<Entry>>,
}

impl Round {
    /// Nothing is to be done before the next sweep.
    pub(crate) fn is_through(&self) -> bool {
        self.unseen.is_empty() && self.unanswered.is_empty()
    }
}

impl Connections {
    /// Begins with the next part of `worker`'s, if that before is through.
    pub(super) fn begin_part(&self, worker: usize, round: &mut Round) {
        if !round.is_through() {
            return;
        }
        let stripe = lock(&self.stripes[worker * STRIPES + round.part]);
        round.unseen.extend(stripe.values().filter(|entry| entry.is_dozing()).cloned());
        round.part = (round.part + 1) % STRIPES;
    }

    /// Does one portion of a part, until it is through. Tells `each` what else was found, as [`Connections::ready`] does.
    pub(crate) fn look_on(
        &self,
        round: &mut Round,
        now: Instant,
        reader: &mut Reader,
        each: &mut dyn FnMut(Input<'_>),
    ) {
        if round.unseen.is_empty() {
            return self.answer_on(round, now, reader, each);
        }
        for _ in 0..LOOKED_AT_ONCE {
            let Some(entry) = round.unseen.pop() else { return };
            let mut connection = entry.lock();
            match connection.look(now, reader) {
                Found::Nothing => {}
                Found::KeepAlives => round.unanswered.push(Arc::clone(&entry)),
                Found::More => self.finish(&entry, connection, now, reader, each),
            }
        }
    }

    fn answer_on(&self, round: &mut Round, now: Instant, reader: &mut Reader, each: &mut dyn FnMut(Input<'_>)) {
        for _ in 0..LOOKED_AT_ONCE {
            let Some(entry) = round.unanswered.pop() else { return };
            let mut connection = entry.lock();
            connection.answer(now);
            self.finish(&entry, connection, now, reader, each);
        }
    }

    /// After anything was done with a connection, before it is unlocked.
    pub(super) fn note_dozing(&self, entry: &Entry, is_dozing: bool) {
        if entry.is_dozing() == is_dozing {
            return;
        }
        entry.dozes.store(is_dozing, Ordering::Relaxed);
        let dozing = &self.shares[self.owner(entry.number)].dozing;
        if is_dozing {
            dozing.fetch_add(1, Ordering::Relaxed);
        } else {
            dozing.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Connections that are looked at, or answered, before others have their turn: about a tenth of a millisecond where a few of them
/// pinged, half of one where all did.
const LOOKED_AT_ONCE: usize = 64;
