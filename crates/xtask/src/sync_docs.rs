//! `cargo xtask sync-docs`: writes the documents that are generated from the code. A test compares them, nobody edits them.

use crate::workspace;
use anyhow::{Context, Result};

/// Writes every generated document that is not as the code has it, and says so.
pub fn run() -> Result<()> {
    for (path, text) in stale() {
        std::fs::write(workspace::root().join(path), text).with_context(|| format!("cannot write {path}"))?;
        println!("{path}: written");
    }
    Ok(())
}

/// Path and right text of each generated document that is missing or not as the code has it.
pub fn stale() -> Vec<(&'static str, String)> {
    let generated =
        [("docs/configuration.md", config::reference()), ("docs/configuration.schema.json", config::schema())];
    generated.into_iter().filter(|(path, text)| workspace::read(path).ok().as_ref() != Some(text)).collect()
}
