//! A backend that is cut: its calls end on both sides by BYE of our own (RFC 3261 §15), and nobody stays with it.

use crate::steps::{calls, events, heard, millis, of_box, registering, seconds, within};
use crate::streams;
use crate::unit::{Sent, Unit};
use engine::{BackendId, Event, Flow, Guardian, Input, ListenerId, Maintenance, Persistence, Settings, Transport};
use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::{VIP, backend, listener, outside_address, service};
use sim::{Answer, Bench, Script, Text, box_address, one_farm, phone_address};
use std::net::SocketAddr;
use std::sync::Arc;

/// A call that is up.
struct Call {
    /// The INVITE as the box got it.
    invite: Sent,
    /// The 200 as the phone got it.
    answer: Sent,
}

fn by_datagram(remote: SocketAddr) -> Flow {
    Flow::of_datagram(ListenerId::of("udp", VIP), VIP.ip(), remote)
}

/// Where Bonnie is.
fn phone() -> Flow {
    by_datagram(phone_address(0))
}

fn of_box_at(index: usize) -> Flow {
    by_datagram(box_address(index))
}

fn unit(boxes: usize) -> Unit {
    Unit::new(one_farm(boxes, |_| ()))
}

fn establish(unit: &mut Unit, from: Flow, call_id: &str) -> Call {
    set_up(unit, from, &invite(call_id).call_id(call_id), |answer| answer)
}

/// The box answers, and what it says is changed by `change` on the way.
fn set_up(unit: &mut Unit, from: Flow, request: &Script, change: impl FnOnce(String) -> String) -> Call {
    let invite = unit.passes(from, &request.build());
    let contact = format!("Contact: <sip:clyde@{}>", invite.flow.remote);
    let answer = Answer::new(200).line(&contact).to(&invite.bytes);
    let answer = change(String::from_utf8(answer).expect("tests write text"));
    let answer = unit.passes(invite.flow, answer.as_bytes());
    Call { invite, answer }
}

fn id_of(index: usize) -> BackendId {
    BackendId::of("pbx", &format!("pbx{}", index + 1), box_address(index))
}

/// Cuts a box, and gives what the farm sends upon it.
fn cut(unit: &mut Unit, index: usize) -> Vec<Sent> {
    unit.shared.cut_backend(unit.now, id_of(index));
    next_turn(unit)
}

/// Any input is a turn of the shard.
fn next_turn(unit: &mut Unit) -> Vec<Sent> {
    unit.arrive(by_datagram(phone_address(9)), b"\r\n\r\n")
}

fn flows(sent: &[Sent]) -> Vec<Flow> {
    sent.iter().map(|sent| sent.flow).collect()
}

/// Method, Request-URI, From and To.
fn said(sent: &Sent) -> [&str; 4] {
    let header = |name: &str| sent.text.header(name).unwrap_or_default();
    [sent.text.method(), sent.text.uri(), header("From"), header("To")]
}

const BONNIE: &str = "\"Bonnie\" <sip:bonnie@example.com>;tag=ft";
const CLYDE: &str = "<sip:clyde@example.com>;tag=tt";
const BONNIES_CONTACT: &str = "sip:bonnie@10.1.0.1:5060";

