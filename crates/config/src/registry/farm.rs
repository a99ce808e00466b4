//! The settings of a SIP farm, its trunks, services and backends.

use super::{Choice, Form, KERNEL, Kind, SECURITY, Section, Setting, duration_ms, duration_or_off_ms, integer};

pub(super) static FARM: Section = Section {
    header: "[[farm]]",
    doc: "A virtual service: what phones, carriers and PBXs see as one SIP server.",
    settings: &[
        Setting::required(
            "name",
            Kind::Text(Form::Name),
            "Unique; tokens in messages carry a hash of it, so a new name cuts running calls off.",
        ),
        Setting::default("profile", Kind::Choice(PROFILES), "\"sip\"", "`sip` is a SIP-aware proxy."),
        Setting::required(
            "listen",
            Kind::Listeners,
            "Where clients and trunks reach the farm, over `udp`, `tcp`, `tls`, `ws` or `wss`. `udp:*:PORT` is every IPv4 address, \
             `udp:[::]:PORT` every IPv6 address of the machine.",
        ),
        Setting::default(
            "inside",
            Kind::Listeners,
            "[]",
            "Listeners towards the backends: source, Via, Record-Route, Path and Contact there; empty is `listen`, without its `advertise`. \
             Each transport that backends are reached over needs one.",
        ),
        Setting::optional(
            "advertise",
            Kind::Text(Form::Advertise),
            "Name or address written for all of `listen`; without it the listener's address, and for a wildcard the address each packet arrived at.",
        ),
        Setting::default(
            "domains",
            Kind::Texts(Form::Host),
            "[]",
            "What counts as us in a Request-URI or Route, besides the listeners' addresses and advertised names.",
        ),
        Setting::default(
            "certificates",
            Kind::Texts(Form::Path),
            "[]",
            "For the tls and wss listeners: PEM files, each with the chain of a certificate and its key. The one for the name that a \
             client asks for (SNI) is shown, otherwise the first. A file that changes is read again. A path that does not begin with \
             `/` begins in the folder in which the unit was started.",
        ),
        Setting::optional(
            "client_ca",
            Kind::Text(Form::Path),
            "PEM file of authorities: tls and wss clients are asked for a certificate of one of them, and who shows another one is \
             refused. Without it nobody is asked. Paths are as for `certificates`.",
        ),
        Setting::default(
            "client_certificates",
            Kind::Choice(CLIENT_CERTIFICATES),
            "\"verify\"",
            "With `client_ca`: what becomes of tls and wss clients that show no certificate. `verify` lets them in, `require` refuses \
             them.",
        ),
        Setting::default(
            "origins",
            Kind::Texts(Form::Origin),
            "[]",
            "Web pages that may open ws and wss, such as `https://phone.example.com`; empty is every page. What is not a browser names \
             no page and is not asked for one.",
        ),
        Setting::default(
            "registrations",
            Kind::Choice(REGISTRATIONS),
            "\"contact\"",
            "How a PBX calls a phone back through the farm: by a rewritten Contact, by a Path header (RFC 3327), or not at all.",
        ),
        Setting::default(
            "transactions",
            Kind::Choice(TRANSACTIONS),
            "\"stateful\"",
            "`stateless` keeps nothing: hash algorithms only, no persistence, no fail-over, no limits.",
        ),
        Setting::default(
            "symmetric",
            Kind::Choice(SYMMETRIC),
            "\"auto\"",
            "Where UDP clients are answered (RFC 3581): at their source port always, never, or where they need it.",
        ),
        Setting::default(
            "keepalive",
            duration_or_off_ms(5_000, 3_600_000),
            "\"25s\"",
            "Interval of the CRLF sent to registered UDP clients behind NAT.",
        ),
        Setting::default(
            "origin_header",
            Kind::Text(Form::HeaderName),
            "\"X-Tandem-Origin\"",
            "Header that tells a backend who sent a request: `client`, `trunk NAME` or `backend NAME`; stripped on arrival; empty is none.",
        ),
        Setting::default(
            "source_header",
            Kind::Text(Form::HeaderName),
            "\"\"",
            "Header that tells a backend the client's address; stripped on arrival; empty is none.",
        ),
        Setting::default(
            "max_call_time",
            duration_ms(60_000, 604_800_000),
            "\"12h\"",
            "After this a call without a BYE is taken for ended.",
        ),
        Setting::default("trunk", Kind::Sections(&TRUNK), "[]", "Carriers and other PBXs."),
        Setting::default(
            "service",
            Kind::Sections(&SERVICE),
            "[]",
            "Pools of backends with a match rule; none is one called `default`.",
        ),
        Setting::default("backend", Kind::Sections(&BACKEND), "[]", "The SIP servers."),
        Setting::default(
            "max_expires",
            duration_or_off_ms(30_000, 86_400_000),
            "\"off\"",
            "What phones are told at most when they register, so that they come back soon and move when their server is down; the backend \
             is told the phone's own time. A refresh in between is answered here while at least half of what the backend granted is left, \
             if it comes over the same flow with the same Contact and Call-ID; all else goes to the backend.",
        ),
        Setting::later("security", SECURITY, "Names of blacklists, rates, rbls and rules, in order."),
        Setting::later("vip", KERNEL, "The virtual address of a kernel farm."),
        Setting::later("ports", KERNEL, "Ports, ranges or `*`."),
        Setting::later("protocol", KERNEL, "all, tcp, udp, sctp or sip."),
        Setting::later("nat", KERNEL, "Whether servers see the client's address."),
        Setting::later("algorithm", KERNEL, "Of a kernel farm; a SIP farm has one in each [[farm.service]]."),
        Setting::later("persistence", KERNEL, "Of a kernel farm; a SIP farm has one in each [[farm.service]]."),
        Setting::later("persistence_ttl", KERNEL, "Of a kernel farm; a SIP farm has one in each [[farm.service]]."),
    ],
};

