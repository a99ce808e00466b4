//! Leaving nothing behind: no call and no binding.

use super::{Fault, Probe, Stage};
use crate::plan::Kind;
use sip::time::Instant;
use std::net::SocketAddr;
use ua::CallId;

/// Calls and bindings are being taken back.
pub(super) struct Clearing {
    /// The call whose end is not confirmed.
    pub(super) call: Option<CallId>,
    /// So long the un-REGISTER waits for the end of the call.
    patience: Instant,
    /// The un-REGISTER is under way.
    pub(super) is_leaving: bool,
}

/// What there still is of a call.
#[derive(Clone, Copy)]
pub(super) enum Rest {
    Nothing,
    /// It was not answered.
    Early(CallId),
    /// It was answered.
    Up(CallId),
}

impl Clearing {
    /// There is less time than there was.
    pub(super) fn hurry(&mut self, now: Instant, end: Instant) {
        self.patience = self.patience.min(now + end.saturating_since(now) / 2);
    }
}

impl Probe {
    /// Begins to clear up.
    pub(super) fn clear(&mut self, now: Instant, rest: Rest) {
        let call = match rest {
            Rest::Nothing => None,
            Rest::Early(call) => {
                // There is no time to wait for a provisional response (RFC 3261 §9.1).
                self.agent.cancel_now(now, call);
                Some(call)
            }
            Rest::Up(call) => {
                self.agent.hang_up(now, call);
                Some(call)
            }
        };
        let patience = now + self.end.saturating_since(now) / 2;
        self.stage = Stage::Clearing(Clearing { call, patience, is_leaving: false });
        self.advance(now);
    }

    /// Does what can be done next.
    pub(super) fn advance(&mut self, now: Instant) {
        let Stage::Clearing(clearing) = &mut self.stage else { return };
        let is_waiting = clearing.call.is_some() && now < clearing.patience;
        if self.is_bound && !clearing.is_leaving && !is_waiting {
            clearing.is_leaving = true;
            self.agent.unregister(now);
        }
        if clearing.call.is_none() && !self.is_bound {
            self.finish(now);
        }
    }

    /// The call is over, one way or another.
    pub(super) fn call_is_over(&mut self, now: Instant, call: CallId) {
        if let Stage::Clearing(clearing) = &mut self.stage
            && clearing.call == Some(call)
        {
            clearing.call = None;
            self.advance(now);
        }
    }

    /// The other side hung up as well, and was told that this is right: the call is over, whatever our BYE gets.
    pub(super) fn on_their_bye(&mut self, now: Instant) {
        if let Stage::Clearing(clearing) = &mut self.stage
            && clearing.call.take().is_some()
        {
            self.advance(now);
        }
    }

    pub(super) fn clear_in_time(&mut self, now: Instant) {
        self.advance(now);
        if now >= self.end {
            self.blame_uncleared(now);
        }
    }

    pub(super) fn clearing_due(&self, clearing: &Clearing) -> Option<Instant> {
        let leaves = (self.is_bound && !clearing.is_leaving).then_some(clearing.patience);
        let judged = (!self.is_decided()).then_some(self.end);
        leaves.into_iter().chain(judged).min()
    }

    /// The time is over: what was not answered is said again, what was not said at last.
    pub(super) fn say_last_words(&mut self, now: Instant) {
        if !matches!(self.stage, Stage::Clearing(_)) {
            return;
        }
        self.blame_uncleared(now);
        self.agent.repeat_unanswered(now);
        if let Stage::Clearing(clearing) = &mut self.stage
            && self.is_bound
            && !clearing.is_leaving
        {
            clearing.is_leaving = true;
            self.agent.unregister(now);
        }
        self.drain(now);
        self.finish(now);
    }

