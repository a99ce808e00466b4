//! Which server transaction a request belongs to (RFC 3261 §17.2.3).

use std::hash::Hasher;
use std::net::IpAddr;

use crate::checked::Checked;
use crate::message::Method;
use crate::uri::Host;
use crate::value::Via;

/// Which transaction of a request is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum KeyClass {
    /// The request's own; an ACK belongs to its INVITE, a CANCEL has one of its own.
    Own,
    /// The one that a CANCEL aims at: the INVITE with the same key.
    Cancelled,
}

/// Feeds the octets of a request's transaction key to the hasher. Two requests belong to one transaction if they feed the
/// same octets; each field is fed with its length, so that no two different keys run into the same octets.
///
/// A request with the magic cookie of RFC 3261 is known by branch, sent-by and method. The branch is compared octet for
/// octet: peers repeat it as it is, and tokens within it (ours among them) tell upper from lower case.
///
/// A request of RFC 2543 (no branch, no magic cookie, or nothing behind the cookie) is known by top Via, Call-ID, CSeq
/// number and From tag; a request of another method than INVITE, ACK and CANCEL's target also by Request-URI and To tag.
/// INVITE and ACK go without these two: the ACK of a failure carries the To tag of the response, which the INVITE could not
/// know, and senders of that time put another Request-URI into it; both must feed what the INVITE fed.
///
/// The Request-URI must be the one received, without edits of ours.
pub fn key(message: &Checked<'_>, hasher: &mut impl Hasher, class: KeyClass) {
    let method = message.method();
    let method_octets: &[u8] = match (class, method) {
        (KeyClass::Cancelled, _) | (KeyClass::Own, Method::Invite | Method::Ack) => b"INVITE",
        (KeyClass::Own, _) => method.as_bytes(),
    };
    write_field(hasher, method_octets);
    match message.branch().filter(|branch| is_unique(branch)) {
        Some(branch) => {
            hasher.write_u8(GENERATION_3261);
            write_field(hasher, branch);
            write_sent_by(hasher, message.via());
        }
        None => {
            hasher.write_u8(GENERATION_2543);
            write_2543(message, hasher, method_octets == b"INVITE");
        }
    }
}

/// It promises to be unique in space and time: there is more than the magic cookie (RFC 3261 §8.1.1.7).
fn is_unique(branch: &[u8]) -> bool {
    branch.strip_prefix(MAGIC_COOKIE).is_some_and(|behind| !behind.is_empty())
}

/// The sent-by: host without regard to case or to the spelling of an address, and port.
fn write_sent_by(hasher: &mut impl Hasher, via: &Via<'_>) {
    match via.host {
        Host::Ip(IpAddr::V4(address)) => write_field(hasher, &address.octets()),
        Host::Ip(IpAddr::V6(address)) => write_field(hasher, &address.octets()),
        Host::Name(name) => {
            let name = name.strip_suffix(b".").unwrap_or(name);
            write_length(hasher, name);
            for octet in name {
                hasher.write_u8(octet.to_ascii_lowercase());
            }
        }
    }
    hasher.write_u16(via.port.unwrap_or(DEFAULT_PORT));
}

/// What identifies a request of RFC 2543 besides its method.
fn write_2543(message: &Checked<'_>, hasher: &mut impl Hasher, invite: bool) {
    write_field(hasher, message.via().raw);
    write_field(hasher, message.call_id());
    hasher.write_u32(message.cseq().number);
    write_field(hasher, message.from().tag.unwrap_or_default());
    if !invite {
        write_field(hasher, message.uri().map(|uri| uri.raw).unwrap_or_default());
        write_field(hasher, message.to().tag.unwrap_or_default());
    }
}

fn write_field(hasher: &mut impl Hasher, field: &[u8]) {
    write_length(hasher, field);
    hasher.write(field);
}

fn write_length(hasher: &mut impl Hasher, field: &[u8]) {
    // A message is at most 64 KiB long, so that no field's length is cut.
    hasher.write_u32(u32::try_from(field.len()).unwrap_or(u32::MAX));
}

