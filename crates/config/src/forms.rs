//! The grammar of what stands in quotes: durations, addresses, networks, names, patterns.

use crate::nearest;
use crate::registry::{Form, NAMES, STREAMS};
use crate::section::{AdvertiseAs, EgressTo, FallbackTo, Value};
use engine::{Persistence, Transport};
use ipnet::IpNet;
use regex::bytes::Regex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Why a text is not what its setting takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    Invalid {
        message: String,
        hint: Option<String>,
    },
    /// Right, but this version does not have it: which sort of value (it follows the key's name), and what it comes with.
    Later {
        detail: String,
        comes_with: &'static str,
    },
}

impl Wrong {
    fn new(message: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: None }
    }

    fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Invalid { message: message.into(), hint: Some(hint.into()) }
    }
}

/// Reads `text` as `form` asks.
pub(crate) fn read(form: Form, text: &str) -> Result<Value, Wrong> {
    match form {
        Form::Any => Ok(Value::Text(text.to_owned())),
        Form::Name => name(text),
        Form::Path => path(text),
        Form::Host => host(text).map(Value::Text),
        Form::HeaderName => header_name(text),
        Form::Method => method(text),
        Form::Pattern => pattern(text).map(Value::Pattern),
        Form::Network => network(text).map(Value::Network),
        Form::Address => address(text).map(Value::Address),
        Form::Bind => bind(text),
        Form::Advertise => advertise(text).map(Value::Advertise),
        Form::Persistence => persistence(text),
        Form::Fallback => fallback(text),
        Form::Egress => egress(text),
    }
}

/// "250ms", "10s", "5m", "12h".
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(unit_ms)?))
}

/// As it would be written in a file, in the largest unit that fits.
pub(crate) fn write_duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// A regular expression, with the part of the error that matters.
pub(crate) fn pattern(text: &str) -> Result<Regex, Wrong> {
    Regex::new(text).map_err(|error| {
        let shown = error.to_string();
        // The library draws the pattern with a mark of its own before the reason.
        let reason = shown.rsplit("error: ").next().unwrap_or(&shown).trim();
        Wrong::new(format!("invalid regular expression: {reason}"))
    })
}

/// A header's name (RFC 3261 §25.1: token).
pub(crate) fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

/// Names go into headers and events, so they are one word.
fn name(text: &str) -> Result<Value, Wrong> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(Value::Text(text.to_owned()))
    } else {
        Err(Wrong::new("a name has 1 to 64 letters, digits or - _ . : [ ]"))
    }
}

fn path(text: &str) -> Result<Value, Wrong> {
    if text.is_empty() || text.contains('\0') {
        Err(Wrong::new("this is not a path"))
    } else {
        Ok(Value::Text(text.to_owned()))
    }
}

/// Lower case; an IPv6 address in brackets, as it stands in a URI.
fn host(text: &str) -> Result<String, Wrong> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<Ipv6Addr>() {
        return Ok(format!("[{address}]"));
    }
    if text.parse::<Ipv4Addr>().is_ok() || is_host_name(text) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Wrong::new(format!("\"{}\" is neither a host name nor an address", text.escape_debug())))
}

/// RFC 3261 §25.1 hostname, with the underscore that is seen in practice; the last label is never a number.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or(text);
    text.len() <= 253 && text.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Empty: no header.
fn header_name(text: &str) -> Result<Value, Wrong> {
    if !text.is_empty() && !is_token(text) {
        return Err(Wrong::new("this is not the name of a header"));
    }
    // What is stripped from every message must not be what the message is routed by.
    if ROUTING_HEADERS.iter().any(|known| known.eq_ignore_ascii_case(text)) {
        return Err(Wrong::new(format!("`{text}` is needed by SIP itself: take a name that starts with \"X-\"")));
    }
    Ok(Value::Text(text.to_owned()))
}

