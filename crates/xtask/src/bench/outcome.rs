//! What came of the parts, and how it is told: in the terminal, as JSON, as Markdown.

use super::Part;
use super::grid::Grid;
use super::requirement::{self, Requirement, Verdict};
use serde_json::{Map, Value, json};

/// What came of one part.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) part: Part,
    pub(super) grids: Vec<Grid>,
    pub(super) requirements: Vec<Requirement>,
    /// Why the part counts for nothing.
    pub(super) void: Option<String>,
    /// What should not have happened, whatever the figures are.
    pub(super) faults: Vec<String>,
    /// Everything that was measured.
    pub(super) figures: Value,
}

/// All parts of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) machine: String,
}

impl Outcome {
    /// A part that could not be brought to its end.
    pub(super) fn failed(part: Part, error: &anyhow::Error) -> Self {
        Self {
            part,
            grids: Vec::new(),
            requirements: Vec::new(),
            void: None,
            faults: vec![format!("{error:#}")],
            figures: Value::Null,
        }
    }

    /// The tables of the part, and what is wrong with them.
    pub(super) fn text(&self) -> String {
        let grids: Vec<String> = self.grids.iter().map(Grid::text).collect();
        let mut text = grids.join("\n");
        for remark in self.remarks() {
            text.push_str(&format!("{remark}\n"));
        }
        text
    }

    fn markdown(&self) -> String {
        let mut pieces: Vec<String> = self.grids.iter().map(Grid::markdown).collect();
        pieces.extend(self.remarks().iter().map(|remark| format!("**{remark}**\n")));
        pieces.join("\n")
    }

    fn remarks(&self) -> Vec<String> {
        let name = self.part.name();
        let void = self.void.iter().map(|reason| format!("VOID: part {name}: {reason}"));
        let faults = self.faults.iter().map(|fault| format!("FAILED: part {name}: {fault}"));
        void.chain(faults).collect()
    }
}

impl Summary {
    /// Nothing is void and nothing failed; figures may have been missed.
    pub(super) fn is_good(&self) -> bool {
        self.outcomes.iter().all(|outcome| outcome.void.is_none() && outcome.faults.is_empty())
    }

    /// The requirements, what was missed, and what is void or failed.
    pub(super) fn text(&self) -> String {
        let mut text = self.requirements().text();
        let missed = self.judged().filter(|(one, is_void)| one.verdict(*is_void) == Verdict::Missed).count();
        if missed > 0 {
            text.push_str(&format!("MISSED: {missed} of the figures above\n"));
        }
        for remark in self.outcomes.iter().flat_map(Outcome::remarks) {
            text.push_str(&format!("{remark}\n"));
        }
        text
    }

    /// Without a date, so that the document changes only when the figures do.
    pub(super) fn markdown(&self) -> String {
        let mut pieces = vec![format!("Measured on {}.\n", self.machine)];
        pieces.extend(self.outcomes.iter().map(Outcome::markdown));
        pieces.push(self.requirements().markdown());
        pieces.join("\n")
    }

    pub(super) fn json(&self) -> Value {
        let mut parts = Map::new();
        for outcome in &self.outcomes {
            let tables: Vec<Value> = outcome.grids.iter().map(Grid::json).collect();
            let part = json!({
                "void": outcome.void,
                "faults": outcome.faults,
                "figures": outcome.figures,
                "tables": tables,
            });
            parts.insert(outcome.part.name().to_string(), part);
        }
        let requirements: Vec<Value> = self.judged().map(|(one, is_void)| one.json(is_void)).collect();
        json!({ "machine": self.machine, "good": self.is_good(), "parts": parts, "requirements": requirements })
    }

    fn requirements(&self) -> Grid {
        requirement::grid(self.judged())
    }

    fn judged(&self) -> impl Iterator<Item = (&Requirement, bool)> {
        self.outcomes
            .iter()
            .flat_map(|outcome| outcome.requirements.iter().map(move |one| (one, outcome.void.is_some())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(is: f64, void: Option<&str>) -> Summary {
        let outcome = Outcome {
            part: Part::Memory,
            grids: vec![Grid::new("sizes", &["", "MB"])],
            requirements: vec![Requirement::at_most("idle", 16.0, " MB", Some(is))],
            void: void.map(str::to_string),
            faults: Vec::new(),
            figures: json!({ "idle": is }),
        };
        Summary { outcomes: vec![outcome], machine: "a machine".to_string() }
    }

    #[test]
    fn a_missed_figure_is_said_loudly_and_is_no_failure() {
        let missed = summary(17.0, None);
        assert!(missed.is_good());
        assert!(missed.text().contains("MISSED: 1 of the figures above"), "{}", missed.text());
        let met = summary(16.0, None);
        assert!(!met.text().contains("MISSED"), "{}", met.text());
    }

    #[test]
    fn a_void_part_has_no_verdicts_and_is_a_failure() {
        let void = summary(17.0, Some("the relay strays"));
        assert!(!void.is_good());
        assert!(!void.text().contains("MISSED"), "{}", void.text());
        assert!(void.text().contains("VOID: part memory: the relay strays"), "{}", void.text());
        assert!(void.markdown().contains("**VOID: part memory: the relay strays**"));
        assert_eq!(void.json()["requirements"][0]["verdict"], "void");
    }

    #[test]
    fn a_part_that_breaks_off_is_told_and_is_a_failure() {
        let error = anyhow::anyhow!("no generator").context("round 1");
        let broken = Summary { outcomes: vec![Outcome::failed(Part::Peak, &error)], machine: String::new() };
        assert!(!broken.is_good());
        assert!(broken.text().contains("FAILED: part peak: round 1: no generator"), "{}", broken.text());
    }

    #[test]
    fn the_document_has_machine_tables_and_requirements_in_this_order() {
        let text = summary(16.0, None).markdown();
        assert!(text.starts_with("Measured on a machine.\n\n### sizes\n\n"), "{text}");
        assert!(text.ends_with("| idle | ≤ 16 MB | 16 MB | met |\n"), "{text}");
        assert_eq!(summary(16.0, None).json()["parts"]["memory"]["figures"]["idle"], 16.0);
    }
}
