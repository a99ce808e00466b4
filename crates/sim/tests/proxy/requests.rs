//! Requests that come again by another way (RFC 5393), and what leaves without a transaction (RFC 3261 §16.11).

use crate::steps::{bench, client, counted, heard, millis};
use engine::Persistence;
use sim::settings::{algorithm, peer_address, trunk};
use sim::{Bench, Script, Text, box_address, one_farm};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The request that came with these Vias, once more from `source`, which has added its own.
fn passed_on(seen: &Text, source: SocketAddr, branch: &str) -> Vec<u8> {
    let own = Script::new("MESSAGE").via(&format!("SIP/2.0/UDP {source};rport;branch=z9hG4bK{branch}"));
    seen.values("Via").iter().fold(own, |script, via| script.line(&format!("Via: {via}"))).build()
}

/// The same request is no loop as long as each time somebody else sends it: the client, a carrier that turns it back, another carrier.
#[test]
fn each_sender_may_send_a_request_once() {
    let carriers = [peer_address(0), peer_address(100)];
    let settings = one_farm(1, |farm| {
        farm.trunks =
            vec![trunk("one", "203.0.113.1/32", peer_address(0)), trunk("two", "203.0.113.101/32", peer_address(100))];
    });
    let mut bench = Bench::new(settings);
    bench.send(client(), Script::new("MESSAGE").build());
    let mut seen = Text::read(&bench.one_to_a_box().1.bytes);
    for (number, carrier) in carriers.into_iter().enumerate() {
        bench.send(carrier, passed_on(&seen, carrier, &format!("trunk{number}")));
        let received = Text::read(&bench.one_to_a_box().1.bytes);
        assert_eq!(received.header("X-Tandem-Origin"), Some(["trunk one", "trunk two"][number]));
        seen = received;
    }
    assert_eq!(counted(&mut bench, "loops"), 0);
    for (number, sender) in carriers.into_iter().chain([client()]).enumerate() {
        bench.send(sender, passed_on(&seen, sender, &format!("again{number}")));
        assert_eq!(heard(&mut bench, sender), ["482 MESSAGE"]);
    }
    assert_eq!(counted(&mut bench, "loops"), 3);
    bench.assert_quiet();
}

/// Only what our own key has signed counts: anybody can write a Via that looks like ours.
#[test]
fn a_via_that_only_looks_like_ours_is_no_loop() {
    let mut bench = bench(1);
    bench.send(client(), Script::new("MESSAGE").build());
    let seen = Text::read(&bench.one_to_a_box().1.bytes);
    // Its last four characters are of the signature.
    let branch = seen.branch();
    let (kept, _) = branch.split_at(branch.len() - 4);
    let forged = passed_on(&seen, box_address(7), "b");
    let forged = String::from_utf8(forged).expect("it is text").replacen(&branch, &format!("{kept}AAAA"), 1);
    bench.send(box_address(7), forged);
    bench.one_to_a_box();
    assert_eq!(counted(&mut bench, "loops"), 0);
}

/// Stateless branches are told apart by a hash of 64 bits, which stands where others have place and number: `index` is octets 4 to 7 of
/// the token, `sequence` octets 9 to 12.
#[test]
fn a_stateless_branch_holds_the_whole_hash() {
    let mut bench = Bench::new(one_farm(1, |farm| {
        farm.stateless = true;
        for service in &mut farm.services {
            service.algorithm = algorithm("hash-call-id");
            service.persistence = Persistence::None;
        }
    }));
    let (mut indices, mut sequences) = (BTreeSet::new(), BTreeSet::new());
    for number in 0..20 {
        bench.send(client(), Script::new("MESSAGE").branch(&format!("b{number}")).build());
        let branch = Text::read(&bench.one_to_a_box().1.bytes).branch();
        let token = branch.strip_prefix("z9hG4bKtdm").expect("it is a token");
        // Three octets are four characters: 6 to 9 hold octets 4.5 to 7.5, and 14 to 15 octets 10.5 to 12.
        indices.extend(token.get(6..10).map(str::to_owned));
        sequences.extend(token.get(14..16).map(str::to_owned));
    }
    assert_eq!(indices.len(), 20);
    assert!(sequences.len() > 15, "{sequences:?}");
    assert_eq!(bench.balancer().transactions(), 0);
    assert_eq!(counted(&mut bench, "requests_forwarded"), 20);
    bench.advance(millis(1_000));
    bench.assert_quiet();
}
