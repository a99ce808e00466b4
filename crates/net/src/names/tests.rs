//! Names over the loopback interface of a private namespace, with a name server that follows a script.

mod server;

use super::*;
use crate::namespace;
use engine::{Found, Place, Transport};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::Record;
use server::{Reply, Server, cname, naptr, record, srv};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fifty times as fast as in earnest.
const PACE: Pace = Pace {
    shortest: Duration::from_millis(100),
    longest: Duration::from_secs(2),
    nothing: Duration::from_millis(100),
    retry: Duration::from_millis(100),
    retry_longest: Duration::from_millis(200),
    timeout: Duration::from_millis(400),
};

/// What holds as long as a test may take.
const LONG: u32 = 3_600;

const PATIENCE: Duration = Duration::from_secs(20);

/// Names and how often they changed.
struct World {
    names: Names,
    changes: Arc<AtomicUsize>,
}

impl World {
    fn new(servers: &[SocketAddr]) -> Self {
        let changes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&changes);
        let names = Names::with_pace(servers, PACE, move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        Self { names: names.expect("a thread is had"), changes }
    }

    fn following(server: &Server, targets: &[Target]) -> Self {
        let world = Self::new(&[server.address]);
        world.names.follow(targets.to_vec());
        assert!(world.names.settle(PATIENCE), "{:?}", world.names.status());
        world
    }

    fn changes(&self) -> usize {
        self.changes.load(Ordering::Relaxed)
    }

    /// The places of a target; none if they are not known.
    fn places(&self, target: &Target) -> Option<Vec<String>> {
        let places = |found: &Vec<Found>| found.iter().map(|found| shown(&found.place)).collect();
        self.names.answers().0.get(target).map(places)
    }

    fn status(&self, target: &Target) -> NameStatus {
        let status = self.names.status().into_iter().find(|status| status.name == target.to_string());
        status.expect("the target is followed")
    }

    fn until(&self, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "it never came to it: {:?}", self.names.status());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn until_places(&self, target: &Target, expected: &[&str]) {
        self.until(|world| world.places(target).is_some_and(|places| places == expected));
    }

    /// Waits for some more answers on a target, or failures.
    fn until_asked_again(&self, target: &Target, times: u64) {
        let count = |status: NameStatus| status.answers + status.failures;
        let before = count(self.status(target));
        self.until(|world| count(world.status(target)) >= before + times);
    }
}

fn shown(place: &Place) -> String {
    format!("{}:{}", place.transport.name(), place.address)
}

fn target(host: &str, port: Option<u16>, transport: Option<Transport>) -> Target {
    Target { host: host.to_owned(), port, transport }
}

fn records(records: Vec<Record>) -> Reply {
    Reply::Records(records)
}

