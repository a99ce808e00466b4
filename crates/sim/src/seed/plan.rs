//! What a random world consists of and what happens in it, drawn before it starts.

use crate::network::Link;
use crate::node::{BoxPlan, Crash, PhonePlan};
use crate::random::Random;
use crate::settings::{algorithm, one_farm};
use crate::world::WorldSettings;
use engine::{Guardian, Maintenance, Registrations, Settings};
use sip::Instant;
use std::collections::BTreeMap;
use std::sync::Arc;
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
    /// A phone sends a re-INVITE in its youngest call, whoever called.
    ReinviteOf(usize),
    Unregister(usize),
    Rebind(usize),
    /// Some phone behind a NAT moves in the middle of a call, and sends a re-INVITE so long after.
    MoveInCall(Duration),
    Crash(usize, Crash),
    Restart(usize),
    Trouble(usize, Trouble),
    KillBalancer,
    StartBalancer,
    /// New weights, and perhaps one box less.
    Reload {
        weights: [u32; BOXES],
        without: Option<usize>,
    },
    /// The box with that index is cut; `None`: none is any more.
    Cut(Option<usize>),
    Forge(Forgery),
}

/// What a stranger makes of what he saw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Forgery {
    /// A token of one call in another.
    CopiedToken,
    /// A token of the same call with a character altered.
    AlteredToken,
    /// A token of the same call, outside of its dialog.
    WithoutTag,
    /// The Request-URI is a contact that the balancer wrote for a box.
    ContactId,
    /// The Path of a registration, which is for boxes only.
    Path,
    /// A response with an altered branch.
    Branch,
}

/// What sort of world it is. Drawn apart from all else, so that what is not concerned stays as it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// Nothing fails but the links.
    pub(super) is_calm: bool,
    /// No link doubles datagrams.
    pub(super) never_doubles: bool,
    /// Phones are reached by Path (RFC 3327) and not by a contact of the balancer.
    pub(super) by_path: bool,
    pub(super) reloads: bool,
    /// A box leaves the configuration for a while.
    pub(super) loses_a_box: bool,
    /// Guardians end the calls of the boxes that they find down.
    pub(super) guardians_cut: bool,
    /// A box is cut by its administrator for a while.
    pub(super) cuts_a_box: bool,
    /// What phones are told at most.
    pub(super) max_expires: Option<Duration>,
}

