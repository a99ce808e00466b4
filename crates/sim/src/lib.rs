//! The simulated world: the engine, phones and PBXs on a virtual clock and a virtual network, all of it decided by one seed.
//!
//! [`World`] is the whole of it: seeded loss, duplication, delay and reordering on every link, NATs that rebind, boxes that
//! crash and come back without their memory, a balancer that is killed and restarted with the facts it had logged. [`Bench`]
//! is the small variant for byte-exact tests: one balancer, and every other party is the test itself. [`Model`] judges a
//! finished run by what was seen on the wire, and [`run_seed`] makes a random world of a seed and has it judged.
//!
//! Nothing here opens a socket, reads a clock or sleeps; the same seed gives the same wire, octet for octet.

#![forbid(unsafe_code)]

pub mod balancer;
pub mod bench;
pub mod fuzzing;
pub mod ladder;
pub mod model;
pub mod network;
pub mod node;
pub mod published;
pub mod random;
pub mod script;
pub mod seed;
pub mod settings;
pub mod world;

pub use balancer::Balancer;
pub use bench::{Bench, Dialog};
pub use model::Model;
pub use network::{Datagram, Fate, Link, Party, Sent};
pub use node::{BoxPlan, Crash, PbxBox, Peer, Phone, PhonePlan};
pub use random::Random;
pub use script::{Answer, Script, Text};
pub use seed::{Failure, Report, run_seed};
pub use settings::{box_address, one_farm, phone_address};
pub use world::{World, WorldSettings};
