//! A configuration file, read and checked, and how its diagnostics are told.

use anyhow::{Context, bail};
use config::{Checked, Diagnostic, Severity};
use std::path::Path;

/// Reads and checks `path`. The inner error: what is wrong in the file, and after that what is probably not meant.
///
/// # Errors
/// The file cannot be read.
pub(crate) fn load(path: &Path) -> anyhow::Result<Result<Checked, Vec<Diagnostic>>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let Ok(text) = String::from_utf8(bytes) else {
        bail!("the configuration {} is not UTF-8 text: save it as such", path.display());
    };
    Ok(config::load(&path.display().to_string(), &text))
}

/// As [`load`], for commands that cannot go on without a right file: what is wrong is printed to standard error.
///
/// # Errors
/// The file cannot be read, or something in it is wrong.
pub(crate) fn load_or_print(path: &Path) -> anyhow::Result<Checked> {
    match load(path)? {
        Ok(checked) => Ok(checked),
        Err(diagnostics) => {
            for diagnostic in &diagnostics {
                eprintln!("{diagnostic}\n");
            }
            bail!("{} in {}", tally(&diagnostics), path.display())
        }
    }
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
