//! The configuration file: text in, checked settings or every error of the file out. Pure: reads no file, asks no system.
//!
//! The way of a file: [`load`] parses it to a tree that knows where everything stands (`document`), reads the tree by the
//! list of all settings (`registry`, `read`), and checks what the settings mean together (`check`). What was written
//! and what runs are two types: only [`engine::Settings`] reaches the engine.
//!
//! A name in a file is not asked for here: [`Checked::names`] says which there are, and [`load_with`] takes what is known of
//! them. Without an answer a file is right or wrong all the same.
//!
//! Every setting is defined once, in `registry`: name, type, bounds, default, meaning, and whether this version has it.
//! [`reference()`] and [`schema()`] are generated from the same list.
#![forbid(unsafe_code)]

mod check;
mod diagnostic;
mod difference;
mod document;
mod forms;
mod guardian;
mod names;
mod nearest;
mod read;
mod reference;
mod registry;
mod report;
mod schema;
mod section;
mod tokens;

pub use diagnostic::{Diagnostic, Severity};
pub use difference::difference;
pub use guardian::{Account, Call, Check, Guardian};
pub use names::{leads_alike, moves};
pub use reference::reference;
pub use schema::schema;
pub use tokens::with_tokens;

use check::known::Known;
use engine::{Answers, Target};
use report::Report;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A configuration that may run.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What the engine runs on.
    pub settings: engine::Settings,
    /// In file order; last the check by OPTIONS, where a service has it and the file does not write it.
    pub guardians: Vec<Guardian>,
    pub unit: UnitSettings,
    pub dns: Dns,
    pub log: Log,
    /// Every name that the file needs, sorted, each once. What is not known of them is left out of `settings`.
    pub names: Vec<Target>,
    /// What is allowed and probably not meant, in file order.
    pub warnings: Vec<Diagnostic>,
}

/// Section `[unit]`: the process, not the traffic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnitSettings {
    /// Empty: the host's name, which the binary fills in.
    pub name: String,
    /// `None`: the binary chooses, by the user it runs as.
    pub state_dir: Option<PathBuf>,
    /// UDP worker threads; 0: one per core.
    pub workers: usize,
    /// Whom to become when started as root and this user exists; `None`: nobody else.
    pub user: Option<String>,
    /// How long SIGTERM waits at most until every request is answered.
    pub drain: Duration,
}

/// Section `[dns]`: who is asked for names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// In order; empty: those of the system.
    pub servers: Vec<SocketAddr>,
}

/// Section `[log]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
}

/// The least urgent kind of line that is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// As written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    /// As written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Checks the text of a file while nothing is known of the names in it. `file_name` is only what the diagnostics call it.
///
/// # Errors
/// Syntax: the first error alone. Meaning: all errors at once, then all warnings, each in file order. Some of those warnings may
/// follow from an error, as that of a service without backends from a backend that names it wrongly.
pub fn load(file_name: &str, text: &str) -> Result<Checked, Vec<Diagnostic>> {
    load_with(file_name, text, &Answers::default(), &BTreeSet::new())
}

/// Checks the text of a file with what is known of the names in it. Where a backend by name is at one of several addresses, those
/// in `down` are passed over as long as there is another.
///
/// # Errors
/// As of [`load`]: what is wrong is so without any answer too.
pub fn load_with(
    file_name: &str,
    text: &str,
    answers: &Answers,
    down: &BTreeSet<SocketAddr>,
) -> Result<Checked, Vec<Diagnostic>> {
    let mut report = Report::new(file_name, text);
    let Some(table) = document::parse(text, &mut report) else {
        return Err(all(report.finish()));
    };
    let root = read::section(&registry::ROOT, &table, &mut report);
    let mut checked = check::everything(&root, &Known::new(answers, down), &mut report);
    let (errors, warnings) = report.finish();
    if !errors.is_empty() {
        return Err(all((errors, warnings)));
    }
    checked.warnings = warnings;
    Ok(checked)
}

