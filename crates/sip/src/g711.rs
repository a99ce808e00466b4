//! G.711 audio at 8,000 samples a second: coding, test tones and their detection.
//!
//! The coding itself is a library's; here are the forms that calls need: whole packets into reused buffers, a tone to send,
//! and a number that says whether that tone came back.

use std::f64::consts::TAU;

/// Samples a second of G.711 (RFC 3551 §4.5.14), which [`tone_power`] reckons with.
pub const SAMPLE_RATE: u32 = 8_000;

/// Appends one octet of μ-law (payload type 0) for each linear 16-bit sample.
pub fn encode_ulaw(samples: &[i16], out: &mut Vec<u8>) {
    out.extend(samples.iter().map(|sample| audio_codec_algorithms::encode_ulaw(*sample)));
}

/// Appends one linear 16-bit sample for each octet of μ-law (payload type 0).
pub fn decode_ulaw(encoded: &[u8], out: &mut Vec<i16>) {
    out.extend(encoded.iter().map(|octet| audio_codec_algorithms::decode_ulaw(*octet)));
}

/// Appends one octet of A-law (payload type 8) for each linear 16-bit sample.
pub fn encode_alaw(samples: &[i16], out: &mut Vec<u8>) {
    out.extend(samples.iter().map(|sample| audio_codec_algorithms::encode_alaw(*sample)));
}

/// Appends one linear 16-bit sample for each octet of A-law (payload type 8).
pub fn decode_alaw(encoded: &[u8], out: &mut Vec<i16>) {
    out.extend(encoded.iter().map(|octet| audio_codec_algorithms::decode_alaw(*octet)));
}

/// A sine tone that begins at phase zero: `samples` linear samples with the given peak.
pub fn tone(hertz: f64, sample_rate: u32, samples: usize, amplitude: i16) -> Vec<i16> {
    let step = TAU * hertz / f64::from(sample_rate.max(1));
    let peak = f64::from(amplitude);
    // The cast saturates, so that not even an amplitude at the limit wraps.
    (0..samples).map(|index| (peak * (step * index as f64).sin()).round() as i16).collect()
}

/// The share of the samples' energy at one frequency, from 0 (silence, other tones) to 1 (nothing but this tone), by the
/// Goertzel algorithm at [`SAMPLE_RATE`]. N samples tell apart tones that lie 8,000 / N Hz from each other.
pub fn tone_power(samples: &[i16], hertz: f64) -> f64 {
    let energy: f64 = samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    if energy == 0.0 {
        return 0.0;
    }
    let coefficient = 2.0 * (TAU * hertz / f64::from(SAMPLE_RATE)).cos();
    let (mut last, mut before) = (0.0_f64, 0.0_f64);
    for sample in samples {
        let next = f64::from(*sample) + coefficient * last - before;
        before = last;
        last = next;
    }
    let power = last * last + before * before - coefficient * last * before;
    // A sine of peak A over N samples has the power (A * N / 2)^2 and the energy N * A^2 / 2.
    (2.0 * power / (samples.len() as f64 * energy)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_has_the_period_and_the_peak_asked_for() {
        let samples = tone(1_000.0, 8_000, 16, 10_000);
        assert_eq!(samples.len(), 16);
        // A thousand hertz takes eight samples.
        assert_eq!(samples.first(), Some(&0));
        assert_eq!(samples.get(2), Some(&10_000));
        assert_eq!(samples.get(6), Some(&-10_000));
        assert_eq!(samples.get(10), Some(&10_000));
    }

    #[test]
    fn a_tone_is_found_and_others_are_not() {
        let samples = tone(440.0, 8_000, 1_600, 8_000);
        assert!(tone_power(&samples, 440.0) > 0.99, "{}", tone_power(&samples, 440.0));
        for other in [350.0, 620.0, 880.0, 1_004.0] {
            assert!(tone_power(&samples, other) < 0.01, "{other}: {}", tone_power(&samples, other));
        }
    }

    #[test]
    fn two_tones_share_the_energy() {
        let mixed: Vec<i16> = tone(440.0, 8_000, 1_600, 8_000)
            .into_iter()
            .zip(tone(880.0, 8_000, 1_600, 8_000))
            .map(|(one, other)| one + other)
            .collect();
        for hertz in [440.0, 880.0] {
            let share = tone_power(&mixed, hertz);
            assert!((0.49..0.51).contains(&share), "{hertz}: {share}");
        }
    }

    #[test]
    fn silence_has_no_tone() {
        assert_eq!(tone_power(&[0; 160], 440.0), 0.0);
        assert_eq!(tone_power(&[], 440.0), 0.0);
    }

    #[test]
    fn both_laws_keep_a_tone() {
        let samples = tone(440.0, 8_000, 1_600, 8_000);
        let (mut encoded, mut decoded) = (Vec::new(), Vec::new());
        encode_ulaw(&samples, &mut encoded);
        decode_ulaw(&encoded, &mut decoded);
        assert_eq!((encoded.len(), decoded.len()), (1_600, 1_600));
        assert!(tone_power(&decoded, 440.0) > 0.99);
        assert_ne!(samples, decoded, "eight bits cannot hold sixteen");

        encoded.clear();
        decoded.clear();
        encode_alaw(&samples, &mut encoded);
        decode_alaw(&encoded, &mut decoded);
        assert!(tone_power(&decoded, 440.0) > 0.99);
    }

    #[test]
    fn silence_is_ff_in_ulaw_and_output_is_appended() {
        let mut encoded = vec![1];
        encode_ulaw(&[0, 0], &mut encoded);
        assert_eq!(encoded, [1, 0xff, 0xff]);
        let mut decoded = Vec::new();
        decode_ulaw(&[0xff, 0x00, 0x80], &mut decoded);
        assert_eq!(decoded, [0, -32_124, 32_124]);
    }
}
