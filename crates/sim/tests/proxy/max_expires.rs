//! `max_expires`: phones are told a minute, boxes an hour. What comes back in between and says nothing new is answered by the
//! farm; all else goes to the box, or to another one.

use crate::unit::{Sent, Unit};
use engine::{Farm, Flow, Input, ListenerId, Maintenance, Registrations, Settings, explain};
use sim::script::{parameter, uri_in};
use sim::settings::VIP;
use sim::{Answer, Script, Text, box_address, one_farm, phone_address};
use std::net::SocketAddr;
use std::time::Duration;

/// As Bonnie's phone writes it.
const CONTACT: &str = "Contact: <sip:bonnie@10.1.0.1:5060>;expires=3600";
const HOUR: &str = ";expires=3600";

/// What a box granted.
struct Granted {
    home: SocketAddr,
    /// The REGISTER as the box got it, and the answer as the phone did.
    heard: Text,
    told: Text,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Two boxes.
fn farm(adjust: impl FnOnce(&mut Farm)) -> Settings {
    one_farm(2, |farm| {
        farm.max_expires = Some(seconds(60));
        adjust(farm);
    })
}

fn unit() -> Unit {
    Unit::new(farm(|_| ()))
}

/// Bonnie's phone at this port.
fn at_port(port: u16) -> Flow {
    Flow::of_datagram(ListenerId::of("udp", VIP), VIP.ip(), SocketAddr::new(phone_address(0).ip(), port))
}

fn phone() -> Flow {
    at_port(5060)
}

/// Her REGISTER with this number, without a contact.
fn bare(cseq: u32) -> Script {
    Script::new("REGISTER")
        .branch(&format!("r{cseq}"))
        .call_id("registers")
        .uri("sip:example.com")
        .from("<sip:bonnie@example.com>;tag=reg")
        .to("<sip:bonnie@example.com>")
        .cseq(cseq)
}

fn registering(cseq: u32) -> Script {
    bare(cseq).line(CONTACT)
}

/// The box answers a REGISTER that it got: its contact with these parameters, then these lines.
fn answers(unit: &mut Unit, sent: &Sent, parameters: &str, lines: &[&str]) -> Text {
    let answer = Answer::new(200).line(&format!("Contact: <{}>{parameters}", heard_uri(&sent.text)));
    let answer = lines.iter().fold(answer, |answer, line| answer.line(line));
    let up = unit.passes(sent.flow, &answer.to(&sent.bytes));
    assert_eq!(up.text.code(), Some(200));
    up.text
}

/// The box answers that it keeps these contacts for so many seconds.
fn lists(unit: &mut Unit, sent: &Sent, contacts: &[(&str, u32)]) {
    let answer = contacts
        .iter()
        .fold(Answer::new(200), |answer, (uri, seconds)| answer.line(&format!("Contact: <{uri}>;expires={seconds}")));
    assert_eq!(unit.passes(sent.flow, &answer.to(&sent.bytes)).text.code(), Some(200));
}

/// The contact in a REGISTER, as its box got it.
fn heard_uri(heard: &Text) -> String {
    heard.header("Contact").map(uri_in).unwrap_or_default()
}

#[track_caller]
fn grants(unit: &mut Unit, flow: Flow, request: &Script, parameters: &str, lines: &[&str]) -> Granted {
    let sent = unit.passes(flow, &request.build());
    assert_eq!(sent.text.code(), None, "a box hears of it");
    let told = answers(unit, &sent, parameters, lines);
    Granted { home: sent.flow.remote, heard: sent.text, told }
}

/// Another phone of Bonnie's, and its REGISTER with this number.
fn second(cseq: u32) -> (Flow, Script) {
    let line = "Contact: <sip:bonnie@10.1.0.2:5060;x>;expires=3600";
    let script = bare(cseq).call_id("second").branch(&format!("second{cseq}")).line(line);
    (Flow { remote: phone_address(1), ..phone() }, script)
}

/// By one of the flows of a phone that names them: where it comes from, the REGISTER, and its contact.
fn by_flow(cseq: u32, reg_id: u16) -> (Flow, Script, String) {
    let port = 5_000 + reg_id;
    let instance = "+sip.instance=\"<urn:uuid:1>\"";
    let value = format!("<sip:bonnie@10.1.0.1:{port}>;{instance};reg-id={reg_id}");
    let script = bare(cseq).call_id(&format!("flow{reg_id}")).branch(&format!("f{reg_id}x{cseq}"));
    (at_port(port), script.line(&format!("Contact: {value};expires=3600")).line("Supported: outbound"), value)
}

/// A unit where a box has granted her REGISTER with number 5 for an hour.
fn registered() -> (Unit, SocketAddr) {
    let mut unit = unit();
    let home = grants(&mut unit, phone(), &registering(5), HOUR, &[]).home;
    (unit, home)
}

/// The box that a REGISTER goes to; `None`: it is answered 200 by the farm.
#[track_caller]
fn reached(unit: &mut Unit, flow: Flow, request: &Script) -> Option<SocketAddr> {
    let before = unit.counted("refreshes_answered");
    let sent = unit.passes(flow, &request.build());
    let answered = unit.counted("refreshes_answered") - before;
    assert_eq!((sent.text.code(), answered), if answered == 1 { (Some(200), 1) } else { (None, 0) });
    (answered == 0).then_some(sent.flow.remote)
}

/// The seconds of the first contact.
fn told(text: &Text) -> String {
    text.header("Contact").and_then(|contact| parameter(contact, "expires")).unwrap_or_default()
}

fn other(home: SocketAddr) -> SocketAddr {
    if home == box_address(0) { box_address(1) } else { box_address(0) }
}

#[test]
fn a_phone_comes_back_each_minute_and_its_box_hears_of_it_each_half_hour() {
    let mut unit = unit();
    let first = grants(&mut unit, phone(), &registering(1), HOUR, &[]);
    assert_eq!((told(&first.heard).as_str(), told(&first.told).as_str()), ("3600", "60"));
    let mut heard = Vec::new();
    for minute in 1..=62 {
        unit.advance(seconds(60));
        let sent = unit.passes(phone(), &registering(minute + 1).build());
        let answer = if sent.text.code().is_some() {
            sent.text
        } else {
            assert_eq!(sent.flow.remote, first.home);
            heard.push(minute);
            answers(&mut unit, &sent, HOUR, &[])
        };
        assert_eq!((answer.code(), told(&answer).as_str()), (Some(200), "60"), "{minute}");
    }
    // Half of the hour is over after 30 minutes; so it is after that, and the first to come later is passed on.
    assert_eq!(heard, [31, 62]);
    assert_eq!(unit.counted("refreshes_answered"), 60);
    assert_eq!(unit.shared.snapshot(unit.now).registrations, 1);
}

#[test]
fn phones_are_told_a_minute_at_most_in_whatever_form_the_box_grants() {
    let bonnie = "<sip:bonnie@10.1.0.1:5060>";
    for (asked, granted, lines, contacts, header) in [
        (";expires=3600", ";expires=3600", vec![], vec![";expires=60"], None),
        (";expires=3600", ";expires=600", vec![], vec![";expires=60"], None),
        (";expires=3600", ";expires=61", vec![], vec![";expires=60"], None),
        (";expires=3600", ";expires=60", vec![], vec![";expires=60"], None),
        (";expires=3600", ";expires=59", vec![], vec![";expires=59"], None),
        (";q=0.5;expires=3600", ";q=0.5;expires=3600", vec![], vec![";q=0.5;expires=60"], None),
        ("", "", vec!["Expires: 3600"], vec![";expires=60"], Some("60")),
        ("", ";q=1", vec!["Expires: 60"], vec![";q=1"], Some("60")),
        ("", "", vec![], vec![";expires=60"], None),
        ("", ";expires=50", vec!["Expires: 3600"], vec![";expires=50"], Some("60")),
        (
            ";expires=3600",
            ";expires=3600",
            vec!["Contact: <sip:b@elsewhere.example>;expires=900, <sip:c@elsewhere.example>;expires=9"],
            vec![";expires=60", "b;expires=60", "c;expires=9"],
            None,
        ),
    ] {
        let mut unit = unit();
        let request = bare(1).line(&format!("Contact: {bonnie}{asked}"));
        let told = grants(&mut unit, phone(), &request, granted, &lines).told;
        let wanted = contacts.iter().map(|wanted| match wanted.split_once(';') {
            Some((user, rest)) if !user.is_empty() => format!("<sip:{user}@elsewhere.example>;{rest}"),
            _ => format!("{bonnie}{wanted}"),
        });
        assert_eq!(told.values("Contact"), wanted.collect::<Vec<String>>(), "{asked} {granted}");
        assert_eq!(told.header("Expires"), header, "{asked} {granted}");
    }
}

#[test]
fn an_answer_that_is_no_success_passes_as_it_is() {
    for (code, lines) in [
        (423, vec!["Min-Expires: 7200", "Expires: 7200"]),
        (302, vec!["Contact: <sip:bonnie@elsewhere.example>;expires=900"]),
    ] {
        let mut unit = unit();
        let sent = unit.passes(phone(), &registering(1).build());
        let answer = lines.iter().fold(Answer::new(code), |answer, line| answer.line(line));
        let up = unit.passes(sent.flow, &answer.to(&sent.bytes)).text;
        let left = lines.iter().all(|line| up.headers.iter().any(|(name, value)| format!("{name}: {value}") == **line));
        assert!(left && up.code() == Some(code), "{up:?}");
        assert!(reached(&mut unit, phone(), &registering(2)).is_some());
    }
}

#[test]
fn only_what_says_nothing_new_is_answered() {
    let twice = "Contact: <sip:bonnie@10.1.0.1:5060>;expires=3600, <sip:bonnie@10.1.0.9:5060>;expires=3600";
    for (flow, request, answered) in [
        (phone(), registering(6), true),
        (phone(), registering(9).branch("anew").line("User-Agent: other"), true),
        (phone(), bare(6).line("Contact: <sip:bonnie@10.1.0.1:5060>"), true),
        (phone(), bare(6).line("Contact: sip:bonnie@10.1.0.1:5060;expires=60"), true),
        (phone(), bare(6).line("Contact: sip:bonnie@10.1.0.1:5060;expires=59"), false),
        (phone(), bare(6).line("Contact: <sip:bonnie@10.1.0.1:5060>").line("Expires: 60"), true),
        (phone(), bare(6).line("Contact: <sip:bonnie@10.1.0.1:5060>").line("Expires: 59"), false),
        (phone(), registering(6).line("Route: <sip:10.0.0.1;lr>"), true),
        (at_port(5070), registering(6), false),
        (phone(), registering(6).call_id("others"), false),
        (phone(), registering(5).branch("anew"), false),
        (phone(), registering(4), false),
        (phone(), registering(6).from("<sip:boss@example.com>;tag=reg"), false),
        (phone(), registering(6).to("<sip:clyde@example.com>"), false),
        (phone(), registering(6).uri("sip:10.0.0.1"), false),
        (phone(), bare(6), false),
        (phone(), bare(6).line(twice), false),
        (phone(), bare(6).line("Contact: <sip:bonnie@10.1.0.1:5061>;expires=3600"), false),
        (phone(), bare(6).line("Contact: <sip:bonnie@10.1.0.1:5060>;q=1;expires=3600"), false),
        (phone(), bare(6).line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=0"), false),
        (phone(), bare(6).line("Contact: *").line("Expires: 0"), false),
        (phone(), registering(6).line("Require: gruu"), false),
        (phone(), registering(6).line("Supported: gruu"), false),
        (phone(), registering(6).line("Path: <sip:edge.example;lr>"), false),
        (phone(), registering(6).body("text/plain", b"x"), false),
        (phone(), bare(6).line("Contact: \"Bo\" <sip:bonnie@10.1.0.1:5060>;expires=3600"), false),
    ] {
        let (mut unit, home) = registered();
        unit.advance(seconds(60));
        let went = reached(&mut unit, flow, &request);
        assert_eq!(went.is_none(), answered, "{}", String::from_utf8_lossy(&request.build()));
        // Who is another may be at another box.
        let is_bonnies = !String::from_utf8_lossy(&request.build()).contains("To: <sip:clyde");
        assert!(went.is_none_or(|went| !is_bonnies || went == home), "{went:?}");
    }
}

#[test]
fn nobody_is_told_more_than_was_asked_for_or_than_is_left() {
    for (second, granted, asked, wanted) in [
        (60, 3_600, "", "60"),
        (60, 3_600, ";expires=60", "60"),
        (60, 3_600, ";expires=61", "60"),
        (30, 100, ";expires=3600", "60"),
        (45, 100, ";expires=3600", "55"),
        (50, 100, ";expires=3600", "50"),
    ] {
        let mut unit = unit();
        grants(&mut unit, phone(), &registering(5), &format!(";expires={granted}"), &[]);
        unit.advance(seconds(second));
        let request = bare(6).line(&format!("Contact: <sip:bonnie@10.1.0.1:5060>{asked}"));
        let answer = unit.passes(phone(), &request.build()).text;
        assert_eq!((answer.code(), told(&answer).as_str()), (Some(200), wanted), "{second} {granted} {asked}");
        assert!(answer.header("To").is_some_and(|to| to.contains(";tag=")), "{answer:?}");
    }
}

/// RFC 3261 §10.3 step 7: the box shortens its binding. What it grants then is its own time.
#[test]
fn a_phone_that_asks_for_less_is_for_the_box() {
    let (mut unit, home) = registered();
    unit.advance(seconds(60));
    let less = bare(6).line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=20");
    let granted = grants(&mut unit, phone(), &less, ";expires=20", &[]);
    assert_eq!((granted.home, told(&granted.heard).as_str(), told(&granted.told).as_str()), (home, "20", "20"));
    assert_eq!(reached(&mut unit, phone(), &registering(7)), Some(home));
}

/// A time that the phone was told as it was granted is the box's own.
#[test]
fn what_was_not_shortened_goes_to_the_box() {
    for (granted, second, answered) in [(59, 1, false), (60, 1, false), (61, 30, true), (61, 31, false)] {
        let mut unit = unit();
        grants(&mut unit, phone(), &registering(5), &format!(";expires={granted}"), &[]);
        unit.advance(seconds(second));
        assert_eq!(reached(&mut unit, phone(), &registering(6)).is_none(), answered, "{granted} {second}");
    }
}

#[test]
fn a_user_whose_box_takes_nobody_moves() {
    let maintained = |maintenance: Maintenance| {
        let (mut unit, home) = registered();
        let settings = farm(|farm| {
            for backend in farm.backends.iter_mut().filter(|backend| backend.address == home) {
                backend.maintenance = maintenance;
            }
        });
        unit.shared.replace_settings(unit.now, settings);
        unit.advance(seconds(30));
        (reached(&mut unit, phone(), &registering(6)), home)
    };
    for (maintenance, moves) in [(Maintenance::Off, false), (Maintenance::Drain, true), (Maintenance::Cut, true)] {
        let (went, home) = maintained(maintenance);
        assert_eq!(went, moves.then_some(other(home)), "{maintenance:?}");
    }
}

#[test]
fn a_user_whose_box_left_the_service_moves() {
    let (mut unit, home) = registered();
    let settings = farm(|farm| {
        let away = farm.backends.iter().position(|backend| backend.address == home);
        for service in &mut farm.services {
            service.backends.retain(|index| Some(*index) != away);
        }
    });
    unit.shared.replace_settings(unit.now, settings);
    assert_eq!(reached(&mut unit, phone(), &registering(6)), Some(other(home)));
}

/// A message of Bonnie's does not arrive at her box; the next one takes it.
fn goes_down(unit: &mut Unit, home: SocketAddr) {
    let sent = unit.passes(phone(), &Script::new("MESSAGE").call_id("lost").build());
    assert_eq!(sent.flow.remote, home);
    let next = unit.input(Input::Undelivered { flow: sent.flow, returned: &sent.bytes });
    for sent in next.iter().filter(|sent| sent.text.code().is_none()) {
        unit.arrive(sent.flow, &Answer::new(200).to(&sent.bytes));
    }
}

#[test]
fn a_user_whose_box_is_down_moves() {
    let (mut unit, home) = registered();
    goes_down(&mut unit, home);
    let sent = unit.passes(phone(), &registering(6).build());
    assert_eq!((sent.text.code(), sent.flow.remote), (None, other(home)));
    answers(&mut unit, &sent, HOUR, &[]);
    unit.advance(seconds(1));
    assert_eq!(reached(&mut unit, phone(), &registering(7)), None, "this one has granted it");
}

/// The box that comes back may have forgotten whom it knew.
#[test]
fn a_box_that_was_down_is_asked_once_more() {
    let (mut unit, home) = registered();
    goes_down(&mut unit, home);
    // After a while a request is its trial.
    unit.advance(seconds(40));
    let clyde = Flow { remote: phone_address(1), ..phone() };
    let is_up = (0..20).any(|number| {
        let name = format!("trial{number}");
        let request = Script::new("MESSAGE").call_id(&name).branch(&name).from("<sip:clyde@example.com>;tag=c");
        let sent = unit.passes(clyde, &request.build());
        unit.passes(sent.flow, &Answer::new(200).to(&sent.bytes));
        sent.flow.remote == home
    });
    assert!(is_up);
    let sent = unit.passes(phone(), &registering(6).build());
    assert_eq!((sent.text.code(), sent.flow.remote), (None, home));
    answers(&mut unit, &sent, HOUR, &[]);
    unit.advance(seconds(30));
    assert_eq!(reached(&mut unit, phone(), &registering(7)), None, "it has granted anew");
}

#[test]
fn a_unit_that_drains_keeps_nobody() {
    let (mut unit, _) = registered();
    unit.shared.begin_drain();
    assert_eq!(unit.passes(phone(), &registering(6).build()).text.code(), Some(503));
    assert_eq!(unit.counted("refreshes_answered"), 0);
}

/// Without it in each answer the phone would lose it.
#[test]
fn what_a_box_says_besides_is_said_by_the_box_each_time() {
    for (parameters, line, answered) in [
        ("", "Date: Thu, 01 Jan 2026 00:00:00 GMT", true),
        ("", "Supported: path, outbound", true),
        ("", "Service-Route: <sip:orig@10.0.1.1;lr>", false),
        ("", "P-Associated-URI: <sip:bonnie@example.com>", false),
        ("", "p-associated-uri: <sip:bonnie@example.com>", false),
        ("", "Path: <sip:edge.example;lr>", false),
        ("", "Require: outbound", false),
        ("", "Feature-Caps: *;+sip.pns=\"acme\"", false),
        ("", "Authentication-Info: qop=auth, rspauth=\"6629fae4\"", false),
        ("", "Security-Server: tls;q=0.2", false),
        (";pub-gruu=\"sip:bonnie@example.com;gr=1\"", "Supported: gruu", false),
        (";temp-gruu=\"sip:tgruu.7hs@example.com;gr\"", "Supported: gruu", false),
    ] {
        let mut unit = unit();
        grants(&mut unit, phone(), &registering(5), &format!("{parameters};expires=3600"), &[line]);
        assert_eq!(reached(&mut unit, phone(), &registering(6)).is_none(), answered, "{line} {parameters}");
    }
}

#[test]
fn what_a_box_says_in_a_body_is_said_by_the_box_each_time() {
    let mut unit = unit();
    let sent = unit.passes(phone(), &registering(5).build());
    let answer = Answer::new(200).line(&format!("Contact: <{}>;expires=3600", heard_uri(&sent.text)));
    unit.passes(sent.flow, &answer.body("text/plain", b"x").to(&sent.bytes));
    assert_eq!(reached(&mut unit, phone(), &registering(6)), Some(sent.flow.remote));
}

/// RFC 3327 §5.3: a registrar repeats each Path.
#[test]
fn a_path_of_our_own_is_nothing_that_the_phone_would_miss() {
    for (foreign, answered) in [(None, true), (Some("<sip:edge.example;lr>"), false), (Some("<sip:tdm@h;lr>"), false)] {
        let mut unit = Unit::new(farm(|farm| farm.registrations = Registrations::Path));
        let sent = unit.passes(phone(), &registering(5).build());
        let own = sent.text.header("Path").unwrap_or_default();
        assert!(own.starts_with("<sip:tdm"), "{own}");
        let paths: Vec<&str> = foreign.into_iter().chain([own]).collect();
        let line = format!("Path: {}", paths.join(", "));
        answers(&mut unit, &sent, HOUR, &[line.as_str()]);
        assert_eq!(reached(&mut unit, phone(), &registering(6)).is_none(), answered, "{foreign:?}");
    }
}

/// Who comes back by another name has a password to show; who sends none has not been asked for it yet.
#[test]
fn credentials_of_another_name_are_for_the_box() {
    let with = |script: Script, name: &str| {
        script.line(&format!("Authorization: Digest username=\"{name}\", realm=\"r\", nonce=\"n\", response=\"1\""))
    };
    for (request, answered) in
        [(with(registering(6), "bonnie"), true), (registering(6), true), (with(registering(6), "boss"), false)]
    {
        let mut unit = unit();
        grants(&mut unit, phone(), &with(registering(5), "bonnie"), HOUR, &[]);
        assert_eq!(reached(&mut unit, phone(), &request).is_none(), answered, "{request:?}");
    }
}

/// A box that allows one contact drops the first phone for the second.
#[test]
fn a_phone_that_the_box_no_longer_lists_is_for_the_box() {
    for registrations in [Registrations::Contact, Registrations::Path] {
        for (first_left, answered, listed) in
            [(Some(3_590), true, 2), (Some(600), false, 2), (Some(0), false, 1), (None, false, 1)]
        {
            let mut unit = Unit::new(farm(|farm| farm.registrations = registrations));
            let first = heard_uri(&grants(&mut unit, phone(), &registering(5), HOUR, &[]).heard);
            unit.advance(seconds(10));
            let (flow, request) = second(1);
            let sent = unit.passes(flow, &request.build());
            let own = heard_uri(&sent.text);
            let kept = first_left.map(|left| (first.as_str(), left));
            let all: Vec<(&str, u32)> = kept.into_iter().chain([(own.as_str(), 3_600)]).collect();
            lists(&mut unit, &sent, &all);
            assert_eq!(reached(&mut unit, phone(), &registering(6)).is_none(), answered, "{first_left:?}");
            let told = unit.passes(flow, &second(2).1.build()).text;
            assert_eq!((told.code(), told.values("Contact").len()), (Some(200), listed), "{first_left:?}");
        }
    }
}

/// Whatever became of it at the box, nobody has heard.
#[test]
fn a_contact_that_the_box_was_asked_about_without_an_answer_is_for_the_box() {
    let ends: [&[&str]; 2] = [&["Contact: <sip:bonnie@10.1.0.1:5060>;expires=0"], &["Contact: *", "Expires: 0"]];
    for lines in ends {
        let (mut unit, home) = registered();
        let end = lines.iter().fold(bare(6), |script, line| script.line(line));
        assert_eq!(reached(&mut unit, phone(), &end), Some(home));
        assert_eq!(reached(&mut unit, phone(), &registering(7)), Some(home), "{lines:?}");
    }
}

#[test]
fn a_refresh_that_is_repeated_is_answered_alike() {
    let mut unit = unit();
    let home = grants(&mut unit, phone(), &registering(5), ";expires=100", &[]).home;
    unit.advance(seconds(45));
    let refresh = registering(6).build();
    let first = unit.passes(phone(), &refresh);
    assert_eq!(told(&first.text), "55");
    unit.advance(seconds(10));
    assert_eq!(unit.passes(phone(), &refresh).bytes, first.bytes);
    assert_eq!(unit.counted("refreshes_answered"), 2);
    assert_eq!(reached(&mut unit, phone(), &registering(6).branch("anew")), Some(home), "another one");
    let (mut unit, home) = registered();
    unit.passes(phone(), &refresh);
    unit.advance(seconds(31));
    assert_eq!(reached(&mut unit, phone(), &registering(6)), None);
    unit.advance(seconds(1));
    assert_eq!(reached(&mut unit, phone(), &registering(6)), Some(home));
}

/// The farm keeps no answer of a box: the box repeats it, and the phone hears of a minute again.
#[test]
fn a_granted_register_that_is_repeated_is_told_a_minute_again() {
    let (mut unit, home) = registered();
    let again = unit.passes(phone(), &registering(5).build());
    assert_eq!((again.text.code(), again.flow.remote), (None, home));
    assert_eq!(told(&answers(&mut unit, &again, HOUR, &[])), "60");
    let again = unit.passes(phone(), &registering(5).build());
    let answer = answers(&mut unit, &again, "", &["Expires: 3600"]);
    assert_eq!(answer.header("Expires"), Some("60"));
}

#[test]
fn the_answer_lists_all_contacts_of_the_user() {
    let mut unit = unit();
    let first_uri = heard_uri(&grants(&mut unit, phone(), &registering(5), HOUR, &[]).heard);
    unit.advance(seconds(10));
    let (flow, request) = second(1);
    let sent = unit.passes(flow, &request.build());
    let second_uri = heard_uri(&sent.text);
    lists(&mut unit, &sent, &[(first_uri.as_str(), 3_590), (second_uri.as_str(), 40)]);
    let third = bare(1).call_id("third").branch("third").line("Contact: <sip:bonnie@10.1.0.3>;expires=3600");
    let sent = unit.passes(Flow { remote: phone_address(2), ..phone() }, &third.build());
    let third_uri = heard_uri(&sent.text);
    let all = [(first_uri.as_str(), 3_590), (second_uri.as_str(), 40), (third_uri.as_str(), 3_600)];
    lists(&mut unit, &sent, &all);
    unit.advance(seconds(20));
    let answer = unit.passes(phone(), &registering(6).build()).text;
    let listed = ["<sip:bonnie@10.1.0.1:5060>;expires=60", "<sip:bonnie@10.1.0.3>;expires=60"];
    assert_eq!(answer.values("Contact"), [&listed[..], &["<sip:bonnie@10.1.0.2:5060;x>;expires=20"]].concat());
    unit.advance(seconds(20));
    let answer = unit.passes(phone(), &registering(7).build()).text;
    assert_eq!(answer.values("Contact"), listed, "the second one is gone");
}

/// RFC 5626: each flow comes back by itself, and hears its own name.
#[test]
fn flows_with_names_are_answered_each_by_its_own() {
    let mut unit = unit();
    for reg_id in [1, 2] {
        let (flow, request, value) = by_flow(5, reg_id);
        let told = grants(&mut unit, flow, &request, HOUR, &[]).told;
        let contact = told.header("Contact").unwrap_or_default();
        assert!(contact.starts_with(&value[..26]) && contact.contains(&format!("reg-id={reg_id}")), "{contact}");
        assert_eq!(parameter(contact, "expires").as_deref(), Some("60"));
    }
    unit.advance(seconds(50));
    for reg_id in [1, 2, 1] {
        let (flow, request, value) = by_flow(6, reg_id);
        let answer = unit.passes(flow, &request.build());
        assert_eq!((answer.flow, answer.text.code()), (flow, Some(200)));
        assert_eq!(answer.text.values("Contact"), [format!("{value};expires=60")]);
        let lines = [("Require", "outbound"), ("Flow-Timer", "120")];
        assert!(lines.iter().all(|(name, value)| answer.text.header(name) == Some(*value)), "{answer:?}");
    }
    // By the other's flow it is something new.
    let (_, request, _) = by_flow(7, 1);
    assert!(reached(&mut unit, at_port(5_002), &request).is_some());
}

/// To the box the flows of a phone are one contact, and the newest REGISTER by any of them says how long it lasts.
#[test]
fn a_flow_that_is_granted_less_sends_the_others_to_the_box() {
    for (granted, answered) in [(3_600, true), (600, false), (30, false)] {
        let mut unit = unit();
        for (reg_id, seconds) in [(1, 3_600), (2, granted)] {
            let (flow, request, _) = by_flow(5, reg_id);
            grants(&mut unit, flow, &request, &format!(";expires={seconds}"), &[]);
        }
        let (flow, request, _) = by_flow(6, 1);
        assert_eq!(reached(&mut unit, flow, &request).is_none(), answered, "{granted}");
    }
}

#[test]
fn a_farm_that_learns_nothing_leaves_all_as_it_is() {
    for stateless in [false, true] {
        let mut unit = Unit::new(farm(|farm| {
            farm.stateless = stateless;
            farm.registrations = Registrations::Off;
        }));
        let told_first = grants(&mut unit, phone(), &registering(5), HOUR, &["Expires: 3600"]).told;
        assert_eq!((told(&told_first).as_str(), told_first.header("Expires")), ("3600", Some("3600")));
        assert!(reached(&mut unit, phone(), &registering(6)).is_some(), "{stateless}");
    }
}

#[test]
fn a_farm_without_the_setting_passes_each_refresh_on() {
    let mut unit = Unit::new(farm(|farm| farm.max_expires = None));
    assert_eq!(told(&grants(&mut unit, phone(), &registering(5), HOUR, &[]).told), "3600");
    assert!(reached(&mut unit, phone(), &registering(6)).is_some());
}

#[test]
fn after_a_restart_the_first_refresh_goes_to_the_box() {
    let (unit, home) = registered();
    let mut log = Vec::new();
    unit.shared.drain_facts(unit.now, &mut log);
    let mut next = Unit::of_epoch(farm(|_| ()), 2);
    assert_eq!(next.shared.load_facts(next.now, &log).damaged, 0);
    let sent = next.passes(phone(), &registering(6).build());
    assert_eq!((sent.text.code(), sent.flow.remote), (None, home));
    assert_eq!(told(&answers(&mut next, &sent, HOUR, &[])), "60");
    assert_eq!(reached(&mut next, phone(), &registering(7)), None);
}

#[test]
fn a_box_that_lets_the_phone_go_is_asked_again() {
    let (mut unit, _) = registered();
    let gone = bare(6).line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=0");
    let sent = unit.passes(phone(), &gone.build());
    unit.passes(sent.flow, &Answer::new(200).to(&sent.bytes));
    assert!(reached(&mut unit, phone(), &registering(7)).is_some());
}

#[test]
fn explain_tells_how_long_the_box_granted_and_answers_nothing() {
    let (mut unit, home) = registered();
    let index = usize::from(home == box_address(1)) + 1;
    for (second, verdict) in [
        (60, "answered from the directory: 3540 s of 3600 s are left".to_owned()),
        (1_800, "answered from the directory: 1800 s of 3600 s are left".to_owned()),
        (1_801, format!("forwarded to pbx{index} at {home}")),
    ] {
        let now = sip::Instant::from_micros(second * 1_000_000);
        for _ in 0..2 {
            assert_eq!(explain(&unit.shared, now, phone(), &registering(6).build()).verdict, verdict);
        }
    }
    assert_eq!(unit.counted("refreshes_answered"), 0);
    assert_eq!(reached(&mut unit, phone(), &registering(6).branch("anew")), None);
}
