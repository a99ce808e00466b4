//! Keeping one binding at a registrar (RFC 3261 §10.2).

use crate::account::Account;
use crate::dialog::Recipe;
use crate::endpoint::{Endpoint, RequestId};
use crate::event::Event;
use crate::random::Random;
use sip::header::Name;
use sip::message::{Limits, Message, parse};
use sip::time::Instant;
use sip::uri::Host;
use sip::value::Contact;
use std::net::SocketAddr;
use std::time::Duration;

/// CSeq numbers that one REGISTER may take besides its first: one for each challenge that is answered.
const NUMBERS_OF_ONE: u32 = 4;
/// Wait after the first failure; doubled by each further one.
const FIRST_WAIT: Duration = Duration::from_secs(5);
/// A registrar that grants nothing is not asked in a loop.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);
/// Longest wait after a failure.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

pub(super) struct Registration {
    call_id: Vec<u8>,
    tag: Vec<u8>,
    cseq: u32,
    /// Where REGISTERs go, if not to the account's proxy.
    registrar: Option<SocketAddr>,
    state: State,
    /// The REGISTER under way.
    pending: Option<RequestId>,
    /// When the next one is sent.
    due: Option<Instant>,
    /// What the registrar's 423 asked for.
    least_expires: u32,
    failures: u32,
}

/// What we want, and how far it is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No binding is wanted.
    Idle,
    /// A binding is wanted.
    Wanted { registered: bool },
    /// The binding is being removed.
    Leaving,
}

/// The final answer to a REGISTER.
pub(super) struct Response<'a> {
    pub(super) request: RequestId,
    pub(super) code: u16,
    pub(super) cseq: u32,
    /// Empty when nothing came.
    pub(super) bytes: &'a [u8],
}

