//! What the owner of an endpoint can do with calls.

use super::leg::{Cancel, Exchange, Leg, LegId, Stage, Unacknowledged};
use super::{ALLOW, Endpoint, Notice, Purpose, Task};
use crate::dialog::{Dialog, response_with_body};
use crate::transact::ServerId;
use sip::header::Name;
use sip::message::{Message, parse};
use sip::time::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a call of ours may ring before it is cancelled: a little more than proxies allow (RFC 3261 §16.6 timer C).
const RINGING_TIME: Duration = Duration::from_secs(190);

/// A call to be placed.
pub(crate) struct Invitation {
    /// The Request-URI.
    pub(crate) uri: Vec<u8>,
    /// From and To, each a name-addr without tag.
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    /// The route set to begin with, each a name-addr.
    pub(crate) routes: Vec<Vec<u8>>,
    /// Complete header lines.
    pub(crate) extra: Vec<u8>,
    /// SDP; `None`: the callee offers.
    pub(crate) body: Option<Vec<u8>>,
    /// Where the INVITE goes, if not to the first route or the numeric host of the URI.
    pub(crate) hop: Option<SocketAddr>,
}

impl Endpoint {
    pub(crate) fn call(&mut self, now: Instant, invitation: Invitation) -> LegId {
        let call_id = [&self.random.token()[..], b"@", self.settings.address.ip().to_string().as_bytes()].concat();
        let dialog = Dialog {
            call_id,
            local_tag: self.random.token(),
            remote_tag: None,
            local: invitation.from,
            remote: invitation.to,
            target: invitation.uri,
            routes: invitation.routes,
            local_cseq: 1,
            remote_cseq: None,
            fallback: self.settings.fallback,
        };
        let mut recipe = dialog.recipe("INVITE", dialog.local_cseq);
        recipe.contact = Some(self.contact());
        recipe.extra.extend_from_slice(ALLOW);
        recipe.extra.extend_from_slice(&invitation.extra);
        recipe.body = invitation.body;
        recipe.hop = invitation.hop.unwrap_or(recipe.hop);
        let leg = Leg { dialog, stage: Stage::Early, exchange: Exchange::Idle, bye_wanted: false };
        let id = self.insert_leg(leg);
        let task = self.task(Purpose::Invite(id), recipe, self.proves_calls_ahead);
        self.invite(now, id, task);
        id
    }

    /// Places a re-INVITE. `false` while the dialog has another INVITE under way or is not confirmed (RFC 3261 §14.1).
    pub(crate) fn reinvite(&mut self, now: Instant, id: LegId, body: Option<Vec<u8>>) -> bool {
        let contact = self.contact();
        let Some(leg) = self.legs.get_mut(&id) else {
            return false;
        };
        if leg.stage != Stage::Confirmed || leg.bye_wanted || !matches!(leg.exchange, Exchange::Idle) {
            return false;
        }
        let cseq = leg.next_cseq();
        let mut recipe = leg.dialog.recipe("INVITE", cseq);
        recipe.contact = Some(contact);
        recipe.extra.extend_from_slice(ALLOW);
        recipe.body = body;
        self.invite(now, id, Task::new(Purpose::Reinvite(id), recipe));
        true
    }

    /// Sends an INVITE of the leg, for the first time or again with credentials.
    pub(super) fn invite(&mut self, now: Instant, id: LegId, task: Task) {
        let client = self.start(now, task);
        if let Some(leg) = self.legs.get_mut(&id) {
            let give_up_at = Some(now + RINGING_TIME);
            leg.exchange = Exchange::Calling { client, provisional: false, cancel: Cancel::Unwanted, give_up_at };
        }
        self.arm(id);
    }

