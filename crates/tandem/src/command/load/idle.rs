//! `tandem load idle`: connections over which nothing but keep-alives goes.

use super::streams::StreamArguments;
use anyhow::{Context, bail};
use load::idle::{self, IdleSettings};
use std::io::{self, IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

// No comment of documentation here: it would replace the help of the subcommand.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The balancer; without a port 5060
    #[arg(long, value_name = "ADDRESS", value_parser = super::address)]
    to: SocketAddr,
    #[command(flatten)]
    stream: StreamArguments,
    /// How long to keep them, once all are up
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = super::span)]
    hold: Duration,
    /// A keep-alive on each connection so often; without it none at all
    #[arg(long, value_name = "DURATION", value_parser = super::span)]
    ping: Option<Duration>,
    /// Open all at the same moment
    #[arg(long)]
    at_once: bool,
    /// The target is neither this machine nor in a private network, and it is mine to load
    #[arg(long)]
    i_own_the_target: bool,
    /// Our own address; without it the one that the system uses towards the balancer
    #[arg(long, value_name = "ADDRESS", value_parser = super::own_address)]
    from: Option<SocketAddr>,
    /// Measure the CPU time and the memory of this process too; may be given several times
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,
    /// Tell each second how it goes, even where standard error is no terminal
    #[arg(long)]
    progress: bool,
    /// JSON for programs
    #[arg(long)]
    json: bool,
}

/// Opens and keeps the connections, and reports. Status 0 only if all were opened, stayed and answered.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    super::check_target(arguments.to, arguments.i_own_the_target)?;
    super::check_own(arguments.to, arguments.from, &arguments.pid)?;
    let Some(streams) = arguments.stream.streams(arguments.at_once)? else {
        bail!("over udp nothing stays open: say --transport tcp, tls, ws or wss");
    };
    if arguments.ping.is_some_and(|ping| ping.is_zero()) {
        bail!("--ping is the time from one keep-alive to the next, and longer than nothing");
    }
    let settings = IdleSettings {
        balancer: arguments.to,
        own: arguments.from.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        streams,
        hold: arguments.hold,
        ping: arguments.ping,
        processes: arguments.pid.clone(),
    };
    let stop = super::stop_at_signals()?;
    let is_shown = arguments.progress || io::stderr().is_terminal();
    let report = idle::run(&settings, &stop, |progress| {
        if is_shown {
            super::tell(&progress.to_string());
        }
    })
    .context("there is no report")?;
    let text = if arguments.json { format!("{:#}", report.to_json()) } else { report.to_string() };
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(if report.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
