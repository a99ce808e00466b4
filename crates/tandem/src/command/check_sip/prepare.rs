//! Who calls whom, and by which way: what the command line says, put together.

use super::Refusal;
use super::arguments::{Arguments, named};
use probe::{Threshold, Transport};
use sip::uri::{self, Host};
use std::net::IpAddr;

/// Everything but what files and name servers say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    /// Whole URIs, of the scheme `sip`: what `sips` asks for is in the transport.
    pub(super) from: String,
    pub(super) target: String,
    pub(super) transport: Transport,
    pub(super) proxy: Goal,
    pub(super) registrar: Option<Goal>,
}

/// A place as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Goal {
    pub(super) host: Place,
    pub(super) port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    Address(IpAddr),
    /// To be asked for; lower case, without a dot at its end.
    Name(String),
}

/// FROM or TO in its parts.
struct Written<'a> {
    is_secure: bool,
    /// What stands before the `@`; `None`: there is none.
    user: Option<&'a str>,
    /// All that follows it, with port and parameters.
    rest: &'a str,
}

/// Puts FROM, TO, `-P`, `-R` and the transport together.
pub(super) fn route(arguments: &Arguments) -> Result<Route, Refusal> {
    let (from, to) = (Written::read("FROM", &arguments.from)?, Written::read("TO", &arguments.to)?);
    let given = arguments.proxy.as_deref().map(|text| Goal::read("-P", text)).transpose()?;
    let target = target(&to, given.as_ref())?;
    let parsed = uri::parse(target.as_bytes()).map_err(|fault| Refusal::unknown(format!("TO: {fault}")))?;
    let proxy = given.clone().unwrap_or_else(|| Goal::of(parsed.host, parsed.port));
    let transport = transport(arguments, from.is_secure || to.is_secure, parsed.transport())?;
    let registrar = match arguments.registrar.as_deref() {
        Some("-") => None,
        Some(text) => Some(Goal::read("-R", text)?),
        None => given,
    };
    let from = caller(&from, &proxy)?;
    uri::parse(from.as_bytes()).map_err(|fault| Refusal::unknown(format!("FROM: {fault}")))?;
    Ok(Route { from, target, transport, proxy, registrar })
}

/// One for each figure, with both of its ranges. Of several ranges for one figure the last one counts.
pub(super) fn thresholds(arguments: &Arguments) -> Vec<Threshold> {
    let mut thresholds: Vec<Threshold> = Vec::new();
    let warnings = arguments.warning.iter().map(|bound| (bound, false));
    for (bound, is_critical) in warnings.chain(arguments.critical.iter().map(|bound| (bound, true))) {
        let known = thresholds.iter().position(|threshold| threshold.figure == bound.figure);
        let index = known.unwrap_or_else(|| {
            thresholds.push(Threshold { figure: bound.figure, warning: None, critical: None });
            thresholds.len() - 1
        });
        let Some(threshold) = thresholds.get_mut(index) else { continue };
        let place = if is_critical { &mut threshold.critical } else { &mut threshold.warning };
        *place = Some(bound.range.clone());
    }
    thresholds
}

impl<'a> Written<'a> {
    fn read(what: &str, text: &'a str) -> Result<Self, Refusal> {
        let bare = text.trim();
        // "Bonnie" <sip:bonnie@example.com>
        let inner = bare.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(bare, |(uri, _)| uri);
        let (is_secure, rest) = match (after(inner, "sip:"), after(inner, "sips:"), after(inner, "tel:")) {
            (Some(rest), ..) => (false, rest),
            (_, Some(rest), _) => (true, rest),
            (.., Some(_)) => {
                return Err(Refusal::unknown(format!("{what} is a telephone number: give it as sip:NUMBER@HOST")));
            }
            _ => (false, inner),
        };
        if rest.is_empty() {
            return Err(Refusal::unknown(format!("{what} is empty: give it as sip:user@host")));
        }
        let (user, rest) = match rest.split_once('@') {
            Some((user, rest)) => (Some(user), rest),
            None => (None, rest),
        };
        Ok(Self { is_secure, user, rest })
    }
}

impl Goal {
    fn read(option: &str, text: &str) -> Result<Self, Refusal> {
        if let Ok(address) = text.parse() {
            return Ok(Self { host: Place::Address(address), port: None });
        }
        let wrong = || Refusal::unknown(format!("{option} wants a host, or host:port, and not {text}"));
        let whole = format!("sip:{}", after(text, "sip:").unwrap_or(text));
        let parsed = uri::parse(whole.as_bytes()).map_err(|_| wrong())?;
        if parsed.user.is_some() {
            return Err(wrong());
        }
        Ok(Self::of(parsed.host, parsed.port))
    }

