//! IPv6 on both sides of the farm, and one family on each: phones and boxes that cannot reach each other speak through it.

use crate::common::capture::{Capture, Whole};
use crate::common::certificates::Authority;
use crate::common::kamailio::{self, PASSWORD, Server};
use crate::common::link::{Link, Over};
use crate::common::phone::{End, Phone, talk};
use crate::common::{Process, Unit, has_addresses, namespace, peer};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Every IPv6 address below.
const ADDRESSES: [&str; 5] = ["fd00::20", "fd00::31", "fd00::32", "fd00::51", "fd00::52"];

/// Who stands where; hosts, IPv6 in brackets, all at port 5060.
struct World {
    /// Where phones reach the farm.
    farm: &'static str,
    /// Where boxes reach it, if that is elsewhere.
    inside: Option<&'static str>,
    boxes: [&'static str; 2],
    /// Bonnie's and Clyde's.
    phones: [&'static str; 2],
}

const USERS: [&str; 2] = ["bonnie", "clyde"];

impl World {
    fn inside(&self) -> &'static str {
        self.inside.unwrap_or(self.farm)
    }

    fn config(&self) -> String {
        let inside = self.inside.map(|host| format!("inside = [\"udp:{host}:5060\"]\n")).unwrap_or_default();
        let [first, second] = self.boxes;
        format!(
            "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{}:5060\"]\n{inside}\
             [[farm.service]]\nname = \"default\"\nalgorithm = \"round-robin\"\n\
             [[farm.backend]]\nname = \"a\"\naddress = \"{first}:5060\"\n\
             [[farm.backend]]\nname = \"b\"\naddress = \"{second}:5060\"\n",
            self.farm
        )
    }

    /// Bonnie and Clyde register, each at a box of his own, call each other, and hang up each in turn. Gives what was on the wire.
    fn run(&self) -> Vec<Whole> {
        let unit = Unit::start(&self.config());
        let servers = [("a", self.boxes[0]), ("b", self.boxes[1])];
        let _servers: [Process; 2] = servers.map(|(name, host)| {
            let server = Server { name, realm: "shared", host, farm: self.inside(), users: "bonnie|clyde" };
            kamailio::start(unit.folder(), &server)
        });
        let capture = Capture::start(unit.folder());
        let proxy = format!("{}:5060", self.farm);
        let [bonnie, clyde] =
            [0, 1].map(|at| Phone::start(USERS[at], PASSWORD, self.phones[at], &proxy, Duration::ZERO));
        bonnie.register();
        clyde.register();
        let [call_bonnie, call_clyde] = USERS.map(|user| format!("sip:{user}@{}", self.farm));
        for end in [End::Caller, End::Callee] {
            talk(&bonnie, &clyde, &call_clyde, end);
            talk(&clyde, &bonnie, &call_bonnie, end);
        }
        capture.finish_whole()
    }

    /// Phones and boxes speak with the farm alone, each with its own side of it.
    fn assert_apart(&self, wire: &[Whole]) {
        let (farm, inside) = (ip(self.farm), ip(self.inside()));
        let (phones, boxes) = (self.phones.map(ip), self.boxes.map(ip));
        for seen in wire {
            let ends = [seen.source.ip(), seen.target.ip()];
            let outside = ends.contains(&farm) && ends.iter().any(|end| phones.contains(end));
            let inside = ends.contains(&inside) && ends.iter().any(|end| boxes.contains(end));
            assert!(outside || inside, "{} from {} to {}", seen.taken.first_line(), seen.source, seen.target);
        }
    }

    /// What the boxes were given as the phones' contacts: addresses of the farm on their side.
    fn assert_contacts(&self, wire: &[Whole]) {
        for (user, phone) in USERS.iter().zip(self.phones) {
            let sent = wire.iter().find(|seen| seen.is_request("REGISTER", ip(phone), ip(self.farm)));
            let sent = sent.expect("each phone registers");
            assert_eq!(sent.taken.uri("contact"), format!("sip:{user}@{phone}:5060"));
            let at_box = self.beyond(wire, sent, ip(self.inside()));
            let contact = at_box.taken.uri("contact");
            assert!(contact.starts_with(&format!("sip:{user}@{}:5060;tdm=", self.inside())), "{contact}");
            let via = at_box.taken.text("via").unwrap_or_default();
            assert!(via.starts_with(&format!("SIP/2.0/UDP {}:5060;branch=z9hG4bKtdm", self.inside())), "{via}");
        }
    }

    /// The same message on the next leg, sent by the farm from `source`.
    fn beyond<'a>(&self, wire: &'a [Whole], sent: &Whole, source: IpAddr) -> &'a Whole {
        let next =
            wire.iter().find(|seen| seen.source.ip() == source && seen.is_of(sent) && seen.target != sent.source);
        next.unwrap_or_else(|| panic!("{} from {} goes nowhere", sent.taken.first_line(), sent.source))
    }

    /// The Record-Route values of every call that rings a phone, as they stand there. Each call comes from a box, each once.
    fn routes_at_phones(&self, wire: &[Whole]) -> Vec<Vec<String>> {
        let (boxes, inside) = (self.boxes.map(ip), ip(self.inside()));
        let mut found = Vec::new();
        for call in wire.iter().filter(|seen| boxes.iter().any(|server| seen.is_request("INVITE", *server, inside))) {
            let rings = self.beyond(wire, call, ip(self.farm));
            assert!(self.phones.map(ip).contains(&rings.target.ip()), "{}", rings.target);
            let via = rings.taken.text("via").unwrap_or_default();
            assert!(via.starts_with(&format!("SIP/2.0/UDP {}:5060;branch=z9hG4bKtdm", self.farm)), "{via}");
            found.push(rings.taken.texts("record-route"));
        }
        assert!(found.len() >= 4, "four calls, and not {}", found.len());
        found
    }

    fn is_boxes(&self, value: &str) -> bool {
        self.boxes.iter().any(|host| value.starts_with(&format!("<sip:{host};")))
    }

    /// Two values on each leg, one for each side, with one token (RFC 5658): a phone's next hop is the farm's address on its side, a
    /// box's that on the other.
    fn assert_doubled(&self, wire: &[Whole]) {
        for routes in self.routes_at_phones(wire) {
            assert_eq!(routes.len(), 5, "{routes:#?}");
            let callees = token(&routes[0], self.farm);
            assert_eq!(token(&routes[1], self.inside()), callees);
            assert!(self.is_boxes(&routes[2]), "{routes:#?}");
            let callers = token(&routes[3], self.inside());
            assert_eq!(token(&routes[4], self.farm), callers);
            assert_ne!(callees, callers, "one for each leg");
        }
    }
}

