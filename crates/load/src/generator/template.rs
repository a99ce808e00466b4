//! Messages as texts in which only numbers of fixed width change: writing one is a copy and a few digits.

use super::scan::{KEY_DIGITS, Key};
use memchr::memmem;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// A text with places for the key and the user's number.
#[derive(Clone, Debug)]
pub(super) struct Template {
    text: Vec<u8>,
    keys: Vec<usize>,
    numbers: Vec<Range<usize>>,
}

impl Template {
    /// Every [`KEY`] in `text` is a place for the key, every run of [`DIGIT`] one for the number.
    pub(super) fn new(text: &str) -> Self {
        let bytes = text.as_bytes();
        Self { text: bytes.to_vec(), keys: memmem::find_iter(bytes, KEY).collect(), numbers: runs(bytes, DIGIT) }
    }

    pub(super) fn write(&self, key: Key, number: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.text);
        // The places were found in this very text, so that they are within what was just appended.
        let written = &mut out[start..];
        let key = key.digits();
        for &at in &self.keys {
            written[at..at + KEY_DIGITS].copy_from_slice(&key);
        }
        for place in &self.numbers {
            decimal(number, &mut written[place.clone()]);
        }
    }
}

/// A header line that makes a message of `have` octets `want` octets long, as far as a line can.
pub(super) fn filling(have: usize, want: usize) -> String {
    match want.checked_sub(have + "X-Load: \r\n".len()) {
        Some(missing) if missing > 0 => format!("X-Load: {}\r\n", "x".repeat(missing)),
        _ => String::new(),
    }
}

/// A description of audio at `address`, as a phone offers it (RFC 4566, RFC 3264).
pub(super) fn session(address: SocketAddr) -> String {
    let family = if address.is_ipv4() { "IP4" } else { "IP6" };
    let ip: IpAddr = address.ip();
    format!(
        "v=0\r\no=load 1 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\n\
         a=sendrecv\r\n"
    )
}

/// Where `wanted` stands, as often as it stands there in a row.
fn runs(bytes: &[u8], wanted: u8) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for at in memchr::memchr_iter(wanted, bytes) {
        match runs.last_mut() {
            Some(run) if run.end == at => run.end = at + 1,
            _ => runs.push(at..at + 1),
        }
    }
    runs
}

/// The last digits of `number`, with leading zeros.
fn decimal(number: u32, digits: &mut [u8]) {
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
}

/// Stands for the key in a text. No text has such characters of its own.
pub(super) const KEY: &str = "\
    \u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}\u{2}";
/// Stands for a digit of the user's number in a text.
pub(super) const DIGIT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_their_places() {
        assert_eq!(KEY.len(), KEY_DIGITS);
        let template = Template::new(&format!("<sip:u\u{1}\u{1}\u{1}\u{1}@x>;tag={KEY} {KEY}@load <sip:\u{1}\u{1}-x>"));
        let mut out = b"before ".to_vec();
        template.write(Key { run: 1, slot: 2, serial: 3 }, 142, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "before <sip:u0142@x>;tag=000000010000000200000003 000000010000000200000003@load <sip:42-x>"
        );
    }

    #[test]
    fn fillings_reach_their_size() {
        assert_eq!(100 + filling(100, 450).len(), 450);
        assert_eq!(filling(445, 450), "");
        assert_eq!(filling(900, 450), "");
    }
}
