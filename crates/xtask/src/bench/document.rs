//! The part of a document that the benchmark writes: what stands between two markers, and nothing else.

use anyhow::{Context, Result};
use std::fmt;
use std::path::Path;

/// Why a document cannot take the figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MarkerError {
    Missing(&'static str),
    /// It stands in the document more than once.
    Repeated(&'static str),
    /// The end stands before the beginning.
    Reversed,
}

impl fmt::Display for MarkerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(marker) => write!(formatter, "there is no line `{marker}`"),
            Self::Repeated(marker) => write!(formatter, "`{marker}` stands there more than once"),
            Self::Reversed => write!(formatter, "`{END}` stands before `{BEGIN}`"),
        }
    }
}

impl std::error::Error for MarkerError {}

/// Fails if the document could not be written later: to be asked before hours of measuring.
pub(super) fn check(path: &Path) -> Result<()> {
    replaced(&read(path)?, "").with_context(|| format!("{} cannot take the figures", path.display()))?;
    Ok(())
}

/// Replaces what stands between the markers of the document by `body`.
pub(super) fn write(path: &Path, body: &str) -> Result<()> {
    let text = replaced(&read(path)?, body).with_context(|| format!("{} cannot take the figures", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// `text` with `body` between its markers, an empty line at both ends.
fn replaced(text: &str, body: &str) -> Result<String, MarkerError> {
    let (begin, end) = (only(text, BEGIN)?, only(text, END)?);
    if end < begin {
        return Err(MarkerError::Reversed);
    }
    let (before, _) = text.split_at(begin + BEGIN.len());
    let (_, after) = text.split_at(end);
    let body = body.trim();
    Ok(if body.is_empty() { format!("{before}\n{after}") } else { format!("{before}\n\n{body}\n\n{after}") })
}

/// Where `marker` stands, which is in one place only.
fn only(text: &str, marker: &'static str) -> Result<usize, MarkerError> {
    let mut places = text.match_indices(marker).map(|(place, _)| place);
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place),
        (None, _) => Err(MarkerError::Missing(marker)),
        (Some(_), Some(_)) => Err(MarkerError::Repeated(marker)),
    }
}

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

#[cfg(test)]
mod tests {
    use super::*;

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
    }

    #[test]
    fn a_document_without_its_markers_is_refused() {
        assert_eq!(replaced("", "x"), Err(MarkerError::Missing(BEGIN)));
        assert_eq!(replaced("<!-- bench:begin -->", "x"), Err(MarkerError::Missing(END)));
        assert_eq!(replaced("<!-- bench:end --><!-- bench:begin -->", "x"), Err(MarkerError::Reversed));
        let twice = "<!-- bench:begin --><!-- bench:end --><!-- bench:end -->";
        assert_eq!(replaced(twice, "x"), Err(MarkerError::Repeated(END)));
        assert_eq!(MarkerError::Missing(END).to_string(), "there is no line `<!-- bench:end -->`");
    }
}
