//! What our own BYE for a call of a box that was cut says of us.

use crate::steps::{of_box, registering};
use crate::unit::{Sent, Unit};
use engine::{BackendId, Flow};
use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::{VIP, listener};
use sim::{Answer, box_address, one_farm, phone_address};
use std::net::{Ipv4Addr, SocketAddr};

/// A farm that listens at every address of its host, of which its only box and Bonnie know one; and how these two are heard.
fn at_a_wildcard() -> (Unit, Flow, Flow) {
    let everywhere = listener(SocketAddr::from((Ipv4Addr::UNSPECIFIED, VIP.port())), true, true);
    let heard = |remote: SocketAddr| Flow::of_datagram(everywhere.id, VIP.ip(), remote);
    let (by_box, bonnie) = (heard(box_address(0)), heard(phone_address(0)));
    (Unit::new(one_farm(1, |farm| farm.listeners = vec![everywhere])), by_box, bonnie)
}

/// The box is cut: the BYEs to both sides of its only call name us as the INVITE did.
fn assert_named_alike(mut unit: Unit, invite: &Sent) {
    unit.shared.cut_backend(unit.now, BackendId::of("pbx", "pbx1", box_address(0)));
    // Any input is a turn of the shard.
    let byes = unit.arrive(invite.flow, b"\r\n\r\n");
    let told: Vec<(&str, SocketAddr)> = byes.iter().map(|bye| (bye.text.method(), bye.flow.remote)).collect();
    assert_eq!(told, [("BYE", phone_address(0)), ("BYE", box_address(0))]);
    for sent in byes.iter().chain([invite]) {
        let via = sent.text.header("Via").unwrap_or_default();
        assert!(via.starts_with("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK"), "{via}");
    }
}

#[test]
fn at_a_wildcard_it_names_the_address_that_the_caller_knows() {
    let (mut unit, by_box, bonnie) = at_a_wildcard();
    let invite = unit.passes(bonnie, &invite("a").build());
    let contact = format!("Contact: <sip:clyde@{}>", box_address(0));
    unit.passes(by_box, &Answer::new(200).line(&contact).to(&invite.bytes));
    assert_named_alike(unit, &invite);
}

#[test]
fn at_a_wildcard_it_names_the_address_at_which_the_called_phone_registered() {
    let (mut unit, by_box, bonnie) = at_a_wildcard();
    let request = unit.passes(bonnie, &registering("bonnie").build());
    let contact = request.text.header("Contact").map(uri_in).unwrap_or_default();
    unit.passes(by_box, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")).to(&request.bytes));
    let invite = unit.passes(by_box, &of_box(0, "INVITE", "call").uri(&contact).build());
    unit.passes(bonnie, &Answer::new(200).line("Contact: <sip:bonnie@10.1.0.1:5060>").to(&invite.bytes));
    assert_named_alike(unit, &invite);
}
