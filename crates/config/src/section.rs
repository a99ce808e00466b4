//! A section as it was read: every value has the type that the registry gives its key, and still knows its place.

use crate::report::Span;
use engine::policy::Policy;
use engine::{AnswerClass, Persistence, Target, Transport, Verify};
use ipnet::IpNet;
use regex::bytes::Regex;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// One `[section]`, `[[section]]` or inline table: what was written and right, and the defaults of the rest.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    span: Span,
    written: Vec<&'static str>,
    values: Vec<(&'static str, Located)>,
    incomplete: bool,
}

/// A value and where it stands; a default stands where its section's header does.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Text(String),
    Integer(u64),
    Number(f64),
    Boolean(bool),
    Answer(AnswerClass),
    /// `None`: "off".
    Duration(Option<Duration>),
    Algorithm(&'static dyn Policy),
    Pattern(Regex),
    Network(IpNet),
    Address(SocketAddr),
    Peer(PeerAt),
    Way(WayTo),
    Bind(Transport, SocketAddr),
    Advertise(AdvertiseAs),
    Listener(ListenAt),
    Persistence(Persistence),
    Fallback(FallbackTo),
    Egress(EgressTo),
    Verify(Verify),
    List(Vec<Located>),
    /// Header name and pattern.
    Patterns(Vec<(String, Regex)>),
    Section(Section),
    Sections(Vec<Section>),
}

/// A server whose port may follow from how it is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PeerAt {
    pub(crate) host: HostAt,
    pub(crate) port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum HostAt {
    Address(IpAddr),
    /// As written, but for a dot at its end.
    Name(String),
}

/// A server and, where it is written, the transport that it is reached over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WayTo {
    pub(crate) transport: Option<Transport>,
    pub(crate) peer: PeerAt,
}

/// A name or address to be written instead of a listener's own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AdvertiseAs {
    /// IPv6 in brackets.
    pub(crate) host: String,
    /// `None`: the listener's.
    pub(crate) port: Option<u16>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ListenAt {
    pub(crate) transport: Transport,
    pub(crate) bind: SocketAddr,
    pub(crate) advertise: Option<AdvertiseAs>,
}

/// A fallback before the name is looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FallbackTo {
    Status(u16),
    Service(String),
}

/// An egress before the trunk is looked up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum EgressTo {
    Trunk(String),
    Domain(String),
    Network(IpNet),
}

impl PeerAt {
    /// The address, with `port` if none is written; `None`: a name stands there.
    pub(crate) fn address_or_port(&self, port: u16) -> Option<SocketAddr> {
        match self.host {
            HostAt::Address(address) => Some(SocketAddr::new(address, self.port.unwrap_or(port))),
            HostAt::Name(_) => None,
        }
    }

    /// What is to be asked for, if it is a name.
    pub(crate) fn target(&self, port: Option<u16>, transport: Option<Transport>) -> Option<Target> {
        match &self.host {
            HostAt::Name(name) => Some(Target { host: name.to_ascii_lowercase(), port, transport }),
            HostAt::Address(_) => None,
        }
    }
}

impl fmt::Display for PeerAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (HostAt::Address(address), Some(port)) => write!(f, "{}", SocketAddr::new(*address, port)),
            (HostAt::Address(address), None) => write!(f, "{address}"),
            (HostAt::Name(name), Some(port)) => write!(f, "{name}:{port}"),
            (HostAt::Name(name), None) => f.write_str(name),
        }
    }
}

impl WayTo {
    /// RFC 3263 §4.1: udp where an address or a port is written. `None`: the DNS says.
    pub(crate) fn known_transport(&self) -> Option<Transport> {
        let is_address = matches!(self.peer.host, HostAt::Address(_));
        let implied = is_address || self.peer.port.is_some();
        self.transport.or(implied.then_some(Transport::Udp))
    }

    /// What is to be asked for, if it is a name.
    pub(crate) fn target(&self) -> Option<Target> {
        self.peer.target(self.peer.port, self.transport)
    }

    /// Transport and address, if it is no name.
    pub(crate) fn place(&self) -> Option<(Transport, SocketAddr)> {
        let transport = self.transport.unwrap_or(Transport::Udp);
        self.peer.address_or_port(transport.default_port()).map(|address| (transport, address))
    }
}

impl Section {
    pub(crate) fn new(span: Span) -> Self {
        Self { span, written: Vec::new(), values: Vec::new(), incomplete: false }
    }

    /// Notes that the key stands in the file, right or wrong.
    pub(crate) fn mark_written(&mut self, key: &'static str) {
        self.written.push(key);
    }

    /// Notes that the section is of a kind that this version does not have, so that nothing further is asked of it.
    pub(crate) fn mark_incomplete(&mut self) {
        self.incomplete = true;
    }

