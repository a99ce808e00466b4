//! Boxes that crash, phones that move, a balancer that is killed.

mod scene;

use engine::{Farm, Guardian, Maintenance};
use scene::{BONNIE, CLYDE, box_of, call_up, equal_users, find, hang_up, millis, registered, seconds};
use sim::settings::{outside_address, phone_address};
use sim::{Crash, Link, Model, Party, Text, World};
use std::sync::Arc;
use ua::{CallId, Event};

/// Boxes are found dead within about two seconds.
fn pinged(farm: &mut Farm) {
    for service in &mut farm.services {
        let (interval, timeout) = (seconds(1), millis(500));
        service.guardians = vec![Arc::new(Guardian { interval, timeout, rise: 1, fall: 2, ..Guardian::options() })];
    }
}

fn other(index: usize) -> usize {
    1 - index
}

/// Bonnie calls Clyde, who lets it ring.
fn ringing(world: &mut World) -> CallId {
    world.with_phone(CLYDE, |agent, _| {
        agent.set_answering(ua::Answering { answer_after: None, ..ua::Answering::default() });
    });
    let call = world.call(BONNIE, "clyde");
    world.expect("it rings", seconds(5), |world| world.phone(BONNIE).is_ringing(call));
    call
}

#[test]
fn a_box_that_is_gone_at_registration_is_passed_over() {
    for crash in [Crash::Host, Crash::Process] {
        let mut world = equal_users(|_| ());
        world.register(BONNIE);
        world.expect("registered", seconds(5), |world| world.phone(BONNIE).is_registered());
        let first = box_of(&world, "bonnie").expect("a box has the binding");
        world.crash_pbx(first, crash);
        world.register(BONNIE);
        world.expect("the other box has the binding", seconds(15), |world| {
            box_of(world, "bonnie") == Some(other(first))
        });
        let failed =
            world.phone(BONNIE).events().iter().any(|(_, event)| matches!(event, Event::RegisterFailed { .. }));
        world.check(!failed, "the phone never noticed");
    }
}

#[test]
fn a_box_that_dies_between_challenge_and_answer_is_replaced() {
    let mut world = equal_users(|_| ());
    world.register(BONNIE);
    world.expect("the challenge is on its way", seconds(2), |world| {
        (0..2).any(|index| !world.between(Party::Pbx(index), Party::Balancer).is_empty())
    });
    let first = (0..2)
        .find(|index| !world.between(Party::Pbx(*index), Party::Balancer).is_empty())
        .expect("one of them has answered");
    world.crash_pbx(first, Crash::Host);
    world.expect("registered at the other box", seconds(30), |world| {
        world.phone(BONNIE).is_registered() && box_of(world, "bonnie") == Some(other(first))
    });
}

#[test]
fn a_ringing_call_moves_when_its_box_dies() {
    for crash in [Crash::Host, Crash::Process] {
        let mut world = registered(pinged);
        ringing(&mut world);
        let invite = world
            .wire()
            .iter()
            .rev()
            .find(|sent| sent.sender == Party::Phone(BONNIE) && scene::is(sent, "INVITE", "INVITE"))
            .map(|sent| Text::read(&sent.bytes))
            .expect("Bonnie has called");
        let call_id = invite.header("Call-ID").unwrap_or_default().to_owned();
        let went_to = |world: &World, index: usize| {
            world.between(Party::Balancer, Party::Pbx(index)).iter().any(|sent| {
                let text = Text::read(&sent.bytes);
                text.method() == "INVITE" && text.code().is_none() && text.header("Call-ID") == Some(call_id.as_str())
            })
        };
        let first = (0..2).find(|index| went_to(&world, *index)).expect("a box has the call");
        world.check(!went_to(&world, other(first)), "one box has the call");
        world.crash_pbx(first, crash);
        world.expect("the other box gets the call", seconds(10), |world| went_to(world, other(first)));
        // Whatever the new box makes of it, Bonnie can call again at once.
        world.run_for(seconds(5));
        world.with_phone(CLYDE, |agent, _| agent.set_answering(ua::Answering::default()));
        let call = world.call(BONNIE, "clyde");
        world.expect("the next call is answered", seconds(10), |world| world.phone(BONNIE).is_answered(call));
    }
}

