//! One connection: a socket that never blocks, with its wire.

use super::StartError;
use super::fault::{Fault, is_ours};
use client::{Terms, Wire};
use nix::errno::Errno;
use nix::poll::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// From the first packet on, until it has failed; then it does nothing any more.
pub(super) struct Connection {
    socket: TcpStream,
    wire: Wire,
    peer: SocketAddr,
    local: SocketAddr,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// TCP is not through.
    Connecting,
    Open,
    Over,
}

impl Connection {
    /// Sends the first packet, from this address; its port may be 0.
    ///
    /// # Errors
    /// Our own address is wrong, or the connection failed at once.
    pub(super) fn begin(terms: &Terms, from: SocketAddr, to: SocketAddr) -> Result<Result<Self, Fault>, StartError> {
        let wire = match Wire::new(terms) {
            Ok(wire) => wire,
            Err(fault) => return Ok(Err(fault.into())),
        };
        let socket = open(from).map_err(|error| StartError::of_bind("tcp", from, &error))?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            // The port that was asked for is in use towards this very peer, or no port is left.
            Err(error) if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) => {
                return Err(StartError::of_bind("tcp", from, &error));
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(StartError::HeldBack { to }),
            Err(error) if is_ours(&error) => return Err(StartError::of_bind("tcp", from, &error)),
            Err(error) => return Ok(Err(Fault::of_socket(&error))),
        }
        let socket = TcpStream::from(socket);
        let local = socket.local_addr().unwrap_or(from);
        Ok(Ok(Self { socket, wire, peer: to, local, stage: Stage::Connecting }))
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// What the socket is to be watched for; nothing once it is over.
    pub(super) fn interest(&self) -> PollFlags {
        match self.stage {
            Stage::Connecting => PollFlags::POLLOUT,
            Stage::Open if self.wire.outgoing().is_empty() => PollFlags::POLLIN,
            Stage::Open => PollFlags::POLLIN | PollFlags::POLLOUT,
            Stage::Over => PollFlags::empty(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// Leaves as soon as it can.
    pub(super) fn send(&mut self, message: &[u8]) -> Result<(), Fault> {
        if self.is_over() {
            return Ok(());
        }
        self.wire.send(message);
        let outcome = self.flush();
        self.end_with(outcome)
    }

    /// After the socket was found ready: reads what is there, within a limit that lets others have their turn, and adds the
    /// messages in it to `messages`. A fault is told once.
    pub(super) fn serve(&mut self, buffer: &mut [u8], messages: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        let outcome = match self.stage {
            Stage::Over => Ok(()),
            Stage::Connecting => self.connected(),
            Stage::Open => self.read(buffer, messages).and_then(|()| self.flush()),
        };
        self.end_with(outcome)
    }

    /// Says that nothing more comes, as far as the socket takes it.
    pub(super) fn close(&mut self) {
        self.wire.close();
        // It is over whether the other side hears it or not.
        let _unsent = self.flush();
        self.stage = Stage::Over;
    }

    fn end_with(&mut self, outcome: Result<(), Fault>) -> Result<(), Fault> {
        if outcome.is_err() {
            // An alert of TLS that says why.
            let _unsent = self.flush();
            self.stage = Stage::Over;
        }
        outcome
    }

    fn connected(&mut self) -> Result<(), Fault> {
        match self.socket.take_error() {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => return Err(Fault::of_socket(&error)),
        }
        match self.socket.peer_addr() {
            Ok(_) => {
                self.stage = Stage::Open;
                self.flush()
            }
            // Not yet.
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(()),
            Err(error) => Err(Fault::of_socket(&error)),
        }
    }

    /// Writes as much as the socket takes.
    fn flush(&mut self) -> Result<(), Fault> {
        while self.stage == Stage::Open && !self.wire.outgoing().is_empty() {
            match self.socket.write(self.wire.outgoing()) {
                Ok(0) => return Err(Fault::Reset),
                Ok(count) => self.wire.took(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::of_socket(&error)),
            }
        }
        if self.wire.outgoing().len() > MOST_WAITING { Err(Fault::Clogged) } else { Ok(()) }
    }

    fn read(&mut self, buffer: &mut [u8], messages: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        for _ in 0..READS_AT_ONCE {
            match self.socket.read(buffer) {
                Ok(0) => return Err(Fault::Closed),
                Ok(count) => self.wire.receive(buffer.get(..count).unwrap_or_default(), messages)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::of_socket(&error)),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open(from: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if from.port() != 0 {
        // Connections of before, which rest after their end, are not in the way.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&from.into())?;
    Ok(socket)
}

/// Octets that wait for a peer that does not read.
const MOST_WAITING: usize = 1 << 18;
const READS_AT_ONCE: usize = 16;
