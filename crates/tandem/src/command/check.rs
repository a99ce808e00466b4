//! `tandem check`: what is wrong in a configuration.

use crate::configuration::{self, count, tally};
use config::Checked;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 if the file may run (warnings included), 1 if not.")]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Prints all diagnostics and a line that sums them up.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let result = configuration::load(&arguments.config)?;
    let diagnostics = match &result {
        Ok(checked) => &checked.warnings,
        Err(diagnostics) => diagnostics,
    };
    let mut out = io::stdout().lock();
    for diagnostic in diagnostics {
        writeln!(out, "{diagnostic}\n")?;
    }
    let file = arguments.config.display();
    match &result {
        Ok(checked) => {
            writeln!(out, "{file} is good: {}", summary(checked))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(diagnostics) => {
            writeln!(out, "{file}: {}", tally(diagnostics))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn summary(checked: &Checked) -> String {
    let farms = &checked.settings.farms;
    let listeners = farms.iter().map(|farm| farm.listeners.len()).sum();
    let backends = farms.iter().map(|farm| farm.backends.len()).sum();
    let mut text =
        format!("{}, {}, {}", count(farms.len(), "farm"), count(listeners, "listener"), count(backends, "backend"));
    if !checked.warnings.is_empty() {
        text.push_str("; ");
        text.push_str(&count(checked.warnings.len(), "warning"));
    }
    text
}