    fn of(host: Host<'_>, port: Option<u16>) -> Self {
        let host = match host {
            Host::Ip(address) => Place::Address(address),
            Host::Name(name) => {
                let name = String::from_utf8_lossy(name).to_ascii_lowercase();
                Place::Name(name.strip_suffix('.').unwrap_or(&name).to_owned())
            }
        };
        Self { host, port }
    }

    /// What it is called, if it is not written as an address.
    pub(super) fn into_name(self) -> Option<String> {
        match self.host {
            Place::Name(name) => Some(name),
            Place::Address(_) => None,
        }
    }

    /// The host, as it stands in a URI.
    fn host_text(&self) -> String {
        match &self.host {
            Place::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Place::Address(IpAddr::V4(address)) => address.to_string(),
            Place::Name(name) => name.clone(),
        }
    }
}

/// A TO without `@` is a user of the proxy's where there is one, unless it looks like a host; else it is a host.
fn target(to: &Written<'_>, proxy: Option<&Goal>) -> Result<String, Refusal> {
    let looks_like_a_host = to.rest.contains(['.', '[', ':']);
    match (to.user, proxy) {
        (Some(user), _) if !to.rest.is_empty() => Ok(format!("sip:{user}@{}", to.rest)),
        (Some(user), Some(proxy)) => Ok(format!("sip:{user}@{}", proxy.host_text())),
        (Some(_), None) => Err(Refusal::unknown("TO has no host, and no proxy (-P) has one for it".to_owned())),
        (None, Some(proxy)) if !looks_like_a_host => Ok(format!("sip:{}@{}", to.rest, proxy.host_text())),
        (None, _) => Ok(format!("sip:{}", to.rest)),
    }
}

/// A FROM without `@` is a user; a host that is missing is the proxy's, or the one that the call goes to.
fn caller(from: &Written<'_>, proxy: &Goal) -> Result<String, Refusal> {
    let (user, host) = match from.user {
        Some(user) => (user, from.rest),
        None => (from.rest, ""),
    };
    // A password in a URI is for nobody's eyes.
    let user = user.split(':').next().unwrap_or_default();
    if user.is_empty() {
        return Err(Refusal::unknown("FROM has no user: give it as sip:user@host".to_owned()));
    }
    // Parameters say something about the way to him, which is not asked for here.
    let host = host.split([';', '?']).next().unwrap_or_default();
    Ok(if host.is_empty() { format!("sip:{user}@{}", proxy.host_text()) } else { format!("sip:{user}@{host}") })
}

fn transport(arguments: &Arguments, is_secure: bool, in_target: Option<&[u8]>) -> Result<Transport, Refusal> {
    let in_target = in_target.map(|name| String::from_utf8_lossy(name).into_owned());
    let transport = match (arguments.transport, &in_target) {
        (Some(transport), _) => transport,
        // RFC 3261 §26.2.2.
        (None, _) if is_secure => Transport::Tls,
        (None, Some(name)) => named(name)
            .ok_or_else(|| Refusal::unknown(format!("TO wants the transport {name}, which is none of ours")))?,
        (None, None) => Transport::Udp,
    };
    if is_secure && !matches!(transport, Transport::Tls | Transport::Wss) {
        return Err(Refusal::unknown(format!("a sips URI is reached over tls or wss, not over {transport}")));
    }
    Ok(transport)
}

