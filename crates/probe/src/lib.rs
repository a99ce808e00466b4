//! Checks that do what a phone does: they ask, register, call, speak, listen, hang up and un-register, and say in one line what
//! they found.
//!
//! ```text
//!   shell    sockets, one poll loop for any number of probes                                    the only part with IO
//!     |
//!   course   Probe: registering -> calling -> talking -> clearing up, and the first fault on that way
//!     |  \
//!     |   quality, audio    what to say; what came back, and what it is worth (ITU-T G.107)
//!     |
//!   report   one line for Nagios, JSON, a ladder to read                                  plan   what is to be done
//! ```
//!
//! All but `shell` is pure: no clock, no random source, no socket. Time and randomness are arguments.
#![forbid(unsafe_code)]

pub mod audio;
mod course;
mod plan;
pub mod quality;
mod report;
pub mod shell;

pub use course::{Ends, Output, Probe, Unreachable};
pub use plan::{CallPlan, Kind, Plan, Sound, Transport};
pub use quality::Quality;
pub use report::{Figure, Figures, Range, RangeFault, Report, State, Step, Threshold};
