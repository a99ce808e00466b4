//! Where messages go: numeric addresses in URIs, and responses along the Via (RFC 3261 §18.2.2, RFC 3581).

use sip::edit::Edits;
use sip::message::Message;
use sip::uri::{self, Host};
use sip::value::name_addr;
use std::net::SocketAddr;

/// The port of a SIP URI or Via that names none.
const DEFAULT_PORT: u16 = 5060;

/// The address in a URI whose host is numeric.
pub(crate) fn of_uri(bytes: &[u8]) -> Option<SocketAddr> {
    let uri = uri::parse(bytes).ok()?;
    match uri.host {
        Host::Ip(ip) => Some(SocketAddr::new(ip, uri.port.unwrap_or(DEFAULT_PORT))),
        Host::Name(_) => None,
    }
}

/// The address in a name-addr (a Route, a Contact) whose host is numeric.
pub(crate) fn of_name_addr(bytes: &[u8]) -> Option<SocketAddr> {
    of_uri(name_addr(bytes).ok()?.uri_bytes)
}

/// Where the response to a request goes: to its source, but to the port of the Via where the client asked for no rport.
pub(crate) fn of_response(request: &Message<'_>, source: SocketAddr) -> SocketAddr {
    match request.top_via() {
        Some(via) if via.rport().is_none() => SocketAddr::new(source.ip(), via.port.unwrap_or(DEFAULT_PORT)),
        _ => source,
    }
}

/// The request with `received` and the value of `rport` in its top Via, as every response has to show them.
pub(crate) fn stamped(request: &Message<'_>, source: SocketAddr) -> Vec<u8> {
    let mut edits = Edits::new();
    if let Some(via) = request.top_via() {
        if let Some(flag) = rport_flag(via.raw) {
            edits.insert(request.span_of(flag).end, format!("={}", source.port()).as_bytes());
        }
        let elsewhere = via.host != Host::Ip(source.ip());
        if via.received().is_none() && (elsewhere || via.rport().is_some()) {
            edits.insert(request.span_of(via.raw).end, format!(";received={}", source.ip()).as_bytes());
        }
    }
    let mut out = Vec::with_capacity(request.bytes().len() + 64);
    edits.apply(request.bytes(), &mut out);
    out
}

/// The parameter `rport` of a Via value where it has no value yet.
fn rport_flag(via: &[u8]) -> Option<&[u8]> {
    via.split(|octet| *octet == b';').skip(1).map(<[u8]>::trim_ascii).find(|part| part.eq_ignore_ascii_case(b"rport"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip::message::{Limits, parse};

    fn request(via: &str) -> Vec<u8> {
        format!(
            "OPTIONS sip:a@example.com SIP/2.0\r\nVia: {via}\r\nFrom: <sip:b@example.com>;tag=1\r\nTo: <sip:a@example.com>\r\n\
             Call-ID: 1\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    }

    fn via_after(via: &str, source: &str) -> String {
        let bytes = request(via);
        let message = parse(&bytes, &Limits::default()).expect("the test's request is well-formed");
        let stamped = stamped(&message, source.parse().expect("the test's address is numeric"));
        let text = String::from_utf8(stamped).expect("ASCII in, ASCII out");
        text.lines().nth(1).expect("the Via is the second line").to_owned()
    }

    #[test]
    fn rport_is_filled_in_wherever_it_stands() {
        assert_eq!(
            via_after("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx;rport", "10.0.0.1:6000"),
            "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKx;rport=6000;received=10.0.0.1"
        );
        assert_eq!(
            via_after("SIP/2.0/UDP 10.0.0.1:5060;rport;branch=z9hG4bKx", "192.0.2.1:6000"),
            "Via: SIP/2.0/UDP 10.0.0.1:5060;rport=6000;branch=z9hG4bKx;received=192.0.2.1"
        );
    }

    #[test]
    fn received_is_added_only_where_the_sent_by_differs_and_rport_is_not_asked_for() {
        assert_eq!(
            via_after("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKx", "10.0.0.1:6000"),
            "Via: SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKx"
        );
        assert_eq!(
            via_after("SIP/2.0/UDP phone.example.com;branch=z9hG4bKx", "10.0.0.1:6000"),
            "Via: SIP/2.0/UDP phone.example.com;branch=z9hG4bKx;received=10.0.0.1"
        );
    }

    #[test]
    fn responses_go_to_the_source_or_to_the_port_of_the_via() {
        let source: SocketAddr = SocketAddr::from(([192, 0, 2, 1], 6000));
        for (via, port) in [
            ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKx;rport", 6000),
            ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKx", 5070),
            ("SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx", 5060),
        ] {
            let bytes = request(via);
            let message = parse(&bytes, &Limits::default()).expect("the test's request is well-formed");
            assert_eq!(of_response(&message, source), SocketAddr::new(source.ip(), port), "{via}");
        }
    }

    #[test]
    fn only_numeric_hosts_have_an_address() {
        assert_eq!(of_uri(b"sip:a@10.0.0.1:5070"), Some(SocketAddr::from(([10, 0, 0, 1], 5070))));
        assert_eq!(of_uri(b"sip:10.0.0.1"), Some(SocketAddr::from(([10, 0, 0, 1], 5060))));
        assert_eq!(of_name_addr(b"<sip:[2001:db8::1]:5080;lr>"), "[2001:db8::1]:5080".parse().ok());
        assert_eq!(of_uri(b"sip:a@example.com"), None);
    }
}
