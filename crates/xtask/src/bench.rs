//! `cargo xtask bench`: what tandem costs and what it bears, measured in one run beside a raw relay that forwards datagrams unread. The
//! ratio to the relay is what travels between machines; the figures themselves do not.
//!
//! Everything runs in a private network: the balancer on core 0, the generator, which is both caller and callee, on core 1.
//!
//! ```text
//! messages, peak, memory, scale, workers, reload   the parts, a file each; one more is one more line of `Part::ALL`
//! transports                                       the parts about streams, those of `Part::TRANSPORTS`
//! health                                           looking after boxes, the part of `Part::HEALTH`
//! subject, process                                 what is measured: programs, their configurations, their use of the machine
//! programs, loads, status                          who loads it and asks it: our own relay and generator, `tandem load`, `tandem status`
//! shard, decision, pinned                          the engine in this process, without sockets
//! figures, pulse                                   CPU per message by rounds, and when the relay makes a run void
//! requirement, grid, outcome                       what figures must be, and how they are told
//! interrupt                                        Ctrl-C
//! ```

mod decision;
mod figures;
mod grid;
mod health;
mod interrupt;
mod loads;
mod memory;
mod messages;
mod outcome;
mod peak;
mod pinned;
mod process;
mod programs;
mod pulse;
mod reload;
mod requirement;
mod scale;
mod shard;
mod status;
mod subject;
mod transports;
mod workers;

pub use programs::{GenerateOptions, RelayOptions, generate, relay};

use crate::document::Section;
use crate::{netns, step, workspace};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use figures::Row;
use interrupt::Interrupt;
use outcome::{Outcome, Summary};
use process::Running;
use serde_json::Value;
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Instant;
use subject::Subject;

/// What is measured, and how long.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only these parts, in the order of this list [default: all from messages to reload]
    #[arg(long = "part", value_enum, value_delimiter = ',')]
    parts: Vec<Part>,
    /// The parts about streams, from tcp to storm; their tables stand in a place of their own.
    #[arg(long)]
    transports: bool,
    /// The part about the health of boxes; its tables stand in a place of their own.
    #[arg(long, conflicts_with = "transports")]
    health: bool,
    /// Rounds of the part messages; medians are taken over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each of its measurements.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Exchanges under way at a time.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Numbers of Kamailio's children to try; its best counts.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    children: Vec<u32>,
    /// Calls a second of the part reload [default: half of tandem's peak]
    #[arg(long)]
    rate: Option<f64>,
    /// In the parts messages and peak: besides the relay only what has this in its name.
    #[arg(long)]
    only: Option<String>,
    /// Let the generator sleep, on its own core too: then whoever sends to it pays for waking it, in a virtual machine with the host's time.
    #[arg(long)]
    sleep: bool,
    /// Write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the tables into this document, between its two markers: bench, transports for the parts about streams, or health.
    #[arg(long)]
    markdown: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Part {
    /// CPU time per relayed message, of everybody.
    Messages,
    /// The highest rate without a failure, and a minute at 80 % of it.
    Peak,
    /// Memory idle, under calls, and for each registered user.
    Memory,
    /// The engine with many backends and users.
    Scale,
    /// One trunk and one backend on two workers.
    Workers,
    /// The longest latencies while the configuration is reloaded.
    Reload,
    /// CPU time per message from a thousand TCP connections.
    Tcp,
    /// The same over TLS, and its handshakes.
    Tls,
    /// Memory and CPU time of connections over which nothing goes.
    Idle,
    /// Everybody registers over a new TLS connection at once.
    Storm,
    /// CPU time of active checks, and how soon a dead box is found.
    Health,
}

/// One way of using a balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Exchange {
    /// INVITE, 180, 200, ACK, BYE, 200.
    Call,
    /// REGISTER, 401, REGISTER, 200.
    Register,
}

impl Part {
    /// In the order they are run: later ones use what earlier ones found.
    const ALL: [Self; 6] = [Self::Messages, Self::Peak, Self::Memory, Self::Scale, Self::Workers, Self::Reload];
    /// Those about streams.
    const TRANSPORTS: [Self; 4] = [Self::Tcp, Self::Tls, Self::Idle, Self::Storm];
    /// Those about the health of boxes.
    const HEALTH: [Self; 1] = [Self::Health];

