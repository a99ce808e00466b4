//! Every bound of the unit at its edge, and what strangers can make it send.

use crate::steps::{
    SILENCE, bench, call, calls, client, counted, events, heard, millis, name, register, registering, snapshot,
};
use engine::{Event, Limits, Maintenance};
use sim::bench::invite;
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm, phone_address};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// A farm of one box whose unit has these limits.
fn limited(limit: impl FnOnce(&mut Limits)) -> Bench {
    let mut settings = one_farm(1, |_| ());
    limit(&mut settings.limits);
    Bench::new(settings)
}

/// A text under the same branch as all others, so that one shard gets them all.
fn text(bench: &mut Bench, call_id: &str) {
    bench.send(client(), Script::new("MESSAGE").call_id(call_id).build());
}

#[test]
fn the_last_transaction_that_fits_passes_and_the_next_is_refused() {
    let mut bench = limited(|limits| limits.transactions = 2);
    let told = Event::LimitReached { limit: "transactions" };
    for call_id in ["one", "two"] {
        text(&mut bench, call_id);
        bench.one_to_a_box();
    }
    assert_eq!((counted(&mut bench, "transaction_limit"), events(&mut bench)), (0, Vec::new()));
    for (wait, call_id, tellings) in
        [(0, "three", 1), (0, "four", 1), (999, "five", 1), (1, "six", 2), (999, "seven", 2)]
    {
        bench.advance(millis(wait));
        heard(&mut bench, box_address(0));
        text(&mut bench, call_id);
        let refusal = bench.one_to_client();
        assert_eq!((refusal.code(), refusal.header("Retry-After")), (Some(503), None));
        assert_eq!(events(&mut bench), vec![told.clone(); tellings], "{call_id}: once a second at most");
    }
    assert_eq!((counted(&mut bench, "transaction_limit"), bench.balancer().transactions()), (5, 2));
    // What takes no place passes: OPTIONS to the farm itself.
    bench.send(client(), Script::new("OPTIONS").uri("sip:10.0.0.1:5060").branch("b").build());
    assert_eq!(heard(&mut bench, client()), ["200 OPTIONS"]);
    bench.advance(millis(32_000));
    bench.rest();
    text(&mut bench, "eight");
    bench.one_to_a_box();
}

/// Calls and registrations share the rate of a box. What else comes does not count, and passes when the rate is reached.
#[test]
fn the_rate_of_a_box_is_one_of_calls_and_registrations() {
    for counts in ["INVITE", "REGISTER"] {
        let mut bench = Bench::new(one_farm(1, |farm| {
            for backend in &mut farm.backends {
                backend.max_rate = 1;
            }
        }));
        let requests = [
            ("MESSAGE", true),
            ("OPTIONS", true),
            (counts, true),
            ("INVITE", false),
            ("REGISTER", false),
            ("MESSAGE", true),
            ("OPTIONS", true),
        ];
        for (number, (method, passes)) in requests.into_iter().enumerate() {
            bench.send(client(), Script::new(method).call_id(&format!("call-{number}")).build());
            let (passed, refused) = (heard(&mut bench, box_address(0)), heard(&mut bench, client()));
            let refusal = format!("503 {method}");
            let wanted = if passes { [vec![method.to_owned()], vec![]] } else { [vec![], vec![refusal]] };
            assert_eq!([passed, refused], wanted, "{method} as number {number}, where {counts} took the place");
        }
    }
}

/// They pass all the same; they are only not counted, nor found by Replaces.
#[test]
fn calls_beyond_the_limit_of_dialogs_are_not_remembered() {
    let mut bench = limited(|limits| limits.dialogs = 1);
    for (call_id, beyond) in [("one", 0), ("two", 1)] {
        let dialog = bench.establish(&invite(call_id), call_id);
        assert_eq!((calls(&mut bench), counted(&mut bench, "dialog_limit")), (1, beyond));
        assert_eq!(counted(&mut bench, "calls_started"), 1);
        bench.send(client(), dialog.client_request("INFO", 2).build());
        assert_eq!(bench.one_to_a_box().0, dialog.backend);
    }
    assert_eq!(events(&mut bench), [Event::LimitReached { limit: "dialogs" }]);
}

#[test]
fn registrations_beyond_the_limit_of_bindings_are_not_remembered() {
    let mut bench = limited(|limits| limits.bindings = 1);
    for (user, beyond) in [("bonnie", 0), ("clyde", 1)] {
        register(&mut bench, user);
        assert_eq!((snapshot(&mut bench).registrations, counted(&mut bench, "binding_limit")), (1, beyond));
    }
    assert_eq!(events(&mut bench), [Event::LimitReached { limit: "bindings" }]);
}

