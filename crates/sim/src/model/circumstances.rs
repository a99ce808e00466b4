//! What happened around the balancer in a run: it excuses some things, and nothing else does.

use super::CUT_SETTLES;
use super::seen::Seen;
use super::story::{Branch, Story};
use crate::network::Party;
use crate::world::World;
use engine::{BackendId, Event};
use sip::{Instant, Method};
use std::time::Duration;

/// The faults of a run that the wire does not show.
#[derive(Clone, Default, Debug)]
pub struct Circumstances {
    /// When the balancer was down: from, until.
    pub outages: Vec<(Instant, Instant)>,
    /// Phones whose public address changed, and when.
    pub rebound: Vec<(Party, Instant)>,
    /// Boxes that crashed, and when.
    pub crashes: Vec<(Party, Instant)>,
    /// Boxes that the balancer took for down, and when.
    pub taken_for_down: Vec<(Party, Instant)>,
    /// Boxes whose calls the balancer had to end.
    pub cuts: Vec<CutBox>,
    /// How many boxes there are.
    pub boxes: usize,
    /// The seconds that phones are told at most.
    pub max_expires: Option<u32>,
    /// To whom the balancer sent a 2xx to a REGISTER, and when; read from the wire.
    pub(super) registered: Vec<(Option<Party>, Instant)>,
}

/// A box was cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CutBox {
    pub party: Party,
    pub at: Instant,
    /// From then on new requests may go there again.
    pub until: Instant,
}

impl Circumstances {
    pub fn of(world: &World) -> Self {
        let outages = world.balancer().outages().iter().map(|(from, until)| (*from, until.unwrap_or(world.now())));
        let rebound = world
            .phones()
            .iter()
            .enumerate()
            .flat_map(|(index, phone)| phone.rebound().iter().map(move |at| (Party::Phone(index), *at)));
        let crashes = world
            .pbxs()
            .iter()
            .enumerate()
            .flat_map(|(index, pbx)| pbx.crashes().iter().map(move |at| (Party::Pbx(index), *at)));
        let boxes = world.balancer().settings().farms.iter().flat_map(|farm| &farm.backends).map(|backend| backend.id);
        let boxes: Vec<BackendId> = boxes.collect();
        let party = |backend: BackendId| boxes.iter().position(|known| *known == backend).map(Party::Pbx);
        let taken_for_down = world.balancer().events().iter().filter_map(|(at, event)| match event {
            Event::BackendDown { backend, .. } => Some((party(*backend)?, *at)),
            _ => None,
        });
        let cuts = world.balancer().cuts().iter().filter_map(|cut| {
            Some(CutBox { party: party(cut.backend)?, at: cut.at, until: cut.until.unwrap_or(world.now()) })
        });
        let longest = world.balancer().settings().farms.iter().find_map(|farm| farm.max_expires);
        Self {
            taken_for_down: taken_for_down.collect(),
            cuts: cuts.collect(),
            boxes: boxes.len(),
            max_expires: longest.map(|longest| u32::try_from(longest.as_secs()).unwrap_or(u32::MAX)),
            outages: outages.collect(),
            rebound: rebound.collect(),
            crashes: crashes.collect(),
            registered: Vec::new(),
        }
    }

    pub(super) fn note_registrations(&mut self, stories: &[Story<'_>]) {
        let answers = stories.iter().flat_map(|story| story.responses_sent());
        let granted = answers.filter(|one| one.method == Method::Register && one.is_success());
        self.registered = granted.map(|one| (one.receiver, one.at)).collect();
    }

    /// Whether the balancer was down at any time from `first` to `last`.
    pub(super) fn outage_between(&self, first: Instant, last: Instant) -> bool {
        self.outages.iter().any(|(from, until)| *from <= last && *until >= first)
    }

    /// Whether the balancer was killed before what it learnt at `learnt` had to be in its log.
    pub(super) fn may_forget(&self, learnt: Instant) -> bool {
        self.outages.iter().any(|(from, _)| learnt <= *from && *from <= learnt + LOGGED_WITHIN)
    }

    /// Whether the balancer took the party for down at any time from `first` to `last`.
    pub(super) fn was_taken_for_down(&self, party: Party, first: Instant, last: Instant) -> bool {
        self.taken_for_down.iter().any(|(down, since)| *down == party && first <= *since && *since <= last)
    }

    /// Whether the box was cut at any time from `first` to `last`, or so shortly before that not all had heard of it.
    pub(super) fn was_cut(&self, party: Party, first: Instant, last: Instant) -> bool {
        self.cuts.iter().any(|cut| cut.party == party && first <= cut.at + CUT_SETTLES && cut.at <= last)
    }

    /// Whether the box is cut at that moment. At the very moments of the cut and of its end nothing can be told.
    pub(super) fn is_cut(&self, party: Party, at: Instant) -> bool {
        self.cuts.iter().any(|cut| cut.party == party && cut.at < at && at < cut.until)
    }

    pub(super) fn has_moved(&self, party: Party) -> bool {
        self.rebound.iter().any(|(moved, _)| *moved == party)
    }

    /// When the party moved last, up to `until`.
    pub(super) fn last_move(&self, party: Party, until: Instant) -> Option<Instant> {
        self.rebound.iter().filter(|(moved, at)| *moved == party && *at <= until).map(|(_, at)| *at).max()
    }

    /// Whether a registration may have told the balancer again of an address that the party had before: it binds the address that
    /// its REGISTER came from, when it is answered.
    pub(super) fn may_unlearn(&self, party: Party, from: Instant, until: Instant) -> bool {
        let concerns = |receiver: Option<Party>| receiver.is_none_or(|receiver| receiver == party);
        self.registered.iter().any(|(receiver, at)| concerns(*receiver) && from <= *at && *at <= until)
    }

    /// Whether a datagram went to the party, or to an address that it has left.
    pub(super) fn reaches(&self, sent: &Seen<'_>, party: Party) -> bool {
        sent.receiver == Some(party) || (sent.receiver.is_none() && self.has_moved(party))
    }

    /// Whether the network may have reported, until `until`, that the branch met nobody. A doubled datagram can arrive and be
    /// reported: its box crashed, or came back, between the copies.
    pub(super) fn may_be_unreachable(&self, branch: &Branch<'_>, until: Instant) -> bool {
        branch.unreachable
            || self.crashes.iter().any(|(crashed, at)| {
                Some(*crashed) == branch.receiver && *at <= until && *at + LONGEST_CRASH >= branch.sent
            })
    }
}

/// Facts are on their way to the disk within a second.
const LOGGED_WITHIN: Duration = Duration::from_secs(1);
/// No box of a random world stays down longer.
const LONGEST_CRASH: Duration = Duration::from_secs(15);
