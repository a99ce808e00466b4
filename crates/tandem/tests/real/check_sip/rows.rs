//! The cases, and what is expected of both checks: data for the test and for the table in the documents.

use super::servers::{Media, Server};

/// One case.
pub(super) struct Row {
    /// What the other side is and does, for readers.
    pub(super) what: &'static str,
    pub(super) server: Server,
    /// The command line, alike for both checks, with HOST, OWN, AUDIO, SHORT, LONG and NONE in place of hosts and files; without what
    /// [`Row::words`] adds.
    pub(super) options: &'static str,
    pub(super) ours: Ours,
    pub(super) theirs: Theirs,
}

/// What is expected of `check-sip`. `…` stands for anything.
pub(super) struct Ours {
    pub(super) exit: i32,
    /// Its line as far as the performance data.
    pub(super) line: &'static str,
    pub(super) time: Time,
    pub(super) wire: &'static str,
}

/// What is expected of the original.
pub(super) enum Theirs {
    Run {
        exit: i32,
        time: Time,
        wire: &'static str,
    },
    /// Noted when the appliance was studied, and too long to be repeated here: exit status, time, requests.
    Known(&'static str, &'static str, &'static str),
    /// It has no such option, or nobody has looked.
    Unknown,
}

/// How long a run takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Time {
    AtOnce,
    /// As long as what is said.
    Audio,
    /// As long as the limit allows.
    Limit,
    /// It is interrupted after a second.
    Interrupted,
}

