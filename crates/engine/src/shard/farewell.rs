//! The calls of a backend that was cut end: a BYE of our own goes to both sides of each (RFC 3261 §15), as from the other one,
//! and says why (RFC 3326). The other side of a call would hear nothing for minutes, and pay for it.
//!
//! Each shard ends those of its part of the directory, and paces them: what a big box held must not come down on phones and
//! trunks in one moment.

use super::{Core, FAREWELL, TIMING, Timer};
use crate::context::ClientBranch;
use crate::counters::Counter;
use crate::directory::{Dialog, Side, Sides, Words};
use crate::id::BackendId;
use crate::identity::tag_key;
use crate::io::{ConnectionId, Event, Flow, Packet};
use crate::outage::Outage;
use crate::reach::Reach;
use crate::running::{FarmView, Running};
use crate::settings::Transport;
use crate::table::Id;
use crate::token::Branch;
use sip::transaction::{ClientAction, OtherClient};
use sip::{Checked, Instant, Message};
use slab::Slab;
use std::collections::VecDeque;
use std::time::Duration;

/// RFC 3261 §12.2.1.1 wants the number to be higher than the last one of whom it is sent for, which is not known here, and
/// §8.1.1.5 below 2^31: nobody's is as high as this.
const SEQUENCE: u32 = 0x7fff_ff00;
const REASON: &[u8] = b"Reason: SIP;cause=503;text=\"Backend down\"\r\n";

/// BYEs that wait for their answers. Further ones are sent once.
const UNDER_WAY: usize = 10_000;
/// Of them those to backends. A box that is gone answers none of them, and phones and trunks need places, too.
const UNDER_WAY_INSIDE: usize = UNDER_WAY / 2;

/// BYEs that begin in one turn, which is so long.
const A_TURN: usize = 500;
const TURN: Duration = Duration::from_millis(100);

/// The BYEs of one shard.
#[derive(Debug, Default)]
pub(super) struct Farewells {
    /// Calls whose sides have not been told yet, in order.
    waiting: VecDeque<Parting>,
    under_way: Slab<Bye>,
    /// How many of them are to backends.
    under_way_inside: usize,
    turn_ends: Instant,
    /// BYEs that may still begin in this turn.
    room: usize,
    /// The wheel wakes us for the next turn.
    is_armed: bool,
}

/// A call that ends.
#[derive(Debug)]
struct Parting {
    backend: BackendId,
    /// The peer is the caller.
    from_peer: bool,
    peer: Flow,
    /// The peer's binding, 0 if it has none.
    binding: u64,
    sides: Sides,
}

#[derive(Debug)]
struct Bye {
    sequence: u32,
    flow: Flow,
    /// It is to a backend.
    inside: bool,
    packet: Packet,
    client: OtherClient,
}

impl Core {
    /// What a BYE to either side of a call that begins would say. `sent`: its INVITE as it went on, `answer`: the 2xx.
    pub(super) fn sides_of(&self, running: &Running, sent: &Packet, answer: &Message<'_>) -> Option<Sides> {
        let limits = super::receive::message_limits(running);
        let sides = sip::parse(sent, &limits).ok().and_then(|sent| Sides::of(&sent, answer));
        if sides.is_none() {
            self.count(Counter::SidesTooLong);
        }
        sides
    }

    /// A backend was cut: the directory forgets this shard's part of its calls, and their sides are told.
    pub(super) fn end_calls(&mut self, running: &Running, now: Instant, outage: &Outage) {
        let (part, parts) = (usize::from(self.index), self.shared.shards());
        let ended = self.shared.directory.cut_dialogs(part, parts, |dialog| {
            dialog.since <= outage.at && takes_part(running, outage.backend, dialog)
        });
        let calls = ended.len() as u64;
        self.bid_farewell(running, now, ended);
        if let Some(calls) = self.shared.outages.found(outage, calls) {
            self.tell(Event::BackendCut { backend: outage.backend, calls });
        }
    }

