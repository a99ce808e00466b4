//! Phones that register by several flows (RFC 5626): one binding to the boxes, called by one flow after the other.

use crate::steps;
use crate::streams::{by_datagram, farm, of_answer, of_phone};
use crate::unit::{Sent, Unit};
use engine::{ConnectionId, Flow, Input, Registrations, Settings, Transport};
use sim::bench::invite;
use sim::script::{parameter, uri_in};
use sim::{Answer, Script, Text, box_address};
use std::time::Duration;

/// What came of a REGISTER: the Contact that the box saw, and the answer that the phone got.
struct Registered {
    contact: String,
    seen: Text,
    answer: Text,
}

fn by_contact() -> Settings {
    farm(Some(Transport::Udp), |_| ())
}

fn by_path() -> Settings {
    farm(Some(Transport::Udp), |farm| farm.registrations = Registrations::Path)
}

/// A flow of Bonnie's phone: by that connection, or for 0 by datagrams.
fn flow(connection: u32) -> Flow {
    if connection == 0 {
        return of_phone(Transport::Udp, 0);
    }
    let mut flow = of_phone(Transport::Tcp, connection);
    flow.remote.set_port(40_000 + connection as u16);
    flow
}

/// The contact that she gives for the flow.
fn contact(flow: Flow) -> String {
    format!("sip:bonnie@{};transport=tcp", flow.remote)
}

/// Her REGISTER by this flow.
fn registering(flow: Flow, reg_id: u32, expires: u32) -> Script {
    let uri = contact(flow);
    Script::new("REGISTER")
        .branch(&format!("{reg_id}x{}x{expires}", flow.connection.0))
        .call_id(&format!("registers-{reg_id}"))
        .uri("sip:example.com")
        .from("<sip:bonnie@example.com>;tag=reg")
        .to("<sip:bonnie@example.com>")
        .line(&format!("Contact: <{uri}>;+sip.instance=\"<urn:uuid:1>\";reg-id={reg_id};expires={expires}"))
}

/// The box grants what it is asked for, and lists the contact if that is any time.
fn registers(unit: &mut Unit, flow: Flow, request: &Script) -> Registered {
    let sent = unit.passes(flow, &request.build());
    let contact = sent.text.header("Contact").unwrap_or_default().to_owned();
    let granted = parameter(&contact, "expires").unwrap_or_default();
    let answer = Answer::new(200);
    let listed = answer.clone().line(&format!("Contact: <{}>;expires={granted}", uri_in(&contact)));
    let answer = if granted == "0" { answer } else { listed };
    let up = unit.passes(of_answer(&sent, 90), &answer.to(&sent.bytes));
    assert_eq!((up.flow, up.text.code()), (flow, Some(200)));
    Registered { contact, seen: sent.text, answer: up.text }
}

fn register(unit: &mut Unit, connection: u32, reg_id: u32, expires: u32) -> Registered {
    let cseq = unit.now.as_micros() as u32 / 1_000 + 1;
    registers(unit, flow(connection), &registering(flow(connection), reg_id, expires).cseq(cseq))
}

/// A request of the box to what it knows as her contact.
fn calling(registered: &Registered, method: &str, call_id: &str) -> Script {
    steps::of_box(0, method, call_id).uri(&uri_in(&registered.contact)).call_id(call_id)
}

fn calls(unit: &mut Unit, registered: &Registered, call_id: &str) -> Sent {
    unit.passes(by_datagram(), &calling(registered, "INVITE", call_id).build())
}

/// The connection of that flow is gone. What leaves upon it.
fn lost(unit: &mut Unit, sent: &Sent) -> Vec<Sent> {
    unit.input(Input::Undelivered { flow: sent.flow, returned: &sent.bytes })
}

/// The connections that requests leave by, or the status that the box gets.
fn ways(sent: &[Sent]) -> Vec<u32> {
    let way = |one: &Sent| one.text.code().map_or(one.flow.connection.0, u32::from);
    sent.iter().map(way).collect()
}

fn bindings(unit: &Unit) -> u64 {
    unit.shared.snapshot(unit.now).registrations
}

