//! Hostile and broken datagrams against the running unit: it lives, it says what it refused, it amplifies nothing, and whatever a client
//! writes into a request, that request leaves to a backend or not at all.

use crate::common::unit::{Unit, counter, labels};
use crate::common::wire::{Call, Station, Taken, offer, register, request};
use crate::common::{holds_within, namespace};
use std::path::{Path, PathBuf};
use std::time::Duration;

const UNIT: &str = "127.0.0.20:5060";
const BOX: &str = "127.0.0.31:5060";
const CLIENT: &str = "127.0.0.66:5060";
/// Where no datagram may ever go.
const ELSEWHERE: &str = "127.0.0.99:5060";

fn config() -> String {
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\"]\n[[farm.backend]]\nname = \"pbx1\"\naddress = \"{BOX}\"\n"
    )
}

fn assert_alive(unit: &mut Unit) {
    let phone = Station::at("127.0.0.41:5060");
    // What the box left unanswered may have set it aside: it comes back by its next trial.
    let mut number = 0;
    let up = holds_within(Duration::from_secs(40), || {
        number += 1;
        let call_id = format!("alive{number}");
        phone.send(request("OPTIONS", &format!("sip:{UNIT}"), phone.address, &call_id, 1, "", ""), UNIT);
        phone.final_answer().code() == Some(200)
    });
    assert!(up, "{}", unit.said());
    assert!(unit.process().is_running(), "{}", unit.said());
    let said = unit.said();
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn published_attacks_and_seeds_of_fuzzers_do_no_harm() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata");
    let corpus = std::env::var_os("TANDEM_CORPUS").map_or(corpus, PathBuf::from);
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for folder in ["advisories", "fuzz-seeds/sipgo", "fuzz-seeds/zeek-sip", "rfc4475", "rfc5118/wire"] {
        messages.extend(files(&corpus.join(folder)));
    }
    if messages.is_empty() {
        eprintln!("skipped: no attacks here");
        return;
    }
    if !namespace() {
        return;
    }
    let server = Station::at(BOX);
    let mut unit = Unit::start(&config());
    let before = resident_kilobytes(&mut unit);
    let attackers: Vec<Station> = (1..=20).map(|last| Station::at(&format!("127.0.7.{last}:5060"))).collect();
    for (at, message) in messages.iter().enumerate() {
        let attacker = &attackers[at % attackers.len()];
        for datagram in variants(message, at as u64) {
            attacker.send(&datagram, UNIT);
            while let Some((answer, _)) = attacker.next(Duration::from_millis(2)) {
                let taken = Taken::of(&answer);
                assert_ne!(taken.code(), Some(500), "an error of ours: {}", datagram.escape_ascii());
            }
        }
        server.drain();
    }
    assert_alive(&mut unit);
    let status = unit.status();
    let refused = labels(&status, "refused");
    for reason in ["not_sip", "content_length", "cseq_method", "missing_header"] {
        assert!(refused.iter().any(|(label, _)| label == reason), "nothing refused for {reason}: {refused:?}");
    }
    let grown = resident_kilobytes(&mut unit).saturating_sub(before);
    assert!(grown < 100_000, "{grown} kB more than before");
}

/// The message, its halves, and a dozen copies with some octets changed.
fn variants(message: &[u8], seed: u64) -> Vec<Vec<u8>> {
    let half = message.len() / 2;
    let mut all = vec![message.to_vec(), message[..half].to_vec(), message[half..].to_vec()];
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        // xorshift64 (Marsaglia 2003).
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    for _ in 0..12 {
        let mut copy = message.to_vec();
        for _ in 0..1 + next() % 6 {
            let place = (next() % copy.len().max(1) as u64) as usize;
            if let Some(octet) = copy.get_mut(place) {
                *octet = next() as u8;
            }
        }
        all.push(copy);
    }
    all
}

