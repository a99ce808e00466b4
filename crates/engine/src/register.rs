//! REGISTER (RFC 3261 §10): the Contact that backends see, and the one that the phone gets back.
//!
//! Towards a backend each contact becomes `sip:USER@INSIDE-ADDRESS;tdm=ID`. ID is a pure function of the AOR and the phone's
//! contact, so a refresh, a reload and another unit write the same octets and no PBX ever sees a second binding.
//!
//! A phone that names its flows by `+sip.instance` and `reg-id` (RFC 5626) is one binding to backends, however many flows it
//! has: ID is made of the instance, and a flow that ends while others live on reaches the backend as a refresh. With
//! `registrations = "path"` the registrar sees to the flows by itself, and each is a binding there.

mod refresh;

pub(crate) use refresh::{Candidate, Refreshing, longest_told};

use crate::decide::{Arrival, registered_aor};
use crate::directory::{Asked, Binding, Directory, Outbound, Refresh};
use crate::forward::scheme;
use crate::id::BackendId;
use crate::identity::Aor;
use crate::io::Flow;
use crate::pool::BackendState;
use crate::running::WrittenAddress;
use crate::settings::{Limits, Registrations};
use crate::token::{Route, RouteKind, Secrets};
use sip::{Contact, Edits, Host, Instant, Message, Name, NameAddr, Scheme, Uri, Value};
use smallvec::SmallVec;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// RFC 3261 §10.2.1.1 leaves the default to the registrar; this is what most grant.
const DEFAULT_EXPIRES: u32 = 3_600;
/// A phone asks for a longer life than ours is likely to be: 2^31 seconds would overflow calendars, not this.
const LONGEST_EXPIRES: u32 = 30 * 24 * 3_600;
/// RFC 5626 §6: the flows end here. A phone sends a keep-alive within the seconds of Flow-Timer (§4.4.1).
const OUTBOUND_LINES: &[u8] = b"Require: outbound\r\nFlow-Timer: 120\r\n";

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
    /// The phone itself sent it, speaks outbound and names the flow.
    outbound: bool,
    sticky_ttl: Duration,
    /// The seconds that the phone is told at most.
    longest: Option<u32>,
    /// What a refresh of it will say again, if it may be answered by us.
    asked: Option<Asked>,
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
    /// The flow's name, where flows end here.
    reg_id: Option<u32>,
    /// The flow ends and others of the phone live on: the backend sees a refresh.
    leaves: bool,
}

/// What writing needs to know besides the message.
pub(crate) struct Writing<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) backend: BackendId,
    pub(crate) state: Option<Arc<BackendState>>,
    /// Our address as the backend sees it.
    pub(crate) inside: &'a WrittenAddress,
    pub(crate) directory: &'a Directory,
    pub(crate) now: Instant,
    pub(crate) sticky_ttl: Duration,
}

