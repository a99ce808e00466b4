//! The proxy of tandem: RFC 3261 §16 as a pure machine, with balancing, persistence, the directory and the tokens.
//!
//! A [`Shard`] is fed datagrams and the time, and hands back datagrams and its next deadline. Shards of one unit have [`Shared`]
//! facts in common and nothing else. [`route`] names the shard of a datagram before anybody has parsed it.
#![forbid(unsafe_code)]

mod avoided;
mod context;
mod counters;
mod decide;
mod directory;
mod explain;
mod forward;
mod id;
mod identity;
mod io;
mod machine;
pub mod names;
mod origin;
mod outage;
pub mod policy;
pub mod pool;
mod reach;
mod register;
mod route;
mod running;
pub mod settings;
mod shard;
mod shared;
mod snapshot;
mod table;
mod throttle;
mod token;
mod wheel;

pub use counters::Counter;
pub use directory::Loaded;
pub use explain::{Explanation, explain};
pub use id::{BackendId, FarmId, ListenerId};
pub use io::{CheckOutcome, ConnectionId, DownCause, Event, Flow, Input, Output, Packet, UpCause};
pub use names::{Answers, Found, Target};
pub use pool::CheckView;
pub use reach::Reach;
pub use route::{route, route_returned};
pub use running::guardians_of;
pub use settings::*;
pub use shard::Shard;
pub use shared::Shared;
pub use snapshot::{BackendSnapshot, FarmSnapshot, ServiceSnapshot, Snapshot};
pub use token::Secrets;
pub use wheel::RESOLUTION;
