//! How a phone's signalling travels: by datagrams, or over one TLS connection to the balancer.

use super::certificate::Certificate;
use anyhow::{Context, Result};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, RootCertStore};
use sip::frame::{Frame, Framer};
use sip::message::Limits;
use socket2::{Domain, Socket, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Where the messages of one phone leave and come in. Nothing here waits but the opening.
pub(super) enum Line {
    Datagrams(UdpSocket),
    Tls(Box<Secured>),
}

/// A connection that is opened once: the balancer lives as long as the phone and closes it only at the end.
pub(super) struct Secured {
    stream: TcpStream,
    session: ClientConnection,
    framer: Framer,
    farm: SocketAddr,
    closed: bool,
}

impl Line {
    pub(super) fn by_datagrams(at: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind(at).with_context(|| format!("cannot listen at udp:{at}"))?;
        socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        Ok(Self::Datagrams(socket))
    }

    /// From a free port of this address to the balancer, which must show this very certificate.
    pub(super) fn over_tls(from: IpAddr, farm: SocketAddr, certificate: &Certificate) -> Result<Self> {
        let secured = Secured::open(from, farm, certificate)
            .with_context(|| format!("cannot connect to tls:{farm} from {from}"))?;
        Ok(Self::Tls(Box::new(secured)))
    }

    /// Our end.
    pub(super) fn local(&self) -> Result<SocketAddr> {
        let address = match self {
            Self::Datagrams(socket) => socket.local_addr(),
            Self::Tls(secured) => secured.stream.local_addr(),
        };
        address.context("a socket does not tell its address")
    }

    /// "TLS 1.3", or nothing for datagrams.
    pub(super) fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Datagrams(_) => None,
            Self::Tls(secured) if secured.session.protocol_version() == Some(ProtocolVersion::TLSv1_3) => {
                Some("TLS 1.3")
            }
            Self::Tls(_) => Some("TLS 1.2"),
        }
    }

    /// Over TLS everything goes to the balancer, whomever it is for.
    pub(super) fn send(&mut self, to: SocketAddr, message: &[u8]) {
        match self {
            Self::Datagrams(socket) => {
                // What is lost here is sent again, as if it had been lost on the way.
                let _sent = socket.send_to(message, to);
            }
            Self::Tls(secured) => secured.send(message),
        }
    }

    /// The next message that has come whole, and its sender. `buffer` has room for a datagram.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<(SocketAddr, Vec<u8>)> {
        match self {
            Self::Datagrams(socket) => {
                let (length, from) = socket.recv_from(buffer).ok()?;
                Some((from, buffer.get(..length).unwrap_or_default().to_vec()))
            }
            Self::Tls(secured) => secured.receive().map(|message| (secured.farm, message)),
        }
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Datagrams(socket) => socket.as_fd(),
            Self::Tls(secured) => secured.stream.as_fd(),
        }
    }
}

impl Secured {
    fn open(from: IpAddr, farm: SocketAddr, certificate: &Certificate) -> Result<Self> {
        let mut stream = connect(from, farm)?;
        let mut session = ClientConnection::new(Arc::new(trusting(certificate)?), ServerName::from(farm.ip()))?;
        // Whole messages or none: a part of one would end the stream.
        session.set_buffer_limit(None);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).context("TLS failed")?;
        }
        stream.set_nonblocking(true)?;
        Ok(Self { stream, session, framer: Framer::new(Limits::default()), farm, closed: false })
    }

    fn send(&mut self, message: &[u8]) {
        // Fails only after a fault of TLS, when nothing can be sent any more.
        let _taken = self.session.writer().write_all(message);
        self.flush();
    }

    /// What does not fit into the socket now leaves with the next message or at the next turn.
    fn flush(&mut self) {
        while !self.closed && self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.closed = true,
            }
        }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        self.fill();
        loop {
            match self.framer.next()? {
                Ok(Frame::Message(message)) => return Some(message),
                // RFC 5626 §3.5.1: a ping of two line ends asks for one.
                Ok(Frame::Ping) => self.send(b"\r\n"),
                Err(_) => {
                    self.closed = true;
                    return None;
                }
            }
        }
    }

    /// Takes what has come.
    fn fill(&mut self) {
        self.flush();
        while !self.closed {
            match self.session.read_tls(&mut self.stream) {
                Ok(0) => self.closed = true,
                Ok(_) => self.decrypt(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.closed = true,
            }
        }
    }

    fn decrypt(&mut self) {
        let Ok(state) = self.session.process_new_packets() else {
            self.closed = true;
            return;
        };
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        match self.session.reader().read_exact(&mut plain) {
            Ok(()) => self.framer.push(&plain),
            Err(_) => self.closed = true,
        }
        self.closed |= state.peer_has_closed();
    }
}

