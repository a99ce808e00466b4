//! The manual in `docs` is the one that the registry generates.
//!
//! After a change of a setting: `TANDEM_BLESS=1 cargo test -p config` writes it anew.

use std::fs;
use std::path::Path;

#[test]
fn the_manual_is_generated_from_the_registry() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let generated = config::reference();
    if std::env::var_os("TANDEM_BLESS").is_some() {
        fs::write(&path, &generated).expect("the documents can be written");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differing = written.lines().zip(generated.lines()).position(|(one, other)| one != other);
    assert!(
        written == generated,
        "docs/configuration.md is not what the registry generates (line {:?}): run with TANDEM_BLESS=1",
        differing.map(|line| line + 1)
    );
}
