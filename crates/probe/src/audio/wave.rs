//! The chunks of a WAV file. Read here, as the library that writes such files takes no mu-law and no file with a chunk of odd
//! length in front of its data.

/// What a WAV file says of itself, and its audio.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Wave<'a> {
    /// The number of the encoding.
    pub(super) format: u16,
    pub(super) channels: u16,
    pub(super) hertz: u32,
    /// Of one sample.
    pub(super) bits: u16,
    pub(super) data: &'a [u8],
}

/// Linear samples.
pub(super) const PCM: u16 = 1;
pub(super) const FLOAT: u16 = 3;
pub(super) const ALAW: u16 = 6;
pub(super) const MULAW: u16 = 7;

/// Whether the file begins as a WAV file does.
pub(super) fn is_wave(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..).is_some_and(|rest| rest.starts_with(b"WAVE"))
}

/// Finds the audio. A chunk that claims to be longer than the file ends with it: who writes into a pipe cannot know the
/// length beforehand.
pub(super) fn read(bytes: &[u8]) -> Result<Wave<'_>, &'static str> {
    let mut rest = bytes.get(RIFF_HEADER_OCTETS..).unwrap_or_default();
    let mut format = None;
    while let Some((header, body)) = rest.split_first_chunk::<8>() {
        let [i0, i1, i2, i3, l0, l1, l2, l3] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (chunk, behind) = body.split_at(length.min(body.len()));
        match &[i0, i1, i2, i3] {
            b"fmt " => format = Some(Format::read(chunk).ok_or("its fmt chunk is too short")?),
            b"data" => {
                let Format { format, channels, hertz, bits } = format.ok_or("its data come before its fmt chunk")?;
                return Ok(Wave { format, channels, hertz, bits, data: chunk });
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = if length % 2 == 1 { behind.get(1..).unwrap_or_default() } else { behind };
    }
    Err("it has no data chunk")
}

/// The `fmt ` chunk.
#[derive(Clone, Copy)]
struct Format {
    format: u16,
    channels: u16,
    hertz: u32,
    bits: u16,
}

impl Format {
    fn read(chunk: &[u8]) -> Option<Self> {
        let [f0, f1, c0, c1, h0, h1, h2, h3, _, _, _, _, _, _, b0, b1] = *chunk.first_chunk::<16>()?;
        let format = match u16::from_le_bytes([f0, f1]) {
            // The extended form has the encoding's number in the first two octets of its last field.
            EXTENSIBLE => u16::from_le_bytes(*chunk.get(24..)?.first_chunk::<2>()?),
            format => format,
        };
        Some(Self {
            format,
            channels: u16::from_le_bytes([c0, c1]),
            hertz: u32::from_le_bytes([h0, h1, h2, h3]),
            bits: u16::from_le_bytes([b0, b1]),
        })
    }
}

const EXTENSIBLE: u16 = 0xfffe;
/// `RIFF`, a length, `WAVE`.
const RIFF_HEADER_OCTETS: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    const FMT: &[u8] = b"fmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0";

    /// A file of these pieces behind its first header.
    fn file(pieces: &[&[u8]]) -> Vec<u8> {
        [b"RIFF\xff\xff\xff\xffWAVE".as_slice(), &pieces.concat()].concat()
    }

    fn wave(data: &[u8]) -> Wave<'_> {
        Wave { format: PCM, channels: 1, hertz: 8_000, bits: 16, data }
    }

    #[test]
    fn a_wav_file_is_known_by_its_beginning() {
        for (bytes, is) in [
            (b"RIFF\0\0\0\0WAVE".as_slice(), true),
            (b"RIFF\0\0\0\0AVI ", false),
            (b"RIFX\0\0\0\0WAVE", false),
            (b"RIFF", false),
            (b"", false),
        ] {
            assert_eq!(is_wave(bytes), is, "{bytes:?}");
        }
    }

    #[test]
    fn the_data_are_found_behind_other_chunks_and_whatever_length_they_claim() {
        let cases: [(&[&[u8]], &[u8]); 5] = [
            (&[FMT, b"data\x04\0\0\0abcd"], b"abcd"),
            (&[FMT, b"data\x02\0\0\0abcd"], b"ab"),
            (&[FMT, b"data\xff\xff\xff\xffabcd"], b"abcd"),
            (&[b"LIST\x03\0\0\0xyz\0", FMT, b"data\x04\0\0\0abcd"], b"abcd"),
            (&[FMT, b"data\0\0\0\0"], b""),
        ];
        for (pieces, data) in cases {
            let bytes = file(pieces);
            assert_eq!(read(&bytes), Ok(wave(data)), "{pieces:?}");
        }
    }

    #[test]
    fn the_extended_form_says_its_encoding_at_the_end() {
        let mut fmt = b"fmt \x28\0\0\0\xfe\xff".to_vec();
        // The plain form without its identifier, length and encoding; then the extension.
        fmt.extend_from_slice(FMT.get(10..).expect("the chunk is longer"));
        fmt.extend_from_slice(b"\x16\0\x10\0\x04\0\0\0\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71");
        assert_eq!(read(&file(&[&fmt, b"data\x04\0\0\0abcd"])), Ok(wave(b"abcd")));
    }

    #[test]
    fn what_is_missing_is_said() {
        let cases: [(&[&[u8]], &str); 6] = [
            (&[], "it has no data chunk"),
            (&[FMT], "it has no data chunk"),
            (&[FMT, b"data\x04\0\0"], "it has no data chunk"),
            (&[b"data\x04\0\0\0abcd", FMT], "its data come before its fmt chunk"),
            (&[b"fmt \x04\0\0\0\x01\0\x01\0", b"data\x04\0\0\0abcd"], "its fmt chunk is too short"),
            (&[b"fmt \x10\0\0\0\xfe\xff\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0"], "its fmt chunk is too short"),
        ];
        for (pieces, why) in cases {
            assert_eq!(read(&file(pieces)), Err(why), "{pieces:?}");
        }
    }
}
