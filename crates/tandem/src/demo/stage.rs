//! The loop that drives the phones, and the calls they make.

use super::balancer::Balancer;
use super::boxes::{Boxes, News};
use super::call::{Call, Outcome, Verdict};
use super::pbx::Report;
use super::phone::Phone;
use super::screen::Screen;
use super::{DOMAIN, PEOPLE, Stop};
use anyhow::{Context, Result, bail};
use net::Clock;
use net::datagram::{Poll, Ready};
use sip::Instant;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;
use ua::{CallId, Event};

/// Everything that runs. One thread drives both phones; the PBXs are other processes, the balancer has its own threads.
pub(super) struct Stage {
    phones: [Phone; 2],
    boxes: Boxes,
    balancer: Balancer,
    news: Receiver<News>,
    /// Those still to come, the next one last.
    stops: Vec<Stop>,
    stopped_at: Vec<Instant>,
    interrupted: Arc<AtomicBool>,
    screen: Screen,
    poll: Poll,
    ready: Vec<Ready>,
    started: Instant,
    current: Option<Call>,
    /// Calls of softphones to our phones: who calls, and when he was answered.
    visits: BTreeMap<(usize, CallId), Visit>,
    /// The PBX that holds each user's registration.
    registered_at: BTreeMap<String, &'static str>,
    /// Phones that have nothing more to say to their registrar.
    left: [bool; 2],
    /// Something went wrong besides calls.
    trouble: bool,
}

struct Visit {
    from: String,
    answered: Option<Instant>,
}

impl Stage {
    pub(super) fn new(
        phones: [Phone; 2],
        boxes: Boxes,
        balancer: Balancer,
        news: Receiver<News>,
        mut stops: Vec<Stop>,
        interrupted: Arc<AtomicBool>,
        screen: Screen,
    ) -> Result<Self> {
        let poll = Poll::new().context("cannot wait for sockets")?;
        for (token, socket) in (0_u64..).zip(phones.iter().flat_map(Phone::sockets)) {
            poll.add(socket, token).context("cannot wait for a socket")?;
        }
        stops.sort_by_key(|stop| Reverse(stop.after));
        Ok(Self {
            phones,
            boxes,
            balancer,
            news,
            stops,
            stopped_at: Vec::new(),
            interrupted,
            screen,
            poll,
            ready: Vec::new(),
            started: Clock::now(),
            current: None,
            visits: BTreeMap::new(),
            registered_at: BTreeMap::new(),
            left: [false; 2],
            trouble: false,
        })
    }

    /// Registers both phones and lets them call each other in turn, `calls` times or until Ctrl-C. True if all went well.
    pub(super) fn play(&mut self, calls: Option<u32>) -> Result<bool> {
        let start = Clock::now();
        for phone in &mut self.phones {
            phone.register(start);
        }
        self.run_until(start + REGISTRATION_PATIENCE, |stage| stage.phones.iter().all(Phone::is_registered))?;
        if self.is_interrupted() {
            return Ok(false);
        }
        if !self.phones.iter().all(Phone::is_registered) {
            bail!("the phones could not register within {} s", REGISTRATION_PATIENCE.as_secs());
        }
        // What the PBXs tell about it takes its own way here.
        let everyone = |stage: &Self| PEOPLE.iter().all(|person| stage.registered_at.contains_key(person.user));
        self.run_until(Clock::now() + NEWS_PATIENCE, everyone)?;
        self.screen.begin();
        let mut outcomes = Vec::new();
        for number in 1..=calls.unwrap_or(u32::MAX) {
            let outcome = self.hold_call(number)?;
            self.screen.call(&outcome);
            outcomes.push(outcome);
            self.run_until(Clock::now() + PAUSE, |_| false)?;
            if self.is_interrupted() {
                break;
            }
        }
        self.screen.table(&outcomes, &self.stops);
        let failed = outcomes.iter().any(|outcome| matches!(outcome.verdict, Verdict::Failed(_)));
        Ok(!failed && !self.trouble)
    }

    /// Takes the phones' registrations back, as far as this is possible within a second.
    pub(super) fn leave(&mut self) {
        let now = Clock::now();
        self.left = [false; 2];
        for phone in &mut self.phones {
            phone.unregister(now);
        }
        // The demo is over whether this works or not.
        let _left = self.wait_for(now + Duration::from_secs(1), |stage| stage.left == [true; 2]);
    }

