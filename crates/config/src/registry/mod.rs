//! Every setting, defined once: name, type, bounds, default, meaning, and whether this version has it.
//!
//! A new setting is one line in `unit`, `farm` or `guardian` and one use in `check`; reading, defaults, error messages, manual and
//! schema follow from the line.

mod farm;
mod guardian;
mod unit;

pub(crate) use farm::{LISTENER, SERVICE};
pub(crate) use guardian::GUARDIAN;
pub(crate) use unit::ROOT;

use crate::forms;
use std::time::Duration;

/// A group of settings with a header of its own.
#[derive(Debug)]
pub(crate) struct Section {
    /// As it is written in a file; for an inline table its name.
    pub(crate) header: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) settings: &'static [Setting],
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) presence: Presence,
    pub(crate) available: Available,
    pub(crate) doc: &'static str,
}

/// What a setting takes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text(Form),
    Texts(Form),
    Integer {
        min: u64,
        max: u64,
    },
    Integers {
        min: u64,
        max: u64,
    },
    /// With or without a fraction.
    Number {
        min: f64,
        max: f64,
    },
    Boolean,
    /// `off`: the word "off" is allowed too.
    Duration {
        min: Duration,
        max: Duration,
        off: bool,
    },
    Choice(&'static [Choice]),
    /// A balancing algorithm, from the engine's own list.
    Algorithm,
    Listeners,
    /// A table of header names and patterns.
    Patterns,
    Section(&'static Section),
    Sections(&'static Section),
    /// Of a setting that this version does not read.
    Unread,
}

/// The grammar of a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Form {
    Any,
    Name,
    Path,
    Host,
    HeaderName,
    Method,
    Pattern,
    Network,
    Peer,
    Way,
    NameServer,
    Bind,
    Advertise,
    Persistence,
    Fallback,
    Egress,
    Origin,
    Verify,
    Answer,
    SipUser,
    Command,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) name: &'static str,
    /// What it comes with, if this version does not have it.
    pub(crate) later: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Presence {
    Required,
    /// As it would be written in a file.
    Default(&'static str),
    /// Without it something else holds, which its meaning says.
    Optional,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Available {
    Now,
    /// Refused; what it comes with.
    Later(&'static str),
}

// What later versions bring, as messages name it.
pub(crate) const API: &str = "the API";
pub(crate) const KERNEL: &str = "kernel farms";
pub(crate) const SECURITY: &str = "IPDS";
pub(crate) const CLUSTER: &str = "the cluster";

/// Every section that this version reads, in the order of the manual.
pub(crate) static ALL: &[&Section] = &[
    &unit::UNIT,
    &unit::LIMITS,
    &unit::DNS,
    &unit::LOG,
    &farm::FARM,
    &farm::LISTENER,
    &farm::TRUNK,
    &farm::SERVICE,
    &farm::MATCH,
    &farm::FAILOVER,
    &farm::BACKEND,
    &farm::PORTS,
    &guardian::GUARDIAN,
];

impl Section {
    pub(crate) fn setting(&self, name: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }
}

impl Setting {
    const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Required, available: Available::Now, doc }
    }

    const fn optional(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Optional, available: Available::Now, doc }
    }

    const fn default(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Default(default), available: Available::Now, doc }
    }

    const fn later(name: &'static str, comes_with: &'static str, doc: &'static str) -> Self {
        Self { name, kind: Kind::Unread, presence: Presence::Optional, available: Available::Later(comes_with), doc }
    }
}

impl Choice {
    const fn now(name: &'static str) -> Self {
        Self { name, later: None }
    }

    const fn later(name: &'static str, comes_with: &'static str) -> Self {
        Self { name, later: Some(comes_with) }
    }
}

const fn integer(min: u64, max: u64) -> Kind {
    Kind::Integer { min, max }
}

const fn duration_ms(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms), off: false }
}

const fn duration_or_off_ms(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms), off: true }
}

