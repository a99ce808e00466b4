//! Routing facts that travel inside SIP headers, authenticated, so that any unit can act on them without state.
//!
//! ```text
//! Via branch    "z9hG4bKtdm" base64url( head key-id shard:2 index:4 attempt sequence:4 epoch:4 loop:4 FLOW mac:8 )
//! Route user    "tdm"        base64url( head key-id backend:4 binding:8 from-tag:2 epoch:4            FLOW mac:8 )
//! FLOW          listener:4 address:4|16 port:2, or of a stream: listener:4 address:4|16 connection:3
//! head          bits 7-5 format version (1), bit 4 IPv6, bit 3 stream, bits 2-0 flags
//! ```
//! Numbers are big-endian. The MAC is SipHash-2-4 under the unit's secret over everything before it and the Call-ID: a token
//! taken from one call is worthless in another. A connection counts only in the process that the epoch names. A branch has at most 64
//! characters over IPv4 and 80 over IPv6, a Route user 55 and 71.

use crate::id::{BackendId, ListenerId};
use crate::io::{ConnectionId, Flow};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use siphasher::sip::{SipHasher13, SipHasher24};
use smallvec::SmallVec;
use std::hash::Hasher;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The secrets that units of a cluster share.
#[derive(Clone)]
pub struct Secrets {
    pub key_id: u8,
    /// Signs tokens; rotated.
    pub key: [u8; 16],
    /// Still believed after a rotation.
    pub previous: Option<(u8, [u8; 16])>,
    /// Names bindings towards backends; never rotated, or every PBX would see second bindings.
    pub contact_key: [u8; 16],
    /// The start of this process, in seconds of Unix time: tells our own responses from those of a process before us.
    pub epoch: u32,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").field("key_id", &self.key_id).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// What a Via branch of ours says: how a response finds its transaction, and the way on if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// Forwarded without a transaction: `index` and `sequence` are hashes.
    pub stateless: bool,
    /// A request of our own (a ping, a BYE): the response ends here.
    pub own: bool,
    pub shard: u16,
    pub index: u32,
    pub attempt: u8,
    pub sequence: u32,
    pub epoch: u32,
    /// RFC 5393 §4.2: what decided about the request when it passed.
    pub loop_hash: u32,
    /// Where the response goes.
    pub upstream: Flow,
}

/// What a Record-Route or Path value of ours says: the two parties of a dialog, one of them a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    pub kind: RouteKind,
    /// One of two values, written for the two sides of the farm; both are removed together.
    pub paired: bool,
    /// The request that made the dialog came from the peer (else from the backend).
    pub from_peer: bool,
    pub backend: BackendId,
    /// The party that is not `backend`.
    pub peer: Flow,
    /// The peer's binding, 0 if it has none; a newer flow of the binding wins over `peer`.
    pub binding: u64,
    /// 16 bits of the From tag of the request that made the dialog: tells the direction of later requests.
    pub from_tag: u16,
    pub epoch: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteKind {
    /// Valid within its dialog.
    Dialog,
    /// RFC 3327: leads to a registered phone; valid from backends. Signed without a Call-ID.
    Path,
}

/// The octets of one token in a header; long enough for every form.
pub(crate) type TokenText = SmallVec<[u8; TEXT_MOST]>;

/// The octets of a token before they become text.
struct Raw {
    octets: [u8; RAW_MOST],
    length: usize,
}

/// The longest token has 51.
const RAW_MOST: usize = 64;
/// A prefix and the characters of `RAW_MOST` octets.
const TEXT_MOST: usize = 96;

const BRANCH_PREFIX: &[u8] = b"z9hG4bKtdm";
const ROUTE_PREFIX: &[u8] = b"tdm";
const VERSION: u8 = 1 << 5;
const IPV6: u8 = 1 << 4;
const STREAM: u8 = 1 << 3;
const STATELESS: u8 = 1;
const OWN: u8 = 2;
const PAIRED: u8 = 1;
const FROM_PEER: u8 = 2;
const PATH: u8 = 4;

