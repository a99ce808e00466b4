//! The transaction machines of `sip`, INVITE's and the others' under one roof: who drives them need not know which it is.

use sip::Instant;
use sip::transaction::{
    ClientAction, InviteClient, InviteServer, Link, OtherClient, OtherServer, ServerAction, Timing,
};

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
    /// Of a request that was just sent.
    pub(crate) fn start(invite: bool, now: Instant, link: Link, timing: &Timing) -> Self {
        if invite {
            Self::Invite(InviteClient::start(now, link, timing))
        } else {
            Self::Other(OtherClient::start(now, link, timing))
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::world::at;
    use sip::transaction::Link;

    const TIMING: Timing = Timing::DEFAULT;

    /// RFC 3261 §17.2.1.
    #[test]
    fn an_invite_server_repeats_its_refusal_until_the_ack() {
        let mut server = Server::Invite(InviteServer::start(Link::Datagram));
        assert_eq!((server.on_request(), server.deadline()), (ServerAction::Absorb, None));
        assert_eq!(server.on_send_response(at(0), 180, &TIMING), ServerAction::None);
        assert_eq!((server.on_request(), server.has_answered()), (ServerAction::Retransmit, false));
        assert_eq!(server.on_send_response(at(0), 486, &TIMING), ServerAction::None);
        assert_eq!((server.has_answered(), server.is_terminated()), (true, false));
        assert_eq!(server.deadline(), Some(at(500)));
        assert_eq!(server.on_timer(at(500), &TIMING), ServerAction::Retransmit);
        assert_eq!(server.deadline(), Some(at(1_500)));
        assert_eq!(server.on_ack(at(600), &TIMING), ServerAction::Absorb);
        assert_eq!(server.deadline(), Some(at(5_600)));
        assert_eq!(server.on_timer(at(5_600), &TIMING), ServerAction::Terminated);
        assert_eq!((server.has_answered(), server.is_terminated()), (true, true));
    }

    /// RFC 3261 §17.2.2; only INVITE knows an ACK.
    #[test]
    fn another_server_repeats_its_answer_for_32_seconds() {
        let mut server = Server::Other(OtherServer::start(Link::Datagram));
        assert_eq!((server.on_request(), server.has_answered()), (ServerAction::Absorb, false));
        assert_eq!(server.on_send_response(at(0), 200, &TIMING), ServerAction::None);
        assert_eq!((server.has_answered(), server.is_terminated()), (true, false));
        assert_eq!([server.on_request(), server.on_ack(at(1), &TIMING)], [ServerAction::Retransmit; 2]);
        assert_eq!(server.deadline(), Some(at(32_000)));
        assert_eq!(server.on_timer(at(31_999), &TIMING), ServerAction::None);
        assert_eq!(server.on_timer(at(32_000), &TIMING), ServerAction::Terminated);
        assert_eq!((server.has_answered(), server.is_terminated()), (true, true));
    }

    /// RFC 3261 §17.1.
    #[test]
    fn clients_of_both_kinds_retransmit_until_they_are_answered() {
        let start =
            (InviteClient::start(at(0), Link::Datagram, &TIMING), OtherClient::start(at(0), Link::Datagram, &TIMING));
        for (mut client, passed, until) in [
            (Client::Invite(start.0), ClientAction::PassUpAndAck, 32_600),
            (Client::Other(start.1), ClientAction::PassUp, 5_600),
        ] {
            assert_eq!(client.deadline(), Some(at(500)));
            assert_eq!(client.on_timer(at(500), &TIMING), ClientAction::Retransmit);
            assert_eq!(client.deadline(), Some(at(1_500)));
            assert_eq!(client.on_response(at(600), 486, &TIMING), passed);
            assert_eq!((client.deadline(), client.is_terminated()), (Some(at(until)), false));
            assert_eq!(client.on_timer(at(until), &TIMING), ClientAction::Terminated);
            assert_eq!((client.deadline(), client.is_terminated()), (None, true));
        }
    }

    #[test]
    fn what_is_ended_waits_for_nothing() {
        let invite = Server::Invite(InviteServer::start(Link::Datagram));
        for mut server in [invite, Server::Other(OtherServer::start(Link::Datagram))] {
            assert!(!server.is_terminated());
            server.end();
            assert_eq!((server.is_terminated(), server.has_answered(), server.deadline()), (true, true, None));
        }
        let invite = Client::Invite(InviteClient::start(at(0), Link::Datagram, &TIMING));
        for mut client in [invite, Client::Other(OtherClient::start(at(0), Link::Datagram, &TIMING))] {
            client.end();
            assert_eq!((client.is_terminated(), client.deadline()), (true, None));
        }
    }
}
