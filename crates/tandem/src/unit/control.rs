//! The control socket: one JSON object a line asks, one JSON object a line answers. Only the user of the unit may ask.
//!
//! ```text
//! {"do":"status"}                                        the whole of `Status`
//! {"do":"explain","message":HEX,"source":"IP:PORT","listener":"udp:IP:PORT"}    {"steps":[…],"verdict":"…"}
//! {"do":"reload"}                                        {"changes":[…]}
//! {"do":"events","last":N}                               {"events":[…]}, the oldest first; without "last" all that are kept
//! ```
//! Source and listener may be left out. An answer with the key "error" says why there is no other.

use super::Unit;
use super::events::{KEPT, KeptEvent};
use crate::hex;
use anyhow::{Context, bail};
use net::Clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sip::Instant;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What may be asked.
#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "do", rename_all = "lowercase")]
pub(crate) enum Request {
    Status,
    Explain {
        /// The message, as hexadecimal digits.
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source: Option<SocketAddr>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listener: Option<String>,
    },
    Reload,
    Events {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last: Option<usize>,
    },
}

/// The answer to [`Request::Events`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Happened {
    pub(crate) events: Vec<KeptEvent>,
}

/// The answer to [`Request::Explain`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Explained {
    pub(crate) steps: Vec<String>,
    pub(crate) verdict: String,
}

/// Where the unit with this state folder is asked.
pub(crate) fn path_in(state_dir: &Path) -> PathBuf {
    state_dir.join("control.sock")
}

/// Opens the socket. The caller holds the lock of the folder, so that a socket found there is left over.
///
/// # Errors
/// The system refused; most often the path is too long for a socket.
pub(crate) fn open(state_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = path_in(state_dir);
    // There is none after a proper end.
    let _none = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .with_context(|| format!("cannot open the control socket {} (at most 107 characters)", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot close the control socket {} to others", path.display()))?;
    Ok(listener)
}

/// Answers until the process ends, each connection in a thread of its own.
pub(crate) fn serve(listener: &UnixListener, unit: &Arc<Unit>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: others need the time to close theirs.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        let seat = Seat(Arc::clone(&open));
        if seat.0.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS {
            refuse(stream);
            continue;
        }
        let unit = Arc::clone(unit);
        // Without a thread the connection closes, and whoever asked says so.
        let _started = std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            let _seat = seat;
            // An error here is the other end's: it is gone, slow, or speaks something else.
            let _ended = converse(stream, &unit);
        });
    }
}

/// Asks the unit with this state folder.
///
/// # Errors
/// There is no such unit, it does not answer, or its answer is an error.
pub(crate) fn ask(state_dir: &Path, request: &Request) -> anyhow::Result<Value> {
    let path = path_in(state_dir);
    let mut stream = UnixStream::connect(&path).with_context(|| no_unit(&path))?;
    let answer =
        exchange(&mut stream, request).with_context(|| format!("the unit at {} does not answer", path.display()))?;
    let answer: Value = serde_json::from_str(&answer)
        .with_context(|| format!("the unit at {} closed the connection", path.display()))?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("the unit at {} says: {error}", path.display());
    }
    Ok(answer)
}

fn exchange(stream: &mut UnixStream, request: &Request) -> io::Result<String> {
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).take(ANSWER_BYTES).read_line(&mut answer)?;
    Ok(answer)
}

