//! Phones that register through the farm and call each other.

mod scene;

use scene::{BONNIE, CLYDE, box_of, call_up, equal_users, find, hang_up, millis, registered, seconds};
use sim::node::password_of;
use sim::script::uri_in;
use sim::settings::algorithm;
use sim::{BoxPlan, Link, Model, Party, PhonePlan, Text, World, WorldSettings, one_farm};

#[test]
fn a_phone_registers_with_401_and_sees_its_own_contact() {
    let mut world = equal_users(|_| ());
    world.register(BONNIE);
    world.expect("registered", seconds(5), |world| world.phone(BONNIE).is_registered());
    let answers: Vec<Text> =
        world.between(Party::Balancer, Party::Phone(BONNIE)).iter().map(|sent| Text::read(&sent.bytes)).collect();
    let codes: Vec<Option<u16>> = answers.iter().map(Text::code).collect();
    assert_eq!(codes, [Some(401), Some(200)]);
    let contacts = answers.last().map(|answer| answer.values("Contact")).unwrap_or_default();
    let uris: Vec<String> = contacts.iter().map(|contact| uri_in(contact)).collect();
    assert_eq!(uris.len(), 1, "{uris:?}");
    assert!(uris.iter().all(|uri| uri.contains("bonnie@10.1.0.1:5060")), "{uris:?}");
    let index = box_of(&world, "bonnie").expect("a box has the binding");
    let bindings = world.pbx(index).bindings();
    assert!(bindings.iter().all(|(_, contact)| contact.contains("@10.0.0.1:5060")), "{bindings:?}");
}

#[test]
fn refreshes_stay_on_the_box_and_never_make_a_second_binding() {
    let mut world = registered(|_| ());
    let before: Vec<Vec<(String, String)>> = world.pbxs().iter().map(|pbx| pbx.bindings()).collect();
    for _ in 0..5 {
        world.register(BONNIE);
        world.run_for(seconds(2));
    }
    let after: Vec<Vec<(String, String)>> = world.pbxs().iter().map(|pbx| pbx.bindings()).collect();
    assert_eq!(before, after);
    assert_eq!(after.iter().map(Vec::len).sum::<usize>(), 2);
    world.unregister(BONNIE);
    world.run_for(seconds(2));
    assert_eq!(box_of(&world, "bonnie"), None);
    assert!(!world.phone(BONNIE).is_registered());
}

#[test]
fn the_farm_counts_registrations() {
    let mut world = registered(|_| ());
    let registrations =
        |world: &World| -> u64 { world.balancer().snapshot(world.now()).expect("the balancer runs").registrations };
    assert_eq!(registrations(&world), 2);
    world.unregister(CLYDE);
    world.run_for(seconds(2));
    assert_eq!(registrations(&world), 1);
}

#[test]
fn equal_users_call_each_other_through_the_box_of_the_callee() {
    for first in [BONNIE, CLYDE] {
        let mut world = registered(|_| ());
        let (bonnies, clydes) = call_up(&mut world);
        let index = box_of(&world, "clyde").expect("Clyde is registered");
        let authorised = world.between(Party::Balancer, Party::Pbx(index)).iter().any(|sent| {
            let text = Text::read(&sent.bytes);
            text.method() == "INVITE" && text.code().is_none() && text.header("X-Tandem-Origin") == Some("client")
        });
        world.check(authorised, "the call went to the box that holds Clyde's registration");
        hang_up(&mut world, first, bonnies, clydes);
        world.run_for(seconds(70));
        assert_eq!(world.balancer().transactions(), 0);
        assert_eq!(Model::of(&world).judge(), Vec::<String>::new());
    }
}

