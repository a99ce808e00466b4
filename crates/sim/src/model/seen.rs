//! One datagram of the wire, as far as the model looks at it.

use crate::network::{Fate, Party, Sent};
use sip::{Contact, Instant, Limits, Method};
use std::net::SocketAddr;

/// What tells one request of a dialog from another; the same on both sides of the balancer. CANCEL and ACK share that of
/// their INVITE.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Request<'a> {
    pub(super) call_id: &'a [u8],
    pub(super) from_tag: &'a [u8],
    pub(super) number: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) at: Instant,
    /// When the first copy was received.
    pub(super) arrived: Option<Instant>,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) sender: Party,
    pub(super) receiver: Option<Party>,
    /// Nobody was there to receive it.
    pub(super) unreachable: bool,
    /// Of a response: that of its CSeq.
    pub(super) method: Method<'a>,
    /// `None`: a request.
    pub(super) code: Option<u16>,
    /// Of the top Via.
    pub(super) branch: &'a [u8],
    /// Of the second Via; empty: there is none.
    pub(super) branch_below: &'a [u8],
    /// Empty: none.
    pub(super) to_tag: &'a [u8],
    /// The address-of-record of a REGISTER request.
    pub(super) bound_user: Option<&'a [u8]>,
    /// The Contact of a REGISTER request.
    pub(super) contact: Option<&'a [u8]>,
    pub(super) bytes: &'a [u8],
}

impl<'a> Seen<'a> {
    /// `None`: not SIP, or lacking what every message of these parties has.
    pub(super) fn read(sent: &'a Sent) -> Option<(Request<'a>, Self)> {
        let message = sip::parse(&sent.bytes, &Limits::default()).ok()?;
        let cseq = message.cseq()?;
        let request = Request {
            call_id: message.call_id()?,
            from_tag: message.from()?.tag().unwrap_or_default(),
            number: cseq.number,
        };
        let to = message.to()?;
        let code = message.status_line().map(|line| line.code);
        let registers = code.is_none() && cseq.method == Method::Register;
        let contact = message.contacts().find_map(|contact| match contact {
            Contact::Address(address) => Some(address.uri_bytes),
            Contact::Star => None,
        });
        let seen = Self {
            at: sent.at,
            arrived: sent.arrived,
            from: sent.from,
            to: sent.to,
            sender: sent.sender,
            receiver: sent.receiver,
            unreachable: sent.fate == Fate::Unreachable,
            method: cseq.method,
            code,
            branch: message.top_via().and_then(|via| via.branch()).unwrap_or_default(),
            branch_below: message.vias().nth(1).and_then(|via| via.branch()).unwrap_or_default(),
            to_tag: to.tag().unwrap_or_default(),
            bound_user: registers.then_some(to.uri_bytes),
            contact: contact.filter(|_| registers),
            bytes: &sent.bytes,
        };
        Some((request, seen))
    }

    /// A request on its way to the balancer.
    pub(super) fn is_request_in(&self) -> bool {
        self.code.is_none() && self.receiver == Some(Party::Balancer)
    }

    /// A request that the balancer sent.
    pub(super) fn is_request_out(&self) -> bool {
        self.code.is_none() && self.sender == Party::Balancer
    }

    /// A response of the balancer on that client transaction.
    pub(super) fn is_answer_to(&self, client: Party, method: Method<'_>, branch: &[u8]) -> bool {
        self.code.is_some()
            && self.sender == Party::Balancer
            && (self.receiver == Some(client) || self.receiver.is_none())
            && self.method == method
            && self.branch == branch
    }

    pub(super) fn is_final(&self) -> bool {
        self.code.is_some_and(|code| code >= 200)
    }

    pub(super) fn is_success(&self) -> bool {
        self.code.is_some_and(|code| (200..300).contains(&code))
    }

    /// A final answer other than 2xx.
    pub(super) fn is_refusal(&self) -> bool {
        self.code.is_some_and(|code| code >= 300)
    }

    /// Went up as `up`, as far as the code tells: a 503 becomes a 500 (RFC 3261 §16.7 step 6).
    pub(super) fn has_code_of(&self, up: &Seen<'_>) -> bool {
        self.code == up.code || (self.code == Some(503) && up.code == Some(500))
    }
}
