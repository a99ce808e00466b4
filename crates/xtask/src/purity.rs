//! Purity is a test: the crates that hold the logic have no clock, no random source, no socket, no thread and no file, neither
//! in their own code nor through a dependency.

use crate::source::Source;
use crate::{tidy, workspace};
use anyhow::{Context, Result};
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A pure crate and the dependencies that it may name.
struct Pure {
    name: &'static str,
    allowed: &'static [&'static str],
}

const PURE: &[Pure] = &[
    Pure { name: "sip", allowed: &["audio-codec-algorithms", "md-5", "memchr", "sha2", "smallvec"] },
    Pure { name: "ua", allowed: &["memchr", "sip", "smallvec"] },
    Pure {
        name: "engine",
        allowed: &[
            "arc-swap",
            "base64",
            "foldhash",
            "hashbrown",
            "ipnet",
            "memchr",
            "regex",
            "sip",
            "siphasher",
            "slab",
            "smallvec",
        ],
    },
    Pure {
        name: "config",
        allowed: &["engine", "ipnet", "regex", "serde", "serde_json", "smallvec", "strsim", "toml"],
    },
    Pure { name: "sim", allowed: &["engine", "foldhash", "memchr", "sip", "ua"] },
];

/// Crates that reach the world: no pure crate may have one of them below it, however deep.
const WORLDLY: [&str; 26] = [
    "async-io",
    "async-std",
    "chrono",
    "crossbeam-channel",
    "ctrlc",
    "fastrand",
    "futures-executor",
    "getrandom",
    "hyper",
    "io-uring",
    "jiff",
    "libc",
    "mio",
    "nix",
    "num_cpus",
    "polling",
    "quinn-udp",
    "rand",
    "rustix",
    "signal-hook",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "windows-sys",
];

/// The platform whose dependency tree is judged. On others some of these crates read the processor's features through libc.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

/// What the sources of a pure crate may not contain, tests at the end of a file excepted.
const IMPURE: [(&str, &str); 10] = [
    (r"\b(UdpSocket|TcpStream|TcpListener|UnixStream|UnixListener|UnixDatagram)\b", "a socket"),
    (r"\bstd::(\{[^;]*\b)?time::(\{[^}]*)?Instant\b", "a clock"),
    (r"\b(SystemTime|UNIX_EPOCH)\b", "a clock"),
    (r"\bstd::(\{[^;]*\b)?thread\b", "a thread"),
    (r"\bthread::(spawn|sleep|scope|park|Builder)\b", "a thread"),
    (r"\bstd::(\{[^;]*\b)?(fs|env|process|io::std(in|out|err))\b", "the world outside"),
    (r"\b(RandomState|thread_rng|getrandom)\b", "a random source"),
    (r"\basync\s+(fn|move|\{)", "a runtime"),
    (r"\.await\b", "a runtime"),
    (r"\be?print(ln)?!", "a terminal"),
];

/// Everything that makes a pure crate impure, one sentence each.
pub fn check() -> Result<Vec<String>> {
    let graph = Graph::read()?;
    let mut findings = Vec::new();
    for pure in PURE {
        graph.judge(pure, &mut findings);
    }
    for source in tidy::sources(&workspace::files()?)? {
        let is_pure = PURE.iter().any(|pure| source.path.starts_with(&format!("crates/{}/src/", pure.name)));
        if is_pure {
            judge_source(&source, &mut findings);
        }
    }
    Ok(findings)
}

