//! The session descriptions of a phone that speaks G.711 (RFC 3264).

use crate::limits;
use sip::sdp::{self, Direction, Session};
use std::net::SocketAddr;

/// The payload type of telephone-event: keys pressed, which are no audio.
const EVENTS: u8 = 101;

/// An offer of what we speak.
pub(super) fn offer(session: u64, version: u64, media: SocketAddr, payloads: &[u8]) -> Vec<u8> {
    let description = Session {
        address: media.ip(),
        audio_port: media.port(),
        payloads: payloads.to_vec(),
        direction: Direction::SendRecv,
    };
    sdp::offer(session, version, &description).into_bytes()
}

/// The answer to an offer: its first audio stream is taken and each other stream refused in its place (RFC 3264 §6). `None` if
/// that one is not offered, or if we share no codec.
pub(super) fn answer(session: u64, version: u64, media: SocketAddr, ours: &[u8], offer: &[u8]) -> Option<Vec<u8>> {
    let offered = sdp::read(offer)?;
    let payloads: Vec<u8> = offered.payloads.iter().copied().filter(|payload| ours.contains(payload)).collect();
    if offered.audio_port == 0 || payloads.iter().all(|payload| *payload == EVENTS) {
        return None;
    }
    let (before, after) = refusals(offer)?;
    let direction = match offered.direction {
        Direction::SendRecv => Direction::SendRecv,
        Direction::SendOnly => Direction::RecvOnly,
        Direction::RecvOnly => Direction::SendOnly,
        Direction::Inactive => Direction::Inactive,
    };
    let description = Session { address: media.ip(), audio_port: media.port(), payloads, direction };
    let text = sdp::offer(session, version, &description);
    let (head, audio) = text.split_at(text.find("m=audio")?);
    Some([head, before.as_str(), audio, after.as_str()].concat().into_bytes())
}

/// The lines that refuse all streams of an offer but its first audio stream: those before it and those after it. `None` if that one
/// is not of the protocol that we speak: an answer has the protocol of its offer.
fn refusals(offer: &[u8]) -> Option<(String, String)> {
    let lines = offer.split(|octet| *octet == b'\n').map(<[u8]>::trim_ascii);
    let streams = lines.filter_map(|line| line.strip_prefix(b"m="));
    let streams: Vec<&[u8]> = streams.take(limits::STREAMS + 1).collect();
    if streams.len() > limits::STREAMS {
        return None;
    }
    let (before, rest) = streams.split_at(streams.iter().position(|stream| is_audio(stream))?);
    let (audio, after) = rest.split_first()?;
    if words(audio).nth(2) != Some(b"RTP/AVP".as_slice()) {
        return None;
    }
    let refused = |streams: &[&[u8]]| streams.iter().map(|stream| refusal(stream)).collect::<Option<String>>();
    Some((refused(before)?, refused(after)?))
}

fn is_audio(stream: &[u8]) -> bool {
    words(stream).next() == Some(b"audio".as_slice())
}

fn words(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    stream.split(|octet| *octet == b' ').filter(|word| !word.is_empty())
}

/// `m=<media> 0 <protocol> <format>`. One format has to stand there and means nothing.
fn refusal(stream: &[u8]) -> Option<String> {
    let stream = std::str::from_utf8(stream).ok().filter(|stream| !stream.contains(char::is_control))?;
    let mut words = stream.split(' ').filter(|word| !word.is_empty());
    let (media, _port, protocol) = (words.next()?, words.next()?, words.next()?);
    let format = words.next().unwrap_or("0");
    Some(format!("m={media} 0 {protocol} {format}\r\n"))
}

