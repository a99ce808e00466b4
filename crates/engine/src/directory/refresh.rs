//! What is known of a registration whose phone was told less than its backend granted (`max_expires`): as much as it takes to
//! tell a plain refresh from all else.
//!
//! None of it is logged: after a restart the first refresh goes to the backend.

use super::{Binding, Person};
use crate::id::BackendId;
use crate::io::Flow;
use sip::Instant;
use smallvec::SmallVec;
use std::num::NonZero;
use std::time::Duration;

/// RFC 3261 §17: 64 × T1. For so long the same REGISTER is a retransmission.
const REPEATED: Duration = Duration::from_secs(32);
/// Flows of one phone that are remembered; a binding keeps no more of them.
const MOST_FLOWS: usize = 4;
/// Who has more contacts than this hears of them from the backend: our answer is to fit into a datagram.
const MOST_CONTACTS: usize = 10;
/// Backends count in whole seconds, from the moment when they wrote their answer.
const ROUNDED: Duration = Duration::from_secs(5);

/// What a REGISTER says that may be a refresh.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) aor: u64,
    /// The binding, and the name of the flow if the phone names its flows.
    pub(crate) id: u64,
    pub(crate) reg_id: Option<u32>,
    /// Keyed hash of what stays the same between a REGISTER and its refreshes: Call-ID, the URIs of request, From and To,
    /// what the phone supports, and the Path to it.
    pub(crate) asker: u64,
    /// Keyed hash of the name that the credentials are for; `None`: there are none.
    pub(crate) credentials: Option<NonZero<u64>>,
    /// Keyed hash of the Contact but for its time.
    pub(crate) contact: u64,
    pub(crate) cseq: u32,
    /// The key of its transaction.
    pub(crate) transaction: u64,
    pub(crate) flow: Flow,
}

/// A REGISTER that a backend granted, and the refreshes that were answered since.
#[derive(Clone, Debug)]
pub(crate) struct Refresh {
    id: u64,
    reg_id: Option<u32>,
    asker: u64,
    credentials: Option<NonZero<u64>>,
    contact: u64,
    /// Of the newest that was answered, by the backend or by us.
    cseq: u32,
    backend: BackendId,
    /// Seconds.
    granted: u32,
    until: Instant,
    /// How many outages there were when that was known to hold.
    outages: u64,
    /// The newest one, if we answered it.
    answered: Option<Answered>,
}

#[derive(Clone, Copy, Debug)]
struct Answered {
    transaction: u64,
    at: Instant,
}

/// A backend's word that still holds for more than half of its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fresh {
    pub(crate) backend: BackendId,
    /// How many outages there were when that was known to hold.
    pub(crate) outages: u64,
    /// The moment that the answer speaks of: now, or when it was given first.
    pub(crate) as_of: Instant,
    pub(crate) left: Duration,
    pub(crate) granted: Duration,
}

/// Those of one user. Most farms have none and pay a pointer for that.
#[derive(Debug, Default)]
pub(super) struct Refreshes(Option<Box<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    each: SmallVec<[Refresh; 1]>,
    /// The bindings that a backend listed last, and until when it keeps each.
    listed: SmallVec<[(u64, Instant); 2]>,
}

impl Refresh {
    /// The backend granted what was asked for, for so many seconds from now on.
    pub(crate) fn new(now: Instant, asked: &Asked, backend: BackendId, granted: u32, outages: u64) -> Self {
        Self {
            id: asked.id,
            reg_id: asked.reg_id,
            asker: asked.asker,
            credentials: asked.credentials,
            contact: asked.contact,
            cseq: asked.cseq,
            backend,
            granted,
            until: now + Duration::from_secs(u64::from(granted)),
            outages,
            answered: None,
        }
    }

