//! A farm of two boxes, and everybody around it says whatever the octets tell them to.

use crate::balancer::Balancer;
use crate::network::Datagram;
use crate::script::{Answer, Script, Text, uri_in};
use crate::settings::{VIP, box_address, one_farm, outside_address, peer_address, phone_address};
use engine::{Limits, Registrations, Settings, Symmetric};
use sip::Instant;
use std::net::SocketAddr;
use std::time::Duration;

/// Reads `bytes` as a script. A first octet below 32 chooses the settings, records follow, each an octet whose lower three
/// bits name its kind and whose upper five are a number, and its operands; a record that is cut off ends the script. Anything
/// else is one datagram of a client, so that a corpus of plain messages is worth something here too.
///
/// | kind | record | operands |
/// |---|---|---|
/// | 0, 1 | client (number modulo 4) sends a datagram | two octets of length, the datagram |
/// | 2 | box (number modulo 2) sends a datagram | the same |
/// | 3 | the box that got the last request answers it | an octet that chooses the code |
/// | 4 | the farm's last datagram comes back from its receiver, one octet changed | two octets of place, the new octet |
/// | 5 | a party goes on with its dialog: the client, or with an odd number the box | an octet that chooses the method |
/// | 6 | the network returns the farm's last datagram | |
/// | 7 | time passes; with number 31 the unit is killed and started again | two octets, in hundredths of a second |
///
/// # Panics
/// If a datagram leaves to somebody who is neither a box nor known, a table exceeds its limit, or one is not empty after
/// 300 s of quiet.
pub fn engine(bytes: &[u8]) {
    let (options, records) = match bytes.split_first() {
        Some((first, records)) if *first < 32 => (*first, records),
        _ => (0, &[][..]),
    };
    let mut traffic = Traffic::new(options);
    if bytes.first().is_none_or(|first| *first >= 32) {
        traffic.send(client_address(0), bytes);
    }
    let mut script = Reader { rest: records };
    for _ in 0..RECORDS {
        if traffic.run(&mut script).is_none() {
            break;
        }
    }
    traffic.finish();
}

struct Traffic {
    balancer: Balancer,
    now: Instant,
    /// What the script may still let pass.
    time_left: Duration,
    /// Everybody that has sent something.
    heard: Vec<SocketAddr>,
    last: Option<Datagram>,
    last_request: Option<Datagram>,
    last_response: Option<Datagram>,
    /// Datagrams that went in, and those that came out for them.
    received: usize,
    sent: usize,
    turns: u32,
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn octet(&mut self) -> Option<u8> {
        let (octet, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*octet)
    }

    fn number(&mut self) -> Option<u16> {
        let high = self.octet()?;
        Some(u16::from_be_bytes([high, self.octet()?]))
    }

    /// As many octets as the number before them says, or as there are.
    fn datagram(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.number()?).min(self.rest.len());
        let (datagram, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(datagram)
    }
}

impl Traffic {
    fn new(options: u8) -> Self {
        let now = Instant::from_micros(1_000_000);
        Self {
            balancer: Balancer::new(settings(options), SHARDS, 1, now),
            now,
            time_left: Duration::from_secs(600),
            heard: Vec::new(),
            last: None,
            last_request: None,
            last_response: None,
            received: 0,
            sent: 0,
            turns: 0,
        }
    }

    /// One record; `None` at the end of the script.
    fn run(&mut self, script: &mut Reader<'_>) -> Option<()> {
        let octet = script.octet()?;
        let number = usize::from(octet >> 3);
        match octet & 7 {
            0 | 1 => self.send(client_address(number), script.datagram()?),
            2 => self.send(box_address(number % BOXES), script.datagram()?),
            3 => self.answer(script.octet()?),
            4 => self.echo(usize::from(script.number()?), script.octet()?),
            5 if number & 1 == 0 => self.client_goes_on(script.octet()?),
            5 => self.box_goes_on(script.octet()?),
            6 => self.return_last(),
            _ if number == 31 => self.restart(),
            _ => {
                let time = Duration::from_millis(10 * u64::from(script.number()?)).min(self.time_left);
                self.time_left -= time;
                self.advance(time);
            }
        }
        Some(())
    }

    fn send(&mut self, from: SocketAddr, bytes: &[u8]) {
        if !self.heard.contains(&from) {
            self.heard.push(from);
        }
        self.received += 1;
        assert!(self.balancer.handle_datagram(self.now, from, VIP, bytes), "the farm does not listen");
        self.collect();
        self.assert_bounded();
    }

    fn answer(&mut self, choice: u8) {
        let Some(request) = self.last_request.clone() else {
            return;
        };
        let code = chosen(&CODES, choice);
        let mut answer = Answer::new(code).line(&format!("Contact: <sip:clyde@{}>", request.to));
        let asked = Text::read(&request.bytes);
        if asked.method() == "REGISTER" {
            answer = Answer::new(code);
            for contact in asked.all("Contact") {
                answer = answer.line(&format!("Contact: {contact};expires=60"));
            }
        }
        if matches!(code, 401 | 407) {
            answer = answer.line("WWW-Authenticate: Digest realm=\"r\", nonce=\"n\"");
        }
        self.send(request.to, &answer.to(&request.bytes));
    }

