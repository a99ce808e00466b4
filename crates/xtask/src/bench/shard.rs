//! One shard of the engine in this process: phones and boxes hand it datagrams, and only the time inside the engine counts.

use anyhow::{Context, Result, ensure};
use engine::{Flow, Input, Output, Packet, Secrets, Settings, Shard, Shared};
use sim::settings::VIP;
use sim::{Answer, Random, Script, Text, phone_address};
use sip::Instant;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{self, Duration};

/// A farm with boxes and users, on a clock of its own.
pub(super) struct Town {
    shard: Shard,
    settings: Settings,
    now: Instant,
    random: Random,
    users: u32,
    /// Of the next exchange.
    serial: u64,
    spent: Duration,
    messages: u64,
}

impl Town {
    /// `algorithm`: as in the configuration. Everything else is as it is by default, but for pings and keep-alives: there are none.
    pub(super) fn new(algorithm: &str, backends: usize, users: u32) -> Result<Self> {
        let policy = engine::policy::by_name(algorithm).context("there is no such algorithm")?;
        let mut settings = sim::one_farm(backends, |farm| {
            for service in &mut farm.services {
                service.algorithm = policy;
            }
        });
        // Tables are split into parts that fill unevenly: with exactly as much room as there are users some would be forgotten.
        settings.limits.bindings = settings.limits.bindings.max(2 * users as usize);
        settings.limits.sticky = settings.limits.sticky.max(2 * users as usize);
        let now = Instant::from_micros(1_000_000);
        let secrets = Secrets { key_id: 1, key: [7; 16], previous: None, contact_key: [9; 16], epoch: 1_000 };
        let shared = Shared::new(settings.clone(), secrets, 1, now, UNIX_MS, SEED);
        let shard = Shard::new(0, shared);
        let random = Random::new(SEED);
        Ok(Self { shard, settings, now, random, users, serial: 0, spent: Duration::ZERO, messages: 0 })
    }

    /// The users register in turns, `count` times altogether: REGISTER, 200.
    pub(super) fn register(&mut self, count: u32) -> Result<()> {
        for number in 0..count {
            let user = number % self.users;
            let serial = self.next_serial();
            let phone = phone_address(user as usize);
            let register = self
                .request("REGISTER", user, "r", serial)
                .uri("sip:example.com")
                .to(&address_of_record(user))
                .call_id(&format!("r{user}@phone"))
                .cseq(serial as u32)
                .line(&format!("Contact: <sip:u{user}@{phone}>"))
                .line("Expires: 3600");
            let (backend, sent) = self.relay(phone, &register.build())?;
            let contact = Text::read(&sent).header("Contact").context("the box got no Contact")?.to_owned();
            let answer = Answer::new(200).line(&format!("Contact: {contact};expires=3600"));
            self.answered(backend, &answer.to(&sent), 200)?;
        }
        Ok(())
    }

    /// Users drawn at random call, one after the other: INVITE, 180, 200, ACK, BYE, 200. Nanoseconds inside the engine for each message.
    pub(super) fn call(&mut self, count: u32) -> Result<f64> {
        self.spent = Duration::ZERO;
        self.messages = 0;
        for _ in 0..count {
            let user = self.random.below(u64::from(self.users)) as u32;
            self.one_call(user)?;
        }
        Ok(self.spent.as_nanos() as f64 / self.messages.max(1) as f64)
    }

