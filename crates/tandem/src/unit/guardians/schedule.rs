//! When which check is made. The time and all that is random are arguments.
//!
//! A check that fails is made again soon, so that the verdict comes before the next turn of the interval. A box that dies is found
//! within 1.1 × `fall` × `interval` + `timeout`, as long as `timeout` is not above `interval`: the next check begins after 1.05 intervals
//! at most, each of the others no later than one interval after the one before, and the last one ends after `timeout`. A program that does
//! not end when it is told to takes as much longer as it is given for that.

use engine::BackendId;
use sip::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Checks that are under way at a time.
pub(crate) const AT_ONCE: usize = 64;

/// A backend and the guardian that checks it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Pair {
    pub(crate) backend: BackendId,
    pub(crate) guardian: Arc<str>,
}

/// How often a guardian checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Rhythm {
    pub(super) interval: Duration,
    pub(super) rise: u32,
    pub(super) fall: u32,
}

pub(super) struct Schedule {
    known: BTreeMap<Pair, Entry>,
    /// Due, in the order in which they became so.
    waiting: VecDeque<Pair>,
    /// Under way. Those that are no longer known stand here as well until they end.
    running: BTreeSet<Pair>,
    random: Random,
    waited: u64,
}

struct Entry {
    rhythm: Rhythm,
    due: Instant,
    /// The last check that began.
    began: Instant,
    is_queued: bool,
    /// It was counted among those that had to wait.
    has_waited: bool,
    standing: Standing,
}

/// What the checks of a pair say, as the engine counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// `falls` failures in a row.
    Up { falls: u32 },
    /// `rises` successes in a row.
    Down { rises: u32 },
}

impl Schedule {
    /// All that is random follows from `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            known: BTreeMap::new(),
            waiting: VecDeque::new(),
            running: BTreeSet::new(),
            random: Random(seed),
            waited: 0,
        }
    }

    /// Takes up what is to be checked from now on. Those that were known keep their rhythm, the first round of the others is spread.
    pub(super) fn follow(&mut self, now: Instant, wanted: &[(Pair, Rhythm)]) {
        let mut before = std::mem::take(&mut self.known);
        for (pair, rhythm) in wanted {
            let entry = match before.remove(pair) {
                Some(mut entry) => {
                    entry.rhythm = *rhythm;
                    // An interval that became shorter holds at once.
                    entry.due = entry.due.min(now + rhythm.interval);
                    entry
                }
                None => Entry::new(now, *rhythm, &mut self.random),
            };
            self.known.insert(pair.clone(), entry);
        }
        let known = &self.known;
        self.waiting.retain(|pair| known.contains_key(pair));
    }

    /// Those to begin now: their ends are to be told by [`Schedule::finished`].
    pub(super) fn begin(&mut self, now: Instant) -> Vec<Pair> {
        self.queue(now);
        let mut begun = Vec::new();
        while self.running.len() < AT_ONCE {
            let Some(pair) = self.waiting.pop_front() else { break };
            if let Some(entry) = self.known.get_mut(&pair) {
                entry.is_queued = false;
                entry.has_waited = false;
                entry.began = now;
            }
            self.running.insert(pair.clone());
            begun.push(pair);
        }
        self.count_waiting();
        begun
    }

    /// A check ended; `None`: it could not be made, which says nothing of the backend. Returns whether anybody still wants to know.
    pub(super) fn finished(&mut self, now: Instant, pair: &Pair, is_good: Option<bool>) -> bool {
        self.running.remove(pair);
        let Some(entry) = self.known.get_mut(pair) else { return false };
        if let Some(is_good) = is_good {
            entry.standing = entry.standing.after(is_good, entry.rhythm);
        }
        let pause = if is_good.is_some() && entry.standing.is_undecided() {
            entry.rhythm.fast()
        } else {
            entry.rhythm.interval
        };
        let jittered = jitter(pause, self.random.draw());
        let pause = if pause < entry.rhythm.interval { jittered.min(entry.rhythm.interval) } else { jittered };
        entry.due = (entry.began + pause).max(now);
        true
    }

    /// When the next check is due; `None`: nothing is to be checked, or nothing can begin before another check ends.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.running.len() >= AT_ONCE {
            return None;
        }
        let idle = self.known.iter().filter(|(pair, entry)| !entry.is_queued && !self.running.contains(pair));
        idle.map(|(_, entry)| entry.due).min()
    }

    /// Checks that were due and found no place, since the start.
    pub(super) fn waited(&self) -> u64 {
        self.waited
    }

    fn queue(&mut self, now: Instant) {
        let running = &self.running;
        let mut due: Vec<(Instant, &Pair)> = Vec::new();
        for (pair, entry) in &mut self.known {
            if entry.due <= now && !entry.is_queued && !running.contains(pair) {
                entry.is_queued = true;
                due.push((entry.due, pair));
            }
        }
        due.sort();
        self.waiting.extend(due.into_iter().map(|(_, pair)| pair.clone()));
    }

    fn count_waiting(&mut self) {
        for pair in &self.waiting {
            if let Some(entry) = self.known.get_mut(pair)
                && !entry.has_waited
            {
                entry.has_waited = true;
                self.waited += 1;
            }
        }
    }
}

