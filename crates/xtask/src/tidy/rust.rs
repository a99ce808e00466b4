//! Rules for Rust: lengths, words left open, unsafe code and its proofs.

use super::{Finding, is_waived};
use crate::source::Source;
use regex::Regex;

const FUNCTION_LINES: usize = 70;
const FILE_LINES: usize = 600;
const MEDIAN_LINES: usize = 200;

/// Crates whose root denies unsafe code and allows it in one module, instead of forbidding it.
const DENYING: [&str; 2] = ["crates/net/", "crates/host/"];

/// Where unsafe code may stand: the datagram batches, the kernel's interfaces, and the tests that enter a network namespace.
const UNSAFE_MODULES: [&str; 4] = [
    "crates/net/src/datagram",
    "crates/host/src/kernel",
    "crates/net/tests/namespace/",
    "crates/load/tests/namespace/",
];

/// A pattern that must not occur in code.
struct Banned {
    rule: &'static str,
    pattern: &'static str,
    message: &'static str,
    /// Comments and literals are searched as well.
    everywhere: bool,
    /// Tests are searched as well.
    in_tests: bool,
}

// The words are written in two halves so that this table does not find itself.
const BANNED: &[Banned] = &[
    Banned {
        rule: "open-end",
        pattern: concat!(r"\b(TO", r"DO|FIX", r"ME|XX", r"X)\b"),
        message: "finish it, or write it down where work is planned",
        everywhere: true,
        in_tests: true,
    },
    Banned {
        rule: "open-end",
        pattern: r"\b(dbg|todo|unimplemented)!",
        message: "left over from writing",
        everywhere: false,
        in_tests: true,
    },
    Banned {
        rule: "unwrap",
        pattern: r"\.unwrap\(\)",
        message: "a panic means a bug: `expect` states the proof, errors are returned",
        everywhere: false,
        in_tests: false,
    },
    Banned {
        rule: "dead-code",
        pattern: r"#!?\[allow\([^\]]*\b(dead_code|unused\w*)\b",
        message: "remove what nobody uses",
        everywhere: false,
        in_tests: false,
    },
];

pub(super) fn check(sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources {
        functions(source, findings);
        file_length(source, findings);
        banned(source, findings);
        waivers(source, findings);
        unsafe_code(source, findings);
        crate_root(source, findings);
    }
    median(sources, findings);
}

fn functions(source: &Source, findings: &mut Vec<Finding>) {
    for function in source.functions() {
        if function.lines > FUNCTION_LINES {
            let message = format!("`{}` has {} lines, {FUNCTION_LINES} are allowed", function.name, function.lines);
            report(source, function.line, "function-length", message, findings);
        }
    }
}

fn file_length(source: &Source, findings: &mut Vec<Finding>) {
    let lines = source.production().lines().count();
    if lines > FILE_LINES {
        let message = format!("{lines} lines before the tests, {FILE_LINES} are allowed");
        report(source, 1, "file-length", message, findings);
    }
}

/// Half of all files stay short enough to be read in one go.
fn median(sources: &[Source], findings: &mut Vec<Finding>) {
    let mut lengths: Vec<usize> =
        sources.iter().filter(|source| !source.is_test()).map(|source| source.production().lines().count()).collect();
    lengths.sort_unstable();
    let median = lengths.get(lengths.len() / 2).copied().unwrap_or(0);
    if median > MEDIAN_LINES {
        findings.push(Finding {
            path: "crates".to_string(),
            line: 1,
            rule: "median-length",
            message: format!("the median file has {median} lines, {MEDIAN_LINES} are allowed"),
        });
    }
}

fn banned(source: &Source, findings: &mut Vec<Finding>) {
    for banned in BANNED {
        let pattern = pattern(banned.pattern);
        let text = match (banned.everywhere, banned.in_tests) {
            (true, _) => source.text.as_str(),
            (false, true) => source.code.as_str(),
            (false, false) => source.production(),
        };
        for found in pattern.find_iter(text) {
            let line = source.line_of(found.start());
            let message = format!("`{}`: {}", found.as_str(), banned.message);
            report(source, line, banned.rule, message, findings);
        }
    }
}

fn waivers(source: &Source, findings: &mut Vec<Finding>) {
    let complete = pattern(r"// tidy: allow\([a-z-]+, [^)]{4,}\)");
    for (index, line) in source.text.lines().enumerate() {
        let is_waiver = line.trim_start().starts_with("// tidy:");
        if is_waiver && !complete.is_match(line) {
            let message = "a waiver names its rule and its reason".to_string();
            report(source, index + 1, "waiver", message, findings);
        }
    }
}

