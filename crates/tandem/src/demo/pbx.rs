//! What a PBX process does: a socket around `ua::Pbx`, and a line of JSON for everything that happens.

use super::boxes::Line;
use anyhow::{Context, Result};
use net::Clock;
use serde::{Deserialize, Serialize};
use sip::Instant;
use std::io::{self, ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use ua::{Output, Pbx, PbxEvent, PbxSettings};

/// What a PBX tells the demo. Users are named by the user part of their URI.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum Report {
    /// It receives from now on.
    Ready,
    Registered {
        user: String,
        contact: String,
    },
    Unregistered {
        user: String,
    },
    /// A call was answered.
    CallStarted {
        from: String,
        to: String,
    },
    /// An answered call is over.
    CallEnded {
        from: String,
        to: String,
    },
    AuthFailed {
        user: String,
    },
}

/// Serves until standard input ends: the process is gone then.
///
/// # Errors
/// The address cannot be used, a socket failed, or nobody reads what is written.
pub(crate) fn run(settings: PbxSettings) -> Result<()> {
    let address = settings.address;
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot listen at udp:{address}"))?;
    end_with_parent()?;
    let mut pbx = Pbx::new(settings, Clock::now().as_micros());
    let mut buffer = vec![0_u8; 65_535];
    tell(Clock::now(), Report::Ready)?;
    loop {
        let now = Clock::now();
        let wait = pbx.poll_timeout().map_or(LONGEST_WAIT, |due| due.saturating_since(now));
        // A zero would mean to wait for ever.
        let wait = wait.clamp(Duration::from_millis(1), LONGEST_WAIT);
        socket.set_read_timeout(Some(wait)).context("cannot set the time to wait for datagrams")?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => pbx.handle_datagram(Clock::now(), from, buffer.get(..length).unwrap_or_default()),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error).context("cannot receive"),
        }
        let now = Clock::now();
        if pbx.poll_timeout().is_some_and(|due| due <= now) {
            pbx.handle_timeout(now);
        }
        while let Some(output) = pbx.poll_output() {
            match output {
                Output::Send { to, bytes } => {
                    // What is lost here is sent again, as if it had been lost on the way.
                    let _sent = socket.send_to(&bytes, to);
                }
                Output::Event(event) => tell(now, Report::from(event))?,
            }
        }
    }
}

impl From<PbxEvent> for Report {
    fn from(event: PbxEvent) -> Self {
        match event {
            PbxEvent::Registered { user, contact } => Self::Registered { user, contact },
            PbxEvent::Unregistered { user } => Self::Unregistered { user },
            PbxEvent::CallStarted { from, to } => Self::CallStarted { from, to },
            PbxEvent::CallEnded { from, to } => Self::CallEnded { from, to },
            PbxEvent::AuthFailed { user } => Self::AuthFailed { user },
        }
    }
}

/// Ends this process when standard input does, and not at Ctrl-C, which reaches the whole terminal: the demo lets its calls end
/// first.
fn end_with_parent() -> Result<()> {
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGINT, ignored).context("cannot listen for signals")?;
    std::thread::Builder::new()
        .name("parent".to_owned())
        .spawn(|| {
            let mut rest = [0_u8; 64];
            loop {
                match io::stdin().read(&mut rest) {
                    Ok(length) if length > 0 => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    _ => std::process::exit(0),
                }
            }
        })
        .context("cannot start a thread")?;
    Ok(())
}

fn tell(now: Instant, report: Report) -> Result<()> {
    let line = Line { at: now.as_micros(), report };
    let text = serde_json::to_string(&line).context("cannot write an event")?;
    let mut output = io::stdout().lock();
    writeln!(output, "{text}").and_then(|()| output.flush()).context("nobody reads what this PBX tells")
}

/// Nothing came in time, or a signal or an ICMP error ended the wait.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
    )
}

const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pbx_writes_can_be_read() {
        let report = Report::CallStarted { from: "bonnie".to_owned(), to: "clyde".to_owned() };
        let line = Line { at: 7, report: report.clone() };
        let text = serde_json::to_string(&line).expect("a line is plain data");
        assert_eq!(text, r#"{"at":7,"event":"call-started","from":"bonnie","to":"clyde"}"#);
        let read: Line = serde_json::from_str(&text).expect("we can read what we write");
        assert_eq!((read.at, read.report), (7, report));
        let ready: Line = serde_json::from_str(r#"{"at":1,"event":"ready"}"#).expect("a report without fields");
        assert_eq!(ready.report, Report::Ready);
    }
}
