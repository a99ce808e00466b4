//! What is known of one target, and when it is asked for again. Time is an argument.

use super::NameStatus;
use super::memory::{BELIEVED, Memory};
use engine::{Found, Target};
use std::time::{Duration, Instant};

/// One target that is followed.
#[derive(Debug)]
pub(crate) struct Entry {
    /// What it is known to mean; none as long as nobody could say.
    places: Option<Vec<Found>>,
    /// When that was last confirmed.
    confirmed: Option<Instant>,
    pub(crate) memory: Memory,
    /// When to ask.
    due: Instant,
    /// The run that is under way.
    asking: Option<u64>,
    /// What went wrong, if something did the last time.
    failure: Option<String>,
    failures_in_a_row: u32,
    nothing_in_a_row: u32,
    answers: u64,
    failures: u64,
}

/// What one run through the steps of a target came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// Best first.
    pub(crate) places: Vec<Found>,
    /// For how long the records hold; none without records.
    pub(crate) ttl: Option<Duration>,
    /// What went wrong, though there may be places.
    pub(crate) failure: Option<String>,
    pub(crate) basis: Basis,
}

/// What the places of a run were concluded from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Basis {
    /// What was said now.
    New,
    /// Partly what was said before, because a service is suddenly gone.
    Gone,
    /// Partly what was said before, because nobody answers.
    Old,
}

/// How often is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pace {
    /// Bounds of what a record's time to live counts for.
    pub(crate) shortest: Duration,
    pub(crate) longest: Duration,
    /// Until a name that leads nowhere is asked for again.
    pub(crate) nothing: Duration,
    /// After the first failure; doubled with each further one.
    pub(crate) retry: Duration,
    pub(crate) retry_longest: Duration,
    /// How long one name server may take.
    pub(crate) timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            shortest: Duration::from_secs(5),
            longest: Duration::from_secs(3_600),
            nothing: Duration::from_secs(30),
            retry: Duration::from_secs(5),
            retry_longest: Duration::from_secs(60),
            timeout: Duration::from_secs(2),
        }
    }
}

impl Pace {
    fn until_retry(&self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.retry.saturating_mul(doubled).min(self.retry_longest)
    }
}

impl Run {
    /// A run that came to nothing.
    pub(crate) fn failed(text: &str) -> Self {
        Self { places: Vec::new(), ttl: None, failure: Some(text.to_owned()), basis: Basis::New }
    }
}

