//! What a load is to be.

use super::user::UserName;
use crate::stream::Streams;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What to do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    pub kind: Kind,
    pub pace: Pace,
    /// How long exchanges are begun, warm-up not included.
    pub duration: Duration,
    /// Where all requests go.
    pub balancer: SocketAddr,
    /// The caller's own address. An unspecified one is chosen by the way to the balancer, port 0 by the system.
    pub caller: SocketAddr,
    /// The callee's own address: the server that the balancer sends to. Of no meaning where somebody else answers.
    pub callee: SocketAddr,
}

/// What the exchanges are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Call,
    Register,
    Options,
}

/// When an exchange is begun.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// When another one ends: so many are always under way.
    Closed { concurrency: usize },
    /// So many a second, however many are under way and whatever became of them.
    Rate { per_second: f64 },
}

/// What most loads leave as it is. Not `Debug`, since it holds a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Details {
    /// The caller's users take turns: so many, from `first_user` on.
    pub users: u32,
    pub first_user: u32,
    /// Who calls and registers.
    pub caller_name: UserName,
    /// Who is called; the number is the caller's.
    pub callee_name: UserName,
    /// The users' domain; `None`: the balancer's address.
    pub domain: Option<String>,
    /// All users' password; `None`: registrations make credentials up, which satisfies the generator's own callee and nobody else.
    pub password: Option<String>,
    /// Whether to be the callee too; false where a real server stands behind the balancer.
    pub answer: bool,
    /// How long a call goes on before its BYE.
    pub hold: Duration,
    /// Exchanges to be begun, warm-up not included; `None`: as many as the time allows.
    pub count: Option<u64>,
    /// How long exchanges are begun before they count.
    pub warm_up: Duration,
    /// What is under way when the load is over may end within this, calls that are held after their time.
    pub grace: Duration,
    /// How long to wait for the balancer to say that it is up, before the load begins anyway.
    pub ready_within: Duration,
    /// Processes whose CPU time and memory are measured.
    pub processes: Vec<u32>,
    /// Whether to ask the sockets again and again instead of sleeping. Whoever sends to a sleeping thread on another core pays for waking
    /// it, and in a virtual machine the host has to: a target would look the dearer the more time its generator has left.
    pub busy_poll: bool,
    /// How the balancer is reached; `None`: by datagrams. The callee answers by datagrams in any case.
    pub streams: Option<Streams>,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            users: 1_000,
            first_user: 0,
            caller_name: UserName::numbered("u"),
            callee_name: UserName::numbered("c"),
            domain: None,
            password: None,
            answer: true,
            hold: Duration::ZERO,
            count: None,
            warm_up: Duration::ZERO,
            grace: Duration::from_secs(5),
            ready_within: Duration::from_secs(20),
            processes: Vec::new(),
            busy_poll: false,
            streams: None,
        }
    }
}

impl Kind {
    /// As in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Register => "registration",
            Self::Options => "ping",
        }
    }

    /// Of the request that an exchange begins with.
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Call => "INVITE",
            Self::Register => "REGISTER",
            Self::Options => "OPTIONS",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { concurrency } => write!(formatter, "{concurrency} at a time"),
            Self::Rate { per_second } => write!(formatter, "{per_second} a second"),
        }
    }
}