    /// The first 2xx of a branch has gone up. If one of its backends was cut since the INVITE was sent, nobody else ends the
    /// call: the answer crossed our CANCEL, or is that of a branch which was given up.
    pub(super) fn end_if_cut(&mut self, running: &Running, now: Instant, branch: &ClientBranch, answer: &Checked<'_>) {
        let Some(note) = branch.dialog.filter(|note| note.to_tag.is_none()) else {
            return;
        };
        let backends = [Some(note.key.backend), backend_at(running, &note.peer)];
        let is_cut = backends.into_iter().flatten().any(|backend| {
            let is_alive = running.backend(backend).is_some_and(|known| known.state.is_alive(now));
            !is_alive && self.shared.outages.was_cut(backend, branch.sent_at)
        });
        if is_cut {
            let to_tag = tag_key(&self.shared.secrets, answer.to().tag);
            let ended = self.shared.directory.take_dialog(&note.key, to_tag);
            self.bid_farewell(running, now, ended);
        }
    }

    /// The sides of these calls are told, which the directory has forgotten.
    fn bid_farewell(&mut self, running: &Running, now: Instant, ended: impl IntoIterator<Item = Dialog>) {
        for dialog in ended {
            self.count(Counter::CallsEnded);
            let Some(sides) = dialog.sides else { continue };
            if self.farewells.waiting.len() >= running.settings.limits.dialogs {
                self.count(Counter::FarewellLimit);
                continue;
            }
            self.farewells.waiting.push_back(Parting {
                backend: dialog.key.backend,
                from_peer: dialog.key.from_peer,
                peer: dialog.peer,
                binding: dialog.binding,
                sides,
            });
        }
        self.say_farewells(running, now);
    }

    /// The next turn has come.
    pub(super) fn farewells_due(&mut self, running: &Running, now: Instant) {
        self.farewells.is_armed = false;
        self.say_farewells(running, now);
    }

    fn say_farewells(&mut self, running: &Running, now: Instant) {
        if self.farewells.turn_ends <= now {
            self.farewells.turn_ends = now + TURN;
            self.farewells.room = A_TURN;
        }
        // The two sides of a call are told together.
        while self.farewells.room >= 2
            && let Some(parting) = self.farewells.waiting.pop_front()
        {
            self.farewells.room -= 2;
            self.part(running, now, &parting);
        }
        if !self.farewells.waiting.is_empty() && !self.farewells.is_armed {
            self.farewells.is_armed = true;
            self.wheel.arm(self.farewells.turn_ends, Timer::Farewells);
        }
    }

    fn part(&mut self, running: &Running, now: Instant, parting: &Parting) {
        let peer = if parting.from_peer { Side::Caller } else { Side::Called };
        if let Some(way) = self.flow_to_peer(running, now, parting) {
            self.say_bye(running, now, parting, peer, way);
        }
        if let Some(flow) = flow_to_backend(running, parting) {
            self.say_bye(running, now, parting, peer.other(), (flow, true));
        }
    }

    /// Where the peer was last heard, by its registration or else within the call; and whether it is a backend, too.
    fn flow_to_peer(&self, running: &Running, now: Instant, parting: &Parting) -> Option<(Flow, bool)> {
        let directory = &self.shared.directory;
        let bound = (parting.binding != 0)
            .then(|| directory.with_binding(now, parting.binding, |found| found.flow_now(now)))
            .flatten();
        let flow = bound.unwrap_or(parting.peer);
        if flow.connection == ConnectionId::GONE {
            return None;
        }
        let Some((farm, listener)) = running.listener(flow.listener) else {
            // A datagram may leave by another listener, a connection has none any more.
            let farm = farm_of(running, parting.backend).filter(|_| !flow.connection.is_some())?;
            return farm.flow_towards(false, (Transport::Udp, flow.remote)).map(|flow| (flow, false));
        };
        let Some(index) = farm.running.backend_at(farm.settings, &flow) else {
            return Some((flow, false));
        };
        if !flow.connection.is_some() {
            return Some((flow, true));
        }
        // A connection that it opened may be closed by now; where it listens it is always reached.
        let reach = Reach::of(&farm.settings.backends[index]);
        farm.flow_towards(true, reach.over(listener.transport)).map(|flow| (flow, true))
    }

