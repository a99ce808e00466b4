//! The two sides of a dialog as a BYE of our own has to name them (RFC 3261 §12.2.1.1), in one allocation.
//!
//! They are taken from the INVITE as it went to the next hop and from its first 2xx. A target that a later request has moved is
//! not followed: the BYE leaves by the flow that leads to its side all the same. Nothing of this is logged, so that a call from
//! before a restart can be forgotten but not ended.

use sip::{Contact, Message, Name, NameAddr};
use smallvec::SmallVec;

/// Octets; of what is longer nothing is kept.
const MOST: usize = 2_048;

/// Each field behind its length in two octets: Call-ID, From, To, then Contact and Routes of the caller, and of who was called.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sides(Box<[u8]>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Caller,
    Called,
}

/// What a request to one side says, as from the other one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Words<'a> {
    pub(crate) call_id: &'a [u8],
    /// The Request-URI; empty: this side has named no Contact.
    pub(crate) uri: &'a [u8],
    /// The values of Route, with commas between them; empty: none.
    pub(crate) routes: &'a [u8],
    pub(crate) from: &'a [u8],
    pub(crate) to: &'a [u8],
}

type Routes<'a> = SmallVec<[NameAddr<'a>; 4]>;

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Caller => Self::Called,
            Self::Called => Self::Caller,
        }
    }
}

impl Sides {
    /// `sent`: the INVITE as it went on, our Record-Route on top. `answer`: its 2xx as it came. `None`: it is too long.
    pub(crate) fn of(sent: &Message<'_>, answer: &Message<'_>) -> Option<Self> {
        let ours = sent.record_routes().next().and_then(|route| user_of(&route));
        // There may be two values of ours. What is below them stands between the caller and us, the nearest to us first; what the
        // answer has above them between us and who was called, the nearest to us last (RFC 3261 §12.1).
        let towards_caller: Routes<'_> = sent.record_routes().skip_while(|route| user_of(route) == ours).collect();
        let recorded: Routes<'_> = answer.record_routes().collect();
        let above = recorded.iter().position(|route| user_of(route) == ours).unwrap_or(0);
        let towards_called: Routes<'_> = recorded.iter().take(above).rev().copied().collect();
        let mut packed = Vec::with_capacity(512);
        for value in [sent.call_id()?, sent.first(Name::From)?.value, answer.first(Name::To)?.value] {
            put(&mut packed, |text| append(value, text));
        }
        put_way(&mut packed, contact_of(sent), &towards_caller);
        put_way(&mut packed, contact_of(answer), &towards_called);
        (packed.len() <= MOST).then(|| Self(packed.into_boxed_slice()))
    }

    /// What a request to `side` says.
    pub(crate) fn words(&self, side: Side) -> Words<'_> {
        let [call_id, caller, called, caller_uri, caller_routes, called_uri, called_routes] = self.fields();
        match side {
            Side::Caller => Words { call_id, uri: caller_uri, routes: caller_routes, from: called, to: caller },
            Side::Called => Words { call_id, uri: called_uri, routes: called_routes, from: caller, to: called },
        }
    }

    fn fields(&self) -> [&[u8]; 7] {
        let mut rest: &[u8] = &self.0;
        std::array::from_fn(|_| {
            let (length, after) = rest.split_first_chunk::<2>().expect("seven fields were packed");
            let (field, after) = after.split_at(usize::from(u16::from_be_bytes(*length)));
            rest = after;
            field
        })
    }
}

/// RFC 3261 §12.2.1.1: the Request-URI and the Route that lead to `target`. A strict router is named in the Request-URI, and
/// the target behind all others.
fn put_way(packed: &mut Vec<u8>, target: &[u8], routes: &[NameAddr<'_>]) {
    let (uri, routes, last) = match routes.split_first() {
        Some((first, rest)) if is_strict(first) && !target.is_empty() => (first.uri_bytes, rest, Some(target)),
        _ => (target, routes, None),
    };
    put(packed, |text| append(uri, text));
    put(packed, |text| {
        let mut between: &[u8] = b"";
        for route in routes {
            text.extend_from_slice(between);
            append(route.raw, text);
            between = b", ";
        }
        if let Some(last) = last {
            text.extend_from_slice(between);
            text.push(b'<');
            append(last, text);
            text.push(b'>');
        }
    });
}

/// Appends a field. One that is too long for its length is too long to be kept.
fn put(packed: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = packed.len();
    packed.extend_from_slice(&[0, 0]);
    write(packed);
    let length = u16::try_from(packed.len() - start - 2).unwrap_or(u16::MAX);
    packed[start..start + 2].copy_from_slice(&length.to_be_bytes());
}

/// Without the line ends of a folded value: what follows one must not become a line of its own.
fn append(value: &[u8], text: &mut Vec<u8>) {
    text.extend(value.iter().map(|octet| if matches!(octet, b'\r' | b'\n') { b' ' } else { *octet }));
}

fn contact_of<'a>(message: &Message<'a>) -> &'a [u8] {
    match message.contacts().next() {
        Some(Contact::Address(address)) => address.uri_bytes,
        Some(Contact::Star) | None => b"",
    }
}

fn user_of<'a>(route: &NameAddr<'a>) -> Option<&'a [u8]> {
    route.uri()?.user
}

