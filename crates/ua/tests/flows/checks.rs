//! What only checks ask of a user agent.

use crate::world::{World, address, media};
use std::time::Duration;
use ua::{Carrier, Event, Fault, OptionsAnswer, UserAgent};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_lone_options_tells_its_answer_and_whether_one_came() {
    let mut world = World::new();
    let pbx = world.pbx("one", address(10), None);
    let bonnie = world.phone("bonnie", address(1), pbx);
    world.at(bonnie, |agent, now| agent.options(now, "sip:10.0.0.10"));
    assert_eq!(world.agents[&bonnie].options_answer(), None);
    world.run_for(SECOND);
    assert_eq!(world.agents[&bonnie].options_answer(), Some(OptionsAnswer { code: 200, came: true }));
    assert_eq!(world.labels(), ["OPTIONS", "200 OPTIONS"]);
    for (fault, code, came) in [(Fault::Refuse(408), 408, true), (Fault::Silent, 408, false)] {
        world.set_fault(pbx, fault);
        world.at(bonnie, |agent, now| agent.options(now, "sip:10.0.0.10"));
        world.run_for(SECOND * 33);
        assert_eq!(world.agents[&bonnie].options_answer(), Some(OptionsAnswer { code, came }), "{fault:?}");
    }
    assert!(world.events_of(bonnie).is_empty());
}

#[test]
fn without_a_login_a_challenge_is_a_refusal_and_another_name_may_prove_us() {
    let mut world = World::new();
    let pbx = world.pbx("one", address(10), None);
    let bonnie = world.phone("bonnie", address(1), pbx);
    world.at(bonnie, |agent, _| agent.set_login(None));
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["REGISTER", "401 REGISTER"]);
    assert_eq!(world.events_of(bonnie), [Event::RegisterFailed { code: 401 }]);
    world.forget();
    world.at(bonnie, |agent, _| agent.set_login(Some(("clyde", "clyde-secret"))));
    world.at(bonnie, UserAgent::register);
    world.run_for(SECOND);
    assert_eq!(world.labels(), ["REGISTER", "401 REGISTER", "REGISTER", "403 REGISTER"], "proven, but as clyde");
}

#[test]
fn registers_go_to_the_registrar_and_all_else_to_the_proxy() {
    let mut world = World::new();
    let registrar = world.pbx("one", address(10), None);
    let proxy = world.pbx("two", address(11), None);
    let bonnie = world.phone("bonnie", address(1), proxy);
    world.at(bonnie, |agent, _| agent.set_registrar(registrar));
    world.at(bonnie, UserAgent::register);
    world.at(bonnie, |agent, now| agent.options(now, "sip:10.0.0.11"));
    world.run_for(SECOND);
    assert_eq!(world.between(bonnie, registrar), ["REGISTER", "401 REGISTER", "REGISTER", "200 REGISTER"]);
    assert_eq!(world.between(bonnie, proxy), ["OPTIONS", "200 OPTIONS"]);
}

#[test]
fn an_unheard_call_is_cancelled_at_once_and_its_invite_repeated_no_more() {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(9));
    let call = world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.com", media(bonnie)));
    world.run_for(Duration::from_millis(800));
    world.at(bonnie, |agent, now| agent.cancel_now(now, call));
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.labels(), ["INVITE", "INVITE", "CANCEL"]);
    world.at(bonnie, UserAgent::repeat_unanswered);
    assert_eq!(world.labels(), ["INVITE", "INVITE", "CANCEL", "CANCEL"], "once more, whatever the timers say");
    world.run_for(SECOND * 40);
    assert_eq!(world.sent("INVITE").len(), 2);
    assert_eq!(world.events_of(bonnie), [Event::Cancelled { call }]);
}

#[test]
fn an_answer_that_crosses_a_hasty_cancel_is_hung_up() {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(2));
    let clyde = world.phone("clyde", address(2), address(1));
    world.lose("180 INVITE", Some(clyde), 1);
    world.lose("200 INVITE", Some(clyde), 1);
    world.lose("CANCEL", Some(bonnie), 4);
    let call = world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.com", media(bonnie)));
    world.run_for(Duration::from_millis(200));
    world.at(bonnie, |agent, now| agent.cancel_now(now, call));
    world.run_for(SECOND * 5);
    assert_eq!(world.events_of(bonnie), [Event::Ended { call, by_us: true, code: 200 }]);
    assert_eq!(world.agents[&clyde].calls(), 0);
}

#[test]
fn each_carrier_shows_in_via_and_contact() {
    let cases = [
        (Carrier::Tcp, "TCP", ";transport=tcp"),
        (Carrier::Tls, "TLS", ";transport=tls"),
        (Carrier::Ws, "WS", ";transport=ws"),
        (Carrier::Wss, "WSS", ";transport=ws"),
        (Carrier::Udp, "UDP", ""),
    ];
    for (carrier, transport, parameter) in cases {
        let mut world = World::new();
        let bonnie = world.phone("bonnie", address(1), address(9));
        world.at(bonnie, |agent, _| agent.speak(carrier));
        world.at(bonnie, UserAgent::register);
        world.run_for(SECOND);
        let sent = world.sent("REGISTER");
        assert_eq!(sent.len(), if carrier == Carrier::Udp { 2 } else { 1 }, "{carrier:?}");
        let via = sent[0].header("Via").expect("every request has one");
        assert!(via.starts_with(&format!("SIP/2.0/{transport} 10.0.0.1:5060;branch=")), "{via}");
        let contact = format!("<sip:bonnie@10.0.0.1:5060{parameter}>");
        assert_eq!(sent[0].header("Contact"), Some(contact));
    }
}

#[test]
fn the_other_sides_description_is_kept_and_only_our_payloads_are_offered() {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(2));
    let clyde = world.phone("clyde", address(2), address(1));
    world.at(bonnie, |agent, _| agent.set_payloads(&[0, 101]));
    world.at(clyde, |agent, _| agent.set_payloads(&[8, 0, 101]));
    let call = world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.com", media(bonnie)));
    assert_eq!(world.agents[&bonnie].remote_session(call), None);
    world.run_for(SECOND);
    let session = world.agents[&bonnie].remote_session(call).expect("clyde answered with a description");
    assert_eq!(session.payloads, [0, 101], "of what is offered and his own");
    assert_eq!(session.audio_port, 4_000);
}
