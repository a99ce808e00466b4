//! One shard of the engine: a pure machine that is fed datagrams and the time, and hands back datagrams and its next deadline.
//!
//! ```text
//! receive   parse, check, who sent it             RFC 3261 §18.2.1, §16.3
//! request   transaction matching, validation      §17.2.3, §16.3
//! decide    (crate::decide)                       §16.4, §16.5
//! start     a context and its first branch        §16.6
//! response  what a branch's answer does           §16.7
//! cancel    CANCEL in, CANCEL out                 §16.10, §9
//! flows     the next flow of a phone              RFC 5626 §7
//! failover  the next backend or place             §16.7 step 6, §16.9
//! large     what a datagram may be too small for     §18.1.1
//! timers    everything that happens by itself     §16.8, §17
//! by_token  what needs no state                   §16.11
//! answer    responses of our own                  §8.2.6
//! ping      OPTIONS to the backends
//! farewell  BYE for the calls of a backend that was cut   §15
//! ```

mod answer;
mod by_token;
mod cancel;
mod failover;
mod farewell;
mod flows;
mod large;
mod ping;
mod receive;
mod request;
mod response;
mod start;
mod timers;
mod upstream;

use crate::context::Context;
use crate::counters::{Counter, Counters};
use crate::directory::Broom;
use crate::io::{Event, Flow, Input, Output, Packet};
use crate::running::Running;
use crate::shared::Shared;
use crate::table::{Entry, Id, Table, Tombstone};
use crate::wheel::Wheel;
use farewell::Farewells;
use ping::Pinger;
use sip::transaction::Timing;
use sip::{Edits, Instant};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A pure machine; `Send`, so that any worker may turn it.
pub struct Shard {
    /// Taken once per batch: one batch never sees two configurations.
    running: Arc<Running>,
    core: Core,
}

/// Everything of a shard but the configuration, so that both can be borrowed at once.
struct Core {
    index: u16,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    table: Table,
    wheel: Wheel<Timer>,
    due: Vec<Timer>,
    outputs: VecDeque<Output>,
    edits: Edits,
    scratch: Vec<u8>,
    random: u64,
    pinger: Pinger,
    farewells: Farewells,
    broom: Broom,
    /// What happens without end while its cause stays, and when it was last told of.
    told: BTreeMap<&'static str, Instant>,
    /// Outages followed so far.
    outages_seen: u64,
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Transaction(Id),
    Sweep,
    Ping,
    /// One BYE of our own.
    Farewell(Id),
    /// Those that wait for their turn.
    Farewells,
}

const TIMING: Timing = Timing::DEFAULT;

/// What kind a request of our own is of stands in the place of the attempt in its branch.
const PING: u8 = 0;
const FAREWELL: u8 = 1;

impl Shard {
    /// The shard with this index, of as many as `shared` was made for.
    pub fn new(index: usize, shared: Arc<Shared>) -> Self {
        let now = shared.started;
        let running = shared.running();
        let mut core = Core {
            index: index as u16,
            counters: Arc::clone(&shared.counters[index]),
            table: Table::default(),
            wheel: Wheel::new(now),
            due: Vec::new(),
            outputs: VecDeque::new(),
            edits: Edits::new(),
            scratch: Vec::new(),
            random: shared.seed ^ (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            pinger: Pinger::default(),
            farewells: Farewells::default(),
            broom: Broom::new(index, shared.shards()),
            told: BTreeMap::new(),
            outages_seen: shared.outages.count(),
            shared,
        };
        core.table.start_sequence_at(core.random as u32);
        core.start_sweeping(now);
        core.configure_pings(&running, now);
        Self { running, core }
    }

    /// Takes up the newest configuration. To be called before each batch of inputs.
    pub fn begin_batch(&mut self, now: Instant) {
        if self.core.shared.generation() != self.running.generation {
            self.running = self.core.shared.running();
            self.core.configure_pings(&self.running, now);
        }
    }

    pub fn handle_input(&mut self, now: Instant, input: Input<'_>) {
        match input {
            Input::Datagram { flow, bytes } => self.core.receive(&self.running, now, flow, bytes),
            Input::Undelivered { flow, returned } => {
                self.core.undelivered(&self.running, now, flow, returned, true);
            }
            Input::Unsent { flow, returned } => self.core.undelivered(&self.running, now, flow, returned, false),
        }
        self.core.compare_answers(&self.running, now);
        self.core.follow_outages(&self.running, now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.core.turn(&self.running, now);
        self.core.compare_answers(&self.running, now);
        self.core.follow_outages(&self.running, now);
    }

    /// To be drained after each `handle_…`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.core.outputs.pop_front()
    }

    /// When [`Shard::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.core.wheel.next_deadline()
    }

    /// Transactions held, tombstones included.
    pub fn transactions(&self) -> usize {
        self.core.table.len()
    }
}