    /// Sends one BYE to a side of the call; `inside`: to a backend.
    fn say_bye(
        &mut self,
        running: &Running,
        now: Instant,
        parting: &Parting,
        side: Side,
        (flow, inside): (Flow, bool),
    ) {
        let words = parting.sides.words(side);
        let Some((farm, listener)) = running.listener(flow.listener).filter(|_| !words.uri.is_empty()) else {
            return;
        };
        if !super::answer::is_safe(&flow) {
            self.count(Counter::UnsafeDestination);
            return;
        }
        let sequence = self.next_random() as u32;
        let id = Id { index: self.farewells.under_way.vacant_key() as u32, sequence };
        // As in what is forwarded: of a wildcard listener the address that the peer sends to.
        let local = if flow.local.is_unspecified() { parting.peer.local } else { flow.local };
        let via = self.own_via(id, FAREWELL, flow, &farm.written(listener, local, inside), words.call_id);
        let packet = self.bye(&via, &words);
        self.count(Counter::Farewells);
        if self.farewells.has_place(inside) {
            let client = OtherClient::start(now, running.link(&flow), &TIMING);
            if let Some(due) = client.deadline() {
                self.wheel.arm(due, Timer::Farewell(id));
            }
            let packet = packet.clone();
            self.farewells.begin(Bye { sequence, flow, inside, packet, client });
        } else {
            self.count(Counter::FarewellLimit);
        }
        self.send(flow, packet);
    }

