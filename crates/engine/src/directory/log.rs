//! The directory as octets: a log of facts that survives the process.
//!
//! ```text
//! record   length:2 (of what follows)  kind:1  fields…  sum:4
//! 1 bound    aor:8 id:8 expires:8 backend:4 nat:1 FLOW name-length:1 name contact (the rest)
//! 2 unbound  aor:8 id:8
//! 3 dialog   KEY to-tag:8 since:8 ends:8 counted:1 binding:8 FLOW
//! 4 ended    KEY to-tag:8
//! 5 flows    aor:8 id:8 backend:4 name-length:1 name, then each flow: reg-id:4 expires:8 nat:1 FLOW contact-length:2 contact
//! KEY  call:8 backend:4 from-peer:1 from-tag:8        FLOW  listener:4 LOCAL REMOTE port:2, an address is 4:1 octets or 6:1 octets
//! ```
//! Numbers are big-endian, times are milliseconds of Unix time. A record that a crash cut short, or whose sum does not fit, is
//! counted and passed over; nothing read can make the loader panic or allocate more than the log is long.

use super::outbound::NamedFlow;
use super::{Binding, Dialog, DialogKey, Directory, Person, lock};
use crate::id::{BackendId, ListenerId};
use crate::io::{ConnectionId, Flow};
use crate::pool::BackendState;
use sip::Instant;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// What reading a log gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loaded {
    pub records: usize,
    /// Records cut short or altered.
    pub damaged: usize,
}

/// Ties the caller's clock to Unix time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WallClock {
    pub(crate) now: Instant,
    pub(crate) unix_ms: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    Bound { aor: u64, id: u64 },
    Unbound { aor: u64, id: u64 },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum DialogChange {
    Begun { key: DialogKey, to_tag: u64 },
    Ended { key: DialogKey, to_tag: u64 },
}

const BOUND: u8 = 1;
const UNBOUND: u8 = 2;
const DIALOG: u8 = 3;
const ENDED: u8 = 4;
const FLOWS: u8 = 5;

impl WallClock {
    fn unix_of(&self, at: Instant) -> u64 {
        let ahead = at.saturating_since(self.now).as_millis() as u64;
        let behind = self.now.saturating_since(at).as_millis() as u64;
        (self.unix_ms + ahead).saturating_sub(behind)
    }

    fn instant_of(&self, unix_ms: u64) -> Instant {
        match unix_ms.checked_sub(self.unix_ms) {
            Some(ahead) => self.now + Duration::from_millis(ahead),
            None => {
                let behind = (self.unix_ms - unix_ms).saturating_mul(1_000);
                Instant::from_micros(self.now.as_micros().saturating_sub(behind))
            }
        }
    }
}

impl Directory {
    /// Appends what changed since the last call.
    pub(crate) fn write_changes(&self, clock: &WallClock, out: &mut Vec<u8>) {
        for people in &self.people {
            lock(people).write_changes(clock, out);
        }
        for dialogs in &self.dialogs {
            lock(dialogs).write_changes(clock, out);
        }
    }

    /// Appends every live fact.
    pub(crate) fn write_all(&self, clock: &WallClock, out: &mut Vec<u8>) {
        for people in &self.people {
            lock(people).write_all(clock, clock.now, out);
        }
        for dialogs in &self.dialogs {
            lock(dialogs).write_all(clock, clock.now, out);
        }
    }

    /// Reads a log into an empty directory. `state` finds the backend that a call or binding counts at.
    pub(crate) fn load(
        &self,
        clock: &WallClock,
        limits: &crate::settings::Limits,
        mut log: &[u8],
        state: impl Fn(BackendId) -> Option<Arc<BackendState>>,
    ) -> Loaded {
        let mut loaded = Loaded::default();
        while !log.is_empty() {
            let Some((record, rest)) = split_record(log) else {
                // Without a length there is no telling where the next record starts.
                loaded.damaged += 1;
                break;
            };
            log = rest;
            match record.and_then(|fields| self.load_record(clock, limits, fields, &state)) {
                Some(()) => loaded.records += 1,
                None => loaded.damaged += 1,
            }
        }
        for people in &self.people {
            lock(people).discard_changes();
        }
        for dialogs in &self.dialogs {
            lock(dialogs).discard_changes();
        }
        loaded
    }

