//! REGISTER (RFC 3261 §10): the Contact that backends see, and the one that the phone gets back.
//!
//! Towards a backend each contact becomes `sip:USER@INSIDE-ADDRESS;tdm=ID`. ID is a pure function of the AOR and the phone's
//! contact (or its `+sip.instance` and `reg-id`), so a refresh, a reload and another unit write the same octets and no PBX ever
//! sees a second binding.

use crate::decide::{Arrival, registered_aor};
use crate::directory::{Binding, Directory};
use crate::id::BackendId;
use crate::identity::Aor;
use crate::io::Flow;
use crate::pool::BackendState;
use crate::settings::{Limits, Registrations};
use crate::token::{Route, RouteKind, Secrets};
use sip::{Contact, Edits, Host, Instant, Message, Name, NameAddr, Scheme, Value};
use smallvec::SmallVec;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// RFC 3261 §10.2.1.1 leaves the default to the registrar; this is what most grant.
const DEFAULT_EXPIRES: u32 = 3_600;
/// A phone asks for a longer life than ours is likely to be: 2^31 seconds would overflow calendars, not this.
const LONGEST_EXPIRES: u32 = 30 * 24 * 3_600;

/// What a REGISTER under way binds.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    aor: u64,
    name: Box<[u8]>,
    flow: Flow,
    backend: BackendId,
    state: Option<Arc<BackendState>>,
    /// `Contact: *`
    all: bool,
    expires: Option<u32>,
    contacts: SmallVec<[Offered; 1]>,
    sticky_ttl: Duration,
}

/// One contact of the REGISTER.
#[derive(Clone, Debug)]
struct Offered {
    id: u64,
    /// The whole value as the phone wrote it, and as the backend sees it.
    value: Box<[u8]>,
    written: Box<[u8]>,
    uri: Box<[u8]>,
    expires: Option<u32>,
    behind_nat: bool,
}

/// What writing needs to know besides the message.
pub(crate) struct Writing<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) backend: BackendId,
    pub(crate) state: Option<Arc<BackendState>>,
    /// Our address as the backend sees it.
    pub(crate) inside: &'a [u8],
    pub(crate) sticky_ttl: Duration,
}

impl Registration {
    /// Reads a REGISTER and edits what the backend gets. `None`: nothing to remember of it.
    pub(crate) fn write(arrival: &Arrival<'_>, writing: &Writing<'_>, edits: &mut Edits) -> Option<Self> {
        let mode = arrival.farm.settings.registrations;
        let uri = registered_aor(arrival)?;
        if mode == Registrations::Off {
            return None;
        }
        let aor = Aor::of(&uri, arrival.farm, arrival.flow.local)?;
        let key = aor.key(writing.secrets, arrival.farm.settings.id);
        let message = arrival.message;
        let mut registration = Self {
            aor: key,
            name: aor.name().into_boxed_slice(),
            flow: arrival.flow,
            backend: writing.backend,
            state: writing.state.clone(),
            all: false,
            expires: message.expires(),
            contacts: SmallVec::new(),
            sticky_ttl: writing.sticky_ttl,
        };
        for contact in message.contacts() {
            match contact {
                Contact::Star => registration.all = true,
                Contact::Address(address) => {
                    if let Some(offered) = Offered::read(&address, arrival, writing, key, mode) {
                        if mode == Registrations::Contact {
                            edits.replace(message.span_of(address.raw), &offered.written);
                        }
                        registration.contacts.push(offered);
                    }
                }
            }
        }
        if mode == Registrations::Contact {
            drop_outbound(message, edits);
        }
        Some(registration)
    }

    /// The Path value (RFC 3327 §5.2) and the option tag, as header lines.
    pub(crate) fn write_path(&self, message: &Message<'_>, writing: &Writing<'_>, out: &mut Vec<u8>) {
        let route = Route {
            kind: RouteKind::Path,
            paired: false,
            from_peer: false,
            backend: self.backend,
            peer: self.flow,
            binding: self.contacts.first().map_or(0, |first| first.id),
            from_tag: 0,
            epoch: writing.secrets.epoch,
        };
        out.extend_from_slice(b"Path: <sip:");
        out.extend_from_slice(&writing.secrets.seal_route(&route, b""));
        out.push(b'@');
        out.extend_from_slice(writing.inside);
        out.extend_from_slice(b";lr>\r\n");
        if !message.has_option(Name::Supported, b"path") {
            out.extend_from_slice(b"Supported: path\r\n");
        }
    }

