//! `cargo xtask published`: published results about balancing, measured again in the simulation, with their figures and
//! tables in the documentation.

use crate::document::Section;
use crate::{step, workspace};
use anyhow::{Context, Result, ensure};
use sim::published::cluster::{ALGORITHMS, Cluster, Measured, throughput};
use sim::published::plot::{BarChart, LineChart};
use sim::published::spread::{Outcome, Plan, hash_user, modulo_and_walk};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Per cent of the cluster's capacity.
const LOADS: [u32; 12] = [50, 60, 70, 75, 80, 85, 88, 90, 92, 94, 96, 98];

/// Those of the table in the documentation; the figure has all.
const SHOWN: [u32; 5] = [70, 80, 90, 94, 98];

/// What 19 of 20 calls must be answered within, in milliseconds. After 200 ms a proxy must say 100 (RFC 3261 §17.2.1),
/// so that is the bound whose gain is told first.
const BOUNDS_MS: [u64; 3] = [100, 200, 300];
const MAIN_BOUND_MS: u64 = 200;

const DOCUMENT: &str = "docs/performance.md";
const FIGURES: &str = "docs/figures";
const SECTION: Section = Section("published");

/// Measures with an optimised build, made first if this one is not, and writes what it found; the result is the exit
/// code.
pub fn run() -> Result<u8> {
    // Looked at first: minutes of measuring must not end in a missing file.
    let document = workspace::root().join(DOCUMENT);
    SECTION.check(&document)?;
    if cfg!(debug_assertions) {
        // Millions of messages are a minute with optimisation and many without.
        return step::optimised("published results", &["published"]);
    }
    let cluster = Cluster::default();
    let measured = measure(&cluster);
    let failures: usize = measured.iter().map(|point| point.failures).sum();
    ensure!(failures == 0, "{failures} calls were lost: the boxes were too slow for the timers of SIP");
    let spreads = [6_000, 1_000].map(|users| {
        let plan = Plan { users, ..Plan::default() };
        (users, hash_user(&plan), modulo_and_walk(&plan))
    });
    let strayed: usize = spreads.iter().map(|(_, ours, _)| ours.strayed).sum();
    ensure!(strayed == 0, "{strayed} calls moved although their box was not lost");
    let [(_, ours, theirs), _] = &spreads;
    let tables = format!("{}\n{}", throughput_table(&measured), spread_table(&spreads));
    println!("\n{tables}");
    write("response-time.svg", &response_chart(&measured).svg())?;
    write("spread.svg", &spread_chart(ours, theirs).svg())?;
    SECTION.write(&document, &section(&cluster, &measured, &spreads))?;
    println!("{DOCUMENT}: written");
    Ok(0)
}

fn write(name: &str, svg: &str) -> Result<()> {
    let folder = workspace::root().join(FIGURES);
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {FIGURES}"))?;
    std::fs::write(folder.join(name), svg).with_context(|| format!("cannot write {FIGURES}/{name}"))?;
    println!("{FIGURES}/{name}: written");
    Ok(())
}

/// Every algorithm at every load, in the order of both lists.
fn measure(cluster: &Cluster) -> Vec<Measured> {
    let mut points: Vec<(&'static str, u32)> = Vec::new();
    for algorithm in ALGORITHMS {
        points.extend(LOADS.map(|load| (algorithm, load)));
    }
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Measured)>> = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(algorithm, load)) = points.get(number) else {
                        return;
                    };
                    let start = Instant::now();
                    let measured = cluster.run(algorithm, f64::from(load) / 100.0);
                    println!("    {} ({:.1} s)", line(&measured), start.elapsed().as_secs_f64());
                    found.lock().expect("no thread panics while it holds the list").push((number, measured));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("no thread panics while it holds the list");
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().map(|(_, measured)| measured).collect()
}

