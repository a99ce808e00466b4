//! Passive detection: what the answers to requests say of a backend, which nobody has to ask for that.
//!
//! Time-outs in a row and the kernel's reports are counted by the health of the backend. Here are the two kinds of evidence that
//! need more than one backend's last answers: most of its answers are failures, and its answers take far longer than those of the
//! others in its pool. Whatever the evidence, never more than half of a pool is set aside for it: where most boxes look bad it is
//! rarely the boxes, and half a pool under all of the load would fall over next. That the network reports an address unreachable
//! is no guess, and always counts.

use super::lock;
use crate::io::DownCause;
use sip::Instant;
use std::cmp::Reverse;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Why a backend is set aside without a check having failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Evidence {
    /// The kernel reported the address unreachable.
    Unreachable,
    /// Requests in a row timed out.
    TimedOut,
    /// So many of a hundred final answers were failures.
    Failing { per_cent: u8 },
    /// The typical time to the first answer, and the median of the pool.
    Slow { ms: u64, median_ms: u64 },
}

impl Evidence {
    pub(super) fn cause(self) -> DownCause {
        match self {
            Self::Unreachable => DownCause::Unreachable,
            Self::TimedOut => DownCause::TimedOut,
            Self::Failing { per_cent } => DownCause::Failing { per_cent },
            Self::Slow { ms, median_ms } => DownCause::Slow { ms, median_ms },
        }
    }

    /// Whoever fails or is slow still answers: calls under way go on there.
    pub(super) fn is_of_answers(self) -> bool {
        matches!(self, Self::Failing { .. } | Self::Slow { .. })
    }

    /// Does an answer after `elapsed` take the evidence back? Of a failure its status would have to tell.
    pub(super) fn is_refuted_by(self, elapsed: Duration) -> bool {
        matches!(self, Self::Slow { median_ms, .. } if elapsed <= slowest(Duration::from_millis(median_ms)))
    }
}

/// Does this final answer say that the server failed (RFC 3261 §21.5)? 6xx is what a user wants, and those left out here judge the
/// request: whoever sends such requests could take servers out.
pub(super) fn is_failure(code: u16) -> bool {
    (500..600).contains(&code) && !matches!(code, 501 | 505 | 513 | 555 | 580)
}

/// Final answers of the last ten seconds, and how many of them were failures. Counted without a lock.
#[derive(Debug, Default)]
pub(super) struct Finals {
    /// One for each second, used anew after ten: see [`Tally`].
    slots: [AtomicU64; SLOTS],
}

/// What a slot of [`Finals`] holds: 24 bits of the second that it is of, 20 bits of answers, 20 bits of failures.
#[derive(Clone, Copy, Debug)]
struct Tally {
    stamp: u64,
    answers: u64,
    failures: u64,
}

impl Finals {
    pub(super) fn count(&self, now: Instant, is_failure: bool) {
        let second = second_of(now);
        let slot = &self.slots[slot_of(second)];
        let mut packed = slot.load(Relaxed);
        loop {
            let next = Tally::unpack(packed).and_one(second, is_failure).pack();
            match slot.compare_exchange_weak(packed, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(current) => packed = current,
            }
        }
    }

    /// Answers and failures. Of what came before `since`, and in the rest of its second, nothing counts.
    pub(super) fn sum(&self, now: Instant, since: Option<Instant>) -> (u64, u64) {
        let mut sum = (0, 0);
        for second in window(now, since) {
            let tally = Tally::unpack(self.slots[slot_of(second)].load(Relaxed));
            if tally.stamp == second & STAMP {
                sum.0 += tally.answers;
                sum.1 += tally.failures;
            }
        }
        sum
    }
}

impl Tally {
    fn unpack(packed: u64) -> Self {
        Self { stamp: packed >> 40, answers: (packed >> 20) & MOST, failures: packed & MOST }
    }

    fn pack(self) -> u64 {
        (self.stamp << 40) | (self.answers << 20) | self.failures
    }

    fn and_one(self, second: u64, is_failure: bool) -> Self {
        let stamp = second & STAMP;
        let before = if self.stamp == stamp { self } else { Self { stamp, answers: 0, failures: 0 } };
        if before.answers == MOST {
            return before;
        }
        Self { stamp, answers: before.answers + 1, failures: before.failures + u64::from(is_failure) }
    }
}

/// The times to the first answers of the last ten seconds, as logarithms: their mean is hardly moved by a single answer that took
/// long, as that of a phone that somebody had to find first.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    slots: [Second; SLOTS],
}

/// Those of one second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    second: u64,
    answers: u64,
    /// The sum of the binary logarithms of the microseconds.
    logarithms: f64,
}

