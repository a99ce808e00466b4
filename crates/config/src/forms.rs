//! The grammar of what stands in quotes: durations, addresses, networks, names, patterns.

use crate::nearest;
use crate::registry::Form;
use crate::section::{AdvertiseAs, EgressTo, FallbackTo, HostAt, PeerAt, Value, WayTo};
use crate::tokens::with_tokens;
use engine::{AnswerClass, Persistence, Transport, Verify};
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
    /// Right, but this version does not have it: which value (it follows the key's name), and what it comes with.
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
        Form::Peer => peer(text).map(Value::Peer),
        Form::Way => way(text).map(Value::Way),
        Form::NameServer => name_server(text).map(Value::Address),
        Form::Bind => bind(text),
        Form::Advertise => advertise(text).map(Value::Advertise),
        Form::Persistence => persistence(text),
        Form::Fallback => fallback(text),
        Form::Egress => egress(text),
        Form::Origin => origin(text).map(Value::Text),
        Form::Verify => verify(text).map(Value::Verify),
        Form::Answer => answer(text).map(Value::Answer),
        Form::SipUser => sip_user(text),
        Form::Command => command(text),
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

/// One server by address or by name, with or without a port.
fn peer(text: &str) -> Result<PeerAt, Wrong> {
    if let Some((transport, rest)) = text.split_once(':')
        && transport_called(transport).is_some()
        && server(rest).is_ok()
    {
        return Err(Wrong::with_hint(
            "the transport does not belong here",
            format!("address = \"{rest}\" and transport = \"{transport}\""),
        ));
    }
    server(text)
}

/// A server as [`peer`], with or without the transport before it.
fn way(text: &str) -> Result<WayTo, Wrong> {
    let Some((name, rest)) = text.split_once(':') else {
        return server(text).map(|peer| WayTo { transport: None, peer });
    };
    match transport_called(name) {
        Some(transport) if transport.is_web_socket() => Err(Wrong::with_hint(
            format!("nobody is called over {name}: it is for clients"),
            format!("did you mean \"{}:{rest}\"?", transport.towards_backends().name()),
        )),
        Some(transport) => server(rest).map(|peer| WayTo { transport: Some(transport), peer }),
        None => server(text).map(|peer| WayTo { transport: None, peer }).map_err(|wrong| {
            let meant = nearest::nearest(name, TRANSPORTS.map(Transport::name)).filter(|_| server(rest).is_ok());
            match meant {
                Some(meant) => Wrong::with_hint(
                    format!("\"{}\" is no transport", name.escape_debug()),
                    format!("did you mean \"{meant}:{rest}\"?"),
                ),
                None => wrong,
            }
        }),
    }
}

fn server(text: &str) -> Result<PeerAt, Wrong> {
    let numeric = match text.parse::<SocketAddr>() {
        Ok(address) => Some((address.ip(), Some(address.port()))),
        Err(_) => {
            let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let address = match bare {
                Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                None => text.parse::<IpAddr>().ok(),
            };
            address.map(|address| (address, None))
        }
    };
    let peer = match numeric {
        Some((address, _)) if address.is_unspecified() || address.is_multicast() => {
            return Err(Wrong::new(format!("{address} is not the address of one server")));
        }
        Some((address, port)) => PeerAt { host: HostAt::Address(address), port },
        None => named_server(text)?,
    };
    if peer.port == Some(0) { Err(Wrong::new("port 0 is no port")) } else { Ok(peer) }
}

