//! Registrations and OPTIONS.

use super::world::{Script, World, answer_with, call, pbx, plan, reply, us};
use crate::plan::{Kind, Plan, Transport};
use crate::report::{Figure, Range, State, Threshold};
use crate::{Output, Unreachable};
use sip::Method;
use std::net::SocketAddr;
use std::time::Duration;
use ua::Fault;

fn options(accept: &[(u16, u16)]) -> Plan {
    plan(Kind::Options { target: "sip:10.0.0.11".to_owned(), accept: accept.to_vec() })
}

/// Removes bindings, and makes none.
fn refuse_to_bind(request: &sip::Message<'_>, code: u16) -> Option<Vec<u8>> {
    let is_leaving = request.expires() == Some(0);
    Some(reply(request, if is_leaving { 200 } else { code }, ""))
}

#[test]
fn a_registration_is_made_and_removed() {
    let mut world = World::office();
    let report = world.run(plan(Kind::Register));
    assert_eq!((report.state, report.text.as_str()), (State::Ok, "bonnie@example.com registered after 0.02 s"));
    assert_eq!(world.wire, ["REGISTER", "401 REGISTER", "REGISTER", "200 REGISTER", "REGISTER", "200 REGISTER"]);
    assert_eq!(world.bindings(), ["clyde"]);
}

#[test]
fn passwords_that_are_missing_or_wrong_are_told_apart() {
    let cases = [
        (None, "", "REGISTER asks for a password (401) and none was given"),
        (Some("other"), "", "the password of bonnie is wrong (401 again)"),
        (Some("other"), "clyde", "the password of clyde is wrong (401 again)"),
        (Some("clyde-secret"), "clyde", "REGISTER refused: 403 Forbidden"),
    ];
    for (password, username, text) in cases {
        let password = password.map(str::to_owned);
        let mut world = World::office();
        let report = world.run(Plan { password, username: username.to_owned(), ..plan(Kind::Register) });
        assert_eq!((report.state, report.text.as_str()), (State::Critical, text));
        assert_eq!(world.bindings(), ["clyde"]);
        assert!(report.figures.total < Duration::from_millis(100), "{:?}", report.figures);
    }
    let report = World::office().run(Plan { password: None, ..plan(call()) });
    assert_eq!(report.text, "INVITE asks for a password (401) and none was given");
}

#[test]
fn a_silent_registrar_is_known_in_time_and_no_binding_is_left_at_it() {
    let mut world = World::office();
    // It takes what we say, and we do not hear it.
    world.lost.insert("401 REGISTER");
    let report = world.run(plan(Kind::Register));
    assert_eq!(report.text, "no answer to REGISTER from 10.0.0.11:5060 within 7 s");
    assert_eq!(report.state, State::Critical);
    assert_eq!(world.bindings(), ["clyde"]);
}

#[test]
fn a_binding_that_may_be_there_though_somebody_on_the_way_got_no_answer_is_removed() {
    let cases: [(Script, &str, usize); 3] = [
        (|request| refuse_to_bind(request, 408), "REGISTER refused: 408 Request Timeout", 4),
        (|request| refuse_to_bind(request, 504), "REGISTER refused: 504 Server Time-out", 4),
        (|request| refuse_to_bind(request, 403), "REGISTER refused: 403 Forbidden", 2),
    ];
    for (script, text, messages) in cases {
        let mut world = World::scripted(script);
        let report = world.run(plan(Kind::Register));
        assert_eq!((report.state, report.text.as_str()), (State::Critical, text));
        assert_eq!(world.wire.len(), messages, "{:?}", world.wire);
    }
}

#[test]
fn an_unregister_that_is_refused_is_a_warning() {
    let script = |request: &sip::Message<'_>| {
        let is_leaving = request.expires() == Some(0);
        Some(reply(request, if is_leaving { 500 } else { 200 }, ""))
    };
    let report = World::scripted(script).run(plan(Kind::Register));
    assert_eq!(report.state, State::Warning, "{}", report.line());
    assert!(report.text.ends_with("but un-REGISTER was refused: 500 Server Internal Error"), "{}", report.text);
}

