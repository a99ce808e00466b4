//! Which packets of a stream came. Only the last 128 are kept one by one: what came later than that is counted for lost, and
//! older ones are but a sum.

use sip::{Instant, g711, rtp};

/// The packets of a stream, by their sequence numbers. A slot is a packet that came, or was lost between others that came.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    /// Judges what is loss, disorder, a jump or another source. Whenever it expects more, slots are added.
    stream: rtp::Receiver,
    /// Source and number of the newest packet.
    newest: Option<(u32, u16)>,
    /// Whether the packets of the last slots came; the newest is bit 0.
    window: u128,
    /// Slots in the window.
    filled: u32,
    /// Those of the present source.
    own: u32,
    /// The slots that left the window.
    past: Runs,
    /// Packets other than audio, each once.
    others: u64,
    late: u64,
    duplicates: u64,
}

/// Packets of audio by their fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    /// Each once.
    pub(super) received: u64,
    pub(super) lost: u64,
    /// Runs of packets that were lost one after the other.
    pub(super) bursts: u64,
    pub(super) late: u64,
    pub(super) duplicates: u64,
}

impl Arrivals {
    pub(super) fn new() -> Self {
        Self {
            stream: rtp::Receiver::new(g711::SAMPLE_RATE),
            newest: None,
            window: 0,
            filled: 0,
            own: 0,
            past: Runs::default(),
            others: 0,
            late: 0,
            duplicates: 0,
        }
    }

    /// A packet came, of audio or of something else that shares the numbers.
    pub(super) fn on_packet(&mut self, now: Instant, packet: &rtp::Packet<'_>, is_audio: bool) {
        let before = self.stream.expected();
        self.stream.on_packet(now, packet);
        let steps = self.stream.expected().saturating_sub(before);
        let is_new = if steps == 0 {
            self.fill(packet)
        } else {
            self.advance(packet, steps);
            true
        };
        if is_new && !is_audio {
            self.others += 1;
        }
    }

    pub(super) fn tally(&self) -> Tally {
        let mut runs = self.past;
        for back in (0..self.filled).rev() {
            runs.add(self.came(back));
        }
        Tally {
            received: runs.came.saturating_sub(self.others),
            lost: runs.lost,
            bursts: runs.bursts,
            late: self.late,
            duplicates: self.duplicates,
        }
    }

    /// The packet is the newest: there are so many slots more, the last of which is its own.
    fn advance(&mut self, packet: &rtp::Packet<'_>, steps: u64) {
        for _ in 0..steps {
            if self.filled == SLOTS {
                let oldest = self.came(SLOTS - 1);
                self.past.add(oldest);
            } else {
                self.filled += 1;
            }
            self.window <<= 1;
        }
        self.window |= 1;
        let follows = self.newest.is_some_and(|(source, sequence)| {
            source == packet.ssrc && u64::from(packet.sequence.wrapping_sub(sequence)) == steps
        });
        let steps = u32::try_from(steps).unwrap_or(SLOTS);
        self.own = if follows { self.own.saturating_add(steps).min(SLOTS) } else { 1 };
        self.newest = Some((packet.ssrc, packet.sequence));
    }

    /// The packet is not newer than others: it came late, once more, or out of nowhere. True if it fills a slot.
    fn fill(&mut self, packet: &rtp::Packet<'_>) -> bool {
        let Some((source, sequence)) = self.newest else {
            return false;
        };
        let back = u32::from(sequence.wrapping_sub(packet.sequence));
        if source != packet.ssrc || back > MAX_MISORDER {
            return false;
        }
        if back >= self.own {
            // Sent before the first that was heard. Behind another source there is no place left for it.
            if self.own < self.filled {
                return false;
            }
            self.own = back + 1;
            self.filled = self.own;
        } else if self.came(back) {
            self.duplicates += 1;
            return false;
        }
        self.window |= 1_u128 << back;
        self.late += 1;
        true
    }

    /// Whether the packet so many slots behind the newest came.
    fn came(&self, back: u32) -> bool {
        (self.window >> back) & 1 == 1
    }
}

/// Slots one after the other.
#[derive(Clone, Copy, Default, Debug)]
struct Runs {
    came: u64,
    lost: u64,
    bursts: u64,
    /// The last slot was lost.
    in_burst: bool,
}

impl Runs {
    fn add(&mut self, came: bool) {
        if came {
            self.came += 1;
        } else {
            self.lost += 1;
            self.bursts += u64::from(!self.in_burst);
        }
        self.in_burst = !came;
    }
}

