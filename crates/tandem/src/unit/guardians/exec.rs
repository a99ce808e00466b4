//! A check by a program of the operator: any that ends with a code as the plugins of Nagios do.
//!
//! The program runs in a process group of its own and has a mark in its environment. When its time is over, or nobody wants to know any
//! more, it is told to end (SIGTERM) with all that it started, as there may be something to take back, and is killed a while later. What
//! it left behind when it ends by itself is killed at once. The group's number cannot be another's by then: signals are sent while the
//! program, ended or not, still holds it.

use super::mark::Mark;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use sip::Instant;
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

/// What is to be run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Order {
    /// The program and its arguments; not empty.
    pub(crate) words: Vec<String>,
    /// Variables that it gets besides ours.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) timeout: Duration,
}

/// A program under way. Dropped, it is killed with all that it started.
pub(crate) struct Process {
    child: Child,
    /// The group has the number of its first process.
    group: Pid,
    /// Of those that left the group.
    mark: Mark,
    began: Instant,
    stage: Stage,
    /// When those that outlive it are looked for again.
    look: Instant,
    output: Captured<ChildStdout>,
    errors: Captured<ChildStderr>,
    is_reaped: bool,
}

/// What became of a program.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    pub(crate) took: Duration,
    /// The beginning of what it wrote.
    pub(crate) output: String,
    pub(crate) errors: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Code(i32),
    /// It ended by this signal, which was not ours.
    Signal(i32),
    /// Its time was over.
    Overran,
    /// Nobody wanted to know any more.
    Stopped,
}

enum Stage {
    Runs {
        until: Instant,
    },
    /// It was told to end. However it does, it counts as `exit`.
    Stopping {
        until: Instant,
        exit: Exit,
    },
    Killed {
        exit: Exit,
    },
}

/// The beginning of a stream; what comes after it is read and dropped, so that the writer is not held up.
struct Captured<R> {
    source: Option<R>,
    kept: Vec<u8>,
}

/// Starts a program.
///
/// # Errors
/// It cannot be run at all.
pub(crate) fn start(now: Instant, order: &Order) -> Result<Process, String> {
    let Some((name, arguments)) = order.words.split_first() else {
        return Err("the command is empty".to_owned());
    };
    let mut command = match own_check_sip(name, std::env::var_os("PATH").as_deref()) {
        Some(own) => {
            let mut command = Command::new(own);
            command.arg("check-sip");
            command
        }
        None => Command::new(name),
    };
    let mark = Mark::new(now);
    let variables = order.environment.iter().map(|(name, value)| (*name, value.as_str()));
    command.args(arguments).envs(variables.chain([mark.variable()]));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot run `{name}`: {error}"))?;
    let number = i32::try_from(child.id()).expect("the kernel's numbers have 22 bits");
    let (output, errors) = (child.stdout.take(), child.stderr.take());
    Ok(Process {
        child,
        group: Pid::from_raw(number),
        mark,
        began: now,
        stage: Stage::Runs { until: now + order.timeout },
        look: now,
        output: Captured { source: output, kept: Vec::new() },
        errors: Captured { source: errors, kept: Vec::new() },
        is_reaped: false,
    })
}

impl Process {
    /// Takes what it wrote, and ends it when its time is over; to be called many times a second, until it has ended.
    pub(crate) fn turn(&mut self, now: Instant) -> Option<Ended> {
        self.output.read();
        self.errors.read();
        if self.has_ended() && !self.is_outlived(now) {
            let by_itself = self.reap();
            self.output.read();
            self.errors.read();
            let exit = match self.stage {
                Stage::Runs { .. } => by_itself,
                Stage::Stopping { exit, .. } | Stage::Killed { exit } => exit,
            };
            return Some(Ended {
                exit,
                took: now.saturating_since(self.began),
                output: self.output.text(),
                errors: self.errors.text(),
            });
        }
        match self.stage {
            Stage::Runs { until } if until <= now => self.tell(now, Exit::Overran),
            Stage::Stopping { until, exit } if until <= now => {
                self.signal(Signal::SIGKILL);
                self.stage = Stage::Killed { exit };
            }
            Stage::Runs { .. } | Stage::Stopping { .. } | Stage::Killed { .. } => {}
        }
        None
    }

