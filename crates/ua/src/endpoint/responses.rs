//! Responses to requests of ours, and requests that nobody answered (RFC 3261 §8.1.3, §13.2.2, §14.1, §15.1.1 and §22.2).

use super::leg::{Cancel, Exchange, Leg, LegId, Stage};
use super::{Endpoint, Notice, Purpose, RequestId, Task};
use crate::dialog::{Dialog, remote_tag_of};
use crate::login::Challenged;
use crate::transact::ClientId;
use sip::message::Message;
use sip::time::Instant;

/// How often one request is sent again for a challenge: of a further realm on its way, or because the nonce was stale.
const CHALLENGES_ANSWERED: u8 = 3;

impl Endpoint {
    pub(super) fn handle_response(&mut self, now: Instant, response: &Message<'_>) {
        let Some(client) = self.transactions.on_response(now, response) else {
            return;
        };
        let Some(purpose) = self.transactions.task(client).map(|task| task.purpose) else {
            return;
        };
        let code = response.status_line().map_or(0, |line| line.code);
        if (code == 401 || code == 407) && self.answers_challenge(now, client, response) {
            return;
        }
        match purpose {
            Purpose::Invite(leg) => self.on_invite_response(now, leg, client, response, code),
            Purpose::Reinvite(leg) => self.on_reinvite_response(now, leg, client, response, code),
            Purpose::Bye(leg) if code >= 200 => self.ended_by_us(leg, code),
            Purpose::Owner(request) if code >= 200 => self.answered_owner(request, response, code),
            Purpose::Bye(_) | Purpose::Owner(_) | Purpose::None => {}
        }
    }

    /// Timer B or F, as if a 408 had come (RFC 3261 §8.1.3.1).
    pub(super) fn timed_out(&mut self, now: Instant, purpose: Purpose, cseq: u32) {
        match purpose {
            Purpose::Invite(leg) => self.rejected(leg, 408),
            Purpose::Reinvite(leg) => self.reinvite_failed(now, leg, 408),
            Purpose::Bye(leg) => self.ended_by_us(leg, 408),
            Purpose::Owner(request) => {
                self.notices.push_back(Notice::Response { request, code: 408, cseq, response: Vec::new() });
            }
            Purpose::None => {}
        }
    }

    /// Sends the request again with credentials for every realm that asked so far, if that may help (RFC 3261 §22.2 and
    /// §22.3).
    fn answers_challenge(&mut self, now: Instant, client: ClientId, response: &Message<'_>) -> bool {
        let Some(login) = self.settings.login.clone() else {
            return false;
        };
        let Some(mut task) = self.transactions.task(client).cloned() else {
            return false;
        };
        if task.repeats >= CHALLENGES_ANSWERED || !task.takes(Challenged::read(response)) {
            return false;
        }
        task.repeats += 1;
        task.recipe.cseq = match task.purpose {
            Purpose::None => return false,
            Purpose::Owner(_) => task.recipe.cseq.wrapping_add(1),
            Purpose::Invite(leg) | Purpose::Reinvite(leg) => match self.legs.get_mut(&leg) {
                Some(leg) if leg.is_calling_by(client) && !leg.is_given_up() => leg.next_cseq(),
                _ => return false,
            },
            Purpose::Bye(leg) => match self.legs.get_mut(&leg) {
                Some(leg) => leg.next_cseq(),
                None => return false,
            },
        };
        let recipe = &task.recipe;
        task.authorization = login.answer(&mut task.answered, recipe.method, &recipe.uri, &mut self.random);
        if recipe.method == "REGISTER" {
            self.remembered.clone_from(&task.answered);
        }
        match task.purpose {
            Purpose::Invite(leg) | Purpose::Reinvite(leg) => self.invite(now, leg, task),
            _ => {
                self.start(now, task);
            }
        }
        true
    }

    fn on_invite_response(&mut self, now: Instant, id: LegId, client: ClientId, response: &Message<'_>, code: u16) {
        match code {
            0..=199 => self.on_progress(now, id, client, response, code),
            200..=299 => self.on_answer(now, id, client, response),
            _ => self.rejected(id, code),
        }
    }

