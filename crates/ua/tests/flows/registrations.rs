//! A user agent and the registrar of a PBX.

use crate::world::{World, address};
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Account, Carrier, Event, Fault, PbxEvent, UserAgent};

const SECOND: Duration = Duration::from_secs(1);

fn office() -> (World, SocketAddr, SocketAddr) {
    let mut world = World::new();
    let pbx = world.pbx("one", address(10), None);
    let bonnie = world.phone("bonnie", address(1), pbx);
    (world, pbx, bonnie)
}

#[test]
fn a_phone_registers_with_digest_and_refreshes_at_80_percent() {
    let (mut world, pbx, bonnie) = office();
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["REGISTER", "401 REGISTER", "REGISTER", "200 REGISTER"]);
    assert_eq!(world.events_of(bonnie), [Event::Registered { expires: 60 }]);
    assert!(world.agents[&bonnie].registered());
    let contact = "sip:bonnie@10.0.0.1:5060".to_owned();
    assert_eq!(world.pbxs[&pbx].bindings(), [("bonnie".to_owned(), contact.clone())]);
    assert_eq!(world.pbx_events, [PbxEvent::Registered { user: "bonnie".to_owned(), contact }]);
    let registered = world.sent("200 REGISTER")[0].at;
    world.forget();
    world.run_for(SECOND * 50);
    assert_eq!(world.labels(), ["REGISTER", "200 REGISTER"], "the refresh answers the old challenge ahead");
    let refreshed = world.sent("REGISTER")[0].at.saturating_since(registered);
    assert_eq!(refreshed, SECOND * 48 + crate::world::LATENCY);
    world.run_for(SECOND * 600);
    assert_eq!(world.pbxs[&pbx].bindings().len(), 1);
    assert!(world.events.iter().all(|(_, event)| *event == Event::Registered { expires: 60 }));
    let numbers: Vec<Option<String>> = world.sent("REGISTER").iter().map(|sent| sent.header("CSeq")).collect();
    let mut unique = numbers.clone();
    unique.dedup();
    assert_eq!(numbers, unique, "each REGISTER has a CSeq of its own");
}

#[test]
fn a_phone_takes_its_binding_back() {
    let (mut world, pbx, bonnie) = office();
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    world.at(bonnie, UserAgent::unregister);
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Unregistered));
    assert!(world.pbxs[&pbx].bindings().is_empty());
    assert!(!world.agents[&bonnie].registered());
    assert_eq!(world.pbx_events.last(), Some(&PbxEvent::Unregistered { user: "bonnie".to_owned() }));
    world.run_for(SECOND * 600);
    assert_eq!(world.sent("REGISTER").len(), 3, "nothing is refreshed any more");
    assert_eq!(world.agents[&bonnie].poll_timeout(), None);
}

#[test]
fn a_late_challenge_does_not_bind_again_who_has_left() {
    let (mut world, pbx, bonnie) = office();
    world.lose("401 REGISTER", None, 1);
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND / 10);
    world.at(bonnie, UserAgent::unregister);
    world.run_for(SECOND / 10);
    assert_eq!(world.events_of(bonnie), [Event::Unregistered]);
    let late = world.sent("401 REGISTER")[0].bytes.clone();
    world.inject(pbx, bonnie, &late);
    world.run_for(SECOND * 40);
    assert_eq!(world.sent("REGISTER").len(), 3, "{:?}", world.labels());
    assert!(world.pbxs[&pbx].bindings().is_empty());
    assert_eq!(world.agents[&bonnie].poll_timeout(), None);
}