#[test]
fn both_sides_of_the_calls_of_a_box_that_is_cut_hear_bye() {
    let mut unit = unit(2);
    let calls = ["a", "b", "c", "d"].map(|call_id| establish(&mut unit, phone(), call_id));
    let is_gone = |call: &&Call| call.invite.flow == of_box_at(0);
    let (gone, kept): (Vec<&Call>, Vec<&Call>) = calls.iter().partition(is_gone);
    assert_eq!((gone.len(), kept.len()), (2, 2));
    let byes = cut(&mut unit, 0);
    assert_eq!(flows(&byes).iter().filter(|flow| **flow == phone()).count(), 2);
    for call in gone {
        let call_id = call.answer.text.header("Call-ID");
        let of_call: Vec<&Sent> = byes.iter().filter(|bye| bye.text.header("Call-ID") == call_id).collect();
        let [to_phone, to_box] = of_call[..] else { panic!("{byes:?}") };
        assert_eq!((to_phone.flow, said(to_phone)), (phone(), ["BYE", BONNIES_CONTACT, CLYDE, BONNIE]));
        assert_eq!((to_box.flow, said(to_box)), (of_box_at(0), ["BYE", "sip:clyde@10.0.1.1:5060", BONNIE, CLYDE]));
        for bye in of_call {
            let text = &bye.text;
            // RFC 3261 §8.1.1.5: below 2^31.
            assert_eq!((text.header("CSeq"), text.header("Max-Forwards")), (Some("2147483392 BYE"), Some("70")));
            assert_eq!(text.header("Reason"), Some("SIP;cause=503;text=\"Backend down\""));
            assert_eq!((text.header("Route"), text.header("Contact")), (None, None));
            let vias = text.values("Via");
            assert!(vias.len() == 1 && vias[0].starts_with("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK"), "{vias:?}");
        }
    }
    for bye in &byes {
        assert!(unit.arrive(bye.flow, &Answer::new(200).to(&bye.bytes)).is_empty());
    }
    assert!(unit.advance(seconds(60)).is_empty(), "it is answered");
    assert_eq!(unit.shared.snapshot(unit.now).calls, 2);
    for (name, count) in [("farewells", 4), ("calls_ended", 2), ("stray_responses", 0), ("farewell_limit", 0)] {
        assert_eq!(unit.counted(name), count, "{name}");
    }
    // The others go on.
    for call in kept {
        let info = unit.passes(phone(), &within(&call.answer.text, "INFO").build());
        assert_eq!(info.flow, of_box_at(1));
        unit.passes(info.flow, &Answer::new(200).to(&info.bytes));
    }
}

/// RFC 3261 §17.1.2.2, timers E and F: ten copies within 32 s, fewer once a 100 has come.
#[test]
fn a_bye_is_repeated_until_it_is_answered_or_nobody_is_there() {
    for (code, copies) in [(None, 10), (Some(100), 8), (Some(200), 0), (Some(401), 0), (Some(481), 0), (Some(503), 0)] {
        let mut unit = unit(1);
        establish(&mut unit, phone(), "a");
        let byes = cut(&mut unit, 0);
        let [to_phone, to_box] = &byes[..] else { panic!("{byes:?}") };
        if let Some(code) = code {
            assert!(unit.arrive(to_phone.flow, &Answer::new(code).to(&to_phone.bytes)).is_empty());
        }
        let sent = unit.advance(seconds(33));
        let of = |bye: &Sent| sent.iter().filter(|copy| copy.flow == bye.flow && copy.bytes == bye.bytes).count();
        assert_eq!((of(to_phone), of(to_box), sent.len()), (copies, 10, copies + 10), "{code:?}");
        assert!(unit.advance(seconds(60)).is_empty(), "{code:?}");
        // What comes now is nobody's.
        assert!(unit.arrive(to_phone.flow, &Answer::new(200).to(&to_phone.bytes)).is_empty());
        assert_eq!(unit.counted("stray_responses"), 1);
    }
}

#[test]
fn the_phone_is_told_where_it_was_heard_last() {
    let mut unit = unit(1);
    let call = establish(&mut unit, phone(), "a");
    let moved = by_datagram(outside_address(0, 1));
    let info = unit.passes(moved, &within(&call.answer.text, "INFO").build());
    unit.passes(info.flow, &Answer::new(200).to(&info.bytes));
    assert_eq!(flows(&cut(&mut unit, 0)), [moved, of_box_at(0)]);
}

/// RFC 3261 §12.2.1.1.
#[test]
fn each_side_is_reached_by_its_own_routes() {
    let mut unit = unit(1);
    let request = invite("a").line("Record-Route: <sip:edge.example;lr>, <sip:far.example;lr>");
    let theirs = "Record-Route: <sip:b.example;lr>, <sip:a.example;lr>\r\nRecord-Route: ";
    set_up(&mut unit, phone(), &request, |answer| answer.replacen("Record-Route: ", theirs, 1));
    let byes = cut(&mut unit, 0);
    let routes: Vec<Option<&str>> = byes.iter().map(|bye| bye.text.header("Route")).collect();
    let wanted = ["<sip:edge.example;lr>, <sip:far.example;lr>", "<sip:a.example;lr>, <sip:b.example;lr>"];
    assert_eq!(routes, wanted.map(Some));
    assert_eq!(flows(&byes), [phone(), of_box_at(0)]);
}

