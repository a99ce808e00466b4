//! Names as numbers: stable hashes, so that every unit and every start gives the same number to the same name.

use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::SocketAddr;

/// A farm: hash of its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FarmId(pub u32);

/// A backend: hash of its farm's name, its own name and its address. The address belongs to it: dialogs of a backend that gets a
/// new address stay with the old one, which is another server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BackendId(pub u32);

/// A listener: hash of its transport and the address it is bound to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub u32);

impl FarmId {
    /// The id of the farm called `name`.
    pub fn of(name: &str) -> Self {
        Self(stable_hash(&[b"farm", name.as_bytes()]))
    }
}

impl BackendId {
    /// The id of the backend called `name` at `address` in the farm called `farm`.
    pub fn of(farm: &str, name: &str, address: SocketAddr) -> Self {
        Self(stable_hash(&[b"backend", farm.as_bytes(), name.as_bytes(), address.to_string().as_bytes()]))
    }
}

impl ListenerId {
    /// The id of the listener bound to `bind` (unspecified address: wildcard) with `transport` ("udp", …).
    pub fn of(transport: &str, bind: SocketAddr) -> Self {
        Self(stable_hash(&[b"listener", transport.as_bytes(), bind.to_string().as_bytes()]))
    }
}

/// Not keyed: the numbers must agree between units that share no secret yet. Nobody but the operator chooses the names.
fn stable_hash(parts: &[&[u8]]) -> u32 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part);
        hasher.write_u8(0);
    }
    let hash = hasher.finish();
    (hash ^ (hash >> 32)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_distinct() {
        assert_eq!(FarmId::of("pbx"), FarmId::of("pbx"));
        let address = SocketAddr::from(([192, 0, 2, 1], 5060));
        let moved = SocketAddr::from(([192, 0, 2, 2], 5060));
        assert_ne!(BackendId::of("a", "bc", address), BackendId::of("ab", "c", address));
        assert_ne!(BackendId::of("a", "b", address), BackendId::of("a", "b", moved));
    }

    /// SipHash-1-3 without a key over the parts, each ended by a zero, its halves combined by exclusive or: tokens and logs hold them.
    #[test]
    fn the_numbers_are_the_same_in_every_unit() {
        let box_at = SocketAddr::from(([10, 0, 1, 1], 5060));
        let vip = SocketAddr::from(([10, 0, 0, 1], 5060));
        assert_eq!(FarmId::of("pbx"), FarmId(3_430_526_850));
        assert_eq!(BackendId::of("pbx", "pbx1", box_at), BackendId(3_229_135_060));
        assert_eq!(ListenerId::of("udp", vip), ListenerId(2_889_119_652));
    }
}