fn line(measured: &Measured) -> String {
    format!(
        "{:<12} {:>3.0} % {:>6.1} calls/s: mean {}, p50 {}, p95 {}, p99 {}, {} repeats",
        measured.algorithm,
        measured.load * 100.0,
        measured.offered,
        millis(measured.mean),
        millis(measured.p50),
        millis(measured.p95),
        millis(measured.p99),
        measured.repeats
    )
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1_000.0)
}

/// The points of one algorithm, with rising load.
fn of(measured: &[Measured], algorithm: &str) -> Vec<Measured> {
    measured.iter().filter(|point| point.algorithm == algorithm).cloned().collect()
}

/// By how much more calls `least-work` carries than `algorithm`, in per cent; `None` where one of them is not bounded.
fn gain(measured: &[Measured], algorithm: &str, bound: Duration) -> Option<f64> {
    let work = throughput(&of(measured, "least-work"), bound)?;
    let other = throughput(&of(measured, algorithm), bound)?;
    (!other.is_more).then(|| (work.offered / other.offered - 1.0) * 100.0)
}

fn throughput_table(measured: &[Measured]) -> String {
    let mut text = String::from("| algorithm |");
    for bound in BOUNDS_MS {
        text.push_str(&format!(" p95 ≤ {bound} ms |"));
    }
    text.push_str(&format!(" `least-work` carries at {MAIN_BOUND_MS} ms |\n|---|"));
    text.push_str(&"---:|".repeat(BOUNDS_MS.len() + 1));
    text.push('\n');
    for algorithm in ALGORITHMS {
        text.push_str(&format!("| `{algorithm}` |"));
        for bound in BOUNDS_MS {
            let cell = match throughput(&of(measured, algorithm), Duration::from_millis(bound)) {
                Some(found) => {
                    let more = if found.is_more { "> " } else { "" };
                    format!("{more}{:.0} calls/s ({more}{:.0} %)", found.offered, found.load * 100.0)
                }
                None => format!("< {:.0} %", LOADS.first().copied().map_or(0.0, f64::from)),
            };
            text.push_str(&format!(" {cell} |"));
        }
        let gained = gain(measured, algorithm, Duration::from_millis(MAIN_BOUND_MS));
        let gained = gained.filter(|_| algorithm != "least-work");
        let cell = gained.map(|more| format!("{more:.0} % more")).unwrap_or_default();
        text.push_str(&format!(" {cell} |\n"));
    }
    text
}

fn response_table(measured: &[Measured]) -> String {
    let mut text = String::from("| load | algorithm | mean | p50 | p95 | p99 |\n|---:|---|---:|---:|---:|---:|\n");
    for load in SHOWN {
        let here = |point: &&Measured| (point.load * 100.0).round() == f64::from(load);
        for (number, point) in measured.iter().filter(here).enumerate() {
            let load = if number == 0 { format!("{load} %") } else { String::new() };
            let [mean, p50, p95, p99] = [point.mean, point.p50, point.p95, point.p99].map(millis);
            text.push_str(&format!("| {load} | `{}` | {mean} | {p50} | {p95} | {p99} |\n", point.algorithm));
        }
    }
    text
}

/// Users, `hash-user`, modulo-and-walk.
type Spreads = [(usize, Outcome, Outcome); 2];

fn spread_table(spreads: &Spreads) -> String {
    let mut text = String::from(
        "| users | way | calls of each box before | after | moved without need | fullest survivor | most growth |\n\
         |---:|---|---|---|---:|---:|---:|\n",
    );
    for (users, ours, theirs) in spreads {
        for (way, outcome) in [("`hash-user`", ours), ("modulo and walk", theirs)] {
            let (before, after) = (numbers(&outcome.before), numbers(&outcome.after));
            let (share, growth) = (outcome.worst_share(), outcome.worst_growth());
            let strayed = outcome.strayed;
            text.push_str(&format!(
                "| {users} | {way} | {before} | {after} | {strayed} | {share:.2} × mean | {growth:.2} × |\n"
            ));
        }
    }
    text
}

fn numbers(counts: &[usize]) -> String {
    counts.iter().map(ToString::to_string).collect::<Vec<String>>().join(", ")
}

