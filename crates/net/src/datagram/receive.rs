//! Receiving datagrams in batches.

use super::address::{self, ADDRESS_BYTES, RawAddress};
use super::control::{self, CONTROL_BYTES, Control};
use super::send::empty_header;
use std::ffi::{c_uint, c_void};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Room for a batch of datagrams and one system call that fills it. Belongs to one thread.
///
/// Each datagram has room for the largest there is. The memory is zeroed by the allocator and untouched until a datagram is written
/// to it, so that a batch of ordinary SIP messages costs a page or two each and not 64 KiB.
pub struct Receiver {
    buffers: Vec<u8>,
    names: Vec<RawAddress>,
    controls: Vec<Control>,
    /// Only the kernel reads these, through the pointers in `headers`.
    _vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    received: usize,
}

/// A received datagram, until the next call of [`Receiver::receive`].
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub bytes: &'a [u8],
    pub remote: SocketAddr,
    /// The address it arrived at, where the socket tells it (a wildcard one).
    pub local: Option<IpAddr>,
}

impl Receiver {
    pub fn new() -> Self {
        let mut buffers = vec![0_u8; RECEIVE_BATCH * STRIDE];
        let mut names = vec![RawAddress::EMPTY; RECEIVE_BATCH];
        let mut controls = vec![Control::EMPTY; RECEIVE_BATCH];
        let base = buffers.as_mut_ptr();
        let mut vectors: Vec<libc::iovec> = (0..RECEIVE_BATCH)
            .map(|slot| libc::iovec {
                iov_base: base.wrapping_add(slot * STRIDE).cast::<c_void>(),
                iov_len: DATAGRAM_BYTES,
            })
            .collect();
        let headers = (0..RECEIVE_BATCH)
            .map(|slot| {
                let mut header = empty_header();
                header.msg_hdr.msg_name = names.as_mut_ptr().wrapping_add(slot).cast::<c_void>();
                header.msg_hdr.msg_namelen = NAME_LENGTH;
                header.msg_hdr.msg_iov = vectors.as_mut_ptr().wrapping_add(slot);
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = controls.as_mut_ptr().wrapping_add(slot).cast::<c_void>();
                header.msg_hdr.msg_controllen = CONTROL_BYTES;
                header
            })
            .collect();
        Self { buffers, names, controls, _vectors: vectors, headers, received: 0 }
    }

    /// Takes what waits at `socket`, at most [`RECEIVE_BATCH`] datagrams, without waiting for any, and returns their number. An error
    /// is most often one that the network reported for an earlier datagram of ours: it is told once, and the next call goes on.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        for header in self.headers.iter_mut().take(self.received) {
            header.msg_hdr.msg_namelen = NAME_LENGTH;
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
        }
        self.received = 0;
        // SAFETY: the descriptor is open while `socket` is borrowed. `headers` has RECEIVE_BATCH entries; the pointers in them lead to
        // the elements of `buffers`, `names`, `controls` and `_vectors`, with lengths within these elements. Those four vectors are
        // never resized, replaced or dropped before `headers`, and moving this value does not move what they hold. Nothing refers to
        // them while `self` is borrowed mutably, and any octets are valid in them. No timeout is passed.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                RECEIVE_BATCH as c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        self.received = count;
        Ok(count)
    }

    /// The datagrams of the last batch, in order of arrival. One whose source is of no known address family is left out.
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> + '_ {
        self.headers.iter().take(self.received).enumerate().filter_map(|(slot, header)| {
            let start = slot * STRIDE;
            let bytes = self.buffers.get(start..start + header.msg_len as usize)?;
            let remote = address::read(self.names.get(slot)?.bytes())?;
            let control = self.controls.get(slot)?.bytes().get(..header.msg_hdr.msg_controllen)?;
            Some(Datagram { bytes, remote, local: control::local_address(control) })
        })
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

/// Datagrams taken by one system call at most. More make no call cheaper, and the caches hold this many.
pub const RECEIVE_BATCH: usize = 32;
/// No UDP datagram is longer.
const DATAGRAM_BYTES: usize = 65_536;
/// The distance of two buffers. Not a power of two: the first lines of all buffers would share the same few sets of the caches.
const STRIDE: usize = DATAGRAM_BYTES + 1_088;
const NAME_LENGTH: libc::socklen_t = ADDRESS_BYTES as libc::socklen_t;
