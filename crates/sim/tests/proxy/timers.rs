//! What happens by itself, to the tick: RFC 3261 §17's timers as the proxy drives them, and what is left of a transaction when it is
//! over.

use crate::steps::{
    SILENCE, assert_times, bench, boxes, call, client, counted, events, failed_over, first_box, heard, millis, seconds,
    snapshot,
};
use engine::{BackendId, DownCause, Event};
use sim::bench::invite;
use sim::script::parameter;
use sim::{Answer, Bench, Script, Text, box_address, one_farm};
use std::time::Duration;

#[test]
fn an_answered_call_keeps_its_place_for_32_s_and_no_longer() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    bench.advance(seconds(1));
    bench.answer(&request, &Answer::new(200));
    bench.advance(millis(31_900));
    assert_eq!(bench.balancer().transactions(), 1);
    bench.advance(millis(200));
    assert_eq!(bench.balancer().transactions(), 0);
}

/// The timer that a call armed while it rang is timer C, three minutes ahead: it must not hide those that come sooner.
#[test]
fn a_refusal_after_some_ringing_is_repeated_like_any_other() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    bench.advance(seconds(1));
    bench.answer(&request, &Answer::new(486));
    assert_eq!(heard(&mut bench, client()), ["180 INVITE", "486 INVITE"]);
    bench.advance(millis(600));
    assert_eq!(heard(&mut bench, client()), ["486 INVITE"]);
}

/// RFC 3261 §17.2.1: the last provisional answer, which is our own 100 until the box has said more.
#[test]
fn a_repeated_call_is_answered_by_the_last_provisional_answer() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.send(client(), invite("a").build());
    assert_eq!(heard(&mut bench, client()), SILENCE, "nothing was answered yet");
    bench.advance(millis(210));
    assert_eq!(heard(&mut bench, client()), ["100 INVITE"]);
    for code in [100, 180, 183] {
        if code > 100 {
            bench.answer(&request, &Answer::new(code));
            assert_eq!(heard(&mut bench, client()), [format!("{code} INVITE")]);
        }
        bench.send(client(), invite("a").build());
        assert_eq!(heard(&mut bench, client()), [format!("{code} INVITE")]);
    }
}

/// 1,507,328 µs, where timer G falls, are 184 ticks of 8,192 µs: nothing is rounded, and nothing is late.
#[test]
fn a_timer_that_falls_on_a_tick_fires_at_that_very_moment() {
    let mut bench = bench(1);
    bench.advance(Duration::from_micros(7_328));
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(486));
    bench.sent_to(client());
    bench.advance(millis(600));
    let repeated = bench.one_to(client());
    assert_eq!(bench.millis(&repeated), 507);
}

#[test]
fn transactions_wait_for_a_final_answer_until_they_have_one_or_time_out() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.send(client(), Script::new("MESSAGE").branch("m").call_id("m").build());
    assert_eq!(snapshot(&mut bench).unanswered, 2);
    bench.answer(&request, &Answer::new(180));
    assert_eq!(snapshot(&mut bench).unanswered, 2, "it rings");
    bench.answer(&request, &Answer::new(486));
    assert_eq!(snapshot(&mut bench).unanswered, 1);
    bench.advance(seconds(33));
    assert_eq!(snapshot(&mut bench).unanswered, 0, "nobody answers the MESSAGE any more");
}

#[test]
fn a_repeated_request_gets_the_latest_answer_again() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    for code in [180, 183, 486] {
        bench.answer(&request, &Answer::new(code));
        bench.send(client(), invite("a").build());
        let answer = format!("{code} INVITE");
        assert_eq!(heard(&mut bench, client()), [answer.clone(), answer]);
    }
    assert_eq!(heard(&mut bench, request.to), ["ACK"], "no copy of the INVITE");
    assert_eq!(counted(&mut bench, "retransmissions_received"), 3);
    // RFC 4320: another request in progress is answered by silence.
    let message = Script::new("MESSAGE").branch("m").call_id("m").build();
    for _ in 0..2 {
        bench.send(client(), &message);
    }
    assert_eq!(heard(&mut bench, request.to), ["MESSAGE"]);
    bench.assert_quiet();
}

