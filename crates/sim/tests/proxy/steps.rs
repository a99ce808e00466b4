//! What the tests of the proxy's steps share: a bench, what its parties heard, and what the farm has counted.

use engine::{BackendSnapshot, Event, Snapshot};
use sim::bench::invite;
use sim::script::uri_in;
use sim::{Answer, Bench, Datagram, Script, Text, box_address, one_farm};
use std::net::SocketAddr;
use std::time::Duration;

/// Nothing was heard.
pub(crate) const SILENCE: [&str; 0] = [];

pub(crate) fn bench(boxes: usize) -> Bench {
    Bench::new(one_farm(boxes, |_| ()))
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Where Bonnie is.
pub(crate) fn client() -> SocketAddr {
    Bench::client_address()
}

/// "INVITE" for a request, "200 INVITE" for an answer to one.
pub(crate) fn name(datagram: &Datagram) -> String {
    let text = Text::read(&datagram.bytes);
    match text.code() {
        Some(code) => format!("{code} {}", text.method()),
        None => text.method().to_owned(),
    }
}

/// The names of what an address got since it was last asked for.
pub(crate) fn heard(bench: &mut Bench, address: SocketAddr) -> Vec<String> {
    bench.sent_to(address).iter().map(name).collect()
}

/// Timers fire at their time or, by the grain of the timer wheel, a little later; never earlier.
#[track_caller]
pub(crate) fn assert_times(bench: &Bench, sent: &[Datagram], wanted: &[u64]) {
    let times: Vec<u64> = sent.iter().map(|datagram| bench.millis(datagram)).collect();
    let close = times.len() == wanted.len()
        && times.iter().zip(wanted).all(|(time, wanted)| time >= wanted && *time <= wanted + 100);
    assert!(close, "at {times:?}, not at {wanted:?} ms");
}

/// Bonnie calls Clyde: the index of the box that got her INVITE, and the INVITE.
pub(crate) fn call(bench: &mut Bench) -> (usize, Datagram) {
    bench.send(client(), invite("a").build());
    bench.one_to_a_box()
}

/// Bonnie cancels that call.
pub(crate) fn cancel(bench: &mut Bench) {
    bench.send(client(), Script::new("CANCEL").branch("a").build());
}

/// Bonnie calls; the first box is silent, so that after 2 s a second one has the call as well. What each of them got.
pub(crate) fn failed_over(bench: &mut Bench) -> (Datagram, Datagram) {
    let (_, one) = call(bench);
    bench.advance(millis(2_100));
    bench.sent_to(one.to);
    let (_, two) = bench.one_to_a_box();
    bench.sent_to(client());
    (one, two)
}

/// A user registers from Bonnie's address. The index of the user's box, and the contact as that box knows it.
pub(crate) fn register(bench: &mut Bench, user: &str) -> (usize, String) {
    register_by(bench, &registering(user))
}

/// The same by this REGISTER.
pub(crate) fn register_by(bench: &mut Bench, request: &Script) -> (usize, String) {
    bench.send(client(), request.build());
    let (index, request) = bench.one_to_a_box();
    let contact = Text::read(&request.bytes).header("Contact").map(uri_in).unwrap_or_default();
    bench.answer(&request, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")));
    assert_eq!(bench.one_to_client().code(), Some(200));
    (index, contact)
}

/// The REGISTER of a user.
pub(crate) fn registering(user: &str) -> Script {
    Script::new("REGISTER")
        .branch(&format!("reg{user}"))
        .call_id(&format!("registration-{user}"))
        .uri("sip:example.com")
        .from(&format!("<sip:{user}@example.com>;tag=reg"))
        .to(&format!("<sip:{user}@example.com>"))
        .line(&format!("Contact: <sip:{user}@10.1.0.1:5060>;expires=600"))
}

/// A request of a box to a phone, outside of any dialog. Its Via has this branch.
pub(crate) fn of_box(index: usize, method: &str, branch: &str) -> Script {
    Script::new(method)
        .via(&format!("SIP/2.0/UDP {};rport;branch=z9hG4bK{branch}", box_address(index)))
        .from("<sip:clyde@example.com>;tag=bt")
        .to("<sip:bonnie@example.com>")
        .call_id("of-a-box")
        .line(&format!("Contact: <sip:clyde@{}>", box_address(index)))
}

/// A request of the phone within the call that this 2xx to its INVITE set up.
pub(crate) fn within(answer: &Text, method: &str) -> Script {
    let header = |name: &str| answer.header(name).unwrap_or_default();
    let script = Script::new(method)
        .branch(&format!("{method}{}", header("Call-ID")))
        .uri(&uri_in(header("Contact")))
        .call_id(header("Call-ID"))
        .from(header("From"))
        .to(header("To"))
        .cseq(2);
    let routes = answer.values("Record-Route");
    routes.iter().rev().fold(script, |script, route| script.line(&format!("Route: {route}")))
}

/// The BYE of the box that made the call which `answer` set up.
pub(crate) fn bye_of_box(index: usize, answer: &Text) -> Script {
    of_box(index, "BYE", "bye")
        .uri("sip:bonnie@10.1.0.1:5060")
        .from(answer.header("From").unwrap_or_default())
        .to(answer.header("To").unwrap_or_default())
        .cseq(2)
        .line(&format!("Route: {}", answer.header("Record-Route").unwrap_or_default()))
}

/// The box of the call with this Call-ID turns out to be unreachable. What the farm sends upon it, but for the MESSAGE that found out.
pub(crate) fn outage(bench: &mut Bench, call_id: &str) -> Vec<Datagram> {
    bench.rest();
    bench.send(client(), Script::new("MESSAGE").branch("probe").call_id(call_id).build());
    let (_, probe) = bench.one_to_a_box();
    // Each shard follows an outage at its next turn: with the second report all of them have had one.
    bench.return_undelivered(&probe);
    bench.return_undelivered(&probe);
    let is_probe = |datagram: &Datagram| Text::read(&datagram.bytes).method() == "MESSAGE";
    bench.rest().into_iter().filter(|datagram| !is_probe(datagram)).collect()
}

pub(crate) fn snapshot(bench: &mut Bench) -> Snapshot {
    let now = bench.now();
    bench.balancer().snapshot(now).expect("the balancer runs")
}

/// What the farm has counted under this name; refused messages are counted under "refused".
pub(crate) fn counted(bench: &mut Bench, wanted: &str) -> u64 {
    snapshot(bench).counters.iter().filter(|(name, _, _)| *name == wanted).map(|(_, _, value)| *value).sum()
}

/// Calls that the balancer remembers.
pub(crate) fn calls(bench: &mut Bench) -> u64 {
    snapshot(bench).calls
}

/// The boxes of all services, in the order of the file.
pub(crate) fn boxes(bench: &mut Bench) -> Vec<BackendSnapshot> {
    let services = snapshot(bench).farms.into_iter().flat_map(|farm| farm.services);
    services.flat_map(|service| service.backends).collect()
}

/// The first box of the file.
pub(crate) fn first_box(bench: &mut Bench) -> BackendSnapshot {
    boxes(bench).into_iter().next().expect("the farm has a box")
}

/// All that an operator was told so far.
pub(crate) fn events(bench: &mut Bench) -> Vec<Event> {
    bench.balancer().events().iter().map(|(_, event)| event.clone()).collect()
}