    /// Sends the ACK of the 2xx that our INVITE got; `body` is the answer where the 2xx held the offer.
    pub(crate) fn acknowledge(&mut self, now: Instant, id: LegId, body: Option<Vec<u8>>) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        let Exchange::Owing { client, cseq } = leg.exchange else {
            return;
        };
        leg.exchange = Exchange::Idle;
        let mut recipe = leg.dialog.recipe("ACK", cseq);
        recipe.body = body;
        let tag = leg.dialog.remote_tag.clone().unwrap_or_default();
        let wanted = leg.bye_wanted;
        // The ACK of a 2xx carries the credentials of its INVITE (RFC 3261 §22.1).
        let authorization = self.transactions.task(client).map_or_else(String::new, |task| task.authorization.clone());
        let bytes = self.write_acknowledgement(&recipe, &authorization);
        self.transactions.acknowledge(client, &tag, recipe.hop, bytes);
        if wanted {
            self.send_bye(now, id);
        }
    }

    /// Sends a provisional response to the leg's INVITE.
    pub(crate) fn provisional(&mut self, now: Instant, id: LegId, code: u16, body: Option<&[u8]>) {
        if let Some((server, bytes, _)) = self.invite_response(id, code, b"", body) {
            self.transactions.respond(now, server, code, bytes);
        }
    }

    /// Answers the leg's INVITE or re-INVITE with 200 and repeats that until the ACK comes.
    pub(crate) fn accept(&mut self, now: Instant, id: LegId, body: &[u8]) {
        let Some((server, bytes, cseq)) = self.invite_response(id, 200, b"", Some(body)) else {
            return;
        };
        let Some(to) = self.transactions.response_address(server) else {
            return;
        };
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        let interval = self.timing.t1;
        leg.stage = if leg.stage == Stage::Early { Stage::Confirmed } else { leg.stage };
        leg.exchange = Exchange::Awaiting(Unacknowledged {
            cseq,
            to,
            bytes: bytes.clone(),
            next: now + interval,
            interval,
            until: now + self.timing.transaction_timeout(),
        });
        self.transactions.respond(now, server, 200, bytes);
        self.arm(id);
    }

    /// Answers the leg's INVITE or re-INVITE with a failure. Without a dialog the leg is gone.
    pub(crate) fn refuse(&mut self, now: Instant, id: LegId, code: u16, extra: &[u8]) {
        let Some((server, bytes, _)) = self.invite_response(id, code, extra, None) else {
            return;
        };
        self.transactions.respond(now, server, code, bytes);
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if leg.stage == Stage::Early {
            self.remove_leg(id);
        } else {
            leg.exchange = Exchange::Idle;
        }
    }

    /// Takes back a call of ours that was not answered yet, as soon as the other side has given a sign.
    pub(crate) fn cancel(&mut self, now: Instant, id: LegId) {
        self.take_back(now, id, false);
    }

    /// As `cancel`, without waiting for a sign; the INVITE is repeated no more, which would begin the call anew.
    pub(crate) fn cancel_now(&mut self, now: Instant, id: LegId) {
        self.take_back(now, id, true);
    }

    fn take_back(&mut self, now: Instant, id: LegId, at_once: bool) {
        let until = now + self.timing.transaction_timeout();
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if leg.stage != Stage::Early {
            return;
        }
        let Exchange::Calling { client, provisional, cancel, give_up_at } = &mut leg.exchange else {
            return;
        };
        if matches!(cancel, Cancel::Sent { .. }) {
            return;
        }
        if !*provisional && !at_once {
            *cancel = Cancel::Wanted;
            *give_up_at = None;
            self.arm(id);
            return;
        }
        *cancel = Cancel::Sent { until };
        let client = *client;
        self.arm(id);
        self.transactions.hush(client);
        if let Some(task) = self.transactions.task(client).cloned() {
            self.transactions.cancel(now, client, Task { purpose: Purpose::None, ..task });
        }
    }

    /// Ends a call, whatever its state: CANCEL, 603 or BYE.
    pub(crate) fn hang_up(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        match (leg.stage, &leg.exchange) {
            (Stage::Ending, _) => {}
            (Stage::Early, Exchange::Asked { .. }) => self.refuse(now, id, 603, b""),
            (Stage::Early, _) => self.cancel(now, id),
            (Stage::Confirmed, Exchange::Owing { .. }) => {
                leg.bye_wanted = true;
                self.acknowledge(now, id, None);
            }
            // RFC 3261 §15: only who was called has to wait for the ACK; his own requests begin after number 0.
            (Stage::Confirmed, Exchange::Awaiting(_)) if leg.dialog.local_cseq == 0 => leg.bye_wanted = true,
            (Stage::Confirmed, Exchange::Awaiting(_)) => self.send_bye(now, id),
            (Stage::Confirmed, Exchange::Asked { .. }) => {
                self.refuse(now, id, 487, b"");
                self.send_bye(now, id);
            }
            (Stage::Confirmed, Exchange::Idle | Exchange::Calling { .. }) => self.send_bye(now, id),
        }
    }

    pub(super) fn send_bye(&mut self, now: Instant, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        leg.stage = Stage::Ending;
        leg.exchange = Exchange::Idle;
        let cseq = leg.next_cseq();
        let recipe = leg.dialog.recipe("BYE", cseq);
        self.arm(id);
        self.start(now, Task::new(Purpose::Bye(id), recipe));
    }

    /// What the leg does by itself when its deadline has come.
    pub(super) fn leg_is_due(&mut self, now: Instant, id: LegId) {
        let longest = self.timing.t2;
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        match &mut leg.exchange {
            Exchange::Calling { client, cancel: Cancel::Sent { until }, .. } if now >= *until => {
                let client = *client;
                self.transactions.forget(client);
                self.remove_leg(id);
                self.notices.push_back(Notice::Rejected { leg: id, code: 408 });
            }
            Exchange::Calling { give_up_at: Some(due), .. } if now >= *due => match leg.stage {
                Stage::Early => self.cancel(now, id),
                _ => self.send_bye(now, id),
            },
            Exchange::Awaiting(answer) if now >= answer.until => self.send_bye(now, id),
            Exchange::Awaiting(answer) if now >= answer.next => {
                answer.interval = answer.interval.saturating_mul(2).min(longest);
                answer.next = now + answer.interval;
                let (to, bytes) = (answer.to, answer.bytes.clone());
                self.transactions.send_plain(to, bytes);
            }
            _ => {}
        }
        self.arm(id);
    }

    /// A response to the INVITE that waits for our answer, with Contact and the Record-Routes that came (RFC 3261 §12.1.1).
    fn invite_response(
        &self,
        id: LegId,
        code: u16,
        extra: &[u8],
        body: Option<&[u8]>,
    ) -> Option<(ServerId, Vec<u8>, u32)> {
        let leg = self.legs.get(&id)?;
        let Exchange::Asked { server, request, cseq } = &leg.exchange else {
            return None;
        };
        let message = parse(request, &self.limits).ok()?;
        let mut lines = extra.to_vec();
        if (101..300).contains(&code) {
            copy_record_routes(&message, &mut lines);
            lines.extend_from_slice(b"Contact: ");
            lines.extend_from_slice(&self.contact());
            lines.extend_from_slice(b"\r\n");
            lines.extend_from_slice(ALLOW);
        }
        lines.extend_from_slice(self.server_line().as_bytes());
        let body = body.filter(|body| !body.is_empty());
        let bytes = response_with_body(&message, code, &leg.dialog.local_tag, &lines, body);
        Some((*server, bytes, *cseq))
    }
}

fn copy_record_routes(request: &Message<'_>, lines: &mut Vec<u8>) {
    for header in request.all(Name::RecordRoute) {
        lines.extend_from_slice(b"Record-Route: ");
        lines.extend_from_slice(header.value);
        lines.extend_from_slice(b"\r\n");
    }
}