    fn hold_call(&mut self, number: u32) -> Result<Outcome> {
        // Bonnie begins.
        let caller = usize::from(number.is_multiple_of(2));
        let callee = 1 - caller;
        let placed = Clock::now();
        let target = format!("sip:{}@{DOMAIN}", PEOPLE[callee].user);
        let outgoing = self.phones[caller].call(placed, &target);
        self.current = Some(Call::new(number, caller, callee, outgoing, placed));
        let settled = |call: &Call| call.is_up() || call.is_over();
        self.run_until(placed + SETUP_PATIENCE, |stage| stage.current.as_ref().is_none_or(settled))?;
        if self.current.as_ref().is_some_and(Call::is_up) {
            let over = |stage: &Self| stage.current.as_ref().is_none_or(Call::is_over);
            self.run_until(Clock::now() + TALK, over)?;
            self.mute();
            self.wait_for(Clock::now() + STRAGGLERS, |_| false)?;
        }
        self.hang_up()?;
        let call = self.current.take().context("a call that was placed is remembered")?;
        for leg in call.legs.iter().filter(|leg| Some(**leg) != call.confirmed) {
            self.phones[callee].take_stream(Clock::now(), *leg);
        }
        let speaker = self.phones[caller].take_stream(Clock::now(), outgoing);
        let listener = call.confirmed.and_then(|leg| self.phones[callee].take_stream(Clock::now(), leg));
        let stopped = self.stopped_at.iter().any(|at| *at >= placed);
        Ok(call.outcome(speaker.as_ref(), listener.as_ref(), stopped, self.is_interrupted()))
    }

    /// Silences both sides of the call, so that what was sent can be compared with what was heard.
    fn mute(&mut self) {
        if let Some(call) = &self.current {
            self.phones[call.caller].mute(call.outgoing);
            for leg in &call.incoming {
                self.phones[call.callee].mute(*leg);
            }
        }
    }

    /// Ends the call on the caller's side, then whatever its PBX could not end on the callee's.
    fn hang_up(&mut self) -> Result<()> {
        let Some((caller, outgoing)) = self.current.as_ref().map(|call| (call.caller, call.outgoing)) else {
            return Ok(());
        };
        let now = Clock::now();
        if self.current.as_ref().is_some_and(|call| !call.is_over()) {
            self.phones[caller].hang_up(now, outgoing);
        }
        let gone = |stage: &Self| stage.current.as_ref().is_none_or(Call::is_gone);
        if self.wait_for(now + END_PATIENCE, gone)? {
            return Ok(());
        }
        let now = Clock::now();
        if let Some(call) = &self.current {
            let (callee, legs) = (call.callee, call.incoming.clone());
            for leg in legs {
                self.phones[callee].hang_up(now, leg);
            }
        }
        self.wait_for(now + END_PATIENCE, gone)?;
        Ok(())
    }

    /// Runs until `done`, Ctrl-C or the limit.
    fn run_until(&mut self, limit: Instant, done: impl Fn(&Self) -> bool) -> Result<()> {
        self.wait_for(limit, |stage| stage.is_interrupted() || done(stage))?;
        Ok(())
    }

    /// Runs until `done` or the limit, Ctrl-C or not; true if it is done.
    fn wait_for(&mut self, limit: Instant, done: impl Fn(&Self) -> bool) -> Result<bool> {
        loop {
            if done(self) {
                return Ok(true);
            }
            if Clock::now() >= limit {
                return Ok(false);
            }
            self.turn(limit)?;
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed) || self.screen.is_closed()
    }

    /// Waits for the next thing to do, until `limit` at most, and does it.
    fn turn(&mut self, limit: Instant) -> Result<()> {
        let now = Clock::now();
        // Signals and news wake nobody, so that they are looked for now and then.
        let mut due = limit.min(now + TICK);
        for deadline in self.phones.iter().filter_map(Phone::deadline) {
            due = due.min(deadline);
        }
        self.poll.wait(Some(due.saturating_since(now)), &mut self.ready).context("cannot wait for sockets")?;
        let now = Clock::now();
        for side in 0..self.phones.len() {
            self.phones[side].turn(now);
            while let Some(event) = self.phones[side].poll_event() {
                self.on_event(now, side, &event);
            }
        }
        while let Ok(news) = self.news.try_recv() {
            self.on_news(news);
        }
        self.stop_boxes(now)
    }

    fn stop_boxes(&mut self, now: Instant) -> Result<()> {
        while let Some(stop) = self.stops.pop_if(|stop| self.started + stop.after <= now) {
            if self.boxes.stop(&stop.name)? {
                self.stopped_at.push(Clock::now());
                self.screen.alarm(&format!("{} is killed (SIGKILL)", stop.name));
            }
        }
        Ok(())
    }

