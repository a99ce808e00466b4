//! The proxy checklist, item 32: the attack of RFC 5393 §3. Users of boxes that fork point at each other, so that one INVITE
//! comes back to the farm again and again; how many requests the farm makes of it is counted, and is exact.

mod scene;

use engine::Persistence;
use scene::forker::{Breadth, Forker};
use scene::{millis, seconds};
use sim::bench::invite;
use sim::script::uri_in;
use sim::settings::algorithm;
use sim::{Answer, Bench, Datagram, Script, Text, one_farm, phone_address};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What one INVITE of the client became.
#[derive(Debug, Default)]
struct Storm {
    /// INVITEs that the balancer sent to boxes.
    invites: usize,
    /// ACKs that it sent to boxes.
    acks: usize,
    /// Requests that it refused for their loop.
    loops: u64,
    /// Final answers that the client got.
    finals: Vec<u16>,
    /// The sums of Max-Breadth over the INVITEs that passed the farm equally often: all of them may be open at the same time.
    breadths: BTreeMap<usize, usize>,
}

/// Boxes that fork, and their users, each registered at every box.
struct Attack {
    bench: Bench,
    boxes: Vec<Forker>,
}

impl Attack {
    fn new(boxes: usize, users: usize, breadth: Breadth) -> Self {
        let settings = one_farm(boxes, |farm| {
            for service in &mut farm.services {
                service.algorithm = algorithm("round-robin");
                service.persistence = Persistence::None;
            }
        });
        let names: Vec<String> = (0..users).map(|number| format!("user{number}")).collect();
        let forkers = (0..boxes).map(|index| Forker::new(index, &names, breadth)).collect();
        let mut attack = Self { bench: Bench::new(settings), boxes: forkers };
        let mut phone = 1;
        for name in &names {
            let mut held: BTreeSet<usize> = BTreeSet::new();
            while held.len() < boxes {
                held.insert(register(&mut attack.bench, phone, name));
                phone += 1;
                assert!(phone < 100, "{name} gets to boxes {held:?} only");
            }
        }
        attack
    }

    /// The client calls the first user. Everything happens at one moment; then the time of every transaction passes.
    fn storm(&mut self, call: Script) -> Storm {
        let call = call.uri("sip:user0@example.com");
        let mut storm = Storm::default();
        self.bench.send(Bench::client_address(), call.build());
        let mut to_tag = None;
        let mut queue: VecDeque<Datagram> = self.bench.rest().into();
        while let Some(datagram) = queue.pop_front() {
            let text = Text::read(&datagram.bytes);
            if datagram.to == Bench::client_address() {
                storm.finals.extend(text.code().filter(|code| *code >= 200));
                to_tag = text.header("To").map(str::to_owned);
            } else {
                storm.note(&text);
                assert!(storm.invites < EXPLOSION, "no end of it: {:?}", storm.breadths);
                self.deliver(&datagram);
            }
            queue.extend(self.bench.rest());
        }
        let ack = Script::new("ACK").uri("sip:user0@example.com").branch("a").to(&to_tag.unwrap_or_default());
        self.bench.send(Bench::client_address(), ack.build());
        self.bench.rest();
        self.bench.advance(seconds(120));
        self.bench.assert_quiet();
        assert_eq!(self.bench.balancer().transactions(), 0, "nothing is left of it");
        storm.loops = self.counter("loops");
        storm
    }

    fn deliver(&mut self, datagram: &Datagram) {
        let forker = self.boxes.iter_mut().find(|forker| forker.address() == datagram.to);
        let forker = forker.expect("the farm sends to nobody but the client and its boxes");
        for bytes in forker.handle(&datagram.bytes) {
            self.bench.send(forker.address(), bytes);
        }
    }

    fn counter(&mut self, wanted: &str) -> u64 {
        let now = self.bench.now();
        let snapshot = self.bench.balancer().snapshot(now).expect("the balancer runs");
        snapshot.counters.iter().filter(|(name, _, _)| *name == wanted).map(|(_, _, value)| *value).sum()
    }
}

impl Storm {
    fn note(&mut self, text: &Text) {
        match (text.code(), text.method()) {
            (None, "INVITE") => {
                self.invites += 1;
                let breadth = text.header("Max-Breadth").and_then(|value| value.parse::<usize>().ok());
                // Each round adds two Vias, the farm's and the box's, to the client's.
                let round = text.values("Via").len() / 2;
                *self.breadths.entry(round).or_default() += breadth.expect("every INVITE leaves with a Max-Breadth");
            }
            (None, "ACK") => self.acks += 1,
            (None, other) => panic!("a {other} to a box"),
            (Some(_), _) => {}
        }
    }
}

/// Registers another phone of a user; gives the box that it got to.
fn register(bench: &mut Bench, phone: usize, user: &str) -> usize {
    let source = phone_address(phone);
    let name = format!("registration{phone}");
    let request = Script::new("REGISTER")
        .uri("sip:example.com")
        .via(&format!("SIP/2.0/UDP {source};branch=z9hG4bK{name}"))
        .from(&format!("<sip:{user}@example.com>;tag={name}"))
        .to(&format!("<sip:{user}@example.com>"))
        .call_id(&name)
        .line(&format!("Contact: <sip:{user}@{source}>;expires=600"));
    bench.send(source, request.build());
    let (index, received) = bench.one_to_a_box();
    let contact = Text::read(&received.bytes).header("Contact").map(uri_in).unwrap_or_default();
    bench.answer(&received, &Answer::new(200).line(&format!("Contact: <{contact}>;expires=600")));
    assert_eq!(Text::read(&bench.one_to(source).bytes).code(), Some(200));
    index
}

