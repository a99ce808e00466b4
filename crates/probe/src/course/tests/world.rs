//! A PBX, a phone or a peer written by hand, five milliseconds away, and a clock of their own.

use crate::course::{Ends, Output, Probe};
use crate::plan::{CallPlan, Kind, Plan, Transport};
use crate::report::Report;
use sip::build;
use sip::digest::Algorithm;
use sip::{Instant, Limits, Message, Method, parse};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Account, Answering, Fault, Pbx, PbxSettings, UserAgent};

pub(super) const LATENCY: Duration = Duration::from_millis(5);
pub(super) const LIMIT: Duration = Duration::from_secs(9);

/// Answers a request, or does not.
pub(super) type Script = fn(&Message<'_>) -> Option<Vec<u8>>;

pub(super) struct World {
    pub(super) now: Instant,
    started: Instant,
    limit: Duration,
    probe: Option<Probe>,
    pub(super) pbx: Option<Pbx>,
    pub(super) clyde: Option<UserAgent>,
    /// Stands where the PBX would.
    pub(super) script: Option<Script>,
    /// Which of the packets of audio come back, by their number from 0.
    pub(super) echo: fn(u64) -> bool,
    spoken: u64,
    /// Labels of messages that are lost.
    pub(super) lost: BTreeSet<&'static str>,
    /// Nothing that the probe sends arrives any more.
    pub(super) is_cut: bool,
    /// Labels of what the probe sent and got, in order of sending.
    pub(super) wire: Vec<String>,
    flying: BTreeMap<(Instant, u64), Flight>,
    count: u64,
}

enum Flight {
    Message { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Audio(Vec<u8>),
}

pub(super) fn us() -> SocketAddr {
    SocketAddr::from(([10, 1, 0, 1], 5060))
}

pub(super) fn pbx() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 11], 5060))
}

pub(super) fn clyde() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 12], 5060))
}

/// Without a registration, over UDP, to the PBX.
pub(super) fn plan(kind: Kind) -> Plan {
    Plan {
        kind,
        transport: Transport::Udp,
        limit: LIMIT,
        from: "sip:bonnie@example.com".to_owned(),
        username: String::new(),
        password: Some("bonnie-secret".to_owned()),
        proxy: pbx(),
        registrar: None,
        expires: 60,
        thresholds: Vec::new(),
    }
}

/// A call to clyde with the tone of two seconds.
pub(super) fn call() -> Kind {
    Kind::Call(CallPlan {
        target: "sip:clyde@10.0.0.11".to_owned(),
        sounds: Vec::new(),
        expect_audio: false,
        min_mos: 0.0,
    })
}

/// Rings at once, answers after 100 ms.
pub(super) fn answering() -> Answering {
    Answering { media: SocketAddr::new(clyde().ip(), 4_000), ..Answering::default() }
}

impl World {
    pub(super) fn empty() -> Self {
        Self {
            now: Instant::from_micros(1_000_000_000),
            started: Instant::default(),
            limit: LIMIT,
            probe: None,
            pbx: None,
            clyde: None,
            script: None,
            echo: |_| true,
            spoken: 0,
            lost: BTreeSet::new(),
            is_cut: false,
            wire: Vec::new(),
            flying: BTreeMap::new(),
            count: 0,
        }
    }

    /// A PBX at which clyde is registered.
    pub(super) fn office() -> Self {
        let mut world = Self::empty();
        let users = ["bonnie", "clyde"].map(|user| (user.to_owned(), format!("{user}-secret")));
        let settings = PbxSettings {
            name: "one".to_owned(),
            realm: "example.com".to_owned(),
            address: pbx(),
            users: users.to_vec(),
            farm: None,
            algorithm: Algorithm::Sha256,
            domains: vec!["example.com".to_owned()],
            min_expires: 10,
            max_expires: 600,
        };
        world.pbx = Some(Pbx::new(settings, 1));
        world.clyde = Some(phone());
        let now = world.now;
        world.clyde().register(now);
        world.run_for(Duration::from_secs(1));
        assert_eq!(world.bindings(), ["clyde"]);
        world
    }

