//! RFC 3261 §16.6: the request as it leaves. One list of edits over the octets received; what is not named here leaves as it came.

use crate::context::Hop;
use crate::decide::{Arrival, Parties, Plan};
use crate::directory::Directory;
use crate::io::Flow;
use crate::origin::Origin;
use crate::register::{Registration, Writing};
use crate::running::{FarmView, Running, WrittenAddress};
use crate::settings::{Registrations, Symmetric, Transport};
use crate::token::{Route, RouteKind, Secrets, TokenText, tag_bits};
use sip::decimal::{Decimal, ip_text};
use sip::{Edits, Host, Instant, Message, Method, Name, Scheme, Value, Via, ViaParameters};
use smallvec::SmallVec;
use std::net::IpAddr;
use std::sync::Arc;

/// RFC 3261 §16.6 step 3.
const MAX_FORWARDS: &[u8] = b"Max-Forwards: 70\r\n";
/// RFC 5393 §5.3.3.
const MAX_BREADTH: &[u8] = b"Max-Breadth: 60\r\n";

/// What forwarding needs besides the message and the plan.
pub(crate) struct Forwarding<'a> {
    pub(crate) secrets: &'a Secrets,
    pub(crate) running: &'a Running,
    /// The branch parameter of our Via.
    pub(crate) branch: &'a TokenText,
    /// What a REGISTER may refer to.
    pub(crate) directory: &'a Directory,
    pub(crate) now: Instant,
}

