//! What leaves is what came, but for what a proxy must touch (RFC 3261 §16.6 and §16.7), octet for octet. The lines are read
//! here once more and by simpler means: what judges crate `sip` must not come from it.

use super::Problems;
use super::circumstances::Circumstances;
use super::seen::Seen;
use super::story::Story;
use crate::network::{Party, Sent};
use sip::{Fault, Method};

/// Everything that the balancer sends, keep-alives apart, is a proper message.
pub(super) fn what_is_sent_is_sound(sent: &Sent, fault: Option<Fault>, problems: &mut Problems) {
    let Some(fault) = fault.filter(|_| sent.sender == Party::Balancer) else { return };
    let is_silent = sent.bytes.iter().all(|octet| matches!(octet, b'\r' | b'\n' | b'\0' | b' '));
    if is_silent || sip::stun::is_stun(&sent.bytes) {
        return;
    }
    let seconds = sent.at.as_micros() as f64 / 1e6;
    problems.note(format!("the balancer sent a faulty message, at {seconds:.6}: {fault}"));
}

/// A request that is neither a ping, nor the end of a call that was cut, nor of hop by hop making came as it left.
pub(super) fn requests_leave_as_they_came(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    let mut known: Vec<&[u8]> = Vec::new();
    for went in story.requests_sent() {
        let is_ping = went.method == Method::Options && story.asked.is_empty();
        let is_own = is_ping || story.is_farewell();
        // The ACK of a refusal that passed after a restart: the transaction that would have taken it is gone.
        let is_leftover = went.method == Method::Ack
            && story.responses_in().any(|(came, _)| came.code.is_some_and(|code| code >= 300))
            && story.branches.first().is_some_and(|first| circumstances.outage_between(first.sent, went.at));
        if is_own || is_leftover || story.is_hop_by_hop(went) || known.contains(&went.bytes) {
            continue;
        }
        known.push(went.bytes);
        let mut difference = Some("there was none");
        for came in story.seen.iter().filter(|came| came.is_request_in() && came.method == went.method) {
            if difference.is_some() && came.arrived.is_some_and(|arrived| arrived <= went.at) {
                difference = request_difference(came, went);
            }
        }
        if let Some(difference) = difference {
            let what = format!("a request did not leave as it came: {difference}");
            problems.report(&story.request, went.at, &what);
        }
    }
}

/// A response that is not the balancer's own came as it left. Outside of dialogs its To tag tells; within them its code.
pub(super) fn responses_leave_as_they_came(story: &Story<'_>, circumstances: &Circumstances, problems: &mut Problems) {
    let mut known: Vec<&[u8]> = Vec::new();
    for went in story.responses_sent() {
        let is_own = went.method == Method::Cancel || went.code == Some(100);
        let asked = story.asked.iter().find(|asked| asked.method == went.method && asked.branch == went.branch);
        let Some(asked) = asked.filter(|_| !is_own && !known.contains(&went.bytes)) else {
            continue;
        };
        known.push(went.bytes);
        let is_told_by_tag = !asked.is_in_dialog() && !went.to_tag.is_empty();
        let mut difference = None;
        let mut is_compared = false;
        let candidates = story
            .responses_in()
            .filter(|(came, arrived)| *arrived <= went.at && came.method == went.method && came.to_tag == went.to_tag);
        for (came, _) in candidates {
            if came.has_code_of(went) {
                if !is_compared || difference.is_some() {
                    difference = response_difference(came, went);
                }
                is_compared = true;
            } else if is_told_by_tag && !is_compared {
                difference = Some("the status line");
            }
        }
        let is_excused = asked.is_in_dialog() && circumstances.outage_between(asked.first, went.at);
        if let Some(difference) = difference.filter(|_| !is_excused) {
            let what = format!("a response did not leave as it came: {difference}");
            problems.report(&story.request, went.at, &what);
        }
    }
}

/// Where a request that was sent on differs from the one received, beyond what it must.
fn request_difference(came: &Seen<'_>, went: &Seen<'_>) -> Option<&'static str> {
    let (before, after) = (Lines::read(came.bytes), Lines::read(went.bytes));
    let to_box = matches!(went.receiver, Some(Party::Pbx(_)));
    // The ACK of a refusal that a restarted balancer knows nothing of finds its way as its INVITE did.
    let is_fixed = to_box || (!went.to_tag.is_empty() && went.method != Method::Ack);
    let mut edited: Vec<&[u8]> = EDITED_IN_REQUESTS.to_vec();
    if came.method == Method::Register {
        edited.extend_from_slice(EDITED_IN_REGISTRATIONS);
    }
    let (vias_before, vias_after) = (before.values(b"Via"), after.values(b"Via"));
    let (routes_before, routes_after) = (before.values(b"Route"), after.values(b"Route"));
    let is_popped = routes_before.ends_with(&routes_after)
        && (routes_before.is_empty() || routes_after.len() < routes_before.len());
    let hops = before.number(b"Max-Forwards");
    if is_fixed && before.start != after.start {
        Some("the request line")
    } else if memchr::memmem::find(after.start, b";tdm=").is_some() && !to_box {
        Some("the Request-URI names a contact of the balancer's own making")
    } else if !before.without(&edited).eq(after.without(&edited)) {
        Some("a header line")
    } else if before.body != after.body {
        Some("the body")
    } else if hops.is_some() && after.number(b"Max-Forwards") != hops.and_then(|hops| hops.checked_sub(1)) {
        Some("Max-Forwards was not counted down")
    } else if !is_via_added(came, &vias_before, &vias_after) {
        Some("a Via")
    } else if !is_popped {
        Some("a Route")
    } else {
        None
    }
}