    fn on_progress(&mut self, now: Instant, id: LegId, current: ClientId, response: &Message<'_>, code: u16) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        let Exchange::Calling { client, provisional, cancel, .. } = &mut leg.exchange else {
            return;
        };
        if *client != current {
            return;
        }
        *provisional = true;
        if *cancel == Cancel::Wanted {
            self.cancel(now, id);
        } else if code > 100 && leg.stage == Stage::Early {
            self.notices.push_back(Notice::Progress { leg: id, code, body: response.body().to_vec() });
        }
    }

    /// A 2xx to the INVITE of a new call: the first makes the dialog, those of other branches of a fork are hung up.
    fn on_answer(&mut self, now: Instant, id: LegId, client: ClientId, response: &Message<'_>) {
        let tag = remote_tag_of(response);
        let answer_due = self.transactions.task(client).is_some_and(|task| task.recipe.body.is_none());
        let cseq = response.cseq().map_or(0, |cseq| cseq.number);
        let Some(leg) = self.legs.get_mut(&id) else {
            return self.hang_up_stray(now, client, response);
        };
        if leg.stage != Stage::Early {
            let repeated = leg.dialog.remote_tag.as_deref() == Some(&tag[..]);
            if !repeated {
                self.hang_up_stray(now, client, response);
            }
            return;
        }
        let given_up = leg.is_given_up();
        leg.dialog.establish(response);
        leg.stage = Stage::Confirmed;
        leg.exchange = Exchange::Owing { client, cseq };
        self.arm(id);
        if given_up {
            // The answer and our CANCEL crossed (RFC 3261 §9.1): the call is up, and nobody wants it.
            self.hang_up(now, id);
        } else {
            self.notices.push_back(Notice::Accepted { leg: id, body: response.body().to_vec(), answer_due });
        }
    }

    /// A 2xx to an INVITE that nobody wants any more, or that came from another branch of a fork: ACK and BYE.
    fn hang_up_stray(&mut self, now: Instant, client: ClientId, response: &Message<'_>) {
        let Some(mut dialog) = self.acknowledge_stray(client, response) else {
            return;
        };
        dialog.local_cseq = dialog.local_cseq.wrapping_add(1);
        let recipe = dialog.recipe("BYE", dialog.local_cseq);
        self.start(now, Task::new(Purpose::None, recipe));
    }

    /// The sender of a 2xx must get its ACK even where no leg waits for it.
    fn acknowledge_stray(&mut self, client: ClientId, response: &Message<'_>) -> Option<Dialog> {
        let uri = self.transactions.task(client)?.recipe.uri.clone();
        let dialog = Dialog::of_response(response, uri, self.settings.fallback)?;
        let recipe = dialog.recipe("ACK", dialog.local_cseq);
        let bytes = self.write_acknowledgement(&recipe, "");
        let tag = dialog.remote_tag.clone().unwrap_or_default();
        self.transactions.acknowledge(client, &tag, recipe.hop, bytes);
        Some(dialog)
    }

    fn on_reinvite_response(&mut self, now: Instant, id: LegId, client: ClientId, response: &Message<'_>, code: u16) {
        if code < 200 {
            return self.on_progress(now, id, client, response, code);
        }
        if code >= 300 {
            return self.reinvite_failed(now, id, code);
        }
        let answer_due = self.transactions.task(client).is_some_and(|task| task.recipe.body.is_none());
        let cseq = response.cseq().map_or(0, |cseq| cseq.number);
        let waiting = self.legs.get_mut(&id).filter(|leg| leg.is_calling_by(client));
        let Some(leg) = waiting else {
            // The call ended meanwhile; or the owner has not acknowledged the first copy yet, then it will.
            if !self.legs.get(&id).is_some_and(|leg| leg.stage == Stage::Confirmed) {
                self.acknowledge_stray(client, response);
            }
            return;
        };
        leg.dialog.refresh_target(response);
        leg.exchange = Exchange::Owing { client, cseq };
        self.arm(id);
        let body = response.body().to_vec();
        self.notices.push_back(Notice::ReinviteAnswered { leg: id, code, body, answer_due });
    }

    /// A re-INVITE failed: the session stays as it was, but for the failures that mean that the dialog is gone
    /// (RFC 3261 §12.2.1.2).
    fn reinvite_failed(&mut self, now: Instant, id: LegId, code: u16) {
        let Some(leg) = self.legs.get_mut(&id) else {
            return;
        };
        if leg.stage != Stage::Confirmed || !matches!(leg.exchange, Exchange::Calling { .. }) {
            return;
        }
        leg.exchange = Exchange::Idle;
        self.arm(id);
        self.notices.push_back(Notice::ReinviteAnswered { leg: id, code, body: Vec::new(), answer_due: false });
        if code == 408 || code == 481 {
            self.send_bye(now, id);
        }
    }

    fn rejected(&mut self, id: LegId, code: u16) {
        if self.legs.get(&id).is_some_and(Leg::is_early) {
            self.remove_leg(id);
            self.notices.push_back(Notice::Rejected { leg: id, code });
        }
    }

    fn ended_by_us(&mut self, id: LegId, code: u16) {
        if self.remove_leg(id).is_some() {
            self.notices.push_back(Notice::Ended { leg: id, by_us: true, code });
        }
    }

    fn answered_owner(&mut self, request: RequestId, response: &Message<'_>, code: u16) {
        let cseq = response.cseq().map_or(0, |cseq| cseq.number);
        let response = response.bytes().to_vec();
        self.notices.push_back(Notice::Response { request, code, cseq, response });
    }
}