    fn one_call(&mut self, user: u32) -> Result<()> {
        let serial = self.next_serial();
        let phone = phone_address(user as usize);
        let invite = self
            .request("INVITE", user, "i", serial)
            .line(&format!("Contact: <sip:u{user}@{phone}>"))
            .line("Allow: INVITE, ACK, CANCEL, BYE, OPTIONS")
            .line("User-Agent: phone 1.0")
            .body("application/sdp", SESSION);
        let (backend, sent) = self.relay(phone, &invite.build())?;
        let contact = format!("Contact: <sip:clyde@{backend}>");
        self.answered(backend, &Answer::new(180).line(&contact).to(&sent), 180)?;
        let answer = Answer::new(200).line(&contact).body("application/sdp", SESSION).to(&sent);
        let answer = self.answered(backend, &answer, 200)?;
        let to = answer.header("To").context("the answer has no To")?.to_owned();
        let mut routes = answer.values("Record-Route");
        routes.reverse();
        for (method, branch, cseq) in [("ACK", "a", 1), ("BYE", "b", 2)] {
            let request =
                self.request(method, user, branch, serial).uri(&format!("sip:clyde@{backend}")).to(&to).cseq(cseq);
            let request = routes.iter().fold(request, |request, route| request.line(&format!("Route: {route}")));
            let (box_address, sent) = self.relay(phone, &request.build())?;
            ensure!(box_address == backend, "the {method} went to {box_address} instead of {backend}");
            if method == "BYE" {
                self.answered(backend, &Answer::new(200).to(&sent), 200)?;
            }
        }
        Ok(())
    }

    /// The user's request outside a dialog; `branch` tells the requests of one exchange apart.
    fn request(&self, method: &str, user: u32, branch: &str, serial: u64) -> Script {
        let phone = phone_address(user as usize);
        Script::new(method)
            .via(&format!("SIP/2.0/UDP {phone};rport;branch=z9hG4bK{serial}{branch}"))
            .from(&format!("\"Bonnie\" {};tag=f{serial}", address_of_record(user)))
            .call_id(&format!("c{serial}-abcdef0123456789@{}", phone.ip()))
    }

    /// Hands over a box's answer and reads it as the phone gets it.
    fn answered(&mut self, backend: SocketAddr, bytes: &[u8], code: u16) -> Result<Text> {
        let (_, sent) = self.relay(backend, bytes)?;
        let text = Text::read(&sent);
        ensure!(text.code() == Some(code), "the phone got {} instead of a {code}", text.start);
        Ok(text)
    }

    /// Hands over one datagram. What comes of it, and where to: an answer to the sender itself is a 100 of ours and does not count.
    fn relay(&mut self, from: SocketAddr, bytes: &[u8]) -> Result<(SocketAddr, Packet)> {
        self.now += PER_MESSAGE;
        let listener = self.settings.farms.first().and_then(|farm| farm.listeners.first()).context("nobody listens")?;
        let flow = Flow::of_datagram(listener.id, VIP.ip(), from);
        let mut relayed = None;
        let start = time::Instant::now();
        if self.messages.is_multiple_of(BATCH) {
            self.shard.begin_batch(self.now);
            if self.shard.poll_timeout().is_some_and(|deadline| deadline <= self.now) {
                self.shard.handle_timeout(self.now);
                while self.shard.poll_output().is_some() {}
            }
        }
        black_box(engine::route(bytes, 1));
        self.shard.handle_input(self.now, Input::Datagram { flow, bytes });
        while let Some(output) = self.shard.poll_output() {
            if let Output::Send { flow, packet } = output
                && flow.remote != from
            {
                relayed = Some((flow.remote, packet));
            }
        }
        self.spent += start.elapsed();
        self.messages += 1;
        relayed.with_context(|| format!("nothing came of {}", Text::read(bytes).start))
    }

    fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }
}

fn address_of_record(user: u32) -> String {
    format!("<sip:u{user:08}@example.com>")
}

/// 2,000 calls a second.
const PER_MESSAGE: Duration = Duration::from_micros(83);
/// Datagrams between two looks at timers and configuration, as a busy socket hands them over.
const BATCH: u64 = 16;
const SEED: u64 = 7;
const UNIX_MS: u64 = 1_767_225_600_000;
const SESSION: &[u8] = b"v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 40000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_go_through_with_every_algorithm() {
        for policy in engine::policy::ALL {
            let mut town = Town::new(policy.name(), 3, 20).expect("the algorithm is registered");
            town.register(40).expect("every user registers twice");
            let nanoseconds = town.call(50).expect("every call goes through");
            assert!(nanoseconds > 0.0, "{}", policy.name());
            assert_eq!(town.messages, 300, "six messages a call");
        }
        assert!(Town::new("nonsense", 1, 1).is_err());
    }
}