fn is_strict(route: &NameAddr<'_>) -> bool {
    route.uri().is_none_or(|uri| uri.param(b"lr").is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::octets;
    use sip::Limits;

    const OURS: &str = "<sip:tdmX@10.0.0.1:5060;lr>";

    /// The INVITE with these Record-Route lines, and the 200 with those. `subject` stands in the From.
    fn sides(sent: &[&str], answered: &[&str], subject: &str) -> Option<Sides> {
        let lines = |values: &[&str]| -> String {
            values.iter().map(|value| format!("Record-Route: {value}\n")).collect::<String>().trim().to_owned()
        };
        let common = format!(
            "From: \"{subject}\" <sip:bonnie@example.com>;tag=ft
            Call-ID: call-1
            CSeq: 1 INVITE"
        );
        let invite = octets(&format!(
            "INVITE sip:clyde@example.com SIP/2.0
            {}
            Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKours
            {common}
            To: <sip:clyde@example.com>
            Contact: <sip:bonnie@10.1.0.1:5060>;x=1",
            lines(sent)
        ));
        let answer = octets(&format!(
            "SIP/2.0 200 OK
            Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKours
            {}
            {common}
            To: <sip:clyde@example.com>;tag=tt
            Contact: sip:clyde@10.0.1.1:5060",
            lines(answered)
        ));
        let limits = Limits { message_bytes: 9_000, ..Limits::default() };
        let [invite, answer] =
            [&invite, &answer].map(|octets| sip::parse(octets, &limits).expect("tests write messages"));
        Sides::of(&invite, &answer)
    }

    fn text(octets: &[u8]) -> String {
        String::from_utf8_lossy(octets).into_owned()
    }

    #[test]
    fn each_side_is_spoken_to_as_by_the_other() {
        let sides = sides(&[OURS], &[OURS], "B").expect("it is short");
        let (bonnie, clyde) = ("\"B\" <sip:bonnie@example.com>;tag=ft", "<sip:clyde@example.com>;tag=tt");
        for (side, uri, from, to) in [
            (Side::Caller, "sip:bonnie@10.1.0.1:5060", clyde, bonnie),
            (Side::Called, "sip:clyde@10.0.1.1:5060", bonnie, clyde),
        ] {
            let words = sides.words(side);
            let said = [words.call_id, words.uri, words.routes, words.from, words.to].map(text);
            assert_eq!(said, ["call-1", uri, "", from, to]);
            assert_eq!(side.other().other(), side);
        }
    }

    /// RFC 3261 §12.1.1, §12.1.2 and §12.2.1.1.
    #[test]
    fn routes_are_those_of_each_side_nearest_first() {
        let (a, b, c, d) = ("<sip:a.example;lr>", "<sip:b.example;lr>", "<sip:c.example;lr>", "<sip:d.example;lr>");
        let ours_too = "<sip:tdmX@192.0.2.1;lr>";
        let spiral = "<sip:tdmY@10.0.0.1:5060;lr>";
        let (strict, bonnie, clyde) = ("<sip:s.example>", "sip:bonnie@10.1.0.1:5060", "sip:clyde@10.0.1.1:5060");
        type Row<'a> = (&'a [&'a str], &'a [&'a str], [&'a str; 2], [&'a str; 2]);
        let rows: [Row<'_>; 7] = [
            (
                &[OURS, a, b],
                &[c, d, OURS, a, b],
                [bonnie, "<sip:a.example;lr>, <sip:b.example;lr>"],
                [clyde, "<sip:d.example;lr>, <sip:c.example;lr>"],
            ),
            (&[OURS, ours_too, a], &[c, OURS, ours_too, a], [bonnie, a], [clyde, c]),
            (&[OURS], &[c, OURS], [bonnie, ""], [clyde, c]),
            (&[OURS, a], &[OURS, a], [bonnie, a], [clyde, ""]),
            // Another pass of the same call through us is a hop like any other.
            (
                &[OURS, spiral, a],
                &[OURS, spiral, a],
                [bonnie, "<sip:tdmY@10.0.0.1:5060;lr>, <sip:a.example;lr>"],
                [clyde, ""],
            ),
            // Who was called has lost our value: nobody can tell what was above it.
            (&[OURS, a], &[c, a], [bonnie, a], [clyde, ""]),
            (
                &[OURS, strict, b],
                &[c, strict, OURS],
                ["sip:s.example", "<sip:b.example;lr>, <sip:bonnie@10.1.0.1:5060>"],
                ["sip:s.example", "<sip:c.example;lr>, <sip:clyde@10.0.1.1:5060>"],
            ),
        ];
        for (sent, answered, caller, called) in rows {
            let sides = sides(sent, answered, "B").expect("it is short");
            for (side, wanted) in [(Side::Caller, caller), (Side::Called, called)] {
                let words = sides.words(side);
                assert_eq!([words.uri, words.routes].map(text), wanted, "{sent:?} {answered:?}");
            }
        }
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let shortest = sides(&[OURS], &[OURS], "").expect("it is short").0.len();
        let room = MOST - shortest;
        for (length, kept) in [(room - 1, true), (room, true), (room + 1, false), (room + 3_000, false)] {
            assert_eq!(sides(&[OURS], &[OURS], &"x".repeat(length)).is_some(), kept, "{length}");
        }
    }

    #[test]
    fn a_folded_value_is_one_line() {
        let mut out = Vec::new();
        append(b"<sip:a@b>\r\n ;tag=1\nX: y", &mut out);
        assert_eq!(text(&out), "<sip:a@b>   ;tag=1 X: y");
    }
}
