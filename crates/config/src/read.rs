//! The tree, read by the registry: every value gets its type, every key that is unknown, refused, wrong or missing is
//! reported, and what is absent or wrong gets its default, so that what follows can be checked all the same.

use crate::document::{self, Entry, Node, Table, Written};
use crate::forms::{self, Wrong};
use crate::nearest;
use crate::registry::{self, Available, Choice, Form, Kind, Presence, Setting};
use crate::report::{Report, Span};
use crate::section::{ListenAt, Located, Section, Value};
use regex::bytes::Regex;

/// Reads a table that stands in the file.
pub(crate) fn section(registered: &'static registry::Section, table: &Table, report: &mut Report<'_>) -> Section {
    Reader { report, fixed: None }.section(registered, table)
}

/// The section as if it stood at `span` with nothing in it. Missing settings are not reported.
pub(crate) fn implied(registered: &'static registry::Section, span: &Span, report: &mut Report<'_>) -> Section {
    let mut section = Section::new(span.clone());
    Reader { report, fixed: Some(span.clone()) }.defaults(registered, &mut section);
    section
}

struct Reader<'r, 'a> {
    report: &'r mut Report<'a>,
    /// Where a default is said to stand: it has no place of its own in the file.
    fixed: Option<Span>,
}

/// The value was reported and is left out.
enum Refused {
    Wrong,
    /// The value makes its whole section one that this version does not have.
    Later,
}

impl Reader<'_, '_> {
    fn section(&mut self, registered: &'static registry::Section, table: &Table) -> Section {
        let mut section = Section::new(self.place(&table.span));
        for entry in &table.entries {
            match registered.setting(&entry.key) {
                Some(setting) => self.entry(setting, entry, &mut section),
                None => self.unknown(registered, entry),
            }
        }
        if !section.is_incomplete() {
            self.missing(registered, &section);
        }
        self.defaults(registered, &mut section);
        section
    }

    fn entry(&mut self, setting: &'static Setting, entry: &Entry, section: &mut Section) {
        section.mark_written(setting.name);
        if let Available::Later(comes_with) = setting.available {
            return self.later(entry, comes_with);
        }
        match self.value(setting, &entry.node) {
            Ok(value) => section.insert(setting.name, Located { span: self.place(&entry.node.span), value }),
            Err(Refused::Wrong) => {}
            Err(Refused::Later) => section.mark_incomplete(),
        }
    }

    /// A refused section has one line for each of its headers, a refused key one.
    fn later(&mut self, entry: &Entry, comes_with: &str) {
        let key = &entry.key;
        match &entry.node.value {
            Written::List(tables) if entry.has_header() => {
                for table in tables {
                    self.not_available(&table.span, &format!("`[[{key}]]`"), comes_with, None);
                }
            }
            Written::Table(table) if entry.has_header() => {
                self.not_available(&table.span, &format!("`[{key}]`"), comes_with, None);
            }
            written => {
                // A table and a text of one name are two settings: the `ports` of a kernel farm are not those of a backend.
                let is_table = matches!(written, Written::Table(_));
                let hint = home(key)
                    .filter(|(_, setting)| matches!(setting.kind, Kind::Section(_)) == is_table)
                    .map(|(header, _)| format!("a SIP farm has it in {header}"));
                self.not_available(&entry.key_span, &format!("`{key}`"), comes_with, hint);
            }
        }
    }

    fn not_available(&mut self, span: &Span, what: &str, comes_with: &str, hint: Option<String>) {
        let message = format!("{what} is not available in this version (comes with {comes_with})");
        self.report.error_with_hint(span, message, hint);
    }

    fn unknown(&mut self, registered: &'static registry::Section, entry: &Entry) {
        let known = registered.settings.iter().map(|setting| setting.name);
        let hint = nearest::offer(&entry.key, known)
            .or_else(|| home(&entry.key).map(|(header, _)| format!("it belongs in {header}")));
        let message = format!("unknown setting `{}` in {}", entry.key.escape_debug(), registered.header);
        self.report.error_with_hint(&entry.key_span, message, hint);
    }

    fn missing(&mut self, registered: &'static registry::Section, section: &Section) {
        for setting in registered.settings {
            if setting.presence == Presence::Required && !section.is_written(setting.name) {
                let message = format!("`{}` is missing in {}", setting.name, registered.header);
                let hint = format!("it takes {}", setting.kind.expected());
                self.report.error_with_hint(section.span(), message, Some(hint));
            }
        }
    }