#[test]
fn each_side_is_told_from_its_side_of_the_farm() {
    let inside: SocketAddr = "10.0.0.2:5060".parse().expect("an address");
    let settings = one_farm(1, |farm| {
        farm.listeners = vec![listener(VIP, true, false), listener(inside, false, true)];
    });
    let mut unit = Unit::new(settings);
    establish(&mut unit, phone(), "a");
    let byes = cut(&mut unit, 0);
    let from_inside = Flow::of_datagram(ListenerId::of("udp", inside), inside.ip(), box_address(0));
    assert_eq!(flows(&byes), [phone(), from_inside]);
    for (bye, ours) in byes.iter().zip([VIP, inside]) {
        let via = bye.text.header("Via").unwrap_or_default();
        assert!(via.starts_with(&format!("SIP/2.0/UDP {ours};branch=")), "{via}");
        // Our own two values are no routes.
        assert_eq!(bye.text.header("Route"), None);
    }
}

#[test]
fn over_a_stream_nothing_is_repeated_and_what_is_returned_is_given_up() {
    for (returned, copies) in [(false, 10), (true, 0)] {
        let mut unit = Unit::new(streams::farm(Some(Transport::Udp), |_| ()));
        let connected = streams::of_phone(Transport::Tcp, 7);
        establish(&mut unit, connected, "a");
        let byes = cut(&mut unit, 0);
        assert_eq!(flows(&byes), [connected, of_box_at(0)]);
        let [to_phone, to_box] = &byes[..] else { panic!("{byes:?}") };
        assert!(to_phone.text.header("Via").is_some_and(|via| via.starts_with("SIP/2.0/TCP 10.0.0.1:5060;")));
        if returned {
            for bye in [to_phone, to_box] {
                assert!(unit.input(Input::Undelivered { flow: bye.flow, returned: &bye.bytes }).is_empty());
            }
            assert_eq!(unit.counted("unreachable"), 2);
        }
        let sent = unit.advance(seconds(33));
        assert!(sent.len() == copies && sent.iter().all(|copy| copy.bytes == to_box.bytes), "{sent:?}");
    }
}

