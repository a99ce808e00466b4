//! What the developers of tandem run: `cargo xtask test`, and the rules and measurements behind it. Never shipped.
#![forbid(unsafe_code)]
#![allow(clippy::disallowed_methods, reason = "a tool that starts programs and measures them needs the clock")]

pub mod bench;
pub mod checklist;
pub mod conformance;
mod document;
pub mod fuzz;
pub mod gate;
pub mod netns;
pub mod peers;
pub mod published;
pub mod purity;
pub mod simulate;
pub mod source;
pub mod step;
pub mod sync_docs;
pub mod tidy;
pub mod workspace;
