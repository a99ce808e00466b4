//! What the engine runs on: the checked configuration. `config` builds it from the file; the engine knows no file format.
//!
//! Indices (`usize`) point into the vectors of the same [`Farm`]; they are valid by construction and never outlive the
//! [`Settings`] they belong to. What must survive a reload is named by an id ([`FarmId`], [`BackendId`], [`ListenerId`]).

use crate::id::{BackendId, FarmId, ListenerId};
use crate::policy::Policy;
use ipnet::IpNet;
use regex::bytes::Regex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Everything the data plane of one unit needs to know. Swapped in whole.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub farms: Vec<Farm>,
    pub limits: Limits,
}

/// Every bound of the unit.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Octets of one message; larger ones are refused with 413.
    pub message_bytes: usize,
    /// Header lines of one message.
    pub headers: usize,
    /// Transactions of the unit, those that ended in the last 32 s among them; beyond it a 503 that keeps no state.
    pub transactions: usize,
    /// Bindings in the directory of the unit; beyond it REGISTER gets 503.
    pub bindings: usize,
    /// Dialogs remembered by the unit; beyond it calls still pass but are not counted or found by `Replaces`.
    pub dialogs: usize,
    /// Sticky choices of the unit; beyond it the oldest are forgotten.
    pub sticky: usize,
    /// Datagrams that wait for a busy shard.
    pub shard_inbox: usize,
    /// Error answers per source address and second to senders that are neither backend nor trunk.
    pub errors_per_source: u32,
    /// Source addresses whose error answers are counted at a time.
    pub error_sources: usize,
    /// Stream connections of the unit, accepted and opened ones; beyond it a new one is closed again.
    pub connections: usize,
    /// Accepted connections of one source address.
    pub connections_per_source: usize,
    /// A connection over which nothing came for so long is closed; any octets count, keep-alives too.
    pub connection_idle: Duration,
    /// From the first octet of a message to its last.
    pub partial_message: Duration,
    /// For TLS and the WebSocket upgrade together, and for a connection that we open until it is up.
    pub handshake: Duration,
    /// Octets that wait on one connection for a peer that does not read; a message beyond is not sent.
    pub connection_queue: usize,
    /// A request of more octets goes over a stream where the backend has one (RFC 3261 §18.1.1).
    pub large_request: usize,
}

/// A virtual service with profile `sip`.
#[derive(Clone, Debug)]
pub struct Farm {
    pub id: FarmId,
    pub name: String,
    /// Outside listeners first, then inside ones; when no `inside` is configured the outside ones serve both sides.
    pub listeners: Vec<Listener>,
    /// Lower case; what counts as us in a Request-URI or Route besides the listeners' addresses and advertised names.
    pub domains: Vec<String>,
    pub registrations: Registrations,
    /// What phones are told at most when they register; the backend is told the phone's own time. `None`: what the backend
    /// granted.
    pub max_expires: Option<Duration>,
    pub stateless: bool,
    pub symmetric: Symmetric,
    /// Interval of the CRLF sent to registered UDP clients behind NAT.
    pub keepalive: Option<Duration>,
    /// Name of the header that tells a backend who sent a request; stripped on arrival. `None`: neither.
    pub origin_header: Option<String>,
    /// Name of the header that tells a backend the client's address; stripped on arrival.
    pub source_header: Option<String>,
    /// Files for the tls and wss listeners, chosen by the name that the client asks for (RFC 6066 §3); paths as written. Not empty
    /// where there is such a listener.
    pub certificates: Vec<String>,
    /// File of the authorities whose certificates clients must show, as written. `None`: they are not asked for any.
    pub client_ca: Option<String>,
    pub client_certificates: ClientCertificates,
    /// Web pages that may open ws and wss, as browsers write them (RFC 6454 §6.1), lower case. Empty: all.
    pub origins: Vec<String>,
    pub max_call_time: Duration,
    pub trunks: Vec<Trunk>,
    /// In file order; the first whose rule matches serves.
    pub services: Vec<Service>,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Registrations {
    /// The Contact towards the backends is rewritten to lead through the farm.
    Contact,
    /// RFC 3327: a Path header leads through the farm.
    Path,
    /// REGISTER passes as it is.
    Off,
}

/// What is asked of clients where there is a `client_ca`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientCertificates {
    /// Whoever shows a certificate must show a right one; who shows none is let in.
    Verify,
    /// Whoever shows none is refused.
    Require,
}