/// What keeps the file from running comes first.
fn all((mut errors, warnings): (Vec<Diagnostic>, Vec<Diagnostic>)) -> Vec<Diagnostic> {
    errors.extend(warnings);
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEVEN_LINES: &str = "[[farm]]\nname = \"pbx\"\nlisten = [\"udp:127.0.0.1:5060\"]\n\
        [[farm.backend]]\naddress = \"127.0.0.11:5060\"\n[[farm.backend]]\naddress = \"127.0.0.12:5060\"\n";

    #[test]
    fn one_farm_and_two_backends_run_on_defaults() {
        let checked = load("seven.toml", SEVEN_LINES).expect("the seven lines are right");
        assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
        let farm = checked.settings.farms.first().expect("one farm is written");
        assert_eq!(farm.listeners.len(), 1);
        assert!(farm.listeners.iter().all(|listener| listener.inside && listener.outside));
        assert_eq!(farm.services.len(), 1);
        let service = farm.services.first().expect("the default service exists");
        assert_eq!(service.name, "default");
        assert_eq!(service.algorithm.name(), "weight");
        assert_eq!(service.backends, [0, 1]);
        assert_eq!(service.failover, engine::Failover::default());
        assert_eq!(service.guardians, [std::sync::Arc::new(engine::Guardian::options())]);
        assert!(service.passive);
        assert_eq!(service.persistence, engine::Persistence::User);
        assert_eq!(service.fallback, engine::Fallback::Status(503));
        let backend = farm.backends.get(1).expect("two backends are written");
        assert_eq!(backend.name, "127.0.0.12:5060");
        assert_eq!(backend.address, SocketAddr::from(([127, 0, 0, 12], 5060)));
        assert_eq!((backend.weight, backend.priority), (1, 1));
        assert_eq!(backend.slow_start, Duration::from_secs(30));
        assert_eq!(farm.keepalive, Some(Duration::from_secs(25)));
        assert_eq!(farm.origin_header.as_deref(), Some("X-Tandem-Origin"));
        assert_eq!(farm.source_header, None);
        assert_eq!(farm.max_call_time, Duration::from_secs(12 * 3600));
        assert!(farm.certificates.is_empty() && farm.client_ca.is_none() && farm.origins.is_empty());
        assert_eq!((backend.transport, &backend.verify), (Some(engine::Transport::Udp), &engine::Verify::System));
        assert!(checked.dns.servers.is_empty() && checked.names.is_empty());
        assert_eq!((farm.client_certificates, &backend.host), (engine::ClientCertificates::Verify, &None));
        assert_eq!(checked.unit.user.as_deref(), Some("tandem"));
        assert_eq!(checked.unit.drain, Duration::from_secs(30));
        assert_eq!(checked.log, Log { level: LogLevel::Info, format: LogFormat::Text });
    }

    #[test]
    fn defaults_of_limits_are_the_engines() {
        let checked = load("seven.toml", SEVEN_LINES).expect("the seven lines are right");
        let built_in = engine::Limits::default();
        assert_eq!(format!("{:?}", checked.settings.limits), format!("{built_in:?}"));
    }

    #[test]
    fn syntax_gives_the_first_error_alone() {
        let errors = load("a.toml", "[unit]\nname = = \"a\"\nworkers = = 1\n").expect_err("two signs are too many");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors.first().map(|error| error.line), Some(2));
    }

    #[test]
    fn meaning_gives_all_errors_in_file_order() {
        let text = "[unit]\nworkers = -1\n[log]\nlevel = \"loud\"\n[[farm]]\nname = \"a\"\n";
        let errors = load("a.toml", text).expect_err("several things are wrong");
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [2, 4, 5, 5]);
    }

    #[test]
    fn warnings_come_after_the_errors() {
        let text = "[[farm]]\nname = \"a\"\nlisten = [\"udp:203.0.113.10:5060\"]\n[[farm.backend]]\naddress = \"10.0.0.11\"\n\
            weight = 0\n";
        let found = load("a.toml", text).expect_err("the weight is out of bounds");
        let places: Vec<(Severity, usize)> = found.iter().map(|found| (found.severity, found.line)).collect();
        assert_eq!(places, [(Severity::Error, 6), (Severity::Warning, 3), (Severity::Warning, 3)]);
    }

    #[test]
    fn an_empty_file_is_an_error() {
        let errors = load("a.toml", "").expect_err("there is no farm");
        assert_eq!(errors.len(), 1);
        assert_eq!(errors.first().map(|error| (error.line, error.column)), Some((1, 1)));
    }
}
