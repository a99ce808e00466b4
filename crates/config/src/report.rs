//! Collects what is wrong while a file is read and checked, and finds the lines to show.

use crate::diagnostic::{Diagnostic, Severity};
use std::ops::Range;

/// Octets of the file's text.
pub(crate) type Span = Range<usize>;

/// Everything found so far in one file.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    file: &'a str,
    text: &'a str,
    found: Vec<(usize, Diagnostic)>,
}

impl<'a> Report<'a> {
    pub(crate) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, text, found: Vec::new() }
    }

    pub(crate) fn error(&mut self, span: &Span, message: impl Into<String>) {
        self.add(Severity::Error, span, message.into(), None);
    }

    pub(crate) fn error_with_hint(&mut self, span: &Span, message: impl Into<String>, hint: Option<String>) {
        self.add(Severity::Error, span, message.into(), hint);
    }

    pub(crate) fn warning(&mut self, span: &Span, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, span, message.into(), Some(hint.into()));
    }

    /// The line on which `span` begins, from 1.
    pub(crate) fn line_of(&self, span: &Span) -> usize {
        self.before(span).matches('\n').count() + 1
    }

    /// Errors and warnings, each in file order.
    pub(crate) fn finish(mut self) -> (Vec<Diagnostic>, Vec<Diagnostic>) {
        self.found.sort_by_key(|(start, _)| *start);
        self.found
            .into_iter()
            .map(|(_, diagnostic)| diagnostic)
            .partition(|diagnostic| diagnostic.severity == Severity::Error)
    }

    fn add(&mut self, severity: Severity, span: &Span, message: String, hint: Option<String>) {
        let before = self.before(span);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = first_line(self.text.get(line_start..).unwrap_or_default());
        // A place may reach over several lines (a list): only its part on the first one is marked.
        let marked = first_line(self.text.get(span.clone()).unwrap_or_default()).trim_end();
        let diagnostic = Diagnostic {
            severity,
            file: self.file.to_owned(),
            line: self.line_of(span),
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            length: marked.chars().count().max(1),
            source_line: line.to_owned(),
            message,
            hint,
        };
        self.found.push((span.start, diagnostic));
    }

    fn before(&self, span: &Span) -> &'a str {
        self.text.get(..span.start).unwrap_or(self.text)
    }
}

fn first_line(text: &str) -> &str {
    let line = text.split('\n').next().unwrap_or_default();
    line.strip_suffix('\r').unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        let text = "a = 1\r\n# é\nä = [\n  1]\n";
        let start = text.find('[').expect("a list is in the text");
        let mut report = Report::new("f", text);
        report.error(&(start..start + 5), "x");
        report.warning(&(0..1), "y", "z");
        let (errors, warnings) = report.finish();
        let error = errors.first().expect("one error was reported");
        assert_eq!((error.line, error.column, error.length), (3, 5, 1));
        assert_eq!(error.source_line, "ä = [");
        assert_eq!(warnings.first().map(|warning| warning.source_line.as_str()), Some("a = 1"));
    }

    #[test]
    fn a_place_past_the_end_is_shown_at_the_end() {
        let mut report = Report::new("f", "a = ");
        report.error(&(99..100), "x");
        let (errors, _) = report.finish();
        assert_eq!(errors.first().map(|error| (error.line, error.column, error.length)), Some((1, 5, 1)));
    }
}
