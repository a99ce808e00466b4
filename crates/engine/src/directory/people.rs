//! Users and their bindings (RFC 3261 §10).

use super::kept_flow::KeptFlow;
use super::refresh::{Asked, Refresh, Refreshes};
use super::{Full, Outbound, log};
use crate::id::BackendId;
use crate::io::Flow;
use crate::pool::RegistrationTicket;
use hashbrown::HashMap;
use sip::Instant;
use smallvec::SmallVec;
use std::time::Duration;

/// A contact that a REGISTER bound to its AOR, as the phone gave it.
#[derive(Debug)]
pub(crate) struct Binding {
    /// The id that backends know the contact by.
    pub(crate) id: u64,
    /// The contact's URI, octet for octet.
    pub(crate) contact: Box<[u8]>,
    /// Where the phone was last heard.
    pub(crate) flow: KeptFlow,
    /// The backend that granted the binding.
    pub(crate) backend: BackendId,
    pub(crate) expires: Instant,
    /// The phone's NAT binding must be kept open by us.
    pub(crate) behind_nat: bool,
    pub(crate) kept_alive: Instant,
    /// Counts the registration at its backend.
    pub(crate) held: Option<RegistrationTicket>,
    /// Of a phone that names its flows. Contact, flow and times above are those of the first of them.
    pub(crate) outbound: Option<Box<Outbound>>,
}

/// What is taken out to be looked at counts nothing.
impl Clone for Binding {
    fn clone(&self) -> Self {
        let (contact, flow, outbound) = (self.contact.clone(), self.flow.clone(), self.outbound.clone());
        Self { contact, flow, outbound, held: None, ..*self }
    }
}

/// One AOR.
#[derive(Debug)]
pub(crate) struct Person {
    /// `user@domain`, for people to read.
    pub(crate) name: Box<[u8]>,
    /// Newest first.
    pub(crate) bindings: SmallVec<[Binding; 1]>,
    /// What may be refreshed without a word to the backend.
    pub(super) refreshes: Refreshes,
    /// The backend the user sticks to.
    backend: BackendId,
    /// Until when; before the first time: not at all.
    sticks_until: Instant,
}

impl Person {
    fn named(name: &[u8]) -> Self {
        let (backend, sticks_until) = (BackendId(0), Instant::default());
        let refreshes = Refreshes::default();
        Self { name: Box::from(name), bindings: SmallVec::new(), refreshes, backend, sticks_until }
    }

    /// The live binding with this id.
    pub(crate) fn live(&self, now: Instant, id: u64) -> Option<&Binding> {
        self.bindings.iter().find(|binding| binding.id == id && binding.is_live(now))
    }

    /// All live bindings, newest first.
    pub(crate) fn all_live(&self, now: Instant) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(move |binding| binding.is_live(now))
    }

    pub(crate) fn backend(&self, now: Instant) -> Option<BackendId> {
        (self.sticks_until > now).then_some(self.backend)
    }
}

/// The users of one stripe.
#[derive(Debug, Default)]
pub(crate) struct People {
    table: HashMap<u64, Person, foldhash::fast::FixedState>,
    changed: Vec<log::Change>,
}

impl People {
    pub(crate) fn person(&self, aor: u64) -> Option<&Person> {
        self.table.get(&aor)
    }

    /// Adds or renews, by one of its flows if the phone names them; `Ok(true)` if the binding is new.
    pub(super) fn bind(&mut self, aor: u64, name: &[u8], mut binding: Binding, full: bool) -> Result<bool, Full> {
        let id = binding.id;
        let known = self.table.get(&aor).and_then(|person| person.bindings.iter().position(|old| old.id == id));
        if known.is_none() && full {
            return Err(Full);
        }
        let person = self.table.entry(aor).or_insert_with(|| Person::named(name));
        if let Some(at) = known {
            let mut old = person.bindings.remove(at);
            if old.flow == binding.flow {
                binding.kept_alive = old.kept_alive;
            }
            if old.backend == binding.backend && old.held.is_some() {
                binding.held = old.held.take();
            }
            binding.join(old);
        }
        person.bindings.insert(0, binding);
        self.changed.push(log::Change::Bound { aor, id });
        Ok(known.is_none())
    }

