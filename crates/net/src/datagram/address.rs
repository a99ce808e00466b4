//! Socket addresses in the kernel's layout (`sockaddr_in`, `sockaddr_in6`).

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for an address of either family.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub(super) struct RawAddress([u8; ADDRESS_BYTES]);

impl RawAddress {
    pub(super) const EMPTY: Self = Self([0; ADDRESS_BYTES]);

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Writes `address` and returns the octets it takes.
    pub(super) fn write(&mut self, address: SocketAddr) -> u32 {
        let bytes = &mut self.0;
        bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(address) => {
                bytes[0..2].copy_from_slice(&FAMILY_V4.to_ne_bytes());
                bytes[4..8].copy_from_slice(&address.ip().octets());
                bytes[8..16].fill(0);
                V4_BYTES
            }
            SocketAddr::V6(address) => {
                bytes[0..2].copy_from_slice(&FAMILY_V6.to_ne_bytes());
                bytes[4..8].copy_from_slice(&address.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&address.ip().octets());
                bytes[24..28].copy_from_slice(&address.scope_id().to_ne_bytes());
                V6_BYTES
            }
        }
    }
}

/// Reads an address; `None` for another family or too few octets. The flow label is left out, so that one peer is one address.
pub(super) fn read(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(chunk(bytes, 0)?);
    let port = u16::from_be_bytes(chunk(bytes, 2)?);
    match family {
        FAMILY_V4 => {
            let octets: [u8; 4] = chunk(bytes, 4)?;
            Some(SocketAddr::from((octets, port)))
        }
        FAMILY_V6 => {
            let octets: [u8; 16] = chunk(bytes, 8)?;
            let scope = u32::from_ne_bytes(chunk(bytes, 24)?);
            Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope)))
        }
        _ => None,
    }
}

/// The `N` octets from `at` on.
pub(super) fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk::<N>().copied()
}

pub(super) const ADDRESS_BYTES: usize = 28;
const V4_BYTES: u32 = 16;
const V6_BYTES: u32 = 28;
const FAMILY_V4: u16 = libc::AF_INET as u16;
const FAMILY_V6: u16 = libc::AF_INET6 as u16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for (text, length) in [("192.0.2.7:5060", 16), ("[2001:db8::1]:5061", 28), ("[fe80::1%3]:5060", 28)] {
            let address: SocketAddr = text.parse().expect("a valid address");
            let mut raw = RawAddress::EMPTY;
            assert_eq!(raw.write(address), length, "{text}");
            assert_eq!(read(raw.bytes()), Some(address), "{text}");
        }
    }

    #[test]
    fn the_layout_is_that_of_the_c_library() {
        assert_eq!(size_of::<libc::sockaddr_in>(), V4_BYTES as usize);
        assert_eq!(size_of::<libc::sockaddr_in6>(), V6_BYTES as usize);
        let mut raw = RawAddress::EMPTY;
        raw.write(SocketAddr::from(([192, 0, 2, 7], 5060)));
        assert_eq!(raw.bytes().get(2..8), Some(&[0x13, 0xc4, 192, 0, 2, 7][..]));
    }

    #[test]
    fn other_families_and_short_addresses_are_not_read() {
        assert_eq!(read(&[0; ADDRESS_BYTES]), None);
        assert_eq!(read(&FAMILY_V4.to_ne_bytes()), None);
        assert_eq!(read(&[]), None);
    }
}