#[test]
fn options_are_good_with_whatever_is_accepted() {
    type Case = (Fault, &'static [(u16, u16)], State);
    let cases: [Case; 7] = [
        (Fault::None, &[], State::Ok),
        (Fault::Refuse(404), &[], State::Ok),
        (Fault::Refuse(503), &[], State::Critical),
        (Fault::Refuse(408), &[], State::Critical),
        (Fault::Refuse(404), &[(200, 299)], State::Critical),
        (Fault::Refuse(404), &[(200, 299), (404, 404)], State::Ok),
        (Fault::Refuse(503), &[(500, 599)], State::Ok),
    ];
    for (fault, accept, state) in cases {
        let mut world = World::office();
        if let Some(pbx) = &mut world.pbx {
            pbx.set_fault(fault);
        }
        let report = world.run(options(accept));
        assert_eq!(report.state, state, "{fault:?} {accept:?}: {}", report.line());
        assert_eq!(report.figures.answer, Some(Duration::from_millis(10)));
    }
}

#[test]
fn options_say_what_came_or_that_nothing_did() {
    let report = World::office().run(options(&[]));
    assert_eq!(report.text, "10.0.0.11:5060 answered OPTIONS with 200 OK after 0.01 s");
    assert_eq!(report.line(), format!("SIP OK - {} | answer=0.010s total=0.01s", report.text));
    let report = World::empty().run(options(&[]));
    assert_eq!(report.text, "no answer to OPTIONS from 10.0.0.11:5060 within 7 s");
    let slow = Threshold { figure: Figure::Answer, warning: Range::parse("0.005").ok(), critical: None };
    let report = World::office().run(Plan { thresholds: vec![slow], ..options(&[]) });
    assert_eq!(report.state, State::Warning);
    assert!(report.text.ends_with(", answer=0.010s is out of 0.005"), "{}", report.text);
}

#[test]
fn a_closed_port_is_known_at_once() {
    for kind in [options(&[]).kind, Kind::Register, call()] {
        let mut world = World::empty();
        world.start(plan(kind));
        world.run_for(Duration::from_millis(1));
        world.act(|probe, now| probe.handle_unreachable(now, Unreachable::Signalling(pbx())));
        assert!(world.probe().is_over());
        let report = world.finish();
        assert_eq!((report.state, report.text.as_str()), (State::Critical, "nothing listens at udp:10.0.0.11:5060"));
        assert!(report.figures.total < Duration::from_millis(2));
    }
}

#[test]
fn a_connection_that_is_lost_ends_the_run_with_the_words_of_the_shell() {
    let mut world = World::empty();
    world.start(Plan { transport: Transport::Tls, ..plan(call()) });
    let lost = Unreachable::Connection { peer: pbx(), text: "no certificate".to_owned() };
    world.act(|probe, now| probe.handle_unreachable(now, lost));
    assert!(world.probe().is_over());
    assert_eq!(world.finish().text, "no certificate");
}

#[test]
fn over_connections_everything_goes_to_the_proxy_or_the_registrar() {
    let registrar = SocketAddr::from(([10, 0, 0, 20], 5061));
    let ends = crate::Ends { signalling: us(), media: SocketAddr::new(us().ip(), 4_000) };
    let now = sip::Instant::from_micros(1_000_000);
    let mut probe =
        crate::Probe::new(now, Plan { transport: Transport::Tcp, registrar: Some(registrar), ..plan(call()) }, ends, 1);
    // Its answers name a Contact elsewhere.
    let mut sent = Vec::new();
    while let Some(output) = probe.poll_output() {
        let Output::Message { to, bytes } = output else { continue };
        let request = sip::parse(&bytes, &sip::Limits::default()).expect("our own requests are well-formed");
        sent.push((String::from_utf8_lossy(request.method().as_bytes()).into_owned(), to));
        let answer = match request.method() {
            Method::Register => Some(reply(&request, 200, "")),
            _ => answer_with(&request, "").map(|answer| {
                let text = String::from_utf8_lossy(&answer).replace("clyde@10.0.0.11", "clyde@10.9.9.9");
                text.into_bytes()
            }),
        };
        if let Some(answer) = answer {
            probe.handle_message(now, to, &answer);
        }
    }
    let expected =
        [("REGISTER", registrar), ("INVITE", pbx()), ("ACK", pbx()), ("BYE", pbx()), ("REGISTER", registrar)];
    assert_eq!(sent, expected.map(|(method, to)| (method.to_owned(), to)));
    assert!(probe.is_over());
}
