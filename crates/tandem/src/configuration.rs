//! A configuration file, read and checked, and how its diagnostics are told.

use anyhow::{Context, bail};
use config::{Checked, Diagnostic, Severity};
use engine::Answers;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// The text of a configuration file.
pub(crate) struct Source {
    /// What its diagnostics call it.
    name: String,
    text: String,
}

/// A file, and what it comes to with what is known of the names in it.
pub(crate) struct Configuration {
    pub(crate) source: Arc<Source>,
    pub(crate) answers: Answers,
    /// The addresses that were passed over.
    pub(crate) down: BTreeSet<SocketAddr>,
    pub(crate) checked: Checked,
}

impl Configuration {
    /// Of a file without names: there is nothing to ask.
    pub(crate) fn without_names(source: Source, checked: Checked) -> Self {
        Self { source: Arc::new(source), answers: Answers::default(), down: BTreeSet::new(), checked }
    }
}

impl Source {
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
        let Ok(text) = String::from_utf8(bytes) else {
            bail!("the configuration {} is not UTF-8 text: save it as such", path.display());
        };
        Ok(Self { name: path.display().to_string(), text })
    }

    /// What the file says while nothing is known of its names.
    ///
    /// # Errors
    /// What is wrong in the file, and after that what is probably not meant.
    pub(crate) fn check(&self) -> Result<Checked, Vec<Diagnostic>> {
        config::load(&self.name, &self.text)
    }

    /// What it says with these answers, while these addresses are down.
    ///
    /// # Errors
    /// As of [`Source::check`].
    pub(crate) fn check_with(
        &self,
        answers: &Answers,
        down: &BTreeSet<SocketAddr>,
    ) -> Result<Checked, Vec<Diagnostic>> {
        config::load_with(&self.name, &self.text, answers, down)
    }

    /// As [`Source::check`], for commands that cannot go on without a right file: what is wrong is printed to standard error.
    ///
    /// # Errors
    /// Something in the file is wrong.
    pub(crate) fn check_or_print(&self) -> anyhow::Result<Checked> {
        self.or_print(self.check())
    }

    /// As [`Source::check_with`] where nothing is down, for the same commands.
    ///
    /// # Errors
    /// As of [`Source::check_or_print`].
    pub(crate) fn check_with_or_print(&self, answers: &Answers) -> anyhow::Result<Checked> {
        self.or_print(self.check_with(answers, &BTreeSet::new()))
    }

    fn or_print(&self, outcome: Result<Checked, Vec<Diagnostic>>) -> anyhow::Result<Checked> {
        match outcome {
            Ok(checked) => Ok(checked),
            Err(diagnostics) => {
                for diagnostic in &diagnostics {
                    eprintln!("{diagnostic}\n");
                }
                bail!("{} in {}", tally(&diagnostics), self.name)
            }
        }
    }
}

/// Reads and checks `path` while nothing is known of the names in it. What is wrong is printed to standard error.
///
/// # Errors
/// The file cannot be read, or something in it is wrong.
pub(crate) fn load_or_print(path: &Path) -> anyhow::Result<Checked> {
    Source::read(path)?.check_or_print()
}

/// Those that keep a file from running.
pub(crate) fn errors(diagnostics: &[Diagnostic]) -> impl Iterator<Item = &Diagnostic> {
    diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error)
}

/// "2 errors", "1 error, 3 warnings".
pub(crate) fn tally(diagnostics: &[Diagnostic]) -> String {
    let errors = errors(diagnostics).count();
    let warnings = diagnostics.len() - errors;
    let mut text = count(errors, "error");
    if warnings > 0 {
        text.push_str(", ");
        text.push_str(&count(warnings, "warning"));
    }
    text
}

/// A diagnostic in one line, for a log.
pub(crate) fn brief(diagnostic: &Diagnostic) -> String {
    let place = format!("{}:{}:{}", diagnostic.file, diagnostic.line, diagnostic.column);
    match &diagnostic.hint {
        Some(hint) => format!("{place}: {} ({hint})", diagnostic.message),
        None => format!("{place}: {}", diagnostic.message),
    }
}

/// "1 error", "2 errors".
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_fits_in_a_line() {
        let errors = config::load("a.toml", "[log]\nlevel = \"loud\"\n").expect_err("there is no such level");
        let text = errors.first().map(brief).expect("an error is reported");
        assert!(text.starts_with("a.toml:"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn errors_and_warnings_are_counted_apart() {
        let text = "[log]\nlevel = \"loud\"\n[[farm]]\nname = \"a\"\nlisten = [\"udp:203.0.113.1:5060\"]\norigin_header = \"\"\n\
                    [[farm.backend]]\naddress = \"203.0.113.2\"\n";
        let found = config::load("a.toml", text).expect_err("there is no such level");
        assert_eq!(tally(&found), "1 error, 1 warning");
        assert_eq!(errors(&found).map(|error| error.line).collect::<Vec<_>>(), [2]);
        assert_eq!(tally(&[]), "0 errors");
    }

    #[test]
    fn numbers_agree_with_their_nouns() {
        assert_eq!(count(1, "farm"), "1 farm");
        assert_eq!(count(0, "farm"), "0 farms");
        assert_eq!(count(2, "farm"), "2 farms");
    }
}
