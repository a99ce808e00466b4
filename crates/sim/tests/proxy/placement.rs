//! Where a request of a client or trunk is placed: services, limits, hashes, and what the farm answers by itself.

use engine::{Maintenance, Persistence};
use sim::bench::invite;
use sim::settings::{algorithm, service, trunk};
use sim::{Answer, Bench, Script, Text, box_address, one_farm};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

fn address(text: &str) -> SocketAddr {
    text.parse().expect("tests write addresses that can be read")
}

/// Sends a request and gives the index of the box that gets it.
fn placed(bench: &mut Bench, from: SocketAddr, request: &Script) -> usize {
    bench.send(from, request.build());
    bench.one_to_a_box().0
}

fn message(call_id: &str) -> Script {
    Script::new("MESSAGE").call_id(call_id)
}

/// A farm balanced by this algorithm that remembers nothing of users and calls.
fn balanced(boxes: usize, name: &str) -> Bench {
    Bench::new(one_farm(boxes, |farm| {
        for service in &mut farm.services {
            service.algorithm = algorithm(name);
            service.persistence = Persistence::None;
        }
        farm.trunks = vec![trunk("carrier", "198.51.100.0/28", address("198.51.100.1:5060"))];
    }))
}

/// RFC 3261 §11.
#[test]
fn only_options_that_name_nobody_but_the_farm_are_answered_by_it() {
    for (method, uri, to, answered) in [
        ("OPTIONS", "sip:example.com", "<sip:example.com>", true),
        ("OPTIONS", "sips:EXAMPLE.com", "<sip:example.com>", true),
        ("OPTIONS", "sip:10.0.0.1:5060", "<sip:clyde@example.com>", true),
        ("OPTIONS", "sip:clyde@example.com", "<sip:example.com>", false),
        ("OPTIONS", "sip:10.0.0.1:5070", "<sip:example.com>", false),
        ("OPTIONS", "sip:example.net", "<sip:example.com>", false),
        ("OPTIONS", "tel:+15551234", "<sip:example.com>", false),
        ("OPTIONS", "sip:example.com", "<sip:example.com>;tag=tt", false),
        ("MESSAGE", "sip:example.com", "<sip:example.com>", false),
    ] {
        let mut bench = Bench::new(one_farm(1, |_| ()));
        bench.send(Bench::client_address(), Script::new(method).uri(uri).to(to).build());
        if answered {
            assert_eq!(bench.one_to_client().code(), Some(200), "{uri}");
        } else {
            assert_eq!(bench.one_to_a_box().0, 0, "{method} {uri} {to}");
        }
        bench.assert_quiet();
    }
}

#[test]
fn a_farm_without_an_available_box_says_so() {
    for maintenance in [Maintenance::Drain, Maintenance::Cut] {
        let mut bench = Bench::new(one_farm(2, |farm| {
            for backend in &mut farm.backends {
                backend.maintenance = maintenance;
            }
        }));
        for uri in ["sip:example.com", "sip:clyde@example.com"] {
            bench.send(Bench::client_address(), Script::new("OPTIONS").call_id(uri).uri(uri).build());
            assert_eq!(bench.one_to_client().code(), Some(503), "{uri}");
        }
        bench.assert_quiet();
    }
}

#[test]
fn a_trunk_has_its_own_service_or_the_first_whose_rule_matches() {
    let mut bench = Bench::new(one_farm(3, |farm| {
        farm.services = (0..3).map(|index| service(&format!("s{index}"), vec![index])).collect();
        let mut own = trunk("own", "198.51.100.0/28", address("198.51.100.1:5060"));
        own.service = Some(2);
        farm.trunks = vec![own, trunk("any", "203.0.113.0/28", address("203.0.113.1:5060"))];
    }));
    for (from, index) in [("198.51.100.3:5060", 2), ("203.0.113.3:5060", 0), ("10.1.0.1:5060", 0)] {
        assert_eq!(placed(&mut bench, address(from), &message(from)), index, "{from}");
    }
}

#[test]
fn a_box_gets_its_calls_and_no_more_but_everything_else() {
    let mut bench = Bench::new(one_farm(1, |farm| {
        for backend in &mut farm.backends {
            backend.max_calls = 1;
        }
    }));
    bench.send(Bench::client_address(), invite("a").call_id("a").build());
    let (_, first) = bench.one_to_a_box();
    bench.send(Bench::client_address(), invite("b").call_id("b").build());
    assert_eq!(bench.one_to_client().code(), Some(503), "the box is full of calls");
    assert_eq!(placed(&mut bench, Bench::client_address(), &message("m")), 0);
    bench.answer(&first, &Answer::new(486));
    bench.rest();
    assert_eq!(placed(&mut bench, Bench::client_address(), &invite("c").call_id("c")), 0, "there is room again");
}

