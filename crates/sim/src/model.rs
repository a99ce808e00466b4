//! What must hold in every run, judged by what was seen on the wire. The model knows SIP and who is who; it knows nothing of
//! how the engine works.
//!
//! Requests are told apart by Call-ID, From tag and CSeq number; both sides of the balancer show the same three. On the
//! client's side a transaction is a branch that arrived at the balancer; on the other side a branch that it sent, which names
//! the client's branch in its second Via.
//!
//! ```text
//! answers    INVITE: that it ends, how, and what goes up
//! others     every other request: one answer, and in time
//! cancel     CANCEL in, CANCEL out
//! dialog     requests inside of calls
//! cut        boxes that are cut, and the ends of their calls
//! octets     what leaves is what came
//! forged     what strangers send
//! bindings   one binding of a phone
//! refresh    what phones are told of their registrations, and that they are reached by them
//! counters   what the balancer says of itself at the end
//! ```

mod answers;
mod bindings;
mod cancel;
mod circumstances;
mod counters;
mod cut;
mod dialog;
mod forged;
mod octets;
mod others;
mod refresh;
mod seen;
mod story;

pub use circumstances::{Circumstances, CutBox};
pub use counters::Extent;
pub use forged::{FORGED, FORGED_CONTACT};

use crate::network::Sent;
use crate::world::World;
use dialog::Dialog;
use seen::{Request, Seen};
use sip::{Fault, Instant};
use std::collections::BTreeMap;
use std::time::Duration;
use story::Story;

/// A finished run.
pub struct Model<'a> {
    /// Each datagram, and what is wrong with it as a message.
    wire: Vec<(&'a Sent, Option<Fault>)>,
    /// In the order of their Call-IDs.
    stories: Vec<Story<'a>>,
    circumstances: Circumstances,
}

