//! Dialogs (RFC 3261 §12): what a call has to remember to place its next request, and the request as it will be written.

use crate::address;
use sip::build;
use sip::message::Message;
use sip::value::{Contact, NameAddr, name_addr};
use std::net::SocketAddr;

/// The only type of body that is written here.
const SDP: &[u8] = b"application/sdp";

/// One dialog, or what will become one when the other side answers.
#[derive(Clone, Debug)]
pub(crate) struct Dialog {
    pub(crate) call_id: Vec<u8>,
    pub(crate) local_tag: Vec<u8>,
    /// None until the other side gave one.
    pub(crate) remote_tag: Option<Vec<u8>>,
    /// Our side as a name-addr without tag: From in our requests.
    pub(crate) local: Vec<u8>,
    pub(crate) remote: Vec<u8>,
    /// The remote target: a URI.
    pub(crate) target: Vec<u8>,
    /// The route set, nearest first, each a name-addr.
    pub(crate) routes: Vec<Vec<u8>>,
    /// CSeq number of our last request.
    pub(crate) local_cseq: u32,
    /// CSeq number of the other side's last request.
    pub(crate) remote_cseq: Option<u32>,
    /// Where requests go when neither route nor target has a numeric address.
    pub(crate) fallback: SocketAddr,
}

/// A request but for its Via and its credentials, so that it can be sent again with others.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) method: &'static str,
    pub(crate) uri: Vec<u8>,
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    pub(crate) call_id: Vec<u8>,
    pub(crate) cseq: u32,
    pub(crate) contact: Option<Vec<u8>>,
    /// Complete header lines.
    pub(crate) extra: Vec<u8>,
    /// SDP.
    pub(crate) body: Option<Vec<u8>>,
    /// The address that it is sent to.
    pub(crate) hop: SocketAddr,
}

impl Dialog {
    /// The callee's side of a dialog (RFC 3261 §12.1.1). `None` if the INVITE lacks what `check` asks for.
    pub(crate) fn of_invite(invite: &Message<'_>, local_tag: Vec<u8>, fallback: SocketAddr) -> Option<Self> {
        let from = invite.from()?;
        let to = invite.to()?;
        Some(Self {
            call_id: invite.call_id()?.to_vec(),
            local_tag,
            remote_tag: Some(from.tag().unwrap_or_default().to_vec()),
            local: without_parameters(&to),
            remote: without_parameters(&from),
            target: contact_uri(invite).unwrap_or(from.uri_bytes).to_vec(),
            routes: invite.record_routes().map(|route| route.raw.to_vec()).collect(),
            local_cseq: 0,
            remote_cseq: Some(invite.cseq()?.number),
            fallback,
        })
    }

    /// The caller's side becomes a dialog by a 2xx (RFC 3261 §12.1.2 and §13.2.2.4).
    pub(crate) fn establish(&mut self, response: &Message<'_>) {
        self.remote_tag = Some(remote_tag_of(response));
        self.routes = response.record_routes().map(|route| route.raw.to_vec()).collect();
        self.routes.reverse();
        self.refresh_target(response);
    }

    /// Takes the remote target from the Contact of a re-INVITE, an UPDATE or an answer to one (RFC 3261 §12.2).
    pub(crate) fn refresh_target(&mut self, message: &Message<'_>) {
        if let Some(uri) = contact_uri(message) {
            self.target = uri.to_vec();
        }
    }

    /// The dialog that an answer to an INVITE of ours makes, read from that answer alone: for a 2xx of a further branch
    /// of a fork, or one to a call that is already given up. `uri` is the INVITE's own, the target of an answer without a
    /// Contact that can be read.
    pub(crate) fn of_response(response: &Message<'_>, uri: Vec<u8>, fallback: SocketAddr) -> Option<Self> {
        let from = response.from()?;
        let to = response.to()?;
        let mut dialog = Self {
            call_id: response.call_id()?.to_vec(),
            local_tag: from.tag().unwrap_or_default().to_vec(),
            remote_tag: None,
            local: without_parameters(&from),
            remote: without_parameters(&to),
            target: uri,
            routes: Vec::new(),
            local_cseq: response.cseq()?.number,
            remote_cseq: None,
            fallback,
        };
        dialog.establish(response);
        Some(dialog)
    }

    /// A request within this dialog (RFC 3261 §12.2.1.1), with its Route lines, without body and Contact.
    pub(crate) fn recipe(&self, method: &'static str, cseq: u32) -> Recipe {
        let (uri, routes) = self.request_uri_and_routes();
        let mut extra = Vec::new();
        for route in routes {
            extra.extend_from_slice(b"Route: ");
            extra.extend_from_slice(&route);
            extra.extend_from_slice(b"\r\n");
        }
        Recipe {
            method,
            uri,
            from: tagged(&self.local, &self.local_tag),
            to: tagged(&self.remote, self.remote_tag.as_deref().unwrap_or_default()),
            call_id: self.call_id.clone(),
            cseq,
            contact: None,
            extra,
            body: None,
            hop: self.next_hop(),
        }
    }

