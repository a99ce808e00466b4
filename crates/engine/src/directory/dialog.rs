//! Dialogs (RFC 3261 §12), as far as a proxy has to know them: for load figures, for `Replaces` and `Join`, and for phones whose
//! address changes in the middle of a call. In-dialog requests find their way by token alone.

use super::{Directory, Full, Sides, lock, log};
use crate::id::BackendId;
use crate::io::Flow;
use crate::pool::CallTicket;
use hashbrown::HashMap;
use sip::Instant;
use smallvec::SmallVec;
use std::sync::atomic::Ordering;

/// What a dialog's token and tags say about it: the same for each of its requests and from both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct DialogKey {
    /// Keyed hash of the Call-ID.
    pub(crate) call: u64,
    pub(crate) backend: BackendId,
    /// The peer (not the backend) sent the request that made the dialog.
    pub(crate) from_peer: bool,
    /// Keyed hash of the From tag of that request.
    pub(crate) from_tag: u64,
}

#[derive(Debug)]
pub(crate) struct Dialog {
    pub(crate) key: DialogKey,
    /// Keyed hash of the To tag of its answer.
    pub(crate) to_tag: u64,
    /// Where the peer was last heard.
    pub(crate) peer: Flow,
    /// The peer's binding, 0 if it has none.
    pub(crate) binding: u64,
    pub(crate) since: Instant,
    pub(crate) ends: Instant,
    /// Counts the call at its backend, for as long as the dialog is remembered.
    pub(crate) ticket: Option<CallTicket>,
    /// What a BYE of our own would say to either party. `None`: a process before this one saw the call begin, or it is too long.
    pub(crate) sides: Option<Sides>,
    /// The log has told of it.
    pub(crate) logged: bool,
}

/// The dialogs of one stripe.
#[derive(Debug, Default)]
pub(crate) struct Dialogs {
    table: HashMap<u64, SmallVec<[Dialog; 1]>, foldhash::fast::FixedState>,
    changed: Vec<log::DialogChange>,
}

impl Directory {
    /// Forgets the dialogs that `is_cut` names in one part of the stripes, of so many parts, and hands them over.
    pub(crate) fn cut_dialogs(&self, part: usize, parts: usize, is_cut: impl Fn(&Dialog) -> bool) -> Vec<Dialog> {
        let mut gone = Vec::new();
        for stripe in self.dialogs.iter().skip(part).step_by(parts.max(1)) {
            let before = gone.len();
            lock(stripe).cut(&is_cut, &mut gone);
            self.calls.fetch_sub((gone.len() - before) as u64, Ordering::Relaxed);
        }
        gone
    }
}

impl Dialogs {
    /// Adds a dialog, or renews one (a retransmitted 2xx); `Ok(true)` if it is new.
    pub(super) fn begin(&mut self, dialog: Dialog, full: bool) -> Result<bool, Full> {
        let (key, to_tag) = (dialog.key, dialog.to_tag);
        if self.renew(&key, to_tag, dialog.ends) {
            return Ok(false);
        }
        if full {
            return Err(Full);
        }
        self.changed.push(log::DialogChange::Begun { key, to_tag });
        self.table.entry(key.call).or_default().push(dialog);
        Ok(true)
    }

    /// A request inside the dialog went well. One that has ended meanwhile stays ended; `false`: it is not known.
    pub(crate) fn renew(&mut self, key: &DialogKey, to_tag: u64, ends: Instant) -> bool {
        let Some(known) = self.find(key, to_tag) else {
            return false;
        };
        if known.ends != ends {
            known.ends = ends;
            // After a restart the call must not lapse before its time.
            self.changed.push(log::DialogChange::Begun { key: *key, to_tag });
        }
        true
    }

    pub(crate) fn find(&mut self, key: &DialogKey, to_tag: u64) -> Option<&mut Dialog> {
        self.table.get_mut(&key.call)?.iter_mut().find(|dialog| dialog.key == *key && dialog.to_tag == to_tag)
    }

    /// The backend of a dialog named from outside by Call-ID and both tags, in either order (RFC 3891 §3).
    pub(crate) fn backend_of(&self, call: u64, tags: [u64; 2]) -> Option<BackendId> {
        let [one, other] = tags;
        self.table
            .get(&call)?
            .iter()
            .find(|dialog| {
                let known = (dialog.key.from_tag, dialog.to_tag);
                known == (one, other) || known == (other, one)
            })
            .map(|dialog| dialog.key.backend)
    }

    /// The peer was heard at a new address.
    pub(crate) fn move_peer(&mut self, key: &DialogKey, to_tag: u64, peer: Flow) {
        let Some(dialog) = self.find(key, to_tag) else {
            return;
        };
        if dialog.peer != peer {
            dialog.peer = peer;
            let (key, to_tag) = (dialog.key, dialog.to_tag);
            self.changed.push(log::DialogChange::Begun { key, to_tag });
        }
    }