/// Where UDP clients are answered (RFC 3581).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Symmetric {
    Auto,
    Always,
    Never,
}

/// How SIP is carried to a peer (RFC 3261 §18, RFC 7118).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    Udp,
    Tcp,
    Tls,
    /// WebSocket over TCP.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// Over connections, which keep order and are closed; otherwise in datagrams.
    pub fn is_stream(self) -> bool {
        self != Self::Udp
    }

    /// Over TLS.
    pub fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// In WebSocket messages, which have bounds of their own (RFC 7118 §5).
    pub fn is_web_socket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// As written in a Via (RFC 3261 §20.42, RFC 7118 §5.2).
    pub fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// As written in the configuration. A `transport` parameter says the same, but for wss, which is `ws` there.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    /// Where a peer listens that names no port (RFC 3261 §19.1.2, RFC 6455 §3).
    pub fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    /// What a client's message is carried on over where the backend takes "same as the client's": a backend is never reached over
    /// WebSocket.
    pub fn towards_backends(self) -> Self {
        match self {
            Self::Ws => Self::Tcp,
            Self::Wss => Self::Tls,
            other => other,
        }
    }
}

/// An address the farm is reached at.
#[derive(Clone, Debug)]
pub struct Listener {
    pub id: ListenerId,
    pub transport: Transport,
    /// Unspecified address: wildcard, the arrival address is written instead.
    pub bind: SocketAddr,
    /// What is written in Via, Record-Route, Path and Contact instead of `bind`.
    pub advertise: Option<Advertise>,
    /// Towards clients and trunks.
    pub outside: bool,
    /// Towards backends. Both are true when no `inside` is configured.
    pub inside: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertise {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    pub host: String,
    pub port: u16,
}

/// A peer that is neither phone nor backend, known by address.
#[derive(Clone, Debug)]
pub struct Trunk {
    pub name: String,
    pub addresses: Vec<IpNet>,
    /// Index into [`Farm::services`]; `None`: by match.
    pub service: Option<usize>,
    /// P-Asserted-Identity and the like pass only if true.
    pub trusted: bool,
    /// Where egress to this trunk goes, in order.
    pub out: Vec<Place>,
    /// How its certificate is checked where it is reached over TLS.
    pub verify: Verify,
}

/// Where a peer listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    pub transport: Transport,
    pub address: SocketAddr,
    /// The name that the address was found by: over TLS the certificate must be for it, else for the address.
    pub host: Option<String>,
}

/// A pool of backends with a match rule.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: String,
    pub rule: Rule,
    pub algorithm: &'static dyn Policy,
    pub persistence: Persistence,
    pub persistence_ttl: Duration,
    pub callee_affinity: bool,
    /// Request-URI's host and port replaced by the backend's.
    pub request_uri_backend: bool,
    pub failover: Failover,
    /// Its backends are checked by these; none: never checked, up unless passive detection says otherwise.
    pub guardians: Vec<Arc<Guardian>>,
    /// Backends whose answers are mostly failures, or far slower than the others', are set aside. That time-outs in a row and reports
    /// of the network do so is no matter of this.
    pub passive: bool,
    pub fallback: Fallback,
    pub egress: Vec<Egress>,
    /// Indices into [`Farm::backends`], in file order.
    pub backends: Vec<usize>,
}

