//! A phone: a user agent, its line for signalling and its socket for audio, and the streams of its calls.

use super::certificate::Certificate;
use super::line::Line;
use super::pcap::Capture;
use super::places::Places;
use super::stream::{self, Stream};
use super::{DOMAIN, PEOPLE, Person};
use anyhow::{Context, Result};
use net::Clock;
use sip::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use ua::{Account, Answering, CallId, Event, Output, UserAgent};

/// A phone of one of the two people.
pub(super) struct Phone {
    agent: UserAgent,
    signalling: Line,
    audio: UdpSocket,
    media: SocketAddr,
    /// Where both phones hear: packets from there were captured when they were sent.
    captured: [SocketAddr; 2],
    streams: BTreeMap<CallId, Stream>,
    /// What this phone speaks: one second of μ-law.
    tone: Vec<u8>,
    events: VecDeque<Event>,
    capture: Option<Arc<Capture>>,
    buffer: Vec<u8>,
}

/// Both phones, in the order of `PEOPLE`, not yet registered.
pub(super) fn open_both(
    places: &Places,
    certificate: &Certificate,
    capture: Option<&Arc<Capture>>,
) -> Result<[Phone; 2]> {
    let [bonnie, clyde] = &PEOPLE;
    let [first, second] = places.phones;
    let [first_media, second_media] = places.media;
    Ok([
        Phone::open(bonnie, line_of(bonnie, first, places, certificate)?, first_media, places, capture.cloned())?,
        Phone::open(clyde, line_of(clyde, second, places, certificate)?, second_media, places, capture.cloned())?,
    ])
}

impl Phone {
    fn open(
        person: &Person,
        signalling: Line,
        media: SocketAddr,
        places: &Places,
        capture: Option<Arc<Capture>>,
    ) -> Result<Self> {
        let account = Account {
            user: person.user.to_owned(),
            domain: DOMAIN.to_owned(),
            display: person.display.to_owned(),
            password: person.password.to_owned(),
            proxy: if person.is_over_tls { places.farm_tls } else { places.farm },
            contact: signalling.local()?,
            expires: 60,
        };
        let mut agent = UserAgent::new(account, Clock::now().as_micros());
        if person.is_over_tls {
            agent.speak(ua::Carrier::Tls);
        }
        agent.set_answering(Answering {
            ring_after: Duration::ZERO,
            answer_after: Some(RINGING),
            code: 200,
            hang_up_after: None,
            media,
        });
        Ok(Self {
            agent,
            signalling,
            audio: open(media)?,
            media,
            captured: places.media,
            streams: BTreeMap::new(),
            tone: stream::tone(person.hertz),
            events: VecDeque::new(),
            capture,
            buffer: vec![0; 65_535],
        })
    }

    /// To be waited for; [`turn`](Self::turn) reads them.
    pub(super) fn sockets(&self) -> [BorrowedFd<'_>; 2] {
        [self.signalling.as_fd(), self.audio.as_fd()]
    }