#[test]
fn an_answered_call_of_a_dead_box_ends_and_the_next_one_succeeds() {
    for crash in [Crash::Host, Crash::Process] {
        let mut world = registered(pinged);
        let (bonnies, _) = call_up(&mut world);
        let first = box_of(&world, "clyde").expect("Clyde is registered");
        world.crash_pbx(first, crash);
        world.run_for(seconds(5));
        world.hang_up(BONNIE, bonnies);
        world.expect("Bonnie's phone is told", seconds(40), |world| world.phone(BONNIE).is_over(bonnies));
        let call = world.call(BONNIE, "clyde");
        world.expect("a new call is answered", seconds(10), |world| world.phone(BONNIE).is_answered(call));
    }
}

#[test]
fn a_box_that_comes_back_empty_is_used_again() {
    let mut world = registered(pinged);
    for index in 0..2 {
        world.crash_pbx(index, Crash::Host);
    }
    world.run_for(seconds(5));
    let call = world.call(BONNIE, "clyde");
    world.expect("nobody can serve it", seconds(40), |world| world.phone(BONNIE).failed(call).is_some());
    for index in 0..2 {
        world.restart_pbx(index);
    }
    world.run_for(seconds(3));
    for phone in [BONNIE, CLYDE] {
        world.register(phone);
    }
    world.run_for(seconds(3));
    call_up(&mut world);
}

#[test]
fn a_nat_that_rebinds_mid_call_loses_neither_side() {
    for first in [BONNIE, CLYDE] {
        let mut world = registered(|_| ());
        let (bonnies, clydes) = call_up(&mut world);
        world.rebind(BONNIE, outside_address(BONNIE, 1));
        // The other side can reach her as soon as anything of hers has passed the new mapping.
        world.register(BONNIE);
        world.run_for(seconds(2));
        let from = world.wire().len();
        hang_up(&mut world, first, bonnies, clydes);
        let to_the_old = world.wire().iter().skip(from).any(|sent| sent.to == outside_address(BONNIE, 0));
        world.check(!to_the_old, "nothing goes to the old mapping any more");
    }
}

#[test]
fn a_bye_from_a_new_address_needs_no_registration_before() {
    let mut world = registered(|_| ());
    let (bonnies, clydes) = call_up(&mut world);
    world.rebind(BONNIE, outside_address(BONNIE, 1));
    hang_up(&mut world, BONNIE, bonnies, clydes);
}

#[test]
fn a_reinvite_from_a_new_address_moves_the_call() {
    let mut world = registered(|_| ());
    let (bonnies, clydes) = call_up(&mut world);
    world.rebind(BONNIE, outside_address(BONNIE, 1));
    world.reinvite(BONNIE, bonnies);
    world.expect("accepted", seconds(5), |world| world.phone(BONNIE).reinvited(bonnies) == [200]);
    world.run_for(seconds(1));
    hang_up(&mut world, CLYDE, bonnies, clydes);
}

#[test]
fn calls_survive_a_kill_of_the_balancer() {
    for first in [BONNIE, CLYDE] {
        let mut world = registered(|_| ());
        let (bonnies, clydes) = call_up(&mut world);
        world.run_for(seconds(1));
        world.restart_balancer(millis(700));
        let (caller, call) = if first == BONNIE { (BONNIE, bonnies) } else { (CLYDE, clydes) };
        world.reinvite(caller, call);
        world.expect("the re-INVITE is accepted", seconds(10), |world| world.phone(caller).reinvited(call) == [200]);
        world.run_for(seconds(1));
        hang_up(&mut world, first, bonnies, clydes);
        assert_eq!(world.balancer().damaged_facts(), 0);
    }
}

#[test]
fn a_phone_that_moved_meanwhile_is_reached_after_a_kill() {
    let mut world = registered(|_| ());
    let (bonnies, clydes) = call_up(&mut world);
    world.rebind(CLYDE, outside_address(CLYDE, 1));
    world.register(CLYDE);
    world.run_for(seconds(2));
    world.restart_balancer(millis(100));
    hang_up(&mut world, BONNIE, bonnies, clydes);
    call_up(&mut world);
}

#[test]
fn bindings_survive_a_kill_and_a_call_reaches_the_phone() {
    let mut world = registered(|_| ());
    world.run_for(seconds(1));
    world.restart_balancer(seconds(1));
    let snapshot = world.balancer().snapshot(world.now()).expect("it runs again");
    assert_eq!(snapshot.registrations, 2);
    let (bonnies, clydes) = call_up(&mut world);
    hang_up(&mut world, CLYDE, bonnies, clydes);
}

