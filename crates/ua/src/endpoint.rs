//! What a user agent and a PBX have in common (RFC 3261 §8, §9, §12–15): the legs of calls and all that may happen to one,
//! without an opinion on whom to call and whom to answer. The owner tells it what to do and takes its notices.

mod calls;
mod leg;
mod requests;
mod responses;

pub(crate) use calls::Invitation;
pub(crate) use leg::LegId;

use crate::address;
use crate::agenda::{Agenda, earliest};
use crate::carrier::Carrier;
use crate::dialog::{Recipe, bracketed, response_with_body};
use crate::login::{Challenged, Login};
use crate::random::Random;
use crate::transact::{ClientId, NewRequest, ServerId, Transactions};
use leg::Leg;
use sip::check::{Fault, check};
use sip::header::Name;
use sip::message::{Limits, Message, Method, parse};
use sip::time::Instant;
use sip::transaction::Timing;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// One request outside of calls that the owner placed; a second attempt with credentials is the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct RequestId(u64);

/// What the owner of an endpoint is told. Bodies are SDP or empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// Somebody calls. Answered by `provisional`, `accept` or `refuse`.
    Incoming { leg: LegId, source: SocketAddr, request: Vec<u8> },
    /// Our INVITE got a provisional response above 100.
    Progress { leg: LegId, code: u16, body: Vec<u8> },
    /// Our INVITE was answered; `acknowledge` is due. `answer_due`: it held no offer, so that the ACK has to hold the answer.
    Accepted { leg: LegId, body: Vec<u8>, answer_due: bool },
    /// Our INVITE failed; the leg is gone.
    Rejected { leg: LegId, code: u16 },
    /// The ACK to our answer of an INVITE or re-INVITE came.
    Acknowledged { leg: LegId, body: Vec<u8> },
    /// The caller gave up; the leg is gone.
    Cancelled { leg: LegId },
    /// A re-INVITE came. Answered by `accept` or `refuse`.
    Reinvite { leg: LegId, body: Vec<u8> },
    /// Our re-INVITE was answered finally; after a 2xx `acknowledge` is due as for `Accepted`.
    ReinviteAnswered { leg: LegId, code: u16, body: Vec<u8>, answer_due: bool },
    /// The dialog is over and the leg gone.
    Ended { leg: LegId, by_us: bool, code: u16 },
    /// A request outside of dialogs that is no INVITE. Answered by `answer`.
    Request { server: ServerId, request: Vec<u8> },
    /// A request of the owner was answered finally. `response` is empty and `code` 408 when nothing came.
    Response { request: RequestId, code: u16, cseq: u32, response: Vec<u8> },
}

/// What an endpoint is told about itself.
pub(crate) struct EndpointSettings {
    /// Our address: sent-by of our Vias, host of our Contact.
    pub(crate) address: SocketAddr,
    /// User part of our Contact.
    pub(crate) user: String,
    /// User-Agent and Server.
    pub(crate) product: String,
    /// Where requests go that name no numeric address.
    pub(crate) fallback: SocketAddr,
    pub(crate) login: Option<Login>,
    /// Option tags that a request may require.
    pub(crate) options: &'static [&'static [u8]],
}

pub(crate) struct Endpoint {
    settings: EndpointSettings,
    limits: Limits,
    timing: Timing,
    carrier: Carrier,
    random: Random,
    transactions: Transactions<Task>,
    legs: BTreeMap<LegId, Leg>,
    /// Call-ID and local tag.
    by_dialog: BTreeMap<(Vec<u8>, Vec<u8>), LegId>,
    agenda: Agenda<LegId>,
    /// The last challenges to a REGISTER, one for each realm, answered ahead at the next one as phones do.
    remembered: Vec<Challenged>,
    /// INVITEs that begin calls answer them ahead too.
    proves_calls_ahead: bool,
    last_leg: u64,
    last_request: u64,
    notices: VecDeque<Notice>,
}

/// What a client transaction is for.
#[derive(Clone)]
struct Task {
    purpose: Purpose,
    recipe: Recipe,
    /// The challenges that this very request got and answers, one for each realm.
    answered: Vec<Challenged>,
    /// How often it was sent again for a challenge.
    repeats: u8,
    /// The credentials that it was sent with, also those of older challenges: header lines or empty.
    authorization: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// The INVITE that creates the leg's dialog.
    Invite(LegId),
    Reinvite(LegId),
    Bye(LegId),
    /// A request of the owner.
    Owner(RequestId),
    /// Nobody waits for the answer: CANCEL, and the BYE of a call that nobody wants any more.
    None,
}

impl Task {
    /// A request that is sent for the first time, and without credentials.
    fn new(purpose: Purpose, recipe: Recipe) -> Self {
        Self { purpose, recipe, answered: Vec::new(), repeats: 0, authorization: String::new() }
    }