    /// As on the command line.
    fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Peak => "peak",
            Self::Memory => "memory",
            Self::Scale => "scale",
            Self::Workers => "workers",
            Self::Reload => "reload",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Idle => "idle",
            Self::Storm => "storm",
            Self::Health => "health",
        }
    }

    fn run(self, bench: &mut Bench<'_>) -> Result<Outcome> {
        match self {
            Self::Messages => messages::run(bench),
            Self::Peak => peak::run(bench),
            Self::Memory => memory::run(bench),
            Self::Scale => scale::run(bench),
            Self::Workers => workers::run(bench),
            Self::Reload => reload::run(bench),
            Self::Tcp => transports::relayed::run(bench, Self::Tcp),
            Self::Tls => transports::relayed::run(bench, Self::Tls),
            Self::Idle => transports::idle::run(bench),
            Self::Storm => transports::storm::run(bench),
            Self::Health => health::run(bench),
        }
    }
}

impl Exchange {
    const ALL: [Self; 2] = [Self::Call, Self::Register];

    /// Messages that the balancer relays for one exchange. A 100 of its own is not counted, its cost is.
    fn messages(self) -> u64 {
        match self {
            Self::Call => 6,
            Self::Register => 4,
        }
    }

    /// As given to the generator on its command line.
    fn name(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Register => "register",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Call => "call: INVITE, 180, 200, ACK, BYE, 200",
            Self::Register => "registration: REGISTER, 401, REGISTER, 200",
        }
    }
}

/// Of a document, where all tables stand, where those about streams do, and where those about the health of boxes.
const SECTION: Section = Section("bench");
const TRANSPORTS_SECTION: Section = Section("transports");
const HEALTH_SECTION: Section = Section("health");

/// Where the balancer listens, whoever it is.
const BALANCER: &str = "127.0.0.1:5060";
/// Over TLS.
const SECURE: &str = "127.0.0.1:5061";
/// The relay's side towards the callee.
const RELAY_CALLEE_SIDE: &str = "127.0.0.1:5061";
const CALLER: &str = "127.0.0.1:5070";
/// Not the host of the callers: over a stream whoever comes from the host of a backend is that backend.
const CALLEE: &str = "127.0.0.2:5080";

/// Cores of the balancer and of the generator, and both.
const BALANCER_CORE: &str = "0";
const GENERATOR_CORE: &str = "1";
const BOTH_CORES: &str = "0,1";

/// What all parts have at hand.
struct Bench<'a> {
    options: &'a Options,
    /// This program, beside which tandem was built.
    own: PathBuf,
    /// Gone after the run.
    folder: &'a Path,
    interrupt: Interrupt,
    /// Calls a second, once part peak found it.
    tandem_peak: Option<f64>,
}

impl Options {
    fn wanted(&self) -> Vec<Part> {
        let is_wanted = |part: &Part| match self.parts.as_slice() {
            [] => self.transports == Part::TRANSPORTS.contains(part) && self.health == Part::HEALTH.contains(part),
            chosen => chosen.contains(part),
        };
        Part::ALL.into_iter().chain(Part::TRANSPORTS).chain(Part::HEALTH).filter(is_wanted).collect()
    }

    /// Where the tables stand; an error if they belong to two places.
    fn section(&self) -> Result<Section> {
        let wanted = self.wanted();
        let of = |family: &[Part]| wanted.iter().filter(|part| family.contains(part)).count();
        match (of(&Part::TRANSPORTS), of(&Part::HEALTH)) {
            (0, 0) => Ok(SECTION),
            (streams, 0) if streams == wanted.len() => Ok(TRANSPORTS_SECTION),
            (0, health) if health == wanted.len() => Ok(HEALTH_SECTION),
            _ => bail!(
                "the parts about streams and about health are written into places of their own: measure them apart"
            ),
        }
    }
}

impl Bench<'_> {
    fn tandem(&self) -> PathBuf {
        self.own.with_file_name("tandem")
    }

    /// Everything that is to be compared, the relay first. The state of each lies in a folder of the part.
    fn subjects(&self, part: Part) -> Vec<Subject> {
        let all = subject::all(&self.own, &self.folder.join(part.name()), &self.options.children);
        all.into_iter().filter(|subject| self.is_wanted(subject)).collect()
    }

    fn is_wanted(&self, subject: &Subject) -> bool {
        let named = self.options.only.as_ref().is_none_or(|part| subject.name.contains(part.as_str()));
        named || subject.name == subject::RELAY
    }

    /// Starts `subject`. Until the generator is there, pings to the callee stay unanswered instead of being refused by the kernel.
    fn start(&self, subject: &Subject) -> Result<Running> {
        self.interrupt.check()?;
        let _placeholder = UdpSocket::bind(CALLEE).context("the callee's address is taken")?;
        subject.start().with_context(|| format!("cannot start {}", subject.name))
    }
}

