//! Checks under way, of all kinds, and what comes of them.

use super::connect::{self, Connected, Fault};
use super::exec::{self, Ended, Exit, Process};
use super::plan::Task;
use net::Clock;
use probe::shell::{JobId, Runner, StartError};
use probe::{Report, State};
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// Any number of checks at work, each known by a key. Nothing in it waits but [`Work::turn`].
pub(crate) struct Work<K> {
    runner: Runner,
    probes: Vec<(JobId, K)>,
    processes: Vec<(Process, K)>,
    connecting: Vec<(u64, K)>,
    connections: u64,
    tell: Sender<Connected>,
    told: Receiver<Connected>,
    /// Not yet handed out.
    done: Vec<(K, Outcome)>,
}

/// What came of a check.
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// In one line: what went well, or what failed.
    pub(crate) text: String,
    pub(crate) took: Duration,
    pub(crate) detail: Detail,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Good,
    /// Good, but the operator is told.
    Warning,
    Failed,
    /// The check could not be made: it says nothing of the backend.
    NotMade,
}

/// What it was read from.
pub(crate) enum Detail {
    Nothing,
    Report(Box<Report>),
    Ended(Ended),
}

impl<K> Work<K> {
    pub(crate) fn new() -> Self {
        let (tell, told) = mpsc::channel();
        Self {
            runner: Runner::new(),
            probes: Vec::new(),
            processes: Vec::new(),
            connecting: Vec::new(),
            connections: 0,
            tell,
            told,
            done: Vec::new(),
        }
    }

    /// Begins a check; what comes of it comes from [`Work::turn`], also where it cannot begin.
    pub(crate) fn start(&mut self, key: K, task: Result<Task, String>) {
        let failed = match task {
            Ok(Task::Probe(job)) => match self.runner.start(*job) {
                Ok(id) => return self.probes.push((id, key)),
                Err(fault) => of_start(&fault),
            },
            Ok(Task::Connect(goal)) => {
                self.connections += 1;
                match connect::start(self.connections, goal, self.tell.clone()) {
                    Ok(()) => return self.connecting.push((self.connections, key)),
                    Err(error) => Outcome::not_made(format!("no thread for the check: {error}")),
                }
            }
            Ok(Task::Exec(order)) => match exec::start(Clock::now(), &order) {
                Ok(process) => return self.processes.push((process, key)),
                Err(fault) => Outcome::not_made(fault),
            },
            Err(fault) => Outcome::not_made(fault),
        };
        self.done.push((key, failed));
    }

    /// Waits for what comes, `at_most` so long, and returns what came of checks.
    pub(crate) fn turn(&mut self, at_most: Duration) -> Vec<(K, Outcome)> {
        let wait = if !self.done.is_empty() {
            Duration::ZERO
        } else if self.processes.is_empty() && self.connecting.is_empty() {
            at_most
        } else {
            at_most.min(LOOK_EVERY)
        };
        let began = Clock::now();
        let reports = self.runner.turn(wait);
        let mut done = std::mem::take(&mut self.done);
        for (id, report) in reports {
            if let Some(at) = self.probes.iter().position(|(known, _)| *known == id) {
                let (_, key) = self.probes.swap_remove(at);
                done.push((key, of_report(report)));
            }
        }
        let is_serving = self.runner.running() > 0;
        let left = wait.saturating_sub(Clock::now().saturating_since(began));
        if done.is_empty() && !is_serving && !left.is_zero() {
            std::thread::sleep(left);
        }
        while let Ok((number, connected)) = self.told.try_recv() {
            if let Some(at) = self.connecting.iter().position(|(known, _)| *known == number) {
                let (_, key) = self.connecting.swap_remove(at);
                done.push((key, of_connection(connected)));
            }
        }
        self.look_at_processes(&mut done);
        done
    }

    /// Checks whose outcome is to come.
    pub(crate) fn running(&self) -> usize {
        self.probes.len() + self.processes.len() + self.connecting.len() + self.done.len()
    }

    /// Ends all of them early: probes take back what they began, programs are told to end, connections are forgotten.
    pub(crate) fn interrupt(&mut self) {
        self.runner.interrupt_all();
        let now = Clock::now();
        for (process, _) in &mut self.processes {
            process.stop(now);
        }
        let forgotten = std::mem::take(&mut self.connecting);
        for (_, key) in forgotten {
            self.done.push((key, Outcome::not_made("interrupted".to_owned())));
        }
    }

    /// Ends all of them, and gives probes and programs so long to take back what they began.
    pub(crate) fn end(mut self, at_most: Duration) {
        self.interrupt();
        let ends = Clock::now() + at_most;
        loop {
            let left = ends.saturating_since(Clock::now());
            let is_clearing_up = self.runner.running() > 0 || !self.processes.is_empty();
            if left.is_zero() || !is_clearing_up {
                return;
            }
            let _unheard = self.turn(left.min(LOOK_EVERY));
        }
    }

