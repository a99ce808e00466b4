//! A phone of ours in a thread of its own: registers, calls, answers, and speaks PCMU both ways. And what two of them do together.

use super::carrier::{Carrier, Dress};
use super::holds_within;
use super::link::Link;
use net::Clock;
use std::net::{IpAddr, SocketAddr, UdpSocket};
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
    AnswerCalls,
    HangOn(Option<Link>),
}

/// Who ends a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Caller,
    Callee,
}

impl Phone {
    /// `user` at `host`:5060 (IPv6 in brackets), audio at port 4000, everything through `proxy`; rings after `ring_after` and answers
    /// 300 ms later.
    pub fn start(user: &str, password: &str, host: &str, proxy: &str, ring_after: Duration) -> Self {
        let carrier = Carrier::Datagrams(open(signalling_at(host)));
        Self::begin(user, password, host, proxy, carrier, ring_after, Some(ring_after + ANSWER_AFTER))
    }

    /// The same, but it signals over this connection, and rings at once.
    pub fn start_over(user: &str, password: &str, host: &str, proxy: &str, link: Link) -> Self {
        let dress = Dress::new(&link, user, signalling_at(host));
        let carrier = Carrier::Connection(Some(link), dress);
        Self::begin(user, password, host, proxy, carrier, Duration::ZERO, Some(ANSWER_AFTER))
    }

    /// The same, but it rings at once and for ever, until [`Phone::answer_calls`].
    pub fn start_ringing(user: &str, password: &str, host: &str, proxy: &str) -> Self {
        let carrier = Carrier::Datagrams(open(signalling_at(host)));
        Self::begin(user, password, host, proxy, carrier, Duration::ZERO, None)
    }

