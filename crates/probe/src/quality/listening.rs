//! What is heard: whether the test tone is in it, and the samples for a file.

use crate::audio::TONE_HERTZ;
use sip::g711;

/// Looks for the test tone in windows of 200 ms, until it is found.
#[derive(Clone, Default, Debug)]
pub(super) struct ToneSearch {
    /// Less than a window, in the order of arrival. Where a packet is lost the phase of the tone jumps by 29 degrees only.
    recent: Vec<i16>,
    found: bool,
}

impl ToneSearch {
    /// The tone was heard.
    pub(super) fn is_over(&self) -> bool {
        self.found
    }

    pub(super) fn hear(&mut self, samples: &[i16]) {
        if self.found {
            return;
        }
        self.recent.extend_from_slice(samples);
        while let Some(window) = self.recent.get(..WINDOW) {
            if is_tone(window) {
                self.found = true;
                self.recent = Vec::new();
                return;
            }
            self.recent.drain(..WINDOW / 2);
        }
    }
}

/// The samples of a stream, each where its timestamp puts it.
#[derive(Clone, Default, Debug)]
pub(super) struct Recording {
    samples: Vec<i16>,
    source: Option<u32>,
    /// The timestamp of what would follow the last sample.
    next: u32,
}

impl Recording {
    pub(super) fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// Pauses and lost packets become silence, late packets get their place. Another source, or a timestamp that has nothing
    /// to do with those before, goes on at the end.
    pub(super) fn place(&mut self, source: u32, timestamp: u32, heard: &[i16]) {
        let end = self.samples.len();
        if end >= LONGEST_RECORDING {
            return;
        }
        // Timestamps wrap, so the difference is taken modulo 2^32 and read as signed.
        let ahead = if self.source == Some(source) { timestamp.wrapping_sub(self.next) as i32 } else { 0 };
        let distance = ahead.unsigned_abs() as usize;
        let start = if distance > LONGEST_PAUSE {
            end
        } else if ahead >= 0 {
            end + distance
        } else if let Some(start) = end.checked_sub(distance) {
            start
        } else {
            // Older than what was heard first.
            return;
        };
        self.source = Some(source);
        if start + heard.len() >= end {
            self.next = timestamp.wrapping_add(heard.len() as u32);
        }
        // The end lies below the limit, as was seen above.
        let stop = (start + heard.len()).clamp(end, LONGEST_RECORDING);
        self.samples.resize(stop, 0);
        for (place, sample) in self.samples.iter_mut().skip(start).zip(heard) {
            *place = *sample;
        }
    }
}

/// More than half of the energy is the tone's, and it is loud enough to be more than the noise of a quiet line.
fn is_tone(samples: &[i16]) -> bool {
    let energy: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    energy > LEAST_MEAN_SQUARE * samples.len() as f64 && g711::tone_power(samples, TONE_HERTZ) > 0.5
}

