//! Rust source as a text with a shape: what is code, what is comment or literal, where functions begin and end. Just enough for
//! tidy rules; no parser, so that it never stands in the way of a new edition.

use regex::Regex;
use std::ops::Range;

/// One file of Rust.
#[derive(Clone, Debug)]
pub struct Source {
    /// Relative to the workspace's root.
    pub path: String,
    pub text: String,
    /// [`Source::text`] with comments and the contents of literals blanked; same length, same lines.
    pub code: String,
}

/// A function with a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    pub name: String,
    /// First line, counted from 1.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
}

impl Source {
    pub fn new(path: &str, text: String) -> Self {
        let code = blank(&text);
        Self { path: path.to_string(), text, code }
    }

    /// Files that only tests compile.
    pub fn is_test(&self) -> bool {
        let mut folders = self.path.split('/');
        let file = folders.next_back().unwrap_or_default();
        file == "tests.rs" || folders.any(|folder| matches!(folder, "tests" | "benches"))
    }

    /// The code before the tests at the end of the file, blanked as [`Source::code`] is.
    pub fn production(&self) -> &str {
        if self.is_test() {
            return "";
        }
        let tests = Regex::new(r"(?m)^#\[cfg\(test\)\]\s*\n(?:#\[.*\]\s*\n)*mod \w+ \{")
            .expect("the pattern is constant and well formed");
        let end = tests.find(&self.code).map_or(self.code.len(), |found| found.start());
        self.code.get(..end).unwrap_or(&self.code)
    }

    /// Line of an offset, counted from 1.
    pub fn line_of(&self, offset: usize) -> usize {
        let before = self.code.as_bytes().iter().take(offset);
        1 + before.filter(|octet| **octet == b'\n').count()
    }

    /// Functions with a body, tests and methods among them.
    pub fn functions(&self) -> Vec<Function> {
        let head = Regex::new(r"\bfn\s+([A-Za-z_]\w*)").expect("the pattern is constant and well formed");
        let mut found = Vec::new();
        for captures in head.captures_iter(&self.code) {
            let (Some(whole), Some(name)) = (captures.get(0), captures.get(1)) else {
                continue;
            };
            let Some(body) = body_after(&self.code, whole.end()) else {
                continue;
            };
            let line = self.line_of(whole.start());
            found.push(Function { name: name.as_str().to_string(), line, lines: self.line_of(body.end) - line + 1 });
        }
        found
    }
}

/// From the opening to the closing brace of the body of a function whose name ends at `from`; none for a declaration.
fn body_after(code: &str, from: usize) -> Option<Range<usize>> {
    let octets = code.as_bytes();
    let mut nested = 0_usize;
    let mut start = None;
    for (at, octet) in octets.iter().enumerate().skip(from) {
        match octet {
            b'(' | b'[' => nested += 1,
            b')' | b']' => nested = nested.saturating_sub(1),
            b';' if nested == 0 => return None,
            b'{' if nested == 0 => {
                start = Some(at);
                break;
            }
            _ => {}
        }
    }
    let start = start?;
    let mut depth = 0_usize;
    for (at, octet) in octets.iter().enumerate().skip(start) {
        match octet {
            b'{' => depth += 1,
            b'}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(start..at);
                }
            }
            _ => {}
        }
    }
    None
}