/// Bonnie registers; the box that took it, and her contact as that box knows it.
fn register(unit: &mut Unit) -> (Flow, String) {
    let request = unit.passes(phone(), &registering("bonnie").build());
    let contact = request.text.header("Contact").map(uri_in).unwrap_or_default();
    unit.passes(request.flow, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")).to(&request.bytes));
    (request.flow, contact)
}

/// The phone that was called answers from where its NAT has moved it.
#[test]
fn a_call_of_the_box_itself_ends_on_both_sides() {
    let mut unit = unit(1);
    let (home, contact) = register(&mut unit);
    let invite = unit.passes(home, &of_box(0, "INVITE", "call").uri(&contact).build());
    let moved = by_datagram(outside_address(0, 1));
    let answer = Answer::new(200).line(&format!("Contact: <{BONNIES_CONTACT}>"));
    unit.passes(moved, &answer.to(&invite.bytes));
    let byes = cut(&mut unit, 0);
    let [to_phone, to_box] = &byes[..] else { panic!("{byes:?}") };
    let (clyde, bonnie) = ("<sip:clyde@example.com>;tag=bt", "<sip:bonnie@example.com>;tag=tt");
    assert_eq!((to_phone.flow, said(to_phone)), (moved, ["BYE", BONNIES_CONTACT, clyde, bonnie]));
    assert_eq!((to_box.flow, said(to_box)), (home, ["BYE", "sip:clyde@10.0.1.1:5060", bonnie, clyde]));
}

#[test]
fn a_call_from_one_box_to_another_ends_with_either() {
    for cut_is_caller in [true, false] {
        let mut unit = unit(2);
        let (callee, _) = register(&mut unit);
        let called = usize::from(callee == of_box_at(1));
        let calling = 1 - called;
        let request = of_box(calling, "INVITE", "call").uri("sip:bonnie@example.com");
        let call = set_up(&mut unit, of_box_at(calling), &request, |answer| answer);
        assert_eq!(call.invite.flow, callee);
        let byes = cut(&mut unit, if cut_is_caller { calling } else { called });
        assert_eq!(flows(&byes), [of_box_at(calling), callee], "the caller is cut: {cut_is_caller}");
        assert_eq!(unit.shared.snapshot(unit.now).calls, 0);
    }
}

#[test]
fn a_call_whose_headers_are_too_long_is_only_forgotten() {
    for (length, told) in [(1_000, 2), (2_100, 0)] {
        let mut unit = unit(1);
        let from = format!("\"{}\" <sip:bonnie@example.com>;tag=ft", "x".repeat(length));
        set_up(&mut unit, phone(), &invite("a").from(&from), |answer| answer);
        assert_eq!(cut(&mut unit, 0).len(), told, "{length}");
        let seen = (unit.counted("sides_too_long"), unit.counted("calls_ended"), unit.shared.snapshot(unit.now).calls);
        assert_eq!(seen, (u64::from(told == 0), 1, 0), "{length}");
    }
}

/// The moment of a cut is older than what keeps calls away from then on: for a second they may still be answered there.
#[test]
fn what_began_well_after_the_cut_goes_on() {
    let mut unit = unit(1);
    let then = unit.now;
    for (wait, call_id) in [(0, "before"), (1_000, "meanwhile"), (1, "after")] {
        unit.advance(millis(wait));
        establish(&mut unit, phone(), call_id);
    }
    unit.shared.cut_backend(then, id_of(0));
    let byes = next_turn(&mut unit);
    let told = ["before", "meanwhile", "after"]
        .map(|call_id| byes.iter().filter(|bye| bye.text.header("Call-ID") == Some(call_id)).count());
    assert_eq!(told, [2, 2, 0]);
}

/// There is no other box; an answer would make a call that nobody ends. If it is only down, it may still answer.
#[test]
fn a_call_that_rings_at_the_only_box_is_taken_back_if_that_is_cut() {
    for rings in [true, false] {
        let mut unit = unit(1);
        let call = unit.passes(phone(), &invite("a").build());
        let ringing = Answer::new(180).to(&call.bytes);
        if rings {
            assert_eq!(unit.passes(call.flow, &ringing).flow, phone());
        }
        let sent = cut(&mut unit, 0);
        // RFC 3261 §9.1: not before it rings.
        let sent = if rings { sent } else { [sent, unit.arrive(call.flow, &ringing)].concat() };
        let [cancel] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((cancel.flow, cancel.text.method()), (of_box_at(0), "CANCEL"));
        assert!(unit.arrive(call.flow, &Answer::new(200).to(&cancel.bytes)).is_empty());
        let ends = unit.arrive(call.flow, &Answer::new(487).to(&call.bytes));
        let codes: Vec<Option<u16>> =
            ends.iter().filter(|sent| sent.flow == phone()).map(|sent| sent.text.code()).collect();
        assert_eq!(codes, [Some(487)], "rings: {rings}");
        assert_eq!(unit.shared.snapshot(unit.now).calls, 0);
    }
    let mut unit = unit(1);
    let call = unit.passes(phone(), &invite("a").build());
    unit.passes(call.flow, &Answer::new(180).to(&call.bytes));
    let other = unit.passes(phone(), &Script::new("MESSAGE").branch("probe").call_id("probe").build());
    let sent = unit.input(Input::Undelivered { flow: other.flow, returned: &other.bytes });
    assert_eq!(sent.iter().map(|sent| sent.text.method()).collect::<Vec<_>>(), ["MESSAGE"], "it is only down");
}

/// The 200 crosses our CANCEL, or comes without having rung. A copy of it is passed on like any other.
#[test]
fn a_call_that_is_answered_after_the_cut_ends_on_both_sides() {
    for rings in [true, false] {
        let mut unit = unit(1);
        let call = unit.passes(phone(), &invite("a").build());
        if rings {
            unit.passes(call.flow, &Answer::new(180).to(&call.bytes));
        }
        unit.shared.replace_settings(unit.now, maintained(&unit, Maintenance::Cut));
        assert_eq!(next_turn(&mut unit).len(), usize::from(rings), "the CANCEL");
        unit.advance(millis(400));
        let contact = format!("Contact: <sip:clyde@{}>", call.flow.remote);
        let answer = Answer::new(200).line(&contact).to(&call.bytes);
        let sent = unit.arrive(call.flow, &answer);
        let [up, to_phone, to_box] = &sent[..] else { panic!("{sent:?}") };
        assert_eq!((up.flow, up.text.code()), (phone(), Some(200)));
        assert_eq!((to_phone.flow, said(to_phone)), (phone(), ["BYE", BONNIES_CONTACT, CLYDE, BONNIE]));
        assert_eq!((to_box.flow, said(to_box)), (of_box_at(0), ["BYE", "sip:clyde@10.0.1.1:5060", BONNIE, CLYDE]));
        for bye in [to_phone, to_box] {
            assert_eq!(bye.text.header("Reason"), Some("SIP;cause=503;text=\"Backend down\""));
        }
        assert_eq!((unit.shared.snapshot(unit.now).calls, unit.counted("calls_ended")), (0, 1));
        let copies = unit.arrive(call.flow, &answer);
        assert_eq!(copies.iter().map(|copy| copy.flow.remote).collect::<Vec<_>>(), [phone().remote]);
    }
}

/// The maintenance of the first box in the settings of this unit.
fn maintained(unit: &Unit, maintenance: Maintenance) -> Settings {
    let mut settings = Settings::clone(&unit.shared.settings());
    for backend in settings.farms.iter_mut().flat_map(|farm| &mut farm.backends).take(1) {
        backend.maintenance = maintenance;
    }
    settings
}

#[test]
fn maintenance_cuts_once_and_drain_does_not() {
    let mut unit = unit(1);
    establish(&mut unit, phone(), "a");
    for (maintenance, told) in [(Maintenance::Drain, 0), (Maintenance::Cut, 2), (Maintenance::Cut, 0)] {
        unit.shared.replace_settings(unit.now, maintained(&unit, maintenance));
        assert_eq!(next_turn(&mut unit).len(), told, "{maintenance:?}");
    }
}

#[test]
fn nobody_stays_with_a_box_that_was_cut() {
    for is_cut in [true, false] {
        let mut unit = Unit::new(one_farm(2, |farm| {
            for service in &mut farm.services {
                service.persistence = Persistence::Source;
            }
        }));
        let message = |call_id: &str| Script::new("MESSAGE").branch(call_id).call_id(call_id).build();
        let first = unit.passes(phone(), &message("a"));
        assert_eq!(first.flow, of_box_at(0));
        unit.passes(first.flow, &Answer::new(200).to(&first.bytes));
        if is_cut {
            assert!(cut(&mut unit, 0).is_empty());
        }
        // In turn, unless something speaks for the first box.
        assert_eq!(unit.passes(phone(), &message("b")).flow, of_box_at(usize::from(is_cut)));
    }
}

#[test]
fn a_call_that_waits_for_a_box_that_is_cut_moves_on() {
    for by_reload in [false, true] {
        let mut unit = unit(2);
        waits_for_first_box(&mut unit);
        let sent = if by_reload {
            unit.shared.replace_settings(unit.now, maintained(&unit, Maintenance::Cut));
            next_turn(&mut unit)
        } else {
            cut(&mut unit, 0)
        };
        assert_eq!(invited(&sent), Some(of_box_at(1)), "by a reload: {by_reload}");
        assert_eq!(unit.counted("farewells"), 0);
    }
}

fn waits_for_first_box(unit: &mut Unit) {
    let first = unit.passes(phone(), &invite("a").build());
    assert_eq!(first.flow, of_box_at(0));
}

/// The moment of a cut is older than its tables: for a second calls still go there.
#[test]
fn a_call_that_slipped_in_after_the_cut_moves_on_too() {
    for (wait, moves) in [(0, true), (1_000, true), (1_001, false)] {
        let mut unit = unit(2);
        let then = unit.now;
        unit.advance(millis(wait));
        waits_for_first_box(&mut unit);
        unit.shared.cut_backend(then, id_of(0));
        let moved = invited(&next_turn(&mut unit));
        assert_eq!(moved, moves.then(|| of_box_at(1)), "after {wait} ms");
    }
}

/// Where an INVITE went.
fn invited(sent: &[Sent]) -> Option<Flow> {
    sent.iter().find(|sent| sent.text.start.starts_with("INVITE ")).map(|sent| sent.flow)
}

/// The index of the box that was tried is that of the only one left.
#[test]
fn it_moves_on_though_the_reload_numbers_services_and_boxes_anew() {
    let mut unit = unit(3);
    waits_for_first_box(&mut unit);
    let mut settings = maintained(&unit, Maintenance::Cut);
    for farm in &mut settings.farms {
        farm.backends.remove(1);
        farm.backends.reverse();
        farm.backends.push(backend("pbx4", box_address(3)));
        for service in &mut farm.services {
            service.backends = vec![0, 1];
        }
        farm.services.insert(0, service("other", vec![2]));
    }
    unit.shared.replace_settings(unit.now, settings);
    let sent = next_turn(&mut unit);
    assert_eq!(invited(&sent), Some(of_box_at(2)));
}

/// One box does not answer its first OPTIONS. Four shards have a part of the calls each.
#[test]
fn a_guardian_that_cuts_ends_the_calls_of_its_box_and_tells_how_many() {
    for cut in [true, false] {
        let mut bench = Bench::new(one_farm(2, |farm| {
            for service in &mut farm.services {
                service.guardians = vec![Arc::new(Guardian { fall: 1, cut, ..Guardian::options() })];
            }
        }));
        let names = ["call-1", "call-2", "call-3", "call-4", "call-5", "call-6"];
        let dialogs = names.map(|name| bench.establish(&invite(name), name));
        let silent = dialogs[0].backend;
        let mut gone: Vec<&str> = Vec::new();
        for (name, dialog) in names.iter().zip(&dialogs) {
            if dialog.backend == silent {
                gone.push(name);
            }
        }
        assert_eq!(gone.len(), 3);
        bench.advance(millis(1_100));
        for ping in bench.sent_to(box_address(1 - silent)) {
            bench.answer(&ping, &Answer::new(200));
        }
        bench.advance(seconds(7));
        let byes: Vec<Text> =
            bench.sent_to(Bench::client_address()).iter().map(|sent| Text::read(&sent.bytes)).collect();
        let mut ended: Vec<&str> = byes.iter().filter_map(|bye| bye.header("Call-ID")).collect();
        ended.sort_unstable();
        ended.dedup();
        assert_eq!(ended, if cut { gone } else { Vec::new() });
        assert!(byes.iter().all(|bye| bye.method() == "BYE" && bye.code().is_none()));
        assert_eq!(calls(&mut bench), if cut { 3 } else { 6 });
        let told = events(&mut bench);
        let backend = id_of(silent);
        assert!(
            matches!(told.first(), Some(Event::BackendDown { backend: known, .. }) if *known == backend),
            "{told:?}"
        );
        let cuts: Vec<Event> = told.into_iter().filter(|event| matches!(event, Event::BackendCut { .. })).collect();
        assert_eq!(cuts, if cut { vec![Event::BackendCut { backend, calls: 3 }] } else { Vec::new() });
    }
}

/// What a BYE says is not in the log of facts.
#[test]
fn a_call_from_before_a_restart_is_only_forgotten() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    bench.establish(&invite("a"), "call-1");
    bench.restart(millis(300));
    assert_eq!(calls(&mut bench), 1);
    let mut settings = bench.balancer().settings().clone();
    for backend in settings.farms.iter_mut().flat_map(|farm| &mut farm.backends) {
        backend.maintenance = Maintenance::Cut;
    }
    let now = bench.now();
    bench.balancer().replace_settings(now, settings);
    // Each shard has its turn within four seconds.
    bench.advance(millis(4_100));
    assert_eq!((heard(&mut bench, Bench::client_address()).len(), calls(&mut bench)), (0, 0));
    assert_eq!(events(&mut bench), [Event::BackendCut { backend: id_of(0), calls: 1 }]);
    bench.assert_quiet();
}
