//! Messages that are longer than what an Ethernet carries in one piece: the unit stands in a network of its own at the other end of
//! a cable of 1,500 octets' MTU.

use crate::common::link::Link;
use crate::common::neighbour::{HERE, Neighbour, THERE};
use crate::common::unit::counter;
use crate::common::wire::{Station, Taken, offer, request};
use crate::common::{Unit, holds_within, namespace};
use std::net::TcpListener;
use std::time::Duration;

const UNIT: &str = "10.9.0.2:5060";
const PHONE: &str = "10.9.0.1:5060";
/// Takes requests as they came to the farm, those too long for a datagram over TCP.
const SAME: &str = "10.9.0.1:5070";
/// Takes datagrams only.
const DATAGRAMS: &str = "10.9.0.1:5080";
const OCTETS: usize = 3_000;
const SOON: Duration = Duration::from_secs(5);

fn config() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\", \"tcp:{UNIT}\"]\n\
         [[farm.service]]\nname = \"same\"\nmatch = {{ user = \"^same$\" }}\n[[farm.service]]\nname = \"default\"\n\
         [[farm.backend]]\nname = \"same\"\nservice = [\"same\"]\naddress = \"{SAME}\"\ntransport = \"same\"\n\
         [[farm.backend]]\nname = \"datagrams\"\naddress = \"{DATAGRAMS}\"\n"
    )
}

/// A message of so many octets: `build` writes it around a body of so much more text.
fn long(build: impl Fn(&str) -> Vec<u8>) -> Vec<u8> {
    let missing = OCTETS.saturating_sub(build("").len());
    let message = build(&"x".repeat(missing));
    // The Content-Length may have got digits.
    assert!((OCTETS..OCTETS + 4).contains(&message.len()), "{}", message.len());
    message
}

/// An INVITE of 3,000 octets.
fn invite(phone: &Station, user: &str) -> Vec<u8> {
    let uri = format!("sip:{user}@{UNIT}");
    long(|text| {
        let body = format!("{}a=note:{text}\r\n", offer(phone.address));
        request("INVITE", &uri, phone.address, user, 1, "", &body)
    })
}

/// Its answer, as long.
fn answer(received: &Taken, contact: &str) -> Vec<u8> {
    let lines = format!("Contact: <sip:{contact}>\r\nContent-Type: application/sdp\r\n");
    long(|text| received.response("200 OK", &lines, format!("v=0\r\na=note:{text}\r\n").as_bytes()))
}

/// How many datagrams the kernel of the test's network has cut, and put together.
fn fragmented() -> (u64, u64) {
    let table = std::fs::read_to_string("/proc/thread-self/net/snmp").expect("Linux counts");
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let names = lines.next().expect("names come first").split(' ');
    let values = lines.next().expect("values come second").split(' ');
    let all: Vec<(&str, u64)> = names.zip(values.map(|value| value.parse().unwrap_or(0))).collect();
    let value = |name: &str| all.iter().find(|(known, _)| *known == name).map_or(0, |(_, value)| *value);
    (value("FragOKs"), value("ReasmOKs"))
}

/// The next INVITE on the connection; what else comes is the unit's own OPTIONS.
fn next_invite(link: &mut Link) -> Taken {
    loop {
        let octets = link.next(SOON).expect("an INVITE comes over the stream");
        let taken = Taken::of(&octets);
        if taken.start.starts_with(b"INVITE ") {
            return taken;
        }
        assert!(taken.is_ping(), "{}", taken.first_line());
        link.send(&taken.response("200 OK", "", b""));
    }
}

fn accept(listener: &TcpListener) -> Link {
    listener.set_nonblocking(true).expect("a socket can always be asked");
    let mut socket = None;
    holds_within(SOON, || {
        socket = listener.accept().ok();
        socket.is_some()
    });
    Link::accepted(socket.expect("the unit connects").0)
}

/// All of the long answer arrives at the phone in one datagram, without the farm's own Via.
fn assert_answered(phone: &Station, sent: &Taken) {
    let got = phone.final_answer();
    assert_eq!(got.code(), Some(200), "{}", got.first_line());
    assert_eq!(got.body, sent.body);
    assert_eq!(got.all("via").count(), 1, "{:?}", got.texts("via"));
    assert!(got.bytes.len() > 2_500, "{} octets", got.bytes.len());
}

#[test]
fn long_requests_and_answers_pass_by_fragments_and_over_tcp() {
    if !namespace() {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let Some(neighbour) = Neighbour::join(folder.path()) else { return };
    assert!(UNIT.starts_with(THERE) && PHONE.starts_with(HERE));
    let (phone, beside, datagrams) = (Station::at(PHONE), Station::at(SAME), Station::at(DATAGRAMS));
    let listener = TcpListener::bind(SAME).expect("the network is ours");
    let unit = Unit::start_beside(neighbour.id(), &config());
    let before = fragmented();

    // In fragments, and on over TCP.
    let sent = invite(&phone, "same");
    phone.send(&sent, UNIT);
    let mut link = accept(&listener);
    let received = next_invite(&mut link);
    assert_eq!(received.body, Taken::of(&sent).body);
    let via = received.text("via").unwrap_or_default();
    assert!(via.starts_with(&format!("SIP/2.0/TCP {UNIT};branch=z9hG4bKtdm")), "{via}");
    let reply = answer(&received, SAME);
    link.send(&reply);
    assert_answered(&phone, &Taken::of(&reply));
    // Nothing of it went beside the stream.
    while let Some((octets, from)) = beside.next(Duration::from_millis(50)) {
        let taken = Taken::of(&octets);
        assert!(taken.is_ping(), "{}", taken.first_line());
        beside.answer(&taken, "200 OK", from);
    }

    // In fragments, and on in fragments.
    let sent = invite(&phone, "datagrams");
    phone.send(&sent, UNIT);
    let (received, from) = datagrams.request("INVITE");
    assert_eq!(received.body, Taken::of(&sent).body);
    let via = received.text("via").unwrap_or_default();
    assert!(via.starts_with(&format!("SIP/2.0/UDP {UNIT};branch=z9hG4bKtdm")), "{via}");
    let reply = answer(&received, DATAGRAMS);
    datagrams.send(&reply, &from.to_string());
    assert_answered(&phone, &Taken::of(&reply));

    let after = fragmented();
    assert!(after.0 >= before.0 + 3, "two requests and an answer were cut here: {before:?}, {after:?}");
    assert!(after.1 >= before.1 + 3, "a request and two answers came in pieces: {before:?}, {after:?}");
    let status = unit.status();
    assert_eq!(counter(&status, "large_over_stream", ""), 1, "{status:#}");
    assert_eq!(counter(&status, "large_over_udp", ""), 1, "{status:#}");
    assert_eq!(counter(&status, "connections_opened", ""), 1, "{status:#}");
}
