//! `tandem guardian`: the guardians of a configuration, and one of them by hand.

use crate::configuration::{Source, count};
use crate::table::{Align, Cell, Colour, is_coloured, lines, paint};
use crate::unit::guardians::{AT_ONCE, Detail, Outcome, Verdict, Work, attached, read_file, task};
use anyhow::{Context, bail};
use config::{Checked, Guardian};
use engine::{Backend, Effect, Farm};
use net::{Clock, Names};
use probe::shell::Linger;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use sip::Instant;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Make a guardian's check once for each of its backends, and show what happens
    Run(RunArguments),
    /// Show which guardians there are, and what they look after
    List(ListArguments),
}

#[derive(clap::Args)]
#[command(
    after_help = "No running unit is asked or told: the check is made by this process, as this user. Names in the file are asked for, \
                        for five seconds at most.\n\n\
                        Exit status: 0 if all checks are good, 1 if one warns, 2 if one failed, 3 if one could not be made."
)]
struct RunArguments {
    /// The guardian
    #[arg(value_name = "NAME")]
    name: String,
    /// Only this backend, also one that the guardian does not look after
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only the backends of this farm
    #[arg(long, value_name = "NAME")]
    farm: Option<String>,
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(clap::Args)]
struct ListArguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Outcomes by verdict.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Tally {
    good: usize,
    warnings: usize,
    failed: usize,
    not_made: usize,
}

/// A backend in its farm.
type Placed<'a> = (&'a Farm, &'a Backend);

/// Ends with 3 where nothing could be checked, as monitoring plugins do.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let outcome = match &arguments.what {
        What::Run(arguments) => check(arguments),
        What::List(arguments) => list(arguments),
    };
    match outcome {
        Err(error)
            if error.downcast_ref::<io::Error>().is_none_or(|error| error.kind() != io::ErrorKind::BrokenPipe) =>
        {
            // The terminal may be closed.
            let _unread = writeln!(io::stderr(), "error: {error:#}");
            Ok(ExitCode::from(UNKNOWN))
        }
        other => other,
    }
}

fn list(arguments: &ListArguments) -> anyhow::Result<ExitCode> {
    let checked = load(&arguments.config)?;
    let mut out = io::stdout().lock();
    if checked.guardians.is_empty() {
        writeln!(out, "there are no guardians")?;
    } else {
        for line in listed(&checked, is_coloured()) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(checked: &Checked, coloured: bool) -> Vec<String> {
    let titles = COLUMNS.iter().map(|title| Cell::painted(*title, Colour::Grey)).collect();
    let mut rows: Vec<Vec<Cell>> = vec![titles];
    rows.extend(checked.guardians.iter().map(|guardian| {
        let decides = &guardian.decides;
        let backends: Vec<String> = placed(checked, guardian).iter().map(|(_, backend)| backend.name.clone()).collect();
        let effect = match (decides.effect, decides.cut) {
            (Effect::Down, false) => "down",
            (Effect::Down, true) => "down, cut",
            (Effect::Warn, _) => "warn",
        };
        vec![
            Cell::plain(&*decides.name),
            Cell::plain(guardian.check.name()),
            Cell::plain(format!("{:?}", decides.interval)),
            Cell::plain(format!("{:?}", decides.timeout)),
            Cell::plain(effect),
            Cell::plain(if backends.is_empty() { "none".to_owned() } else { backends.join(", ") }),
        ]
    }));
    lines(&[Align::Left; COLUMNS.len()], &rows, coloured)
}

fn check(arguments: &RunArguments) -> anyhow::Result<ExitCode> {
    let checked = load(&arguments.config)?;
    let guardian = named(&checked, &arguments.name)?;
    let backends = chosen(&checked, guardian, arguments.farm.as_deref(), arguments.backend.as_deref())?;
    let is_interrupted = Arc::new(AtomicBool::new(false));
    // A terminal that is closed sends SIGHUP.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&is_interrupted)).context("cannot listen to signals")?;
    }
    let mut work: Work<usize> = Work::new();
    let outcome = make_all(&mut work, guardian, &backends, &is_interrupted);
    // Also where nobody reads our output any more: no call and no binding is left behind.
    work.end(CLEAN_UP);
    let tally = outcome?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}: {}", count(backends.len(), "backend"), summary(tally, backends.len()))?;
    Ok(ExitCode::from(exit_code(tally, backends.len())))
}

