//! Sending datagrams in batches.

use super::address::RawAddress;
use super::control::Control;
use std::ffi::{c_uint, c_void};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Room for the headers of a batch of datagrams. Belongs to one thread.
pub struct Sender {
    names: Vec<RawAddress>,
    controls: Vec<Control>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The source address. Unspecified: the one the socket is bound to, else the routing's choice. Naming it costs a little, so
    /// leave it unspecified where the socket is bound to one address.
    pub local: IpAddr,
    pub remote: SocketAddr,
    pub bytes: &'a [u8],
}

impl Sender {
    pub fn new() -> Self {
        let empty = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        Self {
            names: vec![RawAddress::EMPTY; SEND_BATCH],
            controls: vec![Control::EMPTY; SEND_BATCH],
            vectors: vec![empty; SEND_BATCH],
            headers: vec![empty_header(); SEND_BATCH],
        }
    }

    /// Sends all of `outgoing` in order, without waiting, and returns how many the kernel took. One that fails is told to `failed`
    /// with its position, and the next are sent nevertheless.
    pub fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        outgoing: impl Iterator<Item = Outgoing<'a>>,
        mut failed: impl FnMut(usize, &io::Error),
    ) -> usize {
        let mut outgoing = outgoing.fuse();
        let mut position = 0;
        let mut sent = 0;
        loop {
            let mut filled = 0;
            while filled < SEND_BATCH {
                let Some(next) = outgoing.next() else { break };
                self.fill(filled, &next);
                filled += 1;
            }
            if filled == 0 {
                return sent;
            }
            self.link(filled);
            // Every pointer that `link` and `fill` left in the first `filled` headers is good: the octets live for 'a, which outlives
            // this call.
            sent += self.flush(socket, filled, |slot, error| failed(position + slot, error));
            position += filled;
        }
    }

    fn fill(&mut self, slot: usize, next: &Outgoing<'_>) {
        let header = &mut self.headers[slot].msg_hdr;
        header.msg_namelen = self.names[slot].write(next.remote);
        header.msg_controllen =
            if next.local.is_unspecified() { 0 } else { self.controls[slot].write_source(next.local) };
        // The kernel only reads what it sends; iovec knows no constant pointer.
        self.vectors[slot] =
            libc::iovec { iov_base: next.bytes.as_ptr().cast_mut().cast::<c_void>(), iov_len: next.bytes.len() };
    }

    /// Points the first `filled` headers at their parts, after the last of these was written.
    fn link(&mut self, filled: usize) {
        let names = self.names.as_mut_ptr();
        let controls = self.controls.as_mut_ptr();
        let vectors = self.vectors.as_mut_ptr();
        for (slot, header) in self.headers.iter_mut().take(filled).enumerate() {
            let header = &mut header.msg_hdr;
            header.msg_name = names.wrapping_add(slot).cast::<c_void>();
            header.msg_iov = vectors.wrapping_add(slot);
            header.msg_iovlen = 1;
            header.msg_control = if header.msg_controllen == 0 {
                std::ptr::null_mut()
            } else {
                controls.wrapping_add(slot).cast::<c_void>()
            };
        }
    }

    /// Sends the first `filled` headers. To be called only after [`Sender::fill`] and [`Sender::link`] for them, with the octets
    /// given to `fill` still borrowed.
    fn flush(&mut self, socket: &UdpSocket, filled: usize, mut failed: impl FnMut(usize, &io::Error)) -> usize {
        let mut next = 0;
        let mut sent = 0;
        let mut attempts = 0;
        while next < filled {
            let pending = &mut self.headers[next..filled];
            // SAFETY: the descriptor is open while `socket` is borrowed. `pending` has the length given. The pointers in its entries
            // lead into `names`, `controls` and `vectors`, which are never resized and which nothing refers to meanwhile, and to
            // octets that the only caller, `send`, holds borrowed. The kernel reads them and writes nothing but msg_len.
            let count = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    pending.as_mut_ptr(),
                    pending.len() as c_uint,
                    libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
                )
            };
            if let Ok(count) = usize::try_from(count)
                && count > 0
            {
                next += count;
                sent += count;
                attempts = 0;
                continue;
            }
            let error = io::Error::last_os_error();
            attempts += 1;
            // With IP_RECVERR the kernel reports an ICMP error for some earlier datagram by refusing the next one, whoever it is for.
            // Such an error is gone when told, so a second attempt finds out whether it was this datagram's own.
            if attempts < ATTEMPTS && error.kind() != io::ErrorKind::WouldBlock {
                continue;
            }
            failed(next, &error);
            next += 1;
            attempts = 0;
        }
        sent
    }
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

/// A header that points nowhere.
pub(super) fn empty_header() -> libc::mmsghdr {
    // SAFETY: the struct is made of integers and pointers that are allowed to be null: zero is valid in each.
    unsafe { std::mem::zeroed() }
}

/// Datagrams sent by one system call at most.
pub const SEND_BATCH: usize = 64;
const ATTEMPTS: u32 = 3;
