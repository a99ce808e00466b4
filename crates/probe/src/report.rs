//! What a run found: one line for Nagios, JSON, and the messages as a ladder.

mod ladder;
mod threshold;

pub use threshold::{Figure, Range, RangeFault, Threshold};

use crate::quality::Quality;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest text of a line, in characters; what peers say may be long.
const TEXT_CHARACTERS: usize = 400;

/// How a run ended, in the words of monitoring plugins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Ok,
    Warning,
    Critical,
    /// The run says nothing about the other side.
    Unknown,
}

impl State {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }

    /// The exit code of a monitoring plugin.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Warning => 1,
            Self::Critical => 2,
            Self::Unknown => 3,
        }
    }
}

/// What a run measured. What was not reached is `None`.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub register: Option<Duration>,
    /// From the INVITE until it rang.
    pub ring: Option<Duration>,
    /// From the INVITE, or the OPTIONS, until it was answered.
    pub answer: Option<Duration>,
    pub total: Duration,
    /// Packets of audio that were sent.
    pub sent: u64,
    /// From the answer until the last packet of audio came.
    pub heard_until: Option<Duration>,
    /// Of the audio that came back; `None` if none came.
    pub quality: Option<Quality>,
}

impl Figures {
    /// The figure in the unit of its thresholds: seconds, per cent, or a score.
    pub fn value(&self, figure: Figure) -> Option<f64> {
        let quality = self.quality.as_ref();
        match figure {
            Figure::Register => self.register.map(|time| time.as_secs_f64()),
            Figure::Ring => self.ring.map(|time| time.as_secs_f64()),
            Figure::Answer => self.answer.map(|time| time.as_secs_f64()),
            Figure::Loss => quality.map(|quality| quality.loss * 100.0),
            Figure::Jitter => quality.map(|quality| quality.jitter.as_secs_f64()),
            Figure::Delay => quality.map(|quality| quality.delay.as_secs_f64()),
            Figure::Mos => quality.map(|quality| quality.mos),
            Figure::Total => Some(self.total.as_secs_f64()),
        }
    }
}

/// One message, or all the audio of one direction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Since the start of the run.
    pub at: Duration,
    /// From us.
    pub outgoing: bool,
    pub peer: SocketAddr,
    /// `INVITE sip:clyde@10.0.0.11`, or `180 Ringing (INVITE)`.
    pub line: String,
    /// The whole message; nothing for audio.
    pub octets: Vec<u8>,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    pub state: State,
    /// What failed, or what went well.
    pub text: String,
    pub figures: Figures,
    pub thresholds: Vec<Threshold>,
    pub ladder: Vec<Step>,
    /// Messages that the ladder had no room for.
    pub left_out: u64,
    /// The audio that came, as linear samples at 8 kHz, where it was to be recorded.
    pub recording: Vec<i16>,
}

impl Report {
    /// A run that could not begin.
    pub fn unknown(text: String) -> Self {
        Self {
            state: State::Unknown,
            text,
            figures: Figures::default(),
            thresholds: Vec::new(),
            ladder: Vec::new(),
            left_out: 0,
            recording: Vec::new(),
        }
    }

    /// The line of a monitoring plugin: state, text, a bar, performance data. It holds no other bar and no control character.
    pub fn line(&self) -> String {
        let mut line = format!("SIP {} - {}", self.state.as_str(), one_line(&self.text));
        let data: Vec<String> = Figure::ALL.into_iter().filter_map(|figure| self.performance(figure)).collect();
        if !data.is_empty() {
            line.push_str(" | ");
            line.push_str(&data.join(" "));
        }
        line
    }

    /// The exit code of a monitoring plugin.
    pub fn exit_code(&self) -> u8 {
        self.state.exit_code()
    }

    /// All of it but the octets of the messages. Times in seconds, loss in per cent.
    pub fn json(&self) -> Value {
        let mut figures = Map::new();
        for figure in Figure::ALL {
            if let Some(value) = self.figures.value(figure) {
                figures.insert(figure.as_str().to_owned(), json!(value));
            }
        }
        let audio = self.figures.quality.as_ref().map(|quality| {
            json!({
                "received": quality.received,
                "expected": quality.expected,
                "lost": quality.lost,
                "r": quality.r,
                "tone": quality.tone,
                "until": self.figures.heard_until.map(|time| time.as_secs_f64()),
            })
        });
        let ladder: Vec<Value> = self
            .ladder
            .iter()
            .map(|step| {
                json!({
                    "at": step.at.as_secs_f64(),
                    "outgoing": step.outgoing,
                    "peer": step.peer.to_string(),
                    "line": step.line,
                })
            })
            .collect();
        json!({
            "state": self.state.as_str(),
            "exit_code": self.exit_code(),
            "text": one_line(&self.text),
            "figures": figures,
            "sent": self.figures.sent,
            "audio": audio,
            "ladder": ladder,
            "left_out": self.left_out,
        })
    }