    /// Of which moment the answer speaks, if this is a later REGISTER of the same phone for the same contact, or the one that we
    /// answered last once more.
    fn as_of(&self, now: Instant, asked: &Asked) -> Option<Instant> {
        // Who sends none has not been asked for them yet.
        let names_another = asked.credentials.is_some() && asked.credentials != self.credentials;
        if self.asker != asked.asker || self.contact != asked.contact || names_another {
            return None;
        }
        if asked.cseq > self.cseq {
            return Some(now);
        }
        let answered = self.answered.filter(|answered| {
            let same = asked.cseq == self.cseq && asked.transaction == answered.transaction;
            same && now.saturating_since(answered.at) < REPEATED
        })?;
        Some(answered.at)
    }
}

impl Refreshes {
    /// Puts in, or takes out, what is known of this flow.
    pub(super) fn set(&mut self, now: Instant, id: u64, reg_id: Option<u32>, refresh: Option<Refresh>) {
        self.retain(|known| known.until > now && (known.id, known.reg_id) != (id, reg_id));
        let Some(refresh) = refresh else { return };
        let each = &mut self.0.get_or_insert_default().each;
        if each.iter().filter(|known| known.id == id).count() >= MOST_FLOWS
            && let Some(oldest) = each.iter().position(|known| known.id == id)
        {
            each.remove(oldest);
        }
        each.push(refresh);
    }

    /// A backend keeps each of these bindings until then, or does not know it. To it the flows of a phone are one binding, which
    /// lasts as long as the newest REGISTER of any of them was granted.
    pub(super) fn keep(&mut self, bindings: &[Binding], lasts: impl Fn(&Binding) -> Option<Instant>) {
        let Some(kept) = &mut self.0 else { return };
        let Kept { each, listed } = &mut **kept;
        *listed = bindings.iter().filter_map(|binding| Some((binding.id, lasts(binding)?))).collect();
        each.retain(|known| listed.iter().any(|(id, until)| *id == known.id && known.until <= *until + ROUNDED));
        if each.is_empty() {
            self.0 = None;
        }
    }

    /// Forgets what belongs to this binding.
    pub(super) fn forget(&mut self, id: u64) {
        self.retain(|known| known.id != id);
    }

    pub(super) fn forget_all(&mut self) {
        self.0 = None;
    }

    /// Forgets what belongs to none of these bindings.
    pub(super) fn keep_to(&mut self, bindings: &[Binding]) {
        self.retain(|known| bindings.iter().any(|binding| binding.id == known.id));
    }

    /// We answered this one.
    pub(super) fn answered(&mut self, now: Instant, asked: &Asked, outages: u64) {
        let mut each = self.0.iter_mut().flat_map(|kept| kept.each.iter_mut());
        let Some(known) = each.find(|known| (known.id, known.reg_id) == (asked.id, asked.reg_id)) else {
            return;
        };
        known.outages = outages;
        if asked.cseq > known.cseq {
            known.cseq = asked.cseq;
            known.answered = Some(Answered { transaction: asked.transaction, at: now });
        }
    }

    fn find(&self, asked: &Asked) -> Option<&Refresh> {
        let mut each = self.0.iter().flat_map(|kept| kept.each.iter());
        each.find(|known| (known.id, known.reg_id) == (asked.id, asked.reg_id))
    }

    /// Until when a backend keeps this binding, by what it listed last.
    fn listed_until(&self, id: u64) -> Option<Instant> {
        let mut listed = self.0.iter().flat_map(|kept| kept.listed.iter());
        listed.find(|(known, _)| *known == id).map(|(_, until)| *until)
    }

    fn retain(&mut self, keep: impl Fn(&Refresh) -> bool) {
        let Some(kept) = &mut self.0 else { return };
        kept.each.retain(|known| keep(known));
        if kept.each.is_empty() {
            self.0 = None;
        }
    }
}

