//! The active check: OPTIONS to every backend, how often, how long, and what its answers change.

use crate::steps::{SILENCE, counted, events, first_box, heard, millis, seconds};
use engine::{Accept, AnswerClass, BackendId, DownCause, Effect, Event, Guardian, Settings, UpCause};
use sim::settings::listener;
use sim::{Answer, Bench, Datagram, Text, box_address, one_farm};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Boxes that are pinged every 10 s, with this timeout in seconds.
fn pinged(boxes: usize, timeout: u64, rise: u32, fall: u32) -> Settings {
    one_farm(boxes, |farm| {
        for service in &mut farm.services {
            service.guardians = vec![guardian("options", timeout, rise, fall)];
        }
    })
}

fn guardian(name: &str, timeout: u64, rise: u32, fall: u32) -> Arc<Guardian> {
    Arc::new(Guardian { name: name.into(), timeout: seconds(timeout), rise, fall, ..Guardian::options() })
}

fn down(reason: &str) -> Event {
    let cause = DownCause::Check { guardian: "options".into(), reason: reason.into() };
    Event::BackendDown { backend: backend(), cause }
}

/// The next ping of the only box: it comes within eleven seconds.
fn next_ping(bench: &mut Bench) -> Datagram {
    for _ in 0..111 {
        if let Some(ping) = bench.sent_to(box_address(0)).into_iter().next() {
            return ping;
        }
        bench.advance(millis(100));
    }
    panic!("no ping came");
}

fn backend() -> BackendId {
    BackendId::of("pbx", "pbx1", box_address(0))
}

/// Lets the clock run until so many milliseconds after `ping` was sent.
fn advance_after(bench: &mut Bench, ping: &Datagram, after: u64) {
    let until = ping.at + millis(after);
    bench.advance(until.saturating_since(bench.now()));
}

/// At a start all boxes are asked at once, but not all in one moment; each by one shard only.
#[test]
fn the_first_round_comes_within_a_second() {
    let mut bench = Bench::new(pinged(16, 2, 2, 3));
    bench.advance(millis(1_010));
    let mut times = BTreeSet::new();
    for index in 0..16 {
        let sent = bench.sent_to(box_address(index));
        let first = sent.first().expect("each box is pinged");
        assert!(sent.iter().all(|copy| copy.bytes == first.bytes), "one ping and its repetition");
        times.insert(bench.millis(first));
    }
    assert!(times.len() > 8, "spread over the second: {times:?}");
    assert_eq!(counted(&mut bench, "pings"), 16);
    bench.assert_quiet();
}

#[test]
fn a_ping_is_an_options_request_of_our_own() {
    let mut bench = Bench::new(pinged(1, 2, 2, 3));
    let ping = next_ping(&mut bench);
    let text = Text::read(&ping.bytes);
    assert_eq!((text.method(), text.uri()), ("OPTIONS", "sip:10.0.1.1:5060"));
    let vias = text.values("Via");
    assert_eq!(vias.len(), 1);
    assert!(vias.iter().all(|via| via.starts_with("SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bK")), "{vias:?}");
    assert_eq!((text.header("To"), text.header("CSeq")), (Some("<sip:10.0.1.1:5060>"), Some("1 OPTIONS")));
    assert_eq!((text.header("Max-Forwards"), text.header("User-Agent")), (Some("70"), Some("tandem")));
    bench.answer(&ping, &Answer::new(200));
    bench.assert_quiet();
    let next = Text::read(&next_ping(&mut bench).bytes);
    assert_ne!((next.branch(), next.header("Call-ID")), (text.branch(), text.header("Call-ID")));
}

/// RFC 3261 §17.1.2.2, timer E, until the timeout, to the second ping after the interval.
#[test]
fn a_ping_is_repeated_until_its_timeout() {
    let mut bench = Bench::new(pinged(1, 4, 1, 1));
    let ping = next_ping(&mut bench);
    advance_after(&mut bench, &ping, 3_990);
    let copies = bench.sent_to(box_address(0));
    assert!(copies.iter().all(|copy| copy.bytes == ping.bytes));
    let start = bench.millis(&ping);
    crate::steps::assert_times(&bench, &copies, &[start + 500, start + 1_500, start + 3_500]);
    assert_eq!((counted(&mut bench, "pings"), counted(&mut bench, "ping_failures")), (1, 0));
    advance_after(&mut bench, &ping, 4_010);
    assert_eq!(counted(&mut bench, "ping_failures"), 1);
    advance_after(&mut bench, &ping, 9_490);
    assert_eq!(heard(&mut bench, box_address(0)), SILENCE);
    advance_after(&mut bench, &ping, 10_510);
    let next = bench.sent_to(box_address(0)).into_iter().next().expect("the next one");
    assert_ne!(next.bytes, ping.bytes);
}

