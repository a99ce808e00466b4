//! `max_expires`: phones come back soon, and their backends have no trouble with it.
//!
//! A backend hears, and grants, the phone's own time; the phone hears of `max_expires` at most. When it comes back early and says
//! nothing new ([`Candidate`]), it is answered from the directory ([`Refreshing`]); all else goes to the backend, such as the wish for
//! less time than phones are told, by which it would shorten its binding (RFC 3261 §10.3 step 7).
//!
//! What a backend granted one phone of a user is believed until it says otherwise to another: an answer that lists the phone
//! no more, or for less time, sends its next refresh to the backend. A registrar that lists nobody but the phone it answers
//! cannot be told from one that drops the others, and hears each refresh of a user with several phones.

use super::{Learning, OUTBOUND_LINES, Registration, Writing, contact_id, flow_name, id_of, speaks_outbound};
use crate::decide::{Arrival, registered_aor};
use crate::directory::{Asked, Binding, Fresh, Person};
use crate::identity::Aor;
use crate::settings::{Farm, Registrations};
use crate::token::{RouteKind, Secrets};
use sip::decimal::Decimal;
use sip::transaction::KeyClass;
use sip::{Contact, Edits, Instant, Message, Name, NameAddr, Scheme};
use std::fmt;
use std::hash::Hasher;
use std::io::Write;
use std::num::NonZero;
use std::time::Duration;

/// What a 2xx says besides the bindings. A refresh that is answered without it would take it away from the phone (RFC 3608 §5,
/// RFC 7315 §4.1, RFC 3329 §2.3.1, RFC 5626 §4.2.1, RFC 8599 §4.1.1, RFC 7616 §3.5).
const SAID_BESIDES: [&[u8]; 8] = [
    b"Service-Route",
    b"P-Associated-URI",
    b"Security-Server",
    b"Security-Verify",
    b"Security-Client",
    b"Require",
    b"Feature-Caps",
    b"Authentication-Info",
];
/// The same for the parameters of a Contact (RFC 5627 §5.3).
const GRUUS: [&[u8]; 2] = [b"pub-gruu", b"temp-gruu"];

/// A REGISTER with one contact and no wishes besides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<'m> {
    pub(crate) asked: Asked,
    contact: NameAddr<'m>,
    /// The seconds that phones are told at most.
    longest: u32,
    /// The phone speaks outbound and names this flow.
    outbound: bool,
}

/// A REGISTER that is answered from the directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refreshing<'m> {
    pub(crate) candidate: Candidate<'m>,
    pub(crate) fresh: Fresh,
}

impl<'m> Candidate<'m> {
    /// `None`: the farm lets each REGISTER through, or this one says more than that a phone is still there.
    pub(crate) fn read(arrival: &Arrival<'m>, secrets: &Secrets) -> Option<Self> {
        let farm = arrival.farm.settings;
        let longest = longest_told(farm)?;
        let uri = registered_aor(arrival)?;
        let rewrites = match farm.registrations {
            Registrations::Contact => true,
            Registrations::Path => false,
            Registrations::Off => return None,
        };
        let message = arrival.message;
        let is_plain =
            message.to().tag.is_none() && message.first(Name::Require).is_none() && message.body().is_empty();
        let mut contacts = message.values(Name::Contact);
        let only = contacts.next().filter(|_| is_plain)?;
        if contacts.next().is_some() {
            return None;
        }
        let contact = sip::value::name_addr(only.bytes).ok()?;
        let seconds = contact.expires().or(message.expires());
        let is_sip = contact.uri().is_some_and(|uri| matches!(uri.scheme, Scheme::Sip | Scheme::Sips));
        // Some phones ask for as long as they were told.
        if seconds.is_some_and(|seconds| seconds < longest) || !is_sip {
            return None;
        }
        let aor = Aor::of(&uri, arrival.farm, arrival.flow.local)?.key(secrets, farm.id);
        let reg_id = flow_name(&contact).filter(|_| rewrites).map(|(_, reg_id)| reg_id);
        let asked = Asked {
            aor,
            id: contact_id(&contact, secrets, aor, rewrites),
            reg_id,
            asker: asker_key(arrival, secrets),
            credentials: credentials_key(arrival, secrets),
            contact: contact_key(&contact, secrets),
            cseq: message.cseq().number,
            transaction: transaction_key(arrival, secrets),
            flow: arrival.flow,
        };
        let outbound = reg_id.is_some() && speaks_outbound(arrival);
        Some(Self { asked, contact, longest, outbound })
    }
}