/// What follows `scheme`, whose case does not count.
fn after<'a>(text: &'a str, scheme: &str) -> Option<&'a str> {
    let (start, rest) = text.split_at_checked(scheme.len())?;
    start.eq_ignore_ascii_case(scheme).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn arguments(words: &str) -> Arguments {
        let words = ["check-sip"].into_iter().chain(words.split(' '));
        match Line::try_parse_from(words) {
            Ok(line) => line.arguments,
            Err(error) => panic!("{error}"),
        }
    }

    /// From, target, transport, proxy and registrar.
    fn told(words: &str) -> Result<String, String> {
        let goal = |goal: &Goal| goal.host_text() + &goal.port.map_or(String::new(), |port| format!(":{port}"));
        match route(&arguments(words)) {
            Ok(route) => {
                let registrar = route.registrar.as_ref().map_or("-".to_owned(), goal);
                let Route { from, target, transport, proxy, .. } = &route;
                Ok(format!("{from} {target} {transport} {} {registrar}", goal(proxy)))
            }
            Err(refusal) => Err(refusal.text),
        }
    }

    #[test]
    fn what_is_missing_is_taken_from_the_proxy_or_the_target() {
        let cases = [
            ("sip:Bonnie@ sip:Clyde@10.0.0.11", "sip:Bonnie@10.0.0.11 sip:Clyde@10.0.0.11 udp 10.0.0.11 -"),
            ("sip:bonnie sip:clyde@PBX.example.", "sip:bonnie@pbx.example sip:clyde@PBX.example. udp pbx.example -"),
            ("bonnie sip:clyde@10.0.0.11:5070", "sip:bonnie@10.0.0.11 sip:clyde@10.0.0.11:5070 udp 10.0.0.11:5070 -"),
            ("-P 10.0.0.9 b sip:c@x.org", "sip:b@10.0.0.9 sip:c@x.org udp 10.0.0.9 10.0.0.9"),
            ("-P p.org:5070 b@x.org c", "sip:b@x.org sip:c@p.org udp p.org:5070 p.org:5070"),
            ("-P p.org b sip:c@", "sip:b@p.org sip:c@p.org udp p.org p.org"),
            ("-P p.org -R - b c", "sip:b@p.org sip:c@p.org udp p.org -"),
            ("-P p.org -R r.org b c", "sip:b@p.org sip:c@p.org udp p.org r.org"),
            ("-R r.org b c@x.org", "sip:b@x.org sip:c@x.org udp x.org r.org"),
            ("-P 2001:db8::1 b c", "sip:b@[2001:db8::1] sip:c@[2001:db8::1] udp [2001:db8::1] [2001:db8::1]"),
            ("-P [::1]:5070 b c@x.org", "sip:b@[::1] sip:c@x.org udp [::1]:5070 [::1]:5070"),
            ("b sip:10.0.0.11", "sip:b@10.0.0.11 sip:10.0.0.11 udp 10.0.0.11 -"),
            ("-P p.org b sip:10.0.0.11", "sip:b@p.org sip:10.0.0.11 udp p.org p.org"),
            ("<sip:b:secret@x.org;a=b> c@y.org", "sip:b@x.org sip:c@y.org udp y.org -"),
        ];
        for (words, wanted) in cases {
            assert_eq!(told(words).as_deref(), Ok(wanted), "{words}");
        }
    }

    #[test]
    fn proxy_and_registrar_have_names_of_their_own() {
        let names = |words: &str| match route(&arguments(words)) {
            Ok(route) => (route.proxy.into_name(), route.registrar.and_then(Goal::into_name)),
            Err(refusal) => panic!("{}", refusal.text),
        };
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(names("-P p.org -R R.org. b c"), (name("p.org"), name("r.org")));
        assert_eq!(names("-P 10.0.0.9 -R r.org:5061 b c"), (None, name("r.org")));
        assert_eq!(names("-P p.org -R 10.0.0.9 b c"), (name("p.org"), None));
        assert_eq!(names("-P p.org b c"), (name("p.org"), name("p.org")));
    }

    #[test]
    fn the_transport_is_told_or_follows_from_the_uris() {
        let transport =
            |words: &str| route(&arguments(words)).map(|route| route.transport).map_err(|refusal| refusal.text);
        assert_eq!(transport("b sips:c@x.org"), Ok(Transport::Tls));
        assert_eq!(transport("SIPS:b@x.org c@x.org"), Ok(Transport::Tls));
        assert_eq!(transport("b sip:c@x.org;transport=TCP"), Ok(Transport::Tcp));
        assert_eq!(transport("--transport tls b sip:c@x.org;transport=tcp"), Ok(Transport::Tls));
        assert_eq!(transport("--transport wss b sips:c@x.org"), Ok(Transport::Wss));
        assert!(transport("--transport udp b sips:c@x.org").is_err_and(|text| text.contains("tls or wss")));
        assert!(transport("b sip:c@x.org;transport=sctp").is_err_and(|text| text.contains("sctp")));
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        for (words, wanted) in [
            ("b sip:c@", "TO has no host"),
            ("sip: c@x.org", "FROM is empty"),
            ("sip:@x.org c@x.org", "FROM has no user"),
            ("b tel:+49", "sip:NUMBER@HOST"),
            ("b sip:c@x.org:99999", "TO: "),
            ("b sip:c@x_^.org", "TO: "),
            ("-P u@p.org b c", "-P wants a host"),
            ("-R x:y b c@x.org", "-R wants a host"),
        ] {
            assert!(told(words).is_err_and(|text| text.contains(wanted)), "{words}: {:?}", told(words));
        }
    }

    #[test]
    fn both_ranges_of_a_figure_stand_together() {
        let told: Vec<String> = thresholds(&arguments("-w 2 -c 5 -c loss=10 -w answer=3 b c"))
            .iter()
            .map(|threshold| {
                let text = |range: &Option<probe::Range>| range.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("{}: {} {}", threshold.figure.as_str(), text(&threshold.warning), text(&threshold.critical))
            })
            .collect();
        assert_eq!(told, ["answer: 3 5", "loss:  10"]);
    }
}
