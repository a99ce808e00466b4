//! `tandem check-sip` against servers that fail in every way, and beside it the check that it stands in for: a sample of Net::SIP, run
//! with the same command line against the same servers. What is expected of both stands in `check_sip/rows.rs`, and becomes the table
//! in `docs/check-sip.md`.

mod document;
mod rows;
mod servers;
mod unanswered;
mod wire;

use crate::common::capture::{Capture, Whole};
use crate::common::{Process, holds_within, namespace, peer};
use rows::{ROWS, Row, Theirs, Time};
use servers::Place;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Each server is met by either check at an address of its own, so that what was on the wire tells them apart.
#[test]
fn every_failure_is_told_in_time_and_nothing_is_left_behind() {
    let peers = ["sipp", "kamailio", "tshark"];
    if peers.iter().any(|program| peer(program).is_none()) {
        return;
    }
    let has_original = peer("perl").is_some() && peer(NET_SIP).is_some();
    if !namespace() {
        return;
    }
    let folder = tempfile::tempdir().expect("the temporary folder can be written");
    let bench = Bench::new(folder.path());
    let capture = Capture::start(folder.path());
    let tasks = tasks(has_original);
    let runs = bench.run_all(&tasks);
    let all = capture.finish_whole();
    let faults: Vec<String> = runs.iter().flat_map(|(task, run)| task.faults(run, &all)).collect();
    assert!(faults.is_empty(), "{} of {} runs:\n{}", faults.len(), runs.len(), faults.join("\n"));
    assert_eq!(runs.len(), tasks.len(), "every case was tried");
}

#[test]
fn a_wrong_command_line_is_told_as_a_plugin_tells_it() {
    for words in ["", "sip:bonnie@example.com", "--nonsense a b", "-T soon a b", "-w answer=fast a b", "a sip:c@ -R -"]
    {
        let output = check_sip(words);
        let (line, aside) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(3), "{words}: {line}{aside}");
        assert!(is_one_line(&line) && line.starts_with("SIP UNKNOWN - "), "{words}: {line}");
    }
    let output = check_sip("-h");
    let help = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    for option in ["-P", "-R", "-S", "-L", "-T", "--username", "--password", "-d"] {
        assert!(help.contains(option), "{option} is not in the help:\n{help}");
    }
}

/// After a wanted change of a row: `TANDEM_BLESS=1 cargo test -p tandem --test real the_table`.
#[test]
fn the_table_of_failures_is_the_one_in_the_documents() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/check-sip.md");
    let wanted = document::text();
    if std::env::var_os("TANDEM_BLESS").is_some() {
        std::fs::write(&file, &wanted).expect("the document can be written");
        return;
    }
    let found = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
    assert!(found == wanted, "docs/check-sip.md is not what the rows say, first {differs:?}: run with TANDEM_BLESS=1");
}

/// Which of both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Check {
    Ours,
    Original,
}

/// One check is to be tried in one case: the place of its row.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Task {
    check: Check,
    row: usize,
}

/// What became of a task.
struct Run {
    /// `None`: it did not end by itself, or by a signal.
    exit: Option<i32>,
    time: Duration,
    output: String,
    errors: String,
    /// What the server did not expect.
    surprise: Option<String>,
}

/// The longest ones first, so that none is left at the end alone.
fn tasks(has_original: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    for (at, row) in ROWS.iter().enumerate().filter(|(_, row)| has_original || !row.needs_original()) {
        tasks.push(Task { check: Check::Ours, row: at });
        if has_original && matches!(row.theirs, Theirs::Run { .. }) {
            tasks.push(Task { check: Check::Original, row: at });
        }
    }
    tasks.sort_by_key(|task| task.time() != Time::Limit);
    tasks
}

