//! The settings of a guardian: an active check of backends.

use super::{Choice, Form, Kind, Section, Setting, duration_ms, integer};

pub(crate) static GUARDIAN: Section = Section {
    header: "[[guardian]]",
    doc: "An active check, for the services that name it in `guardians`. In every text `HOST`, `PORT` and `NAME`, as whole words, stand \
          for the address, the port and the name of the backend. One called `options` takes the place of the check that services \
          without `guardians` have.",
    settings: &[
        Setting::required("name", Kind::Text(Form::Name), "Unique in the unit."),
        Setting::required(
            "check",
            Kind::Choice(CHECKS),
            "What is done: `options` asks by OPTIONS, from the farm's own address; `register` registers a user and takes it back; `call` \
             calls a user, sends audio and hangs up; `tcp` opens a connection; `tls` opens one and verifies the certificate as `verify` \
             of the backend says; `exec` runs a command, whose exit status decides as that of a Nagios plugin.",
        ),
        Setting::default(
            "interval",
            duration_ms(1_000, 3_600_000),
            "\"10s\"",
            "From one check of a backend to the next, a twentieth more or less; sooner after a failure.",
        ),
        Setting::default(
            "timeout",
            duration_ms(100, 600_000),
            "\"2s\"",
            "How long a check may take in all; then it has failed, and what it began is ended.",
        ),
        Setting::default("rise", integer(1, 100), "2", "Good checks in a row that bring a backend back."),
        Setting::default("fall", integer(1, 100), "3", "Failed checks in a row that take a backend out."),
        Setting::default(
            "accept",
            Kind::Texts(Form::Answer),
            "[]",
            "For `options`: the final answers that count as alive; empty is any but 408 and 5xx.",
        ),
        Setting::default(
            "effect",
            Kind::Choice(EFFECTS),
            "\"down\"",
            "What failed checks do: `down` takes the backend out, `warn` tells the operator and nothing else.",
        ),
        Setting::default(
            "cut",
            Kind::Boolean,
            "false",
            "When this guardian takes a backend out: its users move at once instead of at their next request, its connections are \
             closed, and its calls are ended.",
        ),
        Setting::optional(
            "from",
            Kind::Text(Form::SipUser),
            "For `register` and `call`, which need it: the user who registers and calls.",
        ),
        Setting::optional("to", Kind::Text(Form::SipUser), "For `call`, which needs it: the user who is called."),
        Setting::optional(
            "username",
            Kind::Text(Form::Any),
            "For `register` and `call`: the user name of the account; without it the user of `from`.",
        ),
        Setting::optional(
            "password_file",
            Kind::Text(Form::Path),
            "For `register` and `call`: a file with the password of the account, read at each check.",
        ),
        Setting::optional(
            "transport",
            Kind::Choice(TRANSPORTS),
            "For `register` and `call`: how the backend is reached; without it by its own `transport`, over udp where that is `same`.",
        ),
        Setting::optional(
            "register",
            Kind::Boolean,
            "For `call`: whether `from` is registered before the call and taken back after it; without it yes where there is a \
             `username` or a `password_file`.",
        ),
        Setting::default(
            "send",
            Kind::Texts(Form::Path),
            "[]",
            "For `call`: audio files that are sent one after the other, PCMU or WAV, 8000 Hz, mono; empty is a tone of two seconds.",
        ),
        Setting::default(
            "expect_audio",
            Kind::Boolean,
            "false",
            "For `call`: whether the check fails when no audio comes back.",
        ),
        Setting::default(
            "min_mos",
            Kind::Number { min: 0.0, max: 4.4 },
            "0",
            "For `call`: the least quality of the audio that comes back, as a mean opinion score (ITU-T G.107); 0 is not asked for.",
        ),
        Setting::optional(
            "command",
            Kind::Text(Form::Command),
            "For `exec`, which needs it: a program and its arguments, in quotes where they have spaces. No shell reads it. Exit status 0 \
             is good, 1 is good and told; 3, 126, 127 and a signal from elsewhere say nothing of the backend; any other has failed. It \
             runs as the unit's user; unless that is root, it has none of the unit's capabilities, and where the unit was started as \
             root it gains no rights by setuid.",
        ),
    ],
};

const CHECKS: &[Choice] = &[
    Choice::now("options"),
    Choice::now("register"),
    Choice::now("call"),
    Choice::now("tcp"),
    Choice::now("tls"),
    Choice::now("exec"),
];

const EFFECTS: &[Choice] = &[Choice::now("down"), Choice::now("warn")];

const TRANSPORTS: &[Choice] = &[Choice::now("udp"), Choice::now("tcp"), Choice::now("tls")];
