//! Connecting two legs: what happens to one is done to the other.

use super::registrar::Reach;
use super::{Pbx, Sender};
use crate::address;
use crate::dialog::bracketed;
use crate::endpoint::{Invitation, LegId, Notice};
use crate::event::PbxEvent;
use sip::message::{Limits, Message, parse};
use sip::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

pub(super) struct Bridges {
    last: u64,
    entries: BTreeMap<u64, Bridge>,
    by_leg: BTreeMap<LegId, u64>,
}

/// One call through the PBX.
struct Bridge {
    caller: LegId,
    callee: LegId,
    /// Users, for the events.
    from: String,
    to: String,
    /// The callee answered.
    started: bool,
    /// Contacts of the callee that were not tried yet.
    untried: VecDeque<Target>,
    /// From of the callee's leg, and the caller's offer.
    party: Vec<u8>,
    offer: Vec<u8>,
}

/// Where the callee's leg goes.
struct Target {
    uri: Vec<u8>,
    routes: Vec<Vec<u8>>,
    hop: Option<SocketAddr>,
}

impl Bridges {
    pub(super) fn new() -> Self {
        Self { last: 0, entries: BTreeMap::new(), by_leg: BTreeMap::new() }
    }

    pub(super) fn count(&self) -> usize {
        self.entries.len()
    }

    fn insert(&mut self, bridge: Bridge) {
        self.last += 1;
        self.by_leg.insert(bridge.caller, self.last);
        self.by_leg.insert(bridge.callee, self.last);
        self.entries.insert(self.last, bridge);
    }

    fn of_leg(&mut self, leg: LegId) -> Option<&mut Bridge> {
        let id = self.by_leg.get(&leg)?;
        self.entries.get_mut(id)
    }

    fn remove(&mut self, leg: LegId) -> Option<Bridge> {
        let id = self.by_leg.get(&leg).copied()?;
        let bridge = self.entries.remove(&id)?;
        self.by_leg.remove(&bridge.caller);
        self.by_leg.remove(&bridge.callee);
        Some(bridge)
    }

    /// The callee's leg is another one now.
    fn replace_callee(&mut self, old: LegId, new: LegId) {
        if let Some(id) = self.by_leg.remove(&old)
            && let Some(bridge) = self.entries.get_mut(&id)
        {
            bridge.callee = new;
            self.by_leg.insert(new, id);
        }
    }
}

impl Bridge {
    fn other(&self, leg: LegId) -> LegId {
        if leg == self.caller { self.callee } else { self.caller }
    }

    fn invitation(&self, target: Target, to: Vec<u8>) -> Invitation {
        invitation(target, self.party.clone(), to, &self.offer)
    }
}

impl Pbx {
    pub(super) fn on_incoming(&mut self, now: Instant, caller: LegId, source: SocketAddr, request: &[u8]) {
        let Ok(message) = parse(request, &Limits::default()) else {
            return;
        };
        let passed_on = match self.sender(now, source, &message) {
            Sender::Backend => true,
            Sender::User(_) => false,
            Sender::Unknown { challenge } => {
                return self.endpoint.refuse(now, caller, 401, challenge.as_bytes());
            }
        };
        let (to, mut targets) = match self.targets(now, &message, passed_on) {
            Ok(found) => found,
            Err(code) => return self.endpoint.refuse(now, caller, code, b""),
        };
        let Some(target) = targets.pop_front() else {
            return self.endpoint.refuse(now, caller, 480, b"");
        };
        self.endpoint.provisional(now, caller, 100, None);
        let party = message.from().map(|from| party_of(from.display, from.uri_bytes)).unwrap_or_default();
        let offer = message.body().to_vec();
        let invitation = invitation(target, party.clone(), self.party(&to), &offer);
        let callee = self.endpoint.call(now, invitation);
        let from = message.from().and_then(|from| from.uri()).and_then(|uri| uri.user).unwrap_or_default();
        let from = String::from_utf8_lossy(from).into_owned();
        self.bridges.insert(Bridge { caller, callee, from, to, started: false, untried: targets, party, offer });
    }

    /// The callee and where to look for him; or the status that the caller gets.
    fn targets(&self, now: Instant, request: &Message<'_>, passed_on: bool) -> Result<(String, VecDeque<Target>), u16> {
        let uri = request.request_line().and_then(|line| sip::uri::parse(line.uri).ok()).ok_or(400_u16)?;
        let user = uri.user.and_then(|user| std::str::from_utf8(user).ok()).unwrap_or_default();
        if !self.is_ours(uri.host) || !self.passwords.contains_key(user) {
            return Err(404);
        }
        let mut targets: VecDeque<Target> = self.registrar.reach(now, user).into_iter().map(Target::from).collect();
        if targets.is_empty() {
            if passed_on {
                return Err(480);
            }
            let farm = self.settings.farm.ok_or(480_u16)?;
            let uri = self.address_of_record(user);
            targets.push_back(Target { uri, routes: Vec::new(), hop: Some(farm) });
        }
        Ok((user.to_owned(), targets))
    }

