//! The course of one run: a user agent is led through it, and the first thing that is wrong is the verdict.
//!
//! ```text
//!   Asking ------------------------------------------.
//!   Registering ----------------------------.         \
//!        \                                   \         \
//!         Calling -> Talking -> Clearing (BYE or CANCEL, then un-REGISTER) -> Over
//! ```
//!
//! The limit of a plan is hard. A part of it, a quarter and two seconds at most, is kept for clearing up: by then registering,
//! ringing and talking have to be over, and who still rings is cancelled. A BYE that is not answered holds up the un-REGISTER
//! for half of the time that is left, no longer.

mod audio;
mod clearing;
mod events;
mod exchanges;
mod fault;
mod record;

use crate::audio::PCMU;
use crate::plan::{Kind, Plan};
use crate::quality::Reception;
use crate::report::{Figures, Report, State, judge, precise_seconds, seconds};
use audio::Talking;
use clearing::{Clearing, Rest};
use exchanges::Exchanges;
use fault::Fault;
pub(crate) use fault::held_back;
use record::Record;
use sip::time::Instant;
use sip::{Limits, parse};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Account, Answering, CallId, UserAgent};

/// The addresses that a probe sends from and receives at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    pub signalling: SocketAddr,
    pub media: SocketAddr,
}

/// What the shell does next: to be drained after every call that takes a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a SIP message. Over connections `to` is the proxy or the registrar.
    Message { to: SocketAddr, bytes: Vec<u8> },
    /// Send an RTP packet.
    Audio { to: SocketAddr, bytes: Vec<u8> },
}

/// What the shell found out of reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreachable {
    /// Nothing takes datagrams there.
    Signalling(SocketAddr),
    /// Nothing takes our audio.
    Media,
    /// The connection to the proxy or to the registrar could not be made, or is lost: the whole text to tell.
    Connection { peer: SocketAddr, text: String },
    /// This machine did not let this message out, which says nothing of the other side.
    HeldBack { message: Vec<u8> },
    /// This machine did not let a packet of our audio out.
    AudioHeldBack,
}

/// One check from its start to the last answer it waits for.
///
/// After every call that takes a time, [`poll_output`](Self::poll_output) is drained and [`poll_timeout`](Self::poll_timeout)
/// asked again. [`report`](Self::report) is worth reading once it [is decided](Self::is_decided); what is left until it
/// [is over](Self::is_over) is clearing up.
pub struct Probe {
    plan: Plan,
    ends: Ends,
    seed: u64,
    started: Instant,
    /// By then registering, ringing and talking are over.
    work_until: Instant,
    /// By then all is over.
    end: Instant,
    agent: UserAgent,
    exchanges: Exchanges,
    record: Record,
    stage: Stage,
    fault: Option<Fault>,
    decided_at: Option<Instant>,
    measured: Figures,
    /// There may be a binding of ours at the registrar.
    is_bound: bool,
    /// The connection to a registrar that is not the proxy is lost.
    is_registrar_lost: bool,
    /// Nothing takes our audio.
    is_deaf: bool,
    /// What came back ended long before what we said.
    has_ceased: bool,
    is_recording: bool,
    recording: Vec<i16>,
    outputs: VecDeque<Output>,
}

/// How far it is.
enum Stage {
    /// An OPTIONS is under way.
    Asking,
    /// A REGISTER is under way.
    Registering,
    Calling(Calling),
    Talking(Box<Talking>),
    Clearing(Clearing),
    Over,
}

/// An INVITE is under way.
#[derive(Clone, Copy)]
struct Calling {
    call: CallId,
    since: Instant,
    rings: bool,
}