#[test]
fn error_answers_are_few_and_small() {
    if !namespace() {
        return;
    }
    // One worker, so that the shards, each of which has its own measure, are few.
    let mut unit = Unit::start(&format!("[unit]\nworkers = 1\n{}", config()));
    let attacker = Station::at(CLIENT);
    let mut sent = 0;
    for number in 0..2_000 {
        let plain = request("OPTIONS", "sip:x", attacker.address, &format!("c{number}"), 1, "", "");
        let text = String::from_utf8_lossy(&plain).replace("Max-Forwards: 70", "Max-Forwards: 0");
        sent = text.len();
        attacker.send(text, UNIT);
        if number % 20 == 0 {
            // Slow enough for the kernel's buffers.
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    let mut answers = 0;
    while let Some((answer, _)) = attacker.next(Duration::from_millis(300)) {
        answers += 1;
        assert!(answer.len() <= sent + 100, "{} octets for {sent}", answer.len());
    }
    // Twenty a second from each shard, and all of it was sent within a second or two.
    assert!((1..=1_000).contains(&answers), "{answers} answers to 2,000 wrong requests");
    let status = unit.status();
    let withheld = counter(&status, "answers_withheld", "");
    assert!(withheld + answers >= 1_900, "{withheld} withheld and {answers} sent: {status:#}");
    assert_alive(&mut unit);
}

#[test]
fn each_reason_is_counted() {
    if !namespace() {
        return;
    }
    let unit = Unit::start(&config());
    let client = Station::at(CLIENT);
    let plain = |call_id: &str| {
        String::from_utf8(request("OPTIONS", "sip:clyde@example.com", client.address, call_id, 1, "", ""))
            .expect("it is text")
    };
    let broken: [(&str, String, Option<u16>); 8] = [
        ("version", plain("a").replace("example.com SIP/2.0", "example.com SIP/7.0"), Some(505)),
        ("cseq_method", plain("b").replace("1 OPTIONS", "1 INVITE"), Some(400)),
        ("missing_header", plain("c").replace("Call-ID: c\r\n", ""), Some(400)),
        ("repeated_header", plain("d").replace("CSeq:", "CSeq: 1 OPTIONS\r\nCSeq:"), Some(400)),
        ("content_length", plain("e").replace("Content-Length: 0", "Content-Length: -1"), Some(400)),
        ("body_truncated", plain("f").replace("Content-Length: 0", "Content-Length: 4294967296"), Some(400)),
        ("max_forwards", plain("g").replace("Max-Forwards: 70", "Max-Forwards: many"), Some(400)),
        ("not_sip", "GET / HTTP/1.1\r\n\r\n".to_owned(), None),
    ];
    for (reason, text, code) in broken {
        client.send(text, UNIT);
        let answer = client.next(Duration::from_millis(300)).map(|(bytes, _)| Taken::of(&bytes));
        assert_eq!(answer.and_then(|answer| answer.code()), code, "{reason}");
        let counted = holds_within(Duration::from_secs(2), || counter(&unit.status(), "refused", reason) == 1);
        assert!(counted, "{reason} is not counted: {:#}", unit.status());
    }
}

#[test]
fn no_client_makes_the_farm_send_anywhere_but_to_a_backend() {
    if !namespace() {
        return;
    }
    let mut unit = Unit::start(&config());
    let (server, client, elsewhere) = (Station::at(BOX), Station::at(CLIENT), Station::at(ELSEWHERE));
    let victim = Station::at("127.0.0.43:5060");
    register(&victim, UNIT, &server, "victim", "victim");
    let known = Call::establish(&victim, UNIT, &server, "victim", "known");
    let token = route_of(&known, &victim);
    let farm = format!("sip:clyde@{UNIT}");
    let away = format!("sip:clyde@{ELSEWHERE}");
    let attempts: [(&str, String, String); 10] = [
        ("Request-URI", away.clone(), String::new()),
        ("maddr", format!("{farm};maddr=127.0.0.99"), String::new()),
        ("maddr of another name", "sip:clyde@example.net;maddr=127.0.0.99;transport=udp".to_owned(), String::new()),
        ("Route", farm.clone(), format!("Route: <sip:{ELSEWHERE};lr>\r\n")),
        ("Route behind ours", farm.clone(), format!("Route: <sip:{UNIT};lr>, <sip:{ELSEWHERE};lr>\r\n")),
        ("strict Route", farm.clone(), format!("Route: <sip:{UNIT};lr>\r\nRoute: <sip:{ELSEWHERE}>\r\n")),
        ("Contact", farm.clone(), format!("Contact: <{away}>\r\nPath: <sip:{ELSEWHERE};lr>\r\n")),
        ("a phone's Contact towards boxes", format!("sip:victim@{UNIT};tdm=0123456789abcdef"), String::new()),
        ("a token of another call", farm.clone(), format!("Route: {token}\r\n")),
        ("a token as Request-URI", uri_of(&token), format!("Route: <sip:{ELSEWHERE};lr>\r\n")),
    ];
    for (number, (what, uri, lines)) in attempts.iter().enumerate() {
        for method in ["INVITE", "MESSAGE", "REGISTER"] {
            let call_id = format!("relay{number}{method}");
            let message = request(method, uri, client.address, &call_id, 1, lines, "");
            attempt(&client, &server, &message, what);
        }
    }
    // Within a dialog: a forged tag does not help, nor do further Routes or another Request-URI.
    for (number, changed) in tampered(&token).into_iter().enumerate() {
        let bye = format!(
            "BYE {away} SIP/2.0\r\nVia: SIP/2.0/UDP {CLIENT};branch=z9hG4bKforged{number};rport\r\nRoute: {changed}\r\n\
             Route: <sip:{ELSEWHERE};lr>\r\nMax-Forwards: 70\r\nFrom: <sip:x@example.com>;tag=x\r\n\
             To: <sip:y@example.com>;tag=y\r\nCall-ID: other\r\nCSeq: 9 BYE\r\nContent-Length: 0\r\n\r\n",
        );
        attempt(&client, &server, bye.as_bytes(), "a forged token in a dialog");
    }
    // An answer goes to where the request came from, whatever its Via says.
    let aimed = String::from_utf8(request("OPTIONS", "sip:x", client.address, "aimed", 1, "", "")).expect("it is text");
    let aimed = aimed.replace("Max-Forwards: 70", "Max-Forwards: 0");
    client.send(
        aimed.replace(&format!("UDP {CLIENT};"), &format!("UDP {ELSEWHERE};maddr=127.0.0.99;received=127.0.0.99;")),
        UNIT,
    );
    assert!(client.final_answer().code().is_some(), "it comes back to the sender");
    // A response out of nowhere is nobody's.
    let stray = format!(
        "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP {UNIT};branch=z9hG4bKtdmAAAA\r\nVia: SIP/2.0/UDP {ELSEWHERE};branch=z9hG4bKx\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCall-ID: stray\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
    );
    client.send(stray, UNIT);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(elsewhere.drain(), 0, "something was relayed");
    assert_eq!(victim.drain(), 0, "a stranger reached a phone past its box");
    let status = unit.status();
    assert!(counter(&status, "forged_tokens", "") >= 1 && counter(&status, "stray_responses", "") >= 1, "{status:#}");
    assert_alive(&mut unit);
}

/// Sends one request; if the box gets it, the box refuses it, so that nothing is repeated.
fn attempt(client: &Station, server: &Station, message: &[u8], what: &str) {
    client.send(message, UNIT);
    let wanted = Taken::of(message).text("call-id");
    for _ in 0..20 {
        if let Some((bytes, from)) = server.next(Duration::from_millis(5)) {
            let taken = Taken::of(&bytes);
            let status = if taken.is_ping() { "200 OK" } else { "403 Forbidden" };
            if taken.is_request() && !taken.start.starts_with(b"ACK ") {
                server.answer(&taken, status, from);
            }
        }
        let answer = client.next(Duration::from_millis(5)).map(|(bytes, _)| Taken::of(&bytes));
        let Some(answer) = answer else { continue };
        if answer.text("call-id") == wanted && answer.code().is_some_and(|code| code >= 200) {
            assert!(answer.code() >= Some(300), "{what}: {}", answer.first_line());
            if answer.text("cseq").is_some_and(|cseq| cseq.ends_with("INVITE")) {
                acknowledge(client, message, &answer);
            }
            return;
        }
    }
    panic!("{what}: no answer to {}", Taken::of(message).first_line());
}

/// RFC 3261 §17.1.1.3: the ACK of a failure.
fn acknowledge(client: &Station, invite: &[u8], answer: &Taken) {
    let taken = Taken::of(invite);
    let line = |taken: &Taken, name: &str| taken.text(name).unwrap_or_default();
    let ack = format!(
        "ACK {} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 ACK\r\n\
         Content-Length: 0\r\n\r\n",
        taken.target(),
        line(&taken, "via"),
        line(&taken, "from"),
        line(answer, "to"),
        line(&taken, "call-id"),
    );
    client.send(ack, UNIT);
}

/// The Record-Route value of a call, read off a request within it.
fn route_of(call: &Call, phone: &Station) -> String {
    let bytes = call.by_caller("INFO", 9, phone.address, &offer(phone.address));
    Taken::of(&bytes).text("route").expect("the call goes through the unit")
}

fn uri_of(route: &str) -> String {
    let inside = route.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or(route, |(uri, _)| uri).to_owned()
}

/// The token as it is, which belongs to another call, and with one character changed here and there.
fn tampered(route: &str) -> Vec<String> {
    let mut all = vec![route.to_owned()];
    for place in [12, 20, 33, 47, 55] {
        let mut octets = route.as_bytes().to_vec();
        octets[place] = if octets[place] == b'A' { b'B' } else { b'A' };
        all.push(String::from_utf8(octets).expect("letters stay letters"));
    }
    all
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()).collect();
    paths.sort();
    let messages = paths.iter().filter(|path| path.extension().is_some_and(|ending| ending != "tsv" && ending != "md"));
    messages.filter_map(|path| std::fs::read(path).ok()).collect()
}

fn resident_kilobytes(unit: &mut Unit) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", unit.process().id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).expect("the unit runs")
}