impl Raw {
    fn put<const N: usize>(&mut self, octets: [u8; N]) {
        let room = self.octets.get_mut(self.length..self.length + N).expect("the longest token has room");
        room.copy_from_slice(&octets);
        self.length += N;
    }

    fn written(&self) -> &[u8] {
        &self.octets[..self.length]
    }
}

impl Secrets {
    /// Writes `branch` as the value of a Via's branch parameter.
    pub fn seal_branch(&self, branch: &Branch, call_id: &[u8]) -> TokenText {
        let flags = u8::from(branch.stateless) * STATELESS + u8::from(branch.own) * OWN;
        let mut raw = self.open_token(flags, &branch.upstream);
        raw.put(branch.shard.to_be_bytes());
        raw.put(branch.index.to_be_bytes());
        raw.put([branch.attempt]);
        raw.put(branch.sequence.to_be_bytes());
        raw.put(branch.epoch.to_be_bytes());
        raw.put(branch.loop_hash.to_be_bytes());
        self.close_token(raw, &branch.upstream, call_id, BRANCH_PREFIX)
    }

    /// Reads a Via's branch parameter. `None`: not ours, forged, or of another Call-ID.
    pub fn read_branch(&self, text: &[u8], call_id: &[u8]) -> Option<Branch> {
        let raw = decode(text.strip_prefix(BRANCH_PREFIX)?)?;
        self.verify(raw.written(), call_id)?;
        let mut branch = branch_fields(raw.written())?;
        branch.upstream.connection = self.connection_now(branch.upstream.connection, branch.epoch);
        Some(branch)
    }

    /// Reads a Via's branch parameter without the Call-ID that would prove it: whoever asks must prove it otherwise.
    pub(crate) fn read_branch_unproven(&self, text: &[u8]) -> Option<Branch> {
        branch_fields(decode(text.strip_prefix(BRANCH_PREFIX)?)?.written())
    }

    /// Writes `route` as the user part of a Record-Route or Path value. For [`RouteKind::Path`] give an empty Call-ID.
    pub fn seal_route(&self, route: &Route, call_id: &[u8]) -> TokenText {
        let path = route.kind == RouteKind::Path;
        let flags = u8::from(route.paired) * PAIRED + u8::from(route.from_peer) * FROM_PEER + u8::from(path) * PATH;
        let mut raw = self.open_token(flags, &route.peer);
        raw.put(route.backend.0.to_be_bytes());
        raw.put(route.binding.to_be_bytes());
        raw.put(route.from_tag.to_be_bytes());
        raw.put(route.epoch.to_be_bytes());
        self.close_token(raw, &route.peer, call_id, ROUTE_PREFIX)
    }

    /// Reads the user part of a Route or Request-URI. `None`: not ours, forged, or of another Call-ID.
    pub fn read_route(&self, user: &[u8], call_id: &[u8]) -> Option<Route> {
        let raw = decode(user.strip_prefix(ROUTE_PREFIX)?)?;
        let raw = raw.written();
        let path = raw.first()? & PATH != 0;
        self.verify(raw, if path { b"" } else { call_id })?;
        let mut route = route_fields(raw)?;
        route.peer.connection = self.connection_now(route.peer.connection, route.epoch);
        Some(route)
    }

    /// The connection that a token of this epoch names: those of other processes are gone, whatever has their number now.
    fn connection_now(&self, connection: ConnectionId, epoch: u32) -> ConnectionId {
        if connection.is_some() && epoch != self.epoch { ConnectionId::GONE } else { connection }
    }

