//! The log: one line for each thing that an operator wants to know of, on standard error.
//!
//! Lines are written by a thread of their own: a reader that is slow or stuck must never make the data plane wait, which tells of
//! its backends from its workers.

use super::lock;
use config::{LogFormat, LogLevel};
use serde_json::{Map, Value};
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

/// The log of a unit. Shared by all its threads.
pub(crate) struct Log {
    settings: Mutex<config::Log>,
    items: SyncSender<Item>,
    /// Lines that found the queue full.
    lost: AtomicU64,
}

/// One thing that happened.
pub(crate) struct Line<'a> {
    pub(crate) level: LogLevel,
    /// What kind of thing, for programs that read the log.
    pub(crate) event: &'static str,
    /// For people.
    pub(crate) message: &'a str,
    /// Further facts, for programs: the message says the same.
    pub(crate) fields: &'a [(&'static str, &'a str)],
}

enum Item {
    Line(String),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

impl Log {
    /// # Errors
    /// The system refused the thread.
    pub(crate) fn start(settings: config::Log) -> io::Result<Self> {
        let (items, queue) = mpsc::sync_channel(QUEUE);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&queue))?;
        Ok(Self { settings: Mutex::new(settings), items, lost: AtomicU64::new(0) })
    }

    /// Follows a new configuration.
    pub(crate) fn set(&self, settings: config::Log) {
        *lock(&self.settings) = settings;
    }

    pub(crate) fn error(&self, event: &'static str, message: &str) {
        self.write(&Line { level: LogLevel::Error, event, message, fields: &[] });
    }

    pub(crate) fn warn(&self, event: &'static str, message: &str) {
        self.write(&Line { level: LogLevel::Warn, event, message, fields: &[] });
    }

    pub(crate) fn info(&self, event: &'static str, message: &str) {
        self.write(&Line { level: LogLevel::Info, event, message, fields: &[] });
    }

    /// Never waits: a line that finds the queue full is counted, and the count is told with the next line.
    pub(crate) fn write(&self, line: &Line<'_>) {
        let settings = *lock(&self.settings);
        if line.level > settings.level {
            return;
        }
        let now = super::unix_ms();
        let mut text = String::new();
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("{lost} lines of the log were lost: standard error is not read fast enough");
            let line = Line { level: LogLevel::Warn, event: "LinesLost", message: &message, fields: &[] };
            text.push_str(&render(settings.format, now, &line));
            text.push('\n');
        }
        text.push_str(&render(settings.format, now, line));
        text.push('\n');
        if self.items.try_send(Item::Line(text)).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }

    /// Waits until all lines are written, for a moment at most.
    pub(crate) fn flush(&self) {
        let (done, written) = mpsc::sync_channel(1);
        if self.items.try_send(Item::Flush(done)).is_ok() {
            // Standard error that nobody reads must not keep the unit from ending.
            let _late = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

fn write_lines(queue: &Receiver<Item>) {
    for item in queue {
        match item {
            Item::Line(text) => {
                // There is nobody left to tell when standard error is gone.
                let _unread = io::stderr().lock().write_all(text.as_bytes());
            }
            Item::Flush(done) => {
                // Whoever asked may have stopped waiting.
                let _late = done.send(());
            }
        }
    }
}

fn render(format: LogFormat, unix_ms: u64, line: &Line<'_>) -> String {
    let time = rfc3339(unix_ms);
    match format {
        LogFormat::Text => {
            // One line is one thing, whatever a name or a message of the system holds.
            let message = line.message.replace(['\n', '\r'], " ");
            format!("{time} {:<5} {} {message}", line.level.name(), line.event)
        }
        LogFormat::Json => {
            let mut object = Map::new();
            object.insert("time".to_owned(), Value::from(time));
            object.insert("level".to_owned(), Value::from(line.level.name()));
            object.insert("event".to_owned(), Value::from(line.event));
            object.insert("message".to_owned(), Value::from(line.message));
            for (name, value) in line.fields {
                object.insert((*name).to_owned(), Value::from(*value));
            }
            Value::Object(object).to_string()
        }
    }
}

/// Unix time as RFC 3339 writes it, in UTC.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    let (days, in_day) = (unix_ms / DAY_MS, unix_ms % DAY_MS);
    let (year, month, day) = date(days);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1_000 % 60, in_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar: counted in eras of 400 years that begin on the first of
/// March, so that the leap day is the last of its year.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

const DAY_MS: u64 = 86_400_000;
/// Lines that wait to be written.
const QUEUE: usize = 1_024;
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &str) -> Line<'_> {
        Line { level: LogLevel::Warn, event: "BackendDown", message, fields: &[("backend", "pbx1")] }
    }

    #[test]
    fn times_are_read_by_people() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_767_225_599_001), "2025-12-31T23:59:59.001Z");
    }

    #[test]
    fn text_stays_on_its_line() {
        let text = render(LogFormat::Text, 0, &line("down\nwith it"));
        assert_eq!(text, "1970-01-01T00:00:00.000Z warn  BackendDown down with it");
    }

    #[test]
    fn json_is_one_object_with_the_facts() {
        let text = render(LogFormat::Json, 0, &line("down \"now\""));
        let value: Value = serde_json::from_str(&text).expect("the line is JSON");
        assert_eq!(value.get("level").and_then(Value::as_str), Some("warn"));
        assert_eq!(value.get("event").and_then(Value::as_str), Some("BackendDown"));
        assert_eq!(value.get("message").and_then(Value::as_str), Some("down \"now\""));
        assert_eq!(value.get("backend").and_then(Value::as_str), Some("pbx1"));
        assert!(!text.contains('\n'));
    }
}
