//! Two Kamailio of Debian as independent PBXs behind the farm: digest, locations in memory, nothing shared.

use crate::common::capture::{Capture, Seen};
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::phone::{End, Phone, connect, hear_each_other, talk};
use crate::common::unit::counter;
use crate::common::wire::{Station, offer, request_of};
use crate::common::{Process, Unit, holds_within, is_bound, namespace, peer};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use ua::Event;

const FARM: &str = "127.0.0.20";
const UNIT: &str = "127.0.0.20:5060";
const A: &str = "127.0.0.31";
const B: &str = "127.0.0.32";
const BONNIE: &str = "127.0.0.51";
const CLYDE: &str = "127.0.0.52";
const CALL_CLYDE: &str = "sip:clyde@127.0.0.20";
const CALL_BONNIE: &str = "sip:bonnie@127.0.0.20";
/// A box that is gone is found out by pings, three in a row, ten seconds apart, unless a request finds it out before.
const FOUND_OUT: Duration = Duration::from_secs(90);

/// Users are shared out between services by name where each is known to one box only.
fn separate() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n\
         [[farm.service]]\nname = \"of-a\"\nmatch = {{ from_user = \"^bonnie$\" }}\ncallee_affinity = false\n\
         [[farm.service]]\nname = \"of-b\"\nmatch = {{ from_user = \"^clyde$\" }}\ncallee_affinity = false\n\
         [[farm.backend]]\nname = \"a\"\nservice = [\"of-a\"]\naddress = \"{A}:5060\"\n\
         [[farm.backend]]\nname = \"b\"\nservice = [\"of-b\"]\naddress = \"{B}:5060\"\n"
    )
}

fn equal() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n\
         [[farm.service]]\nname = \"default\"\nalgorithm = \"round-robin\"\nfailover = {{ answer_timeout = \"1s\" }}\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"{A}:5060\"\n\
         [[farm.backend]]\nname = \"b\"\naddress = \"{B}:5060\"\n"
    )
}

/// Everything goes to the first box while that is there.
fn ranked() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"{A}:5060\"\npriority = 1\n\
         [[farm.backend]]\nname = \"b\"\naddress = \"{B}:5060\"\npriority = 2\n"
    )
}

fn servers(folder: &Path, of_a: &str, of_b: &str, realms: (&str, &str)) -> (Process, Process) {
    let first = Server { name: "a", realm: realms.0, host: A, farm: FARM, users: of_a };
    let second = Server { name: "b", realm: realms.1, host: B, farm: FARM, users: of_b };
    (kamailio::start(folder, &first), kamailio::start(folder, &second))
}

fn phones(ring_after: Duration) -> (Phone, Phone) {
    let bonnie = Phone::start("bonnie", PASSWORD, BONNIE, UNIT, ring_after);
    let clyde = Phone::start("clyde", PASSWORD, CLYDE, UNIT, ring_after);
    bonnie.register();
    clyde.register();
    (bonnie, clyde)
}

/// `kill -9` to the box at this host and all its processes.
fn kill(server: &mut Process, host: &str) {
    server.kill();
    let at = format!("{host}:5060");
    assert!(holds_within(Duration::from_secs(5), || !is_bound(&at)), "somebody still listens at {at}");
}

/// Phones speak with the farm alone, and boxes too.
fn assert_apart(wire: &[Seen]) {
    for seen in wire {
        assert!(seen.source == FARM || seen.target == FARM, "past the farm: {seen:?}");
    }
}

#[test]
fn equal_users_register_and_call_both_ways() {
    if peer("kamailio").is_none() || peer("tshark").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&equal());
    let _servers = servers(unit.folder(), "bonnie|clyde", "bonnie|clyde", ("shared", "shared"));
    let capture = Capture::start(unit.folder());
    let (bonnie, clyde) = phones(Duration::ZERO);
    for end in [End::Caller, End::Callee, End::Caller] {
        talk(&bonnie, &clyde, CALL_CLYDE, end);
        talk(&clyde, &bonnie, CALL_BONNIE, end);
    }
    let wire = capture.finish();
    assert_apart(&wire);
    for phone in [BONNIE, CLYDE] {
        // REGISTER, 401, REGISTER, 200: on the phone's side, and on that of one and the same box.
        let steps = |peer: &str| -> Vec<String> {
            let ours = wire.iter().filter(|seen| seen.what.contains("REGISTER"));
            ours.filter(|seen| seen.source == peer || seen.target == peer).map(|seen| seen.what.clone()).collect()
        };
        assert_eq!(steps(phone), ["REGISTER", "401 REGISTER", "REGISTER", "200 REGISTER"], "{phone}");
    }
    // The call went to the box that holds the callee's registration, and from there straight back: no box asked another.
    let from_boxes = wire.iter().filter(|seen| seen.what == "INVITE" && (seen.source == A || seen.source == B)).count();
    assert_eq!(from_boxes, 6, "one INVITE of a box for each call: {wire:#?}");
}

