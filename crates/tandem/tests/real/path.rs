//! `registrations = "path"` in front of Debian's Kamailio with its path module: the phone keeps its Contact, and the box calls it along
//! the Path that the farm wrote (RFC 3327).

use crate::common::capture::{Capture, Whole};
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::phone::{End, Phone, talk};
use crate::common::wire::{Station, offer, request};
use crate::common::{Unit, namespace, peer};
use std::net::IpAddr;
use std::time::Duration;

const FARM: &str = "127.0.0.20";
const UNIT: &str = "127.0.0.20:5060";
const BOX: &str = "127.0.0.31";
const BONNIE: &str = "127.0.0.51";
const CLYDE: &str = "127.0.0.52";

fn config() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\nregistrations = \"path\"\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"{BOX}:5060\"\n"
    )
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn phones_keep_their_contact_and_are_called_along_their_path() {
    if peer("kamailio").is_none() || peer("tshark").is_none() || !namespace() {
        return;
    }
    let unit = Unit::start(&config());
    let server = Server { name: "a", realm: "shared", host: BOX, farm: FARM, users: "bonnie|clyde" };
    let _server = kamailio::start_with_path(unit.folder(), &server);
    let capture = Capture::start(unit.folder());
    let bonnie = Phone::start("bonnie", PASSWORD, BONNIE, UNIT, Duration::ZERO);
    let clyde = Phone::start("clyde", PASSWORD, CLYDE, UNIT, Duration::ZERO);
    bonnie.register();
    clyde.register();
    for end in [End::Caller, End::Callee] {
        talk(&bonnie, &clyde, "sip:clyde@127.0.0.20", end);
        talk(&clyde, &bonnie, "sip:bonnie@127.0.0.20", end);
    }
    // A refresh is no second contact: see what the box answers.
    bonnie.register();
    let wire = capture.finish_whole();
    let paths = [("bonnie", BONNIE), ("clyde", CLYDE)].map(|(user, phone)| assert_registered(&wire, user, phone));
    for (user, phone, path) in [("bonnie", BONNIE, &paths[0]), ("clyde", CLYDE, &paths[1])] {
        assert_called(&wire, user, phone, path);
    }
    assert_ne!(paths[0], paths[1], "each leads to one phone");
    for seen in &wire {
        let through = [seen.source.ip(), seen.target.ip()].contains(&ip(FARM));
        assert!(through, "past the farm: {} from {} to {}", seen.taken.first_line(), seen.source, seen.target);
    }
    drop((bonnie, clyde));
    assert_leads_nowhere(&paths[1]);
}

/// What the box sees of a phone's registrations, and what the phone is told; gives the Path.
fn assert_registered(wire: &[Whole], user: &str, phone: &str) -> String {
    let sent: Vec<&Whole> = wire.iter().filter(|seen| seen.is_request("REGISTER", ip(phone), ip(FARM))).collect();
    assert!(sent.len() >= 2, "{user} sends REGISTER without credentials and with them, and not {} times", sent.len());
    let mut paths = Vec::new();
    for sent in sent {
        let own: Vec<&[u8]> = sent.taken.all("contact").collect();
        assert_eq!((own.len(), sent.taken.all("path").count()), (1, 0), "what phones send");
        let relayed = wire.iter().find(|seen| seen.is_request("REGISTER", ip(FARM), ip(BOX)) && seen.is_of(sent));
        let relayed = &relayed.expect("every REGISTER reaches the box").taken;
        assert_eq!(relayed.all("contact").collect::<Vec<_>>(), own, "octet for octet");
        assert_eq!(relayed.texts("supported"), ["path"]);
        let path = relayed.texts("path");
        assert_eq!(path.len(), 1, "{path:?}");
        assert_ours(&path[0]);
        paths.extend(path);
    }
    let first = paths.first().cloned().unwrap_or_default();
    assert!(paths.iter().all(|path| *path == first), "a refresh leads where the first one did: {paths:?}");
    let granted: Vec<&Whole> = wire
        .iter()
        .filter(|seen| seen.source.ip() == ip(FARM) && seen.target.ip() == ip(phone))
        .filter(|seen| seen.taken.code() == Some(200))
        .filter(|seen| seen.taken.text("cseq").is_some_and(|cseq| cseq.ends_with("REGISTER")))
        .collect();
    assert!(!granted.is_empty(), "{user} is registered");
    for granted in granted {
        let contacts = granted.taken.texts("contact");
        assert_eq!(contacts.len(), 1, "one binding: {contacts:?}");
        assert_eq!(granted.taken.uri("contact"), format!("sip:{user}@{phone}:5060"));
    }
    first
}

/// The box calls the phone by its own contact along its Path, and the phone sees nothing of that.
fn assert_called(wire: &[Whole], user: &str, phone: &str, path: &str) {
    let contact = format!("sip:{user}@{phone}:5060");
    let calls: Vec<&Whole> = wire
        .iter()
        .filter(|seen| seen.is_request("INVITE", ip(BOX), ip(FARM)) && seen.taken.target() == contact)
        .collect();
    assert!(calls.len() >= 2, "two calls for {user}, and not {}", calls.len());
    for call in calls {
        assert_eq!(call.taken.texts("route"), [path], "the Path is the way to the phone");
        let rings = wire.iter().find(|seen| seen.is_request("INVITE", ip(FARM), ip(phone)) && seen.is_of(call));
        let rings = &rings.expect("the INVITE reaches the phone").taken;
        assert_eq!(rings.target(), contact);
        assert_eq!(rings.all("route").count(), 0, "{:?}", rings.texts("route"));
        // RFC 3261 §16.6 step 4: each proxy puts its own on top, so that the phone's next hop is the farm.
        let routes = rings.texts("record-route");
        assert_eq!(routes.len(), 3, "ours, the box's, ours: {routes:#?}");
        assert_ours(&routes[0]);
        assert!(routes[1].contains(BOX), "{routes:#?}");
        assert_ours(&routes[2]);
        assert_ne!(routes[0], routes[2], "one for each leg");
    }
}

/// A value with a token of ours, at our address.
fn assert_ours(value: &str) {
    let token = value.strip_prefix("<sip:tdm").and_then(|rest| rest.strip_suffix("@127.0.0.20:5060;lr>"));
    assert!(token.is_some_and(|token| (51..=61).contains(&token.len())), "{value}");
}

/// The registrar shows the Path to the phone, so that a stranger may know it: it counts from boxes only.
fn assert_leads_nowhere(path: &str) {
    let stranger = Station::at("127.0.0.66:5060");
    let phone = Station::at("127.0.0.52:5060");
    let route = format!("Route: {path}\r\n");
    let uri = "sip:clyde@127.0.0.52:5060";
    stranger.send(request("INVITE", uri, stranger.address, "stolen", 1, &route, &offer(stranger.address)), UNIT);
    let answer = stranger.final_answer();
    assert_eq!(answer.code(), Some(403), "{}", answer.first_line());
    // The farm's own keep-alives may be on their way.
    while let Some((bytes, _)) = phone.next(Duration::from_millis(200)) {
        assert!(!bytes.starts_with(b"INVITE"), "{}", bytes.escape_ascii());
    }
}
