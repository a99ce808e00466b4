//! Sockets for datagrams: where they are bound, and what the network returns of datagrams that did not arrive.

use super::StartError;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// One socket that never blocks.
pub(super) struct Datagrams {
    socket: UdpSocket,
    local: SocketAddr,
}

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// It left, or is lost as on the way.
    Away,
    /// Nothing can be sent there.
    NoWay,
    /// This machine forbids it, or its firewall has no room for it at the moment.
    HeldBack,
}

impl Datagrams {
    /// Port 0: any that is free.
    pub(super) fn open(at: SocketAddr) -> Result<Self, StartError> {
        let opened = bind(at).and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (local, socket) = opened.map_err(|error| StartError::of_bind("udp", at, &error))?;
        Ok(Self { socket, local })
    }

    /// At a free even port, as RFC 3550 §11 wants it for audio.
    pub(super) fn open_even(at: SocketAddr) -> Result<Self, StartError> {
        // The odd ones are kept until the end, so that none is offered twice.
        let mut odd = Vec::new();
        let mut at = at;
        at.set_port(0);
        for _ in 0..EVEN_ATTEMPTS {
            let datagrams = Self::open(at)?;
            if datagrams.local.port().is_multiple_of(2) {
                return Ok(datagrams);
            }
            odd.push(datagrams);
        }
        Err(StartError::NoEvenPort { address: at.ip() })
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Sends it at once or never.
    pub(super) fn send(&self, to: SocketAddr, octets: &[u8]) -> Sent {
        let mut sent = Sent::NoWay;
        // What the network returned of an earlier datagram is told here once, and this one has not left: the queue of errors says
        // whose that was. What is told each time is told of this one.
        for _ in 0..SEND_ATTEMPTS {
            match self.socket.send_to(octets, to).map_err(|error| error.kind()) {
                Ok(_) => return Sent::Away,
                Err(ErrorKind::PermissionDenied) => sent = Sent::HeldBack,
                Err(ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {}
                Err(kind) if is_for_good(kind) => {}
                Err(_) => return Sent::Away,
            }
        }
        sent
    }

    /// The next datagram: its sender, and how much of `buffer` it fills. `None`: there is none now.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<(SocketAddr, usize)> {
        for _ in 0..RECEIVE_ATTEMPTS {
            match self.socket.recv_from(buffer) {
                Ok((length, from)) => return Some((from, length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                // Something that was returned, told once; datagrams may wait behind it.
                Err(_) => {}
            }
        }
        None
    }

    /// Where a datagram of ours did not arrive: the next one that the network returned.
    pub(super) fn take_returned(&self, buffer: &mut [u8]) -> Option<SocketAddr> {
        for _ in 0..RECEIVE_ATTEMPTS {
            let mut space = cmsg_space!([u8; CONTROL_BYTES]);
            let mut vectors = [IoSliceMut::new(buffer)];
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let taken =
                recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut vectors, Some(space.as_mut_slice()), flags);
            let returned = match taken {
                Ok(returned) => returned,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let is_news = returned.cmsgs().is_ok_and(|mut messages| messages.any(|message| counts(&message)));
            if is_news && let Some(peer) = returned.address.as_ref().and_then(address) {
                return Some(peer);
            }
        }
        None
    }
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The address that the kernel would send from.
pub(super) fn towards(to: SocketAddr) -> Result<SocketAddr, StartError> {
    let ask = || -> io::Result<SocketAddr> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        // Sends nothing.
        socket.connect(&to.into())?;
        UdpSocket::from(socket).local_addr()
    };
    let mut local = ask().map_err(|error| match error.kind() {
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
            StartError::NoRoute { to, error: error.to_string() }
        }
        ErrorKind::PermissionDenied => StartError::HeldBack { to },
        // Our own want of sockets says nothing of the other side.
        _ => StartError::Socket { transport: "udp", address: to, error: error.to_string() },
    })?;
    local.set_port(0);
    Ok(local)
}

fn bind(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(at), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    }
    socket.bind(&at.into())?;
    Ok(socket.into())
}

/// Not merely a full queue somewhere.
fn is_for_good(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable | ErrorKind::NetworkDown | ErrorKind::InvalidInput
    )
}