    /// Takes over the challenges that the request got. `false` if there is none that may be answered: of a realm that was
    /// answered before, only one that calls the nonce stale; else our password is wrong.
    fn takes(&mut self, challenges: Vec<Challenged>) -> bool {
        let is_answered = |new: &Challenged| self.answered.iter().any(|old| old.has_realm_of(new));
        if challenges.is_empty() || challenges.iter().any(|new| !new.stale && is_answered(new)) {
            return false;
        }
        self.answered.retain(|old| !challenges.iter().any(|new| new.has_realm_of(old)));
        self.answered.extend(challenges);
        true
    }
}

impl Endpoint {
    pub(crate) fn new(settings: EndpointSettings, random: Random) -> Self {
        Self {
            settings,
            limits: Limits::default(),
            timing: Timing::DEFAULT,
            carrier: Carrier::Udp,
            random,
            transactions: Transactions::new(Timing::DEFAULT),
            legs: BTreeMap::new(),
            by_dialog: BTreeMap::new(),
            agenda: Agenda::new(),
            remembered: Vec::new(),
            proves_calls_ahead: false,
            last_leg: 0,
            last_request: 0,
            notices: VecDeque::new(),
        }
    }

    /// From now on Via and Contact show this address, within running dialogs too.
    pub(crate) fn move_to(&mut self, address: SocketAddr) {
        self.settings.address = address;
    }

    /// From now on everything is carried by this.
    pub(crate) fn speak(&mut self, carrier: Carrier) {
        self.carrier = carrier;
        self.transactions.set_link(carrier.link());
    }

    /// From now on challenges are answered with this, or not at all.
    pub(crate) fn set_login(&mut self, login: Option<Login>) {
        self.settings.login = login;
    }

    /// Sends once more what was not answered finally, but no INVITE.
    pub(crate) fn repeat_unanswered(&mut self) {
        self.transactions.repeat_unanswered();
    }

