//! Requests and responses over connections (RFC 3261 §18): which transport they leave by, what is written for the two sides, where
//! answers go, and what is left when a connection is gone.

use crate::steps;
use crate::unit::{Sent, Unit};
use engine::{Backend, ConnectionId, Farm, Flow, Guardian, Input, Listener, Ports, Settings, Transport};
use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::listener_over;
use sim::{Answer, Script, Text, box_address, one_farm, phone_address};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("the test writes addresses")
}

/// Where the farm listens for a transport.
pub(crate) fn bind(transport: Transport) -> SocketAddr {
    address(match transport {
        Transport::Udp | Transport::Tcp => "10.0.0.1:5060",
        Transport::Tls => "10.0.0.1:5061",
        Transport::Ws => "10.0.0.1:80",
        Transport::Wss => "10.0.0.1:443",
    })
}

pub(crate) fn listener(transport: Transport) -> Listener {
    Listener { inside: !transport.is_web_socket(), ..listener_over(transport, bind(transport)) }
}

const ALL: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

/// One box that is reached over `transport` (`None`: as the client speaks).
pub(crate) fn farm(transport: Option<Transport>, adjust: impl FnOnce(&mut Farm)) -> Settings {
    one_farm(1, |farm| {
        farm.listeners = ALL.map(listener).into();
        for backend in &mut farm.backends {
            reach(backend, transport);
        }
        adjust(farm);
    })
}

pub(crate) fn reach(backend: &mut Backend, transport: Option<Transport>) {
    backend.transport = transport;
    backend.ports = Ports { tcp: 5062, tls: 5063 };
}

/// A phone's flow; of a stream by the connection with that number.
pub(crate) fn of_phone(transport: Transport, connection: u32) -> Flow {
    let remote = if transport.is_stream() { address("10.1.0.1:40123") } else { phone_address(0) };
    let connection = if transport.is_stream() { ConnectionId(connection) } else { ConnectionId::NONE };
    Flow { listener: listener(transport).id, local: bind(transport).ip(), remote, connection }
}

/// The flow by which the box answers what went out by `sent`.
pub(crate) fn of_answer(sent: &Sent, connection: u32) -> Flow {
    let is_stream = sent.flow.listener != listener(Transport::Udp).id;
    Flow { connection: if is_stream { ConnectionId(connection) } else { ConnectionId::NONE }, ..sent.flow }
}

/// Bonnie registers by `flow`; the contact as the box knows it.
fn register(unit: &mut Unit, flow: Flow, cseq: u32) -> String {
    let request = Script::new("REGISTER")
        .branch(&format!("reg{cseq}"))
        .uri("sip:example.com")
        .from("<sip:bonnie@example.com>;tag=reg")
        .to("<sip:bonnie@example.com>")
        .cseq(cseq)
        .line("Contact: <sip:bonnie@10.1.0.1:40123;transport=tcp>;expires=600");
    let sent = unit.passes(flow, &request.build());
    let contact = sent.text.header("Contact").map(uri_in).unwrap_or_default();
    let answer = Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")).to(&sent.bytes);
    let up = unit.passes(of_answer(&sent, 90), &answer);
    assert_eq!((up.flow, up.text.code()), (flow, Some(200)));
    assert_eq!(up.text.header("Contact").map(uri_in), Some("sip:bonnie@10.1.0.1:40123;transport=tcp".to_owned()));
    contact
}

/// A request of the box, by datagram, to a contact or along a Route.
fn of_box(method: &str, uri: &str) -> Script {
    steps::of_box(0, method, &format!("b{method}")).uri(uri)
}

pub(crate) fn by_datagram() -> Flow {
    Flow::of_datagram(listener(Transport::Udp).id, bind(Transport::Udp).ip(), box_address(0))
}

#[test]
fn a_box_is_reached_over_its_transport_and_where_it_takes_any_over_the_clients() {
    use Transport::{Tcp, Tls, Udp, Ws, Wss};
    for (client, of_backend, used, port) in [
        (Udp, Some(Udp), Udp, 5060),
        (Udp, Some(Tcp), Tcp, 5060),
        (Udp, Some(Tls), Tls, 5060),
        (Wss, Some(Udp), Udp, 5060),
        (Udp, None, Udp, 5060),
        (Tcp, None, Tcp, 5062),
        (Tls, None, Tls, 5063),
        (Ws, None, Tcp, 5062),
        (Wss, None, Tls, 5063),
    ] {
        let mut unit = Unit::new(farm(of_backend, |_| ()));
        let sent = unit.passes(of_phone(client, 7), &invite("a").build());
        let remote = SocketAddr::new(box_address(0).ip(), port);
        let wanted =
            Flow { listener: listener(used).id, local: bind(used).ip(), remote, connection: ConnectionId::NONE };
        assert_eq!(sent.flow, wanted, "{client:?} to {of_backend:?}");
        let via = format!("SIP/2.0/{} {};branch=z9hG4bK", used.via(), bind(used));
        assert!(
            sent.text.values("Via").first().is_some_and(|top| top.starts_with(&via)),
            "{:?}",
            sent.text.values("Via")
        );
    }
}

