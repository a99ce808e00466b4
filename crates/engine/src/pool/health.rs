//! Whether a backend may be used: what its pings, its answers and its administrator say.
//!
//! Pings are counted up and down (`rise`, `fall`). Besides, every request is a check: three time-outs in a row, or one report
//! of the kernel that the address is unreachable, set the backend aside for 5 s. Then it is half-open: one request may try. If
//! that fails too, the time doubles, up to 60 s.

use super::view::Standing;
use crate::id::BackendId;
use crate::io::{DownCause, Event, UpCause};
use crate::settings::{Backend, Maintenance, Ping};
use sip::Instant;
use std::time::Duration;

/// Why a ping got no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PingFailure {
    /// Nothing came in time.
    Timeout,
    /// The kernel reported the address unreachable.
    Unreachable,
}

/// What turns a backend that was alive into one that is not, or back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Up(UpCause),
    Down(DownCause),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    maintenance: Maintenance,
    rise: u32,
    fall: u32,
    slow_start: Duration,
    /// `None`: what the pings say is that it is up. A backend not yet pinged counts as up.
    down: Option<DownCause>,
    /// Good pings in a row while down.
    rises: u32,
    /// Bad pings in a row while up.
    falls: u32,
    /// Requests in a row that timed out.
    timeouts: u32,
    aside: Option<Aside>,
    /// How long it was last set aside for; zero: never.
    last_aside: Duration,
    /// When it came up again: slow start counts from here. `None`: it was up when the unit started.
    up_since: Option<Instant>,
    last_failure: Option<(Instant, u16)>,
}

/// Out of use by passive detection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Aside {
    until: Instant,
    cause: DownCause,
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
        }
    }
}

impl Health {
    pub(super) fn new() -> Self {
        Self {
            maintenance: Maintenance::Off,
            rise: 1,
            fall: 1,
            slow_start: Duration::ZERO,
            down: None,
            rises: 0,
            falls: 0,
            timeouts: 0,
            aside: None,
            last_aside: Duration::ZERO,
            up_since: None,
            last_failure: None,
        }
    }

    pub(super) fn configure(&mut self, backend: &Backend, ping: &Ping) {
        self.maintenance = backend.maintenance;
        self.slow_start = backend.slow_start;
        self.rise = ping.rise.max(1);
        self.fall = ping.fall.max(1);
        if ping.interval.is_none() {
            // Nobody would ever report it up again.
            self.down = None;
            self.rises = 0;
            self.falls = 0;
        }
    }

    pub(super) fn maintenance(&self) -> Maintenance {
        self.maintenance
    }

    /// Does it answer, as far as we know? Maintenance does not count.
    pub(super) fn is_alive(&self) -> bool {
        self.down.is_none() && self.aside.is_none()
    }

    /// Is there anything that an answer would change?
    pub(super) fn is_suspect(&self) -> bool {
        self.timeouts > 0 || self.aside.is_some()
    }

    pub(super) fn down_cause(&self) -> Option<DownCause> {
        self.down.or(self.aside.map(|aside| aside.cause))
    }

