//! Looking after boxes: what calls with audio and OPTIONS cost the unit, and how soon a box that died is found.
//!
//! The boxes are threads of this program, on the core of the generator. Twenty of them die at moments strewn over an interval,
//! and the time of each runs until the unit's log says that it is down.

mod far_end;

use super::grid::Grid;
use super::outcome::Outcome;
use super::process::{self, Running};
use super::requirement::Requirement;
use super::status;
use super::{BALANCER, BALANCER_CORE, Bench, Part};
use anyhow::{Context, Result};
use far_end::{FarEnd, Heard};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// One way of looking after many boxes.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Watch {
    name: &'static str,
    /// In the table.
    title: &'static str,
    boxes: usize,
    interval_s: u32,
    timeout_s: u32,
    /// Further lines of the guardian.
    check: &'static str,
    /// Of one core, at most.
    percent: f64,
}

/// What was found out about it.
#[derive(Clone, PartialEq, Debug)]
struct Figures {
    watch: Watch,
    /// The share of one core that the unit used.
    cores: f64,
    rss: u64,
    heard: Heard,
    /// By the unit's own counts, before a box died.
    failed: u64,
    not_made: u64,
    waited: u64,
    /// Of each box that died, in seconds; `None`: the unit did not find out.
    found_s: Vec<Option<f64>>,
    /// Boxes that the unit took for dead, and were not.
    mistaken: u64,
}

/// A box that is to die.
#[derive(Clone, Copy, Debug)]
struct Death {
    index: usize,
    /// After the start.
    at: Duration,
    died: Option<Instant>,
    found: Option<Duration>,
}

pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let mut measured = Vec::new();
    for watch in WATCHES {
        measured.push(measure(bench, &watch)?);
    }
    Ok(outcome(&measured))
}

fn measure(bench: &Bench<'_>, watch: &Watch) -> Result<Figures> {
    println!("    {}: {} boxes every {} s, for {} s", watch.title, watch.boxes, watch.interval_s, MEASURED.as_secs());
    bench.interrupt.check()?;
    let far = FarEnd::start(watch.boxes)?;
    let folder = bench.folder.join(Part::Health.name()).join(watch.name);
    let running = start(bench, &folder, &watch.config(&folder))?;
    // Each box has had its first check by then.
    bench.interrupt.sleep(watch.interval() + SETTLED)?;
    let before = counters(bench, &folder)?;
    let (heard, cpu, began) = (far.heard(), running.cpu(), Instant::now());
    bench.interrupt.sleep(MEASURED)?;
    let (cpu, seconds) = (running.cpu().saturating_sub(cpu), began.elapsed().as_secs_f64());
    let heard = far.heard().since(heard);
    let after = counters(bench, &folder)?;
    let grown = |names: &[&str]| names.iter().map(|name| counter(&after, name) - counter(&before, name)).sum::<u64>();
    let mut figures = Figures {
        watch: *watch,
        cores: cpu.as_secs_f64() / seconds,
        rss: running.rss(),
        heard,
        failed: grown(&["checks_failed", "ping_failures"]),
        not_made: grown(&["checks_not_made"]),
        waited: grown(&["checks_waited"]),
        found_s: Vec::new(),
        mistaken: 0,
    };
    println!("    {:.2} % of a core; now {DEATHS} boxes die", 100.0 * figures.cores);
    let deaths = watch_them_die(bench, watch, &far, &running)?;
    figures.found_s = deaths.iter().map(|death| death.found.map(|time| time.as_secs_f64())).collect();
    let dead: BTreeSet<String> = deaths.iter().map(|death| name(death.index)).collect();
    figures.mistaken = told_down(&running.said()).filter(|name| !dead.contains(*name)).count() as u64;
    println!("    found after {:.2} s on average, {:.2} s at most", figures.mean_s(), figures.longest_s());
    Ok(figures)
}

/// Starts the unit on its core; returns when it listens.
fn start(bench: &Bench<'_>, folder: &Path, config: &str) -> Result<Running> {
    std::fs::create_dir_all(folder)?;
    let (file, path) = (folder.join("tandem.toml"), folder.join("log"));
    std::fs::write(&file, config)?;
    let log = File::create(&path)?;
    let child = process::taskset(None)
        .args(["-c", BALANCER_CORE])
        .arg(bench.tandem())
        .args(["run", "--config"])
        .arg(&file)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start taskset (package util-linux)")?;
    Running::wait_for_port(child, &path, PORT)
}

