//! A bench for byte-exact tests: one balancer, and every other party is the test itself. Datagrams take no time; the clock
//! moves only by [`Bench::advance`].

use crate::balancer::Balancer;
use crate::network::Datagram;
use crate::script::{Answer, Script, Text, octets, uri_in};
use crate::settings::{VIP, box_address, phone_address};
use engine::Settings;
use sip::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// One balancer and what it has sent.
pub struct Bench {
    balancer: Balancer,
    now: Instant,
    started: Instant,
    sent: Vec<Datagram>,
}

/// A call that was set up by [`Bench::establish`].
#[derive(Clone, Debug)]
pub struct Dialog {
    /// Index of the box that answered.
    pub backend: usize,
    /// As the box got it.
    pub invite: Text,
    /// The 200 as the client got it.
    pub answer: Text,
    call_id: String,
    /// Route of the client's requests, nearest first.
    client_route: Vec<String>,
    /// Route of the box's requests, nearest first.
    backend_route: Vec<String>,
}

impl Bench {
    pub fn new(settings: Settings) -> Self {
        let now = Instant::from_micros(START_MICROS);
        let mut bench =
            Self { balancer: Balancer::new(settings, SHARDS, SEED, now), now, started: now, sent: Vec::new() };
        bench.collect();
        bench
    }

    /// Where [`Bench::client`] sends from.
    pub fn client_address() -> SocketAddr {
        phone_address(0)
    }

    /// The client sends this text, its lines ended properly, to the VIP.
    pub fn client(&mut self, text: &str) {
        self.send(Self::client_address(), octets(text));
    }

    /// A datagram from `from` to the VIP.
    pub fn send(&mut self, from: SocketAddr, bytes: impl AsRef<[u8]>) {
        self.send_to(from, VIP, bytes);
    }

    /// A datagram from `from` to one of the farm's addresses.
    pub fn send_to(&mut self, from: SocketAddr, to: SocketAddr, bytes: impl AsRef<[u8]>) {
        let heard = self.balancer.handle_datagram(self.now, from, to, bytes.as_ref());
        assert!(heard, "nobody listens at {to}");
        self.collect();
    }

    /// The network returns a datagram of ours.
    pub fn return_undelivered(&mut self, datagram: &Datagram) {
        self.balancer.handle_undelivered(self.now, datagram.from, datagram.to, &datagram.bytes);
        self.collect();
    }

    /// The box with that index answers a request that it got.
    pub fn answer(&mut self, request: &Datagram, answer: &Answer) {
        self.send_to(request.to, request.from, answer.to(&request.bytes));
    }

    /// Lets the clock run; every timer fires at its own time.
    pub fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(deadline) = self.balancer.poll_timeout().filter(|deadline| *deadline <= end) {
            wakes = if deadline > self.now { 0 } else { wakes + 1 };
            assert!(wakes < 10_000, "the engine asks to be woken at {deadline:?} again and again");
            self.now = deadline.max(self.now);
            self.balancer.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    /// Milliseconds from the bench's start to a datagram.
    pub fn millis(&self, datagram: &Datagram) -> u64 {
        datagram.at.saturating_since(self.started).as_millis() as u64
    }

    /// Takes out what was sent to `address` since it was last asked for.
    pub fn sent_to(&mut self, address: SocketAddr) -> Vec<Datagram> {
        let (wanted, others) = self.sent.drain(..).partition(|datagram| datagram.to == address);
        self.sent = others;
        wanted
    }

    /// Takes out the one datagram to `address`; fails the test when there is none or another.
    pub fn one_to(&mut self, address: SocketAddr) -> Datagram {
        let mut sent = self.sent_to(address);
        let text: Vec<String> = sent.iter().map(|datagram| Text::read(&datagram.bytes).start).collect();
        assert_eq!(sent.len(), 1, "sent to {address}: {text:?}, to others: {:?}", self.starts());
        sent.remove(0)
    }

    /// Takes out the one datagram to the client, as text.
    pub fn one_to_client(&mut self) -> Text {
        Text::read(&self.one_to(Self::client_address()).bytes)
    }

    /// Takes out the one datagram to any box; fails the test when there is none or another.
    pub fn one_to_a_box(&mut self) -> (usize, Datagram) {
        let to_boxes = |datagram: &Datagram| (0..BOXES).find(|index| box_address(*index) == datagram.to);
        let (mut wanted, others): (Vec<Datagram>, Vec<Datagram>) =
            self.sent.drain(..).partition(|datagram| to_boxes(datagram).is_some());
        self.sent = others;
        assert_eq!(wanted.len(), 1, "to boxes: {:?}, to others: {:?}", starts_of(&wanted), self.starts());
        let datagram = wanted.remove(0);
        let index = to_boxes(&datagram).expect("it was chosen for being one");
        (index, datagram)
    }

    /// Takes out everything that is left.
    pub fn rest(&mut self) -> Vec<Datagram> {
        std::mem::take(&mut self.sent)
    }

    /// Fails the test if anything was sent that it has not taken out.
    pub fn assert_quiet(&self) {
        assert!(self.sent.is_empty(), "sent as well: {:?}", self.starts());
    }

    pub fn balancer(&mut self) -> &mut Balancer {
        &mut self.balancer
    }

    /// `kill -9` and, after `pause`, a new start; what the shell had logged within its interval is there again.
    pub fn restart(&mut self, pause: Duration) {
        self.balancer.save_facts(self.now);
        self.balancer.kill(self.now);
        self.advance(pause);
        self.balancer.start(self.now);
        self.collect();
    }

    /// The client calls, the chosen box answers 200, the client's ACK reaches the box.
    pub fn establish(&mut self, invite: &Script, call_id: &str) -> Dialog {
        self.send(Self::client_address(), invite.clone().call_id(call_id).build());
        let (backend, received) = self.one_to_a_box();
        let contact = format!("Contact: <sip:clyde@{}>", box_address(backend));
        self.answer(&received, &Answer::new(200).line(&contact));
        let answer = self.one_to_client();
        assert_eq!(answer.code(), Some(200));
        let invite = Text::read(&received.bytes);
        let mut client_route = answer.values("Record-Route");
        client_route.reverse();
        let dialog = Dialog {
            backend,
            call_id: call_id.to_owned(),
            client_route,
            backend_route: invite.values("Record-Route"),
            invite,
            answer,
        };
        self.send(Self::client_address(), dialog.client_request("ACK", 1).build());
        let (acked, ack) = self.one_to_a_box();
        assert_eq!(acked, backend, "the ACK goes to the box that answered");
        assert_eq!(Text::read(&ack.bytes).method(), "ACK");
        dialog
    }

    fn collect(&mut self) {
        self.sent.extend(self.balancer.take_outgoing());
    }

    fn starts(&self) -> Vec<String> {
        starts_of(&self.sent)
    }
}

impl Dialog {
    /// A request of the client inside the dialog.
    pub fn client_request(&self, method: &str, cseq: u32) -> Script {
        let target = self.answer.header("Contact").map(uri_in).unwrap_or_default();
        let script = Script::new(method)
            .uri(&target)
            .branch(&format!("client{method}{cseq}"))
            .to(self.answer.header("To").unwrap_or_default())
            .from(self.answer.header("From").unwrap_or_default());
        self.with_routes(script, &self.client_route).cseq(cseq)
    }