    fn defaults(&mut self, registered: &'static registry::Section, section: &mut Section) {
        let span = section.span().clone();
        for setting in registered.settings {
            let Presence::Default(text) = setting.presence else {
                continue;
            };
            if section.find(setting.name).is_some() {
                continue;
            }
            let node = document::literal(text).expect("a test of the registry parses every default");
            let mut reader = Reader { report: &mut *self.report, fixed: Some(span.clone()) };
            if let Ok(value) = reader.value(setting, &node) {
                section.insert(setting.name, Located { span: span.clone(), value });
            }
        }
    }

    fn value(&mut self, setting: &'static Setting, node: &Node) -> Result<Value, Refused> {
        match (setting.kind, &node.value) {
            (Kind::Section(registered), Written::Table(table)) => Ok(Value::Section(self.section(registered, table))),
            (Kind::Section(registered), Written::List(_)) => {
                self.report.error(&node.span, format!("{} stands once, in single brackets", registered.header));
                Err(Refused::Wrong)
            }
            (Kind::Sections(registered), Written::List(items)) => self.sections(registered, items),
            (Kind::Sections(registered), Written::Table(_)) => {
                let hint = format!("write {}", registered.header);
                self.report.error_with_hint(
                    &node.span,
                    "this section stands in double brackets: there may be several",
                    Some(hint),
                );
                Err(Refused::Wrong)
            }
            (Kind::Texts(_) | Kind::Integers { .. } | Kind::Listeners, Written::List(items)) => {
                self.list(setting, items, &node.span)
            }
            (Kind::Texts(_) | Kind::Integers { .. } | Kind::Listeners, other) => {
                let message =
                    format!("`{}` must be {}, not {}", setting.name, setting.kind.expected(), other.described());
                self.report.error_with_hint(&node.span, message, Some("lists stand in brackets: [ ]".to_owned()));
                Err(Refused::Wrong)
            }
            (Kind::Patterns, Written::Table(table)) => self.patterns(setting, table),
            (kind, _) => self.scalar(setting, kind, &format!("`{}`", setting.name), node),
        }
    }

    fn sections(&mut self, registered: &'static registry::Section, items: &[Node]) -> Result<Value, Refused> {
        let mut sections = Vec::with_capacity(items.len());
        for item in items {
            match &item.value {
                Written::Table(table) => sections.push(self.section(registered, table)),
                other => {
                    let message = format!("an entry here must be a table, not {}", other.described());
                    self.report.error(&item.span, message);
                }
            }
        }
        Ok(Value::Sections(sections))
    }

    /// Entries that are wrong are reported and left out.
    fn list(&mut self, setting: &'static Setting, items: &[Node], span: &Span) -> Result<Value, Refused> {
        if items.is_empty() && setting.presence == Presence::Required {
            self.report.error(span, format!("`{}` needs at least one entry", setting.name));
            return Err(Refused::Wrong);
        }
        let what = format!("an entry of `{}`", setting.name);
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let read = match (setting.kind, &item.value) {
                (Kind::Listeners, Written::Table(table)) => self.listener(table),
                (Kind::Listeners, _) => {
                    self.scalar(setting, Kind::Text(Form::Bind), &what, item).ok().map(plain_listener)
                }
                (Kind::Texts(form), _) => self.scalar(setting, Kind::Text(form), &what, item).ok(),
                (Kind::Integers { min, max }, _) => self.scalar(setting, Kind::Integer { min, max }, &what, item).ok(),
                (kind, _) => self.scalar(setting, kind, &what, item).ok(),
            };
            values.extend(read.map(|value| Located { span: self.place(&item.span), value }));
        }
        Ok(Value::List(values))
    }

    fn listener(&mut self, table: &Table) -> Option<Value> {
        let section = self.section(&registry::LISTENER, table);
        let (transport, bind) = section.bind("bind")?;
        let advertise = section.advertise("advertise").cloned();
        Some(Value::Listener(ListenAt { transport, bind, advertise }))
    }

    fn patterns(&mut self, setting: &'static Setting, table: &Table) -> Result<Value, Refused> {
        let mut patterns: Vec<(String, Regex)> = Vec::with_capacity(table.entries.len());
        for entry in &table.entries {
            if !forms::is_token(&entry.key) {
                self.report.error(&entry.key_span, "this is not the name of a header");
                continue;
            }
            let read = match &entry.node.value {
                Written::Text(text) => forms::pattern(text),
                other => Err(Wrong::Invalid {
                    message: format!("a header's condition must be a regular expression, not {}", other.described()),
                    hint: None,
                }),
            };
            match read {
                Ok(pattern) => patterns.push((entry.key.clone(), pattern)),
                Err(wrong) => self.wrong(setting, &entry.node.span, wrong),
            }
        }
        Ok(Value::Patterns(patterns))
    }

    /// One value that is neither list nor table; `what` names it in messages.
    fn scalar(&mut self, setting: &'static Setting, kind: Kind, what: &str, node: &Node) -> Result<Value, Refused> {
        leaf(kind, what, &node.value).map_err(|wrong| {
            // A choice speaks for its whole section.
            let later = matches!(wrong, Wrong::Later { .. });
            self.wrong(setting, &node.span, wrong);
            if later { Refused::Later } else { Refused::Wrong }
        })
    }

    fn wrong(&mut self, setting: &'static Setting, span: &Span, wrong: Wrong) {
        match wrong {
            Wrong::Invalid { message, hint } => self.report.error_with_hint(span, message, hint),
            Wrong::Later { detail, comes_with } => {
                self.not_available(span, &format!("`{}`{detail}", setting.name), comes_with, None);
            }
        }
    }

    fn place(&self, span: &Span) -> Span {
        self.fixed.as_ref().unwrap_or(span).clone()
    }
}