/// The counters of `tandem status --json`.
fn counters(bench: &Bench<'_>, folder: &Path) -> Result<Value> {
    let printed = status::printed(bench, folder)?;
    let mut status: Value = serde_json::from_slice(&printed).context("tandem status printed no JSON")?;
    Ok(status.get_mut("counters").map(Value::take).unwrap_or_default())
}

/// One that is not there has not been needed.
fn counter(counters: &Value, name: &str) -> u64 {
    let named = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some(name);
    let found = counters.as_array().into_iter().flatten().find(named);
    found.and_then(|entry| entry.get("value")).and_then(Value::as_u64).unwrap_or(0)
}

/// Lets boxes die and waits until the unit's log tells of each, or gives up.
fn watch_them_die(bench: &Bench<'_>, watch: &Watch, far: &FarEnd, running: &Running) -> Result<Vec<Death>> {
    let mut deaths = deaths(watch);
    let began = Instant::now();
    let gives_up = watch.interval() + 2 * watch.limit();
    while deaths.iter().any(|death| death.found.is_none()) && began.elapsed() < gives_up {
        for death in deaths.iter_mut().filter(|death| death.died.is_none() && death.at <= began.elapsed()) {
            far.kill(death.index);
            death.died = Some(Instant::now());
        }
        let said = running.said();
        let down: BTreeSet<&str> = told_down(&said).collect();
        for death in &mut deaths {
            if let (Some(died), None) = (death.died, death.found)
                && down.contains(name(death.index).as_str())
            {
                death.found = Some(died.elapsed());
            }
        }
        bench.interrupt.sleep(LOOK_EVERY)?;
    }
    Ok(deaths)
}

/// Boxes from all over the list, at moments strewn over an interval. The same in every run.
fn deaths(watch: &Watch) -> Vec<Death> {
    let micros = u64::from(watch.interval_s) * 1_000_000;
    let mut random = SEED;
    let mut draw = || {
        // Marsaglia's xorshift with 64 bits.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let death = |number: usize| Death {
        index: number * watch.boxes / DEATHS,
        at: Duration::from_micros(draw() % micros),
        died: None,
        found: None,
    };
    (0..DEATHS).map(death).collect()
}

/// The backends that the unit's log says are down.
fn told_down(log: &str) -> impl Iterator<Item = &str> {
    log.lines().filter_map(|line| {
        let (_, told) = line.split_once(" BackendDown ")?;
        told.split_once("backend ")?.1.split(' ').next()
    })
}

fn name(index: usize) -> String {
    format!("box{index}")
}

impl Watch {
    fn interval(&self) -> Duration {
        Duration::from_secs(u64::from(self.interval_s))
    }

    /// By when a dead box has to be found.
    fn limit_s(&self) -> f64 {
        1.1 * f64::from(FALL) * f64::from(self.interval_s) + f64::from(self.timeout_s)
    }

    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.limit_s())
    }

    fn config(&self, folder: &Path) -> String {
        let mut text = format!(
            "[unit]\nstate_dir = \"{}\"\nworkers = 1\n\n[[farm]]\nname = \"bench\"\nlisten = [\"udp:{BALANCER}\"]\n\n\
             [[farm.service]]\nname = \"default\"\nguardians = [\"watch\"]\n",
            folder.display()
        );
        for index in 0..self.boxes {
            let (name, address) = (name(index), far_end::address(index));
            text.push_str(&format!("\n[[farm.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n"));
        }
        let Self { interval_s, timeout_s, check, .. } = self;
        text.push_str(&format!(
            "\n[[guardian]]\nname = \"watch\"\ninterval = \"{interval_s}s\"\ntimeout = \"{timeout_s}s\"\nfall = {FALL}\n{check}"
        ));
        text
    }
}

impl Figures {
    /// Checks that came to the boxes.
    fn checks(&self) -> u64 {
        self.heard.options + self.heard.calls
    }

    /// How many should have come.
    fn wanted(&self) -> u64 {
        self.watch.boxes as u64 * MEASURED.as_secs() / u64::from(self.watch.interval_s)
    }

    fn times(&self) -> impl Iterator<Item = f64> {
        self.found_s.iter().flatten().copied()
    }

    /// Of the boxes that were found.
    fn mean_s(&self) -> f64 {
        self.times().sum::<f64>() / self.times().count().max(1) as f64
    }

    fn longest_s(&self) -> f64 {
        self.times().fold(0.0, f64::max)
    }

