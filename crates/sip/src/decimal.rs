//! Numbers and addresses as text, written as often as messages pass: `fmt` would cost more than all the rest of an edit.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;

use smallvec::SmallVec;

/// An address as text, in place for all but IPv6 addresses with an embedded IPv4 address.
pub type AddressText = SmallVec<[u8; 48]>;

/// A number in decimal digits.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    digits: [u8; DIGITS],
    /// The first digit's place; there is always one.
    start: u8,
}

impl Decimal {
    /// The digits of a number, without leading zeros.
    pub fn new(number: u64) -> Self {
        let mut digits = [b'0'; DIGITS];
        let mut start = DIGITS;
        let mut rest = number;
        for place in (0..DIGITS).rev() {
            // The remainder is below ten.
            digits[place] = b'0' + (rest % 10) as u8;
            start = place;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        Self { digits, start: start as u8 }
    }
}

impl Deref for Decimal {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.digits.get(usize::from(self.start)..).unwrap_or_default()
    }
}

/// An address without brackets, as in `received` (RFC 5118 §4.5).
pub fn ip_text(address: IpAddr) -> AddressText {
    match address {
        IpAddr::V4(address) => {
            let (text, length) = ipv4_digits(address);
            AddressText::from_slice(text.get(..length).unwrap_or_default())
        }
        IpAddr::V6(address) => {
            let mut text = AddressText::new();
            // Writing into memory cannot fail.
            let _ = write!(text, "{address}");
            text
        }
    }
}

/// The text of an IPv4 address and its length: each octet has one to three digits.
fn ipv4_digits(address: Ipv4Addr) -> ([u8; 15], usize) {
    let mut text = [b'.'; 15];
    let mut at = 0;
    for (place, octet) in address.octets().into_iter().enumerate() {
        at += usize::from(place > 0);
        let (hundreds, tens, ones) = (octet / 100, octet / 10 % 10, octet % 10);
        if hundreds > 0 {
            text[at] = b'0' + hundreds;
            at += 1;
        }
        if octet > 9 {
            text[at] = b'0' + tens;
            at += 1;
        }
        text[at] = b'0' + ones;
        at += 1;
    }
    (text, at)
}

/// Address and port, IPv6 in brackets, as in a Via's sent-by.
pub fn socket_text(address: SocketAddr) -> AddressText {
    let mut text = match address.ip() {
        IpAddr::V4(_) => ip_text(address.ip()),
        IpAddr::V6(ip) => {
            let mut text = AddressText::new();
            text.push(b'[');
            text.extend_from_slice(&ip_text(IpAddr::V6(ip)));
            text.push(b']');
            text
        }
    };
    text.push(b':');
    text.extend_from_slice(&Decimal::new(u64::from(address.port())));
    text
}

/// As many as `u64::MAX` has.
const DIGITS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_fmt_writes_them() {
        for number in [0, 1, 9, 10, 99, 100, 70, 65_535, 4_294_967_295, u64::MAX] {
            assert_eq!(&Decimal::new(number)[..], number.to_string().as_bytes());
        }
    }

    #[test]
    fn addresses_are_written_as_fmt_writes_them() {
        for text in [
            "192.0.2.1:5060",
            "0.0.0.0:1",
            "10.100.99.109:9",
            "9.10.9.100:80",
            "255.255.255.255:65535",
            "[2001:db8::1]:5060",
            "[::]:5061",
        ] {
            let address: SocketAddr = text.parse().expect("a literal address");
            assert_eq!(&socket_text(address)[..], text.as_bytes());
            assert_eq!(&ip_text(address.ip())[..], address.ip().to_string().as_bytes());
        }
    }
}