    /// Ends it before its time with all that it started; it is still to be waited for.
    pub(crate) fn stop(&mut self, now: Instant) {
        // Who was told is not told again: to many programs a second signal means to leave everything as it is.
        if matches!(self.stage, Stage::Runs { .. }) {
            self.tell(now, Exit::Stopped);
        }
    }

    fn tell(&mut self, now: Instant, exit: Exit) {
        self.signal(Signal::SIGTERM);
        self.stage = Stage::Stopping { until: now + GRACE, exit };
    }

    /// Whether others of it still clear up: a shell that is told to end goes before what it called.
    fn is_outlived(&mut self, now: Instant) -> bool {
        let Stage::Stopping { until, .. } = self.stage else { return false };
        if until <= now {
            return false;
        }
        if self.look <= now {
            self.look = now + LOOK_EVERY;
            return self.mark.is_held();
        }
        true
    }

    /// Whether it has ended, while it still holds its number.
    fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.group), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => false,
            // Of a child that cannot be asked for nothing more will be heard.
            Ok(_) | Err(_) => true,
        }
    }

    /// The first process has ended: what is left of its group goes with it.
    fn reap(&mut self) -> Exit {
        self.signal(Signal::SIGKILL);
        self.is_reaped = true;
        self.child.wait().map_or(Exit::Signal(0), exit_of)
    }

    fn signal(&self, signal: Signal) {
        if !self.is_reaped {
            // Nobody is left in the group, or all of it has become another user's: there is nothing to be done about either.
            let _unsent = killpg(self.group, signal);
            self.mark.signal_outside(self.group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        self.signal(Signal::SIGKILL);
        // Soon, unless the kernel itself holds it: that must not hold us.
        for _ in 0..DROP_LOOKS {
            if self.has_ended() {
                self.reap();
                return;
            }
            std::thread::sleep(DROP_PAUSE);
        }
    }
}

impl Ended {
    /// What the operator reads: the first line that it wrote, without the figures behind it, which plugins of Nagios put after a bar.
    pub(crate) fn first_line(&self) -> &str {
        first_line(&self.output).or_else(|| first_line(&self.errors)).unwrap_or_default()
    }
}

impl<R: Read + AsFd> Captured<R> {
    /// Takes what is there, without waiting for more.
    fn read(&mut self) {
        // A program that never stops writing must not keep us here.
        for _ in 0..READS {
            let Some(source) = &mut self.source else { return };
            if !is_readable(source) {
                return;
            }
            let mut chunk = [0; 4_096];
            match source.read(&mut chunk) {
                Ok(length) if length > 0 => {
                    let room = OUTPUT_BYTES.saturating_sub(self.kept.len());
                    let taken = chunk.get(..length.min(room)).unwrap_or_default();
                    self.kept.extend_from_slice(taken);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.source = None,
            }
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

fn first_line(text: &str) -> Option<&str> {
    let lines = text.lines().map(|line| line.split('|').next().unwrap_or(line));
    lines.map(str::trim).find(|line| !line.is_empty())
}

fn is_readable(source: &impl AsFd) -> bool {
    let mut asked = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
    // The end of a stream is read as well: it shows as a hang-up.
    poll(&mut asked, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}

/// Our own program, where `check_sip` is asked for and `path` has none: command lines that name it work without it being installed.
fn own_check_sip(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    if name != CHECK_SIP || path.is_some_and(has_check_sip) {
        return None;
    }
    // What runs, even where an upgrade has put another file in its place.
    Some(PathBuf::from(OWN_PROGRAM))
}

fn has_check_sip(path: &OsStr) -> bool {
    std::env::split_paths(path).any(|folder| is_program(&folder.join(CHECK_SIP)))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|known| known.is_file() && known.permissions().mode() & 0o111 != 0)
}

const CHECK_SIP: &str = "check_sip";
const OWN_PROGRAM: &str = "/proc/self/exe";
/// Between being told to end and being killed.
const GRACE: Duration = Duration::from_millis(1_500);
/// All processes of the machine are looked through for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What is kept of each stream.
const OUTPUT_BYTES: usize = 4_096;
/// A pipe holds 64 KiB.
const READS: usize = 32;
const DROP_LOOKS: usize = 100;
const DROP_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;
    use net::Clock;
    use std::fs;

    fn script(text: &str, timeout: Duration) -> Order {
        let words = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        let environment = vec![("TANDEM_HOST", "192.0.2.7".to_owned()), ("TANDEM_NAME", "pbx1".to_owned())];
        Order { words, environment, timeout }
    }

    fn run(text: &str, timeout: Duration) -> Ended {
        let order = script(text, timeout);
        let mut process = start(Clock::now(), &order).expect("there is a shell");
        let gives_up = Clock::now() + Duration::from_secs(20);
        loop {
            if let Some(ended) = process.turn(Clock::now()) {
                return ended;
            }
            assert!(Clock::now() < gives_up, "{text} does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn patient(text: &str) -> Ended {
        run(text, Duration::from_secs(15))
    }

    /// It is there and no zombie. A zombie here would be init's to reap.
    fn is_alive(process: &str) -> bool {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:"));
        state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
    }

    fn dies(process: &str) -> bool {
        (0..400).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            !is_alive(process)
        })
    }

    fn written(file: &Path) -> String {
        (0..400)
            .find_map(|_| {
                std::thread::sleep(Duration::from_millis(5));
                fs::read_to_string(file).ok().filter(|text| text.ends_with('\n'))
            })
            .expect("the script writes it")
            .trim()
            .to_owned()
    }

    #[test]
    fn a_program_ends_with_its_code_and_its_words() {
        let ended = patient("echo \"OK - $TANDEM_NAME at $TANDEM_HOST\"; echo second; echo trouble >&2");
        assert_eq!(ended.exit, Exit::Code(0));
        assert_eq!(ended.output, "OK - pbx1 at 192.0.2.7\nsecond\n");
        assert_eq!((ended.errors.as_str(), ended.first_line()), ("trouble\n", "OK - pbx1 at 192.0.2.7"));
        for code in [1, 2, 3, 127] {
            assert_eq!(patient(&format!("exit {code}")).exit, Exit::Code(code));
        }
        assert_eq!(patient("kill -9 $$").exit, Exit::Signal(9));
        assert_eq!(patient("echo; echo ' trouble ' >&2; exit 2").first_line(), "trouble");
        assert_eq!(patient("echo 'SIP OK - answered | answer=0.1s;2;5;0'").first_line(), "SIP OK - answered");
        assert_eq!(patient("read line && exit 9; exit 0").exit, Exit::Code(0), "there is nothing to read");
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let order = Order { words: vec!["/nowhere/check".to_owned()], environment: Vec::new(), timeout: GRACE };
        let fault = start(Clock::now(), &order).err().unwrap_or_default();
        assert!(fault.starts_with("cannot run `/nowhere/check`: "), "{fault}");
        let empty = Order { words: Vec::new(), ..order };
        assert!(start(Clock::now(), &empty).is_err());
    }

    #[test]
    fn output_beyond_the_limit_is_dropped_and_the_program_goes_on() {
        for (octets, kept) in [(4_095, 4_095), (4_096, 4_096), (4_097, 4_096), (300_000, 4_096)] {
            let ended = patient(&format!("head -c {octets} /dev/zero | tr '\\0' x; exit 1"));
            assert_eq!((ended.exit, ended.output.len()), (Exit::Code(1), kept), "{octets}");
        }
    }

    #[test]
    fn an_overrun_is_killed_with_its_children() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("child");
        let grandchild = format!("sh -c 'echo $$ > {}; exec sleep 60' & wait", file.display());
        for (text, at_least) in [(grandchild.clone(), 500), (format!("trap '' TERM; {grandchild}"), 2_000)] {
            let _none = fs::remove_file(&file);
            let ended = run(&text, Duration::from_millis(500));
            assert_eq!(ended.exit, Exit::Overran, "{text}");
            assert!(ended.took >= Duration::from_millis(at_least), "{text}: {:?}", ended.took);
            let child = written(&file);
            assert!(dies(&child), "{text}: {child} is left over");
        }
    }

    #[test]
    fn children_that_left_the_group_are_killed_too() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("child");
        let child = format!("sh -c 'echo $$ > {}; exec sleep 60'", file.display());
        for (text, exit) in [
            (format!("setsid {child} & sleep 60"), Exit::Overran),
            (format!("trap '' TERM; setsid {child} & sleep 60"), Exit::Overran),
            (format!("timeout 60 {child}; exit 1"), Exit::Overran),
            (format!("setsid {child} & until [ -s {} ]; do sleep 0.01; done", file.display()), Exit::Code(0)),
        ] {
            let _none = fs::remove_file(&file);
            let limit = if exit == Exit::Overran { 500 } else { 15_000 };
            let ended = run(&text, Duration::from_millis(limit));
            assert_eq!(ended.exit, exit, "{text}: {}", ended.errors);
            let child = written(&file);
            assert!(dies(&child), "{text}: {child} is left over");
        }
    }

    #[test]
    fn who_is_told_to_end_has_time_to_clear_up() {
        let clears_up = "trap \"sleep 0.3; echo hung up; exit 0\" TERM; echo talking; sleep 60 & wait";
        for text in
            [clears_up.to_owned(), format!("sh -c '{clears_up}' & wait"), format!("setsid sh -c '{clears_up}'; :")]
        {
            let ended = run(&text, Duration::from_millis(500));
            assert_eq!((ended.exit, ended.output.as_str()), (Exit::Overran, "talking\nhung up\n"), "{text}");
            assert!(ended.took < Duration::from_millis(500) + GRACE, "{text} was killed after {:?}", ended.took);
        }
    }

    #[test]
    fn who_is_stopped_is_told_once_and_killed_later() {
        for (text, output, is_killed) in [
            ("trap 'echo once' TERM; echo up; for i in 1 2 3 4 5 6 7; do sleep 0.1; done", "up\nonce\n", false),
            ("trap '' TERM; echo up; sleep 60", "up\n", true),
        ] {
            let mut process = start(Clock::now(), &script(text, Duration::from_secs(60))).expect("there is a shell");
            let gives_up = Clock::now() + Duration::from_secs(20);
            let mut stopped: Option<Instant> = None;
            let ended = loop {
                if process.output.text() == "up\n" {
                    stopped.get_or_insert_with(Clock::now);
                    process.stop(Clock::now());
                }
                if let Some(ended) = process.turn(Clock::now()) {
                    break ended;
                }
                assert!(Clock::now() < gives_up, "{text} does not end");
                std::thread::sleep(Duration::from_millis(5));
            };
            let took = Clock::now().saturating_since(stopped.expect("it said that it is up"));
            assert_eq!((ended.exit, ended.output.as_str()), (Exit::Stopped, output), "{text}");
            assert_eq!(took >= GRACE, is_killed, "{text}: {took:?}");
        }
    }

    #[test]
    fn what_a_program_leaves_behind_is_killed_when_it_ends() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("child");
        let ended = patient(&format!(
            "sh -c 'echo $$ > {0}; exec sleep 60' & until [ -s {0} ]; do sleep 0.01; done",
            file.display()
        ));
        assert_eq!(ended.exit, Exit::Code(0), "{}", ended.errors);
        let child = written(&file);
        assert!(dies(&child), "{child} is left over");
    }

    #[test]
    fn a_program_that_nobody_waits_for_is_killed_and_reaped() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("child");
        let order = script(&format!("echo $$ > {}; sleep 60", file.display()), Duration::from_secs(60));
        let process = start(Clock::now(), &order).expect("there is a shell");
        let child = written(&file);
        assert!(is_alive(&child));
        drop(process);
        assert!(!Path::new(&format!("/proc/{child}")).exists(), "not even a zombie is left");
    }

    #[test]
    fn our_own_program_stands_in_for_check_sip_alone() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().as_os_str().to_owned();
        assert!(own_check_sip("check_http", Some(&path)).is_none());
        assert!(own_check_sip("/usr/lib/nagios/plugins/check_sip", Some(&path)).is_none());
        assert_eq!(own_check_sip(CHECK_SIP, Some(&path)), Some(PathBuf::from(OWN_PROGRAM)));
        assert_eq!(own_check_sip(CHECK_SIP, None), Some(PathBuf::from(OWN_PROGRAM)));
        let installed = folder.path().join(CHECK_SIP);
        fs::write(&installed, "#!/bin/sh\n").expect("the folder is ours");
        assert!(own_check_sip(CHECK_SIP, Some(&path)).is_some(), "it is no program");
        fs::set_permissions(&installed, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        assert!(own_check_sip(CHECK_SIP, Some(&path)).is_none());
    }
}