#[test]
fn a_wrong_password_fails_once_per_attempt_with_growing_pauses() {
    let mut world = World::new();
    let pbx = world.pbx("one", address(10), None);
    let account = Account {
        user: "bonnie".to_owned(),
        domain: "example.com".to_owned(),
        display: String::new(),
        password: "guess".to_owned(),
        proxy: pbx,
        contact: address(1),
        expires: 60,
    };
    world.agents.insert(address(1), UserAgent::new(account, 3));
    world.at(address(1), UserAgent::register);
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["REGISTER", "401 REGISTER", "REGISTER", "401 REGISTER"]);
    assert_eq!(world.events_of(address(1)), [Event::RegisterFailed { code: 401 }]);
    assert_eq!(world.pbx_events, [PbxEvent::AuthFailed { user: "bonnie".to_owned() }]);
    world.run_for(SECOND * 40);
    let failures = world.events_of(address(1)).len();
    assert_eq!(failures, 4, "after 5, 10 and 20 seconds, each a tenth more at most");
    assert!(world.pbxs[&pbx].bindings().is_empty());
}

#[test]
fn a_silent_registrar_is_408_after_32_seconds_and_found_again_later() {
    let (mut world, pbx, bonnie) = office();
    world.set_fault(pbx, Fault::Silent);
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND * 33);
    assert_eq!(world.events_of(bonnie), [Event::RegisterFailed { code: 408 }]);
    assert_eq!(world.between(pbx, bonnie).len(), world.sent("REGISTER").len(), "not a word came back");
    world.set_fault(pbx, Fault::None);
    world.run_for(SECOND * 10);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Registered { expires: 60 }));
}

#[test]
fn over_tls_via_and_contact_say_so_and_nothing_is_repeated() {
    let (mut world, pbx, bonnie) = office();
    world.set_fault(pbx, Fault::Silent);
    world.at(bonnie, |agent, _| agent.speak(Carrier::Tls));
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND * 33);
    assert_eq!(world.labels(), ["REGISTER"], "the connection loses nothing");
    assert_eq!(world.events_of(bonnie), [Event::RegisterFailed { code: 408 }]);
    let sent = world.sent("REGISTER")[0];
    let via = sent.header("Via").expect("every request has one");
    assert!(via.starts_with("SIP/2.0/TLS 10.0.0.1:5060;branch="), "{via}");
    assert_eq!(sent.header("Contact").as_deref(), Some("<sip:bonnie@10.0.0.1:5060;transport=tls>"));
}

#[test]
fn a_refusing_and_a_slow_registrar() {
    let (mut world, pbx, bonnie) = office();
    world.set_fault(pbx, Fault::Refuse(503));
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie), [Event::RegisterFailed { code: 503 }]);
    world.set_fault(pbx, Fault::Slow(Duration::from_millis(300)));
    world.forget();
    world.run_for(SECOND * 10);
    assert_eq!(world.labels(), ["REGISTER", "401 REGISTER", "REGISTER", "200 REGISTER"]);
    let waited = world.sent("401 REGISTER")[0].at.saturating_since(world.sent("REGISTER")[0].at);
    assert_eq!(waited, Duration::from_millis(300) + crate::world::LATENCY);
}

#[test]
fn a_short_time_is_lengthened_to_what_the_registrar_takes() {
    let mut world = World::new();
    let pbx = world.pbx("one", address(10), None);
    let account = Account {
        user: "bonnie".to_owned(),
        domain: "example.com".to_owned(),
        display: String::new(),
        password: "bonnie-secret".to_owned(),
        proxy: pbx,
        contact: address(1),
        expires: 5,
    };
    world.agents.insert(address(1), UserAgent::new(account, 3));
    world.at(address(1), UserAgent::register);
    world.run_for(SECOND);
    assert_eq!(world.sent("423 REGISTER").len(), 1);
    assert_eq!(world.events_of(address(1)), [Event::Registered { expires: 10 }]);
}

#[test]
fn a_binding_that_nobody_refreshes_lapses() {
    let (mut world, pbx, bonnie) = office();
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    world.agents.remove(&bonnie);
    world.run_for(SECOND * 58);
    assert_eq!(world.pbxs[&pbx].bindings().len(), 1);
    world.run_for(SECOND * 2);
    assert!(world.pbxs[&pbx].bindings().is_empty());
    assert_eq!(world.pbx_events.last(), Some(&PbxEvent::Unregistered { user: "bonnie".to_owned() }));
}

