//! Calls, good ones and bad ones.

use super::world::{World, answer_with, answering, call, pbx, plan, reply};
use crate::audio::tone;
use crate::plan::{CallPlan, Kind, Plan, Sound};
use crate::report::{Figure, Range, State, Threshold};
use crate::{Report, Unreachable};
use sip::{Method, rtp};
use std::time::Duration;
use ua::Answering;

const DESCRIPTION: &str =
    "v=0\r\no=- 1 1 IN IP4 10.0.0.11\r\ns=-\r\nc=IN IP4 10.0.0.11\r\nt=0 0\r\nm=audio 4000 RTP/AVP ";

fn call_with(expect_audio: bool, min_mos: f64) -> Plan {
    let target = "sip:clyde@10.0.0.11".to_owned();
    plan(Kind::Call(CallPlan { target, sounds: Vec::new(), expect_audio, min_mos }))
}

fn registered() -> Plan {
    Plan { registrar: Some(pbx()), ..plan(call()) }
}

fn seconds(report: &Report) -> f64 {
    report.figures.total.as_secs_f64()
}

#[test]
fn a_good_call_registers_speaks_hears_and_leaves_nothing_behind() {
    let mut world = World::office();
    let report = world.run(registered());
    assert_eq!(report.state, State::Ok, "{}", report.line());
    assert!(report.text.starts_with("clyde@10.0.0.11 answered after 0.1"), "{}", report.text);
    assert!(report.text.contains(", 100 of 100 packets came back, MOS 4."), "{}", report.text);
    let sent: Vec<&str> = world.wire.iter().map(String::as_str).filter(|label| !label.contains(' ')).collect();
    assert_eq!(sent, ["REGISTER", "REGISTER", "INVITE", "ACK", "INVITE", "ACK", "BYE", "REGISTER"]);
    assert_eq!((world.calls(), world.bindings()), (0, vec!["clyde".to_owned()]));
    let figures = &report.figures;
    assert_eq!(figures.register, Some(Duration::from_millis(20)));
    assert!(figures.ring.is_some() && figures.ring < figures.answer, "{figures:?}");
    assert_eq!(figures.sent, 100);
    assert!(figures.total < Duration::from_millis(2_600), "{figures:?}");
    let audio: Vec<&str> =
        report.ladder.iter().map(|step| step.line.as_str()).filter(|line| line.starts_with("RTP")).collect();
    assert_eq!(audio, ["RTP: 100 packets", "RTP: 100 packets"]);
    assert!(report.ladder.iter().filter(|step| !step.line.starts_with("RTP")).all(|step| !step.octets.is_empty()));
}

#[test]
fn sounds_follow_each_other_in_one_call() {
    let sound = |octets: usize| Sound { name: "x".to_owned(), samples: vec![0x55; octets].into() };
    let target = "sip:clyde@10.0.0.11".to_owned();
    let sounds = vec![sound(8_000), sound(4_000)];
    let mut world = World::home();
    let report = world.run(plan(Kind::Call(CallPlan { target, sounds, expect_audio: true, min_mos: 0.0 })));
    assert_eq!(report.state, State::Ok, "{}", report.line());
    assert_eq!(report.figures.sent, 75);
    assert_eq!(world.wire.iter().filter(|label| *label == "INVITE").count(), 1);
}

#[test]
fn audio_is_recorded_where_it_is_asked_for() {
    let mut world = World::home();
    world.start(plan(call()));
    world.probe().record();
    let report = world.finish();
    assert!((15_500..=16_500).contains(&report.recording.len()), "{}", report.recording.len());
    assert!(World::home().run(plan(call())).recording.is_empty());
}

#[test]
fn silence_is_said_and_is_critical_only_for_who_expects_audio() {
    for (plan, state) in [
        (call_with(false, 0.0), State::Ok),
        (call_with(true, 0.0), State::Critical),
        (call_with(false, 3.0), State::Critical),
    ] {
        let mut world = World::home();
        world.echo = |_| false;
        let report = world.run(plan);
        assert_eq!(report.state, state, "{}", report.line());
        assert!(report.text.ends_with("no audio came back"), "{}", report.text);
        assert!(report.figures.quality.is_none());
        assert_eq!(world.calls(), 0);
    }
    let mut world = World::home();
    world.echo = |_| false;
    world.start(call_with(true, 0.0));
    world.run_for(Duration::from_secs(1));
    world.act(|probe, now| probe.handle_unreachable(now, Unreachable::Media));
    let report = world.finish();
    assert_eq!(report.text, "no audio came back, for the audio port is closed");
}

