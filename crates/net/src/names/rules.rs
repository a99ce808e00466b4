//! The steps of RFC 3263 §4 as a function of what was answered so far: what to ask next, or the places.
//!
//! All transports that the name offers are in the result, the preferred one first: which of them the farm speaks is not known
//! here. The order of the same records is always the same. Weights are handed on; whoever chooses among places draws by them.

use engine::{Found, Place, Target, Transport};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// What is asked of the DNS.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Question {
    /// Without a dot at its end.
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// Of which records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Naptr,
    Srv,
    A,
    Aaaa,
}

/// What came of a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// At least one record of the kind that was asked for, and for how long all of them hold.
    Records { records: Vec<Data>, ttl: Duration },
    /// There is no such name, or it has no such records.
    Nothing,
    /// Nobody could say, and why.
    Failed(String),
}

/// What a record says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Data {
    /// RFC 3403 §4.1. `replacement`: as [`Question::name`]; empty where it is the root.
    Naptr {
        order: u16,
        preference: u16,
        flags: Vec<u8>,
        services: Vec<u8>,
        replacement: String,
    },
    /// RFC 2782. `target`: as [`Question::name`]; empty where the service is decidedly not offered.
    Srv {
        priority: u16,
        weight: u16,
        port: u16,
        target: String,
    },
    Address(IpAddr),
}

/// What follows from the answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// These must be answered first. Never empty, never one that was answered.
    Ask(Vec<Question>),
    Known(Meaning),
}

/// Where a name leads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Meaning {
    /// Best first.
    pub(crate) places: Vec<Found>,
    /// The smallest of the records that led here; none if no record did.
    pub(crate) ttl: Option<Duration>,
    /// Why something could not be asked, the first time that was so. There may be places all the same.
    pub(crate) failure: Option<String>,
}

/// The next step for `target`. `host`: the name to ask for, which is the target's own or that within a domain that is searched.
pub(crate) fn next(target: &Target, host: &str, answers: &BTreeMap<Question, Answer>) -> Step {
    let mut walk = Walk { target, host, answers, missing: BTreeSet::new(), meaning: Meaning::default() };
    let places = walk.places();
    if !walk.missing.is_empty() {
        return Step::Ask(walk.missing.into_iter().collect());
    }
    Step::Known(Meaning { places, ..walk.meaning })
}

/// At most so many places does one name have.
pub(crate) const PLACES: usize = 64;

/// At most so many hosts are looked up for one name: the best ones of its services.
pub(crate) const SERVICE_TARGETS: usize = 16;

/// At most so many of a name's NAPTR records are followed.
pub(crate) const SERVICES: usize = 8;

impl Question {
    fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.to_owned(), kind }
    }
}

impl Kind {
    /// Says where a service is, not at which address a host is.
    pub(crate) fn is_service(self) -> bool {
        matches!(self, Self::Naptr | Self::Srv)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Naptr => "NAPTR",
            Self::Srv => "SRV",
            Self::A => "A",
            Self::Aaaa => "AAAA",
        }
    }
}

impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind.name(), self.name)
    }
}

/// One pass over the answers. As soon as one is missing, the rest of the way is not known.
struct Walk<'a> {
    target: &'a Target,
    host: &'a str,
    answers: &'a BTreeMap<Question, Answer>,
    missing: BTreeSet<Question>,
    /// Without places as yet.
    meaning: Meaning,
}

/// A name with SRV records, and what is spoken there.
#[derive(PartialEq, Eq)]
struct Service {
    name: String,
    transport: Transport,
}

/// A host that offers a service.
struct Offer<'a> {
    transport: Transport,
    priority: u16,
    weight: u16,
    port: u16,
    host: &'a str,
}

impl<'a> Walk<'a> {
    fn places(&mut self) -> Vec<Found> {
        let spoken = self.target.transport;
        if let Some(port) = self.target.port {
            return self.of_host(spoken.unwrap_or(Transport::Udp), port);
        }
        if self.host.parse::<IpAddr>().is_ok() {
            let transport = spoken.unwrap_or(Transport::Udp);
            return self.of_host(transport, transport.default_port());
        }
        // §4.1: selecting a transport.
        let services: Vec<Service> = match spoken {
            Some(transport) => self.service(transport).into_iter().collect(),
            None => self.services(),
        };
        // §4.2: determining port and address.
        let offers = self.offers(&services);
        if !self.missing.is_empty() {
            return Vec::new();
        }
        match offers {
            Some(offers) => self.of_offers(&offers),
            None => {
                let first = services.first().map(|service| service.transport);
                let transport = spoken.or(first).unwrap_or(Transport::Udp);
                self.of_host(transport, transport.default_port())
            }
        }
    }

    /// The name under which the host would offer SIP over `transport`. None is defined for WebSocket.
    fn service(&self, transport: Transport) -> Option<Service> {
        let prefix = match transport {
            Transport::Udp => "_sip._udp",
            Transport::Tcp => "_sip._tcp",
            Transport::Tls => "_sips._tcp",
            Transport::Ws | Transport::Wss => return None,
        };
        Some(Service { name: format!("{prefix}.{}", self.host), transport })
    }