impl Kind {
    pub(super) fn draw(random: &mut Random) -> Self {
        let is_calm = random.chance(200);
        let by_path = random.chance(100);
        let never_doubles = random.chance(250);
        let reloads = random.chance(300);
        let loses_a_box = random.chance(150);
        // The Path of a box that is not configured is a forged one.
        let loses_a_box = loses_a_box && !is_calm && !by_path;
        // Of a box that is not configured it cannot be told whether it is cut.
        let may_cut = !is_calm && !loses_a_box;
        let guardians_cut = random.chance(300) && may_cut;
        let cuts_a_box = random.chance(400) && may_cut;
        let shortens = random.chance(400);
        // Phones ask for one to three minutes: some come back often before half of that is over, others soon after.
        let longest = Duration::from_secs(12 + random.below(29));
        Self {
            is_calm,
            never_doubles: is_calm || never_doubles,
            by_path,
            reloads,
            loses_a_box,
            guardians_cut,
            cuts_a_box,
            max_expires: shortens.then_some(longest),
        }
    }
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
    pub(super) fn new(settings: &WorldSettings, random: &mut Random, kind: Kind) -> Self {
        let mut plan = Self { actions: BTreeMap::new(), sequence: 0 };
        let phones = settings.phones.len();
        for phone in 0..phones {
            let at = random.between(Duration::ZERO, REGISTERING);
            plan.add(START + at, Action::Register(phone));
        }
        plan.add_calls(phones, random);
        if !kind.is_calm {
            plan.add_box_faults(settings.boxes.len(), random);
            plan.add_rebindings(settings, random);
        }
        plan.add_forgeries(kind, random);
        // A balancer that starts without a box does not know the dialogs that it had there.
        if !kind.is_calm && !kind.loses_a_box && random.chance(300) {
            let at = moment(random);
            let pause = random.between(Duration::from_millis(20), Duration::from_millis(900));
            plan.add(at, Action::KillBalancer);
            plan.add(at + pause, Action::StartBalancer);
        }
        plan.add_absences(phones, random);
        plan.add_reloads(kind, random);
        plan.add_cut(kind, random);
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

    fn add_rebindings(&mut self, settings: &WorldSettings, random: &mut Random) {
        for _ in 0..random.below(12) {
            let phone = random.index(settings.phones.len());
            if settings.phones.get(phone).is_some_and(|phone| phone.outside.is_some()) {
                self.add(moment(random), Action::Rebind(phone));
            }
        }
        for _ in 0..MOVES_IN_CALLS {
            let pause = random.between(Duration::from_millis(300), Duration::from_millis(900));
            self.add(moment(random), Action::MoveInCall(pause));
        }
    }

    fn add_forgeries(&mut self, kind: Kind, random: &mut Random) {
        // Only one of the two ways to a phone is ever seen on the wire of a world.
        let unseen = if kind.by_path { Forgery::ContactId } else { Forgery::Path };
        let kinds = FORGERIES.into_iter().filter(|forgery| *forgery != unseen);
        for forgery in kinds.cycle().take(FORGERY_COUNT) {
            self.add(moment(random), Action::Forge(forgery));
        }
    }

    /// Phones that leave for a moment, in the middle of calls perhaps.
    fn add_absences(&mut self, phones: usize, random: &mut Random) {
        for _ in 0..random.below(6) {
            let phone = random.index(phones);
            let at = moment(random);
            let pause = random.between(Duration::from_secs(1), Duration::from_secs(5));
            self.add(at, Action::Unregister(phone));
            self.add(at + pause, Action::Register(phone));
        }
    }

    fn add_reloads(&mut self, kind: Kind, random: &mut Random) {
        if kind.reloads {
            let weights = some_weights(random);
            self.add(moment(random), Action::Reload { weights, without: None });
        }
        if kind.loses_a_box {
            let weights = some_weights(random);
            let at = moment(random);
            let pause = random.between(Duration::from_secs(1), Duration::from_secs(4));
            let without = Some(random.index(BOXES));
            self.add(at, Action::Reload { weights, without });
            self.add(at + pause, Action::Reload { weights, without: None });
        }
    }

    fn add_cut(&mut self, kind: Kind, random: &mut Random) {
        if kind.cuts_a_box {
            let at = moment(random);
            let pause = random.between(Duration::from_secs(1), Duration::from_secs(15));
            self.add(at, Action::Cut(Some(random.index(BOXES))));
            self.add(at + pause, Action::Cut(None));
        }
    }

    fn add_trouble(&mut self, index: usize, at: Instant, end: Instant, trouble: Trouble) {
        self.add(at, Action::Trouble(index, trouble));
        self.add(end, Action::Trouble(index, Trouble::None));
    }
}

/// Three boxes with equal users, 50 phones or more, half of them behind NATs, links with faults, any algorithm.
pub(super) fn world_settings(random: &mut Random, kind: Kind) -> WorldSettings {
    let count = PHONES + random.index(15);
    let users: Vec<String> = (0..count).map(|index| format!("user{index}")).collect();
    let names: Vec<&str> = users.iter().map(String::as_str).collect();
    let phones = names.iter().enumerate().map(|(index, user)| phone(index, user, random)).collect();
    let boxes = (0..BOXES).map(|index| BoxPlan::new(index, &names)).collect();
    let policy = ALGORITHMS.get(random.index(ALGORITHMS.len())).copied().unwrap_or("weight");
    let interval = random.between(Duration::from_secs(1), Duration::from_secs(4));
    let settings = one_farm(BOXES, |farm| {
        farm.max_call_time = LONGEST_CALL;
        farm.max_expires = kind.max_expires;
        if kind.by_path {
            farm.registrations = Registrations::Path;
        }
        for service in &mut farm.services {
            service.algorithm = algorithm(policy);
            let timeout = Duration::from_millis(900);
            let cut = kind.guardians_cut;
            let guardian = Guardian { interval, timeout, rise: 1, fall: 2, cut, ..Guardian::options() };
            service.guardians = vec![Arc::new(guardian)];
        }
    });
    let shards = 1 + random.index(4);
    let mut link = faulty_link(random);
    if kind.never_doubles {
        link.duplicate_permille = 0;
    }
    WorldSettings { settings, shards, link, boxes, phones }
}

/// The same settings with other weights, and perhaps without one of the boxes.
pub(super) fn reloaded(settings: &Settings, weights: [u32; BOXES], without: Option<usize>) -> Settings {
    let mut settings = settings.clone();
    for farm in &mut settings.farms {
        for (backend, weight) in farm.backends.iter_mut().zip(weights) {
            backend.weight = weight;
        }
        if let Some(index) = without {
            farm.backends.remove(index);
        }
        let left = farm.backends.len();
        for service in &mut farm.services {
            service.backends = (0..left).collect();
        }
    }
    settings
}

/// The same settings with that box cut and no other.
pub(super) fn with_cut(settings: &Settings, cut: Option<usize>) -> Settings {
    let mut settings = settings.clone();
    for farm in &mut settings.farms {
        for (index, backend) in farm.backends.iter_mut().enumerate() {
            backend.maintenance = if cut == Some(index) { Maintenance::Cut } else { Maintenance::Off };
        }
    }
    settings
}

/// The same settings, quiet.
pub(super) fn without_pings(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    for service in settings.farms.iter_mut().flat_map(|farm| &mut farm.services) {
        service.guardians.clear();
    }
    settings
}

fn phone(index: usize, user: &str, random: &mut Random) -> PhonePlan {
    let mut plan = if random.chance(500) { PhonePlan::behind_nat(index, user) } else { PhonePlan::new(index, user) };
    plan.expires = 60 + random.below(120) as u32;
    plan.proves_calls_ahead = random.chance(800);
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

fn some_weights(random: &mut Random) -> [u32; BOXES] {
    std::array::from_fn(|_| 1 + random.below(4) as u32)
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
const MOVES_IN_CALLS: usize = 3;
const FORGERY_COUNT: usize = 15;
/// Every kind of it.
pub(super) const FORGERIES: [Forgery; 6] = [
    Forgery::CopiedToken,
    Forgery::AlteredToken,
    Forgery::WithoutTag,
    Forgery::ContactId,
    Forgery::Path,
    Forgery::Branch,
];
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

    fn kind() -> Kind {
        Kind {
            is_calm: false,
            never_doubles: false,
            by_path: false,
            reloads: true,
            loses_a_box: true,
            guardians_cut: false,
            cuts_a_box: false,
            max_expires: None,
        }
    }

    fn actions(kind: Kind, seed: u64) -> Vec<Action> {
        let mut random = Random::new(seed);
        let settings = world_settings(&mut random, kind);
        assert!(settings.phones.len() >= 50);
        assert_eq!(settings.boxes.len(), 3);
        let mut plan = Plan::new(&settings, &mut random, kind);
        let mut actions = Vec::new();
        let mut last = START;
        while let Some((at, action)) = plan.take_next() {
            assert!(at >= last, "in order");
            last = at;
            actions.push(action);
        }
        actions
    }

    #[test]
    fn every_world_is_as_big_as_promised() {
        for seed in 0..20 {
            let calls = actions(kind(), seed).into_iter().filter(|action| match action {
                Action::Call { from, to, .. } => {
                    assert!(from != to, "nobody calls himself");
                    true
                }
                _ => false,
            });
            assert_eq!(calls.count(), CALLS);
        }
    }

    #[test]
    fn nothing_fails_in_a_calm_world() {
        let calm = Kind { is_calm: true, loses_a_box: false, ..kind() };
        let fails = |action: &Action| {
            let moves = matches!(action, Action::Rebind(_) | Action::MoveInCall(_));
            moves || matches!(action, Action::Crash(..) | Action::Trouble(..) | Action::KillBalancer)
        };
        for seed in 0..20 {
            assert!(!actions(calm, seed).iter().any(fails));
        }
    }

    #[test]
    fn a_box_that_is_cut_comes_back() {
        let cutting = Kind { loses_a_box: false, cuts_a_box: true, ..kind() };
        let cuts: Vec<Option<usize>> = actions(cutting, 1)
            .into_iter()
            .filter_map(|action| match action {
                Action::Cut(cut) => Some(cut),
                _ => None,
            })
            .collect();
        assert_eq!(cuts.iter().map(Option::is_some).collect::<Vec<bool>>(), [true, false]);
        let settings = world_settings(&mut Random::new(1), cutting).settings;
        let maintained = |settings: &Settings| -> Vec<bool> {
            let backends = settings.farms.iter().flat_map(|farm| &farm.backends);
            backends.map(|backend| backend.maintenance == Maintenance::Cut).collect()
        };
        let cut = with_cut(&settings, Some(2));
        assert_eq!(maintained(&cut), [false, false, true]);
        assert_eq!(maintained(&with_cut(&cut, None)), [false; 3]);
    }

    #[test]
    fn calm_worlds_and_those_that_lose_a_box_cut_none() {
        for seed in 0..200 {
            let kind = Kind::draw(&mut Random::new(seed));
            let cuts = kind.guardians_cut || kind.cuts_a_box;
            assert!(!cuts || !(kind.is_calm || kind.loses_a_box), "{kind:?}");
        }
    }

    #[test]
    fn a_box_that_leaves_comes_back() {
        let reloads: Vec<Option<usize>> = actions(kind(), 1)
            .into_iter()
            .filter_map(|action| match action {
                Action::Reload { without, .. } => Some(without),
                _ => None,
            })
            .collect();
        assert_eq!(reloads.len(), 3);
        assert_eq!(reloads.last(), Some(&None));
        let settings = world_settings(&mut Random::new(1), kind()).settings;
        let names = |settings: &Settings| -> Vec<(String, u32)> {
            let backends = settings.farms.iter().flat_map(|farm| &farm.backends);
            backends.map(|backend| (backend.name.clone(), backend.weight)).collect()
        };
        let left = reloaded(&settings, [2, 3, 4], Some(1));
        assert_eq!(names(&left), [("pbx1".to_owned(), 2), ("pbx3".to_owned(), 4)]);
        assert_eq!(names(&reloaded(&settings, [1, 1, 1], None)), names(&settings));
    }
}
