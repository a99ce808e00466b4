//! `cargo xtask bench`: CPU time per relayed message of tandem and its peers, measured in turn with one generator in one run, beside a
//! raw relay that forwards datagrams unread. The ratio to the relay is what travels between machines; the figures themselves do not.
//!
//! Everything runs in a private network: the balancer on core 0, the generator, which is both caller and callee, on core 1.

mod figures;
mod parts;
mod process;
mod subject;

pub use parts::{GenerateOptions, RelayOptions, generate, relay};

use crate::{netns, step, workspace};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use figures::{Figures, Row, Table};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use subject::Subject;

/// What is measured, and how long.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Rounds; medians are taken over them.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Exchanges under way at a time.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Numbers of Kamailio's children to try; its best counts.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    children: Vec<u32>,
    /// Besides the relay only what has this in its name.
    #[arg(long)]
    only: Option<String>,
    /// Write all figures to this file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One way of using a balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Exchange {
    /// INVITE, 180, 200, ACK, BYE, 200.
    Call,
    /// REGISTER, 401, REGISTER, 200.
    Register,
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

/// Where the balancer listens, whoever it is.
const BALANCER: &str = "127.0.0.1:5060";
/// The relay's side towards the callee.
const RELAY_CALLEE_SIDE: &str = "127.0.0.1:5061";
const CALLER: &str = "127.0.0.1:5070";
const CALLEE: &str = "127.0.0.1:5080";

/// Cores of the balancer and of the generator.
const BALANCER_CORE: &str = "0";
const GENERATOR_CORE: &str = "1";

/// Builds what is measured and runs the rounds in a private network; the result is the exit code.
pub fn run(_options: &Options) -> Result<u8> {
    step::run(
        "build",
        workspace::cargo().args(["build", "--release", "--locked"]).args(["--package", "tandem", "--package", "xtask"]),
    )?;
    let program = workspace::target()?.join("release/xtask");
    let mut command = netns::command(program);
    // The same options again: they were checked on their way to here.
    command.arg("bench-inside").args(std::env::args().skip(2));
    Ok(step::exit_code(step::last("rounds", &mut command)?))
}

/// The rounds. Prints a table for each exchange; the result is 1 if the run is void or something failed.
pub fn run_inside(options: &Options) -> Result<u8> {
    let own = std::env::current_exe().context("the path of this program is unknown")?;
    let folder = tempfile::tempdir()?;
    let subjects: Vec<Subject> = subject::all(&own, folder.path(), &options.children)
        .into_iter()
        .filter(|subject| is_wanted(subject, options))
        .collect();
    let start = Instant::now();
    let mut tables: Vec<Table> = Exchange::ALL.into_iter().map(Table::new).collect();
    for round in 1..=options.rounds {
        for subject in &subjects {
            for table in &mut tables {
                let figures = measure(subject, table.exchange, options, &own)
                    .with_context(|| format!("round {round}, {}", subject.name))?;
                println!("    round {round}  {:<28} {}", subject.name, figures.line());
                table.add(&subject.name, figures);
            }
        }
    }
    let mut good = true;
    for table in &tables {
        print!("\n{}", table.text());
        good &= table.is_valid();
    }
    println!("\n{} rounds in {:.0} s on {}", options.rounds, start.elapsed().as_secs_f64(), process::machine());
    if let Some(path) = &options.json {
        write_json(path, &tables)?;
    }
    Ok(u8::from(!good))
}

fn is_wanted(subject: &Subject, options: &Options) -> bool {
    let named = options.only.as_ref().is_none_or(|part| subject.name.contains(part.as_str()));
    named || subject.name == subject::RELAY
}

/// Starts the subject, lets the generator use it for a while, and reads what that cost.
fn measure(subject: &Subject, exchange: Exchange, options: &Options, own: &Path) -> Result<Figures> {
    // Until the generator is there, pings to the callee stay unanswered instead of being refused by the kernel.
    let placeholder = UdpSocket::bind(CALLEE).context("the callee's address is taken")?;
    let running = subject.start()?;
    let idle_rss = running.rss();
    drop(placeholder);
    let before = running.cpu();
    let output = Command::new("taskset")
        .args(["-c", GENERATOR_CORE])
        .arg(own)
        .args(["generate", exchange.name()])
        .args(["--seconds", &options.seconds.to_string()])
        .args(["--concurrency", &options.concurrency.to_string()])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start the generator")?;
    let cpu = running.cpu().saturating_sub(before);
    let rss = running.rss();
    anyhow::ensure!(output.status.success(), "the generator failed ({})", output.status);
    let mut figures = Figures::from_generator(&output.stdout, exchange)?;
    figures.cpu = cpu;
    figures.rss_bytes = rss;
    figures.idle_rss_bytes = idle_rss;
    Ok(figures)
}

fn write_json(path: &Path, tables: &[Table]) -> Result<()> {
    let all: Vec<serde_json::Value> = tables.iter().map(Table::json).collect();
    let text = serde_json::to_string_pretty(&all)?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
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