    fn load_record(
        &self,
        clock: &WallClock,
        limits: &crate::settings::Limits,
        fields: &[u8],
        state: &impl Fn(BackendId) -> Option<Arc<BackendState>>,
    ) -> Option<()> {
        let mut reader = Reader(fields);
        match reader.byte()? {
            BOUND => self.load_binding(clock, limits, &mut reader, state),
            FLOWS => self.load_flows(clock, limits, &mut reader, state),
            UNBOUND => {
                let (aor, id) = (reader.number()?, reader.number()?);
                self.unbind(clock.now, aor, id);
                Some(())
            }
            DIALOG => {
                let (dialog, counted) = read_dialog(clock, &mut reader)?;
                if dialog.ends <= clock.now {
                    // An earlier record may have given it longer.
                    self.end_dialog(&dialog.key, dialog.to_tag);
                    return Some(());
                }
                let ticket = counted.then(|| state(dialog.key.backend)).flatten().map(|state| state.restore_call());
                let (key, to_tag, peer) = (dialog.key, dialog.to_tag, dialog.peer);
                // A full table is no damage: the call itself goes on by its tokens.
                let _ = self.begin_dialog(Dialog { ticket, ..dialog }, limits.dialogs);
                self.with_dialogs(key.call, |dialogs| dialogs.move_peer(&key, to_tag, peer));
                Some(())
            }
            ENDED => {
                let (key, to_tag) = (reader.key()?, reader.number()?);
                self.end_dialog(&key, to_tag);
                Some(())
            }
            _ => None,
        }
    }

    fn load_binding(
        &self,
        clock: &WallClock,
        limits: &crate::settings::Limits,
        reader: &mut Reader<'_>,
        state: &impl Fn(BackendId) -> Option<Arc<BackendState>>,
    ) -> Option<()> {
        let (aor, id) = (reader.number()?, reader.number()?);
        let expires = clock.instant_of(reader.number()?);
        let backend = BackendId(reader.word()?);
        let behind_nat = reader.byte()? != 0;
        let flow = reader.flow()?;
        let length = usize::from(reader.byte()?);
        let name = reader.bytes(length)?;
        if expires <= clock.now {
            self.unbind(clock.now, aor, id);
            return Some(());
        }
        let binding = Binding {
            id,
            contact: Box::from(reader.0),
            flow: flow.into(),
            backend,
            expires,
            behind_nat,
            kept_alive: clock.now,
            held: state(backend).map(|state| state.hold_registration()),
            outbound: None,
        };
        // A full table loses the binding until the phone's next REGISTER; the record itself is sound.
        if self.bind(aor, name, binding, limits.bindings).is_ok() {
            self.stick_user(aor, backend, expires);
        }
        Some(())
    }

    /// The binding of a phone that names its flows: what the record says is all that is known of it.
    fn load_flows(
        &self,
        clock: &WallClock,
        limits: &crate::settings::Limits,
        reader: &mut Reader<'_>,
        state: &impl Fn(BackendId) -> Option<Arc<BackendState>>,
    ) -> Option<()> {
        let (aor, id) = (reader.number()?, reader.number()?);
        let backend = BackendId(reader.word()?);
        let length = usize::from(reader.byte()?);
        let name = reader.bytes(length)?;
        let mut flows = Vec::new();
        while !reader.0.is_empty() {
            let flow = reader.named_flow(clock)?;
            if flow.expires > clock.now {
                flows.push(flow);
            }
        }
        self.unbind(clock.now, aor, id);
        let last = flows.iter().map(|flow| flow.expires).max();
        let held = state(backend).map(|state| state.hold_registration());
        if let (Some(last), Some(binding)) = (last, Binding::of_flows(id, backend, held, flows))
            && self.bind(aor, name, binding, limits.bindings).is_ok()
        {
            self.stick_user(aor, backend, last);
        }
        Some(())
    }
}

pub(super) fn write_binding(clock: &WallClock, aor: u64, person: &Person, binding: &Binding, out: &mut Vec<u8>) {
    let name = person.name.get(..255).unwrap_or(&person.name);
    if binding.outbound.is_some() {
        write_record(out, |out| write_flows(clock, aor, name, binding, out));
        return;
    }
    write_record(out, |out| {
        out.push(BOUND);
        out.extend_from_slice(&aor.to_be_bytes());
        out.extend_from_slice(&binding.id.to_be_bytes());
        out.extend_from_slice(&clock.unix_of(binding.expires).to_be_bytes());
        out.extend_from_slice(&binding.backend.0.to_be_bytes());
        out.push(u8::from(binding.behind_nat));
        write_flow(&Flow::from(&binding.flow), out);
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.extend_from_slice(&binding.contact);
    });
}