fn section(cluster: &Cluster, measured: &[Measured], spreads: &Spreads) -> String {
    let [(_, ours, theirs), _] = spreads;
    let calls: usize = theirs.after.iter().sum();
    let capacity = cluster.capacity();
    let [invite, bye] = [cluster.invite, cluster.bye].map(|cost| format!("{:.1} ms", cost.as_secs_f64() * 1_000.0));
    let (boxes, measured_calls, holding) = (cluster.boxes, cluster.measured, cluster.holding.as_secs());
    let mut text =
        String::from("This section is written by `cargo xtask published`; everything in it follows from a seed.\n\n");
    text.push_str(&format!(
        "{}\n\n![Response time over offered load](figures/response-time.svg)\n\n{}\n{}\n",
        summary(measured),
        throughput_table(measured),
        response_table(measured)
    ));
    text.push_str(&format!(
        "How to read it: {boxes} boxes, each doing one request after the other, stand behind the engine that is \
         shipped; real INVITEs, BYEs and their answers pass through it on virtual time. An INVITE takes a box \
         {invite} on average and a BYE {bye}; calls cost unequally (log-normal, σ {:.1}), arrive at random and last \
         {holding} s on average (exponential). Load is the part of the {capacity:.0} calls/s that would keep every \
         box busy. The response time runs from the INVITE entering the balancer to its 200 leaving it; each point is \
         {measured_calls} calls, the same for every algorithm. The paper (Jiang, Iyengar, Nahum, Segmuller, Tantawi, \
         Wright: Design, Implementation, and Performance of a Load Balancer for SIP Server Clusters, IEEE/ACM \
         Transactions on Networking 20(4), 2012) measured a cluster of machines and reports up to 24 % more \
         throughput and response times better by up to two orders of magnitude. It differs in what happens beyond \
         capacity: real servers also work on every request repeated to them, so that one overloaded box collapses, \
         while these boxes drop repeats at no cost and no load above 98 % is offered; real servers have several \
         processes and their own irregularities, these have a distribution. What is compared is the order of the \
         algorithms and the size of the gain, not the calls per second.\n\n",
        cluster.inequality
    ));
    text.push_str(&format!(
        "![Calls for each box after one is lost](figures/spread.svg)\n\n{}\nOne of {} boxes is lost, and {calls} \
         calls are made again. With `hash-user` the calls of the lost box spread over all others and no other call \
         moves; the fullest survivor has {} calls. Where a hash modulo the number of boxes walks on to the next \
         living one, the neighbour has {} (published for another balancer: 2,022 of 6,000).\n",
        spread_table(spreads),
        ours.before.len(),
        ours.fullest(),
        theirs.fullest()
    ));
    text
}

/// The two numbers of the paper, as found here.
fn summary(measured: &[Measured]) -> String {
    let work = of(measured, "least-work");
    let mut ratio = (0.0, 0.0, "");
    for point in measured {
        let ours = work.iter().find(|ours| ours.load == point.load).map_or(point.p95, |ours| ours.p95);
        let found = point.p95.as_secs_f64() / ours.as_secs_f64().max(1e-6);
        if found > ratio.0 {
            ratio = (found, point.load, point.algorithm);
        }
    }
    let bound = Duration::from_millis(MAIN_BOUND_MS);
    let gains: Vec<String> = ALGORITHMS
        .iter()
        .filter(|algorithm| **algorithm != "least-work")
        .filter_map(|algorithm| Some(format!("{:.0} % more than `{algorithm}`", gain(measured, algorithm, bound)?)))
        .collect();
    format!(
        "With 19 of 20 calls answered within {MAIN_BOUND_MS} ms, `least-work` carries {}. At equal load its 95th \
         percentile is up to {:.0} times lower (against `{}` at {:.0} % of capacity).",
        gains.join(", "),
        ratio.0,
        ratio.2,
        ratio.1 * 100.0
    )
}