impl Core {
    fn send(&mut self, flow: Flow, packet: Packet) {
        self.outputs.push_back(Output::Send { flow, packet });
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// What became of a backend, if that changed.
    fn tell_if(&mut self, now: Instant, event: Option<Event>) {
        if let Some(event) = event {
            self.shared.follow(now, &event);
            self.tell(event);
        }
    }

    /// Sets aside whose answers are out of line, once a second in one of the shards.
    fn compare_answers(&mut self, running: &Running, now: Instant) {
        if !self.shared.is_time_to_compare(now) {
            return;
        }
        for farm in running.farms() {
            for pool in &farm.running.pools {
                for event in pool.compare(now) {
                    self.tell_if(now, Some(event));
                }
            }
            let spared: u64 = farm.running.states.iter().map(|state| state.take_spared()).sum();
            (0..spared).for_each(|_| self.count(Counter::PassiveSpared));
        }
    }

    fn count(&self, counter: Counter) {
        self.counters.add(counter);
    }

    /// Says that a limit was reached.
    fn tell_limit(&mut self, now: Instant, limit: &'static str) {
        if self.is_news(now, limit) {
            self.tell(Event::LimitReached { limit });
        }
    }

    /// Whether this is told of now: once a second at most.
    fn is_news(&mut self, now: Instant, what: &'static str) -> bool {
        let is_news = self.told.get(what).is_none_or(|told| now.saturating_since(*told) >= Duration::from_secs(1));
        if is_news {
            self.told.insert(what, now);
        }
        is_news
    }

    /// splitmix64 (Steele, Lea and Flood 2014).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Puts a context that was taken out back, or what is left of it: nothing, or a tombstone.
    fn settle(&mut self, now: Instant, id: Id, mut context: Box<Context>) {
        let awaited = !context.server_is_done();
        if awaited != context.awaited {
            context.awaited = awaited;
            self.counters.await_answer(awaited);
        }
        if context.is_over() {
            self.remove(id);
            return;
        }
        if let Some(tombstone) = epitaph(&context) {
            let until = tombstone.until;
            self.table.bury(id, tombstone);
            if context.armed.is_none_or(|armed| armed > until) {
                self.wheel.arm(until, Timer::Transaction(id));
            }
            return;
        }
        debug_assert!(context.deadline().is_some(), "nothing would ever end {context:?}");
        if let Some(deadline) = context.deadline() {
            let late = context.armed.is_none_or(|armed| armed > deadline || armed <= now);
            if late {
                self.wheel.arm(deadline, Timer::Transaction(id));
                context.armed = Some(deadline);
            }
        }
        self.table.put(id, context);
    }

    fn remove(&mut self, id: Id) {
        self.table.remove(id);
        self.shared.transactions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is left of a transaction whose last answer went up: a retransmitted 2xx or request finds its way by the branch alone.
fn epitaph(context: &Context) -> Option<Tombstone> {
    use crate::context::{Cancel, Hop};
    use crate::machine::{Client, Server};
    let until = match &context.server {
        Server::Invite(machine) if machine.is_accepted() => machine.deadline()?,
        Server::Other(machine) if machine.is_completed() => machine.deadline()?,
        _ => return None,
    };
    let cancelling = |cancel: &Cancel| matches!(cancel, Cancel::Sent { client, .. } if !client.is_terminated());
    let pending = context.branches.iter().any(|branch| {
        let failing = matches!(&branch.client, Client::Invite(machine) if machine.is_completed());
        !branch.finished || failing || cancelling(&branch.cancel)
    });
    if pending || (context.keeps_answer && !context.kind.invite) {
        return None;
    }
    // An answer of our own is kept whole: nobody else could repeat it.
    let answered_by = context.answered_by?;
    let backend = match &context.branches.get(answered_by)?.hop {
        Hop::Backend(state) => state.id(),
        Hop::Peer => crate::id::BackendId(0),
    };
    Some(Tombstone {
        until,
        backend,
        attempt: answered_by as u8,
        invite: context.kind.invite,
        first_upstream: context.first_upstream,
        loop_hash: context.loop_hash,
        moved_to: (context.upstream != context.first_upstream).then(|| Box::new(context.upstream)),
    })
}

impl Table {
    /// Takes a live context out while it is worked on.
    fn take(&mut self, id: Id) -> Option<Box<Context>> {
        let entry = self.entry(id)?;
        if !matches!(entry, Entry::Live(_)) {
            return None;
        }
        match std::mem::replace(entry, Entry::Busy) {
            Entry::Live(context) => Some(context),
            Entry::Over(_) | Entry::Busy => None,
        }
    }

    fn put(&mut self, id: Id, context: Box<Context>) {
        if let Some(entry) = self.entry(id) {
            *entry = Entry::Live(context);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::token::Secrets;

    fn core() -> Core {
        let secrets = Secrets { key_id: 1, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1 };
        let shared = Shared::new(Settings::default(), secrets, 1, Instant::from_micros(0), 0, 1_234_567);
        Shard::new(0, shared).core
    }

    #[test]
    fn each_limit_is_told_of_once_a_second() {
        let mut core = core();
        for (ms, limit, is_told) in [
            (0, "dialogs", true),
            (0, "dialogs", false),
            (0, "bindings", true),
            (999, "dialogs", false),
            (1_000, "dialogs", true),
            (1_000, "bindings", true),
            (1_999, "dialogs", false),
            (5_000, "dialogs", true),
        ] {
            core.outputs.clear();
            core.tell_limit(Instant::from_micros(ms * 1_000), limit);
            assert_eq!(core.outputs.len(), usize::from(is_told), "{limit} after {ms} ms");
        }
    }

    /// The published algorithm's first numbers after the seed 1234567.
    #[test]
    fn random_numbers_are_those_of_splitmix64() {
        let mut core = core();
        let drawn: Vec<u64> = (0..3).map(|_| core.next_random()).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
