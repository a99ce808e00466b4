//! Debian's Kamailio behind the farm, with streams on either side: a box that is reached over TLS or TCP, phones that hang on a
//! connection of TCP, TLS or WebSocket, and what becomes of both when a connection is gone.

use crate::common::certificates::Authority;
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::link::{Link, Over};
use crate::common::phone::{End, Phone, connect, end_call, talk};
use crate::common::unit::{backend, counter};
use crate::common::{Process, Unit, holds_within, namespace, peer};
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;
use ua::Event;

const FARM: &str = "127.0.0.20";
const UNIT: &str = "127.0.0.20:5060";
const TLS: &str = "127.0.0.20:5061";
const WS: &str = "127.0.0.20:8080";
const WSS: &str = "127.0.0.20:8443";
const BOX: &str = "127.0.0.31";
const BONNIE: &str = "127.0.0.51";
const CLYDE: &str = "127.0.0.52";
const CALL_CLYDE: &str = "sip:clyde@127.0.0.20";
const CALL_BONNIE: &str = "sip:bonnie@127.0.0.20";
/// Pings find out that a box is there again: two in a row, ten seconds apart.
const FOUND_OUT: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);

/// Files of the test, and the authority that everything is signed by.
struct World {
    folder: TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        Self { folder, authority: Authority::new("authority of the test") }
    }

    /// A farm that listens there, with certificates for its address, and one box with these lines.
    fn unit(&self, listen: &[&str], server: &str) -> Unit {
        let certificate = self.authority.issue_file(self.folder.path(), "farm.pem", &[FARM]);
        let listen: Vec<String> = listen.iter().map(|one| format!("\"{one}\"")).collect();
        Unit::start(&format!(
            "[[farm]]\nname = \"pbx\"\nlisten = [{}]\ncertificates = [\"{certificate}\"]\n\
             [[farm.backend]]\nname = \"a\"\n{server}\n",
            listen.join(", ")
        ))
    }
}

fn server(name: &str) -> Server<'_> {
    Server { name, realm: "shared", host: BOX, farm: FARM, users: "bonnie|clyde" }
}

/// A call that is answered and ended by its caller.
fn ring_and_end(caller: &Phone, callee: &Phone, target: &str) {
    connect(caller, callee, target);
    end_call(caller, callee);
}

fn call_to_and_fro(bonnie: &Phone, clyde: &Phone, calls: usize) {
    for number in 0..calls {
        if number % 2 == 0 {
            ring_and_end(bonnie, clyde, CALL_CLYDE);
        } else {
            ring_and_end(clyde, bonnie, CALL_BONNIE);
        }
    }
}

fn assert_nothing_amiss(server: &Process) {
    let errors = server.errors();
    let amiss: Vec<&str> =
        errors.lines().filter(|line| line.contains(" ERROR: ") || line.contains(" CRITICAL: ")).collect();
    assert!(amiss.is_empty(), "the box complains:\n{}", amiss.join("\n"));
}

fn is_up(unit: &Unit) -> bool {
    let status = unit.status();
    backend(&status, "a").and_then(|found| found.get("state")).and_then(Value::as_str) == Some("up")
}

/// One phone over UDP and one over TCP call each other through a box that is reached by a stream; it is killed and comes back.
fn calls_through_a_box_over(transport: &str, verify: bool) {
    let world = World::new();
    let authority = world.authority.own_file(world.folder.path(), "authority.pem");
    let shown = world.authority.issue_file(world.folder.path(), "box.pem", &[BOX]);
    let port = if verify { 5061 } else { 5060 };
    let verify = if verify { format!("verify = \"{authority}\"") } else { String::new() };
    let lines = format!("address = \"{BOX}:{port}\"\ntransport = \"{transport}\"\n{verify}");
    let listen = ["udp:127.0.0.20:5060", "tcp:127.0.0.20:5060", "tls:127.0.0.20:5061"];
    let mut first = kamailio::start_with_streams(world.folder.path(), &server("a"), &shown);
    let unit = world.unit(&listen, &lines);
    let bonnie = Phone::start("bonnie", PASSWORD, BONNIE, UNIT, Duration::ZERO);
    let clyde = Phone::start_over("clyde", PASSWORD, CLYDE, UNIT, Link::open(Over::Tcp, UNIT));
    bonnie.register();
    clyde.register();
    talk(&bonnie, &clyde, CALL_CLYDE, End::Callee);
    talk(&clyde, &bonnie, CALL_BONNIE, End::Callee);
    call_to_and_fro(&bonnie, &clyde, 20);
    assert_nothing_amiss(&first);
    let status = unit.status();
    let opened = counter(&status, "connections_opened", "");
    assert!((1..=4).contains(&opened), "one connection for everything, and not {opened}: {status:#}");
    assert_eq!(counter(&status, "stream_messages_not_sent", ""), 0, "{status:#}");

    first.kill();
    let second = kamailio::start_with_streams(world.folder.path(), &server("a-again"), &shown);
    assert!(holds_within(FOUND_OUT, || is_up(&unit)), "{:#}", unit.status());
    // It has forgotten everybody, and is told anew; from then on no call fails.
    bonnie.register();
    clyde.register();
    call_to_and_fro(&bonnie, &clyde, 6);
    assert_nothing_amiss(&second);
    let status = unit.status();
    assert!(counter(&status, "connections_opened", "") > opened, "{status:#}");
    assert!(is_up(&unit), "{status:#}");
}

