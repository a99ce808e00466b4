//! One connection: a socket that never blocks, with its wire.

use super::loss::{Fault, Loss};
use client::{Terms, Wire};
use net::datagram::{Interest, Poll, Ready};
use sip::Instant;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;

/// From the first packet on.
pub(super) struct Connection {
    socket: TcpStream,
    pub(super) wire: Wire,
    pub(super) begun: Instant,
    /// TCP is through.
    is_connected: bool,
    /// Everything above it was through once.
    pub(super) is_up: bool,
    /// A ping was sent, and nothing came since.
    pub(super) awaits_pong: bool,
    watches_writes: bool,
}

impl Connection {
    /// Sends the first packet. `from`: our own address; `None`: the system's choice.
    pub(super) fn begin(terms: &Terms, from: Option<SocketAddr>, to: SocketAddr, now: Instant) -> Result<Self, Fault> {
        let wire = Wire::new(terms)?;
        let socket = connect(from, to)?;
        Ok(Self {
            socket,
            wire,
            begun: now,
            is_connected: false,
            is_up: false,
            awaits_pong: false,
            watches_writes: true,
        })
    }

    /// To be called once, so that `poll` tells when something happens.
    pub(super) fn watch(&self, poll: &Poll, token: u64) -> Result<(), Fault> {
        let watched = poll.watch(self.socket.as_fd(), token, interest(true));
        watched.map_err(|error| Fault::new(Loss::NoSocket, error.to_string()))
    }

    /// Reads what is there, within a limit that lets others have their turn, and adds the messages in it to `messages`.
    pub(super) fn serve(&mut self, ready: Ready, buffer: &mut [u8], messages: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        if !self.is_connected {
            if let Ok(Some(error)) = self.socket.take_error() {
                return Err(Fault::of_socket(&error));
            }
            if ready.error {
                return Err(Fault::new(Loss::Reset, "reset by the other side"));
            }
            if !ready.writable {
                return Ok(());
            }
            self.is_connected = true;
        }
        if ready.readable || ready.hung_up || ready.error { self.read(buffer, messages) } else { Ok(()) }
    }

    /// Whether everything is through for the first time.
    pub(super) fn rises(&mut self) -> bool {
        let rises = !self.is_up && self.is_connected && self.wire.is_established();
        self.is_up |= rises;
        rises
    }

    /// Writes as much as the socket takes.
    pub(super) fn flush(&mut self, poll: &Poll, token: u64) -> Result<(), Fault> {
        if !self.is_connected {
            return Ok(());
        }
        while !self.wire.outgoing().is_empty() {
            match self.socket.write(self.wire.outgoing()) {
                Ok(0) => return Err(Fault::new(Loss::Reset, "the socket takes nothing")),
                Ok(count) => self.wire.took(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::of_socket(&error)),
            }
        }
        let waiting = self.wire.outgoing().len();
        if waiting > MOST_WAITING {
            return Err(Fault::new(Loss::Clogged, "the other side does not read"));
        }
        let wants = waiting > 0;
        if wants != self.watches_writes {
            let changed = poll.modify(self.socket.as_fd(), token, interest(wants));
            changed.map_err(|error| Fault::of_socket(&error))?;
            self.watches_writes = wants;
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8], messages: &mut Vec<Vec<u8>>) -> Result<(), Fault> {
        for _ in 0..READS_AT_ONCE {
            match self.socket.read(buffer) {
                Ok(0) => return Err(Fault::closed()),
                Ok(count) => {
                    self.awaits_pong = false;
                    self.wire.receive(buffer.get(..count).unwrap_or_default(), messages)?;
                    if count < buffer.len() {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::of_socket(&error)),
            }
        }
        Ok(())
    }
}

fn connect(from: Option<SocketAddr>, to: SocketAddr) -> Result<TcpStream, Fault> {
    let socket = open(from, to).map_err(|error| Fault::new(Loss::NoSocket, error.to_string()))?;
    match socket.connect(&to.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket.into()),
        // No port is left.
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            Err(Fault::new(Loss::NoSocket, error.to_string()))
        }
        Err(error) => Err(Fault::of_socket(&error)),
    }
}

fn open(from: Option<SocketAddr>, to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(from) = from {
        socket.bind(&from.into())?;
    }
    Ok(socket)
}

fn interest(writable: bool) -> Interest {
    Interest { readable: true, writable }
}

/// Octets that wait for a peer that does not read.
const MOST_WAITING: usize = 1 << 20;
const READS_AT_ONCE: usize = 4;
