//! The generator over streams, against a server of the test, over the loopback interface of a private namespace.
#![allow(clippy::result_large_err, reason = "the library's callback is asked for this type")]
#![allow(clippy::disallowed_methods, reason = "tests of the sockets open sockets")]

#[path = "../../net/tests/namespace/mod.rs"]
mod namespace;

use load::generator::{Details, Kind, Pace, Settings, run_with};
use load::idle::{self, IdleSettings};
use load::stream::{Loss, Streams, Transport, Trust};
use load::{Failure, Report};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use sip::frame::{Frame, Framer};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tempfile::TempDir;
use tungstenite::Message;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::http::HeaderValue;

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 5061);

/// How the server behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Polite,
    /// Ends each connection after its first answer.
    Curt,
    /// Answers no pings.
    Silent,
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// A certificate for the server's address, in a file, and what the server needs of it.
struct Certificate {
    folder: TempDir,
    config: Arc<ServerConfig>,
}

impl Certificate {
    fn new() -> Self {
        let params = CertificateParams::new(vec![SERVER.ip().to_string()]).expect("an address is a name");
        let key = KeyPair::generate().expect("a key is made");
        let certificate = params.self_signed(&key).expect("it signs itself");
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("the folder is ours");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows them")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("the key fits the certificate");
        Self { folder, config: Arc::new(config) }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// Accepts connections until the test is over.
fn serve(transport: Transport, certificate: &Certificate, manner: Manner) {
    let listener = TcpListener::bind(SERVER).expect("the namespace is ours");
    let config = transport.is_secure().then(|| Arc::clone(&certificate.config));
    let is_web_socket = matches!(transport, Transport::Ws | Transport::Wss);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = config.clone();
            std::thread::spawn(move || match config {
                Some(config) => {
                    let connection = ServerConnection::new(config).expect("the configuration is whole");
                    converse(StreamOwned::new(connection, stream), is_web_socket, manner);
                }
                None => converse::<TcpStream>(stream, is_web_socket, manner),
            });
        }
    });
}

/// Answers until the connection is over.
fn converse<S: Stream>(mut stream: S, is_web_socket: bool, manner: Manner) {
    if is_web_socket {
        converse_in_frames(stream, manner);
        return;
    }
    let mut framer = Framer::new(sip::Limits::default());
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        framer.push(&buffer[..count]);
        while let Some(Ok(frame)) = framer.next() {
            let answer = match frame {
                Frame::Message(request) => answer(&request),
                Frame::Ping if manner == Manner::Silent => None,
                Frame::Ping => Some("\r\n".to_owned()),
            };
            let Some(answer) = answer else { continue };
            if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() || manner == Manner::Curt {
                return;
            }
        }
    }
}

fn converse_in_frames<S: Stream>(stream: S, manner: Manner) {
    let accept = |request: &Request, mut response: Response| {
        assert_eq!(request.headers().get("sec-websocket-protocol"), Some(&HeaderValue::from_static("sip")));
        response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("sip"));
        Ok::<Response, ErrorResponse>(response)
    };
    let Ok(mut socket) = tungstenite::accept_hdr(stream, accept) else { return };
    while let Ok(message) = socket.read() {
        let Message::Text(request) = message else { continue };
        if let Some(answer) = answer(request.as_bytes())
            && (socket.send(Message::text(answer)).is_err() || manner == Manner::Curt)
        {
            return;
        }
    }
}

/// 200 to whatever wants an answer.
fn answer(request: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(request);
    let copied: String = text
        .split_inclusive("\r\n")
        .filter(|line| {
            ["Via:", "From:", "To:", "Call-ID:", "CSeq:", "Contact:"].iter().any(|name| line.starts_with(name))
        })
        .collect();
    (!text.starts_with("ACK ")).then(|| format!("SIP/2.0 200 OK\r\n{copied}Content-Length: 0\r\n\r\n"))
}

fn streams(transport: Transport, connections: u32, trust: Trust) -> Streams {
    Streams { transport, connections, trust, server_name: None, at_once: false }
}

/// So many exchanges over these connections; nobody is asked first whether the server is up.
fn load(kind: Kind, streams: Streams, count: u64) -> Report {
    let settings = Settings {
        kind,
        pace: Pace::Closed { concurrency: streams.connections as usize },
        duration: Duration::from_secs(3_600),
        balancer: SERVER,
        caller: SocketAddr::from(([0, 0, 0, 0], 0)),
        callee: SERVER,
    };
    let details = Details {
        answer: false,
        count: Some(count),
        ready_within: Duration::ZERO,
        streams: Some(streams),
        ..Details::default()
    };
    run_with(settings, &details, &AtomicBool::new(false), |_| ()).expect("the namespace is ours")
}

/// Calls, registrations and pings.
fn every_kind(transport: Transport) {
    let certificate = Certificate::new();
    serve(transport, &certificate, Manner::Polite);
    for kind in [Kind::Call, Kind::Register, Kind::Options] {
        let report = load(kind, streams(transport, 5, Trust::Authorities(certificate.file())), 50);
        assert!(report.is_success(), "{report}");
        assert_eq!((report.completed, report.sent_again), (50, 0), "{report}");
        let connections = report.connections.as_ref().expect("there were some");
        assert_eq!((connections.transport, connections.opened, connections.handshake.count()), (transport, 5, 5));
        assert_eq!(report.to_json()["transport"], transport.name());
        assert!(report.to_string().contains("5 wanted, 5 opened, 0 failed, 0 closed"), "{report}");
    }
}

#[test]
fn every_kind_of_exchange_over_tcp() {
    if namespace::alone("every_kind_of_exchange_over_tcp") {
        every_kind(Transport::Tcp);
    }
}

