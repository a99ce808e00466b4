//! Probes against peers on loopback, as they are found in the field.

use super::*;
use crate::{CallPlan, Kind, Sound, State, Transport};
use std::net::{Ipv6Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A peer that talks SIP on one socket and returns audio on another.
struct Peer {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Silent,
    /// 486 to an INVITE.
    Busy,
    /// Answers, and returns what it hears.
    Echo,
    /// As `Echo`, and says nothing to a BYE.
    Stubborn,
}

impl Peer {
    fn new(manner: Manner) -> Self {
        let (signalling, audio) = (bound(), bound());
        let address = signalling.local_addr().expect("it is bound");
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = Some(thread::spawn(move || serve(manner, &signalling, &audio, &seen)));
        Self { address, over, thread }
    }

    /// The methods that came, repetitions included.
    fn end(mut self) -> Vec<String> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().expect("it ends once").join().expect("the peer does not fail")
    }
}

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    socket.set_read_timeout(Some(Duration::from_millis(2))).expect("it is a socket");
    socket
}

fn serve(manner: Manner, signalling: &UdpSocket, audio: &UdpSocket, over: &AtomicBool) -> Vec<String> {
    let mut buffer = [0; 4_096];
    let mut methods = Vec::new();
    loop {
        // What has come before the end counts.
        let is_last = over.load(Ordering::Relaxed);
        let came = signalling.recv_from(&mut buffer);
        if is_last && came.is_err() {
            return methods;
        }
        if let Ok((length, from)) = came {
            let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let method = request.split(' ').next().unwrap_or_default().to_owned();
            let answer = match (manner, method.as_str()) {
                (Manner::Silent, _) | (_, "ACK") | (Manner::Stubborn, "BYE") => None,
                (Manner::Busy, "INVITE") => Some(answer(&request, "486 Busy Here", None)),
                (Manner::Echo | Manner::Stubborn, "INVITE") => {
                    let port = audio.local_addr().expect("it is bound").port();
                    Some(answer(&request, "200 OK", Some((signalling, port))))
                }
                _ => Some(answer(&request, "200 OK", None)),
            };
            methods.push(method);
            if let Some(answer) = answer {
                signalling.send_to(answer.as_bytes(), from).expect("loopback takes it");
            }
        }
        if let Ok((length, from)) = audio.recv_from(&mut buffer) {
            audio.send_to(&buffer[..length], from).expect("loopback takes it");
        }
    }
}

fn answer(request: &str, status: &str, media: Option<(&UdpSocket, u16)>) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "Via" | "From" | "Call-ID" | "CSeq" => text.push_str(&format!("{line}\r\n")),
            "To" if line.contains("tag=") => text.push_str(&format!("{line}\r\n")),
            "To" => text.push_str(&format!("{line};tag=peer\r\n")),
            _ => {}
        }
    }
    let body = media.map_or(String::new(), |(signalling, port)| {
        let address = signalling.local_addr().expect("it is bound");
        text.push_str(&format!("Contact: <sip:{address}>\r\nContent-Type: application/sdp\r\n"));
        format!("v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n")
    });
    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
    text
}

fn call(proxy: SocketAddr, transport: Transport, limit: Duration) -> Job {
    // A fifth of a second of silence.
    let sound = Sound { name: "quiet".to_owned(), samples: vec![0xff; 1_600].into() };
    Job {
        plan: Plan {
            kind: Kind::Call(CallPlan {
                target: format!("sip:clyde@{proxy}"),
                sounds: vec![sound],
                expect_audio: true,
                min_mos: 0.0,
            }),
            transport,
            limit,
            from: "sip:bonnie@example.com".to_owned(),
            username: String::new(),
            password: None,
            proxy,
            registrar: None,
            expires: 60,
            thresholds: Vec::new(),
        },
        local: None,
        trust: Trust::Off,
        server_name: None,
        registrar_name: None,
        linger: Linger::Stop,
        record: false,
    }
}