impl Refreshing<'_> {
    /// The header lines of the answer (RFC 3261 §10.3 step 8): this contact, then the others of the user.
    pub(crate) fn write(&self, now: Instant, person: &Person, out: &mut Vec<u8>) {
        let Candidate { asked, contact, longest, outbound } = &self.candidate;
        out.extend_from_slice(b"Contact: ");
        let left = u32::try_from(self.fresh.left.as_secs()).unwrap_or(u32::MAX);
        write_contact(contact, left.min(*longest), out);
        out.extend_from_slice(b"\r\n");
        for (contact, until) in person.contacts_but(now, asked.id) {
            let left = until.saturating_since(self.fresh.as_of).as_secs().min(u64::from(*longest));
            out.extend_from_slice(b"Contact: <");
            out.extend_from_slice(contact);
            // Writing into memory cannot fail.
            let _ = write!(out, ">;expires={left}\r\n");
        }
        if *outbound {
            out.extend_from_slice(OUTBOUND_LINES);
        }
    }
}

impl fmt::Display for Refreshing<'_> {
    /// For the operator.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fresh { left, granted, .. } = &self.fresh;
        write!(formatter, "answered from the directory: {} s of {} s are left", left.as_secs(), granted.as_secs())
    }
}

impl Registration {
    /// It goes to the backend. Should the answer get lost, nobody knows what the backend made of it.
    pub(super) fn doubt_refreshes(&self, writing: &Writing<'_>) {
        if self.longest.is_none() {
            return;
        }
        if self.all {
            writing.directory.keep_refreshes(self.aor, |_| None);
        }
        for offered in &self.contacts {
            writing.directory.set_refresh(writing.now, self.aor, offered.id, offered.reg_id, None);
        }
    }

    /// A 2xx lists all contacts of the user (RFC 3261 §10.3 step 8).
    pub(super) fn keep_refreshes(&self, learning: &Learning<'_>, response: &Message<'_>) {
        let Learning { now, secrets, directory, .. } = *learning;
        let header = response.expires();
        directory.keep_refreshes(self.aor, |binding| {
            let seconds = response.contacts().filter_map(|contact| match contact {
                Contact::Address(address) if self.is_of(&address, binding, secrets) => address.expires().or(header),
                _ => None,
            });
            let longest = seconds.filter(|seconds| *seconds > 0).max()?;
            Some(now + Duration::from_secs(u64::from(longest)))
        });
    }

    /// Is a contact of the answer this binding?
    fn is_of(&self, address: &NameAddr<'_>, binding: &Binding, secrets: &Secrets) -> bool {
        match (id_of(address), flow_name(address)) {
            (Some(id), _) => id == binding.id,
            (None, Some(_)) => contact_id(address, secrets, self.aor, false) == binding.id,
            (None, None) => *address.uri_bytes == *binding.contact,
        }
    }
}

/// The seconds that phones of this farm are told at most. A stateless farm knows nothing that it could tell them by.
pub(crate) fn longest_told(farm: &Farm) -> Option<u32> {
    let longest = farm.max_expires.filter(|_| !farm.stateless)?;
    Some(u32::try_from(longest.as_secs()).unwrap_or(u32::MAX).max(1))
}

/// Does the answer say more of this contact than how long it lasts?
pub(super) fn says_more(address: &NameAddr<'_>, response: &Message<'_>, secrets: &Secrets) -> bool {
    SAID_BESIDES.iter().any(|name| response.named(name).next().is_some())
        || GRUUS.iter().any(|name| address.param(name).is_some())
        || response.values(Name::Path).any(|value| !is_own_path(value.bytes, secrets))
        || !response.body().is_empty()
}

/// RFC 3327 §5.3: the registrar repeats each Path. Ours says nothing to the phone.
fn is_own_path(value: &[u8], secrets: &Secrets) -> bool {
    let uri = sip::value::name_addr(value).ok().and_then(|address| address.uri());
    let route = uri.and_then(|uri| secrets.read_route(uri.user?, b""));
    route.is_some_and(|route| route.kind == RouteKind::Path)
}

