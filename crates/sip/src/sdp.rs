//! As much SDP as calls need: one audio stream offered and read (RFC 8866, RFC 3264).
//!
//! The proxy never looks into a body; this serves user agents only.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

/// One audio stream of a session description.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// Where audio is received. The unspecified address is a hold of RFC 2543.
    pub address: IpAddr,
    /// The RTP port; 0 refuses the stream.
    pub audio_port: u16,
    /// RTP payload types, the preferred one first.
    pub payloads: Vec<u8>,
    /// Which way audio flows, seen from who wrote the description.
    pub direction: Direction,
}

/// Which way audio flows (RFC 8866 §6.7).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Direction {
    /// Both ways; what a description means that says nothing.
    #[default]
    SendRecv,
    /// Only from who wrote the description: it puts the other on hold.
    SendOnly,
    /// Only to who wrote the description.
    RecvOnly,
    /// Not at all.
    Inactive,
}

impl Direction {
    /// The attribute's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    /// Reads an attribute; `None` if it is not about the direction.
    fn from_attribute(attribute: &[u8]) -> Option<Self> {
        [Self::SendRecv, Self::SendOnly, Self::RecvOnly, Self::Inactive]
            .into_iter()
            .find(|direction| direction.as_str().as_bytes() == attribute)
    }
}

/// PCMU, PCMA and telephone-event: the payloads of an offer that names none.
pub const AUDIO_PAYLOADS: [u8; 3] = [0, 8, 101];

/// Writes a description, for an offer and for an answer alike. `session_id` stays the same for a call and `version` grows
/// with each change (RFC 3264 §8). An empty payload list stands for [`AUDIO_PAYLOADS`].
pub fn offer(session_id: u64, version: u64, session: &Session) -> String {
    let family = if session.address.is_ipv4() { "IP4" } else { "IP6" };
    let Session { address, audio_port, .. } = session;
    let payloads: &[u8] = if session.payloads.is_empty() { &AUDIO_PAYLOADS } else { &session.payloads };
    let mut text = format!(
        "v=0\r\no=- {session_id} {version} IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n\
         m=audio {audio_port} RTP/AVP"
    );
    for payload in payloads {
        write!(text, " {payload}").expect("writing to a String cannot fail");
    }
    text.push_str("\r\n");
    for payload in payloads {
        text.push_str(payload_attributes(*payload));
    }
    text.push_str("a=ptime:20\r\na=");
    text.push_str(session.direction.as_str());
    text.push_str("\r\n");
    text
}

/// Reads the first audio stream of a description. `None` if there is no audio or its address is no number: nothing here
/// asks a name server. What is not understood is passed over.
pub fn read(body: &[u8]) -> Option<Session> {
    let mut whole = Section::default();
    let mut audio: Option<(Media, Section)> = None;
    let mut part = Part::Session;
    for line in body.split(|octet| *octet == b'\n') {
        let line = line.trim_ascii();
        if let Some(media) = line.strip_prefix(b"m=") {
            part = if audio.is_none() && is_audio(media) {
                audio = Some((read_media(media)?, Section::default()));
                Part::Audio
            } else {
                Part::Ignored
            };
            continue;
        }
        match (&part, &mut audio) {
            (Part::Session, _) => whole.read(line),
            (Part::Audio, Some((_, section))) => section.read(line),
            (Part::Audio, None) | (Part::Ignored, _) => {}
        }
    }
    let (media, section) = audio?;
    Some(Session {
        address: section.address.or(whole.address)?,
        audio_port: media.port,
        payloads: media.payloads,
        direction: section.direction.or(whole.direction).unwrap_or_default(),
    })
}

/// Where in a description a line stands.
enum Part {
    Session,
    Audio,
    /// Other media, and audio streams after the first.
    Ignored,
}

/// What a session or one of its streams says; the stream's word counts more.
#[derive(Default)]
struct Section {
    address: Option<IpAddr>,
    direction: Option<Direction>,
}

impl Section {
    fn read(&mut self, line: &[u8]) {
        if let Some(connection) = line.strip_prefix(b"c=") {
            self.address = read_connection(connection).or(self.address);
        } else if let Some(attribute) = line.strip_prefix(b"a=") {
            self.direction = Direction::from_attribute(attribute).or(self.direction);
        }
    }
}

/// What the `m=` line says.
struct Media {
    port: u16,
    payloads: Vec<u8>,
}

fn is_audio(media: &[u8]) -> bool {
    words(media).next() == Some(b"audio".as_slice())
}