    /// The called peer of the dialog with these tags was heard at a new address; gives its binding.
    pub(crate) fn move_called_peer(&mut self, call: u64, from_tag: u64, to_tag: u64, peer: Flow) -> Option<u64> {
        let dialog = self
            .table
            .get(&call)?
            .iter()
            .find(|dialog| !dialog.key.from_peer && dialog.key.from_tag == from_tag && dialog.to_tag == to_tag)?;
        let (key, binding) = (dialog.key, dialog.binding);
        self.move_peer(&key, to_tag, peer);
        Some(binding)
    }

    /// The peer that sends a request with these tags was heard at a new address; gives its binding. The To tag is 0 in the request
    /// that makes the dialog.
    pub(crate) fn move_sender(&mut self, call: u64, from_tag: u64, to_tag: u64, peer: Flow) -> Option<u64> {
        let dialog = self.table.get(&call)?.iter().find(|dialog| {
            let key = &dialog.key;
            if key.from_peer {
                key.from_tag == from_tag && (to_tag == 0 || dialog.to_tag == to_tag)
            } else {
                dialog.to_tag == from_tag && key.from_tag == to_tag
            }
        })?;
        let (key, to_tag, binding) = (dialog.key, dialog.to_tag, dialog.binding);
        self.move_peer(&key, to_tag, peer);
        Some(binding)
    }

    pub(super) fn end(&mut self, key: &DialogKey, to_tag: u64) -> Option<Dialog> {
        let dialogs = self.table.get_mut(&key.call)?;
        let at = dialogs.iter().position(|dialog| dialog.key == *key && dialog.to_tag == to_tag)?;
        let dialog = dialogs.remove(at);
        if dialog.logged {
            let (key, to_tag) = (*key, to_tag);
            self.changed.push(log::DialogChange::Ended { key, to_tag });
        }
        if dialogs.is_empty() {
            self.table.remove(&key.call);
        }
        Some(dialog)
    }

    /// Ends dialogs whose backend was cut, and moves them into `gone`.
    fn cut(&mut self, is_cut: &impl Fn(&Dialog) -> bool, gone: &mut Vec<Dialog>) {
        let changed = &mut self.changed;
        self.table.retain(|_, dialogs| {
            let mut at = 0;
            while let Some(dialog) = dialogs.get(at) {
                if !is_cut(dialog) {
                    at += 1;
                    continue;
                }
                let dialog = dialogs.remove(at);
                if dialog.logged {
                    let (key, to_tag) = (dialog.key, dialog.to_tag);
                    changed.push(log::DialogChange::Ended { key, to_tag });
                }
                gone.push(dialog);
            }
            !dialogs.is_empty()
        });
    }

    /// Ends dialogs whose time is up; gives their number.
    pub(super) fn sweep(&mut self, now: Instant) -> u64 {
        let mut ended = 0;
        self.table.retain(|_, dialogs| {
            dialogs.retain(|dialog| {
                let live = dialog.ends > now;
                ended += u64::from(!live);
                live
            });
            !dialogs.is_empty()
        });
        ended
    }

    /// Writes what changed since the last time. Calls that came and went in between leave no trace.
    pub(super) fn write_changes(&mut self, clock: &log::WallClock, out: &mut Vec<u8>) {
        for change in std::mem::take(&mut self.changed) {
            match change {
                log::DialogChange::Begun { key, to_tag } => {
                    if let Some(dialog) = self.find(&key, to_tag) {
                        dialog.logged = true;
                        log::write_dialog(clock, dialog, out);
                    }
                }
                log::DialogChange::Ended { key, to_tag } => {
                    log::write_dialog_end(&key, to_tag, out);
                }
            }
        }
    }

    pub(super) fn write_all(&mut self, clock: &log::WallClock, now: Instant, out: &mut Vec<u8>) {
        for dialog in self.table.values_mut().flatten() {
            if dialog.ends > now {
                dialog.logged = true;
                log::write_dialog(clock, dialog, out);
            }
        }
    }

