use super::*;
use hickory_resolver::net::NoRecords;
use hickory_resolver::proto::op::OpCode;
use hickory_resolver::proto::rr::rdata::{NAPTR, SRV};

fn named(text: &str) -> Name {
    parsed(text).expect("the test's name is well formed")
}

fn cname(owner: &str, ttl: u32, canonical: &str) -> Record {
    Record::from_rdata(named(owner), ttl, RData::CNAME(CNAME(named(canonical))))
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(named(owner), ttl, RData::from(Ipv4Addr::new(192, 0, 2, last)))
}

fn message(code: ResponseCode, records: Vec<Record>) -> Message {
    let mut message = Message::response(1, OpCode::Query);
    message.metadata.response_code = code;
    message.add_answers(records);
    message
}

/// What a message says on the addresses of `a.example`.
fn reading(code: ResponseCode, records: Vec<Record>) -> Reading {
    read(Kind::A, &named("a.example"), &message(code, records), 1_000)
}

fn address(last: u8) -> Data {
    Data::Address(IpAddr::V4(Ipv4Addr::new(192, 0, 2, last)))
}

fn answered(reading: Reading) -> Answer {
    match reading {
        Reading::Answer(answer) => answer,
        Reading::Alias(name, _) => panic!("{name} is to be asked for"),
    }
}

fn records(records: Vec<Data>, seconds: u64) -> Answer {
    Answer::Records { records, ttl: Duration::from_secs(seconds) }
}

#[test]
fn records_of_the_name_are_read_and_others_are_not() {
    let answers = vec![a("A.Example", 60, 1), a("b.example", 5, 2), a("a.example", 50, 3)];
    assert_eq!(answered(reading(ResponseCode::NoError, answers)), records(vec![address(1), address(3)], 50));
    let others = vec![a("b.example", 5, 2), cname("b.example", 5, "a.example")];
    assert_eq!(answered(reading(ResponseCode::NoError, others)), Answer::Nothing);
}

#[test]
fn aliases_are_followed_within_a_message_in_whatever_order_they_stand() {
    let answers = vec![a("c.example", 60, 1), cname("b.example", 30, "c.example"), cname("a.example", 90, "b.example")];
    assert_eq!(answered(reading(ResponseCode::NoError, answers)), records(vec![address(1)], 30));
    // The smallest time to live is of an alias that led to this message.
    let answer = read(Kind::A, &named("a.example"), &message(ResponseCode::NoError, vec![a("a.example", 60, 1)]), 7);
    assert_eq!(answered(answer), records(vec![address(1)], 7));
}

#[test]
fn an_alias_whose_end_is_not_there_is_asked_for() {
    let answers = || vec![cname("a.example", 90, "b.example"), cname("b.example", 30, "c.example")];
    let Reading::Alias(name, ttl) = reading(ResponseCode::NoError, answers()) else {
        panic!("the end of the aliases is not in the message");
    };
    assert_eq!((name, ttl), (named("c.example"), 30));
    // But not if the server knows that it does not exist.
    assert_eq!(answered(reading(ResponseCode::NXDomain, answers())), Answer::Nothing);
}

#[test]
fn services_are_found_behind_an_alias() {
    let service = RData::SRV(SRV::new(1, 2, 5060, named("PBX.Example")));
    let owner = "_sip._udp.provider.example";
    let answers = vec![cname("_sip._udp.a.example", 90, owner), Record::from_rdata(named(owner), 60, service)];
    let message = message(ResponseCode::NoError, answers);
    let expected = Data::Srv { priority: 1, weight: 2, port: 5060, target: "pbx.example".to_owned() };
    let answer = answered(read(Kind::Srv, &named("_sip._udp.a.example"), &message, u32::MAX));
    assert_eq!(answer, records(vec![expected], 60));
}

#[test]
fn aliases_in_a_circle_and_long_chains_end() {
    let circle = vec![cname("a.example", 90, "b.example"), cname("b.example", 90, "a.example")];
    // Whichever it is: the number of messages is bounded too.
    reading(ResponseCode::NoError, circle);
    let own = vec![cname("a.example", 90, "a.example")];
    assert_eq!(answered(reading(ResponseCode::NoError, own)), Answer::Nothing);
    let mut chain = vec![cname("a.example", 90, "n0.example")];
    chain.extend((0..1_000).map(|at| cname(&format!("n{at}.example"), 90, &format!("n{}.example", at + 1))));
    let Reading::Alias(name, _) = reading(ResponseCode::NoError, chain) else {
        panic!("the chain has no end");
    };
    assert_eq!(name, named("n8.example"));
}

