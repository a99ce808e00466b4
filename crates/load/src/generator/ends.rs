//! The sockets of both ends.

use super::outbox::Outbox;
use net::datagram::{Datagram, ErrorQueue, Outgoing, Poll, RECEIVE_BATCH, Receiver, Sender, kernel_drops};
use net::{Clock, NetError, Warning, socket};
use sip::Instant;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

/// One socket, and what is to be sent from it.
pub(super) struct End {
    socket: UdpSocket,
    pub(super) address: SocketAddr,
    pub(super) outbox: Outbox,
    /// Datagrams that the kernel took.
    pub(super) sent: u64,
    /// Datagrams that the network returned.
    pub(super) refused: u64,
    drops_before: u32,
}

/// Room for batches, shared by both ends.
pub(super) struct Batches {
    receiver: Receiver,
    sender: Sender,
    errors: ErrorQueue,
}

impl End {
    /// Listens at `wanted`, for ourselves alone; port 0 is the system's choice.
    pub(super) fn open(wanted: SocketAddr, poll: &Poll, token: u64) -> Result<(Self, Option<Warning>), NetError> {
        let address = free_address(wanted)?;
        let (socket, warning) = socket::open(address)?;
        poll.add(socket.as_fd(), token).map_err(|error| NetError::Poll { error })?;
        let end = Self { socket, address, outbox: Outbox::default(), sent: 0, refused: 0, drops_before: 0 };
        Ok((end, warning))
    }

    /// Datagrams that the kernel dropped since [`End::count_anew`].
    pub(super) fn kernel_drops(&self) -> u64 {
        u64::from(kernel_drops(&self.socket).wrapping_sub(self.drops_before))
    }

    pub(super) fn count_anew(&mut self) {
        self.sent = 0;
        self.refused = 0;
        self.drops_before = kernel_drops(&self.socket);
    }

    /// Handles what waits at the socket, within a limit that lets the other end have its turn. `error`: the error queue is not empty.
    pub(super) fn serve(
        &mut self,
        batches: &mut Batches,
        error: bool,
        mut handle: impl FnMut(Instant, &Datagram<'_>, &mut Outbox),
    ) {
        if error {
            self.take_errors(batches);
        }
        for _ in 0..BATCHES_AT_ONCE {
            let Ok(count) = batches.receiver.receive(&self.socket) else {
                self.take_errors(batches);
                continue;
            };
            let now = Clock::now();
            for datagram in batches.receiver.datagrams() {
                handle(now, &datagram, &mut self.outbox);
            }
            self.flush(batches);
            if count < RECEIVE_BATCH {
                break;
            }
        }
    }

    pub(super) fn flush(&mut self, batches: &mut Batches) {
        if self.outbox.is_empty() {
            return;
        }
        let outgoing = self.outbox.datagrams().map(|(remote, bytes)| Outgoing {
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            remote,
            bytes,
        });
        // What cannot be sent is lost, as on a wire: it will be sent again.
        self.sent += batches.sender.send(&self.socket, outgoing, |_, _| ()) as u64;
        self.outbox.clear();
    }

    /// Empties the error queue, or the socket would stay ready. What was lost is sent again in its time, as phones do: a server that
    /// starts again within seconds shall lose no exchange.
    fn take_errors(&mut self, batches: &mut Batches) {
        while batches.errors.take(&self.socket).is_some() {
            self.refused += 1;
        }
    }
}

impl Batches {
    pub(super) fn new() -> Self {
        Self { receiver: Receiver::new(), sender: Sender::new(), errors: ErrorQueue::new() }
    }
}

/// `own` with an address instead of an unspecified one: that from which this machine reaches `target`.
pub(super) fn towards(target: SocketAddr, own: SocketAddr) -> SocketAddr {
    if !own.ip().is_unspecified() {
        return own;
    }
    let any = if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    // Connecting sends nothing: it only asks for the route. Without one, sending will say so.
    let asked = UdpSocket::bind((any, 0)).and_then(|socket| socket.connect(target).and_then(|()| socket.local_addr()));
    SocketAddr::new(asked.map_or(any, |address| address.ip()), own.port())
}

/// Our sockets share their address with siblings, and so with another generator or balancer that holds it already: half of all datagrams
/// would be lost in it. A socket that shares nothing finds out.
fn free_address(wanted: SocketAddr) -> Result<SocketAddr, NetError> {
    match UdpSocket::bind(wanted) {
        Ok(probe) => probe.local_addr().map_err(|error| NetError::Socket { transport: "udp", address: wanted, error }),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Err(NetError::AddressInUse { transport: "udp", address: wanted })
        }
        // Whatever else it is, opening the socket says it.
        Err(_) => Ok(wanted),
    }
}

const BATCHES_AT_ONCE: usize = 4;