fn named_server(text: &str) -> Result<PeerAt, Wrong> {
    let (host, written_port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    // A dot at its end says that the name is a whole one; they all are.
    let name = host.strip_suffix('.').unwrap_or(host);
    match written_port.map(str::parse::<u16>).transpose() {
        Ok(port) if is_host_name(name) => Ok(PeerAt { host: HostAt::Name(name.to_owned()), port }),
        _ => Err(Wrong::with_hint(
            format!("\"{}\" is neither an address nor a name", text.escape_debug()),
            "such as \"10.0.0.11:5060\", \"[2001:db8::11]:5060\" or \"pbx.example.com\"",
        )),
    }
}

/// The port of DNS is 53 (RFC 1035 §4.2).
fn name_server(text: &str) -> Result<SocketAddr, Wrong> {
    // By name it could not be found: who would be asked for it?
    peer(text).ok().and_then(|peer| peer.address_or_port(53)).ok_or_else(|| {
        Wrong::with_hint(
            format!("\"{}\" is not the address of a name server", text.escape_debug()),
            "such as \"192.0.2.53\" or \"[2001:db8::53]:53\"",
        )
    })
}

/// `TRANSPORT:ADDRESS:PORT`; `*` is every IPv4 address of the machine, `[::]` every IPv6 address.
fn bind(text: &str) -> Result<Value, Wrong> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let Some(transport) = transport_called(name) else {
        let meant = nearest::nearest(name, TRANSPORTS.map(Transport::name)).filter(|_| !rest.is_empty());
        let hint = match (text.parse::<SocketAddr>(), meant) {
            (Ok(_), _) => format!("did you mean \"udp:{text}\"?"),
            (Err(_), Some(meant)) => format!("did you mean \"{meant}:{rest}\"?"),
            (Err(_), None) => bind_example(Transport::Udp),
        };
        return Err(Wrong::with_hint("a listener begins with its transport", hint));
    };
    let address = match rest.strip_prefix("*:") {
        Some(port) => format!("0.0.0.0:{port}").parse::<SocketAddr>(),
        None => rest.parse::<SocketAddr>(),
    };
    match address {
        Ok(address) if address.port() == 0 => Err(Wrong::new("port 0 is no port: phones could not know it")),
        Ok(address) if address.ip().is_multicast() => Err(Wrong::new("a multicast address cannot be listened at")),
        Ok(address) => Ok(Value::Bind(transport, address)),
        Err(_) => Err(Wrong::with_hint(
            "a listener is a transport, an address of this machine and a port",
            bind_example(transport),
        )),
    }
}

fn bind_example(transport: Transport) -> String {
    let (name, port) = (transport.name(), transport.default_port());
    format!("such as \"{name}:203.0.113.10:{port}\", \"{name}:[2001:db8::1]:{port}\" or \"{name}:*:{port}\"")
}

fn transport_called(name: &str) -> Option<Transport> {
    TRANSPORTS.into_iter().find(|transport| transport.name() == name)
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

/// What a browser says of the page that opens a WebSocket (RFC 6454 §6.1): scheme and host in lower case, and the port unless it is
/// the scheme's own. Anything else that is written here would never be met.
fn origin(text: &str) -> Result<String, Wrong> {
    // Pages that were not loaded from a host.
    if text == "null" || text == "file://" {
        return Ok(text.to_owned());
    }
    let wrong =
        |hint: String| Wrong::with_hint(format!("\"{}\" is not the origin of a page", text.escape_debug()), hint);
    let example = || "such as \"https://phone.example.com\"; an empty list is every page".to_owned();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("https".to_owned(), text),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    let Ok(AdvertiseAs { host, port }) = advertise(authority) else {
        return Err(wrong(example()));
    };
    if !is_scheme {
        return Err(wrong(example()));
    }
    // Of the page, not of what it opens.
    let of_page = match scheme.as_str() {
        "ws" => "http",
        "wss" => "https",
        other => other,
    };
    let own_port = match of_page {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let origin = match port.filter(|port| Some(*port) != own_port) {
        Some(port) => format!("{of_page}://{host}:{port}"),
        None => format!("{of_page}://{host}"),
    };
    if !text.contains("://") || of_page != scheme || authority != rest {
        return Err(wrong(format!("did you mean \"{origin}\"?")));
    }
    Ok(origin)
}

/// How a certificate is checked.
fn verify(text: &str) -> Result<Verify, Wrong> {
    match text {
        "system" => return Ok(Verify::System),
        "off" => return Ok(Verify::Off),
        _ => {}
    }
    if let Some(written) = text.strip_prefix("sha256:") {
        return fingerprint(written).map(Verify::Pinned).ok_or_else(|| {
            // As other programs show it.
            let plain: String = written.chars().filter(|character| !matches!(character, ':' | ' ')).collect();
            let hint = match fingerprint(&plain) {
                Some(_) => format!("did you mean \"sha256:{plain}\"?"),
                None => "`openssl x509 -noout -fingerprint -sha256` shows it; write it without colons".to_owned(),
            };
            Wrong::with_hint("a SHA-256 fingerprint has 64 hexadecimal digits", hint)
        });
    }
    // A slip of the hand would be taken for the name of a file.
    if !text.contains(['/', '.']) {
        let hint = nearest::offer(text, ["system", "off"])
            .unwrap_or_else(|| "a file is written with its folder: \"/etc/tandem/pbx.pem\"".to_owned());
        let message = format!("\"{}\" is neither \"system\", \"off\" nor a fingerprint", text.escape_debug());
        return Err(Wrong::with_hint(message, hint));
    }
    path(text).map(|_| Verify::File(text.to_owned()))
}

/// A final status, or all of one class (RFC 3261 §7.2).
fn answer(text: &str) -> Result<AnswerClass, Wrong> {
    let known = match text.split_at_checked(1) {
        Some((class, "xx")) => {
            class.parse::<u16>().ok().filter(|class| (2..=6).contains(class)).map(AnswerClass::Class)
        }
        _ => number_of(text).filter(|status| (200..=699).contains(status)).map(AnswerClass::Status),
    };
    known.ok_or_else(|| {
        let lower = text.to_ascii_lowercase();
        let hint = if lower != text && answer(&lower).is_ok() {
            format!("did you mean \"{lower}\"?")
        } else {
            "such as \"2xx\", \"404\" or \"486\"".to_owned()
        };
        let message = format!("\"{}\" is neither a final status nor a class of them", text.escape_debug());
        Wrong::with_hint(message, hint)
    })
}

/// Digits alone: the library takes a sign too.
fn number_of(text: &str) -> Option<u16> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A SIP URI with a user (RFC 3261 §19.1), in which the tokens of a guardian may stand.
fn sip_user(text: &str) -> Result<Value, Wrong> {
    let wrong = || {
        Wrong::with_hint(
            format!("\"{}\" is not the SIP address of a user", text.escape_debug()),
            "such as \"sip:clyde@HOST\", \"sip:clyde@HOST:PORT\" or \"sip:clyde@example.com\"",
        )
    };
    let (scheme, rest) = text.split_once(':').ok_or_else(wrong)?;
    let (user, place) = rest.split_once('@').ok_or_else(wrong)?;
    if user.contains(':') {
        return Err(Wrong::with_hint(
            "a password does not belong into an address",
            "write its file into `password_file`",
        ));
    }
    let host = place.split([';', '?']).next().unwrap_or(place);
    let is_plain = rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte));
    let is_sip = scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips");
    let is_host = advertise(&with_tokens(host, "192.0.2.1", 5060, "name")).is_ok();
    if is_sip && is_plain && is_host && !user.is_empty() { Ok(Value::Text(text.to_owned())) } else { Err(wrong()) }
}

