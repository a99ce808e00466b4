//! What carries a phone's signalling: datagrams, or a connection.

use super::link::Link;
use std::net::{SocketAddr, UdpSocket};

/// The user agent of a phone speaks datagrams. On a connection its words are dressed for it, and undressed when they come back.
pub enum Carrier {
    Datagrams(UdpSocket),
    /// `None`: the phone hangs on no connection, and nothing that it says is heard.
    Connection(Option<Link>, Dress),
}

/// What a user agent writes, and what stands there on a connection.
pub struct Dress {
    via: [String; 2],
    contact: [String; 2],
}

impl Dress {
    /// For a user agent at this address. On a WebSocket nobody can connect to the phone, and its names say so (RFC 7118 §5).
    pub fn new(link: &Link, user: &str, contact: SocketAddr) -> Self {
        let kind = link.via;
        let is_web_socket = kind.starts_with("WS");
        let host = if is_web_socket { format!("{user}.invalid") } else { contact.to_string() };
        let transport = if is_web_socket { "ws".to_owned() } else { kind.to_ascii_lowercase() };
        Self {
            via: [format!("SIP/2.0/UDP {contact};"), format!("SIP/2.0/{kind} {host};")],
            contact: [format!("<sip:{user}@{contact}>"), format!("<sip:{user}@{host};transport={transport}>")],
        }
    }

    /// Both names keep off each other: neither is a part of the other or of a body.
    fn on(&self, message: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(message);
        let [plain, dressed] = &self.contact;
        text.replace(&self.via[0], &self.via[1]).replace(plain, dressed).into_bytes()
    }

    /// In requests for the phone its contact stands without brackets.
    fn off(&self, message: &[u8]) -> Vec<u8> {
        let [plain, dressed] = self.contact.each_ref().map(|text| text.trim_matches(['<', '>']));
        String::from_utf8_lossy(message).replace(dressed, plain).into_bytes()
    }
}

impl Carrier {
    pub fn send(&mut self, message: &[u8], to: SocketAddr) {
        match self {
            Self::Datagrams(socket) => {
                // Whoever is gone does not get it, as on any network.
                let _ = socket.send_to(message, to);
            }
            Self::Connection(Some(link), dress) => link.send(&dress.on(message)),
            Self::Connection(None, _) => {}
        }
    }

    /// The next message and its sender, if it is there.
    pub fn poll(&mut self) -> Option<(Vec<u8>, SocketAddr)> {
        match self {
            Self::Datagrams(socket) => {
                let mut buffer = vec![0; 65_536];
                let (length, from) = socket.recv_from(&mut buffer).ok()?;
                buffer.truncate(length);
                Some((buffer, from))
            }
            Self::Connection(link, dress) => {
                let link = link.as_mut()?;
                Some((dress.off(&link.poll()?), link.remote))
            }
        }
    }

    /// Closes the phone's connection and hangs it on this one.
    ///
    /// # Panics
    /// If the phone speaks datagrams.
    pub fn hang_on(&mut self, other: Option<Link>) {
        match self {
            Self::Datagrams(_) => panic!("a phone of datagrams has no connection"),
            Self::Connection(link, _) => *link = other,
        }
    }
}
