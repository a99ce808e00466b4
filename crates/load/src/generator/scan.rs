//! Reading a message as far as the generator needs to: it wrote most of it itself, so that a walk over the lines is enough.

use memchr::memchr;

/// The header fields that matter here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    Via,
    RecordRoute,
    From,
    To,
    CallId,
    CSeq,
    Contact,
    Authorization,
    Other,
}

/// A header line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) field: Field,
    /// Without the white space around it.
    pub(super) value: &'a [u8],
    /// As received, with its end.
    pub(super) whole: &'a [u8],
}

/// The header lines of a message, up to the empty one.
pub(super) struct Lines<'a> {
    rest: &'a [u8],
}

/// What an answer says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    pub(super) code: u16,
    pub(super) key: Option<Key>,
    /// Number and method.
    pub(super) cseq: &'a [u8],
    pub(super) to: &'a [u8],
    /// The URI in it.
    pub(super) contact: &'a [u8],
}

/// The numbers in our Call-IDs: which run of the program, which of the exchanges under way, which of all exchanges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    pub(super) run: u32,
    pub(super) slot: u32,
    pub(super) serial: u32,
}

/// Whether this keeps a NAT's binding open and says nothing.
pub(super) fn is_keep_alive(bytes: &[u8]) -> bool {
    bytes.iter().all(|octet| matches!(octet, b'\r' | b'\n' | 0))
}

/// The method of a request; of anything else its first word, empty if there is none.
pub(super) fn method(message: &[u8]) -> &[u8] {
    let end = memchr(b' ', message).unwrap_or(0);
    message.get(..end).unwrap_or_default()
}

/// The header lines of `message`.
pub(super) fn lines(message: &[u8]) -> Lines<'_> {
    let start_line = memchr(b'\n', message).map_or(message.len(), |end| end + 1);
    Lines { rest: message.get(start_line..).unwrap_or_default() }
}

/// Reads an answer; `None` for what is none.
pub(super) fn answer(message: &[u8]) -> Option<Answer<'_>> {
    let code = message.strip_prefix(b"SIP/2.0 ")?.first_chunk::<3>()?;
    let mut answer = Answer { code: decimal(code)?, key: None, cseq: &[], to: &[], contact: &[] };
    for line in lines(message) {
        match line.field {
            Field::CallId => answer.key = Key::read(line.value),
            Field::CSeq => answer.cseq = line.value,
            Field::To => answer.to = line.value,
            Field::Contact => answer.contact = uri(line.value),
            _ => {}
        }
    }
    Some(answer)
}

/// The URI of a name-addr or addr-spec.
pub(super) fn uri(value: &[u8]) -> &[u8] {
    let start = memchr(b'<', value).map_or(0, |bracket| bracket + 1);
    let rest = value.get(start..).unwrap_or_default();
    let end = memchr(if start == 0 { b';' } else { b'>' }, rest).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default()
}

/// Calls `visit` for each value of a comma separated list, the last first. Commas between angle brackets do not separate.
pub(super) fn values_reversed<'a>(list: &'a [u8], mut visit: impl FnMut(&'a [u8])) {
    let mut end = list.len();
    let mut inside = false;
    for (at, octet) in list.iter().enumerate().rev() {
        match octet {
            b'>' => inside = true,
            b'<' => inside = false,
            b',' if !inside => {
                visit(list.get(at + 1..end).unwrap_or_default().trim_ascii());
                end = at;
            }
            _ => {}
        }
    }
    visit(list.get(..end).unwrap_or_default().trim_ascii());
}

impl Key {
    /// Whether its exchange was begun before the one with this serial number; the numbers go round in a circle.
    pub(super) fn is_older_than(self, serial: u32) -> bool {
        serial.wrapping_sub(self.serial).wrapping_sub(1) < u32::MAX / 2
    }

    /// As 24 hexadecimal digits.
    pub(super) fn digits(self) -> [u8; KEY_DIGITS] {
        let mut digits = [0; KEY_DIGITS];
        let words = [self.run, self.slot, self.serial];
        for (word, part) in words.into_iter().zip(digits.chunks_exact_mut(8)) {
            for (place, digit) in part.iter_mut().rev().enumerate() {
                let nibble = (word >> (4 * place)) & 0xf;
                *digit = HEXADECIMAL[nibble as usize];
            }
        }
        digits
    }

