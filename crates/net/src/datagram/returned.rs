//! The error queue of a socket: what the network returned of datagrams that did not arrive (`IP_RECVERR`).

use super::address::{self, ADDRESS_BYTES, RawAddress};
use super::control::{self, CONTROL_BYTES, Control};
use super::send::empty_header;
use std::ffi::c_void;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Room for one returned datagram. Belongs to one thread.
pub struct ErrorQueue {
    buffer: Vec<u8>,
}

/// A datagram of ours that did not arrive.
#[derive(Clone, Copy, Debug)]
pub struct Returned<'a> {
    /// Where it was sent to.
    pub remote: SocketAddr,
    /// The kernel's number for the error, such as `ECONNREFUSED`.
    pub errno: i32,
    /// What the ICMP error quotes of its payload: its beginning, perhaps nothing. Anybody may forge such an error; only who knows what
    /// was sent can quote it.
    pub bytes: &'a [u8],
}

impl ErrorQueue {
    pub fn new() -> Self {
        Self { buffer: vec![0; QUOTED_BYTES] }
    }

    /// Takes the next returned datagram, `None` when there is none. Errors that concern no single peer (a datagram too long for a link,
    /// which is fragmented instead) and those that sending already reported are passed over.
    pub fn take(&mut self, socket: &UdpSocket) -> Option<Returned<'_>> {
        let (remote, errno, length) = loop {
            if let Some(taken) = self.receive(socket)? {
                break taken;
            }
        };
        Some(Returned { remote, errno, bytes: self.buffer.get(..length)? })
    }

    /// Address, error and length of the next entry; `Some(None)` if it is to be passed over, `None` when the queue is empty.
    fn receive(&mut self, socket: &UdpSocket) -> Option<Option<(SocketAddr, i32, usize)>> {
        let mut name = RawAddress::EMPTY;
        let mut controls = Control::EMPTY;
        let mut vector =
            libc::iovec { iov_base: self.buffer.as_mut_ptr().cast::<c_void>(), iov_len: self.buffer.len() };
        let mut header = empty_header().msg_hdr;
        header.msg_name = (&raw mut name).cast::<c_void>();
        header.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
        header.msg_iov = &raw mut vector;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut controls).cast::<c_void>();
        header.msg_controllen = CONTROL_BYTES;
        // SAFETY: the descriptor is open while `socket` is borrowed. The pointers in `header` lead to `name`, `vector`, `controls` and
        // the buffer, with their lengths; all live until the call returns and any octets are valid in them.
        let length =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
        let Ok(length) = usize::try_from(length) else {
            let interrupted = io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
            return if interrupted { Some(None) } else { None };
        };
        let written = controls.bytes().get(..header.msg_controllen).unwrap_or_default();
        let Some((errno, origin)) = control::extended_error(written) else { return Some(None) };
        let passed_over = origin == ORIGIN_LOCAL || errno == 0 || errno == libc::EMSGSIZE;
        let Some(remote) = address::read(name.bytes()) else { return Some(None) };
        Some((!passed_over).then_some((remote, errno, length)))
    }
}

impl Default for ErrorQueue {
    fn default() -> Self {
        Self::new()
    }
}

/// Routers quote at most what fits into 576 octets (RFC 1812 §4.3.2.3), or 1,280 with IPv6 (RFC 4443 §2.4).
const QUOTED_BYTES: usize = 2_048;
/// `SO_EE_ORIGIN_LOCAL`: this machine refused to send it, which sendmmsg already said.
const ORIGIN_LOCAL: u8 = 1;
