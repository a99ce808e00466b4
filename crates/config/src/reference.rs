//! The manual of all settings, generated from the registry.

use crate::registry::{self, Available, Presence, Section, Setting};
use std::fmt::Write;

/// Markdown: one table for each section, the algorithms, and what this version refuses.
pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    for section in registry::ALL {
        text.push_str(&describe(section));
    }
    text.push_str(&algorithms());
    text.push_str(&refused());
    text
}

fn describe(section: &Section) -> String {
    let mut text = format!("\n## {}\n\n{}\n\n", section.header, section.doc);
    text.push_str("| setting | takes | default | meaning |\n|---|---|---|---|\n");
    let read = section.settings.iter().filter(|setting| !matches!(setting.available, Available::Later(_)));
    for setting in read {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", row(setting));
    }
    text
}

fn row(setting: &Setting) -> String {
    let default = match setting.presence {
        Presence::Required => "(required)".to_owned(),
        Presence::Default(default) => format!("`{default}`"),
        Presence::Optional => String::new(),
    };
    let takes = setting.kind.expected();
    format!("| `{}` | {} | {} | {} |", setting.name, cell(&takes), cell(&default), cell(setting.doc))
}

/// A bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn algorithms() -> String {
    let mut text = "\n## Algorithms\n\n| algorithm | in a stateless farm | meaning |\n|---|---|---|\n".to_owned();
    for policy in engine::policy::ALL {
        let stateless = if policy.needs_state() { "no" } else { "yes" };
        let _ = writeln!(text, "| `{}` | {stateless} | {} |", policy.name(), cell(policy.doc()));
    }
    text
}

fn refused() -> String {
    let mut text =
        "\n## Not in this version\n\nThese are known and refused, so that a file never does less than it says.\n\n\
                    | section | setting | comes with |\n|---|---|---|\n"
            .to_owned();
    for section in std::iter::once(&registry::ROOT).chain(registry::ALL.iter().copied()) {
        for setting in section.settings {
            if let Available::Later(comes_with) = setting.available {
                let _ = writeln!(text, "| {} | `{}` | {comes_with} |", section.header, setting.name);
            }
            if let registry::Kind::Choice(choices) = setting.kind {
                for (choice, comes_with) in
                    choices.iter().filter_map(|choice| choice.later.map(|later| (choice, later)))
                {
                    let _ = writeln!(
                        text,
                        "| {} | `{} = \"{}\"` | {comes_with} |",
                        section.header, setting.name, choice.name
                    );
                }
            }
        }
    }
    text
}

const INTRODUCTION: &str = "# Configuration

Generated from the program's own list of settings: change them there, not here.

The file is TOML. A file with one `[[farm]]` (`name`, `listen`) and one `[[farm.backend]]` (`address`) runs.
Durations are `\"250ms\"`, `\"10s\"`, `\"5m\"` or `\"12h\"`. Names are unique within their kind. `tandem check --config FILE` shows every
error of a file at once, with its place.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_in_the_manual() {
        let text = reference();
        for section in registry::ALL {
            assert!(text.contains(&format!("\n## {}\n", section.header)), "{}", section.header);
            for setting in section.settings {
                assert!(text.contains(&format!("`{}`", setting.name)), "{} {}", section.header, setting.name);
            }
        }
        assert!(text.contains("| `weight` | a whole number from 1 to 10000 | `1` |"));
        assert!(text.contains("| [[farm]] | `profile = \"l4xnat\"` | kernel farms |"));
    }

    #[test]
    fn every_row_has_the_cells_of_its_table() {
        let text = reference();
        let mut columns = 0;
        for line in text.lines() {
            let bars = line.replace("\\|", "").matches('|').count();
            if line.starts_with("|---") {
                assert_eq!(bars, columns, "{line}");
            }
            if bars > 0 && columns > 0 {
                assert_eq!(bars, columns, "{line}");
            }
            columns = bars;
        }
    }
}
