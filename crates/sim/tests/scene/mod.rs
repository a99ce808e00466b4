//! What the scenarios share: two phones, two boxes, one farm.

#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod forker;

use engine::Farm;
use sim::{BoxPlan, Link, Party, PhonePlan, Sent, Text, World, WorldSettings, one_farm};
use std::time::Duration;
use ua::CallId;

pub(crate) const BONNIE: usize = 0;
pub(crate) const CLYDE: usize = 1;

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Bonnie and Clyde behind NATs, and two boxes that know both.
pub(crate) fn equal_users(adjust: impl FnOnce(&mut Farm)) -> World {
    let phones = vec![PhonePlan::behind_nat(BONNIE, "bonnie"), PhonePlan::behind_nat(CLYDE, "clyde")];
    let boxes = vec![BoxPlan::new(0, &["bonnie", "clyde"]), BoxPlan::new(1, &["bonnie", "clyde"])];
    World::new(1, WorldSettings { settings: one_farm(2, adjust), shards: 4, link: Link::default(), boxes, phones })
}

/// The same with both phones registered.
pub(crate) fn registered(adjust: impl FnOnce(&mut Farm)) -> World {
    let mut world = equal_users(adjust);
    for phone in [BONNIE, CLYDE] {
        world.register(phone);
        world.expect("registered", seconds(5), |world| world.phone(phone).is_registered());
    }
    world
}

/// Bonnie calls Clyde, who answers. Returns her call and his.
pub(crate) fn call_up(world: &mut World) -> (CallId, CallId) {
    let call = world.call(BONNIE, "clyde");
    world.expect("the call is answered", seconds(5), |world| world.phone(BONNIE).is_answered(call));
    let incoming = world.phone(CLYDE).incoming().last().copied().expect("the answered call came to Clyde");
    world.expect("the ACK arrives", seconds(5), |world| world.phone(CLYDE).is_confirmed(incoming));
    (call, incoming)
}

/// Both phones hang up, Clyde's first if he is `first`; both calls must be over, each BYE answered 200.
pub(crate) fn hang_up(world: &mut World, first: usize, bonnies: CallId, clydes: CallId) {
    let call = if first == BONNIE { bonnies } else { clydes };
    world.hang_up(first, call);
    world.expect("the BYE is answered 200", seconds(10), |world| world.phone(first).ended(call) == Some((true, 200)));
    let (other, call) = if first == BONNIE { (CLYDE, clydes) } else { (BONNIE, bonnies) };
    world.expect("the other side hangs up", seconds(10), |world| world.phone(other).ended(call) == Some((false, 200)));
}

/// The box that a phone's last REGISTER went to.
pub(crate) fn box_of(world: &World, user: &str) -> Option<usize> {
    (0..world.pbxs().len()).find(|index| world.pbx(*index).bindings().iter().any(|(bound, _)| bound == user))
}

/// The first datagram from one party to another with that start line's first word (method or status code), at or after
/// position `from` of the wire.
pub(crate) fn find(
    world: &World,
    from: usize,
    sender: Party,
    receiver: Party,
    what: &str,
    method: &str,
) -> Option<usize> {
    world.wire().iter().enumerate().skip(from).find_map(|(index, sent)| {
        (sent.sender == sender && sent.receiver == Some(receiver) && is(sent, what, method)).then_some(index)
    })
}

/// Whether it is a request of that method (`what` = method) or a response of that code to it.
pub(crate) fn is(sent: &Sent, what: &str, method: &str) -> bool {
    let text = Text::read(&sent.bytes);
    match text.code() {
        Some(code) => code.to_string() == what && text.method() == method,
        None => text.method() == what && what == method,
    }
}