/// Besides the datagram: what is wrong with it as a message.
type DatagramRule = fn(&Sent, Option<Fault>, &mut Problems);
type RequestRule = fn(&Story<'_>, &Circumstances, &mut Problems);
/// A dialog and all requests with its Call-ID.
type DialogRule = fn(&Dialog<'_>, &[Story<'_>], &Circumstances, &mut Problems);
/// The dialogs with one Call-ID and all requests with it.
type CallRule = fn(&[Dialog<'_>], &[Story<'_>], &Circumstances, &mut Problems);
type RunRule = fn(&[Story<'_>], &Circumstances, &mut Problems);

const OF_DATAGRAMS: &[DatagramRule] = &[octets::what_is_sent_is_sound];

const OF_REQUESTS: &[RequestRule] = &[
    answers::invites_are_answered,
    answers::invites_have_one_end,
    answers::refusals_wait_for_the_youngest_branch,
    answers::refusals_come_from_a_branch,
    answers::overload_is_hidden,
    answers::time_outs_have_run_out,
    answers::refusals_stop_at_their_ack,
    answers::successes_go_up_at_once,
    answers::responses_go_back,
    others::others_have_one_end,
    others::others_get_no_time_out,
    others::others_are_sent_on_or_answered,
    others::others_hear_of_their_answer,
    others::others_hear_of_it_at_once,
    cancel::cancels_are_answered_at_once,
    cancel::no_branch_starts_after_a_cancel,
    cancel::cancels_reach_pending_branches,
    cancel::our_cancels_follow_a_provisional_answer,
    cancel::our_cancels_come_before_the_end,
    cancel::our_cancels_have_a_cause,
    cancel::our_cancels_go_where_the_branch_went,
    cut::nobody_goes_to_a_box_that_is_cut,
    cut::callers_leave_a_box_that_is_cut,
    octets::requests_leave_as_they_came,
    octets::responses_leave_as_they_came,
    forged::forgeries_arrive,
    forged::forgeries_lead_nowhere,
    forged::forgeries_are_refused_once,
    forged::strangers_get_refusals_only,
    forged::requests_to_phones_come_from_boxes,
];

const OF_DIALOGS: &[DialogRule] = &[
    dialog::requests_reach_the_other_side,
    dialog::requests_go_on_at_once,
    dialog::requests_go_to_the_other_side_only,
    dialog::a_party_that_moved_is_followed,
    cut::both_sides_hear_of_a_cut,
];

const OF_CALLS: &[CallRule] = &[cut::farewells_have_a_cause];

const OF_RUNS: &[RunRule] = &[
    bindings::no_box_sees_a_second_binding,
    refresh::phones_are_told_no_more_than_holds,
    refresh::refreshes_need_a_box_where_they_say_anything_new,
    refresh::registered_phones_are_reached,
];

impl<'a> Model<'a> {
    /// Reads the wire of a world.
    pub fn of(world: &'a World) -> Self {
        Self::new(world.wire().iter(), Circumstances::of(world))
    }

    /// Reads a wire by itself.
    pub fn new(wire: impl Iterator<Item = &'a Sent>, mut circumstances: Circumstances) -> Self {
        let mut requests: BTreeMap<Request<'a>, Vec<Seen<'a>>> = BTreeMap::new();
        let read = wire.map(|sent| {
            let (seen, fault) = Seen::read(sent);
            if let Some((request, seen)) = seen {
                requests.entry(request).or_default().push(seen);
            }
            (sent, fault)
        });
        let wire: Vec<(&'a Sent, Option<Fault>)> = read.collect();
        let stories: Vec<Story<'a>> = requests.into_iter().map(|(request, seen)| Story::new(request, seen)).collect();
        circumstances.note_registrations(&stories);
        Self { wire, stories, circumstances }
    }

    /// Everything that does not hold, in a fixed order; empty: all is well.
    pub fn judge(&self) -> Vec<String> {
        let mut problems = Problems::default();
        for (sent, fault) in self.wire.iter().copied() {
            for rule in OF_DATAGRAMS {
                rule(sent, fault, &mut problems);
            }
        }
        for story in &self.stories {
            for rule in OF_REQUESTS {
                rule(story, &self.circumstances, &mut problems);
            }
        }
        for call in self.stories.chunk_by(|one, next| one.request.call_id == next.request.call_id) {
            let dialogs = dialog::dialogs(call);
            for dialog in &dialogs {
                for rule in OF_DIALOGS {
                    rule(dialog, call, &self.circumstances, &mut problems);
                }
            }
            for rule in OF_CALLS {
                rule(&dialogs, call, &self.circumstances, &mut problems);
            }
        }
        for rule in OF_RUNS {
            rule(&self.stories, &self.circumstances, &mut problems);
        }
        problems.texts
    }
}

/// What does not hold, told so far.
#[derive(Default)]
struct Problems {
    texts: Vec<String>,
}

impl Problems {
    fn report(&mut self, request: &Request<'_>, at: Instant, what: &str) {
        let call_id = String::from_utf8_lossy(request.call_id);
        let seconds = at.as_micros() as f64 / 1e6;
        self.texts.push(format!("{what}: Call-ID {call_id}, CSeq {}, at {seconds:.6}", request.number));
    }

    /// Something that belongs to no request.
    fn note(&mut self, what: String) {
        self.texts.push(what);
    }
}

/// Timer B and F: 64 × T1.
const LONGEST_TRANSACTION: Duration = Duration::from_secs(32);
/// RFC 3261 §16.6 step 11.
const TIMER_C: Duration = Duration::from_secs(181);
/// Timer C, the CANCEL that follows it, and a fail-over before.
const LONGEST_CALL_SETUP: Duration = Duration::from_secs(181 + 64);
/// How long a request within a dialog waits for a box that is down.
const DEAD_BOX_PATIENCE: Duration = Duration::from_secs(4);
/// Whoever holds calls of a box that is cut has a turn every four seconds.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(5);
/// What goes to a box so soon after its cut may have slipped in before all had heard of it.
const CUT_SETTLES: Duration = Duration::from_secs(1);
/// Safely before the client's Timer F.
const IN_TIME: Duration = Duration::from_secs(28);

#[cfg(test)]
mod tests;
