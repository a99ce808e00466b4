//! The response context of RFC 3261 §16: one server transaction, the client transactions made for it, and what came of them.

use crate::directory::{DialogKey, Directory};
use crate::id::{BackendId, FarmId};
use crate::io::{Flow, Packet};
use crate::machine::{Client, Server};
use crate::pool::{BackendState, CallTicket, WorkTicket};
use crate::register::Registration;
use sip::Instant;
use sip::transaction::OtherClient;
use smallvec::SmallVec;
use std::sync::Arc;

/// One request on its way through the proxy.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) kind: Kind,
    pub(crate) farm: FarmId,
    /// Where responses go, and from which address of ours.
    pub(crate) upstream: Flow,
    /// Where the request came from first: part of its branches.
    pub(crate) first_upstream: Flow,
    /// What its branches say for loop detection. A reload may change what would be said later.
    pub(crate) loop_hash: u32,
    pub(crate) server: Server,
    pub(crate) branches: SmallVec<[ClientBranch; 1]>,
    /// The branch whose final answer went up; `None` while there is none, and if the answer was our own.
    pub(crate) answered_by: Option<usize>,
    /// RFC 3261 §16.7 step 6: the best final answer so far.
    pub(crate) best: Option<Best>,
    /// What a retransmission of the request is answered with.
    pub(crate) last_response: Option<Packet>,
    /// A CANCEL came: no new branch may start.
    pub(crate) cancelled: bool,
    /// Reason lines of the CANCELs that this context sends.
    pub(crate) cancel_reason: Box<[u8]>,
    /// When a 100 is due, unless another response goes up first.
    pub(crate) trying_at: Option<Instant>,
    /// When the newest branch is given up for the next backend or place.
    pub(crate) failover_at: Option<Instant>,
    /// What is needed to try another backend or place; only for requests that may.
    pub(crate) placement: Option<Box<Placement>>,
    /// What makes a difference should the flow to a phone fail; only of requests for which it does.
    pub(crate) spare: Option<Box<Spare>>,
    /// Which way it went could not be told from its branch later, or it went over a stream, where nobody waits for a repetition: that
    /// is answered from here to the end.
    pub(crate) keeps_answer: bool,
    /// The earliest deadline that the wheel knows of.
    pub(crate) armed: Option<Instant>,
    /// Counted among those that wait for a final answer.
    pub(crate) awaited: bool,
}

/// What must be known of the request without its octets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Kind {
    pub(crate) invite: bool,
    pub(crate) bye: bool,
    pub(crate) register: bool,
    /// Has a To tag.
    pub(crate) in_dialog: bool,
    /// INVITE and UPDATE carry session timers.
    pub(crate) refreshes: bool,
    /// REGISTER or SUBSCRIBE: their 503 may carry Retry-After.
    pub(crate) may_retry_later: bool,
    /// REGISTER, OPTIONS, SUBSCRIBE or PUBLISH: without a final answer in time it goes to the next backend.
    pub(crate) waits_for_final: bool,
    pub(crate) with_credentials: bool,
}

/// One attempt at one next hop.
#[derive(Debug)]
pub(crate) struct ClientBranch {
    pub(crate) client: Client,
    pub(crate) flow: Flow,
    pub(crate) hop: Hop,
    /// The request as it was sent.
    pub(crate) sent: Packet,
    pub(crate) sent_at: Instant,
    /// Any response came: the next hop lives.
    pub(crate) answered: bool,
    /// A provisional response came: a CANCEL may follow (RFC 3261 §9.1).
    pub(crate) provisional: bool,
    /// The final response came, or what stands for it.
    pub(crate) finished: bool,
    /// Given up for another backend: its answers count only if they are a success.
    pub(crate) abandoned: bool,
    pub(crate) cancel: Cancel,
    /// The ACK of its failure, for retransmitted failures.
    pub(crate) ack: Option<Packet>,
    /// RFC 3261 §16.6 step 11, INVITE only.
    pub(crate) timer_c: Option<Instant>,
    /// Counts the transaction at its backend while it is under way.
    pub(crate) work: Option<WorkTicket>,
    pub(crate) registration: Option<Box<Registration>>,
    /// The dialog that this request makes, refreshes or ends.
    pub(crate) dialog: Option<DialogNote>,
    /// Counts the call at its backend until the dialog does.
    pub(crate) ticket: Option<CallTicket>,
    /// The same request as a datagram and where that would go, while its stream may still be refused.
    pub(crate) datagram: Option<Box<(Flow, Packet)>>,
}