#[test]
fn calls_go_both_ways_and_are_counted() {
    let mut world = registered(|_| ());
    let calls = |world: &World| -> u64 { world.balancer().snapshot(world.now()).expect("the balancer runs").calls };
    for (from, to, user) in [(BONNIE, CLYDE, "clyde"), (CLYDE, BONNIE, "bonnie")] {
        let call = world.call(from, user);
        world.expect("answered", seconds(5), |world| world.phone(from).is_answered(call));
        let up = calls(&world);
        world.check(up >= 1, "a call that is up is counted");
        let incoming = world.phone(to).incoming().last().copied().expect("it came in");
        world.hang_up(from, call);
        world.expect("over on both sides", seconds(5), |world| {
            world.phone(from).is_over(call) && world.phone(to).is_over(incoming)
        });
        world.run_for(seconds(1));
        assert_eq!(calls(&world), 0);
    }
}

#[test]
fn a_caller_that_gives_up_cancels_every_leg() {
    let mut world = registered(|_| ());
    world.with_phone(CLYDE, |agent, _| {
        agent.set_answering(ua::Answering { answer_after: None, ..ua::Answering::default() });
    });
    let call = world.call(BONNIE, "clyde");
    world.expect("it rings", seconds(5), |world| world.phone(BONNIE).is_ringing(call));
    world.cancel(BONNIE, call);
    let incoming = world.phone(CLYDE).incoming().last().copied().expect("it rang at Clyde");
    world.expect("both know that it is over", seconds(5), |world| {
        world.phone(BONNIE).is_over(call) && world.phone(CLYDE).is_cancelled(incoming)
    });
    world.run_for(seconds(70));
    assert_eq!(Model::of(&world).judge(), Vec::<String>::new());
}

/// Bonnie can log in at the first box only and Clyde at the second. The boxes know that the other user exists, as they pass
/// calls to each other on through the farm. `swapped`: the other way round, for a balancer that starts with the second box.
fn different_users(swapped: bool) -> World {
    let (of_bonnie, of_clyde) = if swapped { (1, 0) } else { (0, 1) };
    let mut boxes = vec![BoxPlan::new(0, &["bonnie", "clyde"]), BoxPlan::new(1, &["bonnie", "clyde"])];
    for (index, own) in [(of_bonnie, "bonnie"), (of_clyde, "clyde")] {
        for (user, password) in &mut boxes[index].users {
            *password = if user.as_str() == own { password_of(user) } else { "nobody logs in with this".to_owned() };
        }
    }
    let mut phones = vec![PhonePlan::new(BONNIE, "bonnie"), PhonePlan::new(CLYDE, "clyde")];
    for phone in &mut phones {
        phone.answering.ring_after = millis(500);
        phone.answering.answer_after = Some(seconds(2));
    }
    let settings = one_farm(2, |farm| {
        for service in &mut farm.services {
            service.algorithm = algorithm("round-robin");
            service.callee_affinity = false;
        }
    });
    let mut world = World::new(3, WorldSettings { settings, shards: 4, link: Link::default(), boxes, phones });
    for phone in [BONNIE, CLYDE] {
        world.register(phone);
        world.run_for(seconds(2));
    }
    world
}

/// A world of different users where both are registered, and the indices of Bonnie's and of Clyde's box.
fn each_on_its_box() -> (World, usize, usize) {
    for swapped in [false, true] {
        let world = different_users(swapped);
        if world.phones().iter().all(|phone| phone.is_registered()) {
            return if swapped { (world, 1, 0) } else { (world, 0, 1) };
        }
    }
    panic!("round-robin did not spread two registrations over two boxes");
}

