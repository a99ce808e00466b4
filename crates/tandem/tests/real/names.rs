//! Backends by name, asked of Debian's dnsmasq (RFC 3263): the best one is called, changes are followed, and what was known last
//! holds while nobody answers.

use crate::common::answerer::Answerer;
use crate::common::name_server::{AT, NameServer};
use crate::common::unit::backend;
use crate::common::wire::{Call, Station, offer, request};
use crate::common::{Unit, holds_within, namespace, peer};
use serde_json::Value;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const UNIT: &str = "127.0.0.20:5060";
const PHONE: &str = "127.0.0.51:5060";
const FIRST: &str = "127.0.0.31:5060";
const SECOND: &str = "127.0.0.32:5060";
const THIRD: &str = "127.0.0.33:5060";
const SOON: Duration = Duration::from_secs(45);
/// Three checks decide within two seconds.
const OFTEN_ASKED: &str = "[[farm.service]]\nname = \"default\"\nguardians = [\"asked\"]\n\
    [[guardian]]\nname = \"asked\"\ncheck = \"options\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n";
/// Of every record. The unit asks no sooner either.
const TTL: Duration = Duration::from_secs(5);
/// A first failure is followed by another question after five seconds, a second one after ten.
const AFTER_FAILURES: Duration = Duration::from_secs(30);

/// The first is better than the second. IPv6 is of no use here: the farm does not speak it.
const RECORDS: &str = "naptr-record=pbx.example.test,10,10,S,SIP+D2U,,_sip._udp.pbx.example.test
srv-host=_sip._udp.pbx.example.test,a.example.test,5060,10,50
srv-host=_sip._udp.pbx.example.test,b.example.test,5060,20,50
";

fn hosts(first: &str, second: &str) -> String {
    let host = |address: &str| address.trim_end_matches(":5060").to_owned();
    format!("{} a.example.test\nfd00::31 a.example.test\n{} b.example.test\n", host(first), host(second))
}

fn config(lines: &str) -> String {
    format!(
        "[dns]\nservers = [\"{AT}\"]\n[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n\
         [[farm.backend]]\nname = \"pbx\"\naddress = \"pbx.example.test\"\n{lines}\n"
    )
}

/// A call of one phone after the other.
struct Caller {
    phone: Station,
    calls: u32,
}

impl Caller {
    fn new() -> Self {
        Self { phone: Station::at(PHONE), calls: 0 }
    }

    /// A call through the unit, answered and ended; says by which box.
    fn call(&mut self) -> String {
        self.calls += 1;
        let (phone, call_id, uri) = (&self.phone, format!("call{}", self.calls), format!("sip:clyde@{UNIT}"));
        phone.send(request("INVITE", &uri, phone.address, &call_id, 1, "", &offer(phone.address)), UNIT);
        let final_of = |cseq: &str| {
            let (answer, _) = phone.expect("final answer", |taken| {
                taken.code().is_some_and(|code| code >= 200)
                    && taken.text("call-id").as_deref() == Some(call_id.as_str())
                    && taken.text("cseq").as_deref() == Some(cseq)
            });
            assert_eq!(answer.code(), Some(200), "{call_id}: {}", answer.first_line());
            answer
        };
        let answer = final_of("1 INVITE");
        let contact = answer.uri("contact");
        let dialog = Call::answered(&answer);
        for (cseq, method) in [(1, "ACK"), (2, "BYE")] {
            phone.send(dialog.by_caller(method, cseq, phone.address, ""), UNIT);
        }
        final_of("2 BYE");
        contact.trim_start_matches("sip:").to_owned()
    }

