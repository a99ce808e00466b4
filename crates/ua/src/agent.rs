//! The user agent: a phone with one account.

mod calls;
mod media;
mod registration;

use crate::account::{Account, Answering};
use crate::agenda::{Agenda, earliest};
use crate::carrier::Carrier;
use crate::dialog::{Recipe, bracketed};
use crate::endpoint::{Endpoint, EndpointSettings, LegId, Notice, RequestId};
use crate::event::{CallId, Event, Output};
use crate::login::Login;
use crate::random::Random;
use calls::Call;
use registration::Registration;
use sip::message::{Limits, parse};
use sip::sdp::{AUDIO_PAYLOADS, Session};
use sip::time::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

/// User-Agent of everything that a user agent sends.
const PRODUCT: &str = "tandem-ua";

/// A SIP user agent (RFC 3261) with one account, any number of calls, and no media of its own: it tells where audio has to go,
/// the shell sends it. It speaks over datagrams unless it was told to [`speak`](Self::speak) otherwise.
///
/// After every call that takes a time, [`poll_output`](Self::poll_output) is drained and [`poll_timeout`](Self::poll_timeout)
/// asked again. The shell sends from, and receives at, the account's `contact`.
pub struct UserAgent {
    account: Account,
    endpoint: Endpoint,
    registration: Registration,
    answering: Answering,
    /// RTP payload types that we offer and answer with.
    payloads: Vec<u8>,
    calls: BTreeMap<LegId, Call>,
    options: Option<Options>,
    agenda: Agenda<LegId>,
    outputs: VecDeque<Output>,
}

/// The final answer to an OPTIONS of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionsAnswer {
    /// Its status; 408 when nothing came.
    pub code: u16,
    /// Something came.
    pub came: bool,
}

/// The OPTIONS that was asked last.
struct Options {
    request: RequestId,
    answer: Option<OptionsAnswer>,
}

impl UserAgent {
    /// All tags, branches, Call-IDs and client nonces follow from the seed, the account's user and its contact.
    pub fn new(account: Account, seed: u64) -> Self {
        let mut random = Random::new(seed, format!("{}@{}", account.user, account.contact).as_bytes());
        let registration = Registration::new(&mut random);
        let settings = EndpointSettings {
            address: account.contact,
            user: account.user.clone(),
            product: PRODUCT.to_owned(),
            fallback: account.proxy,
            login: Some(Login { user: account.user.clone(), password: account.password.clone() }),
            options: &[],
        };
        let answering = Answering { media: SocketAddr::new(account.contact.ip(), 9), ..Answering::default() };
        Self {
            account,
            endpoint: Endpoint::new(settings, random),
            registration,
            answering,
            payloads: AUDIO_PAYLOADS.to_vec(),
            calls: BTreeMap::new(),
            options: None,
            agenda: Agenda::new(),
            outputs: VecDeque::new(),
        }
    }

    /// The account, with the contact as it is now.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Registers, and keeps the registration: a refresh at 80 % of the granted time, further attempts after failures from
    /// 5 s on, growing. Does nothing while a REGISTER is under way.
    pub fn register(&mut self, now: Instant) {
        self.registration.register(now, &self.account, &mut self.endpoint);
        self.drain(now);
    }

    /// Removes our binding and registers no more.
    pub fn unregister(&mut self, now: Instant) {
        self.registration.unregister(now, &self.account, &mut self.endpoint);
        self.drain(now);
    }

    /// Calls a URI such as `sip:clyde@example.com`; `media` is where we want to hear the answer. Sent to the account's proxy,
    /// whatever the URI says. A challenge is answered once for each realm.
    pub fn call(&mut self, now: Instant, target: &str, media: SocketAddr) -> CallId {
        self.call_with(now, target, media, "")
    }

    /// As [`call`](Self::call), with further header lines in the INVITE, one per line.
    pub fn call_with(&mut self, now: Instant, target: &str, media: SocketAddr, extra_headers: &str) -> CallId {
        let call = self.place_call(now, target, media, extra_headers);
        self.drain(now);
        call
    }