/// A tenth of the interval, half of it on either side, keeps boxes and units from beating together.
#[test]
fn pings_come_every_interval_with_a_tenth_of_jitter() {
    let mut bench = Bench::new(pinged(1, 2, 2, 3));
    let mut times = Vec::new();
    for _ in 0..80 {
        let ping = next_ping(&mut bench);
        times.push(bench.millis(&ping));
        bench.answer(&ping, &Answer::new(200));
    }
    let gaps: Vec<u64> = times.iter().zip(times.iter().skip(1)).map(|(one, next)| next - one).collect();
    let (least, most) = (gaps.iter().min().copied(), gaps.iter().max().copied());
    assert!(least.is_some_and(|gap| (9_499..9_700).contains(&gap)), "{gaps:?}");
    assert!(most.is_some_and(|gap| (10_300..=10_510).contains(&gap)), "{gaps:?}");
    assert_eq!((counted(&mut bench, "pings"), counted(&mut bench, "ping_failures")), (80, 0));
    assert_eq!(first_box(&mut bench).state, "up");
}

/// While it is not decided whether a box is there, it is asked a tenth of the interval after each outcome: a box that died is found out
/// within the interval and a few timeouts, and one that came back as fast.
#[test]
fn a_box_in_doubt_is_asked_again_soon() {
    let mut bench = Bench::new(pinged(1, 2, 3, 3));
    let mut ping = next_ping(&mut bench);
    let died = ping.at;
    for _ in 0..2 {
        advance_after(&mut bench, &ping, 2_990);
        assert!(
            bench.sent_to(box_address(0)).iter().all(|copy| copy.bytes == ping.bytes),
            "a second after the timeout"
        );
        advance_after(&mut bench, &ping, 3_010);
        ping = next_ping(&mut bench);
    }
    advance_after(&mut bench, &ping, 2_010);
    assert_eq!(first_box(&mut bench).state, "down");
    assert!(bench.now().saturating_since(died) < millis(8_100), "three timeouts, and two seconds between");
    // From now on there is no doubt any more, until it answers.
    advance_after(&mut bench, &ping, 9_490);
    assert!(bench.sent_to(box_address(0)).iter().all(|copy| copy.bytes == ping.bytes));
    let ping = next_ping(&mut bench);
    let came_back = ping.at;
    bench.answer(&ping, &Answer::new(200));
    for _ in 0..2 {
        let again = next_ping(&mut bench);
        bench.answer(&again, &Answer::new(200));
    }
    assert_eq!(first_box(&mut bench).state, "up");
    assert!(bench.now().saturating_since(came_back) < millis(2_500));
}

/// Each guardian asks and counts for itself; one that only warns takes nothing out.
#[test]
fn several_guardians_watch_one_box() {
    let mut settings = pinged(1, 2, 1, 1);
    for service in settings.farms.iter_mut().flat_map(|farm| &mut farm.services) {
        let accept = Some(Accept(vec![AnswerClass::Class(2)]));
        let strict =
            Guardian { options: accept, effect: Effect::Warn, ..Guardian::clone(&guardian("strict", 2, 1, 1)) };
        service.guardians.push(Arc::new(strict));
    }
    let mut bench = Bench::new(settings);
    for (code, state) in [(200, "up"), (404, "up"), (503, "down"), (404, "up"), (200, "up")] {
        // One of each guardian: they do not drift apart by a whole interval that fast.
        for _ in 0..2 {
            let ping = next_ping(&mut bench);
            bench.answer(&ping, &Answer::new(code));
        }
        assert_eq!(first_box(&mut bench).state, state, "{code}");
    }
    let warned = |event: &Event| matches!(event, Event::BackendWarned { .. } | Event::WarningOver { .. });
    let (warnings, others): (Vec<Event>, Vec<Event>) = events(&mut bench).into_iter().partition(warned);
    let (guardian, reason): (Arc<str>, Arc<str>) = ("strict".into(), "OPTIONS answered 404".into());
    let over = Event::WarningOver { backend: backend(), guardian: Arc::clone(&guardian) };
    assert_eq!(warnings, [Event::BackendWarned { backend: backend(), guardian, reason }, over]);
    let up = Event::BackendUp { backend: backend(), cause: UpCause::Check("options".into()) };
    assert_eq!(others, [down("OPTIONS answered 503"), up]);
}

