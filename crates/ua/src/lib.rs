//! One user agent and one small PBX, both as pure state machines: fed with datagrams and a time, they hand back datagrams,
//! events and their next deadline. The demo, the simulated world, the load generator and the call-placing checks all use
//! these two and differ only in the shell around them.
//!
//! ```text
//!            UserAgent (agent)          Pbx (pbx)              what is decided: whom to answer, whom to connect
//!                     \                  /
//!                      Endpoint (endpoint)                     RFC 3261 §8, §12–15: legs, dialogs, 2xx and ACK, CANCEL, BYE
//!                              |
//!                      Transactions (transact)                 RFC 3261 §17: the machines of `sip`, with their datagrams
//! ```
//!
//! Neither reads a clock nor a random source: time is an argument of each call, and every tag, branch, Call-ID and nonce
//! follows from the seed given at the start.
#![forbid(unsafe_code)]

mod account;
mod address;
mod agenda;
mod agent;
mod carrier;
mod dialog;
mod endpoint;
mod event;
mod limits;
mod login;
mod pbx;
mod random;
mod transact;

pub use account::{Account, Answering};
pub use agent::{OptionsAnswer, UserAgent};
pub use carrier::Carrier;
pub use event::{CallId, Event, Output, PbxEvent};
pub use pbx::{Fault, Pbx, PbxSettings};