#[test]
fn separate_users_call_each_other_in_fourteen_steps() {
    if peer("kamailio").is_none() || peer("tshark").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&separate());
    let _servers = servers(unit.folder(), "bonnie", "clyde", ("a", "b"));
    // Longer than the 200 ms after which a proxy says 100, so that each 100 is on the wire.
    let (bonnie, clyde) = phones(Duration::from_millis(600));
    let capture = Capture::start(unit.folder());
    talk(&bonnie, &clyde, CALL_CLYDE, End::Caller);
    let wire = capture.finish();
    assert_apart(&wire);
    assert_fourteen_steps(&wire);
    talk(&clyde, &bonnie, CALL_BONNIE, End::Callee);
}

/// The steps as they are listed in the design, each of them on both legs through the farm. The challenge of the caller's own box comes
/// before them.
fn assert_fourteen_steps(wire: &[Seen]) {
    let there = [(BONNIE, FARM), (FARM, A), (A, FARM), (FARM, B), (B, FARM), (FARM, CLYDE)];
    let back: Vec<(&str, &str)> = there.iter().rev().map(|(from, to)| (*to, *from)).collect();
    let challenged = wire
        .iter()
        .position(|seen| seen.what == "407 INVITE" && seen.target == BONNIE)
        .expect("the caller's box challenges the caller");
    let call = &wire[challenged + 1..];
    let mut at = 0;
    let mut step = |what: &str, legs: &[(&str, &str)]| {
        for (from, to) in legs {
            let rest = &call[at..];
            let found = rest.iter().position(|seen| seen.what == what && seen.source == *from && seen.target == *to);
            let found = found.unwrap_or_else(|| panic!("no {what} from {from} to {to} in its place: {call:#?}"));
            at += found + 1;
        }
    };
    // 1, 3 and 5.
    step("INVITE", &there);
    // 6 to 8, 9 to 11.
    step("180 INVITE", &back);
    step("200 INVITE", &back);
    // 12 to 14.
    step("ACK", &there);
    step("BYE", &there);
    step("200 BYE", &back);
    // 2 and 4, and their like on the other legs: each says to whoever asked that it is at work.
    for (from, to) in &back[1..] {
        let said = call.iter().any(|seen| seen.what == "100 INVITE" && seen.source == *from && seen.target == *to);
        assert!(said, "no 100 from {from} to {to}: {call:#?}");
    }
    let call_ids: Vec<&str> =
        call.iter().filter(|seen| seen.what == "INVITE").map(|seen| seen.call_id.as_str()).collect();
    assert!(call_ids.windows(2).all(|pair| pair[0] == pair[1]), "one call on all legs: {call_ids:?}");
    let challenged_again = call.iter().filter(|seen| seen.what == "407 INVITE").count();
    assert_eq!(challenged_again, 0, "B accepts what A passed on");
}