/// Starts it and waits for its report, and tells how long that took.
fn report(job: Job) -> (Report, Duration) {
    let mut runner = Runner::new();
    let id = runner.start(job).expect("loopback is there");
    let (reports, lasted) = wait_for(&mut runner, 1);
    let [(told, report)]: [(JobId, Report); 1] = reports.try_into().expect("one probe tells once");
    assert_eq!(told, id);
    assert_eq!((runner.running(), runner.next_due()), (0, None));
    (report, lasted)
}

fn wait_for(runner: &mut Runner, count: usize) -> (Vec<(JobId, Report)>, Duration) {
    let begun = std::time::Instant::now();
    let mut reports = Vec::new();
    while reports.len() < count && begun.elapsed() < PATIENCE {
        reports.extend(runner.turn(Duration::from_millis(50)));
    }
    (reports, begun.elapsed())
}

/// An address at which nobody listens any more.
fn closed() -> SocketAddr {
    bound().local_addr().expect("it is bound")
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn a_call_with_echo_is_good() {
    let peer = Peer::new(Manner::Echo);
    let (report, _) = report(call(peer.address, Transport::Udp, ms(5_000)));
    assert_eq!(report.state, State::Ok, "{}", report.line());
    let quality = report.figures.quality.expect("audio came back");
    assert_eq!((report.figures.sent, quality.received, quality.lost), (10, 10, 0), "{}", report.text);
    assert_eq!(peer.end(), ["INVITE", "ACK", "BYE"]);
}

#[test]
fn a_busy_peer_is_told_and_acknowledged() {
    let peer = Peer::new(Manner::Busy);
    let (report, lasted) = report(call(peer.address, Transport::Udp, ms(5_000)));
    assert_eq!(report.state, State::Critical);
    assert!(report.text.contains("486") && lasted < ms(2_000), "{} after {lasted:?}", report.text);
    assert!(peer.end().starts_with(&["INVITE".to_owned(), "ACK".to_owned()]));
}

#[test]
fn a_silent_peer_costs_no_more_than_the_limit() {
    let peer = Peer::new(Manner::Silent);
    let (report, lasted) = report(call(peer.address, Transport::Udp, ms(400)));
    assert_eq!(report.state, State::Critical, "{}", report.text);
    assert!((ms(250)..ms(900)).contains(&lasted), "{lasted:?}");
    assert!(peer.end().iter().any(|method| method == "INVITE"));
}

#[test]
fn who_stays_reports_first_and_clears_up_in_silence() {
    let peer = Peer::new(Manner::Silent);
    let mut runner = Runner::new();
    let job = Job { linger: Linger::Stay, ..call(peer.address, Transport::Udp, ms(400)) };
    runner.start(job).expect("loopback is there");
    let (reports, lasted) = wait_for(&mut runner, 1);
    assert!(reports.iter().all(|(_, report)| report.state == State::Critical) && reports.len() == 1);
    assert!(lasted < ms(900), "{lasted:?}");
    // Nothing is told twice, however long the rest takes.
    assert!(runner.turn(ms(50)).is_empty());
    peer.end();
}

#[test]
fn who_stays_waits_beyond_the_limit_for_the_answer_to_a_bye() {
    let peer = Peer::new(Manner::Stubborn);
    let mut runner = Runner::new();
    let job = Job { linger: Linger::Stay, ..call(peer.address, Transport::Udp, ms(1_600)) };
    runner.start(job).expect("loopback is there");
    let (reports, _) = wait_for(&mut runner, 1);
    let told: Vec<&str> = reports.iter().map(|(_, report)| report.text.as_str()).collect();
    assert!(matches!(told.as_slice(), [text] if text.contains("but BYE was not answered")), "{told:?}");
    assert_eq!(runner.running(), 1, "the BYE is repeated still");
    peer.end();
}

#[test]
fn who_stays_is_gone_soon_after_an_interruption() {
    let peer = Peer::new(Manner::Silent);
    let mut runner = Runner::new();
    let job = Job { linger: Linger::Stay, ..call(peer.address, Transport::Udp, ms(2_000)) };
    runner.start(job).expect("loopback is there");
    assert!(runner.turn(ms(50)).is_empty());
    runner.interrupt_all();
    let begun = std::time::Instant::now();
    while runner.running() > 0 && begun.elapsed() < PATIENCE {
        runner.turn(ms(50));
    }
    assert!(begun.elapsed() < ms(1_500), "its reserve is half a second, and it took {:?}", begun.elapsed());
    peer.end();
}

#[test]
fn what_this_machine_forbids_says_nothing_of_the_other_side() {
    // The broadcast address of loopback: forbidden to whoever did not ask for broadcasts.
    let forbidden = SocketAddr::from(([127, 255, 255, 255], 5060));
    let here = Some((IpAddr::from([127, 0, 0, 1]), None));
    let (report, _) = report(Job { local: here, ..call(forbidden, Transport::Udp, ms(400)) });
    assert_eq!(report.state, State::Unknown, "{}", report.line());
    assert!(report.text.contains("lets nothing out to 127.255.255.255:5060"), "{}", report.text);
}

#[test]
fn a_port_that_is_closed_is_known_at_once() {
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws] {
        let proxy = closed();
        let (report, lasted) = report(call(proxy, transport, ms(5_000)));
        assert_eq!(report.state, State::Critical);
        let wanted = format!("nothing listens at {transport}:{proxy}");
        assert!(report.text.contains(&wanted), "{}", report.text);
        assert!(lasted < ms(1_500), "{transport}: {lasted:?}");
    }
}