    pub(super) fn last_failure(&self) -> Option<(Instant, u16)> {
        self.last_failure
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            maintenance: self.maintenance,
            is_down: self.down.is_some(),
            aside_until: self.aside.map(|aside| aside.until),
            up_since: self.up_since,
            slow_start: self.slow_start,
        }
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        let mut standing = Standing { is_available: false, is_half_open: false, ramp: 0, until: None };
        if self.maintenance != Maintenance::Off || self.down.is_some() {
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

    /// Any final answer but 5xx and 408 is a sign of life: 404 and 405 are usual, but a box that answers 500, 501 or 503 to
    /// OPTIONS says that it does not serve.
    pub(super) fn on_ping(&mut self, now: Instant, result: Result<u16, PingFailure>) -> Option<Change> {
        let cause = match result {
            Ok(code) if code != 408 && !(500..600).contains(&code) => {
                return self.on_good_ping(now);
            }
            Ok(code) => DownCause::Refused(code),
            Err(PingFailure::Timeout) => DownCause::Unanswered,
            Err(PingFailure::Unreachable) => DownCause::Unreachable,
        };
        self.rises = 0;
        if self.down.is_some() {
            self.down = Some(cause);
            return None;
        }
        self.falls += 1;
        if self.falls < self.fall {
            return None;
        }
        self.falls = 0;
        let was_alive = self.is_alive();
        self.down = Some(cause);
        was_alive.then_some(Change::Down(cause))
    }

    /// An answer of any kind to a request.
    pub(super) fn on_answer(&mut self, now: Instant) -> Option<Change> {
        self.timeouts = 0;
        let aside = self.aside?;
        // A box that answers some requests while others time out stays aside until its trial; one that was unreachable is back.
        if now < aside.until && aside.cause != DownCause::Unreachable {
            return None;
        }
        self.return_to_use(now);
        self.is_alive().then_some(Change::Up(UpCause::Answered))
    }

    pub(super) fn on_failure_answer(&mut self, now: Instant, code: u16) {
        self.last_failure = Some((now, code));
    }

    pub(super) fn on_timeout(&mut self, now: Instant) -> Option<Change> {
        self.timeouts = self.timeouts.saturating_add(1);
        match self.aside {
            // Requests sent before it was set aside still time out now: only a trial that was sent can fail.
            Some(aside) => {
                if now >= aside.until && aside.trial.is_some() {
                    self.renew_aside(now, DownCause::TimedOut);
                }
                None
            }
            None if self.timeouts >= PATIENCE => self.set_aside(now, DownCause::TimedOut),
            None => None,
        }
    }

    pub(super) fn on_unreachable(&mut self, now: Instant) -> Option<Change> {
        match self.aside {
            Some(aside) => {
                if now >= aside.until {
                    self.renew_aside(now, DownCause::Unreachable);
                }
                None
            }
            None => self.set_aside(now, DownCause::Unreachable),
        }
    }

    fn on_good_ping(&mut self, now: Instant) -> Option<Change> {
        self.falls = 0;
        if self.down.is_some() {
            self.rises += 1;
            if self.rises < self.rise {
                return None;
            }
            self.down = None;
        } else if self.aside.is_none_or(|aside| aside.cause != DownCause::Unreachable) {
            // A box may answer pings and nothing else: what was set aside for time-outs waits for its trial.
            return None;
        }
        self.rises = 0;
        self.timeouts = 0;
        self.return_to_use(now);
        Some(Change::Up(UpCause::Pinged))
    }

    fn return_to_use(&mut self, now: Instant) {
        self.aside = None;
        self.up_since = Some(now);
    }

    fn set_aside(&mut self, now: Instant, cause: DownCause) -> Option<Change> {
        // Who comes back only to fail again goes on where it was, instead of failing callers every five seconds.
        let relapsed = self.up_since.is_some_and(|since| now.saturating_since(since) < ASIDE_LONGEST);
        let length = if relapsed { (self.last_aside * 2).clamp(ASIDE_FIRST, ASIDE_LONGEST) } else { ASIDE_FIRST };
        self.put_aside(now, length, cause);
        self.down.is_none().then_some(Change::Down(cause))
    }

    fn renew_aside(&mut self, now: Instant, cause: DownCause) {
        self.put_aside(now, (self.last_aside * 2).min(ASIDE_LONGEST), cause);
    }

    fn put_aside(&mut self, now: Instant, length: Duration, cause: DownCause) {
        self.last_aside = length;
        self.aside = Some(Aside { until: now + length, cause, trial: None });
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
    use crate::pool::world::{at, backend};

    fn health() -> Health {
        let mut health = Health::new();
        health.configure(&backend("a"), &Ping::default());
        health
    }

    #[test]
    fn pings_count_up_and_down() {
        let mut health = health();
        let timeout = Err(PingFailure::Timeout);
        assert_eq!(health.on_ping(at(0), timeout), None);
        assert_eq!(health.on_ping(at(1), timeout), None);
        assert_eq!(health.on_ping(at(2), Ok(200)), None);
        assert_eq!(health.on_ping(at(3), timeout), None);
        assert_eq!(health.on_ping(at(4), timeout), None);
        assert_eq!(health.on_ping(at(5), timeout), Some(Change::Down(DownCause::Unanswered)));
        assert_eq!(health.on_ping(at(6), Err(PingFailure::Unreachable)), None);
        assert_eq!(health.down_cause(), Some(DownCause::Unreachable));
        assert_eq!(health.on_ping(at(7), Ok(200)), None);
        assert!(!health.is_alive());
        assert_eq!(health.on_ping(at(8), Ok(404)), Some(Change::Up(UpCause::Pinged)));
        assert!(health.is_alive());
    }

    #[test]
    fn any_final_answer_but_5xx_and_408_is_life() {
        for code in [200, 302, 401, 404, 405, 486, 600, 603] {
            let mut health = health();
            for _ in 0..9 {
                assert_eq!(health.on_ping(at(0), Ok(code)), None);
            }
            assert!(health.is_alive(), "{code}");
        }
        for code in [408, 500, 501, 503, 599] {
            let mut health = health();
            let changes: Vec<Option<Change>> = (0..3).map(|_| health.on_ping(at(0), Ok(code))).collect();
            assert_eq!(changes, [None, None, Some(Change::Down(DownCause::Refused(code)))]);
        }
    }

    #[test]
    fn three_timeouts_in_a_row_set_aside() {
        let mut health = health();
        assert_eq!(health.on_timeout(at(0)), None);
        assert_eq!(health.on_timeout(at(1)), None);
        assert_eq!(health.on_answer(at(2)), None);
        assert_eq!(health.on_timeout(at(3)), None);
        assert_eq!(health.on_timeout(at(4)), None);
        assert_eq!(health.on_timeout(at(5)), Some(Change::Down(DownCause::TimedOut)));
        assert_eq!(health.on_timeout(at(6)), None);
        assert_eq!(health.on_answer(at(5_004)), None, "not before its trial");
        assert!(!health.standing(at(5_004)).is_half_open);
        assert!(health.standing(at(5_005)).is_half_open);
        assert_eq!(health.on_answer(at(5_005)), Some(Change::Up(UpCause::Answered)));
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
            assert_eq!(health.on_timeout(now), None);
        }
        assert!(!health.is_trial_open(now));
        now += Duration::from_secs(60);
        assert!(health.claim_trial(now));
        assert!(health.is_trial_open(now + TRIAL), "a trial nobody told of is over");
        assert!(health.on_answer(now).is_some());
        // A relapse goes on at 60 s; after a minute in use it is 5 s again.
        assert!(health.on_unreachable(now).is_some());
        assert_eq!(health.standing(now).until, Some(now + Duration::from_secs(60)));
        assert!(health.on_answer(now).is_some());
        let later = now + Duration::from_secs(60);
        assert!(health.on_unreachable(later).is_some());
        assert_eq!(health.standing(later).until, Some(later + Duration::from_secs(5)));
    }

    #[test]
    fn a_ping_brings_back_the_unreachable_but_not_the_silent() {
        let mut unreachable = health();
        assert!(unreachable.on_unreachable(at(0)).is_some());
        assert_eq!(unreachable.on_ping(at(1), Ok(200)), Some(Change::Up(UpCause::Pinged)));
        let mut silent = health();
        for _ in 0..3 {
            silent.on_timeout(at(0));
        }
        assert_eq!(silent.on_ping(at(1), Ok(200)), None);
        assert!(!silent.is_alive());
    }

    #[test]
    fn down_twice_is_told_once() {
        let mut health = health();
        assert!(health.on_unreachable(at(0)).is_some());
        for _ in 0..3 {
            assert_eq!(health.on_ping(at(0), Err(PingFailure::Timeout)), None);
        }
        assert_eq!(health.on_answer(at(1)), None, "still down by its pings");
        assert_eq!(health.on_ping(at(2), Ok(200)), None);
        assert_eq!(health.on_ping(at(3), Ok(200)), Some(Change::Up(UpCause::Pinged)));
    }

    #[test]
    fn the_ramp_is_exact() {
        let mut health = health();
        assert_eq!(health.ramp(at(0)), (100, None));
        health.return_to_use(at(0));
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
        health.configure(&drained, &Ping::default());
        assert!(health.is_alive());
        assert_eq!(health.standing(at(0)).ramp, 0);
    }

    #[test]
    fn an_answer_matters_to_the_suspect_alone() {
        let mut silent = health();
        assert!(!silent.is_suspect());
        silent.on_timeout(at(0));
        assert!(silent.is_suspect(), "an answer ends the row of time-outs");
        silent.on_answer(at(1));
        assert!(!silent.is_suspect());
        let mut unreachable = health();
        unreachable.on_unreachable(at(0));
        assert!(unreachable.is_suspect(), "an answer brings it back");
    }

    #[test]
    fn what_was_sent_before_fails_no_trial() {
        let mut health = health();
        assert!(health.on_unreachable(at(0)).is_some());
        assert_eq!(health.on_unreachable(at(4_999)), None);
        assert_eq!(health.standing(at(4_999)).until, Some(at(5_000)), "another report does not lengthen the time");
        assert_eq!(health.on_timeout(at(5_000)), None);
        assert!(health.standing(at(5_000)).is_half_open, "no trial was sent that could time out");
        assert_eq!(health.on_unreachable(at(5_000)), None);
        assert_eq!(health.standing(at(5_000)).until, Some(at(15_000)), "the address is still unreachable");
    }
}