/// Normal dependencies by package name.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn read() -> Result<Self> {
        let metadata = workspace::metadata(&["--offline", "--locked", "--filter-platform", PLATFORM])?;
        Self::from_metadata(&metadata)
    }

    fn from_metadata(metadata: &Value) -> Result<Self> {
        let names: BTreeMap<&str, &str> = array(metadata, "/packages")?
            .iter()
            .filter_map(|package| Some((text(package, "id")?, text(package, "name")?)))
            .collect();
        let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in array(metadata, "/resolve/nodes")? {
            let id = text(node, "id").context("a node without an id")?;
            let name = names.get(id).copied().context("a node without a package")?;
            let below = graph.entry(name.to_string()).or_default();
            for dependency in array(node, "/deps")? {
                // A kind of null is a normal dependency; those of tests and build scripts never ship.
                let is_normal =
                    array(dependency, "/dep_kinds")?.iter().any(|kind| kind.get("kind").is_none_or(Value::is_null));
                let package = text(dependency, "pkg").and_then(|id| names.get(id));
                if let (true, Some(package)) = (is_normal, package) {
                    below.insert((*package).to_string());
                }
            }
        }
        Ok(Self(graph))
    }

    fn judge(&self, pure: &Pure, findings: &mut Vec<String>) {
        let Some(direct) = self.0.get(pure.name) else {
            findings.push(format!("there is no crate `{}`", pure.name));
            return;
        };
        for name in direct {
            if !pure.allowed.contains(&name.as_str()) {
                findings.push(format!("`{}` may not depend on `{name}`", pure.name));
            }
        }
        for name in self.closure(pure.name) {
            if WORLDLY.contains(&name.as_str()) {
                findings.push(format!("`{}` has `{name}` below it, which reaches the world", pure.name));
            }
        }
    }

    /// Everything below `name`.
    fn closure(&self, name: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![name.to_string()];
        while let Some(name) = open.pop() {
            for below in self.0.get(&name).into_iter().flatten() {
                if found.insert(below.clone()) {
                    open.push(below.clone());
                }
            }
        }
        found
    }
}

fn judge_source(source: &Source, findings: &mut Vec<String>) {
    for (pattern, what) in IMPURE {
        let pattern = Regex::new(pattern).expect("the patterns are constant and well formed");
        for found in pattern.find_iter(source.production()) {
            let line = source.line_of(found.start());
            findings.push(format!("{}:{line}: `{}` is {what}", source.path, found.as_str()));
        }
    }
}

fn array<'a>(value: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    value.pointer(pointer).and_then(Value::as_array).with_context(|| format!("cargo metadata has no {pointer}"))
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn impurities(text: &str) -> usize {
        let mut findings = Vec::new();
        judge_source(&Source::new("crates/sip/src/a.rs", text.to_string()), &mut findings);
        findings.len()
    }

    #[test]
    fn impure_code_is_found_and_pure_code_is_not() {
        assert_eq!(impurities("use std::time::Instant;\n"), 1);
        assert_eq!(impurities("use std::time::{Duration, Instant};\n"), 1);
        assert_eq!(impurities("use std::net::{IpAddr, UdpSocket};\n"), 1);
        assert_eq!(impurities("use std::{fmt, thread};\n"), 1);
        assert_eq!(impurities("fn f() { println!(\"x\") }\n"), 1);
        assert_eq!(impurities("use std::time::Duration;\nuse crate::time::Instant;\n"), 0);
        assert_eq!(impurities("use sip::Instant;\n// std::time::Instant is banned\n"), 0);
        assert_eq!(impurities("#[cfg(test)]\nmod tests {\n    use std::thread;\n}\n"), 0);
    }

    #[test]
    fn a_dependency_deep_below_is_found() {
        let node = |id: &str, below: &[&str]| {
            let deps: Vec<Value> = below.iter().map(|id| json!({"pkg": id, "dep_kinds": [{"kind": null}]})).collect();
            json!({"id": id, "deps": deps})
        };
        let metadata = json!({
            "packages": [{"id": "1", "name": "sip"}, {"id": "2", "name": "memchr"}, {"id": "3", "name": "libc"}],
            "resolve": {"nodes": [node("1", &["2"]), node("2", &["3"]), node("3", &[])]},
        });
        let graph = Graph::from_metadata(&metadata).expect("the metadata is complete");
        let mut findings = Vec::new();
        let pure = Pure { name: "sip", allowed: &["memchr"] };
        graph.judge(&pure, &mut findings);
        assert_eq!(findings, ["`sip` has `libc` below it, which reaches the world"]);
        let strict = Pure { name: "sip", allowed: &[] };
        findings.clear();
        graph.judge(&strict, &mut findings);
        assert_eq!(findings.len(), 2);
    }
}