#[test]
fn what_does_not_speak_tls_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the probe connects");
        io::Write::write_all(&mut stream, b"SIP/2.0 400 Bad Request\r\n\r\n").expect("the probe reads");
        // Until the probe has closed.
        let _ended = io::Read::read_to_end(&mut stream, &mut Vec::new());
    });
    let (report, lasted) = report(call(address, Transport::Tls, ms(5_000)));
    server.join().expect("the server went through");
    assert_eq!(report.state, State::Critical);
    assert!(report.text.contains("TLS failed: the other side does not speak it"), "{}", report.text);
    assert!(lasted < ms(1_500), "{lasted:?}");
}

/// Takes one connection, and tells what came on it until the other side closed it.
fn listening() -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the probe connects");
        let mut octets = Vec::new();
        let _ended = io::Read::read_to_end(&mut stream, &mut octets);
        String::from_utf8_lossy(&octets).into_owned()
    });
    (address, server)
}

/// A call over WebSockets at which both have a name of their own.
fn named(proxy: SocketAddr, registrar: SocketAddr) -> Job {
    let mut job = call(proxy, Transport::Ws, ms(400));
    job.plan.registrar = Some(registrar);
    job.server_name = Some("proxy.example".to_owned());
    job.registrar_name = Some("registrar.example".to_owned());
    job
}

#[test]
fn a_registrar_is_asked_for_by_its_own_name() {
    let ((proxy, at_proxy), (registrar, at_registrar)) = (listening(), listening());
    report(named(proxy, registrar));
    let (both, at_both) = listening();
    report(named(both, both));
    for (server, name) in [(at_proxy, "proxy.example"), (at_registrar, "registrar.example"), (at_both, "proxy.example")]
    {
        let asked = server.join().expect("the server went through");
        assert!(asked.contains(&format!("\r\nHost: {name}\r\n")), "{name}: {asked}");
    }
}

#[test]
fn many_at_once_are_told_one_by_one() {
    let mut runner = Runner::new();
    let peers: Vec<Peer> = (0..3).map(|_| Peer::new(Manner::Busy)).collect();
    for index in 0..30 {
        let proxy = peers.get(index % 4).map_or_else(closed, |peer| peer.address);
        runner.start(call(proxy, Transport::Udp, ms(5_000))).expect("loopback is there");
    }
    let (mut reports, lasted) = wait_for(&mut runner, 30);
    assert_eq!(reports.len(), 30, "after {lasted:?}");
    reports.sort_by_key(|(id, _)| *id);
    for (index, (_, report)) in reports.iter().enumerate() {
        let wanted = if index % 4 < 3 { "486" } else { "nothing listens" };
        assert!(report.text.contains(wanted), "{index}: {}", report.text);
    }
    peers.into_iter().for_each(|peer| drop(peer.end()));
}

