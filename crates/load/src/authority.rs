//! Which addresses may be loaded. A load generator is a weapon: towards anything but this machine and private networks it wants to be
//! told that the target is the operator's own.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Why an address is not loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Neither this machine's nor a private network's, and nobody said that it is his.
    Foreign(SocketAddr),
    /// A group of receivers, or no receiver at all.
    NoReceiver(SocketAddr),
}

/// Whether `target` may be loaded; `owned`: somebody said that it is his.
///
/// # Errors
/// See [`Refusal`].
pub fn check(target: SocketAddr, owned: bool) -> Result<(), Refusal> {
    let address = target.ip().to_canonical();
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if target.port() == 0 || address.is_unspecified() || address.is_multicast() || is_broadcast {
        return Err(Refusal::NoReceiver(target));
    }
    if owned || is_at_home(address) { Ok(()) } else { Err(Refusal::Foreign(target)) }
}

/// Loopback, link-local, RFC 1918 and RFC 4193.
fn is_at_home(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private() || address.is_link_local(),
        IpAddr::V6(address) => {
            let [first, second, ..] = address.octets();
            // fc00::/7 and fe80::/10.
            address.is_loopback() || first & 0xfe == 0xfc || (first == 0xfe && second & 0xc0 == 0x80)
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(target) => write!(formatter, "{target} is neither this machine's nor in a private network"),
            Self::NoReceiver(target) => write!(formatter, "{target} is not the address of one receiver"),
        }
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(address: &str, owned: bool) -> Result<(), Refusal> {
        check(address.parse().expect("the test's address is well formed"), owned)
    }

    #[test]
    fn home_is_free_and_the_rest_wants_a_word() {
        for address in [
            "127.0.0.9:5060",
            "10.1.2.3:5060",
            "172.31.0.1:5060",
            "192.168.1.1:5060",
            "169.254.1.1:5060",
            "[::1]:5060",
            "[fd00::1]:5060",
            "[fe80::1]:5060",
            "[::ffff:10.0.0.1]:5060",
        ] {
            assert_eq!(judged(address, false), Ok(()), "{address}");
        }
        for address in
            ["8.8.8.8:5060", "172.32.0.1:5060", "100.64.0.1:5060", "[2001:db8::1]:5060", "[::ffff:8.8.8.8]:5060"]
        {
            assert!(matches!(judged(address, false), Err(Refusal::Foreign(_))), "{address}");
            assert_eq!(judged(address, true), Ok(()), "{address}");
        }
    }

    #[test]
    fn nobody_owns_a_group() {
        for address in
            ["0.0.0.0:5060", "224.0.1.75:5060", "255.255.255.255:5060", "[ff02::1]:5060", "[::]:5060", "127.0.0.1:0"]
        {
            assert!(matches!(judged(address, true), Err(Refusal::NoReceiver(_))), "{address}");
        }
    }
}