#[test]
fn a_name_is_followed_through_all_steps() {
    if !namespace::alone("names::tests::a_name_is_followed_through_all_steps") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    server.set(
        "NAPTR pbx.test",
        records(vec![
            record("pbx.test", LONG, naptr(20, "SIP+D2U", "_sip._udp.pbx.test")),
            record("pbx.test", LONG, naptr(10, "SIPS+D2T", "_sips._tcp.pbx.test")),
        ]),
    );
    server.set(
        "SRV _sip._udp.pbx.test",
        records(vec![record("_sip._udp.pbx.test", LONG, srv(10, 5, 5070, "b.pbx.test"))]),
    );
    // An alias, and its end beside it.
    server.set(
        "SRV _sips._tcp.pbx.test",
        records(vec![
            record("_sips._tcp.pbx.test", LONG, cname("_sips._tcp.provider.test")),
            record("_sips._tcp.provider.test", LONG, srv(20, 0, 5061, "b.pbx.test")),
            record("_sips._tcp.provider.test", LONG, srv(10, 0, 5061, "a.pbx.test")),
        ]),
    );
    server.addresses("a.pbx.test", LONG, &["192.0.2.1", "2001:db8::1"]);
    // An alias, and its end asked for separately.
    for kind in ["A", "AAAA"] {
        server.set(&format!("{kind} b.pbx.test"), records(vec![record("b.pbx.test", LONG, cname("c.pbx.test"))]));
    }
    server.addresses("c.pbx.test", LONG, &["192.0.2.2"]);
    let pbx = target("pbx.test", None, None);
    let world = World::following(&server, std::slice::from_ref(&pbx));
    let expected =
        ["tls:192.0.2.1:5061", "tls:[2001:db8::1]:5061", "tls:192.0.2.2:5061", "udp:192.0.2.2:5070"].map(str::to_owned);
    assert_eq!(world.places(&pbx), Some(expected.to_vec()));
    world.until(|world| world.changes() == 1);
    let answers = world.names.answers();
    let found = answers.of(&pbx);
    assert!(found.iter().all(|found| found.place.host.as_deref() == Some("pbx.test")));
    let shares: Vec<(u16, u16)> = found.iter().map(|found| (found.priority, found.weight)).collect();
    assert_eq!(shares, [(10, 0), (10, 0), (20, 0), (10, 5)]);
    let mut asked = server.asked();
    asked.retain(|asked| asked.starts_with("NAPTR") || asked.starts_with("SRV"));
    let asked: BTreeSet<String> = asked.into_iter().collect();
    let expected_asked = ["NAPTR pbx.test", "SRV _sip._udp.pbx.test", "SRV _sips._tcp.pbx.test"].map(str::to_owned);
    assert_eq!(asked, BTreeSet::from(expected_asked));
    let status = world.status(&pbx);
    assert_eq!((status.places, status.failure), (expected.to_vec(), None));
    assert_eq!((status.answers, status.failures), (1, 0));
    assert!(status.age.is_some_and(|age| age < PATIENCE) && status.again <= PACE.longest);
}

#[test]
fn a_name_is_asked_again_when_its_records_are_old() {
    if !namespace::alone("names::tests::a_name_is_asked_again_when_its_records_are_old") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    server.addresses("short.test", 0, &["192.0.2.1"]);
    server.addresses("long.test", 1, &["192.0.2.1"]);
    let (short, long) = (target("short.test", Some(5060), None), target("long.test", Some(5060), None));
    let world = World::following(&server, &[short.clone(), long.clone()]);
    world.until(|world| world.status(&short).answers >= 4);
    // Ten times as long.
    assert!(world.status(&long).answers < world.status(&short).answers);
    let before = world.changes();
    server.addresses("short.test", 0, &["192.0.2.2", "192.0.2.1"]);
    world.until_places(&short, &["udp:192.0.2.1:5060", "udp:192.0.2.2:5060"]);
    world.until(|world| world.changes() == before + 1);
    // The same addresses in another order are no change.
    server.addresses("short.test", 0, &["192.0.2.1", "192.0.2.2"]);
    world.until_asked_again(&short, 3);
    assert_eq!(world.changes(), before + 1);
}

#[test]
fn the_last_good_answer_stays_while_nobody_answers() {
    if !namespace::alone("names::tests::the_last_good_answer_stays_while_nobody_answers") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    server
        .set("SRV _sip._udp.pbx.test", records(vec![record("_sip._udp.pbx.test", 0, srv(10, 5, 5070, "a.pbx.test"))]));
    server.addresses("a.pbx.test", 0, &["192.0.2.1"]);
    let pbx = target("pbx.test", None, Some(Transport::Udp));
    let world = World::following(&server, std::slice::from_ref(&pbx));
    world.until_places(&pbx, &["udp:192.0.2.1:5070"]);
    world.until(|world| world.changes() == 1);
    server.be_silent(true);
    world.until(|world| world.status(&pbx).failures >= 3);
    let status = world.status(&pbx);
    assert_eq!(status.places, ["udp:192.0.2.1:5070"]);
    assert!(
        status.failure.as_deref().is_some_and(|text| text.contains("no answer in time (127.0.0.1:5353)")),
        "{status:?}"
    );
    assert!(status.age.is_some_and(|age| age >= PACE.timeout * 3), "{status:?}");
    // One that was never answered is known to nobody, and does not hold up the other.
    let other = target("other.test", Some(5060), None);
    world.names.follow(vec![pbx.clone(), other.clone()]);
    assert!(world.names.settle(PATIENCE));
    assert_eq!(world.places(&other), None);
    // As soon as it speaks again, what it says counts.
    server.addresses("a.pbx.test", 0, &["192.0.2.2"]);
    server.addresses("other.test", 0, &["192.0.2.3"]);
    assert_eq!(world.changes(), 1);
    server.be_silent(false);
    world.until_places(&pbx, &["udp:192.0.2.2:5070"]);
    world.until_places(&other, &["udp:192.0.2.3:5060"]);
    world.until(|world| world.status(&pbx).failure.is_none());
}

