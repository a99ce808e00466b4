//! A random world from a seed: phones that register and call each other through three boxes, while boxes crash, NATs rebind,
//! links lose and reorder, somebody replays tokens, and the balancer itself is killed; then judged by the [`Model`].

mod forge;
mod plan;

use crate::balancer::Sabotage;
use crate::ladder::ladder;
use crate::model::{Extent, Model};
use crate::network::{Fate, Link, Party, Sent};
use crate::random::Random;
use crate::settings::{VIP, outside_address, peer_address, phone_address};
use crate::world::World;
use engine::Settings;
use foldhash::quality::FixedState;
use plan::{Action, Forgery, Kind, Plan};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use ua::CallId;

/// What happened in a world that kept all its promises.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    pub seed: u64,
    pub phones: usize,
    pub calls: usize,
    pub answered: usize,
    pub datagrams: usize,
    pub lost: usize,
    /// Of every datagram: when, from where, to where, what. Two runs of a seed agree in it.
    pub digest: u64,
}

/// A world that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub problems: Vec<String>,
    /// The last datagrams of the call that the first problem names, else of all.
    pub ladder: String,
}

/// Makes the world of that seed, lets it run to its end and judges it. At least 50 phones, 3 boxes and 200 calls.
pub fn run_seed(seed: u64) -> Result<Report, Failure> {
    run(seed, None)
}

/// The same world with a balancer that is broken on purpose: shows that the judge notices.
pub fn run_sabotaged(seed: u64, sabotage: Sabotage) -> Result<Report, Failure> {
    run(seed, Some(sabotage))
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Report, Failure> {
    let mut random = Random::stream(seed, PLAN);
    let kind = Kind::draw(&mut Random::stream(seed, KIND));
    let settings = plan::world_settings(&mut random, kind);
    let plan = Plan::new(&settings, &mut random, kind);
    let mut world = World::new(seed, settings);
    if let Some(sabotage) = sabotage {
        world.balancer().sabotage(sabotage);
    }
    let run = catch_unwind(AssertUnwindSafe(|| Run::new(&mut world, random, kind).through(plan)));
    let (problems, placed) = match run {
        Ok(Ending { placed, problems }) => {
            let mut found = judge(&world, &placed, kind);
            found.extend(problems);
            (found, placed)
        }
        Err(panic) => (vec![format!("panic: {}", panic_message(&*panic))], Vec::new()),
    };
    if problems.is_empty() {
        Ok(report(&world, &placed))
    } else {
        let ladder = problems.first().and_then(|problem| call_of(problem)).map_or_else(
            || world.ladder(60),
            |call_id| {
                let concerned: Vec<Sent> = world
                    .wire()
                    .iter()
                    .filter(|sent| memchr::memmem::find(&sent.bytes, call_id.as_bytes()).is_some())
                    .cloned()
                    .collect();
                ladder(&concerned, 60)
            },
        );
        Err(Failure { seed, problems, ladder })
    }
}

/// The Call-ID in a problem's text.
fn call_of(problem: &str) -> Option<&str> {
    let (_, rest) = problem.split_once("Call-ID ")?;
    rest.split(',').next()
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, problems, ladder } = self;
        writeln!(f, "seed {seed} broke {} promises; repeat it with: cargo xtask sim --seed {seed}", problems.len())?;
        for problem in problems.iter().take(SHOWN_PROBLEMS) {
            writeln!(f, "  {problem}")?;
        }
        f.write_str(ladder)
    }
}

impl std::error::Error for Failure {}

/// A call that a phone placed.
#[derive(Clone, Copy, Debug)]
struct Placed {
    phone: usize,
    call: CallId,
}

/// What a plan leaves behind besides the world.
struct Ending {
    placed: Vec<Placed>,
    /// What did not hold while it ran.
    problems: Vec<String>,
}

/// A plan under way.
struct Run<'w> {
    world: &'w mut World,
    random: Random,
    kind: Kind,
    /// As the balancer had them first.
    settings: Settings,
    /// The box that its administrator has cut.
    cut: Option<usize>,
    placed: Vec<Placed>,
    problems: Vec<String>,
    /// How often each phone's NAT made a new mapping.
    generations: Vec<u16>,
    attacks: u32,
    attacker: usize,
}

