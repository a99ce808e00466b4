//! Connections of the test that carry SIP: TCP, TLS, and WebSockets with and without TLS.

use super::holds_within;
use super::wire::Taken;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use tungstenite::http::Uri;
use tungstenite::{ClientRequestBuilder, Error, Message, WebSocket};

/// What a connection speaks. With TLS comes the authority, as PEM, that the server's certificate must be from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over<'a> {
    Tcp,
    Tls(&'a str),
    Ws,
    Wss(&'a str),
}

/// One connection. Closed when dropped.
pub struct Link {
    channel: Channel,
    /// As a Via names what it speaks.
    pub via: &'static str,
    pub remote: SocketAddr,
    is_open: bool,
}

enum Channel {
    /// And what has come of an unfinished message.
    Stream(Box<dyn Octets>, Vec<u8>),
    WebSocket(Box<WebSocket<Box<dyn Octets>>>),
}

trait Octets: Read + Write + Send {}

impl<T: Read + Write + Send> Octets for T {}

impl Link {
    /// Connects to this address and port.
    ///
    /// # Panics
    /// If nobody listens there, or the certificate or the upgrade is not as it should be.
    pub fn open(over: Over<'_>, to: &str) -> Self {
        let socket = TcpStream::connect(to).unwrap_or_else(|error| panic!("to {to}: {error}"));
        socket.set_read_timeout(Some(PATIENCE)).expect("the time is not nought");
        let remote = socket.peer_addr().expect("it is connected");
        let control = socket.try_clone().expect("there are descriptors");
        let stream: Box<dyn Octets> = match over.authority() {
            Some(authority) => Box::new(secured(socket, authority, remote.ip())),
            None => Box::new(socket),
        };
        let channel = match over {
            Over::Tcp | Over::Tls(_) => Channel::Stream(stream, Vec::new()),
            Over::Ws => upgraded(stream, &format!("ws://{to}/")),
            Over::Wss(_) => upgraded(stream, &format!("wss://{to}/")),
        };
        control.set_nonblocking(true).expect("a socket can always be asked");
        Self { channel, via: over.via(), remote, is_open: true }
    }

    /// The same for a TCP connection that the test accepted.
    pub fn accepted(socket: TcpStream) -> Self {
        let remote = socket.peer_addr().expect("it is connected");
        socket.set_nonblocking(true).expect("a socket can always be asked");
        Self { channel: Channel::Stream(Box::new(socket), Vec::new()), via: "TCP", remote, is_open: true }
    }

    /// Sends a whole message, if the connection is still there.
    pub fn send(&mut self, message: &[u8]) {
        let sent = match &mut self.channel {
            Channel::Stream(stream, _) => stream.write_all(message).and_then(|()| stream.flush()).is_ok(),
            Channel::WebSocket(socket) => {
                socket.send(Message::text(String::from_utf8_lossy(message).into_owned())).is_ok()
            }
        };
        self.is_open &= sent;
    }

    /// The next whole message, if it is there.
    pub fn poll(&mut self) -> Option<Vec<u8>> {
        let next = match &mut self.channel {
            Channel::Stream(stream, held) => poll_stream(stream, held),
            Channel::WebSocket(socket) => poll_web_socket(socket),
        };
        next.unwrap_or_else(|Closed| {
            self.is_open = false;
            None
        })
    }

    /// The next whole message, if one comes within `limit`.
    pub fn next(&mut self, limit: Duration) -> Option<Vec<u8>> {
        let mut found = None;
        holds_within(limit, || {
            found = self.poll();
            found.is_some() || !self.is_open
        });
        found
    }
}

impl<'a> Over<'a> {
    fn authority(self) -> Option<&'a str> {
        match self {
            Self::Tls(authority) | Self::Wss(authority) => Some(authority),
            Self::Tcp | Self::Ws => None,
        }
    }

    fn via(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls(_) => "TLS",
            Self::Ws => "WS",
            Self::Wss(_) => "WSS",
        }
    }
}

/// The other end has closed, or the connection is broken.
struct Closed;

fn poll_stream(stream: &mut Box<dyn Octets>, held: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Closed> {
    let mut buffer = [0; 4_096];
    loop {
        if let Some(message) = cut(held) {
            return Ok(Some(message));
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(Closed),
            Ok(length) => held.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Closed),
        }
    }
}

fn poll_web_socket(socket: &mut WebSocket<Box<dyn Octets>>) -> Result<Option<Vec<u8>>, Closed> {
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => return Ok(Some(text.as_bytes().to_vec())),
            Ok(Message::Binary(octets)) => return Ok(Some(octets.to_vec())),
            // Pings are answered by reading on.
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(_) => return Err(Closed),
        }
    }
}

/// The first message, without the line ends before it, which keep connections alive.
fn cut(held: &mut Vec<u8>) -> Option<Vec<u8>> {
    let blank = held.iter().take_while(|octet| matches!(octet, b'\r' | b'\n')).count();
    held.drain(..blank);
    let head = held.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let length = Taken::of(&held[..head]).text("content-length").and_then(|text| text.parse::<usize>().ok());
    let whole = head + length.expect("each message in a stream tells its length");
    (held.len() >= whole).then(|| held.drain(..whole).collect())
}

fn secured(mut socket: TcpStream, authority: &str, server: IpAddr) -> StreamOwned<ClientConnection, TcpStream> {
    let authority = CertificateDer::from_pem_slice(authority.as_bytes()).expect("a certificate in PEM");
    let mut authorities = RootCertStore::empty();
    authorities.add(authority).expect("it can be an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider knows them")
        .with_root_certificates(authorities)
        .with_no_client_auth();
    let name = ServerName::from(server);
    let mut connection = ClientConnection::new(Arc::new(config), name).expect("the configuration is whole");
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).unwrap_or_else(|error| panic!("TLS with {server}: {error}"));
    }
    StreamOwned::new(connection, socket)
}

fn upgraded(stream: Box<dyn Octets>, uri: &str) -> Channel {
    let parsed: Uri = uri.parse().expect("it is a URI");
    let request = ClientRequestBuilder::new(parsed).with_sub_protocol("sip");
    let (socket, answer) = tungstenite::client(request, stream).unwrap_or_else(|error| panic!("{uri}: {error}"));
    let protocol = answer.headers().get("sec-websocket-protocol").map(|value| value.as_bytes().to_vec());
    assert_eq!(protocol.as_deref(), Some(&b"sip"[..]), "the sub-protocol that was offered");
    Channel::WebSocket(Box::new(socket))
}

const PATIENCE: Duration = Duration::from_secs(5);