/// The Expires header of a 2xx.
pub(super) fn shorten_header(longest: Option<u32>, response: &Message<'_>, edits: &mut Edits) {
    if let (Some(longest), Some(seconds), Some(header)) = (longest, response.expires(), response.first(Name::Expires))
        && seconds > longest
    {
        edits.replace(response.span_of(header.value), &Decimal::new(u64::from(longest)));
    }
}

/// A contact of a 2xx that says by itself how long it lasts.
pub(super) fn shorten(longest: Option<u32>, address: &NameAddr<'_>, response: &Message<'_>, edits: &mut Edits) {
    if let (Some(longest), Some(seconds)) = (longest, address.expires())
        && seconds > longest
    {
        tell(longest, address, response, edits);
    }
}

/// Writes how long a contact lasts, in place of what the registrar says.
pub(super) fn tell(seconds: u32, address: &NameAddr<'_>, response: &Message<'_>, edits: &mut Edits) {
    match address.param(b"expires").flatten() {
        Some(value) => edits.replace(response.span_of(value), &Decimal::new(u64::from(seconds))),
        None => edits.insert_with(response.span_of(address.raw).end, |text| {
            // Writing into memory cannot fail.
            let _ = write!(text, ";expires={seconds}");
        }),
    }
}

/// The contact as the phone wrote it, with another time.
pub(super) fn write_contact(address: &NameAddr<'_>, seconds: u32, out: &mut Vec<u8>) {
    let head = address.raw.len().saturating_sub(address.params.len());
    let head = address.raw.get(..head).unwrap_or(address.raw).trim_ascii_end();
    out.extend_from_slice(head.strip_suffix(b";").unwrap_or(head).trim_ascii_end());
    for (name, value) in lasting(address) {
        out.push(b';');
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    // Writing into memory cannot fail.
    let _ = write!(out, ";expires={seconds}");
}

/// All parameters but the time.
fn lasting<'m>(address: &NameAddr<'m>) -> impl Iterator<Item = (&'m [u8], Option<&'m [u8]>)> {
    sip::value::params(address.params).filter(|(name, _)| !name.eq_ignore_ascii_case(b"expires"))
}

/// Third parties that register for the same user are others, even by the same Call-ID. Who supports something else is answered in
/// another way, and by another Path calls take another one.
fn asker_key(arrival: &Arrival<'_>, secrets: &Secrets) -> u64 {
    let message = arrival.message;
    let mut hasher = secrets.table_hasher();
    for part in [message.call_id(), arrival.uri.raw, message.from().uri.raw, message.to().uri.raw] {
        write_part(part, &mut hasher);
    }
    for name in [Name::Supported, Name::Path] {
        for line in message.all(name) {
            write_part(line.value, &mut hasher);
        }
    }
    hasher.finish()
}

/// `None`: the phone sends no credentials.
fn credentials_key(arrival: &Arrival<'_>, secrets: &Secrets) -> Option<NonZero<u64>> {
    let mut names = arrival.message.credentials().filter_map(|credentials| credentials.username()).peekable();
    names.peek()?;
    let mut hasher = secrets.table_hasher();
    for name in names {
        write_part(name, &mut hasher);
    }
    NonZero::new(hasher.finish())
}

/// Octet for octet: who writes it in another way is heard by the backend once more.
fn contact_key(address: &NameAddr<'_>, secrets: &Secrets) -> u64 {
    let mut hasher = secrets.table_hasher();
    write_part(address.display, &mut hasher);
    hasher.write(address.uri_bytes);
    for (name, value) in lasting(address) {
        hasher.write_u8(0);
        hasher.write(name);
        hasher.write_u8(u8::from(value.is_some()));
        hasher.write(value.unwrap_or_default());
    }
    hasher.finish()
}

fn transaction_key(arrival: &Arrival<'_>, secrets: &Secrets) -> u64 {
    let mut hasher = secrets.table_hasher();
    sip::transaction::key(arrival.message, &mut hasher, KeyClass::Own);
    hasher.finish()
}