/// RFC 5658: two values wherever the sides differ in address or transport, the nearer one first.
#[test]
fn each_side_gets_the_route_that_it_can_follow() {
    use Transport::{Tcp, Tls, Udp, Ws, Wss};
    let parameter = |transport: Transport| match transport {
        Udp => "",
        Tcp => ";transport=tcp",
        Tls => ";transport=tls",
        Ws | Wss => ";transport=ws",
    };
    for (client, of_backend, values) in
        [(Udp, Udp, 1), (Tcp, Tcp, 1), (Tcp, Udp, 2), (Udp, Tls, 2), (Wss, Udp, 2), (Ws, Tcp, 2)]
    {
        let mut unit = Unit::new(farm(Some(of_backend), |_| ()));
        let sent = unit.passes(of_phone(client, 7), &invite("a").build());
        let routes: Vec<String> = sent.text.values("Record-Route").iter().map(|value| uri_in(value)).collect();
        let hosts: Vec<&str> = routes.iter().filter_map(|route| route.split_once('@').map(|(_, rest)| rest)).collect();
        let wanted = [of_backend, client].map(|side| format!("{}{};lr", bind(side), parameter(side)));
        assert_eq!(hosts, wanted[..values], "{client:?} to {of_backend:?}");
    }
}

#[test]
fn answers_go_back_on_the_connection_of_their_request() {
    for client in [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss] {
        let mut unit = Unit::new(farm(Some(Transport::Udp), |_| ()));
        let sent = unit.passes(of_phone(client, 7), &invite("a").build());
        for code in [180, 200] {
            let up = unit.passes(of_answer(&sent, 0), &Answer::new(code).to(&sent.bytes));
            assert_eq!((up.flow, up.text.code()), (of_phone(client, 7), Some(code)), "{client:?}");
        }
        // A 2xx comes again when the transaction is long forgotten.
        unit.advance(Duration::from_secs(40));
        let again = unit.arrive(of_answer(&sent, 0), &Answer::new(200).to(&sent.bytes));
        assert!(again.iter().all(|up| up.flow == of_phone(client, 7)), "{again:?}");
    }
}

/// RFC 3261 §17: timers A, E and G are for datagrams only; the ends of transactions are for all.
#[test]
fn nothing_is_repeated_over_a_stream() {
    let request = Script::new("MESSAGE").build();
    for (of_backend, copies) in [(Transport::Udp, 1..20), (Transport::Tcp, 0..1)] {
        let mut unit = Unit::new(farm(Some(of_backend), |_| ()));
        unit.passes(of_phone(Transport::Udp, 0), &request);
        let sent = unit.advance(Duration::from_secs(30));
        let repeated = sent.iter().filter(|sent| sent.text.method() == "MESSAGE" && sent.text.code().is_none()).count();
        assert!(copies.contains(&repeated), "{of_backend:?}: {repeated}");
    }
    for (client, copies) in [(Transport::Udp, 1..20), (Transport::Tls, 0..1)] {
        let mut unit = Unit::new(farm(Some(Transport::Udp), |_| ()));
        let sent = unit.passes(of_phone(client, 7), &invite("a").build());
        let refused = unit.arrive(of_answer(&sent, 0), &Answer::new(486).to(&sent.bytes));
        assert!(refused.iter().any(|up| up.text.code() == Some(486)));
        let repeated = unit.advance(Duration::from_secs(30)).iter().filter(|up| up.text.code() == Some(486)).count();
        assert!(copies.contains(&repeated), "{client:?}: {repeated}");
    }
}

#[test]
fn a_box_that_never_answers_over_tcp_is_given_up_like_any_other() {
    let mut unit = Unit::new(farm(Some(Transport::Tcp), |_| ()));
    unit.passes(of_phone(Transport::Tcp, 7), &invite("a").build());
    let sent = unit.advance(Duration::from_secs(40));
    let codes: Vec<Option<u16>> =
        sent.iter().filter(|up| up.flow == of_phone(Transport::Tcp, 7)).map(|up| up.text.code()).collect();
    assert_eq!(codes, [Some(100), Some(408)]);
}