/// All given conditions must hold; within one condition any entry may. No condition: matches everything.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// Host of the Request-URI (REGISTER: of To), lower case.
    pub domain: Vec<String>,
    /// Names of trunks.
    pub trunk: Vec<String>,
    /// User of From.
    pub from_user: Option<Regex>,
    /// Methods, as written.
    pub method: Vec<String>,
    /// User of the Request-URI (REGISTER: of To).
    pub user: Option<Regex>,
    pub source: Vec<IpNet>,
    /// Header name and a pattern that its value must contain.
    pub header: Vec<(String, Regex)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Persistence {
    User,
    CallId,
    Source,
    Header(String),
    None,
}

/// Fail-over before an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failover {
    /// INVITE: the next backend when not even a 100 came (at least 2 × T1).
    pub answer_timeout: Duration,
    /// REGISTER, OPTIONS, SUBSCRIBE, PUBLISH without To tag: the next backend when no final answer came.
    pub final_timeout: Duration,
    /// Final answers that count as a failure of the backend.
    pub codes: Vec<u16>,
    /// Backends tried at most.
    pub attempts: u32,
}

/// An active check as far as it decides about backends. What is done is the shell's business, but for OPTIONS, by which the engine
/// asks itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guardian {
    /// Unique in the unit.
    pub name: Arc<str>,
    /// `Some`: OPTIONS, asked by the engine. `None`: outcomes come from outside.
    pub options: Option<Accept>,
    pub interval: Duration,
    pub timeout: Duration,
    /// Good outcomes in a row after which a backend is up.
    pub rise: u32,
    /// Failures in a row after which it is down.
    pub fall: u32,
    pub effect: Effect,
    /// What goes on at a backend that goes down ends at once: nobody stays with it for having been there.
    pub cut: bool,
}

/// Final answers that count as alive; empty: any but 5xx and 408.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accept(pub Vec<AnswerClass>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerClass {
    /// Exactly this status.
    Status(u16),
    /// Its first digit: 2 for 2xx.
    Class(u16),
}

/// What it means that a check fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The backend is out of use.
    Down,
    /// The operator is told.
    Warn,
}

/// What is done when no backend of the service is available.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fallback {
    Status(u16),
    /// Index into [`Farm::services`]; chains are checked to end.
    Service(usize),
}

/// Where backends may send requests out through the farm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Egress {
    /// Index into [`Farm::trunks`].
    Trunk(usize),
    /// Host of the Request-URI, lower case: an address, or a name with the places that it leads to, best first.
    Domain {
        host: String,
        places: Vec<Place>,
    },
    Network(IpNet),
}

/// One SIP server.
#[derive(Clone, Debug)]
pub struct Backend {
    pub id: BackendId,
    pub name: String,
    /// With its port over `transport`; where that is `None`, over UDP.
    pub address: SocketAddr,
    /// The name that the address was found by: over TLS the certificate must be for it, else for the address.
    pub host: Option<String>,
    /// Udp, Tcp or Tls. `None`: the client's, as [`Transport::towards_backends`] has it.
    pub transport: Option<Transport>,
    /// Over streams where `transport` is `None`; otherwise they say nothing.
    pub ports: Ports,
    /// How its certificate is checked where it is reached over TLS.
    pub verify: Verify,
    /// Requests from here are this backend's; empty: exactly its address and port.
    pub sources: Vec<IpNet>,
    pub weight: u32,
    /// 1 is used first.
    pub priority: u32,
    /// 0: no limit.
    pub max_calls: u32,
    /// New calls and registrations a second; 0: no limit.
    pub max_rate: u32,
    pub slow_start: Duration,
    pub maintenance: Maintenance,
}

/// Where a backend that takes any transport listens for streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub tcp: u16,
    pub tls: u16,
}

