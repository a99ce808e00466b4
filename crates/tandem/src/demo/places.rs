//! Who is where: addresses of 127.0.0.0/8, with ports that are free.

use anyhow::{Context, Result, bail};
use std::net::{SocketAddr, TcpListener, UdpSocket};

/// All addresses of the demo.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Places {
    /// The balancer by datagrams, for phones and PBXs alike.
    pub(super) farm: SocketAddr,
    /// The balancer over TLS.
    pub(super) farm_tls: SocketAddr,
    /// In the order of `BOXES`.
    pub(super) boxes: [SocketAddr; 2],
    /// Signalling of the phones, in the order of `PEOPLE`. One on TLS takes any port of its address.
    pub(super) phones: [SocketAddr; 2],
    /// Audio of the phones.
    pub(super) media: [SocketAddr; 2],
}

impl Places {
    /// At `port`, or at the first candidate where all ports are free.
    pub(super) fn find(port: Option<u16>) -> Result<Self> {
        if let Some(port) = port {
            let places = Self::at(port);
            places.try_out()?;
            return Ok(places);
        }
        for step in 0..CANDIDATES {
            let places = Self::at(FIRST_PORT + 100 * step);
            if places.try_out().is_ok() {
                return Ok(places);
            }
        }
        let last = FIRST_PORT + 100 * (CANDIDATES - 1);
        bail!(
            "none of the ports {FIRST_PORT}, {}, … {last} is free on loopback: choose one with --port-base",
            FIRST_PORT + 100
        )
    }

    fn at(port: u16) -> Self {
        let here = |last: u8, port: u16| SocketAddr::from(([127, 0, 0, last], port));
        // Even, as RFC 3550 §11 asks.
        let media = (port + MEDIA_OFFSET) & !1;
        Self {
            farm: here(1, port),
            farm_tls: here(1, port + 1),
            boxes: [here(11, port), here(12, port)],
            phones: [here(21, port), here(22, port)],
            media: [here(21, media), here(22, media)],
        }
    }

    /// Opens all sockets at once, to see that this works, and closes them again.
    fn try_out(&self) -> Result<()> {
        let mut sockets = Vec::new();
        let rest = [self.boxes, self.phones, self.media].concat();
        for address in std::iter::once(self.farm).chain(rest) {
            let socket = UdpSocket::bind(address)
                .with_context(|| format!("cannot use udp:{address}: choose other ports with --port-base"))?;
            sockets.push(socket);
        }
        let at = self.farm_tls;
        TcpListener::bind(at).with_context(|| format!("cannot use tls:{at}: choose other ports with --port-base"))?;
        Ok(())
    }
}

const FIRST_PORT: u16 = 5_060;
const CANDIDATES: u16 = 20;
const MEDIA_OFFSET: u16 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_address_is_used_twice_and_all_are_loopback() {
        for port in [1, 5_060, 5_061, 64_000] {
            let places = Places::at(port);
            let mut all: BTreeSet<SocketAddr> =
                [places.boxes, places.phones, places.media].concat().into_iter().collect();
            all.extend([places.farm, places.farm_tls]);
            assert_eq!(all.len(), 8, "{port}");
            assert!(all.iter().all(|address| address.ip().is_loopback() && address.port() > 0));
            assert!(places.media.iter().all(|media| media.port() % 2 == 0));
        }
    }
}
