//! Batches of datagrams on Linux, and the few system calls around sockets that the standard library does not offer.
//!
//! - [`Receiver`]: recvmmsg with the local address of each datagram;
//! - [`Sender`]: sendmmsg with a source address for each datagram, going on after one that fails;
//! - [`ErrorQueue`]: what the network returned of our datagrams;
//! - [`Poll`] and [`Wake`]: waiting for several sockets and being woken by another thread;
//! - [`kernel_drops`].
//!
//! Socket addresses and control messages are written and read as octets in the kernel's layout, in safe code; what remains
//! unsafe is the calls themselves. Each says why the pointers it passes are good.
#![allow(unsafe_code)]

mod address;
mod control;
mod option;
mod poll;
mod receive;
mod returned;
mod send;

pub use option::kernel_drops;
pub(crate) use option::{monotonic_micros, set_option};
pub use poll::{Interest, Poll, Ready, Wake};
pub use receive::{Datagram, RECEIVE_BATCH, Receiver};
pub use returned::{ErrorQueue, Returned};
pub use send::{Outgoing, SEND_BATCH, Sender};