    /// Clyde's phone alone, where the PBX would be.
    pub(super) fn home() -> Self {
        Self { clyde: Some(phone()), ..Self::empty() }
    }

    pub(super) fn scripted(script: Script) -> Self {
        Self { script: Some(script), ..Self::empty() }
    }

    pub(super) fn clyde(&mut self) -> &mut UserAgent {
        self.clyde.as_mut().expect("clyde is in this world")
    }

    pub(super) fn probe(&mut self) -> &mut Probe {
        self.probe.as_mut().expect("the probe was started")
    }

    /// Users with a binding at the PBX.
    pub(super) fn bindings(&self) -> Vec<String> {
        self.pbx.as_ref().map(|pbx| pbx.bindings().into_iter().map(|(user, _)| user).collect()).unwrap_or_default()
    }

    /// Calls that somebody holds to be up or coming.
    pub(super) fn calls(&self) -> usize {
        self.pbx.as_ref().map_or(0, Pbx::calls) + self.clyde.as_ref().map_or(0, UserAgent::calls)
    }

    pub(super) fn start(&mut self, plan: Plan) {
        self.started = self.now;
        self.limit = plan.limit;
        let ends = Ends { signalling: us(), media: SocketAddr::new(us().ip(), 4_000) };
        self.probe = Some(Probe::new(self.now, plan, ends, 7));
        self.drain();
    }

    /// Lets the probe do something, now.
    pub(super) fn act(&mut self, act: impl FnOnce(&mut Probe, Instant)) {
        let now = self.now;
        act(self.probe(), now);
        self.drain();
    }

    /// The whole run, then what is still in the air.
    pub(super) fn run(&mut self, plan: Plan) -> Report {
        self.start(plan);
        self.finish()
    }

    /// Until the probe is over, as the shell does that waits; afterwards the others have a minute for themselves.
    pub(super) fn finish(&mut self) -> Report {
        let end = self.started + self.limit;
        while !self.probe().is_over() {
            let next = self.next().map_or(end, |next| next.min(end));
            self.now = self.now.max(next);
            self.step();
            if self.now >= end && !self.probe().is_over() {
                self.act(Probe::abandon);
            }
        }
        assert!(self.now <= end, "the limit is hard");
        let now = self.now;
        let report = self.probe().report(now);
        assert!(self.probe().is_decided());
        assert_eq!(self.probe().poll_timeout(), None);
        self.run_for(Duration::from_secs(60));
        report
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.step();
        }
        self.now = end;
    }

    fn next(&self) -> Option<Instant> {
        let flying = self.flying.keys().next().map(|(due, _)| *due);
        let probe = self.probe.as_ref().and_then(Probe::poll_timeout);
        let pbx = self.pbx.as_ref().and_then(Pbx::poll_timeout);
        let clyde = self.clyde.as_ref().and_then(UserAgent::poll_timeout);
        [flying, probe, pbx, clyde].into_iter().flatten().min()
    }

    fn step(&mut self) {
        let now = self.now;
        if let Some(flight) = self.flying.first_entry()
            && flight.key().0 <= now
        {
            let flight = flight.remove();
            self.deliver(flight);
        }
        if let Some(probe) = &mut self.probe
            && probe.poll_timeout().is_some_and(|due| due <= now)
        {
            probe.handle_timeout(now);
            assert!(probe.poll_timeout().is_none_or(|due| due > now), "a deadline that came must not stay");
        }
        if let Some(pbx) = &mut self.pbx {
            pbx.handle_timeout(now);
        }
        if let Some(clyde) = &mut self.clyde {
            clyde.handle_timeout(now);
        }
        self.drain();
    }

    fn deliver(&mut self, flight: Flight) {
        let now = self.now;
        let (from, to, bytes) = match flight {
            Flight::Audio(bytes) => return self.act(|probe, now| probe.handle_audio(now, &bytes)),
            Flight::Message { from, to, bytes } => (from, to, bytes),
        };
        let at_pbx = to == pbx();
        if to == us() {
            return self.act(|probe, now| probe.handle_message(now, from, &bytes));
        }
        let mut answer = None;
        match (&mut self.pbx, &mut self.clyde, self.script) {
            (Some(pbx), _, _) if at_pbx => pbx.handle_datagram(now, from, &bytes),
            (None, _, Some(script)) => {
                let message = parse(&bytes, &Limits::default()).expect("the probe's messages are well-formed");
                answer = script(&message);
            }
            // At home clyde stands where the PBX would, as far as the plan knows.
            (_, Some(clyde), _) => clyde.handle_datagram(now, from, &bytes),
            _ => {}
        }
        if let Some(bytes) = answer {
            self.send(to, from, bytes);
        }
    }

    fn drain(&mut self) {
        let mut sends = Vec::new();
        while let Some(output) = self.probe.as_mut().and_then(Probe::poll_output) {
            match output {
                Output::Message { to, bytes } => sends.push((us(), to, bytes)),
                Output::Audio { to, bytes } => self.speak(to, bytes),
            }
        }
        while let Some(output) = self.pbx.as_mut().and_then(Pbx::poll_output) {
            if let ua::Output::Send { to, bytes } = output {
                sends.push((pbx(), to, bytes));
            }
        }
        while let Some(output) = self.clyde.as_mut().and_then(UserAgent::poll_output) {
            if let ua::Output::Send { to, bytes } = output {
                sends.push((clyde(), to, bytes));
            }
        }
        for (from, to, bytes) in sends {
            self.send(from, to, bytes);
        }
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let label = label(&bytes);
        let is_lost = self.lost.contains(label.as_str()) || (self.is_cut && from == us());
        if from == us() || to == us() {
            self.wire.push(label);
        }
        if !is_lost {
            self.fly(LATENCY, Flight::Message { from, to, bytes });
        }
    }

    /// Audio comes back from where it was to go.
    fn speak(&mut self, to: SocketAddr, bytes: Vec<u8>) {
        assert_eq!(to.port(), 4_000, "audio goes where the description says");
        if (self.echo)(self.spoken) {
            self.fly(LATENCY * 2, Flight::Audio(bytes));
        }
        self.spoken += 1;
    }

    fn fly(&mut self, latency: Duration, flight: Flight) {
        self.count += 1;
        self.flying.insert((self.now + latency, self.count), flight);
    }
}

