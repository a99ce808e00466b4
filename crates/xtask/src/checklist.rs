//! `cargo xtask checklist`: what a proxy must do, item by item, with the tests that show it. An item without a test is a hole, and
//! a hole fails as a broken test does.

use crate::workspace;
use anyhow::{Context, Result, ensure};
use regex::Regex;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};

/// The items and their numbers; numbers without a line here belong to transports and roles that do not exist yet. A test shows item
/// NN by having `item_NN_` in its name.
pub const ITEMS: &[(u8, &str)] = &[
    (1, "unknown methods and headers pass (RFC 3261 §16.3)"),
    (2, "Max-Forwards: 0 is refused, else less one, absent is 70 (§16.3)"),
    (3, "Proxy-Require: unknown tags get 420 with exactly those; Require is not ours (§16.3)"),
    (4, "an unknown URI scheme gets 416, To never routes (§16.3)"),
    (5, "merged requests are no error for a proxy (§16.3)"),
    (6, "strict-route repair and removal of own Routes, both of a pair (§16.4)"),
    (7, "maddr, port and transport that name us are stripped; no client chooses the next hop (§16.4)"),
    (8, "the target set has no duplicates; an empty one gets 404 or 480 (§16.5)"),
    (9, "headers, their order and the body are forwarded byte for byte (§16.6)"),
    (10, "Record-Route on top with lr, naming the farm (§16.6)"),
    (11, "a next hop without lr gets the strict-route form (§16.6)"),
    (12, "Via on top with a branch of its own; CANCEL and ACK carry the INVITE's (§16.6)"),
    (13, "Content-Length is added where a stream would need it (§16.6)"),
    (14, "Timer C of more than three minutes, restarted by 101-199 (§16.6)"),
    (15, "100 stays here; other 1xx and every 2xx go up at once (§16.7)"),
    (16, "the best answer wins; 503 never goes up as it is; none is 408 (§16.7)"),
    (17, "all challenges of all branches go up together (§16.7)"),
    (18, "To tag and received stay; without a Via left nothing is forwarded (§16.7)"),
    (19, "a transport error is a 503 of that branch: the next target at once (§16.9)"),
    (20, "CANCEL is answered here and goes to branches with a 1xx only (§16.10)"),
    (21, "stateless: same target and branch for each retransmission, no own 1xx (§16.11)"),
    (22, "the transaction machines and their timers (§17, RFC 6026)"),
    (23, "a request too large for a datagram takes a stream, where there is one (§18.1.1)"),
    (24, "an answer whose top Via is not ours is dropped (§18.1.2)"),
    (25, "received is added; answers return to received, maddr and port (§18.2)"),
    (26, "octets after the body are ignored on UDP; lengths are judged (§18.3)"),
    (27, "TCP is listened at beside UDP (§18.4)"),
    (28, "rport is filled; answers leave from the address that was asked (RFC 3581)"),
    (29, "names: NAPTR, SRV, addresses, weights, the next one on failure (RFC 3263)"),
    (30, "non-INVITE: no 1xx but a late 100, never a 408 (RFC 4320)"),
    (31, "2xx keeps the transaction; answers without one are dropped (RFC 6026)"),
    (32, "loops are found and Max-Breadth is kept: no amplification (RFC 5393)"),
    (33, "Path on top where it may be; a Route made of it is followed (RFC 3327)"),
    (34, "flows: tokens in Path, ob, 430 when the flow is gone, keep-alives (RFC 5626)"),
    (35, "connections are shared by alias with mutual TLS only, and by name (RFC 5923)"),
    (36, "SIP over WebSocket: sub-protocol, one message each, Origin (RFC 7118)"),
    (37, "Reason survives CANCEL; the loser of a fork learns why (RFC 3326)"),
    (38, "SUBSCRIBE and NOTIFY are recorded; NOTIFY may come first (RFC 6665)"),
    (40, "sips is TLS on every hop, never made, and refused with its reason (RFC 5630)"),
    (42, "challenges pass in order; their answer meets the nonce's server (RFC 8760)"),
    (43, "IPv6: received without brackets; IPv4-mapped matches IPv4"),
];

/// Whether each test of an item passed, by its name.
type Results = BTreeMap<u8, BTreeMap<String, bool>>;

/// Runs the tests of all items and prints item, test and result; true if every item has a test and every test passed.
pub fn run() -> Result<bool> {
    let results = run_tests()?;
    let (table, complete) = table(&results);
    print!("{table}");
    Ok(complete)
}

