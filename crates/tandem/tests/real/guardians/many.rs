//! More boxes than are checked at a time, and none of them answers.

use super::{SOON, World, farm, guardian_state};
use crate::common::unit::counter;
use crate::common::wire::{Station, Taken};
use crate::common::{Unit, holds_within, namespace};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// What the boxes have heard.
#[derive(Default)]
struct Heard {
    /// Call-IDs of the calls that began, and of those that were taken back.
    begun: BTreeSet<String>,
    ended: BTreeSet<String>,
    /// Request-URIs of calls that were taken back: each box has its own.
    checked: BTreeSet<String>,
    /// Calls that were under way at a time.
    most: usize,
}

impl Heard {
    fn take(&mut self, taken: &Taken) {
        let call_id = taken.text("call-id").unwrap_or_default();
        if taken.start.starts_with(b"INVITE ") {
            // Nobody answers, so that it is repeated.
            self.begun.insert(call_id);
            self.most = self.most.max(self.begun.len() - self.ended.len());
        } else if taken.start.starts_with(b"CANCEL ") && self.begun.contains(&call_id) {
            self.ended.insert(call_id);
            self.checked.insert(taken.target());
        }
    }
}

/// A call that nobody answers is under way until it is taken back by CANCEL, which comes before the next one begins.
#[test]
fn no_more_than_sixty_four_boxes_are_called_at_a_time_and_all_have_their_turn() {
    if !namespace() {
        return;
    }
    // They are due within a second, and none ends before two have passed.
    let world = World::new();
    let table = world.call("silent", "interval = \"1s\"\ntimeout = \"3s\"");
    let hosts: Vec<String> = (1..=BOXES).map(|number| format!("127.1.0.{number}")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    // One socket hears for all of them, at a port that the farm has not.
    let boxes = Station::at("0.0.0.0:5070");
    let unit = Unit::start(&farm("\"silent\"", &hosts, &table).replace(":5060\"\n", ":5070\"\n"));
    let mut heard = Heard::default();
    let gives_up = Instant::now() + SOON;
    while heard.checked.len() < BOXES {
        assert!(Instant::now() < gives_up, "{} of {BOXES} boxes\n{}", heard.checked.len(), unit.said());
        if let Some((octets, _)) = boxes.next(Duration::from_millis(100)) {
            heard.take(&Taken::of(&octets));
        }
    }
    assert_eq!(heard.most, AT_ONCE);
    let all_told = holds_within(SOON, || {
        let status = unit.status();
        (1..=BOXES).all(|number| {
            let state = guardian_state(&status, &format!("pbx{number}"), "silent");
            ["failing", "down"].contains(&state.as_str())
        })
    });
    let status = unit.status();
    assert!(all_told, "{status:#}\n{}", unit.said());
    let waited = counter(&status, "checks_waited", "");
    assert!(waited >= (BOXES - AT_ONCE) as u64, "{waited} have waited");
}

const BOXES: usize = 80;
const AT_ONCE: usize = 64;
