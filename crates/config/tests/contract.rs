//! The whole configuration of later versions, where its file is present beside the checkout: exactly what it marks as later is
//! refused, each with its line, and nothing else is found wrong.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

#[test]
fn exactly_the_marked_settings_are_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/tandem.toml");
    let Ok(text) = fs::read_to_string(&path) else {
        return;
    };
    let refused = config::load("tandem.toml", &text).expect_err("the file uses what later versions bring");
    let mut found: Vec<(usize, String)> = Vec::new();
    for error in refused.iter().filter(|diagnostic| diagnostic.severity == config::Severity::Error) {
        assert!(error.message.contains("is not available in this version"), "{error}");
        let name = error.message.split('`').nth(1).expect("the message names the setting");
        found.push((error.line, name.to_owned()));
    }
    assert_eq!(found, marked(&text));
}

/// What the marks of the file itself ask for, in file order: one entry for each header of a section that comes later and for each key
/// that comes later.
fn marked(text: &str) -> Vec<(usize, String)> {
    let mut expected = Vec::new();
    let mut header = String::new();
    let mut part = Part::Now;
    // Keys of this version by their section, to tell which keys of a kernel farm are its own.
    let mut known: HashSet<(String, String)> = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let comment = line.split_once('#').map_or("", |(_, comment)| comment.trim());
        if line.starts_with("# ---") {
            part = Part::of(line);
        } else if line.starts_with('[') {
            header = line.split('#').next().unwrap_or_default().trim().to_owned();
            let later_alone = part == Part::Now && comes_later(comment);
            if part == Part::Later || later_alone {
                expected.push((number, header.clone()));
            }
            if later_alone {
                header.insert_str(0, "later ");
            }
        } else if let Some((key, value)) = key_and_value(line) {
            if part == Part::Later || header.starts_with("later ") {
                continue;
            }
            let pair = (header.clone(), key.to_owned());
            let own = part == Part::KernelFarm && (!known.contains(&pair) || value.contains("l4xnat"));
            if own || comes_later(comment) {
                expected.push((number, key.to_owned()));
                continue;
            }
            known.insert(pair);
        }
    }
    expected
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Now,
    /// Every section of it comes later.
    Later,
    /// Its sections are those of a farm, its profile and the keys of that profile come later.
    KernelFarm,
}

impl Part {
    fn of(line: &str) -> Self {
        if line.contains("kernel farm") {
            Self::KernelFarm
        } else if ["(E)", "(G)", "(next)"].iter().any(|mark| line.contains(mark)) {
            Self::Later
        } else {
            Self::Now
        }
    }
}

/// Whether the comment begins with the mark of a later version: "E * …", "next: …". What "C" and "D" mark is here.
fn comes_later(comment: &str) -> bool {
    let word = comment.split([' ', ':', ';']).next().unwrap_or_default();
    ["E", "G", "next"].contains(&word)
}

fn key_and_value(line: &str) -> Option<(&str, &str)> {
    let (key, rest) = line.split_once(" = ")?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let value = rest.split_once(" #").map_or(rest, |(value, _)| value);
    is_key.then_some((key, value))
}
