//! The boxes that are looked after: a thread that answers for all of them, and one that sends back what it hears.
//!
//! One socket stands for all addresses. Which box is asked stands in the Request-URI; that all answers come from one address is
//! no matter to whoever knows them by their branch.

use crate::bench::GENERATOR_CORE;
use crate::bench::pinned::Pinned;
use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Boxes at the addresses of [`address`]. They are gone when it is dropped.
pub(super) struct FarEnd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What came up to now.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Heard {
    /// OPTIONS that were answered.
    pub(super) options: u64,
    /// Calls that were answered, and those of them that were hung up.
    pub(super) calls: u64,
    pub(super) ended: u64,
    /// Packets of audio that were sent back.
    pub(super) packets: u64,
}

#[derive(Default)]
struct Shared {
    dead: Vec<AtomicBool>,
    options: AtomicU64,
    calls: AtomicU64,
    ended: AtomicU64,
    packets: AtomicU64,
    stop: AtomicBool,
}

/// The address of a box; each has its own.
pub(super) fn address(index: usize) -> SocketAddr {
    let (high, low) = (index / A_BLOCK, index % A_BLOCK + 1);
    let octet = |number: usize| u8::try_from(number).expect("there are a few thousand boxes at most");
    SocketAddr::from((Ipv4Addr::new(127, 1, octet(high), octet(low)), PORT))
}

impl FarEnd {
    /// Starts so many boxes on the core of the generator.
    pub(super) fn start(boxes: usize) -> Result<Self> {
        // Threads inherit where they may run.
        let _pinned = Pinned::to(GENERATOR_CORE)?;
        let dead = (0..boxes).map(|_| AtomicBool::new(false)).collect();
        let shared = Arc::new(Shared { dead, ..Shared::default() });
        let mut far = Self { shared, threads: Vec::new() };
        let signalling = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))?;
        let audio = open(AUDIO)?;
        far.run("boxes", signalling, answer_all)?;
        far.run("echo", audio, echo_all)?;
        Ok(far)
    }

    /// From now on this box says nothing.
    pub(super) fn kill(&self, index: usize) {
        if let Some(dead) = self.shared.dead.get(index) {
            dead.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn heard(&self) -> Heard {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let shared = &self.shared;
        Heard {
            options: read(&shared.options),
            calls: read(&shared.calls),
            ended: read(&shared.ended),
            packets: read(&shared.packets),
        }
    }

    fn run(&mut self, name: &str, socket: UdpSocket, body: fn(&UdpSocket, &Shared)) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name(name.to_string()).spawn(move || body(&socket, &shared));
        self.threads.push(thread.context("cannot start a thread for the boxes")?);
        Ok(())
    }
}

impl Heard {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            options: self.options - earlier.options,
            calls: self.calls - earlier.calls,
            ended: self.ended - earlier.ended,
            packets: self.packets - earlier.packets,
        }
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in it has been told already.
            let _ = thread.join();
        }
    }
}

fn open(at: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at).with_context(|| format!("the address {at} of the boxes is taken"))?;
    socket.set_read_timeout(Some(LOOK_EVERY)).context("a socket without a timeout")?;
    Ok(socket)
}

fn answer_all(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4_096];
    while !shared.stop.load(Ordering::Relaxed) {
        let Some((request, from)) = receive(socket, &mut buffer) else { continue };
        let request = String::from_utf8_lossy(request);
        let Some(asked) = Asked::read(&request) else { continue };
        if shared.dead.get(asked.index).is_none_or(|dead| dead.load(Ordering::Relaxed)) {
            continue;
        }
        let counter = match asked.method {
            "OPTIONS" => &shared.options,
            "INVITE" => &shared.calls,
            "BYE" => &shared.ended,
            // ACK has no answer, and nothing else is asked of boxes that answer at once.
            _ => continue,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // Who asked may be gone.
        let _ = socket.send_to(asked.answer().as_bytes(), from);
    }
}

fn echo_all(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4_096];
    while !shared.stop.load(Ordering::Relaxed) {
        let Some((packet, from)) = receive(socket, &mut buffer) else { continue };
        if socket.send_to(packet, from).is_ok() {
            shared.packets.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// `None`: nothing came for a while, or the network returned something.
fn receive<'a>(socket: &UdpSocket, buffer: &'a mut [u8]) -> Option<(&'a [u8], SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok((length, from)) => buffer.get(..length).map(|datagram| (datagram, from)),
        Err(error) => {
            // Other errors come at once, and would be asked for again at once.
            if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused) {
                std::thread::sleep(LOOK_EVERY);
            }
            None
        }
    }
}

/// A request to one of the boxes.
struct Asked<'a> {
    method: &'a str,
    index: usize,
    head: &'a str,
}