    /// Calls until a box at this address answers, for so long at most; every call succeeds, whoever answers.
    fn reaches_within(&mut self, limit: Duration, address: &str) -> bool {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if self.call() == address {
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    }
}

fn address(unit: &Unit) -> String {
    let status = unit.status();
    let found = backend(&status, "pbx").and_then(|found| found.get("address")).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

#[test]
fn calls_follow_a_name_and_go_on_without_its_server() {
    if peer("dnsmasq").is_none() || !namespace() {
        return;
    }
    let files = tempfile::tempdir().expect("the temporary folder can be written");
    let boxes = [FIRST, SECOND, THIRD].map(Answerer::at);
    let server = NameServer::start(files.path(), RECORDS, &hosts(FIRST, SECOND));
    let unit = Unit::start(&config(""));
    let mut caller = Caller::new();
    // The best of them, and none but it.
    for _ in 0..5 {
        assert_eq!(caller.call(), FIRST, "{:#}", unit.status());
    }
    assert!(address(&unit).contains(FIRST), "{:#}", unit.status());
    assert_eq!(boxes[1].calls(), 0, "the second is for when the first is down");

    // Another address: known as soon as the old one may no longer be kept.
    server.change(&hosts(THIRD, SECOND));
    assert!(caller.reaches_within(TTL + Duration::from_secs(2), THIRD), "{:#}\n{}", unit.status(), unit.said());
    assert!(address(&unit).contains(THIRD), "{:#}", unit.status());
    let before = boxes.each_ref().map(Answerer::calls);
    assert_eq!((caller.call(), caller.call()), (THIRD.to_owned(), THIRD.to_owned()));

    // Nobody answers: what was known last holds.
    drop(server);
    let end = Instant::now() + TTL + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(caller.call(), THIRD, "{:#}", unit.status());
        std::thread::sleep(Duration::from_millis(200));
    }
    let names = unit.status().get("names").map(Value::to_string).unwrap_or_default();
    assert!(names.contains("pbx.example.test") && names.contains("127.0.0.33"), "{names}");

    // It is back, and says something else.
    let _server = NameServer::start(files.path(), RECORDS, &hosts(FIRST, SECOND));
    assert!(caller.reaches_within(AFTER_FAILURES, FIRST), "{:#}\n{}", unit.status(), unit.said());
    let after = boxes.each_ref().map(Answerer::calls);
    assert!(after[0] > before[0] && after[1] == 0 && after[2] > before[2] + 2, "{before:?}, {after:?}");
}

#[test]
fn the_next_address_of_a_name_serves_while_the_best_is_down() {
    if peer("dnsmasq").is_none() || !namespace() {
        return;
    }
    let files = tempfile::tempdir().expect("the temporary folder can be written");
    let _second = Answerer::at(SECOND);
    let _server = NameServer::start(files.path(), RECORDS, &hosts(FIRST, SECOND));
    let unit = Unit::start(&format!("{}{OFTEN_ASKED}", config("")));
    let mut caller = Caller::new();
    for is_silent in [true, false] {
        let first = Answerer::at(FIRST);
        assert!(caller.reaches_within(SOON, FIRST), "it is back: {:#}\n{}", unit.status(), unit.said());
        drop(first);
        let silent = is_silent.then(|| UdpSocket::bind(FIRST).expect("the namespace is ours"));
        assert!(holds_within(SOON, || address(&unit).contains(SECOND)), "{:#}\n{}", unit.status(), unit.said());
        // It stays there as long as the first one is looked for in vain, some rounds long.
        let ends = Instant::now() + Duration::from_secs(5);
        while Instant::now() < ends {
            assert_eq!(caller.call(), SECOND, "{:#}\n{}", unit.status(), unit.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(silent);
    }
}

#[test]
fn a_name_that_is_spread_is_a_backend_for_each_address() {
    if peer("dnsmasq").is_none() || !namespace() {
        return;
    }
    let files = tempfile::tempdir().expect("the temporary folder can be written");
    let _boxes = [FIRST, SECOND].map(Answerer::at);
    let server = NameServer::start(files.path(), RECORDS, &hosts(FIRST, SECOND));
    let unit = Unit::start(&config("expand = true"));
    let shown = |unit: &Unit| -> Vec<(String, String, u64)> {
        let status = unit.status();
        let backends = status.pointer("/farms/0/services/0/backends").and_then(Value::as_array);
        let text = |found: &Value, key: &str| found.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let priority = |found: &Value| found.get("priority").and_then(Value::as_u64).unwrap_or(0);
        let rows = backends.into_iter().flatten();
        // What was there before a change is shown as long as it has calls.
        let live = rows.filter(|found| found.get("state").and_then(Value::as_str) != Some("retired"));
        let mut all: Vec<(String, String, u64)> =
            live.map(|found| (text(found, "name"), text(found, "address"), priority(found))).collect();
        all.sort();
        all
    };
    let row = |address: &str, priority: u64| (format!("pbx@{address}"), address.to_owned(), priority);
    assert_eq!(shown(&unit), [row(FIRST, 1), row(SECOND, 2)], "{:#}", unit.status());
    let mut caller = Caller::new();
    assert_eq!(caller.call(), FIRST);
    // One goes, another comes; the one that stays is not touched.
    let _third = Answerer::at(THIRD);
    server.change(&hosts(THIRD, SECOND));
    let expected = [row(SECOND, 2), row(THIRD, 1)];
    let is_changed = || shown(&unit) == expected;
    assert!(holds_within(TTL + Duration::from_secs(3), is_changed), "{:?}", shown(&unit));
    assert_eq!(caller.call(), THIRD, "{:#}", unit.status());
}