#[test]
fn two_flows_are_one_contact_and_the_newest_is_called() {
    let mut unit = Unit::new(by_contact());
    let first = register(&mut unit, 7, 1, 600);
    let second = register(&mut unit, 8, 2, 600);
    assert_eq!(first.contact, second.contact, "octet for octet");
    assert!(!first.contact.contains("reg-id"), "{}", first.contact);
    assert_eq!(bindings(&unit), 1);
    let call = calls(&mut unit, &first, "a");
    assert_eq!((call.flow, call.text.uri()), (flow(8), contact(flow(8)).as_str()));
    // By the first flow she registers once more, over a new connection.
    unit.advance(Duration::from_secs(1));
    assert_eq!(register(&mut unit, 9, 1, 600).contact, first.contact);
    let call = calls(&mut unit, &first, "b");
    assert_eq!((call.flow, call.text.uri()), (flow(9), contact(flow(9)).as_str()));
    assert_eq!((bindings(&unit), unit.counted("next_flows")), (1, 0));
}

#[test]
fn a_flow_that_is_gone_leaves_the_call_to_the_next_one_at_once() {
    for method in ["INVITE", "MESSAGE"] {
        let mut unit = Unit::new(by_contact());
        register(&mut unit, 7, 1, 600);
        let known = register(&mut unit, 8, 2, 600);
        let first = unit.passes(by_datagram(), &calling(&known, method, "a").build());
        assert_eq!(first.flow, flow(8));
        let next = lost(&mut unit, &first);
        assert_eq!(ways(&next), [7], "{method}");
        let next = next.first().expect("one was sent");
        assert_eq!((next.text.method(), next.text.uri()), (method, contact(flow(7)).as_str()));
        assert_ne!(next.text.branch(), first.text.branch());
        // The phone is there, and later calls know it.
        let up = unit.passes(next.flow, &Answer::new(200).to(&next.bytes));
        assert_eq!((up.flow.remote, up.text.code()), (box_address(0), Some(200)));
        assert_eq!(calls(&mut unit, &known, "b").flow, flow(7));
        assert_eq!(unit.counted("next_flows"), 1);
    }
}

#[test]
fn a_phone_with_no_flow_left_is_not_there() {
    let mut unit = Unit::new(by_contact());
    register(&mut unit, 7, 1, 600);
    let known = register(&mut unit, 8, 2, 600);
    let first = calls(&mut unit, &known, "a");
    let next = lost(&mut unit, &first);
    let answers = lost(&mut unit, next.first().expect("one was sent"));
    assert_eq!((ways(&next), ways(&answers)), (vec![7], vec![480]));
    assert_eq!(answers.first().map(|up| up.flow.remote), Some(box_address(0)));
    // It comes back by any of them.
    unit.advance(Duration::from_secs(40));
    register(&mut unit, 10, 2, 600);
    assert_eq!(calls(&mut unit, &known, "b").flow, flow(10));
}

#[test]
fn of_five_flows_the_oldest_is_forgotten() {
    let mut unit = Unit::new(by_contact());
    let known = register(&mut unit, 1, 1, 600);
    for number in 2..=5 {
        register(&mut unit, number, number, 600);
    }
    let mut sent = vec![calls(&mut unit, &known, "a")];
    let mut tried = ways(&sent);
    while let Some(call) = sent.pop().filter(|call| call.text.code().is_none()) {
        sent = lost(&mut unit, &call);
        tried.extend(ways(&sent));
    }
    assert_eq!(tried, [5, 4, 3, 2, 480]);
}

/// RFC 5626 §7: the phone has answered, or nobody waits for it.
#[test]
fn a_call_that_was_heard_or_given_up_takes_no_other_flow() {
    let mut unit = Unit::new(by_contact());
    register(&mut unit, 7, 1, 600);
    let known = register(&mut unit, 8, 2, 600);
    let ringing = calls(&mut unit, &known, "a");
    assert_eq!(ways(&unit.arrive(ringing.flow, &Answer::new(180).to(&ringing.bytes))), [180]);
    assert!(lost(&mut unit, &ringing).is_empty());
    let refused = calls(&mut unit, &known, "b");
    let sent = unit.arrive(refused.flow, &Answer::new(486).to(&refused.bytes));
    assert!(sent.iter().all(|one| one.text.method() == "ACK" || one.text.code() == Some(486)), "{sent:?}");
    let cancelled = calls(&mut unit, &known, "c");
    let cancel = unit.arrive(by_datagram(), &calling(&known, "CANCEL", "c").build());
    assert_eq!(ways(&cancel), [200]);
    assert!(lost(&mut unit, &cancelled).iter().all(|one| one.text.code().is_some()));
    assert_eq!(unit.counted("next_flows"), 0);
}