    fn on_event(&mut self, now: Instant, side: usize, event: &Event) {
        if let Some(call) = &mut self.current
            && call.on_event(now, side, event)
        {
            return;
        }
        match event {
            Event::Unregistered => self.left[side] = true,
            Event::RegisterFailed { code } => {
                self.left[side] = true;
                self.screen.alarm(&format!("{}'s registration failed: {code}", PEOPLE[side].user));
            }
            Event::Incoming { call, from } => {
                self.screen.note(&format!("{from} calls {}", PEOPLE[side].user));
                self.visits.insert((side, *call), Visit { from: from.clone(), answered: None });
            }
            Event::Confirmed { call, .. } => {
                if let Some(visit) = self.visits.get_mut(&(side, *call)) {
                    visit.answered = Some(now);
                }
            }
            Event::Ended { call, .. } | Event::Failed { call, .. } | Event::Cancelled { call } => {
                self.end_visit(now, side, *call);
            }
            Event::Registered { .. } | Event::Ringing { .. } | Event::Answered { .. } | Event::Reinvited { .. } => {}
        }
    }

    /// A call is over that is not the current one: a softphone's, or the rest of one that lost its PBX.
    fn end_visit(&mut self, now: Instant, side: usize, call: CallId) {
        let stream = self.phones[side].take_stream(now, call);
        let Some(visit) = self.visits.remove(&(side, call)) else {
            return;
        };
        let (sent, heard) = stream.map_or((0, 0), |stream| (stream.sent(), stream.heard()));
        let lasted = visit.answered.map_or(0.0, |since| now.saturating_since(since).as_secs_f64());
        self.screen.note(&format!(
            "{} talked to {} for {lasted:.1} s: {heard} packets heard, {sent} sent",
            visit.from, PEOPLE[side].user
        ));
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::Box { name, at, report } => self.on_report(name, at, report),
            News::BoxGone { name } => {
                if !self.boxes.is_stopped(name) {
                    self.trouble = true;
                    self.screen.alarm(&format!("{name} ended by itself"));
                }
            }
            News::Engine(event) => self.on_engine(&event),
        }
    }

    fn on_report(&mut self, name: &'static str, at: Instant, report: Report) {
        match report {
            Report::Registered { user, .. } => {
                let before = self.registered_at.insert(user.clone(), name);
                if before != Some(name) {
                    self.screen.note(&format!("{user} is registered at {name}"));
                }
            }
            Report::Unregistered { user } => {
                // After a move the former PBX tells this too.
                if self.registered_at.get(&user) == Some(&name) {
                    self.registered_at.remove(&user);
                }
            }
            Report::CallStarted { from, to } => {
                if let Some(call) = &mut self.current {
                    call.on_answered_by(name, at, &from, &to);
                }
            }
            Report::AuthFailed { user } => self.screen.alarm(&format!("{name}: wrong password for {user}")),
            Report::Ready | Report::CallEnded { .. } => {}
        }
    }

    fn on_engine(&mut self, event: &engine::Event) {
        match event {
            engine::Event::BackendUp { backend, .. } => {
                let text = format!("the balancer uses {} again", self.balancer.name_of(*backend));
                self.screen.note(&text);
            }
            engine::Event::BackendDown { backend, cause } => {
                let text = format!("the balancer sees that {} is down: {cause:?}", self.balancer.name_of(*backend));
                self.screen.alarm(&text);
            }
            engine::Event::BackendCut { backend, calls } => {
                let text =
                    format!("{} is cut off, and {calls} of its calls are ended", self.balancer.name_of(*backend));
                self.screen.alarm(&text);
            }
            engine::Event::BackendWarned { backend, reason, .. } => {
                let text = format!("a guardian warns of {}: {reason}", self.balancer.name_of(*backend));
                self.screen.alarm(&text);
            }
            engine::Event::WarningOver { backend, .. } => {
                let text = format!("the warning of {} is over", self.balancer.name_of(*backend));
                self.screen.note(&text);
            }
            engine::Event::AffinityRefused { .. } | engine::Event::LimitReached { .. } => {
                self.screen.alarm(&format!("the balancer tells: {event:?}"));
            }
        }
    }
}

const REGISTRATION_PATIENCE: Duration = Duration::from_secs(10);
const NEWS_PATIENCE: Duration = Duration::from_secs(1);
/// Longer than all attempts of the balancer together, shorter than the phones' own patience of 32 s.
const SETUP_PATIENCE: Duration = Duration::from_secs(15);
const TALK: Duration = Duration::from_secs(2);
/// What was sent arrives within this.
const STRAGGLERS: Duration = Duration::from_millis(60);
/// For BYE and its answer.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Between two calls.
const PAUSE: Duration = Duration::from_millis(300);
const TICK: Duration = Duration::from_millis(20);
