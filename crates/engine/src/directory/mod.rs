//! What the data plane learnt: bindings, dialogs and sticky choices.
//!
//! Facts are spread over stripes, each behind a lock of its own that is held for one look-up and never while another is
//! taken: there is no order of locks to get wrong. Keys are keyed hashes, since strangers choose the names behind them.
//!
//! ```text
//! people     AOR           → bindings (contact, flows, backend), the user's backend
//! contacts   contact id    → AOR                                   (an index into people)
//! dialogs    Call-ID       → dialogs (tags, backend, peer, until)
//! recent     Call-ID, From tag → backend, for 32 s: the answer to a challenge meets its nonce
//! sticky     source, header … → backend
//! nonces     nonce → the backend that issued it
//! ```

mod broom;
mod dialog;
mod generations;
mod kept_flow;
mod log;
mod outbound;
mod people;
mod refresh;
mod sides;

pub(crate) use broom::Broom;
pub(crate) use dialog::{Dialog, DialogKey, Dialogs};
pub use log::Loaded;
pub(crate) use log::WallClock;
pub(crate) use outbound::Outbound;
pub(crate) use people::{Binding, People, Person};
pub(crate) use refresh::{Asked, Fresh, Refresh};
pub(crate) use sides::{Side, Sides, Words};

use crate::id::BackendId;
use crate::io::Flow;
use crate::settings::Limits;
use generations::Generations;
use sip::Instant;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const STRIPES: usize = 64;
/// RFC 3261 §17: 64 × T1, the life of a transaction.
const RECENT: Duration = Duration::from_secs(32);
/// Longer than the PBXs we know keep a nonce.
const NONCE_LIFE: Duration = Duration::from_secs(600);

/// Everything learnt by one unit, shared by its shards.
#[derive(Debug)]
pub(crate) struct Directory {
    people: Box<[Mutex<People>]>,
    contacts: Box<[Mutex<Index>]>,
    dialogs: Box<[Mutex<Dialogs>]>,
    recent: Box<[Mutex<Generations<BackendId>>]>,
    sticky: Box<[Mutex<Generations<BackendId>>]>,
    nonces: Box<[Mutex<Generations<BackendId>>]>,
    bindings: AtomicU64,
    calls: AtomicU64,
}

type Index = hashbrown::HashMap<u64, u64, foldhash::fast::FixedState>;

/// A table is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Full;

/// What a sweep found to do.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// UDP flows whose NAT binding wants a keep-alive.
    pub(crate) keep_alive: Vec<Flow>,
    pub(crate) dialogs_ended: u64,
}

