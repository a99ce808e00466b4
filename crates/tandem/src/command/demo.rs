//! `tandem demo`: two PBXs, two phones and the balancer on this machine's loopback, calling each other.

use crate::demo::{self, Options, Stop};
use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;

/// Bonnie and Clyde call each other with audio through a balancer and two PBXs, on loopback, without root
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// End after N calls, with a table; without it the demo goes on until Ctrl-C
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    calls: Option<u32>,

    /// Kill a PBX so many seconds after the start, e.g. pbx1@4; may be given several times
    #[arg(long, value_name = "PBX@SECONDS")]
    stop: Vec<Stop>,

    /// Write all SIP and RTP to FILE, to be opened with Wireshark
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,

    /// UDP port of all SIP addresses; default: 5060, or the next of 5160, 5260 … that is free
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=64_000))]
    port_base: Option<u16>,
}

/// Exit status 0 only if all calls went well.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    let options =
        Options { calls: arguments.calls, stops: arguments.stop, pcap: arguments.pcap, port_base: arguments.port_base };
    let all_went_well = demo::run(options)?;
    Ok(if all_went_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
