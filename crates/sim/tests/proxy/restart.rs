//! Answers to what a process before this one had sent (RFC 3261 §16.11): their way back stands in their Via.

use crate::steps::{SILENCE, bench, calls, client, counted, heard, millis, seconds};
use sim::bench::invite;
use sim::{Answer, Bench, Datagram, Script};
use std::time::Duration;

/// A request that is at its box when the unit is killed. The new process has run for this long.
fn restarted(method: &str, since: Duration) -> (Bench, Datagram) {
    let mut bench = bench(1);
    let script = if method == "INVITE" { invite("a") } else { Script::new(method) };
    bench.send(client(), script.build());
    let (_, request) = bench.one_to_a_box();
    bench.restart(millis(300));
    bench.advance(since);
    (bench, request)
}

/// RFC 3261 §17: nobody waits for them any longer than 64 × T1, to the millisecond.
#[test]
fn answers_to_requests_of_the_process_before_pass_for_32_s() {
    for method in ["MESSAGE", "REGISTER", "SUBSCRIBE"] {
        for (code, since) in [(200, seconds(0)), (404, seconds(32))] {
            let (mut bench, request) = restarted(method, since);
            bench.answer(&request, &Answer::new(code));
            assert_eq!(heard(&mut bench, client()), [format!("{code} {method}")]);
            assert_eq!((counted(&mut bench, "forwarded_by_token"), calls(&mut bench)), (1, 0));
        }
        let (mut bench, request) = restarted(method, millis(32_001));
        bench.answer(&request, &Answer::new(200));
        assert_eq!(heard(&mut bench, client()), SILENCE);
        assert_eq!((counted(&mut bench, "forwarded_by_token"), counted(&mut bench, "stray_responses")), (0, 1));
    }
}

/// A call may ring for minutes. It is a call once it is answered, and the same one however often the answer is repeated.
#[test]
fn answers_to_calls_of_the_process_before_always_pass() {
    for since in [seconds(1), seconds(100)] {
        let (mut bench, request) = restarted("INVITE", since);
        for (code, known) in [(180, 0), (200, 1), (200, 1)] {
            bench.answer(&request, &Answer::new(code));
            assert_eq!(heard(&mut bench, client()), [format!("{code} INVITE")]);
            assert_eq!(calls(&mut bench), known, "{code}");
        }
        assert_eq!((counted(&mut bench, "calls_started"), counted(&mut bench, "stray_responses")), (1, 0));
    }
    let (mut bench, request) = restarted("INVITE", seconds(100));
    bench.answer(&request, &Answer::new(486));
    assert_eq!((heard(&mut bench, client()), calls(&mut bench)), (vec!["486 INVITE".to_owned()], 0));
}