impl Kind {
    /// What is taken, in words that follow "must be".
    pub(crate) fn expected(&self) -> String {
        match self {
            Self::Text(form) => form.expected().to_owned(),
            Self::Texts(form) => format!("a list, each entry {}", form.expected()),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Integers { min, max } => format!("a list of whole numbers from {min} to {max}"),
            Self::Number { min, max } => format!("a number from {min} to {max}"),
            Self::Boolean => "true or false".to_owned(),
            Self::Duration { min, max, off } => {
                let (min, max) = (forms::write_duration(*min), forms::write_duration(*max));
                let or_off = if *off { " or \"off\"" } else { "" };
                format!("a duration from \"{min}\" to \"{max}\"{or_off}")
            }
            Self::Choice(choices) => {
                one_of(choices.iter().filter(|choice| choice.later.is_none()).map(|choice| choice.name))
            }
            Self::Algorithm => one_of(engine::policy::ALL.iter().map(|policy| policy.name())),
            Self::Listeners => "a list of listeners such as \"udp:127.0.0.1:5060\"".to_owned(),
            Self::Patterns => "a table of header names and regular expressions".to_owned(),
            Self::Section(section) => format!("a table {}", section.header),
            Self::Sections(section) => format!("any number of {}", section.header),
            Self::Unread => "left out".to_owned(),
        }
    }
}

impl Form {
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Any => "a text",
            Self::Name => "a name",
            Self::Path => "a path",
            Self::Host => "a host name or address",
            Self::HeaderName => "the name of a header, or empty",
            Self::Method => "a SIP method",
            Self::Pattern => "a regular expression",
            Self::Network => "an address or a network",
            Self::Peer => "an address or a name, with or without a port",
            Self::Way => "an address or a name, with or without a port, and `udp:`, `tcp:` or `tls:` before it",
            Self::NameServer => "an address, with or without a port",
            Self::Bind => "a listener such as \"udp:127.0.0.1:5060\"",
            Self::Advertise => "a name or an address, with or without a port",
            Self::Persistence => "one of \"user\", \"call-id\", \"source\", \"header:NAME\", \"none\"",
            Self::Fallback => "a status such as \"503\" or the name of a service",
            Self::Egress => "\"trunk:NAME\", \"domain:NAME\" or \"network:ADDRESS/BITS\"",
            Self::Origin => "the origin of a web page such as \"https://phone.example.com\"",
            Self::Verify => "\"system\", the path of a file, \"sha256:FINGERPRINT\" or \"off\"",
            Self::Answer => "a final status such as \"404\", or a class of them such as \"2xx\"",
            Self::SipUser => "a SIP address such as \"sip:clyde@HOST\"",
            Self::Command => "a command with its arguments",
        }
    }
}

fn one_of(names: impl Iterator<Item = &'static str>) -> String {
    let quoted: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
    match quoted.as_slice() {
        [only] => only.clone(),
        _ => format!("one of {}", quoted.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use crate::read;
    use crate::report::Report;

    #[test]
    fn names_are_unique_in_their_section_and_documented() {
        for section in ALL.iter().chain([&&ROOT]) {
            let mut names: Vec<&str> = section.settings.iter().map(|setting| setting.name).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count, "{}", section.header);
            assert!(section.settings.iter().all(|setting| setting.doc.len() > 5), "{}", section.header);
        }
    }

    #[test]
    fn every_default_is_right_by_its_own_rule() {
        for section in ALL {
            for setting in section.settings {
                if let Presence::Default(text) = setting.presence {
                    assert!(document::literal(text).is_some(), "{} {}", section.header, setting.name);
                }
            }
            let mut report = Report::new("defaults", "");
            let read = read::implied(section, &(0..0), &mut report);
            let (errors, _) = report.finish();
            assert!(errors.is_empty(), "{}: {errors:?}", section.header);
            for setting in section.settings {
                let has_default = matches!(setting.presence, Presence::Default(_));
                assert_eq!(read.find(setting.name).is_some(), has_default, "{} {}", section.header, setting.name);
            }
        }
    }

    #[test]
    fn every_section_is_in_the_list_of_all() {
        let mut reached: Vec<&str> = vec![LISTENER.header];
        let mut waiting: Vec<&'static Section> = vec![&ROOT];
        while let Some(section) = waiting.pop() {
            for setting in section.settings {
                if let Kind::Section(inner) | Kind::Sections(inner) = setting.kind {
                    reached.push(inner.header);
                    waiting.push(inner);
                }
            }
        }
        reached.sort_unstable();
        let mut listed: Vec<&str> = ALL.iter().map(|section| section.header).collect();
        listed.sort_unstable();
        assert_eq!(reached, listed);
    }
}
