//! What the network reports as undeliverable (RFC 3261 §16.9): believed only where it quotes what was sent, and still waited for.

use crate::steps::{SILENCE, bench, call, client, counted, first_box, heard, millis, seconds};
use crate::streams::{farm, of_phone};
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
fn lost(sent: &Sent, by_us: bool) -> Input<'_> {
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
        let farms = unit.shared.snapshot(unit.now).farms;
        let states: Vec<&str> = farms
            .iter()
            .flat_map(|farm| &farm.services)
            .flat_map(|service| &service.backends)
            .map(|backend| backend.state)
            .collect();
        assert_eq!((states, unit.counted("unreachable")), (vec![state], u64::from(!by_us)));
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
