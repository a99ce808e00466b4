//! Where requests of the boxes go that are not part of a dialog: phones, other boxes, and out by egress.

use crate::steps::{SILENCE, counted, heard, millis, of_box, seconds};
use crate::streams;
use crate::unit::Unit;
use crate::unreachable::lost;
use engine::{Egress, Maintenance, Place, Settings, Transport};
use sim::script::uri_in;
use sim::settings::{service, trunk};
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm};
use std::net::SocketAddr;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("tests write addresses that can be read")
}

/// A box sends a request: the address it goes to, the code that the box gets instead, or "silence".
fn outcome(bench: &mut Bench, index: usize, request: Script) -> String {
    let from = box_address(index);
    bench.send(from, request.via(&format!("SIP/2.0/UDP {from};rport;branch=z9hG4bKbox")).build());
    let sent = bench.rest();
    assert!(sent.len() <= 1, "one request, one outcome");
    sent.first().map_or("silence".to_owned(), |datagram| {
        let text = Text::read(&datagram.bytes);
        text.code().map_or(datagram.to.to_string(), |code| code.to_string())
    })
}

/// A request to this URI in a call of its own.
fn request(method: &str, uri: &str) -> Script {
    Script::new(method).call_id(&format!("{method}-{uri}")).uri(uri)
}

/// Registers Bonnie from the client's address; gives the index of her box.
fn register(bench: &mut Bench) -> usize {
    let script = Script::new("REGISTER")
        .call_id("registration")
        .uri("sip:example.com")
        .to("<sip:bonnie@example.com>")
        .line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=600");
    bench.send(Bench::client_address(), script.build());
    let (index, received) = bench.one_to_a_box();
    let contact = Text::read(&received.bytes).header("Contact").map(uri_in).unwrap_or_default();
    bench.answer(&received, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")));
    assert_eq!(bench.one_to_client().code(), Some(200));
    index
}

fn place(text: &str) -> Place {
    Place { transport: Transport::Udp, address: address(text), host: None }
}

/// A farm where each of two boxes has a service of its own with these ways out.
fn with_egress(first: Vec<Egress>, second: Vec<Egress>) -> Settings {
    one_farm(2, |farm| {
        let (mut one, mut two) = (service("one", vec![0]), service("two", vec![1]));
        (one.egress, two.egress) = (first, second);
        farm.services = vec![one, two];
        let mut carrier = trunk("carrier", "198.51.100.0/28", address("192.0.2.1:5070"));
        carrier.out.push(place("192.0.2.2:5060"));
        farm.trunks = vec![carrier];
    })
}

/// Fails the test unless the requests of the first box end up there.
fn assert_outcomes(settings: Settings, wanted: &[(&str, &str)]) {
    let mut bench = Bench::new(settings);
    for (uri, wanted) in wanted {
        assert_eq!(outcome(&mut bench, 0, request("MESSAGE", uri)), *wanted, "{uri}");
    }
}

#[test]
fn a_trunk_takes_numbers_names_and_its_own_addresses() {
    assert_outcomes(
        with_egress(vec![Egress::Trunk(0)], Vec::new()),
        &[
            ("tel:+15551234", "192.0.2.1:5070"),
            ("urn:service:sos", "192.0.2.1:5070"),
            ("sip:+15551234@example.com", "192.0.2.1:5070"),
            ("sip:+15551234@10.0.0.1", "192.0.2.1:5070"),
            ("sip:+15551234@carrier.example", "192.0.2.1:5070"),
            ("sip:x@198.51.100.3", "198.51.100.3:5060"),
            ("sip:x@198.51.100.3:5080", "198.51.100.3:5080"),
            ("sip:x@192.0.2.2", "192.0.2.2:5060"),
            ("sip:x@192.0.2.1:5071", "404"),
            ("sip:x@198.51.100.16", "404"),
        ],
    );
}

#[test]
fn networks_and_domains_take_the_addresses_that_they_name() {
    let network = |text: &str| Egress::Network(text.parse().expect("tests write networks in CIDR notation"));
    let domain = |host: &str, places| Egress::Domain { host: host.to_owned(), places };
    let near = vec![place("203.0.113.1:5070"), place("203.0.113.2:5070")];
    assert_outcomes(
        with_egress(
            vec![
                network("10.0.0.0/24"),
                domain("192.0.2.9", vec![]),
                domain("far.example", vec![]),
                domain("near.example", near),
            ],
            Vec::new(),
        ),
        &[
            ("sip:x@10.0.0.7", "10.0.0.7:5060"),
            ("sip:x@10.0.0.7:5080", "10.0.0.7:5080"),
            ("sip:x@10.0.1.7", "404"),
            // Ourselves.
            ("sip:x@10.0.0.1", "404"),
            ("sip:x@192.0.2.9", "192.0.2.9:5060"),
            ("sip:x@192.0.2.10", "404"),
            // Nothing is known of this name.
            ("sip:x@far.example", "404"),
            ("sip:x@near.example", "203.0.113.1:5070"),
            ("sip:x@NEAR.example.;transport=udp", "203.0.113.1:5070"),
            // RFC 3263 §4.2: a port that is written is the port.
            ("sip:x@near.example:5090", "203.0.113.1:5090"),
            ("tel:+15551234", "404"),
        ],
    );
}

#[test]
fn a_box_goes_out_by_the_services_that_it_is_in() {
    let network = |text: &str| Egress::Network(text.parse().expect("tests write networks in CIDR notation"));
    let mut bench = Bench::new(with_egress(vec![network("203.0.113.0/28")], vec![network("192.0.2.0/28")]));
    for (index, uri, wanted) in [
        (0, "sip:x@203.0.113.5", "203.0.113.5:5060"),
        (1, "sip:x@203.0.113.5", "404"),
        (0, "sip:x@192.0.2.5", "404"),
        (1, "sip:x@192.0.2.5", "192.0.2.5:5060"),
    ] {
        let request = request("MESSAGE", uri).from(&format!("<sip:x@example.com>;tag={index}"));
        assert_eq!(outcome(&mut bench, index, request), wanted, "{index} {uri}");
    }
}

/// A box that pings a phone through us must not take our 404 or 480 for the phone's sign of life.
#[test]
fn options_to_a_phone_that_is_gone_are_not_answered() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    for (uri, wanted) in [
        ("sip:nobody@example.com", "404"),
        // A contact id of ours has sixteen digits.
        ("sip:nobody@10.0.0.1:5060;tdm=0000000000000001", "480"),
        ("sip:nobody@10.0.0.1:5060;tdm=00000000000000ff", "480"),
        ("sip:nobody@10.0.0.1:5060;tdm=00000000000000fg", "404"),
        ("sip:nobody@10.0.0.1:5060;tdm=000000000000001", "404"),
        ("sip:nobody@10.0.0.1:5060;tdm=00000000000000001", "404"),
        ("sip:nobody@10.0.0.1:5060;tdm", "404"),
    ] {
        assert_eq!(outcome(&mut bench, 0, request("MESSAGE", uri)), wanted, "{uri}");
        assert_eq!(outcome(&mut bench, 0, request("INVITE", uri)), wanted, "{uri}");
        assert_eq!(outcome(&mut bench, 0, request("OPTIONS", uri)), "silence", "{uri}");
    }
}