impl Entry {
    /// To be asked for at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            places: None,
            confirmed: None,
            memory: Memory::default(),
            due: now,
            asking: None,
            failure: None,
            failures_in_a_row: 0,
            nothing_in_a_row: 0,
            answers: 0,
            failures: 0,
        }
    }

    /// Was answered or failed at least once.
    pub(crate) fn is_settled(&self) -> bool {
        self.answers + self.failures > 0
    }

    pub(crate) fn places(&self) -> Option<&[Found]> {
        self.places.as_deref()
    }

    /// When to ask; none while it is being asked.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.asking.is_none().then_some(self.due)
    }

    pub(crate) fn begin(&mut self, run: u64) {
        self.asking = Some(run);
    }

    pub(crate) fn is_asking(&self, run: u64) -> bool {
        self.asking == Some(run)
    }

    /// To be asked anew, whatever is under way.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.asking = None;
        self.due = now;
        self.failures_in_a_row = 0;
    }

    /// Takes what a run came to. True: the places have changed.
    pub(crate) fn take(&mut self, run: Run, now: Instant, pace: &Pace) -> bool {
        self.asking = None;
        if run.places.is_empty() && run.failure.is_none() {
            return self.take_nothing(now, pace);
        }
        let is_failure = run.places.is_empty() || run.basis == Basis::Old;
        self.failures_in_a_row = if is_failure { self.failures_in_a_row.saturating_add(1) } else { 0 };
        if is_failure {
            self.failures += 1;
        } else {
            self.answers += 1;
        }
        self.due = now + self.pause(&run, is_failure, pace);
        self.failure = run.failure;
        if run.places.is_empty() {
            return false;
        }
        self.nothing_in_a_row = 0;
        if run.basis == Basis::New {
            self.confirmed = Some(now);
        }
        let places = Some(run.places);
        let changed = self.places != places;
        self.places = places;
        changed
    }

    fn pause(&self, run: &Run, is_failure: bool, pace: &Pace) -> Duration {
        if is_failure {
            return pace.until_retry(self.failures_in_a_row);
        }
        if run.basis == Basis::Gone {
            return pace.nothing;
        }
        let held = run.ttl.unwrap_or(pace.longest).clamp(pace.shortest, pace.longest);
        // What could not be asked this time may be had soon.
        if run.failure.is_some() { held.min(pace.retry_longest) } else { held }
    }

    /// The name leads nowhere. What it meant before stays until that was said several times.
    fn take_nothing(&mut self, now: Instant, pace: &Pace) -> bool {
        self.answers += 1;
        self.failures_in_a_row = 0;
        self.nothing_in_a_row = self.nothing_in_a_row.saturating_add(1);
        self.due = now + pace.nothing;
        let had_places = self.places.as_ref().is_some_and(|places| !places.is_empty());
        if had_places && self.nothing_in_a_row < BELIEVED {
            self.failure = Some("the name leads nowhere any more".to_owned());
            return false;
        }
        self.failure = None;
        self.confirmed = Some(now);
        let changed = self.places.as_ref().is_none_or(|places| !places.is_empty());
        self.places = Some(Vec::new());
        changed
    }

    pub(crate) fn status(&self, target: &Target, now: Instant) -> NameStatus {
        let places = self.places.iter().flatten();
        NameStatus {
            name: target.to_string(),
            places: places.map(|found| format!("{}:{}", found.place.transport.name(), found.place.address)).collect(),
            age: self.confirmed.map(|confirmed| now.saturating_duration_since(confirmed)),
            again: self.due().map_or(Duration::ZERO, |due| due.saturating_duration_since(now)),
            failure: self.failure.clone(),
            answers: self.answers,
            failures: self.failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::{Place, Transport};
    use std::net::{Ipv4Addr, SocketAddr};

    fn found(last: u8) -> Found {
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), 5060));
        Found { place: Place { transport: Transport::Udp, address, host: None }, priority: 0, weight: 0 }
    }

    fn good(last: u8, ttl: u64) -> Run {
        Run { places: vec![found(last)], ttl: Some(seconds(ttl)), failure: None, basis: Basis::New }
    }

    fn nothing() -> Run {
        Run { places: Vec::new(), ttl: None, failure: None, basis: Basis::New }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Takes a run and says in how many seconds it is asked again.
    fn take(entry: &mut Entry, run: Run, now: Instant) -> (bool, u64) {
        let changed = entry.take(run, now, &Pace::default());
        (changed, (entry.due().expect("no run is under way") - now).as_secs())
    }

    #[test]
    fn a_time_to_live_is_honoured_within_bounds() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        assert_eq!(entry.due(), Some(now));
        assert!(!entry.is_settled());
        for (ttl, again) in
            [(0, 5), (4, 5), (5, 5), (6, 6), (300, 300), (3_600, 3_600), (3_601, 3_600), (1 << 31, 3_600)]
        {
            assert_eq!(take(&mut entry, good(1, ttl), now).1, again, "{ttl}");
        }
        assert!(entry.is_settled());
    }

    #[test]
    fn only_other_places_are_a_change() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        assert!(take(&mut entry, good(1, 60), now).0);
        assert!(!take(&mut entry, good(1, 70), now).0);
        assert!(take(&mut entry, good(2, 60), now).0);
        assert_eq!(entry.places(), Some(&[found(2)][..]));
    }

    #[test]
    fn after_failures_the_pauses_grow_and_the_last_good_answer_stays() {
        let (now, target) = (Instant::now(), Target { host: "pbx".to_owned(), port: None, transport: None });
        let mut entry = Entry::new(now);
        assert_eq!(take(&mut entry, Run::failed("no answer"), now), (false, 5));
        assert!(entry.is_settled());
        assert_eq!(entry.places(), None);
        assert_eq!(entry.status(&target, now).age, None);
        take(&mut entry, good(1, 60), now);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let (changed, pause) = take(&mut entry, Run::failed("no answer"), now + seconds(100));
            assert!(!changed);
            pauses.push(pause);
        }
        assert_eq!(pauses[..6], [5, 10, 20, 40, 60, 60]);
        assert!(pauses[6..].iter().all(|pause| *pause == 60));
        let status = entry.status(&target, now + seconds(100));
        assert_eq!(status.places, ["udp:192.0.2.1:5060"]);
        assert_eq!((status.age, status.again), (Some(seconds(100)), seconds(60)));
        assert_eq!((status.failure.as_deref(), status.answers, status.failures), (Some("no answer"), 1, 41));
        take(&mut entry, good(1, 60), now);
        assert_eq!(take(&mut entry, Run::failed("no answer"), now).1, 5);
    }

    #[test]
    fn places_from_old_answers_are_used_without_being_confirmed() {
        let (now, target) = (Instant::now(), Target { host: "pbx".to_owned(), port: None, transport: None });
        let mut entry = Entry::new(now);
        take(&mut entry, good(1, 60), now);
        let later = now + seconds(60);
        let old = Run { failure: Some("no answer".to_owned()), basis: Basis::Old, ..good(1, 60) };
        assert_eq!(take(&mut entry, old.clone(), later), (false, 5));
        assert_eq!(take(&mut entry, old, later), (false, 10));
        let gone = Run { failure: Some("gone".to_owned()), basis: Basis::Gone, ..good(2, 60) };
        assert_eq!(take(&mut entry, gone, later), (true, 30));
        assert_eq!(entry.status(&target, later).age, Some(seconds(60)));
        // A question without an answer beside those that have one.
        let partial = Run { failure: Some("no answer".to_owned()), ..good(2, 600) };
        assert_eq!(take(&mut entry, partial, later), (false, 60));
        assert_eq!(entry.status(&target, later).age, Some(seconds(0)));
    }

    #[test]
    fn a_name_leads_nowhere_when_that_was_said_three_times_in_a_row() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        take(&mut entry, good(1, 60), now);
        for _ in 0..2 {
            for _ in 0..2 {
                assert_eq!(take(&mut entry, nothing(), now), (false, 30));
                assert_eq!(entry.places().map(<[Found]>::len), Some(1));
            }
            // A failure between them says nothing either way; a good answer begins anew.
            take(&mut entry, Run::failed("no answer"), now);
            take(&mut entry, good(1, 60), now);
        }
        take(&mut entry, nothing(), now);
        take(&mut entry, nothing(), now);
        assert_eq!(take(&mut entry, nothing(), now), (true, 30));
        assert_eq!(entry.places(), Some(&[][..]));
        assert_eq!(take(&mut entry, nothing(), now), (false, 30));
    }

    #[test]
    fn a_name_that_never_led_anywhere_is_known_at_once() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        assert_eq!(take(&mut entry, nothing(), now), (true, 30));
        assert_eq!(entry.places(), Some(&[][..]));
        assert!(take(&mut entry, good(1, 60), now).0);
    }

    #[test]
    fn a_run_that_was_overtaken_is_known_as_such() {
        let now = Instant::now();
        let mut entry = Entry::new(now);
        entry.begin(7);
        assert!(entry.is_asking(7) && !entry.is_asking(6));
        assert_eq!(entry.due(), None);
        entry.restart(now + seconds(1));
        assert!(!entry.is_asking(7));
        assert_eq!(entry.due(), Some(now + seconds(1)));
    }
}
