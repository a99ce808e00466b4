//! A request without our token from a client or trunk: the first service whose rule matches, then one of its backends.

mod refresh;

use super::rule::addressed;
use super::{Arrival, Decider, Parties, Placed, Plan, Refusal, Routes, Trace};
use crate::id::BackendId;
use crate::identity::{Aor, address_key, attempt_key, text_key};
use crate::origin::Origin;
use crate::pool::{Ask, CallTicket};
use crate::settings::{Fallback, Persistence, Service};
use sip::{Method, Scheme, Uri};
use smallvec::SmallVec;
use std::io::Write;

/// Keys of one request, computed once.
struct Keys {
    attempt: u64,
    call: u64,
    source: u64,
    /// The user the request is of: To of REGISTER, else From. `None`: unknown to us, anonymous or behind a trunk.
    user: Option<u64>,
}

/// A backend found before the algorithm was asked.
struct Wish {
    backend: usize,
    affinity: SmallVec<[usize; 2]>,
    by_affinity: bool,
}

impl<T: Trace> Decider<'_, T> {
    pub(super) fn inward(&mut self, arrival: &Arrival<'_>, routes: &Routes<'_>) -> Result<Plan, Refusal> {
        let method = arrival.message.method();
        let service = self.service_of(arrival)?;
        let settings = &arrival.farm.settings.services[service];
        self.trace.note(|| format!("service {}", settings.name));
        if self.shared.is_draining() && matches!(method, Method::Invite | Method::Register) {
            self.trace.note(|| "the unit is draining".into());
            return Err(Refusal::Overloaded);
        }
        let keys = self.keys(arrival);
        let (placed, ticket) = match self.wish(arrival, service, &keys) {
            Some(wish) => self.grant(arrival, service, wish, &keys)?,
            None => self.choose(arrival, service, &keys, &[])?,
        };
        self.remember(arrival, settings, &placed, &keys);
        self.plan(arrival, routes, placed, ticket)
    }

    /// Tries the next backend for a request whose last attempt failed; the request is as it was received.
    pub(crate) fn again(
        &mut self,
        arrival: &Arrival<'_>,
        service: usize,
        tried: &[usize],
        affinity: &[usize],
    ) -> Result<Plan, Refusal> {
        let routes = Routes::read(&self.shared.secrets, arrival)?;
        let keys = self.keys(arrival);
        let next = affinity.iter().position(|&index| self.is_available(arrival, index));
        let (placed, ticket) = match next {
            Some(at) => {
                let wish = Wish {
                    backend: affinity[at],
                    affinity: SmallVec::from_slice(&affinity[at + 1..]),
                    by_affinity: true,
                };
                self.grant(arrival, service, wish, &keys)?
            }
            None => self.choose(arrival, service, &keys, tried)?,
        };
        let settings = &arrival.farm.settings.services[service];
        self.remember(arrival, settings, &placed, &keys);
        let plan = self.plan(arrival, &routes, placed, ticket)?;
        self.kept_secure(arrival, plan)
    }

    fn service_of(&mut self, arrival: &Arrival<'_>) -> Result<usize, Refusal> {
        if let Origin::Trunk(index) = arrival.origin
            && let Some(service) = arrival.farm.settings.trunks[index].service
        {
            return Ok(service);
        }
        arrival
            .farm
            .settings
            .services
            .iter()
            .position(|service| service.rule.matches(arrival))
            .ok_or(Refusal::Status(404))
    }

    fn keys(&self, arrival: &Arrival<'_>) -> Keys {
        let secrets = &self.shared.secrets;
        let message = arrival.message;
        let sender = match message.method() {
            Method::Register => message.to(),
            _ => message.from(),
        };
        let user = Aor::of(&sender.uri, arrival.farm, arrival.flow.local)
            .filter(|aor| !aor.is_anonymous() && arrival.origin == Origin::Client)
            .map(|aor| aor.key(secrets, arrival.farm.settings.id));
        Keys {
            attempt: attempt_key(secrets, message),
            call: text_key(secrets, message.call_id()),
            source: address_key(secrets, arrival.flow.remote.ip()),
            user,
        }
    }

    /// Steps 1 to 4: what speaks for a certain backend, if that is available.
    fn wish(&mut self, arrival: &Arrival<'_>, service: usize, keys: &Keys) -> Option<Wish> {
        if arrival.farm.settings.stateless {
            return None;
        }
        let found = self.by_attempt(arrival, service, keys).or_else(|| self.by_dialog_reference(arrival, service));
        if let Some(backend) = found {
            return Some(Wish::plain(backend));
        }
        self.by_callee(arrival, service).or_else(|| self.by_persistence(arrival, service, keys).map(Wish::plain))
    }

    /// 1. The answer to a challenge goes where the challenge came from.
    fn by_attempt(&mut self, arrival: &Arrival<'_>, service: usize, keys: &Keys) -> Option<usize> {
        let directory = &self.shared.directory;
        let backend = if T::DRY {
            directory.peek_recent(self.now, keys.attempt)
        } else {
            directory.recent(self.now, keys.attempt)
        }?;
        let index = self.available(arrival, service, backend)?;
        self.trace.note(|| {
            let name = &arrival.farm.settings.backends[index].name;
            format!("same Call-ID and From tag as a request of the last 32 s: {name}")
        });
        Some(index)
    }

    /// 2. `Replaces`, `Join` and `Target-Dialog` go to the backend with that dialog.
    fn by_dialog_reference(&mut self, arrival: &Arrival<'_>, service: usize) -> Option<usize> {
        let reference = arrival.message.dialog_reference()?;
        let secrets = &self.shared.secrets;
        let call = text_key(secrets, reference.call_id);
        let tags = [text_key(secrets, reference.from_tag), text_key(secrets, reference.to_tag)];
        let backend = self.shared.directory.with_dialogs(call, |dialogs| dialogs.backend_of(call, tags))?;
        let index = self.available(arrival, service, backend)?;
        self.trace.note(|| {
            let name = &arrival.farm.settings.backends[index].name;
            format!("refers to a dialog at {name}")
        });
        Some(index)
    }

    /// 3. A call to a user who is registered here goes to the box that holds the registration, the newest first.
    fn by_callee(&mut self, arrival: &Arrival<'_>, service: usize) -> Option<Wish> {
        let settings = &arrival.farm.settings.services[service];
        let method = arrival.message.method();
        let reaches_user = matches!(method, Method::Invite | Method::Message | Method::Subscribe);
        if !settings.callee_affinity || !reaches_user {
            return None;
        }
        let aor = Aor::of(&arrival.uri, arrival.farm, arrival.flow.local)?;
        let key = aor.key(&self.shared.secrets, arrival.farm.settings.id);
        let holders: SmallVec<[BackendId; 4]> = self
            .shared
            .directory
            .with_person(key, |person| person.all_live(self.now).map(|live| live.backend).collect())?;
        let mut boxes: SmallVec<[usize; 2]> = SmallVec::new();
        for holder in holders {
            if let Some(index) = self.available(arrival, service, holder)
                && !boxes.contains(&index)
            {
                boxes.push(index);
            }
        }
        let backend = *boxes.first()?;
        boxes.remove(0);
        self.trace.note(|| {
            let name = &arrival.farm.settings.backends[backend].name;
            format!("the called user is registered at {name}")
        });
        Some(Wish { backend, affinity: boxes, by_affinity: true })
    }

    /// 4. Persistence.
    fn by_persistence(&mut self, arrival: &Arrival<'_>, service: usize, keys: &Keys) -> Option<usize> {
        let settings = &arrival.farm.settings.services[service];
        let backend = match sticky_key(settings, arrival, keys, &self.shared.secrets) {
            StickyKey::User(user) => self.shared.directory.user_backend(self.now, user),
            StickyKey::Table(key) if T::DRY => self.shared.directory.peek_sticky(self.now, key),
            StickyKey::Table(key) => self.shared.directory.sticky(self.now, key),
            StickyKey::None => None,
        }?;
        let index = self.available(arrival, service, backend)?;
        self.trace.note(|| {
            let name = &arrival.farm.settings.backends[index].name;
            format!("persistence {:?}: {name}", settings.persistence)
        });
        Some(index)
    }

    /// Takes the wished backend if it has room, else asks the algorithm.
    fn grant(
        &mut self,
        arrival: &Arrival<'_>,
        service: usize,
        wish: Wish,
        keys: &Keys,
    ) -> Result<(Placed, Option<CallTicket>), Refusal> {
        let placed = Placed { service, backend: wish.backend, affinity: wish.affinity, by_affinity: wish.by_affinity };
        match self.admit(arrival, wish.backend) {
            Ok(ticket) => Ok((placed, ticket)),
            Err(_) => {
                self.trace.note(|| "it is full".into());
                self.choose(arrival, service, keys, &[wish.backend])
            }
        }
    }

    /// 5. The algorithm among the available backends, else the fallback.
    fn choose(
        &mut self,
        arrival: &Arrival<'_>,
        first: usize,
        keys: &Keys,
        tried: &[usize],
    ) -> Result<(Placed, Option<CallTicket>), Refusal> {
        let services = &arrival.farm.settings.services;
        let mut service = first;
        // A fallback chain visits each service once at most; `config` has checked that it ends.
        for _ in 0..services.len() {
            if let Some(found) = self.choose_within(arrival, service, keys, tried) {
                return Ok(found);
            }
            match services[service].fallback {
                Fallback::Service(next) => {
                    self.trace.note(|| format!("falling back to service {}", services[next].name));
                    service = next;
                }
                Fallback::Status(503) => break,
                Fallback::Status(code) => return Err(Refusal::Status(code)),
            }
        }
        Err(Refusal::Overloaded)
    }

    fn choose_within(
        &mut self,
        arrival: &Arrival<'_>,
        service: usize,
        keys: &Keys,
        tried: &[usize],
    ) -> Option<(Placed, Option<CallTicket>)> {
        let settings = &arrival.farm.settings.services[service];
        let pool = &arrival.farm.running.pools[service];
        let mut exclude: SmallVec<[usize; 8]> = SmallVec::from_slice(tried);
        let method = arrival.message.method();
        for _ in 0..=settings.backends.len() {
            let ask = Ask {
                user: keys.user.unwrap_or(keys.call),
                call_id: keys.call,
                source: keys.source,
                random: self.random,
                call: method == Method::Invite,
                registration: method == Method::Register,
                exclude: &exclude,
                bounded: !arrival.farm.settings.stateless,
                stateless: arrival.farm.settings.stateless,
            };
            let chosen = if T::DRY { pool.peek(self.now, &ask) } else { pool.choose(self.now, &ask) };
            let backend = match chosen {
                Ok(backend) => backend,
                Err(refusal) => {
                    self.trace.note(|| format!("no backend of {}: {refusal:?}", settings.name));
                    return None;
                }
            };
            self.trace.note(|| {
                let name = &arrival.farm.settings.backends[backend].name;
                format!("algorithm {}: {name}", settings.algorithm.name())
            });
            match self.admit(arrival, backend) {
                Ok(ticket) => {
                    let placed = Placed { service, backend, affinity: SmallVec::new(), by_affinity: false };
                    return Some((placed, ticket));
                }
                Err(_) => exclude.push(backend),
            }
        }
        None
    }

    /// Takes a place at a backend: for a call, or in its rate of registrations.
    fn admit(&self, arrival: &Arrival<'_>, index: usize) -> Result<Option<CallTicket>, AtLimit> {
        if T::DRY || arrival.farm.settings.stateless {
            return Ok(None);
        }
        let state = &arrival.farm.running.states[index];
        match arrival.message.method() {
            Method::Invite => state.take_call(self.now).map(Some).ok_or(AtLimit),
            Method::Register if !state.take_registration(self.now) => Err(AtLimit),
            _ => Ok(None),
        }
    }

    /// Remembers the choice for what must follow it.
    fn remember(&self, arrival: &Arrival<'_>, service: &Service, placed: &Placed, keys: &Keys) {
        if T::DRY || arrival.farm.settings.stateless || placed.by_affinity {
            // A call that went to the callee's box says nothing about the caller's.
            if !T::DRY && placed.by_affinity {
                let backend = arrival.farm.settings.backends[placed.backend].id;
                let directory = &self.shared.directory;
                directory.remember_recent(self.now, keys.attempt, backend);
            }
            return;
        }
        let backend = arrival.farm.settings.backends[placed.backend].id;
        let directory = &self.shared.directory;
        directory.remember_recent(self.now, keys.attempt, backend);
        if let StickyKey::Table(key) = sticky_key(service, arrival, keys, &self.shared.secrets) {
            directory.stick(self.now, key, backend);
        }
    }

    fn plan(
        &self,
        arrival: &Arrival<'_>,
        routes: &Routes<'_>,
        placed: Placed,
        ticket: Option<CallTicket>,
    ) -> Result<Plan, Refusal> {
        let backend = &arrival.farm.settings.backends[placed.backend];
        let (flow, hop) = self.to_backend(arrival, placed.backend)?;
        let replaces = arrival.farm.settings.services[placed.service].request_uri_backend;
        let parties = Parties {
            backend: backend.id,
            peer: arrival.flow,
            from_peer: true,
            binding: self.callers_binding(arrival),
        };
        let dialog = self.new_dialog(arrival.message, &parties);
        Ok(Plan {
            flow,
            hop,
            to_backend: true,
            request_uri: replaces
                .then(|| at_backend(&arrival.uri, backend.address))
                .flatten()
                .or_else(|| routes.request_uri.map(SmallVec::from_slice)),
            popped: routes.popped,
            parties,
            dialog,
            placed: Some(placed),
            outlet: None,
            ticket,
            followed: 0,
        })
    }

    /// The binding of the phone that calls, so that its dialogs follow its registration to a new address.
    fn callers_binding(&self, arrival: &Arrival<'_>) -> u64 {
        let makes_dialog = matches!(arrival.message.method(), Method::Invite | Method::Subscribe | Method::Refer);
        if !makes_dialog || arrival.origin != Origin::Client {
            return 0;
        }
        let Some(aor) = Aor::of(&arrival.message.from().uri, arrival.farm, arrival.flow.local) else {
            return 0;
        };
        let key = aor.key(&self.shared.secrets, arrival.farm.settings.id);
        self.shared
            .directory
            .with_person(key, |person| {
                person
                    .all_live(self.now)
                    .find(|binding| binding.ways(self.now).any(|way| way.flow.leads_like(&arrival.flow)))
                    .map_or(0, |binding| binding.id)
            })
            .unwrap_or(0)
    }

    /// The index of a backend if the service has it and it is available.
    fn available(&self, arrival: &Arrival<'_>, service: usize, id: BackendId) -> Option<usize> {
        let farm = arrival.farm.settings;
        farm.services[service]
            .backends
            .iter()
            .copied()
            .find(|&index| farm.backends[index].id == id)
            .filter(|&index| self.is_available(arrival, index))
    }

    fn is_available(&self, arrival: &Arrival<'_>, index: usize) -> bool {
        arrival.farm.running.states[index].is_available(self.now)
    }
}