#[test]
fn a_user_is_reached_at_his_box_and_by_that_box_at_his_phone() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    let home = register(&mut bench);
    let (at_home, at_phone) = (box_address(home).to_string(), Bench::client_address().to_string());
    let uri = "sip:bonnie@example.com";
    for (method, by_other, by_home) in [
        ("INVITE", at_home.as_str(), at_phone.as_str()),
        ("MESSAGE", at_home.as_str(), at_phone.as_str()),
        ("OPTIONS", at_home.as_str(), "silence"),
        ("REGISTER", "404", "404"),
    ] {
        assert_eq!(outcome(&mut bench, 1 - home, request(method, uri)), by_other, "{method}");
        let second = request(method, uri).from("<sip:x@example.com>;tag=x").call_id(method);
        assert_eq!(outcome(&mut bench, home, second), by_home, "{method}");
    }
}

#[test]
fn a_phone_gets_its_own_uri_back_from_the_box_that_lost_it() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    register(&mut bench);
    bench.send(box_address(0), request("INVITE", "sip:bonnie@example.com").build());
    assert_eq!(bench.one_to_client().uri(), "sip:bonnie@10.1.0.1:5060");
}

#[test]
fn a_user_whose_box_is_out_is_reached_at_his_phone() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    let home = register(&mut bench);
    let now = bench.now();
    let mut settings = bench.balancer().settings().clone();
    for farm in &mut settings.farms {
        if let Some(backend) = farm.backends.get_mut(home) {
            backend.maintenance = Maintenance::Drain;
        }
    }
    bench.balancer().replace_settings(now, settings);
    let reached = outcome(&mut bench, 1 - home, request("INVITE", "sip:bonnie@example.com"));
    assert_eq!(reached, Bench::client_address().to_string());
}