/// Prints each backend's outcome when it is known.
fn make_all(
    work: &mut Work<usize>,
    guardian: &Guardian,
    backends: &[Placed<'_>],
    is_interrupted: &AtomicBool,
) -> anyhow::Result<Tally> {
    let mut waiting: VecDeque<usize> = (0..backends.len()).collect();
    let mut tally = Tally::default();
    let mut ends: Option<Instant> = None;
    loop {
        while work.running() < AT_ONCE
            && let Some(index) = waiting.pop_front()
        {
            if let Some((_, backend)) = backends.get(index) {
                work.start(index, task(guardian, backend, Linger::Stop, &read_file));
            }
        }
        if work.running() == 0 || ends.is_some_and(|ends| ends <= Clock::now()) {
            return Ok(tally);
        }
        for (index, outcome) in work.turn(TICK) {
            tally.add(outcome.verdict);
            if let Some(placed) = backends.get(index) {
                let mut out = io::stdout().lock();
                out.write_all(told(placed, &outcome, is_coloured()).as_bytes())?;
                out.flush()?;
            }
        }
        if ends.is_none() && is_interrupted.load(Ordering::Relaxed) {
            waiting.clear();
            work.interrupt();
            ends = Some(Clock::now() + CLEAN_UP);
        }
    }
}

/// What the file says, with the names in it.
fn load(path: &Path) -> anyhow::Result<Checked> {
    let source = Source::read(path)?;
    let first = source.check_or_print()?;
    if first.names.is_empty() {
        return Ok(first);
    }
    let names = Names::start(&first.dns.servers, || {}).context("cannot ask for the names in the file")?;
    names.follow(first.names.clone());
    let _all_are_known = names.settle(ASK_AT_MOST);
    source.check_with_or_print(&names.answers()).context("what the names lead to is wrong")
}

fn named<'a>(checked: &'a Checked, name: &str) -> anyhow::Result<&'a Guardian> {
    let known = checked.guardians.iter().find(|guardian| &*guardian.decides.name == name);
    known.with_context(|| {
        let names: Vec<&str> = checked.guardians.iter().map(|guardian| &*guardian.decides.name).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        format!("there is no guardian \"{name}\": there is {names}")
    })
}

/// Those that the guardian looks after, in file order.
fn placed<'a>(checked: &'a Checked, guardian: &Guardian) -> Vec<Placed<'a>> {
    let farms = checked.settings.farms.iter();
    let of_farm =
        |farm: &'a Farm| attached(farm, &guardian.decides.name).into_iter().map(move |backend| (farm, backend));
    farms.flat_map(of_farm).collect()
}

fn chosen<'a>(
    checked: &'a Checked,
    guardian: &Guardian,
    farm: Option<&str>,
    backend: Option<&str>,
) -> anyhow::Result<Vec<Placed<'a>>> {
    let is_in = |placed: &Placed<'_>| farm.is_none_or(|farm| placed.0.name == farm);
    if let Some(farm) = farm
        && checked.settings.farms.iter().all(|known| known.name != farm)
    {
        bail!("there is no farm \"{farm}\"");
    }
    let Some(name) = backend else {
        let backends: Vec<Placed<'a>> = placed(checked, guardian).into_iter().filter(is_in).collect();
        if backends.is_empty() {
            let guardian = &guardian.decides.name;
            bail!("guardian \"{guardian}\" looks after no backend there: name one with --backend");
        }
        return Ok(backends);
    };
    let all = checked.settings.farms.iter().flat_map(|farm| farm.backends.iter().map(move |backend| (farm, backend)));
    let backends: Vec<Placed<'a>> = all.filter(is_in).filter(|(_, backend)| backend.name == name).collect();
    if backends.is_empty() {
        bail!("there is no backend \"{name}\" there, or nothing is known of its address");
    }
    Ok(backends)
}

