//! Whether a backend may be used: what its checks, its answers and its administrator say.
//!
//! Each guardian counts up and down for itself (`rise`, `fall`); a backend is down while any of them says so that does not only warn.
//! Besides, every request is a check: three time-outs in a row, one report of the kernel that the address is unreachable, or what
//! [`super::passive`] finds out, set the backend aside for 5 s. Then it is half-open: one request may try. If that fails too, the
//! time doubles, up to 60 s. Whoever comes back does so with slow start.

use super::checks::{CheckView, Checks, Turn};
use super::passive::{Evidence, Part, is_failure};
use super::view::Standing;
use crate::id::BackendId;
use crate::io::{CheckOutcome, DownCause, Event, UpCause};
use crate::settings::{Backend, Effect, Guardian, Maintenance};
use sip::Instant;
use std::sync::Arc;
use std::time::Duration;

/// What turns a backend that was alive into one that is not, or back; or what only warns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Up(UpCause),
    Down(DownCause),
    Warned { guardian: Arc<str>, reason: Arc<str> },
    WarningOver { guardian: Arc<str> },
}

#[derive(Debug)]
pub(super) struct Health {
    maintenance: Maintenance,
    slow_start: Duration,
    checks: Checks,
    /// Requests in a row that timed out.
    timeouts: u32,
    aside: Option<Aside>,
    /// How long it was last set aside for; zero: never.
    last_aside: Duration,
    /// When it came up again: slow start counts from here. `None`: it was up when the unit started.
    up_since: Option<Instant>,
    /// Answers from before are no evidence any more: it was set aside for them, or spared.
    judged_at: Option<Instant>,
    last_failure: Option<(Instant, u16)>,
}

/// Out of use by passive detection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Aside {
    until: Instant,
    evidence: Evidence,
    /// When the one request that may try was sent.
    trial: Option<Instant>,
}

/// The part of the health that decides the standing: pools look again when it changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shape {
    maintenance: Maintenance,
    is_down: bool,
    aside_until: Option<Instant>,
    up_since: Option<Instant>,
    slow_start: Duration,
}