    fn bye(&mut self, via: &[u8], words: &Words<'_>) -> Packet {
        let mut lines = Vec::new();
        if !words.routes.is_empty() {
            for part in [&b"Route: "[..], words.routes, b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
        lines.extend_from_slice(REASON);
        let request = sip::build::Request {
            method: b"BYE",
            uri: words.uri,
            via,
            from: words.from,
            to: words.to,
            call_id: words.call_id,
            cseq: SEQUENCE,
            contact: None,
            extra: &lines,
            body: None,
        };
        self.own_request(&request)
    }

    /// Timers E and F (RFC 3261 §17.1.2.2). Who does not answer in 32 s is gone as well.
    pub(super) fn farewell_due(&mut self, now: Instant, id: Id) {
        let Some(bye) = self.farewells.find(id) else {
            return;
        };
        let (client, action) = bye.client.on_timer(now, &TIMING);
        bye.client = client;
        let again = (action == ClientAction::Retransmit).then(|| (bye.flow, bye.packet.clone()));
        match client.deadline() {
            Some(due) => self.wheel.arm(due, Timer::Farewell(id)),
            None => self.farewells.end(id),
        }
        if let Some((flow, packet)) = again {
            self.count(Counter::Retransmissions);
            self.send(flow, packet);
        }
    }

    /// Any final answer ends it; there is nobody to tell of it.
    pub(super) fn farewell_answered(&mut self, now: Instant, branch: &Branch, message: &Checked<'_>) {
        let code = message.status_line().map_or(0, |line| line.code);
        let id = Id { index: branch.index, sequence: branch.sequence };
        let Some(bye) = self.farewells.find(id) else {
            self.count(Counter::StrayResponses);
            return;
        };
        if code < 200 {
            let (client, _) = bye.client.on_response(now, code, &TIMING);
            bye.client = client;
        } else {
            self.farewells.end(id);
        }
    }

    /// The kernel could not deliver it.
    pub(super) fn farewell_undelivered(&mut self, branch: &Branch) {
        self.farewells.end(Id { index: branch.index, sequence: branch.sequence });
    }
}

impl Farewells {
    fn has_place(&self, inside: bool) -> bool {
        self.under_way.len() < UNDER_WAY && (!inside || self.under_way_inside < UNDER_WAY_INSIDE)
    }

    fn begin(&mut self, bye: Bye) {
        self.under_way_inside += usize::from(bye.inside);
        self.under_way.insert(bye);
    }

    fn find(&mut self, id: Id) -> Option<&mut Bye> {
        self.under_way.get_mut(id.index as usize).filter(|bye| bye.sequence == id.sequence)
    }

    fn end(&mut self, id: Id) {
        if self.find(id).is_some() {
            let bye = self.under_way.remove(id.index as usize);
            self.under_way_inside -= usize::from(bye.inside);
        }
    }
}

/// The backend is one of the two sides; to a second backend the first one is the peer.
fn takes_part(running: &Running, backend: BackendId, dialog: &Dialog) -> bool {
    dialog.key.backend == backend || backend_at(running, &dialog.peer) == Some(backend)
}

fn backend_at(running: &Running, flow: &Flow) -> Option<BackendId> {
    let (farm, _) = running.listener(flow.listener)?;
    let index = farm.running.backend_at(farm.settings, flow)?;
    Some(farm.settings.backends[index].id)
}

/// As a request of the peer would get there.
fn flow_to_backend(running: &Running, parting: &Parting) -> Option<Flow> {
    let reach = running.backend(parting.backend)?.reach;
    if let Some((farm, listener)) = running.listener(parting.peer.listener) {
        return farm.flow_towards(true, reach.over(listener.transport));
    }
    let farm = farm_of(running, parting.backend)?;
    farm.flow_towards(true, reach.by_itself(farm.settings))
}

fn farm_of(running: &Running, backend: BackendId) -> Option<FarmView<'_>> {
    running.farms().find(|farm| farm.settings.backends.iter().any(|known| known.id == backend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::{VIP, flow, octets, secrets, settings};
    use crate::pool::world::at;
    use crate::shard::Shard;
    use crate::shared::Shared;
    use std::sync::Arc;

    fn sides() -> Sides {
        let common = "From: <sip:bonnie@example.com>;tag=ft
            Call-ID: call-1
            CSeq: 1 INVITE
            Contact: <sip:x@192.0.2.1>";
        let sent = octets(&format!("INVITE sip:clyde@example.com SIP/2.0\n{common}\nTo: <sip:clyde@example.com>"));
        let answer = octets(&format!("SIP/2.0 200 OK\n{common}\nTo: <sip:clyde@example.com>;tag=tt"));
        let limits = sip::Limits::default();
        let [sent, answer] = [&sent, &answer].map(|text| sip::parse(text, &limits).expect("tests write messages"));
        Sides::of(&sent, &answer).expect("it is short")
    }

    /// One shard, for which so many calls wait, each changed by the test.
    fn parting(calls: usize, change: impl Fn(&mut Parting)) -> Shard {
        let settings = settings(|_| ());
        let backend = settings.farms[0].backends[0].id;
        let mut shard = Shard::new(0, Shared::new(settings, secrets(), 1, at(0), 0, 1));
        let peer = flow(VIP, "10.1.0.1:5060");
        for _ in 0..calls {
            let mut parting = Parting { backend, from_peer: true, peer, binding: 0, sides: sides() };
            change(&mut parting);
            shard.core.farewells.waiting.push_back(parting);
        }
        shard
    }

    /// Messages that have left by then.
    fn sent_until(shard: &mut Shard, until: Instant) -> usize {
        let mut sent = std::iter::from_fn(|| shard.poll_output()).count();
        while let Some(due) = shard.poll_timeout().filter(|due| *due <= until) {
            shard.handle_timeout(due);
            sent += std::iter::from_fn(|| shard.poll_output()).count();
        }
        sent
    }

    #[test]
    fn a_turn_is_for_five_hundred() {
        for (calls, first, second) in [(1, 2, 0), (250, 500, 0), (251, 500, 2), (600, 500, 500)] {
            let mut shard = parting(calls, |_| ());
            let running = Arc::clone(&shard.running);
            shard.core.say_farewells(&running, at(0));
            assert_eq!(shard.core.counters.value(Counter::Farewells), first, "{calls}");
            // Further calls have to wait for the next turn, too.
            shard.core.say_farewells(&running, at(99));
            assert_eq!(sent_until(&mut shard, at(99)) as u64, first, "{calls}");
            assert_eq!(sent_until(&mut shard, at(110)) as u64, second, "{calls}");
        }
    }

    /// Nobody answers. Boxes that are gone leave half of the places to phones.
    #[test]
    fn more_than_can_be_waited_for_are_sent_once() {
        let both: fn(&mut Parting) = |_| ();
        let boxes: fn(&mut Parting) = |parting| parting.peer.connection = ConnectionId::GONE;
        let phones: fn(&mut Parting) = |parting| parting.backend = BackendId(0);
        for (change, calls, farewells, once) in [
            (both, 5_000, 10_000, 0),
            (both, 5_001, 10_002, 2),
            (boxes, 5_000, 5_000, 0),
            (boxes, 5_001, 5_001, 1),
            (phones, 10_000, 10_000, 0),
            (phones, 10_001, 10_001, 1),
        ] {
            let mut shard = parting(calls, change);
            let running = Arc::clone(&shard.running);
            shard.core.say_farewells(&running, at(0));
            sent_until(&mut shard, at(6_000));
            let value = |counter: Counter| shard.core.counters.value(counter);
            assert_eq!((value(Counter::Farewells), value(Counter::FarewellLimit)), (farewells, once));
            assert_eq!(shard.core.farewells.under_way.len() as u64, farewells - once);
            assert!(value(Counter::Retransmissions) > 0);
            sent_until(&mut shard, at(40_000));
            let left = &shard.core.farewells;
            assert_eq!((left.under_way.len(), left.under_way_inside, left.waiting.len()), (0, 0, 0));
        }
    }
}
