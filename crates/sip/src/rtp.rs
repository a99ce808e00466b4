//! RTP packets and what a receiver counts (RFC 3550).

use std::time::Duration;

use crate::time::Instant;

/// One RTP packet of version 2. CSRC list, header extension and padding are skipped on reading and never written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// First packet after a silence, or the start of an event.
    pub marker: bool,
    /// 0 to 127.
    pub payload_type: u8,
    /// Grows by one with each packet and wraps.
    pub sequence: u16,
    /// Sampling instant of the first octet, in units of the payload's clock; wraps.
    pub timestamp: u32,
    /// The synchronisation source.
    pub ssrc: u32,
    /// The audio.
    pub payload: &'a [u8],
}

/// Appends the packet to the buffer (RFC 3550 §5.1).
pub fn write(packet: &Packet<'_>, out: &mut Vec<u8>) {
    out.reserve(HEADER_OCTETS + packet.payload.len());
    out.push(VERSION << 6);
    out.push((u8::from(packet.marker) << 7) | (packet.payload_type & 0x7f));
    out.extend_from_slice(&packet.sequence.to_be_bytes());
    out.extend_from_slice(&packet.timestamp.to_be_bytes());
    out.extend_from_slice(&packet.ssrc.to_be_bytes());
    out.extend_from_slice(packet.payload);
}

/// Reads a datagram; `None` if it is no RTP packet of version 2 or is cut short.
pub fn read(datagram: &[u8]) -> Option<Packet<'_>> {
    let (header, rest) = datagram.split_first_chunk::<HEADER_OCTETS>()?;
    let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *header;
    if first >> 6 != VERSION {
        return None;
    }
    let sources = usize::from(first & 0x0f) * 4;
    let (_, rest) = rest.split_at_checked(sources)?;
    let rest = if first & 0x10 == 0 { rest } else { skip_extension(rest)? };
    let payload = if first & 0x20 == 0 { rest } else { strip_padding(rest)? };
    Some(Packet {
        marker: second & 0x80 != 0,
        payload_type: second & 0x7f,
        sequence: u16::from_be_bytes([s0, s1]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
        payload,
    })
}

/// Counts the packets of one stream, what was lost (RFC 3550 A.1, A.3) and the interarrival jitter (A.8). A stream whose
/// source changes goes on counting: what the earlier source lost is kept.
#[derive(Clone, Debug)]
pub struct Receiver {
    clock_rate: u32,
    packets: u64,
    octets: u64,
    /// Expected and received of sources that are no longer heard.
    past: (u64, u64),
    source: Option<Source>,
}

impl Receiver {
    /// `clock_rate` in units of the timestamp a second: 8,000 for G.711.
    pub fn new(clock_rate: u32) -> Self {
        Self { clock_rate: clock_rate.max(1), packets: 0, octets: 0, past: (0, 0), source: None }
    }

    /// A packet came at this moment.
    pub fn on_packet(&mut self, now: Instant, packet: &Packet<'_>) {
        self.packets += 1;
        self.octets += packet.payload.len() as u64;
        let arrival = in_clock_units(now, self.clock_rate);
        let followed = self.source.as_mut().is_some_and(|source| source.follow(packet, arrival));
        if !followed {
            if let Some(source) = self.source.take() {
                self.past.0 += source.expected();
                self.past.1 += source.received;
            }
            self.source = Some(Source::start(packet, arrival));
        }
    }

    /// Packets that came, duplicates included.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Octets of payload that came.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Packets that the sequence numbers promised.
    pub fn expected(&self) -> u64 {
        self.past.0 + self.source.as_ref().map_or(0, Source::expected)
    }

    /// Packets expected less packets received. Below zero where duplicates outnumber losses.
    pub fn lost(&self) -> i64 {
        let received = self.past.1 + self.source.as_ref().map_or(0, |source| source.received);
        self.expected() as i64 - received as i64
    }

    /// The share of expected packets that was lost, from 0 to 1.
    pub fn loss(&self) -> f64 {
        let expected = self.expected();
        if expected == 0 { 0.0 } else { self.lost().max(0) as f64 / expected as f64 }
    }

    /// The smoothed interarrival jitter of the source heard last.
    pub fn jitter(&self) -> Duration {
        let units = self.source.as_ref().map_or(0.0, |source| source.jitter);
        // Jitter is a mean of 32-bit differences and the rate is at least 1, so the quotient is finite and not negative.
        Duration::from_secs_f64(units / f64::from(self.clock_rate))
    }
}

/// One synchronisation source as long as its sequence numbers hang together.
#[derive(Clone, Debug)]
struct Source {
    ssrc: u32,
    /// The first sequence number.
    base: u16,
    /// The highest sequence number and how often it wrapped.
    highest: u16,
    wraps: u64,
    received: u64,
    /// What would follow the last packet that jumped: two in a row mean that the sender started anew.
    restart: Option<u16>,
    /// Arrival less timestamp of the packet before, in units of the timestamp.
    transit: u32,
    jitter: f64,
}