/// `max_calls` or `max_rate` of a backend is reached.
struct AtLimit;

impl Wish {
    fn plain(backend: usize) -> Self {
        Self { backend, affinity: SmallVec::new(), by_affinity: false }
    }
}

enum StickyKey {
    /// The user's own entry; written when a REGISTER succeeds.
    User(u64),
    Table(u64),
    None,
}

/// Where persistence is kept. Unknown, anonymous and trunk senders go by Call-ID; nothing is stored where a hash gives the same.
fn sticky_key(service: &Service, arrival: &Arrival<'_>, keys: &Keys, secrets: &crate::token::Secrets) -> StickyKey {
    let hashed = service.algorithm.name();
    match &service.persistence {
        Persistence::User => keys.user.map_or(StickyKey::None, StickyKey::User),
        Persistence::CallId if hashed == "hash-call-id" => StickyKey::None,
        Persistence::CallId => StickyKey::Table(keys.call),
        Persistence::Source if hashed == "hash-source" => StickyKey::None,
        Persistence::Source => StickyKey::Table(keys.source),
        Persistence::Header(name) => arrival
            .message
            .named(name.as_bytes())
            .next()
            .map_or(StickyKey::None, |header| StickyKey::Table(text_key(secrets, header.value))),
        Persistence::None => StickyKey::None,
    }
}

