//! Requests that come (RFC 3261 §8.2, §9.2, §12.2.2, §14.2 and §15.1.2).

use super::leg::{Exchange, Leg, LegId, Stage};
use super::{ALLOW, Endpoint, Notice};
use crate::dialog::Dialog;
use crate::limits;
use crate::transact::{Arrival, ServerId};
use sip::Checked;
use sip::header::Name;
use sip::message::{Message, Method};
use sip::time::Instant;
use std::net::SocketAddr;

impl Endpoint {
    pub(super) fn handle_request(&mut self, now: Instant, source: SocketAddr, request: &Checked<'_>) {
        match self.transactions.on_request(now, source, request) {
            Arrival::Absorbed => {}
            Arrival::Merged => self.refuse_without_transaction(request, source, 482),
            Arrival::Overload => self.refuse_without_transaction(request, source, 503),
            Arrival::Acknowledgement => self.on_ack(now, request),
            Arrival::New(server) => self.on_new_request(now, server, source, request),
        }
    }

    fn on_new_request(&mut self, now: Instant, server: ServerId, source: SocketAddr, request: &Checked<'_>) {
        if request.method() == Method::Cancel {
            return self.on_cancel(now, server, request);
        }
        let unsupported = self.unsupported(request);
        if !unsupported.is_empty() {
            return self.answer(now, server, request, 420, &unsupported);
        }
        let tag = request.to().tag;
        match (tag, request.method()) {
            (Some(tag), _) => self.on_request_in_dialog(now, server, request, tag),
            (None, Method::Invite) => self.on_invite(now, server, source, request),
            (None, _) => {
                self.notices.push_back(Notice::Request { server, request: request.bytes().to_vec() });
            }
        }
    }

    /// The Unsupported lines for what the request requires and we lack (RFC 3261 §8.2.2.3); empty if there is nothing.
    fn unsupported(&self, request: &Message<'_>) -> Vec<u8> {
        let mut lines = Vec::new();
        for required in request.values(Name::Require) {
            if !self.settings.options.iter().any(|option| option.eq_ignore_ascii_case(required.bytes)) {
                lines.extend_from_slice(b"Unsupported: ");
                lines.extend_from_slice(required.bytes);
                lines.extend_from_slice(b"\r\n");
            }
        }
        lines
    }

    /// A call comes in.
    fn on_invite(&mut self, now: Instant, server: ServerId, source: SocketAddr, request: &Message<'_>) {
        if self.legs.len() >= limits::LEGS {
            return self.answer(now, server, request, 503, b"");
        }
        let local_tag = self.random.token();
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let Some(dialog) = Dialog::of_invite(request, local_tag, self.settings.fallback) else {
            return self.answer(now, server, request, 400, b"");
        };
        let bytes = request.bytes().to_vec();
        let exchange = Exchange::Asked { server, request: bytes.clone(), cseq };
        let leg = self.insert_leg(Leg { dialog, stage: Stage::Early, exchange, bye_wanted: false });
        self.notices.push_back(Notice::Incoming { leg, source, request: bytes });
    }

    fn on_ack(&mut self, now: Instant, ack: &Message<'_>) {
        let Some(tag) = ack.to().and_then(|to| to.tag()) else {
            return;
        };
        let Some(id) = self.leg_of(ack, tag) else {
            return;
        };
        let Some(cseq) = ack.cseq() else { return };
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        match &leg.exchange {
            Exchange::Awaiting(answer) if answer.cseq == cseq.number => {}
            _ => return,
        }
        leg.exchange = Exchange::Idle;
        let wanted = leg.bye_wanted;
        self.arm(id);
        self.notices.push_back(Notice::Acknowledged { leg: id, body: ack.body().to_vec() });
        if wanted {
            self.send_bye(now, id);
        }
    }

    /// A CANCEL stops an INVITE that was not answered finally; else it has no effect but its own 200 (RFC 3261 §9.2).
    fn on_cancel(&mut self, now: Instant, server: ServerId, cancel: &Checked<'_>) {
        let Some(invite) = self.transactions.cancelled(cancel) else {
            return self.answer(now, server, cancel, 481, b"");
        };
        let asked = self.legs.iter().find(|(_, leg)| leg.is_asked_by(invite));
        let Some((id, tag)) = asked.map(|(id, leg)| (*id, leg.dialog.local_tag.clone())) else {
            return self.answer(now, server, cancel, 200, b"");
        };
        self.answer_tagged(now, server, cancel, 200, b"", &tag);
        let early = self.legs.get(&id).is_some_and(|leg| leg.stage == Stage::Early);
        self.refuse(now, id, 487, b"");
        if early {
            self.notices.push_back(Notice::Cancelled { leg: id });
        }
    }

