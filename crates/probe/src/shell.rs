//! The sockets and the clock of probes: one thread runs any number of them in one loop.
//!
//! ```text
//!   Runner            one poll(2) for the sockets of all probes and for what is due next
//!     run             one probe, with its socket for audio and
//!       datagrams       one for messages, and what the network returns of them
//!       connection      or a stream to the proxy (and one to the registrar): fault, trust; octets into messages is the crate `client`
//! ```
#![allow(
    clippy::disallowed_methods,
    reason = "the shell around the pure core: it owns the sockets, the clock and the seeds"
)]

mod connection;
mod datagrams;
mod fault;
mod run;
mod trust;

pub use fault::is_ours;

use crate::course::held_back;
use crate::{Plan, Report};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use run::{End, Room, Run};
use rustls::ClientConfig;
use sip::Instant;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use trust::Trusts;

/// Runs probes. Nothing in it blocks but the wait of [`Runner::turn`]; whoever owns it calls that again and again, as long as
/// [`Runner::running`] says that there is something to do.
pub struct Runner {
    runs: BTreeMap<u64, Run>,
    /// How many were ever started.
    started: u64,
    /// Where our clock begins.
    epoch: std::time::Instant,
    seeds: RandomState,
    trusts: Trusts,
    room: Room,
}

/// One probe of one [`Runner`]; never used twice by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(u64);

/// A probe that is to be run.
#[derive(Clone, Debug)]
pub struct Job {
    pub plan: Plan,
    /// Our own address, and our port for messages; `None`: whatever the kernel chooses towards the proxy.
    pub local: Option<(IpAddr, Option<u16>)>,
    /// Whose certificate is believed over TLS.
    pub trust: Trust,
    /// The name that the certificate must be for, and that a WebSocket asks for; `None`: the address.
    pub server_name: Option<String>,
    /// The same of a registrar that is not the proxy.
    pub registrar_name: Option<String>,
    pub linger: Linger,
    /// Keep the audio that comes back, for [`Report::recording`].
    pub record: bool,
}

/// Whose certificates are believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trust {
    /// By the authorities that the system trusts.
    System,
    /// By the authorities in this PEM file.
    File(PathBuf),
    /// The one with this SHA-256 of its DER, whatever its names and dates.
    Pinned([u8; 32]),
    /// All.
    Off,
}

/// What comes first: the report, or the end of the clearing up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Linger {
    /// The report comes when nothing is left to be done, or when the time is over.
    Stop,
    /// The report comes as soon as it is known, and the clearing up goes on in silence, 32 seconds at most.
    Stay,
}

