//! The proxy checklist, part two: responses, timers, CANCEL and the stateless mode (RFC 3261 §16.7 to §16.11, §17).
//! Each test is named after its item.

use engine::{Persistence, Settings};
use sim::bench::invite;
use sim::settings::algorithm;
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm};
use std::time::Duration;

fn bench(boxes: usize) -> Bench {
    Bench::new(one_farm(boxes, |_| ()))
}

fn stateless(boxes: usize) -> Settings {
    one_farm(boxes, |farm| {
        farm.stateless = true;
        for service in &mut farm.services {
            service.algorithm = algorithm("hash-call-id");
            service.persistence = Persistence::None;
        }
    })
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The codes that the client got since it was last asked, in order.
fn codes_at_client(bench: &mut Bench) -> Vec<u16> {
    bench.sent_to(Bench::client_address()).iter().filter_map(|datagram| Text::read(&datagram.bytes).code()).collect()
}

/// The methods that a box got since it was last asked, in order.
fn methods_at(bench: &mut Bench, index: usize) -> Vec<String> {
    let sent = bench.sent_to(box_address(index));
    sent.iter().map(|datagram| Text::read(&datagram.bytes).method().to_owned()).collect()
}

/// Sends an INVITE and takes it out at its box.
fn call(bench: &mut Bench) -> (usize, Datagram) {
    bench.send(Bench::client_address(), invite("a").build());
    bench.one_to_a_box()
}

/// An INVITE that the first box does not answer and the second has got.
fn failed_over(bench: &mut Bench) -> (Datagram, Datagram) {
    let (first, one) = call(bench);
    bench.advance(millis(2_100));
    assert!(methods_at(bench, first).iter().all(|method| method == "INVITE"), "only retransmissions");
    let (second, two) = bench.one_to_a_box();
    assert_ne!(first, second);
    codes_at_client(bench);
    (one, two)
}

/// Timers fire at their time or, by the grain of the timer wheel, a little later; never earlier.
#[track_caller]
fn assert_times(bench: &Bench, sent: &[Datagram], wanted: &[u64]) {
    let times: Vec<u64> = sent.iter().map(|datagram| bench.millis(datagram)).collect();
    let close = times.len() == wanted.len()
        && times.iter().zip(wanted).all(|(time, wanted)| time >= wanted && *time <= wanted + 100);
    assert!(close, "at {times:?}, not at {wanted:?} ms");
}

#[test]
fn item_14_timer_c_cancels_and_provisional_answers_reset_it() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    bench.advance(seconds(170));
    bench.answer(&request, &Answer::new(183));
    bench.advance(seconds(178));
    assert_eq!(methods_at(&mut bench, 0), Vec::<String>::new(), "183 has started timer C anew");
    bench.advance(seconds(12));
    let cancels = bench.sent_to(box_address(0));
    let first = cancels.first().map(|datagram| Text::read(&datagram.bytes));
    assert_eq!(first.as_ref().map(Text::method), Some("CANCEL"));
    assert_eq!(first.map(|cancel| cancel.branch()), Some(Text::read(&request.bytes).branch()));
    assert!(cancels.first().is_some_and(|cancel| bench.millis(cancel) > 350_000), "more than three minutes");
    codes_at_client(&mut bench);
    bench.answer(&request, &Answer::new(487));
    let codes = codes_at_client(&mut bench);
    assert!(matches!(codes[..], [487 | 408]), "{codes:?}");
}

#[test]
fn item_14_a_100_does_not_reset_timer_c() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    bench.advance(seconds(170));
    bench.answer(&request, &Answer::new(100));
    bench.advance(seconds(20));
    assert!(methods_at(&mut bench, 0).contains(&"CANCEL".to_owned()));
}

#[test]
fn item_14_timer_c_ends_a_branch_that_stays_silent() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    bench.advance(seconds(181 + 32 + 5));
    let codes = codes_at_client(&mut bench);
    assert_eq!(codes.first().copied(), Some(180));
    assert!(codes.iter().skip(1).all(|code| *code == 408) && codes.len() > 1, "{codes:?}");
}

#[test]
fn item_15_provisional_answers_go_up_but_100_does_not() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(100));
    bench.assert_quiet();
    for code in [180, 183, 199, 200, 200] {
        bench.answer(&request, &Answer::new(code));
        assert_eq!(codes_at_client(&mut bench), [code], "at once");
    }
}