pub(crate) static LISTENER: Section = Section {
    header: "an entry of `listen` or `inside`",
    doc: "An entry is a text such as `\"udp:203.0.113.10:5060\"` or `\"tls:[2001:db8::1]:5061\"`, or a table with these settings, as needed behind a NAT that forwards ports.",
    settings: &[
        Setting::required("bind", Kind::Text(Form::Bind), "Transport, address of this machine and port."),
        Setting::optional(
            "advertise",
            Kind::Text(Form::Advertise),
            "Name or address, and port, written instead of it; without it the farm's `advertise`.",
        ),
    ],
};

pub(super) static TRUNK: Section = Section {
    header: "[[farm.trunk]]",
    doc: "A carrier or another PBX, known by address.",
    settings: &[
        Setting::required("name", Kind::Text(Form::Name), "Unique in its farm."),
        Setting::required("addresses", Kind::Texts(Form::Network), "Requests from here are the trunk's."),
        Setting::optional("service", Kind::Text(Form::Name), "Where its requests go; without it by match."),
        Setting::default("trusted", Kind::Boolean, "false", "P-Asserted-Identity and the like pass only if true."),
        Setting::default(
            "out",
            Kind::Texts(Form::Way),
            "[]",
            "Where egress to this trunk goes, best first: `198.51.100.1:5060`, `tls:sip.example.net`. Without a transport an address, \
             or a name with a port, is reached over udp; of a name alone the DNS says how. `listen` needs a listener of that transport.",
        ),
        Setting::default(
            "verify",
            Kind::Text(Form::Verify),
            "\"system\"",
            "How its certificate is checked where `out` goes over tls, as `verify` of a backend.",
        ),
    ],
};