/// Where a response that went up differs from the one received, beyond what it must.
fn response_difference(came: &Seen<'_>, went: &Seen<'_>) -> Option<&'static str> {
    if is_popped(came.bytes, went.bytes) {
        return None;
    }
    let (before, after) = (Lines::read(came.bytes), Lines::read(went.bytes));
    let is_hidden = came.code != went.code;
    let mut edited: Vec<&[u8]> = vec![b"Via".as_slice()];
    if came.method == Method::Register {
        edited.push(b"Contact");
    }
    if matches!(came.code, Some(401 | 407)) {
        edited.extend_from_slice(CHALLENGES);
    }
    if is_hidden {
        edited.push(b"Retry-After");
    }
    let vias = before.values(b"Via");
    if !is_hidden && before.start != after.start {
        Some("the status line")
    } else if !before.without(&edited).eq(after.without(&edited)) {
        Some("a header line")
    } else if before.body != after.body {
        Some("the body")
    } else if vias.get(1..) != Some(after.values(b"Via").as_slice()) {
        Some("a Via")
    } else {
        None
    }
}

/// The same octets without the line below the first one, which is a Via of one value: nearly every response.
fn is_popped(before: &[u8], after: &[u8]) -> bool {
    let Some(start) = memchr::memchr(b'\n', before).map(|end| end + 1) else { return false };
    let Some((kept, rest)) = before.split_at_checked(start) else { return false };
    let Some(popped) = memchr::memchr(b'\n', rest).and_then(|end| rest.get(..=end)) else { return false };
    let is_via = popped.starts_with(b"Via: ") && !popped.contains(&b',');
    let follows = |next: Option<&u8>| next.is_some_and(|octet| !matches!(octet, b' ' | b'\t'));
    is_via
        && follows(rest.get(popped.len()))
        && after.strip_prefix(kept).is_some_and(|below| Some(below) == rest.get(popped.len()..))
}

/// One Via on top, and the one below says where the request came from (RFC 3581 §4); the others are untouched.
fn is_via_added(came: &Seen<'_>, before: &[&[u8]], after: &[&[u8]]) -> bool {
    let (Some((top, rest)), Some((stamped, kept))) =
        (before.split_first(), after.get(1..).and_then(<[_]>::split_first))
    else {
        return false;
    };
    let is_asked = parts(top).any(|part| is_parameter(part, b"rport"));
    let received = format!("received={}", came.from.ip());
    let port = format!("rport={}", came.from.port());
    let is_stamped = [received, port].iter().all(|wanted| parts(stamped).any(|part| part == wanted.as_bytes()));
    rest == kept && plain(top).eq(plain(stamped)) && (is_stamped || !is_asked)
}

fn parts(via: &[u8]) -> impl Iterator<Item = &[u8]> {
    via.split(|octet| *octet == b';').map(<[u8]>::trim_ascii)
}

/// The parts that no hop adds to.
fn plain(via: &[u8]) -> impl Iterator<Item = &[u8]> {
    parts(via).filter(|part| !is_parameter(part, b"rport") && !is_parameter(part, b"received"))
}

fn is_parameter(part: &[u8], name: &[u8]) -> bool {
    part.split(|octet| *octet == b'=').next().is_some_and(|key| key.trim_ascii().eq_ignore_ascii_case(name))
}

/// A message taken apart, nothing copied.
struct Lines<'a> {
    start: &'a [u8],
    headers: Vec<(&'a [u8], &'a [u8])>,
    body: &'a [u8],
}

impl<'a> Lines<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or(bytes.len());
        let (head, rest) = bytes.split_at(end);
        let mut lines = head.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let start = lines.next().unwrap_or_default();
        let headers = lines.map(|line| {
            let (name, value) = line.split_at(memchr::memchr(b':', line).unwrap_or(line.len()));
            (name.trim_ascii(), value.strip_prefix(b":").unwrap_or(value).trim_ascii())
        });
        Self { start, headers: headers.collect(), body: rest.get(4..).unwrap_or_default() }
    }

    /// The values of the lines with that name.
    fn values(&self, name: &[u8]) -> Vec<&'a [u8]> {
        self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect()
    }

    fn number(&self, name: &[u8]) -> Option<u32> {
        let value = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// Names and values of the lines that have none of these names.
    fn without<'n>(&'n self, names: &'n [&'n [u8]]) -> impl Iterator<Item = &'n (&'a [u8], &'a [u8])> {
        self.headers.iter().filter(move |(known, _)| !names.iter().any(|name| known.eq_ignore_ascii_case(name)))
    }
}

