//! What is known of names while a file is checked. A file is right or wrong by itself: no answer makes a wrong one of it.

use engine::{Answers, Found, Target};
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The answers of the DNS, and the addresses that are down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'k> {
    answers: Option<&'k Answers>,
    down: Option<&'k BTreeSet<SocketAddr>>,
}

impl<'k> Known<'k> {
    pub(crate) fn new(answers: &'k Answers, down: &'k BTreeSet<SocketAddr>) -> Self {
        Self { answers: Some(answers), down: Some(down) }
    }

    pub(crate) fn nothing() -> Self {
        Self { answers: None, down: None }
    }

    /// The places of a name, best first, as many as are used; none while it is not known.
    pub(super) fn of(&self, target: &Target) -> &'k [Found] {
        let found = self.answers.map_or(&[][..], |answers| answers.of(target));
        found.get(..PLACES).unwrap_or(found)
    }

    pub(super) fn is_down(&self, address: SocketAddr) -> bool {
        self.down.is_some_and(|down| down.contains(&address))
    }
}

/// Of one name.
const PLACES: usize = 64;

/// Answers for tests.
#[cfg(test)]
pub(crate) mod world {
    use super::*;
    use engine::{Place, Transport};

    const TRANSPORTS: [Transport; 4] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws];

    /// Of each target its places as "udp:192.0.2.1:5060 PRIORITY WEIGHT".
    pub(crate) fn answers(written: &[(&str, &[&str])]) -> Answers {
        let known = written.iter().map(|(asked, places)| {
            let target = target(asked);
            let found = places.iter().map(|place| found(&target.host, place)).collect();
            (target, found)
        });
        Answers(known.collect())
    }

    /// As a target is shown.
    pub(crate) fn target(written: &str) -> Target {
        let (transport, rest) = split_transport(written);
        let (host, port) = match rest.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().expect("the test writes a port"))),
            None => (rest, None),
        };
        Target { host: host.to_owned(), port, transport }
    }

    fn found(host: &str, written: &str) -> Found {
        let mut words = written.split(' ');
        let (transport, address) = split_transport(words.next().expect("the test writes a place"));
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("the test writes a number");
        let (priority, weight) = (number(), number());
        let address = address.parse().expect("the test writes an address");
        let transport = transport.expect("the test writes a transport");
        Found { place: Place { transport, address, host: Some(host.to_owned()) }, priority, weight }
    }

    fn split_transport(written: &str) -> (Option<Transport>, &str) {
        let known = TRANSPORTS.into_iter().find_map(|transport| {
            let rest = written.strip_prefix(transport.name())?.strip_prefix(':')?;
            Some((transport, rest))
        });
        match known {
            Some((transport, rest)) => (Some(transport), rest),
            None => (None, written),
        }
    }

    #[test]
    fn no_more_places_than_the_limit_are_used() {
        let many: Vec<String> = (0..65).map(|host| format!("udp:192.0.2.{host}:5060 0 0")).collect();
        let places: Vec<&str> = many.iter().map(String::as_str).collect();
        let asked = target("udp:a.org:5060");
        let down = BTreeSet::new();
        let count = |places: &[&str]| {
            let answers = answers(&[("udp:a.org:5060", places)]);
            Known::new(&answers, &down).of(&asked).len()
        };
        assert_eq!(count(&places), 64);
        assert_eq!(count(places.get(..63).expect("there are more")), 63);
        assert!(Known::nothing().of(&asked).is_empty());
    }
}
