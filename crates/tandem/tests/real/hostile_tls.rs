//! OpenSSL's client against the TLS listeners: old and new versions, renegotiation, names, certificates that are wrong or missing.
//! And what is no TLS at all. Each costs its own connection, is counted, and hurts nobody else.

use crate::common::answerer::Answerer;
use crate::common::certificates::Authority;
use crate::common::link::{Link, Over};
use crate::common::unit::{counter, labels};
use crate::common::wire::Taken;
use crate::common::{Unit, holds_within, namespace, peer};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Asks nobody for a certificate.
const OPEN: &str = "127.0.0.20:5061";
/// Asks, and lets in who shows none.
const ASKING: &str = "127.0.0.21:5061";
/// Lets in nobody without.
const STRICT: &str = "127.0.0.22:5061";
const BOX: &str = "127.0.0.31:5060";

/// Certificates in files, and the unit with its three farms.
struct World {
    files: TempDir,
    authority: Authority,
    unit: Unit,
    _server: Answerer,
}

impl World {
    fn new() -> Self {
        let server = Answerer::at(BOX);
        let files = tempfile::tempdir().expect("the temporary folder can be written");
        let (authority, clients) = (Authority::new("authority of the farm"), Authority::new("authority of clients"));
        let addresses = ["first.example.com", "127.0.0.20", "127.0.0.21", "127.0.0.22"];
        let first = authority.issue_file(files.path(), "first.pem", &addresses);
        let second = authority.issue_file(files.path(), "second.pem", &["second.example.com"]);
        let client_ca = clients.own_file(files.path(), "clients.pem");
        clients.issue_file(files.path(), "right.pem", &["phone.example.com"]);
        Authority::new("somebody else").issue_file(files.path(), "wrong.pem", &["phone.example.com"]);
        let farm = |name: &str, host: &str, lines: &str| {
            format!(
                "[[farm]]\nname = \"{name}\"\nlisten = [\"udp:{host}:5060\", \"tls:{host}:5061\"]\n\
                 certificates = [\"{first}\", \"{second}\"]\n{lines}\n\
                 [[farm.backend]]\nname = \"of-{name}\"\naddress = \"{BOX}\"\n"
            )
        };
        let asking = format!("client_ca = \"{client_ca}\"");
        let strict = format!("{asking}\nclient_certificates = \"require\"");
        let unit = Unit::start(&format!(
            "{}{}{}",
            farm("open", "127.0.0.20", ""),
            farm("asking", "127.0.0.21", &asking),
            farm("strict", "127.0.0.22", &strict)
        ));
        Self { files, authority, unit, _server: server }
    }

    /// A client's certificate, as arguments of OpenSSL's client.
    fn showing(&self, file: &str) -> [String; 4] {
        let path = self.files.path().join(file).to_string_lossy().into_owned();
        ["-cert".to_owned(), path.clone(), "-key".to_owned(), path]
    }

    /// How many connections ended for what was wrong with their TLS.
    fn refused(&self) -> u64 {
        counter(&self.unit.status(), "connections_ended", "tls")
    }

    /// Returns when so many more than `before` did.
    fn expect_refused(&self, before: u64, more: u64) {
        let counted = holds_within(Duration::from_secs(5), || self.refused() >= before + more);
        assert!(counted, "{before} before: {:?}", labels(&self.unit.status(), "connections_ended"));
    }
}

