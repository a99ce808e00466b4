//! `cargo xtask conformance`: the torture messages of RFC 4475 and RFC 5118, found beside the checkout or taken from a published
//! crate, and the tests that send them through the proxy.

use crate::{step, workspace};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Tells the tests where the messages are: `rfc4475/NAME.dat` and `rfc5118/wire/NAME.dat` below it.
pub const CORPUS_VARIABLE: &str = "TANDEM_CORPUS";

/// Messages that RFC 4475 has, and RFC 5118.
const COUNTS: [(&str, usize); 2] = [("rfc4475", 49), ("rfc5118/wire", 12)];

/// The published crate whose `corpus/` holds the messages. Downloaded, never compiled.
const PUBLISHED: &str = r#"[package]
name = "corpus"
version = "0.0.0"
edition = "2024"
publish = false

[lib]
path = "lib.rs"

[dependencies]
sipx-testkit = "=1.0.0-rc.2"

[workspace]
"#;

/// Runs the tests named `conformance_*`. With `published` the messages come from the published crate even where others are at hand.
pub fn run(published: bool) -> Result<u8> {
    let shared = if published { None } else { shared_corpus() };
    let folder = tempfile::tempdir()?;
    let corpus = match shared {
        Some(corpus) => corpus,
        None => {
            download(&folder)?;
            folder.path().join("corpus")
        }
    };
    for (part, least) in COUNTS {
        let found = std::fs::read_dir(corpus.join(part))
            .with_context(|| format!("{} has no {part}", corpus.display()))?
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.path().extension().is_some_and(|ending| ending == "dat"))
            .count();
        ensure!(found >= least, "{part}: {found} messages instead of {least}");
        println!("{part}: {found} messages in {}", corpus.display());
    }
    let status = step::last("conformance", tests().env(CORPUS_VARIABLE, &corpus))?;
    Ok(step::exit_code(status))
}

/// The test data that may lie beside the checkout.
pub fn shared_corpus() -> Option<PathBuf> {
    let corpus = workspace::root().parent()?.join("shared/testdata");
    corpus.join("rfc4475/wsinv.dat").is_file().then_some(corpus)
}

fn tests() -> Command {
    let mut command = workspace::cargo();
    if workspace::has_nextest() {
        command
            .args(["nextest", "run", "--package", "tandem", "--locked"])
            .args(["--no-fail-fast", "--success-output", "immediate"])
            .args(["-E", "test(/conformance_/)"]);
    } else {
        command.args(["test", "--package", "tandem", "--locked", "conformance_", "--", "--nocapture"]);
    }
    command
}

/// Lays the published messages out below `folder` as `corpus/rfc4475` and `corpus/rfc5118/wire`.
fn download(folder: &TempDir) -> Result<()> {
    let manifest = folder.path().join("Cargo.toml");
    std::fs::write(&manifest, PUBLISHED)?;
    std::fs::write(folder.path().join("lib.rs"), "")?;
    println!("==> download of the published messages");
    let path = manifest.to_str().context("the temporary folder has no readable name")?;
    let metadata = workspace::metadata(&["--manifest-path", path])?;
    let published = published_folder(&metadata)?;
    for file in files_below(&published)? {
        let text = file.to_string_lossy();
        let name = file.file_stem().context("a file without a name")?;
        let bytes = std::fs::read(&file)?;
        let (part, bytes) = if text.contains("4475") && has_ending(&file, "dat") {
            ("rfc4475", bytes)
        } else if text.contains("5118") && !has_ending(&file, "md") && !has_ending(&file, "tsv") {
            ("rfc5118/wire", wire_form(&bytes))
        } else {
            continue;
        };
        let into = folder.path().join("corpus").join(part);
        std::fs::create_dir_all(&into)?;
        std::fs::write(into.join(name).with_extension("dat"), bytes)?;
    }
    Ok(())
}

fn published_folder(metadata: &Value) -> Result<PathBuf> {
    let manifest = metadata
        .get("packages")
        .and_then(Value::as_array)
        .and_then(|packages| {
            packages.iter().find(|package| package.get("name").and_then(Value::as_str) == Some("sipx-testkit"))
        })
        .and_then(|package| package.get("manifest_path"))
        .and_then(Value::as_str)
        .context("cargo metadata does not name the downloaded crate")?;
    let folder = Path::new(manifest).with_file_name("corpus");
    ensure!(folder.is_dir(), "the published crate has no corpus folder");
    Ok(folder)
}

/// RFC 5118's archive has bare line feeds, no empty line after two of its messages and wrong lengths for the three with a body:
/// no message as shipped may travel. This makes each one sendable and changes nothing else.
fn wire_form(published: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(published).replace("\r\n", "\n").replace('\n', "\r\n");
    let (head, body) = match text.split_once("\r\n\r\n") {
        Some((head, body)) => (head, body),
        None => (text.trim_end(), ""),
    };
    let mut message = String::new();
    for line in head.split("\r\n") {
        let is_length =
            line.split_once(':').is_some_and(|(name, _)| name.trim().eq_ignore_ascii_case("content-length"));
        if is_length {
            message.push_str(&format!("Content-Length: {}", body.len()));
        } else {
            message.push_str(line);
        }
        message.push_str("\r\n");
    }
    message.push_str("\r\n");
    message.push_str(body);
    message.into_bytes()
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|found| found == ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archives_form_becomes_sendable() {
        let published = b"OPTIONS sip:a SIP/2.0\nContent-Length: 9\n\nv=0\n";
        let wire = wire_form(published);
        assert_eq!(String::from_utf8_lossy(&wire), "OPTIONS sip:a SIP/2.0\r\nContent-Length: 5\r\n\r\nv=0\r\n");
        let unterminated = wire_form(b"OPTIONS sip:a SIP/2.0\nContent-Length: 0\n");
        assert!(unterminated.ends_with(b"Content-Length: 0\r\n\r\n"));
    }

    #[test]
    fn conversion_agrees_with_the_messages_at_hand() {
        let Some(corpus) = shared_corpus() else {
            eprintln!("skipped: no test data beside the checkout");
            return;
        };
        let mut compared = 0;
        for file in files_below(&corpus.join("rfc5118/raw")).expect("the folder can be listed") {
            let name = file.file_name().expect("a file has a name");
            let wire = corpus.join("rfc5118/wire").join(format!("{}.dat", name.to_string_lossy()));
            let expected = std::fs::read(&wire).expect("each raw message has its sendable form");
            let converted = wire_form(&std::fs::read(&file).expect("the file can be read"));
            assert_eq!(converted, expected, "{}", file.display());
            compared += 1;
        }
        assert_eq!(compared, 12);
    }
}
