//! A unit for the tests of whole messages: the farm `pbx` with two boxes, and what it hears.

use super::Flow;
use crate::decide::Arrival;
use crate::id::{BackendId, ListenerId};
use crate::origin::Origin;
use crate::pool::world::{World, at, backend};
use crate::running::Running;
use crate::settings::{Backend, Farm, Limits, Listener, Settings, Transport};
use crate::token::Secrets;
use std::net::SocketAddr;

/// Where the farm listens, for both sides.
pub(crate) const VIP: &str = "10.0.0.1:5060";

/// The farm `pbx` for `example.com` at [`VIP`] with the boxes `pbx1` at 10.0.1.1 and `pbx2` at 10.0.1.2, which nobody checks.
pub(crate) fn settings(adjust: impl FnOnce(&mut Farm)) -> Settings {
    let boxes: Vec<Backend> = [("pbx1", "10.0.1.1:5060"), ("pbx2", "10.0.1.2:5060")]
        .into_iter()
        .map(|(name, place)| {
            let address = address(place);
            Backend { id: BackendId::of("pbx", name, address), address, ..backend(name) }
        })
        .collect();
    let mut farm = World::new("round-robin", boxes).farm;
    for service in &mut farm.services {
        service.guardians.clear();
    }
    farm.listeners = vec![listener(VIP, true, true)];
    farm.domains = vec!["example.com".to_owned()];
    adjust(&mut farm);
    Settings { farms: vec![farm], limits: Limits::default() }
}

/// The same at work.
pub(crate) fn running(adjust: impl FnOnce(&mut Farm)) -> Running {
    Running::new(settings(adjust), at(0), 1)
}

/// A UDP listener.
pub(crate) fn listener(bind: &str, outside: bool, inside: bool) -> Listener {
    let bind = address(bind);
    Listener { id: ListenerId::of("udp", bind), transport: Transport::Udp, bind, advertise: None, outside, inside }
}

pub(crate) fn secrets() -> Secrets {
    Secrets { key_id: 7, key: [1; 16], previous: None, contact_key: [2; 16], epoch: 1_700_000_000 }
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("tests write addresses that can be read")
}

/// From `remote` to the listener at `local`.
pub(crate) fn flow(local: &str, remote: &str) -> Flow {
    let local = address(local);
    Flow::of_datagram(ListenerId::of("udp", local), local.ip(), address(remote))
}

/// A message without a body from its lines, white space around which is layout.
pub(crate) fn octets(text: &str) -> Vec<u8> {
    let lines: Vec<&str> = text.trim().lines().map(str::trim).collect();
    (lines.join("\r\n") + "\r\n\r\n").into_bytes()
}

/// Bonnie's request, with further header lines.
pub(crate) fn request(method: &str, uri: &str, lines: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0
        Via: SIP/2.0/UDP 10.1.0.1:5060;branch=z9hG4bKc
        Max-Forwards: 70
        From: <sip:bonnie@example.com>;tag=ft
        To: <sip:bonnie@example.com>
        Call-ID: call-1
        CSeq: 1 {method}
        {lines}"
    )
}

/// Reads a request that came by `flow`, and lets `look` see it.
pub(crate) fn arrive<T>(running: &Running, flow: Flow, request: &str, look: impl FnOnce(&Arrival<'_>) -> T) -> T {
    let bytes = octets(request);
    let limits = sip::Limits::default();
    let message = sip::parse(&bytes, &limits).expect("tests write messages");
    let checked = sip::check(&message, &limits).expect("tests write proper messages");
    let (farm, listener) = running.listener(flow.listener).expect("the farm listens there");
    let origin = Origin::of(farm, listener, &flow);
    let uri = *checked.uri().expect("it is a request");
    look(&Arrival { message: &checked, flow, farm, listener, origin, uri })
}