/// What it means is the shell's business; that nothing stands there is not.
fn command(text: &str) -> Result<Value, Wrong> {
    if text.trim().is_empty() || text.contains('\0') {
        Err(Wrong::new("this is not a command"))
    } else {
        Ok(Value::Text(text.to_owned()))
    }
}

/// 32 octets as 64 hexadecimal digits.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    let octets: Vec<u8> =
        pairs.iter().map(|[high, low]| u8::try_from(high * 16 + low)).collect::<Result<_, _>>().ok()?;
    if rest.is_empty() { octets.try_into().ok() } else { None }
}

const TRANSPORTS: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

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
            Ok(Value::Bind(transport, address)) => Some((transport, address.to_string())),
            _ => None,
        };
        for transport in TRANSPORTS {
            let name = transport.name();
            for (written, meant) in
                [("127.0.0.1:5060", "127.0.0.1:5060"), ("[::1]:5060", "[::1]:5060"), ("*:5060", "0.0.0.0:5060")]
            {
                assert_eq!(bound(&format!("{name}:{written}")), Some((transport, meant.to_owned())), "{name}");
            }
        }
        for wrong in
            ["udp:127.0.0.1", "udp:127.0.0.1:0", "udp:*", "127.0.0.1:5060", "upd:127.0.0.1:5060", "udp:host:5060", ""]
        {
            assert!(matches!(bind(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
        let hint = |text: &str| match bind(text) {
            Err(Wrong::Invalid { hint, .. }) => hint,
            _ => None,
        };
        assert_eq!(hint("tsl:127.0.0.1:5061").as_deref(), Some("did you mean \"tls:127.0.0.1:5061\"?"));
        assert_eq!(hint("127.0.0.1:5060").as_deref(), Some("did you mean \"udp:127.0.0.1:5060\"?"));
        let example = "such as \"wss:203.0.113.10:443\", \"wss:[2001:db8::1]:443\" or \"wss:*:443\"";
        assert_eq!(hint("wss:sip.example.com:443").as_deref(), Some(example));
        assert_eq!(hint("sctp:127.0.0.1:5060"), Some(bind_example(Transport::Udp)));
    }

    #[test]
    fn peers() {
        let with = |text: &str, port: u16| {
            peer(text).map(|found| found.address_or_port(port).map(|address| address.to_string()).unwrap_or_default())
        };
        assert_eq!(with("10.0.0.11:5080", 5061), Ok("10.0.0.11:5080".to_owned()));
        assert_eq!(with("10.0.0.11", 5061), Ok("10.0.0.11:5061".to_owned()));
        assert_eq!(with("::1", 5060), Ok("[::1]:5060".to_owned()));
        assert_eq!(with("[::1]:5070", 5060), Ok("[::1]:5070".to_owned()));
        for wrong in [
            "10.0.0.300:5060",
            "10.0.0.1:0",
            "0.0.0.0:5060",
            "224.0.0.1:5060",
            "",
            "udp:10.0.0.1:5060",
            "tcp:pbx.example.com",
            "10.0.0.1:99999",
            "pbx.example.com:0",
            "pbx.example.com:99999",
            "pbx.example.com:",
            "pbx..example.com",
            "-pbx.example.com",
            "pbx example.com",
            ".",
        ] {
            assert!(matches!(peer(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
    }

    #[test]
    fn peers_by_name() {
        let named = |text: &str| match peer(text) {
            Ok(PeerAt { host: HostAt::Name(name), port }) => Some((name, port)),
            _ => None,
        };
        assert_eq!(named("pbx1.example.com"), Some(("pbx1.example.com".to_owned(), None)));
        assert_eq!(named("pbx1.example.com."), Some(("pbx1.example.com".to_owned(), None)));
        assert_eq!(named("PBX1:5070"), Some(("PBX1".to_owned(), Some(5070))));
        assert_eq!(named("10.0.0.11:5070"), None);
        // A label of 63 octets is a name, one of 64 is none.
        let long = |octets: usize| format!("{}.example.com", "a".repeat(octets));
        assert!(named(&long(63)).is_some() && named(&long(64)).is_none());
    }

    #[test]
    fn ways_out() {
        let found = |text: &str| way(text).map(|found| (found.transport, found.peer.to_string()));
        let one = |transport, text: &str| Ok((transport, text.to_owned()));
        assert_eq!(found("198.51.100.1"), one(None, "198.51.100.1"));
        assert_eq!(found("[2001:db8::1]:5070"), one(None, "[2001:db8::1]:5070"));
        assert_eq!(found("2001:db8::1"), one(None, "2001:db8::1"));
        assert_eq!(found("tls:198.51.100.1:5071"), one(Some(Transport::Tls), "198.51.100.1:5071"));
        assert_eq!(found("tcp:2001:db8::1"), one(Some(Transport::Tcp), "2001:db8::1"));
        assert_eq!(found("tcp:[2001:db8::1]"), one(Some(Transport::Tcp), "2001:db8::1"));
        assert_eq!(found("udp:sip.example.net"), one(Some(Transport::Udp), "sip.example.net"));
        assert_eq!(found("sip.example.net:5070"), one(None, "sip.example.net:5070"));
        for wrong in [
            "",
            "ws:198.51.100.1",
            "wss:sip.example.net",
            "tls:",
            "tls:tcp:198.51.100.1",
            "sctp:198.51.100.1",
            "tls:0.0.0.0",
        ] {
            assert!(matches!(way(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
        let hint = |text: &str| match way(text) {
            Err(Wrong::Invalid { hint, .. }) => hint,
            _ => None,
        };
        assert_eq!(hint("tsl:sip.example.net").as_deref(), Some("did you mean \"tls:sip.example.net\"?"));
        assert_eq!(hint("wss:sip.example.net").as_deref(), Some("did you mean \"tls:sip.example.net\"?"));
    }

    #[test]
    fn name_servers() {
        let found = |text: &str| name_server(text).map(|found| found.to_string());
        assert_eq!(found("192.0.2.53"), Ok("192.0.2.53:53".to_owned()));
        assert_eq!(found("[2001:db8::53]:5353"), Ok("[2001:db8::53]:5353".to_owned()));
        for wrong in ["ns.example.com", "192.0.2.53:0", "0.0.0.0", "udp:192.0.2.53", ""] {
            assert!(matches!(name_server(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
    }

    #[test]
    fn origins_are_kept_as_browsers_write_them() {
        for (written, kept) in [
            ("https://Phone.example.com", "https://phone.example.com"),
            ("https://phone.example.com:443", "https://phone.example.com"),
            ("http://phone.example.com:80", "http://phone.example.com"),
            ("http://phone.example.com:443", "http://phone.example.com:443"),
            ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("null", "null"),
            ("file://", "file://"),
        ] {
            assert_eq!(origin(written).as_deref(), Ok(kept), "{written}");
        }
        for (wrong, meant) in [
            ("phone.example.com", "https://phone.example.com"),
            ("https://phone.example.com/", "https://phone.example.com"),
            ("https://phone.example.com:8443/app?x#y", "https://phone.example.com:8443"),
            ("wss://phone.example.com:443", "https://phone.example.com"),
            ("ws://phone.example.com", "http://phone.example.com"),
        ] {
            let Err(Wrong::Invalid { hint, .. }) = origin(wrong) else { panic!("{wrong} is no origin") };
            assert_eq!(hint, Some(format!("did you mean \"{meant}\"?")), "{wrong}");
        }
        for wrong in ["", "*", "https://", "https://*.example.com", "https://a b", "1x://host", "https://a@b"] {
            assert!(matches!(origin(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
    }

    #[test]
    fn certificates_are_verified_in_four_ways() {
        let digits = "00ff".repeat(16);
        let octets: [u8; 32] = std::array::from_fn(|index| if index % 2 == 0 { 0 } else { 255 });
        assert_eq!(verify("system"), Ok(Verify::System));
        assert_eq!(verify("off"), Ok(Verify::Off));
        assert_eq!(verify("ca.pem"), Ok(Verify::File("ca.pem".to_owned())));
        assert_eq!(verify("/etc/tandem/ca"), Ok(Verify::File("/etc/tandem/ca".to_owned())));
        assert_eq!(verify(&format!("sha256:{digits}")), Ok(Verify::Pinned(octets)));
        assert_eq!(verify(&format!("sha256:{}", digits.to_uppercase())), Ok(Verify::Pinned(octets)));
        let (odd, long) = (format!("sha256:{digits}0"), format!("sha256:{digits}00"));
        for wrong in ["", "sytem", "none", "sha256:", "sha256:00", odd.as_str(), long.as_str()] {
            assert!(matches!(verify(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
        let shown = format!("sha256:{}", ["00:FF"; 16].join(":"));
        let Err(Wrong::Invalid { hint, .. }) = verify(&shown) else { panic!("it is written with colons") };
        assert_eq!(hint, Some(format!("did you mean \"sha256:{}\"?", digits.to_uppercase())));
    }

    #[test]
    fn answers_are_final() {
        for (written, meant) in [
            ("2xx", AnswerClass::Class(2)),
            ("6xx", AnswerClass::Class(6)),
            ("200", AnswerClass::Status(200)),
            ("699", AnswerClass::Status(699)),
        ] {
            assert_eq!(answer(written), Ok(meant), "{written}");
        }
        for wrong in ["", "1xx", "7xx", "xx", "22xx", "199", "700", "+404", "180", "any", "éxx"] {
            assert!(matches!(answer(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
        let Err(Wrong::Invalid { hint, .. }) = answer("2XX") else { panic!("the letters are small") };
        assert_eq!(hint.as_deref(), Some("did you mean \"2xx\"?"));
    }

    #[test]
    fn users_have_sip_addresses() {
        for right in [
            "sip:clyde@HOST",
            "sip:clyde@HOST:PORT",
            "sips:clyde@example.com",
            "sip:clyde@NAME",
            "sip:+4930123@192.0.2.1:5070;user=phone",
            "SIP:clyde@[2001:db8::1]",
        ] {
            assert!(sip_user(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "clyde",
            "clyde@HOST",
            "sip:HOST",
            "sip:@HOST",
            "sip:clyde@",
            "sip:cly de@HOST",
            "<sip:clyde@HOST>",
            "tel:+4930123",
            "sip:clyde:secret@HOST",
            "sip:clyde@HOST:0",
            "sip:clyde@a_b:c",
            "sip:clyde@HOST;x=\"y\"",
        ] {
            assert!(matches!(sip_user(wrong), Err(Wrong::Invalid { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_command_is_something() {
        assert!(command("check_sip -T 9 sip:clyde@HOST").is_ok());
        assert!(command("").is_err());
        assert!(command(" \t").is_err());
        assert!(command("a\0b").is_err());
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
