//! Asking name servers: in their order, each for some seconds, over TCP where an answer does not fit into a datagram.
//!
//! The library carries single questions and reads the answers. Its own resolver is not used: it keeps answers of its own, gives a
//! second server only the time that the first left, and does not find services behind an alias.

use super::rules::{Answer, Data, Kind, Question};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle, FirstAnswer};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{Hosts, NameServerPool, PoolContext, TlsConfig, system_conf};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::time;

/// The name servers, and what the machine knows without them.
pub(crate) struct Servers {
    each: Vec<Server>,
    source: Source,
    /// [`HOSTS`]
    hosts: Hosts,
    timeout: Duration,
}

/// Whom to ask, and within which domains a name without a dot is looked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Source {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    /// When [`HOSTS`] was last written.
    hosts: Option<SystemTime>,
}

struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
    /// Until then it is asked after the others, since it did not answer.
    silent_until: Mutex<Option<Instant>>,
}

impl Source {
    /// `servers`; if there are none, what `/etc/resolv.conf` says, and without that file this machine, as resolv.conf(5) has it.
    pub(crate) fn new(servers: &[SocketAddr]) -> Self {
        let hosts = fs::metadata(HOSTS).and_then(|file| file.modified()).ok();
        if !servers.is_empty() {
            return Self { servers: servers.iter().copied().take(SERVERS).collect(), search: Vec::new(), hosts };
        }
        let Ok((config, _options)) = system_conf::read_system_conf() else {
            return Self { servers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))], search: Vec::new(), hosts };
        };
        let servers = config.name_servers().iter().map(|server| SocketAddr::new(server.ip, PORT));
        let search = config.search().iter().map(spelled).filter(|domain| !domain.is_empty());
        Self { servers: servers.take(SERVERS).collect(), search: search.take(SEARCHED).collect(), hosts }
    }
}

impl Servers {
    /// `timeout`: how long each may take.
    pub(crate) fn new(source: Source, timeout: Duration) -> Self {
        let each = source.servers.iter().filter_map(|address| Server::new(*address, timeout).ok()).collect();
        let hosts = Hosts::from_system().unwrap_or_default();
        Self { each, source, hosts, timeout }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The names that `host` may stand for, in the order in which they are tried.
    pub(crate) fn candidates(&self, host: &str) -> Vec<String> {
        let own = host.to_owned();
        if host.contains([':', '.']) || self.hosts_know(host) {
            return vec![own];
        }
        let within = self.source.search.iter().map(|domain| format!("{host}.{domain}"));
        within.chain([own]).collect()
    }

    /// Asks one question, through aliases to the end.
    pub(crate) async fn ask(&self, question: &Question) -> Answer {
        let Some(mut name) = parsed(&question.name) else {
            return Answer::Failed(shown(&format!("{question}: not a name")));
        };
        if let Some(answer) = self.in_hosts(&name, question.kind) {
            return answer;
        }
        let mut ttl = u32::MAX;
        for _ in 0..ALIASES {
            let query = Query::query(name.clone(), record_type(question.kind));
            let message = match self.exchange(&query).await {
                Ok(Some(message)) => message,
                Ok(None) => return Answer::Nothing,
                Err(text) => return Answer::Failed(shown(&format!("{question}: {text}"))),
            };
            match read(question.kind, &name, &message, ttl) {
                Reading::Answer(answer) => return answer,
                Reading::Alias(other, least) => (name, ttl) = (other, least),
            }
        }
        Answer::Failed(shown(&format!("{question}: more than {ALIASES} aliases in a row")))
    }

    fn hosts_know(&self, host: &str) -> bool {
        parsed(host).is_some_and(|name| self.in_hosts(&name, Kind::A).is_some())
    }

    /// The machine's own file, which is asked before any server. A name that stands there has no other addresses.
    fn in_hosts(&self, name: &Name, kind: Kind) -> Option<Answer> {
        let other = match kind {
            Kind::A => Kind::Aaaa,
            Kind::Aaaa => Kind::A,
            Kind::Naptr | Kind::Srv => return None,
        };
        let look = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), record_type(kind)));
        match look(kind) {
            Some(lookup) => {
                let records: Vec<Data> =
                    lookup.answers().iter().filter_map(|record| data_of(kind, &record.data)).collect();
                let answer =
                    if records.is_empty() { Answer::Nothing } else { Answer::Records { records, ttl: Duration::MAX } };
                Some(answer)
            }
            None => look(other).map(|_known| Answer::Nothing),
        }
    }

    /// The first answer of a server: none if it says that there are no such records. Or why there is no answer.
    async fn exchange(&self, query: &Query) -> Result<Option<Message>, String> {
        let mut failure = "no name server is known".to_owned();
        for _ in 0..ROUNDS {
            for server in self.in_order() {
                // Long enough for a truncated answer and then the whole one over TCP.
                let asked = server.pool.lookup(query.clone(), DnsRequestOptions::default()).first_answer();
                let answer = time::timeout(self.timeout * 2, asked).await.unwrap_or(Err(NetError::Timeout));
                server.note(&answer);
                match judge(answer) {
                    Ok(message) => return Ok(message),
                    Err(text) => failure = format!("{text} ({})", server.address),
                }
            }
        }
        Err(failure)
    }

    /// As written, but those that did not answer lately last.
    fn in_order(&self) -> impl Iterator<Item = &Server> {
        let now = Instant::now();
        let (silent, speaking): (Vec<&Server>, Vec<&Server>) =
            self.each.iter().partition(|server| server.is_silent(now));
        speaking.into_iter().chain(silent)
    }
}