#[test]
fn a_forged_origin_is_challenged() {
    if peer("kamailio").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&separate());
    let _servers = servers(unit.folder(), "bonnie", "clyde", ("a", "b"));
    let (_bonnie, clyde) = phones(Duration::ZERO);
    let stranger = Station::at("127.0.0.66:5060");
    // As one of B's users, so that it reaches B, which believes this header.
    for (number, header) in
        ["X-Tandem-Origin: backend a\r\n", "x-tandem-origin : backend a\r\n"].into_iter().enumerate()
    {
        let call_id = format!("forged{number}");
        let body = offer(stranger.address);
        let invite = request_of("clyde", "clyde", "INVITE", CALL_CLYDE, stranger.address, &call_id, 1, header, &body);
        stranger.send(invite, UNIT);
        let answer = stranger.final_answer();
        assert_eq!(answer.code(), Some(407), "{}", answer.first_line());
        assert!(answer.text("proxy-authenticate").is_some_and(|line| line.contains("realm=\"b\"")));
    }
    // The same by a phone that knows its password: it is asked, proves itself, and is connected.
    clyde.call_with(CALL_BONNIE, "X-Tandem-Origin: backend a\r\n");
    clyde.wait("answer", |event| matches!(event, Event::Answered { .. }));
    clyde.hang_up();
    clyde.wait("answer to BYE", |event| matches!(event, Event::Ended { by_us: true, .. }));
}

#[test]
fn calls_go_on_after_one_of_the_boxes_was_killed() {
    if peer("kamailio").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&equal());
    let (mut first, mut second) = servers(unit.folder(), "bonnie|clyde", "bonnie|clyde", ("shared", "shared"));
    let (bonnie, clyde) = phones(Duration::ZERO);
    talk(&bonnie, &clyde, CALL_CLYDE, End::Caller);
    first.kill();
    // Their users move at their next request.
    for phone in [&bonnie, &clyde] {
        phone.register();
    }
    talk(&bonnie, &clyde, CALL_CLYDE, End::Caller);
    talk(&clyde, &bonnie, CALL_BONNIE, End::Caller);
    assert!(second.is_running(), "{}", second.said());
}

#[test]
fn a_call_whose_box_is_killed_while_it_rings_is_answered_through_the_other() {
    if peer("kamailio").is_none() || peer("tshark").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&ranked());
    let (mut first, mut second) = servers(unit.folder(), "bonnie|clyde", "bonnie|clyde", ("shared", "shared"));
    let bonnie = Phone::start("bonnie", PASSWORD, BONNIE, UNIT, Duration::ZERO);
    let clyde = Phone::start_ringing("clyde", PASSWORD, CLYDE, UNIT);
    bonnie.register();
    clyde.register();
    let capture = Capture::start(unit.folder());
    bonnie.call(CALL_CLYDE);
    clyde.wait("incoming call", |event| matches!(event, Event::Incoming { .. }));
    bonnie.wait("ringing", |event| matches!(event, Event::Ringing { code: 180, .. }));
    kill(&mut first, A);
    clyde.answer_calls();
    // Nobody sends anything now: the INVITE moves by itself, and Clyde, whom his own box cannot reach any more, rings again.
    bonnie.wait_within(FOUND_OUT, "answer", |event| match event {
        Event::Failed { code, .. } => panic!("the call failed with {code}"),
        event => matches!(event, Event::Answered { .. }),
    });
    clyde.wait("ACK", |event| matches!(event, Event::Confirmed { .. }));
    hear_each_other(&bonnie, &clyde);
    bonnie.hang_up();
    bonnie.wait("answer to BYE", |event| matches!(event, Event::Ended { by_us: true, code: 200, .. }));
    clyde.wait("BYE", |event| matches!(event, Event::Ended { by_us: false, .. }));
    assert!(second.is_running(), "{}", second.said());
    let status = unit.status();
    assert!(counter(&status, "failovers", "") >= 1, "{status:#}");
    let wire = capture.finish();
    assert_apart(&wire);
    let answered = |source: &str, target: &str| {
        wire.iter().any(|seen| seen.what == "200 INVITE" && seen.source == source && seen.target == target)
    };
    assert!(answered(B, FARM) && answered(FARM, BONNIE) && !answered(A, FARM), "{wire:#?}");
    // All that the caller is told besides: that it rings, and to show its password to the other box.
    for seen in wire.iter().filter(|seen| seen.target == BONNIE && seen.what.ends_with(" INVITE")) {
        let fine = ["100 INVITE", "180 INVITE", "200 INVITE", "407 INVITE"].contains(&seen.what.as_str());
        assert!(fine, "{seen:?}");
    }
}

