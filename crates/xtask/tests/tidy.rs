//! The whole workspace is tidy.

#[test]
fn the_workspace_is_tidy() {
    let findings = xtask::tidy::check().expect("the workspace can be read");
    let lines: Vec<String> = findings.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}