impl Task {
    fn row(self) -> &'static Row {
        ROWS.get(self.row).expect("a task is made of a row")
    }

    fn time(self) -> Time {
        let row = self.row();
        match (self.check, &row.theirs) {
            (Check::Original, Theirs::Run { time, .. }) => *time,
            _ => row.ours.time,
        }
    }

    /// A host of this task alone; the kind keeps hosts of one task apart.
    fn host(self, kind: usize) -> String {
        let check = if self.check == Check::Ours { 1 } else { 2 };
        format!("127.{check}.{kind}.{}", self.row + 1)
    }

    fn place(self) -> Place {
        Place { peer: self.host(1), beside: self.host(2) }
    }

    /// What is not as the row says.
    fn faults(self, run: &Run, all: &[Whole]) -> Vec<String> {
        let row = self.row();
        let address = |host: String| host.parse::<IpAddr>().expect("it is made of numbers");
        let wire = wire::between(all, address(self.host(1)), address(self.host(2)));
        let (exit, wanted_wire) = match (self.check, &row.theirs) {
            (Check::Original, Theirs::Run { exit, wire, .. }) => (*exit, *wire),
            _ => (row.ours.exit, row.ours.wire),
        };
        let mut faults = Vec::new();
        if run.exit != Some(exit) {
            faults.push(format!("exit status {:?} instead of {exit}", run.exit));
        }
        if !is_like(&wire, wanted_wire) {
            faults.push(format!("on the wire: {wire}\n    instead of:  {wanted_wire}"));
        }
        let (shortest, longest) = self.bounds();
        if run.time < shortest || run.time > longest {
            faults.push(format!("took {:?} instead of {shortest:?} to {longest:?}", run.time));
        }
        if self.check == Check::Ours {
            let wanted = row.ours.line.replace("HOST", &self.host(1));
            let text = run.output.split(" | ").next().unwrap_or_default().trim_end_matches('\n');
            if !is_one_line(&run.output) || !is_like(text, &wanted) {
                faults.push(format!("said:       {:?}\n    instead of: {wanted}", run.output));
            }
            // Who waits in vain until the end repeats himself, and a server that is done with the call wonders at that.
            let surprise = run.surprise.iter().filter(|_| self.time() != Time::Limit);
            faults.extend(surprise.map(|told| format!("the server: {told}")));
        }
        let (check, what, errors) = (self.check, row.what, run.errors.trim_end());
        faults.iter().map(|fault| format!("{check:?}, {what}: {fault}\n    {errors}")).collect()
    }

    /// The least and the greatest time that it may take.
    fn bounds(self) -> (Duration, Duration) {
        let limit = Duration::from_secs(self.row().limit());
        match self.time() {
            Time::AtOnce => (Duration::ZERO, AT_ONCE),
            Time::Audio => (AUDIO, limit + SLACK),
            Time::Limit => (limit * 2 / 3, limit + SLACK),
            Time::Interrupted => (INTERRUPTED_AFTER, INTERRUPTED_AFTER + AT_ONCE),
        }
    }
}

/// Where the checks lie, and what they say in calls.
struct Bench {
    folder: PathBuf,
    ours: PathBuf,
    original: PathBuf,
}

impl Bench {
    fn new(folder: &Path) -> Self {
        // By the name that the appliance's command line has for it.
        let ours = folder.join("check_sip");
        symlink(PROGRAM, &ours).expect("the folder is ours");
        for (name, seconds) in [("AUDIO", 2), ("SHORT", 1), ("LONG", 30)] {
            let mut octets = Vec::new();
            sip::g711::encode_ulaw(&sip::g711::tone(1_004.0, 8_000, seconds * 8_000, 8_000), &mut octets);
            std::fs::write(folder.join(name), octets).expect("the folder is ours");
        }
        Self { folder: folder.to_path_buf(), ours, original: original(folder) }
    }

