//! `sips` (RFC 5630 §5.3): over TLS on every hop or refused with the reason, never made of `sip`, and undone only for a phone's contact.

use crate::streams::{farm, listener, of_answer, of_phone};
use crate::unit::{Sent, Unit};
use engine::{Flow, Transport};
use sim::bench::invite;
use sim::script::uri_in;
use sim::{Answer, Script, box_address};
use std::net::SocketAddr;

const CLYDE: &str = "sips:clyde@example.com";

/// Bonnie registers by `flow` with this contact; what the box has got.
fn register(unit: &mut Unit, flow: Flow, uri: &str, contact: &str) -> Sent {
    let request = Script::new("REGISTER")
        .branch("reg")
        .uri(uri)
        .from("<sip:bonnie@example.com>;tag=reg")
        .to("<sip:bonnie@example.com>")
        .line(&format!("Contact: <{contact}>;expires=600"));
    let sent = unit.passes(flow, &request.build());
    let written = sent.text.header("Contact").map(uri_in).unwrap_or_default();
    let answer = Answer::new(200).line(&format!("Contact: <{written}>;expires=600")).to(&sent.bytes);
    let up = unit.passes(of_answer(&sent, 90), &answer);
    assert_eq!(up.text.header("Contact").map(uri_in).as_deref(), Some(contact));
    sent
}

/// The flow of the box's own connection, or of its datagrams.
fn of_box(transport: Transport) -> Flow {
    let phone = of_phone(transport, 12);
    let port = if transport.is_stream() { 51_000 } else { box_address(0).port() };
    Flow { remote: SocketAddr::new(box_address(0).ip(), port), ..phone }
}

#[test]
fn item_40_what_is_asked_for_by_sips_passes_over_tls_on_both_sides_only() {
    use Transport::{Tcp, Tls, Udp, Ws, Wss};
    let refused = Some("380 10.0.0.1:");
    for (client, of_backend, warning) in [
        (Tls, Tls, None),
        (Wss, Tls, None),
        (Tls, Udp, refused),
        (Tls, Tcp, refused),
        (Tcp, Tls, refused),
        (Udp, Tls, refused),
        (Ws, Tls, refused),
        (Udp, Udp, refused),
    ] {
        let mut unit = Unit::new(farm(Some(of_backend), |_| ()));
        let sent = unit.passes(of_phone(client, 7), &invite("a").uri(CLYDE).build());
        match warning {
            None => assert_eq!(sent.flow.listener, listener(Tls).id, "{client:?} to {of_backend:?}"),
            Some(warning) => {
                assert_eq!(
                    (sent.flow, sent.text.code()),
                    (of_phone(client, 7), Some(480)),
                    "{client:?} {of_backend:?}"
                );
                let said = sent.text.header("Warning").unwrap_or_default().to_owned();
                assert!(said.starts_with(warning) && said.ends_with(" \"SIPS Not Allowed\""), "{said}");
            }
        }
    }
}

/// RFC 3261 §16.6 step 4. Where the scheme says TLS the parameter need not.
#[test]
fn item_40_the_route_of_a_sips_request_is_sips() {
    for (client, near) in [(Transport::Tls, "10.0.0.1:5061;lr"), (Transport::Wss, "10.0.0.1:443;transport=ws;lr")] {
        let mut unit = Unit::new(farm(Some(Transport::Tls), |_| ()));
        let sent = unit.passes(of_phone(client, 7), &invite("a").uri(CLYDE).build());
        let routes: Vec<String> = sent.text.values("Record-Route").iter().map(|value| uri_in(value)).collect();
        assert!(routes.iter().all(|route| route.starts_with("sips:tdm")), "{routes:?}");
        assert!(routes.last().is_some_and(|route| route.ends_with(near)), "{routes:?}");
        assert!(routes.first().is_some_and(|route| route.ends_with("@10.0.0.1:5061;lr")), "{routes:?}");
    }
}

/// The contact of a phone over TLS and that which the box sees.
#[test]
fn a_box_sees_sips_only_where_it_is_reached_over_tls() {
    let phones = "sips:bonnie@10.1.0.1:40123";
    for (of_backend, begins) in
        [(Transport::Tls, "sips:bonnie@10.0.0.1:5061;tdm="), (Transport::Udp, "sip:bonnie@10.0.0.1:5060;tdm=")]
    {
        let mut unit = Unit::new(farm(Some(of_backend), |_| ()));
        let sent = register(&mut unit, of_phone(Transport::Tls, 7), "sip:example.com", phones);
        let written = sent.text.header("Contact").map(uri_in).unwrap_or_default();
        assert!(written.starts_with(begins), "{written}");
    }
}

/// The scheme that a box calls by, the phone's contact, and the Request-URI that the phone gets.
#[test]
fn item_40_a_phone_is_called_by_the_scheme_of_the_call() {
    let (sip, sips) = ("sip:bonnie@10.1.0.1:40123;transport=tls", "sips:bonnie@10.1.0.1:40123");
    for (of_box_over, by, contact, outcome) in [
        (Transport::Tls, "sips:", sips, Ok(sips)),
        (Transport::Tls, "sip:", sips, Ok("sip:bonnie@10.1.0.1:40123")),
        (Transport::Udp, "sip:", sips, Ok("sip:bonnie@10.1.0.1:40123")),
        (Transport::Udp, "sip:", sip, Ok(sip)),
        (Transport::Tls, "sips:", sip, Err("380 ")),
        (Transport::Udp, "sips:", sips, Err("380 ")),
    ] {
        let mut unit = Unit::new(farm(Some(of_box_over), |_| ()));
        let registered = register(&mut unit, of_phone(Transport::Tls, 7), "sip:example.com", contact);
        let written = registered.text.header("Contact").map(uri_in).unwrap_or_default();
        let (_, rest) = written.split_once(':').unwrap_or_default();
        let call = crate::steps::of_box(0, "INVITE", "b").uri(&format!("{by}{rest}"));
        let sent = unit.passes(of_box(of_box_over), &call.build());
        match outcome {
            Ok(uri) => {
                assert_eq!(sent.flow, of_phone(Transport::Tls, 7));
                assert_eq!(sent.text.start, format!("INVITE {uri} SIP/2.0"));
            }
            Err(warning) => {
                assert_eq!((sent.flow, sent.text.code()), (of_box(of_box_over), Some(480)), "{by} {contact}");
                assert!(sent.text.header("Warning").is_some_and(|said| said.starts_with(warning)), "{by} {contact}");
            }
        }
    }
}

/// A contact of `sips` that came by datagram leads nowhere: it must not be called in the clear.
#[test]
fn item_40_a_phone_that_asks_for_tls_is_not_called_without() {
    let mut unit = Unit::new(farm(Some(Transport::Udp), |_| ()));
    let registered = register(&mut unit, of_phone(Transport::Udp, 0), "sip:example.com", "sips:bonnie@10.1.0.1:5061");
    let written = registered.text.header("Contact").map(uri_in).unwrap_or_default();
    let sent = unit.passes(of_box(Transport::Udp), &crate::steps::of_box(0, "INVITE", "b").uri(&written).build());
    assert_eq!((sent.flow, sent.text.code()), (of_box(Transport::Udp), Some(480)));
    assert!(
        sent.text.header("Warning").is_some_and(|said| said.starts_with("381 ") && said.ends_with("\"SIPS Required\""))
    );
}