/// Which packets come back.
type Arrives = fn(u64) -> bool;

#[test]
fn audio_that_ends_early_is_told_and_is_no_fault() {
    let cases: [(Arrives, &str); 3] = [
        (|packet| packet < 60, "60 of 100 packets came back, the last after 1.2 s, MOS 4."),
        (|packet| packet < 70, "70 of 100 packets came back, MOS 4."),
        (|packet| packet % 50 == 0, "2 of 100 packets came back, the last after 1.02 s, MOS 1."),
    ];
    for (echo, text) in cases {
        let mut world = World::home();
        world.echo = echo;
        let report = world.run(call_with(true, 0.0));
        assert_eq!(report.state, State::Ok, "{}", report.line());
        assert!(report.text.contains(text), "{}", report.text);
        let until = report.figures.heard_until.expect("audio came").as_secs_f64();
        assert_eq!(report.json()["audio"]["until"], until);
    }
}

#[test]
fn with_a_least_score_an_echo_must_not_end_early_but_may_begin_late() {
    let cases: [(Arrives, State, &str); 5] = [
        (|packet| packet < 60, State::Critical, "the audio that came back stopped early, after 60 of 100 packets"),
        (|packet| packet < 85, State::Critical, "the audio that came back stopped early, after 85 of 100 packets"),
        // Lost at the very end, or still under way.
        (|packet| packet < 90, State::Ok, "90 of 100 packets came back, MOS 4."),
        // It answers, waits for a second, and echoes.
        (|packet| packet >= 50, State::Ok, "50 of 100 packets came back, MOS 4."),
        (
            |packet| (50..80).contains(&packet),
            State::Critical,
            "the audio that came back stopped early, after 30 of 100 packets",
        ),
    ];
    for (echo, state, text) in cases {
        let mut world = World::home();
        world.echo = echo;
        let report = world.run(call_with(false, 3.5));
        assert_eq!(report.state, state, "{}", report.line());
        assert!(report.text.contains(text), "{}", report.text);
    }
}

/// A call that wants a least score: the tone comes back so long after it was said, in packets of so many octets.
fn packed_anew(delay: Duration, octets: usize) -> Report {
    let mut world = World::home();
    world.echo = |_| false;
    world.start(call_with(false, 3.5));
    // The call is up after 110 ms, and packets leave at multiples of 20 ms.
    world.run_for(Duration::from_millis(120) + delay);
    let sound = tone();
    for (number, payload) in sound.samples.chunks(octets).enumerate() {
        let (sequence, timestamp) = (number as u16, (number * octets) as u32);
        let mut bytes = Vec::new();
        let packet = rtp::Packet { marker: number == 0, payload_type: 0, sequence, timestamp, ssrc: 1, payload };
        rtp::write(&packet, &mut bytes);
        world.act(|probe, now| probe.handle_audio(now, &bytes));
        world.run_for(Duration::from_micros(octets as u64 * 125));
    }
    world.finish()
}

#[test]
fn long_packets_and_long_ways_are_no_early_end() {
    // A server that sends a packet each 40 ms, and one half a second away, whose last packets come when we have hung up.
    for (delay, octets, packets) in [(40, 320, 50), (510, 160, 84)] {
        let report = packed_anew(Duration::from_millis(delay), octets);
        assert_eq!(report.state, State::Ok, "{}", report.line());
        let text = format!("{packets} of 100 packets came back, MOS 4.");
        assert!(report.text.contains(&text), "{}", report.text);
    }
}

#[test]
fn comfort_noise_is_no_early_end() {
    let mut world = World::home();
    world.echo = |packet| packet < 20;
    world.start(call_with(true, 3.5));
    world.run_for(Duration::from_secs(1));
    let mut noise = Vec::new();
    let packet = rtp::Packet { marker: false, payload_type: 13, sequence: 0, timestamp: 0, ssrc: 1, payload: &[0x40] };
    rtp::write(&packet, &mut noise);
    world.act(|probe, now| probe.handle_audio(now, &noise));
    let report = world.finish();
    assert!(report.text.contains("20 of 100 packets came back, MOS 4."), "{}", report.text);
}

