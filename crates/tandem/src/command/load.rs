//! `tandem load`: a load generator for a farm, or for anything else that speaks SIP.

mod idle;
mod streams;
mod target;
mod telling;

use anyhow::{Context, bail};
use load::Progress;
use load::generator::{self, Details, Kind, Pace, Settings, UserName};
use load::peak::{self, PeakPlan};
use load::stream::Streams;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use target::Target;
use telling::Telling;

#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0 if everything was done and nothing failed; 1 if not; 130 after a second Ctrl-C. The first one ends the \
                        load early and reports.\n\n\
                        Durations are 250ms, 10s, 5m or 1h; a plain number is seconds."
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    exchange: Exchange,
}

#[derive(clap::Subcommand)]
enum Exchange {
    /// Calls: INVITE, 180, 200, ACK, BYE, 200
    Calls(Calls),
    /// Registrations: REGISTER, 401, REGISTER with credentials, 200
    Registrations(Registrations),
    /// Pings of users: OPTIONS, 200
    Options(Common),
    /// Connections over which nothing but keep-alives goes: what they cost, and how many stay
    Idle(idle::Arguments),
}

// A comment of documentation on these would replace the help of the subcommands.
#[derive(clap::Args)]
struct Calls {
    /// How long a call goes on before its BYE
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = span)]
    hold: Duration,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Registrations {
    /// All at the same moment, each over a connection of its own that is opened just then: as many users as --connections, each once
    #[arg(long, requires = "connections", conflicts_with_all = ["rate", "peak", "concurrency", "count", "duration", "from_users"])]
    storm: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    #[command(flatten)]
    target: Target,
    /// Answer as the server behind the balancer, at this address
    #[arg(long, value_name = "ADDRESS", value_parser = address, required_unless_present = "no_answer")]
    answer: Option<SocketAddr>,
    /// Real servers stand behind the balancer, or it is one itself
    #[arg(long, conflicts_with = "answer")]
    no_answer: bool,

    /// So many at a time, a new one when one ends [default: 10; over streams one for each connection]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=262_144), conflicts_with_all = ["rate", "peak"])]
    concurrency: Option<u32>,
    /// So many a second, whatever becomes of them; latency counts from the moment each is due
    #[arg(long, value_name = "N", value_parser = rate)]
    rate: Option<f64>,
    /// Look for the highest rate without a failure over the duration, beginning with --rate
    #[arg(long, conflicts_with = "count")]
    peak: bool,
    /// How long to begin new ones [default: 10s; with --peak 20s; with --count no limit]
    #[arg(long, value_name = "DURATION", value_parser = span)]
    duration: Option<Duration>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Begin with this much that does not count
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = span)]
    warm_up: Duration,
    /// How long what is under way at the end may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = span)]
    grace: Duration,
    /// How long to wait at first until the balancer answers OPTIONS and says that it is up
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = span)]
    wait: Duration,

    /// So many users call or register, in turns
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    from_users: u32,
    /// The number of the first of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    first_user: u32,
    /// Their names; # stands for a digit of the number
    #[arg(long, value_name = "PATTERN", default_value = "u########")]
    from_user: UserName,
    /// Who is called or pinged; # stands for a digit of the caller's number
    #[arg(long, value_name = "PATTERN", default_value = "c########")]
    to_user: UserName,
    /// The users' domain [default: the balancer's address]
    #[arg(long, value_name = "NAME", value_parser = domain)]
    domain: Option<String>,
    /// All users' password, for servers that challenge
    #[arg(long, value_name = "PASSWORD")]
    password: Option<String>,

    /// Never sleep: on a core of our own, so that the target does not pay for waking us
    #[arg(long)]
    busy_poll: bool,
    #[command(flatten)]
    telling: Telling,
}