/// The Request-URI for servers that know only their own address: host and port replaced, all else kept. A telephone number becomes
/// the user of a SIP URI (RFC 3261 §19.1.6); what names a service stays as it is (`None`).
fn at_backend(uri: &Uri<'_>, address: std::net::SocketAddr) -> Option<SmallVec<[u8; 64]>> {
    let (scheme, rest) = uri.raw.split_at_checked(memchr::memchr(b':', uri.raw)?)?;
    let mut text = SmallVec::new();
    // Writing into memory cannot fail.
    match uri.scheme {
        Scheme::Sip | Scheme::Sips => {
            let _ = text.write_all(scheme);
            let _ = text.write_all(b":");
            if let Some(user) = uri.user {
                let _ = text.write_all(user);
                if let Some(password) = uri.password {
                    let _ = text.write_all(b":");
                    let _ = text.write_all(password);
                }
                let _ = text.write_all(b"@");
            }
            let _ = write!(text, "{address}");
            if !uri.params.is_empty() {
                let _ = text.write_all(b";");
                let _ = text.write_all(uri.params);
            }
        }
        Scheme::Tel => {
            let _ = text.write_all(b"sip");
            let _ = text.write_all(rest);
            let _ = write!(text, "@{address};user=phone");
        }
        Scheme::Urn | Scheme::Other(_) => return None,
    }
    Some(text)
}

