//! Opening sockets, and what may go wrong with it.

use crate::datagram::set_option;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::error::Error;
use std::ffi::c_int;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

/// Why the sockets of a configuration cannot be had. The text says what to do where that is known. `transport`: "udp" or "tcp".
#[derive(Debug)]
pub enum NetError {
    /// Another program has the address and port.
    AddressInUse { transport: &'static str, address: SocketAddr },
    /// No interface has the address.
    AddressUnavailable { transport: &'static str, address: SocketAddr },
    /// The port is reserved for privileged programs.
    PermissionDenied { transport: &'static str, address: SocketAddr },
    /// The system refused the socket for another reason.
    Socket { transport: &'static str, address: SocketAddr, error: io::Error },
    /// A file with certificates or keys is not there, or is wrong: the text names it.
    Certificates { error: Box<dyn Error + Send + Sync> },
    /// The system refused what a worker needs to wait for its sockets.
    Poll { error: io::Error },
    /// The system refused a thread.
    Thread { error: io::Error },
}

/// What works, but not as well as it could.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Warning {
    /// The receive buffer of a listener is smaller than wanted (octets), so that bursts may be lost.
    ReceiveBuffer { address: SocketAddr, granted: usize, wanted: usize },
    /// A certificate is for somebody else or not for long, or nobody is verified: the text says which and what to do.
    Certificates { text: String },
}

/// Opens a UDP socket at `bind` as every worker uses it: non-blocking, sharing its address with the siblings that are opened alike,
/// fragmenting what does not fit, with a large receive buffer, errors of the network reported, and with the arrival address of each
/// datagram told where `bind` is a wildcard.
pub fn open(bind: SocketAddr) -> Result<(UdpSocket, Option<Warning>), NetError> {
    let socket = configured(bind, true).map_err(|error| refusal(UDP, bind, error))?;
    socket.bind(&bind.into()).map_err(|error| refusal(UDP, bind, error))?;
    let granted = socket.recv_buffer_size().unwrap_or(0) / 2;
    let warning = (granted < RECEIVE_BUFFER_BYTES).then_some(Warning::ReceiveBuffer {
        address: bind,
        granted,
        wanted: RECEIVE_BUFFER_BYTES,
    });
    Ok((socket.into(), warning))
}

/// Finds out whether `bind` can be had for us alone. Sockets that share their address would not notice another program of the same
/// user that shares it too, such as a second start of this one, and half of the calls would be lost in it.
pub(crate) fn probe(bind: SocketAddr) -> Result<(), NetError> {
    let socket = configured(bind, false).map_err(|error| refusal(UDP, bind, error))?;
    socket.bind(&bind.into()).map_err(|error| refusal(UDP, bind, error))
}

/// Opens a listening TCP socket at `bind` as every worker uses it: non-blocking, sharing its address with the siblings that are opened
/// alike, so that the kernel spreads who connects over them. What it accepts sends at once and notices a peer that is gone.
pub(crate) fn listen(bind: SocketAddr) -> Result<TcpListener, NetError> {
    let open = || -> io::Result<Socket> {
        let socket = for_stream(bind)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit both.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.bind(&bind.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    open().map(TcpListener::from).map_err(|error| refusal(TCP, bind, error))
}

/// What [`probe`] is for datagrams. Connections of ours from that address, and such as rest after their end, are not in the way.
pub(crate) fn probe_stream(bind: SocketAddr) -> Result<(), NetError> {
    for_stream(bind).and_then(|socket| socket.bind(&bind.into())).map_err(|error| refusal(TCP, bind, error))
}

/// Begins to connect to `remote`, without waiting. `from`: where we listen; the connection has this address and port at our end if the
/// kernel lets it, and else any port.
pub(crate) fn connect(from: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    connect_from(from, remote).or_else(|error| match error.kind() {
        // The port is another user's or a privileged one, or the pair of addresses rests after its last connection.
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied => {
            connect_from(SocketAddr::new(from.ip(), 0), remote)
        }
        _ => Err(error),
    })
}

/// The kernel has no descriptors or memory left.
pub(crate) fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Whether [`connect`] failed for want of something here (a descriptor, memory, a port, our address): the peer was not asked.
pub(crate) fn has_no_means(error: &io::Error) -> bool {
    is_exhausted(error) || matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EADDRINUSE | libc::EADDRNOTAVAIL))
}

fn connect_from(from: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = for_stream(from)?;
    if from.port() != 0 {
        socket.set_reuse_port(true)?;
    }
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.bind(&from.into())?;
    match socket.connect(&remote.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

/// A socket that takes an address on which connections of before rest (TIME-WAIT), but none at which somebody listens.
fn for_stream(bind: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if bind.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn configured(bind: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    let options = if bind.is_ipv6() {
        // A wildcard of one family leaves the other family's port to a listener of its own.
        socket.set_only_v6(true)?;
        &OPTIONS_V6
    } else {
        &OPTIONS_V4
    };
    if !shared {
        return Ok(socket);
    }
    socket.set_reuse_port(true)?;
    set_option(socket.as_fd(), options.level, options.report_errors, 1)?;
    set_option(socket.as_fd(), options.level, options.discover_mtu, options.fragment)?;
    if bind.ip().is_unspecified() {
        set_option(socket.as_fd(), options.level, options.arrival_address, 1)?;
    }
    enlarge_buffers(&socket);
    Ok(socket)
}

/// Asks for large buffers: as a privileged program beyond the system's limit, else up to it.
fn enlarge_buffers(socket: &Socket) {
    let wanted = |bytes: usize| c_int::try_from(bytes).unwrap_or(c_int::MAX);
    let forced = set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted(RECEIVE_BUFFER_BYTES));
    if forced.is_err() {
        // What is granted is read back by the caller, who warns.
        let _capped = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
    }
    let forced = set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted(SEND_BUFFER_BYTES));
    if forced.is_err() {
        // A small send buffer costs nothing until a network interface is slower than we are.
        let _capped = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    }
}

fn refusal(transport: &'static str, address: SocketAddr, error: io::Error) -> NetError {
    match error.kind() {
        io::ErrorKind::AddrInUse => NetError::AddressInUse { transport, address },
        io::ErrorKind::AddrNotAvailable => NetError::AddressUnavailable { transport, address },
        io::ErrorKind::PermissionDenied => NetError::PermissionDenied { transport, address },
        _ => NetError::Socket { transport, address, error },
    }
}

impl fmt::Display for NetError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressInUse { transport, address } => {
                let kind = if *transport == UDP { 'u' } else { 't' };
                write!(
                    formatter,
                    "address in use: another program holds {transport} {address}; `ss -{kind}lpn` names it"
                )
            }
            Self::AddressUnavailable { transport, address } => write!(
                formatter,
                "cannot listen at {transport} {address}: no interface of this machine has the address; `ip address` lists \
                 those there are"
            ),
            Self::PermissionDenied { transport, address } => write!(
                formatter,
                "cannot listen at {transport} {address}: permission denied; ports below 1024 need root or CAP_NET_BIND_SERVICE"
            ),
            Self::Socket { transport, address, error } => {
                write!(formatter, "cannot listen at {transport} {address}: {error}")
            }
            Self::Certificates { error } => write!(formatter, "{error}"),
            Self::Poll { error } => {
                write!(
                    formatter,
                    "cannot wait for sockets: {error}; perhaps the limit of open files is too low (`ulimit -n`)"
                )
            }
            Self::Thread { error } => write!(formatter, "cannot start a worker: {error}"),
        }
    }
}

impl Error for NetError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Socket { error, .. } | Self::Poll { error } | Self::Thread { error } => Some(error),
            // Its text is ours already.
            Self::Certificates { error } => error.source(),
            Self::AddressInUse { .. } | Self::AddressUnavailable { .. } | Self::PermissionDenied { .. } => None,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReceiveBuffer { address, granted, wanted } => write!(
                formatter,
                "the receive buffer of udp {address} holds {granted} octets instead of {wanted}, so that bursts may be lost: \
                 `sysctl -w net.core.rmem_max={wanted}`, or start with CAP_NET_ADMIN"
            ),
            Self::Certificates { text } => formatter.write_str(text),
        }
    }
}

