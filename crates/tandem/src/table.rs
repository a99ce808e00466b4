//! Tables of text for a terminal.

use std::io::{IsTerminal, stdout};

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Align {
    Left,
    Right,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Colour {
    Green,
    Yellow,
    Red,
    Grey,
}

/// One field of a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), colour: None }
    }

    pub(crate) fn painted(text: impl Into<String>, colour: Colour) -> Self {
        Self { text: text.into(), colour: Some(colour) }
    }
}

/// Whether standard output is read by somebody who sees colours.
pub(crate) fn is_coloured() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// The rows as lines, each column as wide as its widest cell, two spaces between columns. `aligns` names the columns; `coloured` is
/// false where the reader is no terminal.
pub(crate) fn lines(aligns: &[Align], rows: &[Vec<Cell>], coloured: bool) -> Vec<String> {
    let widths: Vec<usize> = (0..aligns.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(&cell.text)).max().unwrap_or(0))
        .collect();
    rows.iter().map(|row| line(aligns, &widths, row, coloured)).collect()
}

/// `text` in `colour`, or plain where the reader is no terminal.
pub(crate) fn paint(text: &str, colour: Colour, coloured: bool) -> String {
    if !coloured || text.is_empty() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
        Colour::Grey => 90,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn line(aligns: &[Align], widths: &[usize], row: &[Cell], coloured: bool) -> String {
    let mut line = String::new();
    for (column, ((cell, align), width_wanted)) in row.iter().zip(aligns).zip(widths).enumerate() {
        if column > 0 {
            line.push_str("  ");
        }
        let missing = " ".repeat(width_wanted.saturating_sub(width(&cell.text)));
        let text = match cell.colour {
            Some(colour) => paint(&cell.text, colour, coloured),
            None => cell.text.clone(),
        };
        match align {
            Align::Right => {
                line.push_str(&missing);
                line.push_str(&text);
            }
            Align::Left => {
                line.push_str(&text);
                line.push_str(&missing);
            }
        }
    }
    line.truncate(line.trim_end().len());
    line
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<Cell>> {
        vec![
            vec![Cell::plain("NAME"), Cell::plain("CALLS"), Cell::plain("STATE")],
            vec![Cell::plain("größer"), Cell::plain("7"), Cell::painted("up", Colour::Green)],
        ]
    }

    #[test]
    fn columns_are_aligned() {
        let aligns = [Align::Left, Align::Right, Align::Left];
        assert_eq!(lines(&aligns, &rows(), false), ["NAME    CALLS  STATE", "größer      7  up"]);
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let aligns = [Align::Left, Align::Right, Align::Left];
        let painted = lines(&aligns, &rows(), true);
        assert_eq!(painted.get(1).map(String::as_str), Some("größer      7  \x1b[32mup\x1b[0m"));
    }
}