fn unsafe_code(source: &Source, findings: &mut Vec<Finding>) {
    let may = UNSAFE_MODULES.iter().any(|module| source.path.starts_with(module));
    for found in pattern(r"\bunsafe\b(\s*\{|\s+impl\b)?").captures_iter(&source.code) {
        let Some(word) = found.get(0) else { continue };
        let line = source.line_of(word.start());
        if !may {
            let message = format!("unsafe code may stand only in {UNSAFE_MODULES:?}");
            report(source, line, "unsafe-module", message, findings);
        } else if found.get(1).is_some() && !has_proof(&source.text, line) {
            let message = "an unsafe block needs its proof: `// SAFETY: …`".to_string();
            report(source, line, "unsafe-proof", message, findings);
        }
    }
}

/// Whether the statement on `line` has a comment with its proof above it. A statement may begin a few lines earlier.
fn has_proof(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().take(line).map(str::trim).collect();
    let mut above = lines.iter().rev();
    if above.next().is_some_and(|own| own.contains("SAFETY:")) {
        return true;
    }
    for text in above {
        if text.starts_with("//") {
            if text.contains("SAFETY:") {
                return true;
            }
        } else if text.is_empty() || text.ends_with([';', '{', '}']) {
            return false;
        }
    }
    false
}

fn crate_root(source: &Source, findings: &mut Vec<Finding>) {
    let is_root = source.path.starts_with("crates/")
        && (source.path.ends_with("/src/lib.rs") || source.path.ends_with("/src/main.rs"));
    if !is_root {
        return;
    }
    let denies = DENYING.iter().any(|name| source.path.starts_with(name));
    let wanted = if denies { "#![deny(unsafe_code)]" } else { "#![forbid(unsafe_code)]" };
    if !source.code.contains(wanted) {
        let message = format!("the crate's root must say `{wanted}`");
        report(source, 1, "unsafe-forbidden", message, findings);
    }
}

fn report(source: &Source, line: usize, rule: &'static str, message: String, findings: &mut Vec<Finding>) {
    if is_waived(&source.text, line, rule) {
        return;
    }
    findings.push(Finding { path: source.path.clone(), line, rule, message });
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the patterns of tidy are constant and well formed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        let mut findings = Vec::new();
        check(&[Source::new(path, text.to_string())], &mut findings);
        findings.iter().map(|finding| finding.rule).collect()
    }

    fn long_function(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    let _ = 1;\n".repeat(lines - 2))
    }

    #[test]
    fn lengths_hold_to_the_line() {
        let path = "crates/sip/src/a.rs";
        assert_eq!(rules(path, &long_function(FUNCTION_LINES)), Vec::<&str>::new());
        assert_eq!(rules(path, &long_function(FUNCTION_LINES + 1)), ["function-length"]);
        let waived = format!("// tidy: allow(function-length, a table)\n{}", long_function(90));
        assert_eq!(rules(path, &waived), Vec::<&str>::new());
        let long_file = "const A: u8 = 1;\n".repeat(FILE_LINES + 1);
        assert_eq!(rules(path, &long_file), ["file-length", "median-length"]);
        assert_eq!(rules("crates/sip/tests/a.rs", &long_file), Vec::<&str>::new());
    }

    #[test]
    fn open_ends_are_found_in_comments_and_macros_in_code_only() {
        let path = "crates/sip/src/a.rs";
        assert_eq!(rules(path, concat!("// TO", "DO: more\n")), ["open-end"]);
        assert_eq!(rules(path, "fn f() { todo!() }\n"), ["open-end"]);
        assert_eq!(rules(path, "// `todo!` is banned\n"), Vec::<&str>::new());
        assert_eq!(rules(path, "fn f() { g().unwrap() }\n"), ["unwrap"]);
        assert_eq!(rules("crates/sip/tests/a.rs", "fn f() { g().unwrap() }\n"), Vec::<&str>::new());
        assert_eq!(rules(path, "#[allow(dead_code)]\nfn f() {}\n"), ["dead-code"]);
    }

    #[test]
    fn unsafe_code_needs_its_place_and_its_proof() {
        let bare = "fn f() {\n    let a = 1;\n    unsafe { g() }\n}\n";
        let proven = "fn f() {\n    // SAFETY: g has no precondition.\n    let a =\n        unsafe { g() };\n}\n";
        assert_eq!(rules("crates/sip/src/a.rs", proven), ["unsafe-module"]);
        assert_eq!(rules("crates/net/src/datagram.rs", bare), ["unsafe-proof"]);
        assert_eq!(rules("crates/net/src/datagram/send.rs", proven), Vec::<&str>::new());
    }

    #[test]
    fn crate_roots_forbid_unsafe_code() {
        assert_eq!(rules("crates/sip/src/lib.rs", "//! x\n"), ["unsafe-forbidden"]);
        assert_eq!(rules("crates/sip/src/lib.rs", "#![forbid(unsafe_code)]\n"), Vec::<&str>::new());
        assert_eq!(rules("crates/net/src/lib.rs", "#![deny(unsafe_code)]\n"), Vec::<&str>::new());
    }

    #[test]
    fn a_waiver_without_a_reason_is_a_finding() {
        let path = "crates/sip/src/a.rs";
        assert_eq!(rules(path, "// tidy: allow(unwrap)\nfn f() {}\n"), ["waiver"]);
    }
}
