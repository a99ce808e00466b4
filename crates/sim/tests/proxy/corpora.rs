//! What was published to break SIP servers, over connections: the torture messages of RFC 4475 and RFC 5118, and messages that
//! hide another one behind a false length. Over TCP and TLS messages are cut out of the stream first, over WebSocket each is a
//! message of its own. The corpora are no part of this repository.

use crate::streams::{farm, listener, of_answer, of_phone};
use crate::unit::{Sent, Unit};
use engine::{Registrations, Transport};
use sim::{Script, Text};
use sip::Limits;
use sip::frame::{Frame, Framer};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Torture messages that become something else on a stream than in a datagram, which ends where it ends.
const OTHERWISE_ON_A_STREAM: [(&str, &str); 6] = [
    // What follows the first message is a second one, whose body is longer than it says: its end is no message.
    ("dblreq", "fwd fwd length_missing"),
    // The rest is waited for, as long as a message may take.
    ("clerr", "waits"),
    ("baddn", "waits"),
    // Nobody knows where the next message begins: the connection ends.
    ("ncl", "length_unreadable"),
    ("mcl01", "length_repeated"),
    ("inv2543", "length_missing"),
];

const STREAMS: [Transport; 4] = [Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

#[test]
fn torture_messages_become_by_datagram_what_the_table_says() {
    for registrations in [Registrations::Off, Registrations::Contact] {
        assert_verdicts(Transport::Udp, registrations);
    }
}

#[test]
fn item_26_torture_messages_become_over_streams_what_they_become_by_datagram() {
    for transport in STREAMS {
        for registrations in [Registrations::Off, Registrations::Contact] {
            assert_verdicts(transport, registrations);
        }
    }
}

/// A request whose headers end with these lines, and behind them another request; `LENGTH` stands for that one's true length. What
/// ends the stream, `None` where the second request is the first one's body.
const HIDING: [(&str, Option<&str>); 22] = [
    ("Content-Length: LENGTH", None),
    ("Content-Length : LENGTH", None),
    ("Content-Length\t: LENGTH", None),
    ("l:LENGTH", None),
    ("CONTENT-length:   000LENGTH", None),
    ("Content-Length: 4294967296", Some("too_large")),
    ("Content-Length : 4294967296", Some("too_large")),
    ("Content-Length: 4294967297", Some("too_large")),
    ("Content-Length: 18446744073709551616", Some("too_large")),
    ("Content-Length: 18446744073709551617", Some("too_large")),
    ("Content-Length: 340282366920938463463374607431768211456", Some("too_large")),
    ("Content-Length: -1", Some("length_unreadable")),
    ("Content-Length: -LENGTH", Some("length_unreadable")),
    ("Content-Length: +0", Some("length_unreadable")),
    ("Content-Length: 0x0", Some("length_unreadable")),
    ("Content-Length: 0, LENGTH", Some("length_unreadable")),
    ("Content-Length:", Some("length_unreadable")),
    ("Content-Length: 0\r\nContent-Length: LENGTH", Some("length_repeated")),
    ("Content-Length: LENGTH\r\nl : 0", Some("length_repeated")),
    ("l: 0\r\nl: 0", Some("length_repeated")),
    ("X-Content-Length: 0", Some("length_missing")),
    ("X-Nothing: 0\nContent-Length: 0\r\nContent-Length: LENGTH", Some("line_end")),
];

#[test]
fn item_26_no_request_is_smuggled_behind_a_false_length() {
    for (lines, ending) in HIDING {
        let inner = hidden("sip:smuggled@x.test", "Content-Length: 0");
        let lines = lines.replace("LENGTH", &inner.len().to_string());
        let stream = [hidden("sip:outer@x.test", &lines), inner].concat();
        for transport in STREAMS {
            let (sent, ended) = carried(transport, &stream);
            assert_nothing_smuggled(&sent, &lines);
            if is_cut(transport) {
                assert_eq!(ended, ending.unwrap_or_default(), "{lines}");
                let passed = sent.iter().filter(|sent| sent.text.code().is_none()).count();
                assert_eq!(passed, usize::from(ending.is_none()), "{lines}");
            }
        }
    }
}

#[test]
fn published_messages_smuggle_nothing() {
    let Some(corpus) = corpus() else { return };
    let entries = fs::read_dir(corpus.join("advisories")).expect("the folder can be listed");
    let mut seen = 0;
    for entry in entries {
        let path = entry.expect("the folder can be listed").path();
        if path.extension().is_some_and(|extension| extension == "dat") {
            seen += 1;
            let stream = read(&path);
            for transport in STREAMS {
                assert_nothing_smuggled(&carried(transport, &stream).0, &path.display().to_string());
            }
        }
    }
    assert!(seen >= 19, "{seen}");
}

/// A request with these lines as its last ones.
fn hidden(uri: &str, lines: &str) -> Vec<u8> {
    let text = Script::new("OPTIONS").uri(uri).call_id(uri).branch(&uri.len().to_string()).line(lines);
    text.without_length().build()
}

/// All that leaves when this comes by a connection, and how the stream ends.
fn carried(transport: Transport, stream: &[u8]) -> (Vec<Sent>, &'static str) {
    let mut unit = unit(transport, Registrations::Off);
    let (messages, ending) = cut(transport, stream);
    let sent = messages.iter().flat_map(|message| unit.arrive(of_phone(transport, 7), message)).collect();
    (sent, ending)
}

/// Nothing that leaves is the second request, nor could anybody read it out of what leaves.
fn assert_nothing_smuggled(sent: &[Sent], what: &str) {
    for sent in sent {
        assert!(!sent.text.start.contains("smuggled"), "{what}: {}", sent.text.start);
        assert_is_one(sent, what);
    }
}

fn assert_verdicts(transport: Transport, registrations: Registrations) {
    let Some(corpus) = corpus() else { return };
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (suite, name, by_datagram) in table() {
        let folder = if suite == "rfc5118" { "rfc5118/wire" } else { "rfc4475" };
        let bytes = read(&corpus.join(folder).join(format!("{name}.dat")));
        let otherwise = OTHERWISE_ON_A_STREAM.iter().find(|(known, _)| is_cut(transport) && *known == name);
        let wanted = otherwise.map_or(by_datagram.as_str(), |(_, verdict)| *verdict);
        let verdict = if bytes.starts_with(b"SIP/2.0 ") {
            response_verdict(transport, &bytes)
        } else {
            request_verdict(transport, registrations, &bytes)
        };
        seen += 1;
        if verdict != wanted {
            wrong.push(format!("{suite} {name}: {verdict}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{} with {registrations:?}:\n{}", transport.name(), wrong.join("\n"));
    assert_eq!(seen, 49 + 12);
}

/// What becomes of each message in the stream: `fwd`, a status or `drop`; then how the stream ends, if not in order.
fn request_verdict(transport: Transport, registrations: Registrations, stream: &[u8]) -> String {
    let mut unit = unit(transport, registrations);
    let (messages, ending) = cut(transport, stream);
    let mut parts: Vec<String> = messages
        .iter()
        .map(|message| {
            let sent = unit.arrive(of_phone(transport, 7), message);
            assert!(sent.len() <= 1, "{sent:?}");
            let Some(sent) = sent.first() else { return "drop".to_owned() };
            assert_is_one(sent, &String::from_utf8_lossy(message));
            sent.text.code().map_or("fwd".to_owned(), |code| code.to_string())
        })
        .collect();
    if !ending.is_empty() {
        parts.push(ending.to_owned());
    }
    parts.join(" ")
}

/// The response comes as the answer to a request under way, with the Via that this one had on top.
fn response_verdict(transport: Transport, bytes: &[u8]) -> String {
    let file = Text::read(bytes);
    let cseq = file.header("CSeq").expect("each has a CSeq");
    let (number, method) = cseq.split_once(' ').expect("a number and a method");
    // The number of one of them is the fault that it is about.
    let script = |method: &str| {
        let number: u32 = number.parse().unwrap_or(1);
        Script::new(method).call_id(file.header("Call-ID").unwrap_or_default()).cseq(number)
    };
    let mut unit = unit(transport, Registrations::Off);
    let request = unit.passes(of_phone(transport, 7), &script(method).build());
    let mut vias = request.text.values("Via");
    let written = file.values("Via");
    if written.len() > 1 {
        // The message is about the Via under ours.
        vias.truncate(1);
        vias.extend(written.into_iter().skip(1));
    }
    let (messages, ending) = cut(transport.towards_backends(), &with_vias(bytes, &vias));
    assert_eq!((messages.len(), ending), (1, ""));
    let mut sent = Vec::new();
    for message in &messages {
        sent.extend(unit.arrive(of_answer(&request, 90), message));
    }
    if file.code() == Some(100) {
        // It goes no further than here, but from now on a CANCEL may (RFC 3261 §9.1).
        let cancelled = unit.arrive(of_phone(transport, 7), &script("CANCEL").build());
        let passed = cancelled.iter().any(|sent| sent.text.code().is_none() && sent.text.method() == "CANCEL");
        return if passed { "fwd" } else { "drop" }.to_owned();
    }
    let Some(up) = sent.first() else { return "drop".to_owned() };
    assert_is_one(up, &file.start);
    assert_eq!((sent.len(), up.text.code(), &up.text.body), (1, file.code(), &file.body));
    "fwd".to_owned()
}

/// Whoever reads this out of a stream finds it and nothing else.
fn assert_is_one(sent: &Sent, what: &str) {
    if sent.flow.listener != listener(Transport::Udp).id {
        assert_eq!(cut(Transport::Tcp, &sent.bytes), (vec![sent.bytes.clone()], ""), "{what}");
    }
}

/// The messages in a stream of this transport, and how it ends: an empty text, `waits`, or the label of a fault.
fn cut(transport: Transport, stream: &[u8]) -> (Vec<Vec<u8>>, &'static str) {
    if !is_cut(transport) {
        return (vec![stream.to_vec()], "");
    }
    let mut framer = Framer::new(Limits::default());
    let mut messages = Vec::new();
    framer.push(stream);
    while let Some(frame) = framer.next() {
        match frame {
            Ok(Frame::Message(message)) => messages.push(message),
            Ok(Frame::Ping) => {}
            Err(fault) => return (messages, fault.label()),
        }
    }
    (messages, if framer.is_idle() { "" } else { "waits" })
}

fn is_cut(transport: Transport) -> bool {
    matches!(transport, Transport::Tcp | Transport::Tls)
}

/// A box that is reached as the client came, TCP for WebSocket, and takes everything.
fn unit(transport: Transport, registrations: Registrations) -> Unit {
    Unit::new(farm(Some(transport.towards_backends()), |farm| {
        farm.domains.clear();
        farm.registrations = registrations;
    }))
}

/// The message with other Vias.
fn with_vias(message: &[u8], vias: &[String]) -> Vec<u8> {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n").expect("the headers end");
    let (head, rest) = message.split_at(end + 2);
    let mut out = Vec::new();
    for (at, line) in head.split_inclusive(|octet| *octet == b'\n').enumerate() {
        if !line.starts_with(b"Via:") {
            out.extend_from_slice(line);
        }
        if at == 0 {
            vias.iter().for_each(|via| out.extend_from_slice(format!("Via: {via}\r\n").as_bytes()));
        }
    }
    out.extend_from_slice(rest);
    out
}

/// Suite, name and what becomes of it by datagram.
fn table() -> Vec<(String, String, String)> {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/conformance.tsv"));
    let text = String::from_utf8(text).expect("tables are UTF-8");
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t'));
    let heads: Vec<&str> = lines.next().expect("a table has a head").collect();
    lines
        .map(|cells| {
            let row: BTreeMap<&str, &str> = heads.iter().copied().zip(cells).collect();
            (row["suite"].to_owned(), row["name"].to_owned(), row["tandem"].to_owned())
        })
        .collect()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folder of published messages beside the checkout, or where `TANDEM_CORPUS` says.
fn corpus() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata");
    let corpus = std::env::var_os("TANDEM_CORPUS").map_or(beside, PathBuf::from);
    if corpus.join("rfc4475/wsinv.dat").is_file() && corpus.join("advisories").is_dir() {
        return Some(corpus);
    }
    eprintln!("skipped: no published messages here");
    None
}
