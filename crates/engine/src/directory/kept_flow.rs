//! A flow as it is kept for each of very many phones.

use crate::id::ListenerId;
use crate::io::{ConnectionId, Flow};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

/// A [`Flow`] in 24 octets instead of 56 where both its addresses are IPv4; any other costs an allocation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum KeptFlow {
    V4 { listener: ListenerId, local: Ipv4Addr, remote: SocketAddrV4, connection: ConnectionId },
    Other(Box<Flow>),
}

impl From<Flow> for KeptFlow {
    fn from(flow: Flow) -> Self {
        match (flow.local, flow.remote) {
            (IpAddr::V4(local), SocketAddr::V4(remote)) => {
                Self::V4 { listener: flow.listener, local, remote, connection: flow.connection }
            }
            _ => Self::Other(Box::new(flow)),
        }
    }
}

impl From<&KeptFlow> for Flow {
    fn from(kept: &KeptFlow) -> Self {
        match kept {
            KeptFlow::V4 { listener, local, remote, connection } => Self {
                listener: *listener,
                local: IpAddr::V4(*local),
                remote: SocketAddr::V4(*remote),
                connection: *connection,
            },
            KeptFlow::Other(flow) => **flow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_of_both_families_come_back() {
        const { assert!(size_of::<KeptFlow>() <= 24) };
        let any: IpAddr = Ipv4Addr::UNSPECIFIED.into();
        for (local, remote) in [
            (any, "192.0.2.1:5060"),
            ("192.0.2.9".parse().expect("an address"), "192.0.2.1:65535"),
            ("2001:db8::9".parse().expect("an address"), "[2001:db8::1]:5060"),
            (any, "[2001:db8::1]:5060"),
        ] {
            let remote = remote.parse().expect("an address");
            for connection in [ConnectionId::NONE, ConnectionId(0x12_3456)] {
                let flow = Flow { listener: ListenerId(7), local, remote, connection };
                let kept = KeptFlow::from(flow);
                assert_eq!(Flow::from(&kept), flow);
                assert_eq!(matches!(kept, KeptFlow::V4 { .. }), local.is_ipv4() && remote.is_ipv4());
            }
        }
    }
}