/// Methods are case-sensitive (RFC 3261 §7.1).
fn method(text: &str) -> Result<Value, Wrong> {
    if METHODS.contains(&text) {
        return Ok(Value::Text(text.to_owned()));
    }
    let meant = nearest::nearest(text, METHODS.iter().copied());
    match meant {
        Some(known) => Err(Wrong::with_hint(
            format!("unknown method \"{}\"", text.escape_debug()),
            format!("did you mean \"{known}\"?"),
        )),
        None if is_token(text) => Ok(Value::Text(text.to_owned())),
        None => Err(Wrong::new("this is not the name of a method")),
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, Wrong> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let Ok(network) = text.parse::<IpNet>() else {
        return Err(Wrong::with_hint(
            format!("\"{}\" is neither an address nor a network", text.escape_debug()),
            "such as \"198.51.100.7\", \"198.51.100.0/24\" or \"2001:db8::/32\"",
        ));
    };
    if network.trunc() == network {
        Ok(network)
    } else {
        let meant = format!("did you mean \"{}\" or \"{}\"?", network.trunc(), network.addr());
        Err(Wrong::with_hint("this address lies within its network", meant))
    }
}

/// A peer; without a port 5060 (RFC 3261 §19.1.2).
fn address(text: &str) -> Result<SocketAddr, Wrong> {
    let parsed = match text.parse::<SocketAddr>() {
        Ok(address) => Some(address),
        Err(_) => text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 5060)),
    };
    if let Some(address) = parsed {
        if address.port() == 0 {
            return Err(Wrong::new("port 0 is no port"));
        }
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            return Err(Wrong::new(format!("{} is not the address of one server", address.ip())));
        }
        return Ok(address);
    }
    if let Some((transport, rest)) = text.split_once(':')
        && TRANSPORTS.contains(&transport)
        && address(rest).is_ok()
    {
        return Err(Wrong::with_hint(
            "the transport does not belong here",
            format!("address = \"{rest}\" and transport = \"{transport}\""),
        ));
    }
    let host = text.split_once(':').map_or(text, |(host, _)| host);
    if is_host_name(host) {
        return Err(Wrong::Later { detail: " by name".to_owned(), comes_with: NAMES });
    }
    Err(Wrong::with_hint(
        format!("\"{}\" is not an address", text.escape_debug()),
        "such as \"10.0.0.11:5060\" or \"[2001:db8::11]:5060\"",
    ))
}

/// `udp:ADDRESS:PORT`; `*` is every IPv4 address of the machine, `[::]` every IPv6 address.
fn bind(text: &str) -> Result<Value, Wrong> {
    let example = "such as \"udp:203.0.113.10:5060\", \"udp:[2001:db8::1]:5060\" or \"udp:*:5060\"";
    let (transport, rest) = text.split_once(':').unwrap_or((text, ""));
    if transport != "udp" {
        if TRANSPORTS.contains(&transport) {
            return Err(Wrong::Later { detail: format!(" over {transport}"), comes_with: STREAMS });
        }
        let hint = match text.parse::<SocketAddr>() {
            Ok(_) => format!("did you mean \"udp:{text}\"?"),
            Err(_) => example.to_owned(),
        };
        return Err(Wrong::with_hint("a listener begins with its transport", hint));
    }
    let address = match rest.strip_prefix("*:") {
        Some(port) => format!("0.0.0.0:{port}").parse::<SocketAddr>(),
        None => rest.parse::<SocketAddr>(),
    };
    match address {
        Ok(address) if address.port() == 0 => Err(Wrong::new("port 0 is no port: phones could not know it")),
        Ok(address) if address.ip().is_multicast() => Err(Wrong::new("a multicast address cannot be listened at")),
        Ok(address) => Ok(Value::Bind(Transport::Udp, address)),
        Err(_) => Err(Wrong::with_hint("a listener is a transport, an address of this machine and a port", example)),
    }
}