/// Where the sender of a description wants to hear us. `None` without a description, for a refused stream, and on hold.
pub(super) fn remote(session: Option<&Session>) -> Option<SocketAddr> {
    let session = session?;
    let listening = matches!(session.direction, Direction::SendRecv | Direction::RecvOnly);
    if session.audio_port == 0 || session.address.is_unspecified() || !listening {
        return None;
    }
    Some(SocketAddr::new(session.address, session.audio_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip::sdp::AUDIO_PAYLOADS;

    fn media() -> SocketAddr {
        SocketAddr::from(([10, 1, 0, 1], 4000))
    }

    #[test]
    fn an_offer_names_where_to_send() {
        let offered = sdp::read(&offer(1, 1, media(), &[0, 101])).expect("we can read what we write");
        assert_eq!(remote(Some(&offered)), Some(media()));
        assert_eq!(offered.payloads, [0, 101]);
        assert_eq!(remote(None), None);
    }

    /// Our answer to an offer of these streams.
    fn answered(streams: &str, ours: &[u8]) -> Option<String> {
        let offer = format!("v=0\r\no=- 1 1 IN IP4 10.1.0.2\r\ns=-\r\nc=IN IP4 10.1.0.2\r\nt=0 0\r\n{streams}\r\n");
        let body = answer(2, 1, media(), ours, offer.as_bytes())?;
        Some(String::from_utf8(body).expect("what we write is ASCII"))
    }

    #[test]
    fn an_answer_mirrors_direction_and_keeps_only_common_payloads() {
        let streams = "m=audio 4002 RTP/AVP 9 8\r\na=sendonly";
        let body = answered(streams, &AUDIO_PAYLOADS).expect("PCMA is common to both");
        let session = sdp::read(body.as_bytes()).expect("we can read what we write");
        assert_eq!(session.payloads, [8]);
        assert_eq!(session.direction, Direction::RecvOnly);
        assert_eq!(answered(streams, &[0, 101]), None, "PCMA is not ours");
        assert_eq!(answered("m=audio 4002 RTP/AVP 9", &AUDIO_PAYLOADS), None);
    }

    #[test]
    fn events_without_a_codec_and_a_refused_stream_are_not_answered() {
        assert_eq!(answered("m=audio 4002 RTP/AVP 8 101", &[0, 101]), None, "keys pressed alone are no audio");
        assert_eq!(answered("m=audio 0 RTP/AVP 0 8 101", &AUDIO_PAYLOADS), None);
        assert_eq!(answered("m=audio 4002 RTP/SAVP 0 8 101", &AUDIO_PAYLOADS), None, "SRTP is not ours");
        assert!(answered("m=audio 4002 RTP/AVP 8 101", &AUDIO_PAYLOADS).is_some());
    }

    #[test]
    fn an_answer_has_the_streams_of_the_offer_in_their_order() {
        let streams = "m=video 5000 RTP/AVP 96 97\r\na=rtpmap:96 VP8/90000\r\nm=audio 4002 RTP/AVP 0\r\n\
                       m=audio 4004/2 RTP/SAVP 8\r\nm=image 0 udptl t38\r\nm=text 0 RTP/AVP";
        let body = answered(streams, &AUDIO_PAYLOADS).expect("PCMU is common to both");
        let lines: Vec<&str> = body.lines().filter(|line| line.starts_with("m=")).collect();
        let expected = [
            "m=video 0 RTP/AVP 96",
            "m=audio 4000 RTP/AVP 0",
            "m=audio 0 RTP/SAVP 8",
            "m=image 0 udptl t38",
            "m=text 0 RTP/AVP 0",
        ];
        assert_eq!(lines, expected);
        let session = sdp::read(body.as_bytes()).expect("we can read what we write");
        assert_eq!((session.address, session.audio_port), (media().ip(), media().port()));
    }

    #[test]
    fn streams_that_cannot_be_mirrored_are_not_answered() {
        for streams in ["m=video", "m=video 5000", "m=vi\tdeo 5000 RTP/AVP 96"] {
            assert_eq!(answered(&format!("m=audio 4002 RTP/AVP 0\r\n{streams}"), &AUDIO_PAYLOADS), None, "{streams}");
        }
        let most = "\r\nm=video 5000 RTP/AVP 96".repeat(limits::STREAMS - 1);
        assert!(answered(&format!("m=audio 4002 RTP/AVP 0{most}"), &AUDIO_PAYLOADS).is_some());
        assert_eq!(answered(&format!("m=audio 4002 RTP/AVP 0{most}{most}"), &AUDIO_PAYLOADS), None);
    }
}
