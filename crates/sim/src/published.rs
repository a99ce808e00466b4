//! Published results, measured again inside the simulation with the balancer that is shipped.
//!
//! [`cluster`] repeats the comparison of Jiang, Iyengar, Nahum, Segmuller, Tantawi and Wright, "Design, Implementation,
//! and Performance of a Load Balancer for SIP Server Clusters" (IEEE/ACM Transactions on Networking 20(4), 2012): least
//! work against a hash of the Call-ID, turns and fewest calls. [`spread`] counts where calls go when one of six boxes
//! is lost, against a hash that walks on to the next living box. [`plot`] draws both.
//!
//! The boxes are queues and the callers a distribution; everything between them is the engine, fed real messages on
//! virtual time. All of it follows from a seed.

pub mod cluster;
pub mod plot;
pub mod spread;