#[test]
fn item_15_every_2xx_of_every_branch_goes_up_at_once() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    bench.answer(&two, &Answer::new(180).tag("second"));
    assert_eq!(codes_at_client(&mut bench), [180]);
    bench.answer(&one, &Answer::new(200).tag("first"));
    let answer = bench.one_to_client();
    assert_eq!((answer.code(), answer.header("To")), (Some(200), Some("<sip:clyde@example.com>;tag=first")));
    let cancel = Text::read(&bench.one_to(two.to).bytes);
    assert_eq!((cancel.method(), cancel.branch()), ("CANCEL", Text::read(&two.bytes).branch()));
    // The second box had answered before the CANCEL came.
    bench.answer(&two, &Answer::new(200).tag("second"));
    let answer = bench.one_to_client();
    assert_eq!((answer.code(), answer.header("To")), (Some(200), Some("<sip:clyde@example.com>;tag=second")));
}

#[test]
fn item_16_a_6xx_wins_over_every_other_refusal() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    bench.answer(&two, &Answer::new(603));
    bench.sent_to(two.to);
    bench.answer(&one, &Answer::new(404));
    assert_eq!(codes_at_client(&mut bench), [603]);
}

#[test]
fn item_16_the_lowest_class_wins() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    bench.answer(&one, &Answer::new(500));
    assert_eq!(codes_at_client(&mut bench), Vec::<u16>::new(), "the other branch is still pending");
    bench.answer(&two, &Answer::new(302).line("Contact: <sip:clyde@203.0.113.1>"));
    assert_eq!(codes_at_client(&mut bench), [302]);
}

#[test]
fn item_16_a_503_of_the_boxes_becomes_500() {
    let mut bench = bench(2);
    let refusal = Answer::new(503).line("Retry-After: 120");
    let (_, request) = call(&mut bench);
    bench.answer(&request, &refusal);
    assert_eq!(bench.sent_to(request.to).len(), 1, "the ACK");
    let (_, request) = bench.one_to_a_box();
    bench.answer(&request, &refusal);
    let answer = bench.one_to_client();
    assert_eq!((answer.code(), answer.header("Retry-After")), (Some(500), None));
}

#[test]
fn item_16_no_answer_at_all_is_408() {
    let mut bench = bench(1);
    call(&mut bench);
    bench.advance(seconds(33));
    let codes = codes_at_client(&mut bench);
    assert!(codes.iter().skip(1).all(|code| *code == 408) && codes.len() > 1, "{codes:?}");
    assert_eq!(codes.first().copied(), Some(100));
}

#[test]
fn item_17_the_challenges_of_all_branches_are_collected() {
    let mut bench = bench(2);
    let (one, two) = failed_over(&mut bench);
    let proxy = "Proxy-Authenticate: Digest realm=\"one\", nonce=\"n1\"";
    let server = "WWW-Authenticate: Digest realm=\"two\", nonce=\"n2\"";
    bench.answer(&one, &Answer::new(407).line(proxy));
    assert_eq!(codes_at_client(&mut bench), Vec::<u16>::new());
    bench.answer(&two, &Answer::new(401).line(server));
    let answer = bench.one_to_client();
    assert!(matches!(answer.code(), Some(401 | 407)));
    assert!(answer.header("Proxy-Authenticate").is_some_and(|value| value.contains("realm=\"one\"")));
    assert!(answer.header("WWW-Authenticate").is_some_and(|value| value.contains("realm=\"two\"")));
}

#[test]
fn item_18_tags_and_received_stay_and_a_response_needs_a_via() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    let before = Text::read(&request.bytes);
    let sent = Answer::new(180).tag("9f86d").line("X-Other: 1").to(&request.bytes);
    bench.send(request.to, &sent);
    let answer = bench.one_to_client();
    let sent = Text::read(&sent);
    assert_eq!(answer.without(&["Via"]), sent.without(&["Via"]));
    assert_eq!(answer.start, sent.start);
    assert_eq!(answer.values("Via"), before.values("Via").split_off(1), "only our Via is gone");
    assert!(answer.header("Via").is_some_and(|via| via.contains("received=10.1.0.1")));
    // Ours is the only Via: nobody is left to send it to.
    let ours = before.values("Via").into_iter().next().unwrap_or_default();
    let orphan = Script::new("INVITE").via(&ours).build();
    bench.send(request.to, Answer::new(180).to(&orphan));
    bench.assert_quiet();
}

