//! What the wire loses, the user agents send again.

use crate::world::{World, address, answering, media};
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Answering, CallId, Event};

const SECOND: Duration = Duration::from_secs(1);

fn calling() -> (World, SocketAddr, SocketAddr, CallId) {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(2));
    let clyde = world.phone("clyde", address(2), address(1));
    let brief = Answering { hang_up_after: Some(SECOND * 60), ..answering(clyde) };
    world.at(clyde, |agent, _| agent.set_answering(brief));
    let call = world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.com", media(bonnie)));
    (world, bonnie, clyde, call)
}

#[test]
fn a_lost_200_is_sent_again_by_the_callee_until_the_ack_comes() {
    let (mut world, bonnie, _, call) = calling();
    world.lose("200 INVITE", None, 4);
    world.run_for(SECOND * 20);
    let answers = world.sent("200 INVITE");
    let first = answers[0].at;
    let times: Vec<u128> = answers.iter().map(|sent| sent.at.saturating_since(first).as_millis()).collect();
    assert_eq!(times, [0, 500, 1_500, 3_500, 7_500], "T1 doubled up to T2 (RFC 3261 §13.3.1.4)");
    assert_eq!(world.sent("ACK").len(), 1);
    assert!(world.events_of(bonnie).contains(&Event::Answered { call, remote_media: Some(media(address(2))) }));
}

#[test]
fn a_lost_ack_is_sent_again_for_each_repeated_200() {
    let (mut world, bonnie, clyde, _) = calling();
    world.lose("ACK", None, 3);
    world.run_for(SECOND * 20);
    assert_eq!(world.sent("200 INVITE").len(), 4);
    let acks = world.sent("ACK");
    assert_eq!(acks.len(), 4);
    assert!(acks.iter().all(|ack| ack.bytes == acks[0].bytes), "each ACK is the same");
    let confirmed = world.events_of(clyde).iter().filter(|event| matches!(event, Event::Confirmed { .. })).count();
    let answered = world.events_of(bonnie).iter().filter(|event| matches!(event, Event::Answered { .. })).count();
    assert_eq!((confirmed, answered), (1, 1));
}

#[test]
fn a_callee_without_ack_hangs_up_after_32_seconds() {
    let (mut world, bonnie, clyde, call) = calling();
    world.lose("ACK", None, u32::MAX);
    world.run_for(SECOND * 40);
    let (answer, bye) = (world.sent("200 INVITE")[0].at, world.sent("BYE")[0].at);
    assert_eq!(bye.saturating_since(answer), SECOND * 32);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Ended { call, by_us: false, code: 200 }));
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (0, 0));
}

#[test]
fn a_callee_who_hangs_up_before_the_ack_waits_for_it() {
    let (mut world, _, clyde, _) = calling();
    world.lose("ACK", None, 1);
    world.run_for(Duration::from_millis(200));
    let taken = world.events_of(clyde).iter().find_map(|event| match event {
        Event::Incoming { call, .. } => Some(*call),
        _ => None,
    });
    world.at(clyde, |agent, now| agent.hang_up(now, taken.expect("a call came in")));
    world.run_for(Duration::from_millis(100));
    assert_eq!(world.sent("BYE").len(), 0, "no BYE before the ACK (RFC 3261 §15)");
    world.run_for(SECOND * 2);
    assert_eq!(world.sent("BYE").len(), 1);
}

#[test]
fn a_lost_bye_is_sent_again_and_a_lost_refusal_too() {
    let (mut world, bonnie, clyde, call) = calling();
    world.run_for(SECOND);
    world.lose("BYE", None, 2);
    world.lose("200 BYE", None, 1);
    world.at(bonnie, |agent, now| agent.hang_up(now, call));
    world.run_for(SECOND * 10);
    assert_eq!((world.sent("BYE").len(), world.sent("200 BYE").len()), (4, 2));
    world.forget();
    world.at(clyde, |agent, _| agent.set_answering(Answering { code: 486, ..answering(clyde) }));
    world.lose("486 INVITE", None, 2);
    world.lose("ACK", None, 1);
    let refused = world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.com", media(bonnie)));
    world.run_for(SECOND * 40);
    assert_eq!((world.sent("486 INVITE").len(), world.sent("ACK").len()), (4, 2));
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Failed { call: refused, code: 486 }));
}

#[test]
fn every_call_ends_on_both_sides_whatever_a_fifth_of_loss_does() {
    let mut world = World::new();
    let bonnie = world.phone("bonnie", address(1), address(2));
    let clyde = world.phone("clyde", address(2), address(1));
    let brief = Answering { hang_up_after: Some(SECOND * 5), ..answering(clyde) };
    world.at(clyde, |agent, _| agent.set_answering(brief));
    world.loss_per_mille = 200;
    for _ in 0..200 {
        world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.com", media(bonnie)));
        world.run_for(Duration::from_millis(300));
    }
    world.run_for(SECOND * 200);
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (0, 0));
    let answered = world.events_of(bonnie).iter().filter(|event| matches!(event, Event::Answered { .. })).count();
    assert!(answered >= 195, "with seven attempts at each message nearly all calls succeed, not {answered} of 200");
    assert!(world.wire.iter().any(|sent| sent.lost));
    assert_eq!(world.agents[&bonnie].poll_timeout(), None, "nothing is left behind");
    assert_eq!(world.agents[&clyde].poll_timeout(), None, "nothing is left behind");
}