#[test]
fn phones_hang_up_though_their_box_was_killed_in_the_call() {
    if peer("kamailio").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&ranked());
    let (mut first, mut second) = servers(unit.folder(), "bonnie|clyde", "bonnie|clyde", ("shared", "shared"));
    let (bonnie, clyde) = phones(Duration::ZERO);
    connect(&bonnie, &clyde, CALL_CLYDE);
    hear_each_other(&bonnie, &clyde);
    kill(&mut first, A);
    // Their audio never went through the box.
    hear_each_other(&bonnie, &clyde);
    // Nobody is left who could pass on a BYE: each phone gets its answer from the farm.
    for phone in [&bonnie, &clyde] {
        phone.hang_up();
        let end = phone.wait_within(FOUND_OUT, "end of the call", |event| matches!(event, Event::Ended { .. }));
        assert!(matches!(end, Event::Ended { by_us: true, code: 481, .. }), "{end:?}");
    }
    let calls = || unit.status().get("calls").and_then(Value::as_u64);
    assert!(holds_within(Duration::from_secs(5), || calls() == Some(0)), "{:#}", unit.status());
    // And the next call finds the other box.
    bonnie.register();
    clyde.register();
    talk(&bonnie, &clyde, CALL_CLYDE, End::Callee);
    assert!(second.is_running(), "{}", second.said());
}

/// Phones of the next test besides Bonnie's: `phoneN` at 127.0.1.N.
const PHONES: usize = 14;
/// Those that are registered before anything happens.
const SETTLED: usize = 4;

#[test]
fn users_whose_box_is_killed_while_they_register_move_to_the_other() {
    if peer("kamailio").is_none() || peer("tshark").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&equal());
    let users = "bonnie|phone[0-9]+";
    let (mut first, mut second) = servers(unit.folder(), users, users, ("shared", "shared"));
    let capture = Capture::start(unit.folder());
    let bonnie = Phone::start("bonnie", PASSWORD, BONNIE, UNIT, Duration::ZERO);
    bonnie.register();
    let hosts: Vec<String> = (1..=PHONES).map(|number| format!("127.0.1.{number}")).collect();
    let phones: Vec<Phone> = hosts
        .iter()
        .enumerate()
        .map(|(at, host)| Phone::start(&format!("phone{}", at + 1), PASSWORD, host, UNIT, Duration::ZERO))
        .collect();
    let (settled, moving) = phones.split_at(SETTLED);
    settled.iter().for_each(Phone::register);
    // Some have asked, some have been challenged, some have not begun.
    let (early, late) = moving.split_at(moving.len() / 2);
    early.iter().for_each(Phone::begin_registering);
    kill(&mut first, A);
    late.iter().for_each(Phone::begin_registering);
    for phone in moving {
        phone.await_registration(FOUND_OUT);
    }
    // Everybody can be called, those too whose registration died with their box.
    for (at, phone) in phones.iter().enumerate() {
        connect(&bonnie, phone, &format!("sip:phone{}@{FARM}", at + 1));
        bonnie.hang_up();
        bonnie.wait("answer to BYE", |event| matches!(event, Event::Ended { by_us: true, code: 200, .. }));
        phone.wait("BYE", |event| matches!(event, Event::Ended { by_us: false, .. }));
    }
    // They move at their next request.
    phones.iter().for_each(Phone::register);
    assert!(second.is_running(), "{}", second.said());
    let wire = capture.finish();
    assert_apart(&wire);
    let granted: Vec<Vec<&str>> = hosts.iter().map(|host| granted_by(&wire, host)).collect();
    let from_a = granted[..SETTLED].iter().filter(|boxes| boxes.contains(&A)).count();
    assert!((1..SETTLED).contains(&from_a), "in turn, so that both boxes had users before: {granted:?}");
    assert!(granted.iter().all(|boxes| boxes.last() == Some(&B)), "{granted:?}");
}

/// The boxes that accepted the registrations of the phone at this host, in order.
fn granted_by<'a>(wire: &'a [Seen], host: &str) -> Vec<&'a str> {
    let asked = wire.iter().find(|seen| seen.what == "REGISTER" && seen.source == host);
    let Some(asked) = asked else { return Vec::new() };
    let answers = wire.iter().filter(|seen| {
        seen.what == "200 REGISTER" && seen.call_id == asked.call_id && [A, B].contains(&seen.source.as_str())
    });
    answers.map(|seen| seen.source.as_str()).collect()
}
