//! Streams: what a message costs over TCP and TLS, what idle connections cost, and everybody reconnecting at once.
//!
//! The phones are `tandem load`, a process of its own on the core of the generator; the server behind the balancer answers by datagrams and
//! is the same for everybody. Nobody resumes a TLS session: each connection is another phone.
//!
//! ```text
//! relayed              CPU time per message, and handshakes, beside Kamailio
//! idle, storm          tandem alone
//! client, certificate  what they need
//! ```

mod certificate;
mod client;
pub(super) mod idle;
pub(super) mod relayed;
pub(super) mod storm;

/// What phones connect by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Carrier {
    Tcp,
    Tls,
}

impl Carrier {
    const ALL: [Self; 2] = [Self::Tcp, Self::Tls];

    /// As `tandem load` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Where the balancer listens.
    fn address(self) -> &'static str {
        match self {
            Self::Tcp => super::BALANCER,
            Self::Tls => super::SECURE,
        }
    }
}
