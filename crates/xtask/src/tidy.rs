//! Tidy is a test: what a reviewer would otherwise have to say again and again.
//!
//! A finding is waived on the spot, with its reason, by a comment on its line or right above it: `// tidy: allow(rule, reason)`.

mod documents;
mod manifests;
mod rust;

use crate::source::Source;
use crate::workspace;
use anyhow::Result;
use std::fmt;

/// One place that breaks one rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    pub path: String,
    /// Counted from 1.
    pub line: usize,
    pub rule: &'static str,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, rule, message } = self;
        write!(formatter, "{path}:{line}: [{rule}] {message}")
    }
}

/// Everything untidy in the workspace, sorted.
pub fn check() -> Result<Vec<Finding>> {
    let files = workspace::files()?;
    let sources = sources(&files)?;
    let mut findings = Vec::new();
    rust::check(&sources, &mut findings);
    documents::check(&files, &mut findings)?;
    manifests::check(&files, &mut findings)?;
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// The Rust among `files`.
pub fn sources(files: &[String]) -> Result<Vec<Source>> {
    files
        .iter()
        .filter(|path| path.ends_with(".rs"))
        .map(|path| Ok(Source::new(path, workspace::read(path)?)))
        .collect()
}

/// Whether a waiver for `rule` stands on `line` (counted from 1) of `text` or in the comments and attributes right above it.
fn is_waived(text: &str, line: usize, rule: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let wanted = format!("// tidy: allow({rule}, ");
    let here = line.saturating_sub(1);
    if lines.get(here).is_some_and(|text| text.contains(&wanted)) {
        return true;
    }
    lines
        .iter()
        .take(here)
        .rev()
        .map(|text| text.trim_start())
        .take_while(|text| text.starts_with("//") || text.starts_with("#["))
        .any(|text| text.contains(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waivers_hold_where_they_stand() {
        let text = "a\n// tidy: allow(long, a table)\n#[test]\nfn f() {}\nb // tidy: allow(other, why)\n";
        assert!(is_waived(text, 4, "long"));
        assert!(!is_waived(text, 4, "other"));
        assert!(!is_waived(text, 1, "long"));
        assert!(is_waived(text, 5, "other"));
        assert!(!is_waived(text, 5, "long"));
    }
}