impl Probe {
    /// Begins at once. The seed decides about tags, branches and the like.
    pub fn new(now: Instant, plan: Plan, ends: Ends, seed: u64) -> Self {
        let agent = agent(&plan, ends, seed);
        let work = plan.limit.saturating_sub(reserve(plan.limit));
        let mut probe = Self {
            ends,
            seed,
            started: now,
            work_until: now + work,
            end: now + plan.limit,
            plan,
            agent,
            exchanges: Exchanges::default(),
            record: Record::new(now),
            stage: Stage::Over,
            fault: None,
            decided_at: None,
            measured: Figures::default(),
            is_bound: false,
            is_registrar_lost: false,
            is_deaf: false,
            has_ceased: false,
            is_recording: false,
            recording: Vec::new(),
            outputs: VecDeque::new(),
        };
        match &probe.plan.kind {
            Kind::Options { target, .. } => {
                probe.stage = Stage::Asking;
                probe.agent.options(now, target);
            }
            Kind::Call(_) if probe.plan.registrar.is_none() => probe.call(now),
            Kind::Call(_) | Kind::Register => {
                probe.stage = Stage::Registering;
                probe.is_bound = true;
                probe.agent.register(now);
            }
        }
        probe.drain(now);
        probe
    }

    /// Keeps the audio that comes for the report; to be called at the start.
    pub fn record(&mut self) {
        self.is_recording = true;
    }

    /// Takes a message: a datagram that came from `from`, or one message of a connection.
    pub fn handle_message(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        if self.is_over() {
            return;
        }
        self.record.message(now, false, from, bytes);
        if let Ok(message) = parse(bytes, &Limits::default())
            && !message.is_request()
        {
            self.exchanges.on_response(now, &message);
        }
        self.agent.handle_datagram(now, from, bytes);
        self.drain(now);
    }

    /// Takes a datagram that came where we hear audio.
    pub fn handle_audio(&mut self, now: Instant, bytes: &[u8]) {
        self.hear(now, bytes);
    }

    /// Takes what the network or a connection says.
    pub fn handle_unreachable(&mut self, now: Instant, what: Unreachable) {
        match what {
            Unreachable::Signalling(peer) => self.on_closed(now, peer),
            Unreachable::Media => self.is_deaf = true,
            Unreachable::Connection { peer, text } => self.on_connection_lost(now, peer, text),
            Unreachable::HeldBack { message } => {
                if let Ok(message) = parse(&message, &Limits::default())
                    && message.is_request()
                {
                    self.exchanges.on_held_back(&message);
                }
            }
            Unreachable::AudioHeldBack => self.on_audio_held_back(),
        }
        self.drain(now);
    }

    /// Does what is due; to be called when [`poll_timeout`](Self::poll_timeout) has come. Earlier calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        self.agent.handle_timeout(now);
        self.drain(now);
        let is_late = now >= self.work_until;
        match &self.stage {
            Stage::Asking if is_late => {
                self.blame(now, self.silence(now, "OPTIONS", self.started));
                self.finish(now);
            }
            Stage::Registering if is_late => {
                self.blame(now, self.silence(now, "REGISTER", self.started));
                self.clear(now, Rest::Nothing);
            }
            Stage::Calling(calling) if is_late => {
                let Calling { call, since, rings } = *calling;
                let after = now.saturating_since(since);
                let fault = if rings { Fault::Rings { after } } else { self.silence(now, "INVITE", since) };
                self.blame(now, fault);
                self.clear(now, Rest::Early(call));
            }
            Stage::Talking(_) => self.speak(now),
            Stage::Clearing(_) => self.clear_in_time(now),
            Stage::Asking | Stage::Registering | Stage::Calling(_) | Stage::Over => {}
        }
        self.drain(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.stage {
            Stage::Over => return None,
            Stage::Asking | Stage::Registering | Stage::Calling(_) => Some(self.work_until),
            Stage::Talking(talking) => Some(talking.due().map_or(self.work_until, |due| due.min(self.work_until))),
            Stage::Clearing(clearing) => self.clearing_due(clearing),
        };
        own.into_iter().chain(self.agent.poll_timeout()).min()
    }

