//! The STUN binding requests that phones send to a SIP port to keep their NAT binding open (RFC 5626 §8, RFC 8489).

use std::net::{IpAddr, SocketAddr};

/// The first octets after the length of every STUN message (RFC 8489 §5).
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const HEADER_BYTES: usize = 20;
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const XOR_MAPPED_ADDRESS: [u8; 2] = [0x00, 0x20];

/// The datagram is a STUN message: its first two bits are zero, which no SIP message's are, and the magic cookie stands in its place.
pub fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES
        && bytes.first().is_some_and(|octet| octet & 0xc0 == 0)
        && bytes.get(4..8) == Some(MAGIC_COOKIE.as_slice())
}

/// Appends the answer to a binding request that came from `source`, with that address in XOR-MAPPED-ADDRESS. `false`, and nothing is
/// appended: the datagram is no well-formed binding request.
pub fn binding_response(request: &[u8], source: SocketAddr, out: &mut Vec<u8>) -> bool {
    if !is_stun(request) || request.get(..2) != Some(BINDING_REQUEST.as_slice()) {
        return false;
    }
    let Some([high, low]) = request.get(2..4) else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if length % 4 != 0 || length != request.len() - HEADER_BYTES {
        return false;
    }
    // The key of an address is the cookie and the transaction id, as they stand in the header.
    let Some(key) = request.get(4..HEADER_BYTES) else {
        return false;
    };
    let (family, address): (u8, Vec<u8>) = match source.ip().to_canonical() {
        IpAddr::V4(address) => (1, address.octets().to_vec()),
        IpAddr::V6(address) => (2, address.octets().to_vec()),
    };
    let value_length: u8 = if family == 1 { 8 } else { 20 };
    out.extend_from_slice(&BINDING_SUCCESS);
    out.extend_from_slice(&[0, value_length + 4]);
    out.extend_from_slice(key);
    out.extend_from_slice(&XOR_MAPPED_ADDRESS);
    out.extend_from_slice(&[0, value_length, 0, family]);
    out.extend(source.port().to_be_bytes().iter().zip(key).map(|(octet, mask)| octet ^ mask));
    out.extend(address.iter().zip(key).map(|(octet, mask)| octet ^ mask));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The transaction id of RFC 5769 §2.2 and §2.3.
    const ID: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn request() -> Vec<u8> {
        [BINDING_REQUEST.as_slice(), &[0, 0], &MAGIC_COOKIE, &ID].concat()
    }

    fn attribute(source: &str) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(binding_response(&request(), source.parse().expect("a literal address"), &mut out));
        assert!(is_stun(&out));
        assert_eq!(out.get(8..20), Some(ID.as_slice()));
        assert_eq!(usize::from(out[3]), out.len() - 20);
        out.split_off(20)
    }

    #[test]
    fn the_vectors_of_rfc_5769() {
        let v4 = [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(attribute("192.0.2.1:32853"), v4);
        assert_eq!(attribute("[::ffff:192.0.2.1]:32853"), v4);
        let v6 = [
            0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
            0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        assert_eq!(attribute("[2001:db8:1234:5678:11:2233:4455:6677]:32853"), v6);
    }

    #[test]
    fn what_is_no_binding_request_is_not_answered() {
        let source: SocketAddr = "192.0.2.1:1".parse().expect("a literal address");
        let mut out = Vec::new();
        let mut indication = request();
        indication[1] = 0x11;
        let mut long = request();
        long[3] = 4;
        let short = &request()[..19];
        for bytes in [indication.as_slice(), long.as_slice(), short, b"", b"INVITE sip:a@b SIP/2.0\r\n"] {
            assert!(!binding_response(bytes, source, &mut out));
        }
        assert!(out.is_empty());
        assert!(is_stun(&indication));
        assert!(!is_stun(b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"));
    }

    #[test]
    fn length_first_bits_and_cookie_each_make_a_message_stun() {
        assert!(is_stun(&request()));
        assert!(!is_stun(&request()[..19]), "shorter than a header");
        for (position, octet) in [(0, 0x40), (0, 0x80), (4, 0x20), (7, 0x43)] {
            let mut other = request();
            other[position] = octet;
            assert!(!is_stun(&other), "{octet:#x} at {position}");
        }
    }

    #[test]
    fn the_attributes_of_a_request_must_be_as_long_as_it_says_and_whole_words() {
        let source: SocketAddr = "192.0.2.1:1".parse().expect("a literal address");
        let software = [0x80, 0x22, 0, 4, b'a', b'b', b'c', b'd'];
        for (octets, declared, answer_octets) in [(8, 8, 32), (8, 4, 0), (4, 8, 0), (6, 6, 0)] {
            let mut bytes = [request().as_slice(), &software[..octets]].concat();
            bytes[3] = declared;
            let mut out = Vec::new();
            let answered = binding_response(&bytes, source, &mut out);
            assert_eq!((answered, out.len()), (answer_octets > 0, answer_octets), "{octets}, said to be {declared}");
        }
    }
}
