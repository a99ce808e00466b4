//! Messages and audio that this machine does not let out.

use super::world::{World, call, pbx, plan, us};
use crate::Unreachable;
use crate::course::{Ends, Output, Probe};
use crate::plan::{CallPlan, Kind, Plan};
use crate::report::{Report, State};
use sip::Instant;
use std::net::SocketAddr;
use std::time::Duration;

fn kinds() -> [Kind; 3] {
    [Kind::Options { target: "sip:10.0.0.11".to_owned(), accept: Vec::new() }, Kind::Register, call()]
}

fn start(plan: Plan) -> (Probe, Instant) {
    let now = Instant::from_micros(1_000_000);
    (Probe::new(now, plan, Ends { signalling: us(), media: SocketAddr::new(us().ip(), 4_000) }, 7), now)
}

/// A whole run of which only the messages with these numbers, from 0 on, leave this machine. Nobody answers.
fn run(plan: Plan, leaves: fn(u64) -> bool) -> Report {
    let limit = plan.limit;
    let (mut probe, mut now) = start(plan);
    let end = now + limit;
    let mut sent = 0;
    while !probe.is_over() {
        while let Some(output) = probe.poll_output() {
            let Output::Message { bytes, .. } = output else { continue };
            if !leaves(sent) {
                probe.handle_unreachable(now, Unreachable::HeldBack { message: bytes });
            }
            sent += 1;
        }
        now = probe.poll_timeout().map_or(end, |due| due.min(end));
        if now < end {
            probe.handle_timeout(now);
        } else {
            probe.abandon(now);
        }
    }
    probe.report(now)
}

#[test]
fn what_never_left_says_nothing_of_the_server() {
    for kind in kinds() {
        // The second one is given up in the very moment in which its message is sent once more.
        for limit in [9_000, 9_500].map(Duration::from_millis) {
            let report = run(Plan { limit, ..plan(kind.clone()) }, |_| false);
            assert_eq!(report.state, State::Unknown, "{}", report.line());
            assert!(report.text.starts_with("this machine lets nothing out to 10.0.0.11:5060: "), "{}", report.text);
            assert!(report.text.contains("nft list ruleset"), "what to do: {}", report.text);
        }
        // A table that was full for a moment, and a message that left when it was sent again.
        let report = run(plan(kind), |number| number > 0);
        assert_eq!(report.state, State::Critical, "{}", report.line());
        assert!(report.text.starts_with("no answer to "), "{}", report.text);
    }
}

#[test]
fn what_ones_own_firewall_returns_is_not_held_against_the_server() {
    for kind in kinds() {
        let (mut probe, now) = start(plan(kind));
        let Some(Output::Message { bytes, .. }) = probe.poll_output() else { panic!("it begins with a message") };
        probe.handle_unreachable(now, Unreachable::HeldBack { message: bytes });
        probe.handle_unreachable(now, Unreachable::Signalling(pbx()));
        assert!(!probe.is_decided());
    }
}

#[test]
fn audio_that_never_left_says_nothing_of_the_server() {
    let mut world = World::home();
    world.echo = |_| false;
    let target = "sip:clyde@10.0.0.11".to_owned();
    let kind = Kind::Call(CallPlan { target, sounds: Vec::new(), expect_audio: true, min_mos: 0.0 });
    world.start(plan(kind));
    for _ in 0..100 {
        world.run_for(Duration::from_millis(20));
        world.act(|probe, now| probe.handle_unreachable(now, Unreachable::AudioHeldBack));
    }
    let report = world.finish();
    assert_eq!(report.state, State::Unknown, "{}", report.line());
    assert!(report.text.contains("lets nothing out to 10.0.0.12:4000"), "{}", report.text);
}