/// RFC 3261 §8.2.6.2: 100 leaves To alone, every other answer of ours has a tag, the same in each copy.
#[test]
fn our_100_has_no_to_tag_and_our_408_has_one() {
    let mut bench = bench(1);
    call(&mut bench);
    bench.advance(seconds(34));
    let answers: Vec<Text> = bench.sent_to(client()).iter().map(|sent| Text::read(&sent.bytes)).collect();
    let tags = |code: u16| -> Vec<Option<String>> {
        let these = answers.iter().filter(|answer| answer.code() == Some(code));
        these.map(|answer| parameter(answer.header("To").unwrap_or_default(), "tag")).collect()
    };
    assert_eq!(tags(100), [None::<String>]);
    let of_408 = tags(408);
    assert_eq!(of_408.len(), 3, "at 32, 32.5 and 33.5 s");
    let first = of_408.first().cloned().flatten().expect("it has a tag");
    assert!(first.len() == 16 && first.bytes().all(|octet| octet.is_ascii_hexdigit()), "{first}");
    assert!(of_408.iter().all(|tag| tag.as_deref() == Some(first.as_str())), "{of_408:?}");
}

/// The first box refuses late, the second never answers: what goes up is the refusal, when the second is given up, and it is repeated
/// for as long as no ACK comes, though the first box is past all that by then.
#[test]
fn the_best_answer_outlives_the_branch_that_it_came_by() {
    let mut bench = bench(2);
    let (one, _) = failed_over(&mut bench);
    bench.answer(&one, &Answer::new(500));
    assert_eq!(heard(&mut bench, one.to), ["ACK"]);
    bench.advance(millis(36_400));
    let answers = bench.sent_to(client());
    assert!(answers.iter().all(|answer| crate::steps::name(answer) == "500 INVITE"), "no 408 for the silent box");
    assert_times(&bench, &answers, &[34_000, 34_500, 35_500, 37_500]);
}

#[test]
fn a_request_that_no_box_answered_at_all_is_a_failure_of_the_box() {
    for (answered, failures) in [(false, 1), (true, 0)] {
        let mut bench = bench(1);
        bench.send(client(), Script::new("MESSAGE").build());
        let (_, request) = bench.one_to_a_box();
        if answered {
            bench.answer(&request, &Answer::new(100));
        }
        bench.advance(millis(31_900));
        assert_eq!((first_box(&mut bench).failures, counted(&mut bench, "timed_out")), (0, 0));
        bench.advance(millis(200));
        assert_eq!(first_box(&mut bench).failures, failures, "answered by 100: {answered}");
        assert_eq!(counted(&mut bench, "timed_out"), 1);
        assert_eq!(heard(&mut bench, client()), SILENCE);
    }
}

#[test]
fn three_calls_that_are_overdue_set_a_box_aside_and_two_do_not() {
    for (number, state) in [(2, "up"), (3, "down")] {
        let mut bench = bench(2);
        let (mut calls, mut silent, mut sent_there) = (0, None, 0);
        while sent_there < number {
            bench.send(client(), invite(&format!("c{calls}")).call_id(&format!("c{calls}")).build());
            calls += 1;
            let (at, request) = bench.one_to_a_box();
            if *silent.get_or_insert(at) == at {
                sent_there += 1;
            } else {
                // The other box serves its calls.
                bench.answer(&request, &Answer::new(180));
            }
        }
        let silent = silent.unwrap_or_default();
        bench.advance(millis(1_990));
        assert_eq!(boxes(&mut bench)[silent].state, "up", "2 s are not over");
        bench.advance(millis(60));
        assert_eq!(boxes(&mut bench)[silent].state, state);
        let backend = BackendId::of("pbx", &format!("pbx{}", silent + 1), box_address(silent));
        let down = Event::BackendDown { backend, cause: DownCause::TimedOut };
        assert_eq!(events(&mut bench).contains(&down), state == "down");
    }
}