/// TLS that trusts this certificate and no other.
fn trusting(certificate: &Certificate) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.shown.clone()).context("the balancer's certificate cannot be trusted")?;
    Ok(ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

fn connect(from: IpAddr, farm: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(farm), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&farm.into(), PATIENCE)?;
    Ok(socket.into())
}

/// For connecting and for each step of the handshake; on loopback both take no time.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    const PING: &[u8] = b"\r\n\r\n";
    const MESSAGE: &[u8] = b"OPTIONS sip:bonnie@example.com SIP/2.0\r\nContent-Length: 4\r\n\r\nbody";

    /// A server at a free port that takes one connection, sends a ping and two messages in odd pieces, and tells what it got.
    fn server(certificate: &Certificate) -> (SocketAddr, JoinHandle<Vec<u8>>) {
        let file = std::fs::read(&certificate.file).expect("it was written");
        let key = PrivateKeyDer::from_pem_slice(&file).expect("the file holds the key");
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider knows them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.shown.clone()], key)
            .expect("the key fits the certificate");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("the phone connects");
            let session = ServerConnection::new(Arc::new(config)).expect("the configuration is whole");
            let mut stream = StreamOwned::new(session, stream);
            let mut octets = [PING, MESSAGE, MESSAGE].concat();
            let rest = octets.split_off(PING.len() + 30);
            for piece in [octets, rest] {
                stream.write_all(&piece).expect("the phone reads");
                stream.flush().expect("the phone reads");
            }
            // The pong, and a message.
            let mut got = vec![0; 2 + MESSAGE.len()];
            stream.read_exact(&mut got).expect("the phone answers");
            got
        });
        (address, thread)
    }

    fn open(certificate: &Certificate, farm: SocketAddr) -> Result<Line> {
        Line::over_tls(IpAddr::from([127, 0, 0, 1]), farm, certificate)
    }

    #[test]
    fn messages_come_whole_and_pings_are_answered() {
        let certificate = Certificate::make(IpAddr::from([127, 0, 0, 1])).expect("a certificate is made");
        let (farm, server) = server(&certificate);
        let mut line = open(&certificate, farm).expect("the certificate is the right one");
        assert_eq!(line.tls_version(), Some("TLS 1.3"));
        let mut came = Vec::new();
        let until = std::time::Instant::now() + PATIENCE;
        while came.len() < 2 && std::time::Instant::now() < until {
            came.extend(line.receive(&mut []));
            std::thread::yield_now();
        }
        assert_eq!(came, [(farm, MESSAGE.to_vec()), (farm, MESSAGE.to_vec())]);
        // Whoever it is for, it goes to the balancer.
        line.send(SocketAddr::from(([127, 0, 0, 99], 9)), MESSAGE);
        let got = server.join().expect("the server went through");
        assert_eq!(got, [&b"\r\n"[..], MESSAGE].concat());
    }

    #[test]
    fn another_certificate_is_refused() {
        let here = IpAddr::from([127, 0, 0, 1]);
        let (shown, trusted) = (Certificate::make(here), Certificate::make(here));
        let (shown, trusted) = (shown.expect("a certificate is made"), trusted.expect("a certificate is made"));
        let (farm, server) = server(&shown);
        assert!(open(&trusted, farm).is_err());
        assert!(server.join().is_err(), "nothing was exchanged");
    }
}
