//! `tandem check`: what is wrong in a configuration, and what the names in it mean.

use crate::configuration::{Source, count, tally};
use anyhow::Context;
use config::Checked;
use engine::Answers;
use net::{NameStatus, Names};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
#[command(
    after_help = "Names in the file are asked for, for five seconds at most; one without an answer is a warning.\n\n\
                        Exit status: 0 if the file may run (warnings included), 1 if not."
)]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do not ask for the names in the file
    #[arg(long)]
    no_dns: bool,
}

/// What was asked of the DNS.
#[derive(Default)]
struct Asked {
    answers: Answers,
    names: Vec<NameStatus>,
    /// Names that nobody was asked for.
    left_out: usize,
}

/// Prints all diagnostics, what each name means, and a line that sums them up.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let source = Source::read(&arguments.config)?;
    let mut result = source.check();
    let asked = match &result {
        Ok(checked) if arguments.no_dns => Asked { left_out: checked.names.len(), ..Asked::default() },
        Ok(checked) => ask(checked)?,
        Err(_) => Asked::default(),
    };
    if !asked.names.is_empty() {
        result = source.check_with(&asked.answers, &BTreeSet::new());
    }
    let diagnostics = match &result {
        Ok(checked) => &checked.warnings,
        Err(diagnostics) => diagnostics,
    };
    let mut out = io::stdout().lock();
    for diagnostic in diagnostics {
        writeln!(out, "{diagnostic}\n")?;
    }
    for name in &asked.names {
        writeln!(out, "{}", meaning(name))?;
    }
    let file = arguments.config.display();
    match &result {
        Ok(checked) => {
            writeln!(out, "{file} is good: {}", summary(checked, &asked))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(diagnostics) => {
            writeln!(out, "{file}: {}", tally(diagnostics))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn ask(checked: &Checked) -> anyhow::Result<Asked> {
    if checked.names.is_empty() {
        return Ok(Asked::default());
    }
    let names = Names::start(&checked.dns.servers, || {}).context("cannot ask for the names in the file")?;
    names.follow(checked.names.clone());
    let _all_are_known = names.settle(ASK_AT_MOST);
    Ok(Asked { answers: names.answers(), names: names.status(), left_out: 0 })
}

/// In one line.
fn meaning(name: &NameStatus) -> String {
    if name.places.is_empty() {
        let reason =
            name.failure.as_deref().unwrap_or(if name.answers > 0 { "it leads nowhere" } else { "no answer yet" });
        return format!("warning: {} is not known: {reason}", name.name);
    }
    let places = name.places.join(", ");
    match &name.failure {
        Some(failure) => format!("{} is {places} (not all was answered: {failure})", name.name),
        None => format!("{} is {places}", name.name),
    }
}

fn summary(checked: &Checked, asked: &Asked) -> String {
    let farms = &checked.settings.farms;
    let listeners = farms.iter().map(|farm| farm.listeners.len()).sum();
    let backends = farms.iter().map(|farm| farm.backends.len()).sum();
    let mut text =
        format!("{}, {}, {}", count(farms.len(), "farm"), count(listeners, "listener"), count(backends, "backend"));
    let unknown = asked.names.iter().filter(|name| name.places.is_empty()).count();
    let warnings = checked.warnings.len() + unknown;
    if warnings > 0 {
        text.push_str("; ");
        text.push_str(&count(warnings, "warning"));
    }
    if asked.left_out > 0 {
        text.push_str(&format!("; {} not asked for", count(asked.left_out, "name")));
    }
    text
}

const ASK_AT_MOST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(places: &[&str], failure: Option<&str>, answers: u64) -> NameStatus {
        NameStatus {
            name: "pbx.example.com".to_owned(),
            places: places.iter().map(|place| (*place).to_owned()).collect(),
            age: None,
            again: Duration::ZERO,
            failure: failure.map(str::to_owned),
            answers,
            failures: 0,
        }
    }

    #[test]
    fn a_name_is_told_with_its_places_or_with_the_reason_why_not() {
        let both = ["udp:10.0.0.11:5060", "udp:10.0.0.12:5060"];
        assert_eq!(meaning(&name(&both, None, 1)), "pbx.example.com is udp:10.0.0.11:5060, udp:10.0.0.12:5060");
        assert_eq!(meaning(&name(&[], Some("time is over"), 0)), "warning: pbx.example.com is not known: time is over");
        assert_eq!(meaning(&name(&[], None, 1)), "warning: pbx.example.com is not known: it leads nowhere");
        assert_eq!(meaning(&name(&[], None, 0)), "warning: pbx.example.com is not known: no answer yet");
    }

    #[test]
    fn names_without_an_answer_count_as_warnings() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\n[[farm.backend]]\naddress = \"pbx.example.com\"\n";
        let checked = config::load("f", text).expect("the file is right");
        let asked = |names: Vec<NameStatus>, left_out: usize| Asked { names, left_out, ..Asked::default() };
        assert_eq!(summary(&checked, &asked(vec![name(&[], None, 0)], 0)), "1 farm, 1 listener, 0 backends; 1 warning");
        assert_eq!(summary(&checked, &asked(Vec::new(), 1)), "1 farm, 1 listener, 0 backends; 1 name not asked for");
    }
}
