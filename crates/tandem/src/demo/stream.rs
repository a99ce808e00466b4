//! The audio of one call: a packet of G.711 every 20 ms, and what is heard of the other side.

use sip::{Instant, g711, rtp};
use std::net::SocketAddr;
use std::time::Duration;

/// Both directions of one call's audio.
pub(super) struct Stream {
    /// Where the other side wants to hear us.
    pub(super) remote: Option<SocketAddr>,
    /// When the next packet is due; `None`: we do not speak.
    next_at: Option<Instant>,
    ssrc: u32,
    sent: u64,
    receiver: rtp::Receiver,
    /// The samples heard last, at least a window of them once so many have come.
    recent: Vec<i16>,
}

impl Stream {
    /// Listens, and does not speak yet.
    pub(super) fn new(ssrc: u32, remote: Option<SocketAddr>) -> Self {
        Self {
            remote,
            next_at: None,
            ssrc,
            sent: 0,
            receiver: rtp::Receiver::new(g711::SAMPLE_RATE),
            recent: Vec::new(),
        }
    }

    pub(super) fn speak(&mut self, now: Instant) {
        self.next_at.get_or_insert(now);
    }

    pub(super) fn mute(&mut self) {
        self.next_at = None;
    }

    /// When [`poll_packet`](Self::poll_packet) has something.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.remote.and(self.next_at)
    }

    /// The next packet that is due, and where it goes. `tone`: one second of μ-law.
    pub(super) fn poll_packet(&mut self, now: Instant, tone: &[u8]) -> Option<(SocketAddr, Vec<u8>)> {
        let (remote, due) = (self.remote?, self.next_at?);
        if due > now {
            return None;
        }
        // Packets late by a little are sent in a row; after a standstill the stream goes on from now.
        let late = now.saturating_since(due);
        self.next_at = Some(if late > LONGEST_LAG { now + FRAME } else { due + FRAME });
        let frame = self.sent % FRAMES_A_SECOND;
        let payload = tone.chunks_exact(FRAME_SAMPLES).nth(frame as usize)?;
        let packet = rtp::Packet {
            marker: self.sent == 0,
            payload_type: PCMU,
            // Both numbers wrap as RFC 3550 has it.
            sequence: self.sent as u16,
            timestamp: (self.sent * FRAME_SAMPLES as u64) as u32,
            ssrc: self.ssrc,
            payload,
        };
        self.sent += 1;
        let mut bytes = Vec::with_capacity(12 + FRAME_SAMPLES);
        rtp::write(&packet, &mut bytes);
        Some((remote, bytes))
    }

    /// Takes a datagram of the other side; what is no μ-law is not counted.
    pub(super) fn on_datagram(&mut self, now: Instant, bytes: &[u8]) {
        let Some(packet) = rtp::read(bytes).filter(|packet| packet.payload_type == PCMU) else {
            return;
        };
        self.receiver.on_packet(now, &packet);
        g711::decode_ulaw(packet.payload, &mut self.recent);
        if self.recent.len() > 2 * WINDOW {
            self.recent.drain(..self.recent.len() - WINDOW);
        }
    }

    /// Packets sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// Packets received.
    pub(super) fn heard(&self) -> u64 {
        self.receiver.packets()
    }

    /// Packets missing among those received.
    pub(super) fn lost(&self) -> u64 {
        u64::try_from(self.receiver.lost()).unwrap_or(0)
    }

    /// The share of this tone in what was heard last, from 0 to 1.
    pub(super) fn tone_power(&self, hertz: f64) -> f64 {
        g711::tone_power(&self.recent, hertz)
    }
}

/// One second of a tone as μ-law. Whole numbers of hertz go on without a step when it is repeated.
pub(super) fn tone(hertz: f64) -> Vec<u8> {
    let samples = g711::tone(hertz, g711::SAMPLE_RATE, g711::SAMPLE_RATE as usize, 8_000);
    let mut encoded = Vec::with_capacity(samples.len());
    g711::encode_ulaw(&samples, &mut encoded);
    encoded
}

/// Duration of a packet.
const FRAME: Duration = Duration::from_millis(20);
const FRAME_SAMPLES: usize = 160;
const FRAMES_A_SECOND: u64 = 50;
/// Payload type of G.711 μ-law (RFC 3551 §6).
const PCMU: u8 = 0;
const LONGEST_LAG: Duration = Duration::from_millis(200);
/// Samples in which tones are looked for: 200 ms.
const WINDOW: usize = 1_600;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_micros(milliseconds * 1_000)
    }

    #[test]
    fn a_second_of_speech_is_fifty_packets_and_is_heard_as_the_tone() {
        let remote = SocketAddr::from(([127, 0, 0, 22], 6_060));
        let (mut speaker, mut listener) = (Stream::new(1, Some(remote)), Stream::new(2, None));
        let spoken = tone(440.0);
        assert_eq!(spoken.len(), 8_000);
        assert_eq!(speaker.poll_packet(at(0), &spoken), None, "it does not speak yet");
        speaker.speak(at(1_000));
        for millisecond in 1_000..2_000 {
            while let Some((to, bytes)) = speaker.poll_packet(at(millisecond), &spoken) {
                assert_eq!(to, remote);
                listener.on_datagram(at(millisecond), &bytes);
            }
        }
        assert_eq!((speaker.sent(), listener.heard(), listener.lost()), (50, 50, 0));
        assert!(listener.tone_power(440.0) > 0.9);
        assert!(listener.tone_power(880.0) < 0.1);
        speaker.mute();
        assert_eq!((speaker.deadline(), speaker.poll_packet(at(9_000), &spoken)), (None, None));
    }

    #[test]
    fn a_late_turn_sends_what_is_due_and_a_standstill_is_left_out() {
        let mut speaker = Stream::new(1, Some(SocketAddr::from(([127, 0, 0, 22], 6_060))));
        let spoken = tone(440.0);
        speaker.speak(at(0));
        let mut sent = |now: Instant| std::iter::from_fn(|| speaker.poll_packet(now, &spoken)).count();
        assert_eq!(sent(at(100)), 6);
        assert_eq!(sent(at(10_000)), 1);
        assert_eq!(sent(at(10_020)), 1);
    }

    #[test]
    fn who_knows_no_address_waits_for_nothing() {
        let mut speaker = Stream::new(1, None);
        speaker.speak(at(0));
        assert_eq!(speaker.deadline(), None);
    }
}