    pub(super) fn unbind(&mut self, now: Instant, aor: u64, id: u64) -> bool {
        let Some(person) = self.table.get_mut(&aor) else {
            return false;
        };
        let before = person.bindings.len();
        person.bindings.retain(|binding| binding.id != id);
        person.refreshes.forget(id);
        let removed = person.bindings.len() < before;
        if removed {
            self.changed.push(log::Change::Unbound { aor, id });
        }
        self.forget_idle(now, aor);
        removed
    }

    pub(super) fn unbind_all(&mut self, now: Instant, aor: u64) -> Vec<u64> {
        let Some(person) = self.table.get_mut(&aor) else {
            return Vec::new();
        };
        let removed: Vec<u64> = person.bindings.drain(..).map(|old| old.id).collect();
        person.refreshes.forget_all();
        for &id in &removed {
            self.changed.push(log::Change::Unbound { aor, id });
        }
        self.forget_idle(now, aor);
        removed
    }

    /// Remembers, or forgets, what a refresh of this flow must say to need no word to the backend.
    pub(super) fn set_refresh(
        &mut self,
        now: Instant,
        aor: u64,
        id: u64,
        reg_id: Option<u32>,
        refresh: Option<Refresh>,
    ) {
        if let Some(person) = self.table.get_mut(&aor) {
            person.refreshes.set(now, id, reg_id, refresh);
        }
    }

    pub(super) fn refreshed(&mut self, now: Instant, asked: &Asked, outages: u64) {
        if let Some(person) = self.table.get_mut(&asked.aor) {
            person.refreshes.answered(now, asked, outages);
        }
    }

    pub(super) fn keep_refreshes(&mut self, aor: u64, lasts: impl Fn(&Binding) -> Option<Instant>) {
        if let Some(person) = self.table.get_mut(&aor) {
            person.refreshes.keep(&person.bindings, lasts);
        }
    }

    pub(super) fn stick(&mut self, aor: u64, backend: BackendId, until: Instant) {
        if let Some(person) = self.table.get_mut(&aor) {
            person.backend = backend;
            person.sticks_until = until;
        }
    }

    pub(super) fn unstick_backend(&mut self, backend: BackendId) {
        for person in self.table.values_mut() {
            if person.backend == backend {
                person.sticks_until = Instant::default();
            }
        }
    }

    pub(super) fn move_binding(&mut self, now: Instant, aor: u64, id: u64, flow: Flow) {
        let Some(person) = self.table.get_mut(&aor) else {
            return;
        };
        for binding in &mut person.bindings {
            if binding.id == id && binding.heard_at(now, &flow) {
                self.changed.push(log::Change::Bound { aor, id });
            }
        }
    }

    pub(super) fn remove_flow(&mut self, now: Instant, aor: u64, id: u64, reg_id: u32) -> Option<(u32, Box<[u8]>)> {
        let person = self.table.get_mut(&aor)?;
        // The backend was told another time for all of them.
        person.refreshes.forget(id);
        let binding = person.bindings.iter_mut().find(|known| known.id == id)?;
        let left = binding.let_go(|name, expires| name == Some(reg_id) || expires <= now);
        let first = left.then(|| binding.first_named()).flatten()?;
        self.changed.push(log::Change::Bound { aor, id });
        Some(first)
    }

    pub(super) fn flow_failed(&mut self, aor: u64, id: u64, flow: &Flow) {
        let Some(person) = self.table.get_mut(&aor) else {
            return;
        };
        for binding in &mut person.bindings {
            if binding.id == id && binding.fail(flow) {
                self.changed.push(log::Change::Bound { aor, id });
            }
        }
    }

