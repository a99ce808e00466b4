//! The settings of the unit: the process, its limits, its log; and the sections a file may have.

use super::{API, CLUSTER, Choice, Form, Kind, SECURITY, Section, Setting, duration_ms, farm, guardian, integer};

pub(crate) static ROOT: Section = Section {
    header: "the file",
    doc: "What a file may hold.",
    settings: &[
        Setting::default("unit", Kind::Section(&UNIT), "{}", "the process"),
        Setting::default("limits", Kind::Section(&LIMITS), "{}", "every bound of the unit"),
        Setting::default("dns", Kind::Section(&DNS), "{}", "name servers"),
        Setting::default("log", Kind::Section(&LOG), "{}", "what is written to standard error"),
        Setting::default("farm", Kind::Sections(&farm::FARM), "[]", "virtual services"),
        Setting::later("api", API, "API, web page and metrics"),
        Setting::later("vip", "virtual interfaces", "addresses owned by the unit that is master"),
        Setting::default("guardian", Kind::Sections(&guardian::GUARDIAN), "[]", "active health checks"),
        Setting::later("blacklist", SECURITY, "sources that are allowed or dropped"),
        Setting::later("rbl", SECURITY, "block lists asked over DNS"),
        Setting::later("rate", SECURITY, "rate limits for each source"),
        Setting::later("rule", SECURITY, "rules on the content of messages"),
        Setting::later("cluster", CLUSTER, "the other units"),
    ],
};

pub(super) static UNIT: Section = Section {
    header: "[unit]",
    doc: "The process. A change of `state_dir`, `workers` or `user` takes effect at the next start.",
    settings: &[
        Setting::optional("name", Kind::Text(Form::Name), "What the unit is called; without it the host's name."),
        Setting::optional(
            "state_dir",
            Kind::Text(Form::Path),
            "Folder of secret, learnt facts and control socket; without it `/var/lib/tandem` as root, else `~/.local/state/tandem`.",
        ),
        Setting::default("workers", integer(0, 1_024), "0", "UDP worker threads; 0 is one for each core."),
        Setting::default(
            "user",
            Kind::Text(Form::Any),
            "\"tandem\"",
            "Whom to become when started as root, keeping only the rights to ports below 1024 and to large socket buffers. \
             If there is no such user the unit stays root and warns; empty: it stays root.",
        ),
        Setting::default(
            "drain",
            duration_ms(0, 3_600_000),
            "\"30s\"",
            "How long SIGTERM waits at most until every request is answered; calls that are up are not waited for.",
        ),
    ],
};

pub(super) static LIMITS: Section = Section {
    header: "[limits]",
    doc: "Every bound of the unit. What is beyond one is refused and counted, never queued without end.",
    settings: &[
        Setting::default(
            "message_bytes",
            integer(1_024, 65_535),
            "65535",
            "Octets of one message; larger ones get 413.",
        ),
        Setting::default("headers", integer(16, 4_096), "256", "Header lines of one message."),
        Setting::default(
            "transactions",
            integer(16, 100_000_000),
            "1000000",
            "Transactions, those that ended in the last 32 s among them; beyond it a 503 that keeps no state.",
        ),
        Setting::default(
            "bindings",
            integer(1, 100_000_000),
            "1000000",
            "Registered contacts; beyond it REGISTER gets 503.",
        ),
        Setting::default(
            "dialogs",
            integer(1, 100_000_000),
            "1000000",
            "Dialogs remembered; beyond it calls pass, but are not counted and not found by `Replaces`.",
        ),
        Setting::default(
            "sticky",
            integer(1, 100_000_000),
            "1000000",
            "Sticky choices by Call-ID, source or header, and as many recent calls and nonces each; where it is reached the \
             older half is forgotten. A change takes effect at the next start.",
        ),
        Setting::default("shard_inbox", integer(16, 65_536), "1024", "Datagrams that wait for a busy shard."),
        Setting::default(
            "errors_per_source",
            integer(1, 100_000),
            "20",
            "Error answers a second for each source address that is neither backend nor trunk.",
        ),
        Setting::default(
            "error_sources",
            integer(16, 10_000_000),
            "65536",
            "Source addresses whose error answers are counted at a time.",
        ),
        Setting::default(
            "connections",
            integer(1, 10_000_000),
            "100000",
            "Connections over tcp, tls, ws and wss, accepted and opened ones; a further one is closed at once.",
        ),
        Setting::default(
            "connections_per_source",
            integer(1, 10_000_000),
            "2000",
            "Accepted connections of one source address; behind it may be the NAT of a whole office.",
        ),
        Setting::default(
            "connection_idle",
            duration_ms(120_000, 86_400_000),
            "\"15m\"",
            "A connection over which nothing came for so long is closed; keep-alives count. Phones that ping slowly (RFC 5626 \
             §4.4.1) need two minutes at least.",
        ),
        Setting::default(
            "partial_message",
            duration_ms(1_000, 300_000),
            "\"10s\"",
            "How long a message may take from its first octet to its last; then its connection is closed.",
        ),
        Setting::default(
            "handshake",
            duration_ms(1_000, 120_000),
            "\"10s\"",
            "How long TLS and the WebSocket upgrade may take together, and how long a connection that is opened may take until it \
             is up.",
        ),
        Setting::default(
            "connection_queue",
            integer(131_072, 67_108_864),
            "1048576",
            "Octets that wait on one connection for a peer that does not read; a message beyond is not sent.",
        ),
        Setting::default(
            "large_request",
            integer(576, 65_535),
            "1300",
            "A request of more octets goes to its backend over TCP where `transport = \"same\"` (RFC 3261 §18.1.1), and by datagram where \
             it is refused there; it is counted either way.",
        ),
    ],
};

pub(super) static DNS: Section = Section {
    header: "[dns]",
    doc: "Who is asked for the names in `address` of backends, `out` of trunks and `egress` of services, by RFC 3263. Names are \
          asked for at the start and again whenever the time of an answer is over, in the background; while nobody answers, the last \
          good answer holds.",
    settings: &[Setting::default(
        "servers",
        Kind::Texts(Form::NameServer),
        "[]",
        "Name servers, in order; without a port 53. Empty: those of the system.",
    )],
};

pub(super) static LOG: Section = Section {
    header: "[log]",
    doc: "What is written to standard error.",
    settings: &[
        Setting::default("level", Kind::Choice(LEVELS), "\"info\"", "The least urgent kind of line that is written."),
        Setting::default("format", Kind::Choice(FORMATS), "\"text\"", "How a line is written."),
    ],
};

const LEVELS: &[Choice] =
    &[Choice::now("error"), Choice::now("warn"), Choice::now("info"), Choice::now("debug"), Choice::now("trace")];

const FORMATS: &[Choice] = &[Choice::now("text"), Choice::now("json")];
