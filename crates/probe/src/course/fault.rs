//! What can be wrong with a run, how bad it is, and how it is said. One variant for each; the first one found is the verdict.

use super::exchanges::Answer;
use crate::plan::Transport;
use crate::report::{State, seconds};
use sip::sdp::Direction;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// What is wrong.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Fault {
    /// Nothing came for a request.
    Silent {
        method: &'static str,
        peer: SocketAddr,
        after: Duration,
    },
    /// Something came, but no final answer.
    Stuck {
        method: &'static str,
        peer: SocketAddr,
        after: Duration,
    },
    Refused {
        method: &'static str,
        answer: Answer,
    },
    Busy(Answer),
    PasswordWanted {
        method: &'static str,
        code: u16,
    },
    PasswordWrong {
        name: String,
        code: u16,
    },
    /// There is a password, but no challenge that can be answered with it.
    Challenge {
        method: &'static str,
        code: u16,
    },
    /// It rings, and nobody answers.
    Rings {
        after: Duration,
    },
    NothingListens {
        transport: Transport,
        peer: SocketAddr,
    },
    /// In the words of the shell.
    Connection {
        text: String,
        /// Nothing is left to remove our binding with.
        leaves_binding: bool,
    },
    /// This machine let nothing of it out.
    HeldBack {
        peer: SocketAddr,
    },
    NoSession,
    /// A body came, but no audio stream with an address was in it.
    NoStream,
    StreamRefused,
    OnHold(Direction),
    PcmaOnly,
    NoPcmu(Vec<u8>),
    NoAudio {
        is_closed: bool,
    },
    Poor {
        mos: f64,
        least: f64,
    },
    /// The echo ended before what it is of did, after so many packets.
    Stopped {
        after: u64,
        sent: u64,
    },
    HungUp {
        after: Duration,
    },
    /// The time was over before all was said.
    Cut {
        after: Duration,
        sent: u64,
    },
    Interrupted,
    /// A request that clears up was not answered.
    Uncleared {
        method: &'static str,
        peer: SocketAddr,
    },
    /// A request that clears up was refused.
    Unclearable {
        method: &'static str,
        answer: Answer,
    },
}

impl Fault {
    pub(super) fn state(&self) -> State {
        match self {
            Self::Interrupted | Self::HeldBack { .. } => State::Unknown,
            Self::Cut { .. } => State::Warning,
            _ if self.is_of_clearing() => State::Warning,
            _ => State::Critical,
        }
    }

    /// All went well before.
    pub(super) fn is_of_clearing(&self) -> bool {
        matches!(self, Self::Uncleared { .. } | Self::Unclearable { .. })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { method, peer, after } => {
                write!(f, "no answer to {method} from {peer} within {}", seconds(*after))
            }
            Self::Stuck { method, peer, after } => {
                write!(f, "{peer} took the {method} and gave no final answer within {}", seconds(*after))
            }
            Self::Refused { method, answer } => write!(f, "{method} refused: {answer}"),
            Self::Busy(answer) => write!(f, "busy: {answer}"),
            Self::PasswordWanted { method, code } => {
                write!(f, "{method} asks for a password ({code}) and none was given")
            }
            Self::PasswordWrong { name, code } => write!(f, "the password of {name} is wrong ({code} again)"),
            Self::Challenge { method, code } => {
                write!(f, "{method} got {code} without a challenge that can be answered")
            }
            Self::Rings { after } => write!(f, "rings but nobody answered within {}", seconds(*after)),
            Self::NothingListens { transport, peer } => write!(f, "nothing listens at {transport}:{peer}"),
            Self::Connection { text, leaves_binding: false } => f.write_str(text),
            Self::Connection { text, leaves_binding: true } => {
                write!(f, "{text}; un-REGISTER is not possible any more")
            }
            Self::HeldBack { peer } => f.write_str(&held_back(*peer)),
            Self::NoSession => f.write_str("answered without SDP"),
            Self::NoStream => f.write_str("answered with SDP that names no audio stream and address"),
            Self::StreamRefused => f.write_str("answered, but refused the audio stream (port 0)"),
            Self::OnHold(direction) => write!(f, "answered, but put the call on hold ({})", direction.as_str()),
            Self::PcmaOnly => f.write_str("answered with PCMA only, PCMU was offered"),
            Self::NoPcmu(payloads) => write!(f, "answered without PCMU, which was offered (payloads {payloads:?})"),
            Self::NoAudio { is_closed: false } => f.write_str("no audio came back"),
            Self::NoAudio { is_closed: true } => f.write_str("no audio came back, for the audio port is closed"),
            Self::Poor { mos, least } => write!(f, "the audio that came back has MOS {mos:.2}, less than {least}"),
            Self::Stopped { after, sent } => {
                write!(f, "the audio that came back stopped early, after {after} of {sent} packets")
            }
            Self::HungUp { after } => {
                write!(f, "hung up by the other side after {}, in the middle of the audio", seconds(*after))
            }
            Self::Cut { after, sent } => {
                write!(f, "the audio was not at its end after {} ({sent} packets sent)", seconds(*after))
            }
            Self::Interrupted => f.write_str("interrupted"),
            Self::Uncleared { method, peer } => write!(f, "{method} was not answered by {peer}"),
            Self::Unclearable { method, answer } => write!(f, "{method} was refused: {answer}"),
        }
    }
}