    /// Takes back a call of ours that was not answered; afterwards comes `Cancelled`, or `Ended` if the answer was faster.
    pub fn cancel(&mut self, now: Instant, call: CallId) {
        self.cancel_call(LegId(call.0));
        self.endpoint.cancel(now, LegId(call.0));
        self.drain(now);
    }

    /// As [`cancel`](Self::cancel), and does not wait for a provisional response as RFC 3261 §9.1 wants: for whom there is no
    /// time left. The INVITE is not repeated any more; if it is answered all the same, that call is hung up.
    pub fn cancel_now(&mut self, now: Instant, call: CallId) {
        self.cancel_call(LegId(call.0));
        self.endpoint.cancel_now(now, LegId(call.0));
        self.drain(now);
    }

    /// Asks for the capabilities of a URI, outside of any call; sent to the account's proxy. The answer is then found in
    /// [`options_answer`](Self::options_answer). One at a time: an earlier one is forgotten.
    pub fn options(&mut self, now: Instant, target: &str) {
        let recipe = Recipe {
            method: "OPTIONS",
            uri: target.as_bytes().to_vec(),
            from: [&self.account.address_of_record()[..], b";tag=", &self.endpoint.random().token()].concat(),
            to: bracketed(target.as_bytes()),
            call_id: self.endpoint.random().token(),
            cseq: 1,
            contact: Some(self.endpoint.contact()),
            extra: b"Accept: application/sdp\r\n".to_vec(),
            body: None,
            hop: self.account.proxy,
        };
        let request = self.endpoint.request(now, recipe);
        self.options = Some(Options { request, answer: None });
        self.drain(now);
    }

    /// The final answer to the last OPTIONS.
    pub fn options_answer(&self) -> Option<OptionsAnswer> {
        self.options.as_ref()?.answer
    }

    /// Sends once more what was not answered finally, whatever the timers say; never an INVITE. For last words before the
    /// sockets are closed. Over connections nothing is repeated.
    pub fn repeat_unanswered(&mut self, now: Instant) {
        self.endpoint.repeat_unanswered();
        self.drain(now);
    }

    /// Ends a call in whatever state it is: CANCEL, 603 or BYE.
    pub fn hang_up(&mut self, now: Instant, call: CallId) {
        self.end_call(now, LegId(call.0));
        self.drain(now);
    }

    /// Offers a new media address within a call. `Reinvited` tells the outcome; 491 at once if the call is not in a state
    /// for it.
    pub fn reinvite(&mut self, now: Instant, call: CallId, media: SocketAddr) {
        self.offer_again(now, LegId(call.0), media);
        self.drain(now);
    }

    /// What calls get that come in from now on.
    pub fn set_answering(&mut self, answering: Answering) {
        self.answering = answering;
    }

    /// From now on calls begin with an answer to the registrar's last challenge, as many phones do: who knows that challenge
    /// does not ask again.
    pub fn prove_calls_ahead(&mut self) {
        self.endpoint.prove_calls_ahead();
    }

    /// From now on we speak over this: Via and Contact say so. Over one connection to the proxy no transaction repeats itself
    /// (RFC 3261 §17.1); the shell sends everything over that connection, whatever address it is for, and hands over each
    /// message that comes as one datagram of the proxy's. To be called before anything is sent.
    pub fn speak(&mut self, carrier: Carrier) {
        self.endpoint.speak(carrier);
    }

    /// From now on REGISTERs go there, and all else to the account's proxy.
    pub fn set_registrar(&mut self, registrar: SocketAddr) {
        self.registration.set_registrar(registrar);
    }

    /// From now on challenges are answered with this name and password, instead of the account's user and password; `None`:
    /// a challenge is a refusal.
    pub fn set_login(&mut self, login: Option<(&str, &str)>) {
        let login = login.map(|(user, password)| Login { user: user.to_owned(), password: password.to_owned() });
        self.endpoint.set_login(login);
    }

    /// From now on these RTP payload types, of those that [`AUDIO_PAYLOADS`] names, are offered and answered with.
    pub fn set_payloads(&mut self, payloads: &[u8]) {
        self.payloads = payloads.to_vec();
    }