/// Everything that OpenSSL's client has to say of a connection, in which it sends `parts` half a second apart. It ends by itself.
fn openssl(to: &str, arguments: &[&str], parts: &[&str]) -> String {
    let mut client = Command::new("timeout")
        .args(["20", "openssl", "s_client", "-connect", to])
        .args(arguments)
        // What the system wants or forbids is not the question.
        .env("OPENSSL_CONF", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it is installed");
    let mut input = client.stdin.take().expect("it was asked for");
    for part in parts {
        std::thread::sleep(PAUSE);
        // A client that was refused reads no more.
        let _ = input.write_all(part.as_bytes()).and_then(|()| input.flush());
    }
    std::thread::sleep(2 * PAUSE);
    drop(input);
    let output = client.wait_with_output().expect("it is our child");
    assert_ne!(output.status.code(), Some(124), "OpenSSL's client hangs");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn is_answered(said: &str) -> bool {
    said.contains("SIP/2.0 200 ")
}

/// Whose certificate was shown, whatever the version's taste in spaces.
fn shows(said: &str, name: &str) -> bool {
    said.replace(' ', "").contains(&format!("subject=CN={name}\n"))
}

/// OPTIONS for the farm itself.
fn options(to: &str, call_id: &str) -> String {
    format!(
        "OPTIONS sip:{to};transport=tls SIP/2.0\r\nVia: SIP/2.0/TLS phone.invalid;branch=z9hG4bK{call_id}\r\nMax-Forwards: 70\r\n\
         From: <sip:bonnie@example.com>;tag=1\r\nTo: <sip:{to}>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// A connection that was there before must not notice anything.
fn assert_serves(link: &mut Link, call_id: &str) {
    link.send(options(OPEN, call_id).as_bytes());
    let answer = link.next(Duration::from_secs(5)).unwrap_or_else(|| panic!("no answer to {call_id}"));
    assert_eq!(Taken::of(&answer).code(), Some(200), "{call_id}");
}

#[test]
fn versions_names_and_renegotiation() {
    if peer("openssl").is_none() || !namespace() {
        return;
    }
    let world = World::new();
    let mut bystander = Link::open(Over::Tls(&world.authority.pem), OPEN);
    assert_serves(&mut bystander, "before");

    // Every cipher and hash of the old days, so that it is the version that is refused.
    let old = openssl(OPEN, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], &[]);
    let told = old.to_lowercase();
    assert!(told.contains("alert protocol version") || told.contains("alert handshake failure"), "{old}");
    world.expect_refused(0, 1);
    for version in ["-tls1_2", "-tls1_3"] {
        let said = openssl(OPEN, &[version], &[&options(OPEN, version)]);
        assert!(is_answered(&said), "{version}: {said}");
    }

    for (asked, shown) in [
        ("first.example.com", "first.example.com"),
        ("second.example.com", "second.example.com"),
        ("unknown.example.com", "first.example.com"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let said = openssl(OPEN, &["-servername", asked, version], &[]);
            assert!(shows(&said, shown), "{asked}: {said}");
        }
    }
    let nameless = openssl(OPEN, &["-noservername"], &[]);
    assert!(shows(&nameless, "first.example.com"), "{nameless}");

    // Only TLS 1.2 knows it. It is not granted, and what the client makes of that is its own affair.
    let again = openssl(OPEN, &["-tls1_2"], &["R\n", "R\n"]);
    assert!(again.contains("RENEGOTIATING"), "{again}");
    assert!(again.to_lowercase().contains("no renegotiation"), "{again}");
    assert_serves(&mut bystander, "after");
}

#[test]
fn certificates_of_clients() {
    if peer("openssl").is_none() || !namespace() {
        return;
    }
    let world = World::new();
    let (right, wrong) = (world.showing("right.pem"), world.showing("wrong.pem"));
    let mut expected = 0;
    for version in ["-tls1_2", "-tls1_3"] {
        for (to, shown, alert) in [
            (OPEN, None, None),
            (OPEN, Some(&wrong), None),
            (ASKING, None, None),
            (ASKING, Some(&right), None),
            (ASKING, Some(&wrong), Some("alert unknown ca")),
            (STRICT, None, Some("alert certificate required")),
            (STRICT, Some(&right), None),
            (STRICT, Some(&wrong), Some("alert unknown ca")),
        ] {
            let mut arguments = vec![version];
            arguments.extend(shown.into_iter().flatten().map(String::as_str));
            let said = openssl(to, &arguments, &[&options(to, "certificates")]);
            let what = format!("{to} {arguments:?}: {said}");
            assert_eq!(is_answered(&said), alert.is_none(), "{what}");
            if let Some(alert) = alert {
                assert!(said.to_lowercase().contains(alert), "{what}");
                expected += 1;
            }
        }
    }
    world.expect_refused(0, expected);
}

#[test]
fn what_is_no_tls_ends_its_connection_alone() {
    if !namespace() {
        return;
    }
    let world = World::new();
    let mut bystander = Link::open(Over::Tls(&world.authority.pem), OPEN);
    assert_serves(&mut bystander, "before");
    let noise = noise(65_532);
    let hello = {
        // A handshake of the type of a ClientHello, as long as it may be, in records as long as they may be.
        let message = [&[1, 0, 0xff, 0xfc][..], &noise].concat();
        let records = message.chunks(16_384).map(|part| {
            let length = u16::try_from(part.len()).expect("a record is short").to_be_bytes();
            [&[22, 3, 1][..], &length, part].concat()
        });
        records.collect::<Vec<_>>().concat()
    };
    let plain = options(OPEN, "plain").into_bytes();
    let cases: [(&str, &[u8]); 4] = [
        ("a ClientHello of 64 KB", &hello),
        ("noise", &noise),
        ("SIP without TLS", &plain),
        ("a record of a type that does not exist", &[99, 3, 3, 0, 1, 0]),
    ];
    for (number, (what, octets)) in (0..).zip(cases) {
        let before = world.refused();
        assert!(ends_the_connection(octets), "{what}");
        world.expect_refused(before, 1);
        assert_serves(&mut bystander, &format!("after{number}"));
    }
    let left = || counter(&world.unit.status(), "connections", "");
    assert!(holds_within(Duration::from_secs(5), || left() == 1), "{} connections", left());
    let status = world.unit.status();
    assert_eq!(counter(&status, "connections_ended", "tls"), 4, "{:?}", labels(&status, "connections_ended"));
    assert!(is_small(world.unit.folder()), "it logs no more than a line for each");
}

/// Sends these octets to the TLS port, and says whether the other end closes then.
fn ends_the_connection(octets: &[u8]) -> bool {
    let mut socket = TcpStream::connect(OPEN).expect("somebody listens");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("the time is not nought");
    // The other end may have had enough before the last octet.
    let _ = socket.write_all(octets);
    let mut buffer = [0; 1_024];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            // An alert.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

/// Octets that mean nothing, always the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// What the unit wrote up to now.
fn is_small(folder: &Path) -> bool {
    let length = |name: &str| std::fs::metadata(folder.join(name)).map_or(0, |metadata| metadata.len());
    length("tandem.err") + length("tandem.out") < 16_384
}

/// Between what OpenSSL's client is given: what came before must have been read, for it looks at the beginning of each piece.
const PAUSE: Duration = Duration::from_millis(500);