    /// The first route or else the remote target where it is numeric, else the fallback.
    fn next_hop(&self) -> SocketAddr {
        let numeric = match self.routes.first() {
            Some(route) => address::of_name_addr(route),
            None => address::of_uri(&self.target),
        };
        numeric.unwrap_or(self.fallback)
    }

    /// A first route without `lr` is a strict router: it gets the request under its own URI (RFC 3261 §12.2.1.1).
    fn request_uri_and_routes(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let strict = self.routes.first().and_then(|route| strict_router(route));
        match strict {
            Some(uri) => {
                let mut routes: Vec<Vec<u8>> = self.routes.iter().skip(1).cloned().collect();
                routes.push(bracketed(&self.target));
                (uri, routes)
            }
            None => (self.target.clone(), self.routes.clone()),
        }
    }
}

impl Recipe {
    /// The request's octets. `authorization` are complete header lines or empty.
    pub(crate) fn write(&self, via: &[u8], authorization: &str, product: &str) -> Vec<u8> {
        let mut extra = self.extra.clone();
        extra.extend_from_slice(authorization.as_bytes());
        extra.extend_from_slice(b"User-Agent: ");
        extra.extend_from_slice(product.as_bytes());
        extra.extend_from_slice(b"\r\n");
        let request = build::Request {
            method: self.method.as_bytes(),
            uri: &self.uri,
            via,
            from: &self.from,
            to: &self.to,
            call_id: &self.call_id,
            cseq: self.cseq,
            contact: self.contact.as_deref(),
            extra: &extra,
            body: self.body.as_deref().map(|body| (SDP, body)),
        };
        let mut out = Vec::with_capacity(1_024);
        build::request(&request, &mut out);
        out
    }
}

/// The To tag of a response; empty if there is none, as with peers of RFC 2543.
pub(crate) fn remote_tag_of(response: &Message<'_>) -> Vec<u8> {
    response.to().and_then(|to| to.tag()).unwrap_or_default().to_vec()
}

/// `<uri>`.
pub(crate) fn bracketed(uri: &[u8]) -> Vec<u8> {
    [&b"<"[..], uri, b">"].concat()
}

