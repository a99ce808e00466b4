//! The two PBX processes.

use super::pbx::Report;
use super::places::Places;
use super::{BOXES, DOMAIN, GUEST, PEOPLE};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sip::Instant;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::Sender;

/// What happens outside of this thread.
pub(super) enum News {
    /// A PBX tells something that happened at this moment.
    Box { name: &'static str, at: Instant, report: Report },
    /// A PBX has ended, killed or not.
    BoxGone { name: &'static str },
    /// The balancer tells something.
    Engine(engine::Event),
}

/// One line that a PBX writes.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Line {
    /// Microseconds of the clock that all processes of the machine share.
    pub(super) at: u64,
    #[serde(flatten)]
    pub(super) report: Report,
}

/// The PBX processes, killed when dropped.
pub(super) struct Boxes {
    running: Vec<PbxProcess>,
}

struct PbxProcess {
    name: &'static str,
    child: Child,
    stopped: bool,
}

impl Boxes {
    /// Starts both and waits until each of them listens. What they tell from then on goes to `told`.
    pub(super) fn start(places: &Places, told: &Sender<News>) -> Result<Self> {
        let mut boxes = Self { running: Vec::new() };
        for (name, address) in BOXES.into_iter().zip(places.boxes) {
            let child = spawn(name, address, places.farm)?;
            boxes.running.push(PbxProcess { name, child, stopped: false });
            let output = boxes.running.last_mut().and_then(|started| started.child.stdout.take());
            let mut output = BufReader::new(output.context("a PBX has no standard output")?);
            let mut line = String::new();
            output.read_line(&mut line).with_context(|| format!("cannot read from {name}"))?;
            if line.is_empty() {
                bail!("{name} did not start at udp:{address}");
            }
            let told = told.clone();
            std::thread::Builder::new()
                .name(format!("{name}-reader"))
                .spawn(move || read_reports(name, output, &told))
                .context("cannot start a thread")?;
        }
        Ok(boxes)
    }

    /// Kills a PBX (SIGKILL). False if it was stopped before.
    pub(super) fn stop(&mut self, name: &str) -> Result<bool> {
        let Some(found) = self.running.iter_mut().find(|pbx| pbx.name == name && !pbx.stopped) else {
            return Ok(false);
        };
        found.stopped = true;
        found.child.kill().with_context(|| format!("cannot kill {name}"))?;
        found.child.wait().with_context(|| format!("cannot wait for {name}"))?;
        Ok(true)
    }

    pub(super) fn is_stopped(&self, name: &str) -> bool {
        self.running.iter().any(|pbx| pbx.name == name && pbx.stopped)
    }
}

impl Drop for Boxes {
    fn drop(&mut self) {
        for pbx in self.running.iter_mut().filter(|pbx| !pbx.stopped) {
            // Each fails only where the process has ended already, which is what is wanted.
            let _killed = pbx.child.kill();
            let _waited = pbx.child.wait();
        }
    }
}

/// A process of this very program. It ends when the pipe to its standard input closes, so that it never outlives us.
fn spawn(name: &str, address: SocketAddr, farm: SocketAddr) -> Result<Child> {
    let program = std::env::current_exe().context("cannot find the file of this program")?;
    let mut command = Command::new(program);
    command.args(["demo-pbx", "--name", name, "--domain", DOMAIN]).args([
        "--listen",
        &address.to_string(),
        "--farm",
        &farm.to_string(),
    ]);
    let users = PEOPLE.iter().map(|person| (person.user, person.password));
    for (user, password) in users.chain([GUEST]) {
        command.args(["--user", &format!("{user}:{password}")]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {name}"))
}

/// Passes on what a PBX writes until it ends, or until nobody listens any more.
fn read_reports(name: &'static str, output: BufReader<ChildStdout>, told: &Sender<News>) {
    for line in output.lines().map_while(Result::ok) {
        // Both ends are this program: a line that cannot be read is the last one of a process that was killed.
        let Ok(Line { at, report }) = serde_json::from_str::<Line>(&line) else {
            continue;
        };
        if told.send(News::Box { name, at: Instant::from_micros(at), report }).is_err() {
            return;
        }
    }
    // Nobody listens once the demo is over.
    let _listening = told.send(News::BoxGone { name });
}
