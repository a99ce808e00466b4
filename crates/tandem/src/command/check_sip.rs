//! `tandem check-sip`: registers, calls, speaks and listens as a phone does, and tells in one line how it went. The same when the
//! program is called `check_sip`.

mod arguments;
mod files;
mod names;
mod prepare;
mod words;

pub(crate) use arguments::Arguments;

use prepare::Goal;
use probe::shell::{Job, Linger, Runner, StartError};
use probe::{CallPlan, Kind, Plan, Report, State};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Why nothing was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Refusal {
    state: State,
    text: String,
}

/// Places the call and tells how it went; the exit status is that of a monitoring plugin.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let report = stop_at_signals().and_then(|stop| check(arguments, &stop)).unwrap_or_else(Refusal::into_report);
    show(arguments, &report);
    ExitCode::from(report.exit_code())
}

/// The command line as clap is to see it: of any command, and with the command put in where the program's name says it.
pub(crate) fn words(mut words: Vec<OsString>) -> Vec<OsString> {
    if let Some(program) = words.first_mut()
        && words::is_other_name(program)
    {
        *program = OsString::from("tandem");
        words.insert(1, OsString::from(NAME));
    }
    if is_meant(&words) {
        let rest = words.split_off(2);
        words.extend(words::with_tones(rest));
    }
    words
}

/// Whether the command line is for this command.
pub(crate) fn is_meant(words: &[OsString]) -> bool {
    words.get(1).is_some_and(|word| word == NAME)
}

/// Tells that the command line is wrong, as a monitoring plugin tells it.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    let (text, hint) = taken_apart(&error.to_string());
    let report = Report::unknown(text);
    // Whoever closed our output has seen enough of it.
    let _unread = writeln!(io::stderr().lock(), "{hint}");
    let _unread = writeln!(io::stdout().lock(), "{}", report.line());
    ExitCode::from(report.exit_code())
}

impl Refusal {
    fn unknown(text: String) -> Self {
        Self { state: State::Unknown, text }
    }

    /// The fault is not this machine's.
    fn critical(text: String) -> Self {
        Self { state: State::Critical, text }
    }

    fn into_report(self) -> Report {
        Report { state: self.state, ..Report::unknown(self.text) }
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NoRoute { .. } => Self::critical(error.to_string()),
            _ => Self::unknown(error.to_string()),
        }
    }
}

/// Reads all files, then asks for names, then calls.
fn check(arguments: &Arguments, stop: &AtomicBool) -> Result<Report, Refusal> {
    let begun = Instant::now();
    let route = prepare::route(arguments)?;
    let sounds = files::sounds(&arguments.send)?;
    let password = files::password(arguments)?;
    let wav = arguments.wav_out.as_deref().map(files::create).transpose()?;
    // The last quarter is for the check itself.
    let asked_until = begun + arguments.timeout - arguments.timeout / 4;
    let goals: Vec<&Goal> = std::iter::once(&route.proxy).chain(&route.registrar).collect();
    let local = arguments.leg.map(|(address, _)| address);
    let mut places = names::resolve(&goals, route.transport, local, asked_until, stop)?.into_iter();
    let proxy = places.next().ok_or_else(|| Refusal::unknown("there is nobody to call".to_owned()))?;
    let plan = Plan {
        kind: Kind::Call(CallPlan {
            target: route.target,
            sounds,
            expect_audio: arguments.expect_audio,
            min_mos: arguments.min_mos.unwrap_or_default(),
        }),
        transport: route.transport,
        limit: arguments.timeout.saturating_sub(begun.elapsed()),
        from: route.from,
        username: arguments.username.clone().unwrap_or_default(),
        password,
        proxy,
        registrar: places.next(),
        expires: EXPIRES,
        thresholds: prepare::thresholds(arguments),
    };
    let job = Job {
        plan,
        local: arguments.leg,
        trust: arguments.tls_verify.clone(),
        server_name: route.proxy.into_name(),
        registrar_name: route.registrar.and_then(Goal::into_name),
        linger: Linger::Stop,
        record: wav.is_some(),
    };
    let mut report = call(job, stop)?;
    if let Some(file) = wav
        && let Err(error) = files::write(file, &report.recording)
    {
        report.text = format!("{}, but the audio could not be written: {error}", report.text);
        if report.state == State::Ok {
            report.state = State::Unknown;
        }
    }
    Ok(report)
}

/// Ends by itself at its limit; sooner after a signal.
fn call(job: Job, stop: &AtomicBool) -> Result<Report, Refusal> {
    let mut runner = Runner::new();
    runner.start(job)?;
    let mut is_interrupted = false;
    while runner.running() > 0 {
        if !is_interrupted && stop.load(Ordering::Relaxed) {
            is_interrupted = true;
            runner.interrupt_all();
        }
        if let Some((_, report)) = runner.turn(TICK).pop() {
            return Ok(report);
        }
    }
    Err(Refusal::unknown("the check ended without a report".to_owned()))
}

