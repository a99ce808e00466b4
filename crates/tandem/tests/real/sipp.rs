//! Calls of sipp through the unit, boxes that die, reloads under load, trunks, phones that move, and what survives `kill -9`.

use crate::common::unit::{Unit, backend, counter};
use crate::common::wire::{Call, Station, Taken, offer, register, request, request_of};
use crate::common::{holds_within, namespace, peer, sipp};
use serde_json::Value;
use std::time::Duration;

const UNIT: &str = "127.0.0.20:5060";
const FIRST: &str = "127.0.0.31:5060";
const SECOND: &str = "127.0.0.32:5060";
const CALLER: &str = "127.0.0.40:5060";

/// A farm with these two boxes; `service` and `first` are further settings.
fn two_boxes(service: &str, first: &str) -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n[[farm.service]]\nname = \"default\"\n{service}\n\
         [[farm.backend]]\nname = \"pbx1\"\naddress = \"{FIRST}\"\n{first}\n\
         [[farm.backend]]\nname = \"pbx2\"\naddress = \"{SECOND}\"\n"
    )
}

fn one_box() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n[[farm.backend]]\nname = \"pbx1\"\naddress = \"{FIRST}\"\n"
    )
}

fn number(status: &Value, name: &str, key: &str) -> u64 {
    backend(status, name).and_then(|found| found.get(key)).and_then(Value::as_u64).unwrap_or(0)
}

#[test]
fn a_thousand_calls_all_succeed_by_weight() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let mut unit = Unit::start(&two_boxes("", "weight = 3"));
    let folder = unit.folder().to_path_buf();
    let mut first = sipp::callees(&folder, FIRST, Duration::from_millis(20));
    let mut second = sipp::callees(&folder, SECOND, Duration::from_millis(20));
    assert!(holds_within(Duration::from_secs(5), || first.is_running() && second.is_running()));
    let mut callers = sipp::callers(&folder, CALLER, UNIT, 1_000, 200, Duration::from_millis(500));
    sipp::assert_all_succeed(&mut callers, Duration::from_secs(60));
    let status = unit.status();
    let (heavy, light) = (number(&status, "pbx1", "requests") as f64, number(&status, "pbx2", "requests") as f64);
    // An INVITE and a BYE of each call, and a ping now and then.
    assert!(heavy + light >= 2_000.0, "{status:#}");
    let ratio = heavy / light;
    assert!((2.9..=3.1).contains(&ratio), "{heavy} to {light} requests for weights 3 to 1");
    assert!(counter(&status, "calls_started", "") >= 1_000, "{status:#}");
    assert!(unit.process().is_running());
}

/// From either transport to either: one connection for all calls, one for each call, datagrams.
#[test]
fn item_27_calls_cross_between_tcp_and_udp() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\", \"tcp:{UNIT}\"]\n\
         [[farm.backend]]\nname = \"pbx1\"\naddress = \"{FIRST}\"\n\
         [[farm.backend]]\nname = \"pbx2\"\naddress = \"{SECOND}\"\ntransport = \"tcp\"\n"
    ));
    let folder = unit.folder().to_path_buf();
    let _first = sipp::callees(&folder, FIRST, Duration::from_millis(20));
    let _second = sipp::callees_over("t1", &folder, SECOND, Duration::from_millis(20));
    for (transport, caller) in [("t1", "127.0.0.41:5060"), ("tn", "127.0.0.42:5060"), ("u1", "127.0.0.43:5060")] {
        let hold = Duration::from_millis(200);
        let mut callers = sipp::callers_over(transport, &folder, caller, UNIT, 200, 100, hold);
        sipp::assert_all_succeed(&mut callers, Duration::from_secs(60));
    }
    let status = unit.status();
    for name in ["pbx1", "pbx2"] {
        assert!(number(&status, name, "requests") >= 600, "{status:#}");
    }
    assert!(counter(&status, "connections_accepted", "") >= 201, "{status:#}");
    assert!((1..=4).contains(&counter(&status, "connections_opened", "")), "{status:#}");
}

#[test]
fn a_reload_that_removes_the_box_of_running_calls_ends_none() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&two_boxes("", ""));
    let folder = unit.folder().to_path_buf();
    let _first = sipp::callees(&folder, FIRST, Duration::from_millis(20));
    let _second = sipp::callees(&folder, SECOND, Duration::from_millis(20));
    let mut callers = sipp::callers(&folder, CALLER, UNIT, 400, 80, Duration::from_secs(4));
    let both = holds_within(Duration::from_secs(10), || number(&unit.status(), "pbx2", "calls") >= 50);
    assert!(both, "the second box has no calls: {:#}", unit.status());
    unit.reload(&one_box(), |status| backend(status, "pbx2").is_none());
    sipp::assert_all_succeed(&mut callers, Duration::from_secs(60));
}

