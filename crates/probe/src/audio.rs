//! What a probe says, and the files that it comes from or goes to.

mod player;
mod wave;

pub use player::Player;
pub(crate) use player::on_the_beat;

use crate::plan::Sound;
use sip::g711;
use std::fmt;
use std::io::Cursor;
use wave::Wave;

/// The test tone: the 1,004 Hz of telephony: near 1,000, but in no simple ratio to 8,000, so that its samples take many values.
pub const TONE_HERTZ: f64 = 1_004.0;

/// Payload type of G.711 mu-law (RFC 3551 §6).
pub(crate) const PCMU: u8 = 0;

/// The longest sound in seconds.
pub const LONGEST_SECONDS: u64 = 600;

/// Why a file cannot be said. All but `TooLong` and `Empty` are of WAV files: any octets are raw mu-law.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AudioFault {
    /// Not one sample.
    Empty {
        name: String,
    },
    TooLong {
        name: String,
        seconds: u64,
    },
    /// Not 8,000 Hz mono.
    Form {
        name: String,
        hertz: u32,
        channels: u16,
    },
    /// Neither 16-bit PCM nor mu-law. `format` is the number that WAV files give to an encoding.
    Encoding {
        name: String,
        format: u16,
        bits: u16,
    },
    /// Not readable as a WAV file.
    Broken {
        name: String,
        why: &'static str,
    },
}

/// Takes the content of a file: 8,000 Hz mono as WAV, 16-bit PCM or mu-law, if it begins as one; else raw mu-law.
pub fn read(name: &str, bytes: &[u8]) -> Result<Sound, AudioFault> {
    let samples = if wave::is_wave(bytes) { from_wave(name, bytes)? } else { bytes.to_vec() };
    if samples.is_empty() {
        return Err(AudioFault::Empty { name: name.to_owned() });
    }
    let seconds = (samples.len() as u64).div_ceil(u64::from(g711::SAMPLE_RATE));
    if seconds > LONGEST_SECONDS {
        return Err(AudioFault::TooLong { name: name.to_owned(), seconds });
    }
    Ok(Sound { name: name.to_owned(), samples: samples.into() })
}

/// Two seconds of the test tone at -9 dBm0, let in and out softly so that it begins and ends without a click.
pub fn tone() -> Sound {
    let mut samples = g711::tone(TONE_HERTZ, g711::SAMPLE_RATE, TONE_SAMPLES, TONE_PEAK);
    for index in 0..RAMP_SAMPLES {
        for at in [index, TONE_SAMPLES - 1 - index] {
            if let Some(sample) = samples.get_mut(at) {
                // The factor is below 1, so the product keeps to 16 bits.
                *sample = (f64::from(*sample) * index as f64 / RAMP_SAMPLES as f64) as i16;
            }
        }
    }
    let mut encoded = Vec::with_capacity(samples.len());
    g711::encode_ulaw(&samples, &mut encoded);
    Sound { name: "tone".to_owned(), samples: encoded.into() }
}

/// A WAV file of 8,000 Hz mono 16-bit PCM. Samples beyond what such a file can tell of, some two thousand million, are
/// left out.
pub fn write_wav(samples: &[i16]) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: g711::SAMPLE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = Cursor::new(Vec::with_capacity(WAVE_HEADER_OCTETS + samples.len() * 2));
    let mut writer =
        hound::WavWriter::new(&mut file, spec).expect("memory takes the header of a form that hound knows");
    for sample in samples.iter().take(MOST_WAVE_SAMPLES) {
        writer.write_sample(*sample).expect("memory takes 16 bits where 16 were promised");
    }
    writer.finalize().expect("the header lies in memory and its lengths in 32 bits");
    file.into_inner()
}