    /// Removes what has expired and collects the flows that want a keep-alive; gives the ids removed.
    pub(super) fn sweep(&mut self, now: Instant, keepalive: Option<Duration>, due: &mut Vec<Flow>) -> Vec<u64> {
        let mut expired = Vec::new();
        self.table.retain(|_, person| {
            person.bindings.retain(|binding| {
                let live = binding.let_go(|_, expires| expires <= now);
                if !live {
                    expired.push(binding.id);
                } else if let Some(every) = keepalive {
                    binding.keep_alive(now, every, due);
                }
                live
            });
            person.refreshes.keep_to(&person.bindings);
            !person.bindings.is_empty() || person.backend(now).is_some()
        });
        expired
    }

    /// Writes what changed since the last time.
    pub(super) fn write_changes(&mut self, clock: &log::WallClock, out: &mut Vec<u8>) {
        for change in std::mem::take(&mut self.changed) {
            match change {
                log::Change::Bound { aor, id } => {
                    if let Some(person) = self.table.get(&aor)
                        && let Some(binding) = person.bindings.iter().find(|known| known.id == id)
                    {
                        log::write_binding(clock, aor, person, binding, out);
                    }
                }
                log::Change::Unbound { aor, id } => log::write_unbinding(aor, id, out),
            }
        }
    }

    /// Writes every live binding.
    pub(super) fn write_all(&self, clock: &log::WallClock, now: Instant, out: &mut Vec<u8>) {
        for (aor, person) in &self.table {
            // Oldest first, so that reading the log restores the order.
            for binding in person.bindings.iter().rev() {
                if binding.is_live(now) {
                    log::write_binding(clock, *aor, person, binding, out);
                }
            }
        }
    }

    /// What the log must not repeat: facts that came from it.
    pub(super) fn discard_changes(&mut self) {
        self.changed.clear();
    }

