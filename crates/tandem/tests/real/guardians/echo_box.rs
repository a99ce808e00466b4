//! A box of ours: it registers whoever asks, takes every call, sends the audio back as it is told to, and knows what was left
//! behind.

use crate::common::wire::{Station, Taken, offer};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What comes back of the audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Echo {
    Whole,
    /// Every second packet.
    Half,
    /// So many packets of each call.
    First(u64),
    Nothing,
}

/// What the box knows.
#[derive(Clone, Default, Debug)]
pub(super) struct Known {
    /// INVITEs and REGISTERs that were answered.
    pub(super) calls: u64,
    pub(super) registrations: u64,
    /// Users with a binding.
    pub(super) bound: BTreeSet<String>,
    /// Call-IDs of calls that nobody has hung up.
    pub(super) up: BTreeSet<String>,
    /// Packets of audio that came.
    pub(super) packets: u64,
}

/// A running box. Stops when dropped, and its addresses are free again.
pub(super) struct EchoBox {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    known: Mutex<Known>,
    echo: Mutex<Echo>,
    stop: AtomicBool,
}

impl EchoBox {
    /// At port 5060 of this host; audio is heard at port 6000.
    pub(super) fn at(host: &str) -> Self {
        let station = Station::at(&format!("{host}:5060"));
        let media = UdpSocket::bind(format!("{host}:6000")).expect("the namespace is ours");
        media.set_read_timeout(Some(LOOK_EVERY)).expect("the time is not nought");
        let shared =
            Arc::new(Shared { known: Mutex::default(), echo: Mutex::new(Echo::Whole), stop: AtomicBool::new(false) });
        let (serving, echoing) = (Arc::clone(&shared), Arc::clone(&shared));
        let heard_at = media.local_addr().expect("the socket is bound");
        let threads = vec![
            std::thread::spawn(move || serve(&station, heard_at, &serving)),
            std::thread::spawn(move || send_back(&media, &echoing)),
        ];
        Self { shared, threads }
    }

    /// From now on this much comes back.
    pub(super) fn echo(&self, echo: Echo) {
        *lock(&self.shared.echo) = echo;
    }

    pub(super) fn known(&self) -> Known {
        lock(&self.shared.known).clone()
    }
}

impl Drop for EchoBox {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            // A second panic while the test fails already would hide the first.
            assert!(ended.is_ok() || std::thread::panicking(), "a thread of the box panicked");
        }
    }
}

fn serve(station: &Station, media: SocketAddr, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let Some((octets, from)) = station.next(LOOK_EVERY) else { continue };
        let taken = Taken::of(&octets);
        if !taken.is_request() || taken.start.is_empty() {
            continue;
        }
        let method = taken.first_line().split(' ').next().unwrap_or_default().to_owned();
        let call_id = taken.text("call-id").unwrap_or_default();
        let mut known = lock(&shared.known);
        let answer = match method.as_str() {
            "ACK" => continue,
            "INVITE" => {
                known.calls += 1;
                known.up.insert(call_id);
                let lines = format!("Contact: <sip:clyde@{}>\r\nContent-Type: application/sdp\r\n", station.address);
                taken.response("200 OK", &lines, offer(media).as_bytes())
            }
            "BYE" => {
                known.up.remove(&call_id);
                taken.response("200 OK", "", b"")
            }
            "REGISTER" => {
                known.registrations += 1;
                let user = taken.uri("to");
                let contact = taken.text("contact").unwrap_or_default();
                let expires = taken.text("expires").unwrap_or_default();
                let is_leaving = expires == "0" || contact.contains("expires=0");
                if is_leaving {
                    known.bound.remove(&user);
                    taken.response("200 OK", "", b"")
                } else {
                    known.bound.insert(user);
                    taken.response("200 OK", &format!("Contact: <{}>;expires=60\r\n", taken.uri("contact")), b"")
                }
            }
            _ => taken.response("200 OK", "", b""),
        };
        drop(known);
        station.send(answer, &from.to_string());
    }
}

fn send_back(media: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 2_000];
    // Packets of each stream, by its source (RFC 3550 §5.1).
    let mut heard: BTreeMap<[u8; 4], u64> = BTreeMap::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let Ok((length, from)) = media.recv_from(&mut buffer) else { continue };
        let packet = &buffer[..length];
        let Some(source) = packet.get(8..12).and_then(|octets| <[u8; 4]>::try_from(octets).ok()) else { continue };
        let number = heard.entry(source).or_default();
        *number += 1;
        lock(&shared.known).packets += 1;
        let echo = *lock(&shared.echo);
        let comes_back = match echo {
            Echo::Whole => true,
            Echo::Half => number.is_multiple_of(2),
            Echo::First(count) => *number <= count,
            Echo::Nothing => false,
        };
        if comes_back {
            // Who spoke may have hung up.
            let _ = media.send_to(packet, from);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOOK_EVERY: Duration = Duration::from_millis(20);