/// A response with a body: the header lines that `extra` adds, then SDP.
pub(crate) fn response_with_body(
    request: &Message<'_>,
    code: u16,
    tag: &[u8],
    extra: &[u8],
    body: Option<&[u8]>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(1_024);
    let tag = if code > 100 { Some(tag) } else { None };
    build::response(request, code, None, tag, extra, &mut out);
    let Some(body) = body else { return out };
    let Some(head) = out.strip_suffix(b"Content-Length: 0\r\n\r\n") else {
        return out;
    };
    let mut whole = head.to_vec();
    whole.extend_from_slice(b"Content-Type: ");
    whole.extend_from_slice(SDP);
    whole.extend_from_slice(format!("\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
    whole.extend_from_slice(body);
    whole
}

fn tagged(party: &[u8], tag: &[u8]) -> Vec<u8> {
    if tag.is_empty() { party.to_vec() } else { [party, b";tag=", tag].concat() }
}

/// A name-addr without its header parameters.
fn without_parameters(value: &NameAddr<'_>) -> Vec<u8> {
    let mut party = value.raw.strip_suffix(value.params).unwrap_or(value.raw).trim_ascii_end();
    while let Some(shorter) = party.strip_suffix(b";") {
        party = shorter.trim_ascii_end();
    }
    party.to_vec()
}

/// The first Contact whose URI can be read: another one is nowhere to send to.
fn contact_uri<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
    message.contacts().find_map(|contact| match contact {
        Contact::Address(address) => address.uri().map(|_| address.uri_bytes),
        Contact::Star => None,
    })
}

/// The URI of a route that lacks `lr`.
fn strict_router(route: &[u8]) -> Option<Vec<u8>> {
    let address = name_addr(route).ok()?;
    let uri = address.uri()?;
    if uri.param(b"lr").is_some() { None } else { Some(address.uri_bytes.to_vec()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip::message::{Limits, parse};

    const INVITE: &str = "INVITE sip:clyde@10.1.0.2:5060 SIP/2.0\r\n\
        Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx\r\n\
        Record-Route: <sip:10.0.0.1:5060;lr>, <sip:10.0.0.9:5070;lr>\r\n\
        From: \"B; P\" <sip:bonnie@example.com>;x=y;tag=from\r\nTo: sip:clyde@example.com\r\nCall-ID: c1\r\n\
        CSeq: 7 INVITE\r\nContact: <sip:bonnie@10.1.0.1:5060>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n";

    fn fallback() -> SocketAddr {
        SocketAddr::from(([10, 9, 9, 9], 5060))
    }

    fn of_answer(text: &str) -> Dialog {
        let answer = parse(text.as_bytes(), &Limits::default()).expect("the test's answer has a shape");
        Dialog::of_response(&answer, b"sip:clyde@10.2.0.2".to_vec(), fallback()).expect("the answer has all it needs")
    }

    #[test]
    fn the_callee_sees_routes_in_order_and_the_parties_swapped() {
        let invite = parse(INVITE.as_bytes(), &Limits::default()).expect("the test's INVITE is well-formed");
        let dialog = Dialog::of_invite(&invite, b"to".to_vec(), fallback()).expect("the INVITE has all it needs");
        let bye = dialog.recipe("BYE", 1);
        assert_eq!(bye.uri, b"sip:bonnie@10.1.0.1:5060");
        assert_eq!(bye.from, b"sip:clyde@example.com;tag=to");
        assert_eq!(bye.to, b"\"B; P\" <sip:bonnie@example.com>;tag=from");
        assert_eq!(bye.extra, b"Route: <sip:10.0.0.1:5060;lr>\r\nRoute: <sip:10.0.0.9:5070;lr>\r\n");
        assert_eq!(bye.hop, SocketAddr::from(([10, 0, 0, 1], 5060)));
        assert_eq!(dialog.remote_cseq, Some(7));
    }

    #[test]
    fn the_caller_reverses_the_routes_of_the_answer() {
        let text = INVITE.replace("INVITE sip:clyde@10.1.0.2:5060 SIP/2.0", "SIP/2.0 200 OK");
        let text = text.replace("To: sip:clyde@example.com", "To: <sip:clyde@example.com>;tag=to");
        let dialog = of_answer(&text);
        let ack = dialog.recipe("ACK", 7);
        assert_eq!(ack.hop, SocketAddr::from(([10, 0, 0, 9], 5070)));
        assert_eq!(ack.extra, b"Route: <sip:10.0.0.9:5070;lr>\r\nRoute: <sip:10.0.0.1:5060;lr>\r\n");
        assert_eq!(ack.from, b"\"B; P\" <sip:bonnie@example.com>;tag=from");
        assert_eq!(ack.to, b"<sip:clyde@example.com>;tag=to");
        assert_eq!(ack.cseq, 7);
    }

    #[test]
    fn a_contact_that_cannot_be_read_leaves_the_target_as_it_was() {
        let text = INVITE.replace("INVITE sip:clyde@10.1.0.2:5060 SIP/2.0", "SIP/2.0 200 OK");
        let odd = "<sip:bonnie@10.1.0.1:x>";
        let text = text.replace("<sip:bonnie@10.1.0.1:5060>", odd);
        assert_eq!(of_answer(&text).target, b"sip:clyde@10.2.0.2");
        let text = text.replace(odd, &format!("{odd}, <sip:bonnie@10.1.0.1>"));
        assert_eq!(of_answer(&text).target, b"sip:bonnie@10.1.0.1");
    }

    #[test]
    fn a_strict_router_gets_the_request_under_its_own_uri() {
        let text = INVITE.replace("<sip:10.0.0.1:5060;lr>, <sip:10.0.0.9:5070;lr>", "<sip:old@10.0.0.3>");
        let invite = parse(text.as_bytes(), &Limits::default()).expect("the test's INVITE is well-formed");
        let dialog = Dialog::of_invite(&invite, b"to".to_vec(), fallback()).expect("the INVITE has all it needs");
        let bye = dialog.recipe("BYE", 1);
        assert_eq!(bye.uri, b"sip:old@10.0.0.3");
        assert_eq!(bye.extra, b"Route: <sip:bonnie@10.1.0.1:5060>\r\n");
        assert_eq!(bye.hop, SocketAddr::from(([10, 0, 0, 3], 5060)));
    }

    #[test]
    fn a_target_behind_a_name_is_reached_through_the_fallback() {
        let text = INVITE.replace("Record-Route: <sip:10.0.0.1:5060;lr>, <sip:10.0.0.9:5070;lr>\r\n", "");
        let text = text.replace("sip:bonnie@10.1.0.1:5060", "sip:bonnie@phone.example.com");
        let invite = parse(text.as_bytes(), &Limits::default()).expect("the test's INVITE is well-formed");
        let dialog = Dialog::of_invite(&invite, b"to".to_vec(), fallback()).expect("the INVITE has all it needs");
        assert_eq!(dialog.recipe("BYE", 1).hop, fallback());
    }

    #[test]
    fn a_body_replaces_the_empty_length() {
        let invite = parse(INVITE.as_bytes(), &Limits::default()).expect("the test's INVITE is well-formed");
        let bytes = response_with_body(&invite, 200, b"t1", b"X-Test: 1\r\n", Some(b"v=0\r\n"));
        let answer = parse(&bytes, &Limits::default()).expect("what we build is well-formed");
        assert_eq!(answer.body(), b"v=0\r\n");
        assert_eq!(answer.to().and_then(|to| to.tag()), Some(&b"t1"[..]));
        assert_eq!(answer.named(b"X-Test").count(), 1);
        let trying = response_with_body(&invite, 100, b"t1", b"", None);
        let trying = parse(&trying, &Limits::default()).expect("what we build is well-formed");
        assert_eq!(trying.to().and_then(|to| to.tag()), None);
    }
}