/// Slots of the window, which has a bit for each.
const SLOTS: u32 = u128::BITS;
/// A step back up to this is disorder (RFC 3550 A.1); it lies within the window.
const MAX_MISORDER: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(ssrc: u32, sequence: u16) -> rtp::Packet<'static> {
        rtp::Packet {
            marker: false,
            payload_type: 0,
            sequence,
            timestamp: u32::from(sequence) * 160,
            ssrc,
            payload: b"audio",
        }
    }

    /// Received, lost, bursts, late and duplicates.
    type Counts = (u64, u64, u64, u64, u64);

    /// What is counted of audio that comes with these numbers.
    fn tally_of(numbers: impl IntoIterator<Item = u16>) -> Counts {
        let mut arrivals = Arrivals::new();
        for sequence in numbers {
            arrivals.on_packet(Instant::from_micros(0), &packet(1, sequence), true);
        }
        figures(&arrivals)
    }

    fn figures(arrivals: &Arrivals) -> Counts {
        let Tally { received, lost, bursts, late, duplicates } = arrivals.tally();
        (received, lost, bursts, late, duplicates)
    }

    #[test]
    fn losses_are_counted_with_their_bursts() {
        let cases: [(&[u16], Counts); 12] = [
            (&[], (0, 0, 0, 0, 0)),
            (&[7], (1, 0, 0, 0, 0)),
            (&[1, 2, 3], (3, 0, 0, 0, 0)),
            (&[1, 3, 5], (3, 2, 2, 0, 0)),
            (&[1, 4, 5], (3, 2, 1, 0, 0)),
            (&[65_534, 1, 2], (3, 2, 1, 0, 0)),
            (&[1, 4, 3, 5], (4, 1, 1, 1, 0)),
            (&[1, 4, 3, 3, 4, 1], (3, 1, 1, 1, 3)),
            // What came before the first is known once it comes late.
            (&[5, 4, 6], (3, 0, 0, 1, 0)),
            (&[5, 2, 6], (3, 2, 1, 1, 0)),
            // A wild number moves nothing, and two in a row begin anew.
            (&[1, 2, 30_000, 3, 4], (4, 0, 0, 0, 0)),
            (&[1, 3, 30_000, 30_001, 30_003], (4, 2, 2, 0, 0)),
        ];
        for (numbers, wanted) in cases {
            assert_eq!(tally_of(numbers.iter().copied()), wanted, "{numbers:?}");
        }
    }

    #[test]
    fn what_leaves_the_window_is_not_forgotten() {
        // Every tenth is lost; nine hundred slots are long out of the window.
        assert_eq!(tally_of((1..=1_001).filter(|sequence| sequence % 10 != 0)), (901, 100, 100, 0, 0));
        // A gap wider than the window is one burst, also where it begins in the window and ends far behind it.
        assert_eq!(tally_of((1..=50).chain(1_051..=2_000)), (1_000, 1_000, 1, 0, 0));
        // A hundred numbers late is late; more is out of nowhere.
        assert_eq!(tally_of((1..=300).filter(|sequence| *sequence != 200).chain([200])), (300, 0, 0, 1, 0));
        assert_eq!(tally_of((1..=300).filter(|sequence| *sequence != 199).chain([199])), (299, 1, 1, 0, 0));
    }

    #[test]
    fn numbers_wrap_as_often_as_they_like() {
        let numbers = (0..200_000_u32).filter(|number| number % 1_000 != 999).map(|number| number as u16);
        assert_eq!(tally_of(numbers), (199_800, 199, 199, 0, 0));
    }

    #[test]
    fn another_source_goes_on_counting_and_does_not_fill_the_gaps_of_the_first() {
        let mut arrivals = Arrivals::new();
        for (ssrc, sequence) in [(1, 1), (1, 4), (2, 700), (2, 699), (2, 702), (2, 701), (1, 3)] {
            arrivals.on_packet(Instant::from_micros(0), &packet(ssrc, sequence), true);
        }
        // The last packet begins the first source once more.
        assert_eq!(figures(&arrivals), (6, 2, 1, 1, 0));
    }

    #[test]
    fn other_packets_fill_slots_and_are_no_audio() {
        let mut arrivals = Arrivals::new();
        for (sequence, is_audio) in [(1, true), (2, false), (2, false), (4, true), (3, false)] {
            arrivals.on_packet(Instant::from_micros(0), &packet(1, sequence), is_audio);
        }
        assert_eq!(figures(&arrivals), (2, 0, 0, 1, 1));
    }
}
