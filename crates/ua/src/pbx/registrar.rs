//! Bindings of users to contacts (RFC 3261 §10.3), with Path (RFC 3327).

use crate::dialog::bracketed;
use crate::event::PbxEvent;
use crate::limits;
use sip::header::Name;
use sip::message::Message;
use sip::time::Instant;
use sip::value::{Contact, NameAddr, params};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Seconds that a contact gets that asks for nothing.
const DEFAULT_EXPIRES: u32 = 3_600;

pub(super) struct Registrar {
    min_expires: u32,
    max_expires: u32,
    bindings: BTreeMap<String, Vec<Binding>>,
    /// When to look after whom: one entry for each moment at which a binding of the user ends.
    lapses: BTreeSet<(Instant, String)>,
    /// Registrations so far: which of two bindings is newer.
    count: u64,
}

#[derive(Clone)]
struct Binding {
    uri: Vec<u8>,
    /// Header parameters of the Contact but `expires`, each with its semicolon.
    params: Vec<u8>,
    /// Each a name-addr, nearest to us first.
    path: Vec<Vec<u8>>,
    call_id: Vec<u8>,
    cseq: u32,
    /// Thousandths.
    q: u16,
    until: Instant,
    order: u64,
}

/// Where a user can be reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reach {
    pub(super) uri: Vec<u8>,
    pub(super) path: Vec<Vec<u8>>,
}

/// A status and complete header lines.
type Answer = (u16, Vec<u8>);

impl Registrar {
    pub(super) fn new(min_expires: u32, max_expires: u32) -> Self {
        Self { min_expires, max_expires, bindings: BTreeMap::new(), lapses: BTreeSet::new(), count: 0 }
    }

    /// Does what a REGISTER of this user asks for, whole or not at all (RFC 3261 §10.3 steps 6 to 8).
    pub(super) fn register(
        &mut self,
        now: Instant,
        user: &str,
        request: &Message<'_>,
        events: &mut Vec<PbxEvent>,
    ) -> Answer {
        let mut bindings = self.bindings.get(user).cloned().unwrap_or_default();
        bindings.retain(|binding| binding.until > now);
        let contacts: Vec<Contact<'_>> = request.contacts().collect();
        let starred = contacts.iter().any(|contact| matches!(contact, Contact::Star));
        let mut changes = Vec::new();
        if starred {
            if contacts.len() != 1 || request.expires() != Some(0) {
                return (400, Vec::new());
            }
            if bindings.iter().any(|binding| binding.is_newer_than(request)) {
                return (500, Vec::new());
            }
            changes.extend(bindings.drain(..).map(|_| PbxEvent::Unregistered { user: user.to_owned() }));
        }
        for contact in &contacts {
            let Contact::Address(address) = contact else {
                continue;
            };
            match self.bind(now, user, request, address, &mut bindings) {
                Ok(event) => changes.extend(event),
                Err(answer) => return answer,
            }
        }
        if bindings.len() > limits::CONTACTS_PER_USER {
            return (403, Vec::new());
        }
        events.append(&mut changes);
        let lines = lines(now, request, &bindings);
        for old in self.bindings.remove(user).unwrap_or_default() {
            self.lapses.remove(&(old.until, user.to_owned()));
        }
        self.lapses.extend(bindings.iter().map(|binding| (binding.until, user.to_owned())));
        if !bindings.is_empty() {
            self.bindings.insert(user.to_owned(), bindings);
        }
        (200, lines)
    }

    /// Where a user can be reached: highest q first, among equals the newest.
    pub(super) fn reach(&self, now: Instant, user: &str) -> Vec<Reach> {
        let mut found: Vec<&Binding> = self.bindings.get(user).into_iter().flatten().collect();
        found.retain(|binding| binding.until > now);
        found.sort_by_key(|binding| std::cmp::Reverse((binding.q, binding.order)));
        found.into_iter().map(|binding| Reach { uri: binding.uri.clone(), path: binding.path.clone() }).collect()
    }

    /// Drops what has lapsed; the user of each binding dropped.
    pub(super) fn lapse(&mut self, now: Instant) -> Vec<String> {
        let mut lapsed = Vec::new();
        while self.lapses.first().is_some_and(|(due, _)| *due <= now) {
            let Some((_, user)) = self.lapses.pop_first() else {
                break;
            };
            let Some(bindings) = self.bindings.get_mut(&user) else {
                continue;
            };
            let before = bindings.len();
            bindings.retain(|binding| binding.until > now);
            lapsed.extend((bindings.len()..before).map(|_| user.clone()));
        }
        lapsed
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.lapses.first().map(|(due, _)| *due)
    }

    pub(super) fn bindings(&self) -> Vec<(String, String)> {
        let all = self.bindings.iter().flat_map(|(user, bindings)| bindings.iter().map(move |binding| (user, binding)));
        all.map(|(user, binding)| (user.clone(), text(&binding.uri))).collect()
    }

