//! Calls between phones through one PBX, and through two that pass calls on to each other.

use crate::world::{Farm, World, address, answering, media};
use std::net::SocketAddr;
use std::time::Duration;
use ua::{Answering, CallId, Event, Fault, PbxEvent, UserAgent};

const SECOND: Duration = Duration::from_secs(1);

fn office() -> (World, SocketAddr, SocketAddr, SocketAddr) {
    let mut world = World::new();
    let pbx = world.pbx("one", address(10), None);
    let bonnie = world.phone("bonnie", address(1), pbx);
    let clyde = world.phone("clyde", address(2), pbx);
    for phone in [bonnie, clyde] {
        world.at(phone, UserAgent::register);
    }
    world.run_for(SECOND);
    world.forget();
    (world, pbx, bonnie, clyde)
}

fn call(world: &mut World, from: SocketAddr) -> CallId {
    world.at(from, |agent, now| agent.call(now, "sip:clyde@example.com", media(from)))
}

fn incoming(world: &World, callee: SocketAddr) -> CallId {
    let found = world.events_of(callee).iter().find_map(|event| match event {
        Event::Incoming { call, .. } => Some(*call),
        _ => None,
    });
    found.expect("a call came in")
}

#[test]
fn a_call_is_challenged_connected_and_ended() {
    let (mut world, pbx, bonnie, clyde) = office();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    assert_eq!(world.pbxs[&pbx].calls(), 1);
    world.at(bonnie, |agent, now| agent.hang_up(now, placed));
    world.run_for(SECOND);
    assert_eq!(
        world.between(bonnie, pbx),
        ["INVITE", "401 INVITE", "ACK", "INVITE", "100 INVITE", "180 INVITE", "200 INVITE", "ACK", "BYE", "200 BYE"]
    );
    assert_eq!(world.between(pbx, clyde), ["INVITE", "180 INVITE", "200 INVITE", "ACK", "BYE", "200 BYE"]);
    let answered = Event::Answered { call: placed, remote_media: Some(media(clyde)) };
    assert!(world.events_of(bonnie).contains(&answered), "the SDP passes unchanged");
    let taken = incoming(&world, clyde);
    let events = world.events_of(clyde);
    assert!(events.contains(&Event::Incoming { call: taken, from: "sip:bonnie@example.com".to_owned() }));
    assert!(events.contains(&Event::Confirmed { call: taken, remote_media: Some(media(bonnie)) }));
    let (from, to) = ("bonnie".to_owned(), "clyde".to_owned());
    let expected = [PbxEvent::CallStarted { from: from.clone(), to: to.clone() }, PbxEvent::CallEnded { from, to }];
    assert_eq!(world.pbx_events, expected);
    assert_eq!(world.pbxs[&pbx].calls(), 0);
}

#[test]
fn a_challenge_that_is_answered_ahead_is_made_once_until_the_box_forgets_it() {
    let (mut world, pbx, bonnie, _) = office();
    world.agents.get_mut(&bonnie).expect("the test made this phone").prove_calls_ahead();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    world.at(bonnie, |agent, now| agent.hang_up(now, placed));
    world.run_for(SECOND);
    let once = ["INVITE", "100 INVITE", "180 INVITE", "200 INVITE", "ACK", "BYE", "200 BYE"];
    assert_eq!(world.between(bonnie, pbx), once);
    // Another box at the same address, which issued no nonce.
    world.pbx("two", address(10), None);
    world.forget();
    call(&mut world, bonnie);
    world.run_for(SECOND);
    assert_eq!(world.between(bonnie, pbx)[..4], ["INVITE", "401 INVITE", "ACK", "INVITE"]);
}

#[test]
fn the_callee_can_end_it_too() {
    let (mut world, pbx, bonnie, clyde) = office();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    world.at(clyde, |agent, now| agent.hang_up(now, taken));
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Ended { call: placed, by_us: false, code: 200 }));
    assert_eq!(world.events_of(clyde).last(), Some(&Event::Ended { call: taken, by_us: true, code: 200 }));
    assert_eq!(world.pbxs[&pbx].calls(), 0);
}