#[test]
fn item_19_an_unreachable_box_is_a_503_and_the_next_is_tried_at_once() {
    let mut bench = bench(2);
    let (first, request) = call(&mut bench);
    bench.return_undelivered(&request);
    let (second, again) = bench.one_to_a_box();
    assert_ne!(first, second);
    assert_eq!(again.at, request.at, "no timer was waited for");
    bench.answer(&again, &Answer::new(200));
    assert_eq!(codes_at_client(&mut bench), [200]);
}

#[test]
fn item_19_a_forged_report_is_not_believed() {
    let mut bench = bench(2);
    let (_, request) = call(&mut bench);
    let text = String::from_utf8_lossy(&request.bytes).into_owned();
    let branch = Text::read(&request.bytes).branch();
    let forged = text.replace(&branch, "z9hG4bKguessed");
    let datagram = Datagram { bytes: forged.into_bytes().into(), ..request };
    bench.return_undelivered(&datagram);
    bench.assert_quiet();
}

#[test]
fn item_20_cancel_is_answered_at_once_and_passed_on_after_a_provisional_answer() {
    let mut bench = bench(2);
    let (index, request) = call(&mut bench);
    bench.send(Bench::client_address(), Script::new("CANCEL").branch("a").build());
    assert_eq!(codes_at_client(&mut bench).first().copied(), Some(200));
    bench.assert_quiet();
    bench.answer(&request, &Answer::new(100));
    assert_eq!(methods_at(&mut bench, index), ["CANCEL"]);
    bench.answer(&request, &Answer::new(487));
    assert_eq!(codes_at_client(&mut bench), [487]);
    assert_eq!(methods_at(&mut bench, index), ["ACK"]);
    bench.advance(seconds(3));
    assert_eq!(methods_at(&mut bench, 1 - index), Vec::<String>::new(), "no new branch after a CANCEL");
}

#[test]
fn item_20_no_branch_starts_after_a_cancel() {
    let mut bench = bench(2);
    let (index, _) = call(&mut bench);
    bench.send(Bench::client_address(), Script::new("CANCEL").branch("a").build());
    bench.advance(seconds(33));
    assert_eq!(methods_at(&mut bench, 1 - index), Vec::<String>::new());
    let finals: Vec<u16> = codes_at_client(&mut bench).into_iter().filter(|code| *code > 200).collect();
    assert!(!finals.is_empty() && finals.iter().all(|code| matches!(code, 408 | 487)), "{finals:?}");
}

#[test]
fn item_20_an_unmatched_cancel_is_refused() {
    let mut bench = bench(2);
    bench.send(Bench::client_address(), Script::new("CANCEL").branch("nothing").build());
    assert_eq!(codes_at_client(&mut bench), [481]);
    bench.assert_quiet();
}

#[test]
fn item_21_stateless_retransmissions_keep_target_and_branch() {
    let mut bench = Bench::new(stateless(3));
    for number in 0..20 {
        let name = format!("b{number}");
        let request = invite(&name).call_id(&name);
        bench.send(Bench::client_address(), request.build());
        let (first, one) = bench.one_to_a_box();
        bench.send(Bench::client_address(), request.build());
        let (second, two) = bench.one_to_a_box();
        assert_eq!((first, &one.bytes), (second, &two.bytes), "the same datagram to the same box");
        bench.send(Bench::client_address(), Script::new("CANCEL").branch(&name).call_id(&name).build());
        let (third, cancel) = bench.one_to_a_box();
        let cancel = Text::read(&cancel.bytes);
        assert_eq!((third, cancel.method()), (first, "CANCEL"));
        assert_eq!(cancel.branch(), Text::read(&one.bytes).branch());
    }
    bench.advance(seconds(5));
    bench.assert_quiet();
    assert_eq!(bench.balancer().transactions(), 0);
}

#[test]
fn item_21_stateless_responses_find_their_way() {
    let mut bench = Bench::new(stateless(2));
    let (_, request) = call(&mut bench);
    for code in [180, 200, 200] {
        bench.answer(&request, &Answer::new(code));
        assert_eq!(codes_at_client(&mut bench), [code]);
    }
}