/// More than any attack here may make of one INVITE; 2^70 would be what it is without any defence.
const EXPLOSION: usize = 1_000;

/// Without splitting, loop detection is all there is. It lets a request come from a box to a user once on each way, so that two
/// users at two boxes make 1 + 2 + 4 + 4 + 4 requests, and three 1 + 3 + 9 + 18 + 36 + 36 + 36.
#[test]
fn item_32_users_at_each_other_twice_are_bounded_by_loop_detection_alone() {
    for (users, invites, loops) in [(2, 15, 16_u64), (3, 139, 279)] {
        let mut attack = Attack::new(2, users, Breadth::Copied);
        let storm = attack.storm(invite("a"));
        assert_eq!((storm.invites, storm.loops), (invites, loops), "{storm:?}");
        assert_eq!(storm.finals, [482], "{users} users");
        assert!(storm.acks <= storm.invites + loops as usize, "one for each refusal at most: {storm:?}");
    }
}

/// The balancer passes on what it gets, and begins with 60 where there is none: boxes that split it never have more than 60
/// branches open, and a tree with 60 leaves has 119 requests at most, however many users point at each other.
#[test]
fn item_32_boxes_that_split_the_breadth_are_held_to_60_branches() {
    for (users, invites, loops, code) in [(2, 15, 16_u64, 482_u16), (8, 41, 0, 440)] {
        let mut attack = Attack::new(2, users, Breadth::Split);
        let storm = attack.storm(invite("a"));
        assert_eq!((storm.invites, storm.loops), (invites, loops), "{storm:?}");
        assert!(storm.invites <= 119 && storm.breadths.values().all(|sum| *sum <= 60), "{storm:?}");
        assert_eq!(storm.finals, [code], "{users} users");
    }
}

#[test]
fn item_32_a_callers_smaller_breadth_holds_all_the_way() {
    let mut attack = Attack::new(2, 2, Breadth::Split);
    let storm = attack.storm(invite("a").line("Max-Breadth: 4"));
    assert_eq!(storm.invites, 1 + 2 + 4, "{storm:?}");
    assert!(storm.breadths.values().all(|sum| *sum == 4), "{storm:?}");
    assert_eq!(storm.finals, [440]);
}

/// Max-Forwards is the last bound: whatever else holds, the farm refuses what comes to it without a hop left.
#[test]
fn item_32_hops_end_what_nothing_else_does() {
    let mut attack = Attack::new(2, 8, Breadth::Copied);
    // The farm, a box, the farm and a box take one each.
    let storm = attack.storm(invite("a").max_forwards(Some(4)));
    assert_eq!(storm.invites, 1 + 8, "{storm:?}");
    assert_eq!(storm.finals, [483]);
    assert_eq!(attack.counter("hops_exceeded"), 64);
}

/// A user whom the asking box itself has registered is called at his phone, and never through that box again.
#[test]
fn item_32_users_of_one_box_do_not_come_back_to_it() {
    let mut attack = Attack::new(1, 2, Breadth::Copied);
    attack.bench.send(Bench::client_address(), invite("a").uri("sip:user0@example.com").build());
    let (_, first) = attack.bench.one_to_a_box();
    let home = first.to;
    for bytes in attack.boxes[0].handle(&first.bytes) {
        attack.bench.send(home, bytes);
    }
    let sent = attack.bench.rest();
    let called: Vec<&Datagram> = sent.iter().filter(|datagram| datagram.bytes.starts_with(b"INVITE ")).collect();
    assert_eq!(called.len(), 2, "one for each user that the box forked to: {sent:?}");
    assert!(called.iter().all(|datagram| datagram.to != home), "{called:?}");
}

/// A box that does not answer in time is given up for the next one. That starts one more tree, no larger than the first would
/// have been; `attempts` bounds their number.
#[test]
fn item_32_each_attempt_makes_no_more_than_one_alone() {
    let mut attack = Attack::new(2, 2, Breadth::Copied);
    attack.bench.send(Bench::client_address(), invite("a").uri("sip:user0@example.com").build());
    let (_, first) = attack.bench.one_to_a_box();
    attack.bench.advance(millis(2_100));
    let mut queue: VecDeque<Datagram> = attack.bench.rest().into();
    let mut finals: Vec<u16> = Vec::new();
    let mut branches: BTreeSet<String> = BTreeSet::new();
    while let Some(datagram) = queue.pop_front() {
        let text = Text::read(&datagram.bytes);
        if datagram.to == Bench::client_address() {
            finals.extend(text.code().filter(|code| *code >= 200));
        } else if datagram.bytes != first.bytes {
            // The first box stays silent to the first attempt, as often as it is repeated.
            if text.code().is_none() && text.method() == "INVITE" {
                branches.insert(text.branch());
            }
            assert!(branches.len() < EXPLOSION, "no end of it");
            attack.deliver(&datagram);
        }
        queue.extend(attack.bench.rest());
    }
    assert_eq!(branches.len(), 15, "as many INVITEs as one attempt makes alone");
    assert_eq!(finals, [482]);
}