/// The course of a check and what came of it, as it is printed.
fn told((farm, backend): &Placed<'_>, outcome: &Outcome, coloured: bool) -> String {
    let mut text = format!("{} ({}) of farm {}\n", backend.name, backend.address, farm.name);
    match &outcome.detail {
        Detail::Nothing => {}
        Detail::Report(report) => {
            add_indented(&mut text, &report.ladder_text());
            add_indented(&mut text, &report.line());
        }
        Detail::Ended(ended) => {
            add_indented(&mut text, &ended.output);
            add_indented(&mut text, &ended.errors);
        }
    }
    let (verdict, colour) = match outcome.verdict {
        Verdict::Good => ("good", Colour::Green),
        Verdict::Warning => ("warning", Colour::Yellow),
        Verdict::Failed => ("failed", Colour::Red),
        Verdict::NotMade => ("could not be checked", Colour::Yellow),
    };
    let after =
        if outcome.took.is_zero() { String::new() } else { format!(" after {:.3} s", outcome.took.as_secs_f64()) };
    // A report has said already what it is.
    let what = match outcome.detail {
        Detail::Report(_) => String::new(),
        _ => format!(": {}", outcome.text),
    };
    writeln!(text, "  {}{after}{what}\n", paint(verdict, colour, coloured)).expect("writing into a String cannot fail");
    text
}

/// What others wrote cannot move about on the terminal.
fn add_indented(text: &mut String, lines: &str) {
    for line in lines.lines() {
        let plain: String =
            line.chars().map(|character| if character.is_control() { ' ' } else { character }).collect();
        writeln!(text, "  {}", plain.trim_end()).expect("writing into a String cannot fail");
    }
}

impl Tally {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Good => self.good += 1,
            Verdict::Warning => self.warnings += 1,
            Verdict::Failed => self.failed += 1,
            Verdict::NotMade => self.not_made += 1,
        }
    }

    fn sum(self) -> usize {
        self.good + self.warnings + self.failed + self.not_made
    }
}

/// "2 good, 1 failed".
fn summary(tally: Tally, backends: usize) -> String {
    let not_made = tally.not_made + backends.saturating_sub(tally.sum());
    let parts =
        [(tally.good, "good"), (tally.warnings, "with a warning"), (tally.failed, "failed"), (not_made, "not checked")];
    let parts: Vec<String> =
        parts.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")).collect();
    parts.join(", ")
}

fn exit_code(tally: Tally, backends: usize) -> u8 {
    if tally.failed > 0 {
        FAILED
    } else if tally.not_made > 0 || tally.sum() < backends {
        UNKNOWN
    } else if tally.warnings > 0 {
        WARNING
    } else {
        GOOD
    }
}

const COLUMNS: [&str; 6] = ["GUARDIAN", "CHECK", "INTERVAL", "TIMEOUT", "EFFECT", "BACKENDS"];

// Exit codes, as those of monitoring plugins.
const GOOD: u8 = 0;
const WARNING: u8 = 1;
const FAILED: u8 = 2;
const UNKNOWN: u8 = 3;