    pub(super) fn most_bindings(&self) -> usize {
        self.bindings.values().map(Vec::len).max().unwrap_or_default()
    }

    /// Adds, refreshes or removes the binding to one contact.
    fn bind(
        &mut self,
        now: Instant,
        user: &str,
        request: &Message<'_>,
        address: &NameAddr<'_>,
        bindings: &mut Vec<Binding>,
    ) -> Result<Option<PbxEvent>, Answer> {
        let asked = address.expires().or_else(|| request.expires()).unwrap_or(DEFAULT_EXPIRES);
        if asked > 0 && asked < self.min_expires {
            return Err((423, format!("Min-Expires: {}\r\n", self.min_expires).into_bytes()));
        }
        let known = bindings.iter().position(|binding| binding.uri == address.uri_bytes);
        if known.and_then(|at| bindings.get(at)).is_some_and(|binding| binding.is_newer_than(request)) {
            return Err((500, Vec::new()));
        }
        if let Some(at) = known {
            bindings.remove(at);
        }
        if asked == 0 {
            return Ok(known.map(|_| PbxEvent::Unregistered { user: user.to_owned() }));
        }
        self.count += 1;
        bindings.push(Binding {
            uri: address.uri_bytes.to_vec(),
            params: kept_params(address),
            path: request.paths().map(|path| path.raw.to_vec()).collect(),
            call_id: request.call_id().unwrap_or_default().to_vec(),
            cseq: request.cseq().map_or(0, |cseq| cseq.number),
            q: address.q().unwrap_or(1_000),
            until: now + Duration::from_secs(u64::from(asked.min(self.max_expires))),
            order: self.count,
        });
        Ok(Some(PbxEvent::Registered { user: user.to_owned(), contact: text(address.uri_bytes) }))
    }
}

impl Binding {
    /// A later REGISTER of the same Call-ID made this binding (RFC 3261 §10.3 step 7): the request is an old one.
    fn is_newer_than(&self, request: &Message<'_>) -> bool {
        let same = request.call_id() == Some(&self.call_id[..]);
        same && request.cseq().is_some_and(|cseq| cseq.number <= self.cseq)
    }
}

