//! What a phone does with its calls.

use super::{UserAgent, media};
use crate::account::Answering;
use crate::agenda::earliest;
use crate::dialog::bracketed;
use crate::endpoint::{Invitation, LegId};
use crate::event::{CallId, Event};
use sip::message::{Limits, parse};
use sip::sdp::{self, Session};
use sip::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// A caller hears nothing for at most so long before we tell him that his INVITE arrived (RFC 3261 §17.2.1).
const TRYING_AFTER: Duration = Duration::from_millis(200);

pub(super) struct Call {
    /// Where we want to hear the other side.
    media: SocketAddr,
    /// What the other side said last about its audio.
    pub(super) remote: Option<Session>,
    session: u64,
    version: u64,
    state: State,
}

enum State {
    /// We call.
    Outgoing { cancelled: bool },
    /// We are called: what to do when, and the caller's offer, empty if we have to make one.
    Incoming { answering: Answering, plan: Plan, offer: Vec<u8> },
    /// We answered and wait for the ACK.
    Answered { hang_up_after: Option<Duration> },
    /// Up.
    Up { hang_up_at: Option<Instant> },
}

/// The next moments of an incoming call.
struct Plan {
    ring_at: Option<Instant>,
    answer_at: Option<Instant>,
}

impl UserAgent {
    pub(super) fn place_call(&mut self, now: Instant, target: &str, media: SocketAddr, extra_headers: &str) -> CallId {
        let mut extra = String::new();
        for line in extra_headers.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            extra.push_str(line);
            extra.push_str("\r\n");
        }
        let call = self.new_call(media, State::Outgoing { cancelled: false });
        let invitation = Invitation {
            uri: target.as_bytes().to_vec(),
            from: self.account.address_of_record(),
            to: bracketed(target.as_bytes()),
            routes: Vec::new(),
            extra: extra.into_bytes(),
            body: Some(media::offer(call.session, call.version, media, &self.payloads)),
            hop: Some(self.account.proxy),
        };
        let leg = self.endpoint.call(now, invitation);
        self.calls.insert(leg, call);
        CallId(leg.0)
    }

    pub(super) fn end_call(&mut self, now: Instant, leg: LegId) {
        self.cancel_call(leg);
        let refused = self.calls.get(&leg).is_some_and(|call| matches!(call.state, State::Incoming { .. }));
        self.endpoint.hang_up(now, leg);
        if refused {
            self.forget_call(leg);
            self.tell(Event::Failed { call: CallId(leg.0), code: 603 });
        }
    }

    /// Remembers that the end of this call of ours is no failure.
    pub(super) fn cancel_call(&mut self, leg: LegId) {
        if let Some(call) = self.calls.get_mut(&leg)
            && let State::Outgoing { cancelled } = &mut call.state
        {
            *cancelled = true;
        }
    }

    pub(super) fn offer_again(&mut self, now: Instant, leg: LegId, media: SocketAddr) {
        let Some(call) = self.calls.get_mut(&leg) else {
            return;
        };
        let body = media::offer(call.session, call.version + 1, media, &self.payloads);
        if self.endpoint.reinvite(now, leg, Some(body)) {
            call.version += 1;
            call.media = media;
        } else {
            self.tell(Event::Reinvited { call: CallId(leg.0), code: 491 });
        }
    }

    pub(super) fn on_incoming(&mut self, now: Instant, leg: LegId, request: &[u8]) {
        let Ok(message) = parse(request, &Limits::default()) else {
            return;
        };
        let from = message.from().map(|from| String::from_utf8_lossy(from.uri_bytes).into_owned()).unwrap_or_default();
        let offer = message.body().to_vec();
        if !offer.is_empty() && sdp::read(&offer).is_none() {
            return self.endpoint.refuse(now, leg, 488, b"");
        }
        let answering = self.answering;
        let answer_at = answering.answer_after.map(|wait| now + wait);
        let ring_at = Some(now + answering.ring_after);
        let rings = answering.answer_after.is_none_or(|wait| answering.ring_after <= wait);
        let plan = Plan { ring_at: ring_at.filter(|_| rings), answer_at };
        let first = plan.next();
        let remote = sdp::read(&offer);
        let mut call = self.new_call(answering.media, State::Incoming { answering, plan, offer });
        call.remote = remote;
        self.calls.insert(leg, call);
        self.tell(Event::Incoming { call: CallId(leg.0), from });
        if first.is_none_or(|first| first.saturating_since(now) > TRYING_AFTER) {
            self.endpoint.provisional(now, leg, 100, None);
        }
        self.agenda.set(leg, first);
        // What is due at once need not wait for the shell to come back.
        if first.is_some_and(|first| first <= now) {
            self.call_is_due(now, leg);
        }
    }

    /// A moment of the plan of an incoming call has come, or the time to hang up.
    pub(super) fn call_is_due(&mut self, now: Instant, leg: LegId) {
        let Some(call) = self.calls.get_mut(&leg) else {
            return;
        };
        match &mut call.state {
            State::Incoming { plan, .. } => {
                let rings = plan.ring_at.is_some_and(|due| now >= due);
                let answers = plan.answer_at.is_some_and(|due| now >= due);
                if rings {
                    plan.ring_at = None;
                }
                let next = plan.next();
                if rings {
                    self.endpoint.provisional(now, leg, 180, None);
                }
                self.agenda.set(leg, next.filter(|_| !answers));
                if answers {
                    self.answer_call(now, leg);
                }
            }
            State::Up { hang_up_at } if hang_up_at.is_some_and(|due| now >= due) => {
                *hang_up_at = None;
                self.endpoint.hang_up(now, leg);
            }
            State::Outgoing { .. } | State::Answered { .. } | State::Up { .. } => {}
        }
    }

    pub(super) fn on_accepted(&mut self, now: Instant, leg: LegId, body: &[u8]) {
        self.endpoint.acknowledge(now, leg, None);
        let remote = sdp::read(body);
        let remote_media = media::remote(remote.as_ref());
        if let Some(call) = self.calls.get_mut(&leg) {
            call.state = State::Up { hang_up_at: None };
            call.remote = remote;
        }
        self.tell(Event::Answered { call: CallId(leg.0), remote_media });
    }

    pub(super) fn on_rejected(&mut self, leg: LegId, code: u16) {
        let cancelled =
            self.calls.get(&leg).is_some_and(|call| matches!(call.state, State::Outgoing { cancelled: true }));
        self.forget_call(leg);
        let call = CallId(leg.0);
        // 408 after a CANCEL: the other side never answered either of the two.
        let event = match code {
            487 | 408 if cancelled => Event::Cancelled { call },
            code => Event::Failed { call, code },
        };
        self.tell(event);
    }

    pub(super) fn on_acknowledged(&mut self, now: Instant, leg: LegId, body: &[u8]) {
        let Some(call) = self.calls.get_mut(&leg) else {
            return;
        };
        // The answer to an offer of ours comes with the ACK.
        if let Some(remote) = sdp::read(body) {
            call.remote = Some(remote);
        }
        let State::Answered { hang_up_after } = call.state else {
            return;
        };
        let hang_up_at = hang_up_after.map(|wait| now + wait);
        call.state = State::Up { hang_up_at };
        let remote_media = call.remote_media();
        self.agenda.set(leg, hang_up_at);
        self.tell(Event::Confirmed { call: CallId(leg.0), remote_media });
    }

    pub(super) fn on_reinvite(&mut self, now: Instant, leg: LegId, offer: &[u8]) {
        let Some(call) = self.calls.get_mut(&leg) else {
            return self.endpoint.refuse(now, leg, 481, b"");
        };
        call.version += 1;
        let Some(body) = call.description(offer, &self.payloads) else {
            call.version -= 1;
            self.endpoint.refuse(now, leg, 488, b"");
            return self.tell(Event::Reinvited { call: CallId(leg.0), code: 488 });
        };
        if !offer.is_empty() {
            call.remote = sdp::read(offer);
        }
        self.endpoint.accept(now, leg, &body);
        self.tell(Event::Reinvited { call: CallId(leg.0), code: 200 });
    }

    pub(super) fn on_reinvite_answered(&mut self, now: Instant, leg: LegId, code: u16, body: &[u8]) {
        if (200..300).contains(&code) {
            self.endpoint.acknowledge(now, leg, None);
            if let Some(call) = self.calls.get_mut(&leg) {
                call.remote = sdp::read(body);
            }
        }
        self.tell(Event::Reinvited { call: CallId(leg.0), code });
    }

    pub(super) fn forget_call(&mut self, leg: LegId) {
        self.calls.remove(&leg);
        self.agenda.set(leg, None);
    }

    /// Gives an incoming call its final answer.
    fn answer_call(&mut self, now: Instant, leg: LegId) {
        let Some(call) = self.calls.get_mut(&leg) else {
            return;
        };
        let State::Incoming { answering, offer, .. } = &call.state else {
            return;
        };
        let answering = *answering;
        let (code, body) = match call.description(offer, &self.payloads) {
            Some(body) if answering.code == 200 => (200, body),
            None if answering.code == 200 => (488, Vec::new()),
            _ => (answering.code, Vec::new()),
        };
        if code == 200 {
            call.state = State::Answered { hang_up_after: answering.hang_up_after };
            self.endpoint.accept(now, leg, &body);
        } else {
            self.endpoint.refuse(now, leg, code, b"");
            self.forget_call(leg);
            self.tell(Event::Failed { call: CallId(leg.0), code });
        }
    }

    fn new_call(&mut self, media: SocketAddr, state: State) -> Call {
        // A session identifier of RFC 8866 is a decimal number that readers keep in 63 bits.
        let session = self.endpoint.random().number() >> 2;
        Call { media, remote: None, session, version: 1, state }
    }
}

impl Call {
    /// Where the other side wants to hear us.
    pub(super) fn remote_media(&self) -> Option<SocketAddr> {
        media::remote(self.remote.as_ref())
    }

    /// The answer to an offer, or an offer where there is none; `None` if we cannot speak what is offered.
    fn description(&self, offer: &[u8], payloads: &[u8]) -> Option<Vec<u8>> {
        if offer.is_empty() {
            return Some(media::offer(self.session, self.version, self.media, payloads));
        }
        media::answer(self.session, self.version, self.media, payloads, offer)
    }
}

impl Plan {
    fn next(&self) -> Option<Instant> {
        earliest(self.ring_at, self.answer_at)
    }
}
