//! CANCEL on both sides of the proxy (RFC 3261 §9 and §16.10): how often it is sent, when it waits, and when it comes too late.

use crate::steps::{
    SILENCE, assert_times, bench, call, cancel, client, failed_over, heard, millis, name, of_box, outage, register,
    seconds,
};
use sim::{Answer, Script, Text, box_address};

/// RFC 3261 §9.1: 64 × T1 after a CANCEL without an answer the call counts as cancelled.
#[test]
fn a_cancel_is_repeated_until_a_silent_box_counts_as_having_obeyed() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    cancel(&mut bench);
    assert_eq!(heard(&mut bench, client()), ["180 INVITE", "200 CANCEL"]);
    bench.advance(millis(31_400));
    let cancels = bench.sent_to(request.to);
    assert!(cancels.iter().all(|sent| name(sent) == "CANCEL"));
    assert_times(&bench, &cancels, &[0, 500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500]);
    bench.advance(millis(500));
    assert_eq!(heard(&mut bench, client()), SILENCE);
    bench.advance(millis(200));
    assert_eq!(heard(&mut bench, client()), ["487 INVITE"]);
}

#[test]
fn an_answered_cancel_is_not_repeated_and_the_invites_own_answer_counts() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    cancel(&mut bench);
    let sent = bench.one_to(request.to);
    bench.answer(&sent, &Answer::new(200));
    bench.advance(seconds(10));
    assert_eq!(heard(&mut bench, request.to), SILENCE);
    assert_eq!(heard(&mut bench, client()), ["180 INVITE", "200 CANCEL"]);
    bench.answer(&request, &Answer::new(487));
    assert_eq!(heard(&mut bench, client()), ["487 INVITE"]);
    assert_eq!(heard(&mut bench, request.to), ["ACK"]);
}

#[test]
fn a_repeated_cancel_is_answered_again_and_passed_on_once() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    for _ in 0..3 {
        cancel(&mut bench);
    }
    assert_eq!(heard(&mut bench, request.to), ["CANCEL"]);
    assert_eq!(heard(&mut bench, client()), ["180 INVITE", "200 CANCEL", "200 CANCEL", "200 CANCEL"]);
}

/// RFC 3261 §9.2: it has no effect on a call that has its final answer.
#[test]
fn a_cancel_that_comes_too_late_does_nothing() {
    for code in [200, 486] {
        let mut bench = bench(1);
        let (_, request) = call(&mut bench);
        bench.answer(&request, &Answer::new(180));
        bench.answer(&request, &Answer::new(code));
        heard(&mut bench, request.to);
        bench.sent_to(client());
        cancel(&mut bench);
        assert_eq!(heard(&mut bench, client()), ["200 CANCEL"]);
        assert_eq!(heard(&mut bench, request.to), SILENCE, "{code}");
    }
}

/// What still rings beside an answered call is told why, whatever the caller's late CANCEL says.
#[test]
fn a_late_cancel_does_not_change_what_the_losers_are_told() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    bench.answer(&one, &Answer::new(200));
    assert_eq!(heard(&mut bench, client()), ["200 INVITE"]);
    assert_eq!(heard(&mut bench, two.to), SILENCE, "it has not said a word, so there is nothing to cancel yet");
    cancel(&mut bench);
    bench.answer(&two, &Answer::new(180));
    let sent = Text::read(&bench.one_to(two.to).bytes);
    assert_eq!(sent.method(), "CANCEL");
    assert_eq!(sent.all("Reason"), ["SIP;cause=200;text=\"Call completed elsewhere\""]);
    assert_eq!(heard(&mut bench, client()), ["200 CANCEL"], "and the late 180 goes nowhere");
}

/// It rings late at a box that was given up, it is cancelled there, and it is answered there all the same: the CANCEL is still owed.
#[test]
fn a_cancel_under_way_outlives_the_answers_of_all_branches() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    bench.answer(&one, &Answer::new(180).tag("first"));
    assert_eq!(heard(&mut bench, one.to), ["CANCEL"]);
    bench.answer(&two, &Answer::new(200).tag("second"));
    bench.answer(&one, &Answer::new(200).tag("first"));
    assert_eq!(heard(&mut bench, client()), ["200 INVITE", "200 INVITE"]);
    bench.advance(millis(600));
    assert_eq!(heard(&mut bench, one.to), ["CANCEL"]);
}

/// The call goes on at another box, and nobody is left at this one to take its answers. Only INVITE can be cancelled.
#[test]
fn what_a_box_was_calling_for_is_cancelled_when_it_goes_down() {
    let mut bench = bench(1);
    let (_, contact) = register(&mut bench, "bonnie");
    bench.send(box_address(0), of_box(0, "INVITE", "call").uri(&contact).build());
    let ringing = bench.one_to(client());
    bench.answer(&ringing, &Answer::new(180));
    bench.send(box_address(0), of_box(0, "MESSAGE", "text").call_id("text").uri(&contact).build());
    let pending = bench.one_to(client());
    bench.answer(&pending, &Answer::new(100));
    let sent = outage(&mut bench, "call-1");
    assert_eq!(sent.iter().map(name).collect::<Vec<String>>(), ["CANCEL"]);
    let cancel = sent.first().expect("there is one");
    let text = Text::read(&cancel.bytes);
    assert_eq!((cancel.to, text.branch()), (client(), Text::read(&ringing.bytes).branch()));
    assert_eq!(text.all("Reason"), ["SIP;cause=503;text=\"The calling server is down\""]);
}

#[test]
fn a_cancel_without_its_invite_is_refused_and_goes_nowhere() {
    let mut bench = bench(1);
    call(&mut bench);
    for other in [
        Script::new("CANCEL").branch("b"),
        Script::new("CANCEL").branch("a").call_id("other"),
        Script::new("CANCEL").branch("a").cseq(2),
    ] {
        bench.send(client(), other.build());
        assert_eq!(heard(&mut bench, client()), ["481 CANCEL"]);
        bench.assert_quiet();
    }
}
