//! What all connections have in common, and what a fault of one of them counts as.

use super::loss::{Fault, Loss};
use super::{Streams, trust};
use client::Terms;
use net::NetError;
use rustls::pki_types::ServerName;
use std::net::SocketAddr;

/// Fails when the file of authorities cannot be read, or the server's name is none.
pub(super) fn terms(streams: &Streams, balancer: SocketAddr) -> Result<Terms, NetError> {
    let tls = if streams.transport.is_secure() {
        let name = match &streams.server_name {
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| NetError::Certificates { error: format!("{name} is no name of a server").into() })?,
            None => ServerName::from(balancer.ip()),
        };
        Some((trust::client_config(&streams.trust)?, name))
    } else {
        None
    };
    let host = streams.server_name.clone().unwrap_or_else(|| balancer.to_string());
    Ok(Terms { tls, host: streams.transport.is_web_socket().then_some(host) })
}

impl From<client::Fault> for Fault {
    fn from(fault: client::Fault) -> Self {
        match fault {
            client::Fault::Closed => Self::closed(),
            client::Fault::Tls(error) => Self::of_tls(&error),
            client::Fault::Record(text) => Self::new(Loss::Tls, text),
            client::Fault::Upgrade(text) => Self::new(Loss::Upgrade, text),
            client::Fault::WebSocket(text) => Self::new(Loss::WebSocket, text),
            client::Fault::Framing(fault) => Self::new(Loss::Framing, fault.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Transport, Trust};
    use client::Wire;

    fn wire(transport: Transport) -> Wire {
        let streams = Streams { transport, connections: 1, trust: Trust::Anybody, server_name: None, at_once: false };
        let terms = terms(&streams, SocketAddr::from(([127, 0, 0, 1], 5061))).expect("nothing is read");
        Wire::new(&terms).expect("the address is a name")
    }

    fn loss(transport: Transport, octets: &[u8]) -> Option<Loss> {
        let outcome = wire(transport).receive(octets, &mut Vec::new());
        outcome.err().map(|fault| Fault::from(fault).loss)
    }

    #[test]
    fn each_transport_begins_as_it_should() {
        let starts = Transport::ALL.map(|transport| wire(transport).outgoing().first().copied());
        // Nothing, a TLS record, a GET, a TLS record again.
        assert_eq!(starts, [None, Some(22), Some(b'G'), Some(22)]);
        assert!(wire(Transport::Tcp).is_established() && !wire(Transport::Tls).is_established());
    }

    #[test]
    fn a_fault_has_its_count() {
        let answer = b"SIP/2.0 200 OK\r\n\r\n";
        assert_eq!(loss(Transport::Tcp, answer), Some(Loss::Framing));
        assert_eq!(loss(Transport::Tls, answer), Some(Loss::Tls));
        assert_eq!(loss(Transport::Ws, answer), Some(Loss::Upgrade));
        assert_eq!(Fault::from(client::Fault::Closed), Fault::closed());
    }

    #[test]
    fn a_name_that_is_none_is_told() {
        let streams = Streams {
            transport: Transport::Tls,
            connections: 1,
            trust: Trust::Anybody,
            server_name: Some("no name".to_owned()),
            at_once: false,
        };
        let refused = terms(&streams, SocketAddr::from(([127, 0, 0, 1], 5061))).err();
        assert!(refused.is_some_and(|error| error.to_string().contains("no name")));
    }
}