#[test]
fn each_kind_of_record_is_read() {
    assert_eq!(data_of(Kind::A, &RData::from(Ipv4Addr::LOCALHOST)), Some(Data::Address(IpAddr::from([127, 0, 0, 1]))));
    assert_eq!(data_of(Kind::Aaaa, &RData::from(Ipv4Addr::LOCALHOST)), None);
    let root = RData::SRV(SRV::new(0, 0, 0, Name::root()));
    let expected = Data::Srv { priority: 0, weight: 0, port: 0, target: String::new() };
    assert_eq!(data_of(Kind::Srv, &root), Some(expected));
    let octets = |text: &str| text.as_bytes().to_vec().into_boxed_slice();
    let rule = NAPTR::new(1, 2, octets("s"), octets("SIP+D2U"), octets(""), named("_sip._udp.A.example"));
    let expected = Data::Naptr {
        order: 1,
        preference: 2,
        flags: b"s".to_vec(),
        services: b"SIP+D2U".to_vec(),
        replacement: "_sip._udp.a.example".to_owned(),
    };
    assert_eq!(data_of(Kind::Naptr, &RData::NAPTR(rule)), Some(expected));
}

#[test]
fn answers_are_told_from_failures() {
    let judged = |answer: Result<Message, NetError>| judge(answer).map(|message| message.is_some());
    let none = |code| NetError::from(NoRecords::new(Query::default(), code));
    assert_eq!(judged(Ok(message(ResponseCode::NoError, Vec::new()))), Ok(true));
    assert_eq!(judged(Err(none(ResponseCode::NXDomain))), Ok(false));
    assert_eq!(judged(Err(none(ResponseCode::NoError))), Ok(false));
    assert_eq!(judged(Err(NetError::Timeout)), Err("no answer in time".to_owned()));
    let refused = NetError::from(DnsError::ResponseCode(ResponseCode::ServFail));
    assert_eq!(judged(Err(refused)), Err("server failure".to_owned()));
    assert_eq!(judged(Ok(message(ResponseCode::Unknown(11), Vec::new()))), Err("unknown response code".to_owned()));
    // It refers to others, which is what a server does that asks nobody.
    let mut referral = NoRecords::new(Query::default(), ResponseCode::NoError);
    referral.ns = Some(Arc::from(Vec::new()));
    assert!(judged(Err(NetError::from(referral))).is_err());
}

#[test]
fn texts_of_failures_are_short_and_of_one_line() {
    assert_eq!(shown("a\r\nb"), "ab");
    assert_eq!(shown(&"é".repeat(1_000)).chars().count(), SHOWN);
}

#[test]
fn a_name_without_a_dot_is_looked_for_within_the_domains() {
    let search = vec!["a.example".to_owned(), "b.example".to_owned()];
    let source = Source { servers: Vec::new(), search, hosts: None };
    let mut servers = Servers::new(source, Duration::from_secs(1));
    servers.hosts = Hosts::default();
    assert_eq!(servers.candidates("pbx"), ["pbx.a.example", "pbx.b.example", "pbx"]);
    assert_eq!(servers.candidates("pbx.example"), ["pbx.example"]);
    assert_eq!(servers.candidates("2001:db8::1"), ["2001:db8::1"]);
    // What the machine itself knows comes first.
    let query = Query::query(named("pbx"), RecordType::A);
    let lookup = hickory_resolver::lookup::Lookup::from_rdata(query, RData::from(Ipv4Addr::new(192, 0, 2, 1)));
    servers.hosts.insert(named("pbx"), RecordType::A, lookup);
    assert_eq!(servers.candidates("pbx"), ["pbx"]);
    let answer = |kind| servers.in_hosts(&named("pbx"), kind);
    assert_eq!(answer(Kind::A), Some(Answer::Records { records: vec![address(1)], ttl: Duration::MAX }));
    assert_eq!((answer(Kind::Aaaa), answer(Kind::Srv)), (Some(Answer::Nothing), None));
}

#[test]
fn a_server_that_is_silent_is_asked_after_the_others() {
    let addresses: [SocketAddr; 2] = ["192.0.2.1:53", "192.0.2.2:53"].map(|text| text.parse().expect("an address"));
    let source = Source { servers: addresses.to_vec(), search: Vec::new(), hosts: None };
    let servers = Servers::new(source, Duration::from_secs(1));
    let order = || servers.in_order().map(|server| server.address).collect::<Vec<SocketAddr>>();
    assert_eq!(order(), addresses);
    servers.each[0].note::<()>(&Err(NetError::Timeout));
    assert_eq!(order(), [addresses[1], addresses[0]]);
    servers.each[1].note::<()>(&Err(NetError::Timeout));
    assert_eq!(order(), addresses);
    // What it says does not matter.
    servers.each[0].note::<()>(&Err(NetError::from(DnsError::ResponseCode(ResponseCode::ServFail))));
    assert_eq!(order(), addresses);
    servers.each[1].note(&Ok(()));
    assert!(!servers.each[1].is_silent(Instant::now()));
}
