//! A phone in a web page: JsSIP in Debian's Chromium registers over wss through the farm, calls, and is called. The box behind it
//! is played by hand, with descriptions that a browser accepts. Only the signalling is judged: no audio flows.

use crate::common::certificates::Authority;
use crate::common::wire::{Call, Station, Taken, request_of};
use crate::common::{Process, Unit, holds_within, namespace, peer};
use sip::message::{Limits, parse};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// The side of the farm that the box sees; the page knows the other one.
const UNIT: &str = "127.0.0.20:5060";
const BOX: &str = "127.0.0.31:5060";
/// Where the page comes from.
const PAGE: &str = "127.0.0.1:8000";
/// A browser that was never started before takes its time.
const STARTING: Duration = Duration::from_secs(60);
/// Whatever asks for a microphone or gathers addresses.
const SLOW: Duration = Duration::from_secs(20);

#[test]
fn a_browser_registers_calls_and_is_called() {
    if peer("chromium").is_none() || !namespace() {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let unit = Unit::start(&config(folder.path()));
    let server = Station::at(BOX);
    let page = Page::serve();
    let program = peer("chromium").expect("the test asked for it");
    let _browser = browser(&program, unit.folder());
    page.expect("connected", STARTING);
    let contact = register(&server);
    page.expect("registered", SLOW);
    assert_eq!(unit.registrations(), Some(1), "{}", unit.said());

    page.expect("out sending", SLOW);
    take_call_and_hang_up(&server, &page);
    call_and_be_hung_up(&server, &page, &contact);

    let (leaving, from) = server.expect("REGISTER that removes the binding", |taken| {
        taken.start.starts_with(b"REGISTER ")
            && taken.text("contact").is_some_and(|contact| contact.contains("expires=0"))
    });
    server.answer(&leaving, "200 OK", from);
    page.expect("unregistered", SLOW);
    let gone = holds_within(Duration::from_secs(5), || unit.registrations() == Some(0));
    assert!(gone, "{:?}", unit.registrations());
}

/// The box asks for the password once; gives the Contact as the box sees it.
fn register(server: &Station) -> String {
    let (first, from) = server.request("REGISTER");
    let vias = first.texts("via");
    let (ours, browsers) = (vias.first().expect("it came by the farm"), vias.last().expect("it came by the farm"));
    assert!(ours.starts_with(&format!("SIP/2.0/UDP {UNIT};")), "{vias:?}");
    // RFC 7118 §5: a browser has no address to name.
    assert!(browsers.starts_with("SIP/2.0/WSS ") && browsers.contains(".invalid"), "{vias:?}");
    assert_eq!(first.text("x-tandem-origin").as_deref(), Some("client"));
    let challenge =
        "WWW-Authenticate: Digest realm=\"example.com\", nonce=\"0123456789abcdef\", algorithm=MD5, qop=\"auth\"\r\n";
    server.send(first.response("401 Unauthorized", challenge, b""), &from.to_string());
    let (second, from) = server.expect("REGISTER with credentials", |taken| {
        taken.start.starts_with(b"REGISTER ") && taken.text("authorization").is_some()
    });
    assert_proven(&second);
    let contact = second.uri("contact");
    assert!(contact.contains(&format!("@{UNIT};tdm=")), "leads back to the farm: {contact}");
    let bound = format!("Contact: <{contact}>;expires=300\r\n");
    server.send(second.response("200 OK", &bound, b""), &from.to_string());
    contact
}

/// The browser's digest is that of the password, over all that it is taken of: nothing of that was changed on the way.
fn assert_proven(register: &Taken) {
    let limits = Limits::default();
    let message = parse(&register.bytes, &limits).expect("the farm forwards what can be read");
    let credentials = message.credentials().next().expect("they were asked for");
    let nonce = credentials.nonce().expect("it was given");
    assert_eq!(credentials.realm(), Some(&b"example.com"[..]));
    assert!(sip::digest::verify(&credentials, b"REGISTER", b"example.com", nonce, "secret"), "{register:?}");
}

/// The browser calls; the box rings, answers, and hangs up.
fn take_call_and_hang_up(server: &Station, page: &Page) {
    let (invite, from) = server.request("INVITE");
    let offer = String::from_utf8_lossy(&invite.body).into_owned();
    for part in ["UDP/TLS/RTP/SAVPF", "a=fingerprint:sha-256 ", "a=ice-ufrag:"] {
        assert!(offer.contains(part), "{part:?} is not in\n{offer}");
    }
    let contact = format!("Contact: <sip:clyde@{BOX}>\r\n");
    server.send(invite.response("180 Ringing", &contact, b""), &from.to_string());
    page.expect("out progress", SLOW);
    let lines = format!("{contact}Content-Type: application/sdp\r\n");
    server.send(invite.response("200 OK", &lines, description("passive").as_bytes()), &from.to_string());
    server.request("ACK");
    page.expect("out accepted", SLOW);
    page.expect("out confirmed", SLOW);
    server.send(Call::taken(&invite).by_callee("BYE", 1, server.address, ""), UNIT);
    let answer = server.final_answer();
    assert_eq!(answer.code(), Some(200), "{}", answer.first_line());
    page.expect("out ended by remote", SLOW);
}

/// The box calls the browser by the Contact of its registration; the browser rings, answers, and hangs up.
fn call_and_be_hung_up(server: &Station, page: &Page, contact: &str) {
    let body = description("actpass");
    server.send(request_of("clyde", "bonnie", "INVITE", contact, server.address, "to-browser", 1, "", &body), UNIT);
    server.expect("180", |taken| taken.code() == Some(180));
    page.expect("in new", SLOW);
    page.expect("in accepted", SLOW);
    let answer = server.final_answer();
    assert_eq!(answer.code(), Some(200), "{}", answer.first_line());
    assert!(String::from_utf8_lossy(&answer.body).contains("UDP/TLS/RTP/SAVPF"), "{answer:?}");
    server.send(Call::answered(&answer).by_caller("ACK", 1, server.address, ""), UNIT);
    page.expect("in confirmed", SLOW);
    let (bye, from) = server.request("BYE");
    assert_eq!(bye.text("call-id").as_deref(), Some("to-browser"));
    server.answer(&bye, "200 OK", from);
    page.expect("in ended by local", SLOW);
}

/// One audio stream as a browser takes it: DTLS-SRTP and ICE (RFC 8829), with keys that nobody has.
fn description(setup: &str) -> String {
    let fingerprint = ["A5"; 32].join(":");
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.31\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
         c=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:fbox\r\na=ice-pwd:0123456789abcdefghijklmn\r\n\
         a=fingerprint:sha-256 {fingerprint}\r\na=setup:{setup}\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\n\
         a=rtpmap:0 PCMU/8000\r\n"
    )
}

