//! The lexical rules that headers and URIs share (RFC 3261 §25.1): white space, tokens, quoted strings,
//! lists, numbers and addresses, on octets.
//!
//! Every cut goes through `get`, so that an offset past the end yields nothing instead of a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::memmem;

/// Linear white space, the line ends of folded lines included.
pub(crate) const fn is_lws(octet: u8) -> bool {
    matches!(octet, b' ' | b'\t' | b'\r' | b'\n')
}

/// An octet of a token.
pub(crate) const fn is_token_octet(octet: u8) -> bool {
    octet.is_ascii_alphanumeric()
        || matches!(octet, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// A token: one or more token octets.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|octet| is_token_octet(*octet))
}

/// A set of octets as a table, for what is asked of every octet of every URI.
pub(crate) struct Octets([bool; 256]);

impl Octets {
    /// From what the table says of each octet; [`octets`](crate::grammar::octets) makes it of a predicate.
    pub(crate) const fn new(table: [bool; 256]) -> Self {
        Self(table)
    }

    pub(crate) fn has(&self, octet: u8) -> bool {
        self.0[usize::from(octet)]
    }

    /// Looks at every octet instead of stopping at the first bad one: that costs less than the branches.
    pub(crate) fn has_all(&self, bytes: &[u8]) -> bool {
        bytes.iter().fold(true, |fine, octet| fine & self.has(*octet))
    }
}

/// The [`Octets`] for which a predicate, a constant function, is true.
macro_rules! octets {
    ($is_member:path) => {{
        let mut table = [false; 256];
        let mut octet = 0;
        while octet < 256 {
            table[octet] = $is_member(octet as u8);
            octet += 1;
        }
        $crate::grammar::Octets::new(table)
    }};
}
pub(crate) use octets;

/// The octets before `to`.
pub(crate) fn head(bytes: &[u8], to: usize) -> &[u8] {
    bytes.get(..to).unwrap_or(bytes)
}

/// The octets from `from` on.
pub(crate) fn tail(bytes: &[u8], from: usize) -> &[u8] {
    bytes.get(from.min(bytes.len())..).unwrap_or_default()
}

/// Where the octet stands first.
pub(crate) fn find(wanted: u8, bytes: &[u8]) -> Option<usize> {
    find_any([wanted], bytes)
}

/// Where one of the octets stands first. Eight octets at a time in one register: the pieces of a header are so short that the call of a
/// vector search costs more than the search.
#[inline]
pub(crate) fn find_any<const N: usize>(wanted: [u8; N], bytes: &[u8]) -> Option<usize> {
    let (words, _) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        if let Some(place) = first_in_word(wanted, *word) {
            return Some(number * 8 + place);
        }
    }
    match bytes.last_chunk::<8>() {
        // The last eight octets overlap those that were looked at, in which nothing was found.
        Some(word) => first_in_word(wanted, *word).map(|place| bytes.len() - 8 + place),
        None => bytes.iter().position(|octet| wanted.contains(octet)),
    }
}

/// As [`find_any`], of eight octets. Subtracting one from a zero octet borrows into its highest bit; what a borrow spoils stands above
/// the first zero, so that the lowest mark is always a true one.
#[inline]
fn first_in_word<const N: usize>(wanted: [u8; N], word: [u8; 8]) -> Option<usize> {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    let word = u64::from_le_bytes(word);
    let mut marks = 0;
    for octet in wanted {
        let difference = word ^ (ONES * u64::from(octet));
        marks |= difference.wrapping_sub(ONES) & !difference & HIGHS;
    }
    if marks == 0 { None } else { Some(marks.trailing_zeros() as usize / 8) }
}

/// The octets before and after the one at `position`, which belongs to neither.
pub(crate) fn around(bytes: &[u8], position: usize) -> (&[u8], &[u8]) {
    (head(bytes, position), tail(bytes, position.saturating_add(1)))
}

/// Cuts white space off the start.
pub(crate) fn trim_start(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let Some((octet, after)) = rest.split_first() {
        if !is_lws(*octet) {
            break;
        }
        rest = after;
    }
    rest
}

/// Cuts white space off the end.
pub(crate) fn trim_end(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let Some((octet, before)) = rest.split_last() {
        if !is_lws(*octet) {
            break;
        }
        rest = before;
    }
    rest
}

/// Cuts white space off both ends.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    trim_end(trim_start(bytes))
}

/// Where the quoted string ends whose opening quote stands just before `bytes`: the offset of its closing quote.
pub(crate) fn quoted_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let position = at + find_any([b'"', b'\\'], tail(bytes, at))?;
        if bytes.get(position) == Some(&b'"') {
            return Some(position);
        }
        // A backslash takes the next octet with it, whatever that is.
        at = position + 2;
    }
}