#[test]
fn a_box_killed_while_it_rings_loses_no_call() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&two_boxes("", ""));
    let folder = unit.folder().to_path_buf();
    let mut first = sipp::callees(&folder, FIRST, Duration::from_secs(120));
    let _second = sipp::callees(&folder, SECOND, Duration::from_secs(2));
    let mut callers = sipp::callers(&folder, CALLER, UNIT, 20, 20, Duration::from_millis(500));
    let ringing = holds_within(Duration::from_secs(5), || number(&unit.status(), "pbx1", "calls") >= 10);
    assert!(ringing, "{:#}", unit.status());
    first.kill();
    // Found out by pings, three in a row, ten seconds apart.
    sipp::assert_all_succeed(&mut callers, Duration::from_secs(90));
    assert!(counter(&unit.status(), "failovers", "") >= 10, "{:#}", unit.status());
}

#[test]
fn a_box_killed_while_it_is_asked_or_has_answered() {
    if peer("sipp").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&two_boxes("", ""));
    let folder = unit.folder().to_path_buf();
    let mut first = sipp::callees(&folder, FIRST, Duration::ZERO);
    let mut second = sipp::callees(&folder, SECOND, Duration::ZERO);
    let phone = Station::at(CALLER);
    let uri = format!("sip:clyde@{UNIT}");
    let mut up = None;
    // Calls until one is up at the first box.
    for number in 0..8 {
        let call_id = format!("answered{number}");
        phone.send(request("INVITE", &uri, phone.address, &call_id, 1, "", &offer(phone.address)), UNIT);
        let answer = phone.final_answer();
        assert_eq!(answer.code(), Some(200), "{}", answer.first_line());
        if answer.uri("contact").contains("127.0.0.31") {
            up = Some(answer);
            break;
        }
    }
    let answer = up.expect("one of eight calls reaches the first box");
    first.kill();
    let (to, route) = (answer.text("to").expect("a To"), answer.text("record-route").expect("a Record-Route"));
    let call_id = answer.text("call-id").expect("a Call-ID");
    let bye = format!(
        "BYE {} SIP/2.0\r\nVia: SIP/2.0/UDP {};branch=z9hG4bKbye;rport\r\nRoute: {route}\r\nMax-Forwards: 70\r\n\
         From: <sip:bonnie@example.com>;tag={call_id}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: 2 BYE\r\n\
         Content-Length: 0\r\n\r\n",
        answer.uri("contact"),
        phone.address,
    );
    phone.drain();
    phone.send(bye, UNIT);
    let (ended, _) = phone.expect("answer to BYE", |taken| {
        taken.text("cseq").as_deref() == Some("2 BYE") && taken.code().is_some_and(|code| code >= 200)
    });
    assert_eq!(ended.code(), Some(481), "the phone must hang up: {}", ended.first_line());
    // Every call placed from now on succeeds, at the box that is left.
    for number in 0..20 {
        let call_id = format!("after{number}");
        phone.send(request("INVITE", &uri, phone.address, &call_id, 1, "", &offer(phone.address)), UNIT);
        let (answer, _) = phone.expect("final answer", |taken| {
            taken.text("call-id").as_deref() == Some(&call_id) && taken.code().is_some_and(|code| code >= 200)
        });
        assert_eq!(answer.code(), Some(200), "{}", answer.first_line());
        assert!(answer.uri("contact").contains("127.0.0.32"), "{}", answer.uri("contact"));
    }
    assert!(second.is_running());
}

