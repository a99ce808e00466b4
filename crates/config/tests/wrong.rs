//! Every file in `tests/wrong` is refused with exactly the text that stands next to it in `NAME.expected`.
//!
//! After a wanted change of a message: `TANDEM_BLESS=1 cargo test -p config`, then read the difference.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn wrong_files_are_refused_with_their_messages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder is part of the crate")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "only {} files", files.len());
    let mut failures = Vec::new();
    for path in &files {
        let shown = refusal(path);
        let expected_path = path.with_extension("expected");
        if std::env::var_os("TANDEM_BLESS").is_some() {
            fs::write(&expected_path, &shown).expect("the folder can be written");
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if shown != expected {
            failures.push(format!("--- {}\nexpected:\n{expected}\nfound:\n{shown}", path.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// All diagnostics as `check` shows them, with an empty line between two.
fn refusal(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("the file can be read");
    let name = path.file_name().expect("a file has a name").to_string_lossy();
    match config::load(&name, &text) {
        Ok(_) => "accepted\n".to_owned(),
        Err(diagnostics) => {
            let shown: Vec<String> = diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect();
            shown.join("\n")
        }
    }
}
