//! `tandem load idle`: connections over which nothing but keep-alives goes.

use super::target::Target;
use super::telling::Telling;
use anyhow::{Context, bail};
use load::idle::{self, IdleSettings};
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

// No comment of documentation here: it would replace the help of the subcommand.
#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// How long to keep them, once all are up
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = super::span)]
    hold: Duration,
    /// A keep-alive on each connection so often; without it none at all
    #[arg(long, value_name = "DURATION", value_parser = super::span)]
    ping: Option<Duration>,
    /// Open all at the same moment
    #[arg(long)]
    at_once: bool,
    #[command(flatten)]
    telling: Telling,
}

/// Opens and keeps the connections, and reports. Status 0 only if all were opened, stayed and answered.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { target, telling, .. } = arguments;
    target.check()?;
    telling.check()?;
    let Some(streams) = target.stream.streams(arguments.at_once)? else {
        bail!("over udp nothing stays open: say --transport tcp, tls, ws or wss");
    };
    if arguments.ping.is_some_and(|ping| ping.is_zero()) {
        bail!("--ping is the time from one keep-alive to the next, and longer than nothing");
    }
    let settings = IdleSettings {
        balancer: target.to,
        own: target.own(),
        streams,
        hold: arguments.hold,
        ping: arguments.ping,
        processes: telling.pid.clone(),
    };
    let stop = super::stop_at_signals()?;
    let is_shown = telling.is_shown();
    let report = idle::run(&settings, &stop, |progress| {
        if is_shown {
            super::tell(&progress.to_string());
        }
    })
    .context("there is no report")?;
    let text = if telling.json { format!("{:#}", report.to_json()) } else { report.to_string() };
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(if report.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