/// A name or an address, with or without a port.
fn advertise(text: &str) -> Result<AdvertiseAs, Wrong> {
    let wrong = || {
        Wrong::with_hint(
            format!("\"{}\" is neither a name nor an address", text.escape_debug()),
            "such as \"sip.example.com\", \"203.0.113.7:5060\" or \"[2001:db8::7]:5060\"",
        )
    };
    let (written_host, port) = if text.parse::<Ipv6Addr>().is_ok() || text.ends_with(']') {
        (text, None)
    } else {
        match text.rsplit_once(':') {
            Some((before, port)) => {
                let port: u16 = port.parse().map_err(|_| wrong())?;
                (before, Some(port))
            }
            None => (text, None),
        }
    };
    let host = host(written_host).map_err(|_| wrong())?;
    let nowhere = host == "0.0.0.0" || host == "[::]";
    if nowhere || port == Some(0) {
        return Err(wrong());
    }
    Ok(AdvertiseAs { host, port })
}

fn persistence(text: &str) -> Result<Value, Wrong> {
    let persistence = match text {
        "user" => Persistence::User,
        "call-id" => Persistence::CallId,
        "source" => Persistence::Source,
        "none" => Persistence::None,
        _ => match text.strip_prefix("header:") {
            Some(name) if is_token(name) => Persistence::Header(name.to_owned()),
            _ => {
                let known = ["user", "call-id", "source", "header:NAME", "none"];
                let hint = nearest::offer(text, known).unwrap_or_else(|| format!("one of {}", known.join(", ")));
                return Err(Wrong::with_hint(format!("unknown persistence \"{}\"", text.escape_debug()), hint));
            }
        },
    };
    Ok(Value::Persistence(persistence))
}

/// A final status of failure, or a service.
fn fallback(text: &str) -> Result<Value, Wrong> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse::<u16>() {
            Ok(status) if (400..=699).contains(&status) => Ok(Value::Fallback(FallbackTo::Status(status))),
            _ => Err(Wrong::new("a status to answer with lies between 400 and 699")),
        };
    }
    name(text).map(|_| Value::Fallback(FallbackTo::Service(text.to_owned())))
}

fn egress(text: &str) -> Result<Value, Wrong> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let to = match kind {
        "trunk" => EgressTo::Trunk(rest.to_owned()),
        "domain" => EgressTo::Domain(host(rest)?),
        "network" => EgressTo::Network(network(rest)?),
        _ => {
            return Err(Wrong::with_hint(
                format!("unknown egress \"{}\"", text.escape_debug()),
                "such as \"trunk:carrier\", \"domain:example.net\" or \"network:10.0.0.0/8\"",
            ));
        }
    };
    Ok(Value::Egress(to))
}

const TRANSPORTS: &[&str] = &["udp", "tcp", "tls", "ws", "wss"];

/// The methods of RFC 3261, 3262, 3265, 3311, 3428, 3515 and 3903.
const METHODS: &[&str] = &[
    "ACK",
    "BYE",
    "CANCEL",
    "INFO",
    "INVITE",
    "MESSAGE",
    "NOTIFY",
    "OPTIONS",
    "PRACK",
    "PUBLISH",
    "REFER",
    "REGISTER",
    "SUBSCRIBE",
    "UPDATE",
];