    /// From now on INVITEs that begin calls carry an answer to the last challenge of the registrar.
    pub(crate) fn prove_calls_ahead(&mut self) {
        self.proves_calls_ahead = true;
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// Takes a datagram. Keep-alives and what cannot be read are dropped; a request that breaks a rule of RFC 3261 is
    /// answered as `check` says, without a transaction, and a response is dropped.
    pub(crate) fn handle_datagram(&mut self, now: Instant, source: SocketAddr, datagram: &[u8]) {
        let Ok(message) = parse(datagram, &self.limits) else {
            return;
        };
        if !message.is_request() {
            if is_readable(&message, &self.limits) {
                self.handle_response(now, &message);
            }
            return;
        }
        let stamped = address::stamped(&message, source);
        let Ok(request) = parse(&stamped, &self.limits) else {
            return;
        };
        match check(&request, &self.limits) {
            Ok(request) => self.handle_request(now, source, &request),
            Err(fault) => {
                if let Some(code) = fault.status() {
                    self.refuse_without_transaction(&message, source, code);
                }
            }
        }
    }

    /// Is this the retransmission of a request that has a transaction?
    pub(crate) fn knows(&self, request: &Message<'_>) -> bool {
        check(request, &self.limits).is_ok_and(|request| self.transactions.is_known(&request))
    }

    /// Answers a request once and forgets it; an ACK is never answered.
    pub(crate) fn refuse_without_transaction(&mut self, request: &Message<'_>, source: SocketAddr, code: u16) {
        if request.method() == Method::Ack {
            return;
        }
        let tag = self.random.token();
        let bytes = response_with_body(request, code, &tag, self.server_line().as_bytes(), None);
        self.transactions.send_plain(address::of_response(request, source), bytes);
    }

    /// Answers a request that came with `Notice::Request`. `extra` are complete header lines.
    pub(crate) fn answer(&mut self, now: Instant, server: ServerId, request: &Message<'_>, code: u16, extra: &[u8]) {
        let tag = self.random.token();
        self.answer_tagged(now, server, request, code, extra, &tag);
    }

    /// Answers a request that asks for nothing in particular: OPTIONS and messages yes, all else no.
    pub(crate) fn answer_by_method(&mut self, now: Instant, server: ServerId, request: &Message<'_>) {
        let code = match request.method() {
            Method::Options | Method::Info | Method::Message => 200,
            Method::Bye | Method::Update | Method::Prack => 481,
            Method::Other(_) => 501,
            _ => 405,
        };
        self.answer(now, server, request, code, ALLOW);
    }

    /// Places a request outside of calls. Its Contact, CSeq and hop are the owner's.
    pub(crate) fn request(&mut self, now: Instant, recipe: Recipe) -> RequestId {
        self.last_request += 1;
        let id = RequestId(self.last_request);
        let is_proven = recipe.method == "REGISTER";
        let task = self.task(Purpose::Owner(id), recipe, is_proven);
        self.start(now, task);
        id
    }

    /// The owner wants this request no more: it is not repeated, and its answers are nobody's, challenges too.
    pub(crate) fn forget_request(&mut self, id: RequestId) {
        self.transactions.forget_all(|task| task.purpose == Purpose::Owner(id));
    }

    /// A request to be sent for the first time; `is_proven`: with answers to the remembered challenges, if there are any.
    fn task(&mut self, purpose: Purpose, recipe: Recipe, is_proven: bool) -> Task {
        let mut task = Task::new(purpose, recipe);
        if is_proven && let Some(login) = &self.settings.login {
            let recipe = &task.recipe;
            task.authorization = login.answer(&mut self.remembered, recipe.method, &recipe.uri, &mut self.random);
        }
        task
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(task) = self.transactions.on_timeout(now) {
            self.timed_out(now, task.purpose, task.recipe.cseq);
        }
        while let Some(leg) = self.agenda.take_due(now) {
            self.leg_is_due(now, leg);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.transactions.deadline(), self.agenda.first())
    }

    pub(crate) fn poll_send(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transactions.poll_send()
    }

    pub(crate) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// The name-addr of our Contact.
    pub(crate) fn contact(&self) -> Vec<u8> {
        let transport = self.carrier.uri_parameter();
        bracketed(format!("sip:{}@{}{transport}", self.settings.user, self.settings.address).as_bytes())
    }

    fn server_line(&self) -> String {
        format!("Server: {}\r\n", self.settings.product)
    }

    fn answer_tagged(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message<'_>,
        code: u16,
        extra: &[u8],
        tag: &[u8],
    ) {
        let mut lines = extra.to_vec();
        lines.extend_from_slice(self.server_line().as_bytes());
        let bytes = response_with_body(request, code, tag, &lines, None);
        self.transactions.respond(now, server, code, bytes);
    }

    /// Writes and sends a request of ours under a fresh branch.
    fn start(&mut self, now: Instant, task: Task) -> ClientId {
        let branch = self.fresh_branch();
        let via = self.via(&branch);
        let bytes = task.recipe.write(&via, &task.authorization, &self.settings.product);
        let (to, method) = (task.recipe.hop, task.recipe.method);
        self.transactions.send(now, NewRequest { to, branch, method, bytes, task })
    }

    /// The ACK of a 2xx is a request of its own, outside of any transaction (RFC 3261 §13.2.2.4).
    fn write_acknowledgement(&mut self, recipe: &Recipe, authorization: &str) -> Vec<u8> {
        let branch = self.fresh_branch();
        let via = self.via(&branch);
        recipe.write(&via, authorization, &self.settings.product)
    }

    fn fresh_branch(&mut self) -> Vec<u8> {
        [&b"z9hG4bK"[..], &self.random.token()].concat()
    }

    fn via(&self, branch: &[u8]) -> Vec<u8> {
        let transport = self.carrier.via();
        let sent_by = format!("SIP/2.0/{transport} {};branch=", self.settings.address);
        [sent_by.as_bytes(), branch, b";rport"].concat()
    }

    /// Forgets a leg; transactions of it that still run find nobody and clean up after themselves.
    fn remove_leg(&mut self, id: LegId) -> Option<Leg> {
        let leg = self.legs.remove(&id)?;
        self.by_dialog.remove(&(leg.dialog.call_id.clone(), leg.dialog.local_tag.clone()));
        self.agenda.set(id, None);
        Some(leg)
    }

    fn insert_leg(&mut self, leg: Leg) -> LegId {
        self.last_leg += 1;
        let id = LegId(self.last_leg);
        self.by_dialog.insert((leg.dialog.call_id.clone(), leg.dialog.local_tag.clone()), id);
        self.agenda.set(id, leg.deadline());
        self.legs.insert(id, leg);
        id
    }

    /// To be called after each change of a leg that may have moved its deadline.
    fn arm(&mut self, id: LegId) {
        let due = self.legs.get(&id).and_then(Leg::deadline);
        self.agenda.set(id, due);
    }
}

/// A response counts also where a Contact or its Max-Forwards is malformed. A 200 to REGISTER lists the bindings of other
/// devices too, and an INVITE that was accepted has to be acknowledged, whatever its Contact looks like.
fn is_readable(response: &Message<'_>, limits: &Limits) -> bool {
    let Err(fault) = check(response, limits) else {
        return true;
    };
    matches!(
        fault,
        Fault::Contact | Fault::EmptyValue(Name::Contact) | Fault::Quote(Name::Contact) | Fault::MaxForwards
    )
}

/// What we do, for OPTIONS and for refusals (RFC 3261 §11.2 and §21.4.6).
const ALLOW: &[u8] = b"Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, MESSAGE\r\nAccept: application/sdp\r\n";