impl Change {
    pub(super) fn event(self, backend: BackendId) -> Event {
        match self {
            Self::Up(cause) => Event::BackendUp { backend, cause },
            Self::Down(cause) => Event::BackendDown { backend, cause },
            Self::Warned { guardian, reason } => Event::BackendWarned { backend, guardian, reason },
            Self::WarningOver { guardian } => Event::WarningOver { backend, guardian },
        }
    }
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            maintenance: Maintenance::Off,
            slow_start: Duration::ZERO,
            checks: Checks::default(),
            timeouts: 0,
            aside: None,
            last_aside: Duration::ZERO,
            up_since: None,
            judged_at: None,
            last_failure: None,
        }
    }

    /// Takes in the settings. A guardian that held the backend down may have left, or only warn now; one that only warned may
    /// take it out.
    pub(super) fn configure(&mut self, now: Instant, backend: &Backend, guardians: &[Arc<Guardian>]) -> Option<Change> {
        self.maintenance = backend.maintenance;
        self.slow_start = backend.slow_start;
        let (was_alive, was_answering) = (self.is_alive(), self.is_answering());
        if let Some((guardian, reason)) = self.checks.configure(guardians) {
            return fell(&guardian, reason, was_answering);
        }
        // Who was set aside besides waits for its trial: that nobody looks proves nothing.
        if was_alive || !self.is_alive() {
            return None;
        }
        self.readmit(now);
        Some(Change::Up(UpCause::Reconfigured))
    }

    pub(super) fn maintenance(&self) -> Maintenance {
        self.maintenance
    }

    /// Neither down by its checks nor set aside. Maintenance does not count.
    pub(super) fn is_alive(&self) -> bool {
        !self.checks.is_down() && self.aside.is_none()
    }

    /// Does it answer, as far as we know? Whoever was set aside for bad or slow answers does.
    pub(super) fn is_answering(&self) -> bool {
        !self.checks.is_down() && self.aside.is_none_or(|aside| aside.evidence.is_of_answers())
    }

    /// Is there anything that an answer would change?
    pub(super) fn is_suspect(&self) -> bool {
        self.timeouts > 0 || self.aside.is_some()
    }

    /// Everything that keeps it from being alive.
    pub(super) fn down_causes(&self) -> Vec<DownCause> {
        self.checks.causes().chain(self.aside.map(|aside| aside.evidence.cause())).collect()
    }

    pub(super) fn checks(&self) -> Vec<CheckView> {
        self.checks.views()
    }

    /// Has the guardian of this name seen something that it is not yet sure of?
    pub(super) fn is_undecided(&self, guardian: &str) -> bool {
        self.checks.is_undecided(guardian)
    }

    pub(super) fn is_cut_by(&self, guardian: &str) -> bool {
        self.checks.is_cutting(guardian)
    }

    pub(super) fn last_failure(&self) -> Option<(Instant, u16)> {
        self.last_failure
    }

    /// Answers from before this are no evidence any more.
    pub(super) fn judged_at(&self) -> Option<Instant> {
        self.judged_at
    }

    /// What it is to the pools that it is in.
    pub(super) fn part(&self) -> Part {
        if self.maintenance != Maintenance::Off || self.checks.is_down() {
            Part::Out
        } else if self.aside.is_some() {
            Part::Aside
        } else {
            Part::Serving
        }
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            maintenance: self.maintenance,
            is_down: self.checks.is_down(),
            aside_until: self.aside.map(|aside| aside.until),
            up_since: self.up_since,
            slow_start: self.slow_start,
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut standing = Standing { is_available: false, is_half_open: false, ramp: 0, until: None };
        if self.maintenance != Maintenance::Off || self.checks.is_down() {
            return standing;
        }
        match self.aside {
            Some(aside) if now < aside.until => standing.until = Some(aside.until),
            Some(_) => {
                standing.is_half_open = true;
                // At full weight, so that its trial comes soon: no more than that one request goes there.
                standing.ramp = WHOLE;
            }
            None => {
                standing.is_available = true;
                (standing.ramp, standing.until) = self.ramp(now);
            }
        }
        standing
    }

    /// May one request try a backend set aside? Also true of one that came back meanwhile.
    pub(super) fn is_trial_open(&self, now: Instant) -> bool {
        self.aside.is_none_or(|aside| {
            let is_free = aside.trial.is_none_or(|since| now.saturating_since(since) >= TRIAL);
            now >= aside.until && is_free
        })
    }

    pub(super) fn claim_trial(&mut self, now: Instant) -> bool {
        let is_open = self.is_trial_open(now);
        if let Some(aside) = &mut self.aside
            && is_open
        {
            aside.trial = Some(now);
        }
        is_open
    }

    /// The outcome of a check, which the guardian of this name counts.
    pub(super) fn on_check(&mut self, now: Instant, guardian: &str, outcome: &CheckOutcome) -> Option<Change> {
        // Who was set aside for its answers is told of once more when it gives none: only now its calls have to move.
        let was_answering = self.is_answering();
        let (guardian, turn) = self.checks.count(now, guardian, outcome)?;
        let name = Arc::clone(&guardian.name);
        match (turn, guardian.effect) {
            (Turn::Fell(reason), Effect::Down) => fell(&guardian, reason, was_answering),
            (Turn::Fell(reason), Effect::Warn) => Some(Change::Warned { guardian: name, reason }),
            (Turn::Rose, Effect::Warn) => Some(Change::WarningOver { guardian: name }),
            (Turn::Rose, Effect::Down) if !self.checks.is_down() => Some(self.vouch(now, name)),
            // A box may answer checks and nothing else: what was set aside for anything but its address waits for its trial.
            (Turn::Stands, Effect::Down) if guardian.options.is_some() && self.is_only_unreachable() => {
                Some(self.vouch(now, name))
            }
            _ => None,
        }
    }

    /// An answer of any kind to a request.
    fn on_life(&mut self, now: Instant) -> Option<Change> {
        self.timeouts = 0;
        let is_proof = match self.aside?.evidence {
            Evidence::Unreachable => true,
            // A box that answers some requests while others time out stays aside until its trial.
            Evidence::TimedOut => self.is_half_open(now),
            Evidence::Failing { .. } | Evidence::Slow { .. } => false,
        };
        is_proof.then(|| self.return_to_use(now)).flatten()
    }

    /// The first answer to a request, after `elapsed`.
    pub(super) fn on_answer(&mut self, now: Instant, elapsed: Duration) -> Option<Change> {
        // Of what was sent before its trial an answer may be late whatever has become of it.
        if let Some(aside) = self.aside
            && matches!(aside.evidence, Evidence::Slow { .. })
            && now >= aside.until + elapsed
        {
            self.timeouts = 0;
            if aside.evidence.is_refuted_by(elapsed) {
                return self.return_to_use(now);
            }
            self.renew_aside(now, aside.evidence);
            return None;
        }
        self.on_life(now)
    }

    /// The final answer to a request.
    pub(super) fn on_final_answer(&mut self, now: Instant, code: u16) -> Option<Change> {
        if is_failure(code) {
            self.last_failure = Some((now, code));
        }
        let aside = self.aside.filter(|aside| matches!(aside.evidence, Evidence::Failing { .. }))?;
        if !self.is_half_open(now) {
            return None;
        }
        if !is_failure(code) {
            return self.return_to_use(now);
        }
        if aside.trial.is_some() {
            self.renew_aside(now, aside.evidence);
        }
        None
    }

    /// `has_room`: may the pools lose one more?
    pub(super) fn on_timeout(&mut self, now: Instant, has_room: impl FnOnce() -> bool) -> Option<Change> {
        self.timeouts = self.timeouts.saturating_add(1);
        match self.aside {
            // Requests sent before it was set aside still time out now: only a trial that was sent can fail.
            Some(aside) => {
                let has_failed = now >= aside.until && aside.trial.is_some();
                if has_failed {
                    self.renew_aside(now, Evidence::TimedOut);
                }
                self.is_news(aside, has_failed).then_some(Change::Down(DownCause::TimedOut))
            }
            None if self.timeouts >= PATIENCE => self.suspend(now, Evidence::TimedOut, has_room),
            None => None,
        }
    }

    pub(super) fn on_unreachable(&mut self, now: Instant) -> Option<Change> {
        match self.aside {
            Some(aside) => {
                let has_failed = now >= aside.until || aside.evidence.is_of_answers();
                if has_failed {
                    self.renew_aside(now, Evidence::Unreachable);
                }
                self.is_news(aside, has_failed).then_some(Change::Down(DownCause::Unreachable))
            }
            None => self.set_aside(now, Evidence::Unreachable),
        }
    }

    /// Its answers are out of line, among those of its pool or for themselves.
    pub(super) fn on_outlier(
        &mut self,
        now: Instant,
        evidence: Evidence,
        has_room: impl FnOnce() -> bool,
    ) -> Option<Change> {
        if self.part() != Part::Serving {
            return None;
        }
        self.suspend(now, evidence, has_room)
    }

    /// So few of its pools are left that it is needed, however bad its answers are.
    pub(super) fn on_need(&mut self, now: Instant) -> Option<Change> {
        let aside = self.aside?;
        if aside.evidence == Evidence::Unreachable || self.part() != Part::Aside {
            return None;
        }
        self.timeouts = 0;
        self.return_to_use(now)
    }

    /// A ping was answered: the address is reached, and no more is proved by it.
    pub(super) fn on_pong(&mut self, now: Instant) -> Option<Change> {
        (self.aside?.evidence == Evidence::Unreachable).then(|| self.return_to_use(now)).flatten()
    }

    /// Who answered, if badly, answers no more.
    fn is_news(&self, aside: Aside, has_failed: bool) -> bool {
        has_failed && aside.evidence.is_of_answers() && !self.checks.is_down()
    }

    fn is_half_open(&self, now: Instant) -> bool {
        self.aside.is_some_and(|aside| now >= aside.until)
    }

    fn is_only_unreachable(&self) -> bool {
        let is_unreachable = self.aside.is_some_and(|aside| aside.evidence == Evidence::Unreachable);
        is_unreachable && !self.checks.is_down()
    }

    /// A check is good again: nothing holds the backend down any more.
    fn vouch(&mut self, now: Instant, guardian: Arc<str>) -> Change {
        self.timeouts = 0;
        self.readmit(now);
        Change::Up(UpCause::Check(guardian))
    }

    /// Its own answers brought it back; its checks may still hold it down.
    fn return_to_use(&mut self, now: Instant) -> Option<Change> {
        self.readmit(now);
        self.is_alive().then_some(Change::Up(UpCause::Answered))
    }

    fn readmit(&mut self, now: Instant) {
        self.aside = None;
        self.up_since = Some(now);
        self.judged_at = Some(now);
    }

    /// Sets it aside if that leaves its pools enough; else it is spared, and evidence is gathered anew.
    fn suspend(&mut self, now: Instant, evidence: Evidence, has_room: impl FnOnce() -> bool) -> Option<Change> {
        // Whoever is out of use already is missed by nobody.
        if self.part() == Part::Serving && !has_room() {
            self.timeouts = 0;
            self.judged_at = Some(now);
            return None;
        }
        self.set_aside(now, evidence)
    }

    fn set_aside(&mut self, now: Instant, evidence: Evidence) -> Option<Change> {
        // Who comes back only to fail again goes on where it was, instead of failing callers every five seconds.
        let relapsed = self.up_since.is_some_and(|since| now.saturating_since(since) < ASIDE_LONGEST);
        let length = if relapsed { (self.last_aside * 2).clamp(ASIDE_FIRST, ASIDE_LONGEST) } else { ASIDE_FIRST };
        self.put_aside(now, length, evidence);
        (!self.checks.is_down()).then(|| Change::Down(evidence.cause()))
    }

    fn renew_aside(&mut self, now: Instant, evidence: Evidence) {
        self.put_aside(now, (self.last_aside * 2).min(ASIDE_LONGEST), evidence);
    }

    fn put_aside(&mut self, now: Instant, length: Duration, evidence: Evidence) {
        self.last_aside = length;
        self.aside = Some(Aside { until: now + length, evidence, trial: None });
    }

    /// Per cent of the weight, from 10 when it came up to 100 after `slow_start`, in steps of 1, and when the next step is due.
    fn ramp(&self, now: Instant) -> (u64, Option<Instant>) {
        let Some(since) = self.up_since else {
            return (WHOLE, None);
        };
        let length = micros(self.slow_start);
        let elapsed = micros(now.saturating_since(since));
        if elapsed >= length {
            return (WHOLE, None);
        }
        let steps = WHOLE - RAMP_START;
        let step = elapsed.saturating_mul(steps) / length;
        let next = (step + 1).saturating_mul(length).div_ceil(steps);
        (RAMP_START + step, Some(since + Duration::from_micros(next)))
    }
}