/// What a branch of RFC 3261 begins with (§8.1.1.7).
const MAGIC_COOKIE: &[u8] = b"z9hG4bK";
/// The port of a sent-by that names none (RFC 3261 §18.2.2).
const DEFAULT_PORT: u16 = 5060;
/// Keeps the two kinds of keys apart.
const GENERATION_3261: u8 = 1;
const GENERATION_2543: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Limits, parse};

    /// Keeps what it is fed, so that tests compare octets instead of hashes.
    struct Octets(Vec<u8>);

    impl Hasher for Octets {
        fn finish(&self) -> u64 {
            0
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    /// The parts of a request that a key looks at.
    #[derive(Clone, Copy)]
    struct Parts {
        method: &'static str,
        uri: &'static str,
        via: &'static str,
        to: &'static str,
        from: &'static str,
        call_id: &'static str,
        number: u32,
    }

    const MODERN: Parts = Parts {
        method: "INVITE",
        uri: "sip:clyde@example.com",
        via: "SIP/2.0/UDP pc33.example.com;branch=z9hG4bK776asdhds",
        to: "<sip:clyde@example.com>",
        from: "<sip:bonnie@example.com>;tag=1928301774",
        call_id: "a84b4c76e66710",
        number: 314_159,
    };

    const OLD: Parts = Parts { via: "SIP/2.0/UDP pc33.example.com:5060", ..MODERN };

    fn key_of(parts: Parts, class: KeyClass) -> Vec<u8> {
        let Parts { method, uri, via, to, from, call_id, number } = parts;
        let request = format!(
            "{method} {uri} SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nTo: {to}\r\nFrom: {from}\r\n\
             Call-ID: {call_id}\r\nCSeq: {number} {method}\r\nContent-Length: 0\r\n\r\n"
        );
        let message = parse(request.as_bytes(), &Limits::default()).expect("the test's request has a shape");
        let checked = crate::check(&message, &Limits::default()).expect("and no fault");
        let mut octets = Octets(Vec::new());
        key(&checked, &mut octets, class);
        octets.0
    }

    fn own(parts: Parts) -> Vec<u8> {
        key_of(parts, KeyClass::Own)
    }

    #[test]
    fn a_retransmission_has_the_same_key_whatever_else_changed() {
        let again = Parts {
            uri: "sip:other@example.com",
            call_id: "other",
            from: "<sip:x@example.com>;tag=x",
            to: "<sip:clyde@example.com>;tag=y",
            number: 1,
            ..MODERN
        };
        assert_eq!(own(MODERN), own(again), "branch, sent-by and method decide alone");
    }

    #[test]
    fn branch_sent_by_and_method_each_tell_transactions_apart() {
        let base = own(MODERN);
        for other in [
            Parts { via: "SIP/2.0/UDP pc33.example.com;branch=z9hG4bK776asdhdt", ..MODERN },
            Parts { via: "SIP/2.0/UDP pc33.example.com;branch=z9hG4bK776ASDHDS", ..MODERN },
            Parts { via: "SIP/2.0/UDP pc34.example.com;branch=z9hG4bK776asdhds", ..MODERN },
            Parts { via: "SIP/2.0/UDP pc33.example.com:5070;branch=z9hG4bK776asdhds", ..MODERN },
            Parts { method: "OPTIONS", ..MODERN },
        ] {
            assert_ne!(base, own(other), "{} {}", other.method, other.via);
        }
    }

    #[test]
    fn sent_by_ignores_case_the_default_port_and_the_spelling_of_an_address() {
        let same_name = Parts { via: "SIP/2.0/UDP PC33.Example.COM:5060;branch=z9hG4bK776asdhds", ..MODERN };
        assert_eq!(own(MODERN), own(same_name));
        let short = Parts { via: "SIP/2.0/UDP [2001:db8::1];branch=z9hG4bKa", ..MODERN };
        let long = Parts { via: "SIP/2.0/UDP [2001:DB8:0:0:0:0:0:1]:5060;branch=z9hG4bKa", ..MODERN };
        assert_eq!(own(short), own(long));
    }

    #[test]
    fn ack_has_the_key_of_its_invite() {
        let ack = Parts { method: "ACK", to: "<sip:clyde@example.com>;tag=314", ..MODERN };
        assert_eq!(own(MODERN), own(ack));
    }

    #[test]
    fn cancel_has_a_key_of_its_own_and_finds_its_invite() {
        let cancel = Parts { method: "CANCEL", ..MODERN };
        assert_ne!(own(MODERN), own(cancel));
        assert_eq!(own(MODERN), key_of(cancel, KeyClass::Cancelled));
    }

    #[test]
    fn a_bare_cookie_counts_as_rfc_2543() {
        let bare = Parts { via: "SIP/2.0/UDP pc33.example.com;branch=z9hG4bK", ..MODERN };
        let other_call = Parts { call_id: "other", ..bare };
        assert_eq!(own(bare), own(bare));
        assert_ne!(own(bare), own(other_call), "without a unique branch the Call-ID must count");
    }

    #[test]
    fn rfc_2543_requests_differ_by_each_of_their_fields() {
        let base = Parts { method: "BYE", ..OLD };
        for other in [
            Parts { uri: "sip:other@example.com", ..base },
            Parts { to: "<sip:clyde@example.com>;tag=1", ..base },
            Parts { from: "<sip:bonnie@example.com>;tag=2", ..base },
            Parts { call_id: "other", ..base },
            Parts { number: 1, ..base },
            Parts { via: "SIP/2.0/UDP pc34.example.com:5060", ..base },
            Parts { via: "SIP/2.0/UDP pc33.example.com:5060;branch=1", ..base },
            Parts { method: "OPTIONS", ..base },
        ] {
            assert_ne!(own(base), own(other), "{} {} {}", other.method, other.uri, other.to);
        }
    }

    #[test]
    fn rfc_2543_ack_and_cancel_find_the_invite() {
        let ack = Parts { method: "ACK", uri: "sip:clyde@192.0.2.4", to: "<sip:clyde@example.com>;tag=314", ..OLD };
        assert_eq!(own(OLD), own(ack));
        let cancel = Parts { method: "CANCEL", ..OLD };
        assert_ne!(own(OLD), own(cancel));
        assert_eq!(own(OLD), key_of(cancel, KeyClass::Cancelled));
    }

    #[test]
    fn rfc_2543_and_rfc_3261_keys_never_meet() {
        assert_ne!(own(MODERN), own(OLD));
    }

    #[test]
    fn no_two_fields_run_into_each_other() {
        // Via and Call-ID in a row are the same octets; only the border between them lies elsewhere.
        let early = Parts { via: "SIP/2.0/UDP pc33.example.com:506", call_id: "0a", ..OLD };
        let late = Parts { via: "SIP/2.0/UDP pc33.example.com:5060", call_id: "a", ..OLD };
        assert_ne!(own(early), own(late));
    }
}