    /// Nothing takes our datagrams there.
    pub(super) fn on_closed(&mut self, now: Instant, peer: SocketAddr) {
        // What never left was returned by this machine's own firewall.
        if self.is_held_back(peer) {
            return;
        }
        let is_proxy = peer == self.plan.proxy;
        let is_registrar = peer == self.registrar();
        let fault = Fault::NothingListens { transport: self.plan.transport, peer };
        match &mut self.stage {
            Stage::Asking if is_proxy => {
                self.blame(now, fault);
                self.finish(now);
            }
            Stage::Registering if is_registrar => {
                self.is_bound = false;
                self.blame(now, fault);
                self.clear(now, Rest::Nothing);
            }
            Stage::Calling(calling) if is_proxy => {
                let call = calling.call;
                self.blame(now, fault);
                self.is_bound &= !is_registrar;
                if self.is_bound {
                    // The INVITE must not go on while we un-register elsewhere.
                    self.agent.cancel_now(now, call);
                }
                self.clear(now, Rest::Nothing);
            }
            Stage::Talking(_) => {
                self.blame(now, fault);
                self.stop_talking(now);
            }
            Stage::Clearing(clearing) => {
                let is_for_call = is_proxy || !is_registrar;
                if is_for_call {
                    clearing.call = None;
                }
                self.is_bound &= !(is_registrar && clearing.is_leaving);
                self.blame(now, fault);
                self.advance(now);
            }
            Stage::Asking | Stage::Registering | Stage::Calling(_) | Stage::Over => {}
        }
    }

    /// A connection is lost, and with it whatever was under way on it. What goes over the other one is still done.
    pub(super) fn on_connection_lost(&mut self, now: Instant, peer: SocketAddr, text: String) {
        let is_proxy = peer == self.plan.proxy;
        let is_registrar = peer == self.registrar();
        // Nothing can remove the binding any more.
        let leaves_binding = is_registrar && self.is_bound;
        self.is_bound &= !is_registrar;
        self.is_registrar_lost |= is_registrar && !is_proxy;
        match &mut self.stage {
            Stage::Asking if is_proxy => {
                self.blame(now, Fault::Connection { text, leaves_binding: false });
                self.finish(now);
            }
            Stage::Registering if is_registrar => {
                // Whether there is a binding was not known yet.
                self.blame(now, Fault::Connection { text, leaves_binding: false });
                self.finish(now);
            }
            Stage::Registering if is_proxy && matches!(self.plan.kind, Kind::Call(_)) => {
                self.blame(now, Fault::Connection { text, leaves_binding });
                self.clear(now, Rest::Nothing);
            }
            Stage::Calling(calling) if is_proxy || is_registrar => {
                let rest = if is_proxy { Rest::Nothing } else { Rest::Early(calling.call) };
                self.blame(now, Fault::Connection { text, leaves_binding });
                self.clear(now, rest);
            }
            Stage::Talking(talking) if is_proxy || is_registrar => {
                let rest = if is_proxy { Rest::Nothing } else { Rest::Up(talking.call) };
                self.blame(now, Fault::Connection { text, leaves_binding });
                self.take_talk(now);
                self.clear(now, rest);
            }
            Stage::Clearing(clearing) => {
                if is_proxy && clearing.call.take().is_some() {
                    self.blame(now, Fault::Uncleared { method: "BYE", peer });
                }
                if leaves_binding {
                    self.blame(now, Fault::Uncleared { method: "un-REGISTER", peer });
                }
                self.advance(now);
            }
            Stage::Asking | Stage::Registering | Stage::Calling(_) | Stage::Talking(_) | Stage::Over => {}
        }
    }

    /// What is being cleared up was not answered.
    fn blame_uncleared(&mut self, now: Instant) {
        let Stage::Clearing(clearing) = &self.stage else { return };
        let fault = if clearing.is_leaving && clearing.call.is_none() {
            Fault::Uncleared { method: "un-REGISTER", peer: self.registrar() }
        } else {
            Fault::Uncleared { method: "BYE", peer: self.plan.proxy }
        };
        self.blame(now, fault);
    }
}