pub(crate) static SERVICE: Section = Section {
    header: "[[farm.service]]",
    doc: "A pool of backends with a match rule. The first service in file order whose rule matches serves; none: 404.",
    settings: &[
        Setting::required("name", Kind::Text(Form::Name), "Unique in its farm; backends name it."),
        Setting::default("match", Kind::Section(&MATCH), "{}", "Which requests are served; empty is all."),
        Setting::default("algorithm", Kind::Algorithm, "\"weight\"", "How a backend is chosen; see Algorithms."),
        Setting::default(
            "persistence",
            Kind::Text(Form::Persistence),
            "\"user\"",
            "What keeps a choice: the registered user, the Call-ID, the source address, a header's value, or nothing.",
        ),
        Setting::default(
            "persistence_ttl",
            duration_ms(1_000, 604_800_000),
            "\"1h\"",
            "How long a choice outlives its last use.",
        ),
        Setting::default(
            "callee_affinity",
            Kind::Boolean,
            "true",
            "A call to a user registered here goes to the backend that holds the registration.",
        ),
        Setting::default(
            "request_uri",
            Kind::Choice(REQUEST_URI),
            "\"keep\"",
            "`backend` puts the backend's address into the Request-URI, for servers that accept only their own.",
        ),
        Setting::default("failover", Kind::Section(&FAILOVER), "{}", "When the next backend is tried."),
        Setting::optional(
            "guardians",
            Kind::Texts(Form::Name),
            "Names of [[guardian]]s that look after its backends. Without it OPTIONS every 10s, which has the name `options` in such a \
             list; an empty list is no active check. A backend in several services has the guardians of all of them.",
        ),
        Setting::default(
            "passive",
            Kind::Boolean,
            "true",
            "Whether backends whose answers to requests are mostly failures, or much later than those of the others, are set aside for a \
             while. Requests that get no answer at all always count.",
        ),
        Setting::default(
            "fallback",
            Kind::Text(Form::Fallback),
            "\"503\"",
            "What is done when no backend is available: a status, or another service.",
        ),
        Setting::default(
            "egress",
            Kind::Texts(Form::Egress),
            "[]",
            "Where backends may send requests out through the farm: to a trunk, to a domain by the way that the DNS says, or to every \
             address of a network.",
        ),
    ],
};

pub(super) static MATCH: Section = Section {
    header: "match",
    doc: "A table in [[farm.service]]. All conditions that are given must hold; within one of them any entry may.",
    settings: &[
        Setting::default("domain", Kind::Texts(Form::Host), "[]", "Host of the Request-URI (REGISTER: of To)."),
        Setting::default("trunk", Kind::Texts(Form::Name), "[]", "The trunk that sent it."),
        Setting::optional("from_user", Kind::Text(Form::Pattern), "User of From."),
        Setting::default("method", Kind::Texts(Form::Method), "[]", "The method."),
        Setting::optional("user", Kind::Text(Form::Pattern), "User of the Request-URI (REGISTER: of To)."),
        Setting::default("source", Kind::Texts(Form::Network), "[]", "The address it came from."),
        Setting::default("header", Kind::Patterns, "{}", "Headers whose values contain a match of their pattern."),
    ],
};

pub(super) static FAILOVER: Section = Section {
    header: "failover",
    doc: "A table in [[farm.service]]: fail-over before an answer.",
    settings: &[
        Setting::default(
            "answer_timeout",
            duration_ms(1_000, 32_000),
            "\"2s\"",
            "INVITE: the next backend when not even a 100 came; at least 2 × T1 (RFC 3261 §17).",
        ),
        Setting::default(
            "final_timeout",
            duration_ms(1_000, 32_000),
            "\"4s\"",
            "REGISTER, OPTIONS, SUBSCRIBE, PUBLISH outside a dialog: the next backend when no final answer came.",
        ),
        Setting::default(
            "codes",
            Kind::Integers { min: 300, max: 699 },
            "[503]",
            "Final answers that count as a failure of the backend.",
        ),
        Setting::default("attempts", integer(1, 100), "3", "Backends tried at most."),
    ],
};

