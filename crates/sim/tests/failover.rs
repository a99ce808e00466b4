//! Fail-over before an answer, to the octet.

use sim::bench::invite;
use sim::{Answer, Bench, Script, Text, box_address, one_farm};
use std::time::Duration;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn starts_at(bench: &mut Bench, index: usize) -> Vec<String> {
    bench.sent_to(box_address(index)).iter().map(|datagram| Text::read(&datagram.bytes).start).collect()
}

#[test]
fn an_invite_without_any_answer_goes_to_the_next_box_in_time() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    bench.send(Bench::client_address(), invite("a").build());
    let (first, _) = bench.one_to_a_box();
    bench.advance(millis(1_990));
    assert!(starts_at(&mut bench, 1 - first).is_empty());
    bench.advance(millis(60));
    let next = bench.one_to(box_address(1 - first));
    let after = bench.millis(&next);
    assert!((2_000..2_050).contains(&after), "after {after} ms");
    assert_eq!(Text::read(&next.bytes).start, "INVITE sip:clyde@example.com SIP/2.0");
}

#[test]
fn a_100_of_the_box_prevents_the_fail_over() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    bench.send(Bench::client_address(), invite("a").build());
    let (first, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(100));
    bench.advance(Duration::from_secs(30));
    assert!(starts_at(&mut bench, 1 - first).is_empty());
}

#[test]
fn an_abandoned_branch_that_rings_late_is_cancelled() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    bench.send(Bench::client_address(), invite("a").build());
    let (first, one) = bench.one_to_a_box();
    bench.advance(millis(2_100));
    starts_at(&mut bench, first);
    bench.one_to(box_address(1 - first));
    bench.sent_to(Bench::client_address());
    bench.answer(&one, &Answer::new(180));
    let cancel = Text::read(&bench.one_to(one.to).bytes);
    assert_eq!((cancel.method(), cancel.branch()), ("CANCEL", Text::read(&one.bytes).branch()));
}

#[test]
fn a_late_200_wins_and_the_others_are_cancelled() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    bench.send(Bench::client_address(), invite("a").build());
    let (first, one) = bench.one_to_a_box();
    bench.advance(millis(2_100));
    starts_at(&mut bench, first);
    let two = bench.one_to(box_address(1 - first));
    bench.answer(&two, &Answer::new(180).tag("second"));
    bench.sent_to(Bench::client_address());
    bench.answer(&one, &Answer::new(200).tag("first"));
    let answer = bench.one_to_client();
    assert_eq!((answer.code(), answer.header("To")), (Some(200), Some("<sip:clyde@example.com>;tag=first")));
    let cancel = Text::read(&bench.one_to(two.to).bytes);
    assert_eq!(cancel.method(), "CANCEL");
    bench.answer(&two, &Answer::new(487).tag("second"));
    assert_eq!(starts_at(&mut bench, 1 - first).len(), 1, "the ACK");
    bench.advance(Duration::from_secs(1));
    assert!(bench.sent_to(Bench::client_address()).is_empty(), "the 487 goes nowhere");
}

#[test]
fn a_register_moves_after_its_own_time() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    let register = Script::new("REGISTER")
        .uri("sip:example.com")
        .to("<sip:bonnie@example.com>")
        .line("Contact: <sip:bonnie@10.1.0.1:5060>");
    bench.send(Bench::client_address(), register.build());
    let (first, _) = bench.one_to_a_box();
    bench.advance(millis(3_990));
    assert!(starts_at(&mut bench, 1 - first).is_empty());
    bench.advance(millis(60));
    assert_eq!(starts_at(&mut bench, 1 - first).len(), 1);
}

#[test]
fn a_message_does_not_move_by_time_but_by_503() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    bench.send(Bench::client_address(), Script::new("MESSAGE").branch("a").call_id("a").build());
    let (first, _) = bench.one_to_a_box();
    bench.advance(Duration::from_secs(31));
    assert!(starts_at(&mut bench, 1 - first).is_empty());
    bench.rest();
    bench.send(Bench::client_address(), Script::new("MESSAGE").branch("b").call_id("b").build());
    let (first, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(503));
    assert_eq!(starts_at(&mut bench, 1 - first), ["MESSAGE sip:clyde@example.com SIP/2.0"]);
    bench.assert_quiet();
}

#[test]
fn a_request_inside_a_dialog_never_moves() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.send(Bench::client_address(), dialog.client_request("BYE", 2).build());
    let (index, request) = bench.one_to_a_box();
    assert_eq!(index, dialog.backend);
    bench.return_undelivered(&request);
    bench.advance(Duration::from_secs(40));
    assert!(starts_at(&mut bench, 1 - index).is_empty());
    let codes: Vec<Option<u16>> =
        bench.sent_to(Bench::client_address()).iter().map(|answer| Text::read(&answer.bytes).code()).collect();
    assert!(codes.contains(&Some(481)), "{codes:?}");
}

#[test]
fn both_sides_of_a_call_find_each_other_after_a_kill() {
    let mut bench = Bench::new(one_farm(2, |_| ()));
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.restart(millis(300));
    bench.send(Bench::client_address(), dialog.client_request("INFO", 2).build());
    let (index, _) = bench.one_to_a_box();
    assert_eq!(index, dialog.backend);
    bench.rest();
    bench.send(box_address(index), dialog.backend_request("BYE", 1).build());
    let received = bench.one_to_client();
    assert_eq!((received.method(), received.header("Route")), ("BYE", None));
}

#[test]
fn the_attempts_are_limited() {
    let mut bench = Bench::new(one_farm(5, |farm| {
        for service in &mut farm.services {
            service.failover.attempts = 2;
        }
    }));
    bench.send(Bench::client_address(), invite("a").build());
    for _ in 0..2 {
        let (_, request) = bench.one_to_a_box();
        bench.answer(&request, &Answer::new(503));
        bench.sent_to(request.to);
    }
    assert!(bench.one_to_client().code().is_some_and(|code| code >= 500));
    bench.assert_quiet();
}
