//! Requests that may not fit into a datagram (RFC 3261 §18.1.1).

use crate::streams::{bind, farm, of_answer, of_phone, reach};
use crate::unit::{Sent, Unit};
use engine::{ConnectionId, Flow, Input, ListenerId, Transport};
use sim::bench::invite;
use sim::settings::backend;
use sim::{Answer, Script, box_address};
use std::net::SocketAddr;
use std::time::Duration;

const LIMIT: usize = 1_300;
/// What a datagram holds over IPv4.
const DATAGRAM: usize = 65_507;

fn udp() -> Flow {
    of_phone(Transport::Udp, 0)
}

fn listener(transport: Transport) -> ListenerId {
    crate::streams::listener(transport).id
}

/// An INVITE that leaves by datagram with exactly so many octets.
fn of_size(octets: usize) -> Vec<u8> {
    longer_than(octets, 0, false)
}

/// One that would leave with so many octets more; the farm may be stateless.
fn longer_than(octets: usize, more: usize, stateless: bool) -> Vec<u8> {
    let sized = |body: usize| invite("a").body("text/plain", &vec![b'x'; body]).build();
    let settings = || farm(Some(Transport::Udp), |farm| farm.stateless = stateless);
    let mut body = octets / 2;
    // The length of the length may change with it.
    for _ in 0..3 {
        let left = Unit::new(settings()).passes(udp(), &sized(body)).bytes.len();
        body = body + octets - left;
    }
    sized(body + more)
}

fn via(sent: &Sent) -> String {
    sent.text.values("Via").first().cloned().unwrap_or_default()
}

#[test]
fn item_23_beyond_the_limit_a_request_takes_the_stream_of_its_box() {
    for (octets, used) in [(LIMIT - 1, Transport::Udp), (LIMIT, Transport::Udp), (LIMIT + 1, Transport::Tcp)] {
        let mut unit = Unit::new(farm(None, |_| ()));
        let sent = unit.passes(udp(), &of_size(octets));
        assert_eq!(sent.flow.listener, listener(used), "{octets}");
        assert!(via(&sent).starts_with(&format!("SIP/2.0/{} {}", used.via(), bind(used))), "{}", via(&sent));
        let port = if used == Transport::Tcp { 5_062 } else { 5_060 };
        assert_eq!(sent.flow.remote, SocketAddr::new(box_address(0).ip(), port));
        assert_eq!(unit.counted("large_over_stream"), u64::from(used == Transport::Tcp));
        let up = unit.passes(of_answer(&sent, 40), &Answer::new(180).to(&sent.bytes));
        assert_eq!((up.flow, up.text.code()), (udp(), Some(180)));
    }
}

#[test]
fn item_23_without_a_stream_it_is_sent_as_it_is_and_counted() {
    let mut unit = Unit::new(farm(Some(Transport::Udp), |_| ()));
    let sent = unit.passes(udp(), &of_size(LIMIT + 1));
    assert_eq!((sent.flow.listener, sent.bytes.len()), (listener(Transport::Udp), LIMIT + 1));
    assert_eq!((unit.counted("large_over_udp"), unit.counted("large_over_stream")), (1, 0));
}

/// A box would see a second binding of the phone.
#[test]
fn a_registration_stays_where_it_is() {
    let mut unit = Unit::new(farm(None, |_| ()));
    let request = Script::new("REGISTER")
        .uri("sip:example.com")
        .line("Contact: <sip:bonnie@10.1.0.1:5060>;expires=600")
        .line(&format!("X-Long: {}", "x".repeat(2_000)));
    let sent = unit.passes(udp(), &request.build());
    assert_eq!(sent.flow.listener, listener(Transport::Udp));
}

