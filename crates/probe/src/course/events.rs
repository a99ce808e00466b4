//! What happens to the user agent, and what follows from it.

use super::clearing::Rest;
use super::exchanges::Answer;
use super::{Calling, Fault, Output, Probe, Stage};
use crate::plan::Kind;
use sip::time::Instant;
use sip::{Limits, Message, Method, parse};
use std::net::SocketAddr;
use ua::{CallId, Event, OptionsAnswer};

impl Probe {
    /// Hands on what the user agent has to say, until it has nothing more.
    pub(super) fn drain(&mut self, now: Instant) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                ua::Output::Send { to, bytes } => self.send(now, to, bytes),
                ua::Output::Event(event) => self.on_event(now, &event),
            }
        }
        if matches!(self.stage, Stage::Asking)
            && let Some(answer) = self.agent.options_answer()
        {
            self.on_options_answer(now, answer);
        }
    }

    /// Places the call.
    pub(super) fn call(&mut self, now: Instant) {
        let Kind::Call(plan) = &self.plan.kind else { return };
        let call = self.agent.call(now, &plan.target, self.ends.media);
        self.stage = Stage::Calling(Calling { call, since: now, rings: false });
    }

    fn send(&mut self, now: Instant, to: SocketAddr, bytes: Vec<u8>) {
        let message = parse(&bytes, &Limits::default()).ok();
        let is_register = message.as_ref().is_some_and(|message| message.method() == Method::Register);
        let is_for_registrar = self.plan.registrar == Some(to) && (is_register || !self.is_registrar_lost);
        // Over connections there is nobody else to send to, whatever a Contact or a Route names.
        let is_far = self.plan.transport.is_stream() && !is_for_registrar;
        let to = if is_far { self.plan.proxy } else { to };
        let both_hang_up = message.as_ref().is_some_and(agrees_to_bye);
        if let Some(request) = message.filter(Message::is_request) {
            self.exchanges.on_request(now, to, &request);
        }
        self.record.message(now, true, to, &bytes);
        self.outputs.push_back(Output::Message { to, bytes });
        if both_hang_up {
            self.on_their_bye(now);
        }
    }

    fn on_event(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Registered { .. } => self.on_registered(now),
            Event::RegisterFailed { .. } => self.on_register_failed(now),
            Event::Unregistered => {
                self.is_bound = false;
                self.advance(now);
            }
            Event::Ringing { call, code } => self.on_ringing(now, *call, *code),
            Event::Answered { call, .. } => self.on_answered(now, *call),
            Event::Failed { call, .. } => self.on_call_failed(now, *call),
            Event::Cancelled { call } => self.call_is_over(now, *call),
            Event::Ended { call, by_us, code } => self.on_ended(now, *call, *by_us, *code),
            // Whoever calls us is refused; a new session description is followed without a word.
            Event::Incoming { .. } | Event::Confirmed { .. } | Event::Reinvited { .. } => {}
        }
    }

    fn on_options_answer(&mut self, now: Instant, answer: OptionsAnswer) {
        if !answer.came {
            self.blame(now, self.silence(now, "OPTIONS", self.started));
            return self.finish(now);
        }
        self.measured.answer = Some(now.saturating_since(self.started));
        let is_good = match &self.plan.kind {
            Kind::Options { accept, .. } if !accept.is_empty() => {
                accept.iter().any(|(low, high)| (*low..=*high).contains(&answer.code))
            }
            _ => answer.code != 408 && !(500..600).contains(&answer.code),
        };
        if !is_good {
            let answer = self.final_answer("OPTIONS", answer.code);
            self.blame(now, Fault::Refused { method: "OPTIONS", answer });
        }
        self.finish(now);
    }

    fn on_registered(&mut self, now: Instant) {
        // A long talk refreshes the binding by itself: only the first time counts.
        if !matches!(self.stage, Stage::Registering) {
            return;
        }
        self.measured.register = Some(now.saturating_since(self.started));
        match self.plan.kind {
            Kind::Call(_) => self.call(now),
            Kind::Options { .. } | Kind::Register => self.clear(now, Rest::Nothing),
        }
    }

    fn on_register_failed(&mut self, now: Instant) {
        let answer = self.exchanges.answer_to("REGISTER").cloned();
        match &self.stage {
            Stage::Registering => {
                // Where nothing came, to us or to somebody on the way, the binding may be there all the same.
                self.is_bound = answer.is_none_or(|answer| matches!(answer.code, 408 | 504));
                let fault = self.refusal(now, "REGISTER", self.started);
                self.blame(now, fault);
                self.clear(now, Rest::Nothing);
            }
            Stage::Clearing(clearing) if clearing.is_leaving => {
                self.is_bound = false;
                self.blame(now, unclear("un-REGISTER", answer, self.registrar()));
                self.advance(now);
            }
            _ => {}
        }
    }

    fn on_ringing(&mut self, now: Instant, of: CallId, code: u16) {
        if let Stage::Calling(calling) = &mut self.stage
            && calling.call == of
            && (180..190).contains(&code)
        {
            calling.rings = true;
            self.measured.ring.get_or_insert(now.saturating_since(calling.since));
        }
    }

    fn on_call_failed(&mut self, now: Instant, call: CallId) {
        match &self.stage {
            Stage::Calling(calling) if calling.call == call => {
                let fault = self.refusal(now, "INVITE", calling.since);
                self.blame(now, fault);
                self.clear(now, Rest::Nothing);
            }
            _ => self.call_is_over(now, call),
        }
    }

    fn on_ended(&mut self, now: Instant, call: CallId, by_us: bool, code: u16) {
        match &self.stage {
            Stage::Talking(talking) if talking.call == call => {
                let Some(talked) = self.take_talk(now) else { return };
                // Who hangs up after the last word has heard all of it.
                let fault = if talked.is_finished {
                    self.fault_of_audio(&talked)
                } else {
                    Some(Fault::HungUp { after: talked.time })
                };
                if let Some(fault) = fault {
                    self.blame(now, fault);
                }
                self.clear(now, Rest::Nothing);
            }
            Stage::Clearing(clearing) if clearing.call == Some(call) => {
                if by_us && !(200..300).contains(&code) {
                    // That of another branch of a fork may be the last one.
                    let answer = self.exchanges.answer_to("BYE").filter(|answer| answer.code == code).cloned();
                    self.blame(now, unclear("BYE", answer, self.plan.proxy));
                }
                self.call_is_over(now, call);
            }
            _ => {}
        }
    }

    /// What it means that this request failed.
    fn refusal(&self, now: Instant, method: &'static str, since: Instant) -> Fault {
        let Some(answer) = self.exchanges.answer_to(method).cloned() else {
            return self.silence(now, method, since);
        };
        match answer.code {
            code @ (401 | 407) if self.plan.password.is_none() => Fault::PasswordWanted { method, code },
            code @ (401 | 407) if self.exchanges.is_proven(method, code) => {
                let user = &self.agent.account().user;
                let name = if self.plan.username.is_empty() { user } else { &self.plan.username };
                Fault::PasswordWrong { name: name.clone(), code }
            }
            code @ (401 | 407) => Fault::Challenge { method, code },
            486 | 600 if method == "INVITE" => Fault::Busy(answer),
            _ => Fault::Refused { method, answer },
        }
    }

    fn final_answer(&self, method: &str, code: u16) -> Answer {
        self.exchanges.answer_to(method).cloned().unwrap_or_else(|| Answer::of_code(code))
    }
}

/// We say 200 to a BYE, which only that of our call gets.
fn agrees_to_bye(message: &Message<'_>) -> bool {
    message.method() == Method::Bye && message.status_line().is_some_and(|line| line.code == 200)
}

/// A request that clears up failed: with an answer, or because nothing came.
fn unclear(method: &'static str, answer: Option<Answer>, peer: SocketAddr) -> Fault {
    match answer {
        Some(answer) => Fault::Unclearable { method, answer },
        None => Fault::Uncleared { method, peer },
    }
}