#[test]
fn phones_call_through_a_box_over_tls_that_comes_back() {
    if peer("kamailio").is_none() || !kamailio::has_tls() || !namespace() {
        return;
    }
    calls_through_a_box_over("tls", true);
}

#[test]
fn phones_call_through_a_box_over_tcp_that_comes_back() {
    if peer("kamailio").is_none() || !kamailio::has_tls() || !namespace() {
        return;
    }
    calls_through_a_box_over("tcp", false);
}

#[test]
fn a_box_whose_certificate_is_not_the_authoritys_gets_nothing() {
    if peer("kamailio").is_none() || !kamailio::has_tls() || !namespace() {
        return;
    }
    let world = World::new();
    let authority = world.authority.own_file(world.folder.path(), "authority.pem");
    let shown = Authority::new("somebody else").issue_file(world.folder.path(), "box.pem", &[BOX]);
    let _server = kamailio::start_with_streams(world.folder.path(), &server("a"), &shown);
    let lines = format!("address = \"{BOX}:5061\"\ntransport = \"tls\"\nverify = \"{authority}\"");
    let unit = world.unit(&["udp:127.0.0.20:5060", "tls:127.0.0.20:5061"], &lines);
    assert!(holds_within(Duration::from_secs(40), || !is_up(&unit)), "{:#}", unit.status());
    let status = unit.status();
    assert!(counter(&status, "connections_ended", "tls") >= 1, "{status:#}");
    assert_eq!(counter(&status, "stream_messages_received", ""), 0, "{status:#}");
    let bonnie = Phone::start("bonnie", PASSWORD, BONNIE, UNIT, Duration::ZERO);
    bonnie.begin_registering();
    let event = bonnie.wait("an end", |event| matches!(event, Event::RegisterFailed { .. } | Event::Registered { .. }));
    assert!(matches!(event, Event::RegisterFailed { code: 500..=599 }), "{event:?}");
}

#[test]
fn a_phone_over_tls_is_called_on_its_connection_and_on_no_other() {
    if peer("kamailio").is_none() || !namespace() {
        return;
    }
    let world = World::new();
    let unit = world.unit(&["udp:127.0.0.20:5060", "tls:127.0.0.20:5061"], &format!("address = \"{BOX}:5060\""));
    let _server = kamailio::start(unit.folder(), &server("a"));
    let secure = || Link::open(Over::Tls(&world.authority.pem), TLS);
    let connections = || counter(&unit.status(), "connections", "");
    let bonnie = Phone::start("bonnie", PASSWORD, BONNIE, UNIT, Duration::ZERO);
    let clyde = Phone::start_over("clyde", PASSWORD, CLYDE, TLS, secure());
    bonnie.register();
    clyde.register();
    talk(&bonnie, &clyde, CALL_CLYDE, End::Caller);
    talk(&bonnie, &clyde, CALL_CLYDE, End::Callee);
    talk(&clyde, &bonnie, CALL_BONNIE, End::Callee);
    assert_eq!(connections(), 1, "{:#}", unit.status());

    // Cut: nobody may connect to the phone, so nobody tries.
    clyde.hang_on(None);
    assert!(holds_within(SOON, || connections() == 0), "{:#}", unit.status());
    bonnie.call(CALL_CLYDE);
    let event = bonnie.wait("an end", |event| matches!(event, Event::Failed { .. } | Event::Answered { .. }));
    assert!(matches!(event, Event::Failed { code: 480, .. }), "{event:?}");

    // Back on another connection it is reached as before.
    clyde.hang_on(Some(secure()));
    clyde.register();
    talk(&bonnie, &clyde, CALL_CLYDE, End::Caller);
    let status = unit.status();
    assert_eq!(connections(), 1, "{status:#}");
    assert_eq!(counter(&status, "connections_accepted", ""), 2, "{status:#}");
    assert_eq!(counter(&status, "connections_opened", ""), 0, "{status:#}");
}

#[test]
fn phones_on_web_sockets_call_each_other() {
    if peer("kamailio").is_none() || !namespace() {
        return;
    }
    let world = World::new();
    let listen = ["udp:127.0.0.20:5060", "ws:127.0.0.20:8080", "wss:127.0.0.20:8443"];
    let unit = world.unit(&listen, &format!("address = \"{BOX}:5060\""));
    let _server = kamailio::start(unit.folder(), &server("a"));
    let plain = Link::open(Over::Ws, WS);
    let secure = Link::open(Over::Wss(&world.authority.pem), WSS);
    let bonnie = Phone::start_over("bonnie", PASSWORD, BONNIE, WS, plain);
    let clyde = Phone::start_over("clyde", PASSWORD, CLYDE, WSS, secure);
    // Their Contacts name hosts that nobody can resolve.
    bonnie.register();
    clyde.register();
    for end in [End::Caller, End::Callee] {
        talk(&bonnie, &clyde, CALL_CLYDE, end);
        talk(&clyde, &bonnie, CALL_BONNIE, end);
    }
    // Refreshed, they are bound once, and not twice.
    bonnie.register();
    clyde.register();
    talk(&bonnie, &clyde, CALL_CLYDE, End::Callee);
    let status = unit.status();
    assert_eq!(status.get("registrations").and_then(Value::as_u64), Some(2), "{status:#}");
    assert_eq!(counter(&status, "connections", ""), 2, "{status:#}");
    assert_eq!(counter(&status, "connections_opened", ""), 0, "{status:#}");
}