impl Source {
    fn start(packet: &Packet<'_>, arrival: u32) -> Self {
        Self {
            ssrc: packet.ssrc,
            base: packet.sequence,
            highest: packet.sequence,
            wraps: 0,
            received: 1,
            restart: None,
            transit: arrival.wrapping_sub(packet.timestamp),
            jitter: 0.0,
        }
    }

    /// Counts a packet. False if it begins another source, or this one anew.
    fn follow(&mut self, packet: &Packet<'_>, arrival: u32) -> bool {
        if packet.ssrc != self.ssrc {
            return false;
        }
        let ahead = packet.sequence.wrapping_sub(self.highest);
        if ahead < MAX_DROPOUT {
            if packet.sequence < self.highest {
                self.wraps += 1;
            }
            self.highest = packet.sequence;
        } else if ahead <= u16::MAX - MAX_MISORDER {
            // A jump: believed only if the next packet follows it; until then it counts for nothing (RFC 3550 A.1).
            if self.restart == Some(packet.sequence) {
                return false;
            }
            self.restart = Some(packet.sequence.wrapping_add(1));
            return true;
        }
        // What is neither ahead nor a jump came late or twice: received, without moving the highest number.
        self.received += 1;
        self.restart = None;
        self.measure(packet, arrival);
        true
    }

    /// RFC 3550 A.8. Both clocks wrap, so the difference is taken modulo 2^32 and read as signed.
    fn measure(&mut self, packet: &Packet<'_>, arrival: u32) {
        let transit = arrival.wrapping_sub(packet.timestamp);
        let difference = (transit.wrapping_sub(self.transit) as i32).unsigned_abs();
        self.transit = transit;
        self.jitter += (f64::from(difference) - self.jitter) / 16.0;
    }

    fn expected(&self) -> u64 {
        // The highest number never falls below the base without a wrap.
        ((self.wraps << 16) + u64::from(self.highest)).saturating_sub(u64::from(self.base)) + 1
    }
}

/// The caller's clock in units of the timestamp, modulo 2^32.
fn in_clock_units(now: Instant, clock_rate: u32) -> u32 {
    let units = u128::from(now.as_micros()) * u128::from(clock_rate) / 1_000_000;
    units as u32
}

/// Skips the header extension: a profile's 16 bits, the length in words, the words (RFC 3550 §5.3.1).
fn skip_extension(rest: &[u8]) -> Option<&[u8]> {
    let ([_, _, high, low], rest) = rest.split_first_chunk::<4>()?;
    let words = usize::from(u16::from_be_bytes([*high, *low]));
    let (_, rest) = rest.split_at_checked(words * 4)?;
    Some(rest)
}

/// Cuts the padding, whose last octet is its length, itself included (RFC 3550 §5.1).
fn strip_padding(rest: &[u8]) -> Option<&[u8]> {
    let padding = usize::from(*rest.last()?);
    if padding == 0 {
        return None;
    }
    let (payload, _) = rest.split_at_checked(rest.len().checked_sub(padding)?)?;
    Some(payload)
}