#[test]
fn every_kind_of_exchange_over_tls() {
    if namespace::alone("every_kind_of_exchange_over_tls") {
        every_kind(Transport::Tls);
    }
}

#[test]
fn every_kind_of_exchange_over_ws() {
    if namespace::alone("every_kind_of_exchange_over_ws") {
        every_kind(Transport::Ws);
    }
}

#[test]
fn every_kind_of_exchange_over_wss() {
    if namespace::alone("every_kind_of_exchange_over_wss") {
        every_kind(Transport::Wss);
    }
}

#[test]
fn who_is_not_believed_gets_nothing() {
    if !namespace::alone("who_is_not_believed_gets_nothing") {
        return;
    }
    let (certificate, other) = (Certificate::new(), Certificate::new());
    serve(Transport::Tls, &certificate, Manner::Polite);
    let foreign = load(Kind::Options, streams(Transport::Tls, 2, Trust::Authorities(other.file())), 2);
    let named = Streams {
        server_name: Some("pbx.example".to_owned()),
        ..streams(Transport::Tls, 2, Trust::Authorities(certificate.file()))
    };
    for report in [foreign, load(Kind::Options, named.clone(), 2)] {
        let connections = report.connections.as_ref().expect("there were to be some");
        assert_eq!((connections.opened, report.completed), (0, 0), "{report}");
        assert!(connections.failed.keys().all(|loss| *loss == Loss::Certificate), "{report}");
        assert_eq!(report.failed.get(&Failure::ConnectionLost), Some(&2), "{report}");
    }
    let report = load(Kind::Options, Streams { trust: Trust::Anybody, ..named }, 2);
    assert!(report.is_success(), "{report}");
}

#[test]
fn nobody_there_is_told() {
    if !namespace::alone("nobody_there_is_told") {
        return;
    }
    let report = load(Kind::Call, streams(Transport::Tcp, 3, Trust::Anybody), 3);
    assert_eq!(report.failed.get(&Failure::ConnectionLost), Some(&3), "{report}");
    let connections = report.connections.as_ref().expect("there were to be some");
    assert!(connections.failed.get(&Loss::Refused).is_some_and(|count| *count >= 3), "{report}");
    assert!(!report.is_success() && report.to_string().contains("  not opened, refused: "), "{report}");
}

#[test]
fn a_connection_that_closes_is_counted_and_opened_again() {
    if !namespace::alone("a_connection_that_closes_is_counted_and_opened_again") {
        return;
    }
    let certificate = Certificate::new();
    serve(Transport::Tcp, &certificate, Manner::Curt);
    let report = load(Kind::Options, streams(Transport::Tcp, 1, Trust::Anybody), 4);
    let connections = report.connections.as_ref().expect("there were some");
    assert_eq!(report.completed + report.failures(), 4, "{report}");
    assert!(report.completed >= 1 && report.failures() >= 1, "{report}");
    assert!(connections.opened >= 2 && connections.losses() >= 1, "{report}");
    assert!(connections.closed.keys().all(|loss| matches!(loss, Loss::Closed | Loss::Reset)), "{report}");
    assert!(!report.is_success());
}

#[test]
fn everybody_at_once_is_registered() {
    if !namespace::alone("everybody_at_once_is_registered") {
        return;
    }
    let certificate = Certificate::new();
    serve(Transport::Tls, &certificate, Manner::Polite);
    let report = load(Kind::Register, Streams { at_once: true, ..streams(Transport::Tls, 60, Trust::Anybody) }, 60);
    assert!(report.is_success(), "{report}");
    let opened = report.connections.as_ref().map(|connections| connections.opened);
    assert_eq!((report.completed, opened), (60, Some(60)), "{report}");
}

fn idle(transport: Transport) -> IdleSettings {
    IdleSettings {
        balancer: SERVER,
        own: SocketAddr::from(([127, 0, 0, 2], 0)),
        streams: streams(transport, 20, Trust::Anybody),
        hold: Duration::from_millis(700),
        ping: Some(Duration::from_millis(200)),
        processes: vec![std::process::id()],
    }
}

#[test]
fn idle_connections_stay() {
    if !namespace::alone("idle_connections_stay") {
        return;
    }
    serve(Transport::Tls, &Certificate::new(), Manner::Polite);
    let report = idle::run(&idle(Transport::Tls), &AtomicBool::new(false), |_| ()).expect("the namespace is ours");
    assert!(report.is_success(), "{report}");
    assert_eq!((report.stayed, report.unanswered), (20, 0), "{report}");
    assert!((40..=80).contains(&report.pings), "{report}");
    assert!(report.target.is_some_and(|used| used.rss_open > 0 && used.cpu_opening > Duration::ZERO), "{report}");
}

#[test]
fn pings_without_an_answer_are_counted() {
    if !namespace::alone("pings_without_an_answer_are_counted") {
        return;
    }
    serve(Transport::Tcp, &Certificate::new(), Manner::Silent);
    let report = idle::run(&idle(Transport::Tcp), &AtomicBool::new(false), |_| ()).expect("the namespace is ours");
    assert_eq!(report.stayed, 20, "{report}");
    assert!(report.unanswered >= 20 && !report.is_success(), "{report}");
}

#[test]
fn browsers_pings_are_answered_too() {
    if !namespace::alone("browsers_pings_are_answered_too") {
        return;
    }
    serve(Transport::Ws, &Certificate::new(), Manner::Polite);
    let report = idle::run(&idle(Transport::Ws), &AtomicBool::new(false), |_| ()).expect("the namespace is ours");
    assert!(report.is_success() && report.pings >= 40, "{report}");
}
