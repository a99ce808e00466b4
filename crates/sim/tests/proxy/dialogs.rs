//! How long the farm remembers a call, and what ends it (RFC 3261 §12 and §15, RFC 4028).

use crate::steps::{SILENCE, bench, call, calls, client, counted, heard, millis, seconds};
use sim::bench::invite;
use sim::{Answer, Bench, Script, box_address, one_farm};
use std::time::Duration;

/// A farm whose calls last no longer than this.
fn with_longest(longest: Duration) -> Bench {
    Bench::new(one_farm(1, |farm| farm.max_call_time = longest))
}

/// The session timer and half a minute for a refresh under way, or the longest call of the farm; a sweep comes by every 4 s.
#[test]
fn a_call_is_forgotten_when_its_session_timer_or_the_longest_call_is_over() {
    for (session, longest, ends) in
        [(Some(90), 3_600, 122), (Some(90), 100, 100), (Some(1_800), 3_600, 1_832), (None, 100, 100)]
    {
        let mut bench = with_longest(seconds(longest));
        let (_, request) = call(&mut bench);
        let answer = session.map_or(Answer::new(200), |session| {
            Answer::new(200).line(&format!("Session-Expires: {session};refresher=uac"))
        });
        bench.answer(&request, &answer);
        bench.advance(seconds(ends - 1));
        assert_eq!((calls(&mut bench), counted(&mut bench, "calls_ended")), (1, 0), "{session:?} {longest}");
        bench.advance(millis(5_500));
        assert_eq!((calls(&mut bench), counted(&mut bench, "calls_ended")), (0, 1), "{session:?} {longest}");
    }
}

/// The client asks for this within a call of 100 s at most, 60 s after it began, and gets this answer.
fn asked_within_a_call(method: &str, code: u16) -> Bench {
    let mut bench = with_longest(seconds(100));
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.advance(seconds(60));
    bench.send(client(), dialog.client_request(method, 2).build());
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &Answer::new(code));
    assert_eq!(heard(&mut bench, client()), [format!("{code} {method}")]);
    bench
}

/// RFC 4028 §7.2: INVITE and UPDATE refresh a session, if they succeed.
#[test]
fn only_a_refresh_that_succeeds_prolongs_a_call() {
    for (method, code, prolongs) in [
        ("UPDATE", 200, true),
        ("INVITE", 200, true),
        ("UPDATE", 488, false),
        ("INVITE", 488, false),
        ("INFO", 200, false),
        ("MESSAGE", 202, false),
    ] {
        let mut bench = asked_within_a_call(method, code);
        bench.advance(seconds(46));
        assert_eq!(calls(&mut bench), u64::from(prolongs), "{method} {code}");
        bench.advance(seconds(60));
        assert_eq!(calls(&mut bench), 0);
        assert_eq!(counted(&mut bench, "calls_started"), 1);
    }
}

/// RFC 3261 §12.2.1.2 and §15.1.1: 481 ends a call whatever was asked, and so does BYE whatever is answered.
#[test]
fn bye_and_481_end_a_call_and_nothing_else_does() {
    for (method, code, known) in [
        ("INFO", 200, 1),
        ("INFO", 404, 1),
        ("INFO", 480, 1),
        ("INFO", 482, 1),
        ("INFO", 481, 0),
        ("INVITE", 481, 0),
        ("INVITE", 603, 1),
        ("BYE", 200, 0),
        ("BYE", 401, 0),
        ("BYE", 500, 0),
    ] {
        let mut bench = asked_within_a_call(method, code);
        assert_eq!((calls(&mut bench), counted(&mut bench, "calls_ended")), (known, 1 - known), "{method} {code}");
    }
}

/// A phone that is silent for a while may be heard again; the box, which asked, gets no 408 for anything but INVITE (RFC 4320 §4.2).
#[test]
fn a_silent_phone_ends_its_call_by_bye_only() {
    for (method, answers, known) in
        [("INFO", vec![], 1), ("INVITE", vec!["100 INVITE", "408 INVITE"], 1), ("BYE", vec![], 0)]
    {
        let mut bench = bench(1);
        let dialog = bench.establish(&invite("a"), "call-1");
        bench.send(box_address(0), dialog.backend_request(method, 1).build());
        bench.advance(millis(32_300));
        assert_eq!(heard(&mut bench, box_address(0)), answers, "{method}");
        assert_eq!(calls(&mut bench), known, "{method}");
    }
}

/// A box that is silent for 32 s is gone: the phone hangs up.
#[test]
fn a_silent_box_ends_its_call() {
    for method in ["INFO", "BYE"] {
        let mut bench = bench(1);
        let dialog = bench.establish(&invite("a"), "call-1");
        bench.send(client(), dialog.client_request(method, 2).build());
        bench.advance(millis(31_900));
        assert_eq!((heard(&mut bench, client()), calls(&mut bench)), (Vec::new(), 1));
        bench.advance(millis(200));
        assert_eq!((heard(&mut bench, client()), calls(&mut bench)), (vec![format!("481 {method}")], 0));
    }
}

/// And a request that only shares its Call-ID is none of its own.
#[test]
fn a_repeated_answer_makes_no_second_call() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    for _ in 0..3 {
        bench.answer(&request, &Answer::new(200));
    }
    assert_eq!((calls(&mut bench), counted(&mut bench, "calls_started")), (1, 1));
    bench.sent_to(client());
    bench.send(client(), Script::new("INFO").branch("early").build());
    let (_, info) = bench.one_to_a_box();
    bench.answer(&info, &Answer::new(481));
    assert_eq!(heard(&mut bench, client()), ["481 INFO"]);
    assert_eq!(calls(&mut bench), 1, "this INFO was outside of the call");
    assert_eq!(heard(&mut bench, box_address(0)), SILENCE);
}