#[test]
fn different_users_call_each_other_in_fourteen_steps() {
    let (mut world, a, b) = each_on_its_box();
    let (box_a, box_b) = (Party::Pbx(a), Party::Pbx(b));
    let (bonnie, clyde, farm) = (Party::Phone(BONNIE), Party::Phone(CLYDE), Party::Balancer);
    let from = world.wire().len();
    let (bonnies, clydes) = call_up(&mut world);
    // The ACK has to arrive everywhere before the BYE leaves, or the steps would not come one after the other.
    world.run_for(millis(100));
    hang_up(&mut world, BONNIE, bonnies, clydes);
    world.run_for(seconds(1));
    // The 100 of steps 2 and 4 may come at any time before the ringing.
    let ringing = find(&world, from, clyde, farm, "180", "INVITE").expect("Clyde rings");
    for waiting in [bonnie, box_a] {
        let trying = find(&world, from, farm, waiting, "100", "INVITE");
        world.check(trying.is_some_and(|at| at < ringing), &format!("100 to {waiting} before it rings"));
    }
    let steps = [
        ("1 INVITE Bonnie to A", bonnie, box_a, "INVITE", "INVITE"),
        ("3 INVITE A to B", box_a, box_b, "INVITE", "INVITE"),
        ("5 INVITE B to Clyde", box_b, clyde, "INVITE", "INVITE"),
        ("6 180 Clyde to B", clyde, box_b, "180", "INVITE"),
        ("7 180 B to A", box_b, box_a, "180", "INVITE"),
        ("8 180 A to Bonnie", box_a, bonnie, "180", "INVITE"),
        ("9 200 Clyde to B", clyde, box_b, "200", "INVITE"),
        ("10 200 B to A", box_b, box_a, "200", "INVITE"),
        ("11 200 A to Bonnie", box_a, bonnie, "200", "INVITE"),
        ("12 ACK Bonnie to A", bonnie, box_a, "ACK", "ACK"),
        ("13 BYE Bonnie to A", bonnie, box_a, "BYE", "BYE"),
        ("14 200 A to Bonnie", box_a, bonnie, "200", "BYE"),
    ];
    // Bonnie's first INVITE is challenged; the call begins with the one that is let through.
    let challenged =
        find(&world, from, farm, bonnie, "401", "INVITE").or(find(&world, from, farm, bonnie, "407", "INVITE"));
    let mut at = challenged.unwrap_or(from);
    for (step, sender, receiver, what, method) in steps {
        for (leg, from, to) in [("in", sender, farm), ("out", farm, receiver)] {
            match find(&world, at, from, to, what, method) {
                Some(found) => at = found,
                None => world.fail(&format!("step {step}, {leg} of the farm, did not follow")),
            }
        }
    }
    assert_eq!(Model::of(&world).judge(), Vec::<String>::new());
}

#[test]
fn a_passed_on_call_is_told_from_a_forged_one() {
    let (mut world, a, b) = each_on_its_box();
    let from = world.wire().len();
    let (bonnies, clydes) = call_up(&mut world);
    let passed_on =
        find(&world, from, Party::Balancer, Party::Pbx(b), "INVITE", "INVITE").expect("A passed the call on");
    let origin = world.wire().get(passed_on).map(|sent| Text::read(&sent.bytes));
    let origin = origin.as_ref().and_then(|text| text.header("X-Tandem-Origin"));
    assert_eq!(origin, Some(format!("backend pbx{}", a + 1).as_str()));
    let challenged = find(&world, passed_on, Party::Pbx(b), Party::Balancer, "401", "INVITE");
    assert!(challenged.is_none(), "B accepts what A has checked");
    hang_up(&mut world, CLYDE, bonnies, clydes);

    // Clyde's own box gets his INVITE; the forged header must not save him from being asked who he is.
    let from = world.wire().len();
    let line = format!("X-Tandem-Origin: backend pbx{}\r\n", a + 1);
    world.call_with(CLYDE, "bonnie", &line);
    world.run_for(seconds(1));
    let first = find(&world, from, Party::Balancer, Party::Pbx(b), "INVITE", "INVITE").expect("it goes to Clyde's box");
    let text = world.wire().get(first).map(|sent| Text::read(&sent.bytes)).expect("it was found on the wire");
    assert_eq!(text.all("X-Tandem-Origin"), ["client"]);
    let challenge = find(&world, first, Party::Pbx(b), Party::Balancer, "401", "INVITE").or(find(
        &world,
        first,
        Party::Pbx(b),
        Party::Balancer,
        "407",
        "INVITE",
    ));
    assert!(challenge.is_some(), "B challenges it");
}