impl Entry {
    fn new(now: Instant, rhythm: Rhythm, random: &mut Random) -> Self {
        let spread = rhythm.interval.min(FIRST_ROUND);
        let due = now + part(spread, random.draw());
        Self { rhythm, due, began: now, is_queued: false, has_waited: false, standing: Standing::Up { falls: 0 } }
    }
}

impl Rhythm {
    /// The pause while the verdict is open.
    fn fast(self) -> Duration {
        (self.interval / 10).max(FAST_LEAST).min(self.interval)
    }
}

impl Standing {
    fn after(self, is_good: bool, rhythm: Rhythm) -> Self {
        match (self, is_good) {
            (Self::Up { .. }, true) => Self::Up { falls: 0 },
            (Self::Up { falls }, false) if falls + 1 >= rhythm.fall => Self::Down { rises: 0 },
            (Self::Up { falls }, false) => Self::Up { falls: falls + 1 },
            (Self::Down { .. }, false) => Self::Down { rises: 0 },
            (Self::Down { rises }, true) if rises + 1 >= rhythm.rise => Self::Up { falls: 0 },
            (Self::Down { rises }, true) => Self::Down { rises: rises + 1 },
        }
    }

    /// The last check said another thing than the verdict.
    fn is_undecided(self) -> bool {
        !matches!(self, Self::Up { falls: 0 } | Self::Down { rises: 0 })
    }
}

/// From 0.95 to 1.05 times as long, so that units and guardians do not beat together.
fn jitter(pause: Duration, random: u64) -> Duration {
    let tenth = pause / 10;
    pause - tenth / 2 + part(tenth, random)
}