const ASK_AT_MOST: Duration = Duration::from_secs(5);
/// How late Ctrl-C is noticed at most.
const TICK: Duration = Duration::from_millis(100);
/// For probes and programs to take back what they began.
const CLEAN_UP: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    const FILE: &str = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
                        [[farm.service]]\nname = \"default\"\nguardians = [\"port\", \"ping\"]\n\
                        [[farm.backend]]\nname = \"p\"\naddress = \"127.0.0.11\"\n\
                        [[farm.backend]]\nname = \"q\"\naddress = \"127.0.0.12\"\n\
                        [[farm]]\nname = \"b\"\nlisten = [\"udp:127.0.0.1:5070\"]\n\
                        [[farm.service]]\nname = \"default\"\nguardians = [\"port\"]\n\
                        [[farm.backend]]\nname = \"p\"\naddress = \"127.0.0.21\"\n\
                        [[guardian]]\nname = \"port\"\ncheck = \"tcp\"\ninterval = \"60s\"\neffect = \"warn\"\n\
                        [[guardian]]\nname = \"ping\"\ncheck = \"options\"\ncut = true\n\
                        [[guardian]]\nname = \"spare\"\ncheck = \"exec\"\ncommand = \"x\"\n";

    fn checked() -> Checked {
        match config::load("a.toml", FILE) {
            Ok(checked) => checked,
            Err(errors) => panic!("{errors:?}"),
        }
    }

    #[test]
    fn the_command_line_is_read() {
        let read = |words: &[&str]| Line::try_parse_from(words).map(|line| line.arguments.what);
        match read(&["guardian", "run", "ping", "--backend", "p", "--config", "a.toml"]) {
            Ok(What::Run(run)) => {
                assert_eq!((run.name.as_str(), run.backend.as_deref(), run.farm), ("ping", Some("p"), None));
            }
            _ => panic!("it is right"),
        }
        assert!(matches!(read(&["guardian", "list", "--config", "a.toml"]), Ok(What::List(_))));
        for wrong in
            [&["guardian"][..], &["guardian", "run", "--config", "a.toml"][..], &["guardian", "run", "ping"][..]]
        {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn backends_are_chosen() {
        let checked = checked();
        let names = |guardian: &str, farm: Option<&str>, backend: Option<&str>| {
            let guardian = named(&checked, guardian).expect("it is written");
            let chosen = chosen(&checked, guardian, farm, backend).map_err(|error| error.to_string());
            chosen.map(|all| all.iter().map(|(farm, one)| format!("{} {}", farm.name, one.name)).collect::<Vec<_>>())
        };
        let all = |names: &[&str]| Ok(names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>());
        assert_eq!(names("port", None, None), all(&["a p", "a q", "b p"]));
        assert_eq!(names("port", Some("b"), None), all(&["b p"]));
        assert_eq!(names("port", None, Some("p")), all(&["a p", "b p"]));
        assert_eq!(names("ping", Some("b"), Some("p")), all(&["b p"]), "it need not look after it");
        assert_eq!(names("spare", None, Some("q")), all(&["a q"]));
        for (guardian, farm, backend, said) in [
            ("spare", None, None, "looks after no backend"),
            ("ping", Some("b"), None, "looks after no backend"),
            ("port", Some("c"), None, "no farm \"c\""),
            ("port", Some("b"), Some("q"), "no backend \"q\""),
        ] {
            let fault = names(guardian, farm, backend).err().unwrap_or_default();
            assert!(fault.contains(said), "{guardian}: {fault}");
        }
        let fault = named(&checked, "pong").err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(fault, "there is no guardian \"pong\": there is port, ping, spare");
    }

    #[test]
    fn guardians_are_listed_with_their_backends() {
        let listed = listed(&checked(), false);
        assert_eq!(
            listed,
            [
                "GUARDIAN  CHECK    INTERVAL  TIMEOUT  EFFECT     BACKENDS",
                "port      tcp      60s       2s       warn       p, q, p",
                "ping      options  10s       2s       down, cut  p, q",
                "spare     exec     10s       2s       down       none",
            ]
        );
    }

    #[test]
    fn the_exit_code_is_that_of_the_worst() {
        let tally = |good, warnings, failed, not_made| Tally { good, warnings, failed, not_made };
        for (tally, backends, code, said) in [
            (tally(2, 0, 0, 0), 2, 0, "2 good"),
            (tally(1, 1, 0, 0), 2, 1, "1 good, 1 with a warning"),
            (tally(0, 1, 0, 1), 2, 3, "1 with a warning, 1 not checked"),
            (tally(1, 0, 1, 1), 3, 2, "1 good, 1 failed, 1 not checked"),
            (tally(1, 0, 0, 0), 3, 3, "1 good, 2 not checked"),
        ] {
            assert_eq!((exit_code(tally, backends), summary(tally, backends).as_str()), (code, said));
        }
    }

    #[test]
    fn what_comes_of_a_check_is_told_below_its_backend() {
        let checked = checked();
        let guardian = named(&checked, "port").expect("it is written");
        let first = placed(&checked, guardian).swap_remove(0);
        let outcome = |detail, took| Outcome { verdict: Verdict::Failed, text: "no answer".to_owned(), took, detail };
        let text = told(&first, &outcome(Detail::Nothing, Duration::from_millis(2_000)), false);
        assert_eq!(text, "p (127.0.0.11:5060) of farm a\n  failed after 2.000 s: no answer\n\n");
        let text = told(&first, &outcome(Detail::Nothing, Duration::ZERO), true);
        assert!(text.ends_with("  \x1b[31mfailed\x1b[0m: no answer\n\n"), "{text:?}");
        let report = probe::Report::unknown("no answer".to_owned());
        let text = told(&first, &outcome(Detail::Report(Box::new(report)), Duration::ZERO), false);
        assert!(text.contains("\n  SIP UNKNOWN - no answer") && text.ends_with("\n  failed\n\n"), "{text}");
        let mut text = String::new();
        add_indented(&mut text, "one \n\x1b[2Jtwo\n");
        assert_eq!(text, "  one\n   [2Jtwo\n");
    }
}
