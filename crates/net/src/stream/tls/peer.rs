//! Who is to be at the other end of a TLS connection.
//!
//! Messages are led to a connection by the address of the peer. Two peers at one address, with different names or verified in different
//! ways, share it therefore: its certificate must satisfy both, so that neither gets what is meant for the other (RFC 5923 §9,
//! CVE-2020-15260).

use super::certificates;
use client::fingerprint;
use engine::{FarmId, Place, Verify};
use rustls::pki_types::ServerName;
use sip::Host;
use std::net::IpAddr;

/// Whom we connect to, and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct TlsPeer {
    /// Its first certificate is shown to a server that asks for one.
    pub(super) farm: FarmId,
    /// What its server's certificate is asked for by (RFC 6066 §3).
    pub(super) first: Proof,
    /// What it must prove besides.
    pub(super) others: Vec<Proof>,
}

/// What a server's certificate has to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Proof {
    pub(super) verify: Verify,
    /// It is for this name or address.
    pub(super) name: ServerName<'static>,
}

/// A verified certificate that a client showed.
pub(crate) struct Shown {
    /// What it is for; lower case.
    names: Vec<String>,
    fingerprint: [u8; 32],
}

impl TlsPeer {
    pub(crate) fn new(farm: FarmId, proof: Proof) -> Self {
        Self { farm, first: proof, others: Vec::new() }
    }

    /// Asks for one more proof.
    pub(crate) fn demand(&mut self, proof: Proof) {
        if self.proofs().all(|known| *known != proof) {
            self.others.push(proof);
        }
    }

    /// Asks for it only where nothing is said of that name yet.
    pub(crate) fn demand_by_default(&mut self, proof: Proof) {
        if self.proofs().all(|known| known.name != proof.name) {
            self.others.push(proof);
        }
    }

    pub(super) fn proofs(&self) -> impl Iterator<Item = &Proof> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Whether a client with this certificate is that peer. Which authorities a client's certificate may come from is said by
    /// `client_ca`; a pinned certificate is the same on both sides.
    pub(crate) fn is_shown_by(&self, shown: &Shown) -> bool {
        self.proofs().all(|proof| match proof.verify {
            Verify::Pinned(pinned) => pinned == shown.fingerprint,
            _ => shown.names.iter().any(|name| name.eq_ignore_ascii_case(&proof.name.to_str())),
        })
    }
}

impl Proof {
    /// Of a peer at `address` that was found by the name `host`, if by any.
    pub(crate) fn new(verify: &Verify, host: Option<&str>, address: IpAddr) -> Self {
        let name = host.and_then(|host| ServerName::try_from(host.to_owned()).ok());
        Self { verify: verify.clone(), name: name.unwrap_or(ServerName::from(address)) }
    }

    pub(crate) fn of_place(verify: &Verify, place: &Place) -> Self {
        Self::new(verify, place.host.as_deref(), place.address.ip())
    }
}

impl Shown {
    /// `certificate`: as DER.
    pub(crate) fn of(certificate: &[u8]) -> Self {
        Self { names: certificates::names_of(certificate), fingerprint: fingerprint(certificate) }
    }

    /// Whether it is for this host; no wildcard stands for one (RFC 5922 §7.2).
    pub(crate) fn is_for(&self, host: Host<'_>) -> bool {
        self.names.iter().any(|name| match host {
            Host::Ip(address) => *name == address.to_string(),
            Host::Name(host) => host.strip_suffix(b".").unwrap_or(host).eq_ignore_ascii_case(name.as_bytes()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::testing::authority;
    use std::net::Ipv4Addr;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn proof(verify: Verify, host: Option<&str>) -> Proof {
        Proof::new(&verify, host, ADDRESS)
    }

    fn peer(proof: Proof) -> TlsPeer {
        TlsPeer::new(FarmId::of("pbx"), proof)
    }

    #[test]
    fn the_name_is_the_one_that_led_there_or_the_address() {
        let name = |host| proof(Verify::System, host).name.to_str().into_owned();
        assert_eq!(name(Some("sip.example.com")), "sip.example.com");
        assert_eq!(name(Some("2001:db8::1")), "2001:db8::1");
        assert_eq!(name(None), "192.0.2.7");
        assert_eq!(name(Some("no name")), "192.0.2.7", "what cannot be verified is not believed");
    }

    #[test]
    fn one_address_has_all_the_demands_of_those_at_it() {
        let one = proof(Verify::Off, Some("one.example"));
        let mut peer = peer(one.clone());
        peer.demand(one.clone());
        peer.demand_by_default(proof(Verify::System, Some("one.example")));
        assert_eq!(peer.proofs().count(), 1, "what the settings say of a name holds");
        let two = proof(Verify::System, Some("two.example"));
        peer.demand_by_default(two.clone());
        let strict = proof(Verify::System, Some("one.example"));
        peer.demand(strict.clone());
        assert_eq!(peer.proofs().collect::<Vec<&Proof>>(), [&one, &two, &strict]);
    }

    #[test]
    fn a_client_is_a_peer_by_every_name_asked_for() {
        let leaf = authority().leaf("one.example");
        let shown = Shown::of(&leaf.certificate);
        assert!(shown.is_for(Host::Name(b"ONE.example.")) && !shown.is_for(Host::Name(b"two.example")));
        assert!(!shown.is_for(Host::Ip(ADDRESS)));
        assert!(Shown::of(&authority().leaf("192.0.2.7").certificate).is_for(Host::Ip(ADDRESS)));
        assert!(!Shown::of(&authority().leaf("*.example").certificate).is_for(Host::Name(b"one.example")));
        let mut at_one = peer(proof(Verify::System, Some("one.example")));
        assert!(at_one.is_shown_by(&shown));
        at_one.demand(proof(Verify::Off, Some("two.example")));
        assert!(!at_one.is_shown_by(&shown));
        assert!(!peer(proof(Verify::Off, None)).is_shown_by(&shown), "the address is none of its names");
        assert!(peer(proof(Verify::Pinned(shown.fingerprint), None)).is_shown_by(&shown));
        assert!(!peer(proof(Verify::Pinned([7; 32]), Some("one.example"))).is_shown_by(&shown));
        assert!(!Shown::of(b"no certificate").is_for(Host::Name(b"")));
    }
}