/// Headers without which a message cannot be routed, answered or understood, with their compact forms.
const ROUTING_HEADERS: &[&str] = &[
    "authorization",
    "call-id",
    "contact",
    "content-encoding",
    "content-length",
    "content-type",
    "cseq",
    "expires",
    "from",
    "max-forwards",
    "path",
    "proxy-authorization",
    "proxy-require",
    "record-route",
    "require",
    "route",
    "supported",
    "to",
    "via",
    "c",
    "e",
    "f",
    "i",
    "k",
    "l",
    "m",
    "t",
    "v",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        assert_eq!(duration("12h"), Some(Duration::from_secs(43_200)));
        for wrong in ["", "10", "s", "1.5s", "-1s", "10 s", "99999999999999999999s", "18446744073709551615h", "1d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        for text in ["250ms", "90s", "5m", "12h", "0s"] {
            assert_eq!(duration(text).map(write_duration).as_deref(), Some(text));
        }
    }

    #[test]
    fn listeners() {
        let bound = |text: &str| match bind(text) {
            Ok(Value::Bind(Transport::Udp, address)) => Some(address.to_string()),
            _ => None,
        };
        assert_eq!(bound("udp:127.0.0.1:5060").as_deref(), Some("127.0.0.1:5060"));
        assert_eq!(bound("udp:[::1]:5060").as_deref(), Some("[::1]:5060"));
        assert_eq!(bound("udp:*:5060").as_deref(), Some("0.0.0.0:5060"));
        for wrong in
            ["udp:127.0.0.1", "udp:127.0.0.1:0", "udp:*", "127.0.0.1:5060", "upd:127.0.0.1:5060", "udp:host:5060", ""]
        {
            assert!(matches!(bind(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
        for later in ["tcp:127.0.0.1:5060", "wss:*:443", "tls:[::1]:5061"] {
            assert!(matches!(bind(later), Err(Wrong::Later { .. })), "{later}");
        }
    }

    #[test]
    fn peers() {
        assert_eq!(address("10.0.0.11:5080").map(|found| found.to_string()), Ok("10.0.0.11:5080".to_owned()));
        assert_eq!(address("10.0.0.11").map(|found| found.to_string()), Ok("10.0.0.11:5060".to_owned()));
        assert_eq!(address("::1").map(|found| found.to_string()), Ok("[::1]:5060".to_owned()));
        for wrong in [
            "10.0.0.300:5060",
            "10.0.0.1:0",
            "0.0.0.0:5060",
            "224.0.0.1:5060",
            "",
            "udp:10.0.0.1:5060",
            "10.0.0.1:99999",
        ] {
            assert!(matches!(address(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
        for later in ["pbx1.example.com", "pbx1:5060"] {
            assert!(matches!(address(later), Err(Wrong::Later { .. })), "{later}");
        }
    }

    #[test]
    fn advertised_names() {
        let as_text = |text: &str| advertise(text).ok().map(|found| (found.host, found.port));
        assert_eq!(as_text("SIP.example.com"), Some(("sip.example.com".to_owned(), None)));
        assert_eq!(as_text("203.0.113.7:5062"), Some(("203.0.113.7".to_owned(), Some(5062))));
        assert_eq!(as_text("2001:db8::7"), Some(("[2001:db8::7]".to_owned(), None)));
        assert_eq!(as_text("[2001:db8::7]:5062"), Some(("[2001:db8::7]".to_owned(), Some(5062))));
        for wrong in ["", "*", "0.0.0.0", "a b", "host:", "host:0", "host:65536", "300.1.1.1"] {
            assert_eq!(as_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(network("10.0.0.11").map(|found| found.to_string()), Ok("10.0.0.11/32".to_owned()));
        assert_eq!(network("2001:db8::/32").map(|found| found.to_string()), Ok("2001:db8::/32".to_owned()));
        assert!(network("10.0.0.1/8").is_err());
        assert!(network("10.0.0.0/33").is_err());
    }

    #[test]
    fn words() {
        assert!(name("eth0:voip").is_ok());
        assert!(name("a b").is_err());
        assert!(name("").is_err());
        assert!(header_name("X-Tandem-Origin").is_ok());
        assert!(header_name("").is_ok());
        assert!(header_name("From").is_err());
        assert!(header_name("X Y").is_err());
        assert!(method("INVITE").is_ok());
        assert!(method("invite").is_err());
        assert!(method("X-PING").is_ok());
        assert!(persistence("header:X-Tenant").is_ok());
        assert!(persistence("header:").is_err());
        assert!(fallback("503").is_ok());
        assert!(fallback("200").is_err());
        assert!(fallback("other").is_ok());
        assert!(egress("network:10.0.0.0/8").is_ok());
        assert!(egress("anywhere").is_err());
    }

    #[test]
    fn patterns_say_what_is_wrong() {
        let Err(Wrong::Invalid { message, .. }) = pattern("^(2[0-9]{3}$") else { panic!("a parenthesis is open") };
        assert_eq!(message, "invalid regular expression: unclosed group");
    }
}