impl ClientBranch {
    /// Its peer, heard at `flow`, is no longer where the request went.
    pub(crate) fn peer_has_moved(&self, flow: &Flow) -> bool {
        let moved = !flow.leads_like(&self.flow) && flow.listener == self.flow.listener;
        moved && matches!(self.hop, Hop::Peer)
    }

    /// Its final answer came, or what stands for it.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        self.timer_c = None;
        self.work = None;
        self.datagram = None;
    }
}

/// Whose answers these are.
#[derive(Clone, Debug)]
pub(crate) enum Hop {
    Backend(Arc<BackendState>),
    /// A phone, a trunk, or where egress leads.
    Peer,
}

/// The CANCEL of one branch.
#[derive(Debug)]
pub(crate) enum Cancel {
    NotWanted,
    /// As soon as a provisional response comes.
    Wanted,
    Sent {
        client: OtherClient,
        packet: Packet,
        /// When a silent next hop counts as having answered 487 (RFC 3261 §9.1: 64 × T1).
        gives_up: Instant,
    },
}

/// The best final answer so far, as it would go upstream.
#[derive(Clone, Debug)]
pub(crate) struct Best {
    pub(crate) code: u16,
    pub(crate) packet: Packet,
    /// The branch it came by; `None`: it is our own.
    pub(crate) branch: Option<usize>,
}

/// What another attempt needs to know.
#[derive(Debug)]
pub(crate) struct Placement {
    pub(crate) received: Received,
    /// Whose fail-over settings count.
    pub(crate) service: usize,
    /// The service's name: a reload may give it another index.
    pub(crate) service_name: Arc<str>,
    /// The configuration that `service` and the indices belong to.
    pub(crate) generation: u32,
    pub(crate) attempts_left: u32,
    pub(crate) choice: Choice,
}

/// A request as it was received, kept for another attempt.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) request: Packet,
    pub(crate) arrived: Flow,
}

/// Among what the next hop of each attempt is chosen.
#[derive(Debug)]
pub(crate) enum Choice {
    /// The backends of the service.
    Backends {
        /// Indices of those tried.
        tried: SmallVec<[usize; 4]>,
        /// Those that hold a binding of the called user and have not been tried, best first.
        affinity: SmallVec<[usize; 2]>,
        /// The newest attempt went to a backend for the sake of its binding.
        by_affinity: bool,
    },
    /// Places that egress leads to: that of the newest attempt, then those not tried yet, best first.
    Places(Vec<Flow>),
    /// The boxes that hold a binding of the called user, for a request of another box; after them his phone.
    Holders { tried: SmallVec<[BackendId; 2]> },
}

/// What becomes of a request whose flow to a phone fails.
#[derive(Debug)]
pub(crate) enum Spare {
    /// Another flow of the binding takes it (RFC 5626 §7).
    Flows { binding: u64, received: Received },
    /// Its sender has named the flow and hears of the failure (RFC 5626 §5.3.1).
    Named,
}

/// A dialog as one of its requests tells of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DialogNote {
    pub(crate) key: DialogKey,
    /// Hash of the tag that the other side gave, where the request knows it.
    pub(crate) to_tag: Option<u64>,
    pub(crate) peer: Flow,
    /// The peer's binding, 0 if it has none.
    pub(crate) binding: u64,
}

impl DialogNote {
    /// Where the peer was heard last: by its registration, else within the dialog. `None`: neither is known.
    pub(crate) fn peer_now(&self, directory: &Directory, now: Instant) -> Option<Flow> {
        if self.binding != 0
            && let Some(flow) = directory.with_binding(now, self.binding, |found| found.flow_now(now))
        {
            return Some(flow);
        }
        let to_tag = self.to_tag.unwrap_or_default();
        directory.with_dialogs(self.key.call, |dialogs| dialogs.find(&self.key, to_tag).map(|known| known.peer))
    }
}