#[test]
fn an_interrupted_one_ends_soon_and_knows_nothing() {
    let peer = Peer::new(Manner::Silent);
    let mut runner = Runner::new();
    runner.start(call(peer.address, Transport::Udp, ms(2_000))).expect("loopback is there");
    assert!(runner.turn(ms(50)).is_empty());
    runner.interrupt_all();
    let (reports, lasted) = wait_for(&mut runner, 1);
    assert!(lasted < ms(1_000), "its reserve is half a second, and it took {lasted:?}");
    assert!(reports.iter().all(|(_, report)| report.state == State::Unknown) && reports.len() == 1);
    peer.end();
}

#[test]
fn what_keeps_a_probe_from_starting_is_told_with_what_to_do() {
    let taken = bound().local_addr().expect("it is bound");
    let held = UdpSocket::bind(taken).expect("it was free a moment ago");
    let proxy = SocketAddr::from(([127, 0, 0, 1], 5060));
    let here = IpAddr::from([127, 0, 0, 1]);
    let plain = || call(proxy, Transport::Udp, ms(400));
    let secure = |trust| Job { trust, ..call(proxy, Transport::Tls, ms(400)) };
    let cases = [
        (Job { local: Some((here, Some(taken.port()))), ..plain() }, "ss -ulpn"),
        // TEST-NET-1 is nobody's.
        (Job { local: Some((IpAddr::from([192, 0, 2, 1]), None)), ..plain() }, "ip address"),
        (Job { local: Some((IpAddr::V6(Ipv6Addr::LOCALHOST), None)), ..plain() }, "addresses of one kind"),
        (secure(Trust::File(PathBuf::from("/nowhere/ca.pem"))), "/nowhere/ca.pem"),
        (Job { server_name: Some("no name".to_owned()), ..secure(Trust::Off) }, "no name"),
        (
            Job {
                plan: Plan { registrar: Some(taken), ..secure(Trust::Off).plan },
                registrar_name: Some("no registrar".to_owned()),
                ..secure(Trust::Off)
            },
            "no registrar",
        ),
    ];
    let mut runner = Runner::new();
    for (job, wanted) in cases {
        let text = runner.start(job).expect_err(wanted).to_string();
        assert!(text.contains(wanted), "{text}");
        assert_eq!(runner.running(), 0);
    }
    drop(held);
}

#[test]
fn no_more_are_run_than_there_is_room_for() {
    let peer = bound();
    let proxy = peer.local_addr().expect("it is bound");
    let mut runner = Runner::new();
    for _ in 0..MOST_AT_ONCE {
        runner.start(call(proxy, Transport::Udp, ms(2_000))).expect("there is room");
    }
    let refused = runner.start(call(proxy, Transport::Udp, ms(2_000)));
    assert_eq!(refused, Err(StartError::TooMany { running: MOST_AT_ONCE }));
}

#[test]
fn whoever_was_reported_makes_room() {
    let peer = bound();
    let proxy = peer.local_addr().expect("it is bound");
    let mut runner = Runner::new();
    let lingering = |limit| Job { linger: Linger::Stay, ..call(proxy, Transport::Udp, limit) };
    let first = runner.start(lingering(ms(400))).expect("there is room");
    for _ in 1..MOST_AT_ONCE {
        runner.start(lingering(ms(30_000))).expect("there is room");
    }
    let end = std::time::Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while told.is_empty() && std::time::Instant::now() < end {
        told = runner.turn(ms(50)).into_iter().map(|(id, _)| id).collect();
    }
    assert_eq!((told, runner.running()), (vec![first], MOST_AT_ONCE), "it clears up still");
    assert!(runner.start(lingering(ms(400))).is_ok());
    assert_eq!(runner.running(), MOST_AT_ONCE);
    assert!(matches!(runner.start(lingering(ms(400))), Err(StartError::TooMany { .. })), "nobody else was told");
}

#[test]
fn waits_are_rounded_up() {
    assert_eq!(milliseconds(Duration::ZERO), PollTimeout::ZERO);
    assert_eq!(milliseconds(Duration::from_micros(1)), PollTimeout::from(1_u8));
    assert_eq!(milliseconds(Duration::MAX), PollTimeout::MAX);
}

/// No test takes longer.
const PATIENCE: Duration = Duration::from_secs(4);