/// Holds a place among the connections.
struct Seat(Arc<AtomicUsize>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn no_unit(path: &Path) -> String {
    format!(
        "no unit answers at {}: start one with `tandem run`, or name its folder with --state-dir or its file with --config",
        path.display()
    )
}

fn refuse(mut stream: UnixStream) {
    let error = json!({ "error": format!("more than {CONNECTIONS} connections at a time") });
    // The buffer of a new connection has room for it.
    let _gone = writeln!(stream, "{error}");
}

fn converse(mut stream: UnixStream, unit: &Unit) -> io::Result<()> {
    stream.set_write_timeout(Some(REQUEST_TIMEOUT))?;
    let mut received = Vec::new();
    while let Some(line) = read_line(&mut stream, &mut received, Clock::now() + REQUEST_TIMEOUT)? {
        let mut text = answer(unit, &line).to_string();
        text.push('\n');
        stream.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn answer(unit: &Unit, line: &[u8]) -> Value {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return json!({ "error": format!("not a request: {error}") }),
    };
    match request {
        Request::Status => json!(unit.status(Clock::now())),
        Request::Explain { message, source, listener } => {
            let Some(bytes) = hex::decode(&message) else {
                return json!({ "error": "the message is not hexadecimal" });
            };
            match unit.explain(&bytes, listener.as_deref(), source) {
                Ok(explanation) => json!(Explained { steps: explanation.steps, verdict: explanation.verdict }),
                Err(error) => json!({ "error": error }),
            }
        }
        Request::Reload => match unit.reload() {
            Ok(changes) => json!({ "changes": changes }),
            Err(error) => json!({ "error": error }),
        },
        Request::Events { last } => json!(Happened { events: unit.last_events(last.unwrap_or(KEPT)) }),
    }
}

/// The next line without its end; `None` at the end of the connection. `received` keeps what came after the line.
fn read_line(stream: &mut UnixStream, received: &mut Vec<u8>, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
    let mut chunk = [0; 8_192];
    loop {
        if let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            let rest = received.split_off(end + 1);
            let mut line = std::mem::replace(received, rest);
            line.pop();
            return Ok(Some(line));
        }
        if received.len() > REQUEST_BYTES {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        }
        let left = deadline.saturating_since(Clock::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(length) => received.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const CONNECTIONS: usize = 16;
/// A message of 65,535 octets in hexadecimal digits, and the rest of the object.
const REQUEST_BYTES: usize = 256 << 10;
/// For one line to come whole, and for its answer to be taken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A reload opens sockets and may take a moment.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Thousands of backends.
const ANSWER_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Clock::now() + Duration::from_millis(200)
    }

    #[test]
    fn lines_are_taken_one_by_one() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.write_all(b"one\ntwo\nthr").expect("the buffer has room");
        let mut received = Vec::new();
        assert_eq!(read_line(&mut ours, &mut received, soon()).expect("a line"), Some(b"one".to_vec()));
        assert_eq!(read_line(&mut ours, &mut received, soon()).expect("a line"), Some(b"two".to_vec()));
        drop(theirs);
        assert_eq!(read_line(&mut ours, &mut received, soon()).expect("the end"), None);
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.write_all(b"half").expect("the buffer has room");
        let mut received = Vec::new();
        assert!(read_line(&mut ours, &mut received, soon()).is_err(), "the time is over");
        received = vec![b'x'; REQUEST_BYTES + 1];
        let error = read_line(&mut ours, &mut received, soon()).expect_err("it is too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn requests_are_read_as_documented() {
        let read = |text: &str| serde_json::from_str::<Request>(text);
        assert!(matches!(read("{\"do\":\"status\"}"), Ok(Request::Status)));
        assert!(matches!(read("{\"do\":\"reload\"}"), Ok(Request::Reload)));
        let explain = read("{\"do\":\"explain\",\"message\":\"00\",\"source\":\"192.0.2.1:5060\"}");
        assert!(matches!(explain, Ok(Request::Explain { source: Some(_), listener: None, .. })));
        assert!(matches!(read("{\"do\":\"events\",\"last\":7}"), Ok(Request::Events { last: Some(7) })));
        assert!(matches!(read("{\"do\":\"events\"}"), Ok(Request::Events { last: None })));
        assert!(read("{\"do\":\"events\",\"last\":-1}").is_err());
        assert!(read("{\"do\":\"stop\"}").is_err());
    }
}