/// Three bad answers in a row and the box is down, two good ones and it is up. 5xx and 408 are bad; any other final answer shows that
/// somebody is there.
#[test]
fn a_box_falls_and_rises_by_answers_in_a_row() {
    let mut bench = Bench::new(pinged(1, 2, 2, 3));
    for (number, (code, state)) in [
        (200, "up"),
        (503, "up"),
        (500, "up"),
        (404, "up"),
        (408, "up"),
        (503, "up"),
        (599, "down"),
        (200, "down"),
        (501, "down"),
        (200, "down"),
        (405, "up"),
    ]
    .into_iter()
    .enumerate()
    {
        let ping = next_ping(&mut bench);
        bench.answer(&ping, &Answer::new(code));
        assert_eq!(first_box(&mut bench).state, state, "{code}, ping {number}");
    }
    let up = Event::BackendUp { backend: backend(), cause: UpCause::Check("options".into()) };
    assert_eq!(events(&mut bench), [down("OPTIONS answered 599"), up]);
    assert_eq!(counted(&mut bench, "stray_responses"), 0);
}

#[test]
fn a_box_falls_by_silence() {
    let mut bench = Bench::new(pinged(1, 2, 2, 2));
    for (failures, state) in [(1, "up"), (2, "down")] {
        let ping = next_ping(&mut bench);
        advance_after(&mut bench, &ping, 1_990);
        assert_eq!((counted(&mut bench, "ping_failures"), first_box(&mut bench).state), (failures - 1, "up"));
        advance_after(&mut bench, &ping, 2_010);
        assert_eq!((counted(&mut bench, "ping_failures"), first_box(&mut bench).state), (failures, state));
        heard(&mut bench, box_address(0));
    }
    assert_eq!(events(&mut bench), [down("no answer to OPTIONS within 2 s")]);
}

/// A provisional answer says that something forwards, not that the box serves; and what comes after the timeout is late.
#[test]
fn only_a_final_answer_in_time_counts() {
    for code in [100, 180, 199] {
        let mut bench = Bench::new(pinged(1, 2, 1, 1));
        let ping = next_ping(&mut bench);
        bench.answer(&ping, &Answer::new(code));
        advance_after(&mut bench, &ping, 1_990);
        assert_eq!(first_box(&mut bench).state, "up");
        advance_after(&mut bench, &ping, 2_010);
        assert_eq!(first_box(&mut bench).state, "down", "{code}");
        bench.answer(&ping, &Answer::new(200));
        assert_eq!((first_box(&mut bench).state, counted(&mut bench, "stray_responses")), ("down", 1));
    }
}

#[test]
fn a_ping_that_is_returned_was_no_answer() {
    let mut bench = Bench::new(pinged(1, 2, 1, 1));
    let answered = next_ping(&mut bench);
    bench.answer(&answered, &Answer::new(200));
    let ping = next_ping(&mut bench);
    bench.return_undelivered(&answered);
    assert_eq!((first_box(&mut bench).state, counted(&mut bench, "ping_failures")), ("up", 0), "an old one");
    let call_id = Text::read(&ping.bytes).header("Call-ID").unwrap_or_default().to_owned();
    let forged = String::from_utf8_lossy(&ping.bytes).replacen(&call_id, "guessed", 1).into_bytes();
    bench.return_undelivered(&Datagram { bytes: forged.into(), ..ping.clone() });
    assert_eq!((first_box(&mut bench).state, counted(&mut bench, "ping_failures")), ("up", 0), "a forged one");
    for _ in 0..2 {
        bench.return_undelivered(&ping);
        assert_eq!((first_box(&mut bench).state, counted(&mut bench, "ping_failures")), ("down", 1));
    }
    let reason = "the network says that it is unreachable, or nothing listens there";
    assert_eq!(events(&mut bench), [down(reason)]);
}