impl Person {
    /// Is this a refresh that needs nobody's word but the one we have? It comes by the flow that the contact is reached by, and
    /// at least half of the time that the backend granted is left. Whether the backend is there is not known here.
    pub(super) fn fresh(&self, now: Instant, asked: &Asked) -> Option<Fresh> {
        let refresh = self.refreshes.find(asked)?;
        let as_of = refresh.as_of(now, asked)?;
        let binding = self.live(now, asked.id).filter(|binding| binding.backend == refresh.backend)?;
        let way = binding.ways(now).find(|way| way.reg_id == asked.reg_id)?;
        // The binding ends sooner where it was renewed while the farm shortened nothing.
        let left = refresh.until.min(way.expires).saturating_since(as_of);
        let granted = Duration::from_secs(u64::from(refresh.granted));
        let few = self.all_live(now).nth(MOST_CONTACTS).is_none();
        let holds = few && is_same(&way.flow, &asked.flow) && left * 2 >= granted;
        holds.then_some(Fresh { backend: refresh.backend, outages: refresh.outages, as_of, left, granted })
    }

    /// The user's contacts but for this one, newest first, and until when each lasts: those that a backend listed last, for
    /// it may have dropped one for another.
    pub(crate) fn contacts_but(&self, now: Instant, id: u64) -> impl Iterator<Item = (&[u8], Instant)> {
        let others = self.all_live(now).filter(move |binding| binding.id != id);
        others.filter_map(move |binding| {
            let way = binding.ways(now).next()?;
            let until = self.refreshes.listed_until(binding.id)?.min(way.expires);
            (until > now).then_some((way.contact, until))
        })
    }
}

