//! Which shard a datagram belongs to, found without parsing it.

use crate::token;
use std::hash::Hasher;

/// The shard of a datagram, below `shards`: of a response the one that our branch names, of a request one that its topmost Via
/// decides, so that a CANCEL and the ACK of a failure meet their INVITE. A request without a magic cookie goes by Call-ID, and what is
/// no SIP by its octets. A wrong guess costs a retransmission its transaction and nothing else.
pub fn route(datagram: &[u8], shards: usize) -> usize {
    if shards <= 1 {
        return 0;
    }
    let branch = first_branch(datagram);
    if datagram.starts_with(b"SIP/2.0 ")
        && let Some(shard) = branch.and_then(token::shard_of_branch)
    {
        return usize::from(shard) % shards;
    }
    let key = match branch {
        Some(branch) if branch.len() > 7 && branch.starts_with(b"z9hG4bK") => branch,
        _ => header(datagram, b"call-id", b'i').map_or(datagram, <[u8]>::trim_ascii),
    };
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(key);
    (hasher.finish() % shards as u64) as usize
}

/// The shard of a request of ours that the kernel returned, whole or cut off: the one that our branch names.
pub fn route_returned(returned: &[u8], shards: usize) -> usize {
    match first_branch(returned).and_then(token::shard_of_branch) {
        Some(shard) if shards > 0 => usize::from(shard) % shards,
        _ => route(returned, shards),
    }
}

/// The branch parameter of the first Via.
fn first_branch(datagram: &[u8]) -> Option<&[u8]> {
    let via = header(datagram, b"via", b'v')?;
    let at = memchr::memmem::find(via, b"branch=")
        .or_else(|| via.windows(7).position(|window| window.eq_ignore_ascii_case(b"branch=")))?;
    let rest = via.get(at + 7..)?;
    let end = rest
        .iter()
        .position(|octet| matches!(octet, b';' | b',' | b' ' | b'\t' | b'\r' | b'\n' | b'>'))
        .unwrap_or(rest.len());
    rest.get(..end)
}

/// The rest of the first line with this header name, folded lines included up to a bound that holds every token of ours.
fn header<'a>(datagram: &'a [u8], name: &[u8], compact: u8) -> Option<&'a [u8]> {
    let mut rest = datagram;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        rest = rest.get(end + 1..)?;
        if matches!(rest.first(), None | Some(b'\r' | b'\n')) {
            return None;
        }
        let Some(colon) = memchr::memchr(b':', rest.get(..name.len() + 8).unwrap_or(rest)) else {
            continue;
        };
        let (spelled, value) = rest.split_at_checked(colon)?;
        let spelled = spelled.trim_ascii();
        let short = spelled.len() == 1 && spelled[0].eq_ignore_ascii_case(&compact);
        if short || spelled.eq_ignore_ascii_case(name) {
            let value = value.get(1..)?;
            return value.get(..line_length(value));
        }
    }
    None
}