    /// Learns from a 2xx what was bound, and edits the Contacts that the phone gets to see.
    pub(crate) fn answered(
        &self,
        now: Instant,
        response: &Message<'_>,
        directory: &Directory,
        limits: &Limits,
        edits: &mut Edits,
    ) -> Result<(), AtLimit> {
        if self.all {
            directory.unbind_all(now, self.aor);
        }
        let mut granted: SmallVec<[bool; 4]> = SmallVec::from_elem(false, self.contacts.len());
        let mut outcome = Ok(());
        let header = response.expires();
        let values: SmallVec<[Value<'_>; 4]> = response.values(Name::Contact).collect();
        let mut unknown: SmallVec<[Value<'_>; 4]> = SmallVec::new();
        for value in &values {
            let Ok(address) = sip::value::name_addr(value.bytes) else {
                continue;
            };
            match self.position(&address) {
                Some(at) => {
                    granted[at] = true;
                    let offered = &self.contacts[at];
                    let seconds =
                        address.expires().or(header).or(offered.expires).or(self.expires).unwrap_or(DEFAULT_EXPIRES);
                    if self.bind(now, offered, seconds, directory, limits).is_err() {
                        outcome = Err(AtLimit);
                    }
                    offered.restore(value, &address, response, edits);
                }
                None if !restore_one(now, &address, response, directory, edits) => unknown.push(*value),
                None => {}
            }
        }
        edits.remove_each(response, &unknown);
        for (offered, granted) in self.contacts.iter().zip(granted) {
            if !granted {
                // The registrar does not list it: it was removed, or never accepted.
                directory.unbind(now, self.aor, offered.id);
            }
        }
        outcome
    }

    fn bind(
        &self,
        now: Instant,
        offered: &Offered,
        seconds: u32,
        directory: &Directory,
        limits: &Limits,
    ) -> Result<(), AtLimit> {
        if seconds == 0 {
            directory.unbind(now, self.aor, offered.id);
            return Ok(());
        }
        let expires = now + Duration::from_secs(u64::from(seconds.min(LONGEST_EXPIRES)));
        let binding = Binding {
            id: offered.id,
            contact: offered.uri.clone(),
            flow: self.flow.into(),
            backend: self.backend,
            expires,
            behind_nat: offered.behind_nat,
            kept_alive: now,
            held: self.state.as_ref().map(|state| state.hold_registration()),
        };
        directory.bind(self.aor, &self.name, binding, limits.bindings).map_err(|_| AtLimit)?;
        directory.stick_user(self.aor, self.backend, expires + self.sticky_ttl);
        Ok(())
    }

    /// Which of this request's contacts a contact of the answer is.
    fn position(&self, address: &NameAddr<'_>) -> Option<usize> {
        match id_of(address) {
            Some(id) => self.contacts.iter().position(|offered| offered.id == id),
            None => self.contacts.iter().position(|offered| *offered.uri == *address.uri_bytes),
        }
    }
}

/// Contacts in the answer to a REGISTER whose transaction is over: those that the directory knows come back, others are left out.
pub(crate) fn restore_known(now: Instant, response: &Message<'_>, directory: &Directory, edits: &mut Edits) {
    let unknown: SmallVec<[Value<'_>; 4]> = response
        .values(Name::Contact)
        .filter(|value| {
            sip::value::name_addr(value.bytes)
                .is_ok_and(|address| !restore_one(now, &address, response, directory, edits))
        })
        .collect();
    edits.remove_each(response, &unknown);
}

/// Puts the phone's own URI back where a backend names it by our id; `false` if the id is unknown. What has no id stays as it is.
fn restore_one(
    now: Instant,
    address: &NameAddr<'_>,
    response: &Message<'_>,
    directory: &Directory,
    edits: &mut Edits,
) -> bool {
    let Some(id) = id_of(address) else { return true };
    let found = directory.binding(now, id);
    if let Some(binding) = &found {
        edits.replace(response.span_of(address.uri_bytes), &binding.contact);
    }
    found.is_some()
}

/// The directory has no room for another binding; the phone is registered at its box, but calls from other boxes miss it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AtLimit;

impl Offered {
    /// `None` for a contact that is no SIP address: it passes as it is.
    fn read(
        address: &NameAddr<'_>,
        arrival: &Arrival<'_>,
        writing: &Writing<'_>,
        aor: u64,
        mode: Registrations,
    ) -> Option<Self> {
        let uri = address.uri()?;
        if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
            return None;
        }
        let id = contact_id(address, writing.secrets, aor);
        let written = match mode {
            Registrations::Contact => rewritten(address, uri.user, writing.inside, id),
            Registrations::Path | Registrations::Off => address.raw.to_vec(),
        };
        let remote = arrival.flow.remote;
        let reached_as_written = uri.host == Host::Ip(remote.ip()) && uri.port.unwrap_or(5060) == remote.port();
        Some(Self {
            id,
            value: Box::from(address.raw),
            written: written.into_boxed_slice(),
            uri: Box::from(address.uri_bytes),
            expires: address.expires(),
            behind_nat: !reached_as_written,
        })
    }

    /// Gives the phone its own contact back: the whole value if the registrar kept ours whole, else the URI within it.
    fn restore(&self, value: &Value<'_>, address: &NameAddr<'_>, response: &Message<'_>, edits: &mut Edits) {
        if *value.bytes == *self.written {
            edits.replace(response.span_of(value.bytes), &self.value);
        } else {
            edits.replace(response.span_of(address.uri_bytes), &self.uri);
        }
    }
}

/// RFC 5626 §4.1: instance and reg-id name a flow of a phone across changes of its address; else the contact itself does.
fn contact_id(address: &NameAddr<'_>, secrets: &Secrets, aor: u64) -> u64 {
    match (address.instance(), address.reg_id()) {
        (Some(instance), Some(reg_id)) => {
            let mut name = instance.to_vec();
            name.extend_from_slice(&reg_id.to_be_bytes());
            secrets.contact_id(aor, &name)
        }
        _ => secrets.contact_id(aor, address.uri_bytes),
    }
}

fn rewritten(address: &NameAddr<'_>, user: Option<&[u8]>, inside: &[u8], id: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(address.raw.len() + 40);
    // The display name, if any, then the URI in brackets, whether or not the phone used them.
    let bracket = memchr::memmem::find(address.raw, address.uri_bytes)
        .and_then(|at| address.raw.get(..at))
        .and_then(|before| before.strip_suffix(b"<"));
    out.extend_from_slice(bracket.unwrap_or_default());
    out.extend_from_slice(b"<sip:");
    if let Some(user) = user {
        out.extend_from_slice(user);
        out.push(b'@');
    }
    out.extend_from_slice(inside);
    // Writing into memory cannot fail.
    let _ = write!(out, ";tdm={id:016x}>");
    for (name, value) in sip::value::params(address.params) {
        if name.eq_ignore_ascii_case(b"reg-id") {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    out
}

/// The registrar must not think that it speaks RFC 5626 with the phone: the flows end here.
fn drop_outbound(message: &Message<'_>, edits: &mut Edits) {
    for name in [Name::Supported, Name::Require] {
        let outbound: SmallVec<[Value<'_>; 8]> =
            message.values(name).filter(|value| value.bytes.eq_ignore_ascii_case(b"outbound")).collect();
        edits.remove_each(message, &outbound);
    }
}

fn id_of(address: &NameAddr<'_>) -> Option<u64> {
    let uri = address.uri()?;
    let text = std::str::from_utf8(uri.param(b"tdm")??).ok()?;
    u64::from_str_radix(text, 16).ok()
}