/// The text of a quoted string without its quotes (escapes stay), or the octets as they are.
pub(crate) fn unquote(bytes: &[u8]) -> &[u8] {
    match bytes {
        [b'"', inner @ .., b'"'] => inner,
        _ => bytes,
    }
}

/// The length of the first item of a comma-separated list. Commas in quoted strings and in `<>` do not
/// separate; a quote or bracket that is never closed takes the rest of the list with it.
pub(crate) fn list_item_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = find_any([b',', b'"', b'<'], tail(bytes, at)) {
        let position = at + found;
        let after = tail(bytes, position + 1);
        let closing = match bytes.get(position) {
            Some(b'"') => quoted_end(after),
            Some(b'<') => find(b'>', after),
            _ => return position,
        };
        match closing {
            Some(end) => at = position + end + 2,
            None => return bytes.len(),
        }
    }
    bytes.len()
}

/// The items of a comma-separated list in order, trimmed; empty ones are skipped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Items<'a> {
    /// What is left, beginning at the next item: neither white space nor a comma stands first.
    rest: &'a [u8],
    /// An item without an octet was skipped.
    skipped: bool,
}

impl<'a> Items<'a> {
    pub(crate) fn new(list: &'a [u8]) -> Self {
        let (rest, commas) = skip_empty_items(list);
        Self { rest, skipped: commas > 0 || rest.is_empty() }
    }

    /// No item is left.
    pub(crate) fn is_finished(&self) -> bool {
        self.rest.is_empty()
    }

    /// The list has an item without an octet in it (`a,,b`, `a,`, or nothing at all).
    pub(crate) fn has_hole(mut self) -> bool {
        self.by_ref().for_each(drop);
        self.skipped
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = list_item_end(self.rest);
        let item = trim_end(head(self.rest, end));
        let (rest, commas) = skip_empty_items(tail(self.rest, end));
        self.rest = rest;
        // One comma ends an item, and another one has to follow it.
        self.skipped |= commas > 1 || (commas == 1 && rest.is_empty());
        Some(item)
    }
}

/// What follows white space and commas, and how many commas there were.
fn skip_empty_items(list: &[u8]) -> (&[u8], usize) {
    let mut rest = list;
    let mut commas = 0;
    while let Some((octet, after)) = rest.split_first() {
        if !is_lws(*octet) && *octet != b',' {
            break;
        }
        commas += usize::from(*octet == b',');
        rest = after;
    }
    (rest, commas)
}

/// The length of the first piece before a semicolon that stands outside quoted strings.
pub(crate) fn parameter_end(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = find_any([b';', b'"'], tail(bytes, at)) {
        let position = at + found;
        if bytes.get(position) == Some(&b';') {
            return position;
        }
        match quoted_end(tail(bytes, position + 1)) {
            Some(end) => at = position + end + 2,
            None => return bytes.len(),
        }
    }
    bytes.len()
}

/// A decimal number of digits only; what does not fit 64 bits is `u64::MAX`. `None`: no digit, or something else.
pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    let mut value: u64 = 0;
    for octet in bytes {
        if !octet.is_ascii_digit() {
            return None;
        }
        value = value.saturating_mul(10).saturating_add(u64::from(*octet - b'0'));
    }
    Some(value)
}

/// A port number, 1 to 65,535.
pub(crate) fn port(bytes: &[u8]) -> Option<u16> {
    number(bytes).and_then(|value| u16::try_from(value).ok()).filter(|port| *port != 0)
}

/// An IPv4 or IPv6 address, the latter with or without brackets (RFC 5118 §4.5).
pub(crate) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes {
        [b'[', inner @ .., b']'] => ipv6(inner).map(IpAddr::V6),
        _ => match ipv4(bytes) {
            Some(address) => Some(IpAddr::V4(address)),
            None => ipv6_reference(bytes).map(IpAddr::V6),
        },
    }
}

/// Four numbers below 256 with dots between them, without leading zeros, which some read as octal (as std does).
fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut rest = bytes;
    for (place, octet) in octets.iter_mut().enumerate() {
        if place > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        let mut value: u16 = 0;
        let mut digits = 0;
        while let Some((digit, after)) = rest.split_first().filter(|(digit, _)| digit.is_ascii_digit()) {
            value = value * 10 + u16::from(digit - b'0');
            digits += 1;
            if digits > 3 || (digits > 1 && value < 10) {
                return None;
            }
            rest = after;
        }
        *octet = u8::try_from(value).ok().filter(|_| digits > 0)?;
    }
    rest.is_empty().then(|| Ipv4Addr::from(octets))
}