fn write_flows(clock: &WallClock, aor: u64, name: &[u8], binding: &Binding, out: &mut Vec<u8>) {
    out.push(FLOWS);
    out.extend_from_slice(&aor.to_be_bytes());
    out.extend_from_slice(&binding.id.to_be_bytes());
    out.extend_from_slice(&binding.backend.0.to_be_bytes());
    out.push(name.len() as u8);
    out.extend_from_slice(name);
    for way in binding.ways(clock.now) {
        let (Some(reg_id), Ok(length)) = (way.reg_id, u16::try_from(way.contact.len())) else {
            continue;
        };
        out.extend_from_slice(&reg_id.to_be_bytes());
        out.extend_from_slice(&clock.unix_of(way.expires).to_be_bytes());
        out.push(u8::from(way.behind_nat));
        write_flow(&way.flow, out);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(way.contact);
    }
}

pub(super) fn write_unbinding(aor: u64, id: u64, out: &mut Vec<u8>) {
    write_record(out, |out| {
        out.push(UNBOUND);
        out.extend_from_slice(&aor.to_be_bytes());
        out.extend_from_slice(&id.to_be_bytes());
    });
}

pub(super) fn write_dialog(clock: &WallClock, dialog: &Dialog, out: &mut Vec<u8>) {
    write_record(out, |out| {
        out.push(DIALOG);
        write_key(&dialog.key, out);
        out.extend_from_slice(&dialog.to_tag.to_be_bytes());
        out.extend_from_slice(&clock.unix_of(dialog.since).to_be_bytes());
        out.extend_from_slice(&clock.unix_of(dialog.ends).to_be_bytes());
        out.push(u8::from(dialog.ticket.is_some()));
        out.extend_from_slice(&dialog.binding.to_be_bytes());
        write_flow(&dialog.peer, out);
    });
}

pub(super) fn write_dialog_end(key: &DialogKey, to_tag: u64, out: &mut Vec<u8>) {
    write_record(out, |out| {
        out.push(ENDED);
        write_key(key, out);
        out.extend_from_slice(&to_tag.to_be_bytes());
    });
}

fn write_record(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0]);
    fields(out);
    let sum = sum(&out[start + 2..]);
    out.extend_from_slice(&sum.to_be_bytes());
    let length = out.len() - start - 2;
    match u16::try_from(length) {
        Ok(length) => out[start..start + 2].copy_from_slice(&length.to_be_bytes()),
        // A contact of 64 KB does not come back after a restart; its phone registers again.
        Err(_) => out.truncate(start),
    }
}

fn write_key(key: &DialogKey, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.call.to_be_bytes());
    out.extend_from_slice(&key.backend.0.to_be_bytes());
    out.push(u8::from(key.from_peer));
    out.extend_from_slice(&key.from_tag.to_be_bytes());
}

fn write_flow(flow: &Flow, out: &mut Vec<u8>) {
    out.extend_from_slice(&flow.listener.0.to_be_bytes());
    write_address(flow.local, out);
    write_address(flow.remote.ip(), out);
    // A connection does not outlive the process: port 0 says that there was one.
    let port = if flow.connection.is_some() { 0 } else { flow.remote.port() };
    out.extend_from_slice(&port.to_be_bytes());
}

fn write_address(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => {
            out.push(4);
            out.extend_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            out.push(6);
            out.extend_from_slice(&address.octets());
        }
    }
}

fn read_dialog(clock: &WallClock, reader: &mut Reader<'_>) -> Option<(Dialog, bool)> {
    let key = reader.key()?;
    let to_tag = reader.number()?;
    let since = clock.instant_of(reader.number()?);
    let ends = clock.instant_of(reader.number()?);
    let counted = reader.byte()? != 0;
    let binding = reader.number()?;
    let dialog =
        Dialog { key, to_tag, peer: reader.flow()?, binding, since, ends, ticket: None, sides: None, logged: true };
    Some((dialog, counted))
}

/// The fields of the first record (`None` if its sum does not fit) and the rest of the log; `None` if it is cut short.
fn split_record(log: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, rest) = log.split_first_chunk::<2>()?;
    let (record, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let fields = record
        .split_last_chunk::<4>()
        .filter(|(fields, given)| sum(fields).to_be_bytes() == **given)
        .map(|(fields, _)| fields);
    Some((fields, rest))
}

