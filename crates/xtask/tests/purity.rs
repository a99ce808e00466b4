//! The crates that hold the logic reach neither clock nor socket.

#[test]
fn the_pure_crates_are_pure() {
    let findings = xtask::purity::check().expect("the workspace and its metadata can be read");
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}
