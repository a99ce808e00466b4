//! Socket options and the clock, as far as the standard library and socket2 lack them.

use std::ffi::{c_int, c_void};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an option whose value is an `int`.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let pointer: *const c_int = &value;
    // SAFETY: the descriptor is open, as BorrowedFd says; `pointer` leads to a c_int that lives until the call returns, and the
    // length given is a c_int's. The kernel only reads it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer.cast::<c_void>(), INT_BYTES) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Datagrams that the kernel dropped at this socket since it was opened, most often because its receive buffer was full. Counted up
/// to this moment (`SO_MEMINFO`), so that also those behind the last datagram received are in it, and nothing is paid per datagram.
/// Wraps at 2³²; zero where the kernel does not say.
pub fn kernel_drops(socket: &UdpSocket) -> u32 {
    let mut values = [0_u32; MEMINFO_VALUES];
    let mut length = MEMINFO_BYTES;
    // SAFETY: the descriptor is open while `socket` is borrowed; `values` has room for `length` octets, both live until the call
    // returns, and any octets are valid u32s.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast::<c_void>(),
            &mut length,
        )
    };
    let [.., drops] = values;
    if result == 0 && length == MEMINFO_BYTES { drops } else { 0 }
}

/// CLOCK_MONOTONIC in microseconds.
pub(crate) fn monotonic_micros() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that lives until the call returns. The call fails only for a clock that does not exist or a bad
    // pointer; neither is possible here, so its result need not be looked at.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    // Neither part of a monotonic time is negative.
    time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
}

const INT_BYTES: libc::socklen_t = size_of::<c_int>() as libc::socklen_t;
/// The values up to and with the drops, the ninth of `sk_meminfo`.
const MEMINFO_VALUES: usize = 9;
const MEMINFO_BYTES: libc::socklen_t = (MEMINFO_VALUES * size_of::<u32>()) as libc::socklen_t;
