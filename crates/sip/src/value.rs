//! Typed header values. All fields borrow from the message; nothing is unescaped.

mod address;
mod authentication;
mod via_header;

pub use address::{Contact, NameAddr, contact, name_addr};
pub use authentication::{Challenge, Credentials};
pub use via_header::{Via, ViaParameters, via};

use crate::check::Fault;
use crate::grammar::{around, find, head, is_lws, is_token, number, parameter_end, tail, trim, trim_end, trim_start};
use crate::header::Name;
use crate::message::{Header, Method};

/// The CSeq header (RFC 3261 §20.16).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CSeq<'a> {
    /// The sequence number.
    pub number: u32,
    /// The method.
    pub method: Method<'a>,
}

/// The dialog that a request outside of it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DialogReference<'a> {
    /// Its Call-ID.
    pub call_id: &'a [u8],
    /// `to-tag` of Replaces and Join, `remote-tag` of Target-Dialog.
    pub to_tag: &'a [u8],
    /// `from-tag` of Replaces and Join, `local-tag` of Target-Dialog.
    pub from_tag: &'a [u8],
}

/// Splits `name=value` pieces separated by semicolons, with white space around all of it. Semicolons in quoted strings do not
/// separate, values keep their quotes, empty pieces are skipped. A piece without `=` has no value.
pub fn params(bytes: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
    Params { rest: bytes }
}

/// One parameter by its name, whose case does not count: `None` if it is absent, `Some(None)` if it has no value.
pub(crate) fn param<'a>(bytes: &'a [u8], name: &[u8]) -> Option<Option<&'a [u8]>> {
    Params { rest: bytes }.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Reads a CSeq: number, white space, method.
///
/// # Errors
/// `CSeqNumber` for what is no number of 32 bits, `CSeqMethod` for what is no token.
pub fn cseq(bytes: &[u8]) -> Result<CSeq<'_>, Fault> {
    let end = bytes.iter().position(|octet| is_lws(*octet)).unwrap_or(bytes.len());
    let number = number(head(bytes, end)).and_then(|number| u32::try_from(number).ok()).ok_or(Fault::CSeqNumber)?;
    let method = trim_start(tail(bytes, end));
    if !is_token(method) {
        return Err(Fault::CSeqMethod);
    }
    Ok(CSeq { number, method: Method::from_bytes(method) })
}

/// Reads Replaces, Join or Target-Dialog; `None` if the Call-ID or one of the tags is missing.
pub(crate) fn dialog_reference<'a>(header: &Header<'a>) -> Option<DialogReference<'a>> {
    let end = parameter_end(header.value);
    let call_id = trim_end(head(header.value, end));
    let parameters = tail(header.value, end + 1);
    let (to, from): (&[u8], &[u8]) =
        if header.name == Name::TargetDialog { (b"remote-tag", b"local-tag") } else { (b"to-tag", b"from-tag") };
    if call_id.is_empty() {
        return None;
    }
    Some(DialogReference {
        call_id,
        to_tag: param(parameters, to).flatten()?,
        from_tag: param(parameters, from).flatten()?,
    })
}

/// One parameter, given without white space around it.
fn name_and_value(piece: &[u8]) -> (&[u8], Option<&[u8]>) {
    match find(b'=', piece) {
        Some(equals) => {
            let (name, value) = around(piece, equals);
            (trim_end(name), Some(trim_start(value)))
        }
        None => (piece, None),
    }
}

struct Params<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Params<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.rest.is_empty() {
            let (piece, after) = around(self.rest, parameter_end(self.rest));
            self.rest = after;
            let piece = trim(piece);
            if piece.is_empty() {
                continue;
            }
            return Some(name_and_value(piece));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Limits, parse};

    #[test]
    fn parameters_with_quotes_white_space_and_flags() {
        let found: Vec<(&[u8], Option<&[u8]>)> = params(b" tag =\r\n 98asjd8; x=\"a;b\\\";c\" ;;lr ; empty=").collect();
        assert_eq!(found.len(), 4);
        assert_eq!(found[0], (b"tag".as_slice(), Some(b"98asjd8".as_slice())));
        assert_eq!(found[1], (b"x".as_slice(), Some(b"\"a;b\\\";c\"".as_slice())));
        assert_eq!(found[2], (b"lr".as_slice(), None));
        assert_eq!(found[3], (b"empty".as_slice(), Some(b"".as_slice())));
        assert_eq!(param(b"LR;a=1", b"lr"), Some(None));
        assert_eq!(param(b"lr;A=1", b"a"), Some(Some(b"1".as_slice())));
        assert_eq!(param(b"", b"a"), None);
    }

    #[test]
    fn cseq_folded_and_overlarge() {
        let read = cseq(b"0009\r\n  INVITE").expect("a folded CSeq is fine");
        assert_eq!(read, CSeq { number: 9, method: Method::Invite });
        assert_eq!(cseq(b"4294967295 ACK").map(|cseq| cseq.number), Ok(u32::MAX));
        assert_eq!(cseq(b"4294967296 ACK").err(), Some(Fault::CSeqNumber));
        assert_eq!(cseq(b"36893488147419103232 REGISTER").err(), Some(Fault::CSeqNumber));
        assert_eq!(cseq(b"-1 ACK").err(), Some(Fault::CSeqNumber));
        assert_eq!(cseq(b"").err(), Some(Fault::CSeqNumber));
        assert_eq!(cseq(b"1").err(), Some(Fault::CSeqMethod));
        assert_eq!(cseq(b"1 INVITE x").err(), Some(Fault::CSeqMethod));
    }

    #[test]
    fn dialog_references_of_all_three_headers() {
        let head = b"INVITE sip:a@b SIP/2.0\r\n";
        let cases: [&[u8]; 3] = [
            b"Replaces: 98@x;from-tag=f;to-tag=t;early-only\r\n",
            b"Join: 98@x ; to-tag=t\r\n ;from-tag=f\r\n",
            b"Target-Dialog: 98@x;local-tag=f;remote-tag=t\r\n",
        ];
        for line in cases {
            let text = [head.as_slice(), line, b"\r\n"].concat();
            let message = parse(&text, &Limits::default()).expect("a request line and one header");
            let wanted = DialogReference { call_id: b"98@x", to_tag: b"t", from_tag: b"f" };
            assert_eq!(message.dialog_reference(), Some(wanted));
        }
        for line in ["Replaces: 98@x;from-tag=f", "Target-Dialog: 98@x;remote-tag=t", "Join: ;to-tag=t;from-tag=f"] {
            let text = [head.as_slice(), line.as_bytes(), b"\r\n\r\n"].concat();
            let message = parse(&text, &Limits::default()).expect("a request line and one header");
            assert_eq!(message.dialog_reference(), None, "{line}");
        }
    }
}