/// RFC 3261 §18.3. A datagram ends where it ends; a stream does not.
#[test]
fn what_enters_a_stream_says_its_length() {
    let mut unit = Unit::new(farm(Some(Transport::Tcp), |_| ()));
    let request = Script::new("MESSAGE").body("text/plain", b"hello").without_length();
    let sent = unit.passes(of_phone(Transport::Udp, 0), &request.build());
    assert_eq!(sent.text.all("Content-Length"), ["5"]);
    let mut unit = Unit::new(farm(Some(Transport::Udp), |_| ()));
    let sent = unit.passes(of_phone(Transport::Tcp, 7), &Script::new("MESSAGE").build());
    let answer = String::from_utf8(Answer::new(200).body("text/plain", b"hi").to(&sent.bytes)).expect("ASCII");
    let without: String = answer.split_inclusive("\r\n").filter(|line| !line.starts_with("Content-Length")).collect();
    assert_ne!(without, answer);
    let up = unit.passes(of_answer(&sent, 0), without.as_bytes());
    assert_eq!(up.text.all("Content-Length"), ["2"]);
    // Towards a datagram nothing is added.
    let up = unit.arrive(of_phone(Transport::Udp, 0), &request.branch("b").call_id("c").build());
    assert!(up.iter().all(|sent| sent.text.all("Content-Length").is_empty()), "{up:?}");
}

#[test]
fn a_call_reaches_a_phone_on_the_connection_that_it_registered_on() {
    let mut unit = Unit::new(farm(Some(Transport::Udp), |_| ()));
    let contact = register(&mut unit, of_phone(Transport::Tls, 7), 1);
    let call = unit.passes(by_datagram(), &of_box("INVITE", &contact).build());
    assert_eq!(call.flow, of_phone(Transport::Tls, 7));
    assert_eq!(call.text.uri(), "sip:bonnie@10.1.0.1:40123;transport=tcp");
    // Her new connection counts, whatever address it comes from.
    let moved = Flow { remote: address("10.1.0.1:40999"), ..of_phone(Transport::Tls, 8) };
    assert_eq!(register(&mut unit, moved, 2), contact);
    let call = unit.passes(by_datagram(), &of_box("INVITE", &contact).call_id("second").build());
    assert_eq!(call.flow, moved);
}

/// RFC 5626 §5.3.1 asks for 430 only where the box named the flow by a Path with `ob`.
#[test]
fn a_phone_whose_connection_is_gone_is_not_there() {
    let mut unit = Unit::new(farm(Some(Transport::Udp), |_| ()));
    let contact = register(&mut unit, of_phone(Transport::Tcp, 7), 1);
    let call = unit.passes(by_datagram(), &of_box("INVITE", &contact).build());
    let answers = unit.input(Input::Undelivered { flow: call.flow, returned: &call.bytes });
    let codes: Vec<Option<u16>> = answers.iter().map(|up| up.text.code()).collect();
    assert_eq!((codes, answers.first().map(|up| up.flow.remote)), (vec![Some(480)], Some(box_address(0))));
    // Of another process's connections nothing is known but that they are no more.
    let mut log = Vec::new();
    unit.shared.drain_facts(unit.now, &mut log);
    let mut next = Unit::of_epoch(farm(Some(Transport::Udp), |_| ()), 2);
    next.shared.load_facts(next.now, &log);
    let answers = next.arrive(by_datagram(), &of_box("INVITE", &contact).build());
    let codes: Vec<Option<u16>> = answers.iter().map(|up| up.text.code()).collect();
    assert_eq!(codes, [Some(480)]);
}

/// The token names the connection; the caller need not be registered.
#[test]
fn a_box_hangs_up_on_the_connection_that_the_call_came_by() {
    let settings = farm(Some(Transport::Udp), |_| ());
    let mut unit = Unit::new(settings.clone());
    let call = unit.passes(of_phone(Transport::Wss, 7), &invite("a").build());
    let answer = Text::read(&Answer::new(200).to(&call.bytes));
    unit.arrive(of_answer(&call, 0), &Answer::new(200).to(&call.bytes));
    let routes = call
        .text
        .values("Record-Route")
        .iter()
        .fold(String::new(), |lines, value| format!("{lines}Route: {value}\r\n"));
    let bye = of_box("BYE", "sip:bonnie@10.1.0.1:5060")
        .call_id(call.text.header("Call-ID").unwrap_or_default())
        .from(answer.header("To").unwrap_or_default())
        .to(answer.header("From").unwrap_or_default())
        .line(routes.trim_end());
    let sent = unit.passes(by_datagram(), &bye.build());
    assert_eq!((sent.flow.connection, sent.flow.listener), (ConnectionId(7), listener(Transport::Wss).id));
    // In the next process number seven is somebody else.
    let mut next = Unit::of_epoch(settings, 2);
    let answers = next.arrive(by_datagram(), &bye.build());
    let codes: Vec<Option<u16>> = answers.iter().map(|up| up.text.code()).collect();
    assert_eq!(codes, [Some(480)]);
}

