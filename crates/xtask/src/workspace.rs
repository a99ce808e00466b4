//! Where things are: the root of the workspace, its files, and what cargo knows of it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder that holds the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies in crates/xtask of the workspace").to_path_buf()
}

/// The cargo that runs us, so that a toolchain chosen on the command line holds for every step.
pub fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// All files of the project, relative to the root with `/` between the parts, sorted. Build output, version control and what
/// the fuzzers collect are left out.
pub fn files() -> Result<Vec<String>> {
    let root = root();
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let listed =
            std::fs::read_dir(root.join(&folder)).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in listed {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if !is_skipped(&path) {
                    folders.push(path);
                }
            } else if kind.is_file() {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a file named as [`files`] does.
pub fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(root().join(path)).with_context(|| format!("cannot read {path}"))
}

/// What `cargo metadata` says, with `arguments` added.
pub fn metadata(arguments: &[&str]) -> Result<Value> {
    let output =
        cargo().args(["metadata", "--format-version", "1"]).args(arguments).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

/// The folder that cargo builds into.
pub fn target() -> Result<PathBuf> {
    let metadata = metadata(&["--no-deps", "--offline", "--locked"])?;
    let folder =
        metadata.get("target_directory").and_then(Value::as_str).context("cargo metadata names no target directory")?;
    Ok(PathBuf::from(folder))
}

/// Whether `cargo nextest` can be run.
pub fn has_nextest() -> bool {
    cargo().args(["nextest", "--version"]).output().is_ok_and(|output| output.status.success())
}

fn is_skipped(folder: &Path) -> bool {
    const NAMES: [&str; 3] = ["target", ".git", "node_modules"];
    const PATHS: [&str; 2] = ["fuzz/corpus", "fuzz/artifacts"];
    let name = folder.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| NAMES.contains(&name)) || PATHS.iter().any(|path| folder == Path::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_holds_the_workspace() {
        let manifest = read("Cargo.toml").expect("the workspace has a manifest");
        assert!(manifest.contains("[workspace]"));
    }

    #[test]
    fn files_are_the_projects_own() {
        let files = files().expect("the workspace can be listed");
        assert!(files.iter().any(|path| path == "crates/xtask/src/workspace.rs"));
        assert!(!files.iter().any(|path| path.starts_with("target/")));
        assert!(!files.iter().any(|path| path.starts_with(".git/")));
    }
}