    fn faults(&self) -> Vec<String> {
        let title = self.watch.title;
        let lost = self.found_s.iter().filter(|found| found.is_none()).count();
        let few = 10 * self.checks() < 9 * self.wanted();
        let told = |is_fault: bool, text: String| is_fault.then(|| format!("{title}: {text}"));
        let counted = |count: u64, what: &str| told(count > 0, format!("{count} {what}"));
        let faults = [
            told(few, format!("{} checks came, and not about {}", self.checks(), self.wanted())),
            counted(self.not_made, "checks could not be made"),
            counted(self.mistaken, "boxes were taken for dead and were not"),
            told(lost > 0, format!("{lost} of {} dead boxes were not found", self.found_s.len())),
        ];
        faults.into_iter().flatten().collect()
    }

    fn json(&self) -> Value {
        json!({
            "check": self.watch.name,
            "boxes": self.watch.boxes,
            "interval_s": self.watch.interval_s,
            "cores": self.cores,
            "rss_bytes": self.rss,
            "options": self.heard.options,
            "calls": self.heard.calls,
            "calls_ended": self.heard.ended,
            "audio_packets": self.heard.packets,
            "checks_failed": self.failed,
            "checks_not_made": self.not_made,
            "checks_waited": self.waited,
            "found_s": self.found_s,
            "limit_s": self.watch.limit_s(),
            "mistaken": self.mistaken,
        })
    }
}

fn outcome(measured: &[Figures]) -> Outcome {
    Outcome {
        part: Part::Health,
        grids: vec![cost(measured), detection(measured)],
        requirements: measured.iter().flat_map(requirements).collect(),
        void: None,
        faults: measured.iter().flat_map(Figures::faults).collect(),
        figures: json!({ "checks": measured.iter().map(Figures::json).collect::<Vec<Value>>() }),
    }
}

fn cost(measured: &[Figures]) -> Grid {
    let title = format!("looking after boxes for {} s", MEASURED.as_secs());
    let columns = ["", "boxes", "every s", "checks", "failed", "audio packets", "RSS MB", "% of a core"];
    let mut grid = Grid::new(&title, &columns);
    for figures in measured {
        grid.row([
            figures.watch.title.to_string(),
            figures.watch.boxes.to_string(),
            figures.watch.interval_s.to_string(),
            figures.checks().to_string(),
            figures.failed.to_string(),
            figures.heard.packets.to_string(),
            format!("{:.1}", super::megabytes(figures.rss)),
            format!("{:.2}", 100.0 * figures.cores),
        ]);
    }
    grid
}

fn detection(measured: &[Figures]) -> Grid {
    let title = format!("{DEATHS} boxes that die at moments strewn over an interval: until the unit says so");
    let columns = ["", "found", "mean s", "longest s", "1.1 x fall x interval + timeout s"];
    let mut grid = Grid::new(&title, &columns);
    for figures in measured {
        grid.row([
            figures.watch.title.to_string(),
            figures.times().count().to_string(),
            format!("{:.2}", figures.mean_s()),
            format!("{:.2}", figures.longest_s()),
            format!("{:.1}", figures.watch.limit_s()),
        ]);
    }
    grid
}

fn requirements(figures: &Figures) -> [Requirement; 3] {
    let Watch { title, boxes, interval_s, percent, .. } = figures.watch;
    let found = !figures.found_s.is_empty() && figures.found_s.iter().all(Option::is_some);
    [
        Requirement::at_most(
            format!("CPU time for {title} to {boxes} boxes every {interval_s} s"),
            percent,
            " % of a core",
            Some(100.0 * figures.cores),
        ),
        Requirement::at_most(
            format!("checks of living boxes by {title} that failed"),
            0.0,
            "",
            Some(figures.failed as f64),
        ),
        Requirement::at_most(
            format!("longest time until a dead box is found by {title}"),
            figures.watch.limit_s(),
            " s",
            found.then(|| figures.longest_s()),
        ),
    ]
}

const WATCHES: [Watch; 2] = [
    Watch {
        name: "call",
        title: "calls with 2 s of audio",
        boxes: 100,
        interval_s: 10,
        timeout_s: 5,
        check: "check = \"call\"\nfrom = \"sip:bonnie@example.com\"\nto = \"sip:clyde@HOST:PORT\"\nexpect_audio = true\n",
        percent: 5.0,
    },
    Watch {
        name: "options",
        title: "OPTIONS",
        boxes: 1_000,
        interval_s: 5,
        timeout_s: 2,
        check: "check = \"options\"\n",
        percent: 3.0,
    },
];