    fn begin(
        user: &str,
        password: &str,
        host: &str,
        proxy: &str,
        carrier: Carrier,
        ring_after: Duration,
        answer_after: Option<Duration>,
    ) -> Self {
        let proxy: SocketAddr = proxy.parse().expect("an address and a port");
        let contact = signalling_at(host);
        let media: SocketAddr = format!("{host}:4000").parse().expect("an address");
        let account = Account {
            user: user.to_owned(),
            domain: in_uri(proxy.ip()),
            display: String::new(),
            password: password.to_owned(),
            proxy,
            contact,
            expires: 300,
        };
        let mut agent = UserAgent::new(account, Clock::now().as_micros());
        let answering = Answering { ring_after, answer_after, code: 200, hang_up_after: None, media };
        agent.set_answering(answering);
        let (orders, received) = channel();
        let (told, events) = channel();
        let heard = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut line = Line {
            agent,
            answering,
            carrier,
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
        self.begin_registering();
        self.await_registration(PATIENCE);
    }

    /// The same, and it has to be told so many seconds.
    ///
    /// # Panics
    /// If it fails, or is told another time.
    pub fn register_for(&self, seconds: u32) {
        self.begin_registering();
        self.wait_within(PATIENCE, "registration", |event| match event {
            Event::RegisterFailed { code } => panic!("REGISTER failed with {code}"),
            Event::Registered { expires } => *expires == seconds || panic!("told {expires} s, not {seconds} s"),
            _ => false,
        });
    }

    /// Sends REGISTER, if none is under way, and returns at once.
    pub fn begin_registering(&self) {
        self.order(Order::Register);
    }

    /// # Panics
    /// If no REGISTER is accepted within `limit`, or one fails.
    pub fn await_registration(&self, limit: Duration) {
        self.wait_within(limit, "registration", |event| match event {
            Event::RegisterFailed { code } => panic!("REGISTER failed with {code}"),
            event => matches!(event, Event::Registered { .. }),
        });
    }

    /// From now on calls that come in are answered as by other phones; what rings already goes on ringing.
    pub fn answer_calls(&self) {
        self.order(Order::AnswerCalls);
    }

    pub fn call(&self, target: &str) {
        self.call_with(target, "");
    }

    /// With further header lines in the INVITE.
    pub fn call_with(&self, target: &str, headers: &str) {
        self.order(Order::Call { target: target.to_owned(), headers: headers.to_owned() });
    }

    /// Closes the connection of a phone that signals over one, and goes on over this one, if any.
    pub fn hang_on(&self, link: Option<Link>) {
        self.order(Order::HangOn(link));
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
        self.wait_within(PATIENCE, what, wanted)
    }

    /// The same for what may take longer.
    pub fn wait_within(&self, limit: Duration, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + limit;
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

/// Calls `target`, which must make `callee` ring, and returns when the call is up on both sides.
pub fn connect(caller: &Phone, callee: &Phone, target: &str) {
    caller.call(target);
    callee.wait("incoming call", |event| matches!(event, Event::Incoming { .. }));
    caller.wait("ringing", |event| matches!(event, Event::Ringing { code: 180, .. }));
    caller.wait("answer", |event| matches!(event, Event::Answered { .. }));
    callee.wait("ACK", |event| matches!(event, Event::Confirmed { .. }));
}

/// Returns when both phones have heard each other for half a second more.
pub fn hear_each_other(one: &Phone, other: &Phone) {
    let before = (one.heard(), other.heard());
    let both = holds_within(Duration::from_secs(5), || one.heard() >= before.0 + 25 && other.heard() >= before.1 + 25);
    assert!(both, "audio: {} and {} packets before, {} and {} now", before.0, before.1, one.heard(), other.heard());
}

/// A call that is answered, heard on both sides for half a second, and ended.
pub fn talk(caller: &Phone, callee: &Phone, target: &str, end: End) {
    connect(caller, callee, target);
    hear_each_other(caller, callee);
    match end {
        End::Caller => end_call(caller, callee),
        End::Callee => end_call(callee, caller),
    }
}

/// `last` hangs up; returns when both know.
pub fn end_call(last: &Phone, other: &Phone) {
    last.hang_up();
    last.wait("answer to BYE", |event| matches!(event, Event::Ended { by_us: true, code: 200, .. }));
    other.wait("BYE", |event| matches!(event, Event::Ended { by_us: false, .. }));
}

/// What the thread owns.
struct Line {
    agent: UserAgent,
    answering: Answering,
    carrier: Carrier,
    audio: UdpSocket,
    media: SocketAddr,
    call: Option<CallId>,
    /// The call that is spoken in, and where to.
    speak_to: Option<(CallId, SocketAddr)>,
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
            while let Some((message, from)) = self.carrier.poll() {
                self.agent.handle_datagram(Clock::now(), from, &message);
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
            Order::AnswerCalls => {
                self.answering.answer_after = Some(self.answering.ring_after + ANSWER_AFTER);
                self.agent.set_answering(self.answering);
            }
            Order::HangOn(link) => self.carrier.hang_on(link),
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Send { to, bytes } => self.carrier.send(&bytes, to),
                Output::Event(event) => self.note(event),
            }
        }
    }

    fn note(&mut self, event: Event) {
        match &event {
            Event::Incoming { call, .. } => self.call = Some(*call),
            Event::Answered { call, remote_media } | Event::Confirmed { call, remote_media } => {
                self.speak_to = remote_media.map(|media| (*call, media));
            }
            // Another call may have rung beside it, and end later.
            Event::Ended { call, .. } | Event::Failed { call, .. } | Event::Cancelled { call } => {
                self.speak_to = self.speak_to.filter(|(spoken, _)| spoken != call);
            }
            _ => {}
        }
        // The test may have stopped listening.
        let _ = self.told.send(event);
    }

    /// 20 ms of silence in PCMU (RFC 3551).
    fn speak(&mut self) {
        let Some((_, to)) = self.speak_to else { return };
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&self.sequence.to_be_bytes());
        packet.extend_from_slice(&(u32::from(self.sequence) * 160).to_be_bytes());
        packet.extend_from_slice(&7_u32.to_be_bytes());
        packet.resize(172, 0xff);
        let _ = self.audio.send_to(&packet, to);
    }
}

/// The address as the host of a URI.
fn in_uri(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn signalling_at(host: &str) -> SocketAddr {
    format!("{host}:5060").parse().expect("an address")
}

fn open(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket.set_nonblocking(true).expect("a socket can always be asked");
    socket
}

/// How long a phone rings before it answers.
const ANSWER_AFTER: Duration = Duration::from_millis(300);
/// For what takes no time.
const PATIENCE: Duration = Duration::from_secs(10);
