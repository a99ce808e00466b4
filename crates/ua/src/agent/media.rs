//! The session descriptions of a phone that speaks G.711 (RFC 3264).

use sip::sdp::{self, Direction, Session};
use std::net::SocketAddr;

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

/// The answer to an offer; `None` if we cannot speak what it offers.
pub(super) fn answer(session: u64, version: u64, media: SocketAddr, ours: &[u8], offered: &Session) -> Option<Vec<u8>> {
    let payloads: Vec<u8> = offered.payloads.iter().copied().filter(|payload| ours.contains(payload)).collect();
    if payloads.is_empty() {
        return None;
    }
    let direction = match offered.direction {
        Direction::SendRecv => Direction::SendRecv,
        Direction::SendOnly => Direction::RecvOnly,
        Direction::RecvOnly => Direction::SendOnly,
        Direction::Inactive => Direction::Inactive,
    };
    let description = Session { address: media.ip(), audio_port: media.port(), payloads, direction };
    Some(sdp::offer(session, version, &description).into_bytes())
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

    #[test]
    fn an_answer_mirrors_direction_and_keeps_only_common_payloads() {
        let mut offered = sdp::read(&offer(1, 1, media(), &AUDIO_PAYLOADS)).expect("we can read what we write");
        offered.payloads = vec![9, 8];
        offered.direction = Direction::SendOnly;
        let body = answer(2, 1, media(), &AUDIO_PAYLOADS, &offered).expect("PCMA is common to both");
        let answered = sdp::read(&body).expect("we can read what we write");
        assert_eq!(answered.payloads, [8]);
        assert_eq!(answered.direction, Direction::RecvOnly);
        assert_eq!(answer(2, 1, media(), &[0, 101], &offered), None, "PCMA is not ours");
        offered.payloads = vec![9];
        assert_eq!(answer(2, 1, media(), &AUDIO_PAYLOADS, &offered), None);
    }
}