/// What to tell where this machine lets nothing out, and what to do.
pub(crate) fn held_back(to: SocketAddr) -> String {
    format!(
        "this machine lets nothing out to {to}: a rule of its own firewall or routing forbids it, or its firewall tracks as many \
         connections as it can; see `nft list ruleset`, `iptables -S OUTPUT` and `sysctl net.netfilter.nf_conntrack_count`"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 11], 5060))
    }

    #[test]
    fn what_keeps_a_call_from_coming_about_is_critical_and_said_precisely() {
        let (peer, after) = (peer(), Duration::from_secs(7));
        let name = "bonnie".to_owned();
        let cases = [
            (Fault::Silent { method: "REGISTER", peer, after }, "no answer to REGISTER from 10.0.0.11:5060 within 7 s"),
            (
                Fault::Stuck { method: "INVITE", peer, after },
                "10.0.0.11:5060 took the INVITE and gave no final answer within 7 s",
            ),
            (Fault::Refused { method: "REGISTER", answer: Answer::of_code(403) }, "REGISTER refused: 403 Forbidden"),
            (Fault::Busy(Answer::of_code(486)), "busy: 486 Busy Here"),
            (
                Fault::PasswordWanted { method: "INVITE", code: 401 },
                "INVITE asks for a password (401) and none was given",
            ),
            (Fault::PasswordWrong { name, code: 401 }, "the password of bonnie is wrong (401 again)"),
            (Fault::Rings { after }, "rings but nobody answered within 7 s"),
            (Fault::NothingListens { transport: Transport::Udp, peer }, "nothing listens at udp:10.0.0.11:5060"),
        ];
        for (fault, text) in cases {
            assert_eq!(fault.to_string(), text);
            assert_eq!(fault.state(), State::Critical, "{text}");
        }
    }

    #[test]
    fn bad_audio_is_critical_too() {
        let after = Duration::from_millis(400);
        let cases = [
            (Fault::NoPcmu(vec![9, 101]), "answered without PCMU, which was offered (payloads [9, 101])"),
            (Fault::OnHold(Direction::SendOnly), "answered, but put the call on hold (sendonly)"),
            (Fault::HungUp { after }, "hung up by the other side after 0.4 s, in the middle of the audio"),
            (Fault::Poor { mos: 3.114, least: 3.5 }, "the audio that came back has MOS 3.11, less than 3.5"),
            (
                Fault::Stopped { after: 60, sent: 100 },
                "the audio that came back stopped early, after 60 of 100 packets",
            ),
        ];
        for (fault, text) in cases {
            assert_eq!(fault.to_string(), text);
            assert_eq!(fault.state(), State::Critical, "{text}");
        }
    }

    #[test]
    fn what_is_left_behind_is_a_warning_and_an_interruption_says_nothing() {
        let method = "un-REGISTER";
        let cases = [
            (
                Fault::Uncleared { method: "BYE", peer: peer() },
                State::Warning,
                "BYE was not answered by 10.0.0.11:5060",
            ),
            (
                Fault::Unclearable { method, answer: Answer::of_code(500) },
                State::Warning,
                "un-REGISTER was refused: 500 Server Internal Error",
            ),
            (
                Fault::Cut { after: Duration::from_secs(7), sent: 350 },
                State::Warning,
                "the audio was not at its end after 7 s (350 packets sent)",
            ),
            (
                Fault::Connection { text: "lost".to_owned(), leaves_binding: true },
                State::Critical,
                "lost; un-REGISTER is not possible any more",
            ),
            (Fault::Interrupted, State::Unknown, "interrupted"),
        ];
        for (fault, state, text) in cases {
            assert_eq!(fault.to_string(), text);
            assert_eq!(fault.state(), state, "{text}");
        }
    }
}