    fn on_request_in_dialog(&mut self, now: Instant, server: ServerId, request: &Message<'_>, tag: &[u8]) {
        let number = request.cseq().map_or(0, |cseq| cseq.number);
        let Some((id, leg)) = self.leg_of(request, tag).and_then(|id| self.legs.get_mut(&id).map(|leg| (id, leg)))
        else {
            return self.answer(now, server, request, 481, b"");
        };
        if leg.dialog.remote_cseq.is_some_and(|last| number < last) {
            // Out of order (RFC 3261 §12.2.2).
            return self.answer(now, server, request, 500, b"");
        }
        leg.dialog.remote_cseq = Some(number);
        match request.method() {
            Method::Invite => self.on_reinvite(now, server, request, id),
            Method::Bye => self.on_bye(now, server, request, id),
            // A 200 would have to answer the offer (RFC 3311 §5.2); without one an UPDATE only refreshes the dialog.
            Method::Update if !request.body().is_empty() => self.answer(now, server, request, 488, b""),
            Method::Update => {
                leg.dialog.refresh_target(request);
                let contact = [&b"Contact: "[..], &self.contact(), b"\r\n"].concat();
                self.answer(now, server, request, 200, &contact);
            }
            Method::Info | Method::Message | Method::Options => self.answer(now, server, request, 200, b""),
            Method::Other(_) => self.answer(now, server, request, 501, ALLOW),
            _ => self.answer(now, server, request, 405, ALLOW),
        }
    }

    fn on_reinvite(&mut self, now: Instant, server: ServerId, request: &Message<'_>, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if leg.stage != Stage::Confirmed {
            return self.answer(now, server, request, 481, b"");
        }
        match &leg.exchange {
            Exchange::Calling { .. } | Exchange::Owing { .. } => {
                return self.answer(now, server, request, 491, b"");
            }
            Exchange::Asked { .. } => {
                let seconds = 1 + self.random.number() % 10;
                let line = format!("Retry-After: {seconds}\r\n");
                return self.answer(now, server, request, 500, line.as_bytes());
            }
            Exchange::Awaiting(_) => {
                // Nobody sends a new INVITE without having seen the answer to the last one: its ACK was lost or is late.
                self.notices.push_back(Notice::Acknowledged { leg: id, body: Vec::new() });
            }
            Exchange::Idle => {}
        }
        leg.dialog.refresh_target(request);
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        leg.exchange = Exchange::Asked { server, request: request.bytes().to_vec(), cseq };
        self.arm(id);
        self.notices.push_back(Notice::Reinvite { leg: id, body: request.body().to_vec() });
    }

    fn on_bye(&mut self, now: Instant, server: ServerId, request: &Message<'_>, id: LegId) {
        self.answer(now, server, request, 200, b"");
        let Some(leg) = self.legs.get(&id) else {
            return;
        };
        let stage = leg.stage;
        if stage == Stage::Ending {
            // Both hung up at the same time: our own BYE ends the leg.
            return;
        }
        if matches!(leg.exchange, Exchange::Asked { .. }) {
            self.refuse(now, id, 487, b"");
        }
        self.remove_leg(id);
        self.notices.push_back(match stage {
            Stage::Early => Notice::Cancelled { leg: id },
            _ => Notice::Ended { leg: id, by_us: false, code: 200 },
        });
    }

    /// The leg whose dialog a request is in: Call-ID and both tags match.
    fn leg_of(&self, request: &Message<'_>, local_tag: &[u8]) -> Option<LegId> {
        let call_id = request.call_id()?.to_vec();
        let id = *self.by_dialog.get(&(call_id, local_tag.to_vec()))?;
        let remote_tag = request.from().and_then(|from| from.tag()).unwrap_or_default();
        let leg = self.legs.get(&id)?;
        (leg.dialog.remote_tag.as_deref() == Some(remote_tag)).then_some(id)
    }
}