    fn look_at_processes(&mut self, done: &mut Vec<(K, Outcome)>) {
        let now = Clock::now();
        let mut at = 0;
        while let Some((process, _)) = self.processes.get_mut(at) {
            match process.turn(now) {
                Some(ended) => {
                    let (_, key) = self.processes.swap_remove(at);
                    done.push((key, of_program(ended)));
                }
                None => at += 1,
            }
        }
    }
}

impl Outcome {
    pub(crate) fn not_made(text: String) -> Self {
        Self { verdict: Verdict::NotMade, text: one_line(&text), took: Duration::ZERO, detail: Detail::Nothing }
    }

    /// `None`: it says nothing of the backend.
    pub(crate) fn is_good(&self) -> Option<bool> {
        match self.verdict {
            Verdict::Good | Verdict::Warning => Some(true),
            Verdict::Failed => Some(false),
            Verdict::NotMade => None,
        }
    }
}

fn of_start(fault: &StartError) -> Outcome {
    let text = one_line(&fault.to_string());
    // Nobody reaches a box that no way leads to.
    let verdict = if matches!(fault, StartError::NoRoute { .. }) { Verdict::Failed } else { Verdict::NotMade };
    Outcome { verdict, text, took: Duration::ZERO, detail: Detail::Nothing }
}

fn of_report(report: Report) -> Outcome {
    let verdict = match report.state {
        State::Ok => Verdict::Good,
        State::Warning => Verdict::Warning,
        State::Critical => Verdict::Failed,
        State::Unknown => Verdict::NotMade,
    };
    let (text, took) = (one_line(&report.text), report.figures.total);
    Outcome { verdict, text, took, detail: Detail::Report(Box::new(report)) }
}

fn of_connection(connected: Result<Duration, Fault>) -> Outcome {
    match connected {
        Ok(took) => Outcome { verdict: Verdict::Good, text: "connected".to_owned(), took, detail: Detail::Nothing },
        Err(Fault::Theirs(text)) => {
            let text = one_line(&text);
            Outcome { verdict: Verdict::Failed, text, took: Duration::ZERO, detail: Detail::Nothing }
        }
        Err(Fault::Ours(text)) => Outcome::not_made(text),
    }
}

/// By the guidelines of monitoring plugins, of which 3 says that the plugin itself could not do its work; by those of shells, 126 and
/// 127 say that there is none. Whatever else is no 0 and no 1 has failed.
fn of_program(ended: Ended) -> Outcome {
    let said = one_line(ended.first_line());
    let (verdict, text) = match ended.exit {
        Exit::Code(0) if said.is_empty() => (Verdict::Good, "exit code 0".to_owned()),
        Exit::Code(0) => (Verdict::Good, said),
        Exit::Code(1) => (Verdict::Warning, told("exit code 1", &said)),
        Exit::Code(code @ (3 | 126 | 127)) => (Verdict::NotMade, told(&format!("exit code {code}"), &said)),
        Exit::Code(code) => (Verdict::Failed, told(&format!("exit code {code}"), &said)),
        // Somebody else ended it: whoever stops a unit with all of its processes, or the kernel for want of memory. 0: nobody knows.
        Exit::Signal(signal @ (0 | SIGINT | SIGKILL | SIGTERM)) => {
            (Verdict::NotMade, told(&format!("ended by signal {signal}"), &said))
        }
        Exit::Signal(signal) => (Verdict::Failed, told(&format!("ended by signal {signal}"), &said)),
        Exit::Stopped => (Verdict::NotMade, "interrupted".to_owned()),
        Exit::Overran => {
            let seconds = ended.took.as_secs_f64();
            (Verdict::Failed, told(&format!("it did not end in time and was stopped after {seconds:.1} s"), &said))
        }
    };
    Outcome { verdict, text, took: ended.took, detail: Detail::Ended(ended) }
}

fn told(what: &str, said: &str) -> String {
    if said.is_empty() { what.to_owned() } else { format!("{what}: {said}") }
}

/// What others wrote, fit for a log: one line of a bearable length without control characters.
pub(crate) fn one_line(text: &str) -> String {
    let plain = text.chars().map(|character| if character.is_control() { ' ' } else { character });
    plain.take(LINE_CHARACTERS).collect::<String>().trim().to_owned()
}