impl Forwarding<'_> {
    /// Steps 1 to 9 of §16.6, written into `out`. Gives what must be remembered of a REGISTER.
    pub(crate) fn write(
        &self,
        arrival: &Arrival<'_>,
        plan: &Plan,
        edits: &mut Edits,
        out: &mut Vec<u8>,
    ) -> Option<Registration> {
        let message = arrival.message;
        edits.clear();
        let ours = self.addresses(arrival, plan);
        let moved = request_uri(message, plan, edits);
        let new_lines = NewLines {
            max_forwards: !max_forwards(message, edits),
            max_breadth: message.first(Name::MaxBreadth).is_none(),
            content_length: lacks_length(message, ours.leaving.transport()),
        };
        drop_routes(message, plan, moved, edits);
        received(arrival, edits);
        drop_private_headers(arrival, edits);
        let writing = Writing {
            secrets: self.secrets,
            backend: plan.parties.backend,
            state: match &plan.hop {
                Hop::Backend(state) => Some(Arc::clone(state)),
                Hop::Peer => None,
            },
            inside: &ours.leaving,
            directory: self.directory,
            now: self.now,
            sticky_ttl: sticky_ttl(arrival, plan),
        };
        let registration = if plan.to_backend { Registration::write(arrival, &writing, edits) } else { None };
        // Above all that is there: a box may have written its Record-Route above its Via, and ours belongs above both.
        let top = message.headers().next().map_or_else(|| message.headers_end(), |first| first.line.start);
        edits.insert_with(top, |text| {
            self.top_lines(arrival, plan, &ours, &new_lines, text);
            let path = arrival.farm.settings.registrations == Registrations::Path;
            if let Some(registration) = registration.as_ref().filter(|_| path) {
                registration.write_path(arrival, &writing, text);
            }
        });
        out.clear();
        edits.apply(message.bytes(), out);
        registration
    }

    /// Our addresses on both sides.
    fn addresses(&self, arrival: &Arrival<'_>, plan: &Plan) -> Addresses {
        let arriving = arrival.farm.written(arrival.listener, arrival.flow.local, arrival.origin.is_backend());
        // A wildcard listener towards a next hop has no address of its own yet: the one that the request came to is ours.
        let leaving_at = if plan.flow.local.is_unspecified() { arrival.flow.local } else { plan.flow.local };
        let leaving = match self.running.listener(plan.flow.listener) {
            Some((farm, listener)) => farm.written(listener, leaving_at, plan.to_backend),
            None => arriving.clone(),
        };
        Addresses { arriving, leaving }
    }

    /// Steps 3, 4 and 8: everything that goes on top.
    fn top_lines(
        &self,
        arrival: &Arrival<'_>,
        plan: &Plan,
        ours: &Addresses,
        new_lines: &NewLines,
        text: &mut Vec<u8>,
    ) {
        text.extend_from_slice(b"Via: ");
        ours.leaving.write_via(text);
        text.extend_from_slice(b";branch=");
        text.extend_from_slice(self.branch);
        text.extend_from_slice(b"\r\n");
        if makes_dialog(arrival.message.method()) {
            self.record_route(arrival, &plan.parties, ours, text);
        }
        if new_lines.max_forwards {
            text.extend_from_slice(MAX_FORWARDS);
        }
        if new_lines.max_breadth {
            text.extend_from_slice(MAX_BREADTH);
        }
        if new_lines.content_length {
            write_length(arrival.message, text);
        }
        if plan.to_backend {
            let farm = arrival.farm.settings;
            if let Some(name) = &farm.origin_header {
                text.extend_from_slice(name.as_bytes());
                text.extend_from_slice(b": ");
                arrival.origin.write(arrival.farm, text);
                text.extend_from_slice(b"\r\n");
            }
            if let Some(name) = &farm.source_header {
                text.extend_from_slice(name.as_bytes());
                text.extend_from_slice(b": ");
                text.extend_from_slice(&ip_text(arrival.flow.remote.ip()));
                text.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Step 4. Two values where the sides of the farm have different addresses (RFC 5658), so that each party sends to the one
    /// that it can reach.
    fn record_route(&self, arrival: &Arrival<'_>, parties: &Parties, ours: &Addresses, text: &mut Vec<u8>) {
        let message = arrival.message;
        let paired = ours.arriving != ours.leaving;
        let route = Route {
            kind: RouteKind::Dialog,
            paired,
            from_peer: parties.from_peer,
            backend: parties.backend,
            peer: parties.peer,
            binding: parties.binding,
            from_tag: tag_bits(message.from().tag),
            epoch: self.secrets.epoch,
        };
        let token = self.secrets.seal_route(&route, message.call_id());
        // RFC 3261 §16.6 step 4: what was asked for by `sips` is recorded so.
        let is_sips = arrival.uri.scheme == Scheme::Sips;
        write_route(&token, &ours.leaving, is_sips, text);
        if paired {
            write_route(&token, &ours.arriving, is_sips, text);
        }
    }
}

struct Addresses {
    arriving: WrittenAddress,
    leaving: WrittenAddress,
}

/// Headers that the message lacks.
struct NewLines {
    max_forwards: bool,
    max_breadth: bool,
    content_length: bool,
}

/// RFC 3261 §18.3: over a stream each message says its length; over UDP it need not.
fn lacks_length(message: &Message<'_>, transport: Transport) -> bool {
    transport.is_stream() && message.first(Name::ContentLength).is_none()
}

pub(crate) fn write_length(message: &Message<'_>, text: &mut Vec<u8>) {
    text.extend_from_slice(b"Content-Length: ");
    text.extend_from_slice(&Decimal::new(message.body().len() as u64));
    text.extend_from_slice(b"\r\n");
}

/// Where responses to a request go (RFC 3261 §18.2.2, RFC 3581 §4), as far as the farm trusts what the Via says. `maddr` is not
/// followed: it would let anybody aim our answers at a third party.
pub(crate) fn upstream(farm: FarmView<'_>, flow: Flow, via: &Via<'_>, asked: bool) -> Flow {
    if flow.connection.is_some() {
        // Where the request came, there goes the answer.
        return flow;
    }
    let port = match farm.settings.symmetric {
        Symmetric::Always => flow.remote.port(),
        Symmetric::Never if asked => flow.remote.port(),
        Symmetric::Never => sent_by_port(via),
        Symmetric::Auto if asked || hidden_by_nat(via, flow.remote.ip()) => flow.remote.port(),
        Symmetric::Auto => sent_by_port(via),
    };
    let mut upstream = flow;
    upstream.remote.set_port(port);
    upstream
}

/// RFC 3261 §18.2.2: the port of the sent-by, or the default of the transport that it names.
fn sent_by_port(via: &Via<'_>) -> u16 {
    let secured = [&b"TLS"[..], b"WSS"].iter().any(|name| via.transport.eq_ignore_ascii_case(name));
    via.port.unwrap_or(if secured { 5061 } else { 5060 })
}

/// The sender thinks that it has a private address, and it came from another one.
fn hidden_by_nat(via: &Via<'_>, source: IpAddr) -> bool {
    match via.host {
        Host::Ip(IpAddr::V4(address)) => {
            let shared = address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64;
            (address.is_private() || address.is_link_local() || shared) && IpAddr::V4(address) != source
        }
        Host::Ip(IpAddr::V6(address)) => {
            let local = address.is_unique_local() || address.is_unicast_link_local();
            local && IpAddr::V6(address) != source
        }
        Host::Name(_) => false,
    }
}

/// RFC 3261 §16.6 step 4: requests that make a dialog, and those that refresh its target. NOTIFY makes one when it overtakes the
/// answer to its SUBSCRIBE (RFC 6665 §4.4.1).
pub(crate) fn makes_dialog(method: Method<'_>) -> bool {
    matches!(method, Method::Invite | Method::Subscribe | Method::Refer | Method::Notify)
}

/// Steps 2 and 6: a new Request-URI where the plan has one; the strict router's turn where the next Route lacks `lr`. Gives the place
/// of the Route value that became the Request-URI.
fn request_uri(message: &Message<'_>, plan: &Plan, edits: &mut Edits) -> Option<usize> {
    let line = message.request_line()?;
    let at = message.span_of(line.uri);
    let uri = plan.request_uri.as_deref().unwrap_or(line.uri);
    let left = message.values(Name::Route).count().saturating_sub(usize::from(plan.popped.last));
    let next = message.values(Name::Route).take(left).nth(plan.popped.first);
    let next = next.and_then(|route| sip::value::name_addr(route.bytes).ok());
    let strict = next.filter(|route| {
        // Within a dialog the next Route is that of the party it goes to; else a foreign Route towards a backend is carried unread.
        plan.placed.is_none() && route.uri().is_some_and(|uri| uri.param(b"lr").is_none())
    });
    let Some(route) = strict else {
        if plan.request_uri.is_some() {
            edits.replace(at, uri);
        }
        return None;
    };
    edits.replace(at, route.uri_bytes);
    let last = message.all(Name::Route).last();
    let end = last.map_or_else(|| message.headers_end(), |header| header.line.end);
    edits.insert_with(end, |text| {
        text.extend_from_slice(b"Route: <");
        text.extend_from_slice(uri);
        text.extend_from_slice(b">\r\n");
    });
    Some(plan.popped.first)
}

/// Step 3; `false` if there is none to count down.
fn max_forwards(message: &Message<'_>, edits: &mut Edits) -> bool {
    let (Some(header), Some(hops)) = (message.first(Name::MaxForwards), message.max_forwards()) else {
        return false;
    };
    let hops = hops.saturating_sub(1);
    edits.replace(message.span_of(header.value), &Decimal::new(u64::from(hops)));
    true
}

/// RFC 3261 §16.4: our own Route values go, and the one that became the Request-URI.
fn drop_routes(message: &Message<'_>, plan: &Plan, moved: Option<usize>, edits: &mut Edits) {
    if plan.popped.first == 0 && !plan.popped.last && moved.is_none() {
        return;
    }
    let values: SmallVec<[Value<'_>; 8]> = message.values(Name::Route).collect();
    let count = values.len();
    let gone = |at: usize| at < plan.popped.first || (plan.popped.last && at + 1 == count) || Some(at) == moved;
    let removed: SmallVec<[Value<'_>; 8]> =
        values.iter().enumerate().filter(|(at, _)| gone(*at)).map(|(_, value)| *value).collect();
    edits.remove_each(message, &removed);
}

/// RFC 3261 §18.2.1 and RFC 3581 §4: what the previous hop's Via gets.
pub(crate) fn received(arrival: &Arrival<'_>, edits: &mut Edits) {
    mark_received(arrival.message, arrival.message.via(), arrival.message.via_parameters(), arrival.flow, edits);
}

pub(crate) fn mark_received(
    message: &Message<'_>,
    via: &Via<'_>,
    parameters: &ViaParameters<'_>,
    flow: Flow,
    edits: &mut Edits,
) {
    let source = flow.remote.ip();
    let ViaParameters { rport, received, .. } = *parameters;
    let asked = rport.is_some();
    if !asked && !received && via.host == Host::Ip(source) {
        return;
    }
    let at = message.span_of(via.raw);
    if !received && rport.is_none_or(|(_, value)| value.is_none()) {
        // Nothing to correct: what came stays as it is.
        if let Some((name, _)) = rport {
            edits.insert_with(message.span_of(name).end, |text| {
                text.push(b'=');
                text.extend_from_slice(&Decimal::new(u64::from(flow.remote.port())));
            });
        }
        edits.insert_with(at.end, |text| {
            text.extend_from_slice(b";received=");
            text.extend_from_slice(&ip_text(source));
        });
        return;
    }
    edits.replace_with(at, |text| {
        let head = via.raw.len() - via.params.len();
        let head = via.raw.get(..head).unwrap_or(via.raw);
        text.extend_from_slice(head.trim_ascii_end().strip_suffix(b";").unwrap_or(head));
        for (name, value) in sip::value::params(via.params) {
            if name.eq_ignore_ascii_case(b"received") || name.eq_ignore_ascii_case(b"rport") {
                continue;
            }
            text.push(b';');
            text.extend_from_slice(name);
            if let Some(value) = value {
                text.push(b'=');
                text.extend_from_slice(value);
            }
        }
        text.extend_from_slice(b";received=");
        text.extend_from_slice(&ip_text(source));
        if asked {
            text.extend_from_slice(b";rport=");
            text.extend_from_slice(&Decimal::new(u64::from(flow.remote.port())));
        }
    });
}

/// Headers in which a backend trusts us, or the network trusts its members, are not believed from outside.
fn drop_private_headers(arrival: &Arrival<'_>, edits: &mut Edits) {
    let farm = arrival.farm.settings;
    let message = arrival.message;
    let trusted = match arrival.origin {
        Origin::Backend(_) => true,
        Origin::Trunk(index) => farm.trunks[index].trusted,
        Origin::Client => false,
    };
    // RFC 3325 §5.
    let asserted = (!trusted).then_some("P-Asserted-Identity");
    let names = [farm.origin_header.as_deref(), farm.source_header.as_deref(), asserted];
    for name in names.into_iter().flatten() {
        for header in message.named(name.as_bytes()) {
            edits.remove_header(&header);
        }
    }
}

fn sticky_ttl(arrival: &Arrival<'_>, plan: &Plan) -> std::time::Duration {
    plan.placed
        .as_ref()
        .map_or(std::time::Duration::ZERO, |placed| arrival.farm.settings.services[placed.service].persistence_ttl)
}

fn write_route(token: &TokenText, address: &WrittenAddress, is_sips: bool, text: &mut Vec<u8>) {
    text.extend_from_slice(b"Record-Route: <");
    text.extend_from_slice(scheme(is_sips));
    text.extend_from_slice(token);
    text.push(b'@');
    address.write_uri(is_sips, text);
    text.extend_from_slice(b";lr>\r\n");
}

/// What a URI of ours begins with.
pub(crate) fn scheme(is_sips: bool) -> &'static [u8] {
    if is_sips { b"sips:" } else { b"sip:" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::{Placed, Popped};
    use crate::id::BackendId;
    use crate::io::unit::{VIP, arrive, flow, request, running, secrets};
    use crate::pool::world::at;
    use crate::settings::{Limits, Trunk, Verify};
    use std::net::SocketAddr;
    use std::time::Duration;

    const CLYDE: &str = "sip:clyde@example.com";
    const PHONE: &str = "10.1.0.1:5060";

    fn plan_to_box(peer: Flow) -> Plan {
        Plan {
            flow: flow(VIP, "10.0.1.1:5060"),
            hop: Hop::Peer,
            to_backend: true,
            request_uri: None,
            popped: Popped::default(),
            parties: Parties { backend: BackendId(17), peer, from_peer: true, binding: 0 },
            dialog: None,
            placed: None,
            outlet: None,
            ticket: None,
            followed: 0,
        }
    }

    fn placed() -> Option<Placed> {
        Some(Placed { service: 0, backend: 0, affinity: SmallVec::new(), by_affinity: false })
    }

    /// The lines of a request from `from` as they leave towards a box, by a plan that the test may change.
    fn forwarded(running: &Running, from: &str, request: &str, change: impl FnOnce(&mut Plan)) -> Vec<String> {
        let (secrets, branch) = (secrets(), TokenText::from_slice(b"z9hG4bKours"));
        let out = arrive(running, flow(VIP, from), request, |arrival| {
            let mut plan = plan_to_box(arrival.flow);
            change(&mut plan);
            let mut out = Vec::new();
            let directory = Directory::new(at(0), &Limits::default(), Duration::from_secs(60));
            let (directory, now) = (&directory, at(0));
            let forwarding = Forwarding { secrets: &secrets, running, branch: &branch, directory, now };
            forwarding.write(arrival, &plan, &mut Edits::new(), &mut out);
            out
        });
        let text = String::from_utf8(out).expect("the test writes text");
        text.trim_end().split("\r\n").map(str::to_owned).collect()
    }

    fn values<'t>(lines: &'t [String], name: &str) -> Vec<&'t str> {
        lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
    }

    #[test]
    fn a_request_leaves_with_our_lines_on_top_and_the_rest_as_it_came() {
        let running = running(|farm| {
            farm.origin_header = Some("X-Origin".to_owned());
            farm.source_header = Some("X-Source".to_owned());
        });
        let via = "Via: SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKours";
        let rest = ["From: <sip:bonnie@example.com>;tag=ft", "To: <sip:bonnie@example.com>", "Call-ID: call-1"];
        let came = request("MESSAGE", CLYDE, "X-Source: 192.0.2.66\nx-origin: backend pbx1");
        let left = forwarded(&running, PHONE, &came, |_| ());
        let start = format!("MESSAGE {CLYDE} SIP/2.0");
        let theirs = "Via: SIP/2.0/UDP 10.1.0.1:5060;branch=z9hG4bKc";
        let on_top = [start.as_str(), via, "Max-Breadth: 60", "X-Origin: client", "X-Source: 10.1.0.1", theirs];
        assert_eq!(left, [&on_top[..], &["Max-Forwards: 69"], &rest, &["CSeq: 1 MESSAGE"]].concat());
        // A peer is told nothing of the sender; RFC 3261 §16.6 step 3: 70 where there is no Max-Forwards.
        let came = request("MESSAGE", CLYDE, "Max-Breadth: 7").replace("Max-Forwards: 70\n", "");
        let left = forwarded(&running, PHONE, &came, |plan| plan.to_backend = false);
        let on_top = [start.as_str(), via, "Max-Forwards: 70", theirs];
        assert_eq!(left, [&on_top[..], &rest, &["CSeq: 1 MESSAGE", "Max-Breadth: 7"]].concat());
    }

    /// RFC 3261 §16.4 and §16.6 steps 2 and 6: how many Route values go from the top, whether the last one went into the
    /// Request-URI, and whether an algorithm placed the request; then the Request-URI and the Route that are left.
    #[test]
    fn our_routes_go_and_a_strict_router_gets_its_turn() {
        let (a, b, c) = ("<sip:a.example;lr>", "<sip:b.example;lr>", "<sip:c.example;lr>");
        let (strict, real) = ("<sip:s.example>", "sip:real@192.0.2.9");
        let (here, target, bare) = ("<sip:clyde@example.com>", "<sip:real@192.0.2.9>", "sip:s.example");
        type Row<'a> = ((usize, bool, bool), &'a [&'a str], &'a str, &'a [&'a str]);
        let rows: [Row<'_>; 13] = [
            ((0, false, false), &[a, b], CLYDE, &[a, b]),
            ((1, false, false), &[a, b, c], CLYDE, &[b, c]),
            ((2, false, false), &[a, b, c], CLYDE, &[c]),
            ((0, true, false), &[a, b, c], real, &[a, b]),
            ((1, true, false), &[a, b, c], real, &[b]),
            ((0, false, false), &[strict, b], bare, &[b, here]),
            ((1, false, false), &[a, strict, c], bare, &[c, here]),
            ((2, false, false), &[a, b, strict, c], bare, &[c, here]),
            ((0, false, true), &[strict, b], CLYDE, &[strict, b]),
            ((1, false, true), &[a, strict], CLYDE, &[strict]),
            ((1, true, false), &[a, strict], real, &[]),
            ((0, true, false), &[strict, c], bare, &[target]),
            ((0, false, false), &[], CLYDE, &[]),
        ];
        let running = running(|_| ());
        for ((first, last, by_algorithm), came, uri, left) in rows {
            let lines: Vec<String> = came.iter().map(|value| format!("Route: {value}")).collect();
            let request = request("MESSAGE", CLYDE, &lines.join("\n"));
            let lines = forwarded(&running, PHONE, &request, |plan| {
                plan.popped = Popped { first, last };
                plan.request_uri = last.then(|| SmallVec::from_slice(real.as_bytes()));
                plan.placed = placed().filter(|_| by_algorithm);
            });
            assert_eq!(lines.first(), Some(&format!("MESSAGE {uri} SIP/2.0")), "{first} {last} {came:?}");
            assert_eq!(values(&lines, "Route"), left, "{first} {last} {came:?}");
        }
    }

    /// RFC 3261 §18.2.1 and RFC 3581 §4, of a datagram from 10.1.0.1:6161.
    #[test]
    fn the_previous_hops_via_says_where_it_was_heard() {
        let running = running(|_| ());
        for (came, left) in [
            ("10.1.0.1:5060;branch=z9hG4bKc", "10.1.0.1:5060;branch=z9hG4bKc"),
            ("10.1.0.9;branch=z9hG4bKc", "10.1.0.9;branch=z9hG4bKc;received=10.1.0.1"),
            ("h.example;branch=z9hG4bKc", "h.example;branch=z9hG4bKc;received=10.1.0.1"),
            ("10.1.0.1;rport;branch=z9hG4bKc", "10.1.0.1;rport=6161;branch=z9hG4bKc;received=10.1.0.1"),
            ("10.1.0.1;rport=9;branch=z9hG4bKc;x", "10.1.0.1;branch=z9hG4bKc;x;received=10.1.0.1;rport=6161"),
            ("10.1.0.1;received=9.9.9.9;branch=z9hG4bKc", "10.1.0.1;branch=z9hG4bKc;received=10.1.0.1"),
            ("10.1.0.1;received=x;rport;branch=z9hG4bKc", "10.1.0.1;branch=z9hG4bKc;received=10.1.0.1;rport=6161"),
        ] {
            let request = request("MESSAGE", CLYDE, "").replace("10.1.0.1:5060;branch=z9hG4bKc", came);
            let lines = forwarded(&running, "10.1.0.1:6161", &request, |_| ());
            let vias = values(&lines, "Via");
            assert_eq!(vias.last(), Some(&format!("SIP/2.0/UDP {left}").as_str()), "{came}");
        }
    }

    /// The sent-by and the source address, whose port is 6161, and the port that is answered to.
    #[test]
    fn answers_go_to_the_port_of_the_sent_by_unless_a_nat_hides_it() {
        use Symmetric::{Always, Auto, Never};
        let rows = [
            (Auto, "UDP 192.0.2.1:5070", "192.0.2.9", 5070),
            (Auto, "UDP 192.0.2.1:5070;rport", "192.0.2.9", 6161),
            (Auto, "UDP phone.example:5070", "192.0.2.9", 5070),
            (Auto, "UDP 192.0.2.1", "192.0.2.9", 5060),
            (Auto, "TCP 192.0.2.1", "192.0.2.9", 5060),
            (Auto, "tls 192.0.2.1", "192.0.2.9", 5061),
            (Auto, "WSS 192.0.2.1", "192.0.2.9", 5061),
            (Auto, "TLS 192.0.2.1:5070", "192.0.2.9", 5070),
            // RFC 1918, RFC 3927 and RFC 6598.
            (Auto, "UDP 10.1.0.1:5070", "10.1.0.1", 5070),
            (Auto, "UDP 10.1.0.2:5070", "10.1.0.1", 6161),
            (Auto, "UDP 169.254.0.1:5070", "169.254.0.1", 5070),
            (Auto, "UDP 169.254.0.1:5070", "192.0.2.9", 6161),
            (Auto, "UDP 100.63.255.255:5070", "192.0.2.9", 5070),
            (Auto, "UDP 100.64.0.0:5070", "192.0.2.9", 6161),
            (Auto, "UDP 100.64.0.0:5070", "100.64.0.0", 5070),
            (Auto, "UDP 100.127.255.255:5070", "192.0.2.9", 6161),
            (Auto, "UDP 100.128.0.0:5070", "192.0.2.9", 5070),
            (Auto, "UDP 101.64.0.0:5070", "192.0.2.9", 5070),
            // RFC 4193 and RFC 4291 §2.5.6.
            (Auto, "UDP [2001:db8::1]:5070", "2001:db8::9", 5070),
            (Auto, "UDP [fd00::1]:5070", "2001:db8::9", 6161),
            (Auto, "UDP [fd00::1]:5070", "fd00::1", 5070),
            (Auto, "UDP [fe80::1]:5070", "2001:db8::9", 6161),
            (Auto, "UDP [fe80::1]:5070", "fe80::1", 5070),
            (Never, "UDP 10.1.0.2:5070", "10.1.0.1", 5070),
            (Never, "UDP 10.1.0.2:5070;rport", "10.1.0.1", 6161),
            (Always, "UDP 10.1.0.1:5070", "10.1.0.1", 6161),
        ];
        for (symmetric, via, source, port) in rows {
            let running = running(|farm| farm.symmetric = symmetric);
            let source: IpAddr = source.parse().expect("an address");
            let came = Flow { remote: SocketAddr::new(source, 6161), ..flow(VIP, PHONE) };
            let request = request("MESSAGE", CLYDE, "").replace("UDP 10.1.0.1:5060", via);
            let back = arrive(&running, came, &request, |arrival| {
                upstream(arrival.farm, came, arrival.message.via(), arrival.message.asks_rport())
            });
            assert_eq!(
                back,
                Flow { remote: SocketAddr::new(source, port), ..came },
                "{symmetric:?} {via} from {source}"
            );
        }
    }

    /// RFC 3325 §5.
    #[test]
    fn an_asserted_identity_passes_from_those_who_are_trusted() {
        let trunk = |name: &str, network: &str, trusted| Trunk {
            name: name.to_owned(),
            addresses: vec![network.parse().expect("a network")],
            service: None,
            trusted,
            out: Vec::new(),
            verify: Verify::System,
        };
        let running = running(|farm| {
            farm.trunks = vec![trunk("a", "198.51.100.0/28", false), trunk("b", "198.51.100.16/28", true)];
        });
        let request = request("MESSAGE", CLYDE, "P-Asserted-Identity: <sip:boss@example.com>");
        for (from, passes) in [(PHONE, 0), ("198.51.100.1:5060", 0), ("198.51.100.17:5060", 1), ("10.0.1.2:5060", 1)] {
            let lines = forwarded(&running, from, &request, |_| ());
            assert_eq!(values(&lines, "P-Asserted-Identity").len(), passes, "{from}");
        }
    }

    #[test]
    fn a_registration_leads_through_the_farm_by_contact_or_by_path() {
        let came = request("REGISTER", "sip:example.com", "Contact: <sip:bonnie@10.1.0.1:5060>;expires=600");
        for (mode, contact, paths) in [
            (Registrations::Contact, "<sip:bonnie@10.0.0.1:5060;tdm=0c8847907952ec49>;expires=600", 0),
            (Registrations::Path, "<sip:bonnie@10.1.0.1:5060>;expires=600", 1),
            (Registrations::Off, "<sip:bonnie@10.1.0.1:5060>;expires=600", 0),
        ] {
            let running = running(|farm| farm.registrations = mode);
            let lines = forwarded(&running, PHONE, &came, |_| ());
            assert_eq!(values(&lines, "Contact"), [contact]);
            assert_eq!((values(&lines, "Path").len(), values(&lines, "Record-Route").len()), (paths, 0));
        }
    }

    #[test]
    fn a_user_sticks_for_the_time_of_the_service_that_placed_him() {
        let running = running(|farm| {
            for service in &mut farm.services {
                service.persistence_ttl = Duration::from_secs(90);
            }
        });
        let ttl = |placed| {
            arrive(&running, flow(VIP, PHONE), &request("MESSAGE", CLYDE, ""), |arrival| {
                sticky_ttl(arrival, &Plan { placed, ..plan_to_box(arrival.flow) })
            })
        };
        assert_eq!((ttl(placed()), ttl(None)), (Duration::from_secs(90), Duration::ZERO));
    }
}