/// The names and values of the options of one address family.
struct FamilyOptions {
    level: c_int,
    report_errors: c_int,
    discover_mtu: c_int,
    fragment: c_int,
    arrival_address: c_int,
}

const OPTIONS_V4: FamilyOptions = FamilyOptions {
    level: libc::IPPROTO_IP,
    report_errors: libc::IP_RECVERR,
    discover_mtu: libc::IP_MTU_DISCOVER,
    fragment: libc::IP_PMTUDISC_DONT,
    arrival_address: libc::IP_PKTINFO,
};

const OPTIONS_V6: FamilyOptions = FamilyOptions {
    level: libc::IPPROTO_IPV6,
    report_errors: libc::IPV6_RECVERR,
    discover_mtu: libc::IPV6_MTU_DISCOVER,
    fragment: libc::IPV6_PMTUDISC_DONT,
    arrival_address: libc::IPV6_RECVPKTINFO,
};

const UDP: &str = "udp";
const TCP: &str = "tcp";

/// Far sooner than the kernel's two hours, and often enough to keep the binding of a NAT open (RFC 5382 §5).
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(120)).with_interval(Duration::from_secs(30)).with_retries(4);
/// Peers that the kernel lets in before they are accepted; capped by net.core.somaxconn.
const BACKLOG: c_int = 4_096;
/// A second of 10,000 messages of 800 octets.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_here_says_nothing_of_the_peer() {
        for (errno, ours) in [
            (libc::EMFILE, true),
            (libc::ENFILE, true),
            (libc::ENOBUFS, true),
            (libc::EADDRNOTAVAIL, true),
            (libc::ECONNREFUSED, false),
            (libc::ENETUNREACH, false),
            (libc::EHOSTUNREACH, false),
            (libc::EACCES, false),
        ] {
            assert_eq!(has_no_means(&io::Error::from_raw_os_error(errno)), ours, "errno {errno}");
        }
        assert!(!has_no_means(&io::Error::from(io::ErrorKind::AddrInUse)));
    }

    #[test]
    fn errors_say_the_address_and_what_to_do() {
        let address = SocketAddr::from(([127, 0, 0, 1], 5060));
        assert_eq!(
            refusal(UDP, address, io::Error::from(io::ErrorKind::AddrInUse)).to_string(),
            "address in use: another program holds udp 127.0.0.1:5060; `ss -ulpn` names it"
        );
        assert_eq!(
            refusal(TCP, address, io::Error::from(io::ErrorKind::AddrInUse)).to_string(),
            "address in use: another program holds tcp 127.0.0.1:5060; `ss -tlpn` names it"
        );
        let text = refusal(UDP, address, io::Error::from(io::ErrorKind::AddrNotAvailable)).to_string();
        assert!(text.contains("127.0.0.1:5060") && text.contains("ip address"), "{text}");
        let text = refusal(UDP, address, io::Error::from(io::ErrorKind::PermissionDenied)).to_string();
        assert!(text.contains("CAP_NET_BIND_SERVICE"), "{text}");
        let warning = Warning::ReceiveBuffer { address, granted: 1, wanted: 2 };
        assert!(warning.to_string().contains("net.core.rmem_max=2"), "{warning}");
    }
}
