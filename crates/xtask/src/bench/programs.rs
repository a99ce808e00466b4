//! The programs that the benchmark starts from this one: the raw relay and the generator. What they need of crate `load` is here.

use super::{BALANCER, CALLEE, CALLER, Exchange};
use anyhow::Result;
use clap::Args;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Where the relay listens and sends.
#[derive(Args, Clone, Debug)]
pub struct RelayOptions {
    /// Towards the caller.
    #[arg(long)]
    listen: SocketAddr,
    /// Towards the callee.
    #[arg(long)]
    callee_side: SocketAddr,
    #[arg(long)]
    callee: SocketAddr,
}

/// What the generator does.
#[derive(Args, Clone, Debug)]
pub struct GenerateOptions {
    #[arg(value_enum)]
    exchange: Exchange,
    #[arg(long)]
    seconds: u64,
    /// Exchanges under way at a time.
    #[arg(long)]
    concurrency: usize,
    /// Ask the sockets again and again instead of sleeping.
    #[arg(long)]
    busy_poll: bool,
}

/// Relays until the process is ended.
pub fn relay(options: &RelayOptions) -> Result<()> {
    let settings = load::relay::RelaySettings {
        caller_side: options.listen,
        callee_side: options.callee_side,
        callee: options.callee,
    };
    load::relay::run(settings, &AtomicBool::new(false))?;
    Ok(())
}

/// Places exchanges for the given time and prints what came of them as JSON.
pub fn generate(options: &GenerateOptions) -> Result<()> {
    let settings = load::generator::Settings {
        kind: match options.exchange {
            Exchange::Call => load::generator::Kind::Call,
            Exchange::Register => load::generator::Kind::Register,
        },
        pace: load::generator::Pace::Closed { concurrency: options.concurrency },
        duration: Duration::from_secs(options.seconds),
        balancer: BALANCER.parse()?,
        caller: CALLER.parse()?,
        callee: CALLEE.parse()?,
    };
    let details = load::generator::Details { busy_poll: options.busy_poll, ..Default::default() };
    let report = load::generator::run_with(settings, &details, &AtomicBool::new(false), |_| {})?;
    let report = serde_json::json!({
        "exchanges": report.completed,
        "failures": report.failures(),
        "retransmissions": report.sent_again,
        "drops": report.kernel_drops,
        "busy": report.busy,
        "seconds": report.elapsed.as_secs_f64(),
        "p50_us": report.latency.quantile(0.50),
        "p99_us": report.latency.quantile(0.99),
    });
    println!("{report}");
    Ok(())
}

/// User and system time of one process so far; nothing of one that has ended.
pub(super) fn cpu(process: u32) -> Duration {
    load::process::cpu(process)
}

/// Resident octets of one process.
pub(super) fn rss(process: u32) -> u64 {
    load::process::rss(process)
}
