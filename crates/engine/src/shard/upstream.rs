//! What goes back to the sender, and what is learnt from it on the way.

use super::{Core, TIMING};
use crate::context::{Best, ClientBranch, Context};
use crate::counters::Counter;
use crate::directory::{Dialog, DialogKey};
use crate::id::BackendId;
use crate::identity::{tag_key, text_key};
use crate::io::{Flow, Packet};
use crate::register::{self, Learning};
use crate::running::{FarmView, Running};
use sip::{Checked, Host, Instant, Message, Name, NameAddr, Value};
use std::net::SocketAddr;
use std::time::Duration;

/// A session timer's end plus the time that its last refresh may be under way (RFC 4028 §10 leaves the margin open).
const SESSION_GRACE: Duration = Duration::from_secs(32);

impl Core {
    /// RFC 3261 §16.7 step 3 and 8: our Via goes, a REGISTER's Contacts come back, a 503 becomes a 500. `None`: there is no further
    /// Via, the response was for us.
    pub(super) fn edit_response(
        &mut self,
        running: &Running,
        now: Instant,
        context: &mut Context,
        at: usize,
        message: &Checked<'_>,
    ) -> Option<Packet> {
        let (ours, next) = pop_via(message)?;
        if leads_nowhere(&next) {
            self.count(Counter::UnsafeDestination);
            return None;
        }
        let code = message.status_line().map_or(0, |line| line.code);
        let mut edits = std::mem::take(&mut self.edits);
        edits.clear();
        edits.remove_values(message, &[ours]);
        add_length(message, &context.upstream, &mut edits);
        if context.kind.register && (200..300).contains(&code) {
            self.registered(running, now, &context.branches[at], message, &mut edits);
        }
        if code == 503 {
            hide_overload(message, &mut edits);
        }
        if matches!(code, 401 | 407) {
            self.challenged(now, context, at, message, &mut edits);
        }
        self.scratch.clear();
        edits.apply(message.bytes(), &mut self.scratch);
        self.edits = edits;
        Some(Packet::copy_from(&self.scratch))
    }

    fn registered(
        &mut self,
        running: &Running,
        now: Instant,
        branch: &ClientBranch,
        message: &Checked<'_>,
        edits: &mut sip::Edits,
    ) {
        let Some(registration) = &branch.registration else {
            return;
        };
        let learning = Learning {
            now,
            secrets: &self.shared.secrets,
            directory: &self.shared.directory,
            limits: &running.settings.limits,
            outages: self.shared.outages.count(),
        };
        let learnt = registration.answered(&learning, message, edits);
        if learnt.is_err() {
            self.count(Counter::BindingLimit);
            self.tell_limit(now, "bindings");
        }
    }

    /// The seconds that a phone which is answered by this flow is told at most when it registers.
    pub(super) fn longest_told(&self, upstream: &Flow) -> Option<u32> {
        let running = self.shared.running();
        let (farm, _) = running.listener(upstream.listener)?;
        // A backend that registers elsewhere is told what it was granted there.
        let is_phone = farm.running.backend_at(farm.settings, upstream).is_none();
        is_phone.then(|| register::longest_told(farm.settings)).flatten()
    }

    /// Credentials for a nonce that this box did not issue are stale, not wrong: a phone that was moved must not ask its user for
    /// the password (RFC 7616 §3.3).
    fn challenged(
        &mut self,
        now: Instant,
        context: &Context,
        at: usize,
        message: &Checked<'_>,
        edits: &mut sip::Edits,
    ) {
        let Some(backend) = context.branches.get(at).and_then(|branch| match &branch.hop {
            crate::context::Hop::Backend(state) => Some(state.id()),
            crate::context::Hop::Peer => None,
        }) else {
            return;
        };
        let own_nonce = context.kind.with_credentials && self.sent_own_nonce(now, &context.branches[at], backend);
        for name in [Name::WwwAuthenticate, Name::ProxyAuthenticate] {
            for header in message.all(name) {
                let Some(challenge) = sip::Challenge::read(header.value, false) else {
                    continue;
                };
                if let Some(nonce) = challenge.nonce() {
                    let key = text_key(&self.shared.secrets, nonce);
                    self.shared.directory.remember_nonce(now, key, backend);
                }
                let repeated = context.kind.with_credentials && !own_nonce;
                if repeated && !challenge.stale() {
                    let end = message.span_of(header.value).end;
                    match challenge.param(b"stale") {
                        Some(value) => edits.replace(message.span_of(value), b"TRUE"),
                        None => edits.insert(end, b", stale=TRUE"),
                    }
                }
            }
        }
    }

