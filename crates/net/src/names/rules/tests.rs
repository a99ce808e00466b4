use super::*;

/// Answers as they come from a script; what is not in it does not exist.
#[derive(Default)]
struct Script(BTreeMap<Question, Answer>);

impl Script {
    fn with(mut self, name: &str, kind: Kind, records: Vec<Data>) -> Self {
        self.0.insert(Question::new(name, kind), Answer::Records { records, ttl: Duration::from_secs(300) });
        self
    }

    fn a(self, name: &str, last: &[u8]) -> Self {
        self.with(name, Kind::A, last.iter().map(|last| v4(*last)).collect())
    }

    fn aaaa(self, name: &str, last: &[u16]) -> Self {
        let records = last.iter().map(|last| Data::Address(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, *last])));
        self.with(name, Kind::Aaaa, records.collect())
    }

    fn failing(mut self, name: &str, kind: Kind) -> Self {
        let question = Question::new(name, kind);
        let text = question.to_string();
        self.0.insert(question, Answer::Failed(text));
        self
    }

    fn lasting(mut self, name: &str, kind: Kind, seconds: u64) -> Self {
        let Some(Answer::Records { ttl, .. }) = self.0.get_mut(&Question::new(name, kind)) else {
            panic!("the script has no {kind:?} of {name}");
        };
        *ttl = Duration::from_secs(seconds);
        self
    }

    /// All steps: what was asked in each, and what came of it.
    fn run(&self, target: &Target) -> (Vec<Vec<String>>, Meaning) {
        let (mut asked, mut answers) = (Vec::new(), BTreeMap::new());
        loop {
            match next(target, &target.host, &answers) {
                Step::Known(meaning) => return (asked, meaning),
                Step::Ask(questions) => {
                    assert!(!questions.is_empty() && asked.len() < 4, "{asked:?}");
                    asked.push(questions.iter().map(ToString::to_string).collect());
                    for question in questions {
                        let answer = self.0.get(&question).cloned().unwrap_or(Answer::Nothing);
                        assert_eq!(answers.insert(question, answer), None, "asked twice");
                    }
                }
            }
        }
    }

    fn meaning(&self, target: &Target) -> Meaning {
        self.run(target).1
    }

    /// The places, as `transport:address priority weight`.
    fn places(&self, target: &Target) -> Vec<String> {
        self.meaning(target).places.iter().map(shown).collect()
    }
}

fn shown(found: &Found) -> String {
    let Place { transport, address, .. } = &found.place;
    format!("{}:{address} {} {}", transport.name(), found.priority, found.weight)
}

