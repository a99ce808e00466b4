//! Those parts of documents that commands write: what stands between two markers, and nothing else.

use anyhow::{Context, Result};
use std::fmt;
use std::path::Path;

/// What stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section(pub(crate) &'static str);

/// Why a document cannot take a section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MarkerError {
    Missing(String),
    /// It stands in the document more than once.
    Repeated(String),
    /// This end stands before its beginning.
    Reversed(String),
}

impl fmt::Display for MarkerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(marker) => write!(formatter, "there is no line `{marker}`"),
            Self::Repeated(marker) => write!(formatter, "`{marker}` stands there more than once"),
            Self::Reversed(end) => write!(formatter, "`{end}` stands before its beginning"),
        }
    }
}

impl std::error::Error for MarkerError {}

impl Section {
    /// Fails if the document could not be written later: to be asked before hours of measuring.
    pub(crate) fn check(self, path: &Path) -> Result<()> {
        self.document(path, "").map(drop)
    }

    /// Replaces what stands between the markers of the document by `body`.
    pub(crate) fn write(self, path: &Path, body: &str) -> Result<()> {
        let text = self.document(path, body)?;
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn document(self, path: &Path, body: &str) -> Result<String> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.replaced(&text, body).with_context(|| format!("{} cannot take the figures", path.display()))
    }

    /// `text` with `body` between its markers, an empty line at both ends.
    fn replaced(self, text: &str, body: &str) -> Result<String, MarkerError> {
        let [begin, end] = ["begin", "end"].map(|which| format!("<!-- {}:{which} -->", self.0));
        let (begins, ends) = (only(text, &begin)?, only(text, &end)?);
        if ends < begins {
            return Err(MarkerError::Reversed(end));
        }
        let (before, _) = text.split_at(begins + begin.len());
        let (_, after) = text.split_at(ends);
        let body = body.trim();
        Ok(if body.is_empty() { format!("{before}\n{after}") } else { format!("{before}\n\n{body}\n\n{after}") })
    }
}

/// Where `marker` stands, which is in one place only.
fn only(text: &str, marker: &str) -> Result<usize, MarkerError> {
    let mut places = text.match_indices(marker).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (None, _) => Err(MarkerError::Missing(marker.to_string())),
        (Some(_), Some(_)) => Err(MarkerError::Repeated(marker.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- bench:begin -->";
    const END: &str = "<!-- bench:end -->";

    fn replaced(text: &str, body: &str) -> Result<String, MarkerError> {
        Section("bench").replaced(text, body)
    }

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let text = "# a\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nz\n";
        let new = replaced(text, "| new |\n").expect("both markers are there");
        assert_eq!(new, "# a\n<!-- bench:begin -->\n\n| new |\n\n<!-- bench:end -->\nz\n");
        assert_eq!(replaced(&new, "| new |\n"), Ok(new.clone()), "a second time changes nothing");
        let empty = "# a\n<!-- bench:begin -->\n<!-- bench:end -->\nz\n";
        assert_eq!(replaced(&new, ""), Ok(empty.to_string()));
    }

    #[test]
    fn other_markers_stay_as_they_are() {
        let text = "<!-- bench:begin --><!-- bench:end -->\n<!-- published:begin -->x<!-- published:end -->";
        let new = replaced(text, "y").expect("both markers are there");
        assert!(new.ends_with("<!-- published:begin -->x<!-- published:end -->"), "{new}");
        let newer = Section("published").replaced(&new, "z").expect("both markers are there");
        assert_eq!(newer, new.replace("begin -->x<!--", "begin -->\n\nz\n\n<!--"));
    }

    #[test]
    fn a_document_without_its_markers_is_refused() {
        assert_eq!(replaced("", "x"), Err(MarkerError::Missing(BEGIN.to_string())));
        assert_eq!(replaced("<!-- bench:begin -->", "x"), Err(MarkerError::Missing(END.to_string())));
        assert_eq!(
            replaced("<!-- bench:end --><!-- bench:begin -->", "x"),
            Err(MarkerError::Reversed(END.to_string()))
        );
        let twice = "<!-- bench:begin --><!-- bench:end --><!-- bench:end -->";
        assert_eq!(replaced(twice, "x"), Err(MarkerError::Repeated(END.to_string())));
        assert_eq!(MarkerError::Missing(END.to_string()).to_string(), "there is no line `<!-- bench:end -->`");
    }
}
