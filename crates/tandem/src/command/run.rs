//! `tandem run`: a unit in the foreground, until a signal ends it.

use crate::configuration;
use crate::unit::Unit;
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
                        registrations, let calls being set up finish for `drain`, and end; a second one ends at once.\n\n\
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
    let checked = configuration::load_or_print(&arguments.config).context("nothing was started")?;
    // Before anything is opened, so that no signal finds us half started.
    let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT]).context("cannot listen to signals")?;
    let unit =
        Unit::start(&arguments.config, arguments.state_dir.as_deref(), checked).context("nothing was started")?;
    announce(&unit);
    serve(&unit, &mut signals);
    drain(&unit, &mut signals);
    unit.stop();
    Ok(ExitCode::SUCCESS)
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

/// Returns when nothing is being set up any more, when `drain` is over, or at the second signal.
fn drain(unit: &Unit, signals: &mut Signals) {
    let deadline = Clock::now() + unit.begin_drain();
    loop {
        let now = Clock::now();
        if unit.is_quiet(now) || now >= deadline || signals.pending().any(|signal| signal != SIGHUP) {
            return;
        }
        unit.sample(now);
        std::thread::sleep(TICK);
    }
}

/// How late a signal is noticed at most.
const TICK: Duration = Duration::from_millis(50);
