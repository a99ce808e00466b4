//! Memory: idle, at the end of a minute of calls, and for each registered user.

use super::grid::Grid;
use super::loads::{Load, Report};
use super::outcome::Outcome;
use super::requirement::Requirement;
use super::subject::{self, Subject};
use super::{BALANCER_CORE, Bench, Exchange, Part, megabytes, status};
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

/// Resident octets around a minute of calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Calls {
    idle: u64,
    end: u64,
}

/// Resident octets around one registration of each user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Users {
    before: u64,
    /// When the last user was registered: transactions wait for retransmissions for up to 32 s.
    at_the_end: u64,
    /// Without a transaction.
    settled: u64,
    /// As tandem counts them.
    registered: u64,
}

/// Each with a tandem of its own, which knows nothing yet.
pub(super) fn run(bench: &Bench<'_>) -> Result<Outcome> {
    let (calls, called) = calls(bench)?;
    let (users, registered) = users(bench)?;
    let mut faults = Vec::new();
    if called.lost() + registered.lost() > 0 {
        faults.push(format!("tandem lost {} calls and {} registrations", called.lost(), registered.lost()));
    }
    if users.registered != USERS {
        faults.push(format!("{} of {USERS} users are registered", users.registered));
    }
    Ok(Outcome {
        part: Part::Memory,
        grids: vec![grid(calls, users)],
        requirements: requirements(calls, users),
        void: None,
        faults,
        figures: json!({
            "idle_bytes": calls.idle,
            "calls_end_bytes": calls.end,
            "calls": called.json(),
            "users_before_bytes": users.before,
            "users_at_the_end_bytes": users.at_the_end,
            "users_settled_bytes": users.settled,
            "users_registered": users.registered,
            "registrations": registered.json(),
        }),
    })
}

fn calls(bench: &Bench<'_>) -> Result<(Calls, Report)> {
    println!("    {CALLS_PER_SECOND} calls/s for {CALLS_SECONDS} s");
    let running = bench.start(&fresh(bench, "calls"))?;
    let idle = running.rss();
    let report = Load::new(Exchange::Call).at_rate(CALLS_PER_SECOND as f64, CALLS_SECONDS).run(bench, &running)?;
    Ok((Calls { idle, end: report.target.rss_bytes }, report))
}

/// Slowly enough that what transactions leave behind in the allocator is small beside the users.
fn users(bench: &Bench<'_>) -> Result<(Users, Report)> {
    println!("    {USERS} users register, {REGISTRATIONS_PER_SECOND} a second");
    let tandem = fresh(bench, "users");
    let running = bench.start(&tandem)?;
    let before = running.rss();
    let load = Load::new(Exchange::Register)
        .with("--rate", REGISTRATIONS_PER_SECOND)
        .with("--count", USERS)
        .with("--from-users", USERS);
    let report = load.run(bench, &running)?;
    println!("    waiting for transactions to end");
    let start = Instant::now();
    let status = loop {
        let status = status::ask(bench, &tandem)?;
        if status.transactions == 0 {
            break status;
        }
        let waited = start.elapsed();
        ensure!(waited < PATIENCE, "{} transactions are left after {} s", status.transactions, waited.as_secs());
        bench.interrupt.sleep(Duration::from_secs(1))?;
    };
    let settled = running.rss();
    Ok((Users { before, at_the_end: report.target.rss_bytes, settled, registered: status.registrations }, report))
}

/// Tandem with an empty state folder.
fn fresh(bench: &Bench<'_>, name: &str) -> Subject {
    subject::stateful(&bench.own, &bench.folder.join(Part::Memory.name()).join(name), 1, BALANCER_CORE)
}

impl Calls {
    fn kilobytes_per_call_a_second(self) -> f64 {
        grown(self.idle, self.end) / 1_024.0 / CALLS_PER_SECOND as f64
    }
}