#[test]
fn a_box_that_dies_between_challenge_and_answer_costs_one_challenge_more() {
    if !namespace() {
        return;
    }
    let unit = Unit::start(&two_boxes("", ""));
    let mut boxes = [FIRST, SECOND].map(|address| Some(Station::at(address)));
    let phone = Station::at(CALLER);
    let uri = format!("sip:{UNIT}");
    let challenge = |realm: &str| format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"of-{realm}\"\r\n");
    let register = |cseq: u32, lines: &str| {
        request_of("bonnie", "bonnie", "REGISTER", &uri, phone.address, "moves", cseq, lines, "")
    };
    phone.send(register(1, ""), UNIT);
    let mut asked = None;
    for (at, server) in boxes.iter().enumerate() {
        let Some(server) = server else { continue };
        while let Some((bytes, from)) = server.next(Duration::from_millis(300)) {
            let taken = Taken::of(&bytes);
            if taken.is_ping() {
                server.answer(&taken, "200 OK", from);
            } else {
                server.send(taken.response("401 Unauthorized", &challenge("one"), b""), UNIT);
                asked = Some(at);
                break;
            }
        }
    }
    let asked = asked.unwrap_or_else(|| panic!("no box was asked\n{}", unit.said()));
    assert_eq!(phone.final_answer().code(), Some(401));
    boxes[asked] = None;
    let left = boxes[1 - asked].take().expect("only the other one died");
    let credentials =
        "Authorization: Digest username=\"bonnie\", realm=\"one\", nonce=\"of-one\", uri=\"sip:x\", response=\"0\"\r\n";
    phone.send(register(2, credentials), UNIT);
    let (received, from) = left.request("REGISTER");
    left.send(received.response("401 Unauthorized", &challenge("two"), b""), &from.to_string());
    let again = phone.final_answer();
    assert_eq!(again.code(), Some(401));
    let line = again.text("www-authenticate").unwrap_or_default().to_ascii_lowercase();
    assert!(line.contains("nonce=\"of-two\"") && line.contains("stale=true"), "{line}");
    phone.send(register(3, credentials), UNIT);
    let (received, from) = left.request("REGISTER");
    let bound = format!("Contact: <{}>;expires=60\r\n", received.uri("contact"));
    left.send(received.response("200 OK", &bound, b""), &from.to_string());
    assert_eq!(phone.final_answer().code(), Some(200));
}

#[test]
fn a_trunk_calls_in_and_is_called() {
    if !namespace() {
        return;
    }
    let carrier = Station::at("127.0.0.60:5060");
    let server = Station::at(FIRST);
    let _unit = Unit::start(&format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n[[farm.trunk]]\nname = \"carrier\"\naddresses = [\"127.0.0.60\"]\n\
         out = [\"127.0.0.60:5060\"]\n[[farm.service]]\nname = \"default\"\negress = [\"trunk:carrier\"]\n\
         [[farm.backend]]\nname = \"pbx1\"\naddress = \"{FIRST}\"\n"
    ));
    // In: the box is told that it is the carrier's, whatever the carrier claims.
    let forged = "X-Tandem-Origin: backend pbx1\r\n";
    let uri = format!("sip:100@{UNIT}");
    carrier.send(request("INVITE", &uri, carrier.address, "in", 1, forged, &offer(carrier.address)), UNIT);
    let (invite, from) = server.request("INVITE");
    let origins: Vec<&[u8]> = invite.all("x-tandem-origin").collect();
    assert_eq!(origins, [&b"X-Tandem-Origin: trunk carrier"[..]]);
    server.answer(&invite, "486 Busy Here", from);
    assert_eq!(carrier.final_answer().code(), Some(486));
    server.request("ACK");
    // Out: a number of the box's goes to the carrier, and the answers come back.
    let uri = format!("sip:+4930123456@{UNIT}");
    server.send(request("INVITE", &uri, server.address, "out", 1, "", &offer(server.address)), UNIT);
    let (invite, from) = carrier.request("INVITE");
    assert!(invite.target().starts_with("sip:+4930123456@"), "{}", invite.target());
    assert_eq!(invite.all("x-tandem-origin").count(), 0, "no concern of a carrier's");
    carrier.answer(&invite, "180 Ringing", from);
    server.expect("180", |taken| taken.code() == Some(180));
    carrier.answer(&invite, "200 OK", from);
    let answer = server.final_answer();
    assert_eq!(answer.code(), Some(200));
    assert_eq!(answer.all("via").count(), 1);
    // A client cannot use the way out.
    let client = Station::at(CALLER);
    client.send(request("INVITE", "sip:+4930123456@127.0.0.60", client.address, "free", 1, "", ""), UNIT);
    let (invite, from) = server.expect("INVITE", |taken| taken.text("call-id").as_deref() == Some("free"));
    assert_eq!(invite.text("x-tandem-origin").as_deref(), Some("client"));
    server.answer(&invite, "404 Not Found", from);
    assert_eq!(client.final_answer().code(), Some(404));
    // It never acknowledged, so that it still gets repeated answers; nothing else.
    while let Some((bytes, _)) = carrier.next(Duration::from_millis(200)) {
        let taken = Taken::of(&bytes);
        assert_ne!(taken.text("call-id").as_deref(), Some("free"), "the carrier got the client's request");
    }
}