/// The header of the section in which this version reads a setting called `key`, and the setting.
fn home(key: &str) -> Option<(&'static str, &'static Setting)> {
    registry::ALL.iter().find_map(|section| {
        let setting = section.setting(key).filter(|setting| setting.available == Available::Now);
        setting.map(|setting| (section.header, setting))
    })
}

/// A listener that was written as a text has nothing of its own to advertise.
fn plain_listener(value: Value) -> Value {
    match value {
        Value::Bind(transport, bind) => Value::Listener(ListenAt { transport, bind, advertise: None }),
        other => other,
    }
}

fn leaf(kind: Kind, what: &str, written: &Written) -> Result<Value, Wrong> {
    let read = match (kind, written) {
        (Kind::Text(form), Written::Text(text)) => return forms::read(form, text),
        (Kind::Choice(choices), Written::Text(text)) => return choice(choices, what, text),
        (Kind::Integer { min, max }, Written::Integer(Some(number))) => {
            u64::try_from(*number).ok().filter(|number| (min..=max).contains(number)).map(Value::Integer)
        }
        (Kind::Number { min, max }, Written::Integer(_) | Written::Fraction(_)) => {
            written.described().parse::<f64>().ok().filter(|number| (min..=max).contains(number)).map(Value::Number)
        }
        (Kind::Boolean, Written::Boolean(value)) => Some(Value::Boolean(*value)),
        (Kind::Duration { off: true, .. }, Written::Text(text)) if text == "off" => Some(Value::Duration(None)),
        (Kind::Duration { min, max, .. }, Written::Text(text)) => forms::duration(text)
            .filter(|duration| (min..=max).contains(duration))
            .map(|duration| Value::Duration(Some(duration))),
        (Kind::Algorithm, Written::Text(text)) => engine::policy::by_name(text).map(Value::Algorithm),
        _ => None,
    };
    read.ok_or_else(|| Wrong::Invalid {
        message: format!("{what} must be {}, not {}", kind.expected(), written.described()),
        hint: hint(kind, written),
    })
}

fn choice(choices: &'static [Choice], what: &str, text: &str) -> Result<Value, Wrong> {
    match choices.iter().copied().find(|choice| choice.name == text) {
        Some(Choice { later: None, name }) => Ok(Value::Text(name.to_owned())),
        Some(Choice { later: Some(comes_with), name }) => {
            Err(Wrong::Later { detail: format!(" \"{name}\""), comes_with })
        }
        None => Err(Wrong::Invalid {
            message: format!("{what} must be {}, not \"{}\"", Kind::Choice(choices).expected(), text.escape_debug()),
            hint: nearest::offer(text, choices.iter().map(|choice| choice.name)),
        }),
    }
}