/// Runs the load and reports. Status 0 only if nothing failed.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (kind, hold, is_storm, common) = match &arguments.exchange {
        Exchange::Calls(calls) => (Kind::Call, calls.hold, false, &calls.common),
        Exchange::Registrations(registrations) => {
            (Kind::Register, Duration::ZERO, registrations.storm, &registrations.common)
        }
        Exchange::Options(common) => (Kind::Options, Duration::ZERO, false, common),
        Exchange::Idle(arguments) => return idle::run(arguments),
    };
    check(common)?;
    let (mut settings, mut details) = (settings(kind, common), details(hold, common));
    if let Some(streams) = common.target.stream.streams(is_storm)? {
        over(streams, common, &mut settings, &mut details);
    }
    let stop = stop_at_signals()?;
    let is_shown = common.telling.is_shown();
    let json = common.telling.json;
    let show = |progress: Progress| {
        if is_shown {
            tell(&progress.to_string());
        }
    };
    let (text, success) = if common.peak {
        let told = |step: &peak::Step| {
            if is_shown {
                tell(&step.to_string());
            }
        };
        let found = peak::find(settings, &details, plan(common), &stop, told, show).context("nothing was found")?;
        (if json { format!("{:#}", found.to_json()) } else { found.to_string() }, found.per_second.is_some())
    } else {
        let report = generator::run_with(settings, &details, &stop, show).context("there is no report")?;
        (if json { format!("{:#}", report.to_json()) } else { report.to_string() }, report.is_success())
    };
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What clap cannot know to be wrong.
fn check(common: &Common) -> anyhow::Result<()> {
    common.target.check()?;
    if common.answer.is_some_and(|answer| answer.ip().is_unspecified() || answer.port() == 0) {
        bail!("--answer is the address that the balancer sends to: give it whole");
    }
    common.telling.check()
}

fn settings(kind: Kind, common: &Common) -> Settings {
    let duration = match (common.duration, common.count) {
        (Some(duration), _) => duration,
        (None, Some(_)) => Duration::MAX,
        (None, None) => DURATION,
    };
    Settings {
        kind,
        pace: match common.rate {
            Some(per_second) => Pace::Rate { per_second },
            None => Pace::Closed { concurrency: common.concurrency.unwrap_or(CONCURRENCY) as usize },
        },
        duration,
        balancer: common.target.to,
        caller: common.target.own(),
        callee: common.answer.unwrap_or(target::ANY),
    }
}

fn details(hold: Duration, common: &Common) -> Details {
    Details {
        users: common.from_users,
        first_user: common.first_user,
        caller_name: common.from_user.clone(),
        callee_name: common.to_user.clone(),
        domain: common.domain.clone(),
        password: common.password.clone(),
        answer: !common.no_answer,
        hold,
        count: common.count,
        warm_up: common.warm_up,
        grace: common.grace,
        ready_within: common.wait,
        processes: common.telling.pid.clone(),
        busy_poll: common.busy_poll,
        streams: None,
    }
}

/// Makes it a load over connections.
fn over(streams: Streams, common: &Common, settings: &mut Settings, details: &mut Details) {
    if common.concurrency.is_none() && common.rate.is_none() {
        settings.pace = Pace::Closed { concurrency: streams.connections as usize };
    }
    if streams.at_once {
        settings.duration = Duration::MAX;
        details.users = streams.connections;
        details.count = Some(u64::from(streams.connections));
        // The last of them comes late, and is still to be served.
        details.grace = details.grace.max(STORM);
    }
    details.streams = Some(streams);
}

fn plan(common: &Common) -> PeakPlan {
    let full = common.duration.unwrap_or(FULL);
    PeakPlan {
        first: common.rate.unwrap_or(FIRST_RATE),
        full,
        short: (full / 4).max(SHORTEST).min(full),
        precision: PRECISION,
    }
}

/// True from the first signal on; a second one ends the program at once.
fn stop_at_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag still false.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot listen to signals")?;
    }
    Ok(stop)
}

fn tell(line: &str) {
    // A load whose progress nobody reads any more goes on.
    let _unread = writeln!(io::stderr().lock(), "{line}");
}

/// An address and a port, 5060 if none is given.
fn address(text: &str) -> Result<SocketAddr, String> {
    with_port(text, 5060)
}

/// An address and a port, any if none is given.
fn own_address(text: &str) -> Result<SocketAddr, String> {
    with_port(text, 0)
}

fn with_port(text: &str, port: u16) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, port)),
        Err(_) => {
            Err("an IP address is wanted, or one with a port, as 192.0.2.1:5060 or [2001:db8::1]:5060".to_owned())
        }
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms: Option<u64> = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        _ => None,
    };
    number
        .parse::<u64>()
        .ok()
        .zip(unit_ms)
        .and_then(|(number, unit_ms)| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| "a duration is wanted, as 250ms, 10s, 5m or 1h".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("a number from 0.001 to 1000000 is wanted".to_owned()),
    }
}