/// A box connects from any port of its host; a stranger from another host does not become one.
#[test]
fn a_box_is_known_by_its_host_when_it_connects() {
    let mut unit = Unit::new(farm(Some(Transport::Tcp), |_| ()));
    let contact = register(&mut unit, of_phone(Transport::Tls, 7), 1);
    let connected = |host: &str, connection: u32| Flow {
        remote: address(&format!("{host}:51000")),
        connection: ConnectionId(connection),
        ..of_phone(Transport::Tcp, 0)
    };
    let call = unit.passes(connected("10.0.1.1", 12), &of_box("INVITE", &contact).build());
    assert_eq!(call.flow, of_phone(Transport::Tls, 7));
    let up = unit.passes(call.flow, &Answer::new(180).to(&call.bytes));
    assert_eq!(up.flow, connected("10.0.1.1", 12));
    // A contact id is worth nothing from outside: the box is asked.
    let stranger = unit.passes(connected("10.9.0.1", 13), &of_box("INVITE", &contact).call_id("s").build());
    assert_eq!(stranger.flow.remote, box_address(0));
}

/// Two boxes: what the second sends to the first within their call finds it where it listens, not on the connection of the day.
#[test]
fn a_box_is_found_where_it_listens_when_its_connection_is_closed() {
    let settings = || {
        one_farm(2, |farm| {
            farm.listeners = ALL.map(listener).into();
            for backend in &mut farm.backends {
                reach(backend, Some(Transport::Tcp));
            }
        })
    };
    let mut unit = Unit::new(settings());
    register(&mut unit, of_phone(Transport::Tls, 7), 1);
    let other = Flow { remote: address("10.0.1.2:51000"), connection: ConnectionId(12), ..of_phone(Transport::Tcp, 0) };
    let request = of_box("INVITE", "sip:bonnie@example.com").call_id("boxes");
    let call = unit.passes(other, &request.build());
    assert_eq!(call.flow.remote, box_address(0), "Bonnie is registered at the first box");
    let bye = of_box("BYE", "sip:clyde@10.0.1.2:5060")
        .call_id("boxes")
        .from("<sip:bonnie@example.com>;tag=tt")
        .to("<sip:clyde@example.com>;tag=bt")
        .line(&format!("Route: {}", call.text.header("Record-Route").unwrap_or_default()));
    let first = Flow { remote: address("10.0.1.1:51000"), connection: ConnectionId(13), ..other };
    let sent = unit.passes(first, &bye.build());
    assert_eq!((sent.flow.remote, sent.flow.connection), (box_address(1), ConnectionId::NONE));
}

#[test]
fn a_box_is_pinged_over_its_transport_and_once_over_a_stream() {
    for (transport, via, copies) in [
        (Some(Transport::Udp), "UDP 10.0.0.1:5060", 3),
        (Some(Transport::Tcp), "TCP 10.0.0.1:5060", 1),
        (Some(Transport::Tls), "TLS 10.0.0.1:5061", 1),
        (None, "UDP 10.0.0.1:5060", 3),
    ] {
        let mut unit = Unit::new(farm(transport, |farm| {
            for service in &mut farm.services {
                service.guardians = vec![Arc::new(Guardian::options())];
            }
        }));
        // The next one comes a second after the first is given up.
        let pings = unit.advance(Duration::from_millis(2_900));
        assert!(pings.iter().all(|ping| ping.text.method() == "OPTIONS"));
        assert_eq!(pings.len(), copies, "{transport:?}");
        let top = pings.first().and_then(|ping| ping.text.values("Via").first().cloned()).unwrap_or_default();
        assert!(top.starts_with(&format!("SIP/2.0/{via};branch=")), "{top}");
    }
}

/// Who answered over a stream waits for no repetition (RFC 3261 §17.2.2, Timer J), and would take one for a new request.
#[test]
fn a_request_that_went_over_a_stream_is_not_sent_there_again() {
    for (of_backend, size) in [(Some(Transport::Tcp), 0), (Some(Transport::Tls), 0), (None, 2_000)] {
        let mut unit = Unit::new(farm(of_backend, |_| ()));
        let request = Script::new("MESSAGE").body("text/plain", &vec![b'x'; size]).build();
        let phone = of_phone(Transport::Udp, 0);
        let sent = unit.passes(phone, &request);
        assert_ne!(sent.flow.listener, listener(Transport::Udp).id);
        let up = unit.passes(of_answer(&sent, 40), &Answer::new(200).to(&sent.bytes));
        let again = unit.passes(phone, &request);
        assert_eq!((again.flow, &again.bytes), (up.flow, &up.bytes), "{of_backend:?}");
    }
}