/// Against torn writes and bad disks, not against people: who can write the log can write anything.
fn sum(fields: &[u8]) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(fields);
    hasher.finish() as u32
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn word(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.array()?))
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.array()?))
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.byte()? {
            4 => Some(IpAddr::from(self.array::<4>()?)),
            6 => Some(IpAddr::from(self.array::<16>()?)),
            _ => None,
        }
    }

    fn flow(&mut self) -> Option<Flow> {
        let listener = ListenerId(self.word()?);
        let local = self.address()?;
        let remote = self.address()?;
        let port = u16::from_be_bytes(self.array()?);
        let connection = if port == 0 { ConnectionId::GONE } else { ConnectionId::NONE };
        Some(Flow { listener, local, remote: SocketAddr::new(remote, port), connection })
    }

    fn named_flow(&mut self, clock: &WallClock) -> Option<NamedFlow> {
        let reg_id = self.word()?;
        let expires = clock.instant_of(self.number()?);
        let behind_nat = self.byte()? != 0;
        let flow = self.flow()?;
        let length = usize::from(u16::from_be_bytes(self.array()?));
        let contact = Box::from(self.bytes(length)?);
        Some(NamedFlow { reg_id, contact, flow: flow.into(), expires, behind_nat, kept_alive: clock.now })
    }

    fn key(&mut self) -> Option<DialogKey> {
        Some(DialogKey {
            call: self.number()?,
            backend: BackendId(self.word()?),
            from_peer: self.byte()? != 0,
            from_tag: self.number()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outbound;
    use super::super::tests::{at, binding, flow};
    use super::*;
    use crate::settings::Limits;

    fn clock(seconds: u64) -> WallClock {
        WallClock { now: at(seconds), unix_ms: 1_700_000_000_000 + seconds * 1_000 }
    }

    fn directory() -> Directory {
        Directory::new(at(0), &Limits::default(), Duration::from_secs(60))
    }

    fn dialog() -> Dialog {
        Dialog {
            key: DialogKey { call: 5, backend: BackendId(3), from_peer: true, from_tag: 8 },
            to_tag: 9,
            peer: flow(5060),
            binding: 11,
            since: at(1),
            ends: at(1_000),
            ticket: None,
            sides: None,
            logged: false,
        }
    }

    fn filled_log() -> Vec<u8> {
        let directory = directory();
        let mut log = Vec::new();
        directory.bind(1, b"a@x", binding(11, 600), 9).expect("room");
        directory.bind(2, b"b@x", binding(12, 600), 9).expect("room");
        directory.begin_dialog(dialog(), 9).expect("room");
        directory.write_changes(&clock(2), &mut log);
        directory.unbind(at(3), 2, 12);
        directory.write_changes(&clock(3), &mut log);
        log
    }

    fn load(log: &[u8]) -> (Directory, Loaded) {
        let directory = directory();
        // Another process: its monotonic clock starts anew.
        let later = WallClock { now: at(7), unix_ms: 1_700_000_010_000 };
        let loaded = directory.load(&later, &Limits::default(), log, |_| None);
        (directory, loaded)
    }

    #[test]
    fn a_log_restores_the_directory_by_wall_clock() {
        let (directory, loaded) = load(&filled_log());
        assert_eq!((loaded.records, loaded.damaged), (4, 0));
        assert_eq!((directory.bindings(), directory.dialogs()), (1, 1));
        let found = directory.binding(at(7), 11).expect("bound");
        // Ten seconds of the 600 had passed, seven of them belong to the new clock.
        assert_eq!(found.expires, at(597));
        assert_eq!(directory.user_backend(at(7), 1), Some(BackendId(3)));
    }

    #[test]
    fn calls_that_came_and_went_leave_no_trace() {
        let directory = directory();
        let mut log = Vec::new();
        directory.begin_dialog(dialog(), 9).expect("room");
        assert!(directory.end_dialog(&dialog().key, 9));
        directory.write_changes(&clock(1), &mut log);
        assert!(log.is_empty());
    }

    #[test]
    fn the_last_word_on_when_a_call_ends_holds_after_a_restart() {
        for (first_end, renewed_end, dialogs) in [(300, 1_800, 1), (1_800, 300, 0)] {
            let first = directory();
            let mut log = Vec::new();
            first.begin_dialog(Dialog { ends: at(first_end), ..dialog() }, 9).expect("room");
            first.write_changes(&clock(2), &mut log);
            assert!(first.with_dialogs(5, |dialogs| dialogs.renew(&dialog().key, 9, at(renewed_end))));
            first.write_changes(&clock(3), &mut log);
            let next = directory();
            next.load(&clock(600), &Limits::default(), &log, |_| None);
            assert_eq!(next.dialogs(), dialogs, "it was to end at {first_end} s, then at {renewed_end} s");
        }
    }

    #[test]
    fn a_log_cut_anywhere_loads_what_is_whole() {
        let log = filled_log();
        for length in 0..log.len() {
            let (_, loaded) = load(&log[..length]);
            assert!(loaded.records <= 4 && loaded.damaged <= 1);
        }
    }

    #[test]
    fn a_flipped_bit_costs_one_record_at_most_or_ends_the_reading() {
        let log = filled_log();
        for at in 0..log.len() {
            let mut damaged = log.clone();
            damaged[at] ^= 4;
            let (_, loaded) = load(&damaged);
            assert!(loaded.damaged >= 1, "octet {at}");
        }
    }

    #[test]
    fn unix_time_and_the_clock_tell_the_same_moments() {
        let clock = WallClock { now: at(100), unix_ms: 5_000_000 };
        for (seconds, unix_ms) in [(100, 5_000_000), (101, 5_001_000), (99, 4_999_000), (0, 4_900_000)] {
            assert_eq!((clock.unix_of(at(seconds)), clock.instant_of(unix_ms)), (unix_ms, at(seconds)));
        }
        assert_eq!(clock.instant_of(1), at(0), "nothing is before the start of the clock");
    }

    /// The fields as the head of this file draws them. The sum is the lower half of SipHash-1-3 under a key of zeros.
    #[test]
    fn records_are_written_octet_for_octet_as_documented() {
        let first = directory();
        let mut log = Vec::new();
        first.bind(1, b"a@x", binding(11, 600), 9).expect("room");
        first.begin_dialog(dialog(), 9).expect("room");
        first.write_changes(&clock(2), &mut log);
        first.unbind(at(3), 1, 11);
        assert!(first.end_dialog(&dialog().key, 9));
        first.write_changes(&clock(3), &mut log);
        let bound = b"\x00\x4f\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x0b\
            \x00\x00\x01\x8b\xcf\xee\x8f\xc0\x00\x00\x00\x03\x01\x00\x00\x00\x01\x04\x00\x00\x00\x00\
            \x04\xc0\x00\x02\x01\x13\xc4\x03a@xsip:bonnie@192.0.2.1:5060\xf1\x65\xca\xde";
        let begun = b"\x00\x4b\x03\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x03\x01\x00\x00\x00\x00\x00\x00\x00\x08\
            \x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x01\x8b\xcf\xe5\x6b\xe8\x00\x00\x01\x8b\xcf\xf4\xaa\x40\x00\
            \x00\x00\x00\x00\x00\x00\x00\x0b\x00\x00\x00\x01\x04\x00\x00\x00\x00\x04\xc0\x00\x02\x01\x13\xc4\
            \x4a\x1f\x02\x8d";
        let unbound = b"\x00\x15\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x0b\x2c\x86\x7e\x0a";
        let ended = b"\x00\x22\x04\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x03\x01\x00\x00\x00\x00\x00\x00\x00\x08\
            \x00\x00\x00\x00\x00\x00\x00\x09\xab\x5f\xd9\x44";
        assert_eq!(log, [&bound[..], &begun[..], &unbound[..], &ended[..]].concat());
        let (next, loaded) = load(&log);
        assert_eq!(loaded, Loaded { records: 4, damaged: 0 });
        assert_eq!((next.bindings(), next.dialogs()), (0, 0));
    }

    #[test]
    fn every_field_comes_back() {
        let first = directory();
        let far = Flow {
            listener: ListenerId(7),
            local: "2001:db8::1".parse().expect("an address"),
            remote: "[2001:db8::2]:5070".parse().expect("an address and a port"),
            connection: ConnectionId::NONE,
        };
        let key = DialogKey { from_peer: false, ..dialog().key };
        let inside = Binding { flow: far.into(), behind_nat: false, ..binding(11, 600) };
        first.bind(1, b"a@x", inside, 9).expect("room");
        first.bind(2, b"b@x", binding(12, 600), 9).expect("room");
        first.begin_dialog(dialog(), 9).expect("room");
        first.begin_dialog(Dialog { key, peer: far, ..dialog() }, 9).expect("room");
        let mut log = Vec::new();
        first.write_changes(&clock(2), &mut log);
        let next = directory();
        let loaded = next.load(&clock(2), &Limits::default(), &log, |_| None);
        assert_eq!(loaded, Loaded { records: 4, damaged: 0 });
        for (id, flow, behind_nat) in [(11, far, false), (12, flow(5060), true)] {
            let found = next.binding(at(2), id).expect("bound");
            assert_eq!((Flow::from(&found.flow), found.behind_nat, found.backend), (flow, behind_nat, BackendId(3)));
            assert_eq!((found.contact.as_ref(), found.expires), (&b"sip:bonnie@192.0.2.1:5060"[..], at(600)));
        }
        assert_eq!(next.with_person(1, |person| person.name.to_vec()), Some(b"a@x".to_vec()));
        for (key, peer) in [(dialog().key, flow(5060)), (key, far)] {
            let fields = |found: &mut Dialog| (found.peer, found.binding, found.since, found.ends);
            let found = next.with_dialogs(5, |dialogs| dialogs.find(&key, 9).map(fields));
            assert_eq!(found, Some((peer, 11, at(1), at(1_000))));
        }
    }

    /// A connection is gone with its process; what has expired meanwhile is not missed.
    #[test]
    fn the_flows_of_a_phone_come_back_in_their_order() {
        let first = directory();
        let by_connection = Flow { connection: ConnectionId(7), ..flow(5_003) };
        for (reg_id, by, until) in [(1, flow(5_001), 600), (2, flow(5_002), 60), (3, by_connection, 600)] {
            let contact = Box::from(format!("sip:bonnie@flow{reg_id}").as_bytes());
            let outbound = Some(Outbound::named(reg_id));
            let next = Binding { contact, flow: by.into(), outbound, ..binding(11, until) };
            first.bind(1, b"a@x", next, 9).expect("room");
        }
        let mut log = Vec::new();
        first.write_all(&clock(2), &mut log);
        for (seconds, names, now) in [(2, "321", 5_002), (60, "31", 5_001), (600, "", 0)] {
            let next = directory();
            let loaded = next.load(&clock(seconds), &Limits::default(), &log, |_| None);
            assert_eq!(loaded, Loaded { records: 1, damaged: 0 });
            let look = |found: &Binding| {
                let contacts: Vec<u8> = found.ways(at(seconds)).filter_map(|way| way.contact.last().copied()).collect();
                (String::from_utf8_lossy(&contacts).into_owned(), found.flow_now(at(seconds)).remote.port())
            };
            let found = next.with_binding(at(seconds), 11, look).unwrap_or_default();
            assert_eq!(found, (names.to_owned(), now));
            let sticks = next.user_backend(at(seconds), 1).is_some();
            assert_eq!((next.bindings() > 0, sticks), (!names.is_empty(), !names.is_empty()));
        }
    }

    #[test]
    fn what_was_counted_at_a_backend_counts_there_again() {
        let state = || Arc::new(BackendState::new(BackendId(3), at(0)));
        let (before, after) = (state(), state());
        let first = directory();
        for (call, ticket) in [(5, Some(before.restore_call())), (6, None), (7, None)] {
            let key = DialogKey { call, ..dialog().key };
            first.begin_dialog(Dialog { key, ticket, ..dialog() }, 9).expect("room");
        }
        first.bind(1, b"a@x", binding(11, 600), 9).expect("room");
        let mut log = Vec::new();
        first.write_changes(&clock(2), &mut log);
        let next = directory();
        let known = |id: BackendId| (id == BackendId(3)).then(|| Arc::clone(&after));
        assert_eq!(next.load(&clock(2), &Limits::default(), &log, known).records, 4);
        assert_eq!((after.calls(), after.registrations()), (1, 1));
    }

    #[test]
    fn a_dump_tells_what_lives_and_its_reader_repeats_nothing() {
        let first = directory();
        for id in [11, 12] {
            first.bind(1, b"a@x", binding(id, 60), 9).expect("room");
        }
        first.begin_dialog(Dialog { ends: at(60), ..dialog() }, 9).expect("room");
        for (seconds, records, order) in [(59, 3, Some(vec![12, 11])), (60, 0, None)] {
            let (mut dump, mut repeated) = (Vec::new(), Vec::new());
            first.write_all(&clock(seconds), &mut dump);
            let next = directory();
            let loaded = next.load(&clock(0), &Limits::default(), &dump, |_| None);
            assert_eq!(loaded, Loaded { records, damaged: 0 });
            let ids = |person: &Person| person.bindings.iter().map(|binding| binding.id).collect::<Vec<u64>>();
            assert_eq!(next.with_person(1, ids), order);
            next.write_changes(&clock(0), &mut repeated);
            assert!(repeated.is_empty());
        }
    }
}
