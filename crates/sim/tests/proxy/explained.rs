//! Explaining what would become of a message changes nothing: no place is taken, nothing is remembered or kept from being
//! forgotten.

use crate::unit::Unit;
use engine::{Flow, ListenerId, Persistence, Settings, explain};
use sim::bench::invite;
use sim::settings::VIP;
use sim::{Script, box_address, one_farm, phone_address};
use sip::Instant;
use std::net::SocketAddr;
use std::time::Duration;

impl Unit {
    /// Where a request of the phone with this index goes.
    fn send(&mut self, now: Instant, phone: usize, request: &Script) -> Vec<SocketAddr> {
        self.now = now;
        self.arrive(flow_of(phone), &request.build()).iter().map(|sent| sent.flow.remote).collect()
    }

    fn verdict(&self, now: Instant, phone: usize, request: &Script) -> String {
        explain(&self.shared, now, flow_of(phone), &request.build()).verdict
    }
}

fn flow_of(phone: usize) -> Flow {
    Flow::of_datagram(ListenerId::of("udp", VIP), VIP.ip(), phone_address(phone))
}

fn at(seconds: u64) -> Instant {
    Instant::from_micros(seconds * 1_000_000)
}

fn message(call_id: &str) -> Script {
    Script::new("MESSAGE").call_id(call_id)
}

/// Two boxes in turn; each source address sticks to its box for 10 to 20 s.
fn by_source() -> Settings {
    one_farm(2, |farm| {
        for service in &mut farm.services {
            service.persistence = Persistence::Source;
            service.persistence_ttl = Duration::from_secs(10);
        }
    })
}

const TO_FIRST: &str = "forwarded to pbx1 at 10.0.1.1:5060";
const TO_SECOND: &str = "forwarded to pbx2 at 10.0.1.2:5060";

#[test]
fn an_explained_call_takes_no_place() {
    let mut unit = Unit::new(one_farm(1, |farm| {
        for backend in &mut farm.backends {
            (backend.max_calls, backend.max_rate) = (1, 1);
        }
    }));
    for _ in 0..3 {
        assert_eq!(unit.verdict(at(1), 0, &invite("a")), TO_FIRST);
    }
    assert_eq!(unit.send(at(1), 0, &invite("a")), [box_address(0)]);
    assert_eq!(unit.verdict(at(1), 0, &invite("b").call_id("b")), "refused: 503, no backend is available");
}

#[test]
fn an_explained_choice_is_not_remembered() {
    let mut unit = Unit::new(by_source());
    for _ in 0..2 {
        assert_eq!(unit.verdict(at(1), 0, &message("a")), TO_FIRST);
    }
    assert_eq!(unit.send(at(1), 1, &message("b")), [box_address(0)], "the first in turn");
    assert_eq!(unit.verdict(at(1), 0, &message("a")), TO_SECOND);
    assert_eq!(unit.send(at(1), 0, &message("a")), [box_address(1)]);
    assert_eq!(unit.verdict(at(1), 0, &message("a")), TO_SECOND, "same Call-ID and From tag");
    assert_eq!(unit.verdict(at(1), 0, &message("c")), TO_SECOND, "same source");
}

#[test]
fn an_explained_choice_is_forgotten_no_later() {
    let mut unit = Unit::new(by_source());
    assert_eq!(unit.send(at(1), 0, &message("a")), [box_address(0)]);
    assert_eq!(unit.verdict(at(12), 0, &message("b")), TO_FIRST);
    assert_eq!(unit.send(at(22), 0, &message("c")), [box_address(1)], "the next in turn");
}
