//! The JSON schema of a file, generated from the registry: for editors that complete and check TOML.

use crate::registry::{self, Available, Form, Kind, Presence, Section, Setting};
use serde_json::{Map, Value, json};

/// JSON Schema, draft 2020-12. What only a check of the whole file finds (names that must exist, addresses that meet) is not in it.
pub fn schema() -> String {
    let mut root = section(&registry::ROOT);
    if let Some(object) = root.as_object_mut() {
        object.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        object.insert("title".to_owned(), json!("tandem"));
    }
    format!("{root:#}\n")
}

fn section(section: &Section) -> Value {
    let read = || section.settings.iter().filter(|setting| !matches!(setting.available, Available::Later(_)));
    let properties: Map<String, Value> = read().map(|setting| (setting.name.to_owned(), property(setting))).collect();
    let required: Vec<&str> =
        read().filter(|setting| setting.presence == Presence::Required).map(|setting| setting.name).collect();
    json!({
        "type": "object",
        "description": section.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(setting: &Setting) -> Value {
    let mut value = kind(setting.kind);
    if let Some(object) = value.as_object_mut() {
        object.insert("description".to_owned(), json!(setting.doc));
        if let Presence::Default(default) = setting.presence
            && let Some(default) = plain_default(setting.kind, default)
        {
            object.insert("default".to_owned(), default);
        }
    }
    value
}

fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Text(form) => text(form),
        Kind::Texts(form) => json!({ "type": "array", "items": text(form) }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Number { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Integers { min, max } => {
            json!({ "type": "array", "items": { "type": "integer", "minimum": min, "maximum": max } })
        }
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Duration { off: false, .. } => {
            json!({ "type": "string", "pattern": "^[0-9]+(ms|s|m|h)$" })
        }
        Kind::Duration { off: true, .. } => {
            json!({ "type": "string", "pattern": "^([0-9]+(ms|s|m|h)|off)$" })
        }
        Kind::Choice(choices) => {
            let names: Vec<&str> =
                choices.iter().filter(|choice| choice.later.is_none()).map(|choice| choice.name).collect();
            json!({ "type": "string", "enum": names })
        }
        Kind::Algorithm => {
            let names: Vec<&str> = engine::policy::ALL.iter().map(|policy| policy.name()).collect();
            json!({ "type": "string", "enum": names })
        }
        Kind::Listeners => {
            json!({ "type": "array", "items": { "anyOf": [text(Form::Bind), section(&registry::LISTENER)] } })
        }
        Kind::Patterns => {
            json!({ "type": "object", "additionalProperties": { "type": "string", "format": "regex" } })
        }
        Kind::Section(inner) => section(inner),
        Kind::Sections(inner) => json!({ "type": "array", "items": section(inner) }),
        Kind::Unread => json!({ "not": {} }),
    }
}

fn text(form: Form) -> Value {
    match form {
        Form::Pattern => json!({ "type": "string", "format": "regex" }),
        _ => json!({ "type": "string" }),
    }
}

/// Defaults of scalars and lists of them are written alike in TOML and JSON; those of tables follow from their parts.
fn plain_default(kind: Kind, default: &str) -> Option<Value> {
    match kind {
        Kind::Section(_) | Kind::Sections(_) | Kind::Patterns => None,
        _ => serde_json::from_str(default).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_json_and_holds_the_settings() {
        let parsed: Value = serde_json::from_str(&schema()).expect("the schema is JSON");
        let backend =
            parsed.pointer("/properties/farm/items/properties/backend/items").expect("backends are described");
        assert_eq!(backend.pointer("/required"), Some(&json!(["address"])));
        assert_eq!(backend.pointer("/properties/weight/maximum"), Some(&json!(10_000)));
        assert_eq!(backend.pointer("/properties/weight/default"), Some(&json!(1)));
        assert_eq!(backend.pointer("/properties/service/default"), Some(&json!(["default"])));
        assert_eq!(backend.pointer("/properties/max_connections"), None);
        assert_eq!(backend.pointer("/properties/transport/enum"), Some(&json!(["udp", "tcp", "tls", "same"])));
        assert_eq!(backend.pointer("/properties/ports/properties/tls/default"), Some(&json!(5061)));
        assert_eq!(parsed.pointer("/properties/unit/properties/drain/default"), Some(&json!("30s")));
        assert_eq!(parsed.pointer("/properties/farm/items/properties/profile/enum"), Some(&json!(["sip"])));
        let guardian = parsed.pointer("/properties/guardian/items").expect("guardians are described");
        assert_eq!(guardian.pointer("/required"), Some(&json!(["name", "check"])));
        assert_eq!(guardian.pointer("/properties/min_mos/type"), Some(&json!("number")));
        assert_eq!(guardian.pointer("/properties/min_mos/maximum"), Some(&json!(4.4)));
        assert_eq!(guardian.pointer("/properties/effect/enum"), Some(&json!(["down", "warn"])));
    }

    #[test]
    fn every_default_of_a_scalar_is_in_the_schema() {
        for section in registry::ALL {
            for setting in section.settings {
                if let Presence::Default(default) = setting.presence {
                    let is_table = matches!(setting.kind, Kind::Section(_) | Kind::Sections(_) | Kind::Patterns);
                    assert_eq!(
                        plain_default(setting.kind, default).is_none(),
                        is_table,
                        "{} {}",
                        section.header,
                        setting.name
                    );
                }
            }
        }
    }
}