/// RFC 5626 §7: 430 is the word of a proxy between us and the phone for a flow of its own.
#[test]
fn a_430_on_the_way_to_the_phone_is_a_flow_that_failed() {
    let mut unit = Unit::new(by_contact());
    register(&mut unit, 7, 1, 600);
    let known = register(&mut unit, 8, 2, 600);
    let first = calls(&mut unit, &known, "a");
    let sent = unit.arrive(first.flow, &Answer::new(430).to(&first.bytes));
    let methods: Vec<(&str, u32)> = sent.iter().map(|one| (one.text.method(), one.flow.connection.0)).collect();
    assert_eq!(methods, [("ACK", 8), ("INVITE", 7)]);
    let next = sent.last().expect("the call goes on");
    let up = unit.arrive(next.flow, &Answer::new(486).to(&next.bytes));
    assert!(up.iter().any(|one| one.text.code() == Some(486)), "{up:?}");
}

#[test]
fn a_silent_flow_of_datagrams_gives_way_when_its_call_times_out() {
    let mut unit = Unit::new(by_contact());
    register(&mut unit, 7, 1, 600);
    let known = register(&mut unit, 0, 2, 600);
    assert_eq!(calls(&mut unit, &known, "a").flow, flow(0));
    let before = unit.advance(Duration::from_millis(31_900));
    assert!(before.iter().all(|one| one.flow.connection == ConnectionId::NONE), "{before:?}");
    let after = unit.advance(Duration::from_millis(200));
    assert_eq!(ways(&after), [7]);
}

#[test]
fn a_flow_that_ends_is_a_refresh_to_the_box_while_another_lives() {
    let mut unit = Unit::new(by_contact());
    register(&mut unit, 7, 1, 600);
    let known = register(&mut unit, 8, 2, 600);
    unit.advance(Duration::from_secs(100));
    let ended = register(&mut unit, 8, 2, 0);
    assert_eq!(uri_in(&ended.contact), uri_in(&known.contact));
    assert_eq!(parameter(&ended.contact, "expires").as_deref(), Some("500"), "for as long as the other flow has left");
    let told = ended.answer.header("Contact").unwrap_or_default();
    assert_eq!(uri_in(told), contact(flow(7)));
    assert_eq!([parameter(told, "expires"), parameter(told, "reg-id")].map(Option::unwrap_or_default), ["500", "1"]);
    assert_eq!((bindings(&unit), calls(&mut unit, &known, "a").flow), (1, flow(7)));
    // The last one is the phone.
    unit.advance(Duration::from_secs(40));
    let ended = register(&mut unit, 7, 1, 0);
    assert_eq!(parameter(&ended.contact, "expires").as_deref(), Some("0"));
    assert_eq!(bindings(&unit), 0);
    let answer = unit.arrive(by_datagram(), &calling(&known, "INVITE", "b").build());
    assert_eq!(ways(&answer), [480]);
}

#[test]
fn after_a_restart_flows_of_datagrams_are_left() {
    for (flows, way) in [([0, 7], 0), ([7, 0], 0), ([7, 8], 480)] {
        let mut unit = Unit::new(by_contact());
        let [_, known] = [1, 2].map(|reg_id| register(&mut unit, flows[reg_id as usize - 1], reg_id, 600));
        let mut log = Vec::new();
        unit.shared.drain_facts(unit.now, &mut log);
        let mut next = Unit::of_epoch(by_contact(), 2);
        let loaded = next.shared.load_facts(next.now, &log);
        assert_eq!((loaded.damaged, bindings(&next)), (0, 1));
        let sent = next.arrive(by_datagram(), &calling(&known, "INVITE", "a").build());
        assert_eq!(ways(&sent), [way], "{flows:?}");
        // Who comes back is called there.
        register(&mut next, 9, 1, 600);
        assert_eq!(calls(&mut next, &known, "b").flow, flow(9));
    }
}