/// This guardian takes the backend out. Who cuts is heard even where others took it out before.
fn fell(guardian: &Guardian, reason: Arc<str>, was_answering: bool) -> Option<Change> {
    let cause = DownCause::Check { guardian: Arc::clone(&guardian.name), reason };
    (was_answering || guardian.cut).then_some(Change::Down(cause))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Time-outs in a row that set a backend aside.
const PATIENCE: u32 = 3;
const ASIDE_FIRST: Duration = Duration::from_secs(5);
const ASIDE_LONGEST: Duration = Duration::from_secs(60);
/// A trial whose outcome nobody told is over after this: twice the longest default time to fail over.
const TRIAL: Duration = Duration::from_secs(8);
/// Per cent.
const RAMP_START: u64 = 10;
const WHOLE: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::world::{at, backend, failed, good, guardian};

    /// Checked by OPTIONS alone, by the defaults.
    fn health() -> Health {
        guarded(&[Arc::new(Guardian::options())])
    }

    fn guarded(guardians: &[Arc<Guardian>]) -> Health {
        let mut health = Health::new();
        assert_eq!(health.configure(at(0), &backend("a"), guardians), None, "nothing is known of it yet");
        health
    }

    fn warning(name: &str) -> Arc<Guardian> {
        Arc::new(Guardian { effect: Effect::Warn, ..Guardian::clone(&guardian(name, 1, 1)) })
    }

    fn down_by(guardian: &str, reason: &str) -> DownCause {
        DownCause::Check { guardian: guardian.into(), reason: reason.into() }
    }

    fn up_by(guardian: &str) -> Option<Change> {
        Some(Change::Up(UpCause::Check(guardian.into())))
    }

    fn with_room() -> bool {
        true
    }

    const FAILING: Evidence = Evidence::Failing { per_cent: 80 };
    const SLOW: Evidence = Evidence::Slow { ms: 2_000, median_ms: 200 };

    #[test]
    fn a_guardian_that_cuts_is_heard_though_others_took_the_backend_out_before() {
        for (cut, heard) in [(false, None), (true, Some(Change::Down(down_by("call", "no audio"))))] {
            let cutting = Arc::new(Guardian { cut, ..Guardian::clone(&guardian("call", 1, 2)) });
            let mut health = guarded(&[guardian("ping", 1, 1), cutting]);
            assert_eq!(health.on_check(at(0), "ping", &failed("no")), Some(Change::Down(down_by("ping", "no"))));
            assert_eq!(health.on_check(at(1), "call", &failed("no audio")), None);
            assert_eq!(health.on_check(at(2), "call", &failed("no audio")), heard, "{cut}");
            assert_eq!(health.on_check(at(3), "call", &failed("no audio")), None, "once");
        }
    }

    #[test]
    fn checks_count_up_and_down() {
        let mut health = health();
        let mut check = |ms: u64, outcome: &CheckOutcome| health.on_check(at(ms), "options", outcome);
        assert_eq!(check(0, &failed("no")), None);
        assert_eq!(check(1, &failed("no")), None);
        assert_eq!(check(2, &good()), None);
        assert_eq!(check(3, &failed("no")), None);
        assert_eq!(check(4, &failed("no")), None);
        assert_eq!(check(5, &failed("no")), Some(Change::Down(down_by("options", "no"))));
        assert_eq!(check(6, &failed("never")), None);
        assert_eq!(check(7, &good()), None);
        assert_eq!(health.down_causes(), [down_by("options", "never")]);
        assert_eq!(health.on_check(at(8), "options", &good()), up_by("options"));
        assert!(health.is_alive());
        assert_eq!(health.on_check(at(9), "unknown", &failed("no")), None);
    }

    #[test]
    fn the_last_guardian_to_let_go_brings_it_up() {
        let mut health = guarded(&[guardian("a", 1, 1), guardian("b", 1, 1), warning("w")]);
        let mut check = |guardian: &str, outcome: &CheckOutcome| health.on_check(at(0), guardian, outcome);
        assert_eq!(check("a", &failed("1")), Some(Change::Down(down_by("a", "1"))));
        assert_eq!(check("b", &failed("2")), None, "told once");
        let warned = Change::Warned { guardian: "w".into(), reason: "3".into() };
        assert_eq!(check("w", &failed("3")), Some(warned), "a warning is a matter of its own");
        assert_eq!(check("a", &good()), None, "the other one holds it down");
        assert_eq!(check("w", &good()), Some(Change::WarningOver { guardian: "w".into() }));
        assert_eq!(health.down_causes(), [down_by("b", "2")]);
        assert!(!health.standing(at(0)).is_available);
        assert_eq!(health.on_check(at(0), "b", &good()), up_by("b"));
        let standing = health.standing(at(0));
        assert_eq!((standing.is_available, standing.ramp), (true, 10), "with slow start");
    }

    #[test]
    fn all_causes_are_named() {
        let mut health = guarded(&[guardian("a", 1, 1), guardian("b", 1, 1)]);
        health.on_unreachable(at(0));
        health.on_check(at(0), "b", &failed("2"));
        health.on_check(at(0), "a", &failed("1"));
        assert_eq!(health.down_causes(), [down_by("a", "1"), down_by("b", "2"), DownCause::Unreachable]);
    }

    #[test]
    fn a_warning_never_takes_it_out() {
        let mut health = guarded(&[warning("w")]);
        let before = health.shape();
        for _ in 0..9 {
            health.on_check(at(0), "w", &failed("odd"));
        }
        assert!(health.is_alive() && health.down_causes().is_empty());
        assert_eq!((health.shape(), health.part()), (before, Part::Serving));
        // Nor does its end bring anything back.
        health.on_unreachable(at(0));
        health.on_check(at(1), "w", &good());
        health.on_check(at(1), "w", &good());
        assert!(!health.is_alive());
    }

    #[test]
    fn who_is_held_down_by_a_guardian_that_left_is_up() {
        let (first, second) = (guardian("a", 2, 2), guardian("b", 1, 1));
        let mut health = guarded(&[Arc::clone(&first), Arc::clone(&second)]);
        health.on_check(at(0), "b", &failed("no"));
        health.on_check(at(0), "a", &failed("no"));
        let up = Some(Change::Up(UpCause::Reconfigured));
        assert_eq!(health.configure(at(0), &backend("a"), &[Arc::clone(&first)]), up);
        assert!(health.is_alive());
        assert_eq!(health.configure(at(1), &backend("a"), &[Arc::clone(&first)]), None, "once");
        let down = Change::Down(down_by("a", "no"));
        assert_eq!(health.on_check(at(1), "a", &failed("no")), Some(down), "its count was kept");
        let warns = Arc::new(Guardian { effect: Effect::Warn, ..Guardian::clone(&first) });
        assert_eq!(health.configure(at(2), &backend("a"), &[warns]), up, "now it only warns");
        let standing = health.standing(at(2));
        assert_eq!((standing.is_available, standing.ramp), (true, 10), "with slow start");
    }

    #[test]
    fn who_is_set_aside_besides_waits_for_its_trial_when_the_guardian_leaves() {
        let mut health = guarded(&[guardian("a", 1, 1)]);
        health.on_check(at(0), "a", &failed("no"));
        assert_eq!(health.on_unreachable(at(1)), None, "it is down already");
        assert_eq!(health.configure(at(2), &backend("a"), &[]), None);
        assert_eq!(health.down_causes(), [DownCause::Unreachable]);
        assert_eq!(health.on_life(at(3)), Some(Change::Up(UpCause::Answered)));
    }

    #[test]
    fn a_guardian_that_warned_takes_out_once_it_is_to() {
        let takes_out = |cut: bool| Arc::new(Guardian { cut, ..Guardian::clone(&guardian("w", 1, 1)) });
        let down = |guardian: &str| Some(Change::Down(down_by(guardian, "no")));
        let mut health = guarded(&[warning("w"), guardian("a", 1, 1)]);
        health.on_check(at(0), "w", &failed("no"));
        assert_eq!(health.configure(at(1), &backend("a"), &[takes_out(false), guardian("a", 1, 1)]), down("w"));
        assert!(!health.is_alive());
        // Others held it down before: nothing is new, unless it is cut.
        for (cut, told) in [(false, None), (true, down("w"))] {
            let mut held = guarded(&[warning("w"), guardian("a", 1, 1)]);
            held.on_check(at(0), "w", &failed("no"));
            assert_eq!(held.on_check(at(0), "a", &failed("no")), down("a"));
            assert_eq!(held.configure(at(1), &backend("a"), &[takes_out(cut), guardian("a", 1, 1)]), told, "{cut}");
        }
    }

    #[test]
    fn three_timeouts_in_a_row_set_aside() {
        let mut health = health();
        assert_eq!(health.on_timeout(at(0), with_room), None);
        assert_eq!(health.on_timeout(at(1), with_room), None);
        assert_eq!(health.on_life(at(2)), None);
        assert_eq!(health.on_timeout(at(3), with_room), None);
        assert_eq!(health.on_timeout(at(4), with_room), None);
        assert_eq!(health.on_timeout(at(5), with_room), Some(Change::Down(DownCause::TimedOut)));
        assert_eq!(health.on_timeout(at(6), with_room), None);
        assert_eq!(health.on_life(at(5_004)), None, "not before its trial");
        assert!(!health.standing(at(5_004)).is_half_open);
        assert!(health.standing(at(5_005)).is_half_open);
        assert_eq!(health.on_life(at(5_005)), Some(Change::Up(UpCause::Answered)));
    }

    #[test]
    fn who_is_spared_is_asked_for_anew() {
        let mut health = health();
        let mut asked = 0;
        for time in 0..9 {
            let room = || {
                asked += 1;
                false
            };
            assert_eq!(health.on_timeout(at(time), room), None);
        }
        assert_eq!((asked, health.is_alive()), (3, true), "once for three in a row");
        assert_eq!(health.judged_at(), Some(at(8)));
        assert_eq!(health.on_outlier(at(9), SLOW, || false), None);
        assert_eq!(health.judged_at(), Some(at(9)));
        // The network's word is not weighed.
        assert_eq!(health.on_unreachable(at(10)), Some(Change::Down(DownCause::Unreachable)));
    }

    #[test]
    fn who_is_out_already_needs_no_room() {
        let refuse = || -> bool { panic!("nobody is asked") };
        let mut health = guarded(&[guardian("a", 1, 1)]);
        health.on_check(at(0), "a", &failed("no"));
        assert_eq!(health.part(), Part::Out);
        for _ in 0..3 {
            assert_eq!(health.on_timeout(at(0), refuse), None, "down already");
        }
        assert_eq!(health.down_causes(), [down_by("a", "no"), DownCause::TimedOut]);
        assert_eq!(health.on_outlier(at(0), FAILING, refuse), None);
    }

    #[test]
    fn time_aside_doubles_up_to_a_minute() {
        let mut health = health();
        let mut now = at(0);
        assert_eq!(health.on_unreachable(now), Some(Change::Down(DownCause::Unreachable)));
        for seconds in [5, 10, 20, 40, 60, 60] {
            let until = now + Duration::from_secs(seconds);
            assert_eq!(health.standing(now).until, Some(until));
            assert!(!health.claim_trial(now));
            now = until;
            assert!(health.claim_trial(now));
            assert!(!health.claim_trial(now), "one request may try");
            assert_eq!(health.on_timeout(now, with_room), None);
        }
        assert!(!health.is_trial_open(now));
        now += Duration::from_secs(60);
        assert!(health.claim_trial(now));
        assert!(health.is_trial_open(now + TRIAL), "a trial nobody told of is over");
        assert!(health.on_life(now).is_some());
        // A relapse goes on at 60 s; after a minute in use it is 5 s again.
        assert!(health.on_unreachable(now).is_some());
        assert_eq!(health.standing(now).until, Some(now + Duration::from_secs(60)));
        assert!(health.on_life(now).is_some());
        let later = now + Duration::from_secs(60);
        assert!(health.on_unreachable(later).is_some());
        assert_eq!(health.standing(later).until, Some(later + Duration::from_secs(5)));
    }

    #[test]
    fn who_fails_comes_back_by_a_good_final_answer_alone() {
        let mut health = health();
        assert_eq!(
            health.on_outlier(at(0), FAILING, with_room),
            Some(Change::Down(DownCause::Failing { per_cent: 80 }))
        );
        assert!(health.is_answering() && !health.is_alive(), "calls under way go on there");
        assert_eq!(health.on_final_answer(at(4_999), 200), None, "not before its trial");
        assert_eq!(health.on_final_answer(at(5_000), 503), None);
        assert!(health.standing(at(5_000)).is_half_open, "no trial was sent that could fail");
        assert!(health.claim_trial(at(5_000)));
        assert_eq!(health.on_answer(at(5_001), Duration::from_millis(1)), None, "a 100 says nothing");
        assert_eq!(health.on_final_answer(at(5_002), 503), None);
        assert_eq!(health.standing(at(5_002)).until, Some(at(15_002)), "twice as long");
        assert!(health.claim_trial(at(15_002)));
        assert_eq!(health.on_final_answer(at(15_003), 486), Some(Change::Up(UpCause::Answered)));
        assert_eq!((health.standing(at(15_003)).ramp, health.judged_at()), (10, Some(at(15_003))));
        // A relapse goes on where it was.
        assert!(health.on_outlier(at(20_000), FAILING, with_room).is_some());
        assert_eq!(health.standing(at(20_000)).until, Some(at(40_000)));
    }

    #[test]
    fn who_is_slow_comes_back_by_a_quick_answer_alone() {
        let mut health = health();
        let down = DownCause::Slow { ms: 2_000, median_ms: 200 };
        assert_eq!(health.on_outlier(at(0), SLOW, with_room), Some(Change::Down(down)));
        let ms = Duration::from_millis;
        assert_eq!(health.on_life(at(5_000)), None, "pings are answered quickly");
        assert_eq!(health.on_answer(at(5_700), ms(701)), None, "asked before its trial");
        assert!(health.standing(at(5_700)).is_half_open);
        assert_eq!(health.on_final_answer(at(5_700), 200), None);
        assert_eq!(health.on_answer(at(6_000), ms(801)), None);
        assert_eq!(health.standing(at(6_000)).until, Some(at(16_000)), "twice as long");
        assert_eq!(health.on_answer(at(16_800), ms(800)), Some(Change::Up(UpCause::Answered)));
        assert_eq!(health.standing(at(16_800)).ramp, 10);
    }

    #[test]
    fn a_trial_of_whatever_kind_fails_by_silence() {
        for evidence in [FAILING, SLOW, Evidence::TimedOut] {
            let mut health = health();
            assert!(health.on_outlier(at(0), evidence, with_room).is_some());
            assert_eq!(health.on_timeout(at(5_000), with_room), None);
            assert!(health.standing(at(5_000)).is_half_open, "{evidence:?}");
            assert!(health.claim_trial(at(5_000)));
            let told = evidence.is_of_answers().then_some(Change::Down(DownCause::TimedOut));
            assert_eq!(health.on_timeout(at(7_000), with_room), told, "only now it answers no more");
            assert_eq!(health.down_causes(), [DownCause::TimedOut]);
            assert_eq!(health.standing(at(7_000)).until, Some(at(17_000)), "{evidence:?}");
        }
    }

    #[test]
    fn who_was_slow_and_dies_is_told_of_once_more() {
        for evidence in [FAILING, SLOW] {
            let mut refused = health();
            assert!(refused.on_outlier(at(0), evidence, with_room).is_some());
            assert_eq!(refused.on_unreachable(at(1)), Some(Change::Down(DownCause::Unreachable)), "{evidence:?}");
            assert!(!refused.is_answering());
            assert_eq!(refused.on_unreachable(at(2)), None, "once");
            let mut silent = guarded(&[guardian("ping", 1, 1)]);
            assert!(silent.on_outlier(at(0), evidence, with_room).is_some());
            assert_eq!(silent.on_check(at(1), "ping", &failed("no")), Some(Change::Down(down_by("ping", "no"))));
            assert_eq!(silent.on_unreachable(at(2)), None, "it is down already");
        }
    }

    #[test]
    fn a_pong_proves_the_address_and_no_more() {
        let mut unreachable = health();
        assert!(unreachable.on_unreachable(at(0)).is_some());
        assert_eq!(unreachable.on_pong(at(1)), Some(Change::Up(UpCause::Answered)));
        for evidence in [Evidence::TimedOut, FAILING, SLOW] {
            let mut other = health();
            assert!(other.on_outlier(at(0), evidence, with_room).is_some());
            assert_eq!(other.on_pong(at(9_000)), None, "{evidence:?}");
        }
        let mut silent = health();
        for ms in [0, 1] {
            assert_eq!(silent.on_timeout(at(ms), with_room), None);
            assert_eq!(silent.on_pong(at(ms)), None);
        }
        assert!(silent.on_timeout(at(2), with_room).is_some(), "pongs between do not count");
    }

    #[test]
    fn who_is_needed_comes_back_unless_nobody_is_there() {
        for (evidence, back) in
            [(Evidence::TimedOut, true), (FAILING, true), (SLOW, true), (Evidence::Unreachable, false)]
        {
            let mut health = health();
            let aside = match evidence {
                Evidence::Unreachable => health.on_unreachable(at(0)),
                other => health.on_outlier(at(0), other, with_room),
            };
            assert!(aside.is_some());
            assert_eq!(health.on_need(at(1)), back.then_some(Change::Up(UpCause::Answered)), "{evidence:?}");
            assert_eq!(health.is_alive(), back);
        }
        assert_eq!(health().on_need(at(0)), None);
    }

    #[test]
    fn a_ping_brings_back_the_unreachable_but_not_the_silent() {
        let mut unreachable = health();
        assert!(unreachable.on_unreachable(at(0)).is_some());
        assert_eq!(unreachable.on_check(at(1), "options", &good()), up_by("options"));
        for evidence in [Evidence::TimedOut, FAILING, SLOW] {
            let mut other = health();
            assert!(other.on_outlier(at(0), evidence, with_room).is_some());
            assert_eq!(other.on_check(at(1), "options", &good()), None);
            assert!(!other.is_alive(), "{evidence:?}");
        }
        // Who does not ask the way that requests go cannot tell.
        let mut elsewhere = guarded(&[Arc::new(Guardian { options: None, ..Guardian::clone(&guardian("tcp", 1, 1)) })]);
        assert!(elsewhere.on_unreachable(at(0)).is_some());
        assert_eq!(elsewhere.on_check(at(1), "tcp", &good()), None);
    }

    #[test]
    fn down_twice_is_told_once() {
        let mut health = health();
        assert!(health.on_unreachable(at(0)).is_some());
        for _ in 0..3 {
            assert_eq!(health.on_check(at(0), "options", &failed("no")), None);
        }
        assert_eq!(health.on_life(at(1)), None, "still down by its checks");
        assert_eq!(health.on_check(at(2), "options", &good()), None);
        assert_eq!(health.on_check(at(3), "options", &good()), up_by("options"));
    }

    #[test]
    fn the_ramp_is_exact() {
        let mut health = health();
        assert_eq!(health.ramp(at(0)), (100, None));
        health.readmit(at(0));
        let ramp = |micros: u64| health.ramp(Instant::from_micros(micros)).0;
        assert_eq!(ramp(0), 10);
        assert_eq!(ramp(333_333), 10);
        assert_eq!(ramp(333_334), 11);
        assert_eq!(ramp(15_000_000), 55);
        assert_eq!(ramp(29_999_999), 99);
        assert_eq!(ramp(30_000_000), 100);
        // Each step is due exactly when it says.
        let mut now = at(0);
        let mut last = 10;
        while let (percent, Some(next)) = health.ramp(now) {
            assert_eq!(percent, last);
            assert_eq!(ramp(next.as_micros() - 1), percent);
            now = next;
            last += 1;
        }
        assert_eq!((last, now), (100, at(30_000)));
    }

    #[test]
    fn maintenance_leaves_life_alone() {
        let mut health = health();
        let mut drained = backend("a");
        drained.maintenance = Maintenance::Drain;
        assert_eq!(health.configure(at(0), &drained, &[Arc::new(Guardian::options())]), None);
        assert!(health.is_alive());
        assert_eq!((health.standing(at(0)).ramp, health.part()), (0, Part::Out));
    }

    #[test]
    fn an_answer_matters_to_the_suspect_alone() {
        let mut silent = health();
        assert!(!silent.is_suspect());
        silent.on_timeout(at(0), with_room);
        assert!(silent.is_suspect(), "an answer ends the row of time-outs");
        silent.on_life(at(1));
        assert!(!silent.is_suspect());
        let mut unreachable = health();
        unreachable.on_unreachable(at(0));
        assert!(unreachable.is_suspect(), "an answer brings it back");
        assert!(!unreachable.is_answering());
    }

    #[test]
    fn what_was_sent_before_fails_no_trial() {
        let mut health = health();
        assert!(health.on_unreachable(at(0)).is_some());
        assert_eq!(health.on_unreachable(at(4_999)), None);
        assert_eq!(health.standing(at(4_999)).until, Some(at(5_000)), "another report does not lengthen the time");
        assert_eq!(health.on_timeout(at(5_000), with_room), None);
        assert!(health.standing(at(5_000)).is_half_open, "no trial was sent that could time out");
        assert_eq!(health.on_unreachable(at(5_000)), None);
        assert_eq!(health.standing(at(5_000)).until, Some(at(15_000)), "the address is still unreachable");
    }
}