fn response_chart(measured: &[Measured]) -> LineChart {
    let points = |algorithm: &str| -> Vec<(f64, f64)> {
        of(measured, algorithm).iter().map(|point| (point.load * 100.0, point.p95.as_secs_f64() * 1_000.0)).collect()
    };
    let ticks =
        [(10.0, "10 ms"), (30.0, "30 ms"), (100.0, "100 ms"), (300.0, "300 ms"), (1_000.0, "1 s"), (3_000.0, "3 s")];
    LineChart {
        title: "95th percentile of the time from INVITE to 200".to_owned(),
        x_label: "offered load, % of the cluster's capacity".to_owned(),
        y_label: "response time".to_owned(),
        x: (50.0, 100.0),
        y: (10.0, 10_000.0),
        x_ticks: [50, 60, 70, 80, 90, 100].map(|load: u32| (f64::from(load), load.to_string())).to_vec(),
        y_ticks: ticks.into_iter().chain([(10_000.0, "10 s")]).map(|(place, text)| (place, text.to_owned())).collect(),
        lines: ALGORITHMS.map(|algorithm| (algorithm.to_owned(), points(algorithm))).to_vec(),
    }
}

fn spread_chart(ours: &Outcome, theirs: &Outcome) -> BarChart {
    let values = |counts: &[usize]| counts.iter().map(|count| *count as f64).collect::<Vec<f64>>();
    BarChart {
        title: "Calls for each box after one of six is lost".to_owned(),
        x_label: "box".to_owned(),
        y_label: "calls of 6,000".to_owned(),
        top: 2_400.0,
        y_ticks: [0_u32, 400, 800, 1_200, 1_600, 2_000, 2_400]
            .map(|place| (f64::from(place), place.to_string()))
            .to_vec(),
        groups: (1..=ours.after.len()).map(|number| format!("pbx{number}")).collect(),
        series: vec![
            ("modulo and walk".to_owned(), values(&theirs.after)),
            ("before the loss".to_owned(), values(&ours.before)),
            ("hash-user".to_owned(), values(&ours.after)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(algorithm: &'static str, load: f64, p95_ms: u64) -> Measured {
        let p95 = Duration::from_millis(p95_ms);
        Measured { algorithm, load, offered: load * 100.0, mean: p95, p50: p95, p95, p99: p95, failures: 0, repeats: 0 }
    }

    fn measured() -> Vec<Measured> {
        let mut points = Vec::new();
        for (algorithm, last) in ALGORITHMS.into_iter().zip([4_000, 2_000, 1_000, 400]) {
            points.extend([point(algorithm, 0.7, 100), point(algorithm, 0.9, last)]);
        }
        points
    }

    #[test]
    fn gains_are_told_against_each_other_algorithm() {
        let measured = measured();
        let summary = summary(&measured);
        assert!(
            summary.contains("more than `hash-call-id`") && summary.contains("more than `least-calls`"),
            "{summary}"
        );
        assert!(summary.contains("10 times lower (against `hash-call-id` at 90 %"), "{summary}");
        let gained = gain(&measured, "hash-call-id", Duration::from_millis(200)).expect("both are bounded");
        // The hash reaches 200 ms at 73.8 % of the capacity, the least work at 80 %.
        assert!((gained - 8.5).abs() < 0.2, "{gained}");
        assert_eq!(throughput_table(&measured).lines().count(), 2 + ALGORITHMS.len());
        assert_eq!(response_table(&measured).lines().count(), 2 + 2 * ALGORITHMS.len());
    }

    #[test]
    fn figures_show_every_algorithm_and_box() {
        let svg = response_chart(&measured()).svg();
        for algorithm in ALGORITHMS {
            assert!(svg.contains(&format!(">{algorithm}<")));
        }
        let theirs = modulo_and_walk(&Plan::default());
        let svg = spread_chart(&theirs, &theirs).svg();
        assert!(svg.contains(">pbx6<") && svg.contains(">modulo and walk<"));
    }
}
