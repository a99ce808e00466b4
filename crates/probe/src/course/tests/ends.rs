//! Runs that end before they wanted to.

use super::world::{World, answering, call, fall_silent, pbx, plan};
use crate::plan::{Kind, Plan};
use crate::report::State;
use std::time::Duration;
use ua::Answering;

fn registered() -> Plan {
    Plan { registrar: Some(pbx()), ..plan(call()) }
}

#[test]
fn an_interruption_leaves_nothing_behind_in_any_stage() {
    for millis in (0..2_500).step_by(7) {
        let mut world = World::office();
        world.start(registered());
        world.run_for(Duration::from_millis(millis));
        if world.probe().is_over() {
            continue;
        }
        world.act(|probe, now| probe.interrupt(now));
        let begun = world.now;
        while !world.probe().is_over() {
            world.run_for(Duration::from_millis(5));
            assert!(world.now.saturating_since(begun) < Duration::from_secs(2), "interrupted after {millis} ms");
        }
        let report = world.finish();
        assert_eq!((report.state, report.text.as_str()), (State::Unknown, "interrupted"), "after {millis} ms");
        assert_eq!((world.calls(), world.bindings()), (0, vec!["clyde".to_owned()]), "after {millis} ms");
    }
}

#[test]
fn an_interruption_while_it_rings_cancels() {
    let mut world = World::office();
    world.clyde().set_answering(Answering { answer_after: None, ..answering() });
    world.start(registered());
    world.run_for(Duration::from_secs(1));
    world.act(|probe, now| probe.interrupt(now));
    let report = world.finish();
    assert_eq!(report.state, State::Unknown);
    assert!(world.wire.iter().any(|label| label == "CANCEL"));
    assert_eq!((world.calls(), world.bindings()), (0, vec!["clyde".to_owned()]));
}

#[test]
fn the_limit_holds_whenever_the_other_side_falls_silent() {
    for millis in (0..2_400).step_by(40) {
        let mut world = World::office();
        world.start(Plan { limit: Duration::from_secs(4), ..registered() });
        world.run_for(Duration::from_millis(millis));
        if world.probe().is_over() {
            continue;
        }
        fall_silent(&mut world);
        // That the limit holds is asserted there.
        let report = world.finish();
        let expected = if millis < 120 { State::Critical } else { State::Warning };
        assert!(
            report.state == expected || (100..200).contains(&millis),
            "silent after {millis} ms: {}",
            report.line()
        );
        assert_ne!(report.state, State::Ok, "silent after {millis} ms");
        assert!(report.figures.total <= Duration::from_secs(4));
    }
}

#[test]
fn the_last_words_take_back_call_and_binding_once_more() {
    let mut world = World::office();
    world.start(Plan { limit: Duration::from_secs(4), ..registered() });
    world.run_for(Duration::from_secs(1));
    world.lost.extend(["200 BYE", "200 REGISTER"]);
    world.run_for(Duration::from_millis(2_990));
    let before = world.wire.len();
    world.run_for(Duration::from_millis(10));
    world.act(|probe, now| probe.abandon(now));
    assert!(world.probe().is_over());
    let last: Vec<&str> = world.wire.iter().skip(before).map(String::as_str).collect();
    assert!(last.contains(&"BYE") && last.contains(&"REGISTER"), "{last:?}");
    let report = world.finish();
    assert_eq!(report.state, State::Warning, "{}", report.line());
    assert_eq!(world.bindings(), ["clyde"]);
}

#[test]
fn who_is_abandoned_in_the_middle_still_hangs_up() {
    let mut world = World::office();
    world.start(registered());
    world.run_for(Duration::from_secs(1));
    world.act(|probe, now| probe.abandon(now));
    assert!(world.probe().is_over());
    let report = world.finish();
    assert_eq!(report.state, State::Unknown);
    assert_eq!((world.calls(), world.bindings()), (0, vec!["clyde".to_owned()]));
}

#[test]
fn who_stays_after_the_verdict_clears_up_beyond_the_limit() {
    let mut world = World::office();
    world.clyde().set_answering(Answering { answer_after: None, ..answering() });
    world.lost.insert("CANCEL");
    world.start(registered());
    world.run_for(Duration::from_millis(8_900));
    assert!(world.probe().is_decided() && !world.probe().is_over());
    world.run_for(Duration::from_millis(500));
    assert!(!world.probe().is_over(), "nobody abandons it");
    world.lost.clear();
    world.run_for(Duration::from_secs(5));
    assert!(world.probe().is_over());
    assert_eq!((world.calls(), world.bindings()), (0, vec!["clyde".to_owned()]));
}

#[test]
fn a_limit_of_nothing_is_over_at_once() {
    for kind in [Kind::Register, call()] {
        let mut world = World::office();
        let report = world.run(Plan { limit: Duration::ZERO, ..plan(kind) });
        assert_eq!(report.state, State::Critical, "{}", report.line());
        assert_eq!((world.calls(), world.bindings()), (0, vec!["clyde".to_owned()]));
    }
}