impl<'w> Run<'w> {
    fn new(world: &'w mut World, random: Random, kind: Kind) -> Self {
        let attacker = world.add_peer(peer_address(0), None);
        // A forgery that is lost on its way proves nothing, and one that is doubled is two.
        let link = Link::default();
        world.network().set_link(Party::Peer(attacker), Party::Balancer, link);
        world.network().set_link(Party::Balancer, Party::Peer(attacker), link);
        let phones = world.phones().len();
        let settings = world.balancer().settings().clone();
        Self {
            world,
            random,
            kind,
            settings,
            cut: None,
            placed: Vec::new(),
            problems: Vec::new(),
            generations: vec![0; phones],
            attacks: 0,
            attacker,
        }
    }

    fn through(mut self, mut plan: Plan) -> Ending {
        while let Some((at, action)) = plan.take_next() {
            self.world.run_for(at.saturating_since(self.world.now()));
            self.act(action, &mut plan);
            self.check_bindings();
        }
        self.finish();
        Ending { placed: self.placed, problems: self.problems }
    }

    fn act(&mut self, action: Action, plan: &mut Plan) {
        match action {
            Action::Register(phone) => self.world.register(phone),
            Action::Unregister(phone) => self.world.unregister(phone),
            Action::Call { from, to, hold } => {
                let user = self.world.phone(to).user().to_owned();
                let call = self.world.call(from, &user);
                plan.add(self.world.now() + hold, Action::End(self.placed.len()));
                self.placed.push(Placed { phone: from, call });
            }
            Action::End(index) => {
                if let Some(Placed { phone, call }) = self.placed.get(index).copied() {
                    self.world.hang_up(phone, call);
                }
            }
            Action::Reinvite => {
                if let Some(Placed { phone, call }) = self.placed.last().copied() {
                    self.world.reinvite(phone, call);
                }
            }
            Action::ReinviteOf(phone) => {
                if let Some(call) = self.call_of(phone) {
                    self.world.reinvite(phone, call);
                }
            }
            Action::Rebind(phone) => self.rebind(phone),
            Action::MoveInCall(pause) => {
                if let Some(phone) = self.phone_in_call() {
                    self.rebind(phone);
                    plan.add(self.world.now() + pause, Action::ReinviteOf(phone));
                }
            }
            Action::Crash(index, crash) => self.world.crash_pbx(index, crash),
            Action::Restart(index) => self.world.restart_pbx(index),
            Action::Trouble(index, trouble) => {
                self.world.with_pbx(index, |pbx, _| pbx.set_fault(trouble.fault()));
            }
            Action::KillBalancer => self.world.kill_balancer(),
            Action::StartBalancer => self.world.start_balancer(),
            Action::Reload { weights, without } => {
                let settings = plan::reloaded(&self.settings, weights, without);
                self.world.replace_settings(plan::with_cut(&settings, self.cut));
            }
            Action::Cut(cut) => {
                self.cut = cut;
                let settings = plan::with_cut(self.world.balancer().settings(), cut);
                self.world.replace_settings(settings);
            }
            Action::Forge(forgery) => self.forge(forgery),
        }
    }

    fn rebind(&mut self, phone: usize) {
        if let Some(generation) = self.generations.get_mut(phone) {
            *generation += 1;
            self.world.rebind(phone, outside_address(phone, *generation));
        }
    }

    /// Some phone behind a NAT that is in a call.
    fn phone_in_call(&mut self) -> Option<usize> {
        let phones = self.world.phones().len();
        let first = self.random.index(phones);
        (0..phones).map(|step| (first + step) % phones).find(|phone| {
            let is_behind_nat = self.world.phone(*phone).public_address() != phone_address(*phone);
            is_behind_nat && self.call_of(*phone).is_some()
        })
    }

    /// The newest call of a phone that is up.
    fn call_of(&self, phone: usize) -> Option<CallId> {
        let agent = self.world.phone(phone);
        let incoming = agent.incoming().into_iter().filter(|call| agent.is_confirmed(*call));
        let outgoing = self.placed.iter().filter(|placed| placed.phone == phone && agent.is_answered(placed.call));
        incoming.chain(outgoing.map(|placed| placed.call)).filter(|call| !agent.is_over(*call)).max()
    }

    /// Sends what nobody must believe.
    fn forge(&mut self, forgery: Forgery) {
        let number = self.attacks + 1;
        if let Some(bytes) = forge::forged(forgery, number, self.world.wire(), &mut self.random) {
            self.attacks = number;
            self.world.send(self.attacker, VIP, bytes);
        }
    }

    /// Each user has one phone, so no box may ever hold two contacts of one.
    fn check_bindings(&self) {
        for (index, pbx) in self.world.pbxs().iter().enumerate() {
            if pbx.most_bindings() > 1 {
                self.world.fail(&format!("pbx{} holds a second binding of a phone", index + 1));
            }
        }
    }