fn run_tests() -> Result<Results> {
    let nextest = workspace::has_nextest();
    let mut command = workspace::cargo();
    if nextest {
        command
            .args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
            .args(["--color", "never", "--status-level", "all", "--final-status-level", "none"])
            .args(["-E", "test(/item_[0-9][0-9]_/)"])
            .stderr(Stdio::piped());
    } else {
        command
            .args(["test", "--workspace", "--all-targets", "--locked", "--no-fail-fast", "item_"])
            .stdout(Stdio::piped());
    }
    let mut child = command.spawn().context("cannot start cargo")?;
    let mut results = Results::new();
    for line in BufReader::new(output_of(&mut child)?).lines() {
        let line = line?;
        let outcome = if nextest { nextest_outcome(&line) } else { cargo_outcome(&line) };
        match outcome.and_then(|(name, passed)| Some((item_of(&name)?, name, passed))) {
            Some((item, name, passed)) => {
                // Repeated lines of one test: the worst counts.
                let best = results.entry(item).or_default().entry(name).or_insert(true);
                *best &= passed;
            }
            None => eprintln!("{line}"),
        }
    }
    child.wait()?;
    ensure!(!results.is_empty(), "no test of an item was run");
    Ok(results)
}

fn output_of(child: &mut Child) -> Result<Box<dyn Read>> {
    if let Some(output) = child.stderr.take() {
        return Ok(Box::new(output));
    }
    let output = child.stdout.take().context("the test runner has no output")?;
    Ok(Box::new(output))
}

/// Name and success from a line such as `PASS [   0.005s] (1/9) sim::requests item_01_unknown_method`.
fn nextest_outcome(line: &str) -> Option<(String, bool)> {
    let (status, rest) = line.split_once('[')?;
    let name = rest.split_whitespace().last()?;
    match status.trim() {
        "START" | "SLOW" | "" => None,
        "PASS" | "LEAK" => Some((name.to_string(), true)),
        _ => Some((name.to_string(), false)),
    }
}

/// Name and success from a line such as `test requests::item_01_unknown_method ... ok`.
fn cargo_outcome(line: &str) -> Option<(String, bool)> {
    let (name, status) = line.strip_prefix("test ")?.split_once(" ... ")?;
    (!status.starts_with("ignored")).then(|| (name.trim().to_string(), status == "ok"))
}

fn item_of(name: &str) -> Option<u8> {
    let item = Regex::new(r"\bitem_([0-9]{2})_").expect("the pattern is constant and well formed");
    item.captures(name)?.get(1)?.as_str().parse().ok()
}

/// The printed table, and whether nothing is missing or failed.
fn table(results: &Results) -> (String, bool) {
    let mut out = String::new();
    let mut complete = true;
    let mut tests = 0;
    for (item, title) in ITEMS {
        out.push_str(&format!("{item:>3}  {title}\n"));
        let Some(shown) = results.get(item) else {
            out.push_str("       HOLE: no test\n");
            complete = false;
            continue;
        };
        for (name, passed) in shown {
            let result = if *passed { "ok" } else { "FAILED" };
            out.push_str(&format!("       {result:<7} {name}\n"));
            complete &= passed;
            tests += 1;
        }
    }
    for item in results.keys().filter(|item| ITEMS.iter().all(|(known, _)| known != *item)) {
        out.push_str(&format!("{item:>3}  is no item of the list\n"));
        complete = false;
    }
    let verdict = if complete { "complete" } else { "NOT complete" };
    out.push_str(&format!("{} items, {tests} tests: {verdict}\n", ITEMS.len()));
    (out, complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runners_lines_are_read() {
        let passed = nextest_outcome("        PASS [   0.005s] (1/9) sim::a item_01_x");
        assert_eq!(passed, Some(("item_01_x".to_string(), true)));
        let failed = nextest_outcome("        FAIL [   0.005s] sim::a item_01_x");
        assert_eq!(failed, Some(("item_01_x".to_string(), false)));
        assert_eq!(nextest_outcome("        SLOW [> 60.000s] sim::a item_01_x"), None);
        assert_eq!(nextest_outcome("   Compiling sim v0.1.0"), None);
        let passed = cargo_outcome("test a::item_02_y ... ok");
        assert_eq!(passed, Some(("a::item_02_y".to_string(), true)));
        assert_eq!(cargo_outcome("test a::item_02_y ... ignored"), None);
        assert_eq!(item_of("a::item_02_y"), Some(2));
        assert_eq!(item_of("a::other"), None);
    }

    #[test]
    fn a_hole_and_a_failure_are_not_complete() {
        let mut results = Results::new();
        for (item, _) in ITEMS {
            results.insert(*item, BTreeMap::from([(format!("item_{item:02}_x"), true)]));
        }
        assert!(table(&results).1);
        results.insert(1, BTreeMap::from([("item_01_x".to_string(), false)]));
        let (text, complete) = table(&results);
        assert!(!complete && text.contains("FAILED  item_01_x"));
        results.remove(&1);
        let (text, complete) = table(&results);
        assert!(!complete && text.contains("HOLE"));
    }

    #[test]
    fn items_are_in_order() {
        assert!(ITEMS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(ITEMS.len(), 41);
    }
}