    /// The id under which backends know a phone's contact: a pure function of the AOR and what identifies the phone.
    pub fn contact_id(&self, aor: u64, contact: &[u8]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.contact_key);
        hasher.write_u64(aor);
        hasher.write(contact);
        // 0 means "no binding" in tokens.
        hasher.finish().max(1)
    }

    /// A keyed hash for tables whose keys strangers choose.
    pub fn table_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.contact_key)
    }

    fn open_token(&self, flags: u8, flow: &Flow) -> Raw {
        let family = if flow.remote.is_ipv6() { IPV6 } else { 0 } | if flow.connection.is_some() { STREAM } else { 0 };
        let mut raw = Raw { octets: [0; RAW_MOST], length: 0 };
        raw.put([VERSION | family | flags, self.key_id]);
        raw
    }

    fn close_token(&self, mut raw: Raw, flow: &Flow, call_id: &[u8], prefix: &[u8]) -> TokenText {
        raw.put(flow.listener.0.to_be_bytes());
        match flow.remote.ip() {
            IpAddr::V4(address) => raw.put(address.octets()),
            IpAddr::V6(address) => raw.put(address.octets()),
        }
        if flow.connection.is_some() {
            let [_, number @ ..] = flow.connection.0.to_be_bytes();
            raw.put(number);
        } else {
            raw.put(flow.remote.port().to_be_bytes());
        }
        let mac = mac(&self.key, raw.written(), call_id);
        raw.put(mac.to_be_bytes());
        let mut text = [0_u8; TEXT_MOST];
        let (head, rest) = text.split_at_mut(prefix.len());
        head.copy_from_slice(prefix);
        let length = URL_SAFE_NO_PAD.encode_slice(raw.written(), rest).expect("86 characters hold 64 octets");
        TokenText::from_buf_and_len(text, prefix.len() + length)
    }

    fn verify(&self, raw: &[u8], call_id: &[u8]) -> Option<()> {
        let (body, given) = raw.split_at_checked(raw.len().checked_sub(8)?)?;
        let (&head, &key_id) = (body.first()?, body.get(1)?);
        if head & 0xe0 != VERSION {
            return None;
        }
        let key = if key_id == self.key_id {
            &self.key
        } else {
            let (id, key) = self.previous.as_ref()?;
            (*id == key_id).then_some(key)?
        };
        // A plain comparison: an attacker who measures it over a network learns nothing in 64 bits of keyed hash.
        (mac(key, body, call_id).to_be_bytes() == given).then_some(())
    }
}

/// The shard named in a branch of ours, read without verifying it: a lie reaches the wrong shard and is dropped there.
pub(crate) fn shard_of_branch(text: &[u8]) -> Option<u16> {
    // The shard stands in octets 2 and 3: within the first 8 characters.
    let head = text.strip_prefix(BRANCH_PREFIX)?.get(..8)?;
    let mut raw = [0_u8; 6];
    URL_SAFE_NO_PAD.decode_slice(head, &mut raw).ok()?;
    Some(u16::from_be_bytes([raw[2], raw[3]]))
}

/// Could this branch be ours? A look at the prefix only.
pub(crate) fn looks_like_ours(branch: &[u8]) -> bool {
    branch.starts_with(BRANCH_PREFIX)
}

/// Sixteen bits of a tag.
pub(crate) fn tag_bits(tag: Option<&[u8]>) -> u16 {
    let mut hasher = SipHasher13::new();
    hasher.write(tag.unwrap_or_default());
    hasher.finish() as u16
}

fn mac(key: &[u8; 16], body: &[u8], call_id: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(key);
    hasher.write(body);
    hasher.write(call_id);
    hasher.finish()
}

fn decode(text: &[u8]) -> Option<Raw> {
    let mut octets = [0; RAW_MOST];
    // 85 characters are 63 octets; the longest token has 51.
    if text.len() > 85 {
        return None;
    }
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut octets).ok()?;
    Some(Raw { octets, length })
}

fn branch_fields(raw: &[u8]) -> Option<Branch> {
    let mut reader = Reader(raw);
    let head = reader.take::<2>()?[0];
    Some(Branch {
        stateless: head & STATELESS != 0,
        own: head & OWN != 0,
        shard: u16::from_be_bytes(reader.take()?),
        index: u32::from_be_bytes(reader.take()?),
        attempt: reader.take::<1>()?[0],
        sequence: u32::from_be_bytes(reader.take()?),
        epoch: u32::from_be_bytes(reader.take()?),
        loop_hash: u32::from_be_bytes(reader.take()?),
        upstream: reader.flow(head)?,
    })
}