    /// The ladder for readers: us on the left, the peer on the right. A line for each message.
    pub fn ladder_text(&self) -> String {
        ladder::text(&self.ladder, self.left_out)
    }

    /// `label=value[unit];warning;critical;least;greatest`, without what is empty at its end.
    fn performance(&self, figure: Figure) -> Option<String> {
        // A run that could not begin has measured nothing, not even its time.
        if self.ladder.is_empty() && self.figures.total.is_zero() {
            return None;
        }
        let value = self.figures.value(figure)?;
        let threshold = self.thresholds.iter().find(|threshold| threshold.figure == figure);
        let text = |range: Option<&Range>| range.map(Range::to_string).unwrap_or_default();
        let warning = text(threshold.and_then(|threshold| threshold.warning.as_ref()));
        let critical = text(threshold.and_then(|threshold| threshold.critical.as_ref()));
        let (least, greatest) = figure.bounds();
        let is_bounded = !greatest.is_empty() || threshold.is_some();
        let least = if is_bounded { least } else { "" };
        let digits = digits(figure, value);
        let mut data = format!("{}={digits}{};{warning};{critical};{least};{greatest}", figure.as_str(), figure.unit());
        data.truncate(data.trim_end_matches(';').len());
        Some(data)
    }
}

/// Decimals that say something: tenths of milliseconds where they count, hundredths of a score.
fn digits(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Loss => trimmed(format!("{value:.2}")),
        Figure::Mos => format!("{value:.2}"),
        Figure::Jitter => format!("{value:.4}"),
        Figure::Total => trimmed(format!("{value:.3}")),
        _ => format!("{value:.3}"),
    }
}

/// Without the zeros at the end of its decimals.
fn trimmed(mut digits: String) -> String {
    if digits.contains('.') {
        digits.truncate(digits.trim_end_matches('0').trim_end_matches('.').len());
    }
    digits
}

/// A time for readers: `7 s`, `0.31 s`.
pub(crate) fn seconds(time: Duration) -> String {
    // On the same machine an answer takes less than what is of interest elsewhere; nought would look like a mistake.
    let places = if time < Duration::from_millis(10) { 4 } else { 2 };
    trimmed(format!("{:.places$}", time.as_secs_f64())) + " s"
}

/// A short time for readers, to the millisecond: `0.012 s`.
pub(crate) fn precise_seconds(time: Duration) -> String {
    trimmed(format!("{:.3}", time.as_secs_f64())) + " s"
}

/// Whatever peers wrote, as a part of one line that a monitoring system takes apart at its bar.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    let mut characters = text.chars();
    for letter in characters.by_ref().take(TEXT_CHARACTERS) {
        line.push(match letter {
            '|' => '/',
            letter if letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}') => ' ',
            letter => letter,
        });
    }
    if characters.next().is_some() {
        line.push_str("...");
    }
    line
}

