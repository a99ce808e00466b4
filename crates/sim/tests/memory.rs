//! What traffic leaves in memory once it is over: nothing. One test only, since it counts what the whole process has allocated.

use sim::bench::{Bench, invite};
use sim::{Answer, Script, Text, one_farm};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Octets that are allocated.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// A user whom the farm never saw registers for a minute, after a challenge.
fn register(bench: &mut Bench, user: &str) {
    let request = |cseq: u32| {
        Script::new("REGISTER")
            .branch(&format!("{user}r{cseq}"))
            .uri("sip:example.com")
            .call_id(&format!("{user}-registers"))
            .from(&format!("<sip:{user}@example.com>;tag={user}"))
            .to(&format!("<sip:{user}@example.com>"))
            .cseq(cseq)
            .line(&format!("Contact: <sip:{user}@10.1.0.1:5060>"))
            .line("Expires: 60")
    };
    bench.send(Bench::client_address(), request(1).build());
    let (_, received) = bench.one_to_a_box();
    let challenge = format!("WWW-Authenticate: Digest realm=\"example.com\", nonce=\"{user}\"");
    bench.answer(&received, &Answer::new(401).line(&challenge));
    assert_eq!(bench.one_to_client().code(), Some(401));
    let proof = format!(
        "Authorization: Digest username=\"{user}\", realm=\"example.com\", nonce=\"{user}\", uri=\"sip:example.com\", \
         response=\"0123456789abcdef0123456789abcdef\""
    );
    bench.send(Bench::client_address(), request(2).line(&proof).build());
    let (_, received) = bench.one_to_a_box();
    let contact = Text::read(&received.bytes).header("Contact").expect("it registers").to_owned();
    bench.answer(&received, &Answer::new(200).line(&format!("Contact: {contact};expires=60")));
    assert_eq!(bench.one_to_client().code(), Some(200));
}

/// A call that is set up and ended.
fn call(bench: &mut Bench, name: &str) {
    let dialog = bench.establish(&invite(name), name);
    bench.send(Bench::client_address(), dialog.client_request("BYE", 2).build());
    let (_, bye) = bench.one_to_a_box();
    bench.answer(&bye, &Answer::new(200));
    assert_eq!(bench.one_to_client().code(), Some(200));
}

#[test]
fn traffic_leaves_nothing_behind() {
    let mut bench = Bench::new(one_farm(3, |_| ()));
    let mut after = Vec::new();
    for round in 0..40 {
        let before = live();
        for number in 0..300 {
            let user = format!("u{round}x{number}");
            register(&mut bench, &user);
            call(&mut bench, &format!("{user}-calls"));
        }
        // Or this measures nothing.
        assert!(live() > before + 300 * 100, "300 calls and registrations weigh {} octets", live() - before);
        // Longer than anything is remembered.
        bench.advance(Duration::from_secs(2 * 3600));
        bench.rest();
        let now = bench.now();
        bench.balancer().compact_facts(now);
        assert_eq!(bench.balancer().transactions(), 0);
        after.push(live());
    }
    // What a table has once grown to it keeps: the first rounds are for that, since users fall into its stripes by chance.
    let (warm, last) = (after[27], after[39]);
    assert!(last <= warm + warm / 50, "octets that are allocated after each round: {after:?}");
}