/// What was probably meant by a value of the wrong type.
fn hint(kind: Kind, written: &Written) -> Option<String> {
    match (kind, written) {
        (Kind::Duration { .. }, Written::Integer(Some(number))) if *number >= 0 => {
            Some(format!("write it with its unit: \"{number}s\""))
        }
        (Kind::Duration { .. }, Written::Text(text)) if text.parse::<u32>().is_ok() => {
            Some(format!("write it with its unit: \"{text}s\""))
        }
        (Kind::Integer { .. }, Written::Text(text)) if text.parse::<u32>().is_ok() => {
            Some("numbers stand without quotes".to_owned())
        }
        (Kind::Number { .. }, Written::Text(text)) if text.parse::<f64>().is_ok() => {
            Some("numbers stand without quotes".to_owned())
        }
        (Kind::Text(Form::Answer), Written::Integer(Some(number))) => Some(format!("write it in quotes: \"{number}\"")),
        (Kind::Boolean, Written::Text(text)) if text == "true" || text == "false" => {
            Some(format!("write it without quotes: {text}"))
        }
        (Kind::Algorithm, Written::Text(text)) => {
            nearest::offer(text, engine::policy::ALL.iter().map(|policy| policy.name()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<(usize, String, Option<String>)> {
        let mut report = Report::new("f", text);
        let table = document::parse(text, &mut report).expect("the test writes TOML");
        section(&registry::ROOT, &table, &mut report);
        let (errors, _) = report.finish();
        errors.into_iter().map(|error| (error.line, error.message, error.hint)).collect()
    }

    #[test]
    fn unknown_settings_offer_the_nearest_name_or_the_right_section() {
        let found = errors("[unit]\nworker = 1\nweight = 3\ncolour = 1\n");
        let hints: Vec<Option<&str>> = found.iter().map(|(_, _, hint)| hint.as_deref()).collect();
        assert_eq!(hints, [Some("did you mean \"workers\"?"), Some("it belongs in [[farm.backend]]"), None]);
    }

    #[test]
    fn brackets_must_be_those_of_the_section() {
        let found = errors("[[unit]]\nworkers = 1\n[farm]\nname = \"a\"\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn a_refused_section_is_one_line_for_each_header() {
        let found = errors("[[vip]]\nname = 1\n[[vip]]\nname = 2\n[cluster]\nx = 1\n");
        let lines: Vec<usize> = found.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [1, 3, 5]);
        assert_eq!(
            found.first().map(|(_, message, _)| message.as_str()),
            Some("`[[vip]]` is not available in this version (comes with virtual interfaces)")
        );
    }

    #[test]
    fn a_farm_of_a_later_profile_is_asked_for_nothing_more() {
        let found = errors("[[farm]]\nname = \"a\"\nprofile = \"l4xnat\"\nnat = \"dnat\"\n");
        let lines: Vec<usize> = found.iter().map(|(line, ..)| *line).collect();
        assert_eq!(lines, [3, 4], "{found:?}");
    }

    #[test]
    fn what_is_refused_is_looked_for_where_it_means_the_same() {
        let found = errors(
            "[[farm]]\nname = \"a\"\nlisten = [\"udp:127.0.0.1:5060\"]\nports = \"*\"\nalgorithm = \"weight\"\n",
        );
        let hints: Vec<Option<&str>> = found.iter().map(|(_, _, hint)| hint.as_deref()).collect();
        assert_eq!(hints, [None, Some("a SIP farm has it in [[farm.service]]")]);
    }

    #[test]
    fn numbers_may_have_a_fraction_where_they_are_no_counts() {
        let guardian = |line: &str| format!("[[guardian]]\nname = \"a\"\ncheck = \"call\"\n{line}\n");
        for right in ["min_mos = 3.5", "min_mos = 3", "min_mos = 0", "min_mos = 4.4", "min_mos = 35e-1"] {
            assert!(errors(&guardian(right)).is_empty(), "{right}");
        }
        let told = |line: &str| errors(&guardian(line)).into_iter().map(|(_, message, hint)| (message, hint)).next();
        let wrong = |shown: &str, hint: Option<&str>| {
            Some((format!("`min_mos` must be a number from 0 to 4.4, not {shown}"), hint.map(str::to_owned)))
        };
        assert_eq!(told("min_mos = 4.41"), wrong("4.41", None));
        assert_eq!(told("min_mos = -0.1"), wrong("-0.1", None));
        assert_eq!(told("min_mos = nan"), wrong("nan", None));
        assert_eq!(told("min_mos = 99999999999999999999"), wrong("a number of more than 64 bits", None));
        assert_eq!(told("min_mos = \"3.5\""), wrong("\"3.5\"", Some("numbers stand without quotes")));
        let whole = "`rise` must be a whole number from 1 to 100, not 2.5".to_owned();
        assert_eq!(told("rise = 2.5"), Some((whole, None)));
    }

    #[test]
    fn answers_are_written_in_quotes() {
        let found = errors("[[guardian]]\nname = \"a\"\ncheck = \"options\"\naccept = [\"2xx\", 404]\n");
        let hints: Vec<(usize, Option<&str>)> = found.iter().map(|(line, _, hint)| (*line, hint.as_deref())).collect();
        assert_eq!(hints, [(4, Some("write it in quotes: \"404\""))]);
    }

    #[test]
    fn wrong_types_say_what_to_write() {
        let found = errors("[unit]\ndrain = 30\nworkers = \"4\"\n");
        let hints: Vec<Option<&str>> = found.iter().map(|(_, _, hint)| hint.as_deref()).collect();
        assert_eq!(hints, [Some("write it with its unit: \"30s\""), Some("numbers stand without quotes")]);
    }
}