fn route_fields(raw: &[u8]) -> Option<Route> {
    let mut reader = Reader(raw);
    let head = reader.take::<2>()?[0];
    Some(Route {
        kind: if head & PATH != 0 { RouteKind::Path } else { RouteKind::Dialog },
        paired: head & PAIRED != 0,
        from_peer: head & FROM_PEER != 0,
        backend: BackendId(u32::from_be_bytes(reader.take()?)),
        binding: u64::from_be_bytes(reader.take()?),
        from_tag: u16::from_be_bytes(reader.take()?),
        epoch: u32::from_be_bytes(reader.take()?),
        peer: reader.flow(head)?,
    })
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    /// The listener's own address is not carried: the listener is bound to it, or is a wildcard and the kernel chooses. Neither is the
    /// peer's port of a connection, which says nothing.
    fn flow(&mut self, head: u8) -> Option<Flow> {
        let listener = ListenerId(u32::from_be_bytes(self.take()?));
        let (address, local) = if head & IPV6 != 0 {
            let octets: [u8; 16] = self.take()?;
            (IpAddr::from(octets), IpAddr::V6(Ipv6Addr::UNSPECIFIED))
        } else {
            let octets: [u8; 4] = self.take()?;
            (IpAddr::from(octets), IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        };
        let (port, connection) = if head & STREAM != 0 {
            let [high, middle, low] = self.take()?;
            (0, ConnectionId(u32::from_be_bytes([0, high, middle, low])))
        } else {
            (u16::from_be_bytes(self.take()?), ConnectionId::NONE)
        };
        Some(Flow { listener, local, remote: SocketAddr::new(address, port), connection })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        Secrets { key_id: 7, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1_700_000_000 }
    }

    fn flow(remote: &str) -> Flow {
        let remote: SocketAddr = remote.parse().expect("an address");
        let local = match remote {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Flow { listener: ListenerId(0xdead_beef), local, remote, connection: ConnectionId::NONE }
    }

    fn branch(remote: &str) -> Branch {
        Branch {
            stateless: false,
            own: true,
            shard: 513,
            index: 70_000,
            attempt: 3,
            sequence: 0xffff_fffe,
            epoch: 1_700_000_000,
            loop_hash: 99,
            upstream: flow(remote),
        }
    }

    fn route(remote: &str, kind: RouteKind) -> Route {
        Route {
            kind,
            paired: true,
            from_peer: true,
            backend: BackendId(17),
            peer: flow(remote),
            binding: u64::MAX,
            from_tag: 0xabcd,
            epoch: 5,
        }
    }

    #[test]
    fn branches_come_back_within_the_length_bound() {
        for (remote, bound) in [("192.0.2.1:5060", 64), ("[2001:db8::1]:65535", 96)] {
            let text = secrets().seal_branch(&branch(remote), b"call@x");
            assert!(text.len() <= bound, "{} > {bound}", text.len());
            assert_eq!(shard_of_branch(&text), Some(513));
            assert_eq!(secrets().read_branch(&text, b"call@x"), Some(branch(remote)));
        }
    }

    #[test]
    fn routes_come_back_within_the_length_bound() {
        for (remote, bound) in [("192.0.2.1:5060", 64), ("[2001:db8::1]:65535", 96)] {
            let value = route(remote, RouteKind::Dialog);
            let text = secrets().seal_route(&value, b"call@x");
            assert!(text.len() <= bound, "{} > {bound}", text.len());
            assert_eq!(secrets().read_route(&text, b"call@x"), Some(value));
        }
    }

    #[test]
    fn a_token_of_another_call_or_another_key_is_not_believed() {
        let text = secrets().seal_branch(&branch("192.0.2.1:5060"), b"call@x");
        assert_eq!(secrets().read_branch(&text, b"call@y"), None);
        let mut other = secrets();
        other.key = [9; 16];
        assert_eq!(other.read_branch(&text, b"call@x"), None);
        other.previous = Some((7, [1; 16]));
        other.key_id = 8;
        assert!(other.read_branch(&text, b"call@x").is_some());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let text = secrets().seal_route(&route("192.0.2.1:5060", RouteKind::Dialog), b"c");
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut forged = text.clone();
                forged[at] ^= 1 << bit;
                assert_eq!(secrets().read_route(&forged, b"c"), None, "{at} {bit}");
            }
        }
    }

    #[test]
    fn a_path_token_holds_without_a_call_id() {
        let text = secrets().seal_route(&route("192.0.2.1:5060", RouteKind::Path), b"");
        assert!(secrets().read_route(&text, b"any").is_some());
    }

    #[test]
    fn contact_ids_depend_on_user_and_contact_only() {
        let a = secrets().contact_id(1, b"sip:a@192.0.2.1");
        // SipHash-2-4 under the contact key, over the AOR's key and the contact.
        assert_eq!(a, 0xfc78_0b82_622d_2acb);
        assert_ne!(a, secrets().contact_id(2, b"sip:a@192.0.2.1"));
        assert_ne!(a, secrets().contact_id(1, b"sip:a@192.0.2.2"));
    }

    /// The octets that the units of a cluster, and a unit before and after an upgrade, exchange.
    #[test]
    fn the_format_of_tokens_does_not_change() {
        for (remote, branch_text, route_text) in [
            (
                "192.0.2.1:5060",
                "z9hG4bKtdmIgcCAQABEXAD_____mVT8QAAAABj3q2-78AAAgETxJQ0gjniLKAg",
                "tdmIwcAAAAR__________-rzQAAAAXerb7vwAACARPEcKxULAJ1_1U",
            ),
            (
                "[2001:db8::1]:65535",
                "z9hG4bKtdmMgcCAQABEXAD_____mVT8QAAAABj3q2-7yABDbgAAAAAAAAAAAAAAAH__zlhOI1vqlCC",
                "tdmNwcAAAAR__________-rzQAAAAXerb7vIAENuAAAAAAAAAAAAAAAAf__X6zETfU59Zc",
            ),
        ] {
            let text = secrets().seal_branch(&branch(remote), b"call@x");
            assert_eq!(String::from_utf8_lossy(&text), branch_text);
            assert_eq!(secrets().read_branch_unproven(&text), Some(branch(remote)));
            // One within a dialog, and a Path.
            let (kind, call_id) = if branch(remote).upstream.remote.is_ipv4() {
                (RouteKind::Dialog, "call@x")
            } else {
                (RouteKind::Path, "")
            };
            let text = secrets().seal_route(&route(remote, kind), call_id.as_bytes());
            assert_eq!(String::from_utf8_lossy(&text), route_text);
        }
    }

    #[test]
    fn every_flag_comes_back_by_itself() {
        for bits in 0..8 {
            let [one, other, third] = [1, 2, 4].map(|bit| bits & bit != 0);
            for remote in ["192.0.2.1:5060", "[2001:db8::1]:5060"] {
                let value = Branch { stateless: one, own: other, ..branch(remote) };
                let text = secrets().seal_branch(&value, b"c");
                assert_eq!(secrets().read_branch(&text, b"c"), Some(value));
                let kind = if third { RouteKind::Path } else { RouteKind::Dialog };
                let value = Route { paired: one, from_peer: other, ..route(remote, kind) };
                let text = secrets().seal_route(&value, if third { &b""[..] } else { b"c" });
                assert_eq!(secrets().read_route(&text, b"c"), Some(value));
                assert_eq!(secrets().read_route(&text, b"d"), third.then_some(value));
            }
        }
    }

    #[test]
    fn what_is_longer_than_any_token_is_none_of_ours() {
        assert_eq!(decode(&[b'A'; 84]).map(|raw| raw.length), Some(63));
        assert!(decode(&[b'A'; 86]).is_none());
        for (text, ours) in
            [("z9hG4bKtdm", true), ("z9hG4bKtdmIgcC", true), ("z9hG4bKtd", false), ("tdmz9hG4bKtdm", false)]
        {
            assert_eq!(looks_like_ours(text.as_bytes()), ours, "{text}");
        }
    }

    #[test]
    fn secrets_show_no_key_and_key_the_tables() {
        assert_eq!(format!("{:?}", secrets()), "Secrets { key_id: 7, epoch: 1700000000, .. }");
        let mut others = secrets();
        others.contact_key = [3; 16];
        assert_ne!(others.table_hasher().finish(), secrets().table_hasher().finish());
    }
}
