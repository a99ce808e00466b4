//! Whole runs against PBXs, phones and peers that misbehave.

mod calls;
mod ends;
mod requests;
mod world;