impl Users {
    fn bytes_per_user(self) -> f64 {
        grown(self.before, self.settled) / USERS as f64
    }

    fn bytes_per_user_at_the_end(self) -> f64 {
        grown(self.before, self.at_the_end) / USERS as f64
    }
}

fn grown(before: u64, after: u64) -> f64 {
    after.saturating_sub(before) as f64
}

fn grid(calls: Calls, users: Users) -> Grid {
    let mut grid = Grid::new("memory of tandem stateful", &["", "RSS MB", "for each"]);
    let mut row = |name: String, bytes: u64, each: String| {
        grid.row([name, format!("{:.1}", megabytes(bytes)), each]);
    };
    row("idle".to_string(), calls.idle, String::new());
    row(
        format!("after {CALLS_SECONDS} s at {CALLS_PER_SECOND} calls/s"),
        calls.end,
        format!("{:.1} KB a call/s", calls.kilobytes_per_call_a_second()),
    );
    row("before the first registration".to_string(), users.before, String::new());
    row(
        format!("{USERS} users, transactions waiting"),
        users.at_the_end,
        format!("{:.0} bytes a user", users.bytes_per_user_at_the_end()),
    );
    row(format!("{USERS} users, no transaction"), users.settled, format!("{:.0} bytes a user", users.bytes_per_user()));
    grid
}

fn requirements(calls: Calls, users: Users) -> Vec<Requirement> {
    vec![
        Requirement::at_most("RSS idle", IDLE_MEGABYTES, " MB", Some(megabytes(calls.idle))),
        Requirement::at_most(
            "RSS after 60 s at 2,000 calls/s − idle, ÷ 2,000",
            CALL_KILOBYTES,
            " KB",
            Some(calls.kilobytes_per_call_a_second()),
        ),
        Requirement::at_most(
            "memory per registered user, 100,000 users",
            USER_BYTES,
            " bytes",
            Some(users.bytes_per_user()),
        ),
    ]
}

const CALLS_PER_SECOND: u64 = 2_000;
const CALLS_SECONDS: u64 = 60;
const USERS: u64 = 100_000;
const REGISTRATIONS_PER_SECOND: u64 = 500;
/// Twice what the longest timer of a transaction takes.
const PATIENCE: Duration = Duration::from_secs(64);
/// Of 2^20 octets.
const IDLE_MEGABYTES: f64 = 16.0;
/// Of 1,024 octets.
const CALL_KILOBYTES: f64 = 16.0;
const USER_BYTES: f64 = 400.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::requirement::Verdict;

    fn verdicts(calls: Calls, users: Users) -> Vec<Verdict> {
        requirements(calls, users).iter().map(|requirement| requirement.verdict(false)).collect()
    }

    #[test]
    fn each_limit_is_judged_on_both_sides() {
        use Verdict::{Met, Missed};
        let idle = 16 << 20;
        let calls = Calls { idle, end: idle + 2_000 * 16 * 1_024 };
        let users = Users { before: 1, at_the_end: 90_000_001, settled: 40_000_001, registered: USERS };
        assert_eq!(verdicts(calls, users), [Met, Met, Met]);
        let calls = Calls { idle: idle + 4_096, end: idle + 4_096 + 2_000 * 16 * 1_024 + 1 };
        let users = Users { settled: 40_000_002, ..users };
        assert_eq!(verdicts(calls, users), [Missed, Missed, Missed]);
    }

    #[test]
    fn both_ways_of_counting_a_user_are_shown() {
        let calls = Calls { idle: 8 << 20, end: 7 << 20 };
        let users = Users { before: 0, at_the_end: 90_000_000, settled: 30_000_000, registered: USERS };
        let text = grid(calls, users).text();
        assert!(text.contains("900 bytes a user") && text.contains("300 bytes a user"), "{text}");
        assert!(text.contains("0.0 KB a call/s"), "memory that shrank is none: {text}");
    }
}