    /// Reads the digits that a Call-ID begins with.
    pub(super) fn read(call_id: &[u8]) -> Option<Self> {
        let digits = call_id.first_chunk::<KEY_DIGITS>()?;
        let mut words = digits.chunks_exact(8).map(hexadecimal);
        Some(Self { run: words.next()??, slot: words.next()??, serial: words.next()?? })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;

    fn next(&mut self) -> Option<Line<'a>> {
        let end = memchr(b'\n', self.rest)?;
        let (whole, rest) = self.rest.split_at_checked(end + 1)?;
        self.rest = rest;
        let line = whole.trim_ascii_end();
        if line.is_empty() {
            self.rest = &[];
            return None;
        }
        let colon = memchr(b':', line).unwrap_or(line.len());
        let name = line.get(..colon).unwrap_or_default().trim_ascii_end();
        let value = line.get(colon + 1..).unwrap_or_default().trim_ascii();
        Some(Line { field: Field::named(name), value, whole })
    }
}

impl Field {
    fn named(name: &[u8]) -> Self {
        let is = |full: &[u8]| name.eq_ignore_ascii_case(full);
        match name.len() {
            1 if is(b"v") => Self::Via,
            1 if is(b"f") => Self::From,
            1 if is(b"t") => Self::To,
            1 if is(b"i") => Self::CallId,
            1 if is(b"m") => Self::Contact,
            2 if is(b"to") => Self::To,
            3 if is(b"via") => Self::Via,
            4 if is(b"from") => Self::From,
            4 if is(b"cseq") => Self::CSeq,
            7 if is(b"call-id") => Self::CallId,
            7 if is(b"contact") => Self::Contact,
            12 if is(b"record-route") => Self::RecordRoute,
            13 if is(b"authorization") => Self::Authorization,
            19 if is(b"proxy-authorization") => Self::Authorization,
            _ => Self::Other,
        }
    }
}

fn decimal(digits: &[u8; 3]) -> Option<u16> {
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + u16::from(digit - b'0')))
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u32::from(value))
    })
}

pub(super) const KEY_DIGITS: usize = 24;
const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_as_written() {
        let key = Key { run: 0xdead_beef, slot: 7, serial: 0x0123_4567 };
        let mut text = key.digits().to_vec();
        assert_eq!(text, b"deadbeef0000000701234567");
        text.extend_from_slice(b"@load");
        assert_eq!(Key::read(&text), Some(key));
        assert_eq!(Key::read(b"deadbeef00000007012345"), None);
        assert_eq!(Key::read(b"deadbeef00000007012345xy@load"), None);
        let of = |serial: u32| Key { serial, ..key };
        assert!(of(7).is_older_than(8) && of(u32::MAX).is_older_than(3));
        assert!(!of(8).is_older_than(8) && !of(9).is_older_than(8) && !of(3).is_older_than(u32::MAX));
    }

    #[test]
    fn answers_are_read_in_any_spelling() {
        let text = b"SIP/2.0 486 Busy Here\r\nv: SIP/2.0/UDP 192.0.2.1\r\nt: <sip:x@y>;tag=7\r\nCALL-ID: 000000010000000200000003@load\r\n\
            cseq: 1 INVITE\r\nContact: \"A, B\" <sip:a@192.0.2.1:5070;x=1>;q=1\r\n\r\nTo: not a header\r\n";
        let answer = answer(text).expect("an answer");
        assert_eq!((answer.code, answer.cseq, answer.to), (486, &b"1 INVITE"[..], &b"<sip:x@y>;tag=7"[..]));
        assert_eq!(answer.key, Some(Key { run: 1, slot: 2, serial: 3 }));
        assert_eq!(answer.contact, b"sip:a@192.0.2.1:5070;x=1");
        assert_eq!(uri(b"sip:a@b;tag=1"), b"sip:a@b");
        assert!(super::answer(b"OPTIONS sip:a SIP/2.0\r\n\r\n").is_none());
        assert!(super::answer(b"SIP/2.0 2x0 OK\r\n\r\n").is_none());
        assert!(super::answer(b"\r\n\r\n").is_none());
    }

    #[test]
    fn lists_are_reversed_but_not_split_inside_brackets() {
        let mut seen = Vec::new();
        values_reversed(b"<sip:a;x=1,2;lr>, <sip:b;lr> ,<sip:c>", |value| seen.push(value));
        assert_eq!(seen, [&b"<sip:c>"[..], b"<sip:b;lr>", b"<sip:a;x=1,2;lr>"]);
    }
}