/// Programs and connections are looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const LINE_CHARACTERS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::guardians::exec::Order;

    fn ended(exit: Exit, output: &str) -> Ended {
        Ended { exit, took: Duration::from_millis(2_040), output: output.to_owned(), errors: String::new() }
    }

    #[test]
    fn programs_are_judged_as_plugins_are() {
        for (exit, output, verdict, text) in [
            (Exit::Code(0), "OK - fine | a=1\nmore", Verdict::Good, "OK - fine"),
            (Exit::Code(0), "", Verdict::Good, "exit code 0"),
            (Exit::Code(1), "slow", Verdict::Warning, "exit code 1: slow"),
            (Exit::Code(2), "no answer", Verdict::Failed, "exit code 2: no answer"),
            (Exit::Code(3), "no such file", Verdict::NotMade, "exit code 3: no such file"),
            (Exit::Code(4), "", Verdict::Failed, "exit code 4"),
            (Exit::Code(127), "", Verdict::NotMade, "exit code 127"),
            (Exit::Code(255), "\x1b[31mred", Verdict::Failed, "exit code 255: [31mred"),
            (Exit::Signal(11), "", Verdict::Failed, "ended by signal 11"),
            (Exit::Signal(9), "", Verdict::NotMade, "ended by signal 9"),
            (Exit::Signal(15), "", Verdict::NotMade, "ended by signal 15"),
            (Exit::Overran, "", Verdict::Failed, "it did not end in time and was stopped after 2.0 s"),
        ] {
            let outcome = of_program(ended(exit, output));
            assert_eq!((outcome.verdict, outcome.text.as_str()), (verdict, text), "{exit:?}");
        }
    }

    #[test]
    fn only_what_tells_of_the_backend_counts() {
        let of = |state| {
            let mut report = Report::unknown("text".to_owned());
            report.state = state;
            of_report(report).is_good()
        };
        assert_eq!(
            [State::Ok, State::Warning, State::Critical, State::Unknown].map(of),
            [Some(true), Some(true), Some(false), None]
        );
        let fault = |fault| of_connection(Err(fault)).is_good();
        assert_eq!(fault(Fault::Theirs("closed".to_owned())), Some(false));
        assert_eq!(fault(Fault::Ours("no file".to_owned())), None);
        assert_eq!(of_start(&StartError::TooMany { running: 9 }).is_good(), None);
        let unreachable = StartError::NoRoute { to: ([192, 0, 2, 1], 5060).into(), error: "no".to_owned() };
        assert_eq!(of_start(&unreachable).is_good(), Some(false));
    }

    #[test]
    fn lines_of_others_are_cut_to_a_bearable_length() {
        assert_eq!(one_line(" a\nb\tc\u{7f} "), "a b c");
        for (length, kept) in [(300, 300), (301, 300)] {
            assert_eq!(one_line(&"ü".repeat(length)).chars().count(), kept);
        }
    }

    fn shell(text: &str) -> Result<Task, String> {
        let words = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        Ok(Task::Exec(Order { words, environment: Vec::new(), timeout: Duration::from_secs(30) }))
    }

    #[test]
    fn every_check_that_was_begun_is_told_once() {
        let mut work = Work::new();
        for (key, text) in [(1, "exit 0"), (2, "exit 2"), (3, "exit 1")] {
            work.start(key, shell(text));
        }
        work.start(4, Err("no password".to_owned()));
        let mut told = Vec::new();
        let gives_up = Clock::now() + Duration::from_secs(20);
        while work.running() > 0 {
            assert!(Clock::now() < gives_up, "{told:?}");
            told.extend(work.turn(LOOK_EVERY).into_iter().map(|(key, outcome)| (key, outcome.verdict)));
        }
        told.sort_by_key(|(key, _)| *key);
        let expected = [(1, Verdict::Good), (2, Verdict::Failed), (3, Verdict::Warning), (4, Verdict::NotMade)];
        assert_eq!(told, expected);
        assert!(work.turn(Duration::ZERO).is_empty());
    }

    #[test]
    fn an_interruption_ends_programs_soon() {
        let mut work = Work::new();
        work.start(1, shell("sleep 60"));
        let began = Clock::now();
        work.interrupt();
        while work.running() > 0 {
            assert!(work.turn(LOOK_EVERY).iter().all(|(_, outcome)| outcome.verdict == Verdict::NotMade));
            assert!(Clock::now().saturating_since(began) < Duration::from_secs(20));
        }
        work.start(2, shell("sleep 60"));
        work.end(Duration::from_secs(2));
        assert!(Clock::now().saturating_since(began) < Duration::from_secs(20));
    }

    #[test]
    fn programs_take_back_what_they_began_before_the_end() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let calls = folder.path().join("calls");
        let file = calls.display();
        let mut work = Work::new();
        work.start(1, shell(&format!("trap 'sleep 0.3; rm {file}; exit 0' TERM; echo up > {file}; sleep 60 & wait")));
        let gives_up = Clock::now() + Duration::from_secs(20);
        while !calls.exists() {
            assert!(Clock::now() < gives_up && work.turn(LOOK_EVERY).is_empty(), "the program does not call");
        }
        work.end(Duration::from_millis(2_500));
        assert!(!calls.exists(), "its call is still up");
    }
}
