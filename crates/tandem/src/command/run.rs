//! `tandem run`: a unit in the foreground, until a signal ends it.

use crate::configuration::Source;
use crate::unit::Unit;
use crate::unit::drain::Step;
use crate::unit::{privileges, state_dir};
use anyhow::Context;
use net::Clock;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(clap::Args)]
#[command(
    after_help = "Signals: SIGHUP reads the file again and takes it whole or refuses it whole. SIGTERM and SIGINT refuse new calls and \
                        registrations, wait until every request is answered, for `drain` at most, and end; a second one ends at once. \
                        Calls that are up stay up.\n\n\
                        Names in the file are asked for before it starts, for five seconds at most, and again while it runs.\n\n\
                        Standard output says where it listens, then \"ready\"; the log goes to standard error."
)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Folder of secret, learnt facts and control socket, instead of `state_dir` in the file
    #[arg(long, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
}

/// Starts the unit, serves, drains, and ends.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (unit, mut signals) = start(arguments).context("nothing was started")?;
    announce(&unit);
    serve(&unit, &mut signals);
    let reason = drain(&unit, &mut signals);
    unit.stop(&reason);
    Ok(ExitCode::SUCCESS)
}

fn start(arguments: &Arguments) -> anyhow::Result<(Arc<Unit>, Signals)> {
    let source = Source::read(&arguments.config)?;
    let checked = source.check_or_print()?;
    // As long as this is root: its usual folder is another one.
    let folder = state_dir::choose(arguments.state_dir.as_deref(), checked.unit.state_dir.as_deref())?;
    // Before the first thread, since each has its own rights, and takes those of the thread that starts it.
    let told = privileges::give_up(checked.unit.user.as_deref(), &folder, &arguments.config)?;
    // Before anything is opened, so that no signal finds us half started.
    let signals = Signals::new([SIGHUP, SIGTERM, SIGINT]).context("cannot listen to signals")?;
    let unit = Unit::start(&arguments.config, folder, (source, checked), &told)?;
    Ok((unit, signals))
}

fn announce(unit: &Arc<Unit>) {
    let mut out = io::stdout().lock();
    for line in unit.introduction() {
        // A unit whose output nobody reads any more still balances.
        let _unread = writeln!(out, "{line}");
    }
    let _unread = writeln!(out, "ready").and_then(|()| out.flush());
}

/// Returns when the unit shall end.
fn serve(unit: &Unit, signals: &mut Signals) {
    loop {
        for signal in signals.pending() {
            if signal != SIGHUP {
                return;
            }
            // The outcome is in the log.
            let _told = unit.reload();
        }
        unit.sample(Clock::now());
        std::thread::sleep(TICK);
    }
}

/// Returns when every request is answered, when `drain` is over, or at the second signal; says which, and what is left.
fn drain(unit: &Unit, signals: &mut Signals) -> String {
    let mut drain = unit.begin_drain(Clock::now());
    loop {
        let now = Clock::now();
        let hurried = signals.pending().any(|signal| signal != SIGHUP);
        match drain.look(now, unit.load(now), hurried) {
            Step::Wait => {}
            Step::Tell(line) => unit.tell_drain(&line),
            Step::End(reason) => return reason,
        }
        unit.sample(now);
        std::thread::sleep(TICK);
    }
}

/// How late a signal is noticed at most.
const TICK: Duration = Duration::from_millis(50);
