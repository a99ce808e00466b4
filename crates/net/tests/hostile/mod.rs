//! A unit with a box behind it, a good peer that must never notice anything, and what hostile peers need to be so.

use engine::{ClientCertificates, Farm, FarmId, Limits, Secrets, Settings, Shared, Transport};
use net::{Clock, DataPlane, StreamCounters};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion};
use sim::settings::{backend, bare_farm, listener_over, service};
use sim::{Answer, Script};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Where the unit listens.
pub(crate) const TCP: &str = "127.0.0.1:5060";
pub(crate) const TLS: &str = "127.0.0.1:5061";
/// Asks for a certificate of the client.
pub(crate) const STRICT: &str = "127.0.0.1:5062";
pub(crate) const WS: &str = "127.0.0.1:8080";
/// The box has a host of its own: connections of its host would be the box's.
const BOX: &str = "127.0.0.2:5070";
/// The name of the unit's certificates.
const NAME: &str = "sip.example.com";

/// How long a message may take to become whole, and a handshake to be through.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// The good peer's requests have numbers of their own: whoever repeated one would be taken for her.
const GOOD_FROM: u32 = 1_000_000;

/// A running unit, its box, and the peer that is good.
pub(crate) struct Bench {
    data_plane: DataPlane,
    pub(crate) authority: Authority,
    good: TcpStream,
    asked: u32,
    /// The unit reads its files again when they change.
    _folder: TempDir,
}

impl Bench {
    pub(crate) fn start() -> Self {
        answer_at_the_box();
        let folder = tempfile::tempdir().expect("a place for temporary files");
        let authority = Authority::new();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            path.to_str().expect("the system's folder has a plain name").to_owned()
        };
        let certificate = write("server", &authority.leaf(false).pem);
        let farms = vec![farm(certificate.clone()), strict_farm(certificate, write("clients", &authority.pem))];
        let limits =
            Limits { partial_message: PATIENCE, handshake: PATIENCE, errors_per_source: 10_000, ..Limits::default() };
        let secrets = Secrets { key_id: 1, key: [7; 16], previous: None, contact_key: [8; 16], epoch: 1 };
        let shared = Shared::new(Settings { farms, limits }, secrets, 8, Clock::now(), 1_700_000_000_000, 1);
        let (data_plane, _warnings) = DataPlane::start(shared, 2, 8, |_| (), None).expect("the ports are free");
        let mut bench = Self { data_plane, authority, good: connect(TCP), asked: GOOD_FROM, _folder: folder };
        bench.assert_serves("at first");
        bench
    }

    /// The good peer asks the box, and gets its answer.
    pub(crate) fn assert_serves(&mut self, what: &str) {
        self.asked += 1;
        self.good.write_all(&message(self.asked)).expect("the good connection is up");
        let answer = next(&mut self.good);
        let is_answer = answer.starts_with("SIP/2.0 200 ") && answer.contains(&call_id(self.asked));
        assert!(is_answer, "{what}: {answer}");
    }

    /// Gives these octets to `port` by a connection of their own, which has to end for `reason`, while the good one is served all
    /// the while. What the peer was told.
    pub(crate) fn ends(&mut self, what: &str, port: &str, octets: &[u8], reason: &str) -> Vec<u8> {
        let mut socket = connect(port);
        self.ends_on(what, &mut socket, octets, reason)
    }

    /// The same by a connection that is up.
    pub(crate) fn ends_on(&mut self, what: &str, socket: &mut TcpStream, octets: &[u8], reason: &str) -> Vec<u8> {
        let before = self.ended(reason);
        // The unit may have seen enough before it has seen all.
        let _taken = socket.write_all(octets);
        self.assert_serves(what);
        let told = all_of(socket);
        self.until(what, |streams| ended(streams, reason) == before + 1);
        self.assert_serves(what);
        told
    }

    pub(crate) fn streams(&self) -> StreamCounters {
        self.data_plane.counters().streams
    }

    pub(crate) fn ended(&self, reason: &str) -> u64 {
        ended(&self.streams(), reason)
    }

    /// Waits until the counters are so.
    pub(crate) fn until(&self, what: &str, done: impl Fn(&StreamCounters) -> bool) {
        for _ in 0..1_000 {
            if done(&self.streams()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("{what}: it never came to it: {:?}", self.streams());
    }

    /// Nothing is left of the others but what was counted.
    pub(crate) fn assert_alone(&mut self) {
        self.until("in the end", |streams| streams.connections == 1);
        self.assert_serves("in the end");
    }
}

/// How many connections ended for this reason.
pub(crate) fn ended(streams: &StreamCounters, reason: &str) -> u64 {
    let found = streams.ended.iter().find(|(known, _)| *known == reason);
    found.map_or_else(|| panic!("there is no reason {reason}"), |(_, count)| *count)
}

pub(crate) fn connect(remote: &str) -> TcpStream {
    let socket = TcpStream::connect(remote).expect("somebody listens");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
    socket.set_write_timeout(Some(Duration::from_secs(5))).expect("a valid timeout");
    socket
}

/// A request that the box answers, for the tests told by its number.
pub(crate) fn message(number: u32) -> Vec<u8> {
    let via = format!("SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bK{number}");
    Script::new("MESSAGE").via(&via).call_id(&format!("{number}@peer")).body("text/plain", b"hello").build()
}

/// The line of the answer that tells it.
pub(crate) fn call_id(number: u32) -> String {
    format!("Call-ID: {number}@peer\r\n")
}

/// The next message without a body.
pub(crate) fn next(socket: &mut impl Read) -> String {
    let mut octets = Vec::new();
    while !octets.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        socket.read_exact(&mut octet).expect("a message within five seconds");
        octets.extend_from_slice(&octet);
    }
    String::from_utf8(octets).expect("these messages are text")
}

