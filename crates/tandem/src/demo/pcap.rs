//! Writing a capture: classic pcap with link type RAW, each datagram with IPv4 and UDP headers made for it, and each message of a
//! phone on TLS, as it is without TLS, the same.

use anyhow::{Context, Result};
use net::{Clock, Tap};
use sip::Instant;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A capture file that several threads write to. The balancer's messages reach it as a [`Tap`].
pub(super) struct Capture {
    writer: Mutex<Writer>,
    /// The same moment on the clock and in Unix time.
    started: (Instant, Duration),
}

struct Writer {
    file: BufWriter<File>,
    packets: u16,
    /// The first failure: nothing is written after it.
    failure: Option<io::Error>,
}

impl Capture {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock shows a time before 1970")?;
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut file = BufWriter::new(file);
        file.write_all(&file_header()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { writer: Mutex::new(Writer { file, packets: 0, failure: None }), started: (Clock::now(), unix) })
    }

    /// Writes a datagram that is sent now. Those of IPv6 are left out: the demo has none.
    pub(super) fn write(&self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
            return;
        };
        let mut writer = self.lock();
        // Taken under the lock, so that times never go back in the file.
        let (start, unix) = self.started;
        let at = unix + Clock::now().saturating_since(start);
        writer.packets = writer.packets.wrapping_add(1);
        let Some(packet) = ip_packet(from, to, writer.packets, payload) else {
            return;
        };
        if writer.failure.is_none()
            && let Err(error) = write_record(&mut writer.file, at, &packet)
        {
            writer.failure = Some(error);
        }
    }

    /// Writes out what is left, and tells the first failure.
    pub(super) fn finish(&self) -> Result<()> {
        let mut writer = self.lock();
        if let Some(error) = writer.failure.take() {
            return Err(error).context("cannot write the capture");
        }
        writer.file.flush().context("cannot write the capture")
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        // At worst the record of whoever panicked is cut short.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap for Capture {
    fn packet(&self, local: SocketAddr, remote: SocketAddr, outgoing: bool, bytes: &[u8]) {
        if outgoing {
            self.write(local, remote, bytes);
        } else {
            self.write(remote, local, bytes);
        }
    }
}

fn file_header() -> Vec<u8> {
    let mut header = Vec::with_capacity(24);
    header.extend_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
    // Version 2.4; no time zone, no accuracy.
    header.extend_from_slice(&2_u16.to_le_bytes());
    header.extend_from_slice(&4_u16.to_le_bytes());
    header.extend_from_slice(&[0; 8]);
    header.extend_from_slice(&65_535_u32.to_le_bytes());
    header.extend_from_slice(&LINKTYPE_RAW.to_le_bytes());
    header
}

fn write_record(out: &mut impl Write, at: Duration, packet: &[u8]) -> io::Result<()> {
    // Seconds wrap in the year 2106, as the format has it.
    let seconds = at.as_secs() as u32;
    let length = packet.len() as u32;
    for number in [seconds, at.subsec_micros(), length, length] {
        out.write_all(&number.to_le_bytes())?;
    }
    out.write_all(packet)
}

/// The IPv4 packet that would carry the payload; `None` if it is too long for one.
fn ip_packet(from: SocketAddrV4, to: SocketAddrV4, id: u16, payload: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(UDP_OCTETS + payload.len()).ok()?;
    let total = u16::try_from(IP_OCTETS).ok()?.checked_add(udp_length)?;
    let addresses = [from.ip().octets(), to.ip().octets()].concat();

    let mut ip = vec![0x45, 0];
    ip.extend_from_slice(&total.to_be_bytes());
    ip.extend_from_slice(&id.to_be_bytes());
    // Do not fragment; 64 hops; UDP; the checksum comes below.
    ip.extend_from_slice(&[0x40, 0, 64, UDP, 0, 0]);
    ip.extend_from_slice(&addresses);
    let ip_checksum = checksum(&[&ip]).to_be_bytes();

    let mut udp = Vec::with_capacity(UDP_OCTETS);
    for number in [from.port(), to.port(), udp_length, 0] {
        udp.extend_from_slice(&number.to_be_bytes());
    }
    let [high, low] = udp_length.to_be_bytes();
    let udp_checksum = match checksum(&[&addresses, &[0, UDP, high, low], &udp, payload]) {
        // Zero would mean that there is none (RFC 768).
        0 => u16::MAX,
        sum => sum,
    };
    let before_sum = ip.get(..10)?;
    let after_sum = ip.get(12..)?;
    let udp_without_sum = udp.get(..6)?;
    Some([before_sum, &ip_checksum, after_sum, udp_without_sum, &udp_checksum.to_be_bytes(), payload].concat())
}

/// The Internet checksum (RFC 1071) over the parts. All but the last one have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([high, low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Packets begin with the IP header.
const LINKTYPE_RAW: u32 = 101;
const IP_OCTETS: usize = 20;
const UDP_OCTETS: usize = 8;
/// UDP's protocol number.
const UDP: u8 = 17;

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn place(last: u8, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), port)
    }

    #[test]
    fn the_checksum_is_that_of_the_standard() {
        // RFC 1071 §3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0x12]]), !0x1200);
    }

    #[test]
    fn packets_have_right_lengths_and_checksums() {
        for payload in [&b"odd"[..], b"even", b""] {
            let packet = ip_packet(place(1, 5_060), place(21, 5_060), 7, payload).expect("short enough");
            assert_eq!(packet.len(), 28 + payload.len());
            let (ip, udp) = packet.split_at(IP_OCTETS);
            assert_eq!(ip[2..4], (packet.len() as u16).to_be_bytes());
            // A header with its own checksum sums up to zero.
            assert_eq!(checksum(&[ip]), 0);
            let length = (udp.len() as u16).to_be_bytes();
            assert_eq!(udp[4..6], length);
            assert_eq!(checksum(&[&ip[12..], &[0, UDP], &length, udp]), 0);
            assert_eq!(&udp[8..], payload);
        }
        assert_eq!(ip_packet(place(1, 1), place(2, 2), 1, &[0; 65_508]), None);
    }

    #[test]
    fn a_file_begins_as_readers_expect() {
        let header = file_header();
        assert_eq!(header.len(), 24);
        assert_eq!(header[..8], [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0]);
        assert_eq!(header[20..], [101, 0, 0, 0]);
        let mut record = Vec::new();
        write_record(&mut record, Duration::from_micros(3_000_002), b"abc").expect("a vector takes everything");
        assert_eq!(record, [3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 3, 0, 0, 0, b'a', b'b', b'c']);
    }
}