    fn echo(&mut self, place: usize, octet: u8) {
        let Some(last) = self.last.clone() else {
            return;
        };
        let mut bytes = last.bytes.to_vec();
        let place = place % bytes.len().max(1);
        if let Some(changed) = bytes.get_mut(place) {
            *changed = octet;
        }
        self.send(last.to, &bytes);
    }

    /// A request inside the dialog that the last response to a client was about.
    fn client_goes_on(&mut self, choice: u8) {
        let Some(response) = self.last_response.clone() else {
            return;
        };
        let text = Text::read(&response.bytes);
        let mut route = text.values("Record-Route");
        route.reverse();
        let script = self.request(&text, chosen(&METHODS, choice), response.to, &route);
        let script = script.from(text.header("From").unwrap_or_default()).to(text.header("To").unwrap_or_default());
        self.send(response.to, &script.build());
    }

    /// A request of the box that got the last request: inside its dialog, or to the contact that it registered.
    fn box_goes_on(&mut self, choice: u8) {
        let Some(request) = self.last_request.clone() else {
            return;
        };
        let text = Text::read(&request.bytes);
        let registered = text.method() == "REGISTER";
        let route = text.values(if registered { "Path" } else { "Record-Route" });
        let script = self.request(&text, chosen(&METHODS, choice), request.to, &route);
        let own = text.header("To").unwrap_or_default();
        let script = match (registered, own.contains(";tag=")) {
            (true, _) => script.to(own),
            (false, true) => script.from(own).to(text.header("From").unwrap_or_default()),
            // The tag that answers of the boxes have.
            (false, false) => script.from(&format!("{own};tag=tt")).to(text.header("From").unwrap_or_default()),
        };
        self.send(request.to, &script.build());
    }

    fn request(&mut self, about: &Text, method: &str, from: SocketAddr, route: &[String]) -> Script {
        self.turns += 1;
        let target = about.header("Contact").map_or_else(|| "sip:bonnie@example.com".to_owned(), uri_in);
        let script = Script::new(method)
            .uri(&target)
            .via(&format!("SIP/2.0/UDP {from};rport;branch=z9hG4bKturn{}", self.turns))
            .call_id(about.header("Call-ID").unwrap_or_default())
            .cseq(self.turns)
            .line(&format!("Contact: <sip:other@{from}>"));
        route.iter().fold(script, |script, value| script.line(&format!("Route: {value}")))
    }

    fn return_last(&mut self) {
        let Some(last) = self.last.clone() else {
            return;
        };
        self.received += 1;
        self.balancer.handle_undelivered(self.now, last.from, last.to, &last.bytes);
        self.collect();
        self.assert_bounded();
    }

    /// `kill -9` and a new start with what was learnt.
    fn restart(&mut self) {
        self.balancer.save_facts(self.now);
        self.balancer.kill(self.now);
        self.balancer.start(self.now);
        assert_eq!(self.balancer.damaged_facts(), 0, "the log is damaged");
        self.collect();
        self.assert_bounded();
    }