/// Where else should its calls go?
#[test]
fn the_only_box_is_not_set_aside_for_its_silence() {
    let mut bench = bench(1);
    for call in 0..3 {
        bench.send(client(), invite(&format!("c{call}")).call_id(&format!("c{call}")).build());
    }
    bench.advance(seconds(2) + millis(60));
    assert_eq!((first_box(&mut bench).state, first_box(&mut bench).failures), ("up", 3));
    assert!(events(&mut bench).is_empty());
    bench.advance(seconds(5));
    assert_eq!(counted(&mut bench, "passive_spared"), 1);
}

/// A registrar that says 100 and looks the user up lives, however long that takes.
#[test]
fn an_overdue_final_answer_is_no_failure_after_a_100() {
    let mut bench = bench(1);
    for user in ["u1", "u2", "u3"] {
        bench.send(client(), crate::steps::registering(user).build());
        let (_, request) = bench.one_to_a_box();
        bench.answer(&request, &Answer::new(100));
    }
    bench.advance(millis(4_100));
    let only = first_box(&mut bench);
    assert_eq!((only.state, only.failures), ("up", 0));
}

#[test]
fn the_time_to_the_first_answer_is_measured_and_no_later_one() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.advance(millis(30));
    bench.answer(&request, &Answer::new(180));
    assert_eq!(first_box(&mut bench).latency_us, 30_000);
    bench.advance(seconds(10));
    bench.answer(&request, &Answer::new(200));
    assert_eq!(first_box(&mut bench).latency_us, 30_000);
}

#[test]
fn answers_that_say_so_are_failures_of_the_box() {
    for (code, failures) in [(200, 0), (302, 0), (404, 0), (499, 0), (500, 1), (503, 1), (501, 0), (603, 0)] {
        let mut bench = bench(1);
        let (_, request) = call(&mut bench);
        bench.answer(&request, &Answer::new(code));
        assert_eq!(first_box(&mut bench).failures, failures, "{code}");
    }
}

/// RFC 3261 §17.2.1: an ACK has no answer, so that it opens no transaction and is never repeated.
#[test]
fn the_ack_of_a_2xx_passes_once() {
    let mut bench = bench(1);
    bench.establish(&invite("a"), "call-1");
    assert_eq!(bench.balancer().transactions(), 1, "the INVITE's");
    bench.advance(seconds(10));
    assert_eq!(heard(&mut bench, box_address(0)), SILENCE);
}

/// The NAT binding of a phone is used at least once in the interval; whoever needs none or asked for none gets none.
#[test]
fn phones_behind_nat_are_kept_reachable() {
    for (keepalive, contact, wanted) in [
        (Some(seconds(25)), "192.168.1.5:5060", 2),
        (Some(seconds(25)), "10.1.0.1:5060", 0),
        (None, "192.168.1.5:5060", 0),
    ] {
        let mut bench = Bench::new(one_farm(1, |farm| farm.keepalive = keepalive));
        let script = Script::new("REGISTER")
            .uri("sip:example.com")
            .to("<sip:bonnie@example.com>")
            .line(&format!("Contact: <sip:bonnie@{contact}>;expires=600"));
        bench.send(client(), script.build());
        let (_, request) = bench.one_to_a_box();
        let seen = Text::read(&request.bytes).header("Contact").unwrap_or_default().to_owned();
        bench.answer(&request, &Answer::new(200).line(&format!("Contact: {seen}")));
        assert_eq!(bench.one_to_client().code(), Some(200));
        bench.advance(seconds(50));
        let sent = bench.sent_to(client());
        assert_eq!(sent.len(), wanted, "{keepalive:?} {contact}");
        assert!(sent.iter().all(|datagram| *datagram.bytes == *b"\r\n\r\n"));
        assert!(sent.iter().zip([25_000, 50_000]).all(|(datagram, latest)| bench.millis(datagram) <= latest));
    }
}
