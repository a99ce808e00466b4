//! TLS on memory: what a peer sent is decrypted and handed on at once, what is to be sent is encrypted at once.

use super::WireFault;
use rustls::Connection;
use rustls::pki_types::CertificateDer;
use std::io::{BufRead, Write};

/// Either side of TLS, on memory.
pub(super) struct Tls {
    pub(super) connection: Connection,
    pub(super) records: Records,
    /// The peer has sent something.
    pub(super) heard: bool,
}

impl Tls {
    pub(super) fn new(mut connection: Connection) -> Self {
        // Whoever sends bounds the queue, by what `Wire::queued` says.
        connection.set_buffer_limit(None);
        Self { connection, records: Records::default(), heard: false }
    }

    /// Takes octets from the socket and gives `each` what they decrypt to, until one of both has enough.
    pub(super) fn receive(
        &mut self,
        octets: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<(), WireFault>,
    ) -> Result<(), WireFault> {
        self.heard |= !octets.is_empty();
        self.records.pass(octets);
        let mut unread = octets;
        while !unread.is_empty() {
            let count = self.connection.read_tls(&mut unread).map_err(|error| WireFault::Tls(error.to_string()))?;
            let processed = self.connection.process_new_packets();
            // What was decrypted before a fault is good.
            self.hand_on(each)?;
            match processed {
                Err(error) => return Err(self.fault(&error)),
                Ok(state) if state.peer_has_closed() => return Err(WireFault::Closed),
                Ok(_) if count == 0 => return Err(WireFault::Tls("a record is longer than allowed".to_owned())),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn hand_on(&mut self, each: &mut dyn FnMut(&[u8]) -> Result<(), WireFault>) -> Result<(), WireFault> {
        let mut reader = self.connection.reader();
        loop {
            let (length, verdict) = match reader.fill_buf() {
                Ok(plain) if !plain.is_empty() => (plain.len(), each(plain)),
                // Nothing more so far, or at all.
                _ => return Ok(()),
            };
            reader.consume(length);
            verdict?;
        }
    }

    pub(super) fn send(&mut self, plain: &[u8], outgoing: &mut Vec<u8>) {
        // Fails only after a fault, when nothing can be sent any more.
        let _refused = self.connection.writer().write_all(plain);
        self.pull(outgoing);
    }

    /// Moves what TLS wants to send to `outgoing`.
    pub(super) fn pull(&mut self, outgoing: &mut Vec<u8>) {
        while self.connection.wants_write() {
            if self.connection.write_tls(outgoing).is_err() {
                // Memory takes everything.
                return;
            }
        }
    }

    pub(super) fn verified_client(&self) -> Option<&CertificateDer<'static>> {
        let is_up = matches!(self.connection, Connection::Server(_)) && !self.connection.is_handshaking();
        self.connection.peer_certificates().filter(|_| is_up).and_then(<[_]>::first)
    }

    fn fault(&self, error: &rustls::Error) -> WireFault {
        WireFault::Tls(match (&self.connection, error) {
            (Connection::Server(_), rustls::Error::NoCertificatesPresented) => {
                "the client showed no certificate".to_owned()
            }
            _ => error.to_string(),
        })
    }
}

/// Where the TLS records in a stream begin and end: an unfinished one may not be held for longer than an unfinished message, and the
/// library does not tell.
#[derive(Default)]
pub(super) struct Records {
    /// How many of the five octets of a header have come: type, version, length (RFC 8446 §5.1).
    header: u8,
    /// The higher octet of the length.
    length: usize,
    /// Octets that are still to come after the header.
    body: usize,
}

impl Records {
    fn pass(&mut self, octets: &[u8]) {
        let mut rest = octets;
        loop {
            let step = self.body.min(rest.len());
            self.body -= step;
            rest = rest.get(step..).unwrap_or_default();
            let Some((&octet, after)) = rest.split_first() else { return };
            rest = after;
            self.header += 1;
            match self.header {
                4 => self.length = usize::from(octet) << 8,
                5 => {
                    self.body = self.length | usize::from(octet);
                    self.header = 0;
                }
                _ => {}
            }
        }
    }

    pub(super) fn is_between(&self) -> bool {
        self.header == 0 && self.body == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_followed_octet_by_octet() {
        let long = [[23_u8, 3, 3, 1, 1].as_slice(), &[9; 257]].concat();
        let stream: [&[u8]; 3] = [&[23, 3, 3, 0, 2, 9, 9], &[21, 3, 3, 0, 0], &long];
        let mut records = Records::default();
        for record in stream {
            for (index, octet) in record.iter().enumerate() {
                assert_eq!(records.is_between(), index == 0, "octet {index} of {}", record.len());
                records.pass(&[*octet]);
            }
            assert!(records.is_between());
            records.pass(record);
            assert!(records.is_between());
        }
    }
}