#[test]
fn answers_to_an_invite_of_an_earlier_epoch_still_go_up() {
    let mut world = registered(|_| ());
    world.with_phone(CLYDE, |agent, _| {
        agent.set_answering(ua::Answering { answer_after: Some(seconds(3)), ..ua::Answering::default() });
    });
    let call = world.call(BONNIE, "clyde");
    world.expect("it rings", seconds(5), |world| world.phone(BONNIE).is_ringing(call));
    world.restart_balancer(millis(300));
    world.expect("the answer arrives", seconds(10), |world| world.phone(BONNIE).is_answered(call));
    let incoming = world.phone(CLYDE).incoming().last().copied().expect("Clyde answered");
    world.expect("and so does the ACK", seconds(10), |world| world.phone(CLYDE).is_confirmed(incoming));
}

#[test]
fn a_drained_box_keeps_its_call_and_loses_its_users() {
    let mut world = registered(|_| ());
    let (bonnies, clydes) = call_up(&mut world);
    let drained = box_of(&world, "clyde").expect("Clyde is registered");
    let mut settings = world.balancer().settings().clone();
    for farm in &mut settings.farms {
        if let Some(backend) = farm.backends.get_mut(drained) {
            backend.maintenance = Maintenance::Drain;
        }
    }
    world.replace_settings(settings);
    let from = world.wire().len();
    world.register(CLYDE);
    world.expect("Clyde moves", seconds(10), |world| {
        world.pbx(other(drained)).bindings().iter().any(|(user, _)| user == "clyde")
    });
    world.reinvite(BONNIE, bonnies);
    world.expect("the call is still there", seconds(5), |world| world.phone(BONNIE).reinvited(bonnies) == [200]);
    hang_up(&mut world, BONNIE, bonnies, clydes);
    let registered_there = find(&world, from, Party::Balancer, Party::Pbx(drained), "REGISTER", "REGISTER");
    world.check(registered_there.is_none(), "no REGISTER goes to a drained box");
}

#[test]
fn a_unit_that_drains_refuses_new_calls_and_keeps_those_that_are_up() {
    let mut world = registered(|_| ());
    let (bonnies, clydes) = call_up(&mut world);
    world.begin_drain();
    let call = world.call(CLYDE, "bonnie");
    world.expect("refused", seconds(5), |world| world.phone(CLYDE).failed(call) == Some(503));
    hang_up(&mut world, BONNIE, bonnies, clydes);
}

#[test]
fn a_reload_without_the_box_of_a_call_leaves_the_call_alone() {
    let mut world = registered(|_| ());
    let (bonnies, clydes) = call_up(&mut world);
    let gone = box_of(&world, "clyde").expect("Clyde is registered");
    let mut settings = world.balancer().settings().clone();
    for farm in &mut settings.farms {
        farm.backends.remove(gone);
        for service in &mut farm.services {
            service.backends = vec![0];
        }
    }
    world.replace_settings(settings);
    world.reinvite(BONNIE, bonnies);
    world.expect("the re-INVITE passes", seconds(5), |world| world.phone(BONNIE).reinvited(bonnies) == [200]);
    hang_up(&mut world, BONNIE, bonnies, clydes);
}

#[test]
fn calls_complete_over_a_network_that_loses_a_fifth() {
    let mut world = registered(|_| ());
    let link = Link {
        loss_permille: 200,
        duplicate_permille: 50,
        reorder_permille: 100,
        delay: millis(10),
        jitter: millis(10),
    };
    world.network().set_default(link);
    let mut answered = 0;
    for _ in 0..10 {
        let call = world.call(BONNIE, "clyde");
        if world.run_until(|world| world.phone(BONNIE).is_answered(call), seconds(32)) {
            answered += 1;
        }
        world.run_for(seconds(5));
        world.hang_up(BONNIE, call);
        world.run_for(seconds(40));
    }
    world.check(answered == 10, &format!("{answered} of 10 calls were answered"));
    assert_eq!(world.phone(BONNIE).public_address(), outside_address(BONNIE, 0));
    assert_ne!(world.phone(BONNIE).public_address(), phone_address(BONNIE));
    world.run_for(seconds(300));
    assert_eq!(Model::of(&world).judge(), Vec::<String>::new());
}
