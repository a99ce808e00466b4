//! The transactions of one shard. A finished one shrinks to a tombstone of a few octets for the 32 s in which retransmissions
//! may still come.

use crate::context::Context;
use crate::id::BackendId;
use crate::io::Flow;
use hashbrown::HashMap;
use sip::Instant;
use slab::Slab;

/// Names one transaction: its place and the number that tells it from earlier ones at that place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Id {
    pub(crate) index: u32,
    pub(crate) sequence: u32,
}

/// What is left of a transaction whose answer has gone up.
#[derive(Clone, Debug)]
pub(crate) struct Tombstone {
    pub(crate) until: Instant,
    /// The backend that answered, 0 if it was another peer.
    pub(crate) backend: BackendId,
    pub(crate) attempt: u8,
    pub(crate) invite: bool,
    /// Where the request first came from, and what it said for loop detection: parts of its branch, which a repetition must repeat.
    pub(crate) first_upstream: Flow,
    pub(crate) loop_hash: u32,
    /// Where its sender is now, if a NAT has moved it.
    pub(crate) moved_to: Option<Box<Flow>>,
}

#[derive(Debug)]
pub(crate) enum Entry {
    Live(Box<Context>),
    /// Taken out to be worked on.
    Busy,
    Over(Tombstone),
}

#[derive(Debug)]
struct Slot {
    key: u64,
    sequence: u32,
    entry: Entry,
}

/// All transactions of a shard, found by the keyed hash of RFC 3261 §17.2.3 or by the number in our branch.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Slab<Slot>,
    by_key: HashMap<u64, u32, foldhash::fast::FixedState>,
    next_sequence: u32,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Numbers of an earlier start must not come again soon.
    pub(crate) fn start_sequence_at(&mut self, sequence: u32) {
        self.next_sequence = sequence;
    }

    /// The place that the next transaction gets: its branch must name it before it is inserted.
    pub(crate) fn next_id(&self) -> Id {
        Id { index: self.slots.vacant_key() as u32, sequence: self.next_sequence }
    }

    /// Inserts under the id that [`Table::next_id`] gave.
    pub(crate) fn insert(&mut self, key: u64, context: Box<Context>) -> Id {
        let id = self.next_id();
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.slots.insert(Slot { key, sequence: id.sequence, entry: Entry::Live(context) });
        self.by_key.insert(key, id.index);
        id
    }

    pub(crate) fn find(&self, key: u64) -> Option<Id> {
        let index = *self.by_key.get(&key)?;
        let slot = self.slots.get(index as usize)?;
        Some(Id { index, sequence: slot.sequence })
    }

    pub(crate) fn entry(&mut self, id: Id) -> Option<&mut Entry> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.sequence == id.sequence).map(|slot| &mut slot.entry)
    }

    pub(crate) fn bury(&mut self, id: Id, tombstone: Tombstone) {
        if let Some(entry) = self.entry(id) {
            *entry = Entry::Over(tombstone);
        }
    }

    pub(crate) fn remove(&mut self, id: Id) {
        if self.entry(id).is_none() {
            return;
        }
        let slot = self.slots.remove(id.index as usize);
        if self.by_key.get(&slot.key) == Some(&id.index) {
            self.by_key.remove(&slot.key);
        }
    }

    /// The ids of all live contexts, for what concerns them all.
    pub(crate) fn live_ids(&self) -> Vec<Id> {
        self.slots
            .iter()
            .filter(|(_, slot)| matches!(slot.entry, Entry::Live(_)))
            .map(|(index, slot)| Id { index: index as u32, sequence: slot.sequence })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Kind;
    use crate::id::{FarmId, ListenerId};
    use crate::machine::Server;
    use sip::transaction::OtherServer;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    fn flow() -> Flow {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Flow::of_datagram(ListenerId(1), local, SocketAddr::new(local, 5060))
    }

    fn context() -> Box<Context> {
        let server = Server::Other(OtherServer::Terminated);
        Box::new(Context::new(Kind::default(), FarmId(1), flow(), 0, server))
    }

    fn tombstone(attempt: u8) -> Tombstone {
        Tombstone {
            until: Instant::from_micros(32_000_000),
            backend: BackendId(5),
            attempt,
            invite: false,
            first_upstream: flow(),
            loop_hash: 0,
            moved_to: None,
        }
    }

    #[test]
    fn an_id_names_one_transaction_and_no_later_one_at_its_place() {
        let mut table = Table::default();
        table.start_sequence_at(u32::MAX);
        let foreseen = table.next_id();
        let first = table.insert(100, context());
        let second = table.insert(101, context());
        assert_eq!((foreseen, first), (Id { index: 0, sequence: u32::MAX }, Id { index: 0, sequence: u32::MAX }));
        assert_eq!(second, Id { index: 1, sequence: 0 });
        assert_eq!([100, 101, 102].map(|key| table.find(key)), [Some(first), Some(second), None]);
        assert_eq!(table.len(), 2);
        table.remove(first);
        assert_eq!((table.len(), table.find(100)), (1, None));
        let third = table.insert(102, context());
        assert_eq!(third, Id { index: 0, sequence: 1 });
        table.remove(first);
        table.bury(first, tombstone(0));
        assert!(table.entry(first).is_none());
        assert!(matches!(table.entry(third), Some(Entry::Live(_))), "the former owner of the place has no say");
        assert_eq!((table.len(), table.find(102)), (2, Some(third)));
    }

    #[test]
    fn a_key_names_the_newest_of_its_transactions() {
        let mut table = Table::default();
        let older = table.insert(5, context());
        let newer = table.insert(5, context());
        assert_eq!(table.find(5), Some(newer));
        table.remove(older);
        assert_eq!(table.find(5), Some(newer), "the key is not the older one's any more");
        table.remove(newer);
        assert_eq!((table.find(5), table.len()), (None, 0));
    }

    #[test]
    fn the_buried_and_the_busy_are_kept_but_not_live() {
        let mut table = Table::default();
        let [buried, busy, live] = [1, 2, 3].map(|key| table.insert(key, context()));
        assert_eq!(table.live_ids(), [buried, busy, live]);
        table.bury(buried, tombstone(4));
        *table.entry(busy).expect("it was inserted") = Entry::Busy;
        assert_eq!(table.live_ids(), [live]);
        assert!(matches!(table.entry(buried), Some(Entry::Over(Tombstone { attempt: 4, .. }))));
        assert_eq!((table.len(), table.find(1)), (3, Some(buried)));
    }
}