    /// The next thing to send, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Ends it early, cleanly and fast: calls are hung up, bindings removed, within the time that is kept for this.
    pub fn interrupt(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        self.blame(now, Fault::Interrupted);
        self.end = self.end.min(now + reserve(self.plan.limit));
        match &mut self.stage {
            Stage::Asking => self.finish(now),
            Stage::Registering => self.clear(now, Rest::Nothing),
            Stage::Calling(calling) => {
                let call = calling.call;
                self.clear(now, Rest::Early(call));
            }
            Stage::Talking(_) => self.stop_talking(now),
            Stage::Clearing(clearing) => clearing.hurry(now, self.end),
            Stage::Over => {}
        }
        self.drain(now);
    }

    /// The hard end: what is still to be cleared up is said once more, or at last, and no answer waited for.
    pub fn abandon(&mut self, now: Instant) {
        self.handle_timeout(now);
        if !matches!(self.stage, Stage::Clearing(_) | Stage::Over) {
            self.interrupt(now);
        }
        self.say_last_words(now);
    }

    /// The verdict is known.
    pub fn is_decided(&self) -> bool {
        self.decided_at.is_some()
    }

    /// Nothing is left to clear up either.
    pub fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// What was found so far.
    pub fn report(&self, now: Instant) -> Report {
        let total = self.decided_at.unwrap_or(now).saturating_since(self.started);
        let figures = Figures { total, ..self.measured.clone() };
        let (state, text) = self.verdict(&figures);
        Report {
            state,
            text,
            figures,
            thresholds: self.plan.thresholds.clone(),
            ladder: self.record.steps(),
            left_out: self.record.left_out(),
            recording: self.recording.clone(),
        }
    }

    fn verdict(&self, figures: &Figures) -> (State, String) {
        let (state, text) = match &self.fault {
            Some(fault) if fault.is_of_clearing() => (fault.state(), format!("{}, but {fault}", self.success(figures))),
            Some(fault) => (fault.state(), fault.to_string()),
            None if self.is_decided() => (State::Ok, self.success(figures)),
            None => return (State::Unknown, "not over yet".to_owned()),
        };
        if matches!(state, State::Critical | State::Unknown) {
            return (state, text);
        }
        let (judged, remarks) = judge(figures, &self.plan.thresholds);
        (if judged == State::Ok { state } else { judged }, text + &remarks)
    }

    /// What went well.
    fn success(&self, figures: &Figures) -> String {
        let time = |time: Option<Duration>| time.map(precise_seconds).unwrap_or_default();
        match &self.plan.kind {
            Kind::Options { .. } => {
                let answer = self.exchanges.answer_to("OPTIONS").map(ToString::to_string).unwrap_or_default();
                format!("{} answered OPTIONS with {answer} after {}", self.plan.proxy, time(figures.answer))
            }
            Kind::Register => {
                let Account { user, domain, .. } = self.agent.account();
                format!("{user}@{domain} registered after {}", time(figures.register))
            }
            Kind::Call(call) => {
                let answer = figures.answer.map(seconds).unwrap_or_default();
                format!("{} answered after {answer}, {}", party_of(&call.target), self.heard(figures))
            }
        }
    }

    fn heard(&self, figures: &Figures) -> String {
        match &figures.quality {
            Some(quality) => {
                let (received, sent) = (quality.received, figures.sent);
                // No fault: many a PBX says its piece and is silent then.
                let ceased = figures.heard_until.filter(|_| self.has_ceased);
                let last = ceased.map(|time| format!(", the last after {}", seconds(time))).unwrap_or_default();
                format!("{received} of {sent} packets came back{last}, MOS {:.1}", quality.mos)
            }
            None => Fault::NoAudio { is_closed: self.is_deaf }.to_string(),
        }
    }

    /// Notes what is wrong, if nothing was before.
    fn blame(&mut self, now: Instant, fault: Fault) {
        if self.fault.is_none() {
            self.fault = Some(fault);
            self.decided_at.get_or_insert(now);
        }
    }

    /// Nothing is left to be done.
    fn finish(&mut self, now: Instant) {
        self.stage = Stage::Over;
        self.decided_at.get_or_insert(now);
    }