/// The host part of an address of record, with or without a port.
fn domain(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if text.is_empty() || !text.bytes().all(allowed) {
        return Err("a host name or address is wanted".to_owned());
    }
    Ok(text.to_owned())
}

const CONCURRENCY: u32 = 10;
/// How long everybody at once may take.
const STORM: Duration = Duration::from_secs(60);
const DURATION: Duration = Duration::from_secs(10);
/// How long a rate must go well to be a peak.
const FULL: Duration = Duration::from_secs(20);
const SHORTEST: Duration = Duration::from_secs(1);
/// What almost everything can take.
const FIRST_RATE: f64 = 200.0;
const PRECISION: f64 = 0.05;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    /// The words after `tandem load`.
    fn parsed(words: &str) -> Result<Arguments, clap::error::ErrorKind> {
        let words = ["load"].into_iter().chain(words.split(' '));
        Line::try_parse_from(words).map(|line| line.arguments).map_err(|error| error.kind())
    }

    fn calls(words: &str) -> Calls {
        match parsed(&format!("calls --to 127.0.0.1 {words}")) {
            Ok(Arguments { exchange: Exchange::Calls(calls) }) => calls,
            Ok(_) => panic!("{words}: not calls"),
            Err(kind) => panic!("{words}: {kind}"),
        }
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let calls = calls("--answer 127.0.0.1:5080");
        let settings = settings(Kind::Call, &calls.common);
        assert_eq!(settings.balancer, SocketAddr::from(([127, 0, 0, 1], 5060)));
        assert_eq!(settings.caller, SocketAddr::from(([0, 0, 0, 0], 0)));
        assert_eq!(settings.callee, SocketAddr::from(([127, 0, 0, 1], 5080)));
        assert_eq!((settings.pace, settings.duration), (Pace::Closed { concurrency: 10 }, Duration::from_secs(10)));
        assert!(details(calls.hold, &calls.common) == Details::default(), "the library has the same defaults");
    }

    #[test]
    fn settings_reach_the_load() {
        let calls = calls(
            "--no-answer --rate 2.5 --count 9 --hold 250ms --from 127.0.0.2 --from-users 5 --first-user 7 --from-user 1### \
             --to-user 600 --domain example.com --password secret --warm-up 3 --grace 1m --wait 0s --pid 1 --pid 2 \
             --busy-poll",
        );
        let settings = settings(Kind::Call, &calls.common);
        assert_eq!((settings.pace, settings.duration), (Pace::Rate { per_second: 2.5 }, Duration::MAX));
        assert_eq!(settings.caller, SocketAddr::from(([127, 0, 0, 2], 0)));
        let details = details(calls.hold, &calls.common);
        assert_eq!((details.users, details.first_user, details.count), (5, 7, Some(9)));
        assert_eq!((details.caller_name.of(7), details.callee_name.of(7)), ("1007".to_owned(), "600".to_owned()));
        assert_eq!((details.hold, details.warm_up), (Duration::from_millis(250), Duration::from_secs(3)));
        assert_eq!((details.grace, details.ready_within), (Duration::from_secs(60), Duration::ZERO));
        assert_eq!((details.domain.as_deref(), details.password.as_deref()), (Some("example.com"), Some("secret")));
        assert_eq!((details.answer, details.processes, details.busy_poll), (false, vec![1, 2], true));
        let plan = plan(&self::calls("--no-answer --peak --rate 50").common);
        assert_eq!((plan.first, plan.full, plan.short), (50.0, Duration::from_secs(20), Duration::from_secs(5)));
    }

    /// The words after `tandem load registrations`, as a load.
    fn registrations(words: &str) -> (Settings, Details) {
        let words = format!("registrations --to 127.0.0.1 --answer 127.0.0.1:5080 {words}");
        let Ok(Arguments { exchange: Exchange::Registrations(Registrations { storm, common }) }) = parsed(&words)
        else {
            panic!("{words}: not registrations");
        };
        let (mut settings, mut details) = (settings(Kind::Register, &common), details(Duration::ZERO, &common));
        let streams = common.target.stream.streams(storm).expect("the words make sense").expect("it is a stream");
        over(streams, &common, &mut settings, &mut details);
        (settings, details)
    }

    #[test]
    fn over_streams_each_connection_has_an_exchange() {
        let (settings, details) = registrations("--transport tcp --connections 7");
        assert_eq!((settings.pace, details.users, details.count), (Pace::Closed { concurrency: 7 }, 1_000, None));
        let (settings, _) = registrations("--transport tcp --connections 7 --rate 5");
        assert_eq!(settings.pace, Pace::Rate { per_second: 5.0 });
        let (settings, _) = registrations("--transport ws --concurrency 3");
        assert_eq!(settings.pace, Pace::Closed { concurrency: 3 });
    }

    #[test]
    fn in_a_storm_everybody_registers_once() {
        let (settings, details) = registrations("--transport tls --insecure --connections 500 --storm");
        assert_eq!((settings.pace, settings.duration), (Pace::Closed { concurrency: 500 }, Duration::MAX));
        assert_eq!((details.users, details.count, details.grace), (500, Some(500), Duration::from_secs(60)));
        assert!(details.streams.is_some_and(|streams| streams.at_once));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use clap::error::ErrorKind::{
            ArgumentConflict, InvalidSubcommand, MissingRequiredArgument, UnknownArgument, ValueValidation,
        };
        for (words, kind) in [
            ("calls --to 127.0.0.1", MissingRequiredArgument),
            ("calls --answer 127.0.0.1:5080", MissingRequiredArgument),
            ("calls --to 127.0.0.1 --answer 127.0.0.1:5080 --no-answer", ArgumentConflict),
            ("options --to 127.0.0.1 --no-answer --rate 1 --concurrency 1", ArgumentConflict),
            ("options --to 127.0.0.1 --no-answer --peak --count 1", ArgumentConflict),
            ("options --to localhost --no-answer", ValueValidation),
            ("options --to 127.0.0.1 --no-answer --rate 0", ValueValidation),
            ("options --to 127.0.0.1 --no-answer --duration 10d", ValueValidation),
            ("options --to 127.0.0.1 --no-answer --from-user a@b", ValueValidation),
            ("options --to 127.0.0.1 --no-answer --domain a>b", ValueValidation),
            ("chats --to 127.0.0.1 --no-answer", InvalidSubcommand),
            ("registrations --to 127.0.0.1 --no-answer --storm", MissingRequiredArgument),
            ("registrations --to 127.0.0.1 --no-answer --storm --connections 5 --rate 1", ArgumentConflict),
            ("registrations --to 127.0.0.1 --no-answer --storm --connections 5 --from-users 5", ArgumentConflict),
            ("options --to 127.0.0.1 --no-answer --storm --connections 5", UnknownArgument),
            ("idle --to 127.0.0.1 --transport tcp --ping never", ValueValidation),
        ] {
            assert_eq!(parsed(words).err(), Some(kind), "{words}");
        }
    }

    #[test]
    fn every_load_is_of_somebody_and_tells_of_itself() {
        let words = "--to 192.0.2.1 --i-own-the-target --from 192.0.2.2 --transport tcp --connections 2 --pid 1 \
                     --progress --json";
        for kind in ["calls --no-answer", "registrations --no-answer", "options --no-answer", "idle"] {
            assert_eq!(parsed(&format!("{kind} {words}")).err(), None, "{kind}");
        }
    }

    #[test]
    fn a_foreign_target_wants_a_word() {
        let common = |words: &str| match parsed(&format!("options --no-answer {words}")) {
            Ok(Arguments { exchange: Exchange::Options(common) }) => common,
            _ => panic!("{words} is not understood"),
        };
        let refused = |words: &str| check(&common(words)).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused("--to 192.0.2.1").contains("--i-own-the-target"));
        assert_eq!(refused("--to 192.0.2.1 --i-own-the-target"), "");
        assert!(refused("--to 0.0.0.0 --i-own-the-target").contains("one receiver"));
        assert!(refused("--to 127.0.0.1 --from ::1").contains("families"));
        assert!(refused("--to 127.0.0.1 --pid 4294967295").contains("4294967295"));
    }

    #[test]
    fn durations_and_addresses_are_read() {
        assert_eq!(span("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!((span("10"), span("2m")), (Ok(Duration::from_secs(10)), Ok(Duration::from_secs(120))));
        assert!(["", "s", "-1s", "1.5s", "99999999999999999999s", "1w"].iter().all(|text| span(text).is_err()));
        assert_eq!(address("[::1]"), Ok("[::1]:5060".parse().expect("an address")));
        assert_eq!(address("::1"), address("[::1]:5060"));
        assert_eq!(own_address("127.0.0.1"), Ok(SocketAddr::from(([127, 0, 0, 1], 0))));
    }
}