/// How a backend's certificate is checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verify {
    /// By the authorities that the system trusts.
    System,
    /// By the authorities in this file; the path as written.
    File(String),
    /// The certificate has this SHA-256 fingerprint.
    Pinned([u8; 32]),
    /// Not at all.
    Off,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Maintenance {
    Off,
    /// No new users and no new calls; users move at their next REGISTER, calls stay until they end.
    Drain,
    /// Out at once.
    Cut,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 65_535,
            headers: 256,
            transactions: 1_000_000,
            bindings: 1_000_000,
            dialogs: 1_000_000,
            sticky: 1_000_000,
            shard_inbox: 1_024,
            errors_per_source: 20,
            error_sources: 65_536,
            connections: 100_000,
            connections_per_source: 2_000,
            connection_idle: Duration::from_secs(15 * 60),
            partial_message: Duration::from_secs(10),
            handshake: Duration::from_secs(10),
            connection_queue: 1_048_576,
            large_request: 1_300,
        }
    }
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            answer_timeout: Duration::from_secs(2),
            final_timeout: Duration::from_secs(4),
            codes: vec![503],
            attempts: 3,
        }
    }
}

impl Guardian {
    /// OPTIONS every 10 s, as backends are checked where nothing else is written.
    pub fn options() -> Self {
        Self {
            name: Arc::from("options"),
            options: Some(Accept::default()),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            rise: 2,
            fall: 3,
            effect: Effect::Down,
            cut: false,
        }
    }
}

impl Accept {
    /// Does a final answer of this status show that the backend is alive? 404 and 405 are usual, but a box that answers OPTIONS with
    /// 500, 501 or 503 says that it does not serve.
    pub fn takes(&self, code: u16) -> bool {
        if self.0.is_empty() {
            return code != 408 && !(500..600).contains(&code);
        }
        self.0.iter().any(|class| match *class {
            AnswerClass::Status(status) => code == status,
            AnswerClass::Class(class) => code / 100 == class,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

    #[test]
    fn a_transport_is_spelled_as_its_reader_expects() {
        assert_eq!(ALL.map(Transport::via), ["UDP", "TCP", "TLS", "WS", "WSS"]);
        assert_eq!(ALL.map(Transport::name), ["udp", "tcp", "tls", "ws", "wss"]);
        assert_eq!(ALL.map(Transport::default_port), [5060, 5060, 5061, 80, 443]);
    }

    #[test]
    fn any_final_answer_but_5xx_and_408_is_life() {
        for (code, is_alive) in [
            (200, true),
            (302, true),
            (401, true),
            (404, true),
            (405, true),
            (407, true),
            (408, false),
            (409, true),
            (486, true),
            (499, true),
            (500, false),
            (503, false),
            (599, false),
            (600, true),
            (603, true),
        ] {
            assert_eq!(Accept::default().takes(code), is_alive, "{code}");
        }
    }

    #[test]
    fn whoever_names_answers_takes_no_others() {
        let accept = Accept(vec![AnswerClass::Class(2), AnswerClass::Status(404), AnswerClass::Status(503)]);
        for (code, is_alive) in
            [(199, false), (200, true), (299, true), (300, false), (403, false), (404, true), (405, false), (503, true)]
        {
            assert_eq!(accept.takes(code), is_alive, "{code}");
        }
    }

    #[test]
    fn a_transport_knows_what_it_is_made_of() {
        assert_eq!(ALL.map(Transport::is_stream), [false, true, true, true, true]);
        assert_eq!(ALL.map(Transport::is_secure), [false, false, true, false, true]);
        assert_eq!(ALL.map(Transport::is_web_socket), [false, false, false, true, true]);
    }

    #[test]
    fn no_backend_is_reached_over_web_socket_and_none_loses_its_tls() {
        let towards = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Tcp, Transport::Tls];
        assert_eq!(ALL.map(Transport::towards_backends), towards);
        assert!(ALL.iter().all(|transport| transport.is_secure() == transport.towards_backends().is_secure()));
    }
}