    /// Lets the clock run; every timer fires at its own time.
    fn advance(&mut self, time: Duration) {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(deadline) = self.balancer.poll_timeout().filter(|deadline| *deadline <= end) {
            wakes = if deadline > self.now { 0 } else { wakes + 1 };
            assert!(wakes < 1_000, "the engine asks to be woken at {deadline:?} again and again");
            self.now = deadline.max(self.now);
            self.balancer.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    /// Judges what was sent.
    fn collect(&mut self) {
        for datagram in self.balancer.take_outgoing() {
            let to_box = (0..BOXES).any(|index| box_address(index) == datagram.to);
            let is_response = datagram.bytes.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"));
            let to_asker = is_response && self.heard.iter().any(|heard| heard.ip() == datagram.to.ip());
            let on_flow = self.heard.contains(&datagram.to);
            let shown = || String::from_utf8_lossy(&datagram.bytes).into_owned();
            assert!(to_box || to_asker || on_flow, "{} is nobody and got {:?}", datagram.to, shown());
            // Keep-alives belong to a binding and not to a datagram.
            if datagram.bytes[..] != b"\r\n\r\n"[..] {
                self.sent += 1;
            }
            if is_response {
                self.last_response = Some(datagram.clone());
            } else if to_box {
                self.last_request = Some(datagram.clone());
            }
            self.last = Some(datagram);
        }
        let most = ANSWERS_PER_DATAGRAM * self.received;
        assert!(self.sent <= most, "{} datagrams sent for {} received", self.sent, self.received);
    }

    fn assert_bounded(&self) {
        let limits = &self.balancer.settings().limits;
        let transactions = self.balancer.transactions();
        assert!(transactions <= limits.transactions.min(self.received), "{transactions} transactions");
        let snapshot = self.balancer.snapshot(self.now).expect("the unit runs");
        assert_eq!(snapshot.transactions, transactions as u64, "transactions are miscounted");
        assert!(snapshot.registrations <= limits.bindings as u64, "{} bindings", snapshot.registrations);
        assert!(snapshot.calls <= limits.dialogs as u64, "{} dialogs", snapshot.calls);
    }

    /// Nobody says anything for 300 s: no transaction, no dialog and no call at a box is left.
    fn finish(&mut self) {
        self.advance(Duration::from_secs(300));
        assert_eq!(self.balancer.transactions(), 0, "transactions are left");
        let snapshot = self.balancer.snapshot(self.now).expect("the unit runs");
        assert_eq!((snapshot.transactions, snapshot.calls), (0, 0), "transactions and dialogs are left");
        for backend in snapshot.farms.iter().flat_map(|farm| &farm.services).flat_map(|service| &service.backends) {
            assert_eq!(backend.calls, 0, "calls are left at {}", backend.name);
        }
    }
}

/// A farm whose calls end soon and whose tables are small, so that a script reaches their limits.
fn settings(options: u8) -> Settings {
    let mut settings = one_farm(BOXES, |farm| {
        farm.max_call_time = Duration::from_secs(120);
        farm.stateless = options & 1 != 0;
        farm.registrations = match (options >> 1) & 3 {
            1 => Registrations::Path,
            2 => Registrations::Off,
            _ => Registrations::Contact,
        };
        farm.keepalive = (options & 8 != 0).then_some(Duration::from_secs(30));
        farm.symmetric = if options & 16 != 0 { Symmetric::Always } else { Symmetric::Auto };
    });
    settings.limits =
        Limits { transactions: 48, bindings: 8, dialogs: 8, sticky: 64, error_sources: 4, ..Limits::default() };
    settings
}

fn client_address(number: usize) -> SocketAddr {
    match number % 4 {
        0 => phone_address(0),
        1 => phone_address(1),
        2 => outside_address(0, 0),
        _ => peer_address(0),
    }
}

fn chosen<T: Copy>(choices: &[T], choice: u8) -> T {
    choices[usize::from(choice) % choices.len()]
}

const SHARDS: usize = 2;
const BOXES: usize = 2;
/// Records of a script that are read.
const RECORDS: usize = 256;
const CODES: [u16; 12] = [100, 180, 183, 200, 302, 401, 407, 408, 486, 487, 503, 603];
const METHODS: [&str; 8] = ["ACK", "BYE", "INVITE", "UPDATE", "REFER", "NOTIFY", "OPTIONS", "MESSAGE"];
/// Three boxes tried, each with its retransmissions and its CANCEL, and a final answer repeated for 32 s.
const ANSWERS_PER_DATAGRAM: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a client's datagram.
    fn said(datagram: &[u8]) -> Vec<u8> {
        [&[0][..], &(datagram.len() as u16).to_be_bytes(), datagram].concat()
    }

    #[test]
    fn a_call_is_set_up_and_ends() {
        let mut traffic = Traffic::new(0);
        let invite = said(&Script::new("INVITE").build());
        let script = [&invite[..], &[3, 1, 3, 3, 5, 0]].concat();
        let mut reader = Reader { rest: &script };
        while traffic.run(&mut reader).is_some() {}
        let calls = |traffic: &Traffic| traffic.balancer.snapshot(traffic.now).map(|snapshot| snapshot.calls);
        assert_eq!(calls(&traffic), Some(1));
        let mut reader = Reader { rest: &[5, 1, 3, 3] };
        while traffic.run(&mut reader).is_some() {}
        assert_eq!(calls(&traffic), Some(0));
        traffic.finish();
    }

    #[test]
    fn a_box_reaches_the_phone_that_it_registered() {
        let mut traffic = Traffic::new(0);
        let register = Script::new("REGISTER").line("Contact: <sip:bonnie@10.1.0.1:5060>").build();
        let script = [&said(&register)[..], &[3, 3, 5 | (1 << 3), 6]].concat();
        let mut reader = Reader { rest: &script };
        while traffic.run(&mut reader).is_some() {}
        let last = traffic.last.clone().expect("the box's request went on");
        assert_eq!((last.to, last.bytes.starts_with(b"OPTIONS ")), (client_address(0), true));
        traffic.finish();
    }

    #[test]
    fn every_kind_of_record_in_every_setting() {
        let invite = said(&Script::new("INVITE").build());
        for options in 0..32 {
            let kinds = [3, 1, 4, 0, 9, b'x', 6, 3, 8, 7 | (31 << 3), 5, 1, 13, 2, 7, 1, 0];
            engine(&[&[options][..], &invite, &kinds].concat());
        }
    }

    #[test]
    fn a_plain_message_is_a_datagram() {
        engine(&Script::new("OPTIONS").build());
        engine(b"");
    }
}