/// Calls from box to box count where they go; what is no call passes all the same.
#[test]
fn a_full_box_gets_no_calls_of_other_boxes_either() {
    let mut bench = Bench::new(one_farm(2, |farm| {
        for backend in &mut farm.backends {
            backend.max_calls = 1;
        }
    }));
    let home = register(&mut bench);
    let (at_home, at_phone) = (box_address(home).to_string(), Bench::client_address().to_string());
    for (method, call_id, wanted) in
        [("MESSAGE", "a", &at_home), ("INVITE", "b", &at_home), ("INVITE", "c", &at_phone), ("MESSAGE", "d", &at_home)]
    {
        let request = Script::new(method).call_id(call_id).uri("sip:bonnie@example.com");
        assert_eq!(&outcome(&mut bench, 1 - home, request), wanted, "{call_id}");
    }
}

/// The places of the trunk, best first.
fn first() -> SocketAddr {
    address("192.0.2.1:5070")
}

fn second() -> SocketAddr {
    address("192.0.2.2:5060")
}

/// One box, whose requests leave by a trunk with two places.
fn two_places() -> Bench {
    Bench::new(with_egress(vec![Egress::Trunk(0)], Vec::new()))
}

/// The box asks for a number, in a call of its own.
fn asked(method: &str, call_id: &str) -> Vec<u8> {
    let via = format!("SIP/2.0/UDP {};rport;branch=z9hG4bK{call_id}", box_address(0));
    Script::new(method).via(&via).call_id(call_id).uri("tel:+15551234").build()
}

/// The one thing that is sent upon it.
fn out(bench: &mut Bench, method: &str, call_id: &str) -> Datagram {
    bench.rest();
    bench.send(box_address(0), asked(method, call_id));
    let mut sent = bench.rest();
    assert_eq!(sent.len(), 1, "one request leaves");
    sent.remove(0)
}

#[test]
fn item_29_a_place_that_is_silent_loses_the_request_to_the_next() {
    for (method, patience) in [("INVITE", 2_000), ("SUBSCRIBE", 4_000), ("PUBLISH", 4_000), ("OPTIONS", 4_000)] {
        let mut bench = two_places();
        assert_eq!(out(&mut bench, method, "a").to, first());
        bench.advance(millis(patience - 100));
        assert_eq!(heard(&mut bench, second()), SILENCE, "{method}");
        bench.advance(millis(300));
        let again = bench.one_to(second());
        assert_eq!(counted(&mut bench, "failovers"), 1);
        bench.answer(&again, &Answer::new(200));
        assert!(heard(&mut bench, box_address(0)).contains(&format!("200 {method}")), "{method}");
    }
}

/// It may have been done at the first place, and must not be done twice.
#[test]
fn what_is_no_call_and_waits_for_no_final_answer_stays_with_a_silent_place() {
    let mut bench = two_places();
    out(&mut bench, "MESSAGE", "a");
    bench.advance(seconds(20));
    assert_eq!(heard(&mut bench, second()), SILENCE);
}

#[test]
fn a_place_that_rings_keeps_the_call() {
    let mut bench = two_places();
    let call = out(&mut bench, "INVITE", "a");
    bench.answer(&call, &Answer::new(180));
    bench.advance(seconds(60));
    assert_eq!(heard(&mut bench, second()), SILENCE);
}

/// What the service says of its backends' codes does not matter.
#[test]
fn item_29_a_503_sends_the_request_on_at_once_and_no_other_code_does() {
    for method in ["INVITE", "MESSAGE"] {
        for code in [404, 480, 486, 500, 502, 503, 603] {
            let mut settings = with_egress(vec![Egress::Trunk(0)], Vec::new());
            for service in settings.farms.iter_mut().flat_map(|farm| &mut farm.services) {
                service.failover.codes = vec![500];
            }
            let mut bench = Bench::new(settings);
            let request = out(&mut bench, method, "a");
            bench.answer(&request, &Answer::new(code));
            let (sent_on, answers) = (heard(&mut bench, second()), heard(&mut bench, box_address(0)));
            if code == 503 {
                assert_eq!((sent_on, answers), (vec![method.to_owned()], Vec::new()));
            } else {
                assert_eq!((sent_on, answers), (Vec::new(), vec![format!("{code} {method}")]));
            }
        }
    }
}