#[test]
fn an_error_of_the_server_is_a_failure() {
    if !namespace::alone("names::tests::an_error_of_the_server_is_a_failure") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    for kind in ["A", "AAAA"] {
        server.set(&format!("{kind} pbx.test"), Reply::Code(ResponseCode::ServFail));
    }
    let pbx = target("pbx.test", Some(5060), None);
    let world = World::following(&server, std::slice::from_ref(&pbx));
    assert_eq!(world.places(&pbx), None);
    let status = world.status(&pbx);
    assert_eq!(status.failure.as_deref(), Some("A pbx.test: server failure (127.0.0.1:5353)"));
    assert_eq!((status.answers, status.age), (0, None));
    // One family is enough, and the other may come later.
    server.set("A pbx.test", records(vec![record("pbx.test", LONG, std::net::Ipv4Addr::new(192, 0, 2, 1).into())]));
    world.until_places(&pbx, &["udp:192.0.2.1:5060"]);
    assert!(world.status(&pbx).failure.is_some_and(|text| text.starts_with("AAAA pbx.test: ")));
    server.addresses("pbx.test", LONG, &["192.0.2.1", "2001:db8::1"]);
    world.until_places(&pbx, &["udp:192.0.2.1:5060", "udp:[2001:db8::1]:5060"]);
    // And a family that fails now is known from before.
    let failures = world.status(&pbx).failures;
    server.set("AAAA pbx.test", Reply::Code(ResponseCode::Refused));
    world.until(|world| world.status(&pbx).failures >= failures + 2);
    let status = world.status(&pbx);
    assert_eq!(status.places.len(), 2);
    assert_eq!(status.failure.as_deref(), Some("AAAA pbx.test: query refused (127.0.0.1:5353)"));
}

#[test]
fn a_zone_that_is_being_edited_ends_no_calls() {
    if !namespace::alone("names::tests::a_zone_that_is_being_edited_ends_no_calls") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    let service = || records(vec![record("_sip._udp.pbx.test", 0, srv(10, 5, 5070, "a.pbx.test"))]);
    server.set("SRV _sip._udp.pbx.test", service());
    server.addresses("a.pbx.test", 0, &["192.0.2.1"]);
    server.addresses("pbx.test", 0, &["192.0.2.80"]);
    let pbx = target("pbx.test", None, Some(Transport::Udp));
    let world = World::following(&server, std::slice::from_ref(&pbx));
    world.until(|world| world.changes() == 1);
    // The address of the host is gone: nowhere to go, which is believed the third time.
    let answers = world.status(&pbx).answers;
    server.remove("A a.pbx.test");
    server.remove("AAAA a.pbx.test");
    world.until(|world| world.places(&pbx).is_some_and(|places| places.is_empty()));
    assert!(world.status(&pbx).answers >= answers + 3);
    server.addresses("a.pbx.test", 0, &["192.0.2.1"]);
    world.until_places(&pbx, &["udp:192.0.2.1:5070"]);
    // The service is gone: it would lead to the web site.
    let answers = world.status(&pbx).answers;
    server.remove("SRV _sip._udp.pbx.test");
    world.until_places(&pbx, &["udp:192.0.2.80:5060"]);
    assert!(world.status(&pbx).answers >= answers + 3);
}

