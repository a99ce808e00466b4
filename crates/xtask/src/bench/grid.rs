//! A table as it is shown: aligned in the terminal, Markdown in the document.

use serde_json::{Value, json};

/// Rows under titles; the first column is a name, the others are figures.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Grid {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    pub(super) fn new(title: &str, columns: &[&str]) -> Self {
        Self { title: title.to_string(), columns: columns.iter().map(ToString::to_string).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// For the terminal.
    pub(super) fn text(&self) -> String {
        let widths = self.widths();
        let mut text = format!("{}\n", self.title);
        for row in self.lines() {
            let mut line = String::new();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                match at {
                    0 => line.push_str(&format!("{cell}{padding}")),
                    _ => line.push_str(&format!("  {padding}{cell}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// With its title as a heading of the third level.
    pub(super) fn markdown(&self) -> String {
        let rule = self.columns.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" });
        let rule: Vec<&str> = rule.collect();
        let mut text = format!("### {}\n\n| {} |\n|{}|\n", self.title, self.columns.join(" | "), rule.join("|"));
        for row in &self.rows {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        json!({ "title": self.title, "columns": self.columns, "rows": self.rows })
    }

    /// The titles and then the rows.
    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.columns).chain(&self.rows)
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.lines().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..self.columns.len()).map(width).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        let mut grid = Grid::new("speeds", &["", "µs", "ratio"]);
        grid.row(["raw relay".to_string(), "3.50".to_string(), "1".to_string()]);
        grid.row(["tandem".to_string(), "14.75".to_string(), "1.35".to_string()]);
        grid
    }

    #[test]
    fn columns_are_aligned_in_the_terminal() {
        let text = "speeds\n              µs  ratio\nraw relay   3.50      1\ntandem     14.75   1.35\n";
        assert_eq!(grid().text(), text);
    }

    #[test]
    fn markdown_has_a_rule_for_each_column() {
        let text =
            "### speeds\n\n|  | µs | ratio |\n|---|---:|---:|\n| raw relay | 3.50 | 1 |\n| tandem | 14.75 | 1.35 |\n";
        assert_eq!(grid().markdown(), text);
    }
}
