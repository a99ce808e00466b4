//! Match rules of services: which of them gets a request.

use engine::Rule;
use sim::settings::{service, trunk};
use sim::{Bench, Script, one_farm};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::str::FromStr;

/// An address, a network or a pattern.
fn read<T: FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().expect("tests write what can be read")
}

/// Does a farm give the request to its first service, which has this rule? Everything else goes to the second one.
fn fits(rule: &Rule, from: &str, request: &Script) -> bool {
    let mut bench = Bench::new(one_farm(2, |farm| {
        let mut first = service("first", vec![0]);
        first.rule = rule.clone();
        farm.services = vec![first, service("rest", vec![1])];
        farm.trunks = vec![
            trunk("carrier", "198.51.100.0/28", read("198.51.100.1:5060")),
            trunk("other", "203.0.113.0/28", read("203.0.113.1:5060")),
        ];
    }));
    bench.send(read::<SocketAddr>(from), request.build());
    let (index, _) = bench.one_to_a_box();
    index == 0
}

#[test]
fn every_condition_of_a_rule_must_hold() {
    let subject = || ("Subject".to_owned(), read("one"));
    let rule = Rule {
        domain: vec!["example.net".to_owned(), "example.com".to_owned()],
        trunk: vec!["other".to_owned(), "carrier".to_owned()],
        from_user: Some(read("^bon")),
        method: vec!["INVITE".to_owned(), "MESSAGE".to_owned()],
        user: Some(read("^cly")),
        source: vec![read("192.0.2.0/24"), read("198.51.100.3/32")],
        header: vec![subject(), ("X-Kind".to_owned(), read("^a$"))],
    };
    let request = Script::new("MESSAGE").line("Subject: other").line("subject: number one").line("X-Kind: a");
    let from = "198.51.100.3:5060";
    assert!(fits(&rule, from, &request));
    assert!(fits(&Rule::default(), from, &request));
    let all = || rule.clone();
    for (spoilt, rule) in [
        ("domain", Rule { domain: vec!["example.net".to_owned()], ..all() }),
        ("trunk", Rule { trunk: vec!["other".to_owned()], ..all() }),
        ("from_user", Rule { from_user: Some(read("^cly")), ..all() }),
        ("method", Rule { method: vec!["INVITE".to_owned()], ..all() }),
        ("user", Rule { user: Some(read("^bon")), ..all() }),
        ("source", Rule { source: vec![read("198.51.100.4/32")], ..all() }),
        ("header's value", Rule { header: vec![subject(), ("X-Kind".to_owned(), read("b"))], ..all() }),
        ("header", Rule { header: vec![subject(), ("X-Other".to_owned(), read(""))], ..all() }),
    ] {
        assert!(!fits(&rule, from, &request), "{spoilt}");
    }
}

#[test]
fn a_client_is_of_no_trunk() {
    let rule = Rule { trunk: vec!["carrier".to_owned()], ..Rule::default() };
    for (from, of_it) in [("198.51.100.15:9", true), ("198.51.100.16:9", false), ("203.0.113.1:9", false)] {
        assert_eq!(fits(&rule, from, &Script::new("MESSAGE")), of_it, "{from}");
    }
}

#[test]
fn a_domain_is_a_name_without_case_or_an_address() {
    let domain = ["example.net", "192.0.2.9", "[2001:db8::9]"].map(str::to_owned).to_vec();
    let rule = Rule { domain, ..Rule::default() };
    for (host, fitting) in [
        ("example.net", true),
        ("EXAMPLE.net.:5070", true),
        ("example.com", false),
        ("sub.example.net", false),
        ("192.0.2.9", true),
        ("192.0.2.10", false),
        ("[2001:db8:0::9]:5070", true),
        ("[2001:db8::8]", false),
    ] {
        let request = Script::new("MESSAGE").uri(&format!("sip:clyde@{host}"));
        assert_eq!(fits(&rule, "10.1.0.1:5060", &request), fitting, "{host}");
    }
}

/// The Request-URI of a REGISTER names the registrar only (RFC 3261 §10.2).
#[test]
fn a_registration_is_judged_by_its_to() {
    let rule = Rule { domain: vec!["example.net".to_owned()], user: Some(read("^bonnie$")), ..Rule::default() };
    for (method, uri, to, fitting) in [
        ("REGISTER", "sip:example.com", "<sip:bonnie@example.net>", true),
        ("REGISTER", "sip:bonnie@example.net", "<sip:clyde@example.net>", false),
        ("REGISTER", "sip:bonnie@example.net", "<sip:bonnie@example.com>", false),
        ("MESSAGE", "sip:bonnie@example.net", "<sip:clyde@example.com>", true),
        ("MESSAGE", "sip:clyde@example.com", "<sip:bonnie@example.net>", false),
    ] {
        let request = Script::new(method).uri(uri).to(to);
        assert_eq!(fits(&rule, "10.1.0.1:5060", &request), fitting, "{method} {uri} {to}");
    }
}