fn write_part(part: &[u8], hasher: &mut impl Hasher) {
    hasher.write(part);
    hasher.write_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BackendId;
    use crate::io::unit::{VIP, arrive, flow, request, running, secrets};
    use crate::token::Route;

    const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
    const BONNIE: &str = "Contact: <sip:bonnie@10.1.0.1:5060>;x=1;expires=600";

    /// What is read of a REGISTER with these lines in a farm so adjusted.
    fn asked(adjust: impl FnOnce(&mut Farm), lines: &str) -> Option<Asked> {
        asked_by(adjust, &request("REGISTER", "sip:example.com", lines))
    }

    fn asked_by(adjust: impl FnOnce(&mut Farm), request: &str) -> Option<Asked> {
        let running = running(|farm| {
            farm.max_expires = MINUTE;
            adjust(farm);
        });
        arrive(&running, flow(VIP, "10.1.0.1:5060"), request, |arrival| {
            Candidate::read(arrival, &secrets()).map(|candidate| candidate.asked)
        })
    }

    #[test]
    fn only_a_farm_that_shortens_answers() {
        type Adjust = fn(&mut Farm);
        let rows: [(Adjust, bool); 5] = [
            (|_| (), true),
            (|farm| farm.registrations = Registrations::Path, true),
            (|farm| farm.max_expires = None, false),
            (|farm| farm.stateless = true, false),
            (|farm| farm.registrations = Registrations::Off, false),
        ];
        for (at, (adjust, answers)) in rows.into_iter().enumerate() {
            assert_eq!(asked(adjust, BONNIE).is_some(), answers, "{at}");
        }
    }

    #[test]
    fn only_a_plain_register_is_answered() {
        for (lines, plain) in [
            (BONNIE.to_owned(), true),
            ("Expires: 60\nContact: <sip:bonnie@10.1.0.1>".to_owned(), true),
            ("Expires: 59\nContact: <sip:bonnie@10.1.0.1>".to_owned(), false),
            ("Expires: 600\nContact: <sip:bonnie@10.1.0.1>;expires=59".to_owned(), false),
            ("Expires: 59\nContact: <sip:bonnie@10.1.0.1>;expires=60".to_owned(), true),
            ("Contact: <sip:bonnie@10.1.0.1>".to_owned(), true),
            (format!("{BONNIE}\nSupported: path, outbound"), true),
            (String::new(), false),
            ("Expires: 0\nContact: *".to_owned(), false),
            ("Expires: 0\nContact: <sip:bonnie@10.1.0.1>".to_owned(), false),
            ("Expires: 9\nContact: <sip:bonnie@10.1.0.1>;expires=0".to_owned(), false),
            (format!("{BONNIE}, <sip:bonnie@10.1.0.2>"), false),
            (format!("{BONNIE}\nContact: <sip:bonnie@10.1.0.2>"), false),
            ("Contact: <tel:+4930123>".to_owned(), false),
            (format!("{BONNIE}\nRequire: outbound"), false),
        ] {
            assert_eq!(asked(|_| (), &lines).is_some(), plain, "{lines}");
        }
        let message = request("MESSAGE", "sip:example.com", BONNIE);
        assert!(asked_by(|_| (), &message).is_none());
        let to = "To: <sip:bonnie@example.com>";
        let tagged = request("REGISTER", "sip:example.com", BONNIE).replace(to, &format!("{to};tag=t"));
        assert!(asked_by(|_| (), &tagged).is_none());
    }

    #[test]
    fn a_refresh_repeats_all_but_its_time_and_its_number() {
        let first = request("REGISTER", "sip:example.com", BONNIE);
        let known = asked_by(|_| (), &first).expect("plain");
        let keys = |asked: &Asked| (asked.aor, asked.id, asked.reg_id, asked.asker, asked.contact);
        for (old, new, same) in [
            ("CSeq: 1", "CSeq: 7", true),
            ("branch=z9hG4bKc", "branch=z9hG4bKd", true),
            (";tag=ft", ";tag=other", true),
            ("expires=600", "expires=60", true),
            (";expires=600", "", true),
            ("Call-ID: call-1", "Call-ID: call-2", false),
            ("REGISTER sip:example.com", "REGISTER sip:example.com:5060", false),
            ("From: <sip:bonnie@", "From: <sip:boss@", false),
            ("To: <sip:bonnie@", "To: <sip:clyde@", false),
            ("To: <sip:bonnie@example.com>", "To: <sip:bonnie@10.0.0.1>", false),
            ("CSeq: 1", "Supported: gruu\nCSeq: 1", false),
            ("CSeq: 1", "Path: <sip:edge.example;lr>\nCSeq: 1", false),
            ("CSeq: 1", "User-Agent: other\nCSeq: 1", true),
            ("Contact: <", "Contact: \"Bo\" <", false),
            ("bonnie@10.1.0.1:5060>", "bonnie@10.1.0.1:5061>", false),
            (";x=1", ";x=2", false),
            (";x=1", ";x", false),
            (";x=1", ";x=1;y", false),
            (";x=1", ";+sip.instance=\"<urn:uuid:1>\";reg-id=1", false),
        ] {
            let asked = asked_by(|_| (), &first.replace(old, new)).expect("plain");
            assert_eq!(keys(&asked) == keys(&known), same, "{new}");
        }
        let repeated =
            |new: &str| asked_by(|_| (), &first.replace("branch=z9hG4bKc", new)).map(|asked| asked.transaction);
        assert_eq!(repeated("branch=z9hG4bKc"), Some(known.transaction));
        assert_ne!(repeated("branch=z9hG4bKd"), Some(known.transaction));
    }

    #[test]
    fn credentials_are_told_apart_by_the_name_that_they_are_for() {
        let with = |line: &str| asked(|_| (), &format!("{BONNIE}{line}")).expect("plain").credentials;
        let bonnie = with("\nAuthorization: Digest username=\"bonnie\", nonce=\"1\", response=\"2\"");
        assert_eq!((with(""), bonnie.is_some()), (None, true));
        assert_eq!(with("\nAuthorization: Digest username=\"bonnie\", nonce=\"3\", response=\"4\""), bonnie);
        assert_ne!(with("\nAuthorization: Digest username=\"boss\", nonce=\"1\", response=\"2\""), bonnie);
    }

    #[test]
    fn only_a_path_of_our_own_says_nothing() {
        let secrets = secrets();
        let route = |kind: RouteKind| {
            let peer = flow(VIP, "10.1.0.1:5060");
            let (backend, binding, from_tag) = (BackendId(1), 5, 0);
            let route = Route { kind, paired: false, from_peer: false, backend, peer, binding, from_tag, epoch: 1 };
            let user = secrets.seal_route(&route, b"");
            format!("<sip:{}@10.0.0.1;lr>", String::from_utf8_lossy(&user))
        };
        for (value, own) in [
            (route(RouteKind::Path), true),
            (route(RouteKind::Dialog), false),
            (route(RouteKind::Path).replace("tdm", "tdn"), false),
            ("<sip:tdm@edge.example;lr>".to_owned(), false),
            ("<sip:edge.example;lr>".to_owned(), false),
            ("edge".to_owned(), false),
        ] {
            assert_eq!(is_own_path(value.as_bytes(), &secrets), own, "{value}");
        }
    }

    #[test]
    fn a_contact_keeps_what_it_says_but_for_its_time() {
        for (value, wanted) in [
            ("<sip:a@b>", "<sip:a@b>;expires=60"),
            ("<sip:a@b>;expires=600", "<sip:a@b>;expires=60"),
            ("sip:a@b;expires=600", "sip:a@b;expires=60"),
            ("sip:a@b", "sip:a@b;expires=60"),
            ("\"A; B\" <sip:a@b;x> ; q=0.5 ;Expires=\"600\"; y", "\"A; B\" <sip:a@b;x>;q=0.5;y;expires=60"),
        ] {
            let address = sip::value::name_addr(value.as_bytes()).expect("an address");
            let mut out = Vec::new();
            write_contact(&address, 60, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), wanted);
        }
    }

    #[test]
    fn phones_are_told_whole_seconds_and_never_none() {
        for (max_expires, told) in [(60_000, 60), (1_999, 1), (10, 1)] {
            let running = running(|farm| farm.max_expires = Some(Duration::from_millis(max_expires)));
            let told_now = running.farms().next().and_then(|farm| longest_told(farm.settings));
            assert_eq!(told_now, Some(told));
        }
    }
}
