//! The generated documents are what the code generates.

#[test]
fn generated_documents_are_current() {
    let stale: Vec<&str> = xtask::sync_docs::stale().iter().map(|(path, _)| *path).collect();
    assert!(stale.is_empty(), "run `cargo xtask sync-docs`: {stale:?}");
}