/// The token of a Record-Route value of ours that names this host.
fn token(value: &str, host: &str) -> String {
    let end = format!("@{host}:5060;lr>");
    let token = value.strip_prefix("<sip:").and_then(|rest| rest.strip_suffix(end.as_str()));
    let token = token.filter(|token| token.starts_with("tdm") && token.len() <= 96);
    token.unwrap_or_else(|| panic!("no value of ours at {host}: {value}")).to_owned()
}

fn ip(host: &str) -> IpAddr {
    let address: SocketAddr = format!("{host}:5060").parse().expect("an address");
    address.ip()
}

fn is_ready() -> bool {
    peer("kamailio").is_some() && peer("tshark").is_some() && namespace() && has_addresses(&ADDRESSES)
}

#[test]
fn phones_and_boxes_over_ipv6_call_both_ways() {
    if !is_ready() {
        return;
    }
    let world = World {
        farm: "[fd00::20]",
        inside: None,
        boxes: ["[fd00::31]", "[fd00::32]"],
        phones: ["[fd00::51]", "[fd00::52]"],
    };
    let wire = world.run();
    world.assert_apart(&wire);
    world.assert_contacts(&wire);
    for routes in world.routes_at_phones(&wire) {
        assert_eq!(routes.len(), 3, "{routes:#?}");
        let (callees, callers) = (token(&routes[0], world.farm), token(&routes[2], world.farm));
        assert!(world.is_boxes(&routes[1]), "{routes:#?}");
        assert_ne!(callees, callers, "one for each leg");
    }
}

#[test]
fn phones_over_ipv6_reach_boxes_over_ipv4() {
    if !is_ready() {
        return;
    }
    let world = World {
        farm: "[fd00::20]",
        inside: Some("127.0.0.20"),
        boxes: ["127.0.0.31", "127.0.0.32"],
        phones: ["[fd00::51]", "[fd00::52]"],
    };
    let wire = world.run();
    world.assert_apart(&wire);
    world.assert_contacts(&wire);
    world.assert_doubled(&wire);
}

#[test]
fn phones_over_ipv4_reach_boxes_over_ipv6() {
    if !is_ready() {
        return;
    }
    let world = World {
        farm: "127.0.0.20",
        inside: Some("[fd00::20]"),
        boxes: ["[fd00::31]", "[fd00::32]"],
        phones: ["127.0.0.51", "127.0.0.52"],
    };
    let wire = world.run();
    world.assert_apart(&wire);
    world.assert_contacts(&wire);
    world.assert_doubled(&wire);
}

/// One phone on TLS and one on TCP; the box is reached by datagrams, in the other family.
#[test]
fn phones_on_connections_over_ipv6_reach_a_box_over_ipv4() {
    if peer("kamailio").is_none() || !namespace() || !has_addresses(&ADDRESSES) {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let authority = Authority::new("authority of the test");
    let certificate = authority.issue_file(folder.path(), "farm.pem", &["fd00::20"]);
    let unit = Unit::start(&format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"tcp:[fd00::20]:5060\", \"tls:[fd00::20]:5061\"]\n\
         inside = [\"udp:127.0.0.20:5060\"]\ncertificates = [\"{certificate}\"]\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"127.0.0.31:5060\"\n"
    ));
    let server = Server { name: "a", realm: "shared", host: "127.0.0.31", farm: "127.0.0.20", users: "bonnie|clyde" };
    let _server = kamailio::start(unit.folder(), &server);
    let (tls, tcp) = ("[fd00::20]:5061", "[fd00::20]:5060");
    let bonnie = Phone::start_over("bonnie", PASSWORD, "[fd00::51]", tls, Link::open(Over::Tls(&authority.pem), tls));
    let clyde = Phone::start_over("clyde", PASSWORD, "[fd00::52]", tcp, Link::open(Over::Tcp, tcp));
    bonnie.register();
    clyde.register();
    for end in [End::Caller, End::Callee] {
        talk(&bonnie, &clyde, "sip:clyde@[fd00::20]", end);
        talk(&clyde, &bonnie, "sip:bonnie@[fd00::20]", end);
    }
}
