//! A message fit to be forwarded, with what a proxy needs of every message read once.

use std::ops::Deref;

use crate::header::Name;
use crate::message::{Message, Method};
use crate::uri::Uri;
use crate::value::{CSeq, NameAddr, Via, ViaParameters};

/// A message that [`check()`](crate::check()) found no fault in. What is mandatory is there; what was read to judge it is kept. All
/// else is read from the [`Message`] underneath when it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'m> {
    pub(crate) message: &'m Message<'m>,
    pub(crate) uri: Option<Uri<'m>>,
    pub(crate) via: Via<'m>,
    pub(crate) via_parameters: ViaParameters<'m>,
    pub(crate) from: Peer<'m>,
    pub(crate) to: Peer<'m>,
    pub(crate) call_id: &'m [u8],
    pub(crate) cseq: CSeq<'m>,
}

/// One of the two parties that a message names: From or To.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'m> {
    /// The header's value.
    pub address: NameAddr<'m>,
    /// Its URI.
    pub uri: Uri<'m>,
    /// Its tag, if it has one.
    pub tag: Option<&'m [u8]>,
}

impl<'m> Checked<'m> {
    /// The method of a request, or the one that a response answers.
    pub fn method(&self) -> Method<'m> {
        self.cseq.method
    }

    /// The Request-URI; `None` for a response.
    pub fn uri(&self) -> Option<&Uri<'m>> {
        self.uri.as_ref()
    }

    /// There is one Via only: nobody has passed the message on.
    pub fn is_from_its_author(&self) -> bool {
        self.via.last && self.all(Name::Via).nth(1).is_none()
    }

    /// The topmost Via value.
    pub fn via(&self) -> &Via<'m> {
        &self.via
    }

    /// Its parameters.
    pub fn via_parameters(&self) -> &ViaParameters<'m> {
        &self.via_parameters
    }

    /// The branch of the topmost Via; those who know RFC 2543 only write none.
    pub fn branch(&self) -> Option<&'m [u8]> {
        self.via_parameters.branch
    }

    /// The topmost Via has an `rport` (RFC 3581 §3).
    pub fn asks_rport(&self) -> bool {
        self.via_parameters.rport.is_some()
    }

    /// The From header.
    pub fn from(&self) -> &Peer<'m> {
        &self.from
    }

    /// The To header.
    pub fn to(&self) -> &Peer<'m> {
        &self.to
    }

    /// The Call-ID.
    pub fn call_id(&self) -> &'m [u8] {
        self.call_id
    }

    /// The CSeq.
    pub fn cseq(&self) -> CSeq<'m> {
        self.cseq
    }
}

impl<'m> Deref for Checked<'m> {
    type Target = Message<'m>;

    fn deref(&self) -> &Message<'m> {
        self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::check;
    use crate::message::{Limits, parse};

    #[test]
    fn what_was_read_to_judge_a_message_is_kept() {
        let limits = Limits::default();
        let request = b"UPDATE sip:bob@example.com:5070 SIP/2.0\r\nVia: SIP/2.0/TCP h:5062;branch=z9hG4bK7;rport\r\n\
            From: <sip:alice@a.example>;tag=f\r\nTo: <sip:bob@b.example>;tag=t\r\n\
            Call-ID: 1@x\r\nCSeq: 9 UPDATE\r\n\r\n";
        let message = parse(request, &limits).expect("it has a shape");
        let checked = check(&message, &limits).expect("no rule is broken");
        assert_eq!(checked.method(), Method::Update);
        assert_eq!(checked.cseq(), CSeq { number: 9, method: Method::Update });
        assert_eq!(checked.uri().and_then(|uri| uri.port), Some(5070));
        assert_eq!((checked.via().port, checked.branch()), (Some(5062), Some(b"z9hG4bK7".as_slice())));
        assert_eq!((checked.via_parameters().branch, checked.asks_rport()), (checked.branch(), true));
        assert_eq!((checked.from().tag, checked.to().tag), (Some(b"f".as_slice()), Some(b"t".as_slice())));
        assert_eq!(checked.call_id(), b"1@x");
        assert_eq!(checked.bytes(), request);
    }

    #[test]
    fn a_response_has_no_uri_and_an_old_one_no_branch() {
        let limits = Limits::default();
        let response = b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:a@b>\r\nTo: <sip:c@d>;tag=t\r\n\
            Call-ID: 2\r\nCSeq: 1 BYE\r\n\r\n";
        let message = parse(response, &limits).expect("it has a shape");
        let checked = check(&message, &limits).expect("no rule is broken");
        assert_eq!((checked.method(), checked.branch(), checked.asks_rport()), (Method::Bye, None, false));
        assert!(checked.uri().is_none());
        assert_eq!((checked.from().tag, checked.to().tag), (None, Some(b"t".as_slice())));
        assert_eq!(checked.call_id(), b"2");
    }
}
