//! Messages for a transaction that is over: what a repeated answer, a late one, or a repeated request still does (RFC 6026 §7).

use crate::steps::{SILENCE, bench, call, client, counted, failed_over, heard, millis, registering, seconds};
use sim::bench::invite;
use sim::script::uri_in;
use sim::{Answer, Script, Text, box_address};

#[test]
fn after_a_2xx_only_a_2xx_passes() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 INVITE"]);
    for (number, code) in (1..).zip([100, 180, 486, 500, 603]) {
        bench.answer(&request, &Answer::new(code));
        bench.assert_quiet();
        assert_eq!(counted(&mut bench, "stray_responses"), number, "{code}");
    }
    assert_eq!((counted(&mut bench, "responses_forwarded"), counted(&mut bench, "forwarded_by_token")), (1, 0));
    bench.answer(&request, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 INVITE"]);
    assert_eq!((counted(&mut bench, "responses_forwarded"), counted(&mut bench, "forwarded_by_token")), (1, 1));
}

/// Its sender repeats the request because the answer was lost: it goes to the same box under the same branch, and the box, which
/// takes it for what it is, repeats its answer.
#[test]
fn a_repeated_request_is_answered_by_its_box_again() {
    let mut bench = bench(3);
    let message = Script::new("MESSAGE").build();
    bench.send(client(), &message);
    let (index, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 MESSAGE"]);
    for _ in 0..2 {
        bench.advance(seconds(3));
        bench.send(client(), &message);
        let (again, repeated) = bench.one_to_a_box();
        assert_eq!((again, &repeated.bytes), (index, &request.bytes));
        bench.answer(&repeated, &Answer::new(100));
        bench.assert_quiet();
        bench.answer(&repeated, &Answer::new(200));
        assert_eq!(heard(&mut bench, client()), ["200 MESSAGE"]);
    }
}

/// A second final answer, from another box, would belong to no request that the sender knows of.
#[test]
fn only_the_branch_whose_answer_went_up_may_repeat_it() {
    let mut bench = bench(2);
    bench.send(client(), Script::new("OPTIONS").build());
    let (_, one) = bench.one_to_a_box();
    bench.advance(millis(4_100));
    bench.sent_to(one.to);
    let (_, two) = bench.one_to_a_box();
    bench.answer(&two, &Answer::new(200).tag("second"));
    assert_eq!(heard(&mut bench, client()), ["200 OPTIONS"]);
    bench.answer(&one, &Answer::new(404).tag("first"));
    bench.answer(&one, &Answer::new(404).tag("first"));
    bench.assert_quiet();
    bench.answer(&two, &Answer::new(200).tag("second"));
    assert_eq!(heard(&mut bench, client()), ["200 OPTIONS"]);
}

/// RFC 3261 §16.7 step 5: of an INVITE every 2xx goes up, whichever branch it comes by.
#[test]
fn each_2xx_of_each_branch_of_a_call_is_passed_on_when_it_is_repeated() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    for _ in 0..2 {
        for (request, tag) in [(&one, "first"), (&two, "second")] {
            bench.answer(request, &Answer::new(200).tag(tag));
            let answer = bench.one_to_client();
            let to = format!("<sip:clyde@example.com>;tag={tag}");
            assert_eq!((answer.code(), answer.header("To")), (Some(200), Some(to.as_str())));
        }
    }
    assert_eq!(counted(&mut bench, "forwarded_by_token"), 2, "nothing but their tokens is left by then");
}

/// The call is up at the second box, and the first one, which refused it, has not got its ACK.
#[test]
fn a_refusal_is_acknowledged_again_after_another_box_has_answered() {
    let mut bench = bench(2);
    let (_, one) = call(&mut bench);
    bench.answer(&one, &Answer::new(503));
    assert_eq!(heard(&mut bench, one.to), ["ACK"]);
    let (_, two) = bench.one_to_a_box();
    bench.answer(&two, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 INVITE"]);
    for _ in 0..2 {
        bench.answer(&one, &Answer::new(503));
        assert_eq!(heard(&mut bench, one.to), ["ACK"]);
    }
    bench.assert_quiet();
    assert_eq!(counted(&mut bench, "stray_responses"), 0);
}

/// RFC 3261 §13.2.2.4 gives it a branch of its own, but some phones use that of the INVITE.
#[test]
fn an_ack_of_a_2xx_passes_under_the_branch_of_its_invite() {
    for other_still_rings in [false, true] {
        let mut bench = bench(2);
        let one = if other_still_rings { failed_over(&mut bench).0 } else { call(&mut bench).1 };
        bench.answer(&one, &Answer::new(200).line(&format!("Contact: <sip:clyde@{}>", one.to)));
        let answer = bench.one_to_client();
        let ack = Script::new("ACK")
            .branch("a")
            .uri(&format!("sip:clyde@{}", one.to))
            .to(answer.header("To").unwrap_or_default())
            .line(&format!("Route: {}", answer.header("Record-Route").unwrap_or_default()));
        for _ in 0..2 {
            bench.send(client(), ack.build());
            assert_eq!(heard(&mut bench, one.to), ["ACK"], "the other rings: {other_still_rings}");
        }
    }
}

/// The phone must see its own contact in each copy of the answer, or it registers again and again.
#[test]
fn a_repeated_answer_to_register_shows_the_phones_own_contact() {
    let mut bench = bench(1);
    bench.send(client(), registering("bonnie").build());
    let (_, request) = bench.one_to_a_box();
    let seen = Text::read(&request.bytes).header("Contact").unwrap_or_default().to_owned();
    assert!(uri_in(&seen).starts_with("sip:bonnie@10.0.0.1:5060;tdm="), "{seen}");
    let answer = Answer::new(200).line(&format!("Contact: {seen}, <sip:x@10.0.0.1:5060;tdm=0000000000000001>"));
    for _ in 0..3 {
        bench.answer(&request, &answer);
        let contacts: Vec<String> = bench.one_to_client().values("Contact").iter().map(|value| uri_in(value)).collect();
        assert_eq!(contacts, ["sip:bonnie@10.1.0.1:5060"]);
    }
    assert_eq!(counted(&mut bench, "forwarded_by_token"), 2);
}

/// RFC 3261 §16.7 step 6 holds for what passes by its token as well.
#[test]
fn a_503_is_hidden_where_no_transaction_is_left() {
    let mut bench = bench(1);
    bench.send(client(), Script::new("MESSAGE").build());
    let (_, request) = bench.one_to_a_box();
    bench.restart(millis(300));
    bench.answer(&request, &Answer::new(503).line("Retry-After: 120"));
    let answer = bench.one_to_client();
    assert_eq!((answer.start.as_str(), answer.header("Retry-After")), ("SIP/2.0 500 Server Internal Error", None));
    for code in [404, 500] {
        bench.answer(&request, &Answer::new(code).line("Retry-After: 120"));
        let answer = bench.one_to_client();
        assert_eq!((answer.code(), answer.header("Retry-After")), (Some(code), Some("120")));
    }
    assert_eq!(heard(&mut bench, box_address(0)), SILENCE);
}

/// RFC 3261 §16.7: the other boxes of a call that is over hear no more than their CANCEL.
#[test]
fn a_box_that_rings_after_the_call_was_answered_is_cancelled() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    bench.answer(&one, &Answer::new(200));
    bench.send(client(), invite("a").build());
    assert_eq!(heard(&mut bench, client()), ["200 INVITE"], "a repeated INVITE is absorbed");
    bench.answer(&two, &Answer::new(180));
    assert_eq!(heard(&mut bench, two.to), ["CANCEL"]);
    bench.assert_quiet();
}