    pub(super) fn discard_changes(&mut self) {
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{at, dialog_of, directory, flow};
    use super::*;

    /// One dialog that ends at 60 s, its tags 8 and 9, its binding 11.
    fn one_dialog(from_peer: bool) -> (Dialogs, DialogKey) {
        let mut dialogs = Dialogs::default();
        let mut first = dialog_of(5, 60);
        first.key.from_peer = from_peer;
        let key = first.key;
        assert_eq!(dialogs.begin(first, false), Ok(true));
        (dialogs, key)
    }

    /// The length of what the log is told now.
    fn told(dialogs: &mut Dialogs) -> usize {
        let clock = log::WallClock { now: at(2), unix_ms: 1_700_000_000_000 };
        let mut out = Vec::new();
        dialogs.write_changes(&clock, &mut out);
        out.len()
    }

    #[test]
    fn a_dialog_is_renewed_by_its_key_and_to_tag_and_needs_no_room_for_it() {
        let (mut dialogs, key) = one_dialog(true);
        assert_eq!(dialogs.begin(dialog_of(5, 90), true), Ok(false));
        assert_eq!(dialogs.begin(dialog_of(6, 90), true), Err(Full));
        assert_eq!(dialogs.find(&key, 9).map(|known| known.ends), Some(at(90)));
        let other = DialogKey { from_tag: 7, ..key };
        for (asked, to_tag, known) in [(key, 9, true), (key, 8, false), (other, 9, false)] {
            assert_eq!(dialogs.renew(&asked, to_tag, at(120)), known, "{asked:?} {to_tag}");
        }
        assert_eq!(dialogs.find(&key, 9).map(|known| known.ends), Some(at(120)));
    }

    #[test]
    fn only_the_dialog_named_ends_and_once() {
        let (mut dialogs, key) = one_dialog(true);
        let [other_tag, other_call] = [DialogKey { from_tag: 7, ..key }, DialogKey { call: 6, ..key }];
        let asked = [(other_tag, 9), (other_call, 9), (key, 8), (key, 9), (key, 9)];
        let ended = asked.map(|(key, to_tag)| dialogs.end(&key, to_tag).is_some());
        assert_eq!(ended, [false, false, false, true, false]);
    }

    #[test]
    fn a_part_gives_up_the_dialogs_of_its_stripes_that_are_cut() {
        let directory = directory();
        let mut others = dialog_of(9, 60);
        others.key.backend = BackendId(4);
        // Of one Call-ID as well.
        let mut forked = dialog_of(9, 60);
        forked.to_tag = 10;
        for dialog in [others, forked, dialog_of(9, 60), dialog_of((1 << 58) | 9, 60)] {
            directory.begin_dialog(dialog, 9).expect("room");
        }
        let clock = log::WallClock { now: at(2), unix_ms: 1_700_000_000_000 };
        let mut begun = Vec::new();
        directory.write_changes(&clock, &mut begun);
        let cut = |part: usize| directory.cut_dialogs(part, 2, |dialog| dialog.key.backend == BackendId(3)).len();
        assert_eq!([cut(0), directory.dialogs() as usize, cut(0)], [2, 2, 0]);
        assert_eq!([cut(1), directory.dialogs() as usize, cut(64)], [1, 1, 0]);
        let mut ended = Vec::new();
        directory.write_changes(&clock, &mut ended);
        assert_eq!((begun.len(), ended.len()), (4 * 77, 3 * 36));
    }

    #[test]
    fn replaces_names_a_dialog_by_both_tags_in_either_order() {
        let (dialogs, _) = one_dialog(true);
        for (call, tags, known) in
            [(5, [8, 9], true), (5, [9, 8], true), (5, [8, 8], false), (5, [9, 9], false), (6, [8, 9], false)]
        {
            assert_eq!(dialogs.backend_of(call, tags), known.then_some(BackendId(3)), "{call} {tags:?}");
        }
    }

    #[test]
    fn a_peer_heard_elsewhere_is_known_by_its_side_of_the_tags() {
        for (from_peer, [from_tag, to_tag], as_called, as_sender) in [
            // The peer was called: its tag is the To tag of the dialog, and the From tag of what it sends.
            (false, [8, 9], true, false),
            (false, [8, 1], false, false),
            (false, [1, 9], false, false),
            (false, [9, 8], false, true),
            (false, [9, 1], false, false),
            (false, [1, 8], false, false),
            (false, [9, 0], false, false),
            // The peer called; its first request has no To tag.
            (true, [8, 9], false, true),
            (true, [8, 0], false, true),
            (true, [8, 1], false, false),
            (true, [1, 9], false, false),
            (true, [1, 0], false, false),
            (true, [9, 8], false, false),
        ] {
            let expected = |moved: bool| if moved { (Some(11), flow(5070)) } else { (None, flow(5060)) };
            let (mut dialogs, key) = one_dialog(from_peer);
            let binding = dialogs.move_called_peer(5, from_tag, to_tag, flow(5070));
            let peer = dialogs.find(&key, 9).expect("begun").peer;
            assert_eq!((binding, peer), expected(as_called), "called {from_peer} {from_tag} {to_tag}");
            let (mut dialogs, key) = one_dialog(from_peer);
            let binding = dialogs.move_sender(5, from_tag, to_tag, flow(5070));
            let peer = dialogs.find(&key, 9).expect("begun").peer;
            assert_eq!((binding, peer), expected(as_sender), "sender {from_peer} {from_tag} {to_tag}");
        }
    }

    #[test]
    fn the_log_is_told_of_each_change_once() {
        let (mut dialogs, key) = one_dialog(true);
        assert_eq!([told(&mut dialogs), told(&mut dialogs)], [77, 0]);
        dialogs.move_peer(&key, 9, flow(5060));
        assert_eq!(told(&mut dialogs), 0, "heard where it was");
        dialogs.move_peer(&key, 9, flow(5070));
        assert_eq!(told(&mut dialogs), 77);
        assert!(dialogs.end(&key, 9).is_some());
        assert_eq!([told(&mut dialogs), told(&mut dialogs)], [36, 0]);
        let (mut dialogs, _) = one_dialog(true);
        dialogs.discard_changes();
        assert_eq!(told(&mut dialogs), 0);
    }
}