    /// Was the nonce of the request's credentials issued by this backend, as far as we saw?
    fn sent_own_nonce(&self, now: Instant, branch: &ClientBranch, backend: BackendId) -> bool {
        let limits = sip::Limits::default();
        let Ok(sent) = sip::parse(&branch.sent, &limits) else {
            return false;
        };
        sent.credentials().any(|credentials| {
            credentials.nonce().is_some_and(|nonce| {
                let key = text_key(&self.shared.secrets, nonce);
                self.shared.directory.nonce_backend(now, key) == Some(backend)
            })
        })
    }

    /// Sends a response to where the request came from, unless its transaction has had its final answer.
    pub(super) fn send_up(&mut self, now: Instant, context: &mut Context, code: u16, packet: Option<Packet>) {
        let Some(packet) = packet else { return };
        // Further 2xx pass in the Accepted state (RFC 6026 §7.1), whatever the machine says; what it repeats is its first end.
        let is_over = context.server_is_done();
        context.server.on_send_response(now, code, &TIMING);
        context.trying_at = None;
        if !is_over {
            context.last_response = Some(packet.clone());
        }
        self.count(Counter::ResponsesForwarded);
        self.send(context.upstream, packet);
    }

    /// The 100 of RFC 3261 §17.2.1.
    pub(super) fn send_trying(&mut self, running: &Running, now: Instant, context: &mut Context) {
        context.trying_at = None;
        let answer = super::answer::Answer::code(100);
        if let Some(packet) = self.answer_context(running, context, answer) {
            // From now on a repeated request is answered by it.
            context.server.on_send_response(now, 100, &TIMING);
            context.last_response = Some(packet.clone());
            self.send(context.upstream, packet);
        }
    }

    /// RFC 3261 §16.7 step 6: 6xx first, else the lowest class, within it the first that came; 401 and 407 give their challenges to
    /// the winner (step 7).
    pub(super) fn keep_best(
        &mut self,
        running: &Running,
        context: &mut Context,
        branch: Option<usize>,
        code: u16,
        packet: Option<Packet>,
    ) {
        let Some(packet) = packet else { return };
        let code = if code == 503 { 500 } else { code };
        let Some(best) = &context.best else {
            context.best = Some(Best { code, packet, branch });
            return;
        };
        let challenges = |code: u16| matches!(code, 401 | 407);
        if challenges(best.code) && challenges(code) {
            let merged = self.merge_challenges(running, &best.packet, &packet);
            if let Some(packet) = merged {
                let (code, branch) = (best.code, best.branch);
                context.best = Some(Best { code, packet, branch });
            }
        } else if rank(code) < rank(best.code) {
            context.best = Some(Best { code, packet, branch });
        }
    }

    fn merge_challenges(&mut self, running: &Running, best: &Packet, other: &Packet) -> Option<Packet> {
        let limits = super::receive::message_limits(running);
        let best = sip::parse(best, &limits).ok()?;
        let other = sip::parse(other, &limits).ok()?;
        self.edits.clear();
        for name in [Name::WwwAuthenticate, Name::ProxyAuthenticate] {
            for header in other.all(name) {
                let line = other.bytes().get(header.line.range())?;
                self.edits.insert(best.headers_end(), line);
            }
        }
        self.scratch.clear();
        self.edits.apply(best.bytes(), &mut self.scratch);
        Some(Packet::copy_from(&self.scratch))
    }

    /// A 2xx to an INVITE: the call is up, or its session timer starts anew.
    pub(super) fn begin_dialog(
        &mut self,
        running: &Running,
        now: Instant,
        context: &mut Context,
        at: usize,
        message: &Checked<'_>,
    ) {
        let Some(note) = context.branches[at].dialog else { return };
        let Some(farm) = running.farm_by_id(context.farm) else {
            return;
        };
        let ends = now + longest_life(farm, message);
        if let Some(to_tag) = note.to_tag {
            self.shared.directory.with_dialogs(note.key.call, |dialogs| dialogs.renew(&note.key, to_tag, ends));
            return;
        }
        let sides = self.sides_of(running, &context.branches[at].sent, message);
        let dialog = Dialog {
            key: note.key,
            to_tag: tag_key(&self.shared.secrets, message.to().tag),
            peer: note.peer,
            binding: note.binding,
            since: now,
            ends,
            ticket: context.branches[at].ticket.take(),
            sides,
            logged: false,
        };
        self.remember_dialog(running, now, dialog);
    }