/// RFC 5626: the same connection; of datagrams the same listener and the same sender.
fn is_same(known: &Flow, heard: &Flow) -> bool {
    known.listener == heard.listener && known.connection == heard.connection && known.leads_like(heard)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, binding, directory, flow};
    use super::super::{Broom, Directory, Outbound};
    use super::*;
    use crate::id::ListenerId;
    use crate::io::ConnectionId;

    const BACKEND: BackendId = BackendId(3);

    fn asked(cseq: u32) -> Asked {
        let flow = flow(5060);
        let (credentials, transaction) = (None, u64::from(cseq));
        Asked { aor: 1, id: 5, reg_id: None, asker: 7, credentials, contact: 8, cseq, transaction, flow }
    }

    fn grant(directory: &Directory, asked: &Asked, seconds: u32) {
        let outbound = asked.reg_id.map(Outbound::named);
        let until = u64::from(seconds);
        let bound = Binding { flow: asked.flow.into(), outbound, ..binding(asked.id, until) };
        directory.bind(asked.aor, b"x", bound, 99).expect("room");
        let refresh = Refresh::new(at(0), asked, BACKEND, seconds, 0);
        directory.set_refresh(at(0), asked.aor, asked.id, asked.reg_id, Some(refresh));
    }

    /// Granted for 3,600 s to the REGISTER with CSeq 2.
    fn granted() -> Directory {
        let directory = directory();
        grant(&directory, &asked(2), 3_600);
        directory
    }

    fn left(directory: &Directory, second: u64, asked: &Asked) -> Option<u64> {
        directory.fresh(at(second), asked).map(|fresh| fresh.left.as_secs())
    }

    #[test]
    fn users_without_any_pay_one_pointer() {
        const { assert!(size_of::<Refreshes>() <= 8) };
        const { assert!(size_of::<Refresh>() <= 96) };
    }

    #[test]
    fn a_grant_serves_for_half_of_its_time() {
        let directory = granted();
        for (second, wanted) in
            [(0, Some(3_600)), (60, Some(3_540)), (1_800, Some(1_800)), (1_801, None), (3_600, None)]
        {
            assert_eq!(left(&directory, second, &asked(3)), wanted, "{second}");
        }
        let known = directory.fresh(at(60), &asked(3)).map(|fresh| (fresh.backend, fresh.granted, fresh.as_of));
        assert_eq!(known, Some((BACKEND, Duration::from_secs(3_600), at(60))));
    }

    #[test]
    fn only_the_same_phone_asks_for_the_same() {
        let directory = granted();
        let same = asked(3);
        for (asked, holds) in [
            (same, true),
            (Asked { transaction: 99, ..same }, true),
            (Asked { aor: 2, ..same }, false),
            (Asked { id: 6, ..same }, false),
            (Asked { reg_id: Some(1), ..same }, false),
            (Asked { asker: 9, ..same }, false),
            (Asked { credentials: NonZero::new(9), ..same }, false),
            (Asked { contact: 9, ..same }, false),
            (Asked { cseq: 2, ..same }, false),
            (Asked { cseq: 1, ..same }, false),
            (Asked { flow: flow(5061), ..same }, false),
            (Asked { flow: Flow { listener: ListenerId(2), ..flow(5060) }, ..same }, false),
            (Asked { flow: Flow { connection: ConnectionId(4), ..flow(5060) }, ..same }, false),
        ] {
            assert_eq!(left(&directory, 60, &asked).is_some(), holds, "{asked:?}");
        }
    }

    #[test]
    fn who_names_himself_otherwise_is_another() {
        let by = |name: u64, cseq: u32| Asked { credentials: NonZero::new(name), ..asked(cseq) };
        let directory = directory();
        grant(&directory, &by(4, 2), 3_600);
        let known = [4, 0, 5].map(|name| left(&directory, 1, &by(name, 3)).is_some());
        assert_eq!(known, [true, true, false]);
    }

    #[test]
    fn a_connection_is_the_same_by_its_number() {
        let by = |connection: u32, port: u16| Flow { connection: ConnectionId(connection), ..flow(port) };
        let directory = directory();
        grant(&directory, &Asked { flow: by(4, 5060), ..asked(2) }, 3_600);
        let heard =
            [by(4, 5060), by(5, 5060), by(0, 5060)].map(|flow| left(&directory, 1, &Asked { flow, ..asked(3) }));
        assert_eq!(heard.map(|left| left.is_some()), [true, false, false]);
    }

    #[test]
    fn what_we_answered_is_answered_again_for_32_s() {
        let directory = granted();
        directory.refreshed(at(100), &asked(5), 0);
        let again = |second: u64, asked: &Asked| directory.fresh(at(second), asked).map(|fresh| fresh.as_of);
        assert_eq!([100, 131, 132].map(|second| again(second, &asked(5))), [Some(at(100)), Some(at(100)), None]);
        assert_eq!(again(101, &Asked { transaction: 9, ..asked(5) }), None, "another one with the same number");
        assert_eq!(again(101, &asked(4)), None);
        assert_eq!(again(101, &asked(6)), Some(at(101)));
        // Even where half of the time is over meanwhile, and however often it comes.
        directory.refreshed(at(1_800), &asked(6), 0);
        directory.refreshed(at(1_805), &asked(6), 0);
        assert_eq!([1_810, 1_832].map(|second| again(second, &asked(6))), [Some(at(1_800)), None]);
        assert_eq!(again(1_810, &asked(7)), None);
    }

    #[test]
    fn a_refresh_goes_with_its_binding() {
        type Change = fn(&Directory);
        let changes: [(Change, bool); 8] = [
            (|_| (), true),
            (|directory| directory.unbind(at(1), 1, 5), false),
            (|directory| directory.unbind(at(1), 1, 6), true),
            (|directory| directory.unbind_all(at(1), 1), false),
            (|directory| directory.set_refresh(at(1), 1, 5, None, None), false),
            (|directory| directory.move_binding(at(1), 5, flow(5070)), false),
            (|directory| directory.bind(1, b"x", binding(5, 100), 9).expect("room"), false),
            (
                |directory| {
                    let elsewhere = Binding { backend: BackendId(4), ..binding(5, 3_600) };
                    directory.bind(1, b"x", elsewhere, 9).expect("room");
                },
                false,
            ),
        ];
        for (at_change, (change, holds)) in changes.into_iter().enumerate() {
            let directory = granted();
            change(&directory);
            if directory.binding(at(1), 5).is_none() {
                directory.bind(1, b"x", binding(5, 3_600), 9).expect("room");
            }
            assert_eq!(left(&directory, 2, &asked(3)).is_some(), holds, "{at_change}");
        }
    }

    #[test]
    fn what_the_backend_drops_or_ends_sooner_is_forgotten() {
        for (lasts, holds) in
            [(Some(4_000), true), (Some(3_600), true), (Some(3_595), true), (Some(3_594), false), (None, false)]
        {
            let directory = granted();
            grant(&directory, &Asked { id: 6, ..asked(2) }, 3_600);
            directory.keep_refreshes(1, |binding| if binding.id == 5 { lasts.map(at) } else { Some(at(3_600)) });
            let known = [5, 6].map(|id| left(&directory, 1, &Asked { id, ..asked(3) }).is_some());
            assert_eq!(known, [holds, true], "{lasts:?}");
        }
    }

    #[test]
    fn the_other_contacts_are_those_that_the_backend_listed_last() {
        let directory = granted();
        for id in [6, 7, 8] {
            directory.bind(1, b"x", binding(id, 600), 9).expect("room");
        }
        let others = |second: u64| {
            let ends = |person: &Person| person.contacts_but(at(second), 5).map(|(_, until)| until).collect::<Vec<_>>();
            directory.with_person(1, ends)
        };
        assert_eq!(others(1), Some(Vec::new()));
        directory.keep_refreshes(1, |binding| match binding.id {
            5 => Some(at(3_600)),
            6 => Some(at(400)),
            7 => Some(at(900)),
            _ => None,
        });
        assert_eq!(others(1), Some(vec![at(600), at(400)]));
        assert_eq!(others(400), Some(vec![at(600)]));
    }

    #[test]
    fn a_sweep_leaves_those_of_live_bindings() {
        let directory = granted();
        grant(&directory, &Asked { id: 6, ..asked(2) }, 60);
        directory.sweep(at(60), &mut Broom::new(0, 1), None);
        let known = |person: &Person| person.refreshes.0.as_ref().map_or(0, |kept| kept.each.len());
        assert_eq!(directory.with_person(1, known), Some(1));
    }

    #[test]
    fn each_flow_has_its_own_and_of_five_the_oldest_is_forgotten() {
        let directory = directory();
        let by = |reg_id: u32, cseq: u32| Asked {
            reg_id: Some(reg_id),
            flow: flow(5_000 + reg_id as u16),
            asker: u64::from(reg_id),
            ..asked(cseq)
        };
        let known = || [1, 2, 3, 4, 5].map(|reg_id| left(&directory, 1, &by(reg_id, 3)).is_some());
        for reg_id in 1..=4 {
            grant(&directory, &by(reg_id, 2), 3_600);
        }
        assert_eq!(known(), [true, true, true, true, false]);
        grant(&directory, &by(5, 2), 3_600);
        assert_eq!(known(), [false, true, true, true, true]);
        // The box was told anew when one of them left.
        directory.remove_flow(at(1), 1, 5, 3);
        assert_eq!(known(), [false; 5]);
    }

    #[test]
    fn who_has_very_many_contacts_hears_of_them_from_the_backend() {
        let directory = granted();
        for id in 10..19 {
            directory.bind(1, b"x", binding(id, 3_600), 99).expect("room");
        }
        assert!(left(&directory, 1, &asked(3)).is_some());
        directory.bind(1, b"x", binding(19, 60), 99).expect("room");
        assert!(left(&directory, 1, &asked(3)).is_none());
        assert!(left(&directory, 60, &asked(3)).is_some());
    }
}
