//! Route values of ours, and the two parties of a dialog: which way its requests go, and where the peer is found.

use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::{outside_address, trunk};
use sim::{Answer, Bench, Script, Text, box_address, one_farm, phone_address};
use std::net::SocketAddr;

/// Sixteen bits of this tag, all that a token holds of it, are also those of `tt`, the tag of every answer here.
const ALIKE: &str = "ft168350";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("tests write addresses that can be read")
}

/// Registers Bonnie from this address with one and the same contact; gives it as her box knows it.
fn register(bench: &mut Bench, from: SocketAddr, cseq: u32) -> String {
    let script = Script::new("REGISTER")
        .branch(&format!("reg{cseq}"))
        .call_id("registration")
        .cseq(cseq)
        .uri("sip:example.com")
        .to("<sip:bonnie@example.com>")
        .line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=600");
    bench.send(from, script.build());
    let (_, request) = bench.one_to_a_box();
    let contact = Text::read(&request.bytes).header("Contact").map(uri_in).unwrap_or_default();
    bench.answer(&request, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")));
    assert_eq!(Text::read(&bench.one_to(from).bytes).code(), Some(200));
    contact
}

/// RFC 3261 §16.4: a preloaded Route that leads through the farm.
#[test]
fn our_own_names_go_from_the_top_of_the_route() {
    for (ours, left) in [
        ("<sip:example.com;lr>", ""),
        ("<sip:10.0.0.1:5060;lr>, <sip:EXAMPLE.com;lr>", ""),
        ("<sip:10.0.0.1;lr>, ", "<sip:203.0.113.9;lr>, <sip:example.com;lr>"),
        ("", "<sip:203.0.113.9;lr>, <sip:example.com;lr>"),
        ("", "<sip:10.0.0.1:5070;lr>"),
    ] {
        let route = format!("{ours}{left}");
        let mut bench = Bench::new(one_farm(1, |_| ()));
        bench.send(Bench::client_address(), Script::new("MESSAGE").line(&format!("Route: {route}")).build());
        let (_, request) = bench.one_to_a_box();
        assert_eq!(Text::read(&request.bytes).values("Route").join(", "), left, "{route}");
    }
}

/// What follows was put there for a proxy behind us, even if that is us again.
#[test]
fn one_token_is_taken_from_the_route_and_nothing_after_it() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    let dialog = bench.establish(&invite("a"), "call-1");
    let token = dialog.client_route().first().cloned().expect("the proxy recorded its route");
    for (cseq, next) in [(2, token.as_str()), (3, "<sip:example.com;lr>"), (4, "<sip:203.0.113.9;lr>")] {
        let request = dialog.client_request("INFO", cseq).line(&format!("Route: {next}"));
        bench.send(Bench::client_address(), request.build());
        let received = bench.one_to(box_address(dialog.backend));
        assert_eq!(Text::read(&received.bytes).values("Route"), [next]);
    }
}

#[test]
fn what_looks_like_a_token_has_to_be_one() {
    for (user, forged) in [
        (format!("tdm{}", "A".repeat(51)), true),
        (format!("tdm{}", "A".repeat(67)), true),
        (format!("tdm{}", "A".repeat(50)), false),
        (format!("tdn{}", "A".repeat(51)), false),
        ("tdm".to_owned(), false),
    ] {
        let mut bench = Bench::new(one_farm(1, |_| ()));
        let request = Script::new("MESSAGE").line(&format!("Route: <sip:{user}@10.0.0.9;lr>"));
        bench.send(Bench::client_address(), request.build());
        if forged {
            assert_eq!(bench.one_to_client().code(), Some(403), "{user}");
        } else {
            bench.one_to_a_box();
        }
        bench.assert_quiet();
    }
}

/// The token of a dialog is worth nothing before there is one.
#[test]
fn a_request_without_a_to_tag_does_not_go_by_the_token_of_a_dialog() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    let dialog = bench.establish(&invite("a"), "call-1");
    let token = dialog.client_route().first().cloned().expect("the proxy recorded its route");
    bench.send(Bench::client_address(), invite("b").cseq(2).line(&format!("Route: {token}")).build());
    assert_eq!(bench.one_to_client().code(), Some(403));
    bench.assert_quiet();
}

#[test]
fn the_direction_of_a_request_is_told_by_its_tags_and_not_by_its_sender() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.send(address("10.0.1.99:5060"), dialog.backend_request("INFO", 1).build());
    assert_eq!(bench.one_to_client().method(), "INFO");
    bench.assert_quiet();
    bench.send(phone_address(9), dialog.client_request("INFO", 2).build());
    assert_eq!(Text::read(&bench.one_to(box_address(0)).bytes).method(), "INFO");
}

#[test]
fn a_client_with_alike_tags_reaches_its_box_from_wherever_it_is() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    let dialog = bench.establish(&invite("a").from(&format!("<sip:bonnie@example.com>;tag={ALIKE}")), "call-1");
    bench.send(outside_address(0, 1), dialog.client_request("INFO", 2).build());
    assert_eq!(Text::read(&bench.one_to(box_address(dialog.backend)).bytes).method(), "INFO");
}