#[test]
fn registrations_beyond_the_rate_of_a_box_come_back_later() {
    let mut bench = Bench::new(one_farm(1, |farm| {
        for backend in &mut farm.backends {
            backend.max_rate = 1;
        }
    }));
    let register = |name: &str| Script::new("REGISTER").call_id(name).uri("sip:example.com").build();
    bench.send(Bench::client_address(), register("a"));
    let (_, first) = bench.one_to_a_box();
    bench.answer(&first, &Answer::new(200));
    bench.rest();
    bench.send(Bench::client_address(), register("b"));
    let refusal = bench.one_to_client();
    assert_eq!(refusal.code(), Some(503));
    let seconds: Option<u32> = refusal.header("Retry-After").and_then(|value| value.parse().ok());
    assert!(seconds.is_some_and(|seconds| (5..15).contains(&seconds)), "{seconds:?}");
    bench.advance(Duration::from_secs(1));
    bench.send(Bench::client_address(), register("c"));
    assert_eq!(bench.one_to_a_box().0, 0);
}

#[test]
fn a_stateless_farm_has_no_limits() {
    let mut bench = Bench::new(one_farm(1, |farm| {
        farm.stateless = true;
        for backend in &mut farm.backends {
            (backend.max_calls, backend.max_rate) = (1, 1);
        }
        for service in &mut farm.services {
            service.algorithm = algorithm("hash-call-id");
            service.persistence = Persistence::None;
        }
    }));
    for name in ["a", "b", "c"] {
        assert_eq!(placed(&mut bench, Bench::client_address(), &invite(name).call_id(name)), 0);
    }
}

/// What it had remembered would show when a reload makes it stateful.
#[test]
fn a_stateless_farm_remembers_no_choice() {
    let mut bench = Bench::new(one_farm(2, |farm| {
        farm.stateless = true;
        for service in &mut farm.services {
            service.algorithm = algorithm("hash-call-id");
            service.persistence = Persistence::None;
        }
    }));
    let call_id = (0..30)
        .map(|number| format!("c{number}"))
        .find(|call_id| placed(&mut bench, Bench::client_address(), &message(call_id)) == 1)
        .expect("the hash uses both boxes");
    let now = bench.now();
    bench.balancer().replace_settings(now, one_farm(2, |_| ()));
    let again = message(&call_id).branch("again");
    assert_eq!(placed(&mut bench, Bench::client_address(), &again), 0, "the first in turn");
}

#[test]
fn a_hash_by_user_goes_by_the_call_where_the_user_is_nobody() {
    for (from, sender, has_home) in [
        ("10.1.0.1:5060", "<sip:bonnie@example.com>;tag=ft", true),
        ("10.1.0.1:5060", "<sip:Anonymous@example.com>;tag=ft", false),
        ("10.1.0.1:5060", "<sip:bonnie@anonymous.invalid>;tag=ft", false),
        ("10.1.0.1:5060", "<sip:example.com>;tag=ft", false),
        ("198.51.100.3:5060", "<sip:bonnie@example.com>;tag=ft", false),
    ] {
        let mut bench = balanced(4, "hash-user");
        let boxes: BTreeSet<usize> = (0..20)
            .map(|number| placed(&mut bench, address(from), &message(&format!("c{number}")).from(sender)))
            .collect();
        assert_eq!(boxes.len() == 1, has_home, "{from} {sender}: {boxes:?}");
    }
}

/// Two calls of two are within 1.25 × the mean of one, rounded up; three of three are not.
#[test]
fn a_hash_keeps_the_bound_of_the_load() {
    let mut bench = balanced(2, "hash-user");
    let boxes: Vec<usize> = ["a", "b", "c"]
        .iter()
        .map(|name| placed(&mut bench, Bench::client_address(), &invite(name).call_id(name)))
        .collect();
    let home = boxes.first().copied().unwrap_or_default();
    assert_eq!(boxes, [home, home, 1 - home]);
}

#[test]
fn a_box_that_knows_only_its_own_address_is_named_in_the_request() {
    for (replaces, wanted) in
        [(true, "sip:clyde@10.0.1.1:5060;user=phone"), (false, "sip:clyde@example.com:5070;user=phone")]
    {
        let mut bench = Bench::new(one_farm(1, |farm| {
            for service in &mut farm.services {
                service.request_uri_backend = replaces;
            }
        }));
        let request = message("c").uri("sip:clyde@example.com:5070;user=phone");
        bench.send(Bench::client_address(), request.build());
        assert_eq!(Text::read(&bench.one_to(box_address(0)).bytes).uri(), wanted);
    }
}