#[test]
fn item_29_a_place_that_cannot_be_reached_is_followed_by_the_next_at_once() {
    for method in ["INVITE", "MESSAGE"] {
        let mut bench = two_places();
        let request = out(&mut bench, method, "a");
        bench.return_undelivered(&request);
        let again = bench.one_to(second());
        assert_eq!(again.at, request.at, "{method}");
        bench.answer(&again, &Answer::new(200));
        assert_eq!(heard(&mut bench, box_address(0)), [format!("200 {method}")]);
    }
}

#[test]
fn when_every_place_has_failed_the_box_hears_what_it_hears_of_backends() {
    for method in ["INVITE", "MESSAGE"] {
        for unreachable in [true, false] {
            let mut bench = two_places();
            let mut request = out(&mut bench, method, "a");
            for attempt in 1..=2 {
                if unreachable {
                    bench.return_undelivered(&request);
                } else {
                    bench.answer(&request, &Answer::new(503));
                }
                if attempt == 1 {
                    request = bench.one_to(second());
                }
            }
            assert_eq!(heard(&mut bench, box_address(0)), [format!("500 {method}")], "unreachable: {unreachable}");
        }
    }
    let mut bench = two_places();
    out(&mut bench, "INVITE", "a");
    bench.advance(seconds(33));
    assert_eq!(heard(&mut bench, box_address(0)), ["100 INVITE"]);
    bench.advance(seconds(2));
    assert!(heard(&mut bench, box_address(0)).contains(&"408 INVITE".to_owned()));
}

#[test]
fn a_domain_has_its_next_place_too() {
    let places = vec![place("192.0.2.1:5070"), place("192.0.2.2:5060")];
    let domain = Egress::Domain { host: "near.example".to_owned(), places };
    let mut bench = Bench::new(with_egress(vec![domain], Vec::new()));
    assert_eq!(outcome(&mut bench, 0, request("INVITE", "sip:x@near.example")), first().to_string());
    bench.advance(millis(2_200));
    assert_eq!(bench.one_to(second()).to, second());
}

/// The first place fails one request in each of the ways in which it can; others follow 25 and 33 s later.
#[test]
fn what_failed_is_avoided_for_half_a_minute() {
    let failures: [fn(&mut Bench, &Datagram); 3] = [
        |bench, _| bench.advance(millis(2_200)),
        |bench, request| bench.answer(request, &Answer::new(503)),
        |bench, request| bench.return_undelivered(request),
    ];
    for (index, fail) in failures.into_iter().enumerate() {
        let mut bench = two_places();
        let request = out(&mut bench, "INVITE", "a");
        assert_eq!(request.to, first());
        fail(&mut bench, &request);
        let again = bench.one_to(second());
        bench.answer(&again, &Answer::new(486));
        let mut reached = Vec::new();
        for (call_id, pause) in [("b", 25), ("c", 8), ("d", 0)] {
            let message = out(&mut bench, "MESSAGE", call_id);
            bench.answer(&message, &Answer::new(200));
            reached.push(message.to);
            bench.advance(seconds(pause));
        }
        assert_eq!(reached, [second(), second(), first()], "failure {index}");
    }
}

/// A request that a limit of ours kept back says nothing of its place: the next one goes there first.
#[test]
fn a_place_is_not_avoided_for_a_limit_of_ours() {
    for (by_us, next) in [(true, first()), (false, second())] {
        let mut settings = with_egress(vec![Egress::Trunk(0)], Vec::new());
        for farm in &mut settings.farms {
            farm.listeners = [Transport::Udp, Transport::Tcp].map(streams::listener).into();
            for place in farm.trunks.iter_mut().flat_map(|trunk| &mut trunk.out) {
                place.transport = Transport::Tcp;
            }
        }
        let mut unit = Unit::new(settings);
        let request = unit.passes(streams::by_datagram(), &asked("INVITE", "a"));
        assert_eq!(request.flow.remote, first());
        let sent = unit.input(lost(&request, by_us));
        assert_eq!(sent.iter().map(|sent| sent.flow.remote).collect::<Vec<_>>(), [second()]);
        let other = unit.passes(streams::by_datagram(), &asked("INVITE", "b"));
        assert_eq!(other.flow.remote, next, "by us: {by_us}");
    }
}