#[test]
fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
    let of_length = |length: usize| {
        let script = |body: usize| Script::new("MESSAGE").body("text/plain", &vec![b'x'; body]).build();
        // Both bodies have three digits in their Content-Length.
        let message = script(100 + length - script(100).len());
        assert_eq!(message.len(), length);
        message
    };
    let mut bench = limited(|limits| limits.message_bytes = 1_000);
    bench.send(client(), of_length(1_001));
    assert_eq!(heard(&mut bench, client()), ["513 MESSAGE"]);
    assert_eq!(counted(&mut bench, "refused"), 1);
    bench.send(client(), of_length(1_000));
    assert_eq!(heard(&mut bench, box_address(0)), ["MESSAGE"]);
}

#[test]
fn a_message_may_have_as_many_header_lines_as_the_limit_and_no_more() {
    let mut bench = limited(|limits| limits.headers = 9);
    // There are seven already.
    let script = Script::new("MESSAGE").line("X-One: 1").line("X-Two: 2");
    bench.send(client(), script.clone().line("X-Three: 3").build());
    assert_eq!(heard(&mut bench, client()), ["513 MESSAGE"]);
    bench.send(client(), script.build());
    assert_eq!(heard(&mut bench, box_address(0)), ["MESSAGE"]);
}

/// Fifty of them, each under a branch of its own.
fn fifty(bench: &mut Bench, from: SocketAddr, script: &Script) -> Vec<String> {
    for number in 0..50 {
        bench.send(from, script.clone().branch(&format!("f{number}")).build());
    }
    heard(bench, from)
}

/// 20 refusals a second for each address, and as many answers as wanted otherwise.
#[test]
fn strangers_get_few_refusals_and_boxes_as_many_as_they_ask_for() {
    let mut bench = bench(1);
    let hopeless = Script::new("OPTIONS").max_forwards(Some(0));
    let refusals = fifty(&mut bench, client(), &hopeless);
    assert_eq!(refusals, vec!["483 OPTIONS"; 20]);
    assert_eq!((counted(&mut bench, "answers_withheld"), counted(&mut bench, "hops_exceeded")), (30, 50));
    assert_eq!(fifty(&mut bench, phone_address(1), &hopeless).len(), 20, "another address has its own measure");
    assert_eq!(fifty(&mut bench, box_address(0), &hopeless), vec!["483 OPTIONS"; 50]);
    let alive = Script::new("OPTIONS").uri("sip:10.0.0.1:5060");
    assert_eq!(fifty(&mut bench, phone_address(2), &alive), vec!["200 OPTIONS"; 50], "200 is no refusal");
    bench.advance(millis(1_000));
    assert_eq!(fifty(&mut bench, client(), &hopeless).len(), 20);
}

/// The length of a request that names so many extensions, and the answer to it.
fn refused(bench: &mut Bench, from: SocketAddr, extensions: usize) -> (usize, Vec<Datagram>) {
    let names = vec!["a"; extensions].join(",");
    let request = Script::new("OPTIONS").line(&format!("Proxy-Require: {names}")).build();
    bench.send(from, &request);
    (request.len(), bench.sent_to(from))
}

/// A stranger may have forged its address: what goes there is 100 octets longer than what came, at most. Each extension comes back
/// with one octet more, a space behind the comma.
#[test]
fn an_answer_to_a_stranger_is_hardly_longer_than_its_request() {
    let mut bench = bench(1);
    let (asked, answers) = refused(&mut bench, client(), 1);
    let answered = answers.first().expect("it is short").bytes.len();
    let longest = 1 + asked + 100 - answered;
    let (asked, answers) = refused(&mut bench, client(), longest);
    let lengths: Vec<usize> = answers.iter().map(|answer| answer.bytes.len()).collect();
    assert_eq!((lengths, counted(&mut bench, "answers_withheld")), (vec![asked + 100], 0));
    let (_, answers) = refused(&mut bench, client(), longest + 1);
    assert_eq!((answers.len(), counted(&mut bench, "answers_withheld")), (0, 1));
    let (_, answers) = refused(&mut bench, box_address(0), longest + 1);
    assert_eq!(answers.iter().map(name).collect::<Vec<String>>(), ["420 OPTIONS"], "a box is no stranger");
}