    /// A request of the box inside the dialog.
    pub fn backend_request(&self, method: &str, cseq: u32) -> Script {
        let target = self.invite.header("Contact").map(uri_in);
        let address = box_address(self.backend);
        let script = Script::new(method)
            .uri(&target.unwrap_or_else(|| "sip:bonnie@10.1.0.1:5060".to_owned()))
            .via(&format!("SIP/2.0/UDP {address};rport;branch=z9hG4bKbox{method}{cseq}"))
            .from(self.answer.header("To").unwrap_or_default())
            .to(self.answer.header("From").unwrap_or_default());
        self.with_routes(script, &self.backend_route).cseq(cseq)
    }

    /// Route of the client's requests, nearest first.
    pub fn client_route(&self) -> &[String] {
        &self.client_route
    }

    /// Route of the box's requests, nearest first.
    pub fn backend_route(&self) -> &[String] {
        &self.backend_route
    }

    fn with_routes(&self, script: Script, route: &[String]) -> Script {
        let script = script.call_id(&self.call_id);
        route.iter().fold(script, |script, value| script.line(&format!("Route: {value}")))
    }
}

/// Bonnie's INVITE to Clyde, with a Contact.
pub fn invite(branch: &str) -> Script {
    Script::new("INVITE").branch(branch).line("Contact: <sip:bonnie@10.1.0.1:5060>")
}

fn starts_of(sent: &[Datagram]) -> Vec<String> {
    sent.iter().map(|datagram| format!("{}: {}", datagram.to, Text::read(&datagram.bytes).start)).collect()
}

const START_MICROS: u64 = 1_000_000;
/// Of the balancer.
pub const SHARDS: usize = 4;
const SEED: u64 = 1;
/// How many box addresses are looked at.
const BOXES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::one_farm;

    #[test]
    fn a_bench_starts_quiet_and_its_clock_moves() {
        let mut bench = Bench::new(one_farm(2, |_| ()));
        bench.assert_quiet();
        let before = bench.now();
        bench.advance(Duration::from_secs(5));
        assert_eq!(bench.now(), before + Duration::from_secs(5));
        assert!(bench.rest().is_empty());
    }

    #[test]
    fn dialogs_keep_their_call_id_and_routes() {
        let invite = Text::read(&Script::new("INVITE").line("Record-Route: <sip:in;lr>, <sip:out;lr>").build());
        let answer = Text::read(&Answer::new(200).to(&Script::new("INVITE").build()));
        let dialog = Dialog {
            backend: 1,
            backend_route: invite.values("Record-Route"),
            client_route: vec!["<sip:out;lr>".to_owned(), "<sip:in;lr>".to_owned()],
            invite,
            answer,
            call_id: "other".to_owned(),
        };
        let bye = Text::read(&dialog.backend_request("BYE", 5).build());
        assert_eq!(bye.header("Call-ID"), Some("other"));
        assert_eq!(bye.values("Route"), ["<sip:in;lr>", "<sip:out;lr>"]);
        assert_eq!(bye.header("From"), Some("<sip:clyde@example.com>;tag=tt"));
        let bye = Text::read(&dialog.client_request("BYE", 2).build());
        assert_eq!(bye.header("To"), Some("<sip:clyde@example.com>;tag=tt"));
        assert_eq!(bye.header("CSeq"), Some("2 BYE"));
    }
}
