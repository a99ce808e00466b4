//! Boxes that are cut, by maintenance and by a guardian: their calls end on both sides, the connections to them are closed, and
//! the next call goes to another box.

use super::{
    CALLER, FARM, FIRST, SECOND, SOON, UNIT, World, answer_to_call, answered_by, expect_guardian, expect_state, state,
};
use crate::common::certificates::Authority;
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::phone::{Phone, connect, end_call};
use crate::common::unit::counter;
use crate::common::wire::{Call, Station};
use crate::common::{Process, Unit, connections, holds_within, namespace, peer};
use std::collections::BTreeSet;
use std::time::Duration;
use ua::Event;

/// Two boxes that are reached over TCP, the first one before the second.
fn maintained(maintenance: &str) -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\", \"tcp:{UNIT}\"]\n\
         [[farm.service]]\nname = \"default\"\nguardians = []\n\
         [[farm.backend]]\nname = \"pbx1\"\naddress = \"{FIRST}:5060\"\ntransport = \"tcp\"\n\
         maintenance = \"{maintenance}\"\n\
         [[farm.backend]]\nname = \"pbx2\"\naddress = \"{SECOND}:5060\"\ntransport = \"tcp\"\npriority = 2\n"
    )
}

#[test]
fn maintenance_ends_the_calls_of_a_box_and_closes_its_connections() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let world = World::new();
    let messages = world.path().join("messages");
    let file = messages.to_str().expect("the system's folder has a plain name");
    let first = world.sipp("echo", "first", FIRST, &["-t", "t1", "-trace_msg", "-message_file", file]);
    let _second = world.sipp("echo", "second", SECOND, &["-t", "t1"]);
    let unit = Unit::start(&maintained("off"));
    let phone = Station::at(CALLER);
    let answer = answer_to_call(&phone, "ended");
    assert!(answer.uri("contact").contains(FIRST), "{}", answer.uri("contact"));
    phone.send(Call::answered(&answer).by_caller("ACK", 1, phone.address, ""), UNIT);
    let has_heard = |words: &str| std::fs::read_to_string(&messages).is_ok_and(|text| text.contains(words));
    assert!(holds_within(SOON, || has_heard("ACK sip:")), "{}\n{}", first.said(), unit.said());
    let at = format!("{FIRST}:5060");
    let before = connections(&at);
    assert!(!before.is_empty(), "{}", unit.said());

    unit.reload(&maintained("cut"), |status| state(status, "pbx1") == "cut");
    let is_told = holds_within(SOON, || has_heard("BYE sip:") && has_heard("Reason: SIP;cause=503"));
    assert!(is_told, "{}\n{}", first.said(), unit.said());
    let (bye, from) = phone.request("BYE");
    let (call_id, reason) = (bye.text("call-id"), bye.text("reason").unwrap_or_default());
    assert_eq!(call_id.as_deref(), Some("ended"));
    assert!(reason.starts_with("SIP;cause=503"), "{reason}");
    phone.answer(&bye, "200 OK", from);
    assert_closed(&unit, &first, &at, &before);
    assert_eq!(counter(&unit.status(), "events", "backend_cut"), 1, "{:#}", unit.status());

    let contact = answered_by(&phone, "next");
    assert!(contact.contains(SECOND), "{contact}");
}

/// Two phones that Kamailio has in a call, which is a dialog of the box with either.
#[test]
fn a_guardian_that_cuts_ends_calls_through_kamailio_and_the_phones_go_on_elsewhere() {
    if peer("kamailio").is_none() || !kamailio::has_tls() || !namespace() {
        return;
    }
    let world = World::new();
    let authority = Authority::new("authority of the test");
    let [first, _second] = [("a", FIRST), ("b", SECOND)].map(|(name, host)| {
        let certificate = authority.issue_file(world.path(), &format!("{name}.pem"), &[host]);
        let server = Server { name, realm: "shared", host, farm: FARM, users: "bonnie|clyde" };
        // What its guardian looks for.
        world.file(host, "");
        kamailio::start_with_streams(world.path(), &server, &certificate)
    });
    let unit = Unit::start(&guarded(&world, &authority));
    expect_guardian(&unit, "a", "own", "up");
    let bonnie = Phone::start("bonnie", PASSWORD, "127.0.0.51", UNIT, Duration::ZERO);
    let clyde = Phone::start("clyde", PASSWORD, "127.0.0.52", UNIT, Duration::ZERO);
    for phone in [&bonnie, &clyde] {
        phone.register();
    }
    connect(&bonnie, &clyde, CALL_CLYDE);
    let at = format!("{FIRST}:5061");
    let before = connections(&at);
    assert!(!before.is_empty(), "{}", unit.said());

    std::fs::remove_file(world.path().join(FIRST)).expect("it was written a moment ago");
    expect_state(&unit, "a", "down", SOON);
    for phone in [&bonnie, &clyde] {
        phone.wait_within(SOON, "BYE", |event| matches!(event, Event::Ended { by_us: false, .. }));
    }
    assert_closed(&unit, &first, &at, &before);

    for phone in [&bonnie, &clyde] {
        phone.register();
    }
    connect(&bonnie, &clyde, CALL_CLYDE);
    end_call(&bonnie, &clyde);
    assert_eq!(state(&unit.status(), "a"), "down", "{:#}", unit.status());
}

/// Two boxes that are reached over TLS, the first one before the second; either is well as long as there is a file of its name.
fn guarded(world: &World, authority: &Authority) -> String {
    let believed = authority.own_file(world.path(), "authority.pem");
    let own = authority.issue_file(world.path(), "farm.pem", &[FARM]);
    let script = world.file("looks.sh", &format!("test -e {}/$1 || exit 2\n", world.path().display()));
    let secured = |name: &str, host: &str, priority: u32| {
        format!(
            "[[farm.backend]]\nname = \"{name}\"\naddress = \"{host}:5061\"\ntransport = \"tls\"\nverify = \"{believed}\"\n\
             priority = {priority}\n"
        )
    };
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\", \"tls:{FARM}:5061\"]\ncertificates = [\"{own}\"]\n\
         [[farm.service]]\nname = \"default\"\nguardians = [\"own\"]\n{}{}\
         [[guardian]]\nname = \"own\"\ncheck = \"exec\"\ncommand = \"/bin/sh {script} HOST\"\ninterval = \"1s\"\n\
         timeout = \"5s\"\nfall = 1\ncut = true\n",
        secured("a", FIRST, 1),
        secured("b", SECOND, 2)
    )
}

/// Those connections are gone that were up there; that new ones are made is for the box to decide.
fn assert_closed(unit: &Unit, server: &Process, at: &str, before: &BTreeSet<String>) {
    let are_closed = holds_within(SOON, || connections(at).is_disjoint(before));
    assert!(are_closed, "{:?} of {before:?}\n{}\n{}", connections(at), server.said(), unit.said());
}

const CALL_CLYDE: &str = "sip:clyde@127.0.0.20";