#[test]
fn a_phone_whose_address_changes_in_a_call_is_followed() {
    if !namespace() {
        return;
    }
    let _unit = Unit::start(&one_box());
    let server = Station::at(FIRST);
    let phone = Station::at(CALLER);
    register(&phone, UNIT, &server, "bonnie", "reg");
    let call = Call::establish(&phone, UNIT, &server, "bonnie", "moving");
    // Its NAT gave it another port, and it shows that by a re-INVITE.
    let moved = Station::at("127.0.0.40:6060");
    moved.send(call.by_caller("INVITE", 2, moved.address, &offer(moved.address)), UNIT);
    let (invite, from) = server.request("INVITE");
    assert_eq!(invite.text("call-id").as_deref(), Some("moving"));
    let contact = format!("Contact: <sip:{FIRST}>\r\nContent-Type: application/sdp\r\n");
    server.send(invite.response("200 OK", &contact, offer(server.address).as_bytes()), &from.to_string());
    assert_eq!(moved.final_answer().code(), Some(200));
    moved.send(call.by_caller("ACK", 2, moved.address, ""), UNIT);
    server.request("ACK");
    // The box hangs up: that must reach the phone where it is now.
    server.send(call.by_callee("BYE", 1, server.address, ""), UNIT);
    let (bye, from) = moved.request("BYE");
    moved.answer(&bye, "200 OK", from);
    assert_eq!(server.final_answer().code(), Some(200));
    assert_eq!(phone.drain(), 0, "nothing goes to the old port");
}

const USERS: usize = 1_000;
const CALLS: usize = 100;

#[test]
fn what_was_learnt_survives_kill_9() {
    if !namespace() {
        return;
    }
    let mut unit = Unit::start(&one_box());
    let server = Station::at(FIRST);
    let phone = Station::at(CALLER);
    let contacts: Vec<String> = (0..USERS)
        .map(|number| register(&phone, UNIT, &server, &format!("user{number}"), &format!("reg{number}")))
        .collect();
    let calls: Vec<Call> = (0..CALLS)
        .map(|number| Call::establish(&phone, UNIT, &server, &format!("user{number}"), &format!("call{number}")))
        .collect();
    // Learnt facts are on disk within a second.
    std::thread::sleep(Duration::from_millis(1_500));
    unit.kill();
    unit.restart();
    let status = unit.status();
    assert_eq!(status.get("registrations").and_then(Value::as_u64), Some(USERS as u64), "{status:#}");
    assert_eq!(status.get("calls").and_then(Value::as_u64), Some(CALLS as u64), "{status:#}");
    phone.drain();
    server.drain();
    // The box reaches every phone by the Contact that it was given before.
    for (number, contact) in contacts.iter().enumerate() {
        let call_id = format!("message{number}");
        server.send(request("MESSAGE", contact, server.address, &call_id, 1, "", ""), UNIT);
        let (message, from) = phone.expect("MESSAGE", |taken| taken.text("call-id").as_deref() == Some(&call_id));
        assert_eq!(message.target(), format!("sip:user{number}@{CALLER}"));
        phone.answer(&message, "200 OK", from);
        assert_eq!(server.final_answer().code(), Some(200));
    }
    // Half of the phones have got another port meanwhile.
    let moved = Station::at("127.0.0.40:6060");
    for (number, call) in calls.iter().enumerate() {
        let end = if number.is_multiple_of(2) { &phone } else { &moved };
        reinvite_both_ways(call, end, &server);
        if number % 4 < 2 {
            end.send(call.by_caller("BYE", 3, end.address, ""), UNIT);
            answer_at(&server, "BYE", call);
            assert_eq!(end.final_answer().code(), Some(200));
        } else {
            server.send(call.by_callee("BYE", 3, server.address, ""), UNIT);
            answer_at(end, "BYE", call);
            assert_eq!(server.final_answer().code(), Some(200));
        }
    }
    let status = unit.status();
    assert_eq!(status.get("calls").and_then(Value::as_u64), Some(0), "{status:#}");
}

/// The phone's re-INVITE comes first, so that the unit learns where the phone is.
fn reinvite_both_ways(call: &Call, end: &Station, server: &Station) {
    end.send(call.by_caller("INVITE", 2, end.address, &offer(end.address)), UNIT);
    answer_at(server, "INVITE", call);
    assert_eq!(end.final_answer().code(), Some(200));
    end.send(call.by_caller("ACK", 2, end.address, ""), UNIT);
    server.request("ACK");
    server.send(call.by_callee("INVITE", 2, server.address, &offer(server.address)), UNIT);
    answer_at(end, "INVITE", call);
    assert_eq!(server.final_answer().code(), Some(200));
    server.send(call.by_callee("ACK", 2, server.address, ""), UNIT);
    end.request("ACK");
}

fn answer_at(station: &Station, method: &str, call: &Call) {
    let (request, from) = station.request(method);
    assert_eq!(request.text("call-id").as_ref(), Some(&call.call_id));
    let contact = format!("Contact: <sip:user@{}>\r\n", station.address);
    station.send(request.response("200 OK", &contact, b""), &from.to_string());
}