impl Times {
    pub(super) fn add(&mut self, now: Instant, elapsed: Duration) {
        let second = second_of(now);
        let slot = &mut self.slots[slot_of(second)];
        if slot.second != second {
            *slot = Second { second, ..Second::default() };
        }
        slot.answers += 1;
        slot.logarithms += (elapsed.as_micros() as f64).max(1.0).log2();
    }

    /// How many there were, and the typical one: the geometric mean. As in [`Finals::sum`] what came before `since` does not count.
    pub(super) fn typical(&self, now: Instant, since: Option<Instant>) -> (u64, Duration) {
        let (mut answers, mut logarithms) = (0_u64, 0.0);
        for second in window(now, since) {
            let slot = &self.slots[slot_of(second)];
            if slot.second == second {
                answers += slot.answers;
                logarithms += slot.logarithms;
            }
        }
        if answers == 0 {
            return (0, Duration::ZERO);
        }
        (answers, Duration::from_micros((logarithms / answers as f64).exp2().round() as u64))
    }
}

/// What the last ten seconds say of one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Reading {
    /// Final answers, and how many of them were failures.
    pub(super) finals: u64,
    pub(super) failures: u64,
    /// First answers, and the typical time to one.
    pub(super) answers: u64,
    pub(super) typical: Duration,
}

/// Who of a pool is to be set aside, and why; the worst first, because there may be no room for all. `None`: not in use, and
/// neither judged nor compared with.
pub(super) fn outliers(readings: &[Option<Reading>]) -> Vec<(usize, Evidence)> {
    let read = || readings.iter().enumerate().filter_map(|(member, reading)| Some((member, (*reading)?)));
    let mut failing: Vec<(usize, u8)> =
        read().filter_map(|(member, reading)| Some((member, failing(reading)?))).collect();
    failing.sort_by_key(|&(_, per_cent)| Reverse(per_cent));
    let mut times: Vec<(usize, Duration)> = read()
        .filter(|(_, reading)| reading.answers >= LEAST_ANSWERS)
        .map(|(member, reading)| (member, reading.typical))
        .collect();
    times.sort_by_key(|&(_, typical)| Reverse(typical));
    let slow = if times.len() < LEAST_COMPARED { Vec::new() } else { slow(&times) };
    let failing = failing.into_iter().map(|(member, per_cent)| (member, Evidence::Failing { per_cent }));
    failing.chain(slow).collect()
}

/// Per cent of its answers, if most of them are failures.
fn failing(reading: Reading) -> Option<u8> {
    let Reading { finals, failures, .. } = reading;
    let is_failing = finals >= LEAST_ANSWERS && failures * 2 > finals;
    // There are no more failures than answers.
    is_failing.then(|| u8::try_from(failures * 100 / finals).unwrap_or(100))
}

/// `times` are the slowest first. Of an even number the faster one in the middle is the median, so that half a pool that hangs is
/// no measure for itself.
fn slow(times: &[(usize, Duration)]) -> Vec<(usize, Evidence)> {
    let Some(&(_, median)) = times.get(times.len() / 2) else {
        return Vec::new();
    };
    let bound = slowest(median);
    let beyond = times.iter().filter(|(_, typical)| *typical > bound);
    beyond
        .map(|&(member, typical)| (member, Evidence::Slow { ms: millis(typical), median_ms: millis(median) }))
        .collect()
}

/// The longest typical time that is none out of line.
fn slowest(median: Duration) -> Duration {
    (median * SLOW_FACTOR).max(SLOW_LEAST)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How many members of a pool are in use, and how many are set aside.
#[derive(Debug)]
pub(super) struct Quorum {
    parts: Mutex<Vec<Part>>,
}

/// What a member is to its pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Serving,
    /// Set aside by passive evidence.
    Aside,
    /// In maintenance, or down by its checks.
    Out,
}

impl Quorum {
    pub(super) fn new(members: usize) -> Self {
        Self { parts: Mutex::new(vec![Part::Serving; members]) }
    }

    pub(super) fn set(&self, member: usize, part: Part) {
        if let Some(known) = lock(&self.parts).get_mut(member) {
            *known = part;
        }
    }

    /// More than half of those that are not out are aside: others went out since.
    pub(super) fn is_overdrawn(&self) -> bool {
        let (aside, most) = aside_of(&lock(&self.parts));
        aside > most
    }

    /// Sets a serving member aside, if no more than half of those that are not out are aside then.
    pub(super) fn claim(&self, member: usize) -> bool {
        let mut parts = lock(&self.parts);
        let (aside, most) = aside_of(&parts);
        let has_room = aside < most;
        if has_room && let Some(part) = parts.get_mut(member) {
            *part = Part::Aside;
        }
        has_room
    }
}

/// How many are aside, and how many may be: half of those that are not out.
fn aside_of(parts: &[Part]) -> (usize, usize) {
    let of_part = |wanted: Part| parts.iter().filter(|part| **part == wanted).count();
    let (serving, aside) = (of_part(Part::Serving), of_part(Part::Aside));
    (aside, (serving + aside) / 2)
}