/// Where the unit listens.
const PORT: u16 = 5060;
const FALL: u32 = 3;
const DEATHS: usize = 20;
/// After the first round.
const SETTLED: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(60);
/// How exactly the time of a detection is known.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::requirement::Verdict;

    fn watch() -> Watch {
        let [_, options] = WATCHES;
        options
    }

    fn figures(cores: f64, failed: u64, longest: Option<f64>) -> Figures {
        let heard = Heard { options: 12_000, ..Heard::default() };
        let found_s = vec![Some(7.0), longest];
        Figures { watch: watch(), cores, rss: 1 << 20, heard, failed, not_made: 0, waited: 0, found_s, mistaken: 0 }
    }

    fn verdicts(figures: &Figures) -> [Verdict; 3] {
        requirements(figures).map(|requirement| requirement.verdict(false))
    }

    #[test]
    fn each_limit_is_judged_on_both_sides() {
        use Verdict::{Met, Missed, NotMeasured};
        assert!((watch().limit_s() - 18.5).abs() < 1e-9);
        assert_eq!(verdicts(&figures(0.03, 0, Some(18.4))), [Met, Met, Met]);
        assert_eq!(verdicts(&figures(0.0301, 1, Some(18.6))), [Missed, Missed, Missed]);
        assert_eq!(verdicts(&figures(0.03, 0, None)), [Met, Met, NotMeasured]);
        let [call, _] = WATCHES;
        assert!((call.limit_s() - 38.0).abs() < 1e-9);
    }

    #[test]
    fn what_should_not_happen_is_a_fault() {
        let good = figures(0.01, 0, Some(9.0));
        assert_eq!(good.faults(), Vec::<String>::new());
        let few = Heard { options: 10_799, ..Heard::default() };
        let bad = Figures { heard: few, not_made: 1, mistaken: 2, found_s: vec![None, Some(1.0)], ..good };
        let faults = outcome(&[bad]).faults;
        assert_eq!(
            faults,
            [
                "OPTIONS: 10799 checks came, and not about 12000",
                "OPTIONS: 1 checks could not be made",
                "OPTIONS: 2 boxes were taken for dead and were not",
                "OPTIONS: 1 of 2 dead boxes were not found",
            ]
        );
    }

    #[test]
    fn tables_tell_of_the_boxes_that_were_found() {
        let outcome = outcome(&[figures(0.0123, 0, Some(9.0))]);
        let text: String = outcome.grids.iter().map(Grid::text).collect();
        assert!(text.contains("1.23") && text.contains("8.00") && text.contains("9.00"), "{text}");
        assert_eq!(outcome.figures["checks"][0]["found_s"][1], 9.0);
    }

    #[test]
    fn our_configurations_are_accepted() {
        for watch in WATCHES {
            let checked = config::load("tandem.toml", &watch.config(Path::new("/nowhere")));
            match checked {
                Ok(checked) => {
                    let backends: usize = checked.settings.farms.iter().map(|farm| farm.backends.len()).sum();
                    assert_eq!((backends, checked.guardians.len()), (watch.boxes, 1));
                }
                Err(errors) => {
                    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    panic!("{}: {}", watch.name, text.join("\n"));
                }
            }
        }
    }

    #[test]
    fn boxes_die_all_over_the_list_and_the_interval() {
        let deaths = deaths(&watch());
        let indices: BTreeSet<usize> = deaths.iter().map(|death| death.index).collect();
        assert_eq!((deaths.len(), indices.len(), indices.last()), (DEATHS, DEATHS, Some(&950)));
        assert!(deaths.iter().all(|death| death.at < watch().interval()));
        let early = deaths.iter().filter(|death| death.at < watch().interval() / 2).count();
        assert!((5..=15).contains(&early), "{early} of {DEATHS} in the first half");
    }

    #[test]
    fn the_log_names_those_that_are_down() {
        let log = "listening at udp:127.0.0.1:5060 (farm bench)\n\
                   2026-01-01T00:00:00.000Z warn  BackendDown backend box7 (127.1.0.8:5080) of farm bench is down: no answer\n\
                   2026-01-01T00:00:00.000Z info  BackendUp backend box9 (127.1.0.10:5080) of farm bench is up: x\n";
        assert_eq!(told_down(log).collect::<Vec<&str>>(), ["box7"]);
        let counters = json!([{ "name": "checks", "label": "", "value": 7 }]);
        assert_eq!((counter(&counters, "checks"), counter(&counters, "pings")), (7, 0));
    }
}