fn phone() -> UserAgent {
    let account = Account {
        user: "clyde".to_owned(),
        domain: "example.com".to_owned(),
        display: String::new(),
        password: "clyde-secret".to_owned(),
        proxy: pbx(),
        contact: clyde(),
        expires: 600,
    };
    let mut clyde = UserAgent::new(account, 1);
    clyde.set_answering(answering());
    clyde
}

/// `INVITE` for a request, `200 INVITE` for a response.
fn label(bytes: &[u8]) -> String {
    let message = parse(bytes, &Limits::default()).expect("all sides write well-formed messages");
    let method = String::from_utf8_lossy(message.method().as_bytes()).into_owned();
    match message.status_line() {
        Some(line) => format!("{} {method}", line.code),
        None => method,
    }
}

/// A response of a peer written by hand.
pub(super) fn reply(request: &Message<'_>, code: u16, body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    build::response(
        request,
        code,
        None,
        Some(b"their-tag".as_slice()),
        b"Contact: <sip:clyde@10.0.0.11:5060>\r\n",
        &mut out,
    );
    let head = out.strip_suffix(b"Content-Length: 0\r\n\r\n").expect("a response without body ends so");
    let rest = format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    if body.is_empty() { out } else { [head, rest.as_bytes()].concat() }
}

/// Answers an INVITE with 200 and this body, and all else as one should.
pub(super) fn answer_with(request: &Message<'_>, body: &str) -> Option<Vec<u8>> {
    match request.method() {
        Method::Ack => None,
        Method::Invite => Some(reply(request, 200, body)),
        _ => Some(reply(request, 200, "")),
    }
}

/// Takes everything down at the PBX and the phone.
pub(super) fn fall_silent(world: &mut World) {
    world.is_cut = true;
    if let Some(pbx) = &mut world.pbx {
        pbx.set_fault(Fault::Silent);
    }
}