    /// All faults end, all calls end, all phones leave; then everything is given the time to come to rest.
    fn finish(&mut self) {
        self.world.network().heal();
        if !self.world.balancer().is_running() {
            self.world.start_balancer();
        }
        for index in 0..self.world.pbxs().len() {
            self.world.restart_pbx(index);
            self.world.with_pbx(index, |pbx, _| pbx.set_fault(ua::Fault::None));
        }
        self.world.run_for(Duration::from_secs(10));
        self.end_all();
        self.world.run_for(Duration::from_secs(40));
        // Once more, for calls that were being set up, or whose end a party did not hear of.
        self.end_all();
        for phone in 0..self.world.phones().len() {
            self.world.unregister(phone);
        }
        self.world.run_for(Duration::from_secs(45));
        self.check_memory();
        let settings = plan::without_pings(self.world.balancer().settings());
        self.world.replace_settings(settings);
        self.world.run_for(REST);
    }

    /// What the parties have ended is forgotten at once, not when its time is up. A box that crashed or a balancer that was killed may
    /// have left something behind; where anything else was wrong, a phone may not have heard of the end of its call.
    fn check_memory(&mut self) {
        let is_broken = self.world.pbxs().iter().any(|pbx| !pbx.crashes().is_empty())
            || !self.world.balancer().outages().is_empty();
        let Some(snapshot) = self.world.balancer().snapshot(self.world.now()).filter(|_| !is_broken) else {
            return;
        };
        if snapshot.registrations > 0 {
            self.problems.push(format!("{} registrations are left after every phone has left", snapshot.registrations));
        }
        if snapshot.calls > 0 && self.kind.is_calm {
            self.problems.push(format!("{} calls are left after every call has ended", snapshot.calls));
        }
    }

    fn end_all(&mut self) {
        let open: Vec<Placed> = (0..self.world.phones().len())
            .flat_map(|phone| {
                let incoming = self.world.phone(phone).incoming();
                incoming.into_iter().map(move |call| Placed { phone, call })
            })
            .chain(self.placed.iter().copied())
            .filter(|placed| !self.world.phone(placed.phone).is_over(placed.call))
            .collect();
        for Placed { phone, call } in open {
            self.world.hang_up(phone, call);
        }
    }
}

/// What broke: on the wire, and in what is left of the balancer's memory.
fn judge(world: &World, placed: &[Placed], kind: Kind) -> Vec<String> {
    let model = Model::of(world);
    let mut problems = model.judge();
    let balancer = world.balancer();
    let transactions = balancer.transactions();
    if transactions > 0 {
        problems.push(format!("{transactions} transactions are left at rest"));
    }
    if balancer.damaged_facts() > 0 {
        problems.push(format!("{} facts of the log could not be read", balancer.damaged_facts()));
    }
    if let Some(snapshot) = balancer.snapshot(world.now()) {
        if snapshot.calls > 0 || snapshot.registrations > 0 {
            problems.push(format!(
                "{} calls and {} registrations are left at rest",
                snapshot.calls, snapshot.registrations
            ));
        }
        let extent = Extent { never_doubled: kind.never_doubles, same_boxes: !kind.loses_a_box };
        problems.extend(model.judge_counters(&snapshot, extent));
    }
    let answered = answered(world, placed);
    if answered * 3 < placed.len() {
        problems.push(format!("only {answered} of {} calls were answered", placed.len()));
    }
    problems
}

fn answered(world: &World, placed: &[Placed]) -> usize {
    placed.iter().filter(|placed| world.phone(placed.phone).is_answered(placed.call)).count()
}

fn report(world: &World, placed: &[Placed]) -> Report {
    let mut digest = FixedState::default().build_hasher();
    for sent in world.wire() {
        (sent.at, sent.from, sent.to).hash(&mut digest);
        digest.write(&sent.bytes);
    }
    Report {
        seed: world.seed(),
        phones: world.phones().len(),
        calls: placed.len(),
        answered: answered(world, placed),
        datagrams: world.wire().len(),
        lost: world.wire().iter().filter(|sent| sent.fate == Fate::Lost).count(),
        digest: digest.finish(),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message").to_owned()
}

/// Longer than timer C with what follows it, than every registration, and than the longest call that the farm allows.
const REST: Duration = Duration::from_secs(800);
const SHOWN_PROBLEMS: usize = 20;
const PLAN: u64 = 0x91a4;
const KIND: u64 = 0x4b1d;
