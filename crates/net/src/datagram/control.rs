//! Control messages (`cmsghdr` and its data) in the kernel's layout.

use super::address::chunk;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Room for the control messages of one datagram.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control([u8; CONTROL_BYTES]);

impl Control {
    pub(super) const EMPTY: Self = Self([0; CONTROL_BYTES]);

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Writes the one message that chooses the source address of a datagram (`IP_PKTINFO`, `IPV6_PKTINFO`) and returns the octets
    /// it takes.
    pub(super) fn write_source(&mut self, source: IpAddr) -> usize {
        let data = &mut self.0[HEADER_BYTES..];
        match source {
            IpAddr::V4(address) => {
                // in_pktinfo: interface 0 (the routing's), the source address, and an address that is not read when sending.
                data[0..4].fill(0);
                data[4..8].copy_from_slice(&address.octets());
                data[8..12].fill(0);
                self.write_header(libc::IPPROTO_IP, libc::IP_PKTINFO, 12)
            }
            IpAddr::V6(address) => {
                // in6_pktinfo: the source address and interface 0.
                data[0..16].copy_from_slice(&address.octets());
                data[16..20].fill(0);
                self.write_header(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20)
            }
        }
    }

    fn write_header(&mut self, level: i32, kind: i32, data_bytes: usize) -> usize {
        let length = HEADER_BYTES + data_bytes;
        self.0[..WORD].copy_from_slice(&length.to_ne_bytes());
        self.0[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        self.0[WORD + 4..WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        aligned(length)
    }
}

/// One control message.
pub(super) struct Entry<'a> {
    pub(super) level: i32,
    pub(super) kind: i32,
    pub(super) data: &'a [u8],
}

/// The control messages in `bytes`, as many as are whole.
pub(super) struct Entries<'a> {
    rest: &'a [u8],
}

pub(super) fn entries(bytes: &[u8]) -> Entries<'_> {
    Entries { rest: bytes }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let length = usize::from_ne_bytes(chunk(self.rest, 0)?);
        let level = i32::from_ne_bytes(chunk(self.rest, WORD)?);
        let kind = i32::from_ne_bytes(chunk(self.rest, WORD + 4)?);
        let data = self.rest.get(HEADER_BYTES..length)?;
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(Entry { level, kind, data })
    }
}

/// The local address that a datagram arrived at, where the socket tells it.
pub(super) fn local_address(bytes: &[u8]) -> Option<IpAddr> {
    entries(bytes).find_map(|entry| match (entry.level, entry.kind) {
        // The second field (ipi_spec_dst) is an address of ours also where the datagram was sent to a broadcast address.
        (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
            let octets: [u8; 4] = chunk(entry.data, 4)?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
            let octets: [u8; 16] = chunk(entry.data, 0)?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    })
}

/// What the error queue tells of a datagram (`sock_extended_err`): the error's number and its origin.
pub(super) fn extended_error(bytes: &[u8]) -> Option<(i32, u8)> {
    entries(bytes).find_map(|entry| match (entry.level, entry.kind) {
        (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) => {
            let errno = i32::from_ne_bytes(chunk(entry.data, 0)?);
            let [origin]: [u8; 1] = chunk(entry.data, 4)?;
            Some((errno, origin))
        }
        _ => None,
    })
}

/// `length` rounded up to the alignment of control messages.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(WORD)
}

/// Enough for the address a datagram arrived at and an extended error with its offender's address, twice over.
pub(super) const CONTROL_BYTES: usize = 192;
const WORD: usize = size_of::<usize>();
/// Length, level and type.
const HEADER_BYTES: usize = WORD + 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_address_is_read_back_as_written() {
        for (text, length) in [("192.0.2.7", 32), ("2001:db8::5", 40)] {
            let source: IpAddr = text.parse().expect("a valid address");
            let mut control = Control::EMPTY;
            let taken = control.write_source(source);
            assert_eq!(taken, length, "{text}");
            let written = control.bytes().get(..taken).expect("the length is within the room");
            assert_eq!(local_address(written), Some(source), "{text}");
            assert_eq!(extended_error(written), None);
        }
    }

    #[test]
    fn the_header_is_that_of_the_c_library() {
        assert_eq!(size_of::<libc::cmsghdr>(), HEADER_BYTES);
        assert!(CONTROL_BYTES.is_multiple_of(WORD));
    }

    #[test]
    fn broken_lengths_end_the_walk() {
        let mut control = Control::EMPTY;
        control.write_source(IpAddr::V4(Ipv4Addr::LOCALHOST));
        for length in [0_usize, 3, 15, 1_000, usize::MAX] {
            let mut bytes = control.bytes().to_vec();
            bytes[..WORD].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(entries(&bytes).count(), 0, "length {length}");
        }
        assert_eq!(entries(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn an_extended_error_is_found_behind_other_messages() {
        let mut bytes = Vec::new();
        for (level, kind, data) in [
            (libc::IPPROTO_IP, libc::IP_TTL, vec![64, 0, 0, 0]),
            (libc::IPPROTO_IP, libc::IP_RECVERR, vec![111, 0, 0, 0, 2, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            bytes.extend_from_slice(&(HEADER_BYTES + data.len()).to_ne_bytes());
            bytes.extend_from_slice(&level.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&data);
            bytes.resize(aligned(bytes.len()), 0);
        }
        assert_eq!(extended_error(&bytes), Some((i32::from_ne_bytes([111, 0, 0, 0]), 2)));
    }
}