#[test]
fn the_next_server_answers_for_one_that_is_silent() {
    if !namespace::alone("names::tests::the_next_server_answers_for_one_that_is_silent") {
        return;
    }
    let (first, second) = (Server::start("127.0.0.1:5353"), Server::start("127.0.0.2:5353"));
    first.be_silent(true);
    for server in [&first, &second] {
        server.addresses("pbx.test", 0, &[server.address.ip().to_string().as_str()]);
    }
    let world = World::new(&[first.address, second.address]);
    let pbx = target("pbx.test", None, None);
    world.names.follow(vec![pbx.clone()]);
    world.until_places(&pbx, &["udp:127.0.0.2:5060"]);
    assert_eq!(world.status(&pbx).failures, 0);
    // Whoever was silent is not asked again for a while, so that not every step takes its time.
    first.asked();
    world.until_asked_again(&pbx, 2);
    assert_eq!(first.asked(), Vec::<String>::new());
    // Others than configured at first.
    first.be_silent(false);
    world.names.set_servers(&[first.address]);
    world.until_places(&pbx, &["udp:127.0.0.1:5060"]);
    // A run of before may just have ended.
    world.until_asked_again(&pbx, 1);
    second.asked();
    world.until_asked_again(&pbx, 2);
    assert!(second.asked().is_empty());
}

#[test]
fn hostile_answers_cost_little_and_are_told() {
    if !namespace::alone("names::tests::hostile_answers_cost_little_and_are_told") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    let good = target("good.test", Some(5060), None);
    server.addresses("good.test", LONG, &["192.0.2.1"]);
    // A name that points to itself, octets without sense, an end too early.
    let own_place = |name: &str| 0xc000_u16 + 12 + u16::try_from(name.len()).expect("it is short") + 2 + 4;
    let loops = [&own_place("loop.test").to_be_bytes()[..], &[0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 1]].concat();
    for (name, octets) in [("loop.test", loops), ("garbage.test", vec![0xff; 200]), ("short.test", vec![0xc0])] {
        for kind in ["A", "AAAA"] {
            server.set(&format!("{kind} {name}"), Reply::Octets(octets.clone()));
        }
    }
    // Aliases from message to message without an end, and in a circle.
    for at in 0..50 {
        let (owner, next) = (format!("n{at}.test"), format!("n{}.test", at + 1));
        for kind in ["A", "AAAA"] {
            server.set(&format!("{kind} {owner}"), records(vec![record(&owner, LONG, cname(&next))]));
        }
    }
    for kind in ["A", "AAAA"] {
        let circle = vec![record("x.test", LONG, cname("y.test")), record("y.test", LONG, cname("x.test"))];
        server.set(&format!("{kind} x.test"), records(circle));
    }
    let failing = ["loop.test", "garbage.test", "short.test", "n0.test"].map(|name| target(name, Some(5060), None));
    let circle = target("x.test", Some(5060), None);
    let all = [&failing[..], &[circle.clone(), good.clone()]].concat();
    let world = World::following(&server, &all);
    assert_eq!(world.places(&good), Some(vec!["udp:192.0.2.1:5060".to_owned()]));
    for target in &failing {
        let status = world.status(target);
        assert_eq!((world.places(target), status.answers), (None, 0), "{status:?}");
        let text = status.failure.expect("it has failed");
        assert!(text.contains(&target.host) && text.chars().count() <= 200, "{text}");
    }
    assert!(world.places(&circle).is_none_or(|places| places.is_empty()));
    assert!(!server.asked().iter().any(|asked| asked.ends_with(" n9.test")), "the chain was followed too far");
}