pub(super) static BACKEND: Section = Section {
    header: "[[farm.backend]]",
    doc: "One SIP server.",
    settings: &[
        Setting::default("service", Kind::Texts(Form::Name), "[\"default\"]", "The services it belongs to."),
        Setting::optional(
            "name",
            Kind::Text(Form::Name),
            "Unique in its farm; without it the address, a name as it is written.",
        ),
        Setting::required(
            "address",
            Kind::Text(Form::Peer),
            "Where it is, by address or by name. Without a port an address has 5060, over tls 5061, and a name what its SRV records \
             say; with `transport = \"same\"` a name stands for its addresses alone. A name that nobody answers for is left out until \
             somebody does; over tls the certificate must be for the name.",
        ),
        Setting::default(
            "expand",
            Kind::Boolean,
            "false",
            "What a name with several addresses is. `false`: one backend, at the best address, and at the next one while that is \
             down. `true`: a backend for each address, 64 at most, called `NAME@ADDRESS`, with `priority` counted on by the priorities \
             of the SRV records and `weight` multiplied by their weights.",
        ),
        Setting::default(
            "sources",
            Kind::Texts(Form::Network),
            "[]",
            "Requests from here count as this backend's; empty is exactly its address and port.",
        ),
        Setting::default(
            "transport",
            Kind::Choice(TRANSPORTS),
            "\"udp\"",
            "How it is reached; `same` is as the client reached the farm, where ws is carried on over tcp and wss over tls. The farm \
             needs a listener of that transport towards the backends.",
        ),
        Setting::default(
            "ports",
            Kind::Section(&PORTS),
            "{}",
            "With `transport = \"same\"`: where it listens for streams; `address` has its port over udp.",
        ),
        Setting::default(
            "verify",
            Kind::Text(Form::Verify),
            "\"system\"",
            "How its certificate is checked over tls: by the authorities of the system, by those in a PEM file, by its own SHA-256 \
             fingerprint in hexadecimal digits, or not at all. Paths are as for `certificates`.",
        ),
        Setting::default("weight", integer(1, 10_000), "1", "Its share, against the other backends' weights."),
        Setting::default(
            "priority",
            integer(1, 100),
            "1",
            "1 is used first; a worse level joins when a better one is not whole.",
        ),
        Setting::default("max_calls", integer(0, 10_000_000), "0", "Calls at a time; 0 is no limit."),
        Setting::default(
            "max_rate",
            integer(0, 1_000_000),
            "0",
            "New calls and registrations a second; 0 is no limit.",
        ),
        Setting::default(
            "slow_start",
            duration_ms(0, 3_600_000),
            "\"30s\"",
            "How long its share grows after it came up.",
        ),
        Setting::default(
            "maintenance",
            Kind::Choice(MAINTENANCE),
            "\"off\"",
            "`drain`: no new users and no new calls; `cut`: out at once.",
        ),
        Setting::later("max_connections", KERNEL, "Connections at a time."),
    ],
};

pub(super) static PORTS: Section = Section {
    header: "ports",
    doc: "A table in [[farm.backend]], for `transport = \"same\"` only.",
    settings: &[
        Setting::optional("tcp", integer(1, 65_535), "For clients over tcp and ws; without it the port of `address`."),
        Setting::default("tls", integer(1, 65_535), "5061", "For clients over tls and wss."),
    ],
};

const PROFILES: &[Choice] = &[Choice::now("sip"), Choice::later("l4xnat", KERNEL)];

const REGISTRATIONS: &[Choice] = &[Choice::now("contact"), Choice::now("path"), Choice::now("off")];

const TRANSACTIONS: &[Choice] = &[Choice::now("stateful"), Choice::now("stateless")];

const CLIENT_CERTIFICATES: &[Choice] = &[Choice::now("verify"), Choice::now("require")];

const SYMMETRIC: &[Choice] = &[Choice::now("auto"), Choice::now("always"), Choice::now("never")];

const REQUEST_URI: &[Choice] = &[Choice::now("keep"), Choice::now("backend")];

const TRANSPORTS: &[Choice] = &[Choice::now("udp"), Choice::now("tcp"), Choice::now("tls"), Choice::now("same")];

const MAINTENANCE: &[Choice] = &[Choice::now("off"), Choice::now("drain"), Choice::now("cut")];
