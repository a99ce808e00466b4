//! What is seen of the demo.

use super::call::{Audio, Outcome, Verdict};
use super::places::Places;
use super::{BOXES, DOMAIN, GUEST, PEOPLE, Stop};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Standard output, with colours where it is a terminal.
pub(super) struct Screen {
    has_colours: bool,
    closed: bool,
}

/// How a piece of text is shown on a terminal (ECMA-48 §8.3.117).
#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Good,
    Bad,
    Warning,
}

impl Screen {
    pub(super) fn new() -> Self {
        // https://no-color.org
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { has_colours: io::stdout().is_terminal() && !refused, closed: false }
    }

    /// Nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// What is where.
    pub(super) fn header(&mut self, places: &Places, pcap: Option<&Path>) {
        let title = self.styled(Style::Bold, "tandem demo: two PBXs behind one address");
        self.line(&title);
        self.line("");
        self.line(&format!("  balancer  udp:{}, tls:{}", places.farm, places.farm_tls));
        for (name, address) in BOXES.into_iter().zip(places.boxes) {
            self.line(&format!("  {name:<8}  udp:{address}"));
        }
        let phones = PEOPLE.iter().zip(places.phones).zip(places.media);
        for ((person, phone), media) in phones {
            let (user, hertz) = (person.user, person.hertz);
            let phone = if person.is_over_tls { format!("tls, from {}", phone.ip()) } else { format!("udp:{phone}") };
            self.line(&format!("  {user:<8}  {phone}  audio {media}, a tone of {hertz} Hz"));
        }
        self.line("");
        self.line(&format!(
            "  Any softphone on this machine can join: user {}, password {}, server {}",
            GUEST.0, GUEST.1, places.farm
        ));
        self.line(&format!("  and call sip:clyde@{} or sip:bonnie@{}", places.farm, places.farm));
        let accounts: Vec<String> =
            PEOPLE.iter().map(|person| format!("{} (password {})", person.user, person.password)).collect();
        self.line(&format!("  Both PBXs know {} and {} of {DOMAIN}", accounts.join(", "), GUEST.0));
        if let Some(path) = pcap {
            self.line(&format!("  All SIP and RTP goes to {}", path.display()));
        }
        self.line("");
    }

    /// The first call follows.
    pub(super) fn begin(&mut self) {
        let hint = self.styled(Style::Dim, "  Bonnie and Clyde call each other in turn; Ctrl-C ends the demo");
        self.line(&hint);
    }

    pub(super) fn note(&mut self, text: &str) {
        let text = self.styled(Style::Dim, &format!("  {text}"));
        self.line(&text);
    }

    pub(super) fn alarm(&mut self, text: &str) {
        let text = self.styled(Style::Warning, &format!("  {text}"));
        self.line(&text);
    }

    /// One call in one line.
    pub(super) fn call(&mut self, outcome: &Outcome) {
        let parties = format!("{} → {}", outcome.from, outcome.to);
        let text = format!(
            "call {:>3}  {parties:<15}  via {:<11}  rings {:>7}  answered {:>7}  audio {} there, {} back, {} lost  ",
            outcome.number,
            via(outcome),
            milliseconds(outcome.rings_after),
            milliseconds(outcome.answered_after),
            packets(outcome.there),
            packets(outcome.back),
            outcome.there.lost + outcome.back.lost,
        );
        let verdict = self.verdict(&outcome.verdict);
        self.line(&format!("{text}{verdict}"));
    }

    /// All calls, and their sum. `unreached`: stops that the demo ended before.
    pub(super) fn table(&mut self, outcomes: &[Outcome], unreached: &[Stop]) {
        self.line("");
        let head = format!(
            "{:>4}  {:<7} {:<7} {:<11} {:>8} {:>9} {:>12} {:>12} {:>5}  result",
            "call", "from", "to", "via", "rings", "answered", "audio there", "audio back", "lost"
        );
        let head = self.styled(Style::Bold, &head);
        self.line(&head);
        for outcome in outcomes {
            let row = format!(
                "{:>4}  {:<7} {:<7} {:<11} {:>8} {:>9} {:>12} {:>12} {:>5}  ",
                outcome.number,
                outcome.from,
                outcome.to,
                via(outcome),
                milliseconds(outcome.rings_after),
                milliseconds(outcome.answered_after),
                packets(outcome.there),
                packets(outcome.back),
                outcome.there.lost + outcome.back.lost,
            );
            let verdict = self.verdict(&outcome.verdict);
            self.line(&format!("{row}{verdict}"));
        }
        let count = |wanted: fn(&Verdict) -> bool| outcomes.iter().filter(|outcome| wanted(&outcome.verdict)).count();
        let good = count(|verdict| *verdict == Verdict::Good);
        let cut = count(|verdict| matches!(verdict, Verdict::Cut(_)));
        let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
        self.line("");
        self.line(&format!("calls: {}, good: {good}, cut by a stop: {cut}, failed: {failed}", outcomes.len()));
        for stop in unreached {
            self.alarm(&format!(
                "{} was not stopped: the demo ended before {} s were over",
                stop.name,
                stop.after.as_secs_f64()
            ));
        }
    }

    fn verdict(&self, verdict: &Verdict) -> String {
        match verdict {
            Verdict::Good => self.styled(Style::Good, "good"),
            Verdict::Cut(complaint) => self.styled(Style::Warning, &format!("cut by the stop ({complaint})")),
            Verdict::Interrupted => self.styled(Style::Dim, "interrupted"),
            Verdict::Failed(complaint) => self.styled(Style::Bad, &format!("failed: {complaint}")),
        }
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.has_colours { format!("\x1b[{}m{text}\x1b[0m", style.code()) } else { text.to_owned() }
    }

    fn line(&mut self, text: &str) {
        let mut output = io::stdout().lock();
        let written = writeln!(output, "{text}").and_then(|()| output.flush());
        self.closed |= written.is_err();
    }
}

impl Style {
    fn code(self) -> u8 {
        match self {
            Self::Bold => 1,
            Self::Dim => 2,
            Self::Good => 32,
            Self::Bad => 31,
            Self::Warning => 33,
        }
    }
}

fn via(outcome: &Outcome) -> &str {
    if outcome.via.is_empty() { "-" } else { &outcome.via }
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{} ms", time.as_millis()))
}

fn packets(audio: Audio) -> String {
    format!("{} of {}", audio.heard, audio.sent)
}