impl Registration {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            call_id: random.token(),
            tag: random.token(),
            cseq: 0,
            registrar: None,
            state: State::Idle,
            pending: None,
            due: None,
            least_expires: 0,
            failures: 0,
        }
    }

    pub(super) fn set_registrar(&mut self, registrar: SocketAddr) {
        self.registrar = Some(registrar);
    }

    pub(super) fn register(&mut self, now: Instant, account: &Account, endpoint: &mut Endpoint) {
        if matches!(self.state, State::Wanted { .. }) && self.pending.is_some() {
            return;
        }
        self.state = State::Wanted { registered: self.is_registered() };
        self.send(now, account, endpoint);
    }

    pub(super) fn unregister(&mut self, now: Instant, account: &Account, endpoint: &mut Endpoint) {
        if self.state == State::Leaving && self.pending.is_some() {
            return;
        }
        self.state = State::Leaving;
        self.send(now, account, endpoint);
    }

    /// The answer to the REGISTER under way no longer matters: it went to, or asked for, an address that is not ours now.
    pub(super) fn forget_request(&mut self, endpoint: &mut Endpoint) {
        if self.abandon(endpoint) {
            self.due = Some(Instant::default());
        }
    }

    pub(super) fn is_registered(&self) -> bool {
        self.state == State::Wanted { registered: true }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        // While a request is under way its own transaction sets the pace.
        if self.pending.is_some() { None } else { self.due }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, account: &Account, endpoint: &mut Endpoint) {
        if self.deadline().is_some_and(|due| now >= due) {
            self.send(now, account, endpoint);
        }
    }

    pub(super) fn on_response(
        &mut self,
        now: Instant,
        response: &Response<'_>,
        account: &Account,
        endpoint: &mut Endpoint,
    ) -> Option<Event> {
        if self.pending != Some(response.request) {
            return None;
        }
        self.pending = None;
        // Credentials took a second request with a higher number.
        self.cseq = self.cseq.max(response.cseq);
        let limits = Limits::default();
        let message = parse(response.bytes, &limits).ok();
        match (response.code, message) {
            (200..=299, Some(message)) => Some(self.accepted(now, &message, account)),
            (423, Some(message)) if self.learns_least_expires(&message) => {
                self.send(now, account, endpoint);
                None
            }
            (code, message) => Some(self.failed(now, code, message.as_ref(), endpoint)),
        }
    }

    fn accepted(&mut self, now: Instant, message: &Message<'_>, account: &Account) -> Event {
        self.failures = 0;
        if self.state == State::Leaving {
            self.state = State::Idle;
            self.due = None;
            return Event::Unregistered;
        }
        self.state = State::Wanted { registered: true };
        let expires = granted(message, account.contact).unwrap_or_else(|| self.asked(account));
        let refresh = Duration::from_secs(u64::from(expires)).mul_f64(0.8);
        self.due = Some(now + refresh.max(SHORTEST_REFRESH));
        Event::Registered { expires }
    }

    fn failed(&mut self, now: Instant, code: u16, message: Option<&Message<'_>>, endpoint: &mut Endpoint) -> Event {
        if let State::Wanted { registered } = &mut self.state {
            *registered = false;
        }
        let doublings = self.failures.min(16);
        self.failures = self.failures.saturating_add(1);
        let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
        // Up to a tenth more, so that a thousand phones that failed together do not come back together.
        let wait = wait + wait.mul_f64((endpoint.random().number() % 1_000) as f64 / 10_000.0);
        let asked = message.and_then(retry_after).unwrap_or_default();
        self.due = Some(now + wait.max(asked));
        Event::RegisterFailed { code }
    }

    /// RFC 3261 §10.2.8. `false` if the answer asks for nothing that was not tried.
    fn learns_least_expires(&mut self, message: &Message<'_>) -> bool {
        let least = message.first(Name::MinExpires).and_then(|header| number(header.value));
        match least {
            Some(least) if least > self.least_expires && self.state != State::Leaving => {
                self.least_expires = least;
                true
            }
            _ => false,
        }
    }

    fn asked(&self, account: &Account) -> u32 {
        match self.state {
            State::Leaving | State::Idle => 0,
            State::Wanted { .. } => account.expires.max(self.least_expires),
        }
    }

    fn send(&mut self, now: Instant, account: &Account, endpoint: &mut Endpoint) {
        self.abandon(endpoint);
        self.cseq = self.cseq.wrapping_add(1);
        self.due = None;
        let party = account.address_of_record();
        let recipe = Recipe {
            method: "REGISTER",
            uri: format!("sip:{}", account.domain).into_bytes(),
            from: [&party[..], b";tag=", &self.tag].concat(),
            to: party,
            call_id: self.call_id.clone(),
            cseq: self.cseq,
            contact: Some(endpoint.contact()),
            extra: format!("Expires: {}\r\n", self.asked(account)).into_bytes(),
            body: None,
            hop: self.registrar.unwrap_or(account.proxy),
        };
        self.pending = Some(endpoint.request(now, recipe));
    }

    /// What the REGISTER under way asks for is not wanted any more: it must not answer a late challenge. It may have used
    /// further numbers for its credentials already, and the same number twice would be a merged request. `false` if there
    /// is none under way.
    fn abandon(&mut self, endpoint: &mut Endpoint) -> bool {
        let Some(earlier) = self.pending.take() else {
            return false;
        };
        endpoint.forget_request(earlier);
        self.cseq = self.cseq.wrapping_add(NUMBERS_OF_ONE);
        true
    }
}

/// The seconds that our own contact was granted (RFC 3261 §10.2.4).
fn granted(message: &Message<'_>, contact: SocketAddr) -> Option<u32> {
    let ours = message.contacts().find_map(|found| match found {
        Contact::Address(address) => {
            let uri = address.uri()?;
            let same = uri.host == Host::Ip(contact.ip()) && uri.port.unwrap_or(5060) == contact.port();
            if same { address.expires() } else { None }
        }
        Contact::Star => None,
    });
    ours.or_else(|| message.expires())
}

fn retry_after(message: &Message<'_>) -> Option<Duration> {
    number(message.first(Name::RetryAfter)?.value).map(|seconds| Duration::from_secs(u64::from(seconds)))
}

/// The digits that a value begins with.
fn number(value: &[u8]) -> Option<u32> {
    let digits = value.iter().take_while(|octet| octet.is_ascii_digit()).count();
    std::str::from_utf8(value.get(..digits)?).ok()?.parse().ok()
}