/// From nothing to the whole.
fn part(whole: Duration, random: u64) -> Duration {
    let micros = u64::try_from(whole.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(random % micros.max(1))
}

/// splitmix64 (Steele, Lea and Flood, OOPSLA 2014).
struct Random(u64);

impl Random {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

/// The first round comes within this time, or within the interval where that is shorter.
const FIRST_ROUND: Duration = Duration::from_secs(10);
const FAST_LEAST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_micros(1_000_000_000);

    fn pair(backend: u32) -> Pair {
        Pair { backend: BackendId(backend), guardian: Arc::from("call") }
    }

    fn rhythm(interval_s: u64, rise: u32, fall: u32) -> Rhythm {
        Rhythm { interval: Duration::from_secs(interval_s), rise, fall }
    }

    fn schedule(backends: u32, rhythm: Rhythm, seed: u64) -> Schedule {
        let mut schedule = Schedule::new(seed);
        let wanted: Vec<(Pair, Rhythm)> = (0..backends).map(|backend| (pair(backend), rhythm)).collect();
        schedule.follow(START, &wanted);
        schedule
    }

    /// Begins the only check when it is due.
    fn next(schedule: &mut Schedule) -> Instant {
        let due = schedule.next_due().expect("one is known and none under way");
        assert_eq!(schedule.begin(due), [pair(0)]);
        due
    }

    #[test]
    fn the_first_round_is_spread_over_ten_seconds_or_the_interval() {
        for (interval_s, spread_s) in [(60, 10), (10, 10), (4, 4)] {
            let mut schedule = schedule(50, rhythm(interval_s, 2, 3), interval_s);
            let first = schedule.next_due().expect("fifty are known");
            assert!(first < START + Duration::from_secs(1), "{interval_s} s");
            let early = schedule.begin(START + Duration::from_secs(spread_s) / 2).len();
            assert!((10..40).contains(&early), "{interval_s} s: {early} in the first half");
            let late = schedule.begin(START + Duration::from_secs(spread_s)).len();
            assert_eq!(early + late, 50, "{interval_s} s");
        }
    }

    #[test]
    fn good_checks_come_after_an_interval_with_a_tenth_of_jitter() {
        let mut schedule = schedule(1, rhythm(10, 2, 3), 7);
        let mut pauses: Vec<Duration> = Vec::new();
        let mut before = next(&mut schedule);
        for _ in 0..1_000 {
            schedule.finished(before + Duration::from_secs(2), &pair(0), Some(true));
            let now = next(&mut schedule);
            pauses.push(now.saturating_since(before));
            before = now;
        }
        let (least, most) = (pauses.iter().min().copied(), pauses.iter().max().copied());
        assert!(least >= Some(Duration::from_millis(9_500)) && least < Some(Duration::from_millis(9_550)), "{least:?}");
        assert!(most < Some(Duration::from_millis(10_500)) && most > Some(Duration::from_millis(10_450)), "{most:?}");
    }

    #[test]
    fn a_check_is_made_again_soon_while_its_verdict_is_open() {
        // Interval, then outcomes, then whether the pause after the last of them is short.
        for (outcomes, is_fast) in [
            ("g", false),
            ("b", true),
            ("bb", true),
            ("bbb", false),
            ("bbbb", false),
            ("bg", false),
            ("bbbg", true),
            ("bbbgg", false),
            ("bbbgb", false),
            ("bbb-", false),
            ("b-", false),
        ] {
            let mut schedule = schedule(1, rhythm(60, 2, 3), 3);
            let mut pause = Duration::ZERO;
            for outcome in outcomes.chars() {
                let began = next(&mut schedule);
                let is_good = match outcome {
                    'g' => Some(true),
                    'b' => Some(false),
                    _ => None,
                };
                schedule.finished(began, &pair(0), is_good);
                pause = schedule.next_due().expect("it is checked again").saturating_since(began);
            }
            let expected = if is_fast { 5_700..=6_300 } else { 57_000..=63_000 };
            assert!(expected.contains(&pause.as_millis()), "{outcomes}: {pause:?}");
        }
    }

    #[test]
    fn the_short_pause_is_a_second_at_least_and_an_interval_at_most() {
        for (interval_ms, fast_ms) in [(60_000, 6_000), (10_000, 1_000), (5_000, 1_000), (1_000, 1_000), (500, 500)] {
            let rhythm = Rhythm { interval: Duration::from_millis(interval_ms), rise: 2, fall: 3 };
            assert_eq!(rhythm.fast(), Duration::from_millis(fast_ms));
        }
    }

    #[test]
    fn a_check_that_takes_longer_than_its_pause_is_made_again_at_once_but_never_twice_at_a_time() {
        let mut schedule = schedule(1, rhythm(10, 2, 3), 1);
        let began = next(&mut schedule);
        assert_eq!(schedule.next_due(), None, "it is under way");
        assert!(schedule.begin(began + Duration::from_secs(60)).is_empty());
        schedule.finished(began + Duration::from_secs(60), &pair(0), Some(true));
        assert_eq!(schedule.next_due(), Some(began + Duration::from_secs(60)));
    }

    #[test]
    fn no_more_than_the_limit_are_under_way_and_the_others_keep_their_order() {
        for (backends, at_first, waited) in [(64, 64, 0), (65, 64, 1), (130, 64, 66)] {
            let mut schedule = schedule(backends, rhythm(10, 2, 3), 5);
            let mut order: Vec<(Instant, Pair)> =
                schedule.known.iter().map(|(pair, entry)| (entry.due, pair.clone())).collect();
            order.sort();
            let order: Vec<Pair> = order.into_iter().map(|(_, pair)| pair).collect();
            let late = START + Duration::from_secs(11);
            let mut begun = schedule.begin(late);
            assert_eq!((begun.len(), schedule.waited()), (at_first, waited));
            assert!(schedule.begin(late).is_empty() && schedule.waited() == waited, "each is counted once");
            while begun.len() < order.len() {
                let ended = begun[begun.len() - at_first].clone();
                schedule.finished(late, &ended, Some(true));
                begun.extend(schedule.begin(late));
            }
            assert_eq!(begun, order);
        }
    }

    #[test]
    fn those_that_stay_keep_their_rhythm() {
        let mut schedule = schedule(3, rhythm(10, 2, 3), 9);
        let due = |schedule: &Schedule, backend: u32| schedule.known.get(&pair(backend)).map(|entry| entry.due);
        let before = due(&schedule, 0);
        let wanted = [(pair(0), rhythm(20, 2, 3)), (pair(1), rhythm(1, 2, 3)), (pair(7), rhythm(10, 2, 3))];
        schedule.follow(START, &wanted);
        assert_eq!(due(&schedule, 0), before, "a longer interval holds from the next turn on");
        assert!(due(&schedule, 1) <= Some(START + Duration::from_secs(1)), "a shorter one at once");
        assert_eq!(due(&schedule, 2), None);
        assert!(due(&schedule, 7).is_some());
    }

    #[test]
    fn a_pair_that_left_and_came_back_is_not_checked_twice_at_a_time() {
        let mut schedule = schedule(1, rhythm(10, 2, 3), 9);
        let began = next(&mut schedule);
        schedule.follow(began, &[]);
        schedule.follow(began, &[(pair(0), rhythm(10, 2, 3))]);
        let later = began + Duration::from_secs(30);
        assert!(schedule.begin(later).is_empty());
        assert!(schedule.finished(later, &pair(0), Some(false)));
        let due = schedule.next_due().expect("it is known");
        assert_eq!(schedule.begin(due.max(later)), [pair(0)]);
        schedule.follow(later, &[]);
        assert!(!schedule.finished(later, &pair(0), Some(false)), "a reload removed it");
        assert_eq!(schedule.next_due(), None);
    }

    /// From the moment at which every check begins to fail, after its whole time, to the last of `fall` failures.
    fn detection(seed: u64, rhythm: Rhythm, timeout: Duration) -> Duration {
        let mut schedule = schedule(1, rhythm, seed);
        let mut random = Random(seed ^ 0x5555);
        let dies = START + FIRST_ROUND + part(rhythm.interval * 3, random.draw());
        let mut falls = 0;
        loop {
            let began = next(&mut schedule);
            let is_good = began < dies;
            let ended = if is_good { began } else { began + timeout };
            falls = if is_good { 0 } else { falls + 1 };
            if falls == rhythm.fall {
                return ended.saturating_since(dies);
            }
            schedule.finished(ended, &pair(0), Some(is_good));
        }
    }

    #[test]
    fn a_dead_box_is_found_in_time() {
        let timeouts = [Duration::from_millis(100), Duration::from_secs(2), Duration::from_secs(9)];
        for (interval_s, fall) in [(1, 1), (1, 3), (10, 1), (10, 2), (10, 3), (60, 3), (60, 10)] {
            let rhythm = rhythm(interval_s, 2, fall);
            for timeout in timeouts.iter().filter(|timeout| **timeout <= rhythm.interval) {
                let bound = rhythm.interval * fall * 11 / 10 + *timeout;
                for seed in 0..1_000 {
                    let took = detection(seed, rhythm, *timeout);
                    assert!(took <= bound, "seed {seed}, {rhythm:?}, {timeout:?}: {took:?} is more than {bound:?}");
                }
            }
        }
    }

    #[test]
    fn three_failures_of_a_usual_check_take_little_more_than_one_interval() {
        let most = (0..1_000).map(|seed| detection(seed, rhythm(10, 2, 3), Duration::from_secs(2))).max();
        assert!(most <= Some(Duration::from_secs(17)), "{most:?}");
    }
}