fn v4(last: u8) -> Data {
    Data::Address(IpAddr::from([192, 0, 2, last]))
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Data {
    Data::Srv { priority, weight, port, target: target.to_owned() }
}

fn naptr(order: u16, preference: u16, flags: &str, services: &str, replacement: &str) -> Data {
    let (flags, services) = (flags.as_bytes().to_vec(), services.as_bytes().to_vec());
    Data::Naptr { order, preference, flags, services, replacement: replacement.to_owned() }
}

fn target(host: &str, port: Option<u16>, transport: Option<Transport>) -> Target {
    Target { host: host.to_owned(), port, transport }
}

fn plain() -> Target {
    target("example.com", None, None)
}

#[test]
fn a_port_that_is_written_asks_for_addresses_only() {
    let script = Script::default().a("example.com", &[2, 1]).aaaa("example.com", &[1]).with(
        "_sip._udp.example.com",
        Kind::Srv,
        vec![srv(1, 1, 5070, "other.example.com")],
    );
    for (transport, name) in
        [(None, "udp"), (Some(Transport::Udp), "udp"), (Some(Transport::Tcp), "tcp"), (Some(Transport::Tls), "tls")]
    {
        let target = target("example.com", Some(5080), transport);
        let (asked, _) = script.run(&target);
        assert_eq!(asked, [["A example.com", "AAAA example.com"]]);
        let expected =
            ["192.0.2.1:5080", "192.0.2.2:5080", "[2001:db8::1]:5080"].map(|address| format!("{name}:{address} 0 0"));
        assert_eq!(script.places(&target), expected);
    }
}

#[test]
fn a_transport_that_is_written_asks_for_its_services() {
    for (transport, service, place) in [
        (Transport::Udp, "_sip._udp.example.com", "udp"),
        (Transport::Tcp, "_sip._tcp.example.com", "tcp"),
        (Transport::Tls, "_sips._tcp.example.com", "tls"),
    ] {
        let target = target("example.com", None, Some(transport));
        let script = Script::default().with(service, Kind::Srv, vec![srv(10, 5, 5090, "pbx.example.com")]);
        let script = script.a("pbx.example.com", &[7]);
        let (asked, _) = script.run(&target);
        assert_eq!(
            asked,
            [vec![format!("SRV {service}")], vec!["A pbx.example.com".into(), "AAAA pbx.example.com".into()]]
        );
        assert_eq!(script.places(&target), [format!("{place}:192.0.2.7:5090 10 5")]);
    }
}

#[test]
fn without_services_the_host_is_at_the_default_port() {
    for (transport, place) in [
        (Some(Transport::Udp), "udp:192.0.2.1:5060 0 0"),
        (Some(Transport::Tcp), "tcp:192.0.2.1:5060 0 0"),
        (Some(Transport::Tls), "tls:192.0.2.1:5061 0 0"),
        (None, "udp:192.0.2.1:5060 0 0"),
    ] {
        let script = Script::default().a("example.com", &[1]);
        assert_eq!(script.places(&target("example.com", None, transport)), [place]);
    }
}

#[test]
fn web_sockets_have_no_services() {
    let script = Script::default().a("example.com", &[1]);
    for (transport, place) in [(Transport::Ws, "ws:192.0.2.1:80 0 0"), (Transport::Wss, "wss:192.0.2.1:443 0 0")] {
        let target = target("example.com", None, Some(transport));
        assert_eq!(script.run(&target).0.len(), 1);
        assert_eq!(script.places(&target), [place]);
    }
}

#[test]
fn an_address_asks_for_nothing() {
    for (host, transport, place) in [
        ("192.0.2.9", None, "udp:192.0.2.9:5060 0 0"),
        ("192.0.2.9", Some(Transport::Tls), "tls:192.0.2.9:5061 0 0"),
        ("2001:db8::9", None, "udp:[2001:db8::9]:5060 0 0"),
    ] {
        let target = target(host, None, transport);
        let (asked, meaning) = Script::default().run(&target);
        assert!(asked.is_empty());
        assert_eq!(meaning.places.iter().map(shown).collect::<Vec<_>>(), [place]);
        assert_eq!(meaning.places[0].place.host, None);
    }
}

#[test]
fn naptr_records_choose_services_in_their_order() {
    let script = Script::default()
        .with(
            "example.com",
            Kind::Naptr,
            vec![
                naptr(100, 50, "s", "SIP+D2U", "_sip._udp.example.com"),
                naptr(50, 60, "S", "sip+d2t", "_sip._tcp.provider.example"),
                naptr(50, 50, "s", "SIPS+D2T", "_sips._tcp.example.com"),
            ],
        )
        .with("_sip._udp.example.com", Kind::Srv, vec![srv(0, 0, 5060, "a.example.com")])
        .with("_sip._tcp.provider.example", Kind::Srv, vec![srv(0, 0, 5060, "b.example.com")])
        .with("_sips._tcp.example.com", Kind::Srv, vec![srv(0, 0, 5061, "a.example.com")])
        .a("a.example.com", &[1])
        .a("b.example.com", &[2]);
    let (asked, meaning) = script.run(&plain());
    assert_eq!(asked[0], ["NAPTR example.com"]);
    assert_eq!(asked[1], ["SRV _sip._tcp.provider.example", "SRV _sip._udp.example.com", "SRV _sips._tcp.example.com"]);
    assert_eq!(asked[2], ["A a.example.com", "AAAA a.example.com", "A b.example.com", "AAAA b.example.com"]);
    let places: Vec<String> = meaning.places.iter().map(shown).collect();
    assert_eq!(places, ["tls:192.0.2.1:5061 0 0", "tcp:192.0.2.2:5060 0 0", "udp:192.0.2.1:5060 0 0"]);
}

#[test]
fn naptr_records_that_are_of_no_use_are_as_none() {
    let useless = vec![
        naptr(1, 1, "s", "SIP+D2W", "_ws.example.com"),
        naptr(1, 1, "s", "SIPS+D2W", "_wss.example.com"),
        naptr(1, 1, "s", "SIP+D2S", "_sip._sctp.example.com"),
        naptr(1, 1, "u", "SIP+D2U", "_sip._udp.example.com"),
        naptr(1, 1, "", "SIP+D2U", "_sip._udp.example.com"),
        naptr(1, 1, "ss", "SIP+D2U", "_sip._udp.example.com"),
        naptr(1, 1, "s", "E2U+sip", ""),
        naptr(1, 1, "s", "SIP+D2U", ""),
        v4(1),
    ];
    let script = Script::default().with("example.com", Kind::Naptr, useless).a("example.com", &[1]);
    let (asked, _) = script.run(&plain());
    assert_eq!(asked[1], ["SRV _sip._tcp.example.com", "SRV _sip._udp.example.com", "SRV _sips._tcp.example.com"]);
    assert_eq!(script.places(&plain()), ["udp:192.0.2.1:5060 0 0"]);
}

#[test]
fn without_naptr_records_udp_is_before_tcp_before_tls() {
    let script = Script::default()
        .with("_sips._tcp.example.com", Kind::Srv, vec![srv(0, 0, 5061, "pbx.example.com")])
        .with("_sip._tcp.example.com", Kind::Srv, vec![srv(0, 0, 5060, "pbx.example.com")])
        .a("pbx.example.com", &[1]);
    assert_eq!(script.places(&plain()), ["tcp:192.0.2.1:5060 0 0", "tls:192.0.2.1:5061 0 0"]);
    let script = script.with("_sip._udp.example.com", Kind::Srv, vec![srv(9, 0, 5060, "pbx.example.com")]);
    let expected = ["udp:192.0.2.1:5060 9 0", "tcp:192.0.2.1:5060 0 0", "tls:192.0.2.1:5061 0 0"];
    assert_eq!(script.places(&plain()), expected);
}

#[test]
fn a_service_that_naptr_records_name_and_nobody_offers_gives_the_transport_alone() {
    let script = Script::default()
        .with("example.com", Kind::Naptr, vec![naptr(1, 1, "s", "SIPS+D2T", "_sips._tcp.example.com")])
        .a("example.com", &[1]);
    assert_eq!(script.places(&plain()), ["tls:192.0.2.1:5061 0 0"]);
}

#[test]
fn services_are_sorted_by_priority_then_weight_then_name() {
    let mut records = vec![
        srv(20, 100, 5060, "c.example.com"),
        srv(10, 10, 5060, "b.example.com"),
        srv(10, 60, 5062, "a.example.com"),
        srv(10, 60, 5061, "a.example.com"),
        srv(10, 60, 5060, "d.example.com"),
        srv(10, 0, 5060, "e.example.com"),
    ];
    let expected = [
        "udp:192.0.2.1:5061 10 60",
        "udp:192.0.2.1:5062 10 60",
        "udp:192.0.2.4:5060 10 60",
        "udp:192.0.2.2:5060 10 10",
        "udp:192.0.2.5:5060 10 0",
        "udp:192.0.2.3:5060 20 100",
    ];
    for _ in 0..records.len() {
        records.rotate_left(1);
        let script = Script::default()
            .with("_sip._udp.example.com", Kind::Srv, records.clone())
            .a("a.example.com", &[1])
            .a("b.example.com", &[2])
            .a("c.example.com", &[3])
            .a("d.example.com", &[4])
            .a("e.example.com", &[5]);
        assert_eq!(script.places(&target("example.com", None, Some(Transport::Udp))), expected);
    }
}

#[test]
fn a_service_that_is_decidedly_not_offered_leads_nowhere() {
    let script =
        Script::default().with("_sip._udp.example.com", Kind::Srv, vec![srv(0, 0, 0, "")]).a("example.com", &[1]);
    for target in [plain(), target("example.com", None, Some(Transport::Udp))] {
        let meaning = script.meaning(&target);
        assert_eq!((meaning.places, meaning.failure), (vec![], None));
        assert_eq!(meaning.ttl, Some(Duration::from_secs(300)));
    }
    // Another transport may be offered all the same.
    let script = script
        .with(
            "_sip._tcp.example.com",
            Kind::Srv,
            vec![srv(0, 0, 5060, "pbx.example.com"), srv(0, 0, 0, "pbx.example.com")],
        )
        .a("pbx.example.com", &[2]);
    assert_eq!(script.places(&plain()), ["tcp:192.0.2.2:5060 0 0"]);
}

#[test]
fn a_name_that_does_not_exist_leads_nowhere() {
    let (asked, meaning) = Script::default().run(&plain());
    assert_eq!(asked.len(), 3);
    assert_eq!(meaning, Meaning::default());
}

#[test]
fn the_certificate_is_for_the_name_that_was_asked_for() {
    let script = Script::default()
        .with("_sips._tcp.example.com", Kind::Srv, vec![srv(0, 0, 5061, "host7.provider.example")])
        .a("host7.provider.example", &[1]);
    let target = target("example.com", None, Some(Transport::Tls));
    let meaning = script.meaning(&target);
    assert_eq!(meaning.places[0].place.host.as_deref(), Some("example.com"));
    // Also where the name was looked for within a domain.
    let Step::Ask(questions) = next(&self::target("pbx", Some(5060), None), "pbx.example.com", &BTreeMap::new()) else {
        panic!("nothing was answered yet");
    };
    assert_eq!(questions[0].name, "pbx.example.com");
    let answers = Script::default().a("pbx.example.com", &[1]).aaaa("pbx.example.com", &[1]).0;
    let Step::Known(meaning) = next(&self::target("pbx", Some(5060), None), "pbx.example.com", &answers) else {
        panic!("all was answered");
    };
    assert_eq!(meaning.places[0].place.host.as_deref(), Some("pbx"));
}

#[test]
fn the_smallest_time_to_live_of_all_records_counts() {
    let script = Script::default()
        .with("example.com", Kind::Naptr, vec![naptr(1, 1, "s", "SIP+D2U", "_sip._udp.example.com")])
        .with("_sip._udp.example.com", Kind::Srv, vec![srv(0, 0, 5060, "pbx.example.com")])
        .a("pbx.example.com", &[1])
        .aaaa("pbx.example.com", &[1]);
    let names = [
        ("example.com", Kind::Naptr),
        ("_sip._udp.example.com", Kind::Srv),
        ("pbx.example.com", Kind::A),
        ("pbx.example.com", Kind::Aaaa),
    ];
    let mut script = script;
    for (seconds, (name, kind)) in [(90, names[0]), (80, names[1]), (70, names[2]), (0, names[3])] {
        script = script.lasting(name, kind, seconds);
        assert_eq!(script.meaning(&plain()).ttl, Some(Duration::from_secs(seconds)), "{name}");
    }
}

#[test]
fn a_failure_beside_answers_is_told_and_fails_nothing() {
    let script = Script::default().a("example.com", &[1]).failing("example.com", Kind::Aaaa);
    let meaning = script.meaning(&target("example.com", Some(5060), None));
    assert_eq!(meaning.places.len(), 1);
    assert_eq!(meaning.failure.as_deref(), Some("AAAA example.com"));
    // A name server that does not know such records at all.
    let script = script.failing("example.com", Kind::Naptr).failing("_sip._tcp.example.com", Kind::Srv).with(
        "_sip._udp.example.com",
        Kind::Srv,
        vec![srv(0, 0, 5070, "example.com")],
    );
    assert_eq!(script.places(&plain()), ["udp:192.0.2.1:5070 0 0"]);
    assert_eq!(script.meaning(&plain()).failure.as_deref(), Some("NAPTR example.com"));
    let script = Script::default().failing("example.com", Kind::A).failing("example.com", Kind::Aaaa);
    let meaning = script.meaning(&plain());
    assert_eq!((meaning.places, meaning.failure.as_deref()), (vec![], Some("A example.com")));
}

#[test]
fn addresses_that_are_nobodys_are_left_out() {
    let nobodys = ["0.0.0.0", "::", "255.255.255.255", "224.0.1.75", "ff02::1", "::ffff:0.0.0.0"];
    let mut records: Vec<Data> = nobodys.iter().map(|text| Data::Address(text.parse().expect("an address"))).collect();
    // Private ones are somebody's, and one address is one place however it is written.
    records.extend(
        ["10.0.0.1", "127.0.0.1", "::ffff:10.0.0.1"].map(|text| Data::Address(text.parse().expect("an address"))),
    );
    let script = Script::default().with("example.com", Kind::A, records);
    let places = script.places(&target("example.com", Some(5060), None));
    assert_eq!(places, ["udp:10.0.0.1:5060 0 0", "udp:127.0.0.1:5060 0 0"]);
}

#[test]
fn a_place_is_there_once_where_it_is_best() {
    let records =
        vec![srv(20, 1, 5060, "b.example.com"), srv(10, 1, 5060, "a.example.com"), srv(10, 1, 5061, "a.example.com")];
    let script = Script::default()
        .with("_sip._udp.example.com", Kind::Srv, records)
        .a("a.example.com", &[1])
        .a("b.example.com", &[1, 2]);
    let places = script.places(&target("example.com", None, Some(Transport::Udp)));
    assert_eq!(places, ["udp:192.0.2.1:5060 10 1", "udp:192.0.2.1:5061 10 1", "udp:192.0.2.2:5060 20 1"]);
}

#[test]
fn there_are_no_more_places_than_the_limit() {
    for (count, kept) in [(63, 63), (64, 64), (65, 64), (250, 64)] {
        let all: Vec<u8> = (1..=count).rev().collect();
        let meaning = Script::default().a("example.com", &all).meaning(&target("example.com", Some(5060), None));
        assert_eq!(meaning.places.len(), kept);
        assert_eq!(meaning.places[0].place.address.to_string(), "192.0.2.1:5060");
    }
    assert_eq!(PLACES, 64);
}

#[test]
fn there_are_no_more_hosts_asked_for_than_the_limit() {
    for (count, kept) in [(15, 15), (16, 16), (17, 16), (200, 16)] {
        let records =
            (1..=count).rev().map(|number| srv(number, 0, 5060, &format!("host{number}.example.com"))).collect();
        let script = Script::default().with("_sip._udp.example.com", Kind::Srv, records);
        let (asked, _) = script.run(&target("example.com", None, Some(Transport::Udp)));
        // A and AAAA of each.
        assert_eq!(asked[1].len(), 2 * kept);
        assert!(asked[1].contains(&"A host1.example.com".to_owned()));
    }
    assert_eq!(SERVICE_TARGETS, 16);
}

#[test]
fn there_are_no_more_services_asked_for_than_the_limit() {
    for (count, kept) in [(7, 7), (8, 8), (9, 8), (100, 8)] {
        let record = |number: u16| naptr(number, 0, "s", "SIP+D2U", &format!("_sip._udp.zone{number:03}.example"));
        let records: Vec<Data> = (1..=count).rev().flat_map(|number| [record(number), record(number)]).collect();
        let (asked, _) = Script::default().with("example.com", Kind::Naptr, records).run(&plain());
        assert_eq!(asked[1].len(), kept);
        assert_eq!(asked[1][0], "SRV _sip._udp.zone001.example");
    }
    assert_eq!(SERVICES, 8);
}
