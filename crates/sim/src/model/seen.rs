//! One datagram of the wire, as far as the model looks at it.

use crate::network::{Fate, Party, Sent};
use sip::{Checked, Contact, Fault, Instant, Limits, Message, Method};
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
    /// `None`: not SIP, or lacking what every message of these parties has. Besides what is wrong with it, if anything is.
    pub(super) fn read(sent: &'a Sent) -> (Option<(Request<'a>, Self)>, Option<Fault>) {
        let limits = Limits::default();
        let message = match sip::parse(&sent.bytes, &limits) {
            Ok(message) => message,
            Err(fault) => return (None, Some(fault)),
        };
        match sip::check(&message, &limits) {
            Ok(checked) => (Some(Self::of_sound(sent, message.method(), &checked)), None),
            Err(fault) => (Self::of(sent, &message), Some(fault)),
        }
    }

    /// Of what the check has read already.
    fn of_sound(sent: &'a Sent, method: Method<'a>, message: &Checked<'_>) -> (Request<'a>, Self) {
        let within = |part: &[u8]| within(&sent.bytes, part);
        let request = Request {
            call_id: within(message.call_id()),
            from_tag: within(message.from().tag.unwrap_or_default()),
            number: message.cseq().number,
        };
        let read = Read {
            method,
            branch: within(message.branch().unwrap_or_default()),
            to_tag: within(message.to().tag.unwrap_or_default()),
            to_uri: within(message.to().address.uri_bytes),
        };
        (request, Self::new(sent, message, read))
    }

    fn of(sent: &'a Sent, message: &Message<'a>) -> Option<(Request<'a>, Self)> {
        let cseq = message.cseq()?;
        let request = Request {
            call_id: message.call_id()?,
            from_tag: message.from()?.tag().unwrap_or_default(),
            number: cseq.number,
        };
        let to = message.to()?;
        let read = Read {
            method: cseq.method,
            branch: message.top_via().and_then(|via| via.branch()).unwrap_or_default(),
            to_tag: to.tag().unwrap_or_default(),
            to_uri: to.uri_bytes,
        };
        Some((request, Self::new(sent, message, read)))
    }

    fn new(sent: &'a Sent, message: &Message<'_>, read: Read<'a>) -> Self {
        let code = message.status_line().map(|line| line.code);
        let registers = code.is_none() && read.method == Method::Register;
        let contact = || {
            message.contacts().find_map(|contact| match contact {
                Contact::Address(address) => Some(within(&sent.bytes, address.uri_bytes)),
                Contact::Star => None,
            })
        };
        let branch_below = message.vias().nth(1).and_then(|via| via.branch()).unwrap_or_default();
        Self {
            at: sent.at,
            arrived: sent.arrived,
            from: sent.from,
            to: sent.to,
            sender: sent.sender,
            receiver: sent.receiver,
            unreachable: sent.fate == Fate::Unreachable,
            method: read.method,
            code,
            branch: read.branch,
            branch_below: within(&sent.bytes, branch_below),
            to_tag: read.to_tag,
            bound_user: registers.then_some(read.to_uri),
            contact: if registers { contact() } else { None },
            bytes: &sent.bytes,
        }
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

/// What two ways of reading a message have in common.
struct Read<'a> {
    method: Method<'a>,
    branch: &'a [u8],
    to_tag: &'a [u8],
    to_uri: &'a [u8],
}

/// A part of `whole` that was borrowed for a shorter time; an empty one may come from anywhere.
fn within<'a>(whole: &'a [u8], part: &[u8]) -> &'a [u8] {
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    whole.get(start..start.wrapping_add(part.len())).unwrap_or_default()
}