/// `text` with comments and literals replaced by spaces, line ends kept.
fn blank(text: &str) -> String {
    let mut out = text.as_bytes().to_vec();
    let mut at = 0;
    while at < out.len() {
        let Some(end) = blank_end(text, at) else {
            at += 1;
            continue;
        };
        for octet in out.iter_mut().take(end).skip(at) {
            if *octet != b'\n' {
                *octet = b' ';
            }
        }
        at = end;
    }
    // Whole characters were replaced, so the rest is still UTF-8.
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment or literal that begins at `at` ends; none if none begins there.
fn blank_end(text: &str, at: usize) -> Option<usize> {
    let rest = text.get(at..)?;
    if rest.starts_with("//") {
        return Some(at + rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(at + block_comment(rest));
    }
    if rest.starts_with('"') {
        return Some(at + string(rest));
    }
    if rest.starts_with('r') && begins_word(text, at) {
        return raw_string(rest).map(|length| at + length);
    }
    if rest.starts_with('\'') {
        return character(rest).map(|length| at + length);
    }
    None
}

/// Length of the block comment at the start of `rest`; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(here) = rest.as_bytes().get(at..) {
        if here.is_empty() {
            break;
        } else if here.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of the string literal at the start of `rest`.
fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, octet) in rest.bytes().enumerate().skip(1) {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of the raw string literal at the start of `rest`; none for a name that begins with `r`.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('r')?;
    let opened = after.trim_start_matches('#');
    let hashes = after.len() - opened.len();
    let content = opened.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let head = rest.len() - content.len();
    Some(match content.find(&close) {
        Some(end) => head + end + close.len(),
        None => rest.len(),
    })
}

/// Length of the character literal at the start of `rest`; none for a lifetime.
fn character(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix('\'')?;
    if let Some(escape) = after.strip_prefix('\\') {
        let first = escape.chars().next()?.len_utf8();
        let close = escape.get(first..)?.find('\'')?;
        return Some(2 + first + close + 1);
    }
    let length = after.chars().next()?.len_utf8();
    after.get(length..)?.starts_with('\'').then_some(length + 2)
}

/// Whether the `r` at `at` begins a word; the `b` and `c` of byte and C strings may stand before it.
fn begins_word(text: &str, at: usize) -> bool {
    let is_word = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'_' || !octet.is_ascii();
    let before = text.as_bytes().get(..at).unwrap_or_default();
    match before {
        [.., first, b'b' | b'c'] => !is_word(*first),
        [b'b' | b'c'] | [] => true,
        [.., last] => !is_word(*last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("crates/x/src/x.rs", text.to_string()).code
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        let gap = |width: usize| " ".repeat(width);
        assert_eq!(code("a // b {\nc"), format!("a {}\nc", gap(6)));
        assert_eq!(code("a/* { /* } */ */c"), format!("a{}c", gap(15)));
        assert_eq!(code(r#"f("a\"}", x)"#), format!("f({}, x)", gap(6)));
        assert_eq!(code("f('{', '\\'', 'a, b)"), format!("f({}, {}, 'a, b)", gap(3), gap(4)));
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        assert_eq!(code("x = r#\"{ \" }\"#;"), format!("x = {};", gap(10)));
        assert_eq!(code("x = br\"{\";"), format!("x = b{};", gap(4)));
        assert_eq!(code("let r#type = 1;"), "let r#type = 1;");
    }

    #[test]
    fn lengths_and_lines_are_kept() {
        let text = "/* é\n */ fn f() { \"ü\n\" }\n";
        let source = Source::new("crates/x/src/x.rs", text.to_string());
        assert_eq!(source.code.len(), text.len());
        assert_eq!(source.code.lines().count(), text.lines().count());
    }

    #[test]
    fn functions_are_measured_from_head_to_brace() {
        let text = "trait T {\n    fn a(x: [u8; 2]);\n    fn b() -> u8 {\n        1\n    }\n}\n";
        let source = Source::new("crates/x/src/x.rs", text.to_string());
        let expected = Function { name: "b".to_string(), line: 3, lines: 3 };
        assert_eq!(source.functions(), [expected]);
    }

    #[test]
    fn production_ends_where_the_tests_begin() {
        let text = "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n";
        let source = Source::new("crates/x/src/x.rs", text.to_string());
        assert_eq!(source.production(), "fn a() {}\n\n");
        let test = Source::new("crates/x/tests/x.rs", text.to_string());
        assert!(test.is_test());
        assert_eq!(test.production(), "");
    }
}