/// The call came by one flow; the newest of the binding is where the phone is, and the other one still stands by.
#[test]
fn requests_within_a_dialog_take_the_next_flow_as_well() {
    let mut unit = Unit::new(by_contact());
    register(&mut unit, 7, 1, 600);
    register(&mut unit, 8, 2, 600);
    let call = unit.passes(flow(7), &invite("a").build());
    let answer = Answer::new(200).to(&call.bytes);
    unit.passes(of_answer(&call, 0), &answer);
    let answer = Text::read(&answer);
    let routes: Vec<String> = call.text.values("Record-Route").iter().map(|value| format!("Route: {value}")).collect();
    let bye = steps::of_box(0, "BYE", "bye")
        .uri("sip:bonnie@10.1.0.1:5060")
        .call_id(call.text.header("Call-ID").unwrap_or_default())
        .from(answer.header("To").unwrap_or_default())
        .to(answer.header("From").unwrap_or_default());
    let bye = routes.iter().fold(bye, |bye, route| bye.line(route));
    let first = unit.passes(by_datagram(), &bye.build());
    assert_eq!(first.flow, flow(8));
    let next = lost(&mut unit, &first);
    assert_eq!(ways(&next), [7]);
    let next = next.first().expect("one was sent");
    assert_eq!(ways(&unit.arrive(next.flow, &Answer::new(200).to(&next.bytes))), [200]);
}

#[test]
fn a_phone_that_asks_for_outbound_is_told_that_it_has_it() {
    for (settings, supported, told) in
        [(by_contact(), "outbound, path", true), (by_contact(), "path", false), (by_path(), "outbound, path", false)]
    {
        for connection in [0, 7] {
            let mut unit = Unit::new(settings.clone());
            let request = registering(flow(connection), 1, 600).line(&format!("Supported: {supported}"));
            let registered = registers(&mut unit, flow(connection), &request);
            let lines = [("Require", "outbound"), ("Flow-Timer", "120")];
            let seen = lines.map(|(name, value)| registered.answer.header(name) == Some(value));
            assert_eq!(seen, [told; 2], "{supported} {connection}");
        }
    }
}

/// RFC 5626 §5.3.1: by a Path with `ob` the box chooses among the flows itself.
#[test]
fn with_path_each_flow_is_a_binding_and_its_end_a_430_to_who_named_it() {
    for (supported, code) in [("outbound, path", 430), ("path", 480)] {
        let mut unit = Unit::new(by_path());
        let line = format!("Supported: {supported}");
        let flows = [(7, 1), (8, 2)].map(|(connection, reg_id)| {
            let request = registering(flow(connection), reg_id, 600).line(&line);
            (connection, registers(&mut unit, flow(connection), &request))
        });
        assert_eq!(bindings(&unit), 2);
        let mut log = Vec::new();
        unit.shared.drain_facts(unit.now, &mut log);
        for (connection, registered) in &flows {
            let path = registered.seen.header("Path").unwrap_or_default();
            assert_eq!(path.ends_with(";lr;ob>"), code == 430, "{path}");
            let call = |method: &str, name: &str| {
                let call_id = format!("{name}{connection}");
                calling(registered, method, &call_id).line(&format!("Route: {path}")).build()
            };
            let sent = unit.passes(by_datagram(), &call("INVITE", "a"));
            assert_eq!((sent.flow, sent.text.header("Route")), (flow(*connection), None));
            assert_eq!(ways(&lost(&mut unit, &sent)), [code]);
            // In the next process the connection is no more.
            let mut next = Unit::of_epoch(by_path(), 2);
            assert_eq!(ways(&next.arrive(by_datagram(), &call("INVITE", "b"))), [code], "the binding is not known");
            let silent = next.arrive(by_datagram(), &call("OPTIONS", "c")).is_empty();
            assert_eq!(silent, code == 480);
            next.shared.load_facts(next.now, &log);
            assert_eq!(ways(&next.arrive(by_datagram(), &call("INVITE", "d"))), [code]);
        }
    }
}
