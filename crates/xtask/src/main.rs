//! The command line of `cargo xtask`.
#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use signal_hook::consts::SIGPIPE;
use signal_hook::flag;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use xtask::{bench, checklist, conformance, fuzz, gate, netns, published, purity, simulate, sync_docs, tidy};

/// What tandem's developers run.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Format, lints and every test: what must be green before anything lands.
    Test {
        /// Install missing Debian packages first (always done when CI=true).
        #[arg(long)]
        install: bool,
    },
    /// Only the rules of tidy and purity, in a second or two.
    Tidy,
    /// What a proxy must do, item by item, with the tests that show it.
    Checklist,
    /// The torture messages of RFC 4475 and RFC 5118 through the proxy.
    Conformance {
        /// Take the messages from the published crate even where others are at hand.
        #[arg(long)]
        published: bool,
    },
    /// What tandem costs and bears, in one run with a raw relay.
    Bench(bench::Options),
    /// Published results about balancing, measured again, with their figures in docs/performance.md.
    Published,
    /// Simulated worlds.
    Sim {
        /// How many.
        #[arg(long, default_value_t = 256, conflicts_with = "seed")]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0, conflicts_with = "seed")]
        first: u64,
        /// Only this one, with its report.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// One fuzz target for a while.
    Fuzz {
        /// A target of the folder `fuzz`.
        target: String,
        #[arg(long, default_value_t = 20)]
        minutes: u64,
    },
    /// Write the documents that are generated from the code.
    SyncDocs,
    /// Run a command in a private network with a loopback interface of its own.
    Netns {
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Rounds of the benchmark inside its private network.
    #[command(hide = true)]
    BenchInside(bench::Options),
    /// The raw relay of the benchmark.
    #[command(hide = true)]
    Relay(bench::RelayOptions),
    /// The generator of the benchmark.
    #[command(hide = true)]
    Generate(bench::GenerateOptions),
}

impl Task {
    /// Does it leave nothing behind wherever it ends? Others hold processes, sockets and files of the system, and must end in order.
    fn may_end_anywhere(&self) -> bool {
        matches!(self, Self::Tidy | Self::Checklist | Self::Sim { .. })
    }
}

fn main() -> Result<ExitCode> {
    let task = Arguments::parse().task;
    if task.may_end_anywhere() {
        end_with_reader()?;
    }
    let code = match task {
        Task::Test { install } => gate::run(install)?,
        Task::Tidy => tidy_and_purity()?,
        Task::Checklist => u8::from(!checklist::run()?),
        Task::Conformance { published } => conformance::run(published)?,
        Task::Bench(options) => bench::run(&options)?,
        Task::Published => published::run()?,
        Task::Sim { seed: Some(seed), .. } => simulate::replay(seed),
        Task::Sim { seeds, first, .. } => simulate::run(first, seeds)?,
        Task::Fuzz { target, minutes } => fuzz::run(&target, minutes)?,
        Task::SyncDocs => {
            sync_docs::run()?;
            0
        }
        Task::Netns { words } => {
            netns::replace(&words)?;
            0
        }
        Task::BenchInside(options) => bench::run_inside(&options)?,
        Task::Relay(options) => {
            bench::relay(&options)?;
            0
        }
        Task::Generate(options) => {
            bench::generate(&options)?;
            0
        }
    };
    Ok(ExitCode::from(code))
}

/// From now on this program ends as others do when whoever reads its output has seen enough, as `cargo xtask sim | head` does. By
/// itself Rust makes a panic of it.
fn end_with_reader() -> Result<()> {
    flag::register_conditional_default(SIGPIPE, Arc::new(AtomicBool::new(true))).context("cannot listen to signals")?;
    Ok(())
}

fn tidy_and_purity() -> Result<u8> {
    let untidy = tidy::check()?;
    let impure = purity::check()?;
    for finding in &untidy {
        println!("{finding}");
    }
    for finding in &impure {
        println!("{finding}");
    }
    println!("{} findings", untidy.len() + impure.len());
    Ok(u8::from(!(untidy.is_empty() && impure.is_empty())))
}
