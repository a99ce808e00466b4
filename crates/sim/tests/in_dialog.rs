//! Requests inside of calls: which way they go, where they find a phone that has moved, and what they leave behind.

use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::outside_address;
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm};
use std::net::SocketAddr;
use std::time::Duration;

/// Sixteen bits of this tag, all that a token holds of it, are also those of `tt`, the tag of every answer here.
const ALIKE: &str = "ft168350";

fn bench(boxes: usize) -> Bench {
    Bench::new(one_farm(boxes, |_| ()))
}

/// Calls that the balancer remembers.
fn calls(bench: &mut Bench) -> u64 {
    let now = bench.now();
    bench.balancer().snapshot(now).expect("the balancer runs").calls
}

/// Registers Bonnie from the client's address. Returns the index of her box, and her contact as that box knows it.
fn register(bench: &mut Bench) -> (usize, String) {
    let script = Script::new("REGISTER")
        .branch("reg")
        .call_id("registration")
        .uri("sip:example.com")
        .to("<sip:bonnie@example.com>")
        .line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=600");
    bench.send(Bench::client_address(), script.build());
    let (index, request) = bench.one_to_a_box();
    let contact = Text::read(&request.bytes).header("Contact").map(uri_in).unwrap_or_default();
    bench.answer(&request, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")));
    assert_eq!(bench.one_to_client().code(), Some(200));
    (index, contact)
}

/// A request of a box to Bonnie.
fn of_box(index: usize, method: &str, from_tag: &str) -> Script {
    Script::new(method)
        .via(&format!("SIP/2.0/UDP {};rport;branch=z9hG4bKbox{method}", box_address(index)))
        .from(&format!("<sip:clyde@example.com>;tag={from_tag}"))
        .to("<sip:bonnie@example.com>")
        .call_id("of-a-box")
        .line(&format!("Contact: <sip:clyde@{}>", box_address(index)))
}

/// The BYE of a box within the call that `answer` set up.
fn bye_of_box(index: usize, target: &str, answer: &Text) -> Script {
    of_box(index, "BYE", "")
        .uri(target)
        .from(answer.header("From").unwrap_or_default())
        .to(answer.header("To").unwrap_or_default())
        .cseq(2)
        .line(&format!("Route: {}", answer.header("Record-Route").unwrap_or_default()))
}

/// The balancer repeats a request of the only box where its phone is now, and the phone answers it from there.
fn expect_repeated_at(bench: &mut Bench, moved: SocketAddr, first: &Datagram) {
    bench.advance(Duration::from_millis(600));
    let second = bench.one_to(moved);
    assert_eq!(second.bytes, first.bytes, "the same request");
    bench.answer(&second, &Answer::new(200));
    assert_eq!(Text::read(&bench.one_to(box_address(0)).bytes).code(), Some(200));
    bench.assert_quiet();
}

/// Once such a call was never forgotten when the side hung up that had been called.
#[test]
fn either_side_ends_a_call_whose_tags_are_alike() {
    for by_client in [true, false] {
        let mut bench = bench(2);
        let caller = format!("<sip:bonnie@example.com>;tag={ALIKE}");
        let dialog = bench.establish(&invite("a").from(&caller), "call-1");
        assert_eq!(calls(&mut bench), 1);
        let its_box = box_address(dialog.backend);
        let bye = if by_client {
            bench.send(Bench::client_address(), dialog.client_request("BYE", 2).build());
            bench.one_to(its_box)
        } else {
            bench.send(its_box, dialog.backend_request("BYE", 1).build());
            bench.one_to(Bench::client_address())
        };
        bench.answer(&bye, &Answer::new(200));
        assert_eq!(calls(&mut bench), 0, "by the client: {by_client}");
    }
}

#[test]
fn boxes_in_a_call_with_each_other_reach_each_other_when_its_tags_are_alike() {
    for by_caller in [true, false] {
        let mut bench = bench(2);
        let (callee, _) = register(&mut bench);
        let caller = 1 - callee;
        let request = of_box(caller, "INVITE", ALIKE).uri("sip:bonnie@example.com");
        bench.send(box_address(caller), request.build());
        let received = bench.one_to(box_address(callee));
        bench.answer(&received, &Answer::new(200).line(&format!("Contact: <sip:bonnie@{}>", box_address(callee))));
        let answer = Text::read(&bench.one_to(box_address(caller)).bytes);
        let (by, other) = if by_caller { (caller, callee) } else { (callee, caller) };
        let bye = bye_of_box(by, &format!("sip:{}", box_address(other)), &answer);
        let bye = if by_caller {
            bye
        } else {
            let (from, to) = (answer.header("From").unwrap_or_default(), answer.header("To").unwrap_or_default());
            bye.from(to).to(from)
        };
        bench.send(box_address(by), bye.build());
        let bye = bench.one_to(box_address(other));
        assert_eq!(Text::read(&bye.bytes).method(), "BYE");
        bench.answer(&bye, &Answer::new(200));
        assert_eq!(Text::read(&bench.one_to(box_address(by)).bytes).code(), Some(200));
        assert_eq!(calls(&mut bench), 0, "by the caller: {by_caller}");
    }
}

#[test]
fn a_repeated_bye_follows_a_phone_that_was_heard_elsewhere_meanwhile() {
    let mut bench = bench(1);
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.send(box_address(0), dialog.backend_request("BYE", 1).build());
    let first = bench.one_to(Bench::client_address());
    let moved = outside_address(0, 1);
    bench.send(moved, dialog.client_request("INFO", 2).build());
    let info = bench.one_to(box_address(0));
    bench.answer(&info, &Answer::new(200));
    assert_eq!(Text::read(&bench.one_to(moved).bytes).code(), Some(200));
    expect_repeated_at(&mut bench, moved, &first);
    assert_eq!(calls(&mut bench), 0);
}

/// Her NAT moves her while her answer is on its way, so that neither ACK nor BYE reaches her; she repeats her answer.
#[test]
fn a_repeated_bye_follows_a_phone_that_repeats_its_answer_from_elsewhere() {
    let mut bench = bench(1);
    let (_, contact) = register(&mut bench);
    bench.send(box_address(0), of_box(0, "INVITE", "ft").uri(&contact).build());
    let received = bench.one_to(Bench::client_address());
    let answer = Answer::new(200).line("Contact: <sip:bonnie@10.1.0.1:5060>").to(&received.bytes);
    bench.send(Bench::client_address(), &answer);
    let seen = Text::read(&bench.one_to(box_address(0)).bytes);
    let bye = bye_of_box(0, "sip:bonnie@10.1.0.1:5060", &seen);
    bench.send(box_address(0), bye.build());
    let first = bench.one_to(Bench::client_address());
    let moved = outside_address(0, 1);
    bench.send(moved, &answer);
    assert_eq!(Text::read(&bench.one_to(box_address(0)).bytes).code(), Some(200));
    expect_repeated_at(&mut bench, moved, &first);
}

/// RFC 3261 §15.1.1: the box has hung up, whether or not its phone is still there to hear of it.
#[test]
fn a_bye_that_nobody_answers_ends_the_call_all_the_same() {
    let mut bench = bench(1);
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.send(box_address(0), dialog.backend_request("BYE", 1).build());
    bench.advance(Duration::from_secs(33));
    assert!(bench.sent_to(box_address(0)).is_empty(), "no 408 to a BYE");
    assert_eq!(calls(&mut bench), 0);
}
