//! The subcommands: one file each, and here one line for its module, one for its name and one for its start.

mod check;
mod check_sip;
mod demo;
mod demo_pbx;
mod explain;
mod guardian;
mod load;
mod run;
mod status;

use std::ffi::OsString;
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Run a unit: open the listeners of a configuration and balance until told to stop
    Run(run::Arguments),
    /// Check a configuration: every error and warning, each with its line
    Check(check::Arguments),
    /// Say what would become of a SIP message, step by step, and why
    Explain(explain::Arguments),
    /// Show a running unit: farms, backends, calls, registrations, rates
    Status(status::Arguments),
    /// Call a PBX as a phone does, with audio, and say in one line how it went: a monitoring plugin, also by the name check_sip
    CheckSip(Box<check_sip::Arguments>),
    /// List the guardians of a configuration, or run one by hand
    Guardian(guardian::Arguments),
    /// Load a farm or a server with calls, registrations or pings, and say how it fared
    Load(Box<load::Arguments>),
    /// Show everything at work on this machine: two PBXs, two phones, calls with audio
    Demo(demo::Arguments),
    /// One PBX of the demo
    #[command(hide = true)]
    DemoPbx(demo_pbx::Arguments),
}

impl Command {
    /// Runs to the end. The code is what the process ends with.
    ///
    /// # Errors
    /// What went wrong, where, and what to do; shown after "error: ".
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(arguments) => run::run(&arguments),
            Self::Check(arguments) => check::run(&arguments),
            Self::Explain(arguments) => explain::run(&arguments),
            Self::Status(arguments) => status::run(&arguments),
            Self::CheckSip(arguments) => Ok(check_sip::run(&arguments)),
            Self::Guardian(arguments) => guardian::run(&arguments),
            Self::Load(arguments) => load::run(&arguments),
            Self::Demo(arguments) => demo::run(arguments),
            Self::DemoPbx(arguments) => demo_pbx::run(arguments),
        }
    }
}

/// The command line as clap is to see it.
pub(crate) fn words(words: Vec<OsString>) -> Vec<OsString> {
    check_sip::words(words)
}

/// Tells what is wrong in the command line, or what was asked for as help, as the command in it does.
pub(crate) fn refuse(words: &[OsString], error: &clap::Error) -> ExitCode {
    if error.use_stderr() && check_sip::is_meant(words) {
        return check_sip::refuse(error);
    }
    // Whoever closed our output has seen enough of it.
    let _unread = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
