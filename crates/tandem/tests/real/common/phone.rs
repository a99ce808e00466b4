//! A phone of ours in a thread of its own: registers, calls, answers, and speaks PCMU both ways.

use net::Clock;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use ua::{Account, Answering, CallId, Event, Output, UserAgent};

/// A running phone. Hangs up and stops when dropped.
pub struct Phone {
    orders: Sender<Order>,
    events: Receiver<Event>,
    heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Register,
    Call { target: String, headers: String },
    HangUp,
}

impl Phone {
    /// `user` at `host`:5060, audio at port 4000, everything through `proxy`; rings after `ring_after` and answers 300 ms later.
    pub fn start(user: &str, password: &str, host: &str, proxy: &str, ring_after: Duration) -> Self {
        let proxy: SocketAddr = proxy.parse().expect("an address and a port");
        let contact: SocketAddr = format!("{host}:5060").parse().expect("an address");
        let media: SocketAddr = format!("{host}:4000").parse().expect("an address");
        let account = Account {
            user: user.to_owned(),
            domain: proxy.ip().to_string(),
            display: String::new(),
            password: password.to_owned(),
            proxy,
            contact,
            expires: 300,
        };
        let mut agent = UserAgent::new(account, Clock::now().as_micros());
        agent.set_answering(Answering {
            ring_after,
            answer_after: Some(ring_after + Duration::from_millis(300)),
            code: 200,
            hang_up_after: None,
            media,
        });
        let (orders, received) = channel();
        let (told, events) = channel();
        let heard = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut line = Line {
            agent,
            signalling: open(contact),
            audio: open(media),
            media,
            call: None,
            speak_to: None,
            sequence: 0,
            orders: received,
            told,
            heard: Arc::clone(&heard),
            stop: Arc::clone(&stop),
        };
        let thread = std::thread::spawn(move || line.run());
        Self { orders, events, heard, stop, thread: Some(thread) }
    }

    /// Registers and waits until that is done.
    ///
    /// # Panics
    /// If it fails.
    pub fn register(&self) {
        self.order(Order::Register);
        self.wait("registration", |event| match event {
            Event::RegisterFailed { code } => panic!("REGISTER failed with {code}"),
            event => matches!(event, Event::Registered { .. }),
        });
    }

    pub fn call(&self, target: &str) {
        self.call_with(target, "");
    }

    /// With further header lines in the INVITE.
    pub fn call_with(&self, target: &str, headers: &str) {
        self.order(Order::Call { target: target.to_owned(), headers: headers.to_owned() });
    }

    /// Ends the call.
    pub fn hang_up(&self) {
        self.order(Order::HangUp);
    }

    /// The next event that `wanted` accepts.
    ///
    /// # Panics
    /// If none comes within ten seconds; names those that came.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + Duration::from_secs(10);
        let mut others = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if wanted(&event) => return event,
                Ok(event) => others.push(event),
                Err(_) => panic!("no {what}, but {others:?}"),
            }
        }
    }

    /// Packets of audio that came.
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the phone's thread ends with the phone");
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            // A second panic while the test fails already would hide the first.
            assert!(ended.is_ok() || std::thread::panicking(), "the phone's thread panicked");
        }
    }
}

/// What the thread owns.
struct Line {
    agent: UserAgent,
    signalling: UdpSocket,
    audio: UdpSocket,
    media: SocketAddr,
    call: Option<CallId>,
    speak_to: Option<SocketAddr>,
    sequence: u16,
    orders: Receiver<Order>,
    told: Sender<Event>,
    heard: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Line {
    fn run(&mut self) {
        let mut buffer = vec![0; 65_536];
        let mut speak_at = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            while let Ok(order) = self.orders.try_recv() {
                self.obey(order);
                self.drain();
            }
            while let Ok((length, from)) = self.signalling.recv_from(&mut buffer) {
                self.agent.handle_datagram(Clock::now(), from, &buffer[..length]);
                self.drain();
            }
            while let Ok((length, _)) = self.audio.recv_from(&mut buffer) {
                // A whole packet of RTP: version 2, and some audio.
                let is_audio = length > 12 && buffer[0] & 0xc0 == 0x80;
                self.heard.fetch_add(u64::from(is_audio), Ordering::Relaxed);
            }
            self.agent.handle_timeout(Clock::now());
            self.drain();
            if Instant::now() >= speak_at {
                speak_at += Duration::from_millis(20);
                self.speak();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn obey(&mut self, order: Order) {
        let now = Clock::now();
        match order {
            Order::Register => self.agent.register(now),
            Order::Call { target, headers } => {
                self.call = Some(self.agent.call_with(now, &target, self.media, &headers));
            }
            Order::HangUp => {
                if let Some(call) = self.call {
                    self.agent.hang_up(now, call);
                }
            }
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Send { to, bytes } => {
                    // Whoever is gone does not get it, as on any network.
                    let _ = self.signalling.send_to(&bytes, to);
                }
                Output::Event(event) => self.note(event),
            }
        }
    }

    fn note(&mut self, event: Event) {
        match &event {
            Event::Incoming { call, .. } => self.call = Some(*call),
            Event::Answered { remote_media, .. } | Event::Confirmed { remote_media, .. } => {
                self.speak_to = *remote_media
            }
            Event::Ended { .. } | Event::Failed { .. } | Event::Cancelled { .. } => self.speak_to = None,
            _ => {}
        }
        // The test may have stopped listening.
        let _ = self.told.send(event);
    }

    /// 20 ms of silence in PCMU (RFC 3551).
    fn speak(&mut self) {
        let Some(to) = self.speak_to else { return };
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&(u32::from(self.sequence) * 160).to_be_bytes());
        packet.extend_from_slice(&7_u32.to_be_bytes());
        packet.resize(172, 0xff);
        let _ = self.audio.send_to(&packet, to);
    }
}

fn open(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.set_nonblocking(true).expect("a socket can always be asked");
    socket
}
