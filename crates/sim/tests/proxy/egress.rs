//! Where requests of the boxes go that are not part of a dialog: phones, other boxes, and out by egress.

use engine::{Egress, Maintenance, Place, Settings, Transport};
use sim::script::uri_in;
use sim::settings::{service, trunk};
use sim::{Answer, Bench, Script, Text, box_address, one_farm};
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