    pub(crate) fn insert(&mut self, key: &'static str, located: Located) {
        self.values.push((key, located));
    }

    pub(crate) fn is_written(&self, key: &str) -> bool {
        self.written.contains(&key)
    }

    pub(crate) fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// The header.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// Where the value of `key` stands, or the header.
    pub(crate) fn span_of(&self, key: &str) -> &Span {
        self.find(key).map_or(&self.span, |located| &located.span)
    }

    pub(crate) fn find(&self, key: &str) -> Option<&Located> {
        self.values.iter().find(|(name, _)| *name == key).map(|(_, located)| located)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.find(key).map(|located| &located.value)
    }

    /// A text without a default; `None` also when it was wrong, which is reported already.
    pub(crate) fn optional_text(&self, key: &str) -> Option<&str> {
        match self.value(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn text(&self, key: &str) -> &str {
        self.optional_text(key).unwrap_or_else(|| mistyped(key))
    }

    pub(crate) fn optional_integer(&self, key: &str) -> Option<u64> {
        match self.value(key) {
            Some(Value::Integer(number)) => Some(*number),
            _ => None,
        }
    }

    /// A port without a default.
    pub(crate) fn optional_port(&self, key: &str) -> Option<u16> {
        self.optional_integer(key).and_then(|number| u16::try_from(number).ok())
    }

    pub(crate) fn integer(&self, key: &str) -> u64 {
        self.optional_integer(key).unwrap_or_else(|| mistyped(key))
    }

    pub(crate) fn integer_u32(&self, key: &str) -> u32 {
        u32::try_from(self.integer(key)).unwrap_or(u32::MAX)
    }

    pub(crate) fn integer_usize(&self, key: &str) -> usize {
        usize::try_from(self.integer(key)).unwrap_or(usize::MAX)
    }

    pub(crate) fn number(&self, key: &str) -> f64 {
        match self.value(key) {
            Some(Value::Number(number)) => *number,
            _ => mistyped(key),
        }
    }

    /// A yes or no without a default.
    pub(crate) fn optional_boolean(&self, key: &str) -> Option<bool> {
        match self.value(key) {
            Some(Value::Boolean(value)) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn boolean(&self, key: &str) -> bool {
        self.optional_boolean(key).unwrap_or_else(|| mistyped(key))
    }

    /// `None`: "off", which only some settings allow.
    pub(crate) fn optional_duration(&self, key: &str) -> Option<Duration> {
        match self.value(key) {
            Some(Value::Duration(duration)) => *duration,
            _ => mistyped(key),
        }
    }

    pub(crate) fn duration(&self, key: &str) -> Duration {
        self.optional_duration(key).unwrap_or_else(|| mistyped(key))
    }

    pub(crate) fn algorithm(&self, key: &str) -> &'static dyn Policy {
        match self.value(key) {
            Some(Value::Algorithm(policy)) => *policy,
            _ => mistyped(key),
        }
    }

    pub(crate) fn persistence(&self, key: &str) -> &Persistence {
        match self.value(key) {
            Some(Value::Persistence(persistence)) => persistence,
            _ => mistyped(key),
        }
    }

    pub(crate) fn fallback(&self, key: &str) -> &FallbackTo {
        match self.value(key) {
            Some(Value::Fallback(fallback)) => fallback,
            _ => mistyped(key),
        }
    }

    pub(crate) fn pattern(&self, key: &str) -> Option<&Regex> {
        match self.value(key) {
            Some(Value::Pattern(pattern)) => Some(pattern),
            _ => None,
        }
    }

    pub(crate) fn verify(&self, key: &str) -> &Verify {
        match self.value(key) {
            Some(Value::Verify(verify)) => verify,
            _ => mistyped(key),
        }
    }

    pub(crate) fn peer(&self, key: &str) -> Option<&PeerAt> {
        match self.value(key) {
            Some(Value::Peer(peer)) => Some(peer),
            _ => None,
        }
    }

    pub(crate) fn ways(&self, key: &str) -> impl Iterator<Item = (&WayTo, &Span)> {
        self.list(key).iter().filter_map(|item| match &item.value {
            Value::Way(way) => Some((way, &item.span)),
            _ => None,
        })
    }

    pub(crate) fn bind(&self, key: &str) -> Option<(Transport, SocketAddr)> {
        match self.value(key) {
            Some(Value::Bind(transport, address)) => Some((*transport, *address)),
            _ => None,
        }
    }

    pub(crate) fn advertise(&self, key: &str) -> Option<&AdvertiseAs> {
        match self.value(key) {
            Some(Value::Advertise(advertise)) => Some(advertise),
            _ => None,
        }
    }

    pub(crate) fn patterns(&self, key: &str) -> &[(String, Regex)] {
        match self.value(key) {
            Some(Value::Patterns(patterns)) => patterns,
            _ => &[],
        }
    }

    /// The entries of a list that are right; none when there is no list.
    pub(crate) fn list(&self, key: &str) -> &[Located] {
        match self.value(key) {
            Some(Value::List(items)) => items,
            _ => &[],
        }
    }

    pub(crate) fn texts(&self, key: &str) -> impl Iterator<Item = (&str, &Span)> {
        self.list(key).iter().filter_map(|item| match &item.value {
            Value::Text(text) => Some((text.as_str(), &item.span)),
            _ => None,
        })
    }

    pub(crate) fn answers(&self, key: &str) -> Vec<AnswerClass> {
        let answers = self.list(key).iter().filter_map(|item| match item.value {
            Value::Answer(answer) => Some(answer),
            _ => None,
        });
        answers.collect()
    }

    pub(crate) fn addresses(&self, key: &str) -> Vec<SocketAddr> {
        let addresses = self.list(key).iter().filter_map(|item| match item.value {
            Value::Address(address) => Some(address),
            _ => None,
        });
        addresses.collect()
    }

    pub(crate) fn networks(&self, key: &str) -> Vec<IpNet> {
        let networks = self.list(key).iter().filter_map(|item| match &item.value {
            Value::Network(network) => Some(*network),
            _ => None,
        });
        networks.collect()
    }

    pub(crate) fn section(&self, key: &str) -> &Self {
        match self.value(key) {
            Some(Value::Section(section)) => section,
            _ => mistyped(key),
        }
    }

    pub(crate) fn sections(&self, key: &str) -> &[Self] {
        match self.value(key) {
            Some(Value::Sections(sections)) => sections,
            _ => &[],
        }
    }
}

/// A setting with a default always has a value of its type: the reader puts the default in place of what is wrong.
fn mistyped(key: &str) -> ! {
    unreachable!("the registry gives `{key}` no default of the type that is asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_stands_at_the_header() {
        let mut section = Section::new(3..9);
        section.mark_written("weight");
        section.insert("weight", Located { span: 20..21, value: Value::Integer(7) });
        assert_eq!(section.span_of("weight"), &(20..21));
        assert_eq!(section.span_of("priority"), &(3..9));
        assert_eq!(section.integer_u32("weight"), 7);
        assert!(section.is_written("weight") && !section.is_written("priority"));
        assert!(section.list("sources").is_empty());
    }

    fn peer(host: HostAt, port: Option<u16>) -> PeerAt {
        PeerAt { host, port }
    }

    #[test]
    fn a_peer_is_an_address_or_something_to_ask_for() {
        let (address, name) =
            (HostAt::Address(IpAddr::from([10, 0, 0, 11])), HostAt::Name("PBX.example.com".to_owned()));
        let at = peer(address.clone(), None);
        assert_eq!(at.address_or_port(5061), Some(SocketAddr::from(([10, 0, 0, 11], 5061))));
        assert_eq!(at.target(None, None), None);
        assert_eq!(at.to_string(), "10.0.0.11");
        assert_eq!(peer(address, Some(5070)).to_string(), "10.0.0.11:5070");
        let by_name = peer(name, Some(5070));
        assert_eq!((by_name.address_or_port(5060), by_name.to_string()), (None, "PBX.example.com:5070".to_owned()));
        let asked = by_name.target(Some(5070), Some(Transport::Tcp)).expect("a name is asked for");
        assert_eq!(asked.to_string(), "tcp:pbx.example.com:5070");
    }

    #[test]
    fn a_way_is_udp_unless_something_else_is_written_or_asked() {
        let name = || HostAt::Name("a.org".to_owned());
        let way = |transport, host, port| WayTo { transport, peer: peer(host, port) };
        let address = || HostAt::Address(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(way(None, address(), None).known_transport(), Some(Transport::Udp));
        assert_eq!(way(Some(Transport::Tls), address(), None).known_transport(), Some(Transport::Tls));
        let place = way(Some(Transport::Tls), address(), None).place();
        assert_eq!(place, Some((Transport::Tls, SocketAddr::from(([192, 0, 2, 1], 5061)))));
        assert_eq!(way(None, name(), Some(5060)).known_transport(), Some(Transport::Udp));
        assert_eq!(way(None, name(), None).known_transport(), None);
        assert_eq!(way(None, name(), None).place(), None);
        assert_eq!(
            way(Some(Transport::Tcp), name(), None).target().map(|asked| asked.to_string()).as_deref(),
            Some("tcp:a.org")
        );
    }
}
