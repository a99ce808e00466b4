//! Names of users, made from a pattern and a number.

use super::template::DIGIT;
use std::fmt;
use std::str::FromStr;

/// The user part of SIP addresses: a run of `#` in its pattern stands for a user's number with leading zeros, so that `1###` names 1000 to
/// 1999. A pattern without `#` is one user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserName {
    before: String,
    digits: usize,
    after: String,
}

/// What is wrong with a pattern.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UserNameError {
    Empty,
    /// Not allowed in the user part of a SIP URI without escapes (RFC 3261 §25.1).
    Character(char),
    /// More than one run of `#`.
    TwoNumbers,
    /// More `#` than numbers have digits.
    TooManyDigits,
}

impl UserName {
    /// `before` and eight digits. Letters and digits only.
    pub(super) fn numbered(before: &str) -> Self {
        Self { before: before.to_owned(), digits: 8, after: String::new() }
    }

    /// The name of the user with this number; of a number with too many digits the last ones count.
    pub fn of(&self, number: u32) -> String {
        let padded = format!("{number:0width$}", width = self.digits);
        let shown = padded.get(padded.len() - self.digits..).unwrap_or_default();
        format!("{}{shown}{}", self.before, self.after)
    }

    /// For a template.
    pub(super) fn pattern(&self) -> String {
        let digits = String::from(char::from(DIGIT)).repeat(self.digits);
        format!("{}{digits}{}", self.before, self.after)
    }
}

impl FromStr for UserName {
    type Err = UserNameError;

    fn from_str(pattern: &str) -> Result<Self, UserNameError> {
        if pattern.is_empty() {
            return Err(UserNameError::Empty);
        }
        let allowed = |character: char| character.is_ascii_alphanumeric() || "#-_.!~*'()&=+$,;?/".contains(character);
        if let Some(wrong) = pattern.chars().find(|character| !allowed(*character)) {
            return Err(UserNameError::Character(wrong));
        }
        let start = pattern.find('#').unwrap_or(pattern.len());
        let (before, rest) = pattern.split_at(start);
        let after = rest.trim_start_matches('#');
        if after.contains('#') {
            return Err(UserNameError::TwoNumbers);
        }
        let digits = rest.len() - after.len();
        if digits > MOST_DIGITS {
            return Err(UserNameError::TooManyDigits);
        }
        Ok(Self { before: before.to_owned(), digits, after: after.to_owned() })
    }
}

impl fmt::Display for UserNameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => formatter.write_str("a user has a name"),
            Self::Character(character) => write!(formatter, "{character:?} cannot stand in the name of a user"),
            Self::TwoNumbers => formatter.write_str("only one run of # can be the user's number"),
            Self::TooManyDigits => write!(formatter, "a user's number has at most {MOST_DIGITS} digits"),
        }
    }
}

impl std::error::Error for UserNameError {}

/// Of a u32 with any digits.
const MOST_DIGITS: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(pattern: &str) -> UserName {
        pattern.parse().expect("the test's pattern is well formed")
    }

    #[test]
    fn patterns_name_users() {
        assert_eq!(name("1###").of(42), "1042");
        assert_eq!(name("1###").of(54_321), "1321");
        assert_eq!(name("a##-b").of(7), "a07-b");
        assert_eq!(name("+4930100").of(7), "+4930100");
        assert_eq!(UserName::numbered("u").of(3), "u00000003");
        assert_eq!(name("u########"), UserName::numbered("u"));
        assert_eq!(name("1##").pattern(), "1\u{1}\u{1}");
    }

    #[test]
    fn what_is_no_name_is_told() {
        let error = |pattern: &str| pattern.parse::<UserName>().err();
        assert_eq!(error(""), Some(UserNameError::Empty));
        assert_eq!(error("a b"), Some(UserNameError::Character(' ')));
        assert_eq!(error("a@b"), Some(UserNameError::Character('@')));
        assert_eq!(error("#a#"), Some(UserNameError::TwoNumbers));
        assert_eq!(error("##########"), Some(UserNameError::TooManyDigits));
    }
}