#[test]
fn a_place_that_is_avoided_is_still_the_last_resort() {
    let mut bench = two_places();
    let request = out(&mut bench, "MESSAGE", "a");
    bench.answer(&request, &Answer::new(503));
    let again = bench.one_to(second());
    bench.answer(&again, &Answer::new(200));
    let request = out(&mut bench, "MESSAGE", "b");
    assert_eq!(request.to, second());
    bench.answer(&request, &Answer::new(503));
    let again = bench.one_to(first());
    bench.answer(&again, &Answer::new(200));
    assert_eq!(heard(&mut bench, box_address(0)), ["200 MESSAGE"]);
    // Both failed lately: the order of the file counts.
    assert_eq!(out(&mut bench, "MESSAGE", "c").to, first());
}

/// A place that takes long to answer, yet lives, loses what it has not answered and gets what is new.
#[test]
fn a_slow_place_is_not_avoided() {
    let mut bench = two_places();
    let request = out(&mut bench, "SUBSCRIBE", "a");
    bench.answer(&request, &Answer::new(100));
    bench.advance(millis(4_200));
    let again = bench.one_to(second());
    bench.answer(&again, &Answer::new(200));
    assert_eq!(out(&mut bench, "SUBSCRIBE", "b").to, first());
}

#[test]
fn a_dialog_stays_with_the_place_that_it_was_made_at() {
    let mut bench = two_places();
    let call = out(&mut bench, "INVITE", "a");
    bench.answer(&call, &Answer::new(200).line("Contact: <sip:gateway@192.0.2.1:5070>"));
    let answer = Text::read(&bench.one_to(box_address(0)).bytes);
    // Another call finds that the place fails.
    let other = out(&mut bench, "MESSAGE", "b");
    bench.answer(&other, &Answer::new(503));
    bench.one_to(second());
    let info = |branch: &str, cseq: u32| {
        of_box(0, "INFO", branch)
            .uri("sip:gateway@192.0.2.1:5070")
            .call_id("a")
            .from(answer.header("From").unwrap_or_default())
            .to(answer.header("To").unwrap_or_default())
            .cseq(cseq)
            .line(&format!("Route: {}", answer.header("Record-Route").unwrap_or_default()))
            .build()
    };
    bench.send(box_address(0), info("info1", 2));
    let request = bench.one_to(first());
    bench.answer(&request, &Answer::new(503));
    assert_eq!(heard(&mut bench, box_address(0)), ["500 INFO"]);
    bench.send(box_address(0), info("info2", 3));
    bench.advance(seconds(10));
    assert!(heard(&mut bench, first()).contains(&"INFO".to_owned()));
    assert!(!heard(&mut bench, second()).contains(&"INFO".to_owned()));
}

/// Its answer was lost on the way to the box. Meanwhile the order of the places is another, and it must not be done twice.
#[test]
fn a_request_that_comes_again_is_answered_and_goes_nowhere() {
    let mut bench = two_places();
    let request = out(&mut bench, "MESSAGE", "a");
    bench.answer(&request, &Answer::new(200));
    let other = out(&mut bench, "MESSAGE", "b");
    bench.answer(&other, &Answer::new(503));
    bench.rest();
    bench.send(box_address(0), asked("MESSAGE", "a"));
    let sent: Vec<(SocketAddr, Option<u16>)> =
        bench.rest().iter().map(|sent| (sent.to, Text::read(&sent.bytes).code())).collect();
    assert_eq!(sent, [(box_address(0), Some(200))]);
}

/// Nobody here speaks TCP.
#[test]
fn a_place_that_no_listener_leads_to_is_none() {
    let mut settings = with_egress(vec![Egress::Trunk(0)], Vec::new());
    for trunk in settings.farms.iter_mut().flat_map(|farm| &mut farm.trunks) {
        trunk.out.insert(0, Place { transport: Transport::Tcp, ..place("192.0.2.9:5060") });
    }
    assert_eq!(out(&mut Bench::new(settings), "MESSAGE", "a").to, first());
    let mut settings = with_egress(vec![Egress::Trunk(0)], Vec::new());
    for trunk in settings.farms.iter_mut().flat_map(|farm| &mut farm.trunks) {
        trunk.out = vec![Place { transport: Transport::Tcp, ..place("192.0.2.9:5060") }];
    }
    assert_eq!(outcome(&mut Bench::new(settings), 0, request("MESSAGE", "tel:+15551234")), "500");
}
