//! The raw relay: datagrams from one side to the other, unread. What it costs is the price of UDP sockets alone, and so the limit of
//! what any balancer can reach on the machine.

use net::NetError;
use net::datagram::{ErrorQueue, Outgoing, Poll, Receiver, Sender};
use net::socket;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where the relay stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RelaySettings {
    /// The address that callers send to.
    pub caller_side: SocketAddr,
    /// The address that the callee is sent to from.
    pub callee_side: SocketAddr,
    pub callee: SocketAddr,
}

/// Relays in this thread until `stop` is true: what arrives at the caller's side goes to the callee, what arrives at the callee's side to
/// whoever sent to the caller's side last. Returns the number of datagrams sent.
pub fn run(settings: RelaySettings, stop: &AtomicBool) -> Result<u64, NetError> {
    let (towards_caller, _) = socket::open(settings.caller_side)?;
    let (towards_callee, _) = socket::open(settings.callee_side)?;
    let poll = Poll::new().map_err(|error| NetError::Poll { error })?;
    for (token, side) in [(CALLER_SIDE, &towards_caller), (CALLEE_SIDE, &towards_callee)] {
        poll.add(side.as_fd(), token).map_err(|error| NetError::Poll { error })?;
    }
    let mut batch = Batch { receiver: Receiver::new(), sender: Sender::new(), sent: 0 };
    let mut caller: Option<SocketAddr> = None;
    let mut errors = ErrorQueue::new();
    let mut ready = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        poll.wait(Some(STOP_INTERVAL), &mut ready).map_err(|error| NetError::Poll { error })?;
        for source in &ready {
            if source.error {
                let side = if source.token == CALLER_SIDE { &towards_caller } else { &towards_callee };
                // Errors are taken from the queue, or the socket would stay ready; nobody is told.
                while errors.take(side).is_some() {}
            }
            if source.token == CALLER_SIDE {
                if let Some(last) = batch.relay(&towards_caller, &towards_callee, Some(settings.callee)) {
                    caller = Some(last);
                }
            } else {
                batch.relay(&towards_callee, &towards_caller, caller);
            }
        }
    }
    Ok(batch.sent)
}

struct Batch {
    receiver: Receiver,
    sender: Sender,
    sent: u64,
}

impl Batch {
    /// One batch from one side to the other, to `remote`; dropped without one. Returns who sent the last datagram.
    fn relay(&mut self, from: &UdpSocket, to: &UdpSocket, remote: Option<SocketAddr>) -> Option<SocketAddr> {
        // An error tells of a datagram that did not arrive; the next call goes on.
        self.receiver.receive(from).ok()?;
        let mut last = None;
        if let Some(remote) = remote {
            let outgoing = self.receiver.datagrams().map(|datagram| {
                last = Some(datagram.remote);
                Outgoing { local: IpAddr::V4(Ipv4Addr::UNSPECIFIED), remote, bytes: datagram.bytes }
            });
            // What cannot be sent is lost, as on a wire.
            self.sent += self.sender.send(to, outgoing, |_, _| ()) as u64;
        }
        last
    }
}

const CALLER_SIDE: u64 = 0;
const CALLEE_SIDE: u64 = 1;
/// How long a stop may take.
const STOP_INTERVAL: Duration = Duration::from_millis(100);
