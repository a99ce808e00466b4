//! The options of every `tandem load` about what is told of it.

use anyhow::bail;
use load::process;
use std::io::{self, IsTerminal};

// No comment of documentation here: it would replace the help of the subcommands.
#[derive(clap::Args)]
pub(super) struct Telling {
    /// Measure the CPU time and the memory of this process too; may be given several times
    #[arg(long, value_name = "PID")]
    pub(super) pid: Vec<u32>,
    /// Tell each second how it goes, even where standard error is no terminal
    #[arg(long)]
    progress: bool,
    /// JSON for programs
    #[arg(long)]
    pub(super) json: bool,
}

impl Telling {
    /// What clap cannot know to be wrong.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        for process in &self.pid {
            if !process::exists(*process) {
                bail!("there is no process {process} to measure");
            }
        }
        Ok(())
    }

    /// Is progress told?
    pub(super) fn is_shown(&self) -> bool {
        self.progress || io::stderr().is_terminal()
    }
}