#[test]
fn loss_lowers_the_score_and_a_least_score_makes_it_critical() {
    let lossy = |plan: Plan| {
        let mut world = World::home();
        world.echo = |packet| packet % 10 != 5;
        world.run(plan)
    };
    let report = lossy(plan(call()));
    assert_eq!(report.state, State::Ok);
    let quality = report.figures.quality.expect("audio came back");
    assert_eq!((quality.received, quality.expected), (90, 100));
    assert!(report.text.contains("90 of 100 packets came back"), "{}", report.text);
    assert!(quality.mos < 3.6, "{}", quality.mos);
    let report = lossy(call_with(false, 4.0));
    assert_eq!(report.state, State::Critical);
    assert!(report.text.contains("less than 4"), "{}", report.text);
    let loss = Threshold { figure: Figure::Loss, warning: Range::parse("5").ok(), critical: Range::parse("20").ok() };
    let report = lossy(Plan { thresholds: vec![loss], ..plan(call()) });
    assert_eq!(report.state, State::Warning);
    assert!(report.text.ends_with("loss=10% is out of 5"), "{}", report.text);
    assert!(report.line().contains(" loss=10%;5;20;0;100 "), "{}", report.line());
}

#[test]
fn a_busy_callee_is_told_at_once() {
    let mut world = World::home();
    world.clyde().set_answering(Answering { code: 486, ..answering() });
    let report = world.run(plan(call()));
    assert_eq!((report.state, report.text.as_str()), (State::Critical, "busy: 486 Busy Here"));
    assert_eq!(world.wire, ["INVITE", "180 INVITE", "486 INVITE", "ACK"]);
    assert!(seconds(&report) < 0.2);
}

#[test]
fn who_only_rings_is_cancelled_in_time() {
    let mut world = World::home();
    world.clyde().set_answering(Answering { answer_after: None, ..answering() });
    let report = world.run(plan(call()));
    assert_eq!((report.state, report.text.as_str()), (State::Critical, "rings but nobody answered within 7 s"));
    assert_eq!(world.wire, ["INVITE", "180 INVITE", "CANCEL", "200 CANCEL", "487 INVITE", "ACK"]);
    assert_eq!(world.calls(), 0);
    assert!(report.figures.ring.is_some() && report.figures.answer.is_none());
}

#[test]
fn an_invite_that_nobody_hears_is_cancelled_in_time() {
    let mut world = World::empty();
    let report = world.run(plan(call()));
    assert_eq!(report.text, "no answer to INVITE from 10.0.0.11:5060 within 7 s");
    assert_eq!(report.state, State::Critical);
    assert!((seconds(&report) - 7.0).abs() < 0.001, "known at 7 s: {}", seconds(&report));
    let cancelled = world.wire.iter().position(|label| label == "CANCEL").expect("it is cancelled");
    assert!(world.wire.iter().skip(cancelled).all(|label| label == "CANCEL"), "{:?}", world.wire);
}

#[test]
fn an_invite_that_is_only_taken_is_told_apart() {
    let script = |request: &sip::Message<'_>| match request.method() {
        Method::Invite => Some(reply(request, 100, "")),
        _ => None,
    };
    let report = World::scripted(script).run(plan(call()));
    assert_eq!(report.text, "10.0.0.11:5060 took the INVITE and gave no final answer within 7 s");
}

#[test]
fn an_answer_that_cannot_be_talked_to_is_acknowledged_and_hung_up() {
    let cases: [(super::world::Script, &str); 5] = [
        (|request| answer_with(request, ""), "answered without SDP"),
        (
            |request| answer_with(request, &format!("{DESCRIPTION}8 101\r\n")),
            "answered with PCMA only, PCMU was offered",
        ),
        (
            |request| answer_with(request, &format!("{DESCRIPTION}9 101\r\n")),
            "answered without PCMU, which was offered (payloads [9, 101])",
        ),
        (
            |request| answer_with(request, &format!("{DESCRIPTION}0\r\na=inactive\r\n")),
            "answered, but put the call on hold (inactive)",
        ),
        (|request| answer_with(request, "v=0\r\n"), "answered with SDP that names no audio stream and address"),
    ];
    for (script, text) in cases {
        let mut world = World::scripted(script);
        let report = world.run(plan(call()));
        assert_eq!((report.state, report.text.as_str()), (State::Critical, text));
        assert_eq!(world.wire, ["INVITE", "200 INVITE", "ACK", "BYE", "200 BYE"], "{text}");
        assert_eq!(report.figures.sent, 0);
    }
}