impl Directory {
    pub(crate) fn new(now: Instant, limits: &Limits, sticky_ttl: Duration) -> Self {
        let sticky = limits.sticky.div_ceil(STRIPES).max(2);
        Self {
            people: striped(People::default),
            contacts: striped(Index::default),
            dialogs: striped(Dialogs::default),
            recent: striped(|| Generations::new(now, RECENT, sticky)),
            sticky: striped(|| Generations::new(now, sticky_ttl, sticky)),
            nonces: striped(|| Generations::new(now, NONCE_LIFE, sticky)),
            bindings: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    pub(crate) fn bindings(&self) -> u64 {
        self.bindings.load(Ordering::Relaxed)
    }

    pub(crate) fn dialogs(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Adds or renews a binding of `aor`, whose readable name is `name`.
    pub(crate) fn bind(&self, aor: u64, name: &[u8], binding: Binding, limit: usize) -> Result<(), Full> {
        let id = binding.id;
        let full = self.bindings() >= limit as u64;
        let added = locked(&self.people, aor).bind(aor, name, binding, full)?;
        if added {
            self.bindings.fetch_add(1, Ordering::Relaxed);
            locked(&self.contacts, id).insert(id, aor);
        }
        Ok(())
    }

    /// Removes one binding.
    pub(crate) fn unbind(&self, now: Instant, aor: u64, id: u64) {
        let removed = locked(&self.people, aor).unbind(now, aor, id);
        if removed {
            self.forget_contact(id);
        }
    }

    /// Removes every binding of `aor` (RFC 3261 §10.2.2, `Contact: *`).
    pub(crate) fn unbind_all(&self, now: Instant, aor: u64) {
        let removed = locked(&self.people, aor).unbind_all(now, aor);
        for id in removed {
            self.forget_contact(id);
        }
    }

    /// The live binding with this contact id.
    pub(crate) fn binding(&self, now: Instant, id: u64) -> Option<Binding> {
        self.with_binding(now, id, Binding::clone)
    }

    /// Looks at a live binding. The lock of its user is held meanwhile.
    pub(crate) fn with_binding<T>(&self, now: Instant, id: u64, look: impl FnOnce(&Binding) -> T) -> Option<T> {
        let aor = *locked(&self.contacts, id).get(&id)?;
        locked(&self.people, aor).person(aor)?.live(now, id).map(look)
    }

    /// The seconds that the longest flow of this binding has left, but for the flow with this name.
    pub(crate) fn left_without(&self, now: Instant, id: u64, reg_id: u32) -> Option<u32> {
        self.with_binding(now, id, |binding| binding.left_without(now, reg_id)).flatten()
    }

    /// Removes one flow of a phone that has others; gives name and contact of the one that comes first then. `None`: there are
    /// no others, and the binding is to be removed.
    pub(crate) fn remove_flow(&self, now: Instant, aor: u64, id: u64, reg_id: u32) -> Option<(u32, Box<[u8]>)> {
        locked(&self.people, aor).remove_flow(now, aor, id, reg_id)
    }

    /// A request could not be sent by this flow of the binding: its others come first from now on.
    pub(crate) fn flow_failed(&self, id: u64, flow: &Flow) {
        let Some(aor) = locked(&self.contacts, id).get(&id).copied() else {
            return;
        };
        locked(&self.people, aor).flow_failed(aor, id, flow);
    }

    /// The backend's word that makes this REGISTER a mere refresh, if there is one.
    pub(crate) fn fresh(&self, now: Instant, asked: &Asked) -> Option<Fresh> {
        locked(&self.people, asked.aor).person(asked.aor)?.fresh(now, asked)
    }

    /// That refresh was answered; there were so many outages so far, none of them of its backend.
    pub(crate) fn refreshed(&self, now: Instant, asked: &Asked, outages: u64) {
        locked(&self.people, asked.aor).refreshed(now, asked, outages);
    }

    /// Remembers, or forgets, what a refresh of this flow must say to need no word to the backend.
    pub(crate) fn set_refresh(&self, now: Instant, aor: u64, id: u64, reg_id: Option<u32>, refresh: Option<Refresh>) {
        locked(&self.people, aor).set_refresh(now, aor, id, reg_id, refresh);
    }

    /// A backend said until when it keeps each of the user's bindings (`None`: it has no such one). What was granted for longer
    /// needs its word again. The lock is held meanwhile.
    pub(crate) fn keep_refreshes(&self, aor: u64, lasts: impl Fn(&Binding) -> Option<Instant>) {
        locked(&self.people, aor).keep_refreshes(aor, lasts);
    }

    /// Looks at a user. The lock is held meanwhile.
    pub(crate) fn with_person<T>(&self, aor: u64, look: impl FnOnce(&Person) -> T) -> Option<T> {
        locked(&self.people, aor).person(aor).map(look)
    }

    /// The backend a registered user sticks to.
    pub(crate) fn user_backend(&self, now: Instant, aor: u64) -> Option<BackendId> {
        locked(&self.people, aor).person(aor)?.backend(now)
    }

    /// Makes a registered user stick to `backend` until `until`.
    pub(crate) fn stick_user(&self, aor: u64, backend: BackendId, until: Instant) {
        locked(&self.people, aor).stick(aor, backend, until);
    }

    /// The phone of this binding was heard at a new address.
    pub(crate) fn move_binding(&self, now: Instant, id: u64, flow: Flow) {
        let Some(aor) = locked(&self.contacts, id).get(&id).copied() else {
            return;
        };
        locked(&self.people, aor).move_binding(now, aor, id, flow);
    }

    /// Remembers a dialog, or replaces what was known of it.
    pub(crate) fn begin_dialog(&self, dialog: Dialog, limit: usize) -> Result<(), Full> {
        let full = self.dialogs() >= limit as u64;
        let call = dialog.key.call;
        let added = locked(&self.dialogs, call).begin(dialog, full)?;
        if added {
            self.calls.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Forgets a dialog; `true` if it was known.
    pub(crate) fn end_dialog(&self, key: &DialogKey, to_tag: u64) -> bool {
        self.take_dialog(key, to_tag).is_some()
    }

    /// The same, and hands it over.
    pub(crate) fn take_dialog(&self, key: &DialogKey, to_tag: u64) -> Option<Dialog> {
        let ended = locked(&self.dialogs, key.call).end(key, to_tag)?;
        self.calls.fetch_sub(1, Ordering::Relaxed);
        Some(ended)
    }

    /// Looks at, and may change, the dialogs of a Call-ID. The lock is held meanwhile.
    pub(crate) fn with_dialogs<T>(&self, call: u64, look: impl FnOnce(&mut Dialogs) -> T) -> T {
        look(&mut locked(&self.dialogs, call))
    }

    pub(crate) fn recent(&self, now: Instant, key: u64) -> Option<BackendId> {
        locked(&self.recent, key).find(now, key)
    }

    pub(crate) fn peek_recent(&self, now: Instant, key: u64) -> Option<BackendId> {
        locked(&self.recent, key).peek(now, key)
    }

    pub(crate) fn remember_recent(&self, now: Instant, key: u64, backend: BackendId) {
        locked(&self.recent, key).insert(now, key, backend);
    }

    pub(crate) fn sticky(&self, now: Instant, key: u64) -> Option<BackendId> {
        locked(&self.sticky, key).find(now, key)
    }

    pub(crate) fn peek_sticky(&self, now: Instant, key: u64) -> Option<BackendId> {
        locked(&self.sticky, key).peek(now, key)
    }

    pub(crate) fn stick(&self, now: Instant, key: u64, backend: BackendId) {
        locked(&self.sticky, key).insert(now, key, backend);
    }

    /// A challenge of `backend` passed.
    pub(crate) fn remember_nonce(&self, now: Instant, nonce: u64, backend: BackendId) {
        locked(&self.nonces, nonce).insert(now, nonce, backend);
    }

    /// Who issued this nonce.
    pub(crate) fn nonce_backend(&self, now: Instant, nonce: u64) -> Option<BackendId> {
        locked(&self.nonces, nonce).peek(now, nonce)
    }

    /// Forgets every choice of `backend` (it was cut).
    pub(crate) fn unstick_backend(&self, backend: BackendId) {
        for table in self.sticky.iter().chain(&self.recent) {
            lock(table).retain(|stuck| *stuck != backend);
        }
        for people in &self.people {
            lock(people).unstick_backend(backend);
        }
    }

    /// Ends what has expired in the stripes that `broom` comes to now. `keepalive`: the age at which the NAT binding of a phone wants
    /// to be used again.
    pub(crate) fn sweep(&self, now: Instant, broom: &mut Broom, keepalive: Option<Duration>) -> Sweep {
        let mut sweep = Sweep::default();
        for _ in 0..broom.stripes_now() {
            let stripe = broom.next_stripe();
            let expired = lock(&self.people[stripe]).sweep(now, keepalive, &mut sweep.keep_alive);
            for id in expired {
                self.forget_contact(id);
            }
            let ended = lock(&self.dialogs[stripe]).sweep(now);
            self.calls.fetch_sub(ended, Ordering::Relaxed);
            sweep.dialogs_ended += ended;
        }
        broom.look_at(self.bindings() + self.dialogs());
        sweep
    }

    fn forget_contact(&self, id: u64) {
        locked(&self.contacts, id).remove(&id);
        self.bindings.fetch_sub(1, Ordering::Relaxed);
    }
}

fn striped<T>(make: impl Fn() -> T) -> Box<[Mutex<T>]> {
    (0..STRIPES).map(|_| Mutex::new(make())).collect()
}

/// The stripe of a key. The keys are hashes; their top bits are not used by the tables within.
fn locked<T>(stripes: &[Mutex<T>], key: u64) -> MutexGuard<'_, T> {
    lock(&stripes[(key >> 58) as usize % stripes.len()])
}

/// A panic elsewhere while a stripe was locked leaves at worst one entry half written; the calls of everybody else go on.
fn lock<T>(stripe: &Mutex<T>) -> MutexGuard<'_, T> {
    stripe.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ListenerId;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    pub(crate) fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    pub(crate) fn flow(port: u16) -> Flow {
        Flow {
            listener: ListenerId(1),
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
            connection: crate::io::ConnectionId::NONE,
        }
    }

    pub(crate) fn binding(id: u64, until: u64) -> Binding {
        Binding {
            id,
            contact: Box::from(&b"sip:bonnie@192.0.2.1:5060"[..]),
            flow: flow(5060).into(),
            backend: BackendId(3),
            expires: at(until),
            behind_nat: true,
            kept_alive: at(0),
            held: None,
            outbound: None,
        }
    }

    /// Of call `call`, with the tags 8 and 9.
    pub(crate) fn dialog_of(call: u64, until: u64) -> Dialog {
        Dialog {
            key: DialogKey { call, backend: BackendId(3), from_peer: true, from_tag: 8 },
            to_tag: 9,
            peer: flow(5060),
            binding: 11,
            since: at(1),
            ends: at(until),
            ticket: None,
            sides: None,
            logged: false,
        }
    }

    pub(crate) fn directory() -> Directory {
        Directory::new(at(0), &Limits::default(), Duration::from_secs(3600))
    }

    #[test]
    fn a_binding_is_found_by_its_id_until_it_expires() {
        let directory = directory();
        directory.bind(10, b"bonnie@example.com", binding(77, 60), 10).expect("room");
        let found = directory.binding(at(59), 77).expect("bound");
        assert_eq!(found.contact.as_ref(), &b"sip:bonnie@192.0.2.1:5060"[..]);
        assert!(directory.binding(at(60), 77).is_none());
        let ended: u64 = (0..4).map(|part| directory.sweep(at(61), &mut Broom::new(part, 4), None).dialogs_ended).sum();
        assert_eq!((directory.bindings(), ended), (0, 0));
    }

    #[test]
    fn the_limit_of_bindings_holds_to_the_unit() {
        let directory = directory();
        for id in 1..=3 {
            assert_eq!(directory.bind(id, b"x", binding(id, 60), 3), Ok(()));
        }
        assert_eq!(directory.bind(4, b"x", binding(4, 60), 3), Err(Full));
        // Renewing what is there needs no room.
        assert_eq!(directory.bind(3, b"x", binding(3, 90), 3), Ok(()));
        directory.unbind(at(1), 1, 1);
        assert_eq!(directory.bind(4, b"x", binding(4, 60), 3), Ok(()));
        assert_eq!(directory.bindings(), 3);
    }

    #[test]
    fn keep_alives_are_due_once_an_interval() {
        let directory = directory();
        directory.bind(1, b"x", binding(5, 600), 9).expect("room");
        let every = Some(Duration::from_secs(25));
        let mut broom = Broom::new(0, 1);
        let mut due = |seconds| directory.sweep(at(seconds), &mut broom, every).keep_alive;
        assert!(due(24).is_empty());
        assert_eq!(due(25), [flow(5060)]);
        assert!(due(26).is_empty());
        assert_eq!(due(50).len(), 1);
    }

    #[test]
    fn the_limit_of_dialogs_holds_to_the_unit() {
        let directory = directory();
        for call in 1..=3 {
            assert_eq!(directory.begin_dialog(dialog_of(call, 60), 3), Ok(()));
        }
        assert_eq!(directory.begin_dialog(dialog_of(4, 60), 3), Err(Full));
        assert_eq!(directory.begin_dialog(dialog_of(3, 90), 3), Ok(()));
        assert_eq!(directory.dialogs(), 3);
        let key = dialog_of(1, 60).key;
        assert_eq!([9, 9].map(|to_tag| directory.end_dialog(&key, to_tag)), [true, false]);
        assert_eq!(directory.dialogs(), 2);
        assert_eq!(directory.begin_dialog(dialog_of(4, 60), 3), Ok(()));
    }

    #[test]
    fn a_sweep_tells_how_many_dialogs_ended() {
        let directory = directory();
        for (call, until) in [(1, 50), (2, 60), (5 << 58, 60), (3, 61)] {
            directory.begin_dialog(dialog_of(call, until), 9).expect("room");
        }
        let sweep = directory.sweep(at(60), &mut Broom::new(0, 1), None);
        assert_eq!((sweep.dialogs_ended, directory.dialogs()), (3, 1));
        let key = dialog_of(3, 61).key;
        assert!(directory.with_dialogs(3, |dialogs| dialogs.find(&key, 9).is_some()));
    }

    #[test]
    fn a_shard_sweeps_the_stripes_of_its_part_alone() {
        let directory = directory();
        for stripe in [0, 1, 63] {
            directory.bind(stripe << 58, b"x", binding(stripe + 5, 60), 9).expect("room");
        }
        let left = [2, 1, 63, 0].map(|part| {
            directory.sweep(at(60), &mut Broom::new(part, STRIPES), None);
            directory.bindings()
        });
        assert_eq!(left, [3, 2, 1, 0]);
    }

    #[test]
    fn bindings_and_dialogs_together_set_the_pace_of_the_broom() {
        let directory = directory();
        directory.bind(1, b"x", binding(5, 60), 9).expect("room");
        for call in 1..=2_047 {
            directory.begin_dialog(dialog_of(call, 60), 9_999).expect("room");
        }
        let mut broom = Broom::new(0, 1);
        directory.sweep(at(1), &mut broom, None);
        // 2,048 facts are two visits in the four seconds of a round.
        assert_eq!(broom.pause(), Duration::from_secs(2));
    }

    #[test]
    fn choices_are_remembered_for_as_long_as_each_kind_serves() {
        let directory = directory();
        directory.remember_recent(at(0), 5, BackendId(1));
        directory.stick(at(0), 5, BackendId(2));
        directory.remember_nonce(at(0), 5, BackendId(4));
        let found = |seconds: u64, key: u64| {
            let now = at(seconds);
            [directory.peek_recent(now, key), directory.peek_sticky(now, key), directory.nonce_backend(now, key)]
                .map(|backend| backend.map_or(0, |backend| backend.0))
        };
        // For two periods at most: of 32 s, 600 s and an hour.
        for (seconds, left) in [
            (63, [1, 2, 4]),
            (64, [0, 2, 4]),
            (1_199, [0, 2, 4]),
            (1_200, [0, 2, 0]),
            (7_199, [0, 2, 0]),
            (7_200, [0, 0, 0]),
        ] {
            assert_eq!(found(seconds, 5), left, "{seconds}");
        }
        assert_eq!(found(1, 6), [0, 0, 0]);
        let used = (directory.recent(at(1), 5), directory.sticky(at(1), 5));
        assert_eq!(used, (Some(BackendId(1)), Some(BackendId(2))));
    }

    #[test]
    fn no_memory_leads_to_a_backend_that_was_cut() {
        let directory = directory();
        for (key, backend) in [(1, BackendId(3)), (2, BackendId(4))] {
            directory.bind(key, b"x", binding(key, 60), 9).expect("room");
            directory.stick_user(key, backend, at(60));
            directory.stick(at(0), key, backend);
            directory.remember_recent(at(0), key, backend);
        }
        directory.unstick_backend(BackendId(3));
        let now = at(1);
        let left = |key: u64| {
            [directory.user_backend(now, key), directory.peek_sticky(now, key), directory.peek_recent(now, key)]
        };
        assert_eq!((left(1), left(2)), ([None; 3], [Some(BackendId(4)); 3]));
    }
}
