//! tandem: a load balancer for SIP and PBX services. One file per subcommand, in `command`; the running unit is `unit`.
#![forbid(unsafe_code)]
#![allow(
    clippy::disallowed_methods,
    reason = "the binary is the shell around the pure crates: it owns threads, files and the wall clock"
)]

mod command;
mod configuration;
mod demo;
mod hex;
mod table;
mod unit;

use clap::Parser;
use std::io;
use std::process::ExitCode;

/// A load balancer for SIP and PBX services.
///
/// It puts one address in front of any number of SIP servers, spreads registrations and calls over them, keeps each call on its server,
/// and moves users when a server dies. `tandem demo` shows all of it on this machine.
#[derive(Parser)]
#[command(name = "tandem", version)]
struct Arguments {
    #[command(subcommand)]
    command: command::Command,
}

fn main() -> ExitCode {
    let words = command::words(std::env::args_os().collect());
    let arguments = match Arguments::try_parse_from(&words) {
        Ok(arguments) => arguments,
        Err(error) => return command::refuse(&words, &error),
    };
    match arguments.command.run() {
        Ok(code) => code,
        // Whoever read our output has seen enough of it, as `tandem status | head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_reader_that_left_is_told_from_other_errors() {
        let left = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(is_broken_pipe(&left));
        let other = anyhow::Error::from(io::Error::from(io::ErrorKind::NotFound));
        assert!(!is_broken_pipe(&other));
    }
}
