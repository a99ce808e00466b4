//! The transaction machines of `sip`, INVITE's and the others' under one roof: who drives them need not know which it is.

use sip::Instant;
use sip::transaction::{ClientAction, InviteClient, InviteServer, OtherClient, OtherServer, ServerAction, Timing};

/// The server transaction of a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Server {
    Invite(InviteServer),
    Other(OtherServer),
}

/// The client transaction of one branch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    Invite(InviteClient),
    Other(OtherClient),
}

impl Server {
    /// The request came again.
    pub(crate) fn on_request(&mut self) -> ServerAction {
        match *self {
            Self::Invite(machine) => self.become_invite(machine.on_request()),
            Self::Other(machine) => self.become_other(machine.on_request()),
        }
    }

    /// An ACK with the key of this transaction came; only INVITE knows it.
    pub(crate) fn on_ack(&mut self, now: Instant, timing: &Timing) -> ServerAction {
        match *self {
            Self::Invite(machine) => self.become_invite(machine.on_ack(now, timing)),
            Self::Other(machine) => self.become_other(machine.on_request()),
        }
    }

    pub(crate) fn on_send_response(&mut self, now: Instant, code: u16, timing: &Timing) -> ServerAction {
        match *self {
            Self::Invite(machine) => self.become_invite(machine.on_send_response(now, code, timing)),
            Self::Other(machine) => self.become_other(machine.on_send_response(now, code, timing)),
        }
    }

    pub(crate) fn on_timer(&mut self, now: Instant, timing: &Timing) -> ServerAction {
        match *self {
            Self::Invite(machine) => self.become_invite(machine.on_timer(now, timing)),
            Self::Other(machine) => self.become_other(machine.on_timer(now, timing)),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.deadline(),
            Self::Other(machine) => machine.deadline(),
        }
    }

    pub(crate) fn is_terminated(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_terminated(),
            Self::Other(machine) => machine.is_terminated(),
        }
    }

    /// A final answer has gone up, or will never.
    pub(crate) fn has_answered(&self) -> bool {
        match self {
            Self::Invite(machine) => !machine.is_pending(),
            Self::Other(machine) => machine.is_completed() || machine.is_terminated(),
        }
    }

    /// Ends without an answer.
    pub(crate) fn end(&mut self) {
        *self = match self {
            Self::Invite(_) => Self::Invite(InviteServer::Terminated),
            Self::Other(_) => Self::Other(OtherServer::Terminated),
        };
    }

    fn become_invite(&mut self, (machine, action): (InviteServer, ServerAction)) -> ServerAction {
        *self = Self::Invite(machine);
        action
    }

    fn become_other(&mut self, (machine, action): (OtherServer, ServerAction)) -> ServerAction {
        *self = Self::Other(machine);
        action
    }
}

impl Client {
    pub(crate) fn on_response(&mut self, now: Instant, code: u16, timing: &Timing) -> ClientAction {
        match *self {
            Self::Invite(machine) => self.become_invite(machine.on_response(now, code, timing)),
            Self::Other(machine) => self.become_other(machine.on_response(now, code, timing)),
        }
    }

    pub(crate) fn on_timer(&mut self, now: Instant, timing: &Timing) -> ClientAction {
        match *self {
            Self::Invite(machine) => self.become_invite(machine.on_timer(now, timing)),
            Self::Other(machine) => self.become_other(machine.on_timer(now, timing)),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.deadline(),
            Self::Other(machine) => machine.deadline(),
        }
    }

    pub(crate) fn is_terminated(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_terminated(),
            Self::Other(machine) => machine.is_terminated(),
        }
    }

    /// Ends without an answer.
    pub(crate) fn end(&mut self) {
        *self = match self {
            Self::Invite(_) => Self::Invite(InviteClient::Terminated),
            Self::Other(_) => Self::Other(OtherClient::Terminated),
        };
    }

    fn become_invite(&mut self, (machine, action): (InviteClient, ClientAction)) -> ClientAction {
        *self = Self::Invite(machine);
        action
    }

    fn become_other(&mut self, (machine, action): (OtherClient, ClientAction)) -> ClientAction {
        *self = Self::Other(machine);
        action
    }
}