#[test]
fn item_22_invite_client_timers_a_and_b() {
    let mut bench = bench(1);
    let (_, first) = call(&mut bench);
    bench.advance(millis(190));
    bench.assert_quiet();
    bench.advance(millis(50));
    let trying = bench.one_to(Bench::client_address());
    assert_eq!(Text::read(&trying.bytes).code(), Some(100));
    assert_times(&bench, &[trying], &[200]);
    bench.advance(millis(31_000));
    let mut sent = bench.sent_to(box_address(0));
    assert!(sent.iter().all(|datagram| datagram.bytes == first.bytes), "octet for octet");
    bench.advance(millis(400));
    sent.extend(bench.sent_to(box_address(0)));
    assert_times(&bench, &sent, &[500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    bench.assert_quiet();
    bench.advance(millis(600));
    let timeout = bench.one_to(Bench::client_address());
    assert_eq!(Text::read(&timeout.bytes).code(), Some(408));
    assert_times(&bench, &[timeout], &[32_000]);
}

#[test]
fn item_22_a_provisional_answer_stops_timer_a() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    bench.advance(seconds(60));
    assert_eq!(methods_at(&mut bench, 0), Vec::<String>::new());
    assert_eq!(codes_at_client(&mut bench), [180]);
}

#[test]
fn item_22_invite_server_timers_g_h_and_i() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(486));
    assert_eq!(methods_at(&mut bench, 0), ["ACK"], "at once and hop by hop");
    assert_eq!(codes_at_client(&mut bench), [486]);
    bench.advance(seconds(31));
    let sent = bench.sent_to(Bench::client_address());
    assert_times(&bench, &sent, &[500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500]);
    bench.advance(seconds(20));
    assert!(codes_at_client(&mut bench).len() <= 1, "timer H ended it at 32 s");
}

#[test]
fn item_22_the_ack_of_a_refusal_ends_its_retransmission() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(486));
    assert_eq!(codes_at_client(&mut bench), [486]);
    methods_at(&mut bench, 0);
    bench.send(Bench::client_address(), Script::new("ACK").branch("a").to("<sip:clyde@example.com>;tag=tt").build());
    bench.advance(seconds(10));
    bench.assert_quiet();
    bench.answer(&request, &Answer::new(486));
    assert_eq!(methods_at(&mut bench, 0), ["ACK"], "timer D: a repeated refusal is acknowledged again");
    bench.assert_quiet();
}

/// RFC 3261 §8.2.7: who refuses without keeping state ignores the ACK. No box may get one out of nothing.
#[test]
fn item_22_the_ack_of_a_refusal_of_ours_goes_no_further() {
    let mut bench = bench(2);
    for (name, line) in [("breadth", "Max-Breadth: 0"), ("extension", "Proxy-Require: nothingSupportsThis")] {
        bench.send(Bench::client_address(), invite(name).call_id(name).line(line).build());
        let refusal = bench.one_to_client();
        assert!(matches!(refusal.code(), Some(420 | 440)), "{}", refusal.start);
        let to = refusal.header("To").unwrap_or_default();
        bench.send(Bench::client_address(), Script::new("ACK").branch(name).call_id(name).to(to).build());
        bench.assert_quiet();
    }
}

#[test]
fn item_22_other_client_timers_e_and_f() {
    let mut bench = bench(1);
    bench.send(Bench::client_address(), Script::new("MESSAGE").branch("a").build());
    bench.one_to_a_box();
    bench.advance(seconds(40));
    let sent = bench.sent_to(box_address(0));
    assert_times(&bench, &sent, &[500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
}

#[test]
fn item_22_other_server_repeats_its_answer_for_timer_j() {
    let mut bench = bench(1);
    let request = Script::new("MESSAGE").branch("a").build();
    bench.send(Bench::client_address(), &request);
    let (_, received) = bench.one_to_a_box();
    bench.send(Bench::client_address(), &request);
    bench.assert_quiet();
    bench.answer(&received, &Answer::new(200));
    assert_eq!(codes_at_client(&mut bench), [200]);
    bench.advance(seconds(3));
    bench.send(Bench::client_address(), &request);
    let repeated = bench.rest();
    let codes: Vec<Option<u16>> = repeated.iter().map(|datagram| Text::read(&datagram.bytes).code()).collect();
    // Either the answer is repeated, or the retransmission goes on by its old branch and the box repeats it.
    let passed_on = repeated.iter().all(|datagram| datagram.to == received.to && datagram.bytes == received.bytes);
    assert!(codes == [Some(200)] || (repeated.len() == 1 && passed_on), "{codes:?}");
}

#[test]
fn item_22_all_transactions_end() {
    let mut bench = bench(2);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(200));
    for number in 0..50 {
        let request = Script::new("MESSAGE").branch(&format!("m{number}")).call_id(&format!("m{number}"));
        bench.send(Bench::client_address(), request.build());
    }
    assert!(bench.balancer().transactions() > 0);
    bench.advance(seconds(120));
    assert_eq!(bench.balancer().transactions(), 0);
}
