//! The names of the configuration, as `status` shows them.

use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Serialize, Deserialize, Debug)]
pub(crate) struct NameStatus {
    /// As it would be written in the file, with the transport and the port that are asked for.
    pub(crate) name: String,
    /// "transport:address:port", best first. Empty: not known, or it leads nowhere.
    pub(crate) places: Vec<String>,
    /// Since the places were last confirmed, in seconds; none if they never were.
    pub(crate) age_s: Option<u64>,
    /// Until the name is asked for again.
    pub(crate) again_s: u64,
    /// What went wrong the last time; the places are the last good ones then.
    pub(crate) failure: Option<String>,
    pub(crate) answers: u64,
    pub(crate) failures: u64,
}

impl From<net::NameStatus> for NameStatus {
    fn from(known: net::NameStatus) -> Self {
        Self {
            name: known.name,
            places: known.places,
            age_s: known.age.map(|age| age.as_secs()),
            again_s: known.again.as_secs(),
            failure: known.failure,
            answers: known.answers,
            failures: known.failures,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_told_in_seconds() {
        let known = net::NameStatus {
            name: "pbx.example.com".to_owned(),
            places: vec!["udp:10.0.0.11:5060".to_owned()],
            age: Some(Duration::from_millis(12_900)),
            again: Duration::from_secs(287),
            failure: None,
            answers: 3,
            failures: 1,
        };
        let json = serde_json::to_value(NameStatus::from(known)).expect("a status can be written");
        let expected = serde_json::json!({
            "name": "pbx.example.com", "places": ["udp:10.0.0.11:5060"], "age_s": 12, "again_s": 287, "failure": null,
            "answers": 3, "failures": 1
        });
        assert_eq!(json, expected);
    }
}