/// A box that calls another one is its peer, but unlike a phone it does not move: where it sends from is not where it listens.
#[test]
fn a_box_that_sends_from_another_port_is_still_reached_at_its_own() {
    let mut bench = Bench::new(one_farm(2, |farm| {
        for (backend, network) in farm.backends.iter_mut().zip(["10.0.1.1/32", "10.0.1.2/32"]) {
            backend.sources = vec![network.parse().expect("a network")];
        }
    }));
    register(&mut bench, Bench::client_address(), 1);
    let (callee, caller, other_port) = (box_address(0), box_address(1), address("10.0.1.2:6000"));
    let of_caller = |method: &str, cseq: u32| {
        Script::new(method)
            .via(&format!("SIP/2.0/UDP {caller};rport;branch=z9hG4bKcaller{cseq}"))
            .call_id("between-boxes")
            .cseq(cseq)
            .from("<sip:clyde@example.com>;tag=ft")
    };
    let call = of_caller("INVITE", 1).uri("sip:bonnie@example.com").to("<sip:bonnie@example.com>");
    bench.send(caller, call.build());
    let received = bench.one_to(callee);
    bench.answer(&received, &Answer::new(200).line(&format!("Contact: <sip:bonnie@{callee}>")));
    let answer = Text::read(&bench.one_to(caller).bytes);
    let route = format!("Route: {}", answer.header("Record-Route").expect("the proxy recorded its route"));
    let info = of_caller("INFO", 2).uri("sip:bonnie@10.0.1.1:5060").to("<sip:bonnie@example.com>;tag=tt").line(&route);
    bench.send(other_port, info.build());
    let received = bench.one_to(callee);
    bench.answer(&received, &Answer::new(200));
    assert_eq!(Text::read(&bench.one_to(other_port).bytes).code(), Some(200));
    let bye = Script::new("BYE")
        .via(&format!("SIP/2.0/UDP {callee};rport;branch=z9hG4bKcallee"))
        .call_id("between-boxes")
        .uri("sip:clyde@10.0.1.2:5060")
        .from("<sip:bonnie@example.com>;tag=tt")
        .to("<sip:clyde@example.com>;tag=ft")
        .line(&route);
    bench.send(callee, bye.build());
    assert_eq!(Text::read(&bench.one_to(caller).bytes).method(), "BYE");
    bench.assert_quiet();
}

#[test]
fn a_registered_phone_that_moves_within_a_call_is_reached_there_by_everybody() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    let contact = register(&mut bench, Bench::client_address(), 1);
    let dialog = bench.establish(&invite("a"), "call-1");
    let moved = outside_address(0, 1);
    bench.send(moved, dialog.client_request("INFO", 2).build());
    bench.one_to(box_address(0));
    bench.send(box_address(0), dialog.backend_request("INFO", 1).build());
    assert_eq!(Text::read(&bench.one_to(moved).bytes).method(), "INFO");
    let another = Script::new("MESSAGE").via("SIP/2.0/UDP 10.0.1.1:5060;rport;branch=z9hG4bKnew").call_id("new");
    bench.send(box_address(0), another.uri(&contact).build());
    assert_eq!(Text::read(&bench.one_to(moved).bytes).method(), "MESSAGE");
    bench.assert_quiet();
}

/// The calls of a trunk are its own, whoever has registered from there.
#[test]
fn the_calls_of_a_phone_follow_its_registration_and_those_of_a_trunk_do_not() {
    let in_trunk = address("198.51.100.3:5060");
    for (caller, moved, found) in [
        (Bench::client_address(), outside_address(0, 1), outside_address(0, 1)),
        (in_trunk, address("198.51.100.4:5060"), in_trunk),
    ] {
        let mut bench = Bench::new(one_farm(1, |farm| {
            farm.trunks = vec![trunk("carrier", "198.51.100.0/28", address("198.51.100.1:5060"))];
        }));
        register(&mut bench, caller, 1);
        bench.send(caller, invite("a").build());
        let received = bench.one_to(box_address(0));
        bench.answer(&received, &Answer::new(200).line("Contact: <sip:clyde@10.0.1.1:5060>"));
        assert_eq!(Text::read(&bench.one_to(caller).bytes).code(), Some(200));
        register(&mut bench, moved, 2);
        let seen = Text::read(&received.bytes);
        let info = Script::new("INFO")
            .via("SIP/2.0/UDP 10.0.1.1:5060;rport;branch=z9hG4bKbox")
            .uri("sip:bonnie@10.1.0.1:5060")
            .from("<sip:clyde@example.com>;tag=tt")
            .to(seen.header("From").unwrap_or_default())
            .line(&format!("Route: {}", seen.header("Record-Route").unwrap_or_default()));
        bench.send(box_address(0), info.build());
        assert_eq!(Text::read(&bench.one_to(found).bytes).method(), "INFO");
        bench.assert_quiet();
    }
}
