//! Challenges of several realms: a proxy that asks and a server behind it that asks too (RFC 3261 §22.2 and §22.3).

use crate::world::{Sent, World, address, media, text};
use sip::digest::{Algorithm, challenge_line};
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Event, UserAgent};

/// Bonnie alone: the tests answer for whom she asks.
fn alone() -> (World, SocketAddr) {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(9));
    (world, bonnie)
}

fn registering() -> (World, SocketAddr) {
    let (mut world, bonnie) = alone();
    world.at(bonnie, UserAgent::register);
    (world, bonnie)
}

/// The challenge of the proxy in front.
fn edge(nonce: &str) -> String {
    challenge_line("edge", nonce, Algorithm::Md5, false, true)
}

/// The challenge of the server behind it.
fn office(nonce: &str, stale: bool) -> String {
    challenge_line("office", nonce, Algorithm::Md5, stale, false)
}

/// Realm, nonce and nonce count of the credentials in a request, those for proxies with a star.
fn credentials(sent: &Sent) -> Vec<String> {
    let told = |value: Option<&[u8]>| text(value.unwrap_or_default());
    sent.with(|message| {
        let all = message.credentials().map(|found| {
            let star = if found.proxy { "*" } else { "" };
            format!("{star}{} {} {}", told(found.realm()), told(found.nonce()), told(found.nc()))
        });
        all.collect()
    })
}

fn last<'a>(world: &'a World, label: &str) -> &'a Sent {
    world.sent(label).pop().expect("such a message was sent")
}

#[test]
fn the_challenge_of_a_server_behind_a_proxy_is_answered_beside_that_of_the_proxy() {
    let (mut world, bonnie) = registering();
    world.answer_last(407, &edge("n1"));
    assert_eq!(credentials(last(&world, "REGISTER")), ["*edge n1 00000001"]);
    world.answer_last(401, &office("n2", false));
    assert_eq!(credentials(last(&world, "REGISTER")), ["*edge n1 00000002", "office n2 00000001"]);
    assert_eq!(last(&world, "REGISTER").header("CSeq").as_deref(), Some("3 REGISTER"));
    world.answer_last(200, "Contact: <sip:bonnie@10.0.0.1:5060>;expires=60\r\n");
    assert_eq!(world.events_of(bonnie), [Event::Registered { expires: 60 }]);
    world.run_for(Duration::from_secs(48));
    let ahead = credentials(last(&world, "REGISTER"));
    assert_eq!(ahead, ["*edge n1 00000003", "office n2 00000002"], "the refresh answers both ahead");
}

#[test]
fn a_call_through_two_that_ask_is_acknowledged_with_the_credentials_for_both() {
    let (mut world, bonnie) = alone();
    let call = world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.com", media(bonnie)));
    world.answer_last(401, &office("n1", false));
    world.answer_last(407, &edge("n2"));
    world.answer_last(200, "Contact: <sip:clyde@10.0.0.9:5060>\r\n");
    let both = ["office n1 00000002", "*edge n2 00000001"];
    assert_eq!(credentials(last(&world, "INVITE")), both);
    assert_eq!(credentials(last(&world, "ACK")), both);
    assert_eq!(world.events_of(bonnie), [Event::Answered { call, remote_media: None }]);
}

#[test]
fn all_realms_of_one_response_are_answered_at_once() {
    let (mut world, _) = registering();
    world.answer_last(407, &[edge("n1"), office("n2", false)].concat());
    assert_eq!(world.sent("REGISTER").len(), 2);
    assert_eq!(credentials(last(&world, "REGISTER")), ["*edge n1 00000001", "office n2 00000001"]);
}

#[test]
fn a_realm_that_asks_again_does_not_take_our_password() {
    let (mut world, bonnie) = registering();
    world.answer_last(401, &office("n1", false));
    world.answer_last(407, &edge("n2"));
    world.answer_last(401, &office("n3", false));
    assert_eq!(world.events_of(bonnie), [Event::RegisterFailed { code: 401 }]);
    assert_eq!(world.sent("REGISTER").len(), 3);
}

#[test]
fn a_stale_nonce_is_replaced_and_the_other_realm_answered_again_but_not_for_ever() {
    let (mut world, bonnie) = registering();
    world.answer_last(401, &office("n1", false));
    world.answer_last(407, &edge("n2"));
    world.answer_last(401, &office("n3", true));
    assert_eq!(credentials(last(&world, "REGISTER")), ["*edge n2 00000002", "office n3 00000001"]);
    world.answer_last(401, &office("n4", true));
    assert_eq!(world.events_of(bonnie), [Event::RegisterFailed { code: 401 }]);
    assert_eq!(world.sent("REGISTER").len(), 4);
}