/// All current contacts with what is left of their time, and the Path as it came (RFC 3327 §5.3).
fn lines(now: Instant, request: &Message<'_>, bindings: &[Binding]) -> Vec<u8> {
    let mut lines = Vec::new();
    for binding in bindings {
        let left = binding.until.saturating_since(now).as_secs();
        lines.extend_from_slice(b"Contact: ");
        lines.extend_from_slice(&bracketed(&binding.uri));
        lines.extend_from_slice(&binding.params);
        lines.extend_from_slice(format!(";expires={left}\r\n").as_bytes());
    }
    for path in request.all(Name::Path) {
        lines.extend_from_slice(b"Path: ");
        lines.extend_from_slice(path.value);
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

fn kept_params(address: &NameAddr<'_>) -> Vec<u8> {
    let mut kept = Vec::new();
    for (name, value) in params(address.params) {
        if name.is_empty() || name.eq_ignore_ascii_case(b"expires") {
            continue;
        }
        kept.push(b';');
        kept.extend_from_slice(name);
        if let Some(value) = value {
            kept.push(b'=');
            kept.extend_from_slice(value);
        }
    }
    kept
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip::message::{Limits, parse};

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn register(registrar: &mut Registrar, now: u64, cseq: u32, lines: &str) -> (u16, String, Vec<PbxEvent>) {
        let text = format!(
            "REGISTER sip:e SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKx\r\nFrom: <sip:b@e>;tag=1\r\n\
             To: <sip:b@e>\r\nCall-ID: 1\r\nCSeq: {cseq} REGISTER\r\n{lines}Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        let request = parse(text.as_bytes(), &Limits::default()).expect("the test's request is well-formed");
        let mut events = Vec::new();
        let (code, lines) = registrar.register(at(now), "b", &request, &mut events);
        (code, String::from_utf8(lines).expect("ASCII in, ASCII out"), events)
    }

    #[test]
    fn a_contact_is_bound_refreshed_and_removed() {
        let mut registrar = Registrar::new(10, 120);
        let contact = "Contact: <sip:b@10.1.0.1:5060>;q=0.5;+sip.instance=\"<urn:x>\";expires=60\r\n";
        let (code, lines, events) = register(&mut registrar, 0, 1, contact);
        assert_eq!((code, events.len()), (200, 1));
        assert_eq!(lines, "Contact: <sip:b@10.1.0.1:5060>;q=0.5;+sip.instance=\"<urn:x>\";expires=60\r\n");
        let (_, lines, _) = register(&mut registrar, 30, 2, "Contact: <sip:b@10.1.0.1:5060>;expires=999\r\n");
        assert_eq!(lines, "Contact: <sip:b@10.1.0.1:5060>;expires=120\r\n");
        assert_eq!(registrar.lapse(at(149)), Vec::<String>::new());
        assert_eq!(registrar.bindings().len(), 1);
        let (code, lines, events) = register(&mut registrar, 149, 3, "Contact: <sip:b@10.1.0.1:5060>;expires=0\r\n");
        assert_eq!((code, lines.as_str()), (200, ""));
        assert_eq!(events, [PbxEvent::Unregistered { user: "b".to_owned() }]);
    }

    #[test]
    fn bindings_lapse_to_the_second() {
        let mut registrar = Registrar::new(10, 120);
        register(&mut registrar, 0, 1, "Contact: <sip:b@10.1.0.1>\r\nExpires: 60\r\n");
        assert_eq!(registrar.deadline(), Some(at(60)));
        assert_eq!(registrar.reach(at(59), "b").len(), 1);
        assert_eq!(registrar.reach(at(60), "b").len(), 0);
        assert_eq!(registrar.lapse(at(60)), ["b".to_owned()]);
    }

    #[test]
    fn several_contacts_are_reached_by_q_and_then_by_age() {
        let mut registrar = Registrar::new(10, 120);
        let lines = "Contact: <sip:b@10.1.0.1>;q=0.3, <sip:b@10.1.0.2>, <sip:b@10.1.0.3>;q=0.3\r\n";
        assert_eq!(register(&mut registrar, 0, 1, lines).0, 200);
        let order: Vec<String> = registrar.reach(at(1), "b").iter().map(|reach| text(&reach.uri)).collect();
        assert_eq!(order, ["sip:b@10.1.0.2", "sip:b@10.1.0.3", "sip:b@10.1.0.1"]);
    }

    #[test]
    fn the_star_needs_to_stand_alone_and_to_expire() {
        let mut registrar = Registrar::new(10, 120);
        register(&mut registrar, 0, 1, "Contact: <sip:b@10.1.0.1>, <sip:b@10.1.0.2>\r\n");
        assert_eq!(register(&mut registrar, 1, 2, "Contact: *\r\n").0, 400);
        assert_eq!(register(&mut registrar, 1, 3, "Contact: *, <sip:b@10.1.0.3>\r\nExpires: 0\r\n").0, 400);
        let (code, lines, events) = register(&mut registrar, 1, 4, "Contact: *\r\nExpires: 0\r\n");
        assert_eq!((code, lines.as_str(), events.len()), (200, "", 2));
    }

    #[test]
    fn short_times_and_old_requests_change_nothing() {
        let mut registrar = Registrar::new(10, 120);
        register(&mut registrar, 0, 5, "Contact: <sip:b@10.1.0.1>\r\n");
        let (code, lines, _) =
            register(&mut registrar, 1, 6, "Contact: <sip:b@10.1.0.2>, <sip:b@10.1.0.1>;expires=9\r\n");
        assert_eq!((code, lines.as_str()), (423, "Min-Expires: 10\r\n"));
        assert_eq!(register(&mut registrar, 1, 5, "Contact: <sip:b@10.1.0.1>;expires=0\r\n").0, 500);
        assert_eq!(registrar.bindings(), [("b".to_owned(), "sip:b@10.1.0.1".to_owned())]);
    }

    #[test]
    fn a_query_lists_and_path_comes_back() {
        let mut registrar = Registrar::new(10, 120);
        let lines = "Contact: <sip:b@10.1.0.1>\r\nPath: <sip:10.0.0.1;lr>\r\n";
        let (_, answered, _) = register(&mut registrar, 0, 1, lines);
        assert!(answered.ends_with("Path: <sip:10.0.0.1;lr>\r\n"), "{answered}");
        let (code, answered, events) = register(&mut registrar, 20, 2, "");
        assert_eq!((code, answered.as_str(), events.len()), (200, "Contact: <sip:b@10.1.0.1>;expires=100\r\n", 0));
        assert_eq!(registrar.reach(at(20), "b").first().map(|reach| reach.path.len()), Some(1));
    }

    #[test]
    fn no_more_contacts_than_the_limit() {
        let mut registrar = Registrar::new(10, 120);
        for number in 0..limits::CONTACTS_PER_USER {
            let cseq = u32::try_from(number).expect("the limit is small") + 1;
            let (code, ..) = register(&mut registrar, 0, cseq, &format!("Contact: <sip:b@10.1.0.{number}>\r\n"));
            assert_eq!(code, 200);
        }
        assert_eq!(register(&mut registrar, 0, 99, "Contact: <sip:b@10.1.1.1>\r\n").0, 403);
        assert_eq!(registrar.bindings().len(), limits::CONTACTS_PER_USER);
    }
}
