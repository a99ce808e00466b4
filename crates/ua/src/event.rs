//! What comes out of a user agent and of a PBX.

use std::net::SocketAddr;

/// One call of one user agent; never used twice by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

/// What the shell does next: to be drained after every call that takes a time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output<E = Event> {
    /// Send this datagram from our own address.
    Send { to: SocketAddr, bytes: Vec<u8> },
    /// Something that the owner may want to know; asks for nothing.
    Event(E),
}

/// What happened to a user agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A REGISTER was accepted for this many seconds; told again at each refresh.
    Registered { expires: u32 },
    /// A REGISTER failed finally; 408 when nothing came. It is tried again by itself.
    RegisterFailed { code: u16 },
    /// The registrar confirmed that our binding is gone.
    Unregistered,
    /// Somebody calls; `from` is the URI of the From header.
    Incoming { call: CallId, from: String },
    /// Our call got this provisional status (101 to 199).
    Ringing { call: CallId, code: u16 },
    /// Our call was answered; the ACK is sent.
    Answered { call: CallId, remote_media: Option<SocketAddr> },
    /// The caller acknowledged our answer.
    Confirmed { call: CallId, remote_media: Option<SocketAddr> },
    /// An answered call is over. By us: the code that our BYE got, 408 when nothing came or the other side never
    /// acknowledged our answer. By the other side: 200.
    Ended { call: CallId, by_us: bool, code: u16 },
    /// Our call was not answered; 408 when nothing came. Or: we refused an incoming call with this code.
    Failed { call: CallId, code: u16 },
    /// A re-INVITE got this final answer: ours from the other side, or the other side's from us.
    Reinvited { call: CallId, code: u16 },
    /// The caller gave up before we answered, or our own CANCEL took effect.
    Cancelled { call: CallId },
}

/// What happened to a PBX. Users are named by the user part of their URI.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PbxEvent {
    /// A contact URI was bound or refreshed.
    Registered { user: String, contact: String },
    /// A contact of the user was removed or lapsed.
    Unregistered { user: String },
    /// A call was answered.
    CallStarted { from: String, to: String },
    /// An answered call is over.
    CallEnded { from: String, to: String },
    /// A digest answer to one of our own nonces was wrong.
    AuthFailed { user: String },
}