impl<'a> Asked<'a> {
    /// `None`: a response, or a request to nobody here.
    fn read(text: &'a str) -> Option<Self> {
        let (head, _) = text.split_once("\r\n\r\n")?;
        let mut words = head.split(' ');
        let (method, uri) = (words.next()?, words.next()?);
        let place = uri.strip_prefix("sip:")?;
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        let host = place.split([':', ';']).next()?;
        let address: Ipv4Addr = host.parse().ok()?;
        let [127, 1, high, low] = address.octets() else { return None };
        let index = usize::from(high) * A_BLOCK + usize::from(low).checked_sub(1)?;
        Some(Self { method, index, head })
    }

    /// 200 with all that must be repeated (RFC 3261 §8.2.6), and with audio to a call.
    fn answer(&self) -> String {
        let mut answer = String::from("SIP/2.0 200 OK\r\n");
        for line in self.head.lines() {
            let name = line.split(':').next().unwrap_or_default().trim().to_ascii_lowercase();
            if !REPEATED.contains(&name.as_str()) {
                continue;
            }
            answer.push_str(line);
            if matches!(name.as_str(), "to" | "t") && !line.contains(";tag=") {
                answer.push_str(";tag=box");
            }
            answer.push_str("\r\n");
        }
        let body = if self.method == "INVITE" { session() } else { String::new() };
        if !body.is_empty() {
            answer.push_str(&format!("Contact: <sip:clyde@{}>\r\n", address(self.index)));
            answer.push_str("Content-Type: application/sdp\r\n");
        }
        answer.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        answer
    }
}

/// All boxes hear at one address.
fn session() -> String {
    let (host, port) = (AUDIO.ip(), AUDIO.port());
    format!(
        "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\n"
    )
}

const PORT: u16 = 5080;
const AUDIO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), 6_000);
/// Addresses with the same third octet.
const A_BLOCK: usize = 250;
/// Headers of a request that stand in its answers too, in both of their forms.
const REPEATED: [&str; 9] = ["via", "v", "from", "f", "to", "t", "call-id", "i", "cseq"];
/// How late the end is noticed at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, uri: &str, to: &str) -> String {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKa\r\nMax-Forwards: 70\r\n\
             From: <sip:ping@127.0.0.1>;tag=1\r\nTo: {to}\r\nCall-ID: a@tandem\r\nCSeq: 1 {method}\r\n\
             Content-Length: 0\r\n\r\n"
        )
    }

    #[test]
    fn every_box_has_its_own_address_and_is_known_by_it() {
        for (index, expected) in
            [(0, "127.1.0.1:5080"), (249, "127.1.0.250:5080"), (250, "127.1.1.1:5080"), (999, "127.1.3.250:5080")]
        {
            assert_eq!(address(index).to_string(), expected);
            for uri in [format!("sip:{expected}"), format!("sip:clyde@{expected}"), format!("sip:{expected};x=y")] {
                let text = request("OPTIONS", &uri, "<sip:a>");
                let asked = Asked::read(&text).expect("it is one of the boxes");
                assert_eq!((asked.method, asked.index), ("OPTIONS", index), "{uri}");
            }
        }
        for other in ["sip:127.0.0.1:5080", "sip:clyde@pbx.example.com", "tel:+4930", "sip:127.1.0.0"] {
            assert!(Asked::read(&request("INVITE", other, "<sip:a>")).is_none(), "{other}");
        }
        assert!(Asked::read("SIP/2.0 200 OK\r\n\r\n").is_none() && Asked::read("").is_none());
    }

    #[test]
    fn answers_repeat_what_they_must_and_no_more() {
        let text = request("OPTIONS", "sip:127.1.0.1:5080", "<sip:127.1.0.1>");
        let answer = Asked::read(&text).expect("it is one of the boxes").answer();
        assert!(
            answer.starts_with("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKa\r\nFrom: "),
            "{answer}"
        );
        assert!(answer.contains("\r\nTo: <sip:127.1.0.1>;tag=box\r\n") && !answer.contains("Max-Forwards"), "{answer}");
        assert!(answer.ends_with("CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"), "{answer}");
        let text = request("BYE", "sip:clyde@127.1.0.1:5080", "<sip:clyde@127.1.0.1>;tag=box");
        let answer = Asked::read(&text).expect("it is one of the boxes").answer();
        assert_eq!(answer.matches(";tag=box").count(), 1, "{answer}");
    }

    #[test]
    fn calls_are_answered_with_audio() {
        let text = request("INVITE", "sip:clyde@127.1.0.7:5080", "<sip:clyde@127.1.0.7>");
        let answer = Asked::read(&text).expect("it is one of the boxes").answer();
        assert!(answer.contains("\r\nContact: <sip:clyde@127.1.0.7:5080>\r\n"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("there is a body");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        assert!(body.contains("c=IN IP4 127.0.0.3\r\n") && body.contains("m=audio 6000 RTP/AVP 0\r\n"), "{body}");
    }
}