    /// Our address changed: from now on Via and Contact show the new one, within running calls too. The binding at the
    /// registrar stays as it was until `register` is called or the next refresh is due; a REGISTER under way is forgotten and
    /// due anew.
    pub fn move_to(&mut self, contact: SocketAddr) {
        self.account.contact = contact;
        self.endpoint.move_to(contact);
        self.registration.forget_request(&mut self.endpoint);
    }

    /// Takes a datagram that came from `from`.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, bytes: &[u8]) {
        self.endpoint.handle_datagram(now, from, bytes);
        self.drain(now);
    }

    /// Does what is due; to be called when [`poll_timeout`](Self::poll_timeout) has come. Earlier calls do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        self.registration.handle_timeout(now, &self.account, &mut self.endpoint);
        while let Some(leg) = self.agenda.take_due(now) {
            self.call_is_due(now, leg);
        }
        self.drain(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = earliest(self.agenda.first(), self.registration.deadline());
        earliest(own, self.endpoint.poll_timeout())
    }

    /// The next datagram or event, oldest first.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Calls that are not over.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The last REGISTER was accepted.
    pub fn registered(&self) -> bool {
        self.registration.is_registered()
    }

    /// Where the other side of a call wants to hear us, as it said last.
    pub fn remote_media(&self, call: CallId) -> Option<SocketAddr> {
        self.calls.get(&LegId(call.0))?.remote_media()
    }

    /// The other side's last session description, where it sent one that [`sip::sdp::read`] takes: held and refused streams
    /// too, which have no [`remote_media`](Self::remote_media).
    pub fn remote_session(&self, call: CallId) -> Option<&Session> {
        self.calls.get(&LegId(call.0))?.remote.as_ref()
    }

    fn is_options(&self, request: RequestId) -> bool {
        self.options.as_ref().is_some_and(|options| options.request == request)
    }

    fn tell(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// Hands on what the endpoint has to say, until it has nothing more.
    fn drain(&mut self, now: Instant) {
        loop {
            while let Some((to, bytes)) = self.endpoint.poll_send() {
                self.outputs.push_back(Output::Send { to, bytes });
            }
            let Some(notice) = self.endpoint.poll_notice() else {
                return;
            };
            self.on_notice(now, notice);
        }
    }

    fn on_notice(&mut self, now: Instant, notice: Notice) {
        match notice {
            Notice::Incoming { leg, request, .. } => self.on_incoming(now, leg, &request),
            Notice::Progress { leg, code, .. } => self.tell(Event::Ringing { call: CallId(leg.0), code }),
            Notice::Accepted { leg, body, .. } => self.on_accepted(now, leg, &body),
            Notice::Rejected { leg, code } => self.on_rejected(leg, code),
            Notice::Acknowledged { leg, body } => self.on_acknowledged(now, leg, &body),
            Notice::Cancelled { leg } => {
                self.forget_call(leg);
                self.tell(Event::Cancelled { call: CallId(leg.0) });
            }
            Notice::Reinvite { leg, body } => self.on_reinvite(now, leg, &body),
            Notice::ReinviteAnswered { leg, code, body, .. } => self.on_reinvite_answered(now, leg, code, &body),
            Notice::Ended { leg, by_us, code } => {
                self.forget_call(leg);
                self.tell(Event::Ended { call: CallId(leg.0), by_us, code });
            }
            Notice::Request { server, request } => {
                if let Ok(message) = parse(&request, &Limits::default()) {
                    self.endpoint.answer_by_method(now, server, &message);
                }
            }
            Notice::Response { request, code, response, .. } if self.is_options(request) => {
                let answer = OptionsAnswer { code, came: !response.is_empty() };
                self.options = Some(Options { request, answer: Some(answer) });
            }
            Notice::Response { request, code, cseq, response } => {
                let answer = registration::Response { request, code, cseq, bytes: &response };
                let event = self.registration.on_response(now, &answer, &self.account, &mut self.endpoint);
                if let Some(event) = event {
                    self.tell(event);
                }
            }
        }
    }
}
