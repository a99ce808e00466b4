//! One thing that is wrong in a file, with its place, as it is shown to the operator.

use std::fmt;

/// An error or a warning at one place of a file. `Display` shows it in several lines without a newline at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The name that was given to [`crate::load`].
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// Characters that are marked; at least 1.
    pub length: usize,
    /// The whole line, without its end.
    pub source_line: String,
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// The file does not run.
    Error,
    /// The file runs, but probably not as it is meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gutter = " ".repeat(self.line.to_string().len());
        // Tabs are repeated, so that the marks stand below what they mark whatever the width of a tab is.
        let indent: String = self
            .source_line
            .chars()
            .take(self.column.saturating_sub(1))
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(f, "{}: {}", self.severity, self.message)?;
        writeln!(f, "{gutter}--> {}:{}:{}", self.file, self.line, self.column)?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{} | {}", self.line, self.source_line)?;
        write!(f, "{gutter} | {indent}{}", "^".repeat(self.length.max(1)))?;
        if let Some(hint) = &self.hint {
            write!(f, "\n{gutter} = help: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_place_marks_and_help() {
        let diagnostic = Diagnostic {
            severity: Severity::Error,
            file: "a.toml".to_owned(),
            line: 12,
            column: 2,
            length: 6,
            source_line: "\twieght = 3".to_owned(),
            message: "unknown setting `wieght`".to_owned(),
            hint: Some("did you mean \"weight\"?".to_owned()),
        };
        let expected = "error: unknown setting `wieght`\n  --> a.toml:12:2\n   |\n12 | \twieght = 3\n   | \t^^^^^^\n   \
                        = help: did you mean \"weight\"?";
        assert_eq!(diagnostic.to_string(), expected);
    }
}