/// An error by the network about one peer: neither one that sending told already, nor that a datagram is too long for a link,
/// which the next ones are cut for.
fn counts(message: &ControlMessageOwned) -> bool {
    let (errno, origin) = match message {
        ControlMessageOwned::Ipv4RecvErr(error, _) => (error.ee_errno, error.ee_origin),
        ControlMessageOwned::Ipv6RecvErr(error, _) => (error.ee_errno, error.ee_origin),
        _ => return false,
    };
    let errno = Errno::from_raw(errno.cast_signed());
    origin != ORIGIN_LOCAL && !matches!(errno, Errno::UnknownErrno | Errno::EMSGSIZE)
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::from(*address));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::from(*address)))
}

/// Half of all ports are even: more than enough.
const EVEN_ATTEMPTS: usize = 64;
const SEND_ATTEMPTS: usize = 4;
const RECEIVE_ATTEMPTS: usize = 16;
/// More than an error with the address of who reports it.
const CONTROL_BYTES: usize = 256;
/// `SO_EE_ORIGIN_LOCAL`: this machine refused to send.
const ORIGIN_LOCAL: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn audio_gets_an_even_port() {
        for _ in 0..20 {
            let audio = Datagrams::open_even(loopback()).expect("a port is free");
            assert!(audio.local().port().is_multiple_of(2) && audio.local().port() > 0);
        }
    }

    #[test]
    fn a_closed_port_is_told_and_nothing_is_lost_by_it() {
        let (ours, theirs) = (Datagrams::open(loopback()).expect("a port is free"), Datagrams::open(loopback()));
        let theirs = theirs.expect("a port is free");
        let closed = Datagrams::open(loopback()).map(|socket| socket.local()).expect("a port is free");
        assert_eq!(ours.send(closed, b"nobody hears"), Sent::Away);
        let mut buffer = [0; 64];
        let until = Instant::now() + Duration::from_secs(1);
        let mut returned = None;
        while returned.is_none() && Instant::now() < until {
            returned = ours.take_returned(&mut buffer);
        }
        assert_eq!(returned, Some(closed));
        // Twice, so that an error may be pending when the second is sent and when the answers are read.
        for octets in [b"a", b"b"] {
            let outcomes = [ours.send(closed, b"nobody hears"), ours.send(theirs.local(), octets)];
            assert_eq!(outcomes, [Sent::Away; 2]);
        }
        for wanted in [b"a", b"b"] {
            assert_eq!(theirs.receive(&mut buffer), Some((ours.local(), 1)));
            assert!(buffer.starts_with(wanted));
        }
        assert_eq!(theirs.send(ours.local(), b"c"), Sent::Away);
        assert_eq!(ours.receive(&mut buffer), Some((theirs.local(), 1)));
        assert_eq!(ours.receive(&mut buffer), None);
    }

    #[test]
    fn what_this_machine_forbids_is_told_apart() {
        // The broadcast address of loopback: forbidden to whoever did not ask for broadcasts.
        let forbidden = SocketAddr::from(([127, 255, 255, 255], 5060));
        let ours = Datagrams::open(loopback()).expect("a port is free");
        assert_eq!(ours.send(forbidden, b"nobody hears"), Sent::HeldBack);
        assert_eq!(towards(forbidden), Err(StartError::HeldBack { to: forbidden }));
    }

    #[test]
    fn a_port_that_is_taken_and_an_address_that_is_not_ours_are_told() {
        let taken = Datagrams::open(loopback()).expect("a port is free");
        let refused = Datagrams::open(taken.local()).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.contains(&taken.local().to_string()) && text.contains("ss -ulpn")));
        // TEST-NET-1 is nobody's.
        let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
        let refused = Datagrams::open(foreign).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.contains("192.0.2.1") && text.contains("ip address")));
    }

    #[test]
    fn the_address_is_the_one_that_the_kernel_would_use() {
        let peer = SocketAddr::from(([127, 0, 0, 5], 5060));
        assert_eq!(towards(peer).ok(), Some(loopback()));
    }
}