    /// "TLS 1.3", or nothing for a phone that speaks by datagrams.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        self.signalling.tls_version()
    }

    pub(super) fn register(&mut self, now: Instant) {
        self.agent.register(now);
        self.drain(now);
    }

    pub(super) fn unregister(&mut self, now: Instant) {
        self.agent.unregister(now);
        self.drain(now);
    }

    pub(super) fn is_registered(&self) -> bool {
        self.agent.registered()
    }

    pub(super) fn call(&mut self, now: Instant, target: &str) -> CallId {
        let call = self.agent.call(now, target, self.media);
        let stream = self.new_stream(call, None);
        self.streams.insert(call, stream);
        self.drain(now);
        call
    }

    pub(super) fn hang_up(&mut self, now: Instant, call: CallId) {
        self.agent.hang_up(now, call);
        self.drain(now);
    }

    /// Speaks no more in this call.
    pub(super) fn mute(&mut self, call: CallId) {
        if let Some(stream) = self.streams.get_mut(&call) {
            stream.mute();
        }
    }

    /// What was sent and heard in a call that is over.
    pub(super) fn take_stream(&mut self, now: Instant, call: CallId) -> Option<Stream> {
        // What was spoken before the hanging up may still wait in the socket.
        self.listen(now);
        self.streams.remove(&call)
    }

    /// What happened, oldest first.
    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`turn`](Self::turn) has something to do, besides reading sockets.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let audio = self.streams.values().filter_map(Stream::deadline).min();
        [self.agent.poll_timeout(), audio].into_iter().flatten().min()
    }

    /// Reads what has come and does what is due.
    pub(super) fn turn(&mut self, now: Instant) {
        // A bound, so that a flood from elsewhere cannot keep us here.
        for _ in 0..DATAGRAMS_A_TURN {
            let Some((from, bytes)) = self.signalling.receive(&mut self.buffer) else {
                break;
            };
            self.agent.handle_datagram(now, from, &bytes);
        }
        if self.agent.poll_timeout().is_some_and(|due| due <= now) {
            self.agent.handle_timeout(now);
        }
        self.drain(now);
        self.listen(now);
        self.speak(now);
    }

    fn listen(&mut self, now: Instant) {
        for _ in 0..DATAGRAMS_A_TURN {
            let Ok((length, from)) = self.audio.recv_from(&mut self.buffer) else {
                break;
            };
            let bytes = self.buffer.get(..length).unwrap_or_default();
            if let Some(capture) = &self.capture
                && !self.captured.contains(&from)
            {
                capture.write(from, self.media, bytes);
            }
            if let Some(call) = self.call_of(from)
                && let Some(stream) = self.streams.get_mut(&call)
            {
                stream.on_datagram(now, bytes);
            }
        }
    }

    /// The call that audio from this address belongs to. The newest one first: an older one with the same peer lost its PBX.
    fn call_of(&self, from: SocketAddr) -> Option<CallId> {
        let newest = |matches: &dyn Fn(SocketAddr) -> bool| {
            let mut calls = self.streams.iter().rev();
            calls.find(|(_, stream)| stream.remote.is_some_and(matches)).map(|(call, _)| *call)
        };
        newest(&|remote| remote == from)
            .or_else(|| {
                // A softphone may send from another port than it names.
                let foreign = |address: SocketAddr| !self.captured.contains(&address);
                newest(&|remote| foreign(from) && foreign(remote))
            })
            // A PBX may confirm the call before its answer reaches us: then the first words come from somebody not named yet.
            .or_else(|| {
                let mut calls = self.streams.iter().rev();
                calls.find(|(_, stream)| stream.remote.is_none()).map(|(call, _)| *call)
            })
    }

    fn speak(&mut self, now: Instant) {
        for stream in self.streams.values_mut() {
            while let Some((to, bytes)) = stream.poll_packet(now, &self.tone) {
                if let Some(capture) = &self.capture {
                    capture.write(self.media, to, &bytes);
                }
                // What cannot be sent is missed, and counted, by the other side.
                let _sent = self.audio.send_to(&bytes, to);
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Send { to, bytes } => self.signalling.send(to, &bytes),
                Output::Event(event) => {
                    self.follow(now, &event);
                    self.events.push_back(event);
                }
            }
        }
    }

    /// Lets the audio follow what happens to the call.
    fn follow(&mut self, now: Instant, event: &Event) {
        match event {
            Event::Incoming { call, .. } => {
                let remote = self.agent.remote_media(*call);
                let stream = self.new_stream(*call, remote);
                self.streams.insert(*call, stream);
            }
            Event::Answered { call, remote_media } | Event::Confirmed { call, remote_media } => {
                if let Some(stream) = self.streams.get_mut(call) {
                    stream.remote = *remote_media;
                    stream.speak(now);
                }
            }
            Event::Reinvited { call, .. } => {
                let remote = self.agent.remote_media(*call);
                if let Some(stream) = self.streams.get_mut(call) {
                    stream.remote = remote;
                }
            }
            Event::Ended { call, .. } | Event::Failed { call, .. } | Event::Cancelled { call } => self.mute(*call),
            Event::Registered { .. } | Event::RegisterFailed { .. } | Event::Unregistered | Event::Ringing { .. } => {}
        }
    }

    fn new_stream(&self, call: CallId, remote: Option<SocketAddr>) -> Stream {
        // Different for the two phones and for each call, which is all that a source identifier is for.
        let [.., last] = match self.media {
            SocketAddr::V4(media) => media.ip().octets(),
            SocketAddr::V6(_) => [0; 4],
        };
        Stream::new((u32::from(last) << 24) | (call.0 as u32 & 0x00ff_ffff), remote)
    }
}

fn line_of(person: &Person, place: SocketAddr, places: &Places, certificate: &Certificate) -> Result<Line> {
    if person.is_over_tls {
        Line::over_tls(place.ip(), places.farm_tls, certificate)
    } else {
        Line::by_datagrams(place)
    }
}

fn open(address: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen at udp:{address}"))?;
    socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
    Ok(socket)
}

/// How long the phones ring before they answer.
const RINGING: Duration = Duration::from_millis(300);
const DATAGRAMS_A_TURN: usize = 64;