/// Octets up to the end of the line, going on where the next one is folded to it (RFC 3261 §7.3.1).
fn line_length(value: &[u8]) -> usize {
    let mut from = 0;
    while let Some(end) = value.get(from..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        let next = from + end + 1;
        if !matches!(value.get(next), Some(b' ' | b'\t')) {
            return next;
        }
        from = next;
    }
    value.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cancel_and_ack_meet_their_invite() {
        let invite = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKabc;rport\r\n\r\n";
        let cancel = b"CANCEL sip:a@b SIP/2.0\r\nMax-Forwards: 70\r\nv:SIP/2.0/UDP h ; branch=z9hG4bKabc\r\n\r\n";
        for shards in 1..32 {
            assert_eq!(route(invite, shards), route(cancel, shards));
            assert!(route(invite, shards) < shards);
        }
    }

    #[test]
    fn a_folded_via_counts() {
        let plain = b"ACK sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKabc\r\n\r\n";
        let folded = b"ACK sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n ;branch=z9hG4bKabc\r\n\r\n";
        assert_eq!(route(plain, 1_000), route(folded, 1_000));
    }

    #[test]
    fn without_a_cookie_the_call_id_decides() {
        let one = b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=1\r\nCall-ID: x@y\r\n\r\n";
        let other = b"ACK sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=2\r\ni: x@y\r\n\r\n";
        assert_eq!(route(one, 1_000), route(other, 1_000));
    }

    #[test]
    fn anything_has_a_shard() {
        for datagram in [&b""[..], b"\r\n", b"\n:\n", b"SIP/2.0 200 OK\r\nVia", b"x\nVia:"] {
            assert!(route(datagram, 7) < 7);
        }
    }

    /// SipHash-1-3 without a key, of a thousand shards, of `z9hG4bKabc` and of what stands behind `Call-ID:`.
    const OF_BRANCH: usize = 594;
    const OF_CALL_ID: usize = 720;
    /// Shard 513.
    const OURS: &str = "z9hG4bKtdmIgcCAQABEXAD_____mVT8QAAAABj3q2-78AAAgETxJQ0gjniLKAg";

    #[test]
    fn the_first_branch_with_a_cookie_decides_however_it_is_written() {
        for (lines, shard) in [
            ("Via: SIP/2.0/UDP h;branch=z9hG4bKabc", OF_BRANCH),
            ("VIA:SIP/2.0/UDP h;BRANCH=z9hG4bKabc;x", OF_BRANCH),
            ("V :SIP/2.0/UDP h;branch=z9hG4bKabc ;x", OF_BRANCH),
            ("v: SIP/2.0/UDP h;branch=z9hG4bKabc, SIP/2.0/UDP i;branch=z9hG4bKno", OF_BRANCH),
            ("Via: SIP/2.0/UDP h\r\n\t;rport\r\n ;branch=z9hG4bKabc\t;x", OF_BRANCH),
            ("Via: SIP/2.0/UDP h;branch=z9hG4bKabc\r\nVia: SIP/2.0/UDP i;branch=z9hG4bKno", OF_BRANCH),
            // Other headers in front of it.
            ("Vary: h;branch=z9hG4bKno\r\nX-Via: h;branch=z9hG4bKno\r\nVia: h;branch=z9hG4bKabc", OF_BRANCH),
            ("X-Header-With-A-Long-Name: Via: h;branch=z9hG4bKno\r\nVia: h;branch=z9hG4bKabc", OF_BRANCH),
            // White space before the colon, up to a bound.
            ("Via       : h;branch=z9hG4bKabc", OF_BRANCH),
            ("Via        : h;branch=z9hG4bKabc", OF_CALL_ID),
            // Nothing that is unique.
            ("Via: h;branch=z9hG4bK", OF_CALL_ID),
            ("Via: h;branch=12345678", OF_CALL_ID),
            ("Via: h", OF_CALL_ID),
            ("X: z9hG4bKabc", OF_CALL_ID),
        ] {
            for call_id in ["Call-ID", "i", "CALL-ID", "I"] {
                let datagram =
                    format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n{call_id}: x@y\r\n\r\nVia: h;branch=z9hG4bKno\r\n");
                assert_eq!(route(datagram.as_bytes(), 1_000), shard, "{lines}");
            }
        }
        let other = b"INVITE sip:a@b SIP/2.0\r\nVia: h;branch=z9hG4bK\r\nCall-ID: x@z\r\n\r\n";
        assert_eq!(route(other, 1_000), 10, "the cookie alone does not bring all calls to one shard");
    }

    /// RFC 3261 §18.1.2: our Via is the topmost of a response, and of a request of ours that comes back.
    #[test]
    fn our_own_branch_names_its_shard() {
        let response = format!("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch={OURS}\r\n\r\n");
        let request = format!("ACK sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch={OURS}");
        for (shards, shard) in [(0, 0), (1, 0), (10, 3), (513, 0), (514, 513), (1_000, 513)] {
            assert_eq!(route(response.as_bytes(), shards), shard, "{shards}");
            assert_eq!(route_returned(request.as_bytes(), shards), shard, "{shards}");
        }
        // Anybody can write a branch of ours into a request: it is spread as all others are.
        assert_eq!(route(request.as_bytes(), 1_000), 574);
        let foreign = b"ACK sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKabc\r\n";
        assert_eq!((route_returned(foreign, 1_000), route_returned(foreign, 0)), (OF_BRANCH, 0));
        assert_eq!(route(&[&b"SIP/2.0 200 OK"[..], &foreign[19..]].concat(), 1_000), OF_BRANCH);
    }
}