/// The samples of a WAV file as mu-law.
fn from_wave(name: &str, bytes: &[u8]) -> Result<Vec<u8>, AudioFault> {
    let wave: Wave<'_> = wave::read(bytes).map_err(|why| AudioFault::Broken { name: name.to_owned(), why })?;
    if wave.hertz != g711::SAMPLE_RATE || wave.channels != 1 {
        return Err(AudioFault::Form { name: name.to_owned(), hertz: wave.hertz, channels: wave.channels });
    }
    match (wave.format, wave.bits) {
        (wave::PCM, 16) => {
            let (pairs, _) = wave.data.as_chunks::<2>();
            let linear: Vec<i16> = pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect();
            let mut encoded = Vec::with_capacity(linear.len());
            g711::encode_ulaw(&linear, &mut encoded);
            Ok(encoded)
        }
        (wave::MULAW, 8) => Ok(wave.data.to_vec()),
        (format, bits) => Err(AudioFault::Encoding { name: name.to_owned(), format, bits }),
    }
}

impl fmt::Display for AudioFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AudioFault::Empty { name } => write!(formatter, "{name} holds no audio"),
            AudioFault::TooLong { name, seconds } => {
                write!(formatter, "{name} lasts {seconds} s; at most {LONGEST_SECONDS} s are sent")
            }
            AudioFault::Form { name, hertz, channels } => {
                write!(formatter, "{name} is {hertz} Hz ")?;
                match channels {
                    1 => formatter.write_str("mono")?,
                    2 => formatter.write_str("stereo")?,
                    channels => write!(formatter, "with {channels} channels")?,
                }
                formatter.write_str("; needed is 8000 Hz mono: ")?;
                remedy(formatter, name)
            }
            AudioFault::Encoding { name, format, bits } => {
                match *format {
                    wave::PCM => write!(formatter, "{name} is {bits}-bit PCM")?,
                    wave::FLOAT => write!(formatter, "{name} is floating point")?,
                    wave::ALAW => write!(formatter, "{name} is A-law")?,
                    format => write!(formatter, "{name} is in WAV format {format} with {bits} bits")?,
                }
                formatter.write_str("; needed is 16-bit PCM or mu-law: ")?;
                remedy(formatter, name)
            }
            AudioFault::Broken { name, why } => write!(formatter, "{name} is a damaged WAV file: {why}"),
        }
    }
}

/// The command that makes a fitting file of another.
fn remedy(formatter: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    write!(formatter, "sox {name} -r 8000 -c 1 -b 16 -e signed-integer new.wav")
}

impl std::error::Error for AudioFault {}

/// Samples, and octets, in a packet of 20 ms.
const FRAME_SAMPLES: usize = 160;
const TONE_SAMPLES: usize = 16_000;
/// A sine with a peak of 32,124 has 3.17 dBm0 (G.711 table 2a), so this one has -9 dBm0.
const TONE_PEAK: i16 = 8_000;
const RAMP_SAMPLES: usize = FRAME_SAMPLES;
const WAVE_HEADER_OCTETS: usize = 44;
/// The lengths of a WAV file are 32 bits wide.
const MOST_WAVE_SAMPLES: usize = 0x7fff_ff00;

#[cfg(test)]
mod tests {
    use super::*;

    /// A WAV file with this `fmt ` chunk and data.
    fn wave_file(format: u16, channels: u16, hertz: u32, bits: u16, data: &[u8]) -> Vec<u8> {
        let block = channels * (bits / 8);
        let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0".to_vec();
        file.extend_from_slice(&format.to_le_bytes());
        file.extend_from_slice(&channels.to_le_bytes());
        file.extend_from_slice(&hertz.to_le_bytes());
        file.extend_from_slice(&(hertz * u32::from(block)).to_le_bytes());
        file.extend_from_slice(&block.to_le_bytes());
        file.extend_from_slice(&bits.to_le_bytes());
        file.extend_from_slice(b"data");
        file.extend_from_slice(&(data.len() as u32).to_le_bytes());
        file.extend_from_slice(data);
        file
    }

    fn samples_of(bytes: &[u8]) -> Vec<u8> {
        read("x.wav", bytes).expect("the file is good").samples.to_vec()
    }

    #[test]
    fn octets_that_are_no_wav_file_are_raw() {
        let sound = read("hello.ulaw", b"RIFFraff").expect("eight octets are a sound");
        assert_eq!((sound.name.as_str(), &*sound.samples), ("hello.ulaw", b"RIFFraff".as_slice()));
    }