/// REGISTER's user, as the registration needs it.
pub(crate) fn registered_aor<'m>(arrival: &Arrival<'m>) -> Option<Uri<'m>> {
    (arrival.message.method() == Method::Register).then(|| addressed(arrival))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_uri_at_the_backend_keeps_all_but_host_and_port() {
        for (uri, address, wanted) in [
            ("sip:clyde@example.com", "10.0.1.1:5060", "sip:clyde@10.0.1.1:5060"),
            ("sip:example.com:5070", "10.0.1.1:5080", "sip:10.0.1.1:5080"),
            ("sip:c%20d:secret@[2001:db8::9]", "[2001:db8::1]:5060", "sip:c%20d:secret@[2001:db8::1]:5060"),
            ("tel:+1-201-555-0123", "10.0.1.1:5060", "sip:+1-201-555-0123@10.0.1.1:5060;user=phone"),
            (
                "tel:7042;phone-context=example.com",
                "10.0.1.1:5060",
                "sip:7042;phone-context=example.com@10.0.1.1:5060;user=phone",
            ),
            ("SIPS:clyde@example.com;user=phone;x", "10.0.1.1:5060", "SIPS:clyde@10.0.1.1:5060;user=phone;x"),
        ] {
            let parsed = sip::uri::parse(uri.as_bytes()).expect("the test writes URIs");
            let address: std::net::SocketAddr = address.parse().expect("the test writes addresses");
            let written = at_backend(&parsed, address).expect("a SIP URI or a number");
            assert_eq!(written.as_slice(), wanted.as_bytes(), "{uri}");
        }
        let service = sip::uri::parse(b"urn:service:sos").expect("a URI");
        assert_eq!(at_backend(&service, std::net::SocketAddr::from(([10, 0, 1, 1], 5060))), None);
    }
}