    /// What happens to one leg of a call.
    pub(super) fn on_call_notice(&mut self, now: Instant, notice: Notice) {
        match notice {
            Notice::Progress { leg, code, body } => {
                if let Some(caller) = self.other_leg(leg) {
                    self.endpoint.provisional(now, caller, code, Some(&body));
                }
            }
            Notice::Accepted { leg, body, answer_due } => self.on_accepted(now, leg, &body, answer_due),
            Notice::Rejected { leg, code } => self.on_rejected(now, leg, code),
            Notice::Acknowledged { leg, body } => {
                if let Some(other) = self.other_leg(leg) {
                    let answer = if body.is_empty() { None } else { Some(body) };
                    self.endpoint.acknowledge(now, other, answer);
                }
            }
            Notice::Cancelled { leg } | Notice::Ended { leg, .. } => self.on_ended(now, leg),
            Notice::Reinvite { leg, body } => {
                let offer = if body.is_empty() { None } else { Some(body) };
                let passed = self.other_leg(leg).is_some_and(|other| self.endpoint.reinvite(now, other, offer));
                if !passed {
                    self.endpoint.refuse(now, leg, 491, b"");
                }
            }
            Notice::ReinviteAnswered { leg, code, body, answer_due } => {
                self.on_reinvite_answered(now, leg, code, &body, answer_due);
            }
            Notice::Incoming { .. } | Notice::Request { .. } | Notice::Response { .. } => {}
        }
    }

    fn on_accepted(&mut self, now: Instant, leg: LegId, body: &[u8], answer_due: bool) {
        let Some(bridge) = self.bridges.of_leg(leg) else {
            // The caller is gone.
            return self.endpoint.hang_up(now, leg);
        };
        bridge.started = true;
        let caller = bridge.caller;
        let event = PbxEvent::CallStarted { from: bridge.from.clone(), to: bridge.to.clone() };
        if !answer_due {
            self.endpoint.acknowledge(now, leg, None);
        }
        self.endpoint.accept(now, caller, body);
        self.tell(event);
    }

    /// The callee's leg failed: the next contact, or the caller is told.
    fn on_rejected(&mut self, now: Instant, leg: LegId, code: u16) {
        let Some(bridge) = self.bridges.of_leg(leg) else {
            return;
        };
        let elsewhere = matches!(code, 404 | 408 | 410 | 430 | 480 | 500..=599);
        let next = if elsewhere { bridge.untried.pop_front() } else { None };
        match next {
            Some(target) => {
                let to = bridge.to.clone();
                let party = self.party(&to);
                let Some(bridge) = self.bridges.of_leg(leg) else {
                    return;
                };
                let invitation = bridge.invitation(target, party);
                let callee = self.endpoint.call(now, invitation);
                self.bridges.replace_callee(leg, callee);
            }
            None => {
                let caller = bridge.caller;
                self.bridges.remove(leg);
                self.endpoint.refuse(now, caller, relayed(code), b"");
            }
        }
    }

    /// One leg is over, and so is the other.
    fn on_ended(&mut self, now: Instant, leg: LegId) {
        let Some(bridge) = self.bridges.remove(leg) else {
            return;
        };
        self.endpoint.hang_up(now, bridge.other(leg));
        if bridge.started {
            self.tell(PbxEvent::CallEnded { from: bridge.from, to: bridge.to });
        }
    }

    fn on_reinvite_answered(&mut self, now: Instant, leg: LegId, code: u16, body: &[u8], answer_due: bool) {
        let success = (200..300).contains(&code);
        if success && !answer_due {
            self.endpoint.acknowledge(now, leg, None);
        }
        let Some(other) = self.other_leg(leg) else {
            return;
        };
        if success {
            self.endpoint.accept(now, other, body);
        } else {
            self.endpoint.refuse(now, other, relayed(code), b"");
        }
    }

    fn other_leg(&mut self, leg: LegId) -> Option<LegId> {
        self.bridges.of_leg(leg).map(|bridge| bridge.other(leg))
    }

    /// To of the callee's leg.
    fn party(&self, user: &str) -> Vec<u8> {
        bracketed(&self.address_of_record(user))
    }

    fn address_of_record(&self, user: &str) -> Vec<u8> {
        let domain = self.settings.domains.first().unwrap_or(&self.settings.realm);
        format!("sip:{user}@{domain}").into_bytes()
    }
}

impl From<Reach> for Target {
    fn from(reach: Reach) -> Self {
        // A contact behind a name has no address here; the fallback of the endpoint is the farm.
        let hop = if reach.path.is_empty() { address::of_uri(&reach.uri) } else { None };
        Self { uri: reach.uri, routes: reach.path, hop }
    }
}

fn invitation(target: Target, from: Vec<u8>, to: Vec<u8>, offer: &[u8]) -> Invitation {
    let body = if offer.is_empty() { None } else { Some(offer.to_vec()) };
    Invitation { uri: target.uri, from, to, routes: target.routes, extra: Vec::new(), body, hop: target.hop }
}

fn party_of(display: &[u8], uri: &[u8]) -> Vec<u8> {
    let address = bracketed(uri);
    if display.is_empty() { address } else { [&b"\""[..], display, b"\" ", &address].concat() }
}

/// The status that the other leg gets. A challenge is not his to answer.
fn relayed(code: u16) -> u16 {
    match code {
        401 | 407 => 403,
        300..=699 => code,
        _ => 500,
    }
}