    /// The 2xx of a call that a process before this one was setting up: the token in its Record-Route says all that this one has to
    /// know of it.
    pub(super) fn adopt_dialog(&mut self, running: &Running, now: Instant, flow: Flow, message: &Checked<'_>) {
        let secrets = &self.shared.secrets;
        let call_id = message.call_id();
        let token = |value: NameAddr<'_>| secrets.read_route(value.uri()?.user?, call_id);
        let (Some(route), Some((farm, _))) = (message.record_routes().find_map(token), running.listener(flow.listener))
        else {
            return;
        };
        let from_tag = tag_key(secrets, message.from().tag);
        let to_tag = tag_key(secrets, message.to().tag);
        let call = text_key(secrets, call_id);
        let known = self.shared.directory.with_dialogs(call, |dialogs| dialogs.backend_of(call, [from_tag, to_tag]));
        if known.is_some() {
            if !route.from_peer {
                self.heard_again(now, flow, message);
            }
            return;
        }
        let key = DialogKey { call, backend: route.backend, from_peer: route.from_peer, from_tag };
        let state = running.backend(route.backend).map(|known| &known.state);
        let dialog = Dialog {
            key,
            to_tag,
            // The peer that was called is heard right now; the one that called is where its INVITE came from.
            peer: if route.from_peer { route.peer } else { flow },
            binding: route.binding,
            since: now,
            ends: now + longest_life(farm, message),
            ticket: state.map(|state| state.restore_call()),
            sides: None,
            logged: false,
        };
        if !route.from_peer {
            self.peer_moved(now, route.binding, flow);
        }
        self.remember_dialog(running, now, dialog);
    }

    fn remember_dialog(&mut self, running: &Running, now: Instant, dialog: Dialog) {
        match self.shared.directory.begin_dialog(dialog, running.settings.limits.dialogs) {
            Ok(()) => self.count(Counter::CallsStarted),
            Err(_) => {
                self.count(Counter::DialogLimit);
                self.tell_limit(now, "dialogs");
            }
        }
    }

    /// What a final answer to a request within a dialog says about the dialog.
    pub(super) fn after_final(
        &mut self,
        running: &Running,
        now: Instant,
        context: &mut Context,
        at: usize,
        message: &Checked<'_>,
        code: u16,
    ) {
        let Some(note) = context.branches[at].dialog else { return };
        let Some(to_tag) = note.to_tag else { return };
        // RFC 3261 §12.2.1.2 and §15.1.1: 481 ends a dialog whatever the request, BYE ends it by any final answer.
        if context.kind.bye || code == 481 {
            if self.shared.directory.end_dialog(&note.key, to_tag) {
                self.count(Counter::CallsEnded);
            }
        } else if context.kind.refreshes && (200..300).contains(&code) {
            self.begin_dialog(running, now, context, at, message);
        }
    }
}

/// How long a dialog is remembered without a further word of it: its session timer, or the longest call that the farm allows.
fn longest_life(farm: FarmView<'_>, message: &Checked<'_>) -> Duration {
    let longest = farm.settings.max_call_time;
    let session = message.session_expires().map(|seconds| Duration::from_secs(u64::from(seconds)) + SESSION_GRACE);
    session.map_or(longest, |session| session.min(longest))
}

/// Lower is better.
fn rank(code: u16) -> u16 {
    match code {
        600.. => 0,
        // Within 4xx those that tell the caller what to do come first.
        401 | 407 | 415 | 420 | 484 => 400,
        _ => code - code % 100 + 1,
    }
}

/// A 503 would make the caller avoid all of the farm for what one box said; its Retry-After never passes (RFC 3261 §16.7 step 6).
pub(super) fn hide_overload(message: &Checked<'_>, edits: &mut sip::Edits) {
    if let Some(line) = message.status_line() {
        let start = line.version.len() as u32 + 1;
        let end = message.span_of(line.reason).end;
        edits.replace(sip::Span { start, end }, b"500 Server Internal Error");
    }
    for header in message.all(Name::RetryAfter) {
        edits.remove_header(&header);
    }
}

/// What goes up by a stream says its length, which a box that was reached by datagrams may have left out.
pub(super) fn add_length(message: &Checked<'_>, upstream: &Flow, edits: &mut sip::Edits) {
    if upstream.connection.is_some() && message.first(Name::ContentLength).is_none() {
        edits.insert_with(message.headers_end(), |text| crate::forward::write_length(message, text));
    }
}

/// The next Via names many hosts at once, or none: whoever made it wants our answer to spread (RFC 4475 §3.3.10).
fn leads_nowhere(next: &Value<'_>) -> bool {
    sip::value::via(next).is_ok_and(|via| match via.host {
        Host::Ip(address) if via.received().is_none() => {
            !super::answer::is_one_host(SocketAddr::new(address, via.port.unwrap_or(5060)))
        }
        _ => false,
    })
}

/// Our Via of a response and the one below it; `None` if there is no further one.
pub(super) fn pop_via<'m>(message: &Message<'m>) -> Option<(Value<'m>, Value<'m>)> {
    let mut lines = message.all(Name::Via);
    let mut of_line = lines.next()?.values();
    let ours = of_line.next()?;
    Some((ours, of_line.next().or_else(|| lines.find_map(|line| line.values().next()))?))
}