/// What a proxy writes, counts down, consumes or strips.
const EDITED_IN_REQUESTS: &[&[u8]] =
    &[b"Via", b"Max-Forwards", b"Max-Breadth", b"Record-Route", b"Route", b"X-Tandem-Origin"];
/// What says `stale` where credentials met a box that had not asked for them (RFC 7616 §3.3).
const CHALLENGES: &[&[u8]] = &[b"WWW-Authenticate", b"Proxy-Authenticate"];
/// What leads calls of the box to the phone by way of the farm.
const EDITED_IN_REGISTRATIONS: &[&[u8]] = &[b"Contact", b"Path", b"Supported", b"Require"];

#[cfg(test)]
mod tests {
    use super::super::tests::{BOX, FARM, PHONE, Wire, passed_down, passed_up};
    use crate::script::{Answer, Script};

    /// A request that the farm sends on as `change` has it.
    fn sent_on(request: &[u8], change: impl Fn(&str) -> String) -> Wire {
        let mut wire = Wire::new();
        wire.put(PHONE, FARM, request.to_vec());
        let down = String::from_utf8(passed_down(request, "d1")).expect("scripts are text");
        wire.react(BOX, change(&down).into_bytes());
        wire
    }

    fn message() -> Vec<u8> {
        Script::new("MESSAGE").branch("up").line("Subject: hello").body("text/plain", b"how are you").build()
    }

    #[test]
    fn requests_are_compared_line_by_line() {
        sent_on(&message(), str::to_owned).assert_good();
        for (from, to, what) in [
            ("how are", "how ARE", "the body"),
            ("Subject: hello", "Subject: Hello", "a header line"),
            ("Subject: hello\r\n", "", "a header line"),
            ("MESSAGE sip:clyde@example.com", "MESSAGE sip:clyde@example.net", "the request line"),
            ("Max-Forwards: 69", "Max-Forwards: 70", "Max-Forwards was not counted down"),
            ("rport=5060", "rport=5061", "a Via"),
            ("Subject: hello", "Route: <sip:elsewhere;lr>\r\nSubject: hello", "a Route"),
        ] {
            let wire = sent_on(&message(), |down| down.replace(from, to));
            wire.assert_told(&format!("a request did not leave as it came: {what}"));
        }
    }

    #[test]
    fn what_a_proxy_adds_and_strips_is_its_own() {
        let request = Script::new("MESSAGE").branch("up").line("Route: <sip:10.0.0.1;lr>").line("Subject: x").build();
        let wire = sent_on(&request, |down| {
            let added = "Max-Breadth: 60\r\nX-Tandem-Origin: client\r\nFrom:";
            down.replace("Route: <sip:10.0.0.1;lr>\r\n", "").replacen("From:", added, 1)
        });
        wire.assert_good();
        sent_on(&request, str::to_owned).assert_told("a request did not leave as it came: a Route");
    }

    #[test]
    fn a_request_that_never_came_is_told() {
        let mut wire = Wire::new();
        wire.put(FARM, BOX, passed_down(&message(), "d1"));
        wire.assert_told("a request did not leave as it came: there was none");
    }

    #[test]
    fn responses_are_compared_line_by_line() {
        let down = passed_down(&message(), "d1");
        let answer = Answer::new(200).line("Server: x").body("text/plain", b"fine").to(&down);
        for (from, to, what) in [
            ("", "", ""),
            ("fine", "Fine", "the body"),
            ("Server: x", "Server: y", "a header line"),
            ("SIP/2.0 200 Answer", "SIP/2.0 200 Altered", "the status line"),
            ("SIP/2.0 200 Answer", "SIP/2.0 202 Answer", "the status line"),
            (";received=10.1.0.1", "", "a Via"),
        ] {
            let mut wire = sent_on(&message(), str::to_owned);
            wire.put(BOX, FARM, answer.clone());
            let text = String::from_utf8(passed_up(&answer)).expect("scripts are text");
            wire.react(PHONE, text.replace(from, to).into_bytes());
            match what {
                "" => wire.assert_good(),
                what => wire.assert_told(&format!("a response did not leave as it came: {what}")),
            }
        }
    }

    #[test]
    fn what_is_no_message_is_told() {
        let mut wire = Wire::new();
        wire.put(FARM, PHONE, b"\r\n\r\n".to_vec());
        wire.assert_good();
        wire.put(FARM, PHONE, b"SIP/2.0 200 OK\r\n\r\n".to_vec());
        wire.assert_told("the balancer sent a faulty message");
    }
}
