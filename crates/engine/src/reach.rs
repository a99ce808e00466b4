//! Over which transport, and where, a peer is reached.

use crate::io::Flow;
use crate::settings::{Backend, Farm, Ports, Transport};
use sip::{Scheme, Uri};
use std::net::SocketAddr;

/// How a backend is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    /// `None`: the transport of whoever sends.
    transport: Option<Transport>,
    address: SocketAddr,
    ports: Ports,
}

impl Reach {
    pub fn of(backend: &Backend) -> Self {
        Self { transport: backend.transport, address: backend.address, ports: backend.ports }
    }

    /// For what came over `arriving`: WebSocket is carried over TCP and TLS.
    pub fn over(&self, arriving: Transport) -> (Transport, SocketAddr) {
        let transport = self.transport.unwrap_or(arriving.towards_backends());
        (transport, self.address_over(transport))
    }

    /// For our own requests; of a backend that takes any transport the first that a listener of the farm's inside speaks.
    pub(crate) fn by_itself(&self, farm: &Farm) -> (Transport, SocketAddr) {
        let spoken = |transport: &Transport| {
            farm.listeners.iter().any(|listener| listener.inside && listener.transport == *transport)
        };
        let transport =
            self.transport.or_else(|| [Transport::Udp, Transport::Tcp, Transport::Tls].into_iter().find(spoken));
        let transport = transport.unwrap_or(Transport::Udp);
        (transport, self.address_over(transport))
    }

    /// The stream beside the datagrams of a backend that takes any transport.
    pub(crate) fn stream(&self) -> Option<(Transport, SocketAddr)> {
        self.transport.is_none().then(|| (Transport::Tcp, self.address_over(Transport::Tcp)))
    }

    /// As configured.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The backend is at the other end of this flow.
    pub(crate) fn is_of(&self, flow: &Flow) -> bool {
        self.addresses().any(|address| address == flow.remote)
            || (flow.connection.is_some() && flow.remote.ip() == self.address.ip())
    }

    /// Every address that is the backend's own.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let (address, ports) = (self.address, self.ports);
        let streams = [ports.tcp, ports.tls].map(|port| SocketAddr::new(address.ip(), port));
        std::iter::once(address).chain(streams.into_iter().filter(move |_| self.transport.is_none()))
    }

    fn address_over(&self, transport: Transport) -> SocketAddr {
        match transport {
            Transport::Tcp if self.transport.is_none() => SocketAddr::new(self.address.ip(), self.ports.tcp),
            Transport::Tls if self.transport.is_none() => SocketAddr::new(self.address.ip(), self.ports.tls),
            _ => self.address,
        }
    }
}

/// The transport that a URI asks for (RFC 3263 §4.1, of a target that is an address).
pub(crate) fn transport_of(uri: &Uri<'_>) -> Transport {
    let named = |name: &[u8]| uri.transport().is_some_and(|known| known.eq_ignore_ascii_case(name));
    if uri.scheme == Scheme::Sips || named(b"tls") {
        Transport::Tls
    } else if named(b"tcp") {
        Transport::Tcp
    } else {
        Transport::Udp
    }
}
