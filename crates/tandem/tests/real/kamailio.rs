//! Two Kamailio of Debian as independent PBXs behind the farm: digest, locations in memory, nothing shared.

use crate::common::capture::{Capture, Seen};
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::phone::Phone;
use crate::common::wire::{Station, offer, request_of};
use crate::common::{Process, Unit, holds_within, namespace, peer};
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

/// A call that is answered, heard on both sides for half a second, and ended by the caller.
fn talk(caller: &Phone, callee: &Phone, target: &str) {
    let before = (caller.heard(), callee.heard());
    caller.call(target);
    callee.wait("incoming call", |event| matches!(event, Event::Incoming { .. }));
    caller.wait("ringing", |event| matches!(event, Event::Ringing { code: 180, .. }));
    caller.wait("answer", |event| matches!(event, Event::Answered { .. }));
    callee.wait("ACK", |event| matches!(event, Event::Confirmed { .. }));
    let both =
        holds_within(Duration::from_secs(5), || caller.heard() >= before.0 + 25 && callee.heard() >= before.1 + 25);
    assert!(both, "audio: {} and {} packets before, {} and {} now", before.0, before.1, caller.heard(), callee.heard());
    caller.hang_up();
    caller.wait("answer to BYE", |event| matches!(event, Event::Ended { by_us: true, code: 200, .. }));
    callee.wait("BYE", |event| matches!(event, Event::Ended { by_us: false, .. }));
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
    for _ in 0..3 {
        talk(&bonnie, &clyde, CALL_CLYDE);
        talk(&clyde, &bonnie, CALL_BONNIE);
    }
    let wire = capture.finish();
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
    talk(&bonnie, &clyde, CALL_CLYDE);
    let wire = capture.finish();
    assert_fourteen_steps(&wire);
    talk(&clyde, &bonnie, CALL_BONNIE);
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
    talk(&bonnie, &clyde, CALL_CLYDE);
    first.kill();
    // Their users move at their next request.
    for phone in [&bonnie, &clyde] {
        phone.register();
    }
    talk(&bonnie, &clyde, CALL_CLYDE);
    talk(&clyde, &bonnie, CALL_BONNIE);
    assert!(second.is_running(), "{}", second.said());
}
