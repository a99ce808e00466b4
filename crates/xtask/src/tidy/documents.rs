//! Rules for everything that is text: links that lead somewhere, words that belong to one machine only, lengths of documents.

use super::Finding;
use crate::workspace;
use anyhow::Result;
use regex::Regex;

/// ARCHITECTURE.md stays short enough to be read before anything else.
const ARCHITECTURE_LINES: usize = 300;

/// Endings of the files whose words are looked at.
const TEXTS: [&str; 9] = ["md", "rs", "toml", "sh", "txt", "xml", "cfg", "tsv", "expected"];

/// Folders that documents may name even where the checkout happens to lie in one of them.
const ORDINARY: [&str; 7] = ["//", "/etc/", "/opt/", "/srv/", "/tmp/", "/usr/src/", "/var/tmp/"];

pub(super) fn check(files: &[String], findings: &mut Vec<Finding>) -> Result<()> {
    for path in files {
        if path.ends_with(".md") {
            let text = workspace::read(path)?;
            links(path, &text, files, findings);
            if path == "ARCHITECTURE.md" && text.lines().count() > ARCHITECTURE_LINES {
                findings.push(finding(path, 1, "document-length", format!("more than {ARCHITECTURE_LINES} lines")));
            }
        }
        let is_text = TEXTS.iter().any(|ending| path.rsplit_once('.').is_some_and(|(_, found)| found == *ending));
        if is_text || path == ".ci/run" {
            // Some test data is not UTF-8 on purpose; only what can be read as text has words.
            if let Ok(text) = workspace::read(path) {
                places(path, &text, findings);
            }
        }
    }
    Ok(())
}

/// Every relative link of a document leads to a file or folder of the project.
fn links(path: &str, text: &str, files: &[String], findings: &mut Vec<Finding>) {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("the pattern is constant and well formed");
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut listing = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            listing = !listing;
        }
        if listing {
            continue;
        }
        for captures in link.captures_iter(line) {
            let Some(target) = captures.get(1) else {
                continue;
            };
            let target = target.as_str();
            if target.contains("://") || target.starts_with("mailto:") || target.starts_with('#') {
                continue;
            }
            let target = target.split_once('#').map_or(target, |(file, _)| file);
            let leads = resolve(folder, target).is_some_and(|wanted| {
                let inside = format!("{wanted}/");
                files.iter().any(|file| *file == wanted || file.starts_with(&inside))
            });
            if !leads {
                findings.push(finding(path, index + 1, "link", format!("`{target}` leads nowhere")));
            }
        }
    }
}

/// `target` as seen from `folder`, without `.` and `..`; none if it leaves the project.
fn resolve(folder: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// Paths of one developer's machine.
fn places(path: &str, text: &str, findings: &mut Vec<Finding>) {
    // In halves, so that this file does not find itself.
    let homes = [concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/ro", "ot/"), concat!("C:", "\\Users")];
    let checkout = workspace::root()
        .parent()
        .map(|parent| format!("{}/", parent.display()))
        .filter(|folder| !ORDINARY.contains(&folder.as_str()));
    let mut words: Vec<&str> = homes.to_vec();
    words.extend(checkout.as_deref());
    for (index, line) in text.lines().enumerate() {
        for word in &words {
            if line.contains(word) {
                let message = format!("`{word}` is a place on one machine");
                findings.push(finding(path, index + 1, "place", message));
            }
        }
    }
}

fn finding(path: &str, line: usize, rule: &'static str, message: String) -> Finding {
    Finding { path: path.to_string(), line, rule, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_resolved_from_their_document() {
        let files = ["README.md", "docs/a.md", "examples/x.toml"].map(String::from);
        let mut findings = Vec::new();
        links(
            "docs/a.md",
            "[x](../README.md#top) [y](../examples/) [z](a.md)\n[q](https://example.com/b)",
            &files,
            &mut findings,
        );
        assert!(findings.is_empty(), "{findings:?}");
        links("docs/a.md", "one\n[x](README.md) [y](../../up.md)\n", &files, &mut findings);
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.line == 2 && finding.rule == "link"));
    }

    #[test]
    fn a_developers_place_is_found() {
        let mut findings = Vec::new();
        places("README.md", concat!("cd /ho", "me/bonnie/tandem\n"), &mut findings);
        assert_eq!(findings.len(), 1);
        places("README.md", "cd tandem\n", &mut findings);
        assert_eq!(findings.len(), 1);
    }
}
