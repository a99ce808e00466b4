//! Whole flows between user agents and PBXs, in a small network with a clock of its own: no socket, no waiting.

mod agents;
mod calls_through_a_pbx;
mod challenges;
mod checks;
mod loss;
mod registrations;
mod world;