    fn forget_idle(&mut self, now: Instant, aor: u64) {
        let idle =
            self.table.get(&aor).is_some_and(|person| person.bindings.is_empty() && person.backend(now).is_none());
        if idle {
            self.table.remove(&aor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, binding, directory, flow};
    use super::super::{Broom, Directory};
    use super::*;
    use crate::pool::BackendState;
    use std::sync::Arc;

    /// Bindings of user 1 that end at 600 s, the last id's the newest.
    fn with_phones(ids: &[u64]) -> Directory {
        let directory = directory();
        for &id in ids {
            directory.bind(1, b"x", binding(id, 600), 9).expect("room");
        }
        directory
    }

    fn is_known(directory: &Directory) -> bool {
        directory.with_person(1, |_| ()).is_some()
    }

    #[test]
    fn a_renewal_from_the_same_address_does_not_put_off_the_keep_alive() {
        let directory = directory();
        let kept_alive = |port: u16, seconds: u64| {
            let next = Binding { flow: flow(port).into(), kept_alive: at(seconds), ..binding(5, 600) };
            directory.bind(1, b"x", next, 9).expect("room");
            directory.binding(at(seconds), 5).expect("bound").kept_alive
        };
        assert_eq!(kept_alive(5060, 10), at(10));
        assert_eq!(kept_alive(5060, 20), at(10));
        assert_eq!(kept_alive(5070, 30), at(30));
    }

    #[test]
    fn a_registration_counts_once_at_the_backend_that_holds_it() {
        let directory = directory();
        let [three, four] = [3, 4].map(|id| Arc::new(BackendState::new(BackendId(id), at(0))));
        let bind = |id: u64, backend: u32, held: Option<RegistrationTicket>| {
            let next = Binding { backend: BackendId(backend), held, ..binding(id, 600) };
            directory.bind(1, b"x", next, 9).expect("room");
            (three.registrations(), four.registrations())
        };
        assert_eq!(bind(5, 3, Some(three.hold_registration())), (1, 0));
        assert_eq!(bind(5, 3, None), (1, 0), "a renewal keeps its ticket");
        assert_eq!(bind(5, 4, Some(four.hold_registration())), (0, 1), "a move gives it back");
        assert_eq!(bind(6, 3, None), (0, 1));
        assert_eq!(bind(6, 3, Some(three.hold_registration())), (1, 1), "the first ticket comes with a renewal");
        directory.unbind_all(at(1), 1);
        assert_eq!((three.registrations(), four.registrations()), (0, 0));
    }

    #[test]
    fn a_phone_leaves_alone_and_the_user_with_the_last() {
        let directory = with_phones(&[5, 6]);
        directory.unbind(at(1), 1, 7);
        directory.unbind(at(1), 2, 5);
        assert_eq!(directory.bindings(), 2, "what was not bound is not taken off the count");
        directory.unbind(at(1), 1, 5);
        assert_eq!((directory.bindings(), directory.binding(at(1), 6).is_some()), (1, true));
        directory.unbind(at(1), 1, 6);
        assert_eq!((directory.bindings(), is_known(&directory)), (0, false));
    }

    #[test]
    fn a_star_ends_all_bindings_of_its_user() {
        let directory = with_phones(&[5, 6, 7]);
        directory.bind(2, b"y", binding(8, 600), 9).expect("room");
        directory.unbind_all(at(1), 3);
        assert_eq!(directory.bindings(), 4);
        directory.unbind_all(at(1), 1);
        assert_eq!((directory.bindings(), is_known(&directory)), (1, false));
        assert!(directory.binding(at(1), 8).is_some());
    }

    #[test]
    fn live_phones_are_told_newest_first() {
        let directory = with_phones(&[5]);
        for (id, until) in [(6, 60), (7, 50), (5, 60)] {
            directory.bind(1, b"x", binding(id, until), 9).expect("room");
        }
        let live = |seconds: u64| {
            let ids = |person: &Person| person.all_live(at(seconds)).map(|binding| binding.id).collect::<Vec<u64>>();
            directory.with_person(1, ids).expect("bound")
        };
        assert_eq!(live(49), [5, 7, 6]);
        assert_eq!(live(50), [5, 6]);
        assert!(live(60).is_empty());
    }

    #[test]
    fn a_user_sticks_until_the_moment_given() {
        let directory = with_phones(&[5]);
        assert_eq!(directory.user_backend(at(0), 1), None);
        for aor in [1, 2] {
            directory.stick_user(aor, BackendId(4), at(60));
        }
        assert_eq!([59, 60].map(|second| directory.user_backend(at(second), 1)), [Some(BackendId(4)), None]);
        assert_eq!(directory.user_backend(at(59), 2), None, "nobody is registered there");
    }

    #[test]
    fn a_user_is_forgotten_when_neither_phone_nor_backend_is_left() {
        let directory = directory();
        directory.bind(1, b"x", binding(5, 60), 9).expect("room");
        directory.stick_user(1, BackendId(4), at(100));
        let mut broom = Broom::new(0, 1);
        let left = |seconds: u64| {
            directory.sweep(at(seconds), &mut broom, None);
            (directory.bindings(), is_known(&directory))
        };
        assert_eq!([59, 60, 99, 100].map(left), [(1, true), (0, true), (0, true), (0, false)]);
    }

    #[test]
    fn a_phone_heard_elsewhere_moves_alone() {
        let directory = with_phones(&[5, 6]);
        let found = |id: u64| {
            let found = directory.binding(at(20), id).expect("bound");
            (Flow::from(&found.flow), found.kept_alive)
        };
        for (second, id) in [(10, 5), (10, 9), (20, 5)] {
            directory.move_binding(at(second), id, flow(5070));
            // At 20 s it is heard where it was: its NAT binding is no younger than we know.
            assert_eq!((found(5), found(6)), ((flow(5070), at(10)), (flow(5060), at(0))), "{second} {id}");
        }
    }
}