impl Server {
    fn new(address: SocketAddr, timeout: Duration) -> Result<Self, NetError> {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|connection| at(address.port(), connection));
        let config = NameServerConfig::new(address.ip(), true, connections.into());
        let context = PoolContext::new(within(timeout, ResolverOpts::default()), TlsConfig::new()?);
        let pool = NameServerPool::from_config([config], Arc::new(context), TokioRuntimeProvider::default());
        Ok(Self { address, pool, silent_until: Mutex::new(None) })
    }

    fn is_silent(&self, now: Instant) -> bool {
        let until = *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }

    fn note<T>(&self, answer: &Result<T, NetError>) {
        let silent = matches!(answer, Err(NetError::Timeout | NetError::Io(_) | NetError::NoConnections));
        let until = silent.then(|| Instant::now() + SILENT);
        *self.silent_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// What a message says on a question.
enum Reading {
    Answer(Answer),
    /// Another name is to be asked for, and the smallest time to live so far, in seconds.
    Alias(Name, u32),
}

const PORT: u16 = 53;

/// The machine's own names, as the library knows its path too.
const HOSTS: &str = "/etc/hosts";

/// As many servers and domains as the system's own resolver takes, or somewhat more.
const SERVERS: usize = 8;
const SEARCHED: usize = 6;

/// How often all servers are asked before a question has failed.
const ROUNDS: usize = 2;

/// How many aliases in a row are followed, within a message and from one to the next.
const ALIASES: usize = 8;

/// For how long a server that did not answer is asked after the others.
const SILENT: Duration = Duration::from_secs(30);

/// Characters of a failure's text, which may quote what a server sent.
const SHOWN: usize = 200;

fn at(port: u16, mut connection: ConnectionConfig) -> ConnectionConfig {
    connection.port = port;
    connection
}

fn within(timeout: Duration, mut options: ResolverOpts) -> ResolverOpts {
    options.timeout = timeout;
    options
}

/// The name as the library has it, from the root.
fn parsed(text: &str) -> Option<Name> {
    Name::from_ascii(format!("{text}.")).ok()
}

/// The name as [`Question::name`].
fn spelled(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn record_type(kind: Kind) -> RecordType {
    match kind {
        Kind::Naptr => RecordType::NAPTR,
        Kind::Srv => RecordType::SRV,
        Kind::A => RecordType::A,
        Kind::Aaaa => RecordType::AAAA,
    }
}

/// What a record of the kind says; none for another kind's.
fn data_of(kind: Kind, record: &RData) -> Option<Data> {
    match (kind, record) {
        (Kind::A, RData::A(address)) => Some(Data::Address(IpAddr::V4(address.0))),
        (Kind::Aaaa, RData::AAAA(address)) => Some(Data::Address(IpAddr::V6(address.0))),
        (Kind::Srv, RData::SRV(service)) => Some(Data::Srv {
            priority: service.priority,
            weight: service.weight,
            port: service.port,
            target: spelled(&service.target),
        }),
        (Kind::Naptr, RData::NAPTR(rule)) => Some(Data::Naptr {
            order: rule.order,
            preference: rule.preference,
            flags: rule.flags.to_vec(),
            services: rule.services.to_vec(),
            replacement: spelled(&rule.replacement),
        }),
        _ => None,
    }
}

/// The message of an answer, none if there are no such records, or why it is none.
fn judge<M: Into<Message>>(answer: Result<M, NetError>) -> Result<Option<Message>, String> {
    match answer {
        Ok(response) => {
            let message: Message = response.into();
            match message.metadata.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => Ok(Some(message)),
                code => Err(code.to_string().to_lowercase()),
            }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(found))) => match found.response_code {
            // It names other servers instead of asking them.
            ResponseCode::NoError if found.ns.is_some() && found.soa.is_none() => {
                Err("it does not ask others".to_owned())
            }
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(None),
            code => Err(code.to_string().to_lowercase()),
        },
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(code.to_string().to_lowercase()),
        Err(NetError::Timeout) => Err("no answer in time".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads the answers of `message` to a question for `asked`. `ttl`: the smallest of the aliases that led there, in seconds.
fn read(kind: Kind, asked: &Name, message: &Message, mut ttl: u32) -> Reading {
    let mut owner = asked;
    for _ in 0..=ALIASES {
        let mut records = Vec::new();
        for record in message.answers.iter().filter(|record| record.name == *owner) {
            if let Some(data) = data_of(kind, &record.data) {
                records.push(data);
                ttl = ttl.min(record.ttl);
            }
        }
        if !records.is_empty() {
            return Reading::Answer(Answer::Records { records, ttl: Duration::from_secs(ttl.into()) });
        }
        let Some(alias) = message.answers.iter().find_map(|record| alias_of(record, owner)) else {
            break;
        };
        (owner, ttl) = (alias.0, ttl.min(alias.1));
    }
    let ends_here = message.metadata.response_code == ResponseCode::NXDomain;
    if owner == asked || ends_here { Reading::Answer(Answer::Nothing) } else { Reading::Alias(owner.clone(), ttl) }
}

/// The name that `owner` is another name of, and for how many seconds.
fn alias_of<'a>(record: &'a Record, owner: &Name) -> Option<(&'a Name, u32)> {
    match &record.data {
        RData::CNAME(CNAME(canonical)) if record.name == *owner => Some((canonical, record.ttl)),
        _ => None,
    }
}

fn shown(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests;
