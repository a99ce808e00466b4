//! The load generator: both ends of many exchanges in one thread.
//!
//! The caller sends to the balancer and nowhere else, as a phone with an outbound proxy does; the callee answers to where a request came
//! from. Both follow what a proxy on the way adds (Via, Record-Route), so that the same load runs through a raw relay, tandem or any
//! other proxy. A call is INVITE, 180, 200, ACK, BYE, 200; a registration REGISTER, 401, REGISTER, 200; a ping OPTIONS, 200. What is not
//! answered is sent again as RFC 3261 §17 says. Without a callee of its own the caller talks to a real server: it answers challenges, takes
//! the requests that such a server sends by itself, and cancels what nobody answers.
//!
//! ```text
//! settings, user       what to do, and names with numbers in them
//! course               one load on open sockets, from its start to its report; ends: the sockets
//! front                the caller's way to the balancer: a socket for datagrams, or connections
//! schedule, metronome  when exchanges are due, and waking up in time for them
//! caller, callee       the two ends, pure: given datagrams and the time, they fill an outbox
//! requests, replies    what they say; template: texts in which numbers change; scan: reading what comes
//! credentials, retry   answers to challenges; what is to be sent again, and when
//! ```

mod callee;
mod caller;
mod counts;
mod course;
mod credentials;
mod ends;
mod front;
mod metronome;
mod outbox;
mod replies;
mod requests;
mod retry;
mod scan;
mod schedule;
mod settings;
mod template;
mod user;

pub(crate) use course::Generator;
pub use settings::{Details, Kind, Pace, Settings};
pub use user::{UserName, UserNameError};

use crate::report::{Progress, Report};
use net::NetError;
use std::sync::atomic::AtomicBool;

/// Runs a load in this thread until its time is over or `stop` is true. `progress` is told once a second. Fails when an address cannot be
/// listened at.
pub fn run(settings: Settings, stop: &AtomicBool, progress: impl FnMut(Progress)) -> Result<Report, NetError> {
    run_with(settings, &Details::default(), stop, progress)
}

/// As [`run`], with `details`.
pub fn run_with(
    settings: Settings,
    details: &Details,
    stop: &AtomicBool,
    mut progress: impl FnMut(Progress),
) -> Result<Report, NetError> {
    let mut generator = Generator::open(settings, details)?;
    generator.await_ready(stop, &mut progress)?;
    generator.run(settings.pace, settings.duration, stop, &mut progress)
}

#[cfg(test)]
mod tests;