impl Context {
    /// Of a request that has just come.
    pub(crate) fn new(kind: Kind, farm: FarmId, upstream: Flow, loop_hash: u32, server: Server) -> Self {
        Self {
            kind,
            farm,
            upstream,
            first_upstream: upstream,
            loop_hash,
            server,
            branches: SmallVec::new(),
            answered_by: None,
            best: None,
            last_response: None,
            cancelled: false,
            cancel_reason: Box::default(),
            trying_at: None,
            failover_at: None,
            placement: None,
            spare: None,
            keeps_answer: false,
            armed: None,
            awaited: false,
        }
    }

    /// When something is to be done next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let own = [self.trying_at, self.failover_at, self.server.deadline()];
        let branches = self.branches.iter().flat_map(|branch| {
            let cancel = match &branch.cancel {
                Cancel::Sent { client, gives_up, .. } => [client.deadline(), (!branch.finished).then_some(*gives_up)],
                Cancel::NotWanted | Cancel::Wanted => [None, None],
            };
            [branch.client.deadline(), branch.timer_c, cancel[0], cancel[1]]
        });
        own.into_iter().chain(branches).flatten().min()
    }

    /// Every branch that counts has its final answer.
    pub(crate) fn is_answered_by_all(&self) -> bool {
        self.branches.iter().all(|branch| branch.finished || branch.abandoned)
    }

    /// Nothing more can happen.
    pub(crate) fn is_over(&self) -> bool {
        self.server.is_terminated() && self.branches.iter().all(|branch| branch.client.is_terminated())
    }
}

