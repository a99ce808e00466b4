//! The words of a command line, as a shell splits them: quotes and backslashes, no expansions, no operators.

/// What keeps a command line from being split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unfinished {
    /// There is no word at all.
    Empty,
    /// This quote is not closed.
    Quote(char),
    /// The last character is a backslash.
    Backslash,
}

/// Splits at blanks. Between single quotes everything stands for itself; between double quotes a backslash makes `"` and `\` stand
/// for themselves, outside of quotes any character.
pub(crate) fn split(line: &str) -> Result<Vec<String>, Unfinished> {
    let mut words = Vec::new();
    // `None`: between words. A pair of quotes alone is a word as well.
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (Some('"'), '\\') => {
                let next = characters.next().ok_or(Unfinished::Backslash)?;
                let word = word.get_or_insert_default();
                if !matches!(next, '"' | '\\') {
                    word.push('\\');
                }
                word.push(next);
            }
            (Some(_), _) => word.get_or_insert_default().push(character),
            (None, '\'' | '"') => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (None, '\\') => {
                let next = characters.next().ok_or(Unfinished::Backslash)?;
                word.get_or_insert_default().push(next);
            }
            (None, _) if character.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(character),
        }
    }
    if let Some(open) = quote {
        return Err(Unfinished::Quote(open));
    }
    words.extend(word);
    if words.is_empty() { Err(Unfinished::Empty) } else { Ok(words) }
}

impl std::fmt::Display for Unfinished {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Empty => formatter.write_str("the command is empty"),
            Self::Quote(open) => write!(formatter, "a quote {open} in the command is not closed"),
            Self::Backslash => formatter.write_str("the command ends with a backslash"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_a_shell() {
        let table: [(&str, &[&str]); 12] = [
            ("a", &["a"]),
            ("  a\tb \n c  ", &["a", "b", "c"]),
            ("a 'b c' d", &["a", "b c", "d"]),
            ("a \"b c\" d", &["a", "b c", "d"]),
            ("a'b c'\"d e\"f", &["ab cd ef"]),
            ("a '' \"\" b", &["a", "", "", "b"]),
            ("a\\ b \\' \\\" \\\\", &["a b", "'", "\"", "\\"]),
            ("'a\\b' 'it'\\''s'", &["a\\b", "it's"]),
            ("\"a\\\"b\" \"a\\\\b\" \"a\\nb\" \"'\"", &["a\"b", "a\\b", "a\\nb", "'"]),
            ("echo $HOME `id` *.c ; ls > x", &["echo", "$HOME", "`id`", "*.c", ";", "ls", ">", "x"]),
            ("grüße  'größer als'", &["grüße", "größer als"]),
            ("sh -c 'exit 2'", &["sh", "-c", "exit 2"]),
        ];
        for (line, words) in table {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(split(line), Ok(words), "{line:?}");
        }
    }

    #[test]
    fn what_is_not_finished_is_refused() {
        for (line, fault, said) in [
            ("", Unfinished::Empty, "the command is empty"),
            (" \t", Unfinished::Empty, "the command is empty"),
            ("a 'b", Unfinished::Quote('\''), "a quote ' in the command is not closed"),
            ("a \"b'", Unfinished::Quote('"'), "a quote \" in the command is not closed"),
            ("a\\", Unfinished::Backslash, "the command ends with a backslash"),
            ("\"a\\", Unfinished::Backslash, "the command ends with a backslash"),
        ] {
            assert_eq!(split(line), Err(fault), "{line:?}");
            assert_eq!(fault.to_string(), said);
        }
    }
}
