//! SIP messages as a view over the received octets, and what a user agent or proxy needs around them.
//!
//! A [`Message`] is an index of header lines over the datagram: [`parse`] makes it in one pass and judges
//! nothing, [`check()`] finds what makes a message unfit to be forwarded, typed accessors read a header when
//! they are called. [`Edits`] is a patch list over the original octets, so that what nobody understands
//! leaves octet for octet as it came.
//!
//! The crate is pure: no clock, no random source, no sockets. Time and randomness are arguments.
#![forbid(unsafe_code)]

pub mod build;
pub mod check;
mod checked;
pub mod decimal;
pub mod digest;
pub mod edit;
pub mod frame;
pub mod g711;
mod grammar;
pub mod header;
pub mod message;
pub mod rtp;
pub mod sdp;
pub mod stun;
pub mod time;
pub mod transaction;
pub mod uri;
pub mod value;

pub use check::{Fault, check};
pub use checked::{Checked, Peer};
pub use edit::Edits;
pub use header::Name;
pub use message::{Header, Limits, Message, Method, RequestLine, Span, StatusLine, Value, parse};
pub use time::Instant;
pub use uri::{Host, Scheme, Uri};
pub use value::{CSeq, Challenge, Contact, Credentials, DialogReference, NameAddr, Via, ViaParameters};