#[test]
fn item_23_where_the_stream_is_refused_the_datagram_follows_at_once_and_is_repeated() {
    let mut unit = Unit::new(farm(None, |_| ()));
    let sent = unit.passes(udp(), &of_size(3_000));
    assert_eq!(sent.flow.connection, ConnectionId::NONE);
    let second = unit.input(Input::Undelivered { flow: sent.flow, returned: &sent.bytes });
    let [second] = &second[..] else { panic!("one datagram leaves: {second:?}") };
    assert_eq!((second.flow.listener, second.flow.remote), (listener(Transport::Udp), box_address(0)));
    assert!(via(second).starts_with("SIP/2.0/UDP 10.0.0.1:5060;branch="), "{}", via(second));
    let routes = second.text.values("Record-Route");
    assert!(routes.iter().all(|route| !route.contains("transport=")), "{routes:?}");
    let again = unit.advance(Duration::from_millis(1_200));
    assert!(again.iter().any(|sent| sent.bytes == second.bytes), "a datagram may be lost: {again:?}");
    // The box is not thought worse of, and its answer finds its way.
    let up = unit.passes(of_answer(second, 0), &Answer::new(180).to(&second.bytes));
    assert_eq!((up.flow, up.text.code()), (udp(), Some(180)));
    assert_eq!((unit.counted("unreachable"), unit.counted("large_over_udp")), (0, 1));
    // Once only: a second refusal is one of the box.
    let mut unit = Unit::new(farm(None, |_| ()));
    let sent = unit.passes(udp(), &of_size(3_000));
    let second = unit.input(Input::Undelivered { flow: sent.flow, returned: &sent.bytes }).remove(0);
    unit.input(Input::Undelivered { flow: second.flow, returned: &second.bytes });
    assert_eq!(unit.counted("unreachable"), 1);
}

/// The kernel would send nothing, and the box would be blamed for it.
#[test]
fn what_no_datagram_can_hold_is_refused_where_there_is_no_stream() {
    for stateless in [false, true] {
        for (more, code) in [(0, None), (1, Some(513))] {
            let mut unit = Unit::new(farm(Some(Transport::Udp), |farm| farm.stateless = stateless));
            let sent = unit.passes(udp(), &longer_than(DATAGRAM, more, stateless));
            assert_eq!((sent.text.code(), unit.counted("large_refused")), (code, more as u64), "{stateless} {more}");
            if code.is_some() {
                assert_eq!(sent.flow, udp());
                assert_eq!((unit.counted("large_over_udp"), unit.counted("requests_forwarded")), (0, 0));
            } else {
                assert_eq!(sent.bytes.len(), DATAGRAM);
            }
        }
    }
}

#[test]
fn no_setting_lets_out_what_no_datagram_can_hold() {
    let mut settings = farm(Some(Transport::Udp), |_| ());
    settings.limits.large_request = 65_535;
    let mut unit = Unit::new(settings);
    assert_eq!(unit.passes(udp(), &longer_than(DATAGRAM, 1, false)).text.code(), Some(513));
}

#[test]
fn a_refused_stream_is_followed_by_a_datagram_only_if_one_can_hold_it() {
    for (more, follows) in [(0, true), (1, false)] {
        let mut unit = Unit::new(farm(None, |_| ()));
        let sent = unit.passes(udp(), &longer_than(DATAGRAM, more, false));
        assert_eq!(sent.flow.listener, listener(Transport::Tcp));
        let next = unit.input(Input::Undelivered { flow: sent.flow, returned: &sent.bytes });
        let [next] = &next[..] else { panic!("{} leave", next.len()) };
        assert_eq!(next.text.code(), if follows { None } else { Some(500) });
        assert_eq!(
            (unit.counted("large_over_udp"), unit.counted("unreachable")),
            if follows { (1, 0) } else { (0, 1) }
        );
        assert_eq!(unit.states(), ["up"], "it may speak UDP only");
    }
}

/// The second box takes datagrams only.
#[test]
fn what_no_datagram_can_hold_does_not_move_to_a_box_without_a_stream() {
    for (more, moves) in [(0, true), (1, false)] {
        let mut unit = Unit::new(farm(None, |farm| {
            let mut second = backend("pbx2", box_address(1));
            reach(&mut second, Some(Transport::Udp));
            farm.backends.push(second);
            for service in &mut farm.services {
                service.backends = vec![0, 1];
            }
        }));
        let sent = unit.passes(udp(), &longer_than(DATAGRAM, more, false));
        assert_eq!(sent.flow.remote.ip(), box_address(0).ip());
        let next = unit.arrive(of_answer(&sent, 40), &Answer::new(503).to(&sent.bytes));
        let next = next.iter().find(|sent| sent.text.method() == "INVITE").expect("it goes on, or is answered");
        if moves {
            assert_eq!((next.flow.remote, next.bytes.len()), (box_address(1), DATAGRAM));
        } else {
            assert_eq!((next.flow, next.text.code()), (udp(), Some(500)));
        }
        assert_eq!(unit.counted("large_refused"), more as u64);
    }
}