const VERSION: u8 = 2;
/// The fixed part of the header.
const HEADER_OCTETS: usize = 12;
/// A step forward below this is loss (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3_000;
/// A step back up to this is disorder (RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: Packet<'static> = Packet {
        marker: true,
        payload_type: 0,
        sequence: 0x0102,
        timestamp: 0x0304_0506,
        ssrc: 0x0708_090a,
        payload: b"audio",
    };

    fn at(milliseconds: u64) -> Instant {
        Instant::from_micros(milliseconds * 1_000)
    }

    /// A packet of 20 ms with this sequence number and a timestamp that fits it.
    fn numbered(sequence: u16) -> Packet<'static> {
        Packet { marker: false, sequence, timestamp: u32::from(sequence) * 160, ..PACKET }
    }

    /// Feeds the numbers, each at the moment it was sent.
    fn fed(numbers: impl IntoIterator<Item = u16>) -> Receiver {
        let mut receiver = Receiver::new(8_000);
        for sequence in numbers {
            receiver.on_packet(at(u64::from(sequence) * 20), &numbered(sequence));
        }
        receiver
    }

    #[test]
    fn a_packet_is_written_as_rfc_3550_draws_it_and_read_back() {
        let mut datagram = Vec::new();
        write(&PACKET, &mut datagram);
        assert_eq!(datagram, [b"\x80\x80\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a".as_slice(), b"audio"].concat());
        assert_eq!(read(&datagram), Some(PACKET));
    }

    #[test]
    fn a_packet_is_written_with_one_allocation_of_its_size() {
        let mut datagram = Vec::new();
        write(&Packet { payload: &[0x55; 160], ..PACKET }, &mut datagram);
        assert_eq!(datagram.len(), 172);
        assert!(datagram.capacity() < 344, "{}", datagram.capacity());
    }

    #[test]
    fn sources_extension_and_padding_are_skipped() {
        // Version 2 with padding, extension and two sources.
        let mut datagram = vec![0xb2, 0x08, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        datagram.extend_from_slice(b"csr1csr2");
        datagram.extend_from_slice(&[0xbe, 0xde, 0, 1, 9, 9, 9, 9]);
        datagram.extend_from_slice(b"audio");
        datagram.extend_from_slice(&[0, 0, 3]);
        let packet = read(&datagram).expect("the datagram is a packet");
        assert_eq!(packet.payload, b"audio");
        assert_eq!((packet.payload_type, packet.marker, packet.sequence), (8, false, 1));
        assert_eq!((packet.timestamp, packet.ssrc), (2, 3));
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let mut whole = Vec::new();
        write(&PACKET, &mut whole);
        for length in 0..HEADER_OCTETS {
            assert_eq!(read(whole.get(..length).expect("shorter than the packet")), None, "{length}");
        }
        let cases: [(u8, &[u8]); 7] = [
            (0x40, b"audio"),
            (0x8f, b"fewer than fifteen sources"),
            (0x90, b"\0\0\xff\xffx"),
            (0x90, b"\0\0"),
            (0xa0, b""),
            (0xa0, b"\0"),
            (0xa0, b"\x09"),
        ];
        for (first, rest) in cases {
            let mut datagram = vec![first];
            datagram.extend_from_slice(&[0; 11]);
            datagram.extend_from_slice(rest);
            assert_eq!(read(&datagram), None, "{first:#x} {rest:?}");
        }
    }

    #[test]
    fn a_whole_stream_loses_nothing_and_has_no_jitter() {
        let receiver = fed(1..=100);
        assert_eq!((receiver.packets(), receiver.octets(), receiver.expected()), (100, 500, 100));
        assert_eq!(receiver.lost(), 0);
        assert_eq!(receiver.loss(), 0.0);
        assert_eq!(receiver.jitter(), Duration::ZERO);
    }

    #[test]
    fn gaps_count_as_lost_and_late_packets_make_up_for_them() {
        let receiver = fed((1..=100).filter(|sequence| sequence % 10 != 0 || *sequence == 100));
        assert_eq!((receiver.expected(), receiver.lost()), (100, 9));
        assert!((receiver.loss() - 0.09).abs() < 1e-9);
        assert_eq!(fed([1, 2, 4, 5, 3]).lost(), 0);
        assert_eq!(fed([1, 2, 2, 2]).lost(), -2);
        assert_eq!(fed([1, 2, 2, 2]).loss(), 0.0);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let receiver = fed([65_534, 65_535, 0, 1, 3]);
        assert_eq!((receiver.expected(), receiver.lost()), (6, 1));
    }

    #[test]
    fn a_step_is_loss_below_3000_ahead_and_disorder_up_to_100_back() {
        // Two numbers, then what is expected and lost: a jump counts for nothing.
        for (numbers, expected, lost) in
            [([10, 3_009], 3_000, 2_998), ([10, 3_010], 1, 0), ([200, 100], 1, -1), ([200, 99], 1, 0)]
        {
            let receiver = fed(numbers);
            assert_eq!((receiver.expected(), receiver.lost()), (expected, lost), "{numbers:?}");
        }
    }

    #[test]
    fn one_wild_packet_moves_nothing_but_two_in_a_row_start_anew() {
        let receiver = fed([1, 2, 30_000, 3, 4]);
        assert_eq!((receiver.packets(), receiver.expected(), receiver.lost()), (5, 4, 0));
        let receiver = fed([1, 2, 30_000, 30_001, 30_002]);
        assert_eq!((receiver.packets(), receiver.expected(), receiver.lost()), (5, 4, 0));
    }

    #[test]
    fn a_new_source_keeps_what_the_old_one_lost() {
        let mut receiver = fed([1, 2, 4]);
        receiver.on_packet(at(100), &Packet { ssrc: 1, ..numbered(700) });
        receiver.on_packet(at(120), &Packet { ssrc: 1, ..numbered(702) });
        assert_eq!((receiver.expected(), receiver.lost()), (7, 2));
    }

    #[test]
    fn jitter_is_smoothed_by_sixteenths() {
        let mut receiver = Receiver::new(8_000);
        receiver.on_packet(at(0), &numbered(0));
        // 16 ms late: 128 units, of which a sixteenth counts, which is 1 ms.
        receiver.on_packet(at(36), &numbered(1));
        assert_eq!(receiver.jitter(), Duration::from_millis(1));
        // As late as before: the difference is none and the jitter falls by a sixteenth.
        receiver.on_packet(at(56), &numbered(2));
        assert_eq!(receiver.jitter(), Duration::from_micros(937) + Duration::from_nanos(500));
    }

    #[test]
    fn jitter_survives_the_wrap_of_the_timestamp() {
        let mut receiver = Receiver::new(8_000);
        receiver.on_packet(at(0), &Packet { timestamp: u32::MAX - 79, ..numbered(0) });
        receiver.on_packet(at(20), &Packet { timestamp: 80, ..numbered(1) });
        assert_eq!(receiver.jitter(), Duration::ZERO);
    }
}