    /// No final answer came for a request that was sent first at `since`.
    fn silence(&self, now: Instant, method: &'static str, since: Instant) -> Fault {
        let after = now.saturating_since(since);
        let peer = if method == "REGISTER" { self.registrar() } else { self.plan.proxy };
        if self.exchanges.is_heard(method) {
            Fault::Stuck { method, peer, after }
        } else if self.is_held_back(peer) {
            Fault::HeldBack { peer }
        } else {
            Fault::Silent { method, peer, after }
        }
    }

    /// This machine lets nothing out to there.
    fn is_held_back(&self, peer: SocketAddr) -> bool {
        let is_untried = |output: &&Output| matches!(output, Output::Message { to, .. } if *to == peer);
        self.exchanges.is_held_back(peer, self.outputs.iter().filter(is_untried).count())
    }

    fn registrar(&self) -> SocketAddr {
        self.plan.registrar.unwrap_or(self.plan.proxy)
    }

    /// What we hear with.
    fn reception(&self) -> Reception {
        if self.is_recording { Reception::recording() } else { Reception::new() }
    }
}

/// What is kept of this time for clearing up.
pub(crate) fn reserve(limit: Duration) -> Duration {
    (limit / 4).min(LONGEST_RESERVE)
}

/// The user agent that is led through the course.
fn agent(plan: &Plan, ends: Ends, seed: u64) -> UserAgent {
    let (user, domain) = user_and_domain(&plan.from);
    let account = Account {
        user,
        domain,
        display: String::new(),
        password: String::new(),
        proxy: plan.proxy,
        contact: ends.signalling,
        expires: plan.expires,
    };
    let name = if plan.username.is_empty() { account.user.clone() } else { plan.username.clone() };
    let mut agent = UserAgent::new(account, seed);
    agent.speak(plan.transport);
    agent.set_login(plan.password.as_deref().map(|password| (name.as_str(), password)));
    // One codec, so that whoever answers with another one is at fault.
    agent.set_payloads(&[PCMU, TELEPHONE_EVENT]);
    if let Some(registrar) = plan.registrar {
        agent.set_registrar(registrar);
    }
    // Whoever calls a check while it is registered is told so at once.
    agent.set_answering(Answering {
        ring_after: Duration::ZERO,
        answer_after: Some(Duration::ZERO),
        code: 486,
        hang_up_after: None,
        media: ends.media,
    });
    agent
}

/// The user and the domain of a URI, the domain with its port. What would end a header line is left out.
fn user_and_domain(uri: &str) -> (String, String) {
    let uri: String = uri.chars().filter(|letter| !letter.is_control() && !" <>".contains(*letter)).collect();
    let rest = uri.split_once(':').map_or(uri.as_str(), |(_, rest)| rest);
    let (user, host) = rest.rsplit_once('@').unwrap_or((NOBODY, rest));
    let user = user.split(':').next().filter(|user| !user.is_empty()).unwrap_or(NOBODY);
    let domain = host.split([';', '?']).next().unwrap_or_default();
    (user.to_owned(), domain.to_owned())
}

/// A URI for readers: without scheme, parameters and headers.
fn party_of(uri: &str) -> &str {
    let rest = uri.strip_prefix("sip:").or_else(|| uri.strip_prefix("sips:")).unwrap_or(uri);
    let end = rest.rfind('@').unwrap_or(0);
    let (user, host) = rest.split_at_checked(end).unwrap_or(("", rest));
    let length = user.len() + host.find([';', '?']).unwrap_or(host.len());
    rest.get(..length).unwrap_or(rest)
}

const LONGEST_RESERVE: Duration = Duration::from_secs(2);
/// Payload types (RFC 3551 §6; the number of telephone-event is the usual one of the dynamic range).
const PCMA: u8 = 8;
const TELEPHONE_EVENT: u8 = 101;
/// The user of a URI that names none.
const NOBODY: &str = "tandem";

#[cfg(test)]
mod tests;
