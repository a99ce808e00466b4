//! The shards behind their locks. Nobody waits for a busy shard: what is for it goes into its inbox, and whoever holds it works the
//! inbox off before and after unlocking.
//!
//! That nothing is stranded in an inbox rests on two pairs of steps. Who leaves something first writes the inbox's length, then tries
//! the lock; who unlocks first unlocks, then reads the length. A sequentially consistent fence stands between the two steps of each.
//! So either the leaver finds the lock free and works the inbox off itself, or the holder reads the length and does.

use engine::{Flow, Input};
use sip::Instant;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// All shards of the unit. `M` is the machine in each.
pub(crate) struct Shards<M> {
    slots: Vec<Slot<M>>,
    /// Inputs that one inbox holds at most.
    inbox_limit: AtomicUsize,
}

/// What a machine is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work<'a> {
    Input(Input<'a>),
    Timeout,
}

/// One shard. Alone in its cache lines, so that neighbours do not slow each other down.
#[repr(align(128))]
struct Slot<M> {
    machine: Mutex<M>,
    inbox: Mutex<VecDeque<Waiting>>,
    /// The inbox's length, written under the inbox's lock.
    waiting: AtomicUsize,
    /// The machine's next deadline in microseconds; NEVER without one. Written under the machine's lock.
    deadline: AtomicU64,
    /// Its timers are to be handled at once, whatever its deadline. Apart from it, so that no holder writes it away.
    roused: AtomicBool,
}

/// An input that waits in an inbox.
struct Waiting {
    kind: Kind,
    flow: Flow,
    bytes: Vec<u8>,
}

/// Which [`Input`] it is.
enum Kind {
    Datagram,
    Undelivered,
    Unsent,
}

