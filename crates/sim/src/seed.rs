//! A random world from a seed: phones that register and call each other through three boxes, while boxes crash, NATs rebind,
//! links lose and reorder, somebody replays tokens, and the balancer itself is killed; then judged by the [`Model`].

mod plan;

use crate::ladder::ladder;
use crate::model::{FORGED, Model};
use crate::network::{Fate, Party, Sent};
use crate::random::Random;
use crate::script::{Script, Text};
use crate::settings::{VIP, outside_address, peer_address};
use crate::world::World;
use plan::{Action, Plan};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
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
    let mut random = Random::stream(seed, PLAN);
    let settings = plan::world_settings(&mut random);
    let plan = Plan::new(&settings, &mut random);
    let mut world = World::new(seed, settings);
    let run = catch_unwind(AssertUnwindSafe(|| Run::new(&mut world, random).through(plan)));
    let (problems, placed) = match run {
        Ok(placed) => (judge(&world, &placed), placed),
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

/// A plan under way.
struct Run<'w> {
    world: &'w mut World,
    random: Random,
    placed: Vec<Placed>,
    /// How often each phone's NAT made a new mapping.
    generations: Vec<u16>,
    attacks: u32,
    attacker: usize,
}

impl<'w> Run<'w> {
    fn new(world: &'w mut World, random: Random) -> Self {
        let attacker = world.add_peer(peer_address(0), None);
        let phones = world.phones().len();
        Self { world, random, placed: Vec::new(), generations: vec![0; phones], attacks: 0, attacker }
    }

    fn through(mut self, mut plan: Plan) -> Vec<Placed> {
        while let Some((at, action)) = plan.take_next() {
            self.world.run_for(at.saturating_since(self.world.now()));
            self.act(action, &mut plan);
            self.check_bindings();
        }
        self.finish();
        self.placed
    }

    fn act(&mut self, action: Action, plan: &mut Plan) {
        match action {
            Action::Register(phone) => self.world.register(phone),
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
            Action::Rebind(phone) => {
                if let Some(generation) = self.generations.get_mut(phone) {
                    *generation += 1;
                    self.world.rebind(phone, outside_address(phone, *generation));
                }
            }
            Action::Crash(index, crash) => self.world.crash_pbx(index, crash),
            Action::Restart(index) => self.world.restart_pbx(index),
            Action::Trouble(index, trouble) => {
                self.world.with_pbx(index, |pbx, _| pbx.set_fault(trouble.fault()));
            }
            Action::KillBalancer => self.world.kill_balancer(),
            Action::StartBalancer => self.world.start_balancer(),
            Action::Forge => self.forge(),
        }
    }

    /// Copies a token from a call that is seen on the wire into a BYE of another call.
    fn forge(&mut self) {
        let wire = self.world.wire();
        let from = self.random.index(wire.len());
        let route = wire
            .iter()
            .skip(from)
            .filter(|sent| sent.sender == Party::Balancer)
            .find_map(|sent| Text::read(&sent.bytes).values("Record-Route").into_iter().next());
        let Some(route) = route else {
            return;
        };
        self.attacks += 1;
        let number = self.attacks;
        let bye = Script::new("BYE")
            .via(&format!("SIP/2.0/UDP {};rport;branch=z9hG4bKforged{number}", peer_address(0)))
            .to("<sip:clyde@example.com>;tag=guessed")
            .call_id(&format!("{FORGED}{number}"))
            .line(&format!("Route: {route}"));
        self.world.send(self.attacker, VIP, bye.build());
    }

    /// Each user has one phone, so no box may ever hold two contacts of one.
    fn check_bindings(&self) {
        for (index, pbx) in self.world.pbxs().iter().enumerate() {
            let mut users: Vec<String> = pbx.bindings().into_iter().map(|(user, _)| user).collect();
            let bindings = users.len();
            users.sort_unstable();
            users.dedup();
            self.world.check(users.len() == bindings, &format!("pbx{} holds a second binding of a phone", index + 1));
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
        for _ in 0..2 {
            self.end_all();
            self.world.run_for(Duration::from_secs(40));
        }
        for phone in 0..self.world.phones().len() {
            self.world.unregister(phone);
        }
        self.world.run_for(Duration::from_secs(5));
        let settings = plan::without_pings(self.world.balancer().settings());
        self.world.replace_settings(settings);
        self.world.run_for(REST);
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
fn judge(world: &World, placed: &[Placed]) -> Vec<String> {
    let mut problems = Model::of(world).judge();
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
        let count = |wanted: &str| -> u64 {
            snapshot.counters.iter().filter(|(name, _, _)| *name == wanted).map(|(_, _, value)| *value).sum()
        };
        let (started, ended) = (count("calls_started"), count("calls_ended"));
        if balancer.outages().is_empty() && started != ended {
            problems.push(format!("{started} calls were counted as started, {ended} as ended"));
        }
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
    let mut digest = DefaultHasher::new();
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