#[test]
fn large_answers_come_over_tcp_and_are_bounded() {
    if !namespace::alone("names::tests::large_answers_come_over_tcp_and_are_bounded") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    let address = |at: u16| record("large.test", LONG, std::net::Ipv4Addr::from(0xc612_0000 + u32::from(at)).into());
    // Some 50 KB, the best addresses last.
    server.set("A large.test", Reply::Truncated((1..=2_000).rev().map(address).collect()));
    server
        .set("A whole.test", Reply::Truncated(vec![record("whole.test", LONG, std::net::Ipv4Addr::LOCALHOST.into())]));
    let (large, whole) = (target("large.test", Some(5060), None), target("whole.test", Some(5060), None));
    let world = World::following(&server, &[large.clone(), whole.clone()]);
    world.until_places(&whole, &["udp:127.0.0.1:5060"]);
    world.until(|world| world.places(&large).is_some());
    let places = world.places(&large).expect("they are known");
    assert_eq!((places.len(), places[0].as_str()), (64, "udp:198.18.0.1:5060"));
    assert!(server.over_tcp() >= 2);
}

#[test]
fn many_names_are_asked_some_at_a_time_and_forgotten_when_nobody_wants_them() {
    if !namespace::alone("names::tests::many_names_are_asked_some_at_a_time_and_forgotten_when_nobody_wants_them") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    let targets: Vec<Target> = (0..100).map(|at| target(&format!("pbx{at}.test"), Some(5060), None)).collect();
    for target in &targets {
        server.addresses(&target.host, LONG, &["192.0.2.1"]);
    }
    let world = World::following(&server, &targets);
    world.until(|world| world.names.answers().0.len() == 100);
    world.names.follow(targets[..2].to_vec());
    assert_eq!(world.names.status().len(), 2);
    assert_eq!(world.names.answers().0.len(), 2);
    // Those that stay are known.
    assert!(world.names.settle(Duration::ZERO));
    world.names.follow(Vec::new());
    assert!(world.names.settle(Duration::ZERO) && world.names.answers().0.is_empty());
}

#[test]
fn it_ends_whatever_is_under_way() {
    if !namespace::alone("names::tests::it_ends_whatever_is_under_way") {
        return;
    }
    let server = Server::start("127.0.0.1:5353");
    server.be_silent(true);
    let world = World::new(&[server.address]);
    world.names.follow(vec![target("pbx.test", None, None)]);
    assert!(!world.names.settle(Duration::from_millis(50)));
    server.asked();
    drop(world);
    // Nobody is left who would ask again when the time for an answer is over.
    thread::sleep(PACE.timeout * 2);
    assert_eq!(server.asked(), Vec::<String>::new());
}

#[test]
fn runs_begin_as_places_are_free_and_only_the_last_counts() {
    let now = Instant::now();
    let mut state = State::default();
    for at in 0..AT_ONCE + 3 {
        state.entries.insert(target(&format!("pbx{at:03}.test"), None, None), Entry::new(now));
    }
    let first = state.turn(now).expect("nobody stopped it");
    assert_eq!((first.servers, first.begin.len(), first.next), (Some(Vec::new()), AT_ONCE, None));
    let again = state.turn(now).expect("nobody stopped it");
    assert_eq!((again.servers, again.begin.len(), again.changed), (None, 0, false));
    let shared =
        Shared { state: Mutex::new(state), settled: Condvar::new(), wake: Notify::new(), pace: Pace::default() };
    let (target, _, number) = first.begin.first().expect("there are some");
    let place = Place { transport: Transport::Udp, address: SocketAddr::from(([192, 0, 2, 1], 5060)), host: None };
    let run = Run {
        places: vec![Found { place, priority: 0, weight: 0 }],
        ttl: Some(Duration::from_secs(60)),
        failure: None,
        basis: Basis::New,
    };
    // A run of before the servers were others.
    shared.end(target, number + 1_000, Memory::default(), run.clone(), now);
    assert!(!shared.state().changed);
    shared.end(target, *number, Memory::default(), run, now);
    let turn = shared.state().turn(now).expect("nobody stopped it");
    assert_eq!((turn.begin.len(), turn.changed, turn.next), (1, true, Some(now + Duration::from_secs(60))));
    shared.state().stop = true;
    assert!(shared.state().turn(now).is_none());
}