/// Builds what is measured and runs the parts in a private network, in place of this process: whoever ends it ends the run.
pub fn run(options: &Options) -> Result<u8> {
    if let Some(path) = &options.markdown {
        options.section()?.check(path)?;
    }
    step::run(
        "build",
        workspace::cargo().args(["build", "--release", "--locked"]).args(["--package", "tandem", "--package", "xtask"]),
    )?;
    let program = workspace::target()?.join("release/xtask");
    // The same options again: they were checked on their way to here.
    let error = netns::command(program).arg("bench-inside").args(std::env::args_os().skip(2)).exec();
    Err(error).context("cannot start unshare (package util-linux)")
}

/// The parts. Prints their tables and what figures must be; the result is 1 if a part is void or something failed.
pub fn run_inside(options: &Options) -> Result<u8> {
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    let folder = tempfile::tempdir()?;
    let interrupt = Interrupt::watch()?;
    let mut bench = Bench { options, own, folder: folder.path(), interrupt, tandem_peak: None };
    let start = Instant::now();
    let mut summary = Summary { outcomes: Vec::new(), machine: process::machine() };
    for part in options.wanted() {
        println!("==> {}", part.name());
        let outcome = part.run(&mut bench);
        // Whatever came of an interrupted part, it says nothing.
        bench.interrupt.check()?;
        let outcome = outcome.unwrap_or_else(|error| Outcome::failed(part, &error));
        println!("\n{}", outcome.text());
        summary.outcomes.push(outcome);
    }
    println!("{}\n{:.0} s on {}", summary.text(), start.elapsed().as_secs_f64(), summary.machine);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&summary.json())?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &options.markdown {
        options.section()?.write(path, &summary.markdown())?;
    }
    Ok(u8::from(!summary.is_good()))
}

/// The middle one of `values`; zero if there is none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.len() % 2, sorted.get(middle)) {
        (_, None) => 0.0,
        (0, Some(upper)) => {
            let lower = sorted.get(middle.saturating_sub(1)).unwrap_or(upper);
            (lower + upper) / 2.0
        }
        (_, Some(value)) => *value,
    }
}

/// CPU time per message of one row as a multiple of another's.
fn ratio(row: &Row, base: &Row) -> f64 {
    let base = base.cpu_per_message_us();
    if base > 0.0 { row.cpu_per_message_us() / base } else { 0.0 }
}

/// The count at that place, a JSON pointer, of what a program told.
fn count(told: &Value, place: &str) -> Result<u64> {
    told.pointer(place).and_then(Value::as_u64).with_context(|| format!("there is no count {place} in what was told"))
}

/// Of 2^20 octets.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn wanted(words: &[&str]) -> Vec<Part> {
        let words = std::iter::once("bench").chain(words.iter().copied());
        Line::try_parse_from(words).expect("the words are options").options.wanted()
    }

    #[test]
    fn parts_are_chosen_and_keep_their_order() {
        assert_eq!(wanted(&[]), Part::ALL);
        assert_eq!(wanted(&["--part", "reload", "--part", "peak"]), [Part::Peak, Part::Reload]);
        assert_eq!(wanted(&["--part", "scale,memory"]), [Part::Memory, Part::Scale]);
        assert_eq!(wanted(&["--transports"]), Part::TRANSPORTS);
        assert_eq!(wanted(&["--transports", "--part", "storm,idle"]), [Part::Idle, Part::Storm]);
        assert_eq!(wanted(&["--part", "tcp"]), [Part::Tcp]);
        assert_eq!(wanted(&["--health"]), Part::HEALTH);
        assert!(Line::try_parse_from(["bench", "--health", "--transports"]).is_err());
        assert!(Line::try_parse_from(["bench", "--part", "all"]).is_err());
    }

    #[test]
    fn a_part_is_called_as_on_the_command_line() {
        for part in Part::ALL.into_iter().chain(Part::TRANSPORTS).chain(Part::HEALTH) {
            assert_eq!(Part::from_str(part.name(), false), Ok(part));
        }
        let listed = Part::ALL.len() + Part::TRANSPORTS.len() + Part::HEALTH.len();
        assert_eq!(listed, Part::value_variants().len());
    }

    #[test]
    fn tables_have_their_place() {
        let section = |words: &[&str]| {
            let words = std::iter::once("bench").chain(words.iter().copied());
            let options = Line::try_parse_from(words).expect("the words are options").options;
            options.section().ok().map(|section| section.0)
        };
        assert_eq!((section(&[]), section(&["--part", "memory"])), (Some("bench"), Some("bench")));
        assert_eq!((section(&["--transports"]), section(&["--part", "tls"])), (Some("transports"), Some("transports")));
        assert_eq!((section(&["--health"]), section(&["--part", "health"])), (Some("health"), Some("health")));
        assert_eq!((section(&["--part", "tls,memory"]), section(&["--part", "tls,health"])), (None, None));
        assert_eq!(section(&["--part", "memory,health"]), None);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
    }
}