#[test]
fn cancel_and_refusals_pass_through() {
    let (mut world, pbx, bonnie, clyde) = office();
    world.at(clyde, |agent, _| agent.set_answering(Answering { answer_after: None, ..answering(clyde) }));
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    world.at(bonnie, |agent, now| agent.cancel(now, placed));
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Cancelled { call: placed }));
    assert_eq!(world.events_of(clyde).last(), Some(&Event::Cancelled { call: incoming(&world, clyde) }));
    assert_eq!(world.pbxs[&pbx].calls(), 0);
    world.at(clyde, |agent, _| agent.set_answering(Answering { code: 486, ..answering(clyde) }));
    let refused = call(&mut world, bonnie);
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Failed { call: refused, code: 486 }));
    assert_eq!(world.pbxs[&pbx].calls(), 0);
    assert!(world.pbx_events.is_empty(), "no call was answered");
}

#[test]
fn reinvites_pass_in_both_directions() {
    let (mut world, _, bonnie, clyde) = office();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let taken = incoming(&world, clyde);
    world.forget();
    let moved = SocketAddr::from(([10, 0, 9, 9], 7_000));
    world.at(bonnie, |agent, now| agent.reinvite(now, placed, moved));
    world.run_for(SECOND);
    assert_eq!(world.agents[&clyde].remote_media(taken), Some(moved));
    assert_eq!(world.sent("INVITE").len(), 2);
    world.at(clyde, |agent, now| agent.reinvite(now, taken, moved));
    world.run_for(SECOND);
    assert_eq!(world.agents[&bonnie].remote_media(placed), Some(moved));
    assert_eq!(world.sent("491 INVITE").len(), 0);
    world.at(bonnie, |agent, now| agent.reinvite(now, placed, moved));
    world.at(clyde, |agent, now| agent.reinvite(now, taken, moved));
    world.run_for(SECOND);
    assert!(world.events_of(bonnie).contains(&Event::Reinvited { call: placed, code: 491 }), "they crossed");
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls()), (1, 1));
}

#[test]
fn unknown_users_are_404_and_absent_ones_480() {
    let (mut world, _, bonnie, clyde) = office();
    let unknown = world.at(bonnie, |agent, now| agent.call(now, "sip:nobody@example.com", media(bonnie)));
    let foreign = world.at(bonnie, |agent, now| agent.call(now, "sip:clyde@example.net", media(bonnie)));
    world.at(clyde, UserAgent::unregister);
    world.run_for(SECOND);
    let absent = call(&mut world, bonnie);
    world.run_for(SECOND);
    let events = world.events_of(bonnie);
    for (call, code) in [(unknown, 404), (foreign, 404), (absent, 480)] {
        assert!(events.contains(&Event::Failed { call, code }), "{code} in {events:?}");
    }
}

#[test]
fn the_next_contact_is_tried_when_one_does_not_answer() {
    let (mut world, pbx, bonnie, clyde) = office();
    // A second phone of Clyde's, registered later and so tried first; then its plug is pulled.
    let second = world.phone("clyde", address(3), pbx);
    world.at(second, UserAgent::register);
    world.run_for(SECOND);
    world.agents.remove(&second);
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND * 34);
    let answered = Event::Answered { call: placed, remote_media: Some(media(clyde)) };
    assert!(world.events_of(bonnie).contains(&answered));
}

#[test]
fn a_call_without_credentials_or_with_a_forged_origin_is_challenged() {
    let (mut world, pbx, bonnie, _) = office();
    let forged = "X-Tandem-Origin: backend two";
    world.at(bonnie, |agent, now| agent.call_with(now, "sip:clyde@example.com", media(bonnie), forged));
    world.run_for(SECOND);
    assert_eq!(world.between(bonnie, pbx).get(1).map(String::as_str), Some("401 INVITE"));
}

/// Bonnie is at the first PBX, Clyde at the second one, the farm between them.
fn two_boxes() -> (World, [SocketAddr; 2], SocketAddr, SocketAddr) {
    let mut world = World::new();
    let farm = address(100);
    let one = world.pbx("one", address(10), Some(farm));
    let two = world.pbx("two", address(20), Some(farm));
    world.farm = Some(Farm { address: farm, pbxs: [one, two] });
    let bonnie = world.phone("bonnie", address(1), one);
    let clyde = world.phone("clyde", address(2), two);
    for phone in [bonnie, clyde] {
        world.at(phone, UserAgent::register);
    }
    world.run_for(SECOND);
    world.forget();
    (world, [one, two], bonnie, clyde)
}