#[test]
fn a_call_that_is_hung_up_early_is_critical_and_one_after_the_last_word_is_not() {
    for (after, state) in [(400, State::Critical), (2_150, State::Ok)] {
        let mut world = World::home();
        let hang_up_after = Some(Duration::from_millis(after));
        world.clyde().set_answering(Answering { hang_up_after, ..answering() });
        let report = world.run(plan(call()));
        assert_eq!(report.state, state, "{}", report.line());
        assert_eq!(world.calls(), 0);
        if state == State::Critical {
            assert_eq!(report.text, "hung up by the other side after 0.41 s, in the middle of the audio");
        } else {
            assert_eq!(report.figures.sent, 100);
        }
    }
}

#[test]
fn a_call_that_both_sides_hang_up_at_once_is_over_without_a_warning() {
    let script = |request: &sip::Message<'_>| match request.method() {
        _ if !request.is_request() => None,
        // Theirs was first: their call is gone.
        Method::Bye => Some(reply(request, 481, "")),
        _ => answer_with(request, &format!("{DESCRIPTION}0\r\n")),
    };
    let mut world = World::scripted(script);
    world.start(plan(call()));
    for _ in 0..3_000 {
        if world.wire.iter().any(|label| label == "BYE") {
            break;
        }
        world.run_for(Duration::from_millis(1));
    }
    let now = world.now;
    let ladder = world.probe().report(now).ladder;
    let ours = ladder.iter().find(|step| step.line.starts_with("BYE ")).expect("we have hung up");
    let theirs = crossing(&ours.octets);
    world.act(|probe, now| probe.handle_message(now, pbx(), &theirs));
    let report = world.finish();
    assert_eq!(report.state, State::Ok, "{}", report.line());
    assert!(world.wire.ends_with(&["200 BYE".to_owned(), "481 BYE".to_owned()]), "{:?}", world.wire);
}

/// The BYE of the other side of the same call.
fn crossing(ours: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(ours);
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).expect("a BYE has it").to_owned();
    format!(
        "BYE sip:bonnie@10.1.0.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.11:5060;branch=z9hG4bKtheirs\r\n\
         Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n",
        value("To: "),
        value("From: "),
        value("Call-ID: ")
    )
    .into_bytes()
}

#[test]
fn a_bye_without_answer_is_a_warning_in_time() {
    let mut world = World::office();
    world.lost.insert("200 BYE");
    let report = world.run(registered());
    assert_eq!(report.state, State::Warning, "{}", report.line());
    assert!(report.text.ends_with("but BYE was not answered by 10.0.0.11:5060"), "{}", report.text);
    assert_eq!(world.bindings(), ["clyde"], "un-registered all the same");
}

#[test]
fn a_bye_that_is_refused_is_a_warning_too() {
    let script = |request: &sip::Message<'_>| match request.method() {
        Method::Bye => Some(reply(request, 481, "")),
        _ => answer_with(request, &format!("{DESCRIPTION}0\r\n")),
    };
    let report = World::scripted(script).run(plan(call()));
    assert_eq!(report.state, State::Warning, "{}", report.line());
    assert!(report.text.contains("but BYE was refused: 481 "), "{}", report.text);
}

#[test]
fn audio_longer_than_the_time_is_cut() {
    let sounds = vec![Sound { name: "x".to_owned(), samples: vec![0x55; 80_000].into() }];
    let target = "sip:clyde@10.0.0.11".to_owned();
    let mut world = World::home();
    let report = world.run(plan(Kind::Call(CallPlan { target, sounds, expect_audio: true, min_mos: 0.0 })));
    assert_eq!(report.state, State::Warning);
    assert!(report.text.starts_with("the audio was not at its end after 6.89 s"), "{}", report.text);
    assert_eq!(world.calls(), 0);
}

#[test]
fn a_call_to_the_check_itself_is_busy() {
    let mut world = World::office();
    world.start(registered());
    world.run_for(Duration::from_millis(500));
    let now = world.now;
    let media = answering().media;
    world.clyde().call(now, "sip:bonnie@example.com", media);
    let report = world.finish();
    assert_eq!(report.state, State::Ok, "{}", report.line());
    assert!(world.wire.iter().any(|label| label == "486 INVITE"));
}