/// Samples in which the tone is looked for: 200 ms.
const WINDOW: usize = 1_600;
/// A sine with a peak of 45, some -55 dBm0.
const LEAST_MEAN_SQUARE: f64 = 1_000.0;
/// Ten minutes.
const LONGEST_RECORDING: usize = 4_800_000;
/// Ten seconds.
const LONGEST_PAUSE: usize = 80_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A tone that went through mu-law.
    fn heard(hertz: f64, samples: usize, peak: i16) -> Vec<i16> {
        let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
        g711::encode_ulaw(&g711::tone(hertz, g711::SAMPLE_RATE, samples, peak), &mut encoded);
        g711::decode_ulaw(&encoded, &mut decoded);
        decoded
    }

    /// White noise below this peak, the same each time.
    fn noise(samples: usize, peak: i16) -> Vec<i16> {
        let mut state = 1_977_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % (2 * u64::from(peak.unsigned_abs()) + 1)) as i64 - i64::from(peak)
        };
        (0..samples).map(|_| next() as i16).collect()
    }

    fn mixed(one: &[i16], other: &[i16]) -> Vec<i16> {
        one.iter().zip(other).map(|(one, other)| one.saturating_add(*other)).collect()
    }

    fn is_found(samples: &[i16]) -> bool {
        let mut search = ToneSearch::default();
        for frame in samples.chunks(160) {
            search.hear(frame);
        }
        assert!(search.recent.len() < WINDOW);
        search.is_over()
    }

    #[test]
    fn the_tone_is_found_however_quiet_and_nothing_else_is() {
        let tone = heard(TONE_HERTZ, 16_000, 8_000);
        let quiet = heard(TONE_HERTZ, 16_000, 800);
        let cases = [
            (tone.clone(), true),
            // 20 and 40 dB below what is sent.
            (quiet.clone(), true),
            (heard(TONE_HERTZ, 16_000, 80), true),
            (heard(TONE_HERTZ, 16_000, 20), false),
            (heard(TONE_HERTZ, 1_599, 8_000), false),
            ([vec![0; 8_000], heard(TONE_HERTZ, 2_400, 800), vec![0; 8_000]].concat(), true),
            (mixed(&tone, &noise(16_000, 3_000)), true),
            (mixed(&quiet, &noise(16_000, 8_000)), false),
            (noise(160_000, 8_000), false),
            (heard(440.0, 16_000, 8_000), false),
            (heard(990.0, 16_000, 8_000), false),
            (heard(2_008.0, 16_000, 8_000), false),
            (vec![0; 16_000], false),
            (vec![8_000; 16_000], false),
        ];
        for (index, (samples, wanted)) in cases.iter().enumerate() {
            assert_eq!(is_found(samples), *wanted, "case {index}");
        }
    }

    #[test]
    fn the_tone_is_found_though_every_fifth_packet_is_lost() {
        let tone = heard(TONE_HERTZ, 16_000, 8_000);
        let left: Vec<i16> = tone
            .chunks(160)
            .enumerate()
            .filter(|(index, _)| index % 5 != 0)
            .flat_map(|(_, frame)| frame)
            .copied()
            .collect();
        assert!(is_found(&left));
    }

    /// Source, timestamp, and what each of three samples is.
    type Heard = (u32, u32, i16);

    /// What a recording makes of these packets.
    fn recorded(packets: &[Heard]) -> Vec<i16> {
        let mut recording = Recording::default();
        for (source, timestamp, sample) in packets {
            recording.place(*source, *timestamp, &[*sample; 3]);
        }
        recording.samples().to_vec()
    }

    #[test]
    fn samples_are_recorded_where_their_timestamps_put_them() {
        let cases: [(&[Heard], &[i16]); 8] = [
            (&[], &[]),
            (&[(1, 10, 1), (1, 13, 2)], &[1, 1, 1, 2, 2, 2]),
            (&[(1, u32::MAX - 1, 1), (1, 1, 2)], &[1, 1, 1, 2, 2, 2]),
            // Lost, and late.
            (&[(1, 10, 1), (1, 16, 3)], &[1, 1, 1, 0, 0, 0, 3, 3, 3]),
            (&[(1, 10, 1), (1, 16, 3), (1, 13, 2), (1, 19, 4)], &[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]),
            // Before the first; another source; a timestamp out of nowhere.
            (&[(1, 10, 1), (1, 7, 9), (1, 13, 2)], &[1, 1, 1, 2, 2, 2]),
            (&[(1, 10, 1), (2, 900, 2), (2, 903, 3)], &[1, 1, 1, 2, 2, 2, 3, 3, 3]),
            (&[(1, 10, 1), (1, 1_000_000, 2), (1, 1_000_003, 3)], &[1, 1, 1, 2, 2, 2, 3, 3, 3]),
        ];
        for (packets, wanted) in cases {
            assert_eq!(recorded(packets), wanted, "{packets:?}");
        }
    }

    #[test]
    fn a_recording_ends_after_ten_minutes() {
        let mut recording = Recording::default();
        for packet in 0..70_u32 {
            recording.place(1, packet * 70_000, &[1; 70_000]);
        }
        assert_eq!(recording.samples().len(), LONGEST_RECORDING);
    }
}
