//! Names of backends, trunks and domains: what they mean by the DNS (RFC 3263), kept fresh in the background.
//!
//! - `rules`: the steps of RFC 3263, pure;
//! - `memory` and `entry`: what stays known while nobody answers, and when to ask again, pure;
//! - `resolver`: single questions to name servers.
//!
//! One thread asks, with a small runtime of its own; neither workers nor calls ever wait for it.

mod entry;
mod memory;
mod resolver;
mod rules;

use crate::socket::NetError;
use engine::{Answers, Target};
use entry::{Basis, Entry, Pace, Run};
use memory::{Doubt, Memory};
use resolver::{Servers, Source};
use rules::{Answer, Meaning, Question, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::runtime;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time;

/// The names that are followed, and the thread that asks for them; it ends when this is dropped.
pub struct Names {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What is known of one name, for `status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameStatus {
    /// As it would be written in the file.
    pub name: String,
    /// `transport:address:port`, best first. Empty while nobody could say, and where the name leads nowhere.
    pub places: Vec<String>,
    /// Since the places were last confirmed; none if they never were.
    pub age: Option<Duration>,
    /// Until the name is asked for again; zero while it is being asked for.
    pub again: Duration,
    /// What went wrong the last time, if something did; the places may be good all the same.
    pub failure: Option<String>,
    /// How often the name was answered and how often it failed since it is followed.
    pub answers: u64,
    pub failures: u64,
}

impl Names {
    /// `servers`: asked in this order; if there are none, those of the system. `changed` is called in the thread of names
    /// whenever the answers have changed; as long as it takes, nothing is asked.
    pub fn start(servers: &[SocketAddr], changed: impl Fn() + Send + 'static) -> Result<Self, NetError> {
        Self::with_pace(servers, Pace::default(), changed)
    }

    fn with_pace(servers: &[SocketAddr], pace: Pace, changed: impl Fn() + Send + 'static) -> Result<Self, NetError> {
        let runtime =
            runtime::Builder::new_current_thread().enable_all().build().map_err(|error| NetError::Poll { error })?;
        let state = State { servers: servers.to_vec(), ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), settled: Condvar::new(), wake: Notify::new(), pace });
        let served = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("names".to_owned())
            .spawn(move || runtime.block_on(serve(&served, &changed)))
            .map_err(|error| NetError::Thread { error })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// These targets are to be known from now on; others are forgotten. Returns at once; new ones are asked for at once.
    pub fn follow(&self, targets: Vec<Target>) {
        let now = Instant::now();
        let wanted: BTreeSet<Target> = targets.into_iter().collect();
        let mut state = self.shared.state();
        state.entries.retain(|target, _| wanted.contains(target));
        for target in wanted {
            state.entries.entry(target).or_insert_with(|| Entry::new(now));
        }
        drop(state);
        self.shared.settled.notify_all();
        self.shared.wake.notify_one();
    }

    /// Other name servers. Everything is asked anew, and what is known stays until then. The system's files are read again too.
    pub fn set_servers(&self, servers: &[SocketAddr]) {
        let now = Instant::now();
        let mut state = self.shared.state();
        state.servers = servers.to_vec();
        state.servers_read = false;
        for entry in state.entries.values_mut() {
            entry.restart(now);
        }
        drop(state);
        self.shared.wake.notify_one();
    }

    /// Waits until each target was answered or failed once, at most so long. True: they all were.
    pub fn settle(&self, at_most: Duration) -> bool {
        let waiting = |state: &mut State| !state.is_settled();
        let (state, _timed_out) = self
            .shared
            .settled
            .wait_timeout_while(self.shared.state(), at_most, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.is_settled()
    }

    /// What is known at this moment.
    pub fn answers(&self) -> Answers {
        let state = self.shared.state();
        let known = state.entries.iter().filter_map(|(target, entry)| Some((target.clone(), entry.places()?.to_vec())));
        Answers(known.collect())
    }

    /// Each name that is followed, in order.
    pub fn status(&self) -> Vec<NameStatus> {
        let now = Instant::now();
        self.shared.state().entries.iter().map(|(target, entry)| entry.status(target, now)).collect()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_one();
        // Whoever drops it within `changed` is in the thread itself, which then ends by itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            // A panic in `changed` has been reported by the thread.
            let _ended = thread.join();
        }
    }
}

/// At most so many names are asked for at once.
const AT_ONCE: usize = 16;

/// A run through all steps of a name takes at most so long.
const RUN_AT_MOST: Duration = Duration::from_secs(30);

struct Shared {
    state: Mutex<State>,
    /// Notified when a target was answered or failed.
    settled: Condvar,
    /// Wakes the thread.
    wake: Notify,
    pace: Pace,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<Target, Entry>,
    /// As configured; none: the system's.
    servers: Vec<SocketAddr>,
    /// The thread uses these servers. False: it has to take them up first, and to read the system's files.
    servers_read: bool,
    /// Places have changed and nobody was told yet.
    changed: bool,
    stop: bool,
    /// Runs are numbered, so that one that was overtaken is known.
    runs: u64,
}

/// What the thread has to do.
struct Turn {
    /// Servers to be used from now on.
    servers: Option<Vec<SocketAddr>>,
    changed: bool,
    begin: Vec<(Target, Memory, u64)>,
    /// When something is due again, if nothing happens before.
    next: Option<Instant>,
}

impl State {
    fn is_settled(&self) -> bool {
        self.entries.values().all(Entry::is_settled)
    }

    /// What is to be done at `now`; none: to end.
    fn turn(&mut self, now: Instant) -> Option<Turn> {
        if self.stop {
            return None;
        }
        let servers = (!self.servers_read).then(|| self.servers.clone());
        self.servers_read = true;
        let changed = std::mem::take(&mut self.changed);
        let mut free = AT_ONCE.saturating_sub(self.entries.values().filter(|entry| entry.due().is_none()).count());
        let mut turn = Turn { servers, changed, begin: Vec::new(), next: None };
        for (target, entry) in &mut self.entries {
            let Some(due) = entry.due() else { continue };
            if due > now {
                turn.next = Some(turn.next.map_or(due, |next| next.min(due)));
            } else if free > 0 {
                // The others follow when a run has ended.
                free -= 1;
                self.runs += 1;
                entry.begin(self.runs);
                turn.begin.push((target.clone(), entry.memory.clone(), self.runs));
            }
        }
        Some(turn)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts down what a run came to.
    fn end(&self, target: &Target, number: u64, memory: Memory, run: Run, now: Instant) {
        let mut state = self.state();
        // The system's servers may be others by now: at the start of a machine its network may come later than we do.
        if run.failure.is_some() {
            state.servers_read = false;
        }
        if let Some(entry) = state.entries.get_mut(target)
            && entry.is_asking(number)
        {
            entry.memory = memory;
            let changed = entry.take(run, now, &self.pace);
            state.changed |= changed;
        }
        drop(state);
        self.settled.notify_all();
        self.wake.notify_one();
    }
}

/// The thread: begins what is due and tells what has changed, until it is stopped. What is under way ends with the runtime.
async fn serve(shared: &Arc<Shared>, changed: &impl Fn()) {
    let mut servers: Option<Arc<Servers>> = None;
    loop {
        let Some(turn) = shared.state().turn(Instant::now()) else {
            return;
        };
        if let Some(configured) = turn.servers {
            let source = Source::new(&configured);
            // The same servers stay, with what is known of them.
            if servers.as_ref().is_none_or(|known| *known.source() != source) {
                servers = Some(Arc::new(Servers::new(source, shared.pace.timeout)));
            }
        }
        if let Some(servers) = &servers {
            for (target, memory, number) in turn.begin {
                tokio::spawn(ask(Arc::clone(shared), Arc::clone(servers), target, memory, number));
            }
        }
        if turn.changed {
            changed();
        }
        match turn.next {
            // Woken or not, the next turn sees what is due.
            Some(next) => {
                let _elapsed = time::timeout_at(next.into(), shared.wake.notified()).await;
            }
            None => shared.wake.notified().await,
        }
    }
}

async fn ask(shared: Arc<Shared>, servers: Arc<Servers>, target: Target, mut memory: Memory, number: u64) {
    let run = match time::timeout(RUN_AT_MOST, find(&servers, &target, &mut memory)).await {
        Ok(run) => run,
        Err(_elapsed) => Run::failed("the name servers take too long"),
    };
    shared.end(&target, number, memory, run, Instant::now());
}

/// Goes through the steps for the name, and for the names it may stand for.
async fn find(servers: &Arc<Servers>, target: &Target, memory: &mut Memory) -> Run {
    let mut weighed = Weighed { answers: BTreeMap::new(), basis: Basis::New, failure: None };
    let mut meaning = Meaning::default();
    for host in servers.candidates(&target.host) {
        let found = loop {
            match rules::next(target, &host, &weighed.answers) {
                Step::Known(meaning) => break meaning,
                Step::Ask(questions) => {
                    for (question, answer) in ask_all(servers, questions).await {
                        weighed.add(question, answer, memory);
                    }
                }
            }
        };
        // A failure with one of the names stays told.
        meaning = Meaning { failure: found.failure.clone().or(meaning.failure), ..found };
        if !meaning.places.is_empty() {
            break;
        }
    }
    memory.keep_only(&weighed.answers);
    let failure = weighed.failure.or(meaning.failure);
    Run { places: meaning.places, ttl: meaning.ttl, failure, basis: weighed.basis }
}

/// The answers of one run, as far as they count.
struct Weighed {
    answers: BTreeMap<Question, Answer>,
    basis: Basis,
    /// Why something old counts.
    failure: Option<String>,
}

impl Weighed {
    fn add(&mut self, question: Question, answer: Answer, memory: &mut Memory) {
        let (answer, doubt) = memory.weigh(&question, answer);
        let (basis, text) = match doubt {
            None => (Basis::New, None),
            Some(Doubt::Gone(text)) => (Basis::Gone, Some(text)),
            Some(Doubt::Failed(text)) => (Basis::Old, Some(text)),
        };
        self.basis = self.basis.max(basis);
        self.failure = self.failure.take().or(text);
        self.answers.insert(question, answer);
    }
}

/// Asks all questions at once. Each has an answer in the end.
async fn ask_all(servers: &Arc<Servers>, questions: Vec<Question>) -> BTreeMap<Question, Answer> {
    let given_up = |question: Question| {
        let text = format!("{question}: given up");
        (question, Answer::Failed(text))
    };
    let mut answers: BTreeMap<Question, Answer> = questions.iter().cloned().map(given_up).collect();
    let mut asking = JoinSet::new();
    for question in questions {
        let servers = Arc::clone(servers);
        asking.spawn(async move {
            let answer = servers.ask(&question).await;
            (question, answer)
        });
    }
    while let Some(ended) = asking.join_next().await {
        if let Ok((question, answer)) = ended {
            answers.insert(question, answer);
        }
    }
    answers
}

#[cfg(test)]
mod tests;
