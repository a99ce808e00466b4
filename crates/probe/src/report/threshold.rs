//! Thresholds as the guidelines of monitoring plugins write them.

use std::fmt;

/// When a figure is a warning or worse.
#[derive(Clone, PartialEq, Debug)]
pub struct Threshold {
    pub figure: Figure,
    pub warning: Option<Range>,
    pub critical: Option<Range>,
}

/// A number that a run measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Figure {
    /// Seconds until the REGISTER was accepted.
    Register,
    /// Seconds from the INVITE until it rang.
    Ring,
    /// Seconds from the INVITE, or the OPTIONS, until it was answered.
    Answer,
    /// Per cent of the packets that should have come back.
    Loss,
    /// Seconds.
    Jitter,
    /// Seconds from mouth to ear, as estimated.
    Delay,
    /// Mean opinion score, 1 to 4.5.
    Mos,
    /// Seconds of the whole run.
    Total,
}

impl Figure {
    /// All figures, in the order of a report.
    pub const ALL: [Self; 8] =
        [Self::Register, Self::Ring, Self::Answer, Self::Loss, Self::Jitter, Self::Delay, Self::Mos, Self::Total];

    /// Its name in performance data, in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Ring => "ring",
            Self::Answer => "answer",
            Self::Loss => "loss",
            Self::Jitter => "jitter",
            Self::Delay => "delay",
            Self::Mos => "mos",
            Self::Total => "total",
        }
    }

    /// The figure of this name, in small letters.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|figure| figure.as_str() == name)
    }

    /// The unit as performance data names it.
    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::Loss => "%",
            Self::Mos => "",
            _ => "s",
        }
    }

    /// The least and the greatest value that it can have.
    pub(crate) const fn bounds(self) -> (&'static str, &'static str) {
        match self {
            Self::Loss => ("0", "100"),
            Self::Mos => ("1", "5"),
            _ => ("0", ""),
        }
    }
}

/// A range of good values, as the guidelines of monitoring plugins write it; the ends belong to it. `10`: from 0 to 10.
/// `10:`: 10 and above. `~:10`: 10 and below. `10:20`: from 10 to 20. `@10:20`: all but from 10 to 20.
#[derive(Clone, PartialEq, Debug)]
pub struct Range {
    text: String,
    low: f64,
    high: f64,
    /// The values within are the bad ones.
    inside: bool,
}

/// What is wrong with the text of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeFault {
    /// An end that is no number.
    Number,
    /// The first end lies above the second one.
    Order,
}

impl fmt::Display for RangeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "a range is written 10, 10:, ~:10, 10:20 or @10:20",
            Self::Order => "the first end of a range lies above the second one",
        })
    }
}

impl std::error::Error for RangeFault {}

impl Range {
    /// Reads a range.
    ///
    /// # Errors
    /// An end that is no number, or ends in the wrong order.
    pub fn parse(text: &str) -> Result<Self, RangeFault> {
        let (inside, ends) = match text.strip_prefix('@') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (low, high) = match ends.split_once(':') {
            None => (0.0, number(ends)?),
            Some((low, high)) => {
                let low = match low {
                    "~" => f64::NEG_INFINITY,
                    "" => 0.0,
                    low => number(low)?,
                };
                let high = if high.is_empty() { f64::INFINITY } else { number(high)? };
                (low, high)
            }
        };
        if low > high {
            return Err(RangeFault::Order);
        }
        Ok(Self { text: text.to_owned(), low, high, inside })
    }

    /// Is the value a bad one?
    pub fn alerts(&self, value: f64) -> bool {
        let within = (self.low..=self.high).contains(&value);
        within == self.inside
    }
}

impl fmt::Display for Range {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Digits with at most a sign and a point: words such as `inf` are no numbers here.
fn number(text: &str) -> Result<f64, RangeFault> {
    if !text.bytes().all(|octet| octet.is_ascii_digit() || b"+-.".contains(&octet)) {
        return Err(RangeFault::Number);
    }
    text.parse().map_err(|_| RangeFault::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_alert_outside_and_with_an_at_inside() {
        // The range, then good values and bad ones.
        let cases: [(&str, &[f64], &[f64]); 9] = [
            ("10", &[0.0, 5.0, 10.0], &[-0.1, 10.1]),
            ("10:", &[10.0, 1e9], &[9.9, -1.0]),
            ("~:10", &[-1e9, 10.0], &[10.1]),
            ("10:20", &[10.0, 15.0, 20.0], &[9.9, 20.1]),
            ("@10:20", &[9.9, 20.1], &[10.0, 15.0, 20.0]),
            ("@10", &[-0.1, 10.1], &[0.0, 10.0]),
            (":5", &[0.0, 5.0], &[-1.0, 5.1]),
            ("0.25", &[0.25], &[0.26]),
            ("-2:-1", &[-1.5], &[0.0, -2.1]),
        ];
        for (text, good, bad) in cases {
            let range = Range::parse(text).expect("the range is well-formed");
            assert_eq!(range.to_string(), text);
            for value in good {
                assert!(!range.alerts(*value), "{value} in {text}");
            }
            for value in bad {
                assert!(range.alerts(*value), "{value} in {text}");
            }
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in ["", "x", "@", "10:x", "inf", "nan", "1:2:3", "~", "1e3", "10;20", "@~"] {
            assert_eq!(Range::parse(text), Err(RangeFault::Number), "{text}");
        }
        assert_eq!(Range::parse("20:10"), Err(RangeFault::Order));
    }

    #[test]
    fn each_figure_has_one_name() {
        for figure in Figure::ALL {
            assert_eq!(Figure::parse(figure.as_str()), Some(figure));
        }
        assert_eq!(Figure::parse("Answer"), None);
        assert_eq!(Figure::parse(""), None);
    }
}