/// RFC 3261 §20.33. A trunk that obeyed it would stop all its calls, so that only phones that come back by themselves are told; from 5
/// to 14 s, or all of them would come back together.
#[test]
fn who_registers_in_vain_is_told_when_to_come_again() {
    let mut bench = Bench::new(one_farm(1, |farm| {
        for backend in &mut farm.backends {
            backend.maintenance = Maintenance::Cut;
        }
    }));
    let mut waits = BTreeSet::new();
    for number in 0..40 {
        let method = if number % 2 == 0 { "REGISTER" } else { "SUBSCRIBE" };
        let source = phone_address(number);
        bench.send(source, Script::new(method).branch(&format!("b{number}")).build());
        let answer = Text::read(&bench.one_to(source).bytes);
        assert_eq!(answer.code(), Some(503));
        let wait: u32 = answer.header("Retry-After").and_then(|value| value.parse().ok()).expect("a number of seconds");
        waits.insert(wait);
    }
    assert!(waits.iter().all(|wait| (5..=14).contains(wait)) && waits.len() >= 6, "{waits:?}");
    assert_eq!(counted(&mut bench, "no_backend"), 40);
    for method in ["INVITE", "MESSAGE", "OPTIONS"] {
        bench.send(client(), Script::new(method).build());
        let answer = bench.one_to_client();
        assert_eq!((answer.code(), answer.header("Retry-After")), (Some(503), None), "{method}");
    }
}

#[test]
fn no_service_and_no_backend_are_counted_apart() {
    let mut bench = Bench::new(one_farm(1, |farm| {
        for service in &mut farm.services {
            service.rule.method = vec!["REGISTER".to_owned()];
        }
    }));
    call_nobody(&mut bench);
    assert_eq!((counted(&mut bench, "no_service"), counted(&mut bench, "no_backend")), (1, 0));
    bench.send(client(), registering("bonnie").max_forwards(Some(0)).build());
    assert_eq!(heard(&mut bench, client()), ["483 REGISTER"]);
    assert_eq!((counted(&mut bench, "no_service"), counted(&mut bench, "no_backend")), (1, 0));
}

fn call_nobody(bench: &mut Bench) {
    bench.send(client(), invite("a").build());
    assert_eq!(heard(bench, client()), ["404 INVITE"]);
}

/// RFC 8489 §14.2: the address that the request came from, 10.1.0.1:5060, masked by the cookie.
#[test]
fn a_stun_request_is_answered_with_the_address_of_its_sender() {
    let mut bench = bench(1);
    let id: [u8; 16] = [0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    bench.send(client(), [&[0, 1, 0, 0][..], &id].concat());
    let mapped: [u8; 12] = [0, 0x20, 0, 8, 0, 1, 0x32, 0xd6, 0x2b, 0x13, 0xa4, 0x43];
    assert_eq!(bench.one_to(client()).bytes[..], [&[1, 1, 0, 12][..], &id, &mapped].concat());
    // An indication (RFC 8489 §6.3.2) wants no answer.
    bench.send(client(), [&[0, 0x11, 0, 0][..], &id].concat());
    for silent in [&b"\r\n\r\n"[..], b"\0\0\0\0", b" ", b""] {
        bench.send(client(), silent);
    }
    bench.assert_quiet();
    assert_eq!((counted(&mut bench, "keep_alives"), counted(&mut bench, "refused")), (6, 0));
    bench.send(client(), b"x");
    assert_eq!((counted(&mut bench, "keep_alives"), counted(&mut bench, "refused")), (6, 1));
    assert_eq!(heard(&mut bench, client()), SILENCE);
}

/// A request whose answer would go to everybody is not even forwarded.
#[test]
fn who_cannot_be_answered_is_not_served() {
    let mut bench = bench(1);
    let everybody: SocketAddr = "255.255.255.255:5060".parse().expect("an address");
    for (number, script) in (1..).zip([invite("a"), invite("b").max_forwards(Some(0))]) {
        bench.send(everybody, script.build());
        bench.assert_quiet();
        assert_eq!(counted(&mut bench, "unsafe_destination"), number);
    }
    assert_eq!(bench.balancer().transactions(), 0);
}

/// What arrives is counted as what it is.
#[test]
fn messages_are_counted_by_kind() {
    let mut bench = bench(1);
    let (_, request) = call(&mut bench);
    bench.answer(&request, &Answer::new(180));
    bench.answer(&request, &Answer::new(486));
    let ack = Script::new("ACK").branch("a").to("<sip:clyde@example.com>;tag=tt").build();
    bench.send(client(), ack);
    let counts = ["requests", "responses", "requests_forwarded", "responses_forwarded", "retransmissions"];
    assert_eq!(counts.map(|name| counted(&mut bench, name)), [2, 2, 1, 2, 0]);
    assert_eq!(heard(&mut bench, client()), ["180 INVITE", "486 INVITE"]);
    bench.advance(millis(600));
    assert_eq!(counted(&mut bench, "retransmissions"), 0);
}
