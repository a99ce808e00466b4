//! What a random world consists of and what happens in it, drawn before it starts.

use crate::network::Link;
use crate::node::{BoxPlan, Crash, PhonePlan};
use crate::random::Random;
use crate::settings::{algorithm, one_farm};
use crate::world::WorldSettings;
use engine::Settings;
use sip::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// What to do when.
pub(super) struct Plan {
    actions: BTreeMap<(Instant, u64), Action>,
    sequence: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Register(usize),
    Call {
        from: usize,
        to: usize,
        hold: Duration,
    },
    /// The caller of the call with that index hangs up, whatever its state.
    End(usize),
    /// The caller of the youngest call sends a re-INVITE.
    Reinvite,
    Rebind(usize),
    Crash(usize, Crash),
    Restart(usize),
    Trouble(usize, Trouble),
    KillBalancer,
    StartBalancer,
    Forge,
}

/// What is wrong with a box that runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    None,
    Silent,
    Refuses,
    Slow,
}

impl Trouble {
    pub(super) fn fault(self) -> ua::Fault {
        match self {
            Self::None => ua::Fault::None,
            Self::Silent => ua::Fault::Silent,
            Self::Refuses => ua::Fault::Refuse(503),
            Self::Slow => ua::Fault::Slow(Duration::from_millis(800)),
        }
    }
}

impl Plan {
    pub(super) fn new(settings: &WorldSettings, random: &mut Random) -> Self {
        let mut plan = Self { actions: BTreeMap::new(), sequence: 0 };
        let phones = settings.phones.len();
        for phone in 0..phones {
            let at = random.between(Duration::ZERO, REGISTERING);
            plan.add(START + at, Action::Register(phone));
        }
        plan.add_calls(phones, random);
        plan.add_box_faults(settings.boxes.len(), random);
        for _ in 0..random.below(12) {
            let phone = random.index(phones);
            if settings.phones.get(phone).is_some_and(|phone| phone.outside.is_some()) {
                plan.add(moment(random), Action::Rebind(phone));
            }
        }
        for _ in 0..FORGERIES {
            plan.add(moment(random), Action::Forge);
        }
        if random.chance(300) {
            let at = moment(random);
            let pause = random.between(Duration::from_millis(20), Duration::from_millis(900));
            plan.add(at, Action::KillBalancer);
            plan.add(at + pause, Action::StartBalancer);
        }
        plan
    }

    pub(super) fn add(&mut self, at: Instant, action: Action) {
        self.sequence += 1;
        self.actions.insert((at, self.sequence), action);
    }

    pub(super) fn take_next(&mut self) -> Option<(Instant, Action)> {
        self.actions.pop_first().map(|((at, _), action)| (at, action))
    }

    fn add_calls(&mut self, phones: usize, random: &mut Random) {
        for _ in 0..CALLS {
            let from = random.index(phones);
            let to = (from + 1 + random.index(phones - 1)) % phones;
            // Some callers give up while it rings.
            let longest = if random.chance(150) { 1 } else { 12 };
            let hold = random.between(Duration::from_millis(50), Duration::from_secs(longest));
            let at = moment(random);
            self.add(at, Action::Call { from, to, hold });
            if random.chance(100) {
                self.add(at + hold / 2, Action::Reinvite);
            }
        }
    }

    fn add_box_faults(&mut self, boxes: usize, random: &mut Random) {
        for index in 0..boxes {
            let at = moment(random);
            let end = at + random.between(Duration::from_secs(1), Duration::from_secs(12));
            match random.below(6) {
                0 | 1 => {
                    self.add(at, Action::Crash(index, some_crash(random)));
                    self.add(end, Action::Restart(index));
                }
                2 => self.add_trouble(index, at, end, Trouble::Silent),
                3 => self.add_trouble(index, at, end, Trouble::Refuses),
                4 => self.add_trouble(index, at, end, Trouble::Slow),
                _ => {}
            }
        }
    }

    fn add_trouble(&mut self, index: usize, at: Instant, end: Instant, trouble: Trouble) {
        self.add(at, Action::Trouble(index, trouble));
        self.add(end, Action::Trouble(index, Trouble::None));
    }
}