fn second_of(now: Instant) -> u64 {
    now.as_micros() / 1_000_000
}

fn slot_of(second: u64) -> usize {
    (second % SLOTS as u64) as usize
}

/// The seconds that count: this one and the nine before it, as far as they began after `since`.
fn window(now: Instant, since: Option<Instant>) -> RangeInclusive<u64> {
    let second = second_of(now);
    let first = (second + 1).saturating_sub(SLOTS as u64);
    first.max(since.map_or(0, |since| second_of(since) + 1))..=second
}

/// Seconds that the answers are looked at for.
const SLOTS: usize = 10;
const STAMP: u64 = 0xff_ffff;
const MOST: u64 = 0xf_ffff;
/// Fewer answers than these in ten seconds prove nothing.
const LEAST_ANSWERS: u64 = 20;
/// Of fewer backends none can be said to be out of line.
const LEAST_COMPARED: usize = 3;
/// Slow is who takes longer than four times the median, and longer than a user would notice.
const SLOW_FACTOR: u32 = 4;
const SLOW_LEAST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::world::at;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_pool_is_overdrawn_when_others_went_out_since() {
        for (parts, overdrawn) in [
            (&[Part::Serving, Part::Aside][..], false),
            (&[Part::Out, Part::Aside], true),
            (&[Part::Serving, Part::Aside, Part::Aside], true),
            (&[Part::Serving, Part::Serving, Part::Aside, Part::Aside], false),
            (&[Part::Out, Part::Out], false),
        ] {
            let quorum = Quorum::new(parts.len());
            for (member, part) in parts.iter().enumerate() {
                quorum.set(member, *part);
            }
            assert_eq!(quorum.is_overdrawn(), overdrawn, "{parts:?}");
        }
    }

    #[test]
    fn what_judges_the_request_is_no_failure_of_the_server() {
        let failures: Vec<u16> = (100..700).filter(|code| is_failure(*code)).collect();
        assert_eq!(failures.len(), 95);
        assert!([500, 502, 503, 504, 599].iter().all(|code| failures.contains(code)));
        assert!([408, 486, 501, 505, 513, 555, 580, 600, 603].iter().all(|code| !failures.contains(code)));
    }

    #[test]
    fn the_window_slides_by_seconds() {
        let finals = Finals::default();
        let mut times = Times::default();
        for second in 0..15 {
            finals.count(at(second * 1_000), second % 2 == 1);
            times.add(at(second * 1_000 + 999), ms(10));
        }
        for (now_ms, since_ms, expected) in [
            (14_000, None, (10, 5)),
            (14_999, None, (10, 5)),
            (15_000, None, (9, 4)),
            (23_999, None, (1, 0)),
            (24_000, None, (0, 0)),
            (14_000, Some(4_999), (10, 5)),
            (14_000, Some(5_000), (9, 4)),
            (14_000, Some(13_000), (1, 0)),
            (14_000, Some(14_000), (0, 0)),
            (14_000, Some(20_000), (0, 0)),
        ] {
            assert_eq!(finals.sum(at(now_ms), since_ms.map(at)), expected, "at {now_ms}, since {since_ms:?}");
            assert_eq!(times.typical(at(now_ms), since_ms.map(at)).0, expected.0, "at {now_ms}, since {since_ms:?}");
        }
    }

    #[test]
    fn a_full_slot_keeps_its_neighbours_whole() {
        let finals = Finals::default();
        let full = Tally { stamp: 3, answers: MOST - 1, failures: MOST - 1 };
        finals.slots[3].store(full.pack(), Relaxed);
        for _ in 0..3 {
            finals.count(at(3_500), true);
        }
        assert_eq!(finals.sum(at(3_500), None), (MOST, MOST));
        // The same slot ten seconds later, and one whose stamp has no more than its 24 bits.
        finals.count(at(13_000), false);
        assert_eq!(finals.sum(at(13_000), None), (1, 0));
        let late = Instant::from_micros((STAMP + 4) * 1_000_000);
        finals.count(late, true);
        assert_eq!(finals.sum(late, None), (1, 1));
    }

    #[test]
    fn threads_lose_no_answer() {
        let finals = Finals::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).for_each(|number| finals.count(at(5_000), number % 4 == 0)));
            }
        });
        assert_eq!(finals.sum(at(5_000), None), (4_000, 1_000));
    }

    #[test]
    fn one_answer_that_took_long_is_not_typical() {
        let mut times = Times::default();
        assert_eq!(times.typical(at(0), None), (0, Duration::ZERO));
        for _ in 0..19 {
            times.add(at(1_000), ms(10));
        }
        times.add(at(2_000), ms(10_000));
        let (answers, typical) = times.typical(at(2_000), None);
        assert_eq!(answers, 20);
        assert!((ms(14)..ms(15)).contains(&typical), "10 ms times the twentieth root of a thousand: {typical:?}");
    }

    #[test]
    fn failing_is_who_fails_more_than_half_of_twenty_answers() {
        for (finals, failures, per_cent) in [
            (19, 19, None),
            (20, 10, None),
            (20, 11, Some(55)),
            (20, 20, Some(100)),
            (1_000, 500, None),
            (1_000, 501, Some(50)),
        ] {
            let reading = Reading { finals, failures, ..Reading::default() };
            let expected: Vec<(usize, Evidence)> =
                per_cent.map(|per_cent| (1, Evidence::Failing { per_cent })).into_iter().collect();
            assert_eq!(outliers(&[None, Some(reading)]), expected, "{failures} of {finals}");
        }
    }

    #[test]
    fn slow_is_who_is_far_behind_the_median_of_three_or_more() {
        let slow = |ms: u64, median_ms: u64| Evidence::Slow { ms, median_ms };
        type Row<'a> = (&'a [u64], Vec<(usize, Evidence)>);
        let table: [Row<'_>; 9] = [
            (&[10, 10, 500], vec![]),
            (&[10, 10, 501], vec![(2, slow(501, 10))]),
            (&[10, 501], vec![]),
            (&[200, 200, 800], vec![]),
            (&[801, 200, 200], vec![(0, slow(801, 200))]),
            (&[10, 10, 600, 600], vec![(2, slow(600, 10)), (3, slow(600, 10))]),
            (&[10, 600, 600], vec![]),
            (&[700, 10, 900, 10, 10], vec![(2, slow(900, 10)), (0, slow(700, 10))]),
            (&[], vec![]),
        ];
        for (typical, expected) in table {
            let readings: Vec<Option<Reading>> = typical
                .iter()
                .map(|&typical| Some(Reading { answers: 20, typical: ms(typical), ..Reading::default() }))
                .collect();
            assert_eq!(outliers(&readings), expected, "{typical:?}");
        }
        // Nineteen answers are too few, and who is not in use is no measure.
        let few = Some(Reading { answers: 19, typical: ms(9_000), ..Reading::default() });
        let fast = Some(Reading { answers: 20, typical: ms(10), ..Reading::default() });
        let hangs = Some(Reading { answers: 20, typical: ms(9_000), ..Reading::default() });
        assert!(outliers(&[few, fast, fast, fast]).is_empty());
        assert_eq!(outliers(&[None, fast, fast, hangs]), [(3, slow(9_000, 10))]);
        assert!(outliers(&[None, fast, None, hangs]).is_empty());
    }

    #[test]
    fn who_fails_comes_before_who_is_slow() {
        let fast = Reading { finals: 20, failures: 0, answers: 20, typical: ms(10) };
        let slow = Reading { typical: ms(600), ..fast };
        let readings = [slow, fast, Reading { failures: 12, ..fast }, fast, Reading { failures: 19, ..fast }].map(Some);
        let found: Vec<usize> = outliers(&readings).into_iter().map(|(member, _)| member).collect();
        assert_eq!(found, [4, 2, 0]);
    }

    #[test]
    fn never_more_than_half_of_a_pool_goes() {
        for (members, most) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2), (6, 3)] {
            let quorum = Quorum::new(members);
            let gone = (0..members).filter(|&member| quorum.claim(member)).count();
            assert_eq!(gone, most, "of {members}");
        }
    }

    #[test]
    fn who_is_out_makes_the_pool_smaller() {
        let quorum = Quorum::new(4);
        quorum.set(3, Part::Out);
        assert!(quorum.claim(0));
        assert!(!quorum.claim(1), "one of three");
        quorum.set(3, Part::Serving);
        assert!(quorum.claim(1), "two of four");
        quorum.set(0, Part::Serving);
        assert!(quorum.claim(2), "room again");
        // The kernel's word needs no room, but takes it.
        quorum.set(0, Part::Aside);
        quorum.set(1, Part::Serving);
        assert!(!quorum.claim(1));
        quorum.set(9, Part::Out);
    }

    #[test]
    fn a_quick_answer_refutes_slowness_alone() {
        let slow = Evidence::Slow { ms: 900, median_ms: 200 };
        assert_eq!([800, 801].map(|elapsed| slow.is_refuted_by(ms(elapsed))), [true, false]);
        for other in [Evidence::TimedOut, Evidence::Unreachable, Evidence::Failing { per_cent: 90 }] {
            assert!(!other.is_refuted_by(ms(1)), "{other:?}");
        }
        assert_eq!([499, 500, 503, 599, 600].map(is_failure), [false, true, true, true, false]);
    }
}