#[test]
fn a_ping_of_the_process_before_is_nobodys() {
    let mut bench = Bench::new(pinged(1, 2, 1, 1));
    let ping = next_ping(&mut bench);
    bench.restart(millis(300));
    bench.return_undelivered(&ping);
    assert_eq!((counted(&mut bench, "unreachable"), counted(&mut bench, "ping_failures")), (0, 0));
    assert_eq!(first_box(&mut bench).state, "up");
}

/// A reload asks nobody out of turn, and what is under way stays under way.
#[test]
fn a_reload_keeps_the_rhythm() {
    for answered_before in [true, false] {
        let mut bench = Bench::new(pinged(1, 4, 1, 1));
        let ping = next_ping(&mut bench);
        if answered_before {
            bench.answer(&ping, &Answer::new(200));
        }
        advance_after(&mut bench, &ping, 300);
        let settings = bench.balancer().settings().clone();
        let now = bench.now();
        bench.balancer().replace_settings(now, settings);
        if !answered_before {
            bench.answer(&ping, &Answer::new(200));
            assert_eq!(counted(&mut bench, "stray_responses"), 0);
        }
        advance_after(&mut bench, &ping, 9_490);
        assert_eq!(heard(&mut bench, box_address(0)), SILENCE, "answered before: {answered_before}");
        advance_after(&mut bench, &ping, 10_510);
        assert_eq!(heard(&mut bench, box_address(0)).first().map(String::as_str), Some("OPTIONS"));
        assert_eq!(counted(&mut bench, "ping_failures"), 0);
    }
}

/// A reload with other guardians.
fn guard(bench: &mut Bench, guardians: &[Arc<Guardian>]) {
    let mut settings = bench.balancer().settings().clone();
    for service in settings.farms.iter_mut().flat_map(|farm| &mut farm.services) {
        service.guardians = guardians.to_vec();
    }
    let now = bench.now();
    bench.balancer().replace_settings(now, settings);
}

#[test]
fn who_is_up_or_down_by_a_reload_is_told_of() {
    let takes_out = guardian("options", 2, 1, 1);
    let warns = Arc::new(Guardian { effect: Effect::Warn, ..Guardian::clone(&takes_out) });
    let up = Event::BackendUp { backend: backend(), cause: UpCause::Reconfigured };
    let mut bench = Bench::new(pinged(1, 2, 1, 1));
    let ping = next_ping(&mut bench);
    bench.answer(&ping, &Answer::new(503));
    let down = down("OPTIONS answered 503");
    let mut told = vec![down.clone()];
    for (guardians, event) in [
        (vec![Arc::clone(&takes_out)], None),
        (vec![Arc::clone(&warns)], Some(up.clone())),
        (vec![takes_out], Some(down)),
        (Vec::new(), Some(up)),
        // What it found was forgotten meanwhile.
        (vec![warns], None),
    ] {
        guard(&mut bench, &guardians);
        told.extend(event);
        assert_eq!(events(&mut bench), told, "{guardians:?}");
        let is_down = matches!(told.last(), Some(Event::BackendDown { .. }));
        assert_eq!(first_box(&mut bench).state, if is_down { "down" } else { "up" });
    }
}

/// The box may not be reached from there: it is asked at once.
#[test]
fn a_box_is_asked_anew_from_a_new_address() {
    let mut bench = Bench::new(pinged(1, 2, 1, 1));
    let ping = next_ping(&mut bench);
    bench.answer(&ping, &Answer::new(200));
    bench.advance(Duration::from_secs(1));
    let moved: SocketAddr = "10.0.0.2:5060".parse().expect("an address");
    let mut settings = bench.balancer().settings().clone();
    for farm in &mut settings.farms {
        farm.listeners = vec![listener(moved, true, true)];
    }
    let now = bench.now();
    bench.balancer().replace_settings(now, settings);
    bench.advance(millis(1_010));
    let next = bench.sent_to(box_address(0)).into_iter().next().expect("within a second");
    assert_eq!(next.from, moved);
}

#[test]
fn who_is_not_to_be_pinged_is_not() {
    let mut settings = pinged(2, 2, 1, 1);
    for farm in &mut settings.farms {
        for service in &mut farm.services {
            service.guardians.clear();
        }
    }
    let mut bench = Bench::new(settings);
    bench.advance(seconds(60));
    bench.assert_quiet();
    assert_eq!(counted(&mut bench, "pings"), 0);
}