/// Only pages of ours may come in. Without pings the box hears nothing but what the browser says.
fn config(folder: &Path) -> String {
    let certificate = Authority::new("nobody").issue_file(folder, "farm.pem", &["127.0.0.20"]);
    format!(
        "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:{UNIT}\", \"wss:127.0.0.20:8443\"]\ndomains = [\"example.com\"]\n\
         certificates = [\"{certificate}\"]\norigins = [\"http://{PAGE}\"]\n\
         [[farm.service]]\nname = \"default\"\nguardians = []\n\
         [[farm.backend]]\nname = \"a\"\naddress = \"{BOX}\"\n"
    )
}

/// Shows the page and runs until it is dropped. The certificate is nobody's, and microphone and consent are made up.
fn browser(program: &Path, folder: &Path) -> Process {
    let profile = format!("--user-data-dir={}", folder.join("profile").display());
    Process::start(
        Command::new(program)
            // What it keeps besides its profile, and looks for at a desktop.
            .env("HOME", folder)
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .args(["--headless=new", "--no-sandbox", "--no-zygote", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--mute-audio"])
            .args(["--allow-loopback-in-peer-connection", "--disable-features=WebRtcHideLocalIpsWithMdns"])
            .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
            .arg(profile)
            .arg(format!("http://{PAGE}/")),
        "chromium",
        folder,
    )
}

/// Serves the page, and takes what it tells.
struct Page {
    told: Receiver<String>,
}

impl Page {
    fn serve() -> Self {
        let listener = TcpListener::bind(PAGE).expect("every port of the namespace is free");
        let (teller, told) = channel();
        // Ends with the test's process, which is there for this test alone.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let teller = teller.clone();
                // Each in a thread of its own: browsers open connections ahead, and may never use them.
                std::thread::spawn(move || serve(stream, &teller));
            }
        });
        Self { told }
    }

    /// Waits until the page tells this, past all else that it tells.
    fn expect(&self, wanted: &str, limit: Duration) {
        let end = Instant::now() + limit;
        let mut others = Vec::new();
        loop {
            match self.told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(told) if told == wanted => return,
                Ok(told) => others.push(told),
                Err(_) => panic!("the page does not tell {wanted:?}, but {others:?}"),
            }
        }
    }
}

/// One request over HTTP. `None`: the connection ended early, which browsers do.
fn serve(mut stream: TcpStream, teller: &Sender<String>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = request.split(' ');
    let (status, kind, content) = match (words.next()?, words.next()?) {
        ("GET", "/") => ("200 OK", "text/html", PHONE),
        ("GET", "/jssip.min.js") => ("200 OK", "text/javascript", JSSIP),
        ("POST", "/told") => {
            teller.send(String::from_utf8_lossy(&body).into_owned()).ok()?;
            ("204 No Content", "text/plain", "")
        }
        _ => ("404 Not Found", "text/plain", ""),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        content.len()
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(content.as_bytes())).ok()
}

const PHONE: &str = include_str!("data/webrtc/phone.html");
/// Release 3.10.10; its licence stands beside it.
const JSSIP: &str = include_str!("data/webrtc/jssip.min.js");
