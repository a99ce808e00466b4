//! Waiting for several sockets at once, and waking a thread that waits.

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// A set of sockets to wait for (epoll, level-triggered): a socket is reported as long as what it is watched for holds. Sockets may be
/// added, changed and removed while another thread waits; a closed one leaves by itself.
pub struct Poll {
    descriptor: OwnedFd,
}

/// What a socket is watched for. Errors, and the end of both directions, are reported in any case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interest {
    /// There is something to read, the peer's end included.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
}

/// What [`Poll::wait`] found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ready {
    /// The number given to [`Poll::add`] or [`Poll::watch`].
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
    /// The peer of a stream sends nothing more, or the stream is over.
    pub hung_up: bool,
    /// An error is queued at the socket, perhaps besides datagrams.
    pub error: bool,
}

/// Wakes the thread that waits for it in a [`Poll`] (eventfd).
pub struct Wake {
    file: File,
}

impl Poll {
    /// An empty set. Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let descriptor = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        Ok(Self { descriptor })
    }

    /// Adds `source` under the number `token`, to wait for what it receives.
    pub fn add(&self, source: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, token, libc::EPOLLIN as u32)
    }

    /// Adds the stream `source` under the number `token`.
    pub fn watch(&self, source: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, token, interest.flags())
    }

    /// Replaces what the stream `source` is watched for.
    pub fn modify(&self, source: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source, token, interest.flags())
    }

    /// Takes `source` out of the set.
    pub fn remove(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, source, 0, 0)
    }

    fn control(&self, operation: c_int, source: BorrowedFd<'_>, token: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: both descriptors are open while they are borrowed; `event` lives until the call returns, which copies it.
        let result = unsafe { libc::epoll_ctl(self.descriptor.as_raw_fd(), operation, source.as_raw_fd(), &mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until a source is ready or `timeout` is over (rounded up to milliseconds; `None`: for ever) and replaces what is in
    /// `ready`. A signal ends the wait early, with nothing ready.
    pub fn wait(&self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        // SAFETY: the descriptor is open; `events` has room for EVENTS entries and lives until the call returns.
        let count = unsafe {
            libc::epoll_wait(self.descriptor.as_raw_fd(), events.as_mut_ptr(), EVENTS as c_int, milliseconds(timeout))
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) };
        };
        ready.extend(events.iter().take(count).map(|event| {
            // The fields are copied: the entries are packed, so that references to them would not be aligned.
            let (flags, token) = (event.events, event.u64);
            let has = |flag: c_int| flags & flag as u32 != 0;
            Ready {
                token,
                readable: has(libc::EPOLLIN),
                writable: has(libc::EPOLLOUT),
                hung_up: has(libc::EPOLLHUP | libc::EPOLLRDHUP),
                error: has(libc::EPOLLERR),
            }
        }));
        Ok(())
    }
}

impl Interest {
    fn flags(self) -> u32 {
        let readable = if self.readable { libc::EPOLLIN | libc::EPOLLRDHUP } else { 0 };
        let writable = if self.writable { libc::EPOLLOUT } else { 0 };
        (readable | writable) as u32
    }
}

impl Wake {
    /// Fails when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call takes no pointer.
        let descriptor = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        Ok(Self { file: File::from(descriptor) })
    }

    /// Makes the source ready, once, however often this is called before [`Wake::clear`].
    pub fn wake(&self) {
        // Fails only where 2⁶⁴ − 2 calls are pending, and then the waiter wakes anyway.
        let _already_awake = (&self.file).write_all(&1_u64.to_ne_bytes());
    }

    /// Makes the source wait for the next [`Wake::wake`].
    pub fn clear(&self) {
        // Fails only where nobody woke: nothing to clear.
        let _nothing_pending = (&self.file).read_exact(&mut [0; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The descriptor that a call just returned, or its error.
fn owned(descriptor: c_int) -> io::Result<OwnedFd> {
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: callers pass only what epoll_create1 or eventfd returned: an open descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Rounded up, so that a deadline is over when the wait for it ends.
fn milliseconds(timeout: Option<Duration>) -> c_int {
    match timeout {
        None => -1,
        Some(timeout) => c_int::try_from(timeout.as_micros().div_ceil(1_000)).unwrap_or(c_int::MAX),
    }
}

const EVENTS: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn waits_are_rounded_up() {
        assert_eq!(milliseconds(None), -1);
        assert_eq!(milliseconds(Some(Duration::ZERO)), 0);
        assert_eq!(milliseconds(Some(Duration::from_micros(1))), 1);
        assert_eq!(milliseconds(Some(Duration::from_micros(20_000))), 20);
        assert_eq!(milliseconds(Some(Duration::MAX)), c_int::MAX);
    }

    #[test]
    fn a_wake_is_seen_once_however_often_it_was_called() {
        let poll = Poll::new().expect("a descriptor is free");
        let wake = Wake::new().expect("a descriptor is free");
        poll.add(wake.as_fd(), 7).expect("the descriptor is open");
        let mut ready = Vec::new();
        poll.wait(Some(Duration::ZERO), &mut ready).expect("the poll is open");
        assert_eq!(ready, []);
        wake.wake();
        wake.wake();
        poll.wait(Some(Duration::ZERO), &mut ready).expect("the poll is open");
        assert_eq!(ready, [Ready { token: 7, readable: true, ..Ready::default() }]);
        wake.clear();
        poll.wait(Some(Duration::ZERO), &mut ready).expect("the poll is open");
        assert_eq!(ready, []);
    }

    #[test]
    fn a_stream_is_reported_for_what_it_is_watched_for_and_for_its_end() {
        let poll = Poll::new().expect("a descriptor is free");
        let (ours, theirs) = UnixStream::pair().expect("a descriptor is free");
        let wait = || {
            let mut ready = Vec::new();
            poll.wait(Some(Duration::ZERO), &mut ready).expect("the poll is open");
            ready
        };
        let both = Interest { readable: true, writable: true };
        poll.watch(ours.as_fd(), 7, both).expect("the descriptor is open");
        assert_eq!(wait(), [Ready { token: 7, writable: true, ..Ready::default() }]);
        (&theirs).write_all(b"x").expect("there is room");
        assert_eq!(wait(), [Ready { token: 7, readable: true, writable: true, ..Ready::default() }]);
        let neither = Interest { readable: false, writable: false };
        poll.modify(ours.as_fd(), 7, neither).expect("the descriptor was added");
        assert_eq!(wait(), []);
        drop(theirs);
        assert!(wait().iter().all(|ready| ready.hung_up && !ready.readable && !ready.writable));
        assert_eq!(wait().len(), 1, "the end of both directions is reported in any case");
        poll.remove(ours.as_fd()).expect("the descriptor was added");
        assert_eq!(wait(), []);
    }
}