#[test]
fn a_call_is_passed_on_to_the_box_that_holds_the_callee() {
    let (mut world, [one, two], bonnie, clyde) = two_boxes();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    let farm = address(100);
    assert_eq!(world.between(one, farm)[..4], ["INVITE", "100 INVITE", "180 INVITE", "200 INVITE"]);
    assert_eq!(world.between(farm, two)[..4], ["INVITE", "100 INVITE", "180 INVITE", "200 INVITE"]);
    assert_eq!(world.between(two, clyde), ["INVITE", "180 INVITE", "200 INVITE", "ACK"]);
    assert_eq!(world.sent("401 INVITE").len(), 1, "the second box believes the farm");
    assert!(world.events_of(bonnie).contains(&Event::Answered { call: placed, remote_media: Some(media(clyde)) }));
    let passed_on = world.sent("INVITE").into_iter().find(|sent| sent.to == farm).expect("the first box passed it on");
    let uri = passed_on.with(|message| message.request_line().map(|line| line.uri.to_vec()));
    assert_eq!(uri.as_deref(), Some(&b"sip:clyde@example.com"[..]));
    world.at(bonnie, |agent, now| agent.hang_up(now, placed));
    world.run_for(SECOND);
    assert_eq!((world.pbxs[&one].calls(), world.pbxs[&two].calls()), (0, 0));
    assert_eq!(world.agents[&clyde].calls(), 0);
}

#[test]
fn a_call_is_never_passed_on_twice() {
    let (mut world, [one, two], bonnie, clyde) = two_boxes();
    world.at(clyde, UserAgent::unregister);
    world.run_for(SECOND);
    world.forget();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Failed { call: placed, code: 480 }));
    let passed_on = world.sent("INVITE").iter().filter(|sent| sent.to == address(100)).count();
    assert_eq!(passed_on, 1);
    assert_eq!((world.pbxs[&one].calls(), world.pbxs[&two].calls()), (0, 0));
}

#[test]
fn cancel_passes_two_boxes() {
    let (mut world, [one, two], bonnie, clyde) = two_boxes();
    world.at(clyde, |agent, _| agent.set_answering(Answering { answer_after: None, ..answering(clyde) }));
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    world.at(bonnie, |agent, now| agent.cancel(now, placed));
    world.run_for(SECOND);
    assert_eq!(world.events_of(clyde).last(), Some(&Event::Cancelled { call: incoming(&world, clyde) }));
    assert_eq!((world.pbxs[&one].calls(), world.pbxs[&two].calls()), (0, 0));
}

#[test]
fn a_box_that_falls_silent_mid_call_leaves_no_leg_behind() {
    let (mut world, [one, two], bonnie, clyde) = two_boxes();
    let placed = call(&mut world, bonnie);
    world.run_for(SECOND);
    world.set_fault(two, Fault::Silent);
    world.at(bonnie, |agent, now| agent.hang_up(now, placed));
    world.run_for(SECOND * 40);
    assert_eq!(world.events_of(bonnie).last(), Some(&Event::Ended { call: placed, by_us: true, code: 200 }));
    assert_eq!(world.pbxs[&one].calls(), 0);
    assert_eq!(world.agents[&clyde].calls(), 1, "nobody told Clyde");
}

#[test]
fn a_hundred_calls_through_a_lossy_wire_leave_nothing_behind() {
    let (mut world, pbx, bonnie, clyde) = office();
    let brief = Answering { hang_up_after: Some(SECOND * 3), ..answering(clyde) };
    world.at(clyde, |agent, _| agent.set_answering(brief));
    world.loss_per_mille = 100;
    for _ in 0..100 {
        call(&mut world, bonnie);
        world.run_for(Duration::from_millis(200));
    }
    world.run_for(SECOND * 300);
    assert_eq!((world.agents[&bonnie].calls(), world.agents[&clyde].calls(), world.pbxs[&pbx].calls()), (0, 0, 0));
    let answered = world.events_of(bonnie).iter().filter(|event| matches!(event, Event::Answered { .. })).count();
    assert!(answered >= 98, "{answered} of 100 calls were answered");
}
