//! Rules for manifests: dependencies are stated once, each has its line in `docs/dependencies.md`, and crates depend only on
//! crates above them.

use super::Finding;
use crate::workspace;
use anyhow::{Context, Result};
use regex::Regex;
use std::collections::BTreeSet;
use toml::{Table, Value};

const DOCUMENT: &str = "docs/dependencies.md";

/// The crates from the bottom up; each may depend only on those before it.
const LAYERS: [&str; 14] = [
    "sip", "client", "ua", "engine", "cluster", "config", "net", "probe", "host", "control", "load", "sim", "tandem",
    "xtask",
];

/// Crates that meet only in the binary, through plain data.
const STRANGERS: [&str; 5] = ["cluster", "net", "probe", "host", "control"];

pub(super) fn check(files: &[String], findings: &mut Vec<Finding>) -> Result<()> {
    let root = table("Cargo.toml")?;
    let declared = root
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"))
        .and_then(Value::as_table)
        .context("Cargo.toml declares no workspace dependencies")?;
    let mut used = BTreeSet::new();
    for path in files.iter().filter(|path| is_crate_manifest(path)) {
        let manifest = table(path)?;
        for (name, entry) in dependencies(&manifest) {
            used.insert(name.clone());
            let inherits = entry.get("workspace").and_then(Value::as_bool) == Some(true);
            if !inherits {
                add(path, "dependency-version", format!("`{name}` must say `workspace = true`"), findings);
            }
        }
        inheritance(path, &manifest, findings);
        layers(path, &manifest, findings);
    }
    let external: BTreeSet<String> =
        declared.iter().filter(|(_, entry)| entry.get("path").is_none()).map(|(name, _)| name.clone()).collect();
    for name in external.difference(&used) {
        add("Cargo.toml", "dependency-unused", format!("no crate uses `{name}`"), findings);
    }
    documented(&external, &workspace::read(DOCUMENT)?, findings);
    Ok(())
}

/// Every dependency has its line in the document's table, and every line its dependency.
fn documented(external: &BTreeSet<String>, document: &str, findings: &mut Vec<Finding>) {
    let row = Regex::new(r"^\| `([A-Za-z0-9_-]+)` \|").expect("the pattern is constant and well formed");
    let listed: BTreeSet<String> = document
        .lines()
        .skip_while(|line| *line != "## Crates")
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .filter_map(|line| row.captures(line))
        .filter_map(|captures| captures.get(1).map(|name| name.as_str().to_string()))
        .collect();
    for name in external.difference(&listed) {
        add(DOCUMENT, "dependency-reason", format!("`{name}` has no line under Crates"), findings);
    }
    for name in listed.difference(external) {
        add(DOCUMENT, "dependency-reason", format!("`{name}` is listed, but no dependency"), findings);
    }
}

fn inheritance(path: &str, manifest: &Table, findings: &mut Vec<Finding>) {
    let inherits = |section: &str, key: Option<&str>| {
        let section = manifest.get(section);
        let entry = match key {
            Some(key) => section.and_then(|section| section.get(key)),
            None => section,
        };
        entry.and_then(|entry| entry.get("workspace")).and_then(Value::as_bool) == Some(true)
    };
    if !inherits("lints", None) {
        add(path, "lints", "the workspace's lints must hold: `[lints] workspace = true`".to_string(), findings);
    }
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        if !inherits("package", Some(key)) {
            add(path, "package", format!("`{key}` must be the workspace's"), findings);
        }
    }
}

fn layers(path: &str, manifest: &Table, findings: &mut Vec<Finding>) {
    let Some(own) = path.split('/').nth(1) else {
        return;
    };
    let Some(own_layer) = layer(own) else {
        add(path, "layer", format!("`{own}` has no place among the layers {LAYERS:?}"), findings);
        return;
    };
    let Some(normal) = manifest.get("dependencies").and_then(Value::as_table) else {
        return;
    };
    for name in normal.keys() {
        let Some(their_layer) = layer(name) else {
            continue;
        };
        let strangers = STRANGERS.contains(&own) && STRANGERS.contains(&name.as_str());
        if their_layer >= own_layer || strangers {
            add(path, "layer", format!("`{own}` must not depend on `{name}`"), findings);
        }
    }
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == name)
}

/// All dependencies of a crate: normal, for its tests, for its build script.
fn dependencies(manifest: &Table) -> Vec<(String, Value)> {
    ["dependencies", "dev-dependencies", "build-dependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section).and_then(Value::as_table))
        .flat_map(|section| section.iter().map(|(name, entry)| (name.clone(), entry.clone())))
        .collect()
}

fn is_crate_manifest(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(parts.as_slice(), ["crates", _, "Cargo.toml"])
}

fn table(path: &str) -> Result<Table> {
    toml::from_str::<Table>(&workspace::read(path)?).with_context(|| format!("cannot read {path}"))
}

fn add(path: &str, rule: &'static str, message: String, findings: &mut Vec<Finding>) {
    findings.push(Finding { path: path.to_string(), line: 1, rule, message });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Table {
        toml::from_str::<Table>(text).expect("the test's manifest is well formed")
    }

    #[test]
    fn a_crate_depends_only_on_those_above_it() {
        let mut findings = Vec::new();
        let engine = parse("[dependencies]\nsip.workspace = true\nmemchr.workspace = true\n");
        layers("crates/engine/Cargo.toml", &engine, &mut findings);
        assert!(findings.is_empty(), "{findings:?}");
        let upwards = parse("[dependencies]\nnet.workspace = true\n");
        layers("crates/engine/Cargo.toml", &upwards, &mut findings);
        layers("crates/control/Cargo.toml", &upwards, &mut findings);
        layers("crates/load/Cargo.toml", &upwards, &mut findings);
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn the_document_and_the_manifest_agree_or_not() {
        let external = BTreeSet::from(["memchr".to_string(), "slab".to_string()]);
        let document =
            "# x\n| `no` | not yet |\n## Crates\n| `memchr` | search |\n| `toml` | gone |\n## Tools\n| `slab` | x |\n";
        let mut findings = Vec::new();
        documented(&external, document, &mut findings);
        let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(messages, ["`slab` has no line under Crates", "`toml` is listed, but no dependency"]);
    }

    #[test]
    fn inherited_settings_are_asked_for() {
        let mut findings = Vec::new();
        inheritance("crates/x/Cargo.toml", &parse("[package]\nversion = \"1.0.0\"\n"), &mut findings);
        assert_eq!(findings.len(), 6);
    }
}