    #[test]
    fn what_is_written_is_read() {
        let linear: Vec<i16> = g711::tone(440.0, g711::SAMPLE_RATE, 1_000, 12_000);
        let file = write_wav(&linear);
        assert_eq!(file.len(), WAVE_HEADER_OCTETS + 2_000);
        let mut encoded = Vec::new();
        g711::encode_ulaw(&linear, &mut encoded);
        assert_eq!(samples_of(&file), encoded);
        // The library that wrote it finds the samples as they were.
        let mut reader = hound::WavReader::new(Cursor::new(file)).expect("it is a WAV file");
        let found: Vec<i16> = reader.samples::<i16>().map(|sample| sample.expect("16 bits")).collect();
        assert_eq!(found, linear);
        assert_eq!(write_wav(&[]).len(), WAVE_HEADER_OCTETS);
    }

    #[test]
    fn mulaw_in_a_wav_file_is_taken_as_it_is() {
        assert_eq!(samples_of(&wave_file(wave::MULAW, 1, 8_000, 8, b"mulaw")), b"mulaw");
    }

    #[test]
    fn every_fault_says_what_and_what_to_do() {
        let hint = "sox x.wav -r 8000 -c 1 -b 16 -e signed-integer new.wav";
        let cases = [
            (Vec::new(), "x.wav holds no audio".to_owned()),
            (wave_file(wave::PCM, 1, 8_000, 16, b""), "x.wav holds no audio".to_owned()),
            (vec![0xff; 4_800_001], "x.wav lasts 601 s; at most 600 s are sent".to_owned()),
            (
                wave_file(wave::PCM, 2, 44_100, 16, &[0; 8]),
                format!("x.wav is 44100 Hz stereo; needed is 8000 Hz mono: {hint}"),
            ),
            (
                wave_file(wave::PCM, 1, 16_000, 16, &[0; 8]),
                format!("x.wav is 16000 Hz mono; needed is 8000 Hz mono: {hint}"),
            ),
            (
                wave_file(wave::MULAW, 6, 8_000, 8, &[0; 6]),
                format!("x.wav is 8000 Hz with 6 channels; needed is 8000 Hz mono: {hint}"),
            ),
            (
                wave_file(wave::PCM, 1, 8_000, 24, &[0; 6]),
                format!("x.wav is 24-bit PCM; needed is 16-bit PCM or mu-law: {hint}"),
            ),
            (
                wave_file(wave::FLOAT, 1, 8_000, 32, &[0; 8]),
                format!("x.wav is floating point; needed is 16-bit PCM or mu-law: {hint}"),
            ),
            (
                wave_file(wave::ALAW, 1, 8_000, 8, &[0; 8]),
                format!("x.wav is A-law; needed is 16-bit PCM or mu-law: {hint}"),
            ),
            (
                wave_file(49, 1, 8_000, 0, &[0; 8]),
                format!("x.wav is in WAV format 49 with 0 bits; needed is 16-bit PCM or mu-law: {hint}"),
            ),
            (b"RIFF\0\0\0\0WAVE".to_vec(), "x.wav is a damaged WAV file: it has no data chunk".to_owned()),
        ];
        for (bytes, text) in cases {
            let fault = read("x.wav", &bytes).expect_err("the file is bad");
            assert_eq!(fault.to_string(), text);
        }
    }

    #[test]
    fn ten_minutes_are_taken() {
        assert_eq!(samples_of(&vec![0xff; 4_800_000]).len(), 4_800_000);
    }

    #[test]
    fn the_tone_lasts_two_seconds_and_begins_and_ends_softly() {
        let sound = tone();
        let mut linear = Vec::new();
        g711::decode_ulaw(&sound.samples, &mut linear);
        assert_eq!(linear.len(), 16_000);
        assert!(g711::tone_power(&linear, TONE_HERTZ) > 0.95);
        let peak = |samples: &[i16]| samples.iter().map(|sample| sample.unsigned_abs()).max();
        for (from, to, lowest, highest) in
            [(0, 16, 0, 900), (15_984, 16_000, 0, 900), (160, 15_840, 7_500, 8_500), (72, 88, 3_000, 5_000)]
        {
            let found = peak(linear.get(from..to).expect("the tone is that long")).expect("there are samples");
            assert!((lowest..=highest).contains(&found), "{from}..{to}: {found}");
        }
    }
}
