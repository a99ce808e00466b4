//! The parsed file as a tree in which everything knows its place, in the order in which it was written.

use crate::report::{Report, Span};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// The header (`[unit]`), or the whole inline table.
    pub(crate) span: Span,
    pub(crate) entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) node: Node,
}

impl Entry {
    /// Whether it stands in headers (`[unit]`, `[[farm]]`) and not behind an equals sign.
    pub(crate) fn has_header(&self) -> bool {
        self.node.span.start < self.key_span.start
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Written,
}

/// What stands there, whether it is allowed there or not.
#[derive(Clone, Debug)]
pub(crate) enum Written {
    Text(String),
    /// `None`: more than 64 bits.
    Integer(Option<i64>),
    /// A number with a fraction or an exponent, as it stands there.
    Fraction(String),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// Something that no setting takes, by its name.
    Other(&'static str),
}

impl Written {
    /// As a message speaks of it.
    pub(crate) fn described(&self) -> String {
        match self {
            Self::Text(text) => format!("\"{}\"", text.escape_debug()),
            Self::Integer(Some(number)) => number.to_string(),
            Self::Integer(None) => "a number of more than 64 bits".to_owned(),
            Self::Fraction(text) => text.clone(),
            Self::Boolean(value) => value.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(name) => (*name).to_owned(),
        }
    }
}

/// Parses a file; the first syntax error goes to the report.
pub(crate) fn parse(text: &str, report: &mut Report<'_>) -> Option<Table> {
    let (root, errors) = DeTable::parse_recoverable(text);
    // They come in the order of the parser's stages, not in that of the file.
    let first = errors.iter().min_by_key(|error| error.span().map_or(usize::MAX, |span| span.start));
    let Some(error) = first else {
        return Some(table(root.get_ref(), 0..0));
    };
    // Without a place something is missing at the end.
    let end = text.trim_end().len();
    let span = error.span().unwrap_or(end..end);
    report.error(&span, error.message());
    None
}

/// A value that the program itself wrote: a default of the registry.
pub(crate) fn literal(text: &str) -> Option<Node> {
    let line = format!("value = {text}");
    let parsed = DeTable::parse(&line).ok()?;
    table(parsed.get_ref(), 0..0).entries.into_iter().next().map(|entry| entry.node)
}

fn table(parsed: &DeTable<'_>, span: Span) -> Table {
    let mut entries: Vec<Entry> = parsed
        .iter()
        .map(|(key, value)| Entry { key: key.get_ref().to_string(), key_span: key.span(), node: node(value) })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Table { span, entries }
}

/// Recursion is bounded: the parser refuses deep nesting.
fn node(parsed: &Spanned<DeValue<'_>>) -> Node {
    let span = parsed.span();
    let value = match parsed.get_ref() {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(number) => Written::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Boolean(value) => Written::Boolean(*value),
        DeValue::Array(items) => Written::List(items.iter().map(node).collect()),
        DeValue::Table(entries) => Written::Table(table(entries, span.clone())),
        DeValue::Float(number) => Written::Fraction(number.as_str().to_owned()),
        DeValue::Datetime(_) => Written::Other("a date"),
    };
    Node { span, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_knows_its_place() {
        let text = "[[farm]]\nname = \"a\"\nb = [1, 0x10]\n";
        let mut report = Report::new("f", text);
        let root = parse(text, &mut report).expect("the text is TOML");
        let farm = root.entries.first().expect("farm is written");
        assert!(farm.has_header());
        let Written::List(farms) = &farm.node.value else { panic!("farm is a list") };
        let first = farms.first().expect("one farm is written");
        assert_eq!(text.get(first.span.clone()), Some("[[farm]]"));
        let Written::Table(table) = &first.value else { panic!("a farm is a table") };
        let keys: Vec<&str> = table.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["name", "b"]);
        let name = table.entries.first().expect("name is written");
        assert!(!name.has_header());
        assert_eq!(text.get(name.node.span.clone()), Some("\"a\""));
        assert_eq!(text.get(name.key_span.clone()), Some("name"));
        let list = table.entries.get(1).expect("b is written");
        let Written::List(items) = &list.node.value else { panic!("b is a list") };
        let numbers: Vec<String> = items.iter().map(|item| item.value.described()).collect();
        assert_eq!(numbers, ["1", "16"]);
    }

    #[test]
    fn a_table_header_is_its_place() {
        let text = "\n[unit]\nname = \"a\"\n";
        let mut report = Report::new("f", text);
        let root = parse(text, &mut report).expect("the text is TOML");
        let unit = root.entries.first().expect("unit is written");
        assert!(unit.has_header());
        assert_eq!(text.get(unit.node.span.clone()), Some("[unit]"));
    }
}