    /// Some at a time.
    fn run_all(&self, tasks: &[Task]) -> BTreeMap<Task, Run> {
        let next = AtomicUsize::new(0);
        let runs = Mutex::new(BTreeMap::new());
        std::thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let run = self.run(*task);
                        runs.lock().expect("nobody panics who holds it").insert(*task, run);
                    }
                });
            }
        });
        runs.into_inner().expect("nobody panics who holds it")
    }

    fn run(&self, task: Task) -> Run {
        let row = task.row();
        let server = row.server.start(&self.folder, &task.place());
        let mut command = match task.check {
            Check::Ours => Command::new(&self.ours),
            Check::Original => Command::new("perl"),
        };
        if task.check == Check::Original {
            command.arg(&self.original);
        }
        command.args(self.words(task)).env_remove("TANDEM_PASSWORD");
        let begun = Instant::now();
        let mut process = Process::start(&mut command, &format!("{:?}-{}", task.check, task.row), &self.folder);
        if task.time() == Time::Interrupted {
            std::thread::sleep(INTERRUPTED_AFTER);
            process.signal("INT");
        }
        let patience = task.bounds().1 + SLACK;
        let is_over = holds_within(patience, || !process.is_running());
        let time = begun.elapsed();
        let exit = if is_over { process.wait(SLACK).code() } else { None };
        let (output, errors) = (process.output(), process.errors());
        Run { exit, time, output, errors, surprise: server.surprise() }
    }

    fn words(&self, task: Task) -> Vec<String> {
        let file = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let whole = task.row().words().replace("HOST", &task.host(1)).replace("OWN", &task.host(3));
        let is_file = |word: &str| ["AUDIO", "SHORT", "LONG", "NONE"].contains(&word);
        whole.split(' ').map(|word| if is_file(word) { file(word) } else { word.to_owned() }).collect()
    }
}

/// The sample of Net::SIP where Debian's documents are installed, packed or not; else our own script that does the same.
fn original(folder: &Path) -> PathBuf {
    for place in ["", "samples/", "examples/", "examples/bin/"] {
        let sample = Path::new("/usr/share/doc/libnet-sip-perl").join(format!("{place}invite_and_send.pl"));
        if sample.is_file() {
            return sample;
        }
        let packed = sample.with_extension("pl.gz");
        if packed.is_file()
            && let Ok(output) = Command::new("gzip").arg("-dc").arg(&packed).output()
            && output.status.success()
        {
            let file = folder.join("invite_and_send.pl");
            std::fs::write(&file, output.stdout).expect("the folder is ours");
            return file;
        }
    }
    servers::data().join("call.pl")
}

fn check_sip(words: &str) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg("check-sip").args(words.split_whitespace());
    command.output().expect("the program was built for this test")
}

/// `…` in the pattern stands for anything.
fn is_like(text: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.is_empty() || pattern.ends_with('…')
}

fn is_one_line(text: &str) -> bool {
    text.ends_with('\n') && text.lines().count() == 1
}

#[test]
fn a_pattern_leaves_open_what_it_does_not_say() {
    for (text, pattern, is) in [
        ("after 0.3 s, MOS 4.4", "after … s, MOS …", true),
        ("after 0.3 s, MOS 4.4, but", "after … s, MOS …, but", true),
        ("after 0.3 s, MOS 4.4, but", "after … s", false),
        ("INVITE, ACK; the call stays", "INVITE, ACK", false),
        ("INVITE, ACK", "INVITE, ACK", true),
    ] {
        assert_eq!(is_like(text, pattern), is, "{text} as {pattern}");
    }
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_tandem");
const NET_SIP: &str = "/usr/share/perl5/Net/SIP.pm";
/// Runs at a time: most of them wait most of the time.
const AT_A_TIME: usize = 6;
/// Far less than the limit, and more than a busy machine takes to start both sides.
const AT_ONCE: Duration = Duration::from_secs(4);
/// The shortest audio.
const AUDIO: Duration = Duration::from_secs(2);
/// What a busy machine may take on top of a limit.
const SLACK: Duration = Duration::from_secs(3);
const INTERRUPTED_AFTER: Duration = Duration::from_millis(1_200);
