//! Dialogs (RFC 3261 §12), as far as a proxy has to know them: for load figures, for `Replaces` and `Join`, and for phones whose
//! address changes in the middle of a call. In-dialog requests find their way by token alone.

use super::{Full, log};
use crate::id::BackendId;
use crate::io::Flow;
use crate::pool::CallTicket;
use hashbrown::HashMap;
use sip::Instant;
use smallvec::SmallVec;

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
    /// The log has told of it.
    pub(crate) logged: bool,
}

/// The dialogs of one stripe.
#[derive(Debug, Default)]
pub(crate) struct Dialogs {
    table: HashMap<u64, SmallVec<[Dialog; 1]>, foldhash::fast::FixedState>,
    changed: Vec<log::DialogChange>,
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
        self.find(key, to_tag).map(|known| known.ends = ends).is_some()
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

    pub(super) fn end(&mut self, key: &DialogKey, to_tag: u64) -> bool {
        let Some(dialogs) = self.table.get_mut(&key.call) else {
            return false;
        };
        let Some(at) = dialogs.iter().position(|dialog| dialog.key == *key && dialog.to_tag == to_tag) else {
            return false;
        };
        let dialog = dialogs.remove(at);
        if dialog.logged {
            let (key, to_tag) = (*key, to_tag);
            self.changed.push(log::DialogChange::Ended { key, to_tag });
        }
        if dialogs.is_empty() {
            self.table.remove(&key.call);
        }
        true
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
