//! What a figure must be, and whether it is.

use super::grid::Grid;
use serde_json::{Value, json};

/// One figure and its limit.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Requirement {
    figure: String,
    bound: Bound,
    unit: &'static str,
    /// `None`: it was not measured in this run.
    is: Option<f64>,
}

/// A limit, which itself is allowed.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// What is to be said of a figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Met,
    Missed,
    NotMeasured,
    /// The run it was measured in counts for nothing.
    Void,
}

impl Requirement {
    /// `unit` follows the number, with a space of its own; "" for a plain number.
    pub(super) fn at_most(figure: impl Into<String>, limit: f64, unit: &'static str, is: Option<f64>) -> Self {
        Self { figure: figure.into(), bound: Bound::AtMost(limit), unit, is }
    }

    pub(super) fn at_least(figure: impl Into<String>, limit: f64, unit: &'static str, is: Option<f64>) -> Self {
        Self { figure: figure.into(), bound: Bound::AtLeast(limit), unit, is }
    }

    /// `is_void`: the part it belongs to is.
    pub(super) fn verdict(&self, is_void: bool) -> Verdict {
        let Some(is) = self.is else { return Verdict::NotMeasured };
        if is_void {
            return Verdict::Void;
        }
        let holds = match self.bound {
            Bound::AtMost(limit) => is <= limit,
            Bound::AtLeast(limit) => is >= limit,
        };
        if holds { Verdict::Met } else { Verdict::Missed }
    }

    fn cells(&self, is_void: bool) -> [String; 4] {
        let must = match self.bound {
            Bound::AtMost(limit) => format!("≤ {}{}", number(limit), self.unit),
            Bound::AtLeast(limit) => format!("≥ {}{}", number(limit), self.unit),
        };
        let is = self.is.map_or("-".to_string(), |is| format!("{}{}", number(is), self.unit));
        [self.figure.clone(), must, is, self.verdict(is_void).label().to_string()]
    }

    pub(super) fn json(&self, is_void: bool) -> Value {
        let (at_most, at_least) = match self.bound {
            Bound::AtMost(limit) => (Some(limit), None),
            Bound::AtLeast(limit) => (None, Some(limit)),
        };
        json!({
            "figure": self.figure,
            "at_most": at_most,
            "at_least": at_least,
            "unit": self.unit.trim(),
            "is": self.is,
            "verdict": self.verdict(is_void).label().to_lowercase(),
        })
    }
}

impl Verdict {
    fn label(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::NotMeasured => "not measured",
            Self::Void => "void",
        }
    }
}

/// All requirements, each with whether its part is void.
pub(super) fn grid<'a>(requirements: impl IntoIterator<Item = (&'a Requirement, bool)>) -> Grid {
    let mut grid = Grid::new("Requirements", &["figure", "must be", "is", "verdict"]);
    for (requirement, is_void) in requirements {
        grid.row(requirement.cells(is_void));
    }
    grid
}

/// Three decimals where they matter, and no zeros at the end.
fn number(value: f64) -> String {
    let size = value.abs();
    let text = if size < 10.0 {
        format!("{value:.3}")
    } else if size < 1_000.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_most(limit: f64, is: f64) -> Verdict {
        Requirement::at_most("f", limit, "", Some(is)).verdict(false)
    }

    #[test]
    fn a_limit_itself_is_met_from_either_side() {
        assert_eq!(at_most(1.45, 1.45), Verdict::Met);
        assert_eq!(at_most(1.45, 1.4501), Verdict::Missed);
        assert_eq!(at_most(0.0, 0.0), Verdict::Met);
        assert_eq!(at_most(0.0, 1.0), Verdict::Missed);
        let at_least = |is: f64| Requirement::at_least("f", 1.6, "", Some(is)).verdict(false);
        assert_eq!((at_least(1.6), at_least(1.599), at_least(2.0)), (Verdict::Met, Verdict::Missed, Verdict::Met));
        assert_eq!(at_most(1.0, f64::NAN), Verdict::Missed, "what is no number keeps no limit");
    }

    #[test]
    fn what_was_not_measured_or_is_void_is_neither_met_nor_missed() {
        let unknown = Requirement::at_most("f", 1.0, "", None);
        assert_eq!(unknown.verdict(false), Verdict::NotMeasured);
        assert_eq!(unknown.verdict(true), Verdict::NotMeasured);
        assert_eq!(Requirement::at_most("f", 1.0, "", Some(0.5)).verdict(true), Verdict::Void);
    }

    #[test]
    fn a_row_says_all_there_is_to_say() {
        let requirement = Requirement::at_most("idle", 16.0, " MB", Some(17.24));
        assert_eq!(requirement.cells(false), ["idle", "≤ 16 MB", "17.2 MB", "MISSED"]);
        let text = grid([(&requirement, false)]).text();
        assert!(text.contains("MISSED"), "{text}");
        assert_eq!(requirement.json(false)["verdict"], "missed");
        assert_eq!(Requirement::at_least("f", 6.0, "", None).cells(false), ["f", "≥ 6", "-", "not measured"]);
    }

    #[test]
    fn numbers_are_as_long_as_they_must_be() {
        assert_eq!(
            [0.0, 1.45, 1.4501, 16.0, 20.04, 1500.4, 400.0].map(number),
            ["0", "1.45", "1.45", "16", "20", "1500", "400"]
        );
        assert_eq!(number(1.4514), "1.451");
    }
}