    /// The services that the host's NAPTR records name, in their order, or all that it might have, in ours.
    fn services(&mut self) -> Vec<Service> {
        let mut records: Vec<&Data> = self.records(self.host, Kind::Naptr).iter().collect();
        // By order, then by preference.
        records.sort_unstable();
        let mut services: Vec<Service> = Vec::new();
        for record in records {
            if services.len() == SERVICES {
                break;
            }
            if let Some(service) = usable(record)
                && !services.contains(&service)
            {
                services.push(service);
            }
        }
        if services.is_empty() && self.missing.is_empty() {
            return OURS.iter().filter_map(|transport| self.service(*transport)).collect();
        }
        services
    }

    /// The hosts that offer the services, best first. None if there is no SRV record at all, not even one that says "not here".
    fn offers(&mut self, services: &[Service]) -> Option<Vec<Offer<'a>>> {
        let mut found = false;
        let mut all = Vec::new();
        for service in services {
            let mut offers = Vec::new();
            for record in self.records(&service.name, Kind::Srv) {
                let Data::Srv { priority, weight, port, target } = record else { continue };
                found = true;
                if !target.is_empty() && *port != 0 {
                    let (priority, weight, port) = (*priority, *weight, *port);
                    offers.push(Offer { transport: service.transport, priority, weight, port, host: target });
                }
            }
            offers.sort_unstable_by_key(|offer| (offer.priority, Reverse(offer.weight), offer.host, offer.port));
            all.append(&mut offers);
        }
        all.truncate(SERVICE_TARGETS);
        found.then_some(all)
    }

    fn of_offers(&mut self, offers: &[Offer<'_>]) -> Vec<Found> {
        let mut places = Vec::new();
        for offer in offers {
            for address in self.addresses(offer.host) {
                let place = self.place(offer.transport, SocketAddr::new(address, offer.port));
                places.push(Found { place, priority: offer.priority, weight: offer.weight });
            }
        }
        distinct(places)
    }

    fn of_host(&mut self, transport: Transport, port: u16) -> Vec<Found> {
        let addresses = match self.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.addresses(self.host),
        };
        let places = addresses.into_iter().map(|address| self.place(transport, SocketAddr::new(address, port)));
        distinct(places.map(|place| Found { place, priority: 0, weight: 0 }).collect())
    }

    /// RFC 5922 §7.1: the certificate is for the name that was asked for, wherever its records lead.
    fn place(&self, transport: Transport, address: SocketAddr) -> Place {
        let name = &self.target.host;
        let host = name.parse::<IpAddr>().is_err().then(|| name.clone());
        Place { transport, address, host }
    }

    /// IPv4 first, each family in its order.
    fn addresses(&mut self, host: &str) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for kind in [Kind::A, Kind::Aaaa] {
            for record in self.records(host, kind) {
                if let Data::Address(address) = record
                    && is_of_somebody(address.to_canonical())
                {
                    addresses.push(address.to_canonical());
                }
            }
        }
        addresses.sort_unstable();
        addresses
    }

    /// What was answered. No records if it was not, which is noted.
    fn records(&mut self, name: &str, kind: Kind) -> &'a [Data] {
        let question = Question::new(name, kind);
        match self.answers.get(&question) {
            Some(Answer::Records { records, ttl }) => {
                self.meaning.ttl = Some(self.meaning.ttl.map_or(*ttl, |smallest| smallest.min(*ttl)));
                return records;
            }
            Some(Answer::Nothing) => {}
            Some(Answer::Failed(text)) => {
                self.meaning.failure.get_or_insert_with(|| text.clone());
            }
            None => {
                self.missing.insert(question);
            }
        }
        &[]
    }
}

/// What we speak, in the order in which it is preferred where the name does not say: RFC 3263 §4.1 leaves it to us.
const OURS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

/// RFC 3263 §4.1: a NAPTR record that names SRV records of a transport that we speak.
fn usable(record: &Data) -> Option<Service> {
    let Data::Naptr { flags, services, replacement, .. } = record else {
        return None;
    };
    let is = |known: &str| services.eq_ignore_ascii_case(known.as_bytes());
    let transport = if is("SIP+D2U") {
        Transport::Udp
    } else if is("SIP+D2T") {
        Transport::Tcp
    } else if is("SIPS+D2T") {
        Transport::Tls
    } else {
        return None;
    };
    let names_services = flags.eq_ignore_ascii_case(b"s") && !replacement.is_empty();
    names_services.then(|| Service { name: replacement.clone(), transport })
}

/// A filtering name server says 0.0.0.0 for what it blocks, which would be this machine; nobody has a group's address either.
fn is_of_somebody(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Each place once, where it is best, and not too many.
fn distinct(mut places: Vec<Found>) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    places.retain(|found| seen.insert((found.place.transport, found.place.address)));
    places.truncate(PLACES);
    places
}

#[cfg(test)]
mod tests;