/// Everything up to the end of the connection, which has to come.
pub(crate) fn all_of(socket: &mut impl Read) -> Vec<u8> {
    let mut octets = Vec::new();
    if let Err(error) = socket.read_to_end(&mut octets) {
        assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "the connection does not end");
    }
    octets
}

/// A request for the upgrade, with the key of the example in RFC 6455 §1.2.
pub(crate) const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: sip.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: sip\r\n\
     Origin: https://phone.example.com\r\n\r\n";

/// A WebSocket that is open.
pub(crate) fn web_socket() -> TcpStream {
    let mut socket = connect(WS);
    socket.write_all(UPGRADE.as_bytes()).expect("the connection is up");
    let answer = next(&mut socket);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    socket
}

/// A frame as a client sends it; `first` is its first octet: the mark of the last fragment, and the opcode.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => frame.push(0x80 | length),
        (_, Ok(length)) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(octet, mask)| octet ^ mask));
    frame
}

/// The next frame of the unit: its first octet and its payload.
pub(crate) fn frame(octets: &mut impl Read) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    octets.read_exact(&mut head).expect("a frame within five seconds");
    let [first, length] = head;
    let length = match length {
        126 => {
            let mut length = [0; 2];
            octets.read_exact(&mut length).expect("the rest of a frame");
            usize::from(u16::from_be_bytes(length))
        }
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    octets.read_exact(&mut payload).expect("the rest of a frame");
    (first, payload)
}

/// The code by which a WebSocket was closed, from all that the peer was told.
pub(crate) fn close_code(told: &[u8]) -> u16 {
    let mut rest = told;
    loop {
        let (first, payload) = frame(&mut rest);
        if let (0x88, Some(code)) = (first, payload.first_chunk::<2>()) {
            return u16::from_be_bytes(*code);
        }
    }
}

/// A certificate authority that only this unit knows.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A certificate with its key.
pub(crate) struct Leaf {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// Both.
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key is made");
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "authority of the tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).expect("the authority signs itself");
        Self { certificate: certificate.der().clone(), pem: certificate.pem(), issuer: Issuer::new(parameters, key) }
    }

    /// A certificate, of today or one whose time is over.
    pub(crate) fn leaf(&self, expired: bool) -> Leaf {
        let mut parameters = CertificateParams::new(vec![NAME.to_owned()]).expect("the name is well formed");
        if expired {
            parameters.not_before = date_time_ymd(2020, 1, 1);
            parameters.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().expect("a key is made");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("the authority signs");
        Leaf {
            certificate: certificate.der().clone(),
            pem: certificate.pem() + &key.serialize_pem(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    /// A connection to `port` over TLS, by a client that trusts this authority and may show a certificate of its own.
    pub(crate) fn client(
        &self,
        port: &str,
        version: &'static SupportedProtocolVersion,
        own: Option<Leaf>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the authority is well formed");
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .expect("the provider knows the version")
            .with_root_certificates(roots);
        let config = match own {
            Some(leaf) => {
                builder.with_client_auth_cert(vec![leaf.certificate], leaf.key).expect("the key fits the certificate")
            }
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from(NAME).expect("the name is well formed");
        let connection = ClientConnection::new(Arc::new(config), name).expect("the configuration is whole");
        StreamOwned::new(connection, connect(port))
    }
}

/// The farm with the box. Web pages may come from one place only.
fn farm(certificate: String) -> Farm {
    let listeners = [(Transport::Udp, TCP), (Transport::Tcp, TCP), (Transport::Tls, TLS), (Transport::Ws, WS)];
    let listeners = listeners.map(|(transport, bind)| listener_over(transport, address(bind)));
    Farm {
        certificates: vec![certificate],
        origins: vec!["https://phone.example.com".to_owned()],
        services: vec![service("default", vec![0])],
        backends: vec![backend("box", address(BOX))],
        ..bare_farm(listeners.into())
    }
}

/// A farm that lets nobody in without a certificate. It has no box: whoever gets in is refused by SIP.
fn strict_farm(certificate: String, client_ca: String) -> Farm {
    Farm {
        id: FarmId::of("strict"),
        name: "strict".to_owned(),
        certificates: vec![certificate],
        client_ca: Some(client_ca),
        client_certificates: ClientCertificates::Require,
        ..bare_farm(vec![listener_over(Transport::Tls, address(STRICT))])
    }
}

/// The box says 200 to everything, until the process ends.
fn answer_at_the_box() {
    let socket = UdpSocket::bind(BOX).expect("the namespace is ours");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let request = buffer.get(..length).unwrap_or_default();
            socket.send_to(&Answer::new(200).to(request), from).expect("the unit is there");
        }
    });
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a valid address")
}