#[test]
fn a_lossy_wire_only_delays_a_registration() {
    let (mut world, pbx, bonnie) = office();
    world.lose("REGISTER", None, 2);
    world.lose("401 REGISTER", None, 1);
    world.lose("200 REGISTER", None, 1);
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND * 10);
    assert_eq!(world.events_of(bonnie), [Event::Registered { expires: 60 }]);
    assert_eq!(world.pbxs[&pbx].bindings().len(), 1);
}

#[test]
fn a_phone_that_moved_registers_its_new_address() {
    let (mut world, pbx, bonnie) = office();
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    let mut agent = world.agents.remove(&bonnie).expect("the test made this phone");
    agent.move_to(address(77));
    world.agents.insert(address(77), agent);
    world.at(address(77), UserAgent::register);
    world.run_for(SECOND);
    let contacts: Vec<String> = world.pbxs[&pbx].bindings().into_iter().map(|(_, contact)| contact).collect();
    assert_eq!(contacts, ["sip:bonnie@10.0.0.1:5060", "sip:bonnie@10.0.0.77:5060"]);
    assert_eq!(world.agents[&address(77)].account().contact, address(77));
    world.run_for(SECOND * 61);
    assert_eq!(world.pbxs[&pbx].bindings().len(), 1, "the old address lapses");
}

#[test]
fn a_phone_that_moves_while_it_registers_asks_anew_for_its_new_address_only() {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(9));
    world.at(bonnie, UserAgent::register);
    world.answer_last(401, "WWW-Authenticate: Digest realm=\"example.com\", nonce=\"n\"\r\n");
    assert_eq!(world.sent("REGISTER")[1].header("CSeq").as_deref(), Some("2 REGISTER"));
    let mut agent = world.agents.remove(&bonnie).expect("the test made this phone");
    agent.move_to(address(77));
    world.agents.insert(address(77), agent);
    world.forget();
    world.run_for(SECOND * 4);
    assert!(world.sent("REGISTER").len() > 1, "nobody answers, so it is repeated");
    for sent in world.sent("REGISTER") {
        assert_eq!(sent.header("Contact").as_deref(), Some("<sip:bonnie@10.0.0.77:5060>"));
        assert_eq!(sent.header("CSeq").as_deref(), Some("6 REGISTER"), "the numbers of the old one are used up");
    }
}

#[test]
fn an_odd_line_in_the_answer_does_not_hide_what_we_were_granted() {
    let ours = "<sip:bonnie@10.0.0.1:5060>;expires=33";
    for lines in [
        format!("Contact: <sip:bonnie@10.0.0.7:x>;expires=5, {ours}\r\n"),
        format!("Contact: sip:bonnie@10.0.0.7?a=b\r\nContact: {ours}\r\n"),
        format!("Contact: {ours}, \r\n"),
        format!("Contact: {ours}\r\nContact: \"odd <sip:bonnie@10.0.0.7>\r\n"),
        format!("Max-Forwards: x\r\nContact: {ours}\r\n"),
    ] {
        let mut world = World::new();
        let bonnie = world.phone("bonnie", address(1), address(9));
        world.at(bonnie, UserAgent::register);
        world.answer_last(200, &lines);
        assert_eq!(world.events_of(bonnie), [Event::Registered { expires: 33 }], "{lines}");
    }
}

#[test]
fn a_user_may_not_register_another_one() {
    let mut world = World::new();
    let pbx = world.pbx("one", address(10), None);
    let bonnie = world.phone("bonnie", address(1), pbx);
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    let proven = world.sent("REGISTER")[1];
    let stolen = String::from_utf8(proven.bytes.clone()).expect("our own side writes ASCII");
    let stolen =
        stolen.replace("To: \"BONNIE\" <sip:bonnie@", "To: \"BONNIE\" <sip:clyde@").replace("z9hG4bK", "z9hG4bKx");
    world.forget();
    world.inject(bonnie, pbx, stolen.replace("Call-ID: ", "Call-ID: other").as_bytes());
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["REGISTER", "403 REGISTER"]);
}