/// Why a probe cannot begin: something of this machine or of what was asked for. The text says what to do where that is known.
/// `transport`: "udp" or "tcp".
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StartError {
    /// No interface has the address.
    AddressUnavailable { address: IpAddr },
    /// Another program has the address and port.
    AddressInUse { transport: &'static str, address: SocketAddr },
    /// The port is reserved for privileged programs.
    PermissionDenied { transport: &'static str, address: SocketAddr },
    /// All ports for audio are taken.
    NoEvenPort { address: IpAddr },
    /// The system knows no way to the peer.
    NoRoute { to: SocketAddr, error: String },
    /// This machine forbids itself to send there.
    HeldBack { to: SocketAddr },
    /// An IPv4 and an IPv6 address that are to talk to each other.
    Families { ours: IpAddr, theirs: IpAddr },
    /// A file of authorities cannot be used, or a name is none.
    Certificates { text: String },
    /// So many run already.
    TooMany { running: usize },
    /// The system refused a socket for another reason.
    Socket { transport: &'static str, address: SocketAddr, error: String },
}

impl Runner {
    /// A runner with nothing to do.
    pub fn new() -> Self {
        Self {
            runs: BTreeMap::new(),
            started: 0,
            epoch: std::time::Instant::now(),
            seeds: RandomState::new(),
            trusts: Trusts::default(),
            room: Room::new(),
        }
    }

    /// Opens the sockets of a probe and sends its first message. Its report comes from [`Runner::turn`].
    ///
    /// # Errors
    /// Nothing was sent; see [`StartError`].
    pub fn start(&mut self, job: Job) -> Result<JobId, StartError> {
        if self.runs.len() >= MOST_AT_ONCE && !self.end_oldest_told() {
            return Err(StartError::TooMany { running: self.runs.len() });
        }
        let now = self.now();
        let run = Run::start(job, now, self.seeds.hash_one(self.started), &mut self.trusts)?;
        let id = self.started;
        self.started += 1;
        self.runs.insert(id, run);
        Ok(JobId(id))
    }

    /// Waits until something comes or is due, `at_most` so long, and does what there is to do. Returns the reports that have become
    /// known. A signal ends the wait early.
    pub fn turn(&mut self, at_most: Duration) -> Vec<(JobId, Report)> {
        let patience = self.next_due().map_or(at_most, |due| due.min(at_most));
        let ready = wait(&self.runs, patience);
        let now = self.now();
        for (id, end) in ready {
            if let Some(run) = self.runs.get_mut(&id) {
                run.serve(now, end, &mut self.room);
            }
        }
        let mut reports = Vec::new();
        self.runs.retain(|id, run| {
            run.advance(now);
            reports.extend(run.take_report(now).map(|report| (JobId(*id), report)));
            let is_finished = run.is_finished();
            if is_finished {
                run.close();
            }
            !is_finished
        });
        reports
    }

    /// Ends all probes early: calls and registrations are taken back, within a quarter of their time and two seconds at most.
    pub fn interrupt_all(&mut self) {
        let now = self.now();
        for run in self.runs.values_mut() {
            run.interrupt(now);
        }
    }

    /// Those that are under way, with those that were reported and still clear up.
    pub fn running(&self) -> usize {
        self.runs.len()
    }

    /// How long until something is due if nothing comes before; `None` if nothing runs.
    pub fn next_due(&self) -> Option<Duration> {
        let due = self.runs.values().map(Run::due).min()?;
        Some(due.saturating_since(self.now()))
    }

    /// Whoever was reported and only clears up makes room: dead servers must not keep the living ones from being checked.
    fn end_oldest_told(&mut self) -> bool {
        let now = self.now();
        let Some(id) = self.runs.iter().find(|(_, run)| run.is_told()).map(|(id, _)| *id) else { return false };
        if let Some(mut run) = self.runs.remove(&id) {
            run.abandon(now);
            run.close();
        }
        true
    }

    fn now(&self) -> Instant {
        Instant::default() + self.epoch.elapsed()
    }
}

impl Default for Runner {
    fn default() -> Self {
        Self::new()
    }
}

impl StartError {
    fn of_bind(transport: &'static str, address: SocketAddr, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse { transport, address },
            io::ErrorKind::AddrNotAvailable => Self::AddressUnavailable { address: address.ip() },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { transport, address },
            _ => Self::Socket { transport, address, error: error.to_string() },
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressUnavailable { address } => write!(
                formatter,
                "cannot send from {address}: no interface of this machine has the address; `ip address` lists those there are"
            ),
            Self::AddressInUse { transport, address } => {
                let kind = if *transport == "udp" { 'u' } else { 't' };
                write!(
                    formatter,
                    "address in use: another program holds {transport} {address}; `ss -{kind}lpn` names it, and without a port \
                     a free one is taken"
                )
            }
            Self::PermissionDenied { transport, address } => write!(
                formatter,
                "cannot use {transport} {address}: permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            ),
            Self::NoEvenPort { address } => {
                write!(formatter, "no port for audio is free at {address}; `ss -uan` lists those in use")
            }
            Self::NoRoute { to, error } => {
                write!(formatter, "no way leads to {}: {error}; `ip route get {}` says more", to.ip(), to.ip())
            }
            Self::HeldBack { to } => formatter.write_str(&held_back(*to)),
            Self::Families { ours, theirs } => write!(
                formatter,
                "{ours} and {theirs} cannot talk to each other: one is IPv4, the other IPv6; give addresses of one kind"
            ),
            Self::Certificates { text } => formatter.write_str(text),
            Self::TooMany { running } => {
                write!(
                    formatter,
                    "{running} checks are under way, and no more are run at once; make their intervals longer"
                )
            }
            Self::Socket { transport, address, error } => write!(
                formatter,
                "no socket for {transport} {address}: {error}; perhaps the limit of open files is too low (`ulimit -n`)"
            ),
        }
    }
}

impl std::error::Error for StartError {}

/// The client's side of TLS, for whoever makes connections of his own. Files are read each time.
///
/// # Errors
/// [`StartError::Certificates`].
pub fn client_config(trust: &Trust) -> Result<Arc<ClientConfig>, StartError> {
    Trusts::default().config(trust)
}

/// The sockets at which something happened within this time.
fn wait(runs: &BTreeMap<u64, Run>, at_most: Duration) -> Vec<(u64, End)> {
    let (mut watched, mut owners): (Vec<PollFd<'_>>, Vec<(u64, End)>) = (Vec::new(), Vec::new());
    for (id, run) in runs {
        run.watch(*id, &mut watched, &mut owners);
    }
    match poll(&mut watched, milliseconds(at_most)) {
        Ok(0) | Err(Errno::EINTR) => return Vec::new(),
        Ok(_) => {}
        Err(_) => {
            // Out of memory: not to be tried again at once.
            std::thread::sleep(at_most.min(TICK));
            return Vec::new();
        }
    }
    let is_ready = |one: &PollFd<'_>| one.revents().is_none_or(|flags| flags != PollFlags::empty());
    watched.iter().zip(owners).filter(|(one, _)| is_ready(one)).map(|(_, owner)| owner).collect()
}

/// Rounded up, so that a deadline is over when the wait for it ends.
fn milliseconds(time: Duration) -> PollTimeout {
    u32::try_from(time.as_micros().div_ceil(1_000))
        .ok()
        .and_then(|ms| PollTimeout::try_from(ms).ok())
        .unwrap_or(PollTimeout::MAX)
}

/// Probes at once: with up to four sockets each they fit into the usual limit of 1,024 open files.
pub const MOST_AT_ONCE: usize = 240;
const TICK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests;