/// True from the first signal on, that of a closed terminal too; a second Ctrl-C ends the program at once, a second SIGTERM does not:
/// `timeout` sends it twice.
fn stop_at_signals() -> Result<Arc<AtomicBool>, Refusal> {
    let stop = Arc::new(AtomicBool::new(false));
    let status = i32::from(State::Unknown.exit_code());
    // In this order: the first Ctrl-C finds the flag still false.
    flag::register_conditional_shutdown(SIGINT, status, Arc::clone(&stop))
        .and_then(|_| flag::register(SIGINT, Arc::clone(&stop)))
        .and_then(|_| flag::register(SIGTERM, Arc::clone(&stop)))
        .and_then(|_| flag::register(SIGHUP, Arc::clone(&stop)))
        .map_err(|error| Refusal::unknown(format!("cannot listen to signals: {error}")))?;
    Ok(stop)
}

/// One line on standard output; the rest on standard error.
fn show(arguments: &Arguments, report: &Report) {
    let mut aside = String::new();
    if arguments.debug {
        for step in &report.ladder {
            let (arrow, time) = (if step.outgoing { "to" } else { "from" }, step.at.as_secs_f64());
            aside.push_str(&format!("--- {time:.3} s {arrow} {}: {}\n", step.peer, step.line));
            if !step.octets.is_empty() {
                aside.push_str(&readable(&step.octets));
                aside.push('\n');
            }
        }
    }
    if arguments.ladder {
        aside.push_str(&report.ladder_text());
    }
    let line = if arguments.json { report.json().to_string() } else { report.line() };
    // The exit status says it all to whoever does not read our output.
    let _unread = io::stderr().lock().write_all(aside.as_bytes());
    let _unread = writeln!(io::stdout().lock(), "{line}");
}

/// A message for a terminal: nothing in it moves the cursor.
fn readable(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    let shown = |letter: char| if letter.is_control() && !matches!(letter, '\n' | '\t') { '\u{fffd}' } else { letter };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// What is wrong in one line, and what clap says besides.
fn taken_apart(text: &str) -> (String, String) {
    let (first, hint) = text.split_once("\n\n").unwrap_or((text, ""));
    let first = first.strip_prefix("error: ").unwrap_or(first);
    let words: Vec<&str> = first.split_whitespace().collect();
    (words.join(" "), hint.trim_end().to_owned())
}

/// As clap names it.
const NAME: &str = "check-sip";
/// Seconds: a binding that could not be taken back is gone after a minute.
const EXPIRES: u32 = 60;
/// How often a signal is looked for.
const TICK: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::net::UdpSocket;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn checked(words: &str) -> Report {
        let words = ["check-sip"].into_iter().chain(words.split(' '));
        let arguments = match Line::try_parse_from(words) {
            Ok(line) => line.arguments,
            Err(error) => panic!("{error}"),
        };
        check(&arguments, &AtomicBool::new(false)).unwrap_or_else(Refusal::into_report)
    }

    #[test]
    fn the_other_name_stands_for_the_command() {
        let told = |given: &str| {
            let given = given.split(' ').map(OsString::from).collect();
            words(given).iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told("/usr/lib/check_sip -S sip:b@ c"), "tandem check-sip --send= sip:b@ c");
        assert_eq!(told("tandem check-sip -S sip:b@ c"), "tandem check-sip --send= sip:b@ c");
        assert_eq!(told("tandem run -S sip:b@"), "tandem run -S sip:b@");
        assert_eq!(told("check_sip"), "tandem check-sip");
        assert!(words(Vec::new()).is_empty());
    }

    #[test]
    fn what_clap_says_becomes_one_line_and_a_hint() {
        let error = Line::try_parse_from(["check-sip", "--nonsense"]).err().expect("there is no such option");
        let (text, hint) = taken_apart(&error.to_string());
        assert!(text.starts_with("unexpected argument '--nonsense'") && !text.contains('\n'), "{text}");
        assert!(hint.contains("Usage:"), "{hint}");
    }

    #[test]
    fn a_missing_file_is_found_before_anything_is_sent() {
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
        peer.set_nonblocking(true).expect("it is a socket");
        let address = peer.local_addr().expect("it is bound");
        let report = checked(&format!("-S /nowhere/hello.ulaw b sip:c@{address}"));
        assert_eq!((report.state, report.exit_code()), (State::Unknown, 3));
        assert!(
            report.line().starts_with("SIP UNKNOWN - cannot read the audio in /nowhere/hello.ulaw"),
            "{}",
            report.line()
        );
        assert!(peer.recv(&mut [0; 8]).is_err());
    }

    #[test]
    fn a_closed_port_is_critical_at_once() {
        let closed = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free");
        let begun = Instant::now();
        let report = checked(&format!("-T 9 b sip:c@{closed}"));
        assert_eq!((report.state, report.exit_code()), (State::Critical, 2));
        assert!(report.text.contains(&format!("nothing listens at udp:{closed}")), "{}", report.text);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn messages_are_shown_without_what_moves_a_cursor() {
        assert_eq!(readable(b"BYE a\r\nX: \x1b[2J\ty\r\n\r\n"), "BYE a\nX: \u{fffd}[2J\ty\n\n");
    }
}