fn ipv6_reference(bytes: &[u8]) -> Option<Ipv6Addr> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// An IPv6 address without brackets. Three colons in a row, which the grammar of RFC 3261 made some write, count as two
/// (RFC 5118 §4.10).
pub(crate) fn ipv6(bytes: &[u8]) -> Option<Ipv6Addr> {
    if let Some(address) = ipv6_reference(bytes) {
        return Some(address);
    }
    let position = memmem::find(bytes, b":::")?;
    let repaired: Vec<u8> = [head(bytes, position), b"::".as_slice(), tail(bytes, position + 3)].concat();
    std::str::from_utf8(&repaired).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_some_octets_is_found_wherever_it_stands() {
        // Borrows run upwards through octets one above a wanted one, and 0x80 and 0xff look like marks.
        let fillers = [0, 1, b':' + 1, b':' - 1, 0x80, 0xff, b'a'];
        for length in 0..40 {
            for filler in fillers {
                let mut bytes = vec![filler; length];
                assert_eq!(find_any([b':', b';'].map(|octet| octet | 0x40), &bytes), None, "{filler} {length}");
                for place in (0..length).rev() {
                    bytes[place] = b':';
                    let wanted = bytes.iter().position(|octet| *octet == b':' || *octet == 0x80);
                    assert_eq!(find_any([0x80, b':'], &bytes), wanted, "{filler} {length} {place}");
                    assert_eq!(find(b':', &bytes), Some(place), "{filler} {length} {place}");
                }
            }
        }
    }

    #[test]
    fn list_items_respect_quotes_escapes_and_brackets() {
        let list = b" \"a, \\\", b\" <sip:x,y@z>;p=1 ,, <sip:q> ,\r\n c ,";
        let items: Vec<&[u8]> = Items::new(list).collect();
        assert_eq!(items, [b"\"a, \\\", b\" <sip:x,y@z>;p=1".as_slice(), b"<sip:q>", b"c"]);
        let has_hole = |list: &[u8]| Items::new(list).has_hole();
        for fine in ["a", "a, b", " a ,\r\n b ", "\"a,,b\"", "<sip:a,,b>", "\"a,"] {
            assert!(!has_hole(fine.as_bytes()), "{fine}");
        }
        for holed in ["", " ", ",", "a,", ",a", "a,,b", "a, ,b", "a ,", "\"q\",,<x>"] {
            assert!(has_hole(holed.as_bytes()), "{holed}");
        }
        assert!(has_hole(list));
        assert_eq!(Items::new(b" ,, ").count(), 0);
    }

    #[test]
    fn an_open_quote_or_bracket_takes_the_rest() {
        assert_eq!(Items::new(b"\"a, b, c").count(), 1);
        assert_eq!(Items::new(b"<a, b, c").count(), 1);
        assert_eq!(Items::new(b"\"a\\").count(), 1);
    }

    #[test]
    fn numbers_saturate_and_refuse_signs() {
        assert_eq!(number(b"0068"), Some(68));
        assert_eq!(number(b"36893488147419103232"), Some(u64::MAX));
        for bad in [b"".as_slice(), b"-1", b"+5", b"0x05", b"5 ", b"5, 5"] {
            assert_eq!(number(bad), None, "{bad:?}");
        }
        assert_eq!(port(b"65535"), Some(65_535));
        assert_eq!(port(b"65536"), None);
        assert_eq!(port(b"0"), None);
    }

    #[test]
    fn addresses_with_brackets_and_three_colons() {
        let wanted: IpAddr = "2001:db8::9:255".parse().expect("a literal address");
        assert_eq!(ip(b"2001:db8::9:255"), Some(wanted));
        assert_eq!(ip(b"[2001:db8::9:255]"), Some(wanted));
        assert_eq!(ipv6(b"2001:db8:::192.0.2.1"), "2001:db8::192.0.2.1".parse().ok());
        assert_eq!(ip(b"[192.0.2.1]"), None);
        assert_eq!(ip(b"[]"), None);
        assert_eq!(ip(b"\xff"), None);
    }

    #[test]
    fn ipv4_addresses_are_read_as_std_reads_them() {
        let texts =
            ["0.0.0.0", "192.0.2.1", "255.255.255.255", "256.1.1.1", "01.2.3.4", "1.2.3", "1.2.3.4.", ".1.2.3.4"];
        for text in
            texts.into_iter().chain(["1..2.3", "1.2.3.4a", "00.0.0.0", "1.2.3.1000", "", "a", "::1", "1.2.3.04"])
        {
            assert_eq!(ip(text.as_bytes()), text.parse().ok(), "{text}");
        }
        assert_eq!(ip(b"10.9.10.0"), Some(IpAddr::from([10, 9, 10, 0])));
        assert_eq!(ip(b"65793.9.9.9"), None);
    }

    #[test]
    fn parameters_end_outside_quotes() {
        assert_eq!(parameter_end(b"a=\"x;y\\\";z\";b"), 11);
    }

    #[test]
    fn tokens() {
        assert!(is_token(b"C%6Fntact"));
        assert!(is_token(b"extensionHeader-!.%*+_`'~"));
        assert!(!is_token(b"To\x01"));
        assert!(!is_token(b""));
    }
}