impl Context {
    /// A final answer has gone up.
    pub(crate) fn server_is_done(&self) -> bool {
        self.server.has_answered()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Dialog;
    use crate::io::unit::{VIP, flow};
    use crate::pool::world::at;
    use crate::settings::Limits;
    use sip::transaction::{InviteClient, InviteServer, Link, Timing};
    use std::time::Duration;

    const PHONE: &str = "10.1.0.1:5060";

    /// An INVITE that rings: nothing but what a test adds is due.
    fn branch() -> ClientBranch {
        ClientBranch {
            client: Client::Invite(InviteClient::Proceeding { link: Link::Datagram }),
            flow: flow(VIP, PHONE),
            hop: Hop::Peer,
            sent: Packet::copy_from(b""),
            sent_at: at(0),
            answered: false,
            provisional: false,
            finished: false,
            abandoned: false,
            cancel: Cancel::NotWanted,
            ack: None,
            timer_c: None,
            work: None,
            registration: None,
            dialog: None,
            ticket: None,
            datagram: None,
        }
    }

    fn context(branches: Vec<ClientBranch>) -> Context {
        let kind = Kind { invite: true, refreshes: true, ..Kind::default() };
        let server = Server::Invite(InviteServer::start(Link::Datagram));
        let context = Context::new(kind, FarmId(1), flow(VIP, PHONE), 0, server);
        Context { branches: SmallVec::from_vec(branches), awaited: true, ..context }
    }

    #[test]
    fn only_a_peer_moves_and_only_behind_its_listener() {
        let state = Arc::new(BackendState::new(BackendId(1), at(0)));
        let elsewhere = flow("10.0.0.2:5060", "10.1.0.1:5061");
        for (hop, heard, moved) in [
            (Hop::Peer, flow(VIP, PHONE), false),
            (Hop::Peer, flow(VIP, "10.1.0.1:5061"), true),
            (Hop::Peer, flow(VIP, "10.1.0.2:5060"), true),
            (Hop::Peer, elsewhere, false),
            (Hop::Peer, flow("10.0.0.2:5060", PHONE), false),
            (Hop::Backend(state), flow(VIP, "10.1.0.1:5061"), false),
        ] {
            let branch = ClientBranch { hop, ..branch() };
            assert_eq!(branch.peer_has_moved(&heard), moved, "{heard:?}");
        }
    }

    #[test]
    fn a_finished_branch_no_longer_weighs_on_its_backend_nor_waits_for_timer_c() {
        let state = Arc::new(BackendState::new(BackendId(1), at(0)));
        let mut branch = branch();
        branch.work = Some(state.begin_work(crate::pool::Cost::Other));
        branch.timer_c = Some(at(181_000));
        assert!(state.work() > 0);
        branch.finish();
        assert_eq!((branch.finished, branch.timer_c, state.work()), (true, None, 0));
    }

    #[test]
    fn the_deadline_is_the_earliest_of_all() {
        let cancel = |client, finished| {
            let cancel = Cancel::Sent { client, packet: Packet::copy_from(b""), gives_up: at(32_000) };
            Context { trying_at: Some(at(40_000)), ..context(vec![ClientBranch { cancel, finished, ..branch() }]) }
        };
        let refused = Server::Invite(InviteServer::Confirmed { until: at(5_000) });
        let calling = Client::Invite(InviteClient::start(at(0), Link::Datagram, &Timing::DEFAULT));
        let cancelling = OtherClient::start(at(0), Link::Datagram, &Timing::DEFAULT);
        let timer_c = || ClientBranch { timer_c: Some(at(181_000)), ..branch() };
        for (context, due) in [
            (context(vec![branch(), branch()]), None),
            (context(vec![branch(), timer_c()]), Some(181_000)),
            (Context { trying_at: Some(at(200)), ..context(vec![timer_c()]) }, Some(200)),
            (Context { failover_at: Some(at(2_000)), ..context(vec![timer_c()]) }, Some(2_000)),
            (Context { server: refused, ..context(vec![timer_c()]) }, Some(5_000)),
            (context(vec![timer_c(), ClientBranch { client: calling, ..branch() }]), Some(500)),
            (cancel(cancelling, false), Some(500)),
            (cancel(OtherClient::Terminated, false), Some(32_000)),
            // Its INVITE has had its final answer: nobody waits for it any more.
            (cancel(OtherClient::Terminated, true), Some(40_000)),
        ] {
            assert_eq!(context.deadline(), due.map(at));
        }
    }

    #[test]
    fn a_context_is_answered_by_all_when_each_branch_is_finished_or_abandoned() {
        for (states, all) in [
            ([(true, false), (false, true)], true),
            ([(true, true), (true, false)], true),
            ([(true, false), (false, false)], false),
            ([(false, false), (false, true)], false),
        ] {
            let branches = states.map(|(finished, abandoned)| ClientBranch { finished, abandoned, ..branch() });
            assert_eq!(context(branches.into()).is_answered_by_all(), all, "{states:?}");
        }
    }

    #[test]
    fn a_context_is_over_when_its_server_and_all_its_clients_are() {
        for (server, one, other, over) in [
            (true, true, true, true),
            (false, true, true, false),
            (true, false, true, false),
            (true, true, false, false),
            (false, false, false, false),
        ] {
            let mut context = context(vec![branch(), branch()]);
            assert!(!context.server_is_done());
            if server {
                context.server.end();
                assert!(context.server_is_done());
            }
            for (branch, ended) in context.branches.iter_mut().zip([one, other]) {
                if ended {
                    branch.client.end();
                }
            }
            assert_eq!(context.is_over(), over, "{server} {one} {other}");
        }
    }

    #[test]
    fn a_peer_is_where_its_registration_says_else_where_its_dialog_does() {
        let directory = Directory::new(at(0), &Limits::default(), Duration::from_secs(60));
        let binding = crate::directory::Binding {
            id: 77,
            contact: Box::from(&b"sip:bonnie@10.1.0.1"[..]),
            flow: flow(VIP, "10.1.0.7:5060").into(),
            backend: BackendId(1),
            expires: at(60_000),
            behind_nat: false,
            kept_alive: at(0),
            held: None,
            outbound: None,
        };
        directory.bind(1, b"bonnie", binding, 9).expect("room");
        let key = DialogKey { call: 1, backend: BackendId(1), from_peer: true, from_tag: 2 };
        let peer = flow(VIP, "10.1.0.8:5060");
        let (since, ends) = (at(0), at(60_000));
        let dialog = Dialog { key, to_tag: 3, peer, binding: 0, since, ends, ticket: None, sides: None, logged: false };
        directory.begin_dialog(dialog, 9).expect("room");
        for (binding, to_tag, found) in [
            (77, Some(3), Some("10.1.0.7:5060")),
            (78, Some(3), Some("10.1.0.8:5060")),
            (0, Some(3), Some("10.1.0.8:5060")),
            (77, None, Some("10.1.0.7:5060")),
            (0, Some(4), None),
            (0, None, None),
        ] {
            let note = DialogNote { key, to_tag, peer: flow(VIP, PHONE), binding };
            assert_eq!(note.peer_now(&directory, at(1)), found.map(|remote| flow(VIP, remote)), "{binding} {to_tag:?}");
        }
    }
}