impl Row {
    /// The whole command line.
    pub(super) fn words(&self) -> String {
        let limit = if self.options.contains("-T ") { "" } else { "-T 6 " };
        let users = if self.options.contains("sip:") { "" } else { " sip:bonnie@OWN sip:clyde@HOST" };
        format!("{limit}{}{users}", self.options).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Seconds: the value of `-T`.
    pub(super) fn limit(&self) -> u64 {
        let words = self.words();
        let value = words.split("-T ").nth(1).and_then(|rest| rest.split(' ').next());
        value.and_then(|value| value.parse().ok()).expect("every command line has a limit in seconds")
    }

    /// Net::SIP itself is the other side.
    pub(super) fn needs_original(&self) -> bool {
        self.server == Server::FarEnd
    }
}

const fn ours(exit: i32, line: &'static str, time: Time, wire: &'static str) -> Ours {
    Ours { exit, line, time, wire }
}

const fn theirs(exit: i32, time: Time, wire: &'static str) -> Theirs {
    Theirs::Run { exit, time, wire }
}

const fn row(what: &'static str, server: Server, options: &'static str, ours: Ours, theirs: Theirs) -> Row {
    Row { what, server, options, ours, theirs }
}

const HEARD: &str = "SIP OK - clyde@HOST answered after … s, … of 100 packets came back, MOS …";
const UNHEARD: &str = "SIP OK - clyde@HOST answered after … s, no audio came back";
const CALL: &str = "INVITE, ACK, BYE";
const OPEN: &str = "INVITE, ACK; the call stays";
const REFUSED: &str = "INVITE, ACK";
const WHOLE: &str = "REGISTER, INVITE, ACK, BYE, un-REGISTER";
const ECHOES: Server = Server::answers(Media::Echo);
const DEAF: Server = Server::answers(Media::Silence);
const NOTHING: &str = "nothing";
const CHALLENGE: &str = "WWW-Authenticate: Digest realm=\"pbx\", nonce=\"0123456789\", algorithm=MD5";

pub(super) const ROWS: &[Row] = &[
    row("answers and echoes", ECHOES, "-S AUDIO", ours(0, HEARD, Time::Audio, CALL), theirs(0, Time::Audio, CALL)),
    row(
        "the same, asked for quality",
        ECHOES,
        "-S AUDIO --min-mos 3.5",
        ours(0, HEARD, Time::Audio, CALL),
        Theirs::Unknown,
    ),
    row(
        "the same, by Net::SIP",
        Server::FarEnd,
        "-S AUDIO",
        ours(0, HEARD, Time::Audio, CALL),
        theirs(0, Time::Audio, CALL),
    ),
    row(
        "the same, registered first",
        ECHOES,
        "-P HOST -S AUDIO",
        ours(0, HEARD, Time::Audio, WHOLE),
        theirs(0, Time::Audio, "REGISTER, INVITE, ACK, BYE; the binding stays"),
    ),
    row(
        "the same, two files",
        ECHOES,
        "-S SHORT -S SHORT",
        ours(0, HEARD, Time::Audio, CALL),
        theirs(0, Time::Audio, "INVITE, ACK, INVITE, ACK, BYE"),
    ),
    row("the same, no file", ECHOES, "", ours(0, HEARD, Time::Audio, CALL), theirs(2, Time::AtOnce, OPEN)),
    row(
        "the same, the appliance's own example",
        ECHOES,
        "-T 9 -S -S sip:Bonnie@ sip:Clyde@HOST",
        ours(0, "SIP OK - Clyde@HOST answered after … s, … of 200 packets came back, MOS …", Time::Audio, CALL),
        theirs(255, Time::AtOnce, NOTHING),
    ),
    row(
        "the same, the file is missing",
        ECHOES,
        "-S NONE",
        ours(3, "SIP UNKNOWN - cannot read the audio in …", Time::AtOnce, NOTHING),
        theirs(2, Time::AtOnce, OPEN),
    ),
    row(
        "the same, the file is empty",
        ECHOES,
        "-S /dev/null",
        ours(0, UNHEARD, Time::AtOnce, CALL),
        theirs(0, Time::AtOnce, CALL),
    ),
    row(
        "the same, interrupted (Ctrl-C)",
        ECHOES,
        "-P HOST -S AUDIO",
        ours(3, "SIP UNKNOWN - interrupted", Time::Interrupted, WHOLE),
        Theirs::Unknown,
    ),
    row("answers, sends no audio", DEAF, "-S AUDIO", ours(0, UNHEARD, Time::Audio, CALL), theirs(0, Time::Audio, CALL)),
    row(
        "the same, audio is expected",
        DEAF,
        "-S AUDIO --expect-audio",
        ours(2, "SIP CRITICAL - no audio came back", Time::Audio, CALL),
        Theirs::Unknown,
    ),
    row(
        "the same, its audio port is closed",
        Server::answers(Media::Closed),
        "-S AUDIO --expect-audio",
        ours(2, "SIP CRITICAL - no audio came back, for the audio port is closed", Time::Audio, CALL),
        Theirs::Unknown,
    ),
    row(
        "the same, a file of 30 s",
        DEAF,
        "-S LONG",
        ours(1, "SIP WARNING - the audio was not at its end after … s (… packets sent)", Time::Limit, CALL),
        Theirs::Known("never", "for ever", CALL),
    ),
    row(
        "answers with PCMA only",
        Server::answers_with_pcma(),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - answered with PCMA only, PCMU was offered", Time::AtOnce, CALL),
        theirs(0, Time::Audio, CALL),
    ),
    row(
        "answers without SDP",
        Server::plays("answers_without_sdp", Media::Closed),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - answered without SDP", Time::AtOnce, CALL),
        theirs(255, Time::AtOnce, OPEN),
    ),
    row(
        "hangs up in the middle",
        Server::plays("hangs_up", Media::Echo),
        "-S AUDIO",
        ours(
            2,
            "SIP CRITICAL - hung up by the other side after … s, in the middle of the audio",
            Time::AtOnce,
            "INVITE, ACK, (BYE)",
        ),
        theirs(0, Time::AtOnce, "INVITE, ACK, (BYE)"),
    ),
    row(
        "says 481 to BYE",
        Server::answers_and_says_to_bye("481 Call Does Not Exist"),
        "-S AUDIO",
        ours(
            1,
            "SIP WARNING - clyde@HOST answered after … s, … of 100 packets came back, MOS …, but BYE was refused: 481 \
             Call/Transaction Does Not Exist",
            Time::Audio,
            CALL,
        ),
        theirs(0, Time::Audio, CALL),
    ),
    row(
        "says nothing to BYE",
        Server::plays("ignores_bye", Media::Echo),
        "-S AUDIO",
        ours(
            1,
            "SIP WARNING - clyde@HOST answered after … s, … of 100 packets came back, MOS …, but BYE was not answered by \
             HOST:5060",
            Time::Limit,
            CALL,
        ),
        Theirs::Known("0", "34 s", "INVITE, ACK, BYE, BYE"),
    ),
    row(
        "refuses with 486",
        Server::refuses("486 Busy Here", ""),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - busy: 486 Busy Here", Time::AtOnce, REFUSED),
        theirs(255, Time::AtOnce, REFUSED),
    ),
    row(
        "refuses with 403",
        Server::refuses("403 Forbidden", ""),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - INVITE refused: 403 Forbidden", Time::AtOnce, REFUSED),
        theirs(255, Time::AtOnce, REFUSED),
    ),
    row(
        "refuses with 404",
        Server::refuses("404 Not Found", ""),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - INVITE refused: 404 Not Found", Time::AtOnce, REFUSED),
        theirs(255, Time::AtOnce, REFUSED),
    ),
    row(
        "refuses with 503",
        Server::refuses("503 Service Unavailable", ""),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - INVITE refused: 503 Service Unavailable", Time::AtOnce, REFUSED),
        theirs(255, Time::AtOnce, REFUSED),
    ),
    row(
        "asks for a password in the call",
        Server::refuses("401 Unauthorized", CHALLENGE),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - INVITE asks for a password (401) and none was given", Time::AtOnce, REFUSED),
        theirs(255, Time::AtOnce, REFUSED),
    ),
    row(
        "Kamailio, no password",
        Server::Kamailio,
        "-P HOST -S AUDIO",
        ours(2, "SIP CRITICAL - REGISTER asks for a password (401) and none was given", Time::AtOnce, "REGISTER"),
        theirs(255, Time::AtOnce, "REGISTER"),
    ),
    row(
        "Kamailio, the wrong password",
        Server::Kamailio,
        "-P HOST --username bonnie --password wrong -S AUDIO",
        ours(2, "SIP CRITICAL - the password of bonnie is wrong (401 again)", Time::AtOnce, "REGISTER"),
        Theirs::Unknown,
    ),
    row(
        "Kamailio, the right password",
        Server::Kamailio,
        "-P HOST --username bonnie --password secret -S AUDIO",
        ours(0, HEARD, Time::Audio, "REGISTER, INVITE, ACK, INVITE, ACK, BYE, un-REGISTER"),
        theirs(0, Time::Audio, "REGISTER, INVITE, ACK, INVITE, ACK, BYE; the binding stays"),
    ),
    row(
        "rings, nobody answers",
        Server::plays("rings", Media::Closed),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - rings but nobody answered within … s", Time::Limit, "INVITE, CANCEL, ACK"),
        theirs(255, Time::Limit, "INVITE, CANCEL…"),
    ),
    row(
        "says nothing to INVITE, answers CANCEL",
        Server::plays("answers_cancel", Media::Closed),
        "-S AUDIO",
        ours(2, "SIP CRITICAL - no answer to INVITE from HOST:5060 within … s", Time::Limit, "INVITE, CANCEL"),
        theirs(255, Time::Limit, "INVITE, CANCEL"),
    ),
    row(
        "says nothing at all",
        Server::Silent,
        "-S AUDIO",
        ours(2, "SIP CRITICAL - no answer to INVITE from HOST:5060 within … s", Time::Limit, "INVITE, CANCEL"),
        Theirs::Known("255", "31 s", "–"),
    ),
    row(
        "nobody listens",
        Server::Closed,
        "-S AUDIO",
        ours(2, "SIP CRITICAL - nothing listens at udp:HOST:5060", Time::AtOnce, "INVITE"),
        Theirs::Known("255", "31 s", "–"),
    ),
    row(
        "refuses REGISTER with 403",
        Server::refuses_register("403 Forbidden"),
        "-P HOST -S AUDIO",
        ours(2, "SIP CRITICAL - REGISTER refused: 403 Forbidden", Time::AtOnce, "REGISTER"),
        theirs(255, Time::AtOnce, "REGISTER"),
    ),
    row(
        "says nothing to REGISTER",
        Server::Silent,
        "-P HOST -S AUDIO",
        ours(2, "SIP CRITICAL - no answer to REGISTER from HOST:5060 within … s", Time::Limit, "REGISTER, un-REGISTER"),
        Theirs::Known("255", "31 s", "–"),
    ),
    row(
        "the command line has no such option",
        Server::Closed,
        "--nonsense",
        ours(3, "SIP UNKNOWN - unexpected argument '--nonsense' found", Time::AtOnce, NOTHING),
        theirs(1, Time::AtOnce, NOTHING),
    ),
    row(
        "the command line has no target",
        Server::Closed,
        "sip:bonnie@OWN",
        ours(3, "SIP UNKNOWN - the following required arguments were not provided: <TO>", Time::AtOnce, NOTHING),
        theirs(1, Time::AtOnce, NOTHING),
    ),
];