/// What the thresholds say: the worst state, and a text for each figure that is out of its range.
pub(crate) fn judge(figures: &Figures, thresholds: &[Threshold]) -> (State, String) {
    let mut state = State::Ok;
    let mut text = String::new();
    for threshold in thresholds {
        let Some(value) = figures.value(threshold.figure) else { continue };
        let out = |range: &&Range| range.alerts(value);
        let (found, range) = match (threshold.critical.as_ref().filter(out), threshold.warning.as_ref().filter(out)) {
            (Some(range), _) => (State::Critical, range),
            (None, Some(range)) => (State::Warning, range),
            (None, None) => continue,
        };
        if state != State::Critical {
            state = found;
        }
        let figure = threshold.figure;
        let digits = digits(figure, value);
        write!(text, ", {}={digits}{} is out of {range}", figure.as_str(), figure.unit())
            .expect("writing to a String cannot fail");
    }
    (state, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn threshold(figure: Figure, warning: &str, critical: &str) -> Threshold {
        let range = |text: &str| Range::parse(text).ok();
        Threshold { figure, warning: range(warning), critical: range(critical) }
    }

    fn report() -> Report {
        let step = Step {
            at: Duration::ZERO,
            outgoing: true,
            peer: SocketAddr::from(([10, 0, 0, 11], 5060)),
            line: "INVITE sip:clyde@10.0.0.11".to_owned(),
            octets: b"INVITE".to_vec(),
        };
        Report {
            state: State::Ok,
            text: "clyde@10.0.0.11 answered after 0.31 s".to_owned(),
            figures: Figures {
                register: Some(Duration::from_millis(12)),
                ring: Some(Duration::from_millis(20)),
                answer: Some(Duration::from_millis(310)),
                total: Duration::from_millis(2_600),
                sent: 100,
                heard_until: None,
                quality: None,
            },
            thresholds: vec![threshold(Figure::Answer, "2", "5"), threshold(Figure::Ring, "1", "")],
            ladder: vec![step],
            ..Report::unknown(String::new())
        }
    }

    #[test]
    fn the_line_is_as_the_guidelines_want_it() {
        assert_eq!(
            report().line(),
            "SIP OK - clyde@10.0.0.11 answered after 0.31 s | \
             register=0.012s ring=0.020s;1;;0 answer=0.310s;2;5;0 total=2.6s"
        );
    }

    #[test]
    fn a_run_that_did_not_begin_has_no_performance_data() {
        let report = Report::unknown("no such file".to_owned());
        assert_eq!(report.line(), "SIP UNKNOWN - no such file");
        assert_eq!(report.exit_code(), 3);
    }

    #[test]
    fn what_peers_write_cannot_break_the_line() {
        let text = format!("refused: 403 a|b\r\nc\0\u{2028}d{}", "x".repeat(1_000));
        let line = Report { text, ..report() }.line();
        assert_eq!(line.matches('|').count(), 1, "{line}");
        assert!(line.starts_with("SIP OK - refused: 403 a/b  c  dxxx"), "{line}");
        assert!(!line.chars().any(char::is_control), "{line}");
        assert!(line.chars().count() < 600, "{line}");
    }

    #[test]
    fn states_have_the_codes_of_plugins() {
        let states = [State::Ok, State::Warning, State::Critical, State::Unknown];
        assert_eq!(states.map(State::exit_code), [0, 1, 2, 3]);
        assert_eq!(states.map(State::as_str), ["OK", "WARNING", "CRITICAL", "UNKNOWN"]);
    }

    #[test]
    fn thresholds_judge_the_figures_that_were_reached() {
        let figures = report().figures;
        // Figure, warning, critical; what comes of it.
        let cases = [
            (Figure::Answer, "2", "5", State::Ok),
            (Figure::Answer, "0.3", "5", State::Warning),
            (Figure::Answer, "0.2", "0.3", State::Critical),
            (Figure::Answer, "@0.3:0.4", "", State::Warning),
            (Figure::Total, "", "2", State::Critical),
            (Figure::Mos, "4:", "3:", State::Ok),
        ];
        for (figure, warning, critical, state) in cases {
            let (found, text) = judge(&figures, &[threshold(figure, warning, critical)]);
            assert_eq!(found, state, "{figure:?} {warning} {critical}");
            assert_eq!(text.is_empty(), state == State::Ok, "{text}");
        }
        let both = [threshold(Figure::Total, "", "2"), threshold(Figure::Answer, "0.3", "")];
        let (state, text) = judge(&figures, &both);
        assert_eq!(state, State::Critical);
        assert_eq!(text, ", total=2.6s is out of 2, answer=0.310s is out of 0.3");
    }

    #[test]
    fn json_holds_figures_and_ladder() {
        let json = report().json();
        assert_eq!(json["state"], "OK");
        assert_eq!(json["exit_code"], 0);
        assert_eq!(json["figures"]["answer"], 0.31);
        assert_eq!(json["figures"].get("mos"), None);
        assert_eq!(json["audio"], Value::Null);
        assert_eq!(json["ladder"][0]["line"], "INVITE sip:clyde@10.0.0.11");
        assert_eq!(json["ladder"][0]["peer"], "10.0.0.11:5060");
    }

    #[test]
    fn times_are_short() {
        let cases = [(7_000, "7 s"), (310, "0.31 s"), (400, "0.4 s"), (9, "0.009 s"), (10, "0.01 s"), (10_000, "10 s")];
        for (millis, text) in cases {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
        assert_eq!(precise_seconds(Duration::from_micros(12_300)), "0.012 s");
    }
}