/// What learning from an answer needs to know besides the message.
#[derive(Clone, Copy)]
pub(crate) struct Learning<'a> {
    pub(crate) now: Instant,
    pub(crate) secrets: &'a Secrets,
    pub(crate) directory: &'a Directory,
    pub(crate) limits: &'a Limits,
    /// How many outages of backends there were so far.
    pub(crate) outages: u64,
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
            outbound: speaks_outbound(arrival),
            sticky_ttl: writing.sticky_ttl,
            longest: longest_told(arrival.farm.settings),
            asked: Candidate::read(arrival, writing.secrets).map(|candidate| candidate.asked),
        };
        for contact in message.contacts() {
            match contact {
                Contact::Star => registration.all = true,
                Contact::Address(address) => {
                    if let Some(offered) = Offered::read(&address, arrival, writing, &aor, key) {
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
        registration.doubt_refreshes(writing);
        Some(registration)
    }

    /// The Path value (RFC 3327 §5.2) and the option tag, as header lines.
    pub(crate) fn write_path(&self, arrival: &Arrival<'_>, writing: &Writing<'_>, out: &mut Vec<u8>) {
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
        // RFC 3327 §5.1 leaves the scheme to §16.6 of RFC 3261: that of the Request-URI.
        let is_sips = arrival.uri.scheme == Scheme::Sips;
        out.extend_from_slice(b"Path: <");
        out.extend_from_slice(scheme(is_sips));
        out.extend_from_slice(&writing.secrets.seal_route(&route, b""));
        out.push(b'@');
        writing.inside.write_uri(is_sips, out);
        // RFC 5626 §5.1.
        let parameters: &[u8] = if self.outbound { b";lr;ob>\r\n" } else { b";lr>\r\n" };
        out.extend_from_slice(parameters);
        if !arrival.message.has_option(Name::Supported, b"path") {
            out.extend_from_slice(b"Supported: path\r\n");
        }
    }

    /// Learns from a 2xx what was bound, and edits the Contacts that the phone gets to see.
    pub(crate) fn answered(
        &self,
        learning: &Learning<'_>,
        response: &Message<'_>,
        edits: &mut Edits,
    ) -> Result<(), AtLimit> {
        let Learning { now, directory, .. } = *learning;
        if self.all {
            directory.unbind_all(now, self.aor);
        }
        let mut granted: SmallVec<[bool; 4]> = SmallVec::from_elem(false, self.contacts.len());
        let mut outcome = Ok(());
        let mut named = false;
        let header = response.expires();
        refresh::shorten_header(self.longest, response, edits);
        let values: SmallVec<[Value<'_>; 4]> = response.values(Name::Contact).collect();
        let mut unknown: SmallVec<[Value<'_>; 4]> = SmallVec::new();
        for value in &values {
            let Ok(address) = sip::value::name_addr(value.bytes) else {
                continue;
            };
            let Some(at) = self.position(&address) else {
                if !restore_one(now, &address, response, directory, self.longest, edits) {
                    unknown.push(*value);
                }
                continue;
            };
            granted[at] = true;
            let offered = &self.contacts[at];
            let seconds = address.expires().or(header).or(offered.expires).or(self.expires).unwrap_or(DEFAULT_EXPIRES);
            if offered.leaves && seconds > 0 {
                if !self.leave(learning, offered, &address, response, edits) {
                    unknown.push(*value);
                }
                continue;
            }
            match self.bind(learning, offered, seconds) {
                Ok(()) => {
                    named |= offered.reg_id.is_some() && seconds > 0;
                    self.await_refresh(learning, offered, seconds, &address, response);
                }
                Err(AtLimit) => outcome = Err(AtLimit),
            }
            let told = self.longest.filter(|longest| *longest < seconds);
            offered.restore(value, &address, response, told, edits);
        }
        edits.remove_each(response, &unknown);
        for (offered, granted) in self.contacts.iter().zip(granted) {
            if !granted {
                // The registrar does not list it: it was removed, or never accepted.
                directory.unbind(now, self.aor, offered.id);
            }
        }
        self.keep_refreshes(learning, response);
        if named && self.outbound {
            edits.insert(response.headers_end(), OUTBOUND_LINES);
        }
        outcome
    }

    /// A flow ended while others of its phone live on: the phone is told of the first of them. `false`: there is none any more.
    fn leave(
        &self,
        learning: &Learning<'_>,
        offered: &Offered,
        address: &NameAddr<'_>,
        response: &Message<'_>,
        edits: &mut Edits,
    ) -> bool {
        let Learning { now, directory, .. } = *learning;
        let left = offered.reg_id.and_then(|reg_id| directory.remove_flow(now, self.aor, offered.id, reg_id));
        let Some((reg_id, contact)) = left else {
            directory.unbind(now, self.aor, offered.id);
            return false;
        };
        edits.replace(response.span_of(address.uri_bytes), &contact);
        name_flow(reg_id, address, response, edits);
        refresh::shorten(self.longest, address, response, edits);
        true
    }

    fn bind(&self, learning: &Learning<'_>, offered: &Offered, seconds: u32) -> Result<(), AtLimit> {
        let Learning { now, directory, limits, .. } = *learning;
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
            outbound: offered.reg_id.map(Outbound::named),
        };
        directory.bind(self.aor, &self.name, binding, limits.bindings).map_err(|_| AtLimit)?;
        directory.stick_user(self.aor, self.backend, expires + self.sticky_ttl);
        Ok(())
    }

    /// Where the phone is told less than was granted, it comes back before its backend needs to hear of it: what it will say then
    /// is remembered, unless this answer says something that ours could not.
    fn await_refresh(
        &self,
        learning: &Learning<'_>,
        offered: &Offered,
        seconds: u32,
        address: &NameAddr<'_>,
        response: &Message<'_>,
    ) {
        let Some(longest) = self.longest else { return };
        let Learning { now, secrets, directory, outages, .. } = *learning;
        let granted = seconds.min(LONGEST_EXPIRES);
        // What nobody said may be far from what the registrar keeps.
        let is_said = address.expires().or(response.expires()).is_some();
        let lasts = is_said && granted > longest && !refresh::says_more(address, response, secrets);
        let asked = self.asked.as_ref().filter(|asked| lasts && asked.id == offered.id);
        let refresh = asked.map(|asked| Refresh::new(now, asked, self.backend, granted, outages));
        directory.set_refresh(now, self.aor, offered.id, offered.reg_id, refresh);
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
/// `longest`: the seconds that the phone is told at most.
pub(crate) fn restore_known(
    now: Instant,
    response: &Message<'_>,
    directory: &Directory,
    longest: Option<u32>,
    edits: &mut Edits,
) {
    let is_success = response.status_line().is_some_and(|line| (200..300).contains(&line.code));
    let longest = longest.filter(|_| is_success);
    refresh::shorten_header(longest, response, edits);
    let unknown: SmallVec<[Value<'_>; 4]> = response
        .values(Name::Contact)
        .filter(|value| {
            sip::value::name_addr(value.bytes)
                .is_ok_and(|address| !restore_one(now, &address, response, directory, longest, edits))
        })
        .collect();
    edits.remove_each(response, &unknown);
}

/// Puts the phone's own URI back where a backend names it by our id; `false` if the id is unknown. What has no id stays as it is,
/// but lasts no longer than phones are told.
fn restore_one(
    now: Instant,
    address: &NameAddr<'_>,
    response: &Message<'_>,
    directory: &Directory,
    longest: Option<u32>,
    edits: &mut Edits,
) -> bool {
    let restore = |binding: &Binding| edits.replace(response.span_of(address.uri_bytes), &binding.contact);
    let is_known = match id_of(address) {
        Some(id) => directory.with_binding(now, id, restore).is_some(),
        None => true,
    };
    if is_known {
        refresh::shorten(longest, address, response, edits);
    }
    is_known
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
        aor: &Aor<'_>,
        key: u64,
    ) -> Option<Self> {
        let uri = address.uri()?;
        if !matches!(uri.scheme, Scheme::Sip | Scheme::Sips) {
            return None;
        }
        let rewrites = arrival.farm.settings.registrations == Registrations::Contact;
        let id = contact_id(address, writing.secrets, key, rewrites);
        let reg_id = flow_name(address).filter(|_| rewrites).map(|(_, reg_id)| reg_id);
        // Where one REGISTER ends several flows of a phone, none of them is left to speak for the phone.
        let is_of_phone = |contact: &Contact<'_>| matches!(contact, Contact::Address(other) if flow_name(other).map(|(name, _)| name) == address.instance());
        let ends = address.expires().or(arrival.message.expires()) == Some(0)
            && arrival.message.contacts().filter(is_of_phone).nth(1).is_none();
        let left = reg_id.filter(|_| ends).and_then(|name| writing.directory.left_without(writing.now, id, name));
        // WebSocket phones make up a user for each connection; the contact of one phone is to stay the same.
        let user = if reg_id.is_some() { Some(aor.user) } else { uri.user };
        let written = if rewrites {
            rewritten(address, Uri { user, ..uri }, writing.inside, id, left)
        } else {
            address.raw.to_vec()
        };
        let remote = arrival.flow.remote;
        let reached_as_written = uri.host == Host::Ip(remote.ip()) && uri.port.unwrap_or(5060) == remote.port();
        Some(Self {
            id,
            value: Box::from(address.raw),
            written: written.into_boxed_slice(),
            uri: Box::from(address.uri_bytes),
            expires: left.or(address.expires()),
            behind_nat: !reached_as_written,
            reg_id,
            leaves: left.is_some(),
        })
    }

    /// Gives the phone its own contact back: the whole value if the registrar kept ours whole, else the URI within it.
    /// `told`: the seconds that it hears of instead of what was granted.
    fn restore(
        &self,
        value: &Value<'_>,
        address: &NameAddr<'_>,
        response: &Message<'_>,
        told: Option<u32>,
        edits: &mut Edits,
    ) {
        if *value.bytes == *self.written {
            let own = sip::value::name_addr(&self.value).ok();
            let at = response.span_of(value.bytes);
            match told.zip(own) {
                Some((seconds, own)) => edits.replace_with(at, |text| refresh::write_contact(&own, seconds, text)),
                None => edits.replace(at, &self.value),
            }
            return;
        }
        edits.replace(response.span_of(address.uri_bytes), &self.uri);
        if let Some(reg_id) = self.reg_id {
            name_flow(reg_id, address, response, edits);
        }
        if let Some(seconds) = told {
            refresh::tell(seconds, address, response, edits);
        }
    }
}

/// RFC 5626 §4.1: instance and reg-id name a flow of a phone across changes of its address; else the contact itself does.
/// Where flows end here, the flows of a phone are one contact.
fn contact_id(address: &NameAddr<'_>, secrets: &Secrets, aor: u64, flows_end_here: bool) -> u64 {
    match flow_name(address) {
        Some((instance, _)) if flows_end_here => secrets.contact_id(aor, instance),
        Some((instance, reg_id)) => {
            let mut name = instance.to_vec();
            name.extend_from_slice(&reg_id.to_be_bytes());
            secrets.contact_id(aor, &name)
        }
        None => secrets.contact_id(aor, address.uri_bytes),
    }
}

/// The phone's instance, and its name for the flow that this contact is registered by.
fn flow_name<'m>(address: &NameAddr<'m>) -> Option<(&'m [u8], u32)> {
    address.instance().zip(address.reg_id())
}

/// The registrar never saw the name of the flow; the phone finds its contact by it.
fn name_flow(reg_id: u32, address: &NameAddr<'_>, response: &Message<'_>, edits: &mut Edits) {
    if address.reg_id().is_none() {
        edits.insert_with(response.span_of(address.raw).end, |text| {
            // Writing into memory cannot fail.
            let _ = write!(text, ";reg-id={reg_id}");
        });
    }
}

/// RFC 5626 §5.1 and §6: the phone supports outbound and names a flow, and nobody stands between it and us.
fn speaks_outbound(arrival: &Arrival<'_>) -> bool {
    let message = arrival.message;
    let names_flow =
        |contact: Contact<'_>| matches!(contact, Contact::Address(address) if flow_name(&address).is_some());
    message.has_option(Name::Supported, b"outbound")
        && message.is_from_its_author()
        && message.contacts().any(names_flow)
}

/// A `sips` contact stays one where the box is reached over TLS; elsewhere it would promise what nobody keeps (RFC 5630 §5.3), and the
/// phone is called by `sip`, still over its own TLS. `left`: the seconds to ask for instead of none.
fn rewritten(address: &NameAddr<'_>, uri: Uri<'_>, inside: &WrittenAddress, id: u64, left: Option<u32>) -> Vec<u8> {
    let is_sips = uri.scheme == Scheme::Sips && inside.transport().is_secure();
    let mut out = Vec::with_capacity(address.raw.len() + 40);
    // The display name, if any, then the URI in brackets, whether or not the phone used them.
    let bracket = memchr::memmem::find(address.raw, address.uri_bytes)
        .and_then(|at| address.raw.get(..at))
        .and_then(|before| before.strip_suffix(b"<"));
    out.extend_from_slice(bracket.unwrap_or_default());
    out.push(b'<');
    out.extend_from_slice(scheme(is_sips));
    if let Some(user) = uri.user {
        out.extend_from_slice(user);
        out.push(b'@');
    }
    inside.write_uri(is_sips, &mut out);
    // Writing into memory cannot fail.
    let _ = write!(out, ";tdm={id:016x}>");
    for (name, value) in sip::value::params(address.params) {
        let replaced = left.is_some() && name.eq_ignore_ascii_case(b"expires");
        if replaced || name.eq_ignore_ascii_case(b"reg-id") {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    if let Some(seconds) = left {
        let _ = write!(out, ";expires={seconds}");
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
    written_id(&address.uri()?)
}

/// The id in a Contact that we wrote towards backends.
pub(crate) fn written_id(uri: &Uri<'_>) -> Option<u64> {
    let text = uri.param(b"tdm")??;
    if text.len() != 16 || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::unit::{VIP, arrive, flow, octets, request, running, secrets};
    use crate::pool::world::at;
    use crate::settings::Transport;
    use sip::decimal::AddressText;

    const PHONE: &str = "10.1.0.1:5060";
    /// `sip:bonnie@example.com` of the farm `pbx` under the tests' key.
    const BONNIE: u64 = 8_351_272_604_967_756_376;
    /// Her contacts A and B, and how a backend sees them.
    const A: (u64, &str, &str) = (
        0x0c88_4790_7952_ec49,
        "sip:bonnie@10.1.0.1:5060;expires=600",
        "<sip:bonnie@10.0.0.1:5060;tdm=0c8847907952ec49>;expires=600",
    );
    const B: (u64, &str, &str) =
        (0x4fd1_c59f_da6c_b31e, "<sip:bonnie@192.168.1.5;x=1>", "<sip:bonnie@10.0.0.1:5060;tdm=4fd1c59fda6cb31e>");

    /// A REGISTER with these lines: what is remembered of it, and its lines as the backend gets them.
    fn registered(mode: Registrations, lines: &str) -> (Option<Registration>, Vec<String>) {
        registered_in(&new_directory(), mode, lines)
    }

    /// The same where something is known already.
    fn registered_in(directory: &Directory, mode: Registrations, lines: &str) -> (Option<Registration>, Vec<String>) {
        let (secrets, running) = (secrets(), running(|farm| farm.registrations = mode));
        let inside = WrittenAddress::new(Transport::Udp, AddressText::from_slice(b"10.0.0.1:5060"));
        let writing = Writing {
            secrets: &secrets,
            backend: BackendId(17),
            state: None,
            inside: &inside,
            directory,
            now: at(0),
            sticky_ttl: Duration::from_secs(50),
        };
        arrive(&running, flow(VIP, PHONE), &request("REGISTER", "sip:example.com", lines), |arrival| {
            let mut edits = Edits::new();
            let registration = Registration::write(arrival, &writing, &mut edits);
            let mut out = Vec::new();
            edits.apply(arrival.message.bytes(), &mut out);
            if let Some(registration) = registration.as_ref().filter(|_| mode == Registrations::Path) {
                registration.write_path(arrival, &writing, &mut out);
            }
            (registration, lines_of(&out))
        })
    }

    fn lines_of(bytes: &[u8]) -> Vec<String> {
        String::from_utf8_lossy(bytes).split("\r\n").filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    fn contacts(values: &[&str]) -> String {
        values.iter().map(|value| format!("Contact: {value}\n")).collect()
    }

    fn new_directory() -> Directory {
        Directory::new(at(0), &Limits::default(), Duration::from_secs(3_600))
    }

    /// What `learn` makes of a 200 with these lines: the values of its Contacts as the phone gets them.
    fn answered<T>(lines: &str, learn: impl FnOnce(&Message<'_>, &mut Edits) -> T) -> (T, Vec<String>) {
        let (learnt, left) = answer(lines, learn);
        (learnt, left.iter().filter_map(|line| line.strip_prefix("Contact: ").map(str::to_owned)).collect())
    }

    /// The same: all its lines.
    fn answer<T>(lines: &str, learn: impl FnOnce(&Message<'_>, &mut Edits) -> T) -> (T, Vec<String>) {
        let head = "SIP/2.0 200 OK\nCSeq: 1 REGISTER\n";
        let bytes = octets(&format!("{head}{lines}"));
        let message = sip::parse(&bytes, &sip::Limits::default()).expect("the test writes a response");
        let (mut edits, mut out) = (Edits::new(), Vec::new());
        let learnt = learn(&message, &mut edits);
        edits.apply(message.bytes(), &mut out);
        (learnt, lines_of(&out))
    }

    fn learning<'a>(secrets: &'a Secrets, directory: &'a Directory, limits: &'a Limits) -> Learning<'a> {
        Learning { now: at(0), secrets, directory, limits, outages: 0 }
    }

    fn learns(registration: &Registration, directory: &Directory, lines: &str) -> Vec<String> {
        let (secrets, limits) = (secrets(), Limits::default());
        let learning = learning(&secrets, directory, &limits);
        let (outcome, values) = answered(lines, |response, edits| registration.answered(&learning, response, edits));
        assert_eq!(outcome, Ok(()));
        values
    }

    fn bound(directory: &Directory, id: u64, second: u64) -> bool {
        directory.binding(at(second * 1_000), id).is_some()
    }

    fn another_phone(id: u64) -> Binding {
        Binding {
            id,
            contact: Box::from(&b"sip:clyde@10.1.0.7"[..]),
            flow: flow(VIP, "10.1.0.7:5060").into(),
            backend: BackendId(18),
            expires: at(60_000),
            behind_nat: false,
            kept_alive: at(0),
            held: None,
            outbound: None,
        }
    }

    /// By one of the flows of Bonnie's phone, and how a backend sees her phone.
    fn by_flow(port: u16, reg_id: u32, expires: u32) -> String {
        format!("<sip:bonnie@10.1.0.1:{port}>;+sip.instance=\"<urn:uuid:1>\";reg-id={reg_id};expires={expires}")
    }

    const BY_FLOWS: &str = "<sip:bonnie@10.0.0.1:5060;tdm=6136c3a4b21a9d0a>;+sip.instance=\"<urn:uuid:1>\";expires=600";

    /// The ids are the same in every unit and after every start, or each PBX would see second bindings.
    #[test]
    fn backends_see_each_contact_at_our_address_under_a_lasting_id() {
        let instance = "+sip.instance=\"<urn:uuid:1>\"";
        let by_instance = format!("<sip:bonnie@10.0.0.1:5060;tdm=6136c3a4b21a9d0a>;{instance}");
        for (came, left) in [
            (A.1.to_owned(), A.2.to_owned()),
            (B.1.to_owned(), B.2.to_owned()),
            ("\"Bo, P\" <sip:bonnie@10.1.0.1:5060>;q=1;x".to_owned(), format!("\"Bo, P\" {};q=1;x", &A.2[..47])),
            ("<sip:10.1.0.1:5060>".to_owned(), "<sip:10.0.0.1:5060;tdm=396f4e164cc675f1>".to_owned()),
            ("<tel:+4930123>".to_owned(), "<tel:+4930123>".to_owned()),
            // RFC 5626 §4.1: wherever the phone is and by whatever flow, it is one binding.
            (format!("<sip:bonnie@10.1.0.1:5060>;{instance};reg-id=1"), by_instance.clone()),
            (format!("<sip:bonnie@192.168.1.5>;{instance};reg-id=1"), by_instance.clone()),
            (format!("<sip:bonnie@10.1.0.1:5060>;{instance};Reg-ID=2"), by_instance.clone()),
            (format!("<sip:q7ra@x.invalid;transport=ws>;{instance};reg-id=1"), by_instance.clone()),
            // These two do not name a flow.
            ("<sip:bonnie@10.1.0.1:5060>;reg-id=1".to_owned(), A.2[..47].to_owned()),
            (format!("<sip:bonnie@10.1.0.1:5060>;{instance}"), format!("{};{instance}", &A.2[..47])),
        ] {
            let (_, lines) = registered(Registrations::Contact, &contacts(&[came.as_str()]));
            assert_eq!(lines.last(), Some(&format!("Contact: {left}")), "{came}");
            let (_, lines) = registered(Registrations::Path, &contacts(&[came.as_str()]));
            assert!(lines.contains(&format!("Contact: {came}")), "{lines:?}");
        }
        let (nothing, lines) = registered(Registrations::Off, &contacts(&[A.1]));
        assert!(nothing.is_none() && lines.contains(&format!("Contact: {}", A.1)), "{lines:?}");
    }

    #[test]
    fn only_where_contacts_are_rewritten_the_registrar_hears_nothing_of_outbound() {
        let lines = "Supported: outbound, path\nRequire: Outbound";
        let (_, left) = registered(Registrations::Contact, lines);
        assert!(left.contains(&"Supported: path".to_owned()), "{left:?}");
        assert!(!left.iter().any(|line| line.starts_with("Require")), "{left:?}");
        let (_, left) = registered(Registrations::Path, lines);
        assert!(left.contains(&"Supported: outbound, path".to_owned()), "{left:?}");
        assert!(left.contains(&"Require: Outbound".to_owned()), "{left:?}");
    }

    /// RFC 5626 §6, where the farm is the registrar of the flows.
    #[test]
    fn the_flows_of_a_phone_come_and_go_as_one_contact() {
        let directory = new_directory();
        let mode = Registrations::Contact;
        for (port, reg_id) in [(5060, 1), (5070, 2)] {
            let came = by_flow(port, reg_id, 600);
            let (registration, lines) = registered_in(&directory, mode, &contacts(&[came.as_str()]));
            assert_eq!(lines.last(), Some(&format!("Contact: {BY_FLOWS}")));
            let registration = registration.expect("a REGISTER");
            assert_eq!(learns(&registration, &directory, &contacts(&[BY_FLOWS])), [came]);
            assert_eq!(directory.bindings(), 1);
        }
        // The second one leaves; the box hears that the phone stays for as long as the first one does.
        let unnamed_end = by_flow(5070, 2, 0).replace(";expires=0", "");
        for came in [contacts(&[by_flow(5070, 2, 0).as_str()]), format!("Expires: 0\nContact: {unnamed_end}")] {
            let (registration, lines) = registered_in(&directory, mode, &came);
            assert_eq!(lines.last(), Some(&format!("Contact: {BY_FLOWS}")), "{came}");
            let registration = registration.expect("a REGISTER");
            let granted = BY_FLOWS.replace("expires=600", "expires=300");
            let values = learns(&registration, &directory, &contacts(&[granted.as_str()]));
            let wanted = "<sip:bonnie@10.1.0.1:5060>;+sip.instance=\"<urn:uuid:1>\";expires=300;reg-id=1";
            assert_eq!((values, directory.bindings()), (vec![wanted.to_owned()], 1), "{came}");
        }
        let (registration, lines) = registered_in(&directory, mode, &contacts(&[by_flow(5060, 1, 0).as_str()]));
        assert!(lines.last().is_some_and(|line| line.ends_with(";expires=0")), "{lines:?}");
        let values = learns(&registration.expect("a REGISTER"), &directory, "");
        assert_eq!((values.len(), directory.bindings()), (0, 0));
    }

    #[test]
    fn flows_that_end_together_leave_nothing_behind() {
        let directory = new_directory();
        let register = |came: &[&str]| registered_in(&directory, Registrations::Contact, &contacts(came));
        for (port, reg_id) in [(5060, 1), (5070, 2)] {
            let (registration, _) = register(&[&by_flow(port, reg_id, 600)]);
            learns(&registration.expect("a REGISTER"), &directory, &contacts(&[BY_FLOWS]));
        }
        let (registration, lines) = register(&[&by_flow(5060, 1, 0), &by_flow(5070, 2, 0)]);
        let written: Vec<&String> = lines.iter().filter(|line| line.starts_with("Contact: ")).collect();
        assert!(written.len() == 2 && written.iter().all(|line| line.ends_with(";expires=0")), "{written:?}");
        let values = learns(&registration.expect("a REGISTER"), &directory, "");
        assert_eq!((values.len(), directory.bindings()), (0, 0));
    }

    #[test]
    fn a_box_that_lets_the_phone_go_ends_all_of_its_flows() {
        for answer in ["", "Contact: <sip:bonnie@10.0.0.1:5060;tdm=6136c3a4b21a9d0a>;expires=0"] {
            let directory = new_directory();
            let register = |came: &str| {
                registered_in(&directory, Registrations::Contact, &contacts(&[came])).0.expect("a REGISTER")
            };
            for (port, reg_id) in [(5060, 1), (5070, 2)] {
                learns(&register(&by_flow(port, reg_id, 600)), &directory, &contacts(&[BY_FLOWS]));
            }
            learns(&register(&by_flow(5070, 2, 0)), &directory, answer);
            assert_eq!(directory.bindings(), 0, "{answer}");
        }
    }

    /// RFC 5626 §6: of the phone itself only, and only where it asked for it.
    #[test]
    fn a_phone_hears_of_outbound_where_it_supports_it_and_names_its_flow() {
        let (named, second) = (by_flow(5060, 1, 600), "Via: SIP/2.0/UDP 10.9.0.9:5060;branch=z9hG4bKd\n");
        for (mode, lines, told) in [
            (Registrations::Contact, format!("Supported: path, outbound\nContact: {named}"), true),
            (Registrations::Contact, format!("Supported: path\nContact: {named}"), false),
            (Registrations::Contact, format!("{second}Supported: outbound\nContact: {named}"), false),
            (Registrations::Contact, format!("Supported: outbound\nContact: {}", A.1), false),
            (Registrations::Path, format!("Supported: outbound\nContact: {named}"), false),
        ] {
            let (registration, written) = registered(mode, &lines);
            let registration = registration.expect("a REGISTER");
            let contact = written.iter().find(|line| line.starts_with("Contact: ")).cloned().unwrap_or_default();
            let (secrets, directory, limits) = (secrets(), new_directory(), Limits::default());
            let learning = learning(&secrets, &directory, &limits);
            let learn = |response: &Message<'_>, edits: &mut Edits| registration.answered(&learning, response, edits);
            let (_, left) = answer(&contact, learn);
            let seen = ["Require: outbound", "Flow-Timer: 120"].map(|line| left.iter().any(|known| known == line));
            assert_eq!(seen, [told; 2], "{mode:?} {lines}");
            let path = written.iter().find(|line| line.starts_with("Path: "));
            assert_eq!(path.map(|path| path.ends_with(";lr;ob>")), (mode == Registrations::Path).then_some(true));
        }
        for lines in [format!("Contact: {named}"), format!("{second}Supported: outbound\nContact: {named}")] {
            let (_, written) = registered(Registrations::Path, &lines);
            assert!(!written.iter().any(|line| line.contains(";ob")), "{written:?}");
        }
    }

    /// RFC 3327 §5.2.
    #[test]
    fn a_path_names_the_phone_its_binding_and_the_backend() {
        for (supported, added) in [("Supported: path", 0), ("Supported: timer", 1)] {
            let (_, lines) = registered(Registrations::Path, &format!("{supported}\n{}", contacts(&[A.1, B.1])));
            let path = lines.iter().find_map(|line| line.strip_prefix("Path: <sip:")).expect("a Path");
            let (token, rest) = path.split_once('@').expect("a user");
            assert_eq!(rest, "10.0.0.1:5060;lr>");
            let route = secrets().read_route(token.as_bytes(), b"").expect("a token of ours");
            assert_eq!((route.kind, route.backend, route.binding), (RouteKind::Path, BackendId(17), A.0));
            assert_eq!((route.peer.remote, route.paired, route.from_peer), (flow(VIP, PHONE).remote, false, false));
            assert_eq!(lines.iter().skip_while(|line| !line.starts_with("Path")).count(), 1 + added, "{lines:?}");
        }
    }

    #[test]
    fn the_phone_gets_its_own_contacts_back_and_strangers_bindings_are_left_out() {
        let directory = new_directory();
        directory.bind(5, b"clyde@example.com", another_phone(0x77), 9).expect("room");
        let (registration, _) = registered(Registrations::Contact, &contacts(&[A.1, B.1]));
        let registration = registration.expect("a REGISTER");
        let in_part = format!("{};expires=100", B.2);
        let answer = [
            A.2,
            in_part.as_str(),
            "<sip:x@10.0.0.1:5060;tdm=0000000000000099>",
            "<sip:x@10.0.0.1:5060;tdm=0000000000000077>;expires=9",
            "<sip:bonnie@elsewhere.example>",
        ];
        let others = ["<sip:clyde@10.1.0.7>;expires=9", "<sip:bonnie@elsewhere.example>"];
        let values = learns(&registration, &directory, &contacts(&answer));
        assert_eq!(values, [&[A.1, "<sip:bonnie@192.168.1.5;x=1>;expires=100"][..], &others].concat());
        let first = directory.binding(at(0), A.0).expect("bound");
        assert_eq!((&*first.contact, Flow::from(&first.flow)), (&b"sip:bonnie@10.1.0.1:5060"[..], flow(VIP, PHONE)));
        assert_eq!((first.backend, first.behind_nat), (BackendId(17), false));
        assert!(directory.binding(at(0), B.0).expect("bound").behind_nat);
        assert_eq!(directory.with_person(BONNIE, |person| person.name.to_vec()), Some(b"bonnie@example.com".to_vec()));
        assert_eq!([600, 601].map(|second| bound(&directory, A.0, second - 1)), [true, false]);
        // Once the transaction is over the directory alone knows whose they are.
        let restored = |directory: &Directory| {
            answered(&contacts(&answer), |response, edits| restore_known(at(0), response, directory, None, edits)).1
        };
        let uris = ["<sip:bonnie@10.1.0.1:5060>;expires=600", "<sip:bonnie@192.168.1.5;x=1>;expires=100"];
        assert_eq!(restored(&directory), [&uris[..], &others].concat());
        assert_eq!(restored(&new_directory()), ["<sip:bonnie@elsewhere.example>"]);
    }

    /// RFC 3261 §10.3 step 8: what the answer says of the contact comes first, then what was asked for.
    #[test]
    fn a_binding_lasts_as_long_as_the_registrar_granted() {
        for (asked, asked_header, granted, granted_header, seconds) in [
            (";expires=600", "Expires: 700\n", ";expires=100", "Expires: 200\n", 100),
            (";expires=600", "Expires: 700\n", "", "Expires: 200\n", 200),
            (";expires=600", "Expires: 700\n", "", "", 600),
            ("", "Expires: 700\n", "", "", 700),
            ("", "", "", "", 3_600),
            ("", "", ";expires=1", "", 1),
            ("", "", ";expires=0", "Expires: 200\n", 0),
            ("", "", ";expires=2591999", "", 2_591_999),
            // Thirty days are the longest.
            ("", "", ";expires=4294967295", "", 2_592_000),
        ] {
            let directory = new_directory();
            let came = format!("{asked_header}Contact: <sip:bonnie@10.1.0.1:5060>{asked}");
            let (registration, _) = registered(Registrations::Contact, &came);
            let uri = &A.2[..47];
            let lines = format!("{granted_header}Contact: {uri}{granted}");
            learns(&registration.expect("a REGISTER"), &directory, &lines);
            assert_eq!(bound(&directory, A.0, seconds.max(1) - 1), seconds > 0, "{came} {lines}");
            assert!(!bound(&directory, A.0, seconds), "{came} {lines}");
            // The user sticks to his box for 50 s more.
            let sticks = |second: u64| directory.user_backend(at(second * 1_000), BONNIE) == Some(BackendId(17));
            assert_eq!((sticks(seconds + 49), sticks(seconds + 50)), (seconds > 0, false), "{came} {lines}");
        }
    }

    #[test]
    fn a_contact_that_the_registrar_does_not_list_is_gone() {
        for (mode, a, b) in [(Registrations::Contact, A.2, B.2), (Registrations::Path, A.1, B.1)] {
            let (registration, _) = registered(mode, &contacts(&[A.1, B.1]));
            let registration = registration.expect("a REGISTER");
            let rows: [(&[&str], [bool; 2]); 4] =
                [(&[a, b], [true; 2]), (&[a], [true, false]), (&[b], [false, true]), (&[], [false; 2])];
            for (listed, left) in rows {
                let directory = new_directory();
                learns(&registration, &directory, &contacts(&[a, b]));
                learns(&registration, &directory, &contacts(listed));
                assert_eq!([A.0, B.0].map(|id| bound(&directory, id, 1)), left, "{mode:?} {listed:?}");
            }
        }
    }

    #[test]
    fn a_full_directory_binds_nobody() {
        let (registration, _) = registered(Registrations::Contact, &contacts(&[A.1]));
        let registration = registration.expect("a REGISTER");
        for (bindings, outcome) in [(0, Err(AtLimit)), (1, Ok(()))] {
            let (directory, limits) = (new_directory(), Limits { bindings, ..Limits::default() });
            let secrets = secrets();
            let learning = learning(&secrets, &directory, &limits);
            let (learnt, _) =
                answered(&contacts(&[A.2]), |response, edits| registration.answered(&learning, response, edits));
            assert_eq!(learnt, outcome);
            assert_eq!(bound(&directory, A.0, 1), outcome.is_ok());
        }
    }

    /// Of a phone that is heard at 10.1.0.1:5060.
    #[test]
    fn a_phone_is_behind_a_nat_unless_it_is_where_it_says() {
        for (contact, behind_nat) in [
            ("<sip:bonnie@10.1.0.1:5060>", false),
            ("<sip:bonnie@10.1.0.1>", false),
            ("<sip:bonnie@10.1.0.1:5070>", true),
            ("<sip:bonnie@10.1.0.2:5060>", true),
            ("<sip:bonnie@phone.example>", true),
        ] {
            let (registration, _) = registered(Registrations::Contact, &contacts(&[contact]));
            let registration = registration.expect("a REGISTER");
            let seen: Vec<bool> = registration.contacts.iter().map(|offered| offered.behind_nat).collect();
            assert_eq!(seen, [behind_nat], "{contact}");
        }
    }
}
