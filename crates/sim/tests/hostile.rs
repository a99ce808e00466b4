//! Whatever arrives, a request of a client leaves only to a box, an answer only to whoever asked, and nothing panics.

use proptest::prelude::*;
use sim::bench::invite;
use sim::settings::peer_address;
use sim::{Bench, Script, box_address, one_farm};
use std::time::Duration;

/// A request with everything in it that a proxy reads.
fn rich() -> Vec<u8> {
    invite("a")
        .line("Route: <sip:203.0.113.7;lr>")
        .line("Record-Route: <sip:203.0.113.8;lr>")
        .line("Proxy-Require: sec-agree")
        .line("Session-Expires: 90")
        .line("Replaces: other;to-tag=1;from-tag=2")
        .line("Authorization: Digest username=\"bonnie\", realm=\"r\", nonce=\"n\", uri=\"sip:x\", response=\"0\"")
        .body("application/sdp", b"v=0\r\n")
        .build()
}

fn assert_contained(bench: &mut Bench) {
    let boxes = [box_address(0), box_address(1)];
    let source = peer_address(0);
    bench.advance(Duration::from_secs(3));
    for datagram in bench.rest() {
        let to_box = boxes.contains(&datagram.to);
        let is_answer = datagram.bytes.starts_with(b"SIP/2.0 ") && datagram.to.ip() == source.ip();
        assert!(to_box || is_answer, "{} got {:?}", datagram.to, String::from_utf8_lossy(&datagram.bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_octets_do_no_harm(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12)) {
        let mut bytes = rich();
        for (at, octet) in changes {
            let place = at.index(bytes.len());
            if let Some(changed) = bytes.get_mut(place) {
                *changed = octet;
            }
        }
        let mut bench = Bench::new(one_farm(2, |_| ()));
        bench.send(peer_address(0), &bytes);
        assert_contained(&mut bench);
    }

    #[test]
    fn cut_and_doubled_messages_do_no_harm(start in any::<prop::sample::Index>(), end in any::<prop::sample::Index>()) {
        let whole = rich();
        let (start, end) = (start.index(whole.len()), end.index(whole.len()));
        let part = whole.get(start.min(end)..start.max(end)).unwrap_or_default();
        let mut bench = Bench::new(one_farm(2, |_| ()));
        bench.send(peer_address(0), part);
        bench.send(peer_address(0), [part, &whole[..]].concat());
        assert_contained(&mut bench);
    }

    #[test]
    fn any_octets_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut bench = Bench::new(one_farm(2, |_| ()));
        bench.send(peer_address(0), &bytes);
        assert_contained(&mut bench);
    }
}

#[test]
fn error_answers_to_one_source_are_limited() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    for number in 0..1_000 {
        let request =
            Script::new("INVITE").branch(&format!("b{number}")).call_id(&format!("c{number}")).max_forwards(Some(0));
        bench.send(peer_address(0), request.build());
    }
    let answers = bench.rest().len();
    assert!((1..=40).contains(&answers), "{answers} answers in one moment");
}

#[test]
fn error_answers_are_hardly_larger_than_what_they_answer() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    let request = Script::new("OPTIONS").max_forwards(Some(0)).uri("x:y").build();
    bench.send(peer_address(0), &request);
    let answer = bench.one_to(peer_address(0));
    assert!(answer.bytes.len() <= request.len() + 100, "{} octets for {}", answer.bytes.len(), request.len());
}

#[test]
fn keep_alives_are_not_malformed() {
    let mut bench = Bench::new(one_farm(1, |_| ()));
    for keep_alive in [&b"\r\n\r\n"[..], b"\r\n", b"\0\0\0\0", b""] {
        bench.send(peer_address(0), keep_alive);
    }
    let answers = bench.rest();
    assert!(answers.iter().all(|answer| !answer.bytes.starts_with(b"SIP/2.0")), "{} answers", answers.len());
}