impl<M> Shards<M> {
    /// `machines`: each with its first deadline.
    pub(crate) fn new(machines: Vec<(M, Option<Instant>)>, inbox_limit: usize) -> Self {
        let slots = machines
            .into_iter()
            .map(|(machine, deadline)| Slot {
                machine: Mutex::new(machine),
                inbox: Mutex::new(VecDeque::new()),
                waiting: AtomicUsize::new(0),
                deadline: AtomicU64::new(micros(deadline)),
                roused: AtomicBool::new(false),
            })
            .collect();
        Self { slots, inbox_limit: AtomicUsize::new(inbox_limit) }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn set_inbox_limit(&self, limit: usize) {
        self.inbox_limit.store(limit, Ordering::Relaxed);
    }

    /// Has the shard `index` (below [`Shards::len`]) handle `input`, by `work` in this thread or by the thread that holds the shard.
    /// `work` is called for whatever else is in the inbox too, and returns the machine's next deadline. False: the inbox was full and
    /// the input is dropped.
    pub(crate) fn deliver(
        &self,
        index: usize,
        input: Input<'_>,
        mut work: impl FnMut(&mut M, Work<'_>) -> Option<Instant>,
    ) -> bool {
        let slot = &self.slots[index];
        if let Some(mut machine) = slot.try_hold() {
            slot.run(&mut machine, Work::Input(input), &mut work);
            slot.work_off(&mut machine, &mut work);
        } else if !slot.leave(input, self.inbox_limit.load(Ordering::Relaxed)) {
            return false;
        }
        slot.settle(&mut work);
        true
    }

    /// Has the shard `index` handle its timers if its deadline is over. Waits for a holder, who is done within microseconds.
    pub(crate) fn turn(&self, index: usize, now: Instant, mut work: impl FnMut(&mut M, Work<'_>) -> Option<Instant>) {
        let slot = &self.slots[index];
        if self.deadline(index) > now.as_micros() {
            return;
        }
        // Before the machine looks: who rouses it meanwhile does so for the next turn.
        // Read as well as written, so that what was written before a rouse is seen.
        slot.roused.swap(false, Ordering::SeqCst);
        {
            let mut machine = slot.machine.lock().unwrap_or_else(PoisonError::into_inner);
            slot.run(&mut machine, Work::Timeout, &mut work);
            slot.work_off(&mut machine, &mut work);
        }
        slot.settle(&mut work);
    }

    /// Makes every shard due, so that it sees what has changed in what all of them share.
    pub(crate) fn rouse(&self) {
        for slot in &self.slots {
            slot.roused.store(true, Ordering::SeqCst);
        }
    }

    /// The next deadline of the shard `index` in microseconds; [`NEVER`] without one.
    pub(crate) fn deadline(&self, index: usize) -> u64 {
        let slot = &self.slots[index];
        if slot.roused.load(Ordering::SeqCst) { 0 } else { slot.deadline.load(Ordering::Relaxed) }
    }
}

impl<M> Slot<M> {
    fn try_hold(&self) -> Option<MutexGuard<'_, M>> {
        match self.machine.try_lock() {
            Ok(machine) => Some(machine),
            Err(TryLockError::WouldBlock) => None,
            // A panic in a worker ends the process, so nobody works on what it left behind; tests see the panic itself.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        }
    }

    fn run(&self, machine: &mut M, work: Work<'_>, by: &mut impl FnMut(&mut M, Work<'_>) -> Option<Instant>) {
        let deadline = by(machine, work);
        self.deadline.store(micros(deadline), Ordering::Relaxed);
    }

    /// Has the held machine handle the inbox.
    fn work_off(&self, machine: &mut M, by: &mut impl FnMut(&mut M, Work<'_>) -> Option<Instant>) {
        while let Some(waiting) = self.take() {
            let (flow, bytes) = (waiting.flow, waiting.bytes.as_slice());
            let input = match waiting.kind {
                Kind::Datagram => Input::Datagram { flow, bytes },
                Kind::Undelivered => Input::Undelivered { flow, returned: bytes },
                Kind::Unsent => Input::Unsent { flow, returned: bytes },
            };
            self.run(machine, Work::Input(input), by);
        }
    }

    /// Works off what came into the inbox around the moment of unlocking, unless another holder will.
    fn settle(&self, by: &mut impl FnMut(&mut M, Work<'_>) -> Option<Instant>) {
        loop {
            fence(Ordering::SeqCst);
            if self.waiting.load(Ordering::Relaxed) == 0 {
                return;
            }
            let Some(mut machine) = self.try_hold() else { return };
            self.work_off(&mut machine, by);
        }
    }

    fn take(&self) -> Option<Waiting> {
        // An input that is missed here is found by `settle`.
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let first = inbox.pop_front();
        self.waiting.store(inbox.len(), Ordering::Relaxed);
        first
    }

    fn leave(&self, input: Input<'_>, limit: usize) -> bool {
        let (kind, flow, bytes) = match input {
            Input::Datagram { flow, bytes } => (Kind::Datagram, flow, bytes),
            Input::Undelivered { flow, returned } => (Kind::Undelivered, flow, returned),
            Input::Unsent { flow, returned } => (Kind::Unsent, flow, returned),
        };
        let waiting = Waiting { kind, flow, bytes: bytes.to_vec() };
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if inbox.len() >= limit {
            return false;
        }
        inbox.push_back(waiting);
        self.waiting.store(inbox.len(), Ordering::Relaxed);
        true
    }
}

fn micros(deadline: Option<Instant>) -> u64 {
    deadline.map_or(NEVER, Instant::as_micros)
}

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use engine::ListenerId;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    fn flow() -> Flow {
        let remote = SocketAddr::from(([127, 0, 0, 1], 5060));
        Flow::of_datagram(ListenerId(1), IpAddr::V4(Ipv4Addr::LOCALHOST), remote)
    }

    fn datagram(bytes: &[u8]) -> Input<'_> {
        Input::Datagram { flow: flow(), bytes }
    }

    fn append(machine: &mut Vec<u8>, work: Work<'_>) -> Option<Instant> {
        match work {
            Work::Input(Input::Datagram { bytes, .. }) => machine.extend_from_slice(bytes),
            Work::Input(Input::Undelivered { returned, .. }) => {
                machine.push(b'!');
                machine.extend_from_slice(returned);
            }
            Work::Input(Input::Unsent { returned, .. }) => {
                machine.push(b'?');
                machine.extend_from_slice(returned);
            }
            Work::Timeout => machine.push(b'T'),
        }
        (machine.len() < 4).then(|| Instant::from_micros(machine.len() as u64 * 10))
    }

    #[test]
    fn what_arrives_while_a_shard_is_held_is_handled_by_the_holder_in_order() {
        let shards = Shards::new(vec![(Vec::<u8>::new(), None)], 3);
        let mut outcomes = Vec::new();
        let handled = shards.deliver(0, datagram(b"a"), |machine, work| {
            if machine.is_empty() {
                // The shard is held here, as it would be by another thread.
                outcomes.push(shards.deliver(0, datagram(b"b"), append));
                outcomes.push(shards.deliver(0, Input::Undelivered { flow: flow(), returned: b"c" }, append));
                outcomes.push(shards.deliver(0, Input::Unsent { flow: flow(), returned: b"d" }, append));
                outcomes.push(shards.deliver(0, datagram(b"e"), append));
            }
            append(machine, work)
        });
        assert!(handled);
        assert_eq!(outcomes, [true, true, true, false], "the inbox holds three");
        let mut seen: Vec<u8> = Vec::new();
        shards.deliver(0, datagram(b"f"), |machine, work| {
            let next = append(machine, work);
            seen.clone_from(machine);
            next
        });
        assert_eq!(seen, b"ab!c?df");
    }

    #[test]
    fn wheels_turn_when_their_deadline_is_over() {
        let shards = Shards::new(vec![(Vec::<u8>::new(), Some(Instant::from_micros(5)))], 1);
        shards.turn(0, Instant::from_micros(4), |_, _| unreachable!("the deadline is not over"));
        assert_eq!(shards.deadline(0), 5);
        shards.turn(0, Instant::from_micros(5), append);
        assert_eq!(shards.deadline(0), 10);
        shards.deliver(0, datagram(b"abc"), append);
        assert_eq!(shards.deadline(0), NEVER);
    }

    #[test]
    fn who_is_roused_is_due_once_and_keeps_its_deadline() {
        let later = Some(Instant::from_micros(50));
        let shards = Shards::new(vec![(0, later), (0, None)], 1);
        shards.rouse();
        for index in 0..2 {
            assert_eq!(shards.deadline(index), 0);
            shards.turn(index, Instant::from_micros(4), |turns, _| {
                *turns += 1;
                // News of this very moment are for the next turn.
                if *turns == 1 {
                    shards.rouse();
                }
                later
            });
            assert_eq!(shards.deadline(index), 0);
            shards.turn(index, Instant::from_micros(4), |turns, _| {
                *turns += 1;
                later
            });
            assert_eq!(shards.deadline(index), 50);
            shards.turn(index, Instant::from_micros(4), |_, _| unreachable!("it was roused twice"));
        }
    }

    #[test]
    fn nothing_is_lost_or_stranded_between_threads() {
        const THREADS: u64 = 4;
        const EACH: u64 = 20_000;
        let shards = Shards::new(vec![(0_u64, None), (0_u64, None)], usize::MAX);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for number in 0..EACH {
                        let index = usize::from(number.is_multiple_of(8));
                        assert!(shards.deliver(index, datagram(b"x"), |count, _| {
                            *count += 1;
                            None
                        }));
                    }
                });
            }
        });
        let totals: Vec<u64> =
            shards.slots.iter().map(|slot| *slot.machine.lock().expect("no thread panicked")).collect();
        assert_eq!(totals, [THREADS * EACH * 7 / 8, THREADS * EACH / 8]);
        assert!(shards.slots.iter().all(|slot| slot.waiting.load(Ordering::Relaxed) == 0));
    }
}