/// `audio PORT[/COUNT] PROTOCOL PAYLOAD ...`; a payload that is no number is passed over.
fn read_media(media: &[u8]) -> Option<Media> {
    let mut words = words(media).skip(1);
    let port = words.next()?.split(|octet| *octet == b'/').next()?;
    let port: u16 = number(port)?;
    let payloads = words
        .skip(1)
        .filter_map(number::<u8>)
        .filter(|payload| *payload < PAYLOAD_TYPES)
        .take(usize::from(PAYLOAD_TYPES))
        .collect();
    Some(Media { port, payloads })
}

/// `IN IP4 ADDRESS[/TTL]` or `IN IP6 ADDRESS`.
fn read_connection(connection: &[u8]) -> Option<IpAddr> {
    let address = words(connection).nth(2)?.split(|octet| *octet == b'/').next()?;
    number(address)
}

/// The attributes that explain a payload type; nothing for one that this crate does not write.
fn payload_attributes(payload: u8) -> &'static str {
    match payload {
        0 => "a=rtpmap:0 PCMU/8000\r\n",
        8 => "a=rtpmap:8 PCMA/8000\r\n",
        101 => "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n",
        _ => "",
    }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|octet| *octet == b' ').filter(|word| !word.is_empty())
}

/// A number or a numeric address.
fn number<T: FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// RTP has seven bits for the payload type.
const PAYLOAD_TYPES: u8 = 128;

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            address: IpAddr::from([192, 0, 2, 1]),
            audio_port: 49_170,
            payloads: AUDIO_PAYLOADS.to_vec(),
            direction: Direction::SendRecv,
        }
    }

    #[test]
    fn an_offer_is_written_line_by_line() {
        assert_eq!(
            offer(7, 8, &session()),
            "v=0\r\no=- 7 8 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
             m=audio 49170 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
             a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        for direction in [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive] {
            for address in [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])] {
                let written = Session { address, direction, payloads: vec![8, 101], ..session() };
                assert_eq!(read(offer(1, 1, &written).as_bytes()), Some(written));
            }
        }
    }

    #[test]
    fn an_offer_without_payloads_gets_the_usual_ones() {
        let empty = Session { payloads: Vec::new(), ..session() };
        assert_eq!(offer(1, 1, &empty), offer(1, 1, &session()));
    }

    #[test]
    fn the_stream_overrides_the_session() {
        let body = b"v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\na=inactive\r\nt=0 0\r\n\
                     m=video 5000 RTP/AVP 96\r\nc=IN IP4 192.0.2.8\r\na=recvonly\r\n\
                     m=audio 4000/2 RTP/AVP 0 8\r\nc=IN IP4 192.0.2.7/127\r\na=sendonly\r\n\
                     m=audio 4002 RTP/AVP 9\r\nc=IN IP4 192.0.2.6\r\na=sendrecv\r\n";
        let expected = Session {
            address: IpAddr::from([192, 0, 2, 7]),
            audio_port: 4_000,
            payloads: vec![0, 8],
            direction: Direction::SendOnly,
        };
        assert_eq!(read(body), Some(expected));
    }

    #[test]
    fn the_session_speaks_for_a_silent_stream() {
        let body = b"c=IN IP6 2001:db8::1\na=recvonly\nm=audio 4000 RTP/AVP 0\n";
        let expected = Session {
            address: IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            audio_port: 4_000,
            payloads: vec![0],
            direction: Direction::RecvOnly,
        };
        assert_eq!(read(body), Some(expected));
    }

    #[test]
    fn odd_payloads_are_passed_over() {
        let body = b"c=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0 4294967296 x 200 128 127\r\n";
        assert_eq!(read(body).map(|session| session.payloads), Some(vec![0, 127]));
    }

    #[test]
    fn what_holds_no_audio_stream_is_refused() {
        for body in [
            b"".as_slice(),
            b"\0\xff\r\n",
            b"v=0\r\nc=IN IP4 192.0.2.1\r\n",
            b"c=IN IP4 192.0.2.1\r\nm=video 4000 RTP/AVP 0\r\n",
            b"c=IN IP4 host.example.com\r\nm=audio 4000 RTP/AVP 0\r\n",
            b"m=audio 4000 RTP/AVP 0\r\n",
            b"c=IN IP4 192.0.2.1\r\nm=audio 65536 RTP/AVP 0\r\n",
            b"c=IN IP4 192.0.2.1\r\nm=audio\r\n",
        ] {
            assert_eq!(read(body), None, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_refused_stream_is_read_with_port_zero() {
        let body = b"c=IN IP4 0.0.0.0\r\nm=audio 0 RTP/AVP 0\r\n";
        let session = read(body).expect("the body holds an audio stream");
        assert_eq!((session.audio_port, session.address), (0, IpAddr::from([0, 0, 0, 0])));
    }
}
