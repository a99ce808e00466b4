//! Whole runs against PBXs, phones and peers that misbehave.

mod calls;
mod connections;
mod ends;
mod held_back;
mod requests;
mod world;
