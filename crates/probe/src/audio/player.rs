//! A stream of packets, one every 20 ms, made of one sound after the other.

use super::{FRAME_SAMPLES, PCMU};
use crate::plan::Sound;
use sip::{Instant, rtp};
use std::time::Duration;

/// Says its sounds in one RTP stream of G.711 mu-law: numbers and timestamps go on from sound to sound.
#[derive(Clone, Debug)]
pub struct Player {
    /// None of them empty.
    sounds: Vec<Sound>,
    ssrc: u32,
    /// Which sound plays, and how many of its octets are sent.
    playing: usize,
    offset: usize,
    sent: u64,
    /// A multiple of 20 ms of the clock.
    next_at: Instant,
}

impl Player {
    /// Begins at `start` or up to 20 ms later: packets leave at multiples of 20 ms of the clock, so that many players wake
    /// their thread together and not one after the other.
    pub fn new(mut sounds: Vec<Sound>, ssrc: u32, start: Instant) -> Self {
        sounds.retain(|sound| !sound.samples.is_empty());
        Self { sounds, ssrc, playing: 0, offset: 0, sent: 0, next_at: on_the_beat(start) }
    }

    /// The next RTP packet that is due.
    pub fn poll(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_at > now {
            return None;
        }
        let sound = self.sounds.get(self.playing)?;
        // The last packet of a sound is filled up with silence.
        let mut payload = [SILENCE; FRAME_SAMPLES];
        for (place, octet) in payload.iter_mut().zip(sound.samples.iter().skip(self.offset)) {
            *place = *octet;
        }
        let packet = rtp::Packet {
            marker: self.offset == 0,
            payload_type: PCMU,
            // Both numbers begin where chance has it (RFC 3550 §5.1), which is in the source's number, and wrap.
            sequence: (u64::from(self.ssrc >> 16) + self.sent) as u16,
            timestamp: (u64::from(self.ssrc.rotate_left(8)) + self.sent * FRAME_SAMPLES as u64) as u32,
            ssrc: self.ssrc,
            payload: &payload,
        };
        let mut bytes = Vec::with_capacity(RTP_HEADER_OCTETS + FRAME_SAMPLES);
        rtp::write(&packet, &mut bytes);
        self.sent += 1;
        self.offset += FRAME_SAMPLES;
        if self.offset >= sound.samples.len() {
            self.playing += 1;
            self.offset = 0;
        }
        // Packets late by a little are sent in a row; after a standstill the stream goes on from now.
        let late = now.saturating_since(self.next_at) > LONGEST_LAG;
        self.next_at = if late { on_the_beat(now + Duration::from_micros(1)) } else { self.next_at + FRAME };
        Some(bytes)
    }

    /// When [`poll`](Self::poll) has something; `None` once all is said.
    pub fn deadline(&self) -> Option<Instant> {
        (!self.is_finished()).then_some(self.next_at)
    }

    /// All is said.
    pub fn is_finished(&self) -> bool {
        self.playing >= self.sounds.len()
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }
}

/// This moment or the next one at which packets leave.
pub(crate) fn on_the_beat(moment: Instant) -> Instant {
    Instant::from_micros(moment.as_micros().div_ceil(FRAME_MICROS).saturating_mul(FRAME_MICROS))
}

/// Duration of a packet.
const FRAME: Duration = Duration::from_micros(FRAME_MICROS);
const FRAME_MICROS: u64 = 20_000;
const LONGEST_LAG: Duration = Duration::from_millis(200);
const RTP_HEADER_OCTETS: usize = 12;
/// No sound, in mu-law.
const SILENCE: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;

    const SSRC: u32 = 0xfffe_0001;

    fn at(milliseconds: u64) -> Instant {
        Instant::from_micros(milliseconds * 1_000)
    }

    fn sound(octet: u8, length: usize) -> Sound {
        Sound { name: "x".to_owned(), samples: vec![octet; length].into() }
    }

    /// Plays until nothing is due any more, and gives each packet with the moment it was due.
    fn played(player: &mut Player) -> Vec<(Instant, Vec<u8>)> {
        let mut packets = Vec::new();
        while let Some(due) = player.deadline() {
            packets.push((due, player.poll(due).expect("a packet is due")));
        }
        packets
    }

    #[test]
    fn sounds_follow_each_other_in_one_stream() {
        let mut player = Player::new(vec![sound(1, 320), sound(9, 0), sound(2, 200)], SSRC, at(1_001));
        assert_eq!(player.poll(at(1_019)), None);
        let packets = played(&mut player);
        assert!(player.is_finished());
        assert_eq!((player.sent(), player.deadline(), player.poll(at(9_000))), (4, None, None));
        let first_timestamp = SSRC.rotate_left(8);
        // The number wraps after the second packet.
        let wanted = [(1_020, true, 65_534), (1_040, false, 65_535), (1_060, true, 0), (1_080, false, 1)];
        for (index, ((due, bytes), (millisecond, marker, sequence))) in packets.iter().zip(wanted).enumerate() {
            let packet = rtp::read(bytes).expect("it is RTP");
            assert_eq!((*due, packet.marker, packet.sequence), (at(millisecond), marker, sequence), "{index}");
            assert_eq!(packet.timestamp, first_timestamp.wrapping_add(index as u32 * 160));
            assert_eq!((packet.ssrc, packet.payload_type, packet.payload.len()), (SSRC, 0, 160));
        }
        let (_, last) = packets.last().expect("there are four");
        let payload = rtp::read(last).expect("it is RTP").payload;
        assert_eq!(payload, [[2; 40].as_slice(), &[SILENCE; 120]].concat());
    }

    #[test]
    fn a_late_turn_sends_what_is_due_and_a_standstill_is_left_out() {
        let mut player = Player::new(vec![sound(1, 16_000)], SSRC, at(0));
        let mut sent = |now: Instant| std::iter::from_fn(|| player.poll(now)).count();
        assert_eq!(sent(at(100)), 6);
        assert_eq!(sent(at(10_005)), 1);
        assert_eq!(sent(at(10_019)), 0);
        assert_eq!(sent(at(10_020)), 1);
        assert_eq!(sent(at(10_040)), 1);
    }

    #[test]
    fn who_has_nothing_to_say_is_finished() {
        let mut player = Player::new(vec![sound(1, 0)], SSRC, at(0));
        assert!(player.is_finished());
        assert_eq!((player.deadline(), player.poll(at(0))), (None, None));
    }
}