/// Three boxes with equal users, 50 phones or more, half of them behind NATs, links with faults, any algorithm.
pub(super) fn world_settings(random: &mut Random) -> WorldSettings {
    let count = PHONES + random.index(15);
    let users: Vec<String> = (0..count).map(|index| format!("user{index}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let phones = names.iter().enumerate().map(|(index, user)| phone(index, user, random)).collect();
    let boxes = (0..BOXES).map(|index| BoxPlan::new(index, &names)).collect();
    let policy = ALGORITHMS.get(random.index(ALGORITHMS.len())).copied().unwrap_or("weight");
    let interval = random.between(Duration::from_secs(1), Duration::from_secs(4));
    let settings = one_farm(BOXES, |farm| {
        farm.max_call_time = LONGEST_CALL;
        for service in &mut farm.services {
            service.algorithm = algorithm(policy);
            service.ping.interval = Some(interval);
            service.ping.timeout = Duration::from_millis(900);
            service.ping.rise = 1;
            service.ping.fall = 2;
        }
    });
    WorldSettings { settings, shards: 1 + random.index(4), link: faulty_link(random), boxes, phones }
}

/// The same settings, quiet.
pub(super) fn without_pings(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    for service in settings.farms.iter_mut().flat_map(|farm| &mut farm.services) {
        service.ping.interval = None;
    }
    settings
}

fn phone(index: usize, user: &str, random: &mut Random) -> PhonePlan {
    let mut plan = if random.chance(500) { PhonePlan::behind_nat(index, user) } else { PhonePlan::new(index, user) };
    plan.expires = 40 + random.below(60) as u32;
    plan.answering.ring_after = random.between(Duration::ZERO, Duration::from_millis(300));
    plan.answering.answer_after = match random.below(20) {
        0 => None,
        _ => Some(random.between(Duration::from_millis(100), Duration::from_secs(3))),
    };
    if random.chance(100) {
        plan.answering.code = 486;
    }
    if random.chance(300) {
        plan.answering.hang_up_after = Some(random.between(Duration::from_secs(1), Duration::from_secs(8)));
    }
    plan
}

/// The links of a world with faults, drawn once for all.
fn faulty_link(random: &mut Random) -> Link {
    Link {
        loss_permille: random.below(50) as u32,
        duplicate_permille: random.below(20) as u32,
        reorder_permille: random.below(20) as u32,
        delay: random.between(Duration::from_millis(1), Duration::from_millis(20)),
        jitter: random.between(Duration::ZERO, Duration::from_millis(15)),
    }
}

/// How a box is gone when it is gone.
fn some_crash(random: &mut Random) -> Crash {
    if random.chance(500) { Crash::Host } else { Crash::Process }
}

/// Any time while calls are made.
fn moment(random: &mut Random) -> Instant {
    START + random.between(REGISTERING * 2, REGISTERING * 2 + CALLING)
}

/// Where the virtual clock of a world stands at first.
const START: Instant = Instant::from_micros(1_000_000);
const REGISTERING: Duration = Duration::from_secs(3);
const CALLING: Duration = Duration::from_secs(60);
const LONGEST_CALL: Duration = Duration::from_secs(600);
const PHONES: usize = 50;
const BOXES: usize = 3;
const CALLS: usize = 200;
const FORGERIES: usize = 10;
const ALGORITHMS: [&str; 9] = [
    "weight",
    "round-robin",
    "random-two",
    "hash-user",
    "hash-call-id",
    "hash-source",
    "least-calls",
    "least-work",
    "fastest",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_is_as_big_as_promised() {
        for seed in 0..20 {
            let mut random = Random::new(seed);
            let settings = world_settings(&mut random);
            let mut plan = Plan::new(&settings, &mut random);
            assert!(settings.phones.len() >= 50);
            assert_eq!(settings.boxes.len(), 3);
            let (mut calls, mut last) = (0, START);
            while let Some((at, action)) = plan.take_next() {
                assert!(at >= last, "in order");
                last = at;
                if let Action::Call { from, to, .. } = action {
                    assert!(from != to, "nobody calls himself");
                    calls += 1;
                }
            }
            assert_eq!(calls, CALLS);
        }
    }
}
