//! What the network reports as undeliverable (RFC 3261 §16.9): believed only where it quotes what was sent, and still waited for.

use crate::steps::{SILENCE, bench, call, client, counted, first_box, heard, millis, seconds, within};
use crate::streams::{farm, of_answer, of_phone};
use crate::unit::{Sent, Unit};
use engine::{Guardian, Input, Transport};
use sim::bench::invite;
use sim::{Answer, Datagram, Script, box_address};
use std::sync::Arc;

/// The same datagram with other octets at one place.
fn altered(datagram: &Datagram, from: &str, to: &str) -> Datagram {
    let text = String::from_utf8_lossy(&datagram.bytes).into_owned();
    assert!(text.contains(from), "{text}");
    Datagram { bytes: text.replacen(from, to, 1).into_bytes().into(), ..datagram.clone() }
}

fn quoted(datagram: &Datagram, octets: usize) -> Datagram {
    let part = datagram.bytes.get(..octets).expect("requests that leave are longer than their quotations here");
    Datagram { bytes: part.into(), ..datagram.clone() }
}

/// Everything is as it was sent but one thing.
#[test]
fn a_report_must_fit_in_every_respect() {
    let mut bench = bench(2);
    let (_, request) = call(&mut bench);
    let elsewhere = Datagram { to: box_address(9), ..request.clone() };
    for report in [elsewhere, altered(&request, "Max-Forwards: 69", "Max-Forwards: 68"), quoted(&request, 60)] {
        bench.return_undelivered(&report);
        assert_eq!(counted(&mut bench, "unreachable"), 0);
        bench.assert_quiet();
    }
    bench.return_undelivered(&quoted(&request, 300));
    assert_eq!(counted(&mut bench, "unreachable"), 1);
    let (_, again) = bench.one_to_a_box();
    assert_eq!(again.at, request.at, "a quotation that was cut off is as good, and nothing is waited for");
}

#[test]
fn who_has_answered_is_not_unreachable() {
    for code in [100, 180, 486] {
        let mut bench = bench(2);
        let (_, request) = call(&mut bench);
        bench.answer(&request, &Answer::new(code));
        bench.rest();
        bench.return_undelivered(&request);
        bench.assert_quiet();
        assert_eq!((counted(&mut bench, "unreachable"), first_box(&mut bench).state), (0, "up"), "{code}");
    }
}

/// RFC 3261 §16.7 step 6: a transport failure is a 503, and a lone 503 goes up as 500.
#[test]
fn nowhere_else_to_go_is_500_at_once() {
    for method in ["INVITE", "MESSAGE", "REGISTER"] {
        let mut bench = bench(1);
        bench.send(client(), Script::new(method).build());
        let (_, request) = bench.one_to_a_box();
        for answers in [vec![format!("500 {method}")], Vec::new()] {
            bench.return_undelivered(&request);
            assert_eq!(heard(&mut bench, client()), answers);
            assert_eq!(counted(&mut bench, "unreachable"), 1);
        }
        let only = first_box(&mut bench);
        assert_eq!((only.state, only.failures), ("down", 1));
        // RFC 3261 §17.1.4: an answer that still comes finds nothing.
        bench.answer(&request, &Answer::new(200));
        assert_eq!(heard(&mut bench, client()), SILENCE);
    }
}

/// What stateless farms and other processes sent is not waited for here.
#[test]
fn a_report_of_what_no_transaction_sent_is_not_believed() {
    let mut bench = bench(1);
    let dialog = bench.establish(&invite("a"), "call-1");
    bench.send(client(), dialog.client_request("ACK", 1).branch("again").build());
    let ack = bench.one_to(box_address(0));
    bench.return_undelivered(&ack);
    bench.send(client(), invite("other").call_id("other").build());
    let (_, before) = bench.one_to_a_box();
    bench.restart(millis(300));
    bench.return_undelivered(&before);
    assert_eq!((counted(&mut bench, "unreachable"), first_box(&mut bench).state), (0, "up"));
    bench.assert_quiet();
}

/// What comes back, kept back by a limit of ours or not.
pub(crate) fn lost(sent: &Sent, by_us: bool) -> Input<'_> {
    let (flow, returned) = (sent.flow, &sent.bytes[..]);
    if by_us { Input::Unsent { flow, returned } } else { Input::Undelivered { flow, returned } }
}

#[test]
fn a_limit_of_ours_is_not_held_against_the_box() {
    for (by_us, state) in [(true, "up"), (false, "down")] {
        let mut unit = Unit::new(farm(Some(Transport::Tcp), |_| ()));
        let sent = unit.passes(of_phone(Transport::Tcp, 7), &invite("a").build());
        let answers = unit.input(lost(&sent, by_us));
        let codes: Vec<Option<u16>> = answers.iter().map(|up| up.text.code()).collect();
        assert_eq!(codes, [Some(500)], "nobody waits for it any longer");
        assert_eq!((unit.states(), unit.counted("unreachable")), (vec![state], u64::from(!by_us)));
    }
}

/// A phone that hears 481 hangs up. Who hangs up himself is done with the call, whatever becomes of his BYE.
#[test]
fn a_limit_of_ours_ends_no_call() {
    for (method, by_us, code, calls) in [
        ("INVITE", true, 500, 1),
        ("UPDATE", true, 500, 1),
        ("INFO", true, 500, 1),
        ("BYE", true, 481, 0),
        ("INVITE", false, 481, 0),
    ] {
        let (mut unit, phone) = (Unit::new(farm(Some(Transport::Tcp), |_| ())), of_phone(Transport::Tcp, 7));
        let call = unit.passes(phone, &invite("a").build());
        let answer = Answer::new(200).line("Contact: <sip:clyde@10.0.1.1:5060>").to(&call.bytes);
        let answer = unit.passes(of_answer(&call, 40), &answer);
        let request = unit.passes(phone, &within(&answer.text, method).build());
        let up = unit.input(lost(&request, by_us));
        let codes: Vec<Option<u16>> = up.iter().map(|up| up.text.code()).collect();
        let left = unit.shared.snapshot(unit.now).calls;
        assert_eq!((codes, left), (vec![Some(code)], calls), "{method} by us: {by_us}");
    }
}

/// A check that was never made has no outcome, and the next one comes in its time.
#[test]
fn a_limit_of_ours_fails_no_check() {
    for by_us in [true, false] {
        let mut unit = Unit::new(farm(Some(Transport::Tcp), |farm| {
            for service in &mut farm.services {
                service.guardians = vec![Arc::new(Guardian { fall: 1, ..Guardian::options() })];
            }
        }));
        let pings = unit.advance(millis(1_100));
        let [ping] = &pings[..] else { panic!("{pings:?}") };
        unit.input(lost(ping, by_us));
        assert_eq!((unit.counted("ping_failures"), unit.counted("pings")), (u64::from(!by_us), 1));
        unit.advance(seconds(11));
        assert!(unit.counted("pings") > 1);
    }
}
